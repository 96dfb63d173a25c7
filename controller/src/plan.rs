//! From the state to the configuration of one host. Pure.

use crate::model::{
    record::{Host, Peering, Port, Side},
    state::State,
};
use cps_peering_config::{
    SharedHostConfig,
    host_config::{Gateways, Limit, PortConfig, Ports, Remotes, Share, SideConfig, VrfConfig},
    id::{HostId, PeeringId, VpcId},
    net::{InterfaceName, Vni},
    prefix_set::intersection,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
};

/// Sides that are the same on several hosts. Valid for one state.
#[derive(Debug, Default)]
pub struct Sides(HashMap<Vni, Arc<SideConfig>>);

/// A host's configuration; empty while it retires.
pub fn plan(state: &State, host: &Host, alike: &mut Sides) -> SharedHostConfig {
    let mut config = SharedHostConfig {
        revision: state.revision_of(host),
        host: host.id.clone(),
        underlay: host.underlay,
        vrfs: BTreeMap::new(),
        sides: BTreeMap::new(),
    };
    if host.retiring {
        return config;
    }
    let mut ports: BTreeMap<&VpcId, Vec<(InterfaceName, PortConfig)>> = BTreeMap::new();
    for port in state.ports_on(&host.id) {
        let settings = PortConfig { gateways: port.gateways.clone(), prefixes: port.prefixes.clone() };
        ports.entry(&port.vpc).or_default().push((port.key.interface, settings));
    }
    for (vpc, mut ports) in ports {
        ports.shrink_to_fit();
        // They came in the order of their names.
        let ports = Ports::from_sorted_store_unchecked(ports);
        let Some(vpc) = state.vpcs().get(vpc) else { continue };
        let remotes = remotes(state, &vpc.id, &host.id, None);
        let path_mtu =
            host.underlay_mtu.and_then(|own| path_mtu(state, &vpc.id, &host.id).filter(|least| *least < own));
        let shared = shared_gateways(state, &vpc.id);
        let gateways = ports.values().flat_map(|port| &port.gateways).map(IpNet::addr);
        let shared_gateways: BTreeSet<IpAddr> = gateways.filter(|gateway| shared.contains(gateway)).collect();
        let shared_gateways = shared_gateways.into_iter().collect();
        let vrf = VrfConfig { vni: vpc.vni, ports, remotes, path_mtu, shared_gateways };
        config.vrfs.insert(vpc.id.clone(), Arc::new(vrf));
        for peering in state.peerings_of(&vpc.id) {
            config.sides.extend(sides(state, host, peering, |own| *own == vpc.id, alike));
        }
    }
    config
}

/// The same if nothing but these peerings has changed since the configuration `before` was planned. The cost depends on them only.
pub fn plan_again(
    state: &State,
    host: &Host,
    before: &SharedHostConfig,
    changed: &BTreeSet<PeeringId>,
    alike: &mut Sides,
) -> SharedHostConfig {
    let mut config = SharedHostConfig { revision: state.revision_of(host), ..before.clone() };
    config.sides.retain(|_, side| !changed.contains(&side.peering));
    for peering in changed.iter().filter_map(|id| state.peerings().get(id)) {
        config.sides.extend(sides(state, host, peering, |own| config.vrfs.contains_key(own), alike));
    }
    config
}

/// A host's configuration of a peering, for each of its VPCs.
fn sides(
    state: &State,
    host: &Host,
    peering: &Peering,
    here: impl Fn(&VpcId) -> bool,
    alike: &mut Sides,
) -> Vec<(Vni, Arc<SideConfig>)> {
    let views = peering.forwards().then(|| peering.views()).into_iter().flatten();
    let side = |(own, peer): (&Side, &Side)| {
        let (vni, peer_vni) = (own.vni?, peer.vni?);
        let reached = peer.effective(own);
        // With prefix lists, hosts only get what is reachable: they do not know of the rest.
        let part = peering.is_scoped().then_some(&*reached);
        let make = || {
            Arc::new(SideConfig {
                peering: peering.id.clone(),
                vpc: own.vpc.clone(),
                peer_vni,
                peer_cidrs: reached.to_vec(),
                own_prefixes: part.map(|_| own.effective(peer).into_owned()),
                remotes: remotes(state, &peer.vpc, &host.id, part),
                gateways: gateways_by_vtep(state, &peer.vpc, &host.id, &reached),
                path_mtu: path_mtu(state, &peer.vpc, &host.id)
                    .filter(|least| mtus(state, &own.vpc).any(|(_, mtu)| *least < mtu)),
                limit: limit(state, peering, own),
            })
        };
        // What is on the host itself is no remote: there the configurations differ.
        let differs = state.has_port(&peer.vpc, &host.id);
        Some((vni, if differs { make() } else { Arc::clone(alike.0.entry(vni).or_insert_with(make)) }))
    };
    views.filter(|(own, _)| here(&own.vpc)).filter_map(side).collect()
}

/// What all hosts of a side together have from the beginning, if there are several: half a percent. That is enough to
/// begin, and so little that a new host does not make the sum exceed the limit measurably. Everything
/// else is granted, see [`shares`](crate::hosts::shares).
const BEGINNING: Share = Share::of_millionths(5000).expect("less than the whole");

