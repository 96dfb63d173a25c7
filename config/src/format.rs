//! How stored and transmitted data stays compatible across versions.
//!
//! - A new field has a default, because old data lacks it.
//! - An unknown field is ignored. A program that rewrites data of another release keeps such fields if losing them
//!   would lose something: in records of the store, and in an agent's ledger.
//! - A change that must not be ignored comes with a higher number in the field `format` of the outermost object.
//!   Without that field it is 1. A release that does not know the number refuses all of it, with that reason.
//!
//! User input is another matter: there an unknown field is an error.

use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;

/// The highest number that this release understands.
pub const KNOWN: u32 = SCOPED_PEERINGS;
/// The number of records of peerings that join a part of their VPCs only.
pub const SCOPED_PEERINGS: u32 = 2;
/// The name of the field.
const FIELD: &str = "format";

/// Why stored or transmitted data cannot be read.
#[derive(Debug, Error)]
pub enum FormatError {
    /// It is of a newer release.
    #[error(
        "it has format {found}, and release {release} understands formats up to {known}: a newer release wrote it. Install that \
         release, or a newer one",
        release = env!("CARGO_PKG_VERSION"),
        known = KNOWN
    )]
    Newer {
        /// Its number.
        found: u64,
    },
    /// It is malformed.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
}

/// The decoded data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<T> {
    /// The known part of it.
    pub value: T,
    /// The path of the first unknown field, if there is one.
    pub unknown: Option<String>,
}

/// Decodes stored or transmitted JSON.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<Decoded<T>, FormatError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let (mut unknown, mut is_marked) = (None, false);
    let read: Result<T, _> = serde_ignored::deserialize(&mut deserializer, |path| {
        let path = path.to_string();
        if path == FIELD {
            is_marked = true;
        } else {
            unknown.get_or_insert(path);
        }
    });
    let read = read.and_then(|value| deserializer.end().map(|()| value));
    // A newer release may have changed it so that it cannot even be parsed.
    if (is_marked || read.is_err())
        && let Some(found) = marked(json).filter(|found| *found > u64::from(KNOWN))
    {
        return Err(FormatError::Newer { found });
    }
    Ok(Decoded { value: read?, unknown })
}

/// The same, if unknown fields do not matter.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, FormatError> {
    decode(json).map(|decoded| decoded.value)
}

/// The number in the outermost object.
fn marked(json: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Marked {
        format: u64,
    }
    serde_json::from_slice::<Marked>(json).ok().map(|marked| marked.format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostConfig, HostPatch, HostReport, report::ProblemKind, traffic::Grants};

    const CONFIG: &str = r#"{"revision":{"epoch":1,"number":2},"host":"h1","underlay":"192.0.2.1"}"#;

    #[test]
    fn unknown_fields_are_ignored_and_named() {
        let plain: HostConfig = read(CONFIG.as_bytes()).unwrap();
        let more =
            CONFIG.replace("\"number\":2", "\"number\":2,\"term\":\"x\"").replace("\"host\"", "\"zone\":[1],\"host\"");
        let decoded = decode::<HostConfig>(more.as_bytes()).unwrap();
        assert_eq!((decoded.value, decoded.unknown), (plain, Some("revision.term".to_owned())));
        // The content of a known field is still checked.
        assert!(read::<HostConfig>(CONFIG.replace("192.0.2.1", "nowhere").as_bytes()).is_err());
        assert!(read::<HostConfig>(format!("{CONFIG} x").as_bytes()).is_err());
    }

    #[test]
    fn a_format_that_is_too_new_is_refused_whatever_else_is_in_it() {
        let with = |format: &str| CONFIG.replacen('{', &format!("{{\"format\":{format},"), 1);
        assert!(decode::<HostConfig>(with("1").as_bytes()).unwrap().unknown.is_none());
        assert!(decode::<HostConfig>(with("2").as_bytes()).unwrap().unknown.is_none());
        for text in [with("3"), with("4294967297"), with("3").replace("\"host\":\"h1\"", "\"host\":7")] {
            let error = read::<HostConfig>(text.as_bytes()).unwrap_err();
            assert!(matches!(error, FormatError::Newer { .. }), "{error}");
            assert!(error.to_string().contains("a newer release wrote it"), "{error}");
        }
        for broken in [with("0"), with("\"two\""), with("-1"), with("1.5")] {
            // It is no number of ours, and the rest is as it should be.
            assert!(read::<HostConfig>(broken.as_bytes()).is_ok(), "{broken}");
        }
    }

    #[test]
    fn unknown_words_in_a_report_are_read_as_the_worst() {
        let problem = r#"{"scope":{"zone":"z1"},"kind":"throttled","object":"o","reason":"r","since":5}"#;
        let text = format!(
            r#"{{"version":"9","host":"h1","desired":null,"applied":null,"problems":[{problem}],"last_pass":null,
            "counters":{{"passes":1,"operations":2,"failures":3,"drift_repaired":4,"restarts":5}},"mood":"good"}}"#
        );
        let report: HostReport = read(text.as_bytes()).unwrap();
        assert_eq!(report.problems[0].kind, ProblemKind::Failed);
        assert_eq!(report.problems[0].scope, crate::report::Scope::Host);
    }

    #[test]
    fn data_of_earlier_releases_is_read() {
        for release in ["0.1.0", "0.2.0"] {
            let file = |name: &str| {
                let path = format!("{}/../tests/golden/{release}/{name}", env!("CARGO_MANIFEST_DIR"));
                std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
            };
            let push = decode::<HostConfig>(&file("push.json")).unwrap();
            assert_eq!(push.unknown, None);
            assert!(!push.value.vrfs.is_empty() && !push.value.sides.is_empty());
            let patch = decode::<HostPatch>(&file("patch.json")).unwrap();
            assert!(patch.unknown.is_none() && patch.value.revision > patch.value.base);
            let limit = patch.value.sides.values().flatten().find_map(|side| side.limit);
            assert_eq!(limit.map(|limit| limit.bandwidth_mbit.get()), Some(200));
            let grants = decode::<Grants>(&file("grants.json")).unwrap();
            assert!(grants.unknown.is_none() && grants.value.sides.len() == 1);
            let report = decode::<HostReport>(&file("report.json")).unwrap();
            assert_eq!(report.unknown, None);
            assert_eq!((report.value.problems.len(), report.value.behind.len()), (2, 1));
            let traffic = decode::<crate::traffic::TrafficReport>(&file("traffic.json")).unwrap();
            assert_eq!((traffic.unknown, traffic.value.sides.len()), (None, 1));
        }
    }
}
