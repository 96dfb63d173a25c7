//! Reads the objects of others in our tables, on our devices and on ports.

use super::{
    KernelError, check_stop,
    socket::Socket,
    sysctl,
    tc::{self, Qdisc},
    uapi::{link, nexthop, route, rtm, tc as numbers},
    wire::{address, attributes, u8_at, u16_at, u32_at},
};
use crate::{
    objects::{Family, Fate, Foreign, ForeignRoute, Link, LinkKind},
    ownership::{self, PROTOCOL},
};
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Whether an option of a VXLAN device differs from those that we make. Options that only one kernel knows, and those
/// whose default may change, are ignored.
pub(super) fn is_altered(options: &[u8]) -> bool {
    attributes(options, 0).any(|(kind, value)| match kind {
        link::VXLAN_GROUP | link::VXLAN_GROUP6 => value.iter().any(|byte| *byte != 0),
        link::VXLAN_LINK | link::VXLAN_LIMIT | link::VXLAN_LABEL | link::VXLAN_PORT_RANGE => {
            u32_at(value, 0) != Some(0)
        }
        link::VXLAN_TTL
        | link::VXLAN_TOS
        | link::VXLAN_LEARNING
        | link::VXLAN_PROXY
        | link::VXLAN_RSC
        | link::VXLAN_L2MISS
        | link::VXLAN_L3MISS
        | link::VXLAN_REMCSUM_TX
        | link::VXLAN_REMCSUM_RX
        | link::VXLAN_TTL_INHERIT
        | link::VXLAN_DF
        | link::VXLAN_VNIFILTER => u8_at(value, 0) != Some(0),
        // Flags: present or absent.
        link::VXLAN_GBP | link::VXLAN_GPE => true,
        _ => false,
    })
}

/// A VXLAN device that takes a whole UDP port.
pub(super) fn external(options: &[u8]) -> Option<LinkKind> {
    let find = |wanted| attributes(options, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let external = find(link::VXLAN_COLLECT_METADATA).and_then(|value| u8_at(value, 0)).is_some_and(|value| value != 0);
    let port = find(link::VXLAN_PORT).and_then(|value| u16_at(value, 0)).map(u16::from_be)?;
    external.then_some(LinkKind::ExternalVxlan { port })
}

/// The XDP program of a device, the first of several, if it has one: in the driver, in the kernel, or in the hardware.
pub(super) fn xdp(value: &[u8]) -> Option<u32> {
    let find = |wanted| attributes(value, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let attached = find(link::XDP_ATTACHED).and_then(|value| u8_at(value, 0)).is_some_and(|mode| mode != 0);
    // The first attribute is set if there is one program, the others by where it runs.
    let ids = [link::XDP_PROG_ID, link::XDP_DRV_PROG_ID, link::XDP_SKB_PROG_ID, link::XDP_HW_PROG_ID];
    let id = || ids.into_iter().find_map(|kind| find(kind).and_then(|value| u32_at(value, 0)));
    attached.then(|| id().unwrap_or_default())
}

/// Indexes of the devices that next hop objects lead to, by their ids.
pub(super) type NexthopObjects = BTreeMap<u32, BTreeSet<u32>>;

/// Where next hop objects lead; empty if the kernel reports that with their routes.
pub(super) fn nexthop_objects(socket: &mut Socket) -> Result<NexthopObjects, KernelError> {
    if sysctl::routes_tell_next_hops() {
        return Ok(NexthopObjects::new());
    }
    let (mut objects, groups) = socket.dump(
        "next hops",
        rtm::GET_NEXTHOP,
        |body| body.extend([0; nexthop::HEADER_LEN]),
        <(NexthopObjects, BTreeMap<u32, Vec<u32>>)>::default,
        |(objects, groups), payload| {
            let find =
                |wanted| attributes(payload, nexthop::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, it)| it);
            let Some(id) = find(nexthop::NHA_ID).and_then(|value| u32_at(value, 0)) else { return };
            if let Some(index) = find(nexthop::NHA_OIF).and_then(|value| u32_at(value, 0)) {
                objects.insert(id, BTreeSet::from([index]));
            } else if let Some(group) = find(nexthop::NHA_GROUP) {
                // `struct nexthop_grp`, of eight bytes.
                groups.insert(id, group.chunks(8).filter_map(|member| u32_at(member, 0)).collect());
            }
        },
    )?;
    for (id, members) in groups {
        let devices = members.iter().filter_map(|member| objects.get(member)).flatten().copied().collect();
        objects.insert(id, devices);
    }
    Ok(objects)
}

/// Indexes of the devices of a route with several next hops (`struct rtnexthop`).
fn several(mut value: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(value, 0)?);
        let index = u32_at(value.get(..length)?, 4)?;
        value = value.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(index)
    })
}

