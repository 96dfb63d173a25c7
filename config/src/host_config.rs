//! What one host must have.

use crate::{
    id::{HostId, PeeringId, VpcId},
    net::{InterfaceName, Vni, is_canonical, overlap, within},
    revision::Revision,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    ops::Deref,
    sync::Arc,
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
    #[serde(default, deserialize_with = "prefixes::by_vtep")]
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
    #[serde(default, deserialize_with = "prefixes::by_vtep")]
    pub remotes: BTreeMap<IpAddr, Vec<IpNet>>,
    /// How much this host may send to the peer; without it there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// How much one host may send to a peer (rules B1 and B3).
///
/// What counts are whole Ethernet frames of the tenants, without what VXLAN adds around them and without the frame check
/// sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What all hosts of the side together may send, in Mbit/s (10⁶ bit/s), at least 1.
    pub bandwidth_mbit: NonZeroU32,
    /// The part of it that this host has from the beginning. Where several hosts send, it is small, and the controller
    /// grants more as it is needed, see [`agent_api`](crate::agent_api).
    pub share: Share,
}

impl Limit {
    /// What a share of the bandwidth is, in bytes per second, at least 1.
    pub fn bytes_per_second(self, share: Share) -> u64 {
        let bits = u64::from(self.bandwidth_mbit.get()) * u64::from(share.millionths());
        (bits / 8).max(1)
    }
}

/// A part of a whole, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NONE: Share = Share(0);
    /// The smallest that is something.
    pub const LEAST: Share = Share(1);
    /// All of it.
    pub const WHOLE: Share = Share(1_000_000);

    /// So many millionths; none above a million.
    pub const fn of_millionths(millionths: u32) -> Option<Share> {
        if millionths <= Self::WHOLE.0 { Some(Share(millionths)) } else { None }
    }

    /// In millionths, at most a million.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// An equal part of it for each of so many.
    #[must_use]
    pub fn divided_by(self, parts: NonZeroU32) -> Share {
        Share(self.0 / parts)
    }

    /// What is left of it without the other; nothing where that is more.
    #[must_use]
    pub fn without(self, other: Share) -> Share {
        Share(self.0.saturating_sub(other.0))
    }

    /// Both together, at most the whole.
    #[must_use]
    pub fn with(self, other: Share) -> Share {
        Share(self.0.saturating_add(other.0).min(Self::WHOLE.0))
    }
}

impl TryFrom<u32> for Share {
    type Error = String;

    fn try_from(millionths: u32) -> Result<Share, String> {
        Share::of_millionths(millionths)
            .ok_or_else(|| format!("a share is at most 1000000 millionths, not {millionths}"))
    }
}

impl From<Share> for u32 {
    fn from(share: Share) -> u32 {
        share.0
    }
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

/// Reads prefixes several times as fast as `ipnet` does: there may be a million of them in a push.
mod prefixes {
    use ipnet::{IpNet, Ipv4Net};
    use serde::{
        Deserialize, Deserializer,
        de::{Error, Visitor},
    };
    use std::{
        collections::BTreeMap,
        fmt,
        net::{IpAddr, Ipv4Addr},
    };

    /// A prefix that is not read by `ipnet`.
    struct Prefix(IpNet);

    impl<'de> Deserialize<'de> for Prefix {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            // Bytes need no check for being text before they are looked at.
            deserializer.deserialize_bytes(PrefixVisitor)
        }
    }

    struct PrefixVisitor;

