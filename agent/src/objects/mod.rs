//! Kernel objects as values: the desired ones ([`Desired`]), the existing ones ([`Observed`]) and the changes
//! ([`Operation`]).

mod egress;
pub mod firewall;
mod foreign;
mod ingress;
mod operation;
mod remote;
mod rule;

pub use egress::{ETHERNET_HEADER, Egress, Queue, Rate, Shaper};
pub use firewall::{Exemption, Firewall};
pub use foreign::{Effect, Fate, Foreign, ForeignNeighbour, ForeignRoute, NeighbourEntry};
pub use ingress::{FilterHandle, GuardKind, Ingress, IngressFilter, UnderlayState};
pub use operation::{LinkChange, Operation};
pub use remote::{Remote, Run, Source};
pub use rule::{Lookup, Rule, RuleAhead};

use crate::{
    filter::{IngressPolicy, Vlan},
    ownership,
};
pub use cps_peering_config::net::Mac;
use cps_peering_config::net::{InterfaceName, Vni};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// The metric of unreachable routes, so that every other route of the same prefix takes precedence. The kernel's VRF
/// guide uses it for a VRF's default: 255 in the highest byte, 8192 in the others.
pub const BACKSTOP_METRIC: u32 = 4_278_198_272;

/// The metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`).
pub const IPV6_METRIC: u32 = 1024;

/// An address family with a routing table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// `AF_INET` or `AF_INET6`.
    pub fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    /// The ethertype of its packets.
    pub fn ethertype(self) -> u16 {
        match self {
            Family::V4 => firewall::ethertype::IPV4,
            Family::V6 => firewall::ethertype::IPV6,
        }
    }

    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Family {
        match prefix {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }
}

/// A VRF device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfDevice {
    /// Its routing table; immutable in the kernel.
    pub table: u32,
    /// For operators: the VPC that it belongs to.
    pub alias: String,
}

/// A VXLAN device within a VRF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanDevice {
    /// VNI, UDP port and own VTEP address.
    pub tunnel: Tunnel,
    /// Its Ethernet address, one per host.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The longest IPv4 packets that are sent through it, in bytes; 0 if that is its MTU.
    pub ipv4_mtu: u16,
    /// The VRF that it is enslaved to.
    pub vrf: InterfaceName,
    /// For operators: the VPC or peering that it belongs to.
    pub alias: String,
}

/// The identity of a VXLAN device: a change means deleting it and creating another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The VNI of what arrives.
    pub vni: Vni,
    /// The UDP port, for both ends.
    pub port: u16,
    /// The own VTEP address.
    pub local: IpAddr,
}

/// A per-device setting of the kernel below `/proc/sys/net`.
///
/// Changes of settings that forward or stop packets are announced (`RTM_NEWNETCONF`: forwarding, `rp_filter`;
/// `disable_ipv6` through the addresses that are deleted) and repaired immediately. The kernel does not announce the
/// others. A list of the devices includes them all at little cost (0.2 ms for a hundred devices, an eighth of what
/// reading the files takes), so it is read every few seconds. Watching the files themselves (inotify) would need a
/// watch for each of five files on each device, see only writes through the same mount of `/proc`, and miss it when a
/// device is recreated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceSetting {
    /// `ipv4/conf/DEV/forwarding`: forward what arrives here. The host-wide switch is left alone.
    Ipv4Forwarding,
    /// `ipv4/conf/DEV/rp_filter`: 1 drops sources that the table would not route back through here (RFC 3704).
    Ipv4RpFilter,
    /// `ipv4/conf/DEV/send_redirects`.
    Ipv4SendRedirects,
    /// `ipv4/conf/DEV/accept_redirects`.
    Ipv4AcceptRedirects,
    /// `ipv4/conf/DEV/arp_ignore`: with 8 the host answers no ARP request, with 2 none from outside the gateway's
    /// subnet.
    Ipv4ArpIgnore,
    /// `ipv6/conf/DEV/disable_ipv6`. A VRF with it accepts no route into it.
    Ipv6Disable,
    /// `ipv6/conf/DEV/accept_dad`: with duplicate address detection a tenant could keep the gateway from having a
    /// link-local address, without which the kernel sends no neighbour solicitation; and every port would be deaf for
    /// IPv6 in its first seconds.
    Ipv6AcceptDad,
    /// `ipv6/conf/DEV/accept_ra`: whether a tenant can advertise itself as the host's router.
    Ipv6AcceptRa,
    /// `ipv6/conf/DEV/accept_redirects`.
    Ipv6AcceptRedirects,
}

