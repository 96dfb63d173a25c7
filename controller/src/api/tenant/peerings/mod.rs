//! Peerings of an account.

mod bodies;

use crate::{
    api::{
        Api,
        page::{self, Page, Place, Sort},
        query::Parameters,
        request::{Regional, peering_made},
        response::{Envelope, Errors, Failure, Reply, reply},
        traffic::{self, OneTraffic},
        view::{self, PeeringView, ReachableView, RouteView, Viewer},
    },
    engine::Agents,
    model::{
        Actor, Code, Command, CommandError,
        peering::{Accept, Create, Locator, Modify, STATE_WORDS, SetBandwidth, role},
        prefixes::{self, PrefixLists, SetPrefixes},
        quota,
        record::{Peering, PeeringState, Role},
        state::State,
    },
};
use axum::{body::Bytes, extract::RawQuery};
use bodies::{AcceptBody, BandwidthBody, CreatePeeringBody, EmptyBody, ModifyPeeringBody, PrefixesBody, tags};
use cps_peering_config::{
    id::{AccountId, PeeringId},
    quota::Kind,
    text::{MAX_QUOTED, cut, quote},
};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use utoipa::ToSchema;

/// One peering.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct OnePeering {
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_peering: Option<PeeringView>,
    /// Whether this was a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// What would be reachable, in the response to a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    reachable: Option<ReachableView>,
}

impl OnePeering {
    pub(in crate::api) fn is(view: Option<PeeringView>) -> Self {
        Self { vpc_peering: view, dry_run: false, reachable: None }
    }

    pub(in crate::api) fn would_be(reachable: Option<ReachableView>) -> Self {
        Self { vpc_peering: None, dry_run: true, reachable }
    }
}

/// A page of peerings.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "JD Cloud chose the names")]
pub(in crate::api) struct Peerings {
    vpc_peerings: Vec<PeeringView>,
    /// Number of entries on all pages.
    total_count: usize,
    /// The `marker` of the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

/// Result of a delete.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Deleted {
    pub(in crate::api) vpc_peering_id: String,
    /// `deleted` when every host concerned has confirmed the removal; `draining` while hosts are missing.
    pub(in crate::api) state: &'static str,
    /// Number of hosts that have not confirmed yet.
    pub(in crate::api) hosts_missing: usize,
}

/// The route policies of a peering.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Routes {
    pub(in crate::api) routes: Vec<RouteView>,
}

/// A quota.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Quota {
    quota: QuotaContent,
}

/// Limit and current number.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct QuotaContent {
    /// The quota's type.
    #[serde(rename = "type")]
    kind: &'static str,
    /// As asked.
    parent_resource_id: String,
    /// Limit.
    max_limit: u32,
    /// Current number.
    count: usize,
}

impl Regional {
    fn locate(&self, id: &str) -> Result<Locator, Failure> {
        let missing = || {
            CommandError::one(
                Code::NotFound,
                "vpcPeeringId",
                format!("there is no peering {}", cut(id, MAX_QUOTED)),
                "VpcPeerNotFound",
            )
        };
        let id = id.parse().map_err(|_| missing())?;
        Ok(Locator { region: Some(self.region.clone()), id })
    }

    /// The id in the path, and the action after it, if any.
    fn named(&self) -> (&str, Option<&str>) {
        let segment = self.path("vpcPeeringId");
        segment.split_once(':').map_or((segment, None), |(id, action)| (id, Some(action)))
    }

