//! How many spans there were, by what became of them.

use prometheus_client::metrics::{counter::Counter, family::Family};

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The collector took it.
    Exported,
    /// There was no room for it.
    QueueFull,
    /// The collector could not be reached, or took no request.
    Failed,
    /// The collector took the request, and not this span.
    Rejected,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Exported => "exported",
            Outcome::QueueFull => "queue_full",
            Outcome::Failed => "failed",
            Outcome::Rejected => "rejected",
        }
    }
}

pub(crate) type Counters = Family<[(&'static str, &'static str); 1], Counter>;

/// How many spans there were. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Counts(Counters);

impl Counts {
    pub(crate) fn new() -> Self {
        let counters = Counters::default();
        // Shown from the start: an increase from nothing is no increase to Prometheus.
        for outcome in [Outcome::Exported, Outcome::QueueFull, Outcome::Failed, Outcome::Rejected] {
            drop(counters.get_or_create(&[("outcome", outcome.word())]));
        }
        Self(counters)
    }

    pub(crate) fn add(&self, outcome: Outcome, spans: u64) {
        self.0.get_or_create(&[("outcome", outcome.word())]).inc_by(spans);
    }

    pub(crate) fn family(&self) -> Counters {
        self.0.clone()
    }
}
