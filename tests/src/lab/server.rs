//! A tenant's server: a namespace behind one port.

use crate::{command::Ended, netns::Netns};
use anyhow::{Context, Result};
use cps_peering_config::{
    id::{HostId, VpcId},
    inventory::Port,
    net::InterfaceName,
};
use ipnet::IpNet;
use std::{net::IpAddr, process::Command};

/// The server's interface.
pub const NIC: &str = "eth0";

/// A tenant's server.
#[derive(Debug)]
pub struct Server {
    netns: Netns,
    /// The VPC of its port.
    pub vpc: VpcId,
    /// The host it is attached to.
    pub host: HostId,
    /// The host's interface it is attached to.
    pub interface: InterfaceName,
    /// Its addresses, with the length of their subnet.
    pub addresses: Vec<IpNet>,
}

/// The result of `ping`.
#[derive(Debug)]
pub struct Ping {
    /// The command as typed in a shell.
    pub line: String,
    /// All its output.
    pub output: String,
    /// Whether a reply came.
    pub answered: bool,
}

impl Ping {
    /// Whether a router replied that there is no route.
    pub fn unreachable(&self) -> bool {
        !self.answered && self.output.to_lowercase().contains("unreachable")
    }
}

/// What reached a server, as counted by its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Echo requests of both families.
    pub echo_requests: u64,
    /// UDP datagrams of both families, also those without a listener.
    pub datagrams: u64,
}

impl Server {
    /// Attaches a server to a port. The host's end of the link has the port's name, and is down: the agent sets it up.
    pub fn attach(name: &str, host: &Netns, port: &Port, addresses: Vec<IpNet>, mtu: u32) -> Result<Server> {
        let netns = Netns::create(name)?;
        // Addresses are usable immediately, without duplicate address detection.
        netns.sysctl(&["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"])?;
        let interface = port.interface;
        host.ip_batch(&[
            format!("link add {interface} mtu {mtu} type veth peer name {NIC} mtu {mtu} netns {name}"),
            // A device that was up once, even if it is down now, has another qdisc than one that never was.
            format!("link set {interface} up"),
            format!("link set {interface} down"),
        ])?;
        let mut lines = vec![format!("link set {NIC} up")];
        for address in &addresses {
            let dad = if address.addr().is_ipv6() { " nodad" } else { "" };
            lines.push(format!("addr add {address} dev {NIC}{dad}"));
        }
        for gateway in default_gateways(port) {
            let family_has_address = |net: &&IpNet| net.addr().is_ipv4() == gateway.is_ipv4();
            if addresses.iter().any(|net| family_has_address(&net)) {
                lines.push(format!("route add default via {gateway} dev {NIC} onlink"));
            }
        }
        netns.ip_batch(&lines)?;
        Ok(Server { netns, vpc: port.vpc.clone(), host: port.host.clone(), interface, addresses })
    }

