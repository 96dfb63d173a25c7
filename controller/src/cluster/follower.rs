//! What controllers that share a store do with requests: those that do not lead pass them on to the one that does.

use super::last_known::LastKnown;
use crate::{
    api::{self, health::Readiness},
    engine::Engine,
};
use axum::body::HttpBody as _;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use cps_peering_config::tls::CONTROLLER;
use cps_peering_http::{
    Connection, REQUEST_TIMEOUT,
    forward::Forwarder,
    share::{FairShare, Held},
    source::Source,
    tls::Peer,
    within,
};
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Who the client is, by its certificate: one name each. Believed only of another controller.
const CLIENT: HeaderName = HeaderName::from_static("x-cps-peering-client");
/// That the request was passed on already, and from which address it came. Believed like the name.
const FORWARDED: HeaderName = HeaderName::from_static("x-cps-peering-forwarded");

/// A controller that does not lead.
#[derive(Clone)]
pub struct Follower {
    /// The URL of the one that leads; none while nobody is known to.
    pub leader: watch::Receiver<Option<String>>,
    /// What would keep this one from leading; none where nothing is known.
    pub obstacle: watch::Receiver<Option<String>>,
    /// The way there.
    pub forwarder: Forwarder,
    /// How many requests may be under way to it, shared by the addresses that they come from.
    pub under_way: Arc<FairShare<Source>>,
    /// What is answered where there is no way there.
    pub last_known: Arc<LastKnown>,
}

/// What a follower serves: its own health and figures, and what is the same everywhere; everything else is the leader's to answer.
pub fn follower_routes(follower: Follower, registry: &Arc<Registry>) -> Router {
    let metrics = api::metrics_route(Arc::clone(registry));
    let pass: Router = Router::new()
        // Beside the console's files, which have a route for all that is below `/console/`.
        .route("/console/session", any(pass_on))
        .route("/console/events", any(pass_on))
        .route("/readyz", get(readyz))
        .fallback(pass_on)
        .with_state(follower);
    Router::new()
        .route("/livez", get(api::health::livez))
        .route("/healthz", get(async || "ok follower\n"))
        .merge(metrics)
        .merge(api::static_routes())
        .merge(pass)
        .layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, within))
}

/// What a leader serves: everything, also to those whose requests were passed on, as long as it leads.
pub fn leader_routes(engine: &Arc<Engine>, routes: Router) -> Router {
    let own = Arc::clone(engine);
    Router::new()
        .merge(api::health_routes(move || own.health(), Some("leader")))
        .fallback_service(routes)
        .layer(middleware::from_fn_with_state(Arc::clone(engine), while_leading))
        .layer(middleware::from_fn(from_others))
}

/// Whether requests are answered: whether the leader is known, and says so of itself.
async fn readyz(State(follower): State<Follower>, request: Request) -> Response {
    const WITHIN: Duration = Duration::from_secs(3);
    const LONGEST: usize = 64 * 1024;
    let obstacle = follower.obstacle.borrow().clone();
    if follower.leader.borrow().is_none() {
        return Readiness::follower_without("NoLeader", "no controller leads").hindered(obstacle).into_response();
    }
    let asked = async {
        let answer = forward(follower, request).await.ok()?;
        let body = axum::body::to_bytes(answer.into_body(), LONGEST).await.ok()?;
        serde_json::from_slice::<Readiness>(&body).ok()
    };
    let leader = tokio::time::timeout(WITHIN, asked).await.ok().flatten();
    let answer = leader.map(|leader| Readiness { role: Some("follower".to_owned()), ..leader });
    let lost = || Readiness::follower_without("LeaderUnreachable", "the controller that leads does not answer");
    answer.unwrap_or_else(lost).hindered(obstacle).into_response()
}

