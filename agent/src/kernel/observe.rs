//! Reads the kernel: one list per kind of object, each filtered by the kernel as far as possible.

use super::{
    KernelError, check_stop, egress, foreign,
    links::{Links, links, mac, one_link},
    local, neighbours, rules,
    socket::Socket,
    sysctl, tc,
    uapi::{addr, neighbour, nexthop, route, rtm},
    wire::{address, attributes, put, u8_at, u16_at, u32_at},
};
use crate::{
    dirty_set::{Parts, Share},
    objects::{
        Address, Family, FdbKey, FdbTarget, Firewall, Foreign, ForeignNeighbour, KernelRoute, Link, LinkKind, Mac,
        NeighbourKey, Observed, RouteKey, UnderlayState, Via,
    },
    ownership::{self, DeviceName, PROTOCOL},
};
use cps_peering_config::{
    naming,
    net::{InterfaceName, Vni},
};
use ipnet::IpNet;
use nix::libc;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Everything but packet filters. Reading a million routes or thousands of devices takes a while: it is abandoned once
/// `stop` has become true.
pub(super) fn everything(socket: &mut Socket, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
    let links = links(socket)?;
    check_stop(stop)?;
    let names = names(&links);
    // Routes are read before the next hops that they refer to, so that one made in between is not missed.
    let mut routes = Vec::new();
    let ours = concerned(&links, &names);
    let indexes: BTreeSet<u32> = ours.iter().filter_map(|name| links.get(name)).map(|link| link.index).collect();
    // Addresses are read before the routes that the kernel makes for them.
    let addresses = addresses(socket, None, &names)?;
    let of_devices = addresses.keys().filter(|address| ours.contains(&address.device));
    let of_devices = of_devices.filter_map(|address| Some((links.get(&address.device)?.index, address.net)));
    let usual = foreign::Usual::of(of_devices);
    let mut others = foreign::Routes::new(&names, foreign::nexthop_objects(socket)?, &indexes, usual);
    for family in Family::ALL {
        all_routes(socket, stop, family, &mut routes, &mut others)?;
    }
    // They come in long sorted runs: this sort exploits that.
    routes.sort();
    let (nexthops, foreign_nexthop_ids) = nexthops(socket, None)?;
    let rules = rules::both(socket)?;
    let qdiscs = tc::qdiscs(socket)?;
    let (foreign_routes, more_routes) = others.finish();
    let (neighbours, foreign_neighbours, more_neighbours) = all_neighbours(socket, &names, &ours)?;
    let mut foreign = Foreign {
        routes: foreign_routes,
        more_routes,
        neighbours: foreign_neighbours,
        more_neighbours,
        ..Foreign::default()
    };
    foreign::traffic_control(socket, stop, &qdiscs, &links, |name| ours.contains(name), &mut foreign)?;
    Ok(Observed {
        without_local_route: local::without_local_route(socket, stop, &links, &addresses, &rules)?,
        addresses,
        neighbours,
        fdb: fdb(socket, None, &links, &names)?,
        egress: egress::egress(socket, stop, &qdiscs, &links)?,
        ingress: tc::ingress(socket, stop, &qdiscs, &links)?,
        foreign,
        firewall: Firewall::default(),
        nexthops,
        foreign_nexthop_ids,
        routes,
        rules: rules.plain,
        rules_ahead: rules.ahead,
        rules_into: rules.into,
        underlay: UnderlayState::default(),
        ipv6_forwarding: sysctl::ipv6_forwarding()?,
        arp_ignore: sysctl::arp_ignore(),
        links,
    })
}

/// Devices that are ours by name, and ports: members of a VRF of ours.
fn concerned(links: &Links, names: &BTreeMap<u32, InterfaceName>) -> BTreeSet<InterfaceName> {
    let concerns = |name: &InterfaceName, link: &Link| {
        let vrf = link.master.and_then(|master| names.get(&master));
        [Some(name), vrf].into_iter().flatten().any(|name| DeviceName::parse(name).is_some())
    };
    links.iter().filter(|(name, link)| concerns(name, link)).map(|(name, _)| *name).collect()
}

