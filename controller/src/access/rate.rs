//! Rate limits on requests of an account, and on failed sign-ins.
//!
//! Each is a token bucket, kept as the time at which it will be full again (GCRA); a full bucket takes no memory. Flooding the
//! tables with addresses drops the fullest buckets first: memory is bounded, and nobody is refused because of others.

use cps_peering_config::id::AccountId;
pub use cps_peering_http::source::Source;
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How many buckets of one kind there may be.
const MOST: usize = 16 * 1024;
/// How long a correct credential from an address is remembered.
const PROVEN: Duration = Duration::from_hours(24);

/// How fast a bucket refills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    every: Duration,
    burst: u32,
}

impl Rate {
    /// `count` within a time, and `burst` at once, at least one. None with `count` 0: there is no limit.
    pub fn new(count: u32, within: Duration, burst: u32) -> Option<Self> {
        (count > 0).then(|| Self { every: within / count, burst: burst.max(1) })
    }

    fn whole(self) -> Duration {
        self.every.saturating_mul(self.burst)
    }
}

/// The limits; none for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of an account's requests.
    pub requests: Option<Rate>,
    /// Of failed sign-ins.
    pub failures: Option<Rate>,
}

/// Buckets by key. Times are relative to an arbitrary fixed moment.
struct Buckets<K>(HashMap<K, Duration>);

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Buckets<K> {
    /// How long until there is a token; zero if there is one.
    fn wait(&self, key: &K, rate: Rate, now: Duration) -> Duration {
        let full_at = self.0.get(key).copied().unwrap_or_default().max(now);
        (full_at + rate.every).saturating_sub(now + rate.whole())
    }

    /// Takes tokens, as many as are left.
    fn charge(&mut self, key: K, tokens: u32, rate: Rate, now: Duration) {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.forget(now);
        }
        let full_at = self.0.entry(key).or_default();
        *full_at = ((*full_at).max(now) + rate.every.saturating_mul(tokens)).min(now + rate.whole());
    }

    /// Drops full buckets, and if that is not enough half of the others.
    fn forget(&mut self, now: Duration) {
        self.0.retain(|_, full_at| *full_at > now);
        if self.0.len() >= MOST {
            keep_the_latest_half(&mut self.0);
        }
    }
}

fn keep_the_latest_half<K: Hash + Eq>(times: &mut HashMap<K, Duration>) {
    let mut all: Vec<Duration> = times.values().copied().collect();
    let middle = all.len() / 2;
    let (_, middle, _) = all.select_nth_unstable(middle);
    let middle = *middle;
    times.retain(|_, time| *time > middle);
}

/// The identity that a credential claims: the SHA-256 of its access key or token.
pub type Claim = [u8; 32];

#[derive(Default)]
struct Inner {
    rates: Rates,
    requests: Buckets<AccountId>,
    failures: Buckets<Source>,
    /// By claimed identity, from any address; also for unknown ones, which must look like known ones.
    against: Buckets<Claim>,
    /// Failures of pairs of address and identity that were right before.
    slips: Buckets<(Source, Claim)>,
    /// Pairs that were right, and when last.
    proven: HashMap<(Source, Claim), Duration>,
}

/// Limits requests and failures.
pub struct Guard {
    began: Instant,
    inner: Mutex<Inner>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { began: Instant::now(), inner: Mutex::default() }
    }
}

