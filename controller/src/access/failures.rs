//! Failed sign-ins and refused permissions in the audit trail. Each address and each credential has a budget of entries per minute, within a
//! total one, so that guessing hides nobody else's entries; of the rest, the trail has the number, and where most of them came from.

use crate::{audit::Entry, engine::Engine, model::Actor};
use cps_peering_config::{
    id::AccountId,
    text::{self, MAX_QUOTED},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Entries per minute at most: guesses must not fill the trail.
pub const RECORDED_PER_MINUTE: u32 = 300;
/// How many of them are reserved for the first ones of an address and credential.
const FIRST_PER_MINUTE: u32 = 100;
/// Entries per minute of one address.
pub const RECORDED_PER_ADDRESS: u32 = 30;
/// Entries per minute of the credentials of one account, or of unknown ones, from one address.
pub const RECORDED_PER_CREDENTIAL: u32 = 10;
/// How many addresses and credentials are counted separately; others share a budget.
const MAX_SOURCES: usize = 4096;
/// How many of the addresses that most of the rest came from are named.
const NAMED: usize = 5;
const MINUTE: Duration = Duration::from_mins(1);

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The address of the client.
    pub address: IpAddr,
    /// The id of the request.
    pub request: String,
}

/// An authentication that failed, or a request without permission.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// Who it is; `unknown` if not authenticated.
    pub actor: &'a str,
    /// What was tried: `SignIn`, or `PermissionDenied`.
    pub action: &'static str,
    /// The credential, or the object.
    pub target: &'a str,
    /// The reason.
    pub reason: &'a str,
    /// The account whose credential was claimed.
    pub account: Option<&'a AccountId>,
}

/// The entries of an address, or of one credential from it, within a minute.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    recorded: u32,
    unrecorded: u64,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    /// All of them, apart from the first ones.
    recorded: u32,
    first: u32,
    by_address: BTreeMap<Option<IpAddr>, Count>,
    by_credential: BTreeMap<Option<(IpAddr, String)>, u32>,
}

/// What was not recorded within a minute.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missed {
    entries: u64,
    /// The addresses from which most of it came; none for those that were not counted separately.
    most: Vec<(Option<IpAddr>, u64)>,
}

impl Window {
    fn missed(&self) -> Missed {
        let mut most: Vec<(Option<IpAddr>, u64)> =
            self.by_address.iter().map(|(address, count)| (*address, count.unrecorded)).filter(|it| it.1 > 0).collect();
        let entries = most.iter().map(|(_, count)| count).sum();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        most.truncate(NAMED);
        Missed { entries, most }
    }
}

/// Records refusals in the audit trail, within budgets.
#[derive(Default)]
pub struct Failures(Mutex<Window>);

/// The prefix by which an address's guesses are counted: for IPv6 the /64, which one client usually has (RFC 4291 section 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

/// The key itself if there is room for one more; else none, which others share.
fn bounded<K: Ord, V>(map: &BTreeMap<Option<K>, V>, key: K) -> Option<K> {
    let key = Some(key);
    if map.len() < MAX_SOURCES || map.contains_key(&key) { key } else { None }
}

impl Failures {
    /// Whether one more is recorded now, and what had not been recorded and is to be reported now.
    fn take(&self, now: Instant, address: IpAddr, credential: &str) -> (bool, Missed) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missed = Missed::default();
        if window.began.is_none_or(|began| now.duration_since(began) >= MINUTE) {
            missed = window.missed();
            *window = Window { began: Some(now), ..Window::default() };
        }
        let address = network(address);
        let credential = bounded(&window.by_credential, (address, credential.to_owned()));
        let address = bounded(&window.by_address, address);
        let Window { recorded, first, by_address, by_credential, .. } = &mut *window;
        let of_address = by_address.entry(address).or_default();
        let of_credential = by_credential.entry(credential).or_default();
        let within = of_address.recorded < RECORDED_PER_ADDRESS && *of_credential < RECORDED_PER_CREDENTIAL;
        let (pool, most) = if *recorded < RECORDED_PER_MINUTE - FIRST_PER_MINUTE || *of_credential > 0 {
            (recorded, RECORDED_PER_MINUTE - FIRST_PER_MINUTE)
        } else {
            (first, FIRST_PER_MINUTE)
        };
        let told = within && *pool < most;
        if told {
            *pool += 1;
            of_address.recorded += 1;
            *of_credential += 1;
        } else {
            of_address.unrecorded += 1;
        }
        (told, missed)
    }

    /// What was not recorded within a minute that is over, if no later refusal has reported it.
    fn late(&self, now: Instant) -> Missed {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.duration_since(began) < MINUTE) {
            return Missed::default();
        }
        std::mem::take(&mut *window).missed()
    }

    /// Records the number of refusals that were not recorded, once their minute is over.
    pub fn tell_missed(&self, engine: &Engine) {
        tell(engine, &self.late(Instant::now()));
    }

    /// Records a refusal.
    pub fn record(&self, engine: &Engine, origin: &Origin, refusal: Refusal<'_>) {
        // Named callers have budgets of their own, and so has each account whose credential was claimed.
        let credential =
            refusal.account.map_or_else(|| refusal.actor.to_owned(), |account| format!("account/{account}"));
        let (told, missed) = self.take(Instant::now(), origin.address, &credential);
        let time_ms = engine.now_ms();
        let from = if origin.address.is_unspecified() { String::new() } else { origin.address.to_string() };
        tell(engine, &missed);
        if told {
            engine.note(Entry {
                time_ms,
                request: origin.request.clone(),
                actor: refusal.actor.to_owned(),
                action: refusal.action.to_owned(),
                target: text::printable(&text::cut(refusal.target, MAX_QUOTED)).to_string(),
                outcome: "refused".to_owned(),
                reason: refusal.reason.to_owned(),
                asked: Value::Null,
                accounts: refusal.account.cloned().into_iter().collect(),
                from,
                events: Vec::new(),
            });
        }
    }
}

