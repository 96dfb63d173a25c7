//! Reads the kernel: one list per kind of object, each filtered by the kernel as far as it can.

use super::{
    KernelError, egress, foreign, local, rules,
    socket::Socket,
    sysctl, tc,
    uapi::{addr, link, neighbour, nexthop, route, rtm},
    wire::{address, attributes, i32_at, put, text, u8_at, u16_at, u32_at},
};
use crate::{
    dirty_set::{Parts, Share},
    filter::Vlan,
    objects::{
        Address, DeviceSetting, Family, FdbKey, FdbTarget, Firewall, Foreign, KernelRoute, Link, LinkKind, Mac,
        NeighbourKey, Observed, RouteKey, Tunnel, UnderlayState, Via,
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

/// All of it but packet filters. A look at a million routes or thousands of devices takes a while: it is given up when `stop` has
/// become true.
pub(super) fn everything(socket: &mut Socket, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
    let links = links(socket)?;
    go_on(stop)?;
    let names = names(&links);
    // Routes are read before the next hops that they name, so that one made in between is not missed.
    let mut routes = Vec::new();
    let ours = concerned(&links, &names);
    let indexes: BTreeSet<u32> = ours.iter().filter_map(|name| links.get(name)).map(|link| link.index).collect();
    let mut others = foreign::Routes::new(&names, &indexes);
    for family in Family::ALL {
        all_routes(socket, stop, family, &mut routes, &mut others)?;
    }
    // They come in long runs that are in order already: this sort finds those.
    routes.sort();
    let (nexthops, foreign_nexthop_ids) = nexthops(socket, None)?;
    let mut rules = rules::rules(socket, Family::V4)?;
    let six = rules::rules(socket, Family::V6)?;
    rules.plain.extend(six.plain);
    rules.plain.sort_unstable();
    rules.ahead.extend(six.ahead);
    let addresses = addresses(socket, None, &names)?;
    let qdiscs = tc::qdiscs(socket)?;
    let (foreign_routes, more_routes) = others.finish();
    let mut foreign = Foreign { routes: foreign_routes, more_routes, ..Foreign::default() };
    foreign::traffic_control(socket, stop, &qdiscs, &links, |name| ours.contains(name), &mut foreign)?;
    Ok(Observed {
        unheard: local::unheard(socket, stop, &links, &addresses, &rules)?,
        addresses,
        neighbours: neighbours(socket, None, &names)?,
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
        underlay: UnderlayState::default(),
        ipv6_forwarding: sysctl::ipv6_forwarding()?,
        links,
    })
}

/// Gives up a look that is made of many questions, between two of them.
pub(super) fn go_on(stop: &dyn Fn() -> bool) -> Result<(), KernelError> {
    if stop() { Err(KernelError::Abandoned) } else { Ok(()) }
}

/// Devices that are ours by name, and ports: whatever is in a VRF of ours.
fn concerned(links: &Links, names: &BTreeMap<u32, InterfaceName>) -> BTreeSet<InterfaceName> {
    let concerns = |name: &InterfaceName, link: &Link| {
        let vrf = link.master.and_then(|master| names.get(&master));
        [Some(name), vrf].into_iter().flatten().any(|name| DeviceName::parse(name).is_some())
    };
    links.iter().filter(|(name, link)| concerns(name, link)).map(|(name, _)| *name).collect()
}

/// What belongs to some parts: each list is filtered by the kernel, so that it costs what the parts have.
pub(super) fn parts(socket: &mut Socket, parts: &Parts) -> Result<Observed, KernelError> {
    let mut observed = Observed::default();
    for device in &parts.devices {
        observed.links.extend(one_link(socket, device)?);
    }
    let names = names(&observed.links);
    for (table, share) in &parts.tables {
        for filter in RouteFilter::of(*table, share, &observed.links) {
            for family in Family::ALL {
                routes(socket, &|| false, family, &filter, &mut observed.routes)?;
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
        let index = Some(link.index);
        if role.is_none() {
            observed.addresses.extend(addresses(socket, index, &names)?);
        } else {
            observed.neighbours.extend(neighbours(socket, index, &names)?);
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

/// Which routes the kernel is asked for.
#[derive(Debug, Clone, Copy, Default)]
struct RouteFilter {
    table: Option<u32>,
    device: Option<u32>,
    unreachable: bool,
}

impl RouteFilter {
    /// What finds a share of a table: where it is not the whole, the routes through the parts' devices, and those to
    /// nowhere, which are few.
    fn of(table: u32, share: &Share, links: &Links) -> Vec<RouteFilter> {
        let table = RouteFilter { table: Some(table), ..RouteFilter::default() };
        match share {
            Share::Whole => vec![table],
            Share::Within(_) => {
                // None of ours leads to a VRF.
                let through = links.values().filter(|link| !matches!(link.kind, LinkKind::Vrf(_)));
                let through = through.map(|link| RouteFilter { device: Some(link.index), ..table });
                through.chain([RouteFilter { unreachable: true, ..table }]).collect()
            }
        }
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

pub(super) type Links = BTreeMap<InterfaceName, Link>;

/// One device, if it is there.
fn one_link(socket: &mut Socket, name: &InterfaceName) -> Result<Option<(InterfaceName, Link)>, KernelError> {
    let found = socket.get(rtm::GET_LINK, |body| {
        body.extend([0; link::HEADER_LEN]);
        put(body, link::IFLA_IFNAME, format!("{name}\0").as_bytes());
        put(body, link::IFLA_EXT_MASK, &link::RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    })?;
    match found {
        Ok(payload) => Ok(read_link(&payload)),
        Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
        Err(refusal) => Err(KernelError::Refused { what: "devices", refusal }),
    }
}

pub(super) fn links(socket: &mut Socket) -> Result<Links, KernelError> {
    socket.dump(
        "devices",
        rtm::GET_LINK,
        |body| {
            body.extend([0; link::HEADER_LEN]);
            put(body, link::IFLA_EXT_MASK, &link::RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        },
        Links::new,
        |links, payload| links.extend(read_link(payload)),
    )
}

/// A device; none if its name could be neither ours nor a port's.
pub(super) fn read_link(payload: &[u8]) -> Option<(InterfaceName, Link)> {
    let kind = u16_at(payload, 2)?;
    let mut name = None;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        kind: match kind {
            link::ARPHRD_LOOPBACK => LinkKind::Loopback,
            link::ARPHRD_ETHER => LinkKind::Other,
            _ => LinkKind::NotEthernet,
        },
        mac: None,
        mtu: 0,
        up: u32_at(payload, 8)? & link::IFF_UP != 0,
        carrier: u32_at(payload, 8)? & link::IFF_LOWER_UP != 0,
        master: None,
        group: 0,
        alias: None,
        arp: u32_at(payload, 8)? & link::IFF_NOARP == 0,
        protodown: false,
        xdp: None,
        generates_link_local: true,
        may_be_renamed: false,
        vlan: None,
        settings: BTreeMap::new(),
    };
    // The kernel tells the device below after what it is.
    let (mut parent, mut vlan) = (None, None);
    for (kind, value) in attributes(payload, link::HEADER_LEN) {
        match kind {
            link::IFLA_IFNAME => name = text(value)?.parse().ok(),
            link::IFLA_ADDRESS => link.mac = mac(value),
            link::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            link::IFLA_MASTER => link.master = u32_at(value, 0),
            link::IFLA_GROUP => link.group = u32_at(value, 0)?,
            link::IFLA_IFALIAS => link.alias = text(value).map(ToOwned::to_owned),
            link::IFLA_LINK => parent = u32_at(value, 0),
            link::IFLA_LINKINFO => {
                link.kind = read_kind(value).unwrap_or(link.kind);
                vlan = read_vlan(value);
            }
            link::IFLA_PROTO_DOWN => link.protodown = u8_at(value, 0) == Some(1),
            link::IFLA_XDP => link.xdp = foreign::xdp(value),
            link::IFLA_AF_SPEC => read_families(value, &mut link),
            _ => {}
        }
    }
    link.vlan = parent.zip(vlan);
    Some((name?, link))
}

fn read_kind(info: &[u8]) -> Option<LinkKind> {
    let kind = attributes(info, 0).find(|(kind, _)| *kind == link::INFO_KIND).and_then(|(_, value)| text(value))?;
    let data = attributes(info, 0).find(|(kind, _)| *kind == link::INFO_DATA).map(|(_, value)| value);
    let find =
        |wanted| attributes(data.unwrap_or_default(), 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    match kind {
        "vrf" => find(link::VRF_TABLE).and_then(|value| u32_at(value, 0)).map(LinkKind::Vrf),
        "vxlan" => {
            let vni = find(link::VXLAN_ID).and_then(|value| Vni::try_from(u32_at(value, 0)?).ok());
            let port = find(link::VXLAN_PORT).and_then(|value| u16_at(value, 0)).map(u16::from_be);
            let local = find(link::VXLAN_LOCAL).or_else(|| find(link::VXLAN_LOCAL6)).and_then(address);
            let local = local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            // A kernel that does not tell whether it learns has one that does.
            let altered = find(link::VXLAN_LEARNING).is_none() || foreign::is_altered(data.unwrap_or_default());
            let tunnel = vni.zip(port).map(|(vni, port)| Tunnel { vni, port, local });
            foreign::external(data.unwrap_or_default()).or(Some(LinkKind::Vxlan { tunnel, altered }))
        }
        "bridge" | "bond" | "team" => Some(LinkKind::Aggregate),
        _ => None,
    }
}

/// The VLAN of a device for one.
fn read_vlan(info: &[u8]) -> Option<Vlan> {
    let find = |bytes, wanted| attributes(bytes, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(info, link::INFO_KIND)?) != Some("vlan") {
        return None;
    }
    let data = find(info, link::INFO_DATA)?;
    let tpid = find(data, link::VLAN_PROTOCOL).and_then(|value| u16_at(value, 0))?;
    Some(Vlan { tpid: u16::from_be(tpid), id: u16_at(find(data, link::VLAN_ID)?, 0)? })
}

/// Settings below `net/ipv4/conf` are counted from 1, those below `net/ipv6/conf` from 0 (`ip.h`, `ipv6.h`).
fn read_families(families: &[u8], link: &mut Link) {
    let mut set = |setting, value: Option<i32>| link.settings.extend(value.map(|value| (setting, value)));
    for (family, value) in attributes(families, 0) {
        for (kind, value) in attributes(value, 0) {
            match (family, kind) {
                (link::AF_INET, link::INET_CONF) => {
                    set(DeviceSetting::Ipv4Forwarding, i32_at(value, 0));
                    set(DeviceSetting::Ipv4AcceptRedirects, i32_at(value, 3 * 4));
                    set(DeviceSetting::Ipv4SendRedirects, i32_at(value, 5 * 4));
                    set(DeviceSetting::Ipv4RpFilter, i32_at(value, 7 * 4));
                }
                (link::AF_INET6, link::INET6_CONF) => {
                    set(DeviceSetting::Ipv6AcceptRa, i32_at(value, 3 * 4));
                    set(DeviceSetting::Ipv6AcceptRedirects, i32_at(value, 4 * 4));
                    set(DeviceSetting::Ipv6Disable, i32_at(value, 26 * 4));
                    set(DeviceSetting::Ipv6AcceptDad, i32_at(value, 27 * 4));
                }
                (link::AF_INET6, link::INET6_ADDR_GEN_MODE) => {
                    link.generates_link_local = u8_at(value, 0) != Some(link::ADDR_GEN_MODE_NONE);
                }
                _ => {}
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

fn neighbours(
    socket: &mut Socket,
    device: Option<u32>,
    names: &BTreeMap<u32, InterfaceName>,
) -> Result<BTreeMap<NeighbourKey, Mac>, KernelError> {
    socket.dump(
        "neighbours",
        rtm::GET_NEIGHBOUR,
        |body| {
            body.push(Family::V6.number());
            body.extend([0; neighbour::HEADER_LEN - 1]);
            if let Some(index) = device {
                put(body, neighbour::NDA_IFINDEX, &index.to_ne_bytes());
            }
        },
        BTreeMap::new,
        |neighbours, payload| neighbours.extend(read_neighbour(payload, names)),
    )
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
                // A second destination of the same Ethernet address is never ours.
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
    // The kernel tells a VNI only where it is not the device's own.
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
    let (mut id, mut index, mut gateway) = (None, None, None);
    for (kind, value) in attributes(payload, nexthop::HEADER_LEN) {
        match kind {
            nexthop::NHA_ID => id = u32_at(value, 0),
            nexthop::NHA_OIF => index = u32_at(value, 0),
            nexthop::NHA_GATEWAY => gateway = address(value),
            _ => {}
        }
    }
    // One of ours that was made into something else by hand counts as one whose device is gone, and is removed.
    let gateway = match gateway {
        Some(IpAddr::V6(gateway)) => gateway,
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
        // A table comes with its first route.
        Err(KernelError::Refused { refusal, .. }) if refusal.errno == libc::ENOENT => Ok(()),
        other => other,
    }
}

/// Adds all routes of ours, and those of others that concern us. One list tells both: asked for by protocol and by table, the
/// kernel would walk everything as often.
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
    if protocol != PROTOCOL {
        return None;
    }
    let mut table = u32::from(table);
    let mut destination = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut metric, mut device, mut nexthop, mut more) = (0, None, None, false);
    for (kind, value) in attributes(payload, route::HEADER_LEN) {
        match kind {
            route::RTA_DST => destination = address(value)?,
            route::RTA_TABLE => table = u32_at(value, 0)?,
            route::RTA_PRIORITY => metric = u32_at(value, 0)?,
            route::RTA_OIF => device = u32_at(value, 0),
            route::RTA_NH_ID => nexthop = u32_at(value, 0),
            route::RTA_GATEWAY | route::RTA_VIA | route::RTA_MULTIPATH | route::RTA_ENCAP_TYPE => more = true,
            _ => {}
        }
    }
    ownership::table_vni(table)?;
    let via = match (kind, nexthop, device) {
        (route::RTN_UNREACHABLE, ..) => Via::Unreachable,
        (route::RTN_UNICAST, Some(id), _) => Via::Nexthop(id),
        (route::RTN_UNICAST, None, Some(index)) if !more => Via::Device(index),
        _ => Via::Other,
    };
    let prefix = IpNet::new(destination, u8_at(payload, 1)?).ok()?;
    Some(KernelRoute { key: RouteKey { table, prefix, metric }, tos: u8_at(payload, 3)?, via })
}

/// Whether an IPv6 neighbour or Ethernet address is of the kind that we make for other hosts.
pub(super) fn looks_like_a_host(gateway: Ipv6Addr) -> bool {
    let segments = gateway.segments();
    segments[..5] == [0xfe80, 0, 0, 0, 0] && naming::HOST_PREFIXES.contains(&segments[5])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::put;

    /// A device as a kernel of the future may tell of it.
    fn device(more: impl FnOnce(&mut Vec<u8>)) -> Option<(InterfaceName, Link)> {
        let mut payload = vec![0; link::HEADER_LEN];
        payload[2..4].copy_from_slice(&link::ARPHRD_ETHER.to_ne_bytes());
        payload[4..8].copy_from_slice(&9u32.to_ne_bytes());
        put(&mut payload, link::IFLA_IFNAME, b"cpspeer7\0");
        put(&mut payload, link::IFLA_GROUP, &ownership::GROUP.to_ne_bytes());
        more(&mut payload);
        read_link(&payload)
    }

    #[test]
    fn a_device_with_an_unknown_attribute_is_not_hidden() {
        let (name, link) = device(|payload| put(payload, 0x3ffe, &[1, 2, 3])).unwrap();
        assert_eq!((name.as_str(), link.index, link.group), ("cpspeer7", 9, ownership::GROUP));
    }

    /// Writes a part of a message.
    type Put<'a> = &'a dyn Fn(&mut Vec<u8>);

    #[test]
    fn a_vlan_is_known_whatever_comes_first() {
        let below = |payload: &mut Vec<u8>| put(payload, link::IFLA_LINK, &3u32.to_ne_bytes());
        let info = |payload: &mut Vec<u8>| {
            let (mut info, mut data) = (Vec::new(), Vec::new());
            put(&mut data, link::VLAN_ID, &7u16.to_ne_bytes());
            put(&mut data, link::VLAN_PROTOCOL, &0x8100u16.to_be_bytes());
            put(&mut info, link::INFO_KIND, b"vlan\0");
            put(&mut info, link::INFO_DATA, &data);
            put(payload, link::IFLA_LINKINFO, &info);
        };
        let orders: [[Put<'_>; 2]; 2] = [[&below, &info], [&info, &below]];
        for order in orders {
            let (_, link) = device(|payload| order.iter().for_each(|put| put(payload))).unwrap();
            assert_eq!(link.vlan, Some((3, Vlan { tpid: 0x8100, id: 7 })));
        }
    }

    #[test]
    fn a_device_of_an_unknown_kind_is_there_and_is_not_ours() {
        let kinds: [&[u8]; 3] = [b"vxlan-ng\0", b"vxlan\0", &[0xff, 0xfe, 0]];
        for kind in kinds {
            let (name, link) = device(|payload| {
                let mut info = Vec::new();
                put(&mut info, link::INFO_KIND, kind);
                put(&mut info, link::INFO_DATA, &[4, 0, 0xfe, 0x3f]);
                put(payload, link::IFLA_LINKINFO, &info);
            })
            .unwrap();
            let observed = Observed { links: [(name, link)].into(), ..Observed::default() };
            assert!(observed.links.contains_key(&name) && !observed.owns(&name), "{kind:?}");
        }
    }
}
