//! Full-sized packets pass between hosts although encapsulation takes room of the underlay's MTU.

use crate::{NORTH, a_and_b, reach_each_other, two_hosts};
use anyhow::{Context, Result, anyhow, ensure};
use cps_peering_config::report::Problem;
use cps_peering_tests::{Lab, Server, Topology, lab::PATIENCE, wait};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// How much TCP carries.
const BYTES: usize = 20 << 20;

/// How long TCP may stall.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn large_pings_pass() -> Result<()> {
    let lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    // 1450 bytes fit through the underlay's 1500: 20 or 40 of IP header, 8 of ICMP.
    ensure!(a.ping_with(b.ipv4()?, &["-M", "do", "-s", "1422"])?.answered);
    ensure!(a.ping_with(b.ipv6()?, &["-M", "do", "-s", "1402"])?.answered);
    // A byte more does not, and the sender learns the MTU.
    let ping = a.ping_with(b.ipv4()?, &["-M", "do", "-s", "1423"])?;
    ensure!(!ping.answered && ping.output.contains("mtu = 1450"), "{}", ping.output);
    // By default the sender makes it pass. The first packet may be the one that announces the MTU.
    for address in [b.ipv4()?, b.ipv6()?] {
        for size in ["1472", "4000"] {
            let ping = a.ping_with(address, &["-M", "want", "-c", "3", "-i", "0.2", "-s", size])?;
            ensure!(ping.output.contains("bytes from"), "{}: {}", ping.line, ping.output);
        }
    }
    Ok(())
}

#[test]
fn tcp_runs_at_full_size_without_fragments_on_the_underlay() -> Result<()> {
    let lab = Lab::in_sync(a_and_b().peering("vpc-a", "vpc-b"))?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    for address in [b.ipv4()?, b.ipv6()?] {
        tcp(a, b, address, BYTES)?;
        tcp(b, a, if address.is_ipv4() { a.ipv4()? } else { a.ipv6()? }, BYTES)?;
    }
    for host in ["h1", "h2"] {
        let snmp = lab.exec(host, "cat /proc/net/snmp /proc/net/snmp6")?.ok()?;
        ensure!(counter(&snmp, "FragCreates")? == 0, "{host} has sent fragments");
    }
    Ok(())
}

#[test]
fn a_larger_underlay_lets_longer_frames_pass_where_both_ends_have_it() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::builder(topology).underlay_mtu(9000).start()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    ensure!(a.ping_with(b.ipv4()?, &["-M", "do", "-s", "1472"])?.answered);
    ensure!(a.ping_with(b.ipv6()?, &["-M", "do", "-s", "1452"])?.answered);
    for (server, host) in [(a, "h1"), (b, "h2")] {
        lab.host(host).netns().ip("link set eth1 mtu 9000")?;
        server.netns().ip("link set eth0 mtu 9000")?;
    }
    // The other end has a smaller MTU. A sender of more is told, rather than its packets being lost.
    ensure!(a.ping_with(b.ipv4()?, &["-M", "do", "-s", "8000"])?.answered);
    lab.host("h2").netns().ip("link set uplink mtu 1500")?;
    wait::until("the path's MTU is told", PATIENCE, || {
        for (address, size) in [(b.ipv4()?, "1423"), (b.ipv6()?, "1403")] {
            let ping = a.ping_with(address, &["-M", "do", "-s", size])?;
            ensure!(!ping.answered && ping.output.contains("1450"), "{}", ping.output);
        }
        Ok(Some(()))
    })?;
    ensure!(a.ping_with(b.ipv4()?, &["-M", "do", "-s", "1422"])?.answered);
    for address in [b.ipv4()?, b.ipv6()?] {
        tcp(a, b, address, BYTES / 20)?;
    }
    lab.wait_in_sync()?;
    let hosts = lab.controller().cli(&["host", "list"])?.ok()?;
    ensure!(hosts.contains("underlay MTU 1500, 9000 on other hosts"), "{hosts}");
    // And a larger MTU is used when it fits again.
    lab.host("h2").netns().ip("link set uplink mtu 9000")?;
    wait::until("long packets pass", PATIENCE, || {
        // What the server has learned is its own.
        a.netns().ip("route flush cache")?;
        Ok(a.ping_with(b.ipv4()?, &["-M", "do", "-s", "8000"])?.answered.then_some(()))
    })
}

/// Ports have MTUs of their own, which no route contains: if a packet is too long for the port at the end, on the same host or on another one,
/// in a peering or within a VPC, the sender is told.
#[test]
fn what_is_too_long_for_the_port_at_the_end_is_told_to_the_sender() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-a", "h1", "eth2", &["10.1.1.1/24", "fd00:1:0:1::1/64"])
        .port("vpc-b", "h1", "eth3", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.1.1/24", "fd00:2:0:1::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::builder(topology).underlay_mtu(9000).start()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let a = lab.server("h1", "eth1");
    lab.host("h1").netns().ip("link set eth1 mtu 9000")?;
    a.netns().ip("link set eth0 mtu 9000")?;
    let others = [("h1", "eth2"), ("h1", "eth3"), ("h2", "eth1")];
    for (host, port) in others {
        let other = lab.server(host, port);
        for address in [other.ipv4()?, other.ipv6()?] {
            let from = || format!("{address} on {host} {port}");
            wait::until(&format!("{} is reached", from()), PATIENCE, || Ok(a.ping(address)?.answered.then_some(())))?;
            // What the server has learned is its own.
            a.netns().ip("route flush cache")?;
            a.netns().ip("-6 route flush cache")?;
            let ping = a.ping_with(address, &["-M", "do", "-s", "4000"])?;
            ensure!(!ping.answered && ping.output.contains("1500"), "{}: {}", from(), ping.output);
            tcp(a, other, address, BYTES / 20).with_context(from)?;
        }
    }
    Ok(())
}

