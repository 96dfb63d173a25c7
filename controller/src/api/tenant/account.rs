//! An account's identity, blocked accounts, and audit trail.

use crate::{
    api::{
        query::Parameters,
        request::{RequestContext, Tenant},
        response::{Envelope, Errors, Failure, Nothing, Reply, reply},
    },
    audit::{self, Query},
    model::{
        Actor, Command,
        account::{Change, What},
    },
};
use axum::extract::{Path, RawQuery};
use cps_peering_config::{id::AccountId, time::timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The authenticated identity.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct WhoAmI {
    /// `account` or `operator`.
    role: &'static str,
    /// The account.
    account_id: Option<String>,
    /// The operator's name, if the settings have one.
    operator: Option<String>,
    /// The operator's role: `read`, `operate` or `admin`.
    operator_role: Option<&'static str>,
    /// Charge status: `normal`, `overdue` or `arrear`.
    charge_status: Option<&'static str>,
    /// List the regions.
    regions: Vec<String>,
}

/// List the regions.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Regions {
    regions: Vec<RegionView>,
}

/// A region.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RegionView {
    region: String,
    region_id: String,
}

/// List the blocked accounts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Blocked {
    blocked_accounts: Vec<String>,
}

/// A part of the audit trail, the newest entries first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Trail {
    entries: Vec<TrailEntry>,
}

/// One attempted change.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TrailEntry {
    /// Its number; use it as `before` to get older entries.
    number: u64,
    /// The time.
    time: String,
    /// The id of the request; empty for actions of the system. (Not `requestId`: clients would take the entry for a response.)
    request: String,
    /// `system`, `operator`, `operator/NAME`, `account/ID`, or `unknown` if authentication failed.
    actor: String,
    /// The caller's address; empty for requests of another account and for actions of the system.
    from: String,
    /// The object.
    action: String,
    /// The object of the action.
    target: String,
    /// `done`, `unchanged` or `refused`; at deadlines, the new state.
    outcome: String,
    /// Why it was refused.
    reason: String,
    /// The id of the request; null for requests of another account.
    asked: Value,
}

/// Reads a query of the audit trail.
pub(in crate::api) fn trail_query(query: Option<&str>, known: &[&str]) -> Result<(Parameters, Query), Failure> {
    const MOST: u64 = 1000;
    const USUAL: usize = 100;
    let parameters = Parameters::read(query, known, &[])?;
    let limit = parameters.number("limit", 1, MOST)?;
    let query = Query {
        account: None,
        request: parameters.get("request").map(ToOwned::to_owned),
        before: parameters.number("before", 1, i64::MAX.unsigned_abs())?,
        limit: limit.map_or(USUAL, |limit| usize::try_from(limit).unwrap_or(USUAL)),
    };
    Ok((parameters, query))
}

/// Entries for a viewer, who does not see the origin of requests of others.
pub(in crate::api) fn trail(found: Vec<(u64, audit::Entry)>, viewer: &Actor) -> Trail {
    let show = |(number, entry): (u64, audit::Entry)| {
        let own = viewer.account().is_none() || entry.actor == viewer.to_string();
        // Who tried an account's credentials concerns that account.
        let is_failure = entry.actor == "unknown";
        TrailEntry {
            number,
            time: timestamp(entry.time_ms),
            request: if own { entry.request } else { String::new() },
            // Which operator it was concerns operators only.
            actor: if viewer.account().is_some() && entry.actor.starts_with("operator/") {
                Actor::Operator.to_string()
            } else {
                entry.actor
            },
            from: if own || is_failure { entry.from } else { String::new() },
            action: entry.action,
            target: entry.target,
            outcome: entry.outcome,
            reason: if own || is_failure { entry.reason } else { String::new() },
            asked: if own { entry.asked } else { Value::Null },
        }
    };
    Trail { entries: found.into_iter().map(show).collect() }
}

/// The authenticated identity.
#[utoipa::path(get, path = "/v1/whoami", tag = "account", operation_id = "whoami",
    responses((status = 200, body = Envelope<WhoAmI>), Errors))]
pub(in crate::api) async fn whoami(context: RequestContext) -> Reply {
    let (account, operator) = (context.caller.actor.account(), context.caller.operator.as_ref());
    let answer = context.api.engine.read(|state, _| WhoAmI {
        role: if account.is_some() { "account" } else { "operator" },
        account_id: account.map(ToString::to_string),
        operator: operator.and_then(|operator| operator.name.clone()),
        operator_role: operator.map(|operator| operator.role.word()),
        charge_status: account.map(|id| state.account(id).charge.word()),
        regions: state.regions().keys().map(ToString::to_string).collect(),
    });
    reply(answer)
}

/// List the regions.
#[utoipa::path(get, path = "/v1/regions", tag = "account", operation_id = "describeRegions",
    responses((status = 200, body = Envelope<Regions>), Errors))]
pub(in crate::api) async fn regions(context: RequestContext) -> Reply {
    let view = |id: &cps_peering_config::id::RegionId| RegionView { region: id.to_string(), region_id: id.to_string() };
    reply(Regions { regions: context.api.engine.read(|state, _| state.regions().keys().map(view).collect()) })
}

/// The audit trail of the account: its own commands, and those of others that affect its peerings. Newest entries first.
#[utoipa::path(get, path = "/v1/auditEntries", tag = "account", operation_id = "describeAuditEntries",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("before" = Option<u64>, Query, minimum = 1),
        ("request" = Option<String>, Query)),
    responses((status = 200, body = Envelope<Trail>), Errors))]
pub(in crate::api) async fn audit(tenant: Tenant, RawQuery(query): RawQuery) -> Reply {
    let (_, query) = trail_query(query.as_deref(), &["limit", "before", "request"])?;
    let query = Query { account: Some(tenant.account.clone()), ..query };
    let found = tenant.context.audit(query).await?;
    reply(trail(found, &tenant.context.caller.actor))
}

/// List the blocked accounts.
#[utoipa::path(get, path = "/v1/blockedAccounts", tag = "account", operation_id = "describeBlockedAccounts",
    responses((status = 200, body = Envelope<Blocked>), Errors))]
pub(in crate::api) async fn blocked(tenant: Tenant) -> Reply {
    let blocked = tenant.context.api.engine.read(|state, _| state.account(&tenant.account).blocked);
    reply(Blocked { blocked_accounts: blocked.iter().map(ToString::to_string).collect() })
}

async fn change(tenant: Tenant, other: &str, what: impl FnOnce(AccountId) -> What) -> Reply {
    let other = other.parse().map_err(|error| Failure::field("accountId", format!("{error}")))?;
    let change = Change { id: tenant.account.clone(), what: what(other) };
    tenant.context.execute(Command::Account(change), None).await?;
    reply(json!({}))
}

/// Block peering requests from an account. For that account the caller's VPCs do not exist.
#[utoipa::path(put, path = "/v1/blockedAccounts/{accountId}", tag = "account", operation_id = "blockAccount",
    params(("accountId" = String, Path)), responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn block(tenant: Tenant, Path(other): Path<String>) -> Reply {
    change(tenant, &other, What::Block).await
}

/// Unblock an account: accept peering requests from it again.
#[utoipa::path(delete, path = "/v1/blockedAccounts/{accountId}", tag = "account", operation_id = "unblockAccount",
    params(("accountId" = String, Path)), responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn unblock(tenant: Tenant, Path(other): Path<String>) -> Reply {
    change(tenant, &other, What::Unblock).await
}
