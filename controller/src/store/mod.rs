//! The store: records of the state, the audit trail and charged periods, in a file ([`Store::open`]) or
//! in etcd ([`Store::lead`]). Both hold the same rows, whose meaning is defined here.

mod backup;
mod backup_error;
mod check;
mod copy;
mod embedded;
mod error;
mod etcd;
mod etcd_error;
mod gaps;
#[cfg(test)]
mod golden;
mod leadership;
mod moving;
pub(crate) mod notes;
mod raw;
mod records;
mod reserve;
mod retained;
mod rows;

pub(crate) use backup::new_cluster;
pub use backup::{Origin, Restored};
pub use backup_error::BackupError;
pub use check::{Report, check, check_shared};
pub use copy::Manifest;
pub use error::StoreError;
pub use etcd::{Cluster, Leader, Replica};
pub use etcd_error::EtcdError;
pub use leadership::{Leadership, LeaseState};
pub use raw::Space;
pub(crate) use rows::Rows;
pub use rows::{Droppable, Dropped, Drops};

use crate::{
    audit::{Entry, Query},
    model::{
        metering::Period,
        state::{Change, Meta, State},
    },
};
use cps_peering_config::{
    format,
    id::{AccountId, PeeringId},
    net::Vni,
};
use gaps::EventGaps;
use notes::{EVENT_GAPS, MOVED};
use raw::{Backend, Batch, Lookup, SideId, events_of, keys};
use records::RowCodec;
use retained::Retained;
use rows::size;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where a store was moved to, and when.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Moved {
    to: String,
    at: String,
    /// The id of the move, which is also stored at its target.
    #[serde(default)]
    id: String,
    /// Whether it may not have been completed. Earlier releases take it for moved anyway, and do not start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
}

impl Moved {
    fn error(self, path: &Path) -> StoreError {
        let Self { to, at, unfinished, .. } = self;
        let path = path.to_owned();
        if unfinished { StoreError::Moving { path, to, at } } else { StoreError::Moved { path, to, at } }
    }
}

/// How long a new leader waits for its copy to catch up with the store.
const CATCH_UP: Duration = Duration::from_secs(2);

/// One side of a peering: the peering, and the side's VNI.
pub type SideKey = (PeeringId, Vni);

/// Appended to the id of a peering: the history of a side. No peering has such an id.
const SERIES: &str = "+series";

/// What a controller begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The records.
    pub state: State,
    /// Counters of sides of peerings, in stored form.
    pub(crate) traffic: BTreeMap<SideId, Vec<u8>>,
}

/// The state on disk.
pub struct Store {
    path: PathBuf,
    backups: PathBuf,
    backend: Box<dyn Backend>,
    leadership: Leadership,
    /// Unknown fields of records, written by a newer release.
    retained: Arc<Retained>,
}

