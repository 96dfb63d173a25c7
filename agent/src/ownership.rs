//! Which objects on a host are ours. The only place that decides it.
//!
//! The two possible mistakes differ in weight. Failing to recognise something of ours leaves an object behind that the
//! next status names. Mistaking another program's device for ours destroys its network. So an object is ours only if
//! every mark that its kind can carry is there:
//!
//! | object | marks |
//! |---|---|
//! | device | name grammar, kind, the number in the name equal to its VNI or table, link group |
//! | route | protocol, table within the reserved range |
//! | next hop | protocol, id within the reserved range |
//! | address | protocol (`IFA_PROTO`, Linux 5.18) |
//! | rule | protocol, priority |
//! | ingress filter | the device that it is on, priority |
//! | filter of the underlay | priority, the program's name |
//! | shaper | the device that it is on, handle |
//! | neighbour, FDB entry, sysctl | the device that they are on |
//!
//! Names and numbers of devices and tables are derived from VNIs: see [`cps_peering_config::naming`].

pub use cps_peering_config::naming::{DeviceName, Role, table, table_vni};
use cps_peering_config::net::InterfaceName;

/// The protocol of our routes, next hops, addresses and rules (`rtm_protocol`). Not used by others: see
/// `include/uapi/linux/rtnetlink.h` and iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 67;

/// The link group of our devices. Unlike the alias, the kernel accepts it in the message that creates a device.
pub const GROUP: u32 = 0x4350_5301;

/// The link group of devices that are about to be removed in one call.
pub const DOOMED_GROUP: u32 = 0x4350_5302;

/// The first of the 2²⁴ next hop ids that are ours.
pub const FIRST_NEXTHOP_ID: u32 = 0x4300_0000;

/// The priority of our filters that limit the rate of some packets. Earlier versions, which make no such filters or
/// fewer, remove them.
pub const LIMIT_PRIORITY: u16 = 17_232;

/// The priority of our filters that drop packets between parts of VPCs that a peering does not join. Earlier versions,
/// which make no such filters, remove them.
pub const REJECT_PRIORITY: u16 = LIMIT_PRIORITY + 1;

/// The priority of the underlay filter, on devices that are not ours.
pub const UNDERLAY_PRIORITY: u16 = 17_231;

/// The priority of our filter that lets the frames of VLANs pass to devices of their own on top of a port.
pub const VLAN_PRIORITY: u16 = 17_234;

/// The priority of our filters that accept what may arrive on a device.
pub const ACCEPT_PRIORITY: u16 = VLAN_PRIORITY + 1;

/// The priority of our filter that drops everything else.
pub const DROP_PRIORITY: u16 = ACCEPT_PRIORITY + 1;

/// The handle of our HTB on a device, `4350:`.
pub const SHAPER_HANDLE: u32 = 0x4350_0000;

/// The class for everything, `4350:1`.
pub const SHAPER_CLASS: u32 = SHAPER_HANDLE + 1;

/// The handle of the queue behind that class, `4352:`.
pub const QUEUE_HANDLE: u32 = 0x4352_0000;

/// The priority of the kernel's `l3mdev` rule.
pub const L3MDEV_RULE_PRIORITY: u32 = 1000;

/// Where the `local` rule is moved: right behind `l3mdev`. Further down, rules of others would come before it and could
/// divert the host's own traffic.
pub const LOCAL_RULE_PRIORITY: u32 = L3MDEV_RULE_PRIORITY + 1;

/// The ids to try for a next hop on this device, in order. Each device starts elsewhere, so that the ids of others need
/// not be known: if one is taken after all, the kernel reports it.
pub fn nexthop_ids(device: &InterfaceName) -> impl Iterator<Item = u32> + use<> {
    const IDS: u32 = 1 << 24;
    // Fibonacci hashing: consecutive VNIs end up far from each other.
    let vni = DeviceName::parse(device).map_or(0, |device| device.vni.get());
    let first = vni.wrapping_mul(0x9e37_79b1) >> 8;
    (0..IDS).map(move |step| FIRST_NEXTHOP_ID + (first + step) % IDS)
}

/// Whether a next hop with this id and protocol is ours.
pub fn owns_nexthop(id: u32, protocol: u8) -> bool {
    protocol == PROTOCOL && is_nexthop_id(id)
}

/// Whether an id lies in the range of our next hops.
pub fn is_nexthop_id(id: u32) -> bool {
    (FIRST_NEXTHOP_ID..FIRST_NEXTHOP_ID + (1 << 24)).contains(&id)
}

/// Whether a filter of this priority, on a device of ours or a port, is ours.
pub fn owns_filter(priority: u16) -> bool {
    matches!(priority, LIMIT_PRIORITY | REJECT_PRIORITY | VLAN_PRIORITY | ACCEPT_PRIORITY | DROP_PRIORITY)
}

/// Whether a queueing discipline with this handle is ours.
pub fn owns_qdisc(handle: u32) -> bool {
    matches!(handle, SHAPER_HANDLE | QUEUE_HANDLE)
}

/// Whether a device in this link group carries our mark.
pub fn owns_group(group: u32) -> bool {
    matches!(group, GROUP | DOOMED_GROUP)
}
