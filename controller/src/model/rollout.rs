//! Changes that reach some hosts before the others.
//!
//! Which hosts those are is decided where it is known what each must have ([`pacing`](crate::engine)); here is what is remembered, and
//! how it ends.

use super::{
    Code, CommandError, Transaction,
    record::{Host, Rollout},
    state::{Change, Meta},
};
use cps_peering_config::SeenRevision;
use serde::Serialize;

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// All hosts get it, whatever the first ones have said.
    Continue {
        /// What the hosts are to get that wait, as its record says; none where it is whatever they wait for.
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<SeenRevision>,
    },
    /// The hosts that do not have it yet get it when an operator says so.
    Stop {
        /// The reason.
        why: String,
    },
    /// All hosts get it, because the first ones have it and are well.
    Finish,
    /// It was taken back, and nobody waits any more.
    Withdraw,
}

/// Carries a step out. Where there is no rollout, or one has just ended, there is nothing to do.
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

/// Nothing is held back any more.
fn end(tx: &mut Transaction<'_>) {
    let paced: Vec<Host> = tx.state.hosts().values().filter(|host| host.pacing.is_some()).cloned().collect();
    for host in paced {
        tx.change(Change::Host(host.id.clone(), Some(Host { pacing: None, ..host })));
    }
    let meta = tx.state.meta();
    tx.change(Change::Meta(Meta { rollout: None, ..meta }));
}
