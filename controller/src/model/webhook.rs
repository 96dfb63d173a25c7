//! Rules of webhooks: the URLs to which events of an account, or of operators, are sent.

use super::{
    Actor, Code, CommandError, Context, Transaction,
    record::{SealedKey, Webhook},
    state::{self, State},
};
use cps_peering_config::{
    id::{AccountId, RegionId},
    text,
};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;

/// The longest URL, in bytes.
pub const MAX_URL: usize = 512;
/// The most event types that can be selected.
const MAX_TYPES: usize = 64;
/// The most webhooks of an account in a region, and of operators.
pub const MAX_OF_OWNER: usize = 10;
/// The most webhooks of all accounts together. An account has no more of them, in all regions, than remain for others.
pub const MAX_OF_ALL: usize = 2000;

/// A change of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its id.
    pub id: String,
    /// The account, and the region whose events are sent; none for operators.
    pub owner: Option<(AccountId, RegionId)>,
    /// What changes.
    pub what: What,
}

/// A change of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum What {
    /// Create it.
    Create {
        /// Its URL.
        #[serde(serialize_with = "host_of")]
        url: String,
        /// The types of events; empty for all.
        types: BTreeSet<String>,
        /// The secret that requests are signed with. Not for the audit trail.
        #[serde(skip)]
        secret: SealedKey,
        /// The event after which it begins.
        after: String,
    },
    /// Change the fields that are given.
    Modify {
        /// Its URL.
        #[serde(serialize_with = "host_of_changed")]
        url: Option<String>,
        /// The types of events; empty for all.
        types: Option<BTreeSet<String>>,
        /// Whether events are sent.
        enabled: Option<bool>,
    },
    /// Delete it.
    Delete,
}

/// The part of a URL for the audit trail: with many services, knowing the whole URL suffices to send.
fn host_of<S: Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    let path = url.find("://").and_then(|at| url[at + 3..].find(['/', '?', '#']).map(|end| at + 3 + end));
    to.serialize_str(&path.map_or_else(|| url.to_owned(), |end| format!("{}/…", &url[..end])))
}

#[expect(clippy::ref_option, reason = "the form that serde calls")]
fn host_of_changed<S: Serializer>(url: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => host_of(url, to),
        None => to.serialize_none(),
    }
}

impl Change {
    /// Refuses invalid values, before anything else looks at them.
    pub(super) fn check_texts(&self) -> Result<(), CommandError> {
        let (url, types) = match &self.what {
            What::Create { url, types, .. } => (Some(url), Some(types)),
            What::Modify { url, types, .. } => (url.as_ref(), types.as_ref()),
            What::Delete => (None, None),
        };
        if let Some(url) = url.filter(|url| url.len() > MAX_URL) {
            return CommandError::invalid(
                "url",
                format!("{} bytes: at most {MAX_URL} are allowed", url.len()),
                "InvalidWebhookUrl",
            );
        }
        for kind in types.into_iter().flatten() {
            if !super::event_types::TYPES.iter().any(|(known, _)| known == kind) {
                let rule = format!("{} is not an event type", text::quote(kind));
                return CommandError::invalid("types", rule, "InvalidEventType");
            }
            if self.owner.is_some() && kind.starts_with("host.") {
                return CommandError::invalid("types", format!("{kind} is for operators"), "InvalidEventType");
            }
        }
        if types.is_some_and(|types| types.len() > MAX_TYPES) {
            return CommandError::invalid("types", format!("at most {MAX_TYPES} are allowed"), "InvalidEventType");
        }
        Ok(())
    }
}

