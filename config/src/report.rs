//! The actual state of one host.

use crate::{
    host_config::SharedHostConfig,
    id::{HostId, VpcId},
    net::Vni,
    revision::Revision,
};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// The possible MTUs of an underlay in bytes: from what every IPv4 router forwards to the longest packet (RFC 791).
pub const UNDERLAY_MTUS: RangeInclusive<u32> = 68..=65_535;

/// An agent's report about its host: the body of `GET /v1/status`, and the response to each push.
///
/// A VRF or side is in the kernel as `applied` requires unless a [`Problem`] names it. One that `applied` no longer has
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
    /// What is not as `applied` requires, sorted by scope and object.
    pub problems: Vec<Problem>,
    /// What the agent did since it started.
    pub counters: Counters,
    /// The last time the kernel was read and compared; none before the first configuration.
    pub last_pass: Option<Pass>,
    /// The MTU of the underlay at this host's end, in bytes; none before the kernel was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay_mtu: Option<u32>,
    /// Whether the agent knows partial sides. One that does not has nothing of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub knows_scoped_sides: bool,
    /// What lags behind the rest, sorted by scope: what problems name, and the revision that it had before them.
    /// `Scope::Host` stands for everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
    /// The status of each VRF. Only in the response to `GET /v1/status`: a host may have thousands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vrfs: BTreeMap<VpcId, Standing>,
    /// The status of each side, by the side's own VNI. Only in the response to `GET /v1/status`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sides: BTreeMap<Vni, Standing>,
}

/// The configuration that something should have, and the one that the kernel was last seen to have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The newest configuration that was accepted.
    pub desired: Revision,
    /// The newest one that was seen in the kernel without a problem; none if there never was one.
    pub applied: Option<Revision>,
}

/// Something that a problem keeps back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The object.
    #[serde(deserialize_with = "known_or_host")]
    pub scope: Scope,
    /// The configuration that the kernel was last seen to have for it; none if it was never there.
    pub applied: Option<Revision>,
}

impl HostReport {
    /// Whether the kernel was seen to be as configuration `revision`, or a newer one, requires for `scope`.
    pub fn confirms(&self, revision: Revision, scope: &Scope) -> bool {
        self.applied.is_some_and(|applied| applied >= revision)
            && !self.problems.iter().any(|problem| problem.scope == *scope || problem.scope == Scope::Host)
    }

    /// Whether the kernel was seen to have no such side any more, since configuration `revision` or a newer one
    /// required that. Objects of others on the host may stop or divert packets, but keep nothing of ours that is gone.
    pub fn confirms_removal(&self, revision: Revision, side: Vni) -> bool {
        let holds = |problem: &Problem| match problem.scope {
            Scope::Side(vni) => vni == side,
            Scope::Host => problem.kind != ProblemKind::Conflict,
            Scope::Vpc(_) => false,
        };
        self.applied.is_some_and(|applied| applied >= revision) && !self.problems.iter().any(holds)
    }

    /// The revision that the kernel was last seen to have for a VRF or side of `applied`.
    pub fn applied_to(&self, scope: &Scope) -> Option<Revision> {
        let of = |scope: &Scope| self.behind.iter().find(|behind| behind.scope == *scope).map(|behind| behind.applied);
        let all = of(&Scope::Host).unwrap_or(self.applied);
        // What keeps everything back may have come later than what keeps this back.
        of(scope).map_or(all, |own| own.min(all))
    }

    /// The same with the status of every VRF and side of the newest accepted configuration.
    #[must_use]
    pub fn with_standings(mut self, config: &SharedHostConfig) -> HostReport {
        let desired = config.revision;
        let standing = |scope| Standing { desired, applied: self.applied_to(&scope) };
        let vrfs = config.vrfs.keys().map(|vpc| (vpc.clone(), standing(Scope::Vpc(vpc.clone())))).collect();
        let sides = config.sides.keys().map(|vni| (*vni, standing(Scope::Side(*vni)))).collect();
        (self.vrfs, self.sides) = (vrfs, sides);
        self
    }

