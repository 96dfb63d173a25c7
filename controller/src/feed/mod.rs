//! Event feeds: the events after a position, each once, in the order in which they happened.

use crate::{
    engine::Engine,
    events::{Cursor, Event, KEPT_MS},
    store::StoreError,
};
use cps_peering_config::{
    id::{AccountId, RegionId},
    time::timestamp_ms,
};
use serde::Serialize;
use std::sync::Arc;
use thiserror::Error;
use tokio::task::JoinError;
use utoipa::ToSchema;

/// How many entries of the audit trail are read at a time, and how many times for one response.
const AT_ONCE: usize = 500;
const ROUNDS: usize = 20;

/// Why events cannot be returned.
#[derive(Debug, Error)]
pub(crate) enum FeedError {
    /// The position is not valid any more.
    #[error("{0}: list the current state, and continue with after=latest")]
    Expired(&'static str),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread that reads has ended.
    #[error("the task that reads events ended early: {0}")]
    Interrupted(#[from] JoinError),
}

/// An event.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    /// Value of `after` for the next request.
    #[schema(example = "4711.1.1767225600")]
    id: String,
    /// What happened: `peering.requested`, `.created`, `.accepted`, `.rejected`, `.expired`, `.active`, `.outOfSync`, `.inSync`,
    /// `.bandwidthChanged`, `.modified`, `.cidrsChanged`, `.suspended`, `.resumed`, `.deleted`, `.drained`, `.recordDeleted`;
    /// `account.chargeStatusChanged`; for operators `host.added`, `.removed`, `.drained`, `.uncordoned`, `.maintenanceBegun`,
    /// `.maintenanceEnded`, `.paused`, `.resumed`, `.outOfSync`, `.inSync`, `rollout.stopped`, `rollout.finished`, `rollout.withdrawn`. There may be more.
    #[serde(rename = "type")]
    #[schema(example = "peering.active")]
    kind: String,
    /// The time.
    time: String,
    /// The peering concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_peering_id: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_peering_name: Option<String>,
    /// The account concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    /// For operators: the host concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// The state of the peering, or the charge status of the account, after the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// The caller's role in the peering: `initiator` or `receiver`.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// The peering's bandwidth after it, in Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u32>,
    /// For operators: the accounts that can see the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_ids: Option<Vec<String>>,
}

impl EventView {
    /// Its id: the position after it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What happened.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// The time.
    pub(crate) fn time(&self) -> &str {
        &self.time
    }

    /// Whether it is so old that it is no longer available.
    pub(crate) fn is_expired(&self, engine: &Engine) -> bool {
        let seconds = self.id.parse::<Cursor>().map_or(0, |place| place.seconds);
        seconds.saturating_mul(1000) < engine.written_before(KEPT_MS)
    }
}

/// The reader of a feed.
#[derive(Debug, Clone)]
pub(crate) enum Viewer {
    /// An operator.
    Operator,
    /// An account, for what concerns it in a region.
    Account(AccountId, RegionId),
}

impl Viewer {
    /// An account in a region; without one, an operator.
    pub(crate) fn of(owner: Option<(AccountId, RegionId)>) -> Self {
        owner.map_or(Viewer::Operator, |(account, region)| Viewer::Account(account, region))
    }

    /// The account.
    pub(crate) fn account(&self) -> Option<&AccountId> {
        match self {
            Viewer::Operator => None,
            Viewer::Account(account, _) => Some(account),
        }
    }

    /// An event as the viewer sees it; none if it is not visible.
    fn show(&self, event: &Event, time_ms: u64, next: Cursor) -> Option<EventView> {
        let (role, account_ids) = match self {
            Viewer::Operator => {
                let accounts: Vec<String> = event.told.iter().map(|told| told.account.to_string()).collect();
                (None, (!accounts.is_empty()).then_some(accounts))
            }
            Viewer::Account(account, region) => {
                let told = event.recipient(account, region)?;
                (Some(told.role.clone()).filter(|role| !role.is_empty()), None)
            }
        };
        let target = |what: &str| event.kind.starts_with(what).then(|| event.target.clone());
        let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Some(EventView {
            id: next.to_string(),
            kind: event.kind.clone(),
            time: timestamp_ms(time_ms),
            vpc_peering_id: target("peering."),
            vpc_peering_name: said(&event.name),
            account_id: target("account."),
            host: target("host."),
            state: said(&event.state),
            role,
            bandwidth: event.bandwidth,
            account_ids,
        })
    }
}

/// Consecutive events.
struct Found {
    events: Vec<EventView>,
    /// The position after them.
    next: Cursor,
    /// Whether there are more events after that position already.
    more: bool,
}

/// How to handle events that were dropped prematurely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A position before them is refused.
    Tell,
    /// The remaining events after a position are returned.
    PassOver,
}

