//! Pitfalls known from other systems: obstacles, lost events, hanging connections, and leftovers.

use crate::{
    NORTH, a_and_b,
    drift::{Names, differences, peered},
    reach_each_other,
};
use anyhow::{Result, ensure};
use cps_peering_config::{
    HostReport,
    inventory::Inventory,
    report::{Problem, ProblemKind},
};
use cps_peering_tests::{
    Lab, command,
    lab::{UPLINK, binary},
    monitor::Monitor,
    netns::Netns,
    wait::{self, SOON},
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

/// How long a daemon waits for the head of a request, and a little.
const HEADER_LIMIT: Duration = Duration::from_secs(13);

/// How long a daemon takes to stop while requests are in progress, and a little.
const GRACE: Duration = Duration::from_secs(7);

#[test]
fn the_second_agent_on_a_host_exits_with_a_sentence() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let settings = lab.dir().join("hosts/h1/agent.toml");
    let mut second = lab.host("h1").netns().command(binary("cps-peering-agent")?);
    let ended = command::run(second.args(["run", "--settings", &settings.to_string_lossy()]))?;
    ensure!(ended.status.code().is_some_and(|code| code != 0), "{ended:?}");
    ensure!(ended.stderr.contains("another cps-peering-agent runs"), "{ended:?}");
    lab.wait_for_agent("h1").map(drop)
}

#[test]
fn a_foreign_device_with_our_vni_is_named_and_untouched_and_other_peerings_go_on() -> Result<()> {
    let mut lab = Lab::in_sync(with_a_third())?;
    let host = lab.host("h1").netns().clone();
    let names = Names::of(&host)?;
    lab.kill_agent("h1")?;
    let side = names.filled("{peer}").replace("cpspeer", "");
    host.ip(&format!("link del cpspeer{side}"))?;
    host.ip(&format!("link add othervx type vxlan id {side} dstport 4789 local 192.0.2.1 nolearning"))?;
    let foreign = host.ip("-d link show othervx")?;
    lab.start_agent("h1")?;
    let problem = reported(&lab, "othervx")?;
    ensure!(problem.kind == ProblemKind::Conflict && problem.object == format!("link cpspeer{side}"), "{problem:?}");
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth3"))?;
    ensure!(host.ip("-d link show othervx")? == foreign);
    host.ip("link del othervx")?;
    lab.wait_for_agent("h1")?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn a_foreign_route_in_the_place_of_ours_is_named_and_untouched() -> Result<()> {
    let lab = Lab::in_sync(with_a_third())?;
    let host = lab.host("h1").netns();
    let names = Names::of(host)?;
    let place = names.filled("10.2.1.0/24 dev eth1 table {table} proto static");
    host.ip(&format!("route replace {place}"))?;
    let problem = reported(&lab, "10.2.1.0/24")?;
    ensure!(problem.kind == ProblemKind::Conflict, "{problem:?}");
    let route = host.ip(&names.filled("route show 10.2.1.0/24 table {table}"))?;
    ensure!(route.contains("proto static") && route.lines().count() == 1, "{route}");
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth3"))?;
    host.ip(&format!("route del {place}"))?;
    lab.wait_for_agent("h1")?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn one_bad_port_does_not_hold_up_the_others() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let more: Inventory = a_and_b()
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h1", "nic9", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-a", "vpc-b")
        .build();
    lab.controller().apply(&more, false)?;
    let host = lab.host("h1").netns();
    let problem = reported(&lab, "nic9")?;
    ensure!(problem.kind == ProblemKind::Missing, "{problem:?}");
    let works = || reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    works()?;
    host.ip("link add br9 type bridge")?;
    host.ip("link add nic9 master br9 type dummy")?;
    // Dummies have it off, and no port can be without it.
    host.ip("link set nic9 arp on")?;
    let problem = reported(&lab, "br9")?;
    ensure!(problem.kind == ProblemKind::Conflict && problem.object.contains("nic9"), "{problem:?}");
    ensure!(host.ip("link show nic9")?.contains("master br9"));
    works()?;
    host.ip("link set nic9 nomaster")?;
    lab.wait_for_agent("h1")?;
    ensure!(host.ip("link show nic9")?.contains("master cpsvrf"));
    works()
}

