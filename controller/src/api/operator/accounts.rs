//! Accounts: credentials, charge status, quotas.

use crate::{
    access::secret,
    api::{
        query::Parameters,
        request::{RequestContext, read},
        response::{Envelope, Errors, Failure, Nothing, Reply, reply},
        view::{self, AccountView},
    },
    model::{
        Command,
        account::{Change, ChargeStatus, What},
    },
};
use axum::{
    body::Bytes,
    extract::{Path, RawQuery},
    response::Response,
};
use cps_peering_config::{id::AccountId, number, quota::Kind, text::quote};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

/// Request to create an account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct AccountBody {
    /// Its id.
    #[schema(value_type = String)]
    account_id: AccountId,
}

/// Charge status of an account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ChargeBody {
    /// `normal`, `overdue` or `arrear`.
    #[schema(value_type = String, example = "normal")]
    charge_status: ChargeStatus,
}

/// A quota.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct QuotaBody {
    /// Limit.
    #[serde(deserialize_with = "number::whole")]
    max_limit: u32,
    /// The type: `vpcpeering` (the default), `vpc`, `secondarycidr`, `tag`, `clienttoken`, `blockedaccount` or `bandwidthchange`.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Accounts that have a record.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Accounts {
    accounts: Vec<AccountView>,
}

/// One account.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct OneAccount {
    account: AccountView,
}

/// A key for signing requests. The secret key is shown only once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct NewKey {
    access_key: String,
    secret_key: String,
}

/// A bearer token. It is shown only once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct NewToken {
    token_id: String,
    token: String,
}

fn account_id(text: &str) -> Result<AccountId, Failure> {
    text.parse().map_err(|error| Failure::field("accountId", format!("{error}")))
}

async fn change(context: &RequestContext, id: &str, what: What) -> Result<(), Failure> {
    let change = Change { id: account_id(id)?, what };
    context.execute(Command::Account(change), None).await.map(drop)
}

fn random<T>(made: Result<T, secret::NoRandomness>) -> Result<T, Failure> {
    made.map_err(|error| Failure::internal(error.to_string()))
}

/// List the accounts.
#[utoipa::path(get, path = "/admin/v1/accounts", tag = "operators", operation_id = "listAccounts",
    responses((status = 200, body = Envelope<Accounts>), Errors))]
pub(in crate::api) async fn list(context: RequestContext) -> Reply {
    reply(Accounts {
        accounts: context.api.engine.read(|state, _| state.accounts().values().map(view::account).collect()),
    })
}

/// Create an account.
#[utoipa::path(post, path = "/admin/v1/accounts", tag = "operators", operation_id = "createAccount",
    request_body = AccountBody, responses((status = 200, body = Envelope<OneAccount>), Errors))]
pub(in crate::api) async fn create(context: RequestContext, body: Bytes) -> Reply {
    let body: AccountBody = read(&body)?;
    change(&context, body.account_id.as_str(), What::Create).await?;
    one(&context, &body.account_id)
}

fn one(context: &RequestContext, id: &AccountId) -> Reply {
    let known = |id: &AccountId| Failure::not_found(format!("there is no account {id}"));
    let account = context.api.engine.read(|state, _| state.accounts().get(id).map(view::account));
    reply(OneAccount { account: account.ok_or_else(|| known(id))? })
}

/// Show an account.
#[utoipa::path(get, path = "/admin/v1/accounts/{accountId}", tag = "operators", operation_id = "showAccount",
    params(("accountId" = String, Path)), responses((status = 200, body = Envelope<OneAccount>), Errors))]
pub(in crate::api) async fn show(context: RequestContext, Path(id): Path<String>) -> Reply {
    one(&context, &account_id(&id)?)
}

/// Create an access key of an account, for signing requests.
#[utoipa::path(post, path = "/admin/v1/accounts/{accountId}/keys", tag = "operators", operation_id = "addKey",
    params(("accountId" = String, Path)), responses((status = 200, body = Envelope<NewKey>), Errors))]
pub(in crate::api) async fn add_key(context: RequestContext, Path(id): Path<String>) -> Reply {
    let (access_key, secret_key) = (random(secret::access_key())?, random(secret::secret_key())?);
    let sealed = random(context.api.access.vault().seal(&account_id(&id)?, &access_key, &secret_key))?;
    change(&context, &id, What::AddKey { access_key: access_key.clone(), secret_key: sealed }).await?;
    reply(NewKey { access_key, secret_key })
}

/// Delete an access key.
#[utoipa::path(delete, path = "/admin/v1/accounts/{accountId}/keys/{accessKey}", tag = "operators",
    operation_id = "removeKey", params(("accountId" = String, Path), ("accessKey" = String, Path)),
    responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn remove_key(context: RequestContext, Path((id, key)): Path<(String, String)>) -> Reply {
    change(&context, &id, What::RemoveKey(key)).await?;
    reply(json!({}))
}

