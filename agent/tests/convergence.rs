//! The pure core against a kernel in memory: whatever the configuration and whatever state the kernel is in, what should
//! be there gets there, and what is not ours is never named.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod conflicts;
mod crash;

use cps_peering_agent::{
    compile::{UnderlayParams, compile},
    diff::{Plan, diff},
    dirty_set::DirtySet,
    kernel::{Kernel, memory::Memory},
    objects::{
        Desired, DeviceSetting, Egress, FdbTarget, GuardKind, IngressFilter, KernelRoute, LinkChange, LinkKind, Lookup,
        Observed, Operation, RouteKey, Tunnel, UnderlayState, Via,
    },
    ownership::{self, DeviceName},
};
use cps_peering_config::{
    HostConfig, Revision, ValidHostConfig,
    host_config::{Limit, PortConfig, Ports, Remotes, Share, SideConfig, VrfConfig},
    net::{InterfaceName, Mac, Vni},
    prefix_set::intersection,
    report::ProblemKind,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
};

const SURROUNDINGS: UnderlayParams = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
const VPCS: u8 = 4;
/// Host 0 is the one that is configured; the others are remote.
const HOSTS: u8 = 4;

fn vni(number: u32) -> Vni {
    number.try_into().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn vtep(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host + 1])
}

/// A cloud of a few VPCs: which has a port on which host, and which are peered.
#[derive(Debug, Clone)]
struct World {
    ports: [[bool; HOSTS as usize]; VPCS as usize],
    peered: [[bool; VPCS as usize]; VPCS as usize],
    /// In Mbit/s; every third number means that there is no limit.
    limits: [[u8; VPCS as usize]; VPCS as usize],
    /// What of the VPCs each peering joins, in bits; all where the number is even.
    scopes: [[u8; VPCS as usize]; VPCS as usize],
}

fn worlds() -> impl Strategy<Value = World> {
    type Pairs<T> = [[T; VPCS as usize]; VPCS as usize];
    (any::<[[bool; HOSTS as usize]; VPCS as usize]>(), any::<Pairs<bool>>(), any::<Pairs<u8>>(), any::<Pairs<u8>>())
        .prop_map(|(ports, peered, limits, scopes)| World { ports, peered, limits, scopes })
}

impl World {
    fn prefixes(vpc: u8, host: u8) -> Vec<IpNet> {
        vec![net(&format!("10.{vpc}.{host}.0/24")), net(&format!("fd00:{vpc}:0:{host}::/64"))]
    }

    fn remotes(&self, vpc: u8) -> Remotes {
        let elsewhere = (1..HOSTS).filter(|host| self.ports[usize::from(vpc)][usize::from(*host)]);
        elsewhere.map(|host| (vtep(host), Self::prefixes(vpc, host))).collect()
    }

    /// What of `a` is reached in its peering with `b`; none for all. A half of a port's prefix, a prefix of another host, and one that
    /// is wider than any port's.
    fn part(&self, a: u8, b: u8) -> Option<Vec<IpNet>> {
        let bits = self.scopes[usize::from(a.min(b))][usize::from(a.max(b))];
        let own = if a < b { bits >> 1 } else { bits >> 4 };
        let parts = [format!("10.{a}.0.0/25"), format!("10.{a}.1.0/24"), format!("fd00:{a}::/56")];
        let picked =
            parts.iter().enumerate().filter(|(number, _)| own >> number & 1 == 1).map(|(_, prefix)| net(prefix));
        (bits % 2 == 1).then(|| picked.collect())
    }

    /// What the side of `a` towards `b` may send.
    fn limit(&self, a: u8, b: u8) -> Option<Limit> {
        let mbit = self.limits[usize::from(a)][usize::from(b)];
        let bandwidth_mbit = NonZeroU32::new(mbit.into()).filter(|_| !mbit.is_multiple_of(3))?;
        Some(Limit { bandwidth_mbit, share: Share::WHOLE })
    }

    /// What host 0 must have.
    fn config(&self) -> ValidHostConfig {
        let here = |vpc: u8| self.ports[usize::from(vpc)][0];
        let vrfs = (0..VPCS).filter(|vpc| here(*vpc)).map(|vpc| {
            let gateways = vec![net(&format!("10.{vpc}.0.1/24")), net(&format!("fd00:{vpc}::1/64"))];
            let port = PortConfig { gateways, prefixes: Self::prefixes(vpc, 0) };
            let ports = Ports::from_iter([(format!("port{vpc}").parse().unwrap(), port)]);
            let vrf = VrfConfig { vni: vni(u32::from(vpc) + 10), ports, remotes: self.remotes(vpc), path_mtu: None };
            (format!("vpc-{vpc}").parse().unwrap(), vrf)
        });
        let sides = (0..VPCS).flat_map(|a| (0..VPCS).map(move |b| (a, b))).filter(|(a, b)| {
            let (low, high) = (usize::from(*a.min(b)), usize::from(*a.max(b)));
            a != b && here(*a) && self.peered[low][high]
        });
        let side_vni = |a: u8, b: u8| vni(1000 + u32::from(a) * 10 + u32::from(b));
        let sides = sides.map(|(a, b)| {
            let side = SideConfig {
                peering: format!("p-{}-{}", a.min(b), a.max(b)).parse().unwrap(),
                vpc: format!("vpc-{a}").parse().unwrap(),
                peer_vni: side_vni(b, a),
                peer_cidrs: self
                    .part(b, a)
                    .unwrap_or_else(|| vec![net(&format!("10.{b}.0.0/16")), net(&format!("fd00:{b}::/48"))]),
                own_prefixes: self.part(a, b),
                remotes: match self.part(b, a) {
                    None => self.remotes(b),
                    Some(part) => {
                        let all = self.remotes(b).into_tuple_vec().into_iter();
                        let reached = all.map(|(vtep, prefixes)| (vtep, intersection(&prefixes, &part)));
                        reached.filter(|(_, prefixes)| !prefixes.is_empty()).collect()
                    }
                },
                path_mtu: None,
                limit: self.limit(a, b),
            };
            (side_vni(a, b), side)
        });
        let config = HostConfig {
            revision: Revision { epoch: 1, number: 1 },
            host: "h0".parse().unwrap(),
            underlay: vtep(0),
            vrfs: vrfs.collect(),
            sides: sides.collect(),
        };
        config.try_into().unwrap()
    }

