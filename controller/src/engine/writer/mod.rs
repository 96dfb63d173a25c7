//! The one writer: a thread that owns the working state.
//!
//! It takes the jobs that have arrived while it was busy, decides one command after another on the working state, commits the changes
//! of all of them in one transaction, and only then publishes the state, updates the workers of hosts, and responds. So every
//! check and its write are one atomic step, concurrent commands share a round trip to the disk, only this thread
//! ever waits for the disk, and nothing can be seen, pushed or answered that a crash could undo.
//!
//! After the start it plans each host's configuration, some hosts at a time between jobs. Periodic work, and what follows
//! a failed write, is in `upkeep`.

mod rollout;
mod upkeep;

use super::{
    Agents, EngineError, Health, Published, Shared, Target,
    pacing::{self, Pace, PushMode},
    path_mtu::Damping,
    random_tail,
    readers::{Look, Readers},
    traces::CommandTrace,
};
use crate::{
    audit::{self, Entry},
    events,
    model::{
        Actor, Code, Command, CommandError, Judge, Leap, Outcome, Request, Transaction, decide,
        disclosure::Disclosures,
        record::{Host, Peering, PeeringState},
        state::{Change, State},
    },
    plan::{Sides, plan},
    store::{Rows, StoreError},
};
use cps_peering_config::{
    SharedHostConfig,
    id::{AccountId, HostId, PeeringId},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    time::Instant,
};
use tokio::sync::watch;

/// How many commands are committed together at most, so that none waits long for others.
const TOGETHER: usize = 512;
/// How many hosts are planned at a time after the start: few, so that no command waits long.
const PLANNED_AT_ONCE: usize = 16;

/// How many entries of the audit trail are buffered while the store takes no writes, or has little space: the newest.
const MAX_WAITING: usize = 4096;

/// Receives the response to a command.
pub(super) type Answer = Box<dyn FnOnce(Result<Outcome, EngineError>) + Send>;

/// A job for the writer.
pub(super) enum Job {
    /// Execute a request, or only determine its result.
    Request { request: Box<Request>, dry_run: bool, trace: Option<Box<CommandTrace>>, answer: Answer },
    /// Advance what waited for a host: its agent has confirmed something.
    Heard(HostId),
    /// Do what is due, advance what has waited long enough, and store refusals.
    Sweep(mpsc::Sender<()>),
    /// Add an entry that belongs to no request to the audit trail.
    Note(Box<Entry>),
    /// Read the state when it is the same as the store's; with `trail`, when the audit trail is complete, too.
    Look { look: Look, trail: bool },
}

