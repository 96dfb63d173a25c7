//! Whose this host is: the controllers of one store. A store that was restored beside production, or whatever else finds the way to
//! this agent with a certificate, is another cluster, and is refused.
//!
//! The first controller that sends a configuration and says its cluster decides. From then on only an operator on this host changes
//! it (`cps-peering-agent join`), or the cluster itself when the host has left its inventory. A controller of a release that does
//! not say its cluster is served as before.

use crate::file;
use cps_peering_config::{
    cluster::ClusterId,
    format::{self, FormatError},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Whose the host is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Who may configure it; none as long as nobody has said who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Who has sent the configuration in the ledger. Revisions of different clusters say nothing about each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_from: Option<ClusterId>,
}

impl Membership {
    /// Whether a controller of this cluster, or of one that does not say, may configure the host.
    pub fn admits(&self, asks: Option<ClusterId>) -> bool {
        asks.is_none() || self.cluster.is_none() || self.cluster == asks
    }

    /// Whether the configuration in the ledger is another cluster's, so that it is nothing to compare with.
    pub fn is_new_to(&self, asks: Option<ClusterId>) -> bool {
        asks.is_some() && self.accepted_from.is_some() && self.accepted_from != asks
    }

    /// The same after a configuration was accepted.
    #[must_use]
    pub fn after(self, asks: Option<ClusterId>) -> Self {
        if asks.is_some() { Self { cluster: asks, accepted_from: asks } } else { self }
    }
}

/// A membership that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// What it was.
    pub before: Membership,
    /// What it is now.
    pub after: Membership,
}

/// The file cannot be used.
#[derive(Debug, Error)]
pub enum MembershipError {
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
    /// The file is something else.
    #[error("{path} does not say whose this host is: {source}. Say it anew: cps-peering-agent join CLUSTER")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
}

/// Where it is kept: a file beside the ledger, which is read each time, since operators write it, too.
#[derive(Debug, Clone)]
pub struct MembershipFile {
    path: PathBuf,
}

impl MembershipFile {
    /// The file beside a ledger.
    pub fn beside(ledger: &Path) -> Self {
        Self { path: ledger.with_extension("cluster") }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose the host is.
    pub fn load(&self) -> Result<Membership, MembershipError> {
        match fs::read(&self.path) {
            Ok(bytes) => {
                format::read(&bytes).map_err(|source| MembershipError::Unreadable { path: self.path.clone(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Membership::default()),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// Changes it; what comes of it is returned with what was there. When this returns it will survive a power failure. Agent and operators
    /// take turns, so that neither writes over what the other has just written.
    pub fn update<E: From<MembershipError>>(
        &self,
        change: impl FnOnce(Membership) -> Result<Membership, E>,
    ) -> Result<Update, E> {
        let _turn = self.lock()?;
        let before = self.load()?;
        let after = change(before)?;
        if after != before {
            self.store(&after)?;
        }
        Ok(Update { before, after })
    }

    fn store(&self, membership: &Membership) -> Result<(), MembershipError> {
        let json = serde_json::to_vec(membership).map_err(|error| self.failed("write", error.into()))?;
        file::replace(&self.path, &[&json, b"\n"]).map_err(|failed| self.failed("write", failed.source))
    }

    /// Says that another cluster's controllers may configure the host from now on.
    pub fn join(&self, cluster: ClusterId) -> Result<(), MembershipError> {
        let _turn = self.lock()?;
        // Whatever is broken in the file is over with that.
        let before = match self.load() {
            Err(MembershipError::Unreadable { .. }) => Membership::default(),
            before => before?,
        };
        self.store(&Membership { cluster: Some(cluster), ..before })
    }

    /// Forgets it, for a host on which nothing is left: the next one that configures the host decides.
    pub fn remove(&self) -> Result<(), MembershipError> {
        let _turn = match self.lock() {
            Err(MembershipError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            locked => locked?,
        };
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", error)),
            _ => Ok(()),
        }
    }

    /// Waits for whoever else changes the file, and keeps others from it until what is returned goes: a lock on its folder (flock(2)).
    fn lock(&self) -> Result<fs::File, MembershipError> {
        let lock = || {
            let folder = fs::File::open(cps_peering_file::folder_of(&self.path))?;
            folder.lock()?;
            Ok(folder)
        };
        lock().map_err(|source| self.failed("lock the folder of", source))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> MembershipError {
        MembershipError::File { what, path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// The agent and operators change it at the same time, each its own part.
    #[test]
    fn who_changes_it_at_the_same_time_takes_turns() {
        let folder = tempfile::tempdir().unwrap();
        let file = MembershipFile::beside(&folder.path().join("ledger.json"));
        let [ours, theirs]: [ClusterId; 2] = [1, 2].map(|digit| format!("{digit:032x}").parse().unwrap());
        let inode = format!(":{} ", fs::metadata(folder.path()).unwrap().ino());
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains("-> FLOCK") && lock.contains(&inode))
        };
        let mut operator = None;
        let update = file.update(|before| {
            let own = file.clone();
            let joins = std::thread::spawn(move || own.join(theirs));
            while !waits() {
                assert!(!joins.is_finished(), "an operator does not wait");
                std::thread::yield_now();
            }
            operator = Some(joins);
            Ok::<_, MembershipError>(before.after(Some(ours)))
        });
        operator.unwrap().join().unwrap().unwrap();
        assert_eq!(update.unwrap().after, Membership { cluster: Some(ours), accepted_from: Some(ours) });
        assert_eq!(file.load().unwrap(), Membership { cluster: Some(theirs), accepted_from: Some(ours) });
    }

    #[test]
    fn what_is_not_there_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        MembershipFile::beside(&folder.path().join("ledger")).remove().unwrap();
        MembershipFile::beside(&folder.path().join("purged/ledger")).remove().unwrap();
    }

    #[test]
    fn what_earlier_releases_have_written_is_read() {
        let golden = format!("{}/../tests/golden/0.2.0/cluster", env!("CARGO_MANIFEST_DIR"));
        let membership = MembershipFile { path: golden.into() }.load().unwrap();
        let cluster = "0123456789abcdef0123456789abcdef".parse().ok();
        assert_eq!(membership, Membership { cluster, accepted_from: cluster });
    }
}