    impl Visitor<'_> for PrefixVisitor {
        type Value = Prefix;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an IPv4 or IPv6 prefix")
        }

        fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<Prefix, E> {
            match read_v4(text) {
                Some(prefix) => Ok(Prefix(IpNet::V4(prefix))),
                None => self.visit_str(std::str::from_utf8(text).map_err(E::custom)?),
            }
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Prefix, E> {
            match read(text) {
                Some(prefix) => Ok(Prefix(prefix)),
                // What it does not take is left to be explained, or taken, by `ipnet`.
                None => text.parse().map(Prefix).map_err(|error| E::custom(format!("{error}: {text:?}"))),
            }
        }
    }

    fn read(text: &str) -> Option<IpNet> {
        let (address, length) = text.split_once('/')?;
        let address =
            if address.contains(':') { IpAddr::V6(address.parse().ok()?) } else { IpAddr::V4(address.parse().ok()?) };
        IpNet::new(address, length.parse().ok()?).ok()
    }

    /// An IPv4 prefix in the form in which everybody writes it.
    fn read_v4(mut text: &[u8]) -> Option<Ipv4Net> {
        let mut octets = [0; 4];
        for (octet, end) in octets.iter_mut().zip(*b".../") {
            *octet = number(&mut text)?;
            (*text.split_off_first()? == end).then_some(())?;
        }
        let length = number(&mut text)?;
        text.is_empty().then_some(())?;
        Ipv4Net::new(Ipv4Addr::from(octets), length).ok()
    }

    /// Takes a decimal number without leading zeros off the front.
    fn number(text: &mut &[u8]) -> Option<u8> {
        let mut value = 0u8;
        let mut digits = 0;
        while let Some((digit @ b'0'..=b'9', rest)) = text.split_first() {
            if digits > 0 && value == 0 {
                return None;
            }
            value = value.checked_mul(10)?.checked_add(digit - b'0')?;
            digits += 1;
            *text = rest;
        }
        (digits > 0).then_some(value)
    }

    pub(super) fn by_vtep<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<IpAddr, Vec<IpNet>>, D::Error> {
        let read = BTreeMap::<IpAddr, Vec<Prefix>>::deserialize(deserializer)?;
        // The lists become the others in place.
        Ok(read.into_iter().map(|(vtep, list)| (vtep, list.into_iter().map(|prefix| prefix.0).collect())).collect())
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn reads_what_ipnet_writes(address in any::<IpAddr>(), length in 0u8..=128) {
                let Ok(prefix) = IpNet::new(address, length) else { return Ok(()) };
                let text = prefix.to_string();
                prop_assert_eq!(read(&text), Some(prefix));
                let json = serde_json::to_string(&prefix).unwrap();
                prop_assert_eq!(serde_json::from_str::<Prefix>(&json).unwrap().0, prefix);
                prop_assert_eq!(read_v4(text.as_bytes()).map(IpNet::V4), Some(prefix).filter(|_| address.is_ipv4()));
            }

            #[test]
            fn the_quick_way_takes_nothing_that_ipnet_does_not(text in "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}/?[0-9a]{0,3}") {
                if let Some(prefix) = read_v4(text.as_bytes()) {
                    prop_assert_eq!(text.parse(), Ok(prefix));
                }
            }
        }

        #[test]
        fn what_is_no_prefix_is_named() {
            for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.256/32", "x/8", ""] {
                let json = format!(r#"{{"192.0.2.2": ["{wrong}"]}}"#);
                let error = by_vtep(&mut serde_json::Deserializer::from_str(&json)).unwrap_err().to_string();
                assert!(error.contains(&format!("{wrong:?}")), "{error}");
            }
        }
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

/// A [`HostConfig`] whose VRFs and sides are shared with the configurations before and after it, so that a change costs
/// what it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedHostConfig {
    /// Which configuration this is.
    pub revision: Revision,
    /// Whom it is meant for.
    pub host: HostId,
    /// The host's own VTEP address.
    pub underlay: IpAddr,
    /// The VPCs that have a port on this host.
    pub vrfs: BTreeMap<VpcId, Arc<VrfConfig>>,
    /// The sides of peerings that this host takes part in, by the side's own VNI.
    pub sides: BTreeMap<Vni, Arc<SideConfig>>,
}

impl SharedHostConfig {
    /// The peer's side of a side, where this host has it too.
    pub fn peer_of(&self, side: &SideConfig) -> Option<(Vni, &SideConfig)> {
        let peer = self.sides.get(&side.peer_vni).filter(|peer| peer.peering == side.peering)?;
        Some((side.peer_vni, peer))
    }
}

