//! Callers that wait for a peering to change. A change wakes only those.

use cps_peering_config::id::PeeringId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_peering: Mutex<BTreeMap<PeeringId, Vec<oneshot::Sender<()>>>>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeeringId, Vec<oneshot::Sender<()>>>> {
        // Each change leaves it whole.
        self.by_peering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when the peering changes after this was called.
    pub(super) fn enter(&self, id: &PeeringId) -> oneshot::Receiver<()> {
        let (send, receive) = oneshot::channel();
        let mut by_peering = self.lock();
        let waiting = by_peering.entry(id.clone()).or_default();
        // Those that have stopped waiting.
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(send);
        receive
    }

    /// Wakes all callers that wait for one of these.
    pub(super) fn wake(&self, changed: &BTreeSet<PeeringId>) {
        let mut by_peering = self.lock();
        if by_peering.is_empty() {
            return;
        }
        for sender in changed.iter().filter_map(|id| by_peering.remove(id)).flatten() {
            // The caller may have stopped waiting.
            let _ = sender.send(());
        }
    }
}
