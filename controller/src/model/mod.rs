//! The rules. Pure: state, request, time and randomness go in; a refusal or a list of changed records comes out.

pub mod account;
mod address_rules;
pub mod disclosure;
pub mod due;
pub mod event_types;
pub mod host;
mod hourly;
pub mod inventory;
mod locate;
pub mod metering;
mod overlap;
pub mod peering;
pub mod persistent;
pub mod prefixes;
pub mod quota;
pub mod record;
mod refusal;
pub mod rollout;
pub mod state;
pub(crate) mod token;
mod vni;
pub mod vpc;
pub mod webhook;
pub mod window;

pub use refusal::{Code, CommandError, FieldViolation};

use cps_peering_config::{
    id::{AccountId, HostId, PeeringId, VpcId},
    quota::Kind,
    report::UNDERLAY_MTUS,
    time::DAY_MS,
};
use disclosure::Disclosures;
use record::{Made, TokenUse};
use serde::Serialize;
use state::{Change, Meta, State};
use std::fmt;

/// A state that is being changed, and its changes so far. Rules see the state with these changes. Unless they are
/// [kept](Transaction::keep), they are rolled back when the transaction is dropped, also in a panic.
pub struct Transaction<'a> {
    /// The state, with the changes so far.
    pub state: &'a mut State,
    before: State,
    changes: Vec<Change>,
    /// Periods that were closed.
    periods: Vec<metering::Period>,
    /// How many of the changes are due to deadlines.
    due: usize,
    /// How the machine's clock contradicts the elapsed time.
    leap: Option<Leap>,
}

impl<'a> Transaction<'a> {
    /// Begins a transaction.
    pub fn new(state: &'a mut State) -> Self {
        let before = state.clone();
        Self { state, before, changes: Vec::new(), periods: Vec::new(), due: 0, leap: None }
    }

    /// Changes a record.
    pub fn change(&mut self, change: Change) {
        self.changes.push(change.clone());
        self.state.apply(change);
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Periods that the changes have closed, and that belong into the same commit.
    pub fn periods(&self) -> &[metering::Period] {
        &self.periods
    }

    /// How many of the changes, the first ones, are due to deadlines.
    pub fn due(&self) -> usize {
        self.due
    }

    /// Rolls everything back.
    pub fn undo(self) {
        drop(self);
    }

    /// Keeps the changes. Returns them, and the periods that were closed.
    pub fn keep(mut self) -> (Vec<Change>, Vec<metering::Period>) {
        self.before.clone_from(self.state);
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.periods))
    }

    /// The state as it was before.
    pub fn before(&self) -> &State {
        &self.before
    }

    /// The number that the commit of these changes will have.
    fn number(&self) -> u64 {
        self.state.meta().number + 1
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        std::mem::swap(self.state, &mut self.before);
    }
}

/// The authenticated identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The controller itself, because of a confirmation or a deadline.
    System,
    /// An operator of the cloud, who can do everything.
    Operator,
    /// An account, which can do what concerns its own side.
    Account(AccountId),
}

impl Actor {
    /// The account, if it is one.
    pub fn account(&self) -> Option<&AccountId> {
        match self {
            Actor::Account(id) => Some(id),
            Actor::System | Actor::Operator => None,
        }
    }

    /// Whether it can act for an account.
    pub fn is(&self, account: &AccountId) -> bool {
        self.account().is_none_or(|own| own == account)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::System => f.write_str("system"),
            Actor::Operator => f.write_str("operator"),
            Actor::Account(id) => write!(f, "account/{id}"),
        }
    }
}

