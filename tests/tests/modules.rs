//! How modules import each other: among the modules of one folder, with all that is below each, there is no circle.
//!
//! What a folder's `mod.rs` and its children use of each other is their own matter: they are one thing to those outside.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Tests that are programs of several files.
const TESTS: [&str; 2] = ["tests/tests/lab/main.rs", "tests/tests/system/main.rs"];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where the crates of the workspace begin.
fn roots() -> Vec<PathBuf> {
    let manifest: toml::Table = fs::read_to_string(workspace().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().clone();
    let of = |member: toml::Value| {
        let folder = workspace().join(member.as_str().unwrap()).join("src");
        let roots: Vec<PathBuf> =
            ["lib.rs", "main.rs"].map(|root| folder.join(root)).into_iter().filter(|it| it.exists()).collect();
        assert!(!roots.is_empty(), "{member} has no root that this test knows");
        roots
    };
    members.into_iter().flat_map(of).chain(TESTS.map(|root| workspace().join(root))).collect()
}

/// The words and signs of a source that matter here; `a::b` is one word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Path(String),
    Sign(char),
}

/// Takes comments, texts and characters out of a source, and cuts the rest into words and signs.
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

/// Where a raw text at the beginning ends.
fn raw_text(source: &str) -> Option<usize> {
    let behind = source.strip_prefix('b').unwrap_or(source).strip_prefix('r')?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let text = behind[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(source.len() - text.len() + text.find(&end)? + end.len())
}

/// Takes out what is there for tests alone.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let path = |word: &str| Token::Path(word.to_owned());
    let begin = [Token::Sign('#'), Token::Sign('['), path("cfg"), Token::Sign('('), path("test"), Token::Sign(')')];
    let (mut rest, mut found) = (tokens, Vec::new());
    while let Some(first) = rest.first() {
        if !rest.starts_with(&begin) {
            found.push(first.clone());
            rest = &rest[1..];
            continue;
        }
        // To the end of the item: a semicolon, or its body.
        let (mut depth, mut is_import) = (0_usize, false);
        let end = rest.iter().position(|token| {
            is_import |= *token == path("use");
            match token {
                Token::Sign('{' | '[' | '(') => depth += 1,
                Token::Sign('}' | ']' | ')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && (*token == Token::Sign(';') || (*token == Token::Sign('}') && !is_import))
        });
        rest = end.map_or(&[], |end| &rest[end + 1..]);
    }
    found
}

/// What one file says.
#[derive(Debug, Default)]
struct Module {
    children: BTreeSet<String>,
    /// What is defined in it.
    items: BTreeSet<String>,
    /// What it imports or exports again, by the name that it has here; `*` for everything of a module.
    imports: BTreeMap<String, BTreeSet<String>>,
    /// What it names by a path.
    paths: BTreeSet<String>,
}

/// The paths that a `use` names, each with its name; returns how many tokens it has.
fn imports(tokens: &[Token], before: &str, found: &mut Vec<(String, String)>) -> usize {
    let joined = |path: &str| if before.is_empty() { path.to_owned() } else { format!("{before}::{path}") };
    let mut at = 0;
    let mut last: Option<String> = None;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Path(word) if word == "as" => {
                if let (Some(Token::Path(name)), Some(path)) = (tokens.get(at), last.take()) {
                    found.push((name.clone(), path));
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
    const ITEMS: [&str; 8] = ["struct", "enum", "fn", "const", "static", "type", "trait", "union"];
    let tokens = without_tests(&tokens(source));
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
            (item, Some(Token::Path(name)), _) if ITEMS.contains(&item) => drop(module.items.insert(name.clone())),
            ("macro_rules", _, Some(Token::Path(name))) => drop(module.items.insert(name.clone())),
            (path, ..) if path.contains("::") => drop(module.paths.insert(path.to_owned())),
            _ => {}
        }
    }
    module
}

/// The modules of a crate, each by the names that lead to it from the crate's root.
type Crate = BTreeMap<Vec<String>, Module>;

/// Reads a file and those of its modules. A crate's root lies beside them, and so does a `mod.rs`.
fn load(file: &Path, place: &[String], found: &mut Crate) {
    let module = read(&fs::read_to_string(file).unwrap());
    let is_beside = place.is_empty() || file.ends_with("mod.rs");
    let folder: PathBuf = if is_beside { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    for child in &module.children {
        let files = [folder.join(format!("{child}.rs")), folder.join(child).join("mod.rs")];
        // One that is there only with an attribute `path` is in no circle of this folder.
        if let Some(file) = files.iter().find(|file| file.exists()) {
            load(file, &[place, std::slice::from_ref(child)].concat(), found);
        }
    }
    found.insert(place.to_owned(), module);
}

/// The module that defines what a path names; none for what is of another crate.
fn definer(modules: &Crate, from: &[String], path: &str, depth: usize) -> Option<Vec<String>> {
    let mut names: Vec<&str> = path.split("::").collect();
    let mut place = from.to_owned();
    match names[0] {
        "crate" => place.clear(),
        "self" => {}
        "super" => drop(place.pop()?),
        child if modules[from].children.contains(child) => names.insert(0, "self"),
        _ => return None,
    }
    names.remove(0);
    while !names.is_empty() && depth < 16 {
        let module = modules.get(&place)?;
        let name = names[0];
        if name == "super" {
            place.pop()?;
        } else if module.children.contains(name) && (names.len() > 1 || !module.items.contains(name)) {
            place.push(name.to_owned());
            if !modules.contains_key(&place) {
                return None;
            }
        } else if module.items.contains(name) {
            return Some(place);
        } else {
            let again = |path: &String| definer(modules, &place, path, depth + 1);
            let named = module.imports.get(name).into_iter().flatten().find_map(again);
            let of_all = || {
                let mut all = module.imports.get("*").into_iter().flatten().map(|of| format!("{of}::{name}"));
                all.find_map(|path| again(&path))
            };
            return Some(named.or_else(of_all).unwrap_or(place));
        }
        names.remove(0);
    }
    Some(place)
}

/// Who uses whom among the modules of each folder, with an example.
type Uses = BTreeMap<Vec<String>, BTreeMap<String, BTreeMap<String, String>>>;

fn uses(modules: &Crate) -> Uses {
    let mut found = Uses::new();
    for (place, module) in modules {
        let imported = module.imports.values().flatten().cloned();
        let named = module.paths.iter().map(|path| {
            // A path may begin with what was imported.
            let (first, rest) = path.split_once("::").unwrap_or((path, ""));
            let known = module.imports.get(first).and_then(|paths| paths.first());
            known.map_or_else(|| path.clone(), |of| format!("{of}::{rest}"))
        });
        for path in imported.chain(named) {
            let Some(of) = definer(modules, place, &path, 0) else { continue };
            let common = place.iter().zip(&of).take_while(|(one, other)| one == other).count();
            if common < place.len() && common < of.len() {
                let example = format!("{} uses {path}", place.join("::"));
                let folder = found.entry(place[..common].to_vec()).or_default();
                folder.entry(place[common].clone()).or_default().entry(of[common].clone()).or_insert(example);
            }
        }
    }
    found
}

/// The way from one module to another over those that each uses, with the examples; none where there is none.
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
fn no_module_uses_one_that_uses_it() {
    for root in roots() {
        let mut modules = Crate::new();
        load(&root, &[], &mut modules);
        let root = root.display();
        // A parser that finds nothing finds no circle.
        let count: usize = uses(&modules).values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        assert!(
            modules.len() < 4 || count >= modules.len() / 4,
            "{root}: {count} uses among {} modules",
            modules.len()
        );
        let circles = circles(&modules);
        assert!(circles.is_empty(), "{root}: modules that use each other: {circles:#?}");
    }
}

#[test]
fn a_circle_is_found_over_names_that_are_exported_again_and_over_folders() {
    let of = |files: &[(&str, &str)]| {
        let place = |path: &str| path.split('/').filter(|it| !it.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        files.iter().map(|(path, text)| (place(path), read(text))).collect::<Crate>()
    };
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
