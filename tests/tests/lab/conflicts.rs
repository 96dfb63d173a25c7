//! Others change our objects so that they are no longer ours, or put objects in our way: the VPC fails closed, the conflict is reported, and
//! the VPC works again when it is over.

use crate::{
    drift::{Names, differences, peered},
    reach_each_other,
};
use anyhow::{Context, Result, ensure};
use cps_peering_config::{HostReport, report::Problem};
use cps_peering_tests::{
    Lab,
    lab::{Ping, UPLINK},
    monitor::Monitor,
    netns::Netns,
    wait::{self, SOON},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{process::Stdio, time::Duration};

/// An address of the host itself, in table `local`.
const OF_THE_HOST: &str = "2001:db8:9::1";

/// What is done on h1, and how it is undone; what the report names.
struct Case {
    what: &'static str,
    breaks: &'static str,
    mends: &'static str,
    named: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        what: "the group of a VRF that is in use",
        breaks: "ip link set {vrf} group 0",
        mends: "ip link set {vrf} group 1129337601",
        named: "{vrf}",
    },
    Case {
        what: "another VRF on the same table",
        breaks: "ip link add theirs type vrf table {table}; ip link set theirs up",
        mends: "ip link del theirs",
        named: "theirs",
    },
    Case {
        what: "a VRF that is renamed",
        breaks: "ip link set {vrf} down; ip link set {vrf} name theirs; ip link set theirs up",
        mends: "ip link set theirs down; ip link set theirs name {vrf}",
        named: "theirs",
    },
    Case {
        what: "another VRF in the place of ours, with its port",
        breaks: "ip link del {vrf}; ip link add {vrf} type vrf table 500; ip link set {vrf} up; \
                 ip link set eth1 master {vrf}; ip link set eth1 up; true",
        mends: "ip link del {vrf}",
        named: "{vrf}",
    },
    Case {
        what: "a port that becomes one of a bridge",
        breaks: "ip link add br9 type bridge; ip link set br9 up; ip link set eth1 nomaster; ip link set eth1 master br9; \
                 ip link set eth1 up",
        mends: "ip link del br9",
        named: "br9",
    },
    Case {
        what: "a VXLAN device of another in the place of ours, in the VRF",
        breaks: "ip link set {peer} group 0",
        mends: "ip link del {peer}",
        named: "{peer}",
    },
];

#[test]
fn what_is_in_conflict_fails_closed_and_comes_back() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1").netns();
    host.ip_batch(&[
        "link add inside type dummy".to_owned(),
        "link set inside up".to_owned(),
        format!("addr add {OF_THE_HOST}/128 dev inside nodad"),
    ])?;
    let names = Names::of(host)?;
    let before = lab.host("h1").snapshot()?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    let mut failed = Vec::new();
    for case in CASES {
        let closed = || -> Result<()> {
            // An address outside that table main leads to, and the host itself.
            let asked = ["192.0.2.2", OF_THE_HOST].map(|address| {
                a.netns()
                    .command("ping")
                    .args(["-n", "-q", "-i", "0.02", "-c", "60", "-W", "1", address])
                    .stdout(Stdio::piped())
                    .spawn()
            });
            let heard = echoes(lab.host("h2").netns())?;
            // All of it is in place before the agent sees any of it.
            let agent = Pid::from_raw(lab.host("h1").agent_pid().context("no agent runs")?.try_into()?);
            kill(agent, Signal::SIGSTOP)?;
            let broken = shell(host, &names.filled(case.breaks));
            kill(agent, Signal::SIGCONT)?;
            broken?;
            let problem = reported(&lab, &names.filled(case.named))?;
            ensure!(problem.kind == cps_peering_config::report::ProblemKind::Conflict, "{problem:?}");
            let device = if case.named == "{peer}" { names.filled("{peer}") } else { "eth1".to_owned() };
            wait::until(&format!("{device} is down"), SOON, || Ok((!is_up(host, &device)?).then_some(())))?;
            ensure!(silent(&a.ping(b.ipv4()?)?) && silent(&a.ping(b.ipv6()?)?), "A still reaches B");
            for asked in asked {
                let output = asked?.wait_with_output()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                ensure!(text.contains(" 0 received"), "what is outside answers: {text}");
            }
            ensure!(echoes(lab.host("h2").netns())? == heard, "a tenant's packets have left its VPC");
            for family in ["-4", "-6"] {
                let rules = host.ip(&format!("{family} rule show"))?;
                ensure!(rules.contains("1001:") && !rules.lines().any(|rule| rule.starts_with("0:")), "{rules}");
                // As long as a VRF uses the table, it does not fall through to table main.
                let in_use = host.ip("-d link show type vrf")?.contains(&names.filled("table {table}"));
                let routes = host
                    .ip(&names.filled(&format!("{family} route show table {{table}} proto 67")))
                    .unwrap_or_default();
                ensure!(!in_use || routes.contains("unreachable default"), "{routes}");
            }
            shell(host, &names.filled(case.mends))?;
            lab.wait_for_agent("h1")?;
            // The server's side of the port gets its carrier a moment later.
            wait::until("A reaches its peers", SOON, || {
                reach_each_other(a, b)?;
                reach_each_other(a, lab.server("h1", "eth2")).map(Some)
            })?;
            let difference = differences(&before, &lab.host("h1").snapshot()?);
            ensure!(difference.is_empty(), "{}", difference.join("\n"));
            Ok(())
        };
        if let Err(error) = closed() {
            failed.push(format!("{}: {error:#}", case.what));
            shell(host, &format!("{} || true", names.filled(case.mends))).ok();
        }
    }
    ensure!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), CASES.len(), failed.join("\n"));
    Ok(())
}

