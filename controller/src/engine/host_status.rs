//! What is known of the agents, and what it says about hosts and peerings.

use super::path_health::{PathHealth, PathHealths};
use crate::model::{
    record::{Host, Peering, PeeringState},
    state::{Meta, State},
};
use cps_peering_config::{HostReport, Revision, id::HostId, report::Scope};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// What is known of a host's agent.
#[derive(Debug, Clone, Default)]
pub struct Contact {
    /// The last report, without the standings of VRFs and sides, which a host may have thousands of.
    pub report: Option<HostReport>,
    /// When it came, in milliseconds since 1970-01-01 UTC.
    pub reported_ms: Option<u64>,
    /// The same by the time since the machine's start, in milliseconds: nobody can set that clock.
    pub reported_boot_ms: Option<u64>,
    /// Why the last attempt to reach the agent failed; none when it did not.
    pub error: Option<String>,
}

/// By what it is told whether a report still says how a host stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freshness {
    /// The time since the machine's start, in milliseconds.
    pub(super) boot_ms: u64,
    /// How old a report may be, in milliseconds.
    pub(super) max_age_ms: u64,
}

/// What is known of the agents, seen beside the state.
pub struct Agents<'a> {
    pub(super) state: &'a State,
    pub(super) contacts: &'a OrdMap<HostId, Arc<Contact>>,
    pub(super) in_sync: &'a OrdSet<HostId>,
    pub(super) freshness: Freshness,
    pub(super) paths: &'a PathHealths,
}

/// What is known of whether hosts have a peering, and how old that knowledge is (rule V3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The hosts of which it is not known that they have it, or that they have it no more.
    pub missing: Vec<HostId>,
    /// The oldest of the last reports of all hosts concerned.
    pub report: Option<LastReport>,
    /// When they were all last known to have it, in milliseconds since 1970-01-01 UTC; none where the last report of one of them
    /// says otherwise, or it has no hosts.
    pub confirmed_ms: Option<u64>,
}

/// When a report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastReport {
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

