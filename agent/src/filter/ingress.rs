//! The programs of a device, from what is known about the device.

use super::{
    assembler::{ACCEPT, Ancillary, Assembler, At, Label, Program},
    limit::{FRAGMENTS, Limit, NEIGHBOURS, fragments, neighbour_messages},
    packet::{
        ARPHRD_ETHER, Behind, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP, IPV4_DESTINATION, IPV4_FRAGMENT,
        IPV4_PAYLOAD, IPV4_PROTOCOL, IPV4_SOURCE, IPV4_TOTAL_LENGTH, IPV6_DESTINATION, IPV6_PAYLOAD,
        IPV6_PAYLOAD_LENGTH, IPV6_SOURCE, LINK_LOCAL, MULTICAST, TUNNEL_PORTS, cell, if_in4, if_in6, net,
        pass_extension_headers, protocol,
    },
    pairs::{CHUNK, NotJoined},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// What may arrive on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressPolicy {
    /// The IPv4 prefixes behind it; none contains another.
    ipv4: Vec<Ipv4Net>,
    /// The IPv6 prefixes behind it; none contains another.
    ipv6: Vec<Ipv6Net>,
    /// Whether servers are on the link: then ARP, neighbour discovery and DHCP are accepted, too.
    is_port: bool,
    local: Arc<LocalAddresses>,
    programs: Vec<Program>,
    /// What is dropped although its source is legitimate.
    rejecting: Vec<Program>,
    limits: Vec<Limit>,
}

/// Where packets of a VRF are delivered to the host itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAddresses {
    /// Gateways and the broadcast addresses of their subnets.
    ipv4: BTreeSet<Ipv4Addr>,
    /// Gateways and the anycast addresses of their subnets.
    ipv6: BTreeSet<Ipv6Addr>,
    /// The host's VTEP address. No route of a VRF leads to it, unless policy rules of others come before it.
    underlay: IpAddr,
    /// The UDP port of VXLAN.
    vxlan_port: u16,
}

impl LocalAddresses {
    /// The local addresses of a VRF with these gateways.
    pub fn new<'a>(gateways: impl IntoIterator<Item = &'a IpNet>, underlay: IpAddr, vxlan_port: u16) -> Self {
        let mut local = Self { ipv4: BTreeSet::new(), ipv6: BTreeSet::new(), underlay, vxlan_port };
        for gateway in gateways {
            match gateway {
                IpNet::V4(net) => local.ipv4.extend([net.addr(), net.network(), net.broadcast()]),
                // The first address of a subnet is its subnet-router anycast address (RFC 4291 section 2.6.1).
                IpNet::V6(net) => local.ipv6.extend([net.addr(), net.network()]),
            }
        }
        local
    }
}

/// A VLAN that has a device of its own on top of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan {
    /// The ethertype of its tag, 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Its id, 0 to 4094.
    pub id: u16,
}

/// The most prefixes that the packet in an ICMP error is compared with. If there are more, covering prefixes are used.
const QUOTED: usize = 16;

/// Legitimate packets have no more IPv4 options than this, padding included.
const OPTIONS: usize = 6;