impl Guard {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the limits.
    pub fn tune(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// Counts a request. The error is the time to wait.
    pub fn request(&self, account: &AccountId) -> Result<(), Duration> {
        self.lock().request(account, self.began.elapsed())
    }

    /// Whether a credential is checked at all. The error is the time to wait.
    pub fn admit(&self, from: Source, claim: Claim) -> Result<(), Duration> {
        self.lock().admit(from, claim, self.began.elapsed())
    }

    /// A credential was right.
    pub fn right(&self, from: Source, claim: Claim) {
        self.lock().right(from, claim, self.began.elapsed());
    }

    /// A credential was wrong.
    pub fn wrong(&self, from: Source, claim: Claim) {
        self.lock().wrong(from, claim, self.began.elapsed());
    }
}

impl Inner {
    fn request(&mut self, account: &AccountId, now: Duration) -> Result<(), Duration> {
        let Some(rate) = self.rates.requests else { return Ok(()) };
        let wait = self.requests.wait(account, rate, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.requests.charge(account.clone(), 1, rate, now);
        Ok(())
    }

    fn is_proven(&self, pair: (Source, Claim), rate: Rate, now: Duration) -> bool {
        let lately = self.proven.get(&pair).is_some_and(|last| now.saturating_sub(*last) < PROVEN);
        lately && self.slips.wait(&pair, rate, now).is_zero()
    }

    /// An identity that was right before from the same address is admitted, whatever others do at that address or with that key.
    fn admit(&self, from: Source, claim: Claim, now: Duration) -> Result<(), Duration> {
        let Some(rate) = self.rates.failures else { return Ok(()) };
        let wait = self.failures.wait(&from, rate, now);
        if wait.is_zero() || self.is_proven((from, claim), rate, now) { Ok(()) } else { Err(wait) }
    }

    fn right(&mut self, from: Source, claim: Claim, now: Duration) {
        if self.proven.len() >= MOST && !self.proven.contains_key(&(from, claim)) {
            self.proven.retain(|_, last| now.saturating_sub(*last) < PROVEN);
            if self.proven.len() >= MOST {
                keep_the_latest_half(&mut self.proven);
            }
        }
        self.proven.insert((from, claim), now);
    }

    /// While many addresses try one key, each has a single try instead of a whole bucket: together they get nowhere, and the key's
    /// owner is admitted at the first right try, from any address.
    fn wrong(&mut self, from: Source, claim: Claim, now: Duration) {
        let Some(rate) = self.rates.failures else { return };
        if self.proven.contains_key(&(from, claim)) {
            self.slips.charge((from, claim), 1, rate, now);
        }
        let under_attack = !self.against.wait(&claim, rate, now).is_zero();
        self.against.charge(claim, 1, rate, now);
        self.failures.charge(from, if under_attack { rate.burst } else { 1 }, rate, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const S: Duration = Duration::from_secs(1);
    const KEY: Claim = [1; 32];

    fn inner() -> Inner {
        let rate = |burst| Rate::new(1, S, burst);
        Inner { rates: Rates { requests: rate(3), failures: rate(3) }, ..Inner::default() }
    }

    fn from(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn number(number: u32) -> Source {
        IpAddr::V4(number.into()).into()
    }

    #[test]
    fn an_accounts_requests_are_limited_and_others_are_not_affected() {
        let (mut inner, acme, other) = (inner(), "acme".parse().unwrap(), "other".parse().unwrap());
        let now = 100 * S;
        for _ in 0..3 {
            assert_eq!(inner.request(&acme, now), Ok(()));
        }
        assert_eq!(inner.request(&acme, now), Err(S));
        assert_eq!(inner.request(&acme, now + S / 4), Err(S * 3 / 4), "to be refused costs nothing");
        assert_eq!(inner.request(&other, now), Ok(()));
        assert_eq!(inner.request(&acme, now + S), Ok(()));
        assert_eq!(inner.request(&acme, now + S), Err(S));
        // No more than the burst, however long there was no request.
        for _ in 0..3 {
            assert_eq!(inner.request(&acme, now + 100 * S), Ok(()));
        }
        assert_eq!(inner.request(&acme, now + 100 * S), Err(S));
        inner.rates = Rates { requests: Rate::new(0, S, 3), failures: None };
        assert_eq!(inner.request(&acme, now + 100 * S), Ok(()), "without a limit");
    }

    #[test]
    fn an_address_that_guesses_is_slowed_and_proven_neighbours_are_not() {
        let (mut inner, now) = (inner(), S);
        let (guesser, owner) = (from("192.0.2.1"), [2; 32]);
        inner.right(guesser, owner, now);
        for guess in 0..3_u8 {
            assert_eq!(inner.admit(guesser, KEY, now), Ok(()));
            inner.wrong(guesser, [100 + guess; 32], now);
        }
        assert_eq!(inner.admit(guesser, KEY, now), Err(S));
        assert_eq!(inner.admit(guesser, owner, now), Ok(()), "another behind the same address");
        assert_eq!(inner.admit(from("192.0.2.2"), KEY, now), Ok(()));
        assert_eq!(inner.admit(guesser, KEY, now + S), Ok(()));
        // An identity that was right once cannot guess without a limit.
        for _ in 0..3 {
            assert_eq!(inner.admit(guesser, owner, now), Ok(()));
            inner.wrong(guesser, owner, now);
        }
        assert_eq!(inner.admit(guesser, owner, now), Err(S));
        assert_eq!(inner.admit(guesser, owner, now + PROVEN), Ok(()));
    }

    #[test]
    fn many_addresses_that_try_one_key_have_one_try_each_and_do_not_lock_its_owner_out() {
        let (mut inner, now) = (inner(), S);
        for address in 0..3 {
            inner.wrong(number(address), KEY, now);
            assert_eq!(inner.admit(number(address), KEY, now), Ok(()));
        }
        for address in 3..1000 {
            assert_eq!(inner.admit(number(address), KEY, now), Ok(()));
            inner.wrong(number(address), KEY, now);
            assert_eq!(inner.admit(number(address), KEY, now), Err(S));
        }
        assert_eq!(inner.admit(number(9999), KEY, now), Ok(()), "the owner, from a new address");
    }

    #[test]
    fn memory_is_bounded_and_those_who_guess_most_are_remembered() {
        let (mut inner, now) = (inner(), S);
        let worst = from("192.0.2.1");
        for _ in 0..3 {
            inner.wrong(worst, KEY, now);
        }
        for address in 0..3 * u32::try_from(MOST).unwrap() {
            let mut claim = [9; 32];
            claim[..4].copy_from_slice(&address.to_be_bytes());
            inner.wrong(number(address), claim, now);
            inner.right(number(address), KEY, now + Duration::from_nanos(address.into()));
        }
        assert!(inner.failures.0.len() <= MOST && inner.against.0.len() <= MOST && inner.proven.len() <= MOST);
        assert_eq!(inner.admit(worst, KEY, now), Err(S));
        assert!(inner.proven.contains_key(&(number(3 * u32::try_from(MOST).unwrap() - 1), KEY)));
    }
}
