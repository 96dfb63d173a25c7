//! `openapi.json` matches the code.

use cps_peering_controller::api::openapi_document;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[test]
fn the_checked_in_document_is_that_of_the_code() {
    let said = serde_json::to_string_pretty(&openapi_document()).unwrap();
    let checked_in = include_str!("../../openapi.json");
    assert!(
        said.trim_end() == checked_in.trim_end(),
        "controller/openapi.json is not what the code says. To renew it:\n\n    \
         cargo run -p cps-peering-controller -- --openapi > controller/openapi.json\n"
    );
}

/// For generated clients and readers: each operation has a description, and an example of request and response.
#[test]
fn every_operation_has_words_and_examples() {
    let document = openapi_document();
    assert_eq!(document["servers"][0]["url"], "/");
    let mut count = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for operation in methods.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            for text in ["summary", "description"] {
                assert!(operation[text].as_str().is_some_and(|text| !text.is_empty()), "{id}: {text}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let said = parameter["description"].as_str().is_some_and(|text| !text.is_empty());
                assert!(said, "{id}: parameter {}", parameter["name"]);
            }
            let asked = &operation["requestBody"];
            assert!(asked.is_null() || !asked["content"]["application/json"]["example"].is_null(), "{id}: body");
            for (media_type, content) in operation["responses"]["200"]["content"].as_object().unwrap() {
                assert!(!content["example"].is_null(), "{id} {path}: {media_type}");
                if media_type == "application/json" {
                    assert!(!content["example"]["result"].is_null(), "{id} {path}: what is answered");
                }
            }
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
    // Each example is of an operation.
    let text = document.to_string();
    let examples: serde_json::Value =
        serde_json::from_str(include_str!("../../src/api/openapi/examples.json")).unwrap();
    for id in examples.as_object().unwrap().keys() {
        assert!(text.contains(&format!("\"operationId\":\"{id}\"")), "there is no operation {id}");
    }
}

/// Field names follow one convention.
#[test]
fn every_field_is_in_camel_case() {
    let document = openapi_document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
            assert!(!field.contains('_'), "{name}: {field}");
        }
    }
}

/// The document has one name space: if two types have the same name, only one of them is described.
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
