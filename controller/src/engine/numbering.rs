//! Which hosts a draft changes, and the number that it gives them.

use super::{HostTarget, Target};
use crate::{
    model::{
        Draft,
        record::{Host, Peering, Side},
        state::{Change, Meta},
    },
    plan::{plan, plan_again, reach, reach_of_host},
};
use cps_peering_config::{
    HostConfig,
    id::{HostId, PeeringId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What plans take from a peering; none where it is planned nowhere.
type Planned = Option<([Side; 2], Option<u32>, bool)>;

fn planned(peering: &Peering) -> Planned {
    peering.forwards().then(|| (peering.sides().map(Clone::clone), peering.bandwidth, peering.left.is_empty()))
}

/// What a host must have, under a revision that may be another than that of `old`, and whether it is the same.
fn same(old: &HostConfig, new: &HostConfig) -> bool {
    let HostConfig { revision: _, host, underlay, vrfs, sides } = new;
    (&old.host, &old.underlay, &old.vrfs, &old.sides) == (host, underlay, vrfs, sides)
}

impl Draft<'_> {
    /// Numbers the commit, and with it every host that must have something else than in `before`. What the workers of
    /// hosts are to be told.
    pub(super) fn renumber(
        &mut self,
        number: u64,
        before: impl Fn(&HostId) -> Option<Arc<HostConfig>>,
    ) -> BTreeMap<HostId, Target> {
        // The agents of these may be elsewhere, also where nothing changes for their kernels.
        let named: BTreeSet<HostId> = self.hosts_named();
        let only_peerings = self.only_peerings();
        let mut targets = BTreeMap::new();
        for id in self.touched() {
            let Some(host) = self.state.hosts().get(&id).cloned() else {
                targets.insert(id, None);
                continue;
            };
            let before = before(&id);
            let mut config = match (&before, &only_peerings) {
                (Some(before), Some(changed)) => plan_again(self.state, &host, before, changed),
                _ => plan(self.state, &host),
            };
            debug_assert_eq!(config, plan(self.state, &host), "the short way leads to the same");
            let config = match before.filter(|before| same(before, &config)) {
                Some(same) if named.contains(&id) => same,
                Some(_) => continue,
                None => {
                    self.change(Change::Host(id.clone(), Some(Host { config_number: number, ..host.clone() })));
                    config.revision.number = number;
                    Arc::new(config)
                }
            };
            targets.insert(id, Some(Arc::new(HostTarget { agent: host.agent, config })));
        }
        let meta = self.state.meta();
        self.change(Change::Meta(Meta { number, ..meta }));
        targets
    }

    /// The peerings that were changed, if nothing else was that plans are made from.
    fn only_peerings(&self) -> Option<BTreeSet<PeeringId>> {
        let mut peerings = BTreeSet::new();
        for change in self.changes() {
            match change {
                Change::Peering(id, _) => drop(peerings.insert(id.clone())),
                Change::Host(..) | Change::Vpc(..) | Change::Port(..) => return None,
                Change::Region(..)
                | Change::Account(..)
                | Change::Token(..)
                | Change::Signature(..)
                | Change::Meta(_) => {}
            }
        }
        Some(peerings)
    }

    fn hosts_named(&self) -> BTreeSet<HostId> {
        let hosts = self.changes().iter().filter_map(|change| match change {
            Change::Host(id, _) => Some(id.clone()),
            _ => None,
        });
        hosts.collect()
    }

    /// Hosts whose plan may depend on what was changed, before or after.
    fn touched(&mut self) -> BTreeSet<HostId> {
        let after = self.peerings_planned();
        let before = self.with_undone(Draft::peerings_planned);
        // Most changes of peerings, such as that they are active now, are none for hosts.
        let changed = |id: &PeeringId| after.get(id) != before.get(id);
        let mut hosts = self.reached(&changed);
        hosts.extend(self.with_undone(|draft| draft.reached(&changed)));
        hosts
    }

    fn peerings_planned(&self) -> BTreeMap<PeeringId, Planned> {
        let changed = self.changes().iter().filter_map(|change| match change {
            Change::Peering(id, _) => Some(id),
            _ => None,
        });
        changed.map(|id| (id.clone(), self.state.peerings().get(id).and_then(planned))).collect()
    }

    fn reached(&self, changed: &impl Fn(&PeeringId) -> bool) -> BTreeSet<HostId> {
        let state = &*self.state;
        let mut hosts = BTreeSet::new();
        for change in self.changes() {
            match change {
                Change::Host(id, _) => hosts.extend(reach_of_host(state, id)),
                Change::Vpc(id, _) => hosts.extend(reach(state, id)),
                Change::Port(key, _) => {
                    hosts.insert(key.host.clone());
                    hosts.extend(state.ports().get(key).into_iter().flat_map(|port| reach(state, &port.vpc)));
                }
                Change::Peering(id, _) if changed(id) => {
                    let sides = state.peerings().get(id).into_iter().flat_map(Peering::sides);
                    hosts.extend(sides.flat_map(|side| state.hosts_of(&side.vpc)));
                }
                Change::Peering(..)
                | Change::Region(..)
                | Change::Account(..)
                | Change::Token(..)
                | Change::Signature(..)
                | Change::Meta(_) => {}
            }
        }
        hosts
    }
}
