//! Neighbours, forwarding entries, next hops and routes.

use super::{Phase, Phases, survey::Survey};
use crate::{
    objects::{DesiredRoute, FdbKey, KernelRoute, Operation, RouteKey, RouteTo, Via},
    ownership,
};
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

/// If no route exists yet that stays, routes through next hops are left out: instead the ids of the next hops are
/// returned, and all of these routes are to be added.
pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) -> Option<Vec<Option<u32>>> {
    neighbours(survey, phases);
    let nexthops = nexthops(survey, phases);
    let bare = routes(survey, &nexthops, phases);
    bare.then_some(nexthops.ids)
}

/// Whether a VXLAN device is ours, exists and stays.
fn stays(survey: &Survey<'_>, device: &InterfaceName) -> bool {
    survey.desired.vxlans.contains_key(device) && survey.kept(device).is_some()
}

fn neighbours(survey: &Survey<'_>, phases: &mut Phases) {
    let (desired, observed) = (survey.desired, survey.observed);
    for (key, mac) in desired.neighbours.iter().filter(|(key, _)| !survey.blocked.contains(&key.device)) {
        let there = if stays(survey, &key.device) { observed.neighbours.get(key) } else { None };
        if there != Some(mac) {
            // A neighbour that leads elsewhere is removed even while its repair is suspended because another program
            // keeps changing it back.
            phases.extend(Phase::Neighbours, there.map(|_| Operation::RemoveNeighbour(*key)));
            phases.push(Phase::Neighbours, Operation::SetNeighbour(*key, *mac));
        }
    }
    for (key, target) in desired.fdb.iter().filter(|(key, _)| !survey.blocked.contains(&key.device)) {
        let there = if stays(survey, &key.device) { observed.fdb.get(key) } else { None };
        if there == Some(&Some(*target)) {
            continue;
        }
        phases.extend(Phase::Neighbours, there.map(|_| Operation::RemoveFdb(*key)));
        phases.push(Phase::Neighbours, Operation::SetFdb(*key, *target));
    }
    // Without its forwarding entries a device sends nothing, however many routes point to it.
    let leaves = |key: &&FdbKey| observed.owns(&key.device) && !desired.vxlans.contains_key(&key.device);
    phases.extend(Phase::Stop, observed.fdb.keys().filter(leaves).map(|key| Operation::RemoveFdb(*key)));
    let neighbours = observed.neighbours.keys();
    let stale = neighbours.filter(|key| !desired.neighbours.contains_key(key) && stays(survey, &key.device));
    phases.extend(Phase::Tidy, stale.map(|key| Operation::RemoveNeighbour(*key)));
    let fdb = observed.fdb.keys();
    let stale = fdb.filter(|key| !desired.fdb.contains_key(key) && stays(survey, &key.device));
    phases.extend(Phase::Tidy, stale.map(|key| Operation::RemoveFdb(*key)));
}

/// The plan for next hops.
struct Nexthops {
    /// The id of each desired next hop; those of blocked devices have none.
    ids: Vec<Option<u32>>,
    /// Next hops that are removed first. The kernel deletes all routes through them along with them.
    stopped: BTreeSet<u32>,
}

fn nexthops(survey: &Survey<'_>, phases: &mut Phases) -> Nexthops {
    let (desired, observed) = (survey.desired, survey.observed);
    let mut have: BTreeMap<(u32, Ipv6Addr), u32> = BTreeMap::new();
    for (id, place) in &observed.nexthops {
        have.entry(*place).or_insert(*id);
    }
    let is_free = |id: &u32| !observed.nexthops.contains_key(id) && !observed.foreign_nexthop_ids.contains(id);
    let mut new = BTreeSet::new();
    let mut ids = Vec::with_capacity(desired.nexthops.len());
    for nexthop in &desired.nexthops {
        if survey.blocked.contains(&nexthop.device) {
            ids.push(None);
            continue;
        }
        let link = survey.kept(&nexthop.device);
        let id = link.and_then(|link| have.get(&(link.index, nexthop.gateway)).copied()).unwrap_or_else(|| {
            let id = ownership::nexthop_ids(&nexthop.device).find(|id| is_free(id) && !new.contains(id));
            let id = id.expect("a host has fewer next hops than there are ids");
            new.insert(id);
            phases.push(Phase::Nexthops, Operation::AddNexthop(id, *nexthop));
            id
        });
        ids.push(Some(id));
    }
    let used: BTreeSet<u32> = ids.iter().flatten().copied().collect();
    let mut stopped = BTreeSet::new();
    for (id, (index, _)) in observed.nexthops.iter().filter(|(id, _)| !used.contains(id)) {
        // On a device that stays, routes can be moved first.
        if survey.names.get(index).is_some_and(|device| stays(survey, device)) {
            phases.push(Phase::Tidy, Operation::RemoveNexthop(*id));
        } else {
            stopped.insert(*id);
            phases.push(Phase::Stop, Operation::RemoveNexthop(*id));
        }
    }
    Nexthops { ids, stopped }
}

