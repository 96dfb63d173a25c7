//! Problems of the controller and its hosts, and how to fix them. For operators.

use super::{
    CliError,
    client::{Call, admin},
    output::{cell, elements, rows as table},
    session::Session,
};
use clap::Args;
use cps_peering_config::time::now_ms;
use serde_json::{Value, json};

/// How much is shown.
#[derive(Args, Clone)]
pub(super) struct Doctor {
    /// Also show checks that passed.
    #[arg(long)]
    all: bool,
}

/// How far this machine's clock may be from the controller's, in milliseconds.
const CLOCK_OFF_MS: u64 = 2000;

fn finding(verdict: &str, check: &str, finding: &str, cure: &str) -> Value {
    json!({ "verdict": verdict, "check": check, "subject": "this machine", "finding": finding, "cure": cure })
}

/// Whether this machine's clock agrees with the controller's, as far as the response time allows to tell.
fn clock(theirs_ms: u64, [asked_ms, answered_ms]: [u64; 2]) -> Value {
    let off_ms = asked_ms.saturating_sub(theirs_ms).max(theirs_ms.saturating_sub(answered_ms));
    if off_ms < CLOCK_OFF_MS {
        return finding("ok", "clock", "agrees with the controller's", "");
    }
    let said = format!("is {} s off the controller's", off_ms / 1000);
    finding("warning", "clock", &said, "on both: chronyc tracking, or timedatectl")
}

/// If the controller does not answer, that is the problem.
fn unreachable(error: &CliError) -> Value {
    let cure = match error {
        CliError::Unreachable(_) => {
            "its address (--controller), its certificate's names (--ca), and on its machine: systemctl status cps-peering-controller"
        }
        _ => "curl https://ADDRESS:7400/readyz says what a controller that answers lacks",
    };
    finding("failure", "controller", &error.to_string(), cure)
}

pub(super) async fn run(session: &Session, doctor: &Doctor) -> Result<(), CliError> {
    let asked_ms = now_ms();
    let found = session.call(Call::get(admin(&["diagnosis"]))).await;
    let findings: Vec<Value> = match found {
        Ok(answer) => {
            let clock = clock(answer["timeMs"].as_u64().unwrap_or_default(), [asked_ms, now_ms()]);
            elements(&answer["findings"]).iter().cloned().chain([clock]).collect()
        }
        // A caller who lacks the permission is not a problem of the controller.
        Err(error @ CliError::Rejected { .. }) if !is_unavailable(&error) => return Err(error),
        Err(error) => vec![unreachable(&error)],
    };
    let count = |verdict: &str| findings.iter().filter(|it| it["verdict"] == verdict).count();
    let (failures, warnings, fine) = (count("failure"), count("warning"), count("ok"));
    let result = json!({ "failures": failures, "warnings": warnings, "findings": findings });
    session.print(&result, || shown(&findings, doctor.all, [failures, warnings, fine]));
    if failures == 0 { Ok(()) } else { Err(CliError::Different) }
}

fn is_unavailable(error: &CliError) -> bool {
    matches!(error, CliError::Rejected { answer, .. } if answer["code"] == 503)
}

fn shown(findings: &[Value], all: bool, [failures, warnings, fine]: [usize; 3]) -> String {
    let word = |verdict: &Value| match verdict.as_str() {
        Some("ok") => "ok".to_owned(),
        Some("warning") => "WARN".to_owned(),
        _ => "FAIL".to_owned(),
    };
    let row = |it: &Value| {
        let [check, subject, finding, cure] = ["check", "subject", "finding", "cure"].map(|field| cell(&it[field]));
        vec![word(&it["verdict"]), check, subject, finding, cure]
    };
    let rows: Vec<Vec<String>> = findings.iter().filter(|it| all || it["verdict"] != "ok").map(row).collect();
    let sum = format!("{failures} failures, {warnings} warnings, {fine} checks passed");
    if rows.is_empty() { sum } else { format!("{}\n{sum}", table(&["", "CHECK", "SUBJECT", "FINDING", "FIX"], &rows)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_only_where_the_time_of_the_answer_does_not_explain_it() {
        for (theirs, expected) in [
            (10_000, "ok"),
            (11_900, "ok"),
            (8_100, "ok"),
            (14_000, "warning"),
            (7_999, "warning"),
            (99_000, "warning"),
        ] {
            assert_eq!(clock(theirs, [10_000, 10_500])["verdict"], expected, "{theirs}");
        }
    }

    #[test]
    fn what_is_fine_is_counted_and_shown_only_where_that_is_asked() {
        let findings = [finding("failure", "controller", "is gone", "start it"), finding("ok", "clock", "agrees", "")];
        let text = shown(&findings, false, [1, 0, 1]);
        assert!(text.contains("FAIL") && text.contains("start it") && !text.contains("agrees"), "{text}");
        assert!(text.ends_with("1 failures, 0 warnings, 1 checks passed"), "{text}");
        assert!(shown(&findings, true, [1, 0, 1]).contains("agrees"));
        assert_eq!(shown(&findings[1..], false, [0, 0, 1]).lines().count(), 1);
    }
}
