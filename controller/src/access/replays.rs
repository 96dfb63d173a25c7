//! Recent signed requests, so that none is accepted twice.
//!
//! A signature covers the request and its second. Whoever has seen it must not be able to repeat it for as long as its date is
//! valid: requests are remembered until then. Only admitted requests are, so refusals cost nothing.

use crate::digest;
use cps_peering_config::{id::AccountId, time::MINUTE_MS};
use std::collections::HashMap;

/// How many signed requests are remembered, some 60 bytes each. An account can have no more of them than are free.
const MOST: usize = 1 << 20;
/// For how long a client can send the same change again in good faith, in milliseconds.
const AT_ONCE_MS: u64 = 3000;

/// A signature with its nonce, or a signature alone: half of a SHA-256.
type Key = [u8; 16];

/// Why a request is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotNew {
    /// It was received before.
    Replayed,
    /// So many of this account are remembered that there is no room for more.
    NoRoom,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    first_ms: u64,
    until_ms: u64,
}

/// Recent requests, by account.
#[derive(Debug, Default)]
pub(super) struct Replays {
    by_account: HashMap<AccountId, HashMap<Key, Times>>,
    count: usize,
    forget_at_ms: u64,
    /// The time of the last call.
    asked_ms: u64,
}

fn key(parts: &[&str]) -> Key {
    let mut key = Key::default();
    // Neither signatures, which are hexadecimal, nor headers have a line feed.
    key.copy_from_slice(&digest::sha256(parts.join("\n").as_bytes())[..16]);
    key
}

impl Replays {
    /// Remembers a request of an account. The newer signature does not cover the nonce: exactly the same request is always
    /// refused; one with the same signature and another nonce can be a client that repeats it within a second, which `changes`
    /// nothing the second time (see `model::decide`). Such a client does so within moments: later, what changed nothing when it was
    /// signed might change something.
    pub(super) fn take(
        &mut self,
        account: &AccountId,
        [signature, nonce]: [&str; 2],
        until_ms: u64,
        now_ms: u64,
        changes: bool,
    ) -> Result<(), NotNew> {
        if let Some(back_ms) = self.asked_ms.checked_sub(now_ms).filter(|back_ms| *back_ms > MINUTE_MS) {
            self.set_back(back_ms);
        }
        self.asked_ms = now_ms;
        if now_ms >= self.forget_at_ms {
            self.forget(now_ms);
        }
        let own = self.by_account.get(account);
        let (exact, alone) = (key(&[signature, nonce]), key(&[signature]));
        let known = |key: &Key| own.and_then(|own| own.get(key));
        let is_old = known(&alone).is_some_and(|times| now_ms.saturating_sub(times.first_ms) > AT_ONCE_MS);
        if known(&exact).is_some() || (changes && is_old) {
            return Err(NotNew::Replayed);
        }
        let keys = if changes { [exact, alone].to_vec() } else { vec![exact] };
        if own.map_or(0, HashMap::len) + keys.len() > MOST.saturating_sub(self.count) {
            return Err(NotNew::NoRoom);
        }
        let own = self.by_account.entry(account.clone()).or_default();
        let before = own.len();
        for key in keys {
            own.entry(key).or_insert(Times { first_ms: now_ms, until_ms });
        }
        self.count += own.len() - before;
        Ok(())
    }

    /// The clock was set back: nothing is remembered for longer because of that.
    fn set_back(&mut self, back_ms: u64) {
        for times in self.by_account.values_mut().flat_map(HashMap::values_mut) {
            times.first_ms = times.first_ms.saturating_sub(back_ms);
            times.until_ms = times.until_ms.saturating_sub(back_ms);
        }
        self.forget_at_ms = self.forget_at_ms.saturating_sub(back_ms);
    }

    fn forget(&mut self, now_ms: u64) {
        self.by_account.retain(|_, own| {
            own.retain(|_, times| times.until_ms >= now_ms);
            if own.len() < own.capacity() / 4 {
                own.shrink_to_fit();
            }
            !own.is_empty()
        });
        self.count = self.by_account.values().map(HashMap::len).sum();
        self.forget_at_ms = now_ms + MINUTE_MS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    #[test]
    fn an_identical_request_is_accepted_once_and_the_same_change_only_within_moments() {
        let (mut replays, acme) = (Replays::default(), id("acme"));
        let mut take = |nonce: &str, now_ms, changes| replays.take(&acme, ["s", nonce], 900_000, now_ms, changes);
        assert_eq!(take("1", 1000, true), Ok(()));
        assert_eq!(take("1", 1000, true), Err(NotNew::Replayed));
        assert_eq!(take("2", 1000 + AT_ONCE_MS, true), Ok(()));
        assert_eq!(take("3", 1001 + AT_ONCE_MS, true), Err(NotNew::Replayed));
        assert_eq!(take("3", 1001 + AT_ONCE_MS, false), Ok(()), "what reads may be asked again");
        assert_eq!(take("3", 900_000, false), Err(NotNew::Replayed));
        assert_eq!(take("1", 900_001 + MINUTE_MS, true), Ok(()), "its date is not good any more, and it is forgotten");
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nothing_longer() {
        let (mut replays, acme, day) = (Replays::default(), id("acme"), 86_400_000);
        let until = |now_ms| now_ms + 900_000;
        let mut take = |nonce: &str, now_ms| replays.take(&acme, ["s", nonce], until(now_ms), now_ms, false);
        assert_eq!(take("1", 3 * day), Ok(()));
        assert_eq!(take("1", day), Err(NotNew::Replayed), "the clock was set back by two days");
        assert_eq!(take("2", day + 10_000), Ok(()));
        assert_eq!(take("1", day + 900_000 + MINUTE_MS), Ok(()), "forgotten in its time");
        assert_eq!(replays.count, 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_one_account_takes_nothing_from_others() {
        let mut replays = Replays::default();
        let mut count = 0;
        while replays.take(&id("busy"), ["s", &count.to_string()], 900_000, 0, false).is_ok() {
            count += 1;
        }
        assert_eq!(count, MOST / 2);
        assert_eq!(replays.take(&id("busy"), ["s", "more"], 900_000, 0, false), Err(NotNew::NoRoom));
        assert_eq!(
            replays.take(&id("busy"), ["s", "0"], 900_000, 0, false),
            Err(NotNew::Replayed),
            "nothing is forgotten for it"
        );
        assert_eq!(replays.take(&id("other"), ["s", "0"], 900_000, 0, true), Ok(()));
        assert_eq!(replays.take(&id("busy"), ["s", "more"], 2_000_000, 900_001, false), Ok(()));
        assert_eq!(replays.count, 1);
    }
}
