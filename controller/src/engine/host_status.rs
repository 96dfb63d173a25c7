//! What is known from the agents, and what follows for hosts and peerings.

use super::path_health::{PathHealth, PathHealths};
use crate::model::{
    record::{Host, Peering, PeeringState},
    state::{Meta, State},
};
use cps_peering_config::{HostReport, Revision, id::HostId, report::Scope};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// What is known from a host's agent.
#[derive(Debug, Clone, Default)]
pub struct Contact {
    /// The last report, without the standings of VRFs and sides, of which a host can have thousands.
    pub report: Option<HostReport>,
    /// When it arrived, in milliseconds since 1970-01-01 UTC.
    pub reported_ms: Option<u64>,
    /// The same in milliseconds since boot, which cannot be set.
    pub reported_boot_ms: Option<u64>,
    /// Why the last attempt to reach the agent failed; none if it did not.
    pub error: Option<String>,
}

/// Decides whether a report is recent enough to tell the current state of a host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freshness {
    /// The time since boot, in milliseconds.
    pub(super) boot_ms: u64,
    /// The maximum age of a report, in milliseconds.
    pub(super) max_age_ms: u64,
}

/// What is known from the agents, together with the state.
pub struct Agents<'a> {
    pub(super) state: &'a State,
    pub(super) contacts: &'a OrdMap<HostId, Arc<Contact>>,
    pub(super) in_sync: &'a OrdSet<HostId>,
    pub(super) freshness: Freshness,
    pub(super) paths: &'a PathHealths,
}

/// Whether hosts are known to have a peering, and how old that knowledge is (rule V3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The hosts that are not known to have it or, once it is being deleted, not to have it.
    pub missing: Vec<HostId>,
    /// The oldest of the last reports of all hosts concerned.
    pub report: Option<LastReport>,
    /// When they were all last known to have it, in milliseconds since 1970-01-01 UTC; none if the last report of one of them
    /// says otherwise, or it has no hosts.
    pub confirmed_ms: Option<u64>,
}

/// When a report arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastReport {
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

