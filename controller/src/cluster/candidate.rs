//! One of several controllers: it follows until it leads, and restarts as a follower when it has lost leadership.

use super::{
    follower::{Follower, follower_routes},
    last_known::{LastKnown, Serve},
    leader_process,
};
use crate::{
    access::vault::Vault,
    metrics,
    model::state::State,
    store::{Cluster, Content, Leader, Replica, Store, StoreError},
};
use anyhow::{Context, bail};
use axum::Router;
use cps_peering_config::{retry::jitter, settings::EtcdSettings, tls::CONTROLLER};
use cps_peering_http::{forward::Forwarder, metrics::Own, share::FairShare, source::Source, tls::Identity};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use std::{
    convert::Infallible,
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking};

/// How often a follower checks who leads.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After how many of these checks it also checks whether anything would keep it from leading.
const CHECKED_EVERY: u32 = 8;
/// How long it waits if etcd does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A controller that does not lead yet.
pub struct Candidate {
    cluster: Arc<Cluster>,
    url: String,
    leader: watch::Sender<Option<String>>,
    registry: Arc<Registry>,
    copied: Gauge,
    forwarder: Forwarder,
    under_way: Arc<FairShare<Source>>,
    store_key: PathBuf,
    obstacle: watch::Sender<Option<String>>,
    could_lead: Gauge,
    last_known: Arc<LastKnown>,
}

/// The result of a check.
enum Turn {
    Leads(Box<(Store, Content)>),
    Follows(Option<Leader>),
}

/// Registers the metrics about leadership. The returned one says whether this controller could lead, and is 1 until an obstacle is found.
pub fn tell_leading(registry: &mut Registry, leads: bool) -> Gauge {
    let gauge = Gauge::<i64, AtomicI64>::default();
    gauge.set(leads.into());
    registry.register("cps_controller_leader", "Whether this controller leads those that share its store", gauge);
    let could_lead = Gauge::default();
    could_lead.set(1);
    let what =
        "Whether this controller leads or could, as far as it knows: it can read all of the store, and has its key";
    registry.register("cps_controller_could_lead", what, could_lead.clone());
    could_lead
}

impl Candidate {
    /// One of several controllers, which does not lead yet. `under_way`: how many requests can be in flight to the leader;
    /// `store_key`: the key that it would lead with; `serve`: how its copy is served while there is no leader.
    pub fn new(
        settings: &EtcdSettings,
        identity: Option<&Identity>,
        under_way: usize,
        store_key: &Path,
        serve: Arc<Serve>,
    ) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Own::new("cps_controller", env!("CARGO_PKG_VERSION"), identity.cloned())));
        metrics::store_certificates(&mut registry, Some(settings));
        let could_lead = tell_leading(&mut registry, false);
        let copied = Gauge::default();
        let what = "The number of the last commit in this follower's copy of the store; 0 while it has none";
        registry.register("cps_controller_copied_commit", what, copied.clone());
        Ok(Self {
            cluster: Arc::new(Cluster::new(settings)?),
            url: settings.advertise.clone(),
            leader: watch::Sender::new(None),
            registry: Arc::new(registry),
            copied,
            forwarder: Forwarder::new(identity, CONTROLLER),
            under_way: FairShare::new(under_way),
            store_key: store_key.to_owned(),
            obstacle: watch::Sender::new(None),
            could_lead,
            last_known: LastKnown::new(serve),
        })
    }

    /// Its metrics while it follows.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The routes that it serves while it follows.
    pub fn routes(&self) -> Router {
        let (forwarder, under_way) = (self.forwarder.clone(), Arc::clone(&self.under_way));
        let (leader, obstacle) = (self.leader.subscribe(), self.obstacle.subscribe());
        let last_known = Arc::clone(&self.last_known);
        let follower = Follower { leader, obstacle, forwarder, under_way, last_known };
        follower_routes(follower, &self.registry)
    }

    /// Follows until it leads. Returns what it leads with.
    pub async fn follow(&self) -> anyhow::Result<(Store, Content)> {
        cps_peering_service::ready("no controller leads yet");
        let copy = Arc::new(Replica::begin(&self.cluster)?);
        self.last_known.follow(Arc::clone(&copy));
        let following = async {
            let mut told = (String::new(), None);
            let (mut gone, mut turns) = (copy.leader_gone(), 0_u32);
            let leads = watch::Sender::new(None);
            let mut crashed = Box::pin(leader_process::of_leader_is_gone(leads.subscribe()));
            // A lease that an earlier process at this address still holds.
            let mut own_before = true;
            loop {
                if turns.is_multiple_of(CHECKED_EVERY) {
                    self.check(&copy).await?;
                }
                turns = turns.wrapping_add(1);
                let (own, url) = (Arc::clone(&copy), self.url.clone());
                let turn = spawn_blocking(move || look(&own, &url)).await.context("looking who leads")?;
                let (standing, pause) = match turn {
                    Ok(Turn::Leads(led)) => return Ok(*led),
                    Ok(Turn::Follows(leader)) => {
                        if let Some(Leader { id, .. }) = leader.as_ref().filter(|it| it.url.as_ref() == Some(&self.url))
                            && own_before
                        {
                            self.depose(id, "an earlier run at this address still holds the lease").await;
                        }
                        own_before = false;
                        let named = leader.as_ref().and_then(|it| Some((it.id.clone(), it.url.clone()?)));
                        leads.send_if_modified(|before| std::mem::replace(before, named.clone()) != named);
                        let leader = leader.and_then(|it| it.url);
                        let standing =
                            leader.as_ref().map_or("no controller leads".to_owned(), |it| format!("follows {it}"));
                        self.leader.send_if_modified(|before| std::mem::replace(before, leader.clone()) != leader);
                        (standing, LOOK_EVERY)
                    }
                    // An error that a retry does not mend.
                    Err(error @ (StoreError::Moved { .. } | StoreError::Moving { .. })) => return Err(error.into()),
                    // Requests are forwarded to the last known leader as long as etcd says nothing else.
                    Err(error) => (format!("the leader is unknown: {error}"), jitter(LOOK_AGAIN)),
                };
                let copied = copy.number();
                if standing != told.0 {
                    tracing::info!("{standing}");
                }
                let now = (standing, copied);
                if now != told {
                    let copy = copied.map_or("no copy yet".to_owned(), |number| format!("copy up to commit {number}"));
                    cps_peering_service::status(&format!("{}, {copy}", now.0));
                    self.copied.set(copied.unwrap_or_default().try_into().unwrap_or(i64::MAX));
                    told = now;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // It need not be awaited.
                    _ = gone.changed() => {}
                    id = &mut crashed => {
                        self.depose(&id, "the leader refuses connections: its process is gone").await;
                        crashed = Box::pin(leader_process::of_leader_is_gone(leads.subscribe()));
                    }
                }
            }
        };
        tokio::select! {
            store = following => store,
            () = cps_peering_service::keep_alive(async || {}) => bail!("signs of life ended"),
        }
    }
}

