//! How many packets a host sends for probes. Pure.

use std::time::{Duration, Instant};

/// The burst and the rate per second of probe packets of a host: never more than 50 within one second, however many are
/// requested.
pub(crate) const BURST: u32 = 20;
pub(crate) const PER_SECOND: u32 = 30;
/// How many of them continuous probes leave for probes on request.
pub(crate) const RESERVE: u32 = 8;

/// A bucket that holds [`BURST`] tokens and is refilled at [`PER_SECOND`]: one for each packet. It is stored as the
/// time at which it will be full again (GCRA).
#[derive(Debug)]
pub(crate) struct Budget {
    full_at: Instant,
}

const EVERY: Duration = Duration::from_micros(1_000_000 / PER_SECOND as u64);

impl Budget {
    /// A full one.
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes this many tokens, or none if there are fewer.
    pub(crate) fn take(&mut self, tokens: u32, now: Instant) -> bool {
        self.take_leaving(0, tokens, now)
    }

    /// The same, leaving a reserve for others.
    pub(crate) fn take_leaving(&mut self, reserve: u32, tokens: u32, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + EVERY * tokens;
        let enough = full_at <= now + EVERY * BURST.saturating_sub(reserve);
        if enough {
            self.full_at = full_at;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_fifty() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut sent = Vec::new();
        // Idle, greedy, idle, greedy.
        for ms in (0..3000).chain(5000..8000) {
            while budget.take(1, start + Duration::from_millis(ms)) {
                sent.push(ms);
            }
        }
        for from in 0..8000 {
            let within = sent.iter().filter(|ms| (from..from + 1000).contains(*ms)).count();
            assert!(within <= 50, "{within} from {from} ms on");
        }
        assert!(sent.len() >= 210, "{}", sent.len());
        assert!(!budget.take(BURST + 1, start + Duration::from_hours(1)), "more than it holds");
    }

    #[test]
    fn continuous_use_leaves_a_reserve_for_others() {
        let start = Instant::now();
        let (mut budget, mut sampled) = (Budget::new(start), 0);
        for ms in 0..2000 {
            let now = start + Duration::from_millis(ms);
            while budget.take_leaving(RESERVE, 1, now) {
                sampled += 1;
            }
            assert!(ms % 500 != 0 || budget.take(RESERVE, now), "after {ms} ms");
        }
        assert!(sampled >= 30, "{sampled}");
    }

    #[test]
    fn it_takes_all_or_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!(budget.take(BURST - 1, start) && !budget.take(2, start) && budget.take(1, start));
        assert!(!budget.take(4, start + EVERY * 3) && budget.take(3, start + EVERY * 3));
    }
}
