//! Named operators.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use thiserror::Error;

/// What an operator may do. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorRole {
    /// Read everything but secrets.
    Read,
    /// Change inventory, peerings, quotas and charge statuses, remove hosts, make backups, confirm the clock.
    Operate,
    /// Create accounts, and create and remove their credentials.
    Admin,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorSettings {
    /// How the audit trail names the operator (`operator/NAME`): 1 to 32 of `a-z`, `0-9`, `.`, `_` and `-`.
    pub name: String,
    /// What the operator may do.
    pub role: OperatorRole,
    /// A file that holds the operator's bearer token of at least 16 characters. It must not be readable by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The URI in the operator's certificate. Default `spiffe://cps-peering/operator/NAME`, as `cps-peering pki issue operator
    /// --name NAME` makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// An invalid operator setting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperatorError {
    /// The name is invalid.
    #[error("setting `operators`: the name {0:?} is not 1 to 32 characters of a-z, 0-9, '.', '_' and '-'")]
    Name(String),
    /// A name is repeated.
    #[error("setting `operators`: {0:?} is there twice")]
    Twice(String),
    /// The certificate is for something else.
    #[error("setting `operators`: {certificate:?} of {name:?} is the name of a daemon, or no URI")]
    Certificate {
        /// The operator.
        name: String,
        /// The URI.
        certificate: String,
    },
}

impl OperatorRole {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl OperatorSettings {
    /// The URI in the operator's certificate.
    pub fn certificate(&self) -> String {
        self.certificate.clone().unwrap_or_else(|| crate::tls::operator(&self.name))
    }
}
