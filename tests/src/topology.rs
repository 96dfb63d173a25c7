//! Inventories written in Rust, as short as a test needs them.

use cps_peering_config::inventory::{Host, Inventory, Peering, Port, Region, Vpc};
use std::fmt;

/// The account that owns the VPCs of a [`Topology`], unless it says otherwise.
pub const ACCOUNT: &str = "acme";

/// The TCP port of the agents.
pub const AGENT_PORT: u16 = 7401;

/// Builds an [`Inventory`], one call per entry. Invalid texts panic: they are mistakes of the test.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    inventory: Inventory,
}

impl Topology {
    /// Nothing yet.
    pub fn new() -> Topology {
        Topology::default()
    }

    /// Adds a host, and its region if that is new.
    #[must_use]
    pub fn host(mut self, id: &str, region: &str, underlay: &str) -> Topology {
        if !self.inventory.regions.iter().any(|known| known.id.as_str() == region) {
            self.inventory.regions.push(Region { id: legal(region) });
        }
        let literal = if underlay.contains(':') { format!("[{underlay}]") } else { underlay.to_owned() };
        self.inventory.hosts.push(Host {
            id: legal(id),
            region: legal(region),
            underlay: legal(underlay),
            agent: format!("https://{literal}:{AGENT_PORT}"),
            maintenance: false,
        });
        self
    }

    /// Adds a VPC.
    #[must_use]
    pub fn vpc(mut self, id: &str, region: &str, cidrs: &[&str]) -> Topology {
        self.inventory.vpcs.push(Vpc {
            id: legal(id),
            name: None,
            account: legal(ACCOUNT),
            region: legal(region),
            cidrs: cidrs.iter().map(|cidr| legal(cidr)).collect(),
        });
        self
    }

    /// Sets the owner of the last VPC.
    #[must_use]
    pub fn owned_by(mut self, account: &str) -> Topology {
        self.inventory.vpcs.last_mut().expect("a VPC comes first").account = legal(account);
        self
    }

    /// Adds a port that serves the networks of its gateways.
    #[must_use]
    pub fn port(mut self, vpc: &str, host: &str, interface: &str, gateways: &[&str]) -> Topology {
        self.inventory.ports.push(Port {
            vpc: legal(vpc),
            host: legal(host),
            interface: legal(interface),
            gateways: gateways.iter().map(|gateway| legal(gateway)).collect(),
            prefixes: None,
        });
        self
    }

    /// Sets what is behind the last port.
    #[must_use]
    pub fn serving(mut self, prefixes: &[&str]) -> Topology {
        let port = self.inventory.ports.last_mut().expect("a port comes first");
        port.prefixes = Some(prefixes.iter().map(|prefix| legal(prefix)).collect());
        self
    }

    /// Adds a peering.
    #[must_use]
    pub fn peering(mut self, vpc: &str, peer_vpc: &str) -> Topology {
        self.inventory.peerings.push(Peering {
            name: format!("{vpc}-{peer_vpc}"),
            vpc: legal(vpc),
            peer_vpc: legal(peer_vpc),
            bandwidth: None,
            export_prefixes: None,
            import_prefixes: None,
            peer_export_prefixes: None,
            peer_import_prefixes: None,
        });
        self
    }

    /// Limits the last peering, which is one between regions, to this many Mbit/s.
    #[must_use]
    pub fn limited(mut self, mbit: u32) -> Topology {
        let peering = self.inventory.peerings.last_mut().expect("a peering comes first");
        peering.bandwidth = Some(mbit);
        self
    }

    /// The inventory.
    pub fn build(self) -> Inventory {
        self.inventory
    }
}

impl From<Topology> for Inventory {
    fn from(topology: Topology) -> Inventory {
        topology.build()
    }
}

fn legal<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text:?} in a topology: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn is_what_it_would_be_in_toml() {
        let built = Topology::new()
            .host("h1", "north", "192.0.2.1")
            .host("h2", "north", "2001:db8::2")
            .vpc("vpc-a", "north", &["10.1.0.0/16"])
            .port("vpc-a", "h1", "eth1", &["10.1.0.1/24"])
            .serving(&["10.1.0.0/25"])
            .peering("vpc-a", "vpc-b")
            .build();
        let read: Inventory = toml::from_str(
            r#"
            regions = [{ id = "north" }]
            hosts = [
              { id = "h1", region = "north", underlay = "192.0.2.1", agent = "https://192.0.2.1:7401" },
              { id = "h2", region = "north", underlay = "2001:db8::2", agent = "https://[2001:db8::2]:7401" },
            ]
            vpcs = [{ id = "vpc-a", account = "acme", region = "north", cidrs = ["10.1.0.0/16"] }]
            ports = [
              { vpc = "vpc-a", host = "h1", interface = "eth1", gateways = ["10.1.0.1/24"], prefixes = ["10.1.0.0/25"] },
            ]
            peerings = [{ name = "vpc-a-vpc-b", vpc = "vpc-a", peer_vpc = "vpc-b" }]
            "#,
        )
        .unwrap();
        assert_eq!(built, read);
    }

    #[test]
    fn the_topologies_in_files_are_legal() {
        for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/topologies")).unwrap() {
            let path = entry.unwrap().path();
            let inventory: Inventory = toml::from_str(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(!inventory.ports.is_empty(), "{}", path.display());
        }
    }
}
