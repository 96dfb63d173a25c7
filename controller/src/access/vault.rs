//! Encryption of the secret keys of accounts before they are stored.
//!
//! The controller needs secret keys in clear to check signatures, so a hash would not do. Records, in memory as in either kind of
//! store, hold them encrypted and authenticated (AES-256-GCM) for one account and one access key; the store's key is in a file of
//! its own, which is not part of the store and its backups.

use super::secret::{self, PrivateFileError};
use crate::{
    digest,
    file::{folder_of, sync_folder},
    model::{
        record::{Account, SealedKey, Webhook},
        state::{Change, Meta, State},
    },
    store::{BackupError, Content, Store, StoreError},
};
use cps_peering_config::id::AccountId;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The beginning of a sealed key; the number of the store's key follows, then nonce and ciphertext, in hexadecimal.
const SEALED: &str = "sealed.1.";

/// Why sealed keys cannot be used.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The key's file cannot be read.
    #[error("the store's key: {0}")]
    File(#[from] PrivateFileError),
    /// The key's file cannot be created.
    #[error("the store's key: cannot make {path}: {source}")]
    Make {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The key's file is missing, and something is sealed with it.
    #[error(
        "the store's key {0} is missing, and access keys are sealed with it: put the file back (setting `store_key_file`). Where \
         it is lost, `cps-peering-controller forget-keys` removes all access keys"
    )]
    Missing(PathBuf),
    /// The key's file holds something else.
    #[error("the store's key {0} is not 64 hexadecimal digits")]
    NoKey(PathBuf),
    /// Something is sealed with another key.
    #[error(
        "{path} is not the store's key: access key {access_key} of account {account} is sealed with key {sealed_with}, and this \
         is key {id} (setting `store_key_file`). Where the right one is lost, `cps-peering-controller forget-keys` removes all \
         access keys"
    )]
    OtherKey {
        /// The key's file.
        path: PathBuf,
        /// Which key it holds.
        id: String,
        /// The account.
        account: AccountId,
        /// The access key whose secret key is sealed.
        access_key: String,
        /// With which key.
        sealed_with: String,
    },
    /// A rotation was interrupted: access keys are sealed with the next key, which is in a file beside this one.
    #[error(
        "{0} is not the store's key any more: its rotation was interrupted, and access keys are sealed with the next one, which is \
         there. `cps-peering-controller rotate-store-key` finishes it; no access key is lost"
    )]
    CutOff(PathBuf),
    /// A rotation was probably interrupted: there is a next key, which cannot be read.
    #[error(
        "{path} is not the store's key: access keys are sealed with key {sealed_with}, and the next key of an interrupted \
         rotation cannot be read: {next}. Give it the owner and mode of {path}, or restore it from a copy, then run \
         `cps-peering-controller rotate-store-key` to finish the rotation; no access key is lost"
    )]
    NextUnreadable {
        /// The key's file.
        path: PathBuf,
        /// With which key access keys are sealed.
        sealed_with: String,
        /// Why the next one cannot be read.
        next: Box<VaultError>,
    },
    /// A sealed key was changed, or belongs to another access key.
    #[error(
        "the secret key of access key {access_key} of account {account} was not sealed for it: the store was changed by hand"
    )]
    Forged {
        /// The account.
        account: AccountId,
        /// The access key.
        access_key: String,
    },
    /// The system gave no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] secret::NoRandomness),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store could not be rewritten.
    #[error("the store could not be written anew without secret keys in clear: {0}")]
    Rewrite(#[from] BackupError),
}

/// The store's key.
pub struct Vault {
    path: PathBuf,
    /// The number of the key, for messages.
    id: String,
    key: LessSafeKey,
}

fn is_sealed(key: &SealedKey) -> bool {
    key.as_str().starts_with(SEALED)
}

/// All sealed keys, each with its account and access key.
fn keys(state: &State) -> impl Iterator<Item = (AccountId, String, &SealedKey)> {
    let of = |account: &'_ Account| account.id.clone();
    let accounts = state.accounts().values();
    let keys = accounts.flat_map(move |it| it.keys.iter().map(move |(key, sealed)| (of(it), key.clone(), sealed)));
    keys.chain(state.webhooks().values().map(|webhook| {
        let (account, name) = webhook.sealed_for();
        (account, name, &webhook.secret)
    }))
}

