//! The running controller: built from its settings, served, and shut down.

use crate::{
    service::{self, Current},
    setup::{Setup, fixed, options, rates},
};
use anyhow::Context;
use axum::{Extension, Router};
use cps_peering_config::{
    settings::{ControllerSettings, StorePlace, tls_files},
    tls::{CONTROLLER, MONITORING, OPERATOR},
};
use cps_peering_controller::{
    access::{
        Access,
        vault::{self, Vault},
    },
    api::{self, Api, BodyMemory, Diagnosed, Streams},
    cluster::{
        candidate::{self, Candidate},
        follower::leader_routes,
        last_known::Serve,
    },
    engine::{Engine, Health, NewHosts, Options},
    hosts::{client::AgentClients, crl, path_health, push, renewal, shares, traffic},
    metrics,
    store::{Content, Store},
    webhooks::{self, Webhooks, guard::Guard},
};
use cps_peering_http::{
    Limits, Places,
    tls::{self, Clients, Identity},
};
use cps_peering_otlp::Exporter;
use prometheus_client::registry::Registry;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

/// How long shutdown waits for the collector of traces.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Runs the controller until it is told to stop. If it loses leadership, the program restarts.
pub(crate) fn run(setup: &Setup, read: impl Fn() -> anyhow::Result<Setup>) -> anyhow::Result<()> {
    let settings = &setup.settings;
    let files = tls_files(settings.tls.as_ref())?;
    let identity = files.map(Identity::open).transpose().context("setting `tls`")?;
    // A sandbox has no clients on other machines.
    if identity.is_none() && setup.sandbox.is_none() {
        tracing::warn!("TLS is off: traffic with clients and agents can be read and modified in transit");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(serve(setup, read, identity))?;
    // Tasks that still run are abandoned after a while.
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Deposed => match candidate::begin_anew()? {},
    }
}

/// Why the program stops serving.
enum Ended {
    /// It was told to.
    Stopped,
    /// Another controller leads.
    Deposed,
}

/// The listener of requests, and the task that ends with the program.
type Serving = (SocketAddr, JoinHandle<()>);

async fn serve(
    setup: &Setup,
    read: impl Fn() -> anyhow::Result<Setup>,
    identity: Option<Identity>,
) -> anyhow::Result<Ended> {
    let front = Front::new(&setup.settings, identity);
    front.reserve_for(setup);
    let Some(Opened { store, content, vault, serving }) = open(setup, &front).await? else {
        return Ok(Ended::Stopped);
    };
    let shared = serving.is_some();
    // It may have followed for long.
    let fresh = shared
        .then(&read)
        .and_then(|fresh| fresh.inspect_err(|error| tracing::error!("settings stay as they were: {error:#}")).ok());
    let setup = fresh.as_ref().unwrap_or(setup);
    let (controller, hosts) = Controller::build(setup, (store, content, vault), front, shared)?;
    controller.route(setup);
    controller.front.reserve_for(setup);
    let (address, mut serving) = match serving {
        Some(serving) => serving,
        None => controller.front.listen(&setup.settings)?,
    };
    controller.spawn(&setup.settings, hosts);
    let hangup = signal(SignalKind::hangup())?;
    if let Some(sandbox) = &setup.sandbox {
        cps_peering_terminal::show(&sandbox.description(address).to_string());
    }
    tokio::select! {
        stopped = &mut serving => stopped?,
        () = controller.engine.leadership().lost() => return Ok(Ended::Deposed),
        never = service::attend(&controller.engine, hangup, || controller.reload(&setup.settings, &read)) => match never {},
    }
    controller.end();
    controller.engine.traces().recorder().flush(LAST_SPANS).await;
    Ok(Ended::Stopped)
}

/// A store that only this controller writes.
struct Opened {
    store: Store,
    content: Content,
    vault: Vault,
    /// Whether the store is shared: then this controller has followed and is served already.
    serving: Option<Serving>,
}

/// Opens the store. If it is shared: follows until this controller leads. None if the program was told to stop before.
async fn open(setup: &Setup, front: &Front) -> anyhow::Result<Option<Opened>> {
    let settings = &setup.settings;
    let key = settings.store_key()?;
    let etcd = match settings.place()? {
        StorePlace::Embedded(path) => {
            let (store, content, vault) = vault::open(path, &key)?;
            return Ok(Some(Opened { store, content, vault, serving: None }));
        }
        StorePlace::Etcd(etcd) => etcd,
    };
    let under_way = settings.connections.per_certificate;
    let candidate = Candidate::new(etcd, front.identity.as_ref(), under_way, &key, serve_copies(setup, front)?)?;
    front.current.set(candidate.routes());
    front.open.set(api::open_routes(Arc::clone(candidate.registry()), || Health::Fine));
    let mut serving = front.listen(settings)?;
    let (store, mut content) = tokio::select! {
        led = candidate.follow() => led?,
        stopped = &mut serving.1 => return Ok(stopped.map(|()| None)?),
    };
    let vault = vault::of(&store, &mut content.state, &key)?;
    tracing::info!("this controller leads");
    Ok(Some(Opened { store, content, vault, serving: Some(serving) }))
}

