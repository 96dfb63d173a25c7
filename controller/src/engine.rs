//! The one writer. A command is checked against memory, its changes are committed, then it is answered, then pushed.

use crate::{
    audit::{self, Entry, Query},
    metrics::Metrics,
    model::{
        Actor, Command, Draft, Limits, Outcome, Refusal, Request, decide,
        metering::{Period, open_period},
        record::{Host, Peering, PeeringState},
        state::{Change, State},
    },
    plan::{plan, reach, reach_of_host},
    store::{BackupError, Store, StoreError},
    traffic::Traffic,
};
use cps_peering_config::{
    HostConfig, HostReport, Revision,
    id::{AccountId, HostId},
    report::Scope,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use thiserror::Error;
use tokio::sync::watch;

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The rules refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be stored. Nothing was changed in memory or on hosts.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An earlier command could not be stored, and whether it is on disk is not known.
    #[error("the store failed before, and what it holds is not known: mend it and restart the controller ({0})")]
    StoreFailed(String),
}

/// What a host's push worker must bring about; none when the host is gone.
pub type Target = Option<Arc<HostTarget>>;

/// Where a host's agent is, and what it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTarget {
    /// The base URL of the agent.
    pub agent: String,
    /// What the host must have.
    pub config: Arc<HostConfig>,
}

/// What is known of a host's agent.
#[derive(Debug, Clone, Default)]
pub struct Contact {
    /// The last report.
    pub report: Option<HostReport>,
    /// When it came, in milliseconds since 1970-01-01 UTC.
    pub reported_ms: Option<u64>,
    /// Why the last attempt to reach the agent failed; none when it did not.
    pub error: Option<String>,
}

/// The state, the store and what is known of the agents, behind one lock.
pub struct Engine {
    inner: Mutex<Inner>,
    /// For reading the audit trail without holding up commands.
    store: Arc<Store>,
    traffic: Traffic,
    clock: Clock,
    /// Counts everything that a waiting caller may want to look at.
    ticks: watch::Sender<u64>,
    new_hosts: tokio::sync::mpsc::UnboundedSender<(HostId, watch::Receiver<Target>)>,
    metrics: Metrics,
}

struct Inner {
    state: State,
    store: Arc<Store>,
    options: Options,
    targets: BTreeMap<HostId, watch::Sender<Target>>,
    contacts: BTreeMap<HostId, Contact>,
    /// What was refused or changed nothing; the trail gets it with the next commit, or soon.
    to_audit: Vec<Entry>,
    /// Why the store cannot be trusted any more. After a commit that failed, the disk may have it or not; to go on from
    /// memory could contradict the disk.
    store_failed: Option<String>,
    metrics: Metrics,
}

/// Tells the time in milliseconds since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_millis().try_into().unwrap_or(u64::MAX)
    })
}

/// What the engine is told besides commands.
#[derive(Clone)]
pub struct Options {
    /// How long a host may hold a peering in `provisioning`.
    pub grace: Duration,
    /// Limits and periods of the rules.
    pub limits: Limits,
    /// How long the audit trail is kept.
    pub audit_kept: Duration,
    /// The time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            limits: Limits::default(),
            audit_kept: Duration::from_hours(90 * 24),
            clock: system_clock(),
        }
    }
}

/// The end of an id: 10 of `[a-z0-9]`.
fn random_tail() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..10).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])).collect()
}

/// Streams of hosts that need a push worker.
pub type NewHosts = tokio::sync::mpsc::UnboundedReceiver<(HostId, watch::Receiver<Target>)>;

impl Engine {
    /// Loads the state.
    pub fn open(store: Store, options: Options) -> Result<(Arc<Self>, NewHosts), StoreError> {
        let state = store.load()?;
        let traffic = Traffic::load(&store)?;
        let store = Arc::new(store);
        let clock = Arc::clone(&options.clock);
        let (new_hosts, hosts) = tokio::sync::mpsc::unbounded_channel();
        let metrics = Metrics::default();
        let inner = Inner {
            state,
            store: Arc::clone(&store),
            options,
            targets: BTreeMap::new(),
            contacts: BTreeMap::new(),
            to_audit: Vec::new(),
            store_failed: None,
            metrics: metrics.clone(),
        };
        let ticks = watch::Sender::new(0);
        let engine = Arc::new(Self { inner: Mutex::new(inner), store, traffic, clock, ticks, new_hosts, metrics });
        {
            let mut inner = engine.lock();
            let all: BTreeSet<HostId> = inner.state.hosts().keys().cloned().collect();
            engine.publish(&mut inner, all);
        }
        Ok((engine, hosts))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held cannot leave a draft behind: drafts are undone or committed, and both are total.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.ticks.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }

