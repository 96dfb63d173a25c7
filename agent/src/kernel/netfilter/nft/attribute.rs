//! What messages of nftables have in common.

use crate::{
    kernel::wire::{self, attributes},
    objects::{
        Family,
        firewall::{Scope, Verdict},
    },
};
use nix::libc;

pub(super) const SUBSYSTEM: u16 = 10 << 8;
/// `struct nfgenmsg`.
pub(super) const HEADER_LEN: usize = 4;

pub(super) const FAMILY_INET: u8 = 1;
pub(super) const FAMILY_IPV4: u8 = 2;
pub(super) const FAMILY_ARP: u8 = 3;
pub(super) const FAMILY_NETDEV: u8 = 5;
pub(super) const FAMILY_BRIDGE: u8 = 7;
pub(super) const FAMILY_IPV6: u8 = 10;

pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;

pub(super) fn find(payload: &[u8], skip: usize, wanted: u16) -> Option<&[u8]> {
    attributes(payload, skip).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn family(payload: &[u8]) -> Option<(&'static str, Scope)> {
    match *payload.first()? {
        FAMILY_IPV4 => Some(("ip", Scope::Ip(Family::V4))),
        FAMILY_IPV6 => Some(("ip6", Scope::Ip(Family::V6))),
        FAMILY_INET => Some(("inet", Scope::Both)),
        FAMILY_NETDEV => Some(("netdev", Scope::Devices(Vec::new()))),
        FAMILY_BRIDGE => Some(("bridge", Scope::Bridge)),
        FAMILY_ARP => Some(("arp", Scope::Arp)),
        _ => None,
    }
}

pub(super) fn read_verdict(verdict: &[u8]) -> Verdict {
    let chain = || find(verdict, 0, 2).and_then(wire::name).unwrap_or_default();
    match find(verdict, 0, 1).and_then(number).map(u32::cast_signed) {
        Some(libc::NF_ACCEPT) => Verdict::Accept,
        Some(libc::NF_DROP) => Verdict::Drop("drop".to_owned()),
        Some(-1) => Verdict::Continue,
        Some(-3) => Verdict::Jump(chain()),
        Some(-4) => Verdict::Goto(chain()),
        Some(-5) => Verdict::Return,
        other => Verdict::Unclear(format!("verdict {other:?}")),
    }
}