/// Collects routes of others from a list of all routes.
pub(super) struct Routes<'a> {
    names: &'a BTreeMap<u32, InterfaceName>,
    objects: NexthopObjects,
    /// Indexes of devices whose names or masters are ours.
    ours: &'a BTreeSet<u32>,
    /// What the kernel has routes of its own for.
    usual: Usual,
    kept: Vec<ForeignRoute>,
    more: usize,
}

impl<'a> Routes<'a> {
    pub(super) fn new(
        names: &'a BTreeMap<u32, InterfaceName>,
        objects: NexthopObjects,
        ours: &'a BTreeSet<u32>,
        usual: Usual,
    ) -> Self {
        Self { names, objects, ours, usual, kept: Vec::new(), more: 0 }
    }

    /// How many there are; [`Routes::truncate`] goes back to that.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.kept.len(), self.more)
    }

    pub(super) fn truncate(&mut self, (routes, more): (usize, usize)) {
        self.kept.truncate(routes);
        self.more = more;
    }

    /// Examines one route of the kernel's list, and keeps it if it concerns us.
    pub(super) fn take(&mut self, payload: &[u8], family: Family) {
        let Some(route) = self.read(payload, family) else { return };
        if self.kept.len() < Foreign::MAX_ROUTES {
            self.kept.push(route);
        } else {
            self.more += 1;
        }
    }

    fn read(&self, payload: &[u8], family: Family) -> Option<ForeignRoute> {
        let (table, protocol, kind) = (u8_at(payload, 4)?, u8_at(payload, 5)?, u8_at(payload, 7)?);
        let mut table = u32::from(table);
        let (mut to, mut metric, mut indexes, mut plain) = (None, 0, BTreeSet::new(), true);
        for (kind, value) in attributes(payload, route::HEADER_LEN) {
            match kind {
                route::RTA_DST => to = address(value),
                route::RTA_TABLE => table = u32_at(value, 0)?,
                route::RTA_PRIORITY => metric = u32_at(value, 0)?,
                route::RTA_OIF => indexes.extend(u32_at(value, 0)),
                route::RTA_MULTIPATH => {
                    indexes.extend(several(value));
                    plain = false;
                }
                route::RTA_NH_ID => {
                    indexes.extend(u32_at(value, 0).and_then(|id| self.objects.get(&id)).into_iter().flatten());
                    plain = false;
                }
                route::RTA_GATEWAY | route::RTA_VIA => plain = false,
                _ => {}
            }
        }
        let in_ours = ownership::table_vni(table).is_some();
        let to_ours = kind == route::RTN_UNICAST && !indexes.is_disjoint(self.ours);
        // With our protocol, those in our tables are ours, and we have none elsewhere, nor any for some sources only.
        let for_sources = u8_at(payload, 2)? > 0;
        if (!in_ours && !to_ours) || (in_ours && protocol == PROTOCOL && !for_sources) {
            return None;
        }
        let nowhere = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let prefix = IpNet::new(to.unwrap_or(nowhere), u8_at(payload, 1)?).ok()?;
        if protocol == route::RTPROT_KERNEL && plain && self.usual.has(kind, &indexes, &prefix) {
            return None;
        }
        let fate = match kind {
            route::RTN_UNICAST => {
                Fate::Sent(indexes.iter().filter_map(|index| self.names.get(index)).copied().collect())
            }
            route::RTN_LOCAL | route::RTN_BROADCAST | route::RTN_ANYCAST => Fate::Local,
            route::RTN_BLACKHOLE | route::RTN_UNREACHABLE | route::RTN_PROHIBIT => Fate::Dropped,
            route::RTN_THROW => Fate::Thrown,
            other => Fate::Unknown(other),
        };
        Some(ForeignRoute { table, prefix, metric, fate, protocol })
    }

    pub(super) fn finish(mut self) -> (Vec<ForeignRoute>, usize) {
        self.kept.sort_unstable();
        self.kept.dedup();
        (self.kept, self.more)
    }
}

