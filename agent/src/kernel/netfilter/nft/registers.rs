//! What the registers of a rule hold, and what comparisons with it mean.

use super::attribute::{FAMILY_IPV4, FAMILY_IPV6};
use crate::{
    kernel::wire,
    objects::{
        Family,
        firewall::{ICMPV6, Match, Pattern, Sense, ethertype, state},
    },
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

/// How ARP messages on Ethernet begin (RFC 826): hardware, protocol, lengths of both addresses.
static ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// `IPS_DST_NAT`.
const DESTINATION_CHANGED: u32 = 1 << 5;

/// What a register holds.
#[derive(Debug, Clone)]
pub(super) enum Loaded {
    InName,
    OutName,
    InIndex,
    OutIndex,
    Family,
    /// The type of a device (`ARPHRD_*`).
    DeviceType,
    /// The ethertype.
    Ethertype,
    /// The protocol behind the IP header.
    Protocol,
    /// The type of an `ICMPv6` message.
    IcmpType,
    /// The operation of an ARP message.
    ArpOperation,
    /// A part of an ARP message that is the same in all of them on Ethernet.
    ArpHeader(&'static [u8]),
    /// The destination port.
    DestinationPort,
    /// The source port and the destination port.
    Ports,
    /// A connection tracking state, with the mask that was applied to it.
    State(Option<u32>),
    /// The connection tracking status (`enum ip_conntrack_status`), with the mask.
    Status(Option<u32>),
    /// A part of an address from its first byte, with the mask that was applied to it.
    Source(Family, Option<Vec<u8>>),
    Destination(Family, Option<Vec<u8>>),
}

impl Loaded {
    /// What a comparison with a value matches. `names` are devices by index.
    pub(super) fn compared(&self, names: &BTreeMap<u32, InterfaceName>, value: &[u8], sense: Sense) -> Option<Match> {
        let pattern = || Pattern { name: wire::bytes_of_name(value), open: !value.contains(&0) && value.len() < 16 };
        let by_index = || Some(device(names, u32::from_ne_bytes(value.try_into().ok()?)).into_iter().collect());
        match self {
            Loaded::InName => Some(Match::In(vec![pattern()], sense)),
            Loaded::OutName => Some(Match::Out(vec![pattern()], sense)),
            Loaded::InIndex => Some(Match::In(by_index()?, sense)),
            Loaded::OutIndex => Some(Match::Out(by_index()?, sense)),
            Loaded::Family => match *value.first()? {
                FAMILY_IPV4 => Some(Match::Ethertype(vec![ethertype::IPV4], sense)),
                FAMILY_IPV6 => Some(Match::Ethertype(vec![ethertype::IPV6], sense)),
                _ => None,
            },
            // `ARPHRD_ETHER`
            Loaded::DeviceType if u16::from_ne_bytes(value.try_into().ok()?) == 1 => Some(Match::Ethernet(sense)),
            Loaded::Ethertype => Some(Match::Ethertype(vec![u16::from_be_bytes(value.try_into().ok()?)], sense)),
            Loaded::IcmpType => match value {
                [kind] => Some(Match::IcmpType(vec![*kind], sense)),
                _ => None,
            },
            Loaded::ArpOperation => Some(Match::ArpOperation(vec![u16::from_be_bytes(value.try_into().ok()?)], sense)),
            Loaded::ArpHeader(always) => {
                let holds = (value == *always) == (sense == Sense::Is);
                Some(Match::Ethertype(vec![ethertype::ARP], if holds { Sense::Is } else { Sense::IsNot }))
            }
            Loaded::Protocol => match value {
                [protocol] => Some(Match::Protocol(vec![*protocol], sense)),
                _ => None,
            },
            Loaded::DestinationPort => {
                let port = u16::from_be_bytes(value.try_into().ok()?);
                Some(Match::DestinationPort(vec![port..=port], sense))
            }
            Loaded::DeviceType | Loaded::Ports => None,
            // Only this bit: the destination address of the connection was changed.
            Loaded::Status(mask) => match (*mask == Some(DESTINATION_CHANGED), value, sense) {
                (true, [0, 0, 0, 0], Sense::IsNot) => Some(Match::State(state::DNAT, Sense::Is)),
                (true, [0, 0, 0, 0], Sense::Is) => Some(Match::State(state::DNAT, Sense::IsNot)),
                _ => None,
            },
            Loaded::State(mask) => {
                let value = u32::from_ne_bytes(value.try_into().ok()?);
                match (mask, value, sense) {
                    // One of the states is set, which is written as "not none of them".
                    (Some(mask), 0, Sense::IsNot) => Some(Match::State(*mask, Sense::Is)),
                    (Some(mask), 0, Sense::Is) => Some(Match::State(*mask, Sense::IsNot)),
                    (None, value, sense) => Some(Match::State(value, sense)),
                    _ => None,
                }
            }
            Loaded::Source(family, mask) => {
                Some(Match::Source(network(*family, value, mask.as_deref())?.into(), sense))
            }
            Loaded::Destination(family, mask) => {
                Some(Match::Destination(network(*family, value, mask.as_deref())?.into(), sense))
            }
        }
    }
}

/// What is loaded from a packet, by base, offset and length, after these conditions in a table of this family.
pub(super) fn field(family: &str, matches: &[Match], at: [Option<u32>; 3]) -> Option<Loaded> {
    let v4 = match family {
        "ip" => true,
        "ip6" => false,
        "arp" => {
            return match at {
                [Some(1), Some(6), Some(2)] => Some(Loaded::ArpOperation),
                [Some(1), Some(from), Some(length)] => {
                    let to = from.checked_add(length)?;
                    Some(Loaded::ArpHeader(ARP_HEADER.get(from as usize..to as usize)?))
                }
                _ => None,
            };
        }
        // In tables of both families, a rule about addresses matches on the family first.
        _ => matches.contains(&Match::Ethertype(vec![ethertype::IPV4], Sense::Is)),
    };
    let is_icmpv6 = || matches.contains(&Match::Protocol(vec![ICMPV6], Sense::Is));
    match (at, v4) {
        ([Some(0), Some(12), Some(2)], _) if matches!(family, "bridge" | "netdev") => Some(Loaded::Ethertype),
        ([Some(2), Some(0), Some(1)], _) if is_icmpv6() => Some(Loaded::IcmpType),
        // It only counts behind a comparison of the protocol, which has ports there.
        ([Some(2), Some(2), Some(2)], _) => Some(Loaded::DestinationPort),
        ([Some(2), Some(0), Some(4)], _) => Some(Loaded::Ports),
        ([Some(1), Some(9), Some(1)], true) | ([Some(1), Some(6), Some(1)], false) => Some(Loaded::Protocol),
        ([Some(1), Some(12), Some(1..=4)], true) => Some(Loaded::Source(Family::V4, None)),
        ([Some(1), Some(16), Some(1..=4)], true) => Some(Loaded::Destination(Family::V4, None)),
        ([Some(1), Some(8), Some(1..=16)], false) => Some(Loaded::Source(Family::V6, None)),
        ([Some(1), Some(24), Some(1..=16)], false) => Some(Loaded::Destination(Family::V6, None)),
        _ => None,
    }
}

pub(super) fn meta(key: Option<u32>) -> Option<Loaded> {
    Some(match key? {
        1 => Loaded::Ethertype,
        4 => Loaded::InIndex,
        5 => Loaded::OutIndex,
        6 => Loaded::InName,
        7 => Loaded::OutName,
        8 | 9 => Loaded::DeviceType,
        15 => Loaded::Family,
        16 => Loaded::Protocol,
        _ => return None,
    })
}

/// A device by its index; none if it no longer exists, in which case nothing matches.
pub(super) fn device(names: &BTreeMap<u32, InterfaceName>, index: u32) -> Option<Pattern> {
    names.get(&index).map(|name| Pattern { name: name.as_bytes().to_vec(), open: false })
}

/// The sense of a comparison, by `NFT_CMP_EQ` or `NFT_CMP_NEQ`, and of a range.
pub(super) fn sense(comparison: Option<u32>) -> Option<Sense> {
    match comparison? {
        0 => Some(Sense::Is),
        1 => Some(Sense::IsNot),
        _ => None,
    }
}

/// All up to a value, or from it on (`NFT_CMP_LTE`, `NFT_CMP_GTE`): the first and the last.
pub(super) fn from_or_up_to(comparison: Option<u32>, value: &[u8]) -> Option<[Vec<u8>; 2]> {
    match comparison? {
        3 => Some([vec![0; value.len()], value.to_vec()]),
        5 => Some([value.to_vec(), vec![0xff; value.len()]]),
        _ => None,
    }
}

/// The network that a comparison with the first bytes of an address stands for.
fn network(family: Family, value: &[u8], mask: Option<&[u8]>) -> Option<IpNet> {
    let ones = match mask {
        None => value.len() * 8,
        Some(mask) => {
            let ones = mask.iter().map(|byte| byte.leading_ones() as usize).take_while(|ones| *ones > 0);
            let ones: usize = ones.sum();
            let plain = (0..mask.len() * 8).all(|bit| (mask[bit / 8] >> (7 - bit % 8) & 1 == 1) == (bit < ones));
            if !plain {
                return None;
            }
            ones
        }
    };
    let length = u8::try_from(ones).ok()?;
    match family {
        Family::V4 => {
            let mut bytes = [0; 4];
            bytes.get_mut(..value.len())?.copy_from_slice(value);
            Some(IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bytes), length).ok()?.trunc()))
        }
        Family::V6 => {
            let mut bytes = [0; 16];
            bytes.get_mut(..value.len())?.copy_from_slice(value);
            Some(IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bytes), length).ok()?.trunc()))
        }
    }
}
