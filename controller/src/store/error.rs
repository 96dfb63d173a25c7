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
    /// etcd said no, or nothing.
    #[error("store {path}: cannot {what}: {source}{}", .source.hint())]
    Etcd {
        /// The place.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<EtcdError>,
    },
    /// Another controller may lead by now. Whether what was being written is kept is not known.
    #[error("store {path}: this controller lost leadership; retry, another controller takes over")]
    Deposed {
        /// The place.
        path: PathBuf,
    },
    /// It was to be filled from another store, and that was never finished.
    #[error("store {path}: a copy or move into this store was interrupted: run it again")]
    Unfinished {
        /// The place.
        path: PathBuf,
    },
    /// It was moved to another place, where it goes on.
    #[error(
        "store {path} was moved to {to} at {at}, and is not to be used any more: what happened since is there. Use the settings that \
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
    /// It was about to be moved to another place, and may go on there already.
    #[error(
        "store {path}: a move to {to}, begun at {at}, was cut off, so this store is not used: finish it with the same \
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
    /// A record or entry that is larger than any may be.
    #[error("store {path}: {key} would have {length} bytes, and may have {most}")]
    TooLarge {
        /// The place.
        path: PathBuf,
        /// The key.
        key: String,
        /// How long its value is.
        length: usize,
        /// How long a value may be.
        most: usize,
    },
    /// The content of the file is not what was written to it.
    #[error(
        "store {path} is damaged ({message}), and was left as it is: `cps-peering-controller check-store` tells what can be read \
         of it and what is lost; `cps-peering-controller restore COPY` replaces it with a copy"
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
    /// A record is not what it should be.
    #[error("store {path}: record {key} cannot be read: {source}")]
    Record {
        /// The file, or the place in etcd.
        path: PathBuf,
        /// The record.
        key: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A record's key names no kind of record that this version knows.
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

impl StoreError {
    /// Whether what is stored is not what was written.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Damaged { .. } | StoreError::UnknownRecord { .. } => true,
            StoreError::Record { .. } => !self.is_newer(),
            _ => false,
        }
    }

    /// Whether a newer release has written it: nothing is wrong with it, and that release can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self, StoreError::Record { source: FormatError::Newer { .. }, .. })
    }

    /// Whether another start leads to the same: it is damaged, of a newer release, or elsewhere by now.
    pub fn is_lasting(&self) -> bool {
        self.is_damage() || self.is_newer() || matches!(self, StoreError::Moved { .. } | StoreError::Moving { .. })
    }

    /// Whether there is no room for what was to be written.
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
