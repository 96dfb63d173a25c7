//! Packets as a rule of a packet filter can match them.

use super::{Flow, message::Message};
use crate::{
    diff::{Beneath, survey::Survey},
    objects::{
        Address, Desired, DesiredRoute, Family, RouteKey, RouteTo,
        firewall::{
            Action, FilterRule, Hook, ICMPV6, Match, Networks, Pattern, Policy, Scope, Sense, ethertype, state,
        },
    },
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// What is known about the device on which packets come in or go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::diff) enum Devices {
    /// There is no such device at the hook: its name is empty, as in the kernel.
    Absent,
    /// Any but the loopback device.
    Any,
    /// One of these.
    These(BTreeSet<InterfaceName>),
}

impl Devices {
    pub(super) fn one(name: InterfaceName) -> Devices {
        Devices::These(BTreeSet::from([name]))
    }

    /// Which devices they are; none if they may be any.
    pub(in crate::diff) fn names(&self) -> Option<&BTreeSet<InterfaceName>> {
        if let Devices::These(names) = self { Some(names) } else { None }
    }

    /// The bridge members among them and below.
    fn bridged(&self, beneath: &Beneath<'_>) -> Devices {
        Devices::These(self.names().into_iter().flatten().flat_map(|name| beneath.bridged(name)).collect())
    }

    fn fit(&self, patterns: &[Pattern]) -> Extent {
        let loopback = |pattern: &Pattern| !pattern.open && pattern.name == LOOPBACK.as_bytes();
        match self {
            Devices::Absent => Extent::None,
            Devices::Any if patterns.iter().all(loopback) => Extent::None,
            Devices::Any => Extent::Some,
            Devices::These(names) => {
                let fits = |name: &&InterfaceName| patterns.iter().any(|pattern| pattern.fits(name));
                let fitting = names.iter().filter(fits).count();
                Extent::part(fitting, names.len())
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&InterfaceName) -> bool) {
        if let Devices::These(names) = self {
            names.retain(keep);
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Devices::These(names) if names.is_empty())
    }

    fn len(&self) -> usize {
        self.names().map_or(0, BTreeSet::len)
    }
}

pub(super) const LOOPBACK: &str = "lo";
#[expect(clippy::cast_possible_truncation, reason = "it is 17")]
pub(super) const UDP: u8 = libc::IPPROTO_UDP as u8;

/// What kind of packets these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tenant packets: anything that servers send.
    OfVpcs,
    /// Packets of the host itself that carry tenant packets to another host: VXLAN to this UDP port. There are no
    /// replies from that port, so connection tracking never considers them established.
    BetweenHosts(u16),
    /// Messages by which servers and their gateway resolve each other.
    Resolution(Message),
}

/// Packets as a rule can match them.
#[derive(Debug, Clone)]
pub(super) struct Packets {
    pub(super) kind: Kind,
    pub(super) family: Family,
    /// The input device.
    pub(super) from: Devices,
    /// The output device.
    pub(super) to: Devices,
    /// Source networks.
    pub(super) sources: Arc<[IpNet]>,
    /// Destination networks.
    pub(super) destinations: Arc<[IpNet]>,
    /// Whether some of them may take another path, on which the table does not see them.
    pub(super) may_be_elsewhere: bool,
}

fn asks_for_addresses(survey: &Survey<'_>) -> bool {
    let of_address = |one: &Match| matches!(one, Match::Source(..) | Match::Destination(..));
    let firewall = &survey.observed.firewall;
    let mut asked = firewall.chains.iter().flat_map(|chain| &chain.rules);
    policies_decide(survey) || asked.any(|rule| rule.matches.iter().any(of_address))
}

fn policies_decide(survey: &Survey<'_>) -> bool {
    let decides = |policy: &Policy| policy.action != Action::Allow || policy.sub;
    survey.observed.firewall.policies.iter().any(decides)
}

const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
];

/// The packets of all VPCs of a host.
pub(super) struct OfVpcs {
    pub(super) vrfs: BTreeSet<InterfaceName>,
    pub(super) members: BTreeSet<InterfaceName>,
    /// Members of bridges that are ports or below ports.
    pub(super) bridged: BTreeSet<InterfaceName>,
    pub(super) networks: Vec<IpNet>,
    /// What each VPC has or reaches in each family. Empty if no `IPsec` policy needs it.
    pub(super) reachable: Vec<Reach>,
}

