//! A clock of elapsed time. Pure, but for [`system_clock`].
//!
//! The machine's wall clock (`CLOCK_REALTIME`) can be set to anything; what cannot be undone must not depend on it. A
//! [`Timekeeper`] keeps a time that begins with the wall clock and then advances with the time since boot
//! (`CLOCK_BOOTTIME`, see `clock_gettime(2)`), which cannot be set. It is slewed towards the wall clock as long as both roughly
//! agree; if they do not, the clock has *leapt*: the kept time advances as before, until an operator confirms that the wall clock is
//! right ([`Command::ConfirmClock`](crate::model::Command::ConfirmClock)), or it has been steady for long enough.
//!
//! Its state is stored with each commit. After a restart during the same boot it continues as if it had never stopped; after a
//! reboot, or on another machine, the downtime is taken from the wall clock, if it is short.

use crate::model::{Leap, Now};
use cps_peering_config::time::{HOUR_MS, MINUTE_MS};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The wall clock is followed by at most this fraction of the elapsed time: a tenth.
const SLEW: i64 = 10;
/// How long one checkpoint is used, in milliseconds.
const CHECKPOINT_MS: u64 = 1000;

/// The readings of the machine's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, in milliseconds since 1970-01-01 UTC.
    pub wall_ms: u64,
    /// The time since boot, in milliseconds.
    pub boot_ms: u64,
}

/// Reads the machine's clocks.
pub type Clock = Arc<dyn Fn() -> Reading + Send + Sync>;

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Milliseconds since boot, including those in suspend.
pub(crate) fn boot_ms() -> u64 {
    // The clock exists on every Linux since 2.6.39.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
    now.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The machine's clocks.
pub fn system_clock() -> Clock {
    Arc::new(|| Reading { wall_ms: wall_ms(), boot_ms: boot_ms() })
}

/// A clock that never leaps.
pub fn steady(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
    Arc::new(move || {
        let now_ms = now_ms();
        Reading { wall_ms: now_ms, boot_ms: now_ms }
    })
}

/// The identity of this boot of the machine (random(4)).
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// When a clock has leapt, and when it is trusted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// By how much the wall clock may differ from the elapsed time, in milliseconds.
    pub leap_ms: u64,
    /// How long it must be steady after a leap to be trusted without confirmation, in milliseconds.
    pub believed_after_ms: u64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { leap_ms: 10 * MINUTE_MS, believed_after_ms: 6 * HOUR_MS }
    }
}

/// An unconfirmed leap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Unconfirmed {
    /// How far the wall clock is ahead of the elapsed time, in milliseconds.
    by_ms: i64,
    /// The elapsed time when it was noticed, in milliseconds since 1970-01-01 UTC.
    since_ms: u64,
    /// Whether the controller knows how long it was down.
    elapsed_known: bool,
    /// The difference that has been steady.
    steady_by_ms: i64,
    /// Since when it has been steady, in milliseconds since boot.
    steady_since_ms: u64,
}

/// A forward leap that was accepted: this much of the time did not elapse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Jump {
    /// The time from which on it counts, in milliseconds since 1970-01-01 UTC.
    to_ms: u64,
    /// How much it jumped, in milliseconds.
    by_ms: u64,
}

/// How many jumps are remembered, the newest: clocks leap rarely.
const MAX_JUMPS: usize = 32;

/// What is stored for the next process.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    boot: String,
    boot_ms: u64,
    ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unconfirmed: Option<Unconfirmed>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jumps: Vec<Jump>,
}

/// Keeps the elapsed time.
#[derive(Debug, Clone)]
pub struct Timekeeper {
    tolerance: Tolerance,
    boot: String,
    /// A time since boot, and the elapsed time at that moment.
    at: (u64, u64),
    last_ms: u64,
    unconfirmed: Option<Unconfirmed>,
    /// The oldest first.
    jumps: Vec<Jump>,
}

fn signed(ms: u64) -> i64 {
    ms.try_into().unwrap_or(i64::MAX)
}

