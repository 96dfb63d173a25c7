//! Readers of the audit trail wait until it is complete.
//!
//! Refused requests reach the trail with the next commit, or with the next sweep. For readers it is written before that, at
//! a limited rate however many there are: all that wait at the same time share one write.

use crate::model::state::State;
use std::time::{Duration, Instant};

/// The shortest time between two writes of the trail for readers.
const EVERY: Duration = Duration::from_millis(100);

/// A reader of the state between two commits.
pub(super) type Look = Box<dyn FnOnce(&State) + Send>;

/// Readers that wait.
#[derive(Default)]
pub(super) struct Readers {
    waiting: Vec<Look>,
    /// When the trail was last written for a reader.
    written: Option<Instant>,
}

impl Readers {
    /// Adds a reader that waits.
    pub(super) fn add(&mut self, look: Look) {
        self.waiting.push(look);
    }

    /// How long the readers still have to wait until the trail can be written for them; none without readers.
    pub(super) fn patience(&self) -> Option<Duration> {
        let rest = self.written.map_or(Duration::ZERO, |at| EVERY.saturating_sub(at.elapsed()));
        (!self.waiting.is_empty()).then_some(rest)
    }

    /// The trail was written for them.
    pub(super) fn written(&mut self) {
        self.written = Some(Instant::now());
    }

    /// The trail is complete: removes the readers, which need not wait any more.
    pub(super) fn take(&mut self) -> Vec<Look> {
        std::mem::take(&mut self.waiting)
    }
}