    fn desired(&self) -> Desired {
        compile(&self.config(), SURROUNDINGS, &DirtySet::Everything)
    }
}

/// A host with an underlay interface, tenants' interfaces, and things of other people.
fn host() -> Memory {
    let memory = Memory::new();
    {
        let mut state = memory.state();
        state.add_link("eth0", LinkKind::Other).up = true;
        state.add_foreign_address("eth0", "192.0.2.1/24");
        for vpc in 0..VPCS {
            state.add_link(&format!("port{vpc}"), LinkKind::Other);
        }
        let tunnel = Tunnel { vni: vni(5000), port: 4789, local: vtep(0) };
        state.add_link("flannel.1", LinkKind::Vxlan { tunnel: Some(tunnel), altered: false }).up = true;
        state.add_link("mgmt", LinkKind::Vrf(1000)).up = true;
        state.seen.foreign_nexthop_ids.insert(ownership::FIRST_NEXTHOP_ID);
    }
    memory
}

/// Looks and changes until nothing differs. Returns the plans that it took.
fn converge(kernel: &mut Memory, desired: &Desired) -> Vec<Plan> {
    let mut plans = Vec::new();
    loop {
        let plan = diff(desired, &kernel.observe_all().unwrap());
        if plan.operations.is_empty() {
            return plans;
        }
        assert!(plans.len() < 4, "does not come to rest: {plan:#?}");
        kernel.apply(&plan.operations).unwrap();
        plans.push(plan);
    }
}

/// Everything that was there before us and is not a tenant's port.
fn foreign(observed: &Observed) -> Observed {
    let mut rest = observed.clone();
    rest.links.retain(|name, _| !observed.owns(name) && !name.as_str().starts_with("port"));
    // Those of ports are link-local ones, which come and go with the port.
    rest.addresses.retain(|address, ours| !*ours && !address.device.as_str().starts_with("port"));
    rest.neighbours.clear();
    rest.fdb.clear();
    rest.ingress.clear();
    rest.underlay = UnderlayState::default();
    rest.egress.clear();
    rest.nexthops.clear();
    rest.routes.clear();
    rest.rules.clear();
    rest.ipv6_forwarding = false;
    rest
}

/// What an agent sees, in words that do not depend on how it came about: names for indexes, meanings for ids.
fn meaning(observed: &Observed) -> BTreeSet<String> {
    let name = |index: u32| observed.name_of(index).map_or_else(|| "gone".to_owned(), |name| name.to_string());
    let mut all = BTreeSet::new();
    for (device, link) in observed.links.iter().filter(|(_, link)| link.master.is_some() || link.group != 0) {
        let master = link.master.map(name);
        if matches!(link.kind, LinkKind::Vrf(_)) {
            // Nothing depends on its MTU and settings.
            all.insert(format!("{device} {:?}", (link.kind, link.up, &link.alias)));
            continue;
        }
        all.insert(format!(
            "{device} {:?}",
            (link.kind, link.mac, link.mtu, link.up, master, &link.alias, &link.settings)
        ));
    }
    // The kernel's `l3mdev` rules stay when the last VRF has gone.
    let has_vrf = observed.links.keys().any(|device| observed.owns(device));
    let rules = observed.rules.iter().filter(|rule| has_vrf || rule.lookup != Lookup::L3mdev);
    all.extend(rules.map(|it| format!("{it:?}")));
    for (device, ingress) in &observed.ingress {
        let filters: BTreeSet<_> = ingress.filters.values().collect();
        all.insert(format!("{device} {filters:?}"));
    }
    all.extend(observed.egress.iter().map(|(device, egress)| format!("{device} {egress:?}")));
    all.extend(ways(observed));
    all
}

/// Everything that leads packets somewhere, in the same words.
fn ways(observed: &Observed) -> BTreeSet<String> {
    let name = |index: u32| observed.name_of(index).map_or_else(|| "gone".to_owned(), |name| name.to_string());
    let mut all = BTreeSet::new();
    all.extend(observed.addresses.iter().map(|it| format!("{it:?}")));
    all.extend(observed.unheard.iter().map(|it| format!("unheard {it:?}")));
    all.extend(observed.neighbours.iter().map(|it| format!("{it:?}")));
    all.extend(observed.fdb.iter().map(|it| format!("{it:?}")));
    let nexthop = |id: &u32| observed.nexthops.get(id).map(|(index, gateway)| format!("{} {gateway}", name(*index)));
    all.extend(observed.nexthops.keys().map(|id| format!("{:?}", nexthop(id))));
    for route in &observed.routes {
        let via = match &route.via {
            Via::Device(index) => name(*index),
            Via::Nexthop(id) => format!("{:?}", nexthop(id)),
            other => format!("{other:?}"),
        };
        all.insert(format!("{} {via}", route.key));
    }
    all
}

