//! Leadership: the leader is the process that created the key `leader`, as long as etcd keeps it.
//!
//! etcd deletes the key when its lease was not renewed for a while. A leader counts that time from before it requested the
//! renewal, on a clock that continues while the machine or the process sleeps, and stops some time before etcd does.

use super::client::Client;
pub(super) use crate::clock::boot_ms;
use crate::store::{EtcdError, LeaseState};
use cps_peering_config::retry::jitter;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// The timeout of one request to etcd about a lease of this many seconds: there must be time for more than one attempt, and a slow
/// store gets more of it with a longer lease.
fn attempt(seconds: u64) -> Duration {
    Duration::from_millis(seconds * 1000 * 7 / 30)
}

const PAUSE: Duration = Duration::from_millis(100);

/// The content of the leader's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Identifies this term of leadership.
    pub id: String,
    /// Its URL; none if it does not serve, as during a move of the store.
    pub url: Option<String>,
}

/// The lease by which this process leads. When it is dropped, another process can.
pub(super) struct Lease {
    renewal: Arc<Renewal>,
    renewing: Option<JoinHandle<()>>,
}

/// Renews a lease.
struct Renewal {
    client: Arc<Client>,
    lease: u64,
    /// The timeout of one request to etcd.
    attempt: Duration,
    /// The revision in which the key was created.
    created: u64,
    state: Arc<LeaseState>,
    stop: (Mutex<bool>, Condvar),
}

/// How long after requesting a lease it can be relied on, in milliseconds.
fn reliable_ms(seconds: u64) -> u64 {
    // Less an eighth, for clocks of different speeds, and for what was in flight when it was checked.
    seconds * 1000 * 7 / 8
}

impl Lease {
    /// Creates the key if it does not exist. None if it does.
    pub(super) fn claim(
        client: &Arc<Client>,
        key: &str,
        leader: &Leader,
        seconds: u64,
    ) -> Result<Option<Self>, EtcdError> {
        let asked_ms = boot_ms();
        let attempt = attempt(seconds);
        let (lease, granted) = client.grant(seconds, attempt)?;
        let value = serde_json::to_vec(leader).map_err(|error| EtcdError::Unreadable(error.to_string()))?;
        let created = loop {
            match client.claim(key, &value, lease, attempt) {
                Ok(done) if done.succeeded => break Some(done.header.revision),
                Ok(done) => {
                    // It may be ours, from an attempt whose response was lost.
                    let there = done.ranges().next().and_then(|found| found.kvs.into_iter().next());
                    break there.filter(|it| it.value == value).map(|it| it.create_revision);
                }
                Err(_) if boot_ms() < asked_ms + reliable_ms(seconds) => std::thread::sleep(jitter(PAUSE)),
                Err(error) => return Err(error),
            }
        };
        let Some(created) = created else {
            // It would expire anyway.
            let _ = client.revoke(lease, attempt);
            return Ok(None);
        };
        let renewal = Arc::new(Renewal {
            client: Arc::clone(client),
            lease,
            attempt,
            created,
            state: Arc::new(LeaseState::new(asked_ms + reliable_ms(seconds.min(granted)))),
            stop: (Mutex::new(false), Condvar::new()),
        });
        let own = Arc::clone(&renewal);
        let renewing = std::thread::Builder::new().name("lease".to_owned()).spawn(move || own.renew(seconds));
        let renewing = renewing.map_err(|error| EtcdError::Unprepared(error.to_string()))?;
        Ok(Some(Self { renewal, renewing: Some(renewing) }))
    }

    /// The revision in which the key was created: every write compares it.
    pub(super) fn created(&self) -> u64 {
        self.renewal.created
    }

    /// Whether it is certain that no other process leads.
    pub(super) fn holds(&self) -> bool {
        self.renewal.state.holds()
    }

    /// Gives up: nothing is written any more.
    pub(super) fn end(&self) {
        self.renewal.end();
    }

    /// The state of the lease, for others to check.
    pub(super) fn state(&self) -> Arc<LeaseState> {
        Arc::clone(&self.renewal.state)
    }
}

impl Lease {
    /// Gives up, and lets others lead immediately.
    pub(super) fn leave(&self) {
        self.renewal.end();
        // Otherwise they wait until the lease expires.
        let _ = self.renewal.client.revoke(self.renewal.lease, self.renewal.attempt);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leave();
        if let Some(renewing) = self.renewing.take() {
            // The thread ends after its current request, whatever the result.
            let _ = renewing.join();
        }
    }
}

impl Renewal {
    fn end(&self) {
        self.state.end();
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
    }

    /// Renews the lease three times per its length, until that fails for too long.
    fn renew(&self, seconds: u64) {
        let every = Duration::from_millis(seconds * 1000 / 3);
        let mut pause = every;
        loop {
            let stop = self.stop.0.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.stop.1.wait_timeout_while(stop, pause, |stop| !*stop);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
            let asked_ms = boot_ms();
            match self.client.keep_alive(self.lease, self.attempt) {
                Ok(0) => {
                    tracing::error!("etcd has given the lease up: another controller may lead");
                    return self.end();
                }
                Ok(granted) => {
                    self.state.extend(asked_ms + reliable_ms(seconds.min(granted)));
                    pause = every;
                }
                Err(error) => {
                    tracing::warn!(%error, "the lease could not be renewed");
                    pause = PAUSE;
                }
            }
            if !self.state.holds() {
                tracing::error!("the lease was not renewed in time: another controller may lead");
                return self.end();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_stops_before_etcd_does_and_survives_two_missed_renewals() {
        for seconds in 2..=60 {
            assert!(reliable_ms(seconds) < seconds * 1000);
            assert!(reliable_ms(seconds) > 2 * seconds * 1000 / 3);
            // From the first renewal on there is time for two unanswered requests.
            let asked = Duration::from_millis(seconds * 1000 / 3) + 2 * attempt(seconds) + PAUSE;
            assert!(asked < Duration::from_millis(reliable_ms(seconds)), "{seconds}");
        }
    }
}
