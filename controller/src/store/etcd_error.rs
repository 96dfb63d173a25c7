//! Errors of etcd.

use cps_peering_http::tls::TlsError;
use std::{io, path::PathBuf};
use thiserror::Error;

/// gRPC's code for an unknown or expired token.
const UNAUTHENTICATED: u64 = 16;
/// gRPC's code for an exhausted resource.
const RESOURCE_EXHAUSTED: u64 = 8;
/// gRPC's code for a value out of range: etcd uses it for a compacted revision.
pub(super) const OUT_OF_RANGE: u64 = 11;

/// etcd did not execute a request.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// No member answered. The request may have been executed.
    #[error("no member of etcd answers: {0}")]
    Silent(String),
    /// A member refused.
    #[error("etcd refuses: {message}")]
    Refused {
        /// The code of gRPC.
        code: u64,
        /// Its message.
        message: String,
    },
    /// A response cannot be parsed.
    #[error("etcd answers what cannot be read: {0}")]
    Unreadable(String),
    /// The certificates cannot be used.
    #[error("setting `etcd.tls`: {0}")]
    Tls(#[from] TlsError),
    /// The password cannot be read.
    #[error("setting `etcd.password_file`: cannot read {0}: {1}")]
    Password(PathBuf, io::Error),
    /// Others can read the password.
    #[error("setting `etcd.password_file`: {0} can be read by others: chmod 600 {0}")]
    OpenPassword(PathBuf),
    /// The client cannot be set up.
    #[error("cannot prepare to speak with etcd: {0}")]
    Unprepared(String),
}

impl EtcdError {
    /// Whether the requested revision was compacted.
    pub(in crate::store) fn is_compacted(&self) -> bool {
        matches!(self, EtcdError::Refused { code: OUT_OF_RANGE, .. })
    }

    /// Whether etcd takes no writes because its database is full (alarm `NOSPACE`).
    pub(in crate::store) fn is_no_space(&self) -> bool {
        matches!(self, EtcdError::Refused { code: RESOURCE_EXHAUSTED, message } if message.contains("space exceeded"))
    }

    pub(in crate::store) fn is_unauthenticated(&self) -> bool {
        match self {
            EtcdError::Refused { code, message } => *code == UNAUTHENTICATED || message.contains("invalid auth token"),
            _ => false,
        }
    }

    /// Whether another member, or the same a little later, may succeed: it has no leader, or is just stopping.
    pub(in crate::store) fn may_pass(&self) -> bool {
        const PASSING: [u64; 5] = [1, 2, 4, 13, 14];
        match self {
            EtcdError::Silent(_) | EtcdError::Unreadable(_) => true,
            EtcdError::Refused { code, .. } => PASSING.contains(code),
            _ => false,
        }
    }

    /// A hint for those who copy a store for long.
    pub(crate) fn hint(&self) -> &'static str {
        if self.is_compacted() { "; etcd was compacted meanwhile: try again" } else { "" }
    }
}
