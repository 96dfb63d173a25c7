//! Sends ICMP echo requests in a VRF, and receives the replies.

use super::sockopt;
use cps_peering_config::net::InterfaceName;
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

/// The types of ICMP echo replies, of IPv4 and IPv6.
pub(crate) const ECHO_REPLY: [u8; 2] = [0, 129];

/// A connection to the other end.
pub(crate) trait Echo {
    /// Sends a request.
    fn send(&mut self, request: &[u8]) -> io::Result<()>;
    /// Receives a packet; none if nothing arrived in time.
    fn receive(&mut self, until: Instant) -> io::Result<Option<&[u8]>>;
}

/// A raw socket bound to a VRF and to the addresses of both ends. Requires `CAP_NET_RAW`.
pub struct EchoSocket {
    socket: Socket,
    buffer: Vec<u8>,
}

/// Room for unread replies, in bytes: those of one probe.
const RECEIVE_BUFFER: usize = 256 * 1024;

impl EchoSocket {
    /// Opens one. From then on the kernel receives replies from `remote` with this identifier, and nothing else.
    pub fn open(vrf: InterfaceName, local: IpAddr, remote: IpAddr, identifier: u16) -> io::Result<Self> {
        let v6 = remote.is_ipv6();
        let (domain, protocol) = if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        // What tenants send costs the agent no time, unless they guess the identifier.
        socket.attach_filter(&replies_only(v6, identifier))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.bind_device(Some(vrf.as_bytes()))?;
        // Every packet is sent unfragmented, whatever path MTU was learned: it may come from a forged "too big".
        let raw = socket.as_raw_fd();
        if v6 {
            sockopt::set(raw, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            sockopt::set(raw, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        } else {
            sockopt::set(raw, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
        socket.bind(&SocketAddr::new(local, 0).into())?;
        socket.connect(&SocketAddr::new(remote, 0).into())?;
        Ok(Self { socket, buffer: vec![0; usize::from(u16::MAX)] })
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Echo for EchoSocket {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        match self.socket.send(request) {
            // That error was about an earlier request.
            Err(error) if is_said_of_a_request(&error) => self.socket.send(request).map(drop),
            sent => sent.map(drop),
        }
    }

    fn receive(&mut self, until: Instant) -> io::Result<Option<&[u8]>> {
        loop {
            match (&self.socket).read(&mut self.buffer) {
                Ok(length) => return Ok(Some(&self.buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An ICMP error about a request: it is lost, and no more.
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_said_of_a_request(&error) => {}
                Err(error) => return Err(error),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            wait(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], left)?;
        }
    }
}

/// Waits until something can be read, or until the timeout.
pub(crate) fn wait(sockets: &mut [PollFd<'_>], patience: Duration) -> io::Result<()> {
    // Rounded up, so that the timeout has passed afterwards.
    let ms = i32::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    match poll(sockets, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// ICMP errors that the kernel reports to a connected socket (`icmp_err_convert`, `icmpv6_err_convert`). Any server
/// within the peer's prefixes can send one.
fn is_said_of_a_request(error: &io::Error) -> bool {
    const SAID: [i32; 10] = [
        libc::ENOPROTOOPT,
        libc::ENONET,
        libc::EOPNOTSUPP,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ECONNREFUSED,
        libc::EMSGSIZE,
        libc::EPROTO,
        libc::EACCES,
        libc::EHOSTDOWN,
    ];
    error.raw_os_error().is_some_and(|number| SAID.contains(&number))
}

/// A program by which the kernel drops all but echo replies with an identifier (`sock_filter`, classic BPF).
fn replies_only(v6: bool, identifier: u16) -> Vec<SockFilter> {
    let op = |code: u32| u16::try_from(code).expect("operation codes are short");
    let indexed = |size: u32| op(libc::BPF_LD | size | libc::BPF_IND);
    let (equal, end) = (op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), op(libc::BPF_RET | libc::BPF_K));
    // Where the ICMP header begins: a raw socket receives the IPv4 header, and not that of IPv6.
    let start = if v6 {
        SockFilter::new(op(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM), 0, 0, 0)
    } else {
        SockFilter::new(op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH), 0, 0, 0)
    };
    vec![
        start,
        SockFilter::new(indexed(libc::BPF_B), 0, 0, 0),
        SockFilter::new(equal, 0, 3, u32::from(ECHO_REPLY[usize::from(v6)])),
        SockFilter::new(indexed(libc::BPF_H), 0, 0, 4),
        SockFilter::new(equal, 0, 1, u32::from(identifier)),
        SockFilter::new(end, 0, 0, u32::MAX),
        SockFilter::new(end, 0, 0, 0),
    ]
}
