//! Commands and reports come in; answers and targets for the push go out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`writer`] | the thread that decides and commits |
//! | [`affected`] | which hosts a change concerns |
//! | [`host_status`] | what is known of the agents |
//! | [`listeners`] | who was told of something |
//! | [`looking`] | what hosts say, and what is looked at from time to time |
//! | [`options`] | what the engine is told besides commands |
//! | [`pacing`] | which hosts get a change first, where it concerns many |
//! | [`path_health`] | how the paths between hosts of peerings are |
//! | [`readers`] | who waits to read the audit trail |
//! | [`sync`] | what is out of sync, and since when |
//! | [`traces`] | what is recorded of commands on their way to kernels |
//! | [`traffic`] | what passes between peers |
//! | [`waiting`] | who waits for a peering |

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

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The rules refused it.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// It could not be stored, perhaps because of others that were to be stored with it. Nothing was changed in memory or on
    /// hosts.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The store takes no writes at the moment. It is tried again every second.
    #[error("the store takes no writes at the moment, and is tried again every second: {0}")]
    StoreFailed(String),
    /// What room the store has is kept for what makes room.
    #[error("{0}: only deletes, rejects and suspensions are accepted until there is room")]
    LowSpace(String),
    /// A rule ended in a panic.
    #[error("an error in the controller itself; the command changed nothing")]
    Broken,
}

/// What a host's push worker must bring about; none when the host is gone.
pub type Target = Option<Arc<HostTarget>>;

/// Where a host's agent is, and what it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTarget {
    /// The base URL of the agent.
    pub agent: String,
    /// What the host must have.
    pub config: Arc<SharedHostConfig>,
    /// Whether it is to be asked only, and nothing pushed to it.
    pub paused: bool,
    /// The host's part in a change that some hosts get first.
    pub pacing: Option<Pacing>,
}

/// The state, the store and what is known of the agents.
pub struct Engine {
    shared: Arc<Shared>,
    traffic: Traffic,
    /// None while it ends, and where nothing can be changed.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The writer ends when it has done what it was asked; then the store is free for others.
        self.jobs = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer ended early");
        }
    }
}

/// Gives a store that has none its identity, before anything is sent to hosts. It is no commit.
fn identify(store: &Store, state: &mut State) -> Result<(), StoreError> {
    let meta = state.meta();
    if meta.cluster.is_none() {
        let identified = Change::Meta(Meta { cluster: Some(new_cluster()), ..meta });
        store.commit(std::slice::from_ref(&identified), &[], &[], meta.number)?;
        state.apply(identified);
    }
    Ok(())
}

/// How long nothing is noted of the time where nothing else is written, in milliseconds.
const NOTED_EVERY_MS: u64 = 15_000;

/// Whoever finds it otherwise has found an error in the writer; the service manager then restarts the controller.
const WRITER: &str = "the writer lives as long as the engine";

/// The end of an id: 10 of `[a-z0-9]`. VNIs are drawn from it as well, so that nobody may be able to foresee it.
fn random_tail() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = [0; 10];
    if SystemRandom::new().fill(&mut random).is_err() {
        // The kernel's source fails only before it has begun.
        random = std::array::from_fn(|_| fastrand::u8(..));
    }
    random.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).iter().collect()
}

/// How many hosts that are in sync are asked per second how they stand, about.
const ASKED_PER_S: u32 = 50;

/// How long a host that is in sync is left alone at most, where it is to be every `poll` and there are so many hosts. With jitter
/// it is three quarters of that in the middle.
pub(crate) fn question_interval(poll: Duration, hosts: usize) -> Duration {
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    poll.max(Duration::from_secs(1).saturating_mul(hosts) / ASKED_PER_S * 4 / 3)
}

/// Streams of hosts that need a push worker.
pub type NewHosts = tokio::sync::mpsc::UnboundedReceiver<(HostId, watch::Receiver<Target>)>;