/// What a host has that never had anything else.
fn fresh(desired: &Desired) -> BTreeSet<String> {
    let mut kernel = host();
    converge(&mut kernel, desired);
    let state = kernel.state();
    meaning(&state.seen)
}

fn devices(operation: &Operation) -> Vec<InterfaceName> {
    match operation {
        Operation::AddVrf(name, _)
        | Operation::AddVxlan(name, _)
        | Operation::ChangeLink(name, _)
        | Operation::Set(name, ..)
        | Operation::ResetToDefault(name, _)
        | Operation::AddShaper(name)
        | Operation::SetRate(name, _)
        | Operation::SetQueue(name, _)
        | Operation::RemoveShaper(name) => vec![*name],
        Operation::RemoveLinks(names) => names.clone(),
        Operation::AddAddress(address) | Operation::RemoveAddress(address) => vec![address.device],
        Operation::SetNeighbour(key, _) | Operation::RemoveNeighbour(key) => vec![key.device],
        Operation::SetFdb(key, _) | Operation::RemoveFdb(key) => vec![key.device],
        Operation::AddNexthop(_, nexthop) => vec![nexthop.device],
        _ => vec![],
    }
}

/// Takes random things of ours away, and twists others.
fn damage(memory: &Memory, seeds: &[u32]) {
    let mut state = memory.state();
    for seed in seeds {
        let nth = *seed as usize / 8;
        let pick = |length: usize| nth % length.max(1);
        match seed % 8 {
            0 => {
                let names: Vec<InterfaceName> =
                    state.seen.links.keys().filter(|name| state.seen.owns(name)).copied().collect();
                if let Some(name) = names.get(pick(names.len())) {
                    state.remove_link(name);
                }
            }
            1 => {
                let place = pick(state.seen.routes.len());
                state.seen.routes = state
                    .seen
                    .routes
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|(n, _)| *n != place)
                    .map(|(_, r)| r)
                    .collect();
            }
            2 => {
                let place = pick(state.seen.routes.len());
                if let Some(route) = state.seen.routes.get_mut(place) {
                    route.via = Via::Other;
                }
            }
            3 => {
                let names: Vec<InterfaceName> = state.seen.links.keys().copied().collect();
                let name = names[pick(names.len())];
                if name.as_str().starts_with("cps") || name.as_str().starts_with("port") {
                    state.seen.links.get_mut(&name).unwrap().up = false;
                    state.goes_down(&name);
                }
            }
            // The kernel's own in front is not ours to mend while we have not moved it.
            4 => state.seen.rules.retain(|rule| rule.priority == 0),
            5 if nth % 2 == 1 => {
                let ours = state.seen.addresses.iter().filter(|(_, ours)| **ours).map(|(address, _)| *address);
                state.seen.unheard = ours.skip(nth % 3).step_by(2).collect();
            }
            5 => state.seen.fdb.values_mut().for_each(|target| *target = None),
            6 if nth % 2 == 1 => match nth / 2 % 5 {
                0 => state.seen.egress.clear(),
                1 => state.seen.egress.values_mut().for_each(|egress| *egress = Egress::default()),
                2 => state.seen.egress.values_mut().for_each(|egress| egress.rate = None),
                3 => state.seen.egress.values_mut().for_each(|egress| egress.bypassed = true),
                _ => state.seen.egress.values_mut().for_each(|egress| egress.queue = None),
            },
            6 => {
                state.seen.neighbours.clear();
                state.seen.ingress.values_mut().for_each(|ingress| ingress.filters.clear());
            }
            _ => state.seen.links.values_mut().filter(|link| ownership::owns_group(link.group)).for_each(|link| {
                link.mtu = 1400;
                link.mac = None;
                link.alias = None;
                link.settings.values_mut().for_each(|value| *value = 7);
            }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn from_any_world_to_any_other_and_back_to_nothing(before in worlds(), after in worlds()) {
        let mut kernel = host();
        let begin = foreign(&kernel.state().seen);
        for world in [&before, &after] {
            let plans = converge(&mut kernel, &world.desired());
            prop_assert!(plans.len() <= 2);
            prop_assert_eq!(&foreign(&kernel.state().seen), &begin);
            prop_assert_eq!(meaning(&kernel.state().seen), fresh(&world.desired()));
        }
        converge(&mut kernel, &Desired::default());
        let state = kernel.state();
        prop_assert_eq!(foreign(&state.seen), begin);
        prop_assert!(!state.seen.links.keys().any(|name| state.seen.owns(name)));
        prop_assert!(state.seen.routes.is_empty() && state.seen.nexthops.is_empty() && state.seen.fdb.is_empty());
        prop_assert!(state.seen.links.values().all(|link| link.master.is_none()));
        prop_assert!(state.seen.addresses.values().all(|ours| !ours) && state.seen.ingress.is_empty());
        prop_assert!(state.seen.egress.is_empty());
        prop_assert!(state.seen.rules.iter().all(|rule| rule.protocol != ownership::PROTOCOL));
    }

    #[test]
    fn any_damage_heals(world in worlds(), seeds in proptest::collection::vec(any::<u32>(), 1..6)) {
        let mut kernel = host();
        let desired = world.desired();
        converge(&mut kernel, &desired);
        damage(&kernel, &seeds);
        converge(&mut kernel, &desired);
        prop_assert_eq!(meaning(&kernel.state().seen), fresh(&desired));
    }

    #[test]
    fn refused_operations_are_made_up_for(before in worlds(), after in worlds(), refuse in proptest::collection::btree_set(0usize..60, 0..5)) {
        let mut kernel = host();
        converge(&mut kernel, &before.desired());
        kernel.state().refuse = refuse;
        let desired = after.desired();
        for _ in 0..20 {
            let plan = diff(&desired, &kernel.observe_all().unwrap());
            if plan.operations.is_empty() {
                return Ok(());
            }
            kernel.apply(&plan.operations).unwrap();
        }
        prop_assert!(false, "does not come to rest");
    }

    #[test]
    fn the_same_input_gives_the_same_plan(world in worlds(), seeds in proptest::collection::vec(any::<u32>(), 0..6)) {
        let mut kernel = host();
        converge(&mut kernel, &world.desired());
        damage(&kernel, &seeds);
        let observed = kernel.observe_all().unwrap();
        prop_assert_eq!(diff(&world.desired(), &observed), diff(&world.desired(), &observed));
    }

    #[test]
    fn a_plan_names_only_devices_of_ours_and_ports(before in worlds(), after in worlds(), seeds in proptest::collection::vec(any::<u32>(), 0..4)) {
        let mut kernel = host();
        converge(&mut kernel, &before.desired());
        damage(&kernel, &seeds);
        converge(&mut kernel, &after.desired());
        for operation in &kernel.state().log {
            for name in devices(operation) {
                prop_assert!(DeviceName::parse(&name).is_some() || name.as_str().starts_with("port"), "{}", operation);
            }
            if let Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) = operation {
                prop_assert!(ownership::table_vni(route.key.table).is_some());
            }
        }
    }

    #[test]
    fn looking_at_what_changed_leads_where_looking_at_everything_does(before in worlds(), peered in any::<[[bool; VPCS as usize]; VPCS as usize]>(), moved in 0..VPCS, elsewhere in any::<[bool; HOSTS as usize]>()) {
        let mut kernel = host();
        converge(&mut kernel, &before.desired());
        let mut after = before.clone();
        after.peered = peered;
        // Ports on other hosts come and go, those on this one stay.
        after.ports[usize::from(moved)][1..].copy_from_slice(&elsewhere[1..]);
        let (old, new) = (before.config(), after.config());
        let dirty = DirtySet::between(&old, &new);
        prop_assert!(dirty != DirtySet::Everything);
        let desired = compile(&new, SURROUNDINGS, &dirty);
        for _ in 0..3 {
            let plan = diff(&desired, &kernel.observe(&dirty, &|| false).unwrap());
            if plan.operations.is_empty() {
                break;
            }
            kernel.apply(&plan.operations).unwrap();
        }
        let left = diff(&after.desired(), &kernel.observe_all().unwrap());
        prop_assert!(left.operations.is_empty(), "{left:#?}");
    }

    #[test]
    fn what_two_worlds_share_is_not_touched(world in worlds(), vpc in 0..VPCS) {
        let mut kernel = host();
        converge(&mut kernel, &world.desired());
        // Peerings of one VPC come and go; those between others must not notice.
        let mut other = world.clone();
        for peer in 0..VPCS {
            let (low, high) = (usize::from(vpc.min(peer)), usize::from(vpc.max(peer)));
            other.peered[low][high] ^= true;
        }
        kernel.state().log.clear();
        converge(&mut kernel, &other.desired());
        let (before, after) = (world.config(), other.config());
        let shared: Vec<InterfaceName> = before
            .sides
            .iter()
            .filter(|(vni, side)| after.sides.get(vni) == Some(side))
            .map(|(vni, _)| DeviceName::peer(*vni))
            .collect();
        for operation in &kernel.state().log {
            prop_assert!(!devices(operation).iter().any(|name| shared.contains(name)), "{}", operation);
        }
    }
}

/// VPC 0 has a port here and on host 1; VPC 1 is here, too; they are peered.
fn small_world() -> World {
    // What is sent from one to the other is limited, and not what comes back.
    let mut world = World { ports: [[false; 4]; 4], peered: [[false; 4]; 4], limits: [[0; 4]; 4], scopes: [[0; 4]; 4] };
    world.limits[0][1] = 100;
    world.ports[0] = [true, true, false, false];
    world.ports[1] = [true, false, true, false];
    world.peered[0][1] = true;
    world
}

#[test]
fn traffic_stops_with_the_first_operations() {
    let mut kernel = host();
    let world = small_world();
    converge(&mut kernel, &world.desired());
    let mut unpeered = world;
    unpeered.peered[0][1] = false;
    let plan = diff(&unpeered.desired(), &kernel.observe_all().unwrap());
    let is_stop = |operation: &Operation| match operation {
        Operation::RemoveRoute(route) => route.via != Via::Unreachable,
        _ => matches!(operation, Operation::RemoveFdb(_) | Operation::RemoveNexthop(_)),
    };
    let stops = plan.operations.iter().take_while(|operation| is_stop(operation)).count();
    assert!(stops > 0 && !plan.operations[stops..].iter().any(is_stop), "{plan:#?}");
    // Without its forwarding entries a device sends nothing, whatever still leads to it.
    assert!(
        matches!(plan.operations[..3], [Operation::RemoveFdb(_), Operation::RemoveFdb(_), Operation::RemoveNexthop(_)]),
        "{plan:#?}"
    );
    let devices = plan.operations.iter().position(|operation| matches!(operation, Operation::RemoveLinks(_)));
    let backstop = |operation: &Operation| matches!(operation, Operation::RemoveRoute(_)) && !is_stop(operation);
    assert!(plan.operations.iter().position(backstop) > devices, "{plan:#?}");
    // The kernel takes them away with their next hop; one by one they would take longer.
    assert!(!plan.operations.iter().any(|operation| {
        matches!(operation, Operation::RemoveRoute(route) if matches!(route.via, Via::Nexthop(_)))
    }));
}

/// C9: what stays reachable has a route at every moment, also where the prefix around it becomes another one.
#[test]
fn a_prefix_that_becomes_narrower_or_wider_is_routed_all_the_time() {
    let half = |text: &str| RouteKey::unicast(ownership::table(vni(10)), net(text));
    let place = |plan: &Plan, wanted: &dyn Fn(&Operation) -> bool| plan.operations.iter().position(wanted).unwrap();
    let shadows = std::cell::Cell::new(0);
    let check = |before: &World, after: &World, added: &str, removed: &str| {
        let mut kernel = host();
        converge(&mut kernel, &before.desired());
        let plan = diff(&after.desired(), &kernel.observe_all().unwrap());
        let comes = |it: &Operation| matches!(it, Operation::AddRoute(route) if route.key == half(added));
        let goes = |it: &Operation| matches!(it, Operation::RemoveRoute(route) if route.key == half(removed));
        assert!(place(&plan, &comes) < place(&plan, &goes), "{plan:#?}");
        // The unreachable route of the narrower prefix would be the more specific one.
        let backstop = RouteKey::backstop(ownership::table(vni(10)), net(added));
        let shadow = |it: &Operation| matches!(it, Operation::AddRoute(route) if route.key == backstop);
        if let Some(shadow) = plan.operations.iter().position(shadow) {
            assert!((place(&plan, &comes)..place(&plan, &goes)).contains(&shadow), "{plan:#?}");
            shadows.set(shadows.get() + 1);
        }
        let backstop = RouteKey::backstop(ownership::table(vni(10)), net(removed));
        let shadow = |it: &Operation| matches!(it, Operation::RemoveRoute(route) if route.key == backstop);
        if let Some(shadow) = plan.operations.iter().position(shadow) {
            assert!((place(&plan, &comes)..place(&plan, &goes)).contains(&shadow), "{plan:#?}");
            shadows.set(shadows.get() + 1);
        }
    };
    let whole = small_world();
    let mut part = whole.clone();
    // All of VPC 0, and of VPC 1 a half of its port here.
    part.scopes[0][1] = 1 | 0b111 << 1 | 0b001 << 4;
    check(&whole, &part, "10.1.0.0/25", "10.1.0.0/24");
    check(&part, &whole, "10.1.0.0/24", "10.1.0.0/25");
    assert_eq!(shadows.get(), 2, "the narrower one has an unreachable route of its own");
    // What is reached no more goes at once.
    let mut kernel = host();
    converge(&mut kernel, &whole.desired());
    let plan = diff(&part.desired(), &kernel.observe_all().unwrap());
    let other = |it: &Operation| matches!(it, Operation::RemoveRoute(route) if route.key == half("fd00:1::/64"));
    assert!(place(&plan, &other) < place(&plan, &|it| matches!(it, Operation::AddRoute(_))), "{plan:#?}");
}

/// C9: what is to be rejected before and after a change is so at every moment.
#[test]
fn programs_that_reject_are_never_written_over() {
    let mut before = small_world();
    before.scopes[0][1] = 1 | 0b001 << 1 | 0b111 << 4;
    let mut after = before.clone();
    after.peered[0][2] = true;
    after.scopes[0][1] = 1 | 0b100 << 1 | 0b111 << 4;
    let mut kernel = host();
    converge(&mut kernel, &before.desired());
    let observed = kernel.observe_all().unwrap();
    let plan = diff(&after.desired(), &observed);
    let (mut added, mut removed) = (0, BTreeSet::new());
    let routes = plan
        .operations
        .iter()
        .rposition(|it| matches!(it, Operation::RemoveRoute(route) if route.via != Via::Unreachable));
    let first = plan
        .operations
        .iter()
        .position(|it| matches!(it, Operation::RemoveFilter(_, place) if place.priority == ownership::REJECT_PRIORITY));
    assert!(routes < first, "routes to what was rejected go before: {plan:#?}");
    for operation in &plan.operations {
        match operation {
            Operation::SetFilter(device, place, IngressFilter::Reject(_)) => {
                let there = observed.ingress.get(device).is_some_and(|it| it.filters.contains_key(place));
                assert!(!there && !removed.contains(device), "{device} {place:?}: {plan:#?}");
                added += 1;
            }
            Operation::RemoveFilter(device, place) if place.priority == ownership::REJECT_PRIORITY => {
                removed.insert(*device);
            }
            _ => {}
        }
    }
    assert!(added > 0 && !removed.is_empty(), "{plan:#?}");
    converge(&mut kernel, &after.desired());
}

#[test]
fn a_prefix_that_moves_between_hosts_is_routed_all_the_time() {
    let mut kernel = host();
    let world = small_world();
    converge(&mut kernel, &world.desired());
    let mut config = world.config().into_inner();
    for side in config.sides.values_mut() {
        side.remotes = side.remotes.values().map(|prefixes| (vtep(3), prefixes.clone())).collect();
    }
    let desired = compile(&config.try_into().unwrap(), SURROUNDINGS, &DirtySet::Everything);
    let plan = diff(&desired, &kernel.observe_all().unwrap());
    assert!(!plan.operations.iter().any(|operation| matches!(operation, Operation::RemoveRoute(_))), "{plan:#?}");
    let place = |wanted: fn(&Operation) -> bool| plan.operations.iter().rposition(wanted).unwrap();
    let replaced = place(|operation| matches!(operation, Operation::ReplaceRoute(_)));
    let removed = plan.operations.iter().position(|operation| matches!(operation, Operation::RemoveNexthop(_)));
    assert!(removed.is_some_and(|removed| removed > replaced), "{plan:#?}");
    converge(&mut kernel, &desired);
}

/// The conflict that keeps `device` away after `prepare`, while everything else gets there.
fn conflict(device: &str, prepare: impl FnOnce(&Memory)) -> (ProblemKind, String) {
    let mut kernel = host();
    prepare(&kernel);
    let desired = small_world().desired();
    converge(&mut kernel, &desired);
    let plan = diff(&desired, &kernel.observe_all().unwrap());
    let found = plan.conflicts.iter().find(|conflict| conflict.device.as_str() == device);
    let found = found.unwrap_or_else(|| panic!("{device} is not in {:#?}", plan.conflicts));
    let state = kernel.state();
    let others = desired.ports.keys().filter(|port| port.as_str() != device);
    for port in others.filter(|_| device.starts_with("port")) {
        assert!(state.seen.links[port].master.is_some(), "{port} suffers from {device}");
    }
    (found.kind, found.reason.clone())
}

#[test]
fn what_is_in_the_way_is_named_and_left_alone() {
    let (kind, reason) = conflict("port0", |memory| {
        memory.state().seen.links.remove(&"port0".parse::<InterfaceName>().unwrap());
    });
    assert_eq!((kind, reason.as_str()), (ProblemKind::Missing, "there is no interface port0"));

    let (kind, reason) = conflict("port0", |memory| {
        let mut state = memory.state();
        let bridge = state.add_link("br0", LinkKind::Other).index;
        state.seen.links.get_mut(&"port0".parse::<InterfaceName>().unwrap()).unwrap().master = Some(bridge);
    });
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("br0"), "{reason}");

    let (kind, reason) = conflict("port1", |memory| memory.state().add_foreign_address("port1", "198.51.100.7/24"));
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("198.51.100.7/24"), "{reason}");

    let (kind, reason) = conflict("cpspeer1001", |memory| {
        let tunnel = Tunnel { vni: vni(1001), port: 4789, local: vtep(0) };
        memory.state().add_link("vx7", LinkKind::Vxlan { tunnel: Some(tunnel), altered: true });
    });
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("vx7") && reason.contains("VNI 1001"), "{reason}");

    let (_, reason) = conflict("cpsvrf10", |memory| {
        memory.state().add_link("cpsvrf10", LinkKind::Other);
    });
    assert!(reason.contains("not ours"), "{reason}");

    // Name, kind and number are ours, the mark is not.
    let (kind, reason) = conflict("cpspeer1001", |memory| {
        let tunnel = Tunnel { vni: vni(1001), port: 4789, local: vtep(0) };
        memory.state().add_link("cpspeer1001", LinkKind::Vxlan { tunnel: Some(tunnel), altered: false });
    });
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("not ours"), "{reason}");

    let (_, reason) = conflict("cpsvrf10", |memory| {
        memory.state().add_link("tenant", LinkKind::Vrf(ownership::table(vni(10))));
    });
    assert!(reason.contains("tenant"), "{reason}");
}

