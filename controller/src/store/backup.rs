//! Backups of the store: made while it is used, and restored.

use super::{
    Store,
    backup_error::{BackupError, failed},
    copy::{self, Manifest},
    embedded::Embedded,
    raw::Backend,
};
use crate::{
    file::{folder_of, sync_folder},
    model::state::{Change, Meta, State},
};
use cps_peering_config::{
    Revision,
    cluster::ClusterId,
    time::{now_ms, timestamp_ms},
};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Remains of interrupted backups are removed by the next one if they are older than this: others may be in progress.
const LEFT_OVER: Duration = Duration::from_hours(24);

/// The origin of a store that replaces another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A backup that becomes a cluster of its own: hosts of the backup's cluster refuse it.
    Another,
    /// A backup that continues as its own cluster, whose store is lost.
    Same,
    /// The store itself, in another place. It is not held.
    Moved,
}

/// The result of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The last commit of the backup, under its new epoch.
    pub revision: Revision,
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// Whether nothing is sent to hosts before it is released.
    pub held: bool,
    /// Hosts, VPCs and peerings in it.
    pub counts: [usize; 3],
    /// Where the replaced store is kept.
    pub replaced: Option<PathBuf>,
}

impl Store {
    /// The extension of backups.
    pub const COPY: &str = "backup";

    /// When the newest backup in the folder was made. Blocks on the disk.
    pub fn last_backup(&self) -> Option<SystemTime> {
        // No folder, no backup.
        let files = fs::read_dir(self.backups()).ok()?.flatten();
        // Earlier releases made stores.
        let ends = |file: &fs::DirEntry| Path::new(&file.file_name()).extension().map(std::ffi::OsStr::to_owned);
        let finished = files.filter(|file| ends(file).is_some_and(|end| end == Self::COPY || end == "redb"));
        finished.filter_map(|file| file.metadata().ok()?.modified().ok()).max()
    }

    /// Backs up everything that is committed now into a new file, which is on disk when this returns. The store can be used
    /// meanwhile. The backup has been verified; returns its last commit.
    pub fn back_up(&self, file: &Path) -> Result<Revision, BackupError> {
        if file.exists() {
            return Err(BackupError::Exists(file.to_owned()));
        }
        if folder_of(file) == self.backups {
            remove_left_over(&self.backups);
        }
        let mut unfinished = file.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let raw = unfinished.with_extension("store");
        let made = self.copy_to(&raw).and_then(|state| {
            // The remains of an interrupted attempt.
            let _ = fs::remove_file(&unfinished);
            copy::pack(&raw, &manifest(&state, &raw)?, &unfinished)?;
            // It is read again, to verify what is on the disk.
            copy::unpack(&unfinished, &raw)?;
            Ok(state)
        });
        // Neither need exist.
        let _ = fs::remove_file(&raw);
        match made {
            Ok(state) => {
                fs::rename(&unfinished, file).map_err(failed("name the copy", file))?;
                sync_folder(file).map_err(failed("finish", file))?;
                Ok(last(&state))
            }
            Err(error) => {
                let _ = fs::remove_file(&unfinished);
                Err(error)
            }
        }
    }

    /// Copies everything that is committed now into a store of its own.
    pub(crate) fn duplicate(&self, file: &Path) -> Result<(), BackupError> {
        self.copy_to(file).map(drop)
    }

    /// The manifest of a backup, unverified. None if an earlier release made it, which had no manifests.
    pub fn inspect_copy(copy: &Path) -> Result<Option<Manifest>, BackupError> {
        copy::inspect(copy)
    }

