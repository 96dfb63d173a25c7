//! Traffic over time, in buckets of three lengths. Pure.

use cps_peering_config::time::HOUR_MS;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The traffic within a bucket, or between two reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes to the peer.
    pub sent: u64,
    /// Bytes from the peer.
    pub received: u64,
    /// Packets that the limit has dropped.
    pub dropped: u64,
}

impl Passed {
    fn map(self, of: impl Fn(u64) -> u64) -> Self {
        Self { sent: of(self.sent), received: of(self.received), dropped: of(self.dropped) }
    }

    fn zip(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            sent: of(self.sent, other.sent),
            received: of(self.received, other.received),
            dropped: of(self.dropped, other.dropped),
        }
    }
}

/// A bucket with traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket(u64, u64, u64, u64);

/// Buckets of one length, the oldest first. Those without traffic are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ring {
    width_ms: u64,
    most: u64,
    buckets: VecDeque<Bucket>,
}

impl Ring {
    fn new(width_s: u64, most: u64) -> Self {
        Self { width_ms: width_s * 1000, most, buckets: VecDeque::new() }
    }

    /// Spreads traffic evenly over its time.
    fn add(&mut self, from_ms: u64, to_ms: u64, passed: Passed) {
        let last = to_ms.saturating_sub(1) / self.width_ms;
        let first = (from_ms / self.width_ms).max((last + 1).saturating_sub(self.most)).min(last);
        let whole = u128::from(to_ms.saturating_sub(from_ms).max(1));
        // Computed cumulatively, so that rounding neither loses nor duplicates anything.
        let until = |ms: u64| {
            let part = u128::from(ms.clamp(from_ms, to_ms) - from_ms).min(whole);
            let part = if to_ms > from_ms { part } else { whole };
            passed.map(|count| u64::try_from(u128::from(count) * part / whole).unwrap_or(u64::MAX))
        };
        let mut before = if to_ms > from_ms { until(first * self.width_ms) } else { Passed::default() };
        for number in first..=last {
            let now = until((number + 1).saturating_mul(self.width_ms));
            self.add_to(number, now.zip(before, u64::saturating_sub));
            before = now;
        }
        let oldest = (last + 1).saturating_sub(self.most);
        let old = self.buckets.partition_point(|bucket| bucket.0 < oldest);
        self.buckets.drain(..old);
    }

    /// Forgets the buckets that begin at a moment or later.
    fn forget_after(&mut self, ms: u64) {
        let kept = self.buckets.partition_point(|bucket| bucket.0.saturating_mul(self.width_ms) < ms);
        self.buckets.truncate(kept);
    }

    fn add_to(&mut self, number: u64, passed: Passed) {
        if passed == Passed::default() {
            return;
        }
        // It is nearly always one of the last.
        let place = match self.buckets.back() {
            Some(back) if back.0 < number => Err(self.buckets.len()),
            _ => self.buckets.binary_search_by_key(&number, |bucket| bucket.0),
        };
        match place {
            Ok(place) => {
                let Bucket(_, sent, received, dropped) = self.buckets[place];
                let sum = passed.zip(Passed { sent, received, dropped }, u64::saturating_add);
                self.buckets[place] = Bucket(number, sum.sent, sum.received, sum.dropped);
            }
            Err(place) => {
                let Passed { sent, received, dropped } = passed;
                self.buckets.insert(place, Bucket(number, sent, received, dropped));
            }
        }
    }
}

/// A period, and with it the resolution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Span {
    /// An hour, by 20 s.
    #[default]
    Hour,
    /// 24 hours, by 5 min.
    Day,
    /// 7 days, by the hour.
    Week,
    /// 30 days, by the hour.
    Month,
}

