//! From a host's configuration to kernel objects. Pure.
//!
//! One VRF per VPC. One VXLAN device per VPC with ports on other hosts, and one per side of a peering, each in its VRF.
//! Everything of a side depends on its device, so removing the device removes the side; and because the peer sends with
//! this side's own VNI, a host without the device accepts nothing from the peer (rule C5).

use crate::{
    dirty_set::DirtySet,
    filter::{IngressPolicy, LocalAddresses},
    objects::{
        Address, Desired, DesiredRoute, FdbKey, FdbTarget, NeighbourKey, Nexthop, Remote, RouteKey, RouteTo, Run,
        Shaper, Source, Tunnel, VrfDevice, VxlanDevice,
    },
    ownership::{self, DeviceName},
};
use cps_peering_config::{
    SharedHostConfig, ValidHostConfig,
    host_config::{Remotes, SideConfig, VrfConfig},
    id::VpcId,
    naming::{gateway, mac},
    net::{InterfaceName, Vni, within},
    prefix_set::intersection,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// What the objects depend on besides the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayParams {
    /// The UDP port of VXLAN, on all hosts.
    pub vxlan_port: u16,
    /// The MTU of the path between hosts, in bytes.
    pub underlay_mtu: u32,
}

impl UnderlayParams {
    /// The MTU of a VXLAN device: the underlay's less outer IP, UDP, VXLAN and inner Ethernet headers. With a larger
    /// one the underlay would fragment every full packet. It is never below IPv6's minimum: a device below that has no
    /// IPv6, and no next hops, which serve both families. An IPv4 underlay then fragments longer packets.
    pub fn device_mtu(self, underlay: IpAddr) -> u32 {
        self.underlay_mtu.saturating_sub(overhead(underlay)).max(IPV6_MIN_MTU)
    }

    /// The longest IPv4 packet that devices on this underlay send, in bytes; 0 if that is their MTU. It is not if an
    /// IPv6 underlay carries less than a device's minimum MTU: routes then carry an MTU for IPv4, which works below
    /// 1280, unlike IPv6.
    fn ipv4_mtu(self, underlay: IpAddr) -> u16 {
        let whole = self.underlay_mtu.saturating_sub(overhead(underlay));
        if underlay.is_ipv4() || whole >= IPV6_MIN_MTU {
            return 0;
        }
        u16::try_from(whole.max(IPV4_LEAST_MTU)).unwrap_or_default()
    }

    /// The longest packet of a family that devices on this underlay should send, in bytes.
    pub(crate) fn longest_packet(self, underlay: IpAddr, ipv6: bool) -> u32 {
        match self.ipv4_mtu(underlay) {
            mtu if mtu > 0 && !ipv6 => mtu.into(),
            _ => self.device_mtu(underlay),
        }
    }

    /// What it means for packets between hosts if the path is too small for IPv6's minimum MTU inside VXLAN.
    pub fn small(self, underlay: IpAddr) -> Option<String> {
        let (least, whole) = (IPV6_MIN_MTU + overhead(underlay), self.underlay_mtu.saturating_sub(overhead(underlay)));
        let (packets, become_so) = if underlay.is_ipv4() {
            ("packets", "are sent in two fragments each, which is slow")
        } else {
            let becomes =
                "are lost, since packets are not fragmented on an IPv6 underlay, while IPv4 goes on in shorter ones";
            ("IPv6 packets", becomes)
        };
        let reason = format!(
            "{packets} of VPCs of more than {whole} bytes between hosts {become_so}: give the underlay an MTU of {least} or more, or set \
             underlay_mtu if the path carries more than the interface's MTU"
        );
        (self.underlay_mtu < least).then_some(reason)
    }

    /// The same, limited to the path's MTU if that is below the MTU of this host's underlay interface.
    pub(crate) fn limited_to(self, path_mtu: Option<u32>) -> Self {
        Self { underlay_mtu: self.underlay_mtu.min(path_mtu.unwrap_or(u32::MAX)), ..self }
    }
}

/// The minimum MTU of IPv6, in bytes (RFC 8200 section 5): below it a device has no IPv6.
pub(crate) const IPV6_MIN_MTU: u32 = 1280;
/// The IPv4 packet size that every host accepts, in bytes (RFC 791 section 3.1).
const IPV4_LEAST_MTU: u32 = 576;
/// The MTU that is assumed if the underlay address is on no interface, or on one whose MTU says nothing about the path,
/// and until the MTU is known.
pub(crate) const ETHERNET_MTU: u32 = 1500;