/// Packets of one family that a VPC forwards.
#[derive(Debug)]
pub(super) struct Reach {
    /// The networks that contain both of their addresses.
    pub(super) networks: Networks,
    /// The devices through which they arrive.
    pub(super) from: BTreeSet<InterfaceName>,
    /// The devices through which they leave.
    pub(super) to: BTreeSet<InterfaceName>,
}

impl OfVpcs {
    pub(super) fn of(survey: &Survey<'_>) -> OfVpcs {
        let desired = survey.desired;
        // There may be a million.
        let routes = || desired.routes().filter(|route| route.key.prefix.prefix_len() > 0);
        let networks = if asks_for_addresses(survey) {
            let routes = routes();
            IpNet::aggregate(&routes.map(|route| route.key.prefix).collect())
        } else {
            EVERYWHERE.to_vec()
        };
        let reachable = if policies_decide(survey) { reachable(desired) } else { Vec::new() };
        let members = desired.ports.keys().chain(desired.vxlans.keys()).copied().collect();
        let beneath = Beneath::new(&survey.observed.links);
        let bridged = desired.ports.keys().flat_map(|port| beneath.bridged(port)).collect();
        OfVpcs { vrfs: desired.vrfs.keys().copied().collect(), members, bridged, networks, reachable }
    }

    /// The packets of one address family at a hook; none if there are none.
    pub(super) fn at(&self, hook: Hook, family: Family, scope: &Scope) -> Option<Packets> {
        let all = || Devices::These(self.vrfs.union(&self.members).copied().collect());
        let (from, to) = match hook {
            _ if *scope == Scope::Bridge => on_bridges(hook, Devices::These(self.bridged.clone()))?,
            Hook::Ingress | Hook::Prerouting => (all(), Devices::Absent),
            Hook::Forward => (Devices::These(self.vrfs.clone()), all()),
            Hook::Postrouting | Hook::Egress => (Devices::Absent, all()),
            // Traffic between servers and their gateway does not pass from one VPC to another.
            Hook::Input | Hook::Output => return None,
        };
        let networks: Arc<[IpNet]> = self.networks.iter().copied().filter(|net| Family::of(net) == family).collect();
        let (sources, destinations) = (Arc::clone(&networks), networks);
        let (kind, may_be_elsewhere) = (Kind::OfVpcs, false);
        Packets { kind, family, from, to, sources, destinations, may_be_elsewhere }.within(scope)
    }
}

fn reachable(desired: &Desired) -> Vec<Reach> {
    let mut networks = BTreeMap::<(u32, Family), Vec<IpNet>>::new();
    let mut from = BTreeMap::<u32, BTreeSet<InterfaceName>>::new();
    let tunnels = desired.vxlans.iter().map(|(name, device)| (name, &device.vrf));
    for (member, vrf) in desired.ports.iter().chain(tunnels) {
        if let Some(device) = desired.vrfs.get(vrf) {
            from.entry(device.table).or_default().insert(*member);
        }
    }
    // Those of peers on this host as well.
    let mut to = from.clone();
    for DesiredRoute { key: RouteKey { table, prefix, .. }, to: leads } in desired.routes() {
        if prefix.prefix_len() > 0 {
            networks.entry((table, Family::of(&prefix))).or_default().push(prefix);
        }
        if let RouteTo::Device(device) = leads {
            to.entry(table).or_default().insert(device);
        }
    }
    let of_table = |all: &BTreeMap<u32, BTreeSet<InterfaceName>>, table| all.get(&table).cloned().unwrap_or_default();
    let reach = networks.into_iter().map(|((table, _), networks)| Reach {
        networks: networks.into_iter().collect(),
        from: of_table(&from, table),
        to: of_table(&to, table),
    });
    reach.collect()
}

/// Where frames that the host receives from bridge members, or sends to them, come from and go to.
pub(super) fn on_bridges(hook: Hook, members: Devices) -> Option<(Devices, Devices)> {
    match hook {
        Hook::Prerouting | Hook::Input => Some((members, Devices::Absent)),
        Hook::Output | Hook::Postrouting => Some((Devices::Absent, members)),
        // From one member to another.
        Hook::Forward | Hook::Ingress | Hook::Egress => None,
    }
}