    /// Verifies a backup: it is what was written, and every record in it can be read. Returns its manifest.
    pub fn verify_copy(copy: &Path) -> Result<Manifest, BackupError> {
        let folder = tempfile::tempdir().map_err(failed("make a folder", &std::env::temp_dir()))?;
        let file = folder.path().join("copy");
        let said = copy::unpack(copy, &file)?;
        let found = {
            let state = Store::open(&file)?.load()?;
            if state.meta().number == 0 {
                return Err(BackupError::Empty(copy.to_owned()));
            }
            manifest(&state, &file)?
        };
        match said {
            Some(said) if said.revision != found.revision || said.cluster != found.cluster => {
                Err(BackupError::Damaged {
                    path: copy.to_owned(),
                    why: "it belongs to a different store than it states".to_owned(),
                })
            }
            Some(said) => Ok(said),
            None => Ok(Manifest { made: String::new(), release: String::new(), ..found }),
        }
    }

    /// Extracts the store of a backup into a file of its own.
    pub fn open_copy(copy: &Path, file: &Path) -> Result<Self, BackupError> {
        copy::unpack(copy, file)?;
        Ok(Store::open(file)?)
    }

    fn copy_to(&self, path: &Path) -> Result<State, BackupError> {
        self.dump_to(path)?;
        Ok(Store::open(path)?.load()?)
    }

    /// Copies all rows into a new file, whatever they contain.
    pub(super) fn dump_to(&self, path: &Path) -> Result<(), BackupError> {
        // The remains of an interrupted attempt.
        let _ = fs::remove_file(path);
        let copy = Embedded::open(path)?;
        Ok(self.backend.dump(&mut |page| copy.fill(page))?)
    }

    /// Makes an empty store continue a cluster whose own store is lost, in an epoch that its agents have not seen. It is held.
    pub fn begin_anew(&self, cluster: ClusterId, epoch: u64) -> Result<(), BackupError> {
        let state = self.load()?;
        let meta = state.meta();
        if meta.number > 0 {
            return Err(BackupError::Occupied { path: self.path.clone(), revision: last(&state) });
        }
        let renewed = Meta { epoch, number: 1, cluster: Some(cluster), held: true, ..meta };
        Ok(self.commit(&[Change::Meta(renewed)], &[], &[], meta.number)?)
    }

    /// Replaces an unused store by a backup, under a new epoch: agents then prefer it to what they have, which
    /// may be newer than the backup. The epoch is one above that of the backup and of the replaced store, whichever is higher,
    /// or `epoch`, if that is higher. The replaced store is kept beside it. The restored one is held.
    pub fn restore(backup: &Path, path: &Path, epoch: Option<u64>, origin: Origin) -> Result<Restored, BackupError> {
        Self::put_in_place(backup, path, epoch, origin, &mut || Ok(()))
    }

