//! A VPC whose VRF, port or tunnel is in conflict while it is in use fails closed, and recovers when the conflict is
//! over.

use super::{SURROUNDINGS, converge, fresh, host, meaning, small_world, vni};
use cps_peering_agent::{
    compile::compile,
    diff::{Plan, diff},
    dirty_set::DirtySet,
    kernel::{
        Kernel,
        memory::{Memory, State},
    },
    objects::{
        Desired, Family, FilterHandle, LinkChange, LinkKind, Lookup, Operation, RuleAhead, Via,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict},
    },
    ownership,
};
use cps_peering_config::{net::InterfaceName, report::ProblemKind};

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn desired() -> Desired {
    compile(&small_world().config(), SURROUNDINGS, &DirtySet::Everything)
}

/// Changes something in a kernel in which all was right.
fn after(change: impl FnOnce(&mut State)) -> (Memory, Plan) {
    let mut kernel = host();
    converge(&mut kernel, &desired());
    change(&mut kernel.state());
    converge(&mut kernel, &desired());
    let plan = diff(&desired(), &kernel.observe_all().unwrap());
    (kernel, plan)
}

fn rename(state: &mut State, from: &str, to: &str) {
    let link = state.seen.links.remove(&name(from)).unwrap();
    state.seen.links.insert(name(to), link);
}

fn set_group(state: &mut State, device: &str, group: u32) {
    state.seen.links.get_mut(&name(device)).unwrap().group = group;
}

fn enslave(state: &mut State, device: &str, master: u32) {
    state.seen.links.get_mut(&name(device)).unwrap().master = Some(master);
    state.goes_down(&name(device));
}

/// Another program's device takes the place of the VRF of VPC 0.
fn replace_vrf(state: &mut State, table: u32) -> u32 {
    state.remove_link(&name("cpsvrf10"));
    let link = state.add_link("cpsvrf10", LinkKind::Vrf(table));
    link.up = true;
    link.index
}

/// A change to the VRF of VPC 0 by name, and the device that the conflict names.
type Case = (&'static str, fn(&mut State), &'static str);

/// Ends a conflict.
type Undo = fn(&mut State);

const VRF_CASES: [Case; 7] = [
    ("its group is changed", |state| set_group(state, "cpsvrf10", 0), "cpsvrf10"),
    (
        "another VRF uses its table",
        |state| {
            state.add_link("tenant", LinkKind::Vrf(ownership::table(vni(10))));
        },
        "tenant",
    ),
    ("it is renamed", |state| rename(state, "cpsvrf10", "mine"), "mine"),
    (
        "another takes its place, on the same table",
        |state| {
            replace_vrf(state, ownership::table(vni(10)));
        },
        "cpsvrf10",
    ),
    (
        "another takes its place, on another table",
        |state| {
            replace_vrf(state, 500);
        },
        "cpsvrf10",
    ),
    (
        "another takes its place and its port",
        |state| {
            let index = replace_vrf(state, 500);
            enslave(state, "port0", index);
        },
        "cpsvrf10",
    ),
    (
        "it is renamed and its group changed",
        |state| {
            set_group(state, "cpsvrf10", 7);
            rename(state, "cpsvrf10", "mine");
        },
        "mine",
    ),
];

#[test]
fn ports_and_tunnels_of_a_vpc_whose_vrf_is_in_conflict_carry_nothing() {
    for (what, change, culprit) in VRF_CASES {
        let (kernel, plan) = after(change);
        let state = kernel.state();
        let told = plan.conflicts.iter().find(|conflict| conflict.device == name("cpsvrf10"));
        assert!(told.is_some_and(|told| told.reason.contains(culprit)), "{what}: {:#?}", plan.conflicts);
        for device in ["port0", "cpspeer1001", "cpsvpc10"] {
            assert!(!state.seen.links[&name(device)].up, "{what}: {device} is up");
        }
        let port = state.seen.links[&name("port0")].index;
        let leads = |via: Via| via == Via::Device(port);
        assert!(!state.seen.routes.iter().any(|route| leads(route.via)), "{what}: something leads to the port");
        let table = ownership::table(vni(10));
        let own = state.seen.routes.iter().filter(|route| route.key.table == table);
        assert!(own.clone().all(|route| route.via == Via::Unreachable), "{what}: table {table} leads somewhere");
        if state.seen.links.values().any(|link| link.kind == LinkKind::Vrf(table)) {
            let defaults = own.filter(|route| route.key.prefix.prefix_len() == 0).count();
            assert_eq!(defaults, 2, "{what}: backstops");
        }
        // The other VPC goes on.
        assert!(state.seen.links[&name("port1")].up, "{what}");
        let locals = state.seen.rules.iter().filter(|rule| rule.lookup == Lookup::Local);
        assert!(locals.clone().count() == 2 && locals.clone().all(|rule| rule.priority == 1001), "{what}");
    }
}

