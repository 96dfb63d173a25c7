//! Commands and reports come in; responses and targets for pushes go out.
//!
//! | module | content |
//! |---|---|
//! | [`writer`] | the thread that decides and commits |
//! | [`affected`] | which hosts a change concerns |
//! | [`host_status`] | what is known from the agents |
//! | [`listeners`] | listeners for events |
//! | [`looking`] | reports of hosts, and periodic work |
//! | [`options`] | the engine's options |
//! | [`pacing`] | which hosts get a change first, if it concerns many |
//! | [`path_health`] | the health of paths between hosts |
//! | [`readers`] | readers that wait for the audit trail |
//! | [`sync`] | what is out of sync, and since when |
//! | [`traces`] | traces of commands on their way to kernels |
//! | [`traffic`] | traffic between peers |
//! | [`waiting`] | callers that wait for a peering |

mod affected;
mod health;
mod host_status;
mod listeners;
mod looking;
mod options;
mod pacing;
mod path_health;
mod path_mtu;
mod readers;
mod shared;
mod sync;
mod traces;
pub mod traffic;
mod trail;
mod waiting;
mod writer;

pub use crate::clock::{Clock, Tolerance, steady, system_clock};
pub use health::Health;
pub use host_status::{Agents, Confirmation, Contact, LastReport};
pub use listeners::Listeners;
pub use options::Options;
pub use pacing::Pushes;
pub use path_health::PathHealth;
use shared::{Published, Shared};
use sync::SyncWatch;
pub use traces::Traces;
use traffic::Traffic;

use crate::{
    audit::{Entry, Query},
    clock::{Timekeeper, boot_id},
    instruments::Metrics,
    model::{
        CommandError, Leap, Limits, Outcome, Request,
        disclosure::Disclosures,
        metering::{Charged, Period, open_periods},
        record::Pacing,
        state::{Change, Meta, State},
    },
    store::{BackupError, Content, Leadership, Space, Store, StoreError, new_cluster, notes},
};
use cps_peering_config::{
    Revision, SharedHostConfig,
    cluster::ClusterId,
    id::{AccountId, HostId, PeeringId},
    time::{now_ms, timestamp_ms},
};
use cps_peering_otlp::SpanContext;
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    collections::BTreeSet,
    fs::DirBuilder,
    io::ErrorKind,
    ops::Range,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use thiserror::Error;
use tokio::sync::{oneshot, watch};
pub use trail::TrailLimits;
use writer::{Answer, Job, Writer};

/// Why a command was not executed.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The rules refused it.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// It could not be stored, perhaps because of others in the same commit. Nothing was changed in memory or on
    /// hosts.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The store takes no writes at the moment. It is retried every second.
    #[error("the store takes no writes at the moment, and is tried again every second: {0}")]
    StoreFailed(String),
    /// The remaining space is reserved for commands that free space.
    #[error("{0}: only deletes, rejects and suspensions are accepted until there is room")]
    LowSpace(String),
    /// A rule panicked.
    #[error("an error in the controller itself; the command changed nothing")]
    Broken,
}

/// The target of a host's push worker; none if the host is gone.
pub type Target = Option<Arc<HostTarget>>;

/// The URL of a host's agent, and the host's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTarget {
    /// The base URL of the agent.
    pub agent: String,
    /// The configuration.
    pub config: Arc<SharedHostConfig>,
    /// Whether pushes are paused, so that it is only polled.
    pub paused: bool,
    /// The host's part in a rollout.
    pub pacing: Option<Pacing>,
}

/// The state, the store and what is known from the agents.
pub struct Engine {
    shared: Arc<Shared>,
    traffic: Traffic,
    /// None during shutdown, and if nothing can be changed.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The writer ends after the jobs that it has; then the store can be opened again.
        self.jobs = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer ended early");
        }
    }
}

/// Gives a store without an identity one, before anything is sent to hosts. This is no commit.
fn identify(store: &Store, state: &mut State) -> Result<(), StoreError> {
    let meta = state.meta();
    if meta.cluster.is_none() {
        let identified = Change::Meta(Meta { cluster: Some(new_cluster()), ..meta });
        store.commit(std::slice::from_ref(&identified), &[], &[], meta.number)?;
        state.apply(identified);
    }
    Ok(())
}

/// How often the elapsed time is stored if nothing else is, in milliseconds.
const NOTED_EVERY_MS: u64 = 15_000;

