//! The last accepted configuration, on disk: with it the agent is correct after a reboot without any controller.
//!
//! The file begins with a whole configuration, and each accepted patch is appended, so that a change costs only its own
//! size. When the patches have grown larger than the configuration, the file is rewritten as a whole.
//!
//! Each record is a line with its kind, its length in bytes, and its CRC-32; then the JSON as it was pushed:
//!
//! ```text
//! config 17 1c291ca3
//! {"revision":…}
//! patch 21 8a3b0f11
//! {"base":…}
//! ```
//!
//! A truncated last record was never confirmed: it is treated as if it had not been written.

use crate::file;
use cps_peering_config::{HostConfig, HostPatch, InvalidHostConfig, ValidHostConfig, format};
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use thiserror::Error;

/// Patches of fewer bytes than this never cause a rewrite.
const FEW: u64 = 1 << 20;

/// A file that holds one configuration.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    /// None while the file's content is unknown, and after a failure: then the next record is a whole configuration.
    end: Arc<Mutex<Option<End>>>,
}

/// Where the file ends.
#[derive(Debug, Clone, Copy)]
struct End {
    /// The length of the configuration at the beginning.
    base: u64,
    /// The length of all complete records.
    whole: u64,
}

/// What is to be stored: the push as it came.
#[derive(Debug, Clone)]
pub enum Record<B> {
    /// A whole configuration.
    Config(B),
    /// A change of the previous configuration.
    Patch(B),
}

/// The ledger cannot be used.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// An I/O error.
    #[error("ledger {path}: cannot {what}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not a ledger, or was changed by someone else.
    #[error(
        "ledger {path} does not hold a configuration: {reason}. Move the file away to start without one: \
         the kernel then stays as it is until the controller sends one"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration in the file is invalid.
    #[error("ledger {path} holds an illegal configuration: {source}. Move the file away to start without one")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The rule that it violates.
        source: InvalidHostConfig,
    },
}

impl Ledger {
    /// The ledger in this file, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), end: Arc::default() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration that was stored last; none if there never was one.
    pub fn load(&self) -> Result<Option<ValidHostConfig>, LedgerError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read it")(source)),
        };
        let unreadable = |reason: String| LedgerError::Unreadable { path: self.path.clone(), reason };
        let invalid = |source| LedgerError::Invalid { path: self.path.clone(), source };
        let mut rest = bytes.as_slice();
        let Some(Record::Config(json)) = take(&mut rest).map_err(unreadable)? else {
            return Err(unreadable("it does not begin with one".to_owned()));
        };
        let base = (bytes.len() - rest.len()) as u64;
        let config: HostConfig = format::read(json).map_err(|error| unreadable(error.to_string()))?;
        let mut config = ValidHostConfig::try_from(config).map_err(invalid)?;
        while let Some(record) = take(&mut rest).map_err(unreadable)? {
            let Record::Patch(json) = record else {
                return Err(unreadable("a whole configuration follows another".to_owned()));
            };
            let patch: HostPatch = format::read(json).map_err(|error| unreadable(error.to_string()))?;
            if patch.base != config.revision {
                return Err(unreadable(format!("a patch of {} follows {}", patch.base, config.revision)));
            }
            config = config.patched(patch).map_err(invalid)?;
        }
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(End { base, whole: (bytes.len() - rest.len()) as u64 });
        Ok(Some(config))
    }

    /// Stores a configuration: just the push that led to it if that is enough. On return it survives a power failure.
    pub fn store(&self, push: &Record<impl AsRef<[u8]>>, config: &ValidHostConfig) -> Result<(), LedgerError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        // Unknown until this has succeeded.
        let before = end.take();
        *end = Some(match (push, before) {
            (Record::Patch(json), Some(end)) if end.whole - end.base < end.base.max(FEW) => {
                self.append(end, json.as_ref())?
            }
            (Record::Config(json), _) => self.replace(json.as_ref())?,
            (Record::Patch(json), before) => {
                let whole = before.and_then(|_| self.merged(json.as_ref(), config));
                let json = whole.map_or_else(|| serde_json::to_vec(config).map_err(io::Error::from), Ok);
                self.replace(&json.map_err(self.failed("write a configuration"))?)?
            }
        });
        Ok(())
    }

    /// One configuration merged from all records and another patch, including fields of a newer controller that this
    /// agent does not know: its successor may. None if the result is not `config`.
    fn merged(&self, patch: &[u8], config: &ValidHostConfig) -> Option<Vec<u8>> {
        let bytes = fs::read(&self.path).ok()?;
        let (mut rest, mut all) = (bytes.as_slice(), Raw::new());
        while let Some(Record::Config(json) | Record::Patch(json)) = take(&mut rest).ok()? {
            merge(&mut all, json)?;
        }
        merge(&mut all, patch)?;
        let json = serde_json::to_vec(&all).ok()?;
        let read: HostConfig = format::read(&json).ok()?;
        (ValidHostConfig::try_from(read).ok()? == *config).then_some(json)
    }

    /// Appends a patch after the last complete record.
    fn append(&self, end: End, json: &[u8]) -> Result<End, LedgerError> {
        let mut file = File::options().write(true).open(&self.path).map_err(self.failed("open it"))?;
        // A truncated record is dropped.
        file.set_len(end.whole).map_err(self.failed("cut it off"))?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(end.whole)).map_err(self.failed("find its end"))?;
        let mut bytes = head("patch", json);
        bytes.extend_from_slice(json);
        bytes.push(b'\n');
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(self.failed("add a patch to it"))?;
        Ok(End { whole: end.whole + bytes.len() as u64, ..end })
    }

    /// Writes a whole configuration to a new file, which replaces the ledger atomically.
    fn replace(&self, json: &[u8]) -> Result<End, LedgerError> {
        let head = head("config", json);
        file::replace(&self.path, &[&head, json, b"\n"]).map_err(|failed| self.failed(failed.what)(failed.source))?;
        let length = (head.len() + json.len() + 1) as u64;
        Ok(End { base: length, whole: length })
    }

    /// Forgets the configuration.
    pub fn remove(&self) -> Result<(), LedgerError> {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove it")(error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> LedgerError {
        let path = self.path.clone();
        move |source| LedgerError::Io { path, what, source }
    }
}

