//! The controller's program: settings, store, engine, push workers, HTTP server; then it waits for a signal.

mod dev;
mod service;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use cps_peering_config::{
    settings::{ControllerSettings, StorePlace, tls_files},
    tls::{CONTROLLER, MONITORING, OPERATOR},
};
use cps_peering_controller::{
    access::{
        Access,
        rate::{Rate, Rates},
        secret,
        vault::{self, Vault, VaultError},
    },
    api::{self, Api, BodyMemory, Streams},
    charging::Prices,
    cluster::{
        candidate::{self, Candidate},
        follower::leader_routes,
    },
    engine::{Engine, Health, Options, Tolerance, TrailLimits, system_clock},
    hosts::{client::AgentClients, crl, push, shares, traffic},
    metrics, model,
    store::{Cluster, Restored, Store, StoreError, check},
};
use cps_peering_http::{
    Limits, Places,
    tls::{self, Clients, Identity},
};
use dev::Sandbox;
use service::Current;
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
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
    /// Tell what of the store can be read, and what is lost, while no controller runs: for when it is damaged. The store stays as
    /// it is.
    CheckStore {
        /// The file, where it is not that of the settings.
        file: Option<PathBuf>,
        /// A copy of the store: which of its records are lost, or other ones?
        #[arg(long)]
        with: Option<PathBuf>,
    },
    /// Copy the store of other settings into the store of these, under a new epoch, while no controller runs: from a file to
    /// etcd, or back. The store that is copied stays as it is, and is not to be used any more.
    MoveStore {
        /// The settings file that names the store to be copied; `--settings` names the new one.
        #[arg(long)]
        from: PathBuf,
        /// Also if there is something in the new store. It is kept: a file beside it, or in the folder for backups.
        #[arg(long)]
        force: bool,
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

/// `EX_DATAERR` of `sysexits.h`: the store is damaged, and starting again will not help.
const EXIT_DAMAGED: u8 = 65;

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
            if is_damage(&error) { EXIT_DAMAGED.into() } else { ExitCode::FAILURE }
        }
    }
}

/// Whether what is stored is not what was written.
fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let by_vault = cause.downcast_ref::<VaultError>().and_then(|error| match error {
            VaultError::Store(error) => Some(error),
            _ => None,
        });
        by_vault.or_else(|| cause.downcast_ref::<StoreError>()).is_some_and(StoreError::is_damage)
    })
}

/// Does what is done without a running controller. Returns what there is to say.
fn execute(command: &Command, settings: Option<&Path>) -> anyhow::Result<String> {
    let settings = read_settings(settings.unwrap_or(Path::new(SETTINGS)))?;
    match command {
        Command::Settings => {
            settings.place()?;
            prices(&settings)?;
            Ok(toml::to_string(&settings)?.trim_end().to_owned())
        }
        Command::Backup { file } => {
            let store = match settings.place()? {
                StorePlace::Embedded(path) => {
                    // Not made where there is none: an empty copy would be worth nothing.
                    fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
                    Store::open(path).map_err(|error| match error {
                        StoreError::InUse(_) => anyhow!("{error} Then use: cps-peering admin backup"),
                        other => other.into(),
                    })?
                }
                StorePlace::Etcd(etcd) => Store::look(&Arc::new(Cluster::new(etcd)?)),
            };
            let revision = store.back_up(file)?;
            let key = settings.store_key()?;
            Ok(format!(
                "{} holds revision {revision}; its access keys are of use with {} alone",
                file.display(),
                key.display()
            ))
        }
        Command::CheckStore { file, with } => {
            let path = match (file, settings.place()) {
                (Some(file), _) => file.as_path(),
                (None, place) => match place? {
                    StorePlace::Embedded(path) => path,
                    StorePlace::Etcd(etcd) => {
                        Store::look(&Arc::new(Cluster::new(etcd)?)).load()?;
                        return Ok("every record in etcd can be read".to_owned());
                    }
                },
            };
            let report = check(path, with.as_deref())?;
            if report.is_whole() {
                return Ok(report.to_string().trim_end().to_owned());
            }
            cps_peering_terminal::show(report.to_string().trim_end());
            bail!("the store is damaged: `cps-peering-controller restore COPY` puts a copy in its place")
        }
        Command::MoveStore { from, force } => {
            let place = settings.place()?;
            let other = read_settings(from)?;
            let from = other.place().with_context(|| format!("settings file {}", from.display()))?;
            if from == place {
                bail!("both settings files name the same store");
            }
            if let StorePlace::Embedded(path) = from {
                fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
            }
            let from = Store::hold_place(from)?;
            Vault::fits(&settings.store_key()?, &from.load()?)?;
            Ok(said(&from.move_to(place, *force)?))
        }
        Command::Restore { file, epoch } => {
            fits(file, &settings)?;
            Ok(said(&match settings.place()? {
                StorePlace::Embedded(path) => Store::restore(file, path, *epoch)?,
                place @ StorePlace::Etcd(_) => Store::hold_place(place)?.restore_into(file, *epoch)?,
            }))
        }
        Command::ForgetKeys => {
            let place = settings.place()?;
            if let StorePlace::Embedded(path) = place {
                fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
            }
            let accounts = vault::forget_all(&Store::hold_place(place)?)?;
            Ok(format!("{accounts} accounts have no access keys any more"))
        }
    }
}

