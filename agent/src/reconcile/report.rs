//! What is reported about the host.

use super::{Run, goal::Goal};
use crate::{dirty_set::DirtySet, scope};
use cps_peering_config::{
    HostReport, ValidHostConfig,
    report::{Counters, Pass, Problem, ProblemKind, Scope},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// The report, for its writers and readers: what is in the ledger, what is in the kernel, and what is wrong with
/// either.
#[derive(Debug, Clone)]
pub(super) struct Report {
    report: watch::Sender<HostReport>,
    wrong: Arc<Mutex<Wrong>>,
}

/// What is not as it should be.
#[derive(Debug, Default)]
struct Wrong {
    /// In the kernel.
    kernel: Vec<Problem>,
    /// With files that are being written, by the file.
    files: BTreeMap<String, String>,
}

impl Report {
    pub(super) fn new() -> Self {
        let report = HostReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: None,
            desired: None,
            applied: None,
            problems: Vec::new(),
            counters: Counters::default(),
            last_pass: None,
            underlay_mtu: None,
            knows_scoped_sides: true,
            behind: Vec::new(),
            vrfs: BTreeMap::new(),
            sides: BTreeMap::new(),
        };
        Self { report: watch::Sender::new(report), wrong: Arc::default() }
    }

    /// The current report, and each one that follows.
    pub(super) fn subscribe(&self) -> watch::Receiver<HostReport> {
        self.report.subscribe()
    }

    /// This configuration was accepted, and is stored.
    pub(super) fn accepted(&self, config: &ValidHostConfig) {
        self.report.send_modify(|report| {
            report.host = Some(config.host.clone());
            report.desired = Some(config.revision);
        });
    }

    /// A configuration that was applied to the kernel could not be stored, and this one, which is stored, comes back:
    /// until the next observation, the kernel's state is unknown.
    pub(super) fn taken_back_to(&self, config: &ValidHostConfig) {
        self.report.send_modify(|report| report.applied = None);
        self.accepted(config);
    }

    /// Why a file that is being written is not written yet; none once it is.
    pub(super) fn hangs(&self, file: &str, reason: Option<String>) {
        self.report.send_modify(|report| {
            let mut wrong = self.wrong();
            match reason {
                Some(reason) => drop(wrong.files.insert(file.to_owned(), reason)),
                None => drop(wrong.files.remove(file)),
            }
            report.problems = wrong.all();
        });
    }

    fn wrong(&self) -> MutexGuard<'_, Wrong> {
        // The value is complete at every moment.
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wrong {
    fn all(&self) -> Vec<Problem> {
        let file = |(file, reason): (&String, &String)| Problem {
            scope: Scope::Host,
            kind: ProblemKind::Failed,
            object: format!("file {file}"),
            reason: reason.clone(),
        };
        let mut all: Vec<Problem> = self.kernel.iter().cloned().chain(self.files.iter().map(file)).collect();
        all.sort();
        all
    }
}

/// The result of observing a dirty set.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) dirty: DirtySet,
    pub(super) problems: Vec<Problem>,
    /// Whether the kernel could be read.
    pub(super) seen: bool,
    pub(super) run: Run,
    /// The MTU of the underlay, in bytes, if it is known.
    pub(super) underlay_mtu: Option<u32>,
}

impl Finding {
    /// Whether all of the dirty set is as it should be.
    pub(super) fn is_clear(&self) -> bool {
        self.seen && self.problems.is_empty()
    }

    /// What is known after another observation for the same configuration.
    fn then(self, newer: Self) -> Self {
        let dirty = if self.is_clear() && newer.is_clear() { self.dirty.and(newer.dirty) } else { newer.dirty };
        Self { dirty, ..newer }
    }
}

/// What the reconciler reports.
#[derive(Debug)]
pub(super) struct Reporter {
    report: Report,
    counters: Counters,
    /// The configuration that the kernel was reported to have.
    applied: Option<Arc<ValidHostConfig>>,
    /// The last result, reported or not.
    problems: Vec<Problem>,
    /// The result for a configuration that is not stored yet: it is not reported before.
    held: Option<Finding>,
}

