//! Programs that drop packets by source and destination together: what a peering does not join (rule C9).
//!
//! They run in the mode in which the kernel does what a program returns (`TCA_BPF_FLAG_ACT_DIRECT`). A load from beyond the end of
//! the packet would return 0, which there means that the packet passes all filters: so nothing is loaded before the length is
//! known.

use super::assembler::{Ancillary, Assembler, Program};
use super::ingress::{
    CHUNK, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP, IPV4_DESTINATION, IPV4_SOURCE, IPV6_DESTINATION, IPV6_SOURCE, if_in4,
    if_in6,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What a rejecting program returns: `TC_ACT_SHOT`.
pub const REJECTED: u32 = 2;
/// What it returns for everything else: `TC_ACT_UNSPEC`, so that the next filter is asked.
const NEXT: u32 = u32::MAX;

/// What must not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Where from; none for anywhere.
    pub(super) from: Option<Vec<IpNet>>,
    /// Where to.
    pub(super) to: Vec<IpNet>,
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

/// Pieces of a list; of no list one piece, which stands for everything.
fn chunks<N>(list: Option<&Vec<N>>, most: usize) -> Vec<Option<&[N]>> {
    list.map_or_else(|| vec![None], |list| list.chunks(most).map(Some).collect())
}

impl Pairs {
    /// The programs that together reject all of it.
    pub(super) fn programs(&self) -> Vec<Program> {
        let (to4, to6) = families(&self.to);
        let (from4, from6) = self.from.as_ref().map(|from| families(from)).unzip();
        let mut programs = Vec::new();
        for to in to4.chunks(CHUNK[0]) {
            for from in chunks(from4.as_ref(), CHUNK[0]) {
                programs.push(program4(from, to));
            }
        }
        for to in to6.chunks(CHUNK[1]) {
            for from in chunks(from6.as_ref(), CHUNK[1]) {
                programs.push(program6(from, to));
            }
        }
        programs
    }
}

/// The frame of a program: `found` where both match.
fn program(ethertype: u32, header: u32, matches: impl FnOnce(&mut Assembler, super::assembler::Label)) -> Program {
    let mut code = Assembler::default();
    let (found, next) = (code.label(), code.label());
    // Frames of VLANs belong to other devices, or are dropped anyway.
    code.ancillary(Ancillary::VlanTagPresent);
    code.unless_equal(0, next);
    code.ancillary(Ancillary::Protocol);
    code.unless_equal(ethertype, next);
    code.length();
    code.unless_at_least(IP + header, next);
    matches(&mut code, found);
    code.here(next);
    code.finish(NEXT);
    code.here(found);
    code.finish(REJECTED);
    code.assemble()
}

fn program4(from: Option<&[Ipv4Net]>, to: &[Ipv4Net]) -> Program {
    program(ETHERTYPE_IPV4, 20, |code, found| {
        let (to_there, next) = (code.label(), code.label());
        if_in4(code, IPV4_DESTINATION, to, to_there);
        code.goto(next);
        code.here(to_there);
        match from {
            Some(from) => if_in4(code, IPV4_SOURCE, from, found),
            None => code.goto(found),
        }
        code.here(next);
    })
}

fn program6(from: Option<&[Ipv6Net]>, to: &[Ipv6Net]) -> Program {
    program(ETHERTYPE_IPV6, 40, |code, found| {
        let (to_there, next) = (code.label(), code.label());
        if_in6(code, IPV6_DESTINATION, to, to_there);
        code.goto(next);
        code.here(to_there);
        match from {
            Some(from) => if_in6(code, IPV6_SOURCE, from, found),
            None => code.goto(found),
        }
        code.here(next);
    })
}
