//! The life of a peering between accounts: permissions, deadlines, and what counts for which rule.

mod again;
mod clocks;
mod disclosure;
mod hourly;
mod sequences;
mod windows;

use crate::common::{Model, REGIONS, accept_all, create, delete, host, locate, peering, port};
use cps_peering_config::{
    id::{PeeringId, VpcId},
    net::overlap,
    quota::Kind,
};
use cps_peering_controller::model::{
    Actor, Code, Command, CommandError, Limits, Outcome, Request, Signed,
    account::{self, ChargeStatus, What},
    disclosure::Disclosures,
    metering::open_periods,
    peering::{Create, Modify, SetBandwidth, role, state_word},
    prefixes::SetPrefixes,
    quota,
    record::{End, Made, Peering, PeeringState, Role},
    vpc,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const HOUR: u64 = 60 * 60 * 1000;
/// The same for what a clock is set by.
const HOURS: i64 = 60 * 60 * 1000;

fn vpc_of(account: &str, id: &str, region: &str, cidrs: &str) -> String {
    format!("[[vpcs]]\nid = \"{id}\"\naccount = \"{account}\"\nregion = \"{region}\"\ncidrs = [{cidrs}]\n")
}

/// How many live peerings an account has initiated from a region, as its quota counts them.
fn peerings_used(model: &Model, account: &str, region: &str) -> usize {
    let region = region.parse().unwrap();
    quota::used(&model.state, Kind::VpcPeering, &account.parse().unwrap(), Some(&region), model.now_ms)
}

/// Two accounts with a VPC in each of two regions; each VPC has a port on a host of its own.
fn cloud() -> Model {
    let text = [
        REGIONS.to_owned(),
        host(1, "north"),
        host(2, "east"),
        host(3, "north"),
        host(4, "east"),
        vpc_of("one", "a", "north", r#""10.1.0.0/16""#),
        vpc_of("one", "b", "east", r#""10.2.0.0/16""#),
        vpc_of("two", "c", "north", r#""10.3.0.0/16""#),
        vpc_of("two", "d", "east", r#""10.4.0.0/16""#),
        port("h1", "eth1", "a", "10.1.0.1/24"),
        port("h2", "eth1", "b", "10.2.0.1/24"),
        port("h3", "eth1", "c", "10.3.0.1/24"),
        port("h4", "eth1", "d", "10.4.0.1/24"),
    ]
    .concat();
    let mut model = Model { now_ms: 1000 * HOUR, ..Model::default() };
    model.apply(&text).unwrap();
    model
}

/// An account's request: regions, accounts and a bandwidth follow from the VPCs of [`cloud`].
fn wish(model: &Model, vpc: &str, peer: &str) -> Create {
    let of = |id: &str| model.state.vpcs().get(id).cloned().unwrap();
    let (own, other) = (of(vpc), of(peer));
    Create {
        region: Some(own.region.clone()),
        peer_region: Some(other.region.clone()),
        peer_account: Some(other.account),
        bandwidth: (own.region != other.region).then_some(100),
        ..create(vpc, peer)
    }
}

fn ask(model: &mut Model, vpc: &str, peer: &str) -> Result<PeeringId, CommandError> {
    let wish = wish(model, vpc, peer);
    let account = model.state.vpcs()[&wish.vpc].account.to_string();
    model.run_as(&account, Command::CreatePeering(wish)).map(|outcome| peering(&outcome))
}

fn accept(id: &PeeringId) -> Command {
    Command::AcceptPeering(accept_all(id))
}

fn reject(id: &PeeringId) -> Command {
    Command::RejectPeering(locate(id))
}

fn state(model: &Model, id: &PeeringId) -> &'static str {
    state_word(&model.state.peerings()[id].state)
}

fn sees(model: &Model, account: &str, id: &PeeringId) -> Option<Role> {
    role(model.state.peerings().get(id)?, &account.parse().unwrap(), None)
}

fn reason(result: Result<Outcome, CommandError>) -> (Code, &'static str) {
    let refusal = result.unwrap_err();
    (refusal.code, refusal.violations[0].reason)
}

fn charge(model: &mut Model, account: &str, status: ChargeStatus) {
    let change = account::Change { id: account.parse().unwrap(), what: What::Charge(status) };
    model.run(&Command::Account(change)).unwrap();
}

/// All hosts confirm what they have and what they have removed.
fn confirm(model: &mut Model) {
    let ids: Vec<PeeringId> = model.state.unsettled().map(|peering| peering.id.clone()).collect();
    for id in ids {
        model.run(&Command::Activate(id.clone())).unwrap();
        model.run(&Command::Drained(id)).unwrap();
    }
}

fn sides_planned(model: &Model) -> usize {
    model.plans().values().map(|config| config.sides.len()).sum()
}

/// L2.
#[test]
fn within_an_account_no_acceptance_is_needed() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "b").unwrap();
    assert_eq!((state(&model, &id), sides_planned(&model)), ("provisioning", 2));
    confirm(&mut model);
    assert_eq!(state(&model, &id), "active");
    // There is nothing to accept, and that is no error.
    let before = model.state.clone();
    model.run_as("one", accept(&id)).unwrap();
    assert_eq!(model.state, before);
}

/// L1, L2.
#[test]
fn between_accounts_hosts_get_nothing_before_the_receiver_accepts() {
    let mut model = cloud();
    for (vpc, peer) in [("a", "c"), ("a", "d")] {
        let id = ask(&mut model, vpc, peer).unwrap();
        assert_eq!((state(&model, &id), sides_planned(&model)), ("pending", 0));
        for command in [accept(&id), reject(&id)] {
            assert_eq!(reason(model.run_as("one", command.clone())), (Code::Forbidden, "VpcPeerPurviewError"));
            assert_eq!(reason(model.run_as("three", command)), (Code::NotFound, "VpcPeerNotFound"));
        }
        model.run_as("two", accept(&id)).unwrap();
        assert_eq!((state(&model, &id), sides_planned(&model)), ("provisioning", 2));
        model.run_as("two", delete(&id)).unwrap();
        confirm(&mut model);
    }
}

/// L1, B2.
#[test]
fn only_the_initiator_changes_what_it_said_and_pays_for() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "d").unwrap();
    let modify = |name: &str| {
        Command::ModifyPeering(Modify {
            which: locate(&id),
            name: Some(name.to_owned()),
            description: None,
            tags: None,
            protected: None,
        })
    };
    let bandwidth = |mbit| Command::SetBandwidth(SetBandwidth { which: locate(&id), bandwidth: mbit });
    for command in [modify("x"), bandwidth(50)] {
        assert_eq!(reason(model.run_as("two", command)), (Code::Forbidden, "VpcPeerPurviewError"));
    }
    model.run_as("one", modify("new name")).unwrap();
    model.run_as("one", bandwidth(50)).unwrap();
    let peering = &model.state.peerings()[&id];
    assert_eq!((peering.name.as_str(), peering.bandwidth), ("new name", Some(50)));
    for mbit in [0, 10_001] {
        assert_eq!(reason(model.run_as("one", bandwidth(mbit))), (Code::InvalidArgument, "InvalidBandwidth"));
    }
    assert_eq!(reason(model.run_as("one", modify(""))), (Code::InvalidArgument, "InvalidName"));
    // The old name is free, the new one is not.
    let named = |model: &Model, name: &str| Create { name: name.to_owned(), ..wish(model, "a", "b") };
    let taken = Command::CreatePeering(named(&model, "new name"));
    assert_eq!(reason(model.run_as("one", taken)), (Code::AlreadyExists, "VpcPeerNameExist"));
    let free = Command::CreatePeering(named(&model, "a-d"));
    model.run_as("one", free).unwrap();
}

