//! Why a copy of a store could not be made or brought back.

use super::StoreError;
use cps_peering_config::Revision;
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A copy could not be made or brought back. The store is as it was.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store, or the copy as a store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file system said no.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store has no place on the disk.
    #[error("the store is a temporary one, and has no place for a backup")]
    Temporary,
    /// There is something in the store that would be lost.
    #[error("store {path} holds something, revision {revision}: to put another in its place, use --force")]
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
    /// There is something in the place of the copy.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The copy holds nothing.
    #[error("{0} is no backup of a controller's store: nothing was ever committed to it")]
    Empty(PathBuf),
    /// The copy is not what was written.
    #[error("backup {path} is damaged: {why}. Use another copy")]
    Damaged {
        /// The copy.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The store that is to be replaced is damaged, so it does not say what epochs there have been.
    #[error(
        "{0}, so the epoch of what takes its place must be named: --epoch, above each that `cps-peering-controller ask-agents` tells \
         of. The damaged store is kept beside it"
    )]
    DamagedInPlace(StoreError),
    /// The epoch would not go up.
    #[error("epoch {asked} is not above {least}, which there has been already")]
    Epoch {
        /// What was asked for.
        asked: u64,
        /// What there has been.
        least: u64,
    },
}

pub(super) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { what, path: path.to_owned(), source }
}
