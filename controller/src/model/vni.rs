//! Allocation of VNIs.

use super::{Code, CommandError, Context, Transaction};
use cps_peering_config::net::Vni;

/// How many are drawn before the next free one is looked for.
const DRAWS: usize = 32;

/// A free VNI. It is random: it cannot be predicted from others, and one that became free is unlikely to be reused soon.
/// VNIs of sides that hosts may still have are not free, nor is the one that was allocated just before, if any.
///
/// After a restore, hosts that cannot be reached may have VNIs that were allocated after the backup. So VNIs are even
/// at first, odd after a restore, and so on alternately, as long as there are any.
pub(super) fn allocate(
    tx: &Transaction<'_>,
    context: &mut Context<'_>,
    besides: Option<Vni>,
) -> Result<Vni, CommandError> {
    let restores = tx.state.meta().restores;
    let mut draw = || in_turn(number(&(context.random)()), restores);
    let taken = tx.state.vnis_taken() + usize::from(besides.is_some());
    pick(&mut draw, taken, |vni| tx.state.is_taken(vni) || besides == Some(vni)).ok_or_else(|| {
        let rule = format!("all {} VNIs are taken: delete VPCs or peerings first", Vni::MAX);
        CommandError::one(Code::QuotaExceeded, "vni", rule, "VniExhausted")
    })
}

/// A VNI that is not taken; none if all are.
fn pick(draw: &mut dyn FnMut() -> Vni, taken: usize, is_taken: impl Fn(Vni) -> bool) -> Option<Vni> {
    if taken >= Vni::MAX.get() as usize {
        return None;
    }
    let drawn = (0..DRAWS).map(|_| draw()).find(|vni| !is_taken(*vni));
    // If nearly all are taken, the next one upwards.
    drawn.or_else(|| {
        let mut vni = draw();
        for _ in 0..Vni::MAX.get() {
            if !is_taken(vni) {
                return Some(vni);
            }
            vni = vni.next_wrapping();
        }
        None
    })
}

/// The VNI or its neighbour: even after an even number of restores, odd after an odd one.
fn in_turn(vni: Vni, restores: u32) -> Vni {
    let turned = vni.get() & !1 | restores & 1;
    // 0 is not a VNI.
    Vni::try_from(if turned == 0 { 2 } else { turned }).unwrap_or(vni)
}

/// A VNI from a random text.
fn number(text: &str) -> Vni {
    let value = text.bytes().fold(0u64, |value, byte| value.wrapping_mul(37).wrapping_add(byte.into()));
    let vni = u32::try_from(value % u64::from(Vni::MAX.get())).expect("less than the largest VNI") + 1;
    vni.try_into().expect("between the smallest and the largest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn vni(number: u32) -> Vni {
        number.try_into().unwrap()
    }

    #[test]
    fn what_is_taken_is_not_given_away() {
        let mut drawn = [5, 5, 7, 9].map(vni).into_iter();
        let taken = BTreeSet::from([5, 7].map(vni));
        assert_eq!(pick(&mut || drawn.next().unwrap(), 2, |vni| taken.contains(&vni)), Some(vni(9)));
    }

    #[test]
    fn the_last_free_one_is_found_and_then_there_is_none() {
        let (mut same, all) = (|| Vni::MAX, Vni::MAX.get() as usize);
        assert_eq!(pick(&mut same, all - 1, |other| other != vni(3)), Some(vni(3)));
        assert_eq!(pick(&mut same, all, |_| true), None);
        assert_eq!(pick(&mut same, 0, |_| true), None, "it ends whatever it is told");
    }

    #[test]
    fn what_is_drawn_after_a_restore_is_none_of_those_before() {
        for number in [1, 2, 3, 77, 78, Vni::MAX.get() - 1, Vni::MAX.get()] {
            let [before, after, again] = [0, 1, 2].map(|restores| in_turn(vni(number), restores));
            assert!(before.get().is_multiple_of(2) && !after.get().is_multiple_of(2), "{before} {after}");
            assert_eq!(before, again);
        }
    }

    #[test]
    fn numbers_are_spread_over_all_of_them() {
        const TEXTS: u32 = 4096;
        let numbers: BTreeSet<Vni> =
            (0..TEXTS).map(|nth| number(&format!("{:010x}", u64::from(nth) * 0x9e_3779_b97f % (1 << 40)))).collect();
        assert!(numbers.len() > 4090, "{}", numbers.len());
        let quarters: BTreeSet<u32> = numbers.iter().map(|vni| vni.get() >> 22).collect();
        assert_eq!(quarters.len(), 4);
        for text in ["", "0000000000", "zzzzzzzzzz", "ÿÿÿÿÿÿÿÿÿÿ"] {
            assert!((1..=Vni::MAX.get()).contains(&number(text).get()));
        }
    }
}
