//! How accurate bandwidth limits are: one limit at many rates, and one limit for three hosts.
//!
//! Controller and agents run as in production, in namespaces. The Ethernet frames of the tenants are counted on
//! receipt: that is what a bandwidth means. A ratio of 1 is the bandwidth itself.

mod flow;

use crate::{
    figures::{Figures, median, note},
    ground,
};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{Lab, Topology, netns::Netns};
use flow::{Flow, Kind, Receipts, Sent, rate};
use std::{
    env, fs,
    net::IpAddr,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const RATES: [u32; 5] = [1, 10, 100, 1000, 5000];
/// How long a flow has to reach its speed. Peaks are measured from then on.
const FIRST: Duration = Duration::from_secs(1);
const RUNS: usize = 3;
const SHARED_MBIT: u32 = 100;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    note(
        "Counted: Ethernet frames of the tenants, without VXLAN and without the frame check sequence. Ratios are of what was \
          received, peaks of what the hosts' kernels have sent within any second after the first.",
    );
    note("At 1 Mbit/s a second holds 85 frames: one more or less is 1.2 % of a peak.");
    let _programs = stand_ins()?;
    let names = names();
    if figures.wants(&names.iter().map(String::as_str).collect::<Vec<_>>()) {
        one_host(figures)?;
    }
    if figures.wants(&SHARED) {
        three_hosts(figures)?;
    }
    figures.show();
    Ok(())
}

const SHARED: [&str; 3] =
    ["bandwidth.share.sum_peak_ratio", "bandwidth.share.busy_one_ratio", "bandwidth.share.shift_s"];

/// From when to when a flow's receipts are counted. A TCP receiver delivers what came behind a gap when the gap is
/// filled, which at 1 Mbit/s may be half a second's worth in one go, and its first loss is the worst.
fn counted(mbit: u32) -> (Duration, Duration) {
    let (from, to) = if mbit < 10 { (5, 35) } else { (1, 5) };
    (Duration::from_secs(from), Duration::from_secs(to))
}

fn kinds(mbit: u32) -> Vec<(&'static str, Kind)> {
    // More datagrams than this machine's CPUs can send would not be a flood.
    let udp = (mbit <= 1000).then_some(("udp", Kind::Udp(u64::from(mbit) * 5 / 4)));
    [("tcp1", Kind::Tcp(1)), ("tcp8", Kind::Tcp(8))].into_iter().chain(udp).collect()
}

const CHANGE: [&str; 3] = ["bandwidth.change_s", "bandwidth.change_lost", "bandwidth.change_retransmits"];

/// The figures for one host.
fn names() -> Vec<String> {
    let of_rate = |mbit: u32| {
        let names = kinds(mbit).into_iter().flat_map(move |(kind, _)| {
            ["ratio", "peak_1s_ratio"].map(|figure| format!("bandwidth.{kind}.{mbit}m.{figure}"))
        });
        names.collect::<Vec<_>>()
    };
    let by_hand = BY_HAND.iter().map(|(form, _)| by_hand_name(form));
    RATES.into_iter().flat_map(of_rate).chain(by_hand).chain(CHANGE.map(str::to_owned)).collect()
}

/// What an administrator would type for 1 Gbit/s: a name, and what follows `tc qdisc add dev DEVICE` and `tc class add
/// dev DEVICE`.
const BY_HAND: [(&str, &[&str]); 2] = [
    ("tc_htb", &["root handle 1: htb default 1", "parent 1: classid 1:1 htb rate 1000mbit"]),
    ("tc_tbf", &["root tbf rate 1000mbit burst 128k latency 50ms"]),
];

fn by_hand_name(form: &str) -> String {
    format!("bandwidth.tcp1.1000m.{form}_ratio")
}

/// The lab's programs; on a kernel without VRFs the agent is the bench's own, with stand-ins for what is missing.
fn stand_ins() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let own = env::current_exe()?;
    let built = env::var_os("CPS_PEERING_BIN").context("CPS_PEERING_BIN is not set: run tests/bench")?;
    for program in ["cps-peering-controller", "cps-peering", "cps-peering-agent"] {
        if program == "cps-peering-agent" && !ground::kernel_has_vrf() {
            let script = folder.path().join(program);
            // The lab runs `run --settings FILE`.
            fs::write(&script, format!("#!/bin/sh\nexec {} agent-under-test \"$3\"\n", own.display()))?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        } else {
            symlink(Path::new(&built).join(program), folder.path().join(program))?;
        }
    }
    cps_peering_tests::lab::use_programs(folder.path());
    Ok(folder)
}

