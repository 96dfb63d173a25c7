//! Limits how often an account can be told that its network overlaps one that it does not see (rule L11). Each such answer is one bit
//! of a foreign address plan, and enough of them reveal the plan.
//!
//! Pure: the caller counts ([`Disclosures::count`]) and rules check ([`Disclosures::admit`]).

use super::{Actor, Code, CommandError};
use cps_peering_config::{id::AccountId, time::DAY_MS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// About how many accounts one account may have been told something recently: beyond that it is refused, and only it.
const MOST_OF_ONE: usize = 64;
/// How many pairs of accounts are remembered. If there are more, the account with the most loses its oldest, and nobody is refused.
const MOST: usize = 4096;

/// The budget of a pair of accounts.
#[derive(Debug, Clone, Copy)]
struct Spent {
    /// The number of answers given, less those that time has given back.
    count: f64,
    /// When that was computed, in milliseconds since 1970-01-01 UTC.
    at_ms: u64,
}

/// Recent answers, by the account that was told and the one it is about.
#[derive(Debug, Clone, Default)]
pub struct Disclosures {
    per_day: u32,
    spent: BTreeMap<AccountId, BTreeMap<AccountId, Spent>>,
    pairs: usize,
    /// Whether anything was counted since [`to_save`](Self::to_save) was last called.
    changed: bool,
}

/// The stored form.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    told: AccountId,
    about: AccountId,
    count: f64,
    at_ms: u64,
}

impl Disclosures {
    /// This many answers a day for each pair of accounts; 0 for no limit.
    pub fn new(per_day: u32) -> Self {
        Self { per_day, ..Self::default() }
    }

    /// Replaces the budget.
    pub fn tune(&mut self, per_day: u32) {
        self.per_day = per_day;
    }

