//! Brings the kernel to the configuration, and keeps it there.
//!
//! One thread owns the kernel. It looks at the kernel, compares, changes what differs and looks again, until nothing
//! differs or nothing more can be done. It does so when a configuration comes, when an event says that something
//! changed, after a while when something failed, and from time to time without a reason. What it saw last is the
//! report. It flushes nothing when it starts and nothing when it stops.

mod asked;

pub use asked::{AskError, Granted, Kept};

use crate::{
    compile::{Surroundings, compile},
    diff::{Draft, Obstacle, draft, silence},
    extent::{Extent, Parts, gone},
    kernel::{Event, Kernel, KernelError, Refusal},
    objects::{DeviceSetting, LinkKind, Observed, Operation},
    owner::DeviceName,
    scope,
};
use asked::Ask;
use cps_peering_config::{
    HostReport, ValidHostConfig,
    host_config::Share,
    net::{InterfaceName, Vni},
    report::{Counters, Pass, Problem, ProblemKind, Scope},
    settings::AgentSettings,
};
use nix::libc;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// How often one pass looks and changes before it gives up for now. The kernel takes objects away with others, so a plan
/// may need a second one; more are needed only while somebody else changes the same things.
const ROUNDS: usize = 5;
/// Operations between two looks at whether a newer configuration has come.
const CHUNK: usize = 4096;
/// The most sides whose traffic is ended ahead of everything else.
const SILENCED: usize = 64;
/// The longest list of problems in a report; the last one then says how many there are.
const MAX_PROBLEMS: usize = 200;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_mins(1);
/// The longest time for which events wait after a look that an event asked for.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// How often the settings of devices are glanced at: the kernel does not announce all of them.
const GLANCE: Duration = Duration::from_secs(3);
/// The MTU that is assumed where the underlay address is on no interface, or on one that says nothing about the path.
const ETHERNET_MTU: u32 = 1500;

/// What the reconciler needs to know besides the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
    /// The MTU of the path between hosts in bytes; by default that of the interface with the underlay address.
    pub underlay_mtu: Option<u32>,
    /// How often the kernel is compared without a reason.
    pub resync: Duration,
}

impl From<&AgentSettings> for Options {
    fn from(settings: &AgentSettings) -> Self {
        Self {
            vxlan_port: settings.vxlan_port,
            underlay_mtu: settings.underlay_mtu,
            resync: Duration::from_secs(settings.resync_s.max(1)),
        }
    }
}

impl Options {
    /// The MTU between hosts, and what is wrong with the underlay.
    pub fn surroundings(&self, config: &ValidHostConfig, observed: &Observed) -> (Surroundings, Option<Problem>) {
        let underlay = underlay_link(config.underlay, observed);
        let mtu = match underlay {
            Some((LinkKind::Loopback, _)) | None => ETHERNET_MTU,
            Some((_, mtu)) => mtu,
        };
        let surroundings = Surroundings { vxlan_port: self.vxlan_port, underlay_mtu: self.underlay_mtu.unwrap_or(mtu) };
        let trouble = underlay.is_none().then(|| {
            let reason = "no interface of this host has the underlay address";
            host_problem(ProblemKind::Missing, format!("address {}", config.underlay), reason)
        });
        (surroundings, trouble)
    }
}

/// Why the reconciler looks at the kernel.
#[derive(Debug)]
enum Wake {
    Configured(Arc<ValidHostConfig>, Stored),
    Event(Event),
    Asked(Ask),
    Tuned(Options),
}

/// Tells whether a configuration is in the ledger, once that is known. Work on it begins before: what ends traffic must not
/// wait for a disk. But nothing is confirmed to anybody before it would survive a reboot.
#[derive(Debug)]
enum Stored {
    Yes,
    Soon(Receiver<()>),
}