/// What is to be done for a small world that is there but for what `change` makes of it.
fn plan_after(change: impl FnOnce(&mut Observed)) -> Vec<Operation> {
    let mut kernel = host();
    let desired = small_world().desired();
    converge(&mut kernel, &desired);
    let mut observed = kernel.observe_all().unwrap();
    change(&mut observed);
    diff(&desired, &observed).operations
}

#[test]
fn a_neighbour_that_lacks_or_is_wrong_is_set_and_no_other() {
    let desired = small_world().desired();
    assert!(!desired.neighbours.is_empty());
    for (key, mac) in &desired.neighbours {
        let set = [Operation::SetNeighbour(*key, *mac)];
        assert_eq!(plan_after(|observed| _ = observed.neighbours.remove(key)), set);
        let wrong = Mac([2, 0, 9, 9, 9, 9]);
        assert_eq!(plan_after(|observed| *observed.neighbours.get_mut(key).unwrap() = wrong), set);
    }
}

#[test]
fn a_forwarding_entry_is_removed_first_only_where_it_leads_elsewhere() {
    let desired = small_world().desired();
    assert!(!desired.fdb.is_empty());
    for (key, target) in &desired.fdb {
        let set = Operation::SetFdb(*key, *target);
        assert_eq!(plan_after(|observed| _ = observed.fdb.remove(key)), std::slice::from_ref(&set));
        let wrong = FdbTarget { vtep: vtep(9), ..*target };
        assert_eq!(plan_after(|observed| _ = observed.fdb.insert(*key, Some(wrong))), std::slice::from_ref(&set));
        let elsewhere = plan_after(|observed| _ = observed.fdb.insert(*key, None));
        assert_eq!(elsewhere, [Operation::RemoveFdb(*key), set]);
    }
}