/// Returns true if no route exists that stays: routes through next hops are then left out.
fn routes(survey: &Survey<'_>, nexthops: &Nexthops, phases: &mut Phases) -> bool {
    // These are deleted along with what the plan removes first.
    let lost = |route: &KernelRoute| match route.via {
        Via::Nexthop(id) => nexthops.stopped.contains(&id),
        Via::Device(index) => survey.names.get(&index).is_some_and(|name| survey.rebound.contains(name)),
        Via::Unreachable | Via::Other => false,
    };
    let have = || survey.observed.routes.iter().copied().filter(|route| !lost(route));
    let bare = have().next().is_none();
    let resolve = |to: RouteTo| match to {
        RouteTo::Unreachable => Some(Via::Unreachable),
        RouteTo::Device(port) => survey.kept(&port).map(|link| Via::Device(link.index)),
        RouteTo::Nexthop(place) => nexthops.ids[place as usize].map(Via::Nexthop),
    };
    let blocked = |table: u32| !survey.blocked_tables.is_empty() && survey.blocked_tables.contains(&table);
    let desired = survey.desired;
    let ipv4_mtus = desired.ipv4_mtus();
    // A conflict with a VRF removes routes that forward, and never those that keep packets in its table.
    let wanted = |route: DesiredRoute| {
        if let (RouteTo::Device(port), IpNet::V6(_)) = (route.to, route.key.prefix)
            && survey.is_too_small_for_ipv6(&port)
        {
            return None;
        }
        let via = resolve(route.to).filter(|via| !blocked(route.key.table) || *via == Via::Unreachable)?;
        Some(KernelRoute::new(&route, via, &ipv4_mtus))
    };
    // Nothing is added to a table that belongs to another program from the start.
    let foreign = |route: &KernelRoute| blocked(route.key.table) && !survey.has_vrf_on(route.key.table);
    // The default of a table that no VPC uses any more, while a VRF that is not ours to remove still sends packets
    // there.
    let mut in_use = BTreeMap::new();
    let mut held = |route: &KernelRoute| {
        let table = route.key.table;
        let last = route.key.prefix.prefix_len() == 0 && !desired.partial;
        last && *in_use.entry(table).or_insert_with(|| survey.is_in_use(table))
    };
    // There may be a million to add.
    let more = if bare { 0 } else { desired.remote.len().saturating_sub(survey.observed.routes.len()) };
    let mut coming = Vec::with_capacity(more);
    let (mut backstops, mut going, mut lifted) = (Vec::new(), Vec::new(), Vec::new());
    let change = |change: Operation| {
        match &change {
            // If a table's last route went before the table's devices, packets would fall through to table main.
            Operation::RemoveRoute(route) if route.via == Via::Unreachable && held(route) => {}
            Operation::RemoveRoute(route) if route.via == Via::Unreachable => lifted.push(*route),
            Operation::RemoveRoute(route) => going.push(*route),
            Operation::AddRoute(route) if foreign(route) => {}
            Operation::AddRoute(route) if route.via == Via::Unreachable => backstops.push(*route),
            _ => coming.push(change),
        }
    };
    if bare {
        desired.local.iter().copied().filter_map(wanted).map(Operation::AddRoute).for_each(change);
    } else {
        merge(desired.routes().filter_map(wanted), have(), change);
    }
    // A route that another prefix replaces is removed once that one exists: packets to it have a route at every moment.
    let added = coming.iter().filter(|_| !going.is_empty()).filter_map(|change| match change {
        Operation::AddRoute(route) => Some(route.key),
        _ => None,
    });
    let added = Destinations::of(added);
    let (replaced, ended): (Vec<_>, Vec<_>) = going.into_iter().partition(|route| added.meet(&route.key));
    phases.extend(Phase::Stop, ended.into_iter().map(Operation::RemoveRoute));
    // An unreachable route within it would be the more specific one until its replacement comes.
    let kept = Destinations::of(replaced.iter().map(|route| route.key));
    let (within, first): (Vec<_>, Vec<_>) = backstops.into_iter().partition(|route| kept.are_around(&route.key));
    phases.extend(Phase::Backstops, first.into_iter().map(Operation::AddRoute));
    coming.extend(within.into_iter().map(Operation::AddRoute));
    // One within a route to be added would be the more specific one once its own route is gone.
    let (covered, last): (Vec<_>, Vec<_>) = lifted.into_iter().partition(|route| added.are_around(&route.key));
    coming.extend(covered.into_iter().map(Operation::RemoveRoute));
    phases.extend(Phase::Afterwards, last.into_iter().map(Operation::RemoveRoute));
    coming.extend(replaced.into_iter().map(Operation::RemoveRoute));
    phases.put(Phase::Routes, coming);
    bare
}

