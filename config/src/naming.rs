//! Names and numbers of what the agents create in a kernel: devices, routing tables, and the Ethernet and next hop
//! addresses by which hosts know each other. Controller and agents must agree on them, so they are defined here only.
//!
//! Everything is derived from VNIs, which are unique among all VPCs and sides, and from VTEP addresses. Nothing needs to be allocated or
//! remembered, so a restart cannot forget it.

use crate::net::{InterfaceName, Mac, Vni};
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// The first of the 2²⁴ tables that are ours: the table of a VPC is this plus its VNI.
const FIRST_TABLE: u32 = 0x4300_0000;

/// The purpose of a device of ours.
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
    /// Its purpose.
    pub role: Role,
    /// The VNI of its VPC or side.
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

    /// Parses a name that follows the grammar. Only the canonical spelling of a number counts.
    pub fn parse(name: &InterfaceName) -> Option<Self> {
        let name = name.as_str();
        let (role, digits) = Role::ALL.into_iter().find_map(|role| Some((role, name.strip_prefix(role.prefix())?)))?;
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

/// The first two bytes of every Ethernet address that [`mac`] derives, by the family of the VTEP address.
pub const HOST_PREFIXES: [u16; 2] = [0x0200, 0x0206];

/// The Ethernet address of all our VXLAN devices on the host with this VTEP address: locally administered, then the
/// family, then the last four bytes of the address. The controller refuses two hosts for which that is the same.
pub fn mac(vtep: IpAddr) -> Mac {
    match vtep {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Mac([0x02, 0x00, a, b, c, d])
        }
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            Mac([0x02, 0x06, a, b, c, d])
        }
    }
}

/// The link-local address by which other hosts know the host with this VTEP address as a next hop: derived from its
/// [`mac`]. No device has this address; a permanent neighbour entry maps it to the Ethernet address.
pub fn gateway(vtep: IpAddr) -> Ipv6Addr {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[0xfe, 0x80]);
    bytes[10..].copy_from_slice(&mac(vtep).0);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    #[test]
    fn names_round_trip() {
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
    fn tables_round_trip() {
        for vni in [Vni::MIN, Vni::MAX] {
            assert_eq!(table_vni(table(vni)), Some(vni));
        }
        for foreign in [0, 254, 255, 1000, FIRST_TABLE, FIRST_TABLE + (1 << 24), u32::MAX] {
            assert_eq!(table_vni(foreign), None, "{foreign}");
        }
    }
}
