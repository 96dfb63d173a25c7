//! The identity of the cluster, and whether it may configure hosts.

use super::rollout;
use crate::{
    api::{
        request::RequestContext,
        response::{Envelope, Errors, Reply, reply},
    },
    model::{Command, record::Host},
};
use cps_peering_config::id::HostId;
use serde::Serialize;
use utoipa::ToSchema;

/// The state of the cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct ClusterView {
    /// The identity of the store, and of all controllers that share it. An agent serves only the cluster that it belongs to.
    cluster: Option<String>,
    /// The release of the controller that leads.
    version: &'static str,
    /// The last commit.
    revision: String,
    /// Whether nothing is sent to hosts, because the store was restored from a backup and has not been released.
    held: bool,
    /// State of the staged rollout: `none`, `watching` or `stopped`, as in `/admin/v1/rollout`.
    rollout: &'static str,
    /// The hosts whose kernels are not known to match their configuration, and why; while held, what would happen to them.
    hosts_out_of_sync: Vec<HostOutOfSync>,
}

/// A host whose kernel is not known to match its configuration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct HostOutOfSync {
    /// The host.
    #[schema(value_type = String)]
    host_id: HostId,
    /// Why, where that is known.
    reason: Option<String>,
}

/// Why a host waits for its configuration.
fn waits(host: &Host) -> Option<String> {
    let why = "held back until the canaries are healthy: `cps-peering rollout show`";
    host.is_held_back().then(|| why.to_owned())
}

fn view(context: &RequestContext) -> ClusterView {
    context.api.engine.read(|state, agents| {
        let meta = state.meta();
        let out_of_sync = state.hosts().values().filter(|host| !agents.in_sync(host));
        let of = |host: &Host| HostOutOfSync {
            host_id: host.id.clone(),
            reason: agents.contact(&host.id).and_then(|contact| contact.error.clone()).or_else(|| waits(host)),
        };
        ClusterView {
            cluster: meta.cluster.map(String::from),
            version: env!("CARGO_PKG_VERSION"),
            revision: format!("{}.{}", meta.epoch, meta.number),
            held: meta.held,
            rollout: rollout::word(meta.rollout),
            hosts_out_of_sync: out_of_sync.map(of).collect(),
        }
    })
}

/// Show which cluster this is, and whether it is held.
#[utoipa::path(get, path = "/admin/v1/cluster", tag = "operators", operation_id = "showCluster",
    responses((status = 200, body = Envelope<ClusterView>), Errors))]
pub(in crate::api) async fn show(context: RequestContext) -> Reply {
    reply(view(&context))
}

/// Release a controller that is held after a restore, so that it configures hosts.
#[utoipa::path(post, path = "/admin/v1/cluster/release", tag = "operators", operation_id = "releaseCluster",
    responses((status = 200, body = Envelope<ClusterView>), Errors))]
pub(in crate::api) async fn release(context: RequestContext) -> Reply {
    context.execute(Command::Release, None).await?;
    reply(view(&context))
}
