//! Notices when somebody changes what concerns us. Events only say "look again".

use super::{
    observe::looks_like_a_host,
    socket::{FIRST_PORT, PORTS},
    uapi::{neighbour, route, rtm},
    wire::{Message, address, attributes, messages, u8_at, u32_at},
};
use crate::ownership::{self, PROTOCOL};
use cps_peering_config::naming;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, recv, setsockopt, sockopt},
};
use socket2::{SockFilter, SockRef};
use std::{io, net::IpAddr, os::fd::AsRawFd, thread};

/// Multicast groups (`RTNLGRP_*`): links, neighbours, qdiscs and filters, IPv4 and IPv6 addresses, routes and rules,
/// settings of devices (those that the kernel announces), next hops.
const GROUPS: [u32; 12] = [1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];

/// What was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something that concerns us changed.
    Changed,
    /// There were more events than the kernel could keep for us; anything may have changed.
    Lost,
}

/// Starts a thread that calls `notice` for every event, in this process' network namespace, until `notice` says that
/// nobody listens any more or the socket fails. The kernel keeps `buffer` bytes of events that were not taken yet.
pub fn watch(buffer: usize, notice: impl Fn(Event) -> bool + Send + 'static) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)?;
    // Before the first event can come.
    SockRef::from(&socket).attach_filter(&others_only())?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    let listen = move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let event = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if messages(&buffer[..length]).any(|message| concerns_us(&message)) => Event::Changed,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => Event::Lost,
                Err(errno) => {
                    tracing::error!(%errno, "kernel events stopped; only the periodic comparison is left");
                    return;
                }
            };
            if !notice(event) {
                return;
            }
        }
    };
    thread::Builder::new().name("kernel-events".into()).spawn(listen)?;
    Ok(())
}

/// A program by which the kernel keeps to itself what it announces about our own requests (`sock_filter`, classic BPF).
/// What they led to is read anyway, and a million routes must not be told of one by one.
fn others_only() -> [SockFilter; 5] {
    const PORT_ID_AT: u32 = 12;
    // The program reads numbers as big-endian.
    let as_read = |number: u32| u32::from_be_bytes(number.to_ne_bytes());
    let op = |code: u32| u16::try_from(code).expect("operation codes are short");
    let (load, mask) =
        (op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K));
    let (jump, end) = (op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), op(libc::BPF_RET | libc::BPF_K));
    [
        SockFilter::new(load, 0, 0, PORT_ID_AT),
        SockFilter::new(mask, 0, 0, as_read(!(PORTS - 1))),
        SockFilter::new(jump, 0, 1, as_read(FIRST_PORT)),
        SockFilter::new(end, 0, 0, 0),
        SockFilter::new(end, 0, 0, u32::MAX),
    ]
}

/// Tenants' neighbours and other people's routes come and go all the time; they are none of our business, unless the routes
/// are in a table of ours: the message about a route that took the place of one of ours tells only of the new one.
fn concerns_us(message: &Message<'_>) -> bool {
    match message.kind {
        rtm::NEW_ROUTE | rtm::DEL_ROUTE => {
            u8_at(message.payload, 5) == Some(PROTOCOL) || is_in_our_table(message.payload)
        }
        rtm::NEW_NEIGHBOUR | rtm::DEL_NEIGHBOUR => is_host_neighbour(message.payload).unwrap_or_default(),
        _ => true,
    }
}

/// Our tables have numbers that do not fit into the header, so they are in an attribute.
fn is_in_our_table(payload: &[u8]) -> bool {
    attributes(payload, route::HEADER_LEN)
        .find(|(kind, _)| *kind == route::RTA_TABLE)
        .and_then(|(_, value)| u32_at(value, 0))
        .is_some_and(|table| ownership::table_vni(table).is_some())
}

