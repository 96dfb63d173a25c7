//! What one host must have.

use crate::{
    id::{HostId, PeeringId, VpcId},
    net::{InterfaceName, Vni, is_canonical, overlap},
    revision::Revision,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Deref,
};
use thiserror::Error;

/// Everything that a host must have, and nothing else of ours may be there.
///
/// It is written in the words of VPCs and peerings. Names of devices, tables and the like are the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Which configuration this is.
    pub revision: Revision,
    /// Whom it is meant for; an agent refuses another host's.
    pub host: HostId,
    /// The host's own VTEP address, on one of its interfaces.
    pub underlay: IpAddr,
    /// The VPCs that have a port on this host.
    #[serde(default)]
    pub vrfs: BTreeMap<VpcId, VrfConfig>,
    /// The sides of peerings that this host takes part in, by the side's own VNI.
    #[serde(default)]
    pub sides: BTreeMap<Vni, SideConfig>,
}

/// One VPC on one host: a VRF of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VrfConfig {
    /// The VPC's VNI, under which its ports on different hosts reach each other (rule C8). The agent derives the VRF's
    /// table and device names from it.
    pub vni: Vni,
    /// The VPC's ports on this host.
    #[serde(default)]
    pub ports: BTreeMap<InterfaceName, PortConfig>,
    /// The VPC's prefixes on other hosts, by the VTEP address of that host.
    #[serde(default)]
    pub remotes: BTreeMap<IpAddr, Vec<IpNet>>,
}

/// An interface of the host that belongs to one VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// The gateway addresses, with the length of the subnet they serve.
    pub gateways: Vec<IpNet>,
    /// The prefixes behind the port, on-link.
    pub prefixes: Vec<IpNet>,
}

/// One VPC's end of one peering, as one host must have it.
///
/// Prefixes of the peer on this same host are not listed: where the configuration also has the peer's side, the agent
/// takes them from the ports of the peer's VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideConfig {
    /// The peering.
    pub peering: PeeringId,
    /// The VPC whose side this is; it has a VRF in the same configuration.
    pub vpc: VpcId,
    /// The VNI of the peer's side: packets are sent with it.
    pub peer_vni: Vni,
    /// All CIDRs of the peer VPC. What no port serves within them is unreachable (rule C6).
    pub peer_cidrs: Vec<IpNet>,
    /// The peer's prefixes on other hosts, by the VTEP address of that host.
    #[serde(default)]
    pub remotes: BTreeMap<IpAddr, Vec<IpNet>>,
}

/// The difference between two configurations of a host. `null` removes an entry; what is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPatch {
    /// The revision that the patch applies to.
    pub base: Revision,
    /// The revision that results.
    pub revision: Revision,
    /// Changed VRFs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vrfs: BTreeMap<VpcId, Option<VrfConfig>>,
    /// Changed sides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sides: BTreeMap<Vni, Option<SideConfig>>,
}

impl HostPatch {
    /// The patch that turns `old` into `new`. `None` where that takes more than a patch can say: another host or VTEP.
    pub fn between(old: &HostConfig, new: &HostConfig) -> Option<HostPatch> {
        fn changed<K: Ord + Clone, V: PartialEq + Clone>(
            old: &BTreeMap<K, V>,
            new: &BTreeMap<K, V>,
        ) -> BTreeMap<K, Option<V>> {
            let removed = old.keys().filter(|key| !new.contains_key(key)).map(|key| (key.clone(), None));
            let set = new
                .iter()
                .filter(|(key, value)| old.get(key) != Some(value))
                .map(|(key, value)| (key.clone(), Some(value.clone())));
            removed.chain(set).collect()
        }
        let patchable = old.host == new.host && old.underlay == new.underlay;
        patchable.then(|| HostPatch {
            base: old.revision,
            revision: new.revision,
            vrfs: changed(&old.vrfs, &new.vrfs),
            sides: changed(&old.sides, &new.sides),
        })
    }

