//! Which cluster this host belongs to: the controllers of one store. A store that was restored beside production, or
//! anything else that reaches this agent with a certificate, is another cluster, and is refused.
//!
//! The first controller that sends a configuration and names its cluster decides. After that only an operator on this
//! host can change it (`cps-peering-agent join`), or the cluster itself once the host has left its inventory. A
//! controller of a release that does not name its cluster is served as before.

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

/// Which cluster the host belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster that may configure the host; none until a controller has named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// The cluster whose configuration is in the ledger. Revisions of different clusters cannot be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_from: Option<ClusterId>,
}

impl Membership {
    /// Whether a controller that names this cluster, or none, may configure the host.
    pub fn admits(&self, asks: Option<ClusterId>) -> bool {
        asks.is_none() || self.cluster.is_none() || self.cluster == asks
    }

    /// Whether the configuration in the ledger is another cluster's, so that revisions cannot be compared.
    pub fn is_new_to(&self, asks: Option<ClusterId>) -> bool {
        asks.is_some() && self.accepted_from.is_some() && self.accepted_from != asks
    }

    /// The same after a configuration was accepted.
    #[must_use]
    pub fn after(self, asks: Option<ClusterId>) -> Self {
        if asks.is_some() { Self { cluster: asks, accepted_from: asks } } else { self }
    }
}

/// A change of membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// The membership before.
    pub before: Membership,
    /// The membership after.
    pub after: Membership,
}

/// The membership file cannot be used.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// An I/O error.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file has other content.
    #[error("{path} is not a valid membership file: {source}. Set the cluster again: cps-peering-agent join CLUSTER")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
}

/// Where it is kept: a file beside the ledger, read every time, because operators write it too.
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

    /// The host's current membership.
    pub fn load(&self) -> Result<Membership, MembershipError> {
        match fs::read(&self.path) {
            Ok(bytes) => {
                format::read(&bytes).map_err(|source| MembershipError::Unreadable { path: self.path.clone(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Membership::default()),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// Changes the membership; returns the result together with the previous membership. On return the change survives
    /// a power failure. Agent and operators are serialised, so that neither overwrites what the other has just written.
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

    /// Lets another cluster's controllers configure the host from now on.
    pub fn join(&self, cluster: ClusterId) -> Result<(), MembershipError> {
        let _turn = self.lock()?;
        // This also replaces a broken file.
        let before = match self.load() {
            Err(MembershipError::Unreadable { .. }) => Membership::default(),
            before => before?,
        };
        self.store(&Membership { cluster: Some(cluster), ..before })
    }

    /// Forgets the membership, for a host that is empty: the next controller that configures it decides.
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

    /// Locks the file's folder (flock(2)) until the returned file is dropped, waiting for others that change it.
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

    /// Agent and operators change it concurrently, each its own part.
    #[test]
    fn concurrent_updates_are_serialised() {
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
                assert!(!joins.is_finished(), "an operator does not wait for the lock");
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
    fn removing_a_missing_file_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        MembershipFile::beside(&folder.path().join("ledger")).remove().unwrap();
        MembershipFile::beside(&folder.path().join("purged/ledger")).remove().unwrap();
    }

    #[test]
    fn files_of_earlier_releases_are_read() {
        let golden = format!("{}/../tests/golden/0.2.0/cluster", env!("CARGO_MANIFEST_DIR"));
        let membership = MembershipFile { path: golden.into() }.load().unwrap();
        let cluster = "0123456789abcdef0123456789abcdef".parse().ok();
        assert_eq!(membership, Membership { cluster, accepted_from: cluster });
    }
}
