//! The inventory of regions, hosts, VPCs and ports; backups, and the audit trail.

use crate::{
    api::{
        query::Parameters,
        request::{RequestContext, read},
        response::{Envelope, Errors, Failure, Reply, reply},
        tenant::{
            account::{Trail, trail, trail_query},
            peerings::drained,
        },
        view,
    },
    audit::Query,
    model::{
        Command, Outcome,
        inventory::{self, Action, Apply, Approval, Difference},
        record::Host,
    },
};
use axum::{body::Bytes, extract::RawQuery};
use cps_peering_config::{
    Revision,
    id::{HostId, PeeringId},
    inventory::Inventory,
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;
use utoipa::ToSchema;

/// The most hosts and peerings that a response to `apply` names; it also has their number.
const MAX_NAMED: usize = 100;

/// The changes of a document.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Applied {
    #[schema(value_type = Vec<Object>)]
    pub(super) changes: Vec<Difference>,
    /// Whether this was a dry run.
    pub(super) dry_run: bool,
    /// The number of the last commit that was seen: of a dry run, what `ifRevision` takes.
    pub(super) revision: u64,
    /// The same with its epoch, as `1.42`: numbers may repeat after a restore. `ifRevision` takes it as well.
    pub(super) full_revision: String,
    /// The value of `confirm` that is needed to apply this; none if no confirmation is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) confirm: Option<usize>,
    /// Changes that hosts have not confirmed yet. Empty after a dry run.
    pub(super) unconfirmed: Unconfirmed,
}

/// Changes that hosts have not confirmed yet.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Unconfirmed {
    /// Number of removed peerings that still drain: not every host concerned has confirmed the removal.
    draining_count: usize,
    /// Their ids, at most 100.
    #[schema(value_type = Vec<String>)]
    draining: Vec<PeeringId>,
    /// Number of hosts that have not yet confirmed that their kernel matches their configuration.
    host_count: usize,
    /// Their ids, at most 100.
    #[schema(value_type = Vec<String>)]
    hosts: Vec<HostId>,
    /// Number of these hosts that wait for the canaries of a staged rollout.
    held_back_count: usize,
}

/// Apply a document of regions, accounts, hosts, VPCs, ports and peerings, all or nothing.
///
/// If that removes peerings, the response comes when every reachable host has confirmed the removal from its kernel, or after a timeout with
/// what still drains.
#[utoipa::path(post, path = "/admin/v1/apply", tag = "operators", operation_id = "apply",
    params(("dryRun" = Option<bool>, Query), ("prune" = Option<bool>, Query),
        ("adopt" = Option<bool>, Query,
            description = "Take over what the document contains and other inventories or operators' commands have created."),
         ("confirm" = Option<usize>, Query, description = "Maximum number of entries that are removed or whose traffic stops."),
         ("ifRevision" = Option<String>, Query,
            description = "Refuse if the last commit is a different one: a `fullRevision`, or its number alone.")),
    request_body = serde_json::Value,
    responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn apply(context: RequestContext, RawQuery(query): RawQuery, body: Bytes) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["dryRun", "prune", "adopt", "confirm", "ifRevision"], &[])?;
    let (dry_run, prune) = (parameters.flag("dryRun")?, parameters.flag("prune")?);
    let adopt = parameters.flag("adopt")?;
    let given = parameters.number("confirm", 0, u64::MAX)?.and_then(|number| usize::try_from(number).ok());
    let approval = if dry_run { Approval::NotNeeded } else { Approval::Given(given) };
    let if_revision = parameters.revision("ifRevision")?;
    let inventory: Inventory = read(&body)?;
    let command = Command::Apply(Apply { inventory, prune, approval, adopt, if_revision });
    let engine = &context.api.engine;
    // Before the document is checked: a change in between leads to a refusal, and is not missed.
    let before = engine.read(|state, _| state.clone());
    let outcome = if dry_run { context.dry_run(command, None).await? } else { context.execute(command, None).await? };
    let Outcome::Applied(mut changes) = outcome else {
        return Err(Failure::internal(format!("apply led to {outcome:?}")));
    };
    let mut confirm = None;
    if dry_run {
        confirm = inventory::needs_approval(&before, &changes, &engine.limits());
        // These ids are random, and different when the document is applied.
        for made in changes.iter_mut().filter(|it| it.kind == "peering" && it.action == Action::Create) {
            let name = made.id.split_once(' ').map_or("", |(_, name)| name);
            made.id = format!("(new) {name}");
        }
    }
    let revision = if dry_run { before.meta() } else { engine.read(|state, _| state.meta()) }.revision();
    let unconfirmed = if dry_run { Unconfirmed::default() } else { unconfirmed(&context, &changes).await };
    let (revision, full_revision) = (revision.number, revision.to_string());
    reply(Applied { changes, dry_run, revision, full_revision, confirm, unconfirmed })
}

