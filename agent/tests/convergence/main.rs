//! The pure core against a kernel in memory: whatever the configuration and the state of the kernel, the desired state
//! is reached, and what is not ours is never named.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod conflicts;
mod crash;
mod objects;
mod order;
mod underlay;

use cps_peering_agent::{
    compile::{UnderlayParams, compile},
    diff::{InterferenceKind, Plan, diff, lazy_diff},
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
    host_config::{Gateways, Limit, PortConfig, Ports, Remotes, Share, SideConfig, VrfConfig},
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
    /// In Mbit/s; every third number means no limit.
    limits: [[u8; VPCS as usize]; VPCS as usize],
    /// What each peering joins of the VPCs, in bits; all if the number is even.
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

    /// What is reached of `a` in its peering with `b`; none for all. Half of a port's prefix, a prefix of another host,
    /// and one that is wider than any port's.
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

    /// The configuration of host 0.
    fn config(&self) -> ValidHostConfig {
        let here = |vpc: u8| self.ports[usize::from(vpc)][0];
        let vrfs = (0..VPCS).filter(|vpc| here(*vpc)).map(|vpc| {
            let gateways = vec![net(&format!("10.{vpc}.0.1/24")), net(&format!("fd00:{vpc}::1/64"))];
            let port = PortConfig { gateways, prefixes: Self::prefixes(vpc, 0) };
            let ports = Ports::from_iter([(format!("port{vpc}").parse().unwrap(), port)]);
            let vrf = VrfConfig {
                vni: vni(u32::from(vpc) + 10),
                ports,
                remotes: self.remotes(vpc),
                path_mtu: None,
                shared_gateways: Vec::new(),
            };
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
                gateways: Gateways::default(),
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

/// A host with an underlay interface, tenants' interfaces, and objects of others.
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

/// Observes and changes until nothing differs. Returns the plans that it took.
fn converge(kernel: &mut Memory, desired: &Desired) -> Vec<Plan> {
    let mut plans = Vec::new();
    loop {
        let plan = diff(desired, &kernel.observe_all().unwrap());
        if plan.operations.is_empty() {
            return plans;
        }
        assert!(plans.len() < 4, "does not converge: {plan:#?}");
        kernel.apply(&plan.operations).unwrap();
        plans.push(plan);
    }
}

/// Everything that existed before us and is not a tenant's port.
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

/// What an agent sees, in a form that does not depend on how it came about: names for indexes, meanings for ids.
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
    // The kernel's `l3mdev` rules stay when the last VRF is gone.
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

/// Everything that forwards packets, in the same form.
fn ways(observed: &Observed) -> BTreeSet<String> {
    let name = |index: u32| observed.name_of(index).map_or_else(|| "gone".to_owned(), |name| name.to_string());
    let mut all = BTreeSet::new();
    all.extend(observed.addresses.iter().map(|it| format!("{it:?}")));
    all.extend(observed.without_local_route.iter().map(|it| format!("without_local_route {it:?}")));
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

/// The state of a host that has never had anything else.
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

/// Removes random objects of ours, and alters others.
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
            // The kernel's own in front is not ours to repair while we have not moved it.
            4 => state.seen.rules.retain(|rule| rule.priority == 0),
            5 if nth % 2 == 1 => {
                let ours = state.seen.addresses.iter().filter(|(_, ours)| **ours).map(|(address, _)| *address);
                state.seen.without_local_route = ours.skip(nth % 3).step_by(2).collect();
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
    fn refused_operations_are_retried(before in worlds(), after in worlds(), refuse in proptest::collection::btree_set(0usize..60, 0..5)) {
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
        prop_assert!(false, "does not converge");
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
    fn partial_and_full_observations_lead_to_the_same_state(before in worlds(), peered in any::<[[bool; VPCS as usize]; VPCS as usize]>(), moved in 0..VPCS, elsewhere in any::<[bool; HOSTS as usize]>()) {
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
    // Traffic from one to the other is limited, and not the reverse.
    let mut world = World { ports: [[false; 4]; 4], peered: [[false; 4]; 4], limits: [[0; 4]; 4], scopes: [[0; 4]; 4] };
    world.limits[0][1] = 100;
    world.ports[0] = [true, true, false, false];
    world.ports[1] = [true, false, true, false];
    world.peered[0][1] = true;
    world
}

/// The conflict that keeps `device` away after `prepare`, while everything else converges.
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
