//! The log format of the daemons.

use serde::{Deserialize, Serialize};

/// The log format (setting `log_format`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines of text.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

impl LogFormat {
    /// The format that a settings file asks for, whatever else is wrong with the file; text if it has none.
    pub fn of(settings: &str) -> Self {
        #[derive(Deserialize)]
        struct Said {
            #[serde(default)]
            log_format: LogFormat,
        }
        toml::from_str::<Said>(settings).map(|said| said.log_format).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_before_the_rest_of_the_settings_is_read() {
        for (text, expected) in [
            ("log_format = \"json\"", LogFormat::Json),
            ("unknown = 1\nlog_format = \"json\"\n[tls]\nx = 1", LogFormat::Json),
            ("log_format = \"xml\"", LogFormat::Text),
            ("", LogFormat::Text),
            ("= no settings", LogFormat::Text),
        ] {
            assert_eq!(LogFormat::of(text), expected, "{text}");
        }
    }
}
