//! Calls to the controller's HTTP API.

use super::{
    CliError,
    connection::{Resolved, Token},
    output::printable,
    url::base_url,
};
use cps_peering_config::text;
use cps_peering_http::tls;
use reqwest::{Client, Method, StatusCode, Url, header::HeaderMap};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longer than the controller waits for hosts to confirm a delete.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A controller, with credentials.
pub(super) struct Controller {
    base: Url,
    /// None if the client's certificate authenticates the caller.
    token: Option<Token>,
    /// Where the credentials come from, for messages.
    source: String,
    client: Client,
    /// Whether requests and responses are printed on standard error.
    debug: bool,
}

/// An error response of the controller.
pub(super) struct Rejection {
    /// The HTTP status.
    code: u16,
    /// The message.
    pub(super) message: String,
    /// All violations.
    pub(super) violations: Vec<FieldViolation>,
    /// The error as received, with the request's id.
    answer: Value,
}

/// One violation.
pub(super) struct FieldViolation {
    /// Where: a field, or an entry of a document.
    pub(super) entry: String,
    /// Which value breaks which rule.
    pub(super) rule: String,
    /// A word for programs.
    reason: String,
}

impl Rejection {
    /// Whether the object does not exist, or the caller may not know that it does.
    pub(super) fn is_not_found(&self) -> bool {
        self.code == 404
    }
}

impl From<Rejection> for CliError {
    fn from(rejection: Rejection) -> Self {
        // These reasons say no more than the message does.
        const PLAIN: [&str; 2] = ["", "InvalidParameter"];
        let mut reasons: Vec<&str> = rejection.violations.iter().map(|fault| fault.reason.as_str()).collect();
        reasons.retain(|reason| !PLAIN.contains(reason));
        reasons.dedup();
        let message = rejection.message;
        let message = if reasons.is_empty() { message } else { format!("{message} ({})", reasons.join(", ")) };
        CliError::Rejected { message, answer: rejection.answer }
    }
}

/// A request: path segments, query parameters, a body.
pub(super) struct Call<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(String, String)>,
    body: Option<Value>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        Self { method, path: path.into_iter().collect(), query: Vec::new(), body: None }
    }

    pub(super) fn get(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::GET, path)
    }

    /// With a query parameter.
    pub(super) fn with(mut self, name: impl Into<String>, value: &impl ToString) -> Self {
        self.query.push((name.into(), value.to_string()));
        self
    }

    /// With a query parameter, if it has a value.
    pub(super) fn with_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, &value),
            None => self,
        }
    }

    pub(super) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

/// The path of something that an account has in a region.
pub(super) fn regional<'a>(region: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["v1", "regions", region], rest].concat()
}

/// The path of something for operators.
pub(super) fn admin<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["admin", "v1"], rest].concat()
}

