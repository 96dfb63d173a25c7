//! JD Cloud's request signatures, both generations: `JDCLOUD2-HMAC-SHA256` and `JDCLOUD3-HMAC-SHA256`.
//!
//! ```text
//! canonical request  METHOD \n path \n query \n "name:value\n" of each signed header \n names joined by ";" \n hex(sha256(body))
//! string to sign     ALGORITHM \n x-jdcloud-date \n YYYYMMDD/region/service/TERM \n hex(sha256(canonical request))
//! key                HMAC(HMAC(HMAC(HMAC(V + secret key, YYYYMMDD), region), service), TERM)
//! ```
//!
//! Clients differ in how they encode path and query, so a signature is compared with each of the usual spellings of the request.

use crate::digest::{hex, sha256};
use cps_peering_config::time::{MINUTE_MS, moment};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::hmac;
use std::collections::BTreeSet;
use thiserror::Error;

/// How far the date of a request may be from now, in milliseconds.
pub const WINDOW_MS: u64 = 15 * MINUTE_MS;

/// The longest nonce, in bytes: all recent ones are remembered. Clients send 36.
const MAX_NONCE: usize = 128;

/// The characters that RFC 3986 calls unreserved.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// A SHA-256.
pub type BodyHash = [u8; 32];

/// The hash of an empty body.
pub const NO_BODY: BodyHash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// A request, as received.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as sent, percent-encoded.
    pub path: &'a str,
    /// The query as sent, without `?`.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a http::HeaderMap,
    /// The SHA-256 of the whole body.
    pub body: BodyHash,
}

impl Parts<'_> {
    /// The values of a header, joined by commas.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        (!values.is_empty()).then(|| values.iter().map(|value| value.trim()).collect::<Vec<_>>().join(","))
    }
}

/// A signature that cannot be valid, whatever the key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The header does not have the form that the scheme requires.
    #[error("the header Authorization is not `ALGORITHM Credential=…, SignedHeaders=…, Signature=…`: {0}")]
    Malformed(&'static str),
    /// A required header is missing.
    #[error("a signed request needs the header {0}")]
    Lacks(&'static str),
    /// The date is malformed.
    #[error("x-jdcloud-date is not of the form 20260101T000000Z: {0:?}")]
    Date(String),
    /// The date is too far from now.
    #[error("x-jdcloud-date {0} is more than 15 minutes from the controller's time: set the clock, or sign again")]
    Expired(String),
}

/// The content of a header `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    generation: Generation,
    /// The access key that it claims.
    pub access_key: String,
    /// The day, `YYYYMMDD`.
    day: String,
    /// The region that it is valid for.
    pub region: String,
    /// The service that it is valid for.
    pub service: String,
    date: String,
    signed_headers: Vec<String>,
    /// The signature in lower-case hexadecimal.
    pub value: String,
    /// Until when the same request could be replayed, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    Second,
    Third,
}

impl Generation {
    fn algorithm(self) -> &'static str {
        match self {
            Generation::Second => "JDCLOUD2-HMAC-SHA256",
            Generation::Third => "JDCLOUD3-HMAC-SHA256",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Generation::Second => "JDCLOUD2",
            Generation::Third => "JDCLOUD3",
        }
    }

    fn term(self) -> &'static str {
        match self {
            Generation::Second => "jdcloud2_request",
            Generation::Third => "jdcloud3_request",
        }
    }
}

/// `20260101T000000Z` in milliseconds since 1970-01-01 UTC.
fn parse_date(date: &str) -> Option<u64> {
    let plain = date.len() == 16 && date.is_ascii() && date.as_bytes()[8] == b'T' && date.ends_with('Z');
    if !plain {
        return None;
    }
    let part = |range: std::ops::Range<usize>| &date[range];
    let text =
        format!("{}-{}-{}T{}:{}:{}Z", part(0..4), part(4..6), part(6..8), part(9..11), part(11..13), part(13..15));
    moment(&text)
}

