//! Frames that a hostile tenant forges: none reaches what an honest one could not reach (C6, C7), and none affects
//! others (C10), whatever the host's other settings are.

use crate::{NORTH, reach_each_other, two_hosts};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{
    Lab, Server, Topology,
    frames::{self, IPV4, IPV6, UDP, ethernet, ethertype, icmp, icmp_message, ip, tagged, udp, vxlan},
    lab::{NIC, PATIENCE},
    netns::Netns,
    wait,
};
use std::net::IpAddr;

/// A on h1, its peer B on both hosts, and C on h1, whose peer B is, too.
fn three() -> Topology {
    two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h1", "eth2", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.1.1/24", "fd00:2:0:1::1/64"])
        .port("vpc-c", "h1", "eth3", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-a", "vpc-b")
        .peering("vpc-b", "vpc-c")
}

/// Settings that open a host whose filters depend on them.
const LOOSE: [&str; 3] =
    ["net.ipv4.conf.all.rp_filter=2", "net.ipv4.udp_l3mdev_accept=1", "net.ipv4.conf.all.accept_redirects=1"];

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("a test writes its addresses well")
}

/// The Ethernet address of a device.
pub(crate) fn mac(netns: &Netns, device: &str) -> Result<[u8; 6]> {
    let links: serde_json::Value = serde_json::from_str(&netns.ip(&format!("-j link show {device}"))?)?;
    let text = links[0]["address"].as_str().context("no address")?;
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("an Ethernet address has six bytes")
}

fn taken_so_far(server: &Server) -> Result<u64> {
    let heard = server.heard()?;
    Ok(heard.echo_requests + heard.datagrams)
}

/// Sends frames from a server, and then an honest one to each of the others. Returns how many of the former these received.
fn taken(lab: &Lab, from: &Server, others: &[&Server], frames: &[Vec<u8>]) -> Result<u64> {
    let gateway = mac(lab.host(from.host.as_str()).netns(), &from.interface.as_str())?;
    let sum = || others.iter().map(|server| taken_so_far(server)).sum::<Result<u64>>();
    let before = sum()?;
    frames::send(from.netns(), NIC, frames)?;
    for (count, other) in (1..).zip(others) {
        let honest = udp(from.ipv4()?, other.ipv4()?, 9, b"honest");
        let at = taken_so_far(other)?;
        frames::send(from.netns(), NIC, &[ethernet(gateway, IPV4, &honest)])?;
        wait::until(&format!("honest datagram {count}"), PATIENCE, || Ok((taken_so_far(other)? > at).then_some(())))?;
    }
    Ok(sum()? - before - others.len() as u64)
}

#[test]
fn forged_sources_get_through_in_no_form() -> Result<()> {
    let lab = Lab::in_sync(three())?;
    let (a, b, far, c) =
        (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"), lab.server("h1", "eth3"));
    reach_each_other(a, b)?;
    reach_each_other(a, far)?;
    reach_each_other(b, c)?;
    let host = lab.host("h1").netns();
    host.sysctl(&LOOSE)?;
    lab.host("h2").netns().sysctl(&LOOSE)?;
    let gateway = mac(host, "eth1")?;
    let mut packets = Vec::new();
    for to in [b, far] {
        // Outside everything, elsewhere in the own VPC, in the peer's own prefix, another peer of the peer.
        for source in ["203.0.113.9", "10.1.77.9", "10.2.0.77", "10.2.1.77", "10.3.0.2"] {
            packets.push(udp(address(source), to.ipv4()?, 7, b"forged"));
        }
        for source in ["2001:db8:99::9", "fd00:1:0:77::9", "fd00:2::77", "fd00:2:0:1::77", "fd00:3::2", "::", "::1"] {
            packets.push(udp(address(source), to.ipv6()?, 7, b"forged"));
        }
    }
    let tpids = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];
    let mut sent = Vec::new();
    for packet in &packets {
        let kind = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        sent.push(ethernet(gateway, kind, packet));
        for first in tpids {
            // Priority tags, with and without a priority, and one of a VLAN.
            for tag in [0, 0xe000, 7] {
                sent.push(tagged(gateway, &[(first, tag)], kind, packet));
            }
            sent.extend(tpids.map(|second| tagged(gateway, &[(first, 0), (second, 0)], kind, packet)));
        }
        sent.push(tagged(gateway, &[(0x8100, 0); 3], kind, packet));
        // 802.2 with SNAP, PPPoE, MPLS; IP within IP for the gateway.
        let snap = [&[0xaa, 0xaa, 3, 0, 0, 0], &kind.to_be_bytes()[..], packet].concat();
        sent.push(ethernet(gateway, u16::try_from(snap.len())?, &snap));
        let ppp = if kind == IPV4 { [0, 0x21] } else { [0, 0x57] };
        let length = u16::try_from(packet.len() + 2)?.to_be_bytes();
        sent.push(ethernet(gateway, 0x8864, &[&[0x11, 0, 0, 1][..], &length, &ppp, packet.as_slice()].concat()));
        sent.push(ethernet(gateway, 0x8847, &[&[0, 0x06, 0x41, 64], packet.as_slice()].concat()));
        sent.push(ethernet(gateway, if kind == IPV4 { IPV6 } else { IPV4 }, packet));
    }
    assert_eq!(taken(&lab, a, &[b, far], &sent)?, 0, "forged packets came through");
    // Tags that the interface inserts, as the kernel keeps them beside the frame.
    a.netns().ip_batch(&["link add link eth0 name tags type vlan id 0".into(), "link set tags up".into()])?;
    let untagged: Vec<_> =
        packets.iter().map(|packet| ethernet(gateway, if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }, packet)).collect();
    frames::send(a.netns(), "tags", &untagged)?;
    assert_eq!(taken(&lab, a, &[b, far], &[])?, 0, "forged packets came through with tags beside them");
    assert!(lab.host("h1").report()?.in_sync());
    reach_each_other(a, b)
}

