//! Filters of what arrives, as values.

use super::Effect;
use crate::filter::{PacketRate, Program};
use cps_peering_config::net::{InterfaceName, Vni};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// A filter on what arrives at a device of a VRF (rule C7).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IngressFilter {
    /// Drops what comes beyond the rate of what the program selects, and leaves everything else to the filters behind it.
    Limit(Program, PacketRate),
    /// Drops what the program rejects ([`REJECTED`](crate::filter::REJECTED)), and leaves everything else to the filters
    /// behind it.
    Reject(Program),
    /// Takes in what the program accepts, and leaves everything else to the filters behind it.
    Accept(Program),
    /// Drops what no other filter took.
    DropRest,
}

/// What arrives at a device is looked at by these filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Our filters, by handle; none for what is on our place but not as we would ever make it.
    pub filters: BTreeMap<FilterHandle, Option<IngressFilter>>,
    /// Whether the qdisc that holds them is of another kind than ours.
    pub is_foreign: bool,
    /// Filters that others have there, in the words of `tc`, with what they do.
    pub foreign: BTreeMap<String, Effect>,
    /// The lowest priority of others' filters, which look at packets before those behind them.
    pub foreign_from: Option<u16>,
    /// The program of the underlay's filter, by the kernel's id for it, where it is there; 0 for another one in its place.
    pub underlay_program: Option<u32>,
}

impl Ingress {
    /// Whether the device was a port: something is there that nobody else makes.
    pub fn is_of_a_port(&self) -> bool {
        self.filters.values().any(|filter| *filter == Some(IngressFilter::DropRest))
    }
}

/// The filter of the underlay: who may send to this host with which VNI (rule C7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderlayState {
    /// The VTEPs that may send with each VNI of ours; none where only another process can read that.
    pub senders: Option<BTreeMap<Vni, BTreeSet<IpAddr>>>,
    /// The devices on which it is, each with what it is there for; none where only another process can tell that.
    pub guarded: BTreeMap<InterfaceName, Option<GuardKind>>,
    /// Whether the kernel refuses to have one: then nothing may be taken from the underlay.
    pub unavailable: bool,
}

/// What the filter of the underlay looks at on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardKind {
    /// All that the device receives for this host.
    Device,
    /// What a bond, team or bridge leaves to this member of it.
    Member,
}

/// A filter's place on its device: priority and handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterHandle {
    /// The priority; lower comes first.
    pub priority: u16,
    /// The number within the priority, from 1.
    pub handle: u32,
}

impl fmt::Display for FilterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {} handle {}", self.priority, self.handle)
    }
}
