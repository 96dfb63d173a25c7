//! What makes the reconciler look at the kernel, and when.

use super::{FIRST_RETRY, Reconciler, message::Message};
use crate::{
    dirty_set::{DirtySet, gone},
    kernel::{Event, Kernel},
    objects::DeviceSetting,
    ownership::DeviceName,
    ports,
};
use cps_peering_config::net::InterfaceName;
use std::{
    sync::{atomic::Ordering, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

/// How often the settings of devices are polled: the kernel does not announce all of them.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// A poll takes no more than this part of the time.
const POLL_SHARE: u32 = 20;

/// Why a wait ended, the weightiest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waited {
    Pause,
    /// An event that a tenant can bring about. There are few of them, so what they ask for is done at once and delays nothing.
    Port,
    Event,
    Configured,
}

impl<K: Kernel> Reconciler<K> {
    /// Waits for a reason to look; while all is well, what a poll of the devices tells is one, too.
    pub(super) fn wait_polling(&mut self, pause: Duration, quiet_until: Instant) -> Option<Waited> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // On a host with thousands of devices a poll takes a while, and all is looked at from time to time anyway. Configurations
            // that come meanwhile do not put it off.
            let next = POLL_INTERVAL.max(self.poll_took * POLL_SHARE).saturating_sub(self.polled.elapsed());
            if left <= next {
                return self.wait(left, quiet_until);
            }
            match self.wait(next, quiet_until)? {
                Waited::Pause if self.seems_right() => {}
                waited => return Some(waited),
            }
        }
    }

    /// Whether ports are the interfaces that they were, the settings of our devices and ports as they should be, and packet filters
    /// as they were. (Of an interface that is down the kernel announces no alternative names.) What cannot be read does not seem
    /// right. Before the kernel was compared with this configuration, only the first is asked.
    fn seems_right(&mut self) -> bool {
        self.polled = Instant::now();
        let Some(config) = &self.config else { return true };
        // What is wrong elsewhere does not matter here.
        let was_compared = self.compared.as_ref().is_some_and(|compared| compared.revision == config.revision);
        let filters_changed = was_compared && self.kernel.filters_changed();
        let links = self.kernel.devices();
        self.poll_took = self.polled.elapsed();
        let Ok(links) = links else { return false };
        if filters_changed || ports::aliases(config, &links) != self.aliases {
            return false;
        }
        if !was_compared {
            return true;
        }
        let of_vpcs = config.vrfs.values().flat_map(|vrf| vrf.ports.keys().copied().chain([DeviceName::vpc(vrf.vni)]));
        let of_sides = config.sides.keys().map(|vni| DeviceName::peer(*vni));
        let mut ours = of_vpcs.chain(of_sides).filter_map(|name| {
            let name = *self.aliases.get(&name).unwrap_or(&name);
            Some((name, links.get(&name)?))
        });
        ours.all(|(name, link)| {
            DeviceSetting::WANTED.into_iter().all(|(setting, value)| {
                let is_right = link.settings.get(&setting).is_none_or(|have| *have == value);
                // What could not be put right is tried again when its time comes.
                is_right || self.left_wrong.contains(&(name, setting))
            })
        })
    }

    /// Waits for a reason to look: until `pause` is over, an event comes (but not before `quiet_until`), or a configuration
    /// comes. None when nobody can give a reason any more.
    fn wait(&mut self, pause: Duration, quiet_until: Instant) -> Option<Waited> {
        let mut until = Instant::now() + pause;
        let mut waited = Waited::Pause;
        // It stays so until everything is looked at: a configuration that comes first asks for a part only.
        if self.events_pending {
            (waited, until) = (Waited::Event, until.min(quiet_until));
        }
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(wake) => waited = waited.max(self.take(wake)),
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

    /// Takes everything that has come meanwhile; a configuration outweighs events.
    pub(super) fn drain(&mut self, mut waited: Waited) -> Waited {
        while let Ok(wake) = self.inbox.try_recv() {
            waited = waited.max(self.take(wake));
        }
        waited
    }

    fn take(&mut self, wake: Message) -> Waited {
        match wake {
            Message::Configured(config, stored) => {
                self.newer.store(false, Ordering::Relaxed);
                let change = match &self.config {
                    Some(old) => DirtySet::between(old, &config),
                    None => DirtySet::Everything,
                };
                let pending = std::mem::replace(&mut self.pending, DirtySet::nothing());
                self.settled &= change.is_nothing();
                self.pending = pending.and(change);
                if let Some(old) = &self.config {
                    self.ending.extend(gone(&old.sides, &config.sides).into_iter().map(DeviceName::peer));
                    let back = |device: &InterfaceName| {
                        DeviceName::parse(device).is_some_and(|device| config.sides.contains_key(&device.vni))
                    };
                    self.ending.retain(|device| !back(device));
                    self.kept.shares.follow(old, &config);
                    self.shares.send_replace(self.kept.shares.clone());
                    self.confirmed.retain(|vni, _| config.sides.contains_key(vni));
                }
                self.config = Some(config);
                self.stored = stored;
                self.retry = FIRST_RETRY;
                Waited::Configured
            }
            Message::Event(event) => {
                if event == Event::Lost {
                    self.counters.events_lost += 1;
                    tracing::warn!("kernel events were lost; comparing everything");
                }
                self.events_pending = true;
                if event == Event::Port { Waited::Port } else { Waited::Event }
            }
            Message::Asked(ask) => {
                self.regranted = true;
                self.answer(ask);
                Waited::Pause
            }
            Message::Tuned(options) => {
                self.options = options;
                self.underlay_params = None;
                self.due = true;
                Waited::Event
            }
        }
    }
}
