//! Which hosts a transaction changes, and their new revision.

use super::{
    Target,
    pacing::{Pace, Replanned, target},
};
use crate::{
    model::{
        Transaction,
        record::{Host, Peering, Side},
        state::{Change, Meta, State},
    },
    plan::{Sides, plan, plan_again, reach, reach_of_host},
};
use cps_peering_config::{
    SharedHostConfig,
    id::{HostId, PeeringId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Up to this many changed peerings are filtered for each host's plan. If there are more, each host's peerings are looked
/// up instead.
const FEW: usize = 32;

/// The parts of a peering that plans depend on; none while it is not planned anywhere.
type Planned<'a> = Option<([&'a Side; 2], Option<u32>, bool)>;

fn planned(peering: &Peering) -> Planned<'_> {
    peering.forwards().then(|| (peering.sides(), peering.bandwidth, peering.former_hosts.is_empty()))
}

/// Whether two configurations are equal but for their revision.
fn same(old: &SharedHostConfig, new: &SharedHostConfig) -> bool {
    let SharedHostConfig { revision: _, host, underlay, vrfs, sides } = new;
    (&old.host, &old.underlay, &old.vrfs, &old.sides) == (host, underlay, vrfs, sides)
}

impl Transaction<'_> {
    /// Gives the commit its number, and with it a new revision to every host whose configuration changes. Returns the new targets of
    /// workers. `known` has the previous configurations, as far as they were planned already; `pace` decides which hosts wait.
    pub(super) fn renumber(
        &mut self,
        number: u64,
        known: impl Fn(&HostId) -> Option<Arc<SharedHostConfig>>,
        pace: &Pace<'_>,
    ) -> BTreeMap<HostId, Target> {
        // Their agents may have new URLs, also if nothing changes for their kernels.
        let named: BTreeSet<HostId> = self.hosts_named();
        let only_peerings = self.only_few_peerings();
        let (mut targets, mut configs, mut replanned) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut sides_before, mut sides) = (Sides::default(), Sides::default());
        for id in self.touched() {
            let Some(host) = self.state.hosts().get(&id).cloned() else {
                targets.insert(id, None);
                continue;
            };
            let before = known(&id).or_else(|| {
                let host = self.before().hosts().get(&id)?;
                Some(Arc::new(plan(self.before(), host, &mut sides_before)))
            });
            let mut config = match (&before, &only_peerings) {
                (Some(before), Some(changed)) => plan_again(self.state, &host, before, changed, &mut sides),
                _ => plan(self.state, &host, &mut sides),
            };
            debug_assert_eq!(config, plan(self.state, &host, &mut Sides::default()), "the short way leads to the same");
            match before {
                Some(before) if same(&before, &config) => {
                    if named.contains(&id) {
                        configs.insert(id, before);
                    }
                }
                before => {
                    self.change(Change::Host(id.clone(), Some(Host { config_number: number, ..host })));
                    config.revision.number = number;
                    let after = Arc::new(config);
                    configs.insert(id.clone(), Arc::clone(&after));
                    replanned.insert(id, Replanned { before, after });
                }
            }
        }
        self.pace(number, &replanned, pace);
        for id in self.hosts_named() {
            // A host that has not been planned since the start is planned soon, with its current part.
            if !configs.contains_key(&id)
                && let Some(config) = known(&id)
            {
                configs.insert(id, config);
            }
        }
        for (id, config) in configs {
            let found = self.state.hosts().get(&id).map(|host| target(host, config));
            targets.insert(id, found);
        }
        let meta = self.state.meta();
        self.change(Change::Meta(Meta { number, ..meta }));
        targets
    }

    /// The changed peerings, if they are few and nothing else that plans depend on was changed.
    fn only_few_peerings(&self) -> Option<BTreeSet<PeeringId>> {
        let mut peerings = BTreeSet::new();
        for change in self.changes() {
            match change {
                Change::Peering(id, _) => drop(peerings.insert(id.clone())),
                Change::Host(..) | Change::Vpc(..) | Change::Port(..) => return None,
                Change::Region(..)
                | Change::Account(..)
                | Change::Token(..)
                | Change::Signature(..)
                | Change::Webhook(..)
                | Change::Hourly(..)
                | Change::Meta(_) => {}
            }
        }
        (peerings.len() <= FEW).then_some(peerings)
    }

    fn hosts_named(&self) -> BTreeSet<HostId> {
        let hosts = self.changes().iter().filter_map(|change| match change {
            Change::Host(id, _) => Some(id.clone()),
            _ => None,
        });
        hosts.collect()
    }

    /// Hosts whose plan may depend on the changes, before or after.
    fn touched(&self) -> BTreeSet<HostId> {
        // Most changes of peerings, such as becoming active, do not concern hosts.
        let changed = |id: &PeeringId| {
            let [before, after] = [self.before(), &*self.state].map(|state| state.peerings().get(id).and_then(planned));
            before != after
        };
        let mut hosts = self.reached(self.state, &changed);
        hosts.extend(self.reached(self.before(), &changed));
        hosts
    }

    /// Whether only a host's part in a rollout or its maintenance has changed.
    fn is_only_paced(&self, id: &HostId) -> bool {
        let (Some(before), Some(after)) = (self.before().hosts().get(id), self.state.hosts().get(id)) else {
            return false;
        };
        Host { pacing: after.pacing, window: after.window, ..before.clone() } == *after
    }

    /// Whether a host has only reported an MTU, and it is that of all others.
    fn has_the_usual_mtu(&self, id: &HostId) -> bool {
        let (Some(before), Some(after)) = (self.before().hosts().get(id), self.state.hosts().get(id)) else {
            return false;
        };
        let same = Host { underlay_mtu: after.underlay_mtu, ..before.clone() } == *after;
        let usual = |host: &Host| host.underlay_mtu.is_none() || host.underlay_mtu == after.underlay_mtu;
        same && usual(before) && self.state.hosts().values().all(usual)
    }

    fn reached(&self, state: &State, changed: &impl Fn(&PeeringId) -> bool) -> BTreeSet<HostId> {
        let mut hosts = BTreeSet::new();
        for change in self.changes() {
            match change {
                Change::Host(id, _) if self.is_only_paced(id) || self.has_the_usual_mtu(id) => {}
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
                | Change::Webhook(..)
                | Change::Hourly(..)
                | Change::Meta(_) => {}
            }
        }
        hosts
    }
}
