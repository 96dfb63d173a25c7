//! Messages by which servers and their gateways resolve each other.

use crate::objects::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A message without which one of both does not find the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// An ARP request or reply, by its operation (RFC 826).
    Arp(u16),
    /// A neighbour solicitation, which is sent to a group (RFC 4861 section 4.3).
    Solicitation,
    /// A neighbour advertisement (RFC 4861 section 4.4).
    Advertisement,
}

impl Message {
    pub(super) const ALL: [Message; 4] =
        [Message::Arp(1), Message::Arp(2), Message::Solicitation, Message::Advertisement];

    pub(super) fn family(self) -> Family {
        match self {
            Message::Arp(_) => Family::V4,
            Message::Solicitation | Message::Advertisement => Family::V6,
        }
    }

    /// The type of the `ICMPv6` message.
    pub(super) fn icmp_type(self) -> Option<u8> {
        match self {
            Message::Arp(_) => None,
            Message::Solicitation => Some(135),
            Message::Advertisement => Some(136),
        }
    }

    /// Its sources: any address.
    pub(super) fn source(self) -> IpNet {
        match self.family() {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        }
    }

    /// Its destinations, as it arrives at the host or leaves it.
    pub(super) fn destination(self, arrives: bool) -> IpNet {
        const GROUPS: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0), 104);
        const ON_LINK: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
        match self {
            Message::Solicitation => IpNet::V6(GROUPS),
            // A port solicits with its link-local address, servers with whichever they have.
            Message::Advertisement if arrives => IpNet::V6(ON_LINK),
            Message::Arp(_) | Message::Advertisement => self.source(),
        }
    }
}
