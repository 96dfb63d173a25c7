//! The running agent: sets up ledger, reconciler, events and HTTP server, then waits for a signal.

use crate::{
    api,
    command::check,
    intake,
    kernel::{self, Kernel},
    ledger::Ledger,
    neighbours,
    probe::Prober,
    reconcile::{self, Options, PersistentState},
    service,
    shares::SharesFile,
    tls::kept_beside,
    trace::Tracer,
    traffic::{Meter, MeterFile},
};
use anyhow::Context;
use cps_peering_config::{
    agent_api::{DIAGNOSIS_PATH, SNAPSHOT_PATH},
    settings::{AgentSettings, tls_files},
    tls::CONTROLLER,
};
use cps_peering_http::{
    Limits, Places,
    tls::{self, Clients, Identity},
};
use cps_peering_otlp::Exporter;
use socket2::{Domain, Socket, Type};
use std::{
    io, net,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// How long a pending write may take when the agent stops.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// How long to wait for the trace collector when the agent stops.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, and leaves the kernel as it is. On SIGHUP it takes over the settings that `read`
/// returns, as far as they can change at run time.
pub fn run(
    kernel: impl Kernel + 'static,
    settings: &AgentSettings,
    read: impl Fn() -> anyhow::Result<AgentSettings>,
) -> anyhow::Result<()> {
    let identity = identity(settings)?;
    let _only_one = claim_namespace()?;
    let ledger = Ledger::new(&settings.ledger);
    let accepted = ledger.load()?.map(Arc::new).filter(|config| {
        let is_meant = intake::is_meant(identity.as_ref(), &config.host);
        if !is_meant {
            tracing::error!(
                host = %config.host,
                "the ledger is of a host that this agent's certificate is not for: the kernel stays as it is until the controller \
                 sends a configuration"
            );
        }
        is_meant
    });
    let shares = SharesFile::beside(&settings.ledger);
    let kept = kept(settings, &shares)?;
    let underlay = kernel.underlay_view();
    let reconciler =
        reconcile::start_with(kernel, Options::from(settings), kept).context("cannot start the reconciler")?;
    let noticed = reconciler.clone();
    kernel::watch(settings.event_buffer, &reconciler.interest(), move |event| noticed.notice(event))
        .context("cannot listen to the kernel's events")?;
    neighbours::start(reconciler.clone()).context("cannot watch the neighbour tables")?;
    if let Some(config) = &accepted {
        tracing::info!(host = %config.host, revision = %config.revision, "starting from the ledger");
        reconciler.configure(Arc::clone(config));
    }
    let tracer = Tracer::new(reconciler.clone(), settings.vxlan_port, underlay);
    let prober = Prober::new(reconciler.clone(), settings.vxlan_port);
    if settings.probe_interval_s > 0 {
        let every = Duration::from_secs(settings.probe_interval_s);
        prober.measure(every).context("cannot start a thread")?;
    }
    let (recorder, exporter) = Exporter::new(&settings.tracing, "cps-peering-agent", env!("CARGO_PKG_VERSION"));
    let probes = prober.figures().clone();
    let (router, open) =
        api::routers(accepted, ledger, shares, reconciler.clone(), probes, identity.as_ref(), recorder.clone());
    let (own, report) = (settings.clone(), reconciler.report());
    let snapshot = move || check::snapshot(&own, &report.borrow().clone());
    let own = settings.clone();
    let router = router
        .merge(api::exclusive_route(DIAGNOSIS_PATH, move || check::diagnosis(&own), identity.clone()))
        .merge(api::exclusive_route(SNAPSHOT_PATH, snapshot, identity.clone()))
        .merge(api::trace_route(tracer, identity.clone()))
        .merge(api::probe_route(prober, identity.clone()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        if let Some(exporter) = exporter {
            tokio::spawn(exporter.run());
        }
        let listener = listen(settings.listen, "listen")?;
        tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
        if let Some(address) = settings.metrics_listen {
            let listener = listen(address, "metrics_listen")?;
            let places = Places::new(Limits::new(&settings.connections, &[]));
            tokio::spawn(cps_peering_http::serve(places, listener, None, open, std::future::pending()));
        }
        let tls = identity.as_ref().map(|identity| identity.server(Clients::Required));
        tokio::spawn(tls::on_hangup(identity)?);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let places = Places::new(Limits::new(&settings.connections, &[CONTROLLER]));
        let serve = cps_peering_http::serve(places, listener, tls, router, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            cps_peering_service::stopping();
        });
        tokio::select! {
            () = serve => {}
            never = service::attend(&reconciler, settings, hangup, read) => match never {},
        }
        recorder.flush(LAST_SPANS).await;
        tracing::info!("stopped; the kernel stays as it is");
        Ok(())
    });
    // Bounded: a write may hang, and was confirmed to no one.
    runtime.shutdown_timeout(LAST_WRITE);
    ended
}

/// Listens even on an address that the host does not have yet: the agent must not depend on when the network comes up.
fn listen(address: net::SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    listen_free(address).with_context(|| format!("cannot listen on {address} (setting `{setting}`)"))
}

fn listen_free(address: net::SocketAddr) -> io::Result<TcpListener> {
    const QUEUE: i32 = 4096;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    match address {
        net::SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        net::SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    // As the standard library does, so that a restart does not wait for connections of the previous process.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(QUEUE)?;
    TcpListener::from_std(socket.into())
}

/// Loads what was granted and counted before, and starts a thread that stores what is counted from now on.
fn kept(settings: &AgentSettings, shares: &SharesFile) -> anyhow::Result<PersistentState> {
    let file = MeterFile::beside(&settings.ledger);
    let meter = file.load();
    // Only the newest state is worth a write, so no more than that queues up on a disk that hangs.
    let (newest, unsaved) = (Arc::new(Mutex::new(None)), Arc::new(Condvar::new()));
    let (save, wake) = (Arc::clone(&newest), Arc::clone(&unsaved));
    let keep = move || {
        loop {
            // The value is complete at every moment, even if the lock is poisoned.
            let newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = unsaved.wait_while(newest, |newest: &mut Option<Meter>| newest.is_none());
            let Some(meter) = newest.unwrap_or_else(PoisonError::into_inner).take() else { continue };
            if let Err(error) = file.store(&meter) {
                tracing::warn!(%error, "the traffic counters cannot be stored; a reboot would lose them");
            }
        }
    };
    thread::Builder::new().name("counters".into()).spawn(keep).context("cannot start a thread")?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(PersistentState {
        shares: shares.load(),
        meter,
        save: Box::new(move |meter| {
            *save.lock().unwrap_or_else(PoisonError::into_inner) = Some(meter);
            wake.notify_one();
        }),
        boot: boot.trim().to_owned(),
    })
}

/// The agent's identity. None if the settings turn TLS off.
pub fn identity(settings: &AgentSettings) -> anyhow::Result<Option<Identity>> {
    if let Some(files) = tls_files(settings.tls.as_ref())? {
        return Ok(Some(Identity::open_with(files, kept_beside(&settings.ledger)).context("setting `tls`")?));
    }
    tracing::warn!("TLS is off: anyone who can reach {} can configure this host", settings.listen);
    Ok(None)
}

/// Two agents on one host would undo each other's work. Abstract socket names belong to the network namespace, as do
/// the kernel objects, and vanish with the process.
pub fn claim_namespace() -> anyhow::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name("cps-peering-agent").context("cannot name the agent's lock")?;
    match UnixListener::bind_addr(&name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            anyhow::bail!("another cps-peering-agent runs in this network namespace; stop it first")
        }
        other => other.context("cannot take the agent's lock"),
    }
}