    /// The time, in milliseconds since 1970-01-01 UTC.
    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// What passes between peers.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Says when there may be something new to look at: the number changes, whatever it is.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// Where counters are kept.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is measured.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Limits and periods of the rules.
    pub fn limits(&self) -> Limits {
        self.lock().options.limits
    }

    /// Goes on with other limits and periods; the clock stays.
    pub fn tune(&self, mut options: Options) {
        options.clock = Arc::clone(&self.clock);
        self.lock().options = options;
    }

    /// Why no further command is accepted; none while all is well.
    pub fn store_failed(&self) -> Option<String> {
        self.lock().store_failed.clone()
    }

    /// Carries a request out: when this returns it is on disk, and on its way to the hosts. Blocks on the disk.
    pub fn execute(&self, request: &Request) -> Result<Outcome, EngineError> {
        let mut inner = self.lock();
        let (outcome, changed) = inner.execute(request, true)?;
        self.publish(&mut inner, changed);
        // What concerns no host is settled already.
        let settled = inner.settled();
        self.settle(inner, settled);
        Ok(outcome)
    }

    /// What a request would do. Changes nothing.
    pub fn rehearse(&self, request: &Request) -> Result<Outcome, EngineError> {
        let (outcome, _) = self.lock().execute(request, false)?;
        Ok(outcome)
    }

    /// What an account is charged for after `from_ms`: closed periods, then those that are open now, as if they were
    /// closed now. Blocks on the disk.
    pub fn periods(&self, payer: &AccountId, from_ms: u64) -> Result<(Vec<Period>, Vec<Period>), StoreError> {
        let now_ms = self.now_ms();
        // Under the lock, so that no period is closed between the two looks.
        let inner = self.lock();
        let closed = self.store.periods(payer, from_ms)?;
        let own = inner.state.peerings_of_account(payer).filter(|peering| peering.initiator.account == *payer);
        Ok((closed, own.filter_map(|peering| open_period(peering, now_ms)).collect()))
    }

    /// Looks into the audit trail, the newest entries first. Blocks on the disk.
    pub fn audit(&self, query: &Query) -> Result<Vec<(u64, Entry)>, StoreError> {
        self.lock().flush_audit();
        self.store.audit(query)
    }

