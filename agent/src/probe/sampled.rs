//! How the peerings of a host are, from probes that it sends all the time.
//!
//! Every host of a peer is sent one packet of the length that should pass every so often. One that comes back says all: that there is
//! a way, how long it takes, and that long packets pass. One that does not is repeated at once with a small one beside it: that tells
//! a black hole in the MTU from a way that is lost. What is known is in [`Figures`]; what is not known is not there.

use super::{
    Prober, Target,
    budget::RESERVE,
    new_mark,
    packet::{Mark, SMALLEST},
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
    net::Vni,
};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// The most ways that are sampled; what a configuration has beyond them is not.
const MAX_WAYS: usize = 4096;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A way to another host of a peer, in one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    side: Vni,
    vtep: IpAddr,
    ipv6: bool,
}

/// Ways, each with its peering and what is sent over it.
pub(super) type Ways = BTreeMap<Way, (PeeringId, Target)>;

/// What is known of a way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    peering: Option<PeeringId>,
    sent: u64,
    lost: u64,
    /// How long the newest answer took, if the newest probe was answered.
    round_trip: Option<Duration>,
    /// Whether long packets are lost while short ones pass; none where that is not known now.
    black_hole: Option<bool>,
    /// When the newest probe was answered, or given up.
    at: Option<SystemTime>,
}

/// What is known of the peerings of a host.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<Way, Known>);

/// The same of one peering.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OfPeering {
    /// Packets that were sent.
    pub(crate) sent: u64,
    /// Those of them that did not come back.
    pub(crate) lost: u64,
    /// The longest of the newest times to its hosts there and back.
    pub(crate) round_trip: Option<Duration>,
    /// To how many of its hosts, by family, long packets are lost while short ones pass; none where nothing is known of any.
    pub(crate) black_holes: Option<u32>,
    /// When the oldest of what is said of it was measured.
    pub(crate) at: Option<SystemTime>,
}

/// What came back of what was sent over a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    packets: Packets,
    long: Option<Duration>,
    small: Option<Duration>,
}

impl Figures {
    /// Forgets what is none of these ways.
    fn retain(&mut self, ways: &Ways) {
        self.0.retain(|way, known| ways.get(way).is_some_and(|(peering, _)| known.peering.as_ref() == Some(peering)));
    }

    /// Takes what was measured. Whether it is to be measured again at once.
    fn learn(&mut self, way: &Way, peering: &PeeringId, measured: Measured, at: SystemTime) -> bool {
        let known = self.0.entry(way.clone()).or_default();
        let Measured { packets, long, small } = measured;
        let sent = if packets == Packets::Both { 2 } else { 1 };
        let back = u64::from(long.is_some()) + u64::from(small.is_some());
        known.peering = Some(peering.clone());
        known.at = Some(at);
        known.sent += sent;
        known.lost += sent - back.min(sent);
        known.round_trip = long.or(small);
        match (packets, long, small) {
            (_, Some(_), _) => known.black_hole = Some(false),
            (Packets::Both, None, small) => known.black_hole = small.map(|_| true),
            // What it is is known when it was measured again.
            (Packets::Long, None, _) => return true,
        }
        false
    }

    /// By peering, so many at most.
    pub(crate) fn by_peering(&self, most: usize) -> BTreeMap<PeeringId, OfPeering> {
        let mut all: BTreeMap<PeeringId, OfPeering> = BTreeMap::new();
        for known in self.0.values() {
            let Some((peering, at)) = known.peering.as_ref().zip(known.at) else { continue };
            if all.len() >= most && !all.contains_key(peering) {
                continue;
            }
            let of = all.entry(peering.clone()).or_default();
            of.sent += known.sent;
            of.lost += known.lost;
            of.round_trip = of.round_trip.max(known.round_trip);
            if let Some(hole) = known.black_hole {
                *of.black_holes.get_or_insert(0) += u32::from(hole);
            }
            of.at = Some(of.at.map_or(at, |oldest| oldest.min(at)));
        }
        all
    }
}

/// The ways that a configuration has, with what is sent over each.
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

