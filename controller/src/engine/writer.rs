//! The one writer: a thread that owns the working state.
//!
//! It takes what has come in while it was busy, decides one command after another on the working state, commits the changes
//! of all of them in one transaction, and only then shows the state to others, tells the workers of hosts, and answers. So every
//! check and its write are one atomic step, a disk's round trip is shared by all who waited for one, nobody but this thread
//! ever waits for the disk, and nothing can be seen, pushed or answered that a crash could take back.
//!
//! After the start it plans what each host must have, some hosts at a time beside what it is asked.

use super::{Agents, EngineError, HostTarget, Published, Shared, Target, random_tail, whole};
use crate::{
    audit::{self, Entry},
    model::{
        Actor, Command, Outcome, Request, Transaction, decide,
        metering::Period,
        record::{Peering, PeeringState},
        state::{Change, State},
    },
    plan::{Sides, plan},
    store::StoreError,
};
use cps_peering_config::{
    SharedHostConfig,
    id::{HostId, PeeringId},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError,
        mpsc::{self, TryRecvError},
    },
    time::Instant,
};
use tokio::sync::watch;

/// How many commands are committed together at most, so that none waits long for others.
const TOGETHER: usize = 512;
/// How many hosts are planned at once after the start: few, so that no command waits long.
const PLANNED_AT_ONCE: usize = 16;

/// Takes the answer to a command.
pub(super) type Answer = Box<dyn FnOnce(Result<Outcome, EngineError>) + Send>;

/// What the writer is asked.
pub(super) enum Job {
    /// Carry a request out, or only say what would become of it.
    Request { request: Box<Request>, dry_run: bool, answer: Answer },
    /// Move on what waited for a host: its agent has confirmed something.
    Heard(HostId),
    /// Do what is due, move on what has waited long enough, and write down what was refused.
    Sweep(mpsc::Sender<()>),
    /// Look at the state when it is what the store holds, and the audit trail is whole.
    Look(Box<dyn FnOnce(&State) + Send>),
}

