//! The end of peerings: when the last packet passes, and when the agent has seen that everything is gone.

use crate::{
    agent::Agent,
    figures::{Figures, median, median_s, seconds},
    ground,
    raw::Raw,
};
use anyhow::{Context, Result};
use cps_peering_config::{HostPatch, HostReport, Revision};
use cps_peering_tests::{
    netns::Netns,
    stream::{Stream, milliseconds},
};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant, SystemTime},
};

const TURNS: usize = 5;
/// Datagrams per second through the peering.
const RATE: u32 = 20_000;
/// Other peerings of the same VPC, each with a few routes.
const OTHERS: u32 = 10;
const MANY: u32 = 1000;
/// The link group in which the yardstick removes devices.
const GROUP: u32 = 4711;

/// A host with a tenant, and another host with the peer's server.
pub(crate) struct Ground {
    pub(crate) host: Netns,
    tenant: Netns,
    remote: Netns,
}

impl Ground {
    pub(crate) fn new() -> Result<Ground> {
        let host = ground::host()?;
        let (tenant, remote) =
            (Netns::create(&format!("{}t", host.name()))?, Netns::create(&format!("{}r", host.name()))?);
        host.ip(&format!("link set tenant netns {}", tenant.name()))?;
        host.ip(&format!("link set far netns {}", remote.name()))?;
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        tenant.ip_batch(&lines(&[
            "address add 192.168.0.2/24 dev tenant",
            "link set tenant up",
            "route add default via 192.168.0.1",
        ]))?;
        // The first side's VNI at the peer, where the packets arrive for the peer's first address.
        remote.ip_batch(&lines(&[
            "address add 192.0.2.2/24 dev far",
            "link set far up",
            "link add peer type vxlan id 101001 dstport 4789 local 192.0.2.2 nolearning",
            "link set peer address 02:00:c0:00:02:02 up",
            "address add 10.0.0.0/32 dev peer",
        ]))?;
        remote.sysctl(&["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.peer.rp_filter=0"])?;
        Ok(Ground { host, tenant, remote })
    }

    /// Starts packets from the tenant to the peer's first address, and waits for the first one to arrive.
    pub(crate) fn stream(&self) -> Result<Stream> {
        let stream = Stream::between(&self.tenant, &self.remote, "10.0.0.0".parse()?, RATE)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while stream.received() < 100 {
            anyhow::ensure!(Instant::now() < deadline, "no packets pass");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(stream)
    }

    pub(crate) fn clear(self) -> Result<()> {
        drop((self.tenant, self.remote));
        ground::clear(self.host)
    }
}

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    for (label, routes) in [("1", 1), ("100", 100), ("10k", 10_000)] {
        one_by_its_size(figures, label, routes)?;
    }
    many_at_once(figures)
}

/// The patch that removes sides in the next revision.
pub(crate) fn removal(of: &HostReport, sides: impl IntoIterator<Item = u32>) -> Result<HostPatch> {
    let base = of.desired.context("no revision")?;
    let revision = Revision { number: base.number + 1, ..base };
    let sides = sides.into_iter().map(|number| (ground::side_vni(number), None)).collect();
    Ok(HostPatch { base, revision, vrfs: BTreeMap::new(), sides })
}

