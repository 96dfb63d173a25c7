//! Which of the desired devices can be had, and what to do with the existing ones.

use super::Conflict;
use crate::{
    compile::IPV6_MIN_MTU,
    objects::{Address, Desired, Ingress, Link, LinkKind, Observed, VxlanDevice, is_link_local},
    ownership::{self, DeviceName, Role},
    ports,
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    report::ProblemKind,
};
use ipnet::{IpNet, Ipv4Net};
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
    /// Desired devices that cannot be had, and those that depend on them.
    pub(super) blocked: BTreeSet<InterfaceName>,
    /// Tables of blocked VRFs.
    pub(super) blocked_tables: BTreeSet<u32>,
    /// Devices of ours that must be recreated.
    pub(super) recreated: BTreeSet<InterfaceName>,
    /// Ports that change their VRF; the kernel removes their routes.
    pub(super) rebound: BTreeSet<InterfaceName>,
    /// Devices that must not carry a packet: they belong to a VPC whose VRF cannot be had, or lead elsewhere.
    pub(super) closed: BTreeSet<InterfaceName>,
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
            closed: BTreeSet::new(),
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
        let known = |name: &InterfaceName| {
            desired.vrfs.contains_key(name) || desired.vxlans.contains_key(name) || desired.ports.contains_key(name)
        };
        for (name, reason) in desired.left_alone.iter().filter(|(name, _)| known(name)) {
            survey.block(*name, ProblemKind::Conflict, reason.clone());
        }
        survey.check_devices();
        survey.check_ports();
        survey.close_what_was_ours();
        survey
    }

    fn block(&mut self, device: InterfaceName, kind: ProblemKind, reason: String) {
        self.blocked.insert(device);
        self.conflicts.push(Conflict { device, kind, reason });
    }

    /// A device of ours, or a port, that exists and stays.
    pub(super) fn kept(&self, name: &InterfaceName) -> Option<&'a Link> {
        if self.recreated.contains(name) || self.blocked.contains(name) { None } else { self.observed.links.get(name) }
    }

    /// Whether the kernel has no IPv6 on a device because of its MTU (RFC 8200 section 5).
    pub(super) fn is_too_small_for_ipv6(&self, name: &InterfaceName) -> bool {
        self.observed.links.get(name).is_some_and(|link| link.mtu < IPV6_MIN_MTU)
    }

    /// The VRF of ours that the device is enslaved to.
    pub(super) fn vrf_of(&self, link: &Link) -> Option<InterfaceName> {
        let master = self.names.get(&link.master?)?;
        (is_vrf_name(master) && self.observed.owns(master)).then_some(*master)
    }

    /// Whether a device is a VRF on a table of the reserved range that will exist when the plan is carried out; returns
    /// the table. Whatever its marks are, packets of its members use the routes of that table.
    pub(super) fn stands(&self, name: &InterfaceName, link: &Link) -> Option<u32> {
        let LinkKind::Vrf(table) = link.kind else { return None };
        ownership::table_vni(table)?;
        let goes = self.observed.owns(name) && !self.desired.vrfs.contains_key(name);
        (!goes).then_some(table)
    }

    /// Whether a VRF on this table has members. Until the last one has left, the table needs its backstops.
    pub(super) fn is_in_use(&self, table: u32) -> bool {
        let vrfs = self.vrfs.get(&table).into_iter().flatten();
        let standing = vrfs.filter_map(|name| {
            let link = self.observed.links.get(name)?;
            self.stands(name, link).map(|_| link.index)
        });
        let standing: BTreeSet<u32> = standing.collect();
        !standing.is_empty()
            && self.observed.links.values().any(|link| link.master.is_some_and(|master| standing.contains(&master)))
    }

    /// Whether the VRF that has this table by our numbering exists, whatever its mark is.
    pub(super) fn has_vrf_on(&self, table: u32) -> bool {
        let vrf = ownership::table_vni(table).and_then(|vni| self.observed.links.get(&DeviceName::vrf(vni)));
        vrf.is_some_and(|link| link.kind == LinkKind::Vrf(table))
    }

    /// The VRF that a device is enslaved to, if we made it: it is ours, or would be if its name or mark had not been
    /// changed.
    pub(super) fn vrf_made_by_us(&self, link: &Link) -> Option<InterfaceName> {
        let master = self.names.get(&link.master?)?;
        let vrf = self.observed.links.get(master)?;
        let LinkKind::Vrf(table) = vrf.kind else { return None };
        ownership::table_vni(table)?;
        (is_vrf_name(master) || ownership::owns_group(vrf.group)).then_some(*master)
    }

    /// Whether a device that is listed as a port has been one before, wherever it is now.
    fn was_a_port(&self, name: &InterfaceName, link: &Link) -> bool {
        self.vrf_made_by_us(link).is_some() || self.has_marks_of_a_port(name)
    }

    /// Whether a device carries something of ours.
    pub(super) fn has_marks_of_a_port(&self, name: &InterfaceName) -> bool {
        let filters = self.observed.ingress.get(name).is_some_and(Ingress::is_of_a_port);
        filters || self.has_address_of_ours(name)
    }

    fn has_address_of_ours(&self, name: &InterfaceName) -> bool {
        let first = Address { device: *name, net: IpNet::V4(Ipv4Net::default()) };
        let mut own = self.observed.addresses.range(first..).take_while(|(address, _)| address.device == *name);
        own.any(|(_, ours)| *ours)
    }

    /// Former ports of ours that are in no VRF of ours: the tenant must not be left in whatever network the device is
    /// in now. The same goes for tunnels of ours that cannot be had where they belong.
    fn close_what_was_ours(&mut self) {
        let mut closed = std::mem::take(&mut self.closed);
        for (name, link) in self.observed.links.iter().filter(|(_, link)| link.up) {
            if self.observed.owns(name) {
                let tunnel = self.desired.vxlans.contains_key(name) && self.blocked.contains(name);
                closed.extend(tunnel.then_some(*name));
            } else if !self.desired.partial && !self.desired.ports.contains_key(name) && link.kind == LinkKind::Other {
                closed.extend(self.has_marks_of_a_port(name).then_some(*name));
            }
        }
        self.closed = closed;
    }

    fn check_devices(&mut self) {
        let desired = self.desired;
        for (name, vrf) in &desired.vrfs {
            if self.blocked.contains(name) {
                // It is left alone for now.
            } else if self.observed.links.contains_key(name) && !self.observed.owns(name) {
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
            if self.blocked.contains(name) {
                // It is left alone for now.
            } else if self.observed.links.contains_key(name) && !self.observed.owns(name) {
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

    /// A device that receives packets of every VNI, so that none of ours can be set up beside it. One that came later
    /// is down.
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
            let link = self.observed.links.get(port);
            if self.blocked.contains(vrf) || self.blocked.contains(port) {
                self.blocked.insert(*port);
                // It would be taken if possible, so it belongs to no other program.
                let ours = |link: &Link| self.is_free(port, link) || self.was_a_port(port, link);
                if link.is_some_and(|link| self.can_be_a_port(port, link) && ours(link)) {
                    self.closed.insert(*port);
                }
                continue;
            }
            let Some(link) = link else {
                self.block(*port, ProblemKind::Missing, ports::why_missing(port, &self.observed.links));
                continue;
            };
            if !self.can_be_a_port(port, link) {
                self.block(*port, ProblemKind::Conflict, format!("{port} cannot be a port"));
                continue;
            }
            if link.kind == LinkKind::NotEthernet {
                let reason = format!("{port} cannot be a port: it is not an Ethernet interface");
                self.block(*port, ProblemKind::Conflict, reason);
                continue;
            }
            if self.vrf_of(link) == Some(*vrf) {
                continue;
            }
            if self.vrf_of(link).is_none()
                && let Some(reason) = self.somebody_elses(port, link)
            {
                if self.was_a_port(port, link) {
                    self.closed.insert(*port);
                }
                self.block(*port, ProblemKind::Conflict, reason);
                continue;
            }
            if link.may_be_renamed {
                let reason = format!("udev has not finished with {port}, and may give it another name");
                self.block(*port, ProblemKind::Missing, reason);
                continue;
            }
            self.rebound.insert(*port);
        }
    }

    fn can_be_a_port(&self, name: &InterfaceName, link: &Link) -> bool {
        link.kind != LinkKind::Loopback && !self.observed.owns(name)
    }

    fn is_free(&self, port: &InterfaceName, link: &Link) -> bool {
        self.somebody_elses(port, link).is_none()
    }

    /// Why an interface that is in no VRF of ours is not ours to take.
    fn somebody_elses(&self, port: &InterfaceName, link: &Link) -> Option<String> {
        if let Some(master) = link.master {
            let master = self.names.get(&master).map_or_else(|| format!("#{master}"), ToString::to_string);
            return Some(format!("{port} is enslaved to {master}, which is not ours"));
        }
        // Most likely an interface of the host itself, listed by mistake. Taking it would cut the host off. One with an
        // address of ours was a port before.
        let address = self.foreign_address(port).filter(|_| !self.has_address_of_ours(port))?;
        Some(format!("{port} has the address {address}, which is not ours"))
    }

    fn foreign_address(&self, port: &InterfaceName) -> Option<IpNet> {
        let mut addresses = self.observed.addresses.iter();
        addresses
            .find(|(address, ours)| {
                address.device == *port
                    && !**ours
                    && !is_link_local(&address.net)
                    && !self.desired.addresses.contains(address)
            })
            .map(|(address, _)| address.net)
    }
}

fn is_vrf_name(name: &InterfaceName) -> bool {
    matches!(DeviceName::parse(name), Some(DeviceName { role: Role::Vrf, .. }))
}
