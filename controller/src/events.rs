//! Events about peerings, accounts and hosts. Derived from the changes of a command, and stored
//! with its entry of the audit trail: so each change has one event, in the order of commits. Pure.
//!
//! An account gets the events that its own side can see, and no others (rule L11).

use crate::model::{
    Transaction,
    peering::state_word,
    record::{End, Peering, PeeringState, Role},
    state::{Change, State},
};
use cps_peering_config::{
    id::{AccountId, HostId, RegionId},
    time::DAY_MS,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// How long events are available, in milliseconds: 7 days.
pub const KEPT_MS: u64 = 7 * DAY_MS;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its type, for instance `peering.active`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object: the id of a peering, an account or a host.
    pub target: String,
    /// The peering's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The state after it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// The peering's bandwidth after it, in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u32>,
    /// The accounts that get it, and their roles. Operators get all events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Recipient>,
}

/// An account that gets an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The account.
    pub account: AccountId,
    /// The region of its side; none for what concerns the account as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionId>,
    /// Its role in the peering.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
}

const ROLES: [Role; 2] = [Role::Initiator, Role::Receiver];

/// The accounts of some sides, once for each region.
fn told(peering: &Peering, roles: &[Role]) -> Vec<Recipient> {
    let mut told: Vec<Recipient> = Vec::new();
    for role in roles {
        let side = peering.view(*role).0;
        if !told.iter().any(|it| it.account == side.account && it.region.as_ref() == Some(&side.region)) {
            let role = role.word().to_owned();
            told.push(Recipient { account: side.account.clone(), region: Some(side.region.clone()), role });
        }
    }
    told
}

/// An event of a peering, for the accounts that see it.
pub(crate) fn of_peering(kind: &str, peering: &Peering, roles: &[Role]) -> Event {
    Event {
        kind: kind.to_owned(),
        target: peering.id.to_string(),
        name: peering.name.clone(),
        state: state_word(&peering.state).to_owned(),
        bandwidth: peering.bandwidth,
        told: told(peering, roles),
    }
}

/// An event of a host, for operators.
pub(crate) fn of_host(kind: &str, host: &HostId) -> Event {
    Event {
        kind: kind.to_owned(),
        target: host.to_string(),
        name: String::new(),
        state: String::new(),
        bandwidth: None,
        told: Vec::new(),
    }
}

/// The roles whose accounts see a peering.
pub(crate) fn seen_by(peering: &Peering) -> Vec<Role> {
    ROLES.into_iter().filter(|role| peering.is_seen_from(peering.view(*role).0)).collect()
}

fn became(before: &Peering, after: &Peering) -> Option<&'static str> {
    use PeeringState::{Active, Draining, Ended, Pending, Provisioning, Suspended};
    if std::mem::discriminant(&before.state) == std::mem::discriminant(&after.state) {
        return None;
    }
    Some(match (&before.state, &after.state) {
        (_, Ended { how: End::Rejected, .. }) => "peering.rejected",
        (_, Ended { how: End::Expired, .. }) => "peering.expired",
        (Draining { .. }, Ended { .. }) => "peering.drained",
        (_, Ended { how: End::Deleted, .. } | Draining { .. }) => "peering.deleted",
        (Pending, Provisioning | Active) => "peering.accepted",
        (Suspended { .. }, Provisioning | Active) => "peering.resumed",
        (_, Active) => "peering.active",
        (_, Suspended { .. }) => "peering.suspended",
        (_, Pending | Provisioning) => return None,
    })
}

