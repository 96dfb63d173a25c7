//! The last accepted configuration, on disk: with it the agent is right after a reboot with no controller in sight.

use cps_peering_config::{HostConfig, InvalidHostConfig, ValidHostConfig};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A file that holds one configuration and is only ever replaced as a whole.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
}

/// The ledger cannot be used.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The file system said no.
    #[error("ledger {path}: cannot {what}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error(
        "ledger {path} does not hold a configuration: {source}. Move the file away to start without one: \
         the kernel then stays as it is until the controller sends one"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file holds a configuration that contradicts itself.
    #[error("ledger {path} holds an illegal configuration: {source}. Move the file away to start without one")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: InvalidHostConfig,
    },
}

impl Ledger {
    /// The ledger in this file, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The configuration that was stored last; none if there never was one.
    pub fn load(&self) -> Result<Option<ValidHostConfig>, LedgerError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read it")(source)),
        };
        let path = || self.path.clone();
        let config: HostConfig =
            serde_json::from_slice(&bytes).map_err(|source| LedgerError::Unreadable { path: path(), source })?;
        config.try_into().map(Some).map_err(|source| LedgerError::Invalid { path: path(), source })
    }

    /// Stores a configuration. When this returns it will survive a power failure.
    pub fn store(&self, config: &HostConfig) -> Result<(), LedgerError> {
        let bytes =
            serde_json::to_vec(config).map_err(io::Error::from).map_err(self.failed("write a configuration"))?;
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside).map_err(self.failed("create a file beside it"))?;
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(self.failed("write beside it"))?;
        fs::rename(&beside, &self.path).map_err(self.failed("replace it"))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(self.failed("sync its folder"))
    }

    /// Forgets the configuration.
    pub fn remove(&self) -> Result<(), LedgerError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove it")(error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> LedgerError {
        let path = self.path.clone();
        move |source| LedgerError::Io { path, what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(number: u64) -> HostConfig {
        let text = format!(r#"{{"revision":{{"epoch":1,"number":{number}}},"host":"h1","underlay":"192.0.2.1"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn keeps_the_last_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path().join("ledger.json"));
        assert!(ledger.load().unwrap().is_none());
        for number in [1, 2] {
            ledger.store(&config(number)).unwrap();
            assert_eq!(ledger.load().unwrap().unwrap().into_inner(), config(number));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn says_what_to_do_about_a_broken_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.json");
        fs::write(&path, "{").unwrap();
        let error = Ledger::new(&path).load().unwrap_err().to_string();
        assert!(error.contains("ledger.json") && error.contains("Move the file away"), "{error}");
        fs::remove_file(&path).unwrap();
        Ledger::new(&path).remove().unwrap();
        let error = Ledger::new(folder.path().join("missing/ledger.json")).store(&config(1)).unwrap_err().to_string();
        assert!(error.contains("missing/ledger.json"), "{error}");
    }
}
