//! The rules, without I/O: what is refused and how, and invariants under random commands.

use crate::common::{Model, REGIONS, apply, built, cloud, create, delete, host, port, vpc};
use cps_peering_config::{
    ValidHostConfig,
    id::{HostId, VpcId},
    inventory::Inventory,
    net::overlap,
};
use cps_peering_controller::model::{
    Actor, Code, Command, Judge, Now, Outcome, Request, Transaction, decide,
    inventory::Action,
    peering::Create,
    record::{End, PeeringState},
    state::Change,
};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::IpAddr};

#[test]
fn each_wrong_entry_is_named_with_the_rule_it_breaks() {
    let cases = [
        (host(4, "mars"), "hosts[0] (h4)", "region mars is neither in the document nor known"),
        (host(4, "north").replace("http:", "ftp:"), "hosts[0] (h4)", "begins with http:// or https://"),
        (host(4, "north").replace("192.0.2.4\"", "192.0.2.1\""), "hosts[0] (h4)", "192.0.2.1 is that of host h1"),
        (host(4, "north").replace("192.0.2.4\"", "2001:db8::4\""), "hosts[0] (h4)", "not of the same family"),
        (format!("{}{}", host(4, "north"), host(4, "north")), "hosts[1] (h4)", "also hosts[0]"),
        (vpc("d", "north", r#""10.4.0.1/16""#), "vpcs[0] (d)", "10.4.0.1/16 has bits set behind its length"),
        (vpc("d", "north", r#""10.4.0.0/16", "10.4.5.0/24""#), "vpcs[0] (d)", "10.4.5.0/24 overlaps 10.4.0.0/16"),
        (vpc("d", "north", ""), "vpcs[0] (d)", "at least one CIDR"),
        (vpc("d", "north", r#""0.0.0.0/0""#), "vpcs[0] (d)", "whole address space"),
        (vpc("d", "north", r#""::ffff:10.0.0.0/104""#), "vpcs[0] (d)", "overlaps ::ffff:0.0.0.0/96"),
        (host(4, "north").replace("192.0.2.4\"", "::ffff:192.0.2.4\""), "hosts[0] (h4)", "write it as IPv4"),
        (vpc("a", "east", r#""10.1.0.0/16", "fd00:1::/48""#), "vpcs[0] (a)", "cannot change from north to east"),
        (port("h9", "eth1", "a", "10.1.9.1/24"), "ports[0] (h9/eth1)", "host h9 is neither"),
        (port("h1", "eth9", "z", "10.1.9.1/24"), "ports[0] (h1/eth9)", "VPC z is neither"),
        (port("h3", "eth9", "a", "10.1.9.1/24"), "ports[0] (h3/eth9)", "host h3 is in region east, and VPC a in north"),
        (port("h1", "cpsvrf7", "a", "10.1.9.1/24"), "ports[0] (h1/cpsvrf7)", "agent's own devices"),
        (port("h1", "eth9", "a", "10.9.0.1/24"), "ports[0] (h1/eth9)", "gateway 10.9.0.1/24 is in none of the CIDRs"),
        (
            port("h1", "eth9", "a", "10.1.0.9/25"),
            "ports[0] (h1/eth9)",
            "10.1.0.0/25 overlaps 10.1.0.0/24 of port h1/eth1",
        ),
        (
            format!("{}{}", port("h2", "eth9", "a", "10.1.9.1/24"), port("h2", "eth9", "b", "10.2.9.1/24")),
            "ports[1] (h2/eth9)",
            "a port belongs to one VPC",
        ),
        (
            format!("{}{}", vpc("d", "north", r#""10.1.5.0/24""#), peering("p", "a", "d")),
            "peerings[0] (p)",
            "10.1.5.0/24 of d overlaps 10.1.0.0/16 of a",
        ),
        (peering("p", "a", "a"), "peerings[0] (p)", "cannot be peered with itself"),
        (peering(&"x".repeat(33), "a", "b"), &format!("peerings[0] ({})", "x".repeat(33)), "1 to 32"),
    ];
    for (text, entry, rule) in cases {
        let refusal = built().apply(&text).unwrap_err();
        let found = refusal.violations.iter().any(|fault| fault.entry == entry && fault.rule.contains(rule));
        assert!(found, "expected {entry}: {rule}\nin {:#?}\nof {text}", refusal.violations);
    }
}

fn peering(name: &str, vpc: &str, peer: &str) -> String {
    format!("[[peerings]]\nname = \"{name}\"\nvpc = \"{vpc}\"\npeer_vpc = \"{peer}\"\n")
}

#[test]
fn vtep_addresses_must_differ_in_their_last_four_bytes() {
    let of = |number: u8, underlay: &str| {
        host(number, "north").replace(&format!("192.0.2.{number}\""), &format!("{underlay}\""))
    };
    let mut model = Model::default();
    let regions = "[[regions]]\nid = \"north\"\n";
    model.apply(&format!("{regions}{}{}", of(1, "2001:db8::1"), of(2, "2001:db8::2"))).unwrap();
    for (hosts, rules) in [
        (of(3, "2001:db8:9::1"), &["2001:db8::1 of host h1 end in the same 32 bits"][..]),
        (of(1, "2001:db8::2"), &["2001:db8::2 is that of host h2"]),
        (of(3, "192.0.2.3"), &["not of the same family as 2001:db8::1 of host h1"]),
        // An address with the same end as another's does not conflict with itself.
        (of(1, "192.0.2.1"), &["not of the same family as 2001:db8::2 of host h2"]),
    ] {
        let refusal = model.apply(&hosts).unwrap_err();
        let told: Vec<&str> = refusal.violations.iter().map(|fault| fault.rule.as_str()).collect();
        assert!(
            told.len() == rules.len() && told.iter().zip(rules).all(|(told, rule)| told.contains(rule)),
            "{told:?}"
        );
    }
    // They swap, one moves, and its old address is used by another.
    model.apply(&format!("{}{}", of(1, "2001:db8::2"), of(2, "2001:db8::1"))).unwrap();
    model.apply(&of(1, "2001:db8:9::3")).unwrap();
    model.apply(&of(3, "2001:db8::2")).unwrap();
    // All of them are of the other family.
    model.apply(&format!("{}{}{}", host(1, "north"), host(2, "north"), host(3, "north"))).unwrap();
    assert_eq!(model.apply(&of(4, "2001:db8::4")).unwrap_err().violations.len(), 1);
    // Nothing is left of a removed host.
    model.state.apply(Change::Host("h2".parse().unwrap(), None));
    model.apply(&host(4, "north").replace("192.0.2.4\"", "192.0.2.2\"")).unwrap();
}

#[test]
fn all_violations_of_a_document_are_reported_together() {
    let text = format!("{}{}", host(4, "mars"), port("h9", "eth1", "a", "10.1.9.1/24"));
    assert_eq!(built().apply(&text).unwrap_err().violations.len(), 2);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut model = built();
    let before = model.state.clone();
    assert_eq!(model.apply(&cloud()).unwrap(), Outcome::Applied(vec![]));
    assert_eq!(model.state, before);
}

#[test]
fn an_update_shows_old_and_new_values() {
    let mut model = built();
    let Outcome::Applied(differences) = model.apply(&vpc("b", "north", r#""10.2.0.0/16", "fd00:2::/48""#)).unwrap()
    else {
        panic!()
    };
    let [difference] = differences.as_slice() else { panic!("{differences:?}") };
    assert_eq!((difference.kind, difference.id.as_str(), difference.action), ("vpc", "b", Action::Update));
    let [field] = difference.fields.as_slice() else { panic!("{:?}", difference.fields) };
    assert_eq!((field.field.as_str(), field.from.to_string()), ("cidrs", r#"["10.2.0.0/16"]"#.to_owned()));
}

#[test]
fn both_sides_are_planned_wherever_their_vpcs_have_ports() {
    let mut model = built();
    let id = model.peer("a", "b").unwrap();
    let peering = &model.state.peerings()[&id];
    let (a, b) = (peering.initiator.vni.unwrap(), peering.receiver.vni.unwrap());
    let plans = model.plans();
    let (h1, h2, h3) = (&plans["h1"], &plans["h2"], &plans["h3"]);
    assert_eq!(h1.sides.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([a, b]));
    assert_eq!(h1.sides[&a].peer_vni, b);
    // b's prefix on this host is reached within it; only the one on h2 is remote.
    assert_eq!(h1.sides[&a].remotes.values().flatten().map(ToString::to_string).collect::<Vec<_>>(), ["10.2.1.0/24"]);
    assert!(h1.sides[&b].remotes.is_empty());
    assert_eq!(h2.sides.keys().copied().collect::<Vec<_>>(), [b]);
    assert_eq!(h2.sides[&b].peer_cidrs.len(), 2);
    assert!(h3.sides.is_empty());
}

/// V6.
#[test]
fn hosts_get_gateways_that_only_one_host_has() {
    let mut model = built();
    let id = model.peer("a", "b").unwrap();
    let peering = &model.state.peerings()[&id];
    let (a, b) = (peering.initiator.vni.unwrap(), peering.receiver.vni.unwrap());
    let told = |model: &Model, host: &str, side| {
        let plans = model.plans();
        let told = plans[host].sides[&side].gateways.iter().map(|(vtep, gateways)| format!("{vtep} {gateways:?}"));
        told.collect::<Vec<_>>().join(" ")
    };
    let shared =
        |model: &Model, host: &str| model.plans()[host].vrfs[&"b".parse::<VpcId>().unwrap()].shared_gateways.clone();
    assert_eq!(told(&model, "h1", a), "192.0.2.2 [10.2.1.1]");
    assert!(told(&model, "h1", b).is_empty() && told(&model, "h2", b).contains("192.0.2.1 [10.1.0.1"));
    assert!(shared(&model, "h1").is_empty() && shared(&model, "h2").is_empty());
    // The same gateway on both hosts, each with a part of the subnet.
    let port = |gateway: &str, prefix: &str| {
        format!(
            "[[ports]]\nhost = \"h2\"\ninterface = \"eth9\"\nvpc = \"b\"\ngateways = [\"{gateway}\"]\nprefixes = [\"{prefix}\"]\n"
        )
    };
    model.apply(&port("10.2.0.1/16", "10.2.7.0/24")).unwrap();
    assert_eq!(told(&model, "h1", a), "192.0.2.2 [10.2.1.1]", "another one of the host's");
    assert_eq!(shared(&model, "h1"), ["10.2.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(shared(&model, "h2"), shared(&model, "h1"));
}

#[test]
fn a_path_has_the_mtu_of_its_smaller_end() {
    let mut model = built();
    let id = model.peer("a", "b").unwrap();
    let peering = &model.state.peerings()[&id];
    let (a, b) = (peering.initiator.vni.unwrap(), peering.receiver.vni.unwrap());
    let learn = |host: &str, mtu| Command::LearnMtu(host.parse().unwrap(), mtu);
    let told = |model: &Model| {
        let plans = model.plans();
        let sides = [("h1", a), ("h1", b), ("h2", b)].map(|(host, side)| plans[host].sides[&side].path_mtu);
        let vpcs = ["h1", "h2"].map(|host| plans[host].vrfs[&"b".parse::<VpcId>().unwrap()].path_mtu);
        (sides, vpcs)
    };
    // If all are the same, or unknown, there is none in the configuration.
    model.run(&learn("h1", 9000)).unwrap();
    assert_eq!(told(&model), ([None; 3], [None; 2]));
    model.run(&learn("h2", 9000)).unwrap();
    assert_eq!(told(&model), ([None; 3], [None; 2]));
    // A has its port on h1, B on both.
    model.run(&learn("h2", 1500)).unwrap();
    assert_eq!(told(&model), ([Some(1500), None, None], [Some(1500), None]));
    let (before, again) = (model.state.clone(), learn("h2", 1500));
    model.run(&again).unwrap();
    assert_eq!(model.state, before);
    // Impossible MTUs are not passed on.
    for wrong in [0, 67, 65_536, 4_000_000_000] {
        model.run(&learn("h2", wrong)).unwrap();
        assert_eq!(model.state, before, "{wrong}");
    }
}

/// L5.
#[test]
fn a_draining_peering_is_planned_nowhere_and_counts_for_overlap() {
    let mut model = built();
    model.apply(&vpc("d", "north", r#""10.2.128.0/17""#)).unwrap();
    let id = model.peer("a", "b").unwrap();
    model.run(&delete(&id)).unwrap();
    assert!(model.plans().values().all(|config| config.sides.is_empty()));
    let PeeringState::Draining { hosts } = &model.state.peerings()[&id].state else { panic!() };
    assert_eq!(hosts.iter().map(HostId::as_str).collect::<Vec<_>>(), ["h1", "h2"]);
    let refusal = model.peer("a", "d").unwrap_err();
    assert_eq!((refusal.code, refusal.violations[0].reason), (Code::FailedPrecondition, "VpcPeerCidrConflict"));
    // The same pair does not overlap itself, and VNIs of draining peerings are not reused.
    let again = model.peer("a", "b").unwrap();
    let vnis = |id| model.state.peerings()[id].sides().map(|side| side.vni);
    assert!(vnis(&id).iter().all(|vni| !vnis(&again).contains(vni)));
    // Deleting again changes nothing, also when it has ended.
    model.run(&delete(&id)).unwrap();
    model.run(&Command::Drained(id.clone())).unwrap();
    assert!(matches!(model.state.peerings()[&id].state, PeeringState::Ended { how: End::Deleted, .. }));
    let before = model.state.clone();
    model.run(&delete(&id)).unwrap();
    assert_eq!(model.state, before);
    model.run(&delete(&again)).unwrap();
    model.run(&Command::Drained(again)).unwrap();
    model.peer("a", "d").unwrap();
}

/// L6, L7, L8.
#[test]
fn peerings_are_refused_with_reasons_for_programs() {
    let mut model = built();
    model.apply(&vpc("e", "east", r#""10.2.0.0/16""#)).unwrap();
    model.peer("a", "b").unwrap();
    let mut reason = |vpc: &str, peer: &str| model.peer(vpc, peer).unwrap_err().violations[0].reason;
    assert_eq!(reason("a", "b"), "VpcPeerAlreadyExist");
    assert_eq!(reason("b", "a"), "VpcPeerAlreadyExist");
    assert_eq!(reason("b", "e"), "VpcPeerCidrConflict");
    assert_eq!(reason("a", "e"), "VpcPeerCidrConflict", "e overlaps b, another peer of a");
    assert_eq!(reason("e", "a"), "VpcPeerCidrConflict", "whoever asks");
    assert_eq!(reason("a", "z"), "VpcNotFound");
    let same_name = Create { name: "a-b".into(), ..create("a", "c") };
    let refusal = model.run(&Command::CreatePeering(same_name)).unwrap_err();
    assert_eq!((refusal.code, refusal.violations[0].reason), (Code::AlreadyExists, "VpcPeerNameExist"));
}

/// L10.
#[test]
fn cidrs_that_would_break_a_live_peering_are_refused_and_others_follow() {
    let mut model = built();
    let id = model.peer("a", "b").unwrap();
    model.peer("a", "c").unwrap();
    for (cidr, rule) in [("10.1.0.0/17", "with which it is peered"), ("10.3.7.0/24", "is peered with a")] {
        let refusal = model.apply(&vpc("b", "north", &format!(r#""10.2.0.0/16", "{cidr}""#))).unwrap_err();
        assert_eq!(refusal.violations[0].entry, "vpcs[0] (b)");
        assert!(refusal.violations[0].rule.contains(rule), "{refusal}");
    }
    model.apply(&vpc("b", "north", r#""10.2.0.0/16", "fd00:2::/48""#)).unwrap();
    assert_eq!(model.state.peerings()[&id].receiver.cidrs.len(), 2);
    let refusal = model.apply(&vpc("b", "north", r#""fd00:2::/48""#)).unwrap_err();
    assert!(refusal.to_string().contains("port h1/eth2") && refusal.to_string().contains("10.2.0.1/24"), "{refusal}");
}

#[test]
fn pruning_removes_what_is_not_in_the_document() {
    let mut model = built();
    let wanted = "[[peerings]]\nname = \"a-b\"\nvpc = \"a\"\npeer_vpc = \"b\"\n";
    model.apply(&(cloud() + wanted)).unwrap();
    let id = model.state.peerings().keys().next().unwrap().clone();
    let Outcome::Applied(differences) = model.run(&apply("", true)).unwrap() else { panic!() };
    assert!(differences.iter().all(|difference| difference.action == Action::Delete));
    let state = &model.state;
    assert!(state.vpcs().is_empty() && state.ports().is_empty() && state.regions().is_empty());
    assert!(matches!(state.peerings()[&id].state, PeeringState::Draining { .. }));
    assert!(state.hosts().values().all(|host| host.retiring), "hosts stay until they have confirmed");
    assert!(model.plans().values().all(|config| config.vrfs.is_empty()));
    for host in ["h1", "h2", "h3"] {
        model.run(&Command::Forget(host.parse().unwrap())).unwrap();
    }
    assert!(model.state.hosts().is_empty());
    let mut model = built();
    let kept = format!("{REGIONS}{}{}", host(1, "north"), port("h1", "eth1", "a", "10.1.0.1/24"));
    let refusal = model.run(&apply(&kept, true)).unwrap_err();
    assert_eq!(refusal.violations[0].entry, "vpc a", "{refusal}");
}

/// One random command on a small cloud.
fn commands() -> impl Strategy<Value = Step> {
    let vpc = 0u8..5;
    prop_oneof![
        (vpc.clone(), 0u8..4, 0u8..3).prop_map(|(vpc, host, net)| Step::Port { vpc, host, net }),
        (vpc.clone(), 0u8..6).prop_map(|(vpc, cidr)| Step::Cidr { vpc, cidr }),
        (vpc.clone(), vpc).prop_map(|(a, b)| Step::Peer(a, b)),
        any::<usize>().prop_map(Step::Delete),
        any::<usize>().prop_map(Step::Confirm),
        Just(Step::Prune),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Port { vpc: u8, host: u8, net: u8 },
    Cidr { vpc: u8, cidr: u8 },
    Peer(u8, u8),
    Delete(usize),
    Confirm(usize),
    Prune,
}

fn document(step: &Step) -> Option<String> {
    match step {
        // CIDRs of neighbouring numbers overlap.
        Step::Cidr { vpc: id, cidr } => {
            Some(vpc(&format!("v{id}"), "north", &format!(r#""10.{}.0.0/15", "fd00:{id}::/48""#, cidr / 2 * 2)))
        }
        Step::Port { vpc: id, host, net } => Some(port(
            &format!("h{}", host + 1),
            &format!("p{id}{net}"),
            &format!("v{id}"),
            &format!("fd00:{id}:0:{host}{net}::1/64"),
        )),
        _ => None,
    }
}

fn invariants(model: &Model) {
    let state = &model.state;
    let mut vnis = BTreeSet::new();
    assert!(state.vpcs().values().all(|vpc| vnis.insert(vpc.vni)), "VNIs of VPCs are unique");
    let mut pairs = BTreeSet::new();
    for peering in state.peerings().values() {
        let own = peering.sides().into_iter().filter_map(|side| side.vni);
        assert!(own.into_iter().all(|vni| vnis.insert(vni)), "VNIs of sides are unique");
        if peering.forwards() {
            let mut pair = peering.sides().map(|side| side.vpc.clone());
            pair.sort();
            assert!(pairs.insert(pair), "one live peering per pair");
            for side in peering.sides() {
                assert_eq!(state.vpcs()[&side.vpc].cidrs, side.cidrs, "copies of CIDRs follow");
            }
        }
    }
    for vpc in state.vpcs().keys() {
        let peers = state
            .peerings_of(vpc)
            .filter(|peering| peering.forwards())
            .flat_map(cps_peering_controller::model::record::Peering::views);
        let peers: Vec<_> = peers.filter(|(own, _)| own.vpc == *vpc).map(|(_, peer)| peer).collect();
        let mut claimed = state.vpcs()[vpc].cidrs.clone();
        for cidr in peers.iter().flat_map(|peer| &peer.cidrs) {
            assert!(!claimed.iter().any(|other| overlap(other, cidr)), "what {vpc} reaches does not overlap");
            claimed.push(*cidr);
        }
    }
    for host in state.hosts().keys() {
        let waits: BTreeSet<_> =
            state.unsettled().filter(|it| state.hosts_concerned(it).contains(host)).map(|it| &it.id).collect();
        assert_eq!(state.unsettled_on(host).map(|it| &it.id).collect::<BTreeSet<_>>(), waits, "what waits for {host}");
    }
    for config in model.plans().into_values() {
        let text = format!("{config:?}");
        ValidHostConfig::try_from(config).unwrap_or_else(|error| panic!("{error} in {text}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(steps in proptest::collection::vec(commands(), 1..40)) {
        let mut model = Model::default();
        let base = [REGIONS.to_owned(), host(1, "north"), host(2, "north"), host(3, "north"), host(4, "north")].concat();
        model.apply(&base).unwrap();
        for step in steps {
            let any_peering = |model: &Model, nth: usize| {
                let count = model.state.peerings().len().max(1);
                model.state.peerings().keys().nth(nth % count).cloned()
            };
            // Refusals are expected; `run` checks that they change nothing.
            let _ = match &step {
                Step::Peer(a, b) => model.peer(&format!("v{a}"), &format!("v{b}")).map(|_| Outcome::Done),
                Step::Delete(nth) => match any_peering(&model, *nth) {
                    Some(id) => model.run(&delete(&id)),
                    None => Ok(Outcome::Done),
                },
                Step::Confirm(nth) => match any_peering(&model, *nth) {
                    Some(id) => {
                        model.run(&Command::Activate(id.clone())).unwrap();
                        model.run(&Command::Drained(id))
                    }
                    None => Ok(Outcome::Done),
                },
                Step::Prune => model.run(&apply(&base, true)),
                _ => model.apply(&document(&step).unwrap()),
            };
            invariants(&model);
        }
    }

    #[test]
    fn a_rollback_leaves_no_trace(steps in proptest::collection::vec(commands(), 1..20)) {
        let mut model = Model::default();
        model.apply(&[REGIONS.to_owned(), host(1, "north"), host(2, "north"), host(3, "north"), host(4, "north")].concat()).unwrap();
        for step in steps.iter().filter_map(document) {
            let _ = model.apply(&step);
        }
        let before = model.state.clone();
        let mut tx = Transaction::new(&mut model.state);
        let request = Request::new(Actor::Operator, apply("", true));
        let (limits, disclosures) = Default::default();
        let judge = Judge { now: Now::from(0), limits: &limits, disclosures: &disclosures };
        let _ = decide(&mut tx, &request, judge, &mut || "x".to_owned());
        prop_assert_eq!(tx.before(), &before);
        // However it ends: here as in a panic.
        drop(tx);
        prop_assert_eq!(&model.state, &before);
    }
}

/// V3.
#[test]
fn a_peering_waits_for_the_hosts_that_have_its_ports_now() {
    let mut model = Model::default();
    let base = [REGIONS.to_owned(), host(1, "north"), host(2, "north"), vpc("a", "north", "'10.1.0.0/16'")].concat();
    let base = base + &vpc("b", "north", "'10.2.0.0/16'") + &vpc("c", "north", "'10.3.0.0/16'");
    model.apply(&(base + &port("h1", "eth1", "a", "10.1.0.1/24"))).unwrap();
    let id = model.peer("a", "b").unwrap();
    let waits =
        |model: &Model, host: &str| model.state.unsettled_on(&host.parse().unwrap()).any(|peering| peering.id == id);
    assert_eq!(["h1", "h2"].map(|host| waits(&model, host)), [true, false]);
    model.apply(&port("h2", "eth1", "b", "10.2.0.1/24")).unwrap();
    assert_eq!(["h1", "h2"].map(|host| waits(&model, host)), [true, true]);
    // The port becomes one of another VPC.
    model.apply(&port("h1", "eth1", "c", "10.3.0.1/24")).unwrap();
    assert_eq!(["h1", "h2"].map(|host| waits(&model, host)), [false, true]);
    // Draining, it waits for those that had it.
    model.run(&delete(&id)).unwrap();
    assert_eq!(["h1", "h2"].map(|host| waits(&model, host)), [true, true]);
}

#[test]
fn a_panic_leaves_nothing_half_made() {
    let mut model = built();
    let before = model.state.clone();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut tx = Transaction::new(&mut model.state);
        let mut random = || -> String { panic!("while an id was made up") };
        let request = Request::new(Actor::Operator, apply("", true));
        let (limits, disclosures) = Default::default();
        let judge = Judge { now: Now::from(0), limits: &limits, disclosures: &disclosures };
        decide(&mut tx, &request, judge, &mut random).unwrap();
        assert_ne!(*tx.state, before);
        random();
    }));
    assert!(ended.is_err());
    assert_eq!(model.state, before);
}

#[test]
fn ids_of_vpcs_lead_to_their_ports_and_hosts() {
    let model = built();
    let b: VpcId = "b".parse().unwrap();
    assert_eq!(model.state.hosts_of(&b).iter().map(HostId::as_str).collect::<Vec<_>>(), ["h1", "h2"]);
    assert_eq!(model.state.ports_on(&"h1".parse().unwrap()).count(), 2);
    let inventory: Inventory = cps_peering_controller::api::view::inventory(&model.state);
    assert_eq!(inventory.ports.len(), 4);
}
