//! VPCs that are not peered never reach each other, even with equal CIDRs on one host (C6), and a tenant reaches nothing
//! of the host but its gateway.

use crate::{NORTH, a_and_b, do_not_reach_each_other, reach_each_other, two_hosts};
use anyhow::Result;
use cps_peering_tests::Lab;

/// C6.
#[test]
fn vpcs_with_equal_cidrs_live_side_by_side() -> Result<()> {
    // Two worlds with the same addresses on the same hosts, each with a peering of its own.
    let mut topology = two_hosts();
    for (world, one, other) in [("x", "eth1", "eth2"), ("y", "eth3", "eth4")] {
        let [a, b] = ["a", "b"].map(|name| format!("{world}-{name}"));
        topology = topology
            .vpc(&a, NORTH, &["10.1.0.0/16", "fd00:1::/48"])
            .vpc(&b, NORTH, &["10.2.0.0/16", "fd00:2::/48"])
            .port(&a, "h1", one, &["10.1.0.1/24", "fd00:1::1/64"])
            .port(&b, "h1", other, &["10.2.0.1/24", "fd00:2::1/64"])
            .port(&b, "h2", one, &["10.2.1.1/24", "fd00:2:0:1::1/64"])
            .peering(&a, &b);
    }
    let lab = Lab::in_sync(topology)?;
    for ((own_a, own_b), (their_a, their_b)) in
        [(("eth1", "eth2"), ("eth3", "eth4")), (("eth3", "eth4"), ("eth1", "eth2"))]
    {
        let a = lab.server("h1", own_a);
        let others = [lab.server("h1", their_a), lab.server("h1", their_b), lab.server("h2", their_a)];
        let heard = others.map(|server| server.heard().expect("readable"));
        reach_each_other(a, lab.server("h1", own_b))?;
        reach_each_other(a, lab.server("h2", own_a))?;
        assert_eq!(others.map(|server| server.heard().expect("readable")), heard, "the other world heard of it");
    }
    Ok(())
}

/// C6.
#[test]
fn unpeered_vpcs_with_other_cidrs_do_not_reach_each_other() -> Result<()> {
    let topology = a_and_b()
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h1", "eth3", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology)?;
    do_not_reach_each_other(lab.server("h1", "eth1"), lab.server("h1", "eth3"))?;
    do_not_reach_each_other(lab.server("h2", "eth1"), lab.server("h1", "eth3"))
}

#[test]
fn a_tenant_reaches_nothing_of_the_host_but_its_gateway() -> Result<()> {
    let lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    lab.host("h1").netns().ip("addr add 203.0.113.1/32 dev lo")?;
    lab.host("h1").netns().ip("addr add 2001:db8::1/128 dev lo")?;
    let a = lab.server("h1", "eth1");
    for gateway in ["10.1.0.1", "fd00:1::1"] {
        assert!(a.reaches(gateway)?, "{gateway}");
    }
    // The host's underlay address, another host's, addresses on its loopback, and the controller's.
    for forbidden in ["192.0.2.1", "192.0.2.2", "203.0.113.1", "2001:db8::1", "100.64.0.1"] {
        assert!(!a.reaches(forbidden)?, "{forbidden}");
    }
    Ok(())
}

/// C7.
#[test]
fn spoofed_sources_do_not_cross_a_peering() -> Result<()> {
    let lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    let heard = b.heard()?;
    // Outside everything, elsewhere in the own VPC, and in the peer's own prefix.
    for (source, to) in [
        ("203.0.113.9", b.ipv4()?),
        ("10.1.77.9", b.ipv4()?),
        ("10.2.0.77", b.ipv4()?),
        ("2001:db8:99::9", b.ipv6()?),
        ("fd00:1:0:77::9", b.ipv6()?),
        ("fd00:2::77", b.ipv6()?),
    ] {
        let length = if to.is_ipv4() { 32 } else { 128 };
        a.netns().ip(&format!("addr add {source}/{length} dev lo"))?;
        let ping = a.ping_with(to, &["-I", source])?;
        assert!(!ping.answered, "{}: {}", ping.line, ping.output);
        assert_eq!(b.heard()?, heard, "{source} came through");
        a.netns().ip(&format!("addr del {source}/{length} dev lo"))?;
    }
    reach_each_other(a, b)
}

/// C10: what goes to the broadcast address of a peer's subnet reaches no server there (RFC 2644), on whichever host.
#[test]
fn no_server_hears_broadcasts_of_peers() -> Result<()> {
    let topology =
        a_and_b().port("vpc-b", "h1", "eth2", &["10.2.1.1/24", "fd00:2:0:1::1/64"]).peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology)?;
    let a = lab.server("h1", "eth1");
    let others = [lab.server("h1", "eth2"), lab.server("h2", "eth1")];
    for other in others {
        reach_each_other(a, other)?;
        other.netns().sysctl(&["net.ipv4.icmp_echo_ignore_broadcasts=0"])?;
    }
    let heard = others.map(|server| server.heard().expect("readable"));
    for broadcast in ["10.2.1.255", "10.2.0.255"] {
        let ping = a.ping(broadcast)?;
        assert!(!ping.answered, "{}: {}", ping.line, ping.output);
    }
    assert_eq!(others.map(|server| server.heard().expect("readable")), heard, "a broadcast came through");
    for other in others {
        reach_each_other(a, other)?;
    }
    Ok(())
}