impl DeviceSetting {
    /// Every setting that the agent checks, with the value that each device of a VRF must have.
    pub const WANTED: [(DeviceSetting, i32); 9] = [
        (DeviceSetting::Ipv4Forwarding, 1),
        (DeviceSetting::Ipv4RpFilter, 1),
        (DeviceSetting::Ipv4SendRedirects, 0),
        (DeviceSetting::Ipv4AcceptRedirects, 0),
        (DeviceSetting::Ipv4ArpIgnore, 0),
        (DeviceSetting::Ipv6Disable, 0),
        (DeviceSetting::Ipv6AcceptDad, 0),
        (DeviceSetting::Ipv6AcceptRa, 0),
        (DeviceSetting::Ipv6AcceptRedirects, 0),
    ];

    /// Family folder and file name below `/proc/sys/net/FAMILY/conf/DEV/`.
    pub fn path(self) -> (&'static str, &'static str) {
        match self {
            DeviceSetting::Ipv4Forwarding => ("ipv4", "forwarding"),
            DeviceSetting::Ipv4RpFilter => ("ipv4", "rp_filter"),
            DeviceSetting::Ipv4SendRedirects => ("ipv4", "send_redirects"),
            DeviceSetting::Ipv4AcceptRedirects => ("ipv4", "accept_redirects"),
            DeviceSetting::Ipv4ArpIgnore => ("ipv4", "arp_ignore"),
            DeviceSetting::Ipv6Disable => ("ipv6", "disable_ipv6"),
            DeviceSetting::Ipv6AcceptDad => ("ipv6", "accept_dad"),
            DeviceSetting::Ipv6AcceptRa => ("ipv6", "accept_ra"),
            DeviceSetting::Ipv6AcceptRedirects => ("ipv6", "accept_redirects"),
        }
    }
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The device.
    pub device: InterfaceName,
    /// The address with the length of its subnet.
    pub net: IpNet,
}

/// Whether an address is an IPv6 one that is valid on its link only (RFC 4291 section 2.5.6).
pub fn is_link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// The link-local address that the kernel derives from an Ethernet address (RFC 4291 appendix A).
pub fn link_local(mac: Mac) -> IpNet {
    let mut bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    bytes[8..11].copy_from_slice(&mac.0[..3]);
    bytes[13..].copy_from_slice(&mac.0[3..]);
    bytes[8] ^= 2;
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::from(bytes), 64))
}

/// A permanent neighbour on a VXLAN device: another host, as next hop of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighbourKey {
    /// The device.
    pub device: InterfaceName,
    /// The other host's link-local address.
    pub address: Ipv6Addr,
}

/// A forwarding entry of a VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbKey {
    /// The device.
    pub device: InterfaceName,
    /// The other host's Ethernet address.
    pub mac: Mac,
}

/// Where a forwarding entry leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbTarget {
    /// The other host's VTEP address.
    pub vtep: IpAddr,
    /// The VNI to send with.
    pub vni: Vni,
}

/// The content of a next hop object. Its id is chosen when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexthop {
    /// The VXLAN device.
    pub device: InterfaceName,
    /// The other host's link-local address.
    pub gateway: Ipv6Addr,
}

/// What identifies a route within the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The routing table.
    pub table: u32,
    /// The destination.
    pub prefix: IpNet,
    /// The metric (`RTA_PRIORITY`).
    pub metric: u32,
}

impl RouteKey {
    /// An ordinary route of ours.
    pub fn unicast(table: u32, prefix: IpNet) -> Self {
        let metric = match Family::of(&prefix) {
            Family::V4 => 0,
            Family::V6 => IPV6_METRIC,
        };
        Self { table, prefix, metric }
    }

    /// An unreachable route.
    pub fn backstop(table: u32, prefix: IpNet) -> Self {
        Self { table, prefix, metric: BACKSTOP_METRIC }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} table {}", self.prefix, self.table)?;
        if self.metric == BACKSTOP_METRIC { f.write_str(" unreachable") } else { Ok(()) }
    }
}

/// A desired route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DesiredRoute {
    /// Table, prefix and metric.
    pub key: RouteKey,
    /// Where it leads.
    pub to: RouteTo,
}

/// Where a desired route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTo {
    /// Nowhere: answers "unreachable".
    Unreachable,
    /// On-link through a port, or into another VRF, where the address is local.
    Device(InterfaceName),
    /// Through the next hop with this place in [`Desired::nexthops`].
    Nexthop(u32),
}

