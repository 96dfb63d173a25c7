//! Offsets in a packet, and code that tests whether an address is in a prefix and skips extension headers.

use super::assembler::{Assembler, At, Label};
use ipnet::{Ipv4Net, Ipv6Net};
use std::{collections::BTreeSet, net::Ipv6Addr};

pub(super) const ETHERTYPE_IPV4: u32 = 0x0800;
pub(super) const ETHERTYPE_ARP: u32 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u32 = 0x86dd;
pub(super) const ARPHRD_ETHER: u32 = 1;

/// Protocols of IPv4 and next headers of IPv6.
pub(super) mod protocol {
    pub(super) const HOP_BY_HOP: u32 = 0;
    pub(in crate::filter) const ICMP: u32 = 1;
    pub(in crate::filter) const IGMP: u32 = 2;
    pub(in crate::filter) const TCP: u32 = 6;
    pub(in crate::filter) const UDP: u32 = 17;
    pub(super) const ROUTING: u32 = 43;
    pub(super) const FRAGMENT: u32 = 44;
    pub(in crate::filter) const ICMPV6: u32 = 58;
    pub(super) const DESTINATION: u32 = 60;
}

/// UDP ports on which kernels receive tunnels: VXLAN (RFC 7348, and Linux' own default), VXLAN-GPE, Geneve, MPLS in
/// UDP, GTP-U and GUE.
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
const IPV6_NEXT_HEADER: At = At::Frame(IP + 6);
pub(super) const IPV6_SOURCE: At = At::Frame(IP + 8);
pub(super) const IPV6_DESTINATION: At = At::Frame(IP + 24);
/// With the length of all extension headers in X.
pub(super) const IPV6_PAYLOAD: At = At::BehindX(IP + 40);

pub(super) const fn net(first: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length)
}

/// `fe80::/10` (RFC 4291 section 2.4).
pub(super) const LINK_LOCAL: Ipv6Net = net(0xfe80, 10);
/// `ff00::/8`.
pub(super) const MULTICAST: Ipv6Net = net(0xff00, 8);

/// Legitimate packets have no more extension headers than this.
const EXTENSION_HEADERS: usize = 5;

/// What cells of a program's memory hold.
pub(super) mod cell {
    /// The length of the IPv4 header or of the IPv6 extension headers.
    pub(in crate::filter) const X: u32 = 0;
    pub(in crate::filter) const SCRATCH: u32 = 1;
    /// The next header named by the last IPv6 header.
    pub(super) const NEXT_HEADER: u32 = 2;
    /// Whether there are extension headers other than a fragment header.
    pub(in crate::filter) const EXTENDED: u32 = 3;
}

/// Where a program goes on behind the extension headers of an IPv6 packet.
pub(super) struct Behind<'a> {
    /// By the protocol that follows them.
    pub(super) protocols: &'a [(u32, Label)],
    /// If it is another one.
    pub(super) other: Label,
    /// In a fragment that is not the first.
    pub(super) fragment: Label,
    /// In the first of several fragments; if none, it is read on.
    pub(super) first_fragment: Option<Label>,
    /// If there are more headers than [`EXTENSION_HEADERS`].
    pub(super) too_many: Label,
}

/// Skips the extension headers of an IPv6 packet: X becomes their length.
pub(super) fn pass_extension_headers(code: &mut Assembler, to: &Behind<'_>) {
    code.constant(0);
    code.store(cell::EXTENDED);
    code.x_to(0);
    code.byte(IPV6_NEXT_HEADER);
    code.store(cell::NEXT_HEADER);
    for _ in 0..=EXTENSION_HEADERS {
        let [extension, fragment, next] = [(); 3].map(|()| code.label());
        code.recall(cell::NEXT_HEADER);
        for (protocol, label) in to.protocols {
            code.if_equal(*protocol, *label);
        }
        code.if_equal(protocol::FRAGMENT, fragment);
        // A routing header has an effect only on delivery, which happens at no address of the host.
        for header in [protocol::HOP_BY_HOP, protocol::ROUTING, protocol::DESTINATION] {
            code.if_equal(header, extension);
        }
        code.goto(to.other);
        code.here(fragment);
        code.half(IPV6_PAYLOAD.plus(2));
        code.if_any_bit(0xfff8, to.fragment);
        if let Some(first) = to.first_fragment {
            code.if_any_bit(1, first);
        }
        code.byte(IPV6_PAYLOAD);
        code.store(cell::NEXT_HEADER);
        code.x_to_a();
        code.add(8);
        code.a_to_x();
        code.goto(next);
        code.here(extension);
        code.constant(1);
        code.store(cell::EXTENDED);
        code.byte(IPV6_PAYLOAD);
        code.store(cell::NEXT_HEADER);
        code.byte(IPV6_PAYLOAD.plus(1));
        code.add(1);
        code.shift_left(3);
        code.add_x();
        code.a_to_x();
        code.here(next);
    }
    code.goto(to.too_many);
}

/// Jumps to `label` if the IPv4 address there is in one of the prefixes.
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

/// Jumps to `label` if the IPv6 address there is in one of the prefixes.
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
