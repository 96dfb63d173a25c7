//! What of the desired devices can be had, and what is to become of those that are there.

use super::Conflict;
use crate::{
    objects::{Address, Desired, Link, LinkKind, Observed, VxlanDevice},
    ownership::{DeviceName, Role},
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    report::ProblemKind,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Survey<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    /// Names of devices by index.
    pub(super) names: BTreeMap<u32, InterfaceName>,
    /// VRFs by table.
    vrfs: BTreeMap<u32, Vec<InterfaceName>>,
    /// VXLAN devices that are not ours, by VNI and port.
    others: BTreeMap<(Vni, u16), InterfaceName>,
    pub(super) conflicts: Vec<Conflict>,
    /// Desired devices that cannot be had, and those that hang on them.
    pub(super) blocked: BTreeSet<InterfaceName>,
    /// Tables of blocked VRFs.
    pub(super) blocked_tables: BTreeSet<u32>,
    /// Devices of ours that must be made anew.
    pub(super) recreated: BTreeSet<InterfaceName>,
    /// Ports that change their VRF; the kernel takes their routes away.
    pub(super) rebound: BTreeSet<InterfaceName>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        let mut survey = Self {
            desired,
            observed,
            names: observed.links.iter().map(|(name, link)| (link.index, *name)).collect(),
            vrfs: BTreeMap::new(),
            others: BTreeMap::new(),
            conflicts: Vec::new(),
            blocked: BTreeSet::new(),
            blocked_tables: BTreeSet::new(),
            recreated: BTreeSet::new(),
            rebound: BTreeSet::new(),
        };
        for (name, link) in &observed.links {
            match link.kind {
                LinkKind::Vrf(table) => survey.vrfs.entry(table).or_default().push(*name),
                LinkKind::Vxlan { tunnel: Some(tunnel), .. } if !observed.owns(name) => {
                    survey.others.entry((tunnel.vni, tunnel.port)).or_insert(*name);
                }
                _ => {}
            }
        }
        survey.check_devices();
        survey.check_ports();
        survey
    }

    fn block(&mut self, device: InterfaceName, kind: ProblemKind, reason: String) {
        self.blocked.insert(device);
        self.conflicts.push(Conflict { device, kind, reason });
    }

    /// A device of ours, or a port, that is there and stays.
    pub(super) fn kept(&self, name: &InterfaceName) -> Option<&'a Link> {
        if self.recreated.contains(name) || self.blocked.contains(name) { None } else { self.observed.links.get(name) }
    }

    /// The VRF of ours that the device is enslaved to.
    pub(super) fn vrf_of(&self, link: &Link) -> Option<InterfaceName> {
        let master = self.names.get(&link.master?)?;
        let is_vrf = matches!(DeviceName::parse(master), Some(DeviceName { role: Role::Vrf, .. }));
        (is_vrf && self.observed.owns(master)).then_some(*master)
    }

    fn check_devices(&mut self) {
        let desired = self.desired;
        for (name, vrf) in &desired.vrfs {
            if self.observed.links.contains_key(name) && !self.observed.owns(name) {
                self.block(*name, ProblemKind::Conflict, format!("there is a device {name} that is not ours"));
            } else if let Some(other) = self.other_vrf(name, vrf.table) {
                let reason = format!("table {} belongs to VRF {other}, which is not ours", vrf.table);
                self.block(*name, ProblemKind::Conflict, reason);
            }
            if self.blocked.contains(name) {
                self.blocked_tables.insert(vrf.table);
            }
        }
        for (name, vxlan) in &desired.vxlans {
            if self.observed.links.contains_key(name) && !self.observed.owns(name) {
                self.block(*name, ProblemKind::Conflict, format!("there is a device {name} that is not ours"));
            } else if let Some(other) = self.other_vxlan(name, vxlan) {
                let (vni, port) = (vxlan.tunnel.vni, vxlan.tunnel.port);
                let reason = format!("VNI {vni} on UDP port {port} is in use by {other}, which is not ours");
                self.block(*name, ProblemKind::Conflict, reason);
            } else if let Some(other) = self.holder_of_port(name, vxlan.tunnel.port) {
                let reason = format!(
                    "UDP port {} is taken by {other}, an external VXLAN device that is not ours",
                    vxlan.tunnel.port
                );
                self.block(*name, ProblemKind::Conflict, reason);
            } else if self.blocked.contains(&vxlan.vrf) {
                self.blocked.insert(*name);
            } else if self
                .observed
                .links
                .get(name)
                .is_some_and(|link| link.kind != LinkKind::Vxlan { tunnel: Some(vxlan.tunnel), altered: false })
            {
                self.recreated.insert(*name);
            }
        }
    }

    fn other_vrf(&self, name: &InterfaceName, table: u32) -> Option<InterfaceName> {
        self.vrfs.get(&table)?.iter().find(|other| *other != name).copied()
    }

    fn other_vxlan(&self, name: &InterfaceName, vxlan: &VxlanDevice) -> Option<InterfaceName> {
        self.others.get(&(vxlan.tunnel.vni, vxlan.tunnel.port)).filter(|other| *other != name).copied()
    }

    /// A device that takes packets of every VNI, so that none of ours can be set up beside it. One that came later is down.
    fn holder_of_port(&self, name: &InterfaceName, wanted: u16) -> Option<InterfaceName> {
        if self.observed.links.get(name).is_some_and(|link| link.up) {
            return None;
        }
        let holds = |link: &Link| link.up && link.kind == LinkKind::ExternalVxlan { port: wanted };
        self.observed.links.iter().find(|(_, link)| holds(link)).map(|(name, _)| *name)
    }

    fn check_ports(&mut self) {
        let desired = self.desired;
        for (port, vrf) in &desired.ports {
            if self.blocked.contains(vrf) {
                self.blocked.insert(*port);
                continue;
            }
            let Some(link) = self.observed.links.get(port) else {
                self.block(*port, ProblemKind::Missing, format!("there is no interface {port}"));
                continue;
            };
            if link.kind == LinkKind::Loopback || self.observed.owns(port) {
                self.block(*port, ProblemKind::Conflict, format!("{port} cannot be a port"));
                continue;
            }
            if link.kind == LinkKind::NotEthernet {
                let reason = format!("{port} cannot be a port: its frames are not Ethernet's");
                self.block(*port, ProblemKind::Conflict, reason);
                continue;
            }
            if self.vrf_of(link) == Some(*vrf) {
                continue;
            }
            if self.vrf_of(link).is_none() {
                if let Some(master) = link.master {
                    let master = self.names.get(&master).map_or_else(|| format!("#{master}"), ToString::to_string);
                    let reason = format!("{port} is enslaved to {master}, which is not ours");
                    self.block(*port, ProblemKind::Conflict, reason);
                    continue;
                }
                // Most likely an interface of the host itself, listed by mistake. Taking it would cut the host off.
                if let Some(address) = self.foreign_address(port) {
                    let reason = format!("{port} has the address {address}, which is not ours");
                    self.block(*port, ProblemKind::Conflict, reason);
                    continue;
                }
            }
            self.rebound.insert(*port);
        }
    }

    fn foreign_address(&self, port: &InterfaceName) -> Option<IpNet> {
        let is_link_local = |address: &Address| match address.net {
            IpNet::V4(_) => false,
            IpNet::V6(net) => net.addr().is_unicast_link_local(),
        };
        let mut addresses = self.observed.addresses.iter();
        addresses
            .find(|(address, ours)| {
                address.device == *port
                    && !**ours
                    && !is_link_local(address)
                    && !self.desired.addresses.contains(address)
            })
            .map(|(address, _)| address.net)
    }
}
