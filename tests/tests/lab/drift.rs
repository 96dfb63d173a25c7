//! Changes of our objects by others are undone: the kernel becomes what it was, the agent counts the repair, and
//! packets go where they should. One lab serves many cases, one after the other.

use crate::{NORTH, reach_each_other, two_hosts};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{
    Lab, Topology,
    netns::Netns,
    snapshot::Snapshot,
    stream::Stream,
    wait::{self, SOON},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{fs, time::Duration};

/// How often the agents compare without an event where the kernel does not announce changes.
const RESYNC: Duration = Duration::from_secs(2);

/// What is done by hand: what it is, and lines for a shell on h1, with names in braces for what [`Names`] knows.
type Case = (&'static str, &'static str);

#[test]
fn routes_that_are_removed_or_led_astray_are_healed() -> Result<()> {
    heals(&[
        ("an IPv4 route", "ip route del 10.2.1.0/24 table {table}"),
        ("an IPv6 route", "ip -6 route del fd00:2:0:1::/64 table {table}"),
        ("a route to a VRF of the same host", "ip route del 10.2.0.0/24 table {table}"),
        ("a route to a port", "ip route del 10.1.0.0/24 table {table} proto 67"),
        ("a backstop of IPv4", "ip route del unreachable 10.2.0.0/16 table {table} metric 4278198272"),
        ("a backstop of IPv6", "ip -6 route del unreachable fd00:2::/48 table {table} metric 4278198272"),
        ("the last backstop", "ip route del unreachable default table {table} metric 4278198272"),
        ("an IPv4 route to another device", "ip route replace 10.2.1.0/24 dev eth1 table {table} proto 67"),
        ("an IPv4 route to nowhere", "ip route replace blackhole 10.2.1.0/24 table {table} proto 67"),
        ("an IPv6 route to another device", "ip -6 route replace fd00:2:0:1::/64 dev eth1 table {table} proto 67"),
        // Without metrics the kernel would take over those of the route to be replaced.
        (
            "an IPv4 route with a small MTU",
            "ip route replace 10.2.1.0/24 nhid {nexthop} table {table} proto 67 mtu lock 300",
        ),
        (
            "an IPv6 route with a small MTU",
            "ip -6 route replace fd00:2:0:1::/64 nhid {nexthop} table {table} proto 67 mtu lock 300",
        ),
        // Once it has expired, the kernel goes on to list it for half a minute.
        (
            "an IPv6 route that expires",
            "ip -6 route replace fd00:2:0:1::/64 nhid {nexthop} table {table} proto 67 expires 600",
        ),
        ("a backstop that lets pass", "ip route replace 10.2.0.0/16 dev eth1 table {table} metric 4278198272 proto 67"),
        ("a route too many", "ip route add 10.77.0.0/16 dev eth1 table {table} proto 67"),
        ("a second route of another metric", "ip route add 10.2.1.0/24 dev eth1 table {table} metric 9 proto 67"),
        ("all IPv4 routes", "ip route flush table all proto 67 || true"),
        ("all IPv6 routes", "ip -6 route flush table all proto 67 || true"),
        ("what the kernel made in a table, of IPv4", "ip route flush table {table} type local"),
        ("what the kernel made in a table, of IPv6", "ip -6 route flush table {table} type local"),
        (
            // (On the peering device IPv6 has a route for multicast, which is unused: all neighbours are permanent.)
            "all of a table that leads to a port, whoever made it",
            "ip route flush table {table} || true; ip -6 route flush table {table} dev eth1 || true",
        ),
        (
            "all of a table",
            "ip route flush table {table} proto 67 || true; ip -6 route flush table {table} proto 67 || true",
        ),
    ])
}

#[test]
fn next_hops_neighbours_and_forwarding_entries_are_healed() -> Result<()> {
    heals(&[
        ("the next hop", "ip nexthop del id {nexthop}"),
        ("the next hop to elsewhere", "ip nexthop replace id {nexthop} via fe80::99 dev {peer} onlink proto 67"),
        ("all next hops", "ip nexthop flush proto 67"),
        ("the neighbour", "ip neigh del {gateway} dev {peer}"),
        ("the neighbour's Ethernet address", "ip neigh replace {gateway} lladdr 02:00:00:00:00:99 dev {peer}"),
        ("a neighbour that ages", "ip neigh replace {gateway} lladdr {mac} dev {peer} nud stale"),
        ("the forwarding entry", "bridge fdb del {mac} dev {peer} dst 192.0.2.2 vni {vni}"),
        ("a destination of everything else", "bridge fdb append {any} dev {peer} dst 192.0.2.99 self permanent"),
        (
            // Of one host's address the kernel keeps a single destination: `append` would change nothing.
            "a second destination",
            "bridge fdb append {any} dev {peer} dst 192.0.2.98 self permanent; \
             bridge fdb append {any} dev {peer} dst 192.0.2.99 self permanent",
        ),
        ("another destination", "bridge fdb replace {mac} dev {peer} dst 192.0.2.99 vni {vni} self permanent"),
        ("another VNI", "bridge fdb replace {mac} dev {peer} dst 192.0.2.2 vni 4242 self permanent"),
    ])
}

#[test]
fn devices_that_are_changed_or_removed_are_healed() -> Result<()> {
    heals(&[
        ("a peering device", "ip link del {peer}"),
        ("a peering device down", "ip link set {peer} down"),
        ("a peering device's MTU", "ip link set {peer} mtu 1300"),
        ("a peering device's MAC, as udev would", "ip link set {peer} address 02:00:00:00:00:77"),
        ("a peering device's alias", "ip link set {peer} alias nobodys"),
        ("a peering device out of its VRF", "ip link set {peer} nomaster"),
        ("a peering device in the wrong VRF", "ip link set {peer} master {other_vrf}"),
        ("a peering device that learns", "ip link set {peer} type vxlan learning"),
        ("the filters of what arrives", "tc qdisc del dev {peer} clsact"),
        ("the filter that accepts", "tc filter del dev {peer} ingress pref 17235"),
        ("the filter that drops", "tc filter del dev {peer} ingress pref 17236"),
        ("the limit of neighbour messages", "tc filter del dev eth1 ingress pref 17232"),
        (
            "another limit",
            "tc filter replace dev eth1 ingress pref 17232 handle 1 bpf skip_hw bytecode '1,6 0 0 4294967295,' \
             action police pkts_rate 1 pkts_burst 1 conform-exceed drop/drop",
        ),
        (
            "the limit itself, without its filter",
            "tc actions change action police pkts_rate 1 pkts_burst 1 conform-exceed drop/drop index \
             $(tc -j filter show dev eth1 ingress pref 17232 | grep -o '\"kind\":\"police\",\"index\":[0-9]*' | grep -o '[0-9]*$' | head -1)",
        ),
        ("the filter of the underlay", "tc filter del dev uplink ingress pref 17231"),
        ("the filters of the underlay", "tc qdisc del dev uplink clsact; tc qdisc del dev lo clsact"),
        (
            "a program that lets everything pass",
            "tc filter replace dev uplink ingress pref 17231 handle 1 bpf skip_hw bytecode '1,6 0 0 0,' direct-action",
        ),
        (
            "the same with other flags",
            "for try in $(seq 99); do printf 'filter del dev uplink ingress pref 17231\\nfilter add dev uplink ingress pref \
             17231 handle 1 bpf bytecode \"1,6 0 0 0,\" direct-action\\n' | tc -batch - && exit; done; exit 1",
        ),
        (
            "another program",
            "tc filter replace dev {peer} ingress pref 17235 handle 1 bpf skip_hw bytecode '1,6 0 0 4294967295,'",
        ),
        (
            "another kind of filter",
            // The agent may be faster.
            "for try in $(seq 99); do printf 'filter del dev eth1 ingress pref 17235\\nfilter add dev eth1 ingress pref 17235 \
             matchall action ok\\n' | tc -batch - && exit; done; exit 1",
        ),
        ("a peering device whose packets end at once", "ip link set {peer} type vxlan ttl 1"),
        ("a peering device bound to another", "ip link set {peer} type vxlan dev lo"),
        ("a peering device that is kept down", "ip link set {peer} protodown on"),
        ("a peering device that is kept down for a reason", "ip link set {peer} protodown on protodown_reason 3 on"),
        ("a peering device without neighbours", "ip link set {peer} arp off"),
        ("a port down", "ip link set eth1 down"),
        ("a port out of its VRF", "ip link set eth1 nomaster"),
        ("a port in the wrong VRF", "ip link set eth1 master {other_vrf}"),
        ("a gateway of IPv4", "ip addr del 10.1.0.1/24 dev eth1"),
        ("a gateway of IPv6", "ip addr del fd00:1::1/64 dev eth1"),
        ("a VRF down", "ip link set {vrf} down"),
        ("a VRF's alias", "ip link set {vrf} alias nobodys"),
        ("a VRF", "ip link del {vrf}"),
    ])
}

#[test]
fn rules_and_what_others_flush_are_healed() -> Result<()> {
    heals(&[
        ("the local rule first", "ip rule add pref 0 lookup local"),
        ("the local rule moved back", "ip rule add pref 0 lookup local; ip rule del pref 1001"),
        ("the local rule of IPv6 moved back", "ip -6 rule add pref 0 lookup local; ip -6 rule del pref 1001"),
        ("no local rule", "ip rule del pref 1001"),
        ("the l3mdev rule", "ip rule del pref 1000"),
        ("the l3mdev rule of IPv6", "ip -6 rule del pref 1000"),
        (
            "everything of ours at once",
            "set +e; ip route flush table all proto 67; ip -6 route flush table all proto 67; ip nexthop flush proto 67; \
             ip rule del pref 1000; ip rule del pref 1001; ip -6 rule del pref 1000; ip -6 rule del pref 1001; \
             ip link del {peer}; ip link set eth1 down; ip addr del 10.1.0.1/24 dev eth1; ip link del {vrf}; \
             ip link del {other_vrf}",
        ),
    ])
}

#[test]
fn settings_that_the_kernel_announces_are_healed() -> Result<()> {
    heals(&[
        ("forwarding of a port", "sysctl -qw net.ipv4.conf.eth1.forwarding=0"),
        ("the reverse path filter of a port", "sysctl -qw net.ipv4.conf.eth1.rp_filter=0"),
        ("the reverse path filter of a peering", "sysctl -qw net.ipv4.conf.{peer}.rp_filter=0"),
        ("IPv6 forwarding of the host", "sysctl -qw net.ipv6.conf.all.forwarding=0"),
        ("IPv6 of a port", "sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1"),
        ("IPv6 of a VRF", "sysctl -qw net.ipv6.conf.{vrf}.disable_ipv6=1"),
        (
            "a VRF on a host that has switched IPv6 off for what is new",
            "sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link del {vrf}; \
             until ip link show {vrf} >/dev/null 2>&1; do true; done; sysctl -qw net.ipv6.conf.default.disable_ipv6=0",
        ),
    ])
}

#[test]
fn settings_that_the_kernel_is_silent_about_are_healed_by_the_next_comparison() -> Result<()> {
    heals_in(
        &Lab::builder(peered()).resync(RESYNC).start()?,
        &[
            ("router advertisements", "sysctl -qw net.ipv6.conf.eth1.accept_ra=2"),
            ("redirects that are accepted", "sysctl -qw net.ipv4.conf.eth1.accept_redirects=1"),
            ("redirects of IPv6 that are accepted", "sysctl -qw net.ipv6.conf.eth1.accept_redirects=1"),
            ("redirects that are sent", "sysctl -qw net.ipv4.conf.{peer}.send_redirects=1"),
            ("requests of ARP that are answered to nobody", "sysctl -qw net.ipv4.conf.eth1.arp_ignore=8"),
            ("duplicate address detection", "sysctl -qw net.ipv6.conf.eth1.accept_dad=1"),
        ],
    )
}

#[test]
fn every_kind_of_drift_at_once_is_healed_and_another_peerings_streams_lose_nothing() -> Result<()> {
    let topology = peered()
        .vpc("vpc-x", NORTH, &["10.8.0.0/16", "fd00:8::/48"])
        .vpc("vpc-y", NORTH, &["10.9.0.0/16", "fd00:9::/48"])
        .port("vpc-x", "h1", "eth8", &["10.8.0.1/24", "fd00:8::1/64"])
        .port("vpc-y", "h2", "eth9", &["10.9.0.1/24", "fd00:9::1/64"])
        .peering("vpc-x", "vpc-y");
    let lab = Lab::in_sync(topology)?;
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let state = || anyhow::Ok((host.snapshot()?, filters(host.netns())?));
    let (before, repaired) = (state()?, host.report()?.counters.drift_repaired);
    let (x, y) = (lab.server("h1", "eth8"), lab.server("h2", "eth9"));
    let streams = [Stream::start(x, y, y.ipv4()?, 1000)?, Stream::start(y, x, x.ipv6()?, 1000)?];
    // All of it is in place before the agent sees any of it.
    let agent = Pid::from_raw(host.agent_pid().context("no agent runs")?.try_into()?);
    kill(agent, Signal::SIGSTOP)?;
    let damaged = host.netns().sh(&names.filled(EVERYTHING_AT_ONCE));
    kill(agent, Signal::SIGCONT)?;
    damaged?;
    wait::until("the repair", SOON, || {
        let report = host.report()?;
        // Of each of the kinds at least one operation.
        ensure!(report.in_sync() && report.counters.drift_repaired >= repaired + 20, "{report:?}");
        let now = state()?;
        let difference = differences(&before.0, &now.0);
        ensure!(difference.is_empty(), "{}", difference.join("\n"));
        ensure!(before.1 == now.1, "filters {:?}, now {:?}", before.1, now.1);
        Ok(Some(()))
    })?;
    for stream in streams {
        let record = stream.stop()?;
        ensure!(record.lost() == 0 && record.sent > 500, "{} of {} lost", record.lost(), record.sent);
    }
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h1", "eth2"))
}

/// Objects of ours removed, changed and duplicated. A's VRF stays, B's is removed with everything in it.
const EVERYTHING_AT_ONCE: &str = "\
    ip route del 10.2.1.0/24 table {table}
    ip route replace 10.2.0.0/16 dev eth1 table {table} metric 4278198272 proto 67
    ip route del unreachable default table {table} metric 4278198272
    ip route add 10.77.0.0/16 dev {peer} table {table} proto 67
    ip route add 10.1.0.0/24 dev {peer} table {table} metric 9 proto 67
    ip route flush table {table} type local
    ip -6 route replace fd00:2:0:1::/64 dev eth1 table {table} proto 67
    ip -6 route del unreachable fd00:2::/48 table {table} metric 4278198272
    ip nexthop add id 1124090000 via {gateway} dev {peer} onlink proto 67
    ip nexthop replace id {nexthop} via fe80::99 dev {peer} onlink proto 67
    ip neigh replace {gateway} lladdr 02:00:00:00:00:99 dev {peer}
    ip neigh add fe80::200:c000:263 lladdr 02:00:c0:00:02:63 dev {peer} nud permanent
    bridge fdb append {any} dev {peer} dst 192.0.2.98 self permanent
    bridge fdb append {any} dev {peer} dst 192.0.2.99 self permanent
    tc filter del dev {peer} ingress pref 17236
    tc qdisc del dev eth1 clsact
    ip link set {peer} mtu 1300
    ip link set {peer} address 02:00:00:00:00:77
    ip link set {peer} alias nobodys
    ip link set {vrf} alias nobodys
    ip addr del fd00:1::1/64 dev eth1
    sysctl -qw net.ipv4.conf.eth1.rp_filter=0 net.ipv4.conf.{peer}.forwarding=0
    sysctl -qw net.ipv6.conf.eth1.accept_ra=2 net.ipv4.conf.{peer}.send_redirects=1
    ip rule add pref 0 lookup local
    ip link set eth2 nomaster
    ip link del {other_vrf}";

/// VPC A on h1; its peer B on both hosts, so that there is every kind of route.
pub(crate) fn peered() -> Topology {
    two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h1", "eth2", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.1.1/24", "fd00:2:0:1::1/64"])
        .peering("vpc-a", "vpc-b")
}