#[test]
fn a_vpc_that_is_removed_in_conflict_leaves_no_port_up() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1").netns();
    let names = Names::of(host)?;
    shell(host, &names.filled("ip link set {vrf} group 0"))?;
    // Another program has a device in it, too.
    shell(
        host,
        &names.filled("ip link add theirs type dummy; ip link set theirs master {vrf}; ip link set theirs up"),
    )?;
    reported(&lab, &names.filled("{vrf}"))?;
    lab.prune()?;
    lab.wait_in_sync()?;
    ensure!(!is_up(host, "eth1")? && is_up(host, "theirs")?);
    ensure!(!host.ip("link show eth1")?.contains("master"), "{}", host.ip("link show eth1")?);
    let local = |at: &str| -> Result<()> {
        for family in ["-4", "-6"] {
            let rules = host.ip(&format!("{family} rule show"))?;
            ensure!(rules.lines().any(|rule| rule.starts_with(at) && rule.contains("lookup local")), "{rules}");
        }
        Ok(())
    };
    local("1001:")?;
    let backstops = || host.ip(&names.filled("route show table {table} proto 67")).unwrap_or_default();
    ensure!(backstops().contains("unreachable default"), "{}", backstops());
    shell(host, "ip link del theirs")?;
    wait::until("the backstops go", SOON, || Ok(backstops().is_empty().then_some(())))?;
    shell(host, &names.filled("ip link del {vrf}"))?;
    wait::until("the local rule is back", SOON, || local("0:").map(Some))
}

