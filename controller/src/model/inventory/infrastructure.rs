//! Regions, accounts and hosts.

use super::{
    Action, Applier, Change,
    difference::{carries_between_hosts, changed_fields},
    entry,
};
use crate::model::record::{Host, Region};
use cps_peering_config::{
    id::{HostId, RegionId},
    inventory,
    naming::mac,
    text,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The longest URL of an agent, in characters.
const MAX_URL: usize = 256;

impl Applier<'_, '_, '_> {
    pub(super) fn regions(&mut self) {
        for region in &self.document.regions {
            let old = self.tx.state.regions().get(&region.id).cloned();
            let id = region.id.clone();
            let managed_by = self.manager(old.as_ref().map(|old| &old.managed_by));
            let new = Region { id: id.clone(), managed_by };
            self.set("region", &region.id, old, new, |new| Change::Region(id, Some(new)));
        }
    }

    pub(super) fn known_region(&mut self, entry: &str, region: &RegionId) -> bool {
        let known = self.tx.state.regions().contains_key(region);
        if !known {
            self.fault(entry, format!("region {region} is neither in the document nor known"));
        }
        known
    }

    pub(super) fn accounts(&mut self) {
        for (place, account) in self.document.accounts.iter().enumerate() {
            let entry = entry("accounts", place, &account.id);
            for region in account.quotas.keys() {
                self.known_region(&entry, region);
            }
            let old = self.tx.state.accounts().get(&account.id).cloned();
            let made = old.is_none();
            let mut new = self.tx.state.account(&account.id);
            // What the document does not mention stays as it is.
            if !account.quotas.is_empty() {
                new.quotas.clone_from(&account.quotas);
            }
            if old.as_ref() == Some(&new) {
                continue;
            }
            // Only what the document mentions: the record holds secrets.
            let from = old.map(|old| BTreeMap::from([("quotas", old.quotas)]));
            let fields = from.map(|from| changed_fields(&from, &BTreeMap::from([("quotas", &new.quotas)])));
            let action = if made { Action::Create } else { Action::Update };
            self.note("account", &account.id, action, fields.unwrap_or_default());
            self.tx.change(Change::Account(account.id.clone(), Some(new)));
        }
    }

    pub(super) fn hosts(&mut self) {
        for (place, host) in self.document.hosts.iter().enumerate() {
            let entry = entry("hosts", place, &host.id);
            self.known_region(&entry, &host.region);
            if !["http://", "https://"].iter().any(|scheme| host.agent.starts_with(scheme)) {
                let rule =
                    format!("agent {} is not a URL that begins with http:// or https://", text::quote(&host.agent));
                self.fault(&entry, rule);
            } else if let Err(error) = text::check_name(&host.agent, MAX_URL) {
                self.fault(&entry, format!("agent {error}"));
            }
            let old = self.tx.state.hosts().get(&host.id).cloned();
            if let Some(old) = old.as_ref().filter(|old| old.region != host.region)
                && self.tx.state.ports_on(&host.id).next().is_some()
            {
                self.fault(
                    &entry,
                    format!("a host with ports cannot move from region {} to {}", old.region, host.region),
                );
            }
            if let IpAddr::V6(address) = host.underlay
                && address.to_ipv4_mapped().is_some()
            {
                let rule =
                    format!("underlay address {address} is an IPv4 address in the form of IPv6: write it as IPv4");
                self.fault(&entry, rule);
            }
            let new = Host {
                id: host.id.clone(),
                region: host.region.clone(),
                underlay: host.underlay,
                agent: host.agent.clone(),
                config_number: old.as_ref().map_or(0, |old| old.config_number),
                retiring: false,
                maintenance: host.maintenance,
                // Commands set these; no document resets them.
                drained: old.as_ref().is_some_and(|old| old.drained && !old.retiring),
                window: old.as_ref().and_then(|old| old.window.filter(|_| !old.retiring)),
                paused: old.as_ref().is_some_and(|old| old.paused && !old.retiring),
                dead: false,
                pacing: old.as_ref().and_then(|old| old.pacing.filter(|_| !old.retiring)),
                managed_by: self.manager(old.as_ref().map(|old| &old.managed_by)),
                underlay_mtu: old.as_ref().and_then(|old| old.underlay_mtu),
            };
            let id = host.id.clone();
            let moved = old.as_ref().is_some_and(|old| old.underlay != new.underlay);
            self.set("host", &host.id, old, new, |new| Change::Host(id, Some(new)));
            if moved && carries_between_hosts(self.tx.before(), &host.id) {
                self.stops();
            }
        }
        self.forget_dead_hosts();
        // With all of them in place, so that two hosts can swap their addresses.
        for (place, host) in self.document.hosts.iter().enumerate() {
            let Some(host) = self.tx.state.hosts().get(&host.id) else { continue };
            let rule = self.tx.state.hosts_beside(host).find_map(|other| underlay_clash(host.underlay, other));
            let host = host.id.clone();
            if let Some(rule) = rule {
                self.fault(entry("hosts", place, &host), rule);
            }
        }
    }

    /// Forgets hosts that were removed as dead, and whose address or agent another one has now: the removed host cannot answer there.
    fn forget_dead_hosts(&mut self) {
        let before = self.tx.before();
        let moved = |host: &&inventory::Host| {
            let old = before.hosts().get(&host.id).filter(|old| !old.retiring);
            old.is_none_or(|old| old.underlay != host.underlay || old.agent != host.agent)
        };
        let moved: Vec<&inventory::Host> = self.document.hosts.iter().filter(moved).collect();
        let taken: BTreeSet<IpAddr> = moved.iter().map(|host| host.underlay).collect();
        let agents: BTreeSet<&str> = moved.iter().map(|host| host.agent.as_str()).collect();
        let dead = self.tx.state.retiring().filter(|host| host.dead);
        let gone = dead.filter(|host| taken.contains(&host.underlay) || agents.contains(host.agent.as_str()));
        for id in gone.map(|host| host.id.clone()).collect::<Vec<HostId>>() {
            self.note("host", &id, Action::Delete, Vec::new());
            self.tx.change(Change::Host(id, None));
        }
    }
}

/// Why a host cannot have this VTEP address beside another host. Agents derive a MAC address from its last four
/// bytes, so those must differ, too.
fn underlay_clash(underlay: IpAddr, other: &Host) -> Option<String> {
    let id = &other.id;
    match (underlay, other.underlay) {
        (new, old) if new == old => Some(format!("underlay address {new} is that of host {id}")),
        (IpAddr::V6(new), IpAddr::V6(old)) if mac(IpAddr::V6(new)) == mac(IpAddr::V6(old)) => {
            Some(format!("underlay addresses {new} and {old} of host {id} end in the same 32 bits"))
        }
        (new, old) if new.is_ipv4() != old.is_ipv4() => {
            Some(format!("underlay address {new} is not of the same family as {old} of host {id}"))
        }
        _ => None,
    }
}
