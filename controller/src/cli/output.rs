//! Answers of the controller as cells of tables.

use serde_json::Value;

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_for_people() {
        assert_eq!(cell(&json!({ "epoch": 1, "number": 7 })), "1.7");
        assert_eq!(cell(&json!(["10.1.0.0/16", "fd00::/48"])), "10.1.0.0/16 fd00::/48");
        assert_eq!((cell(&json!(null)), cell(&json!(true))), ("-".to_owned(), "yes".to_owned()));
    }
}
