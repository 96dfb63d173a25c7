//! The rules for a configuration, as far as they can be checked without the kernel.

use super::{HostConfig, HostPatch, Remotes, SharedHostConfig, SideConfig, VrfConfig};
use crate::{
    id::VpcId,
    net::{InterfaceName, Vni, is_canonical, overlap, within},
};
use ipnet::IpNet;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};
use thiserror::Error;

/// A configuration that violates a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: {rule}")]
pub struct InvalidHostConfig {
    /// Where, for instance `vrfs.vpc-a.ports.eth1`.
    pub path: String,
    /// What is wrong with it, with the value.
    pub rule: String,
}

fn invalid(path: impl Into<String>, rule: impl Into<String>) -> InvalidHostConfig {
    InvalidHostConfig { path: path.into(), rule: rule.into() }
}

/// A [`HostConfig`] that satisfies every rule which can be checked without the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValidHostConfig(SharedHostConfig);

impl ValidHostConfig {
    /// The configuration itself.
    pub fn into_inner(self) -> HostConfig {
        let SharedHostConfig { revision, host, underlay, vrfs, sides } = self.0;
        HostConfig {
            revision,
            host,
            underlay,
            vrfs: vrfs.into_iter().map(|(vpc, vrf)| (vpc, Arc::unwrap_or_clone(vrf))).collect(),
            sides: sides.into_iter().map(|(vni, side)| (vni, Arc::unwrap_or_clone(side))).collect(),
        }
    }

    /// The same with other interface names for some of its ports. No two ports get the same name.
    #[must_use]
    pub fn with_ports_renamed(&self, names: &BTreeMap<InterfaceName, InterfaceName>) -> ValidHostConfig {
        let mut config = self.0.clone();
        for vrf in config.vrfs.values_mut() {
            if vrf.ports.keys().any(|port| names.contains_key(port)) {
                let vrf = Arc::make_mut(vrf);
                let ports = std::mem::take(&mut vrf.ports).into_tuple_vec().into_iter();
                vrf.ports = ports.map(|(port, settings)| (*names.get(&port).unwrap_or(&port), settings)).collect();
            }
        }
        Self(config)
    }

    /// The configuration that results from a patch, if it is valid. Only what the patch touches is checked again. The
    /// caller must compare `base` first.
    pub fn patched(&self, patch: HostPatch) -> Result<ValidHostConfig, InvalidHostConfig> {
        let touched =
            Touched { vpcs: patch.vrfs.keys().cloned().collect(), sides: patch.sides.keys().copied().collect() };
        let config = patch.apply_to(&self.0);
        check(&config, Some(&touched))?;
        Ok(Self(config))
    }
}

impl Deref for ValidHostConfig {
    type Target = SharedHostConfig;

    fn deref(&self) -> &SharedHostConfig {
        &self.0
    }
}

impl TryFrom<HostConfig> for ValidHostConfig {
    type Error = InvalidHostConfig;

    fn try_from(config: HostConfig) -> Result<Self, InvalidHostConfig> {
        SharedHostConfig::from(config).try_into()
    }
}

impl TryFrom<SharedHostConfig> for ValidHostConfig {
    type Error = InvalidHostConfig;

    /// Checks:
    /// - every VNI belongs to one object;
    /// - a port is in one VRF;
    /// - prefixes are canonical, and within one VRF no two ports, hosts or peers claim the same addresses;
    /// - a side's VPC has a VRF, it has one side per peering, and the peer's prefixes are within the peer's CIDRs;
    /// - remote VTEPs have the family of the host's own and are not the host itself.
    fn try_from(config: SharedHostConfig) -> Result<Self, InvalidHostConfig> {
        check(&config, None)?;
        Ok(Self(config))
    }
}

/// The parts of a configuration that may violate a rule; the rest was checked before.
struct Touched {
    vpcs: BTreeSet<VpcId>,
    sides: BTreeSet<Vni>,
}

/// Up to this many touched sides are compared with all others one by one; if there are more, all are sorted first.
const FEW: usize = 16;

/// Checks all that is touched; everything if that is unknown.
fn check(config: &SharedHostConfig, touched: Option<&Touched>) -> Result<(), InvalidHostConfig> {
    match touched {
        Some(touched) if touched.vpcs.is_empty() && touched.sides.len() <= FEW => {
            touched.sides.iter().try_for_each(|vni| check_side(config, *vni))
        }
        _ => check_many(config, touched),
    }
}

