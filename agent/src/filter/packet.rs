//! Where things are in a packet, and how a program asks whether an address is in a prefix.

use super::assembler::{Assembler, At, Label};
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;

pub(super) const ETHERTYPE_IPV4: u32 = 0x0800;
pub(super) const ETHERTYPE_ARP: u32 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u32 = 0x86dd;
pub(super) const ARPHRD_ETHER: u32 = 1;

/// Protocols of IPv4 and next headers of IPv6.
pub(super) mod protocol {
    pub(in crate::filter) const HOP_BY_HOP: u32 = 0;
    pub(in crate::filter) const ICMP: u32 = 1;
    pub(in crate::filter) const IGMP: u32 = 2;
    pub(in crate::filter) const TCP: u32 = 6;
    pub(in crate::filter) const UDP: u32 = 17;
    pub(in crate::filter) const ROUTING: u32 = 43;
    pub(in crate::filter) const FRAGMENT: u32 = 44;
    pub(in crate::filter) const ICMPV6: u32 = 58;
    pub(in crate::filter) const DESTINATION: u32 = 60;
}

/// UDP ports at which kernels take tunnels: VXLAN (RFC 7348, and Linux' own default), VXLAN-GPE, Geneve, MPLS in UDP, GTP-U
/// and GUE.
pub(super) const TUNNEL_PORTS: [u16; 7] = [4789, 8472, 4790, 6081, 6635, 2152, 6080];

/// The IP header begins behind the Ethernet header.
pub(super) const IP: u32 = 14;
pub(super) const IPV4_TOTAL_LENGTH: At = At::Frame(IP + 2);
pub(super) const IPV4_FRAGMENT: At = At::Frame(IP + 6);
pub(super) const IPV4_PROTOCOL: At = At::Frame(IP + 9);
pub(super) const IPV4_SOURCE: At = At::Frame(IP + 12);
pub(super) const IPV4_DESTINATION: At = At::Frame(IP + 16);
/// With the header's length in X.
pub(super) const IPV4_PAYLOAD: At = At::BehindX(IP);
pub(super) const IPV6_PAYLOAD_LENGTH: At = At::Frame(IP + 4);
pub(super) const IPV6_NEXT_HEADER: At = At::Frame(IP + 6);
pub(super) const IPV6_SOURCE: At = At::Frame(IP + 8);
pub(super) const IPV6_DESTINATION: At = At::Frame(IP + 24);
/// With the length of all extension headers in X.
pub(super) const IPV6_PAYLOAD: At = At::BehindX(IP + 40);

/// Goes on at `label` if the IPv4 address there is in one of the prefixes.
pub(super) fn if_in4(code: &mut Assembler, at: At, prefixes: &[Ipv4Net], label: Label) {
    let lengths: BTreeSet<u8> = prefixes.iter().map(Ipv4Net::prefix_len).collect();
    for length in lengths {
        code.word(at);
        if length < 32 {
            code.and(!(u32::MAX >> length));
        }
        for prefix in prefixes.iter().filter(|prefix| prefix.prefix_len() == length) {
            code.if_equal(prefix.network().to_bits(), label);
        }
    }
}

/// Goes on at `label` if the IPv6 address there is in one of the prefixes.
pub(super) fn if_in6(code: &mut Assembler, at: At, prefixes: &[Ipv6Net], label: Label) {
    for prefix in prefixes {
        let next = code.label();
        let mut rest = u32::from(prefix.prefix_len());
        for word in 0..4u32 {
            let bits = rest.min(32);
            rest -= bits;
            if bits == 0 {
                break;
            }
            let shift = 96 - 32 * word;
            let value = u32::try_from(prefix.network().to_bits() >> shift & u128::from(u32::MAX));
            code.word(at.plus(4 * word));
            if bits < 32 {
                code.and(!(u32::MAX >> bits));
            }
            code.unless_equal(value.expect("32 bits"), next);
        }
        code.goto(label);
        code.here(next);
    }
}
