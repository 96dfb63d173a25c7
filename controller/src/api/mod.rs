//! The HTTP API: JD Cloud's dialect for tenants below `/v1` ([`tenant`]), the operators' API below `/admin/v1`
//! ([`operator`]), and the [`console`], whose pages use both. [`openapi`] describes them; it is served as `/openapi.json`.

mod authentication;
mod body;
mod console;
pub(crate) mod feed;
mod guide;
pub mod health;
mod json;
mod openapi;
mod operator;
mod page;
mod paths;
mod query;
mod request;
mod response;
mod tenant;
mod traced;
mod traffic;
pub mod view;
mod webhooks;

use crate::{
    access::Access,
    charging::Prices,
    engine::{Engine, Health},
    hosts::client::AgentClients,
    webhooks::Webhooks,
};
use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware,
    response::{IntoResponse as _, Response},
    routing::{delete, get, post, put},
};
use cps_peering_config::{
    time::Zone,
    tls::{MONITORING, OPERATOR},
};
use cps_peering_http::{
    Places, REQUEST_TIMEOUT,
    tls::{Identity, Peer},
    within,
};
use health::Readiness;
use prometheus_client::registry::Registry;
use response::Failure;
pub(crate) use response::unavailable;
use std::{path::PathBuf, sync::Arc, time::Duration};

pub use body::BodyMemory;
pub use console::Streams;
pub use openapi::document as openapi_document;

/// Facts for a diagnosis besides those of the engine.
#[derive(Clone)]
pub struct Diagnosed {
    /// This controller's role.
    pub identity: Option<Identity>,
    /// Certificates for the store, with their names.
    pub store_certificates: Vec<(&'static str, PathBuf)>,
    /// The certificate of the issuer of agents' certificates, if they are renewed.
    pub agent_issuer: Option<PathBuf>,
    /// The client for agents.
    pub agents: AgentClients,
}

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// The one writer.
    pub engine: Arc<Engine>,
    /// Authenticates callers.
    pub access: Access,
    /// How long a delete waits for hosts to confirm.
    pub delete_wait: Duration,
    /// What peerings between regions cost.
    pub prices: Arc<Prices>,
    /// The currency of the prices.
    pub currency: Arc<str>,
    /// The time zone of bills.
    pub zone: Zone,
    /// The streams of changes for the console's pages.
    pub streams: Arc<Streams>,
    /// Facts for a diagnosis besides those of the engine.
    pub diagnosed: Diagnosed,
    /// The memory that request bodies may take.
    pub body_memory: Arc<BodyMemory>,
    /// The webhooks, and their delivery status.
    pub webhooks: Arc<Webhooks>,
    /// Whether the server speaks TLS: browsers then send the session's cookie over TLS only.
    pub secure: bool,
}

/// Routes without authentication, for a listener of their own.
pub fn open_routes(registry: Arc<Registry>, health: impl Fn() -> Health + Clone + Send + Sync + 'static) -> Router {
    Router::new()
        .merge(health_routes(health, None))
        .route("/metrics", get(async move || cps_peering_http::metrics::answer(&registry)))
}

/// The health endpoints; with the controller's role, if several share a store.
pub(crate) fn health_routes(
    health: impl Fn() -> Health + Clone + Send + Sync + 'static,
    role: Option<&'static str>,
) -> Router {
    let (now, line) = (health.clone(), role.map_or_else(String::new, |role| format!(" {role}")));
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(async move || Readiness::of(&now(), role)))
        .route("/healthz", get(async move || health::healthz(&health(), &line)))
}

/// Metrics for clients with a certificate for them.
async fn metrics(
    Extension(registry): Extension<Arc<Registry>>,
    peer: Option<Extension<Peer>>,
    places: Option<Extension<Arc<Places>>>,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer).unwrap_or_default();
    // Each of the roles may read everything.
    let is_operator = places.is_some_and(|Extension(places)| places.names(&peer));
    if is_operator || [MONITORING, OPERATOR].iter().any(|name| peer.is(name)) {
        return cps_peering_http::metrics::answer(&registry);
    }
    let rule =
        format!("this is for clients with a certificate for {MONITORING}, {OPERATOR} or an operator of the settings");
    Failure::forbidden(rule).into_response()
}