/// What belongs to some parts: each list is filtered by the kernel, so that the cost is that of the parts. Abandoned
/// once `stop` has become true.
pub(super) fn parts(socket: &mut Socket, parts: &Parts, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
    let mut observed = Observed::default();
    for device in &parts.devices {
        check_stop(stop)?;
        observed.links.extend(one_link(socket, device)?);
    }
    let names = names(&observed.links);
    for (table, share) in &parts.tables {
        for filter in RouteFilter::of(*table, share, &observed.links) {
            for family in Family::ALL {
                routes(socket, stop, family, &filter, &mut observed.routes)?;
            }
        }
    }
    observed.routes.sort();
    observed.routes.dedup();
    for (name, link) in &observed.links {
        let role = DeviceName::parse(name).map(|device| device.role);
        if role == Some(ownership::Role::Vrf) {
            continue;
        }
        check_stop(stop)?;
        let index = Some(link.index);
        if role.is_none() {
            observed.addresses.extend(addresses(socket, index, &names)?);
        } else {
            observed.neighbours.extend(neighbours(socket, link.index, &names)?);
            observed.fdb.extend(fdb(socket, index, &observed.links, &names)?);
            let (ours, foreign) = nexthops(socket, index)?;
            observed.nexthops.extend(ours);
            observed.foreign_nexthop_ids.extend(foreign);
        }
        observed.egress.extend(egress::egress_of(socket, name, link.index)?.map(|egress| (*name, egress)));
        observed.ingress.extend(tc::ingress_of(socket, link.index)?.map(|ingress| (*name, ingress)));
    }
    parts.restrict(&mut observed);
    Ok(observed)
}

fn names(links: &Links) -> BTreeMap<u32, InterfaceName> {
    links.iter().map(|(name, link)| (link.index, *name)).collect()
}

/// Which routes to request from the kernel.
#[derive(Debug, Clone, Copy, Default)]
struct RouteFilter {
    table: Option<u32>,
    device: Option<u32>,
    unreachable: bool,
}

impl RouteFilter {
    /// The filters that find a share of a table: unless it is the whole table, the routes through the parts' devices,
    /// and unreachable ones, which are few.
    fn of(number: u32, share: &Share, links: &Links) -> Vec<RouteFilter> {
        let table = RouteFilter { table: Some(number), ..RouteFilter::default() };
        match share {
            Share::Whole => vec![table],
            Share::Within(_) => {
                // A VRF has routes to another one, for the gateways of a peer on this host, and never to itself.
                let through = links.values().filter(|link| link.kind != LinkKind::Vrf(number));
                let through = through.map(|link| RouteFilter { device: Some(link.index), ..table });
                through.chain([RouteFilter { unreachable: true, ..table }]).collect()
            }
        }
    }
}

/// On one device, or on all.
fn addresses(
    socket: &mut Socket,
    device: Option<u32>,
    names: &BTreeMap<u32, InterfaceName>,
) -> Result<BTreeMap<Address, bool>, KernelError> {
    socket.dump(
        "addresses",
        rtm::GET_ADDRESS,
        |body| {
            body.extend([0; 4]);
            body.extend(device.unwrap_or_default().to_ne_bytes());
        },
        BTreeMap::new,
        |addresses, payload| addresses.extend(read_address(payload, names)),
    )
}

fn read_address(payload: &[u8], names: &BTreeMap<u32, InterfaceName>) -> Option<(Address, bool)> {
    let device = *names.get(&u32_at(payload, 4)?)?;
    let (mut own, mut peer, mut ours) = (None, None, false);
    for (kind, value) in attributes(payload, addr::HEADER_LEN) {
        match kind {
            addr::IFA_LOCAL => own = address(value),
            addr::IFA_ADDRESS => peer = address(value),
            addr::IFA_PROTO => ours = u8_at(value, 0) == Some(PROTOCOL),
            _ => {}
        }
    }
    let net = IpNet::new(own.or(peer)?, u8_at(payload, 1)?).ok()?;
    Some((Address { device, net }, ours))
}

type Neighbours = BTreeMap<NeighbourKey, Mac>;

