//! A netlink socket for commands: blocking, one conversation at a time, with the kernel's extended errors.

use super::{
    KernelError, NetlinkError,
    uapi::flag,
    wire::{Batch, Message, attributes, i32_at, messages, text},
};
use netlink_sys::{
    Socket as RawSocket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
};
use nix::{
    libc,
    sys::{
        socket::{MsgFlags, recv, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};
use std::{io, os::fd::AsRawFd};

/// How long the kernel may take, in seconds. It answers within the call; only a lost answer takes longer.
const TIMEOUT_S: i64 = 30;
/// How often a list that changed while it was read is read again.
const DUMP_ATTEMPTS: usize = 8;
/// The kernel's largest dump datagram is 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;
/// Room for the errors of a whole batch, in bytes.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// `NLM_F_MULTI | NLM_F_DUMP` and the like, see `include/uapi/linux/netlink.h`.
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR_HAS_ATTRIBUTES: u16 = 0x200;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Within an error message: the code, then the header of the request.
const ERROR_FIXED_LEN: usize = 4 + 16;
const ERROR_EXPLANATION: u16 = 1;

pub(super) struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

fn failed<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> KernelError {
    move |source| KernelError::Socket { what, source: source.into() }
}

/// The first port id of our command sockets. The kernel puts the port id of the requester into its announcement, so
/// that we can tell our own changes from others'.
pub(super) const FIRST_PORT: u32 = 0x4350_0000;
/// How many there can be.
pub(super) const PORTS: u32 = 1 << 16;

/// Binds to the first of our port ids that is free.
fn bind(socket: &mut RawSocket) -> io::Result<()> {
    let mut taken = None;
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        match socket.bind(&SocketAddr::new(port, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = Some(error),
            other => return other,
        }
    }
    Err(taken.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

impl Socket {
    pub(super) fn open() -> Result<Self, KernelError> {
        let mut socket = RawSocket::new(NETLINK_ROUTE).map_err(failed("open a socket"))?;
        bind(&mut socket).map_err(failed("bind a socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect to the kernel"))?;
        socket.set_ext_ack(true).map_err(failed("ask for explanations"))?;
        socket.set_cap_ack(true).map_err(failed("ask for short answers"))?;
        socket.set_netlink_get_strict_chk(true).map_err(failed("ask for filtered lists"))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_S))
            .map_err(failed("set a time limit"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).map_err(failed("enlarge the receive buffer"))?;
        Ok(Self { raw: socket, sequence: 0, buffer: vec![0; RECEIVE_LEN] })
    }

    /// A socket for reading packet filters.
    pub(super) fn netfilter() -> Result<Self, KernelError> {
        Self::reading(NETLINK_NETFILTER)
    }

    /// A socket for reading policies of `IPsec`.
    /// A socket for generic netlink.
    pub(super) fn generic() -> Result<Self, KernelError> {
        Self::reading(NETLINK_GENERIC)
    }

    pub(super) fn xfrm() -> Result<Self, KernelError> {
        Self::reading(NETLINK_XFRM)
    }

    fn reading(protocol: isize) -> Result<Self, KernelError> {
        let mut socket = RawSocket::new(protocol).map_err(failed("open a socket"))?;
        socket.bind_auto().map_err(failed("bind a socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect to the kernel"))?;
        socket.set_cap_ack(true).map_err(failed("ask for short answers"))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_S))
            .map_err(failed("set a time limit"))?;
        Ok(Self { raw: socket, sequence: 0, buffer: vec![0; RECEIVE_LEN] })
    }

    /// Reads one datagram into the buffer and returns its length.
    fn receive(&mut self) -> Result<usize, KernelError> {
        recv(self.raw.as_raw_fd(), &mut self.buffer, MsgFlags::empty()).map_err(failed("receive"))
    }

    /// Lists objects: `body` appends what follows the header of the request, `each` sees every object's payload. If the
    /// list changed meanwhile, what `each` collected is discarded, and collecting restarts with `start`.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        body: impl Fn(&mut Vec<u8>),
        start: impl Fn() -> T,
        each: impl FnMut(&mut T, &[u8]),
    ) -> Result<T, KernelError> {
        self.dump_unless(&|| false, what, kind, body, start, each)
    }

    /// The same, abandoned once `stop` has become true; the socket is unusable then.
    pub(super) fn dump_unless<T>(
        &mut self,
        stop: &dyn Fn() -> bool,
        what: &'static str,
        kind: u16,
        body: impl Fn(&mut Vec<u8>),
        start: impl Fn() -> T,
        mut each: impl FnMut(&mut T, &[u8]),
    ) -> Result<T, KernelError> {
        whole(what, start, |gathered| self.dump_once(stop, what, kind, &body, &mut |payload| each(gathered, payload)))
    }

    /// Whether the list stayed the same while it was read.
    fn dump_once(
        &mut self,
        stop: &dyn Fn() -> bool,
        what: &'static str,
        kind: u16,
        body: &impl Fn(&mut Vec<u8>),
        each: &mut impl FnMut(&[u8]),
    ) -> Result<bool, KernelError> {
        let mut request = Batch::default();
        request.push(kind, DUMP, body);
        let sequence = self.send(&mut request)?;
        let mut reading = Reading { what, sequence, whole: true };
        loop {
            if stop() {
                return Err(KernelError::Abandoned);
            }
            let length = self.receive()?;
            if let Some(whole) = reading.datagram(&self.buffer[..length], each)? {
                return Ok(whole);
            }
        }
    }

    /// Requests a list and returns the payload of its first object. The others are left unread, so the socket is
    /// unusable then.
    pub(super) fn first(
        mut self,
        what: &'static str,
        kind: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<u8>, KernelError> {
        let mut request = Batch::default();
        request.push(kind, DUMP, body);
        let sequence = self.send(&mut request)?;
        let length = self.receive()?;
        let first = messages(&self.buffer[..length]).find(|message| message.sequence == sequence);
        match first {
            Some(message) if !matches!(message.kind, DONE | ERROR) => Ok(message.payload.to_vec()),
            other => match other.and_then(|message| refusal(&message)) {
                Some(refusal) => Err(KernelError::Refused { what, refusal }),
                None => Err(KernelError::Interrupted { what }),
            },
        }
    }

    /// Carries out all requests of a batch and returns the positions of those that were refused.
    pub(super) fn execute(&mut self, batch: &mut Batch) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let mut refused = Vec::new();
        if batch.len() == 0 {
            return Ok(refused);
        }
        let first = self.send(batch)?;
        let last = batch.len() - 1;
        loop {
            let length = self.receive()?;
            for message in messages(&self.buffer[..length]).filter(|message| message.kind == ERROR) {
                let place = message.sequence.wrapping_sub(first) as usize;
                if place > last {
                    continue;
                }
                refused.extend(refusal(&message).map(|refusal| (place, refusal)));
                if place == last {
                    return Ok(refused);
                }
            }
        }
    }

    /// Requests one object and returns its payload.
    pub(super) fn get(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Result<Vec<u8>, NetlinkError>, KernelError> {
        let mut request = Batch::default();
        // Qdiscs are announced to the multicast group instead of the requester, unless it asks for an echo.
        request.push(kind, flag::ECHO, body);
        let sequence = self.send(&mut request)?;
        let mut found = Vec::new();
        loop {
            let length = self.receive()?;
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == sequence) {
                if message.kind == ERROR {
                    return Ok(refusal(&message).map_or(Ok(found), Err));
                }
                found = message.payload.to_vec();
            }
        }
    }

    /// Sends a batch and returns the sequence number of its first request.
    fn send(&mut self, batch: &mut Batch) -> Result<u32, KernelError> {
        let first = self.sequence.wrapping_add(1);
        let count = u32::try_from(batch.len()).expect("batches are small");
        self.sequence = self.sequence.wrapping_add(count);
        batch.seal(first);
        self.raw.send(&batch.bytes, libc::MSG_NOSIGNAL).map_err(failed("send"))?;
        Ok(first)
    }
}

