//! From nothing to all routes in the kernel: agent, raw netlink, `ip -batch`, BIRD; side by side, alternating.

use crate::{
    agent::Agent,
    bird,
    figures::{Figures, median_s, note, seconds},
    ground, ip_batch,
    raw::Raw,
};
use anyhow::Result;
use ipnet::IpNet;
use std::time::{Duration, Instant};

/// Turns of each measurement; ratios are between medians.
const TURNS: usize = 5;

const NEXTHOP: u32 = 7;

/// The times of one measurement, a value per turn.
#[derive(Default)]
struct Times {
    agent: Vec<Duration>,
    confirmed: Vec<Duration>,
    raw: Vec<Duration>,
    ip: Vec<Duration>,
    bird: Vec<Duration>,
    agent_mb: Vec<f64>,
    bird_mb: Vec<f64>,
}

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let million = ["agent.add_1m.vs_raw", "agent.add_1m.vs_ip", "agent.add_1m.vs_bird", "agent.rss_1m"];
    if figures.wants(&million) {
        let others = figures.wants(&million[1..3]);
        let times = turns(4, 1_000_000, others)?;
        ratio(figures, million[0], &times, &times.raw, "raw");
        ratio(figures, million[1], &times, &times.ip, "ip -batch");
        ratio(figures, million[2], &times, &times.bird, "BIRD");
        let most = times.agent_mb.iter().copied().fold(0.0, f64::max);
        let bird = times.bird_mb.iter().copied().fold(0.0, f64::max);
        figures.add(million[3], most, "MB", format!("peak of {TURNS} agents (VmHWM); BIRD {bird:.0} MB"));
    }
    for (name, family) in [("agent.add_100k.vs_raw", 4), ("agent.add_100k.vs_raw_v6", 6)] {
        // The first name is a prefix of the second.
        if figures.wants(&[name]) {
            let times = turns(family, 100_000, false)?;
            ratio(figures, name, &times, &times.raw, "raw");
        }
    }
    Ok(())
}

fn ratio(figures: &mut Figures, name: &str, times: &Times, other: &[Duration], whose: &str) {
    if other.is_empty() {
        return;
    }
    let value = median_s(other) / median_s(&times.agent);
    let how = format!(
        "agent {}, answered {}; {whose} {}; {} turns",
        seconds(&times.agent),
        seconds(&times.confirmed),
        seconds(other),
        other.len()
    );
    figures.add(name, value, "ratio", how);
}

fn turns(family: u8, count: u32, others: bool) -> Result<Times> {
    let folder = tempfile::tempdir()?;
    let prefixes = ground::prefixes(family, 0, count);
    let mut times = Times::default();
    for turn in 1..=TURNS {
        agent(family, count, &prefixes, &mut times)?;
        times.raw.push(raw(&prefixes)?);
        if others {
            let (netns, _) = ground::device()?;
            times.ip.push(ip_batch::add(&netns, &prefixes, NEXTHOP, &folder.path().join("batch"))?);
            ground::clear(netns)?;
            let (netns, _) = ground::device()?;
            let (took, mb) = bird::add(&netns, &prefixes, folder.path())?;
            times.bird.push(took);
            times.bird_mb.push(mb);
            ground::clear(netns)?;
        }
        note(&format!(
            "{count} IPv{family} routes, turn {turn}: agent {:?}, answered {:?}; raw {:?}; ip {:?}; BIRD {:?}",
            times.agent.last(),
            times.confirmed.last(),
            times.raw.last(),
            times.ip.last(),
            times.bird.last()
        ));
    }
    Ok(times)
}

/// An agent on a host with a VPC gets a configuration with one peering: device, next hop and all routes.
fn agent(family: u8, count: u32, prefixes: &[IpNet], times: &mut Times) -> Result<()> {
    let netns = ground::host()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&netns, folder.path(), 3600)?;
    agent.put(&ground::bare())?;
    let mut config = ground::one_peering(family, count);
    config.revision.number += 1;
    let request = Agent::put_request(&config)?;
    let mut raw = netns.within(Raw::open)?;
    let begin = Instant::now();
    agent.send(&request)?;
    let end = ground::wait_for_routes(&mut raw, prefixes, Duration::from_mins(2))?;
    let report = agent.answer()?;
    agent.settle(report)?;
    times.confirmed.push(begin.elapsed());
    times.agent.push(end - begin);
    times.agent_mb.push(agent.peak_memory()?);
    let there = raw.count_routes()?;
    anyhow::ensure!(there >= prefixes.len(), "{there} routes are there");
    drop(agent);
    ground::clear(netns)
}

fn raw(prefixes: &[IpNet]) -> Result<Duration> {
    let (netns, device) = ground::device()?;
    let mut raw = netns.within(Raw::open)?;
    let table = ground::table();
    let begin = Instant::now();
    raw.add_nexthop(NEXTHOP, device, "fe80::2".parse()?)?;
    for prefix in prefixes {
        raw.add_route(table, prefix, NEXTHOP)?;
    }
    raw.flush()?;
    let took = begin.elapsed();
    ground::clear(netns)?;
    Ok(took)
}
