//! Metered usage and charges.

use crate::{
    api::{
        Api,
        query::Parameters,
        request::{RequestContext, Tenant},
        response::{Envelope, Errors, Failure, Reply, reply},
    },
    charging::{Invoice, PriceView, invoice},
    model::{Code, CommandError},
};
use axum::{
    extract::RawQuery,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use cps_peering_config::{
    id::AccountId,
    text::quote,
    time::{Zone, moment_or_date},
};
use cps_peering_http::share::FairShare;
use serde::Serialize;
use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// The most closed periods in one response: some megabytes.
const MAX_PERIODS: usize = 20_000;

/// How many responses are computed at a time, for whichever callers: each may read much, and takes memory.
static READERS: Semaphore = Semaphore::const_new(2);

/// Requests that wait or are computed, by caller: accounts, and operators as one.
static WAITING: LazyLock<Arc<FairShare<Option<AccountId>>>> = LazyLock::new(|| FairShare::new(MAX_WAITING));
const MAX_WAITING: usize = 64;
/// How many of them one caller has at most, so that frequent requests do not keep others waiting for long.
const MAX_PER_CALLER: usize = 4;

/// A time, or a date in the time zone of bills, in milliseconds since 1970-01-01 UTC.
fn moment(parameters: &Parameters, name: &str, zone: &Zone) -> Result<Option<u64>, Failure> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let rule = || {
        format!(
            "{} is neither a time with its offset, such as 2026-01-01T00:00:00Z or 2026-01-01T00:00:00+08:00, nor a date, such as \
             2026-01-01, which begins in the time zone {}",
            quote(text),
            zone.name()
        )
    };
    moment_or_date(text, zone).map(Some).ok_or_else(|| Failure::field(name, rule()))
}

/// `from` and `to`; by default everything.
fn window(parameters: &Parameters, zone: &Zone) -> Result<Range<u64>, Failure> {
    let window = moment(parameters, "from", zone)?.unwrap_or(0)..moment(parameters, "to", zone)?.unwrap_or(u64::MAX);
    if window.is_empty() {
        return Err(Failure::field("to", "it is not behind `from`"));
    }
    Ok(window)
}

/// Responds with an account's charges, as JSON or CSV.
pub(in crate::api) async fn metering(
    context: &RequestContext,
    payer: AccountId,
    query: Option<&str>,
) -> Result<Response, Failure> {
    let parameters = Parameters::read(query, &["from", "to", "format"], &[])?;
    let window = window(&parameters, &context.api.zone)?;
    let csv = match parameters.word("format") {
        None | Some("json") => false,
        Some("csv") => true,
        Some(other) => return Err(Failure::field("format", format!("{} is neither json nor csv", quote(other)))),
    };
    let (engine, prices) = (Arc::clone(&context.api.engine), Arc::clone(&context.api.prices));
    let currency = context.api.currency.clone();
    let mut place = WAITING.hold(context.caller.actor.account().cloned());
    if !place.take_within(1, MAX_PER_CALLER) {
        return Err(Failure::no_room("too many bills are being computed: try again later"));
    }
    let turn = READERS.acquire().await.map_err(|error| Failure::internal(error.to_string()))?;
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let charged = engine.periods(&payer, &window, MAX_PERIODS + 1)?;
        if charged.closed.len() > MAX_PERIODS {
            return Err(too_many(&window));
        }
        let invoice: Invoice = invoice(&charged, window, &prices, &currency);
        if csv {
            return Ok(([(CONTENT_TYPE, "text/csv; charset=utf-8")], invoice.to_csv()).into_response());
        }
        reply(invoice).map(IntoResponse::into_response)
    });
    made.await.map_err(|error| Failure::internal(error.to_string()))?
}

/// Refused as a whole: half a bill would be misleading.
fn too_many(window: &Range<u64>) -> Failure {
    let from = if window.start == 0 { "without `from`" } else { "between `from` and `to`" };
    let rule = format!(
        "{from} there are more than {MAX_PERIODS} periods, which is the most of one answer: ask for a shorter time, such as a month or a \
         day, and then for the next"
    );
    CommandError::one(Code::InvalidArgument, "from", rule, "MeteringWindowTooLong").into()
}

/// Metered usage and charges of the account in a period: its cross-region peerings, by bandwidth.
#[utoipa::path(get, path = "/v1/metering", tag = "account", operation_id = "describeMetering",
    params(("from" = Option<String>, Query, example = "2026-01-01T00:00:00+08:00",
            description = "Its first moment: a time with its offset (RFC 3339), or a date, which begins in the time zone of bills. Without it, \
                everything; an answer has at most 20 000 periods that have ended"),
        ("to" = Option<String>, Query, example = "2026-02-01", description = "End of the period (exclusive), likewise"),
        ("format" = Option<String>, Query, description = "`json` or `csv`", example = "json")),
    responses((status = 200, content((Envelope<Invoice> = "application/json"), (String = "text/csv"))), Errors))]
pub(in crate::api) async fn own(tenant: Tenant, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    metering(&tenant.context, tenant.account.clone(), query.as_deref()).await
}

/// The prices of bandwidth, and the time zone of bills.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "an answer's fields, of which one is what it is about")]
pub(in crate::api) struct Prices {
    /// The currency of all prices.
    #[schema(example = "CNY")]
    currency: String,
    /// The time zone of bills, as the tz database names it.
    #[schema(example = "Asia/Shanghai")]
    time_zone: String,
    /// By pair of regions. Bandwidth without a price is metered and not charged.
    prices: Vec<PriceView>,
}

/// List the prices of bandwidth between regions.
#[utoipa::path(get, path = "/v1/prices", tag = "account", operation_id = "describePrices",
    responses((status = 200, body = Envelope<Prices>), Errors))]
pub(in crate::api) async fn prices(context: RequestContext) -> Reply {
    let Api { prices, currency, zone, .. } = &context.api;
    reply(Prices { currency: currency.to_string(), time_zone: zone.name().to_owned(), prices: prices.table() })
}
