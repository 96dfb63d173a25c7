//! Points in time as text.

use std::time::{Duration, UNIX_EPOCH};

/// A point in time, in milliseconds since 1970-01-01 UTC, in the form of `2021-08-09T05:16:00Z` (RFC 3339, whole seconds).
pub fn timestamp(ms: u64) -> String {
    // Later than any calendar goes: the last second of it.
    const LAST_MS: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS))).to_string()
}
