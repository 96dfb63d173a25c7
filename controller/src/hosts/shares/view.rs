//! Sides with a limit, and the hosts that send for them. Pure.

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
    /// The limit of all hosts together, in bytes per second.
    pub bytes_per_second: u64,
    /// The share that each host has from the beginning.
    pub beginning: Share,
    /// The hosts that should send.
    pub members: BTreeSet<HostId>,
    /// The hosts that should not, and have not confirmed that yet.
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

/// Whether a host that should not have a side any more has confirmed that. A removed host has nothing.
fn has_none(state: &State, agents: &Agents<'_>, host: &HostId, vni: Vni) -> bool {
    let Some(record) = state.hosts().get(host).filter(|host| !host.dead) else { return true };
    let report = agents.contact(host).and_then(|contact| contact.report.as_ref());
    report.is_some_and(|report| report.confirms(state.revision_of(record), &Scope::Side(vni)))
}

/// The URL of a host's agent; none if nothing is sent to it, so that it keeps what it has.
pub(super) fn agent<'a>(state: &'a State, host: &HostId) -> Option<&'a str> {
    let host = state.hosts().get(host).filter(|host| !host.paused)?;
    Some(&host.agent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Engine, Options},
        model::{record::Host, state::Change},
        store::Store,
    };

    #[test]
    fn a_host_that_is_gone_has_no_share() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store.redb")).unwrap();
        let (engine, _) = Engine::open(store, Options::default()).unwrap();
        let mut state = State::default();
        for (name, dead, paused) in [("silent", false, false), ("dead", true, false), ("paused", false, true)] {
            let record = serde_json::json!({
                "id": name, "region": "north", "underlay": "192.0.2.1", "agent": "http://192.0.2.1:1", "config_number": 1,
                "dead": dead, "paused": paused,
            });
            let host: Host = serde_json::from_value(record).unwrap();
            state.apply(Change::Host(host.id.clone(), Some(host)));
        }
        let vni = Vni::try_from(1001).unwrap();
        let has_none = |host: &str| engine.read(|_, agents| has_none(&state, agents, &host.parse().unwrap(), vni));
        // A host that has not reported may still send.
        assert_eq!(["silent", "dead", "removed"].map(has_none), [false, true, true]);
        let is_told = |host: &str| agent(&state, &host.parse().unwrap()).is_some();
        assert_eq!(["silent", "paused", "removed"].map(is_told), [true, false, false]);
    }
}
