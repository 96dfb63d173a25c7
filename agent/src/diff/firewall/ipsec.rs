//! `IPsec` policies: they match by addresses, whichever VRF a packet is in, and also traffic between hosts.

use super::{
    Exempt, Flow, Interference, InterferenceKind, NAMED,
    packets::{BetweenHosts, Devices, Extent, LOOPBACK, OfVpcs, Reach, UDP},
};
use crate::objects::{
    Effect, Family,
    firewall::{Action, Direction, ICMPV6, Networks, Policy},
};
use cps_peering_config::net::{InterfaceName, overlap, within};
use ipnet::{IpNet, Ipv6Net};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

/// Link-local addresses and groups on the link.
const ON_LINK: [IpNet; 2] = [
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16)),
];

/// All policies, and the packets that the kernel does not check against them.
type Policies<'a> = (&'a [Policy], Exempt<'a>);

/// Policies that may match packets of VPCs and that no other policy precedes for all of them; a few at most.
pub(super) fn find((policies, exempt): Policies<'_>, of_vpcs: &OfVpcs, found: &mut Vec<Interference>) {
    let is_ours = |device: &InterfaceName| of_vpcs.vrfs.contains(device) || of_vpcs.members.contains(device);
    let forwarded = policies.iter().filter(|policy| {
        // Traffic between servers and their gateway does not pass from one VPC to another.
        policy.direction != Direction::In && policy.device.as_ref().is_none_or(is_ours)
    });
    // With the VPCs whose packets it may match.
    let concerned = forwarded.filter_map(|policy| {
        let touches = |reach: &&Reach| {
            let Reach { networks, from, to } = reach;
            let selects = networks.touch(&policy.source) && networks.touch(&policy.destination);
            selects && !exempt.forwarded(policy, from, to)
        };
        let reachable: Vec<&Networks> = of_vpcs.reachable.iter().filter(touches).map(|reach| &reach.networks).collect();
        (!reachable.is_empty()).then_some((policy, reachable))
    });
    let concerned: Vec<(&Policy, Vec<&Networks>)> = concerned.collect();
    let in_the_way = concerned.iter().enumerate().filter(|(place, (policy, reachable))| {
        let mut before = concerned[..*place].iter().map(|(before, _)| before);
        let passed = |before: &&Policy| {
            before.action == Action::Allow
                && before.direction == policy.direction
                && reachable.iter().all(|networks| covers(before, policy, networks))
        };
        // After a match of type `sub`, type `main` is evaluated as well; for forwarded packets, also one for `in`.
        policy.sub || (policy.action != Action::Allow && !before.any(|before| !before.sub && passed(before)))
    });
    found.extend(in_the_way.take(NAMED).map(|(_, (policy, _))| interference(policy, Effect::MayDrop)));
}

/// Policies that drop neighbour discovery messages of servers, without which no IPv6 packet reaches them; a few at most.
/// These are packets to the host: servers send them to its link-local address or to a group on the link (RFC 4861).
pub(super) fn find_neighbour_discovery(policies: Policies<'_>, of_vpcs: &OfVpcs, found: &mut Vec<Interference>) {
    let mut ipv6 = of_vpcs.reachable.iter().filter(|reach| reach.networks.family() == Some(Family::V6)).peekable();
    if ipv6.peek().is_none() {
        return;
    }
    let networks: Vec<&Networks> = ipv6.map(|reach| &reach.networks).collect();
    let sends = |source: &IpNet| networks.iter().any(|networks| networks.touch(source));
    let devices = of_vpcs.members.union(&of_vpcs.vrfs).copied().collect();
    drop_neighbour_discovery(policies, (&of_vpcs.members, &devices), sends, found);
}

