//! Policies of `IPsec` (`include/uapi/linux/xfrm.h`), read-only: they decide about forwarded packets as filters do, in VRFs as well.

use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{attributes, u8_at, u16_at, u32_at},
    },
    objects::firewall::{Action, Direction, Policy},
};
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use nix::libc;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const GET_POLICY: u16 = 0x15;
/// `struct xfrm_userpolicy_id`.
const ID_LEN: usize = 64;
/// `struct xfrm_userpolicy_info`, which begins with a `struct xfrm_selector`.
const INFO_LEN: usize = 168;
const SELECTOR_LEN: usize = 56;
/// Of `struct xfrm_selector`.
const SOURCE: usize = 16;
const PORTS: usize = 32;
const FAMILY: usize = 40;
const LENGTHS: usize = 42;
const PROTOCOL: usize = 44;
const DEVICE: usize = 48;
const USER: usize = 52;
/// Behind the selector and two sets of lifetimes.
const PRIORITY: usize = SELECTOR_LEN + 64 + 32;
const DIRECTION: usize = PRIORITY + 8;
const ACTION: usize = PRIORITY + 9;
/// `XFRMA_TMPL`, `XFRMA_MARK`, `XFRMA_IF_ID`.
const TEMPLATES: u16 = 5;
const MARK: u16 = 21;
const INTERFACE_ID: u16 = 31;

/// More of them are not kept.
const MAX_POLICIES: usize = 1000;

/// Those that may select packets of VPCs, which carry no mark and do not go to an interface of `IPsec`; for each direction in the
/// kernel's order. None where there are too many.
pub(super) fn policies(names: &BTreeMap<u32, InterfaceName>) -> Result<Option<Vec<Policy>>, KernelError> {
    let mut socket = Socket::xfrm()?;
    let all = |body: &mut Vec<u8>| body.extend([0; ID_LEN]);
    let mut found = socket.dump("policies of IPsec", GET_POLICY, all, Vec::new, |found, payload| {
        if found.len() <= MAX_POLICIES {
            found.extend(read(payload, names));
        }
    })?;
    // The kernel lists the newest first, and of those of one priority asks the oldest first.
    found.reverse();
    found.sort_by_key(|(priority, policy): &(u32, Policy)| (policy.direction, *priority));
    let policies = found.into_iter().map(|(_, policy)| policy);
    let policies: Vec<Policy> = policies.collect();
    Ok((policies.len() <= MAX_POLICIES).then_some(policies))
}

fn read(payload: &[u8], names: &BTreeMap<u32, InterfaceName>) -> Option<(u32, Policy)> {
    let direction = match u8_at(payload, DIRECTION)? {
        1 => Direction::Out,
        2 => Direction::Forward,
        _ => return None,
    };
    let find = |wanted| attributes(payload, INFO_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let marked =
        find(MARK).is_some_and(|mark| u32_at(mark, 0).zip(u32_at(mark, 4)).is_none_or(|(mark, mask)| mark & mask != 0));
    if marked || find(INTERFACE_ID).is_some_and(|id| u32_at(id, 0) != Some(0)) {
        return None;
    }
    let device = match u32_at(payload, DEVICE)? {
        0 => None,
        // Of a device that is not there nothing comes.
        index => Some(*names.get(&index)?),
    };
    let family = i32::from(u16_at(payload, FAMILY)?);
    let network = |at: usize, length: usize| network(family, payload.get(at..at + 16)?, u8_at(payload, length)?);
    let action = match (u8_at(payload, ACTION)?, find(TEMPLATES).is_some_and(|list| !list.is_empty())) {
        (1, _) => Action::Block,
        (_, true) => Action::Protect,
        (_, false) => Action::Allow,
    };
    let ports = payload.get(PORTS..FAMILY)?.iter().any(|byte| *byte != 0);
    let some = ports || u8_at(payload, PROTOCOL)? != 0 || u32_at(payload, USER)? != 0;
    let policy = Policy {
        direction,
        source: network(SOURCE, LENGTHS + 1)?,
        destination: network(0, LENGTHS)?,
        device,
        some,
        action,
    };
    Some((u32_at(payload, PRIORITY)?, policy))
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
    use nix::sched::{CloneFlags, unshare};
    use std::{process::Command, thread};

    /// What is read of what `ip` sets in a network namespace of its own.
    #[test]
    fn policies_read_as_they_were_written() {
        let set_and_read = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            for line in [
                "src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block priority 7",
                "src 10.1.0.0/16 dst 10.2.9.0/24 dir fwd action allow priority 3",
                "src 10.1.0.0/16 dst 10.2.8.0/24 dir fwd action allow priority 7",
                "src fd00:1::/48 dst ::/0 dir out tmpl src 2001:db8::1 dst 2001:db8::2 proto esp mode tunnel",
                "src 0.0.0.0/0 dst 10.2.0.0/16 proto tcp dport 22 dir out action block",
                "src 10.7.0.0/16 dst 0.0.0.0/0 dev lo dir out action block",
                "src 10.8.0.0/16 dst 0.0.0.0/0 dir out action block mark 7 mask 0xff",
                "src 10.8.0.0/16 dst 0.0.0.0/0 dir out action block if_id 9",
                "src 10.8.0.0/16 dst 0.0.0.0/0 dir in action block",
            ] {
                let arguments = format!("xfrm policy add {line}");
                let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip");
                assert!(status.success(), "{line}");
            }
            policies(&BTreeMap::from([(1, "lo".parse().unwrap())])).unwrap().unwrap()
        };
        let found = thread::scope(|scope| scope.spawn(set_and_read).join().unwrap());
        let shown: Vec<String> =
            found.iter().map(|it| format!("{it} {:?} {:?} {}", it.action, it.device, it.some)).collect();
        assert_eq!(
            &shown[..3],
            [
                "xfrm policy src 10.1.0.0/16 dst 10.2.9.0/24 dir fwd Allow None false",
                "xfrm policy src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block Block None false",
                "xfrm policy src 10.1.0.0/16 dst 10.2.8.0/24 dir fwd Allow None false",
            ]
        );
        let mut out = shown[3..].to_vec();
        out.sort();
        assert_eq!(
            out,
            [
                "xfrm policy src 0.0.0.0/0 dst 10.2.0.0/16 dir out action block Block None true",
                "xfrm policy src 10.7.0.0/16 dst 0.0.0.0/0 dir out action block Block Some(\"lo\") false",
                "xfrm policy src fd00:1::/48 dst ::/0 dir out Protect None false",
            ]
        );
    }
}
