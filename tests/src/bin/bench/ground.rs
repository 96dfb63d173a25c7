//! Network namespaces for measurements, and the configurations and routes that are measured.

use crate::raw::Raw;
use anyhow::{Context, Result};
use cps_peering_config::{
    HostConfig, Revision,
    host_config::{Gateways, PortConfig, Ports, Remotes, SideConfig, VrfConfig},
};
use cps_peering_tests::{command, netns::Netns};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The VNI of the VPC on the host; its routing table follows from it.
const VPC_VNI: u32 = 10;
/// The VNI of the first VPC of [`spread_peerings`]; those of sides and their peers are below it.
const FIRST_SPREAD_VNI: u32 = 1_000_000;
/// The VNI of the VPC's first side; the peer's side of each is 100 000 higher.
const FIRST_SIDE: u32 = 1001;
/// The host's VTEP address, and that of the host with the peers' ports.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

pub(crate) fn table() -> u32 {
    cps_peering_agent::ownership::table(VPC_VNI.try_into().expect("a legal VNI"))
}

/// Whether the kernel has VRF devices; tried in this process' own namespace, which is the bench's.
pub(crate) fn kernel_has_vrf() -> bool {
    let add = command::run(Command::new("ip").args("link add vrf-test type vrf table 10".split(' ')));
    let there = add.is_ok_and(|ended| ended.status.success());
    // If it was not created, there is nothing to remove.
    let _ = command::run(Command::new("ip").args(["link", "delete", "vrf-test"]));
    there
}

/// A new namespace with an underlay and a tenant's interface: what an agent finds on a host.
pub(crate) fn host() -> Result<Netns> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let netns = Netns::create(&format!("bench{}", NUMBER.fetch_add(1, Ordering::Relaxed)))?;
    netns.ip_batch(
        &[
            "link add underlay type veth peer name far",
            "address add 192.0.2.1/24 dev underlay",
            "link set underlay up",
            "link set far up",
            "link add port0 type veth peer name tenant",
            "link set tenant up",
        ]
        .map(str::to_owned),
    )?;
    lead_to_table(&netns)?;
    Ok(netns)
}

/// Stands in for the VRF in route lookups: packets to the tenants' addresses are looked up in their table. Behind the
/// rule for local addresses, which the agent moves to 1001.
fn lead_to_table(netns: &Netns) -> Result<()> {
    for rule in ["rule", "-6 rule"] {
        for to in if rule == "rule" { ["10.0.0.0/8", "192.168.0.0/16"] } else { ["fd00::/9", "fd80::/9"] } {
            netns.ip(&format!("{rule} add priority 2000 to {to} lookup {}", table()))?;
        }
    }
    Ok(())
}

/// A namespace with a VXLAN device that is up, and its index: the other programs get it ready-made.
pub(crate) fn device() -> Result<(Netns, u32)> {
    let netns = host()?;
    netns.ip("link add p type vxlan id 1001 dstport 4789 local 192.0.2.1 nolearning")?;
    netns.ip("link set p up")?;
    netns.ip("neigh add fe80::2 lladdr 02:00:c0:00:02:02 dev p nud permanent")?;
    let index = index_of(&netns, "p")?;
    Ok((netns, index))
}

pub(crate) fn index_of(netns: &Netns, device: &str) -> Result<u32> {
    let text = netns.ip(&format!("-oneline link show dev {device}"))?;
    let (index, _) = text.split_once(':').context("no index")?;
    Ok(index.trim().parse()?)
}

/// Removes a namespace whose routes all use next hops, and waits until it is gone: the kernel does it asynchronously,
/// and must not do it during a measurement.
pub(crate) fn clear(netns: Netns) -> Result<()> {
    netns.ip("nexthop flush")?;
    for family in ["-4", "-6"] {
        // An empty table is an error.
        let _ = netns.ip(&format!("{family} route flush table {}", table()));
    }
    drop(netns);
    thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Consecutive addresses from the start of a peer's network, as host routes.
pub(crate) fn prefixes(family: u8, start: u32, count: u32) -> Vec<IpNet> {
    let v6 = |number: u32| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, (number >> 16) as u16, (number & 0xffff) as u16);
    (start..start + count)
        .map(|number| match family {
            4 => IpNet::V4(Ipv4Net::from(Ipv4Addr::from(0x0a00_0000 + number))),
            _ => IpNet::V6(Ipv6Net::from(v6(number))),
        })
        .collect()
}