/// The same for `members` of VRFs, and the servers of which `sends` tells whether some have an address in a network.
/// `devices` are those that a policy may name.
fn drop_neighbour_discovery(
    (policies, exempt): Policies<'_>,
    (members, devices): (&BTreeSet<InterfaceName>, &BTreeSet<InterfaceName>),
    sends: impl Fn(&IpNet) -> bool,
    found: &mut Vec<Interference>,
) {
    let members = Devices::These(members.clone());
    let concerns = |policy: &&Policy| {
        policy.direction == Direction::In
            && policy.upper.protocol.is_none_or(|protocol| protocol == ICMPV6)
            && policy.device.as_ref().is_none_or(|device| devices.contains(device))
            && ON_LINK.iter().any(|net| overlap(net, &policy.destination))
            && (overlap(&ON_LINK[0], &policy.source) || sends(&policy.source))
            && !exempt.of_host(policy, &members)
    };
    let mut passed: Vec<&Policy> = Vec::new();
    let mut dropping = Vec::new();
    for policy in policies.iter().filter(concerns) {
        let covers = |before: &&Policy| {
            within(&policy.source, &before.source)
                && within(&policy.destination, &before.destination)
                && before.device.is_none_or(|device| policy.device == Some(device))
        };
        match policy.action {
            // VPN daemons let each type of these messages pass by a policy of its own.
            Action::Allow if policy.sub || (policy.upper.more && policy.upper.protocol.is_none()) => {}
            Action::Allow => passed.push(policy),
            Action::Block | Action::Protect if passed.iter().any(covers) => {}
            Action::Block | Action::Protect => dropping.push(policy),
        }
    }
    let does = "drops neighbour discovery of servers, and IPv6 of VPCs with it";
    found.extend(dropping.into_iter().take(NAMED).map(|policy| dropped(policy, Effect::MayDrop, does)));
}

/// Whether a policy matches all packets of these networks that another one does.
fn covers(before: &Policy, policy: &Policy, networks: &Networks) -> bool {
    let device = before.device.is_none() || before.device == policy.device;
    let all = |before: &IpNet, policy: &IpNet| {
        within(policy, before) || {
            // Of two prefixes that overlap, one is within the other.
            let both = networks
                .iter()
                .filter_map(|net| if within(net, policy) { Some(net) } else { within(policy, net).then_some(policy) });
            both.into_iter().all(|both| within(both, before))
        }
    };
    device
        && before.upper.is_any()
        && all(&before.source, &policy.source)
        && all(&before.destination, &policy.destination)
}

/// Policies that drop every packet between this host and some others, or all; a few at most.
pub(super) fn find_between_hosts(policies: Policies<'_>, them: &BetweenHosts, found: &mut Vec<Interference>) {
    found.extend(between_hosts(policies, them).filter(|it| it.effect == Effect::DropsAll).take(NAMED));
}

/// Policies that may drop some; a few at most.
pub(super) fn doubts(policies: Policies<'_>, them: &BetweenHosts, found: &mut Vec<Interference>) {
    found.extend(between_hosts(policies, them).filter(|it| it.effect == Effect::MayDrop).take(NAMED));
}

fn between_hosts(policies: Policies<'_>, them: &BetweenHosts) -> impl Iterator<Item = Interference> {
    let blocking = [Direction::In, Direction::Out].into_iter().flat_map(move |direction| {
        blocking(policies, direction, (them.local, them.hosts.clone()), &them.device, them.port)
    });
    blocking.map(|(policy, effect)| interference_between_hosts(policy, them.port, effect))
}

/// Which policies drop VXLAN between an address of this host and those of others. A policy that requires `IPsec` is
/// intended, and does not show whether the traffic is protected.
fn blocking<'a>(
    (policies, exempt): Policies<'a>,
    direction: Direction,
    (local, mut others): (IpAddr, BTreeSet<IpAddr>),
    device: &Devices,
    port: u16,
) -> Vec<(&'a Policy, Effect)> {
    let (mut found, mut some_passed) = (Vec::new(), false);
    // Those of type `sub` that let packets pass are not the last to be evaluated.
    let asked = |policy: &&Policy| {
        let counts = !policy.sub || policy.action == Action::Block;
        policy.direction == direction && counts && !exempt.of_host(policy, device)
    };
    for policy in policies.iter().filter(asked) {
        let (own, other) = match direction {
            Direction::Out => (&policy.source, &policy.destination),
            Direction::In | Direction::Forward => (&policy.destination, &policy.source),
        };
        let extent = extent(policy, device, port);
        let selected = other.network()..=other.broadcast();
        if extent == Extent::None || !own.contains(&local) || others.range(selected.clone()).next().is_none() {
            continue;
        }
        match (policy.action, extent) {
            (Action::Block, Extent::All) if !some_passed => found.push((policy, Effect::DropsAll)),
            (Action::Block, _) => found.push((policy, Effect::MayDrop)),
            (_, extent) => some_passed |= extent == Extent::Some,
        }
        if extent == Extent::All {
            let decided: Vec<IpAddr> = others.range(selected).copied().collect();
            for address in &decided {
                others.remove(address);
            }
        }
    }
    found
}