/// What is decided and not committed yet.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    /// The same in stored form, with periods to charge and entries of the trail.
    rows: Rows,
    targets: BTreeMap<HostId, Target>,
    /// Hosts among them that had not been planned since the start.
    unplanned: BTreeSet<HostId>,
    answers: Vec<(Answer, Result<Outcome, EngineError>)>,
    /// Whether anything in it needs space.
    grows: bool,
    /// The number of the last commit before; set with the first change.
    expected: u64,
    /// The hosts whose confirmations may have advanced something.
    heard: BTreeSet<HostId>,
    /// The peerings that may have become settled by the changes themselves.
    touched: BTreeSet<PeeringId>,
    /// Hosts that were changed, or their ports: what waits for them may no longer have to.
    hosts: BTreeSet<HostId>,
    /// The traces of the command that is being decided, and of those before it.
    trace: Option<Box<CommandTrace>>,
    traced: Vec<CommandTrace>,
    swept: Vec<mpsc::Sender<()>>,
    /// Readers of the state, once all of this is stored.
    looks: Vec<Look>,
    /// The accounts with new events, and operators.
    told: Option<BTreeSet<AccountId>>,
    /// The clock was confirmed, which takes effect once that is committed.
    believed: Option<Leap>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The state with everything that was decided.
    working: State,
    targets: BTreeMap<HostId, watch::Sender<Target>>,
    /// The hosts that have not been planned since the start.
    unplanned: BTreeSet<HostId>,
    /// Parts that the hosts planned last have in common.
    alike: Sides,
    new_hosts: tokio::sync::mpsc::UnboundedSender<(HostId, watch::Receiver<Target>)>,
    /// Refusals and commands without effect; they are stored with the next commit, or soon.
    trail: Rows,
    /// Readers that wait for the trail.
    readers: Readers,
    /// When a write last succeeded; none if the last one failed.
    proven: Option<Instant>,
    /// What accounts were told about each other's networks.
    disclosures: Disclosures,
    /// When the elapsed time was last stored, in milliseconds since boot.
    noted_ms: u64,
    /// Whether the leap of the clock was logged.
    leap_told: bool,
    /// The host that each unsettled peering waits for: reports of others need no closer look.
    waits_for: HashMap<PeeringId, HostId>,
    /// Limits changes of underlay MTUs.
    damping: Damping,
    /// The state of the canaries of a rollout.
    watch: Option<rollout::Watch>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        working: State,
        disclosures: Disclosures,
        new_hosts: tokio::sync::mpsc::UnboundedSender<(HostId, watch::Receiver<Target>)>,
    ) -> Self {
        let unplanned = working.hosts().keys().cloned().collect();
        Self {
            shared,
            working,
            targets: BTreeMap::new(),
            unplanned,
            alike: Sides::default(),
            new_hosts,
            trail: Rows::default(),
            readers: Readers::default(),
            proven: None,
            disclosures,
            noted_ms: 0,
            leap_told: false,
            waits_for: HashMap::new(),
            damping: Damping::default(),
            watch: None,
        }
    }

    /// Runs until the engine is dropped.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            self.plan_some();
            self.serve_readers();
            let job = match (jobs.try_recv(), self.readers.patience()) {
                (Ok(job), _) => job,
                (Err(TryRecvError::Disconnected), _) => return,
                (Err(TryRecvError::Empty), _) if !self.unplanned.is_empty() => continue,
                (Err(TryRecvError::Empty), None) => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                },
                (Err(TryRecvError::Empty), Some(patience)) => match jobs.recv_timeout(patience) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            let mut batch = Batch::default();
            self.take(job, &mut batch);
            // Jobs that arrived during the last commit share the next one.
            while batch.answers.len() < TOGETHER
                && let Ok(job) = jobs.try_recv()
            {
                self.take(job, &mut batch);
            }
            self.finish(batch);
        }
    }

    /// Plans some of the hosts that have not been planned since the start.
    fn plan_some(&mut self) {
        let mut targets = BTreeMap::new();
        for id in std::iter::from_fn(|| self.unplanned.pop_first()).take(PLANNED_AT_ONCE) {
            if let Some(host) = self.working.hosts().get(&id) {
                let config = Arc::new(plan(&self.working, host, &mut self.alike));
                targets.insert(id, Some(pacing::target(host, config)));
            }
        }
        if self.unplanned.is_empty() {
            self.alike = Sides::default();
        }
        self.tell(targets);
    }

    fn take(&mut self, job: Job, batch: &mut Batch) {
        match job {
            Job::Request { request, dry_run, trace, answer } => {
                let alone = matches!(request.command, Command::ConfirmClock);
                if alone {
                    self.finish(std::mem::take(batch));
                }
                let planning = trace.as_ref().and_then(|trace| trace.part("plan"));
                batch.trace = trace;
                let result = self.execute(&request, dry_run, batch);
                drop(planning);
                if let Some(mut trace) = batch.trace.take() {
                    trace.decided(&result);
                    batch.traced.push(*trace);
                }
                batch.answers.push((answer, result));
                if alone {
                    self.finish(std::mem::take(batch));
                }
            }
            Job::Note(entry) => self.note(&[*entry]),
            Job::Heard(host) => drop(batch.heard.insert(host)),
            Job::Sweep(done) => {
                self.damping.forget(self.shared.reading().boot_ms);
                self.sweep(batch);
                batch.swept.push(done);
            }
            Job::Look { look, trail: false } => batch.looks.push(look),
            Job::Look { look, trail: true } => self.readers.add(look),
        }
    }

    /// Decides a request. Its changes are then in the working state and in the batch, or nowhere.
    fn execute(&mut self, request: &Request, dry_run: bool, batch: &mut Batch) -> Result<Outcome, EngineError> {
        // A panic in a rule affects only this command: its transaction is rolled back.
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide(request, dry_run, batch)));
        decided.unwrap_or(Err(EngineError::Broken))
    }

    fn decide(&mut self, request: &Request, dry_run: bool, batch: &mut Batch) -> Result<Outcome, EngineError> {
        // A command that frees space is tried: it may help.
        match self.shared.health() {
            Health::Failing(why) if !request.command.makes_room() => return Err(EngineError::StoreFailed(why)),
            Health::Low(why) if !request.command.makes_room() => return Err(EngineError::LowSpace(why)),
            _ => {}
        }
        let before = self.working.meta().number;
        let options = self.shared.options();
        let now = self.shared.now();
        let now_ms = now.ms;
        self.disclosures.tune(options.overlap_checks_per_day);
        let mut tx = Transaction::new(&mut self.working);
        let judge = Judge { now, limits: &options.limits, disclosures: &self.disclosures };
        let result = decide(&mut tx, request, judge, &mut random_tail);
        let told = audit::disclosed(&tx, request, &result, dry_run, now_ms);
        if let Some(account) = request.actor.account() {
            for (owner, _) in &told {
                self.disclosures.count(account, owner, now_ms);
            }
        }
        let mut told: Vec<Entry> = told.into_iter().map(|(_, entry)| entry).collect();
        if dry_run {
            drop(tx);
            self.note(&told);
            return Ok(result?);
        }
        let mut entries = audit::entries(&mut tx, request, &result, now_ms);
        let outcome = match result {
            Ok(outcome) if !tx.changes().is_empty() => outcome,
            other => {
                // What was due is done and reported by the next sweep.
                told.extend(entries.pop().filter(|entry| !entry.request.is_empty()));
                drop(tx);
                self.note(&told);
                return Ok(other?);
            }
        };
        let (planned_now, known) = (&batch.targets, &self.targets);
        let config = |target: &Target| target.as_ref().map(|target| Arc::clone(&target.config));
        let planned = |host: &HostId| -> Option<Arc<SharedHostConfig>> {
            planned_now.get(host).map_or_else(|| known.get(host).and_then(|sender| config(&sender.borrow())), config)
        };
        let shared = &self.shared;
        let manner = PushMode::of(&request.command);
        let seen = (manner == PushMode::Paced).then(|| shared.published());
        let has_all = |host: &Host| seen.as_ref().is_some_and(|seen| shared.has_all(seen, host));
        let is_decision = matches!(request.command, Command::Apply(_) | Command::Host(_));
        let pace = Pace { manner, pushes: options.pushes, is_decision, has_all: &has_all, now_ms };
        let targets = tx.renumber(before + 1, planned, &pace);
        let rows = match self.shared.store.encode(tx.changes(), tx.periods(), &entries) {
            Ok(rows) => rows,
            Err(StoreError::TooLarge { key, length, most, .. }) => {
                // Only this command is affected.
                let rule = format!("it would have {length} bytes, and may have {most}");
                let refused: Result<Outcome, _> =
                    Err(CommandError::one(Code::InvalidArgument, key, rule, "RecordTooLarge"));
                let entry = audit::entries(&mut tx, request, &refused, now_ms).pop();
                drop(tx);
                self.note(entry.filter(|entry| !entry.request.is_empty()).as_slice());
                return Ok(refused?);
            }
            Err(error) => return Err(Arc::new(error).into()),
        };
        let (changes, _) = tx.keep();
        for entry in entries.iter().filter(|entry| !entry.events.is_empty()) {
            batch.told.get_or_insert_default().append(&mut events::accounts(&entry.events));
        }
        if batch.changes.is_empty() {
            batch.expected = before;
        }
        for change in &changes {
            match change {
                Change::Peering(id, _) => drop(batch.touched.insert(id.clone())),
                Change::Host(id, _) => drop(batch.hosts.insert(id.clone())),
                Change::Port(key, _) => drop(batch.hosts.insert(key.host.clone())),
                _ => {}
            }
        }
        batch.grows |= !request.command.makes_room();
        batch.changes.extend(changes);
        batch.rows.append(rows);
        self.alike = Sides::default();
        let unplanned = targets.keys().filter(|host| self.unplanned.contains(*host)).cloned();
        let unplanned: Vec<HostId> = unplanned.collect();
        for host in unplanned {
            self.unplanned.remove(&host);
            batch.unplanned.insert(host);
        }
        if let Some(trace) = &mut batch.trace {
            trace.planned(&targets);
        }
        batch.targets.extend(targets);
        if matches!(request.command, Command::ConfirmClock) {
            batch.believed = now.leap;
        }
        Ok(outcome)
    }

    /// Stores entries of the audit trail that need no commit.
    fn note(&mut self, entries: &[Entry]) {
        match self.shared.store.encode(&[], &[], entries) {
            Ok(rows) => self.trail.append(rows),
            Err(error) => tracing::error!(%error, "an entry of the audit trail cannot be written"),
        }
        let surplus = self.trail.entries().saturating_sub(MAX_WAITING);
        if surplus > 0 && self.shared.health() != Health::Fine {
            drop(self.trail.split_entries(surplus));
            self.shared.metrics.audit_dropped(surplus);
        }
    }

    /// Executes a command of the system.
    fn run_system_command(&mut self, command: Command, batch: &mut Batch) {
        let request = Request::new(Actor::System, command);
        // The next sweep finds it again.
        if let Err(error) = self.execute(&request, false, batch)
            && !matches!(self.shared.health(), Health::Failing(_))
        {
            tracing::error!(%error, command = ?request.command, "what happens by itself did not");
        }
    }

    /// Advances peerings that all their hosts have confirmed.
    fn settle(&mut self, batch: &mut Batch) {
        if matches!(self.shared.health(), Health::Failing(_)) {
            return;
        }
        let (touched, heard) = (std::mem::take(&mut batch.touched), std::mem::take(&mut batch.heard));
        let hosts = std::mem::take(&mut batch.hosts);
        let mut commands = Vec::new();
        {
            let Published { contacts, in_sync, .. } = self.shared.published();
            let freshness = self.shared.freshness(self.working.hosts().len());
            let agents = Agents {
                state: &self.working,
                contacts: &contacts,
                in_sync: &in_sync,
                freshness,
                paths: &self.shared.paths,
            };
            let mut peerings: BTreeSet<&PeeringId> = touched.iter().collect();
            peerings.extend(hosts.iter().flat_map(|host| self.working.unsettled_on(host)).map(|peering| &peering.id));
            let waited_for = |host: &HostId, id: &PeeringId| self.waits_for.get(id).is_none_or(|other| other == host);
            for host in &heard {
                let waiting = self.working.unsettled_on(host).map(|peering| &peering.id);
                peerings.extend(waiting.filter(|id| waited_for(host, id)));
            }
            for id in peerings {
                let command = match self.working.peerings().get(id) {
                    Some(peering) if peering.state == PeeringState::Provisioning => Command::Activate(id.clone()),
                    Some(Peering { state: PeeringState::Draining { .. }, .. }) => Command::Drained(id.clone()),
                    _ => {
                        self.waits_for.remove(id);
                        continue;
                    }
                };
                if let Some(host) = agents.waits_for(&self.working.peerings()[id]) {
                    self.waits_for.insert(id.clone(), host);
                } else {
                    self.waits_for.remove(id);
                    commands.push(command);
                }
            }
            let known = heard.iter().filter_map(|id| self.working.hosts().get(id));
            let now_ms = self.shared.reading().boot_ms;
            for host in known.clone() {
                let said = contacts.get(&host.id).and_then(|contact| contact.report.as_ref()?.underlay_mtu);
                let Some(mtu) = said.filter(|mtu| host.underlay_mtu != Some(*mtu)) else { continue };
                // What it repeats in each report is recorded later.
                if host.underlay_mtu.is_none_or(|known| self.damping.takes(&host.id, known, mtu, now_ms)) {
                    commands.push(Command::LearnMtu(host.id.clone(), mtu));
                }
            }
            let retired = known.filter(|host| host.retiring && agents.is_in_sync(host));
            commands.extend(retired.map(|host| Command::Forget(host.id.clone())));
        }
        for command in commands {
            self.run_system_command(command, batch);
        }
    }

    /// Commits a batch, publishes it, and responds.
    fn finish(&mut self, mut batch: Batch) {
        self.settle(&mut batch);
        if !batch.changes.is_empty() {
            let began = Instant::now();
            let mut rows = std::mem::take(&mut self.trail);
            let noted = rows.entries();
            rows.append(std::mem::take(&mut batch.rows));
            rows.note(self.notes(batch.believed));
            let storing: Vec<_> =
                batch.traced.iter().filter_map(|trace| trace.storing(self.shared.store.place())).collect();
            let mut stored = self.shared.store.commit_rows(&rows, batch.expected);
            drop(storing);
            self.shared.metrics.committed(began.elapsed());
            let number = self.working.meta().number;
            let mut found = None;
            if let Err(error) = &stored {
                found = self.write_failed(error, "a commit failed");
                // The reserve can be used now.
                if found == Some(batch.expected) && !batch.grows && matches!(self.shared.health(), Health::Low(_)) {
                    stored = self.shared.store.commit_rows(&rows, batch.expected);
                    found = stored.as_ref().err().and_then(|error| self.write_failed(error, "a commit failed again"));
                }
            }
            match stored {
                Ok(()) => {
                    self.proven = Some(began);
                    self.shared.trail().added(rows.owners());
                    self.show(&mut batch);
                }
                Err(error) => {
                    let error = Arc::new(error);
                    // A failing disk may have stored it; another writer has stored something else.
                    if found == Some(number) && matches!(*error, StoreError::Database { .. }) {
                        // It is stored nevertheless.
                        self.show(&mut batch);
                    } else {
                        // Nothing of the batch was answered or seen.
                        self.trail = rows.split_entries(noted);
                        self.working = self.shared.published().state;
                        self.unplanned.append(&mut batch.unplanned);
                        batch.traced.iter_mut().for_each(|trace| trace.fail(&error));
                        batch.answers.iter_mut().for_each(|(_, result)| *result = Err(Arc::clone(&error).into()));
                    }
                }
            }
        }
        if !batch.swept.is_empty() {
            self.flush();
            self.write_notes();
        }
        drop(batch.traced);
        for (answer, result) in batch.answers {
            answer(result);
        }
        for look in batch.looks {
            look(&self.working);
        }
        for done in batch.swept {
            // The caller may be gone.
            let _ = done.send(());
        }
    }

    /// Serves readers that wait for the trail, if it is complete or can be written for them.
    fn serve_readers(&mut self) {
        let Some(patience) = self.readers.patience() else { return };
        if self.trail.entries() > 0 {
            if !patience.is_zero() {
                return;
            }
            self.flush();
            self.readers.written();
        }
        for look in self.readers.take() {
            look(&self.working);
        }
    }

    /// Publishes a batch that is durable now, and accepts a confirmed clock. Deadlines must not seem to
    /// have passed in between.
    fn show(&mut self, batch: &mut Batch) {
        let targets = std::mem::take(&mut batch.targets);
        let (before, after) = match batch.believed.take() {
            Some(leap) if leap.by_ms < 0 => (Some(leap), None),
            believed => (None, believed),
        };
        if let Some(leap) = before {
            self.shared.time().believe(leap);
        }
        self.shared.traces.committed(&batch.traced);
        self.publish(&batch.changes, targets);
        if let Some(told) = batch.told.take() {
            self.shared.listeners.tell(&told);
        }
        if let Some(leap) = after {
            self.shared.time().believe(leap);
        }
    }

    /// Publishes what is durable now.
    fn publish(&mut self, changes: &[Change], targets: BTreeMap<HostId, Target>) {
        let peerings = changes.iter().filter_map(|change| match change {
            Change::Peering(id, _) => Some(id.clone()),
            _ => None,
        });
        let peerings: BTreeSet<PeeringId> = peerings.collect();
        let before = {
            let mut published = self.shared.published_mut();
            let before = std::mem::replace(&mut published.state, self.working.clone());
            for (host, target) in &targets {
                if target.is_none() {
                    published.contacts.remove(host);
                }
                published.compare(host);
            }
            before
        };
        let mut limits = BTreeSet::new();
        let limited = |peering: &&Peering| peering.is_cross_region();
        for change in changes {
            let Change::Port(key, _) = change else { continue };
            for state in [&before, &self.working] {
                let vpc = state.ports().get(key).map(|port| &port.vpc);
                let moved = vpc.into_iter().flat_map(|vpc| self.working.peerings_of(vpc)).filter(limited);
                limits.extend(moved.map(|peering| peering.id.clone()));
            }
        }
        let touched = peerings.iter().filter_map(|id| self.working.peerings().get(id));
        limits.extend(touched.filter(limited).map(|peering| peering.id.clone()));
        self.shared.limits_changed.lock().unwrap_or_else(PoisonError::into_inner).append(&mut limits);
        self.tell(targets);
        self.shared.waiting.wake(&peerings);
        self.shared.tick();
    }

    /// Sends new targets to the workers of hosts, and requests workers for new hosts.
    fn tell(&mut self, targets: BTreeMap<HostId, Target>) {
        for (id, target) in targets {
            match self.targets.get(&id) {
                Some(sender) if target.is_some() => drop(sender.send_replace(target)),
                Some(sender) => {
                    self.shared.traces.gone(&id);
                    sender.send_replace(None);
                    self.targets.remove(&id);
                }
                None if target.is_some() => {
                    let (sender, receiver) = watch::channel(target);
                    self.targets.insert(id.clone(), sender);
                    // There is no receiver only during shutdown.
                    let _ = self.new_hosts.send((id, receiver));
                }
                None => {}
            }
        }
    }
}
