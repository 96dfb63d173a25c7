//! Shapers: how much a device may send.

use super::{Phase, Phases, survey::Survey};
use crate::objects::{Egress, Operation, Shaper};
use cps_peering_config::net::InterfaceName;

pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    for device in survey.desired.vxlans.keys().filter(|device| !survey.blocked.contains(*device)) {
        let there = survey.kept(device).and_then(|_| survey.observed.egress.get(device));
        match (survey.desired.shapers.get(device), there) {
            (Some(shaper), there) => shape(*device, shaper, there, phases),
            (None, Some(there)) if there.ours => phases.push(Phase::Devices, Operation::RemoveShaper(*device)),
            // Another program's queue on a device without a limit stays.
            (None, _) => {}
        }
    }
}

/// The rate changes in place: packets in the queue stay there, and the limit never lapses.
fn shape(device: InterfaceName, shaper: &Shaper, there: Option<&Egress>, phases: &mut Phases) {
    let there = match there {
        Some(there) if there.ours && !there.bypassed => *there,
        other => {
            if other.is_some() {
                // HTB with our handle but other content: the kernel cannot change an HTB in place.
                phases.push(Phase::Devices, Operation::RemoveShaper(device));
            }
            phases.push(Phase::Devices, Operation::AddShaper(device));
            Egress::default()
        }
    };
    if there.rate != Some(shaper.rate) {
        phases.push(Phase::Devices, Operation::SetRate(device, shaper.rate));
    }
    if there.queue != Some(shaper.queue) {
        phases.push(Phase::Devices, Operation::SetQueue(device, shaper.queue));
    }
}