impl Agents<'_> {
    /// What is known from a host's agent.
    pub fn contact(&self, host: &HostId) -> Option<&Contact> {
        self.contacts.get(host).map(Arc::as_ref)
    }

    /// Whether the kernel is known to match the host's configuration: its agent has said so recently, and has
    /// not failed to answer since (rule V3).
    pub fn in_sync(&self, host: &Host) -> bool {
        self.in_sync.contains(&host.id) && self.is_current(&host.id)
    }

    /// The number of hosts in sync.
    pub fn count_in_sync(&self) -> usize {
        self.in_sync.iter().filter(|host| self.is_current(host)).count()
    }

    /// When a host's agent last reported; none if it never did.
    pub fn last_report(&self, host: &HostId) -> Option<LastReport> {
        let contact = self.contact(host)?;
        let age_ms = self.freshness.boot_ms.saturating_sub(contact.reported_boot_ms?);
        Some(LastReport { age_ms, time_ms: contact.reported_ms? })
    }

    /// The oldest of the last reports of some hosts; none if one has never reported, or there are none.
    pub fn oldest_report<'h>(&self, hosts: impl IntoIterator<Item = &'h HostId>) -> Option<LastReport> {
        let reports: Option<Vec<LastReport>> = hosts.into_iter().map(|host| self.last_report(host)).collect();
        reports?.into_iter().max_by_key(|report| report.age_ms)
    }

    /// How old a report can be, in milliseconds, to count.
    pub fn max_report_age_ms(&self) -> u64 {
        self.freshness.max_age_ms
    }

    /// Whether the last report is older than that.
    pub fn is_too_old(&self, report: LastReport) -> bool {
        report.age_ms > self.freshness.max_age_ms
    }

    /// Whether the last report tells the current state of a host: it is not too old, and no failure has followed it.
    pub fn is_current(&self, host: &HostId) -> bool {
        let answers = self.contact(host).is_some_and(|contact| contact.error.is_none());
        answers && self.last_report(host).is_some_and(|report| !self.is_too_old(report))
    }

    /// Whether a host lacks nothing but what it waits for in a rollout: it has said so recently, and reports no problem.
    pub fn is_only_held_back(&self, host: &Host) -> bool {
        let well = |contact: &Contact| contact.report.as_ref().is_some_and(|report| report.problems.is_empty());
        host.is_held_back()
            && !self.in_sync(host)
            && self.is_current(&host.id)
            && self.contact(&host.id).is_some_and(well)
    }

    /// Whether a host has a commit, or a later one, and is healthy with it by a recent report.
    pub fn is_well_since(&self, host: &Host, number: u64) -> bool {
        let Meta { epoch, .. } = self.state.meta();
        let well = |contact: &Contact| {
            let report = contact.report.as_ref()?;
            Some(report.problems.is_empty() && report.applied? >= Revision { epoch, number })
        };
        self.is_current(&host.id) && self.contact(&host.id).and_then(well) == Some(true)
    }

    /// Why a host's kernel is not known to match its configuration, for people; none if it is.
    pub fn out_of_sync_reason(&self, host: &Host) -> Option<String> {
        if self.in_sync(host) {
            return None;
        }
        let contact = self.contact(&host.id);
        if let Some(error) = contact.and_then(|contact| contact.error.clone()) {
            return Some(error);
        }
        let Some(report) = contact.and_then(|contact| contact.report.as_ref()) else {
            return Some("its agent has not reported yet".to_owned());
        };
        if let Some(problem) = report.problems.first() {
            return Some(format!("{}: {}", problem.object, problem.reason));
        }
        if !self.is_current(&host.id) {
            return Some(format!("its last report is older than {} s", self.max_report_age_ms() / 1000));
        }
        let applied = report.applied.map_or_else(|| "nothing".to_owned(), |applied| applied.to_string());
        Some(format!("applied {applied}, desired {}", self.state.revision_of(host)))
    }

    /// The health of the paths of a peering between hosts, by the probes of all its hosts, the worst values. None if no host has reported
    /// recently: it does not forward, both VPCs are on one host alone, or its hosts do not probe (rule V6).
    pub fn path_health(&self, peering: &Peering) -> Option<PathHealth> {
        let hosts = peering.sides().map(|side| self.state.hosts_of(&side.vpc));
        let of = peering.sides().into_iter().zip(&hosts);
        let of = of.flat_map(|(side, hosts)| hosts.iter().filter_map(|host| Some((host, side.vni?))));
        let of = of.filter(|(host, _)| self.is_there(host));
        if peering.forwards() { self.paths.worst(&peering.id, of, self.freshness.boot_ms) } else { None }
    }

    /// The same by the probes of one of its hosts.
    pub fn path_health_from(&self, host: &HostId, peering: &Peering) -> Option<PathHealth> {
        let sides = peering.sides().into_iter().filter(|side| self.state.has_port(&side.vpc, host));
        let of = sides.filter_map(|side| Some((host, side.vni?))).filter(|_| self.is_there(host));
        if peering.forwards() { self.paths.worst(&peering.id, of, self.freshness.boot_ms) } else { None }
    }

    pub(super) fn is_in_sync(&self, host: &Host) -> bool {
        let report = self.contacts.get(&host.id).and_then(|contact| contact.report.as_ref());
        report.is_some_and(|report| {
            report.applied == Some(self.state.revision_of(host))
                && report.problems.is_empty()
                && (report.knows_scoped_sides || !self.has_scoped_sides(host))
        })
    }

    /// Whether a host has a side of a peering with prefix lists.
    fn has_scoped_sides(&self, host: &Host) -> bool {
        let peerings = self.state.ports_on(&host.id).flat_map(|port| self.state.peerings_of(&port.vpc));
        peerings.into_iter().any(|peering| peering.forwards() && peering.is_scoped())
    }

    /// The hosts that are not known to have a peering or, once it is being deleted, not to have it.
    pub fn missing(&self, peering: &Peering) -> Vec<HostId> {
        let concerned = self.state.hosts_concerned(peering).into_iter();
        concerned.filter(|host| !self.confirms(host, peering)).collect()
    }

    /// Whether hosts are known to have a peering or, once it is being deleted, not to have it.
    pub fn confirmation(&self, peering: &Peering) -> Confirmation {
        let concerned = self.state.hosts_concerned(peering);
        let missing = concerned.iter().filter(|host| !self.confirms(host, peering)).cloned().collect();
        let report = self.oldest_report(concerned.iter().filter(|host| self.is_there(host)));
        let all_said_so = || concerned.iter().all(|host| self.has_confirmed(host, peering));
        let confirmed_ms = report.filter(|_| all_said_so()).map(|report| report.time_ms);
        Confirmation { missing, report, confirmed_ms }
    }

    /// One of the hosts that an unsettled peering waits for; none if it is settled. The last one in order:
    /// targets are sent in order, so that the others have probably confirmed it when this one does.
    pub(super) fn waits_for(&self, peering: &Peering) -> Option<HostId> {
        // A host in maintenance does not delay anything new. What is being deleted, it may still have.
        let begins = peering.state == PeeringState::Provisioning;
        let excused = |id: &HostId| begins && self.state.hosts().get(id).is_some_and(Host::in_maintenance);
        let mut concerned = self.state.hosts_concerned(peering).into_iter().rev();
        concerned.find(|host| !self.confirms(host, peering) && !excused(host))
    }

    /// Whether a host's kernel is known to have a peering or, once it is being deleted, not to have it. A confirmed removal is final; that
    /// a peering exists must be confirmed again and again.
    pub fn confirms(&self, host: &HostId, peering: &Peering) -> bool {
        let lasts = || !peering.forwards() || !self.is_there(host) || self.is_current(host);
        self.has_confirmed(host, peering) && lasts()
    }

    fn is_there(&self, host: &HostId) -> bool {
        self.state.hosts().get(host).is_some_and(|host| !host.dead)
    }

    /// Whether a host's last report confirms a peering, or its removal. A removed host has nothing.
    fn has_confirmed(&self, host: &HostId, peering: &Peering) -> bool {
        let Some(record) = self.state.hosts().get(host).filter(|_| self.is_there(host)) else { return true };
        let Some(report) = self.contacts.get(host).and_then(|contact| contact.report.as_ref()) else { return false };
        let number = if peering.forwards() { record.config_number } else { peering.since.min(record.config_number) };
        let revision = Revision { epoch: self.state.meta().epoch, number };
        let mut vnis = peering.sides().into_iter().filter_map(|side| side.vni);
        if !peering.forwards() {
            return vnis.all(|vni| report.confirms_removal(revision, vni));
        }
        let mut scopes: Vec<Scope> = vnis.map(Scope::Side).collect();
        let here = peering.sides().into_iter().filter(|side| self.state.has_port(&side.vpc, host));
        scopes.extend(here.map(|side| Scope::Vpc(side.vpc.clone())));
        // An agent that does not know sides with prefix lists has none of it, and does not know what it lacks.
        (report.knows_scoped_sides || !peering.is_scoped())
            && scopes.iter().all(|scope| report.confirms(revision, scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Change;
    use serde_json::json;

    /// P1. A canary is healthy with a commit if it has that or a later one of this epoch, reports no problem, and has reported recently.
    #[test]
    fn a_canary_is_well_with_what_it_has_and_not_with_what_it_had() {
        let mut state = State::default();
        let host: Host = serde_json::from_value(json!({
            "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": "http://192.0.2.1:1", "config_number": 9,
        }))
        .unwrap();
        state.apply(Change::Host(host.id.clone(), Some(host.clone())));
        state.apply(Change::Meta(Meta { epoch: 2, ..Meta::default() }));
        let paths = PathHealths::default();
        let is_well = |applied: serde_json::Value, problems: serde_json::Value, age_ms: u64, error: Option<&str>| {
            let report = json!({
                "version": "0", "host": "h1", "desired": applied, "applied": applied, "last_pass": null, "problems": problems,
                "counters": { "passes": 1, "operations": 0, "failures": 0, "drift_repaired": 0 },
            });
            let contact = Contact {
                report: Some(serde_json::from_value(report).unwrap()),
                reported_ms: Some(0),
                reported_boot_ms: Some(50_000 - age_ms),
                error: error.map(str::to_owned),
            };
            let contacts = OrdMap::unit(host.id.clone(), Arc::new(contact));
            let freshness = Freshness { boot_ms: 50_000, max_age_ms: 1000 };
            let agents =
                Agents { state: &state, contacts: &contacts, in_sync: &OrdSet::new(), freshness, paths: &paths };
            agents.is_well_since(&host, 7)
        };
        let revision = |epoch: u64, number: u64| json!({ "epoch": epoch, "number": number });
        let none = json!([]);
        let wrong = json!([{ "scope": "host", "kind": "failed", "object": "x", "reason": "wrong" }]);
        // What tenants have changed since does not count: the host need not be in sync.
        assert!(is_well(revision(2, 7), none.clone(), 1000, None) && is_well(revision(2, 8), none.clone(), 0, None));
        assert!(!is_well(revision(2, 6), none.clone(), 0, None), "an earlier commit");
        assert!(!is_well(revision(1, 8), none.clone(), 0, None), "of a term before");
        assert!(!is_well(json!(null), none.clone(), 0, None), "nothing");
        assert!(!is_well(revision(2, 7), wrong, 0, None), "a problem");
        assert!(!is_well(revision(2, 7), none.clone(), 1001, None), "long ago");
        assert!(!is_well(revision(2, 7), none, 0, Some("refused")), "it does not answer");
    }
}
