//! What is looked at when something is wrong, by an agent or a controller, and what was found.

use serde::{Deserialize, Serialize};

/// One finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failure,
}

/// What one look of an agent at its host found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFinding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at, in a word.
    pub subject: String,
    /// What was found and, unless it is fine, what to do.
    pub text: String,
}

/// What an agent says of its host. New fields have defaults: one version older and newer work together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDiagnosis {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The kernel's release, for instance `6.1.0-13-amd64`.
    #[serde(default)]
    pub kernel: String,
    /// What the host's clock says, in milliseconds since 1970-01-01 UTC; 0 where it was not told.
    #[serde(default)]
    pub time_ms: u64,
    /// The MTU of the interface with the underlay address, in bytes; none before the first configuration.
    #[serde(default)]
    pub underlay_mtu: Option<u32>,
    /// What was found.
    #[serde(default)]
    pub findings: Vec<HostFinding>,
}

/// All that an agent knows of its host, for those who look for a fault. No part of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The kernel's release.
    #[serde(default)]
    pub kernel: String,
    /// What the agent reports.
    #[serde(default)]
    pub report: serde_json::Value,
    /// The configuration in its ledger; null where there is none.
    #[serde(default)]
    pub config: serde_json::Value,
    /// What concerns the agent in its kernel, for people: devices, addresses, routes, neighbours, rules, filters.
    #[serde(default)]
    pub observed: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_another_version_has_or_lacks_stop_nothing() {
        let older: HostDiagnosis = serde_json::from_str("{\"version\":\"0.1.0\"}").unwrap();
        assert_eq!((older.version.as_str(), older.time_ms, older.findings.len()), ("0.1.0", 0, 0));
        let newer = "{\"version\":\"9\",\"colour\":1,\"findings\":[{\"verdict\":\"failure\",\"subject\":\"x\",\"text\":\"y\",\"z\":1}]}";
        assert_eq!(serde_json::from_str::<HostDiagnosis>(newer).unwrap().findings[0].verdict, Verdict::Failure);
    }
}
