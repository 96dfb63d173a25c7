//! What peerings between regions are charged for: periods of one bandwidth (rules B4 and B6).
//!
//! A period is open while a peering is active, and is closed when it is suspended, deleted or gets another bandwidth. What
//! is closed is committed with the change that closed it. Times are those that have passed for certain
//! ([`clock`](crate::clock)): a clock that is set neither adds to what is charged nor takes from it.

use super::{
    Transaction,
    record::{Meter, Peering, PeeringState},
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
    /// The first moment, in milliseconds since 1970-01-01 UTC.
    pub from_ms: u64,
    /// The moment after the last one, in milliseconds since 1970-01-01 UTC.
    pub to_ms: u64,
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

/// The period that is open, as if it were closed now.
pub fn open_period(peering: &Peering, now_ms: u64) -> Option<Period> {
    let meter = peering.meter.as_ref()?;
    let bandwidth = meter.bandwidth?;
    (now_ms > meter.at_ms).then(|| period(peering, bandwidth, meter.at_ms, now_ms))
}

/// Closes the period that is open, and opens it again where the clock is from now on.
pub(super) fn restart(tx: &mut Transaction<'_>, peering: &mut Peering, now_ms: u64, from_ms: u64) {
    let Some(Meter { bandwidth, at_ms }) = peering.meter else { return };
    if let Some(bandwidth) = bandwidth.filter(|_| now_ms > at_ms) {
        tx.periods.push(period(peering, bandwidth, at_ms, now_ms));
    }
    peering.meter = Some(Meter { bandwidth, at_ms: from_ms });
}

/// Sets a peering's record, and closes and opens periods.
pub(super) fn put(tx: &mut Transaction<'_>, mut peering: Peering, now_ms: u64) {
    let due = charged(&peering);
    let (was, at_ms) = peering.meter.as_ref().map_or((None, 0), |meter| (meter.bandwidth, meter.at_ms));
    if was != due {
        let now_ms = now_ms.max(at_ms);
        if let Some(bandwidth) = was.filter(|_| now_ms > at_ms) {
            tx.periods.push(period(&peering, bandwidth, at_ms, now_ms));
        }
        peering.meter = Some(Meter { bandwidth: due, at_ms: now_ms });
    }
    tx.change(Change::Peering(peering.id.clone(), Some(peering)));
}
