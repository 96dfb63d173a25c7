//! Which rules of the host's packet filters affect packets that VPCs send each other, and the packets that carry them
//! between hosts.
//!
//! All that is known of VPC packets is the devices and the networks that they come from and go to. So a rule is
//! reported unless one of these shows that it cannot match them, or all of them were accepted before. In the hook
//! `forward`, packets of a VPC come from its VRF, whichever port or tunnel they arrived on.
//!
//! Packets between hosts are UDP to the VXLAN port. A rule about them is reported if it lets none of them pass, and in
//! a path trace also if that is unknown. An `IPsec` policy about them is reported if it lets none pass to one of the
//! other hosts. Bridges below ports and the underlay belong to others, and so do the rules about what crosses them:
//! these, too, are reported if nothing passes.

mod exempt;
mod ipsec;
mod message;
mod packets;
mod resolution;
#[cfg(test)]
mod tests;
mod walk;

use super::{Beneath, Interference, InterferenceKind, survey::Survey};
use crate::objects::{
    Effect, Family, Firewall,
    firewall::{Backend, Chain, Hook, Scope},
};
use cps_peering_config::net::InterfaceName;
use exempt::Exempt;
pub(super) use packets::BetweenHosts;
use packets::{Kind, OfVpcs, Packets};
use std::{collections::BTreeSet, net::IpAddr};
use walk::{Chains, End, Walk};

/// Rules that are examined per base chain. Through jumps between chains there may be many more.
const BUDGET: usize = 100_000;
/// Rules that are named per base chain.
const NAMED: usize = 5;

pub(super) fn find(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let firewall = &survey.observed.firewall;
    unread(firewall, found);
    unwrapping(survey, found);
    if firewall.chains.is_empty() && firewall.policies.is_empty() {
        return;
    }
    let chains = Chains::of(firewall);
    let (of_vpcs, between_hosts) = (OfVpcs::of(survey), BetweenHosts::of(survey));
    let policies = (firewall.policies.as_slice(), Exempt::new(firewall, &survey.observed.links));
    ipsec::find(policies, &of_vpcs, found);
    ipsec::find_neighbour_discovery(policies, &of_vpcs, found);
    if let Some(them) = &between_hosts {
        ipsec::find_between_hosts(policies, them, found);
    }
    for chain in &firewall.chains {
        let Some(hook) = chain.hook else { continue };
        for packets in Family::ALL.into_iter().filter_map(|family| of_vpcs.at(hook, family, &chain.scope)) {
            if chain.scope == Scope::Bridge {
                walk_all_or_nothing(&chains, chain, packets, found);
            } else {
                walk(&chains, chain, packets, found);
            }
        }
        if let Some(packets) = between_hosts.as_ref().and_then(|them| them.at(hook, &chain.scope)) {
            // The host's own filter is not ours to judge, unless it lets no packet between hosts pass.
            walk_all_or_nothing(&chains, chain, packets, found);
        }
    }
    // Behind the others: what drops everything is named once.
    resolution::find(survey, &chains, found);
}

/// The packet filters of the host that drop packets between hosts, or frames on bridges, depending on something that is
/// unknown.
pub(super) fn doubts(survey: &Survey<'_>) -> Vec<Interference> {
    let firewall = &survey.observed.firewall;
    let chains = Chains::of(firewall);
    let mut found = Vec::new();
    if firewall.chains.iter().any(|chain| chain.scope == Scope::Bridge) {
        let of_vpcs = OfVpcs::of(survey);
        for chain in firewall.chains.iter().filter(|chain| chain.scope == Scope::Bridge) {
            let Some(hook) = chain.hook else { continue };
            for packets in Family::ALL.into_iter().filter_map(|family| of_vpcs.at(hook, family, &chain.scope)) {
                walk(&chains, chain, packets, &mut found);
            }
        }
    }
    if let Some(between_hosts) = BetweenHosts::of(survey) {
        let exempt = Exempt::new(firewall, &survey.observed.links);
        ipsec::doubts((&firewall.policies, exempt), &between_hosts, &mut found);
        for chain in &firewall.chains {
            if let Some(packets) = chain.hook.and_then(|hook| between_hosts.at(hook, &chain.scope)) {
                walk(&chains, chain, packets, &mut found);
            }
        }
    }
    found.retain(|it| it.effect == Effect::MayDrop);
    found
}

