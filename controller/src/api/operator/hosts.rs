//! Hosts: their state, and commands for one at a time.

use super::inventory::{Applied, Unconfirmed, unconfirmed};
use crate::{
    api::{
        query::Parameters,
        request::RequestContext,
        response::{Envelope, Errors, Failure, Reply, reply},
        view::{self, HostView},
    },
    model::{
        Command, Outcome,
        host::{Change, Removal, What},
        inventory::{Approval, host_needs_approval},
        window::{self, Ends, WindowRequest},
    },
};
use axum::extract::{Path, RawQuery};
use cps_peering_config::{
    id::HostId,
    text::quote,
    time::{moment, timestamp},
};
use serde::Serialize;
use utoipa::ToSchema;

/// The hosts.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Hosts {
    hosts: Vec<HostView>,
}

/// List all hosts and the state of their agents.
#[utoipa::path(get, path = "/admin/v1/hosts", tag = "operators", operation_id = "hosts",
    responses((status = 200, body = Envelope<Hosts>), Errors))]
pub(in crate::api) async fn hosts(context: RequestContext) -> Reply {
    let api = &context.api;
    let mut hosts: Vec<HostView> =
        api.engine.read(|state, agents| state.hosts().values().map(|host| view::host(state, agents, host)).collect());
    let not_renewed = api.engine.metrics().not_renewed().clone();
    for host in &mut hosts {
        // An invalid id belongs to no host.
        let Ok(id) = host.host.parse() else { continue };
        host.certificate_expires =
            api.diagnosed.agents.certificate_ends(&id).map(|s| timestamp(s.saturating_mul(1000)));
        host.certificate_not_renewed = not_renewed.get(&id).map(|result| result.word());
    }
    reply(Hosts { hosts })
}

/// Drain a host: it accepts no new ports, and changes do not wait for it. Its ports stay.
#[utoipa::path(post, path = "/admin/v1/hosts/{host}/drain", tag = "operators", operation_id = "drainHost",
    params(("host" = String, Path)), responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn drain(context: RequestContext, Path(host): Path<String>) -> Reply {
    carry_out(&context, &host, What::Drain, false).await
}

/// Uncordon a host: end its drain.
#[utoipa::path(post, path = "/admin/v1/hosts/{host}/uncordon", tag = "operators", operation_id = "uncordonHost",
    params(("host" = String, Path)), responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn uncordon(context: RequestContext, Path(host): Path<String>) -> Reply {
    carry_out(&context, &host, What::Uncordon, false).await
}

/// Set the maintenance window of a host, now or later. During it no new change waits for the host, and alerts exclude it; its configuration is
/// still pushed. The window begins and ends by itself, and replaces an earlier one.
#[utoipa::path(post, path = "/admin/v1/hosts/{host}/maintenance", tag = "operators", operation_id = "maintainHost",
    params(("host" = String, Path),
        ("from" = Option<String>, Query, description = "When it begins (RFC 3339), at most 90 days ahead. By default, now."),
        ("until" = Option<String>, Query, description = "When it ends (RFC 3339), at most 7 days after it begins."),
        ("forSeconds" = Option<u64>, Query, description = "How long it lasts, instead of `until`.")),
    responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn maintain(
    context: RequestContext,
    Path(host): Path<String>,
    RawQuery(query): RawQuery,
) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["from", "until", "forSeconds"], &[])?;
    let time = |name: &'static str| {
        let Some(text) = parameters.get(name) else { return Ok(None) };
        let rule = || format!("{} is not a time such as 2026-01-31T22:00:00+08:00 (RFC 3339)", quote(text));
        moment(text).map(Some).ok_or_else(|| Failure::field(name, rule()))
    };
    let (from, until) = (time("from")?, time("until")?);
    let ends = match (until, parameters.number("forSeconds", 1, window::LONGEST_MS / 1000)?) {
        (Some(until_ms), None) => Ends::At(until_ms),
        (None, Some(seconds)) => Ends::AfterS(seconds),
        (Some(_), Some(_)) => {
            return Err(Failure::field("forSeconds", "`until` is given, too: give one of them"));
        }
        (None, None) => {
            return Err(Failure::field("until", "missing, as is `forSeconds`: give one of them"));
        }
    };
    carry_out(&context, &host, What::Maintain(WindowRequest { from, ends }), false).await
}

/// End the maintenance window of a host, or cancel it before it begins. A drained host stays drained.
#[utoipa::path(delete, path = "/admin/v1/hosts/{host}/maintenance", tag = "operators", operation_id = "endHostMaintenance",
    params(("host" = String, Path)), responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn end_maintenance(context: RequestContext, Path(host): Path<String>) -> Reply {
    carry_out(&context, &host, What::EndMaintenance, false).await
}

