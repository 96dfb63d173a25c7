//! The rules. Pure: state, command, time and ids go in; a refusal or a list of changed records comes out.

pub mod inventory;
pub mod peering;
pub mod record;
pub mod state;

use cps_peering_config::{
    id::{HostId, PeeringId},
    net::Vni,
};
use serde::Serialize;
use state::{Change, Meta, State};
use std::fmt;
use thiserror::Error;

/// Why a command was refused, as the HTTP interfaces name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A value breaks a rule of its own.
    InvalidArgument,
    /// The state does not allow it.
    FailedPrecondition,
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
}

/// One thing that is wrong with a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where: a field, or an entry of a document such as `ports[3] (h1/eth1)`.
    pub entry: String,
    /// Which value breaks which rule.
    pub rule: String,
    /// A word for programs, for instance `VpcPeerCidrConflict`; empty where there is none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.rule)
    }
}

/// A command that was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", .faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusal {
    /// The kind of refusal.
    pub code: Code,
    /// Everything that is wrong; at least one.
    pub faults: Vec<Fault>,
}

impl Refusal {
    /// A refusal for one reason.
    pub fn one(code: Code, entry: impl Into<String>, rule: impl Into<String>, reason: &'static str) -> Self {
        Self { code, faults: vec![Fault { entry: entry.into(), rule: rule.into(), reason }] }
    }
}

/// A state that is being changed, and what was changed so far. Rules see the state as it has become.
pub struct Draft<'a> {
    /// The state, with the changes so far.
    pub state: &'a mut State,
    changes: Vec<Change>,
    undo: Vec<Change>,
}

impl<'a> Draft<'a> {
    /// Begins to change a state.
    pub fn new(state: &'a mut State) -> Self {
        Self { state, changes: Vec::new(), undo: Vec::new() }
    }

    /// Changes a record.
    pub fn change(&mut self, change: Change) {
        self.changes.push(change.clone());
        self.undo.push(self.state.apply(change));
    }

    /// What was changed, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Takes everything back.
    pub fn undo(self) {
        for change in self.undo.into_iter().rev() {
            self.state.apply(change);
        }
    }

    /// Looks at the state as it was before.
    pub fn with_undone<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        let undo: Vec<Change> = self.undo.iter().rev().cloned().collect();
        let redo: Vec<Change> = undo.into_iter().map(|change| self.state.apply(change)).collect();
        let seen = look(self);
        for change in redo.into_iter().rev() {
            self.state.apply(change);
        }
        seen
    }

    /// The next free VNI. Goes upwards and round, so that a freed one is not given away soon.
    fn allocate_vni(&mut self) -> Vni {
        let meta = self.state.meta();
        let mut vni = meta.next_vni;
        while self.state.is_taken(vni) {
            vni = vni.next_wrapping();
        }
        self.change(Change::Meta(Meta { next_vni: vni.next_wrapping(), ..meta }));
        vni
    }
}

/// What can be asked of the state.
#[derive(Debug, Clone)]
pub enum Command {
    /// Bring regions, hosts, VPCs, ports and peerings to what a document says.
    Apply(inventory::Apply),
    /// Peer two VPCs of one account.
    CreatePeering(peering::Create),
    /// End a peering.
    DeletePeering(PeeringId),
    /// All hosts have it, or had time enough.
    Activate(PeeringId),
    /// No host has it any more.
    Drained(PeeringId),
    /// A retiring host has nothing left.
    Forget(HostId),
}

/// What rules cannot know by themselves.
pub struct Context<'a> {
    /// The time, in milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// Makes up ids for peerings. An id that is taken is asked for again.
    pub new_id: &'a mut dyn FnMut() -> PeeringId,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The difference that a document made.
    Applied(Vec<inventory::Difference>),
    /// The peering that was made.
    Created(PeeringId),
    /// It was done, or had been done before.
    Done,
}

/// Carries a command out on a draft. After a refusal the draft is to be undone.
pub fn decide(draft: &mut Draft<'_>, command: &Command, context: &mut Context<'_>) -> Result<Outcome, Refusal> {
    match command {
        Command::Apply(apply) => inventory::apply(draft, apply, context).map(Outcome::Applied),
        Command::CreatePeering(create) => peering::create(draft, create, context).map(Outcome::Created),
        Command::DeletePeering(id) => peering::delete(draft, id).map(|()| Outcome::Done),
        Command::Activate(id) => {
            peering::activate(draft, id, context.now_ms);
            Ok(Outcome::Done)
        }
        Command::Drained(id) => {
            peering::drained(draft, id);
            Ok(Outcome::Done)
        }
        Command::Forget(id) => {
            if draft.state.hosts().get(id).is_some_and(|host| host.retiring) {
                draft.change(Change::Host(id.clone(), None));
            }
            Ok(Outcome::Done)
        }
    }
}
