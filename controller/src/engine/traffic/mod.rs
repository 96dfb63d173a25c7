//! Traffic between peers: the sum of all hosts' counters, and its history of 30 days.
//!
//! Agents' counters continue across their restarts. The last values of each host are stored, so that totals only grow,
//! also when a host is removed, and when the controller is down for a while. Traffic between two reports of a host is spread evenly
//! over the time between them, so that a host which could not be reached for a while makes no peak afterwards.

mod series;

pub use series::{Passed, Sample, Span};

use crate::store::{SideKey, Store, StoreError};
use cps_peering_config::{
    id::{HostId, PeeringId},
    net::Vni,
    traffic::{Count, ReadingId, SideTraffic, TrafficReport},
};
use serde::{Deserialize, Serialize};
use series::{Kept, Series};
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How often hosts with a part in peerings between regions are polled, in seconds.
pub const INTERVAL_S: u64 = 20;
/// How many sides are stored in one transaction.
const SAVED_AT_ONCE: usize = 1000;
/// The same with their history.
const SERIES_AT_ONCE: usize = 50;

/// The totals of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Sent by the side's hosts to the peer.
    pub sent: Count,
    /// Received by them from the peer.
    pub received: Count,
    /// Packets that the limit has dropped.
    pub dropped: u64,
}

impl Totals {
    fn plus(self, other: Totals) -> Totals {
        Totals {
            sent: self.sent.plus(other.sent),
            received: self.received.plus(other.received),
            dropped: self.dropped.saturating_add(other.dropped),
        }
    }

    fn since(self, earlier: Totals) -> Totals {
        Totals {
            sent: self.sent.since(earlier.sent),
            received: self.received.since(earlier.received),
            dropped: self.dropped.saturating_sub(earlier.dropped),
        }
    }

    /// Whether no value has decreased.
    fn follows(self, earlier: Totals) -> bool {
        self.sent.bytes >= earlier.sent.bytes
            && self.received.bytes >= earlier.received.bytes
            && self.dropped >= earlier.dropped
    }
}

impl From<&SideTraffic> for Totals {
    fn from(side: &SideTraffic) -> Self {
        Self { sent: side.sent, received: side.received, dropped: side.dropped }
    }
}

impl Totals {
    fn passed(self) -> Passed {
        Passed { sent: self.sent.bytes, received: self.received.bytes, dropped: self.dropped }
    }
}

/// What hosts have reported about one side.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// The sum of counters that were reset.
    base: Totals,
    /// The last values of each host.
    hosts: BTreeMap<HostId, Totals>,
    /// When they were reported, in milliseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    heard: BTreeMap<HostId, u64>,
    /// The identity of its counters, if reported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counters: BTreeMap<HostId, String>,
}

/// The stored history of one side. The previous version takes it for the counters of a peering that does not exist.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct KeptSeries {
    #[serde(default)]
    base: Totals,
    #[serde(default)]
    hosts: BTreeMap<HostId, Totals>,
    series: Kept,
}

/// One side.
#[derive(Debug, Default)]
struct Side {
    said: Said,
    series: Series,
    /// The hour up to which the store has the history.
    saved_hour: u64,
    /// Whether the store has older values.
    unsaved: bool,
}

impl Side {
    fn totals(&self) -> Totals {
        self.said.hosts.values().fold(self.said.base, |sum, host| sum.plus(*host))
    }

    fn on_report(&mut self, host: &HostId, now: Totals, now_ms: u64, counters: Option<&str>) {
        let Said { base, hosts, heard, counters: names } = &mut self.said;
        let since_ms = heard.insert(host.clone(), now_ms);
        let name = match counters {
            Some(counters) if names.get(host).is_none_or(|before| before != counters) => {
                names.insert(host.clone(), counters.to_owned())
            }
            _ => None,
        };
        let passed = match hosts.insert(host.clone(), now) {
            // It is unknown since when it counts.
            None => None,
            Some(before) if now.follows(before) => Some(now.since(before)),
            // Other counters, which began at zero: the host was reinstalled.
            Some(before) if name.is_some() => {
                *base = base.plus(before);
                Some(now)
            }
            // Earlier values of the same counters: the host crashed. What was counted stays counted.
            Some(before) => {
                *base = base.plus(before.since(now));
                Some(Totals::default())
            }
        };
        self.unsaved |= passed != Some(Totals::default());
        if let Some(passed) = passed {
            self.series.add(since_ms.unwrap_or(now_ms), now_ms, passed.passed());
        }
    }
}

