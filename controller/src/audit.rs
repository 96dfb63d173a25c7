//! The audit trail: who did what when, with which outcome.

use crate::events::{self, Event};
use crate::model::{
    Actor, Command, CommandError, Leap, Outcome, Request, Transaction,
    account::What,
    host,
    record::{Made, Peering, Role, Window},
    rollout,
    state::Change,
    webhook,
};
use cps_peering_config::{
    id::{AccountId, HostId, PeeringId, VpcId},
    text,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How many of a document's changes an entry lists.
const MOST_LINES: usize = 200;
/// The action in the trail of an account with whose network another one has compared its own.
const COMPARED: &str = "CompareCidrs";
/// The longest record of a command, in bytes.
const LONGEST: usize = 16 * 1024;
/// The longest record of a refused command, in bytes.
const LONGEST_REFUSED: usize = 2 * 1024;
/// The longest text in a recorded command, in characters: longer than any valid one.
const LONGEST_TEXT: usize = 300;
/// The longest reason of a refusal, in characters.
const LONGEST_REASON: usize = 1000;
/// The most accounts that one entry concerns; if there are more, further entries repeat it.
const MOST_ACCOUNTS: usize = 500;
/// The most events of one entry. If there are more, further entries have them.
const MOST_EVENTS: usize = 100;
/// More than any stored entry has, in bytes.
pub const MAX_ENTRY: usize = 128 * 1024;

/// One attempted change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The id of the request; empty for actions of the system.
    pub request: String,
    /// Who: `system`, `operator`, `operator/NAME`, `account/ID`, or `unknown` if authentication failed.
    pub actor: String,
    /// What, for instance `CreatePeering`.
    pub action: String,
    /// The object, for instance `vpcpr-0a1b2c3d4e`.
    pub target: String,
    /// `done`, `unchanged` if nothing was to be changed, or `refused`.
    pub outcome: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The command, without secrets.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub asked: Value,
    /// The accounts that it concerns: the caller's, and the recipients of its events.
    pub accounts: BTreeSet<AccountId>,
    /// The caller's address; empty if it is unknown, and for actions of the system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The events of this change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

impl Entry {
    /// Whether it is an action of the system.
    fn is_by_itself(&self) -> bool {
        self.actor == Actor::System.to_string()
    }

    /// Whose share of the trail it takes: the actor's or, for actions of the system, that of the one account whose peerings are
    /// concerned, so that one account's many peerings take no room from others.
    pub(crate) fn owner(&self) -> String {
        if !self.is_by_itself() {
            return self.actor.clone();
        }
        let payer = |event: &Event| {
            let initiator = event.told.iter().find(|told| told.role == Role::Initiator.word());
            initiator.or(event.told.first()).map(|told| told.account.clone())
        };
        let mut payers: BTreeSet<Option<AccountId>> = self.events.iter().map(payer).collect();
        if payers.is_empty() && self.accounts.len() == 1 {
            payers.insert(self.accounts.first().cloned());
        }
        match (payers.len(), payers.pop_first().flatten()) {
            (1, Some(account)) => Actor::Account(account).to_string(),
            _ => self.actor.clone(),
        }
    }
}

/// Filters of the trail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only entries that concern this account.
    pub account: Option<AccountId>,
    /// Only this request.
    pub request: Option<String>,
    /// Only entries older than this one.
    pub before: Option<u64>,
    /// At most this many, the newest.
    pub limit: usize,
}