#[test]
fn links_that_go_down_and_up_are_healed() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let before = host.snapshot()?;
    for device in ["{peer}", "eth1", UPLINK].map(|device| names.filled(device)) {
        // The kernel removes the routes of a device that goes down; those of the underlay are not the agent's.
        let routes = if device == UPLINK { host.netns().ip("-4 route show dev uplink")? } else { String::new() };
        host.netns().ip(&format!("link set {device} down"))?;
        host.netns().ip(&format!("link set {device} up"))?;
        let mut routes: Vec<&str> = routes.lines().collect();
        routes.sort_by_key(|route| route.starts_with("default"));
        for route in routes {
            host.netns().ip(&format!("route replace {route} dev uplink"))?;
        }
        wait::until(&format!("{device} as before"), SOON, || {
            reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
            let report = host.report()?;
            ensure!(report.in_sync(), "{report:?}");
            let mut difference = differences(&before, &host.snapshot()?);
            difference.retain(|line| !line.contains("uplink"));
            ensure!(difference.is_empty(), "{}", difference.join("\n"));
            Ok(Some(()))
        })?;
    }
    Ok(())
}

#[test]
fn thirty_peerings_that_come_and_go_leave_nothing() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let before = [lab.host("h1").snapshot()?, lab.host("h2").snapshot()?];
    for _ in 0..30 {
        let id = lab.peer("vpc-a", "vpc-b")?;
        lab.unpeer(&id)?;
    }
    lab.wait_in_sync()?;
    for (host, before) in ["h1", "h2"].into_iter().zip(&before) {
        let difference = lab.host(host).snapshot()?.since(before);
        ensure!(difference.is_empty(), "{host}:\n{difference}");
    }
    Ok(())
}

#[test]
fn table_main_never_holds_a_tenants_route() -> Result<()> {
    let lab = Lab::new(peered())?;
    let monitor = Monitor::start(lab.host("h1").netns())?;
    lab.apply()?;
    lab.wait_in_sync()?;
    lab.prune()?;
    lab.wait_in_sync()?;
    let events = monitor.stop()?;
    let tenants = |line: &&String| ["10.1.", "10.2.", "fd00:"].iter().any(|prefix| line.contains(prefix));
    let routes: Vec<&String> = events.iter().filter(|line| line.starts_with("[ROUTE]")).filter(tenants).collect();
    ensure!(routes.len() > 20, "the monitor saw too little: {routes:#?}");
    let in_main: Vec<_> = routes.into_iter().filter(|line| !line.contains(" table ")).collect();
    ensure!(in_main.is_empty(), "{in_main:#?}");
    Ok(())
}

#[test]
fn a_vrf_does_not_fall_through_to_main() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1").netns();
    host.ip("-6 route add default dev uplink")?;
    let vrf = Names::of(host)?.filled("{vrf}");
    for nowhere in ["203.0.113.9", "10.2.9.9", "192.0.2.2", "2001:db8::9", "fd00:2:0:9::9"] {
        host.ip(&format!("route get {nowhere}"))?;
        let ended = host.exec(&format!("ip route get {nowhere} vrf {vrf}"))?;
        let said = format!("{}{}", ended.stdout, ended.stderr).to_lowercase();
        let unreachable = said.contains("unreachable") || said.contains("no route to host");
        ensure!(unreachable && !said.contains(UPLINK), "{}: {said}", ended.line);
    }
    Ok(())
}