/// The IPv6 neighbours of one device of ours.
fn neighbours(
    socket: &mut Socket,
    index: u32,
    names: &BTreeMap<u32, InterfaceName>,
) -> Result<Neighbours, KernelError> {
    socket.dump(
        "neighbours",
        rtm::GET_NEIGHBOUR,
        |body| {
            body.push(Family::V6.number());
            body.extend([0; neighbour::HEADER_LEN - 1]);
            put(body, neighbour::NDA_IFINDEX, &index.to_ne_bytes());
        },
        Neighbours::new,
        |neighbours, payload| neighbours.extend(read_neighbour(payload, names)),
    )
}

/// The neighbours of all devices of ours, and those of ports that others have entered: the first of them, and how many
/// more there are. `ours` are devices of ours and ports.
fn all_neighbours(
    socket: &mut Socket,
    names: &BTreeMap<u32, InterfaceName>,
    ours: &BTreeSet<InterfaceName>,
) -> Result<(Neighbours, BTreeSet<ForeignNeighbour>, usize), KernelError> {
    let of_ports =
        |index: u32| names.get(&index).filter(|name| ours.contains(name) && DeviceName::parse(name).is_none());
    let mut found = <(Neighbours, BTreeSet<ForeignNeighbour>, usize)>::default();
    for flags in [0, neighbour::NTF_PROXY] {
        let (neighbours, foreign, more) = socket.dump(
            "neighbours",
            rtm::GET_NEIGHBOUR,
            |body| {
                // Of both families.
                body.extend([0; neighbour::FLAGS_AT]);
                body.extend([flags, 0]);
            },
            <(Neighbours, BTreeSet<ForeignNeighbour>, usize)>::default,
            |(neighbours, foreign, more), payload| {
                neighbours.extend(read_neighbour(payload, names));
                let Some(entered) = neighbours::entered(payload, of_ports) else { return };
                if foreign.len() < Foreign::MAX_NEIGHBOURS {
                    foreign.insert(entered);
                } else {
                    *more += 1;
                }
            },
        )?;
        found.0.extend(neighbours);
        found.1.extend(foreign);
        found.2 += more;
    }
    Ok(found)
}

fn read_neighbour(payload: &[u8], names: &BTreeMap<u32, InterfaceName>) -> Option<(NeighbourKey, Mac)> {
    let device = vxlan_device(u32_at(payload, 4)?, names)?;
    let permanent = u16_at(payload, 8)? == neighbour::NUD_PERMANENT;
    let (mut to, mut at) = (None, None);
    for (kind, value) in attributes(payload, neighbour::HEADER_LEN) {
        match kind {
            neighbour::NDA_DST => to = address(value),
            neighbour::NDA_LLADDR => at = mac(value),
            _ => {}
        }
    }
    match to? {
        IpAddr::V6(address) if permanent => Some((NeighbourKey { device, address }, at?)),
        _ => None,
    }
}

/// The device with this index, if its name is that of a VXLAN device of ours.
fn vxlan_device(index: u32, names: &BTreeMap<u32, InterfaceName>) -> Option<InterfaceName> {
    let name = *names.get(&index)?;
    DeviceName::parse(&name).filter(|device| device.role != ownership::Role::Vrf).map(|_| name)
}

type Fdb = BTreeMap<FdbKey, Option<FdbTarget>>;

fn fdb(
    socket: &mut Socket,
    device: Option<u32>,
    links: &Links,
    names: &BTreeMap<u32, InterfaceName>,
) -> Result<Fdb, KernelError> {
    socket.dump(
        "forwarding entries",
        rtm::GET_NEIGHBOUR,
        |body| {
            body.extend([neighbour::AF_BRIDGE, 0, 0, 0]);
            body.extend(device.unwrap_or_default().to_ne_bytes());
            body.extend([0; neighbour::HEADER_LEN - 8]);
        },
        Fdb::new,
        |fdb, payload| {
            if let Some((key, target)) = read_fdb(payload, links, names) {
                // A second destination for the same Ethernet address is never ours.
                fdb.entry(key).and_modify(|known| *known = None).or_insert(target);
            }
        },
    )
}

