//! Reads the objects on one path on request. Nothing is changed.

use super::{
    Kernel as _, KernelError, Netlink, NetlinkError, UnderlayView, check_stop,
    foreign::traffic_control,
    local, observe, rules,
    socket::Socket,
    sysctl,
    tc::{Qdisc, put_header},
    traffic,
    uapi::{neighbour, route, rtm, tc as numbers},
    wire::{address, attributes, put, put_address, u8_at, u16_at, u32_at},
};
use crate::{
    dirty_set::Parts,
    objects::{Family, Link, Mac, Observed},
    ownership::{QUEUE_HANDLE, SHAPER_CLASS},
};
use cps_peering_config::net::{InterfaceName, Vni};
use nix::libc;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

/// An observation of the kernel beside that of the reconciler.
pub struct Reader {
    netlink: Netlink,
    underlay: UnderlayView,
    /// The deadline.
    deadline: Instant,
}

/// The query for a route lookup in the kernel.
#[derive(Debug, Clone, Copy)]
pub struct RouteQuery {
    /// The destination.
    pub to: IpAddr,
    /// The source, if the query has one.
    pub from: Option<IpAddr>,
    /// Where the packet comes from.
    pub through: Through,
    /// The IP protocol, if it may matter: TCP, UDP or the ICMP of the family. The kernel accepts no others.
    pub protocol: Option<u8>,
    /// The source port, if it may matter.
    pub source_port: Option<u16>,
    /// The destination port, if it may matter.
    pub port: Option<u16>,
}

/// Where a packet comes from, or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The host itself sends it.
    Host,
    /// It arrived on the device with this index.
    Arrived(u32),
    /// The host itself sends it through the VRF with this index.
    Vrf(u32),
}

/// The result of a route lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteFound {
    /// Whether the packet is for the host itself (`RTN_LOCAL`).
    pub local: bool,
    /// Whether it is forwarded, to one destination.
    pub unicast: bool,
    /// The output device.
    pub device: Option<u32>,
    /// The next hop; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The longest packet in bytes, if the route itself has an MTU: set, or learned from a router on the path.
    pub mtu: Option<u32>,
}

/// A neighbour entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// `NUD_*` of `linux/neighbour.h`.
    pub state: u16,
    /// Its Ethernet address, if it is known.
    pub mac: Option<Mac>,
    /// How long it has been in this state.
    pub since: Option<Duration>,
}

/// The kernel reports times in hundredths of a second (`USER_HZ`), on every architecture but Alpha and IA-64.
const USER_HZ_MS: u64 = 10;
/// For how long a failed solicitation counts: the kernel solicits again only when a packet is sent.
const RECENTLY: Duration = Duration::from_secs(10);

impl Neighbour {
    /// Whether the kernel has solicited it without an answer.
    pub fn has_failed(self) -> bool {
        self.state & neighbour::NUD_FAILED != 0
    }

    /// Whether that was in the last ten seconds, or at an unknown time.
    pub fn has_failed_recently(self) -> bool {
        self.has_failed() && self.since.is_none_or(|since| since <= RECENTLY)
    }

    /// Whether the kernel is soliciting it and has no answer yet.
    pub fn is_being_asked(self) -> bool {
        self.state & neighbour::NUD_INCOMPLETE != 0
    }

    /// Whether it is a static entry.
    pub fn is_permanent(self) -> bool {
        self.state & (neighbour::NUD_PERMANENT | neighbour::NUD_NOARP) != 0
    }
}

impl fmt::Display for Neighbour {
    /// As `ip neigh` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STATES: [(u16, &str); 8] = [
            (0x01, "INCOMPLETE"),
            (0x02, "REACHABLE"),
            (0x04, "STALE"),
            (0x08, "DELAY"),
            (0x10, "PROBE"),
            (0x20, "FAILED"),
            (0x40, "NOARP"),
            (0x80, "PERMANENT"),
        ];
        if let Some(mac) = self.mac {
            write!(f, "{mac} ")?;
        }
        let word = STATES.iter().find(|(state, _)| self.state & state != 0).map_or("NONE", |(_, word)| word);
        f.write_str(word)
    }
}

/// The state of a shaper's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Packets that it dropped since it was made.
    pub dropped: u32,
    /// Bytes waiting.
    pub backlog: u64,
}

impl Reader {
    /// A reader that also sees the underlay filter which this process maintains.
    pub fn new(underlay: UnderlayView) -> Self {
        Self { netlink: Netlink::default(), underlay, deadline: Instant::now() }
    }

    /// From now on, whatever is not done by then is abandoned with [`KernelError::Abandoned`].
    pub fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    fn check(&self) -> Result<(), KernelError> {
        let deadline = self.deadline;
        check_stop(&|| Instant::now() >= deadline)
    }

