//! The store in etcd, for several controllers, one of which leads.
//!
//! | key below the prefix | content |
//! |---|---|
//! | `leader` | the leader ([`lease`]) |
//! | `last` | the id of the last write; every write compares its revision, so that none takes effect twice or late |
//! | `records/KIND/ID` | records |
//! | `audit/NUMBER`, `audit_by/KEY/NUMBER` | the audit trail, and its index |
//! | `periods/PAYER/END/PEERING/BEGINNING`, `traffic/PEERING/VNI` | charged periods, counters |
//! | `notes/NAME` | notes of the leader for the next one: useful, but not essential |
//! | `staged/PART`, `pending` | a commit that is too large for one transaction ([`staged`]) |
//! | `filling` | exists while the store is filled from another; it cannot be used then |

mod client;
mod cluster;
mod lease;
mod read;
mod replica;
mod staged;
#[cfg(test)]
mod tests;

pub use cluster::Cluster;
pub use lease::Leader;
pub use replica::Replica;

use super::{
    StoreError,
    leadership::Leadership,
    raw::{Backend, Batch, Lookup, MAX_VALUE, Page, PeriodKey, SideRow, Space, keys_of},
};
use crate::model::state::Meta;
use client::{Compare, Done, KeyValue, Operation, Range};
use cps_peering_config::{format, retry::jitter};
use lease::{Lease, boot_ms};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The timeout of one read or write, after which it is repeated, or another member is asked.
const WITHIN: Duration = Duration::from_secs(2);
/// The timeout for a page of many rows.
const PAGE_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// How often followers check whether there is a leader.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Operations of one transaction: etcd accepts 128 (`--max-txn-ops`), one of which is the id of the write.
const MAX_OPERATIONS: usize = 127;
/// Bytes of one transaction: etcd accepts 1.5 MiB (`--max-request-bytes`), including the encoding.
const MAX_BYTES: usize = 1 << 20;
/// For how long a measurement of etcd's free space is used.
const SPACE_KNOWN: Duration = Duration::from_secs(5);

/// The store in etcd.
pub(super) struct Etcd {
    cluster: Arc<Cluster>,
    /// None for a read-only store.
    leading: Option<Lease>,
    writer: Mutex<Writer>,
    /// Held shared by readers, and exclusively while a large commit is put in place.
    whole: RwLock<()>,
    /// How much of etcd's database is used, in bytes, and when that was measured.
    used: Mutex<Option<(Instant, u64)>>,
    /// Whether the last write failed for lack of space.
    refused: AtomicBool,
}

/// State that only the leader changes.
#[derive(Debug, Default)]
struct Writer {
    /// The revision of the last write.
    last: u64,
    /// The number of the last commit.
    number: u64,
    /// The number of the newest entry of the audit trail.
    entry: u64,
    /// Whether the store is being filled.
    filling: bool,
}

