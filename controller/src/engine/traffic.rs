//! What passes between peers: what all hosts have counted, added up, and how it went in the last hour.
//!
//! Agents count without end, over their own restarts. What each has said last is kept in the store, so that totals only go
//! up, also when a host goes, and when the controller is away for a while.

use crate::store::{SideKey, Store, StoreError};
use cps_peering_config::{
    id::{HostId, PeeringId},
    net::Vni,
    traffic::{Count, SideTraffic, TrafficReport},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The time between two samples, in seconds.
pub const INTERVAL_S: u64 = 20;
/// How many sides are saved in one transaction.
const SAVED_AT_ONCE: usize = 1000;
/// How many samples are kept: those of an hour.
const SAMPLES: usize = 180;

/// What was counted for one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// What the side's hosts have sent to the peer.
    pub sent: Count,
    /// What they have received from the peer.
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

    /// Whether nothing has become less.
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

/// What passed within [`INTERVAL_S`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// How much it was.
    pub passed: Totals,
}

/// What hosts have said of one side.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// What they had counted before they began anew.
    base: Totals,
    /// What each said last.
    hosts: BTreeMap<HostId, Totals>,
}

/// What is known of one side.
#[derive(Debug, Default)]
struct Side {
    said: Said,
    samples: VecDeque<Sample>,
    /// What it was at the last sample.
    sampled: Option<Totals>,
    /// Whether the store has less.
    unsaved: bool,
}

impl Side {
    fn totals(&self) -> Totals {
        self.said.hosts.values().fold(self.said.base, |sum, host| sum.plus(*host))
    }

    fn on_report(&mut self, host: &HostId, now: Totals) {
        let before = self.said.hosts.get(host).copied().unwrap_or_default();
        if now == before {
            return;
        }
        if !now.follows(before) {
            // The host was set up anew.
            self.said.base = self.said.base.plus(before);
        }
        self.said.hosts.insert(host.clone(), now);
        self.unsaved = true;
    }

    pub(crate) fn sample(&mut self, now_ms: u64) {
        let totals = self.totals();
        if let Some(before) = self.sampled.replace(totals) {
            self.samples.push_back(Sample { time_ms: now_ms, passed: totals.since(before) });
            let more = self.samples.len().saturating_sub(SAMPLES);
            self.samples.drain(..more);
        }
    }
}

/// By VNI first: numbers are compared faster than ids, and reports have them in this order.
pub(crate) type Key = (Vni, PeeringId);

type Sides = BTreeMap<Key, Side>;

/// What passes for all sides.
#[derive(Debug, Default)]
pub struct Traffic {
    sides: Mutex<Sides>,
}

impl Traffic {
    /// What was kept.
    pub(crate) fn kept(rows: Vec<(SideKey, Said)>) -> Self {
        let side = |((peering, vni), said)| ((vni, peering), Side { said, ..Side::default() });
        Self { sides: Mutex::new(rows.into_iter().map(side).collect()) }
    }

    fn lock(&self) -> MutexGuard<'_, Sides> {
        // Each change leaves it whole.
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a host has counted for peerings that there are; it still tells of some that are over.
    pub fn on_report(&self, host: &HostId, report: &TrafficReport, there: impl Fn(&PeeringId) -> bool) {
        let mut sides = self.lock();
        for (vni, side) in &report.sides {
            let key = (*vni, side.peering.clone());
            if let Some(known) = sides.get_mut(&key) {
                known.on_report(host, side.into());
            } else if there(&key.1) {
                sides.entry(key).or_default().on_report(host, side.into());
            }
        }
    }

