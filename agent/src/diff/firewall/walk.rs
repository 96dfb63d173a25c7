//! Follows packets through the chains that the kernel begins with.

use super::packets::{Extent, Packets};
use crate::objects::{
    Effect, Firewall,
    firewall::{Chain, FilterRule, Verdict},
};

/// How deep chains call each other in the kernel (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// What becomes of packets that went through a chain.
pub(super) enum End {
    /// All of them were decided about.
    Decided,
    /// These go on.
    Open(Packets),
}

pub(super) struct Walk<'a> {
    pub(super) firewall: &'a Firewall,
    /// Where the kernel begins.
    pub(super) chain: &'a Chain,
    pub(super) budget: usize,
    /// Whether a rule has let some of the packets pass.
    pub(super) some_passed: bool,
    /// Rules that touch packets, what they do, and whether to all of them.
    pub(super) touched: Vec<(String, &'static str, Effect)>,
}

impl Walk<'_> {
    fn touch(&mut self, at: &Chain, rule: &FilterRule, words: &str, (does, effect): (&'static str, Effect)) {
        let chain = if at.name == self.chain.name { String::new() } else { format!("chain {} ", at.name) };
        self.touched.push((format!("{chain}{} {words}", rule.label), does, effect));
    }

    /// Follows packets through a chain. `whole` says whether these are all that the walk began with.
    pub(super) fn chain(&mut self, chain: &Chain, mut packets: Packets, depth: usize, mut whole: bool) -> End {
        for rule in &chain.rules {
            if packets.is_empty() {
                return End::Decided;
            }
            self.budget = self.budget.saturating_sub(1);
            if self.budget == 0 || depth > DEPTH {
                if !self.touched.iter().any(|(rule, ..)| rule == MORE) {
                    self.touched.push((MORE.to_owned(), "may drop", Effect::MayDrop));
                }
                return End::Open(packets);
            }
            let extent = packets.meets(rule);
            if extent == Extent::None {
                continue;
            }
            let all = extent == Extent::All;
            match &rule.verdict {
                Verdict::Accept => {
                    self.some_passed = true;
                    if all {
                        return End::Decided;
                    }
                    packets.without(rule);
                }
                Verdict::Return if all => return End::Open(packets),
                Verdict::Return => whole = false,
                Verdict::Continue => {}
                Verdict::Drop(words) => {
                    let drops_all = all && whole && !self.some_passed;
                    let effect = if drops_all { Effect::DropsAll } else { Effect::MayDrop };
                    if packets.concerns(rule, extent) {
                        self.touch(chain, rule, words, ("drops", effect));
                    }
                    if all {
                        return End::Decided;
                    }
                }
                Verdict::Translate(words) => {
                    self.some_passed = true;
                    if packets.concerns(rule, extent) {
                        self.touch(chain, rule, words, ("rewrites", Effect::MayDrop));
                    }
                    if all {
                        return End::Decided;
                    }
                }
                Verdict::Unclear(words) => {
                    self.some_passed = true;
                    if packets.concerns(rule, extent) {
                        self.touch(chain, rule, words, ("may drop", Effect::MayDrop));
                    }
                }
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let leaves = matches!(rule.verdict, Verdict::Goto(_));
                    let same = |other: &&Chain| {
                        other.name == *to
                            && (other.backend, &other.table, other.family)
                                == (chain.backend, &chain.table, chain.family)
                    };
                    let firewall = self.firewall;
                    let Some(target) = firewall.chains.iter().find(same) else { continue };
                    match self.chain(target, packets.clone(), depth + 1, whole && all) {
                        End::Decided if all => return End::Decided,
                        // Of those that came in by a device alone, the others are left.
                        End::Decided => packets.without(rule),
                        End::Open(left) if all && leaves => return End::Open(left),
                        End::Open(left) if all => packets = left,
                        // What went there and came to its end is not here any more.
                        End::Open(_) => whole &= !leaves,
                    }
                }
            }
        }
        if packets.is_empty() { End::Decided } else { End::Open(packets) }
    }
}

const MORE: &str = "has more rules than are looked at";