    /// Reads a peering that the account can see here.
    fn look<T>(&self, id: &str, look: impl FnOnce(&State, &Agents<'_>, &Peering, Role) -> T) -> Result<T, Failure> {
        let Locator { id, .. } = self.locate(id)?;
        let seen = self.context.api.engine.read(|state, agents| {
            let peering = state.peerings().get(&id)?;
            let role = role(peering, &self.account, Some(&self.region))?;
            Some(look(state, agents, peering, role))
        });
        seen.ok_or_else(|| {
            CommandError::one(Code::NotFound, "vpcPeeringId", format!("there is no peering {id}"), "VpcPeerNotFound")
                .into()
        })
    }

    fn view(&self, state: &State, agents: &Agents<'_>, peering: &Peering, role: Role) -> PeeringView {
        view::peering(state, agents, peering, role, Viewer::Account(&self.account), self.context.api.engine.now_ms())
    }

    /// What would be reachable in a peering that the account sees.
    fn reachable(&self, peering: &Peering) -> Option<ReachableView> {
        let role = role(peering, &self.account, Some(&self.region))?;
        Some(view::reachable(peering, role, Viewer::Account(&self.account)))
    }

    /// A peering after a command, also if a client token repeats an old command whose peering is gone.
    fn one(&self, id: &PeeringId) -> Reply {
        let view = self.context.api.engine.read(|state, agents| {
            let peering = state.peerings().get(id)?;
            let own = if peering.initiator.account == self.account { Role::Initiator } else { Role::Receiver };
            let role = role(peering, &self.account, Some(&self.region)).unwrap_or(own);
            Some(self.view(state, agents, peering, role))
        });
        reply(OnePeering::is(view))
    }
}

/// Create a peering; with a VPC of another account, a request that it accepts or rejects.
#[utoipa::path(post, path = "/v1/regions/{regionId}/vpcPeerings/", tag = "peerings", operation_id = "createVpcPeering",
    params(("regionId" = String, Path)), request_body = CreatePeeringBody,
    responses((status = 200, body = Envelope<OnePeering>), Errors))]
pub(in crate::api) async fn create(regional: Regional, body: Bytes) -> Reply {
    let body: CreatePeeringBody = regional.body(&body)?;
    let wish = Create {
        name: body.vpc_peering_name,
        description: body.description.unwrap_or_default(),
        message: body.message.unwrap_or_default(),
        tags: tags(body.user_tags.unwrap_or_default()),
        vpc: body.vpc_id,
        region: Some(regional.region.clone()),
        peer_vpc: body.remote_vpc_id,
        peer_region: Some(body.remote_region_id.unwrap_or_else(|| regional.region.clone())),
        peer_account: Some(body.remote_account_id.unwrap_or_else(|| regional.account.clone())),
        bandwidth: body.bandwidth,
        prefixes: PrefixLists {
            export: body.export_prefixes.unwrap_or_default(),
            import: body.import_prefixes.unwrap_or_default(),
        },
        peer_prefixes: PrefixLists::default(),
    };
    if body.dry_run == Some(true) {
        regional.context.dry_run(Command::CreatePeering(wish.clone()), body.client_token).await?;
        let reachable =
            regional.context.api.engine.read(|state, _| view::reachable_if_created(state, &wish, &regional.account));
        return reply(OnePeering::would_be(reachable));
    }
    let command = Command::CreatePeering(wish);
    let id = peering_made(regional.context.execute(command, body.client_token).await?)?;
    regional.one(&id)
}

/// List the peerings of the account in a region.
#[utoipa::path(get, path = "/v1/regions/{regionId}/vpcPeerings/", tag = "peerings", operation_id = "describeVpcPeerings",
    params(("regionId" = String, Path),
        ("pageNumber" = Option<u32>, Query, minimum = 1), ("pageSize" = Option<u32>, Query, minimum = 1, maximum = 100),
        ("marker" = Option<String>, Query, description = "The `nextMarker` of the previous page, instead of a page number"),
        ("sort" = Option<String>, Query, example = "-createdTime",
            description = "`createdTime` or `name`; with `-` before it, in descending order")),
    responses((status = 200, body = Envelope<Peerings>), Errors))]
pub(in crate::api) async fn list(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    const FILTERS: [&str; 7] =
        ["vpcPeeringIds", "vpcPeeringNames", "vpcId", "remoteVpcId", "state", "role", "prefixScoped"];
    let parameters = Parameters::read(query.as_deref(), &page::PARAMETERS, &FILTERS)?;
    let page = Page::read(&parameters, Sort::Newest)?;
    parameters.only("state", &[&STATE_WORDS[..], &view::COARSE_WORDS].concat())?;
    parameters.only("role", &[Role::Initiator.word(), Role::Receiver.word()])?;
    parameters.only("prefixScoped", &["true", "false"])?;
    let now_ms = regional.context.api.engine.now_ms();
    let answer = regional.context.api.engine.read(|state, agents| {
        let found = state
            .peerings_of_account(&regional.account)
            .filter_map(|peering| Some((peering, role(peering, &regional.account, Some(&regional.region))?)))
            .filter(|(peering, role)| {
                let (own, other) = peering.view(*role);
                parameters.lets_through("vpcPeeringIds", &[peering.id.as_str()])
                    && parameters.lets_through("vpcPeeringNames", &[&peering.name])
                    && parameters.lets_through("vpcId", &[own.vpc.as_str()])
                    && parameters.lets_through("remoteVpcId", &[other.vpc.as_str()])
                    && parameters.lets_through("role", &[role.word()])
                    && parameters.lets_through("state", &view::state_words(peering, now_ms))
                    && parameters.lets_through("prefixScoped", &[view::scoped_word(peering, *role)])
                    && parameters.tagged(|key| {
                        peering.tags_of(*role).iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
                    })
            });
        let place = |peering: &Peering| Place {
            created_ms: peering.created_ms,
            name: peering.name.clone(),
            id: peering.id.to_string(),
        };
        let listed = page.of(found.map(|(peering, role)| (place(peering), (peering, role))).collect());
        let views = listed.entries.into_iter().map(|(peering, role)| regional.view(state, agents, peering, role));
        Peerings { vpc_peerings: views.collect(), total_count: listed.total, next_marker: listed.next }
    });
    reply(answer)
}

