//! What is recorded of the work on a configuration, if its push belongs to a trace.

use cps_peering_config::{Revision, report::Problem};
use cps_peering_otlp::{Kind, Moment, Recorder, Span, SpanContext};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many attempts are recorded for one configuration: what cannot be done is retried again and again.
const LOOKS: u32 = 8;

/// The newest configuration whose push belongs to a trace. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Traced(Arc<Mutex<Option<Newest>>>);

#[derive(Debug)]
struct Newest {
    recorder: Recorder,
    revision: Revision,
    push: SpanContext,
    looks: u32,
}

impl Traced {
    fn newest(&self) -> MutexGuard<'_, Option<Newest>> {
        // The value is complete at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn comes(&self, recorder: &Recorder, revision: Revision, push: SpanContext) {
        let recorder = recorder.clone();
        *self.newest() = Some(Newest { recorder, revision, push, looks: 0 });
    }

    /// An attempt for a configuration begins: an observation and the changes that follow.
    pub(super) fn attempt(&self, revision: Revision) -> Attempt {
        let mut newest = self.newest();
        let Some(of) = newest.as_mut().filter(|of| of.revision == revision && of.looks < LOOKS) else {
            return Attempt { traced: None };
        };
        of.looks += 1;
        let span = of.recorder.child("kernel", Kind::Internal, of.push, Moment::now());
        Attempt { traced: span.map(|span| (self.clone(), revision, span)) }
    }
}

/// An attempt that may be recorded.
pub(super) struct Attempt {
    traced: Option<(Traced, Revision, Span)>,
}

impl Attempt {
    /// A newer configuration came.
    pub(super) fn superseded(&mut self) {
        if let Some((_, _, span)) = &mut self.traced {
            span.set("cps.outcome", "superseded");
        }
    }

    /// All was done that could be, with this many operations.
    pub(super) fn ended(self, operations: u64, problems: &[Problem], seen: bool) {
        let Some((of, revision, mut span)) = self.traced else { return };
        span.set("cps.revision", revision.to_string());
        span.set("cps.operations", operations);
        span.set("cps.problems", problems.len());
        if let Some(problem) = problems.first() {
            span.fail(format_args!("{}: {}", problem.object, problem.reason));
        } else if seen {
            // Later observations are no part of it.
            let mut newest = of.newest();
            if newest.as_ref().is_some_and(|newest| newest.revision == revision) {
                *newest = None;
            }
        }
    }
}
