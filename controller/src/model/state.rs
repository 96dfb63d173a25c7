//! The state in memory: records, and the indexes that make one change cost no more than what it touches.

use super::record::{Host, Peering, PeeringState, Port, PortKey, Region, Vpc};
use cps_peering_config::{
    Revision,
    id::{HostId, PeeringId, RegionId, VpcId},
    net::Vni,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A record that is set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A region.
    Region(RegionId, Option<Region>),
    /// A host.
    Host(HostId, Option<Host>),
    /// A VPC.
    Vpc(VpcId, Option<Vpc>),
    /// A port.
    Port(PortKey, Option<Port>),
    /// A peering.
    Peering(PeeringId, Option<Peering>),
    /// Counters.
    Meta(Meta),
}

/// What there is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The term of this store; a new store begins with 1.
    pub epoch: u64,
    /// The number of the last commit.
    pub number: u64,
    /// The VNI that is tried first for the next VPC or side, so that a freed one is not used again soon.
    pub next_vni: Vni,
}

impl Default for Meta {
    fn default() -> Self {
        Self { epoch: 1, number: 0, next_vni: Vni::MIN }
    }
}

/// Everything that the controller knows for certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    meta: Meta,
    regions: BTreeMap<RegionId, Region>,
    hosts: BTreeMap<HostId, Host>,
    vpcs: BTreeMap<VpcId, Vpc>,
    ports: BTreeMap<PortKey, Port>,
    peerings: BTreeMap<PeeringId, Peering>,
    ports_of_vpc: BTreeMap<VpcId, BTreeSet<PortKey>>,
    peerings_of_vpc: BTreeMap<VpcId, BTreeSet<PeeringId>>,
    unsettled: BTreeSet<PeeringId>,
    vnis: BTreeSet<Vni>,
}

fn unlink<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

impl State {
    /// Carries a change out and returns the change that undoes it.
    pub fn apply(&mut self, change: Change) -> Change {
        match change {
            Change::Region(id, value) => Change::Region(id.clone(), put(&mut self.regions, id, value)),
            Change::Host(id, value) => Change::Host(id.clone(), put(&mut self.hosts, id, value)),
            Change::Vpc(id, value) => {
                self.vnis.extend(value.as_ref().map(|vpc| vpc.vni));
                let old = put(&mut self.vpcs, id.clone(), value);
                let new_vni = self.vpcs.get(&id).map(|vpc| vpc.vni);
                self.free(old.iter().map(|vpc| vpc.vni).filter(|vni| Some(*vni) != new_vni));
                Change::Vpc(id, old)
            }
            Change::Port(key, value) => {
                if let Some(old) = self.ports.get(&key) {
                    unlink(&mut self.ports_of_vpc, &old.vpc, &key);
                }
                if let Some(port) = &value {
                    self.ports_of_vpc.entry(port.vpc.clone()).or_default().insert(key.clone());
                }
                Change::Port(key.clone(), put(&mut self.ports, key, value))
            }
            Change::Peering(id, value) => {
                self.unsettled.remove(&id);
                if let Some(old) = self.peerings.remove(&id) {
                    old.sides().iter().for_each(|side| unlink(&mut self.peerings_of_vpc, &side.vpc, &id));
                    self.free(old.sides().iter().map(|side| side.vni));
                    self.link_peering(&id, value);
                    return Change::Peering(id, Some(old));
                }
                self.link_peering(&id, value);
                Change::Peering(id, None)
            }
            Change::Meta(meta) => Change::Meta(std::mem::replace(&mut self.meta, meta)),
        }
    }

    fn link_peering(&mut self, id: &PeeringId, value: Option<Peering>) {
        let Some(peering) = value else { return };
        for side in peering.sides() {
            self.peerings_of_vpc.entry(side.vpc.clone()).or_default().insert(id.clone());
            self.vnis.insert(side.vni);
        }
        if peering.state != PeeringState::Active {
            self.unsettled.insert(id.clone());
        }
        self.peerings.insert(id.clone(), peering);
    }

    fn free(&mut self, vnis: impl IntoIterator<Item = Vni>) {
        for vni in vnis {
            self.vnis.remove(&vni);
        }
    }

    /// The counters.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// The regions.
    pub fn regions(&self) -> &BTreeMap<RegionId, Region> {
        &self.regions
    }

    /// The hosts, retiring ones among them.
    pub fn hosts(&self) -> &BTreeMap<HostId, Host> {
        &self.hosts
    }

    /// The VPCs.
    pub fn vpcs(&self) -> &BTreeMap<VpcId, Vpc> {
        &self.vpcs
    }

    /// The ports.
    pub fn ports(&self) -> &BTreeMap<PortKey, Port> {
        &self.ports
    }

    /// The peerings, draining ones among them.
    pub fn peerings(&self) -> &BTreeMap<PeeringId, Peering> {
        &self.peerings
    }

    /// The ports of a VPC.
    pub fn ports_of(&self, vpc: &VpcId) -> impl Iterator<Item = &Port> {
        self.ports_of_vpc.get(vpc).into_iter().flatten().map(|key| &self.ports[key])
    }

    /// The ports on a host.
    pub fn ports_on(&self, host: &HostId) -> impl Iterator<Item = &Port> {
        let first = PortKey { host: host.clone(), interface: "!".parse().expect("the first printable character") };
        self.ports.range(first..).map(|(_, port)| port).take_while(move |port| port.key.host == *host)
    }

    /// The peerings of a VPC, draining ones among them.
    pub fn peerings_of(&self, vpc: &VpcId) -> impl Iterator<Item = &Peering> {
        self.peerings_of_vpc.get(vpc).into_iter().flatten().map(|id| &self.peerings[id])
    }

    /// The peerings that wait for hosts to confirm them.
    pub fn unsettled(&self) -> impl Iterator<Item = &Peering> {
        self.unsettled.iter().map(|id| &self.peerings[id])
    }

    /// The hosts with a port of a VPC.
    pub fn hosts_of(&self, vpc: &VpcId) -> BTreeSet<HostId> {
        self.ports_of(vpc).map(|port| port.key.host.clone()).collect()
    }

    /// The hosts that a peering concerns: those that must have it, or had it.
    pub fn hosts_concerned(&self, peering: &Peering) -> BTreeSet<HostId> {
        match &peering.state {
            PeeringState::Draining { hosts } => hosts.iter().cloned().collect(),
            _ => peering.sides().iter().flat_map(|side| self.hosts_of(&side.vpc)).collect(),
        }
    }

    /// Whether a VNI names a VPC or side.
    pub fn is_taken(&self, vni: Vni) -> bool {
        self.vnis.contains(&vni)
    }

    /// The revision of what a host must have.
    pub fn revision_of(&self, host: &Host) -> Revision {
        Revision { epoch: self.meta.epoch, number: host.config_number }
    }
}
