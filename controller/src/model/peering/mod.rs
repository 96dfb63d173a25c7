//! Rules of peerings, numbered as in the product's specification.

mod commands;

pub use super::locate::{Locator, STATE_WORDS, role, state_word};
pub use commands::{Accept, Create, MAX_DESCRIPTION, MAX_NAME, MAX_TAG, MAX_TAGS, Modify, SetBandwidth};
pub(in crate::model) use commands::{MAX_UTF8, check_description};
use commands::{check_name, check_tags};

use super::{
    Actor, Code, CommandError, Context, Limits, Transaction, hourly,
    locate::{find, missing, wrong_state},
    metering::{self, put},
    overlap::{Pair, Stage, may_be_peered},
    prefixes::{self, PrefixLists},
    quota,
    record::HourlyKey,
    record::{End, Manager, Peering, PeeringState, Role, Side, Tag, Vpc},
    state::{Change, State},
    vni,
};
use cps_peering_config::{
    id::{AccountId, HostId, PeeringId, RegionId, VpcId},
    quota::Kind,
    text,
};
use std::collections::BTreeSet;

/// How many records of ended peerings are kept per initiator.
pub const MAX_ENDED: usize = 2000;

/// Refuses commands of the wrong side. In a peering within one account the caller has both sides.
fn only(role: Role, has: Option<Role>, peering: &Peering, what: &str) -> Result<(), CommandError> {
    if has.is_none_or(|has| has == role) || !peering.is_cross_account() {
        return Ok(());
    }
    let rule = format!("only the {} of {} can {what}", role.word(), peering.id);
    Err(CommandError::one(Code::Forbidden, "vpcPeeringId", rule, "VpcPeerPurviewError"))
}

fn check_free_name(state: &State, name: &str, side: (&AccountId, &RegionId)) -> Result<(), CommandError> {
    let Some(other) = state.initiated(side.0, side.1).and_then(|names| names.get(name)) else { return Ok(()) };
    let name = text::quote(name);
    let rule = format!("the name {name} is that of {other} in account {} and region {}", side.0, side.1);
    Err(CommandError::one(Code::AlreadyExists, "vpcPeeringName", rule, "VpcPeerNameExist"))
}

/// B1: a peering between regions needs a bandwidth, one within a region must not have any. An operator may leave it out:
/// then nothing limits the peering.
fn check_bandwidth(
    bandwidth: Option<u32>,
    cross_region: bool,
    actor: &Actor,
    limits: &Limits,
) -> Result<(), CommandError> {
    let max = limits.max_bandwidth;
    match bandwidth {
        Some(_) if !cross_region => CommandError::invalid(
            "bandwidth",
            "a peering within a region has no bandwidth limit: leave it out",
            "BandwidthNotAllowed",
        ),
        Some(mbit) if !(1..=max).contains(&mbit) => {
            CommandError::invalid("bandwidth", format!("{mbit} Mbit/s is not between 1 and {max}"), "InvalidBandwidth")
        }
        None if cross_region && actor.account().is_some() => CommandError::invalid(
            "bandwidth",
            format!("a peering between regions needs one, 1 to {max} Mbit/s"),
            "BandwidthRequired",
        ),
        _ => Ok(()),
    }
}

/// Refuses what an account in arrear cannot have (B5).
fn check_credit(state: &State, account: &AccountId, cross_region: bool) -> Result<(), CommandError> {
    if !cross_region || !state.account(account).charge.in_arrear() {
        return Ok(());
    }
    let rule = format!("account {account} is in arrear: nothing between regions can be peered until it has paid");
    Err(CommandError::one(Code::FailedPrecondition, "vpcId", rule, "AccountInArrear"))
}

