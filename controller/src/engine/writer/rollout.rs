//! Watches the canaries of a rollout, and continues or stops it.
//!
//! Reports of canaries are not stored: a new leader watches them again from the beginning. Which hosts wait, and whether an operator
//! must decide, is in the records.

use super::{Batch, Writer};
use crate::{
    engine::whole,
    model::{
        Command,
        record::{Host, Pacing},
        rollout::Step,
    },
};
use cps_peering_config::text;

/// How many unhealthy canaries a message names.
const NAMED: usize = 10;
/// The longest reason of one of them, in characters.
const LONGEST: usize = 200;

/// The canaries may flap for this many times as long as they may be unhealthy at a stretch.
const FLAPPING: u64 = 5;

/// The state of the canaries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// The rollout: the number of its commit.
    number: u64,
    /// Since when they are watched, in milliseconds since boot.
    since_ms: u64,
    /// Since when not all of them have been healthy, likewise; meaningless while they are.
    unwell_since_ms: u64,
    /// Since when all of them are healthy, likewise.
    well_since_ms: Option<u64>,
}

impl Writer {
    /// Continues a rollout, or stops it.
    pub(super) fn watch_rollout(&mut self, batch: &mut Batch) {
        let Some(rollout) = self.working.meta().rollout else {
            self.watch = None;
            return;
        };
        // Before a restored store is released, nothing is pushed, and its release starts everything anew.
        if self.working.meta().held {
            return;
        }
        if !self.working.hosts().values().any(Host::is_held_back) {
            let step = if rollout.withdrawn { Step::Withdraw } else { Step::Finish };
            return self.run_system_command(Command::Rollout(step), batch);
        }
        let published = self.shared.published();
        // What is being committed is examined the next time.
        if rollout.stopped || published.state.meta().rollout != Some(rollout) {
            self.watch = None;
            return;
        }
        let (boot_ms, pushes) = (self.shared.reading().boot_ms, self.shared.options().pushes);
        let mut watch = self.watch.filter(|watch| watch.number == rollout.number);
        let watch = watch.get_or_insert(Watch {
            number: rollout.number,
            since_ms: boot_ms,
            unwell_since_ms: boot_ms,
            well_since_ms: None,
        });
        let agents = published.agents(self.shared.freshness(published.state.hosts().len()), &self.shared.paths);
        // A canary in maintenance tells nothing about the change (P5).
        let counts = |host: &&Host| host.pacing == Some(Pacing::Canary) && !host.in_maintenance();
        let canaries: Vec<&Host> = published.state.hosts().values().filter(counts).collect();
        // What tenants have changed since does not count.
        let unwell: Vec<&Host> =
            canaries.iter().copied().filter(|host| !agents.is_well_since(host, rollout.number)).collect();
        let patience_ms = whole(pushes.canary_patience.as_millis());
        let step = if canaries.is_empty() {
            Some(Step::Stop { why: "no canary is left: each was removed or is in maintenance".to_owned() })
        } else if unwell.is_empty() {
            let well_since_ms = *watch.well_since_ms.get_or_insert(boot_ms);
            // Each has reported again since.
            let again = |host: &&Host| {
                let reported_ms = agents.contact(&host.id).and_then(|contact| contact.reported_boot_ms);
                reported_ms.is_some_and(|reported_ms| reported_ms > well_since_ms)
            };
            let long_enough = boot_ms.saturating_sub(well_since_ms) >= whole(pushes.canary_watch.as_millis());
            (long_enough && canaries.iter().all(again)).then_some(Step::Finish)
        } else {
            if watch.well_since_ms.take().is_some() {
                watch.unwell_since_ms = boot_ms;
            }
            let wrong = |host: &&Host| {
                let wrong =
                    agents.out_of_sync_reason(host).unwrap_or_else(|| "it has not confirmed the change yet".to_owned());
                format!("{}: {}", host.id, text::cut(&wrong, LONGEST))
            };
            let why = || unwell.iter().take(NAMED).map(wrong).collect::<Vec<_>>().join("; ");
            // Flapping canaries are not waited for without end.
            let out_of_patience = boot_ms.saturating_sub(watch.unwell_since_ms) >= patience_ms
                || boot_ms.saturating_sub(watch.since_ms) >= FLAPPING * patience_ms;
            out_of_patience.then(|| Step::Stop { why: why() })
        };
        self.watch = Some(*watch);
        if let Some(step) = step {
            let commit = rollout.number;
            if let Step::Stop { why } = &step {
                tracing::error!(
                    commit,
                    why,
                    "rollout stopped: the canaries are not healthy, and the others wait: `cps-peering rollout show`"
                );
            } else {
                tracing::info!(commit, "the canaries are healthy: all hosts get the change");
            }
            self.run_system_command(Command::Rollout(step), batch);
        }
    }
}
