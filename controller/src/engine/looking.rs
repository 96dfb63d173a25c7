//! Reports of hosts, and periodic work.

use super::{Contact, Engine, Health, writer::Job};
use crate::store::StoreError;
use cps_peering_config::{HostReport, id::HostId, report::UNDERLAY_MTUS};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, mpsc},
};

impl Engine {
    /// Records an agent's report, or why it could not be reached, and advances what waited for it.
    pub fn on_report(&self, host: &HostId, news: Result<HostReport, String>) {
        let (now_ms, boot_ms) = (self.now_ms(), self.shared.reading().boot_ms);
        if let Ok(report) = &news
            && report.in_sync()
            && let Some(applied) = report.applied
        {
            self.shared.traces.confirmed(host, applied);
        }
        let (awaited, new) = {
            let mut published = self.shared.published_mut();
            let Some(record) = published.state.hosts().get(host) else { return };
            let before = published.contacts.get(host).cloned().unwrap_or_default();
            let (contact, awaited, new) = match news {
                Ok(report) => {
                    let said = |report: &HostReport| (report.desired, report.applied, report.problems.clone());
                    let new = before.report.as_ref().map(said) != Some(said(&report)) || before.error.is_some();
                    // An impossible MTU must not affect other hosts.
                    let underlay_mtu = report.underlay_mtu.filter(|mtu| UNDERLAY_MTUS.contains(mtu));
                    if let (Some(mtu), None) = (report.underlay_mtu, underlay_mtu)
                        && new
                    {
                        tracing::warn!(%host, mtu, expected = ?UNDERLAY_MTUS, "a host reports an MTU that no underlay has; it is ignored");
                    }
                    let report = HostReport { vrfs: BTreeMap::new(), sides: BTreeMap::new(), underlay_mtu, ..report };
                    if record.dead && (before.report.is_none() || before.error.is_some()) {
                        tracing::warn!(%host, "a host that was removed as dead answers again; its agent is asked to clean up");
                    }
                    let told_mtu = report.underlay_mtu.is_some_and(|mtu| record.underlay_mtu != Some(mtu));
                    let awaited = told_mtu || record.retiring || published.state.unsettled_on(host).next().is_some();
                    let reported_boot_ms = Some(boot_ms);
                    (
                        Contact { report: Some(report), reported_ms: Some(now_ms), reported_boot_ms, error: None },
                        awaited,
                        new,
                    )
                }
                Err(error) => {
                    let new = before.error.as_ref() != Some(&error);
                    (Contact { error: Some(error), ..Contact::clone(&before) }, false, new)
                }
            };
            published.contacts.insert(host.clone(), Arc::new(contact));
            published.compare(host);
            (awaited, new)
        };
        if awaited {
            self.ask(Job::Heard(host.clone()));
        }
        if new {
            self.shared.tick();
        }
    }

    /// Advances what has waited long enough, and does what is due. Blocks on the disk.
    pub fn sweep(&self) {
        let until_ms = self.written_before(self.trail_kept_ms());
        if !matches!(self.shared.health(), Health::Failing(_))
            && let Err(error) = self.shorten_trail(until_ms)
        {
            tracing::error!(%error, "the audit trail could not be shortened");
        }
        let space = self.shared.store.space(self.shared.options().store_reserve).unwrap_or_else(|error| {
            tracing::debug!(%error, "how much room the store has is not known");
            None
        });
        *self.shared.space.lock().unwrap_or_else(PoisonError::into_inner) = space;
        let in_sync = self.read(|state, agents| {
            let hosts = state.hosts().values().filter(|host| agents.in_sync(host));
            hosts.map(|host| host.id.clone()).collect::<BTreeSet<_>>()
        });
        let mut known = self.shared.heard_in_sync.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *known, in_sync.clone()) != in_sync {
            self.shared.tick();
        }
        drop(known);
        if let Err(error) = self.watch_sync() {
            tracing::error!(%error, "what is out of sync could not be told");
        }
        let (done, swept) = mpsc::channel();
        self.ask(Job::Sweep(done));
        swept.recv().expect(super::WRITER);
    }

    fn shorten_trail(&self, until_ms: u64) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let forgotten = store.forget(until_ms)?;
        let limits = self.shared.options().trail;
        let mut trail = self.shared.trail();
        trail.gone(&forgotten);
        trail.sweep(store, limits, &self.shared.metrics, self.now_ms())
    }
}
