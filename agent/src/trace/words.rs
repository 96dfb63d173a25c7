//! Text for what was seen of the kernel. Pure.

use super::{
    findings::{Findings, fdb_key},
    path_end::Tunnel,
    seen::Lookup,
};
use crate::{
    kernel::NetlinkError,
    objects::{self, Egress, FdbTarget, LinkKind},
};
use cps_peering_config::{
    net::InterfaceName,
    trace::{Fact, Verdict, check},
};

impl Findings<'_> {
    /// A step at which all is well.
    pub(super) fn healthy(&self, check: &str) -> Fact {
        let end = self.seen.end;
        let (object, observed) = match check {
            check::PORT => (end.port.to_string(), self.link(&end.port)),
            check::VRF => (end.vrf.to_string(), self.link(&end.vrf)),
            check::TUNNEL | check::MTU => match end.tunnel() {
                Some(tunnel) => (tunnel.device.to_string(), self.link(&tunnel.device)),
                None => Default::default(),
            },
            check::ROUTE => (self.seen.query.remote.to_string(), self.route(&self.seen.lookups.route)),
            check::DELIVERY => (self.seen.query.local.to_string(), self.route(&self.seen.lookups.delivery)),
            check::UNDERLAY => {
                let vtep = self.seen.query.remote_vtep.map(|vtep| vtep.to_string());
                let next = self.seen.lookups.next_in_underlay.filter(|next| next.has_failed());
                let note = next.map_or("", |_| ": the next hop in the underlay did not answer some time ago");
                (vtep.unwrap_or_default(), format!("{}{note}", self.route(&self.seen.lookups.underlay)))
            }
            check::SHAPER => (String::new(), self.shaper()),
            check::FDB => end.tunnel().map_or_else(Default::default, |tunnel| {
                let target = self.seen.observed.fdb.get(&fdb_key(tunnel)).copied().flatten();
                (format!("fdb {} dev {}", tunnel.mac, tunnel.device), target.map(destination).unwrap_or_default())
            }),
            check::NEIGHBOUR => end.tunnel().map_or_else(Default::default, |tunnel| {
                (format!("neighbour {} dev {}", tunnel.gateway, tunnel.device), format!("{} PERMANENT", tunnel.mac))
            }),
            check::NEXT_HOP => end.tunnel().map_or_else(Default::default, |tunnel| {
                (self.nexthop(tunnel), format!("via {} dev {}", tunnel.gateway, tunnel.device))
            }),
            check::DESTINATION => {
                let state = self.seen.lookups.destination.map_or_else(
                    || "the host has not resolved it lately".to_owned(),
                    |neighbour| {
                        let silent = if neighbour.has_failed() {
                            ": it did not answer when the host last solicited it"
                        } else {
                            ""
                        };
                        format!("{neighbour}{silent}")
                    },
                );
                (format!("neighbour {} dev {}", self.seen.query.local, end.port), state)
            }
            _ => Default::default(),
        };
        Fact { check: check.to_owned(), verdict: Verdict::Ok, object, observed, expected: None, reason: String::new() }
    }

    fn nexthop(&self, tunnel: Tunnel) -> String {
        let index = self.seen.observed.links.get(&tunnel.device).map(|link| link.index);
        let mut known = self.seen.observed.nexthops.iter();
        let id = known.find(|(_, place)| Some(place.0) == index && place.1 == tunnel.gateway).map(|(id, _)| *id);
        id.map_or_else(|| "nexthop".to_owned(), |id| format!("nexthop id {id}"))
    }

    /// A device as the kernel has it.
    pub(super) fn link(&self, name: &InterfaceName) -> String {
        let Some(link) = self.seen.links.get(name) else { return "not there".to_owned() };
        let mut words = vec![if link.up { "up" } else { "down" }.to_owned()];
        if link.up && !link.carrier {
            words.push("no carrier".to_owned());
        }
        words.push(format!("mtu {}", link.mtu));
        if let Some(master) = link.master {
            words.push(format!("master {}", self.name_of(master)));
        }
        if let LinkKind::Vxlan { tunnel: Some(tunnel), altered } = link.kind {
            words.push(vxlan(tunnel));
            words.extend(altered.then(|| "with other options".to_owned()));
        }
        words.join(", ")
    }

    pub(super) fn name_of(&self, index: u32) -> String {
        let name = self.seen.links.iter().find(|(_, link)| link.index == index).map(|(name, _)| name.to_string());
        name.unwrap_or_else(|| format!("#{index}"))
    }

    pub(super) fn route(&self, lookup: &Lookup) -> String {
        match lookup {
            None => "unknown: the lookup failed".to_owned(),
            Some(Err(refusal)) => refused(refusal),
            Some(Ok(found)) => {
                let mut words = Vec::new();
                if found.local {
                    words.push("local".to_owned());
                }
                words.extend(found.gateway.map(|gateway| format!("via {gateway}")));
                words.extend(found.device.map(|index| format!("dev {}", self.name_of(index))));
                words.extend(found.mtu.map(|mtu| format!("mtu {mtu}")));
                words.join(" ")
            }
        }
    }

    fn shaper(&self) -> String {
        let tunnel = self.seen.end.tunnel();
        let Some(shaper) = tunnel.and_then(|tunnel| self.seen.desired.shapers.get(&tunnel.device)) else {
            return "no limit".to_owned();
        };
        let queue = self.seen.lookups.queue.map(|queue| {
            let full =
                if queue.backlog >= u64::from(shaper.queue.limit) / 10 * 9 { ", full: dropping now" } else { "" };
            format!("; {} packets dropped so far, {} bytes waiting{full}", queue.dropped, queue.backlog)
        });
        format!("{}{}", rate(shaper.rate.bytes_per_second), queue.unwrap_or_default())
    }
}

