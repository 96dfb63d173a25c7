//! Which sides have a limit, and who sends for them. Pure.

use crate::{
    engine::Agents,
    model::{
        record::{Peering, PeeringState, Side},
        state::State,
    },
    plan,
};
use cps_peering_config::{host_config::Share, id::HostId, net::Vni, report::Scope};
use std::collections::BTreeSet;

/// A side with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitedSide {
    /// Its own VNI.
    pub vni: Vni,
    /// What all hosts together may send, in bytes per second.
    pub bytes_per_second: u64,
    /// What each host has from the beginning.
    pub beginning: Share,
    /// The hosts that are to send.
    pub members: BTreeSet<HostId>,
    /// The hosts that are not, and that have not confirmed it.
    pub draining: BTreeSet<HostId>,
}

/// Those of a peering.
pub fn limited(state: &State, agents: &Agents<'_>, peering: &Peering) -> Vec<LimitedSide> {
    peering.views().into_iter().filter_map(|(own, _)| side(state, agents, peering, own)).collect()
}

fn side(state: &State, agents: &Agents<'_>, peering: &Peering, own: &Side) -> Option<LimitedSide> {
    let vni = own.vni?;
    let limit = plan::limit(state, peering, own)?;
    let (members, before) = match &peering.state {
        PeeringState::Provisioning | PeeringState::Active => (state.hosts_of(&own.vpc), BTreeSet::new()),
        PeeringState::Suspended { hosts } | PeeringState::Draining { hosts } => {
            (BTreeSet::new(), hosts.iter().cloned().collect())
        }
        PeeringState::Pending | PeeringState::Ended { .. } => return None,
    };
    let may_have_it = |host: &&HostId| !members.contains(*host) && !has_none(state, agents, host, vni);
    let draining = peering.former_hosts.union(&before).filter(may_have_it).cloned().collect();
    Some(LimitedSide {
        vni,
        bytes_per_second: limit.bytes_per_second(Share::WHOLE),
        beginning: limit.share,
        members,
        draining,
    })
}

/// Whether a host that is not to have a side any more has confirmed it. A host that is gone has nothing.
fn has_none(state: &State, agents: &Agents<'_>, host: &HostId, vni: Vni) -> bool {
    let Some(record) = state.hosts().get(host) else { return true };
    let report = agents.contact(host).and_then(|contact| contact.report.as_ref());
    report.is_some_and(|report| report.confirms(state.revision_of(record), &Scope::Side(vni)))
}
