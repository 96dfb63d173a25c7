//! Responses as YAML (1.2): block style, with strings in double quotes, as in JSON.

use cps_peering_config::text::printable_json;
use serde_json::Value;

/// A value as YAML.
pub(super) fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0, false);
    text.trim().to_owned()
}

/// A value after a key or a dash. With `in_list`, its first line continues after a dash.
fn write(text: &mut String, value: &Value, depth: usize, in_list: bool) {
    let begin = |text: &mut String, first: bool| {
        if first && in_list {
            text.push(' ');
        } else {
            text.push('\n');
            text.push_str(&"  ".repeat(depth));
        }
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (place, (key, value)) in fields.iter().enumerate() {
                begin(text, place == 0);
                text.push_str(&word(key));
                text.push(':');
                write(text, value, depth + 1, false);
            }
        }
        Value::Array(values) if !values.is_empty() => {
            for (place, value) in values.iter().enumerate() {
                begin(text, place == 0);
                text.push('-');
                write(text, value, depth + 1, true);
            }
        }
        value => {
            text.push(' ');
            text.push_str(&printable_json(&value.to_string()).to_string());
        }
    }
}

/// A key: unquoted if it cannot be read as anything else.
fn word(key: &str) -> String {
    const TAKEN: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    let begins = key.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = begins && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if plain && !TAKEN.contains(&key.to_lowercase().as_str()) {
        key.to_owned()
    } else {
        printable_json(&Value::from(key).to_string()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_the_same_as_yaml() {
        let value =
            json!({ "a": [{ "id": "x: y", "tags": [], "of": { "m": 1 } }, "no", null, [1, 2]], "no": true, "1": {} });
        let expected = "\"1\": {}\na:\n  - id: \"x: y\"\n    of:\n      m: 1\n    tags: []\n  - \"no\"\n  - null\n  - - 1\n    - 2\n\"no\": true";
        assert_eq!(to_yaml(&value), expected);
        assert_eq!((to_yaml(&json!({})), to_yaml(&json!("x"))), ("{}".to_owned(), "\"x\"".to_owned()));
        assert!(!to_yaml(&json!({ "a": "\u{1b}[2J" })).contains('\u{1b}'));
    }
}
