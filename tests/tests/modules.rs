//! Imports among modules: among the modules of one folder, each with all that is below it, there is no circle.
//!
//! What a folder's `mod.rs` and its children use of each other does not matter: they are one thing to those outside.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The roots of the workspace's crates: libraries, programs, integration tests.
fn roots() -> Vec<PathBuf> {
    let manifest: toml::Table = fs::read_to_string(workspace().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().clone();
    let of = |member: toml::Value| {
        let folder = workspace().join(member.as_str().unwrap());
        let mut roots: Vec<PathBuf> = ["src/lib.rs", "src/main.rs"].map(|root| folder.join(root)).into();
        for programs in ["src/bin", "tests"] {
            let entries = fs::read_dir(folder.join(programs)).into_iter().flatten();
            let found = entries.map(|entry| entry.unwrap().path());
            roots.extend(found.map(|it| if it.is_dir() { it.join("main.rs") } else { it }));
        }
        roots.retain(|root| root.extension().is_some_and(|it| it == "rs") && root.exists());
        assert!(!roots.is_empty(), "{member} has no root that this test knows");
        roots
    };
    members.into_iter().flat_map(of).collect()
}

/// A token of a source that matters here; `a::b` is one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Path(String),
    Sign(char),
}

/// Removes comments, strings and characters from a source, and splits the rest into tokens.
fn tokens(source: &str) -> Vec<Token> {
    let (mut rest, mut found) = (source, Vec::new());
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else if let Some(end) = raw_text(rest) {
            rest = &rest[end..];
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = end.map_or("", |end| &rest[end + 2..]);
        } else if first == '\'' {
            // A lifetime has no second quote.
            let length = if rest[1..].starts_with('\\') {
                rest[3..].find('\'').map(|end| end + 4)
            } else {
                let inner = rest[1..].chars().next().map_or(0, char::len_utf8);
                rest[1 + inner..].starts_with('\'').then_some(inner + 2)
            };
            rest = &rest[length.unwrap_or(1)..];
        } else if is_word(first) {
            let mut end = 0;
            loop {
                end += rest[end..].find(|c| !is_word(c)).unwrap_or(rest.len() - end);
                let Some(behind) = rest[end..].strip_prefix("::") else { break };
                if !behind.starts_with(is_word) {
                    break;
                }
                end += 2;
            }
            found.push(Token::Path(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            if !first.is_whitespace() {
                found.push(Token::Sign(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// Where a raw string at the beginning ends.
fn raw_text(source: &str) -> Option<usize> {
    let behind = source.strip_prefix('b').unwrap_or(source).strip_prefix('r')?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let text = behind[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(source.len() - text.len() + text.find(&end)? + end.len())
}

/// Removes what exists for tests only.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let text = |text: &str| self::tokens(text);
    if tokens.starts_with(&text("#![cfg(test)]")) {
        return Vec::new();
    }
    let begins = [text("#[cfg(test)]"), text("#[cfg(all(test,")];
    let (mut rest, mut found) = (tokens, Vec::new());
    while let Some(first) = rest.first() {
        if begins.iter().any(|begin| rest.starts_with(begin)) {
            rest = &rest[item_length(rest)..];
        } else {
            found.push(first.clone());
            rest = &rest[1..];
        }
    }
    found
}

/// How many tokens an item has, with its attributes: up to a semicolon, the end of its body or, of a field or an arm, the comma.
fn item_length(tokens: &[Token]) -> usize {
    const KEYWORDS: [&str; 12] =
        ["use", "mod", "fn", "struct", "enum", "union", "trait", "impl", "const", "static", "type", "let"];
    let (mut depth, mut keyword) = (0_usize, None);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Path(word) if depth == 0 && keyword.is_none() && KEYWORDS.contains(&word.as_str()) => {
                keyword = Some(word.as_str());
            }
            Token::Sign('{' | '[' | '(') => depth += 1,
            // The end of the enclosing block.
            Token::Sign('}' | ']' | ')') if depth == 0 => return at,
            Token::Sign(end @ ('}' | ']' | ')')) => {
                depth -= 1;
                let braces_end_it = !matches!(keyword, Some("use" | "const" | "static" | "type" | "let"));
                if depth == 0 && *end == '}' && braces_end_it {
                    return at + 1;
                }
            }
            Token::Sign(';') if depth == 0 => return at + 1,
            Token::Sign(',') if depth == 0 && keyword.is_none() => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The contents of one module.
#[derive(Debug, Default)]
struct Module {
    children: BTreeSet<String>,
    /// The children whose text is in the same file.
    inline: BTreeMap<String, Module>,
    /// What is defined in it.
    items: BTreeSet<String>,
    /// What it imports or re-exports, by the name that it has here; `*` for everything of a module.
    imports: BTreeMap<String, BTreeSet<String>>,
    /// The names that it uses, as a path or a single word; the latter may come from a glob import.
    paths: BTreeSet<String>,
}

/// The paths in a `use`, each with its name; returns how many tokens it has.
fn imports(tokens: &[Token], before: &str, found: &mut Vec<(String, String)>) -> usize {
    let joined = |path: &str| if before.is_empty() { path.to_owned() } else { format!("{before}::{path}") };
    let mut at = 0;
    let mut last: Option<String> = None;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Path(word) if word == "as" => {
                if let (Some(Token::Path(name)), Some(path)) = (tokens.get(at), last.take()) {
                    found.push((name.clone(), path.strip_suffix("::self").map(str::to_owned).unwrap_or(path)));
                }
                at += 1;
            }
            Token::Path(path) => last = Some(joined(path)),
            Token::Sign('{') => {
                let inner = last.take().unwrap_or_else(|| before.to_owned());
                at += imports(&tokens[at..], &inner, found);
            }
            Token::Sign('*') => found.push(("*".to_owned(), last.take().unwrap_or_else(|| before.to_owned()))),
            Token::Sign(end @ (',' | '}' | ';')) => {
                if let Some(path) = last.take() {
                    let path = path.strip_suffix("::self").map(str::to_owned).unwrap_or(path);
                    found.push((path.rsplit("::").next().unwrap_or_default().to_owned(), path));
                }
                if *end != ',' {
                    return at;
                }
            }
            Token::Sign(_) => {}
        }
    }
    at
}

fn read(source: &str) -> Module {
    parse(&without_tests(&tokens(source)))
}

fn parse(tokens: &[Token]) -> Module {
    const ITEMS: [&str; 8] = ["struct", "enum", "fn", "const", "static", "type", "trait", "union"];
    let mut module = Module::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Path(word) = token else { continue };
        match (word.as_str(), tokens.get(at), tokens.get(at + 1)) {
            ("use", ..) => {
                let mut found = Vec::new();
                at += imports(&tokens[at..], "", &mut found);
                for (name, path) in found {
                    module.imports.entry(name).or_default().insert(path);
                }
            }
            ("mod", Some(Token::Path(name)), Some(Token::Sign(';'))) => drop(module.children.insert(name.clone())),
            ("mod", Some(Token::Path(name)), Some(Token::Sign('{'))) => {
                let length = item_length(&tokens[at..]);
                module.inline.insert(name.clone(), parse(&tokens[at + 2..at + length - 1]));
                module.children.insert(name.clone());
                at += length;
            }
            (item, Some(Token::Path(name)), _) if ITEMS.contains(&item) => drop(module.items.insert(name.clone())),
            ("macro_rules", _, Some(Token::Path(name))) => drop(module.items.insert(name.clone())),
            (path, next, _) => {
                // Of single words, types, constants, functions and macros; fields and methods are not names of a module.
                let is_member = at > 1 && tokens[at - 2] == Token::Sign('.');
                let is_name = path.starts_with(char::is_uppercase) || matches!(next, Some(Token::Sign('(' | '!')));
                if path.contains("::") || (is_name && !is_member) {
                    module.paths.insert(path.to_owned());
                }
            }
        }
    }
    module
}

/// The modules of a crate, each by the names that lead to it from the crate's root.
type Crate = BTreeMap<Vec<String>, Module>;

/// Reads a file and those of its modules. A crate's modules are beside its root file, and so are those of a `mod.rs`.
fn load(file: &Path, place: &[String], found: &mut Crate) {
    let module = read(&fs::read_to_string(file).unwrap());
    let is_beside = place.is_empty() || file.ends_with("mod.rs");
    let folder: PathBuf = if is_beside { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    add(module, &folder, place, found);
}

/// Adds a module and its children: those in its text, and those whose files are in the folder.
fn add(mut module: Module, folder: &Path, place: &[String], found: &mut Crate) {
    for child in &module.children {
        let place = [place, std::slice::from_ref(child)].concat();
        let files = [folder.join(format!("{child}.rs")), folder.join(child).join("mod.rs")];
        if let Some(inline) = module.inline.remove(child) {
            add(inline, &folder.join(child), &place, found);
        } else if let Some(file) = files.iter().find(|file| file.exists()) {
            // A module with the attribute `path` is in no circle of this folder.
            load(file, &place, found);
        }
    }
    found.insert(place.to_owned(), module);
}

/// What a name refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Meaning {
    Module(Vec<String>),
    /// Something that this module defines.
    Item(Vec<String>),
}

/// Names that are being resolved, each in its module: imports may be circular.
type Seen = BTreeSet<(Vec<String>, String)>;

/// What a name refers to in a module; nothing if it is of another crate. `last`: nothing follows it in its path.
fn meanings_of_name(modules: &Crate, place: &[String], name: &str, last: bool, seen: &mut Seen) -> BTreeSet<Meaning> {
    let mut found = BTreeSet::new();
    let Some(module) = modules.get(place) else { return found };
    if !seen.insert((place.to_owned(), name.to_owned())) {
        return found;
    }
    let is_item = module.items.contains(name);
    if is_item {
        found.insert(Meaning::Item(place.to_owned()));
    }
    let child = [place, &[name.to_owned()]].concat();
    if modules.contains_key(&child) && !(last && is_item) {
        found.insert(Meaning::Module(child));
    }
    for path in module.imports.get(name).into_iter().flatten() {
        found.extend(meanings(modules, place, path, seen));
    }
    if found.is_empty() {
        // Each of the modules in glob imports may have it.
        for path in module.imports.get("*").into_iter().flatten() {
            for meaning in meanings(modules, place, path, seen) {
                if let Meaning::Module(of) = meaning {
                    found.extend(meanings_of_name(modules, &of, name, last, seen));
                }
            }
        }
    }
    found
}

/// What a path refers to in a module; nothing if it is of another crate.
fn meanings(modules: &Crate, from: &[String], path: &str, seen: &mut Seen) -> BTreeSet<Meaning> {
    let mut names = path.split("::").peekable();
    let first = names.next().unwrap_or_default();
    let mut found = match first {
        "crate" => BTreeSet::from([Meaning::Module(Vec::new())]),
        "self" => BTreeSet::from([Meaning::Module(from.to_owned())]),
        "super" => from.split_last().map(|(_, parent)| Meaning::Module(parent.to_owned())).into_iter().collect(),
        name => meanings_of_name(modules, from, name, names.peek().is_none(), seen),
    };
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        let mut next = BTreeSet::new();
        for meaning in found {
            match meaning {
                Meaning::Module(place) if name == "super" => {
                    next.extend(place.split_last().map(|(_, parent)| Meaning::Module(parent.to_owned())));
                }
                Meaning::Module(place) => {
                    let inner = meanings_of_name(modules, &place, name, last, seen);
                    // What a macro has defined is not seen.
                    next.extend(if inner.is_empty() { BTreeSet::from([Meaning::Item(place)]) } else { inner });
                }
                item @ Meaning::Item(_) => drop(next.insert(item)),
            }
        }
        found = next;
    }
    found
}

/// Which modules of each folder use which others, with an example.
type Uses = BTreeMap<Vec<String>, BTreeMap<String, BTreeMap<String, String>>>;

fn uses(modules: &Crate) -> Uses {
    let mut found = Uses::new();
    for (place, module) in modules {
        for path in module.imports.values().flatten().chain(&module.paths) {
            for meaning in meanings(modules, place, path, &mut Seen::new()) {
                let (Meaning::Module(of) | Meaning::Item(of)) = meaning;
                let common = place.iter().zip(&of).take_while(|(one, other)| one == other).count();
                if common < place.len() && common < of.len() {
                    let example = format!("{} uses {path}", place.join("::"));
                    let folder = found.entry(place[..common].to_vec()).or_default();
                    folder.entry(place[common].clone()).or_default().entry(of[common].clone()).or_insert(example);
                }
            }
        }
    }
    found
}

/// The path from one module to another along these uses, with the examples; none if there is none.
fn way(uses: &BTreeMap<String, BTreeMap<String, String>>, from: &str, to: &str) -> Option<Vec<String>> {
    let mut reached: BTreeMap<&str, Vec<String>> = BTreeMap::from([(from, Vec::new())]);
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for (used, example) in uses.get(module).into_iter().flatten() {
            let so_far = [reached[module].as_slice(), std::slice::from_ref(example)].concat();
            if used == to {
                return Some(so_far);
            }
            if !reached.contains_key(used.as_str()) {
                reached.insert(used, so_far);
                next.push(used);
            }
        }
    }
    None
}

fn circles(modules: &Crate) -> Vec<Vec<String>> {
    let found = uses(modules);
    let folders = found.values();
    folders.flat_map(|uses| uses.keys().filter_map(|module| way(uses, module, module))).collect()
}

#[test]
fn modules_of_a_folder_do_not_import_each_other_in_a_circle() {
    for root in roots() {
        let mut modules = Crate::new();
        load(&root, &[], &mut modules);
        // A parser that finds nothing finds no circle. Files of an integration test may well have nothing in common.
        let is_test = root.ancestors().skip(1).take(2).any(|it| it.ends_with("tests"));
        let root = root.display();
        let count: usize = uses(&modules).values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        assert!(
            modules.len() < 4 || is_test || count >= modules.len() / 4,
            "{root}: {count} uses among {} modules",
            modules.len()
        );
        let circles = circles(&modules);
        assert!(circles.is_empty(), "{root}: modules that use each other: {circles:#?}");
    }
}

/// A crate of these modules, each with its text.
fn of(files: &[(&str, &str)]) -> Crate {
    let mut modules = Crate::new();
    for (path, text) in files {
        let place: Vec<String> = path.split('/').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        add(read(text), Path::new("/nowhere"), &place, &mut modules);
    }
    modules
}

#[test]
fn a_circle_is_found_through_reexports_and_across_folders() {
    let roots = "mod a; mod b; pub use b::Thing;";
    let circle =
        of(&[("", roots), ("a", "use crate::Thing; pub struct Own;"), ("b", "pub struct Thing(super::a::Own);")]);
    assert_eq!(circles(&circle).len(), 2, "{:#?}", uses(&circle));
    let below = of(&[
        ("", "mod a; mod b;"),
        ("a", "mod c; mod d;"),
        ("a/c", "use crate::b::{self, X as Y}; fn it() { b::run::<Y>() }"),
        ("a/d", "pub enum D {}"),
        ("b", "use super::a::d::D; pub struct X; pub fn run() {}"),
    ]);
    assert_eq!(circles(&below).len(), 2, "{:#?}", uses(&below));
    let none = "/* use super::a; */ pub struct Thing; const C: &str = \"crate::a::Own\"; // crate::a::Own\n\
                #[cfg(test)]\nuse crate::a::{Own, X};\n#[cfg(test)]\nmod tests { use crate::a::Own; fn f() {} }";
    let straight = of(&[("", roots), ("a", "use crate::Thing; pub struct Own;"), ("b", none)]);
    assert!(circles(&straight).is_empty(), "{:#?}", uses(&straight));
    let raw = "const R: &str = r#\"use crate::a::Own; \"#; fn f<'a>(it: &'a str) -> char { '\"' } pub struct Thing;";
    let raw = of(&[("", roots), ("a", "use crate::Thing; pub struct Own;"), ("b", raw)]);
    assert!(circles(&raw).is_empty(), "{:#?}", uses(&raw));
}

#[test]
fn a_circle_is_found_through_glob_imports() {
    const OWN: &str = "use crate::b::Thing; pub struct Own; pub fn make() {}";
    const THING: &str = "pub struct Thing(super::a::Own);";
    let circle = |files: &[(&str, &str)]| {
        let modules = of(files);
        assert_eq!(circles(&modules).len(), 2, "{:#?}", uses(&modules));
    };
    // From the parent, which re-exports it: as a type, a function, a module.
    let again = ("", "mod a; mod b; pub use a::{Own, make};");
    circle(&[again, ("a", OWN), ("b", "use super::*; pub struct Thing(Own);")]);
    circle(&[again, ("a", OWN), ("b", "pub struct Thing; use crate::*; fn f() { make() }")]);
    circle(&[again, ("a", OWN), ("b", "pub struct Thing; use super::*; fn f() { a::make() }")]);
    // From several, of which the second has it.
    let other = ("c", "pub struct Other;");
    let roots = |line: &'static str| ("", line);
    circle(&[
        roots("mod a; mod b; mod c; pub use {b::*, c::*};"),
        ("a", "use crate::Thing; pub struct Own;"),
        ("b", THING),
        other,
    ]);
    circle(&[
        roots("mod a; mod b; mod c; pub use self::{c::*, b::*};"),
        ("a", "use super::*; pub struct Own(Thing);"),
        ("b", THING),
        other,
    ]);
    // Circular imports terminate, and a name of the module itself is not an imported one.
    let own = "use super::*; pub struct Thing; pub struct Own(Thing);";
    let straight = of(&[("", "mod a; mod b; pub use {a::*, b::*};"), ("a", own), ("b", THING)]);
    assert!(circles(&straight).is_empty(), "{:#?}", uses(&straight));
    let method = "pub struct Thing; use super::*; fn f(it: &Thing) { it.make() }";
    let straight = of(&[again, ("a", OWN), ("b", method)]);
    assert!(circles(&straight).is_empty(), "{:#?}", uses(&straight));
}

#[test]
fn a_circle_is_found_despite_items_for_tests() {
    let own = ("a", "use crate::b::Thing; pub struct Own;");
    for thing in [
        "#[cfg(test)] mod tests { use std::io; fn f() {} } use crate::a::Own; pub struct Thing(Own);",
        "#[cfg(test)] fn f() { use std::{io}; } pub struct Thing(crate::a::Own);",
        "#[cfg(test)] use std::{io, fs}; use crate::a::Own; pub struct Thing(Own);",
        "#[cfg(test)] const F: [S; 1] = [S { it: 1 }]; use crate::a::Own; pub struct Thing(Own);",
        "pub struct Thing { #[cfg(test)] it: u8, own: crate::a::Own }",
        "pub struct Thing { own: u8, #[cfg(test)] it: u8 } impl Thing { fn f(it: crate::a::Own) {} }",
        "#[cfg(test)] #[allow(dead_code)] fn f<A, B>(it: A) { } use crate::a::Own; pub struct Thing(Own);",
    ] {
        let circle = of(&[("", "mod a; mod b;"), own, ("b", thing)]);
        assert_eq!(circles(&circle).len(), 2, "{thing}: {:#?}", uses(&circle));
    }
    for thing in [
        "pub struct Thing; #[cfg(test)] mod tests { mod inner { use crate::a::Own; } use crate::a::Own; }",
        "pub struct Thing; #[cfg(all(test, unix))] use crate::a::Own;",
        "#![cfg(test)] pub struct Thing(crate::a::Own);",
        "pub struct Thing { #[cfg(test)] own: crate::a::Own }",
    ] {
        let straight = of(&[("", "mod a; mod b;"), own, ("b", thing)]);
        assert!(circles(&straight).is_empty(), "{thing}: {:#?}", uses(&straight));
    }
}

#[test]
fn a_circle_is_found_through_inline_modules() {
    let inline =
        of(&[("", "mod a { pub struct Own(super::b::Thing); } mod b { use super::a::Own; pub struct Thing; }")]);
    assert_eq!(circles(&inline).len(), 2, "{:#?}", uses(&inline));
    // `super` is the enclosing module, not another one.
    let around = "pub struct Own; mod inner { pub use super::super::b::Thing; fn f(own: super::Own) {} }";
    let below = of(&[("", "mod a; mod b;"), ("a", around), ("b", "pub struct Thing(crate::a::Own);")]);
    assert_eq!(circles(&below).len(), 2, "{:#?}", uses(&below));
    let straight = of(&[
        ("", "mod a; mod b;"),
        ("a", "mod inner { use super::Own; } pub struct Own;"),
        ("b", "use crate::a::Own;"),
    ]);
    assert!(circles(&straight).is_empty(), "{:#?}", uses(&straight));
}

#[test]
fn programs_and_integration_tests_are_among_the_roots() {
    let roots = roots();
    for root in [
        "tests/src/bin/forward.rs",
        "tests/src/bin/bench/main.rs",
        "tests/tests/lab/main.rs",
        "controller/tests/all/main.rs",
    ] {
        assert!(roots.contains(&workspace().join(root)), "{root}");
    }
}