/// All objects that a host should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Whether this is a part of what the host should have: host-wide objects are left out then.
    pub partial: bool,
    /// VRFs by name.
    pub vrfs: BTreeMap<InterfaceName, VrfDevice>,
    /// VXLAN devices by name.
    pub vxlans: BTreeMap<InterfaceName, VxlanDevice>,
    /// Ports by name, each with its VRF.
    pub ports: BTreeMap<InterfaceName, InterfaceName>,
    /// Gateway addresses.
    pub addresses: BTreeSet<Address>,
    /// Permanent neighbours.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// Forwarding entries.
    pub fdb: BTreeMap<FdbKey, FdbTarget>,
    /// What may arrive on each device of a VRF.
    pub ingress: BTreeMap<InterfaceName, IngressPolicy>,
    /// The VTEPs that may send with each VNI that arrives here.
    pub senders: BTreeMap<Vni, BTreeSet<IpAddr>>,
    /// The shaper of each device that has a limit.
    pub shapers: BTreeMap<InterfaceName, Shaper>,
    /// Next hops, sorted.
    pub nexthops: Vec<Nexthop>,
    /// Routes through next hops.
    pub remote: Remote,
    /// Routes to devices and unreachable ones, sorted by key. Across both lists, keys are unique.
    pub local: Vec<DesiredRoute>,
    /// Devices that another program keeps changing back, each with why it is left alone for now.
    pub left_alone: BTreeMap<InterfaceName, String>,
}

impl Desired {
    /// The longest IPv4 packet for each next hop, in bytes; 0 if that is up to its device.
    pub fn ipv4_mtus(&self) -> Vec<u16> {
        let of_device = |nexthop: &Nexthop| self.vxlans.get(&nexthop.device).map_or(0, |device| device.ipv4_mtu);
        self.nexthops.iter().map(of_device).collect()
    }

    /// All routes, sorted by key.
    pub fn routes(&self) -> impl Iterator<Item = DesiredRoute> {
        let (mut remote, mut local) = (self.remote.iter().peekable(), self.local.iter().copied().peekable());
        std::iter::from_fn(move || match (remote.peek(), local.peek()) {
            (Some(a), Some(b)) if b.key < a.key => local.next(),
            (Some(_), _) => remote.next(),
            (None, _) => local.next(),
        })
    }
}

/// A route in the kernel's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRoute {
    /// Table, prefix and metric.
    pub key: RouteKey,
    /// Type of service; ours have none.
    pub tos: u8,
    /// Where it leads.
    pub via: Via,
    /// The longest IPv4 packet for it, in bytes; 0 if that is up to the device.
    pub mtu: u16,
}

impl KernelRoute {
    /// The kernel's form of a route of ours, given where it leads and the longest IPv4 packet for each next hop.
    pub fn new(route: &DesiredRoute, via: Via, ipv4_mtus: &[u16]) -> Self {
        let mtu = match (route.to, route.key.prefix) {
            (RouteTo::Nexthop(place), IpNet::V4(_)) => ipv4_mtus.get(place as usize).copied().unwrap_or_default(),
            _ => 0,
        };
        Self { key: route.key, tos: 0, via, mtu }
    }
}

/// Where a route in the kernel leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Nowhere: answers "unreachable".
    Unreachable,
    /// On-link through the device with this index.
    Device(u32),
    /// Through the next hop object with this id.
    Nexthop(u32),
    /// Something that the agent never makes.
    Other,
}

/// A network device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// Its kind.
    pub kind: LinkKind,
    /// The Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The index of the device that it is enslaved to.
    pub master: Option<u32>,
    /// The link group.
    pub group: u32,
    /// The alias.
    pub alias: Option<String>,
    /// Whether it resolves neighbours (without `IFF_NOARP`).
    pub arp: bool,
    /// Whether a program keeps it from carrying anything (`IFLA_PROTO_DOWN`).
    pub protodown: bool,
    /// The id of the XDP program that sees what arrives first; 0 for one without an id.
    pub xdp: Option<u32>,
    /// Whether the kernel generates an IPv6 link-local address for it.
    pub generates_link_local: bool,
    /// Alternative names (`IFLA_ALT_IFNAME`), of those that are no longer than a name can be.
    pub alternative_names: BTreeSet<InterfaceName>,
    /// The hardware's own Ethernet address, whatever it sends with (`IFLA_PERM_ADDRESS`).
    pub permanent_mac: Option<Mac>,
    /// Whether it may still be renamed, because udev has not finished with it.
    pub may_be_renamed: bool,
    /// The index of the device whose frames it takes, all or in part, if it is a MACVLAN or IPVLAN.
    pub takes_from: Option<u32>,
    /// For a VLAN device, the index of its lower device, and its VLAN.
    pub vlan: Option<(u32, Vlan)>,
    /// The settings that the kernel reported; IPv6 ones are absent if IPv6 is off or the MTU too small for it.
    pub settings: BTreeMap<DeviceSetting, i32>,
    /// What of its packets is exempt from policies of `IPsec`.
    pub exempt: BTreeSet<Exemption>,
}

