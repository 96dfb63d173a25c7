//! From what was seen of the kernel to what it means for one path, step by step. Pure.

use super::{
    lookups::Lookups,
    path_end::{Exit, PathEnd, Tunnel},
};
use crate::{
    diff::diff,
    objects::{Desired, FdbKey, Link, LinkKind, Observed},
};
use cps_peering_config::{
    net::InterfaceName,
    trace::{Fact, TraceQuery, Verdict, check},
};
use std::{borrow::Cow, collections::BTreeMap};

/// All that was seen of one end of a path.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    /// What was asked.
    pub(super) query: &'a TraceQuery,
    /// What it is about.
    pub(super) end: &'a PathEnd,
    /// What of it should be there.
    pub(super) desired: &'a Desired,
    /// What of it is there.
    pub(super) observed: &'a Observed,
    /// Every device of the host.
    pub(super) links: &'a BTreeMap<InterfaceName, Link>,
    /// What the kernel itself finds.
    pub(super) lookups: Lookups,
}

/// What only a path to another host has of these.
const OF_TUNNELS: [&str; 6] =
    [check::TUNNEL, check::NEXT_HOP, check::NEIGHBOUR, check::FDB, check::SHAPER, check::UNDERLAY];
/// What arrives from the same host was led to the port at the other end.
const RECEIVE_LOCALLY: [&str; 2] = [check::PORT, check::DESTINATION];
const RECEIVE_LOCALLY_AT_GATEWAY: [&str; 3] = [check::VRF, check::PORT, check::GATEWAY];

/// How many more reasons are named at one step.
const MORE: usize = 3;

/// What was found of both directions of one end: what it sends, and what arrives for it.
pub(super) fn facts(seen: &Seen<'_>) -> (Vec<Fact>, Vec<Fact>) {
    let mut findings = Findings { seen, issues: Vec::new() };
    let plan = diff(seen.desired, &findings.without_options());
    findings.conflicts(&plan.conflicts);
    for it in &plan.interference {
        findings.interference(it);
    }
    findings.firewall();
    for operation in &plan.operations {
        findings.operation(operation);
    }
    findings.lookups();
    let (end, tunnel) = (seen.end, seen.end.tunnel().is_some());
    let send = check::SENT.iter().filter(|check| tunnel || !OF_TUNNELS.contains(check) && **check != check::MTU);
    let send = send.filter(|check| !end.is_gateway || **check != check::PORT_FILTER);
    let receive = match (tunnel, end.is_gateway) {
        (true, _) => check::ARRIVING.as_slice(),
        (false, false) => &RECEIVE_LOCALLY,
        (false, true) => &RECEIVE_LOCALLY_AT_GATEWAY,
    };
    // A gateway address the host itself has; behind it there is no server.
    let others = if end.is_gateway { check::DESTINATION } else { check::GATEWAY };
    let receive = receive.iter().filter(|check| **check != others);
    (
        send.map(|check| findings.fact(check, Way::Sent)).collect(),
        receive.map(|check| findings.fact(check, Way::Arriving)).collect(),
    )
}

/// Which packets something concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Those that the own address sends.
    Sent,
    /// Those that arrive for it.
    Arriving,
    /// All.
    Both,
}

/// What was found at one end of a path.
pub(super) struct Findings<'a> {
    pub(super) seen: &'a Seen<'a>,
    issues: Vec<(Way, Fact)>,
}

impl<'a> Findings<'a> {
    /// Adds something that is not as it should be, for packets that go one way, or both.
    pub(super) fn add(
        &mut self,
        way: Way,
        check: &str,
        verdict: Verdict,
        object: impl Into<String>,
        (observed, expected): (String, Option<String>),
        reason: impl Into<String>,
    ) {
        let (check, object, reason) = (check.to_owned(), object.into(), reason.into());
        self.issues.push((way, Fact { check, verdict, object, observed, expected, reason }));
    }

    /// The worst of what was found at a step, with the others' reasons; or how it is.
    fn fact(&self, check: &str, way: Way) -> Fact {
        let concerns = |of: Way| of == way || of == Way::Both;
        let found = self.issues.iter().filter(|(of, fact)| concerns(*of) && fact.check == check);
        let mut found: Vec<&Fact> = found.map(|(_, fact)| fact).collect();
        // (Stable: what was found first stays first.)
        found.sort_by_key(|it| std::cmp::Reverse(it.verdict));
        let Some((worst, others)) = found.split_first() else { return self.healthy(check) };
        let mut fact = (*worst).clone();
        for other in others.iter().take(MORE) {
            if !fact.reason.contains(&other.reason) {
                fact.reason = format!("{}; {}: {}", fact.reason, other.object, other.reason);
            }
        }
        fact
    }

    /// The step that a device on the path belongs to; none for devices that the path does not meet, and for the one through which it
    /// leaves for an address on the same host, of which the other end tells.
    pub(super) fn check_of_device(&self, device: &InterfaceName) -> Option<&'static str> {
        let end = self.seen.end;
        if *device == end.port {
            Some(check::PORT)
        } else if *device == end.vrf {
            Some(check::VRF)
        } else if end.tunnel().is_some_and(|tunnel| tunnel.device == *device) {
            Some(check::TUNNEL)
        } else if self.underlay_device() == Some(*device) {
            Some(check::ACCEPTANCE)
        } else {
            None
        }
    }

    /// The device to the other host.
    pub(super) fn underlay_device(&self) -> Option<InterfaceName> {
        let index = self.seen.lookups.underlay.as_ref()?.as_ref().ok()?.device?;
        self.seen.links.iter().find(|(_, link)| link.index == index).map(|(name, _)| *name)
    }

    /// Whether the device through which packets leave for an address on the same host can carry them. Where it cannot, no route leads
    /// there, and the other end tells why.
    pub(super) fn exit_is_usable(&self) -> bool {
        let Exit::Device { device, vrf, .. } = self.seen.end.exit else { return true };
        let (Some(link), Some(vrf_link)) = (self.seen.links.get(&device), self.seen.links.get(&vrf)) else {
            return false;
        };
        let carries = |link: &Link| link.up && link.carrier && !link.protodown;
        if device == vrf { link.up } else { carries(link) && link.master == Some(vrf_link.index) && vrf_link.up }
    }

    /// What is there, but for other options of the tunnel, which are told by themselves: the agent would make it anew because of them,
    /// and with it all that is on it. Until then that is there.
    fn without_options(&mut self) -> Cow<'a, Observed> {
        let observed = self.seen.observed;
        let device = self.seen.end.tunnel().map(|tunnel| tunnel.device);
        let link = device.and_then(|device| Some((device, observed.links.get(&device)?)));
        let Some((device, LinkKind::Vxlan { tunnel, altered: true })) = link.map(|(device, link)| (device, link.kind))
        else {
            return Cow::Borrowed(observed);
        };
        let seen = (self.link(&device), Some("no other options".to_owned()));
        let reason = "it has options that it should not have, such as a TTL or learning: packets may not get through";
        self.add(Way::Both, check::TUNNEL, Verdict::Unknown, format!("link {device}"), seen, reason);
        let mut observed = observed.clone();
        if let Some(link) = observed.links.get_mut(&device) {
            link.kind = LinkKind::Vxlan { tunnel, altered: false };
        }
        Cow::Owned(observed)
    }
}

pub(super) fn fdb_key(tunnel: Tunnel) -> FdbKey {
    FdbKey { device: tunnel.device, mac: tunnel.mac }
}