impl Agents<'_> {
    /// What is known of a host's agent.
    pub fn contact(&self, host: &HostId) -> Option<&Contact> {
        self.contacts.get(host).map(Arc::as_ref)
    }

    /// Whether it is known that the kernel is as the host must have it: its agent has said so, not too long ago, and has
    /// answered since whenever it was asked (rule V3).
    pub fn in_sync(&self, host: &Host) -> bool {
        self.in_sync.contains(&host.id) && self.is_current(&host.id)
    }

    /// Of how many hosts that is so.
    pub fn count_in_sync(&self) -> usize {
        self.in_sync.iter().filter(|host| self.is_current(host)).count()
    }

    /// When a host's agent last reported; none where it never did.
    pub fn last_report(&self, host: &HostId) -> Option<LastReport> {
        let contact = self.contact(host)?;
        let age_ms = self.freshness.boot_ms.saturating_sub(contact.reported_boot_ms?);
        Some(LastReport { age_ms, time_ms: contact.reported_ms? })
    }

    /// The oldest of the last reports of some hosts; none where one has never reported, or there are none.
    pub fn oldest_report<'h>(&self, hosts: impl IntoIterator<Item = &'h HostId>) -> Option<LastReport> {
        let reports: Option<Vec<LastReport>> = hosts.into_iter().map(|host| self.last_report(host)).collect();
        reports?.into_iter().max_by_key(|report| report.age_ms)
    }

    /// How old a report may be, in milliseconds, to say how a host stands.
    pub fn max_report_age_ms(&self) -> u64 {
        self.freshness.max_age_ms
    }

    /// Whether the last report is older than that.
    pub fn is_too_old(&self, report: LastReport) -> bool {
        report.age_ms > self.freshness.max_age_ms
    }

    /// Whether the last report says how the host stands now: it is not too old, and nothing went wrong since.
    pub fn is_current(&self, host: &HostId) -> bool {
        let answers = self.contact(host).is_some_and(|contact| contact.error.is_none());
        answers && self.last_report(host).is_some_and(|report| !self.is_too_old(report))
    }

    /// Whether nothing is the matter with a host but that it waits for others: it has said so lately, and knows of no problem.
    pub fn is_only_held_back(&self, host: &Host) -> bool {
        let well = |contact: &Contact| contact.report.as_ref().is_some_and(|report| report.problems.is_empty());
        host.is_held_back()
            && !self.in_sync(host)
            && self.is_current(&host.id)
            && self.contact(&host.id).is_some_and(well)
    }

    /// Whether a host has a commit, or a later one, and is well with it by what it has said lately.
    pub fn is_well_since(&self, host: &Host, number: u64) -> bool {
        let Meta { epoch, .. } = self.state.meta();
        let well = |contact: &Contact| {
            let report = contact.report.as_ref()?;
            Some(report.problems.is_empty() && report.applied? >= Revision { epoch, number })
        };
        self.is_current(&host.id) && self.contact(&host.id).and_then(well) == Some(true)
    }

    /// Why it is not known that a host's kernel is as it must be, for people; none where it is.
    pub fn out_of_sync_reason(&self, host: &Host) -> Option<String> {
        if self.in_sync(host) {
            return None;
        }
        let contact = self.contact(&host.id);
        if let Some(error) = contact.and_then(|contact| contact.error.clone()) {
            return Some(error);
        }
        let Some(report) = contact.and_then(|contact| contact.report.as_ref()) else {
            return Some("its agent has not been heard".to_owned());
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

    /// How the paths of a peering between hosts are now, by the probes of all its hosts, the worst of it. None where nobody has said so
    /// lately: it does not forward, both VPCs are on one host alone, or its hosts do not probe (rule V6).
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

    /// Whether a host takes part in a peering of which only a part is reached.
    fn has_scoped_sides(&self, host: &Host) -> bool {
        let peerings = self.state.ports_on(&host.id).flat_map(|port| self.state.peerings_of(&port.vpc));
        peerings.into_iter().any(|peering| peering.forwards() && peering.is_scoped())
    }

    /// The hosts of which it is not known that they have a peering, or that they have it no more.
    pub fn missing(&self, peering: &Peering) -> Vec<HostId> {
        let concerned = self.state.hosts_concerned(peering).into_iter();
        concerned.filter(|host| !self.confirms(host, peering)).collect()
    }

    /// What is known of whether hosts have a peering, or have it no more.
    pub fn confirmation(&self, peering: &Peering) -> Confirmation {
        let concerned = self.state.hosts_concerned(peering);
        let missing = concerned.iter().filter(|host| !self.confirms(host, peering)).cloned().collect();
        let report = self.oldest_report(concerned.iter().filter(|host| self.is_there(host)));
        let all_said_so = || concerned.iter().all(|host| self.has_confirmed(host, peering));
        let confirmed_ms = report.filter(|_| all_said_so()).map(|report| report.time_ms);
        Confirmation { missing, report, confirmed_ms }
    }

    /// One of the hosts for which an unsettled peering has to wait; none when it is settled. The last one in order:
    /// hosts are told of a change in order, so that the others are likely to have confirmed it when this one does.
    pub(super) fn waits_for(&self, peering: &Peering) -> Option<HostId> {
        // A host that is being worked on holds nothing up that begins. What ends, it may still have.
        let begins = peering.state == PeeringState::Provisioning;
        let excused = |id: &HostId| begins && self.state.hosts().get(id).is_some_and(Host::in_maintenance);
        let mut concerned = self.state.hosts_concerned(peering).into_iter().rev();
        concerned.find(|host| !self.confirms(host, peering) && !excused(host))
    }

    /// Whether it is known that a host's kernel has a peering, or has it no more. What was seen to be gone stays gone; that
    /// something is there has to be said again and again.
    pub fn confirms(&self, host: &HostId, peering: &Peering) -> bool {
        let lasts = || !peering.forwards() || !self.is_there(host) || self.is_current(host);
        self.has_confirmed(host, peering) && lasts()
    }

    fn is_there(&self, host: &HostId) -> bool {
        self.state.hosts().get(host).is_some_and(|host| !host.dead)
    }

    /// Whether a host's last report says that its kernel has a peering, or has it no more. A host that is gone has nothing.
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
        // An agent that does not know such a peering has nothing of it, and does not know what it lacks.
        (report.knows_scoped_sides || !peering.is_scoped())
            && scopes.iter().all(|scope| report.confirms(revision, scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Change;
    use serde_json::json;

    /// P1. A canary is well with a commit when it has that or a later one of this term, knows of no problem, and has said so lately.
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