/// The entries of a request: for what was due before it, and one for the request itself.
pub(crate) fn entries(
    tx: &mut Transaction<'_>,
    request: &Request,
    result: &Result<Outcome, CommandError>,
    now_ms: u64,
) -> Vec<Entry> {
    let peerings = |tx: &Transaction<'_>, changes: &[Change]| -> Vec<(PeeringId, BTreeSet<AccountId>)> {
        let ids = changes.iter().filter_map(|change| match change {
            Change::Peering(id, _) => Some(id.clone()),
            _ => None,
        });
        ids.map(|id| {
            let accounts = tx.state.peerings().get(&id).map(accounts_of).unwrap_or_default();
            (id, accounts)
        })
        .collect()
    };
    let due = tx.due();
    let (caught_up, changes) = tx.changes().split_at(due);
    let (caught_up, changes) = (caught_up.to_vec(), changes.to_vec());
    let mut entries: Vec<Entry> = peerings(tx, &caught_up)
        .into_iter()
        .map(|(id, accounts)| Entry {
            time_ms: now_ms,
            request: String::new(),
            actor: Actor::System.to_string(),
            action: "TimeIsUp".to_owned(),
            target: id.to_string(),
            outcome: tx
                .state
                .peerings()
                .get(&id)
                .map_or("forgotten", |peering| crate::model::peering::state_word(&peering.state))
                .to_owned(),
            reason: String::new(),
            asked: Value::Null,
            accounts,
            from: String::new(),
            events: Vec::new(),
        })
        .collect();
    entries.extend(
        windows(tx, &caught_up).into_iter().map(|(host, outcome)| Entry {
            outcome: outcome.to_owned(),
            ..Entry::of_system("TimeIsUp", &host, now_ms)
        }),
    );
    // A refused command changes nothing.
    let events = if result.is_ok() { events::of(tx) } else { Vec::new() };
    if matches!(request.command, Command::Tick | Command::RecordSignature) {
        if entries.is_empty() && !events.is_empty() {
            entries.push(Entry::of_system("TimeIsUp", "", now_ms));
        }
        attach(&mut entries, &events);
        return entries;
    }
    let mut accounts: BTreeSet<AccountId> = request.actor.account().cloned().into_iter().collect();
    // A refusal concerns nobody else.
    if result.is_ok() {
        // Of others' actions, an account sees only what its events tell it (rule L11).
        let touched: BTreeSet<String> = peerings(tx, &changes).into_iter().map(|(id, _)| id.to_string()).collect();
        let told = events.iter().filter(|event| touched.contains(&event.target)).flat_map(|event| &event.told);
        accounts.extend(told.map(|told| told.account.clone()));
        if let Command::Account(change) = &request.command {
            accounts.insert(change.id.clone());
        }
    }
    let (outcome, reason) = match result {
        Ok(_) if changes.is_empty() => ("unchanged", String::new()),
        Ok(_) => ("done", String::new()),
        Err(refusal) => ("refused", text::cut(&refusal.to_string(), LONGEST_REASON)),
    };
    let mut asked = asked(&request.command);
    if let Ok(Outcome::Applied(differences)) = result {
        let lines = differences.iter().take(MOST_LINES);
        let lines = lines.map(|it| format!("{} {} {}", it.action.word(), it.kind, it.id)).collect::<Vec<_>>();
        asked["changes"] = lines.into();
        asked["count"] = differences.len().into();
    }
    // Whatever a client sends must not fill the disk.
    cut_texts(&mut asked);
    let (text, most) = (asked.to_string(), if result.is_ok() { LONGEST } else { LONGEST_REFUSED });
    if text.len() > most {
        asked = serde_json::json!({ "cut": text::cut(&text, LONGEST_TEXT) });
    }
    let entry = Entry {
        time_ms: now_ms,
        request: request.id.clone(),
        actor: request.actor_word(),
        target: target(&request.command, result.as_ref().ok())
            .unwrap_or_else(|| format!("commit {}", tx.state.meta().number)),
        action: name(&request.command).to_owned(),
        outcome: outcome.to_owned(),
        reason,
        asked,
        accounts: BTreeSet::new(),
        from: request.from.clone(),
        events: Vec::new(),
    };
    let accounts: Vec<AccountId> = accounts.into_iter().collect();
    let (first, more) = accounts.split_at(accounts.len().min(MOST_ACCOUNTS));
    let with = |accounts: &[AccountId]| Entry { accounts: accounts.iter().cloned().collect(), ..entry.clone() };
    entries.push(with(first));
    entries.extend(more.chunks(MOST_ACCOUNTS).map(with));
    attach(&mut entries, &events);
    entries
}

/// The hosts whose maintenance windows have begun or ended among changes that were due, with the outcome of each.
fn windows(tx: &Transaction<'_>, due: &[Change]) -> Vec<(String, &'static str)> {
    // The state after everything that was due: what the command itself has changed since is recorded with it.
    let mut hosts = BTreeMap::new();
    for change in due {
        if let Change::Host(id, Some(after)) = change {
            hosts.insert(id, after.window);
        }
    }
    let of = |(id, after): (&HostId, Option<Window>)| {
        let before = tx.before().hosts().get(id)?.window?;
        let outcome = match (before.begun, after) {
            (_, Some(_)) => "maintenanceBegun",
            (true, None) => "maintenanceEnded",
            // It has begun and ended while no controller was running.
            (false, None) => "maintenanceMissed",
        };
        Some((id.to_string(), outcome))
    };
    hosts.into_iter().filter_map(of).collect()
}

