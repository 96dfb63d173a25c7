//! Notices when others change objects that concern us. An event only means "read it again".

use super::{
    interest::{Device, Interest, Known},
    links::read_link,
    neighbours,
    observe::looks_like_a_host,
    socket::{FIRST_PORT, PORTS},
    uapi::{addr, neighbour, netconf, nexthop, route, rtm, tc},
    wire::{Message, address, attributes, i32_at, messages, text, u8_at, u32_at},
};
use crate::{
    objects::Family,
    ownership::{self, PROTOCOL},
};
use cps_peering_config::naming;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{MsgFlags, recv, setsockopt, sockopt},
        time::TimeVal,
    },
};
use socket2::{SockFilter, SockRef};
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Multicast groups (`RTNLGRP_*`): links, qdiscs and filters, IPv4 and IPv6 addresses, routes and rules, device
/// settings (those that the kernel announces), next hops.
const GROUPS: [u32; 11] = [1, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];

/// Neighbours and forwarding entries. Tenants can create any number of these, so they have a socket of their own: an
/// overflow there loses no other events.
const NEIGHBOURS: [u32; 1] = [3];

/// An event that was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something that concerns us changed.
    Changed,
    /// Something that a tenant can cause has changed. The number of these is limited, whatever a tenant does.
    Port,
    /// The kernel dropped events because its buffer was full; anything may have changed.
    Lost,
}

/// Starts threads that call `notice` for every event in this process's network namespace, until `notice` returns that
/// no receiver is left or the socket fails. The kernel buffers up to `buffer` bytes of unread events.
pub fn watch(
    buffer: usize,
    interest: &Interest,
    notice: impl Fn(Event) -> bool + Send + Sync + 'static,
) -> io::Result<()> {
    let notice: Arc<dyn Fn(Event) -> bool + Send + Sync> = Arc::new(notice);
    let budget = Arc::new(Mutex::new(Budget::new(Instant::now())));
    for (name, groups) in [("kernel-events", GROUPS.as_slice()), ("neighbour-events", &NEIGHBOURS)] {
        let listener = Listener {
            socket: open(buffer, groups)?,
            neighbours: groups == NEIGHBOURS,
            interest: interest.clone(),
            budget: Arc::clone(&budget),
            notice: Arc::clone(&notice),
        };
        thread::Builder::new().name(name.into()).spawn(move || listener.run())?;
    }
    Ok(())
}

fn open(buffer: usize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)?;
    // Before the first event can arrive.
    SockRef::from(&socket).attach_filter(&others_only())?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

/// A socket that receives events.
struct Listener {
    socket: Socket,
    /// Whether it receives events of neighbours.
    neighbours: bool,
    interest: Interest,
    budget: Arc<Mutex<Budget>>,
    notice: Arc<dyn Fn(Event) -> bool + Send + Sync>,
}

impl Listener {
    fn run(self) {
        let mut buffer = vec![0; 64 * 1024];
        // When the changes beyond the budget are observed, all together.
        let mut late: Option<Instant> = None;
        loop {
            if self.wait_until(late).is_err() {
                tracing::warn!("what tenants do often may be noticed only by the periodic comparison");
            }
            let concern = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let known = self.interest.known();
                    let concerns = messages(&buffer[..length]).filter_map(|message| concerns_us(&message, &known));
                    concerns.max()
                }
                Err(Errno::EINTR | Errno::EAGAIN) => None,
                Err(Errno::ENOBUFS) if self.neighbours => Some(Concern::Port(u32::MAX)),
                Err(Errno::ENOBUFS) => Some(Concern::Lost),
                Err(errno) => {
                    tracing::error!(%errno, "kernel events stopped; only the periodic comparison is left");
                    return;
                }
            };
            let now = Instant::now();
            let event = match concern {
                Some(Concern::Port(index)) => {
                    let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
                    let affordable = budget.take(index, now);
                    if !affordable {
                        late.get_or_insert(now + LATE);
                    }
                    affordable.then_some(Event::Port)
                }
                Some(Concern::Ours) => Some(Event::Changed),
                Some(Concern::Lost) => Some(Event::Lost),
                None => None,
            };
            let event = event.or_else(|| late.is_some_and(|late| late <= now).then_some(Event::Port));
            if let Some(event) = event {
                // One observation covers all of them.
                late = None;
                if !(self.notice)(event) {
                    return;
                }
            }
        }
    }

    /// Limits the wait of the next receive.
    fn wait_until(&self, until: Option<Instant>) -> Result<(), Errno> {
        let left = until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
        });
        // 0 means no timeout.
        let left = TimeVal::new(left.as_secs().cast_signed(), left.subsec_micros().into());
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &left)
    }
}