impl Engine {
    /// Loads what is stored.
    pub fn open(store: Store, options: Options) -> Result<(Arc<Self>, NewHosts), StoreError> {
        let content = store.content()?;
        Self::open_with(store, content, options)
    }

    /// Begins with what is stored, where that was loaded before.
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

    /// For looking at what was stored when `content` was copied, while nobody leads who could be asked. Nothing of it can be changed,
    /// and nothing is known of agents.
    pub fn frozen(store: Store, content: Content, options: Options) -> Result<Arc<Self>, StoreError> {
        let Content { state, traffic } = content;
        let series = store.series_of(&traffic);
        let traffic = Traffic::kept(store.traffic_of(traffic)?, series);
        let reading = (options.clock)();
        let time = Timekeeper::begin(options.tolerance, &boot_id(), reading, None, None);
        let shared = Arc::new(Shared::new(state, store, options, time, SyncWatch::new(None, reading.boot_ms)));
        Ok(Arc::new(Self { shared, traffic, jobs: None, writer: None }))
    }

    /// The time that has passed for certain, in milliseconds since 1970-01-01 UTC.
    pub fn now_ms(&self) -> u64 {
        self.shared.now().ms
    }

    /// The time at which something was written down that has been kept for so long now, both in milliseconds; the former since
    /// 1970-01-01 UTC. What a clock has leapt is no age; where only the leader would know that, nothing is too old.
    pub fn written_before(&self, kept_ms: u64) -> u64 {
        if self.jobs.is_none() {
            return 0;
        }
        let now_ms = self.now_ms();
        self.shared.time().written_before(now_ms, kept_ms)
    }

    /// What the clock of the day says, in milliseconds since 1970-01-01 UTC: for what others have a clock for, too.
    pub fn wall_ms(&self) -> u64 {
        self.shared.reading().wall_ms
    }

    /// By how much the clock of the day has leapt, if nobody has confirmed it.
    pub fn leap(&self) -> Option<Leap> {
        self.shared.now().leap
    }

    /// What passes between peers.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Says who was told of something.
    pub fn listeners(&self) -> &Listeners {
        &self.shared.listeners
    }