    /// Whether all of the kernel was seen to be as the newest accepted configuration requires.
    pub fn in_sync(&self) -> bool {
        self.desired.is_some() && self.applied == self.desired && self.problems.is_empty()
    }
}

/// An object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What is affected.
    #[serde(deserialize_with = "known_or_host")]
    pub scope: Scope,
    /// The kind of problem.
    #[serde(deserialize_with = "known_or_failed")]
    pub kind: ProblemKind,
    /// The object in the terms of `ip`, for instance `route 10.2.0.0/24 table 1124073482`.
    pub object: String,
    /// What is wrong, in the kernel's own words if it gave any.
    pub reason: String,
}

/// What a [`Problem`] holds back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything on the host. Also a scope of a newer release that this one does not know: it may be everything.
    Host,
    /// A VPC's VRF.
    Vpc(VpcId),
    /// A side of a peering, by the side's own VNI.
    Side(Vni),
}

/// A word that may be of a newer release.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word<T> {
    Known(T),
    Unknown(IgnoredAny),
}

impl<T> Word<T> {
    fn known_or(self, worst: T) -> T {
        match self {
            Word::Known(it) => it,
            Word::Unknown(_) => worst,
        }
    }
}

/// An unknown scope may be everything.
fn known_or_host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
    Ok(Word::deserialize(deserializer)?.known_or(Scope::Host))
}

fn known_or_failed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProblemKind, D::Error> {
    Ok(Word::deserialize(deserializer)?.known_or(ProblemKind::Failed))
}

/// The kind of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The kernel refused an operation; it is retried. Also any kind that this release does not know.
    Failed,
    /// Something that is not ours is in the way. It was left as it is.
    Conflict,
    /// Something that must come from elsewhere is not there, for instance the interface of a port.
    Missing,
}

impl ProblemKind {
    /// The word for it in tables and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Conflict => "conflict",
            Self::Missing => "missing",
        }
    }
}

/// What an agent did since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// How often the kernel was read and compared.
    pub passes: u64,
    /// Operations that the kernel carried out.
    pub operations: u64,
    /// Operations that the kernel refused.
    pub failures: u64,
    /// Operations that repaired changes by other programs.
    pub drift_repaired: u64,
    /// How often the kernel dropped events, so that everything was observed again.
    #[serde(default)]
    pub events_lost: u64,
}

/// One reading of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub ended_ms: u64,
    /// How long it took, in microseconds: reading, comparing and, if something differed, changing and reading again.
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
            underlay_mtu: None,
            knows_scoped_sides: false,
            behind: vec![],
            vrfs: BTreeMap::new(),
            sides: BTreeMap::new(),
        };
        assert!(report.in_sync() && report.confirms(revision(5), &side(1)));
        assert!(!report.confirms(revision(6), &side(1)));
        report.problems = vec![problem(side(1))];
        assert!(!report.in_sync() && !report.confirms(revision(4), &side(1)) && report.confirms(revision(5), &side(2)));
        report.problems = vec![problem(Scope::Host)];
        assert!(!report.confirms(revision(5), &side(2)));
        let vni = 2.try_into().unwrap();
        assert!(!report.confirms_removal(revision(5), vni));
        report.problems[0].kind = ProblemKind::Conflict;
        assert!(!report.confirms(revision(5), &side(2)), "it may not forward");
        assert!(report.confirms_removal(revision(5), vni), "what is gone is gone");
        assert!(!report.confirms_removal(revision(6), vni));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<HostReport>(&json).unwrap(), report);
    }

    #[test]
    fn a_report_of_an_older_agent_is_understood() {
        let text = r#"{ "version": "0", "host": null, "desired": null, "applied": null, "problems": [], "last_pass": null,
            "counters": { "passes": 1, "operations": 2, "failures": 3, "drift_repaired": 4 } }"#;
        let report: HostReport = serde_json::from_str(text).unwrap();
        assert!(report.behind.is_empty() && report.sides.is_empty() && report.counters.events_lost == 0);
        let again = serde_json::to_value(&report).unwrap();
        assert_eq!((again.get("behind"), again.get("sides")), (None, None), "what is empty is not sent");
    }
}