impl Candidate {
    /// Revokes the lease of a controller whose process is gone, so that nobody waits for its expiry.
    async fn depose(&self, id: &str, why: &str) {
        tracing::warn!("{why}; revoking its lease");
        let (cluster, id) = (Arc::clone(&self.cluster), id.to_owned());
        // Otherwise it expires.
        if let Ok(Err(error)) = spawn_blocking(move || cluster.depose(&id)).await {
            tracing::warn!(%error, "its lease could not be ended");
        }
    }

    /// Reports what would keep this controller from leading, before it has to.
    async fn check(&self, copy: &Arc<Replica>) -> anyhow::Result<()> {
        let (copy, key) = (Arc::clone(copy), self.store_key.clone());
        let check = move |state: &State| Vault::opens(&key, state).err().map(|error| error.to_string());
        let obstacle = spawn_blocking(move || copy.obstacle(check)).await.context("looking what is in the way")?;
        self.could_lead.set(obstacle.is_none().into());
        self.obstacle.send_if_modified(|before| {
            let changed = *before != obstacle;
            match (&obstacle, changed) {
                (Some(why), true) => tracing::error!("this controller could not lead: {why}"),
                (None, true) => tracing::info!("this controller could lead"),
                _ => {}
            }
            *before = obstacle;
            changed
        });
        Ok(())
    }
}

fn look(copy: &Replica, url: &str) -> Result<Turn, StoreError> {
    if let Some(leader) = copy.cluster().leader()? {
        return Ok(Turn::Follows(Some(leader)));
    }
    Ok(match Store::lead_with(copy, url)? {
        Some(led) => Turn::Leads(Box::new(led)),
        None => Turn::Follows(None),
    })
}

/// Restarts as a follower, in the same process id: nothing that was in progress continues.
pub fn begin_anew() -> anyhow::Result<Infallible> {
    tracing::warn!("lost leadership: restarting as a follower");
    let mut arguments = env::args_os();
    let program = arguments.next().map_or_else(env::current_exe, |it| Ok(it.into())).context("own program")?;
    Err(Command::new(program).args(arguments).exec()).context("cannot begin anew")
}
