//! Commands about single hosts: drain, pause, maintenance, removal, replacement.
//!
//! A host is a server with ports of VPCs. Nothing moves by itself: what is behind a port is cabled to it. So draining a host keeps new
//! ports away, and changes do not wait for it; its ports stay until it is removed, or another host takes them over.

use super::{
    Code, CommandError, Transaction,
    inventory::{Action, Approval, Difference, Field, approved, carries, host_needs_approval},
    peering,
    record::{Host, Port, PortKey},
    state::{self, State},
    window::{self, WindowRequest},
};
use cps_peering_config::id::HostId;
use serde::Serialize;

/// A command about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The host.
    pub id: HostId,
    /// The action.
    pub what: What,
}

/// An action on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Drain: it gets no new ports, and changes do not wait for it.
    Drain,
    /// End the drain.
    Uncordon,
    /// Pause pushes to it, deletes included.
    Pause,
    /// Resume pushes.
    Resume,
    /// Set a maintenance window.
    Maintain(WindowRequest),
    /// End the maintenance window; a drained host stays drained.
    EndMaintenance,
    /// Remove it, with its ports.
    Remove(Removal),
    /// Give its ports to another host, under the same interface names, and remove it.
    Replace {
        /// The other host.
        by: HostId,
        /// How it is removed.
        removal: Removal,
    },
}

/// How a host is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Whether it is dead, so that nothing waits for it. Otherwise its agent first cleans its kernel and confirms that.
    pub dead: bool,
    /// Whether the losses were approved.
    pub approval: Approval,
}

fn refused(code: Code, rule: String, reason: &'static str) -> CommandError {
    CommandError::one(code, "host", rule, reason)
}

fn find(state: &State, id: &HostId) -> Result<Host, CommandError> {
    let missing = || refused(Code::NotFound, format!("there is no host {id}"), "HostNotFound");
    state.hosts().get(id).cloned().ok_or_else(missing)
}

fn set(tx: &mut Transaction<'_>, host: Host) {
    if tx.state.hosts().get(&host.id) != Some(&host) {
        tx.change(state::Change::Host(host.id.clone(), Some(host)));
    }
}

fn field(name: &str, from: impl Into<serde_json::Value>, to: impl Into<serde_json::Value>) -> Field {
    Field { field: name.to_owned(), from: from.into(), to: to.into() }
}

/// Executes a command about a host. Returns the changes.
pub fn change(tx: &mut Transaction<'_>, change: &Change, now_ms: u64) -> Result<Vec<Difference>, CommandError> {
    let host = find(tx.state, &change.id)?;
    match &change.what {
        What::Drain => switch(tx, &host, "drained", true, |host| &mut host.drained),
        What::Uncordon => switch(tx, &host, "drained", false, |host| &mut host.drained),
        What::Pause => switch(tx, &host, "paused", true, |host| &mut host.paused),
        What::Resume => switch(tx, &host, "paused", false, |host| &mut host.paused),
        What::Maintain(wish) => window::set(tx, in_use(&host)?, Some(*wish), now_ms),
        What::EndMaintenance => window::set(tx, in_use(&host)?, None, now_ms),
        What::Remove(removal) => {
            let ports = ports_of(tx.state, &host.id);
            let mut differences = Vec::new();
            for port in ports {
                differences.push(Difference {
                    kind: "port",
                    id: port.key.to_string(),
                    action: Action::Delete,
                    fields: Vec::new(),
                    stops_traffic: carries(tx.before(), &port.vpc),
                });
                take_away(tx, &port, *removal, now_ms);
            }
            remove(tx, host, *removal, &mut differences);
            approved(removal.approval, host_needs_approval(&differences), &differences)?;
            Ok(differences)
        }
        What::Replace { by, removal } => {
            let differences = replace(tx, host, by, *removal, now_ms)?;
            approved(removal.approval, host_needs_approval(&differences), &differences)?;
            Ok(differences)
        }
    }
}