/// Finds both VPCs. A VPC that the caller must not know about looks like one that does not exist (L11).
fn both<'a>(state: &'a State, wish: &Create, actor: &Actor) -> Result<(&'a Vpc, &'a Vpc), CommandError> {
    let find = |entry: &str, id: &VpcId, legal: &dyn Fn(&Vpc) -> bool| {
        let missing = || CommandError::one(Code::NotFound, entry, format!("there is no VPC {id}"), "VpcNotFound");
        state.vpcs().get(id).filter(|vpc| legal(vpc)).ok_or_else(missing)
    };
    let of_region = |vpc: &Vpc, region: &Option<RegionId>| region.as_ref().is_none_or(|region| vpc.region == *region);
    let vpc = find("vpcId", &wish.vpc, &|vpc| actor.is(&vpc.account) && of_region(vpc, &wish.region))?;
    let welcome = |peer: &Vpc| {
        let blocked = state.accounts().get(&peer.account).is_some_and(|it| it.blocked.contains(&vpc.account));
        of_region(peer, &wish.peer_region)
            && wish.peer_account.as_ref().is_none_or(|account| peer.account == *account)
            && (!blocked || actor.account().is_none())
    };
    let peer = find("remoteVpcId", &wish.peer_vpc, &welcome)?;
    if vpc.id == peer.id {
        let rule = format!("{} cannot be peered with itself", vpc.id);
        return CommandError::invalid("remoteVpcId", rule, "VpcPeerSelf");
    }
    Ok((vpc, peer))
}

fn check(state: &State, wish: &Create, context: &Context<'_>) -> Result<[Side; 2], CommandError> {
    wish.check_texts()?;
    let (vpc, peer) = both(state, wish, context.actor)?;
    let cross_region = vpc.region != peer.region;
    check_bandwidth(wish.bandwidth, cross_region, context.actor, context.limits)?;
    check_credit(state, &vpc.account, cross_region)?;
    let joins = |other: &&Peering| other.is_live() && other.sides().iter().any(|side| side.vpc == peer.id);
    if let Some(other) = state.peerings_of(&vpc.id).find(joins) {
        let rule = format!("{} and {} are peered already, by {} ({})", vpc.id, peer.id, other.id, other.name);
        return Err(CommandError::one(Code::AlreadyExists, "remoteVpcId", rule, "VpcPeerAlreadyExist"));
    }
    check_free_name(state, &wish.name, (&vpc.account, &vpc.region))?;
    // L9.
    let whose = (&vpc.account, Some(&vpc.region));
    quota::check(state, Kind::VpcPeering, whose, 1, context)?;
    quota::check(state, Kind::Tag, whose, wish.tags.len(), context)?;
    let stage = if needs_answer(&vpc.account, &peer.account, context.actor) { Stage::Request } else { Stage::Install };
    if stage == Stage::Request {
        quota::check_requests(state, &vpc.account, &peer.account, context)?;
    }
    if cross_region {
        quota::check_bandwidth_changes(state, &vpc.account, context)?;
    }
    let (initiator, receiver) = (side_of(vpc, &wish.prefixes)?, side_of(peer, &wish.peer_prefixes)?);
    may_be_peered(state, &Pair { initiator: &initiator, receiver: &receiver, except: None }, stage, context)?;
    Ok([initiator, receiver])
}

/// A VPC's side of a new peering.
///
/// # Errors
///
/// An exported prefix is not within the VPC.
pub fn side_of(vpc: &Vpc, lists: &PrefixLists) -> Result<Side, CommandError> {
    let mut side = Side {
        vpc: vpc.id.clone(),
        account: vpc.account.clone(),
        region: vpc.region.clone(),
        vni: None,
        cidrs: vpc.cidrs.clone(),
        export_prefixes: Vec::new(),
        import_prefixes: Vec::new(),
        deleted_by_owner: false,
        protected: false,
    };
    prefixes::give(&mut side, Some(&lists.export), Some(&lists.import))?;
    Ok(side)
}

/// Whether the receiver has to accept it (L2). An operator acts for both.
fn needs_answer(initiator: &AccountId, receiver: &AccountId, actor: &Actor) -> bool {
    initiator != receiver && actor.account().is_some()
}