/// How soon changes beyond the budget are observed.
const LATE: Duration = Duration::from_secs(5);
/// This many events of one port in a burst cause an observation each, plus one more every [`LATE`].
const OF_ONE_PORT: f64 = 6.0;
/// The same for all ports together, plus one more every second.
const OF_ALL_PORTS: f64 = 30.0;
/// In place of a port's index: traffic control changes that name no device. Any program of the host may cause many of them.
const NO_DEVICE: u32 = 0;
/// The most ports that are counted separately.
const MOST_PORTS: usize = 4096;

/// How many observations tenants can still cause.
#[derive(Debug)]
struct Budget {
    ports: BTreeMap<u32, Bucket>,
    all: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Takes one token if there is one.
    fn take(&mut self, most: f64, every: Duration, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.at).as_secs_f64() / every.as_secs_f64();
        self.left = (self.left + more).min(most);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { ports: BTreeMap::new(), all: Bucket { left: OF_ALL_PORTS, at: now } }
    }

    /// Whether an event about this port causes an immediate observation.
    fn take(&mut self, port: u32, now: Instant) -> bool {
        if self.ports.len() >= MOST_PORTS {
            let full = LATE.mul_f64(OF_ONE_PORT);
            self.ports.retain(|_, bucket| now.saturating_duration_since(bucket.at) < full);
        }
        if self.ports.len() >= MOST_PORTS && !self.ports.contains_key(&port) {
            return false;
        }
        let bucket = self.ports.entry(port).or_insert(Bucket { left: OF_ONE_PORT, at: now });
        bucket.take(OF_ONE_PORT, LATE, now) && self.all.take(OF_ALL_PORTS, Duration::from_secs(1), now)
    }
}

/// A program by which the kernel withholds the events of our own requests (`sock_filter`, classic BPF). Their results
/// are read anyway, and a million routes must not be announced one by one.
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

/// What a message concerns, in ascending order of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Concern {
    /// A port with this index, through a change that its tenant can cause; or, as [`NO_DEVICE`], a change that may not concern us.
    Port(u32),
    /// Something of ours, or in our way.
    Ours,
    /// Events were lost.
    Lost,
}