impl From<HostConfig> for SharedHostConfig {
    fn from(config: HostConfig) -> Self {
        let vrf = |mut vrf: VrfConfig| {
            vrf.remotes.values_mut().for_each(Vec::shrink_to_fit);
            Arc::new(vrf)
        };
        let side = |mut side: SideConfig| {
            side.remotes.values_mut().for_each(Vec::shrink_to_fit);
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

/// A [`HostConfig`] that has passed every rule which can be checked without the kernel.
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

    /// The configuration that results from a patch, if it is legal. Only what the patch touches is checked again. The
    /// caller compares `base` first.
    pub fn patched(&self, patch: HostPatch) -> Result<ValidHostConfig, InvalidHostConfig> {
        let mut config = self.0.clone();
        config.revision = patch.revision;
        let mut touched = Touched { vpcs: BTreeSet::new(), sides: BTreeSet::new() };
        for (vpc, change) in patch.vrfs {
            match change {
                Some(vrf) => drop(config.vrfs.insert(vpc.clone(), Arc::new(vrf))),
                None => drop(config.vrfs.remove(&vpc)),
            }
            touched.vpcs.insert(vpc);
        }
        for (vni, change) in patch.sides {
            match change {
                Some(side) => drop(config.sides.insert(vni, Arc::new(side))),
                None => drop(config.sides.remove(&vni)),
            }
            touched.sides.insert(vni);
        }
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

    /// Checks:
    /// - every VNI names one thing;
    /// - a port is in one VRF;
    /// - prefixes are canonical, and within one VRF no two ports, hosts or peers claim the same addresses;
    /// - a side's VPC has a VRF, it has one side per peering, and the peer's prefixes lie in the peer's CIDRs;
    /// - remote VTEPs have the family of the host's own and are not the host itself.
    fn try_from(config: HostConfig) -> Result<Self, InvalidHostConfig> {
        let config = config.into();
        check(&config, None)?;
        Ok(Self(config))
    }
}

/// What of a configuration may break a rule; the rest was checked before.
struct Touched {
    vpcs: BTreeSet<VpcId>,
    sides: BTreeSet<Vni>,
}

/// Up to so many touched sides are compared with all others one by one; of more, all are sorted first.
const FEW: usize = 16;

/// Checks all that is touched; everything when nothing is known of it.
fn check(config: &SharedHostConfig, touched: Option<&Touched>) -> Result<(), InvalidHostConfig> {
    match touched {
        Some(touched) if touched.vpcs.is_empty() && touched.sides.len() <= FEW => {
            touched.sides.iter().try_for_each(|vni| check_side(config, *vni))
        }
        _ => check_many(config, touched),
    }
}

/// Checks one side among others that are legal, if it is there. It looks at each of the others, but only briefly.
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
    remotes(path, config, &side.remotes)?;
    if let Some(prefix) =
        side.remotes.values().flatten().find(|prefix| !side.peer_cidrs.iter().any(|cidr| within(prefix, cidr)))
    {
        return Err(invalid(path(), format!("prefix {prefix} is in none of the peer's CIDRs")));
    }
    let lists = side.remotes.iter().map(|(vtep, prefixes)| (Claimant::Remote(vni, vtep), prefixes.as_slice()));
    disjoint(lists.collect())
}

/// What relates two entries is looked at for all of them; what looks at prefixes only for those that are touched.
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

fn remotes(
    path: impl Fn() -> String,
    config: &SharedHostConfig,
    remotes: &BTreeMap<IpAddr, Vec<IpNet>>,
) -> Result<(), InvalidHostConfig> {
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

/// Who claims a list of prefixes.
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

/// Within one VRF every address leads to one place. A peer's CIDRs cover its remotes, so those are compared among
/// themselves only, elsewhere.
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
    // Most often there is one list, in order: a million prefixes need no second one.
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
    fn a_patch_is_checked_against_what_it_leaves_alone() {
        type Change = fn(&mut HostPatch);
        let old = sample();
        let empty = HostPatch::between(&old, &old).unwrap();
        let cases: &[(Change, &str)] = &[
            (|patch| drop(patch.vrfs.insert("vpc-b".parse().unwrap(), None)), "vpc-b has no VRF"),
            (
                |patch| {
                    let mut vrf = sample().vrfs["vpc-b"].clone();
                    vrf.ports.values_mut().for_each(|port| port.prefixes = vec!["10.1.7.0/24".parse().unwrap()]);
                    patch.vrfs.insert("vpc-b".parse().unwrap(), Some(vrf));
                },
                "10.1.7.0/24",
            ),
            (
                |patch| {
                    let mut side = sample().sides[&vni(1001)].clone();
                    side.peer_cidrs.push("10.1.1.0/28".parse().unwrap());
                    patch.sides.insert(vni(1001), Some(side));
                },
                "10.1.1.0/28",
            ),
            (
                |patch| {
                    let side = SideConfig { remotes: BTreeMap::new(), ..sample().sides[&vni(1001)].clone() };
                    patch.sides.insert(vni(1003), Some(side));
                },
                "two sides",
            ),
        ];
        let valid = ValidHostConfig::try_from(old).unwrap();
        assert_eq!(valid.patched(empty.clone()).unwrap(), valid);
        for (change, rule) in cases {
            let mut patch = empty.clone();
            change(&mut patch);
            let error = valid.patched(patch).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
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

        #[test]
        fn a_patch_is_refused_when_its_result_is(old in configs(), new in configs()) {
            let Ok(old) = ValidHostConfig::try_from(old) else { return Ok(()) };
            let patch = HostPatch::between(&old.clone().into_inner(), &new).unwrap();
            prop_assert_eq!(old.patched(patch).ok(), ValidHostConfig::try_from(new).ok());
        }
    }
}
