//! OTLP's JSON: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. Ids are hexadecimal, and 64-bit
//! numbers are strings.

use crate::span::{Data, Value};
use serde_json::{Value as Json, json};
use std::time::{Duration, SystemTime};

/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// `SpanFlags`: sampled; it is known whether the parent is in another program; it is.
const SAMPLED: u32 = 1;
const KNOWN_REMOTE: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// The resource of the spans: attributes common to all of them.
#[derive(Debug, Clone)]
pub struct Service {
    /// `service.name`
    pub name: String,
    /// `service.version`
    pub version: String,
    /// `host.name`
    pub host: String,
}

/// The body of a request to `/v1/traces`.
pub(crate) fn request(service: &Service, spans: &[Box<Data>]) -> Json {
    let resource =
        [("service.name", &service.name), ("service.version", &service.version), ("host.name", &service.host)];
    let resource: Vec<Json> =
        resource.map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).into();
    let spans: Vec<Json> = spans.iter().map(|data| span(data)).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "cps-peering", "version": service.version }, "spans": spans }],
    }] })
}

fn span(data: &Data) -> Json {
    let nanoseconds = |time: Duration| time.as_nanos().to_string();
    // Collectors do not expect times before 1970.
    let began = data.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let remote = if data.remote { REMOTE } else { 0 };
    let mut json = json!({
        "traceId": data.context.trace_id(),
        "spanId": id(data.context.span),
        "flags": SAMPLED | KNOWN_REMOTE | remote,
        "name": data.name,
        "kind": data.kind as u8,
        "startTimeUnixNano": nanoseconds(began),
        "endTimeUnixNano": nanoseconds(began.saturating_add(data.took)),
        "attributes": data.attributes.iter().map(|(key, value)| attribute(key, value)).collect::<Vec<_>>(),
    });
    if let Some(parent) = data.parent {
        json["parentSpanId"] = id(parent).into();
    }
    if let Some(link) = data.link {
        json["links"] = json!([{ "traceId": link.trace_id(), "spanId": id(link.span) }]);
    }
    if let Some(error) = &data.error {
        json["status"] = json!({ "code": ERROR, "message": error });
    }
    json
}

fn id(span: u64) -> String {
    format!("{span:016x}")
}

fn attribute(key: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({ "stringValue": text }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::Flag(flag) => json!({ "boolValue": flag }),
    };
    json!({ "key": key, "value": value })
}

/// How many spans a collector rejected, according to its response. If it does not say, it accepted all.
pub(crate) fn rejected(answer: &[u8]) -> u64 {
    let Ok(answer) = serde_json::from_slice::<Json>(answer) else { return 0 };
    let rejected = &answer["partialSuccess"]["rejectedSpans"];
    rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0)
}
