//! Simulated agents: all of a cloud's in one process, behind one listener. Each has a loopback address of its own.
//!
//! They speak the agents' protocol with its types and checks ([`ValidHostConfig`]): whole configurations, patches with
//! their bases, revisions that only go up, shares, counters, reports with standings. Their kernels apply everything
//! instantly.

use super::cloud::{AGENT_PORT, host_at};
use anyhow::{Context, Result};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use cps_peering_config::{
    HostConfig, HostPatch, HostReport, Revision, ValidHostConfig,
    agent_api::{CONFIG_PATH, ErrorBody, SHARES_PATH, STATUS_PATH, TRAFFIC_PATH},
    host_config::Share,
    net::Vni,
    report::Counters,
    traffic::{Count, Grants, SideTraffic, TrafficReport},
};
use cps_peering_http::Limits;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Totals of all agents.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sums {
    /// Whole configurations received.
    pub(crate) puts: usize,
    /// Patches received.
    pub(crate) patches: usize,
    /// Status requests.
    pub(crate) statuses: usize,
    /// Grants, and traffic requests.
    pub(crate) others: usize,
}

/// Where the totals are read, on any of their addresses.
pub(crate) const SUMS_PATH: &str = "/sums";
/// Where the last of the hosts, by number, are silenced.
pub(crate) const AWAY_PATH: &str = "/away";

#[derive(Default)]
struct Agent {
    config: Option<ValidHostConfig>,
    grants: Option<Revision>,
    shares: BTreeMap<Vni, Share>,
}

#[derive(Default)]
struct All {
    agents: Vec<Mutex<Agent>>,
    sums: [AtomicUsize; 4],
    away: AtomicUsize,
}

impl All {
    fn count(&self, what: usize) {
        self.sums[what].fetch_add(1, Ordering::Relaxed);
    }

    /// The agent that a request is for.
    fn agent(&self, headers: &HeaderMap) -> Option<(usize, MutexGuard<'_, Agent>)> {
        let number = meant(headers)?;
        Some((number, self.agents.get(number)?.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn meant(headers: &HeaderMap) -> Option<usize> {
    let host = headers.get("host")?.to_str().ok()?;
    host_at(host.split(':').next()?.parse::<Ipv4Addr>().ok()?)
}

fn refuse(status: StatusCode, message: &str, desired: Option<Revision>) -> Response {
    (status, Json(ErrorBody { message: message.to_owned(), desired })).into_response()
}

fn nobody() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is no such host", None)
}

impl Agent {
    fn revision(&self) -> Option<Revision> {
        self.config.as_ref().map(|config| config.revision)
    }

    fn report(&self) -> HostReport {
        HostReport {
            version: "simulated".to_owned(),
            host: self.config.as_ref().map(|config| config.host.clone()),
            desired: self.revision(),
            applied: self.revision(),
            problems: Vec::new(),
            counters: Counters { passes: 1, operations: 0, failures: 0, drift_repaired: 0, events_lost: 0 },
            last_pass: None,
            underlay_mtu: None,
            knows_scoped_sides: true,
            behind: Vec::new(),
            vrfs: BTreeMap::new(),
            sides: BTreeMap::new(),
        }
    }

    fn traffic(&self, limited: bool) -> TrafficReport {
        let Some(config) = &self.config else { return TrafficReport::default() };
        let sides = config.sides.iter().filter(|(_, side)| !limited || side.limit.is_some()).map(|(vni, side)| {
            let share = self.shares.get(vni).copied().or(side.limit.map(|limit| limit.share));
            let (peering, share) = (side.peering.clone(), side.limit.and(share));
            let (sent, received) = (Count::default(), Count::default());
            (*vni, SideTraffic { peering, sent, dropped: 0, received, backlog: 0, share })
        });
        TrafficReport { host: Some(config.host.clone()), grants: self.grants, reading: None, sides: sides.collect() }
    }
}

async fn put_config(State(all): State<Arc<All>>, headers: HeaderMap, body: Bytes) -> Response {
    all.count(0);
    // As in real agents, before anything waits.
    let config = serde_json::from_slice::<HostConfig>(&body).map_err(|error| error.to_string());
    let config = match config.and_then(|config| ValidHostConfig::try_from(config).map_err(|error| error.to_string())) {
        Ok(config) => config,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error, None),
    };
    let Some((number, mut agent)) = all.agent(&headers) else { return nobody() };
    if config.host.as_str() != format!("h{number}") {
        return refuse(StatusCode::BAD_REQUEST, "this configuration is another host's", None);
    }
    if agent.revision().is_some_and(|have| have > config.revision) {
        return refuse(StatusCode::CONFLICT, "older", agent.revision());
    }
    agent.config = Some(config);
    Json(agent.report()).into_response()
}

async fn patch_config(State(all): State<Arc<All>>, headers: HeaderMap, body: Bytes) -> Response {
    all.count(1);
    let patch: HostPatch = match serde_json::from_slice(&body) {
        Ok(patch) => patch,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string(), None),
    };
    let Some((_, mut agent)) = all.agent(&headers) else { return nobody() };
    let base = agent.config.as_ref().filter(|config| config.revision == patch.base);
    let Some(base) = base else { return refuse(StatusCode::CONFLICT, "another base", agent.revision()) };
    match base.patched(patch) {
        Ok(config) => agent.config = Some(config),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string(), None),
    }
    Json(agent.report()).into_response()
}