/// Traffic between hosts that carries packets of VPCs.
pub(in crate::diff) struct BetweenHosts {
    pub(super) port: u16,
    pub(super) local: IpAddr,
    /// The device that has the VTEP address; packets may arrive on another one.
    pub(in crate::diff) device: Devices,
    /// Bridge members that have the address or are below a device that has it.
    pub(super) bridged: Devices,
    pub(super) others: Vec<IpNet>,
    /// The VTEP addresses of the other hosts.
    pub(super) hosts: BTreeSet<IpAddr>,
}

impl BetweenHosts {
    /// None if there are no other hosts.
    pub(in crate::diff) fn of(survey: &Survey<'_>) -> Option<BetweenHosts> {
        let desired = survey.desired;
        let tunnel = desired.vxlans.values().next()?.tunnel;
        let hosts: BTreeSet<IpAddr> = desired.senders.values().flatten().copied().collect();
        if hosts.is_empty() {
            return None;
        }
        let others = if asks_for_addresses(survey) {
            IpNet::aggregate(&hosts.iter().copied().map(IpNet::from).collect())
        } else {
            EVERYWHERE.into_iter().filter(|net| Family::of(net) == Family::of(&IpNet::from(tunnel.local))).collect()
        };
        let has_it = |name: &InterfaceName| name.as_str() != LOOPBACK;
        // An address with a host prefix belongs to no link: packets for it arrive on other devices.
        let on_link = |address: &&Address| address.net.prefix_len() < address.net.max_prefix_len();
        let having = survey.observed.addresses.keys().filter(|address| address.net.addr() == tunnel.local);
        let having = having.filter(on_link);
        let having: BTreeSet<InterfaceName> = having.map(|address| address.device).filter(has_it).collect();
        let device = if having.is_empty() { Devices::Any } else { Devices::These(having) };
        let bridged = device.bridged(&Beneath::new(&survey.observed.links));
        Some(BetweenHosts { port: tunnel.port, local: tunnel.local, device, bridged, others, hosts })
    }

    /// The packets at a hook, in both directions; none if there are none.
    pub(super) fn at(&self, hook: Hook, scope: &Scope) -> Option<Packets> {
        let device = if *scope == Scope::Bridge { &self.bridged } else { &self.device };
        outer(hook, self.port, (self.local, self.others.clone()), device.clone())?.within(scope)
    }
}

/// VXLAN traffic through a device of the host, at a hook: received or sent.
fn outer(hook: Hook, port: u16, (local, others): (IpAddr, Vec<IpNet>), device: Devices) -> Option<Packets> {
    let local = vec![IpNet::from(local)];
    let arrives = match hook {
        Hook::Ingress | Hook::Prerouting | Hook::Input => true,
        Hook::Output | Hook::Postrouting | Hook::Egress => false,
        Hook::Forward => return None,
    };
    let (sources, destinations) = if arrives { (others, local) } else { (local, others) };
    let (from, to) = if arrives { (device, Devices::Absent) } else { (Devices::Absent, device) };
    let (kind, family) = (Kind::BetweenHosts(port), Family::of(sources.first()?));
    let (sources, destinations) = (sources.into(), destinations.into());
    Some(Packets { kind, family, from, to, sources, destinations, may_be_elsewhere: false })
}

impl Packets {
    /// The packets of one flow at a hook.
    pub(super) fn of_flow(flow: &Flow, hook: Hook, scope: &Scope, beneath: &Beneath<'_>) -> Vec<Packets> {
        let bridges = *scope == Scope::Bridge;
        match *flow {
            Flow::OfVpc { source, destination, from, vrf, to } => {
                let (source, destination) = (IpNet::from(source), IpNet::from(destination));
                let (kind, family) = (Kind::OfVpcs, Family::of(&source));
                let arrives = matches!(hook, Hook::Prerouting | Hook::Input);
                let at_port = if arrives { from } else { to };
                let places = match at_port.map(|device| Devices::one(device).bridged(beneath)) {
                    members if bridges => members.and_then(|members| on_bridges(hook, members)).into_iter().collect(),
                    _ => places(hook, from, vrf, to),
                };
                let packets = places.into_iter().filter_map(|(from, to)| {
                    let (sources, destinations) = ([source].into(), [destination].into());
                    Packets { kind, family, from, to, sources, destinations, may_be_elsewhere: false }.within(scope)
                });
                packets.collect()
            }
            Flow::BetweenHosts { local, other, device, port, arrives } => {
                let device = match device.map_or(Devices::Any, Devices::one) {
                    device if bridges => device.bridged(beneath),
                    device => device,
                };
                let packets = outer(hook, port, (local, vec![IpNet::from(other)]), device);
                let packets = packets.filter(|packets| (packets.from != Devices::Absent) == arrives);
                packets.and_then(|packets| packets.within(scope)).into_iter().collect()
            }
            // Which of them pass is examined for each message.
            Flow::Resolution { .. } => Vec::new(),
        }
    }

