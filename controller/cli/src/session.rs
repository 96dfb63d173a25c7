//! What the commands share.

use super::{
    CliError, Output,
    client::{Call, Controller, Rejection},
    connection::Resolved,
    output::{cell, elements, print},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two questions whether it is there yet.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// The most that the controller puts on a page.
const PAGE: usize = 100;

/// A controller, and how its answers are shown.
pub(super) struct Session {
    controller: Controller,
    region: Option<String>,
    output: Output,
}

impl Session {
    pub(super) fn new(resolved: Resolved, output: Output) -> Result<Self, CliError> {
        let region = resolved.region.clone();
        Ok(Self { controller: Controller::new(resolved)?, region, output })
    }

    /// Shows a result, in the form that was asked for.
    pub(super) fn print(&self, json: &Value, text: impl FnOnce() -> String) {
        print(self.output, json, text);
    }

    /// Calls the controller; what it refuses is an error.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, CliError> {
        Ok(self.try_call(call).await??)
    }

    /// Calls the controller. What it refuses is the inner error.
    pub(super) async fn try_call(&self, call: Call<'_>) -> Result<Result<Value, Rejection>, CliError> {
        self.controller.call(call).await
    }

    /// What the controller says about who asks.
    pub(super) async fn whoami(&self) -> Result<Value, CliError> {
        self.call(Call::get(["v1", "whoami"])).await
    }

    /// The region that an account's command is about.
    pub(super) async fn region(&self) -> Result<String, CliError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        let whoami = self.whoami().await?;
        if is_operator(&whoami) {
            let text =
                "this is for accounts, and the token is the operators'; what operators can do stands below admin";
            return Err(CliError::Refused(text.to_owned()));
        }
        self.region_of(&whoami)
    }

    /// The region that a command of this account is about: where it is not said, the only one.
    pub(super) fn region_of(&self, whoami: &Value) -> Result<String, CliError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        match elements(&whoami["regions"]) {
            [only] => Ok(cell(only)),
            _ => Err(CliError::Usage(format!(
                "say in which region with --region; there are: {}",
                cell(&whoami["regions"])
            ))),
        }
    }

    /// All pages of a list. What moves from one page to the next meanwhile is there once.
    pub(super) async fn pages<'a>(
        &self,
        call: impl Fn() -> Call<'a>,
        list: &str,
        id: &str,
    ) -> Result<Vec<Value>, CliError> {
        let mut all: Vec<Value> = Vec::new();
        for number in 1.. {
            let page = call().with("pageNumber", &number).with("pageSize", &PAGE);
            let mut page = self.call(page).await?;
            let total = page["totalCount"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or_default();
            if let Value::Array(values) = page[list].take() {
                for value in values {
                    if !all.iter().any(|known| known[id] == value[id]) {
                        all.push(value);
                    }
                }
            }
            if number * PAGE >= total {
                break;
            }
        }
        Ok(all)
    }
}

/// Whether who asks runs the cloud; otherwise it is one of its accounts.
pub(super) fn is_operator(whoami: &Value) -> bool {
    whoami["role"] == "operator"
}

/// A body without what there is nothing to say about.
pub(super) fn said(body: Value) -> Value {
    match body {
        Value::Object(mut fields) => {
            fields.retain(|_, value| !value.is_null());
            json!(fields)
        }
        other => other,
    }
}

/// A time until which one asks again and again.
pub(super) struct Patience(Instant);

impl Patience {
    pub(super) fn new(seconds: u64) -> Self {
        let now = Instant::now();
        // Longer than any clock goes: a day is as good.
        Self(now.checked_add(Duration::from_secs(seconds)).unwrap_or(now + Duration::from_hours(24)))
    }

    /// Waits a little. False when it has run out.
    pub(super) async fn lasts(&self) -> bool {
        if Instant::now() >= self.0 {
            return false;
        }
        tokio::time::sleep(ASK_AGAIN).await;
        true
    }
}
