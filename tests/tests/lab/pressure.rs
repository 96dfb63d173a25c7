//! A tenant's traffic costs others nothing: neither entries of the kernel's neighbour tables, nor the agent's time.

use crate::{
    NORTH,
    drift::{Names, peered},
    forged::mac,
    reach_each_other, two_hosts,
};
use anyhow::{Context, Result, bail, ensure};
use cps_peering_agent::filter::{FRAGMENTS, NEIGHBOURS};
use cps_peering_tests::{
    Lab, Server,
    frames::{self, UDP},
    lab::NIC,
    netns::Netns,
    stream::Stream,
    wait::{self, SOON},
};
use serde_json::Value;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How many observations a tenant can cause in a burst, and a few that have other reasons.
const FEW: u64 = 12;

#[test]
fn a_tenants_neighbours_and_carrier_cause_few_looks_and_drift_is_healed_meanwhile() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let a = lab.server("h1", "eth1");
    let gateway = link_local(host.netns(), "eth1")?;
    let passes = || anyhow::Ok(host.report()?.counters.passes);
    let before = passes()?;
    // Under names that look like those of other hosts.
    let own: Vec<String> = (0..100).map(|number| format!("fe80::200:c000:3{number:02x}")).collect();
    a.netns().ip_batch(&own.iter().map(|own| format!("addr add {own}/64 dev eth0 nodad")).collect::<Vec<_>>())?;
    let ask = own.iter().map(|own| format!("ping -6 -n -c 1 -W 1 -I {own}%eth0 {gateway} >/dev/null || true"));
    a.netns().sh(&ask.collect::<Vec<_>>().join("\n"))?;
    let known = host.netns().ip("-6 neigh show dev eth1")?;
    let known = known.lines().filter(|line| line.contains("fe80::200:c000:3")).count();
    ensure!(known > 90, "{known} neighbours");
    let looks = passes()? - before;
    ensure!(looks <= 3, "{looks} looks at {known} neighbours");

    let before = passes()?;
    let flaps: Vec<String> =
        (0..60).flat_map(|_| ["link set eth0 down", "link set eth0 up"]).map(str::to_owned).collect();
    let tenant = a.netns().clone();
    let flapping = thread::spawn(move || tenant.ip_batch(&flaps));
    // Others' drift is repaired immediately, as before.
    let repaired = host.report()?.counters.drift_repaired;
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let begun = Instant::now();
        host.netns().ip(&names.filled("-6 route del fd00:2:0:1::/64 table {table}"))?;
        wait::until("the route is back", SOON, || {
            let route = host.netns().ip(&names.filled("-6 route show fd00:2:0:1::/64 table {table}"))?;
            Ok((!route.is_empty()).then_some(()))
        })?;
        slowest = slowest.max(begun.elapsed());
    }
    flapping.join().map_err(|_| anyhow::anyhow!("the tenant panicked"))??;
    let looks = passes()? - before;
    ensure!(
        looks <= FEW + 2 * (host.report()?.counters.drift_repaired - repaired),
        "{looks} looks, slowest {slowest:?}"
    );
    // Events beyond the budget are examined, too.
    a.netns().sh(&restored(a)?)?;
    wait::until("A reaches B", SOON, || reach_each_other(a, lab.server("h2", "eth1")).map(Some))?;
    lab.wait_in_sync()
}

/// Commands that restore what a server loses with its interface.
fn restored(server: &Server) -> Result<String> {
    let own = server.ipv6()?;
    Ok(format!(
        "ip addr replace {own}/64 dev eth0 nodad; ip route replace default via 10.1.0.1 dev eth0 onlink; \
         ip route replace default via fd00:1::1 dev eth0 onlink"
    ))
}