/// A command.
#[derive(Debug, Clone, Serialize)]
pub enum Command {
    /// Apply an inventory of accounts, regions, hosts, VPCs, ports and peerings.
    Apply(inventory::Apply),
    /// Peer two VPCs.
    CreatePeering(peering::Create),
    /// Accept a request.
    AcceptPeering(peering::Accept),
    /// Reject a request.
    RejectPeering(peering::Locator),
    /// Change name, description, tags or deletion protection of a peering.
    ModifyPeering(peering::Modify),
    /// Change the bandwidth of a peering.
    SetBandwidth(peering::SetBandwidth),
    /// Change which prefixes a side exports and imports.
    SetPrefixes(prefixes::SetPrefixes),
    /// Delete a peering.
    DeletePeering(peering::Locator),
    /// Create a VPC for the caller's account.
    CreateVpc(vpc::Create),
    /// Change name, description or deletion protection of a VPC.
    ModifyVpc(vpc::Modify),
    /// Add a CIDR to a VPC.
    AddCidr(vpc::Cidr),
    /// Remove a CIDR from a VPC.
    RemoveCidr(vpc::Cidr),
    /// Delete a VPC.
    DeleteVpc(vpc::Locator),
    /// Change an account.
    Account(account::Change),
    /// Change a webhook.
    Webhook(webhook::Change),
    /// Drain, pause, remove or otherwise change a host.
    Host(host::Change),
    /// A peering becomes active: all hosts have confirmed it, or had enough time.
    Activate(PeeringId),
    /// All hosts have confirmed the removal of a peering.
    Drained(PeeringId),
    /// A retiring host has confirmed its cleanup.
    Forget(HostId),
    /// An agent reports the MTU of the underlay at its end, in bytes.
    LearnMtu(HostId, u32),
    /// The machine's clock is right, however far it has leapt.
    ConfirmClock,
    /// Release a restored store, so that hosts are configured.
    Release,
    /// Continue, stop or end a rollout.
    Rollout(rollout::Step),
    /// Handle deadlines, and nothing else.
    Tick,
    /// Store the signature of a request that was refused, or changed nothing, so that a replay has no effect.
    RecordSignature,
}

impl Command {
    /// Whether it frees space, or must go on while there is little: deletes, rejects, suspensions, and actions of the
    /// system.
    pub(crate) fn makes_room(&self) -> bool {
        match self {
            Command::RejectPeering(_)
            | Command::DeletePeering(_)
            | Command::RemoveCidr(_)
            | Command::DeleteVpc(_)
            | Command::Activate(_)
            | Command::Drained(_)
            | Command::Forget(_)
            | Command::LearnMtu(..)
            // It ends what holds deletions back.
            | Command::ConfirmClock
            | Command::Release
            | Command::Rollout(_)
            | Command::Tick => true,
            Command::Account(change) => change.makes_room(),
            // Their records do not grow, except for windows. Deletes do not reach a host that is paused.
            Command::Host(change) => !matches!(change.what, host::What::Replace { .. } | host::What::Maintain(_)),
            // Protected objects cannot be deleted before.
            Command::ModifyPeering(modify) => modify.only_ends_protection(),
            Command::ModifyVpc(modify) => modify.only_ends_protection(),
            Command::Webhook(change) => change.what == webhook::What::Delete,
            Command::Apply(_)
            | Command::CreatePeering(_)
            | Command::AcceptPeering(_)
            | Command::SetBandwidth(_)
            | Command::SetPrefixes(_)
            | Command::CreateVpc(_)
            | Command::AddCidr(_)
            | Command::RecordSignature => false,
        }
    }

    /// Refuses invalid texts, before anything else looks at them.
    fn check_texts(&self) -> Result<(), CommandError> {
        match self {
            Command::CreatePeering(create) => create.check_texts(),
            Command::AcceptPeering(accept) => accept.prefixes.check(),
            Command::SetPrefixes(set) => set.check(),
            Command::ModifyPeering(modify) => modify.check_texts(),
            Command::CreateVpc(create) => create.check_texts(),
            Command::ModifyVpc(modify) => modify.check_texts(),
            Command::Account(change) => change.check_texts(),
            Command::Webhook(change) => change.check_texts(),
            // An inventory is checked entry by entry; the others contain only ids and numbers.
            Command::Apply(_)
            | Command::RejectPeering(_)
            | Command::SetBandwidth(_)
            | Command::DeletePeering(_)
            | Command::AddCidr(_)
            | Command::RemoveCidr(_)
            | Command::DeleteVpc(_)
            | Command::Host(_)
            | Command::Activate(_)
            | Command::Drained(_)
            | Command::Forget(_)
            | Command::LearnMtu(..)
            | Command::ConfirmClock
            | Command::Release
            | Command::Rollout(_)
            | Command::Tick
            | Command::RecordSignature => Ok(()),
        }
    }
}

