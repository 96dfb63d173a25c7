//! VXLAN packets are accepted only from the hosts that have part in the VNI (C7), on whichever interface they arrive.

use crate::{
    NORTH,
    forged::{address, mac},
    reach_each_other,
};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{
    Lab, Server, Topology,
    frames::{self, IPV4, IPV6, UDP, ethernet, ethertype, tagged, udp, vxlan},
    lab::{PATIENCE, UPLINK},
    netns::Netns,
    wait,
};
use std::{
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

/// A on h1 has two peers, each on a host of its own. The first host's address ends with 1, and so on.
pub(crate) fn two_peers(underlay: &str) -> Topology {
    Topology::new()
        .host("h1", NORTH, &format!("{underlay}1"))
        .host("h2", NORTH, &format!("{underlay}2"))
        .host("h3", NORTH, &format!("{underlay}3"))
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-c", "h3", "eth1", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-a", "vpc-b")
        .peering("vpc-a", "vpc-c")
}

/// The VNI with which packets of a peer arrive for A.
pub(crate) fn vni_from(lab: &Lab, peer_cidr: &str) -> Result<u32> {
    let ledger = lab.ledger("h1")?;
    let sides = ledger["sides"].as_object().context("no sides")?;
    let found = sides.iter().find(|(_, side)| side["peer_cidrs"].to_string().contains(peer_cidr));
    Ok(found.context("no such side")?.0.parse()?)
}

pub(crate) fn taken(server: &Server) -> Result<u64> {
    let heard = server.heard()?;
    Ok(heard.echo_requests + heard.datagrams)
}

/// Frames as B's host sends them to A's, in both families.
pub(crate) fn inner(lab: &Lab, vni: u32) -> Result<Vec<Vec<u8>>> {
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    let to = mac(lab.host("h1").netns(), &format!("cpspeer{vni}"))?;
    let four = ethernet(to, IPV4, &udp(b.ipv4()?, a.ipv4()?, 7, b"forged"));
    Ok(vec![four, ethernet(to, IPV6, &udp(b.ipv6()?, a.ipv6()?, 7, b"forged"))])
}

/// All forms of a VXLAN packet: plain, with options or further headers, and in fragments. Each stands for one
/// packet.
fn forms(outer: &[u8]) -> Vec<Vec<Vec<u8>>> {
    // Fragments of one packet must not be taken for another's.
    static ID: AtomicU16 = AtomicU16::new(1);
    let mut id = ID.fetch_add(8, Ordering::Relaxed);
    let mut forms = vec![vec![outer.to_vec()]];
    if outer[0] >> 4 == 4 {
        let (header, payload) = outer.split_at(20);
        let packet = |id: u16, options: &[u8], fragment: u16, payload: &[u8]| {
            let length = u8::try_from(20 + options.len()).expect("few options");
            let mut packet = [header, options, payload].concat();
            packet[0] = 0x40 | (length / 4);
            let total = u16::try_from(packet.len()).expect("a short packet");
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[6..8].copy_from_slice(&fragment.to_be_bytes());
            packet[10..12].fill(0);
            let sum = frames::checksum(&[&packet[..length.into()]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        };
        forms.push(vec![packet(id, &[1; 4], 0, payload)]);
        for split in [8, 16, 48] {
            let (first, rest) = payload.split_at(split);
            let offset = u16::try_from(split / 8).expect("it is small");
            id += 1;
            forms.push(vec![packet(id, &[], 0x2000, first), packet(id, &[], offset, rest)]);
        }
    } else {
        let (header, payload) = outer.split_at(40);
        let packet = |next: u8, payload: &[u8]| {
            let mut packet = [header, payload].concat();
            let length = u16::try_from(payload.len()).expect("a short packet");
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet[6] = next;
            packet
        };
        let options = |next: u8, rest: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0], rest].concat();
        let mut fragment = |next: u8, field: u16, rest: &[u8]| {
            // The second of two follows the first.
            id += u16::from(field & 0xfff8 == 0);
            [&[next, 0][..], &field.to_be_bytes(), &u32::from(id).to_be_bytes(), rest].concat()
        };
        forms.push(vec![packet(60, &options(UDP, payload))]);
        forms.push(vec![packet(0, &options(60, &options(UDP, payload)))]);
        forms.push(vec![packet(44, &fragment(UDP, 0, payload))]);
        let (first, rest) = payload.split_at(48);
        forms.push(vec![packet(44, &fragment(UDP, 1, first)), packet(44, &fragment(UDP, 48, rest))]);
    }
    forms
}

