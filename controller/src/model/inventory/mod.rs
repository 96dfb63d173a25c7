//! Applies inventories of regions, hosts, VPCs, ports and peerings, all or nothing.
//!
//! | module | content |
//! |---|---|
//! | [`difference`] | the changes, and which of them need approval |
//! | [`infrastructure`] | regions, accounts, hosts |
//! | [`networks`] | VPCs and ports |
//! | [`peerings`] | peerings |
//! | [`prune`] | removing what the document no longer contains |

mod difference;
mod infrastructure;
mod networks;
mod peerings;
mod prune;

pub use difference::{Action, Difference, Field, host_needs_approval, needs_approval};
pub(super) use difference::{approved, carries};

use super::{
    Code, CommandError, Context, FieldViolation, Transaction,
    record::{Manager, PortKey},
    state::Change,
};
use cps_peering_config::{
    SeenRevision,
    id::VpcId,
    inventory::{self, Inventory},
    text,
};
use difference::changed_fields;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The longest name of an inventory, in characters.
const MAX_NAME: usize = 64;

/// A document to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Apply {
    /// The document.
    pub inventory: Inventory,
    /// Whether what the document no longer contains, and an inventory of the same name created, is removed.
    pub prune: bool,
    /// Whether the losses were approved.
    pub approval: Approval,
    /// Whether entries of the document that other inventories and operators' commands created become this inventory's.
    /// Those that accounts created stay theirs.
    pub adopt: bool,
    /// It is applied only if this is still the last commit.
    pub if_revision: Option<SeenRevision>,
}

/// The approval of losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Approval {
    /// Not needed: nothing is kept of it, or there is nothing to lose.
    NotNeeded,
    /// How many entries may be removed or stop traffic, if given.
    Given(Option<usize>),
}

impl Apply {
    /// A document without pruning.
    pub fn of(inventory: Inventory) -> Self {
        Self { inventory, prune: false, adopt: false, approval: Approval::NotNeeded, if_revision: None }
    }

    /// The same with pruning.
    #[must_use]
    pub fn pruning(self) -> Self {
        Self { prune: true, ..self }
    }
}

/// Applies a document.
pub fn apply(
    tx: &mut Transaction<'_>,
    apply: &Apply,
    context: &mut Context<'_>,
) -> Result<Vec<Difference>, CommandError> {
    let now = tx.state.meta().revision();
    if let Some(expected) = apply.if_revision.filter(|seen| !seen.is(now)) {
        let rule = format!("revision {expected} is not that of now, which is {now}: look at what has changed");
        return Err(CommandError::one(Code::Aborted, "ifRevision", rule, "RevisionMismatch"));
    }
    let name = apply.inventory.name();
    if let Err(error) = text::check_name(name, MAX_NAME) {
        return Err(CommandError::one(Code::InvalidArgument, "name", error.to_string(), "InvalidName"));
    }
    let mut applier = Applier {
        tx,
        document: &apply.inventory,
        adopt: apply.adopt,
        context,
        differences: Vec::new(),
        violations: Vec::new(),
        code: None,
    };
    applier.duplicates();
    if apply.prune {
        applier.prune_peerings();
        applier.prune_ports();
    }
    applier.regions();
    applier.accounts();
    applier.hosts();
    applier.vpcs();
    applier.ports();
    applier.ports_fit();
    if apply.prune {
        applier.prune_vpcs();
        applier.prune_hosts();
        applier.prune_regions();
    }
    // Rules of peerings concern VPCs; if those are invalid, they would only repeat the errors.
    if applier.violations.is_empty() {
        applier.peerings();
    }
    let Applier { differences, violations, code, .. } = applier;
    if violations.is_empty() {
        approved(apply.approval, needs_approval(tx.before(), &differences, context.limits), &differences)?;
        Ok(differences)
    } else {
        Err(CommandError { code: code.unwrap_or(Code::InvalidArgument), violations, tells: BTreeSet::new() })
    }
}

struct Applier<'a, 'b, 'c> {
    tx: &'a mut Transaction<'b>,
    document: &'a Inventory,
    adopt: bool,
    context: &'a mut Context<'c>,
    differences: Vec<Difference>,
    violations: Vec<FieldViolation>,
    code: Option<Code>,
}

fn entry(list: &str, place: usize, id: impl std::fmt::Display) -> String {
    format!("{list}[{place}] ({id})")
}

/// Two VPCs in canonical order.
fn pair(a: &VpcId, b: &VpcId) -> (VpcId, VpcId) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

