//! The program that selects the messages by which servers create entries in the kernel's neighbour tables, which all
//! tenants share (rule C10).

use super::{
    assembler::{ACCEPT, Ancillary, Assembler, Program},
    packet::{Behind, ETHERTYPE_ARP, ETHERTYPE_IPV6, IPV6_PAYLOAD, pass_extension_headers, protocol},
};

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
    pass_extension_headers(&mut code, &Behind { protocols: &protocols, other, fragment: other, too_many: other });
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
