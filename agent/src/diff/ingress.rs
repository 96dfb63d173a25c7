//! Ingress filters of the devices in VRFs.

use super::{Phase, Phases, survey::Survey};
use crate::{
    filter::{IngressPolicy, Program, Vlan, vlan_program},
    objects::{FilterHandle, Ingress, IngressFilter, Operation},
    ownership::{ACCEPT_PRIORITY, DROP_PRIORITY, LIMIT_PRIORITY, REJECT_PRIORITY, VLAN_PRIORITY},
};
use cps_peering_config::net::InterfaceName;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    let vlans = vlans(survey);
    for (device, policy) in survey.desired.ingress.iter().filter(|(device, _)| !survey.blocked.contains(*device)) {
        let link = survey.kept(device);
        let there = link.and_then(|_| survey.observed.ingress.get(device));
        // A device that exists may be up already, so its filters come before it enters a VRF.
        let phase = if link.is_some() { Phase::Filters } else { Phase::Devices };
        if there.is_none() {
            phases.push(phase, Operation::AddIngress(*device));
        }
        let accepting = policy.programs().iter().cloned().zip(1..).map(|(program, handle)| {
            (FilterHandle { priority: ACCEPT_PRIORITY, handle }, IngressFilter::Accept(program))
        });
        let mut wanted = rejecting(policy, there);
        wanted.extend(accepting);
        wanted.extend(policy.limits().iter().map(|limit| {
            let place = FilterHandle { priority: LIMIT_PRIORITY, handle: limit.handle };
            (place, IngressFilter::Limit(limit.program.clone(), limit.rate))
        }));
        wanted.insert(FilterHandle { priority: DROP_PRIORITY, handle: 1 }, IngressFilter::DropRest);
        if let Some(vlans) = vlans.get(device) {
            let place = FilterHandle { priority: VLAN_PRIORITY, handle: 1 };
            wanted.insert(place, IngressFilter::Accept(vlan_program(vlans)));
        }
        filters(*device, wanted, there.unwrap_or(&Ingress::default()), survey.desired.partial, phase, phases);
    }
    for (device, ingress) in &survey.observed.ingress {
        // Filters on our devices are deleted with them.
        if survey.desired.ingress.contains_key(device) || survey.observed.owns(device) {
            continue;
        }
        // Outside our VRFs, only filters that no other program makes show that a device was a port. The qdisc is
        // deleted only if it cannot hold filters of others, which a partial observation cannot tell.
        let link = survey.observed.links.get(device);
        let is_member = link.is_some_and(|link| survey.vrf_of(link).is_some());
        if !is_member && !ingress.is_of_a_port() {
            continue;
        }
        let has_more = ingress.is_foreign
            || !ingress.foreign.is_empty()
            || survey.observed.foreign.egress_filters.contains_key(device);
        if has_more || survey.desired.partial {
            let ours = ingress.filters.keys().map(|place| Operation::RemoveFilter(*device, *place));
            phases.extend(Phase::Clear, ours);
        } else if !ingress.filters.is_empty() {
            phases.push(Phase::Clear, Operation::RemoveIngress(*device));
        }
    }
}

/// Where the rejecting programs go. Existing ones keep their place, and new ones are added beside them before any is
/// deleted, so that what is rejected both before and after is rejected at every moment.
fn rejecting(policy: &IngressPolicy, there: Option<&Ingress>) -> BTreeMap<FilterHandle, IngressFilter> {
    let have = || there.into_iter().flat_map(|ingress| &ingress.filters);
    let mut missing: BTreeSet<&Program> = policy.rejecting().iter().collect();
    let mut wanted = BTreeMap::new();
    for (place, filter) in have().filter(|(place, _)| place.priority == REJECT_PRIORITY) {
        if let Some(filter @ IngressFilter::Reject(program)) = filter
            && missing.remove(program)
        {
            wanted.insert(*place, filter.clone());
        }
    }
    let places = (1..).map(|handle| FilterHandle { priority: REJECT_PRIORITY, handle });
    let free = places.filter(|place| there.is_none_or(|ingress| !ingress.filters.contains_key(place)));
    wanted
        .extend(missing.into_iter().zip(free).map(|(program, place)| (place, IngressFilter::Reject(program.clone()))));
    wanted
}

/// The VLANs that have devices of their own on top of a port. A partial observation does not show them.
fn vlans(survey: &Survey<'_>) -> BTreeMap<InterfaceName, BTreeSet<Vlan>> {
    let mut vlans: BTreeMap<InterfaceName, BTreeSet<Vlan>> = BTreeMap::new();
    for (parent, vlan) in survey.observed.links.values().filter_map(|link| link.vlan) {
        if let Some(port) = survey.names.get(&parent).filter(|name| survey.desired.ports.contains_key(*name)) {
            vlans.entry(*port).or_default().insert(vlan);
        }
    }
    vlans
}

/// Filters are changed in place, and the dropping one last, so that at no moment legitimate packets are dropped or
/// others accepted.
fn filters(
    device: InterfaceName,
    mut wanted: BTreeMap<FilterHandle, IngressFilter>,
    there: &Ingress,
    partial: bool,
    phase: Phase,
    phases: &mut Phases,
) {
    let mut stale = Vec::new();
    for (place, filter) in &there.filters {
        match (wanted.get(place), filter) {
            (Some(wanted_here), Some(filter)) if wanted_here == filter => drop(wanted.remove(place)),
            (Some(_), Some(_)) => {}
            // A filter of another kind, which cannot be changed into ours.
            (Some(_), None) => phases.push(phase, Operation::RemoveFilter(device, *place)),
            (None, _) if partial && place.priority == VLAN_PRIORITY => {}
            (None, _) => stale.push(*place),
        }
    }
    phases.extend(phase, wanted.into_iter().map(|(place, filter)| Operation::SetFilter(device, place, filter)));
    // Rejecting filters stay until the routes to these destinations are gone.
    let (rejecting, others): (Vec<_>, Vec<_>) = stale.into_iter().partition(|place| place.priority == REJECT_PRIORITY);
    phases.extend(phase, others.into_iter().map(|place| Operation::RemoveFilter(device, place)));
    phases.extend(Phase::Tidy, rejecting.into_iter().map(|place| Operation::RemoveFilter(device, place)));
}