impl Etcd {
    /// A store for reading only.
    pub(super) fn reading(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            leading: None,
            writer: Mutex::default(),
            whole: RwLock::new(()),
            used: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// Becomes leader, or returns none if another controller leads. `wait`: how long to wait for it to leave.
    pub(super) fn lead(cluster: &Arc<Cluster>, url: Option<&str>, wait: Duration) -> Result<Option<Self>, StoreError> {
        let until_ms = boot_ms().saturating_add(wait.as_millis().try_into().unwrap_or(u64::MAX));
        let leading = loop {
            // A claim is a write for all members, while a read is not.
            if cluster.leader()?.is_none()
                && let Some(leading) = cluster.claim(url)?
            {
                break leading;
            }
            if boot_ms() >= until_ms {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let cluster = Arc::clone(cluster);
        let (writer, whole, used) = (Mutex::default(), RwLock::new(()), Mutex::default());
        let store = Self { cluster, leading: Some(leading), writer, whole, used, refused: AtomicBool::new(false) };
        store.take_over(url.is_some())?;
        Ok(Some(store))
    }

    /// This process's leadership.
    pub(super) fn leadership(&self) -> Leadership {
        self.leading.as_ref().map_or(Leadership::None, |lease| Leadership::Leased(lease.state()))
    }

    /// Gives up leadership.
    fn end(&self) {
        if let Some(leading) = &self.leading {
            leading.end();
        }
    }

    /// Finds where the previous leader stopped, and completes what it had begun. With `strictly`, a damaged record about it is an error;
    /// otherwise a backup can replace what is there.
    fn take_over(&self, strictly: bool) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let one = |rest: &str| Range::key(&self.cluster.key(rest));
        let newest = Range { limit: 1, backwards: true, ..self.below("audit/") };
        let staged = Range { limit: 1, ..self.below("staged/") };
        let looked = [one("last"), one("records/meta"), one("filling"), one("pending"), newest, staged];
        let done = self.cluster.client.ranges(&looked, WITHIN).map_err(self.cluster.failed("take it over"))?;
        let mut found = done.ranges().map(|found| found.kvs.into_iter().next());
        let mut next = || found.next().flatten();
        writer.last = next().map_or(0, |row| row.mod_revision);
        if let Some(row) = next() {
            writer.number = match self.meta(&row.value) {
                Err(_) if !strictly => 0,
                read => read?.number,
            };
        }
        writer.filling = next().is_some();
        let pending = next();
        if let Some(row) = next() {
            writer.entry = self.tail_number(&row.key)?;
        }
        let staged = next();
        match (pending, staged) {
            (Some(pending), _) => self.roll_forward(&mut writer, &pending.value),
            // Its success was never reported.
            (None, Some(_)) => self.write(&mut writer, "clear what was staged", &[self.delete_all("staged/")]),
            (None, None) => Ok(()),
        }
    }

    fn meta(&self, value: &[u8]) -> Result<Meta, StoreError> {
        format::read(value).map_err(|source| StoreError::Record {
            path: self.cluster.place.clone(),
            key: "meta".to_owned(),
            source,
        })
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // Its content is changed after the write that it describes.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, rest: &str) -> Range {
        let first = self.cluster.key(rest);
        Range { end: Some(client::behind(&first)), first, ..Range::default() }
    }

    fn put(&self, rest: &str, value: impl Into<Vec<u8>>) -> Operation {
        Operation::Put(self.cluster.key(rest), value.into())
    }

    fn delete(&self, rest: &str) -> Operation {
        Operation::Delete(self.cluster.key(rest))
    }

    fn delete_all(&self, rest: &str) -> Operation {
        Operation::DeleteAll(self.cluster.key(rest))
    }

    fn deposed(&self) -> StoreError {
        StoreError::Deposed { path: self.cluster.place.clone() }
    }

    /// Executes one transaction exactly once, if this process leads. If its outcome is unknown, or etcd refuses it, the
    /// process gives up leadership: the next leader reads what was stored.
    ///
    /// "No space" does not tell whether it was executed: etcd answers that before it examines a transaction that would not fit, and
    /// also after it has applied the one that filled it (`quotaApplierV3.Txn`).
    fn write(&self, writer: &mut Writer, what: &'static str, operations: &[Operation]) -> Result<(), StoreError> {
        let leading = self.leading.as_ref().filter(|it| it.holds()).ok_or_else(|| self.deposed())?;
        let (leader, last) = (self.cluster.key("leader"), self.cluster.key("last"));
        let name = format!("{:032x}", fastrand::u128(..));
        let mut operations = operations.to_vec();
        operations.push(Operation::Put(last.clone(), name.clone().into_bytes()));
        let compare = [Compare::Created(&leader, leading.created()), Compare::Written(&last, writer.last)];
        let otherwise = [Range::key(&leader), Range::key(&last)];
        let failure = loop {
            match self.cluster.client.transact(&compare, &operations, &otherwise, WITHIN) {
                Ok(done) if done.succeeded => {
                    writer.last = done.header.revision;
                    return Ok(());
                }
                Ok(done) => {
                    let (leads, last) = leader_and_last(done, leading);
                    if leads && last.value == name.as_bytes() {
                        // It was executed, and the response was lost.
                        writer.last = last.mod_revision;
                        return Ok(());
                    }
                    break self.deposed();
                }
                Err(error) if error.may_pass() && leading.holds() => {
                    tracing::warn!(%error, "a write is retried");
                    std::thread::sleep(jitter(PAUSE));
                }
                Err(error) if error.is_no_space() => {
                    let Ok(found) = self.cluster.client.ranges(&otherwise, WITHIN) else {
                        break self.cluster.failed(what)(error);
                    };
                    let (leads, last) = leader_and_last(found, leading);
                    if leads && last.value == name.as_bytes() {
                        writer.last = last.mod_revision;
                        return Ok(());
                    }
                    if leads && last.mod_revision == writer.last {
                        // It was not executed, and the content can be read: this process continues to lead until there is space.
                        self.refused.store(true, Ordering::Relaxed);
                        return Err(self.cluster.failed(what)(error));
                    }
                    break self.deposed();
                }
                Err(error) => break self.cluster.failed(what)(error),
            }
        };
        leading.end();
        Err(failure)
    }

    /// Executes several transactions in sequence; readers may see some of them before all are done.
    fn write_in_parts(
        &self,
        writer: &mut Writer,
        what: &'static str,
        operations: &[Operation],
    ) -> Result<(), StoreError> {
        for part in parts(operations, MAX_OPERATIONS) {
            self.write(writer, what, part)?;
        }
        Ok(())
    }

    fn operations(&self, writer: &Writer, batch: &Batch) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (key, value) in &batch.records {
            let key = format!("records/{key}");
            operations.push(match value {
                Some(value) => self.put(&key, value.clone()),
                None => self.delete(&key),
            });
        }
        for (key, value) in &batch.periods {
            operations.push(self.put(&period_key(key), value.clone()));
        }
        for (number, (keys, value)) in (writer.entry + 1..).zip(&batch.entries) {
            operations.extend(self.entry(number, keys, value));
        }
        for ((peering, vni), value) in &batch.traffic {
            let key = format!("traffic/{peering}/{vni:08x}");
            operations.push(match value {
                Some(value) => self.put(&key, value.clone()),
                None => self.delete(&key),
            });
        }
        operations.extend(batch.notes.iter().map(|(name, value)| self.put(&format!("notes/{name}"), value.clone())));
        // etcd accepts each key once in a transaction: the last value.
        let mut seen = HashSet::new();
        let mut once: Vec<bool> = operations.iter().rev().map(|it| seen.insert(it.key())).collect();
        operations.retain(|_| once.pop().unwrap_or_default());
        operations
    }

    fn entry(&self, number: u64, keys: &[String], value: &[u8]) -> Vec<Operation> {
        let mut operations = vec![self.put(&format!("audit/{number:016x}"), value)];
        operations.extend(keys.iter().map(|key| self.put(&format!("audit_by/{key}/{number:016x}"), Vec::new())));
        operations
    }

    /// Finds values that are too large for any transaction, before anything is written.
    fn check(&self, operations: &[Operation]) -> Result<(), StoreError> {
        for operation in operations {
            if let Operation::Put(key, value) = operation
                && value.len() > MAX_VALUE
            {
                let (path, key) = (self.cluster.place.clone(), key.clone());
                return Err(StoreError::TooLarge { path, key, length: value.len(), most: MAX_VALUE });
            }
        }
        Ok(())
    }
}

/// Whether this process leads, and the last write (an empty row if there was none), from a response about the keys `leader` and
/// `last`.
fn leader_and_last(answer: Done, leading: &Lease) -> (bool, KeyValue) {
    let mut rows = answer.ranges().map(|found| found.kvs.into_iter().next().unwrap_or_default());
    let (leader, last) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
    (leader.create_revision == leading.created(), last)
}

fn period_key((payer, to_ms, peering, from_ms): &PeriodKey) -> String {
    format!("periods/{payer}/{to_ms:016x}/{peering}/{from_ms:016x}")
}

/// Groups of as many operations as one transaction accepts.
fn parts(mut operations: &[Operation], most: usize) -> impl Iterator<Item = &[Operation]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |operation: &&Operation| {
            bytes += operation.len();
            bytes <= MAX_BYTES
        };
        let fitting = operations.iter().take(most).take_while(fits).count();
        // A larger one has a transaction of its own.
        let (part, rest) = operations.split_at(fitting.max(1).min(operations.len()));
        operations = rest;
        (!part.is_empty()).then_some(part)
    })
}

