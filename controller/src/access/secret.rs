//! Keys and tokens: random, and stored as hashes where the scheme allows it.

use crate::digest::{hex, sha256};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The system gave no random numbers.
#[derive(Debug, Error)]
#[error("the system's random number generator failed")]
pub struct NoRandomness;

/// A file with a secret cannot be used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{path} can be read by others (mode {mode:04o}): chmod 600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Reads a file that only its owner can read, and trims white space. A credential from systemd (`LoadCredential=`) is
/// private by an access control list, which looks like a group's permission.
pub fn read_private(path: &Path) -> Result<String, PrivateFileError> {
    let failed = |source| PrivateFileError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    let handed_over = env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.starts_with(folder));
    let others = if handed_over { 0o007 } else { 0o077 };
    if mode & others != 0 {
        return Err(PrivateFileError::Open { path: path.to_owned(), mode });
    }
    Ok(fs::read_to_string(path).map_err(failed)?.trim().to_owned())
}

/// The SHA-256 under which a token is stored, in hexadecimal.
pub fn token_hash(token: &str) -> String {
    hex(&sha256(token.as_bytes()))
}

/// Random bytes in hexadecimal: twice as many characters.
pub fn random_hex(bytes: usize) -> Result<String, NoRandomness> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| NoRandomness)?;
    Ok(hex(&random))
}

/// An access key: `JDC_` and 28 characters, as JD Cloud's.
pub fn access_key() -> Result<String, NoRandomness> {
    Ok(format!("JDC_{}", random_hex(14)?.to_uppercase()))
}

/// A secret key: 32 characters.
pub fn secret_key() -> Result<String, NoRandomness> {
    Ok(random_hex(16)?.to_uppercase())
}

/// A bearer token: 256 random bits.
pub fn token() -> Result<String, NoRandomness> {
    Ok(format!("cpst_{}", random_hex(32)?))
}