/// Creates a peering, or a request for one (rules L1, L2, L6 to L9, B1).
pub fn create(tx: &mut Transaction<'_>, wish: &Create, context: &mut Context<'_>) -> Result<PeeringId, CommandError> {
    let [initiator, receiver] = check(tx.state, wish, context)?;
    if needs_answer(&initiator.account, &receiver.account, context.actor) {
        hourly::count(tx, HourlyKey::requests(&initiator.account, &receiver.account), context.now_ms);
    }
    if initiator.region != receiver.region {
        count_bandwidth_change(tx, &initiator.account, context);
    }
    let id: PeeringId = context.new_id("vpcpr", |id| tx.state.peerings().contains_key(id));
    let mut peering = Peering {
        managed_by: Manager::of(context.actor),
        id: id.clone(),
        name: wish.name.clone(),
        description: wish.description.clone(),
        message: wish.message.clone(),
        tags: wish.tags.clone(),
        receiver_tags: Vec::new(),
        initiator,
        receiver,
        bandwidth: wish.bandwidth,
        state: PeeringState::Pending,
        created_ms: context.now_ms,
        expires_ms: None,
        activated_ms: None,
        ended_ms: None,
        since: tx.number(),
        since_ms: context.now_ms,
        former_hosts: BTreeSet::new(),
        meter: None,
    };
    if needs_answer(&peering.initiator.account, &peering.receiver.account, context.actor) {
        peering.expires_ms = Some(context.now_ms.saturating_add(context.limits.pending_ms));
        put(tx, peering, context.now_ms);
    } else {
        number_sides(tx, &mut peering, context)?;
        provision(tx, peering, context.now_ms);
    }
    Ok(id)
}

/// Operators' commands are not counted.
fn count_bandwidth_change(tx: &mut Transaction<'_>, payer: &AccountId, context: &Context<'_>) {
    if context.actor.account().is_some() {
        hourly::count(tx, HourlyKey::bandwidth_changes(payer), context.now_ms);
    }
}

/// Gives each side a VNI of its own.
fn number_sides(tx: &Transaction<'_>, peering: &mut Peering, context: &mut Context<'_>) -> Result<(), CommandError> {
    let initiator = vni::allocate(tx, context, None)?;
    let receiver = vni::allocate(tx, context, Some(initiator))?;
    (peering.initiator.vni, peering.receiver.vni) = (Some(initiator), Some(receiver));
    Ok(())
}

/// Begins to install it on hosts. Its sides have VNIs.
fn provision(tx: &mut Transaction<'_>, peering: Peering, now_ms: u64) {
    let entered = Peering { state: PeeringState::Provisioning, since: tx.number(), since_ms: now_ms, ..peering };
    put(tx, entered, now_ms);
}

/// L2, with L6 and L7 again: much may have changed since the request. Accepting again changes nothing.
pub fn accept(tx: &mut Transaction<'_>, accept: &Accept, context: &mut Context<'_>) -> Result<PeeringId, CommandError> {
    let Accept { which, prefixes: PrefixLists { export, import } } = accept;
    accept.prefixes.check()?;
    let (mut peering, role) = find(tx.state, which, context.actor)?;
    only(Role::Receiver, role, &peering, "accept it")?;
    match peering.state {
        PeeringState::Pending => {}
        PeeringState::Provisioning | PeeringState::Active | PeeringState::Suspended { .. } => {
            let mut again = peering.receiver.clone();
            prefixes::give(&mut again, Some(export), Some(import))?;
            if !accept.prefixes.is_default() && again != peering.receiver {
                return wrong_state(&peering, "be accepted with other prefixes: modify its prefixes instead");
            }
            return Ok(which.id.clone());
        }
        _ => return wrong_state(&peering, "be accepted"),
    }
    if peering.has_expired(context.now.latest_ms) {
        let rule = format!(
            "{} may have expired: the controller's clock has jumped and is not confirmed yet; try again later",
            peering.id
        );
        return Err(CommandError::one(Code::FailedPrecondition, "vpcPeeringId", rule, "ClockNotConfirmed"));
    }
    let payer = &peering.initiator.account;
    if let Err(arrear) = check_credit(tx.state, payer, peering.is_cross_region()) {
        // Another account's charge status is not disclosed.
        let rule = format!("{} cannot be accepted now: ask account {payer}, which pays for it", peering.id);
        let told = CommandError::one(Code::FailedPrecondition, "vpcPeeringId", rule, "VpcPeerNotAcceptable");
        return Err(if context.actor.is(payer) { arrear } else { told });
    }
    let vpc_of = |side: &Side| {
        let missing =
            || CommandError::one(Code::NotFound, "vpcId", format!("there is no VPC {}", side.vpc), "VpcNotFound");
        tx.state.vpcs().get(&side.vpc).ok_or_else(missing)
    };
    let (vpc, peer) = (vpc_of(&peering.initiator)?, vpc_of(&peering.receiver)?);
    (peering.initiator.cidrs, peering.receiver.cidrs) = (vpc.cidrs.clone(), peer.cidrs.clone());
    prefixes::give(&mut peering.receiver, Some(export), Some(import))?;
    let (initiator, receiver) = (&peering.initiator, &peering.receiver);
    may_be_peered(tx.state, &Pair { initiator, receiver, except: Some(&peering.id) }, Stage::Install, context)?;
    number_sides(tx, &mut peering, context)?;
    provision(tx, peering, context.now_ms);
    Ok(which.id.clone())
}

