//! The console's files, built from `controller/console` and embedded. See the README there.

use crate::api::response::Failure;
use axum::{
    body::Bytes,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};
use std::borrow::Cow;

#[derive(RustEmbed)]
#[folder = "console/dist/"]
struct Files;

/// Scripts and styles are our own files; nothing else can be loaded, framed, embedded or sent elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// The same for the page with the API reference: Redoc inserts style sheets and markup of its own.
const READER: &str = "api.html";
const READER_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// The page.
pub(super) async fn index(headers: HeaderMap) -> Result<Response, Failure> {
    answer("index.html", &headers)
}

/// A file that the page needs.
pub(super) async fn file(Path(path): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    // Compressed copies are not served under their own names.
    if path.strip_suffix(".gz").is_some() {
        return Err(Failure::not_found("there is nothing at this path"));
    }
    answer(&path, &headers)
}

/// Embedded content is shared by all who read it.
fn content(data: Cow<'static, [u8]>) -> Bytes {
    match data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    }
}

/// Whether a client accepts gzip (RFC 9110 section 12.5.3).
fn accepts_gzip(asked: &HeaderMap) -> bool {
    let said = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        is_gzip && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

fn answer(path: &str, asked: &HeaderMap) -> Result<Response, Failure> {
    let Some(EmbeddedFile { data, metadata }) = Files::get(path) else {
        return Err(Failure::not_found("there is nothing at this path"));
    };
    // The bundle has compressed copies beside the files.
    let packed = accepts_gzip(asked).then(|| Files::get(&format!("{path}.gz"))).flatten();
    let is_packed = packed.is_some();
    let data = packed.map_or(data, |packed| packed.data);
    let tag =
        format!("\"{}{}\"", crate::digest::hex(&metadata.sha256_hash()[..16]), if is_packed { "-gz" } else { "" });
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let fresh = known.flat_map(|tags| tags.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = if fresh { StatusCode::NOT_MODIFIED.into_response() } else { content(data).into_response() };
    // The names of files below `assets` contain a hash of their content.
    let caching = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(path)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_packed && !fresh {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    let policy = if path == READER { READER_POLICY } else { POLICY };
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