    /// The configuration that results. The caller compares `base` first.
    #[must_use]
    pub fn apply_to(self, base: &HostConfig) -> HostConfig {
        fn merge<K: Ord, V>(into: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
            for (key, change) in changes {
                match change {
                    Some(value) => into.insert(key, value),
                    None => into.remove(&key),
                };
            }
        }
        let mut config = base.clone();
        config.revision = self.revision;
        merge(&mut config.vrfs, self.vrfs);
        merge(&mut config.sides, self.sides);
        config
    }
}

/// A configuration that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: {rule}")]
pub struct InvalidHostConfig {
    /// Where, for instance `vrfs.vpc-a.ports.eth1`.
    pub path: String,
    /// What is wrong with it, and which value.
    pub rule: String,
}

fn invalid(path: impl Into<String>, rule: impl Into<String>) -> InvalidHostConfig {
    InvalidHostConfig { path: path.into(), rule: rule.into() }
}

/// A [`HostConfig`] that has passed every rule which can be checked without the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidHostConfig(HostConfig);

impl ValidHostConfig {
    /// The configuration itself.
    pub fn into_inner(self) -> HostConfig {
        self.0
    }
}

impl Deref for ValidHostConfig {
    type Target = HostConfig;

    fn deref(&self) -> &HostConfig {
        &self.0
    }
}

impl TryFrom<HostConfig> for ValidHostConfig {
    type Error = InvalidHostConfig;

    /// Checks:
    /// - every VNI names one thing;
    /// - a port is in one VRF;
    /// - prefixes are canonical, and within one VRF no two ports, hosts or peers claim the same addresses;
    /// - a side's VPC has a VRF, it has one side per peering, and the peer's prefixes lie in the peer's CIDRs;
    /// - remote VTEPs have the family of the host's own and are not the host itself.
    fn try_from(config: HostConfig) -> Result<Self, InvalidHostConfig> {
        let mut vnis = BTreeMap::new();
        let mut ports = BTreeMap::new();
        for (vpc, vrf) in &config.vrfs {
            let path = format!("vrfs.{vpc}");
            if let Some(other) = vnis.insert(vrf.vni, path.clone()) {
                return Err(invalid(path, format!("VNI {} is also that of {other}", vrf.vni)));
            }
            for (name, port) in &vrf.ports {
                let path = format!("{path}.ports.{name}");
                if let Some(other) = ports.insert(*name, vpc) {
                    return Err(invalid(path, format!("the interface is also a port of {other}")));
                }
                canonical(&path, &port.prefixes)?;
            }
            remotes(&path, &config, &vrf.remotes)?;
        }
        let mut peerings = BTreeSet::new();
        for (vni, side) in &config.sides {
            let path = format!("sides.{vni}");
            if let Some(other) = vnis.insert(*vni, path.clone()) {
                return Err(invalid(path, format!("VNI {vni} is also that of {other}")));
            }
            if !config.vrfs.contains_key(&side.vpc) {
                return Err(invalid(path, format!("VPC {} has no VRF in this configuration", side.vpc)));
            }
            if !peerings.insert((&side.peering, &side.vpc)) {
                return Err(invalid(path, format!("{} has two sides of {}", side.vpc, side.peering)));
            }
            canonical(&path, &side.peer_cidrs)?;
            remotes(&path, &config, &side.remotes)?;
            if let Some(prefix) = side
                .remotes
                .values()
                .flatten()
                .find(|prefix| !side.peer_cidrs.iter().any(|cidr| cidr.contains(*prefix)))
            {
                return Err(invalid(path, format!("prefix {prefix} is in none of the peer's CIDRs")));
            }
        }
        for vpc in config.vrfs.keys() {
            one_claim_per_address(&config, vpc)?;
        }
        Ok(Self(config))
    }
}

fn canonical(path: &str, prefixes: &[IpNet]) -> Result<(), InvalidHostConfig> {
    match prefixes.iter().find(|prefix| !is_canonical(prefix)) {
        Some(prefix) => Err(invalid(path, format!("prefix {prefix} has bits set behind its length"))),
        None => Ok(()),
    }
}

