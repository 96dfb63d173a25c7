//! Changes the kernel: batches many requests in one datagram if an operation needs no answer of its own.

use super::{
    KernelError, NetlinkError, egress,
    links::links,
    message::{
        emit, no_link_local, no_protodown, put_fdb, put_ifaddr, put_neighbour, put_nexthop, put_nexthop_id, put_route,
        rule_message, scope,
    },
    socket::Socket,
    sysctl, tc,
    uapi::{flag, link, route, rtm},
    underlay::Keeper,
    wire::{Batch, put, put_name, u32_at},
};
use crate::{
    objects::{FilterHandle, IngressFilter, LinkChange, Operation, VrfDevice, VxlanDevice},
    ownership::{DOOMED_GROUP, DeviceName, GROUP},
};
use cps_peering_config::net::{InterfaceName, Vni};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::libc;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVrf, LinkVxlan};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

/// The kernel's answer to one operation, if there was one.
type Answer = Result<Result<(), NetlinkError>, KernelError>;

/// Requests per datagram. More gain nothing, and the errors of all must fit into the receive buffer.
const BATCH_LEN: usize = 512;
/// The length at which a datagram is sent, in bytes. The kernel accepts some 200 KiB at a time.
const DATAGRAM_LEN: usize = 64 * 1024;

pub(super) struct Changer<'a> {
    socket: &'a mut Socket,
    indexes: &'a mut BTreeMap<InterfaceName, u32>,
    /// Positions of dropping filters that could not be installed.
    unfiltered: &'a mut BTreeSet<(InterfaceName, FilterHandle)>,
    /// Their devices, which are still to be set down.
    to_set_down: BTreeSet<InterfaceName>,
    /// Devices that could not be put into their VRF.
    outside: &'a mut BTreeSet<InterfaceName>,
    underlay: &'a mut Keeper,
    operations: &'a [Operation],
    batch: Batch,
    /// The operation of each request in the batch.
    places: Vec<usize>,
    refused: Vec<(usize, NetlinkError)>,
}

