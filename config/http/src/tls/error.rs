//! What can be wrong with files of certificates and keys.

use rustls::pki_types::pem;
use std::{io, path::PathBuf};
use thiserror::Error;

/// Certificates or a key that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// A file is not PEM, or does not contain the expected kind.
    #[error("{path} holds no {what} in PEM: {error}")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What it should contain.
        what: &'static str,
        /// Why not.
        error: pem::Error,
    },
    /// A certificate in a file cannot be parsed.
    #[error("{path} holds a certificate that cannot be used: {error}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// A revocation list that is malformed or not trustworthy.
    #[error("{path} holds a revocation list that cannot be used: {error}")]
    RevocationList {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// Others can read a key.
    #[error("the key {path} can be read by others (mode {mode:04o}): chmod 600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key does not belong to the certificate.
    #[error("the key {key} does not belong to the certificate {cert}: {error}")]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
        /// What differs.
        error: rustls::Error,
    },
}
