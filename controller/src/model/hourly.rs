//! Counts of actions within the last hour, for quotas.
//!
//! Counts are records of their own: they are committed with what they count, so that neither a restart nor a new
//! leader forgets them, and they outlive it, so that deleting what was created does not reset the hour.

use super::{Transaction, record::HourlyKey, state::Change};

/// Counts one more.
pub(super) fn count(tx: &mut Transaction<'_>, key: HourlyKey, now_ms: u64) {
    let mut hourly = tx.state.hourly().get(&key).cloned().unwrap_or_default();
    hourly.add(now_ms);
    tx.change(Change::Hourly(key, Some(hourly)));
}
