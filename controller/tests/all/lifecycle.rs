//! The life of a peering between accounts: who may do what, what the clock does, what counts for what.

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

/// What an account wishes: regions, accounts and a bandwidth follow from the VPCs of [`cloud`].
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

/// All hosts confirm what they have, and what they have no more.
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
fn within_an_account_nobody_needs_to_accept() {
    let mut model = cloud();
    let id = ask(&mut model, "a", "b").unwrap();
    assert_eq!((state(&model, &id), sides_planned(&model)), ("provisioning", 2));
    confirm(&mut model);
    assert_eq!(state(&model, &id), "active");
    // There is nothing to accept, and it is what was wanted.
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

/// L3.
#[test]
fn a_request_expires_by_the_clock_whether_or_not_anything_ran() {
    let mut model = cloud();
    let (first, second) = (ask(&mut model, "a", "c").unwrap(), ask(&mut model, "a", "d").unwrap());
    model.now_ms += 24 * HOUR - 1;
    model.run_as("two", accept(&first)).unwrap();
    model.now_ms += 1;
    assert_eq!(reason(model.run_as("two", accept(&second))), (Code::FailedPrecondition, "VpcPeerExpired"));
    // It counts nowhere from that instant: not for the pair, the name, the quota.
    let again = ask(&mut model, "a", "d").unwrap();
    assert_eq!((state(&model, &second), state(&model, &again)), ("expired", "pending"));
    assert_eq!(peerings_used(&model, "one", "north"), 2);
    assert!(sees(&model, "one", &second).is_some() && sees(&model, "two", &second).is_some());
}

/// By how much a clock is set, in milliseconds.
const HOURS: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOURS;

#[test]
fn a_clock_that_leaps_and_comes_back_has_done_nothing() {
    for by in [8 * DAY, 400 * DAY, DAY, -4 * HOURS, -2 * DAY] {
        for word in ["pending", "suspended", "active", "rejected", "expired", "peer_deleted"] {
            let (mut model, id) = in_state(word);
            let before = model.state.clone();
            model.set_clock(by, true);
            model.run(&Command::Tick).unwrap();
            assert_eq!(model.state, before, "{word} {by}");
            model.set_clock(0, true);
            model.now_ms += 2500;
            model.run(&Command::Tick).unwrap();
            assert_eq!(model.state, before, "{word} {by}");
            if word == "pending" {
                model.run_as("two", accept(&id)).unwrap();
            }
        }
    }
}

#[test]
fn a_request_is_not_accepted_as_long_as_it_may_have_expired() {
    let (mut model, id) = in_state("pending");
    model.set_clock(DAY - 1, true);
    let mut other = cloud();
    other.state.clone_from(&model.state);
    (other.now_ms, other.leap) = (model.now_ms, model.leap);
    other.run_as("two", accept(&id)).unwrap();
    model.set_clock(DAY, true);
    assert_eq!(reason(model.run_as("two", accept(&id))), (Code::FailedPrecondition, "ClockNotConfirmed"));
    assert_eq!(state(&model, &id), "pending");
    // By the time that passes it expires all the same, and that is so for good.
    model.now_ms += 24 * HOUR;
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "VpcPeerExpired");
    model.run(&Command::Tick).unwrap();
    model.set_clock(-4 * DAY, true);
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "VpcPeerExpired");
    model.confirm_clock();
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "VpcPeerExpired");
}

#[test]
fn nothing_is_deleted_while_the_clock_is_in_doubt() {
    for word in ["suspended", "rejected"] {
        let (mut model, id) = in_state(word);
        model.set_clock(30 * DAY, true);
        model.now_ms += 8 * 24 * HOUR;
        model.run(&Command::Tick).unwrap();
        assert_eq!(state(&model, &id), word);
        // The clock is right: what has passed has passed.
        let mut right = cloud();
        right.state.clone_from(&model.state);
        (right.now_ms, right.leap) = (model.now_ms, model.leap);
        right.confirm_clock();
        right.run(&Command::Tick).unwrap();
        model.set_clock(0, true);
        model.run(&Command::Tick).unwrap();
        for model in [model, right] {
            assert!(model.state.peerings().get(&id).is_none_or(|it| state_word(&it.state) == "draining"), "{word}");
        }
    }
}

#[test]
fn a_clock_that_was_right_moves_what_waits_by_as_much() {
    for by in [8 * DAY, -3 * DAY] {
        let (mut model, id) = in_state("pending");
        model.now_ms += HOUR;
        model.set_clock(by, true);
        model.now_ms += HOUR;
        model.confirm_clock();
        model.now_ms += 22 * HOUR - 1;
        let mut late = cloud();
        late.state.clone_from(&model.state);
        late.now_ms = model.now_ms + 1;
        model.run_as("two", accept(&id)).unwrap();
        assert_eq!(reason(late.run_as("two", accept(&id))).1, "VpcPeerExpired");
        let (mut model, id) = in_state("suspended");
        model.set_clock(by, true);
        model.confirm_clock();
        model.now_ms += 7 * 24 * HOUR - 1;
        model.run(&Command::Tick).unwrap();
        assert_eq!(state(&model, &id), "suspended");
        model.now_ms += 1;
        model.run(&Command::Tick).unwrap();
        assert_eq!(state(&model, &id), "draining");
    }
}

