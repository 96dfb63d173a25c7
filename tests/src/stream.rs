//! A paced stream of numbered UDP datagrams from one server to another, and when each was received.
//!
//! Receipt is timed at the receiver, by its kernel, so that the time of a reply does not count. All namespaces share
//! one clock. A stream has one direction; two make a conversation in which neither depends on the other.

use crate::{lab::Server, netns::Netns};
use anyhow::{Context, Result, bail};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use std::{
    collections::BTreeSet,
    io::{ErrorKind, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

/// The bytes of a datagram's number.
const NUMBER_LEN: usize = 8;

/// How long after the last datagram was sent one may still arrive.
const TAIL: Duration = Duration::from_millis(300);

/// A stream that runs until it is stopped.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Result<Vec<Receipt>>>,
}

/// One datagram, as received by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its number; the first is 0.
    pub number: u64,
    /// When it was received.
    pub at: SystemTime,
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    count: u64,
    took: Duration,
}

/// A stream that has ended.
#[derive(Debug, Clone)]
pub struct Record {
    /// How many datagrams were sent.
    pub sent: u64,
    /// How long sending took.
    pub took: Duration,
    /// What was received, in order of receipt.
    pub receipts: Vec<Receipt>,
}

impl Stream {
    /// Sends to `address` of server `to`, at `rate` datagrams per second.
    pub fn start(from: &Server, to: &Server, address: IpAddr, rate: u32) -> Result<Stream> {
        Self::between(from.netns(), to.netns(), address, rate)
    }

    /// The same from any network namespace to an address in another.
    pub fn between(from: &Netns, to: &Netns, address: IpAddr, rate: u32) -> Result<Stream> {
        Self::of_size(from, to, address, rate, NUMBER_LEN)
    }

    /// The same with datagrams of this many bytes, at least 8.
    pub fn of_size(from: &Netns, to: &Netns, address: IpAddr, rate: u32, bytes: usize) -> Result<Stream> {
        let inbox = to.within(|| {
            let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))?;
            Ok(socket)
        })?;
        let target = inbox.local_addr()?;
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let outbox = from.within(|| Ok(UdpSocket::bind(any)?))?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || send(&outbox, target, rate, bytes, &stop)
        });
        let receiver = thread::spawn({
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || receive(&inbox, &stop, &received)
        });
        Ok(Stream { stop, received, sender, receiver })
    }

    /// How many datagrams have been received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops sending, waits for what is in flight, and returns the record.
    pub fn stop(self) -> Result<Record> {
        self.end();
        let Ok(sent) = self.sender.join() else { bail!("the sender panicked") };
        let Ok(receipts) = self.receiver.join() else { bail!("the receiver panicked") };
        Ok(Record { sent: sent.count, took: sent.took, receipts: receipts? })
    }
}

/// Each datagram has its own scheduled time; a delayed sender catches up rather than slow down.
fn send(socket: &UdpSocket, target: SocketAddr, rate: u32, bytes: usize, stop: &AtomicBool) -> Sent {
    let mut datagram = vec![0; bytes.max(NUMBER_LEN)];
    let start = Instant::now();
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = start
            + Duration::from_secs(count / u64::from(rate))
            + Duration::from_secs(1) * u32::try_from(count % u64::from(rate)).unwrap_or(0) / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Without a route the datagram is lost like any other: its number is not sent again.
        datagram[..NUMBER_LEN].copy_from_slice(&count.to_be_bytes());
        let _ = socket.send_to(&datagram, target);
        count += 1;
    }
    Sent { count, took: start.elapsed() }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) -> Result<Vec<Receipt>> {
    let mut receipts = Vec::new();
    let mut end = None;
    loop {
        match receive_one(socket)? {
            Some(receipt) => {
                receipts.push(receipt);
                received.fetch_add(1, Ordering::Relaxed);
            }
            None if stop.load(Ordering::Relaxed) => {
                let end = *end.get_or_insert_with(|| Instant::now() + TAIL);
                if Instant::now() >= end {
                    return Ok(receipts);
                }
            }
            None => {}
        }
    }
}

/// The next datagram, or none within the socket's timeout.
fn receive_one(socket: &UdpSocket) -> Result<Option<Receipt>> {
    let mut bytes = [0; 8];
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let message =
        match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::empty()) {
            Ok(message) => message,
            Err(error) => {
                let error = std::io::Error::from(error);
                let quiet = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
                return if quiet { Ok(None) } else { Err(error.into()) };
            }
        };
    let time = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(time) => Some(time),
        _ => None,
    });
    let at = SystemTime::UNIX_EPOCH + Duration::from(time.context("a datagram without its time of receipt")?);
    Ok(Some(Receipt { number: u64::from_be_bytes(bytes), at }))
}

impl Record {
    /// How many of the datagrams that were sent were not received.
    pub fn lost(&self) -> u64 {
        let numbers: BTreeSet<u64> = self.receipts.iter().map(|receipt| receipt.number).collect();
        self.sent - numbers.len() as u64
    }

    /// The actual rate of datagrams per second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a stream is short")]
        let sent = self.sent as f64;
        sent / self.took.as_secs_f64()
    }

    /// The first receipt.
    pub fn first(&self) -> Option<Receipt> {
        self.receipts.first().copied()
    }

    /// The last receipt.
    pub fn last(&self) -> Option<Receipt> {
        self.receipts.iter().max_by_key(|receipt| receipt.at).copied()
    }

    /// The longest time between two receipts.
    pub fn longest_gap(&self) -> Duration {
        let pairs = self.receipts.windows(2);
        pairs.filter_map(|pair| pair[1].at.duration_since(pair[0].at).ok()).max().unwrap_or_default()
    }
}

/// Milliseconds from one time to another; negative if the second is earlier.
pub fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(time) => time.as_secs_f64() * 1e3,
        Err(error) => -error.duration().as_secs_f64() * 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sent: u64, numbers: &[u64]) -> Record {
        let at = |number| SystemTime::UNIX_EPOCH + Duration::from_millis(number);
        let receipts = numbers.iter().map(|&number| Receipt { number, at: at(number) }).collect();
        Record { sent, took: Duration::from_secs(1), receipts }
    }

    #[test]
    fn counts_what_is_missing() {
        assert_eq!(record(5, &[0, 1, 2, 3, 4]).lost(), 0);
        assert_eq!(record(5, &[0, 3, 3, 4]).lost(), 2);
        assert_eq!(record(5, &[]).lost(), 5);
        let record = record(9, &[1, 2, 7, 8]);
        assert_eq!(record.longest_gap(), Duration::from_millis(5));
        assert_eq!((record.first().unwrap().number, record.last().unwrap().number), (1, 8));
    }

    #[test]
    fn milliseconds_have_a_sign() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert!((milliseconds(now, now + Duration::from_micros(1500)) - 1.5).abs() < 1e-6);
        assert!((milliseconds(now, SystemTime::UNIX_EPOCH) + 1000.0).abs() < 1e-6);
    }
}
