//! Rollouts: changes that some hosts get before the others.
//!
//! Which hosts these are is decided where configurations are planned ([`pacing`](crate::engine)); this module has the records and
//! how a rollout ends.

use super::{
    Code, CommandError, Transaction,
    record::{Host, Rollout},
    state::{Change, Meta},
};
use cps_peering_config::SeenRevision;
use serde::Serialize;

/// A step of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// All hosts get the change, whatever the state of the canaries.
    Continue {
        /// The revision that was reviewed; none for the current one.
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<SeenRevision>,
    },
    /// The hosts that do not have it yet wait for an operator.
    Stop {
        /// The reason.
        why: String,
    },
    /// All hosts get it: the canaries have it and are healthy.
    Finish,
    /// It was reverted, and no host waits any more.
    Withdraw,
}

/// Executes a step. If there is no rollout, or it has just ended, there is nothing to do.
pub(super) fn step(tx: &mut Transaction<'_>, step: &Step) -> Result<(), CommandError> {
    let meta = tx.state.meta();
    let Some(rollout) = meta.rollout else { return Ok(()) };
    match step {
        Step::Continue { revision: Some(agreed) } if !agreed.is(rollout.revision) => {
            let rule = format!("hosts wait for {}, not for {agreed}: see `cps-peering rollout show`", rollout.revision);
            return Err(CommandError::one(Code::Aborted, "revision", rule, "RolloutChanged"));
        }
        Step::Continue { .. } | Step::Finish | Step::Withdraw => end(tx),
        Step::Stop { .. } if rollout.stopped => {}
        Step::Stop { .. } => {
            tx.change(Change::Meta(Meta { rollout: Some(Rollout { stopped: true, ..rollout }), ..meta }));
        }
    }
    Ok(())
}

/// No host is held back any more.
fn end(tx: &mut Transaction<'_>) {
    let paced: Vec<Host> = tx.state.hosts().values().filter(|host| host.pacing.is_some()).cloned().collect();
    for host in paced {
        tx.change(Change::Host(host.id.clone(), Some(Host { pacing: None, ..host })));
    }
    let meta = tx.state.meta();
    tx.change(Change::Meta(Meta { rollout: None, ..meta }));
}
