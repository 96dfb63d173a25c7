//! The controller's program: settings, store, engine, push workers, HTTP server; then it waits for a signal.

mod dev;

use anyhow::{Context, bail};
use clap::Parser;
use cps_peering_config::settings::ControllerSettings;
use cps_peering_controller::{
    access::Access,
    api::{self, Api, Streams},
    charging::Prices,
    engine::{Engine, Options, system_clock},
    model::Limits,
    push, shares,
    store::Store,
    traffic,
};
use dev::Sandbox;
use std::{
    fs,
    io::{self, IsTerminal},
    net::SocketAddr,
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
    /// The settings file. Default: /etc/cps-peering/controller.toml
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Start on a loopback address with a temporary store, two accounts and two regions, and print how to use them as one
    /// line of JSON. Of a settings file that is named, limits and periods are used.
    #[arg(long)]
    dev: bool,
    /// With --dev: where to listen; port 0 means any that is free.
    #[arg(long, requires = "dev", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Print the description of the HTTP interfaces (`OpenAPI`) and exit.
    #[arg(long)]
    openapi: bool,
}

const SETTINGS: &str = "/etc/cps-peering/controller.toml";
/// `EX_USAGE` of `sysexits.h`: the settings are wrong, and starting again will not help.
const EXIT_SETTINGS: u8 = 64;
/// How often peerings are looked for that have waited long enough for a host.
const SWEEP: Duration = Duration::from_secs(1);

/// What the program runs with.
struct Setup {
    settings: ControllerSettings,
    operator_token: String,
    /// With `--dev`: what is there to begin with.
    sandbox: Option<Sandbox>,
    prices: Prices,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    if arguments.openapi {
        return match api::openapi_document().to_pretty_json() {
            Ok(text) => {
                cps_peering_terminal::show(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let setup = match read(&arguments) {
        Ok(setup) => setup,
        Err(error) => {
            tracing::error!("{error:#}");
            return EXIT_SETTINGS.into();
        }
    };
    match run(&setup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(arguments: &Arguments) -> anyhow::Result<Setup> {
    let settings = arguments.settings.as_deref();
    if arguments.dev {
        let settings = settings.map(read_settings).transpose()?;
        let sandbox = Sandbox::new()?;
        let settings = sandbox.settings(arguments.listen, settings)?;
        let (operator_token, prices) = (sandbox.admin_token().to_owned(), prices(&settings)?);
        return Ok(Setup { settings, operator_token, sandbox: Some(sandbox), prices });
    }
    let settings = read_settings(settings.unwrap_or(Path::new(SETTINGS)))?;
    let operator_token = read_token(&settings.operator_token_file).context("setting `operator_token_file`")?;
    let prices = prices(&settings)?;
    Ok(Setup { settings, operator_token, sandbox: None, prices })
}

fn prices(settings: &ControllerSettings) -> anyhow::Result<Prices> {
    Prices::new(&settings.prices).context("setting `prices`")
}

fn read_settings(path: &Path) -> anyhow::Result<ControllerSettings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))
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

fn options(settings: &ControllerSettings) -> Options {
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    Options {
        grace: Duration::from_secs(settings.provisioning_grace_s),
        limits: Limits {
            max_bandwidth: settings.max_bandwidth_mbit,
            peerings_per_region: settings.peerings_per_region,
            pending_ms: ms(settings.request_expires_s),
            ended_ms: ms(settings.ended_kept_s),
            arrear_ms: ms(settings.arrear_kept_s),
            ..Limits::default()
        },
        audit_kept: Duration::from_secs(settings.audit_kept_s),
        clock: system_clock(),
    }
}

fn run(setup: &Setup) -> anyhow::Result<()> {
    let settings = &setup.settings;
    let store = Store::open(&settings.store)?;
    let (engine, hosts) = Engine::open(store, options(settings))?;
    if let Some(sandbox) = &setup.sandbox {
        sandbox.hide()?;
        sandbox.furnish(&engine)?;
    }
    let api = Api {
        engine: Arc::clone(&engine),
        access: Access::new(Arc::clone(&engine), &setup.operator_token),
        delete_wait: Duration::from_millis(settings.delete_wait_ms),
        prices: Arc::new(setup.prices.clone()),
        currency: settings.currency.as_str().into(),
        streams: Arc::new(Streams::default()),
        secure: false,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (setting `listen`)", settings.listen))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        let client = push::client().context("cannot speak to agents")?;
        let poll = Duration::from_secs(settings.poll_s.max(1));
        tokio::spawn(push::run(Arc::clone(&engine), client.clone(), hosts, poll));
        tokio::spawn(shares::run(Arc::clone(&engine), client.clone()));
        tokio::spawn(traffic::run(Arc::clone(&engine), client));
        let swept = Arc::clone(&engine);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                let engine = Arc::clone(&swept);
                if let Err(error) = tokio::task::spawn_blocking(move || engine.sweep()).await {
                    tracing::error!(%error, "what was due could not be looked after");
                }
            }
        });
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        if let Some(sandbox) = &setup.sandbox {
            cps_peering_terminal::show(&sandbox.description(address).to_string());
        }
        let streams = Arc::clone(&api.streams);
        cps_peering_http::serve(listener, api::router(api), async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            streams.close();
        })
        .await;
        if let Err(error) = engine.traffic().save(engine.store(), &[]) {
            tracing::warn!(%error, "what was counted lately is asked for again");
        }
        tracing::info!("stopped; hosts stay as they are");
        Ok(())
    })
}
