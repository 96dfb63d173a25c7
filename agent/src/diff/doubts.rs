//! Things on devices that are not ours that may or may not stop our packets. The host may be as it should, so this is
//! no interference.

use super::{Beneath, Interference, InterferenceKind, firewall, firewall::BetweenHosts, survey::Survey};
use crate::objects::{Desired, Effect, Link, Observed};
use cps_peering_config::net::InterfaceName;
use std::collections::{BTreeMap, BTreeSet};

/// Packet filters that may drop packets between hosts, or frames on bridges, and XDP programs below ports and on the
/// underlay.
pub fn doubts(desired: &Desired, observed: &Observed) -> Vec<Interference> {
    let survey = Survey::new(desired, observed);
    let mut found = firewall::doubts(&survey);
    if observed.links.values().all(|link| link.xdp.is_none()) {
        return found;
    }
    let beneath = Beneath::new(&observed.links);
    for port in desired.ports.keys().filter(|port| survey.kept(port).is_some()) {
        let reason = format!("processes packets of servers at {port} first: whether it drops some is unknown");
        found.extend(programs(&observed.links, beneath.of(port), &reason));
    }
    let reason = "processes packets of other hosts first: whether it drops packets of VPCs is unknown";
    found.extend(programs(&observed.links, underlay(&survey, &beneath), reason));
    found
}

/// Devices through which packets from other hosts arrive.
fn underlay(survey: &Survey<'_>, beneath: &Beneath<'_>) -> BTreeSet<InterfaceName> {
    let Some(between_hosts) = BetweenHosts::of(survey) else { return BTreeSet::new() };
    // If the VTEP address has a host prefix, they arrive on any device.
    let others = || {
        let is_other = |name: &InterfaceName, link: &Link| {
            !survey.observed.owns(name) && survey.vrf_of(link).is_none() && !survey.desired.ports.contains_key(name)
        };
        survey.observed.links.iter().filter(|(name, link)| is_other(name, link)).map(|(name, _)| *name).collect()
    };
    let having = between_hosts.device.names().map_or_else(others, BTreeSet::clone);
    having.iter().flat_map(|name| beneath.of(name)).chain(having.iter().copied()).collect()
}

/// The XDP programs of a device and of all below it, each with its device.
pub fn programs_beneath(links: &BTreeMap<InterfaceName, Link>, device: InterfaceName) -> Vec<(InterfaceName, u32)> {
    if links.values().all(|link| link.xdp.is_none()) {
        return Vec::new();
    }
    let all = Beneath::new(links).of(&device).into_iter().chain([device]);
    all.filter_map(|name| Some((name, links.get(&name)?.xdp?))).collect()
}

fn programs<'a>(
    links: &'a BTreeMap<InterfaceName, Link>,
    devices: BTreeSet<InterfaceName>,
    reason: &'a str,
) -> impl Iterator<Item = Interference> {
    let having = devices.into_iter().filter_map(|name| Some((name, links.get(&name)?.xdp?)));
    having.map(move |(name, program)| Interference {
        device: Some(name),
        kind: InterferenceKind::Xdp,
        effect: Effect::MayDrop,
        object: format!("XDP program {program} dev {name}"),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::{UnderlayParams, compile},
        diff::diff,
        dirty_set::DirtySet,
        filter::Vlan,
        kernel::memory,
        objects::{Address, LinkKind},
    };
    use cps_peering_config::{HostConfig, ValidHostConfig};

    #[test]
    fn programs_on_devices_of_others_are_doubts_if_packets_arrive_there() {
        let name = |text: &str| text.parse::<InterfaceName>().unwrap();
        let config: HostConfig = serde_json::from_str(
            r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1", "vrfs": { "vpc-a": { "vni": 1,
                "ports": { "eth1.7": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] } },
                "remotes": { "192.0.2.2": ["10.1.2.0/24"] } } } }"#,
        )
        .unwrap();
        let config: ValidHostConfig = config.try_into().unwrap();
        let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
        let desired = compile(&config, params, &DirtySet::Everything);
        let at = |device: &str, with: &str, length: u8| {
            let address = Address { device: name(device), net: format!("192.0.2.1/{length}").parse().unwrap() };
            let devices = ["lo", "eth0", "eth1", "eth1.7", "other"];
            let link = |(index, device): (u32, &&str)| {
                let vlan = (*device == "eth1.7").then_some((3, Vlan { tpid: 0x8100, id: 7 }));
                let kind = if *device == "lo" { LinkKind::Loopback } else { LinkKind::Other };
                let xdp = (*device == with).then_some(9);
                (name(device), Link { kind, xdp, vlan, ..memory::plain_link(index) })
            };
            let links = (1..).zip(&devices).map(link).collect();
            let observed = Observed { links, addresses: [(address, false)].into(), ..Observed::default() };
            let programs = diff(&desired, &observed).interference.len();
            let doubts: Vec<String> =
                doubts(&desired, &observed).into_iter().map(|it| format!("{}: {}", it.object, it.reason)).collect();
            (programs, doubts)
        };
        let (programs, doubts) = at("eth0", "eth1", 24);
        assert_eq!(
            (programs, &doubts[..]),
            (0, &["XDP program 9 dev eth1: processes packets of servers at eth1.7 first: whether it drops some is unknown".to_owned()][..])
        );
        let (_, doubts) = at("eth0", "eth0", 24);
        assert!(doubts.len() == 1 && doubts[0].contains("packets of other hosts"), "{doubts:?}");
        assert_eq!(at("eth0", "other", 24), (0, vec![]));
        let (_, doubts) = at("lo", "other", 32);
        assert_eq!(doubts.len(), 1, "packets arrive on any device");
    }
}