impl<'a> Changer<'a> {
    pub(super) fn new(
        socket: &'a mut Socket,
        indexes: &'a mut BTreeMap<InterfaceName, u32>,
        unfiltered: &'a mut BTreeSet<(InterfaceName, FilterHandle)>,
        outside: &'a mut BTreeSet<InterfaceName>,
        underlay: &'a mut Keeper,
        operations: &'a [Operation],
    ) -> Self {
        Self {
            socket,
            indexes,
            unfiltered,
            to_set_down: BTreeSet::new(),
            outside,
            underlay,
            operations,
            batch: Batch::default(),
            places: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(super) fn apply(mut self) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let operations = self.operations;
        for (place, operation) in operations.iter().enumerate() {
            if let Err(refusal) = self.one(place, operation)? {
                self.refused.push((place, refusal));
            }
        }
        self.flush()?;
        self.set_unfiltered_down()?;
        self.set_exposed_down()?;
        let already_gone =
            |(place, refusal): &(usize, NetlinkError)| is_already_gone(&operations[*place], refusal.errno);
        self.refused.retain(|refused| !already_gone(refused));
        self.refused.sort_by_key(|(place, _)| *place);
        Ok(self.refused)
    }

    /// Carries out one operation, or adds it to the batch.
    fn one(&mut self, place: usize, operation: &Operation) -> Answer {
        match operation {
            Operation::AddRule(rule) => self
                .queue(place, rtm::NEW_RULE, flag::CREATE | flag::EXCLUSIVE, |body| emit(body, &rule_message(*rule))),
            Operation::RemoveRule(rule) => self.queue(place, rtm::DEL_RULE, 0, |body| emit(body, &rule_message(*rule))),
            Operation::AddAddress(address) => self.on_device(place, &address.device, |this, index| {
                let flags = flag::CREATE | flag::REPLACE;
                this.queue(place, rtm::NEW_ADDRESS, flags, |body| put_ifaddr(body, index, address))
            }),
            Operation::RemoveAddress(address) => self.on_device(place, &address.device, |this, index| {
                this.queue(place, rtm::DEL_ADDRESS, 0, |body| put_ifaddr(body, index, address))
            }),
            Operation::SetNeighbour(key, mac) => self.on_device(place, &key.device, |this, index| {
                let flags = flag::CREATE | flag::REPLACE;
                this.queue(place, rtm::NEW_NEIGHBOUR, flags, |body| put_neighbour(body, index, key, Some(*mac)))
            }),
            Operation::RemoveNeighbour(key) => self.on_device(place, &key.device, |this, index| {
                this.queue(place, rtm::DEL_NEIGHBOUR, 0, |body| put_neighbour(body, index, key, None))
            }),
            Operation::SetFdb(key, target) => self.on_device(place, &key.device, |this, index| {
                let flags = flag::CREATE | flag::REPLACE;
                this.queue(place, rtm::NEW_NEIGHBOUR, flags, |body| put_fdb(body, index, key, Some(*target)))
            }),
            Operation::RemoveFdb(key) => self.on_device(place, &key.device, |this, index| {
                this.queue(place, rtm::DEL_NEIGHBOUR, 0, |body| put_fdb(body, index, key, None))
            }),
            Operation::AddIngress(device) => self.on_device(place, device, |this, index| {
                let flags = flag::CREATE | flag::EXCLUSIVE;
                this.queue(place, rtm::NEW_QDISC, flags, |body| tc::put_clsact(body, index))
            }),
            Operation::RemoveIngress(device) => self.on_device(place, device, |this, index| {
                this.queue(place, rtm::DEL_QDISC, 0, |body| tc::put_clsact(body, index))
            }),
            Operation::SetFilter(device, at, filter) => self.on_device(place, device, |this, index| {
                let flags = flag::CREATE | flag::REPLACE;
                this.queue(place, rtm::NEW_FILTER, flags, |body| tc::put_filter(body, index, *at, filter))
            }),
            Operation::RemoveFilter(device, at) => self.on_device(place, device, |this, index| {
                this.queue(place, rtm::DEL_FILTER, 0, |body| tc::put_filter_place(body, index, *at))
            }),
            Operation::AddGuard(device, kind) => match self.underlay.filter().map(|filter| filter.program(*kind)) {
                Ok(program) => self.on_device(place, device, |this, index| {
                    let flags = flag::CREATE | flag::REPLACE;
                    this.queue(place, rtm::NEW_FILTER, flags, |body| tc::put_underlay_filter(body, index, program))
                }),
                Err(error) => {
                    self.underlay.failed_on(*device);
                    Ok(Err(no_program(&error)))
                }
            },
            Operation::RemoveGuard(device) => self.on_device(place, device, |this, index| {
                let at = tc::UNDERLAY_FILTER;
                this.queue(place, rtm::DEL_FILTER, 0, |body| tc::put_filter_place(body, index, at))
            }),
            Operation::AddShaper(device) => self.on_device(place, device, |this, index| {
                // It replaces any other kind of root qdisc atomically.
                let flags = flag::CREATE | flag::REPLACE;
                this.queue(place, rtm::NEW_QDISC, flags, |body| egress::put_shaper(body, index))
            }),
            Operation::SetRate(device, rate) => self.on_device(place, device, |this, index| {
                this.queue(place, rtm::NEW_CLASS, flag::CREATE, |body| egress::put_rate(body, index, *rate))
            }),
            Operation::SetQueue(device, queue) => self.on_device(place, device, |this, index| {
                let flags = flag::CREATE | flag::REPLACE;
                this.queue(place, rtm::NEW_QDISC, flags, |body| egress::put_queue(body, index, *queue))
            }),
            Operation::RemoveShaper(device) => self.on_device(place, device, |this, index| {
                this.queue(place, rtm::DEL_QDISC, 0, |body| egress::put_shaper_place(body, index))
            }),
            Operation::AddNexthop(id, nexthop) => self.on_device(place, &nexthop.device, |this, index| {
                let flags = flag::CREATE | flag::EXCLUSIVE;
                this.queue(place, rtm::NEW_NEXTHOP, flags, |body| put_nexthop(body, index, *id, nexthop))
            }),
            Operation::RemoveNexthop(id) => self.queue(place, rtm::DEL_NEXTHOP, 0, |body| put_nexthop_id(body, *id)),
            Operation::AddRoute(route) => {
                let flags = flag::CREATE | flag::EXCLUSIVE;
                self.queue(place, rtm::NEW_ROUTE, flags, |body| put_route(body, route, scope(route)))
            }
            Operation::ReplaceRoute(route) => {
                let flags = flag::CREATE | flag::REPLACE;
                self.queue(place, rtm::NEW_ROUTE, flags, |body| {
                    put_route(body, route, scope(route));
                    // For a route through a next hop object without metrics the kernel takes over those of any similar one
                    // (`fib_find_info_nh`), in particular of the one to be replaced. An empty list means none.
                    if route.mtu == 0 {
                        put(body, route::RTA_METRICS, &[]);
                    }
                })
            }
            Operation::RemoveRoute(route) => {
                self.queue(place, rtm::DEL_ROUTE, 0, |body| put_route(body, route, route::RT_SCOPE_NOWHERE))
            }
            // These requests are answered before the next operation begins.
            _ => {
                self.flush()?;
                self.alone(operation)
            }
        }
    }

    fn alone(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::EnableIpv6Forwarding => Ok(sysctl::enable_ipv6_forwarding()),
            Operation::Set(device, setting, value) => Ok(sysctl::set(device, *setting, *value)),
            Operation::ResetToDefault(device, setting) => Ok(sysctl::reset(device, *setting)),
            Operation::SetSenders(vni, senders) => self.set_senders(*vni, senders),
            Operation::RemoveSenders(vni) => self.remove_senders(*vni),
            Operation::AddVrf(name, vrf) => self.add_vrf(name, vrf),
            Operation::AddVxlan(name, vxlan) => self.add_vxlan(name, vxlan),
            Operation::ChangeLink(name, change) => self.change_link(name, change),
            Operation::RemoveLinks(names) => self.remove_links(names),
            _ => unreachable!("every other operation is queued"),
        }
    }

