//! Which rules of the host's packet filters touch packets that VPCs send each other.
//!
//! Nothing is known of these packets but the devices that they come from and go to and the networks that they come from and
//! go to, so a rule is reported unless one of these tells that it cannot meet them, or that every one of them was let pass
//! before. In the hook `forward`, packets of a VPC come from its VRF, whichever port or tunnel it was in fact.

use super::{Interference, InterferenceKind, survey::Survey};
use crate::objects::{
    Effect, Family, Firewall,
    firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict},
};
use cps_peering_config::net::{InterfaceName, overlap, within};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{collections::BTreeSet, net::IpAddr};

/// Rules that are looked at for each chain that the kernel begins with. Chains that call each other may be many more.
const BUDGET: usize = 100_000;
/// How deep chains call each other in the kernel (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;
/// Rules that are named for each chain that the kernel begins with.
const NAMED: usize = 5;

pub(super) fn find(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let firewall = &survey.observed.firewall;
    unread(firewall, found);
    if firewall.chains.is_empty() {
        return;
    }
    let packets = Packets::of(survey);
    if packets.sources.is_empty() {
        return;
    }
    for chain in &firewall.chains {
        let Some(hook) = chain.hook else { continue };
        for family in Family::ALL {
            if let Some(packets) = packets.at(hook, family, &chain.scope) {
                walk(firewall, chain, packets, found);
            }
        }
    }
}

/// Packets from one address to another, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// The device that they come from; none where the host itself sends them.
    pub from: Option<InterfaceName>,
    /// The VRF that it is in.
    pub vrf: InterfaceName,
    /// The device that they go to; none where the host takes them.
    pub to: Option<InterfaceName>,
}

