//! Keys and tokens: made from the system's random numbers, kept as hashes where the scheme allows it.

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use std::fmt::Write;
use thiserror::Error;

/// The system gave no random numbers.
#[derive(Debug, Error)]
#[error("the system's random number generator failed")]
pub struct NoRandomness;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The SHA-256 under which a token is kept, in hexadecimal.
pub fn token_hash(token: &str) -> String {
    hex(&sha256(token.as_bytes()))
}

/// Random bytes in hexadecimal: twice as many characters.
pub fn random_hex(bytes: usize) -> Result<String, NoRandomness> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| NoRandomness)?;
    Ok(hex(&random))
}

/// An access key: `JDC_` and 28 characters, as JD Cloud's look.
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
