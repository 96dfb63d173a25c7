//! Events: as a list, by waiting for them, and as a stream (server-sent events).

use super::{
    console::Subscription,
    query::Parameters,
    request::{Regional, RequestContext},
    response::{EXPIRED, Envelope, Errors, Failure, reply},
};
use crate::{
    engine::Engine,
    events::{Cursor, Event, KEPT_MS},
    model::{Code, CommandError},
    store::StoreError,
};
use axum::{
    extract::RawQuery,
    http::{Extensions, HeaderMap, header},
    response::{
        IntoResponse as _, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use cps_peering_config::{
    id::{AccountId, RegionId},
    text::quote,
    time::timestamp_ms,
};
use futures_util::stream;
use serde::Serialize;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use utoipa::ToSchema;

/// The longest that is waited for an event, in seconds.
const LONGEST_WAIT_S: u64 = 25;
/// The most events of one answer.
const MOST: u64 = 1000;
/// How many, where nothing is said.
const USUAL: usize = 100;
/// How many entries of the audit trail are looked at together, and how often for one answer.
const AT_ONCE: usize = 500;
const ROUNDS: usize = 20;

/// One thing that happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    /// What to ask for with `after` to get what follows.
    #[schema(example = "4711.1.1767225600")]
    id: String,
    /// What happened: `peering.requested`, `.created`, `.accepted`, `.rejected`, `.expired`, `.active`, `.outOfSync`, `.inSync`,
    /// `.bandwidthChanged`, `.modified`, `.cidrsChanged`, `.suspended`, `.resumed`, `.deleted`, `.drained`, `.recordDeleted`;
    /// `account.chargeStatusChanged`; for operators `host.added`, `.removed`, `.drained`, `.uncordoned`, `.paused`, `.resumed`,
    /// `.outOfSync`, `.inSync`, `rollout.stopped`, `rollout.finished`. There may be more.
    #[serde(rename = "type")]
    #[schema(example = "peering.active")]
    kind: String,
    /// When.
    time: String,
    /// To which peering.
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_peering_id: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_peering_name: Option<String>,
    /// To which account.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    /// For operators: to which host.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// The state of the peering after it, or how the account stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// What the caller is in the peering: `initiator` or `receiver`.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// The peering's bandwidth after it, in Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u32>,
    /// For operators: the accounts that are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_ids: Option<Vec<String>>,
}

impl EventView {
    /// Its id: the place behind it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What happened.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// When.
    pub(crate) fn time(&self) -> &str {
        &self.time
    }

    /// Whether it is so old that nobody can ask for it any more.
    pub(crate) fn is_expired(&self, engine: &Engine) -> bool {
        let seconds = self.id.parse::<Cursor>().map_or(0, |place| place.seconds);
        seconds.saturating_mul(1000) < engine.written_before(KEPT_MS)
    }
}

/// Events in the order in which they happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Events {
    /// What happened.
    events: Vec<EventView>,
    /// What to ask for with `after` to get what follows, whether or not there was anything.
    next_after: String,
}

/// Who listens.
#[derive(Debug, Clone)]
pub(crate) enum Viewer {
    /// Who runs the cloud.
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

    /// An event as it is shown; none where it is not told.
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

/// What was asked for.
struct Asked {
    viewer: Viewer,
    /// None for the oldest that is kept.
    from: Option<Cursor>,
    /// Whether only what comes is of interest.
    latest: bool,
    limit: usize,
    wait: Duration,
}

impl Asked {
    fn read(viewer: Viewer, query: Option<&str>, headers: &HeaderMap) -> Result<Self, Failure> {
        let parameters = Parameters::read(query, &["after", "limit", "wait"], &[])?;
        // A browser that comes back says what it had.
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let after = last.or_else(|| parameters.get("after"));
        let latest = after == Some("latest");
        let from = after.filter(|_| !latest).map(|after| {
            let rule =
                || format!("{} is not a valid event cursor: use `nextAfter`, an event's `id`, or latest", quote(after));
            after.parse::<Cursor>().map_err(|()| Failure::field("after", rule()))
        });
        let limit = parameters.number("limit", 1, MOST)?;
        Ok(Self {
            viewer,
            from: from.transpose()?,
            latest,
            limit: limit.map_or(USUAL, |limit| usize::try_from(limit).unwrap_or(USUAL)),
            wait: Duration::from_secs(parameters.number("wait", 0, LONGEST_WAIT_S)?.unwrap_or(0)),
        })
    }
}

/// Events that follow each other.
struct Found {
    events: Vec<EventView>,
    /// The place behind them.
    next: Cursor,
    /// Whether there is more behind that place already.
    more: bool,
}

/// What is done about events that are gone before their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A place before them is refused.
    Tell,
    /// What is left behind a place is found.
    PassOver,
}

