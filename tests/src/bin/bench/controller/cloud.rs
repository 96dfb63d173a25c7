//! The cloud that the controller has to manage, in a store as it is after some time of operation.
//!
//! For each host there are ten VPCs, ten peerings and a hundred prefixes, in two regions. Most VPCs have ports on two
//! hosts and two peerings, to VPCs on other hosts; one in fifty has one port, and half of these a peering to the other
//! region. In addition there are VPCs that are peered and unpeered during the measurement: pairs on two hosts, and wide
//! ones.

use anyhow::{Context, Result, ensure};
use cps_peering_config::inventory::{Host, Inventory, Peering, Port, Region, Vpc};
use cps_peering_controller::{
    engine::{Engine, Options, Pushes},
    model::{Actor, Command, Request, inventory::Apply},
    store::Store,
};
use std::{net::Ipv4Addr, path::Path, time::Duration};

/// VPCs and peerings per host.
const PER_HOST: usize = 10;
/// Prefixes per VPC.
const PREFIXES: usize = 10;
/// One VPC in this many is on a single host.
const ALONE: usize = 50;
/// How many entries are applied per request.
const PIECE: usize = 20_000;
/// VPCs per account.
const PER_ACCOUNT: usize = 20;
/// Where agents listen.
pub(crate) const AGENT_PORT: u16 = 17401;
/// How many pairs of VPCs are peered and unpeered concurrently.
pub(crate) const PAIRS: usize = 64;

/// Its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) hosts: usize,
}

/// The resulting numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) vpcs: usize,
    pub(crate) peerings: usize,
    pub(crate) prefixes: usize,
}

fn region(number: usize) -> &'static str {
    ["north", "east"][number]
}

/// The loopback address on which a host's agent listens.
pub(crate) fn agent_address(host: usize) -> Ipv4Addr {
    let [_, high, middle, low] = u32::try_from(host + 1).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(127, high + 1, middle, low)
}

/// The host whose agent listens there.
pub(crate) fn host_at(address: Ipv4Addr) -> Option<usize> {
    let [_, high, middle, low] = address.octets();
    let number = u32::from_be_bytes([0, high.checked_sub(1)?, middle, low]).checked_sub(1)?;
    usize::try_from(number).ok()
}

impl Size {
    fn vpcs(self) -> usize {
        self.hosts * PER_HOST
    }

    /// The hosts of a region, round robin.
    fn host(self, of_region: usize, nth: usize) -> String {
        let half = self.hosts / 2;
        format!("h{}", of_region * half + nth % half)
    }

    fn region_of(self, vpc: usize) -> usize {
        vpc * 2 / self.vpcs()
    }

    /// The second octet of a VPC's addresses: neighbours in a region have different ones, and so do peers across
    /// regions.
    fn block(self, vpc: usize) -> usize {
        (vpc % (self.vpcs() / 2) + 100 * self.region_of(vpc)) % 250
    }

    /// Pairs of VPCs that touch this many hosts, as far as there are that many.
    pub(crate) fn wide(self) -> Vec<(usize, usize)> {
        [2, 100, 1000].into_iter().map(|width| (width, width.min(self.hosts / 2))).collect()
    }

    /// One VPC of the crowd with its ports.
    fn vpc(self, number: usize) -> Result<(Vpc, Vec<Port>)> {
        let (here, block) = (self.region_of(number), self.block(number));
        let id = format!("v{number}");
        let vpc = vpc(&id, number / PER_ACCOUNT, here, block)?;
        let own = |nth: usize, networks| {
            port(&id, &self.host(here, 2 * number + nth), &format!("e{number}"), block, networks)
        };
        let ports = if number % ALONE == ALONE - 1 {
            vec![own(0, 0..PREFIXES)?]
        } else {
            vec![own(0, 0..PREFIXES / 2)?, own(1, PREFIXES / 2..PREFIXES)?]
        };
        Ok((vpc, ports))
    }

    /// The peerings that a VPC of the crowd initiates.
    fn peerings(self, number: usize) -> Result<Vec<Peering>> {
        let half = self.vpcs() / 2;
        let peering = |to: usize, bandwidth| -> Result<Peering> {
            let (vpc, peer_vpc) = (format!("v{number}").parse()?, format!("v{to}").parse()?);
            Ok(Peering {
                name: format!("p{number}-{to}"),
                vpc,
                peer_vpc,
                bandwidth,
                export_prefixes: None,
                import_prefixes: None,
                peer_export_prefixes: None,
                peer_import_prefixes: None,
            })
        };
        let mut peerings = Vec::new();
        if number % ALONE == ALONE - 1 {
            if number < half {
                peerings.push(peering(number + half, Some(100))?);
            }
        } else {
            peerings.push(peering(number + 1, None)?);
        }
        if number % (2 * ALONE) == 10 || number % (2 * ALONE) == 20 {
            peerings.push(peering(number + 2, None)?);
        }
        Ok(peerings)
    }