    /// Copies the store as it is now into a new file beside it, in the folder `backups`. Blocks on the disk.
    pub fn back_up(&self) -> Result<(PathBuf, Revision), BackupError> {
        let folder = self.store.backups().to_owned();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BackupError::Temporary),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(BackupError::File { what: "make the folder", path: folder, source: error });
            }
            _ => {}
        }
        // Without colons, which other programs take for the end of a host's name.
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string().replace(':', "-");
        let file = folder.join(format!("{time}.redb"));
        // What was refused belongs to the trail, too.
        self.lock().flush_audit();
        let revision = self.store.back_up(&file)?;
        tracing::info!(file = %file.display(), %revision, "store backed up");
        Ok((file, revision))
    }

    /// Tells the workers of these hosts what their hosts must have, and asks for workers of new ones.
    fn publish(&self, inner: &mut Inner, hosts: BTreeSet<HostId>) {
        for id in hosts {
            let target = inner.state.hosts().get(&id).map(|host| {
                Arc::new(HostTarget { agent: host.agent.clone(), config: Arc::new(plan(&inner.state, host)) })
            });
            match inner.targets.get(&id) {
                Some(sender) if target.is_some() => drop(sender.send_replace(target)),
                Some(sender) => {
                    sender.send_replace(None);
                    inner.targets.remove(&id);
                    inner.contacts.remove(&id);
                }
                None if target.is_some() => {
                    let (sender, receiver) = watch::channel(target);
                    inner.targets.insert(id.clone(), sender);
                    // Nobody listens any more only while the process ends.
                    let _ = self.new_hosts.send((id, receiver));
                }
                None => {}
            }
        }
    }

    /// Takes note of what an agent said, or of why it could not be asked, and moves on what waited for it.
    pub fn heard(&self, host: &HostId, news: Result<HostReport, String>) {
        let now_ms = self.now_ms();
        let mut inner = self.lock();
        if !inner.state.hosts().contains_key(host) {
            return;
        }
        let contact = inner.contacts.entry(host.clone()).or_default();
        match news {
            Ok(report) => {
                *contact = Contact { report: Some(report), reported_ms: Some(now_ms), error: None };
            }
            Err(error) => contact.error = Some(error),
        }
        let settled = inner.settled();
        self.settle(inner, settled);
    }

    /// Moves on what has waited long enough, and does what is due. Blocks on the disk.
    pub fn sweep(&self) {
        let now = self.now_ms();
        let until_ms = now.saturating_sub(whole(self.lock().options.audit_kept.as_millis()));
        if let Err(error) = self.store.forget(until_ms) {
            tracing::error!(%error, "the audit trail could not be shortened");
        }
        let mut inner = self.lock();
        inner.flush_audit();
        let overdue = |peering: &&Peering| {
            peering.state == PeeringState::Provisioning
                && u128::from(now.saturating_sub(peering.since_ms)) >= inner.options.grace.as_millis()
        };
        let overdue = inner.state.unsettled().filter(overdue);
        let mut commands: Vec<Command> = overdue.map(|peering| Command::Activate(peering.id.clone())).collect();
        if inner.state.next_due(now).is_some() {
            commands.push(Command::Tick);
        }
        self.settle(inner, commands);
        // What became due may wait for no host.
        let inner = self.lock();
        let settled = inner.settled();
        if !settled.is_empty() {
            self.settle(inner, settled);
        }
    }

    fn settle(&self, mut inner: MutexGuard<'_, Inner>, commands: Vec<Command>) {
        for command in commands {
            let request = Request::new(Actor::System, command);
            match inner.execute(&request, true) {
                Ok((_, changed)) => self.publish(&mut inner, changed),
                // It is found again with the next report.
                Err(error) => {
                    tracing::error!(%error, command = ?request.command, "what happened by itself could not be stored");
                }
            }
        }
        drop(inner);
        self.tick();
    }

    /// Looks at the state and at what is known of the agents.
    pub fn read<T>(&self, look: impl FnOnce(&State, &Agents<'_>) -> T) -> T {
        let inner = self.lock();
        look(&inner.state, &Agents { state: &inner.state, contacts: &inner.contacts })
    }

    /// Waits until `look` finds something, at most for `patience`.
    pub async fn wait_for<T>(
        &self,
        patience: Duration,
        mut look: impl FnMut(&State, &Agents<'_>) -> Option<T>,
    ) -> Option<T> {
        let mut ticks = self.ticks.subscribe();
        let found = async {
            loop {
                ticks.borrow_and_update();
                if let Some(found) = self.read(&mut look) {
                    return found;
                }
                if ticks.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }
}

impl Inner {
    /// Returns the hosts whose target has changed, too.
    fn execute(&mut self, request: &Request, commit: bool) -> Result<(Outcome, BTreeSet<HostId>), EngineError> {
        if let Some(reason) = &self.store_failed {
            return Err(EngineError::StoreFailed(reason.clone()));
        }
        let before = self.state.meta().number;
        let now_ms = (self.options.clock)();
        let mut draft = Draft::new(&mut self.state);
        let result = decide(&mut draft, request, now_ms, &self.options.limits, &mut random_tail);
        let mut entries = if commit { audit::entries(&mut draft, request, &result, now_ms) } else { Vec::new() };
        let outcome = match result {
            Ok(outcome) if commit && !draft.changes().is_empty() => outcome,
            other => {
                draft.undo();
                // What was due is done, and told, by the next sweep.
                self.to_audit.extend(entries.pop().filter(|entry| !entry.request.is_empty()));
                return Ok((other?, BTreeSet::new()));
            }
        };
        let changed = draft.renumber(before + 1);
        let trail: Vec<Entry> = self.to_audit.iter().cloned().chain(entries).collect();
        let began = Instant::now();
        let stored = self.store.commit(draft.changes(), draft.periods(), &trail, before);
        self.metrics.committed(began.elapsed());
        if let Err(error) = stored {
            draft.undo();
            tracing::error!(%error, "a commit failed; no further command is accepted");
            self.store_failed = Some(error.to_string());
            return Err(error.into());
        }
        self.to_audit.clear();
        Ok((outcome, changed))
    }

    /// Writes down what was refused or changed nothing.
    fn flush_audit(&mut self) {
        if self.to_audit.is_empty() || self.store_failed.is_some() {
            return;
        }
        if let Err(error) = self.store.append(&self.to_audit) {
            tracing::error!(%error, "the audit trail could not be written; no further command is accepted");
            self.store_failed = Some(error.to_string());
        }
        self.to_audit.clear();
    }

    /// What has been confirmed by everyone whom it waited for.
    fn settled(&self) -> Vec<Command> {
        let agents = Agents { state: &self.state, contacts: &self.contacts };
        let mut commands = Vec::new();
        for peering in self.state.unsettled() {
            let missing = agents.missing(peering);
            match peering.state {
                // A host that is being worked on holds nothing up.
                PeeringState::Provisioning
                    if missing.iter().all(|id| self.state.hosts().get(id).is_some_and(|host| host.maintenance)) =>
                {
                    commands.push(Command::Activate(peering.id.clone()));
                }
                PeeringState::Draining { .. } if missing.is_empty() => {
                    commands.push(Command::Drained(peering.id.clone()));
                }
                _ => {}
            }
        }
        let retiring = self.state.retiring().filter(|host| agents.in_sync(host));
        commands.extend(retiring.map(|host| Command::Forget(host.id.clone())));
        commands
    }
}

/// What is known of the agents, seen beside the state.
pub struct Agents<'a> {
    state: &'a State,
    contacts: &'a BTreeMap<HostId, Contact>,
}

impl Agents<'_> {
    /// What is known of a host's agent.
    pub fn contact(&self, host: &HostId) -> Option<&Contact> {
        self.contacts.get(host)
    }

    /// Whether the agent has said that the kernel is as the host must have it.
    pub fn in_sync(&self, host: &Host) -> bool {
        let report = self.contacts.get(&host.id).and_then(|contact| contact.report.as_ref());
        report.is_some_and(|report| report.applied == Some(self.state.revision_of(host)) && report.problems.is_empty())
    }

    /// The hosts that have not confirmed yet that they have a peering, or that they have it no more.
    pub fn missing(&self, peering: &Peering) -> Vec<HostId> {
        let concerned = self.state.hosts_concerned(peering).into_iter();
        concerned.filter(|host| !self.confirms(host, peering)).collect()
    }

    /// Whether a host's kernel was seen to have a peering, or to have it no more. A host that is gone has nothing.
    pub fn confirms(&self, host: &HostId, peering: &Peering) -> bool {
        let Some(record) = self.state.hosts().get(host) else { return true };
        let Some(report) = self.contacts.get(host).and_then(|contact| contact.report.as_ref()) else { return false };
        let number = if peering.forwards() { record.config_number } else { peering.since.min(record.config_number) };
        let revision = Revision { epoch: self.state.meta().epoch, number };
        let vnis = peering.sides().into_iter().filter_map(|side| side.vni);
        let mut scopes: Vec<Scope> = vnis.map(Scope::Side).collect();
        if peering.forwards() {
            let here = peering.sides().into_iter().filter(|side| self.state.hosts_of(&side.vpc).contains(host));
            scopes.extend(here.map(|side| Scope::Vpc(side.vpc.clone())));
        }
        scopes.iter().all(|scope| report.confirms(revision, scope))
    }
}

fn whole(number: u128) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

impl Draft<'_> {
    /// Numbers the commit, and with it every host whose plan the changes have touched. Returns those hosts.
    fn renumber(&mut self, number: u64) -> BTreeSet<HostId> {
        let touched = self.touched();
        let after: BTreeMap<HostId, Option<HostConfig>> = self.plans(&touched);
        let before = self.with_undone(|draft| draft.plans(&touched));
        let mut changed = BTreeSet::new();
        for id in touched {
            if after[&id] == before[&id] {
                continue;
            }
            if let Some(host) = self.state.hosts().get(&id).cloned() {
                self.change(Change::Host(id.clone(), Some(Host { config_number: number, ..host })));
            }
            changed.insert(id);
        }
        changed.extend(self.agents_moved());
        let meta = self.state.meta();
        self.change(Change::Meta(crate::model::state::Meta { number, ..meta }));
        changed
    }

    fn plans(&self, hosts: &BTreeSet<HostId>) -> BTreeMap<HostId, Option<HostConfig>> {
        hosts.iter().map(|id| (id.clone(), self.state.hosts().get(id).map(|host| plan(self.state, host)))).collect()
    }

    /// Hosts whose agent is to be reached elsewhere: nothing changes for their kernels.
    fn agents_moved(&self) -> BTreeSet<HostId> {
        let hosts = self.changes().iter().filter_map(|change| match change {
            Change::Host(id, _) => Some(id.clone()),
            _ => None,
        });
        hosts.collect()
    }

    /// Hosts whose plan may depend on what was changed, before or after.
    fn touched(&mut self) -> BTreeSet<HostId> {
        let mut hosts = self.reached();
        hosts.extend(self.with_undone(Draft::reached));
        hosts
    }

    fn reached(&self) -> BTreeSet<HostId> {
        let state = &*self.state;
        let mut hosts = BTreeSet::new();
        for change in self.changes() {
            match change {
                Change::Host(id, _) => hosts.extend(reach_of_host(state, id)),
                Change::Vpc(id, _) => hosts.extend(reach(state, id)),
                Change::Port(key, _) => {
                    hosts.insert(key.host.clone());
                    hosts.extend(state.ports().get(key).into_iter().flat_map(|port| reach(state, &port.vpc)));
                }
                Change::Peering(id, _) => {
                    let sides = state.peerings().get(id).into_iter().flat_map(Peering::sides);
                    hosts.extend(sides.flat_map(|side| state.hosts_of(&side.vpc)));
                }
                Change::Region(..)
                | Change::Account(..)
                | Change::Token(..)
                | Change::Signature(..)
                | Change::Meta(_) => {}
            }
        }
        hosts
    }
}
