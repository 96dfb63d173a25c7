//! What is known of the agents, and what it says about hosts and peerings.

use crate::model::{
    record::{Host, Peering, PeeringState},
    state::State,
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
    /// Why the last attempt to reach the agent failed; none when it did not.
    pub error: Option<String>,
}

/// What is known of the agents, seen beside the state.
pub struct Agents<'a> {
    pub(super) state: &'a State,
    pub(super) contacts: &'a OrdMap<HostId, Arc<Contact>>,
    pub(super) in_sync: &'a OrdSet<HostId>,
}

impl Agents<'_> {
    /// What is known of a host's agent.
    pub fn contact(&self, host: &HostId) -> Option<&Contact> {
        self.contacts.get(host).map(Arc::as_ref)
    }

    /// Whether the agent has said that the kernel is as the host must have it.
    pub fn in_sync(&self, host: &Host) -> bool {
        self.in_sync.contains(&host.id)
    }

    /// Of how many hosts that is so.
    pub fn count_in_sync(&self) -> usize {
        self.in_sync.len()
    }

    pub(super) fn is_in_sync(&self, host: &Host) -> bool {
        let report = self.contacts.get(&host.id).and_then(|contact| contact.report.as_ref());
        report.is_some_and(|report| report.applied == Some(self.state.revision_of(host)) && report.problems.is_empty())
    }

    /// The hosts that have not confirmed yet that they have a peering, or that they have it no more.
    pub fn missing(&self, peering: &Peering) -> Vec<HostId> {
        let concerned = self.state.hosts_concerned(peering).into_iter();
        concerned.filter(|host| !self.confirms(host, peering)).collect()
    }

    /// One of the hosts for which an unsettled peering has to wait; none when it is settled. The last one in order:
    /// hosts are told of a change in order, so that the others are likely to have confirmed it when this one does.
    pub(super) fn waits_for(&self, peering: &Peering) -> Option<HostId> {
        // A host that is being worked on holds nothing up that begins. What ends, it may still have.
        let begins = peering.state == PeeringState::Provisioning;
        let excused = |id: &HostId| begins && self.state.hosts().get(id).is_some_and(|host| host.maintenance);
        let mut concerned = self.state.hosts_concerned(peering).into_iter().rev();
        concerned.find(|host| !self.confirms(host, peering) && !excused(host))
    }

    /// Whether a host's kernel was seen to have a peering, or to have it no more. A host that is gone has nothing.
    pub fn confirms(&self, host: &HostId, peering: &Peering) -> bool {
        let Some(record) = self.state.hosts().get(host) else { return true };
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
        scopes.iter().all(|scope| report.confirms(revision, scope))
    }
}
