//! What this host may use of limits that it shares with others, and which rates were seen in the kernel. Pure.

use crate::{
    compile::UnderlayParams,
    dirty_set::DirtySet,
    objects::{Desired, Observed, Operation},
    ownership::DeviceName,
    shares::Shares,
};
use cps_peering_config::{
    Revision, SharedHostConfig,
    host_config::{Limit, Share},
    net::{InterfaceName, Vni},
    traffic::Grants,
};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// The shares of this host.
#[derive(Debug)]
pub(super) struct Allocation {
    shares: Shares,
    /// The same, for other threads.
    published: watch::Sender<Shares>,
    /// The share of each limit that was last seen in the kernel.
    confirmed: BTreeMap<Vni, Share>,
    /// Whether something was granted since the plan in progress was made.
    regranted: bool,
}

impl Allocation {
    /// Continues from what was granted before.
    pub(super) fn new(shares: Shares, published: watch::Sender<Shares>) -> Self {
        Self { shares, published, confirmed: BTreeMap::new(), regranted: false }
    }

    /// What was granted.
    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The share of its limit that a side was seen to have in the kernel.
    pub(super) fn confirmed(&self, vni: Vni) -> Option<Share> {
        self.confirmed.get(&vni).copied()
    }

    /// Follows a change of the configuration.
    pub(super) fn follow(&mut self, old: &SharedHostConfig, new: &SharedHostConfig) {
        self.shares.follow(old, new);
        self.confirmed.retain(|vni, _| new.sides.contains_key(vni));
        self.published.send_replace(self.shares.clone());
    }

    /// Takes grants, or returns the revision that they are older than. Returns the limits whose rate changes.
    pub(super) fn grant(
        &mut self,
        grants: &Grants,
        config: Option<&SharedHostConfig>,
    ) -> Result<BTreeMap<Vni, Limit>, Revision> {
        self.shares.grant(grants)?;
        self.regranted = true;
        self.published.send_replace(self.shares.clone());
        let Some(config) = config else { return Ok(BTreeMap::new()) };
        let limits = grants.sides.keys().filter_map(|vni| Some((*vni, config.sides.get(vni)?.limit?)));
        Ok(limits.filter(|(vni, limit)| self.confirmed(*vni) != Some(self.shares.of(*vni, *limit))).collect())
    }

    /// A plan is made: replaces the configuration's shares by the granted ones.
    pub(super) fn adjust(&mut self, config: &SharedHostConfig, desired: &mut Desired) {
        self.shares.adjust(config, desired);
        self.regranted = false;
    }