#[test]
fn a_table_that_is_somebody_elses_gets_no_route() {
    let table = ownership::table(vni(10));
    let mut kernel = host();
    kernel.state().add_link("tenant", LinkKind::Vrf(table));
    let plan = diff(&small_world().desired(), &kernel.observe_all().unwrap());
    let tables: BTreeSet<u32> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::AddRoute(route) | Operation::ReplaceRoute(route) => Some(route.key.table),
            _ => None,
        })
        .collect();
    assert!(!tables.is_empty() && !tables.contains(&table), "{tables:?}");
}

#[test]
fn of_several_routes_under_one_key_the_right_one_stays_alone() {
    let via = |route: &KernelRoute, via| KernelRoute { via, ..*route };
    let with = |others: &dyn Fn(&KernelRoute) -> Vec<KernelRoute>| {
        let mut changed = None;
        let plan = plan_after(|observed| {
            let place = observed.routes.iter().position(|route| matches!(route.via, Via::Nexthop(_))).unwrap();
            let right = observed.routes[place];
            let others = others(&right);
            observed.routes.splice(place..=place, others.iter().copied());
            changed = Some((right, others));
        });
        let (right, others) = changed.unwrap();
        (plan, right, others)
    };
    // Two wrong ones, neither of which can become the right one in place.
    let (plan, right, others) = with(&|right| vec![via(right, Via::Other), via(right, Via::Unreachable)]);
    assert_eq!(plan.len(), 3, "{plan:#?}");
    assert!(others.iter().all(|other| plan.contains(&Operation::RemoveRoute(*other))), "{plan:#?}");
    assert!(plan.contains(&Operation::AddRoute(right)), "{plan:#?}");
    // The right one, whether it comes first or last.
    for right_first in [true, false] {
        let (plan, right, _) = with(&|right| {
            let wrong = via(right, Via::Other);
            if right_first { vec![*right, wrong] } else { vec![wrong, *right] }
        });
        assert_eq!(plan, [Operation::RemoveRoute(via(&right, Via::Other))]);
    }
    // The right one twice: as others see it, that is one too many.
    let (plan, right, _) = with(&|right| vec![*right, *right]);
    assert_eq!(plan, [Operation::RemoveRoute(right)]);
    // A lone wrong one.
    let (plan, right, _) = with(&|right| vec![via(right, Via::Other)]);
    assert_eq!(plan, [Operation::ReplaceRoute(right)]);
}

