//! The state of a host's peerings, from continuous probes.
//!
//! Each host of a peer is regularly sent one packet of the length that should pass. If it comes back that shows
//! everything: the path works, its round-trip time, and that long packets pass. If not, it is repeated immediately with
//! a small one beside it: that distinguishes an MTU black hole from a broken path. The results are in
//! [`Figures`](super::figures::Figures).

use super::{
    Prober, Target,
    budget::RESERVE,
    figures::{Measured, Packets, Way, Ways},
    new_mark,
    packet::{MAX_FORGED, Mark, SMALLEST},
};
use crate::{
    compile::UnderlayParams,
    kernel::probe::{Echo, EchoSocket, wait},
    ownership::DeviceName,
};
use cps_peering_config::{
    SharedHostConfig,
    host_config::{SideConfig, VrfConfig},
    id::PeeringId,
};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

/// The most paths that are probed; those of a configuration beyond this number are not.
const MAX_WAYS: usize = 4096;
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The paths of a configuration, with what is sent over each.
pub(super) fn ways(config: &SharedHostConfig, underlay: UnderlayParams) -> Ways {
    let mut found = Ways::new();
    for (vni, side) in &config.sides {
        let Some(vrf) = config.vrfs.get(&side.vpc) else { continue };
        let params = underlay.limited_to(side.path_mtu);
        for (vtep, gateways) in side.gateways.iter() {
            for ipv6 in [false, true] {
                let remote = gateways.iter().copied().find(|it| it.is_ipv6() == ipv6 && is_reached(side, *vtep, *it));
                let Some((local, remote)) = own_gateway(vrf, side, ipv6).zip(remote) else { continue };
                if found.len() >= MAX_WAYS {
                    return found;
                }
                let mtu = Some(params.longest_packet(config.underlay, ipv6));
                let target = Target { vrf: DeviceName::vrf(vrf.vni), local, remote, mtu };
                found.insert(Way { side: *vni, vtep: *vtep, ipv6 }, (side.peering.clone(), target));
            }
        }
    }
    found
}

fn covers<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, address: IpAddr) -> bool {
    prefixes.into_iter().any(|prefix| prefix.contains(&address))
}

fn is_reached(side: &SideConfig, vtep: IpAddr, gateway: IpAddr) -> bool {
    covers(&side.peer_cidrs, gateway) && side.remotes.get(&vtep).is_some_and(|prefixes| covers(prefixes, gateway))
}

/// A gateway address of the VPC that replies come back to, on this host and no other.
fn own_gateway(vrf: &VrfConfig, side: &SideConfig, ipv6: bool) -> Option<IpAddr> {
    let prefixes = || vrf.ports.values().flat_map(|port| &port.prefixes);
    let is_joined = |address: IpAddr| side.own_prefixes.as_ref().is_none_or(|own| covers(own, address));
    let gateways = vrf.ports.values().flat_map(|port| &port.gateways).map(IpNet::addr);
    let mut usable = gateways.filter(|it| it.is_ipv6() == ipv6 && is_joined(*it) && covers(prefixes(), *it));
    usable.find(|address| !vrf.shared_gateways.contains(address))
}

/// The schedule. Pure: times are arguments.
#[derive(Debug)]
pub(super) struct Rota {
    every: Duration,
    /// Each with when it is due, the earliest first.
    turns: BTreeSet<(Instant, Way)>,
    /// Those whose last packet was lost.
    again: VecDeque<Way>,
}

