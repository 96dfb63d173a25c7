//! One bandwidth for many hosts (rule B3): with packets, and without anything that could maintain the sum.

use super::*;
use anyhow::Context;
use cps_peering_config::inventory::Inventory;
use cps_peering_tests::command::Ended;
use cps_peering_tests::stream::{Record, Stream};
use serde_json::Value;

/// In Mbit/s.
const BANDWIDTH: u32 = 2;
/// The same in bytes per second.
const CAP: u64 = BANDWIDTH as u64 * 125_000;
/// Bytes of a datagram, and of the frame that carries it: UDP, IPv4 and Ethernet headers.
pub(crate) const DATAGRAM: usize = 1000;
pub(crate) const FRAME: u64 = DATAGRAM as u64 + 8 + 20 + 14;
/// More than all of the bandwidth, in datagrams per second.
const FLOOD: u32 = 300;
/// During floods agents and controller take long on one processor.
const PATIENCE: Duration = Duration::from_mins(1);
const SENDERS: [&str; 3] = ["h1", "h2", "h3"];

/// Three hosts of one VPC in one region, its peer in another.
fn three_senders() -> Topology {
    let mut topology = Topology::new()
        .host("h1", NORTH, "192.0.2.1")
        .host("h2", NORTH, "192.0.2.2")
        .host("h3", NORTH, "192.0.2.3")
        .host("h4", EAST, "198.51.100.4")
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", EAST, &["10.2.0.0/16", "fd00:2::/48"]);
    for (number, host) in SENDERS.iter().enumerate() {
        let gateways = [format!("10.1.{number}.1/24"), format!("fd00:1:0:{number}::1/64")];
        topology = topology.port("vpc-a", host, "eth1", &gateways.each_ref().map(String::as_str));
    }
    topology.port("vpc-b", "h4", "eth1", &["10.2.0.1/24", "fd00:2::1/64"]).peering("vpc-a", "vpc-b").limited(BANDWIDTH)
}

fn flood(lab: &Lab, host: &str) -> Result<Stream> {
    let to = lab.server("h4", "eth1");
    Stream::of_size(lab.server(host, "eth1").netns(), to.netns(), to.ipv4()?, FLOOD, DATAGRAM)
}

/// What each of the senders' kernels lets pass, in percent of the bandwidth, by `tc`.
fn parts(lab: &Lab) -> Result<[f64; 3]> {
    let [one, two, three] = SENDERS;
    Ok([part(lab, one)?, part(lab, two)?, part(lab, three)?])
}

fn part(lab: &Lab, host: &str) -> Result<f64> {
    let netns = lab.host(host).netns();
    let links: Value = serde_json::from_str(&netns.ip("-j link show type vxlan")?)?;
    let mut names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    let device = names.find(|name| name.starts_with("cpspeer")).context("no device of the side")?;
    let classes = netns.exec(&format!("tc class show dev {device}"))?.ok()?;
    let mbit = mbit(&classes).with_context(|| format!("{host}: no rate on {device}: {classes}"))?;
    Ok(mbit * 100.0 / f64::from(BANDWIDTH))
}

