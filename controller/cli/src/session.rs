//! What the commands share.

use super::{
    CliError, Output,
    client::{Call, Controller, Rejection, regional},
    connection::Resolved,
    output::{cell, elements, print},
};
use cps_peering_config::retry::{Backoff, Retry};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two requests for the same state.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
/// The most that the controller puts on a page.
const PAGE: usize = 100;

/// A controller, and how its answers are shown.
pub(super) struct Session {
    controller: Controller,
    region: Option<String>,
    output: Output,
}

impl Session {
    pub(super) fn new(resolved: Resolved, output: Output, debug: bool) -> Result<Self, CliError> {
        let region = resolved.region.clone();
        Ok(Self { controller: Controller::new(resolved, debug)?, region, output })
    }

    /// Whether tables have additional columns.
    pub(super) fn is_wide(&self) -> bool {
        self.output == Output::Wide
    }

    /// The id of one of the account's VPCs in a region, given by its id or, if that is unique, its name. None if there is no such
    /// VPC.
    pub(super) async fn vpc_id(&self, region: &str, text: &str) -> Result<Option<String>, CliError> {
        let path = |rest: &[&'static str]| regional(region, &[&["vpcs"], rest].concat());
        let mut call = path(&[]);
        call.push(text);
        match self.try_call(Call::get(call)).await? {
            Ok(_) => return Ok(Some(text.to_owned())),
            Err(rejection) if rejection.is_not_found() => {}
            Err(rejection) => return Err(rejection.into()),
        }
        let named = self.pages(|| Call::get(path(&[])).with("name", &text), "vpcs", "vpcId").await?;
        match named.as_slice() {
            [] => Ok(None),
            [vpc] => Ok(Some(cell(&vpc["vpcId"]))),
            several => {
                let ids: Vec<String> = several.iter().map(|vpc| cell(&vpc["vpcId"])).collect();
                Err(CliError::Refused(format!("several VPCs are named {text}: use the id, one of {}", ids.join(", "))))
            }
        }
    }

    /// The same, but a missing VPC is an error.
    pub(super) async fn own_vpc(&self, region: &str, text: &str) -> Result<String, CliError> {
        let missing = || CliError::Refused(format!("there is no VPC {text} in {region} (VpcNotFound)"));
        self.vpc_id(region, text).await?.ok_or_else(missing)
    }

    /// Shows a result in the selected format.
    pub(super) fn print(&self, json: &Value, text: impl FnOnce() -> String) {
        print(self.output, json, text);
    }

    /// Calls the controller; a refusal is an error.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, CliError> {
        Ok(self.try_call(call).await??)
    }

    /// Calls the controller. A refusal is the inner error.
    pub(super) async fn try_call(&self, call: Call<'_>) -> Result<Result<Value, Rejection>, CliError> {
        self.controller.call(call).await
    }

    /// The identity of the caller, as the controller sees it.
    pub(super) async fn whoami(&self) -> Result<Value, CliError> {
        self.call(Call::get(["v1", "whoami"])).await
    }

    /// The region of an account's command.
    pub(super) async fn region(&self) -> Result<String, CliError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        let whoami = self.whoami().await?;
        if is_operator(&whoami) {
            let text = "this command is for accounts, and this is the operators' token: see `cps-peering admin`";
            return Err(CliError::Refused(text.to_owned()));
        }
        self.region_of(&whoami)
    }

    /// The region of a command of this account: if not given, the only one.
    pub(super) fn region_of(&self, whoami: &Value) -> Result<String, CliError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        match elements(&whoami["regions"]) {
            [only] => Ok(cell(only)),
            _ => Err(CliError::Usage(format!("name the region with --region, one of: {}", cell(&whoami["regions"])))),
        }
    }

    /// All pages of a list. An entry that moves to another page meanwhile is contained once.
    pub(super) async fn pages<'a>(
        &self,
        call: impl Fn() -> Call<'a>,
        list: &str,
        id: &str,
    ) -> Result<Vec<Value>, CliError> {
        let mut all: Vec<Value> = Vec::new();
        let mut marker: Option<String> = None;
        for number in 1.. {
            let page = call().with("pageSize", &PAGE);
            // Controllers of the previous version only know page numbers.
            let page = match &marker {
                Some(marker) => page.with("marker", marker),
                None => page.with("pageNumber", &number),
            };
            let mut page = self.call(page).await?;
            let total = page["totalCount"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or_default();
            if let Value::Array(values) = page[list].take() {
                for value in values {
                    if !all.iter().any(|known| known[id] == value[id]) {
                        all.push(value);
                    }
                }
            }
            let next = page["nextMarker"].as_str().map(str::to_owned);
            if next.is_none() && (marker.is_some() || number * PAGE >= total) {
                break;
            }
            marker = next;
        }
        Ok(all)
    }
}

/// Whether the caller is an operator rather than an account.
pub(super) fn is_operator(whoami: &Value) -> bool {
    whoami["role"] == "operator"
}

/// A request body without fields that are null.
pub(super) fn said(body: Value) -> Value {
    match body {
        Value::Object(mut fields) => {
            fields.retain(|_, value| !value.is_null());
            json!(fields)
        }
        other => other,
    }
}

/// A point in time until which a request is repeated.
pub(super) struct Deadline {
    until: Instant,
    retry: Retry,
}

impl Deadline {
    pub(super) fn new(seconds: u64) -> Self {
        let now = Instant::now();
        // Beyond the range of the clock: a day will do.
        let until = now.checked_add(Duration::from_secs(seconds)).unwrap_or(now + Duration::from_hours(24));
        Self { until, retry: Retry::new(ASK_AGAIN) }
    }

    /// Waits a little, longer each time. False once the deadline has passed.
    pub(super) async fn wait_to_retry(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.retry.failed()).await;
        true
    }
}