/// An IPv4 packet with options, whose length is a multiple of four bytes.
fn with_options(packet: &[u8], options: &[u8]) -> Result<Vec<u8>> {
    let mut with = [&packet[..20], options, &packet[20..]].concat();
    with[0] = 0x45 + u8::try_from(options.len() / 4)?;
    let length = u16::try_from(with.len())?;
    with[2..4].copy_from_slice(&length.to_be_bytes());
    with[10..12].fill(0);
    let sum = frames::checksum(&[&with[..20 + options.len()]]);
    with[10..12].copy_from_slice(&sum.to_be_bytes());
    Ok(with)
}

/// C6: a source-routed packet reaches nothing that its sender could not reach, though the host's routers
/// would forward it.
#[test]
fn no_packet_takes_a_way_of_its_own() -> Result<()> {
    let lab = Lab::in_sync(three().port("vpc-c", "h2", "eth2", &["10.3.1.1/24", "fd00:3:0:1::1/64"]))?;
    let (a, b, far) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    let others = [lab.server("h1", "eth3"), lab.server("h2", "eth2")];
    reach_each_other(a, b)?;
    reach_each_other(a, far)?;
    for c in others {
        reach_each_other(b, c)?;
    }
    // All hosts accept source routes. A packet that enters a VRF from another one is forwarded only with `ip_forward`.
    let hosts = ["h1", "h2"].map(|host| lab.host(host).netns());
    for netns in hosts.into_iter().chain(others.map(Server::netns)) {
        let files = "ipv4/conf/*/accept_source_route ipv6/conf/*/seg6_enabled ipv6/conf/*/rpl_seg_enabled";
        netns.sh(&format!("cd /proc/sys/net; for file in {files}; do echo 1 > $file; done"))?;
    }
    for host in hosts {
        host.sysctl(&["net.ipv4.ip_forward=1"])?;
    }
    let gateway = mac(lab.host("h1").netns(), "eth1")?;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (own4, own6) = (a.ipv4()?, a.ipv6()?);
    let mut sent = Vec::new();
    for c in others {
        for router in ["10.1.0.1", "10.2.0.1", "10.2.1.1"].map(address) {
            let packet = ip(own4, router, UDP, &udp(own4, c.ipv4()?, 7, b"by a way")[20..]);
            // Loose and strict, with and without something before them.
            for kind in [131, 137] {
                let way = [&[kind, 7, 4][..], &octets(c.ipv4()?)].concat();
                for options in [[way.as_slice(), &[0]].concat(), [&[1], way.as_slice()].concat()] {
                    sent.push(ethernet(gateway, IPV4, &with_options(&packet, &options)?));
                }
            }
        }
        for router in ["fd00:1::1", "fd00:2::1", "fd00:2:0:1::1"].map(address) {
            let datagram = &udp(own6, c.ipv6()?, 7, b"by a way")[40..];
            let (to, by) = (octets(c.ipv6()?), octets(router));
            // RFC 8754, RFC 6554, and the one that kernels no longer accept (RFC 5095).
            let segments = [&[UDP, 4, 4, 1, 1, 0, 0, 0], to.as_slice(), &by, datagram].concat();
            let short = [3, 0].map(|kind| [&[UDP, 2, kind, 1, 0, 0, 0, 0], to.as_slice(), datagram].concat());
            for header in [segments].into_iter().chain(short) {
                sent.push(ethernet(gateway, IPV6, &ip(own6, router, 43, &header)));
                let within = [&[43, 0, 1, 4, 0, 0, 0, 0], header.as_slice()].concat();
                sent.push(ethernet(gateway, IPV6, &ip(own6, router, 60, &within)));
                let fragment = [&[43, 0, 0, 0, 0, 0, 0, 9], header.as_slice()].concat();
                sent.push(ethernet(gateway, IPV6, &ip(own6, router, 44, &fragment)));
            }
        }
    }
    let heard = || others.into_iter().map(taken_so_far).sum::<Result<u64>>();
    let quiet = heard()?;
    assert_eq!(taken(&lab, a, &[b, far], &sent)?, 0);
    assert_eq!(heard()?, quiet, "C heard of A");
    // Options that change no route are the tenants' own: record route.
    let record = with_options(&udp(own4, b.ipv4()?, 7, b"recorded"), &[7, 7, 4, 0, 0, 0, 0, 0])?;
    assert_eq!(taken(&lab, a, &[b], &[ethernet(gateway, IPV4, &record)])?, 1);
    assert!(lab.host("h1").report()?.in_sync());
    Ok(())
}

