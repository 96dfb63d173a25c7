//! From one store to another: copies brought back into etcd, and moves from a file to etcd and back.

use super::{
    BackupError, Cluster, Origin, Restored, Store, StoreError,
    backup::{in_new_epoch, last},
    backup_error::failed,
    raw::Page,
    records::META,
};
use crate::{
    file::sync_folder,
    model::state::{Change, Meta},
};
use cps_peering_config::{Revision, settings::StorePlace, time::now_ms};
use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

impl Store {
    /// Opens the store of some settings for changing it as a whole: no controller may use it meanwhile.
    pub fn hold_place(place: StorePlace<'_>) -> Result<Self, StoreError> {
        match place {
            StorePlace::Embedded(path) => Self::open(path),
            StorePlace::Etcd(settings) => Self::hold(&Arc::new(Cluster::new(settings)?)),
        }
    }

    /// Its last commit; none where there was none.
    fn revision(&self) -> Result<Option<Revision>, StoreError> {
        let meta = self.meta()?.filter(|meta| meta.number > 0);
        Ok(meta.map(|meta| Revision { epoch: meta.epoch, number: meta.number }))
    }

    /// Puts a copy in the place of what etcd holds, as [`Self::restore`] does with a file. What etcd held is copied into the
    /// folder for backups first.
    pub fn restore_into(&self, backup: &Path, epoch: Option<u64>, origin: Origin) -> Result<Restored, BackupError> {
        // Opening a store writes to it, and a copy is to stay as it is.
        let folder = tempfile::tempdir().map_err(failed("make a folder", &std::env::temp_dir()))?;
        let copy = Store::open_copy(backup, &folder.path().join("copy"))?;
        self.fill_from(&copy, epoch, origin).map_err(|error| match error {
            BackupError::Empty(_) => BackupError::Empty(backup.to_owned()),
            other => other,
        })
    }

    /// Copies everything into another place, under a new epoch, above those of both stores. This one stays as it is, but for that it
    /// says where it went and is of no use to a controller any more. What is in the other place is kept beside it or in the folder for backups, and is replaced only by `force`.
    pub fn move_to(&self, place: StorePlace<'_>, force: bool) -> Result<Restored, BackupError> {
        // What has happened since is elsewhere.
        self.is_here()?;
        let moved = self.copy_into(place, force)?;
        let to = match place {
            StorePlace::Embedded(path) => path.display().to_string(),
            StorePlace::Etcd(settings) => format!("{} in etcd at {}", settings.prefix, settings.endpoints.join(", ")),
        };
        self.mark_moved(&to)?;
        Ok(moved)
    }

    fn copy_into(&self, place: StorePlace<'_>, force: bool) -> Result<Restored, BackupError> {
        let holds = |path: &Path, revision| BackupError::Holds { path: path.to_owned(), revision };
        let path = match place {
            StorePlace::Embedded(path) => path,
            StorePlace::Etcd(_) => {
                let other = Self::hold_place(place)?;
                return match other.revision()? {
                    Some(revision) if !force => Err(holds(&other.path, revision)),
                    _ => {
                        let moved = other.fill_from(self, None, Origin::Moved)?;
                        other.take_notes(self)?;
                        Ok(moved)
                    }
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
        // What is left of an attempt that was cut off.
        let _ = fs::remove_file(&moving);
        self.duplicate(&moving)?;
        let moved = Self::put_in_place(&moving, path, None, Origin::Moved);
        fs::remove_file(&moving).map_err(failed("remove", &moving))?;
        if moved.is_ok() {
            Store::open(path)?.take_notes(self)?;
        }
        moved.map_err(|error| match error {
            BackupError::Empty(_) => BackupError::Empty(self.path.clone()),
            other => other,
        })
    }

    fn fill_from(&self, from: &Store, epoch: Option<u64>, origin: Origin) -> Result<Restored, BackupError> {
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
        // Where it is cut off, the next one finds which epochs there have been.
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
        self.backend.end_filling(encode(renewed)?)?;
        let counts = [state.hosts().len(), state.vpcs().len(), state.peerings().len()];
        let revision = Revision { epoch: renewed.epoch, ..last(&state) };
        Ok(Restored { revision, cluster: renewed.cluster, held: renewed.held, counts, replaced })
    }

    /// The folder for what is about to be replaced, and whoever may use what is made in it.
    fn folder_to_keep(&self) -> Result<impl Fn(&Path) -> Result<(), BackupError>, BackupError> {
        let above = self.backups.parent().unwrap_or(Path::new("."));
        let owner = fs::metadata(above).map_err(failed("look at the folder", above))?;
        // Whoever may use the folder above may use what is made in it.
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
                // Nobody can read it, so it does not become a copy.
                Err(BackupError::Store(error)) if error.is_damage() => return self.keep_damaged(),
                Err(error) => return Err(error),
            }
        }
        Ok(file)
    }

    /// Puts what is about to be replaced, and cannot be read, into a file as it is.
    fn keep_damaged(&self) -> Result<PathBuf, BackupError> {
        let give = self.folder_to_keep()?;
        // What is named as a copy counts as one.
        let file = self.backups.join(format!("replaced-{}.damaged", now_ms()));
        let unfinished = file.with_extension("unfinished");
        self.dump_to(&unfinished)?;
        give(&unfinished)?;
        fs::rename(&unfinished, &file).map_err(failed("finish", &file))?;
        // What is there is deleted next.
        sync_folder(&file).map_err(failed("finish", &file))?;
        Ok(file)
    }
}
