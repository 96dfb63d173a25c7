//! The files as shipped, and the metrics in their expressions.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A rule, as Prometheus parsed it.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) query: String,
    pub(crate) health: String,
    pub(crate) runbook: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

/// A file of `config/monitoring`.
pub(crate) fn shipped(name: &str) -> PathBuf {
    root().join("config/monitoring").join(name)
}

/// The expressions of the dashboard, with Grafana's variables replaced.
pub(crate) fn dashboard() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(shipped("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == panels.len(), "two panels have one id");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let noted = dashboard["annotations"]["list"].as_array().context("no annotations")?;
    let expressions = targets.chain(noted).map(|it| it["expr"].as_str().context("a target without an expression"));
    expressions.map(|it| Ok(it?.replace("$__rate_interval", "5m"))).collect()
}

/// An error unless the guide has a heading for an alert to which the alert leads.
pub(crate) fn in_the_guide(alert: &Alert) -> Result<()> {
    let guide = fs::read_to_string(root().join("systemd/GUIDE.md"))?;
    let heading = format!("### {}", alert.name);
    ensure!(guide.lines().any(|line| line == heading), "the guide does not say what {} means", alert.name);
    let link = format!("{{{{ $externalLabels.guide }}}}#{}", alert.name.to_lowercase());
    ensure!(alert.runbook == link, "{alert:?}");
    Ok(())
}

/// Names that are spelt for both daemons at once become two expressions.
fn spelt_out(expression: &str) -> Vec<String> {
    const BOTH: &str = "(agent|controller)";
    match expression.split_once("__name__=~\"cps_(") {
        Some(_) => ["agent", "controller"].map(|daemon| expression.replace(BOTH, daemon)).into(),
        None => vec![expression.to_owned()],
    }
}

/// The names of daemons' metrics in an expression.
pub(crate) fn names(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    for expression in spelt_out(expression) {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        found.extend(words.filter(|word| word.starts_with("cps_") || word.starts_with("process_")).map(str::to_owned));
    }
    found
}

/// The selectors with labels in an expression, with the names of their metrics.
pub(crate) fn selectors(expression: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in names(expression) {
        for (at, _) in expression.match_indices(&format!("{name}{{")) {
            let selector = expression[at..].split_inclusive('}').next().unwrap_or_default();
            found.push((name.clone(), selector.to_owned()));
        }
    }
    found
}
