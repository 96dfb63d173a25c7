//! UDP ports whose packets the kernel unwraps and accepts once more: FOU and GUE (`include/uapi/linux/fou.h`), over generic
//! netlink.

use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{attributes, put, u8_at, u16_at},
    },
    objects::firewall::{FouPort, Unwrapped},
};
use nix::libc;
use std::collections::BTreeSet;

/// `GENL_ID_CTRL`, which knows the numbers of all families.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const HEADER_LEN: usize = 4;

/// `FOU_CMD_GET`.
const GET: u8 = 3;
const PORT: u16 = 1;
const PROTOCOL: u16 = 3;
const TYPE: u16 = 4;
const TYPE_GUE: u8 = 2;

/// Those that may contain UDP, and so VXLAN.
pub(super) fn ports() -> Result<BTreeSet<FouPort>, KernelError> {
    let mut socket = Socket::generic()?;
    let answer = socket.get(CONTROL, |body| {
        body.extend([GET_FAMILY, 1, 0, 0]);
        put(body, FAMILY_NAME, b"fou\0");
    })?;
    let family = match answer {
        Ok(payload) => find(&payload, FAMILY_ID).and_then(|value| u16_at(value, 0)),
        Err(refusal) if refusal.errno == libc::ENOENT => None,
        Err(refusal) => return Err(KernelError::Refused { what: "ports of FOU", refusal }),
    };
    let Some(family) = family else { return Ok(BTreeSet::new()) };
    let request = |body: &mut Vec<u8>| body.extend([GET, 1, 0, 0]);
    socket.dump("ports of FOU", family, request, BTreeSet::new, |ports, payload| ports.extend(read(payload)))
}

fn find(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(payload, HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn read(payload: &[u8]) -> Option<FouPort> {
    let number = |wanted| find(payload, wanted).and_then(|value| u8_at(value, 0));
    let unwrapped = match (number(TYPE), number(PROTOCOL).map(i32::from)) {
        (Some(TYPE_GUE), _) => Unwrapped::Anything,
        (_, Some(libc::IPPROTO_UDP)) => Unwrapped::Udp,
        _ => return None,
    };
    Some(FouPort { port: u16_at(find(payload, PORT)?, 0).map(u16::from_be)?, unwrapped })
}