/// What has come into the place of a store.
fn said(restored: &Restored) -> String {
    let Restored { revision, counts: [hosts, vpcs, peerings], replaced } = restored;
    let kept = replaced.as_ref().map_or(String::new(), |it| format!("\nthe store before is kept as {}", it.display()));
    format!("revision {revision} with {hosts} hosts, {vpcs} VPCs and {peerings} peerings is in place{kept}")
}

/// Checks that the access keys in a copy can be used with the store's key, before the copy takes the store's place.
fn fits(copy: &Path, settings: &ControllerSettings) -> anyhow::Result<()> {
    // To open a store writes to it, and the copy is to stay as it is.
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let looked_at = folder.path().join("copy");
    fs::copy(copy, &looked_at).with_context(|| format!("cannot read {}", copy.display()))?;
    let state = Store::open(&looked_at)?.load()?;
    Ok(Vault::fits(&settings.store_key()?, &state)?)
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
    settings.store_key().with_context(|| format!("settings file {}", path.display()))?;
    let operator_token = read_token(&settings.operator_token_file).context("setting `operator_token_file`")?;
    let prices = prices(&settings)?;
    Ok(Setup { settings, operator_token, sandbox: None, prices })
}

fn prices(settings: &ControllerSettings) -> anyhow::Result<Prices> {
    Prices::new(&settings.prices).context("setting `prices`")
}

fn read_settings(path: &Path) -> anyhow::Result<ControllerSettings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    let settings: ControllerSettings =
        toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))?;
    settings.check().with_context(|| format!("settings file {}", path.display()))?;
    Ok(settings)
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
        limits: model::Limits {
            max_bandwidth: settings.max_bandwidth_mbit,
            peerings_per_region: settings.peerings_per_region,
            vpcs_per_region: settings.vpcs_per_region,
            secondary_cidrs_per_region: settings.secondary_cidrs_per_region,
            tags_per_region: settings.tags_per_region,
            client_tokens: settings.client_tokens,
            blocked_accounts: settings.blocked_accounts,
            pending_ms: ms(settings.request_expires_s),
            ended_ms: ms(settings.ended_kept_s),
            arrear_ms: ms(settings.arrear_kept_s),
            ..model::Limits::default()
        },
        audit_kept: Duration::from_secs(settings.audit_kept_s),
        trail: TrailLimits { total: settings.audit_max_mb << 20, each: settings.audit_account_max_mb << 20 },
        store_reserve: settings.store_reserve_mb.saturating_mul(1 << 20),
        clock: system_clock(),
        tolerance: Tolerance {
            leap_ms: ms(settings.clock_leap_s),
            believed_after_ms: ms(settings.clock_believed_after_s),
        },
        overlap_checks_per_day: settings.overlap_checks_per_day,
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
        etcd,
        poll_s,
        bodies_mib,
        connections,
        // Read again, and held to from then on.
        operator_token_file: _,
        delete_wait_ms: _,
        provisioning_grace_s: _,
        max_bandwidth_mbit: _,
        peerings_per_region: _,
        vpcs_per_region: _,
        secondary_cidrs_per_region: _,
        tags_per_region: _,
        client_tokens: _,
        blocked_accounts: _,
        request_expires_s: _,
        ended_kept_s: _,
        arrear_kept_s: _,
        audit_kept_s: _,
        audit_max_mb: _,
        audit_account_max_mb: _,
        store_reserve_mb: _,
        requests_per_s: _,
        requests_burst: _,
        failures_per_min: _,
        failures_burst: _,
        overlap_checks_per_day: _,
        clock_leap_s: _,
        clock_believed_after_s: _,
        currency: _,
        prices: _,
    } = old;
    let differs = [
        ("listen", *listen != new.listen),
        ("metrics_listen", *metrics_listen != new.metrics_listen),
        ("tls", *tls != new.tls),
        ("store", *store != new.store),
        ("store_key_file", *store_key_file != new.store_key_file),
        ("etcd", *etcd != new.etcd),
        ("poll_s", *poll_s != new.poll_s),
        ("bodies_mib", *bodies_mib != new.bodies_mib),
        ("connections", *connections != new.connections),
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(serve(setup, read, identity))?;
    // What still runs must not outlive its time.
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Deposed => match candidate::begin_anew()? {},
    }
}

