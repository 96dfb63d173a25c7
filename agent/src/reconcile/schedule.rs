//! When the kernel is observed, and how much of it. Pure: the time is an argument.

use cps_peering_config::retry::{Backoff, Retry};
use std::time::{Duration, Instant};

/// The delay before what was refused, or is in the way, is retried.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(1));
/// The longest time that events wait after an observation that an event caused.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// How long a peering that a partial observation has set up may go without a check for objects of others in its way.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);
/// The longest time that new configurations put off a full observation, from when it was first abandoned.
const LONGEST_DEFERRAL: Duration = Duration::from_secs(30);
/// How often the settings of devices are polled: the kernel does not announce all of them.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// A poll takes at most one part in this many of the time.
const POLL_SHARE: u32 = 20;

/// Why a wait ended, in ascending order of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waited {
    Pause,
    /// An event that a tenant can cause. These are few, so they are handled immediately and delay nothing.
    Port,
    Event,
    Configured,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is no configuration.
    Nothing,
    /// Nothing differs that could be changed, and nothing is in the way.
    InSync,
    /// Something is in the way or was refused.
    Troubled,
    /// A newer configuration came.
    Superseded,
}

/// When to observe.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The interval of full observations without a reason.
    resync: Duration,
    /// Whether a full observation is due, for whatever reason.
    due: bool,
    /// Whether an event came since the last full observation.
    event_pending: bool,
    /// When the last full observation ended.
    looked: Instant,
    /// Since when a full observation has been put off for newer configurations; none if it is not.
    deferred_since: Option<Instant>,
    /// By when a full observation is due because a partial one has let traffic in: it shows what others have in its
    /// way.
    look_by: Option<Instant>,
    /// The next observation without a reason; none if it is due now.
    next: Option<Instant>,
    /// Until when events wait.
    quiet_until: Instant,
    retry: Retry,
    /// When the settings of devices were last polled, and how long that took.
    polled: Instant,
    poll_took: Duration,
}

impl Schedule {
    /// A full observation is due as soon as there is a configuration.
    pub(super) fn new(resync: Duration, now: Instant) -> Self {
        Self {
            resync,
            due: true,
            event_pending: false,
            looked: now,
            deferred_since: None,
            look_by: None,
            next: Some(now + resync),
            quiet_until: now,
            retry: Retry::new(BACKOFF),
            polled: now,
            poll_took: Duration::ZERO,
        }
    }

    /// Changes the interval, and makes a full observation due.
    pub(super) fn tune(&mut self, resync: Duration) {
        self.resync = resync;
        self.due = true;
    }

