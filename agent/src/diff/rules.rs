//! Policy rules and host-wide settings.

use super::{Interference, InterferenceKind, Phase, Phases, firewall, survey::Survey};
use crate::{
    objects::{DesiredRoute, Effect, Family, LinkKind, Lookup, Operation, Rule, RuleAhead},
    ownership::{L3MDEV_RULE_PRIORITY, LOCAL_RULE_PRIORITY, PROTOCOL},
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv6Net};
use std::{collections::BTreeSet, net::Ipv6Addr};

/// `RTPROT_KERNEL`: of the rules that the kernel makes itself.
const KERNEL_PROTOCOL: u8 = 2;

/// The `local` rule is behind `l3mdev` while there are VRFs of ours, and otherwise where the kernel put it.
///
/// In front of it, a tenant's packet would reach every address of the host. The kernel makes the `l3mdev` rule with the
/// first VRF and never again, so it is watched like our own, and left when our last VRF goes: other programs' VRFs
/// would not get it back. IPv6 forwarding, too, may be in use by others by then.
pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    if survey.desired.partial {
        return;
    }
    // Also while a VRF exists that is no longer ours: its members' packets still use our table.
    let wanted = survey.desired.vrfs.keys().any(|vrf| !survey.blocked.contains(vrf))
        || survey.observed.links.iter().any(|(name, link)| survey.stands(name, link).is_some());
    for family in Family::ALL {
        if wanted {
            phases.extend(Phase::Host, behind(survey, family));
        } else {
            phases.extend(Phase::Afterwards, in_front(survey, family));
        }
    }
    if wanted && !survey.observed.ipv6_forwarding {
        phases.push(Phase::Host, Operation::EnableIpv6Forwarding);
    }
}

/// The rules in front of `l3mdev` that can match a tenant's packet, or a reply to one, and those that let packets of others
/// into a VPC. The agent cannot know their purpose, so they stay.
pub(super) fn ahead(survey: &Survey<'_>) -> Vec<Interference> {
    if survey.desired.partial || survey.desired.vrfs.is_empty() {
        return Vec::new();
    }
    let observed = survey.observed;
    let selects_a_mark = observed.rules_ahead.iter().any(|rule| rule.marked);
    let marked = if selects_a_mark { firewall::marked(survey) } else { BTreeSet::new() };
    let can_select = |rule: &&RuleAhead| can_select(survey, rule, marked.contains(&rule.family));
    let in_the_way = observed.rules_ahead.iter().filter(can_select).filter(|rule| !observed.rules_into.contains(rule));
    let past_their_vrf = format!(
        "stands before l3mdev and can select packets of tenants, which it leads past their VRF: remove it, make it select others \
         only, or give it a priority above {LOCAL_RULE_PRIORITY}"
    );
    // Packets from a port have passed its filters, and follow the l3mdev rule.
    let past_our_filters =
        "leads packets from outside of a VPC into its table, past the filters of its ports and peerings: remove it";
    let interference = |rule: &RuleAhead, reason: &str| Interference {
        device: None,
        kind: InterferenceKind::Rule,
        effect: Effect::MayDrop,
        object: rule.to_string(),
        reason: reason.to_owned(),
    };
    let in_the_way = in_the_way.map(|rule| interference(rule, &past_their_vrf));
    in_the_way.chain(observed.rules_into.iter().map(|rule| interference(rule, past_our_filters))).collect()
}

/// Whether a rule can select a tenant's packet. `marked` tells whether something marks these in the rule's family.
fn can_select(survey: &Survey<'_>, rule: &RuleAhead, marked: bool) -> bool {
    // What is outside the selector may be anything.
    if rule.inverted {
        return true;
    }
    // Tenants' packets arrive without mark and tunnel id.
    if !(rule.may_select_unmarked() || (marked && rule.may_select_marked())) {
        return false;
    }
    // What the host itself sends, for instance replies from a gateway, comes from `lo`.
    let of_a_vrf = |name: &InterfaceName| name.as_bytes() == b"lo" || is_in_a_vrf(survey, name);
    if !rule.iif.as_ref().is_none_or(of_a_vrf) || !rule.oif.as_ref().is_none_or(|name| is_in_a_vrf(survey, name)) {
        return false;
    }
    rule.from.is_none_or(|from| is_a_source(survey, &from))
}

/// Whether an interface is a VRF of ours or in one, or will be.
fn is_in_a_vrf(survey: &Survey<'_>, name: &InterfaceName) -> bool {
    let desired = survey.desired;
    let ours = desired.ports.contains_key(name) || desired.vxlans.contains_key(name);
    ours || desired.vrfs.contains_key(name) || survey.observed.owns(name)
}

/// Whether tenants can send from an address in this prefix. Other sources are dropped on arrival.
fn is_a_source(survey: &Survey<'_>, from: &IpNet) -> bool {
    let overlaps = |other: &IpNet| other.contains(from) || from.contains(other);
    let link_local = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));
    let specific = |route: &DesiredRoute| route.key.prefix.prefix_len() > 0 && overlaps(&route.key.prefix);
    overlaps(&link_local)
        || survey.desired.addresses.iter().any(|address| from.contains(&address.net.addr()))
        || survey.desired.routes().any(|route| specific(&route))
}

fn ours(family: Family) -> Rule {
    Rule { family, priority: LOCAL_RULE_PRIORITY, lookup: Lookup::Local, protocol: PROTOCOL }
}

fn rules<'a>(survey: &Survey<'a>, family: Family, lookup: Lookup) -> impl Iterator<Item = &'a Rule> {
    survey.observed.rules.iter().filter(move |rule| rule.family == family && rule.lookup == lookup)
}

fn behind(survey: &Survey<'_>, family: Family) -> Vec<Operation> {
    let mut operations = Vec::new();
    // Before the first VRF it is the kernel that adds the rule.
    let had_vrf = survey.observed.links.values().any(|link| matches!(link.kind, LinkKind::Vrf(_)));
    if had_vrf && !rules(survey, family, Lookup::L3mdev).any(|rule| rule.priority <= L3MDEV_RULE_PRIORITY) {
        operations.push(Operation::AddRule(Rule {
            family,
            priority: L3MDEV_RULE_PRIORITY,
            lookup: Lookup::L3mdev,
            protocol: KERNEL_PROTOCOL,
        }));
    }
    // The kernel's VRF guide recommends the same; where an operator has done it, that is good enough.
    if !rules(survey, family, Lookup::Local).any(|rule| rule.priority > L3MDEV_RULE_PRIORITY) {
        operations.push(Operation::AddRule(ours(family)));
    }
    let in_front = rules(survey, family, Lookup::Local).filter(|rule| rule.priority == 0);
    operations.extend(in_front.map(|rule| Operation::RemoveRule(*rule)));
    operations
}

fn in_front(survey: &Survey<'_>, family: Family) -> Vec<Operation> {
    let mut operations = Vec::new();
    if rules(survey, family, Lookup::Local).any(|rule| *rule == ours(family)) {
        if !rules(survey, family, Lookup::Local).any(|rule| rule.priority == 0) {
            let first = Rule { priority: 0, protocol: KERNEL_PROTOCOL, ..ours(family) };
            operations.push(Operation::AddRule(first));
        }
        operations.push(Operation::RemoveRule(ours(family)));
    }
    operations
}
