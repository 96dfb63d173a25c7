//! nftables over netlink (`include/uapi/linux/netfilter/nf_tables.h`), read-only. All numbers are big-endian.

use super::Cache;
use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{attributes, text},
    },
    objects::{
        Family, Firewall,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict},
    },
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const GENERATION_ID: u16 = 1;

const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_NETDEV: u8 = 5;
const FAMILY_IPV6: u8 = 10;

/// Changes with every change of the rules.
pub(super) type Generation = u32;

/// All chains and rules. They are read again only when they have changed.
pub(super) fn rules(cache: &mut Cache, names: &BTreeMap<u32, InterfaceName>) -> Result<Firewall, KernelError> {
    let mut socket = Socket::netfilter()?;
    let generation = generation(&mut socket)?;
    if let Some((known, with, firewall)) = &cache.nft
        && Some(*known) == generation
        && with == names
    {
        return Ok(firewall.clone());
    }
    let firewall = read(&mut socket, names)?;
    cache.nft = generation.map(|generation| (generation, names.clone(), firewall.clone()));
    Ok(firewall)
}

/// None where the kernel does not tell it.
fn generation(socket: &mut Socket) -> Result<Option<Generation>, KernelError> {
    let answer = socket.get(GET_GENERATION, |body| body.extend([0; HEADER_LEN]))?;
    Ok(answer.ok().and_then(|payload| number(find(&payload, HEADER_LEN, GENERATION_ID)?)))
}