/// Checks that there can be one more, given that accounts can have `most` together.
fn check_count(state: &State, owner: Option<&(AccountId, RegionId)>, most: usize) -> Result<(), CommandError> {
    let count = |which: &dyn Fn(&Webhook) -> bool| state.webhooks().values().filter(|it| which(it)).count();
    let refuse = |rule| Err(CommandError::one(Code::QuotaExceeded, "webhooks", rule, "WebhookLimitExceeded"));
    let own = count(&|webhook| webhook.owner.as_ref() == owner);
    if own >= MAX_OF_OWNER {
        return refuse(format!("there are {own} webhooks, and at most {MAX_OF_OWNER} are allowed: delete one"));
    }
    let Some((account, _)) = owner else { return Ok(()) };
    let of = |webhook: &Webhook| webhook.owner.as_ref().map(|(account, _)| account.clone());
    let free = most.saturating_sub(count(&|webhook| webhook.owner.is_some()));
    let own = count(&|webhook| of(webhook).as_ref() == Some(account));
    if own >= free {
        return refuse(format!(
            "there are {own} webhooks of this account in all regions, and no more are left: delete one"
        ));
    }
    Ok(())
}

/// Changes a webhook. Whether others' webhooks exist is not disclosed.
pub fn change(tx: &mut Transaction<'_>, change: &Change, context: &mut Context<'_>) -> Result<(), CommandError> {
    let allowed = match (&context.actor, &change.owner) {
        (Actor::Account(own), Some((account, _))) => own == account,
        (Actor::Account(_), None) => false,
        _ => true,
    };
    let found = tx.state.webhooks().get(&change.id);
    let found = found.filter(|webhook| allowed && webhook.owner == change.owner).cloned();
    let missing = || {
        let rule = format!("there is no webhook {}", text::cut(&change.id, text::MAX_QUOTED));
        CommandError::one(Code::NotFound, "webhookId", rule, "WebhookNotFound")
    };
    let new = match &change.what {
        What::Create { url, types, secret, after } => {
            check_count(tx.state, change.owner.as_ref(), MAX_OF_ALL)?;
            Some(Webhook {
                id: change.id.clone(),
                owner: change.owner.clone(),
                url: url.clone(),
                types: types.clone(),
                secret: secret.clone(),
                after: after.clone(),
                enabled: true,
                created_ms: context.now_ms,
            })
        }
        What::Modify { url, types, enabled } => {
            let mut webhook = found.ok_or_else(missing)?;
            webhook.url = url.clone().unwrap_or(webhook.url);
            webhook.types = types.clone().unwrap_or(webhook.types);
            webhook.enabled = enabled.unwrap_or(webhook.enabled);
            Some(webhook)
        }
        What::Delete => {
            found.ok_or_else(missing)?;
            None
        }
    };
    if tx.state.webhooks().get(&change.id) != new.as_ref() {
        tx.change(state::Change::Webhook(change.id.clone(), new));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_account_takes_all_webhooks_and_operators_always_have_theirs() {
        let mut state = State::default();
        let mut number = 0;
        let mut add = |owner: Option<(&str, &str)>| {
            let owner = owner.map(|(account, region)| (account.parse().unwrap(), region.parse().unwrap()));
            check_count(&state, owner.as_ref(), 20)?;
            number += 1;
            let webhook = Webhook {
                id: format!("wh-{number}"),
                owner,
                url: "https://hooks.example.com/".to_owned(),
                types: BTreeSet::new(),
                secret: SealedKey::new(String::new()),
                after: String::new(),
                enabled: true,
                created_ms: 0,
            };
            state.apply(state::Change::Webhook(webhook.id.clone(), Some(webhook)));
            Ok::<_, CommandError>(())
        };
        let many = |owner, add: &mut dyn FnMut(_) -> Result<(), CommandError>| {
            (0..30).take_while(|_| add(owner).is_ok()).count()
        };
        let greedy: Vec<_> = ["north", "south", "west"].map(|region| many(Some(("greedy", region)), &mut add)).into();
        assert_eq!(greedy, [10, 0, 0], "half of all");
        assert_eq!(many(Some(("other", "north")), &mut add), 5, "half of the rest");
        assert_eq!(many(None, &mut add), MAX_OF_OWNER);
    }
}
