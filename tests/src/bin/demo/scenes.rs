//! The scenes of the demo, one after another.

use crate::{TOPOLOGY, facts::Facts, story::Story};
use anyhow::{Context, Result, ensure};
use cps_peering_config::id::PeeringId;
use cps_peering_tests::{
    Lab, Server, command,
    lab::{Host, peering_id},
    snapshot::Snapshot,
    stream::{Record, Stream, milliseconds},
};
use serde_json::{Value, json};
use std::{
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

/// Packets per second of every stream.
const RATE: u32 = 1000;

/// The path of peerings in the controller's HTTP interface.
const PEERINGS: &str = "/admin/v1/peerings";

/// The two streams of every pair.
const DIRECTIONS: [&str; 2] = ["A to B, IPv4", "B to A, IPv6"];

/// How long a stream is watched before and after it is disturbed.
const WATCH: Duration = Duration::from_millis(700);

/// The lab, and the facts established in it.
pub(crate) struct Scenes<'a> {
    lab: Lab,
    story: &'a mut Story,
    facts: &'a mut Facts,
}

impl<'a> Scenes<'a> {
    pub(crate) fn new(lab: Lab, story: &'a mut Story, facts: &'a mut Facts) -> Scenes<'a> {
        Scenes { lab, story, facts }
    }

    /// All scenes; the first failed fact ends them.
    pub(crate) fn play(&mut self) -> Result<()> {
        let empty = self.snapshots()?;
        self.apply()?;
        self.nothing_before_peering()?;
        let across = self.peer_across_regions()?;
        let before = self.snapshots()?;
        let peering = self.peer()?;
        self.everyone_reachable()?;
        self.the_kernel_has_it()?;
        self.not_transitive()?;
        self.overlapping_vpc_hears_nothing()?;
        self.agent_restart_loses_nothing()?;
        self.narrowing_stops_traffic(&peering)?;
        self.delete_stops_traffic(&peering)?;
        self.kernels_are_as(&before)?;
        self.tear_down(&across, &empty)
    }

    /// Everything as in the middle of the story, for inspection.
    pub(crate) fn set_up_again(self) -> Result<Lab> {
        self.lab.apply()?;
        self.lab.peer("vpc-a", "vpc-b")?;
        self.lab.peer("vpc-a", "vpc-e")?;
        self.lab.wait_in_sync()?;
        Ok(self.lab)
    }

    /// The ends of the daemons' logs.
    pub(crate) fn show_logs(&self) {
        self.lab.print_logs();
    }

    fn a(&self) -> &Server {
        self.lab.server("h1", "eth1")
    }

    fn b_on_h1(&self) -> &Server {
        self.lab.server("h1", "eth2")
    }

    fn b_on_h2(&self) -> &Server {
        self.lab.server("h2", "eth1")
    }

    fn c(&self) -> &Server {
        self.lab.server("h2", "eth2")
    }

    fn d(&self) -> &Server {
        self.lab.server("h2", "eth3")
    }

    fn e(&self) -> &Server {
        self.lab.server("h3", "eth1")
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.lab.hosts().map(|(_, host)| Ok(host.snapshot()?.without_documented_leftovers())).collect()
    }

    /// Runs the CLI and shows the command as typed.
    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lab.controller().cli(arguments)?.ok()?;
        self.story.command(&format!("cps-peering {}", arguments.join(" ")), &output);
        Ok(output)
    }

    fn apply(&mut self) -> Result<()> {
        for (id, host) in self.lab.hosts() {
            let pid = host.agent_pid().map_or("-".to_owned(), |pid| pid.to_string());
            self.story.note(&format!("{id}: network namespace {}, agent pid {pid}", host.netns().name()));
        }
        self.story.chapter(
            "Five VPCs: A on h1; B on h1 and h2; C and D on h2, D with B's addresses; E on h3. Only B-C peered",
        );
        self.cli(&["apply", "-f", TOPOLOGY])?;
        self.lab.wait_in_sync()?;
        self.cli(&["peering", "list"])?;
        let (here, there) = (self.b_on_h1(), self.b_on_h2());
        let spans = self.story.ping(here, there.ipv4()?)? && self.story.ping(here, there.ipv6()?)?;
        self.story.fact(spans, "a VPC spans hosts: B on h1 reaches B on h2")
    }

    fn nothing_before_peering(&mut self) -> Result<()> {
        self.story.chapter("Before: A has no path to anyone");
        let mut reached = false;
        for to in [self.b_on_h1(), self.b_on_h2(), self.c(), self.e()] {
            for address in [to.ipv4()?, to.ipv6()?] {
                reached |= self.story.ping(self.a(), address)?;
            }
        }
        self.facts.ping_before = Some(reached);
        self.story.fact(!reached, "A reaches none of B, C and E, in IPv4 or IPv6")
    }

    fn peer_across_regions(&mut self) -> Result<PeeringId> {
        self.story.chapter("Peer A with E, in another region");
        let id = self.create("vpc-a", "vpc-e")?;
        self.lab.wait_in_sync()?;
        let e = self.e();
        let v4 = self.story.ping(self.a(), e.ipv4()?)?;
        let v6 = self.story.ping(self.a(), e.ipv6()?)?;
        self.facts.cross_region_v4 = Some(v4);
        self.facts.cross_region_v6 = Some(v6);
        self.story.fact(v4 && v6, "A reaches E across regions, IPv4 and IPv6")?;
        Ok(id)
    }

    /// Creates a peering and shows the command.
    fn create(&self, vpc: &str, peer_vpc: &str) -> Result<PeeringId> {
        let name = format!("{vpc}-{peer_vpc}");
        let output = self.cli(&["peering", "create", "--name", &name, "--vpc", vpc, "--peer-vpc", peer_vpc])?;
        peering_id(&output).with_context(|| format!("no peering id in {output:?}"))
    }

    /// Calls the controller's HTTP interface, as the CLI does but without the time that a process takes to start.
    /// Returns when it was called, and the result.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(SystemTime, Value)> {
        let endpoint = self.lab.controller().endpoint();
        let called = SystemTime::now();
        let answer: Value = endpoint.call(method, path, body)?;
        Ok((called, answer["result"].clone()))
    }

    /// Streams in both directions between A on h1 and B on h2.
    fn streams(&self) -> Result<[Stream; 2]> {
        let (a, b) = (self.a(), self.b_on_h2());
        Ok([Stream::start(a, b, b.ipv4()?, RATE)?, Stream::start(b, a, a.ipv6()?, RATE)?])
    }

    fn peer(&mut self) -> Result<PeeringId> {
        self.story.chapter("Peer A with B, while A (IPv4) and B on h2 (IPv6) already send to each other at 1 kHz");
        let streams = self.streams()?;
        thread::sleep(WATCH);
        let nothing_yet = streams.iter().all(|stream| stream.received() == 0);
        self.story.fact(nothing_yet, "no packet comes through before")?;
        let body = json!({ "vpcPeeringName": "a-b", "vpcId": "vpc-a", "remoteVpcId": "vpc-b" });
        let (called, created) = self.call("POST", PEERINGS, Some(&body))?;
        let peering = created["vpcPeering"]["vpcPeeringId"].as_str().with_context(|| created.to_string())?;
        let id: PeeringId = peering.parse()?;
        self.story.command(&format!("POST {PEERINGS} {body}"), &format!("{id}"));
        self.lab.wait_in_sync()?;
        thread::sleep(WATCH);
        let records = stop(streams)?;
        let mut slowest = 0.0_f64;
        for (record, direction) in records.iter().zip(DIRECTIONS) {
            let first = record.first().context("no packet of the stream came through")?;
            let after = milliseconds(called, first.at);
            self.story.note(&format!("{direction}: the first packet came {after:.1} ms after the call"));
            slowest = slowest.max(after);
        }
        self.facts.create_to_first_packet_ms = Some(rounded(slowest));
        self.story
            .fact(true, &format!("packets came through in both directions {slowest:.1} ms after create was called"))?;
        self.cli(&["peering", "show", id.as_str()])?;
        Ok(id)
    }

    fn everyone_reachable(&mut self) -> Result<()> {
        self.story.chapter("A reaches B, whichever host B's servers are on");
        let (a, there, here) = (self.a(), self.b_on_h2(), self.b_on_h1());
        let v4 = self.story.ping(a, there.ipv4()?)?;
        let v6 = self.story.ping(a, there.ipv6()?)?;
        let same_v4 = self.story.ping(a, here.ipv4()?)?;
        let same_v6 = self.story.ping(a, here.ipv6()?)?;
        self.facts.ping_v4 = Some(v4);
        self.facts.ping_v6 = Some(v6);
        self.facts.same_host_v4 = Some(same_v4);
        self.facts.same_host_v6 = Some(same_v6);
        self.story.fact(v4 && v6, "across hosts, IPv4 and IPv6")?;
        self.story.fact(same_v4 && same_v6, "within one host, IPv4 and IPv6")
    }

    fn the_kernel_has_it(&mut self) -> Result<()> {
        self.story.chapter("As the kernel of h1 has it");
        let host = self.lab.host("h1");
        let vrf = vrf_of(host, "eth1")?;
        for family in ["-4", "-6"] {
            let mut ip = Command::new("ip");
            ip.args(["-n", host.netns().name(), family, "route", "show", "vrf", &vrf]);
            let ended = command::run(&mut ip)?;
            self.story.command(&ended.line.clone(), &ended.ok()?);
        }
        Ok(())
    }

    fn not_transitive(&mut self) -> Result<()> {
        self.story.chapter("A-B and B-C are peered; that gives A no path to C");
        let (a, b, c) = (self.a(), self.b_on_h2(), self.c());
        let peered = self.story.ping(b, c.ipv4()?)?;
        self.story.fact(peered, "B reaches C")?;
        let heard = c.heard()?;
        let mut reached = self.story.ping(a, c.ipv4()?)?;
        reached |= self.story.ping(a, c.ipv6()?)?;
        reached |= c.heard()? != heard;
        self.facts.transitive = Some(reached);
        self.story.fact(!reached, "A does not reach C, and C heard nothing of it")
    }

    fn overlapping_vpc_hears_nothing(&mut self) -> Result<()> {
        self.story.chapter("D has the very addresses of B, on the same host, and no peering");
        let (a, b, d) = (self.a(), self.b_on_h2(), self.d());
        let heard = (b.heard()?, d.heard()?);
        for address in [d.ipv4()?, d.ipv6()?] {
            self.story.ping(a, address)?;
        }
        let now = (b.heard()?, d.heard()?);
        let b_got = now.0.echo_requests - heard.0.echo_requests;
        self.story.fact(b_got == 2 && now.1 == heard.1, "both of A's packets went to B; D heard nothing")?;
        let mut reached = now.1 != heard.1;
        for address in [a.ipv4()?, a.ipv6()?] {
            reached |= self.story.ping(d, address)?;
        }
        self.facts.overlapping_vpc_reached = Some(reached);
        self.story.fact(!reached, "D does not reach A either")
    }

    fn agent_restart_loses_nothing(&mut self) -> Result<()> {
        self.story.chapter("Kill the agent of h1 under 1 kHz in both directions, and start it again");
        let streams = self.streams()?;
        thread::sleep(WATCH);
        let old = self.lab.host("h1").agent_pid().context("the agent does not run")?;
        self.lab.kill_agent("h1")?;
        self.story.command(&format!("kill -KILL {old}"), "");
        thread::sleep(WATCH);
        self.lab.start_agent("h1")?;
        self.lab.wait_for_agent("h1")?;
        self.lab.wait_in_sync()?;
        let new = self.lab.host("h1").agent_pid().unwrap_or_default();
        self.story.note(&format!("the new agent, pid {new}, is in sync"));
        thread::sleep(WATCH);
        let records = stop(streams)?;
        for (record, direction) in records.iter().zip(DIRECTIONS) {
            let (sent, rate, gap) = (record.sent, record.rate(), record.longest_gap());
            self.story.note(&format!(
                "{direction}: {sent} packets sent at {rate:.0} a second, {} lost, longest gap {gap:.1?}",
                record.lost()
            ));
        }
        let lost = records.iter().map(Record::lost).sum();
        self.facts.lost_on_agent_restart = Some(lost);
        self.story.fact(lost == 0, "not one packet was lost")
    }

    fn narrowing_stops_traffic(&mut self, peering: &PeeringId) -> Result<()> {
        self.story.chapter("Narrow A-B, under 1 kHz in both directions, to what B has on h1, and take that back");
        let path = format!("{PEERINGS}/{peering}/prefixes");
        let narrow = json!({ "vpcId": "vpc-a", "importPrefixes": ["10.2.0.0/24", "fd00:2::/64"] });
        let (_, latest) = self.ends_streams("PUT", &path, Some(&narrow))?;
        self.facts.narrow_to_last_packet_ms = Some(rounded(latest));
        self.story.fact(true, &format!("traffic stopped {latest:.1} ms after the prefixes were changed"))?;
        let kept = self.story.ping(self.a(), self.b_on_h1().ipv4()?)?;
        self.story.fact(kept, "what is still among them is reached")?;
        let mut reached = false;
        for address in [self.b_on_h2().ipv4()?, self.b_on_h2().ipv6()?] {
            reached |= self.story.ping(self.a(), address)?;
        }
        self.story.fact(!reached, "what is no more among them is not")?;
        self.call("PUT", &path, Some(&json!({ "vpcId": "vpc-a", "importPrefixes": [] })))?;
        self.lab.wait_in_sync()?;
        let back = self.story.ping(self.a(), self.b_on_h2().ipv4()?)?;
        self.story.fact(back, "A reaches all of B again")
    }

    /// Makes a call that ends the traffic between A on h1 and B on h2 under streams in both directions. Returns how
    /// long the call took, and how long after its start the last packet arrived, in the direction that stopped later;
    /// both in milliseconds.
    fn ends_streams(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(f64, f64)> {
        let streams = self.streams()?;
        thread::sleep(WATCH);
        let (called, result) = self.call(method, path, body)?;
        let returned = milliseconds(called, SystemTime::now());
        let body = body.map(|body| format!(" {body}")).unwrap_or_default();
        self.story.command(&format!("{method} {path}{body}"), &result.to_string());
        thread::sleep(WATCH);
        let records = stop(streams)?;
        let mut latest = f64::MIN;
        for (record, direction) in records.iter().zip(DIRECTIONS) {
            let last = record.last().context("no packet of the stream came through")?;
            let after = milliseconds(called, last.at);
            let came = record.receipts.len();
            let sent = record.sent;
            self.story
                .note(&format!("{direction}: {came} of {sent} packets came, the last {after:.1} ms after the call"));
            latest = latest.max(after);
        }
        ensure!(records.iter().all(|record| record.lost() > 0), "traffic did not stop");
        Ok((returned, latest))
    }

    fn delete_stops_traffic(&mut self, peering: &PeeringId) -> Result<()> {
        self.story.chapter("Delete A-B under 1 kHz in both directions");
        let (returned, latest) = self.ends_streams("DELETE", &format!("{PEERINGS}/{peering}"), None)?;
        self.facts.delete_call_ms = Some(rounded(returned));
        self.facts.delete_to_last_packet_ms = Some(rounded(latest));
        let statement =
            format!("traffic stopped {latest:.1} ms after delete was called, which answered after {returned:.1} ms");
        self.story.fact(true, &statement)?;
        let mut reached = false;
        for to in [self.b_on_h2(), self.b_on_h1()] {
            for address in [to.ipv4()?, to.ipv6()?] {
                reached |= self.story.ping(self.a(), address)?;
            }
        }
        self.story.fact(!reached, "A reaches B no more")
    }

    fn kernels_are_as(&mut self, before: &[Snapshot]) -> Result<()> {
        self.story.chapter("The hosts' kernels are as before the peering A-B");
        self.story.note(
            "links, addresses, routes, rules, next hops, neighbours, FDB, qdiscs and sysctls, by ip, bridge and tc",
        );
        self.lab.wait_in_sync()?;
        for ((id, _), (now, before)) in self.lab.hosts().zip(self.snapshots()?.iter().zip(before)) {
            let difference = now.since(before);
            self.story.fact(difference.is_empty(), &format!("{id}: {} objects, {difference}", now.names().count()))?;
        }
        Ok(())
    }

    fn tear_down(&mut self, across: &PeeringId, empty: &[Snapshot]) -> Result<()> {
        self.story.chapter("Take everything away");
        self.cli(&["peering", "delete", across.as_str()])?;
        self.lab.prune()?;
        self.lab.wait_in_sync()?;
        let mut residue = 0;
        for ((id, _), (now, before)) in self.lab.hosts().zip(self.snapshots()?.iter().zip(empty)) {
            let difference = now.since(before);
            residue += difference.len();
            self.story.note(&format!("{id}: {difference}"));
        }
        self.facts.residue = Some(residue);
        self.story.fact(residue == 0, "nothing is left on any host")
    }
}

fn stop(streams: [Stream; 2]) -> Result<[Record; 2]> {
    // Both stop sending before waiting for either.
    streams.iter().for_each(Stream::end);
    let [one, other] = streams;
    Ok([one.stop()?, other.stop()?])
}

/// The VRF that an interface of a host is in.
fn vrf_of(host: &Host, interface: &str) -> Result<String> {
    let links: serde_json::Value = serde_json::from_str(&host.netns().ip(&format!("-j link show {interface}"))?)?;
    let master = links[0]["master"].as_str();
    master.map(str::to_owned).with_context(|| format!("{interface} is in no VRF"))
}

fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 10.0).round() / 10.0
}