/// A host with one VPC and no peering.
pub(crate) fn bare() -> HostConfig {
    let net = |text: &str| text.parse().expect("a legal prefix");
    let port = PortConfig { gateways: vec![net("192.168.0.1/24")], prefixes: vec![net("192.168.0.0/24")] };
    let vrf = VrfConfig {
        vni: VPC_VNI.try_into().expect("a legal VNI"),
        ports: Ports::from_iter([("port0".parse().expect("a legal name"), port)]),
        remotes: Remotes::default(),
        path_mtu: None,
        shared_gateways: Vec::new(),
    };
    HostConfig {
        revision: Revision { epoch: 1, number: 1 },
        host: "h1".parse().expect("a legal id"),
        underlay: HOST.into(),
        vrfs: BTreeMap::from([("vpc-a".parse().expect("a legal id"), vrf)]),
        sides: BTreeMap::new(),
    }
}

/// The number of the VPC's n-th side.
pub(crate) fn side_vni(number: u32) -> cps_peering_config::net::Vni {
    (FIRST_SIDE + number).try_into().expect("a legal VNI")
}

/// The VPC's n-th side: a peer on the remote host with these CIDRs and prefixes.
pub(crate) fn side(number: u32, cidrs: Vec<IpNet>, prefixes: Vec<IpNet>) -> SideConfig {
    SideConfig {
        peering: format!("vpcpr-{number}").parse().expect("a legal id"),
        vpc: "vpc-a".parse().expect("a legal id"),
        peer_vni: (FIRST_SIDE + number + 100_000).try_into().expect("a legal VNI"),
        peer_cidrs: cidrs,
        own_prefixes: None,
        remotes: Remotes::from_iter([(IpAddr::V4(REMOTE), prefixes)]),
        path_mtu: None,
        gateways: Gateways::default(),
        limit: None,
    }
}

/// One peering with this many routes.
pub(crate) fn one_peering(family: u8, routes: u32) -> HostConfig {
    let cidr = if family == 4 { "10.0.0.0/8" } else { "fd00::/32" };
    let mut config = bare();
    config.sides.insert(side_vni(0), side(0, vec![cidr.parse().expect("a legal prefix")], prefixes(family, 0, routes)));
    config
}

/// Many peerings of one VPC, each with its own /24 in which `routes` addresses are routed.
pub(crate) fn many_peerings(peerings: u32, routes: u32) -> HostConfig {
    let mut config = bare();
    config.sides = (0..peerings).map(|number| (side_vni(number), small_side(number, routes))).collect();
    config
}

/// One of [`many_peerings`].
pub(crate) fn small_side(number: u32, routes: u32) -> SideConfig {
    let first = number * 256;
    let cidr = Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + first), 24);
    side(number, vec![cidr.into()], prefixes(4, first, routes))
}

/// Many peerings that are spread over VPCs, up to `per_vpc` in each.
pub(crate) fn spread_peerings(peerings: u32, per_vpc: u32, routes: u32) -> HostConfig {
    let mut config = bare();
    for vpc in 0..peerings.div_ceil(per_vpc) {
        let vni = (FIRST_SPREAD_VNI + vpc).try_into().expect("a legal VNI");
        let vrf = VrfConfig {
            vni,
            ports: Ports::default(),
            remotes: Remotes::default(),
            path_mtu: None,
            shared_gateways: Vec::new(),
        };
        config.vrfs.insert(vpc_id(vpc), vrf);
    }
    let sides = (0..peerings).map(|number| (side_vni(number), spread_side(number, per_vpc, routes)));
    config.sides = sides.collect();
    config
}

/// One of [`spread_peerings`].
pub(crate) fn spread_side(number: u32, per_vpc: u32, routes: u32) -> SideConfig {
    SideConfig { vpc: vpc_id(number / per_vpc), ..small_side(number, routes) }
}

fn vpc_id(number: u32) -> cps_peering_config::id::VpcId {
    format!("vpc-{number}").parse().expect("a legal id")
}

/// Waits until all of a sample of these routes, the last one among them, are reachable; returns when that was.
pub(crate) fn wait_for_routes(raw: &mut Raw, prefixes: &[IpNet], within: Duration) -> Result<Instant> {
    const SAMPLE: usize = 256;
    let deadline = Instant::now() + within;
    let step = (prefixes.len() / SAMPLE).max(1);
    // From the end: a program that adds them in order is done when the first one here exists.
    for prefix in prefixes.iter().rev().step_by(step) {
        while !raw.reaches(prefix.addr())? {
            anyhow::ensure!(Instant::now() < deadline, "{prefix} is not in the kernel after {within:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(Instant::now())
}