/// What the kernel makes for the addresses of devices, and for neighbour discovery. Addresses are examined themselves.
#[derive(Debug, Default)]
pub(super) struct Usual(BTreeSet<(u8, u32, IpAddr)>);

impl Usual {
    /// What belongs to these addresses, each with the index of its device.
    pub(super) fn of(addresses: impl IntoIterator<Item = (u32, IpNet)>) -> Self {
        let of_address = |(index, net): (u32, IpNet)| {
            let around = match net {
                IpNet::V4(_) => [(route::RTN_BROADCAST, net.network()), (route::RTN_BROADCAST, net.broadcast())],
                // Routers have the first address of each subnet (RFC 4291 section 2.6.1).
                IpNet::V6(_) => [(route::RTN_ANYCAST, net.network()); 2],
            };
            [(route::RTN_LOCAL, net.addr())].into_iter().chain(around).map(move |(kind, to)| (kind, index, to))
        };
        Self(addresses.into_iter().flat_map(of_address).collect())
    }

    fn has(&self, kind: u8, indexes: &BTreeSet<u32>, prefix: &IpNet) -> bool {
        match (kind, prefix) {
            (route::RTN_LOCAL | route::RTN_BROADCAST | route::RTN_ANYCAST, _) => {
                let whole = prefix.prefix_len() == prefix.max_prefix_len();
                whole && indexes.first().is_some_and(|index| self.0.contains(&(kind, *index, prefix.addr())))
            }
            (route::RTN_MULTICAST, _) => prefix.addr().is_multicast(),
            (route::RTN_UNICAST, IpNet::V6(prefix)) => {
                prefix.addr().is_unicast_link_local() || prefix.addr().is_multicast()
            }
            _ => false,
        }
    }
}

/// Kinds of queueing disciplines that order or join packets and drop none before the queue is full.
const PLAIN: [&str; 11] =
    ["noqueue", "mq", "mqprio", "pfifo_fast", "codel", "fq_pie", "pie", "sfq", "prio", "multiq", "skbprio"];

/// A smaller queue cannot hold a full TCP segment, or so few packets that ordinary bursts are lost.
const LEAST_PACKETS: u32 = 10;
const LEAST_BYTES: u32 = 64 << 10;

/// Whether a queueing discipline delays or drops packets that its device could send.
fn loses(qdisc: &Qdisc) -> bool {
    let options = qdisc.options.as_deref().unwrap_or_default();
    let option =
        |wanted| attributes(options, 0).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| u32_at(value, 0));
    let is_below = |limit: Option<u32>, least| limit.is_some_and(|limit| limit < least);
    match qdisc.kind.as_str() {
        // `struct tc_fifo_qopt`.
        "pfifo" => is_below(u32_at(options, 0), LEAST_PACKETS),
        "bfifo" => is_below(u32_at(options, 0), LEAST_BYTES),
        "fq" => {
            let limits = [numbers::FQ_PLIMIT, numbers::FQ_FLOW_PLIMIT];
            limits.into_iter().any(|limit| is_below(option(limit), LEAST_PACKETS))
                || is_below(option(numbers::FQ_FLOW_MAX_RATE), u32::MAX)
        }
        "fq_codel" => is_below(option(numbers::FQ_CODEL_LIMIT), LEAST_PACKETS),
        other => !PLAIN.contains(&other),
    }
}

