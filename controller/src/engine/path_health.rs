//! How the paths between hosts of peerings are, by the probes that hosts send all the time (rule V6). In memory alone: hosts say it
//! again within seconds.
//!
//! A probe goes there and back, so that each host of either side says something of the whole path. What counts is the worst of what they
//! say now. What nobody has said lately is not known.

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

/// How old what was measured may be to say how a path is, in milliseconds, beside the time between two probes and between two questions:
/// with very many paths a host takes some two minutes for a round.
const MAX_AGE_MS: u64 = 180_000;
/// The longest time between two probes that agents have, in seconds.
const LONGEST_INTERVAL_S: u64 = 3600;

/// How a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathHealth {
    /// Packets, and those of them that were lost; never more.
    sent: u32,
    lost: u32,
    /// The time there and back, in microseconds; none where nothing comes back.
    pub round_trip_us: Option<u64>,
    /// Whether long packets are lost and short ones pass; none where that is not known.
    pub mtu_black_hole: Option<bool>,
    /// How long ago the oldest of this was measured, in milliseconds.
    pub age_ms: u64,
}

impl PathHealth {
    /// How much is lost, in percent, rounded up: 0 where nothing is.
    pub fn loss_percent(self) -> u32 {
        (self.lost * 100).div_ceil(self.sent.max(1))
    }

    /// The worse of both in everything.
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

/// What a host has said last.
#[derive(Debug)]
struct Said {
    /// When, by the time since the machine's start, in milliseconds.
    boot_ms: u64,
    /// How old what it says may become, in milliseconds.
    max_age_ms: u64,
    sides: BTreeMap<Vni, SideProbes>,
}

/// What hosts have said last.
#[derive(Debug, Default)]
pub(super) struct PathHealths(Mutex<BTreeMap<HostId, Said>>);

impl PathHealths {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, Said>> {
        // Each change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a host says in the place of what it has said before, as far as it is about sides that there are. It is asked again after
    /// so long.
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

    /// Forgets hosts that are none any more.
    pub(super) fn retain(&self, state: &State) {
        self.lock().retain(|host, _| state.hosts().contains_key(host));
    }

    /// What hosts say now of sides of a peering, the worst of it.
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
            // Whoever has broken into a host says what it likes.
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
    /// Takes note of what an agent says of the paths of its host's peerings. It is asked again after so long.
    pub fn on_probes(&self, host: &HostId, report: ProbeReport, again: Duration) {
        let (state, boot_ms) = (self.shared.published().state, self.shared.reading().boot_ms);
        self.shared.paths.on_report(&state, host, report, boot_ms, whole(again.as_millis()));
    }

    /// Forgets what hosts have said of paths that are none any more.
    pub fn forget_probes(&self) {
        self.shared.paths.retain(&self.shared.published().state);
    }
}