/// Events from a place on. Blocks on the store.
fn page(
    engine: &Engine,
    viewer: &Viewer,
    from: Option<Cursor>,
    limit: usize,
    missing: Missing,
) -> Result<Found, Failure> {
    let oldest_ms = engine.written_before(KEPT_MS.min(engine.trail_kept_ms()));
    let seconds = engine.now_ms() / 1000;
    // Before anything is looked at: what comes meanwhile is found, or behind it.
    let newest = engine.store().newest_entry()?;
    let restores = engine.read(|state, _| state.meta().restores);
    // Without a place: from the oldest behind which nothing is missing.
    let first = || {
        let gap = || engine.store().event_gap(viewer.account());
        let number = if missing == Missing::Tell { gap()? + 1 } else { 1 };
        Ok::<_, StoreError>(Cursor { number, index: 0, seconds, restores })
    };
    let (mut found, mut place) = (Vec::new(), from.map_or_else(first, Ok)?);
    place.seconds = place.seconds.max(seconds);
    let expired = |rule: &str| {
        let rule = format!("{rule}: list what there is, and go on with after=latest");
        Err(CommandError::one(Code::FailedPrecondition, "after", rule, EXPIRED).into())
    };
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
            return expired("some of what follows this place had to go, since the audit trail has no more room");
        }
        let more = entries.len() == AT_ONCE;
        for (number, entry) in entries {
            if entry.time_ms >= oldest_ms {
                // By the event, not by who reads it when: an event has one id, and a place in the middle expires with what follows it.
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

/// The next events from a place on, if there are any, and the place behind what was looked at.
pub(crate) async fn look(
    engine: &Arc<Engine>,
    viewer: &Viewer,
    from: Option<Cursor>,
    limit: usize,
) -> Result<(Vec<EventView>, Cursor), Failure> {
    look_for(engine, viewer, from, limit, Missing::Tell).await
}

/// The same, where it is said what is done about events that are gone.
pub(crate) async fn look_for(
    engine: &Arc<Engine>,
    viewer: &Viewer,
    mut from: Option<Cursor>,
    limit: usize,
    missing: Missing,
) -> Result<(Vec<EventView>, Cursor), Failure> {
    loop {
        let (engine, viewer) = (Arc::clone(engine), viewer.clone());
        let found = tokio::task::spawn_blocking(move || page(&engine, &viewer, from, limit, missing)).await;
        let Found { events, next, more } = found.map_err(|error| Failure::internal(error.to_string()))??;
        // Much of the trail may be older than events are, or of another region.
        if !events.is_empty() || !more {
            return Ok((events, next));
        }
        from = Some(next);
    }
}

/// The place behind everything that has happened.
pub(crate) async fn latest(engine: &Arc<Engine>) -> Result<Cursor, Failure> {
    let own = Arc::clone(engine);
    let newest: Result<u64, StoreError> = tokio::task::spawn_blocking(move || own.store().newest_entry())
        .await
        .map_err(|error| Failure::internal(error.to_string()))?;
    let restores = engine.read(|state, _| state.meta().restores);
    Ok(Cursor { number: newest? + 1, index: 0, seconds: engine.now_ms() / 1000, restores })
}

async fn answer(
    context: RequestContext,
    asked: Asked,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let engine = Arc::clone(&context.api.engine);
    let streams = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let is_stream = streams.flat_map(|accept| accept.split(',')).any(|it| it.trim().starts_with("text/event-stream"));
    let from = if asked.latest { Some(latest(&engine).await?) } else { asked.from };
    if is_stream {
        let subscription = Subscription::open_stream(context, extensions, headers)?;
        // A place that is none is told before there is a stream.
        let (events, next) = look(&engine, &asked.viewer, from, asked.limit).await?;
        return Ok(stream(engine, subscription, asked, events, next));
    }
    if asked.wait.is_zero() {
        let (events, next) = look(&engine, &asked.viewer, from, asked.limit).await?;
        return reply(Events { events, next_after: next.to_string() }).map(axum::response::IntoResponse::into_response);
    }
    let mut subscription = Subscription::open(context, extensions, headers)?;
    let until = tokio::time::Instant::now() + asked.wait;
    let mut listening = engine.listeners().listen(asked.viewer.account().cloned());
    let mut from = from;
    loop {
        let (events, next) = look(&engine, &asked.viewer, from, asked.limit).await?;
        let over = if events.is_empty() {
            tokio::select! {
                () = listening.told() => false,
                () = tokio::time::sleep_until(until) => true,
                () = subscription.ended() => true,
            }
        } else {
            true
        };
        if over {
            let answer = reply(Events { events, next_after: next.to_string() });
            return answer.map(axum::response::IntoResponse::into_response);
        }
        from = Some(next);
    }
}

/// What a stream has to say next.
struct Feed {
    engine: Arc<Engine>,
    subscription: Subscription,
    asked: Asked,
    waiting: VecDeque<EventView>,
    next: Cursor,
}

impl Feed {
    /// None when the stream ends.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                let data = serde_json::to_string(&event).unwrap_or_default();
                return Some(sse::Event::default().id(event.id).event(event.kind).data(data));
            }
            // Also where there is always something to be told.
            if !self.subscription.is_authorized() {
                return None;
            }
            let engine = Arc::clone(&self.engine);
            let mut listening = engine.listeners().listen(self.asked.viewer.account().cloned());
            let looked = look(&engine, &self.asked.viewer, Some(self.next), self.asked.limit).await;
            // Whoever comes back is told what is wrong.
            let (events, next) = looked.ok()?;
            self.next = next;
            if events.is_empty() {
                tokio::select! {
                    () = listening.told() => {}
                    () = self.subscription.ended() => return None,
                }
            }
            self.waiting.extend(events);
        }
    }
}