fn link_local(netns: &Netns, device: &str) -> Result<String> {
    let text = netns.ip(&format!("-6 -o addr show dev {device} scope link"))?;
    let address = text.split_whitespace().find(|word| word.starts_with("fe80:")).context("no link-local address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

#[test]
fn a_port_without_a_link_local_address_asks_silent_servers_all_the_same() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1");
    let (a, b) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"));
    let before = link_local(host.netns(), "eth1")?;
    for lines in [
        "ip addr flush dev eth1 scope link",
        "ip link set eth1 addrgenmode none; ip addr flush dev eth1 scope link",
        "ip link set eth1 addrgenmode none; ip link set eth1 down; ip link set eth1 up",
        "ip -6 route del local $ll dev eth1 table $table",
        "ip -6 route del multicast ff00::/8 dev eth1 table $table",
    ] {
        let table = Names::of(host.netns())?.filled("{table}");
        host.netns().sh(&lines.replace("$ll", &before).replace("$table", &table))?;
        wait::until(lines, SOON, || {
            ensure!(link_local(host.netns(), "eth1")? == before);
            let routes = host.netns().ip(&format!("-6 route show table {table} dev eth1"))?;
            ensure!(routes.contains(&format!("local {before}")) && routes.contains("ff00::/8"), "{routes}");
            // The host has to resolve A.
            host.netns().ip("neigh flush dev eth1")?;
            ensure!(b.reaches(a.ipv6()?)?);
            Ok(Some(()))
        })?;
        lab.wait_for_agent("h1")?;
    }
    Ok(())
}

/// A scans; C and D are others, whose servers are not resolved yet.
#[test]
fn a_scan_of_one_tenants_prefix_keeps_no_neighbour_from_another() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .vpc("vpc-d", NORTH, &["10.4.0.0/16", "fd00:4::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/16", "fd00:1::1/64"])
        .port("vpc-b", "h1", "eth2", &["10.2.0.1/16", "fd00:2::1/64"])
        .port("vpc-c", "h1", "eth3", &["10.3.0.1/16", "fd00:3::1/64"])
        .port("vpc-d", "h2", "eth1", &["10.4.0.1/24", "fd00:4::1/64"])
        .peering("vpc-a", "vpc-b")
        .peering("vpc-c", "vpc-d");
    let lab = Lab::in_sync(topology)?;
    let (a, c, d) = (lab.server("h1", "eth1"), lab.server("h1", "eth3"), lab.server("h2", "eth1"));
    // Packets within A's own prefix go through the gateway, as from a malicious tenant.
    a.netns().ip_batch(&[
        "route add 10.1.128.0/17 via 10.1.0.1".to_owned(),
        "route add fd00:1::1:0:0:0/80 via fd00:1::1".to_owned(),
    ])?;
    let kinds: [(&str, u32, Target); 4] = [
        ("its own prefix", 600, |n| Ipv4Addr::from(0x0a01_8000 + n % 0x7fff).into()),
        ("a peer's prefix", 5000, |n| Ipv4Addr::from(0x0a02_0100 + n % 0xfe00).into()),
        ("its own IPv6 prefix", 5000, |n| Ipv6Addr::new(0xfd00, 1, 0, 0, 1, 0, low(n >> 16), low(n)).into()),
        ("a peer's IPv6 prefix", 600, |n| Ipv6Addr::new(0xfd00, 2, 0, 0, 1, 0, low(n >> 16), low(n)).into()),
    ];
    let stream = Stream::start(d, c, c.ipv4()?, 100)?;
    let mut fresh = 0;
    for (what, rate, target) in kinds {
        let scan = Scan::start(a, target, rate)?;
        wait::until("the scan has begun", SOON, || Ok((scan.sent() > u64::from(rate) * 2).then_some(())))?;
        let own: Vec<IpAddr> = (0..20).map(|n| fresh_address(target(0), fresh + n)).collect();
        fresh += 20;
        let lines = own.iter().map(|own| {
            format!(
                "addr add {own}/{} dev eth0{}",
                if own.is_ipv4() { 16 } else { 64 },
                if own.is_ipv4() { "" } else { " nodad" }
            )
        });
        c.netns().ip_batch(&lines.collect::<Vec<_>>())?;
        let mut answered = 0;
        for own in &own {
            answered += u32::from(d.reaches(*own)?);
        }
        let sent = scan.stop();
        ensure!(answered == 20, "{answered} of 20 answer while {sent} addresses of {what} are tried, {rate} a second");
    }
    let record = stream.stop()?;
    ensure!(record.lost() == 0 && record.sent > 500, "{} of {} lost", record.lost(), record.sent);
    Ok(())
}

