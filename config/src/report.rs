//! What one host has.

use crate::{
    id::{HostId, VpcId},
    net::Vni,
    revision::Revision,
};
use serde::{Deserialize, Serialize};

/// What an agent says of its host: the body of `GET /v1/status`, and the answer to each push.
///
/// A VRF or side is in the kernel as `applied` wants it when no [`Problem`] names it. One that `applied` no longer has
/// is gone from the kernel on the same condition: the report is made after the kernel was read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The version of the agent.
    pub version: String,
    /// The host that the accepted configuration is meant for; none before the first one.
    pub host: Option<HostId>,
    /// The newest configuration that was accepted and stored.
    pub desired: Option<Revision>,
    /// The configuration that the kernel was last brought to and compared with. Equal to `desired` when the agent is done.
    pub applied: Option<Revision>,
    /// What is not as `applied` wants it, sorted by scope and object.
    pub problems: Vec<Problem>,
    /// What the agent did since it started.
    pub counters: Counters,
    /// The last time the kernel was read and compared; none before the first configuration.
    pub last_pass: Option<Pass>,
}

impl HostReport {
    /// Whether the kernel was seen to be as configuration `revision`, or a newer one, wants `scope` to be.
    pub fn confirms(&self, revision: Revision, scope: &Scope) -> bool {
        self.applied.is_some_and(|applied| applied >= revision)
            && !self.problems.iter().any(|problem| problem.scope == *scope || problem.scope == Scope::Host)
    }

    /// Whether all of the kernel was seen to be as the newest accepted configuration wants it.
    pub fn in_sync(&self) -> bool {
        self.desired.is_some() && self.applied == self.desired && self.problems.is_empty()
    }
}

/// An object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// What suffers from it.
    pub scope: Scope,
    /// Whose fault it is.
    pub kind: ProblemKind,
    /// The object in the words of `ip`, for instance `route 10.2.0.0/24 table 1124073482`.
    pub object: String,
    /// What is wrong, in the kernel's own words where it had any.
    pub reason: String,
}

/// What a [`Problem`] holds back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything on the host.
    Host,
    /// A VPC's VRF.
    Vpc(VpcId),
    /// A side of a peering, by the side's own VNI.
    Side(Vni),
}

/// The kind of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The kernel refused an operation; it is tried again.
    Failed,
    /// Something that is not ours is in the way. It was left as it is.
    Conflict,
    /// Something that must come from elsewhere is not there, for instance the interface of a port.
    Missing,
}

/// What an agent did since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// How often the kernel was read and compared.
    pub passes: u64,
    /// Operations that the kernel carried out.
    pub operations: u64,
    /// Operations that the kernel refused.
    pub failures: u64,
    /// Operations that repaired what somebody else had changed.
    pub drift_repaired: u64,
}

/// One reading of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub ended_ms: u64,
    /// How long it took, in microseconds: reading, comparing and, where something differed, changing and reading again.
    pub duration_us: u64,
    /// How many operations it carried out.
    pub operations: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_problem_names_is_unconfirmed() {
        let revision = |number| Revision { epoch: 1, number };
        let side = |number: u32| Scope::Side(number.try_into().unwrap());
        let problem = |scope| Problem {
            scope,
            kind: ProblemKind::Failed,
            object: "route 10.2.0.0/24 table 1".into(),
            reason: "Nexthop has invalid gateway".into(),
        };
        let mut report = HostReport {
            version: "1".into(),
            host: None,
            desired: Some(revision(5)),
            applied: Some(revision(5)),
            problems: vec![],
            counters: Counters::default(),
            last_pass: None,
        };
        assert!(report.in_sync() && report.confirms(revision(5), &side(1)));
        assert!(!report.confirms(revision(6), &side(1)));
        report.problems = vec![problem(side(1))];
        assert!(!report.in_sync() && !report.confirms(revision(4), &side(1)) && report.confirms(revision(5), &side(2)));
        report.problems = vec![problem(Scope::Host)];
        assert!(!report.confirms(revision(5), &side(2)));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<HostReport>(&json).unwrap(), report);
    }
}