fn is_needed(state: &State) -> bool {
    keys(state).any(|(_, _, sealed)| is_sealed(sealed))
}

fn is_missing(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn aad(account: &AccountId, access_key: &str) -> Aad<Vec<u8>> {
    Aad::from([b"cps-peering secret key", account.as_str().as_bytes(), access_key.as_bytes()].join(&0))
}

impl Vault {
    /// Reads the key. If there is none, creates one, unless something in `state` is sealed already. Checks that everything is sealed
    /// with it.
    pub fn open(path: &Path, state: &State) -> Result<Self, VaultError> {
        if is_missing(path) && !is_needed(state) {
            make(path)?;
            tracing::info!(file = %path.display(), "made the store's key: keep a copy, and not with the store's backups");
        }
        let vault = Self::read(path)?;
        vault.check(state)?;
        Ok(vault)
    }

    /// Checks that everything that is sealed in `state` was sealed with this key.
    pub fn fits(path: &Path, state: &State) -> Result<(), VaultError> {
        if is_needed(state) { Self::read(path)?.check(state) } else { Ok(()) }
    }

    /// Checks that a controller that shares the store with the content `state` could lead with this key.
    pub fn opens(path: &Path, state: &State) -> Result<(), VaultError> {
        Self::read(path)?.check(state)
    }

    /// The key of a store that is only read.
    pub fn for_reading(path: &Path, state: &State) -> Result<Self, VaultError> {
        let vault = Self::read(path)?;
        vault.check(state)?;
        Ok(vault)
    }

    fn read(path: &Path) -> Result<Self, VaultError> {
        if is_missing(path) {
            return Err(VaultError::Missing(path.to_owned()));
        }
        let text = secret::read_private(path)?;
        let no_key = || VaultError::NoKey(path.to_owned());
        let bytes = digest::unhex(&text).filter(|bytes| bytes.len() == AES_256_GCM.key_len()).ok_or_else(no_key)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| no_key())?;
        let id = digest::hex(&digest::sha256(&bytes)[..4]);
        Ok(Self { path: path.to_owned(), id, key: LessSafeKey::new(key) })
    }

    /// The key's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that everything that is sealed was sealed with this key.
    fn check(&self, state: &State) -> Result<(), VaultError> {
        let mut sealed = keys(state).filter(|(_, _, sealed)| is_sealed(sealed));
        match sealed.try_for_each(|(account, key, sealed)| self.unseal(&account, &key, sealed).map(drop)) {
            Err(VaultError::OtherKey { path, id, account, access_key, sealed_with }) => {
                Err(match Self::read(&beside(&self.path, "next")) {
                    Ok(next) if next.id == sealed_with => VaultError::CutOff(path),
                    Ok(_) | Err(VaultError::Missing(_)) => {
                        VaultError::OtherKey { path, id, account, access_key, sealed_with }
                    }
                    // Nobody is told to forget access keys that the next key may unseal.
                    Err(next) => VaultError::NextUnreadable { path, sealed_with, next: Box::new(next) },
                })
            }
            checked => checked,
        }
    }

    /// Seals a secret key for one account and one access key.
    pub fn seal(
        &self,
        account: &AccountId,
        access_key: &str,
        secret_key: &str,
    ) -> Result<SealedKey, secret::NoRandomness> {
        // 96 random bits: a collision is unlikely for less than billions of keys.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| secret::NoRandomness)?;
        let mut text = secret_key.as_bytes().to_vec();
        let sealed =
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(account, access_key), &mut text);
        // Fails only for texts of gigabytes.
        sealed.map_err(|_| secret::NoRandomness)?;
        Ok(SealedKey::new(format!("{SEALED}{}.{}{}", self.id, digest::hex(&nonce), digest::hex(&text))))
    }

    /// The secret key in clear.
    pub fn unseal(&self, account: &AccountId, access_key: &str, sealed: &SealedKey) -> Result<String, VaultError> {
        let forged = || VaultError::Forged { account: account.clone(), access_key: access_key.to_owned() };
        let text = sealed.as_str().strip_prefix(SEALED).ok_or_else(forged)?;
        let (id, text) = text.split_once('.').ok_or_else(forged)?;
        if id != self.id {
            return Err(VaultError::OtherKey {
                path: self.path.clone(),
                id: self.id.clone(),
                account: account.clone(),
                access_key: access_key.to_owned(),
                sealed_with: id.to_owned(),
            });
        }
        let mut bytes = digest::unhex(text).ok_or_else(forged)?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(forged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| forged())?;
        let clear = self.key.open_in_place(nonce, aad(account, access_key), text).map_err(|_| forged())?;
        String::from_utf8(clear.to_vec()).map_err(|_| forged())
    }

    /// The changes that seal keys which an earlier version has stored in clear.
    pub fn seal_all(&self, state: &State) -> Result<Vec<Change>, VaultError> {
        let mut changes = Vec::new();
        for account in state.accounts().values() {
            let mut account = account.clone();
            let mut changed = false;
            for (access_key, key) in &mut account.keys {
                if !is_sealed(key) {
                    *key = self.seal(&account.id, access_key, key.as_str())?;
                    changed = true;
                }
            }
            if changed {
                changes.push(Change::Account(account.id.clone(), Some(account)));
            }
        }
        Ok(changes)
    }
}

