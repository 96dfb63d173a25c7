//! What there is: regions, hosts, VPCs, ports. For operators.

use super::{
    CliError,
    client::{Call, Rejection, admin},
    complain,
    output::{cell, elements},
    session::Session,
};
use clap::{Args, Subcommand};
use cps_peering_config::inventory::Inventory;
use cps_peering_terminal::table;
use reqwest::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The file to apply, and how.
#[derive(Args)]
pub(super) struct Apply {
    /// Inventory file: TOML, or JSON if its name ends in .json.
    #[arg(short, long)]
    file: PathBuf,
    /// Remove what is not in the file.
    #[arg(long)]
    prune: bool,
    /// Show what would change without changing it.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Subcommand)]
pub(super) enum Host {
    /// List all hosts and the state of their agents.
    List,
}

/// Reads an inventory. Errors name the file, the place in it and the rule.
fn read_inventory(file: &Path) -> Result<Inventory, CliError> {
    let refuse = |error: String| CliError::Refused(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    if file.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
    } else {
        toml::from_str(&text).map_err(|error| refuse(error.to_string().trim_end().to_owned()))
    }
}

pub(super) async fn apply(session: &Session, Apply { file, prune, dry_run }: &Apply) -> Result<(), CliError> {
    let inventory = read_inventory(file)?;
    let body = serde_json::to_value(inventory).map_err(|error| CliError::Refused(error.to_string()))?;
    let call = Call::new(Method::POST, admin(&["apply"])).with("dryRun", dry_run).with("prune", prune).body(body);
    let result = match session.try_call(call).await? {
        Ok(result) => result,
        Err(Rejection { message, violations, .. }) => {
            if violations.is_empty() {
                return Err(CliError::Refused(format!("{}: {message}", file.display())));
            }
            for fault in &violations {
                complain(&format!("{}: {}: {}", file.display(), fault.entry, fault.rule));
            }
            return Err(CliError::Refused("nothing was applied".to_owned()));
        }
    };
    session.print(&result, || differences(elements(&result["changes"]), *dry_run));
    Ok(())
}

fn differences(changes: &[Value], dry_run: bool) -> String {
    if changes.is_empty() {
        return "nothing to change".to_owned();
    }
    let row = |change: &Value| {
        let fields = elements(&change["fields"]).iter();
        let fields = fields.map(|it| format!("{}: {} -> {}", cell(&it["field"]), cell(&it["from"]), cell(&it["to"])));
        vec![cell(&change["action"]), cell(&change["kind"]), cell(&change["id"]), fields.collect::<Vec<_>>().join("; ")]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    let end = if dry_run { "nothing was changed: this was a dry run" } else { "applied" };
    format!("{}\n{end}", table(&["ACTION", "KIND", "ID", "FIELDS"], &rows))
}

pub(super) async fn show(session: &Session) -> Result<(), CliError> {
    let inventory = session.call(Call::get(admin(&["inventory"]))).await?;
    let text = serde_json::from_value::<Inventory>(inventory.clone())
        .ok()
        .and_then(|inventory| toml::to_string(&inventory).ok())
        .unwrap_or_else(|| inventory.to_string());
    session.print(&inventory, || text.trim_end().to_owned());
    Ok(())
}

pub(super) async fn hosts(session: &Session) -> Result<(), CliError> {
    let result = session.call(Call::get(admin(&["hosts"]))).await?;
    let fields = ["host", "regionId", "underlay", "inSync", "desired", "applied", "lastReport"];
    let heading = ["HOST", "REGION", "UNDERLAY", "IN SYNC", "DESIRED", "APPLIED", "LAST REPORT", "TROUBLE"];
    let row = |host: &Value| {
        let problems = elements(&host["problems"]).iter();
        let problems = problems.map(|it| format!("{}: {}", cell(&it["object"]), cell(&it["reason"])));
        let error = host["lastError"].as_str().map(|_| cell(&host["lastError"]));
        let trouble: Vec<String> = error.into_iter().chain(problems).collect();
        let cells = fields.iter().map(|field| cell(&host[*field]));
        cells.chain([if trouble.is_empty() { "-".to_owned() } else { trouble.join("; ") }]).collect()
    };
    let rows: Vec<Vec<String>> = elements(&result["hosts"]).iter().map(row).collect();
    session.print(&result, || table(&heading, &rows));
    Ok(())
}

/// Removes a host that will not come back.
pub(super) async fn remove_host(session: &Session, host: &str) -> Result<(), CliError> {
    let result = session.call(Call::new(Method::DELETE, admin(&["hosts", host]))).await?;
    session.print(&result, || format!("{host} is removed with its ports; nothing waits for it any more"));
    Ok(())
}
