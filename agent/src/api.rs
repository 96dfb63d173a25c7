//! The agent's HTTP interface, see [`cps_peering_config::agent_api`].

use crate::{
    intake::{Base, ConfigStore, Intake, Push, Refused},
    ledger::Record,
    metrics::Metrics,
    probe::{ProbeError, Prober, SharedFigures},
    reconcile::Handle,
    shares::SharesFile,
    tls,
    trace::Tracer,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use cps_peering_config::{
    HostConfig, HostPatch, HostReport, Revision, ValidHostConfig,
    agent_api::{
        CLUSTER_HEADER, CLUSTER_PATH, CONFIG_PATH, DIAGNOSIS_PATH, ErrorBody, HEALTH_PATH, METRICS_PATH, PROBE_PATH,
        PROBES_PATH, PUSH_ANSWER_WITHIN, SHARES_PATH, STATUS_PATH, TRACE_ANSWER_WITHIN, TRACE_PATH, TRAFFIC_PATH,
    },
    cluster::ClusterId,
    format::{self, Decoded, FormatError},
    probe::{MAX_SIDES, ProbeReport},
    tls::{CONTROLLER, MONITORING, OPERATOR},
    trace::{PathEndpoints, TraceQuery},
    traffic::{Grants, TrafficReport},
};
use cps_peering_http::{
    REQUEST_TIMEOUT, headers,
    tls::{Identity, Peer, refuse_revoked},
    within,
};
use cps_peering_otlp::{Caller, Kind, Moment, Recorder, Span, TRACEPARENT, TraceParent};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, Semaphore},
    task::spawn_blocking,
    time::{timeout, timeout_at},
};

/// The largest push, in bytes: some ten million prefixes.
const MAX_BODY: usize = 512 * 1024 * 1024;

/// How long a request about shares or traffic may take to answer.
const ASKED_ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
struct Api {
    intake: Intake,
    /// Held while grants are accepted and stored, so that they are serialised.
    shares: Arc<Mutex<SharesFile>>,
    reconciler: Handle,
    probes: SharedFigures,
    metrics: Metrics,
    recorder: Recorder,
}

/// The routes, without access checks and probes. `accepted` is what the ledger held at start.
pub fn router(
    accepted: Option<Arc<ValidHostConfig>>,
    ledger: impl ConfigStore,
    shares: SharesFile,
    reconciler: Handle,
    recorder: Recorder,
) -> Router {
    routes(Api::new(accepted, ledger, shares, reconciler, SharedFigures::default(), None, recorder))
}

/// Serves the result of `read`, one request at a time: each reads the whole kernel.
pub fn exclusive_route<T: Serialize + Send + 'static>(
    path: &str,
    read: impl Fn() -> T + Send + Sync + 'static,
    identity: Option<Identity>,
) -> Router {
    let (read, one) = (Arc::new(read), Arc::new(tokio::sync::Semaphore::new(1)));
    let route = Router::new().route(
        path,
        get(async move || {
            let Ok(permit) = one.try_acquire_owned() else {
                let message = "another such request is still running: retry in a few seconds".to_owned();
                return (StatusCode::SERVICE_UNAVAILABLE, Json(ErrorBody { message, desired: None })).into_response();
            };
            let made = spawn_blocking(move || {
                let made = read();
                drop(permit);
                made
            });
            made.await.map_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response(), |it| Json(it).into_response())
        }),
    );
    let route = known_to(route.layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, within)), identity);
    route.layer(middleware::from_fn(unambiguous))
}

/// How many path traces may wait for their turn.
const MAX_TRACES: usize = 16;
/// The longest trace query, in bytes.
const MAX_TRACE_QUERY: usize = 16 * 1024;