/// Removes all access keys. Returns how many accounts had any. Blocks on the store.
pub fn forget_all(store: &Store) -> Result<usize, StoreError> {
    let mut state = store.load()?;
    let with_keys = state.accounts().values().filter(|account| !account.keys.is_empty());
    let without = |account: &Account| Account { keys: std::collections::BTreeMap::new(), ..account.clone() };
    let mut changes: Vec<_> =
        with_keys.map(|account| Change::Account(account.id.clone(), Some(without(account)))).collect();
    let accounts = changes.len();
    // Secrets of webhooks cannot be unsealed any more.
    changes.extend(state.webhooks().keys().map(|id| Change::Webhook(id.clone(), None)));
    commit(store, &mut state, changes)?;
    Ok(accounts)
}

/// The result of a rotation.
pub struct Rotated {
    /// How many accounts have access keys.
    pub accounts: usize,
    /// Where the previous key is now.
    pub before: PathBuf,
}

/// Seals all access keys with a new key, which replaces the store's. `file` is the store if it is a file: it is
/// rewritten at the next start, since it still holds what was overwritten. An interrupted rotation is finished by running it again:
/// the new key is on disk before anything is sealed with it. Blocks on the store.
pub fn rotate(store: &Store, path: &Path, file: Option<&Path>) -> Result<Rotated, VaultError> {
    let mut state = store.load()?;
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| VaultError::Rewrite(BackupError::File { what, path, source })
    };
    let next = beside(path, "next");
    if is_missing(&next) {
        make(&next)?;
    }
    // Wherever this stops, the controller must be able to tell that it was interrupted.
    let owner = fs::metadata(path).map_err(failed("look at", path))?;
    chown(&next, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away", &next))?;
    let (old, new) = (Vault::read(path)?, Vault::read(&next)?);
    let before = beside(path, &old.id);
    let accounts = state.accounts().values().filter(|account| !account.keys.is_empty()).count();
    let mut changes = Vec::new();
    // Everything is sealed with the new key already if the rotation stopped near its end.
    if new.check(&state).is_err() || !is_needed(&state) {
        old.check(&state)?;
        for account in state.accounts().values().filter(|account| !account.keys.is_empty()) {
            let mut account = account.clone();
            for (access_key, key) in &mut account.keys {
                let clear =
                    if is_sealed(key) { old.unseal(&account.id, access_key, key)? } else { key.as_str().to_owned() };
                *key = new.seal(&account.id, access_key, &clear)?;
            }
            changes.push(Change::Account(account.id.clone(), Some(account)));
        }
        for webhook in state.webhooks().values() {
            let (account, name) = webhook.sealed_for();
            let secret = new.seal(&account, &name, &old.unseal(&account, &name, &webhook.secret)?)?;
            changes.push(Change::Webhook(webhook.id.clone(), Some(Webhook { secret, ..webhook.clone() })));
        }
    }
    if let Some(file) = file {
        let marker = sealing(file);
        File::create(&marker).and_then(|file| file.sync_all()).map_err(failed("make", &marker))?;
        sync_folder(file).map_err(failed("make", &marker))?;
    }
    commit(store, &mut state, changes)?;
    if is_missing(&before) {
        fs::hard_link(path, &before).map_err(failed("keep", &before))?;
    }
    fs::rename(&next, path).map_err(failed("put in its place", &next))?;
    sync_folder(path).map_err(failed("finish", path))?;
    Ok(Rotated { accounts, before })
}

