//! Configurations and patches as transmitted and stored.
//!
//! A partial side ([`SideConfig::own_prefixes`]) is separate from the others, in `scoped_sides`. An agent that does not
//! know such sides ignores them and has nothing of the peering: treated as an ordinary side, it would let all ports of
//! both VPCs on its host reach each other.

use super::{HostConfig, HostPatch, SharedHostConfig, SideConfig, VrfConfig};
use crate::{
    id::{HostId, VpcId},
    net::Vni,
    revision::Revision,
};
use serde::{Deserialize, Serialize, Serializer};
use std::{borrow::Borrow, collections::BTreeMap, net::IpAddr, sync::Arc};

#[derive(Deserialize)]
pub(super) struct ReadConfig {
    revision: Revision,
    host: HostId,
    underlay: IpAddr,
    #[serde(default)]
    vrfs: BTreeMap<VpcId, VrfConfig>,
    #[serde(default)]
    sides: BTreeMap<Vni, SideConfig>,
    #[serde(default)]
    scoped_sides: BTreeMap<Vni, SideConfig>,
}

impl From<ReadConfig> for HostConfig {
    fn from(read: ReadConfig) -> Self {
        let ReadConfig { revision, host, underlay, vrfs, mut sides, scoped_sides } = read;
        sides.extend(scoped_sides);
        Self { revision, host, underlay, vrfs, sides }
    }
}

#[derive(Serialize)]
struct WrittenConfig<'a, V> {
    revision: Revision,
    host: &'a HostId,
    underlay: IpAddr,
    vrfs: &'a BTreeMap<VpcId, V>,
    sides: BTreeMap<Vni, &'a SideConfig>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    scoped_sides: BTreeMap<Vni, &'a SideConfig>,
}

fn apart<S: Borrow<SideConfig>>(sides: &BTreeMap<Vni, S>) -> [BTreeMap<Vni, &SideConfig>; 2] {
    let all = || sides.iter().map(|(vni, side)| (*vni, side.borrow()));
    [false, true].map(|scoped| all().filter(|(_, side)| side.own_prefixes.is_some() == scoped).collect())
}

impl Serialize for HostConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [sides, scoped_sides] = apart(&self.sides);
        let Self { revision, host, underlay, vrfs, sides: _ } = self;
        WrittenConfig { revision: *revision, host, underlay: *underlay, vrfs, sides, scoped_sides }
            .serialize(serializer)
    }
}

impl Serialize for SharedHostConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [sides, scoped_sides] = apart(&self.sides);
        let Self { revision, host, underlay, vrfs, sides: _ } = self;
        WrittenConfig { revision: *revision, host, underlay: *underlay, vrfs, sides, scoped_sides }
            .serialize(serializer)
    }
}

#[derive(Deserialize)]
pub(super) struct ReadPatch {
    base: Revision,
    revision: Revision,
    #[serde(default)]
    vrfs: BTreeMap<VpcId, Option<Arc<VrfConfig>>>,
    #[serde(default)]
    sides: BTreeMap<Vni, Option<Arc<SideConfig>>>,
    #[serde(default)]
    scoped_sides: BTreeMap<Vni, Arc<SideConfig>>,
}

impl From<ReadPatch> for HostPatch {
    fn from(read: ReadPatch) -> Self {
        let ReadPatch { base, revision, vrfs, mut sides, scoped_sides } = read;
        sides.extend(scoped_sides.into_iter().map(|(vni, side)| (vni, Some(side))));
        Self { base, revision, vrfs, sides }
    }
}

#[derive(Serialize)]
struct WrittenPatch<'a> {
    base: Revision,
    revision: Revision,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vrfs: &'a BTreeMap<VpcId, Option<Arc<VrfConfig>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sides: BTreeMap<Vni, Option<&'a SideConfig>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    scoped_sides: BTreeMap<Vni, &'a SideConfig>,
}

impl Serialize for HostPatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_scoped = |side: &&SideConfig| side.own_prefixes.is_some();
        let all = || self.sides.iter().map(|(vni, side)| (*vni, side.as_deref()));
        // A reader that does not know scoped sides then no longer has the side.
        let sides = all().map(|(vni, side)| (vni, side.filter(|side| !is_scoped(side)))).collect();
        let scoped_sides = all().filter_map(|(vni, side)| Some((vni, side.filter(is_scoped)?))).collect();
        let Self { base, revision, vrfs, sides: _ } = self;
        WrittenPatch { base: *base, revision: *revision, vrfs, sides, scoped_sides }.serialize(serializer)
    }
}
