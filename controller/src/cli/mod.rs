//! The command line interface `cps-peering`.

mod client;
mod output;
mod run;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, process::ExitCode};
use thiserror::Error;

/// Manages VPC peerings between bare-metal hosts.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// The base URL of the controller.
    #[arg(long, global = true, env = "CPS_PEERING_CONTROLLER", default_value = "http://127.0.0.1:7400")]
    controller: String,
    /// A file that holds the bearer token.
    #[arg(long, global = true, env = "CPS_PEERING_TOKEN_FILE", default_value = "/etc/cps-peering/operator.token")]
    token_file: PathBuf,
    /// How to show the result.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the inventory to what a file says, all or nothing.
    Apply {
        /// The file: TOML, or JSON where its name ends so.
        #[arg(short, long)]
        file: PathBuf,
        /// Remove what is not in the file.
        #[arg(long)]
        prune: bool,
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the inventory as it is.
    Inventory,
    /// Peerings.
    #[command(subcommand)]
    Peering(Peering),
    /// Hosts.
    #[command(subcommand)]
    Host(Host),
}

#[derive(Subcommand)]
enum Peering {
    /// Peer two VPCs of one account.
    Create {
        /// The peering's name, 1 to 32 characters.
        #[arg(long)]
        name: String,
        /// The initiator's VPC.
        #[arg(long)]
        vpc: String,
        /// The receiver's VPC.
        #[arg(long)]
        peer_vpc: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// List all peerings.
    List,
    /// Show one peering, with what each host has of it.
    Show {
        /// Its id, or its name.
        peering: String,
    },
    /// Delete a peering. Returns when traffic has stopped, or says which hosts have not confirmed it.
    Delete {
        /// Its id, or its name.
        peering: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Args)]
struct Wait {
    /// Wait until every host concerned has confirmed it from its kernel, at most so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
}

#[derive(Subcommand)]
enum Host {
    /// List all hosts, and how their agents stand.
    List,
}

/// Why a command did not do what was asked.
#[derive(Debug, Error)]
enum CliError {
    /// It was refused, or something in it is wrong.
    #[error("{0}")]
    Refused(String),
    /// The controller cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It was done, but the hosts have not confirmed it in time.
    #[error("{0}")]
    Unconfirmed(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Refused(_) => 1,
            // 2 is clap's, for wrong usage.
            CliError::Unreachable(_) => 3,
            CliError::Unconfirmed(_) => 4,
        }
    }
}

/// Runs the command line and returns the exit code: 0 done, 1 refused, 2 wrong usage, 3 no controller, 4 not confirmed in
/// time.
pub async fn main(arguments: Arguments) -> ExitCode {
    match run::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cps_peering_terminal::complain(&format!("cps-peering: {error}"));
            error.exit_code().into()
        }
    }
}
