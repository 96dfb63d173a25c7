//! The store in one file, for one process.

use super::{
    StoreError,
    raw::{Backend, Batch, EncodedEntry, Lookup, Page, SideRow, Space, keys_of},
    reserve::Reserve,
};
use crate::model::state::Meta;
use cps_peering_config::{
    format,
    text::{MAX_QUOTED, cut},
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::{
    any::Any,
    fs::OpenOptions,
    io::ErrorKind,
    ops::Range,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

/// Records as JSON, by kind and id: `host/h1`.
pub(super) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: &str = "meta";
/// Entries of the audit trail as JSON, by their number.
pub(super) const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
/// Numbers of entries by search key: `account/acme` or `request/0a1b2c`.
const AUDIT_BY: TableDefinition<'_, (&str, u64), ()> = TableDefinition::new("audit_by");
/// Closed periods as JSON, by payer, end, peering and beginning.
pub(super) const PERIODS: TableDefinition<'_, (&str, u64, &str, u64), &[u8]> = TableDefinition::new("periods");
/// The counters of a side as JSON, by peering and VNI.
pub(super) const TRAFFIC: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("traffic");
/// Notes of the controller for its next run as JSON, by name. The previous version ignores the table.
const NOTES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("notes");
/// How much of the file is cached in memory, in bytes: the state is in memory anyway, and is read from the file only at the start.
const CACHE: usize = 64 * 1024 * 1024;
/// How many rows are copied at a time.
const PAGE: usize = 4000;

/// What [`Backend::probe`] writes: a number.
const PROBE: TableDefinition<'_, &str, u64> = TableDefinition::new("probe");

/// A file of rows.
pub(super) struct Embedded {
    path: PathBuf,
    /// None if it was closed after a failure, and could not be opened again.
    database: RwLock<Option<Database>>,
    reserve: Reserve,
}

impl Embedded {
    /// Opens the file, and creates an empty one if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        // It holds the secret keys with which requests are signed: it is private from the beginning.
        let private = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map(drop);
        let private = private.and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)));
        private.map_err(|error| StoreError::Database {
            path: path.clone(),
            what: "open it",
            source: Box::new(redb::Error::Io(error)),
        })?;
        // The checksum of every page is verified: damage is found now rather than when a page is needed.
        let database = open(&path, true)?;
        let reserve = Reserve::new(&path);
        let store = Self { path, database: RwLock::new(Some(database)), reserve };
        store.transact("prepare it", |_, _| Ok(()))?;
        Ok(store)
    }

    /// Uses the open file.
    fn using<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| StoreError::Closed { path: self.path.clone() })?;
        // Damage since the start makes the library panic.
        let worked = catch_unwind(AssertUnwindSafe(|| work(database)));
        let worked = worked.map_err(|panic| StoreError::Damaged { path: self.path.clone(), message: told(&*panic) })?;
        worked.map_err(|source| failed(&self.path, what, source))
    }

    fn read<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.using(what, |database| work(&database.begin_read()?.open_table(RECORDS)?))
    }

    /// Runs `work` in one transaction that is on disk when this returns.
    fn transact(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>, &mut Trail<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.using(what, |database| {
            let transaction = database.begin_write()?;
            {
                let mut trail = Trail {
                    entries: transaction.open_table(AUDIT)?,
                    by: transaction.open_table(AUDIT_BY)?,
                    periods: transaction.open_table(PERIODS)?,
                    traffic: transaction.open_table(TRAFFIC)?,
                    notes: transaction.open_table(NOTES)?,
                };
                work(&mut transaction.open_table(RECORDS)?, &mut trail)?;
            }
            Ok(transaction.commit()?)
        })
    }
}