    fn queue(&mut self, place: usize, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) -> Answer {
        self.batch.push(kind, flags, body);
        self.places.push(place);
        if self.batch.len() == BATCH_LEN || self.batch.bytes.len() > DATAGRAM_LEN {
            self.flush()?;
        }
        Ok(Ok(()))
    }

    /// Queues a request about a device, unless the device is gone.
    fn on_device(
        &mut self,
        place: usize,
        device: &InterfaceName,
        queue: impl FnOnce(&mut Self, u32) -> Answer,
    ) -> Answer {
        let Some(index) = self.indexes.get(device).copied() else {
            self.refused.push((place, no_device()));
            return Ok(Ok(()));
        };
        queue(self, index)
    }

    fn flush(&mut self) -> Result<(), KernelError> {
        let refused = self.socket.execute(&mut self.batch)?;
        for place in &self.places {
            if let Operation::SetFilter(device, at, _) = &self.operations[*place] {
                // Unless the kernel refused it, see below.
                self.unfiltered.remove(&(*device, *at));
            }
        }
        for (request, refusal) in refused {
            let place = self.places[request];
            if let Operation::SetFilter(device, at, IngressFilter::DropRest | IngressFilter::Reject(_)) =
                &self.operations[place]
            {
                self.unfiltered.insert((*device, *at));
                self.to_set_down.insert(*device);
            }
            // A deleted device receives nothing.
            if let Operation::AddGuard(device, _) = &self.operations[place]
                && refusal.errno != libc::ENODEV
            {
                self.underlay.failed_on(*device);
            }
            self.refused.push((place, refusal));
        }
        self.batch.clear();
        self.places.clear();
        Ok(())
    }

    /// A device must not receive anything without its filters. (The operation that failed reports a device that is
    /// missing.)
    fn set_unfiltered_down(&mut self) -> Result<(), KernelError> {
        for device in std::mem::take(&mut self.to_set_down) {
            tracing::error!(%device, "set down: its filters could not be installed");
            // A deleted device is down.
            let _ = self.set_link(&device, LinkMessageBuilder::down)?;
        }
        Ok(())
    }

    /// No tunnel may receive anything while packets can bypass the underlay filter.
    fn set_exposed_down(&mut self) -> Result<(), KernelError> {
        let there: Vec<InterfaceName> =
            self.underlay.exposed().into_iter().filter(|device| self.indexes.contains_key(device)).collect();
        if !there.is_empty() {
            tracing::error!(
                tunnels = there.len(),
                "set down: the underlay filter could not be attached to every device"
            );
        }
        for device in there {
            // A deleted device is down.
            let _ = self.set_link(&device, LinkMessageBuilder::down)?;
        }
        Ok(())
    }

    /// A device must not receive anything while its allowed senders are not set.
    fn set_senders(&mut self, vni: Vni, senders: &BTreeSet<IpAddr>) -> Answer {
        let Err(error) = self.underlay.set(vni, senders) else { return Ok(Ok(())) };
        for device in [DeviceName::vpc(vni), DeviceName::peer(vni)] {
            // A missing device is down.
            let _ = self.set_link(&device, LinkMessageBuilder::down)?;
        }
        Ok(Err(no_program(&error)))
    }

