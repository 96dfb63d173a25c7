//! The controller's program: settings, store, engine, push workers, HTTP server; then it waits for a signal.

mod dev;
mod service;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use cps_peering_config::settings::{ControllerSettings, tls_files};
use cps_peering_controller::{
    access::{
        Access,
        rate::{Rate, Rates},
        secret,
        vault::{self, Vault},
    },
    agents::AgentClients,
    api::{self, Api, Streams},
    charging::Prices,
    engine::{Engine, Options, system_clock},
    metrics::Metrics,
    model::Limits,
    push, shares,
    store::{Restored, Store, StoreError},
    traffic,
};
use cps_peering_http::tls::{self, Clients, Identity};
use dev::Sandbox;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

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
    /// Without one, the controller runs.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Check the settings file, and show what holds with it, defaults included.
    Settings,
    /// Copy the store into a new file while no controller runs. While one runs: `cps-peering admin backup`.
    Backup {
        /// The new file.
        file: PathBuf,
    },
    /// Put a copy in the place of the store while no controller runs. The store that was there is kept beside it. The hosts
    /// follow what the copy says as soon as the controller is started.
    Restore {
        /// The copy.
        file: PathBuf,
        /// The epoch from now on; by default one more than that of the copy and of the store that is replaced. Needed where
        /// agents say that they have a newer revision than the controller.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Remove the access keys of all accounts while no controller runs: for when the store's key is lost, with which they are
    /// sealed. Bearer tokens stay. Operators then give new ones: `cps-peering admin account add-key`.
    ForgetKeys,
}