impl Signature {
    /// Reads the signature of a request, and checks that its date is recent.
    pub fn read(authorization: &str, parts: &Parts<'_>, now_ms: u64) -> Result<Self, SignatureError> {
        let malformed = SignatureError::Malformed;
        let (algorithm, fields) =
            authorization.split_once(' ').ok_or(malformed("there is nothing behind the algorithm"))?;
        let generation = [Generation::Second, Generation::Third]
            .into_iter()
            .find(|generation| generation.algorithm() == algorithm)
            .ok_or(malformed("the algorithm is neither JDCLOUD2-HMAC-SHA256 nor JDCLOUD3-HMAC-SHA256"))?;
        let field = |name: &str| {
            fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('=')).map(str::trim)
        };
        let credential = field("Credential").ok_or(malformed("there is no Credential"))?;
        let signed_headers = field("SignedHeaders").ok_or(malformed("there are no SignedHeaders"))?;
        let value = field("Signature").ok_or(malformed("there is no Signature"))?;
        let [access_key, day, region, service, term] = credential.split('/').collect::<Vec<_>>()[..] else {
            return Err(malformed("Credential is not KEY/DAY/REGION/SERVICE/TERM"));
        };
        if term != generation.term() {
            return Err(malformed("the credential's last part does not belong to the algorithm"));
        }
        let signed_headers: Vec<String> = signed_headers.split(';').map(str::to_ascii_lowercase).collect();
        if !signed_headers.iter().any(|name| name == "host") {
            return Err(malformed("host is not among the SignedHeaders"));
        }
        let date = parts.header("x-jdcloud-date").ok_or(SignatureError::Lacks("x-jdcloud-date"))?;
        let date_ms = parse_date(&date).ok_or_else(|| SignatureError::Date(date.clone()))?;
        if !date.starts_with(day) || day.len() != 8 {
            return Err(malformed("the credential's day is not that of x-jdcloud-date"));
        }
        if date_ms.abs_diff(now_ms) > WINDOW_MS {
            return Err(SignatureError::Expired(date));
        }
        let nonce = parts.header("x-jdcloud-nonce").ok_or(SignatureError::Lacks("x-jdcloud-nonce"))?;
        if nonce.len() > MAX_NONCE {
            return Err(malformed("x-jdcloud-nonce is longer than 128 bytes"));
        }
        Ok(Self {
            generation,
            access_key: access_key.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            date,
            signed_headers,
            value: value.to_ascii_lowercase(),
            until_ms: date_ms + WINDOW_MS + 1,
        })
    }

    /// Whether the signature was made with this secret key for this request.
    pub fn verify(&self, parts: &Parts<'_>, secret_key: &str) -> bool {
        let Some(expected) = bytes(&self.value) else { return false };
        let step = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let day = step(format!("{}{secret_key}", self.generation.prefix()).as_bytes(), &self.day);
        let region = step(day.as_ref(), &self.region);
        let service = step(region.as_ref(), &self.service);
        let signing = step(service.as_ref(), self.generation.term());
        let key = hmac::Key::new(hmac::HMAC_SHA256, signing.as_ref());
        let spellings = spellings_of_path(parts.path);
        spellings.iter().any(|path| {
            spellings_of_query(parts.query).iter().any(|query| {
                let text = self.string_to_sign(&self.canonical_request(parts, path, query));
                hmac::verify(&key, text.as_bytes(), &expected).is_ok()
            })
        })
    }

    fn canonical_request(&self, parts: &Parts<'_>, path: &str, query: &str) -> String {
        let line = |name: &String| format!("{name}:{}\n", parts.header(name).unwrap_or_default());
        let headers: String = self.signed_headers.iter().map(line).collect();
        let names = self.signed_headers.join(";");
        format!("{}\n{path}\n{query}\n{headers}\n{names}\n{}", parts.method, hex(&parts.body))
    }

    fn string_to_sign(&self, canonical: &str) -> String {
        let scope = format!("{}/{}/{}/{}", self.day, self.region, self.service, self.generation.term());
        format!("{}\n{}\n{scope}\n{}", self.generation.algorithm(), self.date, hex(&sha256(canonical.as_bytes())))
    }
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Decodes as Python's `unquote_plus` does.
fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn spellings_of_path(path: &str) -> BTreeSet<String> {
    let mut decoded = decode(path);
    while decoded.contains("//") {
        decoded = decoded.replace("//", "/");
    }
    if !decoded.starts_with('/') {
        decoded.insert(0, '/');
    }
    BTreeSet::from([utf8_percent_encode(&decoded, PATH).to_string(), path.to_owned()])
}

