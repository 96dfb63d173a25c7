//! Policy rules and host-wide settings.

use super::{Phase, Phases, survey::Survey};
use crate::{
    objects::{Family, LinkKind, Lookup, Operation, Rule},
    ownership::{L3MDEV_RULE_PRIORITY, LOCAL_RULE_PRIORITY, PROTOCOL},
};

/// `RTPROT_KERNEL`: of the rules that the kernel makes itself.
const KERNEL_PROTOCOL: u8 = 2;

/// The `local` rule stands behind `l3mdev` while there are VRFs of ours, and where the kernel put it otherwise.
///
/// In front of it, a tenant's packet would find every address of the host. The kernel makes the `l3mdev` rule with the
/// first VRF and never again, so it is watched like our own, and left when our last VRF goes: another's VRF would not
/// get it back. IPv6 forwarding, too, may be in use by others by then.
pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    if survey.desired.partial {
        return;
    }
    let wanted = survey.desired.vrfs.keys().any(|vrf| !survey.blocked.contains(vrf));
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

fn ours(family: Family) -> Rule {
    Rule { family, priority: LOCAL_RULE_PRIORITY, lookup: Lookup::Local, protocol: PROTOCOL }
}

fn rules<'a>(survey: &Survey<'a>, family: Family, lookup: Lookup) -> impl Iterator<Item = &'a Rule> {
    survey.observed.rules.iter().filter(move |rule| rule.family == family && rule.lookup == lookup)
}

fn behind(survey: &Survey<'_>, family: Family) -> Vec<Operation> {
    let mut operations = Vec::new();
    // Before the first VRF the rule is the kernel's to add.
    let had_vrf = survey.observed.links.values().any(|link| matches!(link.kind, LinkKind::Vrf(_)));
    if had_vrf && !rules(survey, family, Lookup::L3mdev).any(|rule| rule.priority <= L3MDEV_RULE_PRIORITY) {
        operations.push(Operation::AddRule(Rule {
            family,
            priority: L3MDEV_RULE_PRIORITY,
            lookup: Lookup::L3mdev,
            protocol: KERNEL_PROTOCOL,
        }));
    }
    // The kernel's VRF guide tells people to do the same; where they did, that is good enough.
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
