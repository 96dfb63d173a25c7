//! From the state to what one host must have. Pure.

use crate::model::{
    record::{Host, Peering, Port, Side},
    state::State,
};
use cps_peering_config::{
    HostConfig,
    host_config::{Limit, PortConfig, Share, SideConfig, VrfConfig},
    id::{HostId, PeeringId, VpcId},
    net::Vni,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
};

/// What a host must have; nothing at all while it retires.
pub fn plan(state: &State, host: &Host) -> HostConfig {
    let mut config = HostConfig {
        revision: state.revision_of(host),
        host: host.id.clone(),
        underlay: host.underlay,
        vrfs: BTreeMap::new(),
        sides: BTreeMap::new(),
    };
    if host.retiring {
        return config;
    }
    for port in state.ports_on(&host.id) {
        let Some(vpc) = state.vpcs().get(&port.vpc) else { continue };
        let vrf = config.vrfs.entry(vpc.id.clone()).or_insert_with(|| VrfConfig {
            vni: vpc.vni,
            ports: BTreeMap::new(),
            remotes: remotes(state, &vpc.id, &host.id),
        });
        let settings = PortConfig { gateways: port.gateways.clone(), prefixes: port.prefixes.clone() };
        vrf.ports.insert(port.key.interface, settings);
    }
    for vpc in config.vrfs.keys() {
        for peering in state.peerings_of(vpc) {
            config.sides.extend(sides(state, host, peering, |own| own == vpc));
        }
    }
    config
}

/// The same where nothing but these peerings has changed since a host was to have `before`. Costs little beside them.
pub fn plan_again(state: &State, host: &Host, before: &HostConfig, changed: &BTreeSet<PeeringId>) -> HostConfig {
    let mut config = HostConfig { revision: state.revision_of(host), ..before.clone() };
    config.sides.retain(|_, side| !changed.contains(&side.peering));
    for peering in changed.iter().filter_map(|id| state.peerings().get(id)) {
        config.sides.extend(sides(state, host, peering, |own| config.vrfs.contains_key(own)));
    }
    config
}

/// What a host must have of a peering for its VPCs.
fn sides(
    state: &State,
    host: &Host,
    peering: &Peering,
    here: impl Fn(&VpcId) -> bool,
) -> impl IntoIterator<Item = (Vni, SideConfig)> {
    let views = peering.forwards().then(|| peering.views()).into_iter().flatten();
    let side = |(own, peer): (&Side, &Side)| {
        let side = SideConfig {
            peering: peering.id.clone(),
            vpc: own.vpc.clone(),
            peer_vni: peer.vni?,
            peer_cidrs: peer.cidrs.clone(),
            remotes: remotes(state, &peer.vpc, &host.id),
            limit: limit(state, peering, own),
        };
        Some((own.vni?, side))
    };
    views.filter(|(own, _)| here(&own.vpc)).filter_map(side).collect::<Vec<_>>()
}

/// What all hosts of a side together are given from the beginning, where they are several: one half percent. That is enough to
/// begin, and so little that a host which comes does not make them exceed the whole by what could be measured. Everything
/// else is granted, see [`shares`](crate::shares).
const BEGINNING: Share = Share::of_millionths(5000).expect("less than the whole");

/// What one host of a side may send. One alone has all of it. Where others were before, one of them may still send.
pub(crate) fn limit(state: &State, peering: &Peering, own: &Side) -> Option<Limit> {
    if !peering.is_cross_region() {
        return None;
    }
    let bandwidth_mbit = NonZeroU32::new(peering.bandwidth?)?;
    let hosts = u32::try_from(state.hosts_of(&own.vpc).len()).unwrap_or(u32::MAX);
    let share = match NonZeroU32::new(hosts) {
        Some(hosts) if hosts.get() > 1 || !peering.left.is_empty() => {
            // A power of two: not every host that comes changes it for all.
            let slots = hosts.checked_next_power_of_two().unwrap_or(NonZeroU32::MAX);
            Share::max(BEGINNING.divided_by(slots), Share::LEAST)
        }
        _ => Share::WHOLE,
    };
    Some(Limit { bandwidth_mbit, share })
}

/// The prefixes of a VPC on other hosts, by their VTEP addresses.
fn remotes(state: &State, vpc: &VpcId, here: &HostId) -> BTreeMap<IpAddr, Vec<IpNet>> {
    let mut remotes: BTreeMap<IpAddr, Vec<IpNet>> = BTreeMap::new();
    for port in state.ports_of(vpc).filter(|port| port.key.host != *here) {
        if let Some(host) = state.hosts().get(&port.key.host) {
            remotes.entry(host.underlay).or_default().extend(&port.prefixes);
        }
    }
    for prefixes in remotes.values_mut() {
        prefixes.sort_unstable();
    }
    remotes
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
