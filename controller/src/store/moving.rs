//! Moves between stores: backups restored into etcd, and moves from a file to etcd and back.

use super::{
    BackupError, Cluster, Moved, Origin, Restored, Store, StoreError,
    backup::{counts, in_new_epoch, last},
    backup_error::failed,
    notes::ARRIVED,
    raw::Page,
    records::META,
};
use crate::{
    file::sync_folder,
    model::state::{Change, Meta},
};
use cps_peering_config::{
    Revision,
    settings::StorePlace,
    time::{now_ms, timestamp_ms},
};
use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

impl Store {
    /// Opens the store of some settings to change it as a whole: no controller can use it meanwhile.
    pub fn hold_place(place: StorePlace<'_>) -> Result<Self, StoreError> {
        match place {
            StorePlace::Embedded(path) => Self::open(path),
            StorePlace::Etcd(settings) => Self::hold(&Arc::new(Cluster::new(settings)?)),
        }
    }

    /// Its last commit; none if there was none.
    fn revision(&self) -> Result<Option<Revision>, StoreError> {
        let meta = self.meta()?.filter(|meta| meta.number > 0);
        Ok(meta.map(|meta| Revision { epoch: meta.epoch, number: meta.number }))
    }

    /// Replaces the content of etcd by a backup, as [`Self::restore`] does with a file. The previous content is copied into the
    /// folder for backups first.
    pub fn restore_into(&self, backup: &Path, epoch: Option<u64>, origin: Origin) -> Result<Restored, BackupError> {
        // Opening a store writes to it, and a backup must not change.
        let folder = tempfile::tempdir().map_err(failed("make a folder", &std::env::temp_dir()))?;
        let copy = Store::open_copy(backup, &folder.path().join("copy"))?;
        self.fill_from(&copy, epoch, origin, &mut || Ok(())).map_err(|error| match error {
            BackupError::Empty(_) => BackupError::Empty(backup.to_owned()),
            other => other,
        })
    }

    /// Copies everything into another place, under a new epoch, above those of both stores. This store stays as it is, except that it
    /// is marked as moved, and no controller starts with it any more. The other place's content is kept beside it or in the folder for backups, and is replaced only with `force`.
    ///
    /// At each moment at most one of both is usable: before the other place becomes a store, this one is marked as being moved. An
    /// interrupted move is finished by another one to the same place.
    pub fn move_to(&self, place: StorePlace<'_>, force: bool) -> Result<Restored, BackupError> {
        self.move_in_steps(place, force, &mut || Ok(()))
    }

    /// The same. `between` is called between its steps, and interrupts it with an error.
    pub(super) fn move_in_steps(
        &self,
        place: StorePlace<'_>,
        force: bool,
        between: &mut dyn FnMut() -> Result<(), BackupError>,
    ) -> Result<Restored, BackupError> {
        let to = match place {
            StorePlace::Embedded(path) => path.display().to_string(),
            StorePlace::Etcd(settings) => format!("{} in etcd at {}", settings.prefix, settings.endpoints.join(", ")),
        };
        let mut moved = match self.moved()? {
            None => {
                Moved { to, at: timestamp_ms(now_ms()), id: format!("{:032x}", fastrand::u128(..)), unfinished: true }
            }
            Some(moved) if moved.unfinished && moved.to == to => moved,
            // What has happened since is elsewhere, or may be.
            Some(moved) => return Err(moved.error(&self.path).into()),
        };
        let arrived = if self.moved()?.is_some() { Self::arrived(place, &moved.id)? } else { None };
        let restored = match arrived {
            Some(restored) => restored,
            None => self.copy_into(place, force, &moved, between)?,
        };
        between()?;
        moved.unfinished = false;
        self.mark_moved(&moved)?;
        Ok(restored)
    }

    /// The content of a place, if this move was the last operation on it as a whole. If the place is shared, a controller that leads there
    /// already is not disturbed.
    fn arrived(place: StorePlace<'_>, id: &str) -> Result<Option<Restored>, BackupError> {
        let other = match place {
            StorePlace::Embedded(path) if !path.exists() => return Ok(None),
            StorePlace::Embedded(path) => Self::open(path)?,
            StorePlace::Etcd(settings) => Self::look(&Arc::new(Cluster::new(settings)?)),
        };
        // A store that is being filled has no revision.
        let Some(revision) = other.revision()? else { return Ok(None) };
        if other.note(ARRIVED)?.as_deref() != Some(id.as_bytes()) {
            return Ok(None);
        }
        let state = other.load()?;
        let (meta, counts) = (state.meta(), counts(&state));
        Ok(Some(Restored { revision, cluster: meta.cluster, held: meta.held, counts, replaced: None }))
    }

