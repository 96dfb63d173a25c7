//! What a kernel object belongs to, for reports: a VPC, a side of a peering, or the host as a whole.

use crate::{
    objects::{Operation, RouteKey},
    ownership::{self, DeviceName, Role},
};
use cps_peering_config::{
    SharedHostConfig,
    id::VpcId,
    net::{InterfaceName, Vni},
    report::{Behind, HostReport, Problem, Scope},
};
use std::collections::BTreeSet;

/// The scope of a device. What the configuration does not know, for instance a VRF that could not be removed, concerns
/// the host: withholding one confirmation too many is better than giving one too early.
pub fn of_device(config: &SharedHostConfig, device: &InterfaceName) -> Scope {
    let vpc = match DeviceName::parse(device) {
        Some(DeviceName { role: Role::Peer, vni }) => return Scope::Side(vni),
        Some(DeviceName { role: Role::Vrf | Role::Vpc, vni }) => vpc_of(config, vni),
        None => config.vrfs.iter().find(|(_, vrf)| vrf.ports.contains_key(device)).map(|(vpc, _)| vpc),
    };
    vpc.map_or(Scope::Host, |vpc| Scope::Vpc(vpc.clone()))
}

/// What a scope concerns, for the log: `host`, or a VPC or peering with its id.
pub fn words(config: &SharedHostConfig, scope: &Scope) -> String {
    match scope {
        Scope::Host => "host".to_owned(),
        Scope::Vpc(vpc) => format!("VPC {vpc}"),
        Scope::Side(vni) => match config.sides.get(vni) {
            Some(side) => format!("peering {} of VPC {}", side.peering, side.vpc),
            // A side that is being removed.
            None => format!("side {vni}"),
        },
    }
}

fn vpc_of(config: &SharedHostConfig, vni: Vni) -> Option<&VpcId> {
    config.vrfs.iter().find(|(_, vrf)| vrf.vni == vni).map(|(vpc, _)| vpc)
}

/// The scope of packets with a VNI.
fn of_vni(config: &SharedHostConfig, vni: Vni) -> Scope {
    match vpc_of(config, vni) {
        _ if config.sides.contains_key(&vni) => Scope::Side(vni),
        Some(vpc) => Scope::Vpc(vpc.clone()),
        None => Scope::Host,
    }
}

fn of_route(config: &SharedHostConfig, key: &RouteKey) -> Scope {
    let Some(vpc) = ownership::table_vni(key.table).and_then(|vni| vpc_of(config, vni)) else { return Scope::Host };
    let mut sides = config.sides.iter().filter(|(_, side)| side.vpc == *vpc);
    sides
        .find(|(_, side)| side.peer_cidrs.iter().any(|cidr| cidr.contains(&key.prefix)))
        .map_or_else(|| Scope::Vpc(vpc.clone()), |(vni, _)| Scope::Side(*vni))
}

/// The scope of an operation.
pub fn of_operation(config: &SharedHostConfig, operation: &Operation) -> Scope {
    match operation {
        Operation::AddRule(_)
        | Operation::RemoveRule(_)
        | Operation::EnableIpv6Forwarding
        | Operation::AddGuard(..)
        | Operation::RemoveGuard(_)
        | Operation::RemoveNexthop(_) => Scope::Host,
        Operation::SetSenders(vni, _) | Operation::RemoveSenders(vni) => of_vni(config, *vni),
        Operation::RemoveLinks(names) => match names.as_slice() {
            [name] => of_device(config, name),
            _ => Scope::Host,
        },
        Operation::AddVrf(name, _)
        | Operation::AddVxlan(name, _)
        | Operation::ChangeLink(name, _)
        | Operation::AddIngress(name)
        | Operation::RemoveIngress(name)
        | Operation::SetFilter(name, ..)
        | Operation::RemoveFilter(name, _)
        | Operation::AddShaper(name)
        | Operation::SetRate(name, _)
        | Operation::SetQueue(name, _)
        | Operation::RemoveShaper(name)
        | Operation::Set(name, ..)
        | Operation::ResetToDefault(name, _) => of_device(config, name),
        Operation::AddAddress(address) | Operation::RemoveAddress(address) => of_device(config, &address.device),
        Operation::SetNeighbour(key, _) | Operation::RemoveNeighbour(key) => of_device(config, &key.device),
        Operation::SetFdb(key, _) | Operation::RemoveFdb(key) => of_device(config, &key.device),
        Operation::AddNexthop(_, nexthop) => of_device(config, &nexthop.device),
        Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
            of_route(config, &route.key)
        }
    }
}