impl Controller {
    /// A controller, with credentials.
    pub(super) fn new(resolved: Resolved, debug: bool) -> Result<Self, CliError> {
        let Resolved { controller, ca, own, token, region: _ } = resolved;
        let base = base_url(&controller)?;
        let refused = |text: &str| Err(CliError::Refused(text.to_owned()));
        if let Some(Token { token, source }) = &token
            && (token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()))
        {
            let what = if token.is_empty() { "is empty" } else { "has characters that no token has" };
            return refused(&format!("the token of {source} {what}"));
        }
        let source = match (&token, &own) {
            (Some(token), _) => token.source.clone(),
            (None, Some(own)) => format!("the certificate {}", own.cert.display()),
            (None, None) => String::new(),
        };
        let builder = Client::builder().timeout(TIMEOUT);
        let builder = match (&ca, &own) {
            _ if base.scheme() == "http" => {
                if token.is_none() {
                    return refused(&format!(
                        "client certificates do not work over http://, and {source} is one: use https://"
                    ));
                }
                builder.tls_backend_preconfigured(tls::no_client())
            }
            (Some(ca), own) => {
                let own = own.as_ref().map(|own| (own.cert.as_path(), own.key.as_path()));
                let config = tls::client(ca, own);
                builder.tls_backend_preconfigured(config.map_err(|error| CliError::Refused(error.to_string()))?)
            }
            (None, Some(_)) => return refused("--cert requires --ca"),
            (None, None) => {
                tls::use_ring();
                builder
            }
        };
        let client = builder.build();
        let client = client.map_err(|error| CliError::Refused(format!("cannot create an HTTP client: {error}")))?;
        Ok(Self { base, token, source, client, debug })
    }

    /// Calls the controller. The outer error means that it could not be reached; the inner one is its own.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Result<Value, Rejection>, CliError> {
        let shown = self.base.as_str().trim_end_matches('/');
        let mut url = self.base.clone();
        // A name can contain anything; this escapes it.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let (began, asked) = (Instant::now(), format!("{} {}", call.method, url));
        let sent = call.body.clone();
        let mut request = self.client.request(call.method, url);
        if let Some(Token { token, .. }) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = call.body {
            request = request.json(&body);
        }
        let unreachable = |error: reqwest::Error| {
            let advice = "check that it is running and that --controller is right";
            let why = root(&error);
            // What rustls says if the peer does not speak TLS.
            let advice = if self.base.scheme() == "https" && why.contains("InvalidContentType") {
                "the server does not use TLS there: use http://, or the port with TLS"
            } else {
                advice
            };
            CliError::Unreachable(format!("the controller at {shown} cannot be reached: {why}; {advice}"))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let stale = stale(answer.headers());
        let text = answer.text().await.map_err(unreachable)?;
        if self.debug {
            tell(&asked, sent.as_ref(), status, &text, began.elapsed());
        }
        let strange = || CliError::Unreachable(format!("{shown} answered {status}, but not as a controller does"));
        let mut answer: Value = serde_json::from_str(&text).map_err(|_| strange())?;
        let id = answer["requestId"].clone();
        if status.is_success() {
            if let Some(stale) = stale {
                cps_peering_terminal::complain(&stale);
            }
            return answer.get_mut("result").map(|result| Ok(result.take())).ok_or_else(strange);
        }
        let error = answer.get("error").ok_or_else(strange)?;
        let word = |value: &Value| printable(value.as_str().unwrap_or_default());
        let fault = |fault: &Value| FieldViolation {
            entry: word(&fault["entry"]),
            rule: word(&fault["rule"]),
            reason: word(&fault["reason"]),
        };
        let violations = error["details"].as_array().into_iter().flatten().map(fault).collect();
        let mut message = word(&error["message"]);
        if status.as_u16() == 401 {
            let what = if self.token.is_some() { "the token is from" } else { "there was no token, but" };
            message = format!("{message}; {what} {}", self.source);
        }
        let mut said = error.clone();
        said["requestId"] = id;
        Ok(Err(Rejection { code: status.as_u16(), message, violations, answer: said }))
    }
}

/// A warning if a response may be outdated: a follower answers from its copy while there is no leader.
fn stale(headers: &HeaderMap) -> Option<String> {
    let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let why = printable(word("x-cps-peering-stale")?);
    let age = word("age").and_then(|age| age.parse::<u64>().ok()).map_or(String::new(), |age| format!(" {age} s ago"));
    Some(format!("warning: {why}; this is what a follower knew{age}"))
}

/// Prints a request and its response on standard error, without credentials, including those just created.
fn tell(asked: &str, sent: Option<&Value>, status: StatusCode, text: &str, took: Duration) {
    const LONGEST: usize = 4000;
    let body = |value: &Value| text::cut(&without_secrets(value.clone()).to_string(), LONGEST);
    let mut told = format!("> {asked}");
    if let Some(sent) = sent {
        told = format!("{told}\n> {}", body(sent));
    }
    let answer =
        serde_json::from_str(text).map_or_else(|_| format!("{} bytes, no JSON", text.len()), |value| body(&value));
    cps_peering_terminal::complain(&format!("{told}\n< {status} after {} ms\n< {answer}", took.as_millis()));
}

/// The same without credentials.
pub(super) fn without_secrets(value: Value) -> Value {
    const SECRETS: [&str; 4] = ["secretKey", "secret", "token", "clientToken"];
    match value {
        Value::Object(fields) => {
            let hidden = |key: &str, value: Value| {
                if SECRETS.contains(&key) && value.is_string() { "…".into() } else { without_secrets(value) }
            };
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), hidden(&key, value))).collect())
        }
        Value::Array(values) => values.into_iter().map(without_secrets).collect(),
        other => other,
    }
}

/// The innermost cause, which is the one that helps.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_that_may_be_old_say_so() {
        let mut headers = HeaderMap::new();
        headers.insert("age", "7".parse().unwrap());
        assert_eq!(stale(&headers), None, "from a cache");
        headers.insert("x-cps-peering-stale", "no controller leads".parse().unwrap());
        assert_eq!(stale(&headers).unwrap(), "warning: no controller leads; this is what a follower knew 7 s ago");
    }

    #[test]
    fn what_is_told_of_requests_holds_no_secrets() {
        let answer = json!({ "result": { "accessKey": "AK", "secretKey": "SK", "tokens": [{ "token": "T", "tokenId": "1" }], "secret": "SW" } });
        let told = without_secrets(answer).to_string();
        assert!(
            told.contains("AK")
                && told.contains("tokenId")
                && !told.contains("SK")
                && !told.contains("\"T\"")
                && !told.contains("SW"),
            "{told}"
        );
    }
}