    /// The namespace it lives in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its first IPv4 address.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.first(IpAddr::is_ipv4)
    }

    /// Its first IPv6 address.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.first(IpAddr::is_ipv6)
    }

    fn first(&self, family: fn(&IpAddr) -> bool) -> Result<IpAddr> {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        addresses.find(family).with_context(|| format!("{} has no address of that family", self.netns.name()))
    }

    /// Pings once and waits at most a second.
    pub fn ping(&self, to: impl ToAddress) -> Result<Ping> {
        self.ping_with(to, &[])
    }

    /// Pings once, with more options of `ping`.
    pub fn ping_with(&self, to: impl ToAddress, options: &[&str]) -> Result<Ping> {
        let to = to.address()?.to_string();
        let mut ping = Command::new("ping");
        ping.args(["-n", "-c", "1", "-W", "1"]).args(options).arg(to);
        let Ended { line, status, stdout, stderr } = self.netns.run(&mut ping)?;
        Ok(Ping { line, output: stdout + &stderr, answered: status.success() })
    }

    /// Whether that address replies.
    pub fn reaches(&self, to: impl ToAddress) -> Result<bool> {
        Ok(self.ping(to)?.answered)
    }

    /// What has reached it so far.
    pub fn heard(&self) -> Result<Heard> {
        let text = self.netns.exec("cat /proc/net/snmp6 /proc/net/snmp")?.ok()?;
        let six = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<u64>().ok()).with_context(|| format!("no {name} in snmp6"))
        };
        let four = |group: &str, name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
            let column = lines.next().and_then(|head| head.split_whitespace().position(|word| word == name));
            let value = column.and_then(|column| lines.next()?.split_whitespace().nth(column)?.parse::<u64>().ok());
            value.with_context(|| format!("no {group} {name} in snmp"))
        };
        Ok(Heard {
            echo_requests: four("Icmp:", "InEchos")? + six("Icmp6InEchos")?,
            datagrams: four("Udp:", "InDatagrams")?
                + four("Udp:", "NoPorts")?
                + six("Udp6InDatagrams")?
                + six("Udp6NoPorts")?,
        })
    }
}

/// What can be pinged.
pub trait ToAddress {
    /// The address.
    fn address(self) -> Result<IpAddr>;
}

impl ToAddress for IpAddr {
    fn address(self) -> Result<IpAddr> {
        Ok(self)
    }
}

impl ToAddress for &str {
    fn address(self) -> Result<IpAddr> {
        self.parse().with_context(|| format!("{self:?} is no address"))
    }
}

/// The prefixes behind a port.
pub fn prefixes(port: &Port) -> Vec<IpNet> {
    port.prefixes.clone().unwrap_or_else(|| port.gateways.iter().map(IpNet::trunc).collect())
}

/// One gateway per family: the first.
fn default_gateways(port: &Port) -> impl Iterator<Item = IpAddr> {
    let gateways = || port.gateways.iter().map(IpNet::addr);
    gateways().find(IpAddr::is_ipv4).into_iter().chain(gateways().find(IpAddr::is_ipv6))
}

/// The first usable address of each prefix behind the port that is not a gateway.
pub fn first_addresses(port: &Port) -> Vec<IpNet> {
    let free = |address: &IpAddr| !port.gateways.iter().any(|gateway| gateway.addr() == *address);
    let first = |prefix: IpNet| -> Option<IpNet> {
        let address = match prefix {
            IpNet::V4(net) => net.hosts().map(IpAddr::from).find(free),
            // The first address of an IPv6 subnet is its subnet-router anycast address (RFC 4291 section 2.6.1).
            IpNet::V6(net) => net.hosts().skip(usize::from(net.prefix_len() < 127)).map(IpAddr::from).find(free),
        };
        IpNet::new(address?, prefix.prefix_len()).ok()
    };
    prefixes(port).into_iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topology;

    fn addresses(gateways: &[&str], prefixes: &[&str]) -> String {
        let mut topology = Topology::new().port("vpc-a", "h1", "eth1", gateways);
        if !prefixes.is_empty() {
            topology = topology.serving(prefixes);
        }
        let addresses = first_addresses(&topology.build().ports[0]);
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_first_usable_address_is_no_gateway() {
        assert_eq!(addresses(&["10.1.0.1/24", "fd00::1/64"], &[]), "10.1.0.2/24 fd00::2/64");
        assert_eq!(addresses(&["10.1.0.9/24", "fd00::9/64"], &[]), "10.1.0.1/24 fd00::1/64");
        assert_eq!(addresses(&["10.1.0.1/32"], &["10.1.0.5/32", "10.1.7.0/31"]), "10.1.0.5/32 10.1.7.0/31");
        assert_eq!(addresses(&["fd00::1/128"], &["fd00::5/128"]), "fd00::5/128");
        assert_eq!(addresses(&["10.1.0.1/32"], &["10.1.0.1/32"]), "");
    }
}