fn remotes(path: &str, config: &HostConfig, remotes: &BTreeMap<IpAddr, Vec<IpNet>>) -> Result<(), InvalidHostConfig> {
    for (vtep, prefixes) in remotes {
        let path = format!("{path}.remotes.{vtep}");
        if *vtep == config.underlay {
            return Err(invalid(path, "the host itself is no remote host"));
        }
        if vtep.is_ipv4() != config.underlay.is_ipv4() {
            return Err(invalid(path, format!("not of the same family as the host's own VTEP {}", config.underlay)));
        }
        canonical(&path, prefixes)?;
    }
    Ok(())
}

/// Within one VRF every address leads to one place.
fn one_claim_per_address(config: &HostConfig, vpc: &VpcId) -> Result<(), InvalidHostConfig> {
    let vrf = &config.vrfs[vpc];
    let own = vrf
        .ports
        .iter()
        .flat_map(|(name, port)| port.prefixes.iter().map(move |p| (*p, format!("vrfs.{vpc}.ports.{name}"))))
        .chain(
            vrf.remotes
                .iter()
                .flat_map(|(vtep, prefixes)| prefixes.iter().map(move |p| (*p, format!("vrfs.{vpc}.remotes.{vtep}")))),
        );
    // A peer's CIDRs cover its remotes, so only a side's own remotes are compared among themselves.
    let peers = config.sides.iter().filter(|(_, side)| side.vpc == *vpc);
    let cidrs = peers.clone().flat_map(|(vni, side)| side.peer_cidrs.iter().map(move |p| (*p, format!("sides.{vni}"))));
    disjoint(own.chain(cidrs))?;
    for (vni, side) in peers {
        disjoint(
            side.remotes
                .iter()
                .flat_map(|(vtep, prefixes)| prefixes.iter().map(move |p| (*p, format!("sides.{vni}.remotes.{vtep}")))),
        )?;
    }
    Ok(())
}

