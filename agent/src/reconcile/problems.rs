//! What is wrong with a host, after its kernel was observed.

use super::{
    MAX_PROBLEMS, Reconciler,
    causes::{Cause, Causes},
    host_problem,
};
use crate::{diff::LazyPlan, kernel::Kernel, objects::Operation, scope};
use cps_peering_config::{
    ValidHostConfig,
    net::InterfaceName,
    report::{Problem, ProblemKind, Scope},
};
use nix::libc;
use std::{collections::BTreeMap, time::Instant};

impl<K: Kernel> Reconciler<K> {
    /// The problems: conflicts, and what is still to be done after everything that could be done was. Operations that wait
    /// for another object are counted with it, and named once for each VPC and peering. `causes` says why operations were
    /// not tried.
    pub(super) fn problems(
        &self,
        config: &ValidHostConfig,
        plan: &LazyPlan<'_>,
        trouble: Option<Problem>,
        mut causes: Causes<'_>,
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
        let (mut undone, mut waiting, mut more) = (BTreeMap::new(), Waiting::default(), 0);
        for operation in plan.operations() {
            if let Some(cause) = causes.take(&operation) {
                waiting.add(config, &operation, cause);
            } else if undone.len() < 2 * MAX_PROBLEMS {
                undone.entry(operation.to_string()).or_insert_with(|| scope::of_operation(config, &operation));
            } else {
                // More than these are only counted.
                more += 1;
            }
        }
        let undone = undone.into_iter().map(|(object, scope)| {
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
            let reason = waiting.counted(&object, reason);
            Problem { scope, kind, reason, object }
        });
        let undone: Vec<Problem> = undone.collect();
        let waiting = waiting.elsewhere(&undone);
        let mut problems: Vec<Problem> =
            trouble.into_iter().chain(conflicts).chain(interference).chain(undone).chain(waiting).collect();
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

/// Operations that wait for something else that could not be done.
#[derive(Default)]
struct Waiting {
    /// By the object that they wait for and their scope: how many there are, and the object of the first one.
    of: BTreeMap<(String, Scope), (usize, String)>,
    /// The scopes of devices, which are costly to find.
    scopes: BTreeMap<InterfaceName, Scope>,
}

impl Waiting {
    fn add(&mut self, config: &ValidHostConfig, operation: &Operation, Cause { object, device }: Cause) {
        let scope = match device {
            // There may be a million of the same device.
            Some(device) => self.scopes.entry(device).or_insert_with(|| scope::of_device(config, &device)).clone(),
            None => scope::of_operation(config, operation),
        };
        self.of.entry((object, scope)).or_insert_with(|| (0, operation.to_string())).0 += 1;
    }

    /// Adds to a reason how many operations wait for the object.
    fn counted(&self, object: &str, reason: String) -> String {
        let all = self.of.range((object.to_owned(), Scope::Host)..).take_while(|((cause, _), _)| cause == object);
        match all.map(|(_, (count, _))| count).sum() {
            0 => reason,
            1 => format!("{reason}; one operation waits for it"),
            count => format!("{reason}; {count} operations wait for it"),
        }
    }

    /// One problem for each VPC and peering that waits for an object of another scope: it is not in sync either.
    fn elsewhere(self, undone: &[Problem]) -> Vec<Problem> {
        let is_reported = |object: &str, scope: &Scope| {
            undone.iter().any(|problem| problem.object == object && problem.scope == *scope)
        };
        let of = self.of.into_iter().filter(|((cause, scope), _)| !is_reported(cause, scope));
        let problem = |((cause, scope), (count, object))| {
            let more = if count > 1 { format!(", as {} more operations do", count - 1) } else { String::new() };
            Problem { scope, kind: ProblemKind::Failed, object, reason: format!("waits for {cause}{more}") }
        };
        of.map(problem).collect()
    }
}
