//! The names of steps, and what accounts are told about them.

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

/// Each step with its name for people, and a description of problems that discloses nothing of the infrastructure.
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
    (
        check::CONFIGURATION,
        "configuration of the host",
        "the host does not have this path in its configuration, or cannot be read",
    ),
    (check::PORT, "port", "the port is missing, down, without a carrier, or not set up as it should be"),
    (check::GATEWAY, "gateway", "the gateway address of the port is missing, or another one is there"),
    (check::PORT_FILTER, "filter of the port", "packets from the port are not filtered as they should be"),
    (check::VRF, "VRF", "the VPC's own routing is missing on the host"),
    (check::RULES, "routing rules", "rules or settings of the host route packets past the VPC"),
    (check::FIREWALL, "firewall of the host", "a packet filter of the host may affect packets of the VPC"),
    (check::TUNNEL, "tunnel", "the tunnel of the peering is missing, down, or not set up as it should be"),
    (check::NEXT_HOP, "next hop", "the next hop for the other host is missing, or leads elsewhere"),
    (check::ROUTE, "route", "the host has no route there, or one that leads elsewhere"),
    (check::NEIGHBOUR, "neighbour", "the MAC address of the next hop is missing on the host"),
    (check::FDB, "forwarding entry", "the forwarding entry for the other host is missing or wrong"),
    (check::SHAPER, "bandwidth limit", "the bandwidth is not limited as it should be, or something loses packets"),
    (check::MTU, "MTU", "longer packets do not pass"),
    (check::UNDERLAY, "path between hosts", "the other host cannot be reached"),
    (check::ACCEPTANCE, "VTEP filter", "packets from the other host are not accepted, or packets from others are"),
    (check::SOURCE_FILTER, "filter of the peering", "packets from the peer are not filtered as they should be"),
    (check::DELIVERY, "route to the port", "the host does not route packets to the port"),
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

/// What an account is told about a problem with a step of its own side.
pub(super) fn reason(step: &str, verdict: StepVerdict) -> &'static str {
    match (verdict, found(step)) {
        (StepVerdict::Unknown, _) if step != HOST => "the state on the host is unknown",
        (_, Some((_, _, reason))) => reason,
        (_, None) => "something on the host is not as it should be",
    }
}

/// Whether a host finds it at its own port, wherever the other end is.
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