#[test]
fn the_last_vpc_in_conflict_keeps_the_hosts_rules() {
    let mut config = small_world().config().into_inner();
    config.vrfs.retain(|_, vrf| vrf.vni == vni(10));
    config.sides.clear();
    let desired = compile(&config.try_into().unwrap(), SURROUNDINGS, &DirtySet::Everything);
    for (what, change, _) in VRF_CASES.into_iter().filter(|(what, ..)| !what.contains("another table")) {
        let mut kernel = host();
        converge(&mut kernel, &desired);
        change(&mut kernel.state());
        converge(&mut kernel, &desired);
        if kernel.state().seen.links.values().all(|link| link.kind != LinkKind::Vrf(ownership::table(vni(10)))) {
            continue;
        }
        let locals = |kernel: &Memory| {
            let state = kernel.state();
            let locals = state.seen.rules.iter().filter(|rule| rule.lookup == Lookup::Local);
            locals.map(|rule| rule.priority).collect::<Vec<_>>()
        };
        assert_eq!(locals(&kernel), [1001; 2], "{what}");
        // Also when the VPC is removed, as long as another VRF exists on its table.
        converge(&mut kernel, &Desired::default());
        let stands =
            kernel.state().seen.links.values().any(|link| link.kind == LinkKind::Vrf(ownership::table(vni(10))));
        assert_eq!(locals(&kernel), [if stands { 1001 } else { 0 }; 2], "{what}");
    }
}

#[test]
fn a_vpc_that_is_removed_in_conflict_leaves_no_port_up_and_its_backstops_while_something_is_in_the_vrf() {
    for (what, change, _) in VRF_CASES {
        for closed_before in [true, false] {
            let mut kernel = host();
            converge(&mut kernel, &desired());
            change(&mut kernel.state());
            if closed_before {
                converge(&mut kernel, &desired());
            }
            let table = ownership::table(vni(10));
            let stays = {
                // Another program's device is in the VRF, too.
                let mut state = kernel.state();
                let vrf = state
                    .seen
                    .links
                    .iter()
                    .find(|(name, link)| link.kind == LinkKind::Vrf(table) && !state.seen.owns(name));
                let index = vrf.map(|(_, link)| link.index);
                let ours = |name: &str| ["cpsvrf10", "mine"].contains(&name);
                let foreign = vrf.is_some_and(|(name, _)| !ours(&name.as_str()));
                if let Some(index) = index.filter(|_| foreign) {
                    let member = state.add_link("member", LinkKind::Other);
                    (member.up, member.master) = (true, Some(index));
                }
                foreign
            };
            converge(&mut kernel, &Desired::default());
            let state = kernel.state();
            let link = &state.seen.links[&name("port0")];
            assert!(!link.up, "{what}: the port is up");
            assert!(!state.seen.links.keys().any(|name| state.seen.owns(name)), "{what}");
            let backstops = state.seen.routes.iter().filter(|route| route.key.table == table).count();
            let on_table =
                |index| state.seen.links.values().any(|link| link.index == index && link.kind == LinkKind::Vrf(table));
            let in_use = state.seen.links.values().any(|link| link.master.is_some_and(on_table));
            assert!(in_use || !stays, "{what}");
            assert_eq!(backstops, if in_use { 2 } else { 0 }, "{what}");
            if stays {
                assert!(state.seen.links[&name("member")].up, "{what}: another program's device was changed");
            }
        }
    }
}

#[test]
fn what_was_closed_comes_back_when_the_conflict_is_over() {
    let heals: [(Case, Undo); 3] = [
        (VRF_CASES[0], |state| set_group(state, "cpsvrf10", ownership::GROUP)),
        (VRF_CASES[1], |state| state.remove_link(&name("tenant"))),
        (VRF_CASES[2], |state| rename(state, "mine", "cpsvrf10")),
    ];
    for ((what, change, _), undo) in heals {
        let (mut kernel, _) = after(change);
        undo(&mut kernel.state());
        converge(&mut kernel, &desired());
        let (now, fresh) = (meaning(&kernel.state().seen), fresh(&desired()));
        let differs: Vec<_> = now.symmetric_difference(&fresh).collect();
        assert!(differs.is_empty(), "{what}: {differs:?}");
    }
}