/// Outer IP, UDP and VXLAN headers, and the inner Ethernet header, in bytes.
pub(crate) fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 50 } else { 70 }
}

/// The objects that a host with this configuration should have, within a dirty set.
pub fn compile(config: &ValidHostConfig, underlay_params: UnderlayParams, dirty: &DirtySet) -> Desired {
    let mut compiler = Compiler {
        config,
        underlay_params,
        desired: Desired { partial: *dirty != DirtySet::Everything, ..Desired::default() },
        runs: Vec::new(),
    };
    let (vrfs, sides): (Vec<_>, Vec<_>) = match dirty {
        DirtySet::Everything => (config.vrfs.iter().collect(), config.sides.iter().collect()),
        DirtySet::Parts(parts) => (
            parts.vpcs.iter().filter_map(|vpc| config.vrfs.get_key_value(vpc)).collect(),
            parts.sides.iter().filter_map(|vni| config.sides.get_key_value(vni)).collect(),
        ),
    };
    for (_, vrf) in &vrfs {
        compiler.nexthops(DeviceName::vpc(vrf.vni), &vrf.remotes);
    }
    for (vni, side) in &sides {
        compiler.nexthops(DeviceName::peer(**vni), &side.remotes);
    }
    compiler.desired.nexthops.sort_unstable();
    for (vpc, vrf) in vrfs {
        compiler.vrf(vpc, vrf);
    }
    if let DirtySet::Parts(parts) = dirty {
        for (vpc, vrf) in parts.vrfs.iter().filter_map(|vpc| config.vrfs.get_key_value(vpc)) {
            compiler.vrf_device(vpc, vrf);
        }
        for (vpc, vrf) in parts.ports.iter().filter_map(|vpc| config.vrfs.get_key_value(vpc)) {
            compiler.ports(vpc, vrf);
        }
    }
    for (vni, side) in sides {
        compiler.side(*vni, side);
    }
    compiler.finish()
}

struct Compiler<'a> {
    config: &'a SharedHostConfig,
    underlay_params: UnderlayParams,
    desired: Desired,
    runs: Vec<Run>,
}

