//! What was seen of one end of a path.

use super::path_end::PathEnd;
use crate::{
    kernel::{
        NetlinkError,
        trace::{Neighbour, QueueState, RouteFound},
    },
    objects::{Desired, Link, Observed},
};
use cps_peering_config::{net::InterfaceName, trace::PathEndpoints};
use std::collections::BTreeMap;

/// All that was seen of one end of a path.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    /// The ends of the path.
    pub(super) query: &'a PathEndpoints,
    /// Whether the query names a protocol.
    pub(super) has_protocol: bool,
    /// Its path end.
    pub(super) end: &'a PathEnd,
    /// Its desired objects.
    pub(super) desired: &'a Desired,
    /// Its observed objects.
    pub(super) observed: &'a Observed,
    /// Every device of the host.
    pub(super) links: &'a BTreeMap<InterfaceName, Link>,
    /// The kernel's own lookups.
    pub(super) lookups: Lookups,
}

/// The result of a route lookup; none if it could not be made.
pub(super) type Lookup = Option<Result<RouteFound, NetlinkError>>;

/// The kernel's own lookups.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// From the port to the other address.
    pub(super) route: Lookup,
    /// From the tunnel to the own address.
    pub(super) delivery: Lookup,
    /// Through the underlay to the other host.
    pub(super) underlay: Lookup,
    /// To the own VTEP address.
    pub(super) own_vtep: Lookup,
    /// The server with the own address.
    pub(super) destination: Option<Neighbour>,
    /// The other host, or the router towards it.
    pub(super) next_in_underlay: Option<Neighbour>,
    /// The queue of the shaper.
    pub(super) queue: Option<QueueState>,
}