/// The tunnels that take what no other tunnel takes.
const TAKING_ALL: [&str; 4] = ["tunl0", "sit0", "gre0", "ip6tnl0"];

#[test]
fn tunnels_of_the_host_take_nothing_from_tenants() -> Result<()> {
    let lab = Lab::in_sync(three())?;
    let (a, b, c) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h1", "eth3"));
    let host = lab.host("h1").netns();
    host.sysctl(&LOOSE)?;
    // With the first tunnel of its kind, the kernel creates one that accepts everything; it may exist already.
    for kind in ["ipip", "sit", "gre", "ip6tnl"] {
        host.exec(&format!("ip link add first type {kind}"))?;
    }
    for tunnel in TAKING_ALL {
        host.ip(&format!("link set {tunnel} up"))?;
    }
    reach_each_other(a, b)?;
    reach_each_other(b, c)?;
    let gateway = mac(host, "eth1")?;
    let (own4, own6) = (a.ipv4()?, a.ipv6()?);
    let inner4 = udp(address("10.2.0.77"), c.ipv4()?, 7, b"inner");
    let inner6 = udp(address("fd00:2::77"), c.ipv6()?, 7, b"inner");
    let gre = |kind: u16, inner: &[u8]| [&[0, 0], &kind.to_be_bytes()[..], inner].concat();
    let mut packets = Vec::new();
    for to in ["10.1.0.1", "10.1.0.255", "255.255.255.255", "192.0.2.1"].map(address) {
        packets.push(ip(own4, to, 4, &inner4));
        packets.push(ip(own4, to, 41, &inner6));
        packets.extend([(IPV4, &inner4), (IPV6, &inner6)].map(|(kind, inner)| ip(own4, to, 47, &gre(kind, inner))));
    }
    let options = |next: u8, rest: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0], rest].concat();
    for to in ["fd00:1::1", "fd00:1::", "ff02::1"].map(address) {
        packets.push(ip(own6, to, 4, &inner4));
        packets.push(ip(own6, to, 41, &inner6));
        packets.push(ip(own6, to, 60, &options(41, &inner6)));
        packets.push(ip(own6, to, 0, &options(60, &options(4, &inner4))));
    }
    // Into the device of B's side by which C's packets arrive: everything is right but the source.
    let vnis = lab.ledger("h1")?["sides"].as_object().context("no sides")?.keys().cloned().collect::<Vec<_>>();
    for vni in &vnis {
        let device = format!("cpspeer{vni}");
        let within =
            [(&inner4, IPV4), (&inner6, IPV6)].map(|(inner, kind)| Ok(ethernet(mac(host, &device)?, kind, inner)));
        for frame in within {
            let frame: Vec<u8> = frame.map_err(|error: anyhow::Error| error)?;
            for (from, to) in [(own4, "10.1.0.1"), (own4, "192.0.2.1"), (own4, "10.1.0.255"), (own6, "fd00:1::1")] {
                packets.push(vxlan(from, address(to), vni.parse()?, &frame));
            }
        }
    }
    let sent: Vec<_> =
        packets.iter().map(|packet| ethernet(gateway, if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }, packet)).collect();
    ensure!(!vnis.is_empty());
    let quiet = taken_so_far(c)?;
    assert_eq!(taken(&lab, a, &[b], &sent)?, 0);
    assert_eq!(taken_so_far(c)?, quiet, "C heard of A");
    let links: serde_json::Value = serde_json::from_str(&host.ip("-j -s link show")?)?;
    for link in links.as_array().context("links")? {
        let name = link["ifname"].as_str().unwrap_or_default();
        if TAKING_ALL.contains(&name) || name.starts_with("cpspeer") {
            let rx = &link["stats64"]["rx"];
            assert_eq!(rx["packets"].as_u64(), Some(0), "{name} {rx}");
        }
    }
    // What tenants encapsulate among themselves passes.
    let (from, to) = (a.ipv4()?, b.ipv4()?);
    let theirs: Vec<_> = [vxlan(from, to, 7, &[0; 64])].iter().map(|packet| ethernet(gateway, IPV4, packet)).collect();
    assert_eq!(taken(&lab, a, &[b], &theirs)?, 1);
    Ok(())
}

