//! Traffic between peers, and what each host may use of a limit that it shares with others.
//!
//! If several hosts send for one side of a peering, they share its bandwidth (rule B3). Each has a small share from its
//! configuration; the rest is granted by the controller, which watches what each needs, and reduces one share before it
//! raises another. Grants are too frequent to be revisions of the configuration. They have revisions of their own,
//! which only go up like those, so that a deposed controller cannot raise a share later.

use crate::{
    host_config::Share,
    id::{HostId, PeeringId},
    net::Vni,
    revision::Revision,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The body of `PUT /v1/shares`: the host's share of each side's bandwidth from now on. Sides that are not named keep
/// theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// The revision of these grants; higher than all before. The epoch is the controller's.
    pub revision: Revision,
    /// By the side's own VNI.
    pub sides: BTreeMap<Vni, Share>,
}

/// The identity of a reading of the counters. Responses may overtake each other on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingId {
    /// The counters: another word if they started from zero, for instance on a reinstalled host. A host that crashed
    /// continues with the counters of up to half a minute before.
    pub counters: String,
    /// The agent's process.
    pub process: String,
    /// The number of the reading within the process; it only goes up.
    pub number: u64,
}

/// The body of `GET /v1/traffic`, and the response to `PUT /v1/shares`, which only contains sides with a limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// The host that the accepted configuration is meant for; none before the first one.
    pub host: Option<HostId>,
    /// The newest grants that were accepted; none before the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Revision>,
    /// The identity of the reading; none from agents that do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<ReadingId>,
    /// Sides that the host has, and those that it had within the last hour, by the side's own VNI.
    pub sides: BTreeMap<Vni, SideTraffic>,
}

/// The traffic of one host for one side.
///
/// Counters begin with the side's first appearance on the host and only go up. They outlive the device, the agent's
/// process and, except for the last half minute, the host. Peers on the same host reach each other without the device:
/// that is not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideTraffic {
    /// The peering.
    pub peering: PeeringId,
    /// Sent to the peer, after the limit.
    pub sent: Count,
    /// Packets that the limit has dropped.
    pub dropped: u64,
    /// Received from the peer. Segments that the network card has coalesced count as one packet.
    pub received: Count,
    /// Bytes waiting in the limit's queue now.
    pub backlog: u64,
    /// The share of the bandwidth that was last seen in the kernel; none if that is unknown, or if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// Bytes of whole Ethernet frames, without the VXLAN encapsulation, and packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Count {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Count) -> Count {
        Count { bytes: self.bytes.saturating_add(other.bytes), packets: self.packets.saturating_add(other.packets) }
    }

    /// The increase since an earlier count; nothing if that is larger.
    #[must_use]
    pub fn since(self, earlier: Count) -> Count {
        Count { bytes: self.bytes.saturating_sub(earlier.bytes), packets: self.packets.saturating_sub(earlier.packets) }
    }
}