/// Tenants' neighbours, other devices and routes come and go all the time and do not concern us, unless the routes are
/// in a table of ours: the message about a route that replaced one of ours describes only the new one.
fn concerns_us(message: &Message<'_>, known: &Known) -> Option<Concern> {
    let payload = message.payload;
    let of_device = |index: Option<u32>| match known.device(index?)? {
        Device::Port => Some(Concern::Port(index?)),
        Device::Tunnel | Device::Other => Some(Concern::Ours),
    };
    let ours = |is: bool| is.then_some(Concern::Ours);
    match message.kind {
        rtm::NEW_LINK | rtm::DEL_LINK => of_link(payload, known, message.kind == rtm::DEL_LINK),
        rtm::NEW_ADDRESS | rtm::DEL_ADDRESS => {
            // When a port gets carrier, its IPv6 addresses are announced again. All other changes are made by the
            // host's operator.
            let by_tenant = message.kind == rtm::NEW_ADDRESS && u8_at(payload, 0) == Some(Family::V6.number());
            let device = of_device(u32_at(payload, 4));
            let device = device.map(|concern| if by_tenant { concern } else { Concern::Ours });
            device.or_else(|| {
                let mut own = attributes(payload, addr::HEADER_LEN)
                    .filter(|(kind, _)| matches!(*kind, addr::IFA_LOCAL | addr::IFA_ADDRESS));
                ours(own.any(|(_, value)| address(value).is_some_and(|own| known.is_underlay(own))))
            })
        }
        rtm::NEW_ROUTE | rtm::DEL_ROUTE => {
            let protocol = u8_at(payload, 5);
            if protocol == Some(PROTOCOL) {
                return Some(Concern::Ours);
            }
            if !is_in_our_table(payload) {
                return None;
            }
            let find = attributes(payload, route::HEADER_LEN).find(|(kind, _)| *kind == route::RTA_OIF);
            let index = find.and_then(|(_, value)| u32_at(value, 0));
            // The kernel adds and removes its own as a port gets and loses carrier.
            let kernels = protocol == Some(route::RTPROT_KERNEL);
            of_device(index.filter(|_| kernels)).or(Some(Concern::Ours))
        }
        rtm::NEW_NEIGHBOUR | rtm::DEL_NEIGHBOUR => {
            let index = u32_at(payload, 4)?;
            match known.device(index)? {
                Device::Port => is_entered(payload, index, known).then_some(Concern::Port(index)),
                Device::Tunnel | Device::Other => ours(is_host_neighbour(payload).unwrap_or_default()),
            }
        }
        rtm::NEW_QDISC..=rtm::GET_FILTER | rtm::NEW_CHAIN | rtm::DEL_CHAIN => {
            let index = u32_at(payload, 4);
            // The message does not name the devices that share the block.
            if index == Some(tc::SHARED_BLOCK) {
                return Some(Concern::Port(NO_DEVICE));
            }
            ours(of_device(index).is_some() || index.is_some_and(|index| known.is_guarded(index)))
        }
        rtm::NEW_ACTION => decides(payload).then_some(Concern::Port(NO_DEVICE)),
        // An action that a filter uses cannot be deleted, and we have no next hop groups, to which buckets belong.
        rtm::DEL_ACTION | rtm::NEW_NEXTHOP_BUCKET | rtm::DEL_NEXTHOP_BUCKET => None,
        rtm::NEW_NETCONF | rtm::DEL_NETCONF => {
            let of = attributes(payload, netconf::HEADER_LEN).find(|(kind, _)| *kind == netconf::NETCONFA_IFINDEX);
            match of.and_then(|(_, value)| i32_at(value, 0)) {
                Some(index) if index > 0 => of_device(Some(index.cast_unsigned())).and(Some(Concern::Ours)),
                // Settings of all devices, or of new ones.
                _ => Some(Concern::Ours),
            }
        }
        rtm::NEW_NEXTHOP | rtm::DEL_NEXTHOP => {
            let find = |wanted| {
                attributes(payload, nexthop::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
            };
            let number = |kind| find(kind).and_then(|value| u32_at(value, 0));
            let in_our_range = number(nexthop::NHA_ID).is_some_and(ownership::is_nexthop_id);
            let protocol = u8_at(payload, 2) == Some(PROTOCOL);
            ours(in_our_range || protocol || of_device(number(nexthop::NHA_OIF)).is_some())
        }
        _ => Some(Concern::Ours),
    }
}

/// Whether an action that was added or changed is of a kind that the agent compares: its own limit, others' may drop. The
/// kernel does not report which filter has it.
fn decides(payload: &[u8]) -> bool {
    let actions = attributes(payload, tc::ACTION_HEADER_LEN).filter(|(kind, _)| *kind == tc::ACTIONS);
    let mut each = actions.flat_map(|(_, actions)| attributes(actions, 0));
    each.any(|(_, action)| {
        let kind = attributes(action, 0).find(|(kind, _)| *kind == tc::ACT_KIND);
        matches!(kind.and_then(|(_, kind)| text(kind)), Some("police" | "gact"))
    })
}

/// A tenant can drop the carrier of its port and restore it. All other changes of a device are made by the host's
/// operator, but the message does not tell them apart.
fn of_link(payload: &[u8], known: &Known, gone: bool) -> Option<Concern> {
    let index = u32_at(payload, 4)?;
    match known.device(index) {
        Some(Device::Port) if !gone => Some(Concern::Port(index)),
        Some(_) => Some(Concern::Ours),
        None => {
            // A name that is neither ours nor a port's does not concern us.
            let (name, link) = read_link(payload)?;
            let concerns =
                known.would_concern(&name, link.kind, link.master) || known.guard_changes(index, link.master, gone);
            concerns.then_some(Concern::Ours)
        }
    }
}

/// Our tables have numbers that do not fit into the header, so they are in an attribute.
fn is_in_our_table(payload: &[u8]) -> bool {
    attributes(payload, route::HEADER_LEN)
        .find(|(kind, _)| *kind == route::RTA_TABLE)
        .and_then(|(_, value)| u32_at(value, 0))
        .is_some_and(|table| ownership::table_vni(table).is_some())
}

/// Whether a neighbour of a port is, or was, entered by a program of the host. A tenant can make the kernel announce only
/// those that were.
fn is_entered(payload: &[u8], index: u32, known: &Known) -> bool {
    if neighbours::is_entered(payload) {
        return true;
    }
    let find = attributes(payload, neighbour::HEADER_LEN).find(|(kind, _)| *kind == neighbour::NDA_DST);
    find.and_then(|(_, value)| address(value)).is_some_and(|address| known.is_entered(index, address))
}

fn is_host_neighbour(payload: &[u8]) -> Option<bool> {
    let find =
        |wanted| attributes(payload, neighbour::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if u8_at(payload, 0)? == neighbour::AF_BRIDGE {
        let [a, b, ..] = *find(neighbour::NDA_LLADDR)? else { return None };
        // A multicast address, or the address that stands for all others: bridges do not learn those, and on a device
        // of ours they would misdirect packets.
        let of_many = a & 1 == 1 || find(neighbour::NDA_LLADDR)?.iter().all(|byte| *byte == 0);
        return Some(of_many || naming::HOST_PREFIXES.contains(&u16::from_be_bytes([a, b])));
    }
    match find(neighbour::NDA_DST).and_then(address)? {
        IpAddr::V6(address) => Some(looks_like_a_host(address)),
        IpAddr::V4(_) => Some(false),
    }
}

#[cfg(test)]
mod tests;
