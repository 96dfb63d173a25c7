//! One change of the kernel, as a value.

use super::{
    Address, DeviceSetting, Family, FdbKey, FdbTarget, FilterHandle, GuardKind, IngressFilter, KernelRoute, Lookup,
    Mac, NeighbourKey, Nexthop, Queue, Rate, Rule, VrfDevice, VxlanDevice,
};
use crate::ownership::UNDERLAY_PRIORITY;
use cps_peering_config::net::{InterfaceName, Vni};
use std::{collections::BTreeSet, fmt, net::IpAddr};

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Adds a rule.
    AddRule(Rule),
    /// Removes a rule.
    RemoveRule(Rule),
    /// Enables IPv6 forwarding for the host.
    EnableIpv6Forwarding,
    /// Creates a VRF, up.
    AddVrf(InterfaceName, Box<VrfDevice>),
    /// Creates a VXLAN device in its VRF, down, because it must not generate a link-local address.
    AddVxlan(InterfaceName, Box<VxlanDevice>),
    /// Changes a device in place.
    ChangeLink(InterfaceName, LinkChange),
    /// Writes a setting of a device.
    Set(InterfaceName, DeviceSetting, i32),
    /// Gives a setting of a device the value that new devices get.
    ResetToDefault(InterfaceName, DeviceSetting),
    /// Removes devices; many in one call.
    RemoveLinks(Vec<InterfaceName>),
    /// Adds an address, without a route of its own.
    AddAddress(Address),
    /// Removes an address.
    RemoveAddress(Address),
    /// Adds a permanent neighbour or changes it in place.
    SetNeighbour(NeighbourKey, Mac),
    /// Removes a neighbour.
    RemoveNeighbour(NeighbourKey),
    /// Adds a forwarding entry or changes it in place.
    SetFdb(FdbKey, FdbTarget),
    /// Removes all forwarding entries of an Ethernet address.
    RemoveFdb(FdbKey),
    /// Adds the ingress qdisc of a device (`clsact`).
    AddIngress(InterfaceName),
    /// Removes it with all filters.
    RemoveIngress(InterfaceName),
    /// Adds a filter or changes it in place. Without the one that drops, the device is not set up and enters no VRF.
    SetFilter(InterfaceName, FilterHandle, IngressFilter),
    /// Removes a filter.
    RemoveFilter(InterfaceName, FilterHandle),
    /// Lets exactly these VTEPs send with a VNI of ours.
    SetSenders(Vni, BTreeSet<IpAddr>),
    /// Removes a VNI that is no longer ours.
    RemoveSenders(Vni),
    /// Attaches the underlay filter to a device, or replaces a former one.
    AddGuard(InterfaceName, GuardKind),
    /// Detaches it.
    RemoveGuard(InterfaceName),
    /// Installs our HTB in place of whatever shapes a device.
    AddShaper(InterfaceName),
    /// Sets the rate; in place if there is one already.
    SetRate(InterfaceName, Rate),
    /// Sets the queue; in place if there is one of ours already.
    SetQueue(InterfaceName, Queue),
    /// Removes our HTB with everything in it.
    RemoveShaper(InterfaceName),
    /// Adds a next hop with this id.
    AddNexthop(u32, Nexthop),
    /// Removes a next hop, and with it all routes through it.
    RemoveNexthop(u32),
    /// Adds a route; fails if there is one with the same key.
    AddRoute(KernelRoute),
    /// Changes a route of ours in place.
    ReplaceRoute(KernelRoute),
    /// Removes a route.
    RemoveRoute(KernelRoute),
}

/// A change of a device that needs no new device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// Enslaves it to a VRF.
    Enslave(InterfaceName),
    /// Takes it out of its VRF.
    Release,
    /// Sets the Ethernet address.
    Mac(Mac),
    /// Sets the MTU in bytes.
    Mtu(u32),
    /// Sets it up or down.
    Up(bool),
    /// Sets the alias.
    Alias(Box<str>),
    /// Lifts what keeps it from carrying anything (`protodown`), whatever the reason was.
    NoProtodown,
    /// Makes it resolve neighbours.
    Arp,
    /// Makes the kernel generate no link-local address.
    NoLinkLocal,
}

