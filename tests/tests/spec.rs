//! `docs/spec.md` and its citations: every cited rule is defined, and every rule is named by a test.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where code and tests are.
const FOLDERS: [&str; 7] = [
    "agent",
    "config",
    "controller/src",
    "controller/tests",
    "controller/console/src",
    "controller/console/tests",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files of a folder and those below it that are written in a language with comments that [`comment`] knows.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "node_modules" {
            sources(&path, found);
        } else if ["rs", "py", "ts", "tsx"].iter().any(|end| path.extension().is_some_and(|it| it == *end)) {
            found.push(path);
        }
    }
}

/// The text of a line for people: a comment, or the first line of a docstring.
fn comment(line: &str) -> Option<&str> {
    let start = ["///", "//!", "//", "# ", "\"\"\"", "/*"];
    let line = line.trim();
    start.iter().find_map(|it| line.strip_prefix(it)).or_else(|| line.split_once(" // ").map(|(_, it)| it))
}

/// The names of rules in a text: one of C, L, B, V, P and a number, as a word.
fn rules(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| {
        let number = word.strip_prefix(['C', 'L', 'B', 'V', 'P']).unwrap_or_default();
        (1..=2).contains(&number.len()) && number.bytes().all(|it| it.is_ascii_digit())
    })
}

/// Where a test begins.
fn is_test(line: &str) -> bool {
    let line = line.trim_start();
    ["fn ", "async fn ", "def test_", "test("].iter().any(|it| line.starts_with(it))
}

/// The rules that the tests of a file name: in the comment above a test, or in its docstring.
fn named_by_tests(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut named = BTreeSet::new();
    for (number, _) in lines.iter().enumerate().filter(|(_, line)| is_test(line)) {
        let above: Vec<&str> = lines[..number].iter().rev().take_while(|it| !it.trim().is_empty()).copied().collect();
        // A function in Rust is a test by its attribute.
        let rust = lines[number].contains("fn ");
        if rust && !above.iter().any(|it| it.trim_start().starts_with("#[") && it.contains("test")) {
            continue;
        }
        let docstring = lines.get(number + 1).filter(|it| it.trim_start().starts_with("\"\"\""));
        let own = above.iter().take_while(|it| comment(it).is_some() || it.trim_start().starts_with(['#', '@']));
        let told = own.chain(docstring).filter_map(|it| comment(it));
        named.extend(told.flat_map(rules).map(str::to_owned));
    }
    named
}

/// The rules that the specification defines.
fn defined() -> BTreeSet<String> {
    let spec = fs::read_to_string(root().join("docs/spec.md")).unwrap();
    let names = spec.lines().filter_map(|line| line.strip_prefix("- **")?.split_once("**"));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_rule_that_is_cited_is_defined_and_every_rule_is_named_by_a_test() {
    let defined = defined();
    assert!(defined.len() > 25, "{defined:?}");
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root().join(folder), &mut files);
    }
    let mut unknown = BTreeMap::new();
    let mut tested = BTreeSet::new();
    for file in files.iter().filter(|it| !it.ends_with("tests/tests/spec.rs")) {
        let text = fs::read_to_string(file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for rule in comment(line).into_iter().flat_map(rules).filter(|it| !defined.contains(*it)) {
                unknown.insert(format!("{}:{}", file.display(), number + 1), rule.to_owned());
            }
        }
        tested.extend(named_by_tests(&text));
    }
    assert!(unknown.is_empty(), "cited, and not in docs/spec.md: {unknown:#?}");
    let untested: Vec<_> = defined.difference(&tested).collect();
    assert!(untested.is_empty(), "in docs/spec.md, and named by no test: {untested:?}");
}

#[test]
fn citations_are_found_where_they_are() {
    let rust = "/// L1, and (C10).\n#[test]\nfn one() {}\n\n/// L2\nfn helper() {}\n\nproptest! {\n    /// L3 to L4\n    #[test]\n    fn two(x in y) {}\n}\n";
    let python = "# L5: what follows\n\ndef test_x():\n    \"\"\"L6, V1: a sentence.\"\"\"\n";
    let typescript = "// V4.\ntest(\"the page\", async () => {\n  // L9\n});\n";
    let named = |text| named_by_tests(text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!([rust, python, typescript].map(named), ["C10 L1 L3 L4", "L6 V1", "V4"]);
    assert_eq!(rules("IPv4 V4 L123 xL1 B1_ Ipv4Net C5.").collect::<Vec<_>>(), ["V4", "C5"]);
    assert_eq!(comment("let x = 1; // B1"), Some("B1"));
    assert_eq!(comment("let x = IpNet::V4(B1);"), None);
}
