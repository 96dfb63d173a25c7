//! Which kernel objects concern us: shared with the event listeners while the reconciler works.

use crate::{
    dirty_set::DirtySet,
    objects::{LinkKind, Observed},
    ownership::{self, DeviceName},
};
use cps_peering_config::{SharedHostConfig, net::InterfaceName};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// The objects that concern us. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Interest(Arc<RwLock<Known>>);

/// How a device concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    /// An interface of a tenant, who can make the kernel announce changes of it.
    Port,
    /// A VXLAN device of ours.
    Tunnel,
    /// A VRF, the underlay, or a device that conflicts with ours.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// By index. None before the first observation: then everything concerns us.
    devices: Option<BTreeMap<u32, Device>>,
    /// Names of ports, whether or not the interface exists.
    ports: BTreeSet<InterfaceName>,
    /// Whether the interface of each exists.
    complete: bool,
    underlay: Option<IpAddr>,
    /// Devices of others, which the underlay filter is attached to while there are tunnels; each with its master.
    guarded: Option<BTreeMap<u32, Option<u32>>>,
    /// Neighbours of ports that programs of the host have entered, by the port's index.
    entered: BTreeSet<(u32, IpAddr)>,
}

impl Interest {
    pub(super) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The indexes of ports.
    pub fn ports(&self) -> BTreeSet<u32> {
        let known = self.known();
        let devices = known.devices.iter().flatten();
        devices.filter(|(_, device)| **device == Device::Port).map(|(index, _)| *index).collect()
    }

    /// Takes over the result of an observation.
    pub fn learn(&self, config: &SharedHostConfig, observed: &Observed, dirty: &DirtySet) {
        let whole = *dirty == DirtySet::Everything;
        let ports = || config.vrfs.values().flat_map(|vrf| vrf.ports.keys().copied());
        let mut known = self.change();
        if whole || known.devices.is_none() {
            known.ports = ports().collect();
            known.underlay = Some(config.underlay);
        } else {
            known.ports.extend(ports().filter(|port| observed.links.contains_key(port)));
        }
        let names = &known.ports;
        let at_underlay = |name: &InterfaceName| {
            observed.addresses.keys().any(|address| address.device == *name && address.net.addr() == config.underlay)
        };
        let vrfs: BTreeSet<u32> = observed
            .links
            .iter()
            .filter(|(name, link)| is_vrf_of_interest(name, link.kind))
            .map(|(_, link)| link.index)
            .collect();
        let devices = observed.links.iter().filter_map(|(name, link)| {
            let device = if names.contains(name) {
                Device::Port
            } else if observed.owns(name) && matches!(link.kind, LinkKind::Vxlan { .. }) {
                Device::Tunnel
            } else if is_of_interest(name, link.kind)
                || link.master.is_some_and(|master| vrfs.contains(&master))
                || at_underlay(name)
            {
                Device::Other
            } else {
                return None;
            };
            Some((link.index, device))
        });
        let devices: BTreeMap<u32, Device> = devices.collect();
        if whole {
            // As in `diff::underlay`: the first tunnel does not require everything to be read again.
            let guards = !config.vrfs.is_empty();
            let others = observed.links.values().filter(|link| !devices.contains_key(&link.index));
            known.guarded = guards.then(|| others.map(|link| (link.index, link.master)).collect());
            let entered = observed.foreign.neighbours.iter();
            let entered = entered.filter_map(|it| Some((observed.links.get(&it.device)?.index, it.address)));
            known.entered = entered.collect();
            known.complete = known.ports.iter().all(|port| observed.links.contains_key(port));
            known.devices = Some(devices);
        } else if let Some(known) = &mut known.devices {
            known.extend(devices);
        }
    }
}

impl Known {
    /// How a device concerns us; none if it does not. Before the first observation every device does.
    pub(super) fn device(&self, index: u32) -> Option<Device> {
        self.devices.as_ref().map_or(Some(Device::Other), |devices| devices.get(&index).copied())
    }

    /// Whether a device that is unknown, or has changed, concerns us by its name, kind or master.
    pub(super) fn would_concern(&self, name: &InterfaceName, kind: LinkKind, master: Option<u32>) -> bool {
        let in_vrf = master.is_some_and(|master| self.device(master).is_some());
        // It may turn out to be the missing one.
        !self.complete || self.ports.contains(name) || is_of_interest(name, kind) || in_vrf
    }

    /// Whether a device of others is new, is gone, or has another master, while the underlay filter has to be on all of
    /// them.
    pub(super) fn guard_changes(&self, index: u32, master: Option<u32>, gone: bool) -> bool {
        self.guarded.as_ref().is_some_and(|guarded| guarded.get(&index).map_or(!gone, |there| gone || *there != master))
    }

    /// Whether the underlay filter is attached to a device of others.
    pub(super) fn is_guarded(&self, index: u32) -> bool {
        self.guarded.as_ref().is_some_and(|guarded| guarded.contains_key(&index))
    }

    #[cfg(test)]
    pub(super) fn enter(&mut self, index: u32, address: IpAddr) {
        self.entered.insert((index, address));
    }

    /// Whether a program of the host has entered a neighbour of a port.
    pub(super) fn is_entered(&self, index: u32, address: IpAddr) -> bool {
        self.entered.contains(&(index, address))
    }

    pub(super) fn is_underlay(&self, address: IpAddr) -> bool {
        self.underlay.is_none_or(|underlay| underlay == address)
    }
}

fn is_vrf_of_interest(name: &InterfaceName, kind: LinkKind) -> bool {
    matches!(kind, LinkKind::Vrf(table) if ownership::table_vni(table).is_some() || DeviceName::parse(name).is_some())
}

/// Objects that can conflict with ours, whoever made them: our names, our tables, tunnels.
fn is_of_interest(name: &InterfaceName, kind: LinkKind) -> bool {
    DeviceName::parse(name).is_some() || is_vrf_of_interest(name, kind) || matches!(kind, LinkKind::Vxlan { .. })
}
