//! The rules. Pure: state, request, time and chance go in; a refusal or a list of changed records comes out.

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
};
use disclosure::Disclosures;
use record::{Made, TokenUse};
use serde::Serialize;
use state::{Change, Meta, State};
use std::fmt;

/// A state that is being changed, and what was changed so far. Rules see the state as it has become. Whatever is not
/// [kept](Transaction::keep) is taken back when the transaction goes, also in a panic.
pub struct Transaction<'a> {
    /// The state, with the changes so far.
    pub state: &'a mut State,
    before: State,
    changes: Vec<Change>,
    /// What was closed to be charged for.
    periods: Vec<metering::Period>,
    /// How many of the changes happened by themselves.
    due: usize,
    /// That the machine's clock contradicts the time that has passed.
    leap: Option<Leap>,
}

impl<'a> Transaction<'a> {
    /// Begins to change a state.
    pub fn new(state: &'a mut State) -> Self {
        let before = state.clone();
        Self { state, before, changes: Vec::new(), periods: Vec::new(), due: 0, leap: None }
    }

    /// Changes a record.
    pub fn change(&mut self, change: Change) {
        self.changes.push(change.clone());
        self.state.apply(change);
    }

    /// What was changed, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Periods that were closed by the changes, and belong into the same commit.
    pub fn periods(&self) -> &[metering::Period] {
        &self.periods
    }

    /// How many of the changes, the first ones, happened because their time had come.
    pub fn due(&self) -> usize {
        self.due
    }

    /// Takes everything back.
    pub fn undo(self) {
        drop(self);
    }

    /// Leaves the state as it has become. What was changed, and the periods that were closed.
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
    /// The controller itself, because something was confirmed or its time had come.
    System,
    /// Who runs the cloud. May do everything.
    Operator,
    /// An account. May do what concerns its own side.
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

    /// Whether it may act for an account.
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

/// What can be asked of the state.
#[derive(Debug, Clone, Serialize)]
pub enum Command {
    /// Bring accounts, regions, hosts, VPCs, ports and peerings to what a document says.
    Apply(inventory::Apply),
    /// Peer two VPCs.
    CreatePeering(peering::Create),
    /// Say yes to a request.
    AcceptPeering(peering::Accept),
    /// Say no to a request.
    RejectPeering(peering::Locator),
    /// Change what the initiator says about a peering.
    ModifyPeering(peering::Modify),
    /// Change how much may pass.
    SetBandwidth(peering::SetBandwidth),
    /// Change how much of its VPC a side shows, and of the other takes.
    SetPrefixes(prefixes::SetPrefixes),
    /// End a peering.
    DeletePeering(peering::Locator),
    /// Make a VPC for the account that asks.
    CreateVpc(vpc::Create),
    /// Change what an account says about its VPC.
    ModifyVpc(vpc::Modify),
    /// Add a CIDR to a VPC.
    AddCidr(vpc::Cidr),
    /// Take a CIDR from a VPC.
    RemoveCidr(vpc::Cidr),
    /// Remove a VPC.
    DeleteVpc(vpc::Locator),
    /// Change an account.
    Account(account::Change),
    /// Change where events are sent to.
    Webhook(webhook::Change),
    /// Take a host out of use, in again, or away.
    Host(host::Change),
    /// All hosts have it, or had time enough.
    Activate(PeeringId),
    /// No host has it any more.
    Drained(PeeringId),
    /// A retiring host has nothing left.
    Forget(HostId),
    /// An agent says what MTU the underlay has at its end, in bytes.
    LearnMtu(HostId, u32),
    /// The machine's clock is right, however much it has leapt.
    ConfirmClock,
    /// Hosts may be told what they must have: a store that was brought back is held until then.
    Release,
    /// What becomes of a change that has reached some hosts first.
    Rollout(rollout::Step),
    /// Do what is due, and nothing else.
    Tick,
    /// Keep the signature of a request that was refused, or changed nothing, so that the same is not done later.
    RecordSignature,
}

impl Command {
    /// Whether it makes room, or is what must go on while there is little: deletes, rejects, suspensions, and what happens by
    /// itself.
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
            // Their records are no longer than before, but for windows. Deletes do not reach a host that is paused.
            Command::Host(change) => !matches!(change.what, host::What::Replace { .. } | host::What::Maintain(_)),
            // What is protected is not deleted before.
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

    /// Refuses texts that no rule would allow, before anything else looks at them.
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
            // An inventory is checked entry by entry; the others say nothing but ids and numbers.
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
    /// Until when the same bytes could be sent again, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

/// A command with who asks for it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The authenticated identity.
    pub actor: Actor,
    /// The id under which the answer and the audit trail speak of it.
    pub id: String,
    /// What makes a repetition harmless.
    pub token: Option<String>,
    /// With what it was signed. The same signature changes something once only.
    pub signed: Option<Signed>,
    /// Which operator asks, where it is a named one: for the audit trail.
    pub operator: Option<String>,
    /// The address from which it came, for the audit trail; empty where it is not known.
    pub from: String,
    /// What is asked.
    pub command: Command,
}

impl Request {
    /// A request without token and signature.
    pub fn new(actor: Actor, command: Command) -> Self {
        Self { actor, id: String::new(), token: None, signed: None, operator: None, from: String::new(), command }
    }

