//! The kernel's own lookups, compared with what the configuration requires. Pure.

use super::{
    findings::{Findings, Way},
    path_end::{Exit, Tunnel},
    seen::Lookup,
};
use crate::{compile::overhead, objects::Effect};
use cps_peering_config::{
    net::InterfaceName,
    trace::{Verdict, check},
};
use std::net::IpAddr;

/// Where packets should go.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// To the host.
    Local,
    /// Through a device, and a next hop if there is one.
    Through(InterfaceName, Option<IpAddr>),
}

impl Findings<'_> {
    pub(super) fn lookups(&mut self) {
        let end = self.seen.end;
        self.port();
        if self.exit_is_usable() {
            self.compare(check::ROUTE, &self.seen.lookups.route, self.exit());
        }
        let Some(tunnel) = end.tunnel() else { return };
        self.compare(check::DELIVERY, &self.seen.lookups.delivery, self.delivery());
        self.underlay(tunnel);
    }

    fn port(&mut self) {
        let (port, end) = (self.seen.end.port, self.seen.end);
        // A gateway address is the host's own: it needs no server at the other end of the cable.
        let Some(link) = self.seen.links.get(&port).filter(|_| !end.is_gateway) else { return };
        if link.up && !link.carrier {
            let seen = (self.link(&port), Some("carrier".to_owned()));
            let reason = "no carrier: check the server, its interface and the cable";
            self.add(Way::Both, check::PORT, Verdict::Stops, format!("link {port}"), seen, reason);
        }
        let Some(neighbour) = self.seen.lookups.destination else { return };
        let (verdict, reason) = if neighbour.is_permanent() {
            let reason = "a static entry: if the server has a different Ethernet address, nothing reaches it";
            (Verdict::Differs, reason)
        } else if neighbour.has_failed_recently() {
            (Verdict::Unknown, "the host tried to resolve the server in the last seconds, and it did not answer")
        } else if neighbour.is_being_asked() {
            (Verdict::Unknown, "the host is resolving the server, and has no answer yet")
        } else {
            return;
        };
        let object = format!("neighbour {} dev {port}", self.seen.query.local);
        self.add(Way::Arriving, check::DESTINATION, verdict, object, (neighbour.to_string(), None), reason);
    }

    /// Whether the kernel routes packets to the other address as the configuration requires.
    pub(super) fn route_is_right(&self) -> bool {
        !self.exit_is_usable() || self.is_right(&self.seen.lookups.route, self.exit())
    }

    /// The same for packets that arrive from another host.
    pub(super) fn delivery_is_right(&self) -> bool {
        self.seen.end.tunnel().is_none() || self.is_right(&self.seen.lookups.delivery, self.delivery())
    }

    /// How packets leave for the other address.
    fn exit(&self) -> Wanted {
        match self.seen.end.exit {
            Exit::Host { .. } => Wanted::Local,
            Exit::Device { device, .. } => Wanted::Through(device, None),
            Exit::Tunnel(tunnel) => Wanted::Through(tunnel.device, Some(IpAddr::V6(tunnel.gateway))),
        }
    }

    /// How packets reach the own address.
    fn delivery(&self) -> Wanted {
        let end = self.seen.end;
        if end.is_gateway { Wanted::Local } else { Wanted::Through(end.port, None) }
    }

    fn is_right(&self, lookup: &Lookup, wanted: Wanted) -> bool {
        let Some(Ok(found)) = lookup else { return false };
        match wanted {
            Wanted::Local => found.local,
            Wanted::Through(device, gateway) => {
                let index = self.seen.links.get(&device).map(|link| link.index);
                found.unicast && found.device == index && found.gateway == gateway
            }
        }
    }

    /// Compares the kernel's lookup with what the configuration requires.
    fn compare(&mut self, check: &str, lookup: &Lookup, wanted: Wanted) {
        let expected = match wanted {
            Wanted::Local => "local".to_owned(),
            Wanted::Through(device, None) => format!("dev {device}"),
            Wanted::Through(device, Some(gateway)) => format!("via {gateway} dev {device}"),
        };
        let seen = (self.route(lookup), Some(expected));
        let (way, address) = if check == check::ROUTE {
            (Way::Sent, self.seen.query.remote)
        } else {
            (Way::Arriving, self.seen.query.local)
        };
        let object = format!("route to {address}");
        let found = match lookup {
            None => return self.add(way, check, Verdict::Unknown, object, seen, "the kernel could not be asked"),
            Some(Err(_)) => {
                return self.add(way, check, Verdict::Stops, object, seen, "the kernel routes packets nowhere");
            }
            Some(Ok(found)) => found,
        };
        if !self.is_right(lookup, wanted) {
            let reason = match wanted {
                Wanted::Local => "the gateway address is not local there",
                Wanted::Through(..) => "the kernel routes packets elsewhere",
            };
            return self.add(way, check, Verdict::Stops, object, seen, reason);
        }
        let device_mtu = match wanted {
            Wanted::Local => None,
            Wanted::Through(device, _) => self.seen.links.get(&device).map(|link| link.mtu),
        };
        if let Some((mtu, whole)) = found.mtu.zip(device_mtu)
            && mtu < whole
        {
            let reason = format!("packets of more than {mtu} bytes do not pass");
            // It is not a step of its own for what arrives.
            let check = if way == Way::Sent { check::MTU } else { check };
            self.add(way, check, Verdict::Differs, object, seen, reason);
        }
    }

    fn underlay(&mut self, tunnel: Tunnel) {
        let object = format!("route to {}", tunnel.vtep);
        let lookups = &self.seen.lookups;
        let seen = (self.route(&lookups.underlay), None);
        if !matches!(&lookups.own_vtep, Some(Ok(found)) if found.local) {
            let own = self.seen.desired.vxlans.get(&tunnel.device).map(|it| it.tunnel.local.to_string());
            let object = format!("address {}", own.unwrap_or_default());
            let missing = ("not there".to_owned(), None);
            let reason = "no interface of the host has its underlay address";
            self.add(Way::Sent, check::UNDERLAY, Verdict::Stops, &object, missing.clone(), reason);
            self.add(Way::Arriving, check::ACCEPTANCE, Verdict::Stops, object, missing, reason);
        }
        let found = match &lookups.underlay {
            Some(Ok(found)) if found.unicast => *found,
            Some(_) => {
                let reason = "no route leads to the other host";
                return self.add(Way::Sent, check::UNDERLAY, Verdict::Stops, object, seen, reason);
            }
            None => {
                let reason = "the kernel could not be asked";
                return self.add(Way::Sent, check::UNDERLAY, Verdict::Unknown, object, seen, reason);
            }
        };
        if let Some(next) = lookups.next_in_underlay {
            let seen = (next.to_string(), None);
            if next.has_failed_recently() {
                let reason = "the next hop in the underlay does not answer: it is down, or not connected";
                self.add(Way::Sent, check::UNDERLAY, Verdict::Stops, object.clone(), seen, reason);
            } else if next.is_being_asked() {
                let reason = "the host is resolving the next hop in the underlay, and has no answer yet";
                self.add(Way::Sent, check::UNDERLAY, Verdict::Unknown, object.clone(), seen, reason);
            }
        }
        let Some(name) = self.underlay_device() else { return };
        let link = &self.seen.links[&name];
        if !link.up || !link.carrier {
            let seen = (self.link(&name), None);
            let reason = "down or without carrier";
            self.add(Way::Sent, check::UNDERLAY, Verdict::Stops, format!("link {name}"), seen, reason);
        }
        self.of_others_in_underlay(name);
        let outer = found.mtu.unwrap_or(link.mtu).min(link.mtu);
        let overhead = overhead(tunnel.vtep);
        if let Some(device) = self.seen.links.get(&tunnel.device)
            && device.mtu + overhead > outer
        {
            let seen = (format!("mtu {outer}"), Some(format!("mtu {}", device.mtu + overhead)));
            let reason =
                format!("packets of more than {} bytes are lost or go in fragments", outer.saturating_sub(overhead));
            self.add(Way::Sent, check::MTU, Verdict::Differs, format!("underlay {name}"), seen, reason);
        }
    }

    /// The host's own queues and filters on the underlay are not ours to judge, except for those that lose packets by
    /// design.
    fn of_others_in_underlay(&mut self, name: InterfaceName) {
        let observed = self.seen.observed;
        let qdiscs = observed.foreign.qdiscs.get(&name).into_iter().flatten();
        for qdisc in qdiscs.filter(|qdisc| qdisc.starts_with("qdisc netem ")) {
            let reason = "delays or loses packets";
            let seen = (qdisc.clone(), Some("not there".to_owned()));
            self.add(Way::Sent, check::UNDERLAY, Verdict::Unknown, format!("{qdisc} dev {name}"), seen, reason);
        }
        let egress = observed.foreign.egress_filters.get(&name).into_iter().flatten();
        let egress = egress.map(|it| (Way::Sent, check::UNDERLAY, "egress", it));
        let ingress = observed.ingress.get(&name).into_iter().flat_map(|ingress| &ingress.foreign);
        let ingress = ingress.map(|it| (Way::Arriving, check::ACCEPTANCE, "ingress", it));
        for (way, check, direction, (filter, effect)) in egress.chain(ingress) {
            if *effect == Effect::DropsAll {
                let object = format!("filter dev {name} {direction} {filter}");
                let seen = (object.clone(), Some("not there".to_owned()));
                self.add(way, check, Verdict::Stops, object, seen, "drops every packet");
            }
        }
    }
}