/// Stands in for VRFs in the lookup of routes: each host here has one VPC.
fn lead_to_tables(lab: &Lab) -> Result<()> {
    if ground::kernel_has_vrf() {
        return Ok(());
    }
    for (_, host) in lab.hosts() {
        let netns = host.netns();
        let routes: serde_json::Value = serde_json::from_str(&netns.ip("-j route show table all proto 67")?)?;
        let table = routes[0]["table"].as_str().with_context(|| format!("no table in {routes}"))?;
        // Gateways come first, as they do within a VRF.
        netns.ip("rule add pref 400 to 10.0.0.0/8 lookup local")?;
        netns.ip(&format!("rule add pref 500 to 10.0.0.0/8 lookup {table}"))?;
    }
    Ok(())
}

struct Ends {
    from: Netns,
    to: Netns,
    address: IpAddr,
}

impl Ends {
    fn of(lab: &Lab, from: &str, to: &str) -> Result<Ends> {
        let to = lab.server(to, "eth1");
        Ok(Ends { from: lab.server(from, "eth1").netns().clone(), to: to.netns().clone(), address: to.ipv4()? })
    }

    /// How many TCP segments the sender has retransmitted so far.
    fn retransmitted(&self) -> Result<u64> {
        let text = self.from.exec("nstat -asz TcpRetransSegs")?.ok()?;
        let number = text.split_whitespace().skip_while(|word| *word != "TcpRetransSegs").nth(1);
        Ok(number.with_context(|| format!("no count in {text}"))?.parse()?)
    }

    fn start(&self, kind: Kind, began: Instant) -> Result<Flow> {
        Flow::start(kind, &self.from, &self.to, self.address, began)
    }

    /// One flow: the ratios of what was received, and of the most that its host sent within a second.
    fn run(&self, lab: &Lab, kind: Kind, mbit: u32) -> Result<(f64, f64)> {
        let (from, to) = counted(mbit);
        let began = Instant::now();
        let sent = Sent::start(vec![lab.host("h1").netns().clone()], began);
        let flow = self.start(kind, began)?;
        thread::sleep(to);
        let peak = sent.peak(FIRST)?;
        let received = rate(&flow.stop()?, from, to);
        Ok((received / bytes_per_second(mbit), peak / bytes_per_second(mbit)))
    }
}

fn bytes_per_second(mbit: u32) -> f64 {
    f64::from(mbit) * 125_000.0
}

fn one_host(figures: &mut Figures) -> Result<()> {
    let lab = Lab::in_sync(
        Topology::new()
            .host("h1", "cn-north-1", "192.0.2.1")
            .host("h2", "cn-east-1", "198.51.100.2")
            .vpc("vpc-a", "cn-north-1", &["10.1.0.0/16"])
            .vpc("vpc-b", "cn-east-1", &["10.2.0.0/16"])
            .port("vpc-a", "h1", "eth1", &["10.1.0.1/24"])
            .port("vpc-b", "h2", "eth1", &["10.2.0.1/24"])
            .peering("vpc-a", "vpc-b")
            .limited(RATES[0]),
    )?;
    lead_to_tables(&lab)?;
    let ends = Ends::of(&lab, "h1", "h2")?;
    for mbit in RATES {
        let wanted: Vec<_> = kinds(mbit)
            .into_iter()
            .filter(|(kind, _)| {
                let name = format!("bandwidth.{kind}.{mbit}m");
                figures.wants(&[&format!("{name}.ratio"), &format!("{name}.peak_1s_ratio")])
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        limit(&lab, mbit)?;
        for (name, kind) in wanted {
            let name = format!("bandwidth.{name}.{mbit}m");
            let (mut ratios, mut peaks) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let (ratio, peak) = ends.run(&lab, kind, mbit)?;
                ratios.push(ratio);
                peaks.push(peak);
            }
            let how = format!("of {mbit} Mbit/s; runs {ratios:.3?}");
            figures.add(&format!("{name}.ratio"), median(&ratios), "ratio", how);
            let most = peaks.iter().copied().fold(0.0, f64::max);
            figures.add(&format!("{name}.peak_1s_ratio"), most, "ratio", format!("the most of all runs {peaks:.4?}"));
        }
    }
    if figures.wants(&CHANGE[..1]) {
        change(figures, &lab, &ends)?;
    }
    if figures.wants(&CHANGE[1..]) {
        lost_at_change(figures, &lab, &ends)?;
    }
    by_hand(figures, lab, &ends)
}

fn limit(lab: &Lab, mbit: u32) -> Result<()> {
    lab.controller().cli(&["peering", "set-bandwidth", "vpc-a-vpc-b", &mbit.to_string()])?.ok()?;
    lab.wait_in_sync()
}

/// From the command to the new rate, under a flow that needs more than both.
fn change(figures: &mut Figures, lab: &Lab, ends: &Ends) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        limit(lab, 100)?;
        let began = Instant::now();
        let flow = ends.start(Kind::Udp(300), began)?;
        thread::sleep(Duration::from_secs(2));
        let up = began.elapsed();
        limit(lab, 200)?;
        thread::sleep(Duration::from_secs(2));
        let down = began.elapsed();
        limit(lab, 100)?;
        thread::sleep(Duration::from_secs(2));
        let receipts = flow.stop()?;
        times.push(reached(&receipts, up, |rate| rate > 0.95 * bytes_per_second(200))?);
        times.push(reached(&receipts, down, |rate| (0.9..1.05).contains(&(rate / bytes_per_second(100))))?);
    }
    let how = format!("from the call of the command line to the new rate, 100 and 200 Mbit/s in turn; {times:.3?}");
    figures.add("bandwidth.change_s", median(&times), "s", how);
    Ok(())
}

