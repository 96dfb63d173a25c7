//! The one writer: a thread that owns the working state.
//!
//! It takes what has come in while it was busy, decides one command after another on the working state, commits the changes
//! of all of them in one transaction, and only then shows the state to others, tells the workers of hosts, and answers. So every
//! check and its write are one atomic step, a disk's round trip is shared by all who waited for one, nobody but this thread
//! ever waits for the disk, and nothing can be seen, pushed or answered that a crash could take back.
//!
//! After the start it plans what each host must have, some hosts at a time beside what it is asked. What it does from time to time, and
//! when a write has failed, is in `upkeep`.

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
/// How many hosts are planned at once after the start: few, so that no command waits long.
const PLANNED_AT_ONCE: usize = 16;

/// How many entries of the audit trail wait for a store that takes none, or has little room: the newest.
const MAX_WAITING: usize = 4096;

/// Takes the answer to a command.
pub(super) type Answer = Box<dyn FnOnce(Result<Outcome, EngineError>) + Send>;

/// What the writer is asked.
pub(super) enum Job {
    /// Carry a request out, or only say what would become of it.
    Request { request: Box<Request>, dry_run: bool, trace: Option<Box<CommandTrace>>, answer: Answer },
    /// Move on what waited for a host: its agent has confirmed something.
    Heard(HostId),
    /// Do what is due, move on what has waited long enough, and write down what was refused.
    Sweep(mpsc::Sender<()>),
    /// Tell the audit trail of something that is no request.
    Note(Box<Entry>),
    /// Look at the state when it is what the store holds; with `trail`, when the audit trail is whole, too.
    Look { look: Look, trail: bool },
}

/// What is decided and not committed yet.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    /// The same as the store has it, with what is to be charged and what the trail says.
    rows: Rows,
    targets: BTreeMap<HostId, Target>,
    /// Hosts among them that nothing was planned for since the start.
    unplanned: BTreeSet<HostId>,
    answers: Vec<(Answer, Result<Outcome, EngineError>)>,
    /// Whether something in it needs room.
    grows: bool,
    /// The number of the last commit before; set with the first change.
    expected: u64,
    /// The hosts whose confirmations may have moved something on.
    heard: BTreeSet<HostId>,
    /// The peerings that may have become settled by the changes themselves.
    touched: BTreeSet<PeeringId>,
    /// Hosts that were changed, or their ports: what waits for them may wait no more.
    hosts: BTreeSet<HostId>,
    /// What is recorded of the command that is being decided, and of those before it.
    trace: Option<Box<CommandTrace>>,
    traced: Vec<CommandTrace>,
    swept: Vec<mpsc::Sender<()>>,
    /// Who looks at the state once all of this is stored.
    looks: Vec<Look>,
    /// Who is told of something, and operators.
    told: Option<BTreeSet<AccountId>>,
    /// The clock was said to be right, which holds once that is committed.
    believed: Option<Leap>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The state with everything that was decided.
    working: State,
    targets: BTreeMap<HostId, watch::Sender<Target>>,
    /// The hosts that nothing was planned for since the start.
    unplanned: BTreeSet<HostId>,
    /// What the hosts planned last have alike.
    alike: Sides,
    new_hosts: tokio::sync::mpsc::UnboundedSender<(HostId, watch::Receiver<Target>)>,
    /// What was refused or changed nothing; the trail gets it with the next commit, or soon.
    trail: Rows,
    /// Who waits for the trail.
    readers: Readers,
    /// When a write has worked last; none where the last one did not.
    proven: Option<Instant>,
    /// What accounts were told of each other's networks.
    disclosures: Disclosures,
    /// When the time that has passed was last noted, in milliseconds since the machine's start.
    noted_ms: u64,
    /// Whether it was said that the clock has leapt.
    leap_told: bool,
    /// For which host each unsettled peering was seen to wait: news of others need no closer look.
    waits_for: HashMap<PeeringId, HostId>,
    /// How often hosts have changed the MTU of their underlay.
    damping: Damping,
    /// How the first hosts of a rollout do.
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

    /// Works until nobody can ask any more.
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
            // What came while the last commit was on its way to the disk shares the next one.
            while batch.answers.len() < TOGETHER
                && let Ok(job) = jobs.try_recv()
            {
                self.take(job, &mut batch);
            }
            self.finish(batch);
        }
    }

    /// Plans some of the hosts that nothing was planned for since the start.
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

    /// Decides a request. Its changes are in the working state and in the batch then, or nowhere.
    fn execute(&mut self, request: &Request, dry_run: bool, batch: &mut Batch) -> Result<Outcome, EngineError> {
        // A bug in a rule is one command's misfortune: its transaction is undone on the way.
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide(request, dry_run, batch)));
        decided.unwrap_or(Err(EngineError::Broken))
    }

    fn decide(&mut self, request: &Request, dry_run: bool, batch: &mut Batch) -> Result<Outcome, EngineError> {
        // What makes room is tried, for it may be what helps.
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
                // What was due is done, and told, by the next sweep.
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
                // It is this command's misfortune, and nobody else's.
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

    /// What belongs into the audit trail and needs no commit.
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

    /// Something happens by itself.
    fn run_system_command(&mut self, command: Command, batch: &mut Batch) {
        let request = Request::new(Actor::System, command);
        // It is found again with the next sweep.
        if let Err(error) = self.execute(&request, false, batch)
            && !matches!(self.shared.health(), Health::Failing(_))
        {
            tracing::error!(%error, command = ?request.command, "what happens by itself did not");
        }
    }

    /// Moves on what everyone has confirmed whom it waited for.
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
                // What it says again with each report is taken over later.
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

    /// Commits a batch, shows it, and answers.
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
                // The reserve is there for it now.
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
                    // A disk that fails may have done what it was asked; who else writes has done something else.
                    if found == Some(number) && matches!(*error, StoreError::Database { .. }) {
                        // It is there all the same.
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
            // Who asked may be gone.
            let _ = done.send(());
        }
    }

    /// Lets those read the trail who wait for it, if it is whole or may be written for them.
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

    /// Shows a batch that is durable now, and believes the clock that was said to be right. Nothing must look as if its time had
    /// come in between.
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

    /// Shows what is durable now.
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

    /// Tells the workers of hosts what their hosts must have, and asks for workers of new ones.
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
                    // Nobody listens any more only while the process ends.
                    let _ = self.new_hosts.send((id, receiver));
                }
                None => {}
            }
        }
    }
}