fn heals(cases: &[Case]) -> Result<()> {
    heals_in(&Lab::new(peered())?, cases)
}

fn heals_in(lab: &Lab, cases: &[Case]) -> Result<()> {
    lab.apply()?;
    lab.wait_in_sync()?;
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let state = || anyhow::Ok((host.snapshot()?, filters(host.netns())?));
    let before = state()?;
    let mut failed = Vec::new();
    for (what, lines) in cases {
        let repaired = host.report()?.counters.drift_repaired;
        let lines = names.filled(lines);
        let healed = || -> Result<()> {
            host.netns().sh(&lines)?;
            wait::until("the repair", SOON, || {
                let report = host.report()?;
                ensure!(report.in_sync() && report.counters.drift_repaired > repaired, "{report:?}");
                Ok(Some(()))
            })?;
            wait::until("the kernel as before", SOON, || {
                let now = state()?;
                let difference = differences(&before.0, &now.0);
                ensure!(difference.is_empty(), "{}", difference.join("\n"));
                ensure!(before.1 == now.1, "filters {:?}, now {:?}", before.1, now.1);
                Ok(Some(()))
            })?;
            let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
            ensure!(a.reaches(b.ipv4()?)? && a.reaches(b.ipv6()?)?, "A does not reach B");
            Ok(())
        };
        if let Err(error) = healed() {
            failed.push(format!("{what}: `{lines}`: {error:#}"));
        }
    }
    reach_each_other(lab.server("h1", "eth1"), lab.server("h1", "eth2"))?;
    ensure!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    Ok(())
}

