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
            // A queue of somebody else that limits nothing of ours.
            (None, _) => {}
        }
    }
}

/// The rate changes in place: what is in the queue stays there, and there is no moment without a limit.
fn shape(device: InterfaceName, shaper: &Shaper, there: Option<&Egress>, phases: &mut Phases) {
    let there = match there {
        Some(there) if there.ours && !there.bypassed => *there,
        other => {
            if other.is_some() {
                // HTB with our handle, and something else in it: the kernel changes no HTB in place.
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
