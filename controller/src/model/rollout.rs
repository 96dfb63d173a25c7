//! Changes that reach some hosts before the others.
//!
//! Which hosts those are is decided where it is known what each must have ([`pacing`](crate::engine)); here is what is remembered, and
//! how it ends.

use super::{
    Transaction,
    record::{Host, Rollout},
    state::{Change, Meta},
};
use serde::Serialize;

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// All hosts get it, whatever the first ones have said.
    Continue,
    /// The hosts that do not have it yet get it when an operator says so.
    Stop {
        /// Why.
        why: String,
    },
    /// All hosts get it, because the first ones have it and are well.
    Finish,
}

/// Carries a step out. Where there is no rollout, or one has just ended, there is nothing to do.
pub(super) fn step(tx: &mut Transaction<'_>, step: &Step) {
    let meta = tx.state.meta();
    let Some(rollout) = meta.rollout else { return };
    match step {
        Step::Continue | Step::Finish => end(tx),
        Step::Stop { .. } if rollout.stopped => {}
        Step::Stop { .. } => {
            tx.change(Change::Meta(Meta { rollout: Some(Rollout { stopped: true, ..rollout }), ..meta }));
        }
    }
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
