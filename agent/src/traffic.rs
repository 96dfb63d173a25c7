//! The traffic of each side, also through devices and processes that are gone. Pure, except for its file.

use crate::file;
use cps_peering_config::{
    SharedHostConfig,
    id::PeeringId,
    net::Vni,
    traffic::{Count, ReadingId, SideTraffic},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// How long a removed side is still reported, in milliseconds: an hour. By then the controller has seen it, or has long
/// been away.
const GONE_KEPT_MS: u64 = 3_600_000;

/// The kernel's counters of one device since it was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The index of the device; a new device has a new index.
    pub device: u32,
    /// Whether a shaper counts what is sent, and not the device.
    pub shaped: bool,
    /// Bytes and packets sent.
    pub sent: Count,
    /// Bytes and packets received.
    pub received: Count,
    /// Packets that the shaper's queue dropped; the kernel counts them modulo 2³².
    pub dropped: u32,
    /// Bytes waiting in the shaper.
    pub backlog: u64,
}

/// The traffic of one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    peering: PeeringId,
    /// The last reading of the device, which is included in `sent` and so on.
    last: Reading,
    sent: Count,
    received: Count,
    dropped: u64,
    /// When it was seen to be gone, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    gone_ms: Option<u64>,
}

impl Record {
    fn new(peering: PeeringId) -> Self {
        let nothing = Count::default();
        Self { peering, last: Reading::default(), sent: nothing, received: nothing, dropped: 0, gone_ms: None }
    }

    fn add(&mut self, now: Reading) {
        // A recreated device starts from zero again, and so does a shaper.
        let same = self.last.device == now.device;
        let begun_anew = |now: Count, last: Count| now.bytes < last.bytes || now.packets < last.packets;
        let since = |now: Count, last: Count, same: bool| {
            if same && !begun_anew(now, last) { now.since(last) } else { now }
        };
        let same_shaper = same && self.last.shaped == now.shaped;
        let anew = !same_shaper || begun_anew(now.sent, self.last.sent);
        self.sent = self.sent.plus(since(now.sent, self.last.sent, same_shaper));
        self.received = self.received.plus(since(now.received, self.last.received, same));
        let more = now.dropped.wrapping_sub(self.last.dropped);
        // A recreated queue starts from zero again: no queue drops that many packets between two readings.
        let dropped = if anew || more > u32::MAX / 2 { now.dropped } else { more };
        self.dropped = self.dropped.saturating_add(dropped.into());
        self.last = now;
    }
}

/// The traffic of all sides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// The boot of the last readings: in another one device indexes mean nothing.
    boot: String,
    /// Distinguishes these counters from earlier ones: when they began, in milliseconds since 1970-01-01 UTC, and in
    /// which process.
    #[serde(default)]
    id: String,
    sides: BTreeMap<Vni, Record>,
    /// Distinguishes this process from earlier ones.
    #[serde(skip)]
    process: String,
    /// How many readings it has taken.
    #[serde(skip)]
    readings: u64,
}

impl Meter {
    /// Takes a reading of all existing devices. `boot` is the kernel's boot id.
    pub fn take(&mut self, boot: &str, config: &SharedHostConfig, readings: &BTreeMap<Vni, Reading>, now_ms: u64) {
        if self.boot != boot {
            boot.clone_into(&mut self.boot);
            self.sides.values_mut().for_each(|record| record.last = Reading::default());
        }
        if self.process.is_empty() {
            self.process = format!("{now_ms}-{}", std::process::id());
        }
        if self.id.is_empty() {
            self.id.clone_from(&self.process);
        }
        self.readings += 1;
        for (vni, reading) in readings {
            // A device whose side is no longer configured: its record has the name of the peering.
            let peering = config.sides.get(vni).map(|side| &side.peering);
            let known = self.sides.get(vni).map(|record| &record.peering);
            let Some(peering) = peering.or(known).cloned() else { continue };
            let record = self.sides.entry(*vni).or_insert_with(|| Record::new(peering.clone()));
            if record.peering != peering {
                *record = Record::new(peering);
            }
            record.add(*reading);
        }
        for (vni, record) in &mut self.sides {
            let there = config.sides.contains_key(vni) || readings.contains_key(vni);
            record.gone_ms = if there { None } else { record.gone_ms.or(Some(now_ms)) };
            if !readings.contains_key(vni) {
                record.last.backlog = 0;
            }
        }
        self.sides.retain(|_, record| record.gone_ms.is_none_or(|gone| now_ms.saturating_sub(gone) < GONE_KEPT_MS));
    }

    /// The id of the last reading.
    pub fn reading(&self) -> ReadingId {
        ReadingId { counters: self.id.clone(), process: self.process.clone(), number: self.readings }
    }

    /// The traffic of these sides, or of all.
    pub fn report(&self, only: impl Fn(Vni) -> bool) -> BTreeMap<Vni, SideTraffic> {
        let of = |record: &Record| SideTraffic {
            peering: record.peering.clone(),
            sent: record.sent,
            dropped: record.dropped,
            received: record.received,
            backlog: record.last.backlog,
            share: None,
        };
        self.sides.iter().filter(|(vni, _)| only(**vni)).map(|(vni, record)| (*vni, of(record))).collect()
    }
}

/// Where the counters are kept.
#[derive(Debug, Clone)]
pub struct MeterFile(PathBuf);

