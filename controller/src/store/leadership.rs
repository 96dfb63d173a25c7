//! Whether this process may write, and configure hosts.

use crate::clock::boot_ms;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::watch;

/// The state of a lease, for those who act only while it holds.
pub struct LeaseState {
    /// Until when no other process can lead, by [`boot_ms`]; 0 when it is over.
    until_ms: AtomicU64,
    ended: watch::Sender<bool>,
}

impl LeaseState {
    /// A lease that holds until a time, by [`boot_ms`].
    pub(super) fn new(until_ms: u64) -> Self {
        Self { until_ms: AtomicU64::new(until_ms), ended: watch::Sender::new(false) }
    }

    /// Whether it is certain at this moment that no other process leads.
    pub(super) fn holds(&self) -> bool {
        boot_ms() < self.until_ms.load(Ordering::Acquire)
    }

    /// It was renewed.
    pub(super) fn extend(&self, until_ms: u64) {
        // If it was ended meanwhile, it stays ended.
        let _ =
            self.until_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| (before > 0).then_some(until_ms));
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
        self.ended.send_replace(true);
    }
}

/// The leadership of this process. It is handed to those who act, and checked each time before something is sent.
#[derive(Clone)]
pub enum Leadership {
    /// The store is locked for this process as long as it is open.
    Sole,
    /// The store is shared: this process leads as long as it holds the lease.
    Leased(Arc<LeaseState>),
    /// It only reads.
    None,
}

impl Leadership {
    /// Whether it is certain at this moment that no other process leads. Later statements may contradict another leader.
    pub fn holds(&self) -> bool {
        match self {
            Leadership::Sole => true,
            Leadership::Leased(lease) => lease.holds(),
            Leadership::None => false,
        }
    }

    /// Completes when this process has lost leadership; never if it is the only one.
    pub async fn lost(&self) {
        match self {
            Leadership::Sole => std::future::pending().await,
            Leadership::Leased(lease) => {
                // The sender is a part of the lease: there is no error.
                let _ = lease.ended.subscribe().wait_for(|ended| *ended).await;
            }
            Leadership::None => {}
        }
    }
}
