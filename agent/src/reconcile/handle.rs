//! The way to the reconciler, for whoever gives it something to do.

use super::{
    FIRST_RETRY, Options, PersistentState, Reconciler,
    backoff::Backoff,
    message::{Message, Stored},
};
use crate::{
    dirty_set::DirtySet,
    kernel::{Event, Interest, Kernel},
    probe::Figures,
    shares::Shares,
};
use cps_peering_config::{HostReport, ValidHostConfig, report::Counters};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A promise to store a configuration that the reconciler works on already. Dropped, it is taken back.
#[derive(Debug)]
#[must_use]
pub struct Promise {
    handle: Handle,
    config: Arc<ValidHostConfig>,
    word: Sender<()>,
}

impl Promise {
    /// It is stored.
    pub fn keep(self) {
        self.handle.announce(&self.config);
        // The reconciler may have gone on to the next one.
        let _ = self.word.send(());
    }
}

/// The way to a running reconciler.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) wake: Sender<Message>,
    config: watch::Sender<Option<Arc<ValidHostConfig>>>,
    /// Set while a configuration waits that is newer than the one worked on.
    newer: Arc<AtomicBool>,
    report: watch::Sender<HostReport>,
    shares: watch::Sender<Shares>,
    interest: Interest,
    throttled: Arc<AtomicUsize>,
    probes: Arc<Mutex<Figures>>,
}

impl Handle {
    /// Makes the reconciler bring the kernel to this configuration, which is stored, instead of any earlier one.
    pub fn configure(&self, config: Arc<ValidHostConfig>) {
        self.announce(&config);
        self.begin(config, Stored::Yes);
    }

    /// The same for a configuration that is still being stored. Its revision is reported only when the promise is kept.
    /// When it cannot be, [`Handle::configure`] brings back the one before.
    pub fn configure_early(&self, config: Arc<ValidHostConfig>) -> Promise {
        let (word, soon) = channel();
        self.begin(Arc::clone(&config), Stored::Soon(soon));
        Promise { handle: self.clone(), config, word }
    }

    fn announce(&self, config: &Arc<ValidHostConfig>) {
        self.report.send_modify(|report| {
            report.host = Some(config.host.clone());
            report.desired = Some(config.revision);
        });
        self.config.send_replace(Some(Arc::clone(config)));
    }

    fn begin(&self, config: Arc<ValidHostConfig>, stored: Stored) {
        self.newer.store(true, Ordering::Relaxed);
        // The reconciler ends only with the process.
        let _ = self.wake.send(Message::Configured(config, stored));
    }

    /// The configuration that it was given last.
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

    /// How its peerings are, from probes.
    pub(crate) fn probes(&self) -> &Mutex<Figures> {
        &self.probes
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
    let report = watch::Sender::new(HostReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: None,
        desired: None,
        applied: None,
        problems: Vec::new(),
        counters: Counters::default(),
        last_pass: None,
        underlay_mtu: None,
        knows_scoped_sides: true,
        behind: Vec::new(),
        vrfs: BTreeMap::new(),
        sides: BTreeMap::new(),
    });
    let newer = Arc::new(AtomicBool::new(false));
    let shares = watch::Sender::new(kept.shares.clone());
    let interest = Interest::default();
    let handle = Handle {
        wake,
        config: watch::Sender::new(None),
        newer: Arc::clone(&newer),
        report: report.clone(),
        shares: shares.clone(),
        interest: interest.clone(),
        throttled: Arc::default(),
        probes: Arc::default(),
    };
    let reconciler = Reconciler {
        kernel,
        options,
        inbox,
        newer,
        report,
        shares,
        config: None,
        compared: None,
        stored: Stored::Yes,
        pending: DirtySet::Everything,
        ending: BTreeSet::new(),
        due: true,
        underlay_params: None,
        blocked: BTreeSet::new(),
        settled: false,
        counters: Counters::default(),
        refused: BTreeMap::new(),
        retry: FIRST_RETRY,
        kept,
        confirmed: BTreeMap::new(),
        regranted: false,
        measured: None,
        poll_took: Duration::ZERO,
        events_pending: false,
        looked: Instant::now(),
        look_by: None,
        polled: Instant::now(),
        left_wrong: BTreeSet::new(),
        backoff: Backoff::default(),
        aliases: BTreeMap::new(),
        interest,
    };
    thread::Builder::new().name("reconciler".into()).spawn(move || reconciler.run())?;
    Ok(handle)
}
