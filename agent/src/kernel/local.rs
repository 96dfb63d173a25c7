//! Whether the host receives packets to the addresses that it gave its ports.
//!
//! With an address the kernel makes a route of type `local` in the table of the VRF. Flushing that table removes it:
//! the address stays, but is unreachable; for IPv6 the routes that the port needs to resolve neighbours are gone with
//! it.

use super::{
    KernelError, check_stop,
    rules::Rules,
    socket::Socket,
    uapi::{addr, route, rtm},
    wire::{self, attributes, put, put_address, u8_at},
};
use crate::{
    objects::{Address, Family, Link, Lookup, Rule, RuleAhead, is_link_local},
    ownership::{DeviceName, Role},
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

/// The addresses of ours, and the link-local ones of ports, on members of our VRFs, that have no local route. A
/// link-local one is also reported if its port receives no multicast: the kernel restores that route with any address.
///
/// One lookup for each: to list the kernel's own routes it would have to walk all the others.
pub(super) fn without_local_route(
    socket: &mut Socket,
    stop: &dyn Fn() -> bool,
    links: &BTreeMap<InterfaceName, Link>,
    addresses: &BTreeMap<Address, bool>,
    rules: &Rules,
) -> Result<BTreeSet<Address>, KernelError> {
    let vrfs: BTreeMap<u32, InterfaceName> = links
        .iter()
        .filter(|(name, _)| DeviceName::parse(name).is_some_and(|device| device.role == Role::Vrf))
        .map(|(name, link)| (link.index, *name))
        .collect();
    // Without the rule nothing leads into any VRF; it is repaired first. If another rule before it matches our lookups,
    // the results may be that one's.
    let led = |family: Family| {
        let is_l3mdev = |rule: &Rule| rule.family == family && rule.lookup == Lookup::L3mdev;
        let answers = |rule: &RuleAhead| rule.family == family && rule.may_select_lookups();
        rules.plain.iter().any(is_l3mdev) && !rules.ahead.iter().any(answers)
    };
    let led = Family::ALL.map(led);
    let mut without_local_route = BTreeSet::new();
    for (address, ours) in addresses {
        let is_led = led[usize::from(matches!(address.net, IpNet::V6(_)))];
        let up = links.get(&address.device).filter(|link| is_led && link.up);
        let Some(link) = up else { continue };
        let Some(vrf) = link.master.filter(|master| vrfs.contains_key(master)) else { continue };
        check_stop(stop)?;
        let heard = if is_link_local(&address.net) {
            let port = link.index;
            DeviceName::parse(&address.device).is_some()
                || kind_of_route(socket, port, &address.net)? == Some(route::RTN_LOCAL)
                    && kind_of_route(socket, port, &IpNet::V6(ALL_NODES))? == Some(route::RTN_MULTICAST)
        } else {
            !*ours || kind_of_route(socket, vrf, &address.net)? == Some(route::RTN_LOCAL)
        };
        if !heard && !is_settling(socket, link.index, address)? {
            without_local_route.insert(*address);
        }
    }
    Ok(without_local_route)
}

/// Whether the kernel has only just added an address: its route follows once it is in use.
fn is_settling(socket: &mut Socket, device: u32, address: &Address) -> Result<bool, KernelError> {
    socket.dump(
        "addresses",
        rtm::GET_ADDRESS,
        |body| {
            body.extend([Family::of(&address.net).number(), 0, 0, 0]);
            body.extend(device.to_ne_bytes());
        },
        || false,
        |settling, payload| {
            let of = attributes(payload, addr::HEADER_LEN).find(|(kind, _)| *kind == addr::IFA_ADDRESS);
            let same = of.and_then(|(_, value)| wire::address(value)) == Some(address.net.addr());
            *settling |= same && u8_at(payload, 2).is_some_and(|flags| flags & addr::IFA_F_TENTATIVE != 0);
        },
    )
}

/// All nodes on a link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 128);

/// The type of route for a packet to an address that is sent through a device; none if there is no route.
fn kind_of_route(socket: &mut Socket, device: u32, net: &IpNet) -> Result<Option<u8>, KernelError> {
    let answer = socket.get(rtm::GET_ROUTE, |body| {
        body.extend([Family::of(net).number(), net.max_prefix_len(), 0, 0, 0, 0, 0, 0]);
        body.extend(route::RTM_F_FIB_MATCH.to_ne_bytes());
        put_address(body, route::RTA_DST, net.addr());
        put(body, route::RTA_OIF, &device.to_ne_bytes());
    })?;
    // An error means that there is no route at all, or one that leads nowhere.
    Ok(answer.ok().and_then(|route| u8_at(&route, 7)))
}
