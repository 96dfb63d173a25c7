//! The controller's program: settings, store, engine, push workers, HTTP server; then it waits for a signal.

use anyhow::{Context, bail};
use clap::Parser;
use cps_peering_config::settings::ControllerSettings;
use cps_peering_controller::{
    api::{self, Api},
    engine::Engine,
    push,
    store::Store,
};
use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::fs::MetadataExt,
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

/// Holds the state of VPC peerings and sends each host what it must have.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The settings file.
    #[arg(long, default_value = "/etc/cps-peering/controller.toml")]
    settings: PathBuf,
}

/// `EX_USAGE` of `sysexits.h`: the settings are wrong, and starting again will not help.
const EXIT_SETTINGS: u8 = 64;
/// How often peerings are looked for that have waited long enough for a host.
const SWEEP: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let (settings, token) = match read(&arguments.settings) {
        Ok(read) => read,
        Err(error) => {
            tracing::error!("{error:#}");
            return EXIT_SETTINGS.into();
        }
    };
    match run(&settings, token) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> anyhow::Result<(ControllerSettings, String)> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    let settings: ControllerSettings =
        toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))?;
    let token = read_token(&settings.operator_token_file).context("setting `operator_token_file`")?;
    Ok((settings, token))
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    const OTHERS: u32 = 0o077;
    let shown = path.display();
    let mode = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.mode();
    if mode & OTHERS != 0 {
        bail!("{shown} can be read by others (mode {:04o}): chmod 600 {shown}", mode & 0o7777);
    }
    let token = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?.trim().to_owned();
    if token.len() < 16 {
        bail!("the token in {shown} is shorter than 16 characters: head -c 24 /dev/urandom | base64 > {shown}");
    }
    Ok(token)
}

fn run(settings: &ControllerSettings, token: String) -> anyhow::Result<()> {
    let store = Store::open(&settings.store)?;
    let (engine, hosts) = Engine::open(store, Duration::from_secs(settings.provisioning_grace_s))?;
    let api = Api {
        engine: Arc::clone(&engine),
        operator_token: token.into(),
        delete_wait: Duration::from_millis(settings.delete_wait_ms),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (setting `listen`)", settings.listen))?;
        tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
        tokio::spawn(push::run(Arc::clone(&engine), hosts, Duration::from_secs(settings.poll_s.max(1))));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                engine.sweep();
            }
        });
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        cps_peering_http::serve(listener, api::router(api), async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
        tracing::info!("stopped; hosts stay as they are");
        Ok(())
    })
}
