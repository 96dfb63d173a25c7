//! One object that is missing, is wrong, or belongs to another program.

use super::*;

#[test]
fn what_is_in_the_way_is_named_and_left_alone() {
    let (kind, reason) = conflict("port0", |memory| {
        memory.state().seen.links.remove(&"port0".parse::<InterfaceName>().unwrap());
    });
    assert_eq!((kind, reason.as_str()), (ProblemKind::Missing, "there is no interface port0"));

    let (kind, reason) = conflict("port0", |memory| {
        let mut state = memory.state();
        let bridge = state.add_link("br0", LinkKind::Other).index;
        state.seen.links.get_mut(&"port0".parse::<InterfaceName>().unwrap()).unwrap().master = Some(bridge);
    });
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("br0"), "{reason}");

    let (kind, reason) = conflict("port1", |memory| memory.state().add_foreign_address("port1", "198.51.100.7/24"));
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("198.51.100.7/24"), "{reason}");

    let (kind, reason) = conflict("cpspeer1001", |memory| {
        let tunnel = Tunnel { vni: vni(1001), port: 4789, local: vtep(0) };
        memory.state().add_link("vx7", LinkKind::Vxlan { tunnel: Some(tunnel), altered: true });
    });
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("vx7") && reason.contains("VNI 1001"), "{reason}");

    let (_, reason) = conflict("cpsvrf10", |memory| {
        memory.state().add_link("cpsvrf10", LinkKind::Other);
    });
    assert!(reason.contains("not ours"), "{reason}");

    // Name, kind and number are ours, the mark is not.
    let (kind, reason) = conflict("cpspeer1001", |memory| {
        let tunnel = Tunnel { vni: vni(1001), port: 4789, local: vtep(0) };
        memory.state().add_link("cpspeer1001", LinkKind::Vxlan { tunnel: Some(tunnel), altered: false });
    });
    assert_eq!(kind, ProblemKind::Conflict);
    assert!(reason.contains("not ours"), "{reason}");

    let (_, reason) = conflict("cpsvrf10", |memory| {
        memory.state().add_link("tenant", LinkKind::Vrf(ownership::table(vni(10))));
    });
    assert!(reason.contains("tenant"), "{reason}");
}

/// The plan for a small world that exists except for what `change` alters.
fn plan_after(change: impl FnOnce(&mut Observed)) -> Vec<Operation> {
    let mut kernel = host();
    let desired = small_world().desired();
    converge(&mut kernel, &desired);
    let mut observed = kernel.observe_all().unwrap();
    change(&mut observed);
    diff(&desired, &observed).operations
}

#[test]
fn routes_that_are_expanded_later_are_those_of_the_whole_plan() {
    let desired = small_world().desired();
    let observed = host().observe_all().unwrap();
    let lazy = lazy_diff(&desired, &observed);
    let operations: Vec<Operation> = lazy.operations().collect();
    let routes =
        operations.iter().filter(|it| matches!(it, Operation::AddRoute(route) if matches!(route.via, Via::Nexthop(_))));
    assert!(routes.count() > 0 && !lazy.is_empty());
    assert_eq!(lazy.len(), operations.len());
    assert_eq!(operations, diff(&desired, &observed).operations);
}

#[test]
fn an_address_of_another_program_is_reported_as_such() {
    let mut kernel = host();
    let desired = small_world().desired();
    converge(&mut kernel, &desired);
    kernel.state().add_foreign_address("port0", "198.51.100.7/24");
    let found = diff(&desired, &kernel.observe_all().unwrap()).interference;
    let found: Vec<_> = found.iter().map(|it| (it.kind, it.object.as_str())).collect();
    assert_eq!(found, [(InterferenceKind::Address, "address 198.51.100.7/24 dev port0")]);
}

#[test]
fn a_missing_or_wrong_neighbour_is_set_and_no_other() {
    let desired = small_world().desired();
    assert!(!desired.neighbours.is_empty());
    for (key, mac) in &desired.neighbours {
        let set = [Operation::SetNeighbour(*key, *mac)];
        assert_eq!(plan_after(|observed| _ = observed.neighbours.remove(key)), set);
        let wrong = Mac([2, 0, 9, 9, 9, 9]);
        // A misdirecting one is removed even while setting it is suspended.
        let plan = plan_after(|observed| *observed.neighbours.get_mut(key).unwrap() = wrong);
        assert_eq!(plan, [Operation::RemoveNeighbour(*key), set[0].clone()]);
    }
}

#[test]
fn a_forwarding_entry_is_removed_first_only_where_it_leads_elsewhere() {
    let desired = small_world().desired();
    assert!(!desired.fdb.is_empty());
    for (key, target) in &desired.fdb {
        let set = Operation::SetFdb(*key, *target);
        assert_eq!(plan_after(|observed| _ = observed.fdb.remove(key)), std::slice::from_ref(&set));
        let wrong = FdbTarget { vtep: vtep(9), ..*target };
        for there in [Some(wrong), None] {
            let plan = plan_after(|observed| _ = observed.fdb.insert(*key, there));
            assert_eq!(plan, [Operation::RemoveFdb(*key), set.clone()]);
        }
    }
}

