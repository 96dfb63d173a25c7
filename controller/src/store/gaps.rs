//! Which events were dropped prematurely, because the audit trail was full: readers before them are told.

use crate::events::{self, Event};
use cps_peering_config::id::AccountId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many accounts are distinguished. If there are more, those with the oldest gaps share one.
const MOST: usize = 4096;

/// The newest dropped entry of the audit trail with events, by account.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EventGaps {
    /// Of any account.
    newest: u64,
    /// Of accounts that are not named.
    others: u64,
    accounts: BTreeMap<AccountId, u64>,
}

impl EventGaps {
    /// Restores what was stored. Invalid data counts as nothing.
    pub(super) fn read(note: Option<&[u8]>) -> Self {
        note.and_then(|note| serde_json::from_slice(note).ok()).unwrap_or_default()
    }

    pub(super) fn to_note(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// An entry with these events is dropped. Returns whether this must be stored.
    pub(super) fn add(&mut self, number: u64, events: &[Event]) -> bool {
        if events.is_empty() {
            return false;
        }
        self.newest = self.newest.max(number);
        for account in events::accounts(events) {
            let gap = self.accounts.entry(account).or_default();
            *gap = number.max(*gap);
        }
        while self.accounts.len() > MOST {
            let Some((account, gap)) = self.accounts.iter().min_by_key(|(_, gap)| **gap) else { break };
            let (account, gap) = (account.clone(), *gap);
            self.others = self.others.max(gap);
            self.accounts.remove(&account);
        }
        true
    }

    /// The newest dropped entry: of an account, or of any.
    pub(super) fn of(&self, account: Option<&AccountId>) -> u64 {
        account.map_or(self.newest, |account| self.accounts.get(account).copied().unwrap_or_default().max(self.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Recipient;

    fn told(account: &str) -> Vec<Event> {
        let told = Recipient { account: account.parse().unwrap(), region: None, role: String::new() };
        vec![Event {
            kind: "peering.active".to_owned(),
            target: "vpcpr-1".to_owned(),
            name: String::new(),
            state: String::new(),
            bandwidth: None,
            told: vec![told],
        }]
    }

    #[test]
    fn gaps_are_those_of_the_account_and_their_number_has_a_bound() {
        let mut gaps = EventGaps::default();
        assert!(!gaps.add(3, &[]) && gaps.add(5, &told("acme")) && gaps.add(4, &told("acme")));
        let of = |gaps: &EventGaps, account: &str| gaps.of(Some(&account.parse().unwrap()));
        assert_eq!((of(&gaps, "acme"), of(&gaps, "beta"), gaps.of(None)), (5, 0, 5));
        for number in 0..MOST as u64 {
            gaps.add(10 + number, &told(&format!("a{number}")));
        }
        // Its gap is the oldest: it counts for all accounts that are not named.
        assert_eq!((of(&gaps, "acme"), of(&gaps, "beta"), of(&gaps, "a7")), (5, 5, 17));
        assert_eq!(EventGaps::read(Some(&gaps.to_note())), gaps);
        assert_eq!(EventGaps::read(Some(b"rubbish")), EventGaps::default());
    }
}