/// L4.
pub fn reject(tx: &mut Transaction<'_>, which: &Locator, context: &mut Context<'_>) -> Result<(), CommandError> {
    let (mut peering, role) = find(tx.state, which, context.actor)?;
    only(Role::Receiver, role, &peering, "reject it")?;
    if peering.state != PeeringState::Pending {
        return wrong_state(&peering, "be rejected");
    }
    peering.receiver.deleted_by_owner = true;
    end(tx, peering, End::Rejected, context);
    Ok(())
}

/// Rejects requests to a VPC that is being deleted.
pub(in crate::model) fn reject_requests_to(
    tx: &mut Transaction<'_>,
    vpc: &VpcId,
    context: &mut Context<'_>,
) -> Vec<Peering> {
    let pending = |peering: &&Peering| peering.state == PeeringState::Pending && peering.receiver.vpc == *vpc;
    let requests: Vec<Peering> = tx.state.peerings_of(vpc).filter(pending).cloned().collect();
    for peering in &requests {
        let mut rejected = peering.clone();
        rejected.receiver.deleted_by_owner = true;
        end(tx, rejected, End::Rejected, context);
    }
    requests
}

/// It ends: hosts do not have it.
pub(in crate::model) fn end(tx: &mut Transaction<'_>, mut peering: Peering, how: End, context: &Context<'_>) {
    for role in [Role::Initiator, Role::Receiver] {
        peering.side_mut(role).vni = None;
    }
    let now_ms = context.now_ms;
    let forget_ms = now_ms.saturating_add(context.limits.ended_ms);
    let ended_ms = peering.ended_ms.or(Some(now_ms));
    let state = PeeringState::Ended { how, forget_ms };
    let initiator = peering.initiator.account.clone();
    let ended = Peering { state, ended_ms, since: tx.number(), since_ms: now_ms, ..peering };
    put(tx, ended, now_ms);
    // Creating and ending many does not fill the store: the oldest records are dropped prematurely.
    // Those with a downtime still to be charged stay: there are no more of these than were active then.
    let owes = |it: &Peering| context.now.leap.is_some_and(|leap| metering::owes_absence(it, leap));
    while tx.state.count_ended(&initiator) > MAX_ENDED {
        let Some(oldest) = tx.state.ended_of(&initiator).find(|it| !owes(it)).map(|it| it.id.clone()) else { return };
        tx.change(Change::Peering(oldest, None));
    }
}