/// Type, code and what follows the checksum (RFC 792): fragmentation needed, all kinds of redirects, source quench, time exceeded,
/// parameter problem, other reasons for being unreachable.
const ERRORS4: [(u8, u8, [u8; 4]); 11] = [
    (3, 4, [0, 0, 2, 40]),
    (5, 1, [10, 1, 0, 2]),
    (3, 4, [0, 0, 0, 0]),
    (3, 1, [0; 4]),
    (3, 2, [0; 4]),
    (4, 0, [0; 4]),
    (5, 0, [10, 1, 0, 2]),
    (5, 2, [10, 1, 0, 2]),
    (5, 3, [10, 1, 0, 2]),
    (11, 0, [0; 4]),
    (12, 0, [20, 0, 0, 0]),
];

/// The same of `ICMPv6`: packet too big (with less than IPv6 takes, too), unreachable, time exceeded, parameter problem.
const ERRORS6: [(u8, u8, u32); 6] = [(2, 0, 1280), (2, 0, 576), (1, 0, 0), (1, 4, 0), (3, 0, 0), (4, 1, 40)];

#[test]
fn errors_of_tenants_change_no_path_of_the_host() -> Result<()> {
    // A VPC may have addresses of the underlay.
    let topology = three().vpc("vpc-d", NORTH, &["192.0.2.0/24", "2001:db8::/64"]).port(
        "vpc-d",
        "h1",
        "eth4",
        &["192.0.2.254/24", "2001:db8::ff/64"],
    );
    let lab = Lab::in_sync(topology)?;
    let paths = || -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for host in ["h1", "h2"] {
            for to in ["192.0.2.1", "192.0.2.2", "192.0.2.77", "2001:db8::2", "2001:db8::77"] {
                paths.push(lab.host(host).netns().ip(&format!("route get {to}"))?);
            }
        }
        Ok(paths)
    };
    for host in ["h1", "h2"] {
        lab.host(host).netns().sysctl(&LOOSE)?;
        lab.host(host).netns().ip("-6 route add 2001:db8::/64 dev uplink")?;
    }
    let (a, b, far) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    reach_each_other(a, far)?;
    let before = paths()?;
    let targets4 = ["192.0.2.1", "192.0.2.2", "192.0.2.77"].map(address);
    let targets6 = ["2001:db8::2", "2001:db8::77"].map(address);
    let linklocal = mac(lab.host("h1").netns(), "eth1")?;
    let [first, second, third, rest @ ..] = linklocal;
    let linklocal =
        IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, first ^ 2, second, third, 0xff, 0xfe, rest[0], rest[1], rest[2]]);
    for (server, gateways4, gateways6) in [
        (
            a,
            vec!["10.1.0.1", "10.1.0.255", "10.2.1.1", "10.2.0.1"],
            vec!["fd00:1::1", "fd00:1::", "ff02::1", "fd00:2:0:1::1"],
        ),
        (lab.server("h1", "eth4"), vec!["192.0.2.254"], vec!["2001:db8::ff", "2001:db8::", "ff02::2"]),
    ] {
        let mut packets = Vec::new();
        let own4 = server.ipv4()?;
        for to in gateways4.into_iter().map(address) {
            for about in targets4 {
                for from in [address("0.0.0.0"), to, address("192.0.2.1")] {
                    // As if sent by sockets, tunnels, and pings that were answered.
                    for (protocol, body) in [
                        (1, [0; 8]),
                        (1, [8, 0, 0, 0, 0, 0, 0, 0]),
                        (UDP, [0x12, 0xb5, 0x12, 0xb5, 0, 8, 0, 0]),
                        (4, [0; 8]),
                        (47, [0; 8]),
                        (50, [0; 8]),
                    ] {
                        let quoted = ip(from, about, protocol, &body);
                        // What the kernel does with rarer kinds depends only on what they quote.
                        let kinds = if protocol == UDP { &ERRORS4[..] } else { &ERRORS4[..2] };
                        for (kind, code, field) in kinds.iter().copied() {
                            packets.push(icmp(own4, to, kind, code, &[&field, quoted.as_slice()].concat()));
                        }
                    }
                }
            }
        }
        let own6 = server.ipv6()?;
        for to in gateways6.into_iter().map(address).chain([linklocal]) {
            for about in targets6 {
                for from in [address("::"), to] {
                    for (next, body) in
                        [(58, [129, 0, 0, 0, 0, 0, 0, 0]), (UDP, [0x12, 0xb5, 0x12, 0xb5, 0, 8, 0, 0]), (41, [0; 8])]
                    {
                        let quoted = ip(from, about, next, &body);
                        for (kind, code, field) in ERRORS6 {
                            let rest = [&field.to_be_bytes(), quoted.as_slice()].concat();
                            let message = icmp_message(own6, to, kind, code, &rest);
                            packets.push(ip(own6, to, 58, &message));
                            packets.push(ip(own6, to, 60, &[&[58, 0, 1, 4, 0, 0, 0, 0], message.as_slice()].concat()));
                            packets.push(ip(own6, to, 44, &[&[58, 0, 0, 0, 0, 0, 0, 9], message.as_slice()].concat()));
                        }
                        // A redirect (RFC 4861 section 4.5): to the server itself, about the target.
                        let (IpAddr::V6(better), IpAddr::V6(target)) = (own6, about) else { continue };
                        for source in [own6, address("fe80::ff:fe00:77")] {
                            let rest =
                                [&[0; 4], &better.octets()[..], &target.octets(), &[4, 6, 0, 0, 0, 0, 0, 0], &quoted];
                            packets.push(icmp(source, to, 137, 0, &rest.concat()));
                        }
                    }
                }
            }
        }
        let gateway = mac(lab.host("h1").netns(), &server.interface.as_str())?;
        let frames: Vec<_> = packets
            .iter()
            .map(|packet| ethernet(gateway, if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }, packet))
            .collect();
        frames::send(server.netns(), NIC, &frames)?;
    }
    // The frames after them took the same paths.
    reach_each_other(a, b)?;
    reach_each_other(a, far)?;
    let now = paths()?;
    assert_eq!(before.join(""), now.join(""));
    Ok(())
}

