//! The console: web pages for tenants and operators, embedded in the controller. Its pages use the same API as
//! other clients; this module only has its files, signing in and out, and the streams of changes.

mod events;
mod files;

use super::{
    Api, authentication, request,
    response::{Failure, Reply, asked_by, reply},
};
use crate::{
    access::{AccessError, Caller, SignInError, session},
    model::Actor,
};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{Extensions, HeaderMap, HeaderValue, header},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

pub use events::Streams;
pub(super) use events::Subscription;

/// The largest body of a sign-in, in bytes.
const MAX_BODY: usize = 4096;

/// The credentials to sign in with: an access key with its secret key, or a token.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Credential {
    access_key: Option<String>,
    secret_key: Option<String>,
    token: Option<String>,
}

/// The console's paths.
pub(super) fn routes(api: &Api) -> Router<Api> {
    let known = Router::new()
        .route("/console/events", get(events::events))
        .layer(middleware::from_fn_with_state(api.clone(), authentication::recognise));
    Router::new()
        .route("/console/session", post(sign_in).delete(sign_out))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .merge(known)
}

/// The console's files.
pub(super) fn static_routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(async || Redirect::to("/console/")))
        .route("/console", get(async || Redirect::to("/console/")))
        .route("/console/", get(files::index))
        .route("/console/{*path}", get(files::file))
}

impl From<SignInError> for Failure {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Unknown(error) => error.into(),
            SignInError::NoRandomness(error) => Failure::internal(error.to_string()),
        }
    }
}

/// The session's cookie with the value `said`, valid for this many seconds. Scripts cannot read it; browsers send it to this host only,
/// only from its own pages, and only over TLS if the server speaks TLS.
fn cookie(api: &Api, said: &str, seconds: u64) -> Result<HeaderValue, Failure> {
    let secure = if api.secure { "; Secure" } else { "" };
    let text =
        format!("{}={said}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}", api.access.cookie_name());
    text.parse().map_err(|_| Failure::internal("the session's cookie is no header"))
}

/// Opens a session. Pages of other sites cannot sign anyone in, not even as someone else.
async fn sign_in(
    State(api): State<Api>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Failure> {
    if !session::is_from_own_page(&headers) {
        return Err(AccessError::OthersPage.into());
    }
    let origin = authentication::origin(&extensions);
    let (said, principal) = match request::read(&body)? {
        Credential { access_key: Some(key), secret_key: Some(secret), token: None } => {
            api.access.sign_in_by_key(key.trim(), secret.trim(), &origin)?
        }
        Credential { access_key: None, secret_key: None, token: Some(token) } => {
            api.access.sign_in_by_token(token.trim(), &origin)?
        }
        _ => return Err(Failure::invalid("send `accessKey` and `secretKey`, or `token` alone")),
    };
    let caller = Caller::of(principal);
    asked_by(&caller.word());
    let actor = &caller.actor;
    if let Some(account) = actor.account() {
        api.access.count(account)?;
    }
    tracing::info!("signed in to the console");
    let role = if matches!(actor, Actor::Operator) { "operator" } else { "account" };
    let answer: Reply = reply(json!({ "role": role, "accountId": actor.account() }));
    let mut response = answer?.into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(&api, &said, session::LONGEST_MS / 1000)?);
    Ok(response)
}

/// Ends the session.
async fn sign_out(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Failure> {
    if !session::is_from_own_page(&headers) {
        return Err(AccessError::OthersPage.into());
    }
    api.access.sign_out(&headers);
    let mut response = reply(json!({}))?.into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(&api, "", 0)?);
    Ok(response)
}