/// The limit of one host of a side. One alone has all of it. If there were former hosts, one of them may still send.
pub(crate) fn limit(state: &State, peering: &Peering, own: &Side) -> Option<Limit> {
    if !peering.is_cross_region() {
        return None;
    }
    let bandwidth_mbit = NonZeroU32::new(peering.bandwidth?)?;
    let hosts = u32::try_from(state.hosts_of(&own.vpc).len()).unwrap_or(u32::MAX);
    let share = match NonZeroU32::new(hosts) {
        Some(hosts) if hosts.get() > 1 || !peering.former_hosts.is_empty() => {
            // Rounded to a power of two: not every new host changes it for all.
            let slots = hosts.checked_next_power_of_two().unwrap_or(NonZeroU32::MAX);
            Share::max(BEGINNING.divided_by(slots), Share::LEAST)
        }
        _ => Share::WHOLE,
    };
    Some(Limit { bandwidth_mbit, share })
}

/// Gateway addresses that ports of a VPC on several hosts have in common.
fn shared_gateways(state: &State, vpc: &VpcId) -> HashSet<IpAddr> {
    let mut first: HashMap<IpAddr, &HostId> = HashMap::new();
    let mut shared = HashSet::new();
    for port in state.ports_of(vpc) {
        for gateway in port.gateways.iter().map(IpNet::addr) {
            if *first.entry(gateway).or_insert(&port.key.host) != &port.key.host {
                shared.insert(gateway);
            }
        }
    }
    shared
}

/// By host, one gateway address of a VPC in each family which that host alone has, and to which others have a route: within
/// the prefixes of a port, and of what is `joined`.
pub(crate) fn gateways<'a>(
    state: &'a State,
    vpc: &VpcId,
    joined: Option<&[IpNet]>,
) -> BTreeMap<&'a HostId, Vec<IpAddr>> {
    let shared = shared_gateways(state, vpc);
    let covers = |prefixes: &[IpNet], address: &IpAddr| prefixes.iter().any(|prefix| prefix.contains(address));
    let mut found: BTreeMap<&HostId, Vec<IpAddr>> = BTreeMap::new();
    for port in state.ports_of(vpc) {
        for gateway in port.gateways.iter().map(IpNet::addr) {
            let is_usable = covers(&port.prefixes, &gateway) && joined.is_none_or(|joined| covers(joined, &gateway));
            let of_host = || found.get(&port.key.host).into_iter().flatten();
            if is_usable && !shared.contains(&gateway) && of_host().all(|it| it.is_ipv4() != gateway.is_ipv4()) {
                found.entry(&port.key.host).or_default().push(gateway);
            }
        }
    }
    found
}

/// The same for other hosts, by their VTEP addresses.
fn gateways_by_vtep(state: &State, vpc: &VpcId, here: &HostId, joined: &[IpNet]) -> Gateways {
    let others = gateways(state, vpc, Some(joined)).into_iter().filter(|(host, _)| *host != here);
    others.filter_map(|(host, gateways)| Some((state.hosts().get(host)?.underlay, gateways))).collect()
}

/// The prefixes of a VPC on other hosts, by their VTEP addresses; with a part, only those within it.
fn remotes(state: &State, vpc: &VpcId, here: &HostId, part: Option<&[IpNet]>) -> Remotes {
    let mut remotes: BTreeMap<IpAddr, Vec<IpNet>> = BTreeMap::new();
    for port in state.ports_of(vpc).filter(|port| port.key.host != *here) {
        let Some(host) = state.hosts().get(&port.key.host) else { continue };
        match part {
            None => remotes.entry(host.underlay).or_default().extend(&port.prefixes),
            Some(part) => {
                let prefixes = intersection(&port.prefixes, part);
                // A host without any of them may not send.
                if !prefixes.is_empty() {
                    remotes.entry(host.underlay).or_default().extend(prefixes);
                }
            }
        }
    }
    for prefixes in remotes.values_mut() {
        prefixes.sort_unstable();
        prefixes.shrink_to_fit();
    }
    let mut sorted: Vec<_> = remotes.into_iter().collect();
    sorted.shrink_to_fit();
    Remotes::from_sorted_store_unchecked(sorted)
}

/// The hosts with ports of a VPC, and the MTU of the underlay at their ends, as far as known.
fn mtus<'a>(state: &'a State, vpc: &VpcId) -> impl Iterator<Item = (&'a HostId, u32)> {
    let hosts = state.hosts_of(vpc).into_iter().filter_map(|id| state.hosts().get(&id));
    hosts.filter_map(|host| Some((&host.id, host.underlay_mtu?)))
}

/// The smallest MTU of the underlay on the paths to a VPC's ports on other hosts, as far as known.
fn path_mtu(state: &State, vpc: &VpcId, here: &HostId) -> Option<u32> {
    mtus(state, vpc).filter(|(host, _)| *host != here).map(|(_, mtu)| mtu).min()
}

/// The hosts whose plan may depend on a VPC: those with a port of it or of one of its peers.
pub fn reach(state: &State, vpc: &VpcId) -> BTreeSet<HostId> {
    let peers = state.peerings_of(vpc).flat_map(Peering::sides).map(|side| &side.vpc);
    std::iter::once(vpc).chain(peers).flat_map(|vpc| state.hosts_of(vpc)).collect()
}

/// The hosts whose plan may depend on a host: itself, and those that reach a VPC on it.
pub fn reach_of_host(state: &State, host: &HostId) -> BTreeSet<HostId> {
    let vpcs: BTreeSet<&VpcId> = state.ports_on(host).map(|port: &Port| &port.vpc).collect();
    std::iter::once(host.clone()).chain(vpcs.into_iter().flat_map(|vpc| reach(state, vpc))).collect()
}