/// The rate of the first class, in Mbit/s. This `tc` writes no JSON for classes.
pub(crate) fn mbit(classes: &str) -> Option<f64> {
    let mut words = classes.split_whitespace().skip_while(|word| *word != "rate").skip(1);
    let rate = words.next()?.strip_suffix("bit")?;
    let (number, unit) = rate.split_at(rate.find(|c: char| c.is_alphabetic()).unwrap_or(rate.len()));
    let unit = match unit {
        "" => 1e-6,
        "K" => 1e-3,
        "M" => 1.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

/// The counters of the senders' kernels, for failures.
fn sent(lab: &Lab) -> String {
    let of = |host| lab.host(host).netns().exec("tc -s qdisc show").and_then(Ended::ok);
    SENDERS.map(|host| of(host).unwrap_or_default()).join("\n")
}

fn wait_for(lab: &Lab, what: &str, there: impl Fn([f64; 3]) -> bool) -> Result<()> {
    wait::until(what, PATIENCE, || {
        let parts = parts(lab)?;
        ensure!(there(parts), "{parts:?} percent; {}", sent(lab));
        Ok(Some(()))
    })
}

/// By any alignment, no second had more than the bandwidth. Each host may begin with a burst of a hundredth
/// of what it may send in a second, and a frame that has begun is sent to its end. What was sent evenly arrives when the one
/// processor of this kernel gets to it, a tick of 10 ms late: one more hundredth.
fn never_too_much(records: &[Record]) -> Result<()> {
    let most = most_within_a_second(records)?;
    let allowed = CAP + CAP / 50 + 3 * FRAME;
    ensure!(most <= allowed, "{most} bytes passed within a second, and at most {allowed} may");
    ensure!(most > CAP / 2, "{most} bytes within a second are no flood");
    Ok(())
}

/// The most bytes in frames of [`FRAME`] that were received within any second.
pub(crate) fn most_within_a_second(records: &[Record]) -> Result<u64> {
    let mut times: Vec<_> = records.iter().flat_map(|record| &record.receipts).map(|receipt| receipt.at).collect();
    times.sort_unstable();
    let (mut first, mut most) = (0, 0);
    for (last, time) in times.iter().enumerate() {
        while time.duration_since(times[first])? > Duration::from_secs(1) {
            first += 1;
        }
        most = most.max((last - first) as u64 * FRAME);
    }
    Ok(most)
}

/// B3.
#[test]
fn the_bandwidth_follows_who_sends() -> Result<()> {
    let lab = Lab::in_sync(three_senders())?;
    let mut streams = Vec::new();
    for host in SENDERS {
        streams.push(flood(&lab, host)?);
    }
    wait_for(&lab, "equal parts for three who send", |parts| parts.iter().all(|part| *part > 30.0))?;
    streams[1..].iter().for_each(Stream::end);
    wait_for(&lab, "nearly all for one who sends alone", |parts| parts[0] > 95.0)?;
    streams[0].end();
    streams.push(flood(&lab, "h2")?);
    wait_for(&lab, "nearly all for another", |parts| parts[1] > 95.0)?;
    let records: Vec<Record> = streams.into_iter().map(Stream::stop).collect::<Result<_>>()?;
    never_too_much(&records)
}

/// B3, without anything that could maintain the sum.
#[test]
fn the_sum_holds_while_the_controller_is_dead_and_while_a_host_does_not_answer() -> Result<()> {
    let mut lab = Lab::in_sync(three_senders())?;
    let mut streams = Vec::new();
    for host in SENDERS {
        streams.push(flood(&lab, host)?);
    }
    wait_for(&lab, "equal parts for three who send", |parts| parts.iter().all(|part| *part > 30.0))?;
    lab.kill_controller()?;
    lab.kill_agent("h3")?;
    let dead = parts(&lab)?;
    ensure!(dead.iter().sum::<f64>() <= 100.0 && dead[2] > 30.0, "{dead:?}");
    streams[1].end();
    lab.start_controller()?;
    // The third may still send its share, so the first gets what is left, and no more.
    wait_for(&lab, "what is left for the first", |parts| parts[0] > 60.0)?;
    let now = parts(&lab)?;
    ensure!(now[2] >= dead[2] && now.iter().sum::<f64>() <= 100.0, "{now:?} after {dead:?}");
    streams[2].end();
    lab.start_agent("h3")?;
    wait_for(&lab, "nearly all for the first, when the third answers again", |parts| parts[0] > 95.0)?;
    let records: Vec<Record> = streams.into_iter().map(Stream::stop).collect::<Result<_>>()?;
    never_too_much(&records)
}

/// B3.
#[test]
fn a_host_that_comes_or_goes_leaves_the_sum_as_it_is() -> Result<()> {
    let lab = Lab::in_sync(three_senders())?;
    let with_one: Inventory = {
        let mut inventory: Inventory = three_senders().into();
        inventory.ports.retain(|port| !matches!(port.host.as_str(), "h2" | "h3"));
        inventory
    };
    let mut streams = vec![flood(&lab, "h1")?, flood(&lab, "h2")?];
    wait_for(&lab, "equal parts for two who send", |parts| parts[..2].iter().all(|part| *part > 45.0))?;
    lab.controller().apply(&with_one, true)?;
    // A host that does not answer in time keeps its share, and is left alone for a while.
    wait::until("all for the one that is left", PATIENCE, || {
        let part = part(&lab, "h1")?;
        // All but the one frame per second that is lost to rounding.
        ensure!((99.0..=100.0).contains(&part), "{part} percent");
        Ok(Some(()))
    })?;
    streams[1].end();
    lab.apply()?;
    streams.push(flood(&lab, "h3")?);
    wait_for(&lab, "equal parts again", |parts| parts[0] > 45.0 && parts[2] > 45.0)?;
    let records: Vec<Record> = streams.into_iter().map(Stream::stop).collect::<Result<_>>()?;
    never_too_much(&records)
}
