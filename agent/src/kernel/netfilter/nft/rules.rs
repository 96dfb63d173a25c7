//! Rules: what their expressions match, and their verdicts.

use super::{
    attribute::{self, EXPRESSION_DATA, EXPRESSION_NAME, HEADER_LEN, family, find, number, read_verdict},
    registers::{Loaded, field, from_or_up_to, meta, sense},
    sets::{self, Place as SetPlace, Sets},
};
use crate::{
    kernel::{
        netfilter::matches::{conditions, marks, target},
        wire::{self, attributes, text},
    },
    objects::firewall::{FilterRule, Match, Sense, Verdict},
};
use cps_peering_config::net::InterfaceName;
use std::collections::{BTreeMap, BTreeSet};

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_DYNSET_SET_NAME`.
const DYNAMIC_SET: u16 = 1;
/// `NFT_META_MARK`.
const META_MARK: u32 = 3;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;

/// Family, table and name of a chain.
pub(super) type Place = (&'static str, String, String);

/// The rule, or several that are equivalent to one with a verdict map. Sets that packets change through it are added to
/// `changing`.
pub(super) fn read_rules(
    payload: &[u8],
    names: &BTreeMap<u32, InterfaceName>,
    sets: &Sets,
    changing: &mut BTreeSet<SetPlace>,
) -> Option<(Place, Vec<FilterRule>)> {
    let (family, _) = family(payload)?;
    let table = wire::name(find(payload, HEADER_LEN, RULE_TABLE)?)?;
    let chain = wire::name(find(payload, HEADER_LEN, RULE_CHAIN)?)?;
    let handle: [u8; 8] = find(payload, HEADER_LEN, RULE_HANDLE)?.try_into().ok()?;
    let mut reading = Reading {
        names,
        sets,
        family,
        table: &table,
        registers: BTreeMap::new(),
        matches: Vec::new(),
        marks: false,
        verdict: Verdict::Continue,
        branches: None,
    };
    let mut expressions = attributes(find(payload, HEADER_LEN, RULE_EXPRESSIONS).unwrap_or_default(), 0);
    for (_, expression) in expressions.by_ref() {
        let name = find(expression, 0, EXPRESSION_NAME).and_then(text).unwrap_or_default();
        let data = find(expression, 0, EXPRESSION_DATA).unwrap_or_default();
        if name == "dynset"
            && let Some(set) = find(data, 0, DYNAMIC_SET).and_then(wire::name)
        {
            changing.insert((family, table.clone(), set));
        }
        reading.expression(name, data);
        if reading.verdict != Verdict::Continue || reading.branches.is_some() {
            break;
        }
    }
    let Reading { matches, mut marks, mut verdict, mut branches, .. } = reading;
    // Packets that continue do so with the rest of the rule.
    if branches.iter().flatten().any(|(_, verdict)| *verdict == Verdict::Continue) && expressions.next().is_some() {
        (branches, verdict) = (None, verdict_map());
        marks = true;
    }
    let label = format!("rule handle {}", u64::from_be_bytes(handle));
    let rules = match branches {
        None => vec![FilterRule { label, matches, marks, verdict }],
        Some(branches) => {
            let rule = |(condition, verdict)| {
                let matches = matches.iter().cloned().chain([condition]).collect();
                FilterRule { label: label.clone(), matches, marks, verdict }
            };
            branches.into_iter().map(rule).collect()
        }
    };
    Some(((family, table, chain), rules))
}

/// For a map whose content is not certain.
fn verdict_map() -> Verdict {
    Verdict::Unclear("verdict map".to_owned())
}

/// A rule that is being read.
struct Reading<'a> {
    names: &'a BTreeMap<u32, InterfaceName>,
    sets: &'a Sets,
    family: &'static str,
    table: &'a str,
    registers: BTreeMap<u32, Loaded>,
    matches: Vec<Match>,
    marks: bool,
    verdict: Verdict,
    /// The verdicts of a map, each with its additional condition.
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
                let loaded = field(self.family, &self.matches, at);
                self.load(register(1), loaded);
            }
            "bitwise" => {
                let mask = find(4).and_then(|mask| attribute::find(mask, 0, 1)).map(<[u8]>::to_vec);
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
                let value = find(3).and_then(|data| attribute::find(data, 0, 1)).unwrap_or_default();
                let comparison = find(2).and_then(number);
                let loaded = self.registers.get(&register(1)).cloned();
                let condition = match (loaded, sense(comparison)) {
                    // Both ports together.
                    (Some(Loaded::Ports), Some(Sense::Is)) => {
                        self.matches.push(Match::Other);
                        value.get(2..4).and_then(|port| Loaded::DestinationPort.compared(self.names, port, Sense::Is))
                    }
                    (Some(loaded), Some(sense)) => loaded.compared(self.names, value, sense),
                    (Some(loaded), None) => {
                        let range = from_or_up_to(comparison, value);
                        range.and_then(|[first, last]| sets::range(&loaded, first, last, Sense::Is))
                    }
                    _ => None,
                };
                self.matches.push(condition.unwrap_or(Match::Other));
            }
            "range" => {
                let ends = [3, 4].map(|attribute| find(attribute).and_then(|data| attribute::find(data, 0, 1)));
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
                let verdict = find(2).and_then(|data| attribute::find(data, 0, 2)).unwrap_or_default();
                self.verdict = read_verdict(verdict);
            }
            // A set decides whether the rule applies, a verdict map what it does.
            "lookup" if find(3).is_none_or(|register| number(register) == Some(0)) => {
                let set = find(1).and_then(wire::name).unwrap_or_default();
                let inverted = find(5).and_then(number).is_some_and(|flags| flags & LOOKUP_INVERTED != 0);
                let sense = if inverted { Sense::IsNot } else { Sense::Is };
                if find(3).is_none() {
                    let condition = self.in_set(&set, register(2), sense).unwrap_or(Match::Other);
                    self.matches.push(condition);
                } else {
                    self.branches = self.in_map(&set, register(2));
                    if self.branches.is_none() {
                        self.verdict = verdict_map();
                    }
                }
            }
            "reject" => self.verdict = Verdict::Drop("reject".to_owned()),
            // The listener accepts what it likes, and what is forwarded to a device may come back from there.
            "queue" => self.verdict = Verdict::Unclear("queue".to_owned()),
            "fwd" => self.verdict = Verdict::Unclear("fwd".to_owned()),
            "synproxy" => self.verdict = Verdict::Drop("synproxy".to_owned()),
            "masq" => self.verdict = Verdict::Translate("masquerade".to_owned()),
            "redir" => self.verdict = Verdict::Translate("redirect".to_owned()),
            "nat" => self.verdict = Verdict::Translate("nat".to_owned()),
            "tproxy" => self.verdict = Verdict::Translate("tproxy".to_owned()),
            "meta" => self.marks |= find(2).and_then(number) == Some(META_MARK),
            // These count, log, write into the packet or mark its connection.
            "counter" | "log" | "notrack" | "last" | "secmark" | "dup" | "flow_offload" | "payload" | "ct" => {}
            "exthdr" if find(7).is_some() => {}
            // Named objects with a limit are conditions; counters, helpers, timeouts, marks and expectations are not.
            "objref" if matches!(find(1).and_then(number), Some(1 | 3 | 7 | 8 | 9)) => {}
            "immediate" => self.load(register(1), None),
            "match" => {
                let (name, revision) = (find(1).and_then(text).unwrap_or_default(), find(2).and_then(number));
                let told = find(3).unwrap_or_default();
                self.matches.extend(conditions(name, revision.unwrap_or(u32::MAX), told));
            }
            "target" => {
                let name = find(1).and_then(text).unwrap_or_default();
                self.marks |= marks(name);
                self.verdict = target(name);
            }
            _ => {
                // What it wrote into a register is unknown.
                self.registers.clear();
                self.matches.push(Match::Other);
            }
        }
    }

    /// The condition that a set contains what a register holds; none if that cannot be told.
    fn in_set(&self, set: &str, register: u32, sense: Sense) -> Option<Match> {
        let set = self.sets.get(&(self.family, self.table.to_owned(), set.to_owned()))?;
        let condition = set.condition(self.registers.get(&register)?, self.names, sense)?;
        self.sets.take(sets::values(&condition)).then_some(condition)
    }

    /// The verdicts of a map for what a register holds; none if that cannot be told.
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
}