#[test]
fn a_port_that_is_taken_elsewhere_is_closed_there_and_one_that_never_was_ours_is_not_touched() {
    for kind in [LinkKind::Other, LinkKind::Vrf(1001)] {
        let (kernel, plan) = after(|state| {
            let master = state.add_link("theirs", kind).index;
            enslave(state, "port0", master);
        });
        let told = plan.conflicts.iter().find(|conflict| conflict.device == name("port0")).unwrap();
        assert!(told.kind == ProblemKind::Conflict && told.reason.contains("theirs"), "{told:?}");
        assert!(!kernel.state().seen.links[&name("port0")].up);
    }
    let mut kernel = host();
    {
        let mut state = kernel.state();
        let master = state.add_link("br0", LinkKind::Other).index;
        let link = state.seen.links.get_mut(&name("port0")).unwrap();
        (link.up, link.master) = (true, Some(master));
    }
    converge(&mut kernel, &desired());
    assert!(kernel.state().seen.links[&name("port0")].up);
}

/// It would be taken if the VRF could be made, so it belongs to no other program.
#[test]
fn an_interface_that_cannot_become_a_port_yet_is_closed_unless_another_program_has_it() {
    let is_up = |address: Option<&str>| {
        let mut kernel = host();
        {
            let mut state = kernel.state();
            state.add_link("cpsvrf10", LinkKind::Other);
            state.seen.links.get_mut(&name("port0")).unwrap().up = true;
            if let Some(address) = address {
                state.add_foreign_address("port0", address);
            }
        }
        converge(&mut kernel, &desired());
        kernel.state().seen.links[&name("port0")].up
    };
    assert!(!is_up(None));
    assert!(is_up(Some("198.51.100.7/24")));
}

#[test]
fn a_tunnel_that_is_no_longer_ours_does_not_stay_in_the_vrf() {
    for device in ["cpspeer1001", "cpsvpc10"] {
        let (kernel, plan) = after(|state| set_group(state, device, 0));
        assert!(plan.conflicts.iter().any(|conflict| conflict.device == name(device)), "{:#?}", plan.conflicts);
        let state = kernel.state();
        let link = &state.seen.links[&name(device)];
        assert!(!link.up && link.master.is_none(), "{device}");
    }
}

#[test]
fn what_is_closed_goes_down_before_anything_else_is_done() {
    let mut kernel = host();
    converge(&mut kernel, &desired());
    set_group(&mut kernel.state(), "cpsvrf10", 0);
    let plan = diff(&desired(), &kernel.observe_all().unwrap());
    let down = |operation: &Operation| matches!(operation, Operation::ChangeLink(_, LinkChange::Up(false)));
    let first = plan.operations.iter().take_while(|operation| down(operation)).count();
    assert!(first >= 3 && !plan.operations[first..].iter().any(down), "{plan:#?}");
}

#[test]
fn a_device_that_is_left_alone_is_closed_and_the_rest_goes_on() {
    for device in ["cpsvrf10", "port0", "cpspeer1001"] {
        let mut kernel = host();
        converge(&mut kernel, &desired());
        let resting =
            Desired { left_alone: [(name(device), "another program insists".to_owned())].into(), ..desired() };
        converge(&mut kernel, &resting);
        let plan = diff(&resting, &kernel.observe_all().unwrap());
        assert!(
            plan.conflicts.iter().any(|conflict| conflict.reason == "another program insists"),
            "{:#?}",
            plan.conflicts
        );
        let up = |name: &InterfaceName| kernel.state().seen.links[name].up;
        assert!(!up(&name(if device == "cpsvrf10" { "port0" } else { device })), "{device}");
        assert!(up(&name("port1")), "{device}");
        converge(&mut kernel, &desired());
        assert_eq!(meaning(&kernel.state().seen), fresh(&desired()), "{device}");
    }
}

#[test]
fn a_port_without_a_link_local_address_gets_one() {
    let mut kernel = host();
    converge(&mut kernel, &desired());
    let before = meaning(&kernel.state().seen);
    let of_port = |text: &String| text.contains("fe80::") && text.contains("port0");
    assert!(before.iter().any(of_port), "{before:#?}");
    kernel.state().seen.addresses.retain(|address, _| !address.net.to_string().starts_with("fe80"));
    converge(&mut kernel, &desired());
    assert_eq!(meaning(&kernel.state().seen), before);
}

/// The rules in front of l3mdev that are reported, if these exist.
fn reported(rules: &[RuleAhead]) -> Vec<String> {
    let mut kernel = host();
    converge(&mut kernel, &desired());
    kernel.state().seen.rules_ahead = rules.to_vec();
    let plan = diff(&desired(), &kernel.observe_all().unwrap());
    assert!(plan.operations.is_empty(), "{plan:#?}");
    plan.interference.into_iter().map(|it| it.object).filter(|object| object.contains("rule priority")).collect()
}