/// No two prefixes share an address. Sorted by network, an overlap is always between neighbours.
fn disjoint(claims: impl Iterator<Item = (IpNet, String)>) -> Result<(), InvalidHostConfig> {
    let mut claims: Vec<(IpNet, String)> = claims.collect();
    claims.sort_by_key(|(prefix, _)| (prefix.network(), prefix.prefix_len()));
    match claims.windows(2).find(|pair| overlap(&pair[0].0, &pair[1].0)) {
        Some(pair) => {
            Err(invalid(pair[1].1.clone(), format!("prefix {} overlaps {} of {}", pair[1].0, pair[0].0, pair[0].1)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> HostConfig {
        toml::from_str(
            r#"
            revision = { epoch = 1, number = 7 }
            host = "h1"
            underlay = "192.0.2.1"
            [vrfs.vpc-a]
            vni = 10
            ports.eth1 = { gateways = ["10.1.0.1/24", "fd01::1/64"], prefixes = ["10.1.0.0/24", "fd01::/64"] }
            remotes."192.0.2.2" = ["10.1.1.0/24"]
            [vrfs.vpc-b]
            vni = 11
            ports.eth2 = { gateways = ["10.2.0.1/24"], prefixes = ["10.2.0.0/24"] }
            [sides.1001]
            peering = "vpcpr-1"
            vpc = "vpc-a"
            peer_vni = 1002
            peer_cidrs = ["10.2.0.0/16", "fd02::/48"]
            remotes."192.0.2.3" = ["10.2.1.0/24", "fd02::/64"]
            [sides.1002]
            peering = "vpcpr-1"
            vpc = "vpc-b"
            peer_vni = 1001
            peer_cidrs = ["10.1.0.0/16", "fd01::/48"]
            "#,
        )
        .unwrap()
    }

    fn vni(number: u32) -> Vni {
        number.try_into().unwrap()
    }

    #[test]
    fn json_and_back_is_the_same() {
        let config = sample();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<HostConfig>(&json).unwrap(), config);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["sides"]["1001"]["bandwith"] = 5.into();
        assert!(serde_json::from_value::<HostConfig>(json).unwrap_err().to_string().contains("bandwith"));
    }

    #[test]
    fn each_rule_names_place_and_value() {
        type Change = fn(&mut HostConfig);
        let cases: &[(Change, &str, &str)] = &[
            (|c| c.vrfs.get_mut("vpc-b").unwrap().vni = vni(10), "vrfs.vpc-b", "VNI 10 is also that of vrfs.vpc-a"),
            (|c| c.vrfs.get_mut("vpc-b").unwrap().vni = vni(1001), "sides.1001", "VNI 1001"),
            (
                |c| {
                    let port = c.vrfs["vpc-a"].ports.values().next().unwrap().clone();
                    c.vrfs.get_mut("vpc-b").unwrap().ports.insert("eth1".parse().unwrap(), port);
                },
                "vrfs.vpc-b.ports.eth1",
                "also a port of vpc-a",
            ),
            (
                |c| c.sides.get_mut(&vni(1001)).unwrap().peer_cidrs.push("10.9.0.1/16".parse().unwrap()),
                "sides.1001",
                "10.9.0.1/16",
            ),
            (
                |c| c.sides.get_mut(&vni(1001)).unwrap().peer_cidrs.push("10.1.1.0/28".parse().unwrap()),
                "sides.1001",
                "10.1.1.0/28 overlaps 10.1.1.0/24 of vrfs.vpc-a.remotes.192.0.2.2",
            ),
            (
                |c| {
                    let remote = "192.0.2.9".parse().unwrap();
                    let prefix = "10.2.1.128/25".parse().unwrap();
                    c.sides.get_mut(&vni(1001)).unwrap().remotes.insert(remote, vec![prefix]);
                },
                "sides.1001.remotes.192.0.2.9",
                "10.2.1.128/25 overlaps 10.2.1.0/24",
            ),
            (
                |c| {
                    let remote = "192.0.2.9".parse().unwrap();
                    c.sides.get_mut(&vni(1001)).unwrap().remotes.insert(remote, vec!["10.3.0.0/24".parse().unwrap()]);
                },
                "sides.1001",
                "10.3.0.0/24",
            ),
            (|c| c.sides.get_mut(&vni(1002)).unwrap().vpc = "vpc-z".parse().unwrap(), "sides.1002", "vpc-z"),
            (|c| c.sides.get_mut(&vni(1002)).unwrap().vpc = "vpc-a".parse().unwrap(), "sides.1002", "two sides"),
            (|c| c.underlay = "192.0.2.2".parse().unwrap(), "vrfs.vpc-a.remotes.192.0.2.2", "itself"),
            (|c| c.underlay = "2001:db8::1".parse().unwrap(), "vrfs.vpc-a.remotes.192.0.2.2", "family"),
        ];
        ValidHostConfig::try_from(sample()).unwrap();
        for (change, path, rule) in cases {
            let mut config = sample();
            change(&mut config);
            let error = ValidHostConfig::try_from(config).unwrap_err();
            assert_eq!(&error.path, path, "{error}");
            assert!(error.rule.contains(rule), "{error}");
        }
    }

    #[test]
    fn a_patch_cannot_change_the_host() {
        let old = sample();
        let mut new = sample();
        new.underlay = "192.0.2.77".parse().unwrap();
        assert_eq!(HostPatch::between(&old, &new), None);
    }

    fn configs() -> impl Strategy<Value = HostConfig> {
        let side = (0u8..3).prop_map(|variant| {
            let mut side = sample().sides.into_values().next().unwrap();
            side.peer_cidrs.truncate(variant.into());
            side
        });
        let vrf = (1u32..4).prop_map(|number| VrfConfig {
            vni: vni(number),
            ports: BTreeMap::new(),
            remotes: BTreeMap::new(),
        });
        let vpcs = (0u8..4).prop_map(|n| format!("vpc-{n}").parse::<VpcId>().unwrap());
        (
            1u64..9,
            proptest::collection::btree_map(vpcs, vrf, 0..4),
            proptest::collection::btree_map((1u32..5).prop_map(vni), side, 0..4),
        )
            .prop_map(|(number, vrfs, sides)| HostConfig {
                revision: Revision { epoch: 1, number },
                vrfs,
                sides,
                ..sample()
            })
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_old_to_new(old in configs(), new in configs()) {
            let patch = HostPatch::between(&old, &new).unwrap();
            let json = serde_json::to_string(&patch).unwrap();
            let patch: HostPatch = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(patch.apply_to(&old), new);
        }
    }
}
