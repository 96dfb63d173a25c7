//! All peerings, with their state on each host.

use crate::{
    api::{
        Api,
        request::{RequestContext, peering_made, read},
        response::{Envelope, Errors, Failure, Reply, reply},
        tenant::peerings::{OnePeering, Routes, drained},
        traffic::{self, BothTraffic},
        view::{self, PeeringView, Viewer},
    },
    engine::Agents,
    model::{
        Actor, Command,
        peering::{Create, Locator, SetBandwidth},
        prefixes::{self, PrefixLists, SetPrefixes},
        record::{Peering, Role},
        state::State,
    },
};
use axum::{
    body::Bytes,
    extract::{Path, RawQuery},
};
use cps_peering_config::{
    id::{HostId, PeeringId, VpcId},
    net::prefix,
    number,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Request to create a peering on behalf of both accounts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct PeerBody {
    /// 1 to 32 printable characters.
    vpc_peering_name: String,
    /// The initiator's VPC.
    #[schema(value_type = String)]
    vpc_id: VpcId,
    /// The receiver's VPC.
    #[schema(value_type = String)]
    remote_vpc_id: VpcId,
    /// Mbit/s in each direction, only between regions; none, or 0, for no limit.
    #[serde(default, deserialize_with = "number::optional_not_zero")]
    bandwidth: Option<u32>,
    /// At most 256 characters.
    description: Option<String>,
    /// Prefixes of the initiator's VPC that are exported to the receiver; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    export_prefixes: Option<Vec<IpNet>>,
    /// Prefixes of the receiver's VPC that the initiator imports; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    import_prefixes: Option<Vec<IpNet>>,
    /// Prefixes of the receiver's VPC that are exported to the initiator; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    remote_export_prefixes: Option<Vec<IpNet>>,
    /// Prefixes of the initiator's VPC that the receiver imports; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    remote_import_prefixes: Option<Vec<IpNet>>,
}

/// Request to change the prefixes of a side; a list that is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ScopeBody {
    /// The VPC whose side to change; by default the initiator's.
    #[schema(value_type = Option<String>)]
    vpc_id: Option<VpcId>,
    /// Prefixes of its VPC that the side exports; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    export_prefixes: Option<Vec<IpNet>>,
    /// Prefixes of the other VPC that it imports; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    import_prefixes: Option<Vec<IpNet>>,
    /// Run all checks without changing anything, and return what would be reachable, as the initiator sees it: `ownPrefixes` are those of
    /// `vpcInfo`, whichever side is changed.
    dry_run: Option<bool>,
}

/// The new bandwidth.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct LimitBody {
    /// Bandwidth in Mbit/s per direction.
    #[serde(deserialize_with = "number::whole")]
    bandwidth: u32,
}

/// One peering.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct AnyPeering {
    vpc_peering: PeeringView,
}

/// All peerings.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct AllPeerings {
    vpc_peerings: Vec<PeeringView>,
    total_count: usize,
}

/// Result of a delete.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct DeletedForBoth {
    vpc_peering_id: String,
    /// `deleted` when every host concerned has confirmed the removal; `draining` while hosts are missing.
    state: &'static str,
    /// The hosts that have not confirmed yet.
    #[schema(value_type = Vec<String>)]
    missing_hosts: Vec<HostId>,
}

/// Whether any account still sees it.
fn is_there(peering: &Peering) -> bool {
    !peering.is_ended() || peering.sides().iter().any(|side| !side.deleted_by_owner)
}

fn seen(context: &RequestContext, state: &State, agents: &Agents<'_>, peering: &Peering) -> PeeringView {
    view::peering(state, agents, peering, Role::Initiator, Viewer::Operator, context.api.engine.now_ms())
}

