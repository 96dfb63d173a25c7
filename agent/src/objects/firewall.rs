//! The host's packet filters as values: what nftables and iptables do to packets of VPCs.

use super::Family;
use cps_peering_config::net::{InterfaceName, within};
use ipnet::IpNet;
use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

/// All chains that the kernel evaluates for IP packets, with those they call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Every chain.
    pub chains: Vec<Chain>,
    /// `IPsec` policies; for each direction in evaluation order.
    pub policies: Vec<Policy>,
    /// What is exempt from them on all devices (`net.*.conf.all`). Not read if there are no policies.
    pub exempt: BTreeSet<Exemption>,
    /// UDP ports of FOU and GUE whose packets may contain UDP.
    pub fou: BTreeSet<FouPort>,
    /// What could not be read, and why; then the fate of packets is unknown.
    pub unread: Vec<String>,
}

/// A UDP port whose packets the kernel unwraps and accepts once more, past all filters of devices (`ip fou`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FouPort {
    /// The port.
    pub port: u16,
    /// What is in its packets.
    pub unwrapped: Unwrapped,
}

/// The content of packets to a [`FouPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unwrapped {
    /// UDP.
    Udp,
    /// Any protocol: GUE names it in each packet.
    Anything,
}

impl fmt::Display for FouPort {
    /// As `ip fou` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unwrapped = match self.unwrapped {
            Unwrapped::Udp => "ipproto 17",
            Unwrapped::Anything => "gue",
        };
        write!(f, "fou port {} {unwrapped}", self.port)
    }
}

/// Packets of a device that the kernel does not check against `IPsec` policies, because of a setting below `/proc/sys/net`.
/// The setting belongs to the operator, and the kernel does not announce changes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exemption {
    /// `ipv4/conf/DEV/disable_policy`.
    Ipv4Arriving,
    /// `ipv4/conf/DEV/disable_xfrm`.
    Ipv4Leaving,
    /// `ipv6/conf/DEV/disable_policy`.
    Ipv6Arriving,
}

impl Exemption {
    /// All of them.
    pub const ALL: [Exemption; 3] = [Exemption::Ipv4Arriving, Exemption::Ipv4Leaving, Exemption::Ipv6Arriving];

    /// Family folder and file name below `/proc/sys/net/FAMILY/conf/DEV/`.
    pub fn path(self) -> (&'static str, &'static str) {
        match self {
            Exemption::Ipv4Arriving => ("ipv4", "disable_policy"),
            Exemption::Ipv4Leaving => ("ipv4", "disable_xfrm"),
            Exemption::Ipv6Arriving => ("ipv6", "disable_policy"),
        }
    }
}

/// An `IPsec` policy: what it matches is dropped, requires `IPsec`, or passes. The first one that matches a packet
/// decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When the kernel evaluates it.
    pub direction: Direction,
    /// The sources that it matches.
    pub source: IpNet,
    /// The destinations that it matches.
    pub destination: IpNet,
    /// The device that it is limited to; none if any.
    pub device: Option<InterfaceName>,
    /// Further conditions.
    pub upper: Upper,
    /// What happens to packets.
    pub action: Action,
    /// Whether it is of type `sub`. If one of these matches a packet and does not block it, the kernel also evaluates
    /// those of type `main`.
    pub sub: bool,
    /// Its priority; the smallest number is evaluated first. None for the default of packets that no policy matches.
    pub priority: Option<u32>,
}

/// The conditions of a [`Policy`] besides addresses and devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upper {
    /// The protocol behind the IP header; none if any.
    pub protocol: Option<u8>,
    /// The destination port, and the bits of it that count.
    pub destination_port: (u16, u16),
    /// Whether there is more: a source port, or a user.
    pub more: bool,
}

impl Upper {
    /// Whether any packet satisfies it.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// For forwarded packets the kernel evaluates `fwd` and `out`, for received ones `in`, for sent ones `out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Before delivery to the host: whether the packet may have arrived in this form.
    In,
    /// Before forwarding: whether the packet may have arrived in this form.
    Forward,
    /// How it leaves.
    Out,
}