/// The cost of a change for a flow that needs less than either rate, and for a connection that takes all.
fn lost_at_change(figures: &mut Figures, lab: &Lab, ends: &Ends) -> Result<()> {
    let pause = || thread::sleep(Duration::from_secs(1));
    let (mut lost, mut sent) = (0, 0);
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        limit(lab, 100)?;
        let flow = ends.start(Kind::Even(80), Instant::now())?;
        for mbit in [200, 100, 200, 100] {
            pause();
            limit(lab, mbit)?;
        }
        pause();
        let (datagrams, receipts) = flow.stop_counted()?;
        sent += datagrams;
        lost += datagrams.saturating_sub(receipts.len() as u64);

        let flow = ends.start(Kind::Tcp(1), Instant::now())?;
        pause();
        for mbit in [200, 100] {
            let before = ends.retransmitted()?;
            pause();
            let between = ends.retransmitted()?;
            limit(lab, mbit)?;
            pause();
            unchanged.push(flow::as_number(between - before));
            changed.push(flow::as_number(ends.retransmitted()? - between));
        }
        flow.stop()?;
    }
    let how = format!("of {sent} datagrams at 80 Mbit/s, while the bandwidth changes between 100 and 200 Mbit/s");
    figures.add(CHANGE[1], flow::as_number(lost), "datagrams", how);
    let how = format!(
        "in the second of a change, of a connection that takes all, up and down in turn: {changed:?}; in the second before: {unchanged:?}"
    );
    figures.add(CHANGE[2], median(&changed), "segments", how);
    Ok(())
}

/// The time after `since` until 50 ms had passed at the required rate.
fn reached(receipts: &Receipts, since: Duration, wanted: impl Fn(f64) -> bool) -> Result<f64> {
    let window = Duration::from_millis(50);
    let mut at = since;
    while at < since + Duration::from_secs(10) {
        if wanted(rate(receipts, at, at + window)) {
            return Ok((at + window).saturating_sub(since).as_secs_f64());
        }
        at += Duration::from_millis(10);
    }
    anyhow::bail!("the rate was never reached")
}

/// The same path as an administrator would configure it: with `tc`'s own defaults.
fn by_hand(figures: &mut Figures, mut lab: Lab, ends: &Ends) -> Result<()> {
    if !BY_HAND.iter().any(|(form, _)| figures.wants(&[&by_hand_name(form)])) {
        return Ok(());
    }
    // It would restore its own.
    lab.kill_agent("h1")?;
    let netns = lab.host("h1").netns();
    let links: serde_json::Value = serde_json::from_str(&netns.ip("-j link show type vxlan")?)?;
    let mut devices = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    let device = devices.find(|name| name.starts_with("cpspeer")).context("no device of the side")?.to_owned();
    for (form, lines) in BY_HAND {
        netns.exec(&format!("tc qdisc del dev {device} root"))?.ok()?;
        for (place, line) in lines.iter().enumerate() {
            let object = if place == 0 { "qdisc" } else { "class" };
            netns.exec(&format!("tc {object} add dev {device} {line}"))?.ok()?;
        }
        let mut ratios = Vec::new();
        for _ in 0..RUNS {
            ratios.push(ends.run(&lab, Kind::Tcp(1), 1000)?.0);
        }
        let how = format!("by hand: tc {}; runs {ratios:.3?}", lines.join(", "));
        figures.add(&by_hand_name(form), median(&ratios), "ratio", how);
    }
    Ok(())
}