/// `/metrics` for clients with a certificate for it.
pub(crate) fn metrics_route(registry: Arc<Registry>) -> Router {
    let route = get(metrics).layer(Extension(registry));
    Router::new().route("/metrics", route).layer(middleware::from_fn(response::complete))
}

/// What is the same for all callers, at any time and from each controller: the console's files, and the description of the
/// API.
pub(crate) fn static_routes() -> Router {
    Router::new()
        .merge(console::static_routes())
        .route("/openapi.json", get(openapi::answer))
        .route("/guide", get(guide::answer))
        .layer(middleware::from_fn(response::complete))
}

/// The routes.
pub fn router(api: Api, registry: Arc<Registry>) -> Router {
    let (measured, engine) = (api.engine.metrics().clone(), Arc::clone(&api.engine));
    let recorder = engine.traces().recorder().clone();
    let operator = operator_routes().layer(Extension(Arc::clone(&registry)));
    let operator = operator.layer(middleware::from_fn_with_state(api.clone(), authentication::operators_only));
    let routes = tenant_routes().nest("/admin/v1", operator);
    Router::new()
        .merge(routes.layer(middleware::from_fn_with_state(api.clone(), authentication::recognise)))
        // `recognise` enforces the limits: it needs the whole body to check its signature.
        .layer(DefaultBodyLimit::disable())
        .merge(console::routes(&api))
        .with_state(api)
        .merge(health_routes(move || engine.health(), None))
        .route("/metrics", get(metrics).layer(Extension(registry)))
        .merge(console::static_routes())
        .route("/openapi.json", get(openapi::answer))
        .route("/guide", get(guide::answer))
        .fallback(async || Failure::not_found("there is nothing at this path"))
        .layer(middleware::from_fn(response::unambiguous))
        .layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, within))
        .layer(middleware::from_fn(response::complete))
        .layer(middleware::from_fn_with_state(recorder, traced::record))
        .layer(middleware::from_fn_with_state(measured, crate::instruments::measure))
}

fn tenant_routes() -> Router<Api> {
    use tenant::{account, metering, peerings, vpcs};
    let region = "/v1/regions/{regionId}";
    let mut router = Router::new()
        .route("/v1/whoami", get(account::whoami))
        .route("/v1/auditEntries", get(account::audit))
        .route("/v1/metering", get(metering::own))
        .route("/v1/prices", get(metering::prices))
        .route("/v1/blockedAccounts", get(account::blocked))
        .route("/v1/blockedAccounts/{accountId}", put(account::block).delete(account::unblock))
        .route(
            &format!("{region}/vpcPeerings/{{vpcPeeringId}}"),
            get(peerings::show).put(peerings::put).delete(peerings::delete).post(peerings::post),
        )
        .route(&format!("{region}/vpcPeerings/{{vpcPeeringId}}/routes"), get(peerings::routes))
        .route(&format!("{region}/vpcPeerings/{{vpcPeeringId}}/traffic"), get(peerings::traffic))
        .route(
            &format!("{region}/webhooks/{{webhookId}}"),
            get(webhooks::show_own).put(webhooks::modify_own).delete(webhooks::delete_own),
        )
        .route(&format!("{region}/vpcs/{{vpcId}}"), get(vpcs::show).post(vpcs::modify).delete(vpcs::delete))
        .route(&format!("{region}/secondaryCidrs/{{secondaryCidrId}}"), delete(vpcs::remove_cidr))
        .route(&format!("{region}/routeTables/{{routeTableId}}"), get(vpcs::show_table));
    // Clients write collections with and without a slash at the end.
    for slash in ["", "/"] {
        router = router
            .route(&format!("/v1/regions{slash}"), get(account::regions))
            .route(&format!("{region}/vpcPeerings{slash}"), get(peerings::list).post(peerings::create))
            .route(&format!("{region}/quotas{slash}"), get(peerings::quota))
            .route(&format!("{region}/paths{slash}"), post(paths::own))
            .route(&format!("{region}/events{slash}"), get(feed::own))
            .route(&format!("{region}/webhooks{slash}"), get(webhooks::list_own).post(webhooks::create_own))
            .route(&format!("{region}/vpcs{slash}"), get(vpcs::list).put(vpcs::create))
            .route(&format!("{region}/secondaryCidrs{slash}"), get(vpcs::list_cidrs).put(vpcs::add_cidr))
            .route(&format!("{region}/routeTables{slash}"), get(vpcs::list_tables));
    }
    router
}

