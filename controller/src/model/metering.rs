//! What peerings between regions are charged for: periods of one bandwidth (rules B4 and B6).
//!
//! A period is open while a peering is active, and is closed when it is suspended, deleted or gets another bandwidth. What
//! is closed is committed with the change that closed it. Times are those that have passed for certain
//! ([`clock`](crate::clock)): a clock that is set neither adds to what is charged nor takes from it.
//!
//! Bandwidths are charged by the second: of those that a peering had within the first second of a period, the highest is charged
//! for that second. So a bandwidth that is changed back and forth closes at most two periods a second.
//!
//! How long the controller was away is charged for once it is known, for what each peering had when that began: it is noted where
//! that changes before.

use super::{
    Leap, Transaction,
    record::{Absence, Meter, Peering, PeeringState},
    state::Change,
};
use cps_peering_config::id::{AccountId, PeeringId, RegionId};
use serde::{Deserialize, Serialize};

/// A time for which a peering had one bandwidth.
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

/// What an account is charged for.
#[derive(Debug)]
pub struct Charged {
    /// What has ended, in the order of the ends.
    pub closed: Vec<Period>,
    /// What goes on, up to now.
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

/// The least that is charged of a bandwidth, in milliseconds.
const SECOND_MS: u64 = 1000;

/// What is open, as if it were closed now: at most two periods.
pub fn open_periods(peering: &Peering, now_ms: u64) -> Vec<Period> {
    let Some(Meter { bandwidth: Some(bandwidth), at_ms, peak, .. }) = peering.meter else { return Vec::new() };
    let edge_ms = if peak.is_some() { at_ms.saturating_add(SECOND_MS).min(now_ms) } else { at_ms };
    let parts = [(peak.unwrap_or(bandwidth), at_ms, edge_ms), (bandwidth, edge_ms, now_ms)];
    let parts = parts.into_iter().filter(|(_, from_ms, to_ms)| from_ms < to_ms);
    parts.map(|(bandwidth, from_ms, to_ms)| period(peering, bandwidth, from_ms, to_ms)).collect()
}

/// Closes the period that is open, and opens it again where the clock is from now on.
pub(super) fn restart(tx: &mut Transaction<'_>, peering: &mut Peering, now_ms: u64, from_ms: u64) {
    let Some(Meter { bandwidth, .. }) = peering.meter else { return };
    tx.periods.extend(open_periods(peering, now_ms));
    peering.meter = Some(Meter { bandwidth, at_ms: from_ms, peak: None, absence: None });
}

/// What of a peering was noted when it changed after an absence of which it was not known how long it was.
pub(super) fn absence(peering: &Peering, leap: Leap) -> Option<Absence> {
    let noted = peering.meter?.absence?;
    Some(noted).filter(|noted| !leap.elapsed_known && noted.since_ms == leap.since_ms)
}

/// Whether an absence is to be charged for a peering once it is known how long it was.
pub(super) fn owes_absence(peering: &Peering, leap: Leap) -> bool {
    absence(peering, leap).is_some_and(|absence| absence.bandwidth.is_some())
}

/// Charges for an absence, now that it is known how long it was.
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
            // What was before an absence does not end after it.
            Some((was, due)) if now_ms - at_ms < SECOND_MS && !first => {
                // What it had for no time at all is not charged.
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
