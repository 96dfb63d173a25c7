//! A change that some hosts have, and the others do not have yet. For operators.

use super::{
    CliError,
    client::{Call, admin},
    complain, inventory,
    output::{ask, cell, elements, lines},
    session::Session,
};
use clap::Subcommand;
use cps_peering_config::SeenRevision;
use reqwest::Method;
use serde_json::Value;

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// Show the canaries, their state, and the hosts that wait.
    Show,
    /// Push the change to all hosts, whatever the state of the canaries. Shows them and asks for confirmation, unless `--revision` is given.
    Continue {
        /// Continue without confirmation. Refused if hosts wait for another revision than this one, as `rollout show` prints it
        #[arg(long, value_name = "EPOCH.NUMBER")]
        revision: Option<SeenRevision>,
    },
    /// Hold back the hosts that do not have the change yet, until `continue`.
    Stop,
}

impl Command {
    /// Whether it changes nothing and can be repeated.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Show)
    }
}

pub(super) async fn run(session: &Session, command: &Command) -> Result<(), CliError> {
    let call = match command {
        Command::Show => Call::get(admin(&["rollout"])),
        Command::Continue { revision } => {
            let seen = if let Some(revision) = revision {
                revision.to_string()
            } else {
                let rollout = session.call(Call::get(admin(&["rollout"]))).await?;
                let seen = inventory::revision(&rollout);
                if rollout["state"] == "none" {
                    session.print(&rollout, || shown(&rollout));
                    return Ok(());
                }
                complain(&shown(&rollout));
                let instead = format!("use --revision {seen}");
                if !ask("Push it to all hosts?", &instead)? {
                    return Err(CliError::Refused("nothing was done".to_owned()));
                }
                seen
            };
            Call::new(Method::POST, admin(&["rollout", "continue"])).with("revision", &seen)
        }
        Command::Stop => Call::new(Method::POST, admin(&["rollout", "stop"])),
    };
    let result = session.call(call).await?;
    session.print(&result, || shown(&result));
    Ok(())
}

/// A rollout for people.
pub(super) fn shown(rollout: &Value) -> String {
    let state = match rollout["state"].as_str() {
        Some("watching") => "watching the canaries; the others get it when these have been healthy for a while",
        Some("stopped") => {
            "STOPPED: the canaries are not healthy, or an operator stopped it; the others wait for `cps-peering rollout continue`"
        }
        _ => return "no rollout: no host is held back".to_owned(),
    };
    let mut rows =
        vec![("state", state.to_owned()), ("commit", cell(&rollout["commit"])), ("begun", cell(&rollout["begun"]))];
    // Controllers of releases before 0.3.0 have none.
    if rollout["revision"].is_u64() {
        rows.push(("revision", inventory::revision(rollout)));
    }
    for host in elements(&rollout["canaries"]) {
        let reason = if host["inSync"] == true { "in sync".to_owned() } else { cell(&host["reason"]) };
        rows.push(("canary", format!("{}: {reason}", cell(&host["hostId"]))));
    }
    let named: Vec<&str> = elements(&rollout["heldBack"]).iter().filter_map(Value::as_str).take(10).collect();
    let more = if rollout["heldBackCount"].as_u64() > Some(named.len() as u64) { ", …" } else { "" };
    rows.push(("held back", format!("{} hosts: {}{more}", rollout["heldBackCount"], named.join(", "))));
    lines(&rows)
}