/// Why the program serves no more.
enum Ended {
    /// It was told to.
    Stopped,
    /// Another controller leads.
    Deposed,
}

async fn serve(
    setup: &Setup,
    read: impl Fn() -> anyhow::Result<Setup>,
    identity: Option<Identity>,
) -> anyhow::Result<Ended> {
    let settings = &setup.settings;
    let streams = Arc::new(Streams::default());
    let server = Server { current: Current::default(), open: Current::default() };
    let key = settings.store_key()?;
    let (store, content, vault, serving) = match settings.place()? {
        StorePlace::Embedded(path) => {
            let (store, content, vault) = vault::open(path, &key)?;
            (store, content, vault, None)
        }
        StorePlace::Etcd(etcd) => {
            let candidate = Candidate::new(etcd, identity.as_ref(), settings.connections.per_certificate)?;
            server.current.set(candidate.routes());
            server.open.set(api::open_routes(Arc::clone(candidate.registry()), || Health::Fine));
            let mut serving = server.start(settings, identity.as_ref(), &streams)?;
            let (store, mut content) = tokio::select! {
                led = candidate.follow() => led?,
                stopped = &mut serving.1 => return Ok(stopped.map(|()| Ended::Stopped)?),
            };
            let vault = vault::of(&store, &mut content.state, &key)?;
            tracing::info!("this controller leads");
            (store, content, vault, Some(serving))
        }
    };
    let (shared, vault) = (serving.is_some(), Arc::new(vault));
    // It may have followed for long.
    let fresh = shared
        .then(&read)
        .and_then(|fresh| fresh.inspect_err(|error| tracing::error!("settings stay as they were: {error:#}")).ok());
    let setup = fresh.as_ref().unwrap_or(setup);
    let (engine, hosts) = Engine::open_with(store, content, options(&setup.settings))?;
    if let Some(sandbox) = &setup.sandbox {
        sandbox.hide()?;
        sandbox.seed(&engine, &vault)?;
    }
    let access = Access::new(Arc::clone(&engine), &setup.operator_token, vault).over_tls(identity.is_some());
    access.tune(rates(&setup.settings));
    let mut registry = metrics::registry(&engine, identity.clone());
    candidate::tell_leading(&mut registry, true);
    let registry = Arc::new(registry);
    let body_memory = BodyMemory::new(usize::try_from(settings.bodies_mib)? << 20);
    // The HTTP interfaces as the settings have them.
    let routes = |setup: &Setup, access: Access| {
        let api = Api {
            engine: access.engine(),
            access,
            delete_wait: Duration::from_millis(setup.settings.delete_wait_ms),
            prices: Arc::new(setup.prices.clone()),
            currency: setup.settings.currency.as_str().into(),
            streams: Arc::clone(&streams),
            body_memory: Arc::clone(&body_memory),
            secure: identity.is_some(),
        };
        let routes = api::router(api, Arc::clone(&registry));
        if shared { leader_routes(&engine, routes) } else { routes }
    };
    server.current.set(routes(setup, access.clone()));
    let own = Arc::clone(&engine);
    server.open.set(api::open_routes(Arc::clone(&registry), move || own.health()));
    let (address, mut serving) = match serving {
        Some(serving) => serving,
        None => server.start(settings, identity.as_ref(), &streams)?,
    };
    let poll = Duration::from_secs(settings.poll_s.max(1));
    let clients = AgentClients::new(identity.clone(), poll);
    if let Some(identity) = identity.clone() {
        tokio::spawn(crl::run(Arc::clone(&engine), clients.clone(), identity));
    }
    tokio::spawn(shares::run(Arc::clone(&engine), clients.clone()));
    tokio::spawn(traffic::run(Arc::clone(&engine), clients.clone()));
    let pushing = push::run(Arc::clone(&engine), clients, hosts, poll);
    tokio::spawn(async move {
        if let Err(error) = pushing.await {
            tracing::error!(%error, "agents cannot be reached any more");
        }
    });
    let hangup = signal(SignalKind::hangup())?;
    if let Some(sandbox) = &setup.sandbox {
        cps_peering_terminal::show(&sandbox.description(address).to_string());
    }
    let reload = || {
        let new = read()?;
        engine.tune(options(&new.settings));
        access.tune(rates(&new.settings));
        server.current.set(routes(&new, access.clone()));
        // A sandbox makes tokens up each time; those that it has told stay.
        if new.sandbox.is_none() && access.replace_operator_token(&new.operator_token) {
            streams.look_again();
            tracing::info!("the operators' token is another; what was opened with the one before has ended");
        }
        Ok(fixed(settings, &new.settings))
    };
    tokio::select! {
        stopped = &mut serving => stopped?,
        () = candidate::deposed(engine.store()) => return Ok(Ended::Deposed),
        never = service::attend(&engine, hangup, reload) => match never {},
    }
    if let Err(error) = engine.traffic().save(engine.store(), &[]) {
        tracing::warn!(%error, "what was counted lately is asked for again");
    }
    // Another controller need not wait until it is sure that this one is gone.
    engine.store().leave();
    tracing::info!("stopped; hosts stay as they are");
    Ok(Ended::Stopped)
}

