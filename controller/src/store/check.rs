//! Which parts of a damaged store can be read, and what is lost.

use super::{
    Store, StoreError,
    embedded::{AUDIT, PERIODS, RECORDS, TRAFFIC, told},
    raw::{Page, PeriodKey},
    records::RowCodec,
    retained::Retained,
};
use crate::{audit::Entry, model::metering::Period};
use cps_peering_config::text::shorten;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// How many lost rows are named of each kind.
const NAMED: usize = 50;
/// The kinds of rows.
const NAMES: [&str; 4] = ["records", "entries of the audit trail", "closed periods", "counters"];

/// The findings about a store.
#[derive(Debug, Default)]
pub struct Report {
    path: PathBuf,
    /// Why it cannot be used as it is; none if nothing is wrong.
    damage: Option<String>,
    kinds: Vec<Kind>,
    /// The records of a backup that are lost or differ: the backup, and their keys.
    compared: Option<(PathBuf, Vec<String>)>,
}

/// The findings about one kind of rows.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    /// The number of readable rows.
    read: usize,
    /// The problems.
    wrong: Vec<String>,
    /// How many of these are rows of a newer release, which it can read.
    newer: usize,
}

/// Why a row cannot be read.
struct Unreadable {
    why: String,
    is_newer: bool,
}

impl Kind {
    fn new(name: &'static str) -> Self {
        Self { name, read: 0, wrong: Vec::new(), newer: 0 }
    }

    /// Counts a row.
    fn note(&mut self, read: Result<(), Unreadable>) {
        match read {
            Ok(()) => self.read += 1,
            Err(Unreadable { why, is_newer }) => {
                self.wrong.push(shorten(&why));
                self.newer += usize::from(is_newer);
            }
        }
    }
}

impl Report {
    /// Compares with the records of a backup, if there is one.
    fn compare(&mut self, records: &BTreeMap<String, Vec<u8>>, with: Option<&Path>) -> Result<(), StoreError> {
        let Some(with) = with else { return Ok(()) };
        let copy = Copied::of_copy(with)?;
        let mut other = Report { path: with.to_owned(), ..Report::default() };
        let wanted = read(&copy.file, &mut other);
        let lost = wanted.into_iter().filter(|(key, value)| records.get(key) != Some(value)).map(|(key, _)| key);
        self.compared = Some((with.to_owned(), lost.collect()));
        Ok(())
    }

    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.damage.is_none() && self.kinds.iter().all(|kind| kind.wrong.is_empty())
    }

    /// Whether the only problems are rows of a newer release.
    pub fn is_newer(&self) -> bool {
        !self.is_whole() && self.damage.is_none() && self.kinds.iter().all(|kind| kind.wrong.len() == kind.newer)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.damage {
            Some(damage) => writeln!(f, "store {} is damaged: {damage}", self.path.display()),
            None if self.is_whole() => writeln!(f, "store {} is whole", self.path.display()),
            None if self.is_newer() => {
                writeln!(f, "store {} is of a newer release, and not damaged", self.path.display())
            }
            None => writeln!(f, "store {} has rows that cannot be read", self.path.display()),
        }?;
        for Kind { name, read, wrong, newer: _ } in &self.kinds {
            writeln!(f, "{name}: {read} can be read, {} problems", wrong.len())?;
            for text in wrong.iter().take(NAMED) {
                writeln!(f, "  {text}")?;
            }
        }
        if let Some((copy, lost)) = &self.compared {
            writeln!(f, "compared with {}: {} of its records are lost or another", copy.display(), lost.len())?;
            for key in lost.iter().take(NAMED) {
                writeln!(f, "  {key}")?;
            }
        }
        Ok(())
    }
}

/// The same for a store in etcd, which others may use: all rows as of one moment.
pub fn check_shared(store: &Store, with: Option<&Path>) -> Result<Report, StoreError> {
    let mut report = Report { path: store.place().to_owned(), ..Report::default() };
    let retained = Retained::default();
    let codec = RowCodec { place: store.place(), retained: &retained };
    let mut kinds = NAMES.map(Kind::new);
    let mut records = BTreeMap::new();
    store.dump(&mut |page| {
        let (kind, found): (usize, Vec<Result<(), Unreadable>>) = match page {
            Page::Records(rows) => {
                let found = rows.iter().map(|(key, value)| record(codec, key, value)).collect();
                records.extend(rows);
                (0, found)
            }
            Page::Audit(rows) => (1, rows.iter().map(|(number, value)| entry(&entry_key(*number), value)).collect()),
            Page::Periods(rows) => {
                let key = |(payer, to, peering, from): &PeriodKey| period_key((payer, *to, peering, *from));
                (2, rows.iter().map(|(id, value)| period(&key(id), value)).collect())
            }
            Page::Traffic(rows) => {
                (3, rows.iter().map(|(peering, vni, value)| counters(&side_key((peering, *vni)), value)).collect())
            }
        };
        for found in found {
            kinds[kind].note(found);
        }
        Ok(())
    })?;
    report.kinds = kinds.into();
    report.compare(&records, with)?;
    Ok(report)
}