/// What of the host's packet filters touches packets of one flow. Chains for what the host itself takes in or sends are not known.
pub fn touched_by(firewall: &Firewall, flow: &Flow) -> Vec<Interference> {
    let mut found = Vec::new();
    unread(firewall, &mut found);
    for chain in &firewall.chains {
        let Some(hook) = chain.hook else { continue };
        for packets in Packets::of_flow(flow, hook, &chain.scope) {
            walk(firewall, chain, packets, &mut found);
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

/// Follows packets through a chain that the kernel begins with.
fn walk(firewall: &Firewall, chain: &Chain, packets: Packets, found: &mut Vec<Interference>) {
    let mut walk = Walk { firewall, chain, budget: BUDGET, some_passed: false, touched: Vec::new() };
    let end = walk.chain(chain, packets, 0, true);
    if let End::Open(_) = end
        && chain.drops
    {
        let effect = if walk.some_passed { Effect::MayDrop } else { Effect::DropsAll };
        walk.touched.push(("policy drop".to_owned(), "drops", effect));
    }
    // What drops all of them comes first.
    walk.touched.sort_by_key(|(.., effect)| std::cmp::Reverse(*effect));
    for (rule, does, effect) in walk.touched.into_iter().take(NAMED) {
        let interference = Interference {
            device: None,
            kind: InterferenceKind::Firewall,
            effect,
            object: format!("{} {rule}", name(chain)),
            reason: reason(chain, does),
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
fn reason(chain: &Chain, does: &str) -> String {
    let (table, name) = (&chain.table, &chain.name);
    let program = if chain.scope == Scope::Ip(Family::V6) { "ip6tables-legacy" } else { "iptables-legacy" };
    let exemption = match (chain.backend, chain.hook) {
        (Backend::Legacy, Some(Hook::Forward)) => format!("{program} -t {table} -I {name} -i cpsvrf+ -j ACCEPT"),
        (Backend::Legacy, Some(Hook::Postrouting | Hook::Egress)) => {
            format!("{program} -t {table} -I {name} -o DEVICE -j ACCEPT, for cps+ and each port,")
        }
        (Backend::Legacy, _) => format!("{program} -t {table} -I {name} -i DEVICE -j ACCEPT, for cps+ and each port,"),
        (Backend::Nftables, Some(Hook::Forward)) => {
            format!("nft insert rule {} {table} {name} iifname \"cpsvrf*\" accept", chain.family)
        }
        (Backend::Nftables, Some(Hook::Postrouting | Hook::Egress)) => {
            format!(
                "nft insert rule {} {table} {name} oifname \"DEVICE\" accept, for cps* and each port,",
                chain.family
            )
        }
        (Backend::Nftables, _) => {
            format!(
                "nft insert rule {} {table} {name} iifname \"DEVICE\" accept, for cps* and each port,",
                chain.family
            )
        }
    };
    format!("{does} packets of VPCs: {exemption} exempts them")
}

/// Packets of VPCs, as a rule can tell them from others.
#[derive(Debug, Clone)]
struct Packets {
    family: Family,
    /// Where they come from; none where the hook does not know it.
    from: Option<BTreeSet<InterfaceName>>,
    /// Where they go to.
    to: Option<BTreeSet<InterfaceName>>,
    /// All networks of VPCs and their peers.
    sources: Vec<IpNet>,
    /// The networks that they go to.
    destinations: Vec<IpNet>,
}

impl Packets {
    fn of(survey: &Survey<'_>) -> Packets {
        let desired = survey.desired;
        let vrfs: BTreeSet<InterfaceName> = desired.vrfs.keys().copied().collect();
        let members = desired.ports.keys().chain(desired.vxlans.keys()).copied();
        let of_address = |one: &Match| matches!(one, Match::Source(..) | Match::Destination(..));
        let asked = survey.observed.firewall.chains.iter().flat_map(|chain| &chain.rules);
        let sources = if asked.flat_map(|rule| &rule.matches).any(of_address) {
            // There may be a million.
            let routes = desired.routes().filter(|route| route.key.prefix.prefix_len() > 0);
            IpNet::aggregate(&routes.map(|route| route.key.prefix).collect())
        } else {
            vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
        };
        let destinations = sources.clone();
        Packets { family: Family::V4, from: Some(vrfs), to: Some(members.collect()), sources, destinations }
    }

    /// Those of one flow at a hook. They come to `prerouting` twice: from their device, and again from its VRF.
    fn of_flow(flow: &Flow, hook: Hook, scope: &Scope) -> Vec<Packets> {
        let one = |name: InterfaceName| Some(BTreeSet::from([name]));
        let (source, destination) = (IpNet::from(flow.source), IpNet::from(flow.destination));
        let places = match hook {
            Hook::Ingress => flow.from.map(|from| (one(from), None)).into_iter().collect(),
            Hook::Prerouting => {
                let both = flow.from.map(|from| [(one(from), None), (one(flow.vrf), None)]);
                both.into_iter().flatten().collect()
            }
            Hook::Forward => flow.from.and(flow.to).map(|to| (one(flow.vrf), one(to))).into_iter().collect(),
            Hook::Postrouting | Hook::Egress => flow.to.map(|to| (None, one(to))).into_iter().collect::<Vec<_>>(),
        };
        let packets = places.into_iter().filter_map(|(from, to)| {
            let family = Family::of(&source);
            let packets = Packets { family, from, to, sources: vec![source], destinations: vec![destination] };
            packets.within(scope)
        });
        packets.collect()
    }

    /// Those of them that a table sees; none where it sees none.
    fn within(mut self, scope: &Scope) -> Option<Packets> {
        match scope {
            Scope::Ip(only) if *only != self.family => return None,
            Scope::Ip(_) | Scope::Both => {}
            Scope::Devices(patterns) => {
                let on = |name: &InterfaceName| patterns.iter().any(|pattern| pattern.fits(name.as_str()));
                for devices in [&mut self.from, &mut self.to].into_iter().flatten() {
                    devices.retain(on);
                }
            }
        }
        (!self.is_empty() && !self.sources.is_empty()).then_some(self)
    }

    /// Those of a family at a hook; none where there are none.
    fn at(&self, hook: Hook, family: Family, scope: &Scope) -> Option<Packets> {
        let (vrfs, members) = (self.from.clone().unwrap_or_default(), self.to.clone().unwrap_or_default());
        let all = || Some(vrfs.iter().chain(&members).copied().collect::<BTreeSet<_>>());
        let (from, to) = match hook {
            Hook::Ingress | Hook::Prerouting => (all(), None),
            Hook::Forward => (Some(vrfs.clone()), all()),
            Hook::Postrouting | Hook::Egress => (None, all()),
        };
        let of_family = |nets: &[IpNet]| nets.iter().copied().filter(|net| Family::of(net) == family).collect();
        let (sources, destinations) = (of_family(&self.sources), of_family(&self.destinations));
        Packets { family, from, to, sources, destinations }.within(scope)
    }

    fn is_empty(&self) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(BTreeSet::is_empty)
    }

    /// Whether a rule meets all of them, some, or none.
    fn meets(&self, rule: &FilterRule) -> Extent {
        rule.matches.iter().map(|one| self.fits(one)).max().unwrap_or(Extent::All)
    }

    fn fits(&self, condition: &Match) -> Extent {
        let devices = |devices: &Option<BTreeSet<InterfaceName>>, pattern: &Pattern, sense: Sense| {
            // A hook that does not know the device takes no rule about it for true.
            let Some(devices) = devices else { return Extent::None };
            let fitting = devices.iter().filter(|name| pattern.fits(name.as_str())).count();
            turned(Extent::part(fitting, devices.len()), sense)
        };
        let networks = |all: &[IpNet], net: &IpNet, sense: Sense| {
            if Family::of(net) != self.family {
                return Extent::None;
            }
            let inside = all.iter().filter(|one| within(one, net)).count();
            let touched = all.iter().any(|one| overlap(one, net));
            let extent = if inside == 0 && touched { Extent::Some } else { Extent::part(inside, all.len()) };
            turned(extent, sense)
        };
        match condition {
            Match::In(pattern, sense) => devices(&self.from, pattern, *sense),
            Match::Out(pattern, sense) => devices(&self.to, pattern, *sense),
            Match::Source(net, sense) => networks(&self.sources, net, *sense),
            Match::Destination(net, sense) => networks(&self.destinations, net, *sense),
            Match::Family(family, sense) => {
                turned(if *family == self.family { Extent::All } else { Extent::None }, *sense)
            }
            Match::Other => Extent::Some,
        }
    }

    /// Without those that a rule lets pass which asks for nothing but a device.
    fn without(&mut self, rule: &FilterRule) {
        let [condition] = rule.matches.as_slice() else { return };
        let keep =
            |pattern: &Pattern, sense: Sense, name: &InterfaceName| pattern.fits(name.as_str()) != (sense == Sense::Is);
        match condition {
            Match::In(pattern, sense) => {
                self.from.iter_mut().for_each(|devices| devices.retain(|name| keep(pattern, *sense, name)));
            }
            Match::Out(pattern, sense) => {
                self.to.iter_mut().for_each(|devices| devices.retain(|name| keep(pattern, *sense, name)));
            }
            _ => {}
        }
    }
}

/// How many of the packets something is true for; the later one counts where several must be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    All,
    Some,
    None,
}

impl Extent {
    fn part(part: usize, whole: usize) -> Extent {
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

/// What becomes of packets that went through a chain.
enum End {
    /// All of them were decided about.
    Decided,
    /// These go on.
    Open(Packets),
}

struct Walk<'a> {
    firewall: &'a Firewall,
    /// Where the kernel begins.
    chain: &'a Chain,
    budget: usize,
    /// Whether a rule has let some of the packets pass.
    some_passed: bool,
    /// Rules that touch packets, what they do, and whether to all of them.
    touched: Vec<(String, &'static str, Effect)>,
}

impl Walk<'_> {
    fn touch(&mut self, at: &Chain, rule: &FilterRule, words: &str, (does, effect): (&'static str, Effect)) {
        let chain = if at.name == self.chain.name { String::new() } else { format!("chain {} ", at.name) };
        self.touched.push((format!("{chain}{} {words}", rule.label), does, effect));
    }

    /// Follows packets through a chain. `whole` says whether these are all that the walk began with.
    fn chain(&mut self, chain: &Chain, mut packets: Packets, depth: usize, mut whole: bool) -> End {
        for rule in &chain.rules {
            if packets.is_empty() {
                return End::Decided;
            }
            self.budget = self.budget.saturating_sub(1);
            if self.budget == 0 || depth > DEPTH {
                if !self.touched.iter().any(|(rule, ..)| rule == MORE) {
                    self.touched.push((MORE.to_owned(), "may drop", Effect::MayDrop));
                }
                return End::Open(packets);
            }
            let extent = packets.meets(rule);
            if extent == Extent::None {
                continue;
            }
            let all = extent == Extent::All;
            match &rule.verdict {
                Verdict::Accept => {
                    self.some_passed = true;
                    if all {
                        return End::Decided;
                    }
                    packets.without(rule);
                }
                Verdict::Return if all => return End::Open(packets),
                Verdict::Return => whole = false,
                Verdict::Continue => {}
                Verdict::Drop(words) => {
                    let drops_all = all && whole && !self.some_passed;
                    let effect = if drops_all { Effect::DropsAll } else { Effect::MayDrop };
                    self.touch(chain, rule, words, ("drops", effect));
                    if all {
                        return End::Decided;
                    }
                }
                Verdict::Translate(words) => {
                    self.some_passed = true;
                    self.touch(chain, rule, words, ("rewrites", Effect::MayDrop));
                    if all {
                        return End::Decided;
                    }
                }
                Verdict::Unclear(words) => {
                    self.some_passed = true;
                    self.touch(chain, rule, words, ("may drop", Effect::MayDrop));
                }
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let leaves = matches!(rule.verdict, Verdict::Goto(_));
                    let same = |other: &&Chain| {
                        other.name == *to
                            && (other.backend, &other.table, other.family)
                                == (chain.backend, &chain.table, chain.family)
                    };
                    let firewall = self.firewall;
                    let Some(target) = firewall.chains.iter().find(same) else { continue };
                    match self.chain(target, packets.clone(), depth + 1, whole && all) {
                        End::Decided if all => return End::Decided,
                        // Of those that came in by a device alone, the others are left.
                        End::Decided => packets.without(rule),
                        End::Open(left) if all && leaves => return End::Open(left),
                        End::Open(left) if all => packets = left,
                        // What went there and came to its end is not here any more.
                        End::Open(_) => whole &= !leaves,
                    }
                }
            }
        }
        if packets.is_empty() { End::Decided } else { End::Open(packets) }
    }
}

const MORE: &str = "has more rules than are looked at";

#[cfg(test)]
mod tests {
    use super::*;

    fn packets() -> Packets {
        let names = |names: &[&str]| Some(names.iter().map(|name| name.parse().unwrap()).collect());
        Packets {
            family: Family::V4,
            from: names(&["cpsvrf1", "cpsvrf2"]),
            to: names(&["cpspeer7", "eth1"]),
            sources: ["10.1.0.0/16", "10.2.0.0/16", "fd00:1::/48"].map(|net| net.parse().unwrap()).to_vec(),
            destinations: ["10.1.0.0/16", "10.2.0.0/16", "fd00:1::/48"].map(|net| net.parse().unwrap()).to_vec(),
        }
    }

    fn pattern(text: &str) -> Pattern {
        match text.strip_suffix('*') {
            Some(text) => Pattern { text: text.to_owned(), open: true },
            None => Pattern { text: text.to_owned(), open: false },
        }
    }

    fn from(text: &str) -> Match {
        Match::In(pattern(text), Sense::Is)
    }

    fn to(text: &str, sense: Sense) -> Match {
        Match::Out(pattern(text), sense)
    }

    fn source(text: &str) -> Match {
        Match::Source(text.parse().unwrap(), Sense::Is)
    }

    fn rule(matches: Vec<Match>, verdict: Verdict) -> FilterRule {
        FilterRule { label: "rule 1".into(), matches, verdict }
    }

    fn drop() -> Verdict {
        Verdict::Drop("drop".into())
    }

    /// What is reported of chains, the first of which is where the kernel begins.
    fn touched(hook: Hook, drops: bool, chains: Vec<(&str, Vec<FilterRule>)>) -> Vec<String> {
        let chains = chains.into_iter().enumerate().map(|(place, (name, rules))| Chain {
            backend: Backend::Nftables,
            scope: Scope::Both,
            family: "inet",
            table: "filter".into(),
            name: name.into(),
            hook: (place == 0).then_some(hook),
            drops: drops && place == 0,
            rules,
        });
        let firewall = Firewall { chains: chains.collect(), unread: Vec::new() };
        let chain = &firewall.chains[0];
        let Some(packets) = packets().at(hook, Family::V4, &chain.scope) else { return Vec::new() };
        let mut walk = Walk { firewall: &firewall, chain, budget: BUDGET, some_passed: false, touched: Vec::new() };
        let end = walk.chain(chain, packets, 0, true);
        let policy = matches!(end, End::Open(_)) && drops;
        let rules = walk.touched.into_iter().map(|(rule, does, _)| format!("{does}: {rule}"));
        rules.chain(policy.then(|| "policy".to_owned())).collect()
    }

    /// What touches packets from eth1, which go to cpspeer7, and whether it drops all of them.
    fn on_the_way(hook: Hook, drops: bool, rules: &[(&str, Vec<FilterRule>)]) -> Vec<Effect> {
        let chains = rules.iter().enumerate().map(|(place, (name, rules))| Chain {
            backend: Backend::Legacy,
            scope: Scope::Ip(Family::V4),
            family: "ip",
            table: "filter".into(),
            name: (*name).into(),
            hook: (place == 0).then_some(hook),
            drops: drops && place == 0,
            rules: rules.clone(),
        });
        let firewall = Firewall { chains: chains.collect(), unread: Vec::new() };
        let flow = Flow {
            source: "10.1.0.5".parse().unwrap(),
            destination: "10.2.0.5".parse().unwrap(),
            from: Some("eth1".parse().unwrap()),
            vrf: "cpsvrf1".parse().unwrap(),
            to: Some("cpspeer7".parse().unwrap()),
        };
        touched_by(&firewall, &flow).into_iter().map(|it| it.effect).collect()
    }

    #[test]
    fn only_what_every_packet_of_a_flow_meets_drops_all_of_them() {
        let forward = |drops, rules| on_the_way(Hook::Forward, drops, &[("FORWARD", rules)]);
        let (all, some) = (vec![Effect::DropsAll], vec![Effect::MayDrop]);
        let to_port = |verdict| rule(vec![from("cpsvrf1"), Match::Other], verdict);
        assert_eq!(forward(false, vec![rule(vec![from("cpsvrf1")], drop())]), all, "one VRF of two, and it is its own");
        assert_eq!(forward(false, vec![rule(vec![from("cpsvrf2")], drop())]), []);
        assert_eq!(forward(false, vec![rule(vec![from("eth1")], drop())]), [], "they come from the VRF there");
        assert_eq!(forward(false, vec![rule(vec![source("10.1.0.0/24")], drop())]), all);
        assert_eq!(forward(false, vec![rule(vec![source("10.1.9.0/24")], drop())]), []);
        assert_eq!(forward(false, vec![rule(vec![source("10.2.0.0/24")], drop())]), [], "those are answers");
        assert_eq!(forward(false, vec![to_port(drop())]), some, "of one port, for instance");
        assert_eq!(forward(true, vec![]), all, "the policy");
        assert_eq!(forward(true, vec![to_port(Verdict::Accept)]), some, "some are let pass before");
        assert_eq!(forward(false, vec![to_port(Verdict::Return), rule(vec![], drop())]), some);
        let masquerade = Verdict::Translate("MASQUERADE".into());
        assert_eq!(on_the_way(Hook::Postrouting, false, &[("POSTROUTING", vec![rule(vec![], masquerade)])]), some);
        let prerouting = |device: &str| {
            on_the_way(Hook::Prerouting, false, &[("PREROUTING", vec![rule(vec![from(device)], drop())])])
        };
        assert_eq!(
            (prerouting("eth1"), prerouting("cpsvrf1"), prerouting("cpspeer7")),
            (all.clone(), all.clone(), vec![])
        );
        // Chains that are called.
        let call = |matches| vec![rule(matches, Verdict::Jump("user".into()))];
        let called = |matches, rules| on_the_way(Hook::Forward, false, &[("FORWARD", call(matches)), ("user", rules)]);
        assert_eq!(called(vec![], vec![rule(vec![], drop())]), all);
        assert_eq!(called(vec![Match::Other], vec![rule(vec![], drop())]), some);
    }

    #[test]
    fn a_policy_that_drops_is_reported_until_our_packets_are_exempt() {
        assert_eq!(touched(Hook::Forward, true, vec![("forward", vec![])]), ["policy"]);
        assert!(touched(Hook::Forward, false, vec![("forward", vec![])]).is_empty());
        let exempt = |name: &str| vec![("forward", vec![rule(vec![from(name)], Verdict::Accept)])];
        assert!(touched(Hook::Forward, true, exempt("cpsvrf*")).is_empty());
        assert!(touched(Hook::Forward, true, exempt("cps*")).is_empty());
        assert_eq!(touched(Hook::Forward, true, exempt("cpsvrf1")), ["policy"], "one of two VPCs");
        let both = ["cpsvrf1", "cpsvrf2"].map(|name| rule(vec![from(name)], Verdict::Accept)).to_vec();
        assert!(touched(Hook::Forward, true, vec![("forward", both)]).is_empty(), "each of them by itself");
        let half = vec![rule(vec![from("cpsvrf*"), Match::Other], Verdict::Accept)];
        assert_eq!(touched(Hook::Forward, true, vec![("forward", half)]), ["policy"], "only some packets");
    }

    #[test]
    fn rules_that_cannot_meet_our_packets_are_not_reported() {
        let docker = vec![
            rule(vec![to("docker0", Sense::Is)], drop()),
            rule(vec![from("docker0"), to("docker0", Sense::IsNot)], drop()),
            rule(vec![source("172.17.0.0/16")], drop()),
        ];
        assert!(touched(Hook::Forward, false, vec![("forward", docker)]).is_empty());
        let masquerade = |net: &str| {
            let rules =
                vec![rule(vec![source(net), to("docker0", Sense::IsNot)], Verdict::Translate("masquerade".into()))];
            touched(Hook::Postrouting, false, vec![("postrouting", rules)])
        };
        assert!(masquerade("172.17.0.0/16").is_empty());
        assert_eq!(masquerade("10.1.7.0/24"), ["rewrites: rule 1 masquerade"], "a network of a VPC");
        assert_eq!(masquerade("10.0.0.0/8"), ["rewrites: rule 1 masquerade"]);
        let to_ours = vec![rule(vec![to("cpspeer*", Sense::Is)], Verdict::Translate("masquerade".into()))];
        assert_eq!(touched(Hook::Postrouting, false, vec![("postrouting", to_ours)]).len(), 1);
    }

    #[test]
    fn chains_that_are_called_are_followed() {
        let call = |matches: Vec<Match>, verdict: fn(String) -> Verdict| vec![rule(matches, verdict("user".into()))];
        let all_dropped = vec![rule(vec![], drop())];
        let found = touched(
            Hook::Forward,
            false,
            vec![("forward", call(vec![], Verdict::Jump)), ("user", all_dropped.clone())],
        );
        assert_eq!(found, ["drops: chain user rule 1 drop"]);
        let elsewhere = call(vec![from("docker0")], Verdict::Jump);
        assert!(touched(Hook::Forward, false, vec![("forward", elsewhere), ("user", all_dropped)]).is_empty());
        let accepted = vec![rule(vec![from("cps*")], Verdict::Accept)];
        assert!(
            touched(Hook::Forward, true, vec![("forward", call(vec![], Verdict::Jump)), ("user", accepted)]).is_empty()
        );
        let returned = vec![rule(vec![], Verdict::Return), rule(vec![], drop())];
        assert!(
            touched(Hook::Forward, false, vec![("forward", call(vec![], Verdict::Goto)), ("user", returned)])
                .is_empty()
        );
        let circle = touched(
            Hook::Forward,
            false,
            vec![("forward", call(vec![], Verdict::Jump)), ("user", call(vec![], Verdict::Jump))],
        );
        assert_eq!(circle.len(), 1, "it ends: {circle:?}");
    }

    #[test]
    fn what_the_rule_does_not_tell_is_reported() {
        let rules = vec![
            rule(vec![Match::Other], drop()),
            rule(vec![Match::Family(Family::V6, Sense::Is)], drop()),
            rule(vec![], Verdict::Unclear("vmap".into())),
        ];
        let found = touched(Hook::Forward, false, vec![("forward", rules)]);
        assert_eq!(found, ["drops: rule 1 drop", "may drop: rule 1 vmap"]);
    }
}
