//! Hourly quotas.

use super::*;

const MINUTE: u64 = 60 * 1000;

fn set(model: &mut Model, id: &PeeringId, mbit: u32) -> Result<Outcome, CommandError> {
    model.run_as("one", Command::SetBandwidth(SetBandwidth { which: locate(id), bandwidth: mbit }))
}

fn changes(model: &Model) -> usize {
    quota::used(&model.state, Kind::BandwidthChange, &"one".parse().unwrap(), None, model.now_ms)
}

/// B6: closed periods are kept for good, so the number that an account closes within an hour is limited.
#[test]
fn an_accounts_bandwidth_changes_within_an_hour_are_limited() {
    const REFUSED: (Code, &str) = (Code::QuotaExceeded, "BandwidthChangeLimitExceeded");
    let (mut model, id) = in_state("active");
    model.limits.bandwidth_changes_per_hour = 4;
    assert_eq!(changes(&model), 1, "it was created");
    for mbit in 1..=3 {
        model.now_ms += 2000;
        set(&mut model, &id, mbit).unwrap();
    }
    assert_eq!((changes(&model), model.periods.len()), (4, 3));
    assert_eq!(reason(set(&mut model, &id, 9)), REFUSED);
    assert_eq!(reason(ask(&mut model, "a", "b").map(|_| Outcome::Done)), REFUSED);
    // What closes no period does not count, nor does a delete, by anyone.
    set(&mut model, &id, 3).unwrap();
    ask(&mut model, "a", "c").unwrap();
    model.now_ms += 2000;
    let before = model.clone();
    model.run_as("one", delete(&id)).unwrap();
    assert_eq!(model.periods.len(), 4);
    model.clone_from(&before);
    charge(&mut model, "one", ChargeStatus::Arrear);
    charge(&mut model, "one", ChargeStatus::Normal);
    confirm(&mut model);
    assert_eq!((state(&model, &id), changes(&model)), ("active", 4));
    // Deleting does not lower the count; other accounts have their own, and operators have none.
    model.run_as("one", delete(&id)).unwrap();
    confirm(&mut model);
    assert_eq!(reason(ask(&mut model, "a", "d").map(|_| Outcome::Done)), REFUSED);
    ask(&mut model, "c", "b").unwrap();
    model.run(&Command::CreatePeering(Create { bandwidth: Some(1), ..create("a", "d") })).unwrap();
    // Operators can raise the quota, and after an hour the count is zero again.
    let more = |limit| {
        let what = What::Quota { kind: Kind::BandwidthChange, region: "north".parse().unwrap(), limit };
        Command::Account(account::Change { id: "one".parse().unwrap(), what })
    };
    model.run(&more(Some(5))).unwrap();
    model.now_ms += 5 * MINUTE;
    ask(&mut model, "a", "b").unwrap();
    model.run(&more(None)).unwrap();
    model.now_ms += HOUR - 5 * MINUTE;
    assert_eq!(changes(&model), 1, "the hour of the first ones is over to the minute");
    model.now_ms += HOUR;
    model.run(&Command::Tick).unwrap();
    assert_eq!(changes(&model), 0);
    let key = cps_peering_controller::model::record::HourlyKey::bandwidth_changes(&"one".parse().unwrap());
    assert_eq!(model.state.hourly().get(&key), None, "nothing is left of it");
}

/// Deleting records does not lower the count of what they were counted for.
#[test]
fn a_request_counts_for_an_hour_whatever_happens_to_its_record() {
    let mut model = cloud();
    model.limits.requests_per_hour = 3;
    model.limits.bandwidth_changes_per_hour = u32::MAX;
    let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
    for _ in 0..3 {
        let id = ask(&mut model, "a", "c").unwrap();
        model.run_as("one", delete(&id)).unwrap();
    }
    for _ in 0..=cps_peering_controller::model::peering::MAX_ENDED {
        model.now_ms += 1;
        let own = ask(&mut model, "a", "b").unwrap();
        model.run_as("one", delete(&own)).unwrap();
        confirm(&mut model);
    }
    assert!(model.state.peerings().values().all(|it| it.receiver.account == one), "the records have gone");
    assert_eq!(quota::requests_to(&model.state, &one, &two, model.now_ms), 3);
    assert_eq!(quota::used(&model.state, Kind::PeeringRequest, &one, None, model.now_ms), 3);
    let refused = reason(ask(&mut model, "a", "c").map(|_| Outcome::Done));
    assert_eq!(refused, (Code::QuotaExceeded, "PeeringRequestLimitExceeded"));
    model.now_ms += HOUR;
    ask(&mut model, "a", "c").unwrap();
    assert_eq!(quota::requests_to(&model.state, &one, &two, model.now_ms), 1);
}

/// Setting a clock starts no new hour, and blocks nobody for longer than one.
#[test]
fn an_hour_is_one_whatever_the_clock_does() {
    for by in [8 * 24 * HOURS, -3 * 24 * HOURS] {
        let (mut model, _) = in_state("active");
        model.set_clock(by, true);
        model.now_ms += HOUR / 4;
        model.confirm_clock();
        assert_eq!(changes(&model), 1, "{by}");
        model.now_ms += HOUR;
        assert_eq!(changes(&model), 0, "{by}");
    }
}
