//! Events about what has been out of sync for some time, and about what no longer is.
//!
//! The store records which ones were sent, so that a controller that takes over repeats none.

use super::{Agents, Engine, StoreError};
use crate::{
    audit::Entry,
    events::{self, Event, of_host, of_peering, seen_by},
    model::{
        record::{Peering, PeeringState},
        state::State,
    },
    store::notes::OUT_OF_SYNC,
};
use cps_peering_config::id::{HostId, PeeringId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

/// How long something must have been out of sync, in milliseconds: any change takes a moment until hosts have confirmed it.
const LASTS_MS: u64 = 10_000;
/// How long after the start hosts that have not reported yet do not count as out of sync, in milliseconds.
const SETTLING_MS: u64 = 60_000;
/// How often this is checked, in milliseconds.
const EVERY_MS: u64 = 2000;
/// How many hosts and peerings out of sync are remembered; beyond that there are no events.
const MOST: usize = 20_000;
/// How many events one entry of the audit trail has.
const AT_ONCE: usize = 100;

/// A host or a peering.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Thing {
    Host(HostId),
    Peering(PeeringId),
}

/// What is out of sync.
#[derive(Debug, Default)]
pub(super) struct SyncWatch {
    /// Those with an event.
    told: BTreeSet<Thing>,
    /// Those without an event yet, and since when, in milliseconds since boot.
    since: BTreeMap<Thing, u64>,
    started_ms: u64,
    looked_ms: u64,
}

impl SyncWatch {
    /// Restores what a previous controller has stored; invalid data counts as nothing.
    pub(super) fn new(noted: Option<&[u8]>, boot_ms: u64) -> Self {
        let told = noted.and_then(|noted| serde_json::from_slice(noted).ok()).unwrap_or_default();
        Self { told, started_ms: boot_ms, ..Self::default() }
    }

    /// What is out of sync now.
    fn look(&self, state: &State, agents: &Agents<'_>, boot_ms: u64) -> BTreeSet<Thing> {
        let settling = boot_ms.saturating_sub(self.started_ms) < SETTLING_MS;
        let unheard = |host: &HostId| agents.contact(host).and_then(|contact| contact.report.as_ref()).is_none();
        let mut found = BTreeSet::new();
        for host in state.hosts().values().filter(|host| !host.dead && !agents.in_sync(host)) {
            // For what is not known yet, nothing changes.
            // Nor for a host that only waits in a rollout: it continues to have what it has.
            if agents.is_only_held_back(host) || settling && unheard(&host.id) {
                let ports = state.ports_on(&host.id).flat_map(|port| state.peerings_of(&port.vpc));
                let here = ports.map(|peering| Thing::Peering(peering.id.clone()));
                found.extend(here.chain([Thing::Host(host.id.clone())]).filter(|thing| self.told.contains(thing)));
                continue;
            }
            found.insert(Thing::Host(host.id.clone()));
            for port in state.ports_on(&host.id) {
                let active = state.peerings_of(&port.vpc).filter(|peering| peering.state == PeeringState::Active);
                let missing = active.filter(|peering| !agents.confirms(&host.id, peering));
                found.extend(missing.map(|peering| Thing::Peering(peering.id.clone())));
            }
            if found.len() > MOST {
                // For those that are not examined, nothing changes.
                found.extend(self.told.iter().cloned());
                break;
            }
        }
        found
    }

    /// The events that are due now.
    fn news(&mut self, found: BTreeSet<Thing>, state: &State, boot_ms: u64) -> Vec<Event> {
        let again: Vec<Thing> = self.told.difference(&found).cloned().collect();
        self.since.retain(|thing, _| found.contains(thing));
        let mut news = Vec::new();
        for thing in again {
            self.told.remove(&thing);
            news.extend(event(&thing, true, state));
        }
        for thing in found {
            let since_ms = *self.since.entry(thing.clone()).or_insert(boot_ms);
            let lasts = boot_ms.saturating_sub(since_ms) >= LASTS_MS;
            if lasts && self.told.len() < MOST && self.told.insert(thing.clone()) {
                news.extend(event(&thing, false, state));
            }
        }
        news
    }
}

