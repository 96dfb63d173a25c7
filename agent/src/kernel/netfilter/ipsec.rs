//! `IPsec` policies (`include/uapi/linux/xfrm.h`), read-only: they decide about packets like filters, in VRFs as well.

use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{attributes, u8_at, u16_at, u32_at},
    },
    objects::firewall::{Action, Direction, Policy, Upper},
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use thiserror::Error;

const GET_POLICY: u16 = 0x15;
/// `struct xfrm_userpolicy_id`.
const ID_LEN: usize = 64;
/// `struct xfrm_userpolicy_info`, which begins with a `struct xfrm_selector`.
const INFO_LEN: usize = 168;
const SELECTOR_LEN: usize = 56;
/// Offsets in `struct xfrm_selector`.
const SOURCE: usize = 16;
const PORT_TO: usize = 32;
const PORT_TO_MASK: usize = 34;
const PORT_FROM_MASK: usize = 38;
const FAMILY: usize = 40;
const LENGTHS: usize = 42;
const PROTOCOL: usize = 44;
const DEVICE: usize = 48;
const USER: usize = 52;
/// Behind the selector and two sets of lifetimes.
const PRIORITY: usize = SELECTOR_LEN + 64 + 32;
const DIRECTION: usize = PRIORITY + 8;
const ACTION: usize = PRIORITY + 9;
/// `XFRMA_TMPL`, `XFRMA_POLICY_TYPE` (`struct xfrm_userpolicy_type`), `XFRMA_MARK`, `XFRMA_IF_ID`.
const TEMPLATES: u16 = 5;
const TYPE: u16 = 16;
const MARK: u16 = 21;
const INTERFACE_ID: u16 = 31;

/// `XFRM_MSG_GETDEFAULT` of Linux 5.15 and later, and its `struct xfrm_userpolicy_default`: a byte for each direction.
const GET_DEFAULT: u16 = 0x28;
const DEFAULT_LEN: usize = 3;
/// `XFRM_USERPOLICY_BLOCK`.
const BLOCK: u8 = 1;
/// `XFRM_POLICY_TYPE_MAIN`; `XFRM_POLICY_TYPE_SUB` is 1. A kernel without other types does not report it.
const MAIN: u8 = 0;
/// `struct xfrm_user_tmpl`, and the offset of its flag that makes it optional.
const TEMPLATE_LEN: usize = 64;
const OPTIONAL: usize = 50;

/// The most policies that are kept.
const MAX_POLICIES: usize = 16_384;

/// Policies could not be read.
#[derive(Debug, Error)]
pub(super) enum Unread {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("there are more than the {MAX_POLICIES} that are read")]
    TooMany,
    #[error("the kernel describes one in a way that is not known")]
    Malformed,
}

impl Unread {
    /// Whether the kernel has no such policies at all.
    pub(super) fn is_unsupported(&self) -> bool {
        let Self::Kernel(KernelError::Socket { source, .. }) = self else { return false };
        source.raw_os_error() == Some(libc::EPROTONOSUPPORT)
    }
}

/// Policies that may match packets of VPCs or between hosts, which carry no mark and do not go to an `IPsec` interface;
/// for each direction in the kernel's order, with the default for unmatched packets last.
pub(super) fn policies(names: &BTreeMap<u32, InterfaceName>) -> Result<Vec<Policy>, Unread> {
    let mut socket = Socket::xfrm()?;
    let all = |body: &mut Vec<u8>| body.extend([0; ID_LEN]);
    let start = || Some(Vec::new());
    let found = socket.dump("policies of IPsec", GET_POLICY, all, start, |found, payload| {
        let Some(list) = found else { return };
        match read(payload, names) {
            Some(policy) if list.len() <= MAX_POLICIES => list.extend(policy),
            Some(_) => {}
            None => *found = None,
        }
    })?;
    let mut found: Vec<Policy> = found.ok_or(Unread::Malformed)?;
    if found.len() > MAX_POLICIES {
        return Err(Unread::TooMany);
    }
    // The kernel lists the newest first, and evaluates the oldest first among equal priorities.
    found.reverse();
    found.extend(defaults(&mut socket)?);
    found.sort_by_key(|policy| (policy.direction, policy.priority.is_none(), !policy.sub, policy.priority));
    Ok(found)
}