    /// Says when there may be something new to look at: the number changes, whatever it is.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.ticks.subscribe()
    }

    /// The peerings between regions that have changed, or the ports of their VPCs, since this was last asked.
    pub fn limits_changed(&self) -> BTreeSet<PeeringId> {
        std::mem::take(&mut *self.shared.limits_changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which cluster this controller is of.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.read(|state, _| state.meta().cluster)
    }

    /// Whether nothing is sent to hosts, because the store is a copy that was brought back and nobody has released it.
    pub fn is_held(&self) -> bool {
        self.read(|state, _| state.meta().held)
    }

    /// By what right this controller leads.
    pub fn leadership(&self) -> &Leadership {
        self.shared.store.leadership()
    }

    /// Where counters are kept.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// What is recorded of commands and pushes.
    pub fn traces(&self) -> &Traces {
        &self.shared.traces
    }

    /// What is measured.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Limits and periods of the rules.
    pub fn limits(&self) -> Limits {
        self.shared.options().limits
    }

    /// Goes on with other limits and periods; the clock stays, and how often hosts are asked.
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

    /// How much room the store has, as it was found last; none where that is not known.
    pub fn space(&self) -> Option<Space> {
        *self.shared.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a writer the job is dropped, and with it whatever would have answered.
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
        // Who asked may not wait any more.
        self.request(request, dry_run, traced, Box::new(move |answer| drop(send.send(answer))));
        receive.await.unwrap_or(Err(EngineError::Broken))
    }

    /// Carries a request out: when this returns it is on disk, and on its way to the hosts. It is also carried out when
    /// nobody waits any more.
    pub async fn carry_out(&self, request: Request) -> Result<Outcome, EngineError> {
        self.answered(request, false, None).await
    }

    /// The same for a request that is recorded as this span.
    pub async fn carry_out_traced(
        &self,
        request: Request,
        traced: Option<SpanContext>,
    ) -> Result<Outcome, EngineError> {
        self.answered(request, false, traced).await
    }

    /// What a request would do. Changes nothing.
    pub async fn dry_run(&self, request: Request) -> Result<Outcome, EngineError> {
        self.answered(request, true, None).await
    }

    /// Like [`carry_out`](Self::carry_out) for who does not wait.
    pub fn submit(&self, request: Request) {
        self.request(request, false, None, Box::new(|_| ()));
    }

    /// Like [`carry_out`](Self::carry_out) for where nothing else is to be done meanwhile. Blocks on the disk.
    pub fn execute(&self, request: &Request) -> Result<Outcome, EngineError> {
        let (send, receive) = mpsc::channel();
        self.request(request.clone(), false, None, Box::new(move |answer| drop(send.send(answer))));
        receive.recv().unwrap_or(Err(EngineError::Broken))
    }

    /// Looks at the state between two commits: what it says is what the store says; with `trail`, the audit trail is whole, too.
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

    /// What an account is charged for in a window, in milliseconds since 1970-01-01 UTC: at most so many of the closed periods, and
    /// those that are open now, as if they were closed now. Blocks on the disk.
    pub fn periods(&self, payer: &AccountId, window: &Range<u64>, most: usize) -> Result<Charged, StoreError> {
        let (now_ms, own) = (self.now_ms(), payer.clone());
        // All periods that are closed at this moment are stored, and those that are open are told here. The store is read without
        // holding up anybody's command: there may be many.
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

    /// Tells the audit trail of something that is no request. It is there soon, unless the store has no room.
    pub fn note(&self, entry: Entry) {
        self.ask(Job::Note(Box::new(entry)));
    }

    /// Looks into the audit trail, the newest entries first. Blocks on the disk.
    pub fn audit(&self, query: &Query) -> Result<Vec<(u64, Entry)>, StoreError> {
        self.between_commits(true, |_| ());
        self.shared.store.audit(query)
    }

    /// Copies the store as it is now into a new file beside it, in the folder `backups`. Blocks on the disk.
    pub fn back_up(&self) -> Result<(PathBuf, Revision), BackupError> {
        let folder = self.shared.store.backups().to_owned();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BackupError::Temporary),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(BackupError::File { what: "make the folder", path: folder, source: error });
            }
            _ => {}
        }
        // Without colons, which other programs take for the end of a host's name.
        let time = timestamp_ms(now_ms()).replace(':', "-");
        let file = folder.join(format!("{time}.{}", Store::COPY));
        // What was refused belongs to the trail, too.
        self.between_commits(true, |_| ());
        let revision = self.shared.store.back_up(&file)?;
        tracing::info!(file = %file.display(), %revision, "store backed up");
        Ok((file, revision))
    }

    /// How much of the audit trail is counted, in bytes: soon after the start that is all of it.
    pub fn trail_bytes(&self) -> u64 {
        self.shared.trail().bytes()
    }

    /// How much of it there may be, in bytes.
    pub fn trail_limit_bytes(&self) -> u64 {
        self.shared.options().trail.total
    }

    /// Looks at the state and at what is known of the agents.
    pub fn read<T>(&self, look: impl FnOnce(&State, &Agents<'_>) -> T) -> T {
        let seen = self.shared.published();
        let freshness = self.shared.freshness(seen.state.hosts().len());
        look(&seen.state, &seen.agents(freshness, &self.shared.paths))
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.shared.published().state.hosts().len()
    }

    /// Waits until `look` finds something, at most for `patience`. Looks whenever anything has changed; where it is about
    /// one peering, [`wait_for_peering`](Self::wait_for_peering) costs less.
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

    /// Waits until `look` finds something when a peering has changed, at most for `patience`.
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
                // The writer never goes before this.
                let _ = changed.await;
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }
}

fn whole(number: u128) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}