/// If it does not, that is a bug in the writer; the service manager then restarts the controller.
const WRITER: &str = "the writer lives as long as the engine";

/// The end of an id: 10 of `[a-z0-9]`. VNIs are drawn from it as well, so it must be unpredictable.
fn random_tail() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = [0; 10];
    if SystemRandom::new().fill(&mut random).is_err() {
        // The kernel's source fails only during early boot.
        random = std::array::from_fn(|_| fastrand::u8(..));
    }
    random.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).iter().collect()
}

/// How many hosts that are in sync are polled per second, about.
const ASKED_PER_S: u32 = 50;

/// The longest time between two polls of a host that is in sync, given the setting `poll` and the number of hosts. With jitter
/// it is three quarters of that on average.
pub(crate) fn question_interval(poll: Duration, hosts: usize) -> Duration {
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    poll.max(Duration::from_secs(1).saturating_mul(hosts) / ASKED_PER_S * 4 / 3)
}

/// New hosts, which need push workers.
pub type NewHosts = tokio::sync::mpsc::UnboundedReceiver<(HostId, watch::Receiver<Target>)>;

impl Engine {
    /// Loads what is stored.
    pub fn open(store: Store, options: Options) -> Result<(Arc<Self>, NewHosts), StoreError> {
        let content = store.content()?;
        Self::open_with(store, content, options)
    }

