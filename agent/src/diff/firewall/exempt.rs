//! Settings that exempt packets from `IPsec` policies.
//!
//! Measured on Linux 6.1 and 6.18: for forwarded packets, the settings of the input and the output device count; in a VRF
//! those of the member, not of the VRF. Outgoing IPv6 packets are never exempt. If the default policy for outgoing packets
//! is to block, what the host sends is blocked whatever the device's setting.

use super::packets::Devices;
use crate::objects::{
    Exemption, Family, Firewall, Link,
    firewall::{Direction, Policy},
};
use cps_peering_config::net::InterfaceName;
use std::collections::{BTreeMap, BTreeSet};

/// The packets that are exempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exempt<'a> {
    for_all: &'a BTreeSet<Exemption>,
    links: &'a BTreeMap<InterfaceName, Link>,
}

impl<'a> Exempt<'a> {
    pub(super) fn new(firewall: &'a Firewall, links: &'a BTreeMap<InterfaceName, Link>) -> Self {
        Self { for_all: &firewall.exempt, links }
    }

    /// Whether all packets that are forwarded from the devices `from` to the devices `to` are exempt from a policy.
    pub(super) fn forwarded<'b>(
        &self,
        policy: &Policy,
        from: impl IntoIterator<Item = &'b InterfaceName>,
        to: impl IntoIterator<Item = &'b InterfaceName>,
    ) -> bool {
        match (policy.direction, Family::of(&policy.source)) {
            (Direction::Forward, Family::V4) => self.for_some(Exemption::Ipv4Arriving, from),
            (Direction::Forward, Family::V6) => self.for_some(Exemption::Ipv6Arriving, from),
            (Direction::Out, Family::V4) => self.for_some(Exemption::Ipv4Leaving, to),
            (Direction::Out, Family::V6) | (Direction::In, _) => false,
        }
    }

    /// Whether all packets that the host itself receives or sends are exempt from a policy. `device` has the host's address.
    pub(super) fn of_host(&self, policy: &Policy, device: &Devices) -> bool {
        let names = || device.names().into_iter().flatten();
        match (policy.direction, Family::of(&policy.source)) {
            (Direction::In, Family::V4) => self.for_some(Exemption::Ipv4Arriving, names()),
            // The kernel applies whichever of the two was changed last, so the result is only known if they are equal.
            (Direction::In, Family::V6) => {
                let exemption = Exemption::Ipv6Arriving;
                self.for_all.contains(&exemption) && self.on_each(exemption, names())
            }
            (Direction::Out, Family::V4) => policy.priority.is_some() && self.for_some(Exemption::Ipv4Leaving, names()),
            (Direction::Out, Family::V6) | (Direction::Forward, _) => false,
        }
    }

    fn for_some<'b>(&self, exemption: Exemption, devices: impl IntoIterator<Item = &'b InterfaceName>) -> bool {
        self.for_all.contains(&exemption) || self.on_each(exemption, devices)
    }

    /// Whether each of these devices has an exemption. False if one is missing, since that is unknown then.
    fn on_each<'b>(&self, exemption: Exemption, devices: impl IntoIterator<Item = &'b InterfaceName>) -> bool {
        let is_on = |name| self.links.get(name).is_some_and(|link| link.exempt.contains(&exemption));
        let mut devices = devices.into_iter().peekable();
        devices.peek().is_some() && devices.all(is_on)
    }
}

