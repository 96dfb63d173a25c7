//! The document that operators apply: which regions, hosts, VPCs, ports and peerings there are.
//!
//! ```toml
//! name = "default"                    # only where there are several inventories
//!
//! [[regions]]
//! id = "cn-north-1"
//!
//! [[accounts]]                        # only where there is something to say about one
//! id = "acme"
//! quotas = { cn-north-1 = 80 }        # live peerings that it may initiate from a region; without it: as it is
//!
//! [[hosts]]
//! id = "h1"
//! region = "cn-north-1"
//! underlay = "192.0.2.1"             # its VTEP address
//! agent = "https://192.0.2.1:7401"    # where its agent listens
//!
//! [[vpcs]]
//! id = "vpc-a"
//! account = "acme"
//! region = "cn-north-1"
//! cidrs = ["10.1.0.0/16", "fd00:1::/48"]
//!
//! [[ports]]
//! vpc = "vpc-a"
//! host = "h1"
//! interface = "eth1"
//! gateways = ["10.1.0.1/24", "fd00:1::1/64"]
//! prefixes = ["10.1.0.0/24", "fd00:1::/64"]   # what is behind it; by default the networks of the gateways
//!
//! [[peerings]]
//! name = "a-b"
//! vpc = "vpc-a"
//! peer_vpc = "vpc-b"
//! bandwidth = 100                     # Mbit/s in each direction, only between regions; none for no limit
//! export_prefixes = ["10.1.0.0/24"]   # what of `vpc` is shown; [] for all; without it: as it is, and all of a new peering
//! import_prefixes = ["10.2.0.0/16"]   # what of `peer_vpc` is taken, likewise
//! peer_export_prefixes = []           # the same of the other side
//! peer_import_prefixes = []
//! ```
//!
//! Whether entries are consistent is for the controller to check; this type only defines how they are written.

use crate::{
    id::{AccountId, HostId, RegionId, VpcId},
    net::{InterfaceName, prefix},
    number,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inventory {
    /// Its name, if there are several: pruning with one inventory leaves alone what another has created. By default
    /// [`DEFAULT_NAME`](Inventory::DEFAULT_NAME).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The regions.
    pub regions: Vec<Region>,
    /// Accounts with settings of their own. Others need no entry, and no account is removed with its entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Account>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The VPCs.
    pub vpcs: Vec<Vpc>,
    /// The ports.
    pub ports: Vec<Port>,
    /// The peerings. A pair of VPCs that has a live peering already keeps it.
    pub peerings: Vec<Peering>,
}

impl Inventory {
    /// The name of an inventory that has none.
    pub const DEFAULT_NAME: &str = "default";

    /// The name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(Self::DEFAULT_NAME)
    }
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its id.
    pub id: RegionId,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// How many live peerings it may initiate from a region, if not the default. Absent: its current quotas stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "number::map")]
    pub quotas: BTreeMap<RegionId, u32>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// The region that it is in.
    pub region: RegionId,
    /// Its VTEP address. All hosts use the same family.
    pub underlay: IpAddr,
    /// The base URL of its agent, for instance `https://192.0.2.1:7401`.
    pub agent: String,
    /// Whether it is in maintenance: peerings then become active without waiting for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
}

/// A VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// A display name; by default the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The account that owns it.
    pub account: AccountId,
    /// The region it lives in.
    pub region: RegionId,
    /// Its address space: at least one prefix; IPv4, IPv6 or both.
    #[serde(deserialize_with = "prefix::list")]
    pub cidrs: Vec<IpNet>,
}

/// An interface of a host that belongs to one VPC. Identified by host and interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The VPC, in the host's region.
    pub vpc: VpcId,
    /// The host.
    pub host: HostId,
    /// The interface on that host: its name, an alternative name of it, or `enx` and the twelve digits of its permanent Ethernet address.
    pub interface: InterfaceName,
    /// The gateway addresses with the length of their subnet, for instance `10.1.0.1/24`.
    #[serde(deserialize_with = "prefix::list")]
    pub gateways: Vec<IpNet>,
    /// The prefixes behind the port, within the VPC's CIDRs; by default the networks of `gateways`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "prefix::optional_list")]
    pub prefixes: Option<Vec<IpNet>>,
}

/// A peering of two VPCs, of one account or of two that have agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peering {
    /// Its name, 1 to 32 characters, unique per account and region.
    pub name: String,
    /// The initiator's VPC.
    pub vpc: VpcId,
    /// The receiver's VPC.
    pub peer_vpc: VpcId,
    /// The bandwidth limit in each direction, in Mbit/s: only between regions; none for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number::optional")]
    pub bandwidth: Option<u32>,
    /// The prefixes of `vpc` that are exported to the other side; empty for all. If absent, the current ones stay, and
    /// a new peering has all.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "prefix::optional_list")]
    pub export_prefixes: Option<Vec<IpNet>>,
    /// The prefixes of `peer_vpc` that are imported, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "prefix::optional_list")]
    pub import_prefixes: Option<Vec<IpNet>>,
    /// The prefixes of `peer_vpc` that the receiver exports, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "prefix::optional_list")]
    pub peer_export_prefixes: Option<Vec<IpNet>>,
    /// The prefixes of `vpc` that the receiver imports, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "prefix::optional_list")]
    pub peer_import_prefixes: Option<Vec<IpNet>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in this module's documentation.
    fn example() -> String {
        include_str!("inventory.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .skip_while(|line| *line != "```toml")
            .skip(1)
            .take_while(|line| *line != "```")
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_example_is_legal() {
        let inventory: Inventory = toml::from_str(&example()).unwrap();
        assert_eq!(inventory.ports[0].interface.as_str(), "eth1");
        assert_eq!(toml::from_str::<Inventory>(&toml::to_string(&inventory).unwrap()).unwrap(), inventory);
    }

    #[test]
    fn a_prefix_with_leading_zeros_is_refused_wherever_it_stands() {
        for (field, right) in [("cidrs", "10.1.0.0/16"), ("gateways", "10.1.0.1/24"), ("prefixes", "10.1.0.0/24")] {
            let wrong = right.replacen("10.", "010.", 1);
            let text = example().replacen(&format!("\"{right}\""), &format!("\"{wrong}\""), 1);
            let error = toml::from_str::<Inventory>(&text).unwrap_err().to_string();
            assert!(error.contains(&wrong) && error.contains(field) && error.contains("leading zeros"), "{error}");
        }
    }

    #[test]
    fn an_illegal_value_is_shown_with_its_place_and_rule() {
        let text = example().replace("\"eth1\"", "\"much-too-long-a-name\"");
        let error = toml::from_str::<Inventory>(&text).unwrap_err().to_string();
        assert!(error.contains("much-too-long-a-name") && error.contains("15") && error.contains("line"), "{error}");
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn inventory() {
        fuzz("inventory", |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            if let Ok(inventory) = toml::from_str::<Inventory>(text) {
                let again = toml::from_str::<Inventory>(&toml::to_string(&inventory).unwrap()).unwrap();
                assert_eq!(again, inventory);
            }
        });
    }
}
