//! Responses of the controller as tables.

use super::{CliError, Output, yaml};
use cps_peering_config::text;
use cps_peering_terminal::{show, table};
use serde_json::Value;
use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether tables have headings.
static HEADERS: AtomicBool = AtomicBool::new(true);
/// With `--watch`: what was shown before, and what is shown now.
static WATCHED: Mutex<Option<[String; 2]>> = Mutex::new(None);

/// Sets whether tables have headings from now on.
pub(super) fn set_headers(headers: bool) {
    HEADERS.store(headers, Ordering::Relaxed);
}

/// From now on output is held back until [`flush`].
pub(super) fn watch() {
    *WATCHED.lock().unwrap_or_else(PoisonError::into_inner) = Some([String::new(), String::new()]);
}

/// Shows the output that was held back: on a terminal in place of the previous one, elsewhere only if it has changed.
pub(super) fn flush() {
    // Clear the screen, and move the cursor to its top left corner (ECMA-48).
    const CLEAR: &str = "\x1b[2J\x1b[H";
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some([before, now]) = watched.as_mut() else { return };
    if before != now {
        if io::stdout().is_terminal() {
            // If it cannot be written, `emit` reports it.
            let _ = io::stdout().write_all(CLEAR.as_bytes());
        }
        show(now.trim_end());
    }
    *before = std::mem::take(now);
}

/// Asks the user on the terminal. `instead`: what to do if there is none.
pub(super) fn ask(question: &str, instead: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("standard input is not a terminal: {instead}")));
    }
    let cannot = |error: io::Error| CliError::Refused(format!("cannot ask: {error}"));
    let mut output = io::stderr().lock();
    write!(output, "{question} [y/N] ").and_then(|()| output.flush()).map_err(cannot)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(cannot)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn emit(text: &str) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some([_, now]) = watched.as_mut() {
        now.push_str(text);
        now.push('\n');
        return;
    }
    drop(watched);
    show(text);
}

/// Adds a text to the output of a watched command.
pub(super) fn note(text: &str) {
    emit(text);
}

/// A text on one line, without terminal control characters: others write names and descriptions.
pub(super) fn printable(text: &str) -> String {
    text::printable(&text.replace(['\n', '\t'], " ")).to_string()
}

/// A JSON value as a table cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => match (fields.get("epoch"), fields.get("number")) {
            (Some(epoch), Some(number)) => format!("{epoch}.{number}"),
            _ if fields.is_empty() => "-".to_owned(),
            _ => fields.iter().map(|(key, value)| format!("{key}={}", cell(value))).collect::<Vec<_>>().join(" "),
        },
        Value::Number(number) => number.to_string(),
    }
}

/// The elements of an array; none of any other value.
pub(super) fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A column: its heading, and the JSON pointer of its cells (RFC 6901).
pub(super) type Column = (&'static str, &'static str);

/// Values as a table with these columns.
pub(super) fn columns(columns: &[Column], values: &[Value]) -> String {
    let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let row = |value: &Value| columns.iter().map(|(_, at)| cell(value.pointer(at).unwrap_or(&Value::Null))).collect();
    rows(&heading, &values.iter().map(row).collect::<Vec<_>>())
}

/// Rows with a heading, unless headings are switched off.
pub(super) fn rows(heading: &[&str], rows: &[Vec<String>]) -> String {
    let text = table(heading, rows);
    if HEADERS.load(Ordering::Relaxed) {
        return text;
    }
    text.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_owned())
}

/// The fields that identify an object: the first one that it has.
const IDS: [&str; 13] = [
    "webhookId",
    "vpcPeeringId",
    "vpcId",
    "routeTableId",
    "host",
    "accountId",
    "accessKey",
    "tokenId",
    "profile",
    "revoked",
    "file",
    "number",
    "destinationCidr",
];

/// The ids in a response: of each element of its list, or of the one object that it is.
fn ids(value: &Value) -> Vec<String> {
    let id = |value: &Value| match value {
        Value::String(text) => Some(printable(text)),
        value => IDS.iter().find_map(|field| value.get(field)).map(cell),
    };
    let list = value.as_object().and_then(|fields| fields.values().find_map(Value::as_array));
    match list {
        // An object with an id of its own may also contain lists.
        Some(list) if IDS.iter().all(|field| value.get(field).is_none()) => list.iter().filter_map(id).collect(),
        _ => id(value).into_iter().collect(),
    }
}

/// One object as labelled lines.
pub(super) fn lines(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default();
    let lines = lines.iter().map(|(label, text)| format!("{label:width$}  {text}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Shows a result in the given output format.
pub(super) fn print(output: Output, json: &Value, table: impl FnOnce() -> String) {
    match output {
        Output::Json => emit(&text::printable_json(&json.to_string()).to_string()),
        Output::Yaml => emit(&yaml::to_yaml(json)),
        Output::Name => ids(json).iter().for_each(|id| emit(id)),
        Output::Table | Output::Wide => match table() {
            // A list without entries, and headings are switched off.
            text if text.is_empty() => {}
            text => emit(&text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_for_people() {
        assert_eq!(cell(&json!({ "epoch": 1, "number": 7 })), "1.7");
        assert_eq!(cell(&json!(["10.1.0.0/16", "fd00::/48"])), "10.1.0.0/16 fd00::/48");
        assert_eq!((cell(&json!(null)), cell(&json!(true))), ("-".to_owned(), "yes".to_owned()));
        assert_eq!(cell(&json!({ "north": 3, "south": 4 })), "north=3 south=4");
        assert_eq!((cell(&json!("")), cell(&json!({}))), ("-".to_owned(), "-".to_owned()));
    }

    #[test]
    fn what_others_wrote_steers_no_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nc")), r"a\u{1b}[2Jb c");
    }

    #[test]
    fn columns_find_their_cells() {
        let values = [json!({ "id": "x", "side": { "vpc": "a" } }), json!({ "id": "long" })];
        assert_eq!(columns(&[("ID", "/id"), ("VPC", "/side/vpc")], &values), "ID    VPC\nx     a\nlong  -");
    }

    #[test]
    fn ids_are_those_of_the_list_or_of_the_one_thing() {
        let of = |value: Value| ids(&value).join(" ");
        assert_eq!(
            of(json!({ "totalCount": 2, "vpcPeerings": [{ "vpcPeeringId": "p" }, { "vpcPeeringId": "q" }] })),
            "p q"
        );
        assert_eq!(of(json!({ "vpcPeeringId": "p", "tags": [{ "key": "k" }] })), "p");
        assert_eq!(of(json!({ "vpcId": "v", "cidrs": ["10.1.0.0/16"] })), "v");
        assert_eq!(of(json!({ "blockedAccounts": ["a", "b"] })), "a b");
        assert_eq!(of(json!({ "vpcs": [] })), "");
        assert_eq!(of(json!({ "role": "operator" })), "");
    }

    #[test]
    fn lines_begin_under_each_other() {
        assert_eq!(lines(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2");
    }
}
