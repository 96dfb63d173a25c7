//! The size of the audit trail: each actor has a share, and there is a total limit. When it is reached, the
//! oldest refusals are dropped first, then the oldest entries without events for others, then the oldest of the rest: one account must
//! not cost another one its events. The trail says how many were dropped.

use crate::{
    audit::Entry,
    instruments::Metrics,
    model::Actor,
    store::{Droppable, Dropped, Store, StoreError},
};
use cps_peering_config::{id::AccountId, time::MINUTE_MS};
use serde_json::json;
use std::collections::BTreeMap;

/// How many entries are counted, or dropped, at a time.
const AT_ONCE: usize = 1000;
/// How full it is left, in percent, so that not every entry drops another.
const LEFT: u64 = 95;
/// How often the trail says that entries of an actor were dropped, in milliseconds.
const SAID_EVERY_MS: u64 = MINUTE_MS;

/// The limits, in bytes; 0 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailLimits {
    /// For all together.
    pub total: u64,
    /// For each account, the operators, and the system.
    pub each: u64,
}

impl Default for TrailLimits {
    fn default() -> Self {
        Self { total: 512 << 20, each: 32 << 20 }
    }
}

/// The share of an actor.
#[derive(Debug, Default)]
struct Share {
    /// The size of its entries, in bytes.
    bytes: u64,
    /// The entry after which the next ones without events for others are looked for.
    own_from: u64,
    /// The entry after which all are looked for, if none of those are left.
    all_from: u64,
    none_of_its_own: bool,
    /// Dropped and not reported yet.
    dropped: usize,
    /// When it was last reported, in milliseconds since 1970-01-01 UTC.
    said_ms: u64,
}

/// The accounting of the trail.
#[derive(Debug, Default)]
pub(super) struct Trail {
    shares: BTreeMap<String, Share>,
    /// Entries up to this one existed at the start.
    first: Option<u64>,
    /// Of those, the ones up to here are counted.
    counted: u64,
}