impl IngressPolicy {
    /// The policy of a port with these prefixes behind it.
    pub fn of_port<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, local: Arc<LocalAddresses>) -> Self {
        Self::new(prefixes, true, local)
    }

    /// The policy of a VXLAN device with these prefixes behind it.
    pub fn of_tunnel<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, local: Arc<LocalAddresses>) -> Self {
        Self::new(prefixes, false, local)
    }

    fn new<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, is_port: bool, local: Arc<LocalAddresses>) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => ipv4.push(*prefix),
                IpNet::V6(prefix) => ipv6.push(*prefix),
            }
        }
        let (ipv4, ipv6) = (Ipv4Net::aggregate(&ipv4), Ipv6Net::aggregate(&ipv6));
        // Behind tunnels all neighbours are permanent.
        let neighbours = is_port.then(|| Limit { handle: 1, program: neighbour_messages(), rate: NEIGHBOURS });
        let fragments = Limit { handle: 2, program: fragments(&local.ipv4, &local.ipv6), rate: FRAGMENTS };
        let limits = neighbours.into_iter().chain([fragments]).collect();
        let mut policy = Self { ipv4, ipv6, is_port, local, programs: Vec::new(), rejecting: Vec::new(), limits };
        policy.programs = policy.write();
        policy
    }

    /// The same, but packets to the prefixes of `peer` are dropped unless they come from one of the `joined` ones.
    #[must_use]
    pub fn sending(mut self, joined: &[IpNet], peer: &[IpNet]) -> Self {
        self.rejecting.extend(NotJoined::Sent { joined, peer }.programs());
        self
    }

    /// The same, but packets that do not go to a `joined` prefix are dropped.
    #[must_use]
    pub fn receiving(mut self, joined: &[IpNet]) -> Self {
        self.rejecting.extend(NotJoined::Received { joined }.programs());
        self
    }

    /// The programs that drop packets before anything is accepted; usually there are none.
    pub fn rejecting(&self) -> &[Program] {
        &self.rejecting
    }

    /// What is accepted at a limited rate only.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The programs that together accept what may arrive; usually one is enough. What none accepts is to be dropped.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    fn write(&self) -> Vec<Program> {
        let quoted4 = covering(&self.ipv4, Ipv4Net::aggregate, ipnet::Ipv4Net::supernet);
        let quoted6 = covering(&self.ipv6, Ipv6Net::aggregate, ipnet::Ipv6Net::supernet);
        let count = self.ipv4.len().div_ceil(CHUNK[0]).max(self.ipv6.len().div_ceil(CHUNK[1])).max(1);
        let (mut ipv4, mut ipv6) = (self.ipv4.chunks(CHUNK[0]), self.ipv6.chunks(CHUNK[1]));
        let chunks = (0..count).map(|nth| {
            let (ipv4, ipv6) = (ipv4.next().unwrap_or_default(), ipv6.next().unwrap_or_default());
            Writer::new(self, Chunk { ipv4, ipv6, quoted4: &quoted4, quoted6: &quoted6, first: nth == 0 }).write()
        });
        chunks.collect()
    }

    /// The IPv4 prefixes from which packets are accepted.
    pub fn ipv4(&self) -> &[Ipv4Net] {
        &self.ipv4
    }

    /// The IPv6 prefixes from which packets are accepted.
    pub fn ipv6(&self) -> &[Ipv6Net] {
        &self.ipv6
    }
}

/// At most [`QUOTED`] prefixes that contain all of these.
fn covering<N: Copy + PartialEq>(
    nets: &[N],
    aggregate: impl Fn(&Vec<N>) -> Vec<N>,
    supernet: impl Fn(&N) -> Option<N>,
) -> Vec<N> {
    let mut nets = nets.to_vec();
    while nets.len() > QUOTED {
        let wider = nets.iter().map(|net| supernet(net).unwrap_or(*net)).collect();
        nets = aggregate(&wider);
    }
    nets
}

/// Accepts the frames of some VLANs, which belong to devices of their own on top of a port. If such a device is deleted
/// meanwhile, the kernel treats its frames as not for the host (`PACKET_OTHERHOST`).
pub fn vlan_program(vlans: &BTreeSet<Vlan>) -> Program {
    let mut code = Assembler::default();
    let (accept, reject) = (code.label(), code.label());
    code.ancillary(Ancillary::VlanTagPresent);
    code.if_equal(0, reject);
    for vlan in vlans {
        let next = code.label();
        code.ancillary(Ancillary::VlanTpid);
        code.unless_equal(vlan.tpid.into(), next);
        code.ancillary(Ancillary::VlanTag);
        code.and(0x0fff);
        code.if_equal(vlan.id.into(), accept);
        code.here(next);
    }
    code.here(reject);
    code.finish(0);
    code.here(accept);
    code.finish(ACCEPT);
    code.assemble()
}

/// The part of a policy that goes into one program.
struct Chunk<'a> {
    ipv4: &'a [Ipv4Net],
    ipv6: &'a [Ipv6Net],
    quoted4: &'a [Ipv4Net],
    quoted6: &'a [Ipv6Net],
    /// Whether it also accepts what comes from no prefix.
    first: bool,
}

struct Writer<'a> {
    code: Assembler,
    policy: &'a IngressPolicy,
    chunk: Chunk<'a>,
    accept: Label,
    drop: Label,
}

impl<'a> Writer<'a> {
    fn new(policy: &'a IngressPolicy, chunk: Chunk<'a>) -> Self {
        let mut code = Assembler::default();
        let (accept, drop) = (code.label(), code.label());
        Self { code, policy, chunk, accept, drop }
    }

