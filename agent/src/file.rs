//! Files that are replaced atomically.

use cps_peering_config::format;
use serde::de::DeserializeOwned;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// A file could not be replaced; it is unchanged.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What was tried.
    pub(crate) what: &'static str,
    /// Why it failed.
    pub(crate) source: io::Error,
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        failed.source
    }
}

/// Replaces a file's content with these parts in sequence. When this returns, the content survives a power failure.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), Failed> {
    let failed = |what| move |source| Failed { what, source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside).map_err(failed("create a file beside it"))?;
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    written.and_then(|()| file.sync_data()).map_err(failed("write beside it"))?;
    fs::rename(&beside, path).map_err(failed("replace it"))?;
    File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(failed("sync its folder"))
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a file as JSON. A missing file gives the default; for one that cannot be read, `warning` says what is lost.
pub(crate) fn load<T: DeserializeOwned + Default>(path: &Path, warning: &str) -> T {
    let read = match fs::read(path) {
        Ok(bytes) => format::read(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "{warning}");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_whose_names_differ_in_their_ends_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["state.a", "state.b"].map(|name| folder.path().join(name));
        // What is written beside one is not beside the other.
        fs::create_dir(folder.path().join("state.a.new")).unwrap();
        assert_eq!(replace(&one, &[b"1"]).unwrap_err().what, "create a file beside it");
        replace(&two, &[b"[1,", b"2]"]).unwrap();
        assert_eq!(load::<Vec<u8>>(&two, ""), [1, 2]);
    }

    #[test]
    fn what_is_missing_or_cannot_be_read_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert!(load::<Vec<u8>>(&file, "").is_empty());
        fs::write(&file, "[1,").unwrap();
        assert!(load::<Vec<u8>>(&file, "a test").is_empty());
    }
}
