//! What steps are called, and what accounts are told of them.

use super::{FixableBy, StepVerdict};
use cps_peering_config::trace::check;

pub(super) const VPC: &str = "vpc";
pub(super) const SOURCE_PORT: &str = "sourcePort";
pub(super) const PEERING: &str = "peering";
pub(super) const ARREARS: &str = "arrears";
pub(super) const BANDWIDTH: &str = "bandwidth";
pub(super) const ROUTE_POLICY: &str = "routePolicy";
pub(super) const DESTINATION_PORT: &str = "destinationPort";
pub(super) const HOST: &str = "host";
pub(super) const PROBE: &str = "probe";
pub(super) const PEER_SIDE: &str = "peerSide";
/// A step of an agent that is newer than this controller.
pub(super) const OTHER: &str = "other";

/// Each step with its name for people, and what is wrong with it in words that tell nothing of the infrastructure.
const STEPS: [(&str, &str, &str); 30] = [
    (VPC, "VPC of the source", ""),
    (SOURCE_PORT, "port of the source", ""),
    (PEERING, "peering", ""),
    (ARREARS, "arrears", ""),
    (BANDWIDTH, "bandwidth", ""),
    (ROUTE_POLICY, "route policy", ""),
    (DESTINATION_PORT, "port of the destination", ""),
    (PEER_SIDE, "the peer's side", ""),
    (PROBE, "probe", ""),
    (OTHER, "something else", "something on the host is not as it should be"),
    (HOST, "host", "the host of the port does not answer, or has another configuration than it should have"),
    (check::CONFIGURATION, "configuration of the host", "the host has not been told of this path, or cannot be read"),
    (check::PORT, "port", "the port is missing, down, without a carrier, or not set up as it should be"),
    (check::GATEWAY, "gateway", "the gateway address of the port is missing, or another one is there"),
    (check::PORT_FILTER, "filter of the port", "packets from the port are not filtered as they should be"),
    (check::VRF, "VRF", "the VPC's own routing is missing on the host"),
    (check::RULES, "routing rules", "rules or settings of the host lead packets past the VPC"),
    (check::FIREWALL, "firewall of the host", "a packet filter of the host meets packets of the VPC"),
    (check::TUNNEL, "tunnel", "the tunnel of the peering is missing, down, or not set up as it should be"),
    (check::NEXT_HOP, "next hop", "the next hop for the other host is missing, or leads elsewhere"),
    (check::ROUTE, "route", "the host has no route there, or one that leads elsewhere"),
    (check::NEIGHBOUR, "neighbour", "the address of the next hop is not known on the host"),
    (check::FDB, "forwarding entry", "the host does not know to which other host packets go"),
    (check::SHAPER, "bandwidth limit", "the bandwidth is not limited as it should be, or something loses packets"),
    (check::MTU, "MTU", "longer packets do not pass"),
    (check::UNDERLAY, "way between hosts", "the other host cannot be reached"),
    (check::ACCEPTANCE, "VTEP filter", "what the other host sends is not taken in, or more than that is"),
    (check::SOURCE_FILTER, "filter of the peering", "what comes from the peer is not filtered as it should be"),
    (check::DELIVERY, "route to the port", "the host does not lead packets to the port"),
    (
        check::DESTINATION,
        "neighbour entry of the server",
        "the server does not answer, or the entry for its Ethernet address was written by hand",
    ),
];

fn found(step: &str) -> Option<&'static (&'static str, &'static str, &'static str)> {
    STEPS.iter().find(|(word, ..)| *word == step)
}

pub(super) fn is_known(step: &str) -> bool {
    found(step).is_some()
}

pub(super) fn title(step: &str) -> &'static str {
    found(step).map_or("something else", |(_, title, _)| title)
}

/// What an account is told of a step of its own side that is not as it should be.
pub(super) fn reason(step: &str, verdict: StepVerdict) -> &'static str {
    match (verdict, found(step)) {
        (StepVerdict::Unknown, _) if step != HOST => "it is not known how this is on the host",
        (_, Some((_, _, reason))) => reason,
        (_, None) => "something on the host is not as it should be",
    }
}

/// Whether a host finds it at a port of its own, wherever the other end is.
pub(super) fn is_of_own_part(step: &str) -> bool {
    let own = [HOST, check::CONFIGURATION, check::PORT, check::GATEWAY, check::PORT_FILTER, check::VRF, check::RULES];
    own.contains(&step) || step == check::DESTINATION
}

/// Who can fix a step on a host.
pub(super) fn fixable_by(step: &str) -> FixableBy {
    match step {
        check::DESTINATION => FixableBy::Caller,
        _ => FixableBy::Operator,
    }
}
