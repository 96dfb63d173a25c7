//! Rules of VPCs that accounts manage themselves.

use super::{
    Code, CommandError, Context, Transaction,
    address_rules::{cidr_violations, port_violations, still_needed},
    overlap, peering, quota,
    record::{Deleted, Manager, Vpc},
    state::{Change, State},
    vni,
};
use cps_peering_config::{
    id::{AccountId, RegionId, VpcId},
    net::Vni,
    quota::Kind,
    text::{self, InvalidText},
};
use ipnet::{IpNet, Ipv6Net};
use serde::Serialize;
use std::net::Ipv6Addr;

/// The longest name, in characters.
pub const MAX_NAME: usize = 60;
/// How many deleted VPCs and secondary CIDRs of an account are remembered: the last ones.
const MAX_DELETED: usize = 500;

/// The VPC that a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Locator {
    /// The region that it must be in; none for operators, who need not name it.
    pub region: Option<RegionId>,
    /// The VPC.
    pub id: VpcId,
}

/// Request to create a VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Create {
    /// Its account.
    pub account: AccountId,
    /// Its region.
    pub region: RegionId,
    /// Its name.
    pub name: String,
    /// Its owner's description.
    pub description: String,
    /// Its first CIDR.
    pub cidr: IpNet,
    /// Whether it also gets an IPv6 CIDR: a /48 of unique local addresses that no other VPC has.
    pub ipv6: bool,
}

impl Create {
    /// Checks that need no state.
    pub(super) fn check_texts(&self) -> Result<(), CommandError> {
        check_name(&self.name)?;
        peering::check_description(&self.description)
    }
}

/// Request to change a VPC; none for what stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Modify {
    /// The VPC.
    pub which: Locator,
    /// Its name.
    pub name: Option<String>,
    /// Its owner's description.
    pub description: Option<String>,
    /// Deletion protection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

impl Modify {
    /// Whether it only makes a deletion possible.
    pub(super) fn only_ends_protection(&self) -> bool {
        let Self { which: _, name, description, protected } = self;
        *protected == Some(false) && name.is_none() && description.is_none()
    }

    /// See [`peering::Modify`].
    pub(super) fn check_texts(&self) -> Result<(), CommandError> {
        self.name.as_deref().filter(|name| name.len() > MAX_NAME * peering::MAX_UTF8).map_or(Ok(()), check_name)?;
        let long = self.description.as_deref();
        let long = long.filter(|text| text.len() > peering::MAX_DESCRIPTION * peering::MAX_UTF8);
        long.map_or(Ok(()), peering::check_description)
    }
}

/// A CIDR to add or remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cidr {
    /// The VPC.
    pub which: Locator,
    /// The CIDR.
    pub cidr: IpNet,
}

fn find(state: &State, which: &Locator, context: &Context<'_>) -> Result<Vpc, CommandError> {
    let legal =
        |vpc: &&Vpc| context.actor.is(&vpc.account) && which.region.as_ref().is_none_or(|region| vpc.region == *region);
    let rule = || format!("there is no VPC {}", which.id);
    let missing = || CommandError::one(Code::NotFound, "vpcId", rule(), "VpcNotFound");
    state.vpcs().get(&which.id).filter(legal).cloned().ok_or_else(missing)
}

/// Refuses invalid names of VPCs.
pub(super) fn check_name(name: &str) -> Result<(), CommandError> {
    let refused =
        |error: InvalidText| CommandError::one(Code::InvalidArgument, "name", error.to_string(), "InvalidName");
    text::check_name(name, MAX_NAME).map_err(refused)
}

fn check_cidrs(cidrs: &[IpNet]) -> Result<(), CommandError> {
    match cidr_violations(cidrs).into_iter().next() {
        Some(rule) => Err(CommandError::one(Code::InvalidArgument, "cidr", rule, "InvalidCidr")),
        None => Ok(()),
    }
}

/// Unique local addresses (RFC 4193) for a VPC. They are random like its VNI, and do not reveal it: everyone sees them.
fn unique_local(state: &State, drawn: Vni) -> IpNet {
    let net = |vni: Vni| -> IpNet {
        let vni = vni.get();
        let segments = [0xfd43, 0x5000 | (vni >> 16) as u16, (vni & 0xffff) as u16, 0, 0, 0, 0, 0];
        Ipv6Net::new_assert(Ipv6Addr::from(segments), 48).into()
    };
    let mut vni = drawn;
    // There are fewer VPCs than VNIs.
    while state.is_site_taken(&net(vni)) {
        vni = vni.next_wrapping();
    }
    net(vni)
}

