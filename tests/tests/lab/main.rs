//! Tests that need the lab: real kernels, real packets. `tests/run` runs them on a kernel with VRF.

mod addressing;
mod bandwidth;
mod conflicts;
mod connectivity;
mod crash;
mod drift;
mod endurance;
mod faults;
mod foreign;
mod forged;
mod fuzz;
mod interference;
mod inventory;
mod isolation;
mod lab_itself;
mod mtu;
mod names;
mod paths;
mod prefixes;
mod pressure;
mod probes;
mod refusals;
mod removal;
mod restart;
mod shares;
mod tenants;
mod tls;
mod underlay;

use anyhow::{Result, ensure};
use cps_peering_tests::{Lab, Server, Topology, wait};
use std::time::Duration;

const NORTH: &str = "cn-north-1";
const EAST: &str = "cn-east-1";

/// Two hosts in one region.
fn two_hosts() -> Topology {
    Topology::new().host("h1", NORTH, "192.0.2.1").host("h2", NORTH, "192.0.2.2")
}

/// VPC A on h1 and VPC B on h2, not peered.
fn a_and_b() -> Topology {
    two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
}

/// Both reach each other, in every family that both have.
fn reach_each_other(one: &Server, other: &Server) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        for address in shared(from, to) {
            let ping = from.ping(address)?;
            ensure!(ping.answered, "{}: {}", ping.line, ping.output);
        }
    }
    Ok(())
}

/// Neither reaches the other, in any family, nor receives anything from it.
fn do_not_reach_each_other(one: &Server, other: &Server) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        let heard = to.heard()?;
        for address in shared(from, to) {
            let ping = from.ping(address)?;
            ensure!(!ping.answered, "{}: {}", ping.line, ping.output);
        }
        ensure!(to.heard()? == heard, "{} heard {}", to.netns().name(), from.netns().name());
    }
    Ok(())
}

/// The addresses of `to` in families that `from` has as well.
fn shared(from: &Server, to: &Server) -> Vec<std::net::IpAddr> {
    let has = |v4: bool| from.addresses.iter().any(|address| address.addr().is_ipv4() == v4);
    to.addresses.iter().map(ipnet::IpNet::addr).filter(|address| has(address.is_ipv4())).collect()
}

/// A router answers that an address is unreachable. Kernels send such answers at a limited rate, so it is tried again.
fn is_unreachable(from: &Server, to: &str) -> Result<()> {
    wait::until(&format!("{to} is unreachable"), wait::SOON, || {
        let ping = from.ping(to)?;
        ensure!(ping.unreachable(), "{}: {}", ping.line, ping.output);
        Ok(Some(()))
    })
}

/// The routes of ours that a host has for an interface's VRF, both families, as `ip` prints them.
fn routes(lab: &Lab, host: &str, interface: &str) -> Result<String> {
    let netns = lab.host(host).netns();
    let link: serde_json::Value = serde_json::from_str(&netns.ip(&format!("-j link show {interface}"))?)?;
    let vrf = link[0]["master"].as_str().unwrap_or_default();
    ensure!(vrf.starts_with("cpsvrf"), "{interface} on {host} is in no VRF of ours: {link}");
    let four = netns.ip(&format!("-4 route show vrf {vrf} proto 67"))?;
    Ok(four + &netns.ip(&format!("-6 route show vrf {vrf} proto 67"))?)
}