#[test]
fn vxlan_is_taken_only_from_hosts_that_have_part_in_the_vni() -> Result<()> {
    taken_only_from_vteps("192.0.2.", &[true, false, true])
}

#[test]
fn so_it_is_where_the_underlay_is_ipv6() -> Result<()> {
    taken_only_from_vteps("2001:db8::", &[true])
}

/// With an agent that runs, that is dead, that was restarted.
fn taken_only_from_vteps(underlay: &str, rounds: &[bool]) -> Result<()> {
    let mut lab = Lab::in_sync(two_peers(underlay))?;
    let at = |last: &str| address(&format!("{underlay}{last}"));
    let (own, uplink) = (at("1"), mac(lab.host("h1").netns(), UPLINK)?);
    let kind = ethertype(own);
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h3", "eth1"))?;
    let (from_b, from_c) = (vni_from(&lab, "10.2.0.0/16")?, vni_from(&lab, "10.3.0.0/16")?);
    let inner = inner(&lab, from_b)?;
    for agent_lives in rounds.iter().copied() {
        if !agent_lives {
            lab.kill_agent("h1")?;
        } else if lab.host("h1").agent_pid().is_none() {
            let before = filter_of(&lab, UPLINK)?;
            lab.start_agent("h1")?;
            // A new agent puts its own in the place of the former one.
            wait::until("the filter of a new agent", PATIENCE, || {
                Ok((filter_of(&lab, UPLINK)? != before).then_some(()))
            })?;
            lab.wait_for_agent("h1")?;
        }
        let (a, host) = (lab.server("h1", "eth1"), lab.host("h1").netns());
        let mut sent = Vec::new();
        for frame in &inner {
            // No VTEP at all; one without part in that VNI; the host itself. B's host may only send B's VNI.
            for (source, vni) in [("9", from_b), ("3", from_b), ("1", from_b), ("2", from_c)] {
                let outer = vxlan(at(source), own, vni, frame);
                sent.extend(forms(&outer).concat().iter().map(|packet| ethernet(uplink, kind, packet)));
            }
            let outer = vxlan(at("9"), own, from_b, frame);
            for tags in
                [&[(0x8100, 0)][..], &[(0x88a8, 0)], &[(0x8100, 0), (0x8100, 0)], &[(0x8100, 0); 3], &[(0x8100, 7)]]
            {
                sent.push(tagged(uplink, tags, kind, &outer));
            }
        }
        let before = taken(a)?;
        // Through the host's own loopback.
        let header = if own.is_ipv4() { 28 } else { 48 };
        let payloads: Vec<Vec<u8>> =
            inner.iter().map(|frame| vxlan(own, own, from_b, frame)[header..].to_vec()).collect();
        let (any, loopback) = if own.is_ipv4() { ("0.0.0.0", "127.0.0.1") } else { ("::", "::1") };
        host.within(|| {
            let socket = UdpSocket::bind((address(any), 0))?;
            for payload in &payloads {
                for to in [own, address(loopback)] {
                    socket.send_to(payload, (to, 4789))?;
                }
            }
            Ok(())
        })?;
        let honest = honest(&inner, at("2"), own, from_b);
        sent.extend(honest.concat().iter().map(|packet| ethernet(uplink, kind, packet)));
        frames::send(lab.host("h3").netns(), UPLINK, &sent)?;
        let expected = before + honest.len() as u64;
        wait::until(&format!("{} packets of B's host", honest.len()), PATIENCE, || {
            let now = taken(a)?;
            ensure!(now >= expected, "{} came", now - before);
            Ok(Some(()))
        })?;
        assert_eq!(taken(a)? - before, honest.len() as u64, "agent lives: {agent_lives}");
    }
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

/// The same frames from B's host, or from a sender with its address: they are accepted, since nothing else was wrong.
fn honest(inner: &[Vec<u8>], source: IpAddr, own: IpAddr, vni: u32) -> Vec<Vec<Vec<u8>>> {
    let all = inner.iter().flat_map(|frame| forms(&vxlan(source, own, vni, frame)));
    // A first fragment without the VNI cannot be distinguished from a forged one.
    all.filter(|packets| packets.len() == 1 || packets[0].len() >= 20 + 16).collect()
}

/// Where a host can have its VTEP address other than on its own interface: `under`, on top of that interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Under {
    Bond,
    Bridge,
    Vlan,
}

