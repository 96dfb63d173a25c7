//! Removes what the same inventory created and no longer contains.

use super::{Action, Applier, Change, Field, pair, port_key};
use crate::model::{
    address_rules::still_needed,
    peering,
    record::{Host, PeeringState, PortKey, Webhook},
    vpc,
};
use cps_peering_config::id::{HostId, PeeringId, RegionId, VpcId};
use std::collections::BTreeSet;

impl Applier<'_, '_, '_> {
    pub(super) fn prune_peerings(&mut self) {
        let wanted: BTreeSet<_> = self.document.peerings.iter().map(|it| pair(&it.vpc, &it.peer_vpc)).collect();
        let gone: Vec<(PeeringId, String, bool)> = self
            .tx
            .state
            .peerings()
            .values()
            // An unanswered request concerns its account only.
            .filter(|peering| peering.is_live() && peering.state != PeeringState::Pending)
            .filter(|peering| self.made(&peering.managed_by))
            .filter(|peering| !wanted.contains(&pair(&peering.initiator.vpc, &peering.receiver.vpc)))
            .map(|peering| (peering.id.clone(), peering.name.clone(), peering.forwards()))
            .collect();
        for (id, name, forwards) in gone {
            let which = peering::Locator { region: None, id: id.clone() };
            match peering::delete(self.tx, &which, self.context) {
                Ok(()) => {
                    self.note("peering", &format!("{id} ({name})"), Action::Delete, Vec::new());
                    if forwards {
                        self.stops();
                    }
                }
                Err(refusal) => self.take(&format!("peering {id}"), refusal),
            }
        }
    }

    pub(super) fn prune_ports(&mut self) {
        let wanted: BTreeSet<PortKey> = self.document.ports.iter().map(port_key).collect();
        let ports = self.tx.state.ports().values().filter(|port| self.made_alone(&port.managed_by));
        let gone: Vec<PortKey> = ports.filter(|it| !wanted.contains(&it.key)).map(|it| it.key.clone()).collect();
        for key in gone {
            self.note("port", &key, Action::Delete, Vec::new());
            if self.tx.state.ports().get(&key).is_some_and(|port| self.carries(&port.vpc)) {
                self.stops();
            }
            let vpc = self.tx.state.ports().get(&key).map(|port| port.vpc.clone());
            self.tx.change(Change::Port(key.clone(), None));
            if let Some(vpc) = vpc {
                peering::port_left(self.tx, &vpc, &key.host, self.context.now_ms);
            }
        }
    }

    pub(super) fn prune_vpcs(&mut self) {
        let wanted: BTreeSet<&VpcId> = self.document.vpcs.iter().map(|vpc| &vpc.id).collect();
        let vpcs = self.tx.state.vpcs().values().filter(|vpc| self.made(&vpc.managed_by));
        let gone: Vec<VpcId> = vpcs.filter(|vpc| !wanted.contains(&vpc.id)).map(|vpc| vpc.id.clone()).collect();
        for id in gone {
            if let Some(why) = self.tx.state.vpcs().get(&id).and_then(|vpc| still_needed(self.tx.state, vpc)) {
                self.fault(format!("vpc {id}"), format!("it is not in the document, but {why}"));
                continue;
            }
            for request in peering::reject_requests_to(self.tx, &id, self.context) {
                let field = Field { field: "state".to_owned(), from: "pending".into(), to: "rejected".into() };
                self.note("peering", &format!("{} ({})", request.id, request.name), Action::Update, vec![field]);
            }
            self.note("vpc", &id, Action::Delete, Vec::new());
            if let Some(vpc) = self.tx.state.vpcs().get(&id).cloned() {
                vpc::forget(self.tx, &vpc, self.context);
            }
        }
    }

    /// A removed host keeps its record until its agent has confirmed that nothing is left.
    pub(super) fn prune_hosts(&mut self) {
        let wanted: BTreeSet<&HostId> = self.document.hosts.iter().map(|host| &host.id).collect();
        let hosts = self.tx.state.hosts().values().filter(|host| self.made_alone(&host.managed_by));
        let gone: Vec<Host> = hosts.filter(|host| !wanted.contains(&host.id) && !host.retiring).cloned().collect();
        for host in gone {
            // Its own ports have been removed by now.
            let port = self.tx.state.ports_on(&host.id).next().map(|port| port.key.clone());
            if let Some(port) = port {
                self.fault(format!("host {}", host.id), format!("it is not in the document, but port {port} is on it"));
                continue;
            }
            self.note("host", &host.id, Action::Delete, Vec::new());
            self.tx.change(Change::Host(
                host.id.clone(),
                Some(Host { retiring: true, drained: false, window: None, paused: false, ..host }),
            ));
        }
    }

    pub(super) fn prune_regions(&mut self) {
        let wanted: BTreeSet<&RegionId> = self.document.regions.iter().map(|region| &region.id).collect();
        let regions = self.tx.state.regions().values().filter(|region| self.made_alone(&region.managed_by));
        let gone: Vec<RegionId> = regions.filter(|it| !wanted.contains(&it.id)).map(|it| it.id.clone()).collect();
        for id in gone {
            let vpc = self.tx.state.vpcs().values().find(|vpc| vpc.region == id).map(|vpc| format!("VPC {}", vpc.id));
            let hosts = self.tx.state.hosts();
            let host = hosts.values().find(|host| !host.retiring && host.region == id);
            let host = host.map(|host| format!("host {}", host.id));
            if let Some(user) = vpc.or(host) {
                self.fault(format!("region {id}"), format!("it is not in the document, but {user} is in it"));
                continue;
            }
            self.note("region", &id, Action::Delete, Vec::new());
            // Webhooks there could not be seen or deleted any more.
            let webhooks = self.tx.state.webhooks().values();
            let within = |webhook: &&Webhook| webhook.owner.as_ref().is_some_and(|(_, region)| *region == id);
            for webhook in webhooks.filter(within).map(|it| it.id.clone()).collect::<Vec<_>>() {
                self.tx.change(Change::Webhook(webhook, None));
            }
            self.tx.change(Change::Region(id, None));
        }
    }
}