/// The HTTP API of an engine with these settings, with memory of its own for bodies.
fn api(
    setup: &Setup,
    engine: &Arc<Engine>,
    access: &Access,
    identity: Option<&Identity>,
    streams: Arc<Streams>,
    agents: &AgentClients,
) -> Api {
    Api {
        engine: Arc::clone(engine),
        access: access.clone(),
        delete_wait: Duration::from_millis(setup.settings.delete_wait_ms),
        prices: Arc::new(setup.prices.clone()),
        currency: setup.settings.currency.as_str().into(),
        zone: setup.zone.clone(),
        streams,
        webhooks: Arc::default(),
        body_memory: BodyMemory::new(1 << 20),
        diagnosed: Diagnosed {
            identity: identity.cloned(),
            store_certificates: metrics::certificates_for_store(setup.settings.etcd.as_ref()),
            agent_issuer: setup.settings.agent_certificates.as_ref().map(|it| it.issuer.clone()),
            agents: agents.clone(),
        },
        secure: identity.is_some(),
    }
}

/// Serves reads from copies of the store while there is no leader.
fn serve_copies(setup: &Setup, front: &Front) -> anyhow::Result<Arc<Serve>> {
    let (setup, identity, key) = (setup.clone(), front.identity.clone(), setup.settings.store_key()?);
    Ok(Arc::new(move |store, content| {
        let vault = Arc::new(Vault::for_reading(&key, &content.state)?);
        let engine = Engine::frozen(store, content, options(&setup.settings))?;
        let access = Access::new(Arc::clone(&engine), setup.operators.clone(), vault).over_tls(identity.is_some());
        access.tune(rates(&setup.settings));
        let agents = AgentClients::new(identity.clone(), poll(&setup.settings)).of_cluster(engine.cluster());
        let registry = Arc::new(metrics::registry(&engine, identity.clone()));
        let api = api(&setup, &engine, &access, identity.as_ref(), Arc::default(), &agents);
        Ok(api::router(api, registry))
    }))
}

/// The controller that leads.
struct Controller {
    engine: Arc<Engine>,
    access: Access,
    registry: Arc<Registry>,
    body_memory: Arc<BodyMemory>,
    agents: AgentClients,
    vault: Arc<Vault>,
    webhooks: Arc<Webhooks>,
    front: Front,
    /// Whether the store is shared with other controllers.
    shared: bool,
}

impl Controller {
    /// Builds the parts. Returns the new hosts, which need push workers, too.
    fn build(
        setup: &Setup,
        (store, content, vault): (Store, Content, Vault),
        front: Front,
        shared: bool,
    ) -> anyhow::Result<(Self, NewHosts)> {
        let vault = Arc::new(vault);
        let (recorder, exporter) =
            Exporter::new(&setup.settings.tracing, "cps-peering-controller", env!("CARGO_PKG_VERSION"));
        if let Some(exporter) = exporter {
            tokio::spawn(exporter.run());
        }
        let options = Options { recorder, ..options(&setup.settings) };
        let (engine, hosts) = Engine::open_with(store, content, options)?;
        if let Some(sandbox) = &setup.sandbox {
            sandbox.hide()?;
            sandbox.seed(&engine, &vault)?;
        }
        let access = Access::new(Arc::clone(&engine), setup.operators.clone(), Arc::clone(&vault))
            .over_tls(front.identity.is_some());
        access.tune(rates(&setup.settings));
        let mut registry = metrics::registry(&engine, front.identity.clone());
        metrics::connections(&mut registry, &front.places);
        metrics::store_certificates(&mut registry, setup.settings.etcd.as_ref());
        candidate::tell_leading(&mut registry, true);
        let body_memory = BodyMemory::new(usize::try_from(setup.settings.bodies_mib)? << 20);
        let agents = AgentClients::new(front.identity.clone(), poll(&setup.settings)).of_cluster(engine.cluster());
        let webhooks = Arc::new(Webhooks::default());
        webhooks.tune(guard(&setup.settings));
        let registry = Arc::new(registry);
        Ok((Self { engine, access, registry, body_memory, agents, vault, webhooks, front, shared }, hosts))
    }

    /// Serves the HTTP API with these settings.
    fn route(&self, setup: &Setup) {
        self.front.current.set(self.routes(setup));
        let engine = Arc::clone(&self.engine);
        self.front.open.set(api::open_routes(Arc::clone(&self.registry), move || engine.health()));
    }

