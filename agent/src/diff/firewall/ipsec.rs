//! Policies of `IPsec` for what is forwarded: they select by addresses, whichever VRF a packet is in.

use super::{Flow, Interference, InterferenceKind, packets::OfVpcs};
use crate::objects::{
    Effect, Family,
    firewall::{Action, Networks, Policy},
};
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;

/// Those that may select packets of VPCs.
pub(super) fn find(policies: &[Policy], of_vpcs: &OfVpcs, found: &mut Vec<Interference>) {
    let is_ours = |device: &InterfaceName| of_vpcs.vrfs.contains(device) || of_vpcs.members.contains(device);
    let networks = Family::ALL
        .map(|family| of_vpcs.networks.iter().copied().filter(|net| Family::of(net) == family).collect::<Networks>());
    let touch = |net: &IpNet| networks.iter().any(|of| of.family() == Some(Family::of(net)) && of.touch(net));
    for policy in Policy::in_the_way(policies) {
        if policy.device.as_ref().is_none_or(is_ours) && touch(&policy.source) && touch(&policy.destination) {
            found.push(interference(policy, Effect::MayDrop));
        }
    }
}

/// Those that select packets of one flow, or some of them.
pub(super) fn touching(policies: &[Policy], flow: &Flow, found: &mut Vec<Interference>) {
    // What hosts send each other may well be meant to be in IPsec.
    let Flow::OfVpc { source, destination, from: Some(_), vrf, to: Some(to) } = *flow else { return };
    for policy in Policy::in_the_way(policies) {
        let on_the_way = policy.device.is_none_or(|device| device == vrf || device == to);
        if on_the_way && policy.source.contains(&source) && policy.destination.contains(&destination) {
            let effect = if policy.some || policy.action != Action::Block { Effect::MayDrop } else { Effect::DropsAll };
            found.push(interference(policy, effect));
        }
    }
}

fn interference(policy: &Policy, effect: Effect) -> Interference {
    let does = match policy.action {
        Action::Block => "drops packets of VPCs",
        Action::Protect | Action::Allow => "wants IPsec for packets of VPCs",
    };
    let reason =
        format!("{does}: make it select others only, or let these pass before it: action allow, and a lower priority");
    Interference { device: None, kind: InterferenceKind::Firewall, effect, object: policy.to_string(), reason }
}
