//! The number of spans, by their outcome.

use prometheus_client::metrics::{counter::Counter, family::Family};

/// The outcome of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The collector took it.
    Exported,
    /// There was no room for it.
    QueueFull,
    /// The collector could not be reached, or refused the request.
    Failed,
    /// The collector accepted the request, but not this span.
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

/// The number of spans. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Counts(Counters);

impl Counts {
    pub(crate) fn new() -> Self {
        let counters = Counters::default();
        // Exported from the start: to Prometheus, the first appearance of a counter is no increase.
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