/// Answers trace queries in bounded time, a bounded number of them at once.
pub fn trace_route(tracer: Tracer, identity: Option<Identity>) -> Router {
    let places = Arc::new(Semaphore::new(MAX_TRACES));
    let answer = async move |body: Bytes| {
        let refuse =
            |status: StatusCode, message: String| (status, Json(ErrorBody { message, desired: None })).into_response();
        let query: TraceQuery = match serde_json::from_slice(&body) {
            Ok(query) => query,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("not a valid trace query: {error}")),
        };
        let Ok(_place) = places.try_acquire() else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many paths are being traced: retry later".to_owned());
        };
        let deadline = Instant::now() + TRACE_ANSWER_WITHIN;
        match timeout_at(deadline.into(), tracer.trace(query, deadline)).await {
            Ok(Ok(answer)) => Json(answer).into_response(),
            Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Err(_) => {
                let message = format!("the kernel could not be read within {} s", TRACE_ANSWER_WITHIN.as_secs());
                refuse(StatusCode::SERVICE_UNAVAILABLE, message)
            }
        }
    };
    let route = Router::new().route(TRACE_PATH, post(answer)).layer(DefaultBodyLimit::max(MAX_TRACE_QUERY));
    let route = known_to(route.layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, within)), identity);
    route.layer(middleware::from_fn(unambiguous))
}

/// Sends probes, a bounded number of them.
pub fn probe_route(prober: Prober, identity: Option<Identity>) -> Router {
    let answer = async move |body: Bytes| {
        let refuse =
            |status: StatusCode, message: String| (status, Json(ErrorBody { message, desired: None })).into_response();
        let query: PathEndpoints = match serde_json::from_slice(&body) {
            Ok(query) => query,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("not a valid probe query: {error}")),
        };
        match prober.probe(query).await {
            Ok(answer) => Json(answer).into_response(),
            Err(error @ ProbeError::Busy) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Err(error @ ProbeError::Interrupted(_)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    };
    let route = Router::new().route(PROBE_PATH, post(answer)).layer(DefaultBodyLimit::max(MAX_TRACE_QUERY));
    let route = known_to(route.layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, within)), identity);
    route.layer(middleware::from_fn(unambiguous))
}

/// Admits the clients that [`known_only`] admits. Without TLS that is everyone.
fn known_to(router: Router, identity: Option<Identity>) -> Router {
    let Some(identity) = identity else { return router };
    refuse_revoked(router.layer(middleware::from_fn_with_state(identity.clone(), known_only)), Some(identity))
}

/// The routes that need authorisation, and those open to everyone.
pub fn routers(
    accepted: Option<Arc<ValidHostConfig>>,
    ledger: impl ConfigStore,
    shares: SharesFile,
    reconciler: Handle,
    probes: SharedFigures,
    identity: Option<&Identity>,
    recorder: Recorder,
) -> (Router, Router) {
    let api = Api::new(accepted, ledger, shares, reconciler.clone(), probes, identity.cloned(), recorder);
    let open = open_routes(&api.metrics);
    let routes = routes(api);
    let routes = guarded(routes, identity.cloned(), reconciler).layer(middleware::from_fn(unambiguous));
    (routes, open)
}

fn routes(api: Api) -> Router {
    let open = open_routes(&api.metrics);
    Router::new()
        .route(CONFIG_PATH, put(put_config).patch(patch_config))
        .route(SHARES_PATH, put(put_shares))
        .route(TRAFFIC_PATH, get(traffic))
        .route(PROBES_PATH, get(probes))
        .route(STATUS_PATH, get(status))
        .route(CLUSTER_PATH, delete(leave_cluster))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(api.intake.clone(), add_cluster_header))
        .with_state(api)
        .merge(open)
        .layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, within))
}

/// What is served without a certificate.
fn open_routes(metrics: &Metrics) -> Router {
    let registry = Arc::clone(&metrics.registry);
    Router::new()
        .route(HEALTH_PATH, get(async || "ok\n"))
        .route(METRICS_PATH, get(async move || cps_peering_http::metrics::answer(&registry)))
}

async fn status(State(api): State<Api>) -> Json<HostReport> {
    let report = api.reconciler.report().borrow().clone();
    match api.reconciler.config() {
        Some(config) => Json(report.with_standings(&config)),
        None => Json(report),
    }
}

/// Adds the cluster of this host to every response.
async fn add_cluster_header(State(intake): State<Intake>, request: Request, next: Next) -> Response {
    // Handlers that change something have just read it.
    let looks = request.method() == Method::GET;
    let mut answer = next.run(request).await;
    let cluster = if looks { intake.cluster().await } else { intake.known_cluster() };
    if let Some(cluster) = cluster.and_then(|cluster| cluster.to_string().parse().ok()) {
        answer.headers_mut().insert(CLUSTER_HEADER, cluster);
    }
    answer
}

