//! Which rules of the host's packet filters touch packets that VPCs send each other, and those in which they travel between hosts.
//!
//! Nothing is known of packets of VPCs but the devices that they come from and go to and the networks that they come from and
//! go to, so a rule is reported unless one of these tells that it cannot meet them, or that every one of them was let pass
//! before. In the hook `forward`, packets of a VPC come from its VRF, whichever port or tunnel it was in fact.
//! Those between hosts are UDP to the port of VXLAN; a rule about them is reported where no such packet passes, and to whoever asks
//! for a path also where that cannot be told. A policy of `IPsec` about them is reported where none passes to one of the other hosts. Bridges below ports and the underlay are others', and so are rules about what passes them:
//! those are reported where nothing passes, too.

mod exempt;
mod ipsec;
mod packets;
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
use std::net::IpAddr;
use walk::{Chains, End, Walk};

/// Rules that are looked at for each chain that the kernel begins with. Chains that call each other may be many more.
const BUDGET: usize = 100_000;
/// Rules that are named for each chain that the kernel begins with.
const NAMED: usize = 5;

pub(super) fn find(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let firewall = &survey.observed.firewall;
    unread(firewall, found);
    if firewall.chains.is_empty() && firewall.policies.is_empty() {
        return;
    }
    let chains = Chains::of(firewall);
    let (of_vpcs, between_hosts) = (OfVpcs::of(survey), BetweenHosts::of(survey));
    let policies = (firewall.policies.as_slice(), Exempt::new(firewall, &survey.observed.links));
    ipsec::find(policies, &of_vpcs, found);
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
            // The host's own filter is not ours to judge, but for what no packet between hosts passes.
            walk_all_or_nothing(&chains, chain, packets, found);
        }
    }
}

/// What of the host's packet filters drops packets between hosts, or frames on bridges, or not, by what cannot be told from it.
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

/// Packets from one address to another, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Of a VPC.
    OfVpc {
        /// From where.
        source: IpAddr,
        /// To where.
        destination: IpAddr,
        /// The device that they come from; none where the host itself sends them.
        from: Option<InterfaceName>,
        /// The VRF that it is in.
        vrf: InterfaceName,
        /// The device that they go to; none where the host takes them.
        to: Option<InterfaceName>,
    },
    /// Those in which they travel between this host and another one.
    BetweenHosts {
        /// The VTEP address of this host.
        local: IpAddr,
        /// The other host's.
        other: IpAddr,
        /// The device of the underlay, if that is known.
        device: Option<InterfaceName>,
        /// The UDP port of VXLAN.
        port: u16,
        /// Whether they come from the other host.
        arrives: bool,
    },
}

/// What of the host's packet filters touches packets of one flow.
pub fn touched_by(firewall: &Firewall, beneath: &Beneath<'_>, flow: &Flow) -> Vec<Interference> {
    let mut found = Vec::new();
    let chains = Chains::of(firewall);
    if matches!(flow, Flow::OfVpc { .. }) {
        unread(firewall, &mut found);
    }
    ipsec::touching((&firewall.policies, Exempt::new(firewall, beneath.links)), flow, &mut found);
    for chain in &firewall.chains {
        let Some(hook) = chain.hook else { continue };
        for packets in Packets::of_flow(flow, hook, &chain.scope, beneath) {
            walk(&chains, chain, packets, &mut found);
        }
    }
    found
}

fn unread(firewall: &Firewall, found: &mut Vec<Interference>) {
    for what in &firewall.unread {
        let reason = "nobody knows whether it drops packets of VPCs".to_owned();
        found.push(Interference {
            device: None,
            kind: InterferenceKind::Firewall,
            effect: Effect::MayDrop,
            object: what.clone(),
            reason,
        });
    }
}

/// The same, of which only what no packet passes is found.
fn walk_all_or_nothing(chains: &Chains<'_>, chain: &Chain, packets: Packets, found: &mut Vec<Interference>) {
    let mut touched = Vec::new();
    walk(chains, chain, packets, &mut touched);
    found.extend(
        touched.into_iter().filter(|it| it.effect == Effect::DropsAll && !found.contains(it)).collect::<Vec<_>>(),
    );
}

/// Follows packets through a chain that the kernel begins with.
fn walk(chains: &Chains<'_>, chain: &Chain, packets: Packets, found: &mut Vec<Interference>) {
    let (kind, some_passed) = (packets.kind, packets.may_be_elsewhere);
    let mut walk = Walk { chains, chain, budget: BUDGET, some_passed, touched: Vec::new() };
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
        // Of VPCs there are many, so that a rule may well drop all packets of one. Here it is not known whether it drops any.
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

/// A chain in the words of its program.
fn name(chain: &Chain) -> String {
    let (table, name) = (&chain.table, &chain.name);
    match chain.backend {
        Backend::Legacy => {
            let program = if chain.scope == Scope::Ip(Family::V6) { "ip6tables-legacy" } else { "iptables-legacy" };
            format!("{program} -t {table} {name}")
        }
        Backend::Nftables => format!("nft {} {table} {name}", chain.family),
    }
}

/// What a rule does to packets, and the line that exempts them.
fn reason(chain: &Chain, kind: Kind, does: &str) -> String {
    let (table, name) = (&chain.table, &chain.name);
    let program = if chain.scope == Scope::Ip(Family::V6) { "ip6tables-legacy" } else { "iptables-legacy" };
    let leaves = matches!(chain.hook, Some(Hook::Output | Hook::Postrouting | Hook::Egress));
    let forwards = chain.hook == Some(Hook::Forward);
    let each = |line: String| match (&chain.scope, chain.backend) {
        (Scope::Bridge, _) => format!("{line}, for each member of the bridge,"),
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
    };
    format!("{does} {whose}: {exemption} exempts them")
}
