//! Ingress filters, as values.

use super::Effect;
use crate::filter::{PacketRate, Program};
use cps_peering_config::net::{InterfaceName, Vni};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// An ingress filter on a device of a VRF (rule C7).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IngressFilter {
    /// Drops what exceeds the rate of what the program selects, and leaves everything else to the filters behind it.
    Limit(Program, PacketRate),
    /// Drops what the program rejects ([`REJECTED`](crate::filter::REJECTED)), and leaves everything else to the filters
    /// behind it.
    Reject(Program),
    /// Accepts what the program accepts, and leaves everything else to the filters behind it.
    Accept(Program),
    /// Drops what no other filter accepted.
    DropRest,
}

/// The ingress filters of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Our filters, by handle; none for one in our place that we would never make like that.
    pub filters: BTreeMap<FilterHandle, Option<IngressFilter>>,
    /// Whether the qdisc that holds them is of another kind than ours.
    pub is_foreign: bool,
    /// Filters of others, in the terms of `tc`, with their effect.
    pub foreign: BTreeMap<String, Effect>,
    /// The lowest priority of others' filters, which see packets before those behind them.
    pub foreign_from: Option<u16>,
    /// The kernel's id of the underlay filter's program, if it is attached; 0 for another one in its place.
    pub underlay_program: Option<u32>,
}

impl Ingress {
    /// Whether the device was a port: it has something that no other program makes.
    pub fn is_of_a_port(&self) -> bool {
        self.filters.values().any(|filter| *filter == Some(IngressFilter::DropRest))
    }
}

/// The underlay filter: who may send to this host with which VNI (rule C7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderlayState {
    /// The VTEPs that may send with each VNI of ours; none if only another process can read that.
    pub senders: Option<BTreeMap<Vni, BTreeSet<IpAddr>>>,
    /// The devices that it is attached to, each with its role there; none if only another process can tell that.
    pub guarded: BTreeMap<InterfaceName, Option<GuardKind>>,
    /// Whether the kernel refuses to have one: then nothing may be received from the underlay.
    pub unavailable: bool,
}

/// What the underlay filter examines on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardKind {
    /// All that the device receives for this host.
    Device,
    /// What a bond, team or bridge leaves to this member.
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
