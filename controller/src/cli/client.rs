//! Calls of the controller's HTTP interface.

use super::CliError;
use reqwest::{Client, Method};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// Longer than a delete may be held back.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A controller, and the right to ask it.
pub(super) struct Controller {
    base: String,
    token: String,
    client: Client,
}

/// What the controller said no to.
pub(super) struct Rejection {
    /// The sentence.
    pub(super) message: String,
    /// Entries of a document with the rules that they break.
    pub(super) entries: Vec<(String, String)>,
}

impl From<Rejection> for CliError {
    fn from(rejection: Rejection) -> Self {
        CliError::Refused(rejection.message)
    }
}

impl Controller {
    pub(super) fn new(base: &str, token_file: &Path) -> Result<Self, CliError> {
        let token = std::fs::read_to_string(token_file).map_err(|error| {
            let file = token_file.display();
            CliError::Refused(format!("cannot read the token file {file}: {error}; name another with --token-file"))
        })?;
        let client = Client::builder().timeout(TIMEOUT).build();
        let client = client.map_err(|error| CliError::Refused(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token: token.trim().to_owned(), client })
    }

    /// Calls the operators' interface. The outer error is about reaching it, the inner one is its own.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Value, Rejection>, CliError> {
        let mut request =
            self.client.request(method, format!("{}/admin/v1/{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| {
            let advice = "is it running, and is --controller right?";
            CliError::Unreachable(format!(
                "the controller at {} cannot be reached: {}; {advice}",
                self.base,
                root(&error)
            ))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.text().await.map_err(unreachable)?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|_| {
            CliError::Unreachable(format!(
                "{} answered {status} with something that is no controller's answer",
                self.base
            ))
        })?;
        if status.is_success() {
            return Ok(Ok(answer["result"].take()));
        }
        let error = &answer["error"];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = error["details"].as_array().into_iter().flatten();
        let entries = details.map(|fault| (word(&fault["entry"]), word(&fault["rule"]))).collect();
        Ok(Err(Rejection { message: word(&error["message"]), entries }))
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