impl Span {
    /// All of them, by their names in the HTTP API.
    pub const ALL: [(&'static str, Span); 4] =
        [("1h", Span::Hour), ("24h", Span::Day), ("7d", Span::Week), ("30d", Span::Month)];

    /// Seconds in a bucket, and how many buckets there are.
    pub fn buckets(self) -> (u64, u64) {
        match self {
            Span::Hour => (20, 180),
            Span::Day => (300, 288),
            Span::Week => (3600, 7 * 24),
            Span::Month => (3600, 30 * 24),
        }
    }
}

/// The traffic within one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The traffic.
    pub passed: Passed,
}

/// The history of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Series {
    /// By 20 s, 5 min and the hour.
    rings: [Ring; 3],
    /// The known time, in milliseconds since 1970-01-01 UTC; none before the first report.
    known_ms: Option<(u64, u64)>,
}

impl Default for Series {
    fn default() -> Self {
        let ring = |span: Span| {
            let (width_s, most) = span.buckets();
            Ring::new(width_s, most)
        };
        Self { rings: [Span::Hour, Span::Day, Span::Month].map(ring), known_ms: None }
    }
}

/// The stored form: only what took longest to gather.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(default)]
    since_ms: u64,
    #[serde(default)]
    until_ms: u64,
    #[serde(default)]
    five_min: Vec<Bucket>,
    #[serde(default)]
    hours: Vec<Bucket>,
}

/// Reports arrive in order, a few seconds apart. One that ends this much before the known time is due to a clock that was set back.
const LEAP_MS: u64 = HOUR_MS;

impl Series {
    /// Adds traffic, possibly none, between two moments.
    pub(super) fn add(&mut self, from_ms: u64, to_ms: u64, passed: Passed) {
        if to_ms < from_ms {
            return;
        }
        if let Some((since, until)) = &mut self.known_ms
            && to_ms + LEAP_MS < *until
        {
            // Buckets in the future belong to a wrong clock.
            self.rings.iter_mut().for_each(|ring| ring.forget_after(to_ms));
            (*since, *until) = ((*since).min(from_ms), to_ms);
        }
        for ring in &mut self.rings {
            ring.add(from_ms, to_ms, passed);
        }
        let (since, until) = self.known_ms.unwrap_or((from_ms, to_ms));
        self.known_ms = Some((since.min(from_ms), until.max(to_ms)));
    }

    /// The completed buckets up to the known time, the oldest first.
    pub(super) fn of(&self, span: Span) -> Vec<Sample> {
        let Some((since_ms, until_ms)) = self.known_ms else { return Vec::new() };
        let (width_s, most) = span.buckets();
        let ring = match span {
            Span::Hour => &self.rings[0],
            Span::Day => &self.rings[1],
            Span::Week | Span::Month => &self.rings[2],
        };
        let width_ms = width_s * 1000;
        let end = until_ms / width_ms;
        let first = (since_ms / width_ms).max(end.saturating_sub(most));
        let mut buckets = ring.buckets.iter().skip_while(|bucket| bucket.0 < first).peekable();
        let sample = |number: u64| {
            let found = buckets.next_if(|bucket| bucket.0 == number);
            let passed = found.map_or(Passed::default(), |Bucket(_, sent, received, dropped)| Passed {
                sent: *sent,
                received: *received,
                dropped: *dropped,
            });
            Sample { time_ms: (number + 1) * width_ms, passed }
        };
        (first..end).map(sample).collect()
    }

    /// The hour of the last bucket.
    pub(super) fn hour(&self) -> u64 {
        self.known_ms.map_or(0, |(_, until)| until / HOUR_MS)
    }

    pub(super) fn to_keep(&self) -> Kept {
        let (since_ms, until_ms) = self.known_ms.unwrap_or_default();
        let [_, five_min, hours] = self.rings.each_ref().map(|ring| ring.buckets.iter().copied().collect());
        Kept { since_ms, until_ms, five_min, hours }
    }

