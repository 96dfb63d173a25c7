//! Policies of `IPsec` for what is forwarded: they select by addresses, whichever VRF a packet is in.

use super::{Flow, Interference, InterferenceKind, NAMED, packets::OfVpcs};
use crate::objects::{
    Effect, Family,
    firewall::{Action, Direction, Networks, Policy},
};
use cps_peering_config::net::{InterfaceName, within};
use ipnet::IpNet;

/// Those that may select packets of VPCs, and that no other one keeps from them; a few at most.
pub(super) fn find(policies: &[Policy], of_vpcs: &OfVpcs, found: &mut Vec<Interference>) {
    let is_ours = |device: &InterfaceName| of_vpcs.vrfs.contains(device) || of_vpcs.members.contains(device);
    let networks = Family::ALL
        .map(|family| of_vpcs.networks.iter().copied().filter(|net| Family::of(net) == family).collect::<Networks>());
    let touch = |net: &IpNet| networks.iter().any(|of| of.family() == Some(Family::of(net)) && of.touch(net));
    let concerned = |policy: &&Policy| {
        policy.device.as_ref().is_none_or(is_ours) && touch(&policy.source) && touch(&policy.destination)
    };
    let concerned: Vec<&Policy> = policies.iter().filter(concerned).collect();
    let in_the_way = concerned.iter().enumerate().filter(|(place, policy)| {
        let passed = |before: &&&Policy| {
            before.action == Action::Allow
                && before.direction == policy.direction
                && covers(before, policy, &of_vpcs.networks)
        };
        policy.action != Action::Allow && !concerned[..*place].iter().any(|before| passed(&before))
    });
    found.extend(in_the_way.take(NAMED).map(|(_, policy)| interference(policy, Effect::MayDrop)));
}

/// Whether a policy selects all packets of these networks that another one does.
fn covers(before: &Policy, policy: &Policy, networks: &[IpNet]) -> bool {
    let device = before.device.is_none() || before.device == policy.device;
    let all = |before: &IpNet, policy: &IpNet| {
        // Of two prefixes that meet, one is within the other.
        let both = networks
            .iter()
            .filter_map(|net| if within(net, policy) { Some(net) } else { within(policy, net).then_some(policy) });
        both.into_iter().all(|both| within(both, before))
    };
    device && !before.some && all(&before.source, &policy.source) && all(&before.destination, &policy.destination)
}

/// Those that select packets of one flow, or some of them, up to the first one that selects all.
pub(super) fn touching(policies: &[Policy], flow: &Flow, found: &mut Vec<Interference>) {
    // What hosts send each other may well be meant to be in IPsec.
    let Flow::OfVpc { source, destination, from: Some(_), vrf, to: Some(to) } = *flow else { return };
    for direction in [Direction::Forward, Direction::Out] {
        let selects = |policy: &&Policy| {
            policy.direction == direction
                && policy.device.is_none_or(|device| device == vrf || device == to)
                && policy.source.contains(&source)
                && policy.destination.contains(&destination)
        };
        let mut all = true;
        for policy in policies.iter().filter(selects) {
            if policy.action != Action::Allow {
                let drops = policy.action == Action::Block && !policy.some && all;
                found.push(interference(policy, if drops { Effect::DropsAll } else { Effect::MayDrop }));
            }
            if !policy.some {
                break;
            }
            all = false;
        }
    }
}

fn interference(policy: &Policy, effect: Effect) -> Interference {
    let does = match (policy.action, policy.direction) {
        (Action::Block, _) => "drops packets of VPCs",
        (_, Direction::Forward) => "drops packets of VPCs that have not come by IPsec",
        (_, Direction::Out) => "wants IPsec for packets of VPCs",
    };
    let cure = match policy.priority {
        Some(_) => {
            "make it select others only, or let these pass before it: action allow, with a smaller number as priority"
        }
        None => {
            "let these pass by a policy of their own with action allow, or change it with `ip xfrm policy setdefault`"
        }
    };
    let reason = format!("{does}: {cure}");
    Interference { device: None, kind: InterferenceKind::Firewall, effect, object: policy.to_string(), reason }
}
