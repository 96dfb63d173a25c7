//! The shape of every answer.

use crate::{engine::EngineError, model::Fault};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

/// What a handler returns.
pub(super) type Reply = Result<Response, Failure>;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Failure {
    code: StatusCode,
    status: &'static str,
    message: String,
    details: Vec<Fault>,
}

impl Failure {
    fn new(code: StatusCode, status: &'static str, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), details: Vec::new() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    }

    pub(super) fn precondition(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", message)
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(super) fn exists(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "ALREADY_EXISTS", message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }

    pub(super) fn with_details(self, details: Vec<Fault>) -> Self {
        Self { details, ..self }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(refusal) => refusal.into(),
            EngineError::Store(_) | EngineError::StoreFailed(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", error.to_string())
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        fail(self)
    }
}

fn request_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// An answer with a result.
pub(super) fn reply(result: impl Serialize) -> Reply {
    let result: Value = serde_json::to_value(result).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Json(json!({ "requestId": request_id(), "result": result })).into_response())
}

/// An answer with an error.
pub(super) fn fail(failure: Failure) -> Response {
    let Failure { code, status, message, details } = failure;
    let error = json!({ "code": code.as_u16(), "status": status, "message": message, "details": details });
    (code, Json(json!({ "requestId": request_id(), "error": error }))).into_response()
}
