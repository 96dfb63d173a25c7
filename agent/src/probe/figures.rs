//! What is known about the paths to other hosts of a host's peerings. Unknown values are absent. Pure: times are
//! arguments.

use super::{Target, micros};
use cps_peering_config::{
    id::PeeringId,
    net::Vni,
    probe::{ProbeReport, SideProbes},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// A path to another host of a peer, in one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) side: Vni,
    pub(super) vtep: IpAddr,
    pub(super) ipv6: bool,
}

/// Paths, each with its peering and its probe target.
pub(super) type Ways = BTreeMap<Way, (PeeringId, Target)>;

/// What is to be sent over a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packets {
    /// One long packet.
    Long,
    /// A small one beside it, because the previous one was lost.
    Both,
}

/// The newest packets of a path, and which of them were lost.
///
/// Whether a lost long packet was too long is not known at first: it is counted once that is known, and not if it was
/// too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Newest {
    /// A bit for each, the newest the lowest: whether it was lost.
    lost: u32,
    /// How many there are.
    packets: u32,
    /// Whether a lost one is still to be counted.
    waits: bool,
}

impl Newest {
    /// This many are kept.
    const MOST: u32 = 20;

    fn add(&mut self, lost: bool) -> u64 {
        self.lost = ((self.lost << 1) | u32::from(lost)) & ((1 << Self::MOST) - 1);
        self.packets = (self.packets + 1).min(Self::MOST);
        u64::from(lost)
    }

    /// How many more are known to be lost. If long packets were found to be lost before, as in a black hole, one more
    /// lost long packet counts as too long, too.
    fn learn(&mut self, Measured { packets, long, small }: Measured, black_hole: bool) -> u64 {
        let waits = packets == Packets::Long && long.is_none() && !black_hole;
        let waited = std::mem::replace(&mut self.waits, waits);
        match (packets, long, small) {
            (Packets::Long, Some(_), _) | (Packets::Both, None, Some(_)) => self.add(false),
            (Packets::Long, None, _) => 0,
            (Packets::Both, long, small) => {
                let before = if waited { self.add(true) } else { 0 };
                before + self.add(long.is_none()) + self.add(small.is_none())
            }
        }
    }

    fn count_lost(self) -> u32 {
        self.lost.count_ones()
    }

    /// The fraction that is lost, 0 to 1; none if nothing is counted.
    fn loss(self) -> Option<f64> {
        (self.packets > 0).then(|| f64::from(self.count_lost()) / f64::from(self.packets))
    }

    /// Whether a larger fraction is lost than of others.
    fn is_worse_than(self, sent: u32, lost: u32) -> bool {
        sent == 0 || self.count_lost() * sent > lost * self.packets
    }
}

/// What is known about a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    peering: Option<PeeringId>,
    sent: u64,
    lost: u64,
    newest: Newest,
    /// The round-trip time of the newest probe, if it was answered.
    round_trip: Option<Duration>,
    /// Whether long packets are lost while short ones pass; none if that is not known now.
    black_hole: Option<bool>,
    /// When the newest probe was answered, or given up, by both clocks: the second one cannot be set.
    at: Option<(SystemTime, Instant)>,
}

/// What is known about the peerings of a host.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    ways: BTreeMap<Way, Known>,
    /// How many paths are to be probed.
    wanted: usize,
    /// The probe interval of each path; none if none are probed.
    pub(crate) every: Option<Duration>,
}

/// What is known about the peerings of a host, live. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SharedFigures(Arc<Mutex<Figures>>);

impl SharedFigures {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Figures> {
        // The value is complete at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how many paths results are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// Those that are to be probed.
    pub(crate) wanted: usize,
    /// Those of them with a result newer than [`Figures::RECENT`] and three intervals.
    pub(crate) known: usize,
}

/// The same of one peering.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OfPeering {
    /// Packets that were sent.
    pub(crate) sent: u64,
    /// Those of them that did not come back, without long ones that were lost where a small one passed.
    pub(crate) lost: u64,
    /// The largest fraction of the newest packets of a path that is lost, 0 to 1; none if nothing is known about any.
    pub(crate) worst_loss: Option<f64>,
    /// The longest of the newest round-trip times to its hosts.
    pub(crate) round_trip: Option<Duration>,
    /// To how many of its hosts, by family, long packets are lost while short ones pass; none if nothing is known about
    /// any.
    pub(crate) black_holes: Option<u32>,
    /// When the oldest of these values was measured.
    pub(crate) at: Option<SystemTime>,
}