/// The kind of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A VRF with this table.
    Vrf(u32),
    /// A VXLAN device.
    Vxlan {
        /// VNI, port and own address; none if it has no fixed ones.
        tunnel: Option<Tunnel>,
        /// Whether an option differs from those we would set: it learns, has a TTL of its own, is bound to one device,
        /// and the like.
        altered: bool,
    },
    /// A VXLAN device that takes the tunnel of each packet from its metadata (`external`), and so occupies a whole UDP
    /// port.
    ExternalVxlan {
        /// The UDP port.
        port: u16,
    },
    /// The loopback device.
    Loopback,
    /// A bridge, which receives what its members receive for the host.
    Bridge,
    /// A device that receives what its members receive: a bond or team.
    Aggregate,
    /// A device whose frames are not Ethernet frames.
    NotEthernet,
    /// Anything else.
    Other,
}

/// All that concerns us on a host, as in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every device.
    pub links: BTreeMap<InterfaceName, Link>,
    /// Every address, and whether it carries our protocol.
    pub addresses: BTreeMap<Address, bool>,
    /// Addresses of ours, and link-local ones of ports, that exist but do not work: the local route that the kernel
    /// made for them is gone, or for a link-local one the route by which the port receives multicast.
    pub without_local_route: BTreeSet<Address>,
    /// Permanent IPv6 neighbours on VXLAN devices with a name of ours.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// Forwarding entries of VXLAN devices with a name of ours; `None` if an entry leads where ours never do.
    pub fdb: BTreeMap<FdbKey, Option<FdbTarget>>,
    /// The ingress filters of each device that has a `clsact` or `ingress` qdisc.
    pub ingress: BTreeMap<InterfaceName, Ingress>,
    /// The egress shaping of each VXLAN device with a name of ours where it is not the kernel's default.
    pub egress: BTreeMap<InterfaceName, Egress>,
    /// Next hops of ours by id: device index and gateway.
    pub nexthops: BTreeMap<u32, (u32, Ipv6Addr)>,
    /// Ids of next hops that are not ours.
    pub foreign_nexthop_ids: BTreeSet<u32>,
    /// Routes with our protocol in tables of ours, sorted.
    pub routes: Vec<KernelRoute>,
    /// Rules that look up `local` or `l3mdev` without a selector, sorted.
    pub rules: Vec<Rule>,
    /// Objects of others in the path of VPC packets.
    pub foreign: Foreign,
    /// The host's packet filters.
    pub firewall: Firewall,
    /// Rules of others in front of `l3mdev`, in the kernel's order.
    pub rules_ahead: Vec<RuleAhead>,
    /// Rules of others that look up a table of ours, at any priority.
    pub rules_into: Vec<RuleAhead>,
    /// The underlay filter.
    pub underlay: UnderlayState,
    /// `net.ipv6.conf.all.forwarding`: without it no IPv6 packet is forwarded.
    pub ipv6_forwarding: bool,
    /// `net.ipv4.conf.all.arp_ignore`: the kernel takes the larger of this and a port's own.
    pub arp_ignore: i32,
}

impl Observed {
    /// The name of the device with this index.
    pub fn name_of(&self, index: u32) -> Option<InterfaceName> {
        self.links.iter().find(|(_, link)| link.index == index).map(|(name, _)| *name)
    }

    /// Whether the device with this name is ours to change and remove.
    pub fn owns(&self, name: &InterfaceName) -> bool {
        let (Some(device), Some(link)) = (ownership::DeviceName::parse(name), self.links.get(name)) else {
            return false;
        };
        let number_fits = match (device.role, link.kind) {
            (ownership::Role::Vrf, LinkKind::Vrf(table)) => table == ownership::table(device.vni),
            (ownership::Role::Vpc | ownership::Role::Peer, LinkKind::Vxlan { tunnel: Some(tunnel), .. }) => {
                tunnel.vni == device.vni
            }
            _ => false,
        };
        number_fits && ownership::owns_group(link.group)
    }
}
