//! How the daemons write their log.

use serde::{Deserialize, Serialize};

/// How the log is written (setting `log_format`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object on each line, for programs.
    Json,
}

impl LogFormat {
    /// What a settings file says of it, whatever else is wrong with that; text where it says nothing.
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