/// Checks a file that no controller uses, and compares its records with those of a backup if there is one. The file is not
/// changed: a copy in the folder for temporary files is examined.
pub fn check(path: &Path, with: Option<&Path>) -> Result<Report, StoreError> {
    let mut report = Report { path: path.to_owned(), ..Report::default() };
    let looked_at = Copied::of(path)?;
    // First by checksums; then, row by row, what can be read nevertheless.
    report.damage = match super::embedded::open(&looked_at.file, true) {
        Ok(_) => None,
        Err(StoreError::Damaged { message, .. }) => Some(message),
        Err(error) => Some(error.to_string()),
    };
    let looked_at = Copied::of(path)?;
    let records = read(&looked_at.file, &mut report);
    report.compare(&records, with)?;
    Ok(report)
}

/// A temporary copy, removed with the value.
struct Copied {
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Copied {
    fn of(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Database {
            path: path.to_owned(),
            what: "copy it to look at it",
            source: Box::new(redb::Error::Io(error)),
        };
        let folder = tempfile::tempdir().map_err(failed)?;
        let file = folder.path().join("copy");
        fs::copy(path, &file).map_err(failed)?;
        Ok(Self { file, _folder: folder })
    }

    /// Of a backup, if it is one and whole: its store.
    fn of_copy(path: &Path) -> Result<Self, StoreError> {
        let copied = Self::of(path)?;
        let unpacked = copied.file.with_extension("unpacked");
        if super::copy::unpack(path, &unpacked).is_ok() {
            return Ok(Self { file: unpacked, ..copied });
        }
        Ok(copied)
    }
}

/// Reads all readable rows. Returns the records.
fn read(path: &Path, report: &mut Report) -> BTreeMap<String, Vec<u8>> {
    let mut records = BTreeMap::new();
    let opened = catch_unwind(AssertUnwindSafe(|| Database::builder().open(path)));
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => {
            report.damage.get_or_insert(format!("nothing can be read: {error}"));
            return records;
        }
        Err(panic) => {
            report.damage.get_or_insert(format!("nothing can be read: {}", told(&*panic)));
            return records;
        }
    };
    let retained = Retained::default();
    let codec = RowCodec { place: path, retained: &retained };
    let mut kinds = Vec::new();
    kinds.push(rows(&database, NAMES[0], RECORDS, str::to_owned, |key, value| {
        records.insert(key.to_owned(), value.to_owned());
        record(codec, key, value)
    }));
    kinds.push(rows(&database, NAMES[1], AUDIT, entry_key, entry));
    kinds.push(rows(&database, NAMES[2], PERIODS, period_key, period));
    kinds.push(rows(&database, NAMES[3], TRAFFIC, side_key, counters));
    report.kinds = kinds;
    records
}

fn record(codec: RowCodec<'_>, key: &str, value: &[u8]) -> Result<(), Unreadable> {
    let read = codec.change(key, Some(value)).map(drop);
    read.map_err(|error| Unreadable { is_newer: error.is_newer(), why: error.to_string() })
}

fn json<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<(), Unreadable> {
    let read = serde_json::from_slice::<T>(value).map(drop);
    read.map_err(|error| Unreadable { is_newer: false, why: format!("{key}: {error}") })
}

fn entry(key: &str, value: &[u8]) -> Result<(), Unreadable> {
    json::<Entry>(key, value)
}

fn period(key: &str, value: &[u8]) -> Result<(), Unreadable> {
    json::<Period>(key, value)
}

fn counters(key: &str, value: &[u8]) -> Result<(), Unreadable> {
    json::<Value>(key, value)
}

fn entry_key(number: u64) -> String {
    format!("audit/{number}")
}

fn period_key((payer, to, peering, from): (&str, u64, &str, u64)) -> String {
    format!("period/{payer}/{to}/{peering}/{from}")
}

fn side_key((peering, vni): (&str, u32)) -> String {
    format!("traffic/{peering}/{vni}")
}