    /// Restores what was stored. None if the end of the known time is missing.
    pub(super) fn kept(kept: Kept) -> Self {
        let known_ms = (kept.until_ms > 0).then_some((kept.since_ms, kept.until_ms));
        let mut series = Self { known_ms, ..Self::default() };
        series.rings[1].buckets = kept.five_min.into();
        series.rings[2].buckets = kept.hours.into();
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::time::DAY_MS;

    fn sent(bytes: u64) -> Passed {
        Passed { sent: bytes, received: 2 * bytes, dropped: bytes / 100 }
    }

    fn bytes(series: &Series, span: Span) -> Vec<u64> {
        series.of(span).iter().map(|sample| sample.passed.sent).collect()
    }

    #[test]
    fn what_passed_is_spread_over_the_time_in_which_it_did() {
        let mut series = Series::default();
        series.add(0, 20_000, sent(1000));
        // A host that was unreachable for a minute: no bucket has more than what could have passed in it.
        series.add(20_000, 80_000, sent(3000));
        series.add(80_000, 90_000, sent(500));
        assert_eq!(bytes(&series, Span::Hour), [1000; 4]);
        series.add(90_000, 100_000, sent(500));
        assert_eq!(bytes(&series, Span::Hour), [1000; 5]);
        assert_eq!(series.of(Span::Hour)[4].time_ms, 100_000);
        // Rounding loses nothing, in any ring.
        series.add(100_000, 100_007, sent(1));
        series.add(100_007, 7_200_000, sent(1_000_003));
        for ring in &series.rings[1..] {
            assert_eq!(ring.buckets.iter().map(|it| it.1).sum::<u64>(), 1_005_004);
        }
    }

    #[test]
    fn a_clock_that_is_put_back_leaves_no_time_without_traffic() {
        const DAYS: u64 = 8 * DAY_MS;
        let mut series = Series::default();
        series.add(0, 20_000, sent(100));
        series.add(DAYS, DAYS + 20_000, sent(500));
        series.add(20_000, 40_000, sent(300));
        assert_eq!(bytes(&series, Span::Hour), [0, 300], "the ring of the hour had begun anew");
        assert_eq!(series.of(Span::Hour)[1].time_ms, 40_000);
        assert_eq!(series.rings[2].buckets.iter().map(|it| it.1).sum::<u64>(), 400);
    }

    #[test]
    fn two_hosts_add_up_and_a_bucket_without_traffic_is_there() {
        let mut series = Series::default();
        series.add(0, 40_000, sent(200));
        series.add(0, 20_000, sent(100));
        series.add(60_000, 80_000, sent(100));
        series.add(80_000, 120_000, Passed::default());
        assert_eq!(bytes(&series, Span::Hour), [200, 100, 0, 100, 0, 0]);
        assert_eq!(series.rings[0].buckets.len(), 3, "what is nothing takes no room");
    }

    #[test]
    fn each_ring_forgets_what_is_older_than_its_span() {
        let mut series = Series::default();
        for hour in 0..40 * 24 {
            series.add(hour * 3_600_000, (hour + 1) * 3_600_000, sent(3600));
        }
        for (span, samples) in [(Span::Hour, 180), (Span::Day, 288), (Span::Week, 168), (Span::Month, 720)] {
            let found = series.of(span);
            assert_eq!(found.len(), samples, "{span:?}");
            let (width_s, _) = span.buckets();
            assert!(found.iter().all(|sample| sample.passed.sent == width_s), "{span:?}");
            assert_eq!(found.last().unwrap().time_ms, 40 * DAY_MS);
        }
        assert!(series.rings.iter().zip([180, 288, 720]).all(|(ring, most)| ring.buckets.len() == most));
        // Also if a host was away for longer than that.
        series.add(40 * DAY_MS, 100 * DAY_MS, sent(60 * 86_400));
        assert!(series.rings.iter().zip([180, 288, 720]).all(|(ring, most)| ring.buckets.len() == most));
        assert!(bytes(&series, Span::Month).iter().all(|sent| *sent == 3600));
        let again = Series::kept(serde_json::from_str(&serde_json::to_string(&series.to_keep()).unwrap()).unwrap());
        assert_eq!(again.of(Span::Month), series.of(Span::Month));
        assert_eq!(again.of(Span::Day), series.of(Span::Day));
    }
}
