//! Renewal of this host's certificate, which the controller begins: it asks for a request, and puts the certificate for it. The key is made
//! here and stays here; see [`Identity::take_certificate`] for what is checked.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{post, put},
};
use cps_peering_config::agent_api::{CERTIFICATE_PATH, CERTIFICATE_REQUEST_PATH, ErrorBody, MAX_CERTIFICATE};
use cps_peering_http::tls::{Identity, Kept, RenewalError};
use std::path::Path;
use tokio::task::spawn_blocking;

/// Where what the controller brings for TLS is kept: revocation lists, and the certificate that has replaced that of the settings.
pub(crate) fn kept_beside(ledger: &Path) -> Kept {
    Kept { crl: Some(ledger.with_extension("crl")), renewed: Some(ledger.with_extension("pem")) }
}

/// The routes, without a question who asks.
pub(crate) fn routes(identity: Identity) -> Router {
    Router::new()
        .route(CERTIFICATE_REQUEST_PATH, post(request))
        .route(CERTIFICATE_PATH, put(take))
        .layer(DefaultBodyLimit::max(MAX_CERTIFICATE))
        .with_state(identity)
}

/// Makes a key and a request for a certificate for it.
async fn request(State(identity): State<Identity>) -> Response {
    match spawn_blocking(move || identity.request_certificate()).await {
        Ok(Ok(request)) => request.into_response(),
        Ok(Err(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Takes the certificate up, from the next handshake on.
async fn take(State(identity): State<Identity>, body: Bytes) -> Response {
    match spawn_blocking(move || identity.take_certificate(&body)).await {
        Ok(Ok(facts)) => {
            tracing::info!(expires = %facts.expires(), "this host's certificate was renewed by the controller");
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Err(error)) => refuse(status(&error), error.to_string()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn status(error: &RenewalError) -> StatusCode {
    match error {
        RenewalError::NoRequest => StatusCode::CONFLICT,
        RenewalError::NoPlace | RenewalError::Request(_) | RenewalError::Write(_) | RenewalError::Files(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        RenewalError::NotPem(_)
        | RenewalError::Chain(_)
        | RenewalError::Malformed(_)
        | RenewalError::OtherKey
        | RenewalError::Differs { .. }
        | RenewalError::Untrusted(_)
        | RenewalError::OtherLine
        | RenewalError::Older => StatusCode::BAD_REQUEST,
    }
}

fn refuse(status: StatusCode, message: String) -> Response {
    tracing::warn!(%message, "the renewal of this host's certificate was refused; the one before goes on");
    (status, Json(ErrorBody { message, desired: None })).into_response()
}
