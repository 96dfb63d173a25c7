//! The way to the reconciler, for whoever gives it something to do.

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

/// A configuration that the reconciler works on already, and that is being stored. Dropped, it was not.
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

/// The way to a running reconciler.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) wake: Sender<Message>,
    config: watch::Sender<Option<Arc<ValidHostConfig>>>,
    /// Set while a configuration waits that is newer than the one worked on.
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
    /// When it cannot be, [`Handle::take_back_to`] brings back the one before.
    pub fn configure_early(&self, config: Arc<ValidHostConfig>) -> Promise {
        self.begin(Arc::clone(&config), Stored::NotYet);
        Promise { handle: self.clone(), config }
    }

    /// Brings back a configuration that is stored, since a newer one could not be. Nothing is reported to be in the kernel until it
    /// was looked at: it may have the newer one.
    pub fn take_back_to(&self, config: Arc<ValidHostConfig>) {
        self.report.taken_back_to(&config);
        self.config.send_replace(Some(Arc::clone(&config)));
        self.begin(config, Stored::Yes);
    }

    /// A configuration with this revision is about to come, and what is done for it is recorded below a span.
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

    /// What it may use of limits that it shares with other hosts.
    pub fn shares(&self) -> Shares {
        self.shares.borrow().clone()
    }

    /// How many ports are kept from filling the neighbour tables, by family.
    pub fn throttled(&self) -> &AtomicUsize {
        &self.throttled
    }

    /// The writes to disk that are under way.
    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// Tells why a file that is being written is not written yet; none when it is.
    pub(crate) fn hangs(&self, file: &str, reason: Option<String>) {
        self.report.hangs(file, reason);
    }

    /// Writes a file, for as long as that takes, and reports it where it hangs.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        file: &Path,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let name = file.display().to_string();
        self.writes.run(file, write, |reason| self.hangs(&name, reason)).await
    }

    /// Which objects of the kernel concern the reconciler, now and from now on.
    pub fn interest(&self) -> Interest {
        self.interest.clone()
    }

    /// Tells the reconciler that the kernel has changed. False when it has ended.
    pub fn notice(&self, event: Event) -> bool {
        self.wake.send(Message::Event(event)).is_ok()
    }

    /// Makes the reconciler go on with other options, and look at everything. Those of the tunnels it cannot change.
    pub fn tune(&self, options: Options) {
        // The reconciler ends only with the process.
        let _ = self.wake.send(Message::Tuned(options));
    }

    /// How it stands, now and from now on.
    pub fn report(&self) -> watch::Receiver<HostReport> {
        self.report.subscribe()
    }
}

/// Starts the thread. It idles until [`Handle::configure`] is called.
pub fn start(kernel: impl Kernel + 'static, options: Options) -> std::io::Result<Handle> {
    start_with(kernel, options, PersistentState::default())
}

/// The same, going on from what was granted and counted before.
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
