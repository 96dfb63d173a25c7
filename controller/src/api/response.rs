//! The form of every response: `{"requestId", "result"}` or `{"requestId", "error": {"code", "status", "message", "details"}}`,
//! the HTTP status being the error's code.
//!
//! Handlers do not know request ids: they return a result or an error, and [`complete`] makes the response.

use crate::{
    access::{AccessError, RateLimited},
    engine::EngineError,
    feed::FeedError,
    model::{Code, CommandError, FieldViolation},
    store::{BackupError, StoreError},
};
use axum::{
    body::to_bytes,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cps_peering_config::text;
use cps_peering_http::{headers, places::TooManyConnections};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::Instrument as _;
use utoipa::{ToSchema, openapi};

/// The cursor of an event feed has expired.
const EXPIRED: &str = "EventsExpired";
/// The longest message of an error response, in characters.
const LONGEST_MESSAGE: usize = 4000;
/// The longest rule, and the longest entry, of one violation in it, in characters.
const LONGEST_RULE: usize = 1000;

/// The id of a response in the audit trail and in the log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-jdcloud-request-id");

/// How a client can authenticate (RFC 9110 section 11.6.1).
const CHALLENGES: [&str; 3] = [
    "Bearer realm=\"cps-peering\"",
    "JDCLOUD3-HMAC-SHA256 realm=\"cps-peering\"",
    "JDCLOUD2-HMAC-SHA256 realm=\"cps-peering\"",
];

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// What a handler returns.
pub(super) type Reply = Result<Answer, Failure>;

/// A result.
#[derive(Debug, Clone)]
pub(super) struct Answer(Value);

/// A successful result.
pub(super) fn reply(result: impl Serialize) -> Reply {
    Ok(Answer(serde_json::to_value(result).map_err(|error| Failure::internal(error.to_string()))?))
}

/// An error response.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: StatusCode,
    status: &'static str,
    message: String,
    details: Vec<FieldViolation>,
    /// The allowed methods, if the method is not one of them.
    allow: Option<&'static str>,
    /// When to try again, in seconds.
    retry_after_s: Option<u64>,
}

impl Failure {
    fn new(code: StatusCode, status: &'static str, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), details: Vec::new(), allow: None, retry_after_s: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "HTTP_FORBIDDEN", message)
    }

    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT", message)
    }

    fn too_often(entry: &str, rule: String, reason: &'static str, wait_s: u64) -> Self {
        let details = vec![FieldViolation { entry: entry.to_owned(), rule: rule.clone(), reason }];
        Self { details, retry_after_s: Some(wait_s), ..Self::too_many(rule) }
    }

    /// There is no room for the request at the moment.
    pub(super) fn no_room(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message) }
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::of_status(StatusCode::PAYLOAD_TOO_LARGE, message.into())
    }

    pub(super) fn too_slow(message: impl Into<String>) -> Self {
        Self::of_status(StatusCode::REQUEST_TIMEOUT, message.into())
    }

    /// A credential that is not valid for this. `rule` says why.
    pub(super) fn unauthenticated(rule: String, reason: &'static str) -> Self {
        let details = vec![FieldViolation { entry: "Authorization".to_owned(), rule: rule.clone(), reason }];
        Self { details, ..Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", rule) }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// The path has these methods only.
    pub(super) fn no_method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::of_status(StatusCode::METHOD_NOT_ALLOWED, String::new()) }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }

    /// A wrong value of a field or parameter.
    pub(super) fn field(entry: impl Into<String>, rule: impl Into<String>) -> Self {
        CommandError::one(Code::InvalidArgument, entry, rule, "InvalidParameter").into()
    }

    /// An error of the framework.
    fn of_status(code: StatusCode, message: String) -> Self {
        let status = match code {
            StatusCode::NOT_FOUND => "NOT_FOUND",
            StatusCode::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
            StatusCode::PAYLOAD_TOO_LARGE => "REQUEST_TOO_LARGE",
            StatusCode::REQUEST_TIMEOUT => "DEADLINE_EXCEEDED",
            code if code.is_client_error() => "INVALID_ARGUMENT",
            _ => "INTERNAL",
        };
        let known = code.canonical_reason().unwrap_or_default().to_lowercase();
        Self::new(code, status, if message.is_empty() { known } else { message })
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(refusal) => refusal.into(),
            EngineError::Store(_) | EngineError::StoreFailed(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", error.to_string())
            }
            EngineError::LowSpace(_) => {
                const LATER_S: u64 = 30;
                let (entry, rule) = ("store".to_owned(), error.to_string());
                let details = vec![FieldViolation { entry, rule: rule.clone(), reason: "StoreLowSpace" }];
                let retry_after_s = Some(LATER_S);
                Self { details, retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", rule) }
            }
            EngineError::Broken => Self::internal(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", error.to_string())
    }
}

impl From<FeedError> for Failure {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Expired(_) => {
                CommandError::one(Code::FailedPrecondition, "after", error.to_string(), EXPIRED).into()
            }
            FeedError::Store(error) => error.into(),
            FeedError::Interrupted(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let (code, status) = match error {
            BackupError::Temporary => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        };
        Self::new(code, status, format!("the backup failed: {error}"))
    }
}

impl From<CommandError> for Failure {
    fn from(refusal: CommandError) -> Self {
        let (code, status) = match refusal.code {
            Code::InvalidArgument => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
            Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
            Code::Forbidden => (StatusCode::FORBIDDEN, "HTTP_FORBIDDEN"),
            Code::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Code::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
            Code::Aborted => (StatusCode::CONFLICT, "ABORTED"),
            Code::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED"),
            Code::Replayed => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT"),
        };
        // In the next second the signature is different.
        let retry_after_s = (refusal.code == Code::Replayed).then_some(1);
        Self { details: refusal.violations.clone(), retry_after_s, ..Self::new(code, status, refusal.to_string()) }
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::OthersPage | AccessError::OthersPageByCertificate => Self::forbidden(error.to_string()),
            AccessError::TooManyFailures { wait_s } => {
                Self::too_often("Authorization", error.to_string(), "TooManyFailures", wait_s)
            }
            AccessError::TooManySigned { .. } => {
                Self::too_often("Authorization", error.to_string(), "TooManyRequests", 60)
            }
            _ => Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", error.to_string()),
        }
    }
}