    /// Those of them that a table sees; none if it sees none.
    pub(super) fn within(mut self, scope: &Scope) -> Option<Packets> {
        match scope {
            Scope::Arp if !self.is_arp() => return None,
            Scope::Ip(_) | Scope::Both if self.is_arp() => return None,
            Scope::Ip(only) if *only != self.family => return None,
            Scope::Ip(_) | Scope::Both | Scope::Bridge | Scope::Arp => {}
            Scope::Devices(patterns) => {
                let on = |name: &InterfaceName| patterns.iter().any(|pattern| pattern.fits(name));
                for devices in [&mut self.from, &mut self.to] {
                    self.may_be_elsewhere |= *devices == Devices::Any;
                    devices.retain(on);
                }
            }
        }
        (!self.is_empty() && !self.sources.is_empty()).then_some(self)
    }

    fn is_arp(&self) -> bool {
        matches!(self.kind, Kind::Resolution(Message::Arp(_)))
    }

    /// Leaves only those of some devices.
    pub(super) fn keep(&mut self, devices: impl Fn(&InterfaceName) -> bool) {
        self.from.retain(&devices);
        self.to.retain(&devices);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty() || self.to.is_empty()
    }

    /// Whether a rule matches all of them, some, or none.
    pub(super) fn meets(&self, rule: &FilterRule) -> Extent {
        rule.matches.iter().map(|one| self.fits(one)).max().unwrap_or(Extent::All)
    }

    /// Whether a rule matches on something that identifies these packets. Hosts have many rules about marks, rates and
    /// sets, none of which are about the traffic between hosts.
    pub(super) fn are_named_by(&self, rule: &FilterRule) -> bool {
        rule.matches.iter().any(|one| match one {
            Match::Protocol(..)
            | Match::IcmpType(..)
            | Match::ArpOperation(..)
            | Match::DestinationPort(..)
            | Match::Source(..)
            | Match::Destination(..)
            | Match::State(..) => self.fits(one) != Extent::None,
            _ => false,
        })
    }

    /// How many values a rule is compared with.
    pub(super) fn weight(&self, rule: &FilterRule) -> usize {
        let of_names = |one: &Match| match one {
            Match::In(patterns, _) => patterns.len() * self.from.len(),
            Match::Out(patterns, _) => patterns.len() * self.to.len(),
            _ => 0,
        };
        let names: usize = rule.matches.iter().map(of_names).sum();
        1 + (self.sources.len() + self.destinations.len() + names) / 64
    }