    /// Ends an interval for the sides whose course is of interest.
    pub(crate) fn sample<'a>(&self, interesting: impl IntoIterator<Item = (&'a PeeringId, Vni)>, now_ms: u64) {
        let mut sides = self.lock();
        for (peering, vni) in interesting {
            if let Some(side) = sides.get_mut(&(vni, peering.clone())) {
                side.sample(now_ms);
            }
        }
    }

    /// Forgets sides of peerings that are no more. Looks at some that follow `after`: which of them are gone, and the last that
    /// it looked at; none when there are no more.
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

    /// Keeps what is not kept yet, and forgets sides that are gone. Blocks on the disk, for some sides at a time, so that
    /// commands have their turns.
    pub fn save(&self, store: &Store, gone: &[SideKey]) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for ((vni, peering), side) in self.lock().iter_mut().filter(|(_, side)| side.unsaved) {
            rows.push(((peering.clone(), *vni), side.said.clone()));
            side.unsaved = false;
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
        saved.and_then(|()| gone.chunks(SAVED_AT_ONCE).try_for_each(|gone| store.save_traffic::<Said>(&[], gone)))
    }

    /// What a side's hosts have sent and received, and how it went in the last hour, the oldest first; none before
    /// anything was heard of it.
    pub fn of(&self, peering: &PeeringId, vni: Vni) -> Option<(Totals, Vec<Sample>)> {
        let sides = self.lock();
        let side = sides.get(&(vni, peering.clone()))?;
        Some((side.totals(), side.samples.iter().copied().collect()))
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
        TrafficReport { host: None, grants: None, sides: [(7.try_into().unwrap(), side)].into() }
    }

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    fn sent(traffic: &Traffic) -> u64 {
        traffic.of(&"vpcpr-1".parse().unwrap(), 7.try_into().unwrap()).unwrap().0.sent.bytes
    }

    #[test]
    fn totals_only_go_up() {
        let traffic = Traffic::default();
        traffic.on_report(&host("h1"), &report(1000), |_| true);
        traffic.on_report(&host("h2"), &report(500), |_| true);
        assert_eq!(sent(&traffic), 1500);
        traffic.on_report(&host("h1"), &report(1200), |_| true);
        assert_eq!(sent(&traffic), 1700);
        // One that was installed anew; another that has gone says nothing more and still counts.
        traffic.on_report(&host("h1"), &report(10), |_| true);
        assert_eq!(sent(&traffic), 1710);
    }

    #[test]
    fn samples_are_what_passed_in_between_and_reach_back_an_hour() {
        let traffic = Traffic::default();
        for step in 0..200u64 {
            traffic.on_report(&host("h1"), &report(100 * step), |_| true);
            traffic.sample([(&"vpcpr-1".parse().unwrap(), 7.try_into().unwrap())], step);
        }
        let (_, samples) = traffic.of(&"vpcpr-1".parse().unwrap(), 7.try_into().unwrap()).unwrap();
        assert_eq!(samples.len(), SAMPLES);
        assert!(samples.iter().all(|sample| sample.passed.sent.bytes == 100));
        assert_eq!(samples.last().unwrap().time_ms, 199);
    }

    #[test]
    fn sides_of_peerings_that_are_no_more_are_forgotten_piece_by_piece() {
        let traffic = Traffic::default();
        traffic.on_report(&host("h1"), &report(100), |_| true);
        let other: SideKey = ("vpcpr-2".parse().unwrap(), Vni::try_from(8).unwrap());
        traffic.lock().insert((other.1, other.0.clone()), Side::default());
        let (gone, last) = traffic.forget(None, 1, |_| true);
        assert_eq!((gone.len(), traffic.all().len()), (0, 2));
        let (gone, last) = traffic.forget(last.as_ref(), 1, |_| false);
        assert_eq!(gone, [other]);
        assert_eq!(traffic.forget(last.as_ref(), 1, |_| false), (Vec::new(), None));
        assert_eq!(traffic.all().len(), 1);
        traffic.on_report(&host("h1"), &report(200), |_| false);
        assert_eq!(sent(&traffic), 200, "what is there goes on until it is forgotten");
        traffic.forget(None, 9, |_| false);
        traffic.on_report(&host("h1"), &report(300), |_| false);
        assert!(traffic.all().is_empty());
    }

    #[test]
    fn what_is_kept_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        let traffic = Traffic::kept(store.traffic().unwrap());
        traffic.on_report(&host("h1"), &report(1000), |_| true);
        traffic.save(&store, &[]).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let traffic = Traffic::kept(store.traffic().unwrap());
        assert_eq!(sent(&traffic), 1000);
        traffic.on_report(&host("h1"), &report(1100), |_| true);
        assert_eq!(sent(&traffic), 1100, "what the host counted before is not counted twice");
        traffic.save(&store, &[("vpcpr-1".parse().unwrap(), 7.try_into().unwrap())]).unwrap();
        assert!(Traffic::kept(store.traffic().unwrap()).all().is_empty());
    }
}