    /// The operations that set the rates of existing shapers; if there is none yet, a pass creates it with its rate.
    pub(super) fn set_rates(&self, limits: &BTreeMap<Vni, Limit>, observed: &Observed) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (vni, limit) in limits {
            let device = DeviceName::peer(*vni);
            let Some(link) = observed.links.get(&device).filter(|_| observed.owns(&device)) else { continue };
            let Some(egress) = observed.egress.get(&device).filter(|egress| egress.ours) else { continue };
            let shaper = self.shares.shaper(*vni, *limit, link.mtu);
            if egress.rate != Some(shaper.rate) {
                operations.push(Operation::SetRate(device, shaper.rate));
            }
            if egress.queue != Some(shaper.queue) {
                operations.push(Operation::SetQueue(device, shaper.queue));
            }
        }
        operations
    }

    /// The kernel was read after rates were set.
    pub(super) fn confirm_rates(&mut self, limits: &BTreeMap<Vni, Limit>, seen: &Observed) {
        for (vni, limit) in limits {
            let device = DeviceName::peer(*vni);
            let wanted = |mtu| self.shares.shaper(*vni, *limit, mtu).rate;
            let egress = seen.egress.get(&device).filter(|egress| egress.ours && !egress.bypassed);
            let is_confirmed = seen.links.get(&device).zip(egress).is_some_and(|(link, egress)| {
                // The rate alone: a queue does not limit.
                egress.rate == Some(wanted(link.mtu))
            });
            if is_confirmed {
                self.confirmed.insert(*vni, self.shares.of(*vni, *limit));
            } else {
                self.confirmed.remove(vni);
            }
        }
    }

    /// The rates in the kernel are not those that it would have after a crash.
    pub(super) fn doubt(&mut self, limits: &BTreeMap<Vni, Limit>) {
        self.confirmed.retain(|vni, _| !limits.contains_key(vni));
    }

    /// An observation of a dirty set found all limits in it as they should be.
    pub(super) fn confirm_all(&mut self, config: &SharedHostConfig, dirty: &DirtySet) {
        let looked_at = |vni: &Vni| match dirty {
            DirtySet::Everything => true,
            DirtySet::Parts(parts) => parts.sides.contains(vni),
        };
        for (vni, side) in config.sides.iter().filter(|(vni, _)| looked_at(vni)) {
            match side.limit {
                Some(limit) => self.confirmed.insert(*vni, self.shares.of(*vni, limit)),
                None => self.confirmed.remove(vni),
            };
        }
    }

    /// The same operations with the current rates: what was granted after the plan was made must not be undone by it.
    /// None if nothing was.
    pub(super) fn with_rates_of_now(
        &self,
        operations: &[Operation],
        config: &SharedHostConfig,
        underlay: Option<UnderlayParams>,
    ) -> Option<Vec<Operation>> {
        let is_rate = |operation: &Operation| matches!(operation, Operation::SetRate(..) | Operation::SetQueue(..));
        if !self.regranted || !operations.iter().any(is_rate) {
            return None;
        }
        let shaper = |device: &InterfaceName| {
            let vni = DeviceName::parse(device)?.vni;
            let side = config.sides.get(&vni)?;
            let params = underlay.map(|params| params.limited_to(side.path_mtu));
            let mtu = params.map_or(0, |params| params.device_mtu(config.underlay));
            Some(self.shares.shaper(vni, side.limit?, mtu))
        };
        let of_now = |operation: &Operation| match operation {
            Operation::SetRate(device, _) => shaper(device).map(|shaper| Operation::SetRate(*device, shaper.rate)),
            Operation::SetQueue(device, _) => shaper(device).map(|shaper| Operation::SetQueue(*device, shaper.queue)),
            _ => None,
        };
        Some(operations.iter().map(|operation| of_now(operation).unwrap_or_else(|| operation.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dirty_set::Parts,
        testing::{Side, config_with_sides},
    };

    fn vni(number: u32) -> Vni {
        number.try_into().unwrap()
    }

    fn share(millionths: u32) -> Share {
        Share::of_millionths(millionths).unwrap()
    }

    fn config(sides: &[u32]) -> SharedHostConfig {
        config_with_sides(1, sides.iter().map(|vni| Side { share: Some(2500), ..Side::unlimited(*vni) }))
    }

    fn grants(number: u64, millionths: u32) -> Grants {
        Grants {
            revision: Revision { epoch: 1, number },
            sides: [(vni(7), share(millionths)), (vni(99), share(millionths))].into(),
        }
    }

    fn allocation() -> Allocation {
        Allocation::new(Shares::default(), watch::Sender::new(Shares::default()))
    }

    #[test]
    fn a_grant_returns_the_limits_whose_rate_changes() {
        let mut allocation = allocation();
        assert!(allocation.grant(&grants(1, 300_000), None).unwrap().is_empty(), "there is no configuration");
        let changed = allocation.grant(&grants(1, 300_000), Some(&config(&[7, 8]))).unwrap();
        assert_eq!(changed.into_keys().collect::<Vec<_>>(), [vni(7)], "99 is no side of it");
        allocation.confirm_all(&config(&[7, 8]), &DirtySet::Everything);
        assert!(allocation.grant(&grants(2, 300_000), Some(&config(&[7, 8]))).unwrap().is_empty());
        assert_eq!(allocation.grant(&grants(1, 1), None), Err(Revision { epoch: 1, number: 2 }));
        assert_eq!(allocation.published.borrow().revision, Some(Revision { epoch: 1, number: 2 }));
    }

    #[test]
    fn what_was_not_observed_is_not_confirmed() {
        let mut allocation = allocation();
        let dirty = DirtySet::Parts(Parts { sides: [vni(7)].into(), ..Parts::default() });
        allocation.confirm_all(&config(&[7, 8]), &dirty);
        assert_eq!([7, 8].map(|number| allocation.confirmed(vni(number))), [Some(share(2500)), None]);
        allocation.follow(&config(&[7, 8]), &config(&[8]));
        assert_eq!(allocation.confirmed(vni(7)), None, "the side has gone");
        allocation.confirm_all(&config(&[7]), &DirtySet::Everything);
        allocation.confirm_rates(
            &config(&[7]).sides.iter().filter_map(|(vni, side)| Some((*vni, side.limit?))).collect(),
            &Observed::default(),
        );
        assert_eq!(allocation.confirmed(vni(7)), None, "nothing of it was seen");
    }

    #[test]
    fn a_plan_does_not_undo_later_grants() {
        let (mut allocation, config) = (allocation(), config(&[7]));
        let rate = |allocation: &Allocation| {
            let limit = config.sides[&vni(7)].limit.unwrap();
            Operation::SetRate(DeviceName::peer(vni(7)), allocation.shares().shaper(vni(7), limit, 1450).rate)
        };
        let underlay = Some(UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 });
        let plan = [rate(&allocation), Operation::RemoveShaper(DeviceName::peer(vni(8)))];
        assert_eq!(allocation.with_rates_of_now(&plan, &config, underlay), None);
        allocation.grant(&grants(1, 300_000), Some(&config)).unwrap();
        let now = allocation.with_rates_of_now(&plan, &config, underlay).unwrap();
        assert_eq!(now, [rate(&allocation), plan[1].clone()]);
        assert_ne!(now[0], plan[0]);
        assert_eq!(allocation.with_rates_of_now(&plan[1..], &config, underlay), None);
        allocation.adjust(&config, &mut Desired::default());
        assert_eq!(allocation.with_rates_of_now(&plan, &config, underlay), None, "the next plan has it");
    }
}