/// Show a peering.
#[utoipa::path(get, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}", tag = "peerings",
    operation_id = "describeVpcPeering", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)),
    responses((status = 200, body = Envelope<OnePeering>), Errors))]
pub(in crate::api) async fn show(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    Parameters::read(query.as_deref(), &[], &[])?;
    if let (_, Some(action)) = regional.named() {
        return Err(no_action(Some(action)));
    }
    let view = regional.look(regional.path("vpcPeeringId"), |state, agents, peering, role| {
        regional.view(state, agents, peering, role)
    })?;
    reply(OnePeering::is(Some(view)))
}

/// The actions on a peering.
const ACCEPT: &str = "acceptVpcPeering";
const REJECT: &str = "rejectVpcPeering";
const SET_BANDWIDTH: &str = "modifyVpcPeeringBandwidth";
const SET_PREFIXES: &str = "modifyVpcPeeringPrefixes";

fn no_action(action: Option<&str>) -> Failure {
    match action {
        None => Failure::no_method("GET,HEAD,PUT,DELETE"),
        Some(ACCEPT | REJECT) => Failure::no_method("POST"),
        Some(SET_BANDWIDTH | SET_PREFIXES) => Failure::no_method("PUT"),
        Some(action) => Failure::not_found(format!("there is no action {} here", cut(action, MAX_QUOTED))),
    }
}

/// Dispatches a `PUT`: to the peering itself, or to an action on it.
pub(in crate::api) async fn put(regional: Regional, body: Bytes) -> Reply {
    let (id, action) = regional.named();
    let which = regional.locate(id);
    match action {
        None => modify(regional, which?, body).await,
        Some(SET_BANDWIDTH) => set_bandwidth(regional, which?, body).await,
        Some(SET_PREFIXES) => set_prefixes(regional, which?, body).await,
        action => Err(no_action(action)),
    }
}

/// Change the name and description, which only the initiator can, and the caller's own tags and deletion protection.
#[utoipa::path(put, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}", tag = "peerings",
    operation_id = "modifyVpcPeering", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)),
    request_body = Option<ModifyPeeringBody>, responses((status = 200, body = Envelope<crate::api::response::Nothing>), Errors))]
async fn modify(regional: Regional, which: Locator, body: Bytes) -> Reply {
    let body: ModifyPeeringBody = regional.body(&body)?;
    let command = Command::ModifyPeering(Modify {
        which,
        name: body.vpc_peering_name,
        description: body.description,
        tags: body.user_tags.map(tags),
        protected: body.deletion_protection,
    });
    regional.context.execute(command, body.client_token).await?;
    reply(json!({}))
}

/// Change the bandwidth of a cross-region peering. Only the initiator can, who pays for it.
#[utoipa::path(put, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}:modifyVpcPeeringBandwidth",
    tag = "peerings", operation_id = "modifyVpcPeeringBandwidth",
    params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)), request_body = BandwidthBody,
    responses((status = 200, body = Envelope<OnePeering>), Errors))]
async fn set_bandwidth(regional: Regional, which: Locator, body: Bytes) -> Reply {
    let body: BandwidthBody = regional.body(&body)?;
    let command = Command::SetBandwidth(SetBandwidth { which, bandwidth: body.bandwidth });
    let id = peering_made(regional.context.execute(command, body.client_token).await?)?;
    regional.one(&id)
}