/// Pause pushes to a host, deletes included. It is still polled.
#[utoipa::path(post, path = "/admin/v1/hosts/{host}/pause", tag = "operators", operation_id = "pauseHost",
    params(("host" = String, Path)), responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn pause(context: RequestContext, Path(host): Path<String>) -> Reply {
    carry_out(&context, &host, What::Pause, false).await
}

/// Resume pushes to a host.
#[utoipa::path(post, path = "/admin/v1/hosts/{host}/resume", tag = "operators", operation_id = "resumeHost",
    params(("host" = String, Path)), responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn resume(context: RequestContext, Path(host): Path<String>) -> Reply {
    carry_out(&context, &host, What::Resume, false).await
}

/// Remove a host with its ports. An agent that answers cleans up its kernel first, and the host is forgotten when it has confirmed
/// that; nothing waits for a dead host. To forget a host that was removed as dead, remove it again.
#[utoipa::path(delete, path = "/admin/v1/hosts/{host}", tag = "operators", operation_id = "removeHost",
    params(("host" = String, Path),
        ("dead" = Option<bool>, Query, description = "Whether the host is dead. By default, whether its agent does not answer at the moment."),
        ("dryRun" = Option<bool>, Query),
        ("confirm" = Option<usize>, Query, description = "Maximum number of entries that are removed or whose traffic stops.")),
    responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn remove(
    context: RequestContext,
    Path(host): Path<String>,
    RawQuery(query): RawQuery,
) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["dead", "dryRun", "confirm"], &[])?;
    let (mut removal, dry_run) = removal(&parameters)?;
    if parameters.get("dead").is_none() {
        // If the agent answers, its cleanup is awaited: the host forwards until it has been told to stop.
        let host = known(&host)?;
        removal.dead = !context.api.engine.read(|_, agents| agents.is_current(&host));
    }
    carry_out(&context, &host, What::Remove(removal), dry_run).await
}

/// Move a host's ports to another host, under the same interface names, and remove the first host.
#[utoipa::path(post, path = "/admin/v1/hosts/{host}/replace", tag = "operators", operation_id = "replaceHost",
    params(("host" = String, Path), ("by" = String, Query, description = "The replacement, a host of the inventory."),
        ("dead" = Option<bool>, Query, description = "Whether the host to be replaced is dead. By default false."),
        ("dryRun" = Option<bool>, Query),
        ("confirm" = Option<usize>, Query, description = "Maximum number of entries that are removed or whose traffic stops.")),
    responses((status = 200, body = Envelope<Applied>), Errors))]
pub(in crate::api) async fn replace(
    context: RequestContext,
    Path(host): Path<String>,
    RawQuery(query): RawQuery,
) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["by", "dead", "dryRun", "confirm"], &[])?;
    let by = parameters.get("by").ok_or_else(|| Failure::field("by", "missing: name the host that takes over"))?;
    let by = known(by)?;
    let (removal, dry_run) = removal(&parameters)?;
    carry_out(&context, &host, What::Replace { by, removal }, dry_run).await
}

/// An invalid id belongs to no host.
fn known(host: &str) -> Result<HostId, Failure> {
    host.parse().map_err(|_| Failure::not_found(format!("there is no host {}", quote(host))))
}

fn removal(parameters: &Parameters) -> Result<(Removal, bool), Failure> {
    let dry_run = parameters.flag("dryRun")?;
    let given = parameters.number("confirm", 0, u64::MAX)?.and_then(|number| usize::try_from(number).ok());
    let approval = if dry_run { Approval::NotNeeded } else { Approval::Given(given) };
    let dead = parameters.flag("dead")?;
    Ok((Removal { dead, approval }, dry_run))
}

async fn carry_out(context: &RequestContext, host: &str, what: What, dry_run: bool) -> Reply {
    let waits = matches!(&what, What::Remove(removal) | What::Replace { removal, .. } if !removal.dead);
    let command = Command::Host(Change { id: known(host)?, what });
    let outcome = if dry_run { context.dry_run(command, None).await? } else { context.execute(command, None).await? };
    let Outcome::Applied(changes) = outcome else {
        return Err(Failure::internal(format!("a command about a host led to {outcome:?}")));
    };
    let confirm = host_needs_approval(&changes).filter(|_| dry_run);
    let revision = context.api.engine.read(|state, _| state.meta()).revision();
    let unconfirmed = if dry_run || !waits { Unconfirmed::default() } else { unconfirmed(context, &changes).await };
    let (revision, full_revision) = (revision.number, revision.to_string());
    reply(Applied { changes, dry_run, revision, full_revision, confirm, unconfirmed })
}