/// Passes a request on; where the leader cannot be asked, what is only read is answered of the copy.
async fn pass_on(State(follower): State<Follower>, request: Request) -> Response {
    const NO_LEADER: &str = "no controller leads at the moment: ask again in a second";
    let again = LastKnown::could_answer(&request).then(|| copied(&request));
    let last_known = Arc::clone(&follower.last_known);
    let (failed, why) = if follower.leader.borrow().is_none() {
        (api::unavailable(NO_LEADER), "no controller leads")
    } else {
        match forward(follower, request).await {
            // So answers who has led, and does not know yet who does now; and a leader that cannot read its store.
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => (answer, "no leader has answered"),
            Ok(answer) => {
                last_known.is_needed(true);
                return answer;
            }
            Err(failed) => (failed, "the controller that leads does not answer"),
        }
    };
    let (true, Some(again)) = (last_known.is_needed(false), again) else { return failed };
    last_known.answer(again, why).await.unwrap_or(failed)
}

/// The same request without its body.
fn copied(request: &Request) -> Request {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// Asks the leader. An error is what is said where it did not answer.
async fn forward(mut follower: Follower, request: Request) -> Result<Response, Response> {
    let leader = follower.leader.borrow_and_update().clone();
    let Some(leader) = leader else {
        return Err(api::unavailable("no controller leads at the moment: ask again in a second"));
    };
    if request.headers().contains_key(FORWARDED) {
        return Ok(api::unavailable("this controller lost leadership: retry in a second"));
    }
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let mut place: Held<Source> = follower.under_way.hold(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into());
    if !place.take(1) {
        return Ok(api::unavailable(
            "too many requests are on their way to the controller that leads: ask again in a second",
        ));
    }
    let client = who_asks(&request);
    let gone = async {
        // The sender lives as long as the process.
        let _ = follower.leader.wait_for(|now| now.as_ref() != Some(&leader)).await;
    };
    let answer = tokio::select! {
        answer = follower.forwarder.forward(&leader, request, client) => answer.map_err(|error| {
            tracing::debug!(leader, %error, "a request was not answered");
            api::unavailable(&format!("the controller that leads, {leader}, does not answer: {error}"))
        })?,
        () = gone => return Err(api::unavailable(
            "the controller that led is gone, and whether it has done what was asked is not known",
        )),
    };
    // The way is taken until the client has all of the answer, whose length is not known behind it.
    let length = answer.body().size_hint().exact();
    let mut answer = answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _until_then = &place;
            frame
        }))
    });
    if let Some(length) = length {
        answer.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    Ok(answer)
}

/// What the leader is told of the client, by its certificate and address.
fn who_asks(request: &Request) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = address.and_then(|ConnectInfo(address)| address.ip().to_string().parse().ok());
    headers.insert(FORWARDED, address.unwrap_or(HeaderValue::from_static("unknown")));
    // One that is empty says that there is none: it is not this controller that asks.
    headers.insert(CLIENT, HeaderValue::from_static(""));
    for name in request.extensions().get::<Peer>().cloned().unwrap_or_default().names {
        if let Ok(name) = name.parse() {
            headers.append(CLIENT, name);
        }
    }
    headers
}

/// Gives requests that another controller passed on the names and addresses of their clients; others cannot give themselves
/// any.
async fn from_others(mut request: Request, next: Next) -> Response {
    let by_controller = request.extensions().get::<Peer>().is_some_and(|peer| peer.is(CONTROLLER));
    if by_controller && request.headers().contains_key(CLIENT) {
        let said = request.headers().get_all(CLIENT).iter().filter_map(|name| name.to_str().ok());
        let names = said.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        request.extensions_mut().insert(Peer::named(names));
        let address = request.headers().get(FORWARDED).and_then(|address| address.to_str().ok()?.parse().ok());
        if let Some(address) = address {
            // Of which port it was nothing depends.
            request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address, 0)));
        }
        // The connection is the other controller's, whoever asks.
        request.extensions_mut().remove::<Connection>();
    }
    request.headers_mut().remove(CLIENT);
    request.headers_mut().remove(FORWARDED);
    next.run(request).await
}

/// What was found out or done may be another's to say by the time it is answered.
async fn while_leading(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    if engine.leadership().holds() {
        return answer;
    }
    api::unavailable("this controller lost leadership, and it is unknown whether the request was carried out")
}
