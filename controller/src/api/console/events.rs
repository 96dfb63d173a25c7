//! Changes as server-sent events: for an account first everything that it sees and then what changes, so that its pages need not poll;
//! for operators only the fact that something has changed.

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
use cps_peering_config::id::RegionId;
use cps_peering_http::tls::Peer;
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time};

/// How many streams one account, or the operators, can have: each page that is shown holds one.
const MOST: usize = 32;
/// How often a stream sends a sign of life, and checks that the client is still connected and its session still valid.
const ALIVE: Duration = Duration::from_secs(15);
/// Changes within this time are sent together.
const TOGETHER: Duration = Duration::from_millis(200);
/// The same for operators, whose pages reload everything.
const TOGETHER_FOR_OPERATORS: Duration = Duration::from_secs(1);

/// The open streams.
#[derive(Debug)]
pub struct Streams {
    by_caller: Mutex<HashMap<String, usize>>,
    closed: watch::Sender<bool>,
    /// Changes when credentials do.
    credentials: watch::Sender<u64>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { by_caller: Mutex::default(), closed: watch::Sender::new(false), credentials: watch::Sender::new(0) }
    }
}

impl Streams {
    /// Ends all streams and refuses new ones: they would delay the shutdown of the server.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Ends the streams whose credentials are no longer valid.
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

/// What an account sees, by key: `peering/REGION/ID`, `vpc/REGION/ID`, `account`. Operators see more than can be
/// sent repeatedly: for them only the revision, which shows that something has changed.
fn seen_by(actor: &Actor, state: &State, agents: &Agents<'_>, now_ms: u64) -> BTreeMap<String, Value> {
    let mut seen = BTreeMap::new();
    let mut add = |key: String, value: serde_json::Result<Value>| drop(seen.insert(key, value.unwrap_or_default()));
    if let Actor::Account(id) = actor {
        for peering in state.peerings_of_account(id) {
            let regions: BTreeSet<&RegionId> = peering.sides().into_iter().map(|side| &side.region).collect();
            for region in regions {
                let Some(own) = role(peering, id, Some(region)) else { continue };
                let mut view = view::peering(state, agents, peering, own, view::Viewer::Account(id), now_ms);
                // While all is well they change with each report.
                if view.routes_in_sync {
                    (view.last_report, view.last_confirmed) = (None, None);
                }
                view.report_age_seconds = None;
                // It changes all the time.
                view.path_health = None;
                add(format!("peering/{region}/{}", peering.id), serde_json::to_value(&view));
            }
        }
        for vpc in state.vpcs_of(id) {
            add(format!("vpc/{}/{}", vpc.region, vpc.id), serde_json::to_value(view::vpc(vpc)));
        }
        let account = state.account(id);
        let regions: Vec<&RegionId> = state.regions().keys().collect();
        let (charge, blocked, quotas) = (account.charge.word(), &account.blocked, &account.quotas);
        let about = json!({ "chargeStatus": charge, "blocked": blocked, "quotas": quotas, "regions": regions });
        add("account".to_owned(), Ok(about));
    } else {
        let mut hasher = DefaultHasher::new();
        state.meta().number.hash(&mut hasher);
        for host in state.hosts().values() {
            let view::HostView { applied, in_sync, problems, last_error, .. } = view::host(state, agents, host);
            let said = serde_json::to_string(&(applied, in_sync, problems, last_error));
            said.unwrap_or_default().hash(&mut hasher);
        }
        add("cloud".to_owned(), Ok(hasher.finish().into()));
    }
    seen
}

/// A listener, valid as long as its credential is.
pub(in crate::api) struct Subscription {
    pub(in crate::api) context: RequestContext,
    headers: HeaderMap,
    /// The client's certificate, which authenticates for as long as the connection lasts.
    extensions: Extensions,
    closed: watch::Receiver<bool>,
    credentials: watch::Receiver<u64>,
    _place: Place,
}

impl Subscription {
    /// Takes one of the caller's places.
    pub(in crate::api) fn open(
        context: RequestContext,
        extensions: Extensions,
        headers: HeaderMap,
    ) -> Result<Self, Failure> {
        let Some(place) = context.api.streams.enter(context.caller.word()) else {
            return Err(Failure::too_many(format!("{} has {MOST} streams already", context.caller.word())));
        };
        let closed = context.api.streams.closed.subscribe();
        let credentials = context.api.streams.credentials.subscribe();
        Ok(Self { context, headers, extensions, closed, credentials, _place: place })
    }

    /// The same for a stream, which outlasts a signature.
    pub(in crate::api) fn open_stream(
        context: RequestContext,
        extensions: Extensions,
        headers: HeaderMap,
    ) -> Result<Self, Failure> {
        if context.caller.signed.is_some() {
            return Err(Failure::forbidden("a signature is only valid for a moment: use a token or a session"));
        }
        Self::open(context, extensions, headers)
    }