const SETTINGS: &str = "/etc/cps-peering/controller.toml";
/// `EX_USAGE` of `sysexits.h`: the settings are wrong, and starting again will not help.
const EXIT_SETTINGS: u8 = 64;

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
    cps_peering_service::log::start();
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
    if let Some(command) = &arguments.command {
        return match execute(command, arguments.settings.as_deref()) {
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
    match run(&setup, || read(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is done without a running controller. Returns what there is to say.
fn execute(command: &Command, settings: Option<&Path>) -> anyhow::Result<String> {
    let settings = read_settings(settings.unwrap_or(Path::new(SETTINGS)))?;
    match command {
        Command::Settings => {
            prices(&settings)?;
            Ok(toml::to_string(&settings)?.trim_end().to_owned())
        }
        Command::Backup { file } => {
            // Not made where there is none: an empty copy would be worth nothing.
            fs::metadata(&settings.store).with_context(|| format!("no store at {}", settings.store.display()))?;
            let store = Store::open(&settings.store).map_err(|error| match error {
                StoreError::InUse(_) => anyhow!("{error} Then use: cps-peering admin backup"),
                other => other.into(),
            })?;
            let revision = store.back_up(file)?;
            let key = settings.store_key();
            Ok(format!(
                "{} holds revision {revision}; its access keys are of use with {} alone",
                file.display(),
                key.display()
            ))
        }
        Command::Restore { file, epoch } => {
            fits(file, &settings)?;
            let Restored { revision, counts: [hosts, vpcs, peerings], replaced } =
                Store::restore(file, &settings.store, *epoch)?;
            let kept = replaced.map_or(String::new(), |it| format!("\nthe store before is kept as {}", it.display()));
            Ok(format!("revision {revision} with {hosts} hosts, {vpcs} VPCs and {peerings} peerings is in place{kept}"))
        }
        Command::ForgetKeys => {
            fs::metadata(&settings.store).with_context(|| format!("no store at {}", settings.store.display()))?;
            let store = Store::open(&settings.store)?;
            let state = store.load()?;
            let changes = vault::forget_all(&state);
            store.commit(&changes, &[], &[], state.meta().number)?;
            Ok(format!("{} accounts have no access keys any more", changes.len()))
        }
    }
}

/// Checks that the access keys in a copy can be used with the store's key, before the copy takes the store's place.
fn fits(copy: &Path, settings: &ControllerSettings) -> anyhow::Result<()> {
    let folder = settings.store.parent().unwrap_or(Path::new("."));
    // To open a store writes to it, and the copy is to stay as it is.
    let looked_at =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    fs::copy(copy, &looked_at).with_context(|| format!("cannot read {}", copy.display()))?;
    let state = Store::open(looked_at.path())?.load()?;
    Ok(Vault::fits(&settings.store_key(), &state)?)
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
    let path = settings.unwrap_or(Path::new(SETTINGS));
    let settings = read_settings(path)?;
    tls_files(settings.tls.as_ref()).with_context(|| format!("settings file {}", path.display()))?;
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
    let shown = path.display();
    let token = secret::read_private(path)?;
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

fn rates(settings: &ControllerSettings) -> Rates {
    Rates {
        requests: Rate::new(settings.requests_per_s, Duration::from_secs(1), settings.requests_burst),
        failures: Rate::new(settings.failures_per_min, Duration::from_mins(1), settings.failures_burst),
    }
}

/// What differs and cannot change while the controller runs. Every setting is named here, so that none is forgotten.
fn fixed(old: &ControllerSettings, new: &ControllerSettings) -> Vec<&'static str> {
    let ControllerSettings {
        listen,
        metrics_listen,
        tls,
        store,
        store_key_file,
        poll_s,
        // Read again, and held to from then on.
        operator_token_file: _,
        delete_wait_ms: _,
        provisioning_grace_s: _,
        max_bandwidth_mbit: _,
        peerings_per_region: _,
        request_expires_s: _,
        ended_kept_s: _,
        arrear_kept_s: _,
        audit_kept_s: _,
        requests_per_s: _,
        requests_burst: _,
        failures_per_min: _,
        failures_burst: _,
        currency: _,
        prices: _,
    } = old;
    let differs = [
        ("listen", *listen != new.listen),
        ("metrics_listen", *metrics_listen != new.metrics_listen),
        ("tls", *tls != new.tls),
        ("store", *store != new.store),
        ("store_key_file", *store_key_file != new.store_key_file),
        ("poll_s", *poll_s != new.poll_s),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

fn run(setup: &Setup, read: impl Fn() -> anyhow::Result<Setup>) -> anyhow::Result<()> {
    let settings = &setup.settings;
    let files = tls_files(settings.tls.as_ref())?;
    let identity = files.map(Identity::open).transpose().context("setting `tls`")?;
    // A sandbox has nobody to speak with.
    if identity.is_none() && setup.sandbox.is_none() {
        tracing::warn!("TLS is off: what clients and agents are told can be read and changed on the way");
    }
    let (store, vault) = vault::open(&settings.store, &settings.store_key())?;
    let vault = Arc::new(vault);
    let (engine, hosts) = Engine::open(store, options(settings))?;
    if let Some(sandbox) = &setup.sandbox {
        sandbox.hide()?;
        sandbox.furnish(&engine, &vault)?;
    }
    let access = Access::new(Arc::clone(&engine), &setup.operator_token, vault);
    access.tune(rates(settings));
    let registry = Arc::new(Metrics::registry(&engine, identity.clone()));
    let streams = Arc::new(Streams::default());
    // The HTTP interfaces as the settings have them.
    let interfaces = |setup: &Setup, access: Access| Api {
        engine: access.engine(),
        access,
        delete_wait: Duration::from_millis(setup.settings.delete_wait_ms),
        prices: Arc::new(setup.prices.clone()),
        currency: setup.settings.currency.as_str().into(),
        streams: Arc::clone(&streams),
        secure: identity.is_some(),
    };
    let current = service::Current::new(api::router(interfaces(setup, access.clone()), Arc::clone(&registry)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (setting `listen`)", settings.listen))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        if let Some(address) = settings.metrics_listen {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address} (setting `metrics_listen`)"))?;
            let open = api::open_routes(Arc::clone(&registry));
            tokio::spawn(cps_peering_http::serve(listener, None, open, std::future::pending()));
        }
        let poll = Duration::from_secs(settings.poll_s.max(1));
        let clients = AgentClients::new(identity.clone(), poll);
        tokio::spawn(shares::run(Arc::clone(&engine), clients.clone()));
        tokio::spawn(traffic::run(Arc::clone(&engine), clients.clone()));
        let pushing = push::run(Arc::clone(&engine), clients, hosts, poll);
        tokio::spawn(async move {
            if let Err(error) = pushing.await {
                tracing::error!(%error, "agents cannot be reached any more");
            }
        });
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        if let Some(sandbox) = &setup.sandbox {
            cps_peering_terminal::show(&sandbox.description(address).to_string());
        }
        let tls = identity.as_ref().map(|identity| identity.server(Clients::Optional));
        tokio::spawn(tls::on_hangup(identity.clone())?);
        let closing = Arc::clone(&streams);
        let serve = cps_peering_http::serve(listener, tls, current.router(), async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            cps_peering_service::stopping();
            closing.close();
        });
        let reload = || {
            let new = read()?;
            engine.tune(options(&new.settings));
            access.tune(rates(&new.settings));
            current.set(api::router(interfaces(&new, access.clone()), Arc::clone(&registry)));
            // A sandbox makes tokens up each time; those that it has told stay.
            if new.sandbox.is_none() && access.replace_operator_token(&new.operator_token) {
                streams.look_again();
                tracing::info!("the operators' token is another; what was opened with the one before has ended");
            }
            Ok(fixed(settings, &new.settings))
        };
        tokio::select! {
            () = serve => {}
            never = service::attend(&engine, hangup, reload) => match never {},
        }
        if let Err(error) = engine.traffic().save(engine.store(), &[]) {
            tracing::warn!(%error, "what was counted lately is asked for again");
        }
        tracing::info!("stopped; hosts stay as they are");
        Ok(())
    })
}
