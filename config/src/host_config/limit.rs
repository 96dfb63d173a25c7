//! Bandwidth limits and shares of them.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// How much one host may send to a peer (rules B1 and B3).
///
/// Whole Ethernet frames of the tenants count, without the VXLAN encapsulation and the frame check sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The bandwidth of all hosts of the side together, in Mbit/s (10⁶ bit/s), at least 1.
    pub bandwidth_mbit: NonZeroU32,
    /// The initial share of this host. If several hosts send, it is small, and the controller grants more as needed,
    /// see [`agent_api`](crate::agent_api).
    pub share: Share,
}

impl Limit {
    /// A share of the bandwidth, in bytes per second, at least 1.
    pub fn bytes_per_second(self, share: Share) -> u64 {
        let bits = u64::from(self.bandwidth_mbit.get()) * u64::from(share.millionths());
        (bits / 8).max(1)
    }
}

/// A part of a whole, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NONE: Share = Share(0);
    /// The smallest share that is not zero.
    pub const LEAST: Share = Share(1);
    /// All of it.
    pub const WHOLE: Share = Share(1_000_000);

    /// This many millionths; none above a million.
    pub const fn of_millionths(millionths: u32) -> Option<Share> {
        if millionths <= Self::WHOLE.0 { Some(Share(millionths)) } else { None }
    }

    /// In millionths, at most a million.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// The share divided equally into this many parts.
    #[must_use]
    pub fn divided_by(self, parts: NonZeroU32) -> Share {
        Share(self.0 / parts)
    }

    /// The difference; nothing if the other is larger.
    #[must_use]
    pub fn without(self, other: Share) -> Share {
        Share(self.0.saturating_sub(other.0))
    }

    /// The sum, at most the whole.
    #[must_use]
    pub fn with(self, other: Share) -> Share {
        Share(self.0.saturating_add(other.0).min(Self::WHOLE.0))
    }
}

impl TryFrom<u32> for Share {
    type Error = String;

    fn try_from(millionths: u32) -> Result<Share, String> {
        Share::of_millionths(millionths)
            .ok_or_else(|| format!("a share is at most 1000000 millionths, not {millionths}"))
    }
}

impl From<Share> for u32 {
    fn from(share: Share) -> u32 {
        share.0
    }
}