    /// Completes when the caller is no longer authorised: the server ends, or the credential is no longer valid.
    pub(in crate::api) async fn ended(&mut self) {
        let mut alive = time::interval_at(time::Instant::now() + ALIVE, ALIVE);
        loop {
            tokio::select! {
                _ = self.closed.wait_for(|closed| *closed) => return,
                changed = self.credentials.changed() => if changed.is_err() { return },
                _ = alive.tick() => {}
            }
            if !self.is_authorized() {
                return;
            }
        }
    }

    pub(in crate::api) fn is_authorized(&self) -> bool {
        let RequestContext { api: Api { access, diagnosed, .. }, caller, .. } = &self.context;
        let peer = self.extensions.get::<Peer>();
        if peer.is_some_and(|peer| diagnosed.identity.as_ref().is_some_and(|own| own.is_revoked(peer))) {
            return false;
        }
        // A signature was valid when it arrived, and such a request only waits for moments.
        if caller.signed.is_some() {
            return true;
        }
        if let Some(operator) = operator_by_certificate(access, &self.extensions, &self.headers) {
            return caller.operator.as_ref() == Some(&operator);
        }
        let parts = Parts { method: "GET", path: "", query: "", headers: &self.headers, body: NO_BODY };
        access
            .whose_by_itself(&parts)
            .is_ok_and(|now| (now.actor, now.operator) == (caller.actor.clone(), caller.operator.clone()))
    }
}

struct Listener {
    subscription: Subscription,
    ticks: watch::Receiver<u64>,
    /// What was sent last, as hashes; none before the first event.
    told: Option<BTreeMap<String, u64>>,
}

impl Listener {
    /// The next event: what is new or has changed, and what is gone; none if nothing has.
    fn look(&mut self) -> Option<Event> {
        let RequestContext { api: Api { engine, .. }, caller, .. } = &self.subscription.context;
        let now_ms = engine.now_ms();
        let seen = engine.read(|state, agents| seen_by(&caller.actor, state, agents, now_ms));
        let short = |value: &Value| {
            let mut hasher = DefaultHasher::new();
            value.to_string().hash(&mut hasher);
            hasher.finish()
        };
        let now: BTreeMap<String, u64> = seen.iter().map(|(key, value)| (key.clone(), short(value))).collect();
        let before = self.told.replace(now.clone());
        let all = before.is_none();
        let before = before.unwrap_or_default();
        let set: BTreeMap<&String, &Value> = seen.iter().filter(|(key, _)| before.get(*key) != now.get(*key)).collect();
        let gone: Vec<&String> = before.keys().filter(|key| !now.contains_key(*key)).collect();
        if !all && set.is_empty() && gone.is_empty() {
            return None;
        }
        let is_account = caller.actor.account().is_some();
        let mut said = if is_account { json!({ "all": all, "set": set, "gone": gone }) } else { json!({}) };
        if all {
            // Pages take a stream that is silent for much longer as lost.
            said["aliveSeconds"] = ALIVE.as_secs().into();
        }
        Some(Event::default().event("changed").data(said.to_string()))
    }

    /// The next event; none when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        if self.told.is_none() {
            // First everything: pages that reconnect have missed nothing then.
            return self.look();
        }
        let mut alive = time::interval_at(time::Instant::now() + ALIVE, ALIVE);
        loop {
            let quiet = tokio::select! {
                closed = async { self.subscription.closed.wait_for(|closed| *closed).await.is_ok() } => {
                    tracing::trace!(closed, "streams end");
                    return None;
                }
                changed = self.subscription.credentials.changed() => {
                    changed.ok()?;
                    if !self.subscription.is_authorized() {
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
                // Not an SSE comment: browsers do not show those to pages.
                return self.subscription.is_authorized().then(|| Event::default().event("alive").data("{}"));
            }
            time::sleep(if self.subscription.context.caller.actor.account().is_some() {
                TOGETHER
            } else {
                TOGETHER_FOR_OPERATORS
            })
            .await;
            self.ticks.borrow_and_update();
            if let Some(event) = self.look() {
                return self.subscription.is_authorized().then_some(event);
            }
        }
    }
}

/// Streams changes to a caller, for as long as it listens.
pub(super) async fn events(
    context: RequestContext,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let subscription = Subscription::open_stream(context, extensions, headers)?;
    let mut ticks = subscription.context.api.engine.changes();
    ticks.borrow_and_update();
    let listener = Listener { subscription, ticks, told: None };
    let events = stream::unfold(listener, async |mut listener| Some((Ok(listener.next().await?), listener)));
    Ok(Sse::new(events))
}
