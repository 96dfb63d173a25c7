//! Traffic at full speed from one namespace to another, and how much of it was received when.

use anyhow::{Context, Result};
use cps_peering_agent::kernel::{Kernel, Netlink};
use cps_peering_tests::netns::Netns;
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The devices of a side have an MTU of 1450 bytes here.
const MTU: u64 = 1450;
const ETHERNET: u64 = 14;
/// IPv4 and TCP headers with the timestamp option.
const TCP_HEADERS: u64 = 52;
const UDP_HEADERS: u64 = 28;
/// Payload of a datagram that just fits.
const DATAGRAM: u64 = MTU - UDP_HEADERS;

/// How much delay a sender may make up for, if that must not cause a burst.
const UNEVEN: Duration = Duration::from_millis(20);
/// The same if it may.
const HELD_UP: Duration = Duration::from_millis(120);

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// This many TCP connections, each as fast as it can.
    Tcp(usize),
    /// Datagrams, in Mbit/s.
    Udp(u64),
    /// The same, but so evenly that no queue overflows that is longer than [`UNEVEN`].
    Even(u64),
}

/// Bytes of received frames, with the time since the flow began.
pub(super) type Receipts = Vec<(Duration, u64)>;

/// A flow that runs until it is stopped.
pub(super) struct Flow {
    stop: Arc<AtomicBool>,
    /// Each returns how many datagrams it has sent.
    senders: Vec<JoinHandle<u64>>,
    receivers: Vec<JoinHandle<Receipts>>,
}

impl Flow {
    /// Starts sending. Times are counted from `began`.
    pub(super) fn start(kind: Kind, from: &Netns, to: &Netns, address: IpAddr, began: Instant) -> Result<Flow> {
        let mut flow = Flow { stop: Arc::default(), senders: Vec::new(), receivers: Vec::new() };
        match kind {
            Kind::Tcp(connections) => {
                let listener = to.within(|| Ok(TcpListener::bind((address, 0))?))?;
                let target = listener.local_addr()?;
                for _ in 0..connections {
                    let outgoing = from.within(|| Ok(TcpStream::connect_timeout(&target, Duration::from_secs(10))?))?;
                    let (incoming, _) = listener.accept()?;
                    incoming.set_read_timeout(Some(Duration::from_millis(100)))?;
                    outgoing.set_write_timeout(Some(Duration::from_millis(100)))?;
                    let stop = Arc::clone(&flow.stop);
                    flow.senders.push(thread::spawn(move || send_stream(outgoing, &stop)));
                    let stop = Arc::clone(&flow.stop);
                    flow.receivers.push(thread::spawn(move || receive_stream(incoming, &stop, began)));
                }
            }
            Kind::Udp(mbit) | Kind::Even(mbit) => {
                let held_up = if matches!(kind, Kind::Even(_)) { UNEVEN } else { HELD_UP };
                let inbox = to.within(|| Ok(UdpSocket::bind((address, 0))?))?;
                inbox.set_read_timeout(Some(Duration::from_millis(100)))?;
                socket2::SockRef::from(&inbox).set_recv_buffer_size(8 << 20)?;
                let target = inbox.local_addr()?;
                let outbox = from.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
                let stop = Arc::clone(&flow.stop);
                flow.senders.push(thread::spawn(move || send_datagrams(&outbox, target, mbit, held_up, &stop)));
                let stop = Arc::clone(&flow.stop);
                flow.receivers.push(thread::spawn(move || receive_datagrams(&inbox, &stop, began)));
            }
        }
        Ok(flow)
    }

    /// Stops sending.
    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends it, and returns what was received, in order.
    pub(super) fn stop(self) -> Result<Receipts> {
        Ok(self.stop_counted()?.1)
    }

    /// Ends it, and returns how many datagrams were sent and what was received, in order.
    pub(super) fn stop_counted(self) -> Result<(u64, Receipts)> {
        self.end();
        let mut sent = 0;
        for sender in self.senders {
            sent += sender.join().ok().context("a sender panicked")?;
        }
        let mut all = Vec::new();
        for receiver in self.receivers {
            all.extend(receiver.join().ok().context("a receiver panicked")?);
        }
        all.sort_unstable();
        Ok((sent, all))
    }
}

fn send_stream(mut stream: TcpStream, stop: &AtomicBool) -> u64 {
    let bytes = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // What is still in the queue does not matter.
    let _ = stream.shutdown(Shutdown::Both);
    0
}