#[test]
fn honest_traffic_goes_on() -> Result<()> {
    let lab = Lab::in_sync(three())?;
    let (a, b, far) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    let host = lab.host("h1").netns();
    for server in [a, b] {
        // Neighbours are resolved anew, addresses are checked for duplicates, groups are joined.
        server.netns().sysctl(&["net.ipv6.conf.eth0.accept_dad=1", "net.ipv6.conf.eth0.dad_transmits=1"])?;
        server.netns().ip("neigh flush dev eth0")?;
        host.ip(&format!("neigh flush dev {}", server.interface))?;
    }
    a.netns().ip("addr add fd00:1::77/64 dev eth0")?;
    wait::until("the address to be nobody else's", PATIENCE, || {
        Ok((!a.netns().ip("-6 addr show dev eth0 tentative")?.contains("fd00:1::77")).then_some(()))
    })?;
    reach_each_other(a, b)?;
    reach_each_other(a, far)?;
    let groups = host.ip("maddr show dev eth1")?;
    assert!(groups.contains("ff02::2"), "{groups}");
    // In fragments, to peers and to the gateway.
    for to in [b.ipv4()?, b.ipv6()?, far.ipv4()?, far.ipv6()?, address("10.1.0.1"), address("fd00:1::1")] {
        // The first one may announce the path MTU.
        wait::until("a long ping", PATIENCE, || {
            let ping = a.ping_with(to, &["-s", "4000"])?;
            ensure!(ping.answered, "{} {}", ping.line, ping.output);
            Ok(Some(()))
        })?;
    }
    let ping = a.ping_with(address("fd00:2::2"), &["-I", "fd00:1::77"])?;
    assert!(ping.answered, "{} {}", ping.line, ping.output);
    // Errors that are about something: a closed port.
    for to in [b.ipv4()?, far.ipv6()?] {
        let said = a.netns().command("python3").args(["-c", CLOSED_PORT, &to.to_string()]).output()?;
        assert!(said.status.success(), "{to}: {}", String::from_utf8_lossy(&said.stderr));
    }
    // Longer frames than usual.
    for (server, port) in [(a, "eth1"), (b, "eth2")] {
        server.netns().ip("link set eth0 mtu 9000")?;
        host.ip(&format!("link set {port} mtu 9000"))?;
    }
    for to in [b.ipv4()?, b.ipv6()?] {
        let ping = a.ping_with(to, &["-s", "8900", "-M", "do"])?;
        assert!(ping.answered, "{} {}", ping.line, ping.output);
    }
    Ok(())
}