/// Opens the file. `checked`: whether all checksums are verified.
pub(super) fn open(path: &Path, checked: bool) -> Result<Database, StoreError> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(checked).create(path)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StoreError::InUse(path.to_owned())),
        Ok(Err(error)) => Err(failed(path, "open it", error.into())),
        Err(panic) => Err(StoreError::Damaged { path: path.to_owned(), message: told(&*panic) }),
    }
}

fn failed(path: &Path, what: &'static str, source: redb::Error) -> StoreError {
    let path = path.to_owned();
    match source {
        redb::Error::Corrupted(message) => StoreError::Damaged { path, message },
        // The library's error if the file contains something else.
        redb::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            StoreError::Damaged { path, message: error.to_string() }
        }
        source => StoreError::Database { path, what, source: Box::new(source) },
    }
}

/// The message of a panic.
pub(super) fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    cut(text.unwrap_or("it cannot be read"), MAX_QUOTED)
}

impl Backend for Embedded {
    fn commit(&self, batch: &Batch, expected: u64, _number: u64) -> Result<(), StoreError> {
        let found: u64 = match self.meta()? {
            Some(value) => format::read::<Meta>(&value).map(|meta| meta.number).map_err(|source| {
                let (path, key) = (self.path.clone(), META.to_owned());
                StoreError::Record { path, key, source }
            })?,
            None => 0,
        };
        if found != expected {
            return Err(StoreError::Overtaken { path: self.path.clone(), expected, found });
        }
        self.write("commit to it", batch)
    }

