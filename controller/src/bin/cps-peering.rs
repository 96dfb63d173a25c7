//! The command line interface.

use clap::Parser;
use cps_peering_controller::cli::{self, Arguments};
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    cli::main(Arguments::parse()).await
}
