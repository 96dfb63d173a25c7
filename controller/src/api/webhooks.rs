//! Webhooks of accounts in a region, and of operators. [`crate::webhooks`] delivers to them.

use super::{
    request::{Regional, RequestContext, read},
    response::{Envelope, Errors, Failure, Nothing, Reply, reply},
};
use crate::{
    access::secret,
    feed::latest,
    model::{
        Code, Command, CommandError,
        record::Webhook,
        webhook::{Change, What},
    },
    webhooks::{self, Status},
};
use axum::{body::Bytes, extract::Path};
use cps_peering_config::{
    id::{AccountId, RegionId},
    text::{MAX_QUOTED, cut},
    time::{timestamp, timestamp_ms},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// Request to create a webhook.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateWebhookBody {
    /// URL to which events are sent: https, and no address within the provider's network.
    url: String,
    /// Event types to send; empty for all.
    types: Option<BTreeSet<String>>,
}

/// Request to change a webhook.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ModifyWebhookBody {
    /// URL to which events are sent.
    url: Option<String>,
    /// Event types to send, replacing the current ones; empty for all.
    types: Option<BTreeSet<String>>,
    /// Whether events are sent. Events that happen while it is disabled are sent afterwards, as far as they are kept.
    enabled: Option<bool>,
}

/// A webhook and its delivery status.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WebhookView {
    /// The id.
    webhook_id: String,
    /// URL to which events are sent.
    url: String,
    /// Event types to send; empty for all.
    types: BTreeSet<String>,
    /// Whether events are sent.
    enabled: bool,
    /// When it was created.
    created_time: String,
    /// `working`, `failing` while the last attempts have failed, or `disabled`.
    state: &'static str,
    /// When an event was last delivered; none if deliveries are failing, or there has been none.
    last_delivered: Option<String>,
    /// Number of consecutive failed attempts.
    failures: u32,
    /// The error of the last one.
    last_error: Option<String>,
    /// When the next attempt is made.
    next_attempt: Option<String>,
    /// Number of times that events were skipped because they were older than 7 days.
    expired: u32,
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneWebhook {
    webhook: WebhookView,
}

/// Webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AllWebhooks {
    webhooks: Vec<WebhookView>,
}

/// A webhook that was created.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewWebhook {
    webhook: WebhookView,
    /// The secret that requests are signed with, shown only once: HMAC-SHA256 with the key after `whsec_`, in base64.
    secret: String,
}

/// The account and region that own them; none for operators.
type Owner = Option<(AccountId, RegionId)>;

fn view(webhook: &Webhook, status: Status) -> WebhookView {
    let state = match (webhook.enabled, status.failures) {
        (false, _) => "disabled",
        (true, 0) => "working",
        (true, _) => "failing",
    };
    WebhookView {
        webhook_id: webhook.id.clone(),
        url: webhook.url.clone(),
        types: webhook.types.clone(),
        enabled: webhook.enabled,
        created_time: timestamp(webhook.created_ms),
        state,
        last_delivered: status.delivered_ms.map(timestamp_ms),
        failures: status.failures,
        last_error: status.error,
        next_attempt: status.retry_ms.map(timestamp_ms),
        expired: status.expired,
    }
}

fn missing(id: &str) -> Failure {
    let rule = format!("there is no webhook {}", cut(id, MAX_QUOTED));
    CommandError::one(Code::NotFound, "webhookId", rule, "WebhookNotFound").into()
}

fn one(context: &RequestContext, owner: &Owner, id: &str) -> Result<WebhookView, Failure> {
    let found = context.api.engine.read(|state, _| state.webhooks().get(id).filter(|it| it.owner == *owner).cloned());
    let webhook = found.ok_or_else(|| missing(id))?;
    let status = context.api.webhooks.status(id);
    Ok(view(&webhook, status))
}

