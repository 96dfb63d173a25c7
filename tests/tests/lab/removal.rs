//! When a peering is deleted traffic stops immediately in both directions, also if only one end's hosts can be reached (C5).

use crate::{a_and_b, do_not_reach_each_other, reach_each_other};
use anyhow::{Context, Result, ensure};
use cps_peering_config::id::PeeringId;
use cps_peering_tests::{
    Lab,
    stream::{Stream, milliseconds},
    wait,
};
use std::{
    thread,
    time::{Duration, SystemTime},
};

/// How long a stream is observed.
const WATCH: Duration = Duration::from_millis(500);

/// How long a delete waits for a host that cannot be reached. The reachable one must be done by then.
const DELETE_WAIT: Duration = Duration::from_secs(2);

/// C5.
#[test]
fn a_delete_ends_a_stream_in_both_directions_at_once() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    let output = deleted_under_streams(&lab, &id)?;
    ensure!(!output.contains("draining"), "{output}");
    is_gone(&lab, &id)
}

/// C5, while the other end cannot be reached.
#[test]
fn one_end_that_can_be_reached_is_enough_to_end_a_stream_in_both_directions() -> Result<()> {
    for reachable in ["h2", "h1"] {
        let lab = Lab::builder(a_and_b()).delete_wait(DELETE_WAIT).start()?;
        lab.apply()?;
        lab.wait_in_sync()?;
        let unreachable = if reachable == "h1" { "h2" } else { "h1" };
        let before = lab.host(unreachable).snapshot()?;
        let id = lab.peer("vpc-a", "vpc-b")?;
        lab.wait_in_sync()?;
        let with_peering = lab.host(unreachable).snapshot()?;
        lab.cut(unreachable)?;
        let output = deleted_under_streams(&lab, &id)?;
        ensure!(output.contains("draining"), "{output}");
        ensure!(lab.controller().cli(&["peering", "show", id.as_str()])?.ok()?.contains("draining"));
        let still = lab.host(unreachable).snapshot()?.since(&with_peering);
        ensure!(still.is_empty(), "{unreachable} was not reached and yet changed:\n{still}");
        lab.mend(unreachable)?;
        is_gone(&lab, &id)?;
        lab.wait_in_sync()?;
        let difference = lab.host(unreachable).snapshot()?.since(&before);
        ensure!(difference.is_empty(), "{unreachable}:\n{difference}");
    }
    Ok(())
}

#[test]
fn a_peering_that_was_deleted_while_an_agent_was_dead_is_gone_when_it_is_back() -> Result<()> {
    let mut lab = Lab::builder(a_and_b()).delete_wait(Duration::from_millis(500)).start()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let before = lab.host("h1").snapshot()?;
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    lab.kill_agent("h1")?;
    let output = lab.unpeer(&id)?;
    ensure!(output.contains("draining"), "{output}");
    do_not_reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    lab.start_agent("h1")?;
    is_gone(&lab, &id)?;
    lab.wait_in_sync()?;
    let difference = lab.host("h1").snapshot()?.since(&before);
    ensure!(difference.is_empty(), "{difference}");
    Ok(())
}

#[test]
fn pairs_can_be_peered_and_parted_again_and_again() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    let before = lab.host("h1").snapshot()?;
    for _ in 0..3 {
        let id = lab.peer("vpc-a", "vpc-b")?;
        lab.wait_in_sync()?;
        reach_each_other(a, b)?;
        lab.unpeer(&id)?;
        lab.wait_in_sync()?;
        do_not_reach_each_other(a, b)?;
    }
    let difference = lab.host("h1").snapshot()?.since(&before);
    ensure!(difference.is_empty(), "{difference}");
    Ok(())
}

/// Deletes a peering of A and B under streams in both directions, and checks that no packet arrives after the response;
/// returns the output of the CLI.
fn deleted_under_streams(lab: &Lab, id: &PeeringId) -> Result<String> {
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    let streams = [Stream::start(a, b, b.ipv4()?, 200)?, Stream::start(b, a, a.ipv6()?, 200)?];
    thread::sleep(WATCH);
    let called = SystemTime::now();
    let output = lab.unpeer(id)?;
    let answered = SystemTime::now();
    thread::sleep(WATCH);
    for stream in streams {
        let record = stream.stop()?;
        let last = record.last().context("nothing came through")?.at;
        ensure!(last > called, "the stream ended {:.1} ms before the call", milliseconds(last, called));
        ensure!(last < answered, "a packet came {:.1} ms after the answer", milliseconds(answered, last));
    }
    Ok(output)
}

/// Waits until the controller has forgotten a peering of one account.
fn is_gone(lab: &Lab, id: &PeeringId) -> Result<()> {
    wait::until(&format!("{id} is gone"), Duration::from_secs(20), || {
        let list = lab.controller().cli(&["peering", "list"])?.ok()?;
        ensure!(!list.contains(id.as_str()), "{list}");
        Ok(Some(()))
    })
}
