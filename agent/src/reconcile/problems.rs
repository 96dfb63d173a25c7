//! What is wrong with a host, after its kernel was observed.

use super::{MAX_PROBLEMS, Reconciler, host_problem};
use crate::{diff::LazyPlan, kernel::Kernel, objects::Operation, scope};
use cps_peering_config::{
    ValidHostConfig,
    report::{Problem, ProblemKind, Scope},
};
use nix::libc;
use std::time::Instant;

impl<K: Kernel> Reconciler<K> {
    /// The problems: conflicts, and what is still to be done after everything that could be done was.
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
                // Ours was missing a moment ago, so it belongs to another program.
                Some(refusal) if refusal.errno == libc::EEXIST => {
                    (ProblemKind::Conflict, format!("an object that is not ours is in its place: {refusal}"))
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

    /// Adds what another program keeps changing back: what is left alone for now, and what is repaired each time.
    pub(super) fn add_contested(
        &self,
        config: &ValidHostConfig,
        left: &[Operation],
        now: Instant,
        problems: &mut Vec<Problem>,
    ) {
        let room = MAX_PROBLEMS.saturating_sub(problems.len());
        let left = left.iter().filter_map(|operation| {
            let reason = self.contention.rest(operation, now)?;
            let (scope, object) = (scope::of_operation(config, operation), operation.to_string());
            Some(Problem { scope, kind: ProblemKind::Conflict, object, reason })
        });
        let contested =
            self.contention.contested(now).map(|(what, why)| host_problem(ProblemKind::Conflict, what, why));
        let contested: Vec<Problem> = left.chain(contested).take(room).collect();
        problems.extend(contested);
        problems.sort();
        problems.dedup();
    }
}
