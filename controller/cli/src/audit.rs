//! The audit trail.

use super::{
    CliError,
    client::{Call, admin},
    output::columns,
    session::{Session, is_operator},
};
use clap::Args;
use serde_json::{Value, json};

/// The most entries that the controller returns in one response.
const PART: usize = 1000;

/// Filters of the audit trail.
#[derive(Args, Clone)]
pub(super) struct Query {
    /// Maximum number of entries.
    #[arg(long, default_value_t = 100, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// Only entries of the request with this id.
    #[arg(long)]
    request: Option<String>,
}

/// Filters of the audit trail for operators.
#[derive(Args, Clone)]
pub(super) struct OperatorQuery {
    /// Only entries that concern this account.
    #[arg(long)]
    account: Option<String>,
    #[command(flatten)]
    query: Query,
}

pub(super) async fn run(session: &Session, query: &Query) -> Result<(), CliError> {
    let path = if is_operator(&session.whoami().await?) { admin(&["audit"]) } else { vec!["v1", "auditEntries"] };
    show(session, &path, query, None).await
}

pub(super) async fn run_as_operator(session: &Session, query: &OperatorQuery) -> Result<(), CliError> {
    show(session, &admin(&["audit"]), &query.query, query.account.as_deref()).await
}

async fn show(session: &Session, path: &[&str], query: &Query, account: Option<&str>) -> Result<(), CliError> {
    let mut entries: Vec<Value> = Vec::new();
    while entries.len() < query.limit {
        let part = PART.min(query.limit - entries.len());
        let call = Call::get(path.iter().copied()).with("limit", &part).with_some("request", query.request.as_ref());
        let before = entries.last().map(|entry| entry["number"].clone());
        let mut answer = session.call(call.with_some("account", account).with_some("before", before)).await?;
        let Value::Array(found) = answer["entries"].take() else { break };
        let is_all = found.len() < part;
        entries.extend(found);
        if is_all {
            break;
        }
    }
    let heading = [
        ("TIME", "/time"),
        ("ACTOR", "/actor"),
        ("FROM", "/from"),
        ("ACTION", "/action"),
        ("TARGET", "/target"),
        ("OUTCOME", "/outcome"),
        ("REQUEST", "/request"),
        ("REASON", "/reason"),
    ];
    session.print(&json!({ "entries": entries }), || columns(&heading, &entries));
    Ok(())
}