    /// The VNI is ours as long as a device with it exists.
    fn remove_senders(&mut self, vni: Vni) -> Answer {
        for device in [DeviceName::vpc(vni), DeviceName::peer(vni)] {
            if self.find(&device)?.is_some() {
                let explanation = format!("{device} is still there");
                return Ok(Err(NetlinkError { errno: libc::EBUSY, explanation: Some(explanation) }));
            }
        }
        Ok(self.underlay.forget(vni).map_err(|error| no_program(&error)))
    }

    /// Sends one request and waits for the answer.
    fn now(&mut self, kind: u16, flags: u16, message: &LinkMessage) -> Answer {
        self.batch.push(kind, flags, |body| emit(body, message));
        let refused = self.socket.execute(&mut self.batch)?;
        self.batch.clear();
        Ok(refused.into_iter().next().map_or(Ok(()), |(_, refusal)| Err(refusal)))
    }

    fn add_vrf(&mut self, name: &InterfaceName, vrf: &VrfDevice) -> Answer {
        let message = LinkVrf::new(&name.as_str(), vrf.table).link_group(GROUP).up().build();
        if let Err(refusal) = self.now(rtm::NEW_LINK, flag::CREATE | flag::EXCLUSIVE, &message)? {
            return Ok(Err(refusal));
        }
        // Not accepted in the message that creates a device.
        self.learn_index(name)?;
        self.set_link(name, |link| link.alias(vrf.alias.as_str()))
    }

    fn add_vxlan(&mut self, name: &InterfaceName, vxlan: &VxlanDevice) -> Answer {
        let Some(vrf) = self.indexes.get(&vxlan.vrf).copied() else { return Ok(Err(no_device())) };
        let tunnel = vxlan.tunnel;
        let builder = LinkVxlan::new(&name.as_str(), tunnel.vni.get()).port(tunnel.port).learning(false);
        let builder = match tunnel.local {
            IpAddr::V4(local) => builder.local(local),
            IpAddr::V6(local) => builder.local6(local),
        };
        let builder = builder.address(vxlan.mac.0.to_vec()).mtu(vxlan.mtu).controller(vrf).link_group(GROUP);
        if let Err(refusal) = self.now(rtm::NEW_LINK, flag::CREATE | flag::EXCLUSIVE, &builder.build())? {
            return Ok(Err(refusal));
        }
        self.learn_index(name)?;
        let no_link_local = no_link_local();
        self.set_link(name, |link| link.alias(vxlan.alias.as_str()).append_extra_attribute(no_link_local))
    }

    fn learn_index(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        if let Some(index) = self.find(name)? {
            self.indexes.insert(*name, index);
        }
        Ok(())
    }

    /// The current index of a device.
    fn find(&mut self, name: &InterfaceName) -> Result<Option<u32>, KernelError> {
        let found = self.socket.get(rtm::GET_LINK, |body| {
            body.extend([0; link::HEADER_LEN]);
            put_name(body, link::IFLA_IFNAME, name);
        })?;
        Ok(found.ok().and_then(|payload| u32_at(&payload, 4)))
    }