/// Reads the rows of one table: from the beginning to what cannot be read, and from the end back to it.
fn rows<K: redb::Key + 'static>(
    database: &Database,
    name: &'static str,
    definition: TableDefinition<'static, K, &'static [u8]>,
    key_of: impl for<'a> Fn(K::SelfType<'a>) -> String,
    mut take: impl FnMut(&str, &[u8]) -> Result<(), Unreadable>,
) -> Kind {
    let mut kind = Kind::new(name);
    let mut ends: [Option<String>; 2] = [None, None];
    let mut seen = BTreeSet::new();
    for backwards in [false, true] {
        let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<(), redb::Error> {
            let table = match database.begin_read()?.open_table(definition) {
                Ok(table) => table,
                // An older version has not created it.
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut rows = table.iter()?;
            while let Some(row) = if backwards { rows.next_back() } else { rows.next() } {
                let (key, value) = row?;
                let key = key_of(key.value());
                ends[usize::from(backwards)] = Some(key.clone());
                if seen.insert(key.clone()) {
                    kind.note(take(&key, value.value()));
                }
            }
            Ok(())
        }));
        match attempt {
            Ok(Ok(())) => return kind,
            Ok(Err(error)) => kind.wrong.push(shorten(&error.to_string())),
            Err(panic) => kind.wrong.push(told(&*panic)),
        }
    }
    let place = |key: &Option<String>, end: &str| key.clone().unwrap_or_else(|| end.to_owned());
    let [first, last] = &ends;
    kind.wrong.push(format!(
        "what is between {} and {} is lost",
        place(first, "the beginning"),
        place(last, "the end")
    ));
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            record::Region,
            state::{Change, Meta},
        },
        store::Store,
    };
    use std::os::unix::fs::FileExt;

    fn filled(path: &Path, regions: usize) {
        let store = Store::open(path).unwrap();
        for number in 0..regions {
            let id: cps_peering_config::id::RegionId = format!("region-{number:06}").parse().unwrap();
            let change =
                Change::Region(id.clone(), Some(Region { id, managed_by: crate::model::record::Manager::Unknown }));
            let meta = Meta { number: number as u64 + 1, ..Meta::default() };
            store.commit(&[change, Change::Meta(meta)], &[], &[], number as u64).unwrap();
        }
    }

    #[test]
    fn a_whole_store_is_reported_as_such_and_compared_with_its_backup() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        filled(&store, 20);
        Store::open(&store).unwrap().back_up(&copy).unwrap();
        let before = fs::read(&store).unwrap();
        let report = check(&store, Some(&copy)).unwrap();
        assert!(report.is_whole(), "{report}");
        assert!(report.to_string().contains("records: 21 can be read, 0 problems"), "{report}");
        assert!(report.to_string().contains("0 of its records are lost"), "{report}");
        assert_eq!(fs::read(&store).unwrap(), before, "it stays as it is");
    }

    #[test]
    fn a_store_of_a_newer_release_is_not_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
        filled(&path, 3);
        Store::open(&path).unwrap().back_up(&copy).unwrap();
        let meta = {
            let store = Store::open(&path).unwrap();
            let newer = br#"{"format":99,"id":"region-1"}"#.to_vec();
            let batch = super::super::raw::Batch {
                records: vec![("region/region-1".to_owned(), Some(newer))],
                ..Default::default()
            };
            store.backend.write("make it newer", &batch).unwrap();
            let error = store.load().unwrap_err();
            assert!(error.is_newer() && error.is_lasting() && !error.is_damage(), "{error}");
            store.meta().unwrap()
        };
        let report = check(&path, None).unwrap();
        let said = report.to_string();
        assert!(report.is_newer() && said.contains("of a newer release, and not damaged"), "{said}");
        // It is not replaced as if it were lost.
        let error = Store::restore(&copy, &path, Some(9), crate::store::Origin::Same).unwrap_err().to_string();
        assert!(error.contains("a newer release wrote it. Install that release"), "{error}");
        assert_eq!(Store::open(&path).unwrap().meta().unwrap(), meta, "it is as it was");
    }

    #[test]
    fn damage_anywhere_in_a_file_is_an_error_with_one_sentence_or_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (store, damaged) = (folder.path().join("store.redb"), folder.path().join("damaged"));
        filled(&store, 60);
        let whole = Store::open(&store).unwrap().load().unwrap();
        let length = fs::metadata(&store).unwrap().len();
        let (mut refused, mut unharmed) = (0, 0);
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let mut places: Vec<u64> = (0..64).map(|part| length / 64 * part + 64).collect();
        places.extend((0..40).map(|byte| byte * 16));
        for (turn, at) in places.into_iter().enumerate() {
            fs::copy(&store, &damaged).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&damaged).unwrap();
            match turn % 3 {
                0 => file.write_all_at(&[0xff; 256], at).unwrap(),
                1 => file.write_all_at(&[0; 4096], at / 4096 * 4096).unwrap(),
                _ => file.set_len(at).unwrap(),
            }
            drop(file);
            match Store::open(&damaged).and_then(|opened| opened.load()) {
                // Bytes without meaning, or a file that begins anew because it is empty.
                Ok(state) if state == whole || fs::metadata(&damaged).is_ok_and(|it| it.len() == 0) => unharmed += 1,
                Ok(state) => panic!("damage at {at} is not noticed: {} regions", state.regions().len()),
                Err(error @ (StoreError::Damaged { .. } | StoreError::Database { .. })) => {
                    refused += 1;
                    assert!(!error.to_string().contains('\n'), "{error}");
                    let report = check(&damaged, Some(&store)).unwrap();
                    assert!(!report.is_whole(), "{report}");
                }
                Err(error) => panic!("{at}: {error}"),
            }
        }
        std::panic::set_hook(quiet);
        assert!(refused > 10 && unharmed > 10, "{refused} refused, {unharmed} unharmed");
    }
}