/// By VNI first: numbers are compared faster than ids, and reports have them in this order.
pub(crate) type Key = (Vni, PeeringId);

type Sides = BTreeMap<Key, Side>;

/// The traffic of all sides.
#[derive(Debug, Default)]
pub struct Traffic {
    sides: Mutex<Sides>,
    /// The last reading of each host.
    readings: Mutex<BTreeMap<HostId, ReadingId>>,
}

impl Traffic {
    /// Restores what was stored.
    pub(crate) fn kept(rows: Vec<(SideKey, Said)>, series: Vec<(SideKey, KeptSeries)>) -> Self {
        let side = |((peering, vni), said)| ((vni, peering), Side { said, ..Side::default() });
        let mut sides: Sides = rows.into_iter().map(side).collect();
        for ((peering, vni), kept) in series {
            if let Some(side) = sides.get_mut(&(vni, peering)) {
                side.series = Series::kept(kept.series);
                side.saved_hour = side.series.hour();
            }
        }
        Self { sides: Mutex::new(sides), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Sides> {
        // Each change leaves it whole.
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a host's counters for existing peerings; it still reports some that have ended. A report that
    /// a newer one has overtaken is ignored.
    pub fn on_report(&self, host: &HostId, report: &TrafficReport, now_ms: u64, there: impl Fn(&PeeringId) -> bool) {
        // Locked to the end: of two concurrent reports the newer one must not be recorded before the older one.
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = &report.reading {
            let before = readings.get(host);
            if before.is_some_and(|before| before.process == now.process && before.number > now.number) {
                return;
            }
            readings.insert(host.clone(), now.clone());
        }
        let counters = report.reading.as_ref().map(|reading| reading.counters.as_str());
        let mut sides = self.lock();
        for (vni, side) in &report.sides {
            let key = (*vni, side.peering.clone());
            if let Some(known) = sides.get_mut(&key) {
                known.on_report(host, side.into(), now_ms, counters);
            } else if there(&key.1) {
                sides.entry(key).or_default().on_report(host, side.into(), now_ms, counters);
            }
        }
    }

    /// Forgets sides of peerings that no longer exist. Examines some that follow `after`: returns which of them are gone, and the last one
    /// examined; none at the end.
    pub(crate) fn forget(
        &self,
        after: Option<&Key>,
        most: usize,
        there: impl Fn(&PeeringId) -> bool,
    ) -> (Vec<SideKey>, Option<Key>) {
        let mut sides = self.lock();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let some: Vec<Key> = sides.range((start, Bound::Unbounded)).map(|(key, _)| key.clone()).take(most).collect();
        let last = some.last().cloned();
        let gone: Vec<Key> = some.into_iter().filter(|(_, peering)| !there(peering)).collect();
        for key in &gone {
            sides.remove(key);
        }
        (gone.into_iter().map(|(vni, peering)| (peering, vni)).collect(), last)
    }

    /// Stores what is not stored yet, and forgets sides that are gone. The history is stored once an hour, and at shutdown. Blocks on
    /// the disk, for some sides at a time, so that commands can proceed.
    pub fn save(&self, store: &Store, gone: &[SideKey], at_the_end: bool) -> Result<(), StoreError> {
        let (mut rows, mut due) = (Vec::new(), Vec::new());
        for ((vni, peering), side) in self.lock().iter_mut() {
            if side.unsaved {
                rows.push(((peering.clone(), *vni), side.said.clone()));
                side.unsaved = false;
            }
            let hour = side.series.hour();
            if hour > side.saved_hour || (at_the_end && hour > 0) {
                due.push((*vni, peering.clone()));
            }
        }
        let mut saved = Ok(());
        for piece in rows.chunks(SAVED_AT_ONCE) {
            saved = saved.and_then(|()| store.save_traffic(piece, &[]));
            if saved.is_err() {
                let mut sides = self.lock();
                for ((peering, vni), _) in piece {
                    if let Some(side) = sides.get_mut(&(*vni, peering.clone())) {
                        side.unsaved = true;
                    }
                }
            }
        }
        // Each is large, and others wait while it is copied: some at a time.
        for keys in due.chunks(SERIES_AT_ONCE) {
            if saved.is_err() {
                break;
            }
            let mut hours = Vec::new();
            let mut piece = Vec::new();
            let sides = self.lock();
            for key in keys {
                let Some(side) = sides.get(key) else { continue };
                hours.push((key, side.series.hour()));
                let kept = KeptSeries { series: side.series.to_keep(), ..KeptSeries::default() };
                piece.push(((key.1.clone(), key.0), kept));
            }
            drop(sides);
            saved = store.save_series(&piece);
            if saved.is_ok() {
                let mut sides = self.lock();
                for (key, hour) in hours {
                    if let Some(side) = sides.get_mut(key) {
                        side.saved_hour = hour;
                    }
                }
            }
        }
        saved.and_then(|()| gone.chunks(SAVED_AT_ONCE).try_for_each(|gone| store.save_traffic::<Said>(&[], gone)))
    }

    /// The totals and the history of a side, the oldest sample first; none before the first report.
    pub fn of(&self, peering: &PeeringId, vni: Vni, span: Span) -> Option<(Totals, Vec<Sample>)> {
        let sides = self.lock();
        let side = sides.get(&(vni, peering.clone()))?;
        Some((side.totals(), side.series.of(span)))
    }

    /// Whether there was any known traffic of a peering in the last hour, on either side.
    pub fn passed_lately(&self, peering: &PeeringId, vnis: impl IntoIterator<Item = Vni>) -> bool {
        let sides = self.lock();
        let mut samples = vnis.into_iter().filter_map(|vni| sides.get(&(vni, peering.clone())));
        samples.any(|side| side.series.of(Span::Hour).iter().any(|it| it.passed.sent + it.passed.received > 0))
    }

    /// The totals of all sides.
    pub fn all(&self) -> Vec<(PeeringId, Vni, Totals)> {
        self.lock().iter().map(|((vni, peering), side)| (peering.clone(), *vni, side.totals())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: u64) -> TrafficReport {
        let count = Count { bytes, packets: bytes / 100 };
        let side = SideTraffic {
            peering: "vpcpr-1".parse().unwrap(),
            sent: count,
            received: Count::default(),
            dropped: 0,
            backlog: 0,
            share: None,
        };
        TrafficReport { host: None, grants: None, reading: None, sides: [(7.try_into().unwrap(), side)].into() }
    }

    /// A report of a current agent: its counters, its process, the number of the reading.
    fn reading(bytes: u64, counters: &str, process: &str, number: u64) -> TrafficReport {
        let reading = ReadingId { counters: counters.to_owned(), process: process.to_owned(), number };
        TrafficReport { reading: Some(reading), ..report(bytes) }
    }

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    fn of(traffic: &Traffic) -> (Totals, Vec<Sample>) {
        traffic.of(&"vpcpr-1".parse().unwrap(), 7.try_into().unwrap(), Span::Hour).unwrap()
    }

    fn sent(traffic: &Traffic) -> u64 {
        of(traffic).0.sent.bytes
    }

    #[test]
    fn totals_only_go_up() {
        let traffic = Traffic::default();
        traffic.on_report(&host("h1"), &report(1000), 0, |_| true);
        traffic.on_report(&host("h2"), &report(500), 0, |_| true);
        assert_eq!(sent(&traffic), 1500);
        traffic.on_report(&host("h1"), &report(1200), 1, |_| true);
        assert_eq!(sent(&traffic), 1700);
        // Unless it is known why a counter went back, nothing is counted twice.
        traffic.on_report(&host("h1"), &report(10), 2, |_| true);
        assert_eq!(sent(&traffic), 1700);
        traffic.on_report(&host("h1"), &report(30), 3, |_| true);
        assert_eq!(sent(&traffic), 1720);
    }

    #[test]
    fn a_counter_that_goes_back_is_counted_again_only_where_it_began_anew() {
        let traffic = Traffic::default();
        let mut now_ms = 0;
        let mut hear = |bytes, counters, process, number| {
            now_ms += 1000;
            traffic.on_report(&host("h1"), &reading(bytes, counters, process, number), now_ms, |_| true);
            sent(&traffic)
        };
        assert_eq!(hear(1000, "a", "p", 1), 1000);
        assert_eq!(hear(5000, "a", "p", 3), 5000);
        // A response that was overtaken.
        assert_eq!(hear(3000, "a", "p", 2), 5000);
        assert_eq!(hear(5100, "a", "p", 4), 5100);
        // The host crashed: the counters continue where they were last stored.
        assert_eq!(hear(2000, "a", "q", 1), 5100);
        assert_eq!(hear(2300, "a", "q", 2), 5400);
        // Other counters: it was reinstalled.
        assert_eq!(hear(70, "b", "r", 1), 5470);
        assert_eq!(hear(100, "b", "r", 2), 5500);
        // The agent was restarted, and its counters continue.
        assert_eq!(hear(150, "b", "s", 1), 5550);
    }

    /// No interval has more traffic than is possible, whatever happened to the reports.
    #[test]
    fn a_host_that_was_not_heard_makes_no_peak() {
        let traffic = Traffic::default();
        // 40 Mbit/s.
        let bytes = |second: u64| second * 5_000_000;
        let hear = |second: u64, said: u64| {
            traffic.on_report(&host("h1"), &reading(bytes(said), "a", "p", said), second * 1000, |_| true);
        };
        for second in (0..=100).step_by(20) {
            hear(second, second);
        }
        // Its uplink is down for 50 s; then responses arrive in any order.
        hear(155, 155);
        hear(155, 118);
        hear(156, 156);
        for second in (160..=400).step_by(20) {
            hear(second, second);
        }
        let (totals, samples) = of(&traffic);
        assert_eq!(totals.sent.bytes, bytes(400));
        assert_eq!(samples.len(), 20);
        for sample in samples {
            let mbit = sample.passed.sent * 8 / INTERVAL_S / 1_000_000;
            assert!((39..=40).contains(&mbit), "{mbit} Mbit/s until {}", sample.time_ms);
        }
    }

    #[test]
    fn sides_of_peerings_that_are_no_more_are_forgotten_piece_by_piece() {
        let traffic = Traffic::default();
        traffic.on_report(&host("h1"), &report(100), 0, |_| true);
        let other: SideKey = ("vpcpr-2".parse().unwrap(), Vni::try_from(8).unwrap());
        traffic.lock().insert((other.1, other.0.clone()), Side::default());
        let (gone, last) = traffic.forget(None, 1, |_| true);
        assert_eq!((gone.len(), traffic.all().len()), (0, 2));
        let (gone, last) = traffic.forget(last.as_ref(), 1, |_| false);
        assert_eq!(gone, [other]);
        assert_eq!(traffic.forget(last.as_ref(), 1, |_| false), (Vec::new(), None));
        assert_eq!(traffic.all().len(), 1);
        traffic.on_report(&host("h1"), &report(200), 0, |_| false);
        assert_eq!(sent(&traffic), 200, "what is there goes on until it is forgotten");
        traffic.forget(None, 9, |_| false);
        traffic.on_report(&host("h1"), &report(300), 0, |_| false);
        assert!(traffic.all().is_empty());
    }

    fn kept(store: &Store) -> Traffic {
        let rows = store.content().unwrap().traffic;
        Traffic::kept(store.traffic_of(rows.clone()).unwrap(), store.series_of(&rows))
    }

    #[test]
    fn what_is_kept_goes_on() {
        const HOUR_MS: u64 = 3_600_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        let traffic = kept(&store);
        traffic.on_report(&host("h1"), &report(1000), 0, |_| true);
        for hour in 1..=30 {
            traffic.on_report(&host("h1"), &report(1000 + 100 * hour), hour * HOUR_MS, |_| true);
            traffic.save(&store, &[], false).unwrap();
        }
        let day = |traffic: &Traffic| {
            let samples = traffic.of(&"vpcpr-1".parse().unwrap(), 7.try_into().unwrap(), Span::Month).unwrap().1;
            samples.into_iter().map(|sample| sample.passed.sent).collect::<Vec<_>>()
        };
        assert_eq!(day(&traffic), [100; 30]);
        drop(store);
        let store = Store::open(&path).unwrap();
        let traffic = kept(&store);
        assert_eq!(sent(&traffic), 4000);
        traffic.on_report(&host("h1"), &report(4100), 31 * HOUR_MS, |_| true);
        assert_eq!(sent(&traffic), 4100, "what the host counted before is not counted twice");
        assert_eq!(day(&traffic), [100; 31], "how it went before goes on, also over the time in between");
        traffic.save(&store, &[("vpcpr-1".parse().unwrap(), 7.try_into().unwrap())], true).unwrap();
        assert!(kept(&store).all().is_empty() && store.content().unwrap().traffic.is_empty());
    }
}
