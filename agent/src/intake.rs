//! Accepts pushed configurations: checks them, stores them, and hands them to the reconciler.
//!
//! Ending traffic does not wait for the disk, so the kernel is changed while the configuration is being stored; it is
//! confirmed only once it is stored. One is written at a time. What is pushed while the disk does not respond is
//! applied to the kernel as well, and the newest push is written next; those before it are never confirmed. So there
//! are never more than two.
//!
//! A disk that returns errors is treated like a slow one: the pusher gets an error, the kernel keeps what it has,
//! because what was ended must not come back (rule C5), and the write is retried until it succeeds or a newer
//! configuration replaces it.

use crate::{
    cluster::{Membership, MembershipError, MembershipFile, Update},
    ledger::{Ledger, LedgerError, Record},
    reconcile::{Handle, Promise, RequestError, UNTIL_WRITTEN},
};
use axum::{body::Bytes, http::StatusCode};
use cps_peering_config::{
    InvalidHostConfig, Revision, ValidHostConfig,
    cluster::ClusterId,
    format::FormatError,
    id::HostId,
    retry::{Backoff, Retry},
    tls as names,
};
use cps_peering_http::tls::Identity;
use cps_peering_otlp::{Kind, Moment, Recorder, SpanContext};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    sync::{Mutex, Notify, watch},
    task::spawn_blocking,
    time::timeout,
};

/// How long to wait before retrying a failed write; no longer than a client that pushes again waits for the response.
const TRY_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// How long reading the membership may take before the last known one is used instead.
const MEMBERSHIP_WITHIN: Duration = Duration::from_secs(1);

/// Where an accepted configuration survives a reboot.
pub trait ConfigStore: Send + Sync + 'static {
    /// The file.
    fn path(&self) -> &Path;

    /// Stores a configuration: just the push that led to it if that is enough. On return it survives a power failure.
    fn store(&self, push: &Record<Bytes>, config: &ValidHostConfig) -> Result<(), LedgerError>;
}

impl ConfigStore for Ledger {
    fn path(&self) -> &Path {
        Ledger::path(self)
    }

    fn store(&self, push: &Record<Bytes>, config: &ValidHostConfig) -> Result<(), LedgerError> {
        Ledger::store(self, push, config)
    }
}

