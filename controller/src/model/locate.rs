//! The peering that a command is about, and the caller's role in it.

use super::{
    Actor, Code, CommandError,
    record::{End, Peering, PeeringState, Role, Side},
    state::State,
};
use cps_peering_config::id::{AccountId, PeeringId, RegionId};
use serde::Serialize;

/// The peering that a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Locator {
    /// The region of the caller's side; none for operators, who need not name it.
    pub region: Option<RegionId>,
    /// The peering.
    pub id: PeeringId,
}

/// The role of an account in a peering that it can see in a region. None for other accounts, and for one that has deleted or
/// rejected it. Between two VPCs of one account the region decides.
pub fn role(peering: &Peering, account: &AccountId, region: Option<&RegionId>) -> Option<Role> {
    let sees = |side: &Side| {
        side.account == *account && region.is_none_or(|region| side.region == *region) && peering.is_seen_from(side)
    };
    [(Role::Initiator, &peering.initiator), (Role::Receiver, &peering.receiver)]
        .into_iter()
        .find_map(|(role, side)| sees(side).then_some(role))
}

pub(super) fn missing(id: &PeeringId) -> CommandError {
    CommandError::one(Code::NotFound, "vpcPeeringId", format!("there is no peering {id}"), "VpcPeerNotFound")
}

/// Finds a peering that the caller can see. Operators see all that have not ended for both sides.
pub(super) fn find(state: &State, which: &Locator, actor: &Actor) -> Result<(Peering, Option<Role>), CommandError> {
    let peering = state.peerings().get(&which.id).ok_or_else(|| missing(&which.id))?;
    let Some(account) = actor.account() else { return Ok((peering.clone(), None)) };
    let role = role(peering, account, which.region.as_ref()).ok_or_else(|| missing(&which.id))?;
    Ok((peering.clone(), Some(role)))
}

/// All results of [`state_word`].
pub const STATE_WORDS: [&str; 8] =
    ["pending", "provisioning", "active", "suspended", "draining", "rejected", "expired", "peer_deleted"];

/// The name of a state for users.
pub fn state_word(state: &PeeringState) -> &'static str {
    match state {
        PeeringState::Pending => "pending",
        PeeringState::Provisioning => "provisioning",
        PeeringState::Active => "active",
        PeeringState::Suspended { .. } => "suspended",
        PeeringState::Draining { .. } => "draining",
        PeeringState::Ended { how: End::Rejected, .. } => "rejected",
        PeeringState::Ended { how: End::Expired, .. } => "expired",
        PeeringState::Ended { how: End::Deleted, .. } => "peer_deleted",
    }
}

pub(super) fn wrong_state<T>(peering: &Peering, what: &str) -> Result<T, CommandError> {
    let (rule, reason) = match &peering.state {
        PeeringState::Ended { how: End::Expired, .. } => {
            (format!("{} has expired and cannot {what}", peering.id), "VpcPeerExpired")
        }
        state => (format!("{} is {} and cannot {what}", peering.id, state_word(state)), "VpcPeerInvalidStateChange"),
    };
    Err(CommandError::one(Code::FailedPrecondition, "vpcPeeringId", rule, reason))
}
