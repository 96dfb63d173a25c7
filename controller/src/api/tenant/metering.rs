//! What an account is charged for.

use crate::{
    api::{
        query::Parameters,
        request::{RequestContext, Tenant},
        response::{Envelope, Errors, Failure, reply},
    },
    charging::{Invoice, invoice},
};
use axum::{
    extract::RawQuery,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use cps_peering_config::id::AccountId;
use std::{ops::Range, sync::Arc, time::UNIX_EPOCH};

/// A moment in the form of `2026-01-01T00:00:00Z`, in milliseconds since 1970-01-01 UTC.
fn moment(parameters: &Parameters, name: &str) -> Result<Option<u64>, Failure> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let time = humantime::parse_rfc3339_weak(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let ms = time.and_then(|since| u64::try_from(since.as_millis()).ok());
    let rule = || format!("{text:?} is not a time such as 2026-01-01T00:00:00Z");
    ms.map(Some).ok_or_else(|| Failure::field(name, rule()))
}

/// `from` and `to`; by default everything.
fn window(parameters: &Parameters) -> Result<Range<u64>, Failure> {
    let window = moment(parameters, "from")?.unwrap_or(0)..moment(parameters, "to")?.unwrap_or(u64::MAX);
    if window.is_empty() {
        return Err(Failure::field("to", "it is not behind `from`"));
    }
    Ok(window)
}

/// Answers what an account is charged for, as JSON or CSV.
pub(in crate::api) async fn metering(
    context: &RequestContext,
    payer: AccountId,
    query: Option<&str>,
) -> Result<Response, Failure> {
    let parameters = Parameters::read(query, &["from", "to", "format"], &[])?;
    let window = window(&parameters)?;
    let engine = Arc::clone(&context.api.engine);
    let from_ms = window.start;
    let found = tokio::task::spawn_blocking(move || engine.periods(&payer, from_ms)).await;
    let (closed, open) = found.map_err(|error| Failure::internal(error.to_string()))??;
    let invoice: Invoice = invoice(&closed, &open, window, &context.api.prices, &context.api.currency);
    match parameters.get("format") {
        None | Some("json") => reply(invoice).map(IntoResponse::into_response),
        Some("csv") => Ok(([(CONTENT_TYPE, "text/csv; charset=utf-8")], invoice.to_csv()).into_response()),
        Some(other) => Err(Failure::field("format", format!("{other:?} is neither json nor csv"))),
    }
}

/// Metered usage and charges of the account in a period: its cross-region peerings, by bandwidth.
#[utoipa::path(get, path = "/v1/metering", tag = "account", operation_id = "describeMetering",
    params(("from" = Option<String>, Query, example = "2026-01-01T00:00:00Z"),
        ("to" = Option<String>, Query, example = "2026-02-01T00:00:00Z"),
        ("format" = Option<String>, Query, description = "`json` or `csv`", example = "json")),
    responses((status = 200, content((Envelope<Invoice> = "application/json"), (String = "text/csv"))), Errors))]
pub(in crate::api) async fn own(tenant: Tenant, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    metering(&tenant.context, tenant.account.clone(), query.as_deref()).await
}