#[test]
fn somebody_elses_route_under_our_key_is_left_alone() {
    let mut kernel = host();
    let key = RouteKey::unicast(ownership::table(vni(10)), net("10.1.2.0/24"));
    kernel.state().foreign_routes.insert(key);
    let desired = small_world().desired();
    for _ in 0..2 {
        let plan = diff(&desired, &kernel.observe_all().unwrap());
        kernel.apply(&plan.operations).unwrap();
    }
    let plan = diff(&desired, &kernel.observe_all().unwrap());
    assert_eq!(plan.operations.len(), 1, "{plan:#?}");
    assert!(matches!(plan.operations[0], Operation::AddRoute(route) if route.key == key));
    assert!(kernel.state().foreign_routes.contains(&key));
}

#[test]
fn the_local_rule_stands_behind_l3mdev_while_there_are_vrfs_and_never_lacks() {
    let mut kernel = host();
    let locals = |kernel: &Memory| -> Vec<(u32, u8)> {
        let state = kernel.state();
        let rules = state.seen.rules.iter().filter(|rule| rule.lookup == Lookup::Local);
        rules.map(|rule| (rule.priority, rule.protocol)).collect()
    };
    let at_every_step = |kernel: &mut Memory, desired: &Desired| {
        let plan = diff(desired, &kernel.observe_all().unwrap());
        for operation in plan.operations {
            kernel.apply(&[operation]).unwrap();
            assert!(locals(kernel).len() >= 2, "one of each family at every moment");
        }
    };
    at_every_step(&mut kernel, &small_world().desired());
    converge(&mut kernel, &small_world().desired());
    assert_eq!(locals(&kernel), [(1001, ownership::PROTOCOL); 2]);
    at_every_step(&mut kernel, &Desired::default());
    converge(&mut kernel, &Desired::default());
    assert_eq!(locals(&kernel), [(0, 2); 2]);
    // Somebody who followed the kernel's VRF guide has done it already.
    let mut kernel = host();
    {
        let mut state = kernel.state();
        for rule in &mut state.seen.rules {
            rule.priority = 32765;
        }
    }
    converge(&mut kernel, &small_world().desired());
    converge(&mut kernel, &Desired::default());
    assert_eq!(locals(&kernel), [(32765, 2); 2]);
}

