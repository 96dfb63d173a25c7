//! Copies of the store: made at one moment while it is used, and brought back.

use super::{
    Store, StoreError,
    copy::{self, Manifest},
    embedded::Embedded,
    raw::Backend,
};
use crate::model::state::{Change, Meta, State};
use cps_peering_config::{
    Revision,
    cluster::ClusterId,
    net::Vni,
    time::{now_ms, timestamp_ms},
};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    time::SystemTime,
};
use thiserror::Error;

/// How many VNIs a store that was brought back leaves out. Those that were given away after the copy was made may still be on
/// hosts that cannot be reached.
pub(super) const VNIS_LEFT_OUT: u32 = 1 << 16;

/// What a store is that takes the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A copy that becomes a cluster of its own: hosts of the one that it was made of refuse it.
    Another,
    /// A copy that goes on as the cluster that it was made of, which is no more.
    Same,
    /// The store itself, in another place. It is not held: it says what it said before.
    Moved,
}

/// A copy could not be made or brought back. The store is as it was.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store, or the copy as a store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file system said no.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store has no place on the disk.
    #[error("the store is a temporary one, and has no place for a backup")]
    Temporary,
    /// There is something in the store that would be lost.
    #[error("store {path} holds something, revision {revision}: to put another in its place, say --force")]
    Holds {
        /// The place.
        path: PathBuf,
        /// Its last commit.
        revision: Revision,
    },
    /// A store that is not empty was to begin anew.
    #[error("store {path} is not empty, revision {revision}: move it away first")]
    Occupied {
        /// The place.
        path: PathBuf,
        /// Its last commit.
        revision: Revision,
    },
    /// There is something in the place of the copy.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The copy holds nothing.
    #[error("{0} is no backup of a controller's store: nothing was ever committed to it")]
    Empty(PathBuf),
    /// The copy is not what was written.
    #[error("backup {path} is damaged: {why}. Use another copy")]
    Damaged {
        /// The copy.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The epoch would not go up.
    #[error("epoch {asked} is not above {least}, which there has been already")]
    Epoch {
        /// What was asked for.
        asked: u64,
        /// What there has been.
        least: u64,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The last commit of the copy, under its new epoch.
    pub revision: Revision,
    /// Which cluster it is.
    pub cluster: Option<ClusterId>,
    /// Whether nothing is sent to hosts before somebody says so.
    pub held: bool,
    /// Hosts, VPCs and peerings in it.
    pub counts: [usize; 3],
    /// Where the store is now that was in its place.
    pub replaced: Option<PathBuf>,
}

pub(super) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { what, path: path.to_owned(), source }
}

impl Store {
    /// How the names of copies end.
    pub const COPY: &str = "backup";

    /// When the newest of the copies in the folder for backups was made. Blocks on the disk.
    pub fn last_backup(&self) -> Option<SystemTime> {
        // No folder, no copy.
        let files = fs::read_dir(self.backups()).ok()?.flatten();
        // Earlier releases made stores.
        let ends = |file: &fs::DirEntry| Path::new(&file.file_name()).extension().map(std::ffi::OsStr::to_owned);
        let finished = files.filter(|file| ends(file).is_some_and(|end| end == Self::COPY || end == "redb"));
        finished.filter_map(|file| file.metadata().ok()?.modified().ok()).max()
    }