/// B1.
#[test]
fn a_bandwidth_is_for_peerings_between_regions() {
    let mut model = cloud();
    let with =
        |model: &Model, peer: &str, bandwidth| Command::CreatePeering(Create { bandwidth, ..wish(model, "a", peer) });
    let command = with(&model, "c", Some(10));
    assert_eq!(reason(model.run_as("one", command)), (Code::InvalidArgument, "BandwidthNotAllowed"));
    let command = with(&model, "b", None);
    assert_eq!(reason(model.run_as("one", command)), (Code::InvalidArgument, "BandwidthRequired"));
    let command = with(&model, "b", Some(10_001));
    assert_eq!(reason(model.run_as("one", command)), (Code::InvalidArgument, "InvalidBandwidth"));
    let id = ask(&mut model, "a", "c").unwrap();
    let command = Command::SetBandwidth(SetBandwidth { which: locate(&id), bandwidth: 10 });
    assert_eq!(reason(model.run_as("one", command)), (Code::InvalidArgument, "BandwidthNotAllowed"));
}

#[test]
fn an_accounts_requests_to_another_within_an_hour_are_limited() {
    let mut model = cloud();
    model.limits.requests_per_hour = 3;
    for _ in 0..3 {
        let id = ask(&mut model, "a", "c").unwrap();
        model.run_as("one", delete(&id)).unwrap();
        model.now_ms += 1;
    }
    let refused = reason(ask(&mut model, "a", "c").map(|_| Outcome::Done));
    assert_eq!(refused, (Code::QuotaExceeded, "PeeringRequestLimitExceeded"));
    let dry = model.clone();
    // Its own VPCs need no request, others have their own count, and an operator acts for both.
    ask(&mut model, "a", "b").unwrap();
    ask(&mut model, "c", "a").unwrap();
    model.clone_from(&dry);
    model.peer("a", "d").unwrap();
    model.now_ms += HOUR;
    ask(&mut model, "b", "d").unwrap();
}

