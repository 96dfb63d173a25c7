//! Why etcd has not done what it was asked.

use cps_peering_http::tls::TlsError;
use std::{io, path::PathBuf};
use thiserror::Error;

/// What gRPC calls an answer to who is not known (any more).
const UNAUTHENTICATED: u64 = 16;
/// What gRPC calls that something is used up.
const RESOURCE_EXHAUSTED: u64 = 8;
/// What gRPC calls a value that is out of range: etcd says it of a revision that was compacted.
pub(super) const OUT_OF_RANGE: u64 = 11;

/// etcd did not do what it was asked.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// No member answered. What was asked may have been done.
    #[error("no member of etcd answers: {0}")]
    Silent(String),
    /// A member said no.
    #[error("etcd refuses: {message}")]
    Refused {
        /// The code of gRPC.
        code: u64,
        /// What it said.
        message: String,
    },
    /// An answer makes no sense.
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
    /// The program has no room for what it takes to ask.
    #[error("cannot prepare to speak with etcd: {0}")]
    Unprepared(String),
}

impl EtcdError {
    /// Whether the revision that was to be read is there no more.
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

    /// Whether another member, or the same a little later, may answer otherwise: it has no leader, or is just stopping.
    pub(in crate::store) fn may_pass(&self) -> bool {
        const PASSING: [u64; 5] = [1, 2, 4, 13, 14];
        match self {
            EtcdError::Silent(_) | EtcdError::Unreadable(_) => true,
            EtcdError::Refused { code, .. } => PASSING.contains(code),
            _ => false,
        }
    }

    /// For those who copy what takes long to copy.
    pub(crate) fn hint(&self) -> &'static str {
        if self.is_compacted() { "; etcd was compacted meanwhile: try again" } else { "" }
    }
}