/// The VLAN of the underlay.
const VLAN: u16 = 7;

impl Under {
    /// Moves the address of h1, which is attached to the underlay first, before anything runs.
    fn build(self, lab: &Lab, own: IpAddr) -> Result<()> {
        let (host, network) = (lab.host("h1").netns(), lab.underlay().netns());
        let (length, gateway) = if own.is_ipv4() { (32, "169.254.0.1") } else { (128, "fe80::1") };
        let family = if own.is_ipv4() { "-4" } else { "-6" };
        host.ip(&format!("{family} route flush dev {UPLINK}"))?;
        host.ip(&format!("{family} addr flush dev {UPLINK} scope global"))?;
        let mut lines: Vec<String> = match self {
            Under::Bond => vec![
                "link add under type bond mode active-backup".into(),
                format!("link set {UPLINK} down"),
                format!("link set {UPLINK} master under"),
            ],
            Under::Bridge => vec!["link add under type bridge".into(), format!("link set {UPLINK} master under")],
            Under::Vlan => {
                network.ip_batch(&[
                    "link set port1 nomaster".into(),
                    format!("link add link port1 name tagged type vlan id {VLAN}"),
                    "link set tagged master br1 up".into(),
                ])?;
                vec![format!("link add link {UPLINK} name under type vlan id {VLAN}")]
            }
        };
        lines.extend([
            format!("link set {UPLINK} up"),
            "link set under up".into(),
            format!("addr add {own}/{length} dev under{}", if own.is_ipv6() { " nodad" } else { "" }),
            format!("route add default via {gateway} dev under onlink"),
        ]);
        host.ip_batch(&lines)
    }
}

/// C7. Frames arrive on the link that `under` is on: members of a bond or bridge, and the interface below a VLAN, take some by themselves.
fn taken_only_from_vteps_by(under: Under, underlay: &str) -> Result<()> {
    let mut lab = Lab::builder(two_peers(underlay)).build()?;
    let at = |last: &str| address(&format!("{underlay}{last}"));
    let own = at("1");
    under.build(&lab, own)?;
    lab.start_controller()?;
    for host in ["h1", "h2", "h3"] {
        lab.start_agent(host)?;
    }
    lab.wait_for_daemons()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let (a, host) = (lab.server("h1", "eth1"), lab.host("h1").netns());
    reach_each_other(a, lab.server("h2", "eth1"))?;
    reach_each_other(a, lab.server("h3", "eth1"))?;
    // The host's routes are its own: only the agent's programs check the source of what arrives.
    host.sh("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done")?;
    let (from_b, from_c) = (vni_from(&lab, "10.2.0.0/16")?, vni_from(&lab, "10.3.0.0/16")?);
    let (inner, kind, to) = (inner(&lab, from_b)?, ethertype(own), mac(host, "under")?);
    let vlan = [(0x8100, VLAN)];
    let tags: &[&[(u16, u16)]] = if under == Under::Vlan { &[&vlan, &[]] } else { &[&[]] };
    let groups = [[0x01, 0x80, 0xc2, 0, 0, 0x03], [0x01, 0x80, 0xc2, 0, 0, 0x0e]];
    let mut sent = Vec::new();
    for frame in &inner {
        for (source, vni) in [("9", from_b), ("3", from_b), ("1", from_b), ("2", from_c)] {
            let packets = forms(&vxlan(at(source), own, vni, frame)).concat();
            for to in groups.iter().chain([&to]) {
                sent.extend(tags.iter().flat_map(|tags| packets.iter().map(|packet| tagged(*to, tags, kind, packet))));
            }
        }
    }
    let honest = honest(&inner, at("2"), own, from_b);
    sent.extend(honest.concat().iter().map(|packet| tagged(to, tags[0], kind, packet)));
    let before = taken(a)?;
    frames::send(lab.underlay().netns(), "port1", &sent)?;
    let expected = before + honest.len() as u64;
    wait::until(&format!("{} packets of B's host", honest.len()), PATIENCE, || {
        let now = taken(a)?;
        ensure!(now >= expected, "{} came", now - before);
        Ok(Some(()))
    })?;
    assert_eq!(taken(a)? - before, honest.len() as u64);
    assert!(lab.host("h1").report()?.in_sync());
    reach_each_other(a, lab.server("h2", "eth1"))
}

