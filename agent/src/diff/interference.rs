//! Objects of other programs in the path of VPC packets that stop, change or divert them.
//!
//! They are left as they are and reported: a host on which a packet does not take the configured path is not in sync,
//! even if everything of ours is right.

use super::{Interference, InterferenceKind, firewall, survey::Survey};
use crate::{
    compile::IPV6_MIN_MTU,
    objects::{Address, DesiredRoute, Effect, Fate, ForeignRoute, Link, NeighbourEntry, RouteTo, is_link_local},
    ownership,
};
use cps_peering_config::net::{InterfaceName, within};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn find(survey: &Survey<'_>) -> Vec<Interference> {
    // Also of a part: no operation is planned, and refused, in its place.
    let mut found: Vec<Interference> =
        survey.desired.ports.keys().filter_map(|port| too_small(survey, *port)).collect();
    if survey.desired.partial {
        return found;
    }
    routes(survey, &mut found);
    addresses(survey, &mut found);
    neighbours(survey, &mut found);
    firewall::find(survey, &mut found);
    stacked(survey, &mut found);
    found.extend(arp_ignored(survey));
    for (name, link, port) in devices(survey) {
        attributes(*name, link, port, &mut found);
        filters(survey, name, &mut found);
        for qdisc in survey.observed.foreign.qdiscs.get(name).into_iter().flatten() {
            // Where there is a limit, our shaper replaces whatever is there.
            if !survey.desired.shapers.contains_key(name) {
                let reason = "delays or loses packets, and is not ours: remove it".to_owned();
                let object = format!("{qdisc} dev {name}");
                found.push(Interference { kind: InterferenceKind::Qdisc, ..may_drop(Some(*name), object, reason) });
            }
        }
    }
    found
}

fn may_drop(device: Option<InterfaceName>, object: String, reason: String) -> Interference {
    Interference { device, kind: InterferenceKind::Route, effect: Effect::MayDrop, object, reason }
}

/// Our devices and the ports that are in our VRFs, each with whether it is a port.
fn devices<'a>(survey: &Survey<'a>) -> impl Iterator<Item = (&'a InterfaceName, &'a Link, bool)> {
    survey.observed.links.iter().filter_map(|(name, link)| {
        let port = survey.desired.ports.contains_key(name) && survey.vrf_of(link).is_some();
        (port || survey.observed.owns(name)).then_some((name, link, port))
    })
}

fn concerned(survey: &Survey<'_>) -> BTreeSet<InterfaceName> {
    devices(survey).map(|(name, ..)| *name).collect()
}

fn routes(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let vrfs: BTreeMap<u32, InterfaceName> =
        survey.desired.vrfs.iter().map(|(name, device)| (device.table, *name)).collect();
    let foreign = &survey.observed.foreign;
    let concerned = concerned(survey);
    let dropping = foreign.routes.iter().filter(|route| route.fate == Fate::Dropped && vrfs.contains_key(&route.table));
    let dropping = in_front_of_ours(survey, &dropping.collect::<Vec<_>>());
    for route in &foreign.routes {
        let (device, reason) = match (vrfs.get(&route.table), &route.fate) {
            (None, _) if ownership::table_vni(route.table).is_some() => continue,
            (None, Fate::Sent(devices)) => {
                let ours = devices.iter().find(|device| concerned.contains(*device)).or(devices.first());
                let to = ours.map_or_else(|| "a device of ours".to_owned(), ToString::to_string);
                (ours.copied(), format!("routes packets from outside to {to}: remove it"))
            }
            (None, _) => continue,
            (Some(_), Fate::Dropped) if !dropping.contains(&route) => continue,
            (Some(vrf), Fate::Dropped) => (Some(*vrf), format!("drops packets that {vrf} should forward: remove it")),
            (Some(vrf), Fate::Sent(devices)) if devices.len() == 1 => {
                let device = devices.first().map_or_else(String::new, ToString::to_string);
                (Some(*vrf), format!("routes packets of {vrf} to {device}: {KEEP_AWAY}"))
            }
            (Some(vrf), Fate::Sent(_) | Fate::Unknown(_)) => {
                (Some(*vrf), format!("routes packets of {vrf} elsewhere: {KEEP_AWAY}"))
            }
            (Some(vrf), Fate::Local) => (Some(*vrf), format!("delivers packets of {vrf} to the host: {KEEP_AWAY}")),
            (Some(vrf), Fate::Thrown) => {
                (Some(*vrf), format!("sends packets of {vrf} to the host's own tables: {KEEP_AWAY}"))
            }
        };
        found.push(may_drop(device, route.to_string(), reason));
    }
    if foreign.more_routes > 0 {
        let reason = format!("are in tables of ours or lead to our devices, and are not ours: {KEEP_AWAY}");
        found.push(may_drop(None, format!("{} more routes", foreign.more_routes), reason));
    }
}