#[test]
fn after_an_absence_the_clock_says_how_long_it_was() {
    let (mut model, id) = in_state("pending");
    model.set_clock(2 * DAY, false);
    model.now_ms += 1000;
    let mut meanwhile = wish(&model, "c", "a");
    meanwhile.name = "meanwhile".to_owned();
    let young = peering(&model.run_as("two", Command::CreatePeering(meanwhile)).unwrap());
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "ClockNotConfirmed");
    model.confirm_clock();
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "VpcPeerExpired");
    // What began when the absence was over has its own time.
    model.now_ms += 23 * HOUR;
    model.run_as("one", accept(&young)).unwrap();
    // What forwarded meanwhile is charged, what did not exist is not.
    let (mut model, id) = in_state("active");
    let from_ms = model.now_ms;
    model.set_clock(2 * DAY, false);
    model.confirm_clock();
    model.run_as("one", delete(&id)).unwrap();
    let charged: u64 = model.periods.iter().map(|it| it.to_ms - it.from_ms).sum();
    assert_eq!((charged, model.periods[0].from_ms), (48 * HOUR, from_ms));
}

/// B4: of the bandwidths within a second the highest is charged, and toggling fills no bill with lines.
#[test]
fn a_bandwidth_that_is_toggled_is_charged_by_the_second() {
    let (mut model, id) = in_state("active");
    let set = |model: &mut Model, mbit| {
        let which = locate(&id);
        model.run_as("one", Command::SetBandwidth(SetBandwidth { which, bandwidth: mbit })).unwrap();
    };
    let began_ms = model.now_ms;
    model.now_ms += HOUR;
    for step in 0..10_000 {
        set(&mut model, [10_000, 100, 7][step % 3]);
        model.now_ms += 1;
    }
    assert_eq!(model.periods.len(), 1 + 9, "one a second");
    set(&mut model, 7);
    model.now_ms += HOUR;
    model.run_as("one", delete(&id)).unwrap();
    let all: Vec<(u64, u64, u32)> =
        model.periods.iter().map(|it| (it.from_ms - began_ms, it.to_ms - began_ms, it.bandwidth)).collect();
    assert_eq!(all[0], (0, HOUR, 100));
    assert_eq!(all[1], (HOUR, HOUR + 1000, 10_000));
    assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0), "gapless: {all:?}");
    assert_eq!(all.last(), Some(&(HOUR + 10_000, 2 * HOUR + 10_000, 7)));
    // What is up for less than a second is charged for one; what is lower changes nothing within it.
    let (mut model, id) = in_state("active");
    let began_ms = model.now_ms;
    let set = |model: &mut Model, mbit| {
        let which = locate(&id);
        model.run_as("one", Command::SetBandwidth(SetBandwidth { which, bandwidth: mbit })).unwrap();
    };
    for (after_ms, mbit) in [(5000, 200), (999, 50)] {
        model.now_ms += after_ms;
        set(&mut model, mbit);
    }
    model.now_ms += 5001;
    let open: Vec<(u64, u64, u32)> = open_periods(&model.state.peerings()[&id], model.now_ms)
        .iter()
        .map(|it| (it.from_ms - began_ms, it.to_ms - began_ms, it.bandwidth))
        .collect();
    assert_eq!(open, [(5000, 6000, 200), (6000, 11_000, 50)]);
    assert_eq!(model.periods.len(), 1);
}

#[test]
fn an_account_sends_so_many_requests_to_another_within_an_hour() {
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
    // Its own VPCs need no request, others have their own number, and an operator speaks for both.
    ask(&mut model, "a", "b").unwrap();
    ask(&mut model, "c", "a").unwrap();
    model.clone_from(&dry);
    model.peer("a", "d").unwrap();
    model.now_ms += HOUR;
    ask(&mut model, "b", "d").unwrap();
}

#[test]
fn a_clock_that_is_set_changes_no_bill() {
    for by in [8 * DAY, -2 * HOURS, -5 * DAY] {
        let (mut model, id) = in_state("active");
        let bandwidth = |mbit| Command::SetBandwidth(SetBandwidth { which: locate(&id), bandwidth: mbit });
        model.now_ms += HOUR;
        model.set_clock(by, true);
        model.run_as("one", bandwidth(1000)).unwrap();
        model.now_ms += HOUR;
        model.confirm_clock();
        model.now_ms += HOUR;
        model.run_as("one", delete(&id)).unwrap();
        let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
        for period in &model.periods {
            *sums.entry(period.bandwidth).or_default() += period.to_ms - period.from_ms;
        }
        assert_eq!(sums, BTreeMap::from([(100, HOUR), (1000, 2 * HOUR)]), "{by}");
    }
}

/// L4.
#[test]
fn a_rejected_request_disappears_for_the_one_and_is_told_to_the_other() {
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
fn either_party_deletes_from_any_state_and_twice() {
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
            // Nothing of it stands in the way.
            charge(&mut model, "one", ChargeStatus::Normal);
            let again = ask(&mut model, "a", "d").unwrap();
            model.run_as("two", accept(&again)).unwrap();
        }
    }
}

