//! Maintenance windows: which are valid, and when they begin and end.

use super::*;
use cps_peering_config::id::HostId;
use cps_peering_controller::model::{
    host::{Change, What as HostCommand},
    record::Window,
    window::{AHEAD_MS, Ends, LONGEST_MS, WindowRequest},
};

fn host_command(what: HostCommand) -> Command {
    Command::Host(Change { id: h1(), what })
}

fn h1() -> HostId {
    "h1".parse().unwrap()
}

fn maintain(from: Option<u64>, ends: Ends) -> Command {
    host_command(HostCommand::Maintain(WindowRequest { from, ends }))
}

fn window(model: &Model) -> Option<Window> {
    model.state.hosts()[&h1()].window
}

/// Whether a peering waits for the host, and its window: none, announced, begun.
fn word(model: &mut Model) -> &'static str {
    model.run(&Command::Tick).unwrap();
    match (window(model), model.state.hosts()[&h1()].in_maintenance()) {
        (None, false) => "none",
        (Some(Window { begun: false, .. }), false) => "announced",
        (Some(Window { begun: true, .. }), true) => "begun",
        other => panic!("{other:?}"),
    }
}

/// P4.
#[test]
fn a_window_begins_and_ends_by_itself() {
    let mut model = cloud();
    let now_ms = model.now_ms;
    model.run(&maintain(Some(now_ms + HOUR), Ends::At(now_ms + 3 * HOUR))).unwrap();
    for (at_ms, expected) in
        [(0, "announced"), (HOUR - 1, "announced"), (HOUR, "begun"), (3 * HOUR - 1, "begun"), (3 * HOUR, "none")]
    {
        model.now_ms = now_ms + at_ms;
        assert_eq!(word(&mut model), expected, "{at_ms}");
    }
    // Deadlines are handled before a command is judged, whether or not a timer ran.
    model.run(&maintain(None, Ends::AfterS(3600))).unwrap();
    assert_eq!(word(&mut model), "begun");
    model.now_ms += HOUR;
    let id = ask(&mut model, "a", "b").unwrap();
    assert_eq!((word(&mut model), state(&model, &id)), ("none", "provisioning"));
    // A window that was missed has neither begun nor ended.
    model.run(&maintain(Some(model.now_ms + HOUR), Ends::AfterS(60))).unwrap();
    model.now_ms += DAY_MS;
    assert_eq!(word(&mut model), "none");
}

const DAY_MS: u64 = 24 * HOUR;

/// P4. If the configuration does not change, no host is updated.
#[test]
fn a_new_window_replaces_the_old_one_and_an_inventory_leaves_it() {
    let mut model = cloud();
    let plans = model.plans();
    model.run(&maintain(None, Ends::AfterS(7200))).unwrap();
    model.run(&maintain(Some(model.now_ms + HOUR), Ends::AfterS(60))).unwrap();
    assert_eq!(word(&mut model), "announced");
    model.apply(&[REGIONS.to_owned(), crate::common::host(1, "north")].concat()).unwrap();
    assert_eq!(word(&mut model), "announced");
    assert_eq!(model.plans(), plans);
    model.run(&host_command(HostCommand::EndMaintenance)).unwrap();
    let before = model.state.clone();
    model.run(&host_command(HostCommand::EndMaintenance)).unwrap();
    assert_eq!((word(&mut model), model.state == before), ("none", true));
    // A host that is removed has no window.
    model.run(&maintain(None, Ends::AfterS(7200))).unwrap();
    let removal = cps_peering_controller::model::host::Removal {
        dead: true,
        approval: cps_peering_controller::model::inventory::Approval::NotNeeded,
    };
    model.run(&host_command(HostCommand::Remove(removal))).unwrap();
    assert_eq!(word(&mut model), "none");
    assert_eq!(reason(model.run(&maintain(None, Ends::AfterS(60)))).1, "HostRemoved");
}