    /// Every device.
    pub fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.check()?;
        self.netlink.devices()
    }

    /// All that concerns us about some devices and what is on them, with what decides about packets of the whole host.
    /// `senders` are the VTEPs that are checked for whether they may send with a VNI.
    pub fn look(&mut self, parts: &Parts, senders: &BTreeMap<Vni, BTreeSet<IpAddr>>) -> Result<Observed, KernelError> {
        let deadline = self.deadline;
        let stop = &|| Instant::now() >= deadline;
        let mut observed = self.netlink.with_socket(|socket, _| {
            let mut observed = observe::parts(socket, parts, stop)?;
            let found = rules::both(socket)?;
            observed.without_local_route =
                local::without_local_route(socket, stop, &observed.links, &observed.addresses, &found)?;
            (observed.rules, observed.rules_ahead) = (found.plain, found.ahead);
            foreign(socket, stop, &mut observed)?;
            Ok(observed)
        })?;
        self.check()?;
        observed.ipv6_forwarding = sysctl::ipv6_forwarding()?;
        observed.arp_ignore = sysctl::arp_ignore();
        observed.underlay = self.underlay.state(&observed.ingress, senders);
        observed.firewall = self.netlink.filters.look(&observed.links);
        Ok(observed)
    }

    /// The route that the kernel itself would take, or why there is none.
    pub fn route(&mut self, query: RouteQuery) -> Result<Result<RouteFound, NetlinkError>, KernelError> {
        self.check()?;
        self.netlink.with_socket(|socket, _| {
            let answer = socket.get(rtm::GET_ROUTE, |body| query.write(body))?;
            Ok(answer.map(|payload| RouteFound::read(&payload)))
        })
    }

    /// A neighbour, if the kernel has an entry for it.
    pub fn neighbour(&mut self, device: u32, of: IpAddr) -> Result<Option<Neighbour>, KernelError> {
        self.check()?;
        self.netlink.with_socket(|socket, _| {
            let family = if of.is_ipv4() { Family::V4 } else { Family::V6 };
            let answer = socket.get(rtm::GET_NEIGHBOUR, |body| {
                body.extend([family.number(), 0, 0, 0]);
                body.extend(device.to_ne_bytes());
                body.extend([0; neighbour::HEADER_LEN - 8]);
                put_address(body, neighbour::NDA_DST, of);
            })?;
            match answer {
                Ok(payload) => Ok(Neighbour::read(&payload)),
                Err(refusal) if refusal.errno == libc::ENOENT => Ok(None),
                Err(refusal) => Err(KernelError::Refused { what: "neighbours", refusal }),
            }
        })
    }

    /// The state of the queue of our shaper on a device, if there is one.
    pub fn queue(&mut self, device: u32) -> Result<Option<QueueState>, KernelError> {
        self.check()?;
        self.netlink.with_socket(|socket, _| {
            let answer = socket.get(rtm::GET_QDISC, |body| put_header(body, device, QUEUE_HANDLE, SHAPER_CLASS, 0))?;
            let passed = answer.ok().and_then(|payload| traffic::read_passed(&payload));
            Ok(passed.map(|passed| QueueState { dropped: passed.dropped, backlog: passed.backlog }))
        })
    }
}