impl Backend for Etcd {
    fn commit(&self, batch: &Batch, expected: u64, number: u64) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if writer.filling {
            return Err(StoreError::Unfinished { path: self.cluster.place.clone() });
        }
        if writer.number != expected {
            let (path, found) = (self.cluster.place.clone(), writer.number);
            return Err(StoreError::Overtaken { path, expected, found });
        }
        let operations = self.operations(&writer, batch);
        self.check(&operations)?;
        if parts(&operations, MAX_OPERATIONS).nth(1).is_none() {
            self.write(&mut writer, "commit to it", &operations)?;
        } else if let Err(error) = self.commit_staged(&mut writer, &operations) {
            // Parts of it may be there: the next leader completes or clears it.
            self.end();
            return Err(error);
        }
        writer.number = number;
        writer.entry += batch.entries.len() as u64;
        // A success after the lease has expired may contradict the next leader.
        if self.leadership().holds() { Ok(()) } else { Err(self.deposed()) }
    }

    fn write(&self, what: &'static str, batch: &Batch) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let operations = self.operations(&writer, batch);
        self.check(&operations)?;
        self.write_in_parts(&mut writer, what, &operations)?;
        writer.entry += batch.entries.len() as u64;
        Ok(())
    }

    fn audit_after(&self, key: Option<&str>, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read_audit_after(key, after, limit)
    }

    fn remove_entries(&self, entries: &[(u64, Vec<String>)]) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let mut operations = Vec::new();
        // The newest stays, so that numbers are not reused.
        for (number, keys) in entries.iter().filter(|(number, _)| *number != writer.entry) {
            operations.push(self.delete(&format!("audit/{number:016x}")));
            operations.extend(keys.iter().map(|key| self.delete(&format!("audit_by/{key}/{number:016x}"))));
        }
        self.write_in_parts(&mut writer, "shorten the audit trail", &operations)
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let ranges = ["filling", "records/meta"].map(|rest| Range::key(&self.cluster.key(rest)));
        let done = self.cluster.client.ranges(&ranges, WITHIN).map_err(self.cluster.failed("read it"))?;
        Ok(done.ranges().find_map(|found| found.kvs.into_iter().next()).map(|row| row.value))
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let range = Range::key(&self.cluster.key(&format!("notes/{name}")));
        let found = self.cluster.client.range(&range, WITHIN).map_err(self.cluster.failed("read what was noted"))?;
        Ok(found.kvs.into_iter().next().map(|row| row.value))
    }

    fn records(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read_records()
    }

    fn periods(
        &self,
        payer: &str,
        window: &std::ops::Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.read_periods(payer, window, take)
    }

    fn audit(&self, lookup: &Lookup) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read_audit(lookup)
    }

    fn traffic(&self) -> Result<Vec<SideRow>, StoreError> {
        self.read_traffic()
    }

    fn dump(&self, take: &mut dyn FnMut(Page) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.read_all(take)
    }

    fn begin_filling(&self, before: Vec<u8>) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let mut operations = vec![self.put("filling", before)];
        for rest in ["records/", "audit/", "audit_by/", "periods/", "traffic/", "staged/"] {
            operations.push(self.delete_all(rest));
        }
        operations.push(self.delete("pending"));
        // A store that was moved away is used again.
        operations.push(self.delete("notes/moved"));
        operations.push(self.delete("notes/arrived"));
        self.write(&mut writer, "clear it", &operations)?;
        (writer.filling, writer.number, writer.entry) = (true, 0, 0);
        Ok(())
    }

    fn fill(&self, page: Page) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let mut operations = Vec::new();
        let mut batch = Batch::default();
        match page {
            Page::Records(rows) => batch.records = rows.into_iter().map(|(key, value)| (key, Some(value))).collect(),
            Page::Periods(rows) => batch.periods = rows,
            Page::Traffic(rows) => {
                let rows = rows.into_iter().map(|(peering, vni, value)| ((peering, vni), Some(value)));
                batch.traffic = rows.collect();
            }
            Page::Audit(rows) => {
                for (number, value) in rows {
                    operations.extend(self.entry(number, &keys_of(&value), &value));
                    writer.entry = writer.entry.max(number);
                }
            }
        }
        operations.extend(self.operations(&writer, &batch));
        self.check(&operations)?;
        self.write_in_parts(&mut writer, "fill it", &operations)
    }

    fn end_filling(&self, meta: Vec<u8>) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let number = self.meta(&meta)?.number;
        let operations = [self.put("records/meta", meta), self.delete("filling")];
        self.write(&mut writer, "finish it", &operations)?;
        (writer.filling, writer.number) = (false, number);
        Ok(())
    }

    fn probe(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        self.write(&mut writer, "write to it", &[])
    }

    fn recover(&self) -> Result<(), StoreError> {
        if self.refused.swap(false, Ordering::Relaxed) && self.leadership().holds() {
            return Ok(());
        }
        // The next leader reads what was stored; that may be this process, as soon as writes work.
        self.leave();
        Err(self.deposed())
    }

    fn space(&self, _reserve: u64) -> Result<Option<Space>, StoreError> {
        const PART: u64 = 10;
        let most = self.cluster.settings.quota_mb.saturating_mul(1 << 20);
        let mut known = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = match *known {
            Some((at, used)) if at.elapsed() < SPACE_KNOWN => used,
            _ => {
                let failed = self.cluster.failed("see how much room there is");
                let used = self.cluster.client.database_size(WITHIN).map_err(failed)?;
                *known = Some((Instant::now(), used));
                used
            }
        };
        Ok(Some(Space { free: most.saturating_sub(used), reserve: most / PART }))
    }

    fn hold_reserve(&self, _reserve: u64) -> bool {
        // It is a part of etcd's own quota, which nobody else uses.
        true
    }

    fn free_reserve(&self) -> bool {
        false
    }

    fn leave(&self) {
        // Not during a write.
        let _writer = self.writer();
        if let Some(leading) = &self.leading {
            leading.leave();
        }
    }
}

impl Etcd {
    /// The number at a key's end.
    fn tail_number(&self, key: &str) -> Result<u64, StoreError> {
        let tail = key.rsplit('/').next().unwrap_or_default();
        u64::from_str_radix(tail, 16)
            .map_err(|_| StoreError::UnknownRecord { path: self.cluster.place.clone(), key: key.to_owned() })
    }
}
