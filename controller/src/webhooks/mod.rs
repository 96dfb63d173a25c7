//! Sends events to the webhooks of accounts and operators, as specified by Standard Webhooks (<https://www.standardwebhooks.com>):
//! requests are signed with HMAC-SHA256, and retried until they are acknowledged or the event is too old to be kept.
//!
//! Each webhook reads the events independently and has a position between them, which is stored: one that does not answer
//! takes one task and one permit of those for the slow, and delays nobody. Events arrive in order, and each at least once; a repeated
//! one has the same id.
//!
//! | module | content |
//! |---|---|
//! | [`guard`] | which addresses may be reached |
//! | `delivery` | one request, and limits on concurrency |

mod delivery;
pub mod guard;

use crate::{
    access::vault::Vault,
    engine::Engine,
    events::Cursor,
    feed::{EventView, FeedError, Missing, Viewer, latest, look_for},
    model::record::Webhook,
    store::{StoreError, notes::WEBHOOKS},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cps_peering_config::{
    retry::{Backoff, jitter},
    text,
};
use delivery::{Delivery, Lane};
use guard::Guard;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

/// The first and the longest delay before a retry.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), LONGEST_WAIT);
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How many events are read at a time.
const AT_ONCE: usize = 50;
/// How often positions are stored, and webhooks are compared with the state.
const EVERY: Duration = Duration::from_secs(1);
/// How often the position of an idle webhook is advanced: one that stays the same would become too old.
const NOTED_EVERY: Duration = Duration::from_mins(10);
/// The beginning of a secret; base64 follows.
const SECRET: &str = "whsec_";
const SECRET_BYTES: usize = 32;
/// The longest reported error, in characters.
const LONGEST_ERROR: usize = 300;

/// The delivery status of a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The event after which it is; none before the first read.
    #[serde(default)]
    pub place: Option<String>,
    /// When an event was last acknowledged, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub delivered_ms: Option<u64>,
    /// The number of consecutive failures.
    #[serde(default)]
    pub failures: u32,
    /// The last error.
    #[serde(default)]
    pub error: Option<String>,
    /// When the next attempt is made, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub retry_ms: Option<u64>,
    /// How many times events were skipped because they had become too old.
    #[serde(default)]
    pub expired: u32,
}

/// What the senders share with the API.
#[derive(Debug, Default)]
pub struct Webhooks {
    guard: RwLock<Option<Arc<Guard>>>,
    statuses: Mutex<BTreeMap<String, Status>>,
}

impl Webhooks {
    /// Which addresses may be reached; by default, those of the public internet.
    pub fn guard(&self) -> Arc<Guard> {
        let guard = self.guard.read().unwrap_or_else(PoisonError::into_inner).clone();
        guard.unwrap_or_else(|| Arc::new(Guard::new(Vec::new(), Vec::new())))
    }

    /// Replaces the settings.
    pub fn tune(&self, guard: Guard) {
        *self.guard.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(guard));
    }

    /// The delivery status of a webhook.
    pub fn status(&self, id: &str) -> Status {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned().unwrap_or_default()
    }

    /// Stores positions for the next controller. Blocks on the store.
    pub fn save(&self, engine: &Engine) -> Result<(), StoreError> {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        engine.store().write_notes(vec![(WEBHOOKS, serde_json::to_vec(&statuses).unwrap_or_default())])
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Status)) {
        change(self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default());
    }
}

/// A new secret, in the form that is shown once.
pub fn new_secret() -> Result<String, crate::access::secret::NoRandomness> {
    let hex = crate::access::secret::random_hex(SECRET_BYTES)?;
    let bytes = crate::digest::unhex(&hex).unwrap_or_default();
    Ok(format!("{SECRET}{}", STANDARD.encode(bytes)))
}

/// The signature of a message (Standard Webhooks, "Signature scheme").
fn sign(secret: &str, id: &str, seconds: u64, body: &str) -> Option<String> {
    let key = STANDARD.decode(secret.strip_prefix(SECRET)?).ok()?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{seconds}.{body}").as_bytes());
    Some(format!("v1,{}", STANDARD.encode(tag)))
}

/// What the senders need.
struct Sending {
    engine: Arc<Engine>,
    shared: Arc<Webhooks>,
    delivery: Delivery,
}