impl Trail {
    /// The size of all counted entries, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.shares.values().map(|share| share.bytes).sum()
    }

    /// Entries were added: their owners and sizes in bytes.
    pub(super) fn added(&mut self, entries: impl IntoIterator<Item = (String, u64)>) {
        for (owner, bytes) in entries {
            self.shares.entry(owner).or_default().bytes += bytes;
        }
    }

    /// Counts some of the entries that existed at the start, and drops some beyond the limits.
    pub(super) fn sweep(
        &mut self,
        store: &Store,
        limits: TrailLimits,
        metrics: &Metrics,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.count(store)?;
        let (total, mut said) = (self.bytes(), Vec::new());
        let most = |limit: u64, bytes: u64| limit > 0 && bytes > limit;
        let largest =
            self.shares.iter().max_by_key(|(_, share)| share.bytes).map(|(owner, share)| (owner.clone(), share.bytes));
        if let Some((owner, bytes)) = largest {
            // The one with the largest share loses entries.
            let own = if most(limits.each, bytes) { bytes - limits.each / 100 * LEFT } else { 0 };
            let all = if most(limits.total, total) { total - limits.total / 100 * LEFT } else { 0 };
            let surplus = own.max(all);
            if surplus > 0 {
                self.drop_some(store, &owner, surplus, metrics)?;
            }
        }
        for (owner, share) in &mut self.shares {
            if share.dropped > 0 && now_ms.saturating_sub(share.said_ms) >= SAID_EVERY_MS {
                tracing::warn!(
                    owner,
                    entries = share.dropped,
                    "the audit trail is full: its oldest entries were dropped"
                );
                said.push(entry(owner, share.dropped, now_ms));
                (share.dropped, share.said_ms) = (0, now_ms);
            }
        }
        self.shares.retain(|_, share| share.bytes > 0 || share.dropped > 0);
        if said.is_empty() {
            return Ok(());
        }
        self.added(store.append(&said)?);
        Ok(())
    }

    fn count(&mut self, store: &Store) -> Result<(), StoreError> {
        let first = match self.first {
            Some(first) => first,
            None => *self.first.insert(store.newest_entry()?),
        };
        if self.counted >= first {
            return Ok(());
        }
        let found = store.entries_after(self.counted, AT_ONCE)?;
        self.counted = found.last().map_or(first, |it| it.number);
        let old = found.into_iter().filter(|it| it.number <= first);
        self.added(old.map(|it| (it.owner, it.bytes)));
        Ok(())
    }

    /// Entries were dropped.
    pub(super) fn gone(&mut self, dropped: &[Dropped]) {
        for it in dropped {
            let was_counted = it.number <= self.counted || self.first.is_some_and(|first| it.number > first);
            if was_counted && let Some(share) = self.shares.get_mut(&it.owner) {
                share.bytes = share.bytes.saturating_sub(it.bytes);
            }
        }
    }

    fn drop_some(&mut self, store: &Store, owner: &str, surplus: u64, metrics: &Metrics) -> Result<(), StoreError> {
        let mut gone = store.drop_entries(owner, Droppable::Refusals, surplus, AT_ONCE)?;
        if gone.last.is_none()
            && let Some(share) = self.shares.get_mut(owner)
        {
            let what = if share.none_of_its_own {
                Droppable::Everything { after: share.all_from }
            } else {
                Droppable::Own { after: share.own_from }
            };
            gone = store.drop_entries(owner, what, surplus, AT_ONCE)?;
            match (what, gone.last) {
                (Droppable::Everything { .. }, Some(last)) => {
                    share.all_from = last;
                    // There may be newer ones of its own by now.
                    share.none_of_its_own = gone.dropped.is_empty();
                }
                // It was searched completely: what is left is not counted any more.
                (Droppable::Everything { .. }, None) => {
                    (share.bytes, share.own_from, share.all_from, share.none_of_its_own) = (0, 0, 0, false);
                }
                (_, Some(last)) => {
                    share.own_from = last;
                    let freed: u64 = gone.dropped.iter().map(|it| it.bytes).sum();
                    // The report is an entry of its own, and never enough alone.
                    share.none_of_its_own = freed < surplus && gone.is_all;
                }
                (_, None) => share.none_of_its_own = true,
            }
        }
        self.gone(&gone.dropped);
        metrics.audit_dropped(gone.dropped.len());
        if let Some(share) = self.shares.get_mut(owner) {
            share.dropped += gone.dropped.len();
        }
        Ok(())
    }
}

