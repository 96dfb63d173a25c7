//! What the controller remembers: the records of its store.

use cps_peering_config::{
    id::{AccountId, HostId, PeeringId, RegionId, VpcId},
    net::{InterfaceName, Vni},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its id.
    pub id: RegionId,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// The region it stands in.
    pub region: RegionId,
    /// Its VTEP address.
    pub underlay: IpAddr,
    /// The base URL of its agent.
    pub agent: String,
    /// The number of the commit that last changed what the host must have.
    pub config_number: u64,
    /// Whether it was removed from the inventory. It is forgotten once its agent has confirmed that nothing is left.
    #[serde(default)]
    pub retiring: bool,
}

/// A VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// Its name for people.
    pub name: String,
    /// The account that owns it.
    pub account: AccountId,
    /// The region it lives in.
    pub region: RegionId,
    /// Its address space.
    pub cidrs: Vec<IpNet>,
    /// Under which its ports on different hosts reach each other.
    pub vni: Vni,
}

/// What identifies a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortKey {
    /// The host.
    pub host: HostId,
    /// The interface on it.
    pub interface: InterfaceName,
}

impl std::fmt::Display for PortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.interface)
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Which one.
    pub key: PortKey,
    /// The VPC that it belongs to.
    pub vpc: VpcId,
    /// Its gateway addresses with the length of their subnet.
    pub gateways: Vec<IpNet>,
    /// The prefixes behind it.
    pub prefixes: Vec<IpNet>,
}

/// A peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peering {
    /// Its id.
    pub id: PeeringId,
    /// Its name, unique per account and region of the initiator.
    pub name: String,
    /// The side that asked.
    pub initiator: Side,
    /// The side that was asked.
    pub receiver: Side,
    /// How far it is.
    pub state: PeeringState,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When it first became active, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub activated_ms: Option<u64>,
    /// The number of the commit that created it or began to drain it: what hosts must have applied to confirm it.
    pub since: u64,
}

/// One VPC's end of a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// The VPC.
    pub vpc: VpcId,
    /// Its account.
    pub account: AccountId,
    /// Its region.
    pub region: RegionId,
    /// The VNI of what arrives for this side.
    pub vni: Vni,
    /// The VPC's CIDRs, kept here because a draining peering may outlive its VPC.
    pub cidrs: Vec<IpNet>,
}

/// How far a peering is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeeringState {
    /// Hosts are told to have it.
    Provisioning,
    /// All hosts concerned have confirmed it, or had time enough.
    Active,
    /// Hosts are told to have it no more. It still counts for overlap, and its VNIs are not given to others.
    Draining {
        /// The hosts that had it.
        hosts: Vec<HostId>,
    },
}

impl Peering {
    /// Both sides, the initiator's first.
    pub fn sides(&self) -> [&Side; 2] {
        [&self.initiator, &self.receiver]
    }

    /// Each side with the other.
    pub fn views(&self) -> [(&Side, &Side); 2] {
        [(&self.initiator, &self.receiver), (&self.receiver, &self.initiator)]
    }

    /// Whether hosts must have it.
    pub fn forwards(&self) -> bool {
        matches!(self.state, PeeringState::Provisioning | PeeringState::Active)
    }
}
