//! Teardown leaves nothing of ours, and foreign objects are never touched.

use crate::{EAST, NORTH, a_and_b, reach_each_other, two_hosts};
use anyhow::{Result, ensure};
use cps_peering_tests::{Lab, netns::Netns, snapshot::Snapshot};
use std::process::Command;

fn snapshots(lab: &Lab) -> Result<Vec<Snapshot>> {
    lab.hosts()
        .map(|(_, host)| Ok(host.snapshot()?.without_documented_leftovers().without_fallback_tunnels()))
        .collect()
}

#[test]
fn teardown_leaves_nothing() -> Result<()> {
    let topology = two_hosts()
        .host("h3", EAST, "198.51.100.3")
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .vpc("vpc-e", EAST, &["10.5.0.0/16", "fd00:5::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h1", "eth2", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.1.1/24", "fd00:2:0:1::1/64"])
        .port("vpc-e", "h3", "eth1", &["10.5.0.1/24", "fd00:5::1/64"])
        .peering("vpc-a", "vpc-b")
        .peering("vpc-a", "vpc-e");
    let lab = Lab::new(topology)?;
    let before = snapshots(&lab)?;
    for _ in 0..2 {
        lab.apply()?;
        lab.wait_in_sync()?;
        reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
        reach_each_other(lab.server("h1", "eth1"), lab.server("h3", "eth1"))?;
        lab.prune()?;
        lab.wait_in_sync()?;
        for ((id, _), (now, before)) in lab.hosts().zip(snapshots(&lab)?.iter().zip(&before)) {
            let difference = now.since(before);
            ensure!(difference.is_empty(), "{id}:\n{difference}");
        }
    }
    Ok(())
}

#[test]
fn foreign_objects_survive() -> Result<()> {
    let lab = Lab::new(a_and_b())?;
    let netns = lab.host("h1").netns();
    // Foreign: a VRF, a VXLAN on another port, next hops, routes and rules, some of them much like ours.
    netns.ip_batch(
        &[
            "link add other type vrf table 500",
            "link set other up",
            "link add othervx type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning",
            "link add cpsvrf type vrf table 501",
            "link add cpspeerX type dummy",
            "link add cpsvpc99 type dummy",
            "link set cpspeerX up",
            "addr add 198.18.1.1/24 dev cpspeerX",
            "nexthop add id 7 via 198.18.1.7 dev cpspeerX",
            "route add 198.18.2.0/24 nhid 7 proto 99",
            "route add 198.18.3.0/24 dev cpspeerX proto 67",
            "route add 198.18.4.0/24 dev cpspeerX table 500",
            "route add 2001:db8:9::/48 dev cpspeerX table 500",
            "rule add pref 900 from 198.18.0.0/16 lookup 500",
            "neigh add 198.18.1.9 lladdr 02:00:00:00:00:09 dev cpspeerX nud permanent",
        ]
        .map(str::to_owned),
    )?;
    // Filters beside ours: at egress, after ours, and on a qdisc of another kind.
    let filters = |netns: &Netns| -> Result<String> {
        let script = "tc qdisc show | grep -E 'clsact|ingress'; for device in uplink other othervx; do \
                      tc filter show dev $device egress; tc filter show dev $device ingress; done";
        netns.run(Command::new("sh").args(["-c", script]))?.ok()
    };
    let script = "tc qdisc add dev uplink clsact
        tc filter add dev uplink egress pref 1 matchall action ok
        tc qdisc add dev other clsact
        tc filter add dev other ingress pref 50000 matchall action ok
        tc qdisc add dev othervx ingress";
    netns.sh(script)?;
    let filters_before = filters(netns)?;
    let before = lab.host("h1").snapshot()?.without_documented_leftovers();
    lab.apply()?;
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    let meanwhile = lab.host("h1").snapshot()?.without_documented_leftovers().since(&before);
    let ours = |line: &String| line.contains("eth1") || line.contains("local") || line.contains("ifname all");
    let touched: Vec<_> = meanwhile.gone.iter().chain(&meanwhile.changed).filter(|line| !ours(line)).collect();
    ensure!(touched.is_empty(), "{touched:#?}");
    lab.unpeer(&id)?;
    lab.prune()?;
    lab.wait_in_sync()?;
    let difference = lab.host("h1").snapshot()?.without_documented_leftovers().since(&before);
    ensure!(difference.is_empty(), "{difference}");
    ensure!(filters(netns)? == filters_before, "{filters_before}, now {}", filters(netns)?);
    Ok(())
}
