//! Messages to the reconciler, and its initial state.

use super::{Options, goal::Stored};
use crate::{
    kernel::{Event, KernelError},
    shares::Shares,
    traffic::Meter,
};
use cps_peering_config::{
    Revision, ValidHostConfig,
    traffic::{Grants, TrafficReport},
};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::oneshot;

/// A message to the reconciler.
#[derive(Debug)]
pub(super) enum Message {
    /// A configuration that replaces any earlier goal.
    Configured(Arc<ValidHostConfig>, Stored),
    /// A configuration is now stored.
    Stored(Arc<ValidHostConfig>),
    Event(Event),
    Asked(Request),
    Tuned(Options),
}

/// A request to the reconciler.
#[derive(Debug)]
pub(super) enum Request {
    Grant(Grants, oneshot::Sender<Result<Granted, RequestError>>),
    Traffic(oneshot::Sender<Result<TrafficReport, RequestError>>),
    Alive(oneshot::Sender<()>),
}

/// The result of grants.
#[derive(Debug)]
pub struct Granted {
    /// The sides with a limit.
    pub report: TrafficReport,
    /// All shares, to be stored before anything is confirmed.
    pub shares: Shares,
}

/// Why the reconciler gave no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The grants are older than others.
    #[error("grants {pushed} are older than {have}, which this host has")]
    Older {
        /// The pushed grants.
        pushed: Revision,
        /// The current grants.
        have: Revision,
    },
    /// The kernel could not be read or changed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// It is busy, or has ended.
    #[error("the agent is busy; retry later")]
    Busy,
}

/// The reconciler's initial state, and where it stores its counters.
pub struct PersistentState {
    /// What was granted before.
    pub shares: Shares,
    /// What was counted before.
    pub meter: Meter,
    /// Stores the counters. Must not take long.
    pub save: Box<dyn Fn(Meter) + Send>,
    /// The kernel's boot id.
    pub boot: String,
}

impl Default for PersistentState {
    fn default() -> Self {
        Self { shares: Shares::default(), meter: Meter::default(), save: Box::new(drop), boot: String::new() }
    }
}