impl Timekeeper {
    /// Begins with the stored state, or else with the time of the newest record.
    pub fn begin(
        tolerance: Tolerance,
        boot: &str,
        reading: Reading,
        kept: Option<&[u8]>,
        newest_ms: Option<u64>,
    ) -> Self {
        let kept: Option<Kept> = kept.and_then(|kept| serde_json::from_slice(kept).ok());
        let Reading { wall_ms, boot_ms } = reading;
        let jumps = kept.as_ref().map(|kept| kept.jumps.clone()).unwrap_or_default();
        let begin = |at: (u64, u64), unconfirmed| {
            let (boot, last_ms) = (boot.to_owned(), at.1);
            Self { tolerance, boot, at, last_ms, unconfirmed, jumps }
        };
        let seen_ms = match kept {
            Some(kept) if !boot.is_empty() && kept.boot == boot && kept.boot_ms <= boot_ms => {
                return begin((kept.boot_ms, kept.ms), kept.unconfirmed);
            }
            Some(kept) => kept.ms,
            None => match newest_ms {
                Some(newest_ms) => newest_ms,
                None => return begin((boot_ms, wall_ms), None),
            },
        };
        // Only the wall clock can tell how long it was down.
        let by_ms = signed(wall_ms).saturating_sub(signed(seen_ms));
        if by_ms.unsigned_abs() <= tolerance.leap_ms {
            return begin((boot_ms, wall_ms.max(seen_ms)), None);
        }
        let unconfirmed = Unconfirmed {
            by_ms,
            since_ms: seen_ms,
            elapsed_known: false,
            steady_by_ms: by_ms,
            steady_since_ms: boot_ms,
        };
        begin((boot_ms, seen_ms), Some(unconfirmed))
    }

    /// Replaces the tolerances.
    pub fn tune(&mut self, tolerance: Tolerance) {
        self.tolerance = tolerance;
    }

    /// The time now. It never goes back, and advances at most a tenth faster than the time since boot.
    pub fn now(&mut self, reading: Reading) -> Now {
        let Reading { wall_ms, boot_ms } = reading;
        let (at_boot_ms, at_ms) = self.at;
        let elapsed_ms = boot_ms.saturating_sub(at_boot_ms);
        let passed_ms = at_ms.saturating_add(elapsed_ms);
        let by_ms = signed(wall_ms).saturating_sub(signed(passed_ms));
        let far = |by_ms: i64| by_ms.unsigned_abs() > self.tolerance.leap_ms;
        let slew_ms = if far(by_ms) {
            let steady = (by_ms, boot_ms);
            let before = self.unconfirmed;
            let (steady_by_ms, steady_since_ms) = before.map_or(steady, |before| {
                if far(by_ms.saturating_sub(before.steady_by_ms)) {
                    steady
                } else {
                    (before.steady_by_ms, before.steady_since_ms)
                }
            });
            let (since_ms, elapsed_known) = before.map_or((passed_ms, true), |it| (it.since_ms, it.elapsed_known));
            self.unconfirmed = Some(Unconfirmed { by_ms, since_ms, elapsed_known, steady_by_ms, steady_since_ms });
            0
        } else {
            self.unconfirmed = None;
            let most = signed(elapsed_ms) / SLEW;
            by_ms.clamp(-most, most)
        };
        let ms = passed_ms.saturating_add_signed(slew_ms).max(self.last_ms);
        self.last_ms = ms;
        if elapsed_ms >= CHECKPOINT_MS {
            self.at = (boot_ms, ms);
        }
        let leap =
            self.unconfirmed.map(|it| Leap { by_ms: it.by_ms, since_ms: it.since_ms, elapsed_known: it.elapsed_known });
        Now { ms, latest_ms: if leap.is_some() { wall_ms.max(ms) } else { ms }, leap }
    }

    /// Whether the clock has been steady since its leap for long enough to be trusted.
    pub fn is_believed(&self, reading: Reading) -> bool {
        let steady_ms = |it: &Unconfirmed| reading.boot_ms.saturating_sub(it.steady_since_ms);
        self.unconfirmed.as_ref().is_some_and(|it| steady_ms(it) >= self.tolerance.believed_after_ms)
    }

    /// Accepts the clock: the time is the wall clock's from now on.
    pub fn believe(&mut self, leap: Leap) {
        self.unconfirmed = None;
        self.at.1 = self.at.1.saturating_add_signed(leap.by_ms);
        self.last_ms = self.last_ms.saturating_add_signed(leap.by_ms);
        // A leap back takes back earlier leaps forward.
        let mut back_ms = if leap.by_ms < 0 { leap.by_ms.unsigned_abs() } else { 0 };
        while back_ms > 0
            && let Some(jump) = self.jumps.last_mut()
        {
            let undone_ms = back_ms.min(jump.by_ms);
            (jump.by_ms, back_ms) = (jump.by_ms - undone_ms, back_ms - undone_ms);
            jump.to_ms = jump.to_ms.min(self.last_ms);
            if jump.by_ms > 0 {
                break;
            }
            self.jumps.pop();
        }
        // If the controller was down, the clock tells how much time has elapsed.
        if leap.by_ms > 0 && leap.elapsed_known {
            self.jumps.push(Jump { to_ms: self.last_ms, by_ms: leap.by_ms.unsigned_abs() });
            let surplus = self.jumps.len().saturating_sub(MAX_JUMPS);
            self.jumps.drain(..surplus);
        }
    }