fn read_fdb(
    payload: &[u8],
    links: &Links,
    names: &BTreeMap<u32, InterfaceName>,
) -> Option<(FdbKey, Option<FdbTarget>)> {
    let device = vxlan_device(u32_at(payload, 4)?, names)?;
    let LinkKind::Vxlan { tunnel: Some(tunnel), .. } = links.get(&device)?.kind else { return None };
    let mut usual = u16_at(payload, 8)? == neighbour::NUD_PERMANENT;
    // The kernel reports a VNI only if it is not the device's own.
    let (mut at, mut vtep, mut vni) = (None, None, Some(tunnel.vni));
    for (kind, value) in attributes(payload, neighbour::HEADER_LEN) {
        match kind {
            neighbour::NDA_LLADDR => at = mac(value),
            neighbour::NDA_DST => vtep = address(value),
            neighbour::NDA_VNI => vni = u32_at(value, 0).and_then(|number| Vni::try_from(number).ok()),
            neighbour::NDA_PORT | neighbour::NDA_IFINDEX => usual = false,
            _ => {}
        }
    }
    let target = vtep.zip(vni).filter(|_| usual).map(|(vtep, vni)| FdbTarget { vtep, vni });
    Some((FdbKey { device, mac: at? }, target))
}

type Nexthops = (BTreeMap<u32, (u32, Ipv6Addr)>, BTreeSet<u32>);

/// Next hops of ours, and the ids of others'.
fn nexthops(socket: &mut Socket, device: Option<u32>) -> Result<Nexthops, KernelError> {
    socket.dump(
        "next hops",
        rtm::GET_NEXTHOP,
        |body| {
            body.extend([0; nexthop::HEADER_LEN]);
            if let Some(index) = device {
                put(body, nexthop::NHA_OIF, &index.to_ne_bytes());
            }
        },
        Nexthops::default,
        |(ours, foreign), payload| {
            let Some((id, protocol, place)) = read_nexthop(payload) else { return };
            if ownership::owns_nexthop(id, protocol) {
                ours.insert(id, place);
            } else {
                foreign.insert(id);
            }
        },
    )
}

/// Id, protocol, and device index with gateway.
fn read_nexthop(payload: &[u8]) -> Option<(u32, u8, (u32, Ipv6Addr))> {
    let (mut id, mut index, mut gateway, mut altered) = (None, None, None, false);
    for (kind, value) in attributes(payload, nexthop::HEADER_LEN) {
        match kind {
            nexthop::NHA_ID => id = u32_at(value, 0),
            nexthop::NHA_OIF => index = u32_at(value, 0),
            nexthop::NHA_GATEWAY => gateway = address(value),
            nexthop::NHA_ENCAP_TYPE => altered = true,
            _ => {}
        }
    }
    // One of ours that was changed by hand counts as one whose device is gone, and is removed.
    let gateway = match gateway {
        Some(IpAddr::V6(gateway)) if !altered => gateway,
        _ => Ipv6Addr::UNSPECIFIED,
    };
    Some((id?, u8_at(payload, 2)?, (index.unwrap_or_default(), gateway)))
}

/// Adds the routes of ours that a filter finds.
fn routes(
    socket: &mut Socket,
    stop: &dyn Fn() -> bool,
    family: Family,
    filter: &RouteFilter,
    into: &mut Vec<KernelRoute>,
) -> Result<(), KernelError> {
    // A list that changed meanwhile is read again; what was there before stays.
    let before = into.len();
    let into = RefCell::new(into);
    let found = socket.dump_unless(
        stop,
        "routes",
        rtm::GET_ROUTE,
        |body| {
            let kind = if filter.unreachable { route::RTN_UNREACHABLE } else { 0 };
            body.extend([family.number(), 0, 0, 0, 0, PROTOCOL, 0, kind]);
            body.extend([0; route::HEADER_LEN - 8]);
            if let Some(table) = filter.table {
                put(body, route::RTA_TABLE, &table.to_ne_bytes());
            }
            if let Some(index) = filter.device {
                put(body, route::RTA_OIF, &index.to_ne_bytes());
            }
        },
        || into.borrow_mut().truncate(before),
        |(), payload| into.borrow_mut().extend(read_route(payload, family)),
    );
    match found {
        // A table is created with its first route.
        Err(KernelError::Refused { refusal, .. }) if refusal.errno == libc::ENOENT => Ok(()),
        other => other,
    }
}