fn read(socket: &mut Socket, names: &BTreeMap<u32, InterfaceName>) -> Result<Firewall, KernelError> {
    let all = |body: &mut Vec<u8>| body.extend([0; HEADER_LEN]);
    let mut chains: Vec<Chain> = socket.dump("chains of nftables", GET_CHAIN, all, Vec::new, |chains, payload| {
        chains.extend(read_chain(payload));
    })?;
    let rules = socket.dump("rules of nftables", GET_RULE, all, Vec::new, |rules, payload| {
        rules.extend(read_rule(payload, names));
    })?;
    let mut places: BTreeMap<(&'static str, String, String), usize> = BTreeMap::new();
    for (place, chain) in chains.iter().enumerate() {
        places.insert((chain.family, chain.table.clone(), chain.name.clone()), place);
    }
    for (key, rule) in rules {
        if let Some(place) = places.get(&key) {
            chains[*place].rules.push(rule);
        }
    }
    Ok(Firewall { chains, unread: Vec::new() })
}

fn find(payload: &[u8], skip: usize, wanted: u16) -> Option<&[u8]> {
    attributes(payload, skip).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn family(payload: &[u8]) -> Option<(&'static str, Scope)> {
    match *payload.first()? {
        FAMILY_IPV4 => Some(("ip", Scope::Ip(Family::V4))),
        FAMILY_IPV6 => Some(("ip6", Scope::Ip(Family::V6))),
        FAMILY_INET => Some(("inet", Scope::Both)),
        FAMILY_NETDEV => Some(("netdev", Scope::Devices(Vec::new()))),
        // Bridges and ARP: nothing that is routed.
        _ => None,
    }
}

fn read_chain(payload: &[u8]) -> Option<Chain> {
    let (family, mut scope) = family(payload)?;
    let hook = find(payload, HEADER_LEN, CHAIN_HOOK);
    let at = hook.and_then(|hook| number(find(hook, 0, HOOK_NUMBER)?));
    let hook_is = match (at, family) {
        (Some(0), "netdev") | (Some(5), "inet") => Some(Hook::Ingress),
        (Some(1), "netdev") => Some(Hook::Egress),
        (Some(0), _) => Some(Hook::Prerouting),
        (Some(1), _) => Some(Hook::Input),
        (Some(2), _) => Some(Hook::Forward),
        (Some(3), _) => Some(Hook::Output),
        (Some(4), _) => Some(Hook::Postrouting),
        _ => None,
    };
    let mut devices = Vec::new();
    if let Some(hook) = hook {
        let one = find(hook, 0, HOOK_DEVICE).into_iter();
        let many = find(hook, 0, HOOK_DEVICES).into_iter().flat_map(|list| attributes(list, 0).map(|(_, name)| name));
        devices.extend(one.chain(many).filter_map(text).map(|name| Pattern { text: name.to_owned(), open: false }));
    }
    // A single one is told in both ways.
    devices.sort_unstable();
    devices.dedup();
    if family == "netdev" || hook_is == Some(Hook::Ingress) {
        scope = Scope::Devices(devices);
    }
    Some(Chain {
        backend: Backend::Nftables,
        scope,
        family,
        table: text(find(payload, HEADER_LEN, CHAIN_TABLE)?)?.to_owned(),
        name: text(find(payload, HEADER_LEN, CHAIN_NAME)?)?.to_owned(),
        hook: hook_is,
        drops: find(payload, HEADER_LEN, CHAIN_POLICY).and_then(number) == Some(0),
        rules: Vec::new(),
    })
}

type Place = (&'static str, String, String);

fn read_rule(payload: &[u8], names: &BTreeMap<u32, InterfaceName>) -> Option<(Place, FilterRule)> {
    let (family, _) = family(payload)?;
    let table = text(find(payload, HEADER_LEN, RULE_TABLE)?)?.to_owned();
    let chain = text(find(payload, HEADER_LEN, RULE_CHAIN)?)?.to_owned();
    let handle: [u8; 8] = find(payload, HEADER_LEN, RULE_HANDLE)?.try_into().ok()?;
    let mut reading =
        Reading { names, family, registers: BTreeMap::new(), matches: Vec::new(), verdict: Verdict::Continue };
    let expressions = find(payload, HEADER_LEN, RULE_EXPRESSIONS).unwrap_or_default();
    for (_, expression) in attributes(expressions, 0) {
        let name = find(expression, 0, EXPRESSION_NAME).and_then(text).unwrap_or_default();
        reading.expression(name, find(expression, 0, EXPRESSION_DATA).unwrap_or_default());
        if reading.verdict != Verdict::Continue {
            break;
        }
    }
    let label = format!("rule handle {}", u64::from_be_bytes(handle));
    Some(((family, table, chain), FilterRule { label, matches: reading.matches, verdict: reading.verdict }))
}

/// What a register holds.
#[derive(Debug, Clone)]
enum Loaded {
    InName,
    OutName,
    InIndex,
    OutIndex,
    Family,
    /// The ethertype.
    Ethertype,
    /// The protocol behind the IP header.
    Protocol,
    /// The port that the packet goes to.
    DestinationPort,
    /// A state of connection tracking, with the mask that was laid over it.
    State(Option<u32>),
    /// A part of an address from its first byte, with the mask that was laid over it.
    Source(Family, Option<Vec<u8>>),
    Destination(Family, Option<Vec<u8>>),
}

struct Reading<'a> {
    names: &'a BTreeMap<u32, InterfaceName>,
    family: &'static str,
    registers: BTreeMap<u32, Loaded>,
    matches: Vec<Match>,
    verdict: Verdict,
}

impl Reading<'_> {
    fn expression(&mut self, name: &str, data: &[u8]) {
        let find = |wanted| find(data, 0, wanted);
        let register = |wanted| find(wanted).and_then(number).unwrap_or(u32::MAX);
        match name {
            "meta" if find(3).is_none() => self.load(register(1), meta(find(2).and_then(number))),
            "payload" if find(5).is_none() => {
                let at = [2, 3, 4].map(|attribute| find(attribute).and_then(number));
                let loaded = self.field_at(at);
                self.load(register(1), loaded);
            }
            "bitwise" => {
                let mask = find(4).and_then(|mask| self::find(mask, 0, 1)).map(<[u8]>::to_vec);
                let loaded = match (self.registers.get(&register(1)), mask) {
                    (Some(Loaded::State(None)), Some(mask)) => {
                        mask.try_into().ok().map(|mask| Loaded::State(Some(u32::from_ne_bytes(mask))))
                    }
                    (Some(Loaded::Source(family, None)), Some(mask)) => Some(Loaded::Source(*family, Some(mask))),
                    (Some(Loaded::Destination(family, None)), Some(mask)) => {
                        Some(Loaded::Destination(*family, Some(mask)))
                    }
                    _ => None,
                };
                self.load(register(2), loaded);
            }
            "cmp" => {
                let value = find(3).and_then(|data| self::find(data, 0, 1)).unwrap_or_default();
                let comparison = find(2).and_then(number);
                let loaded = self.registers.get(&register(1)).cloned();
                let condition = match (loaded, sense(comparison)) {
                    (Some(loaded), Some(sense)) => self.compared(&loaded, value, sense),
                    (Some(Loaded::DestinationPort), None) => from_or_up_to(comparison, value),
                    _ => None,
                };
                self.matches.push(condition.unwrap_or(Match::Other));
            }
            "range" => {
                let ends = [3, 4].map(|attribute| {
                    let value = find(attribute).and_then(|data| self::find(data, 0, 1))?;
                    Some(u16::from_be_bytes(value.try_into().ok()?))
                });
                let sense = sense(find(2).and_then(number));
                self.matches.push(match (self.registers.get(&register(1)), ends, sense) {
                    (Some(Loaded::DestinationPort), [Some(first), Some(last)], Some(sense)) => {
                        Match::DestinationPort(vec![first..=last], sense)
                    }
                    _ => Match::Other,
                });
            }
            "ct" if find(4).is_none() => {
                const STATE: u32 = 0;
                let loaded = (find(2).and_then(number) == Some(STATE)).then_some(Loaded::State(None));
                self.load(register(1), loaded);
            }
            "immediate" if register(1) == 0 => {
                let verdict = find(2).and_then(|data| self::find(data, 0, 2)).unwrap_or_default();
                self.verdict = read_verdict(verdict);
            }
            // A set decides whether the rule applies, a verdict map what it does.
            "lookup" if find(3).is_some_and(|register| number(register) == Some(0)) => {
                self.verdict = Verdict::Unclear("verdict map".to_owned());
            }
            "reject" => self.verdict = Verdict::Drop("reject".to_owned()),
            "queue" => self.verdict = Verdict::Drop("queue".to_owned()),
            "synproxy" => self.verdict = Verdict::Drop("synproxy".to_owned()),
            "fwd" => self.verdict = Verdict::Drop("fwd".to_owned()),
            "masq" => self.verdict = Verdict::Translate("masquerade".to_owned()),
            "redir" => self.verdict = Verdict::Translate("redirect".to_owned()),
            "nat" => self.verdict = Verdict::Translate("nat".to_owned()),
            "tproxy" => self.verdict = Verdict::Translate("tproxy".to_owned()),
            // These count, log, mark or write into the packet.
            "objref" | "counter" | "log" | "immediate" | "notrack" | "rt" | "last" | "secmark" | "meta" | "dup"
            | "exthdr" | "flow_offload" | "payload" => {}
            "match" => {
                let (name, revision) = (find(1).and_then(text).unwrap_or_default(), find(2).and_then(number));
                let told = find(3).unwrap_or_default();
                self.matches.extend(super::matches::condition(name, revision.unwrap_or(u32::MAX), told));
            }
            "target" => self.verdict = target(find(1).and_then(text).unwrap_or_default()),
            _ => self.matches.push(Match::Other),
        }
    }

    fn load(&mut self, register: u32, loaded: Option<Loaded>) {
        match loaded {
            Some(loaded) => drop(self.registers.insert(register, loaded)),
            None => drop(self.registers.remove(&register)),
        }
    }

    /// What is loaded from a packet, by base, offset and length.
    fn field_at(&self, at: [Option<u32>; 3]) -> Option<Loaded> {
        let v4 = match self.family {
            "ip" => true,
            "ip6" => false,
            // In tables of both, a rule about addresses asks for the family before.
            _ => self.matches.contains(&Match::Family(Family::V4, Sense::Is)),
        };
        match (at, v4) {
            // It is only looked at behind a comparison of the protocol, which has one there.
            ([Some(2), Some(2), Some(2)], _) => Some(Loaded::DestinationPort),
            ([Some(1), Some(9), Some(1)], true) | ([Some(1), Some(6), Some(1)], false) => Some(Loaded::Protocol),
            ([Some(1), Some(12), Some(1..=4)], true) => Some(Loaded::Source(Family::V4, None)),
            ([Some(1), Some(16), Some(1..=4)], true) => Some(Loaded::Destination(Family::V4, None)),
            ([Some(1), Some(8), Some(1..=16)], false) => Some(Loaded::Source(Family::V6, None)),
            ([Some(1), Some(24), Some(1..=16)], false) => Some(Loaded::Destination(Family::V6, None)),
            _ => None,
        }
    }

    fn compared(&self, loaded: &Loaded, value: &[u8], sense: Sense) -> Option<Match> {
        let pattern = || {
            let name = value.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok())?;
            Some(Pattern { text: name.to_owned(), open: !value.contains(&0) && value.len() < 16 })
        };
        let by_index = || {
            let index = u32::from_ne_bytes(value.try_into().ok()?);
            // One that is not there any more fits nothing.
            let name = self.names.get(&index).map_or_else(|| format!("#{index}"), ToString::to_string);
            Some(Pattern { text: name, open: false })
        };
        match loaded {
            Loaded::InName => Some(Match::In(pattern()?, sense)),
            Loaded::OutName => Some(Match::Out(pattern()?, sense)),
            Loaded::InIndex => Some(Match::In(by_index()?, sense)),
            Loaded::OutIndex => Some(Match::Out(by_index()?, sense)),
            Loaded::Family => match *value.first()? {
                FAMILY_IPV4 => Some(Match::Family(Family::V4, sense)),
                FAMILY_IPV6 => Some(Match::Family(Family::V6, sense)),
                _ => None,
            },
            Loaded::Ethertype => match u16::from_be_bytes(value.try_into().ok()?) {
                0x0800 => Some(Match::Family(Family::V4, sense)),
                0x86dd => Some(Match::Family(Family::V6, sense)),
                _ => None,
            },
            Loaded::Protocol => match value {
                [protocol] => Some(Match::Protocol(*protocol, sense)),
                _ => None,
            },
            Loaded::DestinationPort => {
                let port = u16::from_be_bytes(value.try_into().ok()?);
                Some(Match::DestinationPort(vec![port..=port], sense))
            }
            Loaded::State(mask) => {
                let value = u32::from_ne_bytes(value.try_into().ok()?);
                match (mask, value, sense) {
                    // One of the states is there, which is written as "not none of them".
                    (Some(mask), 0, Sense::IsNot) => Some(Match::State(*mask, Sense::Is)),
                    (Some(mask), 0, Sense::Is) => Some(Match::State(*mask, Sense::IsNot)),
                    (None, value, sense) => Some(Match::State(value, sense)),
                    _ => None,
                }
            }
            Loaded::Source(family, mask) => Some(Match::Source(network(*family, value, mask.as_deref())?, sense)),
            Loaded::Destination(family, mask) => {
                Some(Match::Destination(network(*family, value, mask.as_deref())?, sense))
            }
        }
    }
}

