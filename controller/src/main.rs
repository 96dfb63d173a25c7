//! The controller's program and its command line.
//!
//! | module | content |
//! |---|---|
//! | `setup` | the settings file, the files that it names, what can change while the controller runs |
//! | `server` | building the controller, serving, ending |
//! | `service` | what a running controller does besides serving: the service manager, deadlines, reloading settings |
//! | `maintenance` | commands that need no running controller |
//! | `backup` | backups: made, verified, inspected, scheduled |
//! | `release` | commands to the controller that runs on this machine |
//! | `dev` | `--dev` |

mod backup;
mod dev;
mod maintenance;
mod release;
mod server;
mod service;
mod setup;

use clap::Parser;
use cps_peering_config::{log_format::LogFormat, settings::EXIT_SETTINGS};
use cps_peering_controller::{access::vault::VaultError, api, store::StoreError};
use setup::Setup;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Holds the state of VPC peerings and configures the agents on the hosts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The settings file. Default: /etc/cps-peering/controller.toml
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Start on a loopback address with a temporary store, two accounts and two regions, and print how to use them as one
    /// line of JSON. If a settings file is named, its limits and periods apply.
    #[arg(long)]
    dev: bool,
    /// With --dev: where to listen; port 0 means any free port
    #[arg(long, requires = "dev", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Print the description of the HTTP interfaces (`OpenAPI`) and exit.
    #[arg(long)]
    openapi: bool,
    /// Without one, the controller runs.
    #[command(subcommand)]
    command: Option<maintenance::Command>,
}

const SETTINGS: &str = "/etc/cps-peering/controller.toml";

/// `EX_DATAERR` of `sysexits.h`: the store is damaged, and starting again will not help.
const EXIT_DAMAGED: u8 = 65;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = arguments.settings.as_deref().unwrap_or(Path::new(SETTINGS));
    // Errors in the file are reported when it is read in full.
    let text = std::fs::read_to_string(settings).unwrap_or_default();
    cps_peering_service::log::start(if arguments.dev { LogFormat::Text } else { LogFormat::of(&text) });
    if arguments.openapi {
        return shown(serde_json::to_string_pretty(&api::openapi_document()).map_err(Into::into));
    }
    if let Some(command) = &arguments.command {
        return shown(maintenance::execute(command, settings));
    }
    let read = || {
        if arguments.dev {
            Setup::of_sandbox(arguments.settings.as_deref(), arguments.listen)
        } else {
            Setup::read(settings)
        }
    };
    let setup = match read() {
        Ok(setup) => setup,
        Err(error) => {
            tracing::error!("{error:#}");
            return EXIT_SETTINGS.into();
        }
    };
    match server::run(&setup, read) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            if is_lasting(&error) { EXIT_DAMAGED.into() } else { ExitCode::FAILURE }
        }
    }
}

/// Shows the output of a command, or logs why it failed.
fn shown(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(text) => {
            cps_peering_terminal::show(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a restart would fail in the same way.
fn is_lasting(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let by_vault = cause.downcast_ref::<VaultError>().and_then(|error| match error {
            VaultError::Store(error) => Some(error),
            _ => None,
        });
        by_vault.or_else(|| cause.downcast_ref::<StoreError>()).is_some_and(StoreError::is_lasting)
    })
}
