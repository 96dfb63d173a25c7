//! What accounts learn about each other.

use super::*;

/// L7.
#[test]
fn acceptance_checks_again() {
    let mut model = cloud();
    model.apply(&vpc_of("three", "x", "north", r#""10.1.0.0/16""#)).unwrap();
    let request = ask(&mut model, "x", "c").unwrap();
    let own = ask(&mut model, "c", "a").unwrap();
    model.run_as("one", accept(&own)).unwrap();
    let refusal = model.run_as("two", accept(&request)).unwrap_err();
    assert_eq!(refusal.violations[0].reason, "VpcPeerCidrConflict", "c has a peer with these addresses by now");
    assert!(refusal.to_string().contains(own.as_str()), "the receiver knows its own peering: {refusal}");
    // Also changes of the VPCs themselves.
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
    // The receiver's other peers are checked when it accepts (L7).
    let request = ask(&mut model, "x", "c").unwrap();
    let refusal = model.run_as("two", accept(&request)).unwrap_err();
    assert_eq!(refusal.violations[0].reason, "VpcPeerCidrConflict");
    assert!(refusal.to_string().contains(own.as_str()), "the receiver knows its own peering: {refusal}");
}

/// Every prefix in a text.
pub(super) fn prefixes(text: &str) -> Vec<ipnet::IpNet> {
    let cut = |c: char| !(c.is_ascii_hexdigit() || ".:/".contains(c));
    text.split(cut).filter_map(|word| word.trim_end_matches([':', '.']).parse().ok()).collect()
}

#[test]
fn of_an_overlap_an_initiator_sees_its_own_prefix_alone() {
    let mut model = cloud();
    model.apply(&vpc_of("three", "x", "north", r#""10.200.0.0/16", "10.3.77.0/24""#)).unwrap();
    let refusal = ask(&mut model, "x", "c").unwrap_err();
    assert_eq!((refusal.code, refusal.violations[0].reason), (Code::FailedPrecondition, "VpcPeerCidrConflict"));
    assert_eq!(prefixes(&refusal.to_string()), ["10.3.77.0/24".parse().unwrap()], "{refusal}");
    assert_eq!(refusal.tells.iter().map(ToString::to_string).collect::<Vec<_>>(), ["two"]);
    // The owner of both, and operators, see both.
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
fn an_address_plan_cannot_be_read_by_many_requests() {
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
    // It looks the same without an overlap; other pairs are not affected.
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
    // Nor are prefix lists: whether the other VPC has what is requested decides nothing, and requesting less is never refused.
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
fn a_receiver_cannot_read_the_other_peers_of_an_initiator() {
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
fn a_conflict_that_a_receiver_made_blocks_nothing() {
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
fn what_may_not_be_known_looks_nonexistent() {
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