/// Destinations of routes, by table and first address.
struct Destinations(BTreeSet<(u32, IpAddr, u8)>);

impl Destinations {
    fn of(keys: impl Iterator<Item = RouteKey>) -> Self {
        Self(keys.map(|key| (key.table, key.prefix.network(), key.prefix.prefix_len())).collect())
    }

    /// Whether one of them is wider than the destination of a route, and contains it.
    fn are_around(&self, key: &RouteKey) -> bool {
        let wider = std::iter::successors(key.prefix.supernet(), IpNet::supernet);
        !self.0.is_empty()
            && wider.into_iter().any(|net| self.0.contains(&(key.table, net.network(), net.prefix_len())))
    }

    /// Whether one of them overlaps the destination of a route.
    fn meet(&self, key: &RouteKey) -> bool {
        let (first, last) = (key.prefix.network(), key.prefix.broadcast());
        let within = || self.0.range((key.table, first, 0)..=(key.table, last, u8::MAX)).next().is_some();
        !self.0.is_empty() && (within() || self.are_around(key))
    }
}

/// Walks both sorted lists in parallel. Desired keys are unique and have no type of service; the kernel may have
/// several routes under one key.
fn merge(
    wanted: impl Iterator<Item = KernelRoute>,
    have: impl Iterator<Item = KernelRoute>,
    mut change: impl FnMut(Operation),
) {
    let mut wanted = wanted.peekable();
    let mut have = have.peekable();
    let place = |route: &KernelRoute| (route.key, route.tos);
    loop {
        let order = match (wanted.peek(), have.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(want), Some(have)) => place(want).cmp(&place(have)),
        };
        match order {
            Ordering::Less => wanted.next().into_iter().for_each(|want| change(Operation::AddRoute(want))),
            Ordering::Greater => have.next().into_iter().for_each(|have| change(Operation::RemoveRoute(have))),
            Ordering::Equal => {
                let Some(want) = wanted.next() else { return };
                let Some(first) = have.next_if(|have| place(have) == place(&want)) else { return };
                let is_it = |have: &KernelRoute| have.via == want.via && have.mtu == want.mtu;
                let mut fits = is_it(&first);
                let mut rivals = Vec::new();
                if !fits {
                    rivals.push(first);
                }
                while let Some(next) = have.next_if(|have| place(have) == place(&want)) {
                    if !fits && is_it(&next) {
                        fits = true;
                    } else {
                        rivals.push(next);
                    }
                }
                // A single differing route is changed in place, so that a route exists at every moment.
                if !fits && rivals.len() == 1 {
                    change(Operation::ReplaceRoute(want));
                    continue;
                }
                for rival in rivals {
                    change(Operation::RemoveRoute(rival));
                }
                if !fits {
                    change(Operation::AddRoute(want));
                }
            }
        }
    }
}
