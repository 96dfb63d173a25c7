//! Periodic work of the writer: the store, the clock and deadlines; and recovery from a failed write.

use super::{Batch, Writer};
use crate::{
    audit::Entry,
    engine::{Health, NOTED_EVERY_MS, whole},
    model::{
        Command, Leap, Now,
        record::{Peering, PeeringState},
    },
    store::{Rows, Space, StoreError, notes},
};
use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

/// How long the last successful write proves that writes work.
const PROVEN: Duration = Duration::from_secs(10);

impl Writer {
    /// Checks whether writes work, and how much space there is.
    pub(super) fn look_at_store(&mut self) {
        let before = self.shared.health();
        let (failing, was_low) = (matches!(before, Health::Failing(_)), matches!(before, Health::Low(_)));
        if failing || self.proven.is_none_or(|at| at.elapsed() >= PROVEN) {
            match self.shared.store.probe() {
                Ok(()) => self.proven = Some(Instant::now()),
                Err(error) => return self.write_failed(&error, "a test write failed").map_or((), drop),
            }
        }
        let (options, store) = (self.shared.options(), &self.shared.store);
        let reserve = options.store_reserve;
        let space = *self.shared.space.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.set_health(match space {
            Some(space) if space.is_low() => Health::Low(low(space)),
            // With hysteresis.
            Some(space) if was_low && space.free < space.reserve / 4 * 5 => Health::Low(low(space)),
            // The reserve that was released in need is restored before anything else gets space.
            Some(space) if !store.hold_reserve(reserve) && space.free / 2 < space.reserve => Health::Low(low(space)),
            _ => Health::Fine,
        });
    }

    /// After a failed write: checks whether the store can be used again, and returns the number of its last commit.
    pub(super) fn write_failed(&mut self, error: &StoreError, what: &str) -> Option<u64> {
        tracing::error!(%error, "{what}");
        self.proven = None;
        let store = &self.shared.store;
        let freed = error.is_no_space() && store.free_reserve();
        let found = store.recover();
        self.shared.set_health(match &found {
            Ok(_) if freed => Health::Low(format!("the disk of the store is full ({error})")),
            // Of two reasons the first is the one that helps.
            Ok(_) | Err(StoreError::Closed { .. } | StoreError::Deposed { .. }) => Health::Failing(error.to_string()),
            Err(again) => Health::Failing(format!("{error}; {again}")),
        });
        let found = found.ok()?;
        if found != self.shared.published().state.meta().number && found != self.working.meta().number {
            self.load_again();
        }
        Some(found)
    }

    /// The store differs from memory: it has a commit whose outcome was unknown.
    pub(super) fn load_again(&mut self) {
        match self.shared.store.load() {
            Ok(state) => {
                tracing::warn!(commit = state.meta().number, "the state was loaded again from the store");
                self.unplanned = state.hosts().keys().cloned().collect();
                self.waits_for.clear();
                self.working = state.clone();
                self.shared.published_mut().state = state;
                self.shared.tick();
            }
            Err(error) => self.shared.set_health(Health::Failing(error.to_string())),
        }
    }

    pub(super) fn sweep(&mut self, batch: &mut Batch) {
        self.look_at_store();
        if matches!(self.shared.health(), Health::Failing(_)) {
            return;
        }
        let options = self.shared.options();
        let now = self.shared.now();
        let now_ms = now.ms;
        self.watch_clock(now, batch);
        if self.working.next_due(now_ms).is_some() {
            self.run_system_command(Command::Tick, batch);
        }
        let grace_ms = whole(options.grace.as_millis());
        let overdue = |peering: &&Peering| {
            peering.state == PeeringState::Provisioning && now_ms.saturating_sub(peering.since_ms) >= grace_ms
        };
        self.watch_rollout(batch);
        let overdue = self.working.unsettled().filter(overdue).map(|peering| peering.id.clone());
        for id in overdue.collect::<Vec<_>>() {
            self.run_system_command(Command::Activate(id), batch);
        }
        // What was missed elsewhere, for instance a report that arrived while its peering was being committed.
        batch.touched.extend(self.working.unsettled().map(|peering| peering.id.clone()));
        batch.heard.extend(self.working.retiring().map(|host| host.id.clone()));
    }

    /// Logs that the clock has leapt, or no longer differs, and accepts one that has been steady for long enough.
    pub(super) fn watch_clock(&mut self, now: Now, batch: &mut Batch) {
        let told = std::mem::replace(&mut self.leap_told, now.leap.is_some());
        match now.leap {
            Some(leap) if !told => {
                tracing::error!(
                    by_s = leap.by_ms / 1000,
                    "the clock has jumped: nothing is deleted at its deadline until an operator confirms the clock \
                     (`cps-peering admin clock confirm`), it goes back, or it has been steady for long enough"
                );
                self.note(&[Entry::of_clock(leap, now.ms)]);
            }
            None if told => tracing::info!("the clock agrees with the elapsed time"),
            _ => {}
        }
        let reading = self.shared.reading();
        if now.leap.is_some() && self.shared.time().is_believed(reading) {
            tracing::warn!("the clock has been steady since it jumped, and is accepted");
            self.finish(std::mem::take(batch));
            self.run_system_command(Command::ConfirmClock, batch);
            self.finish(std::mem::take(batch));
        }
    }

    /// What is stored beside a commit.
    pub(super) fn notes(&mut self, believed: Option<Leap>) -> Vec<(&'static str, Vec<u8>)> {
        let reading = self.shared.reading();
        self.noted_ms = reading.boot_ms;
        let mut time = self.shared.time().clone();
        if let Some(leap) = believed {
            time.believe(leap);
        }
        vec![(notes::CLOCK, time.to_keep(reading))]
    }

    /// Stores what is not stored with commits.
    pub(super) fn write_notes(&mut self) {
        if self.shared.health() != Health::Fine {
            return;
        }
        let now_ms = self.shared.now().ms;
        let mut notes: Vec<_> =
            self.disclosures.to_save(now_ms).map(|row| (notes::DISCLOSURES, row)).into_iter().collect();
        if self.shared.reading().boot_ms.abs_diff(self.noted_ms) >= NOTED_EVERY_MS {
            notes.append(&mut self.notes(None));
        }
        if let Err(error) = self.shared.store.write_notes(notes) {
            // The next commit finds out what is wrong with the store.
            tracing::warn!(%error, "notes could not be written");
        }
    }

    /// Stores refusals and commands without effect.
    pub(super) fn flush(&mut self) {
        // Scarce space is not used for refusals.
        if self.trail.entries() == 0 || self.shared.health() != Health::Fine {
            return;
        }
        match self.shared.store.write_rows("add to the audit trail", &self.trail) {
            Ok(()) => {
                self.proven = Some(Instant::now());
                self.shared.trail().added(self.trail.owners());
                self.trail = Rows::default();
            }
            Err(error) => drop(self.write_failed(&error, "the audit trail could not be written")),
        }
    }
}

fn low(space: Space) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!("the store has {} MiB of space left, {} of them reserved", mib(space.free), mib(space.reserve))
}