/// Three hosts send under one limit: all of them, one alone, another alone.
fn three_hosts(figures: &mut Figures) -> Result<()> {
    let hosts = ["h1", "h2", "h3"];
    let mut topology = Topology::new()
        .host("h4", "cn-east-1", "198.51.100.4")
        .vpc("vpc-a", "cn-north-1", &["10.1.0.0/16"])
        .vpc("vpc-b", "cn-east-1", &["10.2.0.0/16"]);
    for (number, host) in hosts.iter().enumerate() {
        topology = topology.host(host, "cn-north-1", &format!("192.0.2.{}", number + 1));
        topology = topology.port("vpc-a", host, "eth1", &[&format!("10.1.{number}.1/24")]);
    }
    let topology = topology.port("vpc-b", "h4", "eth1", &["10.2.0.1/24"]).peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology.limited(SHARED_MBIT))?;
    lead_to_tables(&lab)?;
    let ends: Vec<Ends> = hosts.iter().map(|host| Ends::of(&lab, host, "h4")).collect::<Result<_>>()?;
    let flood = Kind::Udp(u64::from(SHARED_MBIT) * 5 / 4);
    let whole = bytes_per_second(SHARED_MBIT);
    let (mut peaks, mut alone, mut shifts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let began = Instant::now();
        let senders = hosts.iter().map(|host| lab.host(host).netns().clone()).collect();
        let sent = Sent::start(senders, began);
        let all: Vec<Flow> = ends.iter().map(|ends| ends.start(flood, began)).collect::<Result<_>>()?;
        thread::sleep(Duration::from_secs(5));
        all[1..].iter().for_each(Flow::end);
        let one = began.elapsed();
        thread::sleep(Duration::from_secs(6));
        all[0].end();
        let shift = began.elapsed();
        let other = ends[1].start(flood, began)?;
        thread::sleep(Duration::from_secs(6));
        let mut receipts: Vec<Receipts> = all.into_iter().map(Flow::stop).collect::<Result<_>>()?;
        receipts.push(other.stop()?);
        peaks.push(sent.peak(FIRST)? / whole);
        alone.push(rate(&receipts[0], one + Duration::from_secs(3), one + Duration::from_secs(6)) / whole);
        let needed = 0.95 * whole;
        shifts.push(reached_over(&receipts[3], shift, needed)?);
        // Fair shares while all three were busy.
        let parts: Vec<f64> = receipts[..3]
            .iter()
            .map(|receipts| rate(receipts, Duration::from_secs(3), Duration::from_secs(5)) / whole)
            .collect();
        ensure!(parts.iter().all(|part| *part > 0.2), "three who send get {parts:.3?} of the bandwidth");
        note(&format!("three who send get {parts:.3?}"));
    }
    figures.add(
        SHARED[0],
        peaks.iter().copied().fold(0.0, f64::max),
        "ratio",
        format!("the most of all runs {peaks:.4?}"),
    );
    figures.add(SHARED[1], median(&alone), "ratio", format!("from 3 s after it was alone; runs {alone:.3?}"));
    figures.add(SHARED[2], median(&shifts), "s", format!("until another that begins has 95 %; runs {shifts:.2?}"));
    Ok(())
}

/// The time after `since` until 200 ms had passed at a rate that high.
fn reached_over(receipts: &Receipts, since: Duration, needed: f64) -> Result<f64> {
    let window = Duration::from_millis(200);
    let mut at = since;
    while at < since + Duration::from_secs(6) {
        if rate(receipts, at, at + window) >= needed {
            return Ok((at + window).saturating_sub(since).as_secs_f64());
        }
        at += Duration::from_millis(20);
    }
    anyhow::bail!("it never had {needed:.0} bytes a second")
}
