//! Brings the kernel to the configuration, and keeps it there.
//!
//! One thread owns the kernel. It observes the kernel, compares, changes what differs and observes again, until nothing
//! differs or nothing more can be done. It does so when a configuration arrives, when an event reports a change, after
//! a while when something failed, and periodically. What it saw last is the report. It flushes nothing when it starts
//! and nothing when it stops.

mod allocation;
mod causes;
mod changes;
mod contention;
mod counting;
mod goal;
mod handle;
mod inbox;
mod message;
mod options;
mod problems;
mod report;
mod requests;
mod schedule;
mod seen;
mod traced;
mod writes;

pub use handle::{Handle, Promise, start, start_with};
pub use message::{Granted, PersistentState, RequestError};
pub use options::Options;
pub(crate) use writes::UNTIL_WRITTEN;

use crate::{
    compile::{UnderlayParams, compile},
    diff::{Conflict, Interference, LazyPlan, lazy_diff, quiesce},
    dirty_set::{DirtySet, Parts},
    kernel::{Interest, Kernel, KernelError, NetlinkError},
    objects::Operation,
    ports, scope,
};
use allocation::Allocation;
use causes::Causes;
use changes::Changes;
use contention::Contention;
use counting::Counting;
use cps_peering_config::{
    ValidHostConfig,
    report::{Problem, ProblemKind, Scope},
};
use goal::Goal;
use message::Message;
use report::{Finding, Reporter};
use schedule::{Outcome, Schedule, Waited};
use seen::Seen;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};
use traced::Traced;

/// How many rounds of observation and change one pass makes before it gives up for now. The kernel removes objects
/// along with others, so a plan may need a second round; more are needed only while another program changes the same
/// objects.
const ROUNDS: usize = 5;
/// Operations between two checks for a newer configuration.
const CHUNK: usize = 4096;
/// The longest list of problems in a report; the last one then gives the total.
const MAX_PROBLEMS: usize = 200;
/// Each part has its own state, and only its own methods change it.
struct Reconciler<K> {
    kernel: K,
    options: Options,
    inbox: Receiver<Message>,
    /// Set while a configuration is waiting that is newer than the current one.
    newer: Arc<AtomicBool>,
    goal: Goal,
    changes: Changes,
    schedule: Schedule,
    seen: Seen,
    allocation: Allocation,
    counting: Counting,
    reporter: Reporter,
    /// What another program keeps changing back.
    contention: Contention,
    /// What the kernel refused in the current pass, by operation; the first ones.
    refused: BTreeMap<String, NetlinkError>,
    /// For those who listen to events.
    interest: Interest,
    /// Whether the work on the configuration is recorded.
    traced: Traced,
}

/// What an observation cost.
#[derive(Debug, Clone, Copy)]
struct Run {
    operations: u64,
    took: Duration,
}

/// Enough of a plan to see whether the next one is the same, and cheap to keep.
#[derive(PartialEq)]
struct Outline {
    length: usize,
    first: Vec<Operation>,
    conflicts: Vec<Conflict>,
    interference: Vec<Interference>,
}

impl Outline {
    fn of(plan: &LazyPlan<'_>) -> Self {
        let first = plan.operations().take(MAX_PROBLEMS).collect();
        let (conflicts, interference) = (plan.conflicts.clone(), plan.interference.clone());
        Self { length: plan.len(), first, conflicts, interference }
    }
}

impl<K: Kernel> Reconciler<K> {
    fn run(mut self) {
        loop {
            let waited = match self.schedule.next() {
                None => self.drain(Waited::Configured),
                Some(next) => {
                    let Some(waited) = self.wait_polling(next) else { return };
                    waited
                }
            };
            let started = Instant::now();
            self.schedule.begins(waited, started);
            let outcome = self.pass();
            self.measure_sometimes();
            self.schedule.ended(outcome, waited, started.elapsed(), Instant::now());
        }
    }

