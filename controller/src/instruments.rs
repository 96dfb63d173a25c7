//! Metrics that are recorded as things happen; those derived from the state are in [`metrics`](crate::metrics).

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use cps_peering_config::id::HostId;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The outcome of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The host's kernel has all of it.
    Confirmed,
    /// The agent has it, but the kernel does not yet.
    Behind,
    /// The agent could not be reached, or refused.
    Failed,
}

impl Pushed {
    fn word(self) -> &'static str {
        match self {
            Pushed::Confirmed => "confirmed",
            Pushed::Behind => "behind",
            Pushed::Failed => "failed",
        }
    }
}

/// The outcome of a certificate renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// The agent has a new one.
    Done,
    /// The agent already had another one.
    Current,
    /// The agent could not be reached.
    Unreachable,
    /// The agent's version does not support renewal.
    Unknown,
    /// The agent did not create a request, or refused the certificate.
    AgentRefused,
    /// The agent's request, or its certificate, does not qualify.
    RequestRefused,
    /// The issuer of the settings cannot be used.
    NotIssued,
}

impl Renewed {
    const ALL: [Self; 7] = [
        Self::Done,
        Self::Current,
        Self::Unreachable,
        Self::Unknown,
        Self::AgentRefused,
        Self::RequestRefused,
        Self::NotIssued,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Renewed::Done => "renewed",
            Renewed::Current => "current",
            Renewed::Unreachable => "unreachable",
            Renewed::Unknown => "unsupported",
            Renewed::AgentRefused => "agent_refused",
            Renewed::RequestRefused => "request_refused",
            Renewed::NotIssued => "not_issued",
        }
    }
}

/// The limit that refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limited {
    /// That on an account's requests.
    Account,
    /// That on wrong credentials from an address.
    Source,
}

impl Limited {
    fn word(self) -> &'static str {
        match self {
            Limited::Account => "account",
            Limited::Source => "source",
        }
    }
}

/// The labels of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    method: String,
    /// The template, such as `/v1/regions/{regionId}/vpcs`: one value, however many VPCs there are.
    route: String,
    code: u16,
}

/// Recorded metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) pushes: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) renewals: Family<[(&'static str, &'static str); 1], Counter>,
    /// Hosts whose last renewal attempt of a due certificate failed, with the outcome.
    not_renewed: Arc<Mutex<BTreeMap<HostId, Renewed>>>,
    pub(crate) limited: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) convergence: Histogram,
    pub(crate) commits: Histogram,
    pub(crate) requests: Family<RequestLabels, Histogram>,
    pub(crate) audit_dropped: Counter,
}

/// From a millisecond to half a minute.
const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let pushes = Family::default();
        // Exported from the start: a counter that appears has not increased for Prometheus.
        for outcome in [Pushed::Confirmed, Pushed::Behind, Pushed::Failed] {
            drop(pushes.get_or_create(&[("outcome", outcome.word())]));
        }
        let renewals = Family::default();
        for result in Renewed::ALL {
            drop(renewals.get_or_create(&[("result", result.word())]));
        }
        let limited = Family::default();
        for by in [Limited::Account, Limited::Source] {
            drop(limited.get_or_create(&[("by", by.word())]));
        }
        Self {
            pushes,
            renewals,
            not_renewed: Arc::default(),
            limited,
            convergence: histogram(),
            commits: histogram(),
            audit_dropped: Counter::default(),
            requests: Family::new_with_constructor(histogram as fn() -> Histogram),
        }
    }
}

impl Metrics {
    pub(crate) fn pushed(&self, outcome: Pushed) {
        self.pushes.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    pub(crate) fn renewed(&self, host: &HostId, result: Renewed) {
        self.renewals.get_or_create(&[("result", result.word())]).inc();
        if matches!(result, Renewed::Done | Renewed::Current) {
            self.not_renewed().remove(host);
        } else {
            self.not_renewed().insert(host.clone(), result);
        }
    }

    /// Hosts whose last renewal attempt of a due certificate failed, with the outcome.
    pub(crate) fn not_renewed(&self) -> MutexGuard<'_, BTreeMap<HostId, Renewed>> {
        // A panic cannot leave it half written.
        self.not_renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn limited(&self, by: Limited) {
        self.limited.get_or_create(&[("by", by.word())]).inc();
    }

    pub(crate) fn converged(&self, lag: Duration) {
        self.convergence.observe(lag.as_secs_f64());
    }

    /// Entries of the audit trail were dropped, or not stored, for lack of space.
    pub(crate) fn audit_dropped(&self, entries: usize) {
        self.audit_dropped.inc_by(entries.try_into().unwrap_or(u64::MAX));
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commits.observe(took.as_secs_f64());
    }
}

/// Measures a request.
pub(crate) async fn measure(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().as_str().to_owned();
    // Unknown paths and methods are the client's choice, and could be any number.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = if route == "other" { "other".to_owned() } else { method };
    let answer = next.run(request).await;
    let asked = RequestLabels { method, route, code: answer.status().as_u16() };
    metrics.requests.get_or_create(&asked).observe(began.elapsed().as_secs_f64());
    answer
}
