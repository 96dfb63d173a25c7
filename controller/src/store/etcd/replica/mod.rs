//! A follower's copy of the store: loaded once, and updated by a watch from then on. When the follower becomes leader it
//! begins with the copy, whatever its size.

use super::{
    Cluster, Etcd, Range, boot_ms, client,
    read::{Moment, side_id},
};
use crate::model::state::State;
use crate::store::{Content, EtcdError, StoreError, records::RowCodec, retained::Retained};
use cps_peering_config::retry::jitter;
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

#[cfg(test)]
mod tests;

/// How often the thread checks whether to end.
const TICK: Duration = Duration::from_millis(200);
/// How often a silent watch is compared with what is stored.
const CHECK_EVERY: Duration = Duration::from_secs(3);
/// How long it waits if etcd does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The copy, and the thread that updates it.
pub struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Arc<Cluster>,
    /// None until everything was loaded.
    held: Mutex<Option<Held>>,
    moved: Condvar,
    stop: AtomicBool,
    /// How many times everything was loaded.
    loads: AtomicU64,
    /// Unknown fields of records, written by a newer release.
    retained: Arc<Retained>,
    /// Why the store cannot be copied, if that is not due to etcd.
    unreadable: Mutex<Option<String>>,
    /// How many times the leader's key was deleted.
    left: watch::Sender<u64>,
    /// When the copy was last known to be complete, by [`boot_ms`].
    whole_ms: AtomicU64,
}

struct Held {
    content: Content,
    /// It contains everything up to this revision.
    revision: u64,
}

impl Drop for Replica {
    fn drop(&mut self) {
        // The thread ends by itself, soon.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Replica {
    /// Begins to follow.
    pub fn begin(cluster: &Arc<Cluster>) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            cluster: Arc::clone(cluster),
            held: Mutex::new(None),
            moved: Condvar::new(),
            stop: AtomicBool::new(false),
            loads: AtomicU64::new(0),
            retained: Arc::default(),
            unreadable: Mutex::default(),
            left: watch::Sender::new(0),
            whole_ms: AtomicU64::new(0),
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("copy".to_owned()).spawn(move || own.run()).map_err(StoreError::Thread)?;
        Ok(Self { shared })
    }