impl Operation {
    /// What the operation does to its object, in one word.
    pub fn verb(&self) -> &'static str {
        match self {
            Operation::AddRule(_)
            | Operation::AddVrf(..)
            | Operation::AddVxlan(..)
            | Operation::AddAddress(_)
            | Operation::AddIngress(_)
            | Operation::AddGuard(..)
            | Operation::AddShaper(_)
            | Operation::AddNexthop(..)
            | Operation::AddRoute(_) => "add",
            Operation::EnableIpv6Forwarding
            | Operation::ChangeLink(..)
            | Operation::Set(..)
            | Operation::ResetToDefault(..)
            | Operation::SetNeighbour(..)
            | Operation::SetFdb(..)
            | Operation::SetRate(..)
            | Operation::SetQueue(..)
            | Operation::SetFilter(..)
            | Operation::SetSenders(..) => "set",
            Operation::ReplaceRoute(_) => "replace",
            Operation::RemoveRule(_)
            | Operation::RemoveLinks(_)
            | Operation::RemoveAddress(_)
            | Operation::RemoveNeighbour(_)
            | Operation::RemoveFdb(_)
            | Operation::RemoveIngress(_)
            | Operation::RemoveFilter(..)
            | Operation::RemoveSenders(_)
            | Operation::RemoveGuard(_)
            | Operation::RemoveShaper(_)
            | Operation::RemoveNexthop(_)
            | Operation::RemoveRoute(_) => "remove",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |family: &Family| if *family == Family::V4 { "rule" } else { "-6 rule" };
        match self {
            Operation::AddRule(rule) | Operation::RemoveRule(rule) => {
                let lookup = if rule.lookup == Lookup::Local { "lookup local" } else { "l3mdev" };
                write!(f, "{} priority {} {lookup}", family(&rule.family), rule.priority)
            }
            Operation::EnableIpv6Forwarding => f.write_str("sysctl net.ipv6.conf.all.forwarding"),
            Operation::AddVrf(name, _) | Operation::AddVxlan(name, _) | Operation::ChangeLink(name, _) => {
                write!(f, "link {name}")
            }
            Operation::Set(name, setting, _) | Operation::ResetToDefault(name, setting) => {
                let (family, file) = setting.path();
                write!(f, "sysctl net.{family}.conf.{name}.{file}")
            }
            Operation::RemoveLinks(names) => {
                write!(f, "link")?;
                names.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Operation::AddAddress(address) | Operation::RemoveAddress(address) => {
                write!(f, "address {} dev {}", address.net, address.device)
            }
            Operation::SetNeighbour(key, _) | Operation::RemoveNeighbour(key) => {
                write!(f, "neighbour {} dev {}", key.address, key.device)
            }
            Operation::SetFdb(key, _) | Operation::RemoveFdb(key) => write!(f, "fdb {} dev {}", key.mac, key.device),
            Operation::AddIngress(device) | Operation::RemoveIngress(device) => write!(f, "qdisc clsact dev {device}"),
            Operation::SetFilter(device, place, IngressFilter::Limit(..)) => {
                write!(f, "filter {place} dev {device} limit")
            }
            Operation::SetFilter(device, place, IngressFilter::Reject(_)) => {
                write!(f, "filter {place} dev {device} reject")
            }
            Operation::SetFilter(device, place, IngressFilter::Accept(_)) => {
                write!(f, "filter {place} dev {device} accept")
            }
            Operation::SetFilter(device, place, IngressFilter::DropRest) => {
                write!(f, "filter {place} dev {device} drop the rest")
            }
            Operation::SetSenders(vni, _) | Operation::RemoveSenders(vni) => {
                write!(f, "VTEPs that may send with VNI {vni}")
            }
            Operation::AddGuard(device, _) | Operation::RemoveGuard(device) => {
                write!(f, "filter priority {UNDERLAY_PRIORITY} dev {device} underlay")
            }
            Operation::RemoveFilter(device, place) => write!(f, "filter {place} dev {device}"),
            Operation::AddShaper(device) | Operation::RemoveShaper(device) => write!(f, "qdisc htb dev {device}"),
            Operation::SetRate(device, _) => write!(f, "class htb dev {device}"),
            Operation::SetQueue(device, _) => write!(f, "queue of shaper dev {device}"),
            Operation::AddNexthop(id, hop) => write!(f, "nexthop id {id} via {} dev {}", hop.gateway, hop.device),
            Operation::RemoveNexthop(id) => write!(f, "nexthop id {id}"),
            Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
                route.key.fmt(f)
            }
        }
    }
}
