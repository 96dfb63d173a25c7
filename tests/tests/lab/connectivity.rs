//! Peered VPCs reach each other (C1), a VPC spans hosts (C8), routes are added and removed automatically (C4), and peering is not
//! transitive (C2).

use crate::{EAST, NORTH, a_and_b, do_not_reach_each_other, is_unreachable, reach_each_other, routes, two_hosts};
use anyhow::Result;
use cps_peering_tests::Lab;

/// C1, C8.
#[test]
fn peered_vpcs_reach_each_other_on_one_host_across_hosts_and_across_regions() -> Result<()> {
    let topology = two_hosts()
        .host("h3", EAST, "198.51.100.3")
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .vpc("vpc-e", EAST, &["10.5.0.0/16", "fd00:5::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-a", "h2", "eth1", &["10.1.1.1/24", "fd00:1:0:1::1/64"])
        .port("vpc-b", "h1", "eth2", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth2", &["10.2.1.1/24", "fd00:2:0:1::1/64"])
        .port("vpc-e", "h3", "eth1", &["10.5.0.1/24", "fd00:5::1/64"]);
    let lab = Lab::in_sync(topology)?;
    let a = [lab.server("h1", "eth1"), lab.server("h2", "eth1")];
    let b = [lab.server("h1", "eth2"), lab.server("h2", "eth2")];
    let e = lab.server("h3", "eth1");
    reach_each_other(a[0], a[1])?;
    reach_each_other(b[0], b[1])?;
    for other in b.into_iter().chain([e]) {
        do_not_reach_each_other(a[0], other)?;
    }
    lab.peer("vpc-a", "vpc-b")?;
    lab.peer("vpc-e", "vpc-a")?;
    lab.wait_in_sync()?;
    for one in a {
        for other in b.into_iter().chain([e]) {
            reach_each_other(one, other)?;
        }
    }
    for one in b {
        do_not_reach_each_other(one, e)?;
    }
    Ok(())
}

/// C4, in the kernel.
#[test]
fn gateways_of_peers_answer_on_whichever_host_they_are() -> Result<()> {
    let lab = Lab::in_sync(crate::drift::peered())?;
    let (a, b, far) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    for (from, gateways) in [
        (a, ["10.2.0.1", "fd00:2::1", "10.2.1.1", "fd00:2:0:1::1"]),
        (b, ["10.1.0.1", "fd00:1::1", "10.2.1.1", "fd00:2:0:1::1"]),
        (far, ["10.1.0.1", "fd00:1::1", "10.2.0.1", "fd00:2::1"]),
    ] {
        for gateway in gateways {
            let ping = from.ping(gateway)?;
            assert!(ping.answered, "{}: {}", ping.line, ping.output);
        }
    }
    // The host itself, from a VRF to servers and gateways of the peer.
    let names = crate::drift::Names::of(lab.host("h1").netns())?;
    for (vrf, to) in [
        ("{vrf}", ["10.2.0.2", "fd00:2::2", "10.2.0.1", "fd00:2::1", "10.2.1.2", "fd00:2:0:1::2"]),
        ("{other_vrf}", ["10.1.0.2", "fd00:1::2", "10.1.0.1", "fd00:1::1", "10.2.1.2", "fd00:2:0:1::2"]),
    ] {
        for address in to {
            let line = names.filled(&format!("ping -n -c 1 -W 1 -I {vrf} {address}"));
            lab.host("h1").netns().exec(&line)?.ok()?;
        }
    }
    // Forged packets do not get there either.
    a.netns().ip("addr add 203.0.113.9/32 dev lo")?;
    assert!(!a.ping_with("10.2.0.1", &["-I", "203.0.113.9"])?.answered);
    Ok(())
}

#[test]
fn routes_come_and_go_with_the_peering() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let before = [lab.host("h1").snapshot()?, lab.host("h2").snapshot()?];
    assert!(!routes(&lab, "h1", "eth1")?.contains("10.2.0.0"));
    let id = lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    for (host, prefixes, cidrs) in [
        ("h1", ["10.2.0.0/24", "fd00:2::/64"], ["10.2.0.0/16", "fd00:2::/48"]),
        ("h2", ["10.1.0.0/24", "fd00:1::/64"], ["10.1.0.0/16", "fd00:1::/48"]),
    ] {
        let routes = routes(&lab, host, "eth1")?;
        for prefix in prefixes {
            assert!(routes.lines().any(|line| line.starts_with(prefix) && line.contains("cpspeer")), "{routes}");
        }
        for cidr in cidrs {
            assert!(routes.contains(&format!("unreachable {cidr}")), "{routes}");
        }
    }
    lab.unpeer(&id)?;
    lab.wait_in_sync()?;
    for (host, before) in ["h1", "h2"].into_iter().zip(&before) {
        let difference = lab.host(host).snapshot()?.since(before);
        assert!(difference.is_empty(), "{host}:\n{difference}");
    }
    Ok(())
}

/// C2.
#[test]
fn a_hub_with_many_peers_reaches_all_and_they_not_each_other() -> Result<()> {
    const SPOKES: usize = 10;
    let mut topology = two_hosts().vpc("hub", NORTH, &["10.100.0.0/16", "fd00:100::/48"]).port(
        "hub",
        "h1",
        "eth0",
        &["10.100.0.1/24", "fd00:100::1/64"],
    );
    for number in 1..=SPOKES {
        let name = format!("spoke-{number}");
        let host = if number % 2 == 0 { "h1" } else { "h2" };
        topology = topology
            .vpc(&name, NORTH, &[&format!("10.{number}.0.0/16"), &format!("fd00:{number}::/48")])
            .port(
                &name,
                host,
                &format!("eth{number}"),
                &[&format!("10.{number}.0.1/24"), &format!("fd00:{number}::1/64")],
            )
            .peering("hub", &name);
    }
    let lab = Lab::in_sync(topology)?;
    let hub = lab.server("h1", "eth0");
    let spokes: Vec<_> = lab.servers().filter(|server| server.vpc.as_str() != "hub").collect();
    assert_eq!(spokes.len(), SPOKES);
    for spoke in &spokes {
        reach_each_other(hub, spoke)?;
    }
    for pair in spokes.windows(2) {
        do_not_reach_each_other(pair[0], pair[1])?;
    }
    Ok(())
}

/// C6.
#[test]
fn what_no_port_serves_is_unreachable() -> Result<()> {
    let lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    let a = lab.server("h1", "eth1");
    reach_each_other(a, lab.server("h2", "eth1"))?;
    for nobody in [
        "10.2.9.9",      // in the peer's CIDR, behind no port
        "fd00:2:0:9::9", // the same
        "10.1.9.9",      // in the own CIDR, behind no port
        "203.0.113.7",   // anywhere
        "2001:db8::7",
    ] {
        is_unreachable(a, nobody)?;
    }
    Ok(())
}
