//! `openapi.json` is what the code says.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use cps_peering_controller::api::openapi_document;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[test]
fn the_checked_in_document_is_that_of_the_code() {
    let said = openapi_document().to_pretty_json().unwrap();
    let checked_in = include_str!("../openapi.json");
    assert!(
        said.trim_end() == checked_in.trim_end(),
        "controller/openapi.json is not what the code says. To renew it:\n\n    \
         cargo run -p cps-peering-controller -- --openapi > controller/openapi.json\n"
    );
}

/// The document has one name space: of two types with one name, it describes one only, and wrongly where the other is meant.
#[test]
fn no_two_types_of_the_interfaces_have_one_name() {
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let mut described = false;
            for line in text.lines() {
                described |= line.starts_with("#[derive(") && line.contains("ToSchema");
                let mut words =
                    line.split(|it: char| !it.is_alphanumeric()).skip_while(|it| !matches!(*it, "struct" | "enum"));
                if let (true, Some(name)) = (described, words.nth(1).filter(|_| !line.starts_with(['#', '/']))) {
                    let other = known.insert(name.to_owned(), path.clone());
                    assert!(
                        other.is_none(),
                        "{name} is in {} and in {}",
                        path.display(),
                        other.unwrap_or_default().display()
                    );
                    described = false;
                }
            }
        }
    }
    assert!(known.len() > 50, "the types were not found: {}", known.len());
}