/// Events after a position. Blocks on the store.
fn page(
    engine: &Engine,
    viewer: &Viewer,
    from: Option<Cursor>,
    limit: usize,
    missing: Missing,
) -> Result<Found, FeedError> {
    let oldest_ms = engine.written_before(KEPT_MS.min(engine.trail_kept_ms()));
    let seconds = engine.now_ms() / 1000;
    // Before anything is read: events that arrive meanwhile are found, or come after it.
    let newest = engine.store().newest_entry()?;
    let restores = engine.read(|state, _| state.meta().restores);
    // Without a position: from the oldest one after which nothing is missing.
    let first = || {
        let gap = || engine.store().event_gap(viewer.account());
        let number = if missing == Missing::Tell { gap()? + 1 } else { 1 };
        Ok::<_, StoreError>(Cursor { number, index: 0, seconds, restores })
    };
    let (mut found, mut place) = (Vec::new(), from.map_or_else(first, Ok)?);
    place.seconds = place.seconds.max(seconds);
    let expired = |rule: &'static str| Err(FeedError::Expired(rule));
    if from.is_some_and(|from| from.seconds.saturating_mul(1000) < oldest_ms) {
        return expired("events are kept for 7 days, and this place is before them");
    }
    if place.number > newest + 1 || place.restores != restores {
        return expired("this cursor is from another store; the store may have been restored from a backup");
    }
    for _ in 0..ROUNDS {
        let entries = engine.store().entries_with_events(viewer.account(), place.number, AT_ONCE)?;
        // After they were read: what is dropped meanwhile is missing too.
        if missing == Missing::Tell && place.number <= engine.store().event_gap(viewer.account())? {
            return expired("some of the following events were dropped, since the audit trail is full");
        }
        let more = entries.len() == AT_ONCE;
        for (number, entry) in entries {
            if entry.time_ms >= oldest_ms {
                // Taken from the event rather than the query: an event has one id, and a position in the middle expires with what follows it.
                place.seconds = entry.time_ms / 1000;
            }
            for (index, event) in entry.events.iter().enumerate() {
                if (number, index) < (place.number, place.index) {
                    continue;
                }
                (place.number, place.index) = (number, index + 1);
                let shown = viewer.show(event, entry.time_ms, place).filter(|_| entry.time_ms >= oldest_ms);
                found.extend(shown);
                if found.len() == limit {
                    return Ok(Found { events: found, next: place, more: true });
                }
            }
            (place.number, place.index) = (number + 1, 0);
        }
        if !more {
            let next = place.max(Cursor { number: newest + 1, index: 0, seconds, restores });
            return Ok(Found { events: found, next, more: false });
        }
    }
    Ok(Found { events: found, next: place, more: true })
}

/// The next events after a position, if there are any, and the position after what was examined.
pub(crate) async fn look(
    engine: &Arc<Engine>,
    viewer: &Viewer,
    from: Option<Cursor>,
    limit: usize,
) -> Result<(Vec<EventView>, Cursor), FeedError> {
    look_for(engine, viewer, from, limit, Missing::Tell).await
}

/// The same, with a choice of how to handle dropped events.
pub(crate) async fn look_for(
    engine: &Arc<Engine>,
    viewer: &Viewer,
    mut from: Option<Cursor>,
    limit: usize,
    missing: Missing,
) -> Result<(Vec<EventView>, Cursor), FeedError> {
    loop {
        let (engine, viewer) = (Arc::clone(engine), viewer.clone());
        let found = tokio::task::spawn_blocking(move || page(&engine, &viewer, from, limit, missing)).await;
        let Found { events, next, more } = found??;
        // Much of the trail may be older than events are, or belong to another region.
        if !events.is_empty() || !more {
            return Ok((events, next));
        }
        from = Some(next);
    }
}

/// The position after everything that has happened.
pub(crate) async fn latest(engine: &Arc<Engine>) -> Result<Cursor, FeedError> {
    let own = Arc::clone(engine);
    let newest = tokio::task::spawn_blocking(move || own.store().newest_entry()).await??;
    let restores = engine.read(|state, _| state.meta().restores);
    Ok(Cursor { number: newest + 1, index: 0, seconds: engine.now_ms() / 1000, restores })
}

#[cfg(test)]
mod tests;
