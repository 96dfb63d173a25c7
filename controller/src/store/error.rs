//! Why a store cannot be used.

use super::etcd_error::EtcdError;
use cps_peering_config::format::FormatError;
use std::path::PathBuf;
use thiserror::Error;

/// The store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("store {0}: another process uses it; is a controller running already?")]
    InUse(PathBuf),
    /// The file system or the file's content caused an error.
    #[error("store {path}: cannot {what}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<redb::Error>,
    },
    /// etcd refused or did not answer.
    #[error("store {path}: cannot {what}: {source}{}", .source.hint())]
    Etcd {
        /// The place.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<EtcdError>,
    },
    /// Another controller may lead by now. Whether the write was stored is unknown.
    #[error("store {path}: this controller lost leadership; retry, another controller takes over")]
    Deposed {
        /// The place.
        path: PathBuf,
    },
    /// A copy or move into it was never finished.
    #[error("store {path}: a copy or move into this store was interrupted: run it again")]
    Unfinished {
        /// The place.
        path: PathBuf,
    },
    /// It was moved to another place.
    #[error(
        "store {path} was moved to {to} at {at}, and must not be used any more: later changes are only there. Use the settings that \
         name it; `cps-peering-controller move-store` brings it back"
    )]
    Moved {
        /// The place.
        path: PathBuf,
        /// Where it is now.
        to: String,
        /// Since when.
        at: String,
    },
    /// A move to another place was begun, which may be in use already.
    #[error(
        "store {path}: a move to {to}, begun at {at}, was interrupted, so this store is not used: finish it with the same \
         `cps-peering-controller move-store`. To go on here instead, if nothing was ever started with the other store: \
         `cps-peering-controller backup FILE`, then `cps-peering-controller restore --same-cluster FILE`"
    )]
    Moving {
        /// The place.
        path: PathBuf,
        /// Where it was to go.
        to: String,
        /// Since when.
        at: String,
    },
    /// A record or entry that is too large.
    #[error("store {path}: {key} would have {length} bytes, and may have {most}")]
    TooLarge {
        /// The place.
        path: PathBuf,
        /// The key.
        key: String,
        /// The size of its value.
        length: usize,
        /// The maximum size.
        most: usize,
    },
    /// The content of the file is not what was written to it.
    #[error(
        "store {path} is damaged ({message}), and was left as it is: `cps-peering-controller check-store` reports what can be read \
         and what is lost; `cps-peering-controller restore COPY` replaces it with a backup"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// It was closed after a failure, and could not be opened again.
    #[error("store {path} could not be opened again after a failure")]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// A record cannot be read.
    #[error("store {path}: record {key} cannot be read: {source}")]
    Record {
        /// The file, or the place in etcd.
        path: PathBuf,
        /// The record.
        key: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A record of an unknown kind.
    #[error("store {path}: there is a record {key} that this version does not know")]
    UnknownRecord {
        /// The file, or the place in etcd.
        path: PathBuf,
        /// The record.
        key: String,
    },
    /// The thread that writes could not be started.
    #[error("the thread that writes to the store could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// Another process has committed.
    #[error("store {path}: expected commit {expected} to be the last one, but it is {found}")]
    Overtaken {
        /// The file.
        path: PathBuf,
        /// The expected commit.
        expected: u64,
        /// The actual last commit.
        found: u64,
    },
}

impl StoreError {
    /// Whether the content is not what was written.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Damaged { .. } | StoreError::UnknownRecord { .. } => true,
            StoreError::Record { .. } => !self.is_newer(),
            _ => false,
        }
    }

    /// Whether a newer release wrote it: it is not damaged, and that release can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self, StoreError::Record { source: FormatError::Newer { .. }, .. })
    }

    /// Whether a restart would fail in the same way: it is damaged, of a newer release, or was moved.
    pub fn is_lasting(&self) -> bool {
        self.is_damage() || self.is_newer() || matches!(self, StoreError::Moved { .. } | StoreError::Moving { .. })
    }

    /// Whether there is no space for the write.
    pub fn is_no_space(&self) -> bool {
        let full = |error: &std::io::Error| {
            use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        };
        match self {
            StoreError::Database { source, .. } => matches!(&**source, redb::Error::Io(error) if full(error)),
            StoreError::Etcd { source, .. } => source.is_no_space(),
            _ => false,
        }
    }
}
