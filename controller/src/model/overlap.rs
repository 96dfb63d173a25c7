//! Which address spaces can be connected (rules L6, L7 and L10), and what an account can learn about them (rule L11).
//!
//! An account that is told of an overlap learns one bit about a network that it does not own. So a refusal only names prefixes
//! of the account itself, records whose networks it discloses something about ([`CommandError::tells`]), and there is a budget of such
//! refusals per pair of accounts ([`Disclosures`](super::disclosure::Disclosures)).

use super::{
    Actor, Code, CommandError, Context, Transaction,
    record::{Peering, PeeringState, Role, Side, Vpc},
    state::{Change, State},
};
use cps_peering_config::{
    id::{AccountId, PeeringId},
    net::{overlap, within},
    prefix_set::intersection,
};
use ipnet::IpNet;

/// The first two prefixes that share an address.
fn conflict<'a>(own: &'a [IpNet], others: &'a [IpNet]) -> Option<(&'a IpNet, &'a IpNet)> {
    own.iter().find_map(|a| others.iter().find(|b| overlap(a, b)).map(|b| (a, b)))
}

fn refusal(entry: &str, rule: String) -> CommandError {
    CommandError::one(Code::FailedPrecondition, entry, rule, "VpcPeerCidrConflict")
}

/// Why two VPCs are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A request is created. The receiver's other peers are checked when it accepts: the initiator must not learn about them.
    Request,
    /// The peering is about to be installed.
    Install,
}

/// A peering that is checked: both sides with the current CIDRs of their VPCs, and the peering itself if it exists.
pub(super) struct Pair<'a> {
    pub(super) initiator: &'a Side,
    pub(super) receiver: &'a Side,
    pub(super) except: Option<&'a PeeringId>,
}

/// Checks that two VPCs can be peered: what either reaches of the other overlaps none of its own addresses (L6), and none of its peers
/// (L7). What a peering does not connect does not count (C9).
pub(super) fn may_be_peered(
    state: &State,
    pair: &Pair<'_>,
    stage: Stage,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let (actor, Pair { initiator: vpc, receiver: peer, except }) = (context.actor, pair);
    // Networks that the caller does not know already. A receiver knows the initiator's CIDRs, but not its other peers.
    let foreign = [vpc, peer].map(|it| &it.account).into_iter().filter(|account| !actor.is(account));
    for owner in foreign {
        context.disclosures.admit(actor, owner, context.now.ms)?;
    }
    let (shown, taken) = (vpc.effective(peer), peer.effective(vpc));
    if let Some((own, others)) = conflict(&shown, &peer.cidrs).or_else(|| conflict(&vpc.cidrs, &taken)) {
        return Err(
            if actor.is(&peer.account)
                && (actor.is(&vpc.account) || vpc.offered().iter().any(|shown| within(own, shown)))
            {
                // Its own side, or a request in which it sees what the initiator exports.
                refusal("remoteVpcId", format!("CIDR {others} of {} overlaps {own} of {}", peer.vpc, vpc.vpc))
            } else if actor.is(&peer.account) {
                let rule = format!("CIDR {others} of {} overlaps the network of {}", peer.vpc, vpc.vpc);
                refusal("remoteVpcId", rule).telling([&vpc.account])
            } else {
                let rule = format!("{} cannot be peered with {}: its network overlaps {own}", peer.vpc, vpc.vpc);
                refusal("remoteVpcId", rule).telling([&peer.account])
            },
        );
    }
    among_peers(state, vpc, (peer, &taken), *except, context)?;
    if stage == Stage::Install {
        among_peers(state, peer, (vpc, &shown), *except, context)?;
    }
    Ok(())
}

/// L7: a VPC has one routing table, so its peers must not overlap each other. Draining peerings count: some host may
/// still have them. `reached` is what is checked of the peer.
fn among_peers(
    state: &State,
    vpc: &Side,
    (peer, reached): (&Side, &[IpNet]),
    except: Option<&PeeringId>,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let actor = context.actor;
    for other in state.peerings_of(&vpc.vpc).filter(|other| Some(&other.id) != except && other.counts_for(&vpc.vpc)) {
        for (own, sibling) in other.views().into_iter().filter(|(own, _)| own.vpc == vpc.vpc) {
            // The same pair again: a draining peering is replaced, and its prefixes lead to the same VPC.
            if sibling.vpc == peer.vpc {
                continue;
            }
            // Before acceptance, the caller does not see the other side's CIDRs.
            if actor.is(&vpc.account) && !actor.is(&sibling.account) && other.state == PeeringState::Pending {
                context.disclosures.admit(actor, &sibling.account, context.now.ms)?;
            }
            if let Some((new, old)) = conflict(reached, &sibling.effective(own)) {
                return Err(between_peers((vpc, other), (peer, new), (sibling, old), actor));
            }
        }
    }
    Ok(())
}