/// Adds all routes of ours, and those of others that concern us. One list serves both: a filter by protocol or by table
/// would make the kernel walk everything each time.
fn all_routes(
    socket: &mut Socket,
    stop: &dyn Fn() -> bool,
    family: Family,
    into: &mut Vec<KernelRoute>,
    others: &mut foreign::Routes<'_>,
) -> Result<(), KernelError> {
    let before = (into.len(), others.len());
    let into = RefCell::new((into, others));
    socket.dump_unless(
        stop,
        "routes",
        rtm::GET_ROUTE,
        |body| {
            body.push(family.number());
            body.extend([0; route::HEADER_LEN - 1]);
        },
        || {
            let (into, others) = &mut *into.borrow_mut();
            into.truncate(before.0);
            others.truncate(before.1);
        },
        |(), payload| {
            let (into, others) = &mut *into.borrow_mut();
            match read_route(payload, family) {
                Some(route) => into.push(route),
                None => others.take(payload, family),
            }
        },
    )
}

/// A route of ours.
fn read_route(payload: &[u8], family: Family) -> Option<KernelRoute> {
    let (table, protocol, kind) = (u8_at(payload, 4)?, u8_at(payload, 5)?, u8_at(payload, 7)?);
    // Ours are for any source.
    if protocol != PROTOCOL || u8_at(payload, 2)? > 0 {
        return None;
    }
    let mut table = u32::from(table);
    let mut destination = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut metric, mut device, mut nexthop, mut more, mut mtu) = (0, None, None, false, 0);
    let mut altered = false;
    for (kind, value) in attributes(payload, route::HEADER_LEN) {
        match kind {
            route::RTA_DST => destination = address(value)?,
            route::RTA_TABLE => table = u32_at(value, 0)?,
            route::RTA_METRICS => {
                for (kind, value) in attributes(value, 0) {
                    match kind {
                        // For IPv6 the metric is the device's.
                        route::RTAX_MTU if family == Family::V4 => mtu = u32_at(value, 0).unwrap_or(u32::MAX),
                        // Then it applies instead of the device's, for forwarded packets as well.
                        route::RTAX_LOCK => altered = true,
                        _ => {}
                    }
                }
            }
            // `struct rta_cacheinfo`: once it has expired, the kernel reports a route and ignores it.
            route::RTA_CACHEINFO => altered |= u32_at(value, 8).is_some_and(|expires| expires != 0),
            route::RTA_PRIORITY => metric = u32_at(value, 0)?,
            route::RTA_OIF => device = u32_at(value, 0),
            route::RTA_NH_ID => nexthop = u32_at(value, 0),
            route::RTA_GATEWAY | route::RTA_VIA | route::RTA_MULTIPATH | route::RTA_ENCAP_TYPE => more = true,
            _ => {}
        }
    }
    ownership::table_vni(table)?;
    let via = match (kind, nexthop, device) {
        _ if altered => Via::Other,
        (route::RTN_UNREACHABLE, ..) => Via::Unreachable,
        (route::RTN_UNICAST, Some(id), _) => Via::Nexthop(id),
        (route::RTN_UNICAST, None, Some(index)) if !more => Via::Device(index),
        _ => Via::Other,
    };
    let prefix = IpNet::new(destination, u8_at(payload, 1)?).ok()?;
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    Some(KernelRoute { key: RouteKey { table, prefix, metric }, tos: u8_at(payload, 3)?, via, mtu })
}

/// Whether an IPv6 neighbour or Ethernet address has the form that we make for other hosts.
pub(super) fn looks_like_a_host(gateway: Ipv6Addr) -> bool {
    let segments = gateway.segments();
    segments[..5] == [0xfe80, 0, 0, 0, 0] && naming::HOST_PREFIXES.contains(&segments[5])
}
