//! The agent's program: arguments, settings, logging.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cps_peering_agent::{
    cluster::MembershipFile,
    command::{self, Output},
    daemon,
    kernel::Netlink,
    ledger::Ledger,
    reconcile::Options,
    shares::SharesFile,
};
use cps_peering_config::{
    cluster::ClusterId,
    log_format::LogFormat,
    settings::{AgentSettings, EXIT_SETTINGS, tls_files},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Programs VPC peerings into the Linux kernel of this host.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The settings file.
    #[arg(long, global = true, default_value = "/etc/cps-peering/agent.toml")]
    settings: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent until it is stopped. Stopping it leaves the kernel as it is.
    Run,
    /// Show the status of the running agent. Exit code 1 if the host is not in sync.
    Status(Shown),
    /// Show how the kernel differs from the last accepted configuration, as the operations that would correct it. Exit code
    /// 1 if it does.
    Diff(Shown),
    /// Check whether this kernel and system meet the agent's requirements. Exit code 1 if they do not.
    Check(Shown),
    /// Show which cluster this host belongs to: only that cluster's controllers may configure it.
    Cluster,
    /// Move this host to another cluster, also while the agent runs: from then on it accepts only that cluster's
    /// controllers. The kernel is left unchanged until one of them sends a configuration.
    Join {
        /// The cluster, as `cps-peering admin cluster` shows it.
        cluster: ClusterId,
    },
    /// Check the settings file, and show the effective settings, defaults included.
    Settings,
    /// Remove everything that the agent created from this host's kernel. Stop the agent first.
    Cleanup {
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
struct Shown {
    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Errors in the file are reported when it is read in full.
    let text = fs::read_to_string(&arguments.settings).unwrap_or_default();
    let daemon = matches!(arguments.command, Command::Run);
    cps_peering_service::log::start(if daemon { LogFormat::of(&text) } else { LogFormat::Text });
    let settings = match read_settings(&arguments.settings) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!("{error:#}");
            return EXIT_SETTINGS.into();
        }
    };
    match execute(&arguments, &settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Executes a command. False when it found something wrong.
fn execute(Arguments { settings: file, command }: &Arguments, settings: &AgentSettings) -> anyhow::Result<bool> {
    let ledger = Ledger::new(&settings.ledger);
    let options = Options::from(settings);
    let membership = MembershipFile::beside(&settings.ledger);
    match command {
        Command::Run => daemon::run(Netlink::of_agent(settings), settings, || read_settings(file)).map(|()| true),
        Command::Status(shown) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(command::status::run(settings, shown.output))
        }
        Command::Diff(shown) => {
            command::diff::run(&ledger, &SharesFile::beside(&settings.ledger), options, shown.output)
        }
        Command::Check(shown) => command::check::run(settings, shown.output),
        Command::Cluster => {
            let cluster = membership.load()?.cluster;
            cps_peering_terminal::show(&cluster.map_or("none yet".to_owned(), |cluster| cluster.to_string()));
            Ok(true)
        }
        Command::Join { cluster } => {
            membership.join(*cluster)?;
            cps_peering_terminal::show(&format!(
                "this host takes configurations of cluster {cluster} alone from now on"
            ));
            Ok(true)
        }
        Command::Settings => {
            cps_peering_terminal::show(toml::to_string(settings)?.trim_end());
            Ok(true)
        }
        Command::Cleanup { yes } => {
            let _no_agent = daemon::claim_namespace()?;
            command::cleanup::run(&ledger, *yes)?;
            membership.remove()?;
            Ok(true)
        }
    }
}

fn read_settings(path: &Path) -> anyhow::Result<AgentSettings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    let settings: AgentSettings = toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))?;
    settings.connections.check().with_context(|| format!("settings file {}", path.display()))?;
    settings.tracing.check().with_context(|| format!("settings file {}", path.display()))?;
    tls_files(settings.tls.as_ref()).with_context(|| format!("settings file {}", path.display()))?;
    Ok(settings)
}
