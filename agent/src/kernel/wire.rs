//! Netlink messages as bytes.
//!
//! Dumps are parsed attribute by attribute: unknown ones are skipped, so a newer kernel's additions can never hide an
//! object. Routes and next hops are also encoded here: there may be a million of them.

use cps_peering_config::net::{InterfaceName, escape_name};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of a message header (`struct nlmsghdr`).
pub(super) const HEADER_LEN: usize = 16;

/// A received message: its header's fields and what follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram; ends at the first that is truncated.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let bytes = datagram.get(..length).filter(|bytes| bytes.len() >= HEADER_LEN)?;
        datagram = datagram.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            payload: &bytes[HEADER_LEN..],
        })
    })
}

/// The attributes behind a message's fixed part of `skip` bytes, without the flags in their kind; ends at the first
/// that is truncated.
pub(super) fn attributes(payload: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        let kind = u16_at(rest, 2)? & ATTRIBUTE_KIND_MASK;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// `NLA_TYPE_MASK`: the two highest bits of an attribute's kind are flags.
const ATTRIBUTE_KIND_MASK: u16 = 0x3fff;

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|&b| b == 0).next()?).ok()
}

/// A name that others may have made of any bytes, for display, and for comparison with others that are read this way:
/// backslashes are escaped as well, so that distinct names stay distinct.
pub(super) fn name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|&b| b == 0).next()?;
    Some(name.split(|&b| b == b'\\').map(escape_name).collect::<Vec<_>>().join("\\x5c"))
}

/// A name of any bytes for comparison: everything before the first NUL.
pub(super) fn bytes_of_name(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec()
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Several requests in one datagram.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each request begins.
    pub(super) starts: Vec<usize>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Appends a request: `body` appends what follows the header.
    pub(super) fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend([0; HEADER_LEN]);
        body(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).expect("a request is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[start + 6..start + 8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
    }

    /// Numbers the requests from `first` on, and requests an acknowledgement of the last one.
    pub(super) fn seal(&mut self, first: u32) {
        for (&start, sequence) in self.starts.iter().zip(first..) {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        if let Some(&last) = self.starts.last() {
            let flags = u16_at(&self.bytes, last + 6).unwrap_or_default() | ACK;
            self.bytes[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
        }
    }
}

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;

/// Appends an attribute, padded.
pub(super) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("no attribute of ours is longer than 64 KiB");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(align(bytes.len()), 0);
}

/// Appends an attribute that holds attributes.
pub(super) fn put_nested(body: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    inner(&mut value);
    put(body, kind, &value);
}

/// Appends the name of a device as an attribute.
pub(super) fn put_name(bytes: &mut Vec<u8>, kind: u16, name: &InterfaceName) {
    put(bytes, kind, &[name.as_bytes(), b"\0"].concat());
}

/// Appends an address as an attribute.
pub(super) fn put_address(bytes: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put(bytes, kind, &address.octets()),
        IpAddr::V6(address) => put(bytes, kind, &address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_back_as_it_was_written() {
        let mut batch = Batch::default();
        batch.push(24, 0x400, |bytes| {
            bytes.extend([1, 2, 3, 4]);
            put(bytes, 7, b"abcde");
            put_address(bytes, 8, "fe80::1".parse().unwrap());
        });
        batch.push(25, 0, |bytes| bytes.extend([9; 4]));
        batch.seal(41);
        let read: Vec<Message<'_>> = messages(&batch.bytes).collect();
        assert_eq!(
            read.iter().map(|m| (m.kind, m.flags, m.sequence)).collect::<Vec<_>>(),
            [(24, 0x401, 41), (25, 0x5, 42)]
        );
        let read: Vec<(u16, &[u8])> = attributes(read[0].payload, 4).collect();
        assert_eq!(read[0], (7, &b"abcde"[..]));
        assert_eq!(address(read[1].1), Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn truncated_data_ends_parsing() {
        let mut batch = Batch::default();
        batch.push(24, 0, |bytes| bytes.extend([0; 8]));
        batch.push(24, 0, |bytes| bytes.extend([0; 8]));
        assert_eq!(messages(&batch.bytes[..batch.bytes.len() - 1]).count(), 1);
        assert_eq!(messages(&[]).count() + messages(&[1, 2, 3]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0, "a length of zero does not loop");
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::{fuzz::fuzz, kernel::tc::Qdisc};

    fn walk(bytes: &[u8], skip: usize, depth: usize) {
        for (_, value) in attributes(bytes, skip) {
            let _ = (text(value), address(value), u64_at(value, 0), i32_at(value, 4));
            if depth > 0 {
                walk(value, 0, depth - 1);
            }
        }
    }

    #[test]
    fn netlink() {
        fuzz("netlink", |input| {
            for message in messages(input) {
                for skip in [0, 4, 12, 16, 20] {
                    walk(message.payload, skip, 4);
                }
                let _ = Qdisc::read(message.payload);
            }
        });
    }
}