/// How the kernel differs from before. The MAC address of a VRF does not matter: no packet carries it, and a new VRF
/// gets another.
pub(crate) fn differences(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let difference = now.since(before);
    let only_address =
        |line: &String| line.starts_with("~ link ifname cpsvrf") && line.contains("  address:") && !line.contains(',');
    // A tunnel's state is "up" only after it was down, else unknown.
    let only_state = |line: &String| line.ends_with("  operstate: UNKNOWN now UP");
    let changed = difference.changed.into_iter().filter(|line| !only_address(line) && !only_state(line));
    difference.gone.into_iter().chain(difference.new).chain(changed).collect()
}

/// Which filters all devices have; without their handles and counters.
fn filters(netns: &Netns) -> Result<Vec<String>> {
    let devices = netns.within(|| Ok(fs::read_to_string("/proc/net/dev")?))?;
    let devices = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let mut devices: Vec<&str> = devices.filter(|device| !device.starts_with("cpsv")).collect();
    devices.sort_unstable();
    let questions: Vec<String> = devices.iter().map(|device| format!("filter show dev {device} ingress")).collect();
    let answers = netns.list("tc", &[], &questions.join("\n"))?;
    let filters = devices.iter().zip(answers.lines()).map(|(device, answer)| {
        let filters: Vec<Value> = serde_json::from_str(answer)?;
        let each = filters.iter().map(|it| format!("{} pref {} {}", it["protocol"], it["pref"], it["kind"]));
        Ok(format!("{device}: {}", each.collect::<Vec<_>>().join(", ")))
    });
    filters.collect()
}