/// Change which prefixes of the caller's VPC are exported to the other side, and which of the other VPC are imported. Traffic between what
/// stays reachable is not interrupted.
#[utoipa::path(put, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}:modifyVpcPeeringPrefixes",
    tag = "peerings", operation_id = "modifyVpcPeeringPrefixes",
    params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)), request_body = PrefixesBody,
    responses((status = 200, body = Envelope<OnePeering>), Errors))]
async fn set_prefixes(regional: Regional, which: Locator, body: Bytes) -> Reply {
    let body: PrefixesBody = regional.body(&body)?;
    let set = SetPrefixes { which, vpc: body.vpc_id, export: body.export_prefixes, import: body.import_prefixes };
    if body.dry_run == Some(true) {
        regional.context.dry_run(Command::SetPrefixes(set.clone()), body.client_token).await?;
        let actor = Actor::Account(regional.account.clone());
        let after = regional.context.api.engine.read(|state, _| prefixes::outlook(state, &set, &actor)).ok();
        return reply(OnePeering::would_be(after.and_then(|(_, after)| regional.reachable(&after))));
    }
    let id = peering_made(regional.context.execute(Command::SetPrefixes(set), body.client_token).await?)?;
    regional.one(&id)
}

/// Dispatches a `POST`: to an action on the peering.
pub(in crate::api) async fn post(regional: Regional, body: Bytes) -> Reply {
    let (id, action) = regional.named();
    let which = regional.locate(id);
    match action {
        Some(ACCEPT) => accept(regional, which?, body).await,
        Some(REJECT) => reject(regional, which?, body).await,
        action => Err(no_action(action)),
    }
}

/// Accept a peering request, all of what it shows or a part. Only the receiver can.
#[utoipa::path(post, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}:acceptVpcPeering", tag = "peerings",
    operation_id = "acceptVpcPeering", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)),
    request_body = Option<AcceptBody>,
    responses((status = 200, body = Envelope<OnePeering>), Errors))]
async fn accept(regional: Regional, which: Locator, body: Bytes) -> Reply {
    let body: AcceptBody = regional.body(&body)?;
    let prefixes = PrefixLists {
        export: body.export_prefixes.unwrap_or_default(),
        import: body.import_prefixes.unwrap_or_default(),
    };
    let accept = Accept { which, prefixes };
    if body.dry_run == Some(true) {
        regional.context.dry_run(Command::AcceptPeering(accept.clone()), body.client_token).await?;
        let reachable = regional.context.api.engine.read(|state, _| {
            let mut after = state.peerings().get(&accept.which.id)?.clone();
            let PrefixLists { export, import } = &accept.prefixes;
            prefixes::give(&mut after.receiver, Some(export), Some(import)).ok()?;
            regional.reachable(&after)
        });
        return reply(OnePeering::would_be(reachable));
    }
    let id = peering_made(regional.context.execute(Command::AcceptPeering(accept), body.client_token).await?)?;
    regional.one(&id)
}

/// Reject a peering request. Only the receiver can.
#[utoipa::path(post, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}:rejectVpcPeering", tag = "peerings",
    operation_id = "rejectVpcPeering", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)),
    request_body = Option<EmptyBody>,
    responses((status = 200, body = Envelope<crate::api::response::Nothing>), Errors))]
async fn reject(regional: Regional, which: Locator, body: Bytes) -> Reply {
    let body: EmptyBody = regional.body(&body)?;
    regional.context.execute(Command::RejectPeering(which), body.client_token).await?;
    reply(json!({}))
}

/// Delete a peering. The response comes when every reachable host has confirmed from its kernel, or after a timeout with the number of
/// hosts that have not. Idempotent.
#[utoipa::path(delete, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}", tag = "peerings",
    operation_id = "deleteVpcPeering", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)),
    responses((status = 200, body = Envelope<Deleted>), Errors))]
pub(in crate::api) async fn delete(regional: Regional) -> Reply {
    if let (_, Some(action)) = regional.named() {
        return Err(no_action(Some(action)));
    }
    let which = regional.locate(regional.path("vpcPeeringId"))?;
    let id = which.id.clone();
    regional.context.execute(Command::DeletePeering(which), None).await?;
    let api = &regional.context.api;
    let missing = drained(api, &id, api.delete_wait).await.len();
    let state = if missing == 0 { "deleted" } else { "draining" };
    reply(Deleted { vpc_peering_id: id.to_string(), state, hosts_missing: missing })
}