/// An object whose fields are kept verbatim.
type Raw = BTreeMap<String, Box<RawValue>>;

/// Replaces the configuration, or applies a patch to it. None if the JSON is neither.
fn merge(all: &mut Raw, json: &[u8]) -> Option<()> {
    let mut patch: Raw = serde_json::from_slice(json).ok()?;
    patch.remove("base");
    // A side that is listed as an ordinary one is no longer scoped, unless it is also listed as scoped.
    if let Some(sides) = patch.get("sides") {
        let named: Raw = serde_json::from_str(sides.get()).ok()?;
        change(all, "scoped_sides", |scoped| scoped.retain(|vni, _| !named.contains_key(vni)))?;
    }
    for name in ["vrfs", "sides", "scoped_sides"] {
        let Some(value) = patch.remove(name) else { continue };
        let changes: Raw = serde_json::from_str(value.get()).ok()?;
        change(all, name, |entries| {
            for (key, entry) in changes {
                if entry.get() == "null" {
                    entries.remove(&key);
                } else {
                    entries.insert(key, entry);
                }
            }
        })?;
    }
    all.extend(patch);
    Some(())
}

/// Changes the entries under that name.
fn change(all: &mut Raw, name: &str, how: impl FnOnce(&mut Raw)) -> Option<()> {
    let mut entries: Raw = match all.get(name) {
        Some(before) => serde_json::from_str(before.get()).ok()?,
        None => Raw::new(),
    };
    how(&mut entries);
    all.insert(name.to_owned(), serde_json::value::to_raw_value(&entries).ok()?);
    Some(())
}

fn head(kind: &str, json: &[u8]) -> Vec<u8> {
    format!("{kind} {} {:08x}\n", json.len(), crc32fast::hash(json)).into_bytes()
}

