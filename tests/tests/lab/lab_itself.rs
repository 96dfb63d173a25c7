//! The lab itself, without the product: the basis of the other tests.

use anyhow::Result;
use cps_peering_tests::{Lab, Topology, stream::Stream};
use std::{thread, time::Duration};

fn two_regions() -> Topology {
    Topology::new()
        .host("h1", "cn-north-1", "192.0.2.1")
        .host("h2", "cn-north-1", "192.0.2.2")
        .host("h3", "cn-east-1", "192.0.2.3")
        .vpc("vpc-a", "cn-north-1", &["10.1.0.0/16", "fd00:1::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-a", "h1", "eth2", &["10.1.1.1/24", "fd00:1:0:1::1/64"])
}

/// Makes a host an ordinary router between its ports, like a tenant network without the product.
fn route_between_ports(lab: &Lab) -> Result<()> {
    let host = lab.host("h1").netns();
    host.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    host.ip_batch(&[
        "link set eth1 up".into(),
        "link set eth2 up".into(),
        "addr add 10.1.0.1/24 dev eth1".into(),
        "addr add fd00:1::1/64 dev eth1 nodad".into(),
        "addr add 10.1.1.1/24 dev eth2".into(),
        "addr add fd00:1:0:1::1/64 dev eth2 nodad".into(),
    ])
}

#[test]
fn hosts_of_a_region_are_neighbours_and_other_regions_a_hop_away() -> Result<()> {
    let lab = Lab::builder(two_regions()).build()?;
    let same = lab.exec("h1", "ping -n -c 1 -W 2 192.0.2.2")?.ok()?;
    assert!(same.contains("ttl=64"), "{same}");
    let other = lab.exec("h1", "ping -n -c 1 -W 2 192.0.2.3")?.ok()?;
    assert!(other.contains("ttl=63"), "{other}");
    assert!(lab.exec("ctl", "ping -n -c 1 -W 2 192.0.2.3")?.status.success());
    lab.cut("h3")?;
    assert!(!lab.exec("ctl", "ping -n -c 1 -W 2 192.0.2.3")?.status.success());
    assert!(lab.exec("h1", "ping -n -c 1 -W 2 192.0.2.3")?.status.success());
    lab.mend("h3")?;
    assert!(lab.exec("ctl", "ping -n -c 1 -W 2 192.0.2.3")?.status.success());
    Ok(())
}

#[test]
fn an_ipv6_underlay_works_the_same() -> Result<()> {
    let topology = Topology::new()
        .host("h1", "cn-north-1", "2001:db8::1")
        .host("h2", "cn-north-1", "2001:db8::2")
        .host("h3", "cn-east-1", "2001:db8::3");
    let lab = Lab::builder(topology).build()?;
    for host in ["2001:db8::2", "2001:db8::3"] {
        lab.exec("h1", &format!("ping -n -c 1 -W 2 {host}"))?.ok()?;
        lab.exec("ctl", &format!("ping -n -c 1 -W 2 {host}"))?.ok()?;
    }
    Ok(())
}

#[test]
fn a_stream_of_1_khz_is_one_and_is_whole() -> Result<()> {
    let lab = Lab::builder(two_regions()).build()?;
    route_between_ports(&lab)?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"));
    assert!(a.reaches(b.ipv4()?)?);
    for address in [b.ipv4()?, b.ipv6()?] {
        let heard = b.heard()?;
        let stream = Stream::start(a, b, address, 1000)?;
        thread::sleep(Duration::from_secs(2));
        let record = stream.stop()?;
        assert!((990.0..1010.0).contains(&record.rate()), "{} a second", record.rate());
        assert_eq!(record.lost(), 0, "of {}", record.sent);
        assert_eq!(b.heard()?.datagrams - heard.datagrams, record.sent);
    }
    Ok(())
}

#[test]
fn a_snapshot_sees_what_somebody_changes_and_that_it_is_undone() -> Result<()> {
    let lab = Lab::builder(two_regions()).build()?;
    let host = lab.host("h1");
    let before = host.snapshot()?.without_documented_leftovers();
    for (doing, undoing, name) in [
        ("route add unreachable 10.9.0.0/16 table 77", "route del unreachable 10.9.0.0/16 table 77", "10.9.0.0/16"),
        ("link add cpsvrf9 type vrf table 9", "link del cpsvrf9", "cpsvrf9"),
        ("rule add pref 7 from all lookup 7", "rule del pref 7", "priority 7"),
        ("link set eth1 mtu 1400", "link set eth1 mtu 1500", "mtu: 1500 now 1400"),
        ("nexthop add id 5 blackhole", "nexthop del id 5", "nexthop id 5"),
        ("neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth1", "neigh del 10.0.0.9 dev eth1", "10.0.0.9"),
    ] {
        host.netns().ip(doing)?;
        let difference = host.snapshot()?.without_documented_leftovers().since(&before);
        assert!(difference.to_string().contains(name), "{doing}: {difference}");
        host.netns().ip(undoing)?;
        let difference = host.snapshot()?.without_documented_leftovers().since(&before);
        assert!(difference.is_empty(), "{undoing}: {difference}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_of_a_lab() -> Result<()> {
    let lab = Lab::builder(two_regions()).build()?;
    let (name, dir) = (lab.name().to_owned(), lab.dir().to_owned());
    lab.stop();
    assert!(!dir.exists());
    let left: Vec<_> = std::fs::read_dir("/run/netns")?.filter_map(Result::ok).collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&name)), "{left:?}");
    Ok(())
}
