//! Daemons that are killed under traffic and restarted, and pushes without changes.

use crate::{NORTH, a_and_b, do_not_reach_each_other, reach_each_other};
use anyhow::{Context as _, Result, ensure};
use cps_peering_tests::{Lab, Release, Store, monitor::Monitor, stream::Stream};
use std::{thread, time::Duration};

/// How long a stream is observed.
const WATCH: Duration = Duration::from_millis(500);

#[test]
fn a_stream_loses_nothing_when_an_agent_is_killed_and_started() -> Result<()> {
    let mut lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    let streams = [Stream::start(a, b, b.ipv4()?, 1000)?, Stream::start(b, a, a.ipv6()?, 1000)?];
    for host in ["h1", "h2"] {
        thread::sleep(WATCH);
        lab.kill_agent(host)?;
        thread::sleep(WATCH);
        lab.start_agent(host)?;
        lab.wait_for_agent(host)?;
    }
    lab.wait_in_sync()?;
    thread::sleep(WATCH);
    for stream in streams {
        let record = stream.stop()?;
        ensure!(record.lost() == 0, "{} of {} lost", record.lost(), record.sent);
        ensure!(record.rate() > 900.0, "only {} a second", record.rate());
    }
    Ok(())
}

/// Counts devices with the filter of the underlay, and VNIs.
const HANDED_OVER: &str = r"
    devices=$(ip -o link show | sed -E 's/^[0-9]+: ([^:@]+).*/\1/')
    programs=$(for device in $devices; do tc filter show dev $device ingress; done | grep -c cps_underlay)
    echo $((programs + $(echo $devices | tr ' ' '\n' | grep -c -E '^cps(peer|vpc)')))";

#[test]
fn an_agent_that_starts_changes_nothing_in_a_kernel_that_is_right() -> Result<()> {
    let mut lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    lab.kill_agent("h1")?;
    let before = lab.host("h1").snapshot()?;
    lab.start_agent("h1")?;
    lab.wait_for_agent("h1")?;
    // The map of VNIs and senders belongs to the agent that created it, so a new one puts its own in its place
    // on each device, with what it knows.
    let counted = lab.host("h1").netns().sh(HANDED_OVER)?;
    let handed_over: u64 = counted.trim().parse()?;
    let report = lab.host("h1").report()?;
    ensure!(handed_over > 2 && report.counters.operations == handed_over, "{handed_over} {report:?}");
    let difference = lab.host("h1").snapshot()?.since(&before);
    ensure!(difference.is_empty(), "{difference}");
    Ok(())
}

