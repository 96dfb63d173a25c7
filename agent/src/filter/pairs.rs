//! Programs that drop what a peering does not join (rule C9).
//!
//! They run in direct-action mode (`TCA_BPF_FLAG_ACT_DIRECT`): the kernel does what a program returns. A load from
//! beyond the end of the packet would return 0, which there means that the packet passes all filters: so nothing is
//! loaded before the length is known.

use super::assembler::{Ancillary, Assembler, At, Label, Program};
use super::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP, IPV4_DESTINATION, IPV4_SOURCE, IPV6_DESTINATION, IPV6_SOURCE, if_in4, if_in6,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What a rejecting program returns: `TC_ACT_SHOT`.
pub const REJECTED: u32 = 2;
/// What it returns for everything else: `TC_ACT_UNSPEC`, which continues with the next filter.
const NEXT: u32 = u32::MAX;

/// The most prefixes of each family in one program. The kernel does not dump a filter that is larger than 32 KiB.
pub(super) const CHUNK: [usize; 2] = [128, 64];

/// The most joined prefixes of one family that a program compares with. More than a controller lets a side have (64
/// exported times 64 imported leave at most 128, beside the VPC's CIDRs); anything beyond is rejected.
pub(super) const MOST_JOINED: usize = 256;

/// What a peering that joins parts of its VPCs must drop. It is defined by what may pass: that is a bounded number of
/// prefixes, while the rest may be many times as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotJoined<'a> {
    /// Traffic to the peer that does not come from what is joined.
    Sent {
        /// The sources that may send.
        joined: &'a [IpNet],
        /// The prefixes of the peer.
        peer: &'a [IpNet],
    },
    /// Traffic from the peer that does not go to what is joined.
    Received {
        /// The destinations that may be reached.
        joined: &'a [IpNet],
    },
}

fn families(prefixes: &[IpNet]) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        match prefix {
            IpNet::V4(prefix) => ipv4.push(*prefix),
            IpNet::V6(prefix) => ipv6.push(*prefix),
        }
    }
    (Ipv4Net::aggregate(&ipv4), Ipv6Net::aggregate(&ipv6))
}

impl NotJoined<'_> {
    /// The programs that together reject all of it: one for each chunk of the peer's prefixes, or one for each family.
    pub(super) fn programs(self) -> Vec<Program> {
        let joined = match self {
            NotJoined::Sent { joined, .. } | NotJoined::Received { joined } => joined,
        };
        let (mut joined4, mut joined6) = families(joined);
        joined4.truncate(MOST_JOINED);
        joined6.truncate(MOST_JOINED);
        match self {
            NotJoined::Sent { peer, .. } => {
                let (peer4, peer6) = families(peer);
                let ipv4 = peer4.chunks(CHUNK[0]).map(|peer| program4(Some(peer), IPV4_SOURCE, &joined4));
                let ipv6 = peer6.chunks(CHUNK[1]).map(|peer| program6(Some(peer), IPV6_SOURCE, &joined6));
                ipv4.chain(ipv6).collect()
            }
            NotJoined::Received { .. } => {
                vec![program4(None, IPV4_DESTINATION, &joined4), program6(None, IPV6_DESTINATION, &joined6)]
            }
        }
    }
}

/// The frame of a program: among packets of this kind, `matches` jumps to the label `next` with those that pass; the
/// others are rejected.
fn program(ethertype: u32, header: u32, matches: impl FnOnce(&mut Assembler, Label)) -> Program {
    let mut code = Assembler::default();
    let next = code.label();
    // Frames of VLANs belong to other devices, or are dropped anyway.
    code.ancillary(Ancillary::VlanTagPresent);
    code.unless_equal(0, next);
    code.ancillary(Ancillary::Protocol);
    code.unless_equal(ethertype, next);
    code.length();
    code.unless_at_least(IP + header, next);
    matches(&mut code, next);
    code.finish(REJECTED);
    code.here(next);
    code.finish(NEXT);
    code.assemble()
}

/// Rejects packets without a `joined` prefix at `at`; if there are `peers`, only packets to them.
fn program4(peers: Option<&[Ipv4Net]>, at: At, joined: &[Ipv4Net]) -> Program {
    program(ETHERTYPE_IPV4, 20, |code, next| {
        if let Some(peers) = peers {
            let to_peer = code.label();
            if_in4(code, IPV4_DESTINATION, peers, to_peer);
            code.goto(next);
            code.here(to_peer);
        }
        if_in4(code, at, joined, next);
    })
}

/// The same for IPv6.
fn program6(peers: Option<&[Ipv6Net]>, at: At, joined: &[Ipv6Net]) -> Program {
    program(ETHERTYPE_IPV6, 40, |code, next| {
        if let Some(peers) = peers {
            let to_peer = code.label();
            if_in6(code, IPV6_DESTINATION, peers, to_peer);
            code.goto(next);
            code.here(to_peer);
        }
        if_in6(code, at, joined, next);
    })
}