    fn routes(&self, setup: &Setup) -> Router {
        let streams = Arc::clone(&self.front.streams);
        let api = Api {
            webhooks: Arc::clone(&self.webhooks),
            body_memory: Arc::clone(&self.body_memory),
            ..api(setup, &self.engine, &self.access, self.front.identity.as_ref(), streams, &self.agents)
        };
        let routes = api::router(api, Arc::clone(&self.registry));
        if self.shared { leader_routes(&self.engine, routes) } else { routes }
    }

    /// Starts the tasks that talk to hosts: configurations, revocation lists, certificates, shares of bandwidths, counters,
    /// path health.
    fn spawn(&self, settings: &ControllerSettings, hosts: NewHosts) {
        let poll = poll(settings);
        let identity = &self.front.identity;
        let clients = self.agents.clone();
        if let Some(identity) = identity.clone() {
            tokio::spawn(crl::run(Arc::clone(&self.engine), clients.clone(), identity.clone()));
            if let Some(settings) = settings.agent_certificates.clone() {
                tokio::spawn(renewal::run(Arc::clone(&self.engine), clients.clone(), identity, settings));
            }
        }
        let access = self.access.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_mins(1)).await;
                access.tell_missed();
            }
        });
        tokio::spawn(shares::run(Arc::clone(&self.engine), clients.clone()));
        tokio::spawn(traffic::run(Arc::clone(&self.engine), clients.clone()));
        tokio::spawn(path_health::run(Arc::clone(&self.engine), clients.clone()));
        let sending = webhooks::run(Arc::clone(&self.engine), Arc::clone(&self.vault), Arc::clone(&self.webhooks));
        tokio::spawn(sending);
        let pushing = push::run(Arc::clone(&self.engine), clients, hosts, poll);
        tokio::spawn(async move {
            if let Err(error) = pushing.await {
                tracing::error!(%error, "agents cannot be reached any more");
            }
        });
    }

    /// Applies the current settings. Returns the names of those that need a restart.
    fn reload(
        &self,
        old: &ControllerSettings,
        read: impl Fn() -> anyhow::Result<Setup>,
    ) -> anyhow::Result<Vec<&'static str>> {
        let new = read()?;
        self.engine.tune(options(&new.settings));
        self.access.tune(rates(&new.settings));
        self.webhooks.tune(guard(&new.settings));
        self.front.current.set(self.routes(&new));
        self.front.reserve_for(&new);
        // A sandbox generates tokens each time; those that it has printed stay.
        if new.sandbox.is_none() && self.access.replace_operators(new.operators) {
            self.front.streams.look_again();
            tracing::info!("operators or tokens changed; sessions opened with the old ones were closed");
        }
        Ok(fixed(old, &new.settings))
    }

    /// Stores what the next controller needs.
    fn end(&self) {
        if let Err(error) = self.engine.traffic().save(self.engine.store(), &[], true) {
            tracing::warn!(%error, "recent traffic counters were not saved and will be collected again");
        }
        if let Err(error) = self.webhooks.save(&self.engine) {
            tracing::warn!(%error, "some events will be sent to webhooks again");
        }
        // Another controller need not wait until the lease expires.
        self.engine.store().leave();
        tracing::info!("stopped; hosts stay as they are");
    }
}

/// The listeners of the settings, with routes that can be replaced.
struct Front {
    identity: Option<Identity>,
    /// Connections to the address of the HTTP API.
    places: Arc<Places>,
    current: Current,
    /// For the address without TLS.
    open: Current,
    streams: Arc<Streams>,
}

impl Front {
    fn new(settings: &ControllerSettings, identity: Option<Identity>) -> Self {
        let places = Places::new(Limits::new(&settings.connections, &[CONTROLLER, OPERATOR, MONITORING]));
        Self { identity, places, current: Current::default(), open: Current::default(), streams: Arc::default() }
    }

    /// Named operators have a reserve of connections, and can read the metrics.
    fn reserve_for(&self, setup: &Setup) {
        self.places.reserve_for(setup.operators.certificates().map(str::to_owned));
    }

    /// Listens. The task ends some time after a signal has told the program to stop.
    fn listen(&self, settings: &ControllerSettings) -> anyhow::Result<Serving> {
        let identity = self.identity.as_ref();
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
        let closing = Arc::clone(&self.streams);
        let places = Arc::clone(&self.places);
        // It also decides who can read the metrics.
        let router = self.current.router().layer(Extension(Arc::clone(&places)));
        let router = tls::refuse_revoked(router, identity.cloned());
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

/// The addresses that webhooks can reach.
fn guard(settings: &ControllerSettings) -> Guard {
    Guard::new(settings.webhooks_allowed.clone(), settings.webhooks_refused.clone())
}

/// How often each host is polled.
fn poll(settings: &ControllerSettings) -> Duration {
    Duration::from_secs(settings.poll_s.max(1))
}

/// Listens, with a queue that is long enough for many clients that connect at the same time.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const QUEUE: u32 = 4096;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As the standard library does, so that a restart does not wait for connections of the previous process.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}