/// L4.
#[test]
fn a_rejected_request_disappears_for_the_receiver_and_is_shown_to_the_initiator() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "c").unwrap();
    model.run_as("two", reject(&id)).unwrap();
    assert_eq!(state(&model, &id), "rejected");
    assert_eq!((sees(&model, "one", &id), sees(&model, "two", &id)), (Some(Role::Initiator), None));
    assert_eq!(reason(model.run_as("two", accept(&id))), (Code::NotFound, "VpcPeerNotFound"));
    // It blocks nothing.
    ask(&mut model, "a", "c").unwrap();
}

/// A peering of `a` and `d` that is brought to a state.
fn in_state(word: &str) -> (Model, PeeringId) {
    let mut model = cloud();
    let id = ask(&mut model, "a", "d").unwrap();
    if !["pending", "rejected", "expired"].contains(&word) {
        model.run_as("two", accept(&id)).unwrap();
    }
    match word {
        "pending" | "provisioning" => {}
        "rejected" => drop(model.run_as("two", reject(&id)).unwrap()),
        "expired" => {
            model.now_ms += 24 * HOUR;
            model.run(&Command::Tick).unwrap();
        }
        "active" => confirm(&mut model),
        "suspended" => charge(&mut model, "one", ChargeStatus::Arrear),
        "draining" => drop(model.run_as("two", delete(&id)).unwrap()),
        "peer_deleted" => {
            model.run_as("two", delete(&id)).unwrap();
            confirm(&mut model);
        }
        other => panic!("{other}"),
    }
    assert_eq!(state(&model, &id), word);
    (model, id)
}

const STATES: [&str; 8] =
    ["pending", "provisioning", "active", "suspended", "draining", "rejected", "expired", "peer_deleted"];