impl Reporter {
    pub(super) fn new(report: Report) -> Self {
        Self { report, counters: Counters::default(), applied: None, problems: Vec::new(), held: None }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn count(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Whether nothing was wrong in the kernel at the last observation.
    pub(super) fn is_clear(&self) -> bool {
        self.problems.is_empty()
    }

    /// Another configuration is the goal.
    pub(super) fn configured(&mut self) {
        self.held = None;
    }

    /// Takes a result. Returns what may be confirmed of it: nothing while the configuration is not stored.
    pub(super) fn found(&mut self, goal: &Goal, config: &ValidHostConfig, finding: Finding) -> Option<Finding> {
        self.log(config, &finding);
        self.problems.clone_from(&finding.problems);
        if goal.is_stored() {
            return Some(finding);
        }
        let (counters, pass) = (self.counters, finding.pass());
        self.report.report.send_modify(|report| {
            report.counters = counters;
            report.last_pass = Some(pass);
        });
        self.held = Some(match self.held.take() {
            Some(before) => before.then(finding),
            None => finding,
        });
        None
    }

    /// The configuration is stored now. Returns what may therefore be confirmed.
    pub(super) fn stored(&mut self) -> Option<Finding> {
        self.held.take()
    }

    /// Reports the result for a configuration that is stored.
    pub(super) fn tell(&mut self, config: &Arc<ValidHostConfig>, finding: Finding) {
        let had = self.applied.clone();
        if finding.seen {
            self.applied = Some(Arc::clone(config));
        }
        let (counters, pass) = (self.counters, finding.pass());
        self.report.report.send_modify(|report| {
            // Also if it was taken back since.
            let before = std::mem::replace(&mut report.applied, had.as_ref().map(|config| config.revision));
            report.behind = scope::behind(report, had.as_ref().map(|config| &***config), &finding.problems);
            report.applied = if finding.seen { Some(config.revision) } else { before };
            let mut wrong = self.report.wrong();
            wrong.kernel = finding.problems;
            report.problems = wrong.all();
            report.underlay_mtu = finding.underlay_mtu;
            report.counters = counters;
            report.last_pass = Some(pass);
        });
    }

    fn log(&self, config: &ValidHostConfig, finding: &Finding) {
        let (revision, Run { operations, took }) = (config.revision, finding.run);
        if operations > 0 {
            tracing::info!(%revision, operations, problems = finding.problems.len(), ?took, "kernel changed");
        } else {
            tracing::debug!(%revision, problems = finding.problems.len(), ?took, "kernel compared");
        }
        if finding.problems != self.problems {
            for problem in &finding.problems {
                let concerns = scope::words(config, &problem.scope);
                let (object, reason) = (&problem.object, &problem.reason);
                tracing::warn!(%revision, concerns, object, reason, "out of sync");
            }
        }
    }
}

impl Finding {
    fn pass(&self) -> Pass {
        Pass {
            ended_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| whole(since.as_millis())),
            duration_us: whole(self.run.took.as_micros()),
            operations: self.run.operations,
        }
    }
}

/// A count of milliseconds or microseconds; the largest number is more than half a million years.
fn whole(count: u128) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{
        super::goal::{Stored, tests::config},
        *,
    };
    use crate::dirty_set::Parts;
    use cps_peering_config::Revision;
    use std::time::Duration;

    fn problem(object: &str) -> Problem {
        Problem {
            scope: Scope::Host,
            kind: ProblemKind::Failed,
            object: object.to_owned(),
            reason: "because".to_owned(),
        }
    }

    fn finding(side: u32, problems: &[&str]) -> Finding {
        Finding {
            dirty: DirtySet::Parts(Parts { sides: [side.try_into().unwrap()].into(), ..Parts::default() }),
            problems: problems.iter().map(|object| problem(object)).collect(),
            seen: true,
            run: Run { operations: 1, took: Duration::from_millis(1) },
            underlay_mtu: Some(1500),
        }
    }

    fn objects(report: &Report) -> Vec<String> {
        report.report.borrow().problems.iter().map(|problem| problem.object.clone()).collect()
    }

    #[test]
    fn what_is_not_stored_is_not_reported_except_the_progress() {
        let report = Report::new();
        let mut reporter = Reporter::new(report.clone());
        let (mut goal, config) = (Goal::default(), config(2));
        goal.follow(Arc::clone(&config), Stored::NotYet, true);
        reporter.count().passes = 3;
        assert!(reporter.found(&goal, &config, finding(7, &[])).is_none());
        assert!(reporter.found(&goal, &config, finding(8, &[])).is_none());
        let told = report.report.borrow().clone();
        assert_eq!((told.applied, told.counters.passes, told.last_pass.is_some()), (None, 3, true));
        let held = reporter.stored().unwrap();
        let DirtySet::Parts(parts) = &held.dirty else { panic!("{held:?}") };
        assert_eq!(parts.sides.len(), 2, "both were seen");
        reporter.tell(&config, held);
        assert_eq!(report.report.borrow().applied, Some(Revision { epoch: 1, number: 2 }));
        assert!(reporter.stored().is_none());
    }

    #[test]
    fn results_of_one_configuration_are_not_reported_for_the_next() {
        let mut reporter = Reporter::new(Report::new());
        let (mut goal, config) = (Goal::default(), config(2));
        goal.follow(Arc::clone(&config), Stored::NotYet, true);
        assert!(reporter.found(&goal, &config, finding(7, &["link a"])).is_none());
        reporter.configured();
        assert!(reporter.stored().is_none());
        assert!(!reporter.is_clear(), "what is wrong may still be");
    }

    #[test]
    fn a_configuration_that_comes_back_is_not_reported_before_an_observation() {
        let report = Report::new();
        let mut reporter = Reporter::new(report.clone());
        let config = config(2);
        report.accepted(&config);
        reporter.tell(&config, finding(7, &[]));
        assert!(report.report.borrow().in_sync());
        report.taken_back_to(&config);
        let applied = || report.report.borrow().applied;
        assert_eq!((applied(), report.report.borrow().desired), (None, Some(config.revision)));
        reporter.tell(&config, Finding { seen: false, ..finding(7, &["kernel"]) });
        assert_eq!(applied(), None, "it could not be read");
        let behind = report.report.borrow().behind.clone();
        assert_eq!(behind[0].applied, Some(config.revision), "what it had once it had");
        reporter.tell(&config, finding(7, &[]));
        assert!(report.report.borrow().in_sync());
    }

    #[test]
    fn a_file_that_hangs_is_a_problem_beside_those_of_the_kernel() {
        let report = Report::new();
        let mut reporter = Reporter::new(report.clone());
        let (mut goal, config) = (Goal::default(), config(2));
        goal.follow(Arc::clone(&config), Stored::Yes, true);
        report.hangs("/l", Some("the disk".to_owned()));
        let found = reporter.found(&goal, &config, finding(7, &["link a"])).unwrap();
        reporter.tell(&config, found);
        assert_eq!(objects(&report), ["file /l", "link a"]);
        let found = reporter.found(&goal, &config, finding(7, &[])).unwrap();
        reporter.tell(&config, found);
        assert!(objects(&report) == ["file /l"] && reporter.is_clear(), "the kernel is right");
        report.hangs("/l", None);
        assert!(objects(&report).is_empty());
    }
}