#[test]
fn what_a_state_does_not_allow_is_refused_with_its_name() {
    for word in STATES {
        let (mut model, id) = in_state(word);
        let may_see = sees(&model, "two", &id).is_some();
        let refused = model.run_as("two", accept(&id));
        match word {
            // What was accepted can be accepted again, which changes nothing.
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
fn a_request_counts_for_its_initiator_alone() {
    let mut model = cloud();
    // A stranger's VPC with the addresses of a.
    model.apply(&vpc_of("three", "x", "north", r#""10.1.0.0/16""#)).unwrap();
    ask(&mut model, "x", "c").unwrap();
    // It does not stand in the receiver's way, …
    let own = ask(&mut model, "c", "a").unwrap();
    model.run_as("one", accept(&own)).unwrap();
    // … but in the stranger's own.
    model.apply(&vpc_of("four", "y", "north", r#""10.3.128.0/17""#)).unwrap();
    assert_eq!(ask(&mut model, "x", "y").unwrap_err().violations[0].reason, "VpcPeerCidrConflict");
}

/// L7.
#[test]
fn acceptance_judges_again() {
    let mut model = cloud();
    model.apply(&vpc_of("three", "x", "north", r#""10.1.0.0/16""#)).unwrap();
    let request = ask(&mut model, "x", "c").unwrap();
    let own = ask(&mut model, "c", "a").unwrap();
    model.run_as("one", accept(&own)).unwrap();
    let refusal = model.run_as("two", accept(&request)).unwrap_err();
    assert_eq!(refusal.violations[0].reason, "VpcPeerCidrConflict", "c has a peer with these addresses by now");
    assert!(refusal.to_string().contains(own.as_str()), "the receiver knows its own peering: {refusal}");
    // Also what became of the VPCs themselves.
    let mut model = cloud();
    let request = ask(&mut model, "a", "c").unwrap();
    let which = vpc::Locator { region: None, id: "c".parse().unwrap() };
    let add = vpc::Cidr { which, cidr: "10.1.200.0/24".parse().unwrap() };
    model.run_as("two", Command::AddCidr(add)).unwrap();
    assert_eq!(reason(model.run_as("two", accept(&request))).1, "VpcPeerCidrConflict");
}

/// L7, L11.
#[test]
fn an_initiator_learns_nothing_about_the_peers_of_a_stranger() {
    let mut model = cloud();
    let own = ask(&mut model, "c", "a").unwrap();
    model.run_as("one", accept(&own)).unwrap();
    model.apply(&vpc_of("three", "x", "north", r#""10.1.0.0/16""#)).unwrap();
    // The receiver's other peers are looked at when it accepts (L7).
    let request = ask(&mut model, "x", "c").unwrap();
    let refusal = model.run_as("two", accept(&request)).unwrap_err();
    assert_eq!(refusal.violations[0].reason, "VpcPeerCidrConflict");
    assert!(refusal.to_string().contains(own.as_str()), "the receiver knows its own peering: {refusal}");
}

/// Every prefix in a text.
fn prefixes(text: &str) -> Vec<ipnet::IpNet> {
    let cut = |c: char| !(c.is_ascii_hexdigit() || ".:/".contains(c));
    text.split(cut).filter_map(|word| word.trim_end_matches([':', '.']).parse().ok()).collect()
}

#[test]
fn of_an_overlap_a_stranger_hears_its_own_prefix_alone() {
    let mut model = cloud();
    model.apply(&vpc_of("three", "x", "north", r#""10.200.0.0/16", "10.3.77.0/24""#)).unwrap();
    let refusal = ask(&mut model, "x", "c").unwrap_err();
    assert_eq!((refusal.code, refusal.violations[0].reason), (Code::FailedPrecondition, "VpcPeerCidrConflict"));
    assert_eq!(prefixes(&refusal.to_string()), ["10.3.77.0/24".parse().unwrap()], "{refusal}");
    assert_eq!(refusal.tells.iter().map(ToString::to_string).collect::<Vec<_>>(), ["two"]);
    // Who owns both, or the cloud, is told both.
    model.apply(&vpc_of("two", "y", "north", r#""10.3.128.0/17""#)).unwrap();
    for refusal in [ask(&mut model, "c", "y").unwrap_err(), model.peer("x", "c").unwrap_err()] {
        assert!(refusal.tells.is_empty() && refusal.to_string().contains("10.3.0.0/16"), "{refusal}");
    }
    // Two requests whose receivers overlap each other: neither is named but by its id.
    model.apply(&vpc_of("four", "z", "north", r#""10.3.64.0/18""#)).unwrap();
    ask(&mut model, "a", "c").unwrap();
    let refusal = ask(&mut model, "a", "z").unwrap_err();
    assert_eq!(prefixes(&refusal.to_string()), [], "{refusal}");
    assert_eq!(refusal.tells.iter().map(ToString::to_string).collect::<Vec<_>>(), ["four", "two"]);
}

#[test]
fn a_network_cannot_be_read_by_asking_often() {
    let mut model = cloud();
    model.disclosures = Disclosures::new(5);
    for third in 0..64 {
        let id = format!("probe{third}");
        model.apply(&vpc_of("three", &id, "north", &format!("\"10.3.{}.0/24\"", third * 4))).unwrap();
    }
    let probe = |model: &mut Model, third: u32| ask(model, &format!("probe{third}"), "c").unwrap_err();
    let told: Vec<&str> = (0..64).map(|third| probe(&mut model, third).violations[0].reason).collect();
    assert_eq!(told.iter().filter(|reason| **reason == "VpcPeerCidrConflict").count(), 5);
    assert!(told[5..].iter().all(|reason| *reason == "CidrCheckLimitExceeded"));
    // It looks the same where there is no overlap; other pairs are not concerned.
    model.apply(&vpc_of("three", "free", "north", r#""10.99.0.0/16""#)).unwrap();
    assert_eq!(ask(&mut model, "free", "c").unwrap_err().code, Code::QuotaExceeded);
    ask(&mut model, "free", "a").unwrap();
    model.apply(&vpc_of("four", "other", "north", r#""10.98.0.0/16""#)).unwrap();
    ask(&mut model, "other", "c").unwrap();
    // Adding CIDRs to a VPC with a request is no way round.
    let which = vpc::Locator { region: None, id: "free".parse().unwrap() };
    let add = |cidr: &str| Command::AddCidr(vpc::Cidr { which: which.clone(), cidr: cidr.parse().unwrap() });
    model.now_ms += 24 * HOUR;
    let request = ask(&mut model, "free", "c").unwrap();
    for _ in 0..5 {
        let refusal = model.run_as("three", add("10.3.9.0/24")).unwrap_err();
        assert_eq!(prefixes(&refusal.to_string()), ["10.3.9.0/24".parse().unwrap()], "{refusal}");
    }
    assert_eq!(reason(model.run_as("three", add("10.3.9.0/24"))), (Code::QuotaExceeded, "CidrCheckLimitExceeded"));
    // Nor are lists of prefixes: whether the other VPC has what is asked for decides nothing, and to ask for less is never refused.
    let set = |import: &[&str]| {
        let import = import.iter().map(|prefix| prefix.parse().unwrap()).collect();
        Command::SetPrefixes(SetPrefixes { which: locate(&request), vpc: None, export: None, import: Some(import) })
    };
    model.run_as("three", set(&["192.0.2.0/24"])).unwrap();
    for other in ["10.3.0.0/24", "10.77.0.0/24"] {
        let refusal = model.run_as("three", set(&["192.0.2.0/24", other]));
        assert_eq!(reason(refusal), (Code::QuotaExceeded, "CidrCheckLimitExceeded"), "{other}");
    }
    model.run_as("three", set(&["192.0.2.0/25"])).unwrap();
    model.now_ms += 24 * HOUR;
    assert_eq!(probe(&mut model, 0).violations[0].reason, "VpcPeerCidrConflict");
}

#[test]
fn a_receiver_does_not_read_the_other_peers_of_who_asks() {
    let mut model = cloud();
    model.disclosures = Disclosures::new(3);
    model.apply(&vpc_of("four", "z", "north", r#""10.77.0.0/16""#)).unwrap();
    let others = ask(&mut model, "a", "z").unwrap();
    model.run_as("four", accept(&others)).unwrap();
    model.apply(&vpc_of("three", "x", "north", r#""10.99.0.0/16""#)).unwrap();
    let request = ask(&mut model, "a", "x").unwrap();
    let which = vpc::Locator { region: None, id: "x".parse().unwrap() };
    model
        .run_as("three", Command::AddCidr(vpc::Cidr { which, cidr: "10.77.1.0/24".parse().unwrap() }))
        .expect("a stranger's request does not stand in its way");
    for _ in 0..3 {
        let refusal = model.run_as("three", accept(&request)).unwrap_err();
        assert_eq!(prefixes(&refusal.to_string()), ["10.77.1.0/24".parse().unwrap()], "{refusal}");
        assert!(!refusal.to_string().contains(others.as_str()) && !refusal.to_string().contains(" z"), "{refusal}");
    }
    assert_eq!(reason(model.run_as("three", accept(&request))).0, Code::QuotaExceeded);
}

#[test]
fn a_conflict_that_a_receiver_made_freezes_nothing() {
    let mut model = cloud();
    let add = |vpc: &str, cidr: &str| {
        let which = vpc::Locator { region: None, id: vpc.parse().unwrap() };
        Command::AddCidr(vpc::Cidr { which, cidr: cidr.parse().unwrap() })
    };
    let request = ask(&mut model, "a", "c").unwrap();
    model.run_as("two", add("c", "10.1.7.0/24")).unwrap();
    model.run_as("one", add("a", "10.50.0.0/16")).unwrap();
    assert_eq!(reason(model.run_as("one", add("a", "10.3.5.0/24"))).1, "VpcPeerCidrConflict", "a new one");
    assert_eq!(reason(model.run_as("two", accept(&request))).1, "VpcPeerCidrConflict");
}

/// L11.
#[test]
fn what_may_not_be_known_looks_like_what_is_not_there() {
    let mut model = cloud();
    let wish_for = |model: &Model, peer: &str, account: &str| Create {
        peer_vpc: peer.parse().unwrap(),
        peer_account: Some(account.parse().unwrap()),
        name: "n".to_owned(),
        ..wish(model, "a", "c")
    };
    let refused = |model: &mut Model, wish: Create| {
        let refusal = model.run_as("one", Command::CreatePeering(wish.clone())).unwrap_err();
        let words = refusal.to_string().replace(&format!("VPC {}", wish.peer_vpc), "VPC X");
        (refusal.code, refusal.violations[0].reason, words)
    };
    let wish_nowhere = wish_for(&model, "nowhere", "two");
    let nowhere = refused(&mut model, wish_nowhere);
    let wish_foreign = wish_for(&model, "c", "three");
    assert_eq!(refused(&mut model, wish_foreign), nowhere, "not that account's VPC");
    let wish_own = Create { peer_account: Some("one".parse().unwrap()), ..wish_for(&model, "c", "two") };
    assert_eq!(refused(&mut model, wish_own), nowhere, "not one's own");
    let wish_region = Create { peer_region: Some("east".parse().unwrap()), ..wish_for(&model, "c", "two") };
    assert_eq!(refused(&mut model, wish_region), nowhere, "not in that region");
    let block = account::Change { id: "two".parse().unwrap(), what: What::Block("one".parse().unwrap()) };
    model.run_as("two", Command::Account(block)).unwrap();
    let wish_blocked = wish_for(&model, "c", "two");
    assert_eq!(refused(&mut model, wish_blocked.clone()), nowhere, "blocked");
    assert_eq!(
        reason(model.run_as("one", Command::CreatePeering(Create { vpc: "c".parse().unwrap(), ..wish_blocked }))).0,
        Code::NotFound
    );
    let unblock = account::Change { id: "two".parse().unwrap(), what: What::Unblock("one".parse().unwrap()) };
    model.run_as("two", Command::Account(unblock)).unwrap();
    ask(&mut model, "a", "c").unwrap();
}

#[test]
fn nobody_changes_another_account() {
    let mut model = cloud();
    let change = account::Change { id: "two".parse().unwrap(), what: What::Block("one".parse().unwrap()) };
    assert_eq!(reason(model.run_as("one", Command::Account(change))).0, Code::NotFound);
    let which = vpc::Locator { region: None, id: "c".parse().unwrap() };
    assert_eq!(reason(model.run_as("one", Command::DeleteVpc(which))).0, Code::NotFound);
}

/// L9.
#[test]
fn the_quota_is_counted_at_the_initiator_per_region() {
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
    // What is over counts no more.
    model.run_as("two", reject(&first)).unwrap();
    ask(&mut model, "a", "d").unwrap();
}

/// L8.
#[test]
fn records_of_what_is_over_are_forgotten_after_a_week() {
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
fn a_vpc_goes_when_nothing_needs_it_and_requests_to_it_are_rejected() {
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
fn a_cidr_that_comes_is_checked_and_followed_by_routes() {
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
    // Nothing new between regions, also not what was asked for before.
    assert_eq!(ask(&mut model, "a", "b").unwrap_err().violations[0].reason, "AccountInArrear");
    // What is suspended still stands in the way of others.
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
fn what_is_suspended_can_be_deleted_although_it_was_protected() {
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
fn arrears_that_last_end_what_is_suspended() {
    let (mut model, id) = in_state("suspended");
    model.now_ms += 6 * 24 * HOUR;
    // To be told again moves no deadline.
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

fn with_token(account: &str, token: &str, command: Command) -> Request {
    Request { token: Some(token.to_owned()), ..Request::new(Actor::Account(account.parse().unwrap()), command) }
}

#[test]
fn a_client_token_does_one_thing_once() {
    let mut model = cloud();
    let command = Command::CreatePeering(wish(&model, "a", "b"));
    let first = model.ask(&with_token("one", "t", command.clone())).unwrap();
    let before = model.state.clone();
    assert_eq!(model.ask(&with_token("one", "t", command.clone())).unwrap(), first);
    assert_eq!(model.state, before);
    let other = Command::CreatePeering(wish(&model, "a", "c"));
    assert_eq!(reason(model.ask(&with_token("one", "t", other))), (Code::Aborted, "ClientTokenReused"));
    let own = Command::CreatePeering(wish(&model, "c", "d"));
    model.ask(&with_token("two", "t", own)).unwrap();
    for illegal in ["", &"x".repeat(37)] {
        let refused = model.ask(&with_token("one", illegal, command.clone()));
        assert_eq!(reason(refused), (Code::InvalidArgument, "InvalidClientToken"));
    }
    // The token is forgotten after a day; a request that was refused never used it.
    model.now_ms += 24 * HOUR;
    assert_eq!(reason(model.ask(&with_token("one", "t", command.clone()))).1, "VpcPeerAlreadyExist");
    model.run_as("one", delete(&peering(&first))).unwrap();
    model.ask(&with_token("one", "t", command)).unwrap();
}

#[test]
fn a_client_token_whose_result_is_gone_says_so() {
    let mut model = cloud();
    let gone = |result: Result<Outcome, CommandError>, id: &str| {
        let refusal = result.unwrap_err();
        assert_eq!((refusal.code, refusal.violations[0].reason), (Code::Aborted, "ClientTokenResultDeleted"));
        assert!(refusal.to_string().contains(id), "{refusal}");
    };
    // A peering: deleted by who made it, and then over for everybody.
    let create = with_token("one", "t", Command::CreatePeering(wish(&model, "a", "b")));
    let id = peering(&model.ask(&create).unwrap());
    model.run_as("one", delete(&id)).unwrap();
    gone(model.ask(&create), id.as_str());
    confirm(&mut model);
    gone(model.ask(&create), id.as_str());
    // One that the other side has ended is still there to be seen.
    let asked = with_token("one", "u", Command::CreatePeering(wish(&model, "a", "c")));
    let request = peering(&model.ask(&asked).unwrap());
    model.run_as("two", reject(&request)).unwrap();
    assert_eq!(peering(&model.ask(&asked).unwrap()), request);
    model.run_as("one", delete(&request)).unwrap();
    gone(model.ask(&asked), request.as_str());
    // A VPC, and a CIDR.
    let make = vpc::Create {
        account: "one".parse().unwrap(),
        region: "north".parse().unwrap(),
        name: "n".to_owned(),
        description: String::new(),
        cidr: "10.60.0.0/16".parse().unwrap(),
        ipv6: false,
    };
    let make = with_token("one", "v", Command::CreateVpc(make));
    let Outcome::Made(Made::Vpc(id)) = model.ask(&make).unwrap() else { panic!() };
    let which = vpc::Locator { region: None, id: id.clone() };
    let cidr = vpc::Cidr { which: which.clone(), cidr: "10.61.0.0/16".parse().unwrap() };
    let add = with_token("one", "w", Command::AddCidr(cidr.clone()));
    model.ask(&add).unwrap();
    model.ask(&add).unwrap();
    model.run_as("one", Command::RemoveCidr(cidr)).unwrap();
    gone(model.ask(&add), "10.61.0.0/16");
    model.run_as("one", Command::DeleteVpc(which)).unwrap();
    gone(model.ask(&make), id.as_str());
}

#[test]
fn a_signature_changes_something_once() {
    let mut model = cloud();
    let signed = |command| Request {
        signed: Some(Signed { signature: "s".to_owned(), until_ms: 1001 * HOUR }),
        ..Request::new(Actor::Account("one".parse().unwrap()), command)
    };
    let create = signed(Command::CreatePeering(wish(&model, "a", "b")));
    let id = peering(&model.ask(&create).unwrap());
    // What would change nothing is answered as ever.
    assert_eq!(reason(model.ask(&create)).1, "VpcPeerAlreadyExist");
    model.run_as("one", delete(&id)).unwrap();
    assert_eq!(reason(model.ask(&create)), (Code::Replayed, "RequestReplayed"));
    // What was refused, or changed nothing, is not done later either, once it is written down.
    let refused = |command| Request {
        signed: Some(Signed { signature: "r".to_owned(), until_ms: 1001 * HOUR }),
        ..signed(command)
    };
    let accept = refused(Command::CreatePeering(wish(&model, "a", "b")));
    let before = model.state.meta().number;
    model.ask(&refused(Command::RecordSignature)).unwrap();
    assert!(model.state.has_signature("r"));
    assert_eq!(reason(model.ask(&accept)), (Code::Replayed, "RequestReplayed"));
    let noted = model.state.meta().number;
    model.ask(&refused(Command::RecordSignature)).unwrap();
    assert!(noted >= before && model.state.meta().number == noted, "once is enough");
    model.now_ms = 1001 * HOUR;
    model.run(&Command::Tick).unwrap();
    assert!(!model.state.has_signature("s"), "it is too old to be sent again");
}

#[test]
fn a_host_that_lost_its_ports_is_still_asked_before_a_peering_is_gone() {
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
fn a_rejection_with_a_client_token_is_one_however_often_it_is_sent() {
    let (mut model, id) = in_state("pending");
    let first = model.ask(&with_token("two", "t", reject(&id))).unwrap();
    assert_eq!(model.ask(&with_token("two", "t", reject(&id))).unwrap(), first);
}

#[test]
fn a_cidr_can_be_taken_away_whatever_a_receiver_did_meanwhile() {
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

/// One step of several accounts on a small cloud.
#[derive(Debug, Clone)]
enum Step {
    Ask { vpc: usize, peer: usize },
    Answer { nth: usize, who: usize, yes: bool },
    Delete { nth: usize, who: usize },
    Cidr { vpc: usize, cidr: u8 },
    Charge { who: usize, status: usize },
    Bandwidth { nth: usize, mbit: u32 },
    Confirm,
    Wait { hours: u64 },
    SetClock { hours: i64 },
    ConfirmClock,
}

const VPCS: [&str; 8] = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7"];
const ACCOUNTS: [&str; 3] = ["one", "two", "three"];

/// The same with a clock that is set now and then.
fn steps_with_leaps() -> impl Strategy<Value = Vec<Step>> {
    let leap = prop_oneof![(-300i64..300).prop_map(|hours| Step::SetClock { hours }), Just(Step::ConfirmClock)];
    let leaps = proptest::collection::vec((any::<proptest::sample::Index>(), leap), 0..8);
    (steps(), leaps).prop_map(|(mut steps, leaps)| {
        for (place, leap) in leaps {
            steps.insert(place.index(steps.len() + 1), leap);
        }
        steps
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..8, 0usize..8).prop_map(|(vpc, peer)| Step::Ask { vpc, peer }),
        4 => (any::<usize>(), 0usize..3, any::<bool>()).prop_map(|(nth, who, yes)| Step::Answer { nth, who, yes }),
        2 => (any::<usize>(), 0usize..3).prop_map(|(nth, who)| Step::Delete { nth, who }),
        2 => (0usize..8, 0u8..10).prop_map(|(vpc, cidr)| Step::Cidr { vpc, cidr }),
        1 => (0usize..3, 0usize..3).prop_map(|(who, status)| Step::Charge { who, status }),
        2 => (any::<usize>(), 1u32..4).prop_map(|(nth, mbit)| Step::Bandwidth { nth, mbit }),
        3 => Just(Step::Confirm),
        1 => (1u64..100).prop_map(|hours| Step::Wait { hours }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Eight VPCs of three accounts in two regions; CIDRs of neighbours overlap now and then.
fn small_cloud() -> Model {
    let mut text = REGIONS.to_owned();
    for (number, id) in VPCS.iter().enumerate() {
        let region = if number % 2 == 0 { "north" } else { "east" };
        text += &vpc_of(ACCOUNTS[number % 3], id, region, &format!("\"10.{}.0.0/16\"", number / 2 * 3 + number % 2));
    }
    let limits = Limits { peerings_per_region: 3, ..Limits::default() };
    let mut model = Model { now_ms: 1000 * HOUR, limits, ..Model::default() };
    model.apply(&text).unwrap();
    model
}

fn carry_out(model: &mut Model, step: &Step) {
    let nth = |model: &Model, nth: usize| {
        let ids: Vec<PeeringId> = model.state.peerings().keys().cloned().collect();
        (!ids.is_empty()).then(|| ids[nth % ids.len()].clone())
    };
    // Refusals are part of the game; the model checks that they change nothing.
    match step {
        Step::Ask { vpc, peer } => drop(ask(model, VPCS[*vpc], VPCS[*peer])),
        Step::Answer { nth: n, who, yes } => {
            if let Some(id) = nth(model, *n) {
                let command = if *yes { accept(&id) } else { reject(&id) };
                drop(model.run_as(ACCOUNTS[*who], command));
            }
        }
        Step::Delete { nth: n, who } => {
            if let Some(id) = nth(model, *n) {
                drop(model.run_as(ACCOUNTS[*who], delete(&id)));
            }
        }
        Step::Cidr { vpc, cidr } => {
            let which = vpc::Locator { region: None, id: VPCS[*vpc].parse().unwrap() };
            let cidr = vpc::Cidr { which, cidr: format!("10.{cidr}.128.0/17").parse().unwrap() };
            drop(model.run(&Command::AddCidr(cidr)));
        }
        Step::Charge { who, status } => {
            let status = [ChargeStatus::Normal, ChargeStatus::Overdue, ChargeStatus::Arrear][*status];
            charge(model, ACCOUNTS[*who], status);
        }
        Step::Bandwidth { nth: n, mbit } => {
            if let Some(id) = nth(model, *n) {
                let set = SetBandwidth { which: locate(&id), bandwidth: *mbit };
                drop(model.run(&Command::SetBandwidth(set)));
            }
        }
        Step::Confirm => confirm(model),
        Step::Wait { hours } => {
            model.now_ms += hours * HOUR;
            model.run(&Command::Tick).unwrap();
        }
        Step::SetClock { hours } => {
            model.set_clock(hours * HOURS, true);
            model.run(&Command::Tick).unwrap();
        }
        Step::ConfirmClock => model.confirm_clock(),
    }
}

/// What must hold, whoever did what when (rules L3, L5 to L9, B5).
fn invariants(model: &Model) {
    let state = &model.state;
    let mut vnis = BTreeSet::new();
    let mut pairs = BTreeSet::new();
    for vpc in state.vpcs().values() {
        assert!(vnis.insert(vpc.vni));
        // What a receiver does to its VPC before it accepts is judged when it accepts.
        let counting: Vec<&Peering> = state
            .peerings_of(&vpc.id)
            .filter(|it| it.counts_for(&vpc.id) && it.state != PeeringState::Pending)
            .collect();
        let mut claimed: Vec<(VpcId, ipnet::IpNet)> = vpc.cidrs.iter().map(|cidr| (vpc.id.clone(), *cidr)).collect();
        for (_, peer) in counting.iter().flat_map(|peering| peering.views()).filter(|(own, _)| own.vpc == vpc.id) {
            for cidr in &peer.cidrs {
                let clash = claimed.iter().find(|(whose, other)| *whose != peer.vpc && overlap(other, cidr));
                assert!(clash.is_none(), "{} of {} beside {clash:?} at {}", cidr, peer.vpc, vpc.id);
                claimed.push((peer.vpc.clone(), *cidr));
            }
        }
    }
    for peering in state.peerings().values() {
        for side in peering.sides() {
            assert!(side.vni.is_none_or(|vni| vnis.insert(vni)), "VNIs are given once");
            assert!(!(peering.is_live() && side.deleted_by_owner), "what an account deleted is not live");
        }
        let has_vnis = peering.sides().iter().all(|side| side.vni.is_some());
        let pending_or_over = peering.state == PeeringState::Pending || peering.is_ended();
        assert_ne!(has_vnis, pending_or_over, "VNIs as long as hosts may have it: {}", state_word(&peering.state));
        if peering.is_live() {
            let mut pair = peering.sides().map(|side| side.vpc.clone());
            pair.sort();
            assert!(pairs.insert(pair), "one live peering per pair");
        }
        if peering.state == PeeringState::Pending {
            assert!(peering.is_cross_account() && peering.expires_ms.unwrap() > model.now_ms);
        }
        let unpaid = state.account(&peering.initiator.account).charge.in_arrear() && peering.is_cross_region();
        assert!(!(unpaid && peering.forwards()), "what is not paid for does not forward");
        assert!(unpaid || !matches!(peering.state, PeeringState::Suspended { .. }));
        let rejected = matches!(peering.state, PeeringState::Ended { how: End::Rejected, .. });
        assert!(!rejected || peering.receiver.deleted_by_owner);
    }
    for account in ACCOUNTS {
        for region in ["north", "east"] {
            let (account, region) = (account.parse().unwrap(), region.parse().unwrap());
            let live = |it: &&Peering| it.is_live() && it.initiator.account == account && it.initiator.region == region;
            let count = state.peerings().values().filter(live).count();
            assert_eq!(
                count,
                peerings_used(model, account.as_str(), region.as_str()),
                "the index counts what is there"
            );
            assert!(count <= 3, "the quota holds");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// L3, L5 to L9, B5: see `invariants`.
    #[test]
    fn no_sequence_of_commands_of_several_accounts_breaks_a_rule(steps in steps_with_leaps()) {
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
            invariants(&model);
        }
    }

    /// Whatever the clock does, a request lives for 24 hours, neither more nor less, and what has expired stays so (L3).
    #[test]
    fn a_request_lives_as_long_as_it_may(steps in steps_with_leaps()) {
        let mut model = small_cloud();
        let passed = |model: &Model| model.now_ms.saturating_add_signed(-model.jumped_ms);
        let mut born: BTreeMap<PeeringId, u64> = BTreeMap::new();
        let mut expired: BTreeSet<PeeringId> = BTreeSet::new();
        for step in &steps {
            carry_out(&mut model, step);
            for (id, peering) in model.state.peerings().iter() {
                let age = passed(&model) - *born.entry(id.clone()).or_insert_with(|| passed(&model));
                let word = state_word(&peering.state);
                prop_assert!(word != "pending" || age < 24 * HOUR);
                prop_assert!(word != "expired" || age >= 24 * HOUR);
                prop_assert!(!expired.contains(id) || word == "expired");
                if word == "expired" {
                    expired.insert(id.clone());
                }
            }
        }
    }

    /// The sum of all periods, closed and open, is the time for which a peering had a bandwidth (B4, B6).
    #[test]
    fn every_moment_of_an_active_peering_is_charged_once(steps in steps_with_leaps()) {
        let mut model = small_cloud();
        let mut expected: BTreeMap<(PeeringId, u32), u64> = BTreeMap::new();
        let passed = |model: &Model| model.now_ms.saturating_add_signed(-model.jumped_ms);
        let mut before = passed(&model);
        for step in &steps {
            // What is active now is so until the step changes it, at the time at which the step sets the clock.
            let charged: Vec<(PeeringId, u32)> = model
                .state
                .peerings()
                .values()
                .filter(|it| it.state == PeeringState::Active && it.is_cross_region())
                .map(|it| (it.id.clone(), it.bandwidth.unwrap()))
                .collect();
            carry_out(&mut model, step);
            for key in charged {
                *expected.entry(key).or_default() += passed(&model) - before;
            }
            before = passed(&model);
        }
        let open = model.state.peerings().values().flat_map(|it| open_periods(it, model.now_ms));
        let mut sums: BTreeMap<(PeeringId, u32), u64> = BTreeMap::new();
        for period in model.periods.iter().cloned().chain(open) {
            prop_assert!(period.from_ms < period.to_ms);
            *sums.entry((period.peering, period.bandwidth)).or_default() += period.to_ms - period.from_ms;
        }
        expected.retain(|_, ms| *ms > 0);
        prop_assert_eq!(sums, expected);
    }

    /// Also when the clock is set back no moment is charged twice, and none before the first (B6).
    #[test]
    fn a_clock_that_is_set_back_charges_nothing_twice(steps in steps(), clocks in proptest::collection::vec(0u64..400, 60)) {
        let mut model = small_cloud();
        for (step, clock) in steps.iter().zip(clocks) {
            carry_out(&mut model, step);
            // Around where it is, mostly forwards.
            model.now_ms = model.now_ms + clock * HOUR / 20 - 5 * HOUR;
        }
        let open = model.state.peerings().values().flat_map(|it| open_periods(it, model.now_ms));
        let mut ends: BTreeMap<PeeringId, u64> = BTreeMap::new();
        for period in model.periods.iter().cloned().chain(open) {
            prop_assert!(period.from_ms < period.to_ms);
            let end = ends.insert(period.peering.clone(), period.to_ms).unwrap_or(0);
            prop_assert!(end <= period.from_ms, "{:?} begins before {}", period, end);
        }
    }

    /// Whatever an account asks for, what it is told names no prefix of a VPC that it does not see (L11).
    #[test]
    fn refusals_name_no_foreign_prefix(steps in steps()) {
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
        }
        for account in ACCOUNTS {
            let id = account.parse().unwrap();
            let vpcs = model.state.vpcs_of(&id);
            let mine: Vec<(VpcId, Vec<ipnet::IpNet>)> = vpcs.map(|vpc| (vpc.id.clone(), vpc.cidrs.clone())).collect();
            let own: BTreeSet<ipnet::IpNet> = mine.iter().flat_map(|(_, cidrs)| cidrs.clone()).collect();
            let trial = || Model { state: model.state.clone(), now_ms: model.now_ms, ..Model::default() };
            for (vpc, _) in &mine {
                for peer in VPCS {
                    if let Err(refusal) = ask(&mut trial(), vpc.as_str(), peer) {
                        let told = prefixes(&refusal.to_string());
                        prop_assert!(told.iter().all(|it| own.contains(it)), "{account}: {refusal}");
                    }
                }
                let which = vpc::Locator { region: None, id: vpc.clone() };
                let cidr: ipnet::IpNet = "10.4.128.0/17".parse().unwrap();
                if let Err(refusal) = trial().run_as(account, Command::AddCidr(vpc::Cidr { which, cidr })) {
                    let told = prefixes(&refusal.to_string());
                    prop_assert!(told.iter().all(|it| own.contains(it) || *it == cidr), "{account}: {refusal}");
                }
            }
        }
    }

    #[test]
    fn accounts_see_what_is_theirs_and_nothing_else(steps in steps()) {
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
        }
        for (account, peering) in ACCOUNTS.iter().flat_map(|account| model.state.peerings().values().map(move |it| (account, it))) {
            let seen = role(peering, &account.parse().unwrap(), None);
            let own = peering.sides().iter().any(|side| side.account.as_str() == *account);
            prop_assert!(own || seen.is_none());
            let listed = model.state.peerings_of_account(&account.parse().unwrap()).any(|it| it.id == peering.id);
            prop_assert_eq!(listed, own);
        }
    }

    /// All records make the same state again, whatever their order in the store.
    #[test]
    fn a_state_is_its_records(steps in steps()) {
        use cps_peering_controller::model::state::{Change, State};
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
        }
        let state = &model.state;
        let mut again = State::default();
        again.apply(Change::Meta(state.meta()));
        let peerings = state.peerings().values().rev().map(|it| Change::Peering(it.id.clone(), Some(it.clone())));
        let vpcs = state.vpcs().values().map(|it| Change::Vpc(it.id.clone(), Some(it.clone())));
        let accounts = state.accounts().values().map(|it| Change::Account(it.id.clone(), Some(it.clone())));
        let regions = state.regions().values().map(|it| Change::Region(it.id.clone(), Some(it.clone())));
        for change in peerings.chain(vpcs).chain(accounts).chain(regions) {
            again.apply(change);
        }
        prop_assert_eq!(&again, state);
    }
}

#[test]
fn records_of_what_is_over_are_bounded_whoever_makes_and_ends_how_many() {
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
