//! Real packets between gateways: whether they reach another host of a peering and come back, how long that takes, and
//! how long they can be.
//!
//! (Rule V6.) A probe is an ICMP echo request in a VRF, which takes exactly the path of tenants' packets: route, next
//! hop, forwarding entry, VXLAN, underlay, the filters of the other host, its VRF, and back. The kernel at the other
//! end answers for the gateway address (rule C8). Only addresses that the peering joins are used (rule C9). The number
//! of packets is bounded for the whole host ([`budget`]), and a tenant can neither see a probe nor guess what
//! identifies it ([`packet`]).

mod budget;
mod figures;
mod packet;
mod round_trips;
mod sampled;
mod search;

use crate::{
    compile::{ETHERNET_MTU, UnderlayParams},
    kernel::probe::EchoSocket,
    reconcile::Handle,
    trace::{Exit, PathEnd},
};
use budget::Budget;
use cps_peering_config::{
    SharedHostConfig, agent_api::PROBE_ANSWER_WITHIN, net::InterfaceName, probe::ProbeAnswer, trace::PathEndpoints,
};
pub(crate) use figures::OfPeering;
pub use figures::SharedFigures;
use ipnet::IpNet;
use packet::Mark;
use round_trips::{LEAST, Outcome};

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    sync::Semaphore,
    task::{JoinError, spawn_blocking},
};

/// How many probes may be in flight.
const AT_ONCE: usize = 4;

/// Why no probe is sent.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// As many as allowed are in flight, or were sent within the last second.
    #[error("too many probes are in flight: retry in a second")]
    Busy,
    /// The thread that sends them ended.
    #[error("the task that sends probes ended early: {0}")]
    Interrupted(#[from] JoinError),
}

/// Sends probes.
#[derive(Clone)]
pub struct Prober {
    reconciler: Handle,
    vxlan_port: u16,
    places: Arc<Semaphore>,
    budget: Arc<Mutex<Budget>>,
    figures: SharedFigures,
}

/// The target of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    vrf: InterfaceName,
    local: IpAddr,
    remote: IpAddr,
    /// The longest IP packet that should pass, in bytes.
    mtu: Option<u32>,
}

impl Prober {
    /// A prober for the configuration that the reconciler has.
    pub fn new(reconciler: Handle, vxlan_port: u16) -> Self {
        Self {
            reconciler,
            vxlan_port,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            budget: Arc::new(Mutex::new(Budget::new(Instant::now()))),
            figures: SharedFigures::default(),
        }
    }

    /// The results of [`Prober::measure`].
    pub fn figures(&self) -> &SharedFigures {
        &self.figures
    }

    fn take(&self, packets: u32) -> bool {
        // The value is complete at every moment.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(packets, Instant::now())
    }

    fn take_leaving(&self, reserve: u32, packets: u32) -> bool {
        // The value is complete at every moment.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).take_leaving(reserve, packets, Instant::now())
    }

    /// Runs a probe, and returns what comes back within [`PROBE_ANSWER_WITHIN`].
    pub async fn probe(&self, query: PathEndpoints) -> Result<ProbeAnswer, ProbeError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| ProbeError::Busy)?;
        let answer = |not_probed: Option<String>| ProbeAnswer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            not_probed,
            ..ProbeAnswer::default()
        };
        let target = match self.target(&query) {
            Ok(target) => target,
            Err(reason) => return Ok(answer(Some(reason))),
        };
        if !self.take(LEAST) {
            return Err(ProbeError::Busy);
        }
        let own = self.clone();
        let sent = spawn_blocking(move || {
            let _place = place;
            let deadline = Instant::now() + PROBE_ANSWER_WITHIN;
            send(target, |more| own.take(more), deadline)
        });
        let outcome = match sent.await? {
            Ok(outcome) => outcome,
            Err(error) => return Ok(answer(Some(reason(&error)))),
        };
        Ok(ProbeAnswer {
            sent: outcome.sent,
            received: u32::try_from(outcome.round_trips.len()).unwrap_or(u32::MAX),
            round_trip_min_us: outcome.round_trips.first().map(micros),
            round_trip_median_us: outcome.median().as_ref().map(micros),
            expected_mtu: target.mtu,
            path_mtu: outcome.longest.filter(|_| target.mtu.is_some()),
            forged: outcome.forged,
            send_error: outcome.send_error.unwrap_or_default(),
            ..answer(None)
        })
    }

    fn target(&self, query: &PathEndpoints) -> Result<Target, String> {
        let config = self.reconciler.config().ok_or("the host has no configuration yet")?;
        Target::of(&config, self.underlay(), query)
    }

    fn underlay(&self) -> UnderlayParams {
        let underlay_mtu = self.reconciler.report().borrow().underlay_mtu.unwrap_or(ETHERNET_MTU);
        UnderlayParams { vxlan_port: self.vxlan_port, underlay_mtu }
    }

    /// Probes the paths to other hosts of its peerings at this interval, from now on. The results are in
    /// [`Prober::figures`].
    pub fn measure(&self, every: Duration) -> io::Result<()> {
        sampled::start(self.clone(), every)
    }
}

