use super::{
    IngressPolicy, LocalAddresses, Program, REJECTED, Vlan,
    assembler::interpreter::{Packet, accepts, run},
    vlan_program,
};
use ipnet::IpNet;
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

mod limits;

const UNDERLAY: &str = "192.0.2.1";

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn local() -> Arc<LocalAddresses> {
    Arc::new(LocalAddresses::new(&nets(&["10.1.0.1/24", "fd00:1::1/64"]), UNDERLAY.parse().unwrap(), 4789))
}

/// Decides about frames at a device.
struct Device(Vec<Program>);

impl Device {
    fn port() -> Self {
        Self(IngressPolicy::of_port(&nets(&["10.1.0.0/24", "fd00:1::/64"]), local()).programs().to_vec())
    }

    fn tunnel() -> Self {
        Self(IngressPolicy::of_tunnel(&nets(&["10.2.0.0/16", "fd00:2::/48"]), local()).programs().to_vec())
    }

    fn takes(&self, frame: &[u8]) -> bool {
        let packet = Packet::received(frame.to_vec());
        self.0.iter().any(|program| accepts(program, &packet))
    }
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut inner = Vec::new();
    let mut types = tags.iter().map(|(tpid, _)| *tpid).skip(1).chain([ethertype]);
    for (_, tci) in tags {
        inner.extend(tci.to_be_bytes());
        inner.extend(types.next().unwrap().to_be_bytes());
    }
    inner.extend(payload);
    ethernet(tags[0].0, &inner)
}

/// An IPv4 packet; `fragment` is the field with flags and offset.
fn ipv4_fragment(source: &str, destination: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    for address in [source, destination] {
        packet.extend(address.parse::<Ipv4Addr>().unwrap().octets());
    }
    packet.extend(payload);
    packet
}

fn ipv4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(source, destination, protocol, 0, payload)
}

fn ipv6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    for address in [source, destination] {
        packet.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    packet.extend(payload);
    packet
}

fn udp(port: u16) -> Vec<u8> {
    let mut datagram = vec![0x30, 0x39];
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 24, 0, 0]);
    datagram.extend([0; 16]);
    datagram
}

fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 2, 40];
    message.extend(rest);
    message
}

fn options(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0, 1, 4, 0, 0, 0, 0];
    header.extend(rest);
    header
}