impl Compiler<'_> {
    /// The other hosts behind a VXLAN device.
    fn nexthops(&mut self, device: InterfaceName, remotes: &Remotes) {
        self.desired.nexthops.extend(remotes.keys().map(|vtep| Nexthop { device, gateway: gateway(*vtep) }));
    }

    fn vrf_device(&mut self, vpc: &VpcId, vrf: &VrfConfig) -> InterfaceName {
        let name = DeviceName::vrf(vrf.vni);
        let device = VrfDevice { table: ownership::table(vrf.vni), alias: format!("cps-peering VRF of {vpc}") };
        self.desired.vrfs.insert(name, device);
        name
    }

    fn ports(&mut self, vpc: &VpcId, vrf: &VrfConfig) {
        let name = self.vrf_device(vpc, vrf);
        // Gateways of peers on this host are routed to their VRF, so they are local there.
        let peers = self.config.sides.values().filter(|side| side.vpc == *vpc);
        let peers = peers.filter_map(|side| self.config.peer_of(side)).map(|(_, peer)| &*self.config.vrfs[&peer.vpc]);
        let local = self.local_addresses(std::iter::once(vrf).chain(peers));
        let scoped = self.config.sides.values().filter(|side| side.vpc == *vpc);
        let scoped: Vec<(&SideConfig, &[IpNet])> =
            scoped.filter_map(|side| Some((&**side, side.own_prefixes.as_deref()?))).collect();
        for (port, settings) in &vrf.ports {
            self.desired.ports.insert(*port, name);
            let mut policy = IngressPolicy::of_port(&settings.prefixes, Arc::clone(&local));
            for (side, own) in &scoped {
                // Prefixes that cannot reach the peer send nothing to it (rule C9).
                if !settings.prefixes.iter().all(|prefix| own.iter().any(|own| within(prefix, own))) {
                    policy = policy.sending(&intersection(&settings.prefixes, own), &side.peer_cidrs);
                }
            }
            self.desired.ingress.insert(*port, policy);
            for gateway in &settings.gateways {
                self.desired.addresses.insert(Address { device: *port, net: *gateway });
            }
        }
    }

    fn vrf(&mut self, vpc: &VpcId, vrf: &Arc<VrfConfig>) {
        self.ports(vpc, vrf);
        let table = ownership::table(vrf.vni);
        // Without these a packet that matches no route of the VRF would fall through to table main.
        for default in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
            self.route(RouteKey::backstop(table, default), RouteTo::Unreachable);
        }
        for (port, settings) in &vrf.ports {
            for prefix in &settings.prefixes {
                self.route(RouteKey::unicast(table, *prefix), RouteTo::Device(*port));
            }
        }
        if !vrf.remotes.is_empty() {
            let device = DeviceName::vpc(vrf.vni);
            let alias = format!("cps-peering {vpc} between hosts");
            self.vxlan(device, vrf.vni, DeviceName::vrf(vrf.vni), vrf.path_mtu, alias);
            self.remotes(device, table, vrf.vni, &vrf.remotes, &Source::Vrf(Arc::clone(vrf)));
            self.desired.senders.insert(vrf.vni, vrf.remotes.keys().copied().collect());
            let policy = IngressPolicy::of_tunnel(vrf.remotes.values().flatten(), self.local_addresses([&**vrf]));
            self.desired.ingress.insert(device, policy);
        }
    }

    fn side(&mut self, vni: Vni, side: &Arc<SideConfig>) {
        let vrf = &self.config.vrfs[&side.vpc];
        let table = ownership::table(vrf.vni);
        let device = DeviceName::peer(vni);
        let alias = format!("cps-peering {} side of {}", side.peering, side.vpc);
        let mtu = self.vxlan(device, vni, DeviceName::vrf(vrf.vni), side.path_mtu, alias);
        self.desired.senders.insert(vni, side.remotes.keys().copied().collect());
        let mut policy = IngressPolicy::of_tunnel(&side.peer_cidrs, self.local_addresses([&**vrf]));
        if let Some(own) = &side.own_prefixes {
            // Also drops what a host of the peer sends that does not know of the change yet (rule C9).
            policy = policy.receiving(own);
        }
        self.desired.ingress.insert(device, policy);
        if let Some(limit) = side.limit {
            let shaper = Shaper::new(limit.bytes_per_second(limit.share), mtu);
            self.desired.shapers.insert(device, shaper);
        }
        for cidr in &side.peer_cidrs {
            self.route(RouteKey::backstop(table, *cidr), RouteTo::Unreachable);
        }
        self.remotes(device, table, side.peer_vni, &side.remotes, &Source::Side(Arc::clone(side)));
        // The peer's ports on this host are reached directly, and only while the peer's side is here too: a single side
        // must not route into a VRF that has no route back.
        let Some((_, peer)) = self.config.peer_of(side) else { return };
        let peer = &self.config.vrfs[&peer.vpc];
        for (port, settings) in &peer.ports {
            // No server behind the port answers for the gateway address: packets to it are routed to the peer's VRF,
            // where it is local.
            let gateways = settings.gateways.iter().map(|gateway| IpNet::from(gateway.addr()));
            let gateways: BTreeSet<IpNet> =
                gateways.filter(|gateway| side.peer_cidrs.iter().any(|cidr| within(gateway, cidr))).collect();
            let reached = match side.own_prefixes {
                Some(_) => intersection(&settings.prefixes, &side.peer_cidrs),
                None => settings.prefixes.clone(),
            };
            // Out of the port they would go as broadcasts: to all of the peer's servers at once (RFC 2644). A host
            // where the port is not refuses them by itself.
            for broadcast in broadcasts(&settings.gateways).filter(|it| reached.iter().any(|net| net.contains(it))) {
                self.route(RouteKey::backstop(table, broadcast), RouteTo::Unreachable);
            }
            for prefix in reached.into_iter().filter(|prefix| !gateways.contains(prefix)) {
                self.route(RouteKey::unicast(table, prefix), RouteTo::Device(*port));
            }
            for gateway in gateways {
                self.route(RouteKey::unicast(table, gateway), RouteTo::Device(DeviceName::vrf(peer.vni)));
            }
        }
    }

    /// Adds a device towards hosts whose underlay has this MTU. Returns the device's own MTU.
    fn vxlan(
        &mut self,
        name: InterfaceName,
        vni: Vni,
        vrf: InterfaceName,
        path_mtu: Option<u32>,
        alias: String,
    ) -> u32 {
        let (underlay, params) = (self.config.underlay, self.underlay_params.limited_to(path_mtu));
        let (mtu, ipv4_mtu) = (params.device_mtu(underlay), params.ipv4_mtu(underlay));
        let tunnel = Tunnel { vni, port: self.underlay_params.vxlan_port, local: underlay };
        self.desired.vxlans.insert(name, VxlanDevice { tunnel, mac: mac(underlay), mtu, ipv4_mtu, vrf, alias });
        mtu
    }

    /// Adds the remote hosts behind a VXLAN device, which expect packets with VNI `vni`.
    fn remotes(&mut self, device: InterfaceName, table: u32, vni: Vni, remotes: &Remotes, source: &Source) {
        for vtep in remotes.keys() {
            let (mac, gateway) = (mac(*vtep), gateway(*vtep));
            self.desired.neighbours.insert(NeighbourKey { device, address: gateway }, mac);
            self.desired.fdb.insert(FdbKey { device, mac }, FdbTarget { vtep: *vtep, vni });
            let place = self.desired.nexthops.binary_search(&Nexthop { device, gateway });
            let place = place.expect("every next hop was collected first");
            let nexthop = u32::try_from(place).expect("there are fewer next hops than ids for them");
            self.runs.push(Run { table, nexthop, source: source.clone(), vtep: *vtep });
        }
    }

    /// Adds the local destinations of some VRFs.
    fn local_addresses<'b>(&self, vrfs: impl IntoIterator<Item = &'b VrfConfig>) -> Arc<LocalAddresses> {
        let gateways = vrfs.into_iter().flat_map(|vrf| vrf.ports.values()).flat_map(|port| &port.gateways);
        Arc::new(LocalAddresses::new(gateways, self.config.underlay, self.underlay_params.vxlan_port))
    }

    fn route(&mut self, key: RouteKey, to: RouteTo) {
        self.desired.local.push(DesiredRoute { key, to });
    }

    fn finish(mut self) -> Desired {
        self.desired.remote = Remote::new(self.runs);
        let local = &mut self.desired.local;
        local.sort();
        // Duplicate keys remain only if a VPC's CIDR is 0.0.0.0/0 or ::/0: its peer's default route is the same.
        local.dedup_by_key(|route| route.key);
        self.desired
    }
}

