//! The running agent: ledger, reconciler, events and HTTP server put together; then it waits for a signal.

use crate::{
    api,
    kernel::{self, Kernel},
    ledger::Ledger,
    reconcile::{self, Options},
};
use anyhow::Context;
use cps_peering_config::settings::{AgentSettings, tls_files};
use cps_peering_http::tls::{self, Clients, Identity};
use std::{
    io, net,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::Arc,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Runs until SIGTERM or SIGINT. The kernel stays as it is then.
pub fn run(kernel: impl Kernel + 'static, settings: &AgentSettings) -> anyhow::Result<()> {
    let identity = identity(settings)?;
    let _only_one = claim_namespace()?;
    let ledger = Ledger::new(&settings.ledger);
    let accepted = ledger.load()?.map(Arc::new);
    let reconciler = reconcile::start(kernel, Options::from(settings)).context("cannot start the reconciler")?;
    let noticed = reconciler.clone();
    kernel::watch(settings.event_buffer, move |event| noticed.notice(event))
        .context("cannot listen to the kernel's events")?;
    if let Some(config) = &accepted {
        tracing::info!(host = %config.host, revision = %config.revision, "starting from the ledger");
        reconciler.configure(Arc::clone(config));
    }
    let (router, open) = api::routers(accepted, ledger, reconciler, identity.as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = listen(settings.listen, "listen").await?;
        tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
        if let Some(address) = settings.metrics_listen {
            let listener = listen(address, "metrics_listen").await?;
            tokio::spawn(cps_peering_http::serve(listener, None, open, std::future::pending()));
        }
        let tls = identity.as_ref().map(|identity| identity.server(Clients::Required));
        tokio::spawn(tls::on_hangup(identity)?);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        cps_peering_http::serve(listener, tls, router, async move {
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

/// Who this agent is. None where the settings say that there is no TLS.
pub fn identity(settings: &AgentSettings) -> anyhow::Result<Option<Identity>> {
    if let Some(files) = tls_files(settings.tls.as_ref())? {
        return Ok(Some(Identity::open(files).context("setting `tls`")?));
    }
    tracing::warn!("TLS is off: whoever reaches {} may configure this host", settings.listen);
    Ok(None)
}

async fn listen(address: net::SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (setting `{setting}`)"))
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