#[test]
fn a_port_is_down_and_without_addresses_before_it_leaves_its_vrf() {
    let mut kernel = host();
    converge(&mut kernel, &small_world().desired());
    let plan = diff(&Desired::default(), &kernel.observe_all().unwrap());
    let port: InterfaceName = "port0".parse().unwrap();
    let place = |wanted: &dyn Fn(&Operation) -> bool| plan.operations.iter().rposition(wanted).unwrap();
    let address = place(&|it| matches!(it, Operation::RemoveAddress(address) if address.device == port));
    let down = place(&|it| *it == Operation::ChangeLink(port, LinkChange::Up(false)));
    let release = place(&|it| *it == Operation::ChangeLink(port, LinkChange::Release));
    let vrf = place(&|it| matches!(it, Operation::RemoveLinks(_)));
    assert!(address < release && down < release && release < vrf, "{plan:#?}");
}

/// The kernel lets a VRF's members out before the VRF goes, and those that are up would take packets in for table main.
#[test]
fn tunnels_go_before_the_vrf_that_they_are_in() {
    let mut kernel = host();
    converge(&mut kernel, &small_world().desired());
    let plan = diff(&Desired::default(), &kernel.observe_all().unwrap());
    let removed: Vec<&Vec<InterfaceName>> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::RemoveLinks(names) => Some(names),
            _ => None,
        })
        .collect();
    let [tunnels, vrfs] = removed[..] else { panic!("{removed:?}") };
    let is_vrf = |name: &InterfaceName| name.as_str().starts_with("cpsvrf");
    assert!(!tunnels.is_empty() && !tunnels.iter().any(is_vrf) && vrfs.iter().all(is_vrf), "{removed:?}");
}

/// Everybody is peered with everybody, everywhere.
fn full_world() -> World {
    let all = [[true; VPCS as usize]; VPCS as usize];
    World {
        ports: [[true; HOSTS as usize]; VPCS as usize],
        peered: all,
        limits: [[0; VPCS as usize]; VPCS as usize],
        scopes: [[0; VPCS as usize]; VPCS as usize],
    }
}

