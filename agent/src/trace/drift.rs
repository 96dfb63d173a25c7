//! Differences between configuration and kernel, as far as they affect the path. Pure.

use super::{
    findings::{Findings, Way, fdb_key},
    words,
};
use crate::{
    compile::IPV6_MIN_MTU,
    objects::{
        Address, DeviceSetting, Family, IngressFilter, LinkChange, Lookup, NeighbourKey, Operation, Rule, is_link_local,
    },
    ownership::ACCEPT_PRIORITY,
};
use cps_peering_config::{
    net::InterfaceName,
    trace::{Verdict, check},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

impl Findings<'_> {
    /// What a pending operation of the agent means for packets.
    pub(super) fn operation(&mut self, operation: &Operation) {
        let end = self.seen.end;
        let tunnel = end.tunnel();
        let is_tunnel = |device: &InterfaceName| tunnel.is_some_and(|tunnel| tunnel.device == *device);
        let object = operation.to_string();
        let missing = ("not there".to_owned(), None);
        match operation {
            Operation::AddVrf(name, _) if *name == end.vrf => {
                self.add(Way::Both, check::VRF, Verdict::Stops, object, missing, "the VRF of the VPC is missing");
            }
            Operation::AddVxlan(name, wanted) if is_tunnel(name) => {
                let (seen, reason) = if self.seen.observed.links.contains_key(name) {
                    let seen = (self.link(name), Some(words::vxlan(wanted.tunnel)));
                    (seen, "VNI, local address or UDP port differs")
                } else {
                    (missing, "the VXLAN device is missing")
                };
                self.add(Way::Both, check::TUNNEL, Verdict::Stops, object, seen, reason);
            }
            Operation::ChangeLink(name, change) => self.link_change(name, change, object),
            Operation::Set(name, setting, value) => self.setting(name, *setting, *value, object),
            Operation::AddAddress(address) if address.device == end.port => self.address(*address, object),
            Operation::RemoveAddress(address)
                if address.device == end.port && !self.seen.desired.addresses.contains(address) =>
            {
                let reason = "the port still has an address of ours that it should not have";
                let seen = ("there".to_owned(), None);
                self.add(Way::Both, check::GATEWAY, Verdict::Differs, object, seen, reason);
            }
            Operation::AddIngress(name)
            | Operation::RemoveIngress(name)
            | Operation::SetFilter(name, ..)
            | Operation::RemoveFilter(name, _) => self.filter(name, operation, object),
            Operation::SetNeighbour(key, mac)
                if tunnel.is_some_and(|it| *key == NeighbourKey { device: it.device, address: it.gateway }) =>
            {
                let there = self.seen.observed.neighbours.get(key);
                let there = there.map_or_else(|| "not there, or not permanent".to_owned(), ToString::to_string);
                let seen = (there, Some(format!("{mac} PERMANENT")));
                let reason = "there is no Ethernet address for the other host";
                self.add(Way::Sent, check::NEIGHBOUR, Verdict::Stops, object, seen, reason);
            }
            Operation::SetFdb(key, target) if tunnel.is_some_and(|it| *key == fdb_key(it)) => {
                let there = match self.seen.observed.fdb.get(key) {
                    None => "not there".to_owned(),
                    Some(None) => "leads elsewhere".to_owned(),
                    Some(Some(there)) => words::destination(*there),
                };
                let seen = (there, Some(words::destination(*target)));
                let reason = "packets do not get to the other host";
                self.add(Way::Sent, check::FDB, Verdict::Stops, object, seen, reason);
            }
            Operation::AddNexthop(_, hop)
                if tunnel.is_some_and(|it| hop.device == it.device && hop.gateway == it.gateway) =>
            {
                let reason = "without the next hop the kernel has no route to the other host";
                self.add(Way::Sent, check::NEXT_HOP, Verdict::Stops, object, missing, reason);
            }
            Operation::SetSenders(vni, wanted) if tunnel.is_some_and(|it| it.vni == *vni) => {
                self.senders(wanted, object);
            }
            Operation::AddGuard(name, _) if self.check_of_device(name) == Some(check::ACCEPTANCE) => {
                let reason = "packets of hosts that do not take part are accepted, too";
                self.add(Way::Arriving, check::ACCEPTANCE, Verdict::Differs, object, missing, reason);
            }
            Operation::AddShaper(name)
            | Operation::SetRate(name, _)
            | Operation::SetQueue(name, _)
            | Operation::RemoveShaper(name)
                if is_tunnel(name) =>
            {
                self.shaping(name, object);
            }
            Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
                let within = |address: IpAddr| route.key.table == end.table && route.key.prefix.contains(&address);
                let (way, check) = match (within(self.seen.query.remote), within(self.seen.query.local)) {
                    (true, _) if self.exit_is_usable() => (Way::Sent, check::ROUTE),
                    (false, true) => (Way::Arriving, check::DELIVERY),
                    _ => return,
                };
                let (there, reason) = match operation.verb() {
                    "add" => ("not there", "the VPC's table lacks a route"),
                    "remove" => ("there", "the VPC's table has a route that it should not have"),
                    _ => ("another", "the VPC's table has another route"),
                };
                self.add(way, check, Verdict::Differs, object, (there.to_owned(), None), reason);
            }
            Operation::AddRule(rule) => self.rule(*rule, true, object),
            Operation::RemoveRule(rule) => self.rule(*rule, false, object),
            Operation::EnableIpv6Forwarding if self.seen.query.local.is_ipv6() => {
                let seen = ("0".to_owned(), Some("1".to_owned()));
                let reason = "the host does not forward IPv6";
                self.add(Way::Both, check::RULES, Verdict::Stops, object, seen, reason);
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: Rule, is_missing: bool, object: String) {
        if (rule.family == Family::V4) == self.seen.query.local.is_ipv4() {
            let there = if is_missing { "not there" } else { "there" };
            let (verdict, reason) = match (rule.lookup, is_missing) {
                (Lookup::L3mdev, true) => (Verdict::Stops, "packets do not reach the table of their VRF"),
                (Lookup::L3mdev, false) => {
                    (Verdict::Differs, "packets reach the table of their VRF at another priority")
                }
                (Lookup::Local, true) => (Verdict::Differs, "the host does not reach its own addresses"),
                (Lookup::Local, false) => (Verdict::Differs, "the host's own addresses come before those of VPCs"),
            };
            self.add(Way::Both, check::RULES, verdict, object, (there.to_owned(), None), reason);
        }
    }

    /// Who may send with the VNI. A VNI that the filter's set does not have as ours passes it unchecked.
    fn senders(&mut self, wanted: &BTreeSet<IpAddr>, object: String) {
        let Some(tunnel) = self.seen.end.tunnel().filter(|tunnel| wanted.contains(&tunnel.vtep)) else { return };
        let Some(admitted) = &self.seen.observed.underlay.senders else { return };
        let expected = Some(tunnel.vtep.to_string());
        let (verdict, there, reason) = match admitted.get(&tunnel.vni) {
            None => {
                let reason = "the underlay filter does not know the VNI: packets with it are accepted from any host";
                (Verdict::Differs, "any host may send".to_owned(), reason)
            }
            Some(admitted) if admitted.contains(&tunnel.vtep) => return,
            Some(admitted) => {
                let there = admitted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let there = if there.is_empty() { "none of these may send".to_owned() } else { there };
                (Verdict::Stops, there, "what the other host sends is not accepted")
            }
        };
        self.add(Way::Arriving, check::ACCEPTANCE, verdict, object, (there, expected), reason);
    }

    fn shaping(&mut self, name: &InterfaceName, object: String) {
        let there = self.seen.observed.egress.get(name);
        let foreign = self.seen.observed.foreign.qdiscs.contains_key(name);
        let is_anothers = foreign || there.is_some_and(|there| !there.ours || there.bypassed);
        let wanted = self.seen.desired.shapers.get(name).map(|shaper| words::rate(shaper.rate.bytes_per_second));
        let (verdict, reason) = match (is_anothers, &wanted) {
            // Such as one that loses everything.
            (true, _) => (Verdict::Unknown, "another queueing discipline decides what is sent, and may lose packets"),
            (false, Some(_)) => (Verdict::Differs, "the bandwidth is not limited as it should be"),
            (false, None) => (Verdict::Differs, "something is limited that should not be"),
        };
        let there = there.map_or_else(|| "no limit".to_owned(), words::egress);
        let seen = (there, Some(wanted.unwrap_or_else(|| "no limit".to_owned())));
        self.add(Way::Sent, check::SHAPER, verdict, object, seen, reason);
    }

    fn link_change(&mut self, name: &InterfaceName, change: &LinkChange, object: String) {
        let Some(check) = self.check_of_device(name).filter(|check| *check != check::ACCEPTANCE) else { return };
        let there = self.link(name);
        let (way, check, verdict, expected, reason) = match change {
            LinkChange::Enslave(vrf) => {
                let reason = "it is not in the VRF of its VPC";
                (Way::Both, check, Verdict::Stops, format!("master {vrf}"), reason)
            }
            LinkChange::Release => {
                (Way::Both, check, Verdict::Stops, "in no VRF".to_owned(), "it should not be in a VRF")
            }
            // Frames of the other host are sent to the right one.
            LinkChange::Mac(mac) => {
                let reason = "it has another Ethernet address than the one that other hosts send to";
                (Way::Arriving, check, Verdict::Stops, mac.to_string(), reason)
            }
            LinkChange::Mtu(mtu) if self.seen.observed.links.get(name).is_some_and(|it| it.mtu < IPV6_MIN_MTU) => {
                let reason = "with this MTU it has no IPv6, and the kernel no next hops through it";
                (Way::Both, check, Verdict::Stops, format!("mtu {mtu}"), reason)
            }
            LinkChange::Mtu(mtu) => {
                (Way::Sent, check::MTU, Verdict::Differs, format!("mtu {mtu}"), "longer packets do not pass")
            }
            LinkChange::Up(true) => (Way::Both, check, Verdict::Stops, "up".to_owned(), "it is down"),
            LinkChange::Up(false) => {
                let reason = "it should be down: something is in the way";
                (Way::Both, check, Verdict::Stops, "down".to_owned(), reason)
            }
            LinkChange::NoProtodown => {
                (Way::Both, check, Verdict::Stops, "protodown off".to_owned(), "protodown keeps it down")
            }
            // What arrives needs no neighbour on the tunnel.
            LinkChange::Arp => {
                (Way::Sent, check, Verdict::Stops, "arp on".to_owned(), "it sends to no neighbour entry (NOARP)")
            }
            LinkChange::Alias(alias) => (Way::Both, check, Verdict::Differs, alias.to_string(), "it has another alias"),
            LinkChange::NoLinkLocal => {
                (Way::Both, check, Verdict::Differs, "addrgenmode none".to_owned(), "it makes addresses of its own")
            }
        };
        self.add(way, check, verdict, object, (there, Some(expected)), reason);
    }

    fn setting(&mut self, name: &InterfaceName, setting: DeviceSetting, wanted: i32, object: String) {
        let end = self.seen.end;
        let is_port = *name == end.port;
        if !is_port && end.tunnel().is_none_or(|tunnel| tunnel.device != *name) {
            return;
        }
        let Some(link) = self.seen.observed.links.get(name) else { return };
        let ipv6 = self.seen.query.local.is_ipv6();
        let (device, filter, arriving) = if is_port {
            (check::PORT, check::PORT_FILTER, Way::Sent)
        } else {
            (check::TUNNEL, check::SOURCE_FILTER, Way::Arriving)
        };
        // A gateway address is not behind its port: forwarding on the port does not concern it.
        let passes_port = !(is_port && end.is_gateway);
        let (way, check, verdict, reason) = match setting {
            DeviceSetting::Ipv4Forwarding if !ipv6 && passes_port => {
                (arriving, device, Verdict::Stops, "what arrives here is not forwarded")
            }
            DeviceSetting::Ipv4RpFilter if !ipv6 => {
                (arriving, filter, Verdict::Differs, "sources are not checked as they should be")
            }
            DeviceSetting::Ipv6Disable if ipv6 => (Way::Both, device, Verdict::Stops, "it has no IPv6"),
            // The next hops of both families are IPv6 ones.
            DeviceSetting::Ipv6Disable if !is_port => {
                (Way::Sent, device, Verdict::Stops, "it has no IPv6, and the kernel no next hops through it")
            }
            DeviceSetting::Ipv4SendRedirects | DeviceSetting::Ipv4AcceptRedirects if !ipv6 => {
                (arriving, device, Verdict::Differs, "redirects may lead packets elsewhere")
            }
            DeviceSetting::Ipv4ArpIgnore if !ipv6 && is_port => {
                (Way::Sent, device, Verdict::Unknown, "servers that do not know the gateway may get no answer from it")
            }
            DeviceSetting::Ipv6AcceptDad | DeviceSetting::Ipv6AcceptRa | DeviceSetting::Ipv6AcceptRedirects if ipv6 => {
                (arriving, device, Verdict::Differs, "tenants may change how the host sends")
            }
            _ => return,
        };
        let there = link.settings.get(&setting).map_or_else(|| "unknown".to_owned(), ToString::to_string);
        self.add(way, check, verdict, object, (there, Some(wanted.to_string())), reason);
    }

    fn address(&mut self, address: Address, object: String) {
        let (local, is_gateway) = (self.seen.query.local, self.seen.end.is_gateway);
        if address.net.addr().is_ipv6() != local.is_ipv6() {
            return;
        }
        let is_there = self.seen.observed.addresses.contains_key(&address);
        let there = if is_there { "there, but not working" } else { "not there" };
        let there = (there.to_owned(), None);
        if is_link_local(&address.net) {
            if !is_gateway {
                let reason = "without a link-local address the host resolves no server behind the port";
                self.add(Way::Arriving, check::PORT, Verdict::Stops, object, there, reason);
            }
        } else if is_gateway && address.net.addr() == local {
            let reason = "the host does not have the gateway address";
            self.add(Way::Both, check::GATEWAY, Verdict::Stops, object, there, reason);
        } else if !is_gateway && address.net.contains(&local) {
            let reason = "servers behind the port have no gateway";
            self.add(Way::Sent, check::GATEWAY, Verdict::Stops, object, there, reason);
        }
    }

    fn filter(&mut self, name: &InterfaceName, operation: &Operation, object: String) {
        const UNCHECKED: (Verdict, &str) = (Verdict::Differs, "sources are not checked as they should be");
        const UNKNOWN: (Verdict, &str) = (Verdict::Unknown, "what may come from there may be dropped");
        let (way, check) = match self.check_of_device(name) {
            Some(check::PORT) => (Way::Sent, check::PORT_FILTER),
            Some(check::TUNNEL) => (Way::Arriving, check::SOURCE_FILTER),
            _ => return,
        };
        let empty = BTreeMap::new();
        let there = self.seen.observed.ingress.get(name).map_or(&empty, |ingress| &ingress.filters);
        // What no filter accepts is dropped if the last one exists.
        let drops = there.values().any(|it| *it == Some(IngressFilter::DropRest));
        let programs = self.seen.desired.ingress.get(name).map_or(0, |policy| policy.programs().len());
        let (verdict, reason) = match operation {
            Operation::SetFilter(_, place, IngressFilter::Accept(_)) if drops && place.priority == ACCEPT_PRIORITY => {
                // Which of several covers the address, only they can tell.
                if programs == 1 && !there.contains_key(place) {
                    (Verdict::Stops, "what may come from there is dropped")
                } else {
                    UNKNOWN
                }
            }
            // Without it everything passes that passes with it.
            Operation::SetFilter(_, place, IngressFilter::Limit(..)) if !there.contains_key(place) => return,
            // What it rejects, only it can tell.
            Operation::RemoveFilter(_, place) if matches!(there.get(place), Some(Some(IngressFilter::Reject(_)))) => {
                UNKNOWN
            }
            Operation::SetFilter(_, place, _) | Operation::RemoveFilter(_, place)
                if matches!(there.get(place), Some(None | Some(IngressFilter::Limit(..)))) =>
            {
                UNKNOWN
            }
            _ => UNCHECKED,
        };
        let there = if operation.verb() == "remove" { "there" } else { "not there, or another" };
        self.add(way, check, verdict, object, (there.to_owned(), None), reason);
    }
}
