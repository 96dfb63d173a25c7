//! Sends events to where accounts and operators want them, as Standard Webhooks has it (<https://www.standardwebhooks.com>):
//! requests are signed with HMAC-SHA256, and tried again until they are taken or the event is as old as events are kept.
//!
//! Each webhook goes through the events by itself and has a place between them, which is noted in the store: one that does not answer
//! takes one task and one place of those for the slow, and delays nobody. Events arrive in order, and each at least once; one that
//! arrives again has the same id.
//!
//! | module | what it holds |
//! |---|---|
//! | [`guard`] | which addresses may be reached |

pub mod guard;

use crate::{
    access::vault::Vault,
    api::feed::{EventView, Viewer, latest, look},
    engine::Engine,
    events::Cursor,
    model::record::Webhook,
    store::{StoreError, notes::WEBHOOKS},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cps_peering_config::text;
use cps_peering_http::{chain, tls};
use guard::{Guard, GuardedResolver};
use reqwest::{Client, StatusCode, redirect::Policy};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

/// How long an endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is waited after a first failure, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How many requests are under way at a time: to endpoints that took the last one, and to those that did not.
const PLACES: usize = 64;
const SLOW_PLACES: usize = 16;
/// How many events are looked at together.
const AT_ONCE: usize = 50;
/// How often places are noted, and it is looked which webhooks there are.
const EVERY: Duration = Duration::from_secs(1);
/// How a secret begins; behind it base64.
const SECRET: &str = "whsec_";
const SECRET_BYTES: usize = 32;
/// The longest error that is told, in characters.
const LONGEST_ERROR: usize = 300;

/// How it goes with a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Behind which event it is; none before it was looked at.
    #[serde(default)]
    pub place: Option<String>,
    /// When an event was last taken, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub delivered_ms: Option<u64>,
    /// How often in a row it has failed.
    #[serde(default)]
    pub failures: u32,
    /// Why, the last time.
    #[serde(default)]
    pub error: Option<String>,
    /// When it is tried again, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub retry_ms: Option<u64>,
    /// How often events were passed over because they had become too old.
    #[serde(default)]
    pub expired: u32,
}

/// What the senders share with those who look.
#[derive(Debug, Default)]
pub struct Webhooks {
    guard: RwLock<Option<Arc<Guard>>>,
    statuses: Mutex<BTreeMap<String, Status>>,
}

impl Webhooks {
    /// Which addresses may be reached; before anything was said, those of the public internet.
    pub fn guard(&self) -> Arc<Guard> {
        let guard = self.guard.read().unwrap_or_else(PoisonError::into_inner).clone();
        guard.unwrap_or_else(|| Arc::new(Guard::new(Vec::new(), Vec::new())))
    }

    /// Takes up other settings.
    pub fn tune(&self, guard: Guard) {
        *self.guard.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(guard));
    }

    /// How it goes with a webhook.
    pub fn status(&self, id: &str) -> Status {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned().unwrap_or_default()
    }

    /// Notes how far each is, for the next controller. Blocks on the store.
    pub fn save(&self, engine: &Engine) -> Result<(), StoreError> {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        engine.store().write_notes(vec![(WEBHOOKS, serde_json::to_vec(&statuses).unwrap_or_default())])
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Status)) {
        change(self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default());
    }
}

/// A new secret, as it is told once.
pub fn new_secret() -> Result<String, crate::access::secret::NoRandomness> {
    let hex = crate::access::secret::random_hex(SECRET_BYTES)?;
    let bytes = crate::access::secret::unhex(&hex).unwrap_or_default();
    Ok(format!("{SECRET}{}", STANDARD.encode(bytes)))
}

/// The signature of a message (Standard Webhooks, "Signature scheme").
fn sign(secret: &str, id: &str, seconds: u64, body: &str) -> Option<String> {
    let key = STANDARD.decode(secret.strip_prefix(SECRET)?).ok()?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{seconds}.{body}").as_bytes());
    Some(format!("v1,{}", STANDARD.encode(tag)))
}

/// What the senders work with.
struct Sending {
    engine: Arc<Engine>,
    vault: Arc<Vault>,
    shared: Arc<Webhooks>,
    places: Semaphore,
    slow: Semaphore,
}

