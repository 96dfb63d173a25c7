//! Which part of a host an observation covers. Pure.
//!
//! A change of one peering must not cost as much as all of them: the kernel is asked for that side's objects only, and
//! only these are compiled and compared. Everything is observed when the agent starts, when the kernel reports a
//! change, from time to time, and whenever a part did not converge.

use crate::{
    objects::{Observed, RouteKey, Via},
    ownership::{self, DeviceName},
};
use cps_peering_config::{
    SharedHostConfig,
    host_config::SideConfig,
    id::VpcId,
    net::{InterfaceName, Vni},
};
use ipnet::IpNet;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Above this many devices, observing everything is cheaper.
const MANY: usize = 64;

/// A part of a host, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirtySet {
    /// All of it.
    Everything,
    /// Some VPCs and sides, and the objects that are theirs.
    Parts(Parts),
}

/// Some VPCs and sides of peerings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// The VPCs that are observed as a whole.
    pub vpcs: BTreeSet<VpcId>,
    /// The sides.
    pub sides: BTreeSet<Vni>,
    /// The VPCs whose VRF they depend on.
    pub vrfs: BTreeSet<VpcId>,
    /// The VPCs whose ports they depend on.
    pub ports: BTreeSet<VpcId>,
    /// The devices of all these.
    pub devices: BTreeSet<InterfaceName>,
    /// Which routes belong to them, by table.
    pub tables: BTreeMap<u32, Share>,
}

/// Which routes of a routing table belong to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    Whole,
    /// The routes within these prefixes. Within a VRF no two peers have the same addresses.
    Within(BTreeSet<IpNet>),
}

impl DirtySet {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self::Parts(Parts::default())
    }

    /// Whether there is nothing to observe.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.devices.is_empty())
    }

    /// What may differ in a kernel that is as `old` requires, or on the way there, and that should become as `new`
    /// requires.
    pub fn between(old: &SharedHostConfig, new: &SharedHostConfig) -> Self {
        fn vnis(config: &SharedHostConfig) -> impl Iterator<Item = (&VpcId, Vni)> {
            config.vrfs.iter().map(|(vpc, vrf)| (vpc, vrf.vni))
        }
        let same_vpcs = vnis(old).eq(vnis(new));
        // The set of VPCs decides about the host's rules and the underlay filter, and a new VRF may conflict with
        // something.
        if old.host != new.host || old.underlay != new.underlay || !same_vpcs {
            return Self::Everything;
        }
        let mut parts =
            Parts { vpcs: changed(&old.vrfs, &new.vrfs), sides: changed(&old.sides, &new.sides), ..Parts::default() };
        // What follows visits each changed side; above this many, everything is cheaper.
        if parts.vpcs.len() + parts.sides.len() > MANY {
            return Self::Everything;
        }
        if !parts.vpcs.is_empty() {
            for config in [old, new] {
                let own = config.sides.iter().filter(|(_, side)| parts.vpcs.contains(&side.vpc));
                let own: Vec<Vni> = own.map(|(vni, _)| *vni).collect();
                parts.sides.extend(own);
            }
        }
        // A peer on the same host has routes to this side's ports as long as this side exists.
        for config in [old, new] {
            let sides = parts.sides.iter().filter_map(|vni| config.sides.get(vni));
            let peers: Vec<Vni> = sides.filter_map(|side| config.peer_of(side)).map(|(vni, _)| vni).collect();
            parts.sides.extend(peers);
        }
        for config in [old, new] {
            parts.gather(config);
        }
        if parts.devices.len() > MANY { Self::Everything } else { Self::Parts(parts) }
    }

    /// The union of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (Self::Parts(mut parts), Self::Parts(other)) = (self, other) else { return Self::Everything };
        parts.vpcs.extend(other.vpcs);
        parts.sides.extend(other.sides);
        parts.vrfs.extend(other.vrfs);
        parts.ports.extend(other.ports);
        parts.devices.extend(other.devices);
        for (table, share) in other.tables {
            parts.share(table, share);
        }
        if parts.devices.len() > MANY { Self::Everything } else { Self::Parts(parts) }
    }
}