fn one_by_its_size(figures: &mut Figures, label: &str, routes: u32) -> Result<()> {
    let names = [format!("agent.delete_{label}.last_packet"), format!("agent.delete_{label}.confirmed")];
    if !figures.wants(&[&names[0], &names[1]]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&ground.host, folder.path(), 3600)?;
    let mut config = ground::many_peerings(OTHERS + 1, 10);
    let cidr = "10.0.0.0/15".parse()?;
    config.sides.insert(ground::side_vni(0), ground::side(0, vec![cidr], ground::prefixes(4, 0, routes)));
    for number in 1..=OTHERS {
        // Beside the large one.
        let mut side = ground::small_side(number + 1024, 10);
        side.peering = format!("vpcpr-{number}").parse()?;
        config.sides.insert(ground::side_vni(number), side);
    }
    let (mut last, mut confirmed, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let report = agent.put(&config)?;
        thread::sleep(Duration::from_millis(300));
        let request = Agent::patch_request(&removal(&report, [0])?)?;
        let stream = ground.stream()?;
        thread::sleep(Duration::from_millis(200));
        let (begin, clock) = (SystemTime::now(), Instant::now());
        agent.send(&request)?;
        let report = agent.answer()?;
        let report = agent.settle(report)?;
        confirmed.push(clock.elapsed().as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(100));
        let record = stream.stop()?;
        last.push(milliseconds(begin, record.last().context("nothing was received")?.at));
        rates.push(record.rate());
        config.revision.number = report.desired.context("no revision")?.number + 1;
    }
    let how = |times: &[f64]| {
        let (least, most) = times.iter().fold((f64::MAX, f64::MIN), |(a, b), t| (a.min(*t), b.max(*t)));
        format!("{least:.2}–{most:.2} ms, {TURNS} turns, {:.0} packets a second", median(&rates))
    };
    figures.add(&names[0], median(&last), "ms", how(&last));
    figures.add(&names[1], median(&confirmed), "ms", how(&confirmed));
    drop(agent);
    ground.clear()
}

fn many_at_once(figures: &mut Figures) -> Result<()> {
    let name = "agent.remove_1000_peerings";
    if !figures.wants(&[name]) {
        return Ok(());
    }
    let (mut ours, mut group, mut nexthops_first) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        ours.push(many_by_agent()?);
        group.push(many_by_hand(false)?);
        nexthops_first.push(many_by_hand(true)?);
    }
    let best = if median_s(&group) < median_s(&nexthops_first) { &group } else { &nexthops_first };
    let how = format!(
        "agent confirmed {}; raw by group {}; raw, next hops first {}; {TURNS} turns",
        seconds(&ours),
        seconds(&group),
        seconds(&nexthops_first)
    );
    figures.add(name, median_s(&ours) / median_s(best), "ratio", how);
    Ok(())
}

fn many_by_agent() -> Result<Duration> {
    let netns = ground::host()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&netns, folder.path(), 3600)?;
    let report = agent.put(&ground::many_peerings(MANY, 10))?;
    thread::sleep(Duration::from_secs(1));
    let patch = removal(&report, 0..MANY)?;
    let begin = Instant::now();
    agent.patch(&patch)?;
    let took = begin.elapsed();
    drop(agent);
    ground::clear(netns)?;
    Ok(took)
}

/// An agent creates everything; then it is stopped, and everything is removed by netlink requests.
fn many_by_hand(nexthops_first: bool) -> Result<Duration> {
    let netns = ground::host()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&netns, folder.path(), 3600)?;
    agent.put(&ground::many_peerings(MANY, 10))?;
    drop(agent);
    thread::sleep(Duration::from_secs(1));
    let devices: Vec<u32> = numbers(&netns.ip("-oneline link show type vxlan")?, |line| line.split(':').next());
    let nexthops: Vec<u32> = numbers(&netns.ip("nexthop show")?, |line| line.split_whitespace().nth(1));
    anyhow::ensure!((devices.len(), nexthops.len()) == (MANY as usize, MANY as usize), "not all is there");
    let mut raw = netns.within(Raw::open)?;
    let begin = Instant::now();
    if nexthops_first {
        for id in nexthops {
            raw.remove_nexthop(id)?;
        }
        raw.flush()?;
    }
    for device in devices {
        raw.set_group(device, GROUP)?;
    }
    raw.flush()?;
    raw.remove_group(GROUP)?;
    let took = begin.elapsed();
    ground::clear(netns)?;
    Ok(took)
}

fn numbers<'a>(text: &'a str, find: impl Fn(&'a str) -> Option<&'a str>) -> Vec<u32> {
    text.lines().filter_map(|line| find(line)?.trim().parse().ok()).collect()
}
