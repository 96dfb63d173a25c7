//! What makes the reconciler observe the kernel, and when.

use super::{Reconciler, goal::Stored, message::Message, schedule::Waited};
use crate::kernel::{Event, Kernel};
use cps_peering_config::ValidHostConfig;
use std::{
    sync::{Arc, atomic::Ordering, mpsc::RecvTimeoutError},
    time::Instant,
};

impl<K: Kernel> Reconciler<K> {
    /// Waits until this time for a reason to observe; while all is well, a poll of the devices may give one. None if no
    /// sender is left.
    pub(super) fn wait_polling(&mut self, until: Instant) -> Option<Waited> {
        loop {
            let poll = self.schedule.next_poll();
            if until <= poll {
                return self.wait(until);
            }
            match self.wait(poll)? {
                Waited::Pause if self.seems_right() => {}
                waited => return Some(waited),
            }
        }
    }

    /// Whether ports are still the same interfaces, the settings of our devices and ports are right, and packet filters,
    /// exemptions from `IPsec` policies and host-wide settings are unchanged. (The kernel announces no alternative names for an interface
    /// that is down.) What cannot be read counts as wrong. Before the kernel was compared with this configuration, only
    /// the ports are checked.
    fn seems_right(&mut self) -> bool {
        let began = Instant::now();
        let Some(config) = self.goal.config() else {
            self.schedule.polled(began, began.elapsed());
            return true;
        };
        // What is wrong elsewhere does not matter here.
        let was_compared = self.goal.was_compared();
        let changed = was_compared && self.kernel.has_unannounced_changes();
        let links = self.kernel.devices();
        self.schedule.polled(began, began.elapsed());
        let Ok(links) = links else { return false };
        !changed
            && self.seen.ports_are_the_same(config, &links)
            && (!was_compared
                || (self.seen.settings_are_right(config, &links) && self.seen.exempt_are_the_same(&links)))
    }

    /// Waits for a reason to observe: this time, an event (which may have to wait its turn), or a configuration.
    fn wait(&mut self, mut until: Instant) -> Option<Waited> {
        let mut waited = Waited::Pause;
        let quiet_until = self.schedule.quiet_until();
        if self.schedule.is_event_pending() {
            (waited, until) = (Waited::Event, until.min(quiet_until));
        }
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(message) => waited = waited.max(self.take(message)),
                Err(RecvTimeoutError::Timeout) => return Some(waited),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            match self.drain(waited) {
                Waited::Configured => return Some(Waited::Configured),
                event @ (Waited::Port | Waited::Event) => {
                    waited = event;
                    until = until.min(quiet_until);
                }
                Waited::Pause => {}
            }
        }
    }

    /// Takes all messages that have arrived; a configuration outweighs events.
    pub(super) fn drain(&mut self, mut waited: Waited) -> Waited {
        while let Ok(message) = self.inbox.try_recv() {
            waited = waited.max(self.take(message));
        }
        waited
    }

    fn take(&mut self, message: Message) -> Waited {
        match message {
            Message::Configured(config, stored) => {
                self.configured(config, stored);
                Waited::Configured
            }
            Message::Stored(config) => {
                if self.goal.is_stored_now(&config)
                    && let Some(finding) = self.reporter.stored()
                {
                    self.confirm(&config, finding);
                }
                Waited::Pause
            }
            Message::Event(event) => {
                if event == Event::Lost {
                    self.reporter.count().events_lost += 1;
                    tracing::warn!("kernel events were lost; comparing everything");
                }
                self.schedule.event_came();
                if event == Event::Port { Waited::Port } else { Waited::Event }
            }
            Message::Asked(request) => {
                self.answer(request);
                Waited::Pause
            }
            Message::Tuned(options) => {
                self.options = options;
                self.seen.forget_underlay();
                self.schedule.tune(options.resync);
                Waited::Event
            }
        }
    }

    fn configured(&mut self, config: Arc<ValidHostConfig>, stored: Stored) {
        self.newer.store(false, Ordering::Relaxed);
        let old = self.goal.config().cloned();
        let changes = self.changes.follow(old.as_ref().map(|old| &***old), &config);
        if let Some(old) = &old {
            self.allocation.follow(old, &config);
        }
        self.reporter.configured();
        self.schedule.configured();
        self.goal.follow(config, stored, changes);
    }
}