async fn status(State(all): State<Arc<All>>, headers: HeaderMap) -> Response {
    all.count(2);
    let Some((_, agent)) = all.agent(&headers) else { return nobody() };
    let report = agent.report();
    match &agent.config {
        Some(config) => Json(report.with_standings(config)).into_response(),
        None => Json(report).into_response(),
    }
}

async fn put_shares(State(all): State<Arc<All>>, headers: HeaderMap, Json(grants): Json<Grants>) -> Response {
    all.count(3);
    let Some((_, mut agent)) = all.agent(&headers) else { return nobody() };
    if agent.grants.is_some_and(|have| have >= grants.revision) {
        return refuse(StatusCode::CONFLICT, "older", None);
    }
    agent.grants = Some(grants.revision);
    agent.shares.extend(grants.sides);
    Json(agent.traffic(true)).into_response()
}

async fn traffic(State(all): State<Arc<All>>, headers: HeaderMap) -> Response {
    all.count(3);
    let Some((_, agent)) = all.agent(&headers) else { return nobody() };
    Json(agent.traffic(false)).into_response()
}

async fn sums(State(all): State<Arc<All>>) -> Json<Sums> {
    let [puts, patches, statuses, others] = all.sums.each_ref().map(|sum| sum.load(Ordering::Relaxed));
    Json(Sums { puts, patches, statuses, others })
}

async fn send_away(State(all): State<Arc<All>>, Json(count): Json<usize>) -> Json<usize> {
    all.away.store(count, Ordering::Relaxed);
    Json(count)
}

/// Keeps silenced hosts from responding.
async fn unless_away(State(all): State<Arc<All>>, request: Request, next: Next) -> Response {
    let here = all.agents.len().saturating_sub(all.away.load(Ordering::Relaxed));
    if request.uri().path() != AWAY_PATH && meant(request.headers()).is_some_and(|number| number >= here) {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}

/// Runs them until the process is ended.
pub(crate) fn run(hosts: usize) -> Result<()> {
    let all = Arc::new(All { agents: (0..hosts).map(|_| Mutex::default()).collect(), ..All::default() });
    let agents = Router::new()
        .route(CONFIG_PATH, put(put_config).patch(patch_config))
        .route(STATUS_PATH, get(status))
        .route(SHARES_PATH, put(put_shares))
        .route(TRAFFIC_PATH, get(traffic))
        .layer(middleware::from_fn_with_state(Arc::clone(&all), unless_away))
        .layer(axum::extract::DefaultBodyLimit::disable());
    let router = agents.route(SUMS_PATH, get(sums)).route(AWAY_PATH, put(send_away)).with_state(all);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("0.0.0.0", AGENT_PORT))
            .await
            .with_context(|| format!("cannot listen on port {AGENT_PORT}"))?;
        // All of them are called from one address.
        let most = 2 * hosts + 100;
        let limits = Limits { connections: 2 * most, reserved: 0, per_address: most, ..Limits::default() };
        cps_peering_http::serve_within(limits, listener, None, router, std::future::pending()).await;
        Ok(())
    })
}