impl MeterFile {
    /// The file beside a ledger.
    pub fn beside(ledger: &Path) -> Self {
        Self(ledger.with_extension("traffic"))
    }

    /// What was stored last; counters start from zero if that cannot be read.
    pub fn load(&self) -> Meter {
        file::load(&self.0, "traffic counters start from zero")
    }

    /// Stores the counters.
    pub fn store(&self, meter: &Meter) -> io::Result<()> {
        Ok(file::replace(&self.0, &[&serde_json::to_vec(meter)?])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Side, config_with_sides};

    fn config(sides: &[(u32, &str)]) -> SharedHostConfig {
        let side = |(vni, peering): &(u32, &str)| Side { peering: (*peering).to_owned(), ..Side::unlimited(*vni) };
        config_with_sides(1, sides.iter().map(side))
    }

    fn seven() -> Vni {
        7.try_into().unwrap()
    }

    fn reading(device: u32, bytes: u64, dropped: u32) -> Reading {
        let count = Count { bytes, packets: bytes / 100 };
        Reading { device, shaped: true, sent: count, received: count, dropped, backlog: 9 }
    }

    /// The counters after each of these readings, with their boot: bytes sent, bytes received, drops.
    fn after(readings: &[(&str, Option<Reading>)]) -> (u64, u64, u64) {
        let mut meter = Meter::default();
        for (boot, reading) in readings {
            let readings = reading.map(|reading| (seven(), reading)).into_iter().collect();
            meter.take(boot, &config(&[(7, "p")]), &readings, 0);
            // Everything that is known is in the file.
            meter = serde_json::from_str(&serde_json::to_string(&meter).unwrap()).unwrap();
        }
        let report = meter.report(|_| true);
        let side = &report[&seven()];
        (side.sent.bytes, side.received.bytes, side.dropped)
    }

    #[test]
    fn counters_only_go_up_over_devices_shapers_and_boots() {
        let r = |device, bytes, dropped| Some(reading(device, bytes, dropped));
        assert_eq!(after(&[("a", r(3, 1000, 1)), ("a", r(3, 1500, 2))]), (1500, 1500, 2));
        assert_eq!(after(&[("a", r(3, 1000, 1)), ("a", None), ("a", r(4, 300, 1))]), (1300, 1300, 2));
        assert_eq!(
            after(&[("a", r(3, 1000, 1)), ("b", r(3, 1200, 1))]),
            (2200, 2200, 2),
            "the same index after a boot"
        );
        let shaper_anew = Reading { sent: Count { bytes: 100, packets: 1 }, ..reading(3, 1200, 0) };
        assert_eq!(after(&[("a", r(3, 1000, 1)), ("a", Some(shaper_anew))]), (1100, 1200, 1));
        let unshaped = Reading { shaped: false, ..reading(3, 5000, 0) };
        assert_eq!(after(&[("a", r(3, 1000, 1)), ("a", Some(unshaped))]), (6000, 5000, 1));
        assert_eq!(after(&[("a", r(3, 1000, u32::MAX)), ("a", r(3, 1000, 1))]).2, u64::from(u32::MAX) + 2);
        assert_eq!(after(&[("a", r(3, 1000, 9)), ("a", r(3, 1200, 2))]).2, 11, "a queue that was made anew");
    }

    #[test]
    fn readings_are_numbered_and_continued_counters_keep_their_id() {
        let mut meter = Meter::default();
        meter.take("a", &config(&[(7, "p")]), &BTreeMap::new(), 5);
        let first = meter.reading();
        meter.take("a", &config(&[(7, "p")]), &BTreeMap::new(), 6);
        let second = meter.reading();
        assert_eq!(
            (&second.counters, &second.process, second.number),
            (&first.counters, &first.process, first.number + 1)
        );
        let mut next: Meter = serde_json::from_str(&serde_json::to_string(&meter).unwrap()).unwrap();
        next.take("b", &config(&[(7, "p")]), &BTreeMap::new(), 7);
        let third = next.reading();
        assert_eq!((&third.counters, third.number), (&first.counters, 1));
        assert_ne!(third.process, first.process, "another process");
    }

    #[test]
    fn a_removed_side_is_reported_for_an_hour() {
        let mut meter = Meter::default();
        let readings = [(seven(), reading(3, 1000, 0))].into();
        meter.take("a", &config(&[(7, "p")]), &readings, 0);
        let none = BTreeMap::new();
        meter.take("a", &config(&[]), &none, 1000);
        meter.take("a", &config(&[]), &none, 999 + GONE_KEPT_MS);
        let report = meter.report(|_| true);
        assert_eq!((report[&seven()].sent.bytes, report[&seven()].backlog), (1000, 0));
        meter.take("a", &config(&[]), &none, 1000 + GONE_KEPT_MS);
        assert!(meter.report(|_| true).is_empty());
    }

    #[test]
    fn another_peering_with_the_same_vni_starts_from_zero() {
        let mut meter = Meter::default();
        meter.take("a", &config(&[(7, "p")]), &[(seven(), reading(3, 1000, 0))].into(), 0);
        meter.take("a", &config(&[(7, "q")]), &[(seven(), reading(4, 50, 0))].into(), 1);
        let report = meter.report(|_| true);
        assert_eq!((report[&seven()].peering.as_str(), report[&seven()].sent.bytes), ("q", 50));
    }
}
