//! Why a store could not be backed up or restored.

use super::StoreError;
use cps_peering_config::Revision;
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A backup could not be made or restored. The store is unchanged.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store, or the backup read as a store, cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store is in memory only.
    #[error("the store is a temporary one, and has no place for a backup")]
    Temporary,
    /// The store is not empty, and its content would be lost.
    #[error("store {path} is not empty, revision {revision}: to replace it, use --force")]
    Holds {
        /// The place.
        path: PathBuf,
        /// Its last commit.
        revision: Revision,
    },
    /// A store that is not empty was to begin anew.
    #[error("store {path} is not empty, revision {revision}: move it away first")]
    Occupied {
        /// The place.
        path: PathBuf,
        /// Its last commit.
        revision: Revision,
    },
    /// A file of this name exists already.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The backup is empty.
    #[error("{0} is no backup of a controller's store: nothing was ever committed to it")]
    Empty(PathBuf),
    /// The backup is damaged.
    #[error("backup {path} is damaged: {why}. Use another backup")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The store that is to be replaced is damaged, so it does not say what epochs there have been.
    #[error(
        "{0}, so the new epoch must be named: --epoch, above all that `cps-peering-controller ask-agents` \
         reports. Nothing was changed"
    )]
    DamagedInPlace(StoreError),
    /// The epoch would not increase.
    #[error("epoch {asked} is not above {least}, which has been used already")]
    Epoch {
        /// The epoch that was asked for.
        asked: u64,
        /// The highest epoch so far.
        least: u64,
    },
}

pub(super) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { what, path: path.to_owned(), source }
}
