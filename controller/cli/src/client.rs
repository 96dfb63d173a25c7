//! Calls of the controller's HTTP interface.

use super::{
    CliError,
    connection::{Resolved, Token},
    output::printable,
    url::base_url,
};
use cps_peering_http::tls;
use reqwest::{Client, Method, Url};
use serde_json::Value;
use std::time::Duration;

/// Longer than a delete may be held back.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A controller, with credentials.
pub(super) struct Controller {
    base: Url,
    /// None where the client's certificate says who one is.
    token: Option<Token>,
    /// Where the credentials are from, for people.
    source: String,
    client: Client,
}

/// An error answered by the controller.
pub(super) struct Rejection {
    /// The HTTP status.
    code: u16,
    /// The sentence.
    pub(super) message: String,
    /// Everything that is wrong.
    pub(super) violations: Vec<FieldViolation>,
}

/// One thing that is wrong.
pub(super) struct FieldViolation {
    /// Where: a field, or an entry of a document.
    pub(super) entry: String,
    /// Which value breaks which rule.
    pub(super) rule: String,
    /// A word for programs.
    reason: String,
}

impl Rejection {
    /// Whether there is no such thing, or none that the caller may know of.
    pub(super) fn is_not_found(&self) -> bool {
        self.code == 404
    }
}

impl From<Rejection> for CliError {
    fn from(rejection: Rejection) -> Self {
        // These words say no more than the sentence does.
        const PLAIN: [&str; 2] = ["", "InvalidParameter"];
        let mut reasons: Vec<&str> = rejection.violations.iter().map(|fault| fault.reason.as_str()).collect();
        reasons.retain(|reason| !PLAIN.contains(reason));
        reasons.dedup();
        let message = rejection.message;
        CliError::Refused(if reasons.is_empty() { message } else { format!("{message} ({})", reasons.join(", ")) })
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

    /// With a parameter.
    pub(super) fn with(mut self, name: impl Into<String>, value: &impl ToString) -> Self {
        self.query.push((name.into(), value.to_string()));
        self
    }

    /// With a parameter, if there is something to say.
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

/// The path of what an account has in a region.
pub(super) fn regional<'a>(region: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["v1", "regions", region], rest].concat()
}

/// The path of what is for operators.
pub(super) fn admin<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["admin", "v1"], rest].concat()
}

impl Controller {
    /// A controller, with credentials.
    pub(super) fn new(resolved: Resolved) -> Result<Self, CliError> {
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
                        "over http:// there are no certificates, and {source} is one: use https://"
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
        let client = client.map_err(|error| CliError::Refused(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { base, token, source, client })
    }

    /// Calls the controller. The outer error is about reaching it, the inner one is its own.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Result<Value, Rejection>, CliError> {
        let shown = self.base.as_str().trim_end_matches('/');
        let mut url = self.base.clone();
        // A name may hold anything; this escapes it.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let mut request = self.client.request(call.method, url);
        if let Some(Token { token, .. }) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = call.body {
            request = request.json(&body);
        }
        let unreachable = |error: reqwest::Error| {
            let advice = "check that it is running and that --controller is right";
            CliError::Unreachable(format!("the controller at {shown} cannot be reached: {}; {advice}", root(&error)))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.text().await.map_err(unreachable)?;
        let strange = || CliError::Unreachable(format!("{shown} answered {status}, but not as a controller does"));
        let mut answer: Value = serde_json::from_str(&text).map_err(|_| strange())?;
        if status.is_success() {
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
            let what = if self.token.is_some() { "it is that of" } else { "there was no token, but" };
            message = format!("{message}; {what} {}", self.source);
        }
        Ok(Err(Rejection { code: status.as_u16(), message, violations }))
    }
}

/// The innermost reason, which is the one that helps.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