/// L5.
#[test]
fn either_party_deletes_from_any_state_and_repeatedly() {
    for word in STATES {
        for (deleter, other) in [("one", "two"), ("two", "one")] {
            let (mut model, id) = in_state(word);
            let saw = sees(&model, other, &id).is_some();
            model.run_as(deleter, delete(&id)).unwrap();
            assert_eq!(sides_planned(&model), 0, "{word}: nothing forwards from that instant");
            model.run_as(deleter, delete(&id)).unwrap();
            confirm(&mut model);
            model.run_as(deleter, delete(&id)).unwrap();
            assert_eq!(sees(&model, deleter, &id), None, "{word}: {deleter} sees it no more");
            let gone_already = word == "draining" || word == "peer_deleted" || word == "rejected";
            if !gone_already {
                let shown = if word == "expired" { "expired" } else { "peer_deleted" };
                assert!(saw && sees(&model, other, &id).is_some(), "{word}: {other} sees that it is over");
                assert_eq!(state(&model, &id), shown, "from {word}");
            }
            model.run_as(other, delete(&id)).unwrap();
            assert_eq!(sees(&model, other, &id), None);
            // Nothing of it blocks a new one.
            charge(&mut model, "one", ChargeStatus::Normal);
            let again = ask(&mut model, "a", "d").unwrap();
            model.run_as("two", accept(&again)).unwrap();
        }
    }
}

#[test]
fn a_command_that_the_state_does_not_allow_is_refused_with_the_states_name() {
    for word in STATES {
        let (mut model, id) = in_state(word);
        let may_see = sees(&model, "two", &id).is_some();
        let refused = model.run_as("two", accept(&id));
        match word {
            // Accepting again changes nothing.
            "pending" | "provisioning" | "active" | "suspended" => drop(refused.unwrap()),
            "expired" => assert_eq!(reason(refused).1, "VpcPeerExpired"),
            _ if may_see => {
                let refusal = refused.unwrap_err();
                assert_eq!(refusal.violations[0].reason, "VpcPeerInvalidStateChange");
                assert!(refusal.to_string().contains(word), "{refusal}");
            }
            _ => assert_eq!(reason(refused).0, Code::NotFound),
        }
    }
    let (mut model, id) = in_state("suspended");
    let command = Command::SetBandwidth(SetBandwidth { which: locate(&id), bandwidth: 10 });
    assert_eq!(reason(model.run_as("one", command)), (Code::FailedPrecondition, "VpcPeerInvalidStateChange"));
}

