//! Packets to where they must not get, continuously, and which listener received which.
//!
//! A [`Prober`] sends from one namespace to many addresses, round robin. A [`Listener`] in another namespace receives
//! them and records their senders. A [`Canary`] catches tenants' packets that leak into a host's table main: it is a
//! namespace that accepts every tenant's address.

use crate::netns::Netns;
use anyhow::{Result, bail, ensure};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The UDP port of all probes.
pub const PORT: u16 = 7777;

/// The interval between two packets of one prober.
const PACE: Duration = Duration::from_millis(4);

/// Sends to each of its targets in turn until it is dropped.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Prober {
    /// Sends from a namespace; `name` is what listeners will report.
    pub fn start(name: &str, from: &Netns, targets: &[IpAddr]) -> Result<Prober> {
        let (four, six) = from.within(|| Ok((UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (name, targets, stopped) = (name.to_owned(), targets.to_vec(), Arc::clone(&stop));
        let sender = thread::spawn(move || {
            for target in targets.iter().cycle().take_while(|_| !stopped.load(Ordering::Relaxed)) {
                let socket = if target.is_ipv4() { &four } else { &six };
                // No route is the expected result.
                let _ = socket.send_to(name.as_bytes(), SocketAddr::new(*target, PORT));
                thread::sleep(PACE);
            }
        });
        Ok(Prober { stop, sender: Some(sender) })
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            // It only sends and sleeps.
            let _ = sender.join();
        }
    }
}

/// Receives the packets of probers until it is dropped.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<BTreeMap<String, u64>>>,
    receiver: Option<JoinHandle<Result<()>>>,
}

impl Listener {
    /// Listens on all addresses of a namespace, in both families.
    pub fn start(at: &Netns) -> Result<Listener> {
        let socket = at.within(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(BTreeMap::new()));
        let (stopped, notes) = (Arc::clone(&stop), Arc::clone(&heard));
        let receiver = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        let name = String::from_utf8_lossy(&buffer[..length]).into_owned();
                        *notes.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(error) => bail!(error),
                }
            }
            Ok(())
        });
        Ok(Listener { stop, heard, receiver: Some(receiver) })
    }

    /// How many packets of each prober have arrived so far. An error if it no longer listens.
    pub fn heard(&self) -> Result<BTreeMap<String, u64>> {
        ensure!(self.receiver.as_ref().is_some_and(|receiver| !receiver.is_finished()), "a listener has ended");
        Ok(self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            // A caller of `heard` knows whether it failed.
            let _ = receiver.join();
        }
    }
}

/// A namespace behind a host's table main that accepts packets to all tenants' addresses, and a listener on the host
/// itself.
#[derive(Debug)]
pub struct Canary {
    listener: Listener,
    at_host: Listener,
    _netns: Netns,
}

impl Canary {
    /// Attaches it to a host: in table main, these prefixes lead to it.
    pub fn attach(name: &str, host: &Netns, prefixes: &[&str]) -> Result<Canary> {
        let netns = Netns::create(name)?;
        netns.sysctl(&["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"])?;
        host.ip_batch(&[
            format!("link add canary type veth peer name canary netns {name}"),
            "addr add 198.18.0.1/30 dev canary".to_owned(),
            "addr add fe80::1/64 dev canary nodad".to_owned(),
            "link set canary up".to_owned(),
        ])?;
        let mut there = vec![
            "addr add 198.18.0.2/30 dev canary".to_owned(),
            "addr add fe80::2/64 dev canary nodad".to_owned(),
            "link set canary up".to_owned(),
        ];
        there.extend(prefixes.iter().map(|prefix| format!("route add local {prefix} dev lo")));
        netns.ip_batch(&there)?;
        let via = |prefix: &&str| if prefix.contains(':') { "fe80::2" } else { "198.18.0.2" };
        let here = prefixes.iter().map(|prefix| format!("route add {prefix} via {} dev canary", via(prefix)));
        host.ip_batch(&here.collect::<Vec<_>>())?;
        // By default a socket outside a VRF does not receive what arrives in one.
        host.sysctl(&["net.ipv4.udp_l3mdev_accept=1"])?;
        Ok(Canary { listener: Listener::start(&netns)?, at_host: Listener::start(host)?, _netns: netns })
    }

    /// What arrived here or at the host itself: the senders, and how many packets of each.
    pub fn heard(&self) -> Result<BTreeMap<String, u64>> {
        let mut heard = self.listener.heard()?;
        heard.extend(self.at_host.heard()?.into_iter().map(|(name, count)| (format!("{name} to the host"), count)));
        Ok(heard)
    }
}