    /// Observes what the configuration changed, and everything when that is due.
    fn pass(&mut self) -> Outcome {
        let Some(config) = self.goal.config().cloned() else { return Outcome::Nothing };
        if let Err(error) = self.quiesce() {
            // The observation that follows then fails, too, or does it.
            tracing::error!(%error, "the kernel could not be read or changed");
        }
        if let Some(underlay_params) = self.seen.quick_way(self.changes.dirty(), self.schedule.is_due()) {
            let was_clear = self.reporter.is_clear();
            let dirty = self.changes.dirty().clone();
            let is_nothing = dirty.is_nothing();
            match self.attempt(&config, dirty, Some(underlay_params)) {
                None => return Outcome::Superseded,
                Some(finding) if finding.is_clear() && was_clear => {
                    self.publish(&config, finding);
                    if !is_nothing {
                        self.schedule.part_was_changed(Instant::now());
                    }
                    self.changes.clear();
                    self.goal.reached();
                    if !self.schedule.is_due() {
                        return Outcome::InSync;
                    }
                }
                Some(_) => {}
            }
        }
        self.schedule.make_due();
        let Some(finding) = self.attempt(&config, DirtySet::Everything, None) else {
            self.schedule.deferred(Instant::now());
            return Outcome::Superseded;
        };
        let (seen, in_sync) = (finding.seen, finding.problems.is_empty());
        self.publish(&config, finding);
        if seen {
            self.changes.clear();
        }
        if in_sync {
            self.goal.reached();
            self.schedule.all_is_right();
        }
        if in_sync { Outcome::InSync } else { Outcome::Troubled }
    }

    /// Reports the result; while the configuration is not stored, nothing that would confirm it. The kernel is kept
    /// right meanwhile: a disk may hang for long.
    fn publish(&mut self, config: &Arc<ValidHostConfig>, finding: Finding) {
        if finding.seen {
            self.goal.compared();
        }
        if let Some(finding) = self.reporter.found(&self.goal, config, finding) {
            self.confirm(config, finding);
        }
    }

    /// Confirms the result for a configuration that would survive a reboot.
    fn confirm(&mut self, config: &Arc<ValidHostConfig>, finding: Finding) {
        if finding.is_clear() {
            self.allocation.confirm_all(config, &finding.dirty);
        }
        self.reporter.tell(config, finding);
    }

    /// Ends the traffic of sides to be removed, before anything is read that takes time, for instance their routes.
    fn quiesce(&mut self) -> Result<(), KernelError> {
        let Some(devices) = self.changes.take_ending() else { return Ok(()) };
        let parts = Parts { devices, ..Parts::default() };
        let observed = self.kernel.observe(&DirtySet::Parts(parts), &|| false)?;
        self.apply(&quiesce(&observed)).map(drop)
    }

