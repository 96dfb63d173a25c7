//! What reaches the reconciler, and what it starts with.

use super::Options;
use crate::{
    kernel::{Event, KernelError},
    shares::Shares,
    traffic::Meter,
};
use cps_peering_config::{
    Revision, ValidHostConfig,
    traffic::{Grants, TrafficReport},
};
use std::sync::{Arc, mpsc::Receiver};
use thiserror::Error;
use tokio::sync::oneshot;

/// Why the reconciler looks at the kernel.
#[derive(Debug)]
pub(super) enum Message {
    Configured(Arc<ValidHostConfig>, Stored),
    Event(Event),
    Asked(Request),
    Tuned(Options),
}

/// Tells whether a configuration is in the ledger, once that is known. Work on it begins before: what ends traffic must not
/// wait for a disk. But nothing is confirmed to anybody before it would survive a reboot.
#[derive(Debug)]
pub(super) enum Stored {
    Yes,
    Soon(Receiver<()>),
}

impl Stored {
    /// Waits until it is known. False when it could not be stored; then the one before comes back.
    pub(super) fn wait(&mut self) -> bool {
        if let Self::Soon(word) = self {
            if word.recv().is_err() {
                return false;
            }
            *self = Self::Yes;
        }
        true
    }
}

/// A question to the reconciler.
#[derive(Debug)]
pub(super) enum Request {
    Grant(Grants, oneshot::Sender<Result<Granted, RequestError>>),
    Traffic(oneshot::Sender<Result<TrafficReport, RequestError>>),
    Alive(oneshot::Sender<()>),
}

/// What came of grants.
#[derive(Debug)]
pub struct Granted {
    /// The sides with a limit.
    pub report: TrafficReport,
    /// All shares, to be kept before anything is confirmed.
    pub shares: Shares,
}

/// Why the reconciler gave no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The grants are older than others.
    #[error("grants {pushed} are older than {have}, which this host has")]
    Older {
        /// These.
        pushed: Revision,
        /// The others.
        have: Revision,
    },
    /// The kernel could not be read or changed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// It is busy, or has ended.
    #[error("the agent is busy; ask again")]
    Busy,
}

/// What the reconciler begins with, and where it leaves what it counted.
pub struct PersistentState {
    /// What was granted before.
    pub shares: Shares,
    /// What was counted before.
    pub meter: Meter,
    /// Keeps what was counted. Must not take long.
    pub save: Box<dyn Fn(Meter) + Send>,
    /// The kernel's boot id.
    pub boot: String,
}

impl Default for PersistentState {
    fn default() -> Self {
        Self { shares: Shares::default(), meter: Meter::default(), save: Box::new(drop), boot: String::new() }
    }
}
