//! The options of the engine.

use super::{Clock, Pushes, Tolerance, TrailLimits, system_clock};
use crate::model::Limits;
use cps_peering_otlp::Recorder;
use std::time::Duration;

/// The options of the engine.
#[derive(Clone)]
pub struct Options {
    /// How long a host may hold a peering in `provisioning`.
    pub grace: Duration,
    /// Limits and periods of the rules.
    pub limits: Limits,
    /// How often a host that is in sync is polled.
    pub poll: Duration,
    /// How old the last report of a host can be to count; at least twice the time between two polls.
    pub report_max_age: Duration,
    /// How long the audit trail is kept.
    pub audit_kept: Duration,
    /// How much space the audit trail may take.
    pub trail: TrailLimits,
    /// How much space is reserved for commands that free space, in bytes, if the store is a file.
    pub store_reserve: u64,
    /// The machine's clocks.
    pub clock: Clock,
    /// When the wall clock has leapt, and when it is trusted again.
    pub tolerance: Tolerance,
    /// How many times a day an account can be told that a network of its own overlaps one of another account that it does not see
    /// (rule L11); 0 for no limit.
    pub overlap_checks_per_day: u32,
    /// How changes reach many hosts.
    pub pushes: Pushes,
    /// Records traces, for as long as the engine lives.
    pub recorder: Recorder,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            poll: Duration::from_secs(15),
            report_max_age: Duration::from_secs(45),
            limits: Limits::default(),
            audit_kept: Duration::from_hours(90 * 24),
            trail: TrailLimits::default(),
            store_reserve: 0,
            clock: system_clock(),
            tolerance: Tolerance::default(),
            overlap_checks_per_day: 30,
            pushes: Pushes::default(),
            recorder: Recorder::default(),
        }
    }
}