    fn write(mut self) -> Program {
        let (drop, accept) = (self.drop, self.accept);
        let [ipv4, ipv6, arp] = [(); 3].map(|()| self.code.label());
        let code = &mut self.code;
        code.ancillary(Ancillary::HardwareType);
        code.unless_equal(ARPHRD_ETHER, drop);
        code.ancillary(Ancillary::VlanTagPresent);
        code.unless_equal(0, drop);
        code.ancillary(Ancillary::Protocol);
        code.if_equal(ETHERTYPE_IPV4, ipv4);
        code.if_equal(ETHERTYPE_IPV6, ipv6);
        if self.policy.is_port {
            code.if_equal(ETHERTYPE_ARP, arp);
        }
        code.goto(drop);
        code.here(ipv4);
        self.ipv4();
        self.code.here(ipv6);
        self.ipv6();
        if self.policy.is_port {
            self.code.here(arp);
            self.arp();
        }
        self.code.here(accept);
        self.code.finish(ACCEPT);
        self.code.here(drop);
        self.code.finish(0);
        self.code.assemble()
    }

    /// Requests and replies for IPv4 over Ethernet from addresses behind the port, and probes (RFC 5227), whose sender
    /// is 0.
    fn arp(&mut self) {
        const ETHERNET_IPV4: [(u32, u32); 3] = [(IP, ARPHRD_ETHER), (IP + 2, ETHERTYPE_IPV4), (IP + 4, 0x0604)];
        const SENDER: At = At::Frame(IP + 14);
        for (at, value) in ETHERNET_IPV4 {
            self.code.half(At::Frame(at));
            self.code.unless_equal(value, self.drop);
        }
        if self.chunk.first {
            self.code.word(SENDER);
            self.code.if_equal(0, self.accept);
        }
        self.if_in4(SENDER, self.chunk.ipv4, self.accept);
        self.code.goto(self.drop);
    }

    fn ipv4(&mut self) {
        let (drop, accept) = (self.drop, self.accept);
        let [known, udp, icmp, error, quoted, tunnel, unless_local] = [(); 7].map(|()| self.code.label());
        let code = &mut self.code;
        code.byte(At::Frame(IP));
        code.and(0xf0);
        code.unless_equal(0x40, drop);
        code.x_to_ipv4_header_len(IP);
        code.x_to_a();
        code.unless_at_least(20, drop);
        code.store_x(cell::X);
        self.drop_source_routes();
        self.if_in4(IPV4_SOURCE, self.chunk.ipv4, known);
        let code = &mut self.code;
        if self.policy.is_port && self.chunk.first {
            // A server without an address requests one by DHCP (RFC 2131).
            code.word(IPV4_SOURCE);
            code.unless_equal(0, drop);
            code.byte(IPV4_PROTOCOL);
            code.unless_equal(protocol::UDP, drop);
            code.word(IPV4_DESTINATION);
            code.unless_equal(u32::MAX, drop);
            code.half(IPV4_FRAGMENT);
            code.if_any_bit(0x3fff, drop);
            code.half(IPV4_PAYLOAD.plus(2));
            code.if_equal(67, accept);
        }
        code.goto(drop);

        code.here(known);
        code.byte(IPV4_PROTOCOL);
        code.if_equal(protocol::TCP, accept);
        code.if_equal(protocol::UDP, udp);
        code.if_equal(protocol::ICMP, icmp);
        code.if_equal(protocol::IGMP, accept);
        code.goto(unless_local);

        // Ports are in the first fragment, which has at least eight bytes. Without it, later fragments are never
        // reassembled.
        code.here(udp);
        code.half(IPV4_FRAGMENT);
        code.if_any_bit(0x1fff, accept);
        self.at_least4(8);
        self.if_tunnel_port(IPV4_PAYLOAD.plus(2), tunnel);
        self.code.goto(accept);
        self.code.here(tunnel);
        if let IpAddr::V4(underlay) = self.policy.local.underlay {
            self.code.word(IPV4_DESTINATION);
            self.code.if_equal(underlay.to_bits(), drop);
        }
        self.code.goto(unless_local);

        let code = &mut self.code;
        code.here(icmp);
        code.half(IPV4_FRAGMENT);
        code.if_any_bit(0x1fff, accept);
        self.at_least4(8);
        let code = &mut self.code;
        code.byte(IPV4_PAYLOAD);
        // Unreachable, time exceeded, parameter problem; source quench, redirect.
        for kind in [3, 11, 12] {
            code.if_equal(kind, error);
        }
        for kind in [4, 5] {
            code.if_equal(kind, drop);
        }
        code.goto(accept);

        // It quotes a packet from its own destination to an address behind the device.
        code.here(error);
        self.at_least4(8 + 20);
        let code = &mut self.code;
        code.word(IPV4_PAYLOAD.plus(8 + 12));
        code.store(cell::SCRATCH);
        code.word(IPV4_DESTINATION);
        code.recall_x(cell::SCRATCH);
        code.unless_equal_x(drop);
        code.recall_x(cell::X);
        self.if_in4(IPV4_PAYLOAD.plus(8 + 16), self.chunk.quoted4, quoted);
        let code = &mut self.code;
        code.goto(drop);
        code.here(quoted);
        code.half(IPV4_PAYLOAD);
        // Fragmentation needed.
        code.unless_equal(0x0304, accept);

        code.here(unless_local);
        code.word(IPV4_DESTINATION);
        // Multicast and broadcast.
        code.if_at_least(0xe000_0000, drop);
        for address in &self.policy.local.ipv4 {
            code.if_equal(address.to_bits(), drop);
        }
        code.goto(accept);
    }

