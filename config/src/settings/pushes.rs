//! How changes are rolled out to many hosts.

use crate::connections::OutOfRange;
use serde::{Deserialize, Serialize};

/// Settings of the controller, in the table `pushes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushSettings {
    /// How many hosts (canaries) first get a change that adds something on many hosts, 0 to 100; 0: all of them at
    /// once. Default 3.
    pub canary_hosts: u32,
    /// The number of hosts above which a change is rolled out in this way. Default 20.
    pub canary_above: u32,
    /// For how long the canaries must be healthy before the others get it, in seconds, 1 to 3600. Default 15.
    pub canary_watch_s: u64,
    /// How long that may take before the others wait for an operator, in seconds: more than `canary_watch_s`, and at
    /// most 86 400. Default 120.
    pub canary_patience_s: u64,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self { canary_hosts: 3, canary_above: 20, canary_watch_s: 15, canary_patience_s: 120 }
    }
}

impl PushSettings {
    pub(super) fn check(&self) -> Result<(), OutOfRange> {
        OutOfRange::check("pushes.canary_hosts", self.canary_hosts.into(), 0..=100)?;
        OutOfRange::check("pushes.canary_watch_s", self.canary_watch_s, 1..=3600)?;
        OutOfRange::check("pushes.canary_patience_s", self.canary_patience_s, self.canary_watch_s + 1..=86_400)
    }
}
