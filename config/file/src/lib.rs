//! Files that are replaced atomically: a reader finds either the whole old content or the whole new one, also after a
//! power failure.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// The mode of a file that is readable and writable by all, reduced by the umask.
pub const BY_UMASK: u32 = 0o666;

/// A file could not be replaced; it is unchanged, or new in a folder that may lose it in a power failure.
#[derive(Debug)]
pub struct Failed {
    /// The step that failed, as in "cannot WHAT".
    pub what: &'static str,
    /// The error of the system call.
    pub source: io::Error,
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        failed.source
    }
}

/// Replaces a file's content with these parts in sequence. On return the content survives a power failure.
///
/// The parts are written to `PATH.new`, so that crashes leave at most one file: only one process may replace the file
/// at a time. `mode` is reduced by the umask.
pub fn replace(path: &Path, mode: u32, parts: &[&[u8]]) -> Result<(), Failed> {
    let failed = |what| move |source| Failed { what, source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // A file left by a crash would keep its mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("create a file beside it")(error));
        }
        _ => {}
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let mut file = created.map_err(failed("create a file beside it"))?;
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    written.and_then(|()| file.sync_all()).map_err(failed("write beside it"))?;
    fs::rename(&beside, path).map_err(failed("replace it"))?;
    sync_folder(path).map_err(failed("sync its folder"))
}

/// Like [`replace`], but other processes may replace the same file at the same time: the last one wins. A crash may
/// leave a file `.tmpXXXXXX` beside it. `mode` is the file's, whatever the umask is.
pub fn replace_shared(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    // With mode 0600 until everything is written.
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(path)
}

/// The folder of a file; a bare name is in the current folder.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes everything that was created, renamed or removed in a file's folder survive a power failure.
pub fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(folder_of(file)).and_then(|folder| folder.sync_all())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_bare_name_is_a_file_of_the_current_folder() {
        assert_eq!(folder_of(Path::new("store.redb")), Path::new("."));
        assert_eq!(folder_of(Path::new("/var/lib/store.redb")), Path::new("/var/lib"));
    }

    #[test]
    fn temporary_files_of_similar_names_do_not_collide() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["state.a", "state.b"].map(|name| folder.path().join(name));
        // The temporary file of one is not the other.
        fs::create_dir(folder.path().join("state.a.new")).unwrap();
        assert_eq!(replace(&one, BY_UMASK, &[b"1"]).unwrap_err().what, "create a file beside it");
        replace(&two, BY_UMASK, &[b"[1,", b"2]"]).unwrap();
        assert_eq!(fs::read(&two).unwrap(), b"[1,2]");
    }

    #[test]
    fn leftovers_of_a_crash_give_neither_content_nor_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (file, beside) = (folder.path().join("key"), folder.path().join("key.new"));
        fs::write(&beside, "a longer text than the new one").unwrap();
        fs::set_permissions(&beside, Permissions::from_mode(0o644)).unwrap();
        replace(&file, 0o600, &[b"new"]).unwrap();
        assert_eq!(
            (fs::read(&file).unwrap().as_slice(), mode(&file), beside.exists()),
            (b"new".as_slice(), 0o600, false)
        );
    }

    #[test]
    fn shared_replacement_keeps_the_last_mode_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profiles");
        for (mode_of, content) in [(0o600, "1"), (0o644, "2")] {
            replace_shared(&file, mode_of, content.as_bytes()).unwrap();
            assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), (content, mode_of));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