    /// Writes to the target what it must contain before it becomes usable.
    fn take_along(&self, from: &Store, moved: &Moved) -> Result<(), BackupError> {
        self.take_notes(from)?;
        Ok(self.write_notes(vec![(ARRIVED, moved.id.clone().into_bytes())])?)
    }

    fn copy_into(
        &self,
        place: StorePlace<'_>,
        force: bool,
        moved: &Moved,
        between: &mut dyn FnMut() -> Result<(), BackupError>,
    ) -> Result<Restored, BackupError> {
        let holds = |path: &Path, revision| BackupError::Holds { path: path.to_owned(), revision };
        let path = match place {
            StorePlace::Embedded(path) => path,
            StorePlace::Etcd(_) => {
                let other = Self::hold_place(place)?;
                return match other.revision()? {
                    Some(revision) if !force => Err(holds(&other.path, revision)),
                    _ => other.fill_from(self, None, Origin::Moved, &mut || {
                        between()?;
                        other.take_along(self, moved)?;
                        between()?;
                        self.mark_moved(moved)?;
                        between()
                    }),
                };
            }
        };
        if path.exists()
            && let Some(revision) = Store::open(path)?.revision()?
            && !force
        {
            return Err(holds(path, revision));
        }
        let moving = path.with_extension("moving");
        // The remains of an interrupted attempt.
        let _ = fs::remove_file(&moving);
        self.duplicate(&moving)?;
        Store::open(&moving)?.take_along(self, moved)?;
        between()?;
        let done = Self::put_in_place(&moving, path, None, Origin::Moved, &mut || {
            between()?;
            self.mark_moved(moved)?;
            between()
        });
        fs::remove_file(&moving).map_err(failed("remove", &moving))?;
        done.map_err(|error| match error {
            BackupError::Empty(_) => BackupError::Empty(self.path.clone()),
            other => other,
        })
    }

    /// `ready` is called when it is filled, before it becomes usable.
    fn fill_from(
        &self,
        from: &Store,
        epoch: Option<u64>,
        origin: Origin,
        ready: &mut dyn FnMut() -> Result<(), BackupError>,
    ) -> Result<Restored, BackupError> {
        // Everything in it can be read.
        let state = from.load()?;
        if state.meta().number == 0 {
            return Err(BackupError::Empty(from.path.clone()));
        }
        let (before, replaced) = match self.meta() {
            Ok(before) => {
                in_new_epoch(state.meta(), before, epoch, origin)?;
                (before, self.revision()?.map(|revision| self.keep(revision)).transpose()?)
            }
            Err(error) if error.is_damage() => {
                if epoch.is_none() {
                    return Err(BackupError::DamagedInPlace(error));
                }
                (None, Some(self.keep_damaged()?))
            }
            Err(error) => return Err(error.into()),
        };
        let renewed = in_new_epoch(state.meta(), before, epoch, origin)?;
        let encode = |meta: Meta| from.rows().encode(&Change::Meta(meta)).map(|(_, value)| value.unwrap_or_default());
        // If this is interrupted, the next attempt finds the previous epochs.
        self.backend.begin_filling(encode(Meta { number: 0, ..before.unwrap_or(renewed) })?)?;
        from.backend.dump(&mut |page| {
            self.backend.fill(match page {
                Page::Records(mut rows) => {
                    rows.retain(|(key, _)| key != META);
                    Page::Records(rows)
                }
                page => page,
            })
        })?;
        ready()?;
        self.backend.end_filling(encode(renewed)?)?;
        let counts = counts(&state);
        let revision = Revision { epoch: renewed.epoch, ..last(&state) };
        Ok(Restored { revision, cluster: renewed.cluster, held: renewed.held, counts, replaced })
    }

    /// Creates the folder for what is about to be replaced, and returns how to set the owner of new files.
    fn folder_to_keep(&self) -> Result<impl Fn(&Path) -> Result<(), BackupError>, BackupError> {
        let above = self.backups.parent().unwrap_or(Path::new("."));
        let owner = fs::metadata(above).map_err(failed("look at the folder", above))?;
        // Owned by the owner of the folder above.
        let give =
            move |path: &Path| chown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away", path));
        match DirBuilder::new().mode(0o700).create(&self.backups) {
            Ok(()) => give(&self.backups)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make the folder", &self.backups)(error)),
        }
        Ok(give)
    }