/// Records the number of refusals that were not recorded.
fn tell(engine: &Engine, missed: &Missed) {
    if missed.entries == 0 {
        return;
    }
    engine.note(Entry {
        time_ms: engine.now_ms(),
        request: String::new(),
        actor: Actor::System.to_string(),
        action: "DropFailures".to_owned(),
        target: "unknown".to_owned(),
        outcome: "dropped".to_owned(),
        reason: format!(
            "{} more were refused, of which the trail says nothing else: each minute it tells at most {RECORDED_PER_CREDENTIAL} of \
             a credential from one address, {RECORDED_PER_ADDRESS} of an address, and {RECORDED_PER_MINUTE} of all",
            missed.entries
        ),
        asked: json!({
            "entries": missed.entries,
            "most": missed.most.iter().map(|(address, count)| {
                let address = address.map_or_else(|| "others".to_owned(), |address| address.to_string());
                json!({ "from": address, "entries": count })
            }).collect::<Vec<_>>(),
        }),
        accounts: [].into(),
        from: String::new(),
        events: Vec::new(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn guessing_hides_nobody_else() {
        let (failures, now) = (Failures::default(), Instant::now());
        let told = |from: &str, whose: &str, times: usize| {
            (0..times).filter(|_| failures.take(now, ip(from), whose).0).count()
        };
        assert_eq!(told("192.0.2.1", "unknown", 1000), RECORDED_PER_CREDENTIAL as usize);
        assert_eq!(told("192.0.2.1", "account/acme", 3), 3, "another credential from the same address");
        assert_eq!(told("192.0.2.2", "unknown", 3), 3, "the same from another address");
        let many: usize = (0..100).map(|account| told("192.0.2.1", &format!("account/{account}"), 3)).sum();
        assert_eq!(many, RECORDED_PER_ADDRESS as usize - RECORDED_PER_CREDENTIAL as usize - 3);
        // A network of IPv6 is one address, and IPv4 is the same however it is written.
        assert_eq!(told("2001:db8::1", "unknown", 8) + told("2001:db8::2", "unknown", 8), 10);
        assert_eq!(told("::ffff:192.0.2.1", "unknown", 8), 0);
        // If many guess, the first ones of each are recorded for longer.
        for number in 0..250 {
            told(&format!("198.51.100.{number}"), "unknown", 20);
        }
        assert_eq!(told("203.0.113.1", "account/acme", 1), 0, "there is an end");
        assert_eq!(told("203.0.113.2", "unknown", 100), 0);
        let (_, missed) = failures.take(now + MINUTE, ip("192.0.2.9"), "unknown");
        assert_eq!(missed.most[0], (Some(ip("192.0.2.1")), 990 + 280 + 8 + 3), "{missed:?}");
        assert_eq!(missed.most.len(), NAMED);
    }

    #[test]
    fn what_was_not_recorded_is_reported_even_without_further_refusals() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..RECORDED_PER_CREDENTIAL + 7 {
            failures.take(now, ip("192.0.2.1"), "unknown");
        }
        assert_eq!(failures.late(now + MINUTE / 2), Missed::default());
        assert_eq!(failures.late(now + MINUTE).entries, 7);
        assert_eq!(failures.late(now + 2 * MINUTE), Missed::default(), "once");
    }

    #[test]
    fn a_single_failure_is_recorded_beside_twenty_guessers() {
        let (failures, now) = (Failures::default(), Instant::now());
        for number in 0..20 {
            for _ in 0..1000 {
                failures.take(now, ip(&format!("198.51.100.{number}")), "unknown");
            }
        }
        assert!(failures.take(now, ip("203.0.113.1"), "unknown").0);
    }

    #[test]
    fn all_together_and_all_that_is_remembered_have_bounds() {
        let (failures, now) = (Failures::default(), Instant::now());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let told = (0..100_000).filter(|number| failures.take(now, address(*number), "unknown").0).count();
        assert_eq!(told, RECORDED_PER_MINUTE as usize);
        let window = failures.0.lock().unwrap();
        assert!(window.by_address.len() <= MAX_SOURCES + 1 && window.by_credential.len() <= MAX_SOURCES + 1);
        assert_eq!(window.missed().entries, 100_000 - u64::from(RECORDED_PER_MINUTE));
        drop(window);
        assert_eq!(failures.take(now + MINUTE / 2, address(1), "unknown").1, Missed::default());
        assert_eq!(
            failures.take(now + MINUTE, address(1), "unknown").1.entries,
            100_001 - u64::from(RECORDED_PER_MINUTE)
        );
        assert_eq!(failures.take(now + MINUTE, address(1), "unknown"), (true, Missed::default()));
    }
}