/// The action of a [`Policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lets packets pass as they are.
    Allow,
    /// Drops them.
    Block,
    /// Requires `IPsec`: packets that arrived without it are dropped, outgoing ones are protected.
    Protect,
}

impl Policy {
    /// The default for packets that no policy matches, as the last one of its direction.
    pub fn default_of(direction: Direction, all: IpNet, action: Action) -> Self {
        let (upper, sub, priority) = (Upper::default(), false, None);
        Self { direction, source: all, destination: all, device: None, upper, action, sub, priority }
    }
}

impl fmt::Display for Policy {
    /// As `ip xfrm policy` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::In => "in",
            Direction::Forward => "fwd",
            Direction::Out => "out",
        };
        let Some(priority) = self.priority else { return write!(f, "xfrm policy default {direction}") };
        write!(f, "xfrm policy src {} dst {}", self.source, self.destination)?;
        if let Some(device) = self.device {
            write!(f, " dev {device}")?;
        }
        write!(f, " dir {direction} priority {priority}")?;
        if self.sub {
            f.write_str(" ptype sub")?;
        }
        if self.action == Action::Block { f.write_str(" action block") } else { Ok(()) }
    }
}

/// The protocol number of `ICMPv6` (RFC 4443).
pub const ICMPV6: u8 = 58;

/// Which program's rules they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// nftables, including what `iptables-nft` writes.
    Nftables,
    /// The older kernel interface, as `iptables-legacy` uses it.
    Legacy,
}

/// Which packets a table sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// IPv4 or IPv6 alone.
    Ip(Family),
    /// Both (`inet`).
    Both,
    /// Everything on some devices (`netdev`).
    Devices(Vec<Pattern>),
    /// What bridge members receive, and what is sent to them (`bridge`).
    Bridge,
    /// ARP messages (`arp`).
    Arp,
}

/// Where a packet is on its way through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// On arrival from a device (`netdev`, `inet`).
    Ingress,
    /// Before routing.
    Prerouting,
    /// Before delivery to the host.
    Input,
    /// Between two devices.
    Forward,
    /// As sent by the host itself.
    Output,
    /// Before it leaves.
    Postrouting,
    /// On its way to a device (`netdev`).
    Egress,
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The program that it belongs to.
    pub backend: Backend,
    /// Which packets its table sees.
    pub scope: Scope,
    /// The family as its program writes it: `ip`, `ip6`, `inet`, `netdev`, `bridge`, `arp`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub name: String,
    /// The hook, if it is a base chain; none if only rules lead to it.
    pub hook: Option<Hook>,
    /// Whether packets without a verdict are dropped.
    pub drops: bool,
    /// The rules, in order.
    pub rules: Vec<FilterRule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRule {
    /// Its name in its program, for instance `handle 7` or `rule 3`.
    pub label: String,
    /// The conditions, all of which must hold.
    pub matches: Vec<Match>,
    /// Whether it may then change the packet's mark, by which policy rules can route it.
    pub marks: bool,
    /// The verdict then.
    pub verdict: Verdict,
}

/// One condition. Of several values, one must match; with none, nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The input device.
    In(Vec<Pattern>, Sense),
    /// The output device.
    Out(Vec<Pattern>, Sense),
    /// Its source address is in one of these.
    Source(Networks, Sense),
    /// Its destination address is in one of these.
    Destination(Networks, Sense),
    /// Whether its device, the input or the output one, is one of Ethernet.
    Ethernet(Sense),
    /// What it is: one of these ([`ethertype`]).
    Ethertype(Vec<u16>, Sense),
    /// The protocol behind the IP header.
    Protocol(Vec<u8>, Sense),
    /// The type of an `ICMPv6` message.
    IcmpType(Vec<u8>, Sense),
    /// The operation of an ARP message.
    ArpOperation(Vec<u16>, Sense),
    /// The destination port is in one of these ranges. Packets without ports match none.
    DestinationPort(Vec<RangeInclusive<u16>>, Sense),
    /// The connection tracking state: one of those whose bits are set ([`state`]).
    State(u32, Sense),
    /// Anything else: it may or may not hold.
    Other,
}