#[test]
fn a_rule_that_selects_a_mark_is_reported_if_a_packet_filter_marks_packets_of_tenants() {
    let marked = |family| RuleAhead {
        family,
        marked: true,
        text: "from all fwmark 0x1/0xffffffff lookup main".into(),
        priority: 500,
        ..RuleAhead::default()
    };
    let reported = |hook, device: &str, marks, rule: RuleAhead| {
        let mut kernel = host();
        converge(&mut kernel, &desired());
        let from = Match::In(vec![Pattern { name: device.into(), open: false }], Sense::Is);
        let marking = FilterRule { label: "rule 1".into(), matches: vec![from], marks, verdict: Verdict::Continue };
        kernel.state().seen.firewall.chains.push(Chain {
            backend: Backend::Legacy,
            scope: Scope::Ip(Family::V4),
            family: "ip",
            table: "mangle".into(),
            name: "CHAIN".into(),
            hook: Some(hook),
            drops: false,
            rules: vec![marking],
        });
        kernel.state().seen.rules_ahead = vec![rule];
        diff(&desired(), &kernel.observe_all().unwrap()).interference.len()
    };
    for device in ["port0", "cpsvrf10", "cpspeer1001"] {
        assert_eq!(reported(Hook::Prerouting, device, true, marked(Family::V4)), 1, "{device}");
    }
    assert_eq!(reported(Hook::Prerouting, "docker0", true, marked(Family::V4)), 0);
    assert_eq!(reported(Hook::Prerouting, "port0", false, marked(Family::V4)), 0);
    assert_eq!(reported(Hook::Prerouting, "port0", true, marked(Family::V6)), 0, "IPv4 is marked");
    assert_eq!(reported(Hook::Postrouting, "port0", true, marked(Family::V4)), 0, "it has been routed");
    let of_a_tunnel = RuleAhead { tunnel: true, ..marked(Family::V4) };
    assert_eq!(reported(Hook::Prerouting, "port0", true, of_a_tunnel), 0);
}

#[test]
fn rules_in_front_of_l3mdev_are_reported_where_they_can_select_what_tenants_send() {
    let rule = || RuleAhead { text: "from all lookup main".into(), priority: 500, ..RuleAhead::default() };
    let from = |prefix: &str| RuleAhead { from: Some(prefix.parse().unwrap()), ..rule() };
    let iif = |device: &str| RuleAhead { iif: Some(device.parse().unwrap()), ..rule() };
    let oif = |device: &str| RuleAhead { oif: Some(device.parse().unwrap()), ..rule() };
    let can = [
        rule(),
        RuleAhead { family: Family::V6, ..rule() },
        // VPC 0 is here, VPC 1 its peer: on other hosts, too.
        from("10.0.0.0/8"),
        from("10.0.0.9/32"),
        from("10.1.2.0/24"),
        from("0.0.0.0/1"),
        RuleAhead { family: Family::V6, ..from("fd00:1::/64") },
        RuleAhead { family: Family::V6, ..from("fe80::/64") },
        iif("port0"),
        iif("cpsvrf10"),
        iif("cpspeer1001"),
        iif("lo"),
        oif("cpsvrf10"),
        RuleAhead { inverted: true, marked: true, ..iif("eth0") },
    ];
    let cannot = [
        from("198.18.0.0/16"),
        RuleAhead { family: Family::V6, ..from("2001:db8::/32") },
        iif("eth0"),
        oif("eth0"),
        RuleAhead { marked: true, ..rule() },
        RuleAhead { tunnel: true, ..rule() },
        RuleAhead { root: false, ..rule() },
    ];
    for rule in can {
        assert_eq!(reported(std::slice::from_ref(&rule)), [rule.to_string()], "{rule:?}");
    }
    assert!(reported(&cannot).is_empty());
    // Without a VPC they concern no one.
    let observed = host().observe_all().unwrap();
    assert!(diff(&Desired::default(), &observed).interference.is_empty());
}

#[test]
fn an_interface_with_a_foreign_filter_in_our_place_was_no_port() {
    let mut kernel = host();
    converge(&mut kernel, &desired());
    let mut observed = kernel.observe_all().unwrap();
    let uplink = name("eth0");
    for priority in [ownership::ACCEPT_PRIORITY, ownership::DROP_PRIORITY, ownership::LIMIT_PRIORITY] {
        let place = FilterHandle { priority, handle: 1 };
        observed.ingress.entry(uplink).or_default().filters = [(place, None)].into();
        let plan = diff(&desired(), &observed);
        let touches =
            |operation: &&Operation| matches!(operation, Operation::ChangeLink(device, _) if *device == uplink);
        assert_eq!(plan.operations.iter().find(touches), None);
        assert!(!plan.operations.contains(&Operation::RemoveIngress(uplink)));
    }
}