/// C10: A announces itself from ever other addresses; C and D are others, whose servers are not resolved yet.
#[test]
fn a_storm_of_one_tenants_neighbour_messages_keeps_no_neighbour_from_another() -> Result<()> {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .vpc("vpc-d", NORTH, &["10.4.0.0/16", "fd00:4::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/16", "fd00:1::1/64"])
        .port("vpc-c", "h1", "eth3", &["10.3.0.1/16", "fd00:3::1/64"])
        .port("vpc-d", "h2", "eth1", &["10.4.0.1/24", "fd00:4::1/64"])
        .peering("vpc-a", "vpc-d")
        .peering("vpc-c", "vpc-d");
    let lab = Lab::in_sync(topology)?;
    let host = lab.host("h1").netns();
    let (a, c, d) = (lab.server("h1", "eth1"), lab.server("h1", "eth3"), lab.server("h2", "eth1"));
    let _tables = Tables::with_room_for(4096)?;
    let begun = Instant::now();
    let mut storm = a.netns().command("python3");
    storm.args(["-c", include_str!("storm.py"), "eth0", "120", "10.1.0.1", "fd00:1::1"]);
    let storm = Storm(storm.spawn()?);
    wait::until("the storm is beyond what A may send", SOON, || {
        let (passed, dropped) = limited(host, "eth1")?;
        Ok((passed + dropped > 6 * u64::from(NEIGHBOURS.burst)).then_some(()))
    })?;
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for like in any {
        let own: Vec<IpAddr> = (0..20).map(|number| fresh_address(like, number)).collect();
        let lines = own.iter().map(|own| match own {
            IpAddr::V4(_) => format!("addr add {own}/16 dev eth0"),
            IpAddr::V6(_) => format!("addr add {own}/64 dev eth0 nodad"),
        });
        c.netns().ip_batch(&lines.collect::<Vec<_>>())?;
        let mut answered = 0;
        for own in &own {
            answered += u32::from(d.reaches(*own)?);
        }
        ensure!(answered == 20, "{answered} of 20 answer, A has {} entries", entries(host, "eth1")?);
    }
    let (passed, dropped) = limited(host, "eth1")?;
    let most = u64::from(NEIGHBOURS.burst) + u64::from(NEIGHBOURS.per_second) * (begun.elapsed().as_secs() + 1);
    ensure!(passed <= most && dropped > 0, "{passed} of {} passed, at most {most} may", passed + dropped);
    ensure!(entries(host, "eth1")? <= most, "more entries than {most} messages make");
    drop(storm);
    // A's own are resolved as before.
    a.netns()
        .ip_batch(&["addr add 10.1.0.77/16 dev eth0", "addr add fd00:1::77/64 dev eth0 nodad"].map(str::to_owned))?;
    for own in ["10.1.0.77", "fd00:1::77"] {
        wait::until("A's next address answers", SOON, || Ok(d.reaches(own)?.then_some(())))?;
    }
    lab.wait_in_sync()
}

/// Sends first fragments, each of another packet, whose rest never comes: INTERFACE FRAME...
const INCOMPLETE: &str = "import socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
frames = [bytearray.fromhex(text) for text in sys.argv[2:]]
sums = [~int.from_bytes(frame[24:26], 'big') & 0xffff for frame in frames]
for number in range(600):
    for frame, sum in zip(frames, sums):
        ipv4 = frame[12] == 8
        struct.pack_into('!H', frame, 18 if ipv4 else 60, number)
        if ipv4:
            sum += number
            struct.pack_into('!H', frame, 24, ~((sum & 0xffff) + (sum >> 16)) & 0xffff)
        wire.send(frame)";

