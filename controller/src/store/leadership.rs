//! Whether this process is the one that may write, and may tell hosts what to do.

use super::LeaseState;
use std::sync::Arc;

/// By what right this process leads. It is handed to whoever acts, and asked each time before something is sent.
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
    /// Whether it is certain at this moment that nobody else leads. What is said after that may contradict another.
    pub fn holds(&self) -> bool {
        match self {
            Leadership::Sole => true,
            Leadership::Leased(lease) => lease.holds(),
            Leadership::None => false,
        }
    }

    /// Waits until this process leads no more; for ever where it is the only one.
    pub async fn lost(&self) {
        match self {
            Leadership::Sole => std::future::pending().await,
            Leadership::Leased(lease) => {
                // The sender is a part of the lease: there is no error.
                let _ = lease.ended().wait_for(|ended| *ended).await;
            }
            Leadership::None => {}
        }
    }
}