fn operator_routes() -> Router<Api> {
    use operator::{accounts, clock, cluster, diagnosis, hosts, inventory, peerings, rollout};
    Router::new()
        .route("/apply", post(inventory::apply))
        .route("/inventory", get(inventory::inventory))
        .route("/hosts", get(hosts::hosts))
        .route("/hosts/{host}", delete(hosts::remove))
        .route("/hosts/{host}/drain", post(hosts::drain))
        .route("/hosts/{host}/uncordon", post(hosts::uncordon))
        .route("/hosts/{host}/maintenance", post(hosts::maintain).delete(hosts::end_maintenance))
        .route("/hosts/{host}/pause", post(hosts::pause))
        .route("/hosts/{host}/resume", post(hosts::resume))
        .route("/hosts/{host}/replace", post(hosts::replace))
        .route("/audit", get(inventory::audit))
        .route("/events", get(feed::all))
        .route("/webhooks", get(webhooks::list_all).post(webhooks::create_for_all))
        .route(
            "/webhooks/{webhookId}",
            get(webhooks::show_for_all).put(webhooks::modify_for_all).delete(webhooks::delete_for_all),
        )
        .route("/backups", post(inventory::back_up))
        .route("/clock", get(clock::show))
        .route("/diagnosis", get(diagnosis::diagnose))
        .route("/metrics", get(diagnosis::metrics))
        .route("/hosts/{host}/snapshot", get(diagnosis::snapshot))
        .route("/clock/confirm", post(clock::confirm))
        .route("/cluster", get(cluster::show))
        .route("/cluster/release", post(cluster::release))
        .route("/rollout", get(rollout::show))
        .route("/rollout/continue", post(rollout::continue_rollout))
        .route("/rollout/stop", post(rollout::stop))
        .route("/paths", post(paths::any))
        .route("/peerings", get(peerings::list).post(peerings::create))
        .route("/peerings/{peering}", get(peerings::show).delete(peerings::delete))
        .route("/peerings/{peering}/bandwidth", put(peerings::set_bandwidth))
        .route("/peerings/{peering}/prefixes", put(peerings::set_prefixes))
        .route("/peerings/{peering}/routes", get(peerings::routes))
        .route("/peerings/{peering}/traffic", get(peerings::traffic))
        .route("/accounts", get(accounts::list).post(accounts::create))
        .route("/accounts/{accountId}", get(accounts::show))
        .route("/accounts/{accountId}/keys", post(accounts::add_key))
        .route("/accounts/{accountId}/keys/{accessKey}", delete(accounts::remove_key))
        .route("/accounts/{accountId}/tokens", post(accounts::add_token))
        .route("/accounts/{accountId}/tokens/{tokenId}", delete(accounts::remove_token))
        .route("/accounts/{accountId}/metering", get(accounts::metering))
        .route("/accounts/{accountId}/chargeStatus", put(accounts::charge))
        .route("/accounts/{accountId}/quotas/{regionId}", put(accounts::set_quota).delete(accounts::reset_quota))
}