/// Takes the next record off the front; none when no complete record is left.
fn take<'a>(rest: &mut &'a [u8]) -> Result<Option<Record<&'a [u8]>>, String> {
    let Some(line) = rest.iter().position(|byte| *byte == b'\n') else {
        // Too short for a header: either nothing, or a truncated one.
        return if rest.len() < 64 { Ok(None) } else { Err("a record has no head".to_owned()) };
    };
    let head = String::from_utf8_lossy(&rest[..line]).into_owned();
    let mut words = head.split(' ');
    let (kind, length, sum) = (words.next(), words.next(), words.next());
    let length = length.and_then(|length| length.parse::<usize>().ok());
    let sum = sum.and_then(|sum| u32::from_str_radix(sum, 16).ok());
    let (Some(kind @ ("config" | "patch")), Some(length), Some(sum)) = (kind, length, sum) else {
        return Err(format!("{head:?} is not the head of a record"));
    };
    let body = &rest[line + 1..];
    if body.len() <= length {
        return Ok(None);
    }
    let (json, after) = body.split_at(length);
    if crc32fast::hash(json) != sum || after[0] != b'\n' {
        // The last record may have reached the disk in part.
        return if after.len() == 1 && kind == "patch" { Ok(None) } else { Err("a checksum is wrong".to_owned()) };
    }
    *rest = &after[1..];
    Ok(Some(if kind == "config" { Record::Config(json) } else { Record::Patch(json) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::{
        SharedHostConfig,
        host_config::{Gateways, Remotes, SideConfig},
        net::Vni,
    };

    fn json(number: u64) -> String {
        format!(r#"{{"revision":{{"epoch":1,"number":{number}}},"host":"h1","underlay":"192.0.2.1"}}"#)
    }

    fn config(number: u64) -> ValidHostConfig {
        serde_json::from_str::<HostConfig>(&json(number)).unwrap().try_into().unwrap()
    }

    fn patch(number: u64) -> Record<String> {
        Record::Patch(format!(
            r#"{{"base":{{"epoch":1,"number":{}}},"revision":{{"epoch":1,"number":{number}}}}}"#,
            number - 1
        ))
    }

    /// A ledger with a configuration and two patches.
    fn filled(folder: &Path) -> Ledger {
        let ledger = Ledger::new(folder.join("ledger"));
        ledger.store(&Record::Config(json(1)), &config(1)).unwrap();
        for number in [2, 3] {
            ledger.store(&patch(number), &config(number)).unwrap();
        }
        ledger
    }

    fn records(path: &Path) -> usize {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        std::iter::from_fn(|| take(&mut rest).unwrap()).count()
    }

    #[test]
    fn keeps_the_last_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path().join("ledger"));
        assert!(ledger.load().unwrap().is_none());
        for number in [1, 2] {
            ledger.store(&Record::Config(json(number)), &config(number)).unwrap();
            assert_eq!(ledger.load().unwrap().unwrap(), config(number));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_patch_is_added_behind_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = filled(folder.path());
        assert_eq!(records(&ledger.path), 3);
        // Another process has to read it before it can append to it.
        let again = Ledger::new(&ledger.path);
        assert_eq!(again.load().unwrap().unwrap(), config(3));
        again.store(&patch(4), &config(4)).unwrap();
        assert_eq!((records(&ledger.path), ledger.load().unwrap().unwrap()), (4, config(4)));
        Ledger::new(&ledger.path).store(&patch(5), &config(5)).unwrap();
        assert_eq!((records(&ledger.path), ledger.load().unwrap().unwrap()), (1, config(5)));
    }

    /// Sides become scoped, change and stop being scoped while others stay: merging patches gives what they led to.
    #[test]
    fn patches_of_scoped_sides_are_merged() {
        let side = |peering: &str, own: Option<&str>| SideConfig {
            peering: peering.parse().unwrap(),
            vpc: "a".parse().unwrap(),
            peer_vni: Vni::try_from(2000).unwrap(),
            peer_cidrs: vec!["10.2.0.0/16".parse().unwrap()],
            own_prefixes: own.map(|own| vec![own.parse().unwrap()]),
            remotes: Remotes::default(),
            limit: None,
            path_mtu: None,
            gateways: Gateways::default(),
        };
        let with = |number: u64, sides: &[(u32, SideConfig)]| {
            let mut config: HostConfig = serde_json::from_str(&json(number)).unwrap();
            config.sides = sides.iter().map(|(vni, side)| (Vni::try_from(*vni).unwrap(), side.clone())).collect();
            config
        };
        let (whole, part, less) = (side("p1", None), side("p1", Some("10.1.0.0/24")), side("p1", Some("10.1.0.0/25")));
        let other = side("p2", Some("10.1.9.0/24"));
        let steps = [
            with(1, &[(1001, whole.clone())]),
            with(2, &[(1001, part.clone()), (1002, other.clone())]),
            with(3, &[(1001, less), (1002, other.clone())]),
            with(4, &[(1001, whole), (1002, other)]),
            with(5, &[(1001, part)]),
            with(6, &[]),
        ];
        let mut all: Raw = serde_json::from_slice(&serde_json::to_vec(&steps[0]).unwrap()).unwrap();
        for pair in steps.windows(2) {
            let [before, after]: [HostConfig; 2] = pair.to_vec().try_into().unwrap();
            let [before, after] = [before, after].map(SharedHostConfig::from);
            let patch = HostPatch::between(&before, &after).unwrap();
            merge(&mut all, &serde_json::to_vec(&patch).unwrap()).unwrap();
            let merged: HostConfig = serde_json::from_slice(&serde_json::to_vec(&all).unwrap()).unwrap();
            assert_eq!(SharedHostConfig::from(merged), after);
        }
    }

    #[test]
    fn a_truncated_record_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = filled(folder.path());
        let whole = fs::read(&ledger.path).unwrap();
        let Record::Patch(last) = patch(3) else { panic!("it is a patch") };
        let second = whole.len() - head("patch", last.as_bytes()).len() - last.len() - 1;
        for length in second..whole.len() {
            fs::write(&ledger.path, &whole[..length]).unwrap();
            let reader = Ledger::new(&ledger.path);
            let found = reader.load().unwrap().unwrap();
            assert_eq!(found, config(2), "{length}");
        }
        // The next record replaces it.
        let reader = Ledger::new(&ledger.path);
        fs::write(&ledger.path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(reader.load().unwrap().unwrap(), config(2));
        reader.store(&patch(3), &config(3)).unwrap();
        assert_eq!(fs::read(&ledger.path).unwrap(), whole);
    }

    #[test]
    fn an_altered_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = filled(folder.path());
        let mut bytes = fs::read(&ledger.path).unwrap();
        bytes[60] ^= 1;
        fs::write(&ledger.path, bytes).unwrap();
        assert!(ledger.load().unwrap_err().to_string().contains("checksum"));
    }

    #[test]
    fn many_patches_become_one_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = filled(folder.path());
        let long = Record::Patch(vec![b' '; usize::try_from(FEW).unwrap()]);
        ledger.store(&long, &config(4)).unwrap();
        assert_eq!(records(&ledger.path), 4);
        ledger.store(&patch(5), &config(5)).unwrap();
        assert_eq!((records(&ledger.path), ledger.load().unwrap().unwrap()), (1, config(5)));
    }

    #[test]
    fn unknown_fields_of_a_newer_controller_outlive_many_patches() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path().join("ledger"));
        let first = json(1).replace(
            "\"host\"",
            "\"term\":5,\"vrfs\":{\"a\":{\"vni\":7,\"color\":\"red\"},\"b\":{\"vni\":8}},\"host\"",
        );
        let mut config: ValidHostConfig = serde_json::from_str::<HostConfig>(&first).unwrap().try_into().unwrap();
        ledger.store(&Record::Config(first), &config).unwrap();
        let mut number = 1;
        let mut push = |more: &str, ledger: &Ledger, config: &mut ValidHostConfig| {
            number += 1;
            let Record::Patch(text) = patch(number) else { panic!("it is a patch") };
            let text = text.replace("}}", &format!("}}{more}}}"));
            *config = config.patched(serde_json::from_str(&text).unwrap()).unwrap();
            ledger.store(&Record::Patch(text), config).unwrap();
        };
        push(&format!(",\"note\":\"{}\"", "x".repeat(usize::try_from(FEW).unwrap())), &ledger, &mut config);
        push(",\"vrfs\":{\"b\":null,\"c\":{\"vni\":9,\"color\":\"blue\"}},\"note\":\"short\"", &ledger, &mut config);
        assert_eq!((records(&ledger.path), ledger.load().unwrap().unwrap()), (1, config));
        let text = fs::read_to_string(&ledger.path).unwrap();
        let whole: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!((&whole["term"], &whole["note"]), (&5.into(), &"short".into()));
        assert_eq!(whole["vrfs"]["a"]["color"], "red");
        assert_eq!((&whole["vrfs"]["c"]["color"], whole["vrfs"].get("b")), (&"blue".into(), None));
    }

    #[test]
    fn ledgers_of_earlier_releases_are_read_and_of_later_ones_refused() {
        for release in ["0.1.0", "0.2.0"] {
            let folder = tempfile::tempdir().unwrap();
            let golden = format!("{}/../tests/golden/{release}/ledger", env!("CARGO_MANIFEST_DIR"));
            let path = folder.path().join("ledger");
            fs::copy(&golden, &path).unwrap();
            let config = Ledger::new(&path).load().unwrap().unwrap();
            assert_eq!((config.host.as_str(), config.revision.number, config.sides.len()), ("h1", 11, 2));
            // And continued.
            Ledger::new(&path).store(&patch(12), &config).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path().join("ledger"));
        ledger.store(&Record::Config(json(1).replacen('{', "{\"format\":3,", 1)), &config(1)).unwrap();
        let error = ledger.load().unwrap_err().to_string();
        assert!(error.contains("a newer release wrote it"), "{error}");
    }

    #[test]
    fn says_what_to_do_about_a_broken_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        for broken in ["{", "", "config 3 352441c2\nabc\n"] {
            fs::write(&path, broken).unwrap();
            let error = Ledger::new(&path).load().unwrap_err().to_string();
            assert!(error.contains("ledger") && error.contains("Move the file away"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        Ledger::new(&path).remove().unwrap();
        let ledger = Ledger::new(folder.path().join("missing/ledger"));
        let error = ledger.store(&Record::Config(json(1)), &config(1)).unwrap_err().to_string();
        assert!(error.contains("missing/ledger"), "{error}");
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn ledger() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        fuzz("ledger", |input| {
            fs::write(&path, input).unwrap();
            let ledger = Ledger::new(&path);
            if let Ok(Some(config)) = ledger.load() {
                assert_eq!(Ledger::new(&path).load().unwrap(), Some(config));
            }
        });
    }
}