    fn count_at(&self, spent: Spent, now_ms: u64) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a fraction of a day")]
        let days = now_ms.saturating_sub(spent.at_ms) as f64 / DAY_MS as f64;
        (spent.count - days * f64::from(self.per_day)).max(0.0)
    }

    /// What a pair has spent, if it is remembered.
    fn of(&self, told: &AccountId, about: &AccountId) -> Option<&Spent> {
        self.spent.get(told)?.get(about)
    }

    /// About how many accounts one was told something so recently that the budget is not whole again.
    fn lately(&self, own: &BTreeMap<AccountId, Spent>, now_ms: u64) -> usize {
        own.values().filter(|spent| self.count_at(**spent, now_ms) > 0.0).count()
    }

    /// Refuses to compare networks for an account that was recently told too much about another's, whatever the result of the comparison
    /// would be.
    pub(super) fn admit(&self, actor: &Actor, about: &AccountId, now_ms: u64) -> Result<(), CommandError> {
        let Some(told) = actor.account().filter(|told| *told != about && self.per_day > 0) else { return Ok(()) };
        let may = match self.of(told, about) {
            Some(spent) => self.count_at(*spent, now_ms) + 1.0 <= f64::from(self.per_day),
            None => self.spent.get(told).is_none_or(|own| self.lately(own, now_ms) < MOST_OF_ONE),
        };
        if may {
            return Ok(());
        }
        let minutes = (24 * 60 / self.per_day).max(1);
        let rule = format!(
            "too many requests and dry runs of account {told} towards account {about} were about overlapping networks: try \
             again in {minutes} minutes"
        );
        Err(CommandError::one(Code::QuotaExceeded, "remoteVpcId", rule, "CidrCheckLimitExceeded"))
    }

    /// Counts that an account was told something about another's network.
    pub fn count(&mut self, told: &AccountId, about: &AccountId, now_ms: u64) {
        if told == about || self.per_day == 0 {
            return;
        }
        if self.pairs >= MOST || self.spent.get(told).is_some_and(|own| own.len() >= MOST_OF_ONE) {
            self.forget(now_ms);
        }
        if self.pairs >= MOST && self.of(told, about).is_none() {
            self.make_room();
        }
        let count = self.of(told, about).map_or(0.0, |spent| self.count_at(*spent, now_ms)) + 1.0;
        self.set(told.clone(), about.clone(), Spent { count, at_ms: now_ms });
        self.changed = true;
    }

    fn set(&mut self, told: AccountId, about: AccountId, spent: Spent) {
        let new = self.spent.entry(told).or_default().insert(about, spent).is_none();
        self.pairs += usize::from(new);
    }

    /// Forgets pairs whose whole budget is available again.
    fn forget(&mut self, now_ms: u64) {
        let mut spent = std::mem::take(&mut self.spent);
        spent.retain(|_, own| {
            own.retain(|_, it| self.count_at(*it, now_ms) > 0.0);
            !own.is_empty()
        });
        self.pairs = spent.values().map(BTreeMap::len).sum();
        self.spent = spent;
    }

    /// Forgets the oldest pair of the account that has the most.
    fn make_room(&mut self) {
        let Some(own) = self.spent.values_mut().max_by_key(|own| own.len()) else { return };
        let oldest = own.iter().min_by_key(|(_, spent)| spent.at_ms).map(|(about, _)| about.clone());
        if oldest.and_then(|about| own.remove(&about)).is_some() {
            self.pairs -= 1;
        }
    }

    /// What to store, if anything was counted since the last call.
    pub fn to_save(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.forget(now_ms);
        let rows = self.spent.iter().flat_map(|(told, own)| own.iter().map(move |(about, spent)| (told, about, spent)));
        let row = |(told, about, spent): (&AccountId, &AccountId, &Spent)| Row {
            told: told.clone(),
            about: about.clone(),
            count: spent.count,
            at_ms: spent.at_ms,
        };
        serde_json::to_vec(&rows.map(row).collect::<Vec<_>>()).ok()
    }

    /// Restores what was stored. Invalid data counts as nothing.
    pub fn load(&mut self, kept: &[u8]) {
        let rows: Vec<Row> = serde_json::from_slice(kept).unwrap_or_default();
        for row in rows.into_iter().take(MOST) {
            self.set(row.told, row.about, Spent { count: row.count, at_ms: row.at_ms });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str) -> AccountId {
        id.parse().unwrap()
    }

    fn may(disclosures: &Disclosures, told: &str, about: &str, now_ms: u64) -> bool {
        disclosures.admit(&Actor::Account(account(told)), &account(about), now_ms).is_ok()
    }

    #[test]
    fn answers_are_counted_for_each_pair_and_come_back_with_time() {
        let mut disclosures = Disclosures::new(4);
        for _ in 0..4 {
            assert!(may(&disclosures, "one", "two", 0));
            disclosures.count(&account("one"), &account("two"), 0);
        }
        assert!(!may(&disclosures, "one", "two", DAY_MS / 4 - 1) && may(&disclosures, "one", "two", DAY_MS / 4));
        assert!(may(&disclosures, "two", "one", 0) && may(&disclosures, "one", "three", 0), "other pairs");
        assert!(may(&disclosures, "one", "one", 0), "its own");
        // A restart forgets nothing.
        let kept = disclosures.to_save(0).unwrap();
        assert_eq!(disclosures.to_save(0), None);
        let mut again = Disclosures::new(4);
        again.load(&kept);
        assert!(!may(&again, "one", "two", 0) && may(&again, "one", "two", DAY_MS / 4));
        again.load(b"rubbish");
        assert!(may(&Disclosures::new(0), "one", "two", 0), "no limit");
    }

    #[test]
    fn one_account_does_not_fill_the_table() {
        let mut disclosures = Disclosures::new(2);
        for number in 0..=MOST_OF_ONE {
            disclosures.count(&account("one"), &account(&format!("v{number}")), 0);
        }
        assert!(!may(&disclosures, "one", "two", 0) && may(&disclosures, "two", "one", 0));
        assert!(may(&disclosures, "one", "two", DAY_MS), "what has come back does not count");
    }

    #[test]
    fn a_table_that_is_full_refuses_nobody() {
        let mut disclosures = Disclosures::new(30);
        let many = |number: usize| account(&format!("m{number}"));
        for told in 0..=MOST_OF_ONE {
            for about in (0..=MOST_OF_ONE).filter(|about| *about != told) {
                disclosures.count(&many(told), &many(about), 0);
            }
        }
        assert_eq!(disclosures.pairs, MOST);
        assert!(may(&disclosures, "one", "two", 0));
        for _ in 0..30 {
            disclosures.count(&account("one"), &account("two"), 1);
        }
        assert_eq!(disclosures.pairs, MOST, "one of those who have the most has lost its oldest");
        assert!(!may(&disclosures, "one", "two", 1) && may(&disclosures, "two", "one", 1));
        let kept = disclosures.to_save(1).unwrap();
        let mut again = Disclosures::new(30);
        again.load(&kept);
        assert!(!may(&again, "one", "two", 1) && may(&again, "three", "two", 1));
    }
}
