//! What both stores are made of: rows of bytes. What they mean is [`super`]'s business.

use super::StoreError;
use crate::{audit::Entry, events};
use cps_peering_config::id::AccountId;
use std::ops::Range;

/// Payer, end, peering, beginning.
pub(super) type PeriodKey = (String, u64, String, u64);

/// What an entry of the audit trail is looked for by, and the entry.
pub(super) type EncodedEntry = (Vec<String>, Vec<u8>);

/// Peering, VNI, what was counted.
pub(super) type SideRow = (String, u32, Vec<u8>);

/// Peering and VNI.
pub(super) type SideId = (String, u32);

/// The longest value of a row, in bytes: what etcd takes of one in a transaction (`--max-request-bytes`, 1.5 MiB) with what is
/// around it. A file would take more; what is legal does not depend on where it is kept.
pub(super) const MAX_VALUE: usize = (1 << 20) + (1 << 18);

/// What is written at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    /// Records by kind and id, `host/h1`; none for those that go.
    pub(super) records: Vec<(String, Option<Vec<u8>>)>,
    pub(super) periods: Vec<(PeriodKey, Vec<u8>)>,
    pub(super) entries: Vec<EncodedEntry>,
    pub(super) traffic: Vec<(SideId, Option<Vec<u8>>)>,
    /// What the controller notes for its next life, by name. Copies and backups go without.
    pub(super) notes: Vec<(&'static str, Vec<u8>)>,
}

impl Batch {
    /// Puts another one behind it.
    pub(super) fn append(&mut self, other: Batch) {
        self.records.extend(other.records);
        self.periods.extend(other.periods);
        self.entries.extend(other.entries);
        self.traffic.extend(other.traffic);
        self.notes.extend(other.notes);
    }
}

/// How much room the place of a store has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// How much there is for everybody's use.
    pub free: u64,
    /// How much is to be kept free for what makes room.
    pub reserve: u64,
}

impl Space {
    /// Whether only what makes room may be written.
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

/// Which entries of the audit trail are meant: the newest.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// One of [`keys`].
    pub(super) key: Option<String>,
    /// Only those with a lower number.
    pub(super) before: Option<u64>,
    /// At most so many.
    pub(super) limit: Option<usize>,
}

/// A place for rows.
pub(super) trait Backend: Send + Sync {
    /// Writes everything or nothing, durably, if `expected` is the number of the last commit. `number` is the new one.
    fn commit(&self, batch: &Batch, expected: u64, number: u64) -> Result<(), StoreError>;
    /// Writes what is no commit. Rows that belong together stay so.
    fn write(&self, what: &'static str, batch: &Batch) -> Result<(), StoreError>;
    /// Entries of the audit trail behind a number, the oldest first: at most `limit` of those that are looked for by `key`.
    fn audit_after(&self, key: Option<&str>, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    /// Removes entries of the audit trail with what they are looked for by, but not the newest of all.
    fn remove_entries(&self, entries: &[(u64, Vec<String>)]) -> Result<(), StoreError>;
    /// The record `meta`. Of a store that is being filled: of the one before, as if nothing was ever committed to it.
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError>;
    fn records(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError>;
    /// What of a payer's is in a window, in milliseconds since 1970-01-01 UTC, by end: one after the other, as long as `take` says
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
    /// What was noted under a name, if anything was.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Everything, as it is at one moment.
    fn dump(&self, take: &mut dyn FnMut(Page) -> Result<(), StoreError>) -> Result<(), StoreError>;
    /// Forgets everything but `before`, which is returned as [`Self::meta`]. Until [`Self::end_filling`] the store cannot
    /// be used.
    fn begin_filling(&self, before: Vec<u8>) -> Result<(), StoreError>;
    fn fill(&self, page: Page) -> Result<(), StoreError>;
    /// Writes the record `meta`, after which the store can be used.
    fn end_filling(&self, meta: Vec<u8>) -> Result<(), StoreError>;
    /// Writes something that means nothing, to see whether a write works.
    fn probe(&self) -> Result<(), StoreError>;
    /// After a write has failed: makes the store usable again, so that what it holds can be read. Where that cannot be, nothing
    /// is written any more, and others may.
    fn recover(&self) -> Result<(), StoreError>;
    /// How much room there is, where `reserve` bytes are to be kept free; none where that is not known.
    fn space(&self, reserve: u64) -> Result<Option<Space>, StoreError>;
    /// Takes the reserve off the disk, for nobody else to fill. Whether it is there.
    fn hold_reserve(&self, reserve: u64) -> bool;
    /// Gives the reserve to what is written next. Whether there was one.
    fn free_reserve(&self) -> bool;
    /// Writes no more, and says so to others.
    fn leave(&self);
}

/// Under what an entry is looked for.
pub(super) fn keys(entry: &Entry) -> Vec<String> {
    let request = (!entry.request.is_empty()).then(|| format!("request/{}", entry.request));
    // Those that go first when there is no room.
    let refused = (entry.outcome == "refused").then(|| format!("refused/{}", entry.actor));
    let listeners = events::accounts(&entry.events).into_iter().map(|account| events_of(Some(&account)));
    let all = (!entry.events.is_empty()).then(|| events_of(None));
    let accounts = entry.accounts.iter().map(|account| format!("account/{account}"));
    accounts.chain(request).chain(refused).chain(listeners).chain(all).collect()
}

/// Under what entries with events of an account are found, or with any.
pub(super) fn events_of(account: Option<&AccountId>) -> String {
    account.map_or("events/all".to_owned(), |account| format!("event/{account}"))
}

/// The same for an entry that was kept.
pub(super) fn keys_of(value: &[u8]) -> Vec<String> {
    serde_json::from_slice::<Entry>(value).map(|entry| keys(&entry)).unwrap_or_default()
}