    fn set_link(
        &mut self,
        name: &InterfaceName,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Answer {
        match self.indexes.get(name).copied() {
            Some(index) => self.now(rtm::SET_LINK, 0, &change(LinkUnspec::new_with_index(index)).build()),
            None => Ok(Err(no_device())),
        }
    }

    fn change_link(&mut self, name: &InterfaceName, change: &LinkChange) -> Answer {
        let is_unfiltered = || self.unfiltered.iter().any(|(device, _)| device == name);
        if matches!(change, LinkChange::Enslave(_) | LinkChange::Up(true)) && is_unfiltered() {
            let explanation = Some("its filters could not be installed".to_owned());
            return Ok(Err(NetlinkError { errno: libc::EPERM, explanation }));
        }
        if let LinkChange::Enslave(vrf) = change {
            let result = match self.indexes.get(vrf).copied() {
                Some(vrf) => self.set_link(name, |link| link.controller(vrf))?,
                None => Err(no_device()),
            };
            if result.is_err() {
                self.outside.insert(*name);
            } else {
                self.outside.remove(name);
            }
            return Ok(result);
        }
        if *change == LinkChange::Up(true) && self.outside.contains(name) {
            let explanation = Some("it could not be put into its VRF".to_owned());
            return Ok(Err(NetlinkError { errno: libc::EPERM, explanation }));
        }
        if let LinkChange::Up(true) = change
            && let Some(reason) = self.underlay.why_not_up(name)
        {
            return Ok(Err(NetlinkError { errno: libc::EPERM, explanation: Some(reason.to_owned()) }));
        }
        self.set_link(name, |link| match change {
            LinkChange::Enslave(_) => link,
            LinkChange::Release => link.nocontroller(),
            LinkChange::Mac(mac) => link.address(mac.0.to_vec()),
            LinkChange::Mtu(mtu) => link.mtu(*mtu),
            LinkChange::Up(true) => link.up(),
            LinkChange::Up(false) => link.down(),
            LinkChange::Alias(alias) => link.alias(&**alias),
            LinkChange::NoProtodown => {
                no_protodown().into_iter().fold(link, LinkMessageBuilder::append_extra_attribute)
            }
            LinkChange::Arp => link.arp(true),
            LinkChange::NoLinkLocal => link.append_extra_attribute(no_link_local()),
        })
    }

    /// Removes from the deletion group what an agent put there that was killed before it deleted the group.
    fn clear_doomed_group(&mut self, names: &[InterfaceName]) -> Result<(), KernelError> {
        let there = links(self.socket)?.into_iter();
        let left = there.filter(|(name, link)| link.group == DOOMED_GROUP && !names.contains(name));
        for (_, link) in left {
            let message = LinkUnspec::new_with_index(link.index).link_group(GROUP).build();
            // A device that is already gone is not deleted with the others.
            let _ = self.now(rtm::SET_LINK, 0, &message)?;
        }
        Ok(())
    }

    /// Deleted one by one, each device takes some 30 ms (RCU). Deleted as a group, they share one wait.
    fn remove_links(&mut self, names: &[InterfaceName]) -> Answer {
        let there: Vec<(InterfaceName, u32)> =
            names.iter().filter_map(|name| Some((*name, *self.indexes.get(name)?))).collect();
        let result = match there.as_slice() {
            [] => return Ok(Ok(())),
            [(_, index)] => {
                let message = LinkUnspec::new_with_index(*index).build();
                self.now(rtm::DEL_LINK, 0, &message)?
            }
            _ => {
                self.clear_doomed_group(names)?;
                for (name, _) in &there {
                    if let Err(refusal) = self.set_link(name, |link| link.link_group(DOOMED_GROUP))?
                        && refusal.errno != libc::ENODEV
                    {
                        return Ok(Err(refusal));
                    }
                }
                let mut message = LinkMessage::default();
                message.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
                self.now(rtm::DEL_LINK, 0, &message)?
            }
        };
        self.indexes.retain(|name, _| !names.contains(name));
        Ok(result)
    }
}

/// Why the underlay filter cannot be created or changed.
fn no_program(error: &io::Error) -> NetlinkError {
    let why = match error.raw_os_error() {
        Some(libc::E2BIG) => "there are more VNIs and VTEPs than the setting `underlay_filter_entries` allows",
        Some(libc::EPERM) => "the underlay filter needs CAP_BPF",
        _ => "the underlay filter needs a kernel with BPF (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF)",
    };
    let explanation = format!("{why}; the devices that it protects stay down");
    NetlinkError { errno: error.raw_os_error().unwrap_or(libc::EOPNOTSUPP), explanation: Some(explanation) }
}

fn no_device() -> NetlinkError {
    NetlinkError { errno: libc::ENODEV, explanation: None }
}

/// Whether a delete failed because the object did not exist.
fn is_already_gone(operation: &Operation, errno: i32) -> bool {
    match operation {
        Operation::RemoveRoute(_) => matches!(errno, libc::ESRCH | libc::ENODEV),
        Operation::RemoveAddress(_) => matches!(errno, libc::EADDRNOTAVAIL | libc::ENODEV),
        Operation::RemoveNeighbour(_) | Operation::RemoveFdb(_) => matches!(errno, libc::ENOENT | libc::ENODEV),
        // A released port may itself be gone, and a device without IPv6 has no IPv6 settings.
        Operation::RemoveNexthop(_) | Operation::RemoveRule(_) | Operation::ResetToDefault(..) => errno == libc::ENOENT,
        Operation::RemoveIngress(_)
        | Operation::RemoveFilter(..)
        | Operation::RemoveGuard(_)
        | Operation::RemoveShaper(_) => {
            matches!(errno, libc::ENOENT | libc::EINVAL | libc::ENODEV)
        }
        Operation::RemoveLinks(_) | Operation::ChangeLink(_, LinkChange::Release | LinkChange::Up(false)) => {
            errno == libc::ENODEV
        }
        _ => false,
    }
}
