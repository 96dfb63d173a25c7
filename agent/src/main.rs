//! The agent's program: settings, ledger, reconciler, events, HTTP server; then it waits for a signal.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cps_peering_agent::{
    api,
    command::{self, Output},
    kernel::{self, Netlink},
    ledger::Ledger,
    reconcile::{self, Options},
};
use cps_peering_config::settings::AgentSettings;
use std::{
    fs,
    io::{self, IsTerminal},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

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
    /// Run the agent until it is told to stop; the kernel stays as it is then.
    Run,
    /// How the running agent stands. Exits with 1 when the host is not in sync.
    Status(Shown),
    /// What differs right now between the kernel and the last accepted configuration, as a plan. Exits with 1 when
    /// something does.
    Diff(Shown),
    /// Whether this kernel and system are fit for the agent. Exits with 1 when they are not.
    Check(Shown),
    /// Remove everything that is ours from this host. Stop the agent first.
    Cleanup {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
struct Shown {
    /// How to show the result.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// `EX_USAGE` of `sysexits.h`: the settings are wrong, and starting again will not help.
const EXIT_SETTINGS: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let settings = match read_settings(&arguments.settings) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!("{error:#}");
            return EXIT_SETTINGS.into();
        }
    };
    match execute(&arguments.command, &settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Carries a command out. False when it found something wrong.
fn execute(command: &Command, settings: &AgentSettings) -> anyhow::Result<bool> {
    let ledger = Ledger::new(&settings.ledger);
    let options = Options {
        vxlan_port: settings.vxlan_port,
        underlay_mtu: settings.underlay_mtu,
        resync: Duration::from_secs(settings.resync_s.max(1)),
    };
    match command {
        Command::Run => run(settings, ledger, options).map(|()| true),
        Command::Status(shown) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(command::status::run(settings.listen, shown.output))
        }
        Command::Diff(shown) => command::diff::run(&ledger, options, shown.output),
        Command::Check(shown) => command::check::run(settings, shown.output),
        Command::Cleanup { yes } => {
            let _no_agent = claim_namespace()?;
            command::cleanup::run(&ledger, *yes).map(|()| true)
        }
    }
}

fn read_settings(path: &Path) -> anyhow::Result<AgentSettings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))
}

fn run(settings: &AgentSettings, ledger: Ledger, options: Options) -> anyhow::Result<()> {
    let _only_one = claim_namespace()?;
    let accepted = ledger.load()?.map(Arc::new);
    let reconciler = reconcile::start(Netlink::default(), options).context("cannot start the reconciler")?;
    let noticed = reconciler.clone();
    kernel::watch(move |event| noticed.notice(event)).context("cannot listen to the kernel's events")?;
    if let Some(config) = &accepted {
        tracing::info!(host = %config.host, revision = %config.revision, "starting from the ledger");
        reconciler.configure(Arc::clone(config));
    }
    let router = api::router(accepted, ledger, reconciler);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (setting `listen`)", settings.listen))?;
        tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        cps_peering_http::serve(listener, router, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
        tracing::info!("stopped; the kernel stays as it is");
        Ok(())
    })
}

/// Two agents on one host would undo each other's work. Abstract socket names belong to the network namespace, as do
/// the kernel objects, and vanish with the process.
fn claim_namespace() -> anyhow::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name("cps-peering-agent").context("cannot name the agent's lock")?;
    match UnixListener::bind_addr(&name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            anyhow::bail!("another cps-peering-agent runs in this network namespace; stop it first")
        }
        other => other.context("cannot take the agent's lock"),
    }
}