/// P4.
#[test]
fn windows_are_limited() {
    let mut model = cloud();
    let now_ms = model.now_ms;
    for (from, ends, names) in [
        (None, Ends::At(now_ms), "not after its beginning"),
        (None, Ends::AfterS(0), "not after its beginning"),
        (Some(now_ms + 2), Ends::At(now_ms + 1), "not after its beginning"),
        (Some(now_ms - 2 * HOUR), Ends::At(now_ms - HOUR), "is in the past"),
        (None, Ends::At(now_ms + LONGEST_MS + 1), "longer than 7 days"),
        (None, Ends::AfterS(u64::MAX), "longer than 7 days"),
        (Some(now_ms + AHEAD_MS + 1), Ends::AfterS(1), "more than 90 days ahead"),
        (Some(u64::MAX - 2000), Ends::AfterS(1), "more than 90 days ahead"),
    ] {
        let refusal = model.run(&maintain(from, ends)).unwrap_err();
        assert!(refusal.to_string().contains(names), "{from:?} {ends:?}: {refusal}");
        assert_eq!(refusal.violations[0].reason, "MaintenanceWindowInvalid");
    }
    model.run(&maintain(Some(now_ms + AHEAD_MS), Ends::At(now_ms + AHEAD_MS + LONGEST_MS))).unwrap();
    model.run(&maintain(Some(now_ms - HOUR), Ends::AfterS(3601))).unwrap();
    assert_eq!(word(&mut model), "begun");
}

/// P4, L3.
#[test]
fn a_clock_that_leaps_begins_and_ends_none_before_it_is_confirmed() {
    for by in [3 * HOURS, 400 * DAY_MS.cast_signed(), -3 * HOURS] {
        let mut model = cloud();
        let now_ms = model.now_ms;
        model.run(&maintain(Some(now_ms + 2 * HOUR), Ends::AfterS(3600))).unwrap();
        model.set_clock(by, true);
        assert_eq!(word(&mut model), "announced", "{by}");
        // By elapsed time it begins, and ends.
        model.now_ms += 2 * HOUR;
        assert_eq!(word(&mut model), "begun", "{by}");
        model.now_ms += HOUR;
        assert_eq!(word(&mut model), "none", "{by}");
    }
}

/// P4. Times of day are those of the right clock; a length is a length.
#[test]
fn confirming_a_clock_moves_windows_that_were_given_by_their_length() {
    let mut model = cloud();
    let right_ms = model.now_ms + DAY_MS;
    model.run(&maintain(None, Ends::AfterS(7200))).unwrap();
    model.now_ms += HOUR;
    model.set_clock(24 * HOURS, true);
    model.confirm_clock();
    assert_eq!(word(&mut model), "begun", "an hour of two has passed");
    model.now_ms += HOUR - 1;
    assert_eq!(word(&mut model), "begun");
    model.now_ms += 1;
    assert_eq!(word(&mut model), "none");
    // While the controller was down, time has elapsed.
    model.run(&maintain(None, Ends::AfterS(7200))).unwrap();
    model.set_clock(24 * HOURS, false);
    model.confirm_clock();
    assert_eq!(word(&mut model), "none");
    // By time of day: an operator, whose clock was right, has said tomorrow.
    let mut model = cloud();
    model.run(&maintain(Some(right_ms), Ends::At(right_ms + HOUR))).unwrap();
    model.set_clock(24 * HOURS, true);
    assert_eq!(word(&mut model), "announced");
    model.confirm_clock();
    assert_eq!(word(&mut model), "begun");
    // And back again: it has not begun, and does so in its time.
    model.set_clock(-24 * HOURS, true);
    assert_eq!(word(&mut model), "begun");
    model.confirm_clock();
    assert_eq!(word(&mut model), "announced");
    model.now_ms = right_ms;
    assert_eq!(word(&mut model), "begun");
    model.now_ms = right_ms + HOUR;
    assert_eq!(word(&mut model), "none");
}