const KEEP_AWAY: &str = "remove it, and keep the program that created it away from the agent's tables";

/// Which dropping routes take precedence over a route of ours that forwards.
fn in_front_of_ours<'a>(survey: &Survey<'_>, dropping: &[&'a ForeignRoute]) -> BTreeSet<&'a ForeignRoute> {
    if dropping.is_empty() {
        return BTreeSet::new();
    }
    let mut in_front = BTreeSet::new();
    let leads = survey.desired.routes().filter(|route| route.to != RouteTo::Unreachable);
    for ours in leads {
        let before = |route: &&&ForeignRoute| {
            route.table == ours.key.table
                && within(&route.prefix, &ours.key.prefix)
                && (route.prefix != ours.key.prefix || route.metric <= ours.key.metric)
        };
        in_front.extend(dropping.iter().filter(before).copied());
    }
    in_front
}

fn addresses(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let concerned = concerned(survey);
    let foreign = survey.observed.addresses.iter().filter(|(address, ours)| {
        !**ours
            && !is_link_local(&address.net)
            && !survey.desired.addresses.contains(*address)
            && concerned.contains(&address.device)
    });
    for (address, _) in foreign {
        let reason = "the host answers for it, and its network is routed to this device: remove it".to_owned();
        let object = format!("address {} dev {}", address.net, address.device);
        let kind = InterferenceKind::Address;
        found.push(Interference { kind, ..may_drop(Some(address.device), object, reason) });
    }
}

fn neighbours(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let foreign = &survey.observed.foreign;
    let concerned = concerned(survey);
    let kind = InterferenceKind::Neighbour;
    for neighbour in foreign.neighbours.iter().filter(|neighbour| concerned.contains(&neighbour.device)) {
        let does = match neighbour.entry {
            NeighbourEntry::Fixed(_) => "sends packets for it to a fixed Ethernet address, whichever server has it",
            NeighbourEntry::Proxy => "answers in place of the server that has it",
        };
        let (device, reason) = (Some(neighbour.device), format!("{does}: remove it"));
        found.push(Interference { kind, ..may_drop(device, neighbour.to_string(), reason) });
    }
    if foreign.more_neighbours > 0 {
        let object = format!("{} more neighbours", foreign.more_neighbours);
        let reason = "are entered by hand on ports: remove them".to_owned();
        found.push(Interference { kind, ..may_drop(None, object, reason) });
    }
}

/// Attributes that stop packets or pass them to another program first. On our own devices the rest is repaired.
fn attributes(name: InterfaceName, link: &Link, port: bool, found: &mut Vec<Interference>) {
    let mut report = |kind: InterferenceKind, effect: Effect, object: String, reason: &str| {
        found.push(Interference { device: Some(name), kind, effect, object, reason: reason.to_owned() });
    };
    if let Some(program) = link.xdp {
        let reason = "sees every packet first, and is not ours: detach it";
        report(InterferenceKind::Xdp, Effect::MayDrop, format!("XDP program {program} dev {name}"), reason);
    }
    if port && link.protodown {
        let reason = "keeps the port down: ip link set DEVICE protodown off";
        report(InterferenceKind::Protodown, Effect::DropsAll, format!("protodown dev {name}"), reason);
    }
    if port && !link.arp && link.mac.is_some() {
        let reason = "keeps the port from resolving neighbours: ip link set DEVICE arp on";
        report(InterferenceKind::NoArp, Effect::DropsAll, format!("noarp dev {name}"), reason);
    }
}

/// A port without IPv6 that should have it.
fn too_small(survey: &Survey<'_>, port: InterfaceName) -> Option<Interference> {
    let mtu = survey.kept(&port).filter(|_| survey.is_too_small_for_ipv6(&port))?.mtu;
    let is_ipv6 = |route: &DesiredRoute| route.to == RouteTo::Device(port) && matches!(route.key.prefix, IpNet::V6(_));
    let first = Address { device: port, net: IpNet::V4(Ipv4Net::default()) };
    let mut own = survey.desired.addresses.range(first..).take_while(|address| address.device == port);
    let needed = own.any(|address| address.net.addr().is_ipv6()) || survey.desired.local.iter().any(is_ipv6);
    let reason =
        format!("is less than the {IPV6_MIN_MTU} bytes of IPv6, which the kernel switches off there: increase it");
    let (kind, object) = (InterferenceKind::Mtu, format!("MTU {mtu} of {port}"));
    needed.then(|| Interference { kind, ..may_drop(Some(port), object, reason) })
}

/// A value of `net.ipv4.conf.all.arp_ignore` that keeps servers from resolving their gateway. The setting is host-wide and
/// may be needed elsewhere, so it is reported and not changed.
fn arp_ignored(survey: &Survey<'_>) -> Option<Interference> {
    const OTHER_SUBNETS: i32 = 2;
    const ALL: i32 = 8;
    let value = survey.observed.arp_ignore;
    let gateways = |port: &InterfaceName| {
        let first = Address { device: *port, net: IpNet::V4(Ipv4Net::default()) };
        let own = survey.desired.addresses.range(first..);
        own.take_while(move |address| address.device == first.device && address.net.addr().is_ipv4())
    };
    let has_gateway = |port: &InterfaceName| gateways(port).next().is_some();
    let is_outside = |route: &DesiredRoute| match (route.to, route.key.prefix) {
        (RouteTo::Device(port), IpNet::V4(_)) if survey.desired.ports.contains_key(&port) => {
            has_gateway(&port) && !gateways(&port).any(|gateway| within(&route.key.prefix, &gateway.net.trunc()))
        }
        _ => false,
    };
    let (effect, whom) = match value {
        ALL if survey.desired.ports.keys().any(has_gateway) => (Effect::DropsAll, "servers"),
        OTHER_SUBNETS if survey.desired.local.iter().any(is_outside) => {
            (Effect::MayDrop, "servers outside their gateway's subnet")
        }
        _ => return None,
    };
    let reason = format!("is {value}: {whom} cannot resolve their gateway; set it to 0 or 1");
    let object = "sysctl net.ipv4.conf.all.arp_ignore".to_owned();
    Some(Interference { kind: InterferenceKind::ArpIgnore, effect, ..may_drop(None, object, reason) })
}

/// Devices that take frames of another one before IP sees them there: outside of its VRF, where no tenant belongs. If
/// one is a port itself, it has them in the VRF that it was put in.
fn stacked(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let links = survey.observed.links.iter();
    let is_port = |name: &InterfaceName, link: &Link| {
        survey.desired.ports.get(name).is_some_and(|vrf| survey.vrf_of(link) == Some(*vrf))
    };
    let others = links.filter(|(name, link)| !is_port(name, link));
    let stacked: Vec<_> =
        others.filter_map(|(name, link)| Some((name, survey.names.get(&link.takes_from?)?))).collect();
    if stacked.is_empty() {
        return;
    }
    let concerned = concerned(survey);
    for (name, on) in stacked.into_iter().filter(|(_, on)| concerned.contains(*on)) {
        let object = format!("link {name} on {on}");
        let reason = format!("takes packets of {on} out of its VRF: remove it");
        found.push(Interference { kind: InterferenceKind::Stacked, ..may_drop(Some(*on), object, reason) });
    }
}

fn filters(survey: &Survey<'_>, name: &InterfaceName, found: &mut Vec<Interference>) {
    let observed = survey.observed;
    let ingress = observed.ingress.get(name).map(|it| (InterferenceKind::IngressFilter, "ingress", &it.foreign));
    let egress = observed.foreign.egress_filters.get(name);
    let egress = egress.map(|filters| (InterferenceKind::EgressFilter, "egress", filters));
    for (kind, direction, filters) in ingress.into_iter().chain(egress) {
        for (filter, effect) in filters {
            let object = format!("filter dev {name} {direction} {filter}");
            let reason = match effect {
                Effect::DropsAll => "drops every packet, and is not ours: remove it",
                // For instance with the action `pass`, or another chain.
                Effect::MayDrop if kind == InterferenceKind::IngressFilter => {
                    "can drop, change or divert packets, or let forged ones past our filters, and is not ours: remove it"
                }
                Effect::MayDrop => "can drop, change or divert packets, and is not ours: remove it",
            };
            found.push(Interference { device: Some(*name), kind, effect: *effect, object, reason: reason.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::{UnderlayParams, compile},
        dirty_set::DirtySet,
        kernel::memory,
        objects::{Desired, LinkKind, Observed, Operation},
        ownership::{DeviceName, GROUP, table},
    };
    use cps_peering_config::{HostConfig, ValidHostConfig};

    #[test]
    fn settings_that_keep_gateways_from_answering_arp_are_reported() {
        let found = |prefix: &str, arp_ignore: i32| {
            let config = format!(
                r#"{{ "revision": {{ "epoch": 1, "number": 1 }}, "host": "h1", "underlay": "192.0.2.1", "vrfs": {{ "vpc-a": {{ "vni": 1,
                    "ports": {{ "eth1": {{ "gateways": ["10.1.0.1/24", "fd00:1::1/64"], "prefixes": ["{prefix}"] }} }} }} }} }}"#
            );
            let config: HostConfig = serde_json::from_str(&config).unwrap();
            let config: ValidHostConfig = config.try_into().unwrap();
            let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
            let desired = compile(&config, params, &DirtySet::Everything);
            let observed = Observed { arp_ignore, ..Observed::default() };
            let found = crate::diff::diff(&desired, &observed).interference.into_iter();
            found.map(|it| (it.kind, it.effect)).collect::<Vec<_>>()
        };
        // 4 to 7 mean nothing to the kernel.
        for harmless in [0, 1, 3, 4, 7] {
            assert_eq!(found("10.1.0.0/24", harmless), []);
        }
        assert_eq!(found("10.1.0.128/25", 2), []);
        assert_eq!(found("10.1.7.0/24", 2), [(InterferenceKind::ArpIgnore, Effect::MayDrop)]);
        assert_eq!(found("10.1.0.0/24", 8), [(InterferenceKind::ArpIgnore, Effect::DropsAll)]);
    }

    #[test]
    fn a_port_whose_mtu_is_too_small_for_ipv6_is_reported_once() {
        let found_in = |partial: bool, gateway: &str, mtu: u32| {
            let config = format!(
                r#"{{ "revision": {{ "epoch": 1, "number": 1 }}, "host": "h1", "underlay": "192.0.2.1", "vrfs": {{ "vpc-a": {{ "vni": 1,
                    "ports": {{ "eth1": {{ "gateways": [{gateway}], "prefixes": ["10.1.0.0/24"] }} }} }} }} }}"#
            );
            let config: HostConfig = serde_json::from_str(&config).unwrap();
            let config: ValidHostConfig = config.try_into().unwrap();
            let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
            let desired = Desired { partial, ..compile(&config, params, &DirtySet::Everything) };
            let vni = 1.try_into().unwrap();
            let vrf = Link { kind: LinkKind::Vrf(table(vni)), group: GROUP, ..memory::plain_link(1) };
            let port = Link { master: Some(1), mtu, ..memory::plain_link(2) };
            let links = BTreeMap::from([(DeviceName::vrf(vni), vrf), ("eth1".parse().unwrap(), port)]);
            let plan = crate::diff::diff(&desired, &Observed { links, ..Observed::default() });
            let interference = plan.interference.into_iter().map(|it| it.object).collect::<Vec<_>>();
            let adds = plan.operations.iter().filter(|it| matches!(it, Operation::AddAddress(_))).count();
            (interference, adds)
        };
        let found = |gateway: &str, mtu: u32| found_in(false, gateway, mtu);
        let (v4, both) = (r#""10.1.0.1/24""#, r#""10.1.0.1/24", "fd00:1::1/64""#);
        assert_eq!(found(both, 1280), (vec![], 2));
        assert_eq!(found(both, 1279), (vec!["MTU 1279 of eth1".to_owned()], 1));
        assert_eq!(found(v4, 1000), (vec![], 1), "IPv4 goes on");
        assert_eq!(found_in(true, both, 1279), (vec!["MTU 1279 of eth1".to_owned()], 1), "in a part as well");
    }

    /// Two ports, the second on top of the first, and one more device on the first.
    #[test]
    fn a_port_on_top_of_another_is_no_interference() {
        let name = |text: &str| text.parse::<InterfaceName>().unwrap();
        let config: HostConfig = serde_json::from_str(
            r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1", "vrfs": { "vpc-a": { "vni": 1,
                "ports": { "eth1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] },
                           "mac1": { "gateways": ["10.1.1.1/24"], "prefixes": ["10.1.1.0/24"] } } } } }"#,
        )
        .unwrap();
        let config: ValidHostConfig = config.try_into().unwrap();
        let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
        let desired = compile(&config, params, &DirtySet::Everything);
        let vni = 1.try_into().unwrap();
        let vrf = Link { kind: LinkKind::Vrf(table(vni)), group: GROUP, ..memory::plain_link(1) };
        let port = |index, master, takes_from| Link { master, takes_from, ..memory::plain_link(index) };
        let found = |master: Option<u32>, taker: bool| {
            let mut links = BTreeMap::from([
                (DeviceName::vrf(vni), vrf.clone()),
                (name("eth1"), port(2, Some(1), None)),
                (name("mac1"), port(3, master, Some(2))),
            ]);
            if taker {
                links.insert(name("mac2"), port(4, None, Some(2)));
            }
            let observed = Observed { links, ..Observed::default() };
            let found = crate::diff::diff(&desired, &observed).interference.into_iter();
            found.filter(|it| it.kind == InterferenceKind::Stacked).map(|it| it.object).collect::<Vec<_>>()
        };
        assert_eq!(found(Some(1), false), Vec::<String>::new());
        assert_eq!(found(Some(1), true), ["link mac2 on eth1"]);
        assert_eq!(found(None, false), ["link mac1 on eth1"], "it is not in its VRF yet");
    }
}