#[test]
fn so_it_is_where_the_vtep_address_is_on_a_bond() -> Result<()> {
    taken_only_from_vteps_by(Under::Bond, "192.0.2.")
}

#[test]
fn so_it_is_where_the_vtep_address_is_on_a_bridge() -> Result<()> {
    taken_only_from_vteps_by(Under::Bridge, "2001:db8::")
}

#[test]
fn so_it_is_where_the_vtep_address_is_on_a_vlan() -> Result<()> {
    taken_only_from_vteps_by(Under::Vlan, "192.0.2.")
}

fn filter_of(lab: &Lab, device: &str) -> Result<String> {
    lab.host("h1").netns().exec(&format!("tc filter show dev {device} ingress"))?.ok()
}

/// C7, C10. A device with a shared ingress block takes no filter of its own.
#[test]
fn no_tunnel_is_up_while_an_interface_cannot_be_guarded() -> Result<()> {
    let lab = Lab::in_sync(two_peers("192.0.2."))?;
    let host = lab.host("h1").netns();
    // How many there are, and how many of them are up.
    let tunnels = || -> Result<(usize, usize)> {
        let links: serde_json::Value = serde_json::from_str(&host.ip("-j link show type vxlan")?)?;
        let links = links.as_array().context("no list")?;
        Ok((links.len(), links.iter().filter(|link| link["flags"].to_string().contains("\"UP\"")).count()))
    };
    let all_up = |(there, up): (usize, usize)| there >= 2 && up == there;
    ensure!(all_up(tunnels()?), "{:?}", tunnels()?);
    // The agent protects it immediately: the qdisc is replaced afterwards.
    host.sh("ip link add shared type dummy; ip link set shared up")?;
    wait::until("the qdisc with a block", PATIENCE, || {
        let replaced =
            "printf 'qdisc del dev shared clsact\nqdisc add dev shared ingress_block 7 clsact\n' | tc -batch -";
        host.sh(replaced).map(Some)
    })?;
    wait::until("no tunnel is up", PATIENCE, || Ok((tunnels()?.1 == 0).then_some(())))?;
    wait::until("the interface is named", PATIENCE, || {
        let report = lab.host("h1").report()?;
        let told = report.problems.iter().any(|problem| problem.object.contains("shared"));
        ensure!(told && !report.in_sync(), "{report:?}");
        Ok(Some(()))
    })?;
    // A push that concerns a part of it opens nothing.
    let more = two_peers("192.0.2.").vpc("vpc-d", NORTH, &["10.4.0.0/16"]).peering("vpc-a", "vpc-d");
    lab.controller().apply(&more.into(), false)?;
    wait::until("the push is there", PATIENCE, || {
        Ok(lab.ledger("h1")?.to_string().contains("10.4.0.0").then_some(()))
    })?;
    ensure!(tunnels()?.1 == 0, "after a push: {:?}", tunnels()?);
    host.ip("link del shared")?;
    wait::until("all tunnels are up", PATIENCE, || Ok(all_up(tunnels()?).then_some(())))?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

/// An interface of a host by which a packet can arrive: what is received, through which link of the intruder's, with which tags.
struct Path {
    receiver: &'static str,
    by: &'static str,
    tags: &'static [(u16, u16)],
}

const PATHS: [Path; 4] = [
    Path { receiver: "new", by: "n0", tags: &[] },
    Path { receiver: "new.7", by: "n0", tags: &[(0x8100, 7)] },
    Path { receiver: "br0", by: "n1", tags: &[] },
    Path { receiver: "bond0", by: "n2", tags: &[] },
];

#[test]
fn new_interfaces_are_no_way_around() -> Result<()> {
    let lab = Lab::in_sync(two_peers("192.0.2."))?;
    let (a, host) = (lab.server("h1", "eth1"), lab.host("h1").netns());
    let intruder = Netns::create(&format!("{}-intruder", lab.name()))?;
    let veth = |name: &str, at: &str| format!("link add {name} type veth peer name {at} netns {}", intruder.name());
    host.ip_batch(&[
        veth("new", "n0"),
        "addr add 198.18.9.1/24 dev new".into(),
        "link add link new name new.7 type vlan id 7".into(),
        veth("member", "n1"),
        "link add br0 type bridge".into(),
        "link set member master br0 up".into(),
        veth("slave", "n2"),
        "link add bond0 type bond mode active-backup".into(),
        "link set slave master bond0".into(),
        "link set br0 up".into(),
        "link set bond0 up".into(),
        "link set new up".into(),
        "link set new.7 up".into(),
    ])?;
    intruder.ip_batch(&["n0", "n1", "n2"].map(|link| format!("link set {link} up")))?;
    host.sysctl(&["net.ipv4.conf.all.rp_filter=0"])?;
    let script = "for device in new new.7 br0 bond0 member slave; do
        echo 0 > /proc/sys/net/ipv4/conf/$device/rp_filter; tc filter show dev $device ingress; done";
    wait::until("the filters of six devices", PATIENCE, || {
        let shown = host.sh(script)?;
        let count = shown.matches("cps_underlay direct-action").count();
        ensure!(count == 6, "{count}: {shown}");
        Ok(Some(()))
    })?;
    lab.wait_for_agent("h1")?;
    let vni = vni_from(&lab, "10.2.0.0/16")?;
    let (before, inner) = (taken(a)?, inner(&lab, vni)?);
    let groups = [[0x01, 0x80, 0xc2, 0, 0, 0x03], [0x01, 0x80, 0xc2, 0, 0, 0x0e]];
    for path in &PATHS {
        let own_mac = mac(host, path.receiver)?;
        let mut sent = Vec::new();
        for frame in &inner {
            for own in ["192.0.2.1", "198.18.9.1"].map(address) {
                let outer = vxlan(address("198.18.9.7"), own, vni, frame);
                // Bridges and bonds leave what is for these groups to their members.
                sent.extend(groups.iter().chain([&own_mac]).map(|to| tagged(*to, path.tags, IPV4, &outer)));
            }
        }
        // From B's address each of them is a way in: uplinks need not be those that packets leave by.
        let outer = vxlan(address("192.0.2.2"), address("192.0.2.1"), vni, &inner[0]);
        sent.push(tagged(own_mac, path.tags, IPV4, &outer));
        frames::send(&intruder, path.by, &sent)?;
    }
    let expected = before + PATHS.len() as u64;
    wait::until("B's packets", PATIENCE, || {
        let now = taken(a)?;
        ensure!(now >= expected, "{} came", now - before);
        Ok(Some(()))
    })?;
    assert_eq!(taken(a)? - before, PATHS.len() as u64);
    // Foreign VNIs on the same port are not ours.
    host.ip_batch(&[
        "link add theirs type vxlan id 7777 dstport 4789 local 198.18.9.1 nolearning".into(),
        "link set theirs address 02:00:00:00:00:99 up".into(),
        "addr add 198.18.10.1/24 dev theirs".into(),
    ])?;
    let packets = || -> Result<u64> {
        let links: serde_json::Value = serde_json::from_str(&host.ip("-j -s link show theirs")?)?;
        links[0]["stats64"]["rx"]["packets"].as_u64().context("no counter")
    };
    let inside =
        ethernet([2, 0, 0, 0, 0, 0x99], IPV4, &udp(address("198.18.10.7"), address("198.18.10.1"), 7, b"theirs"));
    let theirs = vxlan(address("198.18.9.7"), address("198.18.9.1"), 7777, &inside);
    frames::send(&intruder, "n0", &[ethernet(mac(host, "new")?, IPV4, &theirs)])?;
    wait::until("their packet", PATIENCE, || Ok((packets()? > 0).then_some(())))?;
    host.ip("link del theirs")?;
    // A foreign filter before ours is reported.
    host.sh("tc filter add dev new ingress pref 10 matchall action ok")?;
    wait::until("the conflict", PATIENCE, || {
        let report = lab.host("h1").report()?;
        let told =
            report.problems.iter().any(|problem| problem.object.contains("new") && problem.reason.contains("10"));
        ensure!(told, "{report:?}");
        Ok(Some(()))
    })?;
    host.sh("tc filter del dev new ingress pref 10")?;
    lab.wait_for_agent("h1").map(drop)
}
