//! The content of sets and verdict maps, as far as it determines what a rule that looks something up there does.
//!
//! It does so only if it changes with the rules alone, which gives another generation: not if packets add elements or
//! elements expire. Concatenated keys and maps of anything but verdicts are not read.

use super::{
    attribute::{
        EXPRESSION_NAME, FAMILY_ARP, FAMILY_BRIDGE, FAMILY_INET, FAMILY_IPV4, FAMILY_IPV6, FAMILY_NETDEV, HEADER_LEN,
        SUBSYSTEM, family, find, number, read_verdict,
    },
    registers::{Loaded, device},
};
use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{attributes, bytes_of_name, name, put, text},
    },
    objects::{
        Family,
        firewall::{Match, Networks, Pattern, Sense, Verdict, ethertype},
    },
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

const GET_SET: u16 = SUBSYSTEM | 0x0a;
const GET_ELEMENTS: u16 = SUBSYSTEM | 0x0d;

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_EXPRESSION: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;
/// `NFT_SET_INTERVAL`, and those of sets that are read: `NFT_SET_ANONYMOUS`, `NFT_SET_CONSTANT`, `NFT_SET_MAP`.
const INTERVAL: u32 = 0x04;
const MAP: u32 = 0x08;
const READ: u32 = 0x01 | 0x02 | INTERVAL | MAP;
/// `NFT_SET_EXPR`: each element has expressions of its own.
const WITH_EXPRESSIONS: u32 = 0x100;
/// `NFT_DATA_VERDICT`.
const OF_VERDICTS: u32 = 0xffff_ff00;
/// The longest of ports, protocols, states, addresses and names of devices.
const MAX_KEY_LEN: u32 = 16;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_PAD: u16 = 8;
const ELEMENT_EXPRESSIONS: u16 = 11;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// `NFT_SET_ELEM_CATCHALL`.
const CATCH_ALL: u32 = 2;

/// Sets whose elements are read in one observation. The content of others is unknown.
const MAX_SETS: usize = 4096;
/// Elements that are read of one set.
const MAX_ELEMENTS: usize = 4096;
/// Elements that are read in one observation, and the most values that then are in conditions of rules.
const MAX_VALUES: usize = 1 << 16;

