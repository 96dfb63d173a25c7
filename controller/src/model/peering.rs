//! Rules of peerings, numbered as in the product's specification.

use super::{
    Code, Context, Draft, Refusal,
    record::{Peering, PeeringState, Side, Vpc},
    state::{Change, State},
};
use cps_peering_config::{
    id::{PeeringId, VpcId},
    net::overlap,
};
use ipnet::IpNet;

/// The longest name, in characters.
pub const MAX_NAME: usize = 32;

/// A wish to peer two VPCs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The peering's name.
    pub name: String,
    /// The initiator's VPC.
    pub vpc: VpcId,
    /// The receiver's VPC.
    pub peer_vpc: VpcId,
}

/// Makes a peering (rules L1, L2, L6, L7, L8).
pub fn create(draft: &mut Draft<'_>, wish: &Create, context: &mut Context<'_>) -> Result<PeeringId, Refusal> {
    let (initiator, receiver) = check(draft.state, wish)?;
    let (initiator, receiver) = (initiator.clone(), receiver.clone());
    let mut id = (context.new_id)();
    while draft.state.peerings().contains_key(&id) {
        id = (context.new_id)();
    }
    let mut side = |vpc: &Vpc| Side {
        vpc: vpc.id.clone(),
        account: vpc.account.clone(),
        region: vpc.region.clone(),
        vni: draft.allocate_vni(),
        cidrs: vpc.cidrs.clone(),
    };
    let peering = Peering {
        id: id.clone(),
        name: wish.name.clone(),
        initiator: side(&initiator),
        receiver: side(&receiver),
        state: PeeringState::Provisioning,
        created_ms: context.now_ms,
        activated_ms: None,
        since: draft.state.meta().number + 1,
    };
    draft.change(Change::Peering(id.clone(), Some(peering)));
    Ok(id)
}

fn check<'a>(state: &'a State, wish: &Create) -> Result<(&'a Vpc, &'a Vpc), Refusal> {
    let length = wish.name.chars().count();
    if !(1..=MAX_NAME).contains(&length) || wish.name.chars().any(char::is_control) {
        let rule = format!("{:?} is not a legal name: expected 1 to {MAX_NAME} printable characters", wish.name);
        return Err(Refusal::one(Code::InvalidArgument, "name", rule, "InvalidName"));
    }
    let find = |entry: &str, id: &VpcId| {
        let missing = || Refusal::one(Code::NotFound, entry, format!("there is no VPC {id}"), "VpcNotFound");
        state.vpcs().get(id).ok_or_else(missing)
    };
    let (vpc, peer) = (find("vpc", &wish.vpc)?, find("peerVpc", &wish.peer_vpc)?);
    if vpc.id == peer.id {
        let rule = format!("{} cannot be peered with itself", vpc.id);
        return Err(Refusal::one(Code::InvalidArgument, "peerVpc", rule, "VpcPeerSelf"));
    }
    if vpc.account != peer.account {
        let rule = format!(
            "{} belongs to account {} and {} to {}: only VPCs of one account can be peered",
            vpc.id, vpc.account, peer.id, peer.account
        );
        return Err(Refusal::one(Code::FailedPrecondition, "peerVpc", rule, "VpcPeerCrossAccount"));
    }
    let live = |peering: &&Peering| peering.forwards();
    if let Some(other) = state.peerings_of(&vpc.id).filter(live).find(|other| joins(other, &peer.id)) {
        let rule = format!("{} and {} are peered already, by {} ({})", vpc.id, peer.id, other.id, other.name);
        return Err(Refusal::one(Code::AlreadyExists, "peerVpc", rule, "VpcPeerAlreadyExist"));
    }
    let same_name = |other: &&Peering| {
        other.name == wish.name && other.initiator.account == vpc.account && other.initiator.region == vpc.region
    };
    if let Some(other) = state.peerings().values().filter(live).find(same_name) {
        let rule = format!(
            "the name {:?} is that of {} in account {} and region {}",
            wish.name, other.id, vpc.account, vpc.region
        );
        return Err(Refusal::one(Code::AlreadyExists, "name", rule, "VpcPeerNameExist"));
    }
    if let Some((own, others)) = conflict(&vpc.cidrs, &peer.cidrs) {
        let rule = format!("CIDR {others} of {} overlaps {own} of {}", peer.id, vpc.id);
        return Err(Refusal::one(Code::FailedPrecondition, "peerVpc", rule, "VpcPeerCidrConflict"));
    }
    no_overlap_among_peers(state, vpc, peer, None)?;
    no_overlap_among_peers(state, peer, vpc, None)?;
    Ok((vpc, peer))
}

