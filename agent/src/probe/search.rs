//! Searches for the longest packet that passes. Pure.

use super::packet::SMALLEST;

/// The precision, in bytes.
const CLOSE: u32 = 8;

/// The bounds of the longest packet that passes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Search {
    /// A length that passes.
    passes: u32,
    /// A length that does not.
    fails: u32,
}

impl Search {
    /// The shortest packets pass, and one with `fails` bytes does not.
    pub(crate) fn below(fails: u32) -> Self {
        Self { passes: SMALLEST, fails: fails.max(SMALLEST + 1) }
    }

    /// The lengths to try next, at most this many, in ascending order. None if it is close enough.
    pub(crate) fn next(self, most: u32) -> Vec<u32> {
        let between = self.fails - self.passes;
        if between <= CLOSE {
            return Vec::new();
        }
        let tries = most.min(between - 1);
        (1..=tries).map(|place| self.passes + between * place / (tries + 1)).collect()
    }

    /// Takes which of the tried lengths passed. A length that was lost while a longer one passed was lost by chance.
    pub(crate) fn learn(&mut self, tried: &[u32], passed: &[u32]) {
        self.passes = passed.iter().copied().filter(|length| *length < self.fails).fold(self.passes, u32::max);
        let lost = tried.iter().copied().filter(|length| *length > self.passes);
        self.fails = lost.fold(self.fails, u32::min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How close it gets to an MTU, and in how many rounds.
    fn found(expected: u32, mtu: u32, most: u32) -> (u32, u32) {
        let mut search = Search::below(expected);
        for round in 0.. {
            let tried = search.next(most);
            if tried.is_empty() {
                return (search.passes, round);
            }
            assert!(tried.len() <= most as usize && tried.is_sorted());
            let passed: Vec<u32> = tried.iter().copied().filter(|length| *length <= mtu).collect();
            search.learn(&tried, &passed);
        }
        unreachable!()
    }

    #[test]
    fn it_gets_close_to_any_mtu_in_few_rounds() {
        for expected in [1280, 1450, 8950, 65535] {
            for mtu in (SMALLEST..expected).step_by(61) {
                let (longest, rounds) = found(expected, mtu, 5);
                assert!(longest <= mtu && mtu - longest < CLOSE, "{longest} of {mtu}");
                assert!(rounds <= if expected > 9000 { 6 } else { 5 }, "{rounds} rounds for {expected}");
            }
        }
    }

    #[test]
    fn loss_by_chance_does_not_hide_longer_lengths() {
        let mut search = Search::below(1450);
        search.learn(&[300, 600, 900, 1200], &[900]);
        assert_eq!((search.passes, search.fails), (900, 1200));
        search.learn(&[1000], &[]);
        assert_eq!(search, Search { passes: 900, fails: 1000 });
        // A reply to an earlier attempt that came late.
        search.learn(&[], &[1200]);
        assert_eq!(search.passes, 900);
        assert!(Search::below(0).next(5).is_empty() && Search::below(70).next(5).is_empty());
    }
}