/// A file beside another one.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

/// The marker file that exists while a store is to be rewritten.
fn sealing(store: &Path) -> PathBuf {
    store.with_extension("sealing")
}

/// Commits changes, if there are any, to a store with the content `state` that nobody else writes to.
fn commit(store: &Store, state: &mut State, mut changes: Vec<Change>) -> Result<(), StoreError> {
    let meta = state.meta();
    if changes.is_empty() {
        return Ok(());
    }
    changes.push(Change::Meta(Meta { number: meta.number + 1, ..meta }));
    store.commit(&changes, &[], &[], meta.number)?;
    for change in changes {
        state.apply(change);
    }
    Ok(())
}

/// The key of a store that several controllers share, with the content `state`. It must exist: the other controllers would not have
/// one that was created here.
pub fn of(store: &Store, state: &mut State, key: &Path) -> Result<Vault, VaultError> {
    let vault = Vault::read(key)?;
    vault.check(state)?;
    let changes = vault.seal_all(state)?;
    commit(store, state, changes)?;
    Ok(vault)
}

/// Opens an embedded store, with its content, and its key. Secret keys that an earlier version has stored in clear are
/// sealed; the store is then rewritten, because its file still holds what was overwritten.
pub fn open(store: &Path, key: &Path) -> Result<(Store, Content, Vault), VaultError> {
    let opened = Store::open(store)?;
    let content = opened.content()?;
    let state = &content.state;
    let vault = Vault::open(key, state)?;
    let changes = vault.seal_all(state)?;
    // Exists until it is done, even if the process crashes in between.
    let marker = sealing(store);
    if changes.is_empty() && !marker.exists() {
        return Ok((opened, content, vault));
    }
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { what, path, source }
    };
    File::create(&marker).and_then(|file| file.sync_all()).map_err(failed("make", &marker))?;
    sync_folder(store).map_err(failed("make", &marker))?;
    opened.commit(&changes, &[], &[], state.meta().number)?;
    let fresh = store.with_extension("sealed");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &fresh)(error).into()),
        _ => {}
    }
    opened.duplicate(&fresh)?;
    let written = Store::open(&fresh)?;
    written.save_traffic(&opened.traffic::<serde_json::Value>()?, &[])?;
    written.take_notes(&opened)?;
    drop(written);
    fs::rename(&fresh, store).map_err(failed("put in its place", &fresh))?;
    fs::remove_file(&marker).map_err(failed("remove", &marker))?;
    sync_folder(store).map_err(failed("finish", store))?;
    drop(opened);
    tracing::info!(
        accounts = changes.len(),
        "secret keys in clear have been sealed; backups made before still hold them"
    );
    let store = Store::open(store)?;
    let content = store.content()?;
    Ok((store, content, vault))
}

