//! The embedded store: the records of the state, the audit trail and what is to be charged, on disk.

mod backup;

pub use backup::{BackupError, Restored};

use crate::{
    audit::{Entry, Query},
    model::{
        metering::Period,
        state::{Change, Meta, State},
    },
};
use cps_peering_config::{
    id::{AccountId, PeeringId},
    net::Vni,
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::OpenOptions,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use thiserror::Error;

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

/// The store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("store {0}: another process uses it; is a controller running already?")]
    InUse(PathBuf),
    /// The file system or the file's content said no.
    #[error("store {path}: cannot {what}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<redb::Error>,
    },
    /// A record is not what it should be.
    #[error("store {path}: record {key} cannot be read: {source}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The record.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A record's key names no kind of record that this version knows.
    #[error("store {path}: there is a record {key} that this version does not know")]
    UnknownRecord {
        /// The file.
        path: PathBuf,
        /// The record.
        key: String,
    },
    /// The thread that writes could not be started.
    #[error("the thread that writes to the store could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// Somebody else has committed.
    #[error("store {path}: expected commit {expected} to be the last one, but it is {found}")]
    Overtaken {
        /// The file.
        path: PathBuf,
        /// What the caller thought.
        expected: u64,
        /// What is there.
        found: u64,
    },
}

/// One side of a peering: the peering, and the side's VNI.
pub type SideKey = (PeeringId, Vni);