/// The refusal if two peers of a VPC overlap. What the caller does not own is only named by its id, and only if the caller sees
/// the peering.
fn between_peers(
    (vpc, other): (&Side, &Peering),
    (peer, new): (&Side, &IpNet),
    (sibling, old): (&Side, &IpNet),
    actor: &Actor,
) -> CommandError {
    let whole = |cidr: &IpNet, id: &dyn std::fmt::Display, account: &AccountId| {
        if actor.is(account) { format!("CIDR {cidr} of {id}") } else { format!("the network of {id}") }
    };
    let new = whole(new, &peer.vpc, &peer.account);
    if !actor.is(&vpc.account) {
        // With whom another account is peered is not disclosed.
        let rule = format!("{new} overlaps that of another peer of {}", vpc.vpc);
        return refusal("remoteVpcId", rule).telling([&vpc.account]);
    }
    let old = whole(old, &sibling.vpc, &sibling.account);
    let rule = format!("{new} overlaps {old}, which is peered with {} by {} ({})", vpc.vpc, other.id, other.name);
    let hidden = (other.state == PeeringState::Pending).then_some(&sibling.account);
    let foreign = [Some(&peer.account), hidden].into_iter().flatten().filter(|account| !actor.is(account));
    refusal("remoteVpcId", rule).telling(foreign)
}

/// L10: CIDRs that were added to a VPC must be valid in its peerings, including draining ones. Earlier conflicts do not
/// count: they are checked at acceptance. The copies of the CIDRs in live peerings are updated.
pub(super) fn cidrs_changed(
    tx: &mut Transaction<'_>,
    vpc: &Vpc,
    added: &[IpNet],
    context: &Context<'_>,
) -> Result<(), CommandError> {
    for peering in tx.state.peerings_of(&vpc.id).filter(|peering| peering.counts_for(&vpc.id)) {
        still_legal(tx.state, peering, (vpc, added), context)?;
    }
    copies_follow(tx, vpc);
    Ok(())
}

/// Updates the copies of a VPC's CIDRs in live peerings.
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

fn still_legal(
    state: &State,
    peering: &Peering,
    (vpc, added): (&Vpc, &[IpNet]),
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let actor = context.actor;
    for role in [Role::Initiator, Role::Receiver] {
        let (own, peer) = peering.view(role);
        if own.vpc != vpc.id {
            continue;
        }
        let own = Side { cidrs: vpc.cidrs.clone(), ..own.clone() };
        if !actor.is(&peer.account) {
            context.disclosures.admit(actor, &peer.account, context.now.ms)?;
        }
        // Of what was added, the peer reaches what is exported and imported (C9).
        let shown = intersection(added, &own.effective(peer));
        let taken = peer.effective(&own);
        if let Some((new, old)) = conflict(&shown, &peer.cidrs).or_else(|| conflict(added, &taken)) {
            let with = format!("{}, with which it is peered by {} ({})", peer.vpc, peering.id, peering.name);
            let told = refusal("cidrs", format!("CIDR {new} of {} overlaps the network of {with}", own.vpc));
            return Err(if actor.is(&peer.account) {
                refusal("cidrs", format!("CIDR {new} of {} overlaps {old} of {with}", own.vpc))
            } else if peering.state == PeeringState::Pending || !peer.export_prefixes.is_empty() {
                told.telling([&peer.account])
            } else {
                // It sees the CIDRs of its peers.
                told
            });
        }
        if let Some(theirs) = state.vpcs().get(&peer.vpc)
            && peering.counts_for(&peer.vpc)
        {
            let peer = Side { cidrs: theirs.cidrs.clone(), ..peer.clone() };
            among_peers(state, &peer, (&own, &shown), Some(&peering.id), context)?;
        }
    }
    Ok(())
}