/// Waits until removed peerings are gone from all kernels, for as long as a delete may take, and returns what is missing then.
pub(super) async fn unconfirmed(context: &RequestContext, changes: &[Difference]) -> Unconfirmed {
    let removed = changes.iter().filter(|change| change.kind == "peering" && change.action == Action::Delete);
    // The id is followed by the name.
    let removed: Vec<PeeringId> = removed.filter_map(|change| change.id.split(' ').next()?.parse().ok()).collect();
    let until = Instant::now() + context.api.delete_wait;
    let mut missing: BTreeSet<HostId> = BTreeSet::new();
    let mut draining = Vec::new();
    for id in removed {
        // They share one deadline.
        let hosts = drained(&context.api, &id, until.saturating_duration_since(Instant::now())).await;
        if !hosts.is_empty() {
            draining.push(id);
            missing.extend(hosts);
        }
    }
    let held_back_count = context.api.engine.read(|state, agents| {
        // Also hosts that confirmed earlier and have not reported since: a report counts only for a while (rule V3).
        let behind = state.hosts().values().filter(|host| !host.dead && !agents.in_sync(host));
        missing.extend(behind.map(|host| host.id.clone()));
        missing.iter().filter(|id| state.hosts().get(*id).is_some_and(Host::is_held_back)).count()
    });
    let (draining_count, host_count) = (draining.len(), missing.len());
    draining.truncate(MAX_NAMED);
    Unconfirmed {
        draining_count,
        draining,
        host_count,
        hosts: missing.into_iter().take(MAX_NAMED).collect(),
        held_back_count,
    }
}

/// The current inventory, as a document that can be applied.
#[utoipa::path(get, path = "/admin/v1/inventory", tag = "operators", operation_id = "inventory",
    responses((status = 200, body = Envelope<serde_json::Value>), Errors))]
pub(in crate::api) async fn inventory(context: RequestContext) -> Reply {
    reply(context.api.engine.read(|state, _| view::inventory(state)))
}

/// A copy of the store.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct BackUp {
    /// The file, on the controller's machine.
    file: String,
    /// The file with the key that encrypts the secret keys in the copy; the copy does not contain it.
    store_key_file: String,
    /// The last commit that it contains.
    #[schema(value_type = Object)]
    revision: Revision,
}

/// Back up the store into a new file on the controller's machine, beside the store.
#[utoipa::path(post, path = "/admin/v1/backups", tag = "operators", operation_id = "backUp",
    responses((status = 200, body = Envelope<BackUp>), Errors))]
pub(in crate::api) async fn back_up(context: RequestContext) -> Reply {
    let engine = Arc::clone(&context.api.engine);
    let made = tokio::task::spawn_blocking(move || engine.back_up()).await;
    let (file, revision) = made.map_err(|error| Failure::internal(error.to_string()))??;
    let store_key_file = context.api.access.vault().path().display().to_string();
    reply(BackUp { file: file.display().to_string(), store_key_file, revision })
}

/// The audit trail, newest entries first.
#[utoipa::path(get, path = "/admin/v1/audit", tag = "operators", operation_id = "audit",
    params(("account" = Option<String>, Query), ("request" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("before" = Option<u64>, Query, minimum = 1)),
    responses((status = 200, body = Envelope<Trail>), Errors))]
pub(in crate::api) async fn audit(context: RequestContext, RawQuery(query): RawQuery) -> Reply {
    let (parameters, query) = trail_query(query.as_deref(), &["account", "request", "limit", "before"])?;
    let account = parameters.get("account").map(str::parse).transpose();
    let account = account.map_err(|error| Failure::field("account", format!("{error}")))?;
    let found = context.audit(Query { account, ..query }).await?;
    reply(trail(found, &context.caller.actor))
}
