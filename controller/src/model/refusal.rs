//! Refusals of commands.

use cps_peering_config::{id::AccountId, text};
use serde::Serialize;
use std::{collections::BTreeSet, fmt};
use thiserror::Error;

/// The kind of a refusal, as the HTTP API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A value is invalid in itself.
    InvalidArgument,
    /// The state does not allow it.
    FailedPrecondition,
    /// The caller lacks the permission.
    Forbidden,
    /// The object does not exist, or the caller may not know that it does.
    NotFound,
    /// The object already exists.
    AlreadyExists,
    /// A client token was used before with another request.
    Aborted,
    /// A quota or limit is exhausted.
    QuotaExceeded,
    /// The request is a replay.
    Replayed,
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldViolation {
    /// Where: a field, or an entry of a document such as `ports[3] (h1/eth1)`.
    pub entry: String,
    /// The violated rule, with the value.
    pub rule: String,
    /// A word for programs, for instance `VpcPeerCidrConflict`; empty where there is none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
}

impl fmt::Display for FieldViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.rule)
    }
}

/// A command that was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", .violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct CommandError {
    /// The kind of refusal.
    pub code: Code,
    /// Everything that is wrong; at least one.
    pub violations: Vec<FieldViolation>,
    /// The accounts about whose networks it tells the caller something that it does not see (rule L11).
    pub tells: BTreeSet<AccountId>,
}

impl CommandError {
    /// The most violations that one refusal lists.
    const MAX_VIOLATIONS: usize = 1000;
    /// The longest rule and the longest entry, in characters.
    const MAX_TEXT: usize = 1000;

    /// The same within these limits, however much is wrong and whatever the command contains.
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        let all = self.violations.len();
        if all > Self::MAX_VIOLATIONS {
            self.violations.truncate(Self::MAX_VIOLATIONS);
            let rule = format!("{} more are not listed", all - Self::MAX_VIOLATIONS);
            self.violations.push(FieldViolation { entry: "…".to_owned(), rule, reason: "" });
        }
        for text in self.violations.iter_mut().flat_map(|it| [&mut it.entry, &mut it.rule]) {
            if text.len() > Self::MAX_TEXT {
                *text = text::cut(text, Self::MAX_TEXT);
            }
        }
        self
    }

    /// A refusal with one violation.
    pub fn one(code: Code, entry: impl Into<String>, rule: impl Into<String>, reason: &'static str) -> Self {
        let violations = vec![FieldViolation { entry: entry.into(), rule: rule.into(), reason }];
        Self { code, violations, tells: BTreeSet::new() }
    }

    /// An argument that breaks a rule.
    pub(super) fn invalid<T>(entry: &str, rule: impl Into<String>, reason: &'static str) -> Result<T, Self> {
        Err(Self::one(Code::InvalidArgument, entry, rule, reason))
    }

    /// The same, marked as disclosing something about these accounts' networks.
    pub(super) fn telling<'a>(self, accounts: impl IntoIterator<Item = &'a AccountId>) -> Self {
        Self { tells: accounts.into_iter().cloned().collect(), ..self }
    }
}
