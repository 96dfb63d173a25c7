//! What comes before what, so that nothing is lost and nothing leaks meanwhile.

use super::*;

#[test]
fn traffic_stops_with_the_first_operations() {
    let mut kernel = host();
    let world = small_world();
    converge(&mut kernel, &world.desired());
    let mut unpeered = world;
    unpeered.peered[0][1] = false;
    let plan = diff(&unpeered.desired(), &kernel.observe_all().unwrap());
    let is_stop = |operation: &Operation| match operation {
        Operation::RemoveRoute(route) => route.via != Via::Unreachable,
        _ => matches!(operation, Operation::RemoveFdb(_) | Operation::RemoveNexthop(_)),
    };
    let stops = plan.operations.iter().take_while(|operation| is_stop(operation)).count();
    assert!(stops > 0 && !plan.operations[stops..].iter().any(is_stop), "{plan:#?}");
    // Without its forwarding entries a device sends nothing, whatever still points to it.
    assert!(
        matches!(plan.operations[..3], [Operation::RemoveFdb(_), Operation::RemoveFdb(_), Operation::RemoveNexthop(_)]),
        "{plan:#?}"
    );
    let devices = plan.operations.iter().position(|operation| matches!(operation, Operation::RemoveLinks(_)));
    let backstop = |operation: &Operation| matches!(operation, Operation::RemoveRoute(_)) && !is_stop(operation);
    assert!(plan.operations.iter().position(backstop) > devices, "{plan:#?}");
    // The kernel deletes them with their next hop; one by one they would take longer.
    assert!(!plan.operations.iter().any(|operation| {
        matches!(operation, Operation::RemoveRoute(route) if matches!(route.via, Via::Nexthop(_)))
    }));
}

/// C9: what stays reachable has a route at every moment, also if the prefix around it becomes another one.
#[test]
fn a_prefix_that_becomes_narrower_or_wider_is_routed_all_the_time() {
    let half = |text: &str| RouteKey::unicast(ownership::table(vni(10)), net(text));
    let place = |plan: &Plan, wanted: &dyn Fn(&Operation) -> bool| plan.operations.iter().position(wanted).unwrap();
    let shadows = std::cell::Cell::new(0);
    let check = |before: &World, after: &World, added: &str, removed: &str| {
        let mut kernel = host();
        converge(&mut kernel, &before.desired());
        let plan = diff(&after.desired(), &kernel.observe_all().unwrap());
        let comes = |it: &Operation| matches!(it, Operation::AddRoute(route) if route.key == half(added));
        let goes = |it: &Operation| matches!(it, Operation::RemoveRoute(route) if route.key == half(removed));
        assert!(place(&plan, &comes) < place(&plan, &goes), "{plan:#?}");
        // The unreachable route of the narrower prefix would be the more specific one.
        let backstop = RouteKey::backstop(ownership::table(vni(10)), net(added));
        let shadow = |it: &Operation| matches!(it, Operation::AddRoute(route) if route.key == backstop);
        if let Some(shadow) = plan.operations.iter().position(shadow) {
            assert!((place(&plan, &comes)..place(&plan, &goes)).contains(&shadow), "{plan:#?}");
            shadows.set(shadows.get() + 1);
        }
        let backstop = RouteKey::backstop(ownership::table(vni(10)), net(removed));
        let shadow = |it: &Operation| matches!(it, Operation::RemoveRoute(route) if route.key == backstop);
        if let Some(shadow) = plan.operations.iter().position(shadow) {
            assert!((place(&plan, &comes)..place(&plan, &goes)).contains(&shadow), "{plan:#?}");
            shadows.set(shadows.get() + 1);
        }
    };
    let whole = small_world();
    let mut part = whole.clone();
    // All of VPC 0, and of VPC 1 half of its port here.
    part.scopes[0][1] = 1 | 0b111 << 1 | 0b001 << 4;
    check(&whole, &part, "10.1.0.0/25", "10.1.0.0/24");
    check(&part, &whole, "10.1.0.0/24", "10.1.0.0/25");
    assert_eq!(shadows.get(), 2, "the narrower one has an unreachable route of its own");
    // What is no longer reached is removed immediately.
    let mut kernel = host();
    converge(&mut kernel, &whole.desired());
    let plan = diff(&part.desired(), &kernel.observe_all().unwrap());
    let other = |it: &Operation| matches!(it, Operation::RemoveRoute(route) if route.key == half("fd00:1::/64"));
    assert!(place(&plan, &other) < place(&plan, &|it| matches!(it, Operation::AddRoute(_))), "{plan:#?}");
}