#[test]
fn half_sent_requests_are_closed_and_hold_up_no_end() -> Result<()> {
    let mut lab = Lab::in_sync(a_and_b())?;
    let agent = (lab.host("h1").netns().clone(), lab.host("h1").agent_address());
    let controller = (lab.controller().netns().clone(), lab.controller().endpoint().to);
    let begun = [half_sent(&agent.0, agent.1)?, half_sent(&controller.0, controller.1)?];
    for stream in begun {
        is_closed(stream)?;
    }
    let pending = [half_sent(&agent.0, agent.1)?, half_sent(&controller.0, controller.1)?];
    let ended = lab.terminate_agent("h1", GRACE)?;
    ensure!(ended.success(), "agent: {ended}");
    let ended = lab.terminate_controller(GRACE)?;
    ensure!(ended.success(), "controller: {ended}");
    drop(pending);
    Ok(())
}

#[test]
fn what_happens_among_more_events_than_the_kernel_keeps_is_healed_and_the_loss_is_counted() -> Result<()> {
    let lab = Lab::builder(peered()).event_buffer(4096).start()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let before = host.snapshot()?;
    let churn = |verb: &str| -> Vec<String> {
        let route =
            |n: u32| format!("route {verb} unreachable 10.{}.{}.{}/32 table 4242", n >> 16, n >> 8 & 255, n & 255);
        (0..10_000).map(route).collect()
    };
    let mut lines = churn("add");
    lines.insert(5_000, names.filled("route del 10.2.1.0/24 table {table}"));
    lines.extend(churn("del"));
    host.netns().ip_batch(&lines)?;
    wait::until("the kernel as before", SOON, || {
        let report = host.report()?;
        ensure!(report.in_sync() && report.counters.drift_repaired > 0, "{report:?}");
        ensure!(report.counters.events_lost > 0, "{report:?}");
        let difference = host.snapshot()?.since(&before);
        ensure!(difference.is_empty(), "{difference}");
        Ok(Some(()))
    })?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn after_a_reboot_everything_is_back_from_the_ledger_without_a_controller() -> Result<()> {
    let mut lab = Lab::in_sync(peered())?;
    let host = lab.host("h1").netns().clone();
    let before = lab.host("h1").snapshot()?;
    lab.kill_controller()?;
    lab.kill_agent("h1")?;
    // What a reboot leaves: interfaces that are down, no device of ours, and the kernel's own rules.
    let script = "ip addr flush dev eth1; ip addr flush dev eth2; ip link set eth1 down; ip link set eth2 down; \
                  for link in $(ip -o link show | grep -o 'cps[a-z]*[0-9]*:' | tr -d : | sort -u); do ip link del $link; done; \
                  for family in -4 -6; do ip $family rule add pref 0 lookup local; ip $family rule del pref 1001; \
                  ip $family rule del pref 1000; done; sysctl -qw net.ipv6.conf.all.forwarding=0";
    host.run(Command::new("sh").args(["-c", script]))?.ok()?;
    ensure!(!host.ip("link show")?.contains("cps") && host.ip("nexthop show")?.is_empty());
    lab.start_agent("h1")?;
    lab.wait_for_agent("h1")?;
    let difference = differences(&before, &lab.host("h1").snapshot()?);
    ensure!(difference.is_empty(), "{}", difference.join("\n"));
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h1", "eth2"))
}

/// The peered VPCs, and a VPC on h2 that is a peer of A as well.
fn with_a_third() -> cps_peering_tests::Topology {
    peered()
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h2", "eth3", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-a", "vpc-c")
}

/// Waits until h1's agent reports a problem that names something.
fn reported(lab: &Lab, name: &str) -> Result<Problem> {
    wait::until(&format!("a report that names {name}"), SOON, || {
        let report: HostReport = lab.host("h1").report()?;
        let names_it = |problem: &&Problem| problem.object.contains(name) || problem.reason.contains(name);
        let found = report.problems.iter().find(names_it).cloned();
        ensure!(found.is_some(), "{report:?}");
        Ok(found)
    })
}

/// A connection with an incomplete request.
fn half_sent(from: &Netns, to: SocketAddr) -> Result<TcpStream> {
    from.within(|| {
        let mut stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: some")?;
        stream.set_read_timeout(Some(HEADER_LIMIT))?;
        Ok(stream)
    })
}

/// The peer closes the connection within the limit.
fn is_closed(mut stream: TcpStream) -> Result<()> {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}