/// Sends events for as long as this controller leads.
pub async fn run(engine: Arc<Engine>, vault: Arc<Vault>, shared: Arc<Webhooks>) {
    let own = Arc::clone(&engine);
    let noted = tokio::task::spawn_blocking(move || own.store().note(WEBHOOKS)).await;
    let noted = noted.ok().and_then(Result::ok).flatten();
    let noted: BTreeMap<String, Status> =
        noted.and_then(|noted| serde_json::from_slice(&noted).ok()).unwrap_or_default();
    shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&noted);
    let mut written = noted;
    let sending = Arc::new(Sending {
        engine: Arc::clone(&engine),
        vault,
        shared: Arc::clone(&shared),
        places: Semaphore::new(PLACES),
        slow: Semaphore::new(SLOW_PLACES),
    });
    let mut running: HashMap<String, (Webhook, Sender)> = HashMap::new();
    loop {
        let wanted: BTreeMap<String, Webhook> = engine.read(|state, _| {
            let enabled = state.webhooks().values().filter(|webhook| webhook.enabled);
            enabled.map(|webhook| (webhook.id.clone(), webhook.clone())).collect()
        });
        running.retain(|id, (webhook, sender)| {
            let same = wanted.get(id) == Some(webhook);
            if !same {
                // What was wrong with the one before is not held against this one.
                shared.change(id, |status| {
                    *status = Status { place: status.place.take(), expired: status.expired, ..Status::default() };
                });
            }
            same && !sender.0.is_finished()
        });
        for (id, webhook) in wanted {
            running.entry(id).or_insert_with(|| {
                let (sending, own) = (Arc::clone(&sending), webhook.clone());
                (webhook, Sender(tokio::spawn(async move { sending.send_all(&own).await })))
            });
        }
        let known: Vec<String> = engine.read(|state, _| state.webhooks().keys().cloned().collect());
        let statuses = {
            let mut statuses = shared.statuses.lock().unwrap_or_else(PoisonError::into_inner);
            statuses.retain(|id, _| known.contains(id));
            statuses.clone()
        };
        if statuses != written {
            let (own, noting) = (Arc::clone(&engine), Arc::clone(&shared));
            match tokio::task::spawn_blocking(move || noting.save(&own)).await {
                Ok(Ok(())) => written = statuses,
                Ok(Err(error)) => tracing::warn!(%error, "how far webhooks are could not be noted"),
                Err(error) => tracing::error!(%error, "how far webhooks are could not be noted"),
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The task that sends the events of one webhook. It ends with this, also when this controller leads no more.
struct Sender(JoinHandle<()>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an endpoint is sent.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: &'a str,
    data: &'a EventView,
}

impl Sending {
    fn client(&self) -> Result<Client, String> {
        tls::use_ring();
        let resolver = GuardedResolver { guard: self.shared.guard(), engine: Arc::clone(&self.engine) };
        // Whoever redirects could lead anywhere, and a proxy of the environment would connect to what was not looked at.
        let builder =
            Client::builder().redirect(Policy::none()).no_proxy().timeout(TIMEOUT).dns_resolver(Arc::new(resolver));
        builder.pool_max_idle_per_host(0).user_agent("cps-peering").build().map_err(|error| chain(&error))
    }

    /// Sends a message once. What went wrong where something did.
    async fn send(&self, webhook: &Webhook, event: &EventView, body: &str) -> Result<(), String> {
        let (account, name) = webhook.sealed_for();
        let secret = self.vault.unseal(&account, &name, &webhook.secret).map_err(|error| error.to_string())?;
        // Settings may be others by now.
        let url = self.shared.guard().check(&webhook.url, &self.engine)?;
        let seconds = self.engine.wall_ms() / 1000;
        let signature = sign(&secret, event.id(), seconds, body).ok_or("its secret cannot be read")?;
        let request =
            self.client()?.post(url).header("content-type", "application/json").header("webhook-id", event.id());
        let request = request.header("webhook-timestamp", seconds).header("webhook-signature", signature);
        let answer = request.body(body.to_owned()).send().await.map_err(|error| chain(&error.without_url()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => Err(format!("it answered {status}, and redirects are not followed")),
            StatusCode::GONE => Err("it answered 410 Gone".to_owned()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// Whether a webhook is still as it was, and enabled.
    fn is_current(&self, webhook: &Webhook) -> bool {
        self.engine.read(|state, _| state.webhooks().get(&webhook.id) == Some(webhook))
    }

    /// Sends a message until it is taken. False where the webhook was changed, disabled or deleted before that.
    async fn deliver(&self, webhook: &Webhook, event: &EventView, failures: &mut u32) -> bool {
        let message = Message { kind: event.kind(), timestamp: event.time(), data: event };
        let body = serde_json::to_string(&message).unwrap_or_default();
        loop {
            let places = if *failures == 0 { &self.places } else { &self.slow };
            let Ok(place) = places.acquire().await else { return false };
            // Nothing is sent any more from the moment at which that was answered.
            if !self.is_current(webhook) {
                return false;
            }
            let sent = self.send(webhook, event, &body).await;
            drop(place);
            let now_ms = self.engine.now_ms();
            let Err(error) = sent else {
                *failures = 0;
                self.shared.change(&webhook.id, |status| {
                    let place = Some(event.id().to_owned());
                    *status =
                        Status { place, delivered_ms: Some(now_ms), expired: status.expired, ..Status::default() };
                });
                return true;
            };
            *failures = failures.saturating_add(1);
            let wait = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(LONGEST_WAIT);
            // Not all at once after a fault that hit many.
            let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(webhook = webhook.id, failures, error, "an event was not taken");
            self.shared.change(&webhook.id, |status| {
                status.failures = *failures;
                status.error = Some(text::cut(&error, LONGEST_ERROR));
                status.retry_ms = Some(now_ms.saturating_add(wait_ms));
            });
            tokio::time::sleep(wait).await;
            // It may be too old by now, which whoever looks finds out.
            if *failures > 12 && event.is_expired(self.engine.now_ms()) {
                return true;
            }
        }
    }

    /// Sends what happens, from where it was.
    async fn send_all(&self, webhook: &Webhook) {
        let viewer = Viewer::of(webhook.owner.clone());
        let status = self.shared.status(&webhook.id);
        // What had failed waits for its time.
        let mut failures = status.failures;
        if let Some(retry_ms) = status.retry_ms {
            let wait = Duration::from_millis(retry_ms.saturating_sub(self.engine.now_ms())).min(LONGEST_WAIT);
            tokio::time::sleep(wait).await;
        }
        let noted = status.place.unwrap_or_else(|| webhook.after.clone());
        // It was noted in this very store, or in the one that this is a copy of.
        let restores = self.engine.read(|state, _| state.meta().restores);
        let mut place = noted.parse().ok().map(|place| Cursor { restores, ..place });
        loop {
            let mut listening = self.engine.listeners().listen(viewer.account().cloned());
            let (events, next) = match look(&self.engine, &viewer, place, AT_ONCE).await {
                Ok(found) => found,
                Err(failure) if failure.is_expired_place() => {
                    self.shared.change(&webhook.id, |status| status.expired += 1);
                    // Of a store that was brought back, what comes; else, what is left.
                    let newest = latest(&self.engine).await.ok();
                    place = newest.filter(|newest| place.is_some_and(|place| place.number > newest.number));
                    continue;
                }
                Err(_) => {
                    tokio::time::sleep(EVERY).await;
                    continue;
                }
            };
            let quiet = events.is_empty();
            for event in events {
                let chosen = webhook.types.is_empty() || webhook.types.contains(event.kind());
                if chosen && !self.deliver(webhook, &event, &mut failures).await {
                    return;
                }
                self.shared.change(&webhook.id, |status| status.place = Some(event.id().to_owned()));
            }
            place = Some(next);
            if quiet {
                let until = Instant::now() + Duration::from_mins(10);
                tokio::select! {
                    () = listening.told() => {}
                    // A place that stays the same would grow too old.
                    () = tokio::time::sleep_until(until) => {
                        self.shared.change(&webhook.id, |status| status.place = Some(next.to_string()));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of its specification.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = r#"{"test": 2432232314}"#;
        let signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let own = new_secret().unwrap();
        assert!(sign(&own, "a", 1, "b").unwrap() != sign(&own, "a", 2, "b").unwrap());
        assert_eq!(sign("secret", "a", 1, "b"), None);
    }
}
