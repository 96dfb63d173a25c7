//! Peerings of parts of VPCs (rules C9 and L13): what each side exports of its own VPC, and what it imports of the other.
//!
//! An empty list means everything, including CIDRs that are added later. Any other list is complete: it names everything,
//! in both families, and nothing is added to it automatically. Parts of it outside the VPC's CIDRs, because one was removed,
//! have no effect until it is added again.

use super::{
    Actor, Code, CommandError, Context, Transaction,
    locate::{Locator, find, wrong_state},
    metering::put,
    overlap::{Pair, Stage, may_be_peered},
    record::{Peering, PeeringState, Role, Side},
    state::State,
};
use cps_peering_config::{
    id::{PeeringId, VpcId},
    net::{is_canonical, within},
    prefix_set::{difference, first_overlap},
};
use ipnet::IpNet;
use serde::Serialize;

/// The most prefixes of one list.
pub const MAX_PREFIXES: usize = 64;

/// The lists of one side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PrefixLists {
    /// What it exports of its own VPC; empty for all.
    #[serde(rename = "export", skip_serializing_if = "Vec::is_empty")]
    pub export: Vec<IpNet>,
    /// What it imports of the other VPC; empty for all.
    #[serde(rename = "import", skip_serializing_if = "Vec::is_empty")]
    pub import: Vec<IpNet>,
}

/// New lists for a side; none for a list that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetPrefixes {
    /// The peering.
    pub which: Locator,
    /// The VPC of the side, if both are the caller's; otherwise the caller's own, or the initiator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<VpcId>,
    /// What it exports; empty for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<Vec<IpNet>>,
    /// What it imports; empty for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<Vec<IpNet>>,
}

const EXPORT: &str = "exportPrefixes";
const IMPORT: &str = "importPrefixes";
const REASON: &str = "InvalidPrefix";

fn check_list(entry: &str, list: &[IpNet]) -> Result<(), CommandError> {
    if list.len() > MAX_PREFIXES {
        let rule = format!("{} prefixes: at most {MAX_PREFIXES} are allowed", list.len());
        return CommandError::invalid(entry, rule, REASON);
    }
    if let Some((place, prefix)) = list.iter().enumerate().find(|(_, prefix)| !is_canonical(prefix)) {
        let rule = format!("{prefix} has bits set behind its length; it would be {}", prefix.trunc());
        return CommandError::invalid(&format!("{entry}[{place}]"), rule, REASON);
    }
    match first_overlap(list) {
        Some((wider, narrower)) if wider == narrower => {
            CommandError::invalid(entry, format!("{wider} is there twice"), REASON)
        }
        Some((wider, narrower)) => {
            CommandError::invalid(entry, format!("{narrower} lies within {wider}: leave one out"), REASON)
        }
        None => Ok(()),
    }
}

impl PrefixLists {
    /// Checks that need no state.
    pub(super) fn check(&self) -> Result<(), CommandError> {
        check_list(EXPORT, &self.export)?;
        check_list(IMPORT, &self.import)
    }

    /// Whether both mean everything.
    pub fn is_default(&self) -> bool {
        self.export.is_empty() && self.import.is_empty()
    }
}

impl SetPrefixes {
    pub(super) fn check(&self) -> Result<(), CommandError> {
        check_list(EXPORT, self.export.as_deref().unwrap_or_default())?;
        check_list(IMPORT, self.import.as_deref().unwrap_or_default())
    }
}

/// Sets a side's lists; none for one that stays. Exported prefixes must be its own.
///
/// # Errors
///
/// An exported prefix is not within its VPC.
pub fn give(side: &mut Side, export: Option<&[IpNet]>, import: Option<&[IpNet]>) -> Result<(), CommandError> {
    let sorted = |list: &[IpNet]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    // Previously exported prefixes stay valid, also if their CIDR was removed since.
    if let Some(export) = export.map(sorted).filter(|export| *export != side.export_prefixes) {
        let outside = |prefix: &&IpNet| !side.cidrs.iter().any(|cidr| within(prefix, cidr));
        if let Some(prefix) = export.iter().find(outside) {
            let rule = format!("{prefix} is in none of the CIDRs of {}, and only these can be shown", side.vpc);
            return CommandError::invalid(EXPORT, rule, REASON);
        }
        side.export_prefixes = export;
    }
    if let Some(import) = import {
        side.import_prefixes = sorted(import);
    }
    Ok(())
}