#[test]
fn a_controller_that_is_killed_and_started_changes_nothing_and_goes_on() -> Result<()> {
    let mut lab = Lab::in_sync(a_and_b())?;
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    let before = [lab.host("h1").snapshot()?, lab.host("h2").snapshot()?];
    lab.kill_controller()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    let monitor = Monitor::start(lab.host("h1").netns())?;
    lab.start_controller()?;
    lab.wait_in_sync()?;
    let events = monitor.stop()?;
    ensure!(events.is_empty(), "{}", events.join("\n"));
    for (host, before) in ["h1", "h2"].into_iter().zip(&before) {
        let difference = lab.host(host).snapshot()?.since(before);
        ensure!(difference.is_empty(), "{host}:\n{difference}");
    }
    ensure!(lab.controller().cli(&["peering", "list"])?.ok()?.contains(id.as_str()));
    lab.unpeer(&id)?;
    lab.wait_in_sync()?;
    lab.peer("vpc-b", "vpc-a")?;
    lab.wait_in_sync()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn a_peering_that_was_deleted_while_the_controller_died_stays_deleted() -> Result<()> {
    let mut lab = Lab::builder(a_and_b()).delete_wait(Duration::from_millis(200)).start()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let before = lab.host("h2").snapshot()?;
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    lab.cut("h2")?;
    lab.unpeer(&id)?;
    lab.kill_controller()?;
    lab.mend("h2")?;
    lab.start_controller()?;
    lab.wait_in_sync()?;
    let difference = lab.host("h2").snapshot()?.since(&before);
    ensure!(difference.is_empty(), "{difference}");
    Ok(())
}

#[test]
fn applying_the_same_again_does_nothing() -> Result<()> {
    let lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    let operations = |host| lab.host(host).report().map(|report| report.counters.operations);
    let before = (operations("h1")?, operations("h2")?);
    let monitor = Monitor::start(lab.host("h1").netns())?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let events = monitor.stop()?;
    ensure!(events.is_empty(), "{}", events.join("\n"));
    ensure!((operations("h1")?, operations("h2")?) == before);
    Ok(())
}

#[test]
fn a_stream_loses_nothing_when_the_leader_of_two_controllers_is_killed() -> Result<()> {
    let mut lab = Lab::builder(a_and_b()).store(Store::Etcd).start()?;
    lab.apply()?;
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    let monitor = Monitor::start(lab.host("h1").netns())?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    let streams = [Stream::start(a, b, b.ipv4()?, 1000)?, Stream::start(b, a, a.ipv6()?, 1000)?];
    thread::sleep(WATCH);
    lab.kill_leader()?;
    lab.wait_in_sync()?;
    thread::sleep(WATCH);
    for stream in streams {
        let record = stream.stop()?;
        ensure!(record.lost() == 0, "{} of {} lost", record.lost(), record.sent);
    }
    let events = monitor.stop()?;
    ensure!(events.is_empty(), "{}", events.join("\n"));

    // Commands to the other one succeed, and their results are known when the first is back.
    lab.unpeer(&id)?;
    do_not_reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    lab.peer("vpc-b", "vpc-a")?;
    lab.wait_in_sync()?;
    lab.start_controller()?;
    lab.kill_leader()?;
    lab.wait_in_sync()?;
    ensure!(!lab.controller().cli(&["peering", "list"])?.ok()?.contains(id.as_str()));
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

/// A peering is created, carries packets, and is deleted; all hosts are in sync afterwards.
fn a_change_takes_effect(lab: &Lab, when: &str) -> Result<()> {
    let change = || -> Result<()> {
        let (a, c) = (lab.server("h1", "eth1"), lab.server("h2", "eth2"));
        let peering = lab.peer("vpc-a", "vpc-c")?;
        lab.wait_in_sync()?;
        reach_each_other(a, c)?;
        lab.unpeer(&peering)?;
        lab.wait_in_sync()?;
        let ping = a.ping(c.ipv4()?)?;
        ensure!(!ping.answered, "{}: {}", ping.line, ping.output);
        Ok(())
    };
    change().with_context(|| when.to_owned())
}

#[test]
fn an_upgrade_and_a_downgrade_by_one_release_lose_nothing_of_a_stream() -> Result<()> {
    let previous = Release::previous()?;
    let topology = a_and_b()
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h2", "eth2", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-a", "vpc-b");
    let mut lab = Lab::builder(topology).start_as(&previous)?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    let streams = [Stream::start(a, b, b.ipv4()?, 1000)?, Stream::start(b, a, a.ipv6()?, 1000)?];
    a_change_takes_effect(&lab, "all of the release before")?;
    // Controllers first, so agents are older than they on the way up, and newer on the way down. Between two steps neighbours work
    // together, and two controllers of one store as well.
    for (release, word) in [(None, "upgraded"), (Some(&previous), "downgraded")] {
        for number in 0..lab.controller().count() {
            lab.change_controller(number, release)?;
            a_change_takes_effect(&lab, &format!("controller {number} is {word}"))?;
        }
        for host in ["h1", "h2"] {
            lab.change_agent(host, release)?;
            a_change_takes_effect(&lab, &format!("the agent of {host} is {word}"))?;
        }
    }
    for stream in streams {
        let record = stream.stop()?;
        ensure!(record.lost() == 0, "{} of {} lost", record.lost(), record.sent);
    }
    Ok(())
}