/// The families in which a packet filter may mark packets of VPCs before they are routed.
pub(super) fn marked(survey: &Survey<'_>) -> BTreeSet<Family> {
    let firewall = &survey.observed.firewall;
    let mut families = BTreeSet::new();
    if !firewall.chains.iter().flat_map(|chain| &chain.rules).any(|rule| rule.marks) {
        return families;
    }
    let (chains, of_vpcs) = (Chains::of(firewall), OfVpcs::of(survey));
    for chain in &firewall.chains {
        // Frames that a bridge passes up are its `input`.
        let Some(hook @ (Hook::Ingress | Hook::Prerouting | Hook::Input)) = chain.hook else { continue };
        for family in Family::ALL {
            if let Some(packets) = of_vpcs.at(hook, family, &chain.scope) {
                let mut walk = Walk {
                    chains: &chains,
                    chain,
                    budget: BUDGET,
                    some_passed: false,
                    marked: false,
                    touched: Vec::new(),
                };
                walk.chain(chain, packets, 0, (true, false));
                families.extend(walk.marked.then_some(family));
            }
        }
    }
    families
}

/// Packets from one address to another, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Packets of a VPC.
    OfVpc {
        /// The source.
        source: IpAddr,
        /// The destination.
        destination: IpAddr,
        /// The device that they come from; none if the host itself sends them.
        from: Option<InterfaceName>,
        /// The VRF of that device.
        vrf: InterfaceName,
        /// The device that they go to; none if they are for the host.
        to: Option<InterfaceName>,
    },
    /// Messages by which a server and its gateway resolve each other, in both directions.
    Resolution {
        /// The port.
        port: InterfaceName,
        /// Its VRF.
        vrf: InterfaceName,
        /// The server.
        server: IpAddr,
    },
    /// Packets that carry them between this host and another.
    BetweenHosts {
        /// The VTEP address of this host.
        local: IpAddr,
        /// The VTEP address of the other host.
        other: IpAddr,
        /// The device of the underlay, if that is known.
        device: Option<InterfaceName>,
        /// The UDP port of VXLAN.
        port: u16,
        /// Whether they come from the other host.
        arrives: bool,
    },
}

/// The packet filters of the host that affect packets of one flow.
pub fn touched_by(firewall: &Firewall, beneath: &Beneath<'_>, flow: &Flow) -> Vec<Interference> {
    let mut found = Vec::new();
    let chains = Chains::of(firewall);
    if matches!(flow, Flow::OfVpc { .. }) {
        unread(firewall, &mut found);
    }
    ipsec::touching((&firewall.policies, Exempt::new(firewall, beneath.links)), flow, &mut found);
    if let Flow::Resolution { port, server, .. } = *flow {
        resolution::touching(firewall, beneath, (port, Family::of(&server.into())), &mut found);
    }
    for chain in &firewall.chains {
        let Some(hook) = chain.hook else { continue };
        for packets in Packets::of_flow(flow, hook, &chain.scope, beneath) {
            walk(&chains, chain, packets, &mut found);
        }
    }
    found
}

/// The kernel does not evaluate the filters of devices for what it has unwrapped, so any host of the underlay could send with
/// any VNI.
fn unwrapping(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    if survey.desired.vrfs.is_empty() {
        return;
    }
    for port in &survey.observed.firewall.fou {
        let reason = format!(
            "unwraps packets past the filter of the underlay, so that others can send into VPCs: ip fou del port {}",
            port.port
        );
        let (kind, effect) = (InterferenceKind::Fou, Effect::MayDrop);
        found.push(Interference { device: None, kind, effect, object: port.to_string(), reason });
    }
}

fn unread(firewall: &Firewall, found: &mut Vec<Interference>) {
    for what in &firewall.unread {
        let reason = "whether it drops packets of VPCs is unknown".to_owned();
        found.push(Interference {
            device: None,
            kind: InterferenceKind::Firewall,
            effect: Effect::MayDrop,
            object: what.clone(),
            reason,
        });
    }
}

/// The same, but only rules that let no packet pass are found.
fn walk_all_or_nothing(chains: &Chains<'_>, chain: &Chain, packets: Packets, found: &mut Vec<Interference>) {
    let mut touched = Vec::new();
    walk(chains, chain, packets, &mut touched);
    found.extend(
        touched.into_iter().filter(|it| it.effect == Effect::DropsAll && !found.contains(it)).collect::<Vec<_>>(),
    );
}