fn is_host_neighbour(payload: &[u8]) -> Option<bool> {
    let find =
        |wanted| attributes(payload, neighbour::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if u8_at(payload, 0)? == neighbour::AF_BRIDGE {
        let [a, b, ..] = *find(neighbour::NDA_LLADDR)? else { return None };
        // A group, or the address that stands for all others: no bridge learns those, and on a device of ours they would lead
        // packets astray.
        let of_many = a & 1 == 1 || find(neighbour::NDA_LLADDR)?.iter().all(|byte| *byte == 0);
        return Some(of_many || naming::HOST_PREFIXES.contains(&u16::from_be_bytes([a, b])));
    }
    match find(neighbour::NDA_DST).and_then(address)? {
        IpAddr::V6(address) => Some(looks_like_a_host(address)),
        IpAddr::V4(_) => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{
            message::{emit, rule_message},
            uapi::flag,
            wire::{Batch, put, put_address},
        },
        objects::{Family, Lookup, Rule},
    };
    use nix::sched::{CloneFlags, unshare};
    use std::{sync::mpsc::channel, time::Duration};

    fn concerns(kind: u16, body: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut batch = Batch::default();
        batch.push(kind, 0, body);
        messages(&batch.bytes).all(|message| concerns_us(&message))
    }

    fn route(protocol: u8) -> impl FnOnce(&mut Vec<u8>) {
        move |body| body.extend([2, 24, 0, 0, 0, protocol, 0, 1, 0, 0, 0, 0])
    }

    fn route_in(table: u32) -> impl FnOnce(&mut Vec<u8>) {
        move |body| {
            route(2)(body);
            put(body, super::route::RTA_TABLE, &table.to_ne_bytes());
        }
    }

    fn neighbour(to: &str) -> impl FnOnce(&mut Vec<u8>) {
        let to: IpAddr = to.parse().unwrap();
        move |body| {
            body.extend([10, 0, 0, 0, 1, 0, 0, 0, 0x80, 0, 0, 0]);
            put_address(body, neighbour::NDA_DST, to);
        }
    }

    fn bridged(mac: [u8; 6]) -> impl FnOnce(&mut Vec<u8>) {
        move |body| {
            body.extend([neighbour::AF_BRIDGE, 0, 0, 0, 1, 0, 0, 0, 0x80, 0, 2, 0]);
            put(body, neighbour::NDA_LLADDR, &mac);
        }
    }

    #[test]
    fn other_peoples_routes_and_neighbours_do_not_wake_us() {
        assert!(concerns(rtm::DEL_ROUTE, route(PROTOCOL)));
        assert!(!concerns(rtm::DEL_ROUTE, route(2)));
        assert!(concerns(rtm::NEW_ROUTE, route_in(ownership::table(10.try_into().unwrap()))));
        assert!(!concerns(rtm::NEW_ROUTE, route_in(4242)));
        let host = naming::gateway("192.0.2.9".parse().unwrap()).to_string();
        assert!(concerns(rtm::DEL_NEIGHBOUR, neighbour(&host)));
        assert!(!concerns(rtm::NEW_NEIGHBOUR, neighbour("fe80::5054:ff:fe12:3456")));
        assert!(!concerns(rtm::NEW_NEIGHBOUR, neighbour("10.1.0.9")));
        assert!(!concerns(rtm::NEW_NEIGHBOUR, bridged([0x52, 0x54, 0, 0x12, 0x34, 0x56])), "a bridge has learnt it");
        assert!(concerns(rtm::NEW_NEIGHBOUR, bridged([0x02, 0, 0xc0, 0, 2, 9])));
        assert!(concerns(rtm::NEW_NEIGHBOUR, bridged([0; 6])), "where everything else goes");
        assert!(concerns(rtm::NEW_NEIGHBOUR, bridged([1, 0, 0x5e, 0, 0, 7])));
        assert!(concerns(rtm::NEW_LINK, |_| {}));
    }

    /// A request for a rule that changes nothing.
    fn rule(priority: u32) -> Batch {
        let rule = Rule { family: Family::V4, priority, lookup: Lookup::Local, protocol: PROTOCOL };
        let mut batch = Batch::default();
        batch.push(rtm::NEW_RULE, flag::CREATE | flag::EXCLUSIVE, |body| emit(body, &rule_message(rule)));
        batch
    }

    #[test]
    fn our_own_changes_do_not_wake_us() {
        let events = thread::spawn(|| {
            // A network namespace of its own takes root.
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            let (tell, told) = channel();
            watch(1 << 20, move |event| tell.send(event).is_ok()).unwrap();
            let mut ours = super::super::socket::Socket::open().unwrap();
            assert_eq!(ours.execute(&mut rule(1)).unwrap(), []);
            let mut others = Socket::new(NETLINK_ROUTE).unwrap();
            others.bind_auto().unwrap();
            let mut request = rule(2);
            request.seal(1);
            others.send(&request.bytes, 0).unwrap();
            let first = told.recv_timeout(Duration::from_secs(20));
            // Had ours been announced, that would have been first and the other's would follow.
            Some((first, told.recv_timeout(Duration::from_millis(100))))
        });
        if let Some((first, second)) = events.join().unwrap() {
            assert_eq!(first, Ok(Event::Changed), "another's change");
            assert!(second.is_err(), "our own change was announced");
        }
    }
}