/// A gateway address of the VPC that answers come back to, here and nowhere else.
fn own_gateway(vrf: &VrfConfig, side: &SideConfig, ipv6: bool) -> Option<IpAddr> {
    let prefixes = || vrf.ports.values().flat_map(|port| &port.prefixes);
    let is_joined = |address: IpAddr| side.own_prefixes.as_ref().is_none_or(|own| covers(own, address));
    let gateways = vrf.ports.values().flat_map(|port| &port.gateways).map(IpNet::addr);
    let mut usable = gateways.filter(|it| it.is_ipv6() == ipv6 && is_joined(*it) && covers(prefixes(), *it));
    usable.find(|address| !vrf.shared_gateways.contains(address))
}

/// What is to be sent over a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packets {
    /// One long packet.
    Long,
    /// A small one beside it, since the one before was lost.
    Both,
}

/// Whose turn it is. Pure: times are arguments.
#[derive(Debug)]
pub(super) struct Rota {
    every: Duration,
    /// Each with when it is due, the earliest first.
    turns: VecDeque<(Instant, Way)>,
    /// Those whose last packet was lost.
    again: VecDeque<Way>,
}

impl Rota {
    /// Each way so often.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, turns: VecDeque::new(), again: VecDeque::new() }
    }

    /// Takes these ways. Those that it has keep their turns; what is new comes after the others have had theirs, spread evenly: a
    /// kernel that is just told of it may not have it yet.
    pub(super) fn take(&mut self, ways: &Ways, now: Instant) {
        self.turns.retain(|(_, way)| ways.contains_key(way));
        self.again.retain(|way| ways.contains_key(way));
        let known: BTreeSet<&Way> = self.turns.iter().map(|(_, way)| way).collect();
        let new: Vec<Way> = ways.keys().filter(|way| !known.contains(way)).cloned().collect();
        let step = self.every / u32::try_from(new.len().max(1)).unwrap_or(u32::MAX);
        self.turns.extend(new.into_iter().zip(0u32..).map(|(way, place)| (now + self.every + step * place, way)));
    }

    /// The next one that is due, if `may_send` lets so many packets be sent.
    pub(super) fn next(&mut self, now: Instant, may_send: impl FnOnce(u32) -> bool) -> Option<(Way, Packets)> {
        if !self.again.is_empty() {
            return may_send(2).then(|| self.again.pop_front()).flatten().map(|way| (way, Packets::Both));
        }
        if self.turns.front().is_none_or(|(due, _)| *due > now) || !may_send(1) {
            return None;
        }
        let (_, way) = self.turns.pop_front()?;
        self.turns.push_back((now + self.every, way.clone()));
        Some((way, Packets::Long))
    }

    /// Has one measured again at once.
    pub(super) fn again(&mut self, way: Way) {
        self.again.push_back(way);
    }

    /// When the next one is due.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.again.is_empty() { self.turns.front().map(|(due, _)| *due) } else { Some(now) }
    }
}

/// Probes that were sent.
struct UnderWay {
    way: Way,
    peering: PeeringId,
    measured: Measured,
    socket: EchoSocket,
    mark: Mark,
    to: IpAddr,
    mtu: u32,
    sent: Instant,
    /// What else has come.
    forged: u32,
}

/// The sequence numbers of the two packets.
const LONG: u16 = 0;
const SMALL: u16 = 1;
/// How many probes may be under way: no more can be sent within [`PATIENCE`].
const MAX_UNDER_WAY: usize = 64;
/// So many packets that are none of a probe's end it.
const MAX_FORGED: u32 = 64;
/// The longest time after which it looks for another configuration, and the shortest after which it looks for room in the budget.
const LOOK: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

