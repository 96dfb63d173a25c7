//! Changes that reach some hosts before the others.
//!
//! Which hosts those are is decided where it is known what each must have ([`pacing`](crate::engine)); here is what is remembered, and
//! how it ends.

use super::{
    Transaction,
    record::{Host, Pacing},
    state::{Change, Meta},
};
use serde::{Deserialize, Serialize};

/// A change that has reached some hosts, and not yet the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The number of the commit that began it.
    pub number: u64,
    /// When that was, in milliseconds since 1970-01-01 UTC.
    pub begun_ms: u64,
    /// Whether it goes on only when an operator says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

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

impl Host {
    /// The number of the configuration that it has, and goes on to have while others get theirs first; none where it does not wait.
    pub fn held_with(&self) -> Option<u64> {
        match self.pacing {
            Some(Pacing::Held { has, plan }) if plan == self.config_number => Some(has),
            _ => None,
        }
    }

    /// Whether it does not get yet what it must have, because others get theirs first.
    pub fn is_held_back(&self) -> bool {
        self.held_with().is_some()
    }
}
