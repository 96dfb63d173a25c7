//! The interface of both kinds of stores: rows of bytes. Their meaning is defined by [`super`].

use super::StoreError;
use crate::{audit::Entry, events};
use cps_peering_config::id::AccountId;
use std::ops::Range;

/// Payer, end, peering, beginning.
pub(super) type PeriodKey = (String, u64, String, u64);

/// A search key of an entry of the audit trail, and the entry's number.
pub(super) type EncodedEntry = (Vec<String>, Vec<u8>);

/// Peering, VNI, counters.
pub(super) type SideRow = (String, u32, Vec<u8>);

/// Peering and VNI.
pub(super) type SideId = (String, u32);

/// The maximum size of a row's value, in bytes: what etcd accepts in a transaction (`--max-request-bytes`, 1.5 MiB) including the
/// encoding. A file would accept more, but validity must not depend on the kind of store.
pub(super) const MAX_VALUE: usize = (1 << 20) + (1 << 18);

/// Rows that are written together.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    /// Records by kind and id, `host/h1`; none for deleted ones.
    pub(super) records: Vec<(String, Option<Vec<u8>>)>,
    pub(super) periods: Vec<(PeriodKey, Vec<u8>)>,
    pub(super) entries: Vec<EncodedEntry>,
    pub(super) traffic: Vec<(SideId, Option<Vec<u8>>)>,
    /// Notes of the controller for its next run, by name. Backups go without.
    pub(super) notes: Vec<(&'static str, Vec<u8>)>,
}

impl Batch {
    /// Appends another one.
    pub(super) fn append(&mut self, other: Batch) {
        self.records.extend(other.records);
        self.periods.extend(other.periods);
        self.entries.extend(other.entries);
        self.traffic.extend(other.traffic);
        self.notes.extend(other.notes);
    }
}

/// The space on the disk of a store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// How much is free.
    pub free: u64,
    /// How much is to be kept free for writes that free space.
    pub reserve: u64,
}

impl Space {
    /// Whether only writes that free space are allowed.
    pub fn is_low(&self) -> bool {
        self.free < self.reserve
    }
}

/// Rows of one kind, some at a time, on their way from one store to another.
#[derive(Debug)]
pub(super) enum Page {
    Records(Vec<(String, Vec<u8>)>),
    Audit(Vec<(u64, Vec<u8>)>),
    Periods(Vec<(PeriodKey, Vec<u8>)>),
    Traffic(Vec<SideRow>),
}

/// A search for the newest entries of the audit trail.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// One of [`keys`].
    pub(super) key: Option<String>,
    /// Only those with a lower number.
    pub(super) before: Option<u64>,
    /// At most this many.
    pub(super) limit: Option<usize>,
}

/// A store of rows.
pub(super) trait Backend: Send + Sync {
    /// Writes everything or nothing, durably, if `expected` is the number of the last commit. `number` is the new one.
    fn commit(&self, batch: &Batch, expected: u64, number: u64) -> Result<(), StoreError>;
    /// Writes what is no commit. Rows that belong together are written together.
    fn write(&self, what: &'static str, batch: &Batch) -> Result<(), StoreError>;
    /// Entries of the audit trail after a number, the oldest first: at most `limit` of those with the search key `key`.
    fn audit_after(&self, key: Option<&str>, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    /// Removes entries of the audit trail with their search keys, but not the newest of all.
    fn remove_entries(&self, entries: &[(u64, Vec<String>)]) -> Result<(), StoreError>;
    /// The record `meta`. For a store that is being filled: the previous one, as if nothing was ever committed to it.
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError>;
    fn records(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError>;
    /// The periods of a payer in a window, in milliseconds since 1970-01-01 UTC, by end, as long as `take` returns
    /// true.
    fn periods(
        &self,
        payer: &str,
        window: &Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError>;
    /// Entries with their numbers, the newest first.
    fn audit(&self, lookup: &Lookup) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    fn traffic(&self) -> Result<Vec<SideRow>, StoreError>;
    /// The note with a name, if there is one.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Everything, as of one moment.
    fn dump(&self, take: &mut dyn FnMut(Page) -> Result<(), StoreError>) -> Result<(), StoreError>;
    /// Deletes everything but `before`, which [`Self::meta`] returns. Until [`Self::end_filling`] the store cannot
    /// be used.
    fn begin_filling(&self, before: Vec<u8>) -> Result<(), StoreError>;
    fn fill(&self, page: Page) -> Result<(), StoreError>;
    /// Writes the record `meta`, after which the store can be used.
    fn end_filling(&self, meta: Vec<u8>) -> Result<(), StoreError>;
    /// Writes something without meaning, to check whether writes work.
    fn probe(&self) -> Result<(), StoreError>;
    /// After a failed write: makes the store usable again, so that its content can be read. If that fails, nothing
    /// is written any more, and other processes can lead.
    fn recover(&self) -> Result<(), StoreError>;
    /// How much space there is, with `reserve` bytes to be kept free; none if unknown.
    fn space(&self, reserve: u64) -> Result<Option<Space>, StoreError>;
    /// Allocates the reserve on the disk, so that nobody else uses it. Returns whether it is there.
    fn hold_reserve(&self, reserve: u64) -> bool;
    /// Releases the reserve for the next writes. Returns whether there was one.
    fn free_reserve(&self) -> bool;
    /// Writes no more, and lets other processes lead.
    fn leave(&self);
}

/// The search keys of an entry.
pub(super) fn keys(entry: &Entry) -> Vec<String> {
    let request = (!entry.request.is_empty()).then(|| format!("request/{}", entry.request));
    // These are dropped first when there is no space.
    let refused = (entry.outcome == "refused").then(|| format!("refused/{}", entry.actor));
    let listeners = events::accounts(&entry.events).into_iter().map(|account| events_of(Some(&account)));
    let all = (!entry.events.is_empty()).then(|| events_of(None));
    let accounts = entry.accounts.iter().map(|account| format!("account/{account}"));
    accounts.chain(request).chain(refused).chain(listeners).chain(all).collect()
}

/// The search key of entries with events of an account, or with any.
pub(super) fn events_of(account: Option<&AccountId>) -> String {
    account.map_or("events/all".to_owned(), |account| format!("event/{account}"))
}

/// The same for an entry in stored form.
pub(super) fn keys_of(value: &[u8]) -> Vec<String> {
    serde_json::from_slice::<Entry>(value).map(|entry| keys(&entry)).unwrap_or_default()
}
