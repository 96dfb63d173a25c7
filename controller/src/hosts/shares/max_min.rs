//! Divides a bandwidth among senders by need. Pure.
//!
//! A sender that needs less than an equal part gets what it needs, and the others divide the rest equally (max-min fairness). What
//! is left over is divided equally, too: it is there for whoever begins to send.

use cps_peering_config::host_config::Share;

/// What several hosts are given together. The rest is for hosts that have just been added: see
/// [`plan`](crate::plan).
pub(super) const DIVIDED: Share = Share::of_millionths(995_000).expect("less than the whole");

/// What all hosts have together at least, in equal parts, so that a flow can begin anywhere and show that it needs more.
const LEAST_TOGETHER: u32 = 40_000;

/// The share of each of them, given their needs. In all at most [`DIVIDED`]; one alone gets everything.
pub(super) fn divide(wants: &[Share]) -> Vec<Share> {
    let Ok(hosts) = u32::try_from(wants.len()) else { return vec![Share::NONE; wants.len()] };
    if hosts <= 1 {
        return vec![Share::WHOLE; wants.len()];
    }
    let least = (LEAST_TOGETHER / hosts).max(1);
    let wants: Vec<u32> = wants.iter().map(|want| want.millionths().max(least)).collect();
    let mut by_want: Vec<usize> = (0..wants.len()).collect();
    by_want.sort_by_key(|place| wants[*place]);
    let mut given = vec![0; wants.len()];
    let mut left = DIVIDED.millionths();
    let mut waiting = hosts;
    for place in by_want {
        // Those that need less are served; all others are due an equal part of the rest.
        given[place] = wants[place].min(left / waiting);
        left -= given[place];
        waiting -= 1;
    }
    let more = left / hosts;
    given.into_iter().map(|share| Share::of_millionths(share + more).unwrap_or(Share::WHOLE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn divided(wants: &[u32]) -> Vec<u32> {
        let wants: Vec<Share> = wants.iter().map(|want| Share::of_millionths(*want).unwrap()).collect();
        divide(&wants).into_iter().map(Share::millionths).collect()
    }

    #[test]
    fn each_gets_what_it_needs_or_an_equal_part() {
        assert_eq!(divided(&[1_000_000]), [1_000_000]);
        assert_eq!(divided(&[0, 0]), [497_500, 497_500]);
        // 4 % together at least: 2 % each.
        assert_eq!(divided(&[1_000_000, 0]), [975_000, 20_000]);
        assert_eq!(divided(&[1_000_000, 0, 0]), [968_334, 13_333, 13_333]);
        assert_eq!(divided(&[1_000_000, 1_000_000, 100_000]), [447_500, 447_500, 100_000]);
        assert_eq!(divided(&[1_000_000; 3]), [331_666, 331_667, 331_667]);
        assert_eq!(divided(&[]), [] as [u32; 0]);
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_and_never_nothing(wants in proptest::collection::vec(0u32..=1_000_000, 2..200)) {
            let given = divided(&wants);
            prop_assert!(given.iter().sum::<u32>() <= DIVIDED.millionths());
            prop_assert!(given.iter().all(|share| *share > 0));
            for (a, want_a) in given.iter().zip(&wants) {
                for (b, _) in given.iter().zip(&wants).filter(|(_, want_b)| *want_b >= want_a) {
                    prop_assert!(b + 1 >= *a, "who wants more gets no less: {} {}", a, b);
                }
            }
        }
    }
}
