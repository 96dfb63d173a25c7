//! Events of the account's peerings; for operators, all events.

use super::{
    CliError,
    client::{Call, admin, regional},
    output::{cell, columns, elements},
    session::{Session, is_operator},
};
use clap::Args;

/// For how long the controller waits for the next event before it responds, in seconds.
const WAIT_S: u64 = 20;

/// Which events.
#[derive(Args, Clone)]
pub(super) struct Query {
    /// Only events after the one with this id; `latest` for new events only [default: from the oldest that is kept, 7 days]
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Keep printing new events until interrupted.
    #[arg(short, long)]
    pub(super) follow: bool,
}

pub(super) async fn run(session: &Session, query: &Query) -> Result<(), CliError> {
    const HEADING: [(&str, &str); 6] = [
        ("TIME", "/time"),
        ("TYPE", "/type"),
        ("PEERING", "/vpcPeeringId"),
        ("NAME", "/vpcPeeringName"),
        ("STATE", "/state"),
        ("ID", "/id"),
    ];
    const OPERATOR_HEADING: [(&str, &str); 6] = [
        ("TIME", "/time"),
        ("TYPE", "/type"),
        ("PEERING", "/vpcPeeringId"),
        ("HOST", "/host"),
        ("ACCOUNTS", "/accountIds"),
        ("ID", "/id"),
    ];
    let whoami = session.whoami().await?;
    let region = if is_operator(&whoami) { None } else { Some(session.region_of(&whoami)?) };
    let path = || region.as_ref().map_or_else(|| admin(&["events"]), |region| regional(region, &["events"]));
    let heading = if region.is_some() { HEADING } else { OPERATOR_HEADING };
    let mut after = query.after.clone();
    let mut all = Vec::new();
    loop {
        let wait = query.follow.then_some(WAIT_S);
        let page = session.call(Call::get(path()).with_some("after", after.as_ref()).with_some("wait", wait)).await?;
        after = Some(cell(&page["nextAfter"]));
        let found = elements(&page["events"]);
        if !query.follow {
            all.extend(found.iter().cloned());
            if found.is_empty() {
                let json = serde_json::json!({ "events": all, "nextAfter": after });
                session.print(&json, || columns(&heading, &all));
                return Ok(());
            }
            continue;
        }
        for event in found {
            let line =
                || heading.map(|(_, place)| event.pointer(place).map_or_else(|| "-".to_owned(), cell)).join("  ");
            session.print(event, line);
        }
    }
}
