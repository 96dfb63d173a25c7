//! What is ours on a host, and how it is named. The only place that decides it.
//!
//! The two ways of being wrong weigh differently. Failing to recognise something of ours leaves an object behind that
//! the next status names. Taking somebody else's device for ours destroys their network. So an object is ours only when
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
//! | shaper | the device that it is on, handle |
//! | neighbour, FDB entry, sysctl | the device that they are on |
//!
//! Everything is derived from the VNI, which is unique among all VPCs and sides. Nothing needs to be allocated or
//! remembered, so a restart cannot forget it.

use cps_peering_config::net::{InterfaceName, Vni};
use std::fmt;

/// The protocol of our routes, next hops, addresses and rules (`rtm_protocol`). Not in use elsewhere: see
/// `include/uapi/linux/rtnetlink.h` and iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 67;

/// The link group of our devices. Unlike the alias, the kernel takes it in the message that creates a device.
pub const GROUP: u32 = 0x4350_5301;

/// The link group of devices that are about to be removed in one call.
pub const DOOMED_GROUP: u32 = 0x4350_5302;

/// The first of the 2²⁴ tables that are ours: the table of a VPC is this plus its VNI.
const FIRST_TABLE: u32 = 0x4300_0000;

/// The first of the 2²⁴ next hop ids that are ours.
pub const FIRST_NEXTHOP_ID: u32 = 0x4300_0000;

/// The priority of our filters that accept a source.
pub const ACCEPT_PRIORITY: u16 = 17_232;

/// The priority of our filter that drops all others.
pub const DROP_PRIORITY: u16 = ACCEPT_PRIORITY + 1;

/// The handle of our HTB on a device, `4350:`.
pub const SHAPER_HANDLE: u32 = 0x4350_0000;

/// The class that takes everything, `4350:1`.
pub const SHAPER_CLASS: u32 = SHAPER_HANDLE + 1;

/// The handle of the queue behind that class, `4352:`.
pub const QUEUE_HANDLE: u32 = 0x4352_0000;

/// The priority of the kernel's `l3mdev` rule.
pub const L3MDEV_RULE_PRIORITY: u32 = 1000;

/// Where the `local` rule is moved: right behind `l3mdev`. Further down, other people's rules would come before it and
/// could lead the host's own traffic astray.
pub const LOCAL_RULE_PRIORITY: u32 = L3MDEV_RULE_PRIORITY + 1;

/// What a device of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The VRF of a VPC; the number is the VPC's VNI.
    Vrf,
    /// The VXLAN device between the ports of one VPC on different hosts; the number is the VPC's VNI.
    Vpc,
    /// The VXLAN device of one side of a peering; the number is the side's own VNI.
    Peer,
}

impl Role {
    const ALL: [Role; 3] = [Role::Vrf, Role::Vpc, Role::Peer];

    fn prefix(self) -> &'static str {
        match self {
            Role::Vrf => "cpsvrf",
            Role::Vpc => "cpsvpc",
            Role::Peer => "cpspeer",
        }
    }
}

/// The name of a device of ours: a [`Role`] and a VNI, written `cpsvrf10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// What it is for.
    pub role: Role,
    /// Whose it is.
    pub vni: Vni,
}

impl DeviceName {
    /// The name of the VRF of the VPC with this VNI.
    pub fn vrf(vni: Vni) -> InterfaceName {
        Self { role: Role::Vrf, vni }.into()
    }

    /// The name of the VXLAN device of the VPC with this VNI.
    pub fn vpc(vni: Vni) -> InterfaceName {
        Self { role: Role::Vpc, vni }.into()
    }

    /// The name of the VXLAN device of the side with this VNI.
    pub fn peer(vni: Vni) -> InterfaceName {
        Self { role: Role::Peer, vni }.into()
    }

    /// Reads a name that follows the grammar. Only the one canonical spelling of a number counts.
    pub fn parse(name: &InterfaceName) -> Option<Self> {
        let (role, digits) =
            Role::ALL.into_iter().find_map(|role| Some((role, name.as_str().strip_prefix(role.prefix())?)))?;
        let vni = digits.parse::<u32>().ok().and_then(|number| Vni::try_from(number).ok())?;
        let device = Self { role, vni };
        (!digits.starts_with(['0', '+'])).then_some(device)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.role.prefix(), self.vni)
    }
}

impl From<DeviceName> for InterfaceName {
    fn from(device: DeviceName) -> InterfaceName {
        device.to_string().parse().expect("the longest prefix and eight digits are fifteen characters")
    }
}

/// The routing table of the VPC with this VNI.
pub fn table(vni: Vni) -> u32 {
    FIRST_TABLE + vni.get()
}

/// The VNI of the VPC whose routing table this is, if it lies in the reserved range.
pub fn table_vni(table: u32) -> Option<Vni> {
    table.checked_sub(FIRST_TABLE).and_then(|number| Vni::try_from(number).ok())
}

/// The ids to try for a next hop on this device, in order. Each device begins elsewhere, so that the ids of others need
/// not be known: where one is taken after all, the kernel says so.
pub fn nexthop_ids(device: &InterfaceName) -> impl Iterator<Item = u32> + use<> {
    const IDS: u32 = 1 << 24;
    // Fibonacci hashing: VNIs in a row end up far from each other.
    let vni = DeviceName::parse(device).map_or(0, |device| device.vni.get());
    let first = vni.wrapping_mul(0x9e37_79b1) >> 8;
    (0..IDS).map(move |step| FIRST_NEXTHOP_ID + (first + step) % IDS)
}

/// Whether a next hop with this id and protocol is ours.
pub fn owns_nexthop(id: u32, protocol: u8) -> bool {
    protocol == PROTOCOL && (FIRST_NEXTHOP_ID..FIRST_NEXTHOP_ID + (1 << 24)).contains(&id)
}

/// Whether a device in this link group carries our mark.
pub fn owns_group(group: u32) -> bool {
    matches!(group, GROUP | DOOMED_GROUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    #[test]
    fn names_lead_there_and_back() {
        for role in Role::ALL {
            for vni in [Vni::MIN, Vni::MAX] {
                let device = DeviceName { role, vni };
                assert_eq!(DeviceName::parse(&device.into()), Some(device));
            }
        }
        assert_eq!(DeviceName::peer(Vni::MAX), name("cpspeer16777215"));
    }

    #[test]
    fn near_misses_are_not_ours() {
        for text in ["cpsvrf", "cpsvrf0", "cpsvrf01", "cpsvrf+1", "cpsvrf1a", "cpsvrf16777216", "xcpsvrf1", "cps1"] {
            assert_eq!(DeviceName::parse(&name(text)), None, "{text}");
        }
    }

    #[test]
    fn tables_lead_there_and_back() {
        for vni in [Vni::MIN, Vni::MAX] {
            assert_eq!(table_vni(table(vni)), Some(vni));
        }
        for foreign in [0, 254, 255, 1000, FIRST_TABLE, FIRST_TABLE + (1 << 24), u32::MAX] {
            assert_eq!(table_vni(foreign), None, "{foreign}");
        }
    }
}