fn list(context: &RequestContext, owner: &Owner) -> Reply {
    let mut found: Vec<Webhook> = context
        .api
        .engine
        .read(|state, _| state.webhooks().values().filter(|it| it.owner == *owner).cloned().collect());
    found.sort_by(|one, other| (one.created_ms, &one.id).cmp(&(other.created_ms, &other.id)));
    let webhooks = found.iter().map(|webhook| view(webhook, context.api.webhooks.status(&webhook.id)));
    reply(AllWebhooks { webhooks: webhooks.collect() })
}

fn check(context: &RequestContext, url: Option<&String>) -> Result<(), Failure> {
    let Some(url) = url.filter(|url| url.len() <= crate::model::webhook::MAX_URL) else { return Ok(()) };
    let checked = context.api.webhooks.guard().check(url, &context.api.engine);
    let refused = |rule| CommandError::one(Code::InvalidArgument, "url", rule, "InvalidWebhookUrl").into();
    checked.map(drop).map_err(refused)
}

async fn create(context: &RequestContext, owner: Owner, body: CreateWebhookBody) -> Reply {
    check(context, Some(&body.url))?;
    let random =
        |result: Result<String, secret::NoRandomness>| result.map_err(|error| Failure::internal(error.to_string()));
    let (id, secret) = (format!("wh-{}", random(secret::random_hex(8))?), random(webhooks::new_secret())?);
    let (account, name) = Webhook::seal(owner.as_ref().map(|(account, _)| account), &id);
    let sealed = context.api.access.vault().seal(&account, &name, &secret);
    let sealed = sealed.map_err(|error| Failure::internal(error.to_string()))?;
    // Events from now on.
    let after = latest(&context.api.engine).await?.to_string();
    let types = body.types.unwrap_or_default();
    let what = What::Create { url: body.url, types, secret: sealed, after };
    context.execute(Command::Webhook(Change { id: id.clone(), owner: owner.clone(), what }), None).await?;
    reply(NewWebhook { webhook: one(context, &owner, &id)?, secret })
}

async fn modify(context: &RequestContext, owner: Owner, id: &str, body: ModifyWebhookBody) -> Reply {
    check(context, body.url.as_ref())?;
    let what = What::Modify { url: body.url, types: body.types, enabled: body.enabled };
    context.execute(Command::Webhook(Change { id: id.to_owned(), owner: owner.clone(), what }), None).await?;
    reply(OneWebhook { webhook: one(context, &owner, id)? })
}

async fn delete(context: &RequestContext, owner: Owner, id: &str) -> Reply {
    context.execute(Command::Webhook(Change { id: id.to_owned(), owner, what: What::Delete }), None).await?;
    reply(json!({}))
}

/// The owner of the webhooks that an account asks for.
#[allow(clippy::unnecessary_wraps, reason = "operators' have none")]
fn owner(regional: &Regional) -> Owner {
    Some((regional.account.clone(), regional.region.clone()))
}

/// List the account's webhooks in a region, with their delivery status.
#[utoipa::path(get, path = "/v1/regions/{regionId}/webhooks", tag = "events", operation_id = "describeWebhooks",
    params(("regionId" = String, Path)), responses((status = 200, body = Envelope<AllWebhooks>), Errors))]
pub(super) async fn list_own(regional: Regional) -> Reply {
    list(&regional.context, &owner(&regional))
}

/// Create a webhook: from now on, events of the account's peerings in the region are sent to a URL. Requests are signed as
/// specified by Standard Webhooks, in `webhook-id`, `webhook-timestamp` and `webhook-signature`, and retried until they are
/// answered with 2xx, in order and each at least once; redirects are not followed.
#[utoipa::path(post, path = "/v1/regions/{regionId}/webhooks", tag = "events", operation_id = "createWebhook",
    params(("regionId" = String, Path)), request_body = CreateWebhookBody,
    responses((status = 200, body = Envelope<NewWebhook>), Errors))]