impl Stored {
    /// Waits until it is known. False when it could not be stored; then the one before comes back.
    fn wait(&mut self) -> bool {
        if let Self::Soon(word) = self {
            if word.recv().is_err() {
                return false;
            }
            *self = Self::Yes;
        }
        true
    }
}

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
    wake: Sender<Wake>,
    config: watch::Sender<Option<Arc<ValidHostConfig>>>,
    /// Set while a configuration waits that is newer than the one worked on.
    newer: Arc<AtomicBool>,
    report: watch::Sender<HostReport>,
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
        let _ = self.wake.send(Wake::Configured(config, stored));
    }

    /// The configuration that it was given last.
    pub fn config(&self) -> Option<Arc<ValidHostConfig>> {
        self.config.borrow().clone()
    }

    /// Tells the reconciler that the kernel has changed. False when it has ended.
    pub fn notice(&self, event: Event) -> bool {
        self.wake.send(Wake::Event(event)).is_ok()
    }

    /// Makes the reconciler go on with other options, and look at everything. Those of the tunnels it cannot change.
    pub fn tune(&self, options: Options) {
        // The reconciler ends only with the process.
        let _ = self.wake.send(Wake::Tuned(options));
    }

    /// How it stands, now and from now on.
    pub fn report(&self) -> watch::Receiver<HostReport> {
        self.report.subscribe()
    }
}

/// Starts the thread. It idles until [`Handle::configure`] is called.
pub fn start(kernel: impl Kernel + 'static, options: Options) -> std::io::Result<Handle> {
    start_with(kernel, options, Kept::default())
}

/// The same, going on from what was granted and counted before.
pub fn start_with(kernel: impl Kernel + 'static, options: Options, kept: Kept) -> std::io::Result<Handle> {
    let (wake, inbox) = channel();
    let report = watch::Sender::new(HostReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: None,
        desired: None,
        applied: None,
        problems: Vec::new(),
        counters: Counters::default(),
        last_pass: None,
        behind: Vec::new(),
        vrfs: BTreeMap::new(),
        sides: BTreeMap::new(),
    });
    let newer = Arc::new(AtomicBool::new(false));
    let handle = Handle { wake, config: watch::Sender::new(None), newer: Arc::clone(&newer), report: report.clone() };
    let reconciler = Reconciler {
        kernel,
        options,
        inbox,
        newer,
        report,
        config: None,
        compared: None,
        stored: Stored::Yes,
        pending: Extent::Everything,
        ending: BTreeSet::new(),
        due: true,
        surroundings: None,
        blocked: BTreeSet::new(),
        settled: false,
        counters: Counters::default(),
        refused: BTreeMap::new(),
        retry: FIRST_RETRY,
        kept,
        confirmed: BTreeMap::new(),
        regranted: false,
        measured: None,
    };
    thread::Builder::new().name("reconciler".into()).spawn(move || reconciler.run())?;
    Ok(handle)
}

struct Reconciler<K> {
    kernel: K,
    options: Options,
    inbox: Receiver<Wake>,
    newer: Arc<AtomicBool>,
    report: watch::Sender<HostReport>,
    config: Option<Arc<ValidHostConfig>>,
    /// What the kernel was last brought to and compared with.
    compared: Option<Arc<ValidHostConfig>>,
    stored: Stored,
    /// What may differ because the configuration changed since the kernel was last seen to be right.
    pending: Extent,
    /// Devices of sides that the configuration has no more, and that may still send.
    ending: BTreeSet<InterfaceName>,
    /// Whether everything is to be looked at, for whatever reason.
    due: bool,
    /// What the last look at everything said about the underlay.
    surroundings: Option<Surroundings>,
    /// Desired devices that something was in the way of at the last look at everything.
    blocked: BTreeSet<InterfaceName>,
    /// Whether the kernel has been seen to be as the configuration wants it. What differs after that is drift.
    settled: bool,
    counters: Counters,
    /// What the kernel refused in the current pass, by operation; the first ones.
    refused: BTreeMap<String, Refusal>,
    retry: Duration,
    kept: Kept,
    /// What of each limit the kernel was last seen to let pass.
    confirmed: BTreeMap<Vni, Share>,
    /// Whether something was granted since the plan that is being carried out was made.
    regranted: bool,
    /// When the counters were last kept.
    measured: Option<Instant>,
}

/// How a look at an extent ended.
enum Attempt {
    /// A newer configuration came.
    Superseded,
    /// It is as it should be, but for these problems.
    Done {
        problems: Vec<Problem>,
        /// Whether the kernel could be read.
        seen: bool,
        run: Run,
    },
}

