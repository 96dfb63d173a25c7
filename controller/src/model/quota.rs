//! Of how many things an account may have so many: defaults are in the settings, and operators say otherwise by account and
//! region.

use super::{
    Code, CommandError, Context, Limits, peering,
    record::{Account, Peering},
    state::State,
};
use cps_peering_config::{
    id::{AccountId, RegionId},
    quota::Kind,
};

/// The word for programs when there are as many as there may be.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::VpcPeering => "VpcPeerLimitExceeded",
        Kind::Vpc => "VpcLimitExceeded",
        Kind::SecondaryCidr => "SecondaryCidrLimitExceeded",
        Kind::Tag => "TagLimitExceeded",
        Kind::ClientToken => "ClientTokenLimitExceeded",
        Kind::BlockedAccount => "BlockedAccountLimitExceeded",
    }
}

fn usual(kind: Kind, limits: &Limits) -> u32 {
    match kind {
        Kind::VpcPeering => limits.peerings_per_region,
        Kind::Vpc => limits.vpcs_per_region,
        Kind::SecondaryCidr => limits.secondary_cidrs_per_region,
        Kind::Tag => limits.tags_per_region,
        Kind::ClientToken => limits.client_tokens,
        Kind::BlockedAccount => limits.blocked_accounts,
    }
}

/// How many an account may have in a region; the region may be left out for what is counted for the account as a whole.
pub fn limit(state: &State, kind: Kind, account: &AccountId, region: Option<&RegionId>, limits: &Limits) -> u32 {
    let own = |account: &Account| match kind {
        Kind::VpcPeering => account.quotas.get(region?).copied(),
        // What holds for an account as a whole is the most that was said for any region.
        Kind::ClientToken | Kind::BlockedAccount => account.limits.get(&kind)?.values().copied().max(),
        kind => account.limits.get(&kind)?.get(region?).copied(),
    };
    state.accounts().get(account).and_then(own).unwrap_or_else(|| usual(kind, limits))
}

/// How many it has.
pub fn used(state: &State, kind: Kind, account: &AccountId, region: Option<&RegionId>, now_ms: u64) -> usize {
    let vpcs = || state.vpcs_of(account).filter(|vpc| Some(&vpc.region) == region);
    match kind {
        Kind::VpcPeering => region.map_or(0, |region| peering::quota_used(state, account, region, now_ms)),
        Kind::Vpc => vpcs().count(),
        Kind::SecondaryCidr => vpcs().map(|vpc| vpc.cidrs.len().saturating_sub(1)).sum(),
        Kind::Tag => {
            let live = region.and_then(|region| state.initiated(account, region)).into_iter().flatten();
            let own: usize = live.filter_map(|(_, id)| state.peerings().get(id)).map(|it| it.tags.len()).sum();
            let asked = |it: &&Peering| it.receiver.account == *account && Some(&it.receiver.region) == region;
            let received = state.peerings_of_account(account).filter(|it| it.is_live() && asked(it));
            own + received.map(|it| it.receiver_tags.len()).sum::<usize>()
        }
        Kind::ClientToken => state.tokens_of(account),
        Kind::BlockedAccount => state.accounts().get(account).map_or(0, |account| account.blocked.len()),
    }
}

/// Refuses `more` where there would be too many. What operators do themselves, they need not allow themselves.
pub(super) fn check(
    state: &State,
    kind: Kind,
    (account, region): (&AccountId, Option<&RegionId>),
    more: usize,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    if more == 0 || (context.actor.account().is_none() && kind != Kind::VpcPeering) {
        return Ok(());
    }
    let used = used(state, kind, account, region, context.now_ms);
    let most = limit(state, kind, account, region, context.limits);
    if used.saturating_add(more) <= most as usize {
        return Ok(());
    }
    let (entry, place) = match (kind, region) {
        (Kind::ClientToken, _) => ("clientToken", String::new()),
        (_, None) => ("accountId", String::new()),
        (_, Some(region)) => ("regionId", format!(" in {region}")),
    };
    let what = kind.plural();
    let rule =
        format!("account {account} has {used} {what}{place}, and its quota is {most}: ask the operator for more");
    Err(CommandError::one(Code::QuotaExceeded, entry, rule, reason(kind)))
}