/// Creates a VPC.
pub fn create(tx: &mut Transaction<'_>, wish: &Create, context: &mut Context<'_>) -> Result<VpcId, CommandError> {
    wish.check_texts()?;
    check_cidrs(&[wish.cidr])?;
    if !tx.state.regions().contains_key(&wish.region) {
        let rule = format!("there is no region {}", wish.region);
        return Err(CommandError::one(Code::NotFound, "regionId", rule, "RegionNotFound"));
    }
    quota::check(tx.state, Kind::Vpc, (&wish.account, Some(&wish.region)), 1, context)?;
    let more = usize::from(wish.ipv6);
    quota::check(tx.state, Kind::SecondaryCidr, (&wish.account, Some(&wish.region)), more, context)?;
    let id: VpcId = context.new_id("vpc", |id| tx.state.vpcs().contains_key(id));
    let vni = vni::allocate(tx, context, None)?;
    let drawn = if wish.ipv6 { Some(vni::allocate(tx, context, Some(vni))?) } else { None };
    let unique_local = drawn.map(|drawn| unique_local(tx.state, drawn));
    let vpc = Vpc {
        managed_by: Manager::of(context.actor),
        id: id.clone(),
        name: wish.name.clone(),
        account: wish.account.clone(),
        region: wish.region.clone(),
        cidrs: std::iter::once(wish.cidr).chain(unique_local).collect(),
        vni,
        description: wish.description.clone(),
        created_ms: context.now_ms,
        protected: false,
    };
    tx.change(Change::Vpc(id.clone(), Some(vpc)));
    Ok(id)
}

/// Changes the owner's texts and deletion protection of a VPC.
pub fn modify(tx: &mut Transaction<'_>, modify: &Modify, context: &mut Context<'_>) -> Result<VpcId, CommandError> {
    let mut vpc = find(tx.state, &modify.which, context)?;
    if let Some(name) = modify.name.as_ref().filter(|name| **name != vpc.name) {
        check_name(name)?;
        vpc.name.clone_from(name);
    }
    if let Some(description) = modify.description.as_ref().filter(|text| **text != vpc.description) {
        peering::check_description(description)?;
        vpc.description.clone_from(description);
    }
    vpc.protected = modify.protected.unwrap_or(vpc.protected);
    if tx.state.vpcs().get(&vpc.id) != Some(&vpc) {
        tx.change(Change::Vpc(vpc.id.clone(), Some(vpc)));
    }
    Ok(modify.which.id.clone())
}

/// Adds a CIDR (L10).
pub fn add_cidr(tx: &mut Transaction<'_>, add: &Cidr, context: &mut Context<'_>) -> Result<VpcId, CommandError> {
    let mut vpc = find(tx.state, &add.which, context)?;
    quota::check(tx.state, Kind::SecondaryCidr, (&vpc.account, Some(&vpc.region)), 1, context)?;
    vpc.cidrs.push(add.cidr);
    check_cidrs(&vpc.cidrs)?;
    tx.change(Change::Vpc(vpc.id.clone(), Some(vpc.clone())));
    overlap::cidrs_changed(tx, &vpc, &[add.cidr], context)?;
    Ok(vpc.id)
}

/// Removes a CIDR, unless it is the first one or ports need it.
pub fn remove_cidr(tx: &mut Transaction<'_>, remove: &Cidr, context: &mut Context<'_>) -> Result<VpcId, CommandError> {
    let mut vpc = find(tx.state, &remove.which, context)?;
    let place = vpc.cidrs.iter().position(|cidr| *cidr == remove.cidr);
    let refuse = |code, rule: String, reason| Err(CommandError::one(code, "cidr", rule, reason));
    match place {
        None => {
            return refuse(Code::NotFound, format!("{} has no CIDR {}", vpc.id, remove.cidr), "CidrNotFound");
        }
        Some(0) => {
            let rule = format!("{} is the primary CIDR of {}", remove.cidr, vpc.id);
            return refuse(Code::FailedPrecondition, rule, "CidrInUse");
        }
        Some(place) => drop(vpc.cidrs.remove(place)),
    }
    let violations = port_violations(&vpc, tx.state.ports_of(&vpc.id), |key| format!("port {key}"));
    if let Some((entry, rule)) = violations.into_iter().next() {
        return refuse(Code::FailedPrecondition, format!("{entry} needs it: {rule}"), "CidrInUse");
    }
    tx.change(Change::Vpc(vpc.id.clone(), Some(vpc.clone())));
    overlap::copies_follow(tx, &vpc);
    note_deleted(tx, &vpc, cidr_key(&vpc.id, &remove.cidr), context);
    Ok(vpc.id)
}