/// Counts what is received, in full frames: each has `MTU` less the headers as payload.
fn receive_stream(mut stream: TcpStream, stop: &AtomicBool, began: Instant) -> Receipts {
    let mut bytes = vec![0; 256 * 1024];
    let mut receipts = Receipts::new();
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => {
                receipts.push((began.elapsed(), length as u64 * (MTU + ETHERNET) / (MTU - TCP_HEADERS)));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    receipts
}

/// A millisecond's datagrams at a time.
fn send_datagrams(socket: &UdpSocket, target: SocketAddr, mbit: u64, held_up: Duration, stop: &AtomicBool) -> u64 {
    let datagram = vec![0; usize::try_from(DATAGRAM).unwrap_or_default()];
    let due = |elapsed: Duration| {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        micros.saturating_mul(mbit) / 8 / (MTU + ETHERNET)
    };
    let due_within = due(held_up);
    let began = Instant::now();
    let (mut sent, mut really) = (0u64, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = due(began.elapsed());
        // A long delay is not made up for.
        sent = sent.max(due.saturating_sub(due_within));
        while sent < due {
            // A full queue drops it: that is what is measured.
            let _ = socket.send_to(&datagram, target);
            sent += 1;
            really += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    really
}

fn receive_datagrams(socket: &UdpSocket, stop: &AtomicBool, began: Instant) -> Receipts {
    let mut bytes = [0; 2048];
    let mut receipts = Receipts::new();
    loop {
        match socket.recv(&mut bytes) {
            Ok(length) => receipts.push((began.elapsed(), length as u64 + UDP_HEADERS + ETHERNET)),
            // Nothing is in flight any more.
            Err(_) if stop.load(Ordering::Relaxed) => return receipts,
            Err(_) => {}
        }
    }
}

/// Bytes per second between two times.
pub(super) fn rate(receipts: &[(Duration, u64)], from: Duration, to: Duration) -> f64 {
    let bytes: u64 = receipts.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, bytes)| bytes).sum();
    as_number(bytes) / to.saturating_sub(from).as_secs_f64()
}

/// Samples how much hosts have sent to their peers so far, in total: after the limit, by their kernels' counters.
pub(super) struct Sent {
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<Result<Vec<(Duration, u64)>>>,
}

impl Sent {
    /// Starts sampling the counters.
    pub(super) fn start(hosts: Vec<Netns>, began: Instant) -> Sent {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sampler = thread::spawn(move || {
            // Each has a socket in its host's namespace.
            let mut kernels = Vec::new();
            for host in hosts {
                let mut kernel = Netlink::default();
                kernel = host.within(move || {
                    kernel.traffic()?;
                    Ok(kernel)
                })?;
                kernels.push(kernel);
            }
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let before = began.elapsed();
                let mut sum = 0;
                for kernel in &mut kernels {
                    sum += kernel.traffic()?.values().map(|reading| reading.sent.bytes).sum::<u64>();
                }
                samples.push(((before + began.elapsed()) / 2, sum));
                thread::sleep(Duration::from_millis(10));
            }
            Ok(samples)
        });
        Sent { stop, sampler }
    }

    /// Ends it. Returns the most that was sent within any second that begins at `from` or later, in bytes per second.
    pub(super) fn peak(self, from: Duration) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let samples = self.sampler.join().ok().context("the sampler panicked")??;
        Ok(peak(&samples, from))
    }
}

/// The highest rate over a second, of counters that only go up.
fn peak(samples: &[(Duration, u64)], from: Duration) -> f64 {
    let samples = &samples[samples.partition_point(|(at, _)| *at < from)..];
    let mut first = 0;
    let mut highest = 0.0f64;
    for (at, bytes) in samples {
        // The shortest window of at least a second.
        while first + 1 < samples.len() && at.saturating_sub(samples[first + 1].0) >= Duration::from_secs(1) {
            first += 1;
        }
        let took = at.saturating_sub(samples[first].0);
        if took >= Duration::from_secs(1) {
            highest = highest.max(as_number(bytes - samples[first].1) / took.as_secs_f64());
        }
    }
    highest
}

#[expect(clippy::cast_precision_loss, reason = "a run of the bench has less than 2⁵³ bytes")]
pub(super) fn as_number(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_peak_is_that_of_the_fullest_second() {
        let samples: Vec<_> =
            (0..400u64).map(|n| (ms(n * 10), if n < 250 { n * 10 } else { 2500 + (n - 250) * 20 })).collect();
        assert!((peak(&samples, ms(0)) - 2000.0).abs() < 1e-9);
        assert!((peak(&samples[..240], ms(0)) - 1000.0).abs() < 1e-9);
        let receipts: Receipts = vec![(ms(0), 1000), (ms(1000), 10), (ms(1500), 20), (ms(1999), 30), (ms(2000), 40)];
        assert!((rate(&receipts, ms(1000), ms(2000)) - 60.0).abs() < 1e-9);
    }
}