/// The keys under which two maps differ. Walks both in parallel: most entries are shared.
fn changed<K: Ord + Clone, V: PartialEq>(old: &BTreeMap<K, Arc<V>>, new: &BTreeMap<K, Arc<V>>) -> BTreeSet<K> {
    let mut changed = BTreeSet::new();
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return changed,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let before = if order == Ordering::Greater { None } else { olds.next() };
        let after = if order == Ordering::Less { None } else { news.next() };
        let same = before.zip(after).is_some_and(|((_, a), (_, b))| Arc::ptr_eq(a, b) || a == b);
        if !same {
            changed.extend(before.or(after).map(|(key, _)| key.clone()));
        }
    }
}

/// The keys that a map no longer has.
pub fn gone<K: Ord + Copy, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    // Usually nothing was removed, and that is quick to see.
    if old.len() == new.len() && old.keys().eq(new.keys()) {
        return Vec::new();
    }
    old.keys().filter(|key| !new.contains_key(key)).copied().collect()
}

impl Parts {
    /// The objects on a path from a VPC to the peer of one of its sides, or within the VPC if there is no side: these
    /// devices, and the routes of the VPC's table within these prefixes.
    pub fn of_path(
        config: &SharedHostConfig,
        vpc: &VpcId,
        side: Option<Vni>,
        devices: BTreeSet<InterfaceName>,
        prefixes: BTreeSet<IpNet>,
    ) -> Self {
        let mut parts = Self::default();
        if let Some(vni) = side {
            parts.sides.insert(vni);
            parts.ports.insert(vpc.clone());
            parts.gather(config);
        } else {
            parts.vpcs.insert(vpc.clone());
            if let Some(vrf) = config.vrfs.get(vpc) {
                parts.share(ownership::table(vrf.vni), Share::Within(prefixes));
            }
        }
        parts.devices = devices;
        parts
    }

    /// Adds a share of a table.
    fn share(&mut self, table: u32, share: Share) {
        match (self.tables.get_mut(&table), share) {
            (Some(Share::Whole), _) => {}
            (Some(Share::Within(known)), Share::Within(more)) => known.extend(more),
            (_, share) => drop(self.tables.insert(table, share)),
        }
    }

    /// Adds the objects that the VPCs and sides have in a configuration.
    fn gather(&mut self, config: &SharedHostConfig) {
        for vpc in self.vpcs.clone() {
            let Some(vrf) = config.vrfs.get(&vpc) else { continue };
            self.devices.extend([DeviceName::vrf(vrf.vni), DeviceName::vpc(vrf.vni)]);
            self.devices.extend(vrf.ports.keys());
            self.share(ownership::table(vrf.vni), Share::Whole);
        }
        for vni in self.sides.clone() {
            if let Some(side) = config.sides.get(&vni) {
                self.gather_side(config, vni, side);
            }
        }
    }

    fn gather_side(&mut self, config: &SharedHostConfig, vni: Vni, side: &SideConfig) {
        let vrf = &config.vrfs[&side.vpc];
        self.vrfs.insert(side.vpc.clone());
        self.devices.extend([DeviceName::peer(vni), DeviceName::vrf(vrf.vni)]);
        let mut prefixes: BTreeSet<IpNet> = side.peer_cidrs.iter().copied().collect();
        if side.own_prefixes.is_some() {
            // What its own ports may send to the peer depends on it.
            self.ports.insert(side.vpc.clone());
            self.devices.extend(vrf.ports.keys());
        }
        if let Some((_, peer)) = config.peer_of(side) {
            self.ports.insert(peer.vpc.clone());
            let peer = &config.vrfs[&peer.vpc];
            self.devices.insert(DeviceName::vrf(peer.vni));
            self.devices.extend(peer.ports.keys());
            // If a side joins only part of the peer, other prefixes behind the peer's ports may be the VPC's own.
            if side.own_prefixes.is_none() {
                prefixes.extend(peer.ports.values().flat_map(|port| &port.prefixes));
            }
        }
        self.share(ownership::table(vrf.vni), Share::Within(prefixes));
    }

