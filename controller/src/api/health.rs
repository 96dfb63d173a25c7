//! The controller's health for monitoring: `/livez` (restart it?), `/readyz` (send it requests?), and `/healthz`, one
//! line for people.

use crate::engine::Health;
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// Whether requests are answered here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Whether requests are, changes included.
    pub ready: bool,
    /// `leader` or `follower` if several controllers share a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The problems; while ready, the restrictions.
    #[serde(default)]
    pub reasons: Vec<Reason>,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A word for programs: `StoreFailing`, `StoreLowSpace`, `NoLeader`, `LeaderUnreachable` or `CouldNotLead`.
    pub reason: String,
    /// Description for people.
    pub message: String,
}

impl Readiness {
    /// The readiness of a controller that writes the store itself.
    pub(crate) fn of(health: &Health, role: Option<&str>) -> Self {
        let (ready, reason) = match health {
            Health::Fine => (true, None),
            Health::Low(why) => (true, Some(("StoreLowSpace", why))),
            Health::Failing(why) => (false, Some(("StoreFailing", why))),
        };
        let reasons = reason.map(|(reason, why)| Reason { reason: reason.to_owned(), message: why.clone() });
        Self { ready, role: role.map(str::to_owned), reasons: reasons.into_iter().collect() }
    }

    /// Adds the reason why a follower could not lead. It still forwards requests.
    #[must_use]
    pub(crate) fn hindered(mut self, obstacle: Option<String>) -> Self {
        let obstacle = obstacle.map(|message| Reason { reason: "CouldNotLead".to_owned(), message });
        // If the leader is unknown, the response may come from another follower, or from this one.
        self.reasons.extend(obstacle.filter(|it| !self.reasons.contains(it)));
        self
    }

    /// The readiness of a follower that cannot have requests answered.
    pub(crate) fn follower_without(reason: &str, message: impl Into<String>) -> Self {
        let reason = Reason { reason: reason.to_owned(), message: message.into() };
        Self { ready: false, role: Some("follower".to_owned()), reasons: vec![reason] }
    }
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let status = if self.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(self)).into_response()
    }
}

/// The process responds.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether writes work: `ok` and the controller's role, if there are several; 503 if not.
pub(crate) fn healthz(health: &Health, role: &str) -> Response {
    match health {
        Health::Fine => format!("ok{role}\n").into_response(),
        Health::Low(why) => {
            format!("ok{role}, but {why}: only deletes, rejects and suspensions are accepted\n").into_response()
        }
        Health::Failing(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the store takes no writes: {why}\n")).into_response()
        }
    }
}
