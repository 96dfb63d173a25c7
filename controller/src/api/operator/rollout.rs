//! A change that some hosts have, and the others do not have yet.

use crate::{
    api::{
        query::Parameters,
        request::RequestContext,
        response::{Envelope, Errors, Reply, reply},
    },
    engine::Agents,
    model::{
        Command,
        record::Rollout,
        record::{Host, Pacing},
        rollout::Step,
        state::State,
    },
};
use axum::extract::RawQuery;
use cps_peering_config::{id::HostId, time::timestamp};
use serde::Serialize;
use utoipa::ToSchema;

/// The most waiting hosts that a response names; it also has their number.
const MAX_NAMED: usize = 100;

/// The state of a staged rollout.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct RolloutView {
    /// `none`: no host waits; `watching`: the canaries are being watched; `stopped`: they are not healthy, or an operator has stopped
    /// the rollout, and the other hosts wait.
    state: &'static str,
    /// The number of the commit that began it.
    commit: Option<u64>,
    /// The number of the commit with which operators last gave something to the hosts that wait.
    revision: Option<u64>,
    /// The same with its epoch, as `1.42`: numbers may repeat after a restore. `continue` may name it.
    #[schema(value_type = Option<String>)]
    full_revision: Option<String>,
    /// The time of that commit.
    begun: Option<String>,
    /// The canaries: the hosts that are updated first.
    canaries: Vec<CanaryView>,
    /// Number of hosts that wait.
    held_back_count: usize,
    /// Their ids, at most 100.
    #[schema(value_type = Vec<String>)]
    held_back: Vec<HostId>,
}

/// A canary.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct CanaryView {
    /// The host.
    #[schema(value_type = String)]
    host_id: HostId,
    /// Whether its kernel is known to match its configuration.
    in_sync: bool,
    /// The reason.
    reason: Option<String>,
}

/// The state of a rollout as the API names it.
pub(super) fn word(rollout: Option<Rollout>) -> &'static str {
    match rollout {
        None => "none",
        Some(Rollout { stopped: false, .. }) => "watching",
        Some(Rollout { stopped: true, .. }) => "stopped",
    }
}

/// The state of a staged rollout.
fn view(state: &State, agents: &Agents<'_>) -> RolloutView {
    let Some(rollout) = state.meta().rollout else {
        let (canaries, held_back) = (Vec::new(), Vec::new());
        return RolloutView {
            state: word(None),
            commit: None,
            revision: None,
            full_revision: None,
            begun: None,
            canaries,
            held_back_count: 0,
            held_back,
        };
    };
    let canary = |host: &Host| CanaryView {
        host_id: host.id.clone(),
        in_sync: agents.in_sync(host),
        reason: agents.out_of_sync_reason(host),
    };
    let held = || state.hosts().values().filter(|host| host.is_held_back());
    RolloutView {
        state: word(Some(rollout)),
        commit: Some(rollout.number),
        revision: Some(rollout.revision.number),
        full_revision: Some(rollout.revision.to_string()),
        begun: Some(timestamp(rollout.begun_ms)),
        canaries: state.hosts().values().filter(|host| host.pacing == Some(Pacing::Canary)).map(canary).collect(),
        held_back_count: held().count(),
        held_back: held().take(MAX_NAMED).map(|host| host.id.clone()).collect(),
    }
}

fn shown(context: &RequestContext) -> Reply {
    reply(context.api.engine.read(view))
}

/// Show the staged rollout: the canaries, and the hosts that wait.
#[utoipa::path(get, path = "/admin/v1/rollout", tag = "operators", operation_id = "showRollout",
    responses((status = 200, body = Envelope<RolloutView>), Errors))]
pub(in crate::api) async fn show(context: RequestContext) -> Reply {
    shown(&context)
}

/// Push the change to all hosts, whatever the state of the canaries. Refused if hosts wait for another revision than `revision`, because another
/// inventory was applied meanwhile.
#[utoipa::path(post, path = "/admin/v1/rollout/continue", tag = "operators", operation_id = "continueRollout",
    params(("revision" = Option<String>, Query,
        description = "The `fullRevision` of the rollout that was reviewed, or its `revision`. By default, the current one.")),
    responses((status = 200, body = Envelope<RolloutView>), Errors))]
pub(in crate::api) async fn continue_rollout(context: RequestContext, RawQuery(query): RawQuery) -> Reply {
    let revision = Parameters::read(query.as_deref(), &["revision"], &[])?.revision("revision")?;
    context.execute(Command::Rollout(Step::Continue { revision }), None).await?;
    shown(&context)
}

/// Hold back the hosts that do not have the change yet, until `continue`.
#[utoipa::path(post, path = "/admin/v1/rollout/stop", tag = "operators", operation_id = "stopRollout",
    responses((status = 200, body = Envelope<RolloutView>), Errors))]
pub(in crate::api) async fn stop(context: RequestContext) -> Reply {
    context.execute(Command::Rollout(Step::Stop { why: "an operator stopped it".to_owned() }), None).await?;
    shown(&context)
}