/// The signature of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The signature.
    pub signature: String,
    /// Until when the request could be replayed, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

/// A command and its context.
#[derive(Debug, Clone)]
pub struct Request {
    /// The authenticated identity.
    pub actor: Actor,
    /// The id of the request in the response and the audit trail.
    pub id: String,
    /// Makes repetitions harmless.
    pub token: Option<String>,
    /// The signature of the request. It can change something once only.
    pub signed: Option<Signed>,
    /// The name of the operator, if it is a named one: for the audit trail.
    pub operator: Option<String>,
    /// The caller's address, for the audit trail; empty if unknown.
    pub from: String,
    /// The command.
    pub command: Command,
}

impl Request {
    /// A request without token and signature.
    pub fn new(actor: Actor, command: Command) -> Self {
        Self { actor, id: String::new(), token: None, signed: None, operator: None, from: String::new(), command }
    }

    /// The caller's name in the audit trail.
    pub(crate) fn actor_word(&self) -> String {
        match (&self.actor, &self.operator) {
            (Actor::Operator, Some(name)) => format!("{}/{name}", Actor::Operator),
            (actor, _) => actor.to_string(),
        }
    }
}

/// Limits and periods that a settings file can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum bandwidth of a peering, in Mbit/s (rule B1).
    pub max_bandwidth: u32,
    /// Live peerings of an account in a region (rule L9).
    pub peerings_per_region: u32,
    /// VPCs of an account in a region.
    pub vpcs_per_region: u32,
    /// CIDRs of an account's VPCs in a region, besides their first ones.
    pub secondary_cidrs_per_region: u32,
    /// Tags on an account's live peerings from a region.
    pub tags_per_region: u32,
    /// Client tokens that are remembered for an account.
    pub client_tokens: u32,
    /// Accounts that an account blocks.
    pub blocked_accounts: u32,
    /// Requests of an account to one other within an hour.
    pub requests_per_hour: u32,
    /// Bandwidths that an account sets or changes within an hour: each can close a charged period, which is stored for good.
    pub bandwidth_changes_per_hour: u32,
    /// The most hosts that an inventory removes without approval, in percent of all.
    pub unconfirmed_host_removals_percent: u32,
    /// How long a request waits for an answer, in milliseconds (rule L3).
    pub pending_ms: u64,
    /// How long the record of an ended peering is kept, in milliseconds (rule L8).
    pub ended_ms: u64,
    /// How long suspended peerings are kept, in milliseconds (rule B5).
    pub arrear_ms: u64,
    /// How long a client token is remembered, in milliseconds.
    pub token_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bandwidth: 10_000,
            peerings_per_region: 50,
            vpcs_per_region: 200,
            secondary_cidrs_per_region: 400,
            tags_per_region: 500,
            client_tokens: 10_000,
            blocked_accounts: 1000,
            requests_per_hour: 1000,
            bandwidth_changes_per_hour: 500,
            unconfirmed_host_removals_percent: 5,
            pending_ms: DAY_MS,
            ended_ms: 7 * DAY_MS,
            arrear_ms: 7 * DAY_MS,
            token_ms: DAY_MS,
        }
    }
}

/// The time, in milliseconds since 1970-01-01 UTC, and whether it is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The elapsed time, which all rules use.
    pub ms: u64,
    /// The latest possible time: later than `ms` while an unconfirmed clock is ahead.
    pub latest_ms: u64,
    /// An unconfirmed leap of the machine's clock. Meanwhile nothing is deleted
    /// at its deadline.
    pub leap: Option<Leap>,
}

