//! Inputs for the fuzz targets of all crates, which include this file: seeds of the repository, mutated in many ways.
//!
//! Each target is a test: it runs every seed as it is, and a bounded number of mutations. `tests/fuzz` runs them for
//! long. Failures are shrunk, and shown as bytes.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use std::{
    fs,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// How many inputs a target is run with by default.
const RUNS: u32 = 2000;

/// One mutation of an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, usize),
    Cut(prop::sample::Index),
    /// Bytes with a meaning to many parsers.
    Word(prop::sample::Index, prop::sample::Index),
}

const WORDS: [&[u8]; 16] = [
    b"\"",
    b"\\u0000",
    b"{}",
    b"[",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"%00",
    b"%2F",
    b"=",
    b"&",
    b"\n",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    "\u{202e}".as_bytes(),
];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..64_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..64_usize, 1..64_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        at().prop_map(Change::Cut),
        (at(), at()).prop_map(|(at, word)| Change::Word(at, word)),
    ]
}

fn apply(mut input: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let at = |at: &prop::sample::Index| at.index(input.len() + 1);
        match change {
            Change::Flip(place, byte) => {
                let place = at(place);
                if let Some(it) = input.get_mut(place) {
                    *it ^= byte;
                }
            }
            Change::Insert(place, bytes) => {
                let place = at(place);
                drop(input.splice(place..place, bytes.iter().copied()));
            }
            Change::Remove(place, length) => {
                let place = at(place);
                drop(input.drain(place..input.len().min(place + length)));
            }
            Change::Repeat(place, length, times) => {
                let place = at(place);
                let part = input[place..input.len().min(place + length)].repeat(*times);
                drop(input.splice(place..place, part));
            }
            Change::Cut(place) => {
                let place = at(place);
                input.truncate(place);
            }
            Change::Word(place, word) => {
                let place = at(place);
                drop(input.splice(place..place, word.get(&WORDS).iter().copied()));
            }
        }
    }
    input
}

/// Runs a target with the seeds in a folder of the crate, `fuzz/NAME`, and mutations of them. It must not panic.
pub(crate) fn fuzz(name: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} has no seeds", folder.display());
    for seed in &seeds {
        target(seed);
    }
    let said = std::env::var("CPS_PEERING_FUZZ_RUNS").ok();
    let cases = said.map_or(RUNS, |runs| runs.parse().expect("CPS_PEERING_FUZZ_RUNS is a number"));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let inputs = (prop::sample::select(seeds), vec(change(), 0..12)).prop_map(|(seed, changes)| apply(seed, &changes));
    let ran = TestRunner::new(config).run(&inputs, |input| {
        catch_unwind(AssertUnwindSafe(|| target(&input)))
            .map_err(|_| TestCaseError::fail(format!("{name}: {}", input.escape_ascii())))
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    // For those who want to know how much was run.
    let _ = writeln!(std::io::stderr(), "fuzz {name}: {cases} inputs of {} seeds", files.len());
}