    fn fits(&self, condition: &Match) -> Extent {
        let networks = |all: &[IpNet], nets: &Networks, sense: Sense| {
            // A rule about addresses of the other family does not match these, inverted or not.
            if nets.family().is_some_and(|family| family != self.family) {
                return Extent::None;
            }
            let inside = all.iter().filter(|one| nets.contain(one)).count();
            let touched = all.iter().any(|one| nets.touch(one));
            let extent = if inside == 0 && touched { Extent::Some } else { Extent::part(inside, all.len()) };
            turned(extent, sense)
        };
        let devices = |devices: &Devices, patterns: &[Pattern], sense: Sense| turned(devices.fit(patterns), sense);
        let of_the_host = |is: bool, sense: Sense| turned(if is { Extent::All } else { Extent::None }, sense);
        let ethertype = if self.is_arp() { ethertype::ARP } else { self.family.ethertype() };
        match (condition, self.kind) {
            (Match::In(patterns, sense), _) => devices(&self.from, patterns, *sense),
            (Match::Out(patterns, sense), _) => devices(&self.to, patterns, *sense),
            (Match::Ethertype(known, sense), _) => of_the_host(known.contains(&ethertype), *sense),
            (Match::ArpOperation(operations, sense), Kind::Resolution(Message::Arp(operation))) => {
                of_the_host(operations.contains(&operation), *sense)
            }
            (Match::Other, _) | (Match::Ethernet(_), Kind::BetweenHosts(_)) => Extent::Some,
            // Ports and our devices are.
            (Match::Ethernet(sense), _) => of_the_host(true, *sense),
            // Rules about one do not match the other, inverted or not.
            (Match::ArpOperation(..), _) | (_, Kind::Resolution(Message::Arp(_))) => Extent::None,
            (Match::Source(nets, sense), _) => networks(&self.sources, nets, *sense),
            (Match::Destination(nets, sense), _) => networks(&self.destinations, nets, *sense),
            (Match::Protocol(protocols, sense), Kind::Resolution(_)) => {
                of_the_host(protocols.contains(&ICMPV6), *sense)
            }
            (Match::IcmpType(types, sense), Kind::Resolution(message)) => {
                of_the_host(message.icmp_type().is_some_and(|one| types.contains(&one)), *sense)
            }
            // The kernel does not track their connections.
            (Match::State(states, sense), Kind::Resolution(_)) => of_the_host(states & state::UNTRACKED != 0, *sense),
            (Match::DestinationPort(..), Kind::Resolution(_)) | (Match::IcmpType(..), Kind::BetweenHosts(_)) => {
                Extent::None
            }
            (Match::Protocol(protocols, sense), Kind::BetweenHosts(_)) => of_the_host(protocols.contains(&UDP), *sense),
            (Match::DestinationPort(ports, sense), Kind::BetweenHosts(port)) => {
                of_the_host(ports.iter().any(|ports| ports.contains(&port)), *sense)
            }
            (Match::State(states, sense), Kind::BetweenHosts(_)) => match states & (state::NEW | state::UNTRACKED) {
                0 => of_the_host(false, *sense),
                // It depends on other state of the host.
                _ => Extent::Some,
            },
            (Match::State(0, sense), Kind::OfVpcs) => of_the_host(false, *sense),
            (Match::Protocol(none, sense), Kind::OfVpcs) if none.is_empty() => of_the_host(false, *sense),
            (Match::DestinationPort(none, sense), Kind::OfVpcs) if none.is_empty() => of_the_host(false, *sense),
            (
                Match::Protocol(..) | Match::IcmpType(..) | Match::DestinationPort(..) | Match::State(..),
                Kind::OfVpcs,
            ) => Extent::Some,
        }
    }

    /// Without those that a rule accepts by matching on nothing but a device.
    pub(super) fn without(&mut self, rule: &FilterRule) {
        let [condition] = rule.matches.as_slice() else { return };
        let keep = |patterns: &[Pattern], sense: Sense, name: &InterfaceName| {
            patterns.iter().any(|pattern| pattern.fits(name)) != (sense == Sense::Is)
        };
        match condition {
            Match::In(patterns, sense) => self.from.retain(|name| keep(patterns, *sense, name)),
            Match::Out(patterns, sense) => self.to.retain(|name| keep(patterns, *sense, name)),
            _ => {}
        }
    }
}

/// Input and output devices of a VPC's packets at a hook. They traverse `prerouting` twice: from their device, and
/// again from its VRF.
fn places(
    hook: Hook,
    from: Option<InterfaceName>,
    vrf: InterfaceName,
    to: Option<InterfaceName>,
) -> Vec<(Devices, Devices)> {
    use Devices::Absent;
    let one = Devices::one;
    match hook {
        Hook::Ingress => from.map(|from| (one(from), Absent)).into_iter().collect(),
        Hook::Prerouting => {
            let both = from.map(|from| [(one(from), Absent), (one(vrf), Absent)]);
            both.into_iter().flatten().collect()
        }
        Hook::Forward => from.and(to).map(|to| (one(vrf), one(to))).into_iter().collect(),
        Hook::Postrouting | Hook::Egress => to.map(|to| (Absent, one(to))).into_iter().collect(),
        // Chains for traffic to and from the gateway itself are not examined.
        Hook::Input | Hook::Output => Vec::new(),
    }
}

/// For how many of the packets a condition holds. Of several conditions, the greatest value applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    All,
    Some,
    None,
}

impl Extent {
    pub(super) fn part(part: usize, whole: usize) -> Extent {
        match part {
            0 => Extent::None,
            part if part == whole => Extent::All,
            _ => Extent::Some,
        }
    }
}

fn turned(extent: Extent, sense: Sense) -> Extent {
    match (extent, sense) {
        (extent, Sense::Is) => extent,
        (Extent::All, Sense::IsNot) => Extent::None,
        (Extent::Some, Sense::IsNot) => Extent::Some,
        (Extent::None, Sense::IsNot) => Extent::All,
    }
}
