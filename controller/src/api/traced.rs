//! Requests that are recorded as traces, if the settings name a collector.
//!
//! The decision is made once the caller is authenticated: operators decide by `traceparent`; of accounts' requests a fraction is
//! recorded that the settings define. Unauthenticated requests are not recorded.

use super::response::RequestId;
use crate::access::Caller;
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, StatusCode, request},
    middleware::Next,
    response::Response,
};
use cps_peering_otlp::{Caller as Trust, Moment, Recorder, Span, SpanContext, TRACEPARENT, TraceParent};
use std::sync::{Arc, Mutex, PoisonError};

/// A request that may be recorded.
#[derive(Clone)]
struct Traced {
    recorder: Recorder,
    since: Moment,
    /// Set once it is recorded.
    span: Arc<Mutex<Option<Span>>>,
}

impl Traced {
    fn with_span<T>(&self, look: impl FnOnce(&mut Span) -> T) -> Option<T> {
        // A panic cannot leave it half written.
        self.span.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(look)
    }

    fn answered(&self, status: StatusCode) {
        self.with_span(|span| {
            span.set("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.fail(status);
            }
        });
        // What the handlers spawned may hold it for longer.
        drop(self.span.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Records a request, if it turns out to be sampled.
pub(super) async fn record(State(recorder): State<Recorder>, mut request: Request, next: Next) -> Response {
    if !recorder.is_on() {
        return next.run(request).await;
    }
    let traced = Traced { recorder, since: Moment::now(), span: Arc::default() };
    request.extensions_mut().insert(traced.clone());
    let answer = next.run(request).await;
    traced.answered(answer.status());
    answer
}

/// The parent span in a request's headers. Two headers count as none.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut said = headers.get_all(TRACEPARENT).iter();
    let parent = TraceParent::parse(said.next()?.to_str().ok()?);
    parent.filter(|_| said.next().is_none())
}

/// Decides whether a request is recorded, once its caller is known.
pub(super) fn asked_by(parts: &request::Parts, caller: &Caller) {
    let Some(traced) = parts.extensions.get::<Traced>() else { return };
    // Unknown paths are the client's choice, and could be any number.
    let Some(route) = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str) else { return };
    let trust = if caller.operator.is_some() { Trust::Trusted } else { Trust::Untrusted };
    let (name, method) = match parts.method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => (known, known),
        // Any other is the client's choice as well (OpenTelemetry's conventions for HTTP).
        _ => ("HTTP", "_OTHER"),
    };
    let span = traced.recorder.receive(&format!("{name} {route}"), traced.since, parent(&parts.headers), trust);
    let Some(mut span) = span else { return };
    span.set("http.request.method", method);
    span.set("http.route", route);
    span.set("cps.caller", caller.word());
    if let Some(RequestId(id)) = parts.extensions.get() {
        span.set("cps.request_id", id.as_str());
    }
    tracing::Span::current().record("trace_id", span.context().trace_id());
    *traced.span.lock().unwrap_or_else(PoisonError::into_inner) = Some(span);
}

/// The span of a request, if it is recorded.
pub(super) fn context(parts: &request::Parts) -> Option<SpanContext> {
    parts.extensions.get::<Traced>()?.with_span(|span| span.context())
}
