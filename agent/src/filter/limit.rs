//! Programs that select packets which take room that all tenants share (rule C10): messages by which servers create
//! entries in the kernel's neighbour tables, and fragments that the host keeps until it has all of a packet.

use super::{
    assembler::{ACCEPT, Ancillary, Assembler, Program},
    packet::{
        Behind, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_DESTINATION, IPV4_FRAGMENT, IPV6_DESTINATION,
        IPV6_PAYLOAD, LINK_LOCAL, MULTICAST, if_in4, if_in6, pass_extension_headers, protocol,
    },
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a device accepts at a limited rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The handle of its filter, the same on each device.
    pub handle: u32,
    /// Selects the packets.
    pub program: Program,
    /// The rate of all of them.
    pub rate: PacketRate,
}

/// A packet rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketRate {
    /// Packets per second, from 1.
    pub per_second: u32,
    /// The burst after a quiet time, in packets.
    pub burst: u32,
}

/// What the servers of a port may send in ARP and neighbour discovery. The kernel evicts unused entries once they are
/// five seconds old, so one entry per message makes 2 500 in the long run, and never more than 4 500. A thousand
/// servers that come up together send some two thousand, and lost ones are retransmitted.
pub const NEIGHBOURS: PacketRate = PacketRate { per_second: 500, burst: 2000 };

/// Fragments from one device that the host keeps for reassembly: packets to gateways that are longer than the MTU, such
/// as long pings. The kernel keeps those whose rest does not come for half a minute, so these are at most 360, and
/// accepts none from anybody beyond `ipfrag_high_thresh` and `ip6frag_high_thresh`, which are raised accordingly.
pub const FRAGMENTS: PacketRate = PacketRate { per_second: 10, burst: 60 };

/// Selects ARP, and router and neighbour solicitations and advertisements and redirects (RFC 4861), behind any
/// extension headers: some kernels accept them that way. Tagged frames are not for the port.
pub(super) fn neighbour_messages() -> Program {
    const ROUTER_SOLICITATION: u32 = 133;
    const REDIRECT: u32 = 137;
    let mut code = Assembler::default();
    let [icmp, select, other] = [(); 3].map(|()| code.label());
    code.ancillary(Ancillary::VlanTagPresent);
    code.unless_equal(0, other);
    code.ancillary(Ancillary::Protocol);
    code.if_equal(ETHERTYPE_ARP, select);
    code.unless_equal(ETHERTYPE_IPV6, other);
    let protocols = [(protocol::ICMPV6, icmp)];
    let behind = Behind { protocols: &protocols, other, fragment: other, first_fragment: None, too_many: other };
    pass_extension_headers(&mut code, &behind);
    code.here(icmp);
    code.byte(IPV6_PAYLOAD);
    code.unless_at_least(ROUTER_SOLICITATION, other);
    code.if_greater(REDIRECT, other);
    code.here(select);
    code.finish(ACCEPT);
    code.here(other);
    code.finish(0);
    code.assemble()
}

/// Selects fragments that the host reassembles: those to these addresses of its own, to groups and to link-local
/// addresses. Others are only forwarded.
pub(super) fn fragments<'a>(
    ipv4: impl IntoIterator<Item = &'a Ipv4Addr>,
    ipv6: impl IntoIterator<Item = &'a Ipv6Addr>,
) -> Program {
    /// Multicast and broadcast.
    const GROUPS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3);
    let ipv4: Vec<Ipv4Net> = ipv4.into_iter().copied().map(Ipv4Net::from).chain([GROUPS]).collect();
    let ipv6: Vec<Ipv6Net> = ipv6.into_iter().copied().map(Ipv6Net::from).chain([MULTICAST, LINK_LOCAL]).collect();
    let mut code = Assembler::default();
    let [of4, of6, select, other] = [(); 4].map(|()| code.label());
    code.ancillary(Ancillary::VlanTagPresent);
    code.unless_equal(0, other);
    code.ancillary(Ancillary::Protocol);
    let is4 = code.label();
    code.if_equal(ETHERTYPE_IPV4, is4);
    code.unless_equal(ETHERTYPE_IPV6, other);
    let behind = Behind { protocols: &[], other, fragment: of6, first_fragment: Some(of6), too_many: other };
    pass_extension_headers(&mut code, &behind);
    code.here(is4);
    code.half(IPV4_FRAGMENT);
    code.if_any_bit(0x3fff, of4);
    code.goto(other);
    code.here(of4);
    if_in4(&mut code, IPV4_DESTINATION, &ipv4, select);
    code.goto(other);
    code.here(of6);
    if_in6(&mut code, IPV6_DESTINATION, &ipv6, select);
    code.here(other);
    code.finish(0);
    code.here(select);
    code.finish(ACCEPT);
    code.assemble()
}
