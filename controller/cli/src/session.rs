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

/// Between two questions whether it is there yet.
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

    /// Whether tables are to have more columns.
    pub(super) fn is_wide(&self) -> bool {
        self.output == Output::Wide
    }

    /// The id of one of the account's VPCs in a region, which may be named by its id or, where only one has it, by its name. None
    /// where the account has none like that.
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
                Err(CliError::Refused(format!("several VPCs are named {text}: say which of {}", ids.join(", "))))
            }
        }
    }

    /// The same where there must be one.
    pub(super) async fn own_vpc(&self, region: &str, text: &str) -> Result<String, CliError> {
        let missing = || CliError::Refused(format!("there is no VPC {text} in {region} (VpcNotFound)"));
        self.vpc_id(region, text).await?.ok_or_else(missing)
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
            let text = "this command is for accounts, and this is the operators' token: see `cps-peering admin`";
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
        let mut marker: Option<String> = None;
        for number in 1.. {
            let page = call().with("pageSize", &PAGE);
            // A controller of a version before this one knows page numbers alone.
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
pub(super) struct Deadline {
    until: Instant,
    retry: Retry,
}

impl Deadline {
    pub(super) fn new(seconds: u64) -> Self {
        let now = Instant::now();
        // Longer than any clock goes: a day is as good.
        let until = now.checked_add(Duration::from_secs(seconds)).unwrap_or(now + Duration::from_hours(24));
        Self { until, retry: Retry::new(ASK_AGAIN) }
    }

    /// Waits a little, longer each time. False when it has run out.
    pub(super) async fn wait_to_retry(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.retry.failed()).await;
        true
    }
}
