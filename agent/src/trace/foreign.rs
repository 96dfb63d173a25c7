//! Conflicts, and objects of others in the path of packets. Pure.

use super::{
    findings::{Findings, Way},
    path_end::Exit,
};
use crate::{
    diff::{Beneath, Conflict, Flow, Interference, InterferenceKind, programs_beneath, touched_by},
    objects::{Effect, Family},
};
use cps_peering_config::{
    net::InterfaceName,
    trace::{Verdict, check},
};
use std::net::IpAddr;

/// If the effect on packets is unknown, so is the verdict.
fn verdict_of(effect: Effect) -> Verdict {
    match effect {
        Effect::DropsAll => Verdict::Stops,
        Effect::MayDrop => Verdict::Unknown,
    }
}

impl Findings<'_> {
    pub(super) fn conflicts(&mut self, conflicts: &[Conflict]) {
        for conflict in conflicts {
            let Some(check) = self.check_of_device(&conflict.device) else { continue };
            let verdict = if self.carries(&conflict.device) { Verdict::Unknown } else { Verdict::Stops };
            let observed = self.link(&conflict.device);
            self.add(
                Way::Both,
                check,
                verdict,
                format!("link {}", conflict.device),
                (observed, None),
                &conflict.reason,
            );
        }
    }

    /// Whether a device that is not as it should be may carry packets all the same.
    fn carries(&self, device: &InterfaceName) -> bool {
        let there = self.seen.observed.links.get(device).is_some_and(|link| link.up && !link.protodown);
        there && *device != self.seen.end.port
    }

    /// Interference with one device, or by a rule or a setting. Packet filters are evaluated for the path's own packets.
    pub(super) fn interference(&mut self, it: &Interference) {
        match it.kind {
            // A port of FOU stops nothing, and what is entered for the server is found by looking it up.
            InterferenceKind::Firewall | InterferenceKind::Fou | InterferenceKind::Neighbour => return,
            InterferenceKind::Rule => return self.rule_ahead(it),
            InterferenceKind::ArpIgnore => return self.arp_ignored(it),
            _ => {}
        }
        let Some(of) = it.device.as_ref().and_then(|device| self.check_of_device(device)) else { return };
        // What a gateway address sends and receives does not pass its port.
        let passes_port = !self.seen.end.is_gateway;
        let (way, check, verdict) = match (it.kind, of) {
            (InterferenceKind::Mtu, _) if self.seen.query.local.is_ipv4() => return,
            (InterferenceKind::Mtu, _) => (Way::Both, of, Verdict::Stops),
            (InterferenceKind::Address, check::PORT) => (Way::Sent, check::GATEWAY, Verdict::Differs),
            (InterferenceKind::Address, _) => (Way::Both, of, Verdict::Differs),
            (InterferenceKind::Protodown, _) => (Way::Both, of, verdict_of(it.effect)),
            (_, check::PORT) if !passes_port => return,
            (InterferenceKind::NoArp, _) => {
                if self.seen.query.local.is_ipv4() {
                    let reason = "the port answers no ARP request: servers that do not know the gateway send nothing";
                    let seen = (it.object.clone(), Some("not there".to_owned()));
                    self.add(Way::Sent, of, Verdict::Unknown, &it.object, seen, reason);
                }
                (Way::Arriving, of, verdict_of(it.effect))
            }
            (InterferenceKind::Xdp | InterferenceKind::Stacked, check::PORT) => (Way::Sent, of, verdict_of(it.effect)),
            (InterferenceKind::IngressFilter, check::PORT) => (Way::Sent, check::PORT_FILTER, verdict_of(it.effect)),
            (InterferenceKind::IngressFilter, check::TUNNEL) => {
                (Way::Arriving, check::SOURCE_FILTER, verdict_of(it.effect))
            }
            // What sees arriving packets before others, and what a device sends.
            (InterferenceKind::Xdp | InterferenceKind::Stacked, check::TUNNEL)
            | (InterferenceKind::EgressFilter | InterferenceKind::Qdisc, check::PORT) => {
                (Way::Arriving, of, verdict_of(it.effect))
            }
            (InterferenceKind::EgressFilter | InterferenceKind::Qdisc, check::TUNNEL) => {
                (Way::Sent, check::SHAPER, verdict_of(it.effect))
            }
            // Forwarded packets pass no queue and no filter of their VRF.
            _ => (Way::Both, of, Verdict::Differs),
        };
        self.add(way, check, verdict, &it.object, (it.object.clone(), Some("not there".to_owned())), &it.reason);
    }

    /// A server that has resolved the gateway before can still send.
    fn arp_ignored(&mut self, it: &Interference) {
        if self.seen.query.local.is_ipv4() && !self.seen.end.is_gateway {
            let seen = (self.seen.observed.arp_ignore.to_string(), Some("0".to_owned()));
            self.add(Way::Sent, check::PORT, Verdict::Unknown, &it.object, seen, &it.reason);
        }
    }

    /// A rule before `l3mdev` that selects this path shows in the kernel's lookups for it, unless it selects by
    /// something that they do not contain.
    fn rule_ahead(&mut self, it: &Interference) {
        let query = self.seen.query;
        let Some(rule) = self.seen.observed.rules_ahead.iter().find(|rule| rule.to_string() == it.object) else {
            return;
        };
        if (rule.family == Family::V4) != query.local.is_ipv4() {
            return;
        }
        let selects = |source: IpAddr| rule.inverted || rule.from.is_none_or(|from| from.contains(&source));
        // The kernel is queried without a mark.
        let asked = (self.seen.has_protocol || !rule.of_service) && !rule.marked;
        let seen = || (it.object.clone(), Some("not there".to_owned()));
        for (way, source, right) in
            [(Way::Sent, query.local, self.route_is_right()), (Way::Arriving, query.remote, self.delivery_is_right())]
        {
            let verdict = match (right, asked) {
                (true, true) => Verdict::Differs,
                (true, false) => Verdict::Unknown,
                (false, _) => Verdict::Stops,
            };
            if selects(source) {
                self.add(way, check::RULES, verdict, &it.object, seen(), &it.reason);
            }
        }
    }

    /// XDP programs below the port, and where packets of the other host arrive. (Those on the port itself are reported
    /// with what else is on it.)
    pub(super) fn programs(&mut self) {
        let port = Some(self.seen.end.port).filter(|_| !self.seen.end.is_gateway);
        let underlay = self.underlay_device();
        let places = port.map(|it| (Way::Sent, check::PORT, it)).into_iter();
        for (way, check, device) in places.chain(underlay.map(|it| (Way::Arriving, check::ACCEPTANCE, it))) {
            let own = |name: InterfaceName| way == Way::Sent && name == device;
            for (name, program) in programs_beneath(self.seen.links, device).into_iter().filter(|(name, _)| !own(*name))
            {
                let object = format!("XDP program {program} dev {name}");
                let seen = (object.clone(), Some("not there".to_owned()));
                self.add(way, check, Verdict::Unknown, object, seen, "sees packets first, and may drop them");
            }
        }
    }

    /// The host's packet filters, for the packets of this path.
    pub(super) fn firewall(&mut self) {
        let (query, end) = (self.seen.query, self.seen.end);
        let port = Some(end.port).filter(|_| !end.is_gateway);
        let exit = match end.exit {
            Exit::Host { .. } => None,
            Exit::Device { device, .. } => Some(device),
            Exit::Tunnel(tunnel) => Some(tunnel.device),
        };
        let sent = Flow::OfVpc { source: query.local, destination: query.remote, from: port, vrf: end.vrf, to: exit };
        let mut flows = vec![(Way::Sent, sent)];
        // What comes from the same host was evaluated where it is sent.
        if let Some(tunnel) = end.tunnel() {
            let (source, destination) = (query.remote, query.local);
            let arriving = Flow::OfVpc { source, destination, from: Some(tunnel.device), vrf: end.vrf, to: port };
            flows.push((Way::Arriving, arriving));
            if let Some(own) = self.seen.desired.vxlans.get(&tunnel.device).map(|it| it.tunnel) {
                let leaves = self.underlay_device();
                // Packets may arrive on another device than the one that the host sends through, unless that has the
                // address.
                let has_it = |device: &InterfaceName| {
                    let mut addresses = self.seen.observed.addresses.keys();
                    addresses.any(|it| it.device == *device && it.net.addr() == own.local)
                };
                let comes = leaves.filter(has_it);
                flows.extend([(Way::Sent, false, leaves), (Way::Arriving, true, comes)].map(
                    |(way, arrives, device)| {
                        let (local, other, port) = (own.local, tunnel.vtep, own.port);
                        (way, Flow::BetweenHosts { local, other, device, port, arrives })
                    },
                ));
            }
        }
        let resolution = port.map(|port| Flow::Resolution { port, vrf: end.vrf, server: query.local });
        flows.extend(resolution.map(|flow| (Way::Both, flow)));
        let beneath = Beneath::new(self.seen.links);
        for (way, flow) in flows {
            for it in touched_by(&self.seen.observed.firewall, &beneath, &flow) {
                let seen = (it.object.clone(), Some("not there".to_owned()));
                // Whoever was resolved before can still be reached.
                let resolved = matches!(flow, Flow::Resolution { .. });
                let verdict = if resolved { Verdict::Unknown } else { verdict_of(it.effect) };
                self.add(way, check::FIREWALL, verdict, &it.object, seen, it.reason);
            }
        }
    }
}
