//! From what was seen of the kernel to what it means for one path, step by step. Pure.

use super::{
    findings::{Findings, Way},
    seen::Seen,
};
use crate::{
    diff::diff,
    objects::{LinkKind, Observed},
};
use cps_peering_config::trace::{Fact, Verdict, check};
use std::borrow::Cow;

/// Steps that only a path to another host has.
const OF_TUNNELS: [&str; 6] =
    [check::TUNNEL, check::NEXT_HOP, check::NEIGHBOUR, check::FDB, check::SHAPER, check::UNDERLAY];
/// What arrives from the same host was routed to the port by the other end.
const RECEIVE_LOCALLY: [&str; 2] = [check::PORT, check::DESTINATION];
const RECEIVE_LOCALLY_AT_GATEWAY: [&str; 3] = [check::VRF, check::PORT, check::GATEWAY];

/// How many more reasons are named at one step.
const MORE: usize = 3;

/// The facts about both directions of one end: what it sends, and what arrives for it.
pub(super) fn facts(seen: &Seen<'_>) -> (Vec<Fact>, Vec<Fact>) {
    let mut findings = Findings::of(seen);
    let plan = diff(seen.desired, &findings.without_options());
    findings.conflicts(&plan.conflicts);
    for it in &plan.interference {
        findings.interference(it);
    }
    findings.firewall();
    findings.programs();
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
    // A gateway address belongs to the host itself; there is no server behind it.
    let others = if end.is_gateway { check::DESTINATION } else { check::GATEWAY };
    let receive = receive.iter().filter(|check| **check != others);
    (
        send.map(|check| findings.fact(check, Way::Sent)).collect(),
        receive.map(|check| findings.fact(check, Way::Arriving)).collect(),
    )
}

impl<'a> Findings<'a> {
    /// The worst finding of a step, with the reasons of the others; or its healthy state.
    fn fact(&self, check: &str, way: Way) -> Fact {
        let concerns = |of: Way| of == way || of == Way::Both;
        let found = self.issues.iter().filter(|(of, fact)| concerns(*of) && fact.check == check);
        let mut found: Vec<&Fact> = found.map(|(_, fact)| fact).collect();
        // (Stable: the first finding stays first.)
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

    /// The observed state, except for other options of the tunnel, which are reported by themselves: the agent would
    /// recreate it because of them, with all that is on it. Until then it exists.
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