/// A fragment header with its offset and flag field.
fn fragment6(next: u8, offset: u16, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend(offset.to_be_bytes());
    header.extend([0, 0, 0, 9]);
    header.extend(rest);
    header
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ECHO: [u8; 16] = [8, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
const ECHO6: [u8; 16] = [128, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn sources_are_those_behind_the_device() {
    let (port, tunnel) = (Device::port(), Device::tunnel());
    for (source, from_port, from_tunnel) in [
        ("10.1.0.9", true, false),
        ("10.1.1.9", false, false),
        ("10.2.7.9", false, true),
        ("203.0.113.9", false, false),
        ("0.0.0.0", false, false),
        ("255.255.255.255", false, false),
        ("127.0.0.1", false, false),
    ] {
        let frame = ethernet(IPV4, &ipv4(source, "10.2.0.9", 1, &ECHO));
        assert_eq!((port.takes(&frame), tunnel.takes(&frame)), (from_port, from_tunnel), "{source}");
    }
    for (source, from_port, from_tunnel) in [
        ("fd00:1::9", true, false),
        ("fd00:1:0:1::9", false, false),
        ("fd00:2:0:9::9", false, true),
        ("fd00:2:1::9", false, false),
        ("2001:db8::9", false, false),
        ("::1", false, false),
        ("::ffff:10.1.0.9", false, false),
        ("ff02::1", false, false),
    ] {
        let frame = ethernet(IPV6, &ipv6(source, "fd00:2::9", 58, &ECHO6));
        assert_eq!((port.takes(&frame), tunnel.takes(&frame)), (from_port, from_tunnel), "{source}");
    }
}

#[test]
fn no_tag_and_no_other_ethertype_gets_in() {
    let (port, tunnel) = (Device::port(), Device::tunnel());
    let packets = [(IPV4, ipv4("10.1.0.9", "10.2.0.9", 1, &ECHO)), (IPV6, ipv6("fd00:1::9", "fd00:2::9", 58, &ECHO6))];
    for (ethertype, packet) in &packets {
        assert!(port.takes(&ethernet(*ethertype, packet)));
        let tpids = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];
        for first in tpids {
            for id in [0, 0x2000, 0x1000, 7, 0x0fff] {
                assert!(!port.takes(&tagged(&[(first, id)], *ethertype, packet)), "{first:#x} {id}");
            }
            for second in tpids {
                assert!(!port.takes(&tagged(&[(first, 0), (second, 0)], *ethertype, packet)), "{first:#x} {second:#x}");
            }
        }
        // Reverse ARP, MPLS, PPPoE, transparent bridging, MACsec, 802.3 with and without SNAP.
        for other in [0x8035, 0x8847, 0x8848, 0x8863, 0x8864, 0x6558, 0x88e5, 0x0026, 0x0000, 0x0600] {
            assert!(!port.takes(&ethernet(other, packet)), "{other:#x}");
        }
        let snap = [&[0xaa, 0xaa, 3, 0, 0, 0], &ethertype.to_be_bytes()[..], packet].concat();
        assert!(!port.takes(&ethernet(u16::try_from(snap.len()).unwrap(), &snap)));
    }
    let back = ipv4("10.2.0.9", "10.1.0.9", 1, &ECHO);
    assert!(tunnel.takes(&ethernet(IPV4, &back)) && !tunnel.takes(&tagged(&[(0x8100, 0)], IPV4, &back)));
    let wire = Packet { hardware: 65534, ..Packet::received(ethernet(IPV4, &packets[0].1)) };
    assert!(!accepts(&port.0[0], &wire), "without Ethernet the headers are elsewhere");
}

#[test]
fn vlans_with_a_device_of_their_own_pass() {
    let program = vlan_program(&[Vlan { tpid: 0x8100, id: 7 }, Vlan { tpid: 0x88a8, id: 8 }].into());
    let takes = |tags: &[(u16, u16)]| accepts(&program, &Packet::received(tagged(tags, IPV4, &[0; 40])));
    assert!(takes(&[(0x8100, 7)]) && takes(&[(0x8100, 0xa007)]) && takes(&[(0x88a8, 8)]));
    assert!(
        !takes(&[(0x8100, 0)])
            && !takes(&[(0x8100, 8)])
            && !takes(&[(0x88a8, 7)])
            && !takes(&[(0x8100, 0), (0x8100, 7)])
    );
    assert!(!accepts(&program, &Packet::received(ethernet(IPV4, &[0; 40]))));
}

/// An IPv4 packet with options, which are a multiple of four bytes.
fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut with = [&packet[..20], options, &packet[20..]].concat();
    with[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    let length = u16::try_from(with.len()).unwrap();
    with[2..4].copy_from_slice(&length.to_be_bytes());
    with
}

#[test]
fn source_routed_packets_are_dropped() {
    let packets = [
        (Device::port(), ipv4("10.1.0.9", "10.2.0.9", 17, &udp(7))),
        (Device::tunnel(), ipv4("10.2.0.9", "10.1.0.9", 17, &udp(7))),
    ];
    let way = |kind: u8| vec![kind, 7, 4, 10, 3, 0, 9];
    for (device, packet) in &packets {
        let takes = |options: &[u8]| device.takes(&ethernet(IPV4, &with_options(packet, options)));
        // Experimental, router alert, record route, timestamps; only padding, and what follows the end.
        let record = [&[7, 39, 4][..], &[0; 36], &[0]].concat();
        let (alert, stamps) = ([148, 4, 0, 0], [68, 8, 5, 0, 0, 0, 0, 0]);
        for options in [
            &[30, 4, 0, 0][..],
            &alert,
            &record,
            &stamps,
            &[1; 4],
            &[0; 4],
            &[alert, [1, 1, 0, 131]].concat(),
            &[1, 7, 7, 4, 0, 0, 0, 0],
        ] {
            assert!(takes(options), "{options:?}");
        }
        // Loose and strict, first, behind others, and in the last possible place.
        for kind in [131, 137] {
            let way = way(kind);
            for options in [
                [way.as_slice(), &[0]].concat(),
                [&[1][..], &way].concat(),
                [&alert[..], &way, &[0]].concat(),
                [&[1; 5][..], &way].concat(),
                [&[68, 32, 5, 0][..], &[0; 28], &way, &[0]].concat(),
            ] {
                assert!(!takes(&options), "{options:?}");
            }
        }
        // None of these is valid: no length, one that extends beyond the header, and more than legitimate packets have.
        for options in [&[148, 0, 0, 0][..], &[148, 1, 0, 0], &[148, 5, 0, 0], &[1, 1, 1, 148], &[1; 8]] {
            assert!(!takes(options), "{options:?}");
        }
    }
}

#[test]
fn arp_comes_from_servers_of_the_port() {
    let arp = |hardware: u16, protocol: u16, sender: &str| {
        let mut body =
            [hardware.to_be_bytes(), protocol.to_be_bytes(), [6, 4], [0, 1], [2, 0], [0, 0], [0, 9]].concat();
        body.extend(sender.parse::<Ipv4Addr>().unwrap().octets());
        body.extend([0, 0, 0, 0, 0, 0, 10, 1, 0, 1]);
        ethernet(0x0806, &body)
    };
    let port = Device::port();
    assert!(port.takes(&arp(1, IPV4, "10.1.0.9")) && port.takes(&arp(1, IPV4, "0.0.0.0")));
    assert!(!port.takes(&arp(1, IPV4, "10.2.0.9")) && !port.takes(&arp(6, IPV4, "10.1.0.9")));
    assert!(!port.takes(&arp(1, IPV6, "10.1.0.9")));
    assert!(!Device::tunnel().takes(&arp(1, IPV4, "10.2.0.9")), "neighbours of a tunnel are permanent");
}

#[test]
fn neighbour_discovery_and_dhcp_of_servers_pass() {
    let (port, tunnel) = (Device::port(), Device::tunnel());
    let taken = [
        // Duplicate address detection, solicitation, advertisement, router solicitation, reports of multicast
        // listeners.
        ipv6("::", "ff02::1:ff00:9", 58, &icmp(135, 0, &[0; 16])),
        ipv6("fe80::9", "ff02::1:ff00:1", 58, &icmp(135, 0, &[0; 24])),
        ipv6("fd00:1::9", "fd00:1::1", 58, &icmp(136, 0, &[0; 24])),
        ipv6("fe80::9", "fd00:1::1", 58, &icmp(135, 0, &[0; 24])),
        ipv6("fe80::9", "ff02::2", 58, &icmp(133, 0, &[])),
        ipv6("fe80::9", "ff02::16", 0, &options(58, &icmp(143, 0, &[0; 20]))),
        ipv6("::", "ff02::16", 0, &options(58, &icmp(143, 0, &[0; 20]))),
        ipv6("fe80::9", "ff02::1:2", 17, &udp(547)),
    ];
    for packet in &taken {
        assert!(port.takes(&ethernet(IPV6, packet)), "{packet:02x?}");
        assert!(!tunnel.takes(&ethernet(IPV6, packet)), "{packet:02x?}");
    }
    let discovery = |destination: &str, port: u16, fragment| {
        ethernet(IPV4, &ipv4_fragment("0.0.0.0", destination, 17, fragment, &udp(port)))
    };
    assert!(port.takes(&discovery("255.255.255.255", 67, 0)));
    assert!(!port.takes(&discovery("10.2.0.9", 67, 0)) && !port.takes(&discovery("255.255.255.255", 53, 0)));
    assert!(!port.takes(&discovery("255.255.255.255", 67, 0x2000)));
    // Router advertisement, redirect; unicast with an unspecified source.
    for packet in [
        ipv6("fe80::9", "ff02::1", 58, &icmp(134, 0, &[0; 16])),
        ipv6("fe80::9", "fe80::1", 58, &icmp(137, 0, &[0; 40])),
        ipv6("::", "fd00:1::1", 58, &icmp(135, 0, &[0; 16])),
        ipv6("fe80::9", "ff02::1:ff00:1", 60, &options(58, &icmp(135, 0, &[0; 24]))),
    ] {
        assert!(!port.takes(&ethernet(IPV6, &packet)), "{packet:02x?}");
    }
    // Messages of multicast listeners behind a routing header to a gateway, which would forward them.
    for kind in [130, 131, 132, 143] {
        for source in ["fd00:1::9", "fe80::9"] {
            let message = icmp(kind, 0, &[0; 20]);
            let led_on = ipv6(source, "fd00:1::1", 43, &options(58, &message));
            assert!(!port.takes(&ethernet(IPV6, &led_on)), "{kind} from {source}");
            let reported = ipv6(source, "ff02::16", 0, &options(58, &message));
            assert!(port.takes(&ethernet(IPV6, &reported)), "{kind} from {source}");
        }
    }
}

#[test]
fn tunnels_between_tenants_pass_and_to_the_host_do_not() {
    let port = Device::port();
    let takes4 =
        |to: &str, protocol, payload: &[u8]| port.takes(&ethernet(IPV4, &ipv4("10.1.0.9", to, protocol, payload)));
    let takes6 = |to: &str, next, payload: &[u8]| port.takes(&ethernet(IPV6, &ipv6("fd00:1::9", to, next, payload)));
    let gateways = ["10.1.0.1", "10.1.0.255", "10.1.0.0", "224.0.0.9", "255.255.255.255"];
    let gateways6 = ["fd00:1::1", "fd00:1::", "fe80::1", "ff02::1"];
    for protocol in [4, 41, 47, 50, 51, 94, 97, 108, 115, 132, 137] {
        assert!(takes4("10.2.0.9", protocol, &[0; 40]) && takes6("fd00:2::9", protocol, &[0; 40]), "{protocol}");
        assert!(gateways.iter().all(|to| !takes4(to, protocol, &[0; 40])), "{protocol}");
        assert!(gateways6.iter().all(|to| !takes6(to, protocol, &[0; 40])), "{protocol}");
        assert!(!takes6("fd00:1::1", 60, &options(protocol, &[0; 40])), "{protocol}");
    }
    for tunnel in [4789, 8472, 4790, 6081, 6635, 2152] {
        assert!(takes4("10.2.0.9", 17, &udp(tunnel)) && takes6("fd00:2::9", 17, &udp(tunnel)));
        assert!(gateways.iter().all(|to| !takes4(to, 17, &udp(tunnel))), "{tunnel}");
        assert!(gateways6.iter().all(|to| !takes6(to, 17, &udp(tunnel))), "{tunnel}");
        assert!(!takes4(UNDERLAY, 17, &udp(tunnel)));
        assert!(!takes6("fd00:1::1", 44, &fragment6(17, 1, &udp(tunnel))), "the first fragment has the ports");
        let first = ipv4_fragment("10.1.0.9", "10.1.0.1", 17, 0x2000, &udp(tunnel));
        assert!(!port.takes(&ethernet(IPV4, &first)));
    }
    for service in [53, 123, 67] {
        assert!(takes4("10.1.0.1", 17, &udp(service)) && takes6("fd00:1::1", 17, &udp(service)));
    }
    assert!(takes4("10.1.0.1", 6, &[0; 20]) && takes6("fd00:1::1", 6, &[0; 20]) && takes4("224.0.0.22", 2, &[0; 16]));
    // Routing headers have an effect only after delivery.
    assert!(!takes6("fd00:1::1", 43, &options(58, &ECHO6)) && takes6("fd00:2::9", 43, &options(58, &ECHO6)));
    let many = (0..7).fold(ECHO6.to_vec(), |rest, nth| options(if nth == 0 { 58 } else { 60 }, &rest));
    assert!(!takes6("fd00:2::9", 60, &many));
}

#[test]
fn fragments_pass() {
    let port = Device::port();
    for to in ["10.1.0.1", "10.2.0.9"] {
        for (offset, payload) in [(0x2000, &ECHO[..]), (0x2002, &[5; 16]), (0x0004, &[3; 9])] {
            assert!(
                port.takes(&ethernet(IPV4, &ipv4_fragment("10.1.0.9", to, 1, offset, payload))),
                "{to} {offset:#x}"
            );
        }
    }
    for to in ["fd00:1::1", "fd00:2::9"] {
        for (offset, payload) in [(1, &ECHO6[..]), (0x11, &[2; 16]), (0x20, &[3; 9])] {
            let packet = ipv6("fd00:1::9", to, 44, &fragment6(58, offset, payload));
            assert!(port.takes(&ethernet(IPV6, &packet)), "{to} {offset:#x}");
        }
    }
    let jumbo = ipv4("10.1.0.9", "10.2.0.9", 6, &[0; 8900]);
    assert!(port.takes(&ethernet(IPV4, &jumbo)));
    // A packet that the kernel has coalesced may be longer than the header can express.
    let mut joined = jumbo;
    joined[2..4].fill(0);
    assert!(port.takes(&ethernet(IPV4, &joined)));
}

/// Puts extension headers around a payload: the first header's number, and the whole.
type Wrap = fn(&[u8]) -> (u8, Vec<u8>);

#[test]
fn icmp_errors_must_quote_packets_of_this_path() {
    let port = Device::port();
    let error4 = |to: &str, kind, code, from: &str, about: &str| {
        let quoted = ipv4(from, about, 17, &udp(9)[..8]);
        port.takes(&ethernet(IPV4, &ipv4("10.1.0.9", to, 1, &icmp(kind, code, &quoted))))
    };
    for (kind, code) in [(3, 4), (3, 3), (11, 0), (12, 0)] {
        assert!(error4("10.2.0.9", kind, code, "10.2.0.9", "10.1.0.9"), "{kind}/{code}");
        assert!(!error4("10.2.0.9", kind, code, "10.2.0.9", "192.0.2.2"), "{kind}/{code}: never sent here");
        assert!(!error4("10.2.0.9", kind, code, "0.0.0.0", "10.1.0.9"), "{kind}/{code}: sent from elsewhere");
        assert!(!error4("10.1.0.1", kind, code, "0.0.0.0", "192.0.2.2"), "{kind}/{code}");
    }
    assert!(error4("10.1.0.1", 3, 3, "10.1.0.1", "10.1.0.9"), "the gateway gets errors about closed ports");
    assert!(!error4("10.1.0.1", 3, 4, "10.1.0.1", "10.1.0.9"), "but none about MTUs");
    for kind in [4, 5] {
        assert!(!error4("10.2.0.9", kind, 0, "10.2.0.9", "10.1.0.9"));
    }
    let error6 = |to: &str, kind, from: &str, about: &str, wrap: fn(&[u8]) -> (u8, Vec<u8>)| {
        let (next, payload) = wrap(&icmp(kind, 0, &ipv6(from, about, 17, &udp(9)[..8])));
        port.takes(&ethernet(IPV6, &ipv6("fd00:1::9", to, next, &payload)))
    };
    let wraps: [Wrap; 4] = [
        |payload| (58, payload.to_vec()),
        |payload| (60, options(58, payload)),
        |payload| (0, options(60, &options(58, payload))),
        |payload| (44, fragment6(58, 1, payload)),
    ];
    for wrap in wraps {
        for kind in [1, 2, 3, 4] {
            assert!(error6("fd00:2::9", kind, "fd00:2::9", "fd00:1::9", wrap), "{kind}");
            assert!(!error6("fd00:2::9", kind, "fd00:2::9", "2001:db8::2", wrap), "{kind}");
            assert!(!error6("fd00:2::9", kind, "fd00:2::8", "fd00:1::9", wrap), "{kind}");
            assert!(!error6("fd00:1::1", kind, "::", "2001:db8::2", wrap), "{kind}");
        }
        for gateway in ["fd00:1::1", "fd00:1::", "fe80::1", "ff02::1"] {
            assert!(!error6(gateway, 2, gateway, "fd00:1::9", wrap), "{gateway}");
        }
    }
    // Padding of a frame is no part of the packet; what is quoted must be in the first fragment.
    for (fragment, payload) in
        [(0x2000, &icmp(3, 4, &[])[..]), (0x2000, &icmp(3, 4, &[0; 16])[..]), (0, &icmp(3, 4, &[])[..])]
    {
        let mut frame = ethernet(IPV4, &ipv4_fragment("10.1.0.9", "10.2.0.9", 1, fragment, payload));
        frame.extend(ipv4("10.2.0.9", "10.1.0.9", 17, &udp(9)));
        frame[54..58].copy_from_slice(&[10, 2, 0, 9]);
        frame[58..62].copy_from_slice(&[10, 1, 0, 9]);
        assert!(!port.takes(&frame));
    }
}

#[test]
fn ipv4_options_shift_the_payload() {
    let port = Device::port();
    let with_options = |protocol: u8, payload: &[u8], to: &str| {
        let mut packet = ipv4("10.1.0.9", to, protocol, &[&[1, 1, 1, 0], payload].concat());
        packet[0] = 0x46;
        port.takes(&ethernet(IPV4, &packet))
    };
    assert!(with_options(17, &udp(53), "10.1.0.1") && !with_options(17, &udp(4789), "10.1.0.1"));
    let quoting = |about| icmp(3, 4, &ipv4("10.2.0.9", about, 17, &[0; 8]));
    assert!(with_options(1, &quoting("10.1.0.9"), "10.2.0.9") && !with_options(1, &quoting("192.0.2.2"), "10.2.0.9"));
    assert!(with_options(2, &[0; 16], "224.0.0.22"));
}

#[test]
fn many_prefixes_are_matched_exactly() {
    let mut prefixes = Vec::new();
    for nth in 0..1000u32 {
        prefixes.push(format!("10.{}.{}.0/25", nth / 250, nth % 250).parse().unwrap());
        prefixes.push(format!("fd00:{nth:x}::/48").parse().unwrap());
    }
    let policy = IngressPolicy::of_tunnel(&prefixes, local());
    let device = Device(policy.programs().to_vec());
    assert!(device.0.len() > 1 && device.0.iter().all(|program| program.instructions().len() * 8 < 24_000));
    for nth in [0, 1, 127, 128, 500, 998, 999] {
        let v4 = |host| ethernet(IPV4, &ipv4(&format!("10.{}.{}.{host}", nth / 250, nth % 250), "10.1.0.9", 1, &ECHO));
        assert!(device.takes(&v4(127)) && !device.takes(&v4(128)), "{nth}");
        let v6 = |net| ethernet(IPV6, &ipv6(&format!("fd00:{nth:x}:{net}::9"), "fd00:1::9", 58, &ECHO6));
        assert!(device.takes(&v6(0)) && !device.takes(&v6(1)), "{nth}");
    }
    let everything = Device(IngressPolicy::of_port(&nets(&["0.0.0.0/0", "::/0"]), local()).programs().to_vec());
    assert!(everything.takes(&ethernet(IPV4, &ipv4("203.0.113.9", "10.2.0.9", 1, &ECHO))));
    assert!(everything.takes(&ethernet(IPV6, &ipv6("2001:db8::9", "fd00:2::9", 58, &ECHO6))));
}

/// What the rejecting programs of a policy drop. None may end with 0, which would let the packet pass all filters that
/// follow.
fn rejects(policy: &IngressPolicy, frame: &[u8]) -> bool {
    let packet = Packet::received(frame.to_vec());
    let returned = |program: &Program| run(program, &packet).expect("it reads nothing beyond the end");
    policy.rejecting().iter().map(returned).any(|value| {
        assert!([REJECTED, u32::MAX].contains(&value), "{value}");
        value == REJECTED
    })
}

/// C9.
#[test]
fn what_a_peering_does_not_join_is_rejected() {
    let port = || IngressPolicy::of_port(&nets(&["10.1.0.0/24", "fd00:1::/64"]), local());
    let v4 = |from, to| ethernet(IPV4, &ipv4(from, to, 1, &ECHO));
    let v6 = |from, to| ethernet(IPV6, &ipv6(from, to, 58, &ECHO6));
    let some =
        port().sending(&nets(&["10.1.0.0/25", "fd00:1::/113"]), &nets(&["10.2.0.0/16", "10.4.0.0/16", "fd00:2::/48"]));
    for (from, to, rejected) in [
        ("10.1.0.129", "10.2.0.1", true),
        ("10.1.0.129", "10.4.0.1", true),
        ("10.1.0.127", "10.2.0.1", false),
        ("10.1.0.129", "10.3.0.1", false),
        ("10.2.0.1", "10.1.0.129", false),
    ] {
        assert_eq!(rejects(&some, &v4(from, to)), rejected, "{from} {to}");
    }
    for (from, to, rejected) in [
        ("fd00:1::8001", "fd00:2::1", true),
        ("fd00:1::7fff", "fd00:2::1", false),
        ("fd00:1::8001", "fd00:3::1", false),
    ] {
        assert_eq!(rejects(&some, &v6(from, to)), rejected, "{from} {to}");
    }
    // If nothing is joined, nothing passes, in the other family as well.
    let nothing = port().sending(&[], &nets(&["10.2.0.0/16", "fd00:2::/48"]));
    assert!(rejects(&nothing, &v4("10.1.0.1", "10.2.0.1")) && rejects(&nothing, &v6("fd00:1::1", "fd00:2::1")));
    let arriving = port().receiving(&nets(&["10.1.0.0/25"]));
    assert!(!rejects(&arriving, &v4("10.2.0.1", "10.1.0.1")) && rejects(&arriving, &v4("10.2.0.1", "10.1.0.129")));
    assert!(rejects(&arriving, &v4("10.1.0.1", "10.9.0.1")), "where it comes from does not matter");
    assert!(rejects(&arriving, &v6("fd00:2::1", "fd00:1::1")));
    // Anything too short, of another kind or tagged is left to the filters behind.
    for length in 14..60 {
        let _ = (
            rejects(&some, &v4("10.1.0.129", "10.2.0.1")[..length]),
            rejects(&some, &v6("fd00:1::8001", "fd00:2::1")[..length]),
        );
    }
    let in_vlan = tagged(&[(0x8100, 7)], IPV4, &ipv4("10.1.0.129", "10.2.0.1", 1, &ECHO));
    assert!(!rejects(&some, &in_vlan) && !rejects(&some, &ethernet(0x0806, &[0; 28])));
}

/// C9, C10: with as many prefixes as a peering can have, exactly, and in few programs that the kernel can dump.
#[test]
fn many_joined_prefixes_are_matched_exactly() {
    let list = |vpc: u32| -> Vec<IpNet> {
        let pair = |nth: u32| {
            [format!("10.{vpc}.0.{}/32", nth * 2), format!("fd00:{vpc}::{:x}/128", nth * 2)]
                .map(|it| it.parse().unwrap())
        };
        (0..128).flat_map(pair).collect()
    };
    let port = || IngressPolicy::of_port(&nets(&["10.1.0.0/16", "fd00:1::/48"]), local());
    let (sending, receiving) = (port().sending(&list(1), &list(2)), port().receiving(&list(1)));
    assert_eq!((sending.rejecting().len(), receiving.rejecting().len()), (3, 2));
    let sizes = |policy: &IngressPolicy| policy.rejecting().iter().map(|it| it.instructions().len() * 8).max();
    assert!(sizes(&sending).max(sizes(&receiving)) < Some(24_000));
    for (a, b) in [(0u32, 0u32), (127, 0), (0, 127), (63, 64), (64, 63)] {
        let v4 = |off: u32, to: u32| {
            ethernet(IPV4, &ipv4(&format!("10.1.0.{}", a * 2 + off), &format!("10.2.0.{}", b * 2 + to), 1, &ECHO))
        };
        let v6 = |off: u32, to: u32| {
            let from = format!("fd00:1::{:x}", a * 2 + off);
            ethernet(IPV6, &ipv6(&from, &format!("fd00:2::{:x}", b * 2 + to), 58, &ECHO6))
        };
        for frame in [&v4 as &dyn Fn(u32, u32) -> Vec<u8>, &v6] {
            assert!(!rejects(&sending, &frame(0, 0)) && rejects(&sending, &frame(1, 0)), "{a} {b}");
            assert!(!rejects(&sending, &frame(1, 1)), "{a} {b}: it does not go to the peer");
        }
        let to4 = |off: u32| ethernet(IPV4, &ipv4("10.2.0.0", &format!("10.1.0.{}", a * 2 + off), 1, &ECHO));
        let to6 = |off: u32| ethernet(IPV6, &ipv6("fd00:2::", &format!("fd00:1::{:x}", a * 2 + off), 58, &ECHO6));
        assert!(!rejects(&receiving, &to4(0)) && rejects(&receiving, &to4(1)), "{a}");
        assert!(!rejects(&receiving, &to6(0)) && rejects(&receiving, &to6(1)), "{a}");
    }
}

/// Prefixes beyond the bound are rejected, not let through, and the programs stay small enough for the kernel to dump.
#[test]
fn more_prefixes_than_a_program_holds_are_rejected() {
    let all: Vec<IpNet> = (0..400u32).map(|nth| format!("fd00:1::{:x}/128", nth * 2).parse().unwrap()).collect();
    let policy = IngressPolicy::of_port(&nets(&["fd00:1::/48"]), local()).sending(&all, &nets(&["fd00:2::/48"]));
    assert!(policy.rejecting().iter().all(|program| program.instructions().len() * 8 < 28_000));
    let from = |nth: u32| ethernet(IPV6, &ipv6(&format!("fd00:1::{:x}", nth * 2), "fd00:2::1", 58, &ECHO6));
    assert!(!rejects(&policy, &from(0)) && !rejects(&policy, &from(255)) && rejects(&policy, &from(256)));
}