/// L7.
#[test]
fn a_request_counts_for_its_initiator_only() {
    let mut model = cloud();
    // A stranger's VPC with the addresses of a.
    model.apply(&vpc_of("three", "x", "north", r#""10.1.0.0/16""#)).unwrap();
    ask(&mut model, "x", "c").unwrap();
    // It does not block the receiver, …
    let own = ask(&mut model, "c", "a").unwrap();
    model.run_as("one", accept(&own)).unwrap();
    // … but the stranger itself.
    model.apply(&vpc_of("four", "y", "north", r#""10.3.128.0/17""#)).unwrap();
    assert_eq!(ask(&mut model, "x", "y").unwrap_err().violations[0].reason, "VpcPeerCidrConflict");
}

/// L9.
#[test]
fn the_quota_counts_initiated_peerings_per_region() {
    let mut model = cloud();
    model.limits = Limits { peerings_per_region: 1, ..Limits::default() };
    let first = ask(&mut model, "a", "c").unwrap();
    assert_eq!(ask(&mut model, "a", "b").unwrap_err().code, Code::QuotaExceeded);
    // Not at the receiver, and not in another region.
    ask(&mut model, "c", "b").unwrap();
    ask(&mut model, "b", "d").unwrap();
    let quota = |limit| {
        let what = What::Quota { kind: Kind::VpcPeering, region: "north".parse().unwrap(), limit };
        Command::Account(account::Change { id: "one".parse().unwrap(), what })
    };
    model.run(&quota(Some(2))).unwrap();
    let second = ask(&mut model, "a", "b").unwrap();
    model.run(&quota(None)).unwrap();
    model.run_as("one", delete(&second)).unwrap();
    assert_eq!(ask(&mut model, "a", "d").unwrap_err().code, Code::QuotaExceeded);
    // Ended ones do not count.
    model.run_as("two", reject(&first)).unwrap();
    ask(&mut model, "a", "d").unwrap();
}

/// L8.
#[test]
fn records_of_ended_peerings_are_forgotten_after_a_week() {
    for word in ["rejected", "expired", "peer_deleted"] {
        let (mut model, id) = in_state(word);
        model.now_ms += 7 * 24 * HOUR - 1;
        model.run(&Command::Tick).unwrap();
        assert!(model.state.peerings().contains_key(&id), "{word}");
        model.now_ms += 1;
        model.run(&Command::Tick).unwrap();
        assert!(!model.state.peerings().contains_key(&id), "{word}");
    }
}

/// L10.
#[test]
fn an_unused_vpc_can_be_deleted_and_requests_to_it_are_rejected() {
    let mut model = cloud();
    model.apply(&vpc_of("two", "e", "north", r#""10.5.0.0/16""#)).unwrap();
    let remove = |id: &str| Command::DeleteVpc(vpc::Locator { region: None, id: id.parse().unwrap() });
    assert_eq!(reason(model.run_as("two", remove("c"))), (Code::FailedPrecondition, "VpcInUse"), "a port is there");
    let request = ask(&mut model, "a", "e").unwrap();
    model.run_as("two", remove("e")).unwrap();
    assert_eq!(state(&model, &request), "rejected");
    model.apply(&vpc_of("two", "e", "north", r#""10.5.0.0/16""#)).unwrap();
    let live = ask(&mut model, "e", "a").unwrap();
    assert_eq!(reason(model.run_as("two", remove("e"))).1, "VpcInUse", "its own request needs it");
    model.run_as("one", accept(&live)).unwrap();
    assert_eq!(reason(model.run_as("two", remove("e"))).1, "VpcInUse");
    model.run_as("one", delete(&live)).unwrap();
    model.run_as("two", remove("e")).unwrap();
}

/// L10.
#[test]
fn an_added_cidr_is_checked_and_routes_follow() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "c").unwrap();
    model.run_as("two", accept(&id)).unwrap();
    let cidr = |vpc: &str, cidr: &str| vpc::Cidr {
        which: vpc::Locator { region: None, id: vpc.parse().unwrap() },
        cidr: cidr.parse().unwrap(),
    };
    let refused = model.run_as("two", Command::AddCidr(cidr("c", "10.1.7.0/24")));
    assert_eq!(reason(refused), (Code::FailedPrecondition, "VpcPeerCidrConflict"));
    for illegal in ["10.3.1.0/24", "0.0.0.0/0", "127.0.0.0/8", "fe80::/64", "10.9.0.1/16"] {
        let refused = model.run_as("two", Command::AddCidr(cidr("c", illegal)));
        assert_eq!(reason(refused).0, Code::InvalidArgument, "{illegal}");
    }
    model.run_as("two", Command::AddCidr(cidr("c", "10.9.0.0/16"))).unwrap();
    let planned = |model: &Model| model.plans()["h1"].sides.values().next().unwrap().peer_cidrs.len();
    assert_eq!(planned(&model), 2);
    assert_eq!(reason(model.run_as("two", Command::RemoveCidr(cidr("c", "10.3.0.0/16")))).1, "CidrInUse");
    model.run_as("two", Command::RemoveCidr(cidr("c", "10.9.0.0/16"))).unwrap();
    assert_eq!(planned(&model), 1);
}

/// B4, B5.
#[test]
fn arrears_suspend_what_the_account_pays_for_and_nothing_else() {
    let mut model = cloud();
    let paid = ask(&mut model, "a", "d").unwrap();
    model.run_as("two", accept(&paid)).unwrap();
    let free = ask(&mut model, "a", "c").unwrap();
    model.run_as("two", accept(&free)).unwrap();
    let others = ask(&mut model, "c", "b").unwrap();
    model.run_as("one", accept(&others)).unwrap();
    confirm(&mut model);
    let vnis = |model: &Model| model.state.peerings()[&paid].sides().map(|side| side.vni);
    let before = vnis(&model);
    charge(&mut model, "one", ChargeStatus::Overdue);
    assert_eq!(state(&model, &paid), "active");
    charge(&mut model, "one", ChargeStatus::Arrear);
    assert_eq!([&paid, &free, &others].map(|id| state(&model, id)), ["suspended", "active", "active"]);
    assert_eq!(sides_planned(&model), 4);
    // Nothing new between regions, also not an earlier request.
    assert_eq!(ask(&mut model, "a", "b").unwrap_err().violations[0].reason, "AccountInArrear");
    // Suspended peerings still count for others.
    model.apply(&vpc_of("one", "x", "north", r#""10.4.0.0/16""#)).unwrap();
    assert_eq!(ask(&mut model, "a", "x").unwrap_err().violations[0].reason, "VpcPeerCidrConflict");
    charge(&mut model, "one", ChargeStatus::Normal);
    assert_eq!((state(&model, &paid), vnis(&model)), ("provisioning", before), "it goes on as it was");
    let activated = model.state.peerings()[&paid].activated_ms;
    model.now_ms += HOUR;
    confirm(&mut model);
    assert_eq!((state(&model, &paid), model.state.peerings()[&paid].activated_ms), ("active", activated));
}

/// B5, L5.
#[test]
fn a_suspended_peering_can_be_deleted_although_it_was_protected() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "d").unwrap();
    model.run_as("two", accept(&id)).unwrap();
    let protect = |protected, name: Option<&str>| {
        Command::ModifyPeering(Modify {
            which: locate(&id),
            name: name.map(str::to_owned),
            description: None,
            tags: None,
            protected: Some(protected),
        })
    };
    for account in ["one", "two"] {
        model.run_as(account, protect(true, None)).unwrap();
    }
    confirm(&mut model);
    charge(&mut model, "one", ChargeStatus::Arrear);
    assert_eq!(reason(model.run_as("two", delete(&id))).1, "DeletionProtected");
    assert_eq!(reason(model.run_as("two", protect(true, None))).1, "VpcPeerInvalidStateChange");
    assert_eq!(reason(model.run_as("one", protect(false, Some("other")))).1, "VpcPeerInvalidStateChange");
    model.run_as("two", protect(false, None)).unwrap();
    model.run_as("two", delete(&id)).unwrap();
    assert_eq!(state(&model, &id), "draining");
}

/// B5.
#[test]
fn lasting_arrears_delete_suspended_peerings() {
    let (mut model, id) = in_state("suspended");
    model.now_ms += 6 * 24 * HOUR;
    // Repeating the status moves no deadline.
    charge(&mut model, "one", ChargeStatus::Arrear);
    model.now_ms += 24 * HOUR - 1;
    model.run(&Command::Tick).unwrap();
    assert_eq!(state(&model, &id), "suspended");
    model.now_ms += 1;
    model.run(&Command::Tick).unwrap();
    assert_eq!(state(&model, &id), "draining");
    confirm(&mut model);
    assert_eq!((sees(&model, "one", &id), sees(&model, "two", &id)), (None, Some(Role::Receiver)));
    assert_eq!(state(&model, &id), "peer_deleted");
    assert!(model.state.account(&"one".parse().unwrap()).charge.in_arrear());
}

/// B5.
#[test]
fn a_request_of_an_account_in_arrear_cannot_be_accepted() {
    let (mut model, id) = in_state("pending");
    charge(&mut model, "one", ChargeStatus::Arrear);
    let refusal = model.run_as("two", accept(&id)).unwrap_err();
    assert_eq!(refusal.violations[0].reason, "VpcPeerNotAcceptable");
    assert!(!refusal.to_string().contains("arrear"), "how another account stands is its own affair: {refusal}");
    charge(&mut model, "one", ChargeStatus::Normal);
    model.run_as("two", accept(&id)).unwrap();
}

#[test]
fn a_host_without_its_ports_must_still_confirm_before_a_peering_is_gone() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "c").unwrap();
    model.run_as("two", accept(&id)).unwrap();
    // Everything but the port of a on h1, and then a port of another VPC in its place.
    let without = cps_peering_controller::api::view::inventory(&model.state);
    let mut pruned = without.clone();
    pruned.ports.retain(|port| port.vpc.as_str() != "a");
    let text = toml::to_string(&pruned).unwrap();
    model.run(&crate::common::apply(&text, true)).unwrap();
    model.run_as("one", delete(&id)).unwrap();
    let PeeringState::Draining { hosts } = &model.state.peerings()[&id].state else { panic!() };
    let hosts: Vec<&str> = hosts.iter().map(cps_peering_config::id::HostId::as_str).collect();
    assert_eq!(hosts, ["h1", "h3"], "h1 had it, and may have it still");
}

#[test]
fn an_inventory_neither_exports_nor_prunes_requests_and_accepts_what_it_wants() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "d").unwrap();
    let exported = cps_peering_controller::api::view::inventory(&model.state);
    assert!(exported.peerings.is_empty(), "nobody has agreed to it");
    let text = toml::to_string(&exported).unwrap();
    model.run(&crate::common::apply(&text, true)).unwrap();
    assert_eq!(state(&model, &id), "pending");
    let bandwidth =
        model.state.peerings()[&id].bandwidth.map(|mbit| format!("bandwidth = {mbit}\n")).unwrap_or_default();
    let wanted = format!("[[peerings]]\nname = \"a-d\"\nvpc = \"a\"\npeer_vpc = \"d\"\n{bandwidth}");
    let Outcome::Applied(differences) = model.apply(&wanted).unwrap() else { panic!() };
    assert_eq!((differences.len(), state(&model, &id)), (1, "provisioning"), "{differences:?}");
}

#[test]
fn a_region_in_use_stays() {
    let mut model = cloud();
    let mut pruned = cps_peering_controller::api::view::inventory(&model.state);
    pruned.regions.clear();
    let refusal = model.run(&crate::common::apply(&toml::to_string(&pruned).unwrap(), true)).unwrap_err();
    assert_eq!(refusal.violations[0].entry, "region east", "{refusal}");
}

#[test]
fn a_cidr_can_be_removed_whatever_a_receiver_did_meanwhile() {
    let mut model = cloud();
    let cidr = |vpc: &str, cidr: &str| vpc::Cidr {
        which: vpc::Locator { region: None, id: vpc.parse().unwrap() },
        cidr: cidr.parse().unwrap(),
    };
    model.run_as("one", Command::AddCidr(cidr("a", "10.50.0.0/16"))).unwrap();
    ask(&mut model, "a", "c").unwrap();
    model.run_as("two", Command::AddCidr(cidr("c", "10.1.7.0/24"))).unwrap();
    model.run_as("one", Command::RemoveCidr(cidr("a", "10.50.0.0/16"))).unwrap();
}

#[test]
fn records_of_ended_peerings_are_limited() {
    use cps_peering_controller::model::peering::MAX_ENDED;
    let mut model = cloud();
    model.limits.requests_per_hour = u32::MAX;
    for round in 0..MAX_ENDED + 50 {
        model.now_ms += 1;
        let id = ask(&mut model, "a", "c").unwrap_or_else(|refusal| panic!("{round}: {refusal}"));
        model.run_as("one", delete(&id)).unwrap();
    }
    assert_eq!(model.state.peerings().len(), MAX_ENDED);
}