#[test]
fn an_underlay_that_is_too_small_for_ipv6_carries_both_families_in_fragments() -> Result<()> {
    let lab = Lab::builder(a_and_b()).underlay_mtu(1300).start()?;
    lab.apply()?;
    lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    for address in [b.ipv4()?, b.ipv6()?] {
        // Up to what every IPv6 network accepts; of more, the sender is told.
        let header = if address.is_ipv4() { 28 } else { 48 };
        let whole = (1280 - header).to_string();
        ensure!(a.ping_with(address, &["-M", "do", "-s", &whole])?.answered, "{whole} to {address}");
        wait::until("the path's MTU is told", PATIENCE, || {
            let ping = a.ping_with(address, &["-M", "do", "-s", "1400"])?;
            ensure!(!ping.answered && ping.output.contains("1280"), "{}", ping.output);
            Ok(Some(()))
        })?;
        tcp(a, b, address, BYTES / 20)?;
    }
    let hosts = lab.controller().cli(&["host", "list"])?.ok()?;
    ensure!(hosts.matches("underlay MTU 1300, less than 1330").count() == 2, "{hosts}");
    Ok(())
}

/// An IPv6 underlay does not fragment packets, and IPv6 within needs 1280 bytes at least.
#[test]
fn an_ipv6_underlay_that_is_too_small_is_told_and_carries_what_fits() -> Result<()> {
    let topology = Topology::new()
        .host("h1", NORTH, "2001:db8::1")
        .host("h2", NORTH, "2001:db8::2")
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
        .peering("vpc-a", "vpc-b");
    let lab = Lab::builder(topology).underlay_mtu(1300).start()?;
    lab.apply()?;
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    for host in ["h1", "h2"] {
        wait::until("the MTU is told", PATIENCE, || {
            let report = lab.host(host).report()?;
            let told = |problem: &Problem| {
                problem.object == "underlay MTU 1300"
                    && problem.reason.contains("of more than 1230 bytes between hosts are lost")
                    && problem.reason.contains("give the underlay an MTU of 1350 or more")
            };
            ensure!(report.problems.len() == 1 && told(&report.problems[0]), "{report:?}");
            Ok(Some(()))
        })?;
    }
    wait::until("`host list` says so", PATIENCE, || {
        let hosts = lab.controller().cli(&["host", "list"])?.ok()?;
        ensure!(hosts.matches("of more than 1230 bytes between hosts are lost").count() == 2, "{hosts}");
        Ok(Some(()))
    })?;
    reach_each_other(a, b)?;
    for address in [b.ipv4()?, b.ipv6()?] {
        let header = if address.is_ipv4() { 28 } else { 48 };
        let ping = |bytes: u32| a.ping_with(address, &["-M", "do", "-s", &(bytes - header).to_string()]);
        ensure!(ping(1230)?.answered, "1230 bytes to {address}");
        let longer = ping(1231)?;
        ensure!(!longer.answered, "1231 bytes to {address}");
        // IPv4 is told the MTU. IPv6 need not heed it: RFC 8200 section 5 requires every link to carry more.
        ensure!(address.is_ipv6() || longer.output.contains("mtu = 1230"), "{}", longer.output);
    }
    let ping = a.ping_with(b.ipv4()?, &["-M", "dont", "-s", "3000"])?;
    ensure!(ping.answered, "{}: {}", ping.line, ping.output);
    tcp(a, b, b.ipv4()?, BYTES / 20)?;
    tcp(b, a, a.ipv4()?, BYTES / 20)
}

/// Sends this many bytes over TCP to an address of `to`; all of it must arrive.
pub(crate) fn tcp(from: &Server, to: &Server, address: IpAddr, bytes: usize) -> Result<()> {
    let listener = to.netns().within(|| Ok(TcpListener::bind(SocketAddr::new(address, 0))?))?;
    let target = listener.local_addr()?;
    let mut sender = from.netns().within(|| Ok(TcpStream::connect_timeout(&target, LIMIT)?))?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(LIMIT))?;
    receiver.set_read_timeout(Some(LIMIT))?;
    let sending = thread::spawn(move || sender.write_all(&vec![0x55; bytes]));
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    loop {
        let read = receiver.read(&mut buffer).with_context(|| format!("stuck after {received} bytes to {target}"))?;
        received += read;
        if read == 0 {
            break;
        }
    }
    sending.join().map_err(|_| anyhow!("the sender panicked"))??;
    ensure!(received == bytes, "only {received} bytes arrived at {target}");
    Ok(())
}

/// The sum of a counter of both families: in columns of `snmp`, one per line of `snmp6`.
fn counter(snmp: &str, name: &str) -> Result<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Ip:"));
    let column = lines.next().and_then(|head| head.split_whitespace().position(|word| word == name));
    let column = column.with_context(|| format!("no {name} in snmp"))?;
    let four = lines.next().and_then(|values| values.split_whitespace().nth(column)?.parse::<u64>().ok());
    let six = snmp.lines().find_map(|line| line.strip_prefix(&format!("Ip6{name}"))?.trim().parse::<u64>().ok());
    Ok(four.context("no value in snmp")? + six.with_context(|| format!("no Ip6{name}"))?)
}
