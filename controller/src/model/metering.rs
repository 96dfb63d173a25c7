//! Charged periods of peerings between regions, each with one bandwidth (rules B4 and B6).
//!
//! A period is open while a peering is active, and is closed when the peering is suspended or deleted or its bandwidth changes. A closed
//! period is committed with the change that closed it. Times are elapsed time
//! ([`clock`](crate::clock)): setting a clock neither adds to the charges nor takes from them.
//!
//! Bandwidths are charged by the second: of those that a peering had within the first second of a period, the highest is charged
//! for that second. So toggling a bandwidth closes at most two periods a second.
//!
//! Downtime of the controller is charged once its length is known, for what each peering had when it began: that is noted before
//! it changes.

use super::{
    Leap, Transaction,
    record::{Absence, Meter, Peering, PeeringState},
    state::Change,
};
use cps_peering_config::id::{AccountId, PeeringId, RegionId};
use serde::{Deserialize, Serialize};

/// A time during which a peering had one bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// The peering.
    pub peering: PeeringId,
    /// The account that pays: the initiator's.
    pub payer: AccountId,
    /// The regions, the initiator's first.
    pub regions: [RegionId; 2],
    /// Bandwidth in Mbit/s per direction.
    pub bandwidth: u32,
    /// Start, in milliseconds since 1970-01-01 UTC.
    pub from_ms: u64,
    /// The moment after the last one, in milliseconds since 1970-01-01 UTC.
    pub to_ms: u64,
}

/// The charged periods of an account.
#[derive(Debug)]
pub struct Charged {
    /// Closed periods, in the order of their ends.
    pub closed: Vec<Period>,
    /// Open periods, up to now.
    pub open: Vec<Period>,
    /// Now, in milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
}

/// The bandwidth that a peering is charged for now.
fn charged(peering: &Peering) -> Option<u32> {
    let active = peering.is_cross_region() && peering.state == PeeringState::Active;
    peering.bandwidth.filter(|_| active)
}

fn period(peering: &Peering, bandwidth: u32, from_ms: u64, to_ms: u64) -> Period {
    Period {
        peering: peering.id.clone(),
        payer: peering.initiator.account.clone(),
        regions: [peering.initiator.region.clone(), peering.receiver.region.clone()],
        bandwidth,
        from_ms,
        to_ms,
    }
}

/// The minimum time that is charged for a bandwidth, in milliseconds.
const SECOND_MS: u64 = 1000;

/// The open periods, as if they were closed now: at most two.
pub fn open_periods(peering: &Peering, now_ms: u64) -> Vec<Period> {
    let Some(Meter { bandwidth: Some(bandwidth), at_ms, peak, .. }) = peering.meter else { return Vec::new() };
    let edge_ms = if peak.is_some() { at_ms.saturating_add(SECOND_MS).min(now_ms) } else { at_ms };
    let parts = [(peak.unwrap_or(bandwidth), at_ms, edge_ms), (bandwidth, edge_ms, now_ms)];
    let parts = parts.into_iter().filter(|(_, from_ms, to_ms)| from_ms < to_ms);
    parts.map(|(bandwidth, from_ms, to_ms)| period(peering, bandwidth, from_ms, to_ms)).collect()
}

/// Closes the open period, and opens it again at the new time of the clock.
pub(super) fn restart(tx: &mut Transaction<'_>, peering: &mut Peering, now_ms: u64, from_ms: u64) {
    let Some(Meter { bandwidth, .. }) = peering.meter else { return };
    tx.periods.extend(open_periods(peering, now_ms));
    peering.meter = Some(Meter { bandwidth, at_ms: from_ms, peak: None, absence: None });
}

/// What was noted of a peering when it changed after a downtime of still unknown length.
pub(super) fn absence(peering: &Peering, leap: Leap) -> Option<Absence> {
    let noted = peering.meter?.absence?;
    Some(noted).filter(|noted| !leap.elapsed_known && noted.since_ms == leap.since_ms)
}

/// Whether a downtime is to be charged for a peering once its length is known.
pub(super) fn owes_absence(peering: &Peering, leap: Leap) -> bool {
    absence(peering, leap).is_some_and(|absence| absence.bandwidth.is_some())
}

/// Charges for a downtime whose length is now known.
pub(super) fn charge_absence(tx: &mut Transaction<'_>, peering: &Peering, absence: Absence, from_ms: u64, to_ms: u64) {
    if let Some(bandwidth) = absence.bandwidth
        && from_ms < to_ms
    {
        tx.periods.push(period(peering, bandwidth, from_ms, to_ms));
    }
}

/// Sets a peering's record, and closes and opens periods.
pub(super) fn put(tx: &mut Transaction<'_>, mut peering: Peering, now_ms: u64) {
    let due = charged(&peering);
    let Meter { bandwidth: was, at_ms, peak, absence: noted } =
        peering.meter.unwrap_or(Meter { bandwidth: None, at_ms: 0, peak: None, absence: None });
    if was != due {
        let now_ms = now_ms.max(at_ms);
        let away = tx.leap.filter(|leap| !leap.elapsed_known).map(|leap| leap.since_ms);
        let first =
            away.is_some_and(|since_ms| noted.is_none_or(|noted| noted.since_ms != since_ms) && at_ms <= since_ms);
        let absence = match away {
            Some(since_ms) if first => Some(Absence { since_ms, bandwidth: was }),
            _ => noted.filter(|noted| away == Some(noted.since_ms)),
        };
        peering.meter = Some(match was.zip(due) {
            // A period from before a downtime does not end after it.
            Some((was, due)) if now_ms - at_ms < SECOND_MS && !first => {
                // A period of no length is not charged.
                let highest = Some(was).filter(|_| now_ms > at_ms).max(peak);
                Meter { bandwidth: Some(due), at_ms, peak: highest.filter(|highest| *highest > due), absence }
            }
            _ => {
                tx.periods.extend(open_periods(&peering, now_ms));
                Meter { bandwidth: due, at_ms: now_ms, peak: None, absence }
            }
        });
    }
    tx.change(Change::Peering(peering.id.clone(), Some(peering)));
}
