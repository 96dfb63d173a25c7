//! A probe query to an agent for the path between two gateways, and its answer.
//!
//! A probe is an ICMP echo request that a host sends in a VPC's VRF, from a gateway address of its own there to one of
//! another host. The kernel there replies (rule C8), so that no server of a tenant takes part. New fields have
//! defaults, unknown ones are ignored: one version older and newer work together.

use crate::{id::PeeringId, net::Vni};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// Why nothing was sent, or nothing can be concluded from the result. The other fields are then meaningless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_probed: Option<String>,
    /// Small packets to be sent.
    #[serde(default)]
    pub sent: u32,
    /// How many of these came back.
    #[serde(default)]
    pub received: u32,
    /// The shortest round-trip time of these, in microseconds; none if none came back.
    #[serde(default)]
    pub round_trip_min_us: Option<u64>,
    /// The median, likewise.
    #[serde(default)]
    pub round_trip_median_us: Option<u64>,
    /// The longest IP packet that should pass, in bytes; none if that is unknown, or if both addresses are on one host.
    #[serde(default)]
    pub expected_mtu: Option<u32>,
    /// The longest packet that came back whole, in bytes. It was sent with DF (IPv6: by a host that does not fragment).
    /// None if none came back, or none was to.
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// Echo replies that did not belong to this probe, although they looked like it.
    #[serde(default)]
    pub forged: u32,
    /// The kernel's error when it did not accept a packet; empty if it accepted all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub send_error: String,
}

/// The most sides of peerings that one host reports probes of.
pub const MAX_SIDES: usize = 4096;

/// The body of `GET /v1/probes`: the state of a host's peerings, from continuous probes. Agents before 0.3.0 respond
/// with 404.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The probe interval of each path if the budget permits, in seconds; 0: never.
    #[serde(default)]
    pub interval_s: u64,
    /// Sides with a result, by their own VNIs, at most [`MAX_SIDES`].
    #[serde(default)]
    pub sides: BTreeMap<Vni, SideProbes>,
}

/// The results of one host's newest probes for one side of a peering: the worst of the paths to the peer's hosts, each
/// in either family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideProbes {
    /// The peering.
    pub peering: PeeringId,
    /// How many of the newest packets of the path with the largest loss are counted: some twenty, once there are.
    pub sent: u32,
    /// How many of these did not come back. Long packets that are lost where short ones pass do not count: they are
    /// reported by [`mtu_black_hole`](Self::mtu_black_hole).
    pub lost: u32,
    /// The longest of the newest round-trip times, in microseconds; none if nothing comes back.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// Whether there is a path on which long packets are lost and short ones pass; none if that is unknown for all.
    #[serde(default)]
    pub mtu_black_hole: Option<bool>,
    /// The age of the oldest of these values, in milliseconds.
    pub age_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_and_missing_fields_of_another_version_are_tolerated() {
        let newer = r#"{"version":"9","colour":1,"sent":3,"received":2,"round_trip_min_us":7}"#;
        let answer: ProbeAnswer = serde_json::from_str(newer).unwrap();
        assert_eq!((answer.sent, answer.received, answer.round_trip_min_us, answer.path_mtu), (3, 2, Some(7), None));
        let newer =
            r#"{"moon":1,"interval_s":5,"sides":{"7":{"peering":"p","sent":20,"lost":1,"age_ms":9,"colour":2}}}"#;
        let report: ProbeReport = serde_json::from_str(newer).unwrap();
        let side = report.sides.values().next().unwrap();
        assert_eq!((side.lost, side.round_trip_us, side.mtu_black_hole), (1, None, None));
        assert_eq!(serde_json::from_str::<ProbeReport>("{}").unwrap(), ProbeReport::default());
    }
}