/// The stored positions. Waits until they can be read: without them, a week of events would be sent again.
async fn noted_places(engine: &Arc<Engine>) -> BTreeMap<String, Status> {
    loop {
        let own = Arc::clone(engine);
        match tokio::task::spawn_blocking(move || own.store().note(WEBHOOKS)).await {
            Ok(Ok(noted)) => {
                let Some(noted) = noted else { return BTreeMap::new() };
                return serde_json::from_slice(&noted).unwrap_or_else(|error| {
                    tracing::error!(%error, "the delivery positions of webhooks were damaged: delivery restarts with the oldest event");
                    BTreeMap::new()
                });
            }
            Ok(Err(error)) => tracing::warn!(%error, "webhooks wait until it can be read how far they are"),
            Err(error) => tracing::error!(%error, "webhooks wait until it can be read how far they are"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Sends events for as long as this controller leads.
pub async fn run(engine: Arc<Engine>, vault: Arc<Vault>, shared: Arc<Webhooks>) {
    let noted = noted_places(&engine).await;
    shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&noted);
    let mut written = noted;
    let sending = Arc::new(Sending {
        engine: Arc::clone(&engine),
        shared: Arc::clone(&shared),
        delivery: Delivery::new(Arc::clone(&engine), vault, Arc::clone(&shared)),
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
                // The status of the previous one does not count for this one.
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

/// The task that sends the events of one webhook. It is aborted with this, also when this controller loses leadership.
struct Sender(JoinHandle<()>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A message to an endpoint.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: &'a str,
    data: &'a EventView,
}

impl Sending {
    /// Whether a webhook is unchanged, and enabled.
    fn is_current(&self, webhook: &Webhook) -> bool {
        self.engine.read(|state, _| state.webhooks().get(&webhook.id) == Some(webhook))
    }

    /// Sends a message until it is acknowledged. False if the webhook was changed, disabled or deleted before that.
    async fn deliver(&self, webhook: &Webhook, event: &EventView, failures: &mut u32, lane: &mut Lane) -> bool {
        let message = Message { kind: event.kind(), timestamp: event.time(), data: event };
        let body = serde_json::to_string(&message).unwrap_or_default();
        loop {
            let Some(place) = self.delivery.place(webhook, *lane).await else { return false };
            // Nothing is sent any more once a change was acknowledged.
            if !self.is_current(webhook) {
                return false;
            }
            let sent = self.delivery.send(webhook, event, &body).await;
            drop(place);
            let now_ms = self.engine.now_ms();
            let error = match sent {
                Ok(next) => {
                    (*failures, *lane) = (0, next);
                    self.shared.change(&webhook.id, |status| {
                        let place = Some(event.id().to_owned());
                        *status =
                            Status { place, delivered_ms: Some(now_ms), expired: status.expired, ..Status::default() };
                    });
                    return true;
                }
                Err(error) => error,
            };
            (*failures, *lane) = (failures.saturating_add(1), Lane::Slow);
            // With jitter after a failure that affected many.
            let wait = jitter(BACKOFF.after(*failures));
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(webhook = webhook.id, failures, error, "an event was not taken");
            self.shared.change(&webhook.id, |status| {
                status.failures = *failures;
                status.error = Some(text::cut(&error, LONGEST_ERROR));
                status.retry_ms = Some(now_ms.saturating_add(wait_ms));
            });
            tokio::time::sleep(wait).await;
            if *failures > 12 && event.is_expired(&self.engine) {
                self.shared.change(&webhook.id, |status| status.expired += 1);
                return true;
            }
        }
    }

    /// Sends events, from its position on.
    async fn send_all(&self, webhook: &Webhook) {
        let viewer = Viewer::of(webhook.owner.clone());
        let status = self.shared.status(&webhook.id);
        // After a failure it waits for its time.
        let mut failures = status.failures;
        let mut lane = if failures == 0 { Lane::Prompt } else { Lane::Slow };
        let mut note_due = Instant::now() + NOTED_EVERY;
        let mut missing = Missing::Tell;
        if let Some(retry_ms) = status.retry_ms {
            let wait = Duration::from_millis(retry_ms.saturating_sub(self.engine.now_ms())).min(LONGEST_WAIT);
            tokio::time::sleep(wait).await;
        }
        let noted = status.place.unwrap_or_else(|| webhook.after.clone());
        // The position is of this very store, or of the one that it was restored from.
        let restores = self.engine.read(|state, _| state.meta().restores);
        let mut place = noted.parse().ok().map(|place| Cursor { restores, ..place });
        loop {
            let mut listening = self.engine.listeners().listen(viewer.account().cloned());
            let (events, next) = match look_for(&self.engine, &viewer, place, AT_ONCE, missing).await {
                Ok(found) => found,
                Err(FeedError::Expired(_)) => {
                    // After a restore, future events; else, what is left after the position, or all events that are kept.
                    let newest = latest(&self.engine).await.ok();
                    let newest = newest.filter(|newest| place.is_some_and(|place| place.number > newest.number));
                    if missing == Missing::Tell {
                        self.shared.change(&webhook.id, |status| status.expired += 1);
                        place = newest.or(place);
                    } else {
                        place = newest;
                    }
                    missing = Missing::PassOver;
                    continue;
                }
                Err(_) => {
                    tokio::time::sleep(EVERY).await;
                    continue;
                }
            };
            let quiet = events.is_empty();
            if quiet {
                missing = Missing::Tell;
            }
            for event in events {
                let chosen = webhook.types.is_empty() || webhook.types.contains(event.kind());
                if chosen && !self.deliver(webhook, &event, &mut failures, &mut lane).await {
                    return;
                }
                self.shared.change(&webhook.id, |status| status.place = Some(event.id().to_owned()));
            }
            place = Some(next);
            if note_due <= Instant::now() {
                self.shared.change(&webhook.id, |status| status.place = Some(next.to_string()));
                note_due = Instant::now() + NOTED_EVERY;
            }
            if quiet {
                tokio::select! {
                    () = listening.told() => {}
                    () = tokio::time::sleep_until(note_due) => {}
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