/// How many of the packets between two hosts a policy matches whose addresses fit.
fn extent(policy: &Policy, device: &Devices, port: u16) -> Extent {
    let (wanted, mask) = policy.upper.destination_port;
    let other_protocol = policy.upper.protocol.is_some_and(|protocol| protocol != UDP);
    // The kernel uses either that device or the loopback device.
    let may_be =
        |name: &InterfaceName| name.as_str() == LOOPBACK || device.names().is_none_or(|names| names.contains(name));
    match policy.device {
        _ if other_protocol || port & mask != wanted => Extent::None,
        Some(name) if !may_be(&name) => Extent::None,
        None if !policy.upper.more => Extent::All,
        _ => Extent::Some,
    }
}

/// Policies that match packets of one flow, or some of them, up to the first one that matches all.
pub(super) fn touching((policies, exempt): Policies<'_>, flow: &Flow, found: &mut Vec<Interference>) {
    match *flow {
        Flow::OfVpc { source, destination, from: Some(from), vrf, to: Some(to) } => {
            for direction in [Direction::Forward, Direction::Out] {
                let selects = |policy: &&Policy| {
                    policy.direction == direction
                        && policy.device.is_none_or(|device| device == vrf || device == to)
                        && policy.source.contains(&source)
                        && policy.destination.contains(&destination)
                        && !exempt.forwarded(policy, [&from], [&to])
                };
                touching_in(policies.iter().filter(selects), found);
            }
        }
        Flow::Resolution { port, vrf, server: server @ IpAddr::V6(_) } => {
            let sends = |source: &IpNet| source.contains(&server);
            let (members, devices) = (BTreeSet::from([port]), BTreeSet::from([port, vrf]));
            drop_neighbour_discovery((policies, exempt), (&members, &devices), sends, found);
        }
        Flow::OfVpc { .. } | Flow::Resolution { .. } => {}
        Flow::BetweenHosts { local, other, device, port, arrives } => {
            let direction = if arrives { Direction::In } else { Direction::Out };
            let device = device.map_or(Devices::Any, Devices::one);
            let blocking = blocking((policies, exempt), direction, (local, [other].into()), &device, port);
            found.extend(blocking.into_iter().map(|(policy, effect)| interference_between_hosts(policy, port, effect)));
        }
    }
}

/// The same for policies in evaluation order, for packets of a VPC.
fn touching_in<'a>(asked: impl Iterator<Item = &'a Policy>, found: &mut Vec<Interference>) {
    let mut all = true;
    for policy in asked {
        if policy.action != Action::Allow || policy.sub {
            let drops = policy.action == Action::Block && policy.upper.is_any() && all;
            found.push(interference(policy, if drops { Effect::DropsAll } else { Effect::MayDrop }));
        }
        if policy.upper.is_any() && (!policy.sub || policy.action == Action::Block) {
            break;
        }
        all = all && policy.sub;
    }
}

fn interference(policy: &Policy, effect: Effect) -> Interference {
    let does = match (policy.action, policy.direction) {
        (Action::Block, _) => "drops packets of VPCs",
        (Action::Allow, _) => "may drop packets of VPCs, since others are asked after it",
        (_, Direction::In | Direction::Forward) => "drops packets of VPCs that have not come by IPsec",
        (_, Direction::Out) => "wants IPsec for packets of VPCs",
    };
    dropped(policy, effect, does)
}

fn dropped(policy: &Policy, effect: Effect, does: &str) -> Interference {
    let cure = match policy.priority {
        _ if policy.sub => "make it one of type main (`ptype main`), or make it select others only",
        Some(_) => {
            "make it select others only, or let these pass before it: action allow, with a smaller number as priority"
        }
        None => {
            "let these pass by a policy of their own with action allow, or change it with `ip xfrm policy setdefault`"
        }
    };
    let reason = format!("{does}: {cure}");
    Interference { device: None, kind: InterferenceKind::Firewall, effect, object: policy.to_string(), reason }
}