    /// Copies everything that is committed now into a new file, which is on disk when this returns. Others may go on to use
    /// the store meanwhile. The copy has been read again; what is returned is its last commit.
    pub fn back_up(&self, file: &Path) -> Result<Revision, BackupError> {
        if file.exists() {
            return Err(BackupError::Exists(file.to_owned()));
        }
        let mut unfinished = file.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let raw = unfinished.with_extension("store");
        let made = self.copy_to(&raw).and_then(|state| {
            // What is left of an attempt that was cut off.
            let _ = fs::remove_file(&unfinished);
            copy::pack(&raw, &manifest(&state, &raw)?, &unfinished)?;
            // It is read again: what is on the disk is what was meant.
            copy::unpack(&unfinished, &raw)?;
            Ok(state)
        });
        // Neither may even be there.
        let _ = fs::remove_file(&raw);
        match made {
            Ok(state) => {
                fs::rename(&unfinished, file).map_err(failed("name the copy", file))?;
                sync_folder(file)?;
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

    /// What a copy says that it is of. None where an earlier release made it, which does not say. It is not checked.
    pub fn inspect_copy(copy: &Path) -> Result<Option<Manifest>, BackupError> {
        copy::inspect(copy)
    }

    /// Checks all of a copy: that it is what was written, and that every record in it can be read. What it is of.
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
                    why: "it is of another store than it says".to_owned(),
                })
            }
            Some(said) => Ok(said),
            None => Ok(Manifest { made: String::new(), release: String::new(), ..found }),
        }
    }

    /// Takes the store out of a copy, as a file of its own.
    pub fn open_copy(copy: &Path, file: &Path) -> Result<Self, BackupError> {
        copy::unpack(copy, file)?;
        Ok(Store::open(file)?)
    }

    fn copy_to(&self, path: &Path) -> Result<State, BackupError> {
        // What is left of an attempt that was cut off.
        let _ = fs::remove_file(path);
        let copy = Embedded::open(path)?;
        self.backend.dump(&mut |page| copy.fill(page))?;
        drop(copy);
        Ok(Store::open(path)?.load()?)
    }

    /// Makes an empty store one of a cluster whose own store is lost, in an epoch that its agents have not seen. It is held.
    pub fn begin_anew(&self, cluster: ClusterId, epoch: u64) -> Result<(), BackupError> {
        let state = self.load()?;
        let meta = state.meta();
        if meta.number > 0 {
            return Err(BackupError::Occupied { path: self.path.clone(), revision: last(&state) });
        }
        let renewed = Meta { epoch, number: 1, cluster: Some(cluster), held: true, ..meta };
        Ok(self.commit(&[Change::Meta(renewed)], &[], &[], meta.number)?)
    }

    /// Puts a copy in the place of a store that nobody uses, under a new epoch: agents then prefer it to what they have, which
    /// may be newer than the copy. The epoch is that of the copy and of the store that was there, whichever is higher, and
    /// one more; or `epoch`, if that is higher. The store that was there is kept beside it. What comes back is held.
    pub fn restore(backup: &Path, path: &Path, epoch: Option<u64>, origin: Origin) -> Result<Restored, BackupError> {
        Self::put_in_place(backup, path, epoch, origin)
    }

    pub(super) fn put_in_place(
        backup: &Path,
        path: &Path,
        epoch: Option<u64>,
        origin: Origin,
    ) -> Result<Restored, BackupError> {
        let folder = folder_of(path);
        let owner = fs::metadata(folder).map_err(failed("look at the folder", folder))?;
        // Held until its place is taken, so that no controller begins to use it.
        let replaced = if path.exists() { Some(Store::open(path)?) } else { None };
        let old = replaced.as_ref().map(Store::load).transpose()?.map(|state| last(&state));

        let unfinished = path.with_extension("restoring");
        let unpacked = copy::unpack(backup, &unfinished);
        let restored = unpacked.and_then(|_| Self::renew(backup, &unfinished, old, epoch, origin));
        let (state, renewed) = match restored {
            Ok(restored) => restored,
            Err(error) => {
                // The copy of the copy; why it is of no use is what matters.
                let _ = fs::remove_file(&unfinished);
                return Err(error);
            }
        };
        // Whoever may use the folder may use the store.
        chown(&unfinished, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away", &unfinished))?;
        let kept = old.map(|old| path.with_extension(format!("{}-{}.redb", old.epoch, old.number)));
        if let Some(kept) = &kept {
            fs::rename(path, kept).map_err(failed("put aside", path))?;
        }
        fs::rename(&unfinished, path).map_err(failed("put in its place", &unfinished))?;
        sync_folder(path)?;
        let counts = [state.hosts().len(), state.vpcs().len(), state.peerings().len()];
        let revision = Revision { epoch: renewed.epoch, number: renewed.number };
        Ok(Restored { revision, cluster: renewed.cluster, held: renewed.held, counts, replaced: kept })
    }

    /// Checks a copy, and moves it into a new epoch.
    fn renew(
        backup: &Path,
        path: &Path,
        old: Option<Revision>,
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

/// What there is one of, for a store that takes another's place.
pub(super) fn in_new_epoch(
    meta: Meta,
    old: Option<Revision>,
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
    let (held, vnis_left_out) = match origin {
        Origin::Another | Origin::Same => (true, VNIS_LEFT_OUT),
        Origin::Moved => (meta.held, 0),
    };
    let next = (meta.next_vni.get() + vnis_left_out) % Vni::MAX.get();
    Ok(Meta { epoch, next_vni: Vni::try_from(next).unwrap_or(Vni::MIN), cluster, held, ..meta })
}

/// What is to be said of a store in a file.
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
        // The kernel's source fails only before it has begun.
        random = std::array::from_fn(|_| fastrand::u8(..));
    }
    ClusterId::new(u128::from_be_bytes(random))
}