impl From<TooManyConnections> for Failure {
    fn from(error: TooManyConnections) -> Self {
        Self::too_often("accountId", format!("{error}: close some, or wait"), "TooManyConnections", 1)
    }
}

impl From<RateLimited> for Failure {
    fn from(error: RateLimited) -> Self {
        Self::too_often("accountId", error.to_string(), "TooManyRequests", error.wait_s)
    }
}

/// A response that [`complete`] still has to write.
#[derive(Debug, Clone)]
enum Unwritten {
    Result(Value),
    Error(Failure),
}

fn unwritten(status: StatusCode, content: Unwritten) -> Response {
    let mut response = status.into_response();
    response.extensions_mut().insert(content);
    response
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        unwritten(StatusCode::OK, Unwritten::Result(self.0))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let allow = self.allow.map(HeaderValue::from_static);
        let retry_after = self.retry_after_s.map(HeaderValue::from);
        let challenges: &[&str] = if self.code == StatusCode::UNAUTHORIZED { &CHALLENGES } else { &[] };
        let mut response = unwritten(self.code, Unwritten::Error(self));
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if let Some(retry_after) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after);
        }
        for challenge in challenges {
            response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// Records the caller in the log's span of the request.
pub(super) fn asked_by(caller: &str) {
    tracing::Span::current().record("by", tracing::field::display(caller));
}

/// A whole response if no leader can be reached, or it is unknown whether something was done.
pub(crate) fn unavailable(message: &str) -> Response {
    let id = format!("{:032x}", fastrand::u128(..));
    let code = StatusCode::SERVICE_UNAVAILABLE;
    let error = json!({ "code": code.as_u16(), "status": "UNAVAILABLE", "message": message, "details": [] });
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store"), (header::RETRY_AFTER, "1")];
    let mut response = (code, headers, json!({ "requestId": id, "error": error }).to_string()).into_response();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Refuses requests whose head different programs would read differently.
pub(super) async fn unambiguous(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match headers::check(&head) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(error) => Failure::invalid(error.to_string()).into_response(),
    }
}

/// Gives every request an id, and every response its form, including the framework's own.
pub(super) async fn complete(request: Request, next: Next) -> Response {
    let id = format!("{:032x}", fastrand::u128(..));
    // The caller is known later, see [`asked_by`].
    let span = tracing::info_span!("request", %id, by = tracing::field::Empty, trace_id = tracing::field::Empty);
    answered(id, request, next).instrument(span).await
}

async fn answered(id: String, mut request: Request, next: Next) -> Response {
    const LONGEST: usize = 4096;
    request.extensions_mut().insert(RequestId(id.clone()));
    // The path alone: the rest of a request can be confidential.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    tracing::debug!(%method, path, code = response.status().as_u16(), "answered");
    let content = match response.extensions_mut().remove::<Unwritten>() {
        Some(content) => content,
        None if response.status().is_success() => return response,
        None => {
            let (parts, body) = response.into_parts();
            let text = to_bytes(body, LONGEST).await.map(|text| String::from_utf8_lossy(&text).into_owned());
            let failure = Failure::of_status(parts.status, text.unwrap_or_default());
            response = Response::from_parts(parts, axum::body::Body::empty());
            Unwritten::Error(failure)
        }
    };
    let text = match content {
        Unwritten::Result(result) => json!({ "requestId": id, "result": result }),
        Unwritten::Error(Failure { code, status, message, mut details, .. }) => {
            // Input is quoted in many places, also by libraries: it must not make a response longer.
            let message = text::excerpt(&message, LONGEST_MESSAGE);
            for text in details.iter_mut().flat_map(|fault| [&mut fault.entry, &mut fault.rule]) {
                *text = text::excerpt(text, LONGEST_RULE);
            }
            tracing::debug!(code = code.as_u16(), message, "refused");
            let error = json!({ "code": code.as_u16(), "status": status, "message": message, "details": details });
            json!({ "requestId": id, "error": error })
        }
    };
    *response.body_mut() = text.to_string().into();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// A response with a result.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope<T: ToSchema> {
    /// The id of the request.
    request_id: String,
    /// What was asked for.
    result: T,
}

/// A response with an empty result.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Nothing {}

/// A response with an error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorAnswer {
    /// The id of the request.
    request_id: String,
    /// The problem.
    error: ErrorContent,
}

