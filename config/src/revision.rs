//! The order of configurations.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which configuration: compared by epoch first, then by number. Both only go up.
///
/// An agent refuses a revision that is older than the one it has, and one that is equal but says something else, so a
/// controller that was replaced, or that came back with an empty store, can undo nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_epoch_beats_every_number() {
        let revision = |epoch, number| Revision { epoch, number };
        assert!(revision(2, 1) > revision(1, 9));
        assert!(revision(2, 2) > revision(2, 1));
        assert_eq!(revision(3, 14).to_string(), "3.14");
    }
}
