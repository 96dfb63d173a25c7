//! Counts of actions within the last hour, for quotas.

use cps_peering_config::{id::AccountId, time::MINUTE_MS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The minutes of an hour.
const HOUR: u64 = 60;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HourlyKey {
    /// The account that did it.
    pub account: AccountId,
    /// The receiver of peering requests; none for bandwidths that were set or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<AccountId>,
}

impl HourlyKey {
    /// Bandwidths that an account has set or changed.
    pub fn bandwidth_changes(account: &AccountId) -> Self {
        Self { account: account.clone(), receiver: None }
    }

    /// Requests that an account has sent to another.
    pub fn requests(account: &AccountId, receiver: &AccountId) -> Self {
        Self { account: account.clone(), receiver: Some(receiver.clone()) }
    }
}

/// A recent count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hourly {
    /// The counts by minute since 1970-01-01 UTC: an hour at most.
    minutes: BTreeMap<u64, u32>,
}

fn is_recent(minute: u64, now_ms: u64) -> bool {
    minute.saturating_add(HOUR) > now_ms / MINUTE_MS
}

impl Hourly {
    /// The count within the last hour, to the minute.
    pub fn count(&self, now_ms: u64) -> u32 {
        let minutes = self.minutes.iter().filter(|(minute, _)| is_recent(**minute, now_ms));
        minutes.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// When no minute counts any more, in milliseconds since 1970-01-01 UTC.
    pub fn forget_ms(&self) -> u64 {
        self.minutes.last_key_value().map_or(0, |(minute, _)| minute.saturating_add(HOUR).saturating_mul(MINUTE_MS))
    }

    /// The same with its times moved after the clock was set.
    #[must_use]
    pub(in crate::model) fn moved(&self, by_ms: i64) -> Self {
        let mut moved = Self::default();
        for (minute, count) in &self.minutes {
            let minute = minute.saturating_mul(MINUTE_MS).saturating_add_signed(by_ms) / MINUTE_MS;
            let sum = moved.minutes.entry(minute).or_default();
            *sum = sum.saturating_add(*count);
        }
        moved
    }

    /// Counts one more.
    pub(in crate::model) fn add(&mut self, now_ms: u64) {
        self.minutes.retain(|minute, _| is_recent(*minute, now_ms));
        let count = self.minutes.entry(now_ms / MINUTE_MS).or_default();
        *count = count.saturating_add(1);
    }
}
