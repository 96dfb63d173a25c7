//! How the host stands: what is reported after a look, and what is wrong.

use super::{MAX_PROBLEMS, Reconciler, Run, address_object, host_problem, whole};
use crate::{diff::LazyPlan, dirty_set::DirtySet, kernel::Kernel, objects::Operation, scope};
use cps_peering_config::{
    ValidHostConfig,
    report::{Pass, Problem, ProblemKind, Scope},
};
use nix::libc;
use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

impl<K: Kernel> Reconciler<K> {
    /// Reports how it stands. False when the configuration turned out not to be stored: then it never was.
    pub(super) fn publish(
        &mut self,
        config: &Arc<ValidHostConfig>,
        dirty: &DirtySet,
        problems: Vec<Problem>,
        seen: bool,
        run: Run,
    ) -> bool {
        if !self.stored.wait() {
            return false;
        }
        self.log(config, &problems, &run);
        if seen && problems.is_empty() {
            self.confirm_shares(config, dirty);
        }
        let had = self.compared.take();
        self.compared = if seen { Some(Arc::clone(config)) } else { had.clone() };
        // What is assumed as long as the underlay address is on no interface is nothing to tell others.
        let nowhere =
            |problem: &Problem| problem.kind == ProblemKind::Missing && problem.object == address_object(config);
        let assumed = self.options.underlay_mtu.is_none() && problems.iter().any(nowhere);
        self.report.send_modify(|report| {
            report.behind = scope::behind(report, had.as_ref().map(|config| &***config), &problems);
            if seen {
                report.applied = Some(config.revision);
            }
            report.problems = problems;
            report.underlay_mtu = self.underlay_params.filter(|_| !assumed).map(|params| params.underlay_mtu);
            report.counters = self.counters;
            report.last_pass = Some(Pass {
                ended_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| whole(since.as_millis())),
                duration_us: whole(run.took.as_micros()),
                operations: run.operations,
            });
        });
        true
    }

    /// What is wrong: conflicts, and what should still be done after everything that could be done was.
    pub(super) fn problems(
        &self,
        config: &ValidHostConfig,
        plan: &LazyPlan<'_>,
        trouble: Option<Problem>,
    ) -> Vec<Problem> {
        let conflicts = plan.conflicts.iter().map(|conflict| Problem {
            scope: scope::of_device(config, &conflict.device),
            kind: conflict.kind,
            object: format!("link {}", conflict.device),
            reason: conflict.reason.clone(),
        });
        let interference = plan.interference.iter().map(|it| Problem {
            scope: it.device.map_or(Scope::Host, |device| scope::of_device(config, &device)),
            kind: ProblemKind::Conflict,
            object: it.object.clone(),
            reason: it.reason.clone(),
        });
        // More than these are only counted.
        let more = plan.len().saturating_sub(2 * MAX_PROBLEMS);
        let undone = plan.operations().take(2 * MAX_PROBLEMS).map(|operation| {
            let object = operation.to_string();
            let (kind, reason) = match self.refused.get(&object) {
                // Ours was not there a moment ago, so it is another's.
                Some(refusal) if refusal.errno == libc::EEXIST => {
                    (ProblemKind::Conflict, format!("something that is not ours is in its place: {refusal}"))
                }
                Some(refusal) if refusal.errno == libc::EADDRINUSE => {
                    let port = self.options.vxlan_port;
                    let advice = format!("another program holds UDP port {port}, `ss -lunp sport = :{port}` names it");
                    (ProblemKind::Conflict, format!("{advice}: {refusal}"))
                }
                Some(refusal) => (ProblemKind::Failed, refusal.to_string()),
                None => (ProblemKind::Failed, "somebody keeps changing it".to_owned()),
            };
            Problem { scope: scope::of_operation(config, &operation), kind, reason, object }
        });
        let mut problems: Vec<Problem> =
            trouble.into_iter().chain(conflicts).chain(interference).chain(undone).collect();
        problems.sort();
        problems.dedup();
        if problems.len() > MAX_PROBLEMS {
            let count = problems.len() + more;
            problems.truncate(MAX_PROBLEMS - 1);
            let reason = format!("{count} objects are not as they should be; these are the first");
            problems.push(host_problem(ProblemKind::Failed, "kernel", reason));
        }
        problems
    }

    /// Adds what somebody keeps changing back: what is left as it is for now, and what is put right each time.
    pub(super) fn add_contested(
        &self,
        config: &ValidHostConfig,
        left: &[Operation],
        now: Instant,
        problems: &mut Vec<Problem>,
    ) {
        let room = MAX_PROBLEMS.saturating_sub(problems.len());
        let left = left.iter().filter_map(|operation| {
            let reason = self.backoff.rest(operation, now)?;
            let (scope, object) = (scope::of_operation(config, operation), operation.to_string());
            Some(Problem { scope, kind: ProblemKind::Conflict, object, reason })
        });
        let contested = self.backoff.contested(now).map(|(what, why)| host_problem(ProblemKind::Conflict, what, why));
        let contested: Vec<Problem> = left.chain(contested).take(room).collect();
        problems.extend(contested);
        problems.sort();
        problems.dedup();
    }

    fn log(&self, config: &ValidHostConfig, problems: &[Problem], run: &Run) {
        let (revision, operations, took) = (config.revision, run.operations, run.took);
        if operations > 0 {
            tracing::info!(%revision, operations, problems = problems.len(), ?took, "kernel changed");
        } else {
            tracing::debug!(%revision, problems = problems.len(), ?took, "kernel compared");
        }
        if *problems != self.report.borrow().problems {
            for problem in problems {
                let concerns = scope::words(config, &problem.scope);
                let (object, reason) = (&problem.object, &problem.reason);
                tracing::warn!(%revision, concerns, object, reason, "out of sync");
            }
        }
    }
}