#[test]
fn a_foreign_table_gets_no_route() {
    let table = ownership::table(vni(10));
    let mut kernel = host();
    kernel.state().add_link("tenant", LinkKind::Vrf(table));
    let plan = diff(&small_world().desired(), &kernel.observe_all().unwrap());
    let tables: BTreeSet<u32> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::AddRoute(route) | Operation::ReplaceRoute(route) => Some(route.key.table),
            _ => None,
        })
        .collect();
    assert!(!tables.is_empty() && !tables.contains(&table), "{tables:?}");
}

#[test]
fn of_several_routes_under_one_key_the_right_one_stays_alone() {
    let via = |route: &KernelRoute, via| KernelRoute { via, ..*route };
    let with = |others: &dyn Fn(&KernelRoute) -> Vec<KernelRoute>| {
        let mut changed = None;
        let plan = plan_after(|observed| {
            let place = observed.routes.iter().position(|route| matches!(route.via, Via::Nexthop(_))).unwrap();
            let right = observed.routes[place];
            let others = others(&right);
            observed.routes.splice(place..=place, others.iter().copied());
            changed = Some((right, others));
        });
        let (right, others) = changed.unwrap();
        (plan, right, others)
    };
    // Two wrong ones, neither of which can become the right one in place.
    let (plan, right, others) = with(&|right| vec![via(right, Via::Other), via(right, Via::Unreachable)]);
    assert_eq!(plan.len(), 3, "{plan:#?}");
    assert!(others.iter().all(|other| plan.contains(&Operation::RemoveRoute(*other))), "{plan:#?}");
    assert!(plan.contains(&Operation::AddRoute(right)), "{plan:#?}");
    // The right one, whether it comes first or last.
    for right_first in [true, false] {
        let (plan, right, _) = with(&|right| {
            let wrong = via(right, Via::Other);
            if right_first { vec![*right, wrong] } else { vec![wrong, *right] }
        });
        assert_eq!(plan, [Operation::RemoveRoute(via(&right, Via::Other))]);
    }
    // The right one twice: in others' eyes that is one too many.
    let (plan, right, _) = with(&|right| vec![*right, *right]);
    assert_eq!(plan, [Operation::RemoveRoute(right)]);
    // A single wrong one.
    let (plan, right, _) = with(&|right| vec![via(right, Via::Other)]);
    assert_eq!(plan, [Operation::ReplaceRoute(right)]);
}

#[test]
fn a_foreign_route_under_our_key_is_left_alone() {
    let mut kernel = host();
    let key = RouteKey::unicast(ownership::table(vni(10)), net("10.1.2.0/24"));
    kernel.state().foreign_routes.insert(key);
    let desired = small_world().desired();
    for _ in 0..2 {
        let plan = diff(&desired, &kernel.observe_all().unwrap());
        kernel.apply(&plan.operations).unwrap();
    }
    let plan = diff(&desired, &kernel.observe_all().unwrap());
    assert_eq!(plan.operations.len(), 1, "{plan:#?}");
    assert!(matches!(plan.operations[0], Operation::AddRoute(route) if route.key == key));
    assert!(kernel.state().foreign_routes.contains(&key));
}

#[test]
fn the_local_rule_is_behind_l3mdev_while_there_are_vrfs_and_never_missing() {
    let mut kernel = host();
    let locals = |kernel: &Memory| -> Vec<(u32, u8)> {
        let state = kernel.state();
        let rules = state.seen.rules.iter().filter(|rule| rule.lookup == Lookup::Local);
        rules.map(|rule| (rule.priority, rule.protocol)).collect()
    };
    let at_every_step = |kernel: &mut Memory, desired: &Desired| {
        let plan = diff(desired, &kernel.observe_all().unwrap());
        for operation in plan.operations {
            kernel.apply(&[operation]).unwrap();
            assert!(locals(kernel).len() >= 2, "one of each family at every moment");
        }
    };
    at_every_step(&mut kernel, &small_world().desired());
    converge(&mut kernel, &small_world().desired());
    assert_eq!(locals(&kernel), [(1001, ownership::PROTOCOL); 2]);
    at_every_step(&mut kernel, &Desired::default());
    converge(&mut kernel, &Desired::default());
    assert_eq!(locals(&kernel), [(0, 2); 2]);
    // An operator who followed the kernel's VRF guide has done it already.
    let mut kernel = host();
    {
        let mut state = kernel.state();
        for rule in &mut state.seen.rules {
            rule.priority = 32765;
        }
    }
    converge(&mut kernel, &small_world().desired());
    converge(&mut kernel, &Desired::default());
    assert_eq!(locals(&kernel), [(32765, 2); 2]);
}