/// Reads a list until it stays the same while it is read. What an earlier attempt collected is discarded: a partial
/// list looks like one from which objects have been deleted.
fn whole<T>(
    what: &'static str,
    start: impl Fn() -> T,
    mut read: impl FnMut(&mut T) -> Result<bool, KernelError>,
) -> Result<T, KernelError> {
    for _ in 0..DUMP_ATTEMPTS {
        let mut gathered = start();
        if read(&mut gathered)? {
            return Ok(gathered);
        }
    }
    Err(KernelError::Interrupted { what })
}

/// A list that is being read.
struct Reading {
    what: &'static str,
    sequence: u32,
    /// Whether it has stayed the same so far.
    whole: bool,
}

impl Reading {
    /// Takes one datagram. After the last one it returns whether the list stayed the same while it was read.
    fn datagram(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8])) -> Result<Option<bool>, KernelError> {
        for message in messages(bytes).filter(|message| message.sequence == self.sequence) {
            self.whole &= message.flags & DUMP_INTERRUPTED == 0;
            match message.kind {
                DONE | ERROR => {
                    return match refusal(&message) {
                        Some(refusal) => Err(KernelError::Refused { what: self.what, refusal }),
                        None => Ok(Some(self.whole)),
                    };
                }
                _ => each(message.payload),
            }
        }
        Ok(None)
    }
}

