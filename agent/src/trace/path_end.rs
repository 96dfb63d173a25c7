//! One end of a path according to the configuration, by the names of devices. Pure.

use crate::ownership::{self, DeviceName};
use cps_peering_config::{
    SharedHostConfig,
    host_config::{Ports, Remotes, VrfConfig},
    naming::{gateway, mac},
    net::{InterfaceName, Mac, Vni},
    trace::PathEndpoints,
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

/// One end of a path according to the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathEnd {
    /// The port of the own address.
    pub port: InterfaceName,
    /// Whether the own address is the gateway itself.
    pub is_gateway: bool,
    /// The VRF.
    pub vrf: InterfaceName,
    /// Its table.
    pub table: u32,
    /// How packets leave for the other address.
    pub exit: Exit,
}

/// How packets leave for the other address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Not at all: it is an address of the host in the same VRF.
    Host {
        /// The port whose gateway it is.
        port: InterfaceName,
    },
    /// Directly through a device of the same host.
    Device {
        /// The port, or for a gateway of another VPC its VRF.
        device: InterfaceName,
        /// The VRF that it belongs to.
        vrf: InterfaceName,
        /// The port with the other address.
        port: InterfaceName,
    },
    /// Through a tunnel to another host.
    Tunnel(Tunnel),
}

/// The tunnel to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The VXLAN device.
    pub device: InterfaceName,
    /// The VNI of what arrives on it.
    pub vni: Vni,
    /// The other host.
    pub vtep: IpAddr,
    /// The next hop that stands for it.
    pub gateway: Ipv6Addr,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl PathEnd {
    /// Finds the objects of a query, or returns what the host's configuration does not have.
    pub fn of(config: &SharedHostConfig, query: &PathEndpoints) -> Result<Self, String> {
        let PathEndpoints { vpc, peer_vpc, local, remote, .. } = query;
        let vrf = config.vrfs.get(vpc).ok_or_else(|| format!("the host's configuration has no ports of VPC {vpc}"))?;
        let side = match query.side {
            None => None,
            Some(vni) => {
                let side = config.sides.get(&vni).filter(|side| side.vpc == *vpc);
                Some((vni, side.ok_or_else(|| format!("the host's configuration has no such peering (side {vni})"))?))
            }
        };
        let (port, is_gateway) = port_of(&vrf.ports, *local, None)
            .ok_or_else(|| format!("the host's configuration has no port of VPC {vpc} with {local} behind it"))?;
        let exit = if let Some(vtep) = query.remote_vtep {
            let remotes = side.map_or(&vrf.remotes, |(_, side)| &side.remotes);
            if !leads(remotes, vtep, *remote) {
                return Err(format!("the host's configuration does not have {remote} behind {vtep}"));
            }
            let (device, vni) = match side {
                Some((vni, _)) => (DeviceName::peer(vni), vni),
                None => (DeviceName::vpc(vrf.vni), vrf.vni),
            };
            Exit::Tunnel(Tunnel { device, vni, vtep, gateway: gateway(vtep), mac: mac(vtep) })
        } else {
            if side.is_some_and(|(_, side)| config.peer_of(side).is_none()) {
                return Err("the host's configuration does not have the other side of this peering".to_owned());
            }
            let peer = config.vrfs.get(peer_vpc);
            let peer = peer.ok_or_else(|| format!("the host's configuration has no ports of VPC {peer_vpc}"))?;
            let (far, remote_is_gateway) = port_of(&peer.ports, *remote, Some(port)).ok_or_else(|| {
                format!("the host's configuration has no port of VPC {peer_vpc} with {remote} behind it")
            })?;
            // A gateway is local in the VRF of its VPC.
            let vrf = DeviceName::vrf(peer.vni);
            match remote_is_gateway {
                true if peer_vpc == vpc => Exit::Host { port: far },
                true => Exit::Device { device: vrf, vrf, port: far },
                false => Exit::Device { device: far, vrf, port: far },
            }
        };
        Ok(Self { port, is_gateway, vrf: DeviceName::vrf(vrf.vni), table: ownership::table(vrf.vni), exit })
    }

    /// The tunnel, if the other address is on another host.
    pub fn tunnel(&self) -> Option<Tunnel> {
        match self.exit {
            Exit::Tunnel(tunnel) => Some(tunnel),
            Exit::Host { .. } | Exit::Device { .. } => None,
        }
    }

    /// The devices of VPCs on the path at this end.
    pub fn devices(&self) -> BTreeSet<InterfaceName> {
        let exit = match self.exit {
            Exit::Host { port } => vec![port],
            Exit::Device { device, vrf, port } => vec![device, vrf, port],
            Exit::Tunnel(tunnel) => vec![tunnel.device],
        };
        [self.port, self.vrf].into_iter().chain(exit).collect()
    }
}