fn port_key(port: &inventory::Port) -> PortKey {
    PortKey { host: port.host.clone(), interface: port.interface }
}

impl Applier<'_, '_, '_> {
    fn fault(&mut self, entry: impl Into<String>, rule: impl Into<String>) {
        self.violations.push(FieldViolation { entry: entry.into(), rule: rule.into(), reason: "" });
    }

    fn note(&mut self, kind: &'static str, id: &impl ToString, action: Action, fields: Vec<Field>) {
        self.differences.push(Difference { kind, id: id.to_string(), action, fields, stops_traffic: false });
    }

    /// Marks the last change as one that stops traffic.
    fn stops(&mut self) {
        if let Some(last) = self.differences.last_mut() {
            last.stops_traffic = true;
        }
    }

    /// Whether packets pass through a VPC, by the state before.
    fn carries(&self, vpc: &VpcId) -> bool {
        carries(self.tx.before(), vpc)
    }

    /// The manager of an entry from now on. What others created stays theirs, unless it is adopted.
    fn manager(&self, now: Option<&Manager>) -> Manager {
        match now {
            Some(theirs @ Manager::Account) => theirs.clone(),
            Some(theirs @ (Manager::Operator | Manager::Inventory(_))) if !self.adopt => theirs.clone(),
            Some(Manager::Unknown | Manager::Operator | Manager::Inventory(_)) | None => {
                Manager::Inventory(self.document.name().to_owned())
            }
        }
    }

    /// Whether an entry is this inventory's from now on: neither an account nor an operator created it.
    fn manages(&self, now: &Manager) -> bool {
        self.manager(Some(now)) == Manager::Inventory(self.document.name().to_owned())
    }

    /// Whether this inventory created something.
    fn made(&self, manager: &Manager) -> bool {
        matches!(manager, Manager::Inventory(name) if name == self.document.name())
    }

    /// The same for what only inventories create.
    fn made_alone(&self, manager: &Manager) -> bool {
        self.made(manager) || (*manager == Manager::Unknown && self.document.name() == Inventory::DEFAULT_NAME)
    }

    /// Sets a record, unless it is equal.
    fn set<T: Serialize + PartialEq>(
        &mut self,
        kind: &'static str,
        id: &impl ToString,
        old: Option<T>,
        new: T,
        change: impl FnOnce(T) -> Change,
    ) {
        match old {
            Some(old) if old == new => return,
            Some(old) => self.note(kind, id, Action::Update, changed_fields(&old, &new)),
            None => self.note(kind, id, Action::Create, Vec::new()),
        }
        self.tx.change(change(new));
    }

    fn duplicates(&mut self) {
        let document = self.document;
        let mut seen = BTreeMap::new();
        let mut twice = |list: &str, place: usize, id: String| {
            let first = seen.insert((list.to_owned(), id.clone()), place)?;
            Some((entry(list, place, &id), format!("{id} is also {list}[{first}]")))
        };
        let mut found = Vec::new();
        found.extend(document.regions.iter().enumerate().filter_map(|(n, it)| twice("regions", n, it.id.to_string())));
        found.extend(document.hosts.iter().enumerate().filter_map(|(n, it)| twice("hosts", n, it.id.to_string())));
        found
            .extend(document.accounts.iter().enumerate().filter_map(|(n, it)| twice("accounts", n, it.id.to_string())));
        found.extend(document.vpcs.iter().enumerate().filter_map(|(n, it)| twice("vpcs", n, it.id.to_string())));
        for (entry, rule) in found {
            self.fault(entry, rule);
        }
        let mut ports: BTreeMap<PortKey, (usize, &VpcId)> = BTreeMap::new();
        for (place, port) in document.ports.iter().enumerate() {
            let key = port_key(port);
            if let Some((first, vpc)) = ports.insert(key.clone(), (place, &port.vpc)) {
                let rule = if *vpc == port.vpc {
                    format!("{key} is also ports[{first}]")
                } else {
                    format!(
                        "{key} is a port of {} and, by ports[{first}], of {vpc}: a port belongs to one VPC",
                        port.vpc
                    )
                };
                self.fault(entry("ports", place, &key), rule);
            }
        }
    }

    /// Reports another rule's refusal with the entry that it is about.
    fn take(&mut self, entry: &str, refusal: CommandError) {
        self.code = Some(refusal.code);
        for fault in refusal.violations {
            self.violations.push(FieldViolation { entry: entry.to_owned(), ..fault });
        }
    }
}