/// Follows packets through a base chain.
fn walk(chains: &Chains<'_>, chain: &Chain, packets: Packets, found: &mut Vec<Interference>) {
    let (kind, some_passed) = (packets.kind, packets.may_be_elsewhere);
    let mut walk = Walk { chains, chain, budget: BUDGET, some_passed, marked: false, touched: Vec::new() };
    let end = walk.chain(chain, packets, 0, (true, false));
    if let End::Open(_) = end
        && chain.drops
    {
        let effect = if walk.some_passed { Effect::MayDrop } else { Effect::DropsAll };
        walk.touched.push(("policy drop".to_owned(), "drops", effect));
    }
    // What drops all of them comes first.
    walk.touched.sort_by_key(|(.., effect)| std::cmp::Reverse(*effect));
    for (rule, does, effect) in walk.touched.into_iter().take(NAMED) {
        // There are many VPCs, so a rule may well drop all packets of one. Here it is unknown whether it drops any.
        let of_vpcs = kind == Kind::OfVpcs && chain.scope != Scope::Bridge;
        let doubtful = effect == Effect::MayDrop && does == "drops" && !of_vpcs;
        let does = if doubtful { "may drop" } else { does };
        let interference = Interference {
            device: None,
            kind: InterferenceKind::Firewall,
            effect,
            object: format!("{} {rule}", name(chain)),
            reason: reason(chain, kind, does),
        };
        if !found.contains(&interference) {
            found.push(interference);
        }
    }
}

/// A chain, in its program's terms.
fn name(chain: &Chain) -> String {
    let (table, name) = (&chain.table, &chain.name);
    match chain.backend {
        Backend::Legacy => format!("{} -t {table} {name}", legacy_program(chain)),
        Backend::Nftables => format!("nft {} {table} {name}", chain.family),
    }
}

fn legacy_program(chain: &Chain) -> &'static str {
    match chain.scope {
        Scope::Ip(Family::V6) => "ip6tables-legacy",
        Scope::Arp => "arptables-legacy",
        _ => "iptables-legacy",
    }
}

/// What a rule does to packets, and the rule that exempts them.
fn reason(chain: &Chain, kind: Kind, does: &str) -> String {
    let (table, name) = (&chain.table, &chain.name);
    let program = legacy_program(chain);
    let leaves = matches!(chain.hook, Some(Hook::Output | Hook::Postrouting | Hook::Egress));
    let forwards = chain.hook == Some(Hook::Forward);
    let each = |line: String| match (&chain.scope, chain.backend) {
        (Scope::Bridge, _) => format!("{line}, for each member of the bridge,"),
        _ if matches!(kind, Kind::Resolution(_)) => format!("{line}, for each port,"),
        (_, Backend::Legacy) => format!("{line}, for cps+ and each port,"),
        (_, Backend::Nftables) => format!("{line}, for cps* and each port,"),
    };
    let exemption = match (chain.backend, kind) {
        (Backend::Legacy, Kind::BetweenHosts(port)) => {
            format!("{program} -t {table} -I {name} -p udp --dport {port} -j ACCEPT")
        }
        (Backend::Nftables, Kind::BetweenHosts(port)) => {
            format!("nft insert rule {} {table} {name} udp dport {port} accept", chain.family)
        }
        (Backend::Legacy, Kind::Resolution(message)) => {
            let protocol = message.icmp_type().map(|_| " -p icmpv6").unwrap_or_default();
            let device = if leaves { "o" } else { "i" };
            each(format!("{program} -t {table} -I {name} -{device} DEVICE{protocol} -j ACCEPT"))
        }
        (Backend::Nftables, Kind::Resolution(message)) => {
            let protocol = match (message.icmp_type(), &chain.scope) {
                (Some(_), _) => " meta l4proto ipv6-icmp",
                (None, Scope::Arp) => "",
                (None, _) => " ether type arp",
            };
            // The chains of one device know no other.
            let device = match (&chain.scope, leaves) {
                (Scope::Devices(_), _) => String::new(),
                (_, true) => " oifname \"DEVICE\"".to_owned(),
                (_, false) => " iifname \"DEVICE\"".to_owned(),
            };
            each(format!("nft insert rule {} {table} {name}{device}{protocol} accept", chain.family))
        }
        (Backend::Legacy, Kind::OfVpcs) if forwards => format!("{program} -t {table} -I {name} -i cpsvrf+ -j ACCEPT"),
        (Backend::Nftables, Kind::OfVpcs) if forwards => {
            format!("nft insert rule {} {table} {name} iifname \"cpsvrf*\" accept", chain.family)
        }
        (Backend::Legacy, Kind::OfVpcs) => {
            each(format!("{program} -t {table} -I {name} -{} DEVICE -j ACCEPT", if leaves { "o" } else { "i" }))
        }
        (Backend::Nftables, Kind::OfVpcs) => {
            let device = if leaves { "oifname" } else { "iifname" };
            each(format!("nft insert rule {} {table} {name} {device} \"DEVICE\" accept", chain.family))
        }
    };
    let whose = match kind {
        Kind::OfVpcs => "packets of VPCs",
        Kind::BetweenHosts(_) => "packets between this host and others",
        Kind::Resolution(message) if message.family() == Family::V4 => "ARP of servers, and IPv4 of VPCs with it",
        Kind::Resolution(_) => "neighbour discovery of servers, and IPv6 of VPCs with it",
    };
    format!("{does} {whose}: {exemption} exempts them")
}