/// Adds events to the last entry of the audit trail; if there are many, to further entries that repeat it.
fn attach(entries: &mut Vec<Entry>, events: &[Event]) {
    // Actions of the system have an entry for each peering, with its events, so that no account's events are in another's entry.
    let mut rest = Vec::new();
    let due = entries.iter().enumerate().filter(|(_, entry)| entry.is_by_itself());
    // (If two have the same target, the first.)
    let due: HashMap<String, usize> = due.rev().map(|(place, entry)| (entry.target.clone(), place)).collect();
    for event in events {
        let entry = due.get(&event.target).and_then(|place| entries.get_mut(*place));
        match entry.filter(|entry| entry.events.len() < MOST_EVENTS) {
            Some(entry) => entry.events.push(event.clone()),
            None => rest.push(event.clone()),
        }
    }
    if rest.is_empty() {
        return;
    }
    let Some(last) = entries.last().cloned() else { return };
    if !last.events.is_empty() {
        entries.push(Entry { events: Vec::new(), asked: Value::Null, ..last.clone() });
    }
    let mut pieces = rest.chunks(MOST_EVENTS).map(<[Event]>::to_vec);
    if let (Some(first), Some(entry)) = (pieces.next(), entries.last_mut()) {
        entry.events = first;
    }
    entries.extend(pieces.map(|events| Entry { events, asked: Value::Null, ..last.clone() }));
}

