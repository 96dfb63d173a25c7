//! Brings the kernel to the configuration, and keeps it there.
//!
//! One thread owns the kernel. It looks at the kernel, compares, changes what differs and looks again, until nothing
//! differs or nothing more can be done. It does so when a configuration comes, when an event says that something
//! changed, after a while when something failed, and from time to time without a reason. What it saw last is the
//! report. It flushes nothing when it starts and nothing when it stops.

mod backoff;
mod handle;
mod inbox;
mod message;
mod requests;
mod status;

pub use handle::{Handle, Promise, start, start_with};
pub use message::{Granted, PersistentState, RequestError};

use crate::{
    compile::{ETHERNET_MTU, UnderlayParams, compile},
    diff::{Conflict, Interference, LazyPlan, lazy_diff, quiesce},
    dirty_set::{DirtySet, Parts},
    kernel::{Interest, Kernel, KernelError, NetlinkError},
    objects::{DeviceSetting, LinkKind, Observed, Operation},
    ports::{self, Aliases},
    scope,
    shares::Shares,
};
use backoff::Backoff;
use cps_peering_config::{
    HostReport, ValidHostConfig,
    host_config::Share,
    net::{InterfaceName, Vni},
    report::{Counters, Problem, ProblemKind, Scope},
    settings::AgentSettings,
};
use inbox::Waited;
use message::{Message, Stored};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
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
/// How long a peering that a look at a part has set up may go without a look at what others have in its way.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);
/// New configurations put off a look at everything no longer than this.
const LONGEST_DEFERRAL: Duration = Duration::from_secs(30);

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
    pub fn underlay_params(&self, config: &ValidHostConfig, observed: &Observed) -> (UnderlayParams, Option<Problem>) {
        let underlay = underlay_link(config.underlay, observed);
        let mtu = match underlay {
            Some((LinkKind::Loopback, _)) | None => ETHERNET_MTU,
            Some((_, mtu)) => mtu,
        };
        let underlay_params =
            UnderlayParams { vxlan_port: self.vxlan_port, underlay_mtu: self.underlay_mtu.unwrap_or(mtu) };
        let trouble = match underlay {
            None => {
                let reason = "no interface of this host has the underlay address";
                Some(host_problem(ProblemKind::Missing, address_object(config), reason))
            }
            // Where the underlay is IPv4, routers and hosts take packets apart.
            Some(_) => underlay_params.small(config.underlay).filter(|_| config.underlay.is_ipv6()).map(|reason| {
                host_problem(ProblemKind::Conflict, format!("underlay MTU {}", underlay_params.underlay_mtu), reason)
            }),
        };
        (underlay_params, trouble)
    }
}

/// How a problem names the underlay address.
fn address_object(config: &ValidHostConfig) -> String {
    format!("address {}", config.underlay)
}

struct Reconciler<K> {
    kernel: K,
    options: Options,
    inbox: Receiver<Message>,
    newer: Arc<AtomicBool>,
    report: watch::Sender<HostReport>,
    /// What it may use of limits that it shares, for those who look beside this.
    shares: watch::Sender<Shares>,
    config: Option<Arc<ValidHostConfig>>,
    /// What the kernel was last brought to and compared with.
    compared: Option<Arc<ValidHostConfig>>,
    stored: Stored,
    /// What may differ because the configuration changed since the kernel was last seen to be right.
    pending: DirtySet,
    /// Devices of sides that the configuration has no more, and that may still send.
    ending: BTreeSet<InterfaceName>,
    /// Whether everything is to be looked at, for whatever reason.
    due: bool,
    /// What the last look at everything said about the underlay.
    underlay_params: Option<UnderlayParams>,
    /// Desired devices that something was in the way of at the last look at everything.
    blocked: BTreeSet<InterfaceName>,
    /// Whether the kernel has been seen to be as the configuration wants it. What differs after that is drift.
    settled: bool,
    counters: Counters,
    /// What the kernel refused in the current pass, by operation; the first ones.
    refused: BTreeMap<String, NetlinkError>,
    retry: Duration,
    kept: PersistentState,
    /// What of each limit the kernel was last seen to let pass.
    confirmed: BTreeMap<Vni, Share>,
    /// Whether something was granted since the plan that is being carried out was made.
    regranted: bool,
    /// When the counters were last kept.
    measured: Option<Instant>,
    /// How long the last poll of the devices took.
    poll_took: Duration,
    /// Whether an event came since everything was looked at.
    events_pending: bool,
    /// When everything was looked at last.
    looked: Instant,
    /// By when everything is to be looked at because a look at a part has let traffic in: what others have in its way is seen then.
    look_by: Option<Instant>,
    /// When the settings of devices were polled last.
    polled: Instant,
    /// Settings of devices that the last look at everything could not put right, or left alone.
    left_wrong: BTreeSet<(InterfaceName, DeviceSetting)>,
    /// What somebody keeps changing back.
    backoff: Backoff,
    /// Which interfaces the ports were at the last look at everything that the configuration has other names for.
    aliases: Aliases,
    /// For those who listen to events.
    interest: Interest,
}