#[test]
fn rules_before_ours_are_reported_and_make_nothing_flap() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1").netns();
    host.ip(&format!("-6 route add default dev {UPLINK}"))?;
    let before = lab.host("h1").snapshot()?;
    let monitor = Monitor::start(host)?;
    for (rule, named) in [
        ("rule add pref 10 lookup local", "rule priority 10 from all lookup local"),
        ("-6 rule add pref 500 lookup main", "-6 rule priority 500 from all lookup main"),
        (
            "rule add pref 999 from 10.1.0.0/16 to 192.0.2.0/24 lookup main",
            "from 10.1.0.0/16 to 192.0.2.0/24 lookup main",
        ),
        ("-6 rule add pref 7 iif eth1 blackhole", "iif eth1 blackhole"),
        ("rule add pref 8 not to 192.0.2.0/24 lookup main", "not from all to 192.0.2.0/24"),
        ("rule add pref 9 ipproto tcp dport 179 goto 32766", "goto 32766"),
    ] {
        host.ip(rule)?;
        let problem = reported(&lab, named)?;
        ensure!(problem.reason.contains("l3mdev"), "{problem:?}");
        ensure!(!lab.host("h1").report()?.in_sync(), "{rule}: in sync");
        host.ip(&rule.replace(" add ", " del "))?;
        lab.wait_for_agent("h1")?;
    }
    // Rules that let others in are reported at any priority.
    let names = Names::of(host)?;
    for (rule, named) in [
        ("rule add pref 3000 iif inside lookup {table}", "rule priority 3000 from all iif inside lookup {table}"),
        ("-6 rule add pref 900 iif inside lookup {table}", "-6 rule priority 900 from all iif inside lookup {table}"),
    ]
    .map(|(rule, named)| (names.filled(rule), names.filled(named)))
    {
        host.ip(&rule)?;
        let problem = reported(&lab, &named)?;
        ensure!(problem.reason.contains("into its table"), "{problem:?}");
        host.ip(&rule.replace(" add ", " del "))?;
        lab.wait_for_agent("h1")?;
    }
    // It can match none of a tenant's packets.
    let passes = lab.host("h1").report()?.counters.passes;
    for rule in [
        "rule add pref 20 from 198.18.0.0/15 lookup 500",
        "rule add pref 21 fwmark 0x200/0xf00 lookup main",
        "-6 rule add pref 22 iif uplink lookup main",
        "rule add pref 23 nop",
        "rule add pref 2000 lookup main",
    ] {
        host.ip(rule)?;
    }
    wait::until("another look", SOON, || Ok((lab.host("h1").report()?.counters.passes > passes).then_some(())))?;
    lab.wait_for_agent("h1")?;
    for priority in [20, 21, 23, 2000] {
        host.ip(&format!("rule del pref {priority}"))?;
    }
    host.ip("-6 rule del pref 22")?;
    lab.wait_for_agent("h1")?;
    let addresses: Vec<String> = monitor.stop()?.into_iter().filter(|line| line.starts_with("[ADDR]")).collect();
    ensure!(addresses.is_empty(), "{addresses:#?}");
    let difference = differences(&before, &lab.host("h1").snapshot()?);
    ensure!(difference.is_empty(), "{}", difference.join("\n"));
    Ok(())
}

#[test]
fn what_somebody_keeps_changing_back_is_left_alone_for_a_while_and_said() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1").netns();
    let repaired = || anyhow::Ok(lab.host("h1").report()?.counters.drift_repaired);
    let before = repaired()?;
    let fight = "while :; do ip addr del 10.1.0.1/24 dev eth1 2>/dev/null || true; sleep 0.05; done";
    let mut somebody = host.command("sh").args(["-c", fight]).spawn().context("nobody fights")?;
    let told = reported_within(&lab, "another program keeps changing it back", Duration::from_mins(1));
    let during = repaired()?;
    // Nobody repairs it now, and everything else continues.
    let x = reach_each_other(lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    let rested = repaired()?;
    somebody.kill()?;
    somebody.wait()?;
    let told = told?;
    ensure!(told.object.contains("10.1.0.1/24"), "{told:?}");
    // (With the last address of a port the kernel removes routes, too.)
    ensure!(during - before < 200 && rested - during < 20, "{before}, {during}, {rested}");
    x?;
    wait::until("peace", Duration::from_secs(40), || {
        let report = lab.host("h1").report()?;
        ensure!(report.in_sync(), "{report:?}");
        Ok(Some(()))
    })?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

fn shell(netns: &Netns, lines: &str) -> Result<String> {
    netns.sh(lines)
}

fn is_up(netns: &Netns, device: &str) -> Result<bool> {
    let links: Value = serde_json::from_str(&netns.ip(&format!("-j link show {device}"))?)?;
    let flags = links[0]["flags"].as_array().context("no flags")?;
    Ok(flags.iter().any(|flag| flag == "UP"))
}

/// No reply came.
fn silent(ping: &Ping) -> bool {
    !ping.answered
}

/// How many pings have reached a host itself.
fn echoes(netns: &Netns) -> Result<u64> {
    let text = netns.exec("cat /proc/net/snmp")?.ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp:"));
    let column = lines.next().and_then(|head| head.split_whitespace().position(|word| word == "InEchos"));
    let value = column.and_then(|column| lines.next()?.split_whitespace().nth(column)?.parse().ok());
    value.context("no InEchos")
}

/// Waits until h1's agent reports a problem that names something.
fn reported(lab: &Lab, name: &str) -> Result<Problem> {
    reported_within(lab, name, SOON)
}

fn reported_within(lab: &Lab, name: &str, within: Duration) -> Result<Problem> {
    wait::until(&format!("a report that names {name}"), within, || {
        let report: HostReport = lab.host("h1").report()?;
        let names_it = |problem: &&Problem| problem.object.contains(name) || problem.reason.contains(name);
        let found = report.problems.iter().find(names_it).cloned();
        ensure!(found.is_some(), "{report:?}");
        Ok(found)
    })
}