/// What is asked of a value that is compared, by `NFT_CMP_EQ` or `NFT_CMP_NEQ`, and of a range.
fn sense(comparison: Option<u32>) -> Option<Sense> {
    match comparison? {
        0 => Some(Sense::Is),
        1 => Some(Sense::IsNot),
        _ => None,
    }
}

/// One end of a range of ports (`NFT_CMP_LTE`, `NFT_CMP_GTE`).
fn from_or_up_to(comparison: Option<u32>, value: &[u8]) -> Option<Match> {
    let port = u16::from_be_bytes(value.try_into().ok()?);
    let ports = match comparison? {
        3 => 0..=port,
        5 => port..=u16::MAX,
        _ => return None,
    };
    Some(Match::DestinationPort(vec![ports], Sense::Is))
}

fn meta(key: Option<u32>) -> Option<Loaded> {
    Some(match key? {
        1 => Loaded::Ethertype,
        4 => Loaded::InIndex,
        5 => Loaded::OutIndex,
        6 => Loaded::InName,
        7 => Loaded::OutName,
        15 => Loaded::Family,
        16 => Loaded::Protocol,
        _ => return None,
    })
}

/// The network that a comparison with the first bytes of an address means.
fn network(family: Family, value: &[u8], mask: Option<&[u8]>) -> Option<IpNet> {
    let ones = match mask {
        None => value.len() * 8,
        Some(mask) => {
            let ones = mask.iter().map(|byte| byte.leading_ones() as usize).take_while(|ones| *ones > 0);
            let ones: usize = ones.sum();
            let plain = (0..mask.len() * 8).all(|bit| (mask[bit / 8] >> (7 - bit % 8) & 1 == 1) == (bit < ones));
            if !plain {
                return None;
            }
            ones
        }
    };
    let length = u8::try_from(ones).ok()?;
    match family {
        Family::V4 => {
            let mut bytes = [0; 4];
            bytes.get_mut(..value.len())?.copy_from_slice(value);
            Some(IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bytes), length).ok()?.trunc()))
        }
        Family::V6 => {
            let mut bytes = [0; 16];
            bytes.get_mut(..value.len())?.copy_from_slice(value);
            Some(IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bytes), length).ok()?.trunc()))
        }
    }
}

