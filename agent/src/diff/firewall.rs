//! Which rules of the host's packet filters touch packets that VPCs send each other.
//!
//! Nothing is known of these packets but the devices that they come from and go to and the networks that they come from and
//! go to, so a rule is reported unless one of these tells that it cannot meet them, or that every one of them was let pass
//! before. In the hook `forward`, packets of a VPC come from its VRF, whichever port or tunnel it was in fact.

use super::{Interference, survey::Survey};
use crate::objects::{
    Family, Firewall,
    firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict},
};
use cps_peering_config::net::{InterfaceName, overlap, within};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;

/// Rules that are looked at for each chain that the kernel begins with. Chains that call each other may be many more.
const BUDGET: usize = 100_000;
/// How deep chains call each other in the kernel (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;
/// Rules that are named for each chain that the kernel begins with.
const NAMED: usize = 5;

pub(super) fn find(survey: &Survey<'_>, found: &mut Vec<Interference>) {
    let firewall = &survey.observed.firewall;
    for what in &firewall.unread {
        let reason = "nobody knows whether it drops packets of VPCs".to_owned();
        found.push(Interference { device: None, object: what.clone(), reason });
    }
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
            if matches!(&chain.scope, Scope::Ip(only) if *only != family) {
                continue;
            }
            let Some(packets) = packets.at(hook, family, &chain.scope) else { continue };
            let mut walk = Walk { firewall, chain, budget: BUDGET, touched: Vec::new() };
            let end = walk.chain(chain, packets, 0);
            if let End::Open(_) = end
                && chain.drops
            {
                walk.touched.push(("policy drop".to_owned(), "drops"));
            }
            for (rule, does) in walk.touched.into_iter().take(NAMED) {
                let interference = Interference {
                    device: None,
                    object: format!("{} {rule}", name(chain)),
                    reason: reason(chain, does),
                };
                if !found.contains(&interference) {
                    found.push(interference);
                }
            }
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
        Packets { family: Family::V4, from: Some(vrfs), to: Some(members.collect()), sources }
    }

    /// Those of a family at a hook; none where there are none.
    fn at(&self, hook: Hook, family: Family, scope: &Scope) -> Option<Packets> {
        let (vrfs, members) = (self.from.clone().unwrap_or_default(), self.to.clone().unwrap_or_default());
        let all = || Some(vrfs.iter().chain(&members).copied().collect::<BTreeSet<_>>());
        let (mut from, mut to) = match hook {
            Hook::Ingress | Hook::Prerouting => (all(), None),
            Hook::Forward => (Some(vrfs.clone()), all()),
            Hook::Postrouting | Hook::Egress => (None, all()),
        };
        if let Scope::Devices(patterns) = scope {
            let on = |name: &InterfaceName| patterns.iter().any(|pattern| pattern.fits(name.as_str()));
            for devices in [&mut from, &mut to].into_iter().flatten() {
                devices.retain(on);
            }
        }
        let sources: Vec<IpNet> = self.sources.iter().copied().filter(|net| Family::of(net) == family).collect();
        let some =
            |devices: &Option<BTreeSet<InterfaceName>>| devices.as_ref().is_none_or(|devices| !devices.is_empty());
        (some(&from) && some(&to) && !sources.is_empty()).then_some(Packets { family, from, to, sources })
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
        let networks = |net: &IpNet, sense: Sense| {
            if Family::of(net) != self.family {
                return Extent::None;
            }
            let inside = self.sources.iter().filter(|source| within(source, net)).count();
            let touched = self.sources.iter().any(|source| overlap(source, net));
            let extent = if inside == 0 && touched { Extent::Some } else { Extent::part(inside, self.sources.len()) };
            turned(extent, sense)
        };
        match condition {
            Match::In(pattern, sense) => devices(&self.from, pattern, *sense),
            Match::Out(pattern, sense) => devices(&self.to, pattern, *sense),
            Match::Source(net, sense) | Match::Destination(net, sense) => networks(net, *sense),
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
    /// Rules that touch packets, and what they do.
    touched: Vec<(String, &'static str)>,
}

impl Walk<'_> {
    fn touch(&mut self, at: &Chain, rule: &FilterRule, words: &str, does: &'static str) {
        let chain = if at.name == self.chain.name { String::new() } else { format!("chain {} ", at.name) };
        self.touched.push((format!("{chain}{} {words}", rule.label), does));
    }

    fn chain(&mut self, chain: &Chain, mut packets: Packets, depth: usize) -> End {
        for rule in &chain.rules {
            if packets.is_empty() {
                return End::Decided;
            }
            self.budget = self.budget.saturating_sub(1);
            if self.budget == 0 || depth > DEPTH {
                if !self.touched.iter().any(|(rule, _)| rule == MORE) {
                    self.touched.push((MORE.to_owned(), "may drop"));
                }
                return End::Open(packets);
            }
            let extent = packets.meets(rule);
            if extent == Extent::None {
                continue;
            }
            let all = extent == Extent::All;
            match &rule.verdict {
                Verdict::Accept if all => return End::Decided,
                Verdict::Accept => packets.without(rule),
                Verdict::Return if all => return End::Open(packets),
                Verdict::Continue | Verdict::Return => {}
                Verdict::Drop(words) => {
                    self.touch(chain, rule, words, "drops");
                    if all {
                        return End::Decided;
                    }
                }
                Verdict::Translate(words) => {
                    self.touch(chain, rule, words, "rewrites");
                    if all {
                        return End::Decided;
                    }
                }
                Verdict::Unclear(words) => self.touch(chain, rule, words, "may drop"),
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let leaves = matches!(rule.verdict, Verdict::Goto(_));
                    let same = |other: &&Chain| {
                        other.name == *to
                            && (other.backend, &other.table, other.family)
                                == (chain.backend, &chain.table, chain.family)
                    };
                    let firewall = self.firewall;
                    let Some(target) = firewall.chains.iter().find(same) else { continue };
                    match self.chain(target, packets.clone(), depth + 1) {
                        End::Decided if all => return End::Decided,
                        // Of those that came in by a device alone, the others are left.
                        End::Decided => packets.without(rule),
                        End::Open(left) if all && leaves => return End::Open(left),
                        End::Open(left) if all => packets = left,
                        End::Open(_) => {}
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
        let mut walk = Walk { firewall: &firewall, chain, budget: BUDGET, touched: Vec::new() };
        let end = walk.chain(chain, packets, 0);
        let policy = matches!(end, End::Open(_)) && drops;
        let rules = walk.touched.into_iter().map(|(rule, does)| format!("{does}: {rule}"));
        rules.chain(policy.then(|| "policy".to_owned())).collect()
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
