//! How long a peer may keep us waiting for bytes.

use std::time::Duration;
use tokio::time::Instant;

/// The minimum rate at which a peer must send or take bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinimumRate {
    /// How long it may send or take nothing.
    pub stall: Duration,
    /// The average rate that is required, in bytes per second.
    pub bytes_per_s: u32,
}

/// How much longer a peer may keep us waiting: a time budget. Waiting uses it up, every byte adds to it, and it never
/// exceeds the longest stall. So a peer that is too slow on average runs out of it, and a byte now and then does not
/// help.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: MinimumRate,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: MinimumRate) -> Self {
        Self { rate, left: rate.stall, waiting_since: None }
    }

    /// We wait for the peer. Returns its deadline.
    pub(crate) fn wait(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now) + self.left
    }

    /// Bytes were received or sent.
    pub(crate) fn passed(&mut self, bytes: usize, now: Instant) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now - since);
        let earned =
            Duration::from_secs(1).saturating_mul(bytes.try_into().unwrap_or(u32::MAX)) / self.rate.bytes_per_s.max(1);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.rate.stall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn pace() -> (Pace, Instant) {
        (Pace::new(MinimumRate { stall: 10 * S, bytes_per_s: 100 }), Instant::now())
    }

    #[test]
    fn an_idle_peer_has_the_longest_stall_and_no_more() {
        let (mut pace, now) = pace();
        assert_eq!(pace.wait(now), now + 10 * S);
        assert_eq!(pace.wait(now + 3 * S), now + 10 * S, "it is the same wait");
        pace.passed(1_000_000_000, now + 9 * S);
        assert_eq!(pace.wait(now + 9 * S), now + 19 * S, "no more than that can be saved");
    }

    #[test]
    fn a_peer_fast_enough_on_average_may_go_on_and_a_dribble_may_not() {
        let (mut fast, start) = pace();
        let mut now = start;
        for _ in 0..1000 {
            let end = fast.wait(now);
            now += 2 * S;
            assert!(now < end);
            fast.passed(200, now);
        }
        let (mut slow, start) = pace();
        let mut now = start;
        loop {
            let end = slow.wait(now);
            now += S;
            if now >= end {
                break;
            }
            slow.passed(1, now);
        }
        assert!(now - start <= 11 * S, "{:?}", now - start);
    }
}
