//! The embedded store: the records of the state, on disk. Two calls: load, and commit.

use crate::model::state::{Change, Meta, State};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Records as JSON, by kind and id: `host/h1`.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: &str = "meta";

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

/// The store in one file, for one process.
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the store, and makes an empty one where there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        match Database::create(&path) {
            Ok(database) => {
                let store = Self { path, database };
                store.write("prepare it", |_| Ok(()))?;
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

    /// Commits changes durably, all or none, if `expected` is the number of the last commit. The changes hold the new one.
    pub fn commit(&self, changes: &[Change], expected: u64) -> Result<(), StoreError> {
        let mut encoded = Vec::with_capacity(changes.len());
        for change in changes {
            encoded.push(self.encode(change)?);
        }
        let found = self.read("read it", |table| Ok(table.get(META)?.map(|value| value.value().to_owned())))?;
        let found = match found {
            Some(value) => self.parse::<Meta>(META, &value)?.number,
            None => 0,
        };
        if found != expected {
            return Err(StoreError::Overtaken { path: self.path.clone(), expected, found });
        }
        self.write("commit to it", |table| {
            for (key, value) in &encoded {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice()).map(drop)?,
                    None => table.remove(key.as_str()).map(drop)?,
                }
            }
            Ok(())
        })
    }

    fn encode(&self, change: &Change) -> Result<(String, Option<Vec<u8>>), StoreError> {
        match change {
            Change::Region(id, value) => self.row(format!("region/{id}"), value.as_ref()),
            Change::Host(id, value) => self.row(format!("host/{id}"), value.as_ref()),
            Change::Vpc(id, value) => self.row(format!("vpc/{id}"), value.as_ref()),
            Change::Port(key, value) => self.row(format!("port/{key}"), value.as_ref()),
            Change::Peering(id, value) => self.row(format!("peering/{id}"), value.as_ref()),
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
        use crate::model::record::{Host, Peering, Port, Region, Vpc};
        let kind = key.split('/').next().unwrap_or_default();
        Ok(match kind {
            "region" => self.parse::<Region>(key, value).map(|it| Change::Region(it.id.clone(), Some(it)))?,
            "host" => self.parse::<Host>(key, value).map(|it| Change::Host(it.id.clone(), Some(it)))?,
            "vpc" => self.parse::<Vpc>(key, value).map(|it| Change::Vpc(it.id.clone(), Some(it)))?,
            "port" => self.parse::<Port>(key, value).map(|it| Change::Port(it.key.clone(), Some(it)))?,
            "peering" => self.parse::<Peering>(key, value).map(|it| Change::Peering(it.id.clone(), Some(it)))?,
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
        work: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let attempt = || {
            let transaction = self.database.begin_write()?;
            work(&mut transaction.open_table(RECORDS)?)?;
            Ok(transaction.commit()?)
        };
        attempt().map_err(|source: redb::Error| self.failed(what, source))
    }

    fn failed(&self, what: &'static str, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), what, source: Box::new(source) }
    }
}
