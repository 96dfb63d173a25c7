//! Answers of the controller as tables.

use super::Output;
use cps_peering_config::text;
use cps_peering_terminal::{show, table};
use serde_json::Value;

/// A text on one line, without what would make a terminal do something: others write names and descriptions.
pub(super) fn printable(text: &str) -> String {
    text::printable(&text.replace(['\n', '\t'], " ")).to_string()
}

/// A value of an answer as a cell of a table.
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

/// The elements of a list; none of anything else.
pub(super) fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A column: its heading, and where in a value its cell is (RFC 6901).
pub(super) type Column = (&'static str, &'static str);

/// Values under each other, with these columns.
pub(super) fn columns(columns: &[Column], values: &[Value]) -> String {
    let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let row = |value: &Value| columns.iter().map(|(_, at)| cell(value.pointer(at).unwrap_or(&Value::Null))).collect();
    table(&heading, &values.iter().map(row).collect::<Vec<_>>())
}

/// What there is to say about one thing, a line each.
pub(super) fn lines(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default();
    let lines = lines.iter().map(|(label, text)| format!("{label:width$}  {text}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Shows a result in one of the forms.
pub(super) fn print(output: Output, json: &Value, table: impl FnOnce() -> String) {
    match output {
        Output::Json => show(&text::printable_json(&json.to_string()).to_string()),
        Output::Table => show(&table()),
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
    fn lines_begin_under_each_other() {
        assert_eq!(lines(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2");
    }
}
