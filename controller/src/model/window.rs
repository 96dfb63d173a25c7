//! Maintenance windows of hosts. They begin and end by themselves, by confirmed time: a clock jump begins and ends none before it is
//! confirmed.

use super::{
    Code, CommandError, Leap, Transaction,
    inventory::{Action, Difference, Field},
    record::{Host, Window},
    state::Change,
};
use cps_peering_config::{
    id::HostId,
    time::{DAY_MS, timestamp},
};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// The longest window, in milliseconds: drain a host that is out of use for longer.
pub const LONGEST_MS: u64 = 7 * DAY_MS;
/// How far ahead a window may begin, in milliseconds.
pub const AHEAD_MS: u64 = 90 * DAY_MS;

/// A request for a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WindowRequest {
    /// When it begins, in milliseconds since 1970-01-01 UTC; none where it begins now.
    #[serde(serialize_with = "as_time", skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// When it ends.
    pub ends: Ends,
}

/// When a window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// At this time, in milliseconds since 1970-01-01 UTC.
    #[serde(serialize_with = "at_time")]
    At(u64),
    /// This many seconds after it begins.
    AfterS(u64),
}

#[expect(clippy::ref_option, reason = "serde wants it so")]
fn as_time<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    ms.map(timestamp).serialize(serializer)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn at_time<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*ms))
}

impl WindowRequest {
    /// The window, if the request is valid.
    fn window(&self, now_ms: u64) -> Result<Window, CommandError> {
        let refused = |entry: &str, rule: String| {
            Err(CommandError::one(Code::InvalidArgument, entry, rule, "MaintenanceWindowInvalid"))
        };
        let from_ms = self.from.unwrap_or(now_ms);
        let (entry, until_ms) = match self.ends {
            Ends::At(until_ms) => ("until", until_ms),
            Ends::AfterS(seconds) => ("forSeconds", from_ms.saturating_add(seconds.saturating_mul(1000))),
        };
        let [now, from, until] = [now_ms, from_ms, until_ms].map(timestamp);
        if until_ms <= from_ms {
            return refused(entry, format!("the window ends at {until}, which is not after its beginning at {from}"));
        }
        if until_ms <= now_ms {
            return refused(entry, format!("{until} is in the past: it is {now} now"));
        }
        if until_ms - from_ms > LONGEST_MS {
            let rule = format!(
                "from {from} to {until} is longer than {} days: use `cps-peering host drain`, which has no end",
                LONGEST_MS / DAY_MS
            );
            return refused(entry, rule);
        }
        if from_ms.saturating_sub(now_ms) > AHEAD_MS {
            let rule = format!("{from} is more than {} days ahead: it is {now} now", AHEAD_MS / DAY_MS);
            return refused("from", rule);
        }
        let by_length = self.from.is_none() && matches!(self.ends, Ends::AfterS(_));
        Ok(Window { from_ms, until_ms, begun: from_ms <= now_ms, by_length })
    }
}

/// A window in the list of changes.
fn shown(window: Option<Window>) -> Value {
    window.map_or(Value::Null, |it| json!({ "from": timestamp(it.from_ms), "until": timestamp(it.until_ms) }))
}

/// Sets or removes a host's window. Returns what that changes.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    host: &Host,
    wish: Option<WindowRequest>,
    now_ms: u64,
) -> Result<Vec<Difference>, CommandError> {
    let window = wish.map(|wish| wish.window(now_ms)).transpose()?;
    if window == host.window {
        return Ok(Vec::new());
    }
    let field = Field { field: "maintenanceWindow".to_owned(), from: shown(host.window), to: shown(window) };
    let id = host.id.to_string();
    tx.change(Change::Host(host.id.clone(), Some(Host { window, ..host.clone() })));
    Ok(vec![Difference { kind: "host", id, action: Action::Update, fields: vec![field], stops_traffic: false }])
}

/// A host's window begins or ends at its deadline.
pub(super) fn turn(tx: &mut Transaction<'_>, id: &HostId) {
    let Some(host) = tx.state.hosts().get(id).cloned() else { return };
    let window = host.window.filter(|it| !it.begun).map(|it| Window { begun: true, ..it });
    tx.change(Change::Host(id.clone(), Some(Host { window, ..host })));
}

/// A clock jump was confirmed. A window that was given by its length keeps its length; the others keep the times that operators have given.
pub(super) fn confirm_clock(
    tx: &mut Transaction<'_>,
    id: &HostId,
    now_ms: u64,
    leap: Leap,
    moves: impl Fn(u64) -> bool,
) {
    let Some(host) = tx.state.hosts().get(id).cloned() else { return };
    let Some(before) = host.window else { return };
    let moved = |ms: u64| ms.saturating_add_signed(leap.by_ms);
    let window = if before.by_length {
        if !moves(before.from_ms) {
            return;
        }
        Window { from_ms: moved(before.from_ms), until_ms: moved(before.until_ms), ..before }
    } else {
        // Deadlines handle what begins now. What has begun by a clock that was ahead has not begun.
        Window { begun: before.begun && before.from_ms <= moved(now_ms), ..before }
    };
    if window != before {
        tx.change(Change::Host(id.clone(), Some(Host { window: Some(window), ..host })));
    }
}