/// Waits until no host has a peering any more, but no longer than `patience`. Returns the hosts that are missing then.
pub(in crate::api) async fn drained(
    api: &Api,
    id: &PeeringId,
    patience: Duration,
) -> Vec<cps_peering_config::id::HostId> {
    let draining = |state: &State| {
        state.peerings().get(id).filter(|it| matches!(it.state, PeeringState::Draining { .. })).cloned()
    };
    let over = api.engine.wait_for_peering(patience, id, |state| draining(state).is_none().then_some(()));
    if over.await.is_some() {
        return Vec::new();
    }
    api.engine.read(|state, agents| draining(state).map(|peering| agents.missing(&peering)).unwrap_or_default())
}

/// The route policies of a peering, in both directions.
#[utoipa::path(get, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}/routes", tag = "peerings",
    operation_id = "describeVpcPeeringRoutes", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path)),
    responses((status = 200, body = Envelope<Routes>), Errors))]
pub(in crate::api) async fn routes(regional: Regional) -> Reply {
    let routes = regional.look(regional.path("vpcPeeringId"), view::routes)?;
    reply(Routes { routes })
}

/// The traffic between the peers as counted by the hosts of the caller's VPC: totals, and samples of up to 30 days.
#[utoipa::path(get, path = "/v1/regions/{regionId}/vpcPeerings/{vpcPeeringId}/traffic", tag = "peerings",
    operation_id = "describeVpcPeeringTraffic", params(("regionId" = String, Path), ("vpcPeeringId" = String, Path),
        ("range" = Option<String>, Query, example = "24h",
            description = "`1h` (the default), `24h`, `7d` or `30d`: samples of 20 seconds, 5 minutes, and an hour")),
    responses((status = 200, body = Envelope<OneTraffic>), Errors))]
pub(in crate::api) async fn traffic(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    let span = traffic::span(query.as_deref())?;
    let counted = regional.context.api.engine.traffic();
    let look = |_: &State, _: &Agents<'_>, peering: &Peering, role| {
        traffic::view(counted, peering, peering.view(role).0, span)
    };
    let traffic = regional.look(regional.path("vpcPeeringId"), look)?;
    reply(OneTraffic { traffic })
}

/// The account's quotas in a region, and their use.
#[utoipa::path(get, path = "/v1/regions/{regionId}/quotas/", tag = "peerings", operation_id = "describeQuota",
    params(("regionId" = String, Path),
        ("type" = String, Query, example = "vpcpeering",
            description = "`vpcpeering`, `vpc`, `secondarycidr`, `tag`, `clienttoken`, `blockedaccount`, `peeringrequest` (requests \
                to one account within an hour) or `bandwidthchange` (bandwidths set or changed within an hour)"),
        ("parentResourceId" = Option<String>, Query,
            description = "With `peeringrequest`: the receiving account; by default the one with the most requests")),
    responses((status = 200, body = Envelope<Quota>), Errors))]
pub(in crate::api) async fn quota(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["type", "parentResourceId"], &[])?;
    let words = || Kind::ALL.map(Kind::word).join(", ");
    let Some(word) = parameters.get("type") else {
        return Err(Failure::field("type", format!("missing: use one of {}", words())));
    };
    let Some(kind) = Kind::of_word(word) else {
        return Err(Failure::field("type", format!("{} has no quota; these have: {}", quote(word), words())));
    };
    let engine = &regional.context.api.engine;
    let (limits, now_ms) = (engine.limits(), engine.now_ms());
    let (account, region) = (&regional.account, Some(&regional.region));
    let receiver: Option<AccountId> =
        parameters.get("parentResourceId").filter(|_| kind == Kind::PeeringRequest).and_then(|id| id.parse().ok());
    let (max_limit, count) = engine.read(|state, _| {
        let most = quota::limit(state, kind, account, region, &limits);
        let used = match &receiver {
            Some(receiver) => quota::requests_to(state, account, receiver, now_ms),
            None => quota::used(state, kind, account, region, now_ms),
        };
        (most, used)
    });
    let parent_resource_id = parameters.get("parentResourceId").unwrap_or_default().to_owned();
    reply(Quota { quota: QuotaContent { kind: kind.word(), parent_resource_id, max_limit, count } })
}
