//! Events: as a list, with long polling, and as a stream (server-sent events).

use super::{
    console::Subscription,
    query::Parameters,
    request::{Regional, RequestContext},
    response::{Envelope, Errors, Failure, reply},
};
use crate::{
    engine::Engine,
    events::Cursor,
    feed::{EventView, Viewer, latest, look},
};
use axum::{
    extract::RawQuery,
    http::{Extensions, HeaderMap, header},
    response::{
        IntoResponse as _, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use cps_peering_config::text::quote;
use futures_util::stream;
use serde::Serialize;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use utoipa::ToSchema;

/// The longest wait for an event, in seconds.
const LONGEST_WAIT_S: u64 = 25;
/// The most events in one response.
const MOST: u64 = 1000;
/// The default.
const USUAL: usize = 100;
/// Events in the order in which they happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Events {
    /// The event type.
    events: Vec<EventView>,
    /// Value of `after` for the next request, also if there was no event.
    next_after: String,
}

/// The parameters of a request.
struct Asked {
    viewer: Viewer,
    /// None for the oldest event that is kept.
    from: Option<Cursor>,
    /// Whether only future events are of interest.
    latest: bool,
    limit: usize,
    wait: Duration,
}

impl Asked {
    fn read(viewer: Viewer, query: Option<&str>, headers: &HeaderMap) -> Result<Self, Failure> {
        let parameters = Parameters::read(query, &["after", "limit", "wait"], &[])?;
        // A browser that reconnects sends the id of its last event.
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
        // An invalid cursor is refused before a stream begins.
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

/// The state of a stream.
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
                return Some(sse::Event::default().id(event.id()).event(event.kind()).data(data));
            }
            // Also if there are always more events.
            if !self.subscription.is_authorized() {
                return None;
            }
            let engine = Arc::clone(&self.engine);
            let mut listening = engine.listeners().listen(self.asked.viewer.account().cloned());
            let looked = look(&engine, &self.asked.viewer, Some(self.next), self.asked.limit).await;
            // The client is told what is wrong when it reconnects.
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

/// What happened to the account's peerings in a region, and to the account: ordered, each change once, for 7 days. With `wait` the
/// request waits for the next event; with `Accept: text/event-stream` events are streamed, after the one in `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/regions/{regionId}/events", tag = "events", operation_id = "describeEvents",
    params(("regionId" = String, Path),
        ("after" = Option<String>, Query, description = "`nextAfter` of the answer before, an event's `id`, or `latest`; by default \
            the oldest event is the first", example = "latest"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("wait" = Option<u32>, Query, maximum = 25, description = "How long to wait for an event if there is none yet, in seconds")),
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