    /// Who asks, as the audit trail says it.
    pub(crate) fn actor_word(&self) -> String {
        match (&self.actor, &self.operator) {
            (Actor::Operator, Some(name)) => format!("{}/{name}", Actor::Operator),
            (actor, _) => actor.to_string(),
        }
    }
}

/// Limits and periods that a settings file may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most that a peering may have, in Mbit/s (rule B1).
    pub max_bandwidth: u32,
    /// Live peerings of an account in a region (rule L9).
    pub peerings_per_region: u32,
    /// VPCs of an account in a region.
    pub vpcs_per_region: u32,
    /// CIDRs of an account's VPCs in a region, beside their first ones.
    pub secondary_cidrs_per_region: u32,
    /// Tags on an account's live peerings from a region.
    pub tags_per_region: u32,
    /// Client tokens that are remembered for an account.
    pub client_tokens: u32,
    /// Accounts from which an account wants no requests.
    pub blocked_accounts: u32,
    /// Requests of an account to one other within an hour.
    pub requests_per_hour: u32,
    /// Bandwidths that an account sets or changes within an hour: each may close what it is charged for, which is kept for good.
    pub bandwidth_changes_per_hour: u32,
    /// The most hosts that an inventory takes out without somebody confirming it, in percent of all.
    pub unconfirmed_host_removals_percent: u32,
    /// How long a request waits for an answer, in milliseconds (rule L3).
    pub pending_ms: u64,
    /// How long the record of an ended peering is kept, in milliseconds (rule L8).
    pub ended_ms: u64,
    /// How long what is suspended is kept, in milliseconds (rule B5).
    pub arrear_ms: u64,
    /// How long a client token is remembered, in milliseconds.
    pub token_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const HOUR: u64 = 60 * 60 * 1000;
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
            pending_ms: 24 * HOUR,
            ended_ms: 7 * 24 * HOUR,
            arrear_ms: 7 * 24 * HOUR,
            token_ms: 24 * HOUR,
        }
    }
}

/// The time, in milliseconds since 1970-01-01 UTC, and how certain it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time that has passed for certain. Everything goes by it.
    pub ms: u64,
    /// The time that it may be. Later than `ms` while the machine's clock has leapt forward and nobody has confirmed it.
    pub latest_ms: u64,
    /// That the machine's clock contradicts the time that has passed, and nobody has confirmed it. Meanwhile nothing is deleted
    /// because its time has come.
    pub leap: Option<Leap>,
}

impl From<u64> for Now {
    fn from(ms: u64) -> Self {
        Self { ms, latest_ms: ms, leap: None }
    }
}

/// By how much the machine's clock differs from the time that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leap {
    /// How far the clock is ahead, in milliseconds; negative where it is behind.
    pub by_ms: i64,
    /// The time that had passed when it was noticed, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// Whether the controller knows how much time has passed. It does not where it was away.
    pub elapsed_known: bool,
}

/// What rules cannot know by themselves.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// The time that has passed for certain, in milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// What accounts were told of each other's networks.
    pub disclosures: &'a Disclosures,
    /// The authenticated identity.
    pub actor: &'a Actor,
    /// Limits and periods.
    pub limits: &'a Limits,
    /// Makes up the ends of ids, and what VNIs are drawn from: 10 of `[a-z0-9]`, which nobody can foresee.
    pub random: &'a mut dyn FnMut() -> String,
}

impl Context<'_> {
    /// An id that is not taken.
    fn new_id<T: std::str::FromStr>(&mut self, prefix: &str, taken: impl Fn(&T) -> bool) -> T {
        loop {
            let id = format!("{prefix}-{}", (self.random)()).parse().ok();
            if let Some(id) = id.filter(|id| !taken(id)) {
                return id;
            }
        }
    }
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The difference that a document made.
    Applied(Vec<inventory::Difference>),
    /// What was made, or changed.
    Made(Made),
    /// It was done, or had been done before.
    Done,
}

/// What a request is judged with besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The time.
    pub now: Now,
    /// Limits and periods.
    pub limits: &'a Limits,
    /// What accounts were told of each other's networks.
    pub disclosures: &'a Disclosures,
}

/// Carries a request out on a tx. After a refusal the tx is to be undone.
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
    // Before anything is judged, so that nothing depends on when somebody last looked at the clock (rule L3).
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
        // What changes nothing may be asked again: a client that sends the same twice within a second gets the same answer.
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
