//! Alert rules and dashboard, with Debian's Prometheus and the real metrics of controller and agent.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod shipped;
mod site;

use anyhow::{Context, Result, ensure};
use cps_peering_tests::{
    command::{run, run_with_input},
    wait,
};
use shipped::{names, selectors, shipped};
use site::{PATIENCE, Site};
use std::{collections::BTreeMap, fs, process::Command};

/// The metric names by the name of a series, and whether the series exists already.
fn series(text: &str) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    let there =
        |name: &str| text.lines().any(|line| line.strip_prefix(name).is_some_and(|it| it.starts_with([' ', '{'])));
    for line in text.lines() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) else { continue };
        let ends: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        found.extend(ends.iter().map(|end| (format!("{name}{end}"), there(&format!("{name}{end}")))));
    }
    found
}

#[test]
fn every_alert_fires_for_its_condition_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let cases =
        include_str!("alerts.test.yml").replace("- ALERTS\n", &format!("- {}\n", shipped("alerts.yml").display()));
    let file = folder.path().join("cases.yml");
    fs::write(&file, &cases).unwrap();
    run(Command::new("promtool").args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(shipped("alerts.yml")))
        .unwrap()
        .ok()
        .unwrap();
    run(Command::new("promtool").args(["test", "rules"]).arg(&file)).unwrap().ok().unwrap();
    let rules = fs::read_to_string(shipped("alerts.yml")).unwrap();
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(cases.contains(&format!("alertname=\"{name}\"")), "no case for {name}");
    }
}

#[test]
fn prometheus_scrapes_both_daemons_and_knows_every_metric_in_use() {
    let mut site = Site::start().unwrap();
    check(&mut site).with_context(|| site.logs()).unwrap();
}

fn check(site: &mut Site) -> Result<()> {
    // Over TLS, with the certificate for monitoring.
    for job in ["cps-peering-controller", "cps-peering-agent"] {
        wait::until(&format!("{job} is scraped"), PATIENCE, || {
            let answer = site.query(&format!("up{{job=\"{job}\"}} == 1"))?;
            ensure!(!answer.is_empty(), "{}", site.get("/api/v1/targets")?);
            Ok(Some(()))
        })?;
    }
    let mut known = BTreeMap::new();
    for text in [site.controller_metrics()?, site.agent_metrics()?] {
        known.extend(series(&text));
        let told = run_with_input(Command::new("promtool").args(["check", "metrics"]), &classic(&text))?;
        ensure!(told.status.success() && told.stderr.is_empty(), "promtool check metrics: {}\n{text}", told.stderr);
    }

    let mut expressions = shipped::dashboard()?;
    let alerts = site.alerts()?;
    ensure!(alerts.len() > 20 && expressions.len() > 30, "{} alerts, {}", alerts.len(), expressions.len());
    for alert in &alerts {
        ensure!(alert.health == "ok", "{alert:?}");
        shipped::in_the_guide(alert)?;
    }
    expressions.extend(alerts.into_iter().map(|alert| alert.query));
    for expression in &expressions {
        for name in names(expression) {
            ensure!(known.contains_key(&name), "no daemon shows {name}, which is in {expression}");
        }
        site.query(expression).with_context(|| expression.clone())?;
        // Labels and their values, too, if the daemons export them from the start.
        for (name, selector) in selectors(expression) {
            let from_the_start = known.get(&name) == Some(&true) && !selector.contains("code=~");
            ensure!(!from_the_start || !site.query(&selector)?.is_empty(), "nothing is {selector}");
        }
    }
    true_figures(site)
}

/// The metrics have the right values.
fn true_figures(site: &mut Site) -> Result<()> {
    let holds = |site: &Site, expression: &str| -> Result<()> {
        ensure!(!site.query(expression)?.is_empty(), "{expression} is not so: {}", site.controller_metrics()?);
        Ok(())
    };
    holds(site, "time() - cps_controller_last_backup_timestamp_seconds < 600")?;
    holds(site, "cps_controller_store_failed == 0")?;
    holds(site, "count(time() - process_start_time_seconds < 600) == 2")?;
    // An alert's link leads to its remedy.
    let link = site.runbook("CpsPeeringHostOutOfSync")?;
    let (page, heading) = link.split_once('#').context("no heading")?;
    let path = page.strip_prefix("https://127.0.0.1:7400").with_context(|| link.clone())?;
    ensure!(
        site.controller_page(path)?.contains(&format!("<h3 id=\"{heading}\">CpsPeeringHostOutOfSync</h3>")),
        "{link}"
    );
    // The interface of its port does not exist.
    holds(site, "cps_controller_host_in_sync{host=\"h1\"} == 0 and cps_controller_host_reached == 1")?;
    site.kill_agent()?;
    site.begin_maintenance()?;
    wait::until("the controller misses the agent", PATIENCE, || {
        holds(site, "cps_controller_host_reached{host=\"h1\"} == 0 and cps_controller_host_maintenance == 1")?;
        Ok(Some(()))
    })
}

/// The same in Prometheus' classic text format, in which a counter is described by the name of its series.
fn classic(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|it| it.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let line = |line: &str| {
        let described = line.strip_prefix("# ").and_then(|it| it.split(' ').nth(1));
        match described.filter(|name| counters.contains(name)) {
            Some(name) => line.replacen(name, &format!("{name}_total"), 1),
            None => line.to_owned(),
        }
    };
    text.lines().filter(|line| *line != "# EOF").map(|it| line(it) + "\n").collect()
}
