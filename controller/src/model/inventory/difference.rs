//! The changes that a document makes, and which of them need approval.

use super::Approval;
use crate::model::{Code, CommandError, Limits, record::Peering, state::State};
use cps_peering_config::id::{HostId, VpcId};
use serde::Serialize;
use serde_json::Value;

/// One change of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `region`, `account`, `host`, `vpc`, `port` or `peering`.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// What happened to it.
    pub action: Action,
    /// The changed fields, if it existed before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// Whether traffic within a VPC, or to its peers, stops, at least for a while.
    #[serde(rename = "stopsTraffic", skip_serializing_if = "std::ops::Not::not")]
    pub stops_traffic: bool,
}

/// How many entries need approval; none if no approval is needed: no traffic stops, and no more hosts are removed than
/// the limits allow. `before` is the state without the changes.
pub fn needs_approval(before: &State, differences: &[Difference], limits: &Limits) -> Option<usize> {
    let hosts = differences.iter().filter(|it| it.action == Action::Delete && it.kind == "host").count();
    let there = before.hosts().values().filter(|host| !host.dead).count();
    let many = hosts * 100 > there * limits.unconfirmed_host_removals_percent as usize;
    (many || stops_traffic(differences)).then(|| lost(differences))
}

/// How many entries are removed or stop traffic.
fn lost(differences: &[Difference]) -> usize {
    differences.iter().filter(|it| it.action == Action::Delete || it.stops_traffic).count()
}

fn stops_traffic(differences: &[Difference]) -> bool {
    differences.iter().any(|it| it.stops_traffic)
}

/// The same if an operator has named the host to remove: only traffic that stops needs approval.
pub fn host_needs_approval(differences: &[Difference]) -> Option<usize> {
    stops_traffic(differences).then(|| lost(differences))
}

/// Whether packets pass through a VPC: between its ports, or between it and its peers.
pub(in crate::model) fn carries(state: &State, vpc: &VpcId) -> bool {
    state.ports_of(vpc).nth(1).is_some() || state.peerings_of(vpc).any(Peering::forwards)
}

/// Whether packets pass between a host and others over the underlay.
pub(in crate::model) fn carries_between_hosts(state: &State, host: &HostId) -> bool {
    let elsewhere = |vpc: &VpcId| state.ports_of(vpc).any(|port| port.key.host != *host);
    state.ports_on(host).any(|port| {
        let peerings = state.peerings_of(&port.vpc).filter(|peering| peering.forwards());
        elsewhere(&port.vpc) || peerings.flat_map(Peering::sides).any(|side| elsewhere(&side.vpc))
    })
}

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
}

impl Action {
    /// Its name for users.
    pub fn word(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        }
    }
}

/// A changed field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name.
    pub field: String,
    /// The previous value.
    pub from: Value,
    /// The new value.
    pub to: Value,
}

/// Fields of a record that people set, and that differ.
pub(super) fn changed_fields(old: &impl Serialize, new: &impl Serialize) -> Vec<Field> {
    let fields = |record: serde_json::Result<Value>| match record {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(serde_json::to_value(old)), fields(serde_json::to_value(new)));
    let differs = |(field, to): (String, Value)| {
        let from = old.get(&field).cloned().unwrap_or(Value::Null);
        (from != to).then_some(Field { field, from, to })
    };
    new.into_iter().filter_map(differs).collect()
}

/// Refuses what takes away more than was agreed to. `needed` is the number to agree to; none where nobody has to.
pub(in crate::model) fn approved(
    approval: Approval,
    needed: Option<usize>,
    differences: &[Difference],
) -> Result<(), CommandError> {
    const SHOWN: usize = 5;
    let Approval::Given(given) = approval else { return Ok(()) };
    let Some(lost) = needed.filter(|lost| given != Some(*lost)) else { return Ok(()) };
    let some = differences.iter().filter(|it| it.stops_traffic || it.action == Action::Delete);
    let some: Vec<String> = some.take(SHOWN).map(|it| format!("{} {}", it.kind, it.id)).collect();
    let more = if lost > SHOWN { ", …" } else { "" };
    let rule = format!(
        "{lost} entries would be removed or stop traffic ({}{more}): look at them in a dry run, and confirm their number, {lost}",
        some.join(", ")
    );
    Err(CommandError::one(Code::Aborted, "confirm", rule, "ConfirmationRequired"))
}
