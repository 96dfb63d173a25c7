//! Results of the last full observation that later ones build on. Pure.

use crate::{
    compile::UnderlayParams,
    diff::Conflict,
    dirty_set::DirtySet,
    objects::{DeviceSetting, Exemption, Link, Operation},
    ownership::DeviceName,
    ports::{self, Aliases},
};
use cps_peering_config::{SharedHostConfig, net::InterfaceName};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of the kernel.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// None before a full observation with the current options.
    underlay: Option<UnderlayParams>,
    /// Desired devices that were blocked.
    blocked: BTreeSet<InterfaceName>,
    /// Which interfaces the ports were that have other names in the configuration.
    aliases: Aliases,
    /// Settings of devices that could not be repaired, or were left alone.
    left_wrong: BTreeSet<(InterfaceName, DeviceSetting)>,
    /// Devices whose packets are exempt from `IPsec` policies.
    exempt: BTreeSet<(InterfaceName, Exemption)>,
    /// Whether a device may be without the underlay filter. Only a full observation retries it, and clears this; until
    /// then, a partial one must not set tunnels up.
    unguarded: bool,
}

impl Seen {
    /// The underlay; none while it is not known.
    pub(super) fn underlay(&self) -> Option<UnderlayParams> {
        self.underlay
    }

    /// The options have changed.
    pub(super) fn forget_underlay(&mut self) {
        self.underlay = None;
    }

    /// A full observation found these conflicts.
    pub(super) fn note_underlay(&mut self, underlay: UnderlayParams, conflicts: &[Conflict]) {
        self.underlay = Some(underlay);
        self.blocked = conflicts.iter().map(|conflict| conflict.device).collect();
    }

    /// The underlay, if observing the changed parts may be enough: something has changed, less than everything, and
    /// nothing blocks it. `all_is_due`: whether a full observation follows anyway.
    pub(super) fn quick_way(&self, dirty: &DirtySet, all_is_due: bool) -> Option<UnderlayParams> {
        let DirtySet::Parts(parts) = dirty else { return None };
        let is_blocked = parts.devices.iter().any(|device| self.blocked.contains(device));
        let is_worth_it = !dirty.is_nothing() || !all_is_due;
        if is_worth_it && !is_blocked && !self.unguarded { self.underlay } else { None }
    }

    /// The kernel's names of ports.
    pub(super) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Finds the ports among all interfaces, and those whose packets are exempt from policies of `IPsec`.
    pub(super) fn find_ports(&mut self, config: &SharedHostConfig, links: &BTreeMap<InterfaceName, Link>) {
        self.aliases = ports::aliases(config, links);
        self.exempt = exempt(links).collect();
    }

    /// Whether the same packets are exempt.
    pub(super) fn exempt_are_the_same(&self, links: &BTreeMap<InterfaceName, Link>) -> bool {
        exempt(links).eq(self.exempt.iter().copied())
    }

    /// Everything is as good as it could be made, except for these operations.
    pub(super) fn left(&mut self, operations: impl Iterator<Item = Operation>) {
        self.unguarded = false;
        self.left_wrong.clear();
        for operation in operations {
            match operation {
                Operation::Set(device, setting, _) => drop(self.left_wrong.insert((device, setting))),
                Operation::AddGuard(..) => self.unguarded = true,
                _ => {}
            }
        }
    }

    /// The kernel refused an operation of an observation that has not ended.
    pub(super) fn refused(&mut self, operation: &Operation) {
        self.unguarded |= matches!(operation, Operation::AddGuard(..));
    }

    /// Whether ports are still the same interfaces.
    pub(super) fn ports_are_the_same(&self, config: &SharedHostConfig, links: &BTreeMap<InterfaceName, Link>) -> bool {
        ports::aliases(config, links) == self.aliases
    }

    /// Whether the settings of our devices and ports are right. What could not be repaired is retried when it is due.
    pub(super) fn settings_are_right(&self, config: &SharedHostConfig, links: &BTreeMap<InterfaceName, Link>) -> bool {
        let of_vpcs = config.vrfs.values().flat_map(|vrf| vrf.ports.keys().copied().chain([DeviceName::vpc(vrf.vni)]));
        let of_sides = config.sides.keys().map(|vni| DeviceName::peer(*vni));
        let mut ours = of_vpcs.chain(of_sides).filter_map(|name| {
            let name = *self.aliases.get(&name).unwrap_or(&name);
            Some((name, links.get(&name)?))
        });
        ours.all(|(name, link)| {
            DeviceSetting::WANTED.into_iter().all(|(setting, value)| {
                let is_right = link.settings.get(&setting).is_none_or(|have| *have == value);
                is_right || self.left_wrong.contains(&(name, setting))
            })
        })
    }
}

