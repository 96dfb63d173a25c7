//! The order of configurations.

use crate::text::quote;
use serde::{Deserialize, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// The revision of a configuration: compared by epoch first, then by number. Both only go up.
///
/// An agent refuses a revision that is older than the one it has, and one that is equal but has other content, so a
/// controller that was replaced, or that came back with an empty store, cannot undo anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// The term of the controller that decided it. A new store begins with 1.
    pub epoch: u64,
    /// The number of the commit that last changed this host.
    pub number: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// A revision as named by a client that has seen it: `EPOCH.NUMBER`, or its number alone, which may recur after a
/// restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenRevision {
    /// None if only the number was given.
    pub epoch: Option<u64>,
    /// The number of the commit.
    pub number: u64,
}

impl SeenRevision {
    /// Whether it is this one.
    pub fn is(&self, revision: Revision) -> bool {
        self.number == revision.number && self.epoch.is_none_or(|epoch| epoch == revision.epoch)
    }
}

impl From<Revision> for SeenRevision {
    fn from(Revision { epoch, number }: Revision) -> Self {
        Self { epoch: Some(epoch), number }
    }
}

impl FromStr for SeenRevision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let read = match text.split_once('.') {
            None => number(text).map(|number| Self { epoch: None, number }),
            Some((epoch, rest)) => {
                number(epoch).zip(number(rest)).map(|(epoch, number)| Self { epoch: Some(epoch), number })
            }
        };
        read.ok_or_else(|| {
            format!("{} is no revision: expected EPOCH.NUMBER, as 1.42, or the number alone", quote(text))
        })
    }
}

impl fmt::Display for SeenRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => Revision { epoch, number: self.number }.fmt(f),
            None => self.number.fmt(f),
        }
    }
}

impl Serialize for SeenRevision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.epoch {
            Some(_) => serializer.collect_str(self),
            None => serializer.serialize_u64(self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_named_with_its_epoch_or_without() {
        let now = Revision { epoch: 3, number: 14 };
        for (text, is) in [("3.14", true), ("14", true), ("2.14", false), ("3.15", false), ("13", false)] {
            let seen: SeenRevision = text.parse().unwrap();
            assert_eq!((seen.is(now), seen.to_string()), (is, text.to_owned()));
        }
        assert_eq!(
            serde_json::to_string(&["14", "3.14"].map(|it| it.parse::<SeenRevision>().unwrap())).unwrap(),
            r#"[14,"3.14"]"#
        );
        for text in ["", ".", "3.", ".14", "+3.14", "3.14.1", "3.x", "-1", "99999999999999999999", " 14"] {
            let error = text.parse::<SeenRevision>().unwrap_err();
            assert!(error.contains("EPOCH.NUMBER"), "{error}");
        }
    }

    #[test]
    fn a_new_epoch_beats_every_number() {
        let revision = |epoch, number| Revision { epoch, number };
        assert!(revision(2, 1) > revision(1, 9));
        assert!(revision(2, 2) > revision(2, 1));
        assert_eq!(revision(3, 14).to_string(), "3.14");
    }
}