/// The problem.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ErrorContent {
    /// The HTTP status.
    code: u16,
    /// A word for the kind of error, for instance `FAILED_PRECONDITION`.
    status: String,
    /// Description for people.
    message: String,
    /// Everything that is wrong, with words for programs.
    details: Vec<Detail>,
}

/// One violation.
#[derive(Debug, Serialize, ToSchema)]
struct Detail {
    /// The field, or the entry of a document.
    entry: String,
    /// The violated rule, with the value.
    rule: String,
    /// A word for programs, for instance `VpcPeerCidrConflict`.
    reason: Option<String>,
}

/// The errors that any call can return.
pub(super) struct Errors;

impl utoipa::IntoResponses for Errors {
    fn responses() -> std::collections::BTreeMap<String, openapi::RefOr<openapi::Response>> {
        let said = [
            (
                "400",
                "Invalid value (`INVALID_ARGUMENT`), or not possible in the current state (`FAILED_PRECONDITION`).",
            ),
            ("401", "Authentication missing or invalid (`UNAUTHENTICATED`)."),
            ("403", "Permission denied (`HTTP_FORBIDDEN`)."),
            ("404", "Not found, or not visible to the caller (`NOT_FOUND`)."),
            ("405", "Method not allowed."),
            ("408", "Request timeout."),
            (
                "409",
                "Already exists (`ALREADY_EXISTS`), or the client token was used with another request (`ABORTED`).",
            ),
            ("413", "Request body too large."),
            ("429", "Quota exceeded (`QUOTA_EXCEEDED`), or too many requests (`RATE_LIMIT`, with `Retry-After`)."),
            ("503", "The store is unavailable, or no controller leads at the moment (`UNAVAILABLE`)."),
        ];
        let content =
            || openapi::ContentBuilder::new().schema(Some(openapi::Ref::from_schema_name("ErrorAnswer"))).build();
        said.into_iter()
            .map(|(code, words)| {
                let response =
                    openapi::ResponseBuilder::new().description(words).content("application/json", content());
                (code.to_owned(), response.build().into())
            })
            .collect()
    }
}