fn of_change(before: Option<&Peering>, after: &Peering, events: &mut Vec<Event>) {
    let Some(before) = before else {
        let kind = if after.state == PeeringState::Pending { "peering.requested" } else { "peering.created" };
        events.push(of_peering(kind, after, &ROLES));
        return;
    };
    let seen = seen_by(before);
    let mut tell = |kind: &str, roles: &[Role]| {
        let roles: Vec<Role> = roles.iter().copied().filter(|role| seen.contains(role)).collect();
        if !roles.is_empty() {
            events.push(of_peering(kind, after, &roles));
        }
    };
    if let Some(kind) = became(before, after) {
        tell(kind, &ROLES);
    } else {
        let left = |role: &Role| !before.view(*role).0.deleted_by_owner && after.view(*role).0.deleted_by_owner;
        let left: Vec<Role> = ROLES.into_iter().filter(left).collect();
        if !left.is_empty() {
            tell("peering.recordDeleted", &left);
        }
    }
    if before.bandwidth != after.bandwidth {
        tell("peering.bandwidthChanged", &ROLES);
    }
    let renamed = before.name != after.name;
    let said = before.description != after.description || before.tags != after.tags;
    let mut modified = Vec::new();
    if renamed || said {
        modified.push(Role::Initiator);
    }
    if renamed || before.receiver_tags != after.receiver_tags || (said && !after.is_cross_account()) {
        modified.push(Role::Receiver);
    }
    for role in ROLES {
        let protection = before.view(role).0.protected != after.view(role).0.protected;
        if protection && !modified.contains(&role) {
            modified.push(role);
        }
    }
    if !modified.is_empty() {
        tell("peering.modified", &modified);
    }
    // Before acceptance, an initiator gets no events about the receiver's VPC (rule L11).
    let knows = before.was_accepted() || !after.is_cross_account();
    let accepted_now = !before.was_accepted() && after.was_accepted();
    let cidrs = |role: Role| before.view(role).0.cidrs != after.view(role).0.cidrs;
    // A side gets no events about what the other one does not export.
    let offered = |role: Role| before.view(role).0.offered() != after.view(role).0.offered();
    let mut told = Vec::new();
    if cidrs(Role::Initiator) || (cidrs(Role::Receiver) && offered(Role::Receiver) && knows) {
        told.push(Role::Initiator);
    }
    if cidrs(Role::Receiver) || (cidrs(Role::Initiator) && offered(Role::Initiator)) {
        told.push(Role::Receiver);
    }
    if !told.is_empty() && !accepted_now {
        tell("peering.cidrsChanged", &told);
    }
    let lists = |peering: &Peering, role: Role| {
        let side = peering.view(role).0;
        (side.export_prefixes.clone(), side.import_prefixes.clone())
    };
    let changed = |role: Role| lists(before, role) != lists(after, role);
    if (changed(Role::Initiator) || changed(Role::Receiver)) && !accepted_now {
        let reached = |peering: &Peering, role: Role| {
            let (own, peer) = peering.view(role);
            (own.effective(peer).into_owned(), peer.effective(own).into_owned(), peer.offered().into_owned())
        };
        let sees = |role: &Role| {
            let other = *role == Role::Receiver || knows;
            changed(*role) || (other && reached(before, *role) != reached(after, *role))
        };
        let told: Vec<Role> = ROLES.into_iter().filter(sees).collect();
        tell("peering.prefixesChanged", &told);
    }
}