/// A host that commands can change. Removed hosts are refused.
fn in_use(host: &Host) -> Result<&Host, CommandError> {
    if host.retiring {
        let rule = format!("host {} was removed: an inventory that names it takes it in again", host.id);
        return Err(refused(Code::FailedPrecondition, rule, "HostRemoved"));
    }
    Ok(host)
}

/// Sets one of the flags that only commands set.
fn switch(
    tx: &mut Transaction<'_>,
    host: &Host,
    name: &str,
    on: bool,
    which: impl Fn(&mut Host) -> &mut bool,
) -> Result<Vec<Difference>, CommandError> {
    let mut new = in_use(host)?.clone();
    *which(&mut new) = on;
    if new == *host {
        return Ok(Vec::new());
    }
    let (id, fields) = (host.id.to_string(), vec![field(name, !on, on)]);
    set(tx, new);
    Ok(vec![Difference { kind: "host", id, action: Action::Update, fields, stops_traffic: false }])
}

fn ports_of(state: &State, host: &HostId) -> Vec<Port> {
    state.ports_on(host).cloned().collect()
}

/// Removes a port from its host. A host that is alive must confirm that its peerings are gone.
fn take_away(tx: &mut Transaction<'_>, port: &Port, removal: Removal, now_ms: u64) {
    tx.change(state::Change::Port(port.key.clone(), None));
    if !removal.dead {
        peering::port_left(tx, &port.vpc, &port.key.host, now_ms);
    }
}

/// Removes a host without ports. One that was removed as dead before is forgotten.
fn remove(tx: &mut Transaction<'_>, host: Host, removal: Removal, differences: &mut Vec<Difference>) {
    if host.retiring && !host.dead && !removal.dead {
        return;
    }
    let id = host.id.to_string();
    differences.push(Difference { kind: "host", id, action: Action::Delete, fields: Vec::new(), stops_traffic: false });
    if host.dead {
        tx.change(state::Change::Host(host.id, None));
    } else {
        set(tx, Host { retiring: true, drained: false, window: None, paused: false, dead: removal.dead, ..host });
    }
}

fn replace(
    tx: &mut Transaction<'_>,
    host: Host,
    by: &HostId,
    removal: Removal,
    now_ms: u64,
) -> Result<Vec<Difference>, CommandError> {
    let other = find(tx.state, by)?;
    let unfit = if other.id == host.id {
        Some(format!("host {by} cannot replace itself"))
    } else if other.retiring {
        Some(format!("host {by} was removed"))
    } else if other.drained {
        Some(format!("host {by} is drained and accepts no new ports: `cps-peering host uncordon {by}` ends that"))
    } else if other.paused {
        // It would lose its traffic here, and get none there.
        Some(format!("nothing is pushed to host {by}: `cps-peering host resume {by}` ends that"))
    } else if other.region != host.region {
        Some(format!("host {} is in region {}, and host {by} in {}", host.id, host.region, other.region))
    } else {
        None
    };
    if let Some(rule) = unfit {
        return Err(refused(Code::FailedPrecondition, rule, "HostUnfit"));
    }
    let mut differences = Vec::new();
    for port in ports_of(tx.state, &host.id) {
        let key = PortKey { host: by.clone(), interface: port.key.interface };
        if tx.state.ports().contains_key(&key) {
            let rule = format!("{} cannot move to host {by}, which has a port {key}", port.key);
            return Err(refused(Code::AlreadyExists, rule, "PortExists"));
        }
        differences.push(Difference {
            kind: "port",
            id: port.key.to_string(),
            action: Action::Update,
            fields: vec![field("host", host.id.to_string(), by.to_string())],
            stops_traffic: carries(tx.before(), &port.vpc),
        });
        // First the new one: the VPC is never without.
        tx.change(state::Change::Port(key.clone(), Some(Port { key, ..port.clone() })));
        take_away(tx, &port, removal, now_ms);
    }
    remove(tx, host, removal, &mut differences);
    Ok(differences)
}
