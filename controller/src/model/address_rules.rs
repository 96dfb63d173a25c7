//! Rules of CIDRs and of the ports within them, for inventories and for commands of accounts alike.

use super::{
    record::{Peering, Port, PortKey, Vpc},
    state::State,
};
use cps_peering_config::net::{is_canonical, overlap};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses that identify no host of a network, or that the kernel does not route: this network, loopback, link-local,
/// multicast and reserved ones (RFC 6890).
fn special_purpose() -> [IpNet; 9] {
    let v4 = |a, b, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length));
    let v6 = |first, length| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length));
    [
        v4(0, 0, 8),
        v4(127, 0, 8),
        v4(169, 254, 16),
        v4(224, 0, 4),
        v4(240, 0, 4),
        v6(0, 96),
        // IPv4 addresses written as IPv6 ones (RFC 4291 section 2.5.5.2).
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96)),
        v6(0xfe80, 10),
        v6(0xff00, 8),
    ]
}

pub(super) fn cidr_violations(cidrs: &[IpNet]) -> Vec<String> {
    let mut violations = Vec::new();
    if cidrs.is_empty() {
        violations.push("a VPC needs at least one CIDR".to_owned());
    }
    for (place, cidr) in cidrs.iter().enumerate() {
        if !is_canonical(cidr) {
            violations.push(format!("CIDR {cidr} has bits set behind its length; it would be {}", cidr.trunc()));
        }
        if cidr.prefix_len() == 0 {
            violations.push(format!("CIDR {cidr} is the whole address space"));
            continue;
        }
        if let Some(special) = special_purpose().into_iter().find(|special| overlap(special, cidr)) {
            violations
                .push(format!("CIDR {cidr} overlaps {special}, which no network may use for its hosts (RFC 6890)"));
        }
        if let Some(other) = cidrs[..place].iter().find(|other| overlap(other, cidr)) {
            violations.push(format!("CIDR {cidr} overlaps {other} of the same VPC"));
        }
    }
    violations
}

pub(super) fn port_violations<'a>(
    vpc: &Vpc,
    ports: impl Iterator<Item = &'a Port>,
    entry: impl Fn(&PortKey) -> String,
) -> Vec<(String, String)> {
    let mut violations = Vec::new();
    let mut claims: Vec<(IpNet, &PortKey)> = Vec::new();
    for port in ports {
        let inside = |net: &IpNet| vpc.cidrs.iter().any(|cidr| cidr.contains(net));
        for gateway in port.gateways.iter().filter(|gateway| !inside(&IpNet::from(gateway.addr()))) {
            violations.push((entry(&port.key), format!("gateway {gateway} is in none of the CIDRs of VPC {}", vpc.id)));
        }
        for prefix in &port.prefixes {
            if !is_canonical(prefix) {
                violations.push((entry(&port.key), format!("prefix {prefix} has bits set behind its length")));
            } else if !inside(prefix) {
                violations
                    .push((entry(&port.key), format!("prefix {prefix} is in none of the CIDRs of VPC {}", vpc.id)));
            }
            claims.push((*prefix, &port.key));
        }
    }
    // Sorted by network, an overlap is always between neighbours.
    claims.sort_by_key(|(prefix, _)| (prefix.network(), prefix.prefix_len()));
    for pair in claims.windows(2).filter(|pair| overlap(&pair[0].0, &pair[1].0)) {
        let [(first, one), (second, other)] = [pair[0], pair[1]];
        violations.push((entry(other), format!("prefix {second} overlaps {first} of {} in the same VPC", entry(one))));
    }
    violations
}

/// Why a VPC cannot be removed.
pub(super) fn still_needed(state: &State, vpc: &Vpc) -> Option<String> {
    if let Some(port) = state.ports_of(&vpc.id).next() {
        return Some(format!("port {} of {} is there", port.key, vpc.id));
    }
    let holds = |peering: &&Peering| peering.is_live() && peering.counts_for(&vpc.id);
    let peering = state.peerings_of(&vpc.id).find(holds)?;
    Some(format!("{} is peered by {} ({})", vpc.id, peering.id, peering.name))
}
