//! What an agent is asked to send along the path between two gateways, and what came back.
//!
//! A probe is an ICMP echo request that a host sends in a VPC's VRF, from a gateway address that is its own there to one of another
//! host. The kernel there answers (rule C8), so that no server of a tenant takes part. New fields have defaults, unknown ones are
//! passed over: one version older and newer work together.

use crate::{id::PeeringId, net::Vni};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// Why nothing was sent, or nothing can be concluded from what was. All else means nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_probed: Option<String>,
    /// Small packets that were to be sent.
    #[serde(default)]
    pub sent: u32,
    /// How many of these came back.
    #[serde(default)]
    pub received: u32,
    /// The shortest time that one of them took there and back, in microseconds; none where none came back.
    #[serde(default)]
    pub round_trip_min_us: Option<u64>,
    /// The median, likewise.
    #[serde(default)]
    pub round_trip_median_us: Option<u64>,
    /// The longest IP packet that should pass, in bytes; none where nothing is known of that, as on one host.
    #[serde(default)]
    pub expected_mtu: Option<u32>,
    /// The longest that came back whole, in bytes. It was sent with DF (IPv6: by a host that does not fragment). None where
    /// none came back, or none was to.
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// Echo replies that were none to this probe, although they looked like it.
    #[serde(default)]
    pub forged: u32,
    /// What the kernel said when it did not take a packet; empty where it took all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub send_error: String,
}

/// The most sides of peerings of which one host says how they are.
pub const MAX_SIDES: usize = 4096;

/// The body of `GET /v1/probes`: how the peerings of a host are, by the probes that it sends all the time. Agents before 0.3.0 answer
/// it with 404.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// How often each way is probed where there is room for it, in seconds; 0: never.
    #[serde(default)]
    pub interval_s: u64,
    /// Sides of which something is known, by their own VNIs, at most [`MAX_SIDES`].
    #[serde(default)]
    pub sides: BTreeMap<Vni, SideProbes>,
}

/// What the newest probes of one host say of one side of a peering: of the ways to the peer's hosts, each in either family, the worst.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideProbes {
    /// The peering.
    pub peering: PeeringId,
    /// How many of the newest packets over the way that loses the largest part of them are counted: some twenty, once there are.
    pub sent: u32,
    /// How many of these did not come back. Long packets that are lost where short ones pass are none of them: they are told by
    /// [`mtu_black_hole`](Self::mtu_black_hole).
    pub lost: u32,
    /// The longest of the newest times there and back, in microseconds; none where nothing comes back.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// Whether there is a way on which long packets are lost and short ones pass; none where that is known of none.
    #[serde(default)]
    pub mtu_black_hole: Option<bool>,
    /// How long ago the oldest of this was measured, in milliseconds.
    pub age_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_another_version_has_or_lacks_stop_nothing() {
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
