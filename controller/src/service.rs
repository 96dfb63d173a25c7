//! What the running controller does besides serving: deadlines, keep-alives for the service manager, reloading
//! settings.

use axum::{Router, extract::Request};
use cps_peering_controller::engine::{Engine, Health};
use std::{
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{signal::unix::Signal, task::spawn_blocking};
use tower::ServiceExt as _;

/// How often deadlines are checked.
const SWEEP: Duration = Duration::from_secs(1);

/// Routes that can be replaced while they are served. Requests in progress end with those they began with.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<RwLock<Router>>);

impl Current {
    pub(crate) fn set(&self, router: Router) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// Forwards every request to the current routes.
    pub(crate) fn router(&self) -> Router {
        let current = self.clone();
        Router::new().fallback(move |request: Request| {
            let router = current.0.read().unwrap_or_else(PoisonError::into_inner).clone();
            router.oneshot(request)
        })
    }
}

/// Tells the service manager that the controller is ready, and from then on its status and, as long as the engine and its
/// store work, that it is alive. Handles deadlines. With every signal reloads the settings; `reload` returns what
/// needs a restart.
pub(crate) async fn attend(
    engine: &Arc<Engine>,
    hangup: Signal,
    reload: impl Fn() -> anyhow::Result<Vec<&'static str>>,
) -> Infallible {
    cps_peering_service::ready(&standing(engine));
    tokio::join!(sweep(engine), cps_peering_service::keep_alive(|| alive(engine)), reread(engine, hangup, reload));
    unreachable!("none of them completes")
}

async fn sweep(engine: &Arc<Engine>) {
    let mut ticks = tokio::time::interval(SWEEP);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        let engine = Arc::clone(engine);
        let swept = spawn_blocking(move || {
            engine.sweep();
            standing(&engine)
        });
        match swept.await {
            Ok(now) => {
                if now != told {
                    cps_peering_service::status(&now);
                    told = now;
                }
            }
            Err(error) => tracing::error!(%error, "due work could not be processed"),
        }
    }
}

/// Completes when the engine has responded and the store has been read.
async fn alive(engine: &Arc<Engine>) {
    let engine = Arc::clone(engine);
    if let Err(error) = spawn_blocking(move || engine.sweep()).await {
        tracing::error!(%error, "the engine does not process due work");
        std::future::pending::<()>().await;
    }
}

/// The controller's status in one line.
fn standing(engine: &Engine) -> String {
    match engine.health() {
        Health::Failing(why) => return format!("the store takes no writes: {why}"),
        Health::Low(why) => return format!("{why}: only deletes, rejects and suspensions are accepted"),
        Health::Fine => {}
    }
    engine.read(|state, agents| {
        let hosts = state.hosts().values().filter(|host| !host.dead).count();
        let in_sync = agents.count_in_sync();
        let held = if state.meta().held { "held until `cps-peering-controller release`; " } else { "" };
        format!("{held}{in_sync} of {hosts} hosts in sync, {} peerings", state.peerings().len())
    })
}

async fn reread(engine: &Engine, mut hangup: Signal, reload: impl Fn() -> anyhow::Result<Vec<&'static str>>) {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        cps_peering_service::reloading();
        match reload() {
            Ok(fixed) if fixed.is_empty() => tracing::info!("settings read again"),
            Ok(fixed) => {
                let fixed = fixed.join(", ");
                tracing::warn!(settings = fixed, "settings read again; these need a restart, and stay as they were");
            }
            Err(error) => tracing::error!("settings stay as they were: {error:#}"),
        }
        cps_peering_service::ready(&standing(engine));
    }
}