/// Deletes an unused VPC (L10). Other accounts' requests to it are rejected: they must not keep it from being deleted.
pub fn delete(tx: &mut Transaction<'_>, which: &Locator, context: &mut Context<'_>) -> Result<(), CommandError> {
    let vpc = match find(tx.state, which, context) {
        Err(_) if was_deleted(tx.state, which, context) => return Ok(()),
        found => found?,
    };
    if vpc.protected && context.actor.account().is_some() {
        let rule = format!("{} is protected from deletion: end its deletion protection first", vpc.id);
        return Err(CommandError::one(Code::FailedPrecondition, "vpcId", rule, "DeletionProtected"));
    }
    if let Some(rule) = still_needed(tx.state, &vpc) {
        return Err(CommandError::one(Code::FailedPrecondition, "vpcId", rule, "VpcInUse"));
    }
    peering::reject_requests_to(tx, &vpc.id, context);
    forget(tx, &vpc, context);
    Ok(())
}

/// Removes an unused VPC.
pub(super) fn forget(tx: &mut Transaction<'_>, vpc: &Vpc, context: &Context<'_>) {
    tx.change(Change::Vpc(vpc.id.clone(), None));
    note_deleted(tx, vpc, vpc.id.to_string(), context);
}

/// The key that records a deleted CIDR.
pub fn cidr_key(vpc: &VpcId, cidr: &IpNet) -> String {
    format!("{vpc} {cidr}")
}

/// Records that an account had an object, so that deleting it again is no error.
fn note_deleted(tx: &mut Transaction<'_>, vpc: &Vpc, key: String, context: &Context<'_>) {
    // An account that is only mentioned by VPCs has no credentials to ask with.
    let Some(mut account) = tx.state.accounts().get(&vpc.account).cloned() else { return };
    account.deleted.retain(|_, it| it.forget_ms > context.now_ms);
    while account.deleted.len() >= MAX_DELETED
        && let Some(oldest) = account.deleted.iter().min_by_key(|(_, it)| it.forget_ms).map(|(key, _)| key.clone())
    {
        account.deleted.remove(&oldest);
    }
    let forget_ms = context.now_ms.saturating_add(context.limits.ended_ms);
    account.deleted.insert(key, Deleted { region: vpc.region.clone(), forget_ms });
    tx.change(Change::Account(account.id.clone(), Some(account)));
}

fn was_deleted(state: &State, which: &Locator, context: &Context<'_>) -> bool {
    let account = context.actor.account().and_then(|id| state.accounts().get(id));
    let known = account.and_then(|account| account.deleted.get(which.id.as_str()));
    known.is_some_and(|it| {
        it.forget_ms > context.now_ms && which.region.as_ref().is_none_or(|region| it.region == *region)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn vpc(number: u32, cidrs: Vec<IpNet>) -> Vpc {
        Vpc {
            managed_by: Manager::Account,
            id: format!("v{number}").parse().unwrap(),
            name: "v".to_owned(),
            account: "one".parse().unwrap(),
            region: "north".parse().unwrap(),
            cidrs,
            vni: number.try_into().unwrap(),
            description: String::new(),
            created_ms: 0,
            protected: false,
        }
    }

    /// C10: the cost of a request does not grow with what others have.
    #[test]
    fn a_cidr_that_is_drawn_is_nobodys_and_found_fast() {
        let mut state = State::default();
        for number in 1..=20_000 {
            let site = format!("fd43:5000:{number:x}::/48").parse().unwrap();
            let vpc = vpc(number, vec!["10.0.0.0/16".parse().unwrap(), site]);
            state.apply(Change::Vpc(vpc.id.clone(), Some(vpc)));
        }
        let began = Instant::now();
        for number in [1, 19_999] {
            let site = unique_local(&state, number.try_into().unwrap());
            assert_eq!(site, "fd43:5000:4e21::/48".parse().unwrap(), "the next that is free");
        }
        for number in 20_001..20_500 {
            unique_local(&state, number.try_into().unwrap());
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        state.apply(Change::Vpc("v7".parse().unwrap(), None));
        assert_eq!(unique_local(&state, 5.try_into().unwrap()), "fd43:5000:7::/48".parse().unwrap());
        // One that an account has chosen itself conflicts, too.
        let own = vpc(7, vec!["10.0.0.0/16".parse().unwrap(), "fd43:5000:7::/48".parse().unwrap()]);
        state.apply(Change::Vpc(own.id.clone(), Some(own)));
        assert_eq!(unique_local(&state, 5.try_into().unwrap()), "fd43:5000:4e21::/48".parse().unwrap());
    }
}
