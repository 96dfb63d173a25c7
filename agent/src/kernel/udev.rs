//! Whether udev has finished with an interface. A new one may have a port's name for a moment, until udev renames it; a
//! member of a VRF that is up can no longer be renamed.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// If udev does not see an interface, for instance in another network namespace, no one renames it.
const PATIENCE: Duration = Duration::from_secs(3);

/// udev, where it runs.
#[derive(Debug)]
pub(super) struct Udev {
    folder: PathBuf,
    /// When interfaces that it has not finished with were first seen, by index.
    waiting: BTreeMap<u32, Instant>,
}

impl Default for Udev {
    fn default() -> Self {
        Self { folder: "/run/udev".into(), waiting: BTreeMap::new() }
    }
}

impl Udev {
    /// Forgets interfaces that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.waiting.retain(|index, _| is_there(*index));
    }

    /// Whether the interface with this index keeps its name.
    pub(super) fn has_finished(&mut self, index: u32) -> bool {
        self.has_finished_by(index, Instant::now())
    }

    fn has_finished_by(&mut self, index: u32, now: Instant) -> bool {
        let done = !self.folder.join("control").exists()
            || fs::read_to_string(self.folder.join(format!("data/n{index}")))
                .is_ok_and(|data| !data.lines().any(|line| line == "E:ID_RENAMING=1"));
        if done {
            self.waiting.remove(&index);
            return true;
        }
        now.saturating_duration_since(*self.waiting.entry(index).or_insert(now)) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_once_udev_has_finished_or_ignores_the_interface() {
        let folder = tempfile::tempdir().unwrap();
        let mut udev = Udev { folder: folder.path().to_owned(), waiting: BTreeMap::new() };
        let now = Instant::now();
        assert!(udev.has_finished_by(7, now), "there is no udev");
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("control"), "").unwrap();
        assert!(!udev.has_finished_by(7, now));
        let data = folder.path().join("data/n7");
        fs::write(&data, "I:1\nE:ID_RENAMING=1\n").unwrap();
        assert!(!udev.has_finished_by(7, now), "it is about to rename it");
        fs::write(&data, "I:1\nE:ID_NET_NAME=x\n").unwrap();
        assert!(udev.has_finished_by(7, now));
        assert!(!udev.has_finished_by(8, now) && !udev.has_finished_by(8, now + PATIENCE / 2));
        assert!(udev.has_finished_by(8, now + PATIENCE), "udev does not see it");
    }
}