fn spellings_of_query(query: &str) -> BTreeSet<String> {
    let encode = |text: &str| utf8_percent_encode(&decode(text), UNRESERVED).to_string();
    // Pairs without `=` are dropped; what follows a second `=` belongs to the value.
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut pairs: Vec<(String, String)> =
        pairs.filter(|(name, _)| !name.is_empty()).map(|(name, value)| (encode(name), encode(value))).collect();
    pairs.sort();
    let normal = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    BTreeSet::from([normal, query.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "20260101T000000Z";
    const QUERY: &str = "pageNumber=1&filters.1.name=vpcId&filters.1.values.1=vpc-a";
    const PATH: &str = "/v1/regions/cn-north-1/vpcPeerings/";

    fn headers() -> http::HeaderMap {
        let pairs = [
            ("content-type", "application/json"),
            ("x-jdcloud-date", NOW),
            ("x-jdcloud-nonce", "00000000-0000-4000-8000-000000000000"),
            ("host", "127.0.0.1:18990"),
        ];
        pairs.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn check(authorization: &str, method: &str, query: &str, body: &str) -> Result<bool, SignatureError> {
        let headers = headers();
        let parts = Parts { method, path: PATH, query, headers: &headers, body: sha256(body.as_bytes()) };
        let signature = Signature::read(authorization, &parts, parse_date(NOW).unwrap())?;
        assert_eq!((signature.access_key.as_str(), signature.service.as_str()), ("AKTEST", "vpc"));
        Ok(signature.verify(&parts, "SKTEST"))
    }

    fn authorization(version: u8, signed: &str, signature: &str) -> String {
        format!(
            "JDCLOUD{version}-HMAC-SHA256 Credential=AKTEST/20260101/cn-north-1/vpc/jdcloud{version}_request, \
             SignedHeaders={signed}, Signature={signature}"
        )
    }

    const ALL: &str = "content-type;host;x-jdcloud-date;x-jdcloud-nonce";
    const THIRD: &str = "d8952c12dbf739500530e1f285a913a65a7c7b4781f4be1976d66e8a5cfeec36";

    #[test]
    fn vectors_of_both_generations_match() {
        assert_eq!(check(&authorization(3, ALL, THIRD), "GET", QUERY, ""), Ok(true));
        let post = "9d1674971229a1a836fa8f43663d2fc88d20d28587da19a92da2e1b152bf293e";
        assert_eq!(check(&authorization(3, "content-type;host", post), "POST", "", "{\"vpcId\": \"vpc-a\"}"), Ok(true));
        let second = "68707b5dc23d2bdac6863bc76ecfa556eccea27df8e7019d4bf0f592216a152d";
        assert_eq!(check(&authorization(2, ALL, second), "GET", QUERY, ""), Ok(true));
    }

    #[test]
    fn whatever_was_tampered_with_does_not_match() {
        let right = authorization(3, ALL, THIRD);
        assert_eq!(check(&right, "DELETE", QUERY, ""), Ok(false));
        assert_eq!(check(&right, "GET", &QUERY.replace("vpc-a", "vpc-b"), ""), Ok(false));
        assert_eq!(check(&right, "GET", QUERY, "{}"), Ok(false));
        assert_eq!(check(&authorization(3, ALL, &THIRD.replace('d', "e")), "GET", QUERY, ""), Ok(false));
        assert_eq!(check(&authorization(3, ALL, "xyz"), "GET", QUERY, ""), Ok(false));
        assert_eq!(check(&authorization(2, ALL, THIRD), "GET", QUERY, ""), Ok(false));
    }

    #[test]
    fn a_malformed_signature_is_explained() {
        let cases = [
            ("JDCLOUD3-HMAC-SHA256", "nothing behind"),
            ("JDCLOUD9-HMAC-SHA256 Credential=a", "neither"),
            ("JDCLOUD3-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00", "KEY/DAY/REGION"),
            ("JDCLOUD3-HMAC-SHA256 SignedHeaders=host, Signature=00", "no Credential"),
        ];
        for (text, words) in cases {
            let error = check(text, "GET", QUERY, "").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let without_host = check(&authorization(3, "content-type", THIRD), "GET", QUERY, "").unwrap_err();
        assert!(without_host.to_string().contains("host"), "{without_host}");
    }

    #[test]
    fn old_and_future_dates_are_refused() {
        let headers = headers();
        let parts = Parts { method: "GET", path: PATH, query: QUERY, headers: &headers, body: NO_BODY };
        let now = parse_date(NOW).unwrap();
        let read = |now| Signature::read(&authorization(3, ALL, THIRD), &parts, now);
        for legal in [now, now + WINDOW_MS, now - WINDOW_MS] {
            assert!(read(legal).is_ok());
        }
        for illegal in [now + WINDOW_MS + 1, now - WINDOW_MS - 1] {
            assert!(matches!(read(illegal), Err(SignatureError::Expired(_))));
        }
    }

    #[test]
    fn no_body_has_the_hash_of_nothing() {
        assert_eq!(NO_BODY, sha256(b""));
    }

    #[test]
    fn a_date_is_what_it_says() {
        assert_eq!(parse_date("19700102T000001Z"), Some((24 * 60 * 60 + 1) * 1000));
        for illegal in ["", "20261301T000000Z", "2026-01-01T00:00", "20260101T000000+", "2026010aT000000Z"] {
            assert_eq!(parse_date(illegal), None, "{illegal}");
        }
    }

    #[test]
    fn python_spellings_are_the_same_request() {
        assert!(spellings_of_path("/a//b%3Ac").contains("/a/b%3Ac"));
        assert!(spellings_of_path("/a/b:c").contains("/a/b%3Ac"));
        assert!(spellings_of_query("b=1+2&a=x=y&c&=z").contains("a=x%3Dy&b=1%202"));
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn signature() {
        let now_ms = parse_date("20260101T000000Z").unwrap();
        fuzz("signature", |input| {
            let text = String::from_utf8_lossy(input);
            let mut lines = text.split('\n');
            let mut line = || lines.next().unwrap_or_default().to_owned();
            let (authorization, path, query, date) = (line(), line(), line(), line());
            let mut headers = http::HeaderMap::new();
            for (name, value) in [("content-type", "application/json"), ("host", "h"), ("x-jdcloud-nonce", "n")] {
                headers.insert(name, value.parse().unwrap());
            }
            if let Ok(date) = date.parse() {
                headers.insert("x-jdcloud-date", date);
            }
            let parts = Parts { method: "GET", path: &path, query: &query, headers: &headers, body: sha256(input) };
            if let Ok(signature) = Signature::read(&authorization, &parts, now_ms) {
                assert!(!signature.verify(&parts, "another key"), "nothing of this was signed with it");
            }
        });
    }
}
