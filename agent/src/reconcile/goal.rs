//! The target state of the kernel, and how far it has got.

use cps_peering_config::ValidHostConfig;
use std::sync::Arc;

/// The target state of the kernel.
#[derive(Debug, Default)]
pub(super) enum Goal {
    /// Not known yet: the kernel stays as it is.
    #[default]
    Unknown,
    /// What a configuration requires.
    Config(Target),
}

/// A configuration that is being applied.
#[derive(Debug)]
pub(super) struct Target {
    config: Arc<ValidHostConfig>,
    stored: Stored,
    progress: Progress,
}

/// Whether a configuration is in the ledger. Work on it begins before: ending traffic must not wait for a disk. But
/// nothing is confirmed before it would survive a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Yes,
    /// It is being written, for as long as the disk takes. If it cannot be, the previous one comes back.
    NotYet,
}

/// How far the kernel is. It only ever advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// Not all of it has been applied.
    New,
    /// What could be done was done.
    Compared,
    /// The kernel was seen to be as the configuration requires. Later differences are drift.
    Reached,
}

impl Goal {
    /// Makes another configuration the goal. `changes`: whether it requires anything different from the previous one.
    pub(super) fn follow(&mut self, config: Arc<ValidHostConfig>, stored: Stored, changes: bool) {
        let progress = match self {
            Self::Config(Target { progress: Progress::Reached, .. }) if !changes => Progress::Reached,
            _ => Progress::New,
        };
        *self = Self::Config(Target { config, stored, progress });
    }

    /// The configuration; none if there has never been one.
    pub(super) fn config(&self) -> Option<&Arc<ValidHostConfig>> {
        self.target().map(|target| &target.config)
    }

    /// A configuration is in the ledger. False if another one is the goal by now, or this was known.
    pub(super) fn is_stored_now(&mut self, config: &Arc<ValidHostConfig>) -> bool {
        match self {
            Self::Config(target) if Arc::ptr_eq(&target.config, config) => {
                std::mem::replace(&mut target.stored, Stored::Yes) == Stored::NotYet
            }
            _ => false,
        }
    }

    /// Whether the kernel's state may be confirmed.
    pub(super) fn is_stored(&self) -> bool {
        self.target().is_some_and(|target| target.stored == Stored::Yes)
    }

    /// The kernel was read, and all was done that could be.
    pub(super) fn compared(&mut self) {
        self.advance(Progress::Compared);
    }

    /// The kernel was seen to be right.
    pub(super) fn reached(&mut self) {
        self.advance(Progress::Reached);
    }

    /// Whether the kernel was compared with this configuration: later differences do not come from it.
    pub(super) fn was_compared(&self) -> bool {
        self.target().is_some_and(|target| target.progress >= Progress::Compared)
    }

    /// Whether differences are drift.
    pub(super) fn was_reached(&self) -> bool {
        self.target().is_some_and(|target| target.progress == Progress::Reached)
    }

    fn target(&self) -> Option<&Target> {
        match self {
            Self::Unknown => None,
            Self::Config(target) => Some(target),
        }
    }

    fn advance(&mut self, to: Progress) {
        if let Self::Config(target) = self {
            target.progress = target.progress.max(to);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    /// Of a host with nothing on it.
    pub(in crate::reconcile) fn config(number: u64) -> Arc<ValidHostConfig> {
        let config = serde_json::json!({
            "revision": { "epoch": 1, "number": number }, "host": "h1", "underlay": "192.0.2.1"
        });
        Arc::new(serde_json::from_value::<HostConfig>(config).unwrap().try_into().unwrap())
    }

    #[test]
    fn without_a_configuration_nothing_is_reached() {
        let mut goal = Goal::default();
        goal.reached();
        assert!(goal.config().is_none() && !goal.is_stored() && !goal.was_compared());
        assert!(!goal.is_stored_now(&config(1)));
    }

    #[test]
    fn a_configuration_that_changes_something_begins_anew() {
        let mut goal = Goal::default();
        goal.follow(config(1), Stored::Yes, true);
        assert!(!goal.was_compared() && !goal.was_reached());
        goal.compared();
        assert!(goal.was_compared() && !goal.was_reached());
        goal.follow(config(2), Stored::Yes, false);
        assert!(!goal.was_compared(), "what was not right need not be what it was");
        goal.reached();
        goal.compared();
        assert!(goal.was_reached(), "what is not right after it was is drift");
        goal.follow(config(3), Stored::Yes, false);
        assert!(goal.was_reached());
        goal.follow(config(4), Stored::Yes, true);
        assert!(!goal.was_compared() && !goal.was_reached());
    }

    #[test]
    fn only_the_current_goal_is_marked_as_stored() {
        let (mut goal, one, two) = (Goal::default(), config(1), config(2));
        goal.follow(Arc::clone(&one), Stored::NotYet, true);
        goal.follow(Arc::clone(&two), Stored::NotYet, true);
        assert!(!goal.is_stored_now(&one) && !goal.is_stored());
        assert!(goal.is_stored_now(&two) && goal.is_stored());
        assert!(!goal.is_stored_now(&two), "it is reported once");
    }
}
