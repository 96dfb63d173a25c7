//! A change that has reached some hosts, and not yet the others. For operators.

use super::{
    CliError,
    client::{Call, admin},
    output::{cell, elements, lines},
    session::Session,
};
use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// Show the canaries, their state, and the hosts that wait.
    Show,
    /// Push the change to all hosts, whatever the state of the canaries.
    Continue {
        /// Refuse if hosts wait for another revision than this one, as `rollout show` prints it. By default, the one they wait for now.
        #[arg(long, value_name = "NUMBER")]
        revision: Option<u64>,
    },
    /// Hold back the hosts that do not have the change yet, until `continue`.
    Stop,
}

impl Command {
    /// Whether it changes nothing, and may be repeated.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Show)
    }
}

pub(super) async fn run(session: &Session, command: &Command) -> Result<(), CliError> {
    let call = match command {
        Command::Show => Call::get(admin(&["rollout"])),
        Command::Continue { revision } => {
            let shown = match revision {
                Some(revision) => Some(*revision),
                None => session.call(Call::get(admin(&["rollout"]))).await?["revision"].as_u64(),
            };
            Call::new(Method::POST, admin(&["rollout", "continue"])).with_some("revision", shown)
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
        rows.push(("revision", cell(&rollout["revision"])));
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
