//! Which address spaces may be joined (rules L6, L7 and L10).

use super::{
    Actor, Code, CommandError, Transaction,
    record::{Peering, Vpc},
    state::{Change, State},
};
use cps_peering_config::{id::PeeringId, net::overlap};
use ipnet::IpNet;

/// The first two prefixes that share an address.
fn conflict<'a>(own: &'a [IpNet], others: &'a [IpNet]) -> Option<(&'a IpNet, &'a IpNet)> {
    own.iter().find_map(|a| others.iter().find(|b| overlap(a, b)).map(|b| (a, b)))
}

fn refuse<T>(entry: &str, rule: String) -> Result<T, CommandError> {
    Err(CommandError::one(Code::FailedPrecondition, entry, rule, "VpcPeerCidrConflict"))
}

/// Whether two VPCs may be peered: they share no address (L6), and neither has a peer that shares one with the other
/// (L7). `except` is the peering that is about to join them.
pub(super) fn may_be_peered(
    state: &State,
    vpc: &Vpc,
    peer: &Vpc,
    except: Option<&PeeringId>,
    actor: &Actor,
) -> Result<(), CommandError> {
    if let Some((own, others)) = conflict(&vpc.cidrs, &peer.cidrs) {
        return refuse("remoteVpcId", format!("CIDR {others} of {} overlaps {own} of {}", peer.id, vpc.id));
    }
    among_peers(state, vpc, peer, except, actor)?;
    among_peers(state, peer, vpc, except, actor)
}

/// L7: a VPC has one routing table, so its peers may not overlap each other. Draining peerings count: some host may
/// still have them.
fn among_peers(
    state: &State,
    vpc: &Vpc,
    peer: &Vpc,
    except: Option<&PeeringId>,
    actor: &Actor,
) -> Result<(), CommandError> {
    for other in state.peerings_of(&vpc.id).filter(|other| Some(&other.id) != except && other.counts_for(&vpc.id)) {
        for (_, sibling) in other.views().into_iter().filter(|(own, _)| own.vpc == vpc.id) {
            // The same pair again: what drains is replaced, and its prefixes are the same.
            if sibling.vpc == peer.id {
                continue;
            }
            let Some((new, old)) = conflict(&peer.cidrs, &sibling.cidrs) else { continue };
            // Nobody learns with whom a stranger is peered (L11).
            let rule = if actor.is(&vpc.account) {
                format!(
                    "CIDR {new} of {} overlaps {old} of {}, which is peered with {} by {} ({})",
                    peer.id, sibling.vpc, vpc.id, other.id, other.name
                )
            } else {
                format!("CIDR {new} of {} overlaps that of another peer of {}", peer.id, vpc.id)
            };
            return refuse("remoteVpcId", rule);
        }
    }
    Ok(())
}

/// L10: after a VPC's CIDRs changed, its peerings must still be legal, those that drain too. The copies that live ones
/// have of the CIDRs follow.
pub(super) fn cidrs_changed(tx: &mut Transaction<'_>, vpc: &Vpc, actor: &Actor) -> Result<(), CommandError> {
    for peering in tx.state.peerings_of(&vpc.id).filter(|peering| peering.counts_for(&vpc.id)) {
        still_legal(tx.state, peering, vpc, actor)?;
    }
    copies_follow(tx, vpc);
    Ok(())
}

/// The copies that live peerings have of a VPC's CIDRs become what the VPC has.
pub(super) fn copies_follow(tx: &mut Transaction<'_>, vpc: &Vpc) {
    let live: Vec<Peering> = tx.state.peerings_of(&vpc.id).filter(|peering| peering.is_live()).cloned().collect();
    for mut peering in live {
        for side in [&mut peering.initiator, &mut peering.receiver] {
            if side.vpc == vpc.id {
                side.cidrs.clone_from(&vpc.cidrs);
            }
        }
        tx.change(Change::Peering(peering.id.clone(), Some(peering)));
    }
}

fn still_legal(state: &State, peering: &Peering, vpc: &Vpc, actor: &Actor) -> Result<(), CommandError> {
    for (own, peer) in peering.views().into_iter().filter(|(own, _)| own.vpc == vpc.id) {
        if let Some((new, old)) = conflict(&vpc.cidrs, &peer.cidrs) {
            let rule = format!(
                "CIDR {new} of {} overlaps {old} of {}, with which it is peered by {} ({})",
                own.vpc, peer.vpc, peering.id, peering.name
            );
            return refuse("cidrs", rule);
        }
        if let Some(peer) = state.vpcs().get(&peer.vpc)
            && peering.counts_for(&peer.id)
        {
            among_peers(state, peer, vpc, Some(&peering.id), actor)?;
        }
    }
    Ok(())
}