/// Family, table and name.
pub(super) type Place = (&'static str, String, String);

/// The names of a table and one of its sets as the kernel has them.
type KernelNames = [Vec<u8>; 2];

/// A set, or a verdict map.
#[derive(Debug)]
pub(super) struct Set {
    /// The length of a key, in bytes.
    key_len: usize,
    /// Whether it was made for ranges. Their ends are in network order, other keys in the order of what is compared.
    intervals: bool,
    /// Without overlaps.
    elements: Vec<Element>,
    /// What applies to keys that are in no element: in a set, only that there is such an element.
    otherwise: Option<Verdict>,
    is_map: bool,
}

/// All keys from one to another, both included.
#[derive(Debug)]
struct Element {
    first: Vec<u8>,
    last: Vec<u8>,
    /// The verdict of a map; none in a set.
    verdict: Verdict,
}

/// Sets whose content is certain, by table and name.
#[derive(Debug)]
pub(super) struct Sets {
    known: BTreeMap<Place, Set>,
    /// How many more values may become part of conditions.
    left: Cell<usize>,
}

impl Sets {
    /// The sets of all tables but the dormant ones.
    pub(super) fn read(
        socket: &mut Socket,
        is_dormant: impl Fn(&'static str, &str) -> bool,
    ) -> Result<Self, KernelError> {
        let all = |body: &mut Vec<u8>| body.extend([0; HEADER_LEN]);
        let found = socket.dump("sets of nftables", GET_SET, all, BTreeMap::new, |found, payload| {
            found.extend(read_set(payload));
        })?;
        let mut known = BTreeMap::new();
        let mut left = MAX_VALUES;
        for (place, (mut set, names)) in
            found.into_iter().filter(|((family, table, _), _)| !is_dormant(family, table)).take(MAX_SETS)
        {
            let most = left.min(MAX_ELEMENTS);
            let elements = elements(socket, place.0, &names, most)?;
            let count = elements.as_ref().map_or(most, Vec::len);
            left = left.saturating_sub(count);
            if let Some(elements) = elements
                && set.fill(elements).is_some()
            {
                known.insert(place, set);
            }
        }
        Ok(Self { known, left: Cell::new(MAX_VALUES) })
    }

    /// Removes those whose content packets change. Returns whether there was one.
    pub(super) fn remove(&mut self, changing: &BTreeSet<Place>) -> bool {
        let before = self.known.len();
        self.known.retain(|place, _| !changing.contains(place));
        self.known.len() < before
    }

    /// Before all rules are read, or read again.
    pub(super) fn begin(&self) {
        self.left.set(MAX_VALUES);
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Set> {
        self.known.get(place)
    }

    /// Whether this many more values may become part of conditions.
    pub(super) fn take(&self, values: usize) -> bool {
        let left = self.left.get().checked_sub(values);
        self.left.set(left.unwrap_or_default());
        left.is_some()
    }
}

/// A set without its elements, and how the kernel names its table and it; none if its content would not be certain.
fn read_set(payload: &[u8]) -> Option<(Place, (Set, KernelNames))> {
    let (family, _) = family(payload)?;
    let find = |wanted| find(payload, HEADER_LEN, wanted);
    let flags = find(SET_FLAGS).and_then(number).unwrap_or_default();
    let key_len = find(SET_KEY_LEN).and_then(number).filter(|length| (1..=MAX_KEY_LEN).contains(length))?;
    let is_map = flags & MAP != 0;
    let plain = flags & !(READ | WITH_EXPRESSIONS) == 0;
    let counts = find(SET_EXPRESSION).is_none_or(only_counts) && find(SET_EXPRESSIONS).is_none_or(only_count);
    if !plain || !counts || (is_map && find(SET_DATA_TYPE).and_then(number) != Some(OF_VERDICTS)) {
        return None;
    }
    let names = [find(SET_TABLE)?, find(SET_NAME)?];
    let place = (family, name(names[0])?, name(names[1])?);
    let (key_len, intervals) = (key_len.try_into().ok()?, flags & INTERVAL != 0);
    let set = Set { key_len, intervals, elements: Vec::new(), otherwise: None, is_map };
    Some((place, (set, names.map(bytes_of_name))))
}

/// An expression that lets every packet through: one with a limit decides which of them the element matches.
fn only_counts(expression: &[u8]) -> bool {
    matches!(find(expression, 0, EXPRESSION_NAME).and_then(text), Some("counter" | "last"))
}

fn only_count(expressions: &[u8]) -> bool {
    attributes(expressions, 0).all(|(_, expression)| only_counts(expression))
}

/// An entry of the kernel's list of elements: a key, the end of a range, or the catch-all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    key: Option<Vec<u8>>,
    /// Where one range ends another may begin.
    begins: bool,
    verdict: Option<Verdict>,
}

/// The elements of a set; none if there are more, or some are not understood.
fn elements(
    socket: &mut Socket,
    family: &'static str,
    [table, name]: &KernelNames,
    most: usize,
) -> Result<Option<Vec<Listed>>, KernelError> {
    // The end of a range is an element of its own.
    let most = 2 * most;
    let read = Cell::new(0);
    let stop = || read.get() > most;
    let request = |body: &mut Vec<u8>| {
        let number = match family {
            "ip" => FAMILY_IPV4,
            "ip6" => FAMILY_IPV6,
            "inet" => FAMILY_INET,
            "bridge" => FAMILY_BRIDGE,
            "arp" => FAMILY_ARP,
            _ => FAMILY_NETDEV,
        };
        body.extend([number, 0, 0, 0]);
        put(body, LIST_TABLE, &[table.as_slice(), &[0]].concat());
        put(body, LIST_SET, &[name.as_slice(), &[0]].concat());
    };
    let start = || {
        read.set(0);
        Some(Vec::new())
    };
    let found = socket.dump_unless(&stop, "elements of a set", GET_ELEMENTS, request, start, |found, payload| {
        let list = find(payload, HEADER_LEN, LIST_ELEMENTS).unwrap_or_default();
        for (_, element) in attributes(list, 0) {
            read.set(read.get() + 1);
            match (found.as_mut(), listed(element)) {
                (Some(all), Some(one)) if read.get() <= most => all.push(one),
                _ => *found = None,
            }
        }
    });
    match found {
        Ok(found) => Ok(found),
        // The rest of the answer is still pending on that socket.
        Err(KernelError::Abandoned) => {
            *socket = Socket::netfilter()?;
            Ok(None)
        }
        // It was deleted meanwhile; then the generation has changed, too.
        Err(KernelError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn listed(element: &[u8]) -> Option<Listed> {
    let flags = find(element, 0, ELEMENT_FLAGS).and_then(number).unwrap_or_default();
    let understood = attributes(element, 0).all(|(kind, value)| match kind {
        ELEMENT_KEY | ELEMENT_DATA | ELEMENT_FLAGS | ELEMENT_USERDATA | ELEMENT_PAD => true,
        ELEMENT_EXPRESSION => only_counts(value),
        ELEMENT_EXPRESSIONS => only_count(value),
        _ => false,
    });
    if !understood || flags & !(INTERVAL_END | CATCH_ALL) != 0 {
        return None;
    }
    let key = match find(element, 0, ELEMENT_KEY) {
        _ if flags & CATCH_ALL != 0 => None,
        key => Some(find(key?, 0, 1)?.to_vec()),
    };
    let verdict = find(element, 0, ELEMENT_DATA).and_then(|data| find(data, 0, 2)).map(read_verdict);
    Some(Listed { key, begins: flags & INTERVAL_END == 0, verdict })
}

impl Set {
    /// Takes the kernel's list; none if it is malformed.
    fn fill(&mut self, mut listed: Vec<Listed>) -> Option<()> {
        // Keys in order, an end before what begins there.
        listed.sort();
        let mut open: Option<(Vec<u8>, Verdict)> = None;
        for Listed { key, begins, verdict } in listed {
            if begins && verdict.is_some() != self.is_map {
                return None;
            }
            let verdict = verdict.unwrap_or(Verdict::Continue);
            let Some(key) = key else {
                self.otherwise = Some(verdict);
                continue;
            };
            if key.len() != self.key_len {
                return None;
            }
            if !self.intervals {
                self.elements.push(Element { first: key.clone(), last: key, verdict });
                continue;
            }
            // If the next range follows directly, its beginning is the end. nftables writes an end before the first
            // one.
            if let Some((first, verdict)) = open.take() {
                let last = before(key.clone()).filter(|last| first <= *last)?;
                self.elements.push(Element { first, last, verdict });
            }
            open = begins.then_some((key, verdict));
        }
        if let Some((first, verdict)) = open {
            self.elements.push(Element { first, last: vec![0xff; self.key_len], verdict });
        }
        Some(())
    }

    /// The condition that the set contains what a register holds; none if that cannot be told.
    pub(super) fn condition(&self, loaded: &Loaded, names: &Names, sense: Sense) -> Option<Match> {
        // A set with a catch-all element contains every key.
        if self.is_map || self.otherwise.is_some() {
            return None;
        }
        self.one_of(&self.elements.iter().collect::<Vec<_>>(), loaded, names, sense)
    }

    /// What happens to packets depending on what a register holds, in any order: no two conditions hold for one packet.
    /// None if that cannot be told.
    pub(super) fn branches(&self, loaded: &Loaded, names: &Names) -> Option<Vec<(Match, Verdict)>> {
        if !self.is_map {
            return None;
        }
        let mut by_verdict: BTreeMap<&Verdict, Vec<&Element>> = BTreeMap::new();
        for element in &self.elements {
            by_verdict.entry(&element.verdict).or_default().push(element);
        }
        let branch = |(verdict, elements): (&Verdict, Vec<&Element>)| {
            Some((self.one_of(&elements, loaded, names, Sense::Is)?, verdict.clone()))
        };
        let mut branches: Vec<_> = by_verdict.into_iter().map(branch).collect::<Option<_>>()?;
        if let Some(verdict) = &self.otherwise {
            let all: Vec<&Element> = self.elements.iter().collect();
            branches.push((self.one_of(&all, loaded, names, Sense::IsNot)?, verdict.clone()));
        }
        Some(branches)
    }

    fn one_of(&self, elements: &[&Element], loaded: &Loaded, names: &Names, sense: Sense) -> Option<Match> {
        let length = match loaded {
            Loaded::Protocol | Loaded::Family | Loaded::IcmpType => 1,
            Loaded::Ethertype | Loaded::DestinationPort => 2,
            // These two are in host byte order, which has no ranges.
            Loaded::State(None) | Loaded::InIndex | Loaded::OutIndex if !self.intervals => 4,
            Loaded::Source(Family::V4, None) | Loaded::Destination(Family::V4, None) => 4,
            Loaded::Source(Family::V6, None)
            | Loaded::Destination(Family::V6, None)
            | Loaded::InName
            | Loaded::OutName => 16,
            _ => return None,
        };
        if self.key_len != length {
            return None;
        }
        let has = |key: &[u8]| elements.iter().any(|element| *element.first <= *key && *key <= *element.last);
        let bytes = || (0..=u8::MAX).filter(|byte| has(&[*byte])).collect();
        let words = || elements.iter().filter_map(|element| element.word());
        let by_index = || words().filter_map(|index| device(names, index)).collect();
        let by_name = || elements.iter().map(|element| element.name()).collect::<Option<_>>();
        Some(match loaded {
            Loaded::Family => {
                let families = [(FAMILY_IPV4, ethertype::IPV4), (FAMILY_IPV6, ethertype::IPV6)];
                let those = families.into_iter().filter(|(family, _)| has(&[*family]));
                Match::Ethertype(those.map(|(_, ethertype)| ethertype).collect(), sense)
            }
            Loaded::Ethertype => {
                let those = ethertype::ALL.into_iter().filter(|ethertype| has(&ethertype.to_be_bytes()));
                Match::Ethertype(those.collect(), sense)
            }
            Loaded::Protocol => Match::Protocol(bytes(), sense),
            Loaded::IcmpType => Match::IcmpType(bytes(), sense),
            Loaded::DestinationPort => {
                let ports = elements.iter().map(|element| element.ports()).collect::<Option<_>>()?;
                Match::DestinationPort(ports, sense)
            }
            // A packet has one state.
            Loaded::State(_) => {
                Match::State(words().filter(|state| state.is_power_of_two()).fold(0, |all, state| all | state), sense)
            }
            Loaded::InIndex => Match::In(by_index(), sense),
            Loaded::OutIndex => Match::Out(by_index(), sense),
            Loaded::InName => Match::In(by_name()?, sense),
            Loaded::OutName => Match::Out(by_name()?, sense),
            Loaded::Source(family, _) => Match::Source(networks(*family, elements)?, sense),
            Loaded::Destination(family, _) => Match::Destination(networks(*family, elements)?, sense),
            Loaded::Ports | Loaded::Status(_) | Loaded::DeviceType | Loaded::ArpOperation | Loaded::ArpHeader(_) => {
                return None;
            }
        })
    }
}

/// The condition that a register holds something between two values in network order, both included; none if that
/// cannot be told.
pub(super) fn range(loaded: &Loaded, first: Vec<u8>, last: Vec<u8>, sense: Sense) -> Option<Match> {
    let key_len = Some(first.len()).filter(|length| *length == last.len() && first <= last)?;
    let elements = vec![Element { first, last, verdict: Verdict::Continue }];
    let set = Set { key_len, intervals: true, elements, otherwise: None, is_map: false };
    set.condition(loaded, &Names::new(), sense)
}

/// Devices by index.
type Names = BTreeMap<u32, InterfaceName>;

/// How many values a condition has.
pub(super) fn values(condition: &Match) -> usize {
    match condition {
        Match::In(patterns, _) | Match::Out(patterns, _) => patterns.len(),
        Match::Source(networks, _) | Match::Destination(networks, _) => networks.len(),
        Match::Protocol(numbers, _) | Match::IcmpType(numbers, _) => numbers.len(),
        Match::DestinationPort(ports, _) => ports.len(),
        Match::Ethernet(_) | Match::Ethertype(..) | Match::ArpOperation(..) | Match::State(..) | Match::Other => 1,
    }
}

impl Element {
    fn ports(&self) -> Option<RangeInclusive<u16>> {
        let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
        Some(port(&self.first)?..=port(&self.last)?)
    }

    fn word(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.first.as_slice().try_into().ok()?))
    }

    /// A name, or all names with a prefix; none for any other range.
    fn name(&self) -> Option<Pattern> {
        let open = self.first != self.last;
        let length = self.first.iter().position(|byte| *byte == 0).unwrap_or(self.first.len());
        let (begins, rest) = (self.first.get(..length)?, self.last.get(length..)?);
        let alike = self.last.starts_with(begins) && rest.iter().all(|byte| *byte == 0xff);
        (!open || (alike && length > 0)).then_some(Pattern { name: begins.to_vec(), open })
    }
}

/// The networks of ranges of addresses; none if there would be too many.
fn networks(family: Family, elements: &[&Element]) -> Option<Networks> {
    let mut found: Vec<IpNet> = Vec::new();
    for element in elements {
        match family {
            Family::V4 => {
                let [first, last] = [&element.first, &element.last]
                    .map(|key| <[u8; 4]>::try_from(key.as_slice()).ok().map(Ipv4Addr::from));
                found.extend(Ipv4Subnets::new(first?, last?, 0).map(IpNet::V4));
            }
            Family::V6 => {
                let [first, last] = [&element.first, &element.last]
                    .map(|key| <[u8; 16]>::try_from(key.as_slice()).ok().map(Ipv6Addr::from));
                found.extend(Ipv6Subnets::new(first?, last?, 0).map(IpNet::V6));
            }
        }
        if found.len() > MAX_ELEMENTS {
            return None;
        }
    }
    Some(found.into_iter().collect())
}

/// The key before one, both in network order; none before the first.
fn before(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            return Some(key);
        }
    }
    None
}