    /// `ready` is called when all is prepared, before the store is replaced.
    pub(super) fn put_in_place(
        backup: &Path,
        path: &Path,
        epoch: Option<u64>,
        origin: Origin,
        ready: &mut dyn FnMut() -> Result<(), BackupError>,
    ) -> Result<Restored, BackupError> {
        let folder = folder_of(path);
        let owner = fs::metadata(folder).map_err(failed("look at the folder", folder))?;
        // Held until it is replaced, so that no controller begins to use it.
        let (_replaced, old, damaged) = match path.exists().then(|| Store::open(path)) {
            None => (None, None, false),
            Some(opened) => {
                let loaded =
                    opened.and_then(|store| store.load().map(|state| (Some(store), Some(state.meta()), false)));
                match loaded {
                    // No controller starts with it, either.
                    Err(error) if error.is_damage() => {
                        if epoch.is_none() {
                            return Err(BackupError::DamagedInPlace(error));
                        }
                        (None, None, true)
                    }
                    loaded => loaded?,
                }
            }
        };

        let unfinished = path.with_extension("restoring");
        let unpacked = copy::unpack(backup, &unfinished);
        let restored = unpacked.and_then(|_| Self::renew(backup, &unfinished, old, epoch, origin));
        let (state, renewed) = match restored {
            Ok(restored) => restored,
            Err(error) => {
                // The temporary copy is removed; the error is what matters.
                let _ = fs::remove_file(&unfinished);
                return Err(error);
            }
        };
        // Owned by the owner of the folder.
        chown(&unfinished, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away", &unfinished))?;
        ready()?;
        let damaged = damaged.then(|| path.with_extension(format!("damaged-{}.redb", now_ms())));
        let kept = old.map(|old| path.with_extension(format!("{}-{}.redb", old.epoch, old.number))).or(damaged);
        if let Some(kept) = &kept {
            fs::rename(path, kept).map_err(failed("put aside", path))?;
        }
        fs::rename(&unfinished, path).map_err(failed("put in its place", &unfinished))?;
        sync_folder(path).map_err(failed("finish", path))?;
        let counts = counts(&state);
        let revision = Revision { epoch: renewed.epoch, number: renewed.number };
        Ok(Restored { revision, cluster: renewed.cluster, held: renewed.held, counts, replaced: kept })
    }

    /// Checks a copy, and moves it into a new epoch.
    fn renew(
        backup: &Path,
        path: &Path,
        old: Option<Meta>,
        epoch: Option<u64>,
        origin: Origin,
    ) -> Result<(State, Meta), BackupError> {
        let store = Store::open(path)?;
        let state = store.load()?;
        if state.meta().number == 0 {
            return Err(BackupError::Empty(backup.to_owned()));
        }
        let renewed = in_new_epoch(state.meta(), old, epoch, origin)?;
        if let (_, Some(value)) = store.rows().encode(&Change::Meta(renewed))? {
            store.backend.end_filling(value)?;
        }
        Ok((state, renewed))
    }
}

/// The record that exists once, for a store that replaces another.
pub(super) fn in_new_epoch(
    meta: Meta,
    old: Option<Meta>,
    epoch: Option<u64>,
    origin: Origin,
) -> Result<Meta, BackupError> {
    let least = old.map_or(0, |old| old.epoch).max(meta.epoch);
    let epoch = epoch.unwrap_or(least + 1);
    if epoch <= least {
        return Err(BackupError::Epoch { asked: epoch, least });
    }
    let cluster = match origin {
        Origin::Another => Some(new_cluster()),
        Origin::Same | Origin::Moved => meta.cluster,
    };
    let (held, restores) = match origin {
        // Also if the same backup is restored a second time.
        Origin::Another | Origin::Same => {
            (true, old.map_or(0, |old| old.restores).max(meta.restores).saturating_add(1))
        }
        Origin::Moved => (meta.held, meta.restores),
    };
    Ok(Meta { epoch, cluster, held, restores, ..meta })
}

/// The manifest of a store in a file.
fn manifest(state: &State, file: &Path) -> Result<Manifest, BackupError> {
    let bytes = fs::metadata(file).map_err(failed("look at", file))?.len();
    Ok(Manifest {
        cluster: state.meta().cluster,
        revision: last(state),
        made: timestamp_ms(now_ms()),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        hosts: state.hosts().len(),
        vpcs: state.vpcs().len(),
        peerings: state.peerings().len(),
        bytes,
    })
}

/// The identity of a new store.
pub(crate) fn new_cluster() -> ClusterId {
    let mut random = [0; 16];
    if SystemRandom::new().fill(&mut random).is_err() {
        // The kernel's source fails only during early boot.
        random = std::array::from_fn(|_| fastrand::u8(..));
    }
    ClusterId::new(u128::from_be_bytes(random))
}

pub(super) fn last(state: &State) -> Revision {
    let meta = state.meta();
    Revision { epoch: meta.epoch, number: meta.number }
}

/// Hosts, VPCs and peerings.
pub(super) fn counts(state: &State) -> [usize; 3] {
    [state.hosts().len(), state.vpcs().len(), state.peerings().len()]
}

/// Removes the remains of backups that a crash has interrupted: each is as large as the store.
fn remove_left_over(folder: &Path) {
    let ends = [".store", ".unfinished"].map(|end| format!(".{}{end}", Store::COPY));
    let is_left_over = |file: &fs::DirEntry| {
        let name = file.file_name();
        let named = name.to_str().is_some_and(|name| ends.iter().any(|end| name.ends_with(end)));
        let modified = file.metadata().and_then(|file| file.modified()).ok();
        named && modified.and_then(|it| it.elapsed().ok()).is_some_and(|age| age > LEFT_OVER)
    };
    for file in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_left_over) {
        if let Err(error) = fs::remove_file(file.path()) {
            tracing::warn!(file = %file.path().display(), %error, "the remains of an interrupted copy cannot be removed");
        }
    }
}

