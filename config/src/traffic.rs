//! What passes between peers, and what each host may use of a limit that it shares with others.
//!
//! Where several hosts send for one side of a peering, they share its bandwidth (rule B3). Each has a small share from its
//! configuration; the rest is granted by the controller, which looks at what each needs, and takes from one before it gives
//! to another. Grants are too many to be revisions of the configuration. They have revisions of their own, which only go up
//! like those, so that nothing of a deposed controller can raise a share later.

use crate::{
    host_config::Share,
    id::{HostId, PeeringId},
    net::Vni,
    revision::Revision,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The body of `PUT /v1/shares`: what the host may use of each side's bandwidth from now on. Sides that are not named keep
/// what they have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Which grants these are; higher than all before. The epoch is the controller's.
    pub revision: Revision,
    /// By the side's own VNI.
    pub sides: BTreeMap<Vni, Share>,
}

/// Which reading of the counters it is. Answers may overtake each other on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingId {
    /// The counters: another word where they began from nothing, for instance on a host that was installed anew. A host that
    /// went down without warning goes on with those of up to half a minute before.
    pub counters: String,
    /// The agent's process.
    pub process: String,
    /// The number of the reading within the process; it only goes up.
    pub number: u64,
}

/// The body of `GET /v1/traffic`, and the answer to `PUT /v1/shares`, which tells only of sides with a limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// The host that the accepted configuration is meant for; none before the first one.
    pub host: Option<HostId>,
    /// The newest grants that were accepted; none before the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Revision>,
    /// Which reading it is; none from agents that do not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<ReadingId>,
    /// Sides that the host has, and those that it had within the last hour, by the side's own VNI.
    pub sides: BTreeMap<Vni, SideTraffic>,
}

/// What one host sent and received for one side.
///
/// Counters begin with the side's first appearance on the host and only go up. They outlive the device, the agent's process
/// and, but for the last half minute, the host. Peers on the same host reach each other without the device: that is not
/// counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideTraffic {
    /// The peering.
    pub peering: PeeringId,
    /// What was sent to the peer, after the limit.
    pub sent: Count,
    /// Packets that the limit has dropped.
    pub dropped: u64,
    /// What came from the peer. What the network card had joined counts as one packet.
    pub received: Count,
    /// What waits in the limit's queue now, in bytes.
    pub backlog: u64,
    /// The part of the bandwidth that the kernel was last seen to let pass; none where that is not known, and where there is
    /// no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// Bytes of whole Ethernet frames, without VXLAN around them, and packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Count {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Count) -> Count {
        Count { bytes: self.bytes.saturating_add(other.bytes), packets: self.packets.saturating_add(other.packets) }
    }

    /// What came since an earlier count; nothing where that is more.
    #[must_use]
    pub fn since(self, earlier: Count) -> Count {
        Count { bytes: self.bytes.saturating_sub(earlier.bytes), packets: self.packets.saturating_sub(earlier.packets) }
    }
}
