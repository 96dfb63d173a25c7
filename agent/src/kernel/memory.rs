//! A kernel in memory: the parts of Linux' behaviour that the agent depends on, and faults on demand.
//!
//! All clones share the same kernel, so a test can watch and disturb it while an agent works on it.

use super::{Kernel, KernelError, NetlinkError};
use crate::{
    dirty_set::DirtySet,
    objects::{
        Address, DeviceSetting, Egress, Family, Ingress, KernelRoute, Link, LinkChange, LinkKind, Lookup, Mac,
        Observed, Operation, RouteKey, Rule, Via, is_link_local, link_local,
    },
    traffic::Reading,
};
use cps_peering_config::net::{InterfaceName, Vni};
use ipnet::IpNet;
use nix::libc;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The settings of a new device.
const DEFAULTS: [(DeviceSetting, i32); 9] = [
    (DeviceSetting::Ipv4Forwarding, 0),
    (DeviceSetting::Ipv4RpFilter, 0),
    (DeviceSetting::Ipv4SendRedirects, 1),
    (DeviceSetting::Ipv4AcceptRedirects, 1),
    (DeviceSetting::Ipv4ArpIgnore, 0),
    (DeviceSetting::Ipv6Disable, 0),
    (DeviceSetting::Ipv6AcceptDad, 1),
    (DeviceSetting::Ipv6AcceptRa, 1),
    (DeviceSetting::Ipv6AcceptRedirects, 1),
];

/// The kernel.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

/// What is in it.
#[derive(Debug, Default)]
pub struct State {
    /// What an agent sees.
    pub seen: Observed,
    /// Routes of others in tables of ours: in the way, and not reported.
    pub foreign_routes: BTreeSet<RouteKey>,
    /// Traffic through the devices of sides, by the side's VNI.
    pub traffic: BTreeMap<Vni, Reading>,
    /// Every operation that was requested.
    pub log: Vec<Operation>,
    /// Every observation, by its dirty set.
    pub looks: Vec<DirtySet>,
    /// The operations, counted from the next one, that are refused with `EIO`.
    pub refuse: BTreeSet<usize>,
    /// Devices that cannot be made, each with the error.
    pub refuse_devices: BTreeMap<InterfaceName, i32>,
    /// How many of the next lists cannot be read.
    pub deaf: usize,
    last_index: u32,
}

impl Memory {
    /// A kernel just booted: loopback and the rules that Linux begins with.
    pub fn new() -> Self {
        let memory = Self::default();
        {
            let mut state = memory.state();
            state.add_link("lo", LinkKind::Loopback);
            state.seen.underlay.senders = Some(BTreeMap::new());
            for family in Family::ALL {
                state.seen.rules.push(Rule { family, priority: 0, lookup: Lookup::Local, protocol: 2 });
            }
        }
        memory
    }

    /// The kernel's internals.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for Memory {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        let mut state = self.state();
        state.looks.push(dirty.clone());
        if *dirty == DirtySet::Everything && stop() {
            return Err(KernelError::Abandoned);
        }
        if state.deaf > 0 {
            state.deaf -= 1;
            return Err(KernelError::Socket { what: "receive", source: io::ErrorKind::TimedOut.into() });
        }
        let mut seen = state.seen.clone();
        if let DirtySet::Parts(parts) = dirty {
            seen.rules.clear();
            seen.without_local_route.clear();
            parts.restrict(&mut seen);
        }
        Ok(seen)
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        Ok(self.state().traffic.clone())
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        Ok(self.state().seen.links.clone())
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let mut state = self.state();
        let mut refused = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            state.log.push(operation.clone());
            let fault = state.refuse.remove(&0);
            state.refuse = state.refuse.iter().map(|countdown| countdown - 1).collect();
            let result = if fault { Err(libc::EIO) } else { state.carry_out(operation) };
            if let Err(errno) = result {
                refused.push((place, NetlinkError { errno, explanation: None }));
            }
        }
        Ok(refused)
    }
}

/// A device with the kernel's defaults and this index.
pub fn plain_link(index: u32) -> Link {
    Link {
        index,
        kind: LinkKind::Other,
        mac: Some(Mac([2, 0, 0, 0, 0, index.to_le_bytes()[0]])),
        mtu: 1500,
        up: false,
        carrier: true,
        master: None,
        group: 0,
        alias: None,
        arp: true,
        protodown: false,
        xdp: None,
        generates_link_local: true,
        alternative_names: BTreeSet::new(),
        permanent_mac: None,
        may_be_renamed: false,
        takes_from: None,
        vlan: None,
        settings: DEFAULTS.into(),
        exempt: BTreeSet::new(),
    }
}

