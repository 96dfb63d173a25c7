//! Documents of regions, hosts, VPCs, ports and peerings: applied, compared, shown. For operators.

use super::{
    CliError,
    client::{Call, Rejection, admin},
    complain,
    output::{cell, elements, rows as table},
    session::Session,
};
use clap::Args;
use cps_peering_config::{SeenRevision, inventory::Inventory, text};
use reqwest::Method;
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file, and which existing entries it affects.
#[derive(Args, Clone)]
struct Source {
    /// Inventory file: TOML, JSON or YAML, as its content says; `-` for standard input.
    #[arg(short, long)]
    file: PathBuf,
    /// Remove entries that an inventory of the same name created and that are not in the file. What accounts and operators
    /// created by command stays
    #[arg(long)]
    prune: bool,
    /// Take over entries of the file that other inventories, or operators by command, created
    #[arg(long)]
    adopt: bool,
}

/// The file to apply, and how.
#[derive(Args, Clone)]
pub(super) struct Apply {
    #[command(flatten)]
    source: Source,
    /// Confirm that this many entries are removed or stop traffic, as counted by the dry run
    #[arg(long, value_name = "NUMBER")]
    confirm: Option<usize>,
    /// Apply only if nothing has changed since this revision, as shown by the dry run; a number without its epoch may come
    /// again after a restore
    #[arg(long, value_name = "EPOCH.NUMBER")]
    if_revision: Option<SeenRevision>,
    /// Show what would change without changing it.
    #[arg(long)]
    dry_run: bool,
}

/// The file to compare with what there is.
#[derive(Args, Clone)]
pub(super) struct Diff {
    #[command(flatten)]
    source: Source,
}

/// Reads an inventory. Errors name the file, the place in it and the rule.
fn read_inventory(file: &Path) -> Result<Inventory, CliError> {
    let refuse = |error: String| CliError::Refused(format!("{}: {error}", file.display()));
    let text = if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    let text = text.map_err(|error| refuse(error.to_string()))?;
    parse(&text).map_err(refuse)
}

/// How an inventory can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Toml,
    Json,
    Yaml,
}

/// The format of a text, by its first significant line: JSON begins with a brace, a document marker or a key with a
/// colon is YAML, and everything else is TOML.
fn format(text: &str) -> Format {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(first) = lines.next() else { return Format::Toml };
    if first.starts_with('{') {
        return Format::Json;
    }
    let quoted = first.chars().next().filter(|c| ['"', '\''].contains(c));
    let behind_key = match quoted {
        Some(quote) => first[1..].split_once(quote).map_or("", |(_, rest)| rest),
        None => first.find([':', '=', '[']).map_or("", |at| &first[at..]),
    };
    let has_colon = behind_key.strip_prefix(':').is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
    if first == "---" || first.starts_with("--- ") || first.starts_with("%YAML") || has_colon {
        Format::Yaml
    } else {
        Format::Toml
    }
}

/// Reads an inventory in any of the formats. The error names place and rule.
fn parse(text: &str) -> Result<Inventory, String> {
    let text = text.trim_start_matches('\u{feff}');
    match format(text) {
        Format::Json => serde_json::from_str(text).map_err(|error| format!("JSON: {error}")),
        Format::Yaml => serde_saphyr::from_str(text).map_err(|error| said(&format!("YAML: {error}"))),
        Format::Toml => toml::from_str(text).map_err(|error| said(&error.to_string())),
    }
}

/// An error message of a library, which quotes the whole document, shortened and without its advice to programmers.
fn said(error: &str) -> String {
    const ADVICE: [&str; 3] = [
        ", set DuplicateKeyPolicy in Options if acceptable",
        "; use from_str_multiple or from_str_multiple_with_options",
        "; use Option<String>",
    ];
    /// The longest line, in characters.
    const LONGEST: usize = 200;
    let plain = ADVICE.iter().fold(error.to_owned(), |text, advice| text.replace(advice, ""));
    plain.trim_end().lines().map(|line| text::cut(line, LONGEST)).collect::<Vec<_>>().join("\n")
}

pub(super) async fn apply(session: &Session, apply: &Apply) -> Result<(), CliError> {
    let Apply { source, confirm, if_revision, dry_run } = apply;
    let how = |call: Call<'static>| {
        call.with("dryRun", dry_run).with_some("confirm", *confirm).with_some("ifRevision", *if_revision)
    };
    let result = post(session, source, how).await?;
    session.print(&result, || differences(&result));
    Ok(())
}

