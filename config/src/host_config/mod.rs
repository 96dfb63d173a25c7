//! The desired state of one host.

mod limit;
mod listed;
mod patch;
mod prefixes;
#[cfg(test)]
mod tests;
mod valid;
mod wire;

pub use limit::{Limit, Share};
pub use patch::HostPatch;
pub use valid::{InvalidHostConfig, ValidHostConfig};

use crate::{
    id::{HostId, PeeringId, VpcId},
    net::{InterfaceName, Vni, prefix},
    revision::Revision,
};
use ipnet::IpNet;
use litemap::LiteMap;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// Ports by their interfaces. Most VPCs have one per host, so that a list is smaller than a tree.
pub type Ports = LiteMap<InterfaceName, PortConfig>;

/// Prefixes on other hosts, by the VTEP address of that host; most VPCs have few hosts.
pub type Remotes = LiteMap<IpAddr, Vec<IpNet>>;

/// One gateway address of each family, by the VTEP address of the host that answers for it.
pub type Gateways = LiteMap<IpAddr, Vec<IpAddr>>;

/// Everything that a host must have; nothing else of ours may exist there.
///
/// It is expressed in terms of VPCs and peerings. Names of devices, tables and the like are the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "wire::ReadConfig")]
pub struct HostConfig {
    /// The revision of this configuration.
    pub revision: Revision,
    /// The host that it is meant for; an agent refuses another host's.
    pub host: HostId,
    /// The host's own VTEP address, on one of its interfaces.
    pub underlay: IpAddr,
    /// The VPCs that have a port on this host.
    pub vrfs: BTreeMap<VpcId, VrfConfig>,
    /// The sides of peerings that this host takes part in, by the side's own VNI. On the wire, partial ones are
    /// separate, in `scoped_sides`.
    pub sides: BTreeMap<Vni, SideConfig>,
}

/// One VPC on one host: a VRF of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrfConfig {
    /// The VPC's VNI, under which its ports on different hosts reach each other (rule C8). The agent derives the VRF's
    /// table and device names from it.
    pub vni: Vni,
    /// The VPC's ports on this host.
    #[serde(default, with = "listed")]
    pub ports: Ports,
    /// The VPC's prefixes on other hosts, by the VTEP address of that host.
    #[serde(default, serialize_with = "listed::serialize", deserialize_with = "prefixes::by_vtep")]
    pub remotes: Remotes,
    /// The smallest MTU of the underlay at those hosts' ends in bytes, if it is smaller than at this host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Gateway addresses of the ports here that a port of the VPC on another host has, too. Packets to one of them may
    /// end here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_gateways: Vec<IpAddr>,
}

/// An interface of the host that belongs to one VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortConfig {
    /// The gateway addresses, with the length of the subnet they serve.
    #[serde(deserialize_with = "prefix::list")]
    pub gateways: Vec<IpNet>,
    /// The prefixes behind the port, on-link.
    #[serde(deserialize_with = "prefix::list")]
    pub prefixes: Vec<IpNet>,
}

/// One VPC's end of one peering, as desired on one host.
///
/// Prefixes of the peer on this same host are not listed: if the configuration also has the peer's side, the agent
/// takes them from the ports of the peer's VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideConfig {
    /// The peering.
    pub peering: PeeringId,
    /// The VPC whose side this is; it has a VRF in the same configuration.
    pub vpc: VpcId,
    /// The VNI of the peer's side: packets are sent with it.
    pub peer_vni: Vni,
    /// The prefixes of the peer VPC that are reached: all its CIDRs or, for a side with `own_prefixes`, what both
    /// parties let through (rule C9). Prefixes within them that no port serves are unreachable (rule C6).
    #[serde(deserialize_with = "prefix::list")]
    pub peer_cidrs: Vec<IpNet>,
    /// The prefixes of the side's own VPC that the peer reaches; all if absent. The rest neither sends to the peer nor
    /// receives from it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "prefix::optional_list")]
    pub own_prefixes: Option<Vec<IpNet>>,
    /// The peer's prefixes on other hosts, by the VTEP address of that host.
    #[serde(default, serialize_with = "listed::serialize", deserialize_with = "prefixes::by_vtep")]
    pub remotes: Remotes,
    /// Gateway addresses of the peer on those hosts that probes may be sent to. A host without one is not probed.
    #[serde(default, skip_serializing_if = "Gateways::is_empty", with = "listed")]
    pub gateways: Gateways,
    /// The smallest MTU of the underlay at those hosts' ends in bytes, if it is smaller than at some host of this
    /// side's VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// How much this host may send to the peer; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// Frees unused capacity of prefix lists: most are short, and there are many.
fn fit(remotes: &mut Remotes) {
    let mut lists = std::mem::take(remotes).into_tuple_vec();
    lists.shrink_to_fit();
    for (_, prefixes) in &mut lists {
        prefixes.shrink_to_fit();
    }
    *remotes = Remotes::from_sorted_store_unchecked(lists);
}

/// A [`HostConfig`] whose VRFs and sides are shared with the configurations before and after it, so that the cost of a
/// change is proportional to the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedHostConfig {
    /// The revision of this configuration.
    pub revision: Revision,
    /// The host that it is meant for.
    pub host: HostId,
    /// The host's own VTEP address.
    pub underlay: IpAddr,
    /// The VPCs that have a port on this host.
    pub vrfs: BTreeMap<VpcId, Arc<VrfConfig>>,
    /// The sides of peerings that this host takes part in, by the side's own VNI.
    pub sides: BTreeMap<Vni, Arc<SideConfig>>,
}

impl SharedHostConfig {
    /// The peer's side of a side, if this host has it too.
    pub fn peer_of(&self, side: &SideConfig) -> Option<(Vni, &SideConfig)> {
        let peer = self.sides.get(&side.peer_vni).filter(|peer| peer.peering == side.peering)?;
        Some((side.peer_vni, peer))
    }
}

impl From<HostConfig> for SharedHostConfig {
    fn from(config: HostConfig) -> Self {
        let vrf = |mut vrf: VrfConfig| {
            fit(&mut vrf.remotes);
            Arc::new(vrf)
        };
        let side = |mut side: SideConfig| {
            fit(&mut side.remotes);
            Arc::new(side)
        };
        Self {
            revision: config.revision,
            host: config.host,
            underlay: config.underlay,
            vrfs: config.vrfs.into_iter().map(|(vpc, config)| (vpc, vrf(config))).collect(),
            sides: config.sides.into_iter().map(|(vni, config)| (vni, side(config))).collect(),
        }
    }
}