/// Creates a key, all or nothing, and never in place of another.
fn make(path: &Path) -> Result<(), VaultError> {
    let failed = |source| VaultError::Make { path: path.to_owned(), source };
    let key = secret::random_hex(AES_256_GCM.key_len())?;
    // Private from the beginning.
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path)).map_err(failed)?;
    writeln!(file, "{key}").and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    sync_folder(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn vault(folder: &Path, name: &str) -> Vault {
        Vault::open(&folder.join(name), &State::default()).unwrap()
    }

    fn id(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    fn state(key: &SealedKey) -> State {
        let mut account = Account::new(id("acme"));
        account.keys.insert("AK".to_owned(), key.clone());
        let mut state = State::default();
        state.apply(Change::Account(account.id.clone(), Some(account)));
        state
    }

    #[test]
    fn a_sealed_key_is_valid_for_one_account_one_access_key_and_one_vault() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (vault(folder.path(), "own"), vault(folder.path(), "other"));
        let sealed = own.seal(&id("acme"), "AK", "SECRET").unwrap();
        assert_eq!(own.unseal(&id("acme"), "AK", &sealed).unwrap(), "SECRET");
        assert_ne!(own.seal(&id("acme"), "AK", "SECRET").unwrap(), sealed, "the same looks different each time");
        assert!(matches!(own.unseal(&id("other"), "AK", &sealed), Err(VaultError::Forged { .. })));
        assert!(matches!(own.unseal(&id("acme"), "AK2", &sealed), Err(VaultError::Forged { .. })));
        assert!(matches!(other.unseal(&id("acme"), "AK", &sealed), Err(VaultError::OtherKey { .. })));
        // No byte can be changed, and clear text is not taken for sealed.
        let text = sealed.as_str();
        for place in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
            let changed = SealedKey::new(String::from_utf8(bytes).unwrap());
            own.unseal(&id("acme"), "AK", &changed).unwrap_err();
        }
        for wrong in ["", "SECRET", "sealed.1.", &text[..text.len() - 2], &format!("{SEALED}{}.00", own.id)] {
            own.unseal(&id("acme"), "AK", &SealedKey::new(wrong.to_owned())).unwrap_err();
        }
    }

    #[test]
    fn rotating_the_stores_key_loses_no_access_key_even_if_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("store.redb"), folder.path().join("store.key"));
        let (store, content, old) = open(&path, &key).unwrap();
        let mut account = Account::new(id("acme"));
        account.keys.insert("AK".to_owned(), old.seal(&id("acme"), "AK", "SECRET").unwrap());
        let mut state = content.state;
        commit(&store, &mut state, vec![Change::Account(id("acme"), Some(account))]).unwrap();
        let sealed = state.accounts()["acme"].keys["AK"].as_str().to_owned();
        drop(store);
        let secret = |sealed_before: &str| {
            let (store, content, vault) = open(&path, &key).unwrap();
            let sealed = content.state.accounts()["acme"].keys["AK"].clone();
            assert_ne!(sealed.as_str(), sealed_before);
            drop(store);
            let bytes = fs::read(&path).unwrap();
            let there = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(there(sealed.as_str()) && !there(sealed_before), "the file was written anew");
            (vault.unseal(&id("acme"), "AK", &sealed).unwrap(), sealed.as_str().to_owned(), vault.id)
        };
        let rotated = rotate(&Store::open(&path).unwrap(), &key, Some(&path)).unwrap();
        assert_eq!((rotated.accounts, Vault::read(&rotated.before).unwrap().id), (1, old.id.clone()));
        let (clear, sealed, new) = secret(&sealed);
        assert!(clear == "SECRET" && new != old.id);
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);

        // Interrupted after the commit: the store is sealed with the next key, and the file has the previous one.
        fs::rename(&key, beside(&key, "next")).unwrap();
        fs::hard_link(&rotated.before, &key).unwrap();
        assert!(matches!(open(&path, &key), Err(VaultError::CutOff(_))), "nobody is told to forget the access keys");
        // Also if the next key cannot be read: it may be repaired.
        let next = beside(&key, "next");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
        let told = open(&path, &key).err().unwrap().to_string();
        assert!(told.contains("chmod 600") && told.contains("rotate-store-key") && !told.contains("forget"), "{told}");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read(&next).unwrap();
        fs::write(&next, "").unwrap();
        assert!(matches!(open(&path, &key), Err(VaultError::NextUnreadable { sealed_with, .. }) if sealed_with == new));
        fs::write(&next, text).unwrap();
        rotate(&Store::open(&path).unwrap(), &key, Some(&path)).unwrap();
        let (_, content, vault) = open(&path, &key).unwrap();
        assert_eq!((vault.id, content.state.accounts()["acme"].keys["AK"].as_str()), (new, sealed.as_str()));
    }

    #[test]
    fn the_key_is_created_once_and_private_and_not_if_something_is_sealed_already() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.key");
        let made = vault(folder.path(), "store.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let sealed = made.seal(&id("acme"), "AK", "SECRET").unwrap();
        let state = state(&sealed);
        assert_eq!(Vault::open(&path, &state).unwrap().id, made.id);
        let missing = Vault::open(&folder.path().join("missing"), &state).err().unwrap().to_string();
        assert!(missing.contains("missing, and access keys are sealed with it"), "{missing}");
        assert!(!folder.path().join("missing").exists());
        vault(folder.path(), "other");
        let other = Vault::open(&folder.path().join("other"), &state).err().unwrap().to_string();
        assert!(other.contains(&format!("is sealed with key {}", made.id)), "{other}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = Vault::open(&path, &state).err().unwrap().to_string();
        assert!(open.contains("can be read by others (mode 0640)"), "{open}");
        for text in ["", "00", &"0".repeat(62), &"g".repeat(64), &"0".repeat(66)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Vault::open(&path, &state), Err(VaultError::NoKey(_))), "{text:?}");
        }
    }
}
