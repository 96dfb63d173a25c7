//! Quotas: defaults are in the settings, and operators override them by account and
//! region.

use super::{
    Code, CommandError, Context, Limits,
    record::HourlyKey,
    record::{Account, Peering},
    state::State,
};
use cps_peering_config::{
    id::{AccountId, RegionId},
    quota::Kind,
};

/// The error's reason when a quota is exhausted.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::VpcPeering => "VpcPeerLimitExceeded",
        Kind::Vpc => "VpcLimitExceeded",
        Kind::SecondaryCidr => "SecondaryCidrLimitExceeded",
        Kind::Tag => "TagLimitExceeded",
        Kind::ClientToken => "ClientTokenLimitExceeded",
        Kind::BlockedAccount => "BlockedAccountLimitExceeded",
        Kind::PeeringRequest => "PeeringRequestLimitExceeded",
        Kind::BandwidthChange => "BandwidthChangeLimitExceeded",
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
        Kind::PeeringRequest => limits.requests_per_hour,
        Kind::BandwidthChange => limits.bandwidth_changes_per_hour,
    }
}

/// The limit of an account in a region; the region can be left out for what is counted for the account as a whole.
pub fn limit(state: &State, kind: Kind, account: &AccountId, region: Option<&RegionId>, limits: &Limits) -> u32 {
    let own = |account: &Account| match kind {
        Kind::VpcPeering => account.quotas.get(region?).copied(),
        Kind::BandwidthChange => account.bandwidth_changes.values().copied().max(),
        // The limit of an account as a whole is the highest that was set for any region.
        Kind::ClientToken | Kind::BlockedAccount | Kind::PeeringRequest => {
            account.limits.get(&kind)?.values().copied().max()
        }
        kind => account.limits.get(&kind)?.get(region?).copied(),
    };
    state.accounts().get(account).and_then(own).unwrap_or_else(|| usual(kind, limits))
}

/// How many live peerings an account has initiated from a region.
fn peerings_used(state: &State, account: &AccountId, region: &RegionId, now_ms: u64) -> usize {
    let names = state.initiated(account, region).into_iter().flatten();
    names.filter(|(_, id)| state.peerings().get(*id).is_some_and(|peering| !peering.has_expired(now_ms))).count()
}

/// The number in use.
pub fn used(state: &State, kind: Kind, account: &AccountId, region: Option<&RegionId>, now_ms: u64) -> usize {
    let vpcs = || state.vpcs_of(account).filter(|vpc| Some(&vpc.region) == region);
    match kind {
        Kind::VpcPeering => region.map_or(0, |region| peerings_used(state, account, region, now_ms)),
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
        Kind::PeeringRequest => {
            state.hourly_of(account).map(|(_, sent)| sent.count(now_ms) as usize).max().unwrap_or(0)
        }
        Kind::BandwidthChange => {
            let done = state.hourly().get(&HourlyKey::bandwidth_changes(account));
            done.map_or(0, |done| done.count(now_ms) as usize)
        }
    }
}

/// How many requests an account has sent to another within the last hour.
pub fn requests_to(state: &State, account: &AccountId, receiver: &AccountId, now_ms: u64) -> usize {
    state.hourly().get(&HourlyKey::requests(account, receiver)).map_or(0, |sent| sent.count(now_ms) as usize)
}

/// Refuses another request to an account if too many were sent within the last hour.
pub(super) fn check_requests(
    state: &State,
    account: &AccountId,
    receiver: &AccountId,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let sent = requests_to(state, account, receiver, context.now_ms);
    let most = limit(state, Kind::PeeringRequest, account, None, context.limits);
    if sent < most as usize {
        return Ok(());
    }
    let rule = format!(
        "account {account} has sent {sent} requests to account {receiver} within an hour, and its quota is {most}: try again \
         later, or ask the operator for more"
    );
    Err(CommandError::one(Code::QuotaExceeded, "remoteAccountId", rule, reason(Kind::PeeringRequest)))
}

/// Refuses another change of bandwidth if there were too many within the last hour: each can close a charged
/// period, which is stored for good. Deletes are not refused.
pub(super) fn check_bandwidth_changes(
    state: &State,
    account: &AccountId,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let done = used(state, Kind::BandwidthChange, account, None, context.now_ms);
    let most = limit(state, Kind::BandwidthChange, account, None, context.limits);
    if context.actor.account().is_none() || done < most as usize {
        return Ok(());
    }
    let rule = format!(
        "account {account} has set or changed {done} bandwidths within an hour, and its quota is {most}: try again later, or ask the \
         operator for more"
    );
    Err(CommandError::one(Code::QuotaExceeded, "bandwidth", rule, reason(Kind::BandwidthChange)))
}

/// Refuses `more` if there would be too many. Operators' own commands are not limited.
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