pub(super) fn last(state: &State) -> Revision {
    let meta = state.meta();
    Revision { epoch: meta.epoch, number: meta.number }
}

/// Where a file is; a bare name is in the current folder.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(file: &Path) -> Result<(), BackupError> {
    let folder = folder_of(file);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("finish", folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::raw::Page;
    use crate::{
        engine::{Engine, Options},
        model::{Actor, Command, Request, inventory::Apply},
    };

    fn apply(store: &Path, regions: &[&str]) {
        let regions: Vec<_> = regions.iter().map(|id| serde_json::json!({ "id": id })).collect();
        let inventory = serde_json::from_value(serde_json::json!({ "regions": regions })).unwrap();
        let (engine, _hosts) = Engine::open(Store::open(store).unwrap(), Options::default()).unwrap();
        let command = Command::Apply(Apply::of(inventory));
        let request = Request { id: "0a1b2c".to_owned(), ..Request::new(Actor::Operator, command) };
        engine.execute(&request).unwrap();
    }

    fn regions(store: &Path) -> (Revision, usize) {
        let state = Store::open(store).unwrap().load().unwrap();
        (last(&state), state.regions().len())
    }

    #[test]
    fn what_was_copied_comes_back_under_a_new_epoch() {
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
        assert!(after.next_vni.get() > before.next_vni.get() + VNIS_LEFT_OUT / 2, "no VNI is given away twice");
        assert_eq!(regions(&restored.replaced.unwrap()), (Revision { epoch: 1, number: 2 }, 2), "and is kept");
        // The trail came with it, and goes on.
        let query = crate::audit::Query { limit: 10, ..crate::audit::Query::default() };
        assert_eq!(Store::open(&store).unwrap().audit(&query).unwrap().len(), 1);
        apply(&store, &["north", "west"]);
        assert_eq!(regions(&store), (Revision { epoch: 2, number: 2 }, 2));

        // It is another cluster, and nothing is sent to hosts yet; where it goes on as the same, it is that.
        assert_eq!((before.held, after.held, restored.held), (false, true, true));
        assert!(before.cluster.is_some() && after.cluster.is_some() && before.cluster != after.cluster);
        assert_eq!(after.cluster, restored.cluster);
        let same = Store::restore(&copy, &folder.path().join("same.redb"), None, Origin::Same).unwrap();
        assert_eq!((same.cluster, same.held), (before.cluster, true));

        let again = Store::restore(&copy, &store, None, Origin::Another).unwrap();
        assert_eq!(again.revision, Revision { epoch: 3, number: 1 }, "above the store that it replaces");
        let error = Store::restore(&copy, &store, Some(3), Origin::Same).unwrap_err().to_string();
        assert_eq!(error, "epoch 3 is not above 3, which there has been already");
        assert_eq!(
            Store::restore(&copy, &store, Some(9), Origin::Same).unwrap().revision,
            Revision { epoch: 9, number: 1 }
        );
    }

    #[test]
    fn nothing_that_is_stored_is_left_out_of_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        apply(&path, &["north"]);
        let store = Store::open(&path).unwrap();
        let period = serde_json::json!({
            "payer": "acme", "peering": "vpcpr-0123456789", "bandwidth": 10, "from_ms": 1, "to_ms": 2,
            "regions": ["north", "east"],
        });
        let side = ("vpcpr-0123456789".parse().unwrap(), Vni::MIN);
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
    fn a_copy_with_one_changed_byte_or_none_at_its_end_is_refused() {
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
        // Every byte before the store, and many of it: also such that hold nothing.
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
        // One of an earlier release is a store and nothing else.
        let plain = folder.path().join("plain");
        Store::open(&store).unwrap().duplicate(&plain).unwrap();
        Store::restore(&plain, &target, None, Origin::Same).unwrap();
        assert_eq!(Store::inspect_copy(&plain).unwrap(), None);
        assert_eq!(Store::verify_copy(&plain).unwrap().release, "");
    }

    #[test]
    fn a_bare_name_is_a_file_of_the_current_folder() {
        assert_eq!(folder_of(Path::new("store.redb")), Path::new("."));
        assert_eq!(folder_of(Path::new("/var/lib/store.redb")), Path::new("/var/lib"));
    }

    #[test]
    fn a_store_that_is_used_or_a_file_that_is_no_store_changes_nothing() {
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