impl From<u64> for Now {
    fn from(ms: u64) -> Self {
        Self { ms, latest_ms: ms, leap: None }
    }
}

/// The difference between the machine's clock and the elapsed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leap {
    /// How far the clock is ahead, in milliseconds; negative if it is behind.
    pub by_ms: i64,
    /// The elapsed time when it was noticed, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// Whether the controller knows how much time has elapsed. After a downtime it does not.
    pub elapsed_known: bool,
}

/// What rules cannot know by themselves.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// The elapsed time, in milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// What accounts were told about each other's networks.
    pub disclosures: &'a Disclosures,
    /// The authenticated identity.
    pub actor: &'a Actor,
    /// Limits and periods.
    pub limits: &'a Limits,
    /// Generates the ends of ids, and what VNIs are drawn from: 10 of `[a-z0-9]`, unpredictable.
    pub random: &'a mut dyn FnMut() -> String,
}

impl Context<'_> {
    /// A free id.
    fn new_id<T: std::str::FromStr>(&mut self, prefix: &str, taken: impl Fn(&T) -> bool) -> T {
        loop {
            let id = format!("{prefix}-{}", (self.random)()).parse().ok();
            if let Some(id) = id.filter(|id| !taken(id)) {
                return id;
            }
        }
    }
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The changes of a document.
    Applied(Vec<inventory::Difference>),
    /// What was created or changed.
    Made(Made),
    /// It was done, or had been done before.
    Done,
}

/// What a request is judged with, besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The time.
    pub now: Now,
    /// Limits and periods.
    pub limits: &'a Limits,
    /// What accounts were told about each other's networks.
    pub disclosures: &'a Disclosures,
}

/// Executes a request in a transaction. After a refusal it must be rolled back.
pub fn decide(
    tx: &mut Transaction<'_>,
    request: &Request,
    judge: Judge<'_>,
    random: &mut dyn FnMut() -> String,
) -> Result<Outcome, CommandError> {
    decide_in_full(tx, request, judge, random).map_err(CommandError::bounded)
}

fn decide_in_full(
    tx: &mut Transaction<'_>,
    request: &Request,
    judge: Judge<'_>,
    random: &mut dyn FnMut() -> String,
) -> Result<Outcome, CommandError> {
    request.command.check_texts()?;
    let Judge { now, limits, disclosures } = judge;
    tx.leap = now.leap;
    let mut context = Context { now, now_ms: now.ms, disclosures, actor: &request.actor, limits, random };
    // Before anything is judged, so that nothing depends on when a timer ran (rule L3).
    due::catch_up(tx, &mut context);
    tx.due = tx.changes.len();
    let key = match (&request.token, request.actor.account()) {
        (Some(token), Some(account)) => Some(token::key(account, token)?),
        _ => None,
    };
    let words = key.as_ref().map(|_| token::words(&request.command)).unwrap_or_default();
    if let Some(used) = key.as_ref().and_then(|key| tx.state.token(key)) {
        if used.request != words {
            let rule = "it was used before for a request with other content: take a new one";
            return Err(CommandError::one(Code::Aborted, "clientToken", rule, "ClientTokenReused"));
        }
        if let Some(gone) = token::gone(tx.state, &request.command, &used.result, &request.actor) {
            let rule = format!("it was used for {gone}, which has been deleted since: take a new one");
            return Err(CommandError::one(Code::Aborted, "clientToken", rule, "ClientTokenResultDeleted"));
        }
        return Ok(Outcome::Made(used.result.clone()));
    }
    if let Some(key) = &key {
        quota::check(tx.state, Kind::ClientToken, (&key.account, None), 1, &context)?;
    }
    let outcome = carry_out(tx, &request.command, &mut context)?;
    if let (Some(key), Outcome::Made(result)) = (key, &outcome) {
        let forget_ms = now.ms.saturating_add(limits.token_ms);
        tx.change(Change::Token(key, Some(TokenUse { request: words, result: result.clone(), forget_ms })));
    }
    if let Some(signed) = &request.signed {
        let is_known = tx.state.has_signature(&signed.signature);
        let changes = tx.changes.len() > tx.due;
        // A request without effect can be repeated: a client that sends it twice within a second gets the same response.
        if is_known && changes {
            let rule = "a request with this very signature came before. Signatures have dates of one second, and those of version 3 \
                        do not cover the nonce, so the same request within one second cannot be told from a copy of it: send it \
                        again after a second";
            return Err(CommandError::one(Code::Replayed, "Authorization", rule, "RequestReplayed"));
        }
        if !is_known && (changes || matches!(request.command, Command::RecordSignature)) {
            tx.change(Change::Signature(signed.signature.clone(), Some(signed.until_ms)));
        }
    }
    Ok(outcome)
}

