//! How often something was done within the last hour, where a quota bounds that.

use cps_peering_config::id::AccountId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MINUTE_MS: u64 = 60 * 1000;
/// The minutes of an hour.
const HOUR: u64 = 60;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HourlyKey {
    /// The account that did it.
    pub account: AccountId,
    /// To whom, for requests to be peered; none for bandwidths that it set or changed.
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

/// How often it was done lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hourly {
    /// How often, by the minute since 1970-01-01 UTC: an hour at most.
    minutes: BTreeMap<u64, u32>,
}

fn is_recent(minute: u64, now_ms: u64) -> bool {
    minute.saturating_add(HOUR) > now_ms / MINUTE_MS
}

impl Hourly {
    /// How often within the last hour, to the minute.
    pub fn count(&self, now_ms: u64) -> u32 {
        let minutes = self.minutes.iter().filter(|(minute, _)| is_recent(**minute, now_ms));
        minutes.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// When none of it counts any more, in milliseconds since 1970-01-01 UTC.
    pub fn forget_ms(&self) -> u64 {
        self.minutes.last_key_value().map_or(0, |(minute, _)| minute.saturating_add(HOUR).saturating_mul(MINUTE_MS))
    }

    /// The same with its times where a clock that was set has moved them.
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

    /// Once more.
    pub(in crate::model) fn add(&mut self, now_ms: u64) {
        self.minutes.retain(|minute, _| is_recent(*minute, now_ms));
        let count = self.minutes.entry(now_ms / MINUTE_MS).or_default();
        *count = count.saturating_add(1);
    }
}
