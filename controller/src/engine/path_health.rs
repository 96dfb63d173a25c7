//! The health of paths between hosts of peerings, by the probes that hosts send continuously (rule V6). In memory only: hosts report it
//! again within seconds.
//!
//! A probe travels both ways, so each host of either side measures the whole path. The worst of all current values counts. What no host
//! has reported recently is unknown.

use super::{Engine, whole};
use crate::model::state::State;
use cps_peering_config::{
    id::{HostId, PeeringId},
    net::Vni,
    probe::{MAX_SIDES, ProbeReport, SideProbes},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How old a sample can be to count, in milliseconds, in addition to the time between two probes and between two polls:
/// with very many paths a host takes some two minutes for a round.
const MAX_AGE_MS: u64 = 180_000;
/// The longest interval between probes that agents allow, in seconds.
const LONGEST_INTERVAL_S: u64 = 3600;

/// The health of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathHealth {
    /// Packets, and those of them that were lost; never more.
    sent: u32,
    lost: u32,
    /// The round-trip time, in microseconds; none if no reply arrives.
    pub round_trip_us: Option<u64>,
    /// Whether long packets are lost while short ones pass; none if unknown.
    pub mtu_black_hole: Option<bool>,
    /// The age of the oldest of these values, in milliseconds.
    pub age_ms: u64,
}

impl PathHealth {
    /// The loss in percent, rounded up: 0 only without loss.
    pub fn loss_percent(self) -> u32 {
        (self.lost * 100).div_ceil(self.sent.max(1))
    }

    /// The worse of both in every value.
    fn and(self, other: Self) -> Self {
        let is_worse = u64::from(other.lost) * u64::from(self.sent) > u64::from(self.lost) * u64::from(other.sent);
        let (sent, lost) = if is_worse { (other.sent, other.lost) } else { (self.sent, self.lost) };
        Self {
            sent,
            lost,
            round_trip_us: self.round_trip_us.max(other.round_trip_us),
            mtu_black_hole: self.mtu_black_hole.max(other.mtu_black_hole),
            age_ms: self.age_ms.max(other.age_ms),
        }
    }
}

/// A host's last report.
#[derive(Debug)]
struct Said {
    /// When it arrived, in milliseconds since boot.
    boot_ms: u64,
    /// How old its samples may become, in milliseconds.
    max_age_ms: u64,
    sides: BTreeMap<Vni, SideProbes>,
}

/// The last reports of hosts.
#[derive(Debug, Default)]
pub(super) struct PathHealths(Mutex<BTreeMap<HostId, Said>>);

impl PathHealths {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, Said>> {
        // Each change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces a host's last report, as far as it is about existing sides. The host is polled again after
    /// `again_ms`.
    pub(super) fn on_report(&self, state: &State, host: &HostId, report: ProbeReport, boot_ms: u64, again_ms: u64) {
        if !state.hosts().contains_key(host) {
            return;
        }
        let is_there = |vni: Vni, side: &SideProbes| {
            let peering = state.peerings().get(&side.peering);
            peering.is_some_and(|peering| peering.sides().iter().any(|side| side.vni == Some(vni)))
        };
        let sides = report.sides.into_iter().filter(|(vni, side)| side.sent > 0 && is_there(*vni, side));
        let every_ms = report.interval_s.min(LONGEST_INTERVAL_S) * 1000;
        let said = Said {
            boot_ms,
            max_age_ms: MAX_AGE_MS + 2 * (every_ms + again_ms),
            sides: sides.take(MAX_SIDES).collect(),
        };
        self.lock().insert(host.clone(), said);
    }

    /// Forgets hosts that no longer exist.
    pub(super) fn retain(&self, state: &State) {
        self.lock().retain(|host, _| state.hosts().contains_key(host));
    }

    /// The worst of the current values that hosts report for sides of a peering.
    pub(super) fn worst<'a>(
        &self,
        peering: &PeeringId,
        of: impl IntoIterator<Item = (&'a HostId, Vni)>,
        boot_ms: u64,
    ) -> Option<PathHealth> {
        let all = self.lock();
        let known = of.into_iter().filter_map(|(host, vni)| {
            let said = all.get(host)?;
            let side = said.sides.get(&vni).filter(|side| side.peering == *peering)?;
            let age_ms = side.age_ms.saturating_add(boot_ms.saturating_sub(said.boot_ms));
            // A compromised host reports anything.
            let sent = side.sent.min(1000);
            (age_ms <= said.max_age_ms).then_some(PathHealth {
                sent,
                lost: side.lost.min(sent),
                round_trip_us: side.round_trip_us,
                mtu_black_hole: side.mtu_black_hole,
                age_ms,
            })
        });
        known.reduce(PathHealth::and)
    }
}

impl Engine {
    /// Records an agent's report about the paths of its host's peerings. The agent is polled again after `again`.
    pub fn on_probes(&self, host: &HostId, report: ProbeReport, again: Duration) {
        let (state, boot_ms) = (self.shared.published().state, self.shared.reading().boot_ms);
        self.shared.paths.on_report(&state, host, report, boot_ms, whole(again.as_millis()));
    }

    /// Forgets reports about paths that no longer exist.
    pub fn forget_probes(&self) {
        self.shared.paths.retain(&self.shared.published().state);
    }
}