/// The prefixes of a VPC that contain one of two addresses.
pub(super) fn prefixes(vrf: &VrfConfig, addresses: [IpAddr; 2]) -> BTreeSet<IpNet> {
    let ports = vrf.ports.values().flat_map(|port| &port.prefixes);
    let all = ports.chain(vrf.remotes.values().flatten());
    all.filter(|prefix| addresses.iter().any(|address| prefix.contains(address))).copied().collect()
}

/// The port of an address, and whether the address is its gateway. Several ports may have the same gateway: `preferred`
/// then comes first.
fn port_of(ports: &Ports, address: IpAddr, preferred: Option<InterfaceName>) -> Option<(InterfaceName, bool)> {
    let has_gateway = |port: &InterfaceName| {
        ports.get(port).is_some_and(|port| port.gateways.iter().any(|gateway| gateway.addr() == address))
    };
    let gateway = preferred.into_iter().chain(ports.keys().copied()).find(has_gateway);
    let longest = |port: &InterfaceName| {
        let covering = ports[port].prefixes.iter().filter(|prefix| prefix.contains(&address));
        covering.map(IpNet::prefix_len).max()
    };
    let behind = || ports.keys().copied().filter(|port| longest(port).is_some()).max_by_key(longest);
    gateway.map(|name| (name, true)).or_else(|| behind().map(|name| (name, false)))
}