/// The store in one file, for one process.
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the store, and makes an empty one where there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
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
                store.write("prepare it", |_, _| Ok(()))?;
                Ok(store)
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse(path)),
            Err(error) => Err(StoreError::Database { path, what: "open it", source: Box::new(error.into()) }),
        }
    }

    /// Everything that was ever committed.
    pub fn load(&self) -> Result<State, StoreError> {
        let rows = self.read("read it", |table| {
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_owned()));
            }
            Ok(rows)
        })?;
        let mut state = State::default();
        for (key, value) in rows {
            let change = self.change(&key, &value)?;
            state.apply(change);
        }
        Ok(state)
    }

    /// Commits changes durably with what is to be charged because of them and what the audit trail says about them, all or
    /// none, if `expected` is the number of the last commit. The changes hold the new one.
    pub fn commit(
        &self,
        changes: &[Change],
        periods: &[Period],
        entries: &[Entry],
        expected: u64,
    ) -> Result<(), StoreError> {
        let mut encoded = Vec::with_capacity(changes.len());
        for change in changes {
            encoded.push(self.encode(change)?);
        }
        let entries = self.encode_entries(entries)?;
        let encode = |period: &Period| serde_json::to_vec(period);
        let values: Vec<Vec<u8>> = periods
            .iter()
            .map(encode)
            .collect::<Result<_, _>>()
            .map_err(|source| StoreError::Record { path: self.path.clone(), key: "period".to_owned(), source })?;
        let found = self.read("read it", |table| Ok(table.get(META)?.map(|value| value.value().to_owned())))?;
        let found = match found {
            Some(value) => self.parse::<Meta>(META, &value)?.number,
            None => 0,
        };
        if found != expected {
            return Err(StoreError::Overtaken { path: self.path.clone(), expected, found });
        }
        self.write("commit to it", |table, trail| {
            for (key, value) in &encoded {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice()).map(drop)?,
                    None => table.remove(key.as_str()).map(drop)?,
                }
            }
            for (period, value) in periods.iter().zip(&values) {
                let key = (period.payer.as_str(), period.to_ms, period.peering.as_str(), period.from_ms);
                trail.periods.insert(key, value.as_slice())?;
            }
            trail.append(&entries)
        })
    }

    /// The closed periods that an account pays for and that end after `from_ms`, in the order of their ends.
    pub fn periods(&self, payer: &AccountId, from_ms: u64) -> Result<Vec<Period>, StoreError> {
        let look = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(PERIODS)?;
            let first = (payer.as_str(), from_ms.saturating_add(1), "", 0);
            let last = (payer.as_str(), u64::MAX, "~", u64::MAX);
            table.range(first..=last)?.map(|row| Ok(row?.1.value().to_owned())).collect()
        };
        let rows = look().map_err(|source| self.failed("read what is to be charged", source))?;
        rows.iter().map(|value| self.parse("period", value)).collect()
    }

    /// Adds to the audit trail alone.
    pub fn append(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let entries = self.encode_entries(entries)?;
        self.write("add to the audit trail", |_, trail| trail.append(&entries))
    }

    /// Forgets entries of the audit trail that are older than `until_ms`, some at a time. Returns how many it has forgotten.
    pub fn forget(&self, until_ms: u64) -> Result<usize, StoreError> {
        let mut old = Vec::new();
        let mut collect = || -> Result<(), redb::Error> {
            let table = self.database.begin_read()?.open_table(AUDIT)?;
            for row in table.iter()?.take(FORGET_AT_ONCE) {
                let (number, value) = row?;
                let Ok(entry) = serde_json::from_slice::<Entry>(value.value()) else { continue };
                if entry.time_ms >= until_ms {
                    break;
                }
                old.push((number.value(), keys(&entry)));
            }
            Ok(())
        };
        collect().map_err(|source| self.failed("read the audit trail", source))?;
        if !old.is_empty() {
            self.write("shorten the audit trail", |_, trail| trail.remove(&old))?;
        }
        Ok(old.len())
    }

    /// Looks into the audit trail: entries with their numbers, the newest first.
    pub fn audit(&self, query: &Query) -> Result<Vec<(u64, Entry)>, StoreError> {
        let before = query.before.unwrap_or(u64::MAX);
        let look = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(AUDIT)?;
            let by = transaction.open_table(AUDIT_BY)?;
            let key = match (&query.request, &query.account) {
                (Some(request), _) => Some(format!("request/{request}")),
                (None, Some(account)) => Some(format!("account/{account}")),
                (None, None) => None,
            };
            let mut rows = Vec::new();
            match key {
                Some(key) => {
                    for row in by.range((key.as_str(), 0)..(key.as_str(), before))?.rev() {
                        let number = row?.0.value().1;
                        if let Some(value) = table.get(number)? {
                            rows.push((number, value.value().to_owned()));
                        }
                        if query.request.is_none() && rows.len() >= query.limit {
                            break;
                        }
                    }
                }
                None => {
                    for row in table.range(..before)?.rev().take(query.limit) {
                        let (number, value) = row?;
                        rows.push((number.value(), value.value().to_owned()));
                    }
                }
            }
            Ok(rows)
        };
        let rows = look().map_err(|source| self.failed("read the audit trail", source))?;
        let mut entries = Vec::with_capacity(rows.len());
        for (number, value) in rows {
            let entry: Entry = self.parse(&format!("audit/{number}"), &value)?;
            if query.account.as_ref().is_none_or(|account| entry.accounts.contains(account)) {
                entries.push((number, entry));
            }
        }
        entries.truncate(query.limit);
        Ok(entries)
    }

    /// What was counted for sides of peerings.
    pub fn traffic<T: DeserializeOwned>(&self) -> Result<Vec<(SideKey, T)>, StoreError> {
        let look = || -> Result<Vec<(String, u32, Vec<u8>)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(TRAFFIC)?;
            let rows = table.iter()?.map(|row| {
                let (key, value) = row?;
                let (peering, vni) = key.value();
                Ok((peering.to_owned(), vni, value.value().to_owned()))
            });
            rows.collect()
        };
        let rows = look().map_err(|source| self.failed("read what was counted", source))?;
        let mut sides = Vec::with_capacity(rows.len());
        for (peering, vni, value) in rows {
            let content = self.parse(&format!("traffic/{peering}"), &value)?;
            if let (Ok(peering), Ok(vni)) = (peering.parse(), Vni::try_from(vni)) {
                sides.push(((peering, vni), content));
            }
        }
        Ok(sides)
    }

    /// Keeps what was counted for some sides, and forgets others.
    pub fn save_traffic<T: Serialize>(&self, rows: &[(SideKey, T)], gone: &[SideKey]) -> Result<(), StoreError> {
        if rows.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut encoded = Vec::with_capacity(rows.len());
        for ((peering, vni), value) in rows {
            encoded.push((peering, vni, self.row(format!("traffic/{peering}"), Some(value))?.1.unwrap_or_default()));
        }
        self.write("keep what was counted", |_, trail| {
            for (peering, vni, value) in &encoded {
                trail.traffic.insert((peering.as_str(), vni.get()), value.as_slice())?;
            }
            for (peering, vni) in gone {
                trail.traffic.remove((peering.as_str(), vni.get()))?;
            }
            Ok(())
        })
    }

    fn encode_entries(&self, entries: &[Entry]) -> Result<Vec<EncodedEntry>, StoreError> {
        let encode = |entry: &Entry| {
            let failed = |source| StoreError::Record { path: self.path.clone(), key: "audit".to_owned(), source };
            Ok((keys(entry), serde_json::to_vec(entry).map_err(failed)?))
        };
        entries.iter().map(encode).collect()
    }

    fn encode(&self, change: &Change) -> Result<(String, Option<Vec<u8>>), StoreError> {
        match change {
            Change::Region(id, value) => self.row(format!("region/{id}"), value.as_ref()),
            Change::Host(id, value) => self.row(format!("host/{id}"), value.as_ref()),
            Change::Vpc(id, value) => self.row(format!("vpc/{id}"), value.as_ref()),
            Change::Port(key, value) => self.row(format!("port/{key}"), value.as_ref()),
            Change::Peering(id, value) => self.row(format!("peering/{id}"), value.as_ref()),
            Change::Account(id, value) => self.row(format!("account/{id}"), value.as_ref()),
            Change::Token(key, value) => {
                let row = value.as_ref().map(|value| (key, value));
                self.row(format!("token/{}/{}", key.account, key.token), row.as_ref())
            }
            Change::Signature(signature, value) => {
                let row = value.map(|until_ms| (signature, until_ms));
                self.row(format!("signature/{signature}"), row.as_ref())
            }
            Change::Meta(meta) => self.row(META.to_owned(), Some(meta)),
        }
    }

    fn row<T: Serialize>(&self, key: String, value: Option<&T>) -> Result<(String, Option<Vec<u8>>), StoreError> {
        let value = value.map(serde_json::to_vec).transpose();
        let path = || self.path.clone();
        let value = value.map_err(|source| StoreError::Record { path: path(), key: key.clone(), source })?;
        Ok((key, value))
    }

    fn parse<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(value).map_err(|source| StoreError::Record {
            path: self.path.clone(),
            key: key.to_owned(),
            source,
        })
    }

    fn change(&self, key: &str, value: &[u8]) -> Result<Change, StoreError> {
        use crate::model::record::{Account, Host, Peering, Port, Region, TokenKey, TokenUse, Vpc};
        let kind = key.split('/').next().unwrap_or_default();
        Ok(match kind {
            "region" => self.parse::<Region>(key, value).map(|it| Change::Region(it.id.clone(), Some(it)))?,
            "host" => self.parse::<Host>(key, value).map(|it| Change::Host(it.id.clone(), Some(it)))?,
            "vpc" => self.parse::<Vpc>(key, value).map(|it| Change::Vpc(it.id.clone(), Some(it)))?,
            "port" => self.parse::<Port>(key, value).map(|it| Change::Port(it.key.clone(), Some(it)))?,
            "peering" => self.parse::<Peering>(key, value).map(|it| Change::Peering(it.id.clone(), Some(it)))?,
            "account" => self.parse::<Account>(key, value).map(|it| Change::Account(it.id.clone(), Some(it)))?,
            "token" => self.parse::<(TokenKey, TokenUse)>(key, value).map(|(key, it)| Change::Token(key, Some(it)))?,
            "signature" => {
                self.parse::<(String, u64)>(key, value).map(|(it, until_ms)| Change::Signature(it, Some(until_ms)))?
            }
            META => Change::Meta(self.parse(key, value)?),
            _ => return Err(StoreError::UnknownRecord { path: self.path.clone(), key: key.to_owned() }),
        })
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
    fn write(
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

/// What an entry is looked for by, and the entry.
type EncodedEntry = (Vec<String>, Vec<u8>);

/// Under what an entry is looked for.
fn keys(entry: &Entry) -> Vec<String> {
    let request = (!entry.request.is_empty()).then(|| format!("request/{}", entry.request));
    entry.accounts.iter().map(|account| format!("account/{account}")).chain(request).collect()
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
            self.entries.insert(number, value.as_slice())?;
            for key in keys {
                self.by.insert((key.as_str(), number), ())?;
            }
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
