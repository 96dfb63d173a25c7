//! Which interfaces the ports of a configuration are. Names that the kernel assigns in the order in which it finds
//! cards can change with the next boot, so a port may also be given by an alternative name of its interface (`ip link
//! property`), for instance the one that udev derives from its place on the bus (`enp3s0f1`), or by its permanent
//! Ethernet address (`enx525400123456`). Pure.

use crate::{
    dirty_set::DirtySet,
    objects::{Link, LinkKind, Mac},
};
use cps_peering_config::{SharedHostConfig, ValidHostConfig, net::InterfaceName};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// The kernel's names of interfaces, by the other names that a configuration uses for them.
pub type Aliases = BTreeMap<InterfaceName, InterfaceName>;

/// The interfaces of those ports that have another name in the kernel. A port that matches more than one interface, or
/// one that is a port already, counts as missing.
pub fn aliases(config: &SharedHostConfig, links: &BTreeMap<InterfaceName, Link>) -> Aliases {
    let ports: BTreeSet<&InterfaceName> = config.vrfs.values().flat_map(|vrf| vrf.ports.keys()).collect();
    let mut aliases = Aliases::new();
    let mut taken = BTreeSet::new();
    for port in ports.iter().filter(|port| !links.contains_key(*port)) {
        let Some(name) = interface(port, links) else { continue };
        if !ports.contains(&name) && taken.insert(name) {
            aliases.insert(**port, name);
        }
    }
    aliases
}

fn interface(port: &InterfaceName, links: &BTreeMap<InterfaceName, Link>) -> Option<InterfaceName> {
    if let [only] = candidates(port, links).as_slice() { Some(*only) } else { None }
}

/// Alternative names are unique, also among names. Addresses need not be.
fn candidates(port: &InterfaceName, links: &BTreeMap<InterfaceName, Link>) -> Vec<InterfaceName> {
    let named = links.iter().find(|(_, link)| link.alternative_names.contains(port));
    if let Some((name, _)) = named {
        return vec![*name];
    }
    let Some(mac) = permanent_mac(port) else { return Vec::new() };
    let with_it = links.iter().filter(|(_, link)| link.kind == LinkKind::Other && link.permanent_mac == Some(mac));
    with_it.map(|(name, _)| *name).collect()
}

/// Why a port has no interface.
pub fn why_missing(port: &InterfaceName, links: &BTreeMap<InterfaceName, Link>) -> String {
    match candidates(port, links).as_slice() {
        [] => format!("there is no interface {port}"),
        [only] => format!("{port} is {only}, which is a port under another name"),
        [one, other, ..] => format!("{one} and {other} both have the permanent address of {port}"),
    }
}

/// The address that a name stands for, as udev writes it (`systemd.net-naming-scheme`, `ID_NET_NAME_MAC`).
fn permanent_mac(name: &InterfaceName) -> Option<Mac> {
    let name = name.as_str();
    let digits = name.strip_prefix("enx").filter(|digits| digits.len() == 12)?;
    let digits = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Some(Mac(mac))
}

/// A configuration with the kernel's names of its ports.
pub fn in_kernel_names<'a>(config: &'a ValidHostConfig, aliases: &Aliases) -> Cow<'a, ValidHostConfig> {
    if aliases.is_empty() { Cow::Borrowed(config) } else { Cow::Owned(config.with_ports_renamed(aliases)) }
}

/// A dirty set with the kernel's names of ports.
pub fn dirty_in_kernel_names<'a>(dirty: &'a DirtySet, aliases: &Aliases) -> Cow<'a, DirtySet> {
    match dirty {
        DirtySet::Parts(parts) if !aliases.is_empty() => {
            let mut parts = parts.clone();
            parts.devices = parts.devices.iter().map(|name| *aliases.get(name).unwrap_or(name)).collect();
            Cow::Owned(DirtySet::Parts(parts))
        }
        _ => Cow::Borrowed(dirty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::memory;

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    fn config(ports: &[&str]) -> ValidHostConfig {
        let ports = ports.iter().enumerate().map(|(place, port)| {
            let net = format!("10.1.{place}.1/24");
            let prefix = format!("10.1.{place}.0/24");
            (port.to_string(), serde_json::json!({ "gateways": [net], "prefixes": [prefix] }))
        });
        let ports: serde_json::Map<String, serde_json::Value> = ports.collect();
        let config = serde_json::json!({
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
            "vrfs": { "vpc-a": { "vni": 1, "ports": ports } }
        });
        serde_json::from_value::<cps_peering_config::HostConfig>(config).unwrap().try_into().unwrap()
    }

    fn found(ports: &[&str], links: &[(&str, Link)]) -> Vec<String> {
        let links = links.iter().map(|(text, link)| (name(text), link.clone())).collect();
        let config = config(ports);
        let aliases = aliases(&config, &links);
        let config = in_kernel_names(&config, &aliases);
        config.vrfs.values().flat_map(|vrf| vrf.ports.keys()).map(ToString::to_string).collect()
    }

    #[test]
    fn ports_are_found_by_name_alternative_name_and_permanent_address() {
        let link = |alternative: &[&str], mac: [u8; 6]| Link {
            alternative_names: alternative.iter().map(|text| name(text)).collect(),
            permanent_mac: Some(Mac(mac)),
            ..memory::plain_link(7)
        };
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let links = [("eth1", link(&["enp3s0f1", "port-of-lan"], mac)), ("eth2", link(&[], [2; 6]))];
        for (said, meant) in [
            ("eth1", "eth1"),
            ("enp3s0f1", "eth1"),
            ("port-of-lan", "eth1"),
            ("enx525400123456", "eth1"),
            ("enx020202020202", "eth2"),
            ("enx52540012345", "enx52540012345"),
            ("enx52540012345A", "enx52540012345A"),
            ("enx525400123457", "enx525400123457"),
            ("enp4s0", "enp4s0"),
        ] {
            assert_eq!(found(&[said], &links), [meant], "{said}");
        }
        // Two names of one interface make one port; an address that two interfaces have is ambiguous.
        assert_eq!(found(&["enp3s0f1", "eth1"], &links), ["enp3s0f1", "eth1"]);
        assert_eq!(found(&["enp3s0f1", "port-of-lan"], &links), ["eth1", "port-of-lan"]);
        let twice = [("eth1", link(&[], mac)), ("eth2", link(&[], mac))];
        assert_eq!(found(&["enx525400123456"], &twice), ["enx525400123456"]);
        let why = |port: &str, links: &[(&str, Link)]| {
            why_missing(&name(port), &links.iter().map(|(text, link)| (name(text), link.clone())).collect())
        };
        assert_eq!(why("enp4s0", &links), "there is no interface enp4s0");
        assert_eq!(why("enp3s0f1", &links), "enp3s0f1 is eth1, which is a port under another name");
        assert_eq!(why("enx525400123456", &twice), "eth1 and eth2 both have the permanent address of enx525400123456");
        // The order of names then differs.
        assert_eq!(found(&["enx020202020202", "enp3s0f1"], &links), ["eth1", "eth2"]);
    }
}