fn leads(remotes: &Remotes, vtep: IpAddr, to: IpAddr) -> bool {
    remotes.get(&vtep).is_some_and(|prefixes| prefixes.iter().any(|prefix| prefix.contains(&to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    fn config() -> SharedHostConfig {
        let text = r#"{
            "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
            "vrfs": {
                "vpc-a": { "vni": 10, "ports": { "eth1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] } } },
                "vpc-b": { "vni": 11, "ports": { "eth2": { "gateways": ["10.2.0.1/24"], "prefixes": ["10.2.0.0/24"] } },
                           "remotes": { "192.0.2.2": ["10.2.1.0/24"] } }
            },
            "sides": {
                "1001": { "peering": "p", "vpc": "vpc-a", "peer_vni": 1002, "peer_cidrs": ["10.2.0.0/16"],
                          "remotes": { "192.0.2.2": ["10.2.1.0/24"] } },
                "1002": { "peering": "p", "vpc": "vpc-b", "peer_vni": 1001, "peer_cidrs": ["10.1.0.0/16"] }
            }
        }"#;
        serde_json::from_str::<HostConfig>(text).unwrap().into()
    }

    fn query(vpc: &str, local: &str, peer: &str, remote: &str, side: Option<u32>, vtep: Option<&str>) -> PathEndpoints {
        PathEndpoints {
            vpc: vpc.parse().unwrap(),
            local: local.parse().unwrap(),
            peer_vpc: peer.parse().unwrap(),
            remote: remote.parse().unwrap(),
            side: side.map(|vni| vni.try_into().unwrap()),
            remote_vtep: vtep.map(|vtep| vtep.parse().unwrap()),
        }
    }

    #[test]
    fn what_a_path_meets_follows_from_the_configuration() {
        let config = config();
        let out = |query: &PathEndpoints| match PathEnd::of(&config, query).unwrap().exit {
            Exit::Host { .. } => "local".to_owned(),
            Exit::Device { device, .. } => device.to_string(),
            Exit::Tunnel(tunnel) => format!("{} {}", tunnel.device, tunnel.gateway),
        };
        let far = query("vpc-a", "10.1.0.5", "vpc-b", "10.2.1.5", Some(1001), Some("192.0.2.2"));
        assert_eq!(out(&far), "cpspeer1001 fe80::200:c000:202");
        assert_eq!(out(&query("vpc-a", "10.1.0.5", "vpc-b", "10.2.0.5", Some(1001), None)), "eth2");
        assert_eq!(out(&query("vpc-a", "10.1.0.5", "vpc-b", "10.2.0.1", Some(1001), None)), "cpsvrf11");
        let within = query("vpc-b", "10.2.0.5", "vpc-b", "10.2.1.5", None, Some("192.0.2.2"));
        assert_eq!(out(&within), "cpsvpc11 fe80::200:c000:202");
        let own_gateway = query("vpc-a", "10.1.0.5", "vpc-a", "10.1.0.1", None, None);
        assert_eq!(out(&own_gateway), "local", "the gateway of a port of the same VPC");
        let devices =
            |query| PathEnd::of(&config, query).unwrap().devices().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(devices(&far), ["cpspeer1001", "cpsvrf10", "eth1"], "not the peer's, which is here, too");
        assert_eq!(devices(&within), ["cpsvpc11", "cpsvrf11", "eth2"]);
        let end = PathEnd::of(&config, &query("vpc-a", "10.1.0.1", "vpc-b", "10.2.0.5", Some(1001), None)).unwrap();
        assert!(end.is_gateway && end.port.as_str() == "eth1");
    }

    #[test]
    fn of_several_ports_the_closest_one_is_meant() {
        let text = r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1", "vrfs": { "vpc-a": { "vni": 10, "ports": {
            "eth1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/16"] },
            "eth2": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.7.0/24"] } } } } }"#;
        let config: SharedHostConfig = serde_json::from_str::<HostConfig>(text).unwrap().into();
        let ports = &config.vrfs["vpc-a"].ports;
        let [eth1, eth2]: [InterfaceName; 2] = ["eth1", "eth2"].map(|name| name.parse().unwrap());
        let gateway = "10.1.0.1".parse().unwrap();
        assert_eq!(port_of(ports, gateway, None), Some((eth1, true)));
        assert_eq!(port_of(ports, gateway, Some(eth2)), Some((eth2, true)));
        assert_eq!(port_of(ports, "10.1.7.5".parse().unwrap(), Some(eth1)), Some((eth2, false)));
        assert_eq!(port_of(ports, "10.1.8.5".parse().unwrap(), Some(eth2)), Some((eth1, false)));
        assert_eq!(port_of(ports, "10.9.8.5".parse().unwrap(), Some(eth2)), None);
    }

    #[test]
    fn what_the_configuration_does_not_have_is_named() {
        let config = config();
        let said = |query: PathEndpoints| PathEnd::of(&config, &query).unwrap_err();
        let no_vpc = said(query("vpc-c", "10.1.0.5", "vpc-b", "10.2.0.5", Some(1001), None));
        assert!(no_vpc.contains("VPC vpc-c"), "{no_vpc}");
        let no_side = said(query("vpc-a", "10.1.0.5", "vpc-b", "10.2.0.5", Some(1003), None));
        assert!(no_side.contains("side 1003"), "{no_side}");
        let no_port = said(query("vpc-a", "10.9.0.5", "vpc-b", "10.2.0.5", Some(1001), None));
        assert!(no_port.contains("10.9.0.5"), "{no_port}");
        let elsewhere = said(query("vpc-a", "10.1.0.5", "vpc-b", "10.2.1.5", Some(1001), Some("192.0.2.3")));
        assert!(elsewhere.contains("192.0.2.3"), "{elsewhere}");
        let no_remote = said(query("vpc-a", "10.1.0.5", "vpc-b", "10.2.7.5", Some(1001), None));
        assert!(no_remote.contains("10.2.7.5"), "{no_remote}");
    }
}