/// The first fragment of a packet.
fn first_fragment(from: IpAddr, to: IpAddr) -> Vec<u8> {
    if to.is_ipv6() {
        return frames::ip(from, to, 44, &[&[UDP, 0, 0, 1, 0, 0, 0, 0][..], &[0x77; 1400]].concat());
    }
    let mut packet = frames::ip(from, to, UDP, &[0x77; 1400]);
    packet[4..12].copy_from_slice(&[0, 0, 0x20, 0, 64, UDP, 0, 0]);
    let sum = frames::checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// C10: the memory for fragments is one for the whole host. Those that it keeps arrive by ports and from other hosts.
#[test]
fn incomplete_packets_of_a_tenant_leave_room_for_those_of_others() -> Result<()> {
    let topology = peered()
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h1", "eth3", &["10.3.0.1/24", "fd00:3::1/64"])
        .port("vpc-c", "h2", "eth3", &["10.3.1.1/24", "fd00:3:0:1::1/64"]);
    let lab = Lab::in_sync(topology)?;
    let (a, b, far) = (lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1"));
    reach_each_other(a, b)?;
    reach_each_other(a, far)?;
    let gateway = mac(lab.host("h1").netns(), "eth1")?;
    let long = |server: &Server, to: IpAddr| {
        // The first one may announce the path MTU.
        wait::until("a long ping", SOON, || {
            let ping = server.ping_with(to, &["-s", "4000"])?;
            ensure!(ping.answered, "{} {}", ping.line, ping.output);
            Ok(Some(()))
        })
    };
    // What the kernel keeps of each family, and the least that it takes before it refuses fragments of others.
    let kept = |host: &str| -> Result<[(u32, u64); 2]> {
        let text = lab.host(host).netns().exec("cat /proc/net/sockstat /proc/net/sockstat6")?.ok()?;
        let count = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.split(' ').nth(2)?.parse().ok());
        let names = ["net.ipv4.ipfrag_high_thresh", "net.ipv6.ip6frag_high_thresh"];
        let room = lab.host(host).netns().sh(&format!("sysctl -n {}", names.join(" ")))?;
        let room: Vec<u64> = room.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let of = |name, place: usize| Some((count(name)?, *room.get(place)?));
        Ok([of("FRAG:", 0).context("no FRAG")?, of("FRAG6:", 1).context("no FRAG6")?])
    };
    // The kernel keeps them for half a minute.
    let most = FRAGMENTS.burst + 30 * FRAGMENTS.per_second;
    let mut python = Command::new("python3");
    python.args(["-c", INCOMPLETE, NIC]);
    for to in ["10.1.0.1", "10.2.1.1", "fd00:1::1"] {
        let to: IpAddr = to.parse()?;
        let packet = first_fragment(if to.is_ipv4() { a.ipv4()? } else { a.ipv6()? }, to);
        let frame = frames::ethernet(gateway, frames::ethertype(to), &packet);
        python.arg(frames::hex(&frame));
    }
    a.netns().run(&mut python)?.ok()?;
    for (host, family) in [("h1", 0), ("h1", 1), ("h2", 0)] {
        let (count, room) = kept(host)?[family];
        ensure!((1..=most).contains(&count), "{host} keeps {count} fragments");
        ensure!(room > u64::from(most) * (16 << 10), "{host} has {room} bytes for fragments");
    }
    for (server, gateways) in [
        (lab.server("h1", "eth3"), ["10.3.0.1", "fd00:3::1"]),
        (lab.server("h2", "eth3"), ["10.3.1.1", "fd00:3:0:1::1"]),
        (b, ["10.2.0.1", "fd00:2::1"]),
        (far, ["10.2.1.1", "fd00:2:0:1::1"]),
    ] {
        gateways.into_iter().try_for_each(|gateway| long(server, gateway.parse()?))?;
    }
    // What is only forwarded is not limited.
    [b.ipv4()?, b.ipv6()?, far.ipv4()?, far.ipv6()?].into_iter().try_for_each(|to| long(a, to))?;
    lab.wait_in_sync()
}

/// The sender, which ends with this.
struct Storm(Child);

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel's neighbour tables with another limit, until this is dropped. Unless this is the kernel's first network namespace, they
/// stay as they are.
struct Tables(Vec<(String, String)>);

impl Tables {
    fn with_room_for(entries: u32) -> Result<Tables> {
        let mut before = Vec::new();
        for family in ["ipv4", "ipv6"] {
            for (name, value) in [("gc_thresh3", entries), ("gc_thresh2", entries - entries / 8)] {
                let path = format!("/proc/sys/net/{family}/neigh/default/{name}");
                let Ok(was) = fs::read_to_string(&path) else { continue };
                fs::write(&path, value.to_string())?;
                before.push((path, was));
            }
        }
        Ok(Tables(before))
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = fs::write(path, value);
        }
    }
}