impl State {
    /// Adds a device that is down and returns it.
    pub fn add_link(&mut self, name: &str, kind: LinkKind) -> &mut Link {
        self.last_index += 1;
        let link = Link { kind, ..plain_link(self.last_index) };
        let name = name.parse().expect("a test names its devices well");
        self.seen.links.entry(name).insert_entry(link).into_mut()
    }

    /// Gives a device an address of another program.
    pub fn add_foreign_address(&mut self, device: &str, net: &str) {
        let device = device.parse().expect("a test names its devices well");
        let net = net.parse().expect("a test writes its addresses well");
        self.seen.addresses.insert(Address { device, net }, false);
    }

    fn link(&mut self, name: &InterfaceName) -> Result<&mut Link, i32> {
        self.seen.links.get_mut(name).ok_or(libc::ENODEV)
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<(), i32> {
        match operation {
            Operation::AddRule(rule) => {
                if self.seen.rules.contains(rule) {
                    return Err(libc::EEXIST);
                }
                self.seen.rules.push(*rule);
                self.seen.rules.sort_unstable();
            }
            Operation::RemoveRule(rule) => self.seen.rules.retain(|other| other != rule),
            Operation::EnableIpv6Forwarding => self.seen.ipv6_forwarding = true,
            Operation::AddVrf(name, vrf) => {
                self.add_own(name, LinkKind::Vrf(vrf.table), &vrf.alias)?.up = true;
                self.l3mdev_rules();
            }
            Operation::AddVxlan(name, vxlan) => {
                let master = self.link(&vxlan.vrf)?.index;
                let taken = self.seen.links.values().any(|link| match link.kind {
                    LinkKind::Vxlan { tunnel: Some(tunnel), .. } => {
                        (tunnel.vni, tunnel.port) == (vxlan.tunnel.vni, vxlan.tunnel.port)
                    }
                    _ => false,
                });
                if taken {
                    return Err(libc::EEXIST);
                }
                let kind = LinkKind::Vxlan { tunnel: Some(vxlan.tunnel), altered: false };
                let link = self.add_own(name, kind, &vxlan.alias)?;
                link.master = Some(master);
                link.mac = Some(vxlan.mac);
                link.mtu = vxlan.mtu;
                link.generates_link_local = false;
            }
            Operation::ChangeLink(name, change) => self.change_link(name, change)?,
            Operation::Set(name, setting, value) => {
                self.link(name)?.settings.insert(*setting, *value);
                if (*setting, *value) == (DeviceSetting::Ipv6Disable, 1) {
                    self.ends_on(name, Family::V6);
                    self.drop_ipv6_addresses(name);
                }
                self.begin_ipv6(name)?;
            }
            Operation::ResetToDefault(name, setting) => {
                let default = DEFAULTS.into_iter().find(|(other, _)| other == setting).ok_or(libc::ENOENT)?;
                self.link(name)?.settings.extend([default]);
            }
            Operation::RemoveLinks(names) => names.iter().for_each(|name| self.remove_link(name)),
            Operation::AddAddress(address) => {
                self.link(&address.device)?;
                self.seen.addresses.insert(*address, !is_link_local(&address.net));
            }
            Operation::RemoveAddress(address) => {
                self.seen.addresses.remove(address);
                self.seen.without_local_route.remove(address);
                let mut others = self.seen.addresses.keys().filter(|other| other.device == address.device);
                if matches!(address.net, IpNet::V4(_)) && !others.any(|other| matches!(other.net, IpNet::V4(_))) {
                    self.ends_on(&address.device, Family::V4);
                }
            }
            Operation::SetNeighbour(key, mac) => {
                self.up(&key.device)?;
                self.seen.neighbours.insert(*key, *mac);
            }
            Operation::RemoveNeighbour(key) => drop(self.seen.neighbours.remove(key)),
            Operation::SetFdb(key, target) => {
                self.link(&key.device)?;
                self.seen.fdb.insert(*key, Some(*target));
            }
            Operation::RemoveFdb(key) => drop(self.seen.fdb.remove(key)),
            Operation::AddIngress(device) => {
                self.link(device)?;
                if self.seen.ingress.contains_key(device) {
                    return Err(libc::EEXIST);
                }
                self.seen.ingress.insert(*device, Ingress::default());
            }
            Operation::RemoveIngress(device) => {
                self.seen.underlay.guarded.remove(device);
                self.seen.ingress.remove(device);
            }
            Operation::SetSenders(..) | Operation::AddGuard(..) if self.seen.underlay.unavailable => {
                return Err(libc::EPERM);
            }
            Operation::SetSenders(vni, senders) => {
                self.seen.underlay.senders.get_or_insert_default().insert(*vni, senders.clone());
            }
            Operation::RemoveSenders(vni) => {
                self.seen.underlay.senders.get_or_insert_default().remove(vni);
            }
            Operation::AddGuard(device, kind) => {
                self.seen.ingress.get_mut(device).ok_or(libc::EINVAL)?.underlay_program = Some(1);
                self.seen.underlay.guarded.insert(*device, Some(*kind));
            }
            Operation::RemoveGuard(device) => {
                self.seen.ingress.get_mut(device).ok_or(libc::EINVAL)?.underlay_program = None;
                self.seen.underlay.guarded.remove(device);
            }
            Operation::SetFilter(device, place, filter) => {
                let ingress = self.seen.ingress.get_mut(device).ok_or(libc::EINVAL)?;
                if ingress.filters.get(place) == Some(&None) {
                    return Err(libc::EINVAL);
                }
                ingress.filters.insert(*place, Some(filter.clone()));
            }
            Operation::RemoveFilter(device, place) => {
                let ingress = self.seen.ingress.get_mut(device).ok_or(libc::EINVAL)?;
                ingress.filters.remove(place);
            }
            Operation::AddShaper(device) => {
                self.link(device)?;
                // HTB without its class lets everything pass.
                self.seen.egress.insert(*device, Egress { ours: true, ..Egress::default() });
            }
            Operation::SetRate(device, rate) => {
                self.seen.egress.get_mut(device).filter(|egress| egress.ours).ok_or(libc::EINVAL)?.rate = Some(*rate);
            }
            Operation::SetQueue(device, queue) => {
                let egress = self.seen.egress.get_mut(device).filter(|egress| egress.rate.is_some());
                egress.ok_or(libc::ENOENT)?.queue = Some(*queue);
            }
            Operation::RemoveShaper(device) => drop(self.seen.egress.remove(device)),
            Operation::AddNexthop(id, nexthop) => {
                let index = self.up(&nexthop.device)?;
                if self.seen.nexthops.contains_key(id) || self.seen.foreign_nexthop_ids.contains(id) {
                    return Err(libc::EEXIST);
                }
                self.seen.nexthops.insert(*id, (index, nexthop.gateway));
            }
            Operation::RemoveNexthop(id) => self.remove_nexthop(*id),
            Operation::AddRoute(route) => {
                let same = |other: &RouteKey| *other == route.key;
                if self.foreign_routes.iter().any(same) || self.seen.routes.iter().any(|other| same(&other.key)) {
                    return Err(libc::EEXIST);
                }
                self.can_lead(route.via)?;
                self.insert_route(*route);
            }
            Operation::ReplaceRoute(route) => {
                self.can_lead(route.via)?;
                self.seen.routes.retain(|other| other.key != route.key);
                self.insert_route(*route);
            }
            Operation::RemoveRoute(route) => self.seen.routes.retain(|other| other != route),
        }
        Ok(())
    }

    /// Keeps the routes sorted, without sorting thousands of them for each.
    fn insert_route(&mut self, route: KernelRoute) {
        let at = self.seen.routes.partition_point(|other| *other < route);
        self.seen.routes.insert(at, route);
    }

    fn add_own(&mut self, name: &InterfaceName, kind: LinkKind, alias: &str) -> Result<&mut Link, i32> {
        if let Some(errno) = self.refuse_devices.get(name) {
            return Err(*errno);
        }
        if self.seen.links.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let link = self.add_link(&name.as_str(), kind);
        link.group = crate::ownership::GROUP;
        link.alias = Some(alias.to_owned());
        Ok(link)
    }

    /// The kernel adds these with its first VRF.
    fn l3mdev_rules(&mut self) {
        if self.seen.rules.iter().any(|rule| rule.lookup == Lookup::L3mdev) {
            return;
        }
        for family in Family::ALL {
            self.seen.rules.push(Rule { family, priority: 1000, lookup: Lookup::L3mdev, protocol: 2 });
        }
        self.seen.rules.sort_unstable();
    }

    fn change_link(&mut self, name: &InterfaceName, change: &LinkChange) -> Result<(), i32> {
        match change {
            LinkChange::Enslave(vrf) => {
                let master = self.link(vrf)?.index;
                self.link(name)?.master = Some(master);
                self.goes_down(name);
                self.drop_ipv6_addresses(name);
                self.begin_ipv6(name)?;
            }
            LinkChange::Release => {
                self.link(name)?.master = None;
                self.goes_down(name);
                self.drop_ipv6_addresses(name);
                self.begin_ipv6(name)?;
            }
            LinkChange::Mac(mac) => self.link(name)?.mac = Some(*mac),
            LinkChange::Mtu(mtu) => self.link(name)?.mtu = *mtu,
            LinkChange::Up(true) => {
                self.link(name)?.up = true;
                self.begin_ipv6(name)?;
            }
            LinkChange::Up(false) => {
                self.link(name)?.up = false;
                self.goes_down(name);
                self.drop_ipv6_addresses(name);
            }
            LinkChange::Alias(alias) => self.link(name)?.alias = Some(alias.to_string()),
            LinkChange::NoProtodown => self.link(name)?.protodown = false,
            LinkChange::Arp => self.link(name)?.arp = true,
            LinkChange::NoLinkLocal => self.link(name)?.generates_link_local = false,
        }
        Ok(())
    }

    /// A device no longer has an address of the family: its routes are deleted.
    fn ends_on(&mut self, name: &InterfaceName, family: Family) {
        let Some(index) = self.seen.links.get(name).map(|link| link.index) else { return };
        self.seen.routes.retain(|route| route.via != Via::Device(index) || Family::of(&route.key.prefix) != family);
    }

    /// A device that is up gets a link-local address.
    fn begin_ipv6(&mut self, name: &InterfaceName) -> Result<(), i32> {
        let link = self.link(name)?;
        let is_vrf = matches!(link.kind, LinkKind::Vrf(_));
        let begins = link.up
            && !is_vrf
            && link.generates_link_local
            && link.settings.get(&DeviceSetting::Ipv6Disable) == Some(&0);
        if let Some(mac) = link.mac.filter(|_| begins) {
            self.seen.addresses.insert(Address { device: *name, net: link_local(mac) }, false);
        }
        Ok(())
    }

    fn drop_ipv6_addresses(&mut self, name: &InterfaceName) {
        self.seen.without_local_route.retain(|address| address.device != *name || matches!(address.net, IpNet::V4(_)));
        self.seen.addresses.retain(|address, _| address.device != *name || matches!(address.net, IpNet::V4(_)));
    }

    /// What a device loses when it goes down, also for the moment that a change of VRF takes.
    pub fn goes_down(&mut self, name: &InterfaceName) {
        let Some(index) = self.seen.links.get(name).map(|link| link.index) else { return };
        let nexthops = self.seen.nexthops.iter().filter(|(_, (device, _))| *device == index);
        let ids: Vec<u32> = nexthops.map(|(id, _)| *id).collect();
        for id in ids {
            self.remove_nexthop(id);
        }
        self.seen.routes.retain(|route| route.via != Via::Device(index));
        self.seen.neighbours.retain(|key, _| key.device != *name);
    }

    fn remove_nexthop(&mut self, id: u32) {
        self.seen.nexthops.remove(&id);
        self.seen.routes.retain(|route| route.via != Via::Nexthop(id));
    }

    /// Removes a device with everything on it.
    pub fn remove_link(&mut self, name: &InterfaceName) {
        self.goes_down(name);
        let Some(link) = self.seen.links.remove(name) else { return };
        self.seen.addresses.retain(|address, _| address.device != *name);
        self.seen.without_local_route.retain(|address| address.device != *name);
        self.seen.fdb.retain(|key, _| key.device != *name);
        self.seen.ingress.remove(name);
        self.seen.underlay.guarded.remove(name);
        self.seen.egress.remove(name);
        let members = self.seen.links.iter().filter(|(_, member)| member.master == Some(link.index));
        let members: Vec<InterfaceName> = members.map(|(name, _)| *name).collect();
        for member in members {
            let released = self.change_link(&member, &LinkChange::Release);
            debug_assert!(released.is_ok(), "it was just found");
        }
    }

    fn up(&mut self, device: &InterfaceName) -> Result<u32, i32> {
        let link = self.link(device)?;
        if link.up { Ok(link.index) } else { Err(libc::ENETDOWN) }
    }

    fn can_lead(&self, via: Via) -> Result<(), i32> {
        let leads = match via {
            Via::Unreachable => true,
            Via::Nexthop(id) => self.seen.nexthops.contains_key(&id),
            Via::Device(index) => self.seen.links.values().any(|link| link.index == index && link.up),
            Via::Other => false,
        };
        if leads { Ok(()) } else { Err(libc::EINVAL) }
    }
}