#[cfg(test)]
pub(super) mod fixtures {
    use super::*;
    use crate::{
        engine::{Engine, Options},
        model::{Actor, Command, Request, inventory::Apply},
    };

    /// Applies a document of regions.
    pub(in crate::store) fn apply(store: &Path, regions: &[&str]) {
        let regions: Vec<_> = regions.iter().map(|id| serde_json::json!({ "id": id })).collect();
        let inventory = serde_json::from_value(serde_json::json!({ "regions": regions })).unwrap();
        let (engine, _hosts) = Engine::open(Store::open(store).unwrap(), Options::default()).unwrap();
        let command = Command::Apply(Apply::of(inventory));
        let request = Request { id: "0a1b2c".to_owned(), ..Request::new(Actor::Operator, command) };
        engine.execute(&request).unwrap();
    }

    /// The last commit, and how many regions there are.
    pub(in crate::store) fn regions(store: &Path) -> (Revision, usize) {
        let state = Store::open(store).unwrap().load().unwrap();
        (last(&state), state.regions().len())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fixtures::{apply, regions},
        *,
    };
    use crate::store::{notes, raw::Page};
    use cps_peering_config::settings::StorePlace;

    #[test]
    fn notes_go_along_when_a_store_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (store, other) = (folder.path().join("store.redb"), folder.path().join("other.redb"));
        apply(&store, &["north"]);
        let from = Store::open(&store).unwrap();
        from.write_notes(vec![(notes::WEBHOOKS, b"{}".to_vec())]).unwrap();
        from.move_to(StorePlace::Embedded(&other), false).unwrap();
        let to = Store::open(&other).unwrap();
        assert_eq!(to.note(notes::WEBHOOKS).unwrap(), Some(b"{}".to_vec()));
        assert_eq!(to.content().unwrap().state.regions().len(), 1, "that it was moved stays where it was");
    }

    #[test]
    fn a_backup_replaces_a_damaged_store_if_the_epoch_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        apply(&store, &["north"]);
        Store::open(&store).unwrap().back_up(&copy).unwrap();
        let mut bytes = fs::read(&store).unwrap();
        let middle = bytes.len() / 2;
        bytes[..middle].fill(0xa5);
        fs::write(&store, &bytes).unwrap();
        let error = Store::restore(&copy, &store, None, Origin::Same).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains("--epoch") && error.contains("ask-agents"), "{error}");
        assert_eq!(fs::read(&store).unwrap(), bytes, "nothing was done");
        let restored = Store::restore(&copy, &store, Some(9), Origin::Same).unwrap();
        assert_eq!((restored.revision.epoch, regions(&store).1), (9, 1));
        assert_eq!(fs::read(restored.replaced.unwrap()).unwrap(), bytes, "it is kept");
    }

    #[test]
    fn a_backup_is_restored_under_a_new_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        apply(&store, &["north"]);
        let made = Store::open(&store).unwrap().back_up(&copy).unwrap();
        assert_eq!(made, Revision { epoch: 1, number: 1 });
        apply(&store, &["north", "east"]);
        let before = Store::open(&store).unwrap().load().unwrap().meta();

        let restored = Store::restore(&copy, &store, None, Origin::Another).unwrap();
        assert_eq!(restored.revision, Revision { epoch: 2, number: 1 });
        assert_eq!(regions(&store), (restored.revision, 1), "what came after the copy is gone");
        let after = Store::open(&store).unwrap().load().unwrap().meta();
        assert_eq!((before.restores, after.restores), (0, 1), "no VNI is given away twice");
        assert_eq!(regions(&restored.replaced.unwrap()), (Revision { epoch: 1, number: 2 }, 2), "and is kept");
        // The trail is restored as well, and continues.
        let query = crate::audit::Query { limit: 10, ..crate::audit::Query::default() };
        assert_eq!(Store::open(&store).unwrap().audit(&query).unwrap().len(), 1);
        apply(&store, &["north", "west"]);
        assert_eq!(regions(&store), (Revision { epoch: 2, number: 2 }, 2));

        // It is another cluster, and held; if it continues as the same cluster, it is that.
        assert_eq!((before.held, after.held, restored.held), (false, true, true));
        assert!(before.cluster.is_some() && after.cluster.is_some() && before.cluster != after.cluster);
        assert_eq!(after.cluster, restored.cluster);
        let same = Store::restore(&copy, &folder.path().join("same.redb"), None, Origin::Same).unwrap();
        assert_eq!((same.cluster, same.held), (before.cluster, true));

        let again = Store::restore(&copy, &store, None, Origin::Another).unwrap();
        assert_eq!(again.revision, Revision { epoch: 3, number: 1 }, "above the store that it replaces");
        let error = Store::restore(&copy, &store, Some(3), Origin::Same).unwrap_err().to_string();
        assert_eq!(error, "epoch 3 is not above 3, which has been used already");
        assert_eq!(
            Store::restore(&copy, &store, Some(9), Origin::Same).unwrap().revision,
            Revision { epoch: 9, number: 1 }
        );
        // The same backup restored once more reuses no VNI, either.
        let again = Store::restore(&copy, &store, None, Origin::Same).unwrap();
        let restores = Store::open(&store).unwrap().load().unwrap().meta().restores;
        assert_eq!((again.revision.epoch, restores), (10, 4));
    }

    #[test]
    fn the_remains_of_interrupted_backups_are_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("store.redb");
        apply(&place, &["north"]);
        let store = Store::open(&place).unwrap();
        fs::create_dir(store.backups()).unwrap();
        let make = |name: &str, age: Duration| {
            let file = fs::File::create(store.backups().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let old = LEFT_OVER + Duration::from_mins(1);
        for name in ["a.backup.store", "a.backup.unfinished", "b.backup", "c.store", "d.redb"] {
            make(name, old);
        }
        // Others may be in progress.
        make("e.backup.store", Duration::ZERO);
        store.back_up(&store.backups().join("new.backup")).unwrap();
        let left = fs::read_dir(store.backups()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
        let left: std::collections::BTreeSet<String> = left.collect();
        assert_eq!(left, ["b.backup", "c.store", "d.redb", "e.backup.store", "new.backup"].map(str::to_owned).into());
        // In other folders, files may belong to others.
        fs::rename(store.backups().join("c.store"), folder.path().join("c.backup.store")).unwrap();
        store.back_up(&folder.path().join("mine.backup")).unwrap();
        assert!(folder.path().join("c.backup.store").exists());
    }

    #[test]
    fn a_backup_contains_everything_that_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        apply(&path, &["north"]);
        let store = Store::open(&path).unwrap();
        let period = serde_json::json!({
            "payer": "acme", "peering": "vpcpr-0123456789", "bandwidth": 10, "from_ms": 1, "to_ms": 2,
            "regions": ["north", "east"],
        });
        let side = ("vpcpr-0123456789".parse().unwrap(), cps_peering_config::net::Vni::MIN);
        store.save_traffic(&[(side, 7)], &[]).unwrap();
        store.commit(&[], &[serde_json::from_value(period).unwrap()], &[], 1).unwrap();
        store.back_up(&copy).unwrap();

        let unpacked = folder.path().join("unpacked");
        let manifest = Store::verify_copy(&copy).unwrap();
        assert_eq!((manifest.revision, manifest.vpcs), (last(&store.load().unwrap()), 0));
        assert_eq!(Store::inspect_copy(&copy).unwrap(), Some(manifest));
        let rows = |store: &Store| {
            let mut rows = [0; 4];
            let mut count = |page| {
                let (kind, count) = match page {
                    Page::Records(page) => (0, page.len()),
                    Page::Audit(page) => (1, page.len()),
                    Page::Periods(page) => (2, page.len()),
                    Page::Traffic(page) => (3, page.len()),
                };
                rows[kind] += count;
                Ok(())
            };
            store.backend.dump(&mut count).unwrap();
            rows
        };
        let stored = rows(&store);
        assert!(stored.iter().all(|rows| *rows > 0), "a kind of record is not tried here: {stored:?}");
        assert_eq!(rows(&Store::open_copy(&copy, &unpacked).unwrap()), stored);
    }

    #[test]
    fn a_backup_with_one_changed_byte_or_a_missing_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        apply(&store, &["north"]);
        Store::open(&store).unwrap().back_up(&copy).unwrap();
        let (whole, target) = (fs::read(&copy).unwrap(), folder.path().join("restored.redb"));
        let damaged = folder.path().join("damaged");
        let try_it = |bytes: &[u8], what: &str| {
            fs::write(&damaged, bytes).unwrap();
            let error = Store::restore(&damaged, &target, None, Origin::Same).unwrap_err().to_string();
            assert!(error.contains("damaged") && !target.exists(), "{what}: {error}");
        };
        // Every byte before the store, and many in it: also some without content.
        let head = whole.windows(4).position(|it| it == b"redb").unwrap();
        for at in (0..head).chain((head..whole.len()).step_by(997)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            try_it(&bytes, &format!("byte {at}"));
        }
        for length in [0, 5, head - 1, head, whole.len() - 1] {
            try_it(&whole[..length], &format!("{length} bytes"));
        }
        try_it(&[whole.as_slice(), b"x"].concat(), "a byte more");
        fs::write(&damaged, &whole).unwrap();
        Store::restore(&damaged, &target, None, Origin::Same).unwrap();
        // A backup of an earlier release is just a store.
        let plain = folder.path().join("plain");
        Store::open(&store).unwrap().duplicate(&plain).unwrap();
        Store::restore(&plain, &target, None, Origin::Same).unwrap();
        assert_eq!(Store::inspect_copy(&plain).unwrap(), None);
        assert_eq!(Store::verify_copy(&plain).unwrap().release, "");
    }

    #[test]
    fn a_store_in_use_or_a_file_that_is_no_store_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        apply(&store, &["north"]);
        let used = Store::open(&store).unwrap();
        used.back_up(&copy).unwrap();
        assert!(matches!(used.back_up(&copy), Err(BackupError::Exists(_))), "a copy is never written over");
        let error = Store::restore(&copy, &store, None, Origin::Another).unwrap_err().to_string();
        assert!(error.contains("another process uses it"), "{error}");
        drop(used);

        for (name, content) in [("text", b"not a store".to_vec()), ("half", fs::read(&copy).unwrap()[..9000].to_vec())]
        {
            let file = folder.path().join(name);
            fs::write(&file, content).unwrap();
            Store::restore(&file, &store, None, Origin::Another).unwrap_err();
        }
        let empty = folder.path().join("empty");
        drop(Store::open(&empty).unwrap());
        assert!(matches!(Store::restore(&empty, &store, None, Origin::Another), Err(BackupError::Empty(_))));
        let missing =
            Store::restore(&folder.path().join("none"), &store, None, Origin::Another).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
        assert_eq!(regions(&store), (Revision { epoch: 1, number: 1 }, 1));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left.len(), 5, "{left:?}");
    }
}