fn joins(peering: &Peering, vpc: &VpcId) -> bool {
    peering.sides().iter().any(|side| side.vpc == *vpc)
}

/// The first two prefixes that share an address.
fn conflict<'a>(own: &'a [IpNet], others: &'a [IpNet]) -> Option<(&'a IpNet, &'a IpNet)> {
    own.iter().find_map(|a| others.iter().find(|b| overlap(a, b)).map(|b| (a, b)))
}

/// L7: a VPC has one routing table, so its peers may not overlap each other. Draining peerings count: some host may
/// still have them.
fn no_overlap_among_peers(state: &State, vpc: &Vpc, peer: &Vpc, except: Option<&PeeringId>) -> Result<(), Refusal> {
    for other in state.peerings_of(&vpc.id).filter(|other| Some(&other.id) != except) {
        for (_, sibling) in other.views().into_iter().filter(|(own, _)| own.vpc == vpc.id) {
            // The same pair again: what drains is replaced, and its prefixes are the same.
            if sibling.vpc == peer.id {
                continue;
            }
            if let Some((new, old)) = conflict(&peer.cidrs, &sibling.cidrs) {
                let rule = format!(
                    "CIDR {new} of {} overlaps {old} of {}, which is peered with {} by {} ({})",
                    peer.id, sibling.vpc, vpc.id, other.id, other.name
                );
                return Err(Refusal::one(Code::FailedPrecondition, "peerVpc", rule, "VpcPeerCidrConflict"));
            }
        }
    }
    Ok(())
}

/// L10: after a VPC's CIDRs changed, its live peerings must still be legal. Their copies of the CIDRs follow.
pub fn cidrs_changed(draft: &mut Draft<'_>, vpc: &Vpc) -> Result<(), Refusal> {
    let live: Vec<Peering> = draft.state.peerings_of(&vpc.id).filter(|peering| peering.forwards()).cloned().collect();
    for mut peering in live {
        for (own, peer) in peering.views().into_iter().filter(|(own, _)| own.vpc == vpc.id) {
            if let Some((new, old)) = conflict(&vpc.cidrs, &peer.cidrs) {
                let rule = format!(
                    "CIDR {new} of {} overlaps {old} of {}, with which it is peered by {} ({})",
                    own.vpc, peer.vpc, peering.id, peering.name
                );
                return Err(Refusal::one(Code::FailedPrecondition, "cidrs", rule, "VpcPeerCidrConflict"));
            }
            if let Some(peer) = draft.state.vpcs().get(&peer.vpc) {
                no_overlap_among_peers(draft.state, peer, vpc, Some(&peering.id))?;
            }
        }
        for side in [&mut peering.initiator, &mut peering.receiver] {
            if side.vpc == vpc.id {
                side.cidrs.clone_from(&vpc.cidrs);
            }
        }
        draft.change(Change::Peering(peering.id.clone(), Some(peering)));
    }
    Ok(())
}

/// Ends a peering (L5). It drains until all hosts that had it have confirmed. Ending it again changes nothing.
pub fn delete(draft: &mut Draft<'_>, id: &PeeringId) -> Result<(), Refusal> {
    let Some(peering) = draft.state.peerings().get(id) else {
        let rule = format!("there is no peering {id}");
        return Err(Refusal::one(Code::NotFound, "vpcPeeringId", rule, "VpcPeerNotFound"));
    };
    if !peering.forwards() {
        return Ok(());
    }
    let hosts: Vec<_> = draft.state.hosts_concerned(peering).into_iter().collect();
    let since = draft.state.meta().number + 1;
    let draining = Peering { state: PeeringState::Draining { hosts }, since, ..peering.clone() };
    draft.change(Change::Peering(id.clone(), Some(draining)));
    Ok(())
}

/// A peering that all hosts have.
pub fn activate(draft: &mut Draft<'_>, id: &PeeringId, now_ms: u64) {
    let Some(peering) = draft.state.peerings().get(id) else { return };
    if peering.state == PeeringState::Provisioning {
        let active = Peering { state: PeeringState::Active, activated_ms: Some(now_ms), ..peering.clone() };
        draft.change(Change::Peering(id.clone(), Some(active)));
    }
}

/// A peering that no host has any more.
pub fn drained(draft: &mut Draft<'_>, id: &PeeringId) {
    if draft.state.peerings().get(id).is_some_and(|peering| !peering.forwards()) {
        draft.change(Change::Peering(id.clone(), None));
    }
}