/// The role of the side that a command is about. In a peering within one account either can be.
fn role_of(peering: &Peering, seen: Option<Role>, vpc: Option<&VpcId>, actor: &Actor) -> Result<Role, CommandError> {
    let own = seen.unwrap_or(Role::Initiator);
    let Some(vpc) = vpc else { return Ok(own) };
    let is_own = |role: &Role| {
        let side = peering.view(*role).0;
        side.vpc == *vpc && actor.is(&side.account)
    };
    [Role::Initiator, Role::Receiver].into_iter().find(is_own).ok_or_else(|| {
        let rule = format!("{vpc} is no VPC of yours in {}", peering.id);
        CommandError::one(Code::Forbidden, "vpcId", rule, "VpcPeerPurviewError")
    })
}

/// The peering before and after a change; nothing is compared with other networks.
pub fn outlook(state: &State, set: &SetPrefixes, actor: &Actor) -> Result<(Peering, Peering), CommandError> {
    let (before, seen) = find(state, &set.which, actor)?;
    let role = role_of(&before, seen, set.vpc.as_ref(), actor)?;
    // Before acceptance, the receiver can only set lists by accepting.
    let early = before.state == PeeringState::Pending && role == Role::Receiver;
    if early || !(before.forwards() || before.state == PeeringState::Pending) {
        return wrong_state(&before, "have the prefixes of that side changed");
    }
    let mut after = before.clone();
    give(after.side_mut(role), set.export.as_deref(), set.import.as_deref())?;
    Ok((before, after))
}

/// Changes the lists of a side (rule L13). What becomes reachable must not overlap on either side; exporting or importing less
/// is never refused.
pub fn set(tx: &mut Transaction<'_>, set: &SetPrefixes, context: &mut Context<'_>) -> Result<PeeringId, CommandError> {
    set.check()?;
    let (before, after) = outlook(tx.state, set, context.actor)?;
    become_of(tx, &before.id, [after.initiator, after.receiver], context)?;
    Ok(set.which.id.clone())
}

/// Replaces the sides' lists of a peering, if that is allowed.
pub(super) fn become_of(
    tx: &mut Transaction<'_>,
    id: &PeeringId,
    [initiator, receiver]: [Side; 2],
    context: &mut Context<'_>,
) -> Result<(), CommandError> {
    let Some(before) = tx.state.peerings().get(id).cloned() else { return Ok(()) };
    let after = Peering { initiator, receiver, ..before.clone() };
    if before == after {
        return Ok(());
    }
    if !(before.forwards() || before.state == PeeringState::Pending) {
        return wrong_state(&before, "have its prefixes changed");
    }
    // By the lists alone, not by their effect: that would disclose what the other side has.
    if grow(&before, &after) {
        let stage = if after.state == PeeringState::Pending { Stage::Request } else { Stage::Install };
        let (initiator, receiver) = (&after.initiator, &after.receiver);
        may_be_peered(tx.state, &Pair { initiator, receiver, except: Some(&after.id) }, stage, context)?;
    }
    put(tx, after, context.now_ms);
    Ok(())
}

/// Whether a list names anything new. An empty one names everything.
fn grow(before: &Peering, after: &Peering) -> bool {
    let lists = |peering: &Peering| {
        peering.sides().map(|side| [side.export_prefixes.clone(), side.import_prefixes.clone()]).into_iter().flatten()
    };
    lists(before)
        .zip(lists(after))
        .any(|(before, after)| !before.is_empty() && (after.is_empty() || !difference(&after, &before).is_empty()))
}

/// Whether anything that was reachable no longer is.
pub(super) fn narrows(before: &Peering, after: &Peering) -> bool {
    [Role::Initiator, Role::Receiver].into_iter().any(|role| {
        let of = |peering: &Peering| {
            let (own, peer) = peering.view(role);
            own.effective(peer).into_owned()
        };
        !difference(&of(before), &of(after)).is_empty()
    })
}
