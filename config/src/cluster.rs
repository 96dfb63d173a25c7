//! Which controllers belong together.

use serde::{Deserialize, Serialize};
use std::{fmt, num::ParseIntError, str::FromStr};
use thiserror::Error;

/// The identity of a store, and of all controllers that share it. It is chosen at random when the store is created.
/// Agents remember the cluster that they belong to, and refuse what another's controllers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(u128);

/// A text that is not the identity of a cluster.
#[derive(Debug, Error)]
#[error("the identity of a cluster has 32 hexadecimal digits")]
pub struct InvalidClusterId(#[source] Option<ParseIntError>);

impl ClusterId {
    /// The identity with these bits.
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidClusterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const DIGITS: usize = 32;
        if text.len() != DIGITS || text.starts_with('+') {
            return Err(InvalidClusterId(None));
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|error| InvalidClusterId(Some(error)))
    }
}

impl TryFrom<String> for ClusterId {
    type Error = InvalidClusterId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_shown() {
        let id = ClusterId::new(0xa5);
        assert_eq!(id.to_string(), "000000000000000000000000000000a5");
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        for wrong in [
            "",
            "a5",
            "+00000000000000000000000000000a5",
            "00000000000000000000000000000zz0",
            "é00000000000000000000000000000",
        ] {
            assert!(wrong.parse::<ClusterId>().is_err(), "{wrong}");
        }
    }
}