/// What a look cost.
#[derive(Clone, Copy)]
struct Run {
    operations: u64,
    took: Duration,
}

/// Enough of a plan to see whether the next one is the same, and little to keep.
#[derive(PartialEq)]
struct Outline {
    length: usize,
    first: Vec<Operation>,
    obstacles: Vec<Obstacle>,
}

impl Outline {
    fn of(plan: &Draft<'_>) -> Self {
        let first = plan.operations().take(MAX_PROBLEMS).collect();
        Self { length: plan.len(), first, obstacles: plan.obstacles.clone() }
    }
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing differs that could be changed, and nothing is in the way.
    InSync,
    /// Something is in the way or was refused.
    Troubled,
    /// A newer configuration came.
    Superseded,
}

impl<K: Kernel> Reconciler<K> {
    fn run(mut self) {
        let mut pause = self.options.resync;
        let mut quiet_until = Instant::now();
        let mut superseded = false;
        loop {
            let waited = if superseded {
                self.drain(Waited::Configured)
            } else {
                let Some(waited) = self.wait_glancing(pause, quiet_until) else { return };
                waited
            };
            // Without a reason, or with one that says only "look".
            self.due |= waited != Waited::Configured;
            let started = Instant::now();
            let outcome = self.pass();
            self.measure_sometimes();
            superseded = outcome == Some(Outcome::Superseded);
            pause = match outcome {
                Some(Outcome::Superseded) => Duration::ZERO,
                Some(Outcome::Troubled) => {
                    let pause = self.retry;
                    self.retry = (self.retry * 2).min(LAST_RETRY);
                    pause
                }
                Some(Outcome::InSync) => {
                    self.retry = FIRST_RETRY;
                    self.options.resync
                }
                None => self.options.resync,
            };
            // Where somebody changes things all the time, looking at them must not take all the time.
            let rest = if waited == Waited::Event { started.elapsed() * 2 } else { Duration::ZERO };
            quiet_until = Instant::now() + rest.min(LONGEST_REST);
        }
    }

