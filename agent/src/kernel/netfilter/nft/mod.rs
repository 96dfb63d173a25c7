//! nftables over netlink (`include/uapi/linux/netfilter/nf_tables.h`), read-only. All numbers are big-endian.

mod sets;
#[cfg(test)]
mod tests;

use super::Cache;
use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{attributes, text},
    },
    objects::{
        Family, Firewall,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict, state},
    },
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use sets::{Place as SetPlace, Sets};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`.
const TABLE_DORMANT: u32 = 1;
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
/// `NFTA_DYNSET_SET_NAME`.
const DYNAMIC_SET: u16 = 1;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;
/// `IPS_DST_NAT`.
const DESTINATION_CHANGED: u32 = 1 << 5;

const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_NETDEV: u8 = 5;
const FAMILY_IPV6: u8 = 10;

/// How often they are read anew because they were changed meanwhile.
const ATTEMPTS: usize = 8;

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
    let (mut generation, mut firewall) = (generation, read(&mut socket, names)?);
    // Chains and rules are asked for one after the other: of one set of rules only where nothing was changed meanwhile.
    for _ in 0..ATTEMPTS {
        let now = self::generation(&mut socket)?;
        if now == generation {
            cache.nft = generation.map(|generation| (generation, names.clone(), firewall.clone()));
            return Ok(firewall);
        }
        (generation, firewall) = (now, read(&mut socket, names)?);
    }
    Err(KernelError::Interrupted { what: "rules of nftables" })
}

/// None where the kernel does not tell it.
fn generation(socket: &mut Socket) -> Result<Option<Generation>, KernelError> {
    let answer = socket.get(GET_GENERATION, |body| body.extend([0; HEADER_LEN]))?;
    Ok(answer.ok().and_then(|payload| number(find(&payload, HEADER_LEN, GENERATION_ID)?)))
}

fn read(socket: &mut Socket, names: &BTreeMap<u32, InterfaceName>) -> Result<Firewall, KernelError> {
    let all = |body: &mut Vec<u8>| body.extend([0; HEADER_LEN]);
    // Of a table that is dormant, the kernel evaluates nothing.
    let dormant = socket.dump("tables of nftables", GET_TABLE, all, BTreeSet::new, |dormant, payload| {
        let flags = find(payload, HEADER_LEN, TABLE_FLAGS).and_then(number).unwrap_or_default();
        if flags & TABLE_DORMANT != 0
            && let (Some((family, _)), Some(name)) =
                (family(payload), find(payload, HEADER_LEN, TABLE_NAME).and_then(text))
        {
            dormant.insert((family, name.to_owned()));
        }
    })?;
    let mut chains: Vec<Chain> = socket.dump("chains of nftables", GET_CHAIN, all, Vec::new, |chains, payload| {
        chains.extend(read_chain(payload));
    })?;
    chains.retain(|chain| !dormant.contains(&(chain.family, chain.table.clone())));
    let mut sets = Sets::read(socket, |family, table| dormant.contains(&(family, table.to_owned())))?;
    let rules = loop {
        let start = || {
            sets.begin();
            (Vec::new(), BTreeSet::new())
        };
        let (rules, changing) =
            socket.dump("rules of nftables", GET_RULE, all, start, |(rules, changing), payload| {
                if let Some((key, mut read)) = read_rules(payload, names, &sets, changing) {
                    rules.extend(read.drain(..).map(|rule| (key.clone(), rule)));
                }
            })?;
        // Where a rule lets packets change a set, all rules are read again without knowing it.
        if !sets.remove(&changing) {
            break rules;
        }
    };
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

/// The rule, or as many as make up for one that asks a map what to do. Sets that packets change by it are added to `changing`.
fn read_rules(
    payload: &[u8],
    names: &BTreeMap<u32, InterfaceName>,
    sets: &Sets,
    changing: &mut BTreeSet<SetPlace>,
) -> Option<(Place, Vec<FilterRule>)> {
    let (family, _) = family(payload)?;
    let table = text(find(payload, HEADER_LEN, RULE_TABLE)?)?.to_owned();
    let chain = text(find(payload, HEADER_LEN, RULE_CHAIN)?)?.to_owned();
    let handle: [u8; 8] = find(payload, HEADER_LEN, RULE_HANDLE)?.try_into().ok()?;
    let mut reading = Reading {
        names,
        sets,
        family,
        table: &table,
        registers: BTreeMap::new(),
        matches: Vec::new(),
        verdict: Verdict::Continue,
        branches: None,
    };
    let mut expressions = attributes(find(payload, HEADER_LEN, RULE_EXPRESSIONS).unwrap_or_default(), 0);
    for (_, expression) in expressions.by_ref() {
        let name = find(expression, 0, EXPRESSION_NAME).and_then(text).unwrap_or_default();
        let data = find(expression, 0, EXPRESSION_DATA).unwrap_or_default();
        if name == "dynset"
            && let Some(set) = find(data, 0, DYNAMIC_SET).and_then(text)
        {
            changing.insert((family, table.clone(), set.to_owned()));
        }
        reading.expression(name, data);
        if reading.verdict != Verdict::Continue || reading.branches.is_some() {
            break;
        }
    }
    let Reading { matches, mut verdict, mut branches, .. } = reading;
    // What goes on goes on with what is left of the rule.
    if branches.iter().flatten().any(|(_, verdict)| *verdict == Verdict::Continue) && expressions.next().is_some() {
        (branches, verdict) = (None, verdict_map());
    }
    let label = format!("rule handle {}", u64::from_be_bytes(handle));
    let rules = match branches {
        None => vec![FilterRule { label, matches, verdict }],
        Some(branches) => {
            let rule = |(condition, verdict)| {
                let matches = matches.iter().cloned().chain([condition]).collect();
                FilterRule { label: label.clone(), matches, verdict }
            };
            branches.into_iter().map(rule).collect()
        }
    };
    Some(((family, table, chain), rules))
}

/// Of a map that does not say for certain what is in it.
fn verdict_map() -> Verdict {
    Verdict::Unclear("verdict map".to_owned())
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
    /// The port that it comes from, and the one that it goes to.
    Ports,
    /// A state of connection tracking, with the mask that was laid over it.
    State(Option<u32>),
    /// What connection tracking did with the connection (`enum ip_conntrack_status`), with the mask.
    Status(Option<u32>),
    /// A part of an address from its first byte, with the mask that was laid over it.
    Source(Family, Option<Vec<u8>>),
    Destination(Family, Option<Vec<u8>>),
}

struct Reading<'a> {
    names: &'a BTreeMap<u32, InterfaceName>,
    sets: &'a Sets,
    family: &'static str,
    table: &'a str,
    registers: BTreeMap<u32, Loaded>,
    matches: Vec<Match>,
    verdict: Verdict,
    /// What a map says, by what else must be true.
    branches: Option<Vec<(Match, Verdict)>>,
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
                    (Some(Loaded::Status(None)), Some(mask)) => {
                        mask.try_into().ok().map(|mask| Loaded::Status(Some(u32::from_ne_bytes(mask))))
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
                    // Both ports at once.
                    (Some(Loaded::Ports), Some(Sense::Is)) => {
                        self.matches.push(Match::Other);
                        value.get(2..4).and_then(|port| self.compared(&Loaded::DestinationPort, port, Sense::Is))
                    }
                    (Some(loaded), Some(sense)) => self.compared(&loaded, value, sense),
                    (Some(loaded), None) => {
                        let range = from_or_up_to(comparison, value);
                        range.and_then(|[first, last]| sets::range(&loaded, first, last, Sense::Is))
                    }
                    _ => None,
                };
                self.matches.push(condition.unwrap_or(Match::Other));
            }
            "range" => {
                let ends = [3, 4].map(|attribute| find(attribute).and_then(|data| self::find(data, 0, 1)));
                let condition = match (self.registers.get(&register(1)), ends, sense(find(2).and_then(number))) {
                    (Some(loaded), [Some(first), Some(last)], Some(sense)) => {
                        sets::range(loaded, first.to_vec(), last.to_vec(), sense)
                    }
                    _ => None,
                };
                self.matches.push(condition.unwrap_or(Match::Other));
            }
            "ct" if find(4).is_none() => {
                let loaded = match find(2).and_then(number) {
                    Some(0) => Some(Loaded::State(None)),
                    Some(2) => Some(Loaded::Status(None)),
                    _ => None,
                };
                self.load(register(1), loaded);
            }
            "immediate" if register(1) == 0 => {
                let verdict = find(2).and_then(|data| self::find(data, 0, 2)).unwrap_or_default();
                self.verdict = read_verdict(verdict);
            }
            // A set decides whether the rule applies, a map of verdicts what it does.
            "lookup" if find(3).is_none_or(|register| number(register) == Some(0)) => {
                let set = find(1).and_then(text).unwrap_or_default();
                let inverted = find(5).and_then(number).is_some_and(|flags| flags & LOOKUP_INVERTED != 0);
                let sense = if inverted { Sense::IsNot } else { Sense::Is };
                if find(3).is_none() {
                    let condition = self.in_set(set, register(2), sense).unwrap_or(Match::Other);
                    self.matches.push(condition);
                } else {
                    self.branches = self.in_map(set, register(2));
                    if self.branches.is_none() {
                        self.verdict = verdict_map();
                    }
                }
            }
            "reject" => self.verdict = Verdict::Drop("reject".to_owned()),
            // Who listens there lets pass what it wants, and what is forwarded to a device may come back from there.
            "queue" => self.verdict = Verdict::Unclear("queue".to_owned()),
            "fwd" => self.verdict = Verdict::Unclear("fwd".to_owned()),
            "synproxy" => self.verdict = Verdict::Drop("synproxy".to_owned()),
            "masq" => self.verdict = Verdict::Translate("masquerade".to_owned()),
            "redir" => self.verdict = Verdict::Translate("redirect".to_owned()),
            "nat" => self.verdict = Verdict::Translate("nat".to_owned()),
            "tproxy" => self.verdict = Verdict::Translate("tproxy".to_owned()),
            // These count, log, mark or write into the packet.
            "counter" | "log" | "notrack" | "last" | "secmark" | "meta" | "dup" | "flow_offload" | "payload" | "ct" => {
            }
            "exthdr" if find(7).is_some() => {}
            // Of named objects those that have a limit are conditions: not counters, helpers, timeouts, marks and expectations.
            "objref" if matches!(find(1).and_then(number), Some(1 | 3 | 7 | 8 | 9)) => {}
            "immediate" => self.load(register(1), None),
            "match" => {
                let (name, revision) = (find(1).and_then(text).unwrap_or_default(), find(2).and_then(number));
                let told = find(3).unwrap_or_default();
                self.matches.extend(super::matches::conditions(name, revision.unwrap_or(u32::MAX), told));
            }
            "target" => self.verdict = target(find(1).and_then(text).unwrap_or_default()),
            _ => {
                // What it has written into a register is nothing that is known.
                self.registers.clear();
                self.matches.push(Match::Other);
            }
        }
    }

    /// What it means that a set has what a register holds; none where that cannot be told.
    fn in_set(&self, set: &str, register: u32, sense: Sense) -> Option<Match> {
        let set = self.sets.get(&(self.family, self.table.to_owned(), set.to_owned()))?;
        let condition = set.condition(self.registers.get(&register)?, self.names, sense)?;
        self.sets.take(sets::values(&condition)).then_some(condition)
    }

    /// What a map says of what a register holds; none where that cannot be told.
    fn in_map(&self, set: &str, register: u32) -> Option<Vec<(Match, Verdict)>> {
        let map = self.sets.get(&(self.family, self.table.to_owned(), set.to_owned()))?;
        let branches = map.branches(self.registers.get(&register)?, self.names)?;
        // All other conditions become part of each branch.
        let others: usize = self.matches.iter().map(sets::values).sum();
        let values: usize = branches.iter().map(|(condition, _)| 1 + others + sets::values(condition)).sum();
        self.sets.take(values).then_some(branches)
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
            _ => self.matches.contains(&Match::Family(vec![Family::V4], Sense::Is)),
        };
        match (at, v4) {
            // It is only looked at behind a comparison of the protocol, which has one there.
            ([Some(2), Some(2), Some(2)], _) => Some(Loaded::DestinationPort),
            ([Some(2), Some(0), Some(4)], _) => Some(Loaded::Ports),
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
        let by_index = || Some(device(self.names, u32::from_ne_bytes(value.try_into().ok()?)));
        match loaded {
            Loaded::InName => Some(Match::In(vec![pattern()?], sense)),
            Loaded::OutName => Some(Match::Out(vec![pattern()?], sense)),
            Loaded::InIndex => Some(Match::In(vec![by_index()?], sense)),
            Loaded::OutIndex => Some(Match::Out(vec![by_index()?], sense)),
            Loaded::Family => match *value.first()? {
                FAMILY_IPV4 => Some(Match::Family(vec![Family::V4], sense)),
                FAMILY_IPV6 => Some(Match::Family(vec![Family::V6], sense)),
                _ => None,
            },
            Loaded::Ethertype => match u16::from_be_bytes(value.try_into().ok()?) {
                0x0800 => Some(Match::Family(vec![Family::V4], sense)),
                0x86dd => Some(Match::Family(vec![Family::V6], sense)),
                _ => None,
            },
            Loaded::Protocol => match value {
                [protocol] => Some(Match::Protocol(vec![*protocol], sense)),
                _ => None,
            },
            Loaded::DestinationPort => {
                let port = u16::from_be_bytes(value.try_into().ok()?);
                Some(Match::DestinationPort(vec![port..=port], sense))
            }
            Loaded::Ports => None,
            // Only that: an address of the connection was changed on its way to its destination.
            Loaded::Status(mask) => match (*mask == Some(DESTINATION_CHANGED), value, sense) {
                (true, [0, 0, 0, 0], Sense::IsNot) => Some(Match::State(state::DNAT, Sense::Is)),
                (true, [0, 0, 0, 0], Sense::Is) => Some(Match::State(state::DNAT, Sense::IsNot)),
                _ => None,
            },
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
            Loaded::Source(family, mask) => {
                Some(Match::Source(network(*family, value, mask.as_deref())?.into(), sense))
            }
            Loaded::Destination(family, mask) => {
                Some(Match::Destination(network(*family, value, mask.as_deref())?.into(), sense))
            }
        }
    }
}

/// A device by its index. One that is not there any more fits nothing.
fn device(names: &BTreeMap<u32, InterfaceName>, index: u32) -> Pattern {
    let text = names.get(&index).map_or_else(|| format!("#{index}"), ToString::to_string);
    Pattern { text, open: false }
}

/// What is asked of a value that is compared, by `NFT_CMP_EQ` or `NFT_CMP_NEQ`, and of a range.
fn sense(comparison: Option<u32>) -> Option<Sense> {
    match comparison? {
        0 => Some(Sense::Is),
        1 => Some(Sense::IsNot),
        _ => None,
    }
}

/// All up to a value, or from it on (`NFT_CMP_LTE`, `NFT_CMP_GTE`): the first and the last.
fn from_or_up_to(comparison: Option<u32>, value: &[u8]) -> Option<[Vec<u8>; 2]> {
    match comparison? {
        3 => Some([vec![0; value.len()], value.to_vec()]),
        5 => Some([value.to_vec(), vec![0xff; value.len()]]),
        _ => None,
    }
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
        "DROP" | "REJECT" | "SYNPROXY" | "TARPIT" | "DELUDE" | "STEAL" => Verdict::Drop(format!("-j {name}")),
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