    /// Drops source-routed packets (RFC 791): a router that such a packet is addressed to, such as a gateway, would
    /// give it another destination, which its sender may not be allowed to reach. Registers A and X hold the header's
    /// length, before and after.
    fn drop_source_routes(&mut self) {
        const END: u32 = 0;
        const NO_OPERATION: u32 = 1;
        const SOURCE_ROUTES: [u32; 2] = [131, 137];
        let drop = self.drop;
        let code = &mut self.code;
        let done = code.label();
        code.if_equal(20, done);
        code.x_to(20);
        for _ in 0..OPTIONS {
            let [filler, next] = [(); 2].map(|()| code.label());
            code.byte(At::BehindX(IP));
            code.if_equal(END, done);
            code.if_equal(NO_OPERATION, filler);
            for way in SOURCE_ROUTES {
                code.if_equal(way, drop);
            }
            code.byte(At::BehindX(IP + 1));
            code.unless_at_least(2, drop);
            code.goto(next);
            code.here(filler);
            code.constant(1);
            code.here(next);
            code.add_x();
            code.store(cell::SCRATCH);
            code.recall_x(cell::X);
            code.if_equal_x(done);
            // An option that extends beyond the header is invalid.
            code.if_greater_x(drop);
            code.recall_x(cell::SCRATCH);
        }
        code.goto(drop);
        code.here(done);
        code.recall_x(cell::X);
    }