    fn write(&self, what: &'static str, batch: &Batch) -> Result<(), StoreError> {
        self.transact(what, |table, trail| {
            for (key, value) in &batch.records {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice()).map(drop)?,
                    None => table.remove(key.as_str()).map(drop)?,
                }
            }
            for ((payer, to_ms, peering, from_ms), value) in &batch.periods {
                trail.periods.insert((payer.as_str(), *to_ms, peering.as_str(), *from_ms), value.as_slice())?;
            }
            for ((peering, vni), value) in &batch.traffic {
                match value {
                    Some(value) => trail.traffic.insert((peering.as_str(), *vni), value.as_slice()).map(drop)?,
                    None => trail.traffic.remove((peering.as_str(), *vni)).map(drop)?,
                }
            }
            for (name, value) in &batch.notes {
                trail.notes.insert(*name, value.as_slice())?;
            }
            trail.append(&batch.entries)
        })
    }

    fn audit_after(&self, key: Option<&str>, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let first = after.saturating_add(1);
        self.using("read the audit trail", |database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(AUDIT)?;
            let mut rows = Vec::new();
            match key {
                Some(key) => {
                    let by = transaction.open_table(AUDIT_BY)?;
                    for row in by.range((key, first)..=(key, u64::MAX))?.take(limit) {
                        let number = row?.0.value().1;
                        if let Some(value) = table.get(number)? {
                            rows.push((number, value.value().to_owned()));
                        }
                    }
                }
                None => {
                    for row in table.range(first..)?.take(limit) {
                        let (number, value) = row?;
                        rows.push((number.value(), value.value().to_owned()));
                    }
                }
            }
            Ok(rows)
        })
    }

    fn remove_entries(&self, entries: &[(u64, Vec<String>)]) -> Result<(), StoreError> {
        self.transact("shorten the audit trail", |_, trail| trail.remove(entries))
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.read("read it", |table| Ok(table.get(META)?.map(|value| value.value().to_owned())))
    }

    fn records(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read("read it", |table| {
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_owned()));
            }
            Ok(rows)
        })
    }

    fn periods(
        &self,
        payer: &str,
        window: &Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let taken = self.using("read what is to be charged", |database| {
            let table = database.begin_read()?.open_table(PERIODS)?;
            let first = (payer, window.start.saturating_add(1), "", 0);
            let last = (payer, u64::MAX, "~", u64::MAX);
            for row in table.range(first..=last)? {
                let (key, value) = row?;
                let (_, _, _, from_ms) = key.value();
                let taken = if from_ms < window.end { take(value.value()) } else { Ok(true) };
                if !matches!(taken, Ok(true)) {
                    return Ok(taken);
                }
            }
            Ok(Ok(true))
        });
        taken?.map(drop)
    }

    fn audit(&self, lookup: &Lookup) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let before = lookup.before.unwrap_or(u64::MAX);
        let limit = lookup.limit.unwrap_or(usize::MAX);
        self.using("read the audit trail", |database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(AUDIT)?;
            let by = transaction.open_table(AUDIT_BY)?;
            let mut rows = Vec::new();
            match &lookup.key {
                Some(key) => {
                    for row in by.range((key.as_str(), 0)..(key.as_str(), before))?.rev().take(limit) {
                        let number = row?.0.value().1;
                        if let Some(value) = table.get(number)? {
                            rows.push((number, value.value().to_owned()));
                        }
                    }
                }
                None => {
                    for row in table.range(..before)?.rev().take(limit) {
                        let (number, value) = row?;
                        rows.push((number.value(), value.value().to_owned()));
                    }
                }
            }
            Ok(rows)
        })
    }

    fn traffic(&self) -> Result<Vec<SideRow>, StoreError> {
        self.using("read what was counted", |database| {
            let table = database.begin_read()?.open_table(TRAFFIC)?;
            let rows = table.iter()?.map(|row| {
                let (key, value) = row?;
                let (peering, vni) = key.value();
                Ok((peering.to_owned(), vni, value.value().to_owned()))
            });
            rows.collect()
        })
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.using("read what was noted", |database| {
            let table = database.begin_read()?.open_table(NOTES)?;
            Ok(table.get(name)?.map(|value| value.value().to_owned()))
        })
    }

    fn dump(&self, take: &mut dyn FnMut(Page) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let failed = |source: redb::Error| failed(&self.path, "read it", source);
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| StoreError::Closed { path: self.path.clone() })?;
        let moment = database.begin_read().map_err(|error| failed(error.into()))?;
        let text = |key: &str| key.to_owned();
        let records = moment.open_table(RECORDS).map_err(|error| failed(error.into()))?;
        let mut rows = records.iter().map_err(|error| failed(error.into()))?.map(|row| {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            Ok((text(key.value()), value.value().to_owned()))
        });
        pages(&mut rows, &mut |page| take(Page::Records(page)))?;
        let audit = moment.open_table(AUDIT).map_err(|error| failed(error.into()))?;
        let mut rows = audit.iter().map_err(|error| failed(error.into()))?.map(|row| {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            Ok((key.value(), value.value().to_owned()))
        });
        pages(&mut rows, &mut |page| take(Page::Audit(page)))?;
        let periods = moment.open_table(PERIODS).map_err(|error| failed(error.into()))?;
        let mut rows = periods.iter().map_err(|error| failed(error.into()))?.map(|row| {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            let (payer, to_ms, peering, from_ms) = key.value();
            Ok(((text(payer), to_ms, text(peering), from_ms), value.value().to_owned()))
        });
        pages(&mut rows, &mut |page| take(Page::Periods(page)))?;
        let traffic = moment.open_table(TRAFFIC).map_err(|error| failed(error.into()))?;
        let mut rows = traffic.iter().map_err(|error| failed(error.into()))?.map(|row| {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            let (peering, vni) = key.value();
            Ok((text(peering), vni, value.value().to_owned()))
        });
        pages(&mut rows, &mut |page| take(Page::Traffic(page)))
    }

    fn begin_filling(&self, before: Vec<u8>) -> Result<(), StoreError> {
        self.using("clear it", |database| {
            let transaction = database.begin_write()?;
            transaction.delete_table(RECORDS)?;
            transaction.delete_table(AUDIT)?;
            transaction.delete_table(AUDIT_BY)?;
            transaction.delete_table(PERIODS)?;
            transaction.delete_table(TRAFFIC)?;
            Ok(transaction.commit()?)
        })?;
        // That creates the tables again, too.
        self.end_filling(before)
    }

    fn fill(&self, page: Page) -> Result<(), StoreError> {
        let batch = match page {
            Page::Records(rows) => {
                let records = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
                Batch { records, ..Batch::default() }
            }
            Page::Periods(periods) => Batch { periods, ..Batch::default() },
            Page::Traffic(rows) => {
                let traffic = rows.into_iter().map(|(peering, vni, value)| ((peering, vni), Some(value))).collect();
                Batch { traffic, ..Batch::default() }
            }
            Page::Audit(rows) => {
                return self.transact("fill it", |_, trail| {
                    rows.iter().try_for_each(|(number, value)| trail.insert(*number, &keys_of(value), value))
                });
            }
        };
        self.write("fill it", &batch)
    }

    fn end_filling(&self, meta: Vec<u8>) -> Result<(), StoreError> {
        self.transact("finish it", |table, _| Ok(table.insert(META, meta.as_slice()).map(drop)?))
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.using("write to it", |database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(PROBE)?;
                let number = table.get("number")?.map_or(0, |number| number.value());
                table.insert("number", number.wrapping_add(1))?;
            }
            Ok(transaction.commit()?)
        })
    }

    fn recover(&self) -> Result<(), StoreError> {
        // After an I/O error the library does nothing more with a file until it is opened again; unfinished transactions
        // are then rolled back.
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        *database = Some(open(&self.path, false)?);
        Ok(())
    }

    fn space(&self, reserve: u64) -> Result<Option<Space>, StoreError> {
        let space = self.reserve.space(reserve);
        space.map(Some).map_err(|error| failed(&self.path, "see how much room there is", redb::Error::Io(error)))
    }

    fn hold_reserve(&self, reserve: u64) -> bool {
        self.reserve.hold(reserve)
    }

    fn free_reserve(&self) -> bool {
        self.reserve.free()
    }

    fn leave(&self) {}
}