/// Cuts every text in a value.
fn cut_texts(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > LONGEST_TEXT => *text = text::cut(text, LONGEST_TEXT),
        Value::Array(values) => values.iter_mut().for_each(cut_texts),
        Value::Object(fields) => fields.values_mut().for_each(cut_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Entries for the owners of networks about which a request has told its account something (rule L11). A dry run tells
/// something whatever its result, and leaves no other trace.
pub(crate) fn disclosed(
    tx: &Transaction<'_>,
    request: &Request,
    result: &Result<Outcome, CommandError>,
    rehearsed: bool,
    now_ms: u64,
) -> Vec<(AccountId, Entry)> {
    let Some(asked_by) = request.actor.account() else { return Vec::new() };
    let (owners, outcome) = match result {
        Err(refusal) => (refusal.tells.clone(), "overlap"),
        Ok(Outcome::Made(Made::Peering(id))) if rehearsed => {
            let compares = matches!(
                request.command,
                Command::CreatePeering(_) | Command::AcceptPeering(_) | Command::SetPrefixes(_)
            );
            let made = tx.state.peerings().get(id).filter(|_| compares);
            (made.map(accounts_of).unwrap_or_default(), "no overlap")
        }
        Ok(_) => (BTreeSet::new(), ""),
    };
    let owners = owners.into_iter().filter(|owner| owner != asked_by);
    let peer_vpc = |owner: &AccountId| match &request.command {
        Command::CreatePeering(create) => {
            let peer = tx.state.vpcs().get(&create.peer_vpc).filter(|vpc| vpc.account == *owner);
            peer.map(|vpc| vpc.id.to_string())
        }
        Command::AcceptPeering(accept) => Some(accept.which.id.to_string()),
        Command::SetPrefixes(set) => Some(set.which.id.to_string()),
        _ => None,
    };
    let entry = |owner: AccountId| {
        let entry = Entry {
            time_ms: now_ms,
            request: request.id.clone(),
            actor: request.actor.to_string(),
            action: COMPARED.to_owned(),
            target: peer_vpc(&owner).unwrap_or_else(|| format!("account/{owner}")),
            outcome: outcome.to_owned(),
            reason: String::new(),
            asked: Value::Null,
            accounts: BTreeSet::from([owner.clone()]),
            // The caller's address is not disclosed to others.
            from: String::new(),
            events: Vec::new(),
        };
        (owner, entry)
    };
    owners.map(entry).collect()
}

impl Entry {
    /// An action of the system. For operators.
    pub(crate) fn of_system(action: &str, target: &str, now_ms: u64) -> Self {
        Self {
            time_ms: now_ms,
            request: String::new(),
            actor: Actor::System.to_string(),
            action: action.to_owned(),
            target: target.to_owned(),
            outcome: "done".to_owned(),
            reason: String::new(),
            asked: Value::Null,
            accounts: BTreeSet::new(),
            from: String::new(),
            events: Vec::new(),
        }
    }

    /// The clock has jumped. For operators.
    pub(crate) fn of_clock(leap: Leap, now_ms: u64) -> Self {
        let target = format!("{:+} s", leap.by_ms / 1000);
        Self { outcome: "unconfirmed".to_owned(), ..Self::of_system("ClockLeapt", &target, now_ms) }
    }
}

fn accounts_of(peering: &Peering) -> BTreeSet<AccountId> {
    peering.sides().iter().map(|side| side.account.clone()).collect()
}

/// The action of a command in the trail. Entries are stored, and searched for these words: they must not change.
pub(crate) fn name(command: &Command) -> &'static str {
    match command {
        Command::Apply(_) => "Apply",
        Command::CreatePeering(_) => "CreatePeering",
        Command::AcceptPeering(_) => "AcceptPeering",
        Command::RejectPeering(_) => "RejectPeering",
        Command::ModifyPeering(_) => "ModifyPeering",
        Command::SetBandwidth(_) => "SetBandwidth",
        Command::SetPrefixes(_) => "SetPrefixes",
        Command::DeletePeering(_) => "DeletePeering",
        Command::CreateVpc(_) => "CreateVpc",
        Command::ModifyVpc(_) => "ModifyVpc",
        Command::AddCidr(_) => "AddCidr",
        Command::RemoveCidr(_) => "RemoveCidr",
        Command::DeleteVpc(_) => "DeleteVpc",
        // What was changed of an account is more telling than that something was.
        Command::Account(change) => match change.what {
            What::Create => "CreateAccount",
            What::AddKey { .. } => "AddKey",
            What::RemoveKey(_) => "RemoveKey",
            What::AddToken { .. } => "AddToken",
            What::RemoveToken(_) => "RemoveToken",
            What::Charge(_) => "SetChargeStatus",
            What::Quota { .. } => "SetQuota",
            What::Block(_) => "BlockAccount",
            What::Unblock(_) => "UnblockAccount",
        },
        Command::Webhook(change) => match change.what {
            webhook::What::Create { .. } => "CreateWebhook",
            webhook::What::Modify { .. } => "ModifyWebhook",
            webhook::What::Delete => "DeleteWebhook",
        },
        Command::Host(change) => match change.what {
            host::What::Drain => "DrainHost",
            host::What::Uncordon => "UncordonHost",
            host::What::Maintain(_) => "MaintainHost",
            host::What::EndMaintenance => "EndHostMaintenance",
            host::What::Pause => "PauseHost",
            host::What::Resume => "ResumeHost",
            host::What::Remove(_) => "RemoveHost",
            host::What::Replace { .. } => "ReplaceHost",
        },
        Command::Activate(_) => "Activate",
        Command::Drained(_) => "Drained",
        Command::Forget(_) => "Forget",
        Command::LearnMtu(..) => "LearnMtu",
        Command::ConfirmClock => "ConfirmClock",
        Command::Release => "Release",
        Command::Rollout(step) => match step {
            rollout::Step::Continue { .. } => "ContinueRollout",
            rollout::Step::Stop { .. } => "StopRollout",
            rollout::Step::Finish => "FinishRollout",
            rollout::Step::Withdraw => "WithdrawRollout",
        },
        Command::Tick => "Tick",
        Command::RecordSignature => "RecordSignature",
    }
}

/// A command as the trail records it.
fn asked(command: &Command) -> Value {
    // A whole inventory is too much for the trail, and the changes that it made are more telling.
    if let Command::Apply(apply) = command {
        return serde_json::json!({ "prune": apply.prune });
    }
    let said = match command {
        Command::Account(change) => serde_json::to_value(&change.what),
        command => serde_json::to_value(command),
    };
    match said {
        Ok(Value::Object(fields)) => fields.into_iter().next().map(|(_, said)| said).unwrap_or_default(),
        _ => Value::Null,
    }
}

/// The object of a command, from the command or its outcome: a peering, a VPC, a region, an account or a host; none if it concerns
/// several objects.
pub(crate) fn target(command: &Command, outcome: Option<&Outcome>) -> Option<String> {
    let peering = |id: &PeeringId| id.to_string();
    let vpc = |id: &VpcId| id.to_string();
    Some(match (command, outcome) {
        (_, Some(Outcome::Made(Made::Peering(id)))) => peering(id),
        (_, Some(Outcome::Made(Made::Vpc(id)))) => vpc(id),
        (Command::RejectPeering(which) | Command::DeletePeering(which), _) => peering(&which.id),
        (Command::AcceptPeering(accept), _) => peering(&accept.which.id),
        (Command::SetPrefixes(set), _) => peering(&set.which.id),
        (Command::ModifyPeering(modify), _) => peering(&modify.which.id),
        (Command::SetBandwidth(set), _) => peering(&set.which.id),
        (Command::Activate(id) | Command::Drained(id), _) => peering(id),
        (Command::CreatePeering(create), _) => vpc(&create.vpc),
        (Command::ModifyVpc(modify), _) => vpc(&modify.which.id),
        (Command::AddCidr(cidr) | Command::RemoveCidr(cidr), _) => vpc(&cidr.which.id),
        (Command::DeleteVpc(which), _) => vpc(&which.id),
        (Command::CreateVpc(create), _) => create.region.to_string(),
        (Command::Account(change), _) => change.id.to_string(),
        (Command::Webhook(change), _) => change.id.clone(),
        (Command::Host(host::Change { id, .. }) | Command::Forget(id) | Command::LearnMtu(id, _), _) => id.to_string(),
        (Command::ConfirmClock, _) => "clock".to_owned(),
        (Command::Release, _) => "cluster".to_owned(),
        (Command::Rollout(_), _) => "rollout".to_owned(),
        (Command::Apply(_) | Command::Tick | Command::RecordSignature, _) => return None,
    })
}
