//! Families, several CIDRs, several ports, single addresses: the forms that a VPC can have.

use crate::{NORTH, a_and_b, do_not_reach_each_other, is_unreachable, reach_each_other, two_hosts};
use anyhow::{Result, ensure};
use cps_peering_tests::{Lab, Topology, lab::PATIENCE, wait};

#[test]
fn an_ipv4_vpc_and_one_of_both_families_share_ipv4() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-4", NORTH, &["10.1.0.0/16"])
        .vpc("vpc-46", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-4", "h1", "eth1", &["10.1.0.1/24"])
        .port("vpc-46", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
        .peering("vpc-4", "vpc-46");
    let lab = Lab::in_sync(topology)?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn two_ipv6_vpcs() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["fd00:1::1/64"])
        .port("vpc-b", "h2", "eth1", &["fd00:2::1/64"])
        .port("vpc-b", "h1", "eth2", &["fd00:2:0:1::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology)?;
    let a = lab.server("h1", "eth1");
    reach_each_other(a, lab.server("h2", "eth1"))?;
    reach_each_other(a, lab.server("h1", "eth2"))?;
    is_unreachable(a, "fd00:2:0:9::9")
}

#[test]
fn vpcs_of_several_cidrs_and_ports_of_several_prefixes() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "172.16.0.0/20", "fd00:1::/48", "fd00:11::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "172.16.16.0/20", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "172.16.0.1/24", "fd00:1::1/64", "fd00:11::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "172.16.16.1/24", "fd00:2::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology)?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    ensure!(a.addresses.len() == 4 && b.addresses.len() == 3);
    reach_each_other(a, b)?;
    is_unreachable(a, "172.16.17.1")
}

#[test]
fn several_ports_of_one_vpc_on_one_host_reach_each_other_and_the_peer() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-a", "h1", "eth2", &["10.1.1.1/24", "fd00:1:0:1::1/64"])
        .port("vpc-a", "h1", "eth3", &["10.1.2.1/24", "fd00:1:0:2::1/64"])
        .port("vpc-b", "h1", "eth4", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.1.1/24", "fd00:2:0:1::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology)?;
    let a = ["eth1", "eth2", "eth3"].map(|port| lab.server("h1", port));
    reach_each_other(a[0], a[1])?;
    reach_each_other(a[1], a[2])?;
    for one in a {
        reach_each_other(one, lab.server("h1", "eth4"))?;
        reach_each_other(one, lab.server("h2", "eth1"))?;
    }
    Ok(())
}

#[test]
fn single_addresses_behind_ports() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/32", "fd00:1::1/128"])
        .serving(&["10.1.0.5/32", "fd00:1::5/128"])
        .port("vpc-a", "h1", "eth2", &["10.1.0.1/32", "fd00:1::1/128"])
        .serving(&["10.1.0.6/32", "fd00:1::6/128"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/32", "fd00:2::1/128"])
        .serving(&["10.2.0.5/32", "fd00:2::5/128"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::in_sync(topology)?;
    let (a, sibling, b) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    reach_each_other(a, sibling)?;
    reach_each_other(a, b)?;
    reach_each_other(sibling, b)?;
    is_unreachable(b, "10.1.0.7")
}

#[test]
fn the_underlay_may_be_ipv6() -> Result<()> {
    let topology = Topology::new()
        .host("h1", NORTH, "2001:db8::1")
        .host("h2", NORTH, "2001:db8::2")
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-a", "h2", "eth2", &["10.1.1.1/24", "fd00:1:0:1::1/64"]);
    let lab = Lab::in_sync(topology)?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    reach_each_other(a, lab.server("h2", "eth2"))?;
    do_not_reach_each_other(a, b)?;
    lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    reach_each_other(a, b)
}

#[test]
fn a_port_may_be_named_by_an_alternative_name_of_its_interface() -> Result<()> {
    let mut lab = Lab::builder(a_and_b()).build()?;
    // As after a boot in which the kernel found the cards in another order.
    let script = "ip link set eth1 down; ip link set eth1 name late9; ip link property add dev late9 altname eth1";
    lab.host("h1").netns().sh(script)?;
    lab.start_controller()?;
    for host in ["h1", "h2"] {
        lab.start_agent(host)?;
    }
    lab.wait_for_daemons()?;
    lab.apply()?;
    lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    let (a, b, host) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"), lab.host("h1"));
    reach_each_other(a, b)?;
    // An interface that has lost the name is no longer the port.
    host.netns().ip("link property del dev late9 altname eth1")?;
    wait::until("the port is missing", PATIENCE, || {
        let report = host.report()?;
        ensure!(report.problems.iter().any(|it| it.reason == "there is no interface eth1"), "{report:?}");
        Ok(Some(()))
    })?;
    let link = host.netns().ip("link show dev late9")?;
    ensure!(!link.contains("cpsvrf") && link.contains("state DOWN"), "{link}");
    do_not_reach_each_other(a, b)?;
    host.netns().ip("link property add dev late9 altname eth1")?;
    lab.wait_in_sync()?;
    reach_each_other(a, b)
}