    /// Begins with content that was loaded before.
    pub fn open_with(store: Store, content: Content, options: Options) -> Result<(Arc<Self>, NewHosts), StoreError> {
        let Content { mut state, traffic } = content;
        identify(&store, &mut state)?;
        let series = store.series_of(&traffic);
        let traffic = Traffic::kept(store.traffic_of(traffic)?, series);
        let clock = Arc::clone(&options.clock);
        let kept = store.note(notes::CLOCK)?;
        let newest_ms = store.audit(&Query { limit: 1, ..Query::default() })?.first().map(|(_, entry)| entry.time_ms);
        let time = Timekeeper::begin(options.tolerance, &boot_id(), clock(), kept.as_deref(), newest_ms);
        let mut disclosures = Disclosures::new(options.overlap_checks_per_day);
        disclosures.load(&store.note(notes::DISCLOSURES)?.unwrap_or_default());
        let sync = SyncWatch::new(store.note(notes::OUT_OF_SYNC)?.as_deref(), clock().boot_ms);
        let (new_hosts, hosts) = tokio::sync::mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(state.clone(), store, options, time, sync));
        let (jobs, queue) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), state, disclosures, new_hosts);
        let writer = std::thread::Builder::new().name("writer".to_owned()).spawn(move || writer.run(&queue));
        let writer = writer.map_err(StoreError::Thread)?;
        Ok((Arc::new(Self { shared, traffic, jobs: Some(jobs), writer: Some(writer) }), hosts))
    }

    /// For reading the content of a store as of its copy, while there is no leader. It cannot be changed,
    /// and nothing is known from agents.
    pub fn frozen(store: Store, content: Content, options: Options) -> Result<Arc<Self>, StoreError> {
        let Content { state, traffic } = content;
        let series = store.series_of(&traffic);
        let traffic = Traffic::kept(store.traffic_of(traffic)?, series);
        let reading = (options.clock)();
        let time = Timekeeper::begin(options.tolerance, &boot_id(), reading, None, None);
        let shared = Arc::new(Shared::new(state, store, options, time, SyncWatch::new(None, reading.boot_ms)));
        Ok(Arc::new(Self { shared, traffic, jobs: None, writer: None }))
    }

    /// The elapsed time, in milliseconds since 1970-01-01 UTC.
    pub fn now_ms(&self) -> u64 {
        self.shared.now().ms
    }

    /// The wall-clock time at which a record was written that is `kept_ms` old now, both in milliseconds; the result since
    /// 1970-01-01 UTC. Leaps of the clock do not count as age; where only the leader would know of them, nothing is too old.
    pub fn written_before(&self, kept_ms: u64) -> u64 {
        if self.jobs.is_none() {
            return 0;
        }
        let now_ms = self.now_ms();
        self.shared.time().written_before(now_ms, kept_ms)
    }

    /// The wall clock, in milliseconds since 1970-01-01 UTC: for comparison with clocks of others.
    pub fn wall_ms(&self) -> u64 {
        self.shared.reading().wall_ms
    }

    /// By how much the wall clock has leapt, if that is unconfirmed.
    pub fn leap(&self) -> Option<Leap> {
        self.shared.now().leap
    }

    /// Traffic between peers.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Listeners for events.
    pub fn listeners(&self) -> &Listeners {
        &self.shared.listeners
    }

    /// A number that changes whenever there may be something new to look at.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.ticks.subscribe()
    }

    /// The peerings between regions that have changed, or the ports of their VPCs, since the last call.
    pub fn limits_changed(&self) -> BTreeSet<PeeringId> {
        std::mem::take(&mut *self.shared.limits_changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The identity of this controller's cluster.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.read(|state, _| state.meta().cluster)
    }

    /// Whether nothing is sent to hosts, because the store was restored from a backup and has not been released.
    pub fn is_held(&self) -> bool {
        self.read(|state, _| state.meta().held)
    }

    /// This controller's leadership.
    pub fn leadership(&self) -> &Leadership {
        self.shared.store.leadership()
    }

    /// The store, for counters.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Traces of commands and pushes.
    pub fn traces(&self) -> &Traces {
        &self.shared.traces
    }

    /// The engine's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Limits and periods of the rules.
    pub fn limits(&self) -> Limits {
        self.shared.options().limits
    }

    /// Replaces limits and periods; the clock stays, and how often hosts are polled.
    pub fn tune(&self, mut options: Options) {
        options.clock = Arc::clone(&self.shared.clock);
        options.poll = self.shared.options().poll;
        self.shared.time().tune(options.tolerance);
        *self.shared.options.write().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// How long the audit trail is kept, in milliseconds.
    pub fn trail_kept_ms(&self) -> u64 {
        whole(self.shared.options().audit_kept.as_millis())
    }

    /// Whether the store takes writes.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// How much space the store has, as last measured; none if unknown.
    pub fn space(&self) -> Option<Space> {
        *self.shared.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a writer the job is dropped, and with it the sender of its response.
    fn ask(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    fn request(&self, request: Request, dry_run: bool, traced: Option<SpanContext>, answer: Answer) {
        if self.jobs.is_none() {
            let path = self.shared.store.place().to_owned();
            return answer(Err(Arc::new(StoreError::Deposed { path }).into()));
        }
        let trace = traced.and_then(|span| self.shared.traces.asked(&request.command, span));
        self.ask(Job::Request { request: Box::new(request), dry_run, trace, answer });
    }

    async fn answered(
        &self,
        request: Request,
        dry_run: bool,
        traced: Option<SpanContext>,
    ) -> Result<Outcome, EngineError> {
        let (send, receive) = oneshot::channel();
        // The caller may have stopped waiting.
        self.request(request, dry_run, traced, Box::new(move |answer| drop(send.send(answer))));
        receive.await.unwrap_or(Err(EngineError::Broken))
    }

    /// Executes a request: when this returns it is on disk, and on its way to the hosts. It is also executed if
    /// the caller stops waiting.
    pub async fn carry_out(&self, request: Request) -> Result<Outcome, EngineError> {
        self.answered(request, false, None).await
    }

    /// The same for a request that is traced with this span.
    pub async fn carry_out_traced(
        &self,
        request: Request,
        traced: Option<SpanContext>,
    ) -> Result<Outcome, EngineError> {
        self.answered(request, false, traced).await
    }

    /// The result that a request would have. Changes nothing.
    pub async fn dry_run(&self, request: Request) -> Result<Outcome, EngineError> {
        self.answered(request, true, None).await
    }

    /// Like [`carry_out`](Self::carry_out), without waiting.
    pub fn submit(&self, request: Request) {
        self.request(request, false, None, Box::new(|_| ()));
    }

    /// Like [`carry_out`](Self::carry_out), for synchronous callers. Blocks on the disk.
    pub fn execute(&self, request: &Request) -> Result<Outcome, EngineError> {
        let (send, receive) = mpsc::channel();
        self.request(request.clone(), false, None, Box::new(move |answer| drop(send.send(answer))));
        receive.recv().unwrap_or(Err(EngineError::Broken))
    }

    /// Reads the state between two commits: it is the same as the store's; with `trail`, the audit trail is complete, too.
    /// Blocks on the disk.
    fn between_commits<T: Send + 'static>(&self, trail: bool, look: impl FnOnce(&State) -> T + Send + 'static) -> T {
        if self.jobs.is_none() {
            return look(&self.shared.published().state);
        }
        let (send, receive) = mpsc::channel();
        let look = Box::new(move |state: &State| drop(send.send(look(state))));
        self.ask(Job::Look { look, trail });
        receive.recv().expect(WRITER)
    }

    /// The charged periods of an account within a window, in milliseconds since 1970-01-01 UTC: at most `most` closed periods, and
    /// those that are open now, as if they were closed now. Blocks on the disk.
    pub fn periods(&self, payer: &AccountId, window: &Range<u64>, most: usize) -> Result<Charged, StoreError> {
        let (now_ms, own) = (self.now_ms(), payer.clone());
        // All periods that are closed at this moment are stored, and the open ones are listed here. The store is read without
        // delaying any command: there can be many.
        let open: Vec<Period> = self.between_commits(false, move |state| {
            let paid = state.peerings_of_account(&own).filter(|peering| peering.initiator.account == own);
            paid.flat_map(|peering| open_periods(peering, now_ms)).collect()
        });
        let mut closed = Vec::new();
        // One that was closed meanwhile is among the open ones.
        let begun: BTreeSet<(&PeeringId, u64)> = open.iter().map(|it| (&it.peering, it.from_ms)).collect();
        self.shared.store.periods(payer, window, |period| {
            if !begun.contains(&(&period.peering, period.from_ms)) {
                closed.push(period);
            }
            closed.len() < most
        })?;
        drop(begun);
        Ok(Charged { closed, open, now_ms })
    }

    /// Adds an entry that belongs to no request to the audit trail. It is stored soon, unless the store has no space.
    pub fn note(&self, entry: Entry) {
        self.ask(Job::Note(Box::new(entry)));
    }

    /// Reads the audit trail, the newest entries first. Blocks on the disk.
    pub fn audit(&self, query: &Query) -> Result<Vec<(u64, Entry)>, StoreError> {
        self.between_commits(true, |_| ());
        self.shared.store.audit(query)
    }

    /// Backs up the store into a new file beside it, in the folder `backups`. Blocks on the disk.
    pub fn back_up(&self) -> Result<(PathBuf, Revision), BackupError> {
        let folder = self.shared.store.backups().to_owned();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BackupError::Temporary),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(BackupError::File { what: "make the folder", path: folder, source: error });
            }
            _ => {}
        }
        // Without colons, which other programs take for the end of a host name.
        let time = timestamp_ms(now_ms()).replace(':', "-");
        let file = folder.join(format!("{time}.{}", Store::COPY));
        // Refusals belong to the trail, too.
        self.between_commits(true, |_| ());
        let revision = self.shared.store.back_up(&file)?;
        tracing::info!(file = %file.display(), %revision, "store backed up");
        Ok((file, revision))
    }

    /// How many bytes of the audit trail are counted: soon after the start that is all of it.
    pub fn trail_bytes(&self) -> u64 {
        self.shared.trail().bytes()
    }

    /// How many bytes it may take.
    pub fn trail_limit_bytes(&self) -> u64 {
        self.shared.options().trail.total
    }

    /// Reads the state and what is known from the agents.
    pub fn read<T>(&self, look: impl FnOnce(&State, &Agents<'_>) -> T) -> T {
        let seen = self.shared.published();
        let freshness = self.shared.freshness(seen.state.hosts().len());
        look(&seen.state, &seen.agents(freshness, &self.shared.paths))
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.shared.published().state.hosts().len()
    }

    /// Waits until `look` finds something, at most for `patience`. Calls it whenever anything has changed; for
    /// a single peering, [`wait_for_peering`](Self::wait_for_peering) costs less.
    pub async fn wait_for<T>(
        &self,
        patience: Duration,
        mut look: impl FnMut(&State, &Agents<'_>) -> Option<T>,
    ) -> Option<T> {
        let mut ticks = self.shared.ticks.subscribe();
        let found = async {
            loop {
                ticks.borrow_and_update();
                if let Some(found) = self.read(&mut look) {
                    return found;
                }
                if ticks.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }

    /// Waits until `look` finds something after a change of a peering, at most for `patience`.
    pub async fn wait_for_peering<T>(
        &self,
        patience: Duration,
        id: &PeeringId,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        let found = async {
            loop {
                let changed = self.shared.waiting.enter(id);
                if let Some(found) = self.read(|state, _| look(state)) {
                    return found;
                }
                // The writer outlives this.
                let _ = changed.await;
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }
}

fn whole(number: u128) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}