fn is_tunnel(name: &InterfaceName) -> bool {
    DeviceName::parse(name).is_some_and(|device| device.role != ownership::Role::Vrf)
}

#[test]
fn who_may_send_is_right_before_the_first_device_is_up_and_after_the_last_has_gone() {
    let mut kernel = host();
    {
        let mut state = kernel.state();
        let bond = state.add_link("bond0", LinkKind::Aggregate).index;
        state.add_link("eth1", LinkKind::Other).master = Some(bond);
    }
    let desired = full_world().desired();
    let plans = converge(&mut kernel, &desired);
    let operations = &plans[0].operations;
    let place = |wanted: &dyn Fn(&Operation) -> bool| operations.iter().position(wanted);
    let first_up = place(&|it| matches!(it, Operation::ChangeLink(name, LinkChange::Up(true)) if is_tunnel(name)));
    let last = |wanted: &dyn Fn(&Operation) -> bool| operations.iter().rposition(wanted);
    assert!(last(&|it| matches!(it, Operation::SetSenders(..))) < first_up);
    assert!(last(&|it| matches!(it, Operation::AddGuard(..))) < first_up && first_up.is_some());
    {
        let state = kernel.state();
        assert_eq!(state.seen.underlay.senders.as_ref(), Some(&desired.senders));
        let tunnels = desired.vxlans.keys().filter_map(DeviceName::parse).map(|device| device.vni);
        assert!(tunnels.eq(desired.senders.keys().copied()) || desired.senders.len() == desired.vxlans.len());
        let kind = |name: &str| state.seen.underlay.guarded.get(&name.parse().unwrap()).copied().flatten();
        for name in ["lo", "eth0", "flannel.1", "mgmt", "bond0"] {
            assert_eq!(kind(name), Some(GuardKind::Device), "{name}");
        }
        assert_eq!((kind("eth1"), kind("port0")), (Some(GuardKind::Member), None));
    }
    // A host that has no part any more: nobody may send before the devices go, and the VNIs are ours until they have gone.
    let plans = converge(&mut kernel, &Desired::default());
    let operations = &plans[0].operations;
    let gone = operations.iter().position(|it| matches!(it, Operation::RemoveLinks(names) if is_tunnel(&names[0])));
    for (place, operation) in operations.iter().enumerate() {
        match operation {
            Operation::SetSenders(_, senders) => assert!(senders.is_empty() && Some(place) < gone),
            Operation::RemoveSenders(_) | Operation::RemoveGuard(_) => assert!(Some(place) > gone),
            _ => {}
        }
    }
    let state = kernel.state();
    assert!(state.seen.underlay.guarded.is_empty() && state.seen.ingress.is_empty(), "{:?}", state.seen.underlay);
    assert_eq!(state.seen.underlay.senders.as_ref().map(BTreeMap::len), Some(0));
}

#[test]
fn what_was_changed_of_the_underlays_filter_is_put_right() {
    let mut kernel = host();
    let desired = full_world().desired();
    converge(&mut kernel, &desired);
    let right = kernel.state().seen.underlay.clone();
    {
        let mut state = kernel.state();
        let eth0 = "eth0".parse().unwrap();
        state.seen.underlay.guarded.remove(&eth0);
        state.seen.underlay.guarded.insert("lo".parse().unwrap(), Some(GuardKind::Member));
        let senders = state.seen.underlay.senders.as_mut().unwrap();
        let (first, second) = (*senders.keys().next().unwrap(), *senders.keys().nth(1).unwrap());
        senders.remove(&first);
        senders.get_mut(&second).unwrap().insert("203.0.113.9".parse().unwrap());
        senders.insert(vni(4_242_424), BTreeSet::new());
    }
    assert_eq!(converge(&mut kernel, &desired).len(), 1);
    assert_eq!(kernel.state().seen.underlay, right);
}

#[test]
fn without_a_filter_of_the_underlay_nothing_is_taken_from_it() {
    for up_before in [false, true] {
        let mut kernel = host();
        let desired = full_world().desired();
        if up_before {
            converge(&mut kernel, &desired);
        }
        {
            let mut state = kernel.state();
            state.seen.underlay.unavailable = true;
            state.seen.underlay.senders = Some(BTreeMap::default());
            state.seen.underlay.guarded.clear();
        }
        for _ in 0..3 {
            let plan = diff(&desired, &kernel.observe_all().unwrap());
            let refused = kernel.apply(&plan.operations).unwrap();
            assert!(!refused.is_empty(), "it is told");
        }
        let state = kernel.state();
        let tunnels: Vec<_> = state.seen.links.iter().filter(|(name, _)| is_tunnel(name)).collect();
        assert!(tunnels.len() == desired.vxlans.len() && tunnels.iter().all(|(_, link)| !link.up));
    }
}

#[test]
fn an_interface_that_may_be_renamed_is_no_port_yet() {
    let mut kernel = host();
    let port: InterfaceName = "port0".parse().unwrap();
    kernel.state().seen.links.get_mut(&port).unwrap().may_be_renamed = true;
    let desired = full_world().desired();
    converge(&mut kernel, &desired);
    assert_eq!(kernel.state().seen.links[&port].master, None);
    let conflicts = diff(&desired, &kernel.observe_all().unwrap()).conflicts;
    assert!(conflicts.iter().any(|it| it.device == port && it.reason.contains("udev")), "{conflicts:?}");
    kernel.state().seen.links.get_mut(&port).unwrap().may_be_renamed = false;
    converge(&mut kernel, &desired);
    assert!(kernel.state().seen.links[&port].master.is_some());
}