/// Checks one side, if it exists, against others that are valid. It visits each of the others, but only briefly.
fn check_side(config: &SharedHostConfig, vni: Vni) -> Result<(), InvalidHostConfig> {
    let Some(side) = config.sides.get(&vni) else { return Ok(()) };
    let path = || format!("sides.{vni}");
    if let Some((other, _)) = config.vrfs.iter().find(|(_, vrf)| vrf.vni == vni) {
        return Err(vni_of_vrf(vni, other));
    }
    let Some(vrf) = config.vrfs.get(&side.vpc) else { return Err(no_vrf(vni, side)) };
    let of_vpc = config.sides.iter().filter(|(_, other)| other.vpc == side.vpc);
    let of_vpc: Vec<(Vni, &SideConfig)> = of_vpc.map(|(vni, side)| (*vni, &**side)).collect();
    if of_vpc.iter().any(|(other, it)| *other != vni && it.peering == side.peering) {
        return Err(two_sides(vni, side));
    }
    prefixes_of_side(path, config, vni, side)?;
    one_claim_per_address(&side.vpc, vrf, &of_vpc)
}

fn vni_of_vrf(vni: Vni, vpc: &VpcId) -> InvalidHostConfig {
    invalid(format!("sides.{vni}"), format!("VNI {vni} is also that of vrfs.{vpc}"))
}

fn no_vrf(vni: Vni, side: &SideConfig) -> InvalidHostConfig {
    invalid(format!("sides.{vni}"), format!("VPC {} has no VRF in this configuration", side.vpc))
}

fn two_sides(vni: Vni, side: &SideConfig) -> InvalidHostConfig {
    invalid(format!("sides.{vni}"), format!("{} has two sides of {}", side.vpc, side.peering))
}

fn prefixes_of_side(
    path: impl Fn() -> String + Copy,
    config: &SharedHostConfig,
    vni: Vni,
    side: &SideConfig,
) -> Result<(), InvalidHostConfig> {
    canonical(path, &side.peer_cidrs)?;
    canonical(path, side.own_prefixes.as_deref().unwrap_or_default())?;
    remotes(path, config, &side.remotes)?;
    if let Some(prefix) =
        side.remotes.values().flatten().find(|prefix| !side.peer_cidrs.iter().any(|cidr| within(prefix, cidr)))
    {
        return Err(invalid(path(), format!("prefix {prefix} is in none of the peer's CIDRs")));
    }
    let lists = side.remotes.iter().map(|(vtep, prefixes)| (Claimant::Remote(vni, vtep), prefixes.as_slice()));
    disjoint(lists.collect())
}

/// Relations between entries are checked for all of them; prefixes only of those that are touched.
fn check_many(config: &SharedHostConfig, touched: Option<&Touched>) -> Result<(), InvalidHostConfig> {
    let vrf_touched = |vpc: &VpcId| touched.is_none_or(|touched| touched.vpcs.contains(vpc));
    let side_touched = |vni: &Vni| touched.is_none_or(|touched| touched.sides.contains(vni));
    let mut vnis = HashMap::with_capacity(config.vrfs.len());
    let mut ports = HashMap::new();
    for (vpc, vrf) in &config.vrfs {
        let path = || format!("vrfs.{vpc}");
        if let Some(other) = vnis.insert(vrf.vni, vpc) {
            return Err(invalid(path(), format!("VNI {} is also that of vrfs.{other}", vrf.vni)));
        }
        for (name, port) in &vrf.ports {
            let path = || format!("{}.ports.{name}", path());
            if let Some(other) = ports.insert(*name, vpc) {
                return Err(invalid(path(), format!("the interface is also a port of {other}")));
            }
            if vrf_touched(vpc) {
                canonical(path, &port.prefixes)?;
            }
        }
        if vrf_touched(vpc) {
            remotes(path, config, &vrf.remotes)?;
        }
    }
    let mut peerings = HashSet::with_capacity(config.sides.len());
    for (vni, side) in &config.sides {
        if let Some(other) = vnis.get(vni) {
            return Err(vni_of_vrf(*vni, other));
        }
        if !config.vrfs.contains_key(&side.vpc) {
            return Err(no_vrf(*vni, side));
        }
        if !peerings.insert((&side.peering, &side.vpc)) {
            return Err(two_sides(*vni, side));
        }
        if side_touched(vni) {
            prefixes_of_side(|| format!("sides.{vni}"), config, *vni, side)?;
        }
    }
    let mut sides: BTreeMap<&VpcId, Vec<(Vni, &SideConfig)>> = BTreeMap::new();
    for (vni, side) in &config.sides {
        sides.entry(&side.vpc).or_default().push((*vni, side));
    }
    let of_touched_side = |sides: &[(Vni, &SideConfig)]| sides.iter().any(|(vni, _)| side_touched(vni));
    for (vpc, vrf) in &config.vrfs {
        let sides = sides.get(vpc).map(Vec::as_slice).unwrap_or_default();
        if vrf_touched(vpc) || of_touched_side(sides) {
            one_claim_per_address(vpc, vrf, sides)?;
        }
    }
    Ok(())
}