fn micros(time: &Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn send(target: Target, take: impl FnMut(u32) -> bool, deadline: Instant) -> io::Result<Outcome> {
    let mark = new_mark()?;
    let mut echo = EchoSocket::open(target.vrf, target.local, target.remote, mark.identifier)?;
    round_trips::probe(&mut echo, mark, target.remote, target.mtu, take, deadline)
}

/// A mark that cannot be guessed.
fn new_mark() -> io::Result<Mark> {
    let mut bytes = [0; 18];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| io::Error::other("the kernel has no random numbers"))?;
    let [one, other, nonce @ ..] = bytes;
    Ok(Mark { identifier: u16::from_be_bytes([one, other]), nonce })
}

/// Why a socket could not be used.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("the agent may not send probes, which requires CAP_NET_RAW: {error}")
        }
        io::ErrorKind::AddrNotAvailable => format!("the gateway address is not on this host: {error}"),
        _ => format!("no probe can be sent: {error}"),
    }
}

impl Target {
    /// The target of a query, or why nothing is sent: only if the configuration has both ends, and joins them.
    fn of(config: &SharedHostConfig, underlay: UnderlayParams, query: &PathEndpoints) -> Result<Self, String> {
        let PathEndpoints { local, remote, .. } = *query;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(format!("{local} and {remote} are of different families"));
        }
        let end = PathEnd::of(config, query)?;
        if !end.is_gateway {
            return Err(format!("{local} is no gateway address of this host"));
        }
        let side = query.side.and_then(|vni| config.sides.get(&vni));
        let covers = |prefixes: &[IpNet], address: IpAddr| prefixes.iter().any(|prefix| prefix.contains(&address));
        if let Some(side) = side {
            let own = side.own_prefixes.as_deref();
            if own.is_some_and(|own| !covers(own, local)) || !covers(&side.peer_cidrs, remote) {
                return Err(format!("the peering does not join {local} and {remote}"));
            }
        }
        let path_mtu = match side {
            Some(side) => side.path_mtu,
            None => config.vrfs.get(&query.vpc).and_then(|vrf| vrf.path_mtu),
        };
        let mtu = match end.exit {
            Exit::Tunnel(_) => Some(underlay.limited_to(path_mtu).longest_packet(config.underlay, remote.is_ipv6())),
            Exit::Device { .. } => None,
            Exit::Host { .. } => return Err("both addresses are the host's own, in one VPC".to_owned()),
        };
        Ok(Self { vrf: end.vrf, local, remote, mtu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    /// VPC A, one port of which is joined with B, which is on this host and on another.
    fn config() -> SharedHostConfig {
        let text = r#"{
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
            "vrfs": {
                "vpc-a": { "vni": 10, "ports": { "eth1": { "gateways": ["10.1.0.1/24", "10.1.9.1/24", "fd00:1::1/64"],
                                                           "prefixes": ["10.1.0.0/24", "fd00:1::/64"] } },
                           "remotes": { "192.0.2.3": ["10.1.3.0/24"] }, "path_mtu": 1400 },
                "vpc-b": { "vni": 11, "ports": { "eth2": { "gateways": ["10.2.0.1/24"], "prefixes": ["10.2.0.0/24"] } } }
            },
            "sides": {
                "1001": { "peering": "p", "vpc": "vpc-a", "peer_vni": 1002, "peer_cidrs": ["10.2.0.0/23", "fd00:2::/48"],
                          "own_prefixes": ["10.1.0.0/24", "fd00:1::/64"],
                          "remotes": { "192.0.2.2": ["10.2.1.0/24", "fd00:2::/64"] } },
                "1002": { "peering": "p", "vpc": "vpc-b", "peer_vni": 1001, "peer_cidrs": ["10.1.0.0/16"] }
            }
        }"#;
        serde_json::from_str::<HostConfig>(text).unwrap().into()
    }

    fn target(local: &str, peer: &str, remote: &str, side: Option<u32>, vtep: Option<&str>) -> Result<Target, String> {
        let query = PathEndpoints {
            vpc: "vpc-a".parse().unwrap(),
            local: local.parse().unwrap(),
            peer_vpc: peer.parse().unwrap(),
            remote: remote.parse().unwrap(),
            side: side.map(|vni| vni.try_into().unwrap()),
            remote_vtep: vtep.map(|vtep| vtep.parse().unwrap()),
        };
        Target::of(&config(), UnderlayParams { vxlan_port: 4789, underlay_mtu: 9000 }, &query)
    }

    #[test]
    fn a_probe_goes_from_the_vrf_to_a_gateway_of_another_host() {
        let there = target("10.1.0.1", "vpc-b", "10.2.1.1", Some(1001), Some("192.0.2.2")).unwrap();
        assert_eq!((&*there.vrf.as_str(), there.mtu), ("cpsvrf10", Some(8950)));
        assert!(target("fd00:1::1", "vpc-b", "fd00:2::1", Some(1001), Some("192.0.2.2")).is_ok());
        let within = target("10.1.0.1", "vpc-a", "10.1.3.1", None, Some("192.0.2.3")).unwrap();
        assert_eq!(within.mtu, Some(1350));
        let here = target("10.1.0.1", "vpc-b", "10.2.0.1", Some(1001), None).unwrap();
        assert_eq!(here.mtu, None);
    }

    /// C9.
    #[test]
    fn nothing_is_sent_that_the_configuration_does_not_join() {
        let said = |found: Result<Target, String>| found.unwrap_err();
        let server = said(target("10.1.0.5", "vpc-b", "10.2.1.1", Some(1001), Some("192.0.2.2")));
        assert!(server.contains("no gateway address"), "{server}");
        let hidden = said(target("10.1.9.1", "vpc-b", "10.2.1.1", Some(1001), Some("192.0.2.2")));
        assert!(hidden.contains("does not join"), "{hidden}");
        let elsewhere = said(target("10.1.0.1", "vpc-b", "10.2.2.1", Some(1001), Some("192.0.2.2")));
        assert!(elsewhere.contains("192.0.2.2"), "{elsewhere}");
        let stranger = said(target("10.1.0.1", "vpc-b", "10.2.1.1", Some(1001), Some("192.0.2.9")));
        assert!(stranger.contains("192.0.2.9"), "{stranger}");
        let no_side = said(target("10.1.0.1", "vpc-b", "10.2.1.1", Some(1009), Some("192.0.2.2")));
        assert!(no_side.contains("1009"), "{no_side}");
        let families = said(target("10.1.0.1", "vpc-b", "fd00:2::1", Some(1001), Some("192.0.2.2")));
        assert!(families.contains("families"), "{families}");
        let itself = said(target("10.1.0.1", "vpc-a", "10.1.9.1", None, None));
        assert!(itself.contains("own"), "{itself}");
    }

    #[test]
    fn no_two_probes_have_the_same_mark() {
        let (one, other) = (new_mark().unwrap(), new_mark().unwrap());
        assert_ne!(one.nonce, other.nonce);
    }
}
