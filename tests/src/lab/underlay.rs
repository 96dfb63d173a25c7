//! The network between hosts: in one namespace a bridge per region, with routing between them.

use crate::netns::Netns;
use anyhow::Result;
use std::{collections::BTreeMap, net::IpAddr};

/// The interface of a host, and of the controller, on the underlay.
pub const UPLINK: &str = "uplink";

/// The underlay.
///
/// Any addresses are possible: each is a host route on its region's bridge. Hosts of one region reach each other on the
/// link, all else goes through the bridge's own address.
#[derive(Debug)]
pub struct Underlay {
    netns: Netns,
    mtu: u32,
    regions: BTreeMap<String, Region>,
    members: u32,
}

#[derive(Debug)]
struct Region {
    bridge: String,
    /// The IPv4 gateway. That of IPv6 is `fe80::1` everywhere.
    gateway: String,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    netns: String,
    addresses: Vec<IpAddr>,
}

impl Underlay {
    /// An underlay without members.
    pub fn create(name: &str, mtu: u32) -> Result<Underlay> {
        let netns = Netns::create(name)?;
        netns.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        Ok(Underlay { netns, mtu, regions: BTreeMap::new(), members: 0 })
    }

    /// The namespace that routes.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Gives a namespace an interface in a region, with these addresses.
    pub fn attach(&mut self, netns: &Netns, region: &str, addresses: &[IpAddr]) -> Result<()> {
        let mtu = self.mtu;
        if !self.regions.contains_key(region) {
            let number = self.regions.len() + 1;
            let new = Region { bridge: format!("br{number}"), gateway: format!("169.254.0.{number}"), members: vec![] };
            self.netns.ip_batch(&[
                format!("link add {} mtu {mtu} type bridge", new.bridge),
                format!("addr add {}/32 dev {}", new.gateway, new.bridge),
                format!("addr add fe80::1/64 dev {} nodad", new.bridge),
                format!("link set {} up", new.bridge),
            ])?;
            self.regions.insert(region.to_owned(), new);
        }
        let region = self.regions.get_mut(region).expect("just made");
        self.members += 1;
        let port = format!("port{}", self.members);
        let bridge = &region.bridge;
        let mut here = vec![
            format!("link add {port} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {}", netns.name()),
            format!("link set {port} master {bridge} up"),
        ];
        let mut there = vec![format!("link set {UPLINK} up")];
        for address in addresses {
            let host = host_prefix(address);
            here.push(format!("route add {host} dev {bridge}"));
            there.push(format!("addr add {host} dev {UPLINK}{}", if address.is_ipv6() { " nodad" } else { "" }));
        }
        if addresses.iter().any(IpAddr::is_ipv4) {
            there.push(format!("route add default via {} dev {UPLINK} onlink", region.gateway));
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            there.push(format!("route add default via fe80::1 dev {UPLINK}"));
        }
        self.netns.ip_batch(&here)?;
        netns.ip_batch(&there)?;
        region.members.push(Member { netns: netns.name().to_owned(), addresses: addresses.to_vec() });
        Ok(())
    }

    /// The on-link routes that a member needs to the others of its region.
    pub fn neighbours_of(&self, netns: &Netns) -> Vec<String> {
        let inside = |region: &&Region| region.members.iter().any(|member| member.netns == netns.name());
        let Some(region) = self.regions.values().find(inside) else { return vec![] };
        let others = region.members.iter().filter(|member| member.netns != netns.name());
        let addresses = others.flat_map(|member| &member.addresses);
        addresses.map(|address| format!("route add {} dev {UPLINK}", host_prefix(address))).collect()
    }
}

/// The prefix of just this address.
pub(super) fn host_prefix(address: &IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