    /// Copies what is about to be replaced.
    fn keep(&self, revision: Revision) -> Result<PathBuf, BackupError> {
        let give = self.folder_to_keep()?;
        let file = self.backups.join(format!("replaced-{}-{}.{}", revision.epoch, revision.number, Self::COPY));
        if !file.exists() {
            match self.back_up(&file) {
                Ok(_) => give(&file)?,
                // It cannot be read, so it does not become a backup.
                Err(BackupError::Store(error)) if error.is_damage() || error.is_newer() => return self.keep_damaged(),
                Err(error) => return Err(error),
            }
        }
        Ok(file)
    }

    /// Copies unreadable content that is about to be replaced into a file as it is.
    fn keep_damaged(&self) -> Result<PathBuf, BackupError> {
        let give = self.folder_to_keep()?;
        // Files with the extension of backups count as such.
        let file = self.backups.join(format!("replaced-{}.damaged", now_ms()));
        let unfinished = file.with_extension("unfinished");
        self.dump_to(&unfinished)?;
        give(&unfinished)?;
        fs::rename(&unfinished, &file).map_err(failed("finish", &file))?;
        // The original is deleted next.
        sync_folder(&file).map_err(failed("finish", &file))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backup::fixtures::{apply, regions};

    /// A move that ends with an error at one of its steps is like one that is killed there: nothing is undone.
    #[test]
    fn an_interrupted_move_leaves_at_most_one_usable_store_and_the_next_move_finishes_it() {
        let cut = || BackupError::Temporary;
        let (mut points, mut arrived) = (0, 0);
        loop {
            let folder = tempfile::tempdir().unwrap();
            let [from, to, third] = ["store.redb", "other.redb", "third.redb"].map(|name| folder.path().join(name));
            apply(&from, &["north"]);
            // It has other content, which is usable until it is replaced.
            apply(&to, &["east", "west"]);
            let place = StorePlace::Embedded(&to);
            let mut left = points;
            let mut between = || {
                left -= 1;
                if left < 0 { Err(cut()) } else { Ok(()) }
            };
            let moved = Store::open(&from).unwrap().move_in_steps(place, true, &mut between);
            let whole = moved.is_ok();
            let starts = |path: &Path| Store::open(path).unwrap().content().map(|it| it.state.regions().len());
            let (here, there) = (starts(&from), starts(&to));
            assert!(here.is_err() || *there.as_ref().unwrap() == 2, "after {points} steps");
            if let (Err(error), false) = (&here, whole) {
                let told = error.to_string();
                assert!(told.contains("was interrupted") && told.contains("other.redb"), "{told}");
                let other = Store::open(&from).unwrap().move_to(StorePlace::Embedded(&third), true).unwrap_err();
                assert!(matches!(other, BackupError::Store(StoreError::Moving { .. })), "{other}");
                assert!(!third.exists());
            }
            if !whole && there.unwrap() == 1 {
                // It has been used since: nothing of that is lost.
                arrived += 1;
                apply(&to, &["north", "south", "east"]);
            }
            if !whole {
                let now = regions(&to).1;
                let finished = Store::open(&from).unwrap().move_to(place, true).unwrap();
                assert_eq!((finished.revision, if now == 2 { 1 } else { now }), regions(&to), "after {points} steps");
            }
            let error = Store::open(&from).unwrap().content().unwrap_err();
            assert!(matches!(error, StoreError::Moved { .. }), "{error}");
            assert!(Store::open(&to).unwrap().content().is_ok());
            assert!(matches!(
                Store::open(&from).unwrap().move_to(place, true),
                Err(BackupError::Store(StoreError::Moved { .. }))
            ));
            if whole {
                break;
            }
            points += 1;
        }
        assert_eq!((points, arrived), (4, 1));
    }

    #[test]
    fn a_store_whose_move_was_interrupted_can_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to, copy] = ["store.redb", "other.redb", "copy"].map(|name| folder.path().join(name));
        apply(&from, &["north"]);
        let mut left = 2;
        let mut between = || {
            left -= 1;
            if left < 0 { Err(BackupError::Temporary) } else { Ok(()) }
        };
        let store = Store::open(&from).unwrap();
        store.move_in_steps(StorePlace::Embedded(&to), false, &mut between).unwrap_err();
        let error = store.content().unwrap_err().to_string();
        assert!(error.contains("`cps-peering-controller restore --same-cluster FILE`"), "{error}");
        assert!(!to.exists());
        store.back_up(&copy).unwrap();
        drop(store);
        Store::restore(&copy, &from, None, Origin::Same).unwrap();
        assert_eq!(Store::open(&from).unwrap().content().unwrap().state.regions().len(), 1);
    }
}
