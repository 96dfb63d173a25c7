//! One request to one endpoint: signed, to an address that may be reached, within limits on concurrency.

use super::{Webhooks, guard::GuardedResolver, sign};
use crate::{access::vault::Vault, engine::Engine, feed::EventView, model::record::Webhook};
use cps_peering_config::id::AccountId;
use cps_peering_http::{chain, tls};
use reqwest::{Client, StatusCode, redirect::Policy};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The timeout of an endpoint.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An endpoint that took longer the last time is slow.
const PROMPT: Duration = Duration::from_secs(1);
/// How many requests are in flight at a time: to endpoints that answered the last one promptly, and to slow ones.
const PLACES: usize = 64;
const SLOW_PLACES: usize = 16;
/// How many of these one account can have, so that an account with many endpoints does not have all of them.
const PLACES_OF_ACCOUNT: usize = 8;
const SLOW_PLACES_OF_ACCOUNT: usize = 2;
/// How long the certificates of the system's trust store are used before they are read again.
const CLIENT_LIFE: Duration = Duration::from_hours(1);
/// What an account is told about a name that does not resolve, or only within the provider's network: what the controller's resolver knows
/// must not be disclosed to tenants.
const LEADS_NOWHERE: &str = "its name leads to no address that webhooks may reach";

/// Whether an endpoint answered the last request promptly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Prompt,
    Slow,
}

/// A number of permits, with a limit for each account.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    of_account: usize,
    by_account: Mutex<HashMap<Option<AccountId>, Arc<Semaphore>>>,
}

/// A permit, released when it is dropped.
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _common: OwnedSemaphorePermit,
}

impl Places {
    fn new(all: usize, of_account: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_account, by_account: Mutex::default() }
    }

    async fn take(&self, account: Option<&AccountId>) -> Option<Place> {
        let own = {
            let mut accounts = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
            // One that nobody waits for or holds is like a new one.
            accounts.retain(|_, places| Arc::strong_count(places) > 1);
            let new = || Arc::new(Semaphore::new(self.of_account));
            Arc::clone(accounts.entry(account.cloned()).or_insert_with(new))
        };
        // The account's own first: waiting for it delays nobody else.
        let own = own.acquire_owned().await.ok()?;
        Some(Place { _own: own, _common: Arc::clone(&self.all).acquire_owned().await.ok()? })
    }
}

/// Sends requests.
pub(super) struct Delivery {
    engine: Arc<Engine>,
    vault: Arc<Vault>,
    shared: Arc<Webhooks>,
    /// Building a client reads all certificates of the system's trust store, so all requests share one.
    client: tokio::sync::Mutex<Option<(Instant, Client)>>,
    prompt: Places,
    slow: Places,
}

impl Delivery {
    pub(super) fn new(engine: Arc<Engine>, vault: Arc<Vault>, shared: Arc<Webhooks>) -> Self {
        Self {
            engine,
            vault,
            shared,
            client: tokio::sync::Mutex::default(),
            prompt: Places::new(PLACES, PLACES_OF_ACCOUNT),
            slow: Places::new(SLOW_PLACES, SLOW_PLACES_OF_ACCOUNT),
        }
    }

    /// Waits for a permit. Never none while this lives.
    pub(super) async fn place(&self, webhook: &Webhook, lane: Lane) -> Option<Place> {
        let places = match lane {
            Lane::Prompt => &self.prompt,
            Lane::Slow => &self.slow,
        };
        places.take(webhook.owner.as_ref().map(|(account, _)| account)).await
    }

    async fn client(&self) -> Result<Client, String> {
        let mut kept = self.client.lock().await;
        if let Some((_, client)) = kept.as_ref().filter(|(made, _)| made.elapsed() < CLIENT_LIFE) {
            return Ok(client.clone());
        }
        let resolver = GuardedResolver { webhooks: Arc::clone(&self.shared), engine: Arc::clone(&self.engine) };
        let built = tokio::task::spawn_blocking(|| build(resolver)).await;
        let client = built.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        *kept = Some((Instant::now(), client.clone()));
        Ok(client)
    }

    /// Sends a message once. Returns whether the endpoint is slow, or the error, as far as its owner may know it.
    pub(super) async fn send(&self, webhook: &Webhook, event: &EventView, body: &str) -> Result<Lane, String> {
        let (account, name) = webhook.sealed_for();
        let secret = self.vault.unseal(&account, &name, &webhook.secret).map_err(|error| error.to_string())?;
        // Settings may have changed.
        let url = self.shared.guard().check(&webhook.url, &self.engine)?;
        let seconds = self.engine.wall_ms() / 1000;
        let signature = sign(&secret, event.id(), seconds, body).ok_or("its secret cannot be read")?;
        let client = self.client().await?;
        let request = client.post(url).header("content-type", "application/json").header("webhook-id", event.id());
        let request = request.header("webhook-timestamp", seconds).header("webhook-signature", signature);
        let began = Instant::now();
        let answer = request.body(body.to_owned()).send().await.map_err(|error| {
            let error = error.without_url();
            tracing::debug!(webhook = webhook.id, error = chain(&error), "an endpoint could not be reached");
            let hidden = webhook.owner.is_some() && is_unresolved(&error);
            if hidden { LEADS_NOWHERE.to_owned() } else { chain(&error) }
        })?;
        match answer.status() {
            status if status.is_success() => Ok(if began.elapsed() > PROMPT { Lane::Slow } else { Lane::Prompt }),
            status if status.is_redirection() => Err(format!("it answered {status}, and redirects are not followed")),
            StatusCode::GONE => Err("it answered 410 Gone".to_owned()),
            status => Err(format!("it answered {status}")),
        }
    }
}

fn build(resolver: GuardedResolver) -> reqwest::Result<Client> {
    tls::use_ring();
    // A redirect could lead anywhere, and a proxy from the environment would connect to an unchecked address.
    let builder = Client::builder().redirect(Policy::none()).no_proxy().timeout(TIMEOUT);
    builder.dns_resolver(Arc::new(resolver)).pool_max_idle_per_host(0).user_agent("cps-peering").build()
}

/// Whether a request failed because its name resolves to no address that may be reached.
fn is_unresolved(error: &reqwest::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if error.is::<super::guard::Unresolved>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_account_with_many_endpoints_leaves_places_for_others() {
        let places = Places::new(4, 2);
        let [one, two]: [AccountId; 2] = ["one", "two"].map(|it| it.parse().unwrap());
        let held = [places.take(Some(&one)).await, places.take(Some(&one)).await];
        let soon = |account| tokio::time::timeout(Duration::from_millis(20), places.take(account));
        assert!(soon(Some(&one)).await.is_err());
        let others = [soon(Some(&two)).await.unwrap(), soon(None).await.unwrap()];
        assert!(soon(None).await.is_err(), "there are four in all");
        drop((held, others));
        drop(soon(Some(&one)).await.unwrap());
        drop(places.take(None).await);
        assert_eq!(places.by_account.lock().unwrap().len(), 1, "those without requests are forgotten");
    }
}