/// Shows what applying a file would change. An error if there are differences, as with `diff` for files.
pub(super) async fn diff(session: &Session, diff: &Diff) -> Result<(), CliError> {
    let result = post(session, &diff.source, |call| call.with("dryRun", &true)).await?;
    session.print(&result, || {
        if elements(&result["changes"]).is_empty() {
            return format!("no difference at revision {}", revision(&result));
        }
        changes(&result)
    });
    if elements(&result["changes"]).is_empty() { Ok(()) } else { Err(CliError::Different) }
}

async fn post(
    session: &Session,
    source: &Source,
    how: impl FnOnce(Call<'static>) -> Call<'static>,
) -> Result<Value, CliError> {
    let Source { file, prune, adopt } = source;
    let inventory = read_inventory(file)?;
    let body = serde_json::to_value(inventory).map_err(|error| CliError::Refused(error.to_string()))?;
    let mut call = Call::new(Method::POST, admin(&["apply"])).with("prune", prune);
    if *adopt {
        // Controllers of the previous version do not know it.
        call = call.with("adopt", adopt);
    }
    match session.try_call(how(call).body(body)).await? {
        Ok(result) => Ok(result),
        Err(Rejection { message, violations, .. }) => {
            if violations.is_empty() {
                return Err(CliError::Refused(format!("{}: {message}", file.display())));
            }
            for fault in &violations {
                complain(&format!("{}: {}: {}", file.display(), fault.entry, fault.rule));
            }
            Err(CliError::Refused("nothing was applied".to_owned()))
        }
    }
}

/// The changes that a response lists, made or to be made.
fn changes(result: &Value) -> String {
    let row = |change: &Value| {
        let fields = elements(&change["fields"]).iter();
        let fields = fields.map(|it| format!("{}: {} -> {}", cell(&it["field"]), cell(&it["from"]), cell(&it["to"])));
        let stops = if change["stopsTraffic"] == true { "stops traffic" } else { "" };
        let fields = fields.collect::<Vec<_>>().join("; ");
        vec![cell(&change["action"]), cell(&change["kind"]), cell(&change["id"]), stops.to_owned(), fields]
    };
    let rows: Vec<Vec<String>> = elements(&result["changes"]).iter().map(row).collect();
    table(&["ACTION", "KIND", "ID", "EFFECT", "FIELDS"], &rows)
}

/// The revision in a response. Controllers of releases before 0.3.0 do not send the epoch.
pub(super) fn revision(result: &Value) -> String {
    cell(if result["fullRevision"].is_string() { &result["fullRevision"] } else { &result["revision"] })
}

/// The changes that a response lists, made or to be made, and what follows from them.
pub(super) fn differences(result: &Value) -> String {
    let revision = revision(result);
    if elements(&result["changes"]).is_empty() {
        return format!("nothing to change at revision {revision}");
    }
    let end = match (result["dryRun"] == true, result["confirm"].as_u64()) {
        (false, _) => format!("applied: revision {revision}"),
        (true, None) => format!("nothing was changed: this was a dry run at revision {revision}"),
        (true, Some(lost)) => format!(
            "nothing was changed: this was a dry run at revision {revision}. {lost} entries would be removed or stop traffic; to \
             do it: --confirm {lost} --if-revision {revision}"
        ),
    };
    let mut lines = vec![changes(result)];
    lines.extend(unconfirmed(&result["unconfirmed"]));
    lines.push(end);
    lines.join("\n")
}

/// What hosts have not confirmed yet.
fn unconfirmed(result: &Value) -> Vec<String> {
    let named = |count: &str, names: &str| {
        let count = result[count].as_u64().filter(|count| *count > 0)?;
        let names: Vec<String> = elements(&result[names]).iter().map(cell).collect();
        let more = if names.len() as u64 == count { "" } else { ", …" };
        Some((count, format!("{}{more}", names.join(", "))))
    };
    let draining = named("drainingCount", "draining").map(|(count, names)| {
        format!("{count} removed peerings are draining: they forward nothing on any host that can be reached: {names}")
    });
    let hosts = named("hostCount", "hosts").map(|(count, names)| {
        format!("{count} hosts have not confirmed yet that they have it (`cps-peering host list`): {names}")
    });
    let waiting = result["heldBackCount"].as_u64().filter(|count| *count > 0);
    let waiting = waiting.map(|count| {
        format!("{count} of them are held back until the canaries are healthy: `cps-peering rollout show`")
    });
    draining.into_iter().chain(hosts).chain(waiting).collect()
}

pub(super) async fn show(session: &Session) -> Result<(), CliError> {
    let inventory = session.call(Call::get(admin(&["inventory"]))).await?;
    let text = serde_json::from_value::<Inventory>(inventory.clone())
        .ok()
        .and_then(|inventory| toml::to_string(&inventory).ok())
        .unwrap_or_else(|| inventory.to_string());
    session.print(&inventory, || text.trim_end().to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
# What there is
name = "one"

[[regions]]
id = "north"

[[vpcs]]
id = "a"
account = "acme"
region = "north"
cidrs = ["10.1.0.0/16", "fd00:1::/48"]
"#;

    #[test]
    fn one_inventory_is_the_same_in_three_formats() {
        let inventory = parse(TOML).unwrap();
        let json = serde_json::to_value(&inventory).unwrap();
        let block = "# What there is\nname: one\nregions:\n- id: north\nvpcs:\n  - id: a\n    account: acme\n    region: north\n    \
                     cidrs: [10.1.0.0/16, \"fd00:1::/48\"]\n";
        let texts =
            [json.to_string(), format!("\u{feff}\n {json:#}"), block.to_owned(), format!("%YAML 1.2\n---\n{block}")];
        for text in texts.into_iter().chain([format!("---\n{}", crate::yaml::to_yaml(&json))]) {
            assert_eq!(parse(&text).as_ref(), Ok(&inventory), "{text}");
        }
        assert_eq!(parse("").unwrap(), Inventory::default());
    }

    #[test]
    fn the_content_says_which_format_it_is() {
        for (text, expected) in [
            ("", Format::Toml),
            ("# a: b\n[[hosts]]", Format::Toml),
            ("name = \"a: b\"", Format::Toml),
            ("\"quoted: key\" = 1", Format::Toml),
            ("  {", Format::Json),
            ("hosts:", Format::Yaml),
            ("'hosts': []", Format::Yaml),
            ("hosts: []", Format::Yaml),
            ("--- # begins\nhosts:", Format::Yaml),
            ("[[hosts]]\nid = 1", Format::Toml),
        ] {
            assert_eq!(format(text), expected, "{text}");
        }
    }

    #[test]
    fn errors_name_the_place_and_the_rule() {
        for (text, words) in [
            ("hosts:\n- id: h1\n  colour: red\n", &["YAML", "colour", "line 3"][..]),
            ("hosts:\n- id: h1\n  id: h2\n", &["YAML", "id"]),
            ("{\"hosts\": [{\"id\": 7}]}", &["JSON", "column"]),
            ("peerings:\n- {name: a, vpc: b, peer_vpc: c, bandwidth: fast}\n", &["YAML", "line 2"]),
            ("hosts: *nowhere\n", &["YAML", "nowhere"]),
            ("regions: []\nregions: []\n", &["YAML", "duplicate mapping key: regions"]),
            ("regions: []\n---\nregions: []\n", &["YAML", "multiple YAML documents"]),
            ("regions:\n- id: ~\n", &["YAML", "null", "line 2"]),
            (&"[".repeat(100_000), &["line 1", "(100004 characters)"]),
            (&format!("regions: {}", "[".repeat(100_000)), &["YAML", "recursion"]),
        ] {
            let error = parse(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
            assert!(["Options", "from_str", "Option<"].iter().all(|word| !error.contains(word)), "{error}");
            assert!(error.lines().all(|line| line.chars().count() < 250), "{error}");
        }
    }

    #[test]
    fn aliases_do_not_grow_without_bound() {
        let mut text = "name: &a0 [x]\n".to_owned();
        for level in 1..40 {
            text.push_str(
                &[&format!("k{level}: &a{level} ["), vec![format!("*a{}", level - 1); 10].join(", ").as_str(), "]\n"]
                    .concat(),
            );
        }
        assert!(parse(&text).is_err());
    }
}