/// Networks of one family, sorted and without those that are within others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Their family; none if there are none.
    pub fn family(&self) -> Option<Family> {
        self.0.first().map(Family::of)
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// Whether one of them contains a network.
    pub fn contain(&self, network: &IpNet) -> bool {
        let before = self.0.partition_point(|one| one.addr() <= network.addr());
        before.checked_sub(1).is_some_and(|place| within(network, &self.0[place]))
    }

    /// Whether one of them overlaps a network.
    pub fn touch(&self, network: &IpNet) -> bool {
        let behind = self.0.partition_point(|one| one.addr() < network.addr());
        self.contain(network) || self.0.get(behind).is_some_and(|next| within(next, network))
    }
}

/// From networks of one family, in any order.
impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self(IpNet::aggregate(&networks.into_iter().collect()))
    }
}

impl From<IpNet> for Networks {
    fn from(network: IpNet) -> Self {
        Self(vec![network])
    }
}

/// What a frame carries (IEEE 802 Numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// All of them.
    pub const ALL: [u16; 3] = [IPV4, ARP, IPV6];
}

/// States of connection tracking, as nftables numbers them (`NF_CT_STATE_BIT`).
pub mod state {
    /// The first packets of a connection, until a reply is seen.
    pub const NEW: u32 = 1 << 3;
    /// Packets exempt from connection tracking.
    pub const UNTRACKED: u32 = 1 << 6;
    /// Connections whose destination was changed (`IPS_DST_NAT`). nftables has no state for it, iptables has one
    /// (`DNAT`).
    pub const DNAT: u32 = 1 << 31;
}

/// Whether a condition is inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// As it stands.
    Is,
    /// Inverted.
    IsNot,
}

/// Names of devices, which may contain any bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// The name, or its prefix, as in the kernel.
    pub name: Vec<u8>,
    /// Whether anything may follow.
    pub open: bool,
}

impl Pattern {
    /// Whether a name matches.
    pub fn fits(&self, name: &InterfaceName) -> bool {
        if self.open { name.as_bytes().starts_with(&self.name) } else { name.as_bytes() == self.name }
    }
}

/// The verdict of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// None: it counts, logs, marks.
    Continue,
    /// Accepts the packet, which goes on to the next hook.
    Accept,
    /// Drops it; in the terms of the program.
    Drop(String),
    /// Changes an address or port of it; in the terms of the program.
    Translate(String),
    /// Cannot be told from the rule alone, for instance a verdict map.
    Unclear(String),
    /// Returns to the calling chain.
    Return,
    /// Continues in another chain of the table, and comes back.
    Jump(String),
    /// Continues in another chain of the table.
    Goto(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::net::overlap;

    #[test]
    fn networks_are_found_as_by_checking_each() {
        let every: Vec<IpNet> = (0..=6)
            .flat_map(|length| (0..1u32 << length).map(move |place| (length, place)))
            .map(|(length, place)| format!("{}.0.0.0/{length}", if length == 0 { 0 } else { place << (8 - length) }))
            .map(|text| text.parse().unwrap())
            .collect();
        for sample in [vec![], vec![0], vec![1], vec![5, 9], vec![7, 8], vec![20, 60, 61, 90], vec![126, 64, 3]] {
            let some: Vec<IpNet> = sample.iter().map(|place: &usize| every[*place]).collect();
            let networks = some.iter().copied().collect::<Networks>();
            for one in &every {
                let (least, most) = (some.iter().any(|net| within(one, net)), some.iter().any(|net| overlap(one, net)));
                // Two halves make a whole.
                let halves = some.iter().filter(|net| within(net, one)).map(|net| 1u64 << (32 - net.prefix_len()));
                let whole = least || halves.sum::<u64>() == 1 << (32 - one.prefix_len());
                assert_eq!((networks.contain(one), networks.touch(one)), (whole, most), "{one} in {some:?}");
            }
        }
        let six = Networks::from("2001:db8::/32".parse::<IpNet>().unwrap());
        assert!(!six.touch(&every[0]) && six.touch(&"::/0".parse().unwrap()) && six.family() == Some(Family::V6));
    }
}
