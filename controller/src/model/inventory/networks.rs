//! VPCs and ports.

use super::{Applier, Change, PortKey, entry, port_key};
use crate::model::{
    address_rules::{cidr_violations, port_violations},
    overlap, peering,
    record::{Port, Vpc},
    vni,
    vpc::check_name,
};
use cps_peering_config::{id::VpcId, naming::DeviceName};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

impl Applier<'_, '_, '_> {
    pub(super) fn vpcs(&mut self) {
        for (place, vpc) in self.document.vpcs.iter().enumerate() {
            let entry = entry("vpcs", place, &vpc.id);
            self.known_region(&entry, &vpc.region);
            let faults_before = self.violations.len();
            for rule in cidr_violations(&vpc.cidrs) {
                self.fault(&entry, rule);
            }
            let old = self.tx.state.vpcs().get(&vpc.id).cloned();
            let said = vpc.name.as_deref().filter(|name| old.as_ref().is_none_or(|old| old.name != *name));
            if let Some(Err(refusal)) = said.map(check_name) {
                self.take(&entry, refusal);
            }
            if let Some(old) = &old {
                for (field, from, to) in [
                    ("account", old.account.to_string(), vpc.account.to_string()),
                    ("region", old.region.to_string(), vpc.region.to_string()),
                ] {
                    if from != to {
                        self.fault(&entry, format!("the {field} of a VPC cannot change from {from} to {to}"));
                    }
                }
            }
            let vni = match &old {
                Some(old) => Ok(old.vni),
                None => vni::allocate(self.tx, self.context, None),
            };
            let vni = match vni {
                Ok(vni) => vni,
                Err(refusal) => {
                    self.take(&entry, refusal);
                    continue;
                }
            };
            let new = Vpc {
                id: vpc.id.clone(),
                name: vpc.name.clone().unwrap_or_else(|| match &old {
                    // Where the document says nothing, the account's own values stay.
                    Some(old) if !self.manages(&old.managed_by) => old.name.clone(),
                    _ => vpc.id.to_string(),
                }),
                account: vpc.account.clone(),
                region: vpc.region.clone(),
                cidrs: vpc.cidrs.clone(),
                vni,
                description: old.as_ref().map(|old| old.description.clone()).unwrap_or_default(),
                created_ms: old.as_ref().map_or(self.context.now_ms, |old| old.created_ms),
                managed_by: self.manager(old.as_ref().map(|old| &old.managed_by)),
                protected: old.as_ref().is_some_and(|old| old.protected),
            };
            let old_cidrs = old.as_ref().map(|old| old.cidrs.clone()).filter(|old| *old != new.cidrs);
            let (id, after) = (vpc.id.clone(), new.clone());
            self.set("vpc", &vpc.id, old, new, |new| Change::Vpc(id, Some(new)));
            if let Some(old) = old_cidrs
                && self.violations.len() == faults_before
            {
                if old.iter().any(|cidr| !after.cidrs.contains(cidr)) && self.carries(&vpc.id) {
                    self.stops();
                }
                let added: Vec<IpNet> = after.cidrs.iter().filter(|cidr| !old.contains(cidr)).copied().collect();
                if let Err(refusal) = overlap::cidrs_changed(self.tx, &after, &added, self.context) {
                    self.take(&entry, refusal);
                }
            }
        }
    }

    pub(super) fn ports(&mut self) {
        for (place, port) in self.document.ports.iter().enumerate() {
            let key = port_key(port);
            let entry = entry("ports", place, &key);
            let host = self.tx.state.hosts().get(&port.host).cloned();
            let vpc = self.tx.state.vpcs().get(&port.vpc).cloned();
            match &host {
                None => self.fault(&entry, format!("host {} is neither in the document nor known", port.host)),
                Some(host) if host.retiring => {
                    self.fault(&entry, format!("host {} was removed, and is not in the document", port.host));
                }
                Some(_) => {}
            }
            if vpc.is_none() {
                self.fault(&entry, format!("VPC {} is neither in the document nor known", port.vpc));
            }
            if DeviceName::parse(&port.interface).is_some() {
                self.fault(&entry, format!("{} is a name of the agent's own devices", port.interface));
            }
            let (Some(host), Some(vpc)) = (host, vpc) else { continue };
            if host.region != vpc.region {
                let rule =
                    format!("host {} is in region {}, and VPC {} in {}", host.id, host.region, vpc.id, vpc.region);
                self.fault(&entry, rule);
            }
            let networks = || port.gateways.iter().map(IpNet::trunc).collect::<BTreeSet<_>>().into_iter().collect();
            let prefixes: Vec<IpNet> = port.prefixes.clone().unwrap_or_else(networks);
            if prefixes.is_empty() {
                self.fault(&entry, "there are no gateways and no prefixes: nothing would be reached through the port");
            }
            let old = self.tx.state.ports().get(&key).cloned();
            if host.drained && old.as_ref().is_none_or(|old| old.vpc != vpc.id) {
                let rule = format!(
                    "host {} is drained and accepts no new ports: `cps-peering host uncordon {}` ends that",
                    host.id, host.id
                );
                self.fault(&entry, rule);
            }
            let managed_by = self.manager(old.as_ref().map(|old| &old.managed_by));
            let (vpc, gateways) = (port.vpc.clone(), port.gateways.clone());
            let new = Port { key: key.clone(), vpc, gateways, prefixes, managed_by };
            let fewer = old.as_ref().filter(|old| {
                // Servers behind the port send to its gateways.
                let fewer = |old: &[IpNet], new: &[IpNet]| old.iter().any(|prefix| !new.contains(prefix));
                old.vpc != new.vpc || fewer(&old.prefixes, &new.prefixes) || fewer(&old.gateways, &new.gateways)
            });
            let stops = fewer.is_some_and(|old| self.carries(&old.vpc));
            let moved_from = old.as_ref().filter(|old| old.vpc != new.vpc).map(|old| old.vpc.clone());
            self.set("port", &key, old, new, |new| Change::Port(new.key.clone(), Some(new)));
            if stops {
                self.stops();
            }
            if let Some(vpc) = moved_from {
                peering::port_left(self.tx, &vpc, &key.host, self.context.now_ms);
            }
        }
    }

    /// With all ports in place: what is behind them lies within the VPC, and no two claim the same addresses.
    pub(super) fn ports_fit(&mut self) {
        let entries: BTreeMap<PortKey, String> = self
            .document
            .ports
            .iter()
            .enumerate()
            .map(|(place, port)| (port_key(port), entry("ports", place, port_key(port))))
            .collect();
        let of_ports = self.document.ports.iter().map(|port| &port.vpc);
        let vpcs: BTreeSet<&VpcId> = of_ports.chain(self.document.vpcs.iter().map(|vpc| &vpc.id)).collect();
        for vpc in vpcs {
            let violations = self.tx.state.vpcs().get(vpc).map_or_else(Vec::new, |vpc| {
                port_violations(vpc, self.tx.state.ports_of(&vpc.id), |key| {
                    entries.get(key).cloned().unwrap_or_else(|| format!("port {key}"))
                })
            });
            for (entry, rule) in violations {
                self.fault(entry, rule);
            }
        }
    }
}
