//! Filters on what arrives: IPv6 sources that do not belong behind a device.

use super::{Phase, Phases, survey::Survey};
use crate::{
    objects::{FilterHandle, Ingress, Operation, SourceFilter},
    ownership::{ACCEPT_PRIORITY, DROP_PRIORITY},
};
use cps_peering_config::net::InterfaceName;
use ipnet::Ipv6Net;
use std::collections::BTreeSet;

pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    for (device, sources) in survey.desired.sources.iter().filter(|(device, _)| !survey.blocked.contains(*device)) {
        let there = survey.kept(device).and_then(|_| survey.observed.ingress.get(device));
        if there.is_none() {
            phases.push(Phase::Devices, Operation::AddIngress(*device));
        }
        filters(*device, sources, there.unwrap_or(&Ingress::default()), phases);
    }
    for (device, ingress) in &survey.observed.ingress {
        // What is on devices of ours goes with them.
        if survey.desired.sources.contains_key(device) || survey.observed.owns(device) {
            continue;
        }
        if ingress.foreign {
            let ours = ingress.filters.keys().map(|place| Operation::RemoveFilter(*device, *place));
            phases.extend(Phase::Clear, ours);
        } else if !ingress.filters.is_empty() {
            phases.push(Phase::Clear, Operation::RemoveIngress(*device));
        }
    }
}

/// The filter that drops comes first and goes last, so that there is no moment without it.
fn filters(device: InterfaceName, sources: &BTreeSet<Ipv6Net>, there: &Ingress, phases: &mut Phases) {
    let last = FilterHandle { priority: DROP_PRIORITY, handle: 1 };
    let mut missing = sources.clone();
    let mut stale = Vec::new();
    let mut drops = false;
    for (place, filter) in &there.filters {
        match filter {
            Some(SourceFilter::Accept(prefix)) if place.priority == ACCEPT_PRIORITY && missing.remove(prefix) => {}
            Some(SourceFilter::DropRest) if *place == last => drops = true,
            _ => stale.push(*place),
        }
    }
    phases.extend(Phase::Devices, stale.iter().map(|place| Operation::RemoveFilter(device, *place)));
    if !drops {
        phases.push(Phase::Devices, Operation::AddFilter(device, last, SourceFilter::DropRest));
    }
    let places = (1..).map(|handle| FilterHandle { priority: ACCEPT_PRIORITY, handle });
    let free = places.filter(|place| !there.filters.contains_key(place));
    for (prefix, place) in missing.into_iter().zip(free) {
        phases.push(Phase::Devices, Operation::AddFilter(device, place, SourceFilter::Accept(prefix)));
    }
}