/// A peering by its id, or by its name if that is unique. `over` says whether one that no account sees any more counts.
fn resolve(api: &Api, text: &str, over: bool) -> Result<PeeringId, Failure> {
    let missing = || Failure::not_found(format!("there is no peering {text}"));
    api.engine.read(|state, _| {
        let by_id = text.parse().ok().and_then(|id| state.peerings().get::<PeeringId>(&id));
        if let Some(peering) = by_id {
            return if over || is_there(peering) { Ok(peering.id.clone()) } else { Err(missing()) };
        }
        let mut named: Vec<_> =
            state.peerings().values().filter(|peering| peering.name == text && is_there(peering)).collect();
        if named.iter().any(|peering| peering.is_live()) {
            named.retain(|peering| peering.is_live());
        }
        match named.as_slice() {
            [] => Err(missing()),
            [peering] => Ok(peering.id.clone()),
            several => {
                let ids: Vec<&str> = several.iter().map(|peering| peering.id.as_str()).collect();
                Err(Failure::invalid(format!(
                    "several peerings are named {text}: use the id, one of {}",
                    ids.join(", ")
                )))
            }
        }
    })
}

fn found<T>(
    context: &RequestContext,
    id: &PeeringId,
    look: impl FnOnce(&State, &Agents<'_>, &Peering) -> T,
) -> Result<T, Failure> {
    let found =
        context.api.engine.read(|state, agents| state.peerings().get(id).map(|peering| look(state, agents, peering)));
    found.ok_or_else(|| Failure::not_found(format!("there is no peering {id}")))
}

fn one(context: &RequestContext, id: &PeeringId) -> Reply {
    let vpc_peering = found(context, id, |state, agents, peering| seen(context, state, agents, peering))?;
    reply(AnyPeering { vpc_peering })
}

/// List all peerings.
#[utoipa::path(get, path = "/admin/v1/peerings", tag = "operators", operation_id = "listPeerings",
    responses((status = 200, body = Envelope<AllPeerings>), Errors))]
pub(in crate::api) async fn list(context: RequestContext) -> Reply {
    let vpc_peerings: Vec<PeeringView> = context.api.engine.read(|state, agents| {
        let there = state.peerings().values().filter(|peering| is_there(peering));
        there.map(|peering| seen(&context, state, agents, peering)).collect()
    });
    reply(AllPeerings { total_count: vpc_peerings.len(), vpc_peerings })
}

/// Peer two VPCs of any accounts, without acceptance.
#[utoipa::path(post, path = "/admin/v1/peerings", tag = "operators", operation_id = "createPeering",
    request_body = PeerBody, responses((status = 200, body = Envelope<AnyPeering>), Errors))]
pub(in crate::api) async fn create(context: RequestContext, body: Bytes) -> Reply {
    let body: PeerBody = read(&body)?;
    let wish = Create {
        name: body.vpc_peering_name,
        description: body.description.unwrap_or_default(),
        message: String::new(),
        tags: Vec::new(),
        vpc: body.vpc_id,
        region: None,
        peer_vpc: body.remote_vpc_id,
        peer_region: None,
        peer_account: None,
        bandwidth: body.bandwidth,
        prefixes: PrefixLists {
            export: body.export_prefixes.unwrap_or_default(),
            import: body.import_prefixes.unwrap_or_default(),
        },
        peer_prefixes: PrefixLists {
            export: body.remote_export_prefixes.unwrap_or_default(),
            import: body.remote_import_prefixes.unwrap_or_default(),
        },
    };
    let id = peering_made(context.execute(Command::CreatePeering(wish), None).await?)?;
    one(&context, &id)
}

/// Show a peering, by its id or its name.
#[utoipa::path(get, path = "/admin/v1/peerings/{peering}", tag = "operators", operation_id = "showPeering",
    params(("peering" = String, Path)), responses((status = 200, body = Envelope<AnyPeering>), Errors))]
pub(in crate::api) async fn show(context: RequestContext, Path(peering): Path<String>) -> Reply {
    one(&context, &resolve(&context.api, &peering, false)?)
}

/// Change the bandwidth of a cross-region peering.
#[utoipa::path(put, path = "/admin/v1/peerings/{peering}/bandwidth", tag = "operators",
    operation_id = "setPeeringBandwidth", params(("peering" = String, Path)), request_body = LimitBody,
    responses((status = 200, body = Envelope<AnyPeering>), Errors))]
pub(in crate::api) async fn set_bandwidth(context: RequestContext, Path(peering): Path<String>, body: Bytes) -> Reply {
    let LimitBody { bandwidth } = read(&body)?;
    let which = Locator { region: None, id: resolve(&context.api, &peering, false)? };
    let id = peering_made(context.execute(Command::SetBandwidth(SetBandwidth { which, bandwidth }), None).await?)?;
    one(&context, &id)
}