impl Neighbour {
    fn read(payload: &[u8]) -> Option<Self> {
        let find = |wanted| {
            attributes(payload, neighbour::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
        };
        let mac = find(neighbour::NDA_LLADDR).and_then(|value| value.try_into().ok()).map(Mac);
        // Confirmed, used, updated.
        let ticks = find(neighbour::NDA_CACHEINFO).and_then(|value| u32_at(value, 8));
        let since = ticks.map(|ticks| Duration::from_millis(u64::from(ticks) * USER_HZ_MS));
        Some(Self { state: u16_at(payload, 8)?, mac, since })
    }
}

/// Queueing disciplines and filters of others on the devices that were seen.
fn foreign(socket: &mut Socket, stop: &dyn Fn() -> bool, observed: &mut Observed) -> Result<(), KernelError> {
    let mut qdiscs = Vec::new();
    for (name, link) in &observed.links {
        check_stop(stop)?;
        let root = socket.get(rtm::GET_QDISC, |body| put_header(body, link.index, 0, numbers::ROOT, 0))?;
        // (The kernel's own have no handle, and a device may have none at all.)
        qdiscs.extend(root.ok().and_then(|payload| Qdisc::read(&payload)).filter(|it| it.handle != 0));
        if observed.ingress.contains_key(name) {
            let clsact = |body: &mut Vec<u8>| put_header(body, link.index, numbers::CLSACT_HANDLE, numbers::CLSACT, 0);
            qdiscs.extend(socket.get(rtm::GET_QDISC, clsact)?.ok().and_then(|payload| Qdisc::read(&payload)));
        }
    }
    traffic_control(socket, stop, &qdiscs, &observed.links, |_| true, &mut observed.foreign)
}

impl RouteQuery {
    fn write(&self, body: &mut Vec<u8>) {
        let family = if self.to.is_ipv4() { Family::V4 } else { Family::V6 };
        let bits = if self.to.is_ipv4() { 32 } else { 128 };
        let source_bits = if self.from.is_some() { bits } else { 0 };
        body.extend([family.number(), bits, source_bits, 0, 0, 0, 0, 0]);
        body.extend(0u32.to_ne_bytes());
        put_address(body, route::RTA_DST, self.to);
        if let Some(from) = self.from {
            put_address(body, route::RTA_SRC, from);
        }
        match self.through {
            Through::Host => {}
            Through::Arrived(index) => put(body, route::RTA_IIF, &index.to_ne_bytes()),
            Through::Vrf(index) => put(body, route::RTA_OIF, &index.to_ne_bytes()),
        }
        // The kernel accepts only these (`rtm_getroute_parse_ip_proto`).
        let icmp = if self.to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        let Some(protocol) = self.protocol else { return };
        let has_ports = matches!(i32::from(protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP);
        if has_ports || i32::from(protocol) == icmp {
            put(body, route::RTA_IP_PROTO, &[protocol]);
        }
        for (kind, port) in [(route::RTA_SPORT, self.source_port), (route::RTA_DPORT, self.port)] {
            if let Some(port) = port.filter(|_| has_ports) {
                put(body, kind, &port.to_be_bytes());
            }
        }
    }
}

impl RouteFound {
    fn read(payload: &[u8]) -> Self {
        let kind = u8_at(payload, 7).unwrap_or_default();
        let mut found =
            Self { local: kind == route::RTN_LOCAL, unicast: kind == route::RTN_UNICAST, ..Self::default() };
        for (kind, value) in attributes(payload, route::HEADER_LEN) {
            match kind {
                route::RTA_OIF => found.device = u32_at(value, 0),
                route::RTA_GATEWAY => found.gateway = address(value),
                // A family, and then the address.
                route::RTA_VIA => found.gateway = value.get(2..).and_then(address),
                route::RTA_METRICS => {
                    let mtu = attributes(value, 0).find(|(kind, _)| *kind == route::RTAX_MTU);
                    found.mtu = mtu.and_then(|(_, value)| u32_at(value, 0)).filter(|mtu| *mtu != 0);
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_ipv4_through_a_next_hop_of_ipv6_is_read() {
        let mut payload = vec![2, 32, 0, 0, 254, 67, 0, route::RTN_UNICAST, 0, 0, 0, 0];
        put(&mut payload, route::RTA_OIF, &7u32.to_ne_bytes());
        let mut via = vec![10, 0];
        via.extend("fe80::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        put(&mut payload, route::RTA_VIA, &via);
        let mut metrics = Vec::new();
        put(&mut metrics, route::RTAX_MTU, &552u32.to_ne_bytes());
        put(&mut payload, route::RTA_METRICS, &metrics);
        let found = RouteFound::read(&payload);
        assert!(found.unicast && !found.local);
        assert_eq!((found.device, found.gateway, found.mtu), (Some(7), Some("fe80::2".parse().unwrap()), Some(552)));
    }

    #[test]
    fn a_neighbour_is_displayed_as_by_ip() {
        let read = |state: u16, mac: &[u8], updated: u32| {
            let mut payload = vec![0; 8];
            payload.extend(state.to_ne_bytes());
            payload.extend([0, 0]);
            put(&mut payload, neighbour::NDA_LLADDR, mac);
            put(&mut payload, neighbour::NDA_CACHEINFO, &[1, 2, updated, 1].map(u32::to_ne_bytes).concat());
            Neighbour::read(&payload).unwrap()
        };
        assert_eq!(read(0x02, &[2, 0, 0, 0, 0, 9], 0).to_string(), "02:00:00:00:00:09 REACHABLE");
        let failed = read(0x20, &[], 1000);
        assert!(failed.to_string() == "FAILED" && failed.has_failed() && !failed.is_permanent());
        assert_eq!(failed.since, Some(Duration::from_secs(10)));
        assert!(failed.has_failed_recently() && !read(0x20, &[], 1001).has_failed_recently());
    }

    #[test]
    fn lookups_have_only_protocols_and_ports_that_the_kernel_accepts() {
        let asked = |to: &str, protocol: u8| {
            let query = RouteQuery {
                to: to.parse().unwrap(),
                from: None,
                through: Through::Host,
                protocol: Some(protocol),
                source_port: Some(7),
                port: Some(443),
            };
            let mut body = Vec::new();
            query.write(&mut body);
            let kinds = attributes(&body, route::HEADER_LEN).map(|(kind, _)| kind);
            kinds.filter(|kind| *kind != route::RTA_DST).collect::<Vec<_>>()
        };
        let with_ports = [route::RTA_IP_PROTO, route::RTA_SPORT, route::RTA_DPORT];
        assert_eq!(asked("10.1.0.1", 6), with_ports);
        assert_eq!(asked("fd00::1", 17), with_ports);
        assert_eq!(asked("10.1.0.1", 1), [route::RTA_IP_PROTO]);
        assert_eq!(asked("fd00::1", 58), [route::RTA_IP_PROTO]);
        assert_eq!((asked("fd00::1", 1), asked("10.1.0.1", 47)), (vec![], vec![]));
    }
}
