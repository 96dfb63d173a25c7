//! What the command line shows: tables for people, JSON for programs.

use serde_json::Value;

/// The result of a command.
#[expect(clippy::print_stdout, reason = "this is the command line's output")]
pub(super) fn show(text: &str) {
    println!("{text}");
}

/// What went wrong.
#[expect(clippy::print_stderr, reason = "this is the command line's output")]
pub(super) fn complain(text: &str) {
    eprintln!("cps-peering: {text}");
}

/// A value of an answer as a cell of a table.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => match (fields.get("epoch"), fields.get("number")) {
            (Some(epoch), Some(number)) => format!("{epoch}.{number}"),
            _ => value.to_string(),
        },
        Value::Number(number) => number.to_string(),
    }
}

/// Rows of cells under a heading, each column as wide as its widest cell.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(heading.to_vec())).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a-b".to_owned(), "x".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["A", "LONG", "C"], &rows), "A    LONG  C\na-b  x     c");
    }

    #[test]
    fn cells_are_for_people() {
        assert_eq!(cell(&json!({ "epoch": 1, "number": 7 })), "1.7");
        assert_eq!(cell(&json!(["10.1.0.0/16", "fd00::/48"])), "10.1.0.0/16 fd00::/48");
        assert_eq!((cell(&json!(null)), cell(&json!(true))), ("-".to_owned(), "yes".to_owned()));
    }
}