impl Rota {
    /// With this interval for each path.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, turns: BTreeSet::new(), again: VecDeque::new() }
    }

    /// Sets the paths. Those already scheduled keep their turns; new ones come after the others have had theirs, spread
    /// evenly: a kernel that is just being configured may not have them yet.
    pub(super) fn take(&mut self, ways: &Ways, now: Instant) {
        self.turns.retain(|(_, way)| ways.contains_key(way));
        self.again.retain(|way| ways.contains_key(way));
        let known: BTreeSet<&Way> = self.turns.iter().map(|(_, way)| way).collect();
        let new: Vec<Way> = ways.keys().filter(|way| !known.contains(way)).cloned().collect();
        let step = self.every / u32::try_from(new.len().max(1)).unwrap_or(u32::MAX);
        self.turns.extend(new.into_iter().zip(0u32..).map(|(way, place)| (now + self.every + step * place, way)));
    }

    /// The next one that is due, if `may_send` permits this many packets.
    pub(super) fn next(&mut self, now: Instant, may_send: impl FnOnce(u32) -> bool) -> Option<(Way, Packets)> {
        if !self.again.is_empty() {
            return may_send(2).then(|| self.again.pop_front()).flatten().map(|way| (way, Packets::Both));
        }
        if self.turns.first().is_none_or(|(due, _)| *due > now) || !may_send(1) {
            return None;
        }
        let (_, way) = self.turns.pop_first()?;
        self.turns.insert((now + self.every, way.clone()));
        Some((way, Packets::Long))
    }

    /// Schedules a path to be probed again immediately.
    pub(super) fn again(&mut self, way: Way) {
        self.again.push_back(way);
    }

    /// When the next one is due.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.again.is_empty() { self.turns.first().map(|(due, _)| *due) } else { Some(now) }
    }
}

/// A probe in flight.
struct UnderWay {
    way: Way,
    peering: PeeringId,
    measured: Measured,
    socket: EchoSocket,
    mark: Mark,
    to: IpAddr,
    mtu: u32,
    sent: Instant,
    /// Other packets received.
    forged: u32,
}

/// The sequence numbers of the two packets.
const LONG: u16 = 0;
const SMALL: u16 = 1;
/// How many probes may be in flight: no more can be sent within [`PATIENCE`].
const MAX_UNDER_WAY: usize = 64;
/// The longest time before it checks for another configuration, and the shortest before it checks the budget again.
const LOOK: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

/// Probes every path of the host's peerings at this interval, on a thread of its own.
pub(super) fn start(prober: Prober, every: Duration) -> io::Result<()> {
    prober.figures.lock().every = Some(every);
    let run = move || {
        let mut under_way: Vec<UnderWay> = Vec::new();
        let (mut rota, mut known, mut all) = (Rota::new(every), None, Ways::new());
        let mut warned = false;
        loop {
            let now = Instant::now();
            let config = prober.reconciler.config();
            let params = prober.underlay();
            if let Some(config) = config.filter(|config| !known.as_ref().is_some_and(|it| is_same(it, config, params)))
            {
                all = ways(&config, params);
                rota.take(&all, now);
                prober.figures.lock().retain(&all);
                known = Some((config, params));
            }
            while under_way.len() < MAX_UNDER_WAY {
                let Some((way, packets)) = rota.next(now, |more| prober.take_leaving(RESERVE, more)) else { break };
                let Some((peering, target)) = all.get(&way) else { continue };
                match UnderWay::begin(way.clone(), peering.clone(), *target, packets) {
                    Ok(begun) => under_way.push(begun),
                    Err(error) => {
                        // What cannot be probed is not known.
                        prober.figures.lock().forget(&way);
                        if !std::mem::replace(&mut warned, true) {
                            tracing::warn!(reason = super::reason(&error), "a peering is not measured");
                        }
                    }
                }
            }
            let deadlines = under_way.iter().map(|probe| probe.sent + PATIENCE);
            let until = deadlines.chain(rota.due(now)).min().unwrap_or(now + LOOK);
            let patience = until.saturating_duration_since(now).clamp(PAUSE, LOOK);
            let mut sockets: Vec<PollFd<'_>> =
                under_way.iter().map(|probe| PollFd::new(probe.socket.as_fd(), PollFlags::POLLIN)).collect();
            if let Err(error) = wait(&mut sockets, patience) {
                tracing::warn!(%error, "peerings are not measured any more");
                return;
            }
            drop(sockets);
            for place in (0..under_way.len()).rev() {
                if !under_way[place].is_over() {
                    continue;
                }
                let UnderWay { way, peering, measured, .. } = under_way.swap_remove(place);
                if !all.contains_key(&way) {
                    continue;
                }
                let at = (SystemTime::now(), Instant::now());
                if prober.figures.lock().learn(&way, &peering, measured, at) {
                    rota.again(way);
                }
            }
        }
    };
    thread::Builder::new().name("probes".into()).spawn(run).map(drop)
}

