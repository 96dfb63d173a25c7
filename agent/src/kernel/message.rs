//! Bodies of requests: what follows the message header.

use super::{
    uapi::{addr, neighbour, nexthop, route},
    wire::{put, put_address},
};
use crate::{
    objects::{
        Address, Family, FdbKey, FdbTarget, KernelRoute, Lookup, Mac, NeighbourKey, Nexthop, Rule, Via, is_link_local,
    },
    ownership::PROTOCOL,
};
use ipnet::IpNet;
use netlink_packet_core::Emitable;
use netlink_packet_route::{
    AddressFamily,
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkProtocolDownReason},
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

pub(super) fn emit(body: &mut Vec<u8>, message: &impl Emitable) {
    let start = body.len();
    body.resize(start + message.buffer_len(), 0);
    message.emit(&mut body[start..]);
}

pub(super) fn no_link_local() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

/// Any remaining reason would keep the kernel from lifting it.
pub(super) fn no_protodown() -> [LinkAttribute; 2] {
    let none = vec![LinkProtocolDownReason::Mask(u32::MAX), LinkProtocolDownReason::Value(0)];
    [LinkAttribute::ProtoDownReason(none), LinkAttribute::ProtoDown(0)]
}

pub(super) fn rule_message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
    message.attributes.push(match rule.lookup {
        Lookup::Local => RuleAttribute::Table(route::RT_TABLE_LOCAL),
        Lookup::L3mdev => RuleAttribute::L3MDev(true),
    });
    message
}

pub(super) fn put_ifaddr(body: &mut Vec<u8>, index: u32, address: &Address) {
    body.extend([Family::of(&address.net).number(), address.net.prefix_len(), 0, 0]);
    body.extend(index.to_ne_bytes());
    put_address(body, addr::IFA_LOCAL, address.net.addr());
    put_address(body, addr::IFA_ADDRESS, address.net.addr());
    // A link-local one replaces the kernel's own, with its route, and is deleted when the port goes down. (Ports detect
    // no duplicates.)
    let (flags, protocol) = if is_link_local(&address.net) {
        (0, addr::IFAPROT_KERNEL_LL)
    } else {
        // The prefix behind a port need not be the gateway's subnet, and its route is ours to make. No one else can
        // have the address in a VRF of ours, so there is nothing to detect.
        (addr::IFA_F_NOPREFIXROUTE | addr::IFA_F_NODAD, PROTOCOL)
    };
    put(body, addr::IFA_FLAGS, &flags.to_ne_bytes());
    put(body, addr::IFA_PROTO, &[protocol]);
}

fn put_ndmsg(body: &mut Vec<u8>, family: u8, index: u32, flags: u8) {
    body.extend([family, 0, 0, 0]);
    body.extend(index.to_ne_bytes());
    body.extend(neighbour::NUD_PERMANENT.to_ne_bytes());
    body.extend([flags, 0]);
}

pub(super) fn put_neighbour(body: &mut Vec<u8>, index: u32, key: &NeighbourKey, mac: Option<Mac>) {
    put_ndmsg(body, Family::V6.number(), index, 0);
    put_address(body, neighbour::NDA_DST, key.address.into());
    if let Some(mac) = mac {
        put(body, neighbour::NDA_LLADDR, &mac.0);
    }
}

pub(super) fn put_fdb(body: &mut Vec<u8>, index: u32, key: &FdbKey, target: Option<FdbTarget>) {
    put_ndmsg(body, neighbour::AF_BRIDGE, index, neighbour::NTF_SELF);
    put(body, neighbour::NDA_LLADDR, &key.mac.0);
    if let Some(target) = target {
        put_address(body, neighbour::NDA_DST, target.vtep);
        put(body, neighbour::NDA_VNI, &target.vni.get().to_ne_bytes());
    }
}

pub(super) fn put_nexthop(body: &mut Vec<u8>, index: u32, id: u32, nexthop: &Nexthop) {
    body.extend([Family::V6.number(), 0, PROTOCOL, 0]);
    body.extend(nexthop::RTNH_F_ONLINK.to_ne_bytes());
    put(body, nexthop::NHA_ID, &id.to_ne_bytes());
    put(body, nexthop::NHA_OIF, &index.to_ne_bytes());
    put_address(body, nexthop::NHA_GATEWAY, nexthop.gateway.into());
}

/// The scope of a route to add; one to remove is named with `RT_SCOPE_NOWHERE`, which matches every scope.
pub(super) fn scope(route: &KernelRoute) -> u8 {
    match (route.via, Family::of(&route.key.prefix)) {
        (Via::Device(_), Family::V4) => route::RT_SCOPE_LINK,
        _ => route::RT_SCOPE_UNIVERSE,
    }
}

pub(super) fn put_nexthop_id(body: &mut Vec<u8>, id: u32) {
    body.extend([0; nexthop::HEADER_LEN]);
    put(body, nexthop::NHA_ID, &id.to_ne_bytes());
}

/// The longest route: fixed part, IPv6 destination, table, metric, device or next hop, MTU.
const ROUTE_LEN: usize = route::HEADER_LEN + 20 + 3 * 8 + 12;

/// There may be a million of them, so each is assembled in place and appended in one go.
pub(super) fn put_route(body: &mut Vec<u8>, route: &KernelRoute, scope: u8) {
    let key = &route.key;
    let kind = match route.via {
        Via::Unreachable => route::RTN_UNREACHABLE,
        Via::Device(_) | Via::Nexthop(_) => route::RTN_UNICAST,
        Via::Other => 0,
    };
    let mut bytes = [0; ROUTE_LEN];
    let mut length = 0;
    let mut put = |more: &[u8]| {
        bytes[length..length + more.len()].copy_from_slice(more);
        length += more.len();
    };
    put(&[Family::of(&key.prefix).number(), key.prefix.prefix_len(), 0, route.tos]);
    put(&[0, PROTOCOL, scope, kind, 0, 0, 0, 0]);
    match key.prefix {
        IpNet::V4(prefix) => {
            put(&attribute_head(route::RTA_DST, 4));
            put(&prefix.network().octets());
        }
        IpNet::V6(prefix) => {
            put(&attribute_head(route::RTA_DST, 16));
            put(&prefix.network().octets());
        }
    }
    let mut put_number = |kind: u16, number: u32| {
        put(&attribute_head(kind, 4));
        put(&number.to_ne_bytes());
    };
    put_number(route::RTA_TABLE, key.table);
    if key.metric != 0 {
        put_number(route::RTA_PRIORITY, key.metric);
    }
    match route.via {
        Via::Device(index) => put_number(route::RTA_OIF, index),
        Via::Nexthop(id) => put_number(route::RTA_NH_ID, id),
        Via::Unreachable | Via::Other => {}
    }
    if route.mtu != 0 {
        put(&attribute_head(route::RTA_METRICS, 8));
        put(&attribute_head(route::RTAX_MTU, 4));
        put(&u32::from(route.mtu).to_ne_bytes());
    }
    body.extend_from_slice(&bytes[..length]);
}

fn attribute_head(kind: u16, length: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = ((4 + length).to_ne_bytes(), kind.to_ne_bytes());
    [a, b, c, d]
}