/// What came back of what was sent over a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) packets: Packets,
    pub(super) long: Option<Duration>,
    pub(super) small: Option<Duration>,
}

impl Figures {
    /// Results older than this and three intervals are out of date. With very many paths, each has its turn within one
    /// or two minutes.
    const RECENT: Duration = Duration::from_mins(5);

    /// Sets the paths to be probed, and forgets all others.
    pub(super) fn retain(&mut self, ways: &Ways) {
        self.wanted = ways.len();
        self.ways
            .retain(|way, known| ways.get(way).is_some_and(|(peering, _)| known.peering.as_ref() == Some(peering)));
    }

    /// Takes a result. Returns whether to probe again immediately.
    pub(super) fn learn(
        &mut self,
        way: &Way,
        peering: &PeeringId,
        measured: Measured,
        at: (SystemTime, Instant),
    ) -> bool {
        let known = self.ways.entry(way.clone()).or_default();
        let Measured { packets, long, small } = measured;
        let sent = if packets == Packets::Both { 2 } else { 1 };
        known.peering = Some(peering.clone());
        known.at = Some(at);
        known.sent += sent;
        known.lost += known.newest.learn(measured, known.black_hole == Some(true));
        // What a lost long packet means is known at the next one.
        if packets == Packets::Both || long.is_some() {
            known.round_trip = long.or(small);
        }
        match (packets, long, small) {
            (_, Some(_), _) => known.black_hole = Some(false),
            (Packets::Both, None, small) => known.black_hole = small.map(|_| true),
            // It is known once it was probed again.
            (Packets::Long, None, _) => return true,
        }
        false
    }

    /// Forgets a path: what cannot be probed is not known.
    pub(super) fn forget(&mut self, way: &Way) {
        self.ways.remove(way);
    }

    /// For how many paths results are known now; none if none are probed at all.
    pub(crate) fn coverage(&self, now: Instant) -> Option<Coverage> {
        let recent = Self::RECENT + self.every? * 3;
        let times = self.ways.values().filter_map(|known| known.at);
        let known = times.filter(|(_, at)| now.saturating_duration_since(*at) <= recent).count();
        Some(Coverage { wanted: self.wanted, known })
    }

    /// By peering, at most this many.
    pub(crate) fn by_peering(&self, most: usize) -> BTreeMap<PeeringId, OfPeering> {
        let mut all: BTreeMap<PeeringId, OfPeering> = BTreeMap::new();
        for known in self.ways.values() {
            let Some((peering, (at, _))) = known.peering.as_ref().zip(known.at) else { continue };
            if all.len() >= most && !all.contains_key(peering) {
                continue;
            }
            let of = all.entry(peering.clone()).or_default();
            of.sent += known.sent;
            of.lost += known.lost;
            of.worst_loss = of.worst_loss.into_iter().chain(known.newest.loss()).reduce(f64::max);
            of.round_trip = of.round_trip.max(known.round_trip);
            if let Some(hole) = known.black_hole {
                *of.black_holes.get_or_insert(0) += u32::from(hole);
            }
            of.at = Some(of.at.map_or(at, |oldest| oldest.min(at)));
        }
        all
    }