/// The error of an error or done message, if any.
fn refusal(message: &Message<'_>) -> Option<NetlinkError> {
    let errno = -i32_at(message.payload, 0).unwrap_or_default();
    if errno <= 0 {
        return None;
    }
    let skip = if message.kind == ERROR { ERROR_FIXED_LEN } else { 4 };
    let explanation = (message.flags & ERROR_HAS_ATTRIBUTES != 0)
        .then(|| attributes(message.payload, skip).find(|(kind, _)| *kind == ERROR_EXPLANATION))
        .flatten()
        .and_then(|(_, value)| text(value))
        .map(ToOwned::to_owned);
    Some(NetlinkError { errno, explanation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::put;

    /// Datagrams of one answer, each message with its flags, and the end.
    fn datagrams(messages: &[(u16, u8)], end: u16) -> Vec<Vec<u8>> {
        let message = |kind: u16, flags: u16, payload: &[u8]| {
            let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
            bytes.extend([7u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
            bytes.extend(payload);
            bytes
        };
        let objects = messages.iter().map(|(flags, object)| message(24, *flags, &[*object; 4]));
        objects.chain([message(DONE, end, &[0; 4])]).collect()
    }

    /// Reads a list from a kernel with these answers.
    fn read(answers: &[Vec<Vec<u8>>]) -> Result<Vec<u8>, KernelError> {
        let mut answers = answers.iter().cycle();
        whole("routes", Vec::new, |gathered| {
            let mut reading = Reading { what: "routes", sequence: 7, whole: true };
            for datagram in answers.next().unwrap() {
                if let Some(whole) = reading.datagram(datagram, &mut |payload| gathered.push(payload[0]))? {
                    return Ok(whole);
                }
            }
            unreachable!("an answer has an end")
        })
    }

    #[test]
    fn an_interrupted_dump_is_read_again_and_a_part_of_one_is_never_used() {
        let good = datagrams(&[(0, 1), (0, 2), (0, 3)], 0);
        for interrupted in [
            datagrams(&[(0, 1), (DUMP_INTERRUPTED, 3)], 0),
            datagrams(&[(DUMP_INTERRUPTED, 1)], 0),
            datagrams(&[], DUMP_INTERRUPTED),
        ] {
            let found = read(&[interrupted.clone(), interrupted.clone(), good.clone()]).unwrap();
            assert_eq!(found, [1, 2, 3]);
            assert!(matches!(read(&[interrupted]), Err(KernelError::Interrupted { what: "routes" })));
        }
        assert_eq!(read(&[good]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn the_kernels_explanation_is_kept() {
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        put(&mut payload, ERROR_EXPLANATION, b"Nexthop has invalid gateway\0");
        let message = Message { kind: ERROR, flags: ERROR_HAS_ATTRIBUTES, sequence: 1, payload: &payload };
        let said = refusal(&message).unwrap();
        assert_eq!(said.to_string(), "Nexthop has invalid gateway (Invalid argument (os error 22))");
        assert_eq!(refusal(&Message { payload: &[0; 20], ..message }), None);
    }
}
