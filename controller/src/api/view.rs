//! Records as the HTTP interfaces show them.

use crate::{
    engine::Agents,
    model::{
        record::{Host, Peering, PeeringState, Side},
        state::State,
    },
};
use cps_peering_config::inventory::{self, Inventory};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// A time in the form of `2021-08-09T05:16:00Z`.
pub fn timestamp(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// The word for a state, and JD Cloud's coarse one.
fn state_words(state: &PeeringState) -> (&'static str, &'static str) {
    match state {
        PeeringState::Provisioning => ("provisioning", "Connected"),
        PeeringState::Active => ("active", "Connected"),
        PeeringState::Draining { .. } => ("draining", "Disconnected"),
    }
}

fn side(state: &State, side: &Side) -> Value {
    json!({
        "vpcId": side.vpc,
        "vpcName": state.vpcs().get(&side.vpc).map_or(side.vpc.as_str(), |vpc| vpc.name.as_str()),
        "accountId": side.account,
        "regionId": side.region,
        "addressPrefix": side.cidrs,
        "vni": side.vni,
    })
}

/// A peering, as operators see it.
pub fn peering(state: &State, agents: &Agents<'_>, peering: &Peering) -> Value {
    let missing = agents.missing(peering);
    let hosts = state.hosts_concerned(peering);
    let hosts = hosts.iter().map(|id| {
        let report = agents.contact(id).and_then(|contact| contact.report.as_ref());
        json!({
            "host": id,
            "confirmed": !missing.contains(id),
            "desired": state.hosts().get(id).map(|host| state.revision_of(host)),
            "applied": report.and_then(|report| report.applied),
        })
    });
    let (word, coarse) = state_words(&peering.state);
    json!({
        "vpcPeeringId": peering.id,
        "vpcPeeringName": peering.name,
        "state": word,
        "vpcPeeringState": coarse,
        "vpcInfo": side(state, &peering.initiator),
        "remoteVpcInfo": side(state, &peering.receiver),
        "createdTime": timestamp(peering.created_ms),
        "activatedTime": peering.activated_ms.map(timestamp),
        "routesInSync": peering.forwards() && missing.is_empty(),
        "hosts": hosts.collect::<Vec<_>>(),
    })
}

/// A host, and how its agent stands.
pub fn host(state: &State, agents: &Agents<'_>, host: &Host) -> Value {
    let contact = agents.contact(&host.id).cloned().unwrap_or_default();
    let report = contact.report.as_ref();
    json!({
        "host": host.id,
        "regionId": host.region,
        "underlay": host.underlay,
        "agent": host.agent,
        "retiring": host.retiring,
        "desired": state.revision_of(host),
        "applied": report.and_then(|report| report.applied),
        "inSync": agents.in_sync(host),
        "problems": report.map(|report| report.problems.clone()).unwrap_or_default(),
        "driftRepaired": report.map(|report| report.counters.drift_repaired),
        "lastReport": contact.reported_ms.map(timestamp),
        "lastError": contact.error,
    })
}

/// The inventory as it is, in the form in which it is applied.
pub fn inventory(state: &State) -> Inventory {
    Inventory {
        regions: state.regions().values().map(|region| inventory::Region { id: region.id.clone() }).collect(),
        hosts: state
            .hosts()
            .values()
            .filter(|host| !host.retiring)
            .map(|host| inventory::Host {
                id: host.id.clone(),
                region: host.region.clone(),
                underlay: host.underlay,
                agent: host.agent.clone(),
            })
            .collect(),
        vpcs: state
            .vpcs()
            .values()
            .map(|vpc| inventory::Vpc {
                id: vpc.id.clone(),
                name: Some(vpc.name.clone()),
                account: vpc.account.clone(),
                region: vpc.region.clone(),
                cidrs: vpc.cidrs.clone(),
            })
            .collect(),
        ports: state
            .ports()
            .values()
            .map(|port| inventory::Port {
                vpc: port.vpc.clone(),
                host: port.key.host.clone(),
                interface: port.key.interface,
                gateways: port.gateways.clone(),
                prefixes: Some(port.prefixes.clone()),
            })
            .collect(),
        peerings: state
            .peerings()
            .values()
            .filter(|peering| peering.forwards())
            .map(|peering| inventory::Peering {
                name: peering.name.clone(),
                vpc: peering.initiator.vpc.clone(),
                peer_vpc: peering.receiver.vpc.clone(),
            })
            .collect(),
    }
}
