//! Follows packets through the base chains.

use super::packets::{Extent, Kind, Packets};
use crate::objects::{
    Effect, Firewall,
    firewall::{Backend, Chain, FilterRule, Verdict},
};
use std::collections::BTreeMap;

/// How deep the kernel lets chains call each other (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// The outcome for packets that went through a chain.
pub(super) enum End {
    /// All of them got a verdict.
    Decided,
    /// These go on.
    Open(Packets),
}

pub(super) struct Walk<'a> {
    pub(super) chains: &'a Chains<'a>,
    /// The base chain.
    pub(super) chain: &'a Chain,
    pub(super) budget: usize,
    /// Whether a rule has accepted some of the packets.
    pub(super) some_passed: bool,
    /// Whether a rule may have changed the mark of some of the packets.
    pub(super) marked: bool,
    /// Rules that affect packets, what they do, and whether to all of them.
    pub(super) touched: Vec<(String, &'static str, Effect)>,
}

impl Walk<'_> {
    fn touch(&mut self, at: &Chain, rule: &FilterRule, words: &str, (does, effect): (&'static str, Effect)) {
        let chain = if at.name == self.chain.name { String::new() } else { format!("chain {} ", at.name) };
        self.touched.push((format!("{chain}{} {words}", rule.label), does, effect));
    }

    /// Follows packets through a chain. `whole` tells whether these are all packets of the walk, `named` whether a rule
    /// that led here matches on something that identifies them.
    pub(super) fn chain(
        &mut self,
        chain: &Chain,
        mut packets: Packets,
        depth: usize,
        (mut whole, named): (bool, bool),
    ) -> End {
        // Packets some of which have returned to the calling chain.
        let mut returned: Option<Packets> = None;
        let decided = |returned: Option<Packets>| returned.map_or(End::Decided, End::Open);
        for rule in &chain.rules {
            if packets.is_empty() {
                return decided(returned);
            }
            self.budget = self.budget.saturating_sub(packets.weight(rule));
            if self.budget == 0 || depth > DEPTH {
                // What follows is unknown.
                self.some_passed = true;
                self.marked = true;
                if !self.touched.iter().any(|(rule, ..)| rule == MORE) {
                    self.touched.push((MORE.to_owned(), "may drop", Effect::MayDrop));
                }
                return End::Open(packets);
            }
            let extent = packets.meets(rule);
            if extent == Extent::None {
                continue;
            }
            self.marked |= rule.marks;
            let all = extent == Extent::All;
            let names = named || packets.are_named_by(rule);
            let told = !matches!(packets.kind, Kind::BetweenHosts(_)) || names || (all && whole);
            match &rule.verdict {
                Verdict::Accept => {
                    self.some_passed = true;
                    if all {
                        return decided(returned);
                    }
                    packets.without(rule);
                }
                Verdict::Return if all => return End::Open(returned.unwrap_or(packets)),
                Verdict::Return => {
                    whole = false;
                    returned.get_or_insert_with(|| packets.clone());
                }
                Verdict::Continue => {}
                Verdict::Drop(words) => {
                    let drops_all = all && whole && !self.some_passed;
                    let effect = if drops_all { Effect::DropsAll } else { Effect::MayDrop };
                    if told {
                        self.touch(chain, rule, words, ("drops", effect));
                    }
                    if all {
                        return decided(returned);
                    }
                }
                Verdict::Translate(words) => {
                    self.some_passed = true;
                    if told {
                        self.touch(chain, rule, words, ("rewrites", Effect::MayDrop));
                    }
                    if all {
                        return decided(returned);
                    }
                }
                Verdict::Unclear(words) => {
                    self.some_passed = true;
                    if told {
                        self.touch(chain, rule, words, ("may drop", Effect::MayDrop));
                    }
                }
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let leaves = matches!(rule.verdict, Verdict::Goto(_));
                    let chains = self.chains;
                    let Some(target) = chains.called(chain, to) else { continue };
                    match self.chain(target, packets.clone(), depth + 1, (whole && all, names)) {
                        End::Decided if all => return decided(returned),
                        // If they were matched by device alone, the others remain.
                        End::Decided => packets.without(rule),
                        End::Open(left) if all && leaves => return End::Open(returned.unwrap_or(left)),
                        End::Open(left) if all => packets = left,
                        // What went there and got a verdict is no longer here.
                        End::Open(_) => whole &= !leaves,
                    }
                }
            }
        }
        // Those that returned are among those that were here, or were all of them before devices were removed.
        if packets.is_empty() { decided(returned) } else { End::Open(returned.unwrap_or(packets)) }
    }
}

/// The chains of all tables, by the names that rules call them by.
pub(super) struct Chains<'a>(BTreeMap<(Backend, &'a str, &'a str, &'a str), &'a Chain>);

impl<'a> Chains<'a> {
    pub(super) fn of(firewall: &'a Firewall) -> Self {
        let key = |chain: &'a Chain| (chain.backend, chain.family, chain.table.as_str(), chain.name.as_str());
        Self(firewall.chains.iter().map(|chain| (key(chain), chain)).collect())
    }

    /// The chain of that name in the same table as another one.
    fn called(&self, from: &Chain, name: &str) -> Option<&'a Chain> {
        self.0.get(&(from.backend, from.family, from.table.as_str(), name)).copied()
    }
}

const MORE: &str = "has more rules than are examined";
