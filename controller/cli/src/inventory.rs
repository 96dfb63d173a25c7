//! What there is: regions, hosts, VPCs, ports. For operators.

use super::{
    CliError,
    client::{Call, Rejection, admin},
    complain,
    output::{cell, elements, rows as table},
    session::Session,
};
use clap::{Args, Subcommand};
use cps_peering_config::inventory::Inventory;
use reqwest::Method;
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file to apply, and how.
#[derive(Args, Clone)]
pub(super) struct Apply {
    /// Inventory file, TOML or JSON; `-` for standard input.
    #[arg(short, long)]
    file: PathBuf,
    /// Remove what an inventory of the same name has made and is not in the file. What accounts and operators' commands have
    /// made stays.
    #[arg(long)]
    prune: bool,
    /// Agree to so many entries being removed or stopping traffic, as the dry run counts them.
    #[arg(long, value_name = "NUMBER")]
    confirm: Option<usize>,
    /// Apply only if nothing has changed since this revision, as the dry run tells it.
    #[arg(long, value_name = "NUMBER")]
    if_revision: Option<u64>,
    /// Show what would change without changing it.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Subcommand, Clone)]
pub(super) enum Host {
    /// List all hosts and the state of their agents.
    List,
}

/// Reads an inventory. Errors name the file, the place in it and the rule.
fn read_inventory(file: &Path) -> Result<Inventory, CliError> {
    let refuse = |error: String| CliError::Refused(format!("{}: {error}", file.display()));
    let text = if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    let text = text.map_err(|error| refuse(error.to_string()))?;
    // No TOML begins with a brace.
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
    } else {
        toml::from_str(&text).map_err(|error| refuse(error.to_string().trim_end().to_owned()))
    }
}

pub(super) async fn apply(session: &Session, apply: &Apply) -> Result<(), CliError> {
    let Apply { file, prune, confirm, if_revision, dry_run } = apply;
    let inventory = read_inventory(file)?;
    let body = serde_json::to_value(inventory).map_err(|error| CliError::Refused(error.to_string()))?;
    let mut call = Call::new(Method::POST, admin(&["apply"])).with("dryRun", dry_run).with("prune", prune);
    if let Some(number) = confirm {
        call = call.with("confirm", number);
    }
    if let Some(number) = if_revision {
        call = call.with("ifRevision", number);
    }
    let call = call.body(body);
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
    session.print(&result, || differences(&result));
    Ok(())
}

fn differences(result: &Value) -> String {
    let (changes, revision) = (elements(&result["changes"]), cell(&result["revision"]));
    if changes.is_empty() {
        return format!("nothing to change at revision {revision}");
    }
    let row = |change: &Value| {
        let fields = elements(&change["fields"]).iter();
        let fields = fields.map(|it| format!("{}: {} -> {}", cell(&it["field"]), cell(&it["from"]), cell(&it["to"])));
        let stops = if change["stopsTraffic"] == true { "stops traffic" } else { "" };
        let fields = fields.collect::<Vec<_>>().join("; ");
        vec![cell(&change["action"]), cell(&change["kind"]), cell(&change["id"]), stops.to_owned(), fields]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    let end = match (result["dryRun"] == true, result["confirm"].as_u64()) {
        (false, _) => format!("applied: revision {revision}"),
        (true, None) => format!("nothing was changed: this was a dry run at revision {revision}"),
        (true, Some(lost)) => format!(
            "nothing was changed: this was a dry run at revision {revision}. {lost} entries would be removed or stop traffic; to \
             do it: --confirm {lost} --if-revision {revision}"
        ),
    };
    let mut lines = vec![table(&["ACTION", "KIND", "ID", "EFFECT", "FIELDS"], &rows)];
    lines.extend(unconfirmed(&result["unconfirmed"]));
    lines.push(end);
    lines.join("\n")
}

/// What the hosts have not done yet.
fn unconfirmed(result: &Value) -> Vec<String> {
    let named = |count: &str, names: &str| {
        let count = result[count].as_u64().filter(|count| *count > 0)?;
        let names: Vec<String> = elements(&result[names]).iter().map(cell).collect();
        let more = if names.len() as u64 == count { "" } else { ", …" };
        Some((count, format!("{}{more}", names.join(", "))))
    };
    let draining = named("drainingCount", "draining").map(|(count, names)| {
        format!("{count} removed peerings are draining: they forward nothing on any host that can be reached: {names}")
    });
    let hosts = named("hostCount", "hosts").map(|(count, names)| {
        format!("{count} hosts have not confirmed yet that they have it (`cps-peering host list`): {names}")
    });
    draining.into_iter().chain(hosts).collect()
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