/// In order.
fn exempt(links: &BTreeMap<InterfaceName, Link>) -> impl Iterator<Item = (InterfaceName, Exemption)> {
    links.iter().flat_map(|(name, link)| link.exempt.iter().map(|exemption| (*name, *exemption)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dirty_set::Parts, kernel::memory, objects::GuardKind};
    use cps_peering_config::{HostConfig, report::ProblemKind};
    use serde_json::json;

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    fn part(devices: &[&str]) -> DirtySet {
        DirtySet::Parts(Parts { devices: devices.iter().map(|text| name(text)).collect(), ..Parts::default() })
    }

    fn config() -> SharedHostConfig {
        let config: HostConfig = serde_json::from_value(json!({
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
            "vrfs": { "vpc-a": { "vni": 10, "ports": { "lan": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] } } } },
        }))
        .unwrap();
        config.into()
    }

    #[test]
    fn a_partial_observation_is_enough_if_nothing_blocks_it() {
        let underlay = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
        let mut seen = Seen::default();
        assert_eq!(seen.quick_way(&part(&["eth1"]), false), None, "the underlay is not known");
        let conflict = Conflict { device: name("eth2"), kind: ProblemKind::Conflict, reason: String::new() };
        seen.note_underlay(underlay, &[conflict]);
        for (dirty, all_is_due, enough) in [
            (part(&["eth1"]), false, true),
            (part(&["eth1"]), true, true),
            (part(&["eth1", "eth2"]), false, false),
            (part(&[]), false, true),
            (part(&[]), true, false),
            (DirtySet::Everything, false, false),
        ] {
            assert_eq!(seen.quick_way(&dirty, all_is_due), enough.then_some(underlay), "{dirty:?} {all_is_due}");
        }
        seen.forget_underlay();
        assert_eq!(seen.quick_way(&part(&["eth1"]), false), None);
    }

    #[test]
    fn a_partial_observation_is_not_enough_while_a_device_may_lack_the_underlay_filter() {
        let underlay = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
        let mut seen = Seen::default();
        seen.note_underlay(underlay, &[]);
        let guard = Operation::AddGuard(name("eth9"), GuardKind::Device);
        seen.refused(&Operation::AddIngress(name("eth9")));
        assert_eq!(seen.quick_way(&part(&["eth1"]), false), Some(underlay));
        // Also if the observation ended early.
        seen.refused(&guard);
        seen.note_underlay(underlay, &[]);
        assert_eq!(seen.quick_way(&part(&["eth1"]), false), None);
        seen.left([guard].into_iter());
        assert_eq!(seen.quick_way(&part(&["eth1"]), false), None);
        seen.left([Operation::AddIngress(name("eth9"))].into_iter());
        assert_eq!(seen.quick_way(&part(&["eth1"]), false), Some(underlay));
    }

    #[test]
    fn an_exemption_that_comes_or_goes_is_noticed_on_any_device() {
        let mut seen = Seen::default();
        let exempt = Link { exempt: [Exemption::Ipv4Arriving].into(), ..memory::plain_link(7) };
        let links = |link: &Link| BTreeMap::from([(name("eth9"), link.clone())]);
        assert!(seen.exempt_are_the_same(&links(&memory::plain_link(7))) && !seen.exempt_are_the_same(&links(&exempt)));
        seen.find_ports(&config(), &links(&exempt));
        assert!(seen.exempt_are_the_same(&links(&exempt)) && !seen.exempt_are_the_same(&links(&memory::plain_link(7))));
    }

    #[test]
    fn settings_are_those_of_the_interface_that_the_port_is() {
        let mut seen = Seen::default();
        let setting = DeviceSetting::Ipv6AcceptRa;
        let mut link = Link { alternative_names: [name("lan")].into(), ..memory::plain_link(7) };
        let links = |link: &Link| BTreeMap::from([(name("eth1"), link.clone())]);
        assert!(!seen.ports_are_the_same(&config(), &links(&link)));
        seen.find_ports(&config(), &links(&link));
        assert!(seen.ports_are_the_same(&config(), &links(&link)));
        link.settings = DeviceSetting::WANTED.into();
        assert!(seen.settings_are_right(&config(), &links(&link)));
        link.settings.insert(setting, 2);
        assert!(!seen.settings_are_right(&config(), &links(&link)));
        // It was tried, or is suspended.
        seen.left([Operation::Set(name("eth1"), setting, 0)].into_iter());
        assert!(seen.settings_are_right(&config(), &links(&link)));
        seen.left(std::iter::empty());
        assert!(!seen.settings_are_right(&config(), &links(&link)));
    }
}