/// C9: what is rejected both before and after a change is rejected at every moment.
#[test]
fn rejecting_programs_are_never_overwritten() {
    let mut before = small_world();
    before.scopes[0][1] = 1 | 0b001 << 1 | 0b111 << 4;
    let mut after = before.clone();
    after.peered[0][2] = true;
    after.scopes[0][1] = 1 | 0b100 << 1 | 0b111 << 4;
    let mut kernel = host();
    converge(&mut kernel, &before.desired());
    let observed = kernel.observe_all().unwrap();
    let plan = diff(&after.desired(), &observed);
    let (mut added, mut removed) = (0, BTreeSet::new());
    let routes = plan
        .operations
        .iter()
        .rposition(|it| matches!(it, Operation::RemoveRoute(route) if route.via != Via::Unreachable));
    let first = plan
        .operations
        .iter()
        .position(|it| matches!(it, Operation::RemoveFilter(_, place) if place.priority == ownership::REJECT_PRIORITY));
    assert!(routes < first, "routes to what was rejected go before: {plan:#?}");
    for operation in &plan.operations {
        match operation {
            Operation::SetFilter(device, place, IngressFilter::Reject(_)) => {
                let there = observed.ingress.get(device).is_some_and(|it| it.filters.contains_key(place));
                assert!(!there && !removed.contains(device), "{device} {place:?}: {plan:#?}");
                added += 1;
            }
            Operation::RemoveFilter(device, place) if place.priority == ownership::REJECT_PRIORITY => {
                removed.insert(*device);
            }
            _ => {}
        }
    }
    assert!(added > 0 && !removed.is_empty(), "{plan:#?}");
    converge(&mut kernel, &after.desired());
}

#[test]
fn a_prefix_that_moves_between_hosts_is_routed_all_the_time() {
    let mut kernel = host();
    let world = small_world();
    converge(&mut kernel, &world.desired());
    let mut config = world.config().into_inner();
    for side in config.sides.values_mut() {
        side.remotes = side.remotes.values().map(|prefixes| (vtep(3), prefixes.clone())).collect();
    }
    let desired = compile(&config.try_into().unwrap(), SURROUNDINGS, &DirtySet::Everything);
    let plan = diff(&desired, &kernel.observe_all().unwrap());
    assert!(!plan.operations.iter().any(|operation| matches!(operation, Operation::RemoveRoute(_))), "{plan:#?}");
    let place = |wanted: fn(&Operation) -> bool| plan.operations.iter().rposition(wanted).unwrap();
    let replaced = place(|operation| matches!(operation, Operation::ReplaceRoute(_)));
    let removed = plan.operations.iter().position(|operation| matches!(operation, Operation::RemoveNexthop(_)));
    assert!(removed.is_some_and(|removed| removed > replaced), "{plan:#?}");
    converge(&mut kernel, &desired);
}

#[test]
fn a_port_is_down_and_without_addresses_before_it_leaves_its_vrf() {
    let mut kernel = host();
    converge(&mut kernel, &small_world().desired());
    let plan = diff(&Desired::default(), &kernel.observe_all().unwrap());
    let port: InterfaceName = "port0".parse().unwrap();
    let place = |wanted: &dyn Fn(&Operation) -> bool| plan.operations.iter().rposition(wanted).unwrap();
    let address = place(&|it| matches!(it, Operation::RemoveAddress(address) if address.device == port));
    let down = place(&|it| *it == Operation::ChangeLink(port, LinkChange::Up(false)));
    let release = place(&|it| *it == Operation::ChangeLink(port, LinkChange::Release));
    let vrf = place(&|it| matches!(it, Operation::RemoveLinks(_)));
    assert!(address < release && down < release && release < vrf, "{plan:#?}");
}

/// A move from one VRF to another leaves the kernel with none in between.
#[test]
fn a_port_or_tunnel_is_down_while_it_changes_its_vrf() {
    let mut kernel = host();
    let desired = small_world().desired();
    converge(&mut kernel, &desired);
    let vrfs: Vec<InterfaceName> = desired.vrfs.keys().copied().collect();
    let members = desired.ports.iter().map(|(port, vrf)| (*port, *vrf));
    for (device, vrf) in members.chain(desired.vxlans.iter().map(|(name, vxlan)| (*name, vxlan.vrf))) {
        let mut observed = kernel.observe_all().unwrap();
        let other = vrfs.iter().find(|other| **other != vrf).unwrap();
        let other = observed.links[other].index;
        let link = observed.links.get_mut(&device).unwrap();
        (link.master, link.up) = (Some(other), true);
        let plan = diff(&desired, &observed);
        let place = |change: LinkChange| {
            let wanted = Operation::ChangeLink(device, change);
            plan.operations.iter().position(|it| *it == wanted).unwrap_or_else(|| panic!("{wanted} lacks: {plan:#?}"))
        };
        let places = [LinkChange::Up(false), LinkChange::Enslave(vrf), LinkChange::Up(true)].map(place);
        assert!(places.is_sorted(), "{plan:#?}");
    }
}

/// The kernel releases a VRF's members before the VRF is deleted, and those that are up would receive packets for table
/// main.
#[test]
fn tunnels_go_before_the_vrf_that_they_are_in() {
    let mut kernel = host();
    converge(&mut kernel, &small_world().desired());
    let plan = diff(&Desired::default(), &kernel.observe_all().unwrap());
    let removed: Vec<&Vec<InterfaceName>> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::RemoveLinks(names) => Some(names),
            _ => None,
        })
        .collect();
    let [tunnels, vrfs] = removed[..] else { panic!("{removed:?}") };
    let is_vrf = |name: &InterfaceName| name.as_str().starts_with("cpsvrf");
    assert!(!tunnels.is_empty() && !tunnels.iter().any(is_vrf) && vrfs.iter().all(is_vrf), "{removed:?}");
}