/// The broadcast addresses of the gateways' subnets (RFC 3021: those of two addresses have none).
fn broadcasts(gateways: &[IpNet]) -> impl Iterator<Item = IpNet> {
    gateways.iter().filter_map(|gateway| match gateway {
        IpNet::V4(net) if net.prefix_len() < 31 => Some(IpNet::from(IpAddr::from(net.broadcast()))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    const SURROUNDINGS: UnderlayParams = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };

    /// VPCs a and b, both on this host and on another, peered.
    fn config() -> HostConfig {
        let text = r#"{
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
            "vrfs": {
                "vpc-a": { "vni": 10, "ports": { "eth1": { "gateways": ["10.1.0.1/24", "fd00:1::1/64"],
                                                           "prefixes": ["10.1.0.0/24", "fd00:1::/64"] } } },
                "vpc-b": { "vni": 11, "ports": { "eth2": { "gateways": ["10.2.0.1/24"], "prefixes": ["10.2.0.0/24"] } },
                           "remotes": { "192.0.2.2": ["10.2.1.0/24"] } }
            },
            "sides": {
                "1001": { "peering": "p", "vpc": "vpc-a", "peer_vni": 1002, "peer_cidrs": ["10.2.0.0/16"],
                          "remotes": { "192.0.2.2": ["10.2.1.0/24"] } },
                "1002": { "peering": "p", "vpc": "vpc-b", "peer_vni": 1001, "peer_cidrs": ["10.1.0.0/16", "fd00:1::/48"] }
            }
        }"#;
        serde_json::from_str(text).unwrap()
    }

    fn desired(config: HostConfig) -> Desired {
        compile(&config.try_into().unwrap(), SURROUNDINGS, &DirtySet::Everything)
    }

    #[test]
    fn an_underlay_too_small_for_ipv6_is_reported_and_devices_keep_ipv6() {
        for (underlay, least) in [("192.0.2.1", 1330), ("2001:db8::1", 1350)] {
            let underlay = underlay.parse().unwrap();
            let with = |mtu| UnderlayParams { underlay_mtu: mtu, ..SURROUNDINGS };
            assert!(with(least - 1).small(underlay).is_some_and(|said| said.contains("more than 1279 bytes")));
            assert_eq!(with(least).small(underlay), None);
            for (mtu, path, device) in [
                (least + 1, None, 1281),
                (least, None, 1280),
                (least - 1, None, 1280),
                (0, None, 1280),
                (9000, Some(least + 1), 1281),
                (9000, Some(0), 1280),
                (least + 1, Some(u32::MAX), 1281),
            ] {
                assert_eq!(with(mtu).limited_to(path).device_mtu(underlay), device, "{mtu} {path:?}");
            }
            let shorter = [least, least - 1, 1300, 0].map(|mtu| with(mtu).ipv4_mtu(underlay));
            assert_eq!(shorter, if underlay.is_ipv4() { [0; 4] } else { [0, 1279, 1230, 576] });
            let longest = [false, true].map(|ipv6| with(1300).longest_packet(underlay, ipv6));
            assert_eq!(longest, if underlay.is_ipv4() { [1280; 2] } else { [1230, 1280] });
            let said = with(1300).small(underlay).unwrap();
            assert_eq!(said.contains("IPv4 goes on"), underlay.is_ipv6(), "{said}");
        }
    }

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    /// Where a packet of a VPC goes.
    fn to(desired: &Desired, vni: u32, prefix: &str) -> Option<String> {
        let table = ownership::table(vni.try_into().unwrap());
        let route = desired.routes().find(|it| it.key.table == table && it.key.prefix == prefix.parse().unwrap())?;
        Some(match route.to {
            RouteTo::Unreachable => "unreachable".to_owned(),
            RouteTo::Device(port) => port.to_string(),
            RouteTo::Nexthop(place) => {
                let nexthop = desired.nexthops[place as usize];
                format!("{} via {}", nexthop.device, nexthop.gateway)
            }
        })
    }

    #[test]
    fn every_destination_leads_where_it_should() {
        let desired = desired(config());
        let leads = |vni, prefix| to(&desired, vni, prefix);
        assert_eq!(leads(10, "10.1.0.0/24").unwrap(), "eth1");
        assert_eq!(leads(10, "fd00:1::/64").unwrap(), "eth1");
        assert_eq!(leads(10, "10.2.0.0/24").unwrap(), "eth2", "a peer on the same host is reached directly");
        assert_eq!(leads(10, "10.2.0.1/32").unwrap(), "cpsvrf11", "its gateway is the host's own, in the peer's VRF");
        assert_eq!(leads(11, "10.1.0.1/32").unwrap(), "cpsvrf10");
        assert_eq!(leads(10, "10.2.0.255/32").unwrap(), "unreachable", "a peer's servers get no broadcasts");
        assert_eq!(leads(11, "10.2.0.255/32"), None, "the VPC's own is the kernel's");
        assert_eq!(leads(11, "fd00:1::1/128").unwrap(), "cpsvrf10");
        assert_eq!(leads(10, "10.2.1.0/24").unwrap(), "cpspeer1001 via fe80::200:c000:202");
        assert_eq!(leads(10, "10.2.0.0/16").unwrap(), "unreachable");
        assert_eq!(leads(11, "10.2.1.0/24").unwrap(), "cpsvpc11 via fe80::200:c000:202", "the VPC spans hosts");
        assert_eq!(leads(11, "fd00:1::/64").unwrap(), "eth1");
        assert_eq!(leads(11, "fd00:1::/48").unwrap(), "unreachable");
        for vni in [10, 11] {
            assert_eq!(
                (leads(vni, "0.0.0.0/0").unwrap(), leads(vni, "::/0").unwrap()),
                ("unreachable".into(), "unreachable".into())
            );
        }
    }

    /// C9: on one host, only what both sides join is routed, and the rest is dropped where it enters.
    #[test]
    fn a_partial_peering_routes_accepts_and_sends_only_what_it_joins() {
        let mut config = config();
        let part = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        for (vni, own, peer) in [
            (1001, &["10.1.0.0/25"][..], &["10.2.0.0/25", "10.2.1.0/24"][..]),
            (1002, &["10.2.0.0/25", "10.2.1.0/24"], &["10.1.0.0/25"]),
        ] {
            let side = config.sides.get_mut(&Vni::try_from(vni).unwrap()).unwrap();
            (side.own_prefixes, side.peer_cidrs) = (Some(part(own)), part(peer));
        }
        let desired = desired(config);
        let leads = |vni, prefix| to(&desired, vni, prefix);
        assert_eq!(leads(10, "10.2.0.0/25").unwrap(), "eth2");
        assert_eq!(leads(10, "10.2.0.1/32").unwrap(), "cpsvrf11");
        assert_eq!((leads(10, "10.2.0.0/24"), leads(10, "10.2.0.0/16"), leads(11, "10.1.0.0/24")), (None, None, None));
        assert_eq!((leads(11, "fd00:1::/64"), leads(11, "fd00:1::1/128")), (None, None), "no IPv6 is joined");
        let rejecting = |device: &str| desired.ingress[&name(device)].rejecting().len();
        // Ports reject in the family that leads to the peer, tunnels in both.
        assert_eq!((rejecting("eth1"), rejecting("eth2")), (1, 1));
        assert_eq!((rejecting("cpspeer1001"), rejecting("cpspeer1002")), (2, 2));
        assert_eq!(rejecting("cpsvpc11"), 0);
    }

    #[test]
    fn a_side_sends_with_the_peers_vni_and_receives_with_its_own() {
        let desired = desired(config());
        let device = name("cpspeer1001");
        assert_eq!(desired.vxlans[&device].tunnel.vni.get(), 1001);
        let fdb = desired.fdb[&FdbKey { device, mac: mac("192.0.2.2".parse().unwrap()) }];
        assert_eq!((fdb.vni.get(), fdb.vtep.to_string()), (1002, "192.0.2.2".to_owned()));
        let within = desired.fdb[&FdbKey { device: name("cpsvpc11"), mac: mac("192.0.2.2".parse().unwrap()) }];
        assert_eq!(within.vni.get(), 11);
        assert!(!desired.vxlans.contains_key(&name("cpsvpc10")), "a VPC on one host alone needs no tunnel");
    }

    #[test]
    fn a_side_without_its_peer_routes_into_no_other_vrf() {
        let mut config = config();
        config.sides.remove(&Vni::try_from(1002).unwrap());
        let desired = desired(config);
        assert_eq!(to(&desired, 10, "10.2.0.0/24"), None);
        assert_eq!(to(&desired, 11, "10.1.0.0/24"), None);
    }

    #[test]
    fn sources_are_those_behind_the_device() {
        let desired = desired(config());
        let sources = |device: &str| -> Vec<String> {
            let policy = &desired.ingress[&name(device)];
            let four = policy.ipv4().iter().map(ToString::to_string);
            four.chain(policy.ipv6().iter().map(ToString::to_string)).collect()
        };
        assert_eq!(sources("eth1"), ["10.1.0.0/24", "fd00:1::/64"]);
        assert_eq!(sources("cpspeer1002"), ["10.1.0.0/16", "fd00:1::/48"]);
        assert_eq!(sources("cpspeer1001"), ["10.2.0.0/16"], "the peer has no IPv6: nothing may come from it");
    }

    #[test]
    fn host_addresses_derive_from_the_vtep() {
        let addresses = |vtep: &str| {
            let vtep = vtep.parse().unwrap();
            (mac(vtep).to_string(), gateway(vtep).to_string())
        };
        assert_eq!(addresses("192.0.2.1"), ("02:00:c0:00:02:01".into(), "fe80::200:c000:201".into()));
        assert_eq!(addresses("2001:db8::1:2"), ("02:06:00:01:00:02".into(), "fe80::206:1:2".into()));
        assert_eq!(SURROUNDINGS.device_mtu("192.0.2.1".parse().unwrap()), 1450);
        assert_eq!(SURROUNDINGS.device_mtu("2001:db8::1".parse().unwrap()), 1430);
    }
}
