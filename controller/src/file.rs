//! Folders of files.

use std::{fs::File, io, path::Path};

/// Where a file is; a bare name is in the current folder.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes what was created, renamed or removed in a file's folder survive a power failure.
pub(crate) fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(folder_of(file)).and_then(|folder| folder.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_file_of_the_current_folder() {
        assert_eq!(folder_of(Path::new("store.redb")), Path::new("."));
        assert_eq!(folder_of(Path::new("/var/lib/store.redb")), Path::new("/var/lib"));
    }
}