/// The entry that reports dropped entries.
fn entry(owner: &str, entries: usize, now_ms: u64) -> Entry {
    let account: Option<AccountId> = owner.strip_prefix("account/").and_then(|id| id.parse().ok());
    Entry {
        time_ms: now_ms,
        request: String::new(),
        actor: Actor::System.to_string(),
        action: "DropAuditEntries".to_owned(),
        target: owner.to_owned(),
        outcome: "dropped".to_owned(),
        reason: format!("the audit trail is full for {owner}: its {entries} oldest refusals, or entries, were dropped"),
        asked: json!({ "entries": entries }),
        accounts: account.into_iter().collect(),
        from: String::new(),
        events: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::Query,
        events::{Event, Recipient},
    };
    use std::sync::atomic::{AtomicU64, Ordering};

    fn said(actor: &str, outcome: &str, number: u64) -> Entry {
        let account = actor.strip_prefix("account/").and_then(|id| id.parse().ok());
        Entry {
            time_ms: number,
            request: format!("{actor}-{number}"),
            actor: actor.to_owned(),
            action: "CreateVpc".to_owned(),
            target: "north".to_owned(),
            outcome: outcome.to_owned(),
            reason: "x".repeat(100),
            asked: serde_json::Value::Null,
            accounts: account.into_iter().collect(),
            from: String::new(),
            events: Vec::new(),
        }
    }

    fn of(store: &Store, account: &str) -> Vec<Entry> {
        let query = Query { account: Some(account.parse().unwrap()), limit: 100_000, ..Query::default() };
        store.audit(&query).unwrap().into_iter().map(|(_, entry)| entry).collect()
    }

    /// Until nothing is left to do.
    fn settle(trail: &mut Trail, store: &Store, limits: TrailLimits) {
        static NOW_MS: AtomicU64 = AtomicU64::new(0);
        for _ in 0..200 {
            let now_ms = NOW_MS.fetch_add(SAID_EVERY_MS, Ordering::Relaxed);
            trail.sweep(store, limits, &Metrics::default(), now_ms).unwrap();
        }
    }

    #[test]
    fn the_largest_share_loses_its_oldest_refusals_first_and_others_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store.redb")).unwrap();
        let limits = TrailLimits { total: 0, each: 200_000 };
        let mut trail = Trail::default();
        let quiet: Vec<Entry> = (0..20).map(|n| said("account/quiet", "refused", n)).collect();
        // Some entries existed before the start, and are counted.
        store.append(&quiet).unwrap();
        let done: Vec<Entry> = (0..100).map(|n| said("account/loud", "done", n)).collect();
        store.append(&done).unwrap();
        settle(&mut trail, &store, limits);
        let bytes = trail.bytes();
        assert!(bytes > 0, "it is counted");
        for round in 0..30_u64 {
            let refused: Vec<Entry> = (0..100).map(|n| said("account/loud", "refused", 1000 * round + n)).collect();
            trail.added(store.append(&refused).unwrap());
            settle(&mut trail, &store, limits);
        }
        let loud = of(&store, "loud");
        let count = |outcome: &str| loud.iter().filter(|entry| entry.outcome == outcome).count();
        assert_eq!(count("done"), 100, "what was done is kept while there are refusals");
        assert!(count("refused") < 600 && count("refused") > 100, "{}", count("refused"));
        assert!(loud.iter().filter(|it| it.outcome == "refused").all(|it| it.time_ms > 20_000), "the oldest are gone");
        let dropped: u64 = loud.iter().filter_map(|entry| entry.asked["entries"].as_u64()).sum();
        assert!(dropped > 2000, "it is said: {dropped}");
        assert_eq!(of(&store, "quiet").len(), 20);
        // The reports take some space, too.
        assert!(trail.bytes() <= limits.each + bytes + 100_000, "{}", trail.bytes());
        // Executed commands are dropped, too, when nothing else is left.
        for round in 0..30_u64 {
            let done: Vec<Entry> = (0..100).map(|n| said("account/loud", "done", 100_000 * round + n)).collect();
            trail.added(store.append(&done).unwrap());
            settle(&mut trail, &store, limits);
        }
        let loud = of(&store, "loud");
        assert!(loud.len() < 1000 && loud.iter().all(|it| it.outcome != "refused"), "{}", loud.len());
        assert_eq!(of(&store, "quiet").len(), 20);
        // After the next start the count is the same.
        let mut again = Trail::default();
        settle(&mut again, &store, TrailLimits { total: 0, each: 0 });
        assert_eq!(again.bytes(), trail.bytes());
        // The total has a limit, too, and the newest entry stays.
        settle(&mut again, &store, TrailLimits { total: 20_000, each: 0 });
        assert!(again.bytes() <= 21_000, "{}", again.bytes());
        assert!(store.newest_entry().unwrap() > 6000);
    }

    #[test]
    fn events_of_an_accounts_peerings_take_that_accounts_share_and_their_loss_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store.redb")).unwrap();
        let mut trail = Trail::default();
        settle(&mut trail, &store, TrailLimits::default());
        let of_peering = |account: &str, number: u64| {
            let told = Recipient { account: account.parse().unwrap(), region: None, role: "initiator".to_owned() };
            let event = Event {
                kind: "peering.active".to_owned(),
                target: format!("vpcpr-{number}"),
                name: String::new(),
                state: "active".to_owned(),
                bandwidth: None,
                told: vec![told],
            };
            let accounts = [account.parse().unwrap()].into();
            Entry { events: vec![event], accounts, ..said("system", "active", number) }
        };
        let events = |account: &str| {
            let account: AccountId = account.parse().unwrap();
            (
                store.entries_with_events(Some(&account), 0, 10_000).unwrap().len(),
                store.event_gap(Some(&account)).unwrap(),
            )
        };
        trail.added(store.append(&[of_peering("quiet", 0)]).unwrap());
        for round in 0..10_u64 {
            let loud: Vec<Entry> = (0..100).map(|n| of_peering("loud", 100 * round + n)).collect();
            trail.added(store.append(&loud).unwrap());
            settle(&mut trail, &store, TrailLimits { total: 0, each: 50_000 });
        }
        assert_eq!(events("quiet"), (1, 0), "whose own events are where they were");
        let (left, gap) = events("loud");
        assert!(left < 200 && gap > 700, "{left} {gap}");
        assert_eq!(store.event_gap(None).unwrap(), gap);
        // One account costs others no events, as long as something else of its own can be dropped.
        let with_quiet = |number: u64| {
            let mut entry = Entry { actor: "account/loud".to_owned(), ..of_peering("loud", number) };
            entry.events[0].told.push(Recipient {
                account: "quiet".parse().unwrap(),
                region: None,
                role: "receiver".to_owned(),
            });
            entry
        };
        trail.added(store.append(&[with_quiet(5000)]).unwrap());
        for round in 0..20_u64 {
            let loud: Vec<Entry> = (0..100).map(|n| of_peering("loud", 6000 + 100 * round + n)).collect();
            trail.added(store.append(&loud).unwrap());
            settle(&mut trail, &store, TrailLimits { total: 0, each: 50_000 });
        }
        assert_eq!(events("quiet"), (2, 0));
        assert!(events("loud").0 < 200, "{:?}", events("loud"));
        // If there is nothing else, they are dropped, and their recipients are told.
        let many: Vec<Entry> = (0..1000).map(|n| with_quiet(10_000 + n)).collect();
        trail.added(store.append(&many).unwrap());
        settle(&mut trail, &store, TrailLimits { total: 0, each: 50_000 });
        let (left, gap) = events("quiet");
        assert!(left < 200 && gap > 0, "{left} {gap}");
        // An entry about peerings of several accounts is in no account's share, so that none pays for another.
        let one = of_peering("quiet", 1);
        let both = Entry { events: [one.events.clone(), of_peering("loud", 2).events].concat(), ..one.clone() };
        assert_eq!((one.owner().as_str(), both.owner().as_str()), ("account/quiet", "system"));
        let told = |account: &str, role: &str| Recipient {
            account: account.parse().unwrap(),
            region: None,
            role: role.to_owned(),
        };
        let mut told_to_both = one;
        told_to_both.events[0].told = vec![told("loud", "receiver"), told("quiet", "initiator")];
        assert_eq!(told_to_both.owner(), "account/quiet", "who asked for the peering");
    }

    #[test]
    fn operators_and_the_system_have_shares_like_accounts() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store.redb")).unwrap();
        let mut trail = Trail::default();
        settle(&mut trail, &store, TrailLimits::default());
        for owner in ["operator", "system"] {
            let entries: Vec<Entry> = (0..1000).map(|n| said(owner, "done", n)).collect();
            trail.added(store.append(&entries).unwrap());
        }
        settle(&mut trail, &store, TrailLimits { total: 0, each: 50_000 });
        let all = store.audit(&Query { limit: 10_000, ..Query::default() }).unwrap();
        for owner in ["operator", "system"] {
            let left = all.iter().filter(|(_, entry)| entry.actor == owner).count();
            assert!((50..200).contains(&left), "{owner}: {left}");
        }
    }
}
