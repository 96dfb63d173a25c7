//! The minimal netlink requests, in the form that the kernel processes fastest: many requests in one datagram, of which
//! only the last is acknowledged; routes through a next hop object; lists that the kernel filters.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::net::{IpAddr, Ipv6Addr};

const NEW_LINK_SET: u16 = 19;
const DEL_LINK: u16 = 17;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEXTHOP: u16 = 104;
const DEL_NEXTHOP: u16 = 105;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

const HEADER_LEN: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Requests in one datagram.
const BATCH: usize = 256;

/// The route protocol of what the bench itself adds; the same as the agent's, so that lists are filtered alike.
pub(crate) const PROTOCOL: u8 = cps_peering_agent::ownership::PROTOCOL;

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Raw {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    request: Vec<u8>,
    queued: usize,
    last: usize,
}

impl Raw {
    pub(crate) fn open() -> Result<Raw> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_netlink_get_strict_chk(true)?;
        socket.set_cap_ack(true)?;
        Ok(Raw {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(64 * 1024),
            request: Vec::with_capacity(64 * 1024),
            queued: 0,
            last: 0,
        })
    }

    fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let start = self.request.len();
        self.sequence += 1;
        self.request.extend([0; 4]);
        self.request.extend(kind.to_ne_bytes());
        self.request.extend((flags | REQUEST).to_ne_bytes());
        self.request.extend(self.sequence.to_ne_bytes());
        self.request.extend([0; 4]);
        body(&mut self.request);
        let length = u32::try_from(self.request.len() - start)?;
        self.request[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.last = start;
        self.queued += 1;
        if self.queued == BATCH { self.flush() } else { Ok(()) }
    }

    /// Sends what is queued and waits until the kernel has done it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.queued == 0 {
            return Ok(());
        }
        let flags = u16::from_ne_bytes(self.request[self.last + 6..self.last + 8].try_into()?) | ACK;
        self.request[self.last + 6..self.last + 8].copy_from_slice(&flags.to_ne_bytes());
        self.socket.send(&self.request, 0)?;
        self.request.clear();
        self.queued = 0;
        loop {
            self.receive()?;
            let mut done = false;
            for (kind, sequence, payload) in messages(&self.buffer) {
                if kind == ERROR {
                    let code = i32::from_ne_bytes(payload.get(..4).context("a short answer")?.try_into()?);
                    if code != 0 {
                        bail!("the kernel refused a request: {}", std::io::Error::from_raw_os_error(-code));
                    }
                    done |= sequence == self.sequence;
                }
            }
            if done {
                return Ok(());
            }
        }
    }

    fn receive(&mut self) -> Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        Ok(())
    }

    pub(crate) fn add_nexthop(&mut self, id: u32, device: u32, gateway: Ipv6Addr) -> Result<()> {
        self.push(NEW_NEXTHOP, CREATE | EXCLUSIVE, |body| {
            // nh_family, nh_scope, nh_protocol, resvd, nh_flags: RTNH_F_ONLINK
            body.extend([10, 0, PROTOCOL, 0]);
            body.extend(4u32.to_ne_bytes());
            put(body, 1, &id.to_ne_bytes());
            put(body, 5, &device.to_ne_bytes());
            put(body, 6, &gateway.octets());
        })
    }

    pub(crate) fn remove_nexthop(&mut self, id: u32) -> Result<()> {
        self.push(DEL_NEXTHOP, 0, |body| {
            body.extend([0; 8]);
            put(body, 1, &id.to_ne_bytes());
        })
    }

    pub(crate) fn add_route(&mut self, table: u32, prefix: &IpNet, nexthop: u32) -> Result<()> {
        self.push(NEW_ROUTE, CREATE | EXCLUSIVE, |body| {
            let family = if prefix.addr().is_ipv4() { 2 } else { 10 };
            // rtm_family, dst_len, src_len, tos, table, protocol, scope: universe, type: unicast, flags
            body.extend([family, prefix.prefix_len(), 0, 0, 0, PROTOCOL, 0, 1, 0, 0, 0, 0]);
            match prefix.network() {
                IpAddr::V4(to) => put(body, 1, &to.octets()),
                IpAddr::V6(to) => put(body, 1, &to.octets()),
            }
            put(body, 15, &table.to_ne_bytes());
            put(body, 30, &nexthop.to_ne_bytes());
        })
    }

    /// Puts a device into a link group.
    pub(crate) fn set_group(&mut self, device: u32, group: u32) -> Result<()> {
        self.push(NEW_LINK_SET, 0, |body| {
            body.extend([0; 4]);
            body.extend(device.to_ne_bytes());
            body.extend([0; 8]);
            put(body, 27, &group.to_ne_bytes());
        })
    }

    /// Removes all devices of a link group in one call.
    pub(crate) fn remove_group(&mut self, group: u32) -> Result<()> {
        self.push(DEL_LINK, 0, |body| {
            body.extend([0; 16]);
            put(body, 27, &group.to_ne_bytes());
        })?;
        self.flush()
    }

    /// Counts the routes with [`PROTOCOL`] in all tables, without parsing them.
    pub(crate) fn count_routes(&mut self) -> Result<usize> {
        let mut count = 0;
        for family in [2, 10] {
            self.push(GET_ROUTE, DUMP, |body| body.extend([family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0, 0, 0, 0]))?;
            self.socket.send(&self.request, 0)?;
            self.request.clear();
            self.queued = 0;
            let mut done = false;
            while !done {
                self.receive()?;
                for (kind, _, _) in messages(&self.buffer) {
                    match kind {
                        NEW_ROUTE => count += 1,
                        DONE => done = true,
                        _ => bail!("the kernel does not list routes"),
                    }
                }
            }
        }
        Ok(count)
    }

    /// Whether packets to this address find a unicast route.
    pub(crate) fn reaches(&mut self, to: IpAddr) -> Result<bool> {
        let (family, bits) = if to.is_ipv4() { (2, 32) } else { (10, 128) };
        self.push(GET_ROUTE, 0, |body| {
            body.extend([family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            match to {
                IpAddr::V4(to) => put(body, 1, &to.octets()),
                IpAddr::V6(to) => put(body, 1, &to.octets()),
            }
        })?;
        self.socket.send(&self.request, 0)?;
        self.request.clear();
        self.queued = 0;
        self.receive()?;
        let unicast = |payload: &[u8]| payload.get(7) == Some(&1);
        Ok(messages(&self.buffer).any(|(kind, _, payload)| kind == NEW_ROUTE && unicast(payload)))
    }
}

fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("short attributes");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Kind, sequence number and payload of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_LEN)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let payload = bytes.get(HEADER_LEN..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, payload))
    })
}