/// A push that was not accepted.
#[derive(Debug, Error)]
pub(crate) enum Refused {
    #[error("not a configuration: {0}")]
    Malformed(#[from] FormatError),
    #[error("illegal configuration: {0}")]
    Invalid(#[from] InvalidHostConfig),
    #[error("this configuration is meant for host {meant}, and this is {here}")]
    OtherHost { meant: String, here: String },
    #[error("this configuration is meant for host {meant}, and this agent's certificate is for {names:?}")]
    OtherCertificate { meant: String, names: Vec<String> },
    #[error(
        "this host belongs to cluster {ours}, and this is cluster {theirs}: if the host is to change over, run `cps-peering-agent join \
         {theirs}` on it; otherwise stop the controller of {theirs}"
    )]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("revision {pushed} is older than {have}, which this host has")]
    Older { pushed: Revision, have: Revision },
    #[error("revision {0} was pushed before with other content")]
    OtherContent(Revision),
    #[error("the patch is based on revision {base}, and this host has {have}")]
    OtherBase { base: Revision, have: String },
    #[error("the patch leads from revision {base} to {revision}, which is not newer")]
    Backwards { base: Revision, revision: Revision },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the task that stored the configuration ended early: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
    #[error("revision {revision} is not stored: the disk has not answered for {waited_s} s. {kernel}; push it again")]
    Hangs { revision: Revision, waited_s: u64, kernel: &'static str },
    #[error("revision {0} was never stored: a newer one came before the disk had taken it")]
    Superseded(Revision),
    #[error("this host has VPCs: remove them before it leaves its cluster")]
    HasVpcs,
    #[error("{0} is still being written: retry later")]
    Busy(&'static str),
    #[error("{0} could not be read in time, and was not read before")]
    Unread(String),
    #[error(transparent)]
    Asked(#[from] RequestError),
    #[error("the shares could not be stored: {0}")]
    Shares(#[from] std::io::Error),
}

impl Refused {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refused::Malformed(_)
            | Refused::Invalid(_)
            | Refused::OtherHost { .. }
            | Refused::OtherCertificate { .. }
            | Refused::Backwards { .. } => StatusCode::BAD_REQUEST,
            Refused::Older { .. }
            | Refused::OtherContent(_)
            | Refused::OtherCluster { .. }
            | Refused::OtherBase { .. }
            | Refused::Superseded(_)
            | Refused::HasVpcs
            | Refused::Asked(RequestError::Older { .. }) => StatusCode::CONFLICT,
            Refused::Membership(_)
            | Refused::Ledger(_)
            | Refused::Interrupted(_)
            | Refused::Hangs { .. }
            | Refused::Busy(_)
            | Refused::Unread(_)
            | Refused::Asked(_)
            | Refused::Shares(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A pushed configuration, and the part of the push to store.
pub(crate) struct Push {
    pub(crate) config: ValidHostConfig,
    pub(crate) record: Record<Bytes>,
}

/// What a push may be based on.
pub(crate) struct Base<'a> {
    /// The configuration that is stored.
    stored: Option<&'a ValidHostConfig>,
    /// A newer one that may or may not be stored.
    storing: Option<Revision>,
}

impl<'a> Base<'a> {
    /// The configuration that a patch of this base changes. One that may never be stored does not count.
    pub(crate) fn of_patch(&self, base: Revision) -> Result<&'a ValidHostConfig, Refused> {
        match (self.stored, self.storing) {
            (Some(stored), None) if stored.revision == base => Ok(stored),
            (_, Some(storing)) => Err(Refused::OtherBase { base, have: format!("{storing}, which is being stored") }),
            (stored, None) => {
                let have = stored.map_or_else(|| "none".to_owned(), |stored| stored.revision.to_string());
                Err(Refused::OtherBase { base, have })
            }
        }
    }
}

/// Whether an agent with this certificate may take a configuration for this host. Without TLS the first one decides.
pub(crate) fn is_meant(identity: Option<&Identity>, host: &HostId) -> bool {
    identity.is_none_or(|identity| identity.facts().names.contains(&names::host(host)))
}

/// Accepts configurations.
#[derive(Clone)]
pub(crate) struct Intake(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Held while the ledger or the membership is written.
    turn: Arc<Mutex<()>>,
    store: Arc<dyn ConfigStore>,
    membership: MembershipFile,
    /// The membership when it was last read or written.
    known: watch::Sender<Option<Membership>>,
    /// Held while the membership is read, so that a disk that hangs blocks one thread and not one per request; and
    /// while it is written, so that an older read is not taken for newer.
    reading: Arc<Mutex<()>>,
    /// Woken when a configuration arrives that replaces one whose write has failed.
    newer: Notify,
    reconciler: Handle,
    /// The identity whose certificate names this host; none without TLS.
    identity: Option<Identity>,
    recorder: Recorder,
}

/// The current configurations.
struct State {
    /// The one that is known to be in the ledger.
    stored: Option<Arc<ValidHostConfig>>,
    /// The one that is being written.
    writing: Option<Pending>,
    /// The one that is written next. Set only while another one is being written.
    next: Option<Pending>,
}

/// Whether a configuration is stored, once that is known.
type Outcome = Option<Result<(), Arc<Refused>>>;

/// A configuration that is not stored yet.
struct Pending {
    config: Arc<ValidHostConfig>,
    record: Record<Bytes>,
    cluster: Option<ClusterId>,
    /// Whether the kernel is already being brought to it; otherwise the kernel waits for the disk too.
    early: bool,
    /// Kept once it is stored; none if the kernel waits, or it was kept already.
    promise: Option<Promise>,
    outcome: watch::Sender<Outcome>,
    /// The span of its push, if that is recorded.
    traced: Option<SpanContext>,
}

impl Pending {
    fn end(&self, outcome: Result<(), Arc<Refused>>) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl State {
    /// Makes the waiting configuration the next to be written, if there is one; if there is a stored one to fall back
    /// to, the kernel starts on it now.
    fn advance(&mut self, reconciler: &Handle) {
        self.writing = self.next.take();
        if let Some(next) = self.writing.as_mut().filter(|next| !next.early && self.stored.is_some()) {
            next.early = true;
            next.promise = Some(reconciler.configure_early(Arc::clone(&next.config)));
        }
    }

    /// The newest one that is not stored yet.
    fn pending(&self) -> Option<&Pending> {
        self.next.as_ref().or(self.writing.as_ref())
    }

    /// The same, of those that can still be stored: not of a cluster that an operator has removed the host from
    /// meanwhile.
    fn pending_of(&self, at_rest: &Membership) -> Option<&Pending> {
        self.next.iter().chain(&self.writing).find(|pending| at_rest.admits(pending.cluster))
    }
}

/// The immediate outcome of a push.
enum Taken {
    /// There is nothing to do.
    Had,
    /// It is being stored.
    Pending { outcome: watch::Receiver<Outcome>, early: bool },
}

impl Intake {
    /// `stored` is what the store held at start.
    pub(crate) fn new(
        stored: Option<Arc<ValidHostConfig>>,
        store: impl ConfigStore,
        reconciler: Handle,
        identity: Option<Identity>,
        recorder: Recorder,
    ) -> Self {
        let membership = MembershipFile::beside(store.path());
        let state = Mutex::new(State { stored, writing: None, next: None });
        let store = Arc::new(store);
        // A file that cannot be read is reported where it matters.
        let known = watch::Sender::new(membership.load().ok());
        let (turn, reading, newer) = Default::default();
        Self(Arc::new(Inner { state, turn, store, membership, known, reading, newer, reconciler, identity, recorder }))
    }

    /// The host's cluster, as far as it is known.
    pub(crate) async fn cluster(&self) -> Option<ClusterId> {
        self.membership().await.ok()?.cluster
    }

    /// The same without reading the file.
    pub(crate) fn known_cluster(&self) -> Option<ClusterId> {
        self.known()?.cluster
    }

    fn known(&self) -> Option<Membership> {
        *self.0.known.borrow()
    }

    /// The membership, if a controller of this cluster may configure the host.
    pub(crate) async fn admits(&self, asks: Option<ClusterId>) -> Result<Membership, Refused> {
        admits(self.membership().await?, asks)
    }

    /// The membership from the file, because operators write it too; if the disk does not respond in time, the last one
    /// read.
    async fn membership(&self) -> Result<Membership, Refused> {
        if let Ok(read) = timeout(MEMBERSHIP_WITHIN, self.read_membership()).await {
            return read;
        }
        self.known().ok_or_else(|| Refused::Unread(self.0.membership.path().display().to_string()))
    }

    /// The membership from the file, however long reading takes.
    async fn read_membership(&self) -> Result<Membership, Refused> {
        let reading = Arc::clone(&self.0.reading).lock_owned().await;
        let own = self.clone();
        let load = spawn_blocking(move || {
            let _reading = reading;
            let loaded = own.0.membership.load()?;
            own.0.known.send_replace(Some(loaded));
            Ok::<_, MembershipError>(loaded)
        });
        Ok(load.await??)
    }

    /// Accepts a configuration. Returns its revision once it is stored, or why it is not in time.
    pub(crate) async fn accept(
        &self,
        cluster: Option<ClusterId>,
        read: impl FnOnce(&Base<'_>) -> Result<Push, Refused> + Send,
        patience: Duration,
        traced: Option<SpanContext>,
    ) -> Result<Revision, Arc<Refused>> {
        let began = Instant::now();
        let (revision, taken) = self.take(cluster, read, traced).await?;
        let Taken::Pending { mut outcome, early } = taken else { return Ok(revision) };
        let outcome = match timeout(patience, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            // The task that stored it ended without a result, or is still running.
            Ok(Err(_)) | Err(_) => None,
        };
        let waited_s = began.elapsed().as_secs();
        let kernel = if early { "The kernel is brought to it already" } else { "The kernel waits for it" };
        let hangs = || Err(Arc::new(Refused::Hangs { revision, waited_s, kernel }));
        outcome.unwrap_or_else(hangs).map(|()| revision)
    }

    /// Checks a configuration and, if it is acceptable, stores it and brings the kernel to it.
    async fn take(
        &self,
        cluster: Option<ClusterId>,
        read: impl FnOnce(&Base<'_>) -> Result<Push, Refused> + Send,
        traced: Option<SpanContext>,
    ) -> Result<(Revision, Taken), Refused> {
        let Inner { reconciler, identity, .. } = &*self.0;
        let identity = identity.as_ref();
        // A disk that hangs must not block other requests. What was written since is known.
        let last_read = self.membership().await?;
        let mut state = self.0.state.lock().await;
        let at_rest = admits(self.known().unwrap_or(last_read), cluster)?;
        // Nothing below awaits, so that a client that disconnects leaves nothing half done.
        // A configuration that is being written counts as stored.
        let pending = state.pending_of(&at_rest);
        let membership = admits(pending.map_or(at_rest, |pending| at_rest.after(pending.cluster)), cluster)?;
        // A configuration accepted under another certificate, or from another cluster, is no base to build on.
        let counts = |config: &&Arc<ValidHostConfig>, membership: &Membership| {
            is_meant(identity, &config.host) && !membership.is_new_to(cluster)
        };
        let stored = state.stored.as_ref().filter(|config| counts(config, &at_rest));
        let pending = pending.filter(|pending| counts(&&pending.config, &membership));
        // A patch is stored after everything that is stored before it.
        let storing = state.pending().map(|pending| pending.config.revision);
        let Push { config, record } = read(&Base { stored: stored.map(|stored| &**stored), storing })?;
        if !is_meant(identity, &config.host) {
            let names = identity.map(|identity| identity.facts().names).unwrap_or_default();
            return Err(Refused::OtherCertificate { meant: config.host.to_string(), names });
        }
        let revision = config.revision;
        if let Some(have) = pending.map(|pending| &pending.config).or(stored) {
            if have.host != config.host {
                return Err(Refused::OtherHost { meant: config.host.to_string(), here: have.host.to_string() });
            }
            if revision < have.revision {
                return Err(Refused::Older { pushed: revision, have: have.revision });
            }
            if revision == have.revision && **have != config {
                return Err(Refused::OtherContent(revision));
            }
            if revision == have.revision {
                match pending {
                    Some(Pending { outcome, early, .. }) => {
                        let taken = Taken::Pending { outcome: outcome.subscribe(), early: *early };
                        return Ok((revision, taken));
                    }
                    // Nothing to do, unless the host's cluster is not known yet.
                    None if membership.after(cluster) == membership => return Ok((revision, Taken::Had)),
                    None => {}
                }
            }
        }
        let config = Arc::new(config);
        if let Some(context) = traced {
            reconciler.record(&self.0.recorder, revision, context);
        }
        // Ending traffic does not wait for the disk. If there is nothing to fall back to, the disk comes first.
        let early = stored.is_some();
        let promise = early.then(|| reconciler.configure_early(Arc::clone(&config)));
        let (outcome, receiver) = watch::channel(None);
        let pending = Pending { config, record, cluster, early, promise, outcome, traced };
        if state.writing.is_some() {
            self.0.newer.notify_one();
            if let Some(before) = state.next.replace(pending) {
                let superseded = Refused::Superseded(before.config.revision);
                before.end(Err(Arc::new(superseded)));
            }
        } else {
            state.writing = Some(pending);
            tokio::spawn(self.clone().write());
        }
        Ok((revision, Taken::Pending { outcome: receiver, early }))
    }

    /// Writes pending configurations one after the other, until none is left.
    async fn write(self) {
        let (mut retry, mut in_ledger) = (Retry::new(TRY_AGAIN), false);
        while let Some((config, record, cluster, traced)) = self.writing().await {
            // The next holder finds nothing that is both written and pending.
            let turn = self.0.turn.lock().await;
            // What is in the ledger is not written again: a patch applies to its base only.
            let stored = if in_ledger { Ok(()) } else { self.store_traced(&config, record, cluster, traced).await };
            in_ledger = stored.is_ok();
            let result = match stored {
                Ok(()) => self.join(cluster).await,
                refused => refused,
            };
            let again = self.written(&config, in_ledger, result).await;
            drop(turn);
            if again {
                let _ = timeout(retry.failed(), self.0.newer.notified()).await;
                // A configuration in the ledger is not done until the host's cluster is recorded.
                if !in_ledger {
                    self.give_way().await;
                }
            } else {
                retry.reset();
                in_ledger = false;
            }
        }
    }

    /// Lets a newer configuration replace one whose write has failed. It must be a whole one: a patch needs a base that
    /// is stored.
    async fn give_way(&self) {
        let mut state = self.0.state.lock().await;
        if state.next.is_none() {
            return;
        }
        if let Some(failed) = state.writing.take() {
            let superseded = Refused::Superseded(failed.config.revision);
            failed.end(Err(Arc::new(superseded)));
        }
        state.advance(&self.0.reconciler);
    }

    /// Writes a configuration, and records that if its push is recorded.
    async fn store_traced(
        &self,
        config: &Arc<ValidHostConfig>,
        record: Record<Bytes>,
        cluster: Option<ClusterId>,
        traced: Option<SpanContext>,
    ) -> Result<(), Refused> {
        let span = traced.and_then(|push| self.0.recorder.child("ledger", Kind::Internal, push, Moment::now()));
        let stored = self.store(config, record, cluster).await;
        if let (Some(mut span), Err(refused)) = (span, &stored) {
            span.fail(refused);
        }
        stored
    }

    /// Writes a configuration, unless an operator has removed the host from its cluster since it was accepted.
    async fn store(
        &self,
        config: &Arc<ValidHostConfig>,
        record: Record<Bytes>,
        cluster: Option<ClusterId>,
    ) -> Result<(), Refused> {
        admits(self.read_membership().await?, cluster)?;
        let (store, own) = (Arc::clone(&self.0.store), Arc::clone(config));
        Ok(self.0.reconciler.write(self.0.store.path(), move || store.store(&record, &own)).await??)
    }

    /// The configuration that is being written.
    async fn writing(&self) -> Option<(Arc<ValidHostConfig>, Record<Bytes>, Option<ClusterId>, Option<SpanContext>)> {
        let state = self.0.state.lock().await;
        let writing = state.writing.as_ref()?;
        Some((Arc::clone(&writing.config), writing.record.clone(), writing.cluster, writing.traced))
    }

    /// Records the host's cluster, once a configuration of that cluster is stored. If an operator has removed the host
    /// from it meanwhile, that stands, and the configuration is recorded as another cluster's.
    async fn join(&self, cluster: Option<ClusterId>) -> Result<(), Refused> {
        let Update { before, after } = self
            .update_membership(move |before| {
                let kept = Membership { accepted_from: cluster, ..before };
                Ok(if admits(before, cluster).is_ok() { before.after(cluster) } else { kept })
            })
            .await?;
        if after.cluster != before.cluster {
            tracing::info!(cluster = cluster.map(|it| it.to_string()), "this host belongs to a cluster");
        }
        admits(before, cluster).map(drop)
    }

    async fn update_membership(
        &self,
        change: impl FnOnce(Membership) -> Result<Membership, Refused> + Send + 'static,
    ) -> Result<Update, Refused> {
        let file = self.0.membership.clone();
        let (path, own) = (file.path().to_owned(), self.clone());
        let reading = Arc::clone(&self.0.reading).lock_owned().await;
        let update = move || {
            let _reading = reading;
            let update = file.update(change)?;
            own.0.known.send_replace(Some(update.after));
            Ok::<_, Refused>(update)
        };
        self.0.reconciler.write(&path, update).await?
    }

    /// A write has ended; notifies those who wait for it. True if it is to be retried; otherwise the next one begins.
    async fn written(&self, config: &Arc<ValidHostConfig>, in_ledger: bool, result: Result<(), Refused>) -> bool {
        let reconciler = &self.0.reconciler;
        let mut state = self.0.state.lock().await;
        let State { stored, writing: Some(writing), next } = &mut *state else { return false };
        if in_ledger && !stored.as_ref().is_some_and(|stored| Arc::ptr_eq(stored, config)) {
            tracing::info!(revision = %config.revision, "configuration accepted");
            *stored = Some(Arc::clone(config));
            match writing.promise.take() {
                Some(promise) => promise.keep(),
                None => reconciler.configure(Arc::clone(config)),
            }
        }
        let file = self.0.store.path().display().to_string();
        let failed = result.as_ref().err().filter(|refused| !matches!(refused, Refused::OtherCluster { .. }));
        // A write that only blocks the next one, or never reached the kernel, is not retried.
        let again = failed.is_some() && next.is_none() && (writing.early || in_ledger);
        let reason = failed.filter(|_| again).map(|refused| format!("{refused}; it is tried again: {UNTIL_WRITTEN}"));
        if let Some(reason) = &reason {
            tracing::error!(revision = %config.revision, "{reason}");
        }
        reconciler.hangs(&file, reason);
        if again {
            // Requests from now on wait for the next attempt.
            let told = std::mem::replace(&mut writing.outcome, watch::Sender::new(None));
            told.send_replace(Some(result.map_err(Arc::new)));
            return true;
        }
        if !in_ledger
            && failed.is_none()
            && next.is_none()
            && let Some(before) = stored
        {
            // It came from another cluster, which an operator has removed the host from.
            reconciler.take_back_to(Arc::clone(before));
        }
        writing.end(result.map_err(Arc::new));
        state.advance(reconciler);
        false
    }

    /// Releases a host that is empty from its cluster.
    pub(crate) async fn leave(&self, cluster: Option<ClusterId>, patience: Duration) -> Result<(), Refused> {
        let Ok(_turn) = timeout(patience, Arc::clone(&self.0.turn).lock_owned()).await else {
            return Err(Refused::Busy("the ledger"));
        };
        self.admits(cluster).await?;
        let state = self.0.state.lock().await;
        let newest = state.pending().map(|pending| &pending.config).or(state.stored.as_ref());
        // If a controller removes a host and adds it again, its requests may overtake each other.
        if newest.is_some_and(|config| !config.vrfs.is_empty() || !config.sides.is_empty()) {
            return Err(Refused::HasVpcs);
        }
        // Once it is stored the host would belong to its cluster again.
        if state.writing.is_some() {
            return Err(Refused::Busy("a configuration"));
        }
        drop(state);
        self.update_membership(move |before| Ok(Membership { cluster: None, ..admits(before, cluster)? })).await?;
        tracing::info!("this host belongs to no cluster any more");
        Ok(())
    }
}

fn admits(membership: Membership, asks: Option<ClusterId>) -> Result<Membership, Refused> {
    match (membership.admits(asks), membership.cluster, asks) {
        (false, Some(ours), Some(theirs)) => Err(Refused::OtherCluster { ours, theirs }),
        _ => Ok(membership),
    }
}
