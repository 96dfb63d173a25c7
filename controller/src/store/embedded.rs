//! The store in one file, for one process.

use super::{
    StoreError,
    raw::{Backend, Batch, EncodedEntry, Lookup, Page, SideRow, keys_of, older},
};
use crate::model::state::Meta;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::{
    fs::OpenOptions,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::sync::watch;

/// Records as JSON, by kind and id: `host/h1`.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: &str = "meta";
/// Entries of the audit trail as JSON, by their number.
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
/// Numbers of entries by what they are looked for: `account/acme` or `request/0a1b2c`.
const AUDIT_BY: TableDefinition<'_, (&str, u64), ()> = TableDefinition::new("audit_by");
/// Closed periods as JSON, by payer, end, peering and beginning.
const PERIODS: TableDefinition<'_, (&str, u64, &str, u64), &[u8]> = TableDefinition::new("periods");
/// What was counted for a side as JSON, by peering and VNI.
const TRAFFIC: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("traffic");
/// How much of the file is kept in memory, in bytes: the state is there anyway, and is read from the file only at the start.
const CACHE: usize = 64 * 1024 * 1024;
/// How many entries are forgotten in one transaction.
const FORGET_AT_ONCE: usize = 1000;
/// How many rows are copied at once.
const PAGE: usize = 4000;

/// A file of rows.
pub(super) struct Embedded {
    path: PathBuf,
    database: Database,
}

impl Embedded {
    /// Opens the file, and makes an empty one where there is none.
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
        match Database::builder().set_cache_size(CACHE).create(&path) {
            Ok(database) => {
                let store = Self { path, database };
                store.transact("prepare it", |_, _| Ok(()))?;
                Ok(store)
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse(path)),
            Err(error) => Err(StoreError::Database { path, what: "open it", source: Box::new(error.into()) }),
        }
    }

    fn read<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let attempt = || work(&self.database.begin_read()?.open_table(RECORDS)?);
        attempt().map_err(|source| self.failed(what, source))
    }

    /// Runs `work` in one transaction that is on disk when this returns.
    fn transact(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>, &mut Trail<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let attempt = || {
            let transaction = self.database.begin_write()?;
            {
                let mut trail = Trail {
                    entries: transaction.open_table(AUDIT)?,
                    by: transaction.open_table(AUDIT_BY)?,
                    periods: transaction.open_table(PERIODS)?,
                    traffic: transaction.open_table(TRAFFIC)?,
                };
                work(&mut transaction.open_table(RECORDS)?, &mut trail)?;
            }
            Ok(transaction.commit()?)
        };
        attempt().map_err(|source: redb::Error| self.failed(what, source))
    }

    fn failed(&self, what: &'static str, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), what, source: Box::new(source) }
    }
}

impl Backend for Embedded {
    fn commit(&self, batch: &Batch, expected: u64, _number: u64) -> Result<(), StoreError> {
        let found: u64 = match self.meta()? {
            Some(value) => serde_json::from_slice::<Meta>(&value).map(|meta| meta.number).map_err(|source| {
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
            trail.append(&batch.entries)
        })
    }

    fn forget(&self, until_ms: u64) -> Result<usize, StoreError> {
        let collect = || -> Result<Vec<(u64, Vec<String>)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(AUDIT)?;
            let rows = table.iter()?.take(FORGET_AT_ONCE).map(|row| {
                let (number, value) = row?;
                Ok((number.value(), value.value().to_owned()))
            });
            let rows = rows.collect::<Result<Vec<_>, redb::Error>>()?;
            Ok(older(rows.into_iter(), until_ms).collect())
        };
        let old = collect().map_err(|source| self.failed("read the audit trail", source))?;
        if !old.is_empty() {
            self.transact("shorten the audit trail", |_, trail| trail.remove(&old))?;
        }
        Ok(old.len())
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

    fn periods(&self, payer: &str, from_ms: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let look = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(PERIODS)?;
            let first = (payer, from_ms.saturating_add(1), "", 0);
            let last = (payer, u64::MAX, "~", u64::MAX);
            table.range(first..=last)?.map(|row| Ok(row?.1.value().to_owned())).collect()
        };
        look().map_err(|source| self.failed("read what is to be charged", source))
    }

    fn audit(&self, lookup: &Lookup) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let before = lookup.before.unwrap_or(u64::MAX);
        let limit = lookup.limit.unwrap_or(usize::MAX);
        let look = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let transaction = self.database.begin_read()?;
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
        };
        look().map_err(|source| self.failed("read the audit trail", source))
    }

    fn traffic(&self) -> Result<Vec<SideRow>, StoreError> {
        let look = || -> Result<Vec<SideRow>, redb::Error> {
            let table = self.database.begin_read()?.open_table(TRAFFIC)?;
            let rows = table.iter()?.map(|row| {
                let (key, value) = row?;
                let (peering, vni) = key.value();
                Ok((peering.to_owned(), vni, value.value().to_owned()))
            });
            rows.collect()
        };
        look().map_err(|source| self.failed("read what was counted", source))
    }

    fn dump(&self, take: &mut dyn FnMut(Page) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let failed = |source: redb::Error| self.failed("read it", source);
        let moment = self.database.begin_read().map_err(|error| failed(error.into()))?;
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
        let attempt = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction.delete_table(RECORDS)?;
            transaction.delete_table(AUDIT)?;
            transaction.delete_table(AUDIT_BY)?;
            transaction.delete_table(PERIODS)?;
            transaction.delete_table(TRAFFIC)?;
            Ok(transaction.commit()?)
        };
        attempt().map_err(|source| self.failed("clear it", source))?;
        // That makes the tables anew, too.
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

    fn leads(&self) -> bool {
        // The file is locked as long as it is open.
        true
    }

    fn leave(&self) {}

    fn ended(&self) -> Option<watch::Receiver<bool>> {
        None
    }
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

/// The tables beside the records, in a transaction.
struct Trail<'a> {
    entries: redb::Table<'a, u64, &'static [u8]>,
    by: redb::Table<'a, (&'static str, u64), ()>,
    periods: redb::Table<'a, (&'static str, u64, &'static str, u64), &'static [u8]>,
    traffic: redb::Table<'a, (&'static str, u32), &'static [u8]>,
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
            // The newest keeps its place, so that numbers are not used again.
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