#[cfg(test)]
impl Exempt<'static> {
    /// No packets.
    pub(super) fn nothing() -> Self {
        static FOR_ALL: BTreeSet<Exemption> = BTreeSet::new();
        static LINKS: BTreeMap<InterfaceName, Link> = BTreeMap::new();
        Self { for_all: &FOR_ALL, links: &LINKS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::{UnderlayParams, compile},
        diff::{firewall::find, survey::Survey},
        dirty_set::DirtySet,
        kernel::memory::plain_link,
        objects::{Address, Observed, firewall::Action},
    };
    use Exemption::{Ipv4Arriving, Ipv4Leaving, Ipv6Arriving};
    use cps_peering_config::{HostConfig, ValidHostConfig};

    const DEVICES: [&str; 3] = ["eth1", "cpspeer7", "cpsvrf1"];

    fn policy(direction: Direction, net: &str) -> Policy {
        Policy { priority: Some(9), ..Policy::default_of(direction, net.parse().unwrap(), Action::Block) }
    }

    /// Whether packets are exempt from IPv4 and IPv6 policies with these settings of devices and of `all`. The expected
    /// results were measured with packets.
    fn exempt(of: &[(&str, Exemption)], for_all: &[Exemption], check: impl Fn(&Exempt<'_>, &str) -> bool) -> [bool; 2] {
        let link = |(index, name): (u32, &&str)| {
            let own = of.iter().filter(|(device, _)| device == name).map(|(_, exemption)| *exemption);
            (name.parse().unwrap(), Link { exempt: own.collect(), ..plain_link(index) })
        };
        let links = (1..).zip(&DEVICES).map(link).collect();
        let firewall = Firewall { exempt: for_all.iter().copied().collect(), ..Firewall::default() };
        ["10.0.0.0/8", "fd00::/8"].map(|net| check(&Exempt::new(&firewall, &links), net))
    }

    #[test]
    fn settings_of_the_input_or_output_device_exempt_forwarded_packets() {
        let check = |direction, from: &[&str], to: &[&str], of: &[(&str, Exemption)], for_all: &[Exemption]| {
            let [from, to] = [from, to]
                .map(|names| names.iter().map(|name| name.parse::<InterfaceName>().unwrap()).collect::<Vec<_>>());
            exempt(of, for_all, |exempt, net| exempt.forwarded(&policy(direction, net), &from, &to))
        };
        let forward = |of: &[_], for_all: &[_]| check(Direction::Forward, &["eth1"], &["cpspeer7"], of, for_all);
        let (v4, v6, both, neither) = ([true, false], [false, true], [true; 2], [false; 2]);
        assert_eq!(forward(&[], &[]), neither);
        assert_eq!(forward(&[("eth1", Ipv4Arriving)], &[]), v4);
        assert_eq!(forward(&[("eth1", Ipv6Arriving)], &[]), v6);
        assert_eq!(forward(&[], &[Ipv4Arriving, Ipv6Arriving]), both);
        for elsewhere in ["cpspeer7", "cpsvrf1"] {
            assert_eq!(forward(&[(elsewhere, Ipv4Arriving), (elsewhere, Ipv6Arriving)], &[]), neither);
        }
        assert_eq!(forward(&[("eth1", Ipv4Leaving)], &[Ipv4Leaving]), neither);
        let out = |of: &[_], for_all: &[_]| check(Direction::Out, &["eth1"], &["cpspeer7"], of, for_all);
        assert_eq!(out(&[("cpspeer7", Ipv4Leaving)], &[]), v4);
        assert_eq!(out(&[], &[Ipv4Leaving]), v4);
        assert_eq!(out(&[("eth1", Ipv4Leaving), ("cpsvrf1", Ipv4Leaving)], &[Ipv4Arriving, Ipv6Arriving]), neither);
        // They may arrive on either of the two.
        let several = |of: &[_]| check(Direction::Forward, &["eth1", "cpspeer7"], &[], of, &[]);
        assert_eq!(several(&[("eth1", Ipv4Arriving)]), neither);
        assert_eq!(several(&[("eth1", Ipv4Arriving), ("cpspeer7", Ipv4Arriving)]), v4);
        let gone = check(Direction::Forward, &["eth9"], &[], &[("eth1", Ipv4Arriving)], &[]);
        assert_eq!((gone, check(Direction::Forward, &[], &[], &[], &[])), (neither, neither), "the setting is unknown");
    }

    #[test]
    fn settings_of_the_device_with_the_address_exempt_packets_of_the_host() {
        let check = |direction, of: &[(&str, Exemption)], for_all: &[Exemption]| {
            let device = Devices::one("eth1".parse().unwrap());
            exempt(of, for_all, |exempt, net| exempt.of_host(&policy(direction, net), &device))
        };
        let (v4, v6, neither) = ([true, false], [false, true], [false; 2]);
        assert_eq!(check(Direction::In, &[("eth1", Ipv4Arriving)], &[]), v4);
        assert_eq!(check(Direction::In, &[], &[Ipv4Arriving]), v4);
        assert_eq!(check(Direction::In, &[("cpspeer7", Ipv4Arriving), ("eth1", Ipv4Leaving)], &[Ipv4Leaving]), neither);
        for (of, for_all) in [(&[("eth1", Ipv6Arriving)][..], &[][..]), (&[], &[Ipv6Arriving])] {
            assert_eq!(check(Direction::In, of, for_all), neither, "the other may have been taken back last");
        }
        assert_eq!(check(Direction::In, &[("eth1", Ipv6Arriving)], &[Ipv6Arriving]), v6);
        assert_eq!(check(Direction::Out, &[("eth1", Ipv4Leaving)], &[]), v4);
        assert_eq!(check(Direction::Out, &[("eth1", Ipv4Arriving)], &[Ipv4Arriving]), neither);
        let default = |for_all: &[_]| {
            exempt(&[("eth1", Ipv4Leaving)], for_all, |exempt, net| {
                let default = Policy { priority: None, ..policy(Direction::Out, net) };
                exempt.of_host(&default, &Devices::one("eth1".parse().unwrap()))
            })
        };
        assert_eq!(default(&[Ipv4Leaving]), neither, "the default blocks what the host sends nevertheless");
        let by_any = exempt(&[("eth1", Ipv4Arriving)], &[], |exempt, net| {
            exempt.of_host(&policy(Direction::In, net), &Devices::Any)
        });
        assert_eq!(by_any, neither);
    }

    /// From the device settings to the report: three VPCs with a port each on one host, two of them peers, and another
    /// host.
    #[test]
    fn an_ipsec_policy_is_reported_unless_packets_are_exempt_from_it() {
        let config: HostConfig = serde_json::from_str(
            r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
             "vrfs": { "vpc-a": { "vni": 1, "remotes": { "192.0.2.2": ["10.1.1.0/24"] },
                                  "ports": { "eth1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] } } },
                       "vpc-c": { "vni": 3,
                                  "ports": { "eth3": { "gateways": ["10.3.0.1/24"], "prefixes": ["10.3.0.0/24"] } } },
                       "vpc-b": { "vni": 2,
                                  "ports": { "eth2": { "gateways": ["10.2.0.1/24"], "prefixes": ["10.2.0.0/24"] } } } },
             "sides": { "7": { "peering": "p", "vpc": "vpc-a", "peer_vni": 8, "peer_cidrs": ["10.2.0.0/16"] },
                        "8": { "peering": "p", "vpc": "vpc-b", "peer_vni": 7, "peer_cidrs": ["10.1.0.0/16"] } } }"#,
        )
        .unwrap();
        let config: ValidHostConfig = config.try_into().unwrap();
        let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
        let desired = compile(&config, params, &DirtySet::Everything);
        let reported = |policy: &Policy, exempt: &[(&str, Exemption)], for_all: &[Exemption]| {
            let names = ["eth0", "eth1", "eth2", "eth3", "cpsvrf1", "cpsvrf2", "cpsvpc1", "cpspeer7", "cpspeer8"];
            let names = names.map(|name| name.parse().unwrap());
            let link = |(index, name): (u32, InterfaceName)| {
                let own =
                    exempt.iter().filter(|(device, _)| *device == &*name.as_str()).map(|(_, exemption)| *exemption);
                (name, Link { exempt: own.collect(), ..plain_link(index) })
            };
            let address = Address { device: "eth0".parse().unwrap(), net: "192.0.2.1/24".parse().unwrap() };
            let firewall = Firewall {
                policies: vec![policy.clone()],
                exempt: for_all.iter().copied().collect(),
                ..Firewall::default()
            };
            let observed = Observed {
                links: (1..).zip(names).map(link).collect(),
                addresses: [(address, false)].into(),
                firewall,
                ..Observed::default()
            };
            let mut found = Vec::new();
            find(&Survey::new(&desired, &observed), &mut found);
            !found.is_empty()
        };
        let everything = "0.0.0.0/0".parse().unwrap();
        let of = |direction| Policy { priority: Some(9), ..Policy::default_of(direction, everything, Action::Block) };
        let forward = of(Direction::Forward);
        assert!(reported(&forward, &[], &[]) && !reported(&forward, &[], &[Ipv4Arriving]));
        assert!(
            reported(&forward, &[("eth1", Ipv4Arriving)], &[]),
            "what comes to it from the other host is still dropped"
        );
        let within_a =
            Policy { source: "10.1.0.0/16".parse().unwrap(), destination: "10.1.0.0/16".parse().unwrap(), ..forward };
        // The peer's table has a route to it as well.
        let all = ["cpspeer7", "cpspeer8", "eth1", "eth2", "cpsvpc1"].map(|device| (device, Ipv4Arriving));
        assert!(!reported(&within_a, &all, &[]) && reported(&within_a, &all[..4], &[]));
        let of_c =
            Policy { source: "10.3.0.0/16".parse().unwrap(), destination: "10.3.0.0/16".parse().unwrap(), ..within_a };
        assert!(!reported(&of_c, &[("eth3", Ipv4Arriving)], &[]) && reported(&of_c, &all, &[]));
        let out = of(Direction::Out);
        let leaving = ["eth0", "eth3", "cpspeer7", "cpspeer8", "cpsvpc1", "cpsvrf1", "cpsvrf2", "eth1", "eth2"];
        let leaving = leaving.map(|device| (device, Ipv4Leaving));
        assert!(!reported(&out, &leaving, &[]));
        let of_a = Policy {
            source: "10.1.0.0/24".parse().unwrap(),
            destination: "10.2.0.0/24".parse().unwrap(),
            ..out.clone()
        };
        assert!(reported(&of_a, &leaving[..8], &[]), "what goes to the peer on this host leaves by the peer's port");
        assert!(!reported(&out, &[], &[Ipv4Leaving]));
        let within = of(Direction::In);
        assert!(
            reported(&within, &[("eth1", Ipv4Arriving)], &[]) && !reported(&within, &[("eth0", Ipv4Arriving)], &[])
        );
        assert!(reported(&Policy { priority: None, ..out }, &[], &[Ipv4Leaving]), "what the host sends does not pass");
    }
}
