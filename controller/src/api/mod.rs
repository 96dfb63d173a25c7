//! The operators' HTTP interface, below `/admin/v1`.
//!
//! | call | meaning |
//! |---|---|
//! | `POST /admin/v1/apply?dryRun&prune` | bring the inventory to what the body says, all or nothing; answers the difference |
//! | `GET /admin/v1/inventory` | the inventory as it is |
//! | `GET /admin/v1/hosts` | hosts, and how their agents stand |
//! | `GET`, `POST /admin/v1/peerings` | list, create |
//! | `GET`, `DELETE /admin/v1/peerings/{id}` | show, delete |
//! | `GET /healthz` | the process is alive |
//!
//! Answers are `{"requestId", "result"}` or `{"requestId", "error": {"code", "status", "message", "details"}}`; the HTTP
//! status is the error's code.

mod answer;
pub mod view;

use crate::{
    engine::Engine,
    model::{Code, Command, Outcome, Refusal, inventory::Apply, peering::Create, record::PeeringState},
};
use answer::{Failure, Reply, fail, reply};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::header::AUTHORIZATION,
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use cps_peering_config::{
    id::{PeeringId, VpcId},
    inventory::Inventory,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// The largest request body, in bytes: an inventory of some hundred thousand ports.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// The one writer.
    pub engine: Arc<Engine>,
    /// The operators' bearer token.
    pub operator_token: Arc<str>,
    /// How long a delete waits for hosts to confirm.
    pub delete_wait: Duration,
}

/// The routes.
pub fn router(api: Api) -> Router {
    let admin = Router::new()
        .route("/apply", post(apply))
        .route("/inventory", get(inventory))
        .route("/hosts", get(hosts))
        .route("/peerings", get(list).post(create))
        .route("/peerings/{id}", get(show).delete(delete))
        .layer(middleware::from_fn_with_state(api.clone(), operators_only))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api);
    Router::new()
        .nest("/admin/v1", admin)
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || fail(Failure::not_found("there is nothing at this path")))
}

async fn operators_only(State(api): State<Api>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) if same(token.as_bytes(), api.operator_token.as_bytes()) => next.run(request).await,
        Some(_) => fail(Failure::unauthenticated("the token is not that of the operators")),
        None => fail(Failure::unauthenticated("a header `Authorization: Bearer TOKEN` is needed")),
    }
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::invalid(format!("the body cannot be read: {error}")))
}

/// Runs a command where it may wait for the disk.
async fn execute(api: &Api, command: Command, rehearse: bool) -> Result<Outcome, Failure> {
    let engine = Arc::clone(&api.engine);
    let run = move || if rehearse { engine.rehearse(&command) } else { engine.execute(&command) };
    let outcome = tokio::task::spawn_blocking(run).await;
    Ok(outcome.map_err(|error| Failure::internal(error.to_string()))??)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApplyQuery {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    prune: bool,
}

async fn apply(State(api): State<Api>, Query(query): Query<ApplyQuery>, body: Bytes) -> Reply {
    let inventory: Inventory = read(&body)?;
    let command = Command::Apply(Apply { inventory, prune: query.prune });
    match execute(&api, command, query.dry_run).await? {
        Outcome::Applied(changes) => reply(json!({ "changes": changes, "dryRun": query.dry_run })),
        other => Err(Failure::internal(format!("apply led to {other:?}"))),
    }
}

async fn inventory(State(api): State<Api>) -> Reply {
    reply(api.engine.read(|state, _| view::inventory(state)))
}

async fn hosts(State(api): State<Api>) -> Reply {
    let hosts = api
        .engine
        .read(|state, agents| state.hosts().values().map(|host| view::host(state, agents, host)).collect::<Vec<_>>());
    reply(json!({ "hosts": hosts }))
}

async fn list(State(api): State<Api>) -> Reply {
    let peerings = api.engine.read(|state, agents| {
        state.peerings().values().map(|peering| view::peering(state, agents, peering)).collect::<Vec<_>>()
    });
    let total = peerings.len();
    reply(json!({ "vpcPeerings": peerings, "totalCount": total }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateBody {
    vpc_peering_name: String,
    vpc_id: VpcId,
    remote_vpc_id: VpcId,
}

async fn create(State(api): State<Api>, body: Bytes) -> Reply {
    let body: CreateBody = read(&body)?;
    let wish = Create { name: body.vpc_peering_name, vpc: body.vpc_id, peer_vpc: body.remote_vpc_id };
    match execute(&api, Command::CreatePeering(wish), false).await? {
        Outcome::Created(id) => found(&api, &id),
        other => Err(Failure::internal(format!("create led to {other:?}"))),
    }
}

/// A peering by its id, or by its name where only one has it.
fn resolve(api: &Api, text: &str) -> Result<PeeringId, Failure> {
    let missing = || Failure::not_found(format!("there is no peering {text}"));
    api.engine.read(|state, _| {
        if let Some(id) = text.parse().ok().filter(|id| state.peerings().contains_key(id)) {
            return Ok(id);
        }
        let mut named: Vec<_> = state.peerings().values().filter(|peering| peering.name == text).collect();
        if named.iter().any(|peering| peering.forwards()) {
            named.retain(|peering| peering.forwards());
        }
        match named.as_slice() {
            [] => Err(missing()),
            [peering] => Ok(peering.id.clone()),
            several => {
                let ids: Vec<&str> = several.iter().map(|peering| peering.id.as_str()).collect();
                Err(Failure::invalid(format!("several peerings are named {text}: say which of {}", ids.join(", "))))
            }
        }
    })
}

fn found(api: &Api, id: &PeeringId) -> Reply {
    let missing = || Failure::not_found(format!("there is no peering {id}"));
    let view = api.engine.read(|state, agents| {
        state.peerings().get(id).map(|peering| view::peering(state, agents, peering)).ok_or_else(missing)
    });
    reply(json!({ "vpcPeering": view? }))
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Reply {
    found(&api, &resolve(&api, &id)?)
}

/// Answers when every host concerned has confirmed from its kernel, or after a while with those that have not.
async fn delete(State(api): State<Api>, Path(id): Path<String>) -> Reply {
    let id = resolve(&api, &id)?;
    execute(&api, Command::DeletePeering(id.clone()), false).await?;
    let gone = api.engine.wait_for(api.delete_wait, |state, _| (!state.peerings().contains_key(&id)).then_some(()));
    if gone.await.is_some() {
        return reply(json!({ "vpcPeeringId": id, "state": "deleted", "missingHosts": [] }));
    }
    let missing = api.engine.read(|state, agents| {
        state.peerings().get(&id).filter(|it| it.state != PeeringState::Active).map(|peering| agents.missing(peering))
    });
    match missing {
        Some(hosts) => reply(json!({ "vpcPeeringId": id, "state": "draining", "missingHosts": hosts })),
        None => reply(json!({ "vpcPeeringId": id, "state": "deleted", "missingHosts": [] })),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let failure = match refusal.code {
            Code::InvalidArgument => Failure::invalid(message),
            Code::FailedPrecondition => Failure::precondition(message),
            Code::NotFound => Failure::not_found(message),
            Code::AlreadyExists => Failure::exists(message),
        };
        failure.with_details(refusal.faults)
    }
}