    /// The wall-clock time at which a record was written that is `kept_ms` old now, both in milliseconds; the result since
    /// 1970-01-01 UTC. Leaps of the clock do not count as age.
    pub fn written_before(&self, now_ms: u64, kept_ms: u64) -> u64 {
        let jumps = self.jumps.iter().rev();
        jumps.fold(now_ms.saturating_sub(kept_ms), |written_ms, jump| {
            if written_ms < jump.to_ms { written_ms.saturating_sub(jump.by_ms) } else { written_ms }
        })
    }

    /// The state to store for the next process.
    pub fn to_keep(&self, reading: Reading) -> Vec<u8> {
        let (at_boot_ms, at_ms) = self.at;
        let passed_ms = at_ms.saturating_add(reading.boot_ms.saturating_sub(at_boot_ms)).max(self.last_ms);
        let (boot, jumps) = (self.boot.clone(), self.jumps.clone());
        let kept = Kept { boot, boot_ms: reading.boot_ms, ms: passed_ms, unconfirmed: self.unconfirmed, jumps };
        serde_json::to_vec(&kept).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1000;
    const HOUR: u64 = 3600 * SECOND;
    const DAY: u64 = 24 * HOUR;
    /// Some day.
    const START: u64 = 20_000 * DAY;

    fn at(wall_ms: u64, boot_ms: u64) -> Reading {
        Reading { wall_ms, boot_ms }
    }

    fn begin(kept: Option<&[u8]>, boot: &str, reading: Reading) -> Timekeeper {
        Timekeeper::begin(Tolerance::default(), boot, reading, kept, None)
    }

    #[test]
    fn a_leap_moves_nothing_until_it_is_confirmed_and_goes_with_the_clock() {
        for (leap, ahead) in [(8 * DAY, true), (4 * HOUR, false), (11 * 60 * SECOND, true), (2 * HOUR, false)] {
            let mut time = begin(None, "a", at(START, 0));
            let leapt = if ahead { START + leap } else { START - leap };
            let now = time.now(at(leapt + 2500, 2500));
            assert_eq!(now.ms, START + 2500);
            assert_eq!(now.latest_ms, if ahead { leapt + 2500 } else { START + 2500 });
            let said = now.leap.unwrap();
            assert!(said.elapsed_known && said.by_ms.unsigned_abs() == leap && (said.by_ms > 0) == ahead);
            // The clock is set back.
            let mut back = time.clone();
            let now = back.now(at(START + 5000, 5000));
            assert_eq!((now.ms, now.leap), (START + 5000, None));
            // Or it was right.
            time.believe(said);
            let now = time.now(at(leapt + 5000, 5000));
            assert_eq!((now.ms, now.latest_ms, now.leap), (leapt + 5000, leapt + 5000, None));
        }
    }

    #[test]
    fn small_differences_are_followed_slowly() {
        let mut time = begin(None, "a", at(START, 0));
        assert_eq!(time.now(at(START + 10 * SECOND + 60 * SECOND, 10 * SECOND)).ms, START + 11 * SECOND);
        for second in 11..1000 {
            time.now(at(START + (second + 60) * SECOND, second * SECOND));
        }
        assert_eq!(time.now(at(START + 1060 * SECOND, 1000 * SECOND)).ms, START + 1060 * SECOND);
        let back = time.now(at(START + 1010 * SECOND, 1010 * SECOND)).ms;
        assert_eq!(back, START + 1069 * SECOND, "slower, and never back");
    }

    #[test]
    fn a_restart_on_the_same_boot_notices_what_happened_meanwhile() {
        let time = begin(None, "a", at(START, 0));
        let kept = time.to_keep(at(START + HOUR, HOUR));
        let now = begin(Some(&kept), "a", at(START + 3 * HOUR, 3 * HOUR)).now(at(START + 3 * HOUR, 3 * HOUR));
        assert_eq!((now.ms, now.leap), (START + 3 * HOUR, None), "an hour or a week away: it is known how long");
        let now = begin(Some(&kept), "a", at(START, 3 * HOUR)).now(at(START, 3 * HOUR));
        assert!(now.ms == START + 3 * HOUR && now.leap.is_some_and(|leap| leap.elapsed_known));
        // A restart does not confirm a leap.
        let mut leapt = begin(None, "a", at(START, 0));
        leapt.now(at(START + DAY, 1));
        let again = begin(Some(&leapt.to_keep(at(START + DAY, 1))), "a", at(START + DAY, 2)).now(at(START + DAY, 2));
        assert!(again.ms == START + 2 && again.leap.is_some());
    }

    #[test]
    fn after_another_boot_a_short_absence_is_believed_and_a_long_one_is_not() {
        let kept = begin(None, "a", at(START, 0)).to_keep(at(START, 0));
        let first = |wall| begin(Some(&kept), "b", at(wall, 7)).now(at(wall, 7));
        assert_eq!(first(START + 300 * SECOND).ms, START + 300 * SECOND);
        assert_eq!(first(START - 300 * SECOND).ms, START, "never back");
        let long = first(START + DAY);
        assert!(long.ms == START && long.latest_ms == START + DAY && long.leap.is_some_and(|leap| !leap.elapsed_known));
        // Without stored state, as with a store of an earlier version.
        let old = Timekeeper::begin(Tolerance::default(), "b", at(START, 7), None, Some(START + DAY)).now(at(START, 7));
        assert!(old.ms == START + DAY && old.leap.is_some());
        assert_eq!(begin(Some(b"rubbish"), "b", at(START, 7)).now(at(START, 7)).ms, START);
    }

    #[test]
    fn a_clock_that_stays_as_it_is_is_believed_at_last() {
        let mut time = begin(None, "a", at(START, 0));
        time.now(at(START + DAY, 0));
        let most = Tolerance::default().believed_after_ms;
        assert!(
            !time.is_believed(at(START + DAY + most - 1, most - 1)) && time.is_believed(at(START + DAY + most, most))
        );
        // Another leap, and the wait begins anew.
        time.now(at(START + 3 * DAY, most - 1));
        assert!(!time.is_believed(at(START + 3 * DAY, most)));
    }

    #[test]
    fn what_a_clock_has_leapt_is_no_age_also_for_who_takes_over() {
        let mut time = begin(None, "a", at(START, 0));
        assert_eq!(time.written_before(START + 8 * DAY, 7 * DAY), START + DAY);
        for (wall, boot) in [(START + 30 * DAY, HOUR), (START + 60 * DAY, 2 * HOUR)] {
            let leap = time.now(at(wall, boot)).leap.unwrap();
            time.believe(leap);
        }
        let mut time = begin(Some(&time.to_keep(at(START + 60 * DAY, 2 * HOUR))), "b", at(START + 60 * DAY, 7));
        let now_ms = time.now(at(START + 60 * DAY, 7)).ms;
        assert_eq!(now_ms, START + 60 * DAY);
        // Two hours have elapsed since the start.
        assert_eq!(time.written_before(now_ms, 2 * HOUR), START);
        assert_eq!(time.written_before(now_ms, DAY), START + 2 * HOUR - DAY);
        assert_eq!(time.written_before(now_ms, 90 * 60 * SECOND), START + 30 * 60 * SECOND);
        assert_eq!(time.written_before(now_ms + DAY, DAY), now_ms);
        // If it was down, the time may have elapsed.
        let away = begin(Some(&time.to_keep(at(now_ms, 8))), "c", at(now_ms + 30 * DAY, 1));
        let mut away = (away.clone(), away);
        let leap = away.0.now(at(now_ms + 30 * DAY, 2)).leap.unwrap();
        away.0.believe(leap);
        assert_eq!(away.0.jumps, away.1.jumps);
        for _ in 0..MAX_JUMPS {
            time.believe(Leap { by_ms: 1, since_ms: 0, elapsed_known: true });
        }
        assert_eq!(time.jumps.len(), MAX_JUMPS);
    }

    #[test]
    fn a_leap_that_was_taken_back_was_none() {
        let month_ms = i64::try_from(30 * DAY).unwrap();
        let leap = |by_ms| Leap { by_ms, since_ms: 0, elapsed_known: true };
        let mut time = begin(None, "a", at(START, 0));
        time.believe(leap(month_ms));
        time.believe(leap(-month_ms));
        assert_eq!(time.written_before(START + 8 * DAY, 7 * DAY), START + DAY);
        // Only a part of it.
        time.believe(leap(month_ms));
        time.believe(leap(-month_ms / 3));
        assert_eq!(time.written_before(START + 21 * DAY, 7 * DAY), START - 6 * DAY);
        assert_eq!(time.written_before(START + 28 * DAY, 7 * DAY), START + 21 * DAY);
    }

    proptest! {
        /// Whatever the wall clock does, the time advances, never back, and about as fast as real time.
        #[test]
        fn the_time_passes_as_time_does(steps in proptest::collection::vec((0u64..20_000_000, -900_000_000i64..900_000_000), 1..50)) {
            let mut time = begin(None, "a", at(START, 0));
            let (mut boot, mut before) = (0, time.now(at(START, 0)).ms);
            for (passes, offset) in steps {
                boot += passes;
                let ms = time.now(at((START + boot).saturating_add_signed(offset), boot)).ms;
                prop_assert!(ms - before <= passes + passes / 10 + 1 && ms >= before);
                before = ms;
            }
            let slewed = boot / 10 + 1;
            prop_assert!(before <= START + boot + slewed && before + slewed >= START + boot);
        }
    }
}
