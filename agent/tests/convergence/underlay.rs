//! The underlay filter.

use super::*;

/// All VPCs are peered with each other, on all hosts.
fn full_world() -> World {
    let all = [[true; VPCS as usize]; VPCS as usize];
    World {
        ports: [[true; HOSTS as usize]; VPCS as usize],
        peered: all,
        limits: [[0; VPCS as usize]; VPCS as usize],
        scopes: [[0; VPCS as usize]; VPCS as usize],
    }
}

fn is_tunnel(name: &InterfaceName) -> bool {
    DeviceName::parse(name).is_some_and(|device| device.role != ownership::Role::Vrf)
}

#[test]
fn senders_are_set_before_the_first_device_is_up_and_until_the_last_is_gone() {
    let mut kernel = host();
    {
        let mut state = kernel.state();
        let bond = state.add_link("bond0", LinkKind::Aggregate).index;
        state.add_link("eth1", LinkKind::Other).master = Some(bond);
    }
    let desired = full_world().desired();
    let plans = converge(&mut kernel, &desired);
    let operations = &plans[0].operations;
    let place = |wanted: &dyn Fn(&Operation) -> bool| operations.iter().position(wanted);
    let first_up = place(&|it| matches!(it, Operation::ChangeLink(name, LinkChange::Up(true)) if is_tunnel(name)));
    let last = |wanted: &dyn Fn(&Operation) -> bool| operations.iter().rposition(wanted);
    assert!(last(&|it| matches!(it, Operation::SetSenders(..))) < first_up);
    assert!(last(&|it| matches!(it, Operation::AddGuard(..))) < first_up && first_up.is_some());
    {
        let state = kernel.state();
        assert_eq!(state.seen.underlay.senders.as_ref(), Some(&desired.senders));
        let tunnels = desired.vxlans.keys().filter_map(DeviceName::parse).map(|device| device.vni);
        assert!(tunnels.eq(desired.senders.keys().copied()) || desired.senders.len() == desired.vxlans.len());
        let kind = |name: &str| state.seen.underlay.guarded.get(&name.parse().unwrap()).copied().flatten();
        for name in ["lo", "eth0", "flannel.1", "mgmt", "bond0"] {
            assert_eq!(kind(name), Some(GuardKind::Device), "{name}");
        }
        assert_eq!((kind("eth1"), kind("port0")), (Some(GuardKind::Member), None));
    }
    // A host that no longer takes part: no host may send before the devices are deleted, and the VNIs are ours until
    // then.
    let plans = converge(&mut kernel, &Desired::default());
    let operations = &plans[0].operations;
    let gone = operations.iter().position(|it| matches!(it, Operation::RemoveLinks(names) if is_tunnel(&names[0])));
    for (place, operation) in operations.iter().enumerate() {
        match operation {
            Operation::SetSenders(_, senders) => assert!(senders.is_empty() && Some(place) < gone),
            Operation::RemoveSenders(_) | Operation::RemoveGuard(_) => assert!(Some(place) > gone),
            _ => {}
        }
    }
    let state = kernel.state();
    assert!(state.seen.underlay.guarded.is_empty() && state.seen.ingress.is_empty(), "{:?}", state.seen.underlay);
    assert_eq!(state.seen.underlay.senders.as_ref().map(BTreeMap::len), Some(0));
}

#[test]
fn changes_of_the_underlay_filter_are_repaired() {
    let mut kernel = host();
    let desired = full_world().desired();
    converge(&mut kernel, &desired);
    let right = kernel.state().seen.underlay.clone();
    {
        let mut state = kernel.state();
        let eth0 = "eth0".parse().unwrap();
        state.seen.underlay.guarded.remove(&eth0);
        state.seen.underlay.guarded.insert("lo".parse().unwrap(), Some(GuardKind::Member));
        let senders = state.seen.underlay.senders.as_mut().unwrap();
        let (first, second) = (*senders.keys().next().unwrap(), *senders.keys().nth(1).unwrap());
        senders.remove(&first);
        senders.get_mut(&second).unwrap().insert("203.0.113.9".parse().unwrap());
        senders.insert(vni(4_242_424), BTreeSet::new());
    }
    assert_eq!(converge(&mut kernel, &desired).len(), 1);
    assert_eq!(kernel.state().seen.underlay, right);
}

#[test]
fn without_the_underlay_filter_nothing_is_accepted_from_it() {
    for up_before in [false, true] {
        let mut kernel = host();
        let desired = full_world().desired();
        if up_before {
            converge(&mut kernel, &desired);
        }
        {
            let mut state = kernel.state();
            state.seen.underlay.unavailable = true;
            state.seen.underlay.senders = Some(BTreeMap::default());
            state.seen.underlay.guarded.clear();
        }
        for _ in 0..3 {
            let plan = diff(&desired, &kernel.observe_all().unwrap());
            let refused = kernel.apply(&plan.operations).unwrap();
            assert!(!refused.is_empty(), "it is reported");
        }
        let state = kernel.state();
        let tunnels: Vec<_> = state.seen.links.iter().filter(|(name, _)| is_tunnel(name)).collect();
        assert!(tunnels.len() == desired.vxlans.len() && tunnels.iter().all(|(_, link)| !link.up));
    }
}

#[test]
fn an_interface_that_may_be_renamed_is_no_port_yet() {
    let mut kernel = host();
    let port: InterfaceName = "port0".parse().unwrap();
    kernel.state().seen.links.get_mut(&port).unwrap().may_be_renamed = true;
    let desired = full_world().desired();
    converge(&mut kernel, &desired);
    assert_eq!(kernel.state().seen.links[&port].master, None);
    let conflicts = diff(&desired, &kernel.observe_all().unwrap()).conflicts;
    assert!(conflicts.iter().any(|it| it.device == port && it.reason.contains("udev")), "{conflicts:?}");
    kernel.state().seen.links.get_mut(&port).unwrap().may_be_renamed = false;
    converge(&mut kernel, &desired);
    assert!(kernel.state().seen.links[&port].master.is_some());
}
