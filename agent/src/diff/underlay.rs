//! The underlay filter: on every device that is not ours, and which VTEPs may send with which VNI.

use super::{Conflict, Phase, Phases, survey::Survey};
use crate::{
    objects::{GuardKind, Ingress, Link, LinkChange, LinkKind, Operation},
    ownership::{DeviceName, Role, UNDERLAY_PRIORITY},
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    report::ProblemKind,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    close(survey, phases);
    senders(survey, phases);
    if !survey.desired.partial {
        guards(survey, phases);
    }
}

/// If the kernel has no underlay filter, nothing may be received from the underlay.
fn close(survey: &Survey<'_>, phases: &mut Phases) {
    if survey.observed.underlay.unavailable {
        let up = |name: &&InterfaceName| survey.kept(name).is_some_and(|link| link.up);
        let down = survey.desired.vxlans.keys().filter(up);
        phases.extend(Phase::Stop, down.map(|name| Operation::ChangeLink(*name, LinkChange::Up(false))));
    }
}

/// The senders of a VNI are set before anything can arrive, and a VNI is ours as long as its device exists: until that
/// is gone, no host may send with it.
fn senders(survey: &Survey<'_>, phases: &mut Phases) {
    let Some(have) = &survey.observed.underlay.senders else { return };
    // If the VNI belongs to another program, its packets are not ours to judge.
    let is_ours = |vni: Vni| [DeviceName::peer(vni), DeviceName::vpc(vni)].iter().any(|device| is_had(survey, device));
    let desired: BTreeMap<_, _> = survey.desired.senders.iter().filter(|(vni, _)| is_ours(**vni)).collect();
    for (vni, senders) in &desired {
        if have.get(vni) != Some(*senders) {
            phases.push(Phase::Stop, Operation::SetSenders(**vni, (*senders).clone()));
        }
    }
    let own = survey.observed.links.keys().filter(|name| survey.observed.owns(name)).filter_map(DeviceName::parse);
    let leaving: BTreeSet<Vni> = own
        .filter(|device| device.role != Role::Vrf && !desired.contains_key(&device.vni))
        .map(|device| device.vni)
        .collect();
    for vni in &leaving {
        if have.get(vni).is_none_or(|senders| !senders.is_empty()) {
            phases.push(Phase::Stop, Operation::SetSenders(*vni, BTreeSet::new()));
        }
    }
    // Nor may packets arrive past a program that was attached in place of ours.
    let is_taken = |vni: Vni| {
        let devices = [DeviceName::peer(vni), DeviceName::vpc(vni)];
        devices.iter().any(|device| survey.observed.links.contains_key(device) && !survey.observed.owns(device))
    };
    let stale = have.keys().filter(|vni| !desired.contains_key(*vni) && !is_taken(**vni)).copied();
    let stale: BTreeSet<Vni> = stale.chain(leaving).collect();
    phases.extend(Phase::Afterwards, stale.into_iter().map(Operation::RemoveSenders));
}

/// Whether a desired VXLAN device can be created, or exists although it cannot be as desired.
fn is_had(survey: &Survey<'_>, device: &InterfaceName) -> bool {
    survey.desired.vxlans.contains_key(device) && (!survey.blocked.contains(device) || survey.observed.owns(device))
}

/// Packets of the underlay may arrive on every device that is not ours, or be made to.
fn guards(survey: &Survey<'_>, phases: &mut Phases) {
    let observed = survey.observed;
    // From the first VPC on, so that neither the first tunnel nor the last requires every interface to be examined.
    let wanted = !survey.desired.vrfs.is_empty();
    for (name, link) in observed.links.iter().filter(|_| wanted) {
        let Some(kind) = guard(survey, name, link) else { continue };
        if observed.underlay.guarded.get(name).is_some_and(|there| there.is_none_or(|there| there == kind)) {
            continue;
        }
        match observed.ingress.get(name) {
            None => phases.push(Phase::Host, Operation::AddIngress(*name)),
            // A filter that is not ours may be one that the kernel cannot change into ours.
            Some(Ingress { underlay_program: Some(0), .. }) => phases.push(Phase::Host, Operation::RemoveGuard(*name)),
            Some(_) => {}
        }
        phases.push(Phase::Host, Operation::AddGuard(*name, kind));
    }
    for (name, ingress) in observed.ingress.iter().filter(|(_, ingress)| ingress.underlay_program.is_some()) {
        let is_ours = observed.links.get(name).is_none_or(|link| guard(survey, name, link).is_none());
        let phase = match (wanted, is_ours) {
            (true, false) => continue,
            // It has filters of its own by then.
            (true, true) => Phase::Tidy,
            (false, _) => Phase::Afterwards,
        };
        // Deleting the qdisc deletes egress filters, too.
        let has_more = !ingress.foreign.is_empty()
            || !ingress.filters.is_empty()
            || observed.foreign.egress_filters.contains_key(name);
        let has_own = is_ours && survey.desired.ingress.contains_key(name);
        if has_own || ingress.is_foreign || has_more {
            phases.push(phase, Operation::RemoveGuard(*name));
        } else {
            phases.push(phase, Operation::RemoveIngress(*name));
        }
    }
}

/// Filters of others that see packets before ours, and may take them.
pub(super) fn conflicts(survey: &Survey<'_>) -> Vec<Conflict> {
    if survey.desired.partial || survey.desired.vrfs.is_empty() {
        return Vec::new();
    }
    let links = survey.observed.links.iter().filter(|(name, link)| guard(survey, name, link).is_some());
    let before = links.filter_map(|(name, _)| {
        let priority = survey.observed.ingress.get(name)?.foreign_from.filter(|it| *it <= UNDERLAY_PRIORITY)?;
        let reason = format!(
            "an ingress filter of priority {priority} that is not ours sees packets before the underlay filter: \
             give it a priority above {UNDERLAY_PRIORITY}"
        );
        Some(Conflict { device: *name, kind: ProblemKind::Conflict, reason })
    });
    before.collect()
}

/// The program for packets that arrive on a device. Ports and our own devices have filters of their own.
fn guard(survey: &Survey<'_>, name: &InterfaceName, link: &Link) -> Option<GuardKind> {
    let is_port = survey.desired.ports.contains_key(name) && survey.kept(name).is_some();
    if is_port || survey.observed.owns(name) || survey.vrf_of(link).is_some() {
        return None;
    }
    let master = link.master.and_then(|master| survey.names.get(&master));
    let is_member = master
        .is_some_and(|master| matches!(survey.observed.links[master].kind, LinkKind::Aggregate | LinkKind::Bridge));
    Some(if is_member { GuardKind::Member } else { GuardKind::Device })
}
