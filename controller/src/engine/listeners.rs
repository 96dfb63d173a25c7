//! Listeners for events, and when they must look again.

use cps_peering_config::id::AccountId;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};
use tokio::sync::watch;

#[derive(Debug, Default)]
struct Counts {
    all: u64,
    by_account: HashMap<AccountId, u64>,
}

/// Counts the events for each account, and for operators, since the start.
#[derive(Debug)]
pub struct Listeners {
    counts: Mutex<Counts>,
    ticks: watch::Sender<u64>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { counts: Mutex::default(), ticks: watch::Sender::new(0) }
    }
}

impl Listeners {
    /// These accounts, and operators, can read new events.
    pub(super) fn tell(&self, accounts: &BTreeSet<AccountId>) {
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.all += 1;
            for account in accounts {
                *counts.by_account.entry(account.clone()).or_default() += 1;
            }
        }
        self.ticks.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }

    /// The number of events for an account; without one, for anyone.
    fn count(&self, account: Option<&AccountId>) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        account.map_or(counts.all, |account| counts.by_account.get(account).copied().unwrap_or_default())
    }

    /// Begins to listen for an account's events, or all. A caller that reads events after this call misses none.
    pub fn listen(&self, account: Option<AccountId>) -> Listening<'_> {
        let ticks = self.ticks.subscribe();
        Listening { seen: self.count(account.as_ref()), account, ticks, listeners: self }
    }
}

/// A listener.
#[derive(Debug)]
pub struct Listening<'a> {
    listeners: &'a Listeners,
    account: Option<AccountId>,
    ticks: watch::Receiver<u64>,
    seen: u64,
}

impl Listening<'_> {
    /// Completes when there are new events since the last time.
    pub async fn told(&mut self) {
        loop {
            let now = self.listeners.count(self.account.as_ref());
            if std::mem::replace(&mut self.seen, now) != now {
                return;
            }
            if self.ticks.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