fn canonical(path: impl Fn() -> String, prefixes: &[IpNet]) -> Result<(), InvalidHostConfig> {
    match prefixes.iter().find(|prefix| !is_canonical(prefix)) {
        Some(prefix) => Err(invalid(path(), format!("prefix {prefix} has bits set behind its length"))),
        None => Ok(()),
    }
}

fn remotes(path: impl Fn() -> String, config: &SharedHostConfig, remotes: &Remotes) -> Result<(), InvalidHostConfig> {
    for (vtep, prefixes) in remotes {
        let path = || format!("{}.remotes.{vtep}", path());
        if *vtep == config.underlay {
            return Err(invalid(path(), "the host itself is no remote host"));
        }
        if vtep.is_ipv4() != config.underlay.is_ipv4() {
            return Err(invalid(path(), format!("not of the same family as the host's own VTEP {}", config.underlay)));
        }
        canonical(path, prefixes)?;
    }
    Ok(())
}

/// The owner of a list of prefixes.
#[derive(Clone, Copy)]
enum Claimant<'a> {
    Port(&'a VpcId, &'a InterfaceName),
    Host(&'a VpcId, &'a IpAddr),
    Peer(Vni),
    Remote(Vni, &'a IpAddr),
}

impl fmt::Display for Claimant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claimant::Port(vpc, name) => write!(f, "vrfs.{vpc}.ports.{name}"),
            Claimant::Host(vpc, vtep) => write!(f, "vrfs.{vpc}.remotes.{vtep}"),
            Claimant::Peer(vni) => write!(f, "sides.{vni}"),
            Claimant::Remote(vni, vtep) => write!(f, "sides.{vni}.remotes.{vtep}"),
        }
    }
}

/// Within one VRF every address has one owner. A peer's CIDRs cover its remotes, so those are compared among themselves
/// only, elsewhere.
fn one_claim_per_address(vpc: &VpcId, vrf: &VrfConfig, sides: &[(Vni, &SideConfig)]) -> Result<(), InvalidHostConfig> {
    let ports = vrf.ports.iter().map(|(name, port)| (Claimant::Port(vpc, name), port.prefixes.as_slice()));
    let hosts = vrf.remotes.iter().map(|(vtep, prefixes)| (Claimant::Host(vpc, vtep), prefixes.as_slice()));
    let peers = sides.iter().map(|(vni, side)| (Claimant::Peer(*vni), side.peer_cidrs.as_slice()));
    disjoint(ports.chain(hosts).chain(peers).collect())
}

/// No two prefixes share an address. Sorted by network, an overlap is always between neighbours.
fn disjoint(lists: Vec<(Claimant<'_>, &[IpNet])>) -> Result<(), InvalidHostConfig> {
    let place = |prefix: &IpNet| (prefix.network(), prefix.prefix_len());
    let clash = |lower: (&IpNet, Claimant<'_>), upper: (&IpNet, Claimant<'_>)| {
        invalid(upper.1.to_string(), format!("prefix {} overlaps {} of {}", upper.0, lower.0, lower.1))
    };
    // Usually there is one sorted list: a million prefixes need no second one.
    if let [(claimant, list)] = lists.as_slice()
        && list.is_sorted_by_key(place)
    {
        let found = list.windows(2).find(|pair| overlap(&pair[0], &pair[1]));
        return found.map_or(Ok(()), |pair| Err(clash((&pair[0], *claimant), (&pair[1], *claimant))));
    }
    let mut claims: Vec<(&IpNet, Claimant<'_>)> =
        lists.into_iter().flat_map(|(claimant, list)| list.iter().map(move |prefix| (prefix, claimant))).collect();
    claims.sort_by_key(|(prefix, _)| place(prefix));
    match claims.windows(2).find(|pair| overlap(pair[0].0, pair[1].0)) {
        Some(pair) => Err(clash(pair[0], pair[1])),
        None => Ok(()),
    }
}
