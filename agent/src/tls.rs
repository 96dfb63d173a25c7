//! What the controller sends for TLS: revocation lists, and this host's certificate when it is to be renewed. The
//! controller fetches a certificate request and puts the certificate for it; the key is generated here and stays here,
//! see [`Identity::take_certificate`] for the checks.
//!
//! Files are written by one request at a time, so that a disk that hangs blocks one thread and not one per retry.

use crate::reconcile::Handle;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{post, put},
};
use cps_peering_config::agent_api::{CERTIFICATE_PATH, CERTIFICATE_REQUEST_PATH, CRL_PATH, ErrorBody, MAX_CERTIFICATE};
use cps_peering_http::tls::{Identity, Kept, MAX_CRL, RenewalError, TlsError};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// Where TLS material from the controller is kept: revocation lists, and the certificate that has replaced that of the
/// settings.
pub(crate) fn kept_beside(ledger: &Path) -> Kept {
    Kept { crl: Some(ledger.with_extension("crl")), renewed: Some(ledger.with_extension("pem")) }
}

/// How long a request waits for the one before it.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
struct Files {
    identity: Identity,
    /// Held while files are written and read.
    turn: Arc<Mutex<()>>,
    reconciler: Handle,
}

/// The routes, without access checks.
pub(crate) fn routes(identity: Identity, reconciler: Handle) -> Router {
    let files = Files { identity, turn: Arc::default(), reconciler };
    let certificates = Router::new()
        .route(CERTIFICATE_REQUEST_PATH, post(request))
        .route(CERTIFICATE_PATH, put(take))
        .layer(DefaultBodyLimit::max(MAX_CERTIFICATE));
    let lists = Router::new().route(CRL_PATH, put(take_lists)).layer(DefaultBodyLimit::max(MAX_CRL));
    certificates.merge(lists).with_state(files)
}

impl Files {
    /// Carries out an operation that may wait for the disk, once no other one is pending. It continues if the client
    /// disconnects. `file` is what it writes, if anything.
    async fn change<T: Send + 'static>(
        &self,
        file: Option<&Path>,
        change: impl FnOnce(&Identity) -> T + Send + 'static,
    ) -> Result<T, Response> {
        let refuse = |reason: String| refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
        let Ok(turn) = timeout(TURN_WITHIN, Arc::clone(&self.turn).lock_owned()).await else {
            return Err(refuse("files for TLS are still being written: retry later".to_owned()));
        };
        let (own, file) = (self.clone(), file.map(Path::to_owned));
        let done = tokio::spawn(async move {
            let _turn = turn;
            match file {
                Some(file) => own.reconciler.write(&file, move || change(&own.identity)).await,
                None => spawn_blocking(move || change(&own.identity)).await,
            }
        });
        done.await.flatten().map_err(|error| refuse(error.to_string()))
    }
}

/// Generates a key and a certificate request for it.
async fn request(State(files): State<Files>) -> Result<Response, Response> {
    match files.change(None, Identity::request_certificate).await? {
        Ok(request) => Ok(request.into_response()),
        Err(error) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

/// Takes over the certificate, from the next handshake on.
async fn take(State(files): State<Files>, body: Bytes) -> Result<StatusCode, Response> {
    match files
        .change(files.identity.kept().renewed.as_deref(), move |identity| identity.take_certificate(&body))
        .await?
    {
        Ok(facts) => {
            tracing::info!(expires = %facts.expires(), "this host's certificate was renewed by the controller");
            Ok(StatusCode::NO_CONTENT)
        }
        Err(error) => Err(refuse(status(&error), error.to_string())),
    }
}

/// Takes over revocation lists, which one of the CAs must have signed. They only ever add to what is revoked.
async fn take_lists(State(files): State<Files>, body: Bytes) -> Result<StatusCode, Response> {
    match files
        .change(files.identity.kept().crl.as_deref(), move |identity| identity.take_revocation_lists(&body))
        .await?
    {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error @ TlsError::Unreadable { .. }) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
        Err(error) => Err(refuse(StatusCode::BAD_REQUEST, error.to_string())),
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
    tracing::warn!(%message, "TLS material from the controller was refused; the previous one stays in use");
    (status, Json(ErrorBody { message, desired: None })).into_response()
}