/// A rate, rounded.
pub(super) fn rate(bytes_per_second: u64) -> String {
    let tenths = (bytes_per_second.saturating_mul(8) + 50_000) / 100_000;
    if tenths >= 100 {
        format!("{} Mbit/s", (tenths + 5) / 10)
    } else {
        format!("{}.{} Mbit/s", tenths / 10, tenths % 10)
    }
}

/// The egress limit of a device.
pub(super) fn egress(egress: &Egress) -> String {
    match egress.rate {
        _ if !egress.ours => "another queueing discipline".to_owned(),
        None => "no limit".to_owned(),
        Some(limit) if egress.bypassed => format!("{}, and something beside it", rate(limit.bytes_per_second)),
        Some(limit) if egress.queue.is_none() => format!("{}, with another queue", rate(limit.bytes_per_second)),
        Some(limit) => rate(limit.bytes_per_second),
    }
}

pub(super) fn vxlan(tunnel: objects::Tunnel) -> String {
    format!("vxlan id {} local {} dstport {}", tunnel.vni, tunnel.local, tunnel.port)
}

pub(super) fn destination(target: FdbTarget) -> String {
    format!("dst {} vni {}", target.vtep, target.vni)
}

/// The kernel's error for a route lookup.
fn refused(refusal: &NetlinkError) -> String {
    use nix::libc::{EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, EXDEV};
    match refusal.errno {
        EHOSTUNREACH => "unreachable".to_owned(),
        ENETUNREACH => "no route".to_owned(),
        EACCES => "prohibited".to_owned(),
        EXDEV => "the source is not routed back through where it comes from (rp_filter)".to_owned(),
        EINVAL => "dropped: a blackhole, or a source that is not routed back".to_owned(),
        _ => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_in_mbit() {
        assert_eq!(rate(12_500_000 - 1464), "100 Mbit/s");
        assert_eq!((rate(125_000).as_str(), rate(1000).as_str()), ("1.0 Mbit/s", "0.0 Mbit/s"));
        assert_eq!(rate(187_500), "1.5 Mbit/s");
    }
}