/// The defaults for packets that no policy matches, if they are dropped.
fn defaults(socket: &mut Socket) -> Result<Vec<Policy>, Unread> {
    let answer = match socket.get(GET_DEFAULT, |body| body.extend([0; DEFAULT_LEN]))? {
        Ok(answer) => answer,
        // An older kernel has none.
        Err(refusal) if refusal.errno == libc::EINVAL => return Ok(Vec::new()),
        Err(refusal) => return Err(KernelError::Refused { what: "defaults of IPsec", refusal }.into()),
    };
    let [within, forward, out] = answer.first_chunk::<DEFAULT_LEN>().ok_or(Unread::Malformed)?;
    let everything = [IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
    let all = [(Direction::In, within), (Direction::Forward, forward), (Direction::Out, out)];
    let blocked = all.into_iter().filter(|(_, does)| **does == BLOCK);
    let of = |(direction, _)| everything.map(|all| Policy::default_of(direction, all, Action::Block));
    Ok(blocked.flat_map(of).collect())
}

/// A policy for packets without a mark; the inner value is none if it does not concern them. None if it cannot be
/// parsed.
#[expect(clippy::option_option, reason = "one that does not concern is not one that cannot be read")]
fn read(payload: &[u8], names: &BTreeMap<u32, InterfaceName>) -> Option<Option<Policy>> {
    let direction = match u8_at(payload, DIRECTION)? {
        0 => Direction::In,
        1 => Direction::Out,
        2 => Direction::Forward,
        // A policy of a single socket.
        _ => return Some(None),
    };
    let find = |wanted| attributes(payload, INFO_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    // A packet without a mark matches if the required mark is 0, whatever the mask.
    let marked = find(MARK).is_some_and(|mark| u32_at(mark, 0) != Some(0));
    if marked || find(INTERFACE_ID).is_some_and(|id| u32_at(id, 0) != Some(0)) {
        return Some(None);
    }
    let device = match u32_at(payload, DEVICE)? {
        0 => None,
        // Nothing arrives on a device that does not exist.
        index => match names.get(&index) {
            Some(name) => Some(*name),
            None => return Some(None),
        },
    };
    let family = i32::from(u16_at(payload, FAMILY)?);
    let network = |at: usize, length: usize| network(family, payload.get(at..at + 16)?, u8_at(payload, length)?);
    let templates = find(TEMPLATES).unwrap_or_default();
    let optional = templates.chunks(TEMPLATE_LEN).all(|template| u8_at(template, OPTIONAL).is_some_and(|it| it != 0));
    let action = match (u8_at(payload, ACTION)?, direction) {
        (1, _) => Action::Block,
        _ if templates.is_empty() => Action::Allow,
        // Unprotected packets then pass on arrival (`level use`). Outgoing ones are protected all the same.
        (_, Direction::In | Direction::Forward) if optional => Action::Allow,
        _ => Action::Protect,
    };
    let port = |at: usize| u16_at(payload, at).map(u16::from_be);
    let mask = port(PORT_TO_MASK)?;
    let upper = Upper {
        protocol: Some(u8_at(payload, PROTOCOL)?).filter(|protocol| *protocol != 0),
        destination_port: (port(PORT_TO)? & mask, mask),
        more: port(PORT_FROM_MASK)? != 0 || u32_at(payload, USER)? != 0,
    };
    let policy = Policy {
        direction,
        source: network(SOURCE, LENGTHS + 1)?,
        destination: network(0, LENGTHS)?,
        device,
        upper,
        action,
        sub: find(TYPE).is_some_and(|kind| u8_at(kind, 0) != Some(MAIN)),
        priority: Some(u32_at(payload, PRIORITY)?),
    };
    Some(Some(policy))
}

fn network(family: i32, address: &[u8], length: u8) -> Option<IpNet> {
    let address = match family {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
        _ => return None,
    };
    Some(IpNet::new(address, length).ok()?.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::put;
    use nix::sched::{CloneFlags, unshare};
    use std::{process::Command, thread};

    /// The policies read back after `ip` has set these in a new network namespace.
    fn read_after(lines: &[&str]) -> Vec<String> {
        let set_and_read = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            for line in lines {
                let arguments = format!("xfrm policy {line}");
                let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip");
                assert!(status.success(), "{line}");
            }
            policies(&BTreeMap::from([(1, "lo".parse().unwrap())])).unwrap()
        };
        let found = thread::scope(|scope| scope.spawn(set_and_read).join().unwrap());
        found.iter().map(shown).collect()
    }

    fn shown(policy: &Policy) -> String {
        let Upper { protocol, destination_port: (port, mask), more } = policy.upper;
        let protocol = protocol.map_or_else(String::new, |protocol| format!(" proto {protocol}"));
        let port = if mask == 0 { String::new() } else { format!(" dport {port}/{mask:x}") };
        format!("{policy}: {:?}{protocol}{port}{}", policy.action, if more { " more" } else { "" })
    }

    #[test]
    fn policies_read_as_they_were_written() {
        let found = read_after(&[
            "add src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block priority 7",
            "add src 10.1.0.0/16 dst 10.2.9.0/24 dir fwd action allow priority 3",
            "add src 10.1.0.0/16 dst 10.2.8.0/24 dir fwd action allow priority 7",
            "add src 10.4.0.0/16 dst 10.0.0.0/8 dir fwd priority 8 tmpl proto esp mode tunnel level use",
            "add src 10.5.0.0/16 dst 10.0.0.0/8 dir fwd priority 9 tmpl proto comp mode tunnel level use tmpl proto esp mode tunnel",
            "add src fd00:1::/48 dst ::/0 dir out priority 1 tmpl src 2001:db8::1 dst 2001:db8::2 proto esp mode tunnel",
            "add src 10.6.0.0/16 dst 10.0.0.0/8 dir out priority 2 tmpl proto esp mode transport level use",
            "add src 0.0.0.0/0 dst 10.2.0.0/16 proto tcp dport 22 dir out action block priority 3",
            "add src 10.7.0.0/16 dst 0.0.0.0/0 dev lo dir out action block priority 4",
            "add src 10.8.0.0/16 dst 0.0.0.0/0 dir out action block mark 7 mask 0xff",
            "add src 10.9.0.0/16 dst 0.0.0.0/0 dir out action block mark 0 mask 0xff priority 5",
            "add src 10.8.0.0/16 dst 0.0.0.0/0 dir out action block if_id 9",
            "add src 192.0.2.0/24 dst 0.0.0.0/0 proto udp dport 4789 dir in action block",
            "add src 192.0.2.0/24 dst 0.0.0.0/0 proto udp sport 4789 dir in priority 1 tmpl proto esp mode transport level use",
            "add src 192.0.2.0/24 dst 0.0.0.0/0 dir in priority 2 tmpl proto esp mode transport",
        ]);
        assert_eq!(
            found,
            [
                "xfrm policy src 192.0.2.0/24 dst 0.0.0.0/0 dir in priority 0 action block: Block proto 17 dport 4789/ffff",
                "xfrm policy src 192.0.2.0/24 dst 0.0.0.0/0 dir in priority 1: Allow proto 17 more",
                "xfrm policy src 192.0.2.0/24 dst 0.0.0.0/0 dir in priority 2: Protect",
                "xfrm policy src 10.1.0.0/16 dst 10.2.9.0/24 dir fwd priority 3: Allow",
                "xfrm policy src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd priority 7 action block: Block",
                "xfrm policy src 10.1.0.0/16 dst 10.2.8.0/24 dir fwd priority 7: Allow",
                "xfrm policy src 10.4.0.0/16 dst 10.0.0.0/8 dir fwd priority 8: Allow",
                "xfrm policy src 10.5.0.0/16 dst 10.0.0.0/8 dir fwd priority 9: Protect",
                "xfrm policy src fd00:1::/48 dst ::/0 dir out priority 1: Protect",
                "xfrm policy src 10.6.0.0/16 dst 10.0.0.0/8 dir out priority 2: Protect",
                "xfrm policy src 0.0.0.0/0 dst 10.2.0.0/16 dir out priority 3 action block: Block proto 6 dport 22/ffff",
                "xfrm policy src 10.7.0.0/16 dst 0.0.0.0/0 dev lo dir out priority 4 action block: Block",
                "xfrm policy src 10.9.0.0/16 dst 0.0.0.0/0 dir out priority 5 action block: Block",
            ]
        );
    }

    /// The default drops unmatched packets without an explicit policy.
    #[test]
    fn the_default_is_the_last_one_of_its_direction() {
        let found = read_after(&["setdefault fwd block", "add src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action allow"]);
        let default = "xfrm policy default fwd: Block";
        assert_eq!(found, ["xfrm policy src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd priority 0: Allow", default, default]);
        let found = read_after(&["setdefault in block out block"]);
        let [within, out] = ["in", "out"].map(|direction| format!("xfrm policy default {direction}: Block"));
        assert_eq!(found, [&within, &within, &out, &out].map(String::as_str));
        assert!(read_after(&["setdefault fwd accept out accept in accept"]).is_empty());
    }

    /// As reported by a kernel with `CONFIG_XFRM_SUB_POLICY`.
    #[test]
    fn the_type_is_read() {
        let told = |kind: Option<u8>| {
            let mut bytes = vec![0; INFO_LEN];
            bytes[FAMILY..FAMILY + 2].copy_from_slice(&2u16.to_ne_bytes());
            bytes[DIRECTION] = 2;
            if let Some(kind) = kind {
                put(&mut bytes, TYPE, &[kind, 0, 0, 0, 0, 0]);
            }
            shown(&read(&bytes, &BTreeMap::new()).unwrap().unwrap())
        };
        let main = "xfrm policy src 0.0.0.0/0 dst 0.0.0.0/0 dir fwd priority 0: Allow";
        assert_eq!([told(None), told(Some(0))], [main, main]);
        for other in [1, 2] {
            assert_eq!(
                told(Some(other)),
                "xfrm policy src 0.0.0.0/0 dst 0.0.0.0/0 dir fwd priority 0 ptype sub: Allow"
            );
        }
    }
}