fn interference_between_hosts(policy: &Policy, port: u16, effect: Effect) -> Interference {
    let does = if effect == Effect::DropsAll { "drops" } else { "may drop" };
    let cure = match policy.priority {
        _ if policy.sub => format!("make it select others only than UDP to port {port}"),
        Some(_) => format!("let UDP to port {port} pass before it: action allow, with a smaller number as priority"),
        None => format!(
            "let UDP to port {port} pass by a policy of its own with action allow, or change it with `ip xfrm policy setdefault`"
        ),
    };
    let reason = format!("{does} packets between this host and others: {cure}");
    Interference { device: None, kind: InterferenceKind::Firewall, effect, object: policy.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::firewall::Upper;
    use std::str::FromStr;

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    fn policy(direction: Direction, source: &str, destination: &str, action: Action) -> Policy {
        let [source, destination] = [source, destination].map(|net| net.parse().unwrap());
        let (device, upper, sub, priority) = (None, Upper::default(), false, Some(9));
        Policy { direction, source, destination, device, upper, action, sub, priority }
    }

    fn udp(port: u16, mask: u16) -> Upper {
        Upper { protocol: Some(UDP), destination_port: (port & mask, mask), more: false }
    }

    /// What is reported about packets between a host, where `uplink` has the address, and two others: as problems and
    /// as doubts, both for everything sent and everything received.
    fn judged(policies: &[Policy]) -> (Vec<String>, Vec<String>) {
        let hosts = ["192.0.2.2", "198.51.100.7"].map(|address| address.parse().unwrap());
        let them = BetweenHosts {
            port: 4789,
            local: "192.0.2.1".parse().unwrap(),
            device: Devices::one(name("uplink")),
            bridged: Devices::These(BTreeSet::new()),
            others: hosts.map(IpNet::from).to_vec(),
            hosts: hosts.into(),
        };
        let (mut problems, mut doubted) = (Vec::new(), Vec::new());
        find_between_hosts((policies, Exempt::nothing()), &them, &mut problems);
        doubts((policies, Exempt::nothing()), &them, &mut doubted);
        let said = |found: Vec<Interference>| found.iter().map(|it| format!("{}: {}", it.object, it.reason)).collect();
        (said(problems), said(doubted))
    }

    /// The number of problems and doubts.
    fn counted(policies: &[Policy]) -> (usize, usize) {
        let (problems, doubts) = judged(policies);
        (problems.len(), doubts.len())
    }

    #[test]
    fn policies_that_stop_what_hosts_send_each_other_are_found() {
        let out = |destination, action| policy(Direction::Out, "192.0.2.1/32", destination, action);
        let within = |source, action| policy(Direction::In, source, "192.0.2.0/24", action);
        let block = out("0.0.0.0/0", Action::Block);
        let (problems, doubts) = judged(std::slice::from_ref(&block));
        assert_eq!(
            (problems, doubts),
            (
                vec![
                    "xfrm policy src 192.0.2.1/32 dst 0.0.0.0/0 dir out priority 9 action block: drops packets between this host and \
                     others: let UDP to port 4789 pass before it: action allow, with a smaller number as priority"
                        .to_owned()
                ],
                vec![]
            )
        );
        let of = |upper| Policy { upper, ..block.clone() };
        let on = |device: &str, policy: &Policy| Policy { device: Some(name(device)), ..policy.clone() };
        let default = Policy::default_of(Direction::In, "0.0.0.0/0".parse().unwrap(), Action::Block);
        for (policies, found) in [
            (vec![within("192.0.2.2/32", Action::Block)], (1, 0)),
            (vec![default.clone()], (1, 0)),
            // Packets of others.
            (vec![out("203.0.113.0/24", Action::Block)], (0, 0)),
            (vec![policy(Direction::Out, "192.0.2.9/32", "0.0.0.0/0", Action::Block)], (0, 0)),
            (vec![policy(Direction::In, "192.0.2.1/32", "192.0.2.2/32", Action::Block)], (0, 0)),
            (vec![policy(Direction::Forward, "0.0.0.0/0", "0.0.0.0/0", Action::Block)], (0, 0)),
            (vec![policy(Direction::Out, "::/0", "::/0", Action::Block)], (0, 0)),
            (vec![of(udp(4789, !0))], (1, 0)),
            (vec![of(udp(0, 0))], (1, 0)),
            (vec![of(udp(4788, !1))], (1, 0)),
            (vec![of(udp(53, !0)), of(Upper { protocol: Some(6), ..Upper::default() })], (0, 0)),
            (vec![of(Upper { more: true, ..udp(4789, !0) })], (0, 1)),
            (vec![on("uplink", &block)], (0, 1)),
            (vec![on("lo", &default)], (0, 1)),
            (vec![on("eth1", &block)], (0, 0)),
            // A policy that requires IPsec is intended.
            (vec![out("0.0.0.0/0", Action::Protect), within("0.0.0.0/0", Action::Protect)], (0, 0)),
            (vec![out("0.0.0.0/0", Action::Protect), block.clone()], (0, 0)),
            // The first one that matches decides.
            (vec![out("192.0.2.0/24", Action::Allow), block.clone()], (1, 0)),
            (vec![out("192.0.2.0/24", Action::Allow), out("198.51.100.0/24", Action::Allow), block.clone()], (0, 0)),
            (vec![block.clone(), block.clone()], (1, 0)),
            (vec![Policy { action: Action::Allow, ..of(udp(4789, !0)) }, block.clone()], (0, 0)),
            (vec![Policy { action: Action::Allow, ..of(udp(53, !0)) }, block.clone()], (1, 0)),
            (vec![on("uplink", &out("0.0.0.0/0", Action::Allow)), block.clone()], (0, 1)),
            (vec![within("0.0.0.0/0", Action::Allow), default], (0, 0)),
            // After one of type `sub` that lets packets pass, those of type `main` are evaluated.
            (vec![Policy { sub: true, ..out("0.0.0.0/0", Action::Allow) }, block.clone()], (1, 0)),
            (vec![Policy { sub: true, ..block.clone() }, out("0.0.0.0/0", Action::Allow)], (1, 0)),
        ] {
            assert_eq!(counted(&policies), found, "{policies:?}");
        }
        let many = vec![of(Upper { more: true, ..Upper::default() }); 24];
        assert_eq!(counted(&many), (0, NAMED), "not all of them are named");
        // On one path.
        let touched = |policies: &[Policy], other: &str, arrives| {
            let [local, other] = ["192.0.2.1", other].map(|address| address.parse().unwrap());
            let flow = Flow::BetweenHosts { local, other, device: Some(name("uplink")), port: 4789, arrives };
            let mut found = Vec::new();
            touching((policies, Exempt::nothing()), &flow, &mut found);
            found.iter().map(|it| it.effect).collect::<Vec<_>>()
        };
        let both = [within("192.0.2.2/32", Action::Block), of(Upper { more: true, ..Upper::default() })];
        assert_eq!(touched(&both, "192.0.2.2", true), [Effect::DropsAll]);
        assert_eq!(touched(&both, "198.51.100.7", true), []);
        assert_eq!(touched(&both, "198.51.100.7", false), [Effect::MayDrop]);
    }

    #[test]
    fn policies_that_drop_neighbour_discovery_of_servers_are_found() {
        let found = |net: &str, policies: &[Policy]| {
            let reach =
                Reach { networks: IpNet::from_str(net).unwrap().into(), from: BTreeSet::new(), to: BTreeSet::new() };
            let of_vpcs = OfVpcs {
                vrfs: [name("cpsvrf1")].into(),
                members: [name("eth1")].into(),
                bridged: BTreeSet::new(),
                networks: Vec::new(),
                reachable: vec![reach],
            };
            let mut found = Vec::new();
            find_neighbour_discovery((policies, Exempt::nothing()), &of_vpcs, &mut found);
            found.len()
        };
        let within = |source, destination, action| policy(Direction::In, source, destination, action);
        let block = within("::/0", "fe80::/10", Action::Block);
        let icmp = |more, policy: &Policy| Policy {
            upper: Upper { protocol: Some(ICMPV6), more, ..Upper::default() },
            ..policy.clone()
        };
        let allow = within("::/0", "::/0", Action::Allow);
        let default = Policy::default_of(Direction::In, "::/0".parse().unwrap(), Action::Block);
        for (policies, count) in [
            (vec![block.clone()], 1),
            (vec![default.clone()], 1),
            (vec![icmp(true, &block)], 1),
            (vec![within("fd00:1::/64", "ff02::1:ff00:0/104", Action::Block)], 1),
            (vec![within("fe80::/64", "fe80::1/128", Action::Protect)], 1),
            // Other packets to the host.
            (vec![Policy { upper: Upper { protocol: Some(6), ..Upper::default() }, ..block.clone() }], 0),
            (vec![Policy { device: Some(name("uplink")), ..block.clone() }], 0),
            (vec![within("2001:db8::/32", "fe80::/10", Action::Block)], 0),
            (vec![within("::/0", "fd00:1::/64", Action::Block)], 0),
            (vec![within("0.0.0.0/0", "0.0.0.0/0", Action::Block)], 0),
            (vec![Policy { direction: Direction::Forward, ..block.clone() }], 0),
            // The first one decides, unless it is of type `sub`.
            (vec![allow.clone(), default.clone()], 0),
            (vec![icmp(true, &allow), default.clone()], 0),
            (vec![within("::/0", "fe80::/10", Action::Allow), default.clone()], 1),
            (vec![Policy { sub: true, ..allow.clone() }, default.clone()], 1),
        ] {
            assert_eq!(found("fd00:1::/48", &policies), count, "{policies:?}");
            assert_eq!(found("10.1.0.0/16", &policies), 0, "without IPv6 there is none");
        }
    }

    #[test]
    fn a_policy_is_about_packets_within_what_one_vpc_reaches() {
        let reach = |nets: &[&str]| Reach {
            networks: nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect(),
            from: BTreeSet::new(),
            to: BTreeSet::new(),
        };
        let of_vpcs = OfVpcs {
            vrfs: [name("cpsvrf1")].into(),
            members: [name("eth1")].into(),
            bridged: BTreeSet::new(),
            networks: Vec::new(),
            reachable: vec![reach(&["10.1.0.0/16", "10.2.0.0/16"]), reach(&["10.8.0.0/16", "10.9.0.0/16"])],
        };
        let found = |policies: &[Policy]| {
            let mut found = Vec::new();
            super::find((policies, Exempt::nothing()), &of_vpcs, &mut found);
            found.len()
        };
        let forward = |source, destination, action| policy(Direction::Forward, source, destination, action);
        let block = |source, destination| forward(source, destination, Action::Block);
        assert_eq!(found(&[block("10.1.0.0/16", "10.2.0.0/16")]), 1);
        assert_eq!(found(&[block("10.1.0.0/16", "10.8.0.0/16")]), 0, "no VPC reaches that from there");
        assert_eq!(found(&[policy(Direction::In, "0.0.0.0/0", "0.0.0.0/0", Action::Block)]), 0, "none is forwarded");
        // Each VPC's packets have to pass.
        let allow = |net| forward(net, net, Action::Allow);
        assert_eq!(found(&[allow("10.0.0.0/14"), block("0.0.0.0/0", "0.0.0.0/0")]), 1);
        assert_eq!(found(&[allow("10.0.0.0/14"), block("10.0.0.0/13", "0.0.0.0/0")]), 0);
        assert_eq!(found(&[allow("10.0.0.0/8"), block("0.0.0.0/0", "0.0.0.0/0")]), 0);
        // One of type `sub` decides nothing by itself except to block.
        let sub = |policy| Policy { sub: true, ..policy };
        assert_eq!(found(&[sub(allow("10.1.0.0/16"))]), 1);
        assert_eq!(found(&[sub(allow("10.7.0.0/16"))]), 0);
        assert_eq!(found(&[sub(allow("10.0.0.0/8")), block("10.1.0.0/16", "10.2.0.0/16")]), 2);
        let touched = |policies: &[Policy]| {
            let [source, destination] = ["10.1.0.5", "10.2.0.5"].map(|text| text.parse().unwrap());
            let [from, to] = ["eth1", "cpspeer7"].map(|device| Some(name(device)));
            let flow = Flow::OfVpc { source, destination, from, vrf: name("cpsvrf1"), to };
            let mut found = Vec::new();
            touching((policies, Exempt::nothing()), &flow, &mut found);
            found.iter().map(|it| it.effect).collect::<Vec<_>>()
        };
        let both = [sub(allow("10.0.0.0/8")), block("10.1.0.0/16", "10.2.0.0/16")];
        assert_eq!(touched(&both), [Effect::MayDrop, Effect::DropsAll]);
        let blocks = [sub(block("10.0.0.0/8", "10.0.0.0/8")), allow("10.0.0.0/8")];
        assert_eq!(touched(&blocks), [Effect::DropsAll]);
    }
}
