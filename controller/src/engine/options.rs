//! What the engine is told besides commands.

use super::{Clock, Pushes, Tolerance, TrailLimits, system_clock};
use crate::model::Limits;
use cps_peering_otlp::Recorder;
use std::time::Duration;

/// What the engine is told besides commands.
#[derive(Clone)]
pub struct Options {
    /// How long a host may hold a peering in `provisioning`.
    pub grace: Duration,
    /// Limits and periods of the rules.
    pub limits: Limits,
    /// How often a host that is in sync is asked how it stands.
    pub poll: Duration,
    /// How old the last report of a host may be to say how the host stands; at least twice the time between two questions.
    pub report_max_age: Duration,
    /// How long the audit trail is kept.
    pub audit_kept: Duration,
    /// How much room the audit trail may take.
    pub trail: TrailLimits,
    /// How much room is kept free for what makes room, in bytes, where the store is a file.
    pub store_reserve: u64,
    /// The machine's clocks.
    pub clock: Clock,
    /// When the clock of the day has leapt, and when it is believed.
    pub tolerance: Tolerance,
    /// How often a day an account may be told that a network of its own overlaps one of another account that it does not see
    /// (rule L11); 0: as often as it asks.
    pub overlap_checks_per_day: u32,
    /// How changes reach many hosts.
    pub pushes: Pushes,
    /// Where traces are recorded; it stays for as long as the engine lives.
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