/// What is decided and not committed yet.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    periods: Vec<Period>,
    targets: BTreeMap<HostId, Target>,
    answers: Vec<(Answer, Result<Outcome, EngineError>)>,
    /// The number of the last commit before; set with the first change.
    expected: u64,
    /// The hosts whose confirmations may have moved something on.
    heard: BTreeSet<HostId>,
    /// The peerings that may have become settled by the changes themselves.
    touched: BTreeSet<PeeringId>,
    /// Hosts that were changed, or their ports: what waits for them may wait no more.
    hosts: BTreeSet<HostId>,
    swept: Vec<mpsc::Sender<()>>,
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
    /// What was refused or changed nothing, and what was done in this batch; the trail gets it with the next commit, or soon.
    trail: Vec<Entry>,
    /// For which host each unsettled peering was seen to wait: news of others need no closer look.
    waits_for: HashMap<PeeringId, HostId>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        working: State,
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
            trail: Vec::new(),
            waits_for: HashMap::new(),
        }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            self.plan_some();
            let job = match jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if !self.unplanned.is_empty() => continue,
                Err(TryRecvError::Empty) => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
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
                targets.insert(id, Some(Arc::new(HostTarget { agent: host.agent.clone(), config })));
            }
        }
        if self.unplanned.is_empty() {
            self.alike = Sides::default();
        }
        self.tell(targets);
    }

    fn take(&mut self, job: Job, batch: &mut Batch) {
        match job {
            Job::Request { request, dry_run, answer } => {
                let result = self.execute(&request, dry_run, batch);
                batch.answers.push((answer, result));
            }
            Job::Heard(host) => drop(batch.heard.insert(host)),
            Job::Sweep(done) => {
                self.sweep(batch);
                batch.swept.push(done);
            }
            Job::Look(look) => {
                self.finish(std::mem::take(batch));
                self.flush();
                look(&self.working);
            }
        }
    }

    /// Decides a request. Its changes are in the working state and in the batch then, or nowhere.
    fn execute(&mut self, request: &Request, dry_run: bool, batch: &mut Batch) -> Result<Outcome, EngineError> {
        // A bug in a rule is one command's misfortune: its transaction is undone on the way.
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide(request, dry_run, batch)));
        decided.unwrap_or(Err(EngineError::Broken))
    }

    fn decide(&mut self, request: &Request, dry_run: bool, batch: &mut Batch) -> Result<Outcome, EngineError> {
        if let Some(reason) = self.shared.store_failed.get() {
            return Err(EngineError::StoreFailed(reason.clone()));
        }
        let before = self.working.meta().number;
        let options = self.shared.options();
        let now_ms = (options.clock)();
        let mut tx = Transaction::new(&mut self.working);
        let result = decide(&mut tx, request, now_ms, &options.limits, &mut random_tail);
        if dry_run {
            return Ok(result?);
        }
        let mut entries = audit::entries(&mut tx, request, &result, now_ms);
        let outcome = match result {
            Ok(outcome) if !tx.changes().is_empty() => outcome,
            other => {
                // What was due is done, and told, by the next sweep.
                self.trail.extend(entries.pop().filter(|entry| !entry.request.is_empty()));
                return Ok(other?);
            }
        };
        let (now, known) = (&batch.targets, &self.targets);
        let config = |target: &Target| target.as_ref().map(|target| Arc::clone(&target.config));
        let planned = |host: &HostId| -> Option<Arc<SharedHostConfig>> {
            now.get(host).map_or_else(|| known.get(host).and_then(|sender| config(&sender.borrow())), config)
        };
        let targets = tx.renumber(before + 1, planned);
        let (changes, periods) = tx.keep();
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
        batch.changes.extend(changes);
        batch.periods.extend(periods);
        self.alike = Sides::default();
        for host in targets.keys() {
            self.unplanned.remove(host);
        }
        batch.targets.extend(targets);
        self.trail.append(&mut entries);
        Ok(outcome)
    }

    /// Something happens by itself.
    fn run_system_command(&mut self, command: Command, batch: &mut Batch) {
        let request = Request::new(Actor::System, command);
        // It is found again with the next sweep.
        if let Err(error) = self.execute(&request, false, batch)
            && self.shared.store_failed.get().is_none()
        {
            tracing::error!(%error, command = ?request.command, "what happens by itself did not");
        }
    }

    fn sweep(&mut self, batch: &mut Batch) {
        let options = self.shared.options();
        let now_ms = (options.clock)();
        if self.working.next_due(now_ms).is_some() {
            self.run_system_command(Command::Tick, batch);
        }
        let grace_ms = whole(options.grace.as_millis());
        let overdue = |peering: &&Peering| {
            peering.state == PeeringState::Provisioning && now_ms.saturating_sub(peering.since_ms) >= grace_ms
        };
        let overdue = self.working.unsettled().filter(overdue).map(|peering| peering.id.clone());
        for id in overdue.collect::<Vec<_>>() {
            self.run_system_command(Command::Activate(id), batch);
        }
        // What was missed elsewhere, for instance a report that came while its peering was being committed.
        batch.touched.extend(self.working.unsettled().map(|peering| peering.id.clone()));
        batch.heard.extend(self.working.retiring().map(|host| host.id.clone()));
    }

    /// Moves on what everyone has confirmed whom it waited for.
    fn settle(&mut self, batch: &mut Batch) {
        if self.shared.store_failed.get().is_some() {
            return;
        }
        let (touched, heard) = (std::mem::take(&mut batch.touched), std::mem::take(&mut batch.heard));
        let hosts = std::mem::take(&mut batch.hosts);
        let mut commands = Vec::new();
        {
            let Published { contacts, in_sync, .. } = self.shared.published();
            let agents = Agents { state: &self.working, contacts: &contacts, in_sync: &in_sync };
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
            let retired = heard.iter().filter_map(|id| self.working.hosts().get(id));
            let retired = retired.filter(|host| host.retiring && agents.is_in_sync(host));
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
            let trail = std::mem::take(&mut self.trail);
            let stored = self.shared.store.commit(&batch.changes, &batch.periods, &trail, batch.expected);
            self.shared.metrics.committed(began.elapsed());
            match stored {
                Ok(()) => self.publish(&batch.changes, std::mem::take(&mut batch.targets)),
                Err(error) => {
                    let error = Arc::new(error);
                    self.fail(&error, "a commit failed; no further command is accepted");
                    // Nothing of the batch was answered or seen. What the disk has of it is not known.
                    self.working = self.shared.published().state;
                    batch.answers.iter_mut().for_each(|(_, result)| *result = Err(Arc::clone(&error).into()));
                }
            }
        }
        if !batch.swept.is_empty() {
            self.flush();
        }
        for (answer, result) in batch.answers {
            answer(result);
        }
        for done in batch.swept {
            // Who asked may be gone.
            let _ = done.send(());
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

    /// Writes down what was refused or changed nothing.
    fn flush(&mut self) {
        if self.trail.is_empty() || self.shared.store_failed.get().is_some() {
            return;
        }
        if let Err(error) = self.shared.store.append(&std::mem::take(&mut self.trail)) {
            self.fail(&error, "the audit trail could not be written; no further command is accepted");
        }
    }

    fn fail(&self, error: &StoreError, what: &str) {
        tracing::error!(%error, "{what}");
        // The first reason is the one that counts.
        let _ = self.shared.store_failed.set(error.to_string());
    }
}
