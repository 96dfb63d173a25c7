//! The host's packet filters as values: what of nftables and iptables decides about packets of VPCs.

use super::Family;
use cps_peering_config::net::{InterfaceName, within};
use ipnet::IpNet;
use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

/// All chains that the kernel evaluates for packets of IP, with those they lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Every chain.
    pub chains: Vec<Chain>,
    /// Policies of `IPsec`; for each direction in the order in which the kernel asks them.
    pub policies: Vec<Policy>,
    /// What is exempt from them on all devices (`net.*.conf.all`). Where there are none, it is not read.
    pub exempt: BTreeSet<Exemption>,
    /// What could not be read, and why; then nobody knows what becomes of packets.
    pub unread: Vec<String>,
}

/// Packets of a device about which the kernel asks no policy of `IPsec`, by a setting below `/proc/sys/net`. The setting is the operator's, and
/// the kernel does not announce it.
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

/// A policy of `IPsec`: what it selects is dropped, has to go or come through `IPsec`, or passes. The first one that selects a packet decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When the kernel asks it.
    pub direction: Direction,
    /// The sources that it selects.
    pub source: IpNet,
    /// The destinations that it selects.
    pub destination: IpNet,
    /// The device that it is about; none where it is about any.
    pub device: Option<InterfaceName>,
    /// What else a packet must be.
    pub upper: Upper,
    /// What becomes of packets.
    pub action: Action,
    /// Whether it is of type `sub`. Where one of these selects a packet and does not block it, the kernel asks those of type `main` as well.
    pub sub: bool,
    /// Its priority; the kernel asks the one with the smallest number first. None where it is the default of all that no policy selects.
    pub priority: Option<u32>,
}

/// What a [`Policy`] selects by, besides addresses and devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upper {
    /// The protocol behind the IP header; none where it may be any.
    pub protocol: Option<u8>,
    /// The port that it goes to, and the bits of it that count.
    pub destination_port: (u16, u16),
    /// Whether there is more: the port that it comes from, or a user.
    pub more: bool,
}

impl Upper {
    /// Whether it may be anything.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// Of what is forwarded the kernel asks `fwd` and `out`, of what the host takes `in`, of what it sends `out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Before the host takes a packet: whether it may have come as it has.
    In,
    /// Before a packet is forwarded: whether it may have come as it has.
    Forward,
    /// How it leaves.
    Out,
}

/// What a [`Policy`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lets packets pass as they are.
    Allow,
    /// Drops them.
    Block,
    /// Wants `IPsec`: what has not come by it is dropped, what leaves is put into it.
    Protect,
}

impl Policy {
    /// What becomes of packets that no policy selects, as the last one of its direction.
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
    /// What comes from members of bridges and what goes to them (`bridge`).
    Bridge,
}

/// Where in its way through the kernel a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// As it comes from a device (`netdev`, `inet`).
    Ingress,
    /// Before its way is looked up.
    Prerouting,
    /// Before the host takes it.
    Input,
    /// Between two devices.
    Forward,
    /// As the host itself sends it.
    Output,
    /// Before it leaves.
    Postrouting,
    /// As it goes to a device (`netdev`).
    Egress,
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Whose it is.
    pub backend: Backend,
    /// Which packets its table sees.
    pub scope: Scope,
    /// The family as its program writes it: `ip`, `ip6`, `inet`, `netdev`, `bridge`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub name: String,
    /// Where the kernel begins with it; none where only rules lead to it.
    pub hook: Option<Hook>,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
    /// The rules, in order.
    pub rules: Vec<FilterRule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRule {
    /// How its program names it, for instance `handle 7` or `rule 3`.
    pub label: String,
    /// What must all be true of a packet.
    pub matches: Vec<Match>,
    /// What becomes of it then.
    pub verdict: Verdict,
}

/// One condition. Where there are several values, one of them is enough; where there is none, nothing meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The device that it came from.
    In(Vec<Pattern>, Sense),
    /// The device that it goes to.
    Out(Vec<Pattern>, Sense),
    /// Its source address is in one of these.
    Source(Networks, Sense),
    /// Its destination address is in one of these.
    Destination(Networks, Sense),
    /// Its family.
    Family(Vec<Family>, Sense),
    /// The protocol behind the IP header.
    Protocol(Vec<u8>, Sense),
    /// The port that it goes to, in one of these ranges. What has no ports has none of them.
    DestinationPort(Vec<RangeInclusive<u16>>, Sense),
    /// What connection tracking says of it: one of the states whose bits are set ([`state`]).
    State(u32, Sense),
    /// Anything else: it may be true or not.
    Other,
}

/// Networks of one family, in order and without those that lie in others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whose they are; none where there is none.
    pub fn family(&self) -> Option<Family> {
        self.0.first().map(Family::of)
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// Whether one of them has all addresses of a network.
    pub fn contain(&self, network: &IpNet) -> bool {
        let before = self.0.partition_point(|one| one.addr() <= network.addr());
        before.checked_sub(1).is_some_and(|place| within(network, &self.0[place]))
    }

    /// Whether one of them has an address of a network.
    pub fn touch(&self, network: &IpNet) -> bool {
        let behind = self.0.partition_point(|one| one.addr() < network.addr());
        self.contain(network) || self.0.get(behind).is_some_and(|next| within(next, network))
    }
}

/// Of networks of one family, in any order.
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

/// States of connection tracking, as nftables numbers them (`NF_CT_STATE_BIT`).
pub mod state {
    /// The first packets of a connection, until an answer is seen.
    pub const NEW: u32 = 1 << 3;
    /// What is exempt from connection tracking.
    pub const UNTRACKED: u32 = 1 << 6;
    /// What belongs to a connection whose destination was changed (`IPS_DST_NAT`). nftables has no state for it, iptables has one (`DNAT`).
    pub const DNAT: u32 = 1 << 31;
}

/// Whether a condition is meant as it stands or turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// As it stands.
    Is,
    /// Turned round.
    IsNot,
}

/// Names of devices, which may be of any bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// The name, or how it begins, as the kernel has it.
    pub name: Vec<u8>,
    /// Whether anything may follow.
    pub open: bool,
}

impl Pattern {
    /// Whether a name fits.
    pub fn fits(&self, name: &InterfaceName) -> bool {
        if self.open { name.as_bytes().starts_with(&self.name) } else { name.as_bytes() == self.name }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing that decides: counts, logs, marks.
    Continue,
    /// Lets it go on to the next hook.
    Accept,
    /// Ends it; in the words of the program.
    Drop(String),
    /// Changes an address or port of it; in the words of the program.
    Translate(String),
    /// Nobody can tell from the rule alone, for instance a verdict map.
    Unclear(String),
    /// Goes back to where the chain was called.
    Return,
    /// Goes on in another chain of the table, and comes back.
    Jump(String),
    /// Goes on in another chain of the table.
    Goto(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::net::overlap;

    #[test]
    fn networks_are_found_as_by_looking_at_each() {
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
