//! A trace query to an agent for the path between two addresses, and its answer from the kernel.
//!
//! A controller queries the host at each end. Each reports both directions: what its own end sends to the other, and
//! what it receives from there. New fields have defaults, unknown ones are ignored, and checks are words: one version
//! older and newer work together.

use crate::{id::VpcId, net::Vni, revision::Revision};
use serde::{Deserialize, Deserializer, Serialize};
use std::net::IpAddr;

/// Both ends of a path, as seen from the host of one of them. Also the body of `POST /v1/probe`, where both addresses are
/// gateway addresses of one family: `local` sends, and `remote` replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEndpoints {
    /// The VPC of the address on this host.
    pub vpc: VpcId,
    /// The address behind a port of this host, or a gateway address of that port.
    pub local: IpAddr,
    /// The VPC of the other address.
    pub peer_vpc: VpcId,
    /// The other address.
    pub remote: IpAddr,
    /// The VNI of the own side of the peering; none within a VPC.
    #[serde(default)]
    pub side: Option<Vni>,
    /// The VTEP address of the host that has the other address; none if it is this one.
    #[serde(default)]
    pub remote_vtep: Option<IpAddr>,
}

/// The body of `POST /v1/trace`: one end of a path, as seen from the host that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceQuery {
    /// The ends of the path.
    #[serde(flatten)]
    pub ends: PathEndpoints,
    /// The IP protocol of the packets (IANA protocol numbers); none for any.
    #[serde(default)]
    pub protocol: Option<u8>,
    /// The destination port of what the address on this host sends, if the protocol has ports: replies come from it.
    #[serde(default)]
    pub port: Option<u16>,
    /// The destination port of what arrives for it: replies are sent from it.
    #[serde(default)]
    pub port_in: Option<u16>,
}

/// An agent's findings from its kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The configuration that the kernel was compared with; none if the agent has none.
    #[serde(default)]
    pub revision: Option<Revision>,
    /// From the local address to where the packet leaves the host, in the order of a packet's path.
    #[serde(default)]
    pub send: Vec<Fact>,
    /// From where a packet of the other address arrives to the local address.
    #[serde(default)]
    pub receive: Vec<Fact>,
}

/// The verdict about one step of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Packets pass, but it is not as the configuration says.
    Differs,
    /// Unknown.
    Unknown,
    /// Packets do not pass.
    Stops,
}

impl<'de> Deserialize<'de> for Verdict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(from)?.as_str() {
            "ok" => Verdict::Ok,
            "differs" => Verdict::Differs,
            "stops" => Verdict::Stops,
            // Nothing can be concluded from a word of another version.
            _ => Verdict::Unknown,
        })
    }
}

/// An agent's finding about one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What was checked: one of [`check`].
    pub check: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The kernel object, in the terms of `ip`, `tc` or `bridge`; empty if it is none in particular.
    #[serde(default)]
    pub object: String,
    /// What the kernel has.
    #[serde(default)]
    pub observed: String,
    /// What the configuration requires, if the kernel has something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What it means for packets; empty where all is well.
    #[serde(default)]
    pub reason: String,
}

/// The words for the checks on a host.
pub mod check {
    /// Whether the host's configuration has the VPC and the peering.
    pub const CONFIGURATION: &str = "configuration";
    /// The interface behind which the address is: exists, up, connected, in its VRF.
    pub const PORT: &str = "port";
    /// The gateway address of the port.
    pub const GATEWAY: &str = "gateway";
    /// The ingress filter of the port (rule C7).
    pub const PORT_FILTER: &str = "portFilter";
    /// The VRF of the VPC.
    pub const VRF: &str = "vrf";
    /// Policy rules and settings of the whole host.
    pub const RULES: &str = "rules";
    /// The host's packet filters.
    pub const FIREWALL: &str = "firewall";
    /// The VXLAN device of the peering, or of the VPC between hosts.
    pub const TUNNEL: &str = "tunnel";
    /// The next hop object that stands for the other host.
    pub const NEXT_HOP: &str = "nextHop";
    /// The kernel's route to the other address.
    pub const ROUTE: &str = "route";
    /// The neighbour entry of the next hop.
    pub const NEIGHBOUR: &str = "neighbour";
    /// The forwarding entry that leads to the VTEP.
    pub const FDB: &str = "fdb";
    /// The bandwidth limit.
    pub const SHAPER: &str = "shaper";
    /// The longest packet that passes.
    pub const MTU: &str = "mtu";
    /// The path through the underlay to the other host.
    pub const UNDERLAY: &str = "underlay";
    /// Whether packets of the other host are accepted.
    pub const ACCEPTANCE: &str = "acceptance";
    /// The ingress filter of the peering (rule C7).
    pub const SOURCE_FILTER: &str = "sourceFilter";
    /// The kernel's route from the tunnel to the port.
    pub const DELIVERY: &str = "delivery";
    /// The neighbour entry of the server with the address.
    pub const DESTINATION: &str = "destination";

    /// What an end sends, in the order of a packet's path; prerequisites come first.
    pub const SENT: [&str; 14] = [
        VRF,
        PORT,
        GATEWAY,
        PORT_FILTER,
        RULES,
        FIREWALL,
        TUNNEL,
        NEXT_HOP,
        ROUTE,
        NEIGHBOUR,
        FDB,
        SHAPER,
        MTU,
        UNDERLAY,
    ];
    /// What arrives for an end, in the same order. An address has either `GATEWAY` or `DESTINATION`.
    pub const ARRIVING: [&str; 10] =
        [ACCEPTANCE, VRF, TUNNEL, SOURCE_FILTER, RULES, FIREWALL, PORT, GATEWAY, DELIVERY, DESTINATION];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_and_missing_fields_and_words_of_another_version_are_tolerated() {
        let newer = r#"{"version":"9","colour":1,"send":[{"check":"aura","verdict":"dim","hue":3}]}"#;
        let answer: TraceAnswer = serde_json::from_str(newer).unwrap();
        assert_eq!((answer.send[0].verdict, answer.receive.len()), (Verdict::Unknown, 0));
        let older = r#"{"vpc":"vpc-a","local":"10.1.0.5","peer_vpc":"vpc-b","remote":"10.2.0.5","aspect":[]}"#;
        let query: TraceQuery = serde_json::from_str(older).unwrap();
        assert_eq!((query.ends.side, query.ends.remote_vtep, query.port.or(query.port_in)), (None, None, None));
    }

    #[test]
    fn what_is_worse_comes_later() {
        assert!(Verdict::Ok < Verdict::Differs && Verdict::Unknown < Verdict::Stops);
        for verdict in [Verdict::Ok, Verdict::Differs, Verdict::Unknown, Verdict::Stops] {
            let text = serde_json::to_string(&verdict).unwrap();
            assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
        }
    }
}
