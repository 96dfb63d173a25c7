//! Space on the disk of a store that is reserved for deletes, rejects and suspensions: a file beside the store, which is removed
//! when there is no space left.

use super::raw::Space;
use nix::{fcntl::posix_fallocate, sys::statvfs::statvfs};
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// On a small disk at most this fraction is reserved.
const PART: u64 = 20;

/// The reserve of one store.
#[derive(Debug)]
pub(super) struct Reserve {
    store: PathBuf,
    file: PathBuf,
}

impl Reserve {
    pub(super) fn new(store: &Path) -> Self {
        let mut file = store.as_os_str().to_owned();
        file.push(".reserve");
        Self { store: store.to_owned(), file: file.into() }
    }

    /// How much space there is apart from the reserve, and how much of the disk is to be kept free.
    pub(super) fn space(&self, most: u64) -> io::Result<Space> {
        let disk = statvfs(&self.store)?;
        let unit = disk.fragment_size();
        let [free, total] = [disk.blocks_available(), disk.blocks()].map(|blocks| blocks.saturating_mul(unit));
        Ok(Space { free, reserve: most.min(total / PART) })
    }

    /// Creates the file, unless it exists with its whole length. Returns whether it does now.
    pub(super) fn hold(&self, most: u64) -> bool {
        let Ok(Space { reserve, .. }) = self.space(most) else { return false };
        if reserve == 0 {
            self.free();
            return true;
        }
        if fs::metadata(&self.file).is_ok_and(|it| it.len() >= reserve) {
            return true;
        }
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.file);
        let length = i64::try_from(reserve).unwrap_or(i64::MAX);
        let held = made.is_ok_and(|file| posix_fallocate(&file, 0, length).is_ok());
        if !held {
            self.free();
        }
        held
    }

    /// Removes the file. Returns whether there was something in it.
    pub(super) fn free(&self) -> bool {
        let held = fs::metadata(&self.file).is_ok_and(|it| it.len() > 0);
        fs::remove_file(&self.file).is_ok() && held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_space_on_the_disk_and_gives_it_back() {
        use std::os::unix::fs::MetadataExt;
        const SIZE: u64 = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.redb");
        fs::write(&store, b"").unwrap();
        let reserve = Reserve::new(&store);
        assert!(!reserve.free(), "there was none");
        assert!(reserve.hold(SIZE) && reserve.hold(SIZE));
        let file = fs::metadata(folder.path().join("store.redb.reserve")).unwrap();
        assert!(file.len() == SIZE && file.blocks() * 512 >= SIZE, "no hole");
        assert!(reserve.free() && !reserve.free());
        let space = reserve.space(u64::MAX).unwrap();
        assert!(space.reserve > 0 && space.reserve < u64::MAX / 2 && space.free > 0, "{space:?}");
    }
}