impl Store {
    /// Opens the store in one file, for one process, and creates an empty one if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let backend = Box::new(embedded::Embedded::open(&path)?);
        Ok(Self {
            backups: path.with_file_name("backups"),
            path,
            backend,
            leadership: Leadership::Sole,
            retained: Arc::default(),
        })
    }

    /// Becomes leader of the controllers that share a store in etcd, under a new epoch. None if another one still leads after `wait`. `url`
    /// is where the others find this one.
    pub fn lead(cluster: &Arc<Cluster>, url: &str, wait: Duration) -> Result<Option<Self>, StoreError> {
        let Some(store) = Self::claim(cluster, Some(url), wait)? else { return Ok(None) };
        store.is_here()?;
        let meta = store.meta()?.unwrap_or_default();
        // Agents refuse what the previous leader may still send. Before the first commit, there was none.
        let epoch = if meta.number == 0 { meta.epoch } else { meta.epoch + 1 };
        let renewed = Meta { epoch, number: meta.number + 1, ..meta };
        store.commit(&[Change::Meta(renewed)], &[], &[], meta.number)?;
        Ok(Some(store))
    }

    /// Becomes leader if there is none, with a copy that is complete.
    pub fn lead_with(copy: &Replica, url: &str) -> Result<Option<(Self, Content)>, StoreError> {
        let Some(mut store) = Self::lead(copy.cluster(), url, Duration::ZERO)? else { return Ok(None) };
        // No other process writes now: once the copy has this controller's own first commit, it has everything.
        if let Some(content) = copy.take(copy.cluster().last_written()?, CATCH_UP) {
            store.retained = copy.retained();
            return Ok(Some((store, content)));
        }
        tracing::info!("there is no copy of the store yet: all of it is loaded");
        let content = store.content()?;
        Ok(Some((store, content)))
    }

    /// Keeps controllers from leading, to change their store as a whole.
    pub fn hold(cluster: &Arc<Cluster>) -> Result<Self, StoreError> {
        let held = Self::claim(cluster, None, cluster.patience())?;
        held.ok_or_else(|| StoreError::InUse(cluster.place().to_owned()))
    }

    /// Reads what is in etcd without affecting others. It cannot be written.
    pub fn look(cluster: &Arc<Cluster>) -> Self {
        Self::in_etcd(cluster, etcd::Etcd::reading(Arc::clone(cluster)))
    }

    fn claim(cluster: &Arc<Cluster>, url: Option<&str>, wait: Duration) -> Result<Option<Self>, StoreError> {
        let claimed = etcd::Etcd::lead(cluster, url, wait)?;
        Ok(claimed.map(|backend| Self::in_etcd(cluster, backend)))
    }

    fn in_etcd(cluster: &Arc<Cluster>, backend: etcd::Etcd) -> Self {
        let leadership = backend.leadership();
        let (path, backups) = (cluster.place().to_owned(), cluster.backups().to_owned());
        Self { path, backups, backend: Box::new(backend), leadership, retained: Arc::default() }
    }

    /// This process's leadership.
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Gives up leadership, so that another process can lead immediately. Nothing is written any more.
    pub fn leave(&self) {
        self.backend.leave();
    }

    /// Its name in errors.
    pub(crate) fn place(&self) -> &Path {
        &self.path
    }

    /// The folder for backups that are made while the store is used.
    pub fn backups(&self) -> &Path {
        &self.backups
    }

    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.backend.meta()?.map(|value| self.rows().meta(&value)).transpose()
    }

    /// Everything that was ever committed.
    pub fn load(&self) -> Result<State, StoreError> {
        let mut state = State::default();
        let mut passed_over = 0_usize;
        self.retained.clear();
        for (key, value) in self.backend.records()? {
            match self.rows().change(&key, Some(&value))? {
                Some(change) => state.apply(change),
                None => passed_over += 1,
            }
        }
        if passed_over > 0 {
            tracing::warn!(records = passed_over, "records of kinds that this release does not know stay as they are");
        }
        Ok(state)
    }

    /// The same with counters: what a controller begins with.
    pub fn content(&self) -> Result<Content, StoreError> {
        self.is_here()?;
        let state = self.load()?;
        let traffic =
            self.backend.traffic()?.into_iter().map(|(peering, vni, value)| ((peering, vni), value)).collect();
        Ok(Content { state, traffic })
    }

    /// All rows as of one moment.
    fn dump(&self, take: &mut dyn FnMut(raw::Page) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.backend.dump(take)
    }

    /// Checks that it was not moved elsewhere.
    fn is_here(&self) -> Result<(), StoreError> {
        self.moved()?.map_or(Ok(()), |moved| Err(moved.error(&self.path)))
    }

    /// Where it was moved to, if it was.
    fn moved(&self) -> Result<Option<Moved>, StoreError> {
        // Even if the note cannot be read, it was moved.
        Ok(self.backend.note(MOVED)?.map(|note| format::read(&note).unwrap_or_default()))
    }

    /// Marks it as moved.
    fn mark_moved(&self, moved: &Moved) -> Result<(), StoreError> {
        let note = self.rows().row(MOVED.to_owned(), Some(moved))?.1.unwrap_or_default();
        self.write_notes(vec![(MOVED, note)])
    }

    /// Commits changes durably, with charged periods and entries of the audit trail, all or
    /// none, if `expected` is the number of the last commit. The changes contain the new one.
    pub fn commit(
        &self,
        changes: &[Change],
        periods: &[Period],
        entries: &[Entry],
        expected: u64,
    ) -> Result<(), StoreError> {
        self.commit_rows(&self.encode(changes, periods, entries)?, expected)
    }

    /// Encodes changes, charged periods and entries of the audit trail as rows. Refuses records and entries
    /// that are too large.
    pub(crate) fn encode(&self, changes: &[Change], periods: &[Period], entries: &[Entry]) -> Result<Rows, StoreError> {
        let batch = Batch { entries: self.encode_entries(entries)?, ..Batch::default() };
        let owned = entries.iter().zip(&batch.entries);
        let owners = owned.map(|(entry, (_, value))| (entry.owner(), size(value))).collect();
        let mut rows = Rows { batch, number: None, owners };
        for change in changes {
            rows.batch.records.push(self.rows().encode(change)?);
            if let Change::Meta(meta) = change {
                rows.number = Some(meta.number);
            }
        }
        for period in periods {
            let key = (period.payer.to_string(), period.to_ms, period.peering.to_string(), period.from_ms);
            let value = self.rows().row("period".to_owned(), Some(period))?.1.unwrap_or_default();
            rows.batch.periods.push((key, value));
        }
        Ok(rows)
    }

    /// Commits rows durably, all or none, if `expected` is the number of the last commit.
    pub(crate) fn commit_rows(&self, rows: &Rows, expected: u64) -> Result<(), StoreError> {
        let committed = self.backend.commit(&rows.batch, expected, rows.number.unwrap_or(expected));
        let removed = rows.batch.records.iter().filter(|(_, value)| value.is_none());
        self.retained.settle(removed.map(|(key, _)| key), committed.is_ok());
        committed
    }

    /// Writes rows that are no commit.
    pub(crate) fn write_rows(&self, what: &'static str, rows: &Rows) -> Result<(), StoreError> {
        self.backend.write(what, &rows.batch)
    }

    /// Writes something without meaning, to check whether writes work.
    pub fn probe(&self) -> Result<(), StoreError> {
        self.backend.probe()
    }

    /// After a failed write: makes the store usable again. Returns the number of its last commit. If several
    /// controllers share the store, this one gives up leadership.
    pub fn recover(&self) -> Result<u64, StoreError> {
        self.backend.recover()?;
        Ok(self.meta()?.unwrap_or_default().number)
    }

    /// How much space there is, with `reserve` bytes to be kept free for writes that free space; none if unknown.
    pub fn space(&self, reserve: u64) -> Result<Option<Space>, StoreError> {
        self.backend.space(reserve)
    }

    /// Allocates the reserve on the disk, so that nobody else uses it. Returns whether it is there.
    pub fn hold_reserve(&self, reserve: u64) -> bool {
        self.backend.hold_reserve(reserve)
    }

    /// Releases the reserve for the next writes. Returns whether there was one.
    pub fn free_reserve(&self) -> bool {
        self.backend.free_reserve()
    }

    /// The closed periods that an account pays for and that are in a window, in milliseconds since 1970-01-01 UTC, in the order of
    /// their ends, as long as `take` returns true.
    pub fn periods(
        &self,
        payer: &AccountId,
        window: &Range<u64>,
        mut take: impl FnMut(Period) -> bool,
    ) -> Result<(), StoreError> {
        let mut parsed = |value: &[u8]| Ok(take(self.rows().parse("period", value)?));
        self.backend.periods(payer.as_str(), window, &mut parsed)
    }

    /// Appends to the audit trail alone. Returns the owners of the entries and their sizes in bytes.
    pub fn append(&self, entries: &[Entry]) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = self.encode(&[], &[], entries)?;
        self.backend.write("add to the audit trail", &rows.batch)?;
        Ok(rows.owners)
    }

    /// A note with this name, by a previous controller or an earlier run of this one.
    pub(crate) fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.backend.note(name)
    }

    /// Writes notes for the next controller. This is no commit.
    pub(crate) fn write_notes(&self, notes: Vec<(&'static str, Vec<u8>)>) -> Result<(), StoreError> {
        if notes.is_empty() {
            return Ok(());
        }
        self.backend.write("note something", &Batch { notes, ..Batch::default() })
    }

    /// The number of the newest entry of the audit trail; 0 if there is none.
    pub fn newest_entry(&self) -> Result<u64, StoreError> {
        let newest = self.backend.audit(&Lookup { key: None, before: None, limit: Some(1) })?;
        Ok(newest.first().map_or(0, |(number, _)| *number))
    }

    /// Entries of the audit trail after a number, the oldest first: owners and sizes in bytes.
    pub(crate) fn entries_after(&self, after: u64, limit: usize) -> Result<Vec<Dropped>, StoreError> {
        let rows = self.backend.audit_after(None, after, limit)?;
        Ok(rows.iter().map(|(number, value)| Dropped::of(*number, value).0).collect())
    }

    /// Drops the oldest entries of an owner, some at a time, until `surplus` bytes are free.
    pub(crate) fn drop_entries(
        &self,
        owner: &str,
        what: Droppable,
        surplus: u64,
        limit: usize,
    ) -> Result<Drops, StoreError> {
        let (key, after) = match what {
            Droppable::Refusals => (Some(format!("refused/{owner}")), 0),
            // An account's entries have an index; those of others are searched.
            Droppable::Own { after } | Droppable::Everything { after } => {
                (Some(owner.to_owned()).filter(|owner| owner.starts_with("account/")), after)
            }
        };
        let rows = self.backend.audit_after(key.as_deref(), after, limit)?;
        let (mut dropped, mut removed, mut freed, mut last) = (Vec::new(), Vec::new(), 0, None);
        for (number, value) in &rows {
            if freed >= surplus {
                break;
            }
            last = Some(*number);
            let (it, keys) = Dropped::of(*number, value);
            let kept = it.tells_others && matches!(what, Droppable::Own { .. });
            if it.owner == owner && !kept {
                freed += it.bytes;
                removed.push((*number, keys));
                dropped.push(it);
            }
        }
        if !removed.is_empty() {
            // Before they are dropped: readers that have not read them yet are told.
            let gone = rows.iter().filter(|(number, _)| removed.iter().any(|(it, _)| it == number));
            self.note_gaps(gone.filter_map(|(number, value)| Some((*number, serde_json::from_slice(value).ok()?))))?;
            self.backend.remove_entries(&removed)?;
        }
        let is_all = rows.len() < limit && last == rows.last().map(|(number, _)| *number);
        Ok(Drops { dropped, last, is_all })
    }

    fn note_gaps(&self, gone: impl Iterator<Item = (u64, Entry)>) -> Result<(), StoreError> {
        let mut gaps = EventGaps::read(self.note(EVENT_GAPS)?.as_deref());
        let changed = gone.filter(|(number, entry)| gaps.add(*number, &entry.events)).count() > 0;
        if changed { self.write_notes(vec![(EVENT_GAPS, gaps.to_note())]) } else { Ok(()) }
    }

    /// The newest entry with events of an account, or of anyone, that was dropped prematurely for lack of space; 0 if
    /// there is none.
    pub fn event_gap(&self, account: Option<&AccountId>) -> Result<u64, StoreError> {
        Ok(EventGaps::read(self.note(EVENT_GAPS)?.as_deref()).of(account))
    }

    /// Forgets entries of the audit trail that are older than `until_ms`, some at a time. Returns those, and the
    /// newest entry of all if it is that old: it stays, so that no number is reused.
    pub fn forget(&self, until_ms: u64) -> Result<Vec<Dropped>, StoreError> {
        const AT_ONCE: usize = 1000;
        let old = |limit| -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
            let mut rows = self.backend.audit_after(None, 0, limit)?;
            // An unreadable one is as old as the next one.
            let age = |value: &[u8]| serde_json::from_slice::<Entry>(value).map_or(0, |entry| entry.time_ms);
            let count = rows.iter().take_while(|(_, value)| age(value) < until_ms).count();
            rows.truncate(count);
            Ok(rows)
        };
        // Usually there is nothing to forget, which one row tells.
        if old(1)?.is_empty() {
            return Ok(Vec::new());
        }
        let (dropped, removed): (Vec<_>, Vec<_>) = old(AT_ONCE)?
            .iter()
            .map(|(number, value)| {
                let (it, keys) = Dropped::of(*number, value);
                (it, (*number, keys))
            })
            .unzip();
        self.backend.remove_entries(&removed)?;
        Ok(dropped)
    }

    /// Entries of the audit trail with events of an account, or of anyone, from a number on, the oldest first.
    pub fn entries_with_events(
        &self,
        account: Option<&AccountId>,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Entry)>, StoreError> {
        let rows = self.backend.audit_after(Some(&events_of(account)), from.saturating_sub(1), limit)?;
        rows.into_iter()
            .map(|(number, value)| Ok((number, self.rows().parse(&format!("audit/{number}"), &value)?)))
            .collect()
    }

    /// Reads the audit trail: entries with their numbers, the newest first.
    pub fn audit(&self, query: &Query) -> Result<Vec<(u64, Entry)>, StoreError> {
        let key = match (&query.request, &query.account) {
            (Some(request), _) => Some(format!("request/{request}")),
            (None, Some(account)) => Some(format!("account/{account}")),
            (None, None) => None,
        };
        // A request has few entries, which may not concern the account.
        let limit = query.request.is_none().then_some(query.limit.max(1));
        let rows = self.backend.audit(&Lookup { key, before: query.before, limit })?;
        let mut entries = Vec::with_capacity(rows.len());
        for (number, value) in rows {
            let entry: Entry = self.rows().parse(&format!("audit/{number}"), &value)?;
            if query.account.as_ref().is_none_or(|account| entry.accounts.contains(account)) {
                entries.push((number, entry));
            }
        }
        entries.truncate(query.limit);
        Ok(entries)
    }

    /// Counters of sides of peerings.
    pub fn traffic<T: DeserializeOwned>(&self) -> Result<Vec<(SideKey, T)>, StoreError> {
        self.traffic_of(self.backend.traffic()?.into_iter().map(|(peering, vni, value)| ((peering, vni), value)))
    }

    /// The same from rows that were read already.
    pub(crate) fn traffic_of<T: DeserializeOwned>(
        &self,
        rows: impl IntoIterator<Item = (SideId, Vec<u8>)>,
    ) -> Result<Vec<(SideKey, T)>, StoreError> {
        let mut sides = Vec::new();
        for ((peering, vni), value) in rows.into_iter().filter(|((name, _), _)| !name.ends_with(SERIES)) {
            let content = self.rows().parse(&format!("traffic/{peering}"), &value)?;
            if let (Ok(peering), Ok(vni)) = (peering.parse(), Vni::try_from(vni)) {
                sides.push(((peering, vni), content));
            }
        }
        Ok(sides)
    }

    /// Stores counters of some sides, and deletes others.
    pub fn save_traffic<T: Serialize>(&self, rows: &[(SideKey, T)], gone: &[SideKey]) -> Result<(), StoreError> {
        if rows.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for ((peering, vni), value) in rows {
            let value = self.rows().row(format!("traffic/{peering}"), Some(value))?.1;
            batch.traffic.push(((peering.to_string(), vni.get()), value));
        }
        let forget = |(peering, vni): &SideKey| {
            [((peering.to_string(), vni.get()), None), ((format!("{peering}{SERIES}"), vni.get()), None)]
        };
        batch.traffic.extend(gone.iter().flat_map(forget));
        self.backend.write("keep what was counted", &batch)
    }

    /// The history of some sides, from rows that were read already. Unreadable ones are not worth a failed start.
    pub(crate) fn series_of<T: DeserializeOwned>(&self, rows: &BTreeMap<SideId, Vec<u8>>) -> Vec<(SideKey, T)> {
        let read = |((name, vni), value): (&SideId, &Vec<u8>)| {
            let peering = name.strip_suffix(SERIES)?.parse().ok()?;
            let content = self.rows().parse(&format!("traffic/{name}"), value);
            let content = content.inspect_err(|error| tracing::warn!(%error, "how traffic went is forgotten")).ok()?;
            Some(((peering, Vni::try_from(*vni).ok()?), content))
        };
        rows.iter().filter_map(read).collect()
    }

    /// Stores the history of some sides.
    pub(crate) fn save_series<T: Serialize>(&self, rows: &[(SideKey, T)]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for ((peering, vni), value) in rows {
            let name = format!("{peering}{SERIES}");
            let value = self.rows().row(format!("traffic/{name}"), Some(value))?.1;
            batch.traffic.push(((name, vni.get()), value));
        }
        self.backend.write("keep how traffic went", &batch)
    }

    fn encode_entries(&self, entries: &[Entry]) -> Result<Vec<raw::EncodedEntry>, StoreError> {
        let encode =
            |entry: &Entry| Ok((keys(entry), self.rows().row("audit".to_owned(), Some(entry))?.1.unwrap_or_default()));
        entries.iter().map(encode).collect()
    }

    fn rows(&self) -> RowCodec<'_> {
        RowCodec { place: &self.path, retained: &self.retained }
    }
}
