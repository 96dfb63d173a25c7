//! Set-ups that unit tests of several modules share.

use cps_peering_config::{HostConfig, SharedHostConfig};
use serde_json::{Map, json};

/// A side of VPC `vpc-a`.
pub(crate) struct Side {
    /// Its own VNI; the peer's is 1000 higher.
    pub(crate) vni: u32,
    /// The peering.
    pub(crate) peering: String,
    /// The share of 100 Mbit/s, in millionths; no limit if absent.
    pub(crate) share: Option<u32>,
}

impl Side {
    /// A side without a limit, in a peering named after its VNI: `p7`.
    pub(crate) fn unlimited(vni: u32) -> Self {
        Self { vni, peering: format!("p{vni}"), share: None }
    }
}

/// The configuration of host `h1` with revision 1.`number`: VPC `vpc-a` with VNI 10, without ports, and these sides.
pub(crate) fn config_with_sides(number: u64, sides: impl IntoIterator<Item = Side>) -> SharedHostConfig {
    let side = |Side { vni, peering, share }| {
        let limit = share.map(|share| json!({ "bandwidth_mbit": 100, "share": share }));
        let side =
            json!({ "peering": peering, "vpc": "vpc-a", "peer_vni": vni + 1000, "peer_cidrs": [], "limit": limit });
        (vni.to_string(), side)
    };
    let sides: Map<_, _> = sides.into_iter().map(side).collect();
    let config: HostConfig = serde_json::from_value(json!({
        "revision": { "epoch": 1, "number": number }, "host": "h1", "underlay": "192.0.2.1",
        "vrfs": { "vpc-a": { "vni": 10 } }, "sides": sides,
    }))
    .unwrap();
    config.into()
}