fn carry_out(tx: &mut Transaction<'_>, command: &Command, context: &mut Context<'_>) -> Result<Outcome, CommandError> {
    let peering = |id: PeeringId| Outcome::Made(Made::Peering(id));
    let vpc = |id: VpcId| Outcome::Made(Made::Vpc(id));
    match command {
        Command::Apply(apply) => inventory::apply(tx, apply, context).map(Outcome::Applied),
        Command::CreatePeering(create) => peering::create(tx, create, context).map(peering),
        Command::AcceptPeering(which) => peering::accept(tx, which, context).map(peering),
        Command::RejectPeering(which) => peering::reject(tx, which, context).map(|()| peering(which.id.clone())),
        Command::ModifyPeering(modify) => peering::modify(tx, modify, context).map(peering),
        Command::SetBandwidth(set) => peering::set_bandwidth(tx, set, context).map(peering),
        Command::SetPrefixes(set) => prefixes::set(tx, set, context).map(peering),
        Command::DeletePeering(which) => peering::delete(tx, which, context).map(|()| Outcome::Done),
        Command::CreateVpc(create) => vpc::create(tx, create, context).map(vpc),
        Command::ModifyVpc(modify) => vpc::modify(tx, modify, context).map(vpc),
        Command::AddCidr(cidr) => vpc::add_cidr(tx, cidr, context).map(vpc),
        Command::RemoveCidr(cidr) => vpc::remove_cidr(tx, cidr, context).map(vpc),
        Command::DeleteVpc(which) => vpc::delete(tx, which, context).map(|()| Outcome::Done),
        Command::Account(change) => account::change(tx, change, context).map(|()| Outcome::Done),
        Command::Webhook(change) => webhook::change(tx, change, context).map(|()| Outcome::Done),
        Command::Host(change) => host::change(tx, change, context.now_ms).map(Outcome::Applied),
        Command::Activate(id) => {
            peering::activate(tx, id, context.now_ms);
            Ok(Outcome::Done)
        }
        Command::Drained(id) => {
            peering::drained(tx, id, context);
            Ok(Outcome::Done)
        }
        Command::Forget(id) => {
            if tx.state.hosts().get(id).is_some_and(|host| host.retiring) {
                tx.change(Change::Host(id.clone(), None));
            }
            Ok(Outcome::Done)
        }
        Command::LearnMtu(id, mtu) => {
            let news = |host: &&record::Host| host.underlay_mtu != Some(*mtu) && UNDERLAY_MTUS.contains(mtu);
            if let Some(host) = tx.state.hosts().get(id).filter(news).cloned() {
                tx.change(Change::Host(id.clone(), Some(record::Host { underlay_mtu: Some(*mtu), ..host })));
            }
            Ok(Outcome::Done)
        }
        Command::ConfirmClock => {
            due::confirm_clock(tx, context);
            Ok(Outcome::Done)
        }
        Command::Release => {
            let meta = tx.state.meta();
            if meta.held {
                tx.change(Change::Meta(Meta { held: false, ..meta }));
            }
            Ok(Outcome::Done)
        }
        Command::Rollout(step) => {
            rollout::step(tx, step)?;
            Ok(Outcome::Done)
        }
        Command::Tick | Command::RecordSignature => Ok(Outcome::Done),
    }
}