/// Listens, with a queue that is long enough for many clients that come at once.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const QUEUE: u32 = 4096;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As the standard library does, so that a restart does not wait for connections of the life before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// What is served at the addresses of the settings, by routes that can be replaced.
struct Server {
    current: Current,
    /// For the address without TLS.
    open: Current,
}

impl Server {
    /// Listens. The task ends some time after a signal has told the program to stop.
    fn start(
        &self,
        settings: &ControllerSettings,
        identity: Option<&Identity>,
        streams: &Arc<Streams>,
    ) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
        let listener = listen(settings.listen)
            .with_context(|| format!("cannot listen on {} (setting `listen`)", settings.listen))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        if let Some(address) = settings.metrics_listen {
            let listener =
                listen(address).with_context(|| format!("cannot listen on {address} (setting `metrics_listen`)"))?;
            let places = Places::new(Limits::new(&settings.connections, &[]));
            tokio::spawn(cps_peering_http::serve(places, listener, None, self.open.router(), std::future::pending()));
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let tls = identity.map(|identity| identity.server(Clients::Optional));
        tokio::spawn(tls::on_hangup(identity.cloned())?);
        let closing = Arc::clone(streams);
        let places = Places::new(Limits::new(&settings.connections, &[CONTROLLER, OPERATOR, MONITORING]));
        let router = tls::refuse_revoked(self.current.router(), identity.cloned());
        let serving = cps_peering_http::serve(places, listener, tls, router, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            cps_peering_service::stopping();
            closing.close();
        });
        Ok((address, tokio::spawn(serving)))
    }
}