/// Changes the initiator's texts of a peering, and either account's tags and protection.
pub fn modify(tx: &mut Transaction<'_>, modify: &Modify, context: &mut Context<'_>) -> Result<PeeringId, CommandError> {
    let (mut peering, role) = find(tx.state, &modify.which, context.actor)?;
    if modify.name.is_some() || modify.description.is_some() || (modify.tags.is_none() && modify.protected.is_none()) {
        only(Role::Initiator, role, &peering, "change its name and description")?;
    }
    // A suspended peering can only be deleted (B5), which its protection may have to be ended for.
    let suspended = matches!(peering.state, PeeringState::Suspended { .. });
    if !peering.is_live() || (suspended && !modify.only_ends_protection()) {
        return wrong_state(&peering, "be changed");
    }
    if let Some(name) = modify.name.as_ref().filter(|name| **name != peering.name) {
        check_name(name)?;
        check_free_name(tx.state, name, (&peering.initiator.account, &peering.initiator.region))?;
        peering.name.clone_from(name);
    }
    if let Some(description) = modify.description.as_ref().filter(|text| **text != peering.description) {
        check_description(description)?;
        peering.description.clone_from(description);
    }
    if let Some(protected) = modify.protected {
        for role in [Role::Initiator, Role::Receiver] {
            let side = peering.side_mut(role);
            if context.actor.is(&side.account) {
                side.protected = protected;
            }
        }
    }
    let role = role.unwrap_or(Role::Initiator);
    if let Some(tags) = modify.tags.as_ref().filter(|tags| **tags != peering.tags_of(role)) {
        check_tags(tags)?;
        let (own, _) = peering.view(role);
        let more = tags.len().saturating_sub(peering.tags_of(role).len());
        quota::check(tx.state, Kind::Tag, (&own.account, Some(&own.region)), more, context)?;
        peering.tags_of_mut(role).clone_from(tags);
    }
    set(tx, peering, context.now_ms);
    Ok(modify.which.id.clone())
}

/// Sets a record, unless it is equal.
fn set(tx: &mut Transaction<'_>, peering: Peering, now_ms: u64) {
    if tx.state.peerings().get(&peering.id) != Some(&peering) {
        put(tx, peering, now_ms);
    }
}

/// B2.
pub fn set_bandwidth(
    tx: &mut Transaction<'_>,
    wish: &SetBandwidth,
    context: &mut Context<'_>,
) -> Result<PeeringId, CommandError> {
    let (peering, role) = find(tx.state, &wish.which, context.actor)?;
    only(Role::Initiator, role, &peering, "change its bandwidth, which it pays for")?;
    limit(tx, &peering.id, Some(wish.bandwidth), context)
}

/// Sets the bandwidth of a peering; none for no limit.
pub(in crate::model) fn limit(
    tx: &mut Transaction<'_>,
    id: &PeeringId,
    bandwidth: Option<u32>,
    context: &mut Context<'_>,
) -> Result<PeeringId, CommandError> {
    let peering = tx.state.peerings().get(id).cloned().ok_or_else(|| missing(id))?;
    check_bandwidth(bandwidth, peering.is_cross_region(), context.actor, context.limits)?;
    if !peering.forwards() && peering.state != PeeringState::Pending {
        return wrong_state(&peering, "get another bandwidth");
    }
    if peering.bandwidth != bandwidth {
        quota::check_bandwidth_changes(tx.state, &peering.initiator.account, context)?;
        count_bandwidth_change(tx, &peering.initiator.account, context);
        put(tx, Peering { bandwidth, ..peering }, context.now_ms);
    }
    Ok(id.clone())
}

/// Deletes a peering (L5). It drains until all hosts that had it have confirmed. Deleting it again changes nothing.
pub fn delete(tx: &mut Transaction<'_>, which: &Locator, context: &mut Context<'_>) -> Result<(), CommandError> {
    let mut peering = tx.state.peerings().get(&which.id).cloned().ok_or_else(|| missing(&which.id))?;
    let region = which.region.as_ref();
    // Also one that it does not see any more: deleting it again is no error.
    let sides = peering.sides();
    let mut own = sides.iter().filter(|side| context.actor.is(&side.account));
    if !own.any(|side| region.is_none_or(|region| side.region == *region)) {
        return Err(missing(&which.id));
    }
    // It protects an account from its own mistakes, as long as there is something to lose.
    let protects = |side: &&Side| side.protected && context.actor.account() == Some(&side.account);
    if peering.is_live() && peering.sides().iter().any(protects) {
        let rule = format!("{} is protected from deletion: end its deletion protection first", peering.id);
        return Err(CommandError::one(Code::FailedPrecondition, "vpcPeeringId", rule, "DeletionProtected"));
    }
    for role in [Role::Initiator, Role::Receiver] {
        let side = peering.side_mut(role);
        side.deleted_by_owner |= context.actor.is(&side.account);
    }
    stop(tx, peering, context);
    Ok(())
}

