//! Rows that are ready to be written, and dropped entries of the audit trail.

use super::raw::{Batch, keys};
use crate::{audit::Entry, events, model::Actor};

/// Rows that are ready to be written: each has a size that the store accepts.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(super) batch: Batch,
    /// The number of the commit; none if it is no commit.
    pub(super) number: Option<u64>,
    /// The owners of the entries of the audit trail, and their sizes in bytes.
    pub(super) owners: Vec<(String, u64)>,
}

/// An entry of the audit trail that was dropped, or is examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its number.
    pub number: u64,
    /// Its owner ([`Entry::owner`]).
    pub owner: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Whether accounts other than its owner get its events.
    pub tells_others: bool,
}

/// The result of dropping entries.
#[derive(Debug)]
pub struct Drops {
    /// The dropped ones.
    pub dropped: Vec<Dropped>,
    /// The last entry that was examined; none if there was none.
    pub last: Option<u64>,
    /// Whether there are none after it.
    pub is_all: bool,
}

/// Which entries of an owner are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Droppable {
    /// Refusals.
    Refusals,
    /// Those after an entry without events for others.
    Own {
        /// Its number.
        after: u64,
    },
    /// All of them after an entry.
    Everything {
        /// Its number.
        after: u64,
    },
}

/// The size of an entry of the audit trail, in bytes, with its search keys.
pub(super) fn size(value: &[u8]) -> u64 {
    const AROUND: u64 = 200;
    value.len() as u64 + AROUND
}

impl Dropped {
    /// The same for an entry in stored form, with its search keys.
    pub(super) fn of(number: u64, value: &[u8]) -> (Self, Vec<String>) {
        let entry = serde_json::from_slice::<Entry>(value).ok();
        let owner = entry.as_ref().map_or_else(String::new, Entry::owner);
        let told = entry.iter().flat_map(|entry| events::accounts(&entry.events));
        let tells_others = told.into_iter().any(|account| Actor::Account(account).to_string() != owner);
        (Self { number, owner, bytes: size(value), tells_others }, entry.as_ref().map(keys).unwrap_or_default())
    }
}

impl Rows {
    /// Appends others.
    pub(crate) fn append(&mut self, other: Rows) {
        self.batch.append(other.batch);
        self.number = other.number.or(self.number);
        self.owners.extend(other.owners);
    }

    /// The owners of the entries of the audit trail, and their sizes in bytes.
    pub(crate) fn owners(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.owners)
    }

    /// Adds notes.
    pub(crate) fn note(&mut self, notes: Vec<(&'static str, Vec<u8>)>) {
        self.batch.notes = notes;
    }

    /// The number of entries of the audit trail.
    pub(crate) fn entries(&self) -> usize {
        self.batch.entries.len()
    }

    /// Removes and returns the first entries of the audit trail.
    pub(crate) fn split_entries(&mut self, count: usize) -> Rows {
        let count = count.min(self.batch.entries.len());
        let entries = self.batch.entries.drain(..count).collect();
        let owners = self.owners.drain(..count.min(self.owners.len())).collect();
        Rows { batch: Batch { entries, ..Batch::default() }, number: None, owners }
    }
}
