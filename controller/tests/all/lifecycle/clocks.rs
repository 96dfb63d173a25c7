//! Deadlines and bills, whatever the clock does.

use super::*;

/// L3.
#[test]
fn a_request_expires_by_the_clock_whether_or_not_anything_ran() {
    let mut model = cloud();
    let (first, second) = (ask(&mut model, "a", "c").unwrap(), ask(&mut model, "a", "d").unwrap());
    model.now_ms += 24 * HOUR - 1;
    model.run_as("two", accept(&first)).unwrap();
    model.now_ms += 1;
    assert_eq!(reason(model.run_as("two", accept(&second))), (Code::FailedPrecondition, "VpcPeerExpired"));
    // It does not count from that instant: not for the pair, the name, the quota.
    let again = ask(&mut model, "a", "d").unwrap();
    assert_eq!((state(&model, &second), state(&model, &again)), ("expired", "pending"));
    assert_eq!(peerings_used(&model, "one", "north"), 2);
    assert!(sees(&model, "one", &second).is_some() && sees(&model, "two", &second).is_some());
}

/// By how much a clock is set, in milliseconds.
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
fn a_request_is_not_accepted_while_it_may_have_expired() {
    let (mut model, id) = in_state("pending");
    model.set_clock(DAY - 1, true);
    let mut other = cloud();
    other.state.clone_from(&model.state);
    (other.now_ms, other.leap) = (model.now_ms, model.leap);
    other.run_as("two", accept(&id)).unwrap();
    model.set_clock(DAY, true);
    assert_eq!(reason(model.run_as("two", accept(&id))), (Code::FailedPrecondition, "ClockNotConfirmed"));
    assert_eq!(state(&model, &id), "pending");
    // It expires by elapsed time nevertheless, and that is final.
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
        // The clock is right: that time has elapsed.
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
fn confirming_a_clock_moves_deadlines_by_as_much() {
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
fn after_a_downtime_the_clock_tells_how_long_it_was() {
    let (mut model, id) = in_state("pending");
    model.set_clock(2 * DAY, false);
    model.now_ms += 1000;
    let mut meanwhile = wish(&model, "c", "a");
    meanwhile.name = "meanwhile".to_owned();
    let young = peering(&model.run_as("two", Command::CreatePeering(meanwhile)).unwrap());
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "ClockNotConfirmed");
    model.confirm_clock();
    assert_eq!(reason(model.run_as("two", accept(&id))).1, "VpcPeerExpired");
    // What began after the downtime has its own time.
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

/// How long a peering was charged for each bandwidth; nothing is charged twice.
fn sums(model: &Model) -> BTreeMap<u32, u64> {
    let mut sums = BTreeMap::new();
    let mut end = 0;
    for period in &model.periods {
        assert!(end <= period.from_ms && period.from_ms < period.to_ms, "{:?}", model.periods);
        end = period.to_ms;
        *sums.entry(period.bandwidth).or_default() += period.to_ms - period.from_ms;
    }
    sums
}

/// B4, B6: the controller was down for two days, and what was active then changes before the length is known.
#[test]
fn a_downtime_is_charged_for_what_there_was_when_it_began() {
    const AWAY: u64 = 48 * HOUR;
    let bandwidth = |model: &mut Model, id: &PeeringId, mbit| {
        let set = SetBandwidth { which: locate(id), bandwidth: mbit };
        model.run_as("one", Command::SetBandwidth(set)).unwrap();
    };
    // When it changes: in the millisecond in which the controller is back, within a second of the meter's start, and later.
    for (before_ms, after_ms) in [(HOUR, 0), (0, 0), (300, 300), (HOUR, HOUR)] {
        let back = || {
            let (mut model, id) = in_state("active");
            model.now_ms += before_ms;
            model.set_clock(2 * DAY, false);
            model.now_ms += after_ms;
            (model, id)
        };
        let ran = before_ms + after_ms + AWAY;
        let (mut model, id) = back();
        for mbit in [1000, 500, 1000] {
            bandwidth(&mut model, &id, mbit);
        }
        model.now_ms += HOUR;
        model.confirm_clock();
        model.now_ms += HOUR;
        model.run_as("one", delete(&id)).unwrap();
        assert_eq!(sums(&model), BTreeMap::from([(100, ran), (1000, 2 * HOUR)]), "{before_ms} {after_ms}");
        // Suspended, and resumed before it is known.
        let (mut model, id) = back();
        charge(&mut model, "one", ChargeStatus::Arrear);
        model.now_ms += HOUR;
        charge(&mut model, "one", ChargeStatus::Normal);
        confirm(&mut model);
        model.now_ms += HOUR;
        model.confirm_clock();
        model.now_ms += HOUR;
        model.run_as("one", delete(&id)).unwrap();
        assert_eq!(sums(&model), BTreeMap::from([(100, ran + 2 * HOUR)]), "{before_ms} {after_ms}");
        // Deleted; and what begins meanwhile was not there.
        let (mut model, id) = back();
        model.run_as("one", delete(&id)).unwrap();
        confirm(&mut model);
        let young = ask(&mut model, "a", "b").unwrap();
        confirm(&mut model);
        model.confirm_clock();
        model.now_ms += HOUR;
        let before = model.clone();
        assert_eq!(sums(&model), BTreeMap::from([(100, ran)]), "{before_ms} {after_ms}");
        assert_eq!(state(&before, &young), "active");
        model.run_as("one", delete(&young)).unwrap();
        assert_eq!(sums(&model), BTreeMap::from([(100, ran + HOUR)]), "{before_ms} {after_ms}");
        // The clock is set back: there was no downtime. What is noted does not count for a later one.
        let (mut model, id) = back();
        bandwidth(&mut model, &id, 1000);
        model.set_clock(0, false);
        model.now_ms += HOUR;
        model.set_clock(DAY, false);
        model.confirm_clock();
        model.run_as("one", delete(&id)).unwrap();
        let mut expected = BTreeMap::from([(100, before_ms + after_ms), (1000, 25 * HOUR)]);
        expected.retain(|_, ms| *ms > 0);
        assert_eq!(sums(&model), expected, "{before_ms} {after_ms}");
    }
}

#[test]
fn a_record_stays_until_a_downtime_is_charged() {
    let (mut model, id) = in_state("active");
    model.set_clock(2 * DAY, false);
    model.run_as("one", delete(&id)).unwrap();
    confirm(&mut model);
    model.limits.requests_per_hour = u32::MAX;
    for _ in 0..cps_peering_controller::model::peering::MAX_ENDED + 2 {
        model.now_ms += 1;
        let request = ask(&mut model, "a", "c").unwrap();
        model.run_as("one", delete(&request)).unwrap();
    }
    model.confirm_clock();
    assert_eq!(sums(&model), BTreeMap::from([(100, 48 * HOUR)]));
    let request = ask(&mut model, "a", "c").unwrap();
    model.run_as("one", delete(&request)).unwrap();
    assert_eq!(model.state.peerings().get(&id), None, "it is as old as any");
}

/// B4: of the bandwidths within a second the highest is charged, and toggling fills no bill with lines.
#[test]
fn a_bandwidth_that_is_toggled_is_charged_by_the_second() {
    let (mut model, id) = in_state("active");
    model.limits.bandwidth_changes_per_hour = u32::MAX;
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
    // Less than a second is charged as one; a lower bandwidth changes nothing within it.
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
fn setting_a_clock_changes_no_bill() {
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