/// All hosts that may have a peering: those with ports of its VPCs, and former ones.
fn may_have_it(state: &State, peering: &Peering) -> Vec<HostId> {
    state.hosts_concerned(peering).union(&peering.former_hosts).cloned().collect()
}

/// A host lost a port of a VPC. If it was the last one, the host must still confirm the removal of that VPC's peerings.
pub(in crate::model) fn port_left(tx: &mut Transaction<'_>, vpc: &VpcId, host: &HostId, now_ms: u64) {
    if tx.state.ports_of(vpc).any(|port| port.key.host == *host) {
        return;
    }
    let had_it: Vec<Peering> = tx.state.peerings_of(vpc).filter(|peering| peering.forwards()).cloned().collect();
    for mut peering in had_it {
        if peering.former_hosts.insert(host.clone()) {
            put(tx, peering, now_ms);
        }
    }
}

/// Stops a peering after its owners have deleted it.
fn stop(tx: &mut Transaction<'_>, peering: Peering, context: &Context<'_>) {
    match &peering.state {
        PeeringState::Pending => end(tx, peering, End::Deleted, context),
        PeeringState::Provisioning | PeeringState::Active | PeeringState::Suspended { .. } => {
            let hosts = may_have_it(tx.state, &peering);
            let (now_ms, since) = (context.now_ms, tx.number());
            let state = PeeringState::Draining { hosts };
            let draining = Peering { state, ended_ms: Some(now_ms), since, since_ms: now_ms, ..peering };
            put(tx, draining, now_ms);
        }
        PeeringState::Draining { .. } | PeeringState::Ended { .. } => set(tx, peering, context.now_ms),
    }
}

/// The peerings that an account pays for: those between regions that it initiated.
fn paid_by(state: &State, account: &AccountId) -> Vec<Peering> {
    let pays = |peering: &&Peering| peering.initiator.account == *account && peering.is_cross_region();
    state.peerings_of_account(account).filter(pays).cloned().collect()
}

/// B5: the peerings of an account in arrear stop.
pub(in crate::model) fn suspend(tx: &mut Transaction<'_>, account: &AccountId, now_ms: u64) {
    for peering in paid_by(tx.state, account).into_iter().filter(Peering::forwards) {
        let hosts = may_have_it(tx.state, &peering);
        let state = PeeringState::Suspended { hosts };
        let suspended = Peering { state, since: tx.number(), since_ms: now_ms, ..peering };
        put(tx, suspended, now_ms);
    }
}

/// B5: it has paid, and its peerings resume.
pub(in crate::model) fn resume(tx: &mut Transaction<'_>, account: &AccountId, now_ms: u64) {
    for peering in paid_by(tx.state, account) {
        if matches!(peering.state, PeeringState::Suspended { .. }) {
            provision(tx, peering, now_ms);
        }
    }
}

/// B5: it has not paid for too long.
pub(in crate::model) fn delete_suspended(tx: &mut Transaction<'_>, account: &AccountId, context: &Context<'_>) {
    for mut peering in paid_by(tx.state, account) {
        if matches!(peering.state, PeeringState::Suspended { .. }) {
            for role in [Role::Initiator, Role::Receiver] {
                let side = peering.side_mut(role);
                side.deleted_by_owner |= side.account == *account;
            }
            stop(tx, peering, context);
        }
    }
}

/// All hosts have confirmed a peering.
pub fn activate(tx: &mut Transaction<'_>, id: &PeeringId, now_ms: u64) {
    let Some(peering) = tx.state.peerings().get(id) else { return };
    if peering.state == PeeringState::Provisioning {
        let activated_ms = peering.activated_ms.or(Some(now_ms));
        let active = Peering { state: PeeringState::Active, activated_ms, since_ms: now_ms, ..peering.clone() };
        put(tx, active, now_ms);
    }
}

/// All hosts have confirmed the removal of a peering.
pub fn drained(tx: &mut Transaction<'_>, id: &PeeringId, context: &Context<'_>) {
    let Some(peering) = tx.state.peerings().get(id).cloned() else { return };
    if matches!(peering.state, PeeringState::Draining { .. }) {
        end(tx, peering, End::Deleted, context);
    }
}