pub(super) async fn create_own(regional: Regional, body: Bytes) -> Reply {
    create(&regional.context, owner(&regional), regional.body(&body)?).await
}

/// Show a webhook and its delivery status.
#[utoipa::path(get, path = "/v1/regions/{regionId}/webhooks/{webhookId}", tag = "events",
    operation_id = "describeWebhook", params(("regionId" = String, Path), ("webhookId" = String, Path)),
    responses((status = 200, body = Envelope<OneWebhook>), Errors))]
pub(super) async fn show_own(regional: Regional) -> Reply {
    reply(OneWebhook { webhook: one(&regional.context, &owner(&regional), regional.path("webhookId"))? })
}

/// Change the URL of a webhook, its event types, or whether it is enabled.
#[utoipa::path(put, path = "/v1/regions/{regionId}/webhooks/{webhookId}", tag = "events",
    operation_id = "modifyWebhook", params(("regionId" = String, Path), ("webhookId" = String, Path)),
    request_body = Option<ModifyWebhookBody>, responses((status = 200, body = Envelope<OneWebhook>), Errors))]
pub(super) async fn modify_own(regional: Regional, body: Bytes) -> Reply {
    let body = regional.body(&body)?;
    modify(&regional.context, owner(&regional), regional.path("webhookId"), body).await
}

/// Delete a webhook.
#[utoipa::path(delete, path = "/v1/regions/{regionId}/webhooks/{webhookId}", tag = "events",
    operation_id = "deleteWebhook", params(("regionId" = String, Path), ("webhookId" = String, Path)),
    responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(super) async fn delete_own(regional: Regional) -> Reply {
    delete(&regional.context, owner(&regional), regional.path("webhookId")).await
}

/// List the operators' webhooks, with their delivery status.
#[utoipa::path(get, path = "/admin/v1/webhooks", tag = "operators", operation_id = "listWebhooks",
    responses((status = 200, body = Envelope<AllWebhooks>), Errors))]
pub(super) async fn list_all(context: RequestContext) -> Reply {
    list(&context, &None)
}

/// Create a webhook of the operators: from now on, all events, including those of hosts, are sent to a URL, as with
/// accounts' webhooks.
#[utoipa::path(post, path = "/admin/v1/webhooks", tag = "operators", operation_id = "addWebhook",
    request_body = CreateWebhookBody, responses((status = 200, body = Envelope<NewWebhook>), Errors))]
pub(super) async fn create_for_all(context: RequestContext, body: Bytes) -> Reply {
    create(&context, None, read(&body)?).await
}

/// Show a webhook of the operators and its delivery status.
#[utoipa::path(get, path = "/admin/v1/webhooks/{webhookId}", tag = "operators", operation_id = "showWebhook",
    params(("webhookId" = String, Path)), responses((status = 200, body = Envelope<OneWebhook>), Errors))]
pub(super) async fn show_for_all(context: RequestContext, Path(id): Path<String>) -> Reply {
    reply(OneWebhook { webhook: one(&context, &None, &id)? })
}

/// Change the URL of an operators' webhook, its event types, or whether it is enabled.
#[utoipa::path(put, path = "/admin/v1/webhooks/{webhookId}", tag = "operators", operation_id = "setWebhook",
    params(("webhookId" = String, Path)), request_body = ModifyWebhookBody,
    responses((status = 200, body = Envelope<OneWebhook>), Errors))]
pub(super) async fn modify_for_all(context: RequestContext, Path(id): Path<String>, body: Bytes) -> Reply {
    modify(&context, None, &id, read(&body)?).await
}

/// Delete a webhook of the operators.
#[utoipa::path(delete, path = "/admin/v1/webhooks/{webhookId}", tag = "operators", operation_id = "removeWebhook",
    params(("webhookId" = String, Path)), responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(super) async fn delete_for_all(context: RequestContext, Path(id): Path<String>) -> Reply {
    delete(&context, None, &id).await
}
