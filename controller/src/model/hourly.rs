//! How often something was done within the last hour, where a quota bounds that.
//!
//! Counts are records of their own: they are committed with what they count, so that neither a restart nor another controller
//! that leads forgets them, and they outlive it, so that whoever deletes what it has made begins no new hour.

use super::{Transaction, record::HourlyKey, state::Change};

/// Counts that it was done once more.
pub(super) fn count(tx: &mut Transaction<'_>, key: HourlyKey, now_ms: u64) {
    let mut hourly = tx.state.hourly().get(&key).cloned().unwrap_or_default();
    hourly.add(now_ms);
    tx.change(Change::Hourly(key, Some(hourly)));
}