/// Change which prefixes of its VPC a side exports to the other one, and which of the other VPC it imports.
#[utoipa::path(put, path = "/admin/v1/peerings/{peering}/prefixes", tag = "operators",
    operation_id = "setPeeringPrefixes", params(("peering" = String, Path)), request_body = ScopeBody,
    responses((status = 200, body = Envelope<OnePeering>), Errors))]
pub(in crate::api) async fn set_prefixes(context: RequestContext, Path(peering): Path<String>, body: Bytes) -> Reply {
    let ScopeBody { vpc_id, export_prefixes, import_prefixes, dry_run } = read(&body)?;
    let which = Locator { region: None, id: resolve(&context.api, &peering, false)? };
    let set = SetPrefixes { which, vpc: vpc_id, export: export_prefixes, import: import_prefixes };
    if dry_run == Some(true) {
        context.dry_run(Command::SetPrefixes(set.clone()), None).await?;
        let after = context.api.engine.read(|state, _| prefixes::outlook(state, &set, &Actor::Operator)).ok();
        let reachable = after.map(|(_, after)| view::reachable(&after, Role::Initiator, Viewer::Operator));
        return reply(OnePeering::would_be(reachable));
    }
    let id = peering_made(context.execute(Command::SetPrefixes(set), None).await?)?;
    reply(OnePeering::is(Some(found(&context, &id, |state, agents, peering| seen(&context, state, agents, peering))?)))
}

/// The route policies of a peering, in both directions.
#[utoipa::path(get, path = "/admin/v1/peerings/{peering}/routes", tag = "operators", operation_id = "peeringRoutes",
    params(("peering" = String, Path)), responses((status = 200, body = Envelope<Routes>), Errors))]
pub(in crate::api) async fn routes(context: RequestContext, Path(peering): Path<String>) -> Reply {
    let id = resolve(&context.api, &peering, false)?;
    let routes = found(&context, &id, |state, agents, peering| view::routes(state, agents, peering, Role::Initiator))?;
    reply(Routes { routes })
}

/// The traffic between the peers as counted by the hosts of both sides: totals, and samples of up to 30 days.
#[utoipa::path(get, path = "/admin/v1/peerings/{peering}/traffic", tag = "operators", operation_id = "peeringTraffic",
    params(("peering" = String, Path),
        ("range" = Option<String>, Query, example = "24h",
            description = "`1h` (the default), `24h`, `7d` or `30d`: samples of 20 seconds, 5 minutes, and an hour")), responses((status = 200, body = Envelope<BothTraffic>), Errors))]
pub(in crate::api) async fn traffic(
    context: RequestContext,
    Path(peering): Path<String>,
    RawQuery(query): RawQuery,
) -> Reply {
    let span = traffic::span(query.as_deref())?;
    let id = resolve(&context.api, &peering, false)?;
    let counted = context.api.engine.traffic();
    let both = found(&context, &id, |_, _, peering| BothTraffic {
        initiator: traffic::view(counted, peering, &peering.initiator, span),
        receiver: traffic::view(counted, peering, &peering.receiver, span),
    })?;
    reply(both)
}

/// Delete a peering for both accounts. The response comes when every reachable host has confirmed from its kernel, or after a timeout
/// with the hosts that have not.
#[utoipa::path(delete, path = "/admin/v1/peerings/{peering}", tag = "operators", operation_id = "deletePeering",
    params(("peering" = String, Path)), responses((status = 200, body = Envelope<DeletedForBoth>), Errors))]
pub(in crate::api) async fn delete(context: RequestContext, Path(peering): Path<String>) -> Reply {
    let id = resolve(&context.api, &peering, true)?;
    let which = Locator { region: None, id: id.clone() };
    context.execute(Command::DeletePeering(which), None).await?;
    let missing_hosts = drained(&context.api, &id, context.api.delete_wait).await;
    let state = if missing_hosts.is_empty() { "deleted" } else { "draining" };
    reply(DeletedForBoth { vpc_peering_id: id.to_string(), state, missing_hosts })
}
