//! Rules of accounts: credentials, charge status, quotas, and blocked accounts.

use super::{
    Code, CommandError, Context, Transaction, peering, quota,
    record::{Account, Charge, SealedKey},
    state,
};
use cps_peering_config::{
    id::{AccountId, RegionId},
    quota::Kind,
    text,
};
use serde::{Deserialize, Serialize};

/// A change of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The account. It is created if it has no record.
    pub id: AccountId,
    /// What changes.
    pub what: What,
}

/// A change of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum What {
    /// Create it: it must not exist.
    #[serde(rename = "CreateAccount")]
    Create,
    /// Add an access key with a secret key.
    AddKey {
        /// The access key.
        access_key: String,
        /// The secret key. Not for the audit trail.
        #[serde(skip)]
        secret_key: SealedKey,
    },
    /// Remove an access key.
    RemoveKey(String),
    /// Add a bearer token.
    AddToken {
        /// The token's id.
        id: String,
        /// The token's SHA-256 in hexadecimal. Not for the audit trail.
        #[serde(skip)]
        hash: String,
    },
    /// Remove a bearer token.
    RemoveToken(String),
    /// Set the charge status (B5).
    #[serde(rename = "SetChargeStatus")]
    Charge(ChargeStatus),
    /// Set a quota in a region; none for the default (L9).
    #[serde(rename = "SetQuota")]
    Quota {
        /// The quota's type.
        #[serde(rename = "type")]
        kind: Kind,
        /// The region.
        region: RegionId,
        /// The limit.
        limit: Option<u32>,
    },
    /// Block requests from another account (L11).
    #[serde(rename = "BlockAccount")]
    Block(AccountId),
    /// Unblock it.
    #[serde(rename = "UnblockAccount")]
    Unblock(AccountId),
}

/// The charge status of an account, in the billing system's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChargeStatus {
    /// Nothing is owed.
    Normal,
    /// Something is owed; everything keeps running.
    Overdue,
    /// 欠费停服.
    Arrear,
}

/// The longest access key and the longest id of a token, in bytes.
const MAX_CREDENTIAL: usize = 128;
/// The most access keys, and the most tokens, of an account.
pub const MAX_CREDENTIALS: usize = 500;

fn missing<T>(entry: &str, what: &str, id: &str) -> Result<T, CommandError> {
    let id = text::cut(id, text::MAX_QUOTED);
    Err(CommandError::one(Code::NotFound, entry, format!("there is no {what} {id}"), ""))
}

impl Change {
    /// Whether it frees space, or sets the charge status.
    pub(super) fn makes_room(&self) -> bool {
        match self.what {
            What::RemoveKey(_) | What::RemoveToken(_) | What::Charge(_) | What::Unblock(_) => true,
            What::Create | What::AddKey { .. } | What::AddToken { .. } | What::Quota { .. } | What::Block(_) => false,
        }
    }

    /// Checks names that cannot be those of credentials.
    pub(super) fn check_texts(&self) -> Result<(), CommandError> {
        match &self.what {
            What::RemoveKey(key) if key.len() > MAX_CREDENTIAL => missing("accessKey", "access key", key),
            What::RemoveToken(token) if token.len() > MAX_CREDENTIAL => missing("tokenId", "token", token),
            _ => Ok(()),
        }
    }
}

/// Refuses one more if a limit is reached that is not a quota.
fn check_credentials(count: usize, entry: &str, what: &str) -> Result<(), CommandError> {
    if count < MAX_CREDENTIALS {
        return Ok(());
    }
    let rule = format!("the account has {count} {what}, and at most {MAX_CREDENTIALS} are allowed: remove some");
    Err(CommandError::one(Code::QuotaExceeded, entry, rule, "CredentialLimitExceeded"))
}

/// Changes an account. Blocking another account does not reveal whether that one exists.
pub fn change(tx: &mut Transaction<'_>, change: &Change, context: &mut Context<'_>) -> Result<(), CommandError> {
    let id = &change.id;
    if !context.actor.is(id) {
        return missing("accountId", "account", id.as_str());
    }
    let known = tx.state.accounts().contains_key(id);
    let mut account = tx.state.account(id);
    match &change.what {
        What::Create if known => {
            let rule = format!("there is an account {id} already");
            return Err(CommandError::one(Code::AlreadyExists, "accountId", rule, "AccountAlreadyExist"));
        }
        What::Create => {}
        What::AddKey { access_key, secret_key } => {
            check_credentials(account.keys.len(), "accessKey", "access keys")?;
            account.keys.insert(access_key.clone(), secret_key.clone());
        }
        What::RemoveKey(access_key) => {
            if account.keys.remove(access_key).is_none() {
                return missing("accessKey", "access key", access_key);
            }
        }
        What::AddToken { id, hash } => {
            check_credentials(account.tokens.len(), "tokenId", "tokens")?;
            account.tokens.insert(id.clone(), hash.clone());
        }
        What::RemoveToken(token) => {
            if account.tokens.remove(token).is_none() {
                return missing("tokenId", "token", token);
            }
        }
        What::Charge(status) => account.charge = charge(&account, *status, context),
        What::Quota { kind, region, limit } => {
            if !tx.state.regions().contains_key(region) {
                return missing("regionId", "region", region.as_str());
            }
            let quotas = match kind {
                Kind::VpcPeering => &mut account.quotas,
                Kind::BandwidthChange => &mut account.bandwidth_changes,
                kind => account.limits.entry(*kind).or_default(),
            };
            match limit {
                Some(limit) => quotas.insert(region.clone(), *limit),
                None => quotas.remove(region),
            };
            account.limits.retain(|_, quotas| !quotas.is_empty());
        }
        What::Block(other) if other == id => {
            let rule = "an account cannot block itself".to_owned();
            return Err(CommandError::one(Code::InvalidArgument, "accountId", rule, "InvalidAccount"));
        }
        What::Block(other) => {
            if !account.blocked.contains(other) {
                quota::check(tx.state, Kind::BlockedAccount, (id, None), 1, context)?;
            }
            account.blocked.insert(other.clone());
        }
        What::Unblock(other) => {
            account.blocked.remove(other);
        }
    }
    let arrear = account.charge.in_arrear();
    if tx.state.accounts().get(id) != Some(&account) {
        tx.change(state::Change::Account(id.clone(), Some(account)));
    }
    if let What::Charge(_) = change.what {
        if arrear {
            peering::suspend(tx, id, context.now_ms);
        } else {
            peering::resume(tx, id, context.now_ms);
        }
    }
    Ok(())
}

/// Setting the same status again moves no deadline.
fn charge(account: &Account, status: ChargeStatus, context: &Context<'_>) -> Charge {
    match status {
        ChargeStatus::Normal => Charge::Normal,
        ChargeStatus::Overdue => Charge::Overdue,
        ChargeStatus::Arrear if account.charge.in_arrear() => account.charge,
        ChargeStatus::Arrear => Charge::Arrear {
            since_ms: context.now_ms,
            delete_ms: Some(context.now_ms.saturating_add(context.limits.arrear_ms)),
        },
    }
}