/// Create a bearer token of an account.
#[utoipa::path(post, path = "/admin/v1/accounts/{accountId}/tokens", tag = "operators", operation_id = "addToken",
    params(("accountId" = String, Path)), responses((status = 200, body = Envelope<NewToken>), Errors))]
pub(in crate::api) async fn add_token(context: RequestContext, Path(id): Path<String>) -> Reply {
    let (token_id, token) = (random(secret::random_hex(8))?, random(secret::token())?);
    let hash = secret::token_hash(&token);
    change(&context, &id, What::AddToken { id: token_id.clone(), hash }).await?;
    reply(NewToken { token_id, token })
}

/// Delete a bearer token.
#[utoipa::path(delete, path = "/admin/v1/accounts/{accountId}/tokens/{tokenId}", tag = "operators",
    operation_id = "removeToken", params(("accountId" = String, Path), ("tokenId" = String, Path)),
    responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn remove_token(context: RequestContext, Path((id, token)): Path<(String, String)>) -> Reply {
    change(&context, &id, What::RemoveToken(token)).await?;
    reply(json!({}))
}

/// Set the charge status of an account (for the billing system).
#[utoipa::path(put, path = "/admin/v1/accounts/{accountId}/chargeStatus", tag = "operators",
    operation_id = "setChargeStatus", params(("accountId" = String, Path)), request_body = ChargeBody,
    responses((status = 200, body = Envelope<OneAccount>), Errors))]
pub(in crate::api) async fn charge(context: RequestContext, Path(id): Path<String>, body: Bytes) -> Reply {
    let ChargeBody { charge_status } = read(&body)?;
    change(&context, &id, What::Charge(charge_status)).await?;
    one(&context, &account_id(&id)?)
}

/// Metered usage and charges of an account in a period: its cross-region peerings, by bandwidth.
#[utoipa::path(get, path = "/admin/v1/accounts/{accountId}/metering", tag = "operators",
    operation_id = "accountMetering",
    params(("accountId" = String, Path), ("from" = Option<String>, Query, example = "2026-01-01T00:00:00Z"),
        ("to" = Option<String>, Query, example = "2026-02-01T00:00:00Z"),
        ("format" = Option<String>, Query, description = "`json` or `csv`", example = "json")),
    responses((status = 200, content((Envelope<crate::charging::Invoice> = "application/json"), (String = "text/csv"))),
        Errors))]
pub(in crate::api) async fn metering(
    context: RequestContext,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    crate::api::tenant::metering::metering(&context, account_id(&id)?, query.as_deref()).await
}

/// Set an account's quota in a region. Quotas of client tokens, blocked accounts and changes of bandwidth hold for the account
/// as a whole.
#[utoipa::path(put, path = "/admin/v1/accounts/{accountId}/quotas/{regionId}", tag = "operators",
    operation_id = "setQuota", params(("accountId" = String, Path), ("regionId" = String, Path)),
    request_body = QuotaBody, responses((status = 200, body = Envelope<OneAccount>), Errors))]
pub(in crate::api) async fn set_quota(
    context: RequestContext,
    Path((id, region)): Path<(String, String)>,
    body: Bytes,
) -> Reply {
    let QuotaBody { max_limit, kind } = read(&body)?;
    set(&context, &id, &region, kind.as_deref(), Some(max_limit)).await
}

/// Reset an account's quota in a region to the default.
#[utoipa::path(delete, path = "/admin/v1/accounts/{accountId}/quotas/{regionId}", tag = "operators",
    operation_id = "resetQuota", params(("accountId" = String, Path), ("regionId" = String, Path),
        ("type" = Option<String>, Query, example = "vpcpeering")),
    responses((status = 200, body = Envelope<OneAccount>), Errors))]
pub(in crate::api) async fn reset_quota(
    context: RequestContext,
    Path((id, region)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["type"], &[])?;
    set(&context, &id, &region, parameters.get("type"), None).await
}

async fn set(context: &RequestContext, id: &str, region: &str, word: Option<&str>, limit: Option<u32>) -> Reply {
    let region = region.parse().map_err(|error| Failure::field("regionId", format!("{error}")))?;
    let unknown = |word: &str| {
        let words = Kind::ALL.map(Kind::word).join(", ");
        Failure::field("type", format!("{} has no quota; these have: {words}", quote(word)))
    };
    let kind = word.map_or(Ok(Kind::VpcPeering), |word| Kind::of_word(word).ok_or_else(|| unknown(word)))?;
    change(context, id, What::Quota { kind, region, limit }).await?;
    one(context, &account_id(id)?)
}