/// None for what is gone, or has ended: other events tell that.
fn event(thing: &Thing, in_sync: bool, state: &State) -> Option<Event> {
    match thing {
        Thing::Host(id) => {
            state.hosts().get(id).filter(|host| !host.dead)?;
            Some(of_host(if in_sync { "host.inSync" } else { "host.outOfSync" }, id))
        }
        Thing::Peering(id) => {
            let peering: &Peering = state.peerings().get(id).filter(|it| it.state == PeeringState::Active)?;
            let kind = if in_sync { "peering.inSync" } else { "peering.outOfSync" };
            Some(of_peering(kind, peering, &seen_by(peering)))
        }
    }
}

impl Engine {
    /// Creates the events that are due. Blocks on the disk.
    pub(super) fn watch_sync(&self) -> Result<(), StoreError> {
        let (boot_ms, now_ms) = (self.shared.reading().boot_ms, self.now_ms());
        let mut watch = self.shared.sync.lock().unwrap_or_else(PoisonError::into_inner);
        if boot_ms.saturating_sub(watch.looked_ms) < EVERY_MS || self.shared.health() != super::Health::Fine {
            return Ok(());
        }
        watch.looked_ms = boot_ms;
        let before = watch.told.clone();
        let news = self.read(|state, agents| {
            let found = watch.look(state, agents, boot_ms);
            watch.news(found, state, boot_ms)
        });
        if watch.told == before {
            return Ok(());
        }
        let entry = |events: &[Event]| Entry {
            outcome: "told".to_owned(),
            events: events.to_vec(),
            ..Entry::of_system("CompareHosts", "", now_ms)
        };
        let entries: Vec<Entry> = news.chunks(AT_ONCE).map(entry).collect();
        let store = &self.shared.store;
        let written = store.encode(&[], &[], &entries).and_then(|mut rows| {
            rows.note(vec![(OUT_OF_SYNC, serde_json::to_vec(&watch.told).unwrap_or_default())]);
            store.write_rows("tell what is out of sync", &rows)?;
            Ok(rows)
        });
        match written {
            Ok(mut rows) => {
                self.shared.trail().added(rows.owners());
                self.shared.listeners.tell(&events::accounts(&news));
                Ok(())
            }
            Err(error) => {
                watch.told = before;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            host_status::{Contact, Freshness},
            path_health::PathHealths,
        },
        model::record::{Host, Pacing},
    };
    use imbl::OrdSet;
    use std::{str::FromStr as _, sync::Arc};

    fn thing(name: &str) -> Thing {
        Thing::Host(name.parse().unwrap())
    }

    fn hosts(names: &[&str]) -> BTreeSet<Thing> {
        names.iter().map(|name| thing(name)).collect()
    }

    fn kinds(events: &[Event]) -> Vec<String> {
        events.iter().map(|event| format!("{} {}", event.kind, event.target)).collect()
    }

    /// A host of a region.
    fn host(name: &str) -> Host {
        let record = serde_json::json!({
            "id": name, "region": "north", "underlay": "192.0.2.1", "agent": "http://192.0.2.1:1", "config_number": 1,
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn beyond_the_limit_nothing_changes() {
        let mut state = State::default();
        let peering = PeeringId::from_str("vpcpr-0a1b2c3d4e").unwrap();
        for number in 0..=MOST + 1 {
            let host = host(&format!("h{number}"));
            state.apply(crate::model::state::Change::Host(host.id.clone(), Some(host)));
        }
        let (contacts, in_sync) = Default::default();
        let freshness = Freshness { boot_ms: 2 * SETTLING_MS, max_age_ms: 1000 };
        let paths = PathHealths::default();
        let agents = Agents { state: &state, contacts: &contacts, in_sync: &in_sync, freshness, paths: &paths };
        let mut watch = SyncWatch::new(None, 0);
        watch.told = [thing("h1"), Thing::Peering(peering)].into();
        let found = watch.look(&state, &agents, freshness.boot_ms);
        // Both limits hold, and neither those with an event nor the first beyond the limit are said to be in sync.
        assert!(watch.told.is_subset(&found) && found.len() <= MOST + 1 + watch.told.len(), "{}", found.len());
        assert!(watch.news(found.clone(), &state, freshness.boot_ms).is_empty());
        let news = watch.news(found, &state, freshness.boot_ms + LASTS_MS);
        assert!(news.iter().all(|event| event.kind == "host.outOfSync"), "nothing is back");
        assert_eq!((news.len(), watch.told.len()), (MOST - 2, MOST));
    }

    /// P2. A host that waits in a rollout continues to have what it has.
    #[test]
    fn for_hosts_that_wait_in_a_rollout_nothing_changes() {
        let mut state = State::default();
        let held = Some(Pacing::Held { has: 0, plan: 1, digest: 0 });
        for (name, pacing) in [("h1", held), ("h2", held), ("h3", Some(Pacing::Canary)), ("h4", held), ("h5", held)] {
            let host = Host { pacing, ..host(name) };
            state.apply(crate::model::state::Change::Host(host.id.clone(), Some(host)));
        }
        let said = |problems: serde_json::Value| {
            let report = serde_json::json!({
                "version": "0", "host": "h", "desired": null, "applied": null, "last_pass": null, "problems": problems,
                "counters": { "passes": 1, "operations": 0, "failures": 0, "drift_repaired": 0 },
            });
            let report = Some(serde_json::from_value(report).unwrap());
            Arc::new(Contact { report, reported_ms: Some(0), reported_boot_ms: Some(2 * SETTLING_MS), error: None })
        };
        let well = said(serde_json::json!([]));
        // Problems of a waiting host are reported, and so is one that does not answer.
        let wrong = said(serde_json::json!([{ "scope": "host", "kind": "failed", "object": "x", "reason": "wrong" }]));
        let contacts = [("h1", &well), ("h2", &well), ("h3", &well), ("h4", &wrong)];
        let contacts = contacts.map(|(id, said)| (id.parse().unwrap(), Arc::clone(said))).into_iter().collect();
        let in_sync = OrdSet::new();
        let freshness = Freshness { boot_ms: 2 * SETTLING_MS, max_age_ms: 0 };
        let paths = PathHealths::default();
        let agents = Agents { state: &state, contacts: &contacts, in_sync: &in_sync, freshness, paths: &paths };
        let watch = SyncWatch { told: hosts(&["h1"]), ..SyncWatch::default() };
        let expected = hosts(&["h1", "h3", "h4", "h5"]);
        assert_eq!(watch.look(&state, &agents, freshness.boot_ms), expected, "nor that one is well again");
    }

    #[test]
    fn a_lasting_problem_has_one_event_also_across_a_takeover() {
        let mut state = State::default();
        for name in ["h1", "h2"] {
            let host = host(name);
            state.apply(crate::model::state::Change::Host(host.id.clone(), Some(host)));
        }
        let mut watch = SyncWatch::new(None, 0);
        assert_eq!(kinds(&watch.news(hosts(&["h1", "h2"]), &state, 1000)), Vec::<String>::new());
        // One was only briefly out of sync.
        assert_eq!(kinds(&watch.news(hosts(&["h1"]), &state, 9000)), Vec::<String>::new());
        assert_eq!(kinds(&watch.news(hosts(&["h1"]), &state, 11_000)), ["host.outOfSync h1"]);
        assert_eq!(kinds(&watch.news(hosts(&["h1", "h2"]), &state, 12_000)), Vec::<String>::new());
        // Another controller takes over.
        let noted = serde_json::to_vec(&watch.told).unwrap();
        let mut next = SyncWatch::new(Some(&noted), 50_000);
        assert_eq!(kinds(&next.news(hosts(&["h1", "h2"]), &state, 51_000)), Vec::<String>::new());
        assert_eq!(kinds(&next.news(hosts(&["h1", "h2"]), &state, 61_000)), ["host.outOfSync h2"]);
        assert_eq!(kinds(&next.news(hosts(&["h2"]), &state, 62_000)), ["host.inSync h1"]);
        // A removed host has its own event.
        state.apply(crate::model::state::Change::Host("h2".parse().unwrap(), None));
        assert_eq!(kinds(&next.news(BTreeSet::new(), &state, 63_000)), Vec::<String>::new());
        // And so has one that was removed as dead, though it stays listed.
        assert_eq!(kinds(&next.news(hosts(&["h1"]), &state, 64_000)), Vec::<String>::new());
        assert_eq!(kinds(&next.news(hosts(&["h1"]), &state, 74_000)), ["host.outOfSync h1"]);
        let dead = Host { dead: true, ..state.hosts()[&"h1".parse::<HostId>().unwrap()].clone() };
        state.apply(crate::model::state::Change::Host(dead.id.clone(), Some(dead)));
        assert_eq!(kinds(&next.news(BTreeSet::new(), &state, 75_000)), Vec::<String>::new());
        assert!(next.told.is_empty() && SyncWatch::new(Some(b"rubbish"), 0).told.is_empty());
    }
}