    /// What is reported to the controller, for at most this many sides.
    pub(crate) fn report(&self, most: usize, now: Instant) -> ProbeReport {
        let mut sides: BTreeMap<Vni, SideProbes> = BTreeMap::new();
        for (way, known) in &self.ways {
            let Some((peering, (_, at))) = known.peering.as_ref().zip(known.at) else { continue };
            // A packet still to be counted means nothing yet, if there is nothing else.
            if known.newest.packets == 0 || (sides.len() >= most && !sides.contains_key(&way.side)) {
                continue;
            }
            let side = sides.entry(way.side).or_insert_with(|| SideProbes {
                peering: peering.clone(),
                sent: 0,
                lost: 0,
                round_trip_us: None,
                mtu_black_hole: None,
                age_ms: 0,
            });
            if known.newest.is_worse_than(side.sent, side.lost) {
                (side.sent, side.lost) = (known.newest.packets, known.newest.count_lost());
            }
            side.round_trip_us = side.round_trip_us.max(known.round_trip.as_ref().map(micros));
            side.mtu_black_hole = side.mtu_black_hole.max(known.black_hole);
            let age = now.saturating_duration_since(at).as_millis();
            side.age_ms = side.age_ms.max(age.try_into().unwrap_or(u64::MAX));
        }
        ProbeReport { interval_s: self.every.map_or(0, |every| every.as_secs()), sides }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::sampled::tests::two_ways;

    /// What is known when a black hole has ended right after a long packet.
    fn figures_after_hole(way: &Way, peering: &PeeringId) -> BTreeMap<PeeringId, OfPeering> {
        let (mut figures, ms) = (Figures::default(), Some(Duration::from_millis(2)));
        for (packets, long, small) in [
            (Packets::Long, None, None),
            (Packets::Both, None, ms),
            (Packets::Long, None, None),
            (Packets::Both, ms, ms),
        ] {
            figures.learn(way, peering, Measured { packets, long, small }, (SystemTime::UNIX_EPOCH, Instant::now()));
        }
        figures.by_peering(9)
    }

    #[test]
    fn what_is_known_follows_from_what_came_back() {
        let (mut figures, ways) = (Figures::default(), two_ways());
        let ((way, (peering, _)), (other, _)) = (ways.first_key_value().unwrap(), ways.last_key_value().unwrap());
        let (at, began) = (|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s), Instant::now());
        let ms = |ms| Some(Duration::from_millis(ms));
        let of = |figures: &Figures| figures.by_peering(9).remove(peering).unwrap();
        let mut learn = |way, packets, long, small, when| {
            let again = figures.learn(
                way,
                peering,
                Measured { packets, long, small },
                (at(when), began + Duration::from_secs(when)),
            );
            (again, of(&figures))
        };
        let (again, fine) = learn(way, Packets::Long, ms(3), None, 7);
        let expected = OfPeering {
            sent: 1,
            lost: 0,
            worst_loss: Some(0.0),
            round_trip: ms(3),
            black_holes: Some(0),
            at: Some(at(7)),
        };
        assert_eq!((again, fine), (false, expected));
        let (again, lost) = learn(way, Packets::Long, None, None, 8);
        assert_eq!((again, lost.lost, lost.black_holes, lost.round_trip), (true, 0, Some(0), ms(3)), "not yet known");
        let (again, hole) = learn(way, Packets::Both, None, ms(2), 9);
        assert_eq!(
            (again, hole.sent, hole.lost, hole.black_holes, hole.round_trip),
            (false, 4, 0, Some(1), ms(2)),
            "too long is not lost"
        );
        // The last one of the hole is no loss either, although all pass by the time of the retry.
        let mut ended = figures_after_hole(way, peering);
        assert_eq!(ended.remove(peering).map(|of| (of.lost, of.black_holes)), Some((0, Some(0))));
        // Of several hosts the slowest, and the oldest measurement.
        let (_, both) = learn(other, Packets::Long, ms(1), None, 11);
        assert_eq!((both.sent, both.round_trip, both.black_holes, both.at), (5, ms(2), Some(1), Some(at(9))));
        let (_, dead) = learn(way, Packets::Both, None, None, 12);
        assert_eq!((dead.lost, dead.black_holes, dead.round_trip), (2, Some(0), ms(1)), "of the other one alone");
        assert_eq!(dead.worst_loss, Some(0.5), "of one way two of four, of the other none");
        let (again, well) = learn(way, Packets::Both, ms(4), ms(2), 13);
        assert_eq!((again, well.black_holes, well.round_trip), (false, Some(0), ms(4)));
        assert!(figures.by_peering(0).is_empty());
        figures.retain(&Ways::new());
        assert!(figures.by_peering(9).is_empty());
    }

