//! Word of changes, as server-sent events: that something of the caller's has changed, not what. Pages ask for it then.

use crate::{
    access::signature::{NO_BODY, Parts},
    api::{Api, authentication::operator_by_certificate, request::RequestContext, response::Failure, view},
    engine::Agents,
    model::{Actor, peering::role, state::State},
};
use axum::{
    http::{Extensions, HeaderMap},
    response::sse::{Event, Sse},
};
use futures_util::stream::{self, Stream};
use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time};

/// How many streams one account, or the operators, may have: a stream is held by a page that is looked at.
const MOST: usize = 32;
/// How often it is looked whether anybody still listens, and whether the session still is one.
const ALIVE: Duration = Duration::from_secs(15);
/// What happens within such a time is told once.
const TOGETHER: Duration = Duration::from_millis(200);

/// The streams there are.
#[derive(Debug)]
pub struct Streams {
    by_caller: Mutex<HashMap<String, usize>>,
    closed: watch::Sender<bool>,
    /// Changes when credentials have.
    credentials: watch::Sender<u64>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { by_caller: Mutex::default(), closed: watch::Sender::new(false), credentials: watch::Sender::new(0) }
    }
}

impl Streams {
    /// Ends all streams, and those to come: they would hold up the end of the server.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Ends the streams of those whose credential is none any more.
    pub fn look_again(&self) {
        self.credentials.send_modify(|times| *times += 1);
    }

    fn enter(self: &Arc<Self>, caller: String) -> Option<Place> {
        let mut by_caller = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_caller.entry(caller.clone()).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        Some(Place { streams: Arc::clone(self), caller })
    }
}

/// The place of one stream.
struct Place {
    streams: Arc<Streams>,
    caller: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_caller = self.streams.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_caller.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                by_caller.remove(&self.caller);
            }
        }
    }
}

/// A number that is another when the caller would see something else.
fn seen_by(actor: &Actor, state: &State, agents: &Agents<'_>, now_ms: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut add = |value: serde_json::Result<String>| value.unwrap_or_default().hash(&mut hasher);
    if let Actor::Account(id) = actor {
        for peering in state.peerings_of_account(id) {
            let Some(own) = role(peering, id, None) else { continue };
            let mut seen = view::peering(state, agents, peering, own, view::Viewer::Account(id), now_ms);
            // While all is well they change with each report.
            if seen.routes_in_sync {
                (seen.last_report, seen.last_confirmed) = (None, None);
            }
            seen.report_age_seconds = None;
            add(serde_json::to_string(&seen));
        }
        for vpc in state.vpcs_of(id) {
            add(serde_json::to_string(&view::vpc(vpc)));
        }
        let account = state.account(id);
        add(serde_json::to_string(&(account.charge.word(), &account.blocked, &account.quotas)));
        add(serde_json::to_string(&state.regions().keys().collect::<Vec<_>>()));
    } else {
        add(serde_json::to_string(&state.meta().number));
        for host in state.hosts().values() {
            let view::HostView { applied, in_sync, problems, last_error, .. } = view::host(state, agents, host);
            add(serde_json::to_string(&(applied, in_sync, problems, last_error)));
        }
    }
    hasher.finish()
}

struct Listener {
    context: RequestContext,
    headers: HeaderMap,
    /// What the connection says of who listens: a certificate is good for as long as that.
    extensions: Extensions,
    ticks: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
    credentials: watch::Receiver<u64>,
    seen: Option<u64>,
    _place: Place,
}

impl Listener {
    fn look(&self) -> u64 {
        let RequestContext { api: Api { engine, .. }, caller, .. } = &self.context;
        let now_ms = engine.now_ms();
        engine.read(|state, agents| seen_by(&caller.actor, state, agents, now_ms))
    }

    fn may_listen(&self) -> bool {
        let RequestContext { api: Api { access, .. }, caller, .. } = &self.context;
        if let Some(operator) = operator_by_certificate(access, &self.extensions, &self.headers) {
            return caller.operator.as_ref() == Some(&operator);
        }
        let parts = Parts { method: "GET", path: "", query: "", headers: &self.headers, body: NO_BODY };
        access
            .whose(&parts)
            .is_ok_and(|now| (now.actor, now.operator) == (caller.actor.clone(), caller.operator.clone()))
    }

    /// What is to be told next; none when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        if self.seen.is_none() {
            // What happened before is asked for now: pages that come back have missed nothing then.
            self.seen = Some(self.look());
            return Some(Event::default().event("changed").data("{}"));
        }
        let mut alive = time::interval_at(time::Instant::now() + ALIVE, ALIVE);
        loop {
            let quiet = tokio::select! {
                closed = async { self.closed.wait_for(|closed| *closed).await.is_ok() } => {
                    tracing::trace!(closed, "streams end");
                    return None;
                }
                changed = self.credentials.changed() => {
                    changed.ok()?;
                    if !self.may_listen() {
                        return None;
                    }
                    continue;
                }
                _ = alive.tick() => true,
                changed = self.ticks.changed() => {
                    changed.ok()?;
                    false
                }
            };
            if quiet {
                return self.may_listen().then(|| Event::default().comment("still here"));
            }
            time::sleep(TOGETHER).await;
            self.ticks.borrow_and_update();
            let seen = self.look();
            if self.seen.replace(seen) != Some(seen) {
                return self.may_listen().then(|| Event::default().event("changed").data("{}"));
            }
        }
    }
}

/// Tells a caller that something of its own has changed, for as long as it listens.
pub(super) async fn events(
    context: RequestContext,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    if context.caller.signed.is_some() {
        return Err(Failure::forbidden("a signature is good for one moment: listen with a token or a session"));
    }
    let Some(place) = context.api.streams.enter(context.caller.word()) else {
        return Err(Failure::too_many(format!("{} listens {MOST} times already", context.caller.word())));
    };
    let mut ticks = context.api.engine.changes();
    ticks.borrow_and_update();
    let closed = context.api.streams.closed.subscribe();
    let credentials = context.api.streams.credentials.subscribe();
    let listener = Listener { context, headers, extensions, ticks, closed, credentials, seen: None, _place: place };
    let events = stream::unfold(listener, async |mut listener| Some((Ok(listener.next().await?), listener)));
    Ok(Sse::new(events))
}
