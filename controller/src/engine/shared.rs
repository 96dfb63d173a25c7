//! What the writer shares with readers.

use super::{
    Clock, Health, Options,
    host_status::{Agents, Contact, Freshness},
    listeners::Listeners,
    path_health::PathHealths,
    question_interval,
    sync::SyncWatch,
    traces::Traces,
    trail::Trail,
    waiting::Waiting,
    whole,
};
use crate::{
    clock::{Reading, Timekeeper},
    instruments::Metrics,
    model::{Now, record::Host, state::State},
    store::{Space, Store},
};
use cps_peering_config::id::{HostId, PeeringId};
use imbl::{OrdMap, OrdSet};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard},
};
use tokio::sync::watch;

/// The records and what is known from the agents, as others see them: everything in the state is durable. A copy costs
/// next to nothing.
#[derive(Clone, Default)]
pub(super) struct Published {
    pub(super) state: State,
    pub(super) contacts: OrdMap<HostId, Arc<Contact>>,
    /// The hosts whose kernels match their configurations.
    pub(super) in_sync: OrdSet<HostId>,
}

impl Published {
    pub(super) fn agents<'a>(&'a self, freshness: Freshness, paths: &'a PathHealths) -> Agents<'a> {
        Agents { state: &self.state, contacts: &self.contacts, in_sync: &self.in_sync, freshness, paths }
    }

    /// A host's configuration or its agent's report has changed.
    pub(super) fn compare(&mut self, host: &HostId) {
        // The caller checks whether the report is recent enough.
        let freshness = Freshness { boot_ms: 0, max_age_ms: 0 };
        let paths = PathHealths::default();
        if self.state.hosts().get(host).is_some_and(|host| self.agents(freshness, &paths).is_in_sync(host)) {
            self.in_sync.insert(host.clone());
        } else {
            self.in_sync.remove(host);
        }
    }
}

/// What the writer shares with others.
pub(super) struct Shared {
    /// Locked for moments only.
    pub(super) published: RwLock<Published>,
    pub(super) store: Arc<Store>,
    pub(super) options: RwLock<Options>,
    /// Whether the store takes writes.
    pub(super) health: RwLock<Health>,
    pub(super) clock: Clock,
    pub(super) time: Mutex<Timekeeper>,
    /// Counts everything that a waiting caller may want to look at.
    pub(super) ticks: watch::Sender<u64>,
    /// How much space the store has, as last measured; none if unknown.
    pub(super) space: Mutex<Option<Space>>,
    /// The accounting of the audit trail.
    pub(super) trail: Mutex<Trail>,
    pub(super) waiting: Waiting,
    pub(super) listeners: Listeners,
    pub(super) sync: Mutex<SyncWatch>,
    /// Peerings between regions that have changed, or the ports of their VPCs, since the last query.
    pub(super) limits_changed: Mutex<BTreeSet<PeeringId>>,
    /// The hosts that were in sync at the last sweep: reports become too old without any event.
    pub(super) heard_in_sync: Mutex<BTreeSet<HostId>>,
    /// What hosts report about paths.
    pub(super) paths: PathHealths,
    pub(super) metrics: Metrics,
    pub(super) traces: Traces,
}

impl Shared {
    pub(super) fn new(state: State, store: Store, options: Options, time: Timekeeper, sync: SyncWatch) -> Self {
        Self {
            published: RwLock::new(Published { state, ..Published::default() }),
            store: Arc::new(store),
            clock: Arc::clone(&options.clock),
            traces: Traces::new(options.recorder.clone()),
            options: RwLock::new(options),
            health: RwLock::default(),
            time: Mutex::new(time),
            ticks: watch::Sender::new(0),
            space: Mutex::default(),
            trail: Mutex::default(),
            waiting: Waiting::default(),
            listeners: Listeners::default(),
            sync: Mutex::new(sync),
            limits_changed: Mutex::default(),
            heard_in_sync: Mutex::default(),
            paths: PathHealths::default(),
            metrics: Metrics::default(),
        }
    }

    /// A copy of the current state; readers delay nobody.
    pub(super) fn published(&self) -> Published {
        // A panic while it was locked cannot leave a change half made: each is total.
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn published_mut(&self) -> RwLockWriteGuard<'_, Published> {
        self.published.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn options(&self) -> Options {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn health(&self) -> Health {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs it if it has changed.
    pub(super) fn set_health(&self, now: Health) {
        let before = std::mem::replace(&mut *self.health.write().unwrap_or_else(PoisonError::into_inner), now.clone());
        if std::mem::discriminant(&before) == std::mem::discriminant(&now) {
            return;
        }
        match now {
            Health::Fine => tracing::info!("the store takes everything again"),
            Health::Low(why) => tracing::error!("{why}: only deletes, rejects and suspensions are accepted"),
            Health::Failing(why) => {
                tracing::error!("the store takes no writes, and is tried again every second: {why}");
            }
        }
        self.tick();
    }

    pub(super) fn trail(&self) -> MutexGuard<'_, Trail> {
        // It is a figure; a wrong one is counted again at the next start.
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn time(&self) -> MutexGuard<'_, Timekeeper> {
        // A panic cannot leave it half written.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a host, as it is before a command, is known to have everything planned, and its worker is running. `seen` is what
    /// is published: what is being committed has not reached anyone.
    pub(super) fn has_all(&self, seen: &Published, host: &Host) -> bool {
        let agents = seen.agents(self.freshness(seen.state.hosts().len()), &self.paths);
        let as_planned =
            seen.state.hosts().get(&host.id).filter(|published| published.config_number == host.config_number);
        as_planned.is_some_and(|host| agents.in_sync(host)) && !host.paused && !host.in_maintenance()
    }

    pub(super) fn reading(&self) -> Reading {
        (self.clock)()
    }

    /// Decides whether reports are recent enough, given the number of hosts.
    pub(super) fn freshness(&self, hosts: usize) -> Freshness {
        let max_age = {
            let options = self.options.read().unwrap_or_else(PoisonError::into_inner);
            // One poll can be late.
            options.report_max_age.max(2 * question_interval(options.poll, hosts))
        };
        Freshness { boot_ms: self.reading().boot_ms, max_age_ms: whole(max_age.as_millis()) }
    }

    pub(super) fn now(&self) -> Now {
        let reading = self.reading();
        self.time().now(reading)
    }

    pub(super) fn tick(&self) {
        self.ticks.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }
}
