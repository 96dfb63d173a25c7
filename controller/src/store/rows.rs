//! Rows that are ready to be written, and entries of the audit trail that go.

use super::raw::{Batch, keys};
use crate::{audit::Entry, events, model::Actor};

/// Rows that are ready to be written: each has a size that the store takes.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(super) batch: Batch,
    /// The number of the commit; none where it is none.
    pub(super) number: Option<u64>,
    /// Of whom the entries of the audit trail are, and how many bytes they take.
    pub(super) owners: Vec<(String, u64)>,
}

/// An entry of the audit trail that is gone, or is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its number.
    pub number: u64,
    /// Whose it is ([`Entry::owner`]).
    pub owner: String,
    /// What it takes, in bytes.
    pub bytes: u64,
    /// Whether its events are told to others than whose it is.
    pub tells_others: bool,
}

/// What became of a request to drop entries.
#[derive(Debug)]
pub struct Drops {
    /// What was dropped.
    pub dropped: Vec<Dropped>,
    /// The last entry that was looked at; none where there was none.
    pub last: Option<u64>,
    /// Whether there is none behind it.
    pub is_all: bool,
}

/// Which entries of one who acts are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Droppable {
    /// Refusals.
    Refusals,
    /// Those behind an entry that nobody else is told of.
    Own {
        /// Its number.
        after: u64,
    },
    /// All of them behind an entry.
    Everything {
        /// Its number.
        after: u64,
    },
}

/// What an entry of the audit trail takes, in bytes, with what it is found by.
pub(super) fn size(value: &[u8]) -> u64 {
    const AROUND: u64 = 200;
    value.len() as u64 + AROUND
}

impl Dropped {
    /// The same of an entry as it is kept, with what it is looked for by.
    pub(super) fn of(number: u64, value: &[u8]) -> (Self, Vec<String>) {
        let entry = serde_json::from_slice::<Entry>(value).ok();
        let owner = entry.as_ref().map_or_else(String::new, Entry::owner);
        let told = entry.iter().flat_map(|entry| events::accounts(&entry.events));
        let tells_others = told.into_iter().any(|account| Actor::Account(account).to_string() != owner);
        (Self { number, owner, bytes: size(value), tells_others }, entry.as_ref().map(keys).unwrap_or_default())
    }
}

impl Rows {
    /// Puts others behind them.
    pub(crate) fn append(&mut self, other: Rows) {
        self.batch.append(other.batch);
        self.number = other.number.or(self.number);
        self.owners.extend(other.owners);
    }

    /// Of whom the entries of the audit trail are, and how many bytes they take.
    pub(crate) fn owners(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.owners)
    }

    /// Puts what is noted beside them.
    pub(crate) fn note(&mut self, notes: Vec<(&'static str, Vec<u8>)>) {
        self.batch.notes = notes;
    }

    /// How many entries of the audit trail are among them.
    pub(crate) fn entries(&self) -> usize {
        self.batch.entries.len()
    }

    /// Takes out the first entries of the audit trail.
    pub(crate) fn split_entries(&mut self, count: usize) -> Rows {
        let count = count.min(self.batch.entries.len());
        let entries = self.batch.entries.drain(..count).collect();
        let owners = self.owners.drain(..count.min(self.owners.len())).collect();
        Rows { batch: Batch { entries, ..Batch::default() }, number: None, owners }
    }
}
