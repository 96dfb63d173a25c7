//! Whom a kernel object belongs to, for reports: a VPC, a side of a peering, or the host as a whole.

use crate::{
    objects::{Operation, RouteKey},
    owner::{self, DeviceName, Role},
};
use cps_peering_config::{
    SharedHostConfig,
    id::VpcId,
    net::{InterfaceName, Vni},
    report::Scope,
};

/// The scope of a device. What the configuration does not know, for instance a VRF that could not be removed, concerns
/// the host: better to hold back one confirmation too many than to give one too early.
pub fn of_device(config: &SharedHostConfig, device: &InterfaceName) -> Scope {
    let vpc = match DeviceName::parse(device) {
        Some(DeviceName { role: Role::Peer, vni }) => return Scope::Side(vni),
        Some(DeviceName { role: Role::Vrf | Role::Vpc, vni }) => vpc_of(config, vni),
        None => config.vrfs.iter().find(|(_, vrf)| vrf.ports.contains_key(device)).map(|(vpc, _)| vpc),
    };
    vpc.map_or(Scope::Host, |vpc| Scope::Vpc(vpc.clone()))
}

fn vpc_of(config: &SharedHostConfig, vni: Vni) -> Option<&VpcId> {
    config.vrfs.iter().find(|(_, vrf)| vrf.vni == vni).map(|(vpc, _)| vpc)
}

fn of_route(config: &SharedHostConfig, key: &RouteKey) -> Scope {
    let Some(vpc) = owner::table_vni(key.table).and_then(|vni| vpc_of(config, vni)) else { return Scope::Host };
    let mut sides = config.sides.iter().filter(|(_, side)| side.vpc == *vpc);
    sides
        .find(|(_, side)| side.peer_cidrs.iter().any(|cidr| cidr.contains(&key.prefix)))
        .map_or_else(|| Scope::Vpc(vpc.clone()), |(vni, _)| Scope::Side(*vni))
}

/// The scope of what an operation is about.
pub fn of_operation(config: &SharedHostConfig, operation: &Operation) -> Scope {
    match operation {
        Operation::AddRule(_)
        | Operation::RemoveRule(_)
        | Operation::EnableIpv6Forwarding
        | Operation::RemoveNexthop(_) => Scope::Host,
        Operation::RemoveLinks(names) => match names.as_slice() {
            [name] => of_device(config, name),
            _ => Scope::Host,
        },
        Operation::AddVrf(name, _)
        | Operation::AddVxlan(name, _)
        | Operation::ChangeLink(name, _)
        | Operation::AddIngress(name)
        | Operation::RemoveIngress(name)
        | Operation::AddFilter(name, ..)
        | Operation::RemoveFilter(name, _)
        | Operation::Set(name, ..)
        | Operation::ResetToDefault(name, _) => of_device(config, name),
        Operation::AddAddress(address) | Operation::RemoveAddress(address) => of_device(config, &address.device),
        Operation::SetNeighbour(key, _) | Operation::RemoveNeighbour(key) => of_device(config, &key.device),
        Operation::SetFdb(key, _) | Operation::RemoveFdb(key) => of_device(config, &key.device),
        Operation::AddNexthop(_, nexthop) => of_device(config, &nexthop.device),
        Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
            of_route(config, &route.key)
        }
    }
}
