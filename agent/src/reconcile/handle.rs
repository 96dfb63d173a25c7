//! The interface to the reconciler.

use super::{
    Options, PersistentState, Reconciler,
    allocation::Allocation,
    changes::Changes,
    contention::Contention,
    counting::Counting,
    goal::{Goal, Stored},
    message::Message,
    report::{Report, Reporter},
    schedule::Schedule,
    seen::Seen,
    traced::Traced,
    writes::Writes,
};
use crate::{
    kernel::{Event, Interest, Kernel},
    shares::Shares,
};
use cps_peering_config::{HostReport, Revision, ValidHostConfig};
use cps_peering_otlp::{Recorder, SpanContext};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Instant,
};
use tokio::{sync::watch, task::JoinError};

/// A configuration that the reconciler is already applying while it is being stored. Dropping this means that it was
/// not stored.
#[derive(Debug)]
#[must_use]
pub struct Promise {
    handle: Handle,
    config: Arc<ValidHostConfig>,
}

impl Promise {
    /// It is stored.
    pub fn keep(self) {
        self.handle.announce(&self.config);
        // The reconciler ends only with the process.
        let _ = self.handle.wake.send(Message::Stored(self.config));
    }
}

/// The interface to a running reconciler.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) wake: Sender<Message>,
    config: watch::Sender<Option<Arc<ValidHostConfig>>>,
    /// Set while a configuration is waiting that is newer than the current one.
    newer: Arc<AtomicBool>,
    report: Report,
    shares: watch::Sender<Shares>,
    interest: Interest,
    throttled: Arc<AtomicUsize>,
    writes: Writes,
    traced: Traced,
}

impl Handle {
    /// Makes the reconciler bring the kernel to this configuration, which is stored, instead of any earlier one.
    pub fn configure(&self, config: Arc<ValidHostConfig>) {
        self.announce(&config);
        self.begin(config, Stored::Yes);
    }

    /// The same for a configuration that is still being stored. Its revision is reported only when the promise is kept.
    /// If it cannot be stored, [`Handle::take_back_to`] brings back the previous one.
    pub fn configure_early(&self, config: Arc<ValidHostConfig>) -> Promise {
        self.begin(Arc::clone(&config), Stored::NotYet);
        Promise { handle: self.clone(), config }
    }

    /// Goes back to a configuration that is stored, because a newer one could not be. Nothing is reported to be in the
    /// kernel until it was observed: it may have the newer one.
    pub fn take_back_to(&self, config: Arc<ValidHostConfig>) {
        self.report.taken_back_to(&config);
        self.config.send_replace(Some(Arc::clone(&config)));
        self.begin(config, Stored::Yes);
    }

    /// A configuration with this revision is about to arrive; records the work on it below a span.
    pub(crate) fn record(&self, recorder: &Recorder, revision: Revision, context: SpanContext) {
        self.traced.comes(recorder, revision, context);
    }

    fn announce(&self, config: &Arc<ValidHostConfig>) {
        self.report.accepted(config);
        self.config.send_replace(Some(Arc::clone(config)));
    }

    fn begin(&self, config: Arc<ValidHostConfig>, stored: Stored) {
        self.newer.store(true, Ordering::Relaxed);
        // The reconciler ends only with the process.
        let _ = self.wake.send(Message::Configured(config, stored));
    }

    /// The newest configuration that is stored.
    pub fn config(&self) -> Option<Arc<ValidHostConfig>> {
        self.config.borrow().clone()
    }

    /// The shares of limits that it shares with other hosts.
    pub fn shares(&self) -> Shares {
        self.shares.borrow().clone()
    }

    /// How many ports are throttled in the neighbour tables, by family.
    pub fn throttled(&self) -> &AtomicUsize {
        &self.throttled
    }

    /// The writes to disk that are under way.
    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// Reports why a file that is being written is not written yet; none once it is.
    pub(crate) fn hangs(&self, file: &str, reason: Option<String>) {
        self.report.hangs(file, reason);
    }

    /// Writes a file, for as long as that takes, and reports it if it hangs.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        file: &Path,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let name = file.display().to_string();
        self.writes.run(file, write, |reason| self.hangs(&name, reason)).await
    }

    /// Which kernel objects concern the reconciler, live.
    pub fn interest(&self) -> Interest {
        self.interest.clone()
    }

    /// Notifies the reconciler of a kernel event. False if it has ended.
    pub fn notice(&self, event: Event) -> bool {
        self.wake.send(Message::Event(event)).is_ok()
    }

    /// Changes the reconciler's options, and makes it observe everything. Options of tunnels cannot be changed.
    pub fn tune(&self, options: Options) {
        // The reconciler ends only with the process.
        let _ = self.wake.send(Message::Tuned(options));
    }

    /// The report, live.
    pub fn report(&self) -> watch::Receiver<HostReport> {
        self.report.subscribe()
    }
}

/// Starts the thread. It idles until [`Handle::configure`] is called.
pub fn start(kernel: impl Kernel + 'static, options: Options) -> std::io::Result<Handle> {
    start_with(kernel, options, PersistentState::default())
}

/// The same, continuing from what was granted and counted before.
pub fn start_with(kernel: impl Kernel + 'static, options: Options, kept: PersistentState) -> std::io::Result<Handle> {
    let (wake, inbox) = channel();
    let report = Report::new();
    let newer = Arc::new(AtomicBool::new(false));
    let shares = watch::Sender::new(kept.shares.clone());
    let (interest, traced) = (Interest::default(), Traced::default());
    let handle = Handle {
        wake,
        config: watch::Sender::new(None),
        newer: Arc::clone(&newer),
        report: report.clone(),
        shares: shares.clone(),
        interest: interest.clone(),
        throttled: Arc::default(),
        writes: Writes::default(),
        traced: traced.clone(),
    };
    let reconciler = Reconciler {
        kernel,
        options,
        inbox,
        newer,
        goal: Goal::default(),
        changes: Changes::default(),
        schedule: Schedule::new(options.resync, Instant::now()),
        seen: Seen::default(),
        allocation: Allocation::new(kept.shares.clone(), shares),
        counting: Counting::new(kept),
        reporter: Reporter::new(report),
        contention: Contention::default(),
        refused: BTreeMap::new(),
        interest,
        traced,
    };
    thread::Builder::new().name("reconciler".into()).spawn(move || reconciler.run())?;
    Ok(handle)
}