fn stream(
    engine: Arc<Engine>,
    subscription: Subscription,
    asked: Asked,
    events: Vec<EventView>,
    next: Cursor,
) -> Response {
    let feed = Feed { engine, subscription, asked, waiting: events.into(), next };
    let events = stream::unfold(feed, async |mut feed| Some((Ok::<_, Infallible>(feed.next().await?), feed)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// What happened to the account's peerings in a region, and to the account: ordered, each change once, for 7 days. With `wait` it is
/// waited for the next event; with `Accept: text/event-stream` events come as they happen, and `Last-Event-ID` says after which.
#[utoipa::path(get, path = "/v1/regions/{regionId}/events", tag = "events", operation_id = "describeEvents",
    params(("regionId" = String, Path),
        ("after" = Option<String>, Query, description = "`nextAfter` of the answer before, an event's `id`, or `latest`; by default \
            the oldest event is the first", example = "latest"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("wait" = Option<u32>, Query, maximum = 25, description = "For how many seconds it is waited where there is no event yet")),
    responses((status = 200, content((Envelope<Events> = "application/json"), (String = "text/event-stream"))), Errors))]
pub(super) async fn own(
    regional: Regional,
    RawQuery(query): RawQuery,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let viewer = Viewer::Account(regional.account.clone(), regional.region.clone());
    let asked = Asked::read(viewer, query.as_deref(), &headers)?;
    answer(regional.context, asked, extensions, headers).await
}

/// What happened to peerings, accounts and hosts: ordered, each change once, for 7 days. Like the accounts' `events`.
#[utoipa::path(get, path = "/admin/v1/events", tag = "operators", operation_id = "events",
    params(("after" = Option<String>, Query, example = "latest"), ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("wait" = Option<u32>, Query, maximum = 25)),
    responses((status = 200, content((Envelope<Events> = "application/json"), (String = "text/event-stream"))), Errors))]
pub(super) async fn all(
    context: RequestContext,
    RawQuery(query): RawQuery,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let asked = Asked::read(Viewer::Operator, query.as_deref(), &headers)?;
    answer(context, asked, extensions, headers).await
}

#[cfg(test)]
mod tests;
