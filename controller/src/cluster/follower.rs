//! Requests to controllers that share a store: those that do not lead forward them to the leader.

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

/// The identity of the client by its certificate: a header for each name. Trusted only from another controller.
const CLIENT: HeaderName = HeaderName::from_static("x-cps-peering-client");
/// The address that a forwarded request came from. Trusted likewise.
const FORWARDED: HeaderName = HeaderName::from_static("x-cps-peering-forwarded");

/// A controller that does not lead.
#[derive(Clone)]
pub struct Follower {
    /// The URL of the leader; none if it is unknown.
    pub leader: watch::Receiver<Option<String>>,
    /// What would keep this controller from leading; none if nothing is known.
    pub obstacle: watch::Receiver<Option<String>>,
    /// The client for the leader.
    pub forwarder: Forwarder,
    /// How many requests can be in flight to it, shared by the addresses that they come from.
    pub under_way: Arc<FairShare<Source>>,
    /// What is answered without a leader.
    pub last_known: Arc<LastKnown>,
}

/// The routes of a follower: its own health and metrics, and what is the same everywhere; everything else is forwarded.
pub fn follower_routes(follower: Follower, registry: &Arc<Registry>) -> Router {
    let metrics = api::metrics_route(Arc::clone(registry));
    let pass: Router = Router::new()
        // Separate from the console's files, which have a route for everything below `/console/`.
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

/// The routes of a leader: everything, also for forwarded requests, as long as it leads.
pub fn leader_routes(engine: &Arc<Engine>, routes: Router) -> Router {
    let own = Arc::clone(engine);
    Router::new()
        .merge(api::health_routes(move || own.health(), Some("leader")))
        .fallback_service(routes)
        .layer(middleware::from_fn_with_state(Arc::clone(engine), while_leading))
        .layer(middleware::from_fn(from_others))
}

/// Whether requests are answered: the leader is known, and ready.
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

/// Forwards a request; if the leader cannot be reached, reads are answered from the copy.
async fn pass_on(State(follower): State<Follower>, request: Request) -> Response {
    const NO_LEADER: &str = "no controller leads at the moment: ask again in a second";
    let again = LastKnown::could_answer(&request).then(|| copied(&request));
    let last_known = Arc::clone(&follower.last_known);
    let (failed, why) = if follower.leader.borrow().is_none() {
        (api::unavailable(NO_LEADER), "no controller leads")
    } else {
        match forward(follower, request).await {
            // A former leader that does not know the new one yet answers like this; so does a leader that cannot read its store.
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

/// Forwards to the leader. The error is the response if it did not answer.
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
    // The permit is held until the client has the whole response, whose length is not known here.
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

/// The headers that tell the leader the client's certificate and address.
fn who_asks(request: &Request) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = address.and_then(|ConnectInfo(address)| address.ip().to_string().parse().ok());
    headers.insert(FORWARDED, address.unwrap_or(HeaderValue::from_static("unknown")));
    // An empty one says that there is no certificate: this controller's own does not count.
    headers.insert(CLIENT, HeaderValue::from_static(""));
    for name in request.extensions().get::<Peer>().cloned().unwrap_or_default().names {
        if let Ok(name) = name.parse() {
            headers.append(CLIENT, name);
        }
    }
    headers
}

/// Gives requests that another controller forwarded the names and addresses of their clients; other clients cannot claim
/// any.
async fn from_others(mut request: Request, next: Next) -> Response {
    let by_controller = request.extensions().get::<Peer>().is_some_and(|peer| peer.is(CONTROLLER));
    if by_controller && request.headers().contains_key(CLIENT) {
        let said = request.headers().get_all(CLIENT).iter().filter_map(|name| name.to_str().ok());
        let names = said.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        request.extensions_mut().insert(Peer::named(names));
        let address = request.headers().get(FORWARDED).and_then(|address| address.to_str().ok()?.parse().ok());
        if let Some(address) = address {
            // Nothing depends on the port.
            request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address, 0)));
        }
        // The connection belongs to the other controller, whoever its client is.
        request.extensions_mut().remove::<Connection>();
    }
    request.headers_mut().remove(CLIENT);
    request.headers_mut().remove(FORWARDED);
    next.run(request).await
}

/// A result may be outdated by the time it is sent: another controller may lead by then.
async fn while_leading(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    if engine.leadership().holds() {
        return answer;
    }
    api::unavailable("this controller lost leadership, and it is unknown whether the request was carried out")
}