    /// What is peered and unpeered.
    fn extras(self) -> Result<Inventory> {
        let mut extras = Inventory::default();
        let mut pair = |name: &str, hosts: [Vec<String>; 2]| -> Result<()> {
            for (side, hosts) in hosts.into_iter().enumerate() {
                let id = format!("{name}-{}", ["a", "b"][side]);
                let mut made = vpc(&id, 0, 0, 252 + side)?;
                made.account = format!("extra-{name}").parse()?;
                extras.vpcs.push(made);
                for (nth, host) in hosts.into_iter().enumerate() {
                    extras.ports.push(port(&id, &host, &format!("x{name}"), 252 + side, nth..nth + 1)?);
                }
            }
            Ok(())
        };
        for number in 0..PAIRS {
            pair(&format!("p{number}"), [vec![self.host(0, 2 * number)], vec![self.host(0, 2 * number + 1)]])?;
        }
        for (width, hosts) in self.wide() {
            let host = |nth: usize| self.host(0, nth);
            pair(&format!("w{width}"), [(0..hosts / 2).map(host).collect(), (hosts / 2..hosts).map(host).collect()])?;
        }
        Ok(extras)
    }
}

/// A port with this many networks of a block of addresses.
fn port(vpc: &str, host: &str, interface: &str, block: usize, networks: std::ops::Range<usize>) -> Result<Port> {
    let network = |n: usize| format!("10.{block}.{}.{}/28", n / 16, n % 16 * 16).parse().context("a prefix");
    let first = networks.start;
    Ok(Port {
        vpc: vpc.parse()?,
        host: host.parse()?,
        interface: interface.parse()?,
        gateways: vec![format!("10.{block}.{}.{}/28", first / 16, first % 16 * 16 + 1).parse()?],
        prefixes: Some(networks.map(network).collect::<Result<_>>()?),
    })
}

fn vpc(id: &str, account: usize, of_region: usize, block: usize) -> Result<Vpc> {
    Ok(Vpc {
        id: id.parse()?,
        name: None,
        account: format!("account-{account}").parse()?,
        region: region(of_region).parse()?,
        cidrs: vec![format!("10.{block}.0.0/16").parse()?],
    })
}

/// Creates a store with all of it, in which every peering of the crowd is active.
pub(crate) fn build(size: Size, path: &Path) -> Result<Counts> {
    ensure!(size.hosts >= 20 && size.hosts.is_multiple_of(20), "--hosts: {} is not a multiple of 20", size.hosts);
    // No agent is there to confirm.
    let pushes = Pushes { canary_hosts: 0, ..Pushes::default() };
    let options = Options { grace: Duration::ZERO, pushes, ..Options::default() };
    let (engine, _hosts) = Engine::open(Store::open(path)?, options)?;
    let apply = |inventory: Inventory| -> Result<()> {
        engine.execute(&Request::new(Actor::Operator, Command::Apply(Apply::of(inventory))))?;
        Ok(())
    };
    let regions = (0..2).map(|it| Ok(Region { id: region(it).parse()? })).collect::<Result<_>>()?;
    let host = |number: usize| -> Result<Host> {
        Ok(Host {
            id: format!("h{number}").parse()?,
            region: region(number * 2 / size.hosts).parse()?,
            underlay: Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 1)) + u32::try_from(number)?).into(),
            agent: format!("http://{}:{AGENT_PORT}", agent_address(number)),
            maintenance: false,
        })
    };
    let hosts = (0..size.hosts).map(host).collect::<Result<_>>()?;
    apply(Inventory { regions, hosts, ..Inventory::default() })?;
    let all: Vec<usize> = (0..size.vpcs()).collect();
    let mut counts = Counts { vpcs: 0, peerings: 0, prefixes: 0 };
    for piece in all.chunks(PIECE) {
        let mut inventory = Inventory::default();
        for number in piece {
            let (vpc, ports) = size.vpc(*number)?;
            inventory.vpcs.push(vpc);
            inventory.ports.extend(ports);
        }
        counts.vpcs += inventory.vpcs.len();
        counts.prefixes += inventory.ports.iter().flat_map(|port| &port.prefixes).map(Vec::len).sum::<usize>();
        apply(inventory)?;
    }
    for piece in all.chunks(PIECE) {
        let peerings = piece.iter().map(|number| size.peerings(*number)).collect::<Result<Vec<_>>>()?.concat();
        counts.peerings += peerings.len();
        apply(Inventory { peerings, ..Inventory::default() })?;
    }
    engine.sweep();
    apply(size.extras()?)?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_their_hosts() {
        for host in [0, 1, 254, 255, 256, 9999, 1_000_000] {
            assert_eq!(host_at(agent_address(host)), Some(host));
        }
    }
}
