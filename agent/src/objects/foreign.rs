//! What others have in our tables, on our devices and on ports.

use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What something of somebody else does to packets of VPCs that meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Some may be lost, changed or led elsewhere: which ones, nobody can tell.
    MayDrop,
    /// Every one is lost.
    DropsAll,
}

/// Objects of others that packets of VPCs may meet. Nothing of it is ever changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Routes in tables of ours that are neither ours nor the kernel's own, and routes of other tables that lead to our
    /// devices. At most [`Foreign::MAX_ROUTES`], sorted.
    pub routes: Vec<ForeignRoute>,
    /// How many more such routes there are.
    pub more_routes: usize,
    /// Filters on what our devices and ports send (`clsact` egress), in the words of `tc`, with what they do. Those on what
    /// arrives are in [`Ingress::foreign`](super::Ingress::foreign).
    pub egress_filters: BTreeMap<InterfaceName, BTreeMap<String, Effect>>,
    /// Queueing disciplines of our devices and ports that the kernel does not set by itself, in the words of `tc`.
    pub qdiscs: BTreeMap<InterfaceName, BTreeSet<String>>,
}

impl Foreign {
    /// The longest list of routes that is kept.
    pub const MAX_ROUTES: usize = 200;
}

/// A route may have hundreds of next hops. So many of their devices are shown.
const MOST_SHOWN: usize = 4;

/// A route of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRoute {
    /// The routing table.
    pub table: u32,
    /// The destination.
    pub prefix: IpNet,
    /// The metric.
    pub metric: u32,
    /// What becomes of a packet.
    pub fate: Fate,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
}

/// What a route of somebody else does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Sends it out of one of these devices; none where the kernel does not say of which.
    Sent(BTreeSet<InterfaceName>),
    /// Takes it in for the host.
    Local,
    /// Goes on to the next rule, and so to the host's other tables.
    Thrown,
    /// Drops it, with an answer or without.
    Dropped,
    /// A type that is not known here, by its number (`rtm_type`).
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