/// The events of a host that stays in the inventory.
fn maintenance(tx: &Transaction<'_>, id: &HostId) -> Vec<&'static str> {
    let of = |state: &State| {
        let host = state.hosts().get(id)?;
        Some((host.drained, host.paused, host.window.is_some_and(|window| window.begun)))
    };
    let of = |state: &State| of(state).unwrap_or_default();
    let (before, after) = (of(tx.before()), of(tx.state));
    let mut kinds = Vec::new();
    if before.0 != after.0 {
        kinds.push(if after.0 { "host.drained" } else { "host.uncordoned" });
    }
    if before.1 != after.1 {
        kinds.push(if after.1 { "host.paused" } else { "host.resumed" });
    }
    if before.2 != after.2 {
        kinds.push(if after.2 { "host.maintenanceBegun" } else { "host.maintenanceEnded" });
    }
    kinds
}

/// The events of a command's changes, in order.
pub(crate) fn of(tx: &Transaction<'_>) -> Vec<Event> {
    let (mut events, mut seen) = (Vec::new(), BTreeSet::new());
    for change in tx.changes() {
        match change {
            Change::Peering(id, _) if seen.insert(format!("peering/{id}")) => {
                if let Some(after) = tx.state.peerings().get(id) {
                    of_change(tx.before().peerings().get(id), after, &mut events);
                }
            }
            Change::Account(id, _) if seen.insert(format!("account/{id}")) => {
                let [before, after] = [tx.before(), &*tx.state].map(|state| state.account(id).charge.word());
                if before != after {
                    let told = vec![Recipient { account: id.clone(), region: None, role: String::new() }];
                    let kind = "account.chargeStatusChanged";
                    let host = Event { kind: kind.to_owned(), target: id.to_string(), told, ..Event::nothing() };
                    events.push(Event { state: after.to_owned(), ..host });
                }
            }
            Change::Host(id, _) if seen.insert(format!("host/{id}")) => {
                // One that was removed as dead stays listed until it is forgotten.
                let there = |state: &State| state.hosts().get(id).is_some_and(|host| !host.dead);
                let [before, after] = [tx.before(), &*tx.state].map(there);
                match (before, after) {
                    (false, true) => events.push(of_host("host.added", id)),
                    (true, false) => events.push(of_host("host.removed", id)),
                    (true, true) => events.extend(maintenance(tx, id).into_iter().map(|kind| of_host(kind, id))),
                    (false, false) => {}
                }
            }
            Change::Meta(_) if seen.insert("rollout".to_owned()) => {
                let [before, after] = [tx.before(), &*tx.state].map(|state| state.meta().rollout);
                let kind = match (before, after) {
                    (Some(before), None) if before.withdrawn => Some("rollout.withdrawn"),
                    (Some(_), None) => Some("rollout.finished"),
                    (Some(before), Some(after)) if after.stopped && !before.stopped => Some("rollout.stopped"),
                    _ => None,
                };
                events.extend(kind.map(|kind| Event {
                    kind: kind.to_owned(),
                    target: "rollout".to_owned(),
                    ..Event::nothing()
                }));
            }
            _ => {}
        }
    }
    events
}

impl Event {
    fn nothing() -> Self {
        Self {
            kind: String::new(),
            target: String::new(),
            name: String::new(),
            state: String::new(),
            bandwidth: None,
            told: Vec::new(),
        }
    }

    /// How an account gets it in a region; none if it does not.
    pub fn recipient(&self, account: &AccountId, region: &RegionId) -> Option<&Recipient> {
        let here = |it: &&Recipient| it.account == *account && it.region.as_ref().is_none_or(|own| own == region);
        self.told.iter().find(here)
    }
}

/// The accounts that get an entry's events, without operators.
pub(crate) fn accounts(events: &[Event]) -> BTreeSet<AccountId> {
    events.iter().flat_map(|event| &event.told).map(|told| told.account.clone()).collect()
}

/// A position between two events: the next one is the first after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The number of an entry of the audit trail.
    pub number: u64,
    /// How many of its events are before the position.
    pub index: usize,
    /// When the event before it happened or, after all events, the time of the query; in seconds since 1970-01-01 UTC.
    pub seconds: u64,
    /// How many times the store had been restored by then: numbers repeat after that.
    pub restores: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.number, self.index, self.seconds)?;
        if self.restores == 0 { Ok(()) } else { write!(f, ".{}", self.restores) }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = || {
            let part = parts.next().filter(|part| part.bytes().all(|it| it.is_ascii_digit()));
            part.and_then(|part| part.parse::<u64>().ok()).ok_or(())
        };
        let (number, index, seconds) = (next()?, next()?, next()?);
        let index = usize::try_from(index).map_err(drop)?;
        let restores = match parts.next() {
            None => 0,
            Some(part) if !part.starts_with(['0', '+']) => part.parse().map_err(drop)?,
            Some(_) => return Err(()),
        };
        if parts.next().is_some() { Err(()) } else { Ok(Self { number, index, seconds, restores }) }
    }
}