fn read_verdict(verdict: &[u8]) -> Verdict {
    let chain = || find(verdict, 0, 2).and_then(text).unwrap_or_default().to_owned();
    match find(verdict, 0, 1).and_then(number).map(u32::cast_signed) {
        Some(libc::NF_ACCEPT) => Verdict::Accept,
        Some(libc::NF_DROP) => Verdict::Drop("drop".to_owned()),
        Some(-1) => Verdict::Continue,
        Some(-3) => Verdict::Jump(chain()),
        Some(-4) => Verdict::Goto(chain()),
        Some(-5) => Verdict::Return,
        other => Verdict::Unclear(format!("verdict {other:?}")),
    }
}

/// A target of iptables, by its name.
pub(super) fn target(name: &str) -> Verdict {
    match name {
        "ACCEPT" => Verdict::Accept,
        "RETURN" => Verdict::Return,
        "DROP" | "REJECT" | "NFQUEUE" | "QUEUE" | "SYNPROXY" | "TARPIT" | "DELUDE" | "STEAL" => {
            Verdict::Drop(format!("-j {name}"))
        }
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" | "SNPT" | "DNPT" | "CLUSTERIP" => {
            Verdict::Translate(format!("-j {name}"))
        }
        // These count, mark, log or change what no route depends on.
        "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" | "CONNSECMARK" | "SECMARK" | "TRACE" | "CT" | "NOTRACK"
        | "TCPMSS" | "DSCP" | "TOS" | "CLASSIFY" | "CHECKSUM" | "TEE" | "SET" | "AUDIT" | "RATEEST" | "IDLETIMER"
        | "LED" | "ECN" | "TCPOPTSTRIP" | "HMARK" => Verdict::Continue,
        other => Verdict::Unclear(format!("-j {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::firewall::state;
    use nix::sched::{CloneFlags, unshare};
    use std::{
        io::Write,
        process::{Command, Stdio},
        thread,
    };

    /// What is read of what a command sets in a network namespace of its own, of which it is told on its input.
    fn read_back(command: &[&str], rules: &str) -> Firewall {
        let (command, rules): (Vec<_>, _) = (command.iter().map(|part| (*part).to_owned()).collect(), rules.to_owned());
        thread::spawn(move || {
            // It takes root.
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let mut child =
                Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn().expect(&command[0]);
            child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "{rules}");
            let names = BTreeMap::from([(1, "lo".parse().unwrap())]);
            rules_of(&names)
        })
        .join()
        .unwrap()
    }

    fn rules_of(names: &BTreeMap<u32, InterfaceName>) -> Firewall {
        super::rules(&mut Cache::default(), names).unwrap()
    }

    fn chain<'a>(firewall: &'a Firewall, name: &str) -> &'a Chain {
        firewall.chains.iter().find(|chain| chain.name == name).unwrap()
    }

    fn pattern(text: &str, open: bool) -> Pattern {
        Pattern { text: text.to_owned(), open }
    }

    #[test]
    fn rules_read_as_they_were_written() {
        let firewall = read_back(
            &["nft", "-f", "-"],
            "table inet filter {
                chain forward {
                    type filter hook forward priority 0; policy drop;
                    iifname \"cpsvrf*\" accept
                    iifname \"eth0\" oifname != \"eth1\" counter drop
                    iif \"lo\" reject
                    ip saddr 10.1.0.0/16 ip daddr 10.2.128.0/17 jump user
                    ip6 saddr fd00:1::/48 goto user
                    ct state invalid log drop
                    ip saddr != 10.1.2.3 return
                    tcp dport vmap { 22 : drop, 80 : accept }
                }
                chain user { counter; }
                chain input {
                    type filter hook input priority 0; policy drop;
                    ct state established,related accept
                    ct state != new accept
                    udp dport 4789 accept
                    meta l4proto udp udp dport 4000-5000 drop
                    udp dport != 4789-4790 accept
                    udp dport { 53, 4789 } accept
                    tcp dport 22 accept
                }
                chain output { type filter hook output priority 0; }
            }
            table ip nat {
                chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade; }
            }
            table netdev raw { chain early { type filter hook ingress device lo priority 0; policy drop; }; }",
        );
        let forward = chain(&firewall, "forward");
        assert_eq!((forward.hook, forward.drops, &forward.scope), (Some(Hook::Forward), true, &Scope::Both));
        let net = |text: &str| text.parse().unwrap();
        let v4 = Match::Family(Family::V4, Sense::Is);
        let rules: Vec<(Vec<Match>, Verdict)> =
            forward.rules.iter().map(|rule| (rule.matches.clone(), rule.verdict.clone())).collect();
        let expected = [
            (vec![Match::In(pattern("cpsvrf", true), Sense::Is)], Verdict::Accept),
            (
                vec![Match::In(pattern("eth0", false), Sense::Is), Match::Out(pattern("eth1", false), Sense::IsNot)],
                Verdict::Drop("drop".into()),
            ),
            (vec![Match::In(pattern("lo", false), Sense::Is)], Verdict::Drop("reject".into())),
            (
                vec![
                    v4.clone(),
                    Match::Source(net("10.1.0.0/16"), Sense::Is),
                    Match::Destination(net("10.2.128.0/17"), Sense::Is),
                ],
                Verdict::Jump("user".into()),
            ),
            (
                vec![Match::Family(Family::V6, Sense::Is), Match::Source(net("fd00:1::/48"), Sense::Is)],
                Verdict::Goto("user".into()),
            ),
        ];
        for (have, want) in rules.iter().zip(&expected) {
            assert_eq!(have, want);
        }
        assert_eq!(rules[5].1, Verdict::Drop("drop".into()));
        assert_eq!(rules[5].0, [Match::State(1, Sense::Is)], "and what is logged is no condition");
        assert_eq!(rules[6].0, [v4, Match::Source(net("10.1.2.3/32"), Sense::IsNot)]);
        assert!(matches!(rules[7].1, Verdict::Unclear(_)));
        let post = chain(&firewall, "post");
        assert_eq!(post.hook, Some(Hook::Postrouting));
        assert_eq!(post.rules[0].verdict, Verdict::Translate("masquerade".into()));
        assert_eq!(post.rules[0].matches[0], Match::Source(net("172.17.0.0/16"), Sense::Is));
        assert_eq!(chain(&firewall, "early").scope, Scope::Devices(vec![pattern("lo", false)]));
        let input = chain(&firewall, "input");
        assert_eq!((input.hook, chain(&firewall, "output").hook), (Some(Hook::Input), Some(Hook::Output)));
        let (udp, tcp) = (Match::Protocol(17, Sense::Is), Match::Protocol(6, Sense::Is));
        let ports = |ports: std::ops::RangeInclusive<u16>, sense| Match::DestinationPort(vec![ports], sense);
        let conditions: Vec<&[Match]> = input.rules.iter().map(|rule| &*rule.matches).collect();
        assert_eq!(conditions[0], [Match::State(6, Sense::Is)]);
        assert_eq!(conditions[1], [Match::State(state::NEW, Sense::IsNot)]);
        assert_eq!(conditions[2], [udp.clone(), ports(4789..=4789, Sense::Is)]);
        assert_eq!(conditions[3], [udp.clone(), ports(4000..=u16::MAX, Sense::Is), ports(0..=5000, Sense::Is)]);
        assert_eq!(conditions[4], [udp.clone(), ports(4789..=4790, Sense::IsNot)]);
        assert_eq!(conditions[5], [udp, Match::Other], "what is in a set is not read");
        assert_eq!(conditions[6], [tcp, ports(22..=22, Sense::Is)]);
    }

    #[test]
    fn what_iptables_makes_of_its_rules_is_read() {
        let firewall = read_back(
            &["iptables-nft-restore"],
            "*filter
:INPUT DROP
-A INPUT -p udp --dport 4789 -j ACCEPT
-A INPUT -p udp -m multiport --dports 53,4780:4790 -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m state ! --state NEW -m comment --comment why -j DROP
COMMIT
",
        );
        let input = chain(&firewall, "INPUT");
        assert_eq!((input.hook, input.drops), (Some(Hook::Input), true));
        let udp = Match::Protocol(17, Sense::Is);
        let conditions: Vec<&[Match]> = input.rules.iter().map(|rule| &*rule.matches).collect();
        assert_eq!(conditions[0], [udp.clone(), Match::DestinationPort(vec![4789..=4789], Sense::Is)]);
        assert_eq!(conditions[1], [udp, Match::DestinationPort(vec![53..=53, 4780..=4790], Sense::Is)]);
        assert_eq!(conditions[2], [Match::State(6, Sense::Is)]);
        assert_eq!(conditions[3], [Match::State(state::NEW, Sense::IsNot)]);
    }
}
