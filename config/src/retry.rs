//! How long to wait before a retry: longer each time, and with jitter.

use std::time::Duration;

/// Pauses that double from a first to a longest one. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// From `first` to `longest`; constant if both are equal.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after this many failures in a row; the first one after none.
    pub fn after(self, failures: u32) -> Duration {
        // That many doublings go from a millisecond to weeks.
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

/// Failures in a row of one retried operation.
#[derive(Debug, Clone)]
pub struct Retry {
    backoff: Backoff,
    failures: u32,
}

impl Retry {
    /// Without a failure so far.
    pub const fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// It failed: returns how long to wait now, with [`jitter`].
    #[must_use]
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        jitter(self.backoff.after(self.failures))
    }

    /// It succeeded, or is another operation now: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random part of a duration, at least half of it, so that many who wait do not act simultaneously.
#[must_use]
pub fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u128> = (0..10).map(|failures| BACKOFF.after(failures).as_millis()).collect();
        assert_eq!(pauses, [200, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        assert_eq!(BACKOFF.after(u32::MAX), Duration::from_secs(15));
        let steady = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!([1, 2, 40].map(|failures| steady.after(failures)), [Duration::from_secs(1); 3]);
    }

    #[test]
    fn pauses_are_jittered_down_to_half() {
        let mut retry = Retry::new(BACKOFF);
        for failures in [1, 2, 3] {
            let (pause, most) = (retry.failed(), BACKOFF.after(failures));
            assert!((most / 2..=most).contains(&pause), "{pause:?} after {failures}");
        }
        retry.reset();
        assert!(retry.failed() <= BACKOFF.after(1));
    }

    #[test]
    fn waiters_do_not_act_simultaneously() {
        let mut pauses: Vec<Duration> = (0..100).map(|_| jitter(Duration::from_secs(10))).collect();
        pauses.sort();
        assert!(pauses[99] > pauses[0] + Duration::from_secs(1), "{pauses:?}");
    }
}