type Followed = (Arc<cps_peering_config::ValidHostConfig>, UnderlayParams);

fn is_same(known: &Followed, config: &Arc<cps_peering_config::ValidHostConfig>, params: UnderlayParams) -> bool {
    Arc::ptr_eq(&known.0, config) && known.1 == params
}

impl UnderWay {
    fn begin(way: Way, peering: PeeringId, target: Target, packets: Packets) -> io::Result<Self> {
        let (mark, to, mtu) = (new_mark()?, target.remote, target.mtu.unwrap_or(SMALLEST));
        let mut socket = EchoSocket::open(target.vrf, target.local, target.remote, mark.identifier)?;
        let sent = Instant::now();
        // What the kernel does not accept is lost.
        let _ = socket.send(&mark.request(to, LONG, mtu));
        if packets == Packets::Both {
            let _ = socket.send(&mark.request(to, SMALL, SMALLEST));
        }
        let measured = Measured { packets, long: None, small: None };
        Ok(Self { way, peering, measured, socket, mark, to, mtu, sent, forged: 0 })
    }

    /// Reads what has arrived, and returns whether all has, or the time is up.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        while self.forged < MAX_FORGED {
            let Ok(Some(packet)) = self.socket.receive(now) else { break };
            let reply = self.mark.reply(self.to, packet);
            let took = now.saturating_duration_since(self.sent);
            match reply {
                Some(reply) if reply.sequence == LONG && reply.length == self.mtu => {
                    self.measured.long.get_or_insert(took);
                }
                Some(reply) if reply.sequence == SMALL && reply.length == SMALLEST => {
                    self.measured.small.get_or_insert(took);
                }
                _ => self.forged += 1,
            }
        }
        let Measured { packets, long, small } = self.measured;
        let is_measured = long.is_some() && (packets == Packets::Long || small.is_some());
        is_measured || self.forged >= MAX_FORGED || now >= self.sent + PATIENCE
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cps_peering_config::HostConfig;
    use std::collections::BTreeMap;

    const UNDERLAY: UnderlayParams = UnderlayParams { vxlan_port: 4789, underlay_mtu: 9000 };

    /// VPC A, peered with B on two hosts; another host has one of its gateways as well, and the peering joins nothing
    /// of others.
    fn config() -> SharedHostConfig {
        let text = r#"{
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
            "vrfs": { "vpc-a": { "vni": 10, "shared_gateways": ["10.1.0.1"], "ports": { "eth1": {
                "gateways": ["10.1.0.1/24", "10.1.0.9/24", "10.9.0.1/24", "fd00:1::1/64"], "prefixes": ["10.1.0.0/24", "fd00:1::/64"] } } } },
            "sides": {
                "1001": { "peering": "p", "vpc": "vpc-a", "peer_vni": 1002, "peer_cidrs": ["10.2.0.0/16", "fd00:2::/48"], "path_mtu": 1500,
                          "remotes": { "192.0.2.2": ["10.2.1.0/24", "fd00:2::/64"], "192.0.2.3": ["10.2.3.0/24"] },
                          "gateways": { "192.0.2.2": ["10.2.1.1", "fd00:2::1"], "192.0.2.3": ["10.2.7.1"], "192.0.2.4": ["10.2.1.1"] } }
            },
            "scoped_sides": {
                "1003": { "peering": "q", "vpc": "vpc-a", "peer_vni": 1004, "peer_cidrs": ["10.3.0.0/24"], "own_prefixes": ["10.1.0.128/25"],
                          "remotes": { "192.0.2.2": ["10.3.0.0/24"] }, "gateways": { "192.0.2.2": ["10.3.0.1"] } }
            }
        }"#;
        serde_json::from_str::<HostConfig>(text).unwrap().into()
    }

    /// Two ways of one peering, by family.
    pub(in crate::probe) fn two_ways() -> Ways {
        ways(&config(), UNDERLAY)
    }

    #[test]
    fn paths_lead_between_joined_gateways_that_are_on_one_host_only() {
        let ways = ways(&config(), UNDERLAY);
        let shown: Vec<String> =
            ways.iter().map(|(way, (id, it))| format!("{id} {} {} > {}", way.vtep, it.local, it.remote)).collect();
        assert_eq!(shown, ["p 192.0.2.2 10.1.0.9 > 10.2.1.1", "p 192.0.2.2 fd00:1::1 > fd00:2::1"]);
        assert!(ways.values().all(|(_, target)| target.mtu == Some(1450) && target.vrf.as_str() == "cpsvrf10"));
    }

    fn many(number: u32) -> Ways {
        let (id, target) = ways(&config(), UNDERLAY).into_values().next().unwrap();
        let way = |side: u32| Way { side: side.try_into().unwrap(), vtep: [192, 0, 2, 2].into(), ipv6: false };
        (1..=number).map(|side| (way(side), (id.clone(), target))).collect()
    }

    #[test]
    fn every_path_is_probed_at_its_interval_spread_evenly() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut rota = Rota::new(ms(5000));
        let all = many(100);
        rota.take(&all, start);
        assert_eq!(rota.next(start + ms(4999), |_| true), None, "a kernel may not have them yet");
        let mut turns: BTreeMap<Way, Vec<u64>> = BTreeMap::new();
        for at in 0..20_000 {
            let mut now = 0;
            while let Some((way, packets)) = rota.next(start + ms(at), |more| more == 1) {
                assert_eq!(packets, Packets::Long);
                turns.entry(way).or_default().push(at);
                now += 1;
            }
            assert!(now <= 1, "{now} at once");
            // A configuration that changes all the time must not keep paths from their turn.
            rota.take(&all, start + ms(at));
        }
        assert!(turns.len() == 100 && turns.values().all(|times| times.len() == 3));
        assert!(turns.values().flat_map(|times| times.windows(2)).all(|pair| pair[1] - pair[0] <= 5001));
        rota.take(&many(1), start + ms(20_000));
        assert_eq!((0..10_000).filter(|at| rota.next(start + ms(20_000 + at), |_| true).is_some()).count(), 2);
    }

    #[test]
    fn new_paths_do_not_delay_existing_ones() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut rota = Rota::new(ms(5000));
        let (before, all) = (many(1), many(4));
        rota.take(&before, start);
        rota.take(&all, start + ms(4000));
        let mut turns: BTreeMap<Way, Vec<u64>> = BTreeMap::new();
        for at in 0..=20_000 {
            while let Some((way, _)) = rota.next(start + ms(at), |_| true) {
                turns.entry(way).or_default().push(at);
            }
        }
        let first = before.into_keys().next().unwrap();
        assert_eq!(turns[&first], [5000, 10_000, 15_000, 20_000]);
        assert!(turns.len() == 4 && turns.values().all(|times| times.windows(2).all(|pair| pair[1] - pair[0] == 5000)));
    }

    #[test]
    fn lost_probes_are_repeated_first_within_the_budget() {
        let start = Instant::now();
        let mut rota = Rota::new(Duration::from_secs(5));
        let ways = many(2);
        rota.take(&ways, start);
        let later = start + Duration::from_secs(10);
        assert_eq!(rota.next(later, |_| false), None);
        let (way, _) = rota.next(later, |_| true).unwrap();
        rota.again(way.clone());
        assert_eq!(rota.due(later), Some(later));
        assert_eq!(rota.next(later, |more| more < 2), None);
        assert_eq!(rota.next(later, |more| more == 2), Some((way.clone(), Packets::Both)));
        rota.again(way);
        rota.take(&Ways::new(), later);
        assert_eq!((rota.next(later, |_| true), rota.due(later)), (None, None));
    }
}