    /// Until when to wait for a reason to observe; none if an observation is due now.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.map(|next| self.look_by.map_or(next, |look_by| next.min(look_by)))
    }

    /// Until when to wait now that an event has come.
    pub(super) fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// Something changed. It stays so until the next full observation: a configuration that comes first only requires a
    /// partial one.
    pub(super) fn event_came(&mut self) {
        self.event_pending = true;
    }

    /// Whether the object of an event has not been observed.
    pub(super) fn is_event_pending(&self) -> bool {
        self.event_pending
    }

    /// Another configuration came: earlier refusals say nothing about it.
    pub(super) fn configured(&mut self) {
        self.retry.reset();
    }

    /// A pass begins. It is a full observation if there is no reason, or one without a known extent, or if one is
    /// overdue, however often configurations come.
    pub(super) fn begins(&mut self, waited: Waited, now: Instant) {
        let is_time =
            now.duration_since(self.looked) >= self.resync || self.look_by.is_some_and(|look_by| now >= look_by);
        if is_time {
            self.look_by = None;
        }
        self.due |= waited != Waited::Configured || is_time;
    }

    /// A pass that began for this reason has ended. If another program changes objects all the time, observing them
    /// must not take all the time.
    pub(super) fn ended(&mut self, outcome: Outcome, waited: Waited, took: Duration, now: Instant) {
        let pause = match outcome {
            Outcome::Superseded => None,
            Outcome::Troubled => Some(self.retry.failed()),
            Outcome::InSync => {
                self.retry.reset();
                Some(self.resync)
            }
            Outcome::Nothing => {
                // A full observation follows once there is one.
                self.event_pending = false;
                Some(self.resync)
            }
        };
        self.next = pause.map(|pause| now + pause);
        let rest = if waited == Waited::Event { took * 2 } else { Duration::ZERO };
        self.quiet_until = now + rest.min(LONGEST_REST);
    }

    /// Whether a full observation is due.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// Makes a full observation due.
    pub(super) fn make_due(&mut self) {
        self.due = true;
    }

    /// A full observation found nothing wrong.
    pub(super) fn all_is_right(&mut self) {
        self.due = false;
    }

    /// Whether a full observation may be abandoned for a newer configuration.
    pub(super) fn may_defer(&self, now: Instant) -> bool {
        self.deferred_since.is_none_or(|since| now.duration_since(since) < LONGEST_DEFERRAL)
    }

    /// A full observation was abandoned for a newer configuration.
    pub(super) fn deferred(&mut self, now: Instant) {
        self.deferred_since.get_or_insert(now);
    }

    /// A full observation begins: it covers what was noticed until now.
    pub(super) fn look_begins(&mut self) {
        self.event_pending = false;
    }

    /// A full observation has been read.
    pub(super) fn looked(&mut self, now: Instant) {
        (self.looked, self.deferred_since, self.look_by) = (now, None, None);
    }

    /// A partial observation has changed something.
    pub(super) fn part_was_changed(&mut self, now: Instant) {
        self.look_by.get_or_insert(now + CHECKED_WITHIN);
    }

    /// When to poll the settings of devices. On a host with thousands of devices that takes a while, and full
    /// observations happen anyway. Configurations that come meanwhile do not put it off.
    pub(super) fn next_poll(&self) -> Instant {
        self.polled + POLL_INTERVAL.max(self.poll_took * POLL_SHARE)
    }

    /// The settings of devices were polled.
    pub(super) fn polled(&mut self, began: Instant, took: Duration) {
        (self.polled, self.poll_took) = (began, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_mins(1);

    /// One that has made a full observation, and found nothing wrong.
    fn idle(now: Instant) -> Schedule {
        let mut schedule = Schedule::new(MINUTE, now);
        schedule.begins(Waited::Configured, now);
        schedule.look_begins();
        schedule.looked(now);
        schedule.all_is_right();
        schedule.ended(Outcome::InSync, Waited::Configured, SECOND, now);
        schedule
    }

    #[test]
    fn without_a_configuration_it_waits_whatever_happens() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MINUTE, now);
        for waited in [Waited::Event, Waited::Pause, Waited::Port] {
            schedule.event_came();
            schedule.begins(waited, now);
            schedule.ended(Outcome::Nothing, waited, Duration::ZERO, now);
            assert_eq!((schedule.next(), schedule.is_event_pending()), (Some(now + MINUTE), false));
        }
        assert!(schedule.is_due());
    }

    #[test]
    fn an_event_that_comes_with_a_push_is_remembered() {
        let now = Instant::now();
        let mut schedule = idle(now);
        schedule.event_came();
        schedule.begins(Waited::Configured, now);
        assert!(!schedule.is_due(), "the push is first");
        schedule.ended(Outcome::InSync, Waited::Configured, SECOND, now);
        assert!(schedule.is_event_pending());
        schedule.begins(Waited::Event, now);
        assert!(schedule.is_due());
        schedule.look_begins();
        assert!(!schedule.is_event_pending());
    }

    #[test]
    fn pushes_do_not_put_off_a_full_observation() {
        let begin = Instant::now();
        let mut schedule = idle(begin);
        schedule.begins(Waited::Configured, begin + 59 * SECOND);
        assert!(!schedule.is_due());
        schedule.begins(Waited::Configured, begin + MINUTE);
        assert!(schedule.is_due());
    }

    #[test]
    fn a_full_observation_gives_way_to_pushes_but_not_forever() {
        let begin = Instant::now();
        let mut schedule = idle(begin);
        let looks = begin + MINUTE;
        schedule.begins(Waited::Pause, looks);
        schedule.look_begins();
        assert!(schedule.may_defer(looks), "what is deleted does not wait for it");
        schedule.deferred(looks + SECOND);
        schedule.deferred(looks + 20 * SECOND);
        assert!(schedule.may_defer(looks + 30 * SECOND));
        assert!(!schedule.may_defer(looks + SECOND + LONGEST_DEFERRAL), "the first time counts");
        schedule.looked(looks + 40 * SECOND);
        assert!(schedule.may_defer(looks + 40 * SECOND));
    }

    #[test]
    fn a_partial_change_is_followed_by_a_full_observation() {
        let begin = Instant::now();
        let mut schedule = idle(begin);
        schedule.part_was_changed(begin);
        schedule.part_was_changed(begin + SECOND);
        assert_eq!(schedule.next(), Some(begin + CHECKED_WITHIN), "the first one counts");
        schedule.begins(Waited::Configured, begin + 4 * SECOND);
        assert!(!schedule.is_due());
        schedule.begins(Waited::Configured, begin + CHECKED_WITHIN);
        assert!(schedule.is_due());
        assert_eq!(schedule.next(), Some(begin + MINUTE), "once");
    }

    #[test]
    fn retries_become_less_and_less_frequent() {
        let now = Instant::now();
        let mut schedule = idle(now);
        let pause = |schedule: &mut Schedule, outcome| {
            schedule.ended(outcome, Waited::Pause, SECOND, now);
            schedule.next().map(|next| next - now)
        };
        for most in [500, 1000, 2000].map(Duration::from_millis) {
            let pause = pause(&mut schedule, Outcome::Troubled).unwrap();
            assert!((most / 2..=most).contains(&pause), "{pause:?}");
        }
        assert_eq!(pause(&mut schedule, Outcome::Superseded), None);
        assert_eq!(pause(&mut schedule, Outcome::InSync), Some(MINUTE));
        assert!(pause(&mut schedule, Outcome::Troubled).unwrap() <= Duration::from_millis(500));
    }

    #[test]
    fn continuous_changes_do_not_keep_it_busy() {
        let now = Instant::now();
        let mut schedule = idle(now);
        for (waited, took, rest) in [
            (Waited::Event, SECOND / 2, SECOND),
            (Waited::Event, MINUTE, LONGEST_REST),
            (Waited::Port, SECOND, Duration::ZERO),
            (Waited::Configured, SECOND, Duration::ZERO),
        ] {
            schedule.ended(Outcome::InSync, waited, took, now);
            assert_eq!(schedule.quiet_until(), now + rest, "{waited:?}");
        }
    }

    #[test]
    fn polls_take_a_small_part_of_the_time() {
        let now = Instant::now();
        let mut schedule = idle(now);
        schedule.polled(now, SECOND / 100);
        assert_eq!(schedule.next_poll(), now + POLL_INTERVAL);
        schedule.polled(now, SECOND);
        assert_eq!(schedule.next_poll(), now + 20 * SECOND);
    }
}