/// How many neighbours of both families the kernel has at a port.
fn entries(host: &Netns, port: &str) -> Result<u64> {
    let count = |family: &str| anyhow::Ok(host.ip(&format!("{family} neigh show dev {port}"))?.lines().count());
    Ok((count("-4")? + count("-6")?).try_into()?)
}

/// How many neighbour messages a port has accepted, and how many exceeded the limit.
fn limited(host: &Netns, port: &str) -> Result<(u64, u64)> {
    let filters = host.exec(&format!("tc -s -j filter show dev {port} ingress pref 17232"))?.ok()?;
    let filters: Value = serde_json::from_str(&filters)?;
    let ours = || filters.as_array()?.iter().find(|filter| filter["options"]["handle"] == "0x1");
    let actions = || ours()?["options"]["actions"].as_array();
    let Some([police]) = actions().map(Vec::as_slice) else { bail!("{filters}") };
    ensure!(police["kind"] == "police" && police["pkts_rate"] == NEIGHBOURS.per_second, "{police}");
    ensure!(police["pkts_burst"] == NEIGHBOURS.burst, "{police}");
    let count = |name: &str| police["stats"][name].as_u64().context("no such count");
    let dropped = count("drops")?;
    Ok((count("packets")? - dropped, dropped))
}

/// The address that is tried with this number.
type Target = fn(u32) -> IpAddr;

/// An unused address of C, in the family of another.
fn fresh_address(like: IpAddr, number: u32) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(0x0a03_0100 + number).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 1, low(number)).into(),
    }
}

/// The lower half.
fn low(number: u32) -> u16 {
    let [.., a, b] = number.to_be_bytes();
    u16::from_be_bytes([a, b])
}

/// Datagrams to ever other addresses.
struct Scan {
    stop: Arc<AtomicBool>,
    sent: Arc<std::sync::atomic::AtomicU64>,
    thread: JoinHandle<()>,
}

impl Scan {
    fn start(from: &Server, target: Target, rate: u32) -> Result<Scan> {
        let any: IpAddr = if target(0).is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = from.netns().within(|| Ok(UdpSocket::bind((any, 0))?))?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::atomic::AtomicU64::new(0)));
        let (ends, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            let mut number = 0u32;
            while !ends.load(Ordering::Relaxed) {
                let due = begun.elapsed().as_millis() * u128::from(rate) / 1000;
                while u128::from(number) < due {
                    // The error about an unreachable address is returned by the next call.
                    let _ = socket.send_to(b"?", (target(number), 9));
                    number += 1;
                }
                count.store(u64::from(number), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Ok(Scan { stop, sent, thread })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.sent.load(Ordering::Relaxed)
    }
}
