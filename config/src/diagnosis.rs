//! The checks that an agent or a controller makes when something may be wrong, and their findings.

use serde::{Deserialize, Serialize};

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It works, but needs attention.
    Warning,
    /// It does not work.
    Failure,
}

/// A finding of an agent about its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFinding {
    /// The verdict.
    pub verdict: Verdict,
    /// What was checked, in a word.
    pub subject: String,
    /// The finding and, unless it is fine, what to do.
    pub text: String,
}

/// An agent's diagnosis of its host. New fields have defaults: one version older and newer work together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDiagnosis {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The kernel's release, for instance `6.1.0-13-amd64`.
    #[serde(default)]
    pub kernel: String,
    /// The host's clock, in milliseconds since 1970-01-01 UTC; 0 if it was not reported.
    #[serde(default)]
    pub time_ms: u64,
    /// The MTU of the interface with the underlay address, in bytes; none before the first configuration.
    #[serde(default)]
    pub underlay_mtu: Option<u32>,
    /// The findings.
    #[serde(default)]
    pub findings: Vec<HostFinding>,
}

/// All that an agent knows about its host, for troubleshooting. No part of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The kernel's release.
    #[serde(default)]
    pub kernel: String,
    /// The agent's report.
    #[serde(default)]
    pub report: serde_json::Value,
    /// The configuration in its ledger; null if there is none.
    #[serde(default)]
    pub config: serde_json::Value,
    /// What concerns the agent in its kernel, as text: devices, addresses, routes, neighbours, rules, filters.
    #[serde(default)]
    pub observed: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_and_missing_fields_of_another_version_are_tolerated() {
        let older: HostDiagnosis = serde_json::from_str("{\"version\":\"0.1.0\"}").unwrap();
        assert_eq!((older.version.as_str(), older.time_ms, older.findings.len()), ("0.1.0", 0, 0));
        let newer = "{\"version\":\"9\",\"colour\":1,\"findings\":[{\"verdict\":\"failure\",\"subject\":\"x\",\"text\":\"y\",\"z\":1}]}";
        assert_eq!(serde_json::from_str::<HostDiagnosis>(newer).unwrap().findings[0].verdict, Verdict::Failure);
    }
}
