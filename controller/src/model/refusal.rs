//! Why a command was refused.

use cps_peering_config::{id::AccountId, text};
use serde::Serialize;
use std::{collections::BTreeSet, fmt};
use thiserror::Error;

/// Why a command was refused, as the HTTP interfaces name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A value breaks a rule of its own.
    InvalidArgument,
    /// The state does not allow it.
    FailedPrecondition,
    /// The caller may not do it.
    Forbidden,
    /// There is no such thing, or none that the caller may know of.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// A client token was used before for something else.
    Aborted,
    /// There are as many as there may be.
    QuotaExceeded,
    /// The request is one that was carried out before.
    Replayed,
}

/// One thing that is wrong with a command.
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
    /// The accounts of whose networks it tells something that the caller does not see (rule L11).
    pub tells: BTreeSet<AccountId>,
}

impl CommandError {
    /// The most faults that are told of one command.
    const MAX_VIOLATIONS: usize = 1000;
    /// The longest rule and the longest entry, in characters.
    const MAX_TEXT: usize = 1000;

    /// The same, however much is wrong with a command and whatever it says.
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        let all = self.violations.len();
        if all > Self::MAX_VIOLATIONS {
            self.violations.truncate(Self::MAX_VIOLATIONS);
            let rule = format!("{} more are not told", all - Self::MAX_VIOLATIONS);
            self.violations.push(FieldViolation { entry: "…".to_owned(), rule, reason: "" });
        }
        for text in self.violations.iter_mut().flat_map(|it| [&mut it.entry, &mut it.rule]) {
            if text.len() > Self::MAX_TEXT {
                *text = text::cut(text, Self::MAX_TEXT);
            }
        }
        self
    }

    /// A refusal for one reason.
    pub fn one(code: Code, entry: impl Into<String>, rule: impl Into<String>, reason: &'static str) -> Self {
        let violations = vec![FieldViolation { entry: entry.into(), rule: rule.into(), reason }];
        Self { code, violations, tells: BTreeSet::new() }
    }

    /// An argument that breaks a rule.
    pub(super) fn invalid<T>(entry: &str, rule: impl Into<String>, reason: &'static str) -> Result<T, Self> {
        Err(Self::one(Code::InvalidArgument, entry, rule, reason))
    }

    /// The same, where it tells something of these accounts' networks.
    pub(super) fn telling<'a>(self, accounts: impl IntoIterator<Item = &'a AccountId>) -> Self {
        Self { tells: accounts.into_iter().cloned().collect(), ..self }
    }
}
