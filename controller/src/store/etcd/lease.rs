//! Who leads: whoever has put the key `leader`, as long as etcd keeps it.
//!
//! etcd forgets the key when its lease was not renewed for a while. A leader counts that time from before it asked for the
//! renewal, on a clock that goes on while the machine or the process sleeps, and leaves off some time before etcd does.

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

/// For how long etcd is asked once about a lease of so many seconds: there must be time for more than one attempt, and a store that is
/// slow has more of it where the lease is longer.
fn attempt(seconds: u64) -> Duration {
    Duration::from_millis(seconds * 1000 * 7 / 30)
}

const PAUSE: Duration = Duration::from_millis(100);

/// What the key of the leader says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// A name of this one time of leading.
    pub id: String,
    /// Where it serves; none where it does not, as when the store is moved.
    pub url: Option<String>,
}

/// The lease by which this process leads. When it is dropped, another may.
pub(super) struct Lease {
    renewal: Arc<Renewal>,
    renewing: Option<JoinHandle<()>>,
}

/// What keeps a lease.
struct Renewal {
    client: Arc<Client>,
    lease: u64,
    /// For how long etcd is asked once.
    attempt: Duration,
    /// The revision in which the key was put.
    created: u64,
    state: Arc<LeaseState>,
    stop: (Mutex<bool>, Condvar),
}

/// How long after having asked for a lease it may be relied on, in milliseconds.
fn reliable_ms(seconds: u64) -> u64 {
    // An eighth for clocks that go at different speeds, and for what is on its way when it was checked.
    seconds * 1000 * 7 / 8
}

impl Lease {
    /// Puts the key if it is not there. None when it is.
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
                    // It may be ours from an attempt that was not answered.
                    let there = done.ranges().next().and_then(|found| found.kvs.into_iter().next());
                    break there.filter(|it| it.value == value).map(|it| it.create_revision);
                }
                Err(_) if boot_ms() < asked_ms + reliable_ms(seconds) => std::thread::sleep(jitter(PAUSE)),
                Err(error) => return Err(error),
            }
        };
        let Some(created) = created else {
            // It would end by itself.
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

    /// The revision in which the key was put: what every write compares.
    pub(super) fn created(&self) -> u64 {
        self.renewal.created
    }

    /// Whether it is certain that nobody else leads.
    pub(super) fn holds(&self) -> bool {
        self.renewal.state.holds()
    }

    /// Gives up: nothing is written any more.
    pub(super) fn end(&self) {
        self.renewal.end();
    }

    /// How it stands from now on.
    pub(super) fn state(&self) -> Arc<LeaseState> {
        Arc::clone(&self.renewal.state)
    }
}

impl Lease {
    /// Gives up, and lets others lead at once.
    pub(super) fn leave(&self) {
        self.renewal.end();
        // Otherwise they wait until the lease ends by itself.
        let _ = self.renewal.client.revoke(self.renewal.lease, self.renewal.attempt);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leave();
        if let Some(renewing) = self.renewing.take() {
            // It ends with its present question, whatever that leads to.
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

    /// Renews the lease three times in its length, until it cannot.
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
    fn a_leader_leaves_off_before_etcd_does_and_can_miss_two_renewals() {
        for seconds in 2..=60 {
            assert!(reliable_ms(seconds) < seconds * 1000);
            assert!(reliable_ms(seconds) > 2 * seconds * 1000 / 3);
            // From the first renewal on there is time for two questions that nobody answers.
            let asked = Duration::from_millis(seconds * 1000 / 3) + 2 * attempt(seconds) + PAUSE;
            assert!(asked < Duration::from_millis(reliable_ms(seconds)), "{seconds}");
        }
    }
}