    /// Where the store is.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.shared.cluster
    }

    /// The number of its last commit; none until it is loaded.
    pub fn number(&self) -> Option<u64> {
        self.shared.held().as_ref().map(|held| held.content.state.meta().number)
    }

    /// Why this controller could not lead with it; none if no obstacle is known. `check`: further conditions.
    pub fn obstacle(&self, check: impl FnOnce(&State) -> Option<String>) -> Option<String> {
        let unreadable = self.shared.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if unreadable.is_some() {
            return unreadable;
        }
        let state = self.shared.held().as_ref().map(|held| held.content.state.clone())?;
        check(&state)
    }

    /// Changes each time that a leader is gone.
    pub fn leader_gone(&self) -> watch::Receiver<u64> {
        self.shared.left.subscribe()
    }

    /// How many times everything was loaded.
    pub fn loads(&self) -> u64 {
        self.shared.loads.load(Ordering::Relaxed)
    }

    /// Unknown fields of its records, written by a newer release.
    pub(in crate::store) fn retained(&self) -> Arc<Retained> {
        Arc::clone(&self.shared.retained)
    }

    /// Its current content; none until it is loaded.
    pub fn content(&self) -> Option<Content> {
        self.shared.held().as_ref().map(|held| held.content.clone())
    }

    /// How long ago it was last known to be complete.
    pub fn age(&self) -> Duration {
        Duration::from_millis(boot_ms().saturating_sub(self.shared.whole_ms.load(Ordering::Relaxed)))
    }

    /// Takes the copy when it contains everything up to a revision. None if it is not loaded, or not that far after `wait`.
    pub(in crate::store) fn take(&self, revision: u64, wait: Duration) -> Option<Content> {
        let held = self.shared.held();
        let behind = |held: &mut Option<Held>| held.as_ref().is_some_and(|held| held.revision < revision);
        let waited = self.shared.moved.wait_timeout_while(held, wait, behind);
        let (mut held, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.shared.stop.store(true, Ordering::Relaxed);
        held.take().filter(|held| held.revision >= revision).map(|held| held.content)
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // A panic in the middle of a change must not leave a copy that looks complete.
        self.held.lock().unwrap_or_else(|poisoned| {
            let mut held = poisoned.into_inner();
            *held = None;
            held
        })
    }

    /// The copy is complete at this moment.
    fn is_whole(&self) {
        self.whole_ms.store(boot_ms(), Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(&self) {
        let mut attempt = 0;
        while !self.stopped() {
            let held = self.held().as_ref().map(|held| held.revision);
            let followed = match held {
                Some(revision) => self.follow(revision, attempt),
                None => self.load(),
            };
            match followed {
                Ok(()) => {}
                Err(StoreError::Etcd { source, .. }) if source.is_compacted() => {
                    tracing::info!("etcd was compacted before it was all copied: the copy is loaded again");
                    *self.held() = None;
                }
                Err(StoreError::Etcd { source, .. }) => {
                    tracing::debug!(error = %source, "the copy of the store is not kept at the moment");
                    attempt += 1;
                    std::thread::sleep(jitter(PAUSE));
                }
                Err(error) => {
                    // The leader finds such a record, too.
                    let error = error.to_string();
                    let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
                    if unreadable.as_ref() != Some(&error) {
                        tracing::warn!(error, "the store cannot be copied: it is tried again");
                    }
                    *unreadable = Some(error);
                    drop(unreadable);
                    *self.held() = None;
                    std::thread::sleep(CHECK_EVERY);
                }
            }
        }
    }

    /// Loads everything as of one moment. The watch then completes what was only partly in place.
    fn load(&self) -> Result<(), StoreError> {
        let now = [Range::key(&self.cluster.key("records/meta"))];
        let done = self.cluster.client.ranges(&now, super::WITHIN).map_err(self.cluster.failed("copy it"))?;
        let moment = Moment::at(done.header.revision);
        let etcd = Etcd::reading(Arc::clone(&self.cluster));
        let mut content = Content::default();
        self.retained.clear();
        for rest in ["records/", "traffic/"] {
            etcd.pages(&moment, rest, &mut |rows| {
                for row in rows {
                    self.set(&mut content, &format!("{rest}{}", row.key), Some(row.value))?;
                }
                Ok(())
            })?;
        }
        *self.held() = Some(Held { content, revision: moment.revision() });
        self.is_whole();
        *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.loads.fetch_add(1, Ordering::Relaxed);
        tracing::info!(revision = moment.revision(), "the store is copied");
        self.moved.notify_all();
        Ok(())
    }

    /// Follows the watch, until it is told to stop.
    fn follow(&self, revision: u64, attempt: usize) -> Result<(), StoreError> {
        let failed = || self.cluster.failed("follow it");
        // Parts of large commits are in between, and are ignored.
        // The leader's key, which is before them all, tells when a leader is gone.
        let (first, last) = (self.cluster.key("leader"), self.cluster.key("traffic/"));
        let range = Range { end: Some(client::behind(&last)), first, ..Range::default() };
        let mut watch = self.cluster.client.watch(&range, revision + 1, attempt).map_err(failed())?;
        let (mut checked, mut expected) = (Instant::now(), 0);
        while !self.stopped() {
            match watch.next(TICK).map_err(failed())? {
                Some(written) => self.take(written)?,
                None if checked.elapsed() >= CHECK_EVERY => {
                    // What was there at the last check must have arrived by now.
                    if self.held().as_ref().is_none_or(|held| held.revision < expected) {
                        return Err(failed()(EtcdError::Silent("a member tells nothing any more".to_owned())));
                    }
                    let number = Range::key(&self.cluster.key("records/meta"));
                    let found = self.cluster.client.range(&number, super::WITHIN).map_err(failed())?;
                    expected = found.kvs.first().map_or(0, |row| row.mod_revision);
                    if self.held().as_ref().is_some_and(|held| held.revision >= expected) {
                        self.is_whole();
                    }
                    checked = Instant::now();
                }
                None => {}
            }
        }
        Ok(())
    }

    fn take(&self, written: client::Written) -> Result<(), StoreError> {
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return Ok(()) };
        for (key, value) in written.rows {
            if let Some(rest) = key.strip_prefix(self.cluster.settings.prefix.as_str()) {
                if rest == "leader" && value.is_none() {
                    self.left.send_modify(|times| *times += 1);
                }
                self.set(&mut held.content, rest, value)?;
            }
        }
        held.revision = written.revision;
        self.is_whole();
        self.moved.notify_all();
        Ok(())
    }

    fn set(&self, content: &mut Content, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if let Some(record) = key.strip_prefix("records/") {
            let rows = RowCodec { place: self.cluster.place(), retained: &self.retained };
            if let Some(change) = rows.change(record, value.as_deref())? {
                content.state.apply(change);
            }
        } else if let Some(side) = key.strip_prefix("traffic/") {
            let unknown = || StoreError::UnknownRecord { path: self.cluster.place().to_owned(), key: key.to_owned() };
            let side = side_id(side).ok_or_else(unknown)?;
            match value {
                Some(value) => content.traffic.insert(side, value),
                None => content.traffic.remove(&side),
            };
        }
        Ok(())
    }
}
