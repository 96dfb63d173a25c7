//! Much of the same: many peers, many cycles.

use crate::{NORTH, a_and_b, do_not_reach_each_other, drift::differences, reach_each_other, two_hosts};
use anyhow::{Context, Result, ensure};
use cps_peering_config::{HostReport, agent_api};
use cps_peering_tests::{Lab, Topology};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PEERS: u32 = 50;

/// VPC A on h1, with this many peers on h2.
fn hub(peers: u32) -> Topology {
    let topology = two_hosts().vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"]).port(
        "vpc-a",
        "h1",
        "eth1",
        &["10.1.0.1/24", "fd00:1::1/64"],
    );
    (1..=peers).fold(topology, |topology, n| {
        let (vpc, high) = (format!("vpc-{n}"), 100 + n);
        topology
            .vpc(&vpc, NORTH, &[&format!("10.{high}.0.0/16"), &format!("fd00:{high}::/48")])
            .port(&vpc, "h2", &format!("port{n}"), &[&format!("10.{high}.0.1/24"), &format!("fd00:{high}::1/64")])
            .peering("vpc-a", &vpc)
    })
}

/// Where the unicast routes of ours lead, for each table of a host.
fn destinations(lab: &Lab, host: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let listing = lab.host(host).netns().ip("-j -d route show table all proto 67")?;
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for route in serde_json::from_str::<Vec<Value>>(&listing)?.iter().filter(|route| route["type"] == "unicast") {
        let (table, to) = (&route["table"], route["dst"].as_str().context("no destination")?);
        let new = all.entry(table.to_string()).or_default().insert(to.to_owned());
        ensure!(new, "two routes: {route}");
    }
    Ok(all)
}

#[test]
fn a_vpc_with_fifty_peers_reaches_each_and_none_of_them_another() -> Result<()> {
    let lab = Lab::in_sync(hub(2))?;
    // By default, dummy devices do not resolve neighbours.
    let ports = (3..=PEERS).flat_map(|n| [format!("link add port{n} type dummy"), format!("link set port{n} arp on")]);
    lab.host("h2").netns().ip_batch(&ports.collect::<Vec<_>>())?;
    lab.controller().apply(&hub(PEERS).build(), false)?;
    lab.wait_in_sync()?;

    let behind = |n: u32| [format!("10.{}.0.0/24", 100 + n), format!("fd00:{}::/64", 100 + n)];
    let own = ["10.1.0.0/24".to_owned(), "fd00:1::/64".to_owned()];
    let at_hub = destinations(&lab, "h1")?;
    let everything: BTreeSet<String> = (1..=PEERS).flat_map(behind).chain(own.clone()).collect();
    ensure!(at_hub.values().eq([&everything]), "{at_hub:?}");
    // Each peer knows its own prefixes and the hub's, and no other's.
    let at_peers: BTreeSet<BTreeSet<String>> = destinations(&lab, "h2")?.into_values().collect();
    let expected = (1..=PEERS).map(|n| behind(n).into_iter().chain(own.clone()).collect());
    ensure!(at_peers == expected.collect(), "{at_peers:?}");

    let (a, one, other) = (lab.server("h1", "eth1"), lab.server("h2", "port1"), lab.server("h2", "port2"));
    reach_each_other(a, one)?;
    reach_each_other(a, other)?;
    do_not_reach_each_other(one, other)
}

#[test]
fn a_hundred_create_and_delete_cycles_leave_nothing() -> Result<()> {
    let mut lab = Lab::in_sync(a_and_b())?;
    let without = lab.host("h1").snapshot()?;
    lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    lab.kill_controller()?;
    let mut peered = lab.ledger("h1")?;
    // With everything that belongs to a side, a shaper, too.
    let sides = peered["sides"].as_object_mut().context("no sides")?;
    sides.values_mut().for_each(|side| side["limit"] = json!({ "bandwidth_mbit": 100, "share": 1_000_000 }));
    let mut unpeered = peered.clone();
    unpeered["sides"] = json!({});
    let host = lab.host("h1");
    let agent = host.endpoint();
    let mut number = peered["revision"]["number"].as_u64().context("no revision")?;
    let mut push = |config: &Value| -> Result<()> {
        number += 1;
        let mut config = config.clone();
        config["revision"]["number"] = number.into();
        let report: HostReport = agent.call("PUT", agent_api::CONFIG_PATH, Some(&config))?;
        ensure!(report.in_sync() && report.desired.is_some_and(|desired| desired.number == number), "{report:?}");
        Ok(())
    };
    push(&peered)?;
    let with = host.snapshot()?;
    ensure!(host.netns().exec("tc qdisc show")?.ok()?.contains("htb"), "nothing is limited");
    for _ in 0..100 {
        push(&unpeered)?;
        push(&peered)?;
    }
    push(&unpeered)?;
    let difference = host.snapshot()?.since(&without);
    ensure!(difference.is_empty(), "{difference}");
    push(&peered)?;
    let difference = differences(&with, &host.snapshot()?);
    ensure!(difference.is_empty(), "{}", difference.join("\n"));
    let report = host.report()?;
    ensure!(report.counters.failures == 0 && report.counters.drift_repaired == 0, "{report:?}");
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}