/// Sends to a port without a listener, and receives the error.
const CLOSED_PORT: &str = "import socket, sys
to = sys.argv[1]
s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((to, 9))
s.send(b'?')
try: s.recv(9)
except ConnectionRefusedError: sys.exit(0)
sys.exit('no error came')";

#[test]
fn vlans_are_ports_of_their_own() -> Result<()> {
    let mut lab = Lab::builder(three()).build()?;
    // The link of A's port also carries C's, which is a VLAN on top of it.
    let host = lab.host("h1").netns();
    host.ip("link del eth3")?;
    host.ip("link add link eth1 name eth3 type vlan id 7")?;
    let (a, c) = (lab.server("h1", "eth1"), lab.server("h1", "eth3"));
    let inside = a.netns().name().to_owned();
    a.netns().ip_batch(&[
        "link add link eth0 name vlan7 type vlan id 7".into(),
        format!("link set vlan7 netns {}", c.netns().name()),
    ])?;
    c.netns().ip_batch(&[
        "link set vlan7 name eth0 up".into(),
        "addr add 10.3.0.2/24 dev eth0".into(),
        "addr add fd00:3::2/64 dev eth0 nodad".into(),
        "route add default via 10.3.0.1 dev eth0 onlink".into(),
        "route add default via fd00:3::1 dev eth0 onlink".into(),
    ])?;
    ensure!(!inside.is_empty());
    lab.start_controller()?;
    for host in ["h1", "h2"] {
        lab.start_agent(host)?;
    }
    lab.wait_for_daemons()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let (a, b, far, c) =
        (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"), lab.server("h1", "eth3"));
    reach_each_other(a, b)?;
    reach_each_other(c, b)?;
    reach_each_other(c, far)?;
    // Forged as before on both, and with a second tag; a VLAN without a device belongs to nobody.
    let host = lab.host("h1").netns();
    host.sysctl(&LOOSE)?;
    let mut sent = Vec::new();
    for (source, to) in
        [("10.1.0.2", b.ipv4()?), ("fd00:1::2", b.ipv6()?), ("10.2.0.77", b.ipv4()?), ("fd00:2::77", b.ipv6()?)]
    {
        let packet = udp(address(source), to, 7, b"forged");
        let kind = ethertype(to);
        let gateway = mac(host, "eth1")?;
        for tags in [
            &[(0x8100, 7)][..],
            &[(0x8100, 7), (0x8100, 0)],
            &[(0x8100, 0), (0x8100, 7)],
            &[(0x8100, 8)],
            &[(0x88a8, 7)],
        ] {
            sent.push(tagged(gateway, tags, kind, &packet));
        }
    }
    assert_eq!(taken(&lab, a, &[b], &sent)?, 0);
    assert!(lab.host("h1").report()?.in_sync());
    Ok(())
}
