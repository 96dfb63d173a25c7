//! Objects of others in our tables, on our devices and on ports.

use cps_peering_config::net::{InterfaceName, Mac};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// The effect of another program's object on VPC packets that reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Some may be lost, changed or diverted: which ones is unknown.
    MayDrop,
    /// All are lost.
    DropsAll,
}

/// Objects of others in the path of VPC packets. None of them is ever changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Routes in tables of ours that are neither ours nor the kernel's own, and routes of other tables that lead to our
    /// devices. At most [`Foreign::MAX_ROUTES`], sorted.
    pub routes: Vec<ForeignRoute>,
    /// How many more such routes there are.
    pub more_routes: usize,
    /// Egress filters of our devices and ports (`clsact`), in the terms of `tc`, with their effect. Ingress filters are
    /// in [`Ingress::foreign`](super::Ingress::foreign).
    pub egress_filters: BTreeMap<InterfaceName, BTreeMap<String, Effect>>,
    /// Queueing disciplines of our devices and ports other than the kernel's defaults, in the terms of `tc`.
    pub qdiscs: BTreeMap<InterfaceName, BTreeSet<String>>,
    /// Neighbours of ports that the kernel does not resolve itself. At most [`Foreign::MAX_NEIGHBOURS`].
    pub neighbours: BTreeSet<ForeignNeighbour>,
    /// How many more of them there are.
    pub more_neighbours: usize,
}

impl Foreign {
    /// The longest list of routes that is kept.
    pub const MAX_ROUTES: usize = 200;
    /// The longest list of neighbours that is kept.
    pub const MAX_NEIGHBOURS: usize = 200;
}

/// A neighbour of a port that another program has entered: the kernel neither verifies nor replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignNeighbour {
    /// The port.
    pub device: InterfaceName,
    /// The address.
    pub address: IpAddr,
    /// What is entered for it.
    pub entry: NeighbourEntry,
}

/// An entry for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighbourEntry {
    /// Packets for the address are sent to this Ethernet address, if any (`permanent` or `noarp`).
    Fixed(Option<Mac>),
    /// The host answers for the address (`proxy`).
    Proxy,
}

impl fmt::Display for ForeignNeighbour {
    /// As `ip neigh` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, address, entry } = self;
        match entry {
            NeighbourEntry::Fixed(Some(mac)) => write!(f, "neighbour {address} dev {device} lladdr {mac}"),
            NeighbourEntry::Fixed(None) => write!(f, "neighbour {address} dev {device}"),
            NeighbourEntry::Proxy => write!(f, "neighbour proxy {address} dev {device}"),
        }
    }
}

/// A route may have hundreds of next hops. This many of their devices are shown.
const MOST_SHOWN: usize = 4;

/// A route of another program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRoute {
    /// The routing table.
    pub table: u32,
    /// The destination.
    pub prefix: IpNet,
    /// The metric.
    pub metric: u32,
    /// What happens to packets.
    pub fate: Fate,
    /// The origin of the route (`rtm_protocol`).
    pub protocol: u8,
}

/// What a route of another program does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Sends it out through one of these devices; none if the kernel does not report which.
    Sent(BTreeSet<InterfaceName>),
    /// Delivers it to the host.
    Local,
    /// Continues with the next rule, and so with the host's other tables.
    Thrown,
    /// Drops it, with or without an ICMP error.
    Dropped,
    /// An unknown type, by its number (`rtm_type`).
    Unknown(u8),
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.prefix)?;
        match &self.fate {
            Fate::Sent(devices) if devices.is_empty() => f.write_str(" by a next hop that is not known")?,
            Fate::Sent(devices) => {
                devices.iter().take(MOST_SHOWN).try_for_each(|device| write!(f, " dev {device}"))?;
                if devices.len() > MOST_SHOWN {
                    write!(f, " and {} more", devices.len() - MOST_SHOWN)?;
                }
            }
            Fate::Local => f.write_str(" type local")?,
            Fate::Thrown => f.write_str(" type throw")?,
            Fate::Dropped => f.write_str(" type blackhole")?,
            Fate::Unknown(number) => write!(f, " type {number}")?,
        }
        write!(f, " table {} proto {}", self.table, protocol_name(self.protocol))
    }
}

/// The name of a route protocol as `ip` shows it (`rt_protos` of iproute2), or its number.
fn protocol_name(protocol: u8) -> String {
    let name = match protocol {
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    };
    name.to_owned()
}