/// How a look at a dirty set ended.
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
    conflicts: Vec<Conflict>,
    interference: Vec<Interference>,
}

impl Outline {
    fn of(plan: &LazyPlan<'_>) -> Self {
        let first = plan.operations().take(MAX_PROBLEMS).collect();
        let (conflicts, interference) = (plan.conflicts.clone(), plan.interference.clone());
        Self { length: plan.len(), first, conflicts, interference }
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
                let left = self.look_by.map(|look_by| look_by.saturating_duration_since(Instant::now()));
                let pause = left.map_or(pause, |left| pause.min(left));
                let Some(waited) = self.wait_polling(pause, quiet_until) else { return };
                waited
            };
            // Without a reason, or with one that says only "look"; or it is time, however often configurations come.
            let is_time = self.looked.elapsed() >= self.options.resync
                || self.look_by.is_some_and(|look_by| Instant::now() >= look_by);
            if is_time {
                self.look_by = None;
            }
            self.due |= waited != Waited::Configured || is_time;
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

    /// Looks at what the configuration changed, and at everything when that is due.
    fn pass(&mut self) -> Option<Outcome> {
        let Some(config) = self.config.clone() else {
            // Everything is looked at when there is one.
            self.events_pending = false;
            return None;
        };
        if let Err(error) = self.quiesce() {
            // Then the look that follows fails, too, or does it.
            tracing::error!(%error, "the kernel could not be read or changed");
        }
        let clear = self.report.borrow().problems.is_empty();
        if let Some(underlay_params) = self.quick_way() {
            let dirty = self.pending.clone();
            match self.attempt(&config, &dirty, Some(underlay_params)) {
                Attempt::Superseded => return Some(Outcome::Superseded),
                Attempt::Done { problems, seen: true, run } if problems.is_empty() && clear => {
                    if !self.publish(&config, &dirty, problems, true, run) {
                        return Some(Outcome::Superseded);
                    }
                    if !dirty.is_nothing() {
                        self.look_by.get_or_insert_with(|| Instant::now() + CHECKED_WITHIN);
                    }
                    self.pending = DirtySet::nothing();
                    self.settled = true;
                    if !self.due {
                        return Some(Outcome::InSync);
                    }
                }
                Attempt::Done { .. } => {}
            }
        }
        self.due = true;
        match self.attempt(&config, &DirtySet::Everything, None) {
            Attempt::Superseded => Some(Outcome::Superseded),
            Attempt::Done { problems, seen, run } => {
                let outcome = if problems.is_empty() { Outcome::InSync } else { Outcome::Troubled };
                if !self.publish(&config, &DirtySet::Everything, problems, seen, run) {
                    return Some(Outcome::Superseded);
                }
                if seen {
                    // What is still not right is no longer a matter of what changed.
                    self.pending = DirtySet::nothing();
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
    fn quiesce(&mut self) -> Result<(), KernelError> {
        let ending = std::mem::take(&mut self.ending);
        // Of more than a few, looking at each would take longer than looking at everything.
        if ending.is_empty() || ending.len() > SILENCED {
            return Ok(());
        }
        let parts = Parts { devices: ending, ..Parts::default() };
        let observed = self.kernel.observe(&DirtySet::Parts(parts), &|| false)?;
        let operations = quiesce(&observed);
        let refused = self.kernel.apply(&operations)?;
        self.counters.operations += (operations.len() - refused.len()) as u64;
        Ok(())
    }

    /// The underlay as it was seen last, where a look at the parts that changed may be enough: something has changed,
    /// less than everything, and nothing is in the way of it.
    fn quick_way(&self) -> Option<UnderlayParams> {
        let DirtySet::Parts(parts) = &self.pending else { return None };
        let blocked = parts.devices.iter().any(|device| self.blocked.contains(device));
        let worth_it = !self.pending.is_nothing() || !self.due;
        if worth_it && !blocked { self.underlay_params } else { None }
    }

    fn attempt(&mut self, config: &ValidHostConfig, dirty: &DirtySet, known: Option<UnderlayParams>) -> Attempt {
        let started = Instant::now();
        let before = self.counters.operations;
        self.refused.clear();
        self.counters.passes += 1;
        let (problems, seen) = match self.rounds(config, dirty, known) {
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

    /// Looks and changes until nothing differs, or nothing more can be done. Returns what is wrong then; none when a newer
    /// configuration came.
    fn rounds(
        &mut self,
        config: &ValidHostConfig,
        dirty: &DirtySet,
        known: Option<UnderlayParams>,
    ) -> Result<Option<Vec<Problem>>, KernelError> {
        let mut last = None;
        for round in 0.. {
            let newer = Arc::clone(&self.newer);
            let whole = *dirty == DirtySet::Everything;
            let may_wait = !whole || self.looked.elapsed() < LONGEST_DEFERRAL;
            // What was noticed until now is seen by a look at everything.
            self.events_pending &= !whole;
            let dirty = &*ports::dirty_in_kernel_names(dirty, &self.aliases);
            let observed = self.kernel.observe(dirty, &|| may_wait && newer.load(Ordering::Relaxed))?;
            if whole {
                (self.looked, self.look_by) = (Instant::now(), None);
                self.aliases = ports::aliases(config, &observed.links);
            }
            let config = &*ports::in_kernel_names(config, &self.aliases);
            self.interest.learn(config, &observed, dirty);
            let (underlay_params, trouble) = match known {
                Some(underlay_params) => (underlay_params, None),
                None => self.options.underlay_params(config, &observed),
            };
            let mut desired = compile(config, underlay_params, dirty);
            if let Some(port) = desired.ports.keys().find(|port| !whole && !observed.links.contains_key(*port)) {
                // It may be there under another name, which a look at everything finds out.
                return Ok(Some(vec![host_problem(ProblemKind::Missing, format!("link {port}"), "not seen")]));
            }
            self.kept.shares.adjust(config, &mut desired);
            self.regranted = false;
            let now = Instant::now();
            desired.left_alone = self.backoff.closed(now);
            let mut plan = lazy_diff(&desired, &observed);
            let left = plan.take_out(|operation| self.backoff.rest(operation, now).is_some());
            // It may be as large as the plan.
            drop(observed);
            if known.is_none() {
                self.underlay_params = Some(underlay_params);
                self.blocked = plan.conflicts.iter().map(|conflict| conflict.device).collect();
            }
            let outline = Outline::of(&plan);
            let stuck = round == ROUNDS || last.as_ref() == Some(&outline);
            if plan.is_empty() || stuck {
                if whole {
                    let settings =
                        plan.operations().chain(left.iter().cloned()).filter_map(|operation| match operation {
                            Operation::Set(device, setting, _) => Some((device, setting)),
                            _ => None,
                        });
                    self.left_wrong = settings.collect();
                }
                let mut problems = self.problems(config, &plan, trouble);
                self.add_contested(config, &left, now, &mut problems);
                return Ok(Some(problems));
            }
            if !self.carry_out(config, &plan)? {
                return Ok(None);
            }
            last = Some(outline);
        }
        unreachable!("the last round is stuck")
    }

    /// Carries a plan out. False when a newer configuration came meanwhile.
    fn carry_out(&mut self, config: &ValidHostConfig, plan: &LazyPlan<'_>) -> Result<bool, KernelError> {
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
            // Not what a new configuration brings.
            if self.compared.as_ref().is_some_and(|compared| compared.revision == config.revision) {
                let now = Instant::now();
                let mut refused = refused.iter().map(|(place, _)| *place).peekable();
                for (place, operation) in chunk.iter().enumerate().take(MAX_PROBLEMS) {
                    if refused.next_if_eq(&place).is_none() {
                        self.backoff.note(operation, now);
                    }
                }
            }
            let room = (2 * MAX_PROBLEMS).saturating_sub(self.refused.len());
            let told = refused.into_iter().take(room);
            self.refused.extend(told.map(|(place, refusal)| (chunk[place].to_string(), refusal)));
            match self.drain(Waited::Pause) {
                Waited::Configured => return Ok(false),
                // What events may be about is looked at later.
                Waited::Port | Waited::Event | Waited::Pause => {}
            }
        }
    }
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
