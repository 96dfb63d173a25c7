//! State files of the agent.

use cps_peering_config::format;
use cps_peering_file::{BY_UMASK, Failed};
use serde::de::DeserializeOwned;
use std::{fs, io, path::Path};

/// Replaces a file's content with these parts in sequence. On return the content survives a power failure.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), Failed> {
    cps_peering_file::replace(path, BY_UMASK, parts)
}

/// Reads a file as JSON. A missing file gives the default; if it cannot be read, `warning` names what is lost.
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
    fn a_missing_or_unreadable_file_gives_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert!(load::<Vec<u8>>(&file, "").is_empty());
        fs::write(&file, "[1,").unwrap();
        assert!(load::<Vec<u8>>(&file, "a test").is_empty());
    }
}