    /// V6: what cannot be probed is unknown, and shown as unknown.
    #[test]
    fn paths_that_cannot_be_probed_show() {
        let (mut figures, ways) = (Figures::default(), two_ways());
        let ((way, (peering, _)), (other, _)) = (ways.first_key_value().unwrap(), ways.last_key_value().unwrap());
        let began = Instant::now();
        let after = |s| began + Duration::from_secs(s);
        figures.retain(&ways);
        assert_eq!(figures.coverage(began), None, "none is probed");
        figures.every = Some(Duration::from_secs(5));
        let at = |figures: &Figures, s| figures.coverage(after(s)).map(|it| (it.known, it.wanted));
        assert_eq!(at(&figures, 0), Some((0, 2)));
        let measured = Measured { packets: Packets::Long, long: None, small: None };
        for (way, s) in [(way, 1), (other, 100)] {
            figures.learn(way, peering, measured, (SystemTime::UNIX_EPOCH, after(s)));
        }
        assert_eq!([316, 317, 415, 416].map(|s| at(&figures, s).unwrap()), [(2, 2), (1, 2), (1, 2), (0, 2)]);
        figures.forget(other);
        assert_eq!(at(&figures, 101), Some((1, 2)));
        figures.retain(&Ways::new());
        assert_eq!(at(&figures, 101), Some((0, 0)));
    }

    /// V6: the controller gets the newest values, of the worst path, and a packet that is too long is no loss.
    #[test]
    fn the_newest_packets_say_how_much_is_lost_now() {
        let (mut figures, ways) = (Figures::default(), two_ways());
        let ((way, (peering, _)), (other, _)) = (ways.first_key_value().unwrap(), ways.last_key_value().unwrap());
        let began = Instant::now();
        let learn = |figures: &mut Figures, way: &Way, packets, long: Option<u64>, small: Option<u64>, s| {
            let [long, small] = [long, small].map(|it| it.map(Duration::from_millis));
            let at = (SystemTime::UNIX_EPOCH, began + Duration::from_secs(s));
            figures.learn(way, peering, Measured { packets, long, small }, at);
            let report = figures.report(9, began + Duration::from_mins(1));
            report.sides.into_values().next()
        };
        assert_eq!(learn(&mut figures, way, Packets::Long, None, None, 0), None, "it waits for what a small one says");
        let hole = learn(&mut figures, way, Packets::Both, None, Some(2), 1).unwrap();
        assert_eq!((hole.sent, hole.lost, hole.mtu_black_hole, hole.round_trip_us), (1, 0, Some(true), Some(2000)));
        for s in 2..30 {
            learn(&mut figures, way, Packets::Long, Some(3), None, s);
        }
        let fine = learn(&mut figures, other, Packets::Long, Some(1), None, 30).unwrap();
        let expected = SideProbes {
            peering: peering.clone(),
            sent: 20,
            lost: 0,
            round_trip_us: Some(3000),
            mtu_black_hole: Some(false),
            age_ms: 31_000,
        };
        assert_eq!(fine, expected);
        // One path with occasional loss, and one that is cut off.
        learn(&mut figures, way, Packets::Long, None, None, 31);
        let some = learn(&mut figures, way, Packets::Both, Some(3), Some(3), 31).unwrap();
        assert_eq!((some.sent, some.lost), (20, 1));
        learn(&mut figures, other, Packets::Long, None, None, 32);
        let dead = learn(&mut figures, other, Packets::Both, None, None, 32).unwrap();
        assert_eq!((dead.sent, dead.lost), (4, 3), "the worse one: three of four");
        for s in 33..60 {
            learn(&mut figures, other, Packets::Long, Some(1), None, s);
        }
        let over = learn(&mut figures, way, Packets::Both, Some(1), Some(1), 60).unwrap();
        assert_eq!((over.sent, over.lost, over.age_ms), (20, 1, 1000), "what was lost long ago is no longer reported");
        assert!(figures.report(0, began).sides.is_empty());
        assert_eq!(figures.report(9, began).interval_s, 0);
    }
}