/// Queueing disciplines of others on our devices and on ports, and their egress filters.
pub(super) fn traffic_control(
    socket: &mut Socket,
    stop: &dyn Fn() -> bool,
    qdiscs: &[Qdisc],
    links: &BTreeMap<InterfaceName, Link>,
    concerns: impl Fn(&InterfaceName) -> bool,
    foreign: &mut Foreign,
) -> Result<(), KernelError> {
    let names: BTreeMap<u32, InterfaceName> = links.iter().map(|(name, link)| (link.index, *name)).collect();
    for qdisc in qdiscs {
        let Some(name) = names.get(&qdisc.index) else { continue };
        if qdisc.parent == numbers::CLSACT {
            if qdisc.kind == "clsact" {
                check_stop(stop)?;
                let filters = tc::foreign_filters(socket, qdisc.index, numbers::EGRESS)?;
                if !filters.is_empty() {
                    foreign.egress_filters.entry(*name).or_default().extend(filters);
                }
            }
        } else if concerns(name) && !ownership::owns_qdisc(qdisc.handle) {
            if loses(qdisc) {
                let major = qdisc.handle >> 16;
                foreign.qdiscs.entry(*name).or_default().insert(format!("qdisc {} {major:x}:", qdisc.kind));
            } else if qdisc.handle != 0 {
                // Filters that classify packets for its queues may drop them as well.
                check_stop(stop)?;
                let filters = tc::foreign_filters(socket, qdisc.index, qdisc.handle)?;
                if !filters.is_empty() {
                    foreign.egress_filters.entry(*name).or_default().extend(filters);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::put;

    #[test]
    fn an_option_that_is_not_ours_is_seen() {
        let options = |more: &[(u16, &[u8])]| {
            let mut bytes = Vec::new();
            put(&mut bytes, link::VXLAN_ID, &[1, 0, 0, 0]);
            put(&mut bytes, link::VXLAN_TTL, &[0]);
            put(&mut bytes, link::VXLAN_PORT_RANGE, &[0; 4]);
            put(&mut bytes, link::VXLAN_PORT, &4789u16.to_be_bytes());
            for (kind, value) in more {
                put(&mut bytes, *kind, value);
            }
            bytes
        };
        assert!(!is_altered(&options(&[(link::VXLAN_LEARNING, &[0])])));
        for (kind, value) in [
            (link::VXLAN_TTL, &[1u8][..]),
            (link::VXLAN_LEARNING, &[1]),
            (link::VXLAN_GROUP, &[192, 0, 2, 9]),
            (link::VXLAN_LINK, &[7, 0, 0, 0]),
            (link::VXLAN_LIMIT, &[1, 0, 0, 0]),
            (link::VXLAN_GBP, &[]),
            (link::VXLAN_DF, &[1]),
        ] {
            assert!(is_altered(&options(&[(kind, value)])), "{kind}");
        }
        assert_eq!(external(&options(&[(link::VXLAN_COLLECT_METADATA, &[0])])), None);
        assert_eq!(
            external(&options(&[(link::VXLAN_COLLECT_METADATA, &[1])])),
            Some(LinkKind::ExternalVxlan { port: 4789 })
        );
    }

    /// As kernels report programs in the driver, in the kernel and in the hardware, and two of them together. (The lab
    /// has no hardware that takes one.)
    #[test]
    fn programs_are_found_wherever_they_run() {
        let told = |mode: u8, ids: &[(u16, u32)]| {
            let mut bytes = Vec::new();
            put(&mut bytes, link::XDP_ATTACHED, &[mode]);
            for (kind, id) in ids {
                put(&mut bytes, *kind, &id.to_ne_bytes());
            }
            xdp(&bytes)
        };
        assert_eq!(told(0, &[]), None);
        for (mode, kind) in [(1, link::XDP_DRV_PROG_ID), (2, link::XDP_SKB_PROG_ID), (3, link::XDP_HW_PROG_ID)] {
            assert_eq!(told(mode, &[(link::XDP_PROG_ID, 7), (kind, 7)]), Some(7), "{mode}");
        }
        assert_eq!(told(4, &[(link::XDP_DRV_PROG_ID, 8), (link::XDP_HW_PROG_ID, 9)]), Some(8));
        assert_eq!(told(4, &[(link::XDP_HW_PROG_ID, 9)]), Some(9));
        assert_eq!(told(1, &[]), Some(0), "of a kernel that does not tell its id");
    }

    #[test]
    fn queues_that_hold_hardly_any_packets_are_reported() {
        let with = |kind: &str, options: Vec<u8>| {
            loses(&Qdisc {
                index: 3,
                handle: 0x5_0000,
                parent: numbers::ROOT,
                kind: kind.to_owned(),
                options: Some(options),
            })
        };
        let option = |number: u16, value: u32| {
            let mut bytes = Vec::new();
            put(&mut bytes, number, &value.to_ne_bytes());
            bytes
        };
        let fifo = |limit: u32| limit.to_ne_bytes().to_vec();
        assert!(with("pfifo", fifo(0)) && with("pfifo", fifo(9)) && !with("pfifo", fifo(1000)));
        assert!(with("bfifo", fifo(30)) && !with("bfifo", fifo(1 << 20)));
        assert!(
            with("fq", option(numbers::FQ_FLOW_MAX_RATE, 125))
                && !with("fq", option(numbers::FQ_FLOW_MAX_RATE, u32::MAX))
        );
        assert!(with("fq", option(numbers::FQ_PLIMIT, 1)) && with("fq", option(numbers::FQ_FLOW_PLIMIT, 0)));
        assert!(
            with("fq_codel", option(numbers::FQ_CODEL_LIMIT, 1))
                && !with("fq_codel", option(numbers::FQ_CODEL_LIMIT, 10240))
        );
        assert!(with("netem", Vec::new()) && !with("mq", Vec::new()));
    }

    #[test]
    fn the_kernels_own_routes_are_not_reported() {
        let table = ownership::table(7.try_into().unwrap());
        let names = BTreeMap::from([(3, "eth1".parse().unwrap()), (4, "eth0".parse().unwrap())]);
        let ours = BTreeSet::from([3]);
        let told_with = |protocol: u8, kind: u8, table: u32, to: &str, more: &[(u16, &[u8])]| {
            let to: IpNet = to.parse().unwrap();
            let mut bytes = vec![0, to.prefix_len(), 0, 0, 0, protocol, 0, kind, 0, 0, 0, 0];
            crate::kernel::wire::put_address(&mut bytes, route::RTA_DST, to.addr());
            put(&mut bytes, route::RTA_TABLE, &table.to_ne_bytes());
            for (kind, value) in more {
                put(&mut bytes, *kind, value);
            }
            let addresses = ["10.1.0.1/24", "fd00:1::1/64"].map(|net| (3, net.parse().unwrap()));
            let objects = [(8, [3, 4].into()), (9, [4].into())].into();
            let mut routes = Routes::new(&names, objects, &ours, Usual::of(addresses));
            routes.take(&bytes, Family::of(&to));
            routes.finish().0.first().map(ToString::to_string)
        };
        let told = |protocol: u8, kind: u8, table: u32, to: &str, index: u32| {
            told_with(protocol, kind, table, to, &[(route::RTA_OIF, &index.to_ne_bytes())])
        };
        for (kind, to) in [
            (route::RTN_LOCAL, "10.1.0.1/32"),
            (route::RTN_BROADCAST, "10.1.0.0/32"),
            (route::RTN_BROADCAST, "10.1.0.255/32"),
            (route::RTN_LOCAL, "fd00:1::1/128"),
            (route::RTN_ANYCAST, "fd00:1::/128"),
            (route::RTN_MULTICAST, "ff00::/8"),
        ] {
            assert_eq!(told(2, kind, table, to, 3), None, "{to}");
            assert!(told(4, kind, table, to, 3).is_some(), "{to} of another program");
        }
        for (kind, to, index) in [
            (route::RTN_LOCAL, "10.2.0.1/32", 3),
            (route::RTN_LOCAL, "10.1.0.0/24", 3),
            (route::RTN_LOCAL, "10.1.0.1/32", 4),
            (route::RTN_BROADCAST, "10.1.0.7/32", 3),
            (route::RTN_BROADCAST, "10.1.0.0/24", 3),
            (route::RTN_ANYCAST, "fd00:2::/128", 3),
            (route::RTN_MULTICAST, "fd00:2::2/128", 3),
        ] {
            assert!(told(2, kind, table, to, index).is_some(), "{to} is no address of this device");
        }
        assert_eq!(told(2, route::RTN_UNICAST, table, "fe80::/64", 3), None);
        assert_eq!(told(PROTOCOL, route::RTN_UNICAST, table, "10.1.0.0/24", 3), None);
        let mut for_a_source = vec![10, 64, 128, 0, 0, PROTOCOL, 0, route::RTN_UNICAST, 0, 0, 0, 0];
        put(&mut for_a_source, route::RTA_TABLE, &table.to_ne_bytes());
        let mut routes = Routes::new(&names, NexthopObjects::new(), &ours, Usual::default());
        routes.take(&for_a_source, Family::V6);
        assert_eq!(routes.finish().0.len(), 1, "ours are for any source");
        assert_eq!(told(4, route::RTN_UNICAST, 254, "10.1.0.0/24", 4), None, "elsewhere");
        let foreign = told(16, route::RTN_UNICAST, table, "0.0.0.0/0", 4).unwrap();
        assert_eq!(foreign, format!("route 0.0.0.0/0 dev eth0 table {table} proto dhcp"));
        assert!(told(2, route::RTN_UNICAST, table, "10.0.0.0/8", 3).is_some(), "of an address with a wide prefix");
        assert!(told(3, route::RTN_THROW, table, "10.0.0.0/8", 0).is_some());
        assert!(told(3, route::RTN_UNICAST, 254, "10.2.0.0/24", 3).is_some(), "from the host's table to a port");
        // Each of several next hops counts, also through an object, and a route with several is none of the kernel's
        // own.
        let hops = |indexes: &[u32]| {
            let hop = |index: &u32| [&[8, 0, 0, 0], &index.to_ne_bytes()[..]].concat();
            indexes.iter().flat_map(hop).collect::<Vec<u8>>()
        };
        let (both, other) = (hops(&[4, 3]), hops(&[4, 4]));
        let main = |more: &[(u16, &[u8])]| told_with(4, route::RTN_UNICAST, 254, "10.1.0.0/24", more);
        let to_both = Some("route 10.1.0.0/24 dev eth0 dev eth1 table 254 proto static".to_owned());
        assert_eq!(main(&[(route::RTA_MULTIPATH, &both)]), to_both);
        assert_eq!(main(&[(route::RTA_NH_ID, &8u32.to_ne_bytes())]), to_both);
        assert_eq!(main(&[(route::RTA_MULTIPATH, &other)]), None);
        assert_eq!(main(&[(route::RTA_NH_ID, &9u32.to_ne_bytes())]), None);
        assert_eq!(main(&[(route::RTA_MULTIPATH, &both[..15])]), None, "cut off");
        assert_eq!(main(&[(route::RTA_MULTIPATH, &[0; 16])]), None);
        let kernels = |more: (u16, &[u8])| told_with(2, route::RTN_UNICAST, table, "fe80::/64", &[more]);
        assert!(kernels((route::RTA_MULTIPATH, &both)).is_some());
        assert!(kernels((route::RTA_NH_ID, &77u32.to_ne_bytes())).is_some(), "of an object that is not known");
    }
}