    /// Waits for a reason to look; while all is well, what a glance at the devices tells is one, too.
    fn wait_glancing(&mut self, pause: Duration, quiet_until: Instant) -> Option<Waited> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left <= GLANCE || !self.settled {
                return self.wait(left, quiet_until);
            }
            match self.wait(GLANCE, quiet_until)? {
                Waited::Pause if self.seems_right() => {}
                waited => return Some(waited),
            }
        }
    }

    /// Whether the settings of our devices and ports are as they should be. What cannot be read does not seem right.
    fn seems_right(&mut self) -> bool {
        let Some(config) = &self.config else { return true };
        let Ok(links) = self.kernel.devices() else { return false };
        let of_vpcs = config.vrfs.values().flat_map(|vrf| vrf.ports.keys().copied().chain([DeviceName::vpc(vrf.vni)]));
        let of_sides = config.sides.keys().map(|vni| DeviceName::peer(*vni));
        let mut ours = of_vpcs.chain(of_sides).filter_map(|name| links.get(&name));
        ours.all(|link| {
            let right = |(setting, value)| link.settings.get(&setting).is_none_or(|have| *have == value);
            DeviceSetting::WANTED.into_iter().all(right)
        })
    }

    /// Waits for a reason to look: until `pause` is over, an event comes (but not before `quiet_until`), or a configuration
    /// comes. None when nobody can give a reason any more.
    fn wait(&mut self, pause: Duration, quiet_until: Instant) -> Option<Waited> {
        let mut until = Instant::now() + pause;
        let mut waited = Waited::Pause;
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(wake) => waited = waited.max(self.take(wake)),
                Err(RecvTimeoutError::Timeout) => return Some(waited),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            match self.drain(waited) {
                Waited::Configured => return Some(Waited::Configured),
                Waited::Event => {
                    waited = Waited::Event;
                    until = until.min(quiet_until);
                }
                Waited::Pause => {}
            }
        }
    }

    /// Takes everything that has come meanwhile; a configuration outweighs events.
    fn drain(&mut self, mut waited: Waited) -> Waited {
        while let Ok(wake) = self.inbox.try_recv() {
            waited = waited.max(self.take(wake));
        }
        waited
    }

    fn take(&mut self, wake: Wake) -> Waited {
        match wake {
            Wake::Configured(config, stored) => {
                self.newer.store(false, Ordering::Relaxed);
                let change = match &self.config {
                    Some(old) => Extent::between(old, &config),
                    None => Extent::Everything,
                };
                let pending = std::mem::replace(&mut self.pending, Extent::nothing());
                self.settled &= change.is_nothing();
                self.pending = pending.and(change);
                if let Some(old) = &self.config {
                    self.ending.extend(gone(&old.sides, &config.sides).into_iter().map(DeviceName::peer));
                    let back = |device: &InterfaceName| {
                        DeviceName::parse(device).is_some_and(|device| config.sides.contains_key(&device.vni))
                    };
                    self.ending.retain(|device| !back(device));
                    self.kept.shares.follow(old, &config);
                    self.confirmed.retain(|vni, _| config.sides.contains_key(vni));
                }
                self.config = Some(config);
                self.stored = stored;
                self.retry = FIRST_RETRY;
                Waited::Configured
            }
            Wake::Event(event) => {
                if event == Event::Lost {
                    self.counters.events_lost += 1;
                    tracing::warn!("the kernel had more events than it could keep; looking at everything");
                }
                Waited::Event
            }
            Wake::Asked(ask) => {
                self.regranted = true;
                self.answer(ask);
                Waited::Pause
            }
            Wake::Tuned(options) => {
                self.options = options;
                self.surroundings = None;
                self.due = true;
                Waited::Event
            }
        }
    }

    /// Looks at what the configuration changed, and at everything when that is due.
    fn pass(&mut self) -> Option<Outcome> {
        let config = self.config.clone()?;
        if let Err(error) = self.silence() {
            // Then the look that follows fails, too, or does it.
            tracing::error!(%error, "the kernel could not be read or changed");
        }
        let clear = self.report.borrow().problems.is_empty();
        if let Some(surroundings) = self.quick_way() {
            let extent = self.pending.clone();
            match self.attempt(&config, &extent, Some(surroundings)) {
                Attempt::Superseded => return Some(Outcome::Superseded),
                Attempt::Done { problems, seen: true, run } if problems.is_empty() && clear => {
                    if !self.publish(&config, &extent, problems, true, run) {
                        return Some(Outcome::Superseded);
                    }
                    self.pending = Extent::nothing();
                    self.settled = true;
                    if !self.due {
                        return Some(Outcome::InSync);
                    }
                }
                Attempt::Done { .. } => {}
            }
        }
        self.due = true;
        match self.attempt(&config, &Extent::Everything, None) {
            Attempt::Superseded => Some(Outcome::Superseded),
            Attempt::Done { problems, seen, run } => {
                let outcome = if problems.is_empty() { Outcome::InSync } else { Outcome::Troubled };
                if !self.publish(&config, &Extent::Everything, problems, seen, run) {
                    return Some(Outcome::Superseded);
                }
                if seen {
                    // What is still not right is no longer a matter of what changed.
                    self.pending = Extent::nothing();
                }
                if outcome == Outcome::InSync {
                    self.settled = true;
                    self.due = false;
                }
                Some(outcome)
            }
        }
    }

    /// Ends the traffic of sides that are to go, before anything is read that takes time, for instance their routes.
    fn silence(&mut self) -> Result<(), KernelError> {
        let ending = std::mem::take(&mut self.ending);
        // Of more than a few, looking at each would take longer than looking at everything.
        if ending.is_empty() || ending.len() > SILENCED {
            return Ok(());
        }
        let parts = Parts { devices: ending, ..Parts::default() };
        let observed = self.kernel.look(&Extent::Parts(parts), &|| false)?;
        let operations = silence(&observed);
        let refused = self.kernel.apply(&operations)?;
        self.counters.operations += (operations.len() - refused.len()) as u64;
        Ok(())
    }

    /// The underlay as it was seen last, where a look at the parts that changed may be enough: something has changed,
    /// less than everything, and nothing is in the way of it.
    fn quick_way(&self) -> Option<Surroundings> {
        let Extent::Parts(parts) = &self.pending else { return None };
        let blocked = parts.devices.iter().any(|device| self.blocked.contains(device));
        let worth_it = !self.pending.is_nothing() || !self.due;
        if worth_it && !blocked { self.surroundings } else { None }
    }

    fn attempt(&mut self, config: &ValidHostConfig, extent: &Extent, known: Option<Surroundings>) -> Attempt {
        let started = Instant::now();
        let before = self.counters.operations;
        self.refused.clear();
        self.counters.passes += 1;
        let (problems, seen) = match self.rounds(config, extent, known) {
            Ok(None) | Err(KernelError::Abandoned) => return Attempt::Superseded,
            Ok(Some(problems)) => (problems, true),
            Err(error) => {
                tracing::error!(%error, "the kernel could not be read or changed; trying again");
                (vec![host_problem(ProblemKind::Failed, "kernel", error.to_string())], false)
            }
        };
        let run = Run { operations: self.counters.operations - before, took: started.elapsed() };
        Attempt::Done { problems, seen, run }
    }

    /// Reports how it stands. False when the configuration turned out not to be stored: then it never was.
    fn publish(
        &mut self,
        config: &Arc<ValidHostConfig>,
        extent: &Extent,
        problems: Vec<Problem>,
        seen: bool,
        run: Run,
    ) -> bool {
        if !self.stored.wait() {
            return false;
        }
        self.log(config, &problems, &run);
        if seen && problems.is_empty() {
            self.confirm_shares(config, extent);
        }
        let had = self.compared.take();
        self.compared = if seen { Some(Arc::clone(config)) } else { had.clone() };
        self.report.send_modify(|report| {
            report.behind = scope::behind(report, had.as_ref().map(|config| &***config), &problems);
            if seen {
                report.applied = Some(config.revision);
            }
            report.problems = problems;
            report.counters = self.counters;
            report.last_pass = Some(Pass {
                ended_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| whole(since.as_millis())),
                duration_us: whole(run.took.as_micros()),
                operations: run.operations,
            });
        });
        true
    }

    /// Looks and changes until nothing differs, or nothing more can be done. Returns what is wrong then; none when a newer
    /// configuration came.
    fn rounds(
        &mut self,
        config: &ValidHostConfig,
        extent: &Extent,
        known: Option<Surroundings>,
    ) -> Result<Option<Vec<Problem>>, KernelError> {
        let mut last = None;
        for round in 0.. {
            let newer = Arc::clone(&self.newer);
            let observed = self.kernel.look(extent, &|| newer.load(Ordering::Relaxed))?;
            let (surroundings, trouble) = match known {
                Some(surroundings) => (surroundings, None),
                None => self.options.surroundings(config, &observed),
            };
            let mut desired = compile(config, surroundings, extent);
            self.kept.shares.adjust(config, &mut desired);
            self.regranted = false;
            let plan = draft(&desired, &observed);
            // It may be as large as the plan.
            drop(observed);
            if known.is_none() {
                self.surroundings = Some(surroundings);
                self.blocked = plan.obstacles.iter().map(|obstacle| obstacle.device).collect();
            }
            let outline = Outline::of(&plan);
            let stuck = round == ROUNDS || last.as_ref() == Some(&outline);
            if plan.is_empty() || stuck {
                return Ok(Some(self.problems(config, &plan, trouble)));
            }
            if !self.carry_out(config, &plan)? {
                return Ok(None);
            }
            last = Some(outline);
        }
        unreachable!("the last round is stuck")
    }

    /// Carries a plan out. False when a newer configuration came meanwhile.
    fn carry_out(&mut self, config: &ValidHostConfig, plan: &Draft<'_>) -> Result<bool, KernelError> {
        let mut operations = plan.operations();
        let mut chunk = Vec::with_capacity(CHUNK.min(plan.len()));
        loop {
            chunk.clear();
            chunk.extend(operations.by_ref().take(CHUNK));
            if chunk.is_empty() {
                return Ok(true);
            }
            if let Some(with_rates) = self.with_rates_of_now(&chunk) {
                chunk = with_rates;
            }
            self.measure_before(&chunk);
            let refused = self.kernel.apply(&chunk)?;
            let done = (chunk.len() - refused.len()) as u64;
            self.counters.operations += done;
            self.counters.failures += refused.len() as u64;
            if self.settled {
                self.counters.drift_repaired += done;
                for operation in chunk.iter().take(MAX_PROBLEMS) {
                    let concerns = scope::words(config, &scope::of_operation(config, operation));
                    tracing::info!(revision = %config.revision, concerns, %operation, "repaired");
                }
            }
            let room = (2 * MAX_PROBLEMS).saturating_sub(self.refused.len());
            let told = refused.into_iter().take(room);
            self.refused.extend(told.map(|(place, refusal)| (chunk[place].to_string(), refusal)));
            if self.drain(Waited::Pause) == Waited::Configured {
                return Ok(false);
            }
        }
    }

    /// What is wrong: obstacles, and what should still be done after everything that could be done was.
    fn problems(&self, config: &ValidHostConfig, plan: &Draft<'_>, trouble: Option<Problem>) -> Vec<Problem> {
        let obstacles = plan.obstacles.iter().map(|obstacle| Problem {
            scope: scope::of_device(config, &obstacle.device),
            kind: obstacle.kind,
            object: format!("link {}", obstacle.device),
            reason: obstacle.reason.clone(),
        });
        // More than these are only counted.
        let more = plan.len().saturating_sub(2 * MAX_PROBLEMS);
        let undone = plan.operations().take(2 * MAX_PROBLEMS).map(|operation| {
            let object = operation.to_string();
            let (kind, reason) = match self.refused.get(&object) {
                // Ours was not there a moment ago, so it is another's.
                Some(refusal) if refusal.errno == libc::EEXIST => {
                    (ProblemKind::Conflict, format!("something that is not ours is in its place: {refusal}"))
                }
                Some(refusal) => (ProblemKind::Failed, refusal.to_string()),
                None => (ProblemKind::Failed, "somebody keeps changing it".to_owned()),
            };
            Problem { scope: scope::of_operation(config, &operation), kind, reason, object }
        });
        let mut problems: Vec<Problem> = trouble.into_iter().chain(obstacles).chain(undone).collect();
        problems.sort();
        problems.dedup();
        if problems.len() > MAX_PROBLEMS {
            let count = problems.len() + more;
            problems.truncate(MAX_PROBLEMS - 1);
            let reason = format!("{count} objects are not as they should be; these are the first");
            problems.push(host_problem(ProblemKind::Failed, "kernel", reason));
        }
        problems
    }

    fn log(&self, config: &ValidHostConfig, problems: &[Problem], run: &Run) {
        let (revision, operations, took) = (config.revision, run.operations, run.took);
        if operations > 0 {
            tracing::info!(%revision, operations, problems = problems.len(), ?took, "kernel changed");
        } else {
            tracing::debug!(%revision, problems = problems.len(), ?took, "kernel compared");
        }
        if *problems != self.report.borrow().problems {
            for problem in problems {
                let concerns = scope::words(config, &problem.scope);
                let (object, reason) = (&problem.object, &problem.reason);
                tracing::warn!(%revision, concerns, object, reason, "not as it should be");
            }
        }
    }
}

/// Why a wait ended, the weightiest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waited {
    Pause,
    Event,
    Configured,
}

/// A count of milliseconds or microseconds; the largest number stands for more than half a million years.
fn whole(count: u128) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

fn host_problem(kind: ProblemKind, object: impl Into<String>, reason: impl Into<String>) -> Problem {
    Problem { scope: Scope::Host, kind, object: object.into(), reason: reason.into() }
}

/// Kind and MTU of the interface that has the underlay address.
fn underlay_link(underlay: IpAddr, observed: &Observed) -> Option<(LinkKind, u32)> {
    let (address, _) = observed.addresses.iter().find(|(address, _)| address.net.addr() == underlay)?;
    let link = observed.links.get(&address.device)?;
    Some((link.kind, link.mtu))
}
