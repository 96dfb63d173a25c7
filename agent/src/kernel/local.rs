//! Whether the host hears the addresses that it gave its ports.
//!
//! With an address the kernel makes a route of type `local` in the table of the VRF. Somebody who flushes that table takes it
//! away, the address stays, and nobody reaches it any more; for IPv6 the routes without which the port resolves no
//! neighbour are gone with it.

use super::{
    KernelError,
    socket::Socket,
    uapi::{route, rtm},
    wire::{put, put_address, u8_at},
};
use crate::{
    objects::{Address, Family, Link, Lookup, Rule},
    ownership::{DeviceName, Role},
};
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The addresses of ours, on members of our VRFs, that have no local route.
///
/// One question for each: a list of the kernel's own routes would have it walk all the others.
pub(super) fn unheard(
    socket: &mut Socket,
    links: &BTreeMap<InterfaceName, Link>,
    addresses: &BTreeMap<Address, bool>,
    rules: &[Rule],
) -> Result<BTreeSet<Address>, KernelError> {
    let vrfs: BTreeMap<u32, InterfaceName> = links
        .iter()
        .filter(|(name, _)| DeviceName::parse(name).is_some_and(|device| device.role == Role::Vrf))
        .map(|(name, link)| (link.index, *name))
        .collect();
    let mut unheard = BTreeSet::new();
    for (address, _) in addresses.iter().filter(|(_, ours)| **ours) {
        // Without the rule nothing leads into any VRF; it is put right first.
        let family = Family::of(&address.net);
        let led = rules.iter().any(|rule| rule.family == family && rule.lookup == Lookup::L3mdev);
        let up = links.get(&address.device).filter(|link| led && link.up);
        let Some(vrf) = up.and_then(|link| link.master).filter(|master| vrfs.contains_key(master)) else { continue };
        if !is_local(socket, vrf, &address.net)? {
            unheard.insert(*address);
        }
    }
    Ok(unheard)
}

/// Whether a packet to the address would be taken in by the host, in this VRF.
fn is_local(socket: &mut Socket, vrf: u32, net: &IpNet) -> Result<bool, KernelError> {
    let answer = socket.get(rtm::GET_ROUTE, |body| {
        body.extend([Family::of(net).number(), net.max_prefix_len(), 0, 0, 0, 0, 0, 0]);
        body.extend(route::RTM_F_FIB_MATCH.to_ne_bytes());
        put_address(body, route::RTA_DST, net.addr());
        put(body, route::RTA_OIF, &vrf.to_ne_bytes());
    })?;
    // A refusal says that there is no route at all, or one that leads nowhere.
    Ok(answer.is_ok_and(|route| u8_at(&route, 7) == Some(route::RTN_LOCAL)))
}
