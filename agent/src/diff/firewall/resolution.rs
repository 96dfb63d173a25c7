//! Rules that keep servers and their gateways from resolving each other: by ARP for IPv4, by neighbour discovery for IPv6.
//!
//! They are messages of the host itself, so a rule about them is reported only if none of some kind passes on some port.
//! The kernel leaves neighbour discovery to the port that received it, so there it is the input device, not the VRF.

use super::{
    BUDGET,
    message::Message,
    packets::{Devices, Kind, Packets, on_bridges},
    walk,
    walk::Chains,
};
use crate::{
    diff::{Beneath, Interference, survey::Survey},
    objects::{
        Effect, Family, RouteTo,
        firewall::{Chain, Firewall, Hook, Match, Pattern, Scope},
    },
};
use cps_peering_config::net::InterfaceName;
use std::collections::{BTreeMap, BTreeSet};

/// Ports, with the members of the bridges that they are, or that are below them.
#[derive(Debug, Clone, Default)]
struct Ports {
    names: BTreeSet<InterfaceName>,
    bridged: BTreeSet<InterfaceName>,
}

impl Ports {
    fn new(names: BTreeSet<InterfaceName>, beneath: &Beneath<'_>) -> Self {
        let bridged = names.iter().flat_map(|port| beneath.bridged(port)).collect();
        Self { names, bridged }
    }

    /// Their messages at a hook; none if there are none.
    fn at(&self, message: Message, hook: Hook, scope: &Scope) -> Option<Packets> {
        let devices = if *scope == Scope::Bridge { &self.bridged } else { &self.names };
        let devices = Devices::These(devices.clone());
        let (from, to) = match hook {
            _ if *scope == Scope::Bridge => on_bridges(hook, devices)?,
            Hook::Ingress | Hook::Prerouting | Hook::Input => (devices, Devices::Absent),
            Hook::Output | Hook::Postrouting | Hook::Egress => (Devices::Absent, devices),
            Hook::Forward => return None,
        };
        let family = message.family();
        let sources = message.source();
        let destinations = message.destination(from != Devices::Absent);
        let (sources, destinations) = ([sources].into(), [destinations].into());
        let (kind, may_be_elsewhere) = (Kind::Resolution(message), false);
        Packets { kind, family, from, to, sources, destinations, may_be_elsewhere }.within(scope)
    }

    fn devices(&self, scope: &Scope) -> &BTreeSet<InterfaceName> {
        if *scope == Scope::Bridge { &self.bridged } else { &self.names }
    }
}

/// Rules about all ports of a host; a few of each chain at most.
pub(super) fn find(survey: &Survey<'_>, chains: &Chains<'_>, found: &mut Vec<Interference>) {
    let beneath = Beneath::new(&survey.observed.links);
    let ports = Family::ALL.map(|family| {
        let local = survey.desired.local.iter().filter(|route| Family::of(&route.key.prefix) == family);
        let ports = local.filter_map(|route| match route.to {
            RouteTo::Device(device) => Some(device).filter(|device| survey.desired.ports.contains_key(device)),
            RouteTo::Unreachable | RouteTo::Nexthop(_) => None,
        });
        (family, Ports::new(ports.collect(), &beneath))
    });
    for (family, ports) in ports {
        among(&survey.observed.firewall, chains, family, &ports, found);
    }
}

/// Rules about one port.
pub(super) fn touching(
    firewall: &Firewall,
    beneath: &Beneath<'_>,
    (port, family): (InterfaceName, Family),
    found: &mut Vec<Interference>,
) {
    among(firewall, &Chains::of(firewall), family, &Ports::new(BTreeSet::from([port]), beneath), found);
}

fn among(firewall: &Firewall, chains: &Chains<'_>, family: Family, ports: &Ports, found: &mut Vec<Interference>) {
    for message in Message::ALL.into_iter().filter(|message| message.family() == family) {
        for chain in &firewall.chains {
            let Some(packets) = chain.hook.and_then(|hook| ports.at(message, hook, &chain.scope)) else { continue };
            let mut touched = Vec::new();
            walk(chains, chain, packets.clone(), &mut touched);
            if touched.is_empty() {
                continue;
            }
            for alike in alike(firewall, chain, ports.devices(&chain.scope)) {
                let mut some = packets.clone();
                some.keep(|name| alike.contains(name));
                let mut touched = Vec::new();
                walk(chains, chain, some, &mut touched);
                let new = touched.into_iter().filter(|it| it.effect == Effect::DropsAll);
                found.extend(new.filter(|it| found.iter().all(|known| known.object != it.object)).collect::<Vec<_>>());
            }
        }
    }
}

/// Groups of ports that no rule in the table of a chain tells apart; all of them in one if that takes too long, and the
/// members of bridges.
fn alike(
    firewall: &Firewall,
    chain: &Chain,
    devices: &BTreeSet<InterfaceName>,
) -> impl Iterator<Item = BTreeSet<InterfaceName>> {
    let of_table =
        |other: &&Chain| (other.backend, other.family, &other.table) == (chain.backend, chain.family, &chain.table);
    let rules = firewall.chains.iter().filter(of_table).flat_map(|chain| &chain.rules);
    let patterns: BTreeSet<&Pattern> = rules
        .flat_map(|rule| &rule.matches)
        .flat_map(|one| match one {
            Match::In(patterns, _) | Match::Out(patterns, _) => patterns.as_slice(),
            _ => &[],
        })
        .collect();
    // A bridge has many members, and what happens on one of them concerns few servers.
    let told_apart = chain.scope != Scope::Bridge && patterns.len().saturating_mul(devices.len()) <= 10 * BUDGET;
    let mut groups = BTreeMap::<Vec<bool>, BTreeSet<InterfaceName>>::new();
    for device in devices {
        let key = if told_apart { patterns.iter().map(|pattern| pattern.fits(device)).collect() } else { Vec::new() };
        groups.entry(key).or_default().insert(*device);
    }
    groups.into_values()
}