/// The cluster that the controller claims. An unreadable value counts as none.
fn cluster_of(headers: &HeaderMap) -> Option<ClusterId> {
    headers.get(CLUSTER_HEADER)?.to_str().ok()?.parse().ok()
}

async fn leave_cluster(State(api): State<Api>, headers: HeaderMap) -> Response {
    // A task of its own: a client that disconnects must not abort a write halfway.
    let intake = api.intake.clone();
    let left = tokio::spawn(async move { intake.leave(cluster_of(&headers), ASKED_ANSWER_WITHIN).await }).await;
    match left.unwrap_or_else(|error| Err(error.into())) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => api.refuse(&refused),
    }
}

async fn traffic(State(api): State<Api>) -> Result<Json<TrafficReport>, Response> {
    let report = api.reconciler.traffic(ASKED_ANSWER_WITHIN).await;
    report.map(Json).map_err(|error| api.refuse(&error.into()))
}

async fn probes(State(api): State<Api>) -> Json<ProbeReport> {
    Json(api.probes.lock().report(MAX_SIDES, Instant::now()))
}

async fn put_shares(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Result<Json<TrafficReport>, Response> {
    // A task of its own: a client that disconnects must not leave the stored and the applied shares apart.
    api.intake.admits(cluster_of(&headers)).await.map_err(|refused| api.refuse(&refused))?;
    let own = api.clone();
    let granted = tokio::spawn(async move { own.grant(&body).await }).await;
    granted.unwrap_or_else(|error| Err(error.into())).map(Json).map_err(|refused| api.refuse(&refused))
}

/// Refuses requests whose head different programs would parse differently.
async fn unambiguous(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match headers::check(&head) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(error) => {
            let body = ErrorBody { message: error.to_string(), desired: None };
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// Lets the controller do everything, the host itself read, and operators and monitoring read metrics; over TLS
/// everyone else gets the health check only. A request without a [`Peer`] came over plain TCP, which the settings then
/// allow.
fn guarded(router: Router, identity: Option<Identity>, reconciler: Handle) -> Router {
    let Some(identity) = identity else { return router };
    known_to(router.merge(tls::routes(identity.clone(), reconciler)), Some(identity))
}

async fn known_only(State(identity): State<Identity>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let path = request.uri().path();
    let itself = || identity.facts().names.iter().any(|name| peer.is(name));
    let may = match path {
        HEALTH_PATH => true,
        METRICS_PATH => [CONTROLLER, OPERATOR, MONITORING].iter().any(|name| peer.is(name)) || itself(),
        STATUS_PATH | DIAGNOSIS_PATH => peer.is(CONTROLLER) || itself(),
        _ => peer.is(CONTROLLER),
    };
    if may {
        return next.run(request).await;
    }
    tracing::warn!(client = ?peer.names, path, "refused: the client's certificate is not for this");
    let others = if path == METRICS_PATH { format!(", {OPERATOR} and {MONITORING}") } else { String::new() };
    let message =
        format!("the client's certificate is for {:?}, and only {CONTROLLER}{others} may do this", peer.names);
    (StatusCode::FORBIDDEN, Json(ErrorBody { message, desired: None })).into_response()
}

async fn put_config(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Response {
    let recorded = api.record("PUT", &headers);
    api.push(cluster_of(&headers), recorded, move |_| {
        let config: HostConfig = decoded(&body)?;
        Ok(Push { config: config.try_into()?, record: Record::Config(body) })
    })
    .await
}

async fn patch_config(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Response {
    let recorded = api.record("PATCH", &headers);
    api.push(cluster_of(&headers), recorded, move |have| {
        let patch: HostPatch = decoded(&body)?;
        let (base, revision) = (patch.base, patch.revision);
        if revision <= base {
            return Err(Refused::Backwards { base, revision });
        }
        Ok(Push { config: have.of_patch(base)?.patched(patch)?, record: Record::Patch(body) })
    })
    .await
}

/// Decodes what the controller sends. Unknown fields of a newer controller are ignored: incompatible changes come with
/// a new format number.
fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, FormatError> {
    let Decoded { value, unknown } = format::decode(body)?;
    if let Some(field) = unknown {
        tracing::warn!(field, "the controller is of a newer release: a field that this agent does not know is ignored");
    }
    Ok(value)
}

impl Api {
    fn new(
        accepted: Option<Arc<ValidHostConfig>>,
        ledger: impl ConfigStore,
        shares: SharesFile,
        reconciler: Handle,
        probes: SharedFigures,
        identity: Option<Identity>,
        recorder: Recorder,
    ) -> Self {
        let metrics = Metrics::new(reconciler.clone(), probes.clone(), identity.clone(), &recorder);
        let intake = Intake::new(accepted, ledger, reconciler.clone(), identity, recorder.clone());
        Self { intake, shares: Arc::new(Mutex::new(shares)), reconciler, probes, metrics, recorder }
    }

    /// Accepts a configuration, and responds once the kernel has it or the time for a response is over.
    async fn push(
        self,
        cluster: Option<ClusterId>,
        mut recorded: Option<Span>,
        read: impl FnOnce(&Base<'_>) -> Result<Push, Refused> + Send,
    ) -> Response {
        let until = Instant::now() + PUSH_ANSWER_WITHIN;
        let context = recorded.as_ref().map(Span::context);
        let part = |name: &str| self.recorder.child(name, Kind::Internal, context?, Moment::now());
        let mut taking = part("intake");
        let accepted = self.intake.accept(cluster, read, PUSH_ANSWER_WITHIN, context).await;
        if let (Some(span), Err(refused)) = (&mut taking, &accepted) {
            span.fail(refused);
        }
        drop(taking);
        self.metrics.pushed(accepted.is_ok());
        let answer = match accepted {
            Ok(revision) => {
                let patience = until.saturating_duration_since(Instant::now());
                let report = self.applied(revision, patience).await;
                if let (Some(span), Some(host)) = (&mut recorded, &report.host) {
                    span.set("cps.host", host.as_str());
                    span.set("cps.revision", revision.to_string());
                }
                Json(report).into_response()
            }
            Err(refused) => self.refuse(&refused),
        };
        if let Some(span) = &mut recorded {
            span.set("http.response.status_code", answer.status().as_u16());
        }
        answer
    }

    /// Records a push, if its controller records it.
    fn record(&self, method: &'static str, headers: &HeaderMap) -> Option<Span> {
        if !self.recorder.is_on() {
            return None;
        }
        let parent = TraceParent::parse(headers.get(TRACEPARENT)?.to_str().ok()?)?;
        let name = format!("{method} {CONFIG_PATH}");
        let mut span = self.recorder.receive(&name, Moment::now(), Some(parent), Caller::Trusted)?;
        span.set("http.request.method", method);
        span.set("http.route", CONFIG_PATH);
        Some(span)
    }

    fn refuse(&self, refused: &Refused) -> Response {
        let desired = self.reconciler.report().borrow().desired;
        tracing::warn!(%refused, "push refused");
        (refused.status(), Json(ErrorBody { message: refused.to_string(), desired })).into_response()
    }

    /// Sets shares, and reports what the kernel has once that would survive a reboot: what was taken from this host can
    /// then go to another.
    async fn grant(&self, body: &[u8]) -> Result<TrafficReport, Refused> {
        let grants: Grants = decoded(body)?;
        let turn = timeout(ASKED_ANSWER_WITHIN, Arc::clone(&self.shares).lock_owned()).await;
        let mut file = turn.map_err(|_| Refused::Busy("the file of shares"))?;
        let granted = self.reconciler.grant(grants, ASKED_ANSWER_WITHIN).await?;
        let path = file.path().to_owned();
        self.reconciler.write(&path, move || file.store(&granted.shares)).await??;
        Ok(granted.report)
    }

    /// The report once this revision, or a newer one, is in the kernel; after `patience` the current one.
    async fn applied(&self, revision: Revision, patience: Duration) -> HostReport {
        let mut report = self.reconciler.report();
        let arrived = |report: &HostReport| report.applied.is_some_and(|applied| applied >= revision);
        // Either way this is the newest report; its `applied` shows which case it is.
        let _ = timeout(patience, report.wait_for(arrived)).await;
        report.borrow_and_update().clone()
    }
}
