//! Who waits for the audit trail to be whole, to read it.
//!
//! What was refused reaches the trail with the next commit, or with the next look at what is due. Whoever reads the trail has it
//! written before; but not more than so often, whoever reads how often: all that wait meanwhile share one write.

use crate::model::state::State;
use std::time::{Duration, Instant};

/// How often the trail is written for those who read it, at most.
const EVERY: Duration = Duration::from_millis(100);

/// Looks at the state between two commits.
pub(super) type Look = Box<dyn FnOnce(&State) + Send>;

/// Those who wait.
#[derive(Default)]
pub(super) struct Readers {
    waiting: Vec<Look>,
    /// When the trail was last written for somebody.
    written: Option<Instant>,
}

impl Readers {
    /// Somebody waits from now on.
    pub(super) fn add(&mut self, look: Look) {
        self.waiting.push(look);
    }

    /// How long those who wait have to wait still until the trail may be written for them; none where nobody waits.
    pub(super) fn patience(&self) -> Option<Duration> {
        let rest = self.written.map_or(Duration::ZERO, |at| EVERY.saturating_sub(at.elapsed()));
        (!self.waiting.is_empty()).then_some(rest)
    }

    /// The trail is written for them.
    pub(super) fn written(&mut self) {
        self.written = Some(Instant::now());
    }

    /// The trail is whole: they wait no more.
    pub(super) fn take(&mut self) -> Vec<Look> {
        std::mem::take(&mut self.waiting)
    }
}