    /// Carries out operations, and counts them. Returns those that were refused.
    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let refused = self.kernel.apply(operations)?;
        self.reporter.count().operations += (operations.len() - refused.len()) as u64;
        Ok(refused)
    }

    /// Observes a dirty set and changes what differs. None if a newer configuration arrived.
    fn attempt(&mut self, config: &ValidHostConfig, dirty: DirtySet, known: Option<UnderlayParams>) -> Option<Finding> {
        let started = Instant::now();
        let mut recorded = self.traced.attempt(config.revision);
        let before = self.reporter.counters().operations;
        self.refused.clear();
        self.reporter.count().passes += 1;
        let (problems, seen) = match self.rounds(config, &dirty, known) {
            Ok(None) | Err(KernelError::Abandoned) => {
                recorded.superseded();
                return None;
            }
            Ok(Some(problems)) => (problems, true),
            Err(error) => {
                tracing::error!(%error, "the kernel could not be read or changed; trying again");
                (vec![host_problem(ProblemKind::Failed, "kernel", error.to_string())], false)
            }
        };
        let run = Run { operations: self.reporter.counters().operations - before, took: started.elapsed() };
        recorded.ended(run.operations, &problems, seen);
        let underlay_mtu = self.seen.underlay().filter(|_| !self.options.assumes_mtu(config, &problems));
        let underlay_mtu = underlay_mtu.map(|params| params.underlay_mtu);
        Some(Finding { dirty, problems, seen, run, underlay_mtu })
    }

    /// Observes and changes until nothing differs, or nothing more can be done. Returns what is wrong then; none if a
    /// newer configuration arrived.
    fn rounds(
        &mut self,
        config: &ValidHostConfig,
        dirty: &DirtySet,
        known: Option<UnderlayParams>,
    ) -> Result<Option<Vec<Problem>>, KernelError> {
        let mut last = None;
        for round in 0.. {
            let newer = Arc::clone(&self.newer);
            let whole = *dirty == DirtySet::Everything;
            let may_wait = !whole || self.schedule.may_defer(Instant::now());
            if whole {
                self.schedule.look_begins();
            }
            let dirty = &*ports::dirty_in_kernel_names(dirty, self.seen.aliases());
            let observed = self.kernel.observe(dirty, &|| may_wait && newer.load(Ordering::Relaxed))?;
            if whole {
                self.schedule.looked(Instant::now());
                self.seen.find_ports(config, &observed.links);
            }
            let config = &*ports::in_kernel_names(config, self.seen.aliases());
            self.interest.learn(config, &observed, dirty);
            let (underlay_params, trouble) = match known {
                Some(underlay_params) => (underlay_params, None),
                None => self.options.underlay_params(config, &observed),
            };
            let mut desired = compile(config, underlay_params, dirty);
            if let Some(port) = desired.ports.keys().find(|port| !whole && !observed.links.contains_key(*port)) {
                // It may be there under another name, which a full observation finds out.
                return Ok(Some(vec![host_problem(ProblemKind::Missing, format!("link {port}"), "not seen")]));
            }
            self.allocation.adjust(config, &mut desired);
            let now = Instant::now();
            desired.left_alone = self.contention.closed(now);
            let mut plan = lazy_diff(&desired, &observed);
            let left = plan.take_out(|operation| self.contention.rest(operation, now).is_some());
            let members = desired.ports.keys().chain(desired.vrfs.keys());
            let members = members.filter_map(|name| Some((observed.links.get(name)?.index, *name))).collect();
            let causes = Causes::new(&members, &left);
            // It may be as large as the plan.
            drop(observed);
            if known.is_none() {
                self.seen.note_underlay(underlay_params, &plan.conflicts);
            }
            let outline = Outline::of(&plan);
            let stuck = round == ROUNDS || last.as_ref() == Some(&outline);
            if plan.is_empty() || stuck {
                if whole {
                    self.seen.left(plan.operations().chain(left.iter().cloned()));
                }
                let mut problems = self.problems(config, &plan, trouble, causes);
                self.add_contested(config, &left, now, &mut problems);
                return Ok(Some(problems));
            }
            if !self.carry_out(config, &plan, causes)? {
                return Ok(None);
            }
            last = Some(outline);
        }
        unreachable!("the last round is stuck")
    }

    /// Carries out a plan. `causes` says why operations were not tried. False if a newer configuration arrived meanwhile.
    fn carry_out(
        &mut self,
        config: &ValidHostConfig,
        plan: &LazyPlan<'_>,
        mut causes: Causes<'_>,
    ) -> Result<bool, KernelError> {
        let mut operations = plan.operations();
        let mut chunk = Vec::with_capacity(CHUNK.min(plan.len()));
        loop {
            chunk.clear();
            chunk.extend(operations.by_ref().take(CHUNK));
            if chunk.is_empty() {
                return Ok(true);
            }
            if let Some(with_rates) = self.allocation.with_rates_of_now(&chunk, config, self.seen.underlay()) {
                chunk = with_rates;
            }
            self.measure_before(&chunk);
            let refused = self.apply(&chunk)?;
            self.reporter.count().failures += refused.len() as u64;
            for (place, _) in &refused {
                self.seen.refused(&chunk[*place]);
            }
            if self.goal.was_reached() {
                self.reporter.count().drift_repaired += (chunk.len() - refused.len()) as u64;
                let mut refused = refused.iter().map(|(place, _)| *place).peekable();
                for (place, operation) in chunk.iter().enumerate().take(MAX_PROBLEMS) {
                    if refused.next_if_eq(&place).is_some() {
                        continue;
                    }
                    let concerns = scope::words(config, &scope::of_operation(config, operation));
                    tracing::info!(revision = %config.revision, concerns, %operation, "repaired");
                }
            }
            // Not what a new configuration brings.
            if self.goal.was_compared() {
                let now = Instant::now();
                let mut refused = refused.iter().map(|(place, _)| *place).peekable();
                for (place, operation) in chunk.iter().enumerate().take(MAX_PROBLEMS) {
                    if refused.next_if_eq(&place).is_none() {
                        self.contention.note(operation, now);
                    }
                }
            }
            let room = (2 * MAX_PROBLEMS).saturating_sub(self.refused.len());
            let told = refused.into_iter().filter(|(place, _)| causes.take(&chunk[*place]).is_none()).take(room);
            self.refused.extend(told.map(|(place, refusal)| (chunk[place].to_string(), refusal)));
            match self.drain(Waited::Pause) {
                Waited::Configured => return Ok(false),
                // What events may be about is observed later.
                Waited::Port | Waited::Event | Waited::Pause => {}
            }
        }
    }
}

fn host_problem(kind: ProblemKind, object: impl Into<String>, reason: impl Into<String>) -> Problem {
    Problem { scope: Scope::Host, kind, object: object.into(), reason: reason.into() }
}