/// Measures every way of the host's peerings so often, on a thread of its own.
pub(super) fn start(prober: Prober, every: Duration) -> io::Result<()> {
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
                figures(&prober, |figures| figures.retain(&all));
                known = Some((config, params));
            }
            while under_way.len() < MAX_UNDER_WAY {
                let Some((way, packets)) = rota.next(now, |more| prober.take_leaving(RESERVE, more)) else { break };
                let Some((peering, target)) = all.get(&way) else { continue };
                match UnderWay::begin(way.clone(), peering.clone(), *target, packets) {
                    Ok(begun) => under_way.push(begun),
                    Err(error) => {
                        // What cannot be measured is not known.
                        figures(&prober, |figures| figures.0.remove(&way));
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
                if figures(&prober, |figures| figures.learn(&way, &peering, measured, SystemTime::now())) {
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

fn figures<T>(prober: &Prober, change: impl FnOnce(&mut Figures) -> T) -> T {
    // They are whole at any time.
    change(&mut prober.reconciler.probes().lock().unwrap_or_else(PoisonError::into_inner))
}

impl UnderWay {
    fn begin(way: Way, peering: PeeringId, target: Target, packets: Packets) -> io::Result<Self> {
        let (mark, to, mtu) = (new_mark()?, target.remote, target.mtu.unwrap_or(SMALLEST));
        let mut socket = EchoSocket::open(target.vrf, target.local, target.remote, mark.identifier)?;
        let sent = Instant::now();
        // What the kernel does not take is lost.
        let _ = socket.send(&mark.request(to, LONG, mtu));
        if packets == Packets::Both {
            let _ = socket.send(&mark.request(to, SMALL, SMALLEST));
        }
        let measured = Measured { packets, long: None, small: None };
        Ok(Self { way, peering, measured, socket, mark, to, mtu, sent, forged: 0 })
    }

    /// Reads what has come, and says whether all has, or as long was waited as is.
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
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    const UNDERLAY: UnderlayParams = UnderlayParams { vxlan_port: 4789, underlay_mtu: 9000 };

    /// VPC A, peered with B on two hosts; of one of its gateways another host has the like, and of others the peering joins nothing.
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

    #[test]
    fn ways_lead_between_gateways_that_are_joined_and_on_one_host_alone() {
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
    fn every_way_has_its_turn_every_so_often_spread_evenly() {
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
            // A configuration that changes all the time keeps nobody from their turn.
            rota.take(&all, start + ms(at));
        }
        assert!(turns.len() == 100 && turns.values().all(|times| times.len() == 3));
        assert!(turns.values().flat_map(|times| times.windows(2)).all(|pair| pair[1] - pair[0] <= 5001));
        rota.take(&many(1), start + ms(20_000));
        assert_eq!((0..10_000).filter(|at| rota.next(start + ms(20_000 + at), |_| true).is_some()).count(), 2);
    }

    #[test]
    fn what_was_lost_is_measured_again_first_and_nothing_is_sent_beyond_the_budget() {
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

    #[test]
    fn what_is_known_follows_from_what_came_back() {
        let (mut figures, ways) = (Figures::default(), ways(&config(), UNDERLAY));
        let ((way, (peering, _)), (other, _)) = (ways.first_key_value().unwrap(), ways.last_key_value().unwrap());
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let ms = |ms| Some(Duration::from_millis(ms));
        let of = |figures: &Figures| figures.by_peering(9).remove(peering).unwrap();
        let mut learn = |way, packets, long, small, when| {
            let again = figures.learn(way, peering, Measured { packets, long, small }, at(when));
            (again, of(&figures))
        };
        let (again, fine) = learn(way, Packets::Long, ms(3), None, 7);
        let expected = OfPeering { sent: 1, lost: 0, round_trip: ms(3), black_holes: Some(0), at: Some(at(7)) };
        assert_eq!((again, fine), (false, expected));
        let (again, lost) = learn(way, Packets::Long, None, None, 8);
        assert_eq!((again, lost.lost, lost.black_holes, lost.round_trip), (true, 1, Some(0), None), "not yet known");
        let (again, hole) = learn(way, Packets::Both, None, ms(2), 9);
        assert_eq!((again, hole.sent, hole.lost, hole.black_holes, hole.round_trip), (false, 4, 2, Some(1), ms(2)));
        // Of several hosts the slowest, and what was measured longest ago.
        let (_, both) = learn(other, Packets::Long, ms(1), None, 11);
        assert_eq!((both.sent, both.round_trip, both.black_holes, both.at), (5, ms(2), Some(1), Some(at(9))));
        let (_, dead) = learn(way, Packets::Both, None, None, 12);
        assert_eq!((dead.lost, dead.black_holes, dead.round_trip), (4, Some(0), ms(1)), "of the other one alone");
        let (again, well) = learn(way, Packets::Both, ms(4), ms(2), 13);
        assert_eq!((again, well.black_holes, well.round_trip), (false, Some(0), ms(4)));
        assert!(figures.by_peering(0).is_empty());
        figures.retain(&Ways::new());
        assert!(figures.by_peering(9).is_empty());
    }
}