    fn ipv6(&mut self) {
        let (drop, accept) = (self.drop, self.accept);
        let [known, tcp, udp, icmp, info, quoted, tunnel, listeners, unless_extended, unless_local] =
            [(); 10].map(|()| self.code.label());
        let code = &mut self.code;
        code.byte(At::Frame(IP));
        code.and(0xf0);
        code.unless_equal(0x60, drop);
        self.if_in6(IPV6_SOURCE, self.chunk.ipv6, known);
        if self.policy.is_port && self.chunk.first {
            // For neighbour discovery and the like. The kernel forwards nothing from these.
            self.if_in6(IPV6_SOURCE, &[LINK_LOCAL], known);
            for word in 0..4 {
                self.code.word(IPV6_SOURCE.plus(4 * word));
                self.code.unless_equal(0, drop);
            }
            self.if_in6(IPV6_DESTINATION, &[LINK_LOCAL_MULTICAST], known);
        }
        let code = &mut self.code;
        code.goto(drop);

        code.here(known);
        let protocols = [(protocol::TCP, tcp), (protocol::UDP, udp), (protocol::ICMPV6, icmp)];
        // Without the first fragment, later ones are never reassembled.
        let behind = Behind {
            protocols: &protocols,
            other: unless_local,
            fragment: accept,
            first_fragment: None,
            too_many: drop,
        };
        pass_extension_headers(code, &behind);

        code.here(udp);
        self.at_least6(8);
        self.if_tunnel_port(IPV6_PAYLOAD.plus(2), tunnel);
        let code = &mut self.code;
        code.here(tcp);
        code.recall(cell::EXTENDED);
        code.if_equal(0, accept);
        code.goto(unless_local);
        code.here(tunnel);
        if let IpAddr::V6(underlay) = self.policy.local.underlay {
            self.if_in6(IPV6_DESTINATION, &[Ipv6Net::from(underlay)], drop);
        }
        self.code.goto(unless_local);

        self.code.here(icmp);
        self.at_least6(8);
        let code = &mut self.code;
        code.byte(IPV6_PAYLOAD);
        code.if_at_least(128, info);

        // It quotes a packet from its own destination to an address behind the device.
        self.at_least6(8 + 40);
        let code = &mut self.code;
        code.store_x(cell::X);
        for word in 0..4 {
            code.word(IPV6_PAYLOAD.plus(8 + 8 + 4 * word));
            code.store(cell::SCRATCH);
            code.word(IPV6_DESTINATION.plus(4 * word));
            code.recall_x(cell::SCRATCH);
            code.unless_equal_x(drop);
            code.recall_x(cell::X);
        }
        self.if_in6(IPV6_PAYLOAD.plus(8 + 24), self.chunk.quoted6, quoted);
        let code = &mut self.code;
        code.goto(drop);
        code.here(quoted);
        code.byte(IPV6_PAYLOAD);
        // Packet too big.
        code.if_equal(2, unless_local);
        code.recall(cell::EXTENDED);
        code.if_equal(0, accept);
        code.goto(unless_local);

        code.here(info);
        // Router advertisement, redirect.
        for kind in [134, 137] {
            code.if_equal(kind, drop);
        }
        // Router solicitation, neighbour solicitation and advertisement; queries and reports of multicast listeners,
        // which come behind a hop-by-hop header (RFC 3810).
        let on_link: ([u32; 3], [u32; 4]) = ([133, 135, 136], [130, 131, 132, 143]);
        if self.policy.is_port {
            on_link.1.into_iter().for_each(|kind| code.if_equal(kind, listeners));
            code.goto(unless_extended);
            // Behind another header, such as a routing header to a gateway, it is no such message, whatever its type.
            code.here(listeners);
            self.if_in6(IPV6_DESTINATION, &[MULTICAST], accept);
        } else {
            on_link.0.into_iter().chain(on_link.1).for_each(|kind| code.if_equal(kind, drop));
        }
        let code = &mut self.code;
        code.here(unless_extended);
        code.recall(cell::EXTENDED);
        code.if_equal(0, accept);

        code.here(unless_local);
        self.if_in6(IPV6_DESTINATION, &[MULTICAST, LINK_LOCAL], drop);
        for address in &self.policy.local.ipv6 {
            self.if_in6(IPV6_DESTINATION, &[Ipv6Net::from(*address)], drop);
        }
        self.code.goto(accept);
    }

    fn if_in4(&mut self, at: At, prefixes: &[Ipv4Net], label: Label) {
        if_in4(&mut self.code, at, prefixes, label);
    }

    fn if_in6(&mut self, at: At, prefixes: &[Ipv6Net], label: Label) {
        if_in6(&mut self.code, at, prefixes, label);
    }

    /// Drops packets with fewer bytes of payload than this by their own header: padding of the frame is ignored.
    fn at_least4(&mut self, bytes: u32) {
        self.code.half(IPV4_TOTAL_LENGTH);
        self.at_least(bytes);
    }

    fn at_least6(&mut self, bytes: u32) {
        self.code.half(IPV6_PAYLOAD_LENGTH);
        self.at_least(bytes);
    }

    fn at_least(&mut self, bytes: u32) {
        self.code.subtract_x();
        // Negative: nothing is left.
        self.code.if_greater(0xffff, self.drop);
        self.code.unless_at_least(bytes, self.drop);
    }

    fn if_tunnel_port(&mut self, at: At, label: Label) {
        self.code.half(at);
        let ports: BTreeSet<u16> = TUNNEL_PORTS.into_iter().chain([self.policy.local.vxlan_port]).collect();
        for port in ports {
            self.code.if_equal(port.into(), label);
        }
    }
}

/// `ff02::/16`.
const LINK_LOCAL_MULTICAST: Ipv6Net = net(0xff02, 16);
