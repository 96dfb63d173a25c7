//! Metered usage and charges.

use super::{
    CliError,
    client::{Call, admin},
    output::{cell, columns, elements},
    session::{Session, is_operator},
};
use clap::Args;

/// The metered period.
#[derive(Args, Clone)]
pub(super) struct Query {
    /// Account; required for operators, and for operators only
    #[arg(long)]
    account: Option<String>,
    /// Start of the period, inclusive: a time with its offset, for instance 2026-01-01T00:00:00+08:00, or a date, for
    /// instance 2026-01-01, which begins in the billing time zone [default: the beginning]
    #[arg(long)]
    from: Option<String>,
    /// End of the period, exclusive, likewise [default: now].
    #[arg(long)]
    to: Option<String>,
}

pub(super) async fn run(session: &Session, query: &Query) -> Result<(), CliError> {
    let operator = is_operator(&session.whoami().await?);
    let path = match &query.account {
        Some(account) if operator => admin(&["accounts", account, "metering"]),
        Some(_) => return Err(CliError::Usage("--account is for operators; accounts see their own".to_owned())),
        None if operator => return Err(CliError::Usage("name the account with --account".to_owned())),
        None => vec!["v1", "metering"],
    };
    let call = Call::get(path).with_some("from", query.from.as_ref()).with_some("to", query.to.as_ref());
    let invoice = session.call(call).await?;
    let heading = [
        ("PEERING", "/vpcPeeringId"),
        ("REGION", "/regionId"),
        ("PEER REGION", "/remoteRegionId"),
        ("MBIT/S", "/bandwidth"),
        ("FROM", "/from"),
        ("TO", "/to"),
        ("SECONDS", "/seconds"),
        ("AMOUNT", "/amount"),
        ("OPEN", "/open"),
    ];
    session.print(&invoice, || {
        let table = columns(&heading, elements(&invoice["lines"]));
        format!("{table}\ntotal {} {}", cell(&invoice["total"]), cell(&invoice["currency"]))
    });
    Ok(())
}
