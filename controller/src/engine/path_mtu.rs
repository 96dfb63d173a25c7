//! Limits how often a host can change the MTU of its end of the underlay. Each change affects every host that sends to
//! it, so a host that alternates would cause new plans for all of them.
//!
//! Each host has a bucket of changes. A smaller MTU is accepted while there is a token in the bucket; a larger one only
//! while it is half full. So a host that keeps changing ends with the smaller MTU, with which nothing is lost.

use cps_peering_config::{id::HostId, time::MINUTE_MS};
use std::collections::HashMap;

/// How many changes a full bucket holds.
const BURST: u64 = 8;
/// How many are reserved for smaller MTUs.
const RESERVE: u64 = 4;
/// How often a token returns to a bucket, in milliseconds.
const EVERY_MS: u64 = MINUTE_MS;

/// The buckets, each as the time at which it will be full again. Times are in milliseconds since an arbitrary fixed moment.
#[derive(Debug, Default)]
pub(super) struct Damping(HashMap<HostId, u64>);

impl Damping {
    /// Whether a host's MTU can change now; if so, the change is counted.
    pub(super) fn takes(&mut self, host: &HostId, from: u32, to: u32, now_ms: u64) -> bool {
        let room = if to > from { BURST - RESERVE } else { BURST };
        let full_at_ms = self.0.get(host).copied().unwrap_or_default().max(now_ms);
        let takes = full_at_ms + EVERY_MS <= now_ms + room * EVERY_MS;
        if takes {
            self.0.insert(host.clone(), full_at_ms + EVERY_MS);
        }
        takes
    }

    /// Forgets the hosts whose buckets are full.
    pub(super) fn forget(&mut self, now_ms: u64) {
        self.0.retain(|_, full_at_ms| *full_at_ms > now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_alternates_ends_with_the_smaller_mtu() {
        let (mut damping, host) = (Damping::default(), "h1".parse().unwrap());
        let (mut mtu, mut changes) = (9000, 0);
        let mut say = |damping: &mut Damping, said: u32, now_ms: u64| {
            if said != mtu && damping.takes(&host, mtu, said, now_ms) {
                (mtu, changes) = (said, changes + 1);
            }
            (mtu, changes)
        };
        for second in 0..60 {
            say(&mut damping, if second % 2 == 0 { 1500 } else { 9000 }, 10_000 + second * 1000);
        }
        assert_eq!(say(&mut damping, 1500, 70_000), (1500, 5), "two raises and what they took back");
        // Ever smaller ones are limited, too.
        for step in 0..1000 {
            say(&mut damping, 1499 - step, 70_000 + u64::from(step));
        }
        let (_, changes) = say(&mut damping, 400, 72_000);
        assert!((6..=10).contains(&changes), "{changes}");
        // A host that has been steady for long can change immediately.
        damping.forget(70_000 + (BURST + 1) * EVERY_MS);
        assert!(damping.0.is_empty());
        assert_eq!(say(&mut damping, 9000, 2_000_000).0, 9000);
        assert_eq!(say(&mut damping, 1400, 2_000_000).0, 1400);
        // One host's changes do not count for another.
        assert!(damping.takes(&"h2".parse().unwrap(), 1500, 9000, 2_000_000));
    }
}
