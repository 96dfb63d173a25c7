//! The traffic counters, and when they are stored.

use super::PersistentState;
use crate::traffic::{Meter, Reading};
use cps_peering_config::{SharedHostConfig, net::Vni};
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How often counters are read without a request, and how often they are stored.
const KEPT_EVERY: Duration = Duration::from_secs(30);

/// The counters.
pub(super) struct Counting {
    meter: Meter,
    save: Box<dyn Fn(Meter) + Send>,
    boot: String,
    /// None before the first time.
    kept: Option<Instant>,
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting").field("meter", &self.meter).field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Counting {
    /// Continues from what was counted before.
    pub(super) fn new(state: PersistentState) -> Self {
        Self { meter: state.meter, save: state.save, boot: state.boot, kept: None }
    }

    /// The counters.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Takes the kernel's counters.
    pub(super) fn take(&mut self, config: &SharedHostConfig, readings: &BTreeMap<Vni, Reading>) {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.meter.take(&self.boot, config, readings, now_ms.try_into().unwrap_or(u64::MAX));
        if self.is_due() {
            self.keep();
        }
    }

    /// Whether they were not stored for a while.
    pub(super) fn is_due(&self) -> bool {
        self.kept.is_none_or(|kept| kept.elapsed() >= KEPT_EVERY)
    }

    /// Stores them.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Instant::now());
        (self.save)(self.meter.clone());
    }
}