/// The scopes that problems keep back, each with the revision it had before. `had` is the configuration that `last` was
/// about.
pub fn behind(last: &HostReport, had: Option<&SharedHostConfig>, problems: &[Problem]) -> Vec<Behind> {
    let mut scopes: BTreeSet<&Scope> = problems.iter().map(|problem| &problem.scope).collect();
    if scopes.contains(&Scope::Host) {
        // Nothing is known to have improved.
        scopes.extend(last.behind.iter().map(|behind| &behind.scope));
    }
    let was_there = |scope: &Scope| match scope {
        Scope::Host => had.is_some(),
        Scope::Vpc(vpc) => had.is_some_and(|config| config.vrfs.contains_key(vpc)),
        Scope::Side(vni) => had.is_some_and(|config| config.sides.contains_key(vni)),
    };
    let applied = |scope: &Scope| if was_there(scope) { last.applied_to(scope) } else { None };
    scopes.into_iter().map(|scope| Behind { scope: scope.clone(), applied: applied(scope) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Side, config_with_sides};
    use cps_peering_config::{Revision, report::ProblemKind};

    fn config(number: u64, sides: &[u32]) -> SharedHostConfig {
        config_with_sides(number, sides.iter().copied().map(Side::unlimited))
    }

    fn side(vni: u32) -> Scope {
        Scope::Side(vni.try_into().unwrap())
    }

    #[test]
    fn the_log_names_the_peering_of_a_side() {
        let config = config(1, &[20]);
        assert_eq!(words(&config, &side(20)), "peering p20 of VPC vpc-a");
        assert_eq!(words(&config, &side(21)), "side 21");
        assert_eq!(words(&config, &Scope::Vpc("vpc-a".parse().unwrap())), "VPC vpc-a");
        assert_eq!(words(&config, &Scope::Host), "host");
    }

    fn problem(scope: Scope) -> Problem {
        Problem { scope, kind: ProblemKind::Failed, object: "route".into(), reason: "no".into() }
    }

    /// What the agent reports after each of these passes: a configuration and what was wrong.
    fn after(passes: &[(&SharedHostConfig, &[Scope])]) -> HostReport {
        let text = r#"{ "version": "0", "host": null, "desired": null, "applied": null, "problems": [], "last_pass": null,
            "counters": { "passes": 0, "operations": 0, "failures": 0, "drift_repaired": 0 } }"#;
        let mut report: HostReport = serde_json::from_str(text).unwrap();
        let mut had = None;
        for (config, wrong) in passes {
            let problems: Vec<Problem> = wrong.iter().cloned().map(problem).collect();
            report.behind = behind(&report, had, &problems);
            report.applied = Some(config.revision);
            had = Some(*config);
        }
        let (last, _) = passes.last().unwrap();
        report.with_standings(last)
    }

    fn applied(report: &HostReport, vni: u32) -> Option<u64> {
        report.sides[&Vni::try_from(vni).unwrap()].applied.map(|revision| revision.number)
    }

    #[test]
    fn a_side_that_cannot_be_changed_keeps_its_revision_and_the_others_go_on() {
        let configs = [config(1, &[7, 9]), config(2, &[7, 9]), config(3, &[7, 9])];
        let report = after(&[(&configs[0], &[]), (&configs[1], &[side(7)]), (&configs[2], &[side(7)])]);
        assert_eq!((applied(&report, 7), applied(&report, 9)), (Some(1), Some(3)));
        let vrf = report.vrfs[&"vpc-a".parse::<VpcId>().unwrap()];
        assert_eq!((vrf.applied, vrf.desired), (Some(configs[2].revision), Revision { epoch: 1, number: 3 }));
        let report = after(&[(&configs[0], &[]), (&configs[1], &[side(7)]), (&configs[2], &[])]);
        assert!(applied(&report, 7) == Some(3) && report.behind.is_empty());
    }

    #[test]
    fn a_side_that_never_was_there_has_no_revision() {
        let configs = [config(1, &[7]), config(2, &[7, 9]), config(3, &[7, 9])];
        let report = after(&[(&configs[0], &[]), (&configs[1], &[side(9)]), (&configs[2], &[side(9)])]);
        assert_eq!((applied(&report, 7), applied(&report, 9)), (Some(3), None));
    }

    #[test]
    fn what_concerns_the_host_keeps_everything_back() {
        let configs = [config(1, &[7]), config(2, &[7])];
        let report = after(&[(&configs[0], &[]), (&configs[1], &[Scope::Host])]);
        assert_eq!(applied(&report, 7), Some(1));
        let report = after(&[(&configs[0], &[Scope::Host])]);
        assert_eq!(applied(&report, 7), None);
        let report = after(&[(&configs[0], &[side(7)]), (&configs[1], &[Scope::Host])]);
        assert_eq!(applied(&report, 7), None, "it was not right before either");
    }
}