fn pages<T>(
    rows: &mut impl Iterator<Item = Result<T, StoreError>>,
    take: &mut dyn FnMut(Vec<T>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    loop {
        let page = rows.by_ref().take(PAGE).collect::<Result<Vec<T>, _>>()?;
        if page.is_empty() {
            return Ok(());
        }
        take(page)?;
    }
}

/// The tables of the audit trail, in a transaction.
struct Trail<'a> {
    entries: redb::Table<'a, u64, &'static [u8]>,
    by: redb::Table<'a, (&'static str, u64), ()>,
    periods: redb::Table<'a, (&'static str, u64, &'static str, u64), &'static [u8]>,
    traffic: redb::Table<'a, (&'static str, u32), &'static [u8]>,
    notes: redb::Table<'a, &'static str, &'static [u8]>,
}

impl Trail<'_> {
    fn append(&mut self, entries: &[EncodedEntry]) -> Result<(), redb::Error> {
        let mut number = self.entries.last()?.map_or(0, |(number, _)| number.value());
        for (keys, value) in entries {
            number += 1;
            self.insert(number, keys, value)?;
        }
        Ok(())
    }

    fn insert(&mut self, number: u64, keys: &[String], value: &[u8]) -> Result<(), redb::Error> {
        self.entries.insert(number, value)?;
        for key in keys {
            self.by.insert((key.as_str(), number), ())?;
        }
        Ok(())
    }

    fn remove(&mut self, old: &[(u64, Vec<String>)]) -> Result<(), redb::Error> {
        let newest = self.entries.last()?.map(|(number, _)| number.value());
        for (number, keys) in old {
            // The newest stays, so that numbers are not reused.
            if Some(*number) == newest {
                continue;
            }
            self.entries.remove(*number)?;
            for key in keys {
                self.by.remove((key.as_str(), *number))?;
            }
        }
        Ok(())
    }
}