    /// Whether a route with this key belongs to the parts.
    pub fn has_route(&self, key: &RouteKey) -> bool {
        match self.tables.get(&key.table) {
            None => false,
            Some(Share::Whole) => true,
            // Usually there are one or two.
            Some(Share::Within(prefixes)) => prefixes.iter().any(|prefix| prefix.contains(&key.prefix)),
        }
    }

    /// Keeps only those observed objects that belong to the parts.
    pub fn restrict(&self, observed: &mut Observed) {
        let has = |device: &InterfaceName| self.devices.contains(device);
        observed.links.retain(|name, _| has(name));
        observed.addresses.retain(|address, _| has(&address.device));
        observed.neighbours.retain(|key, _| has(&key.device));
        observed.fdb.retain(|key, _| has(&key.device));
        observed.ingress.retain(|name, _| has(name));
        observed.egress.retain(|name, _| has(name));
        if let Some(senders) = &mut observed.underlay.senders {
            senders.retain(|vni, _| has(&DeviceName::vpc(*vni)) || has(&DeviceName::peer(*vni)));
        }
        let indexes: BTreeSet<u32> = observed.links.values().map(|link| link.index).collect();
        observed.nexthops.retain(|_, (index, _)| indexes.contains(index));
        let nexthops = &observed.nexthops;
        let through_ours = |via: Via| matches!(via, Via::Nexthop(id) if nexthops.contains_key(&id));
        observed.routes.retain(|route| {
            self.has_route(&route.key) || (self.tables.contains_key(&route.key.table) && through_ours(route.via))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;
    use proptest::prelude::*;

    fn config(underlay: &str, vpcs: &[(&str, u32)]) -> SharedHostConfig {
        let vrfs = vpcs.iter().map(|(vpc, vni)| ((*vpc).to_owned(), serde_json::json!({ "vni": vni })));
        let vrfs: serde_json::Map<_, _> = vrfs.collect();
        let config = serde_json::json!({
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": underlay, "vrfs": vrfs
        });
        serde_json::from_value::<HostConfig>(config).unwrap().into()
    }

    /// The host's rules, and all tunnels, depend on these.
    #[test]
    fn a_change_of_underlay_or_vpcs_makes_everything_dirty() {
        let old = config("192.0.2.1", &[("vpc-a", 10)]);
        assert!(DirtySet::between(&old, &config("192.0.2.1", &[("vpc-a", 10)])).is_nothing());
        for new in [
            config("192.0.2.2", &[("vpc-a", 10)]),
            config("192.0.2.1", &[("vpc-a", 11)]),
            config("192.0.2.1", &[("vpc-b", 10)]),
            config("192.0.2.1", &[("vpc-a", 10), ("vpc-b", 11)]),
            config("192.0.2.1", &[]),
        ] {
            assert_eq!(DirtySet::between(&old, &new), DirtySet::Everything);
        }
    }

    fn entries() -> impl Strategy<Value = BTreeMap<u8, Arc<bool>>> {
        proptest::collection::btree_map(0u8..12, any::<bool>().prop_map(Arc::new), 0..12)
    }

    proptest! {
        #[test]
        fn two_maps_differ_where_their_values_do(old in entries(), new in entries(), kept in proptest::collection::vec(0u8..12, 0..6)) {
            let mut new = new;
            new.extend(kept.iter().filter_map(|key| Some((*key, Arc::clone(old.get(key)?)))));
            let differ: BTreeSet<u8> = (0..12).filter(|key| old.get(key) != new.get(key)).collect();
            prop_assert_eq!(changed(&old, &new), differ);
            let lost: Vec<u8> = (0..12).filter(|key| old.contains_key(key) && !new.contains_key(key)).collect();
            prop_assert_eq!(gone(&old, &new), lost);
        }
    }
}