/// A prefix of B on the other host, where there is one.
const TO_THE_PEER: &str = "10.2.1.0/24";

/// The numbers and names of h1's objects.
pub(crate) struct Names(Vec<(&'static str, String)>);

impl Names {
    pub(crate) fn of(netns: &Netns) -> Result<Names> {
        let master = |interface: &str| text(&listing(netns, &format!("link show {interface}"))?[0], "master");
        let (vrf, other_vrf) = (master("eth1")?, master("eth2")?);
        let table = text(&listing(netns, &format!("-d link show {vrf}"))?[0]["linkinfo"]["info_data"], "table")?;
        // A may have other peers, too.
        let routes = listing(netns, &format!("route show {TO_THE_PEER} table {table}"))?;
        let nexthops = listing(netns, "nexthop show proto 67")?;
        let nexthop = nexthops
            .iter()
            .find(|nexthop| {
                let device = nexthop["dev"].as_str().unwrap_or_default();
                // `ip link show` with a device name ignores `master`.
                let is_ours = device.starts_with("cpspeer") && master(device).is_ok_and(|master| master == vrf);
                is_ours && routes.first().is_none_or(|route| route["nhid"] == nexthop["id"])
            })
            .with_context(|| format!("no next hop of {vrf}: {nexthops:?} {routes:?}"))?;
        let (peer, gateway) = (text(nexthop, "dev")?, text(nexthop, "gateway")?);
        let entries = netns.exec(&format!("bridge fdb show dev {peer}"))?.ok()?;
        let entry: Vec<&str> = entries
            .lines()
            .find(|line| line.contains("vni"))
            .with_context(|| format!("no forwarding entry: {entries}"))?
            .split_whitespace()
            .collect();
        let vni = entry.iter().skip_while(|word| **word != "vni").nth(1).context("no VNI")?;
        Ok(Names(vec![
            ("{vrf}", vrf),
            ("{other_vrf}", other_vrf),
            ("{table}", table),
            ("{nexthop}", text(nexthop, "id")?),
            ("{peer}", peer),
            ("{gateway}", gateway),
            ("{mac}", entry[0].to_owned()),
            // Stands for every address that has no entry.
            ("{any}", "00:00:00:00:00:00".to_owned()),
            ("{vni}", (*vni).to_owned()),
        ]))
    }

    pub(crate) fn filled(&self, lines: &str) -> String {
        self.0.iter().fold(lines.to_owned(), |lines, (name, value)| lines.replace(name, value))
    }
}

fn listing(netns: &Netns, arguments: &str) -> Result<Vec<Value>> {
    let output = netns.ip(&format!("-j {arguments}"))?;
    Ok(serde_json::from_str(&output)?)
}

fn text(object: &Value, field: &str) -> Result<String> {
    match &object[field] {
        Value::Null => anyhow::bail!("no {field} in {object}"),
        Value::String(text) => Ok(text.clone()),
        other => Ok(other.to_string()),
    }
}
