//! Why one address reaches another, or does not: first by the model, then by the kernels of the hosts at both ends.
//!
//! Pure. [`survey()`] walks the model and returns the requests to hosts; [`Survey::with`] orders their answers, as far
//! as the viewer can see them (rule L11): an account sees its own side, without the cloud's infrastructure, and of
//! another account's side only whether it stops packets.

mod probe;
mod survey;
#[cfg(test)]
mod tests;
mod words;

pub use probe::{Probe, ProbePlan, RoundTrip};
pub use survey::{AmbiguousSource, Survey, survey};

use crate::hosts::trace::Answer;
use cps_peering_config::{
    Revision,
    id::{AccountId, HostId, PeeringId, RegionId, VpcId},
    trace::{Fact, TraceQuery, Verdict, check},
};
use serde::Serialize;
use std::net::IpAddr;
use utoipa::ToSchema;

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathQuery {
    /// The source of the packets.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
    /// The VPC of the source, if given.
    pub vpc: Option<VpcId>,
    /// The region of the source's VPC; none for any.
    pub region: Option<RegionId>,
    /// The IP protocol, if given.
    pub protocol: Option<u8>,
    /// The destination port, if given.
    pub port: Option<u16>,
    /// Whether real packets are to be sent, too.
    pub probe: bool,
}

/// Result of one step of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepVerdict {
    /// As it should be.
    Ok,
    /// Packets pass, but it is not as the configuration says.
    Differs,
    /// It cannot be determined, for instance because a host does not answer.
    Unknown,
    /// Packets do not pass.
    Stops,
}

impl From<Verdict> for StepVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Ok => Self::Ok,
            Verdict::Differs => Self::Differs,
            Verdict::Unknown => Self::Unknown,
            Verdict::Stops => Self::Stops,
        }
    }
}

/// Direction of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the source to the destination.
    Forward,
    /// Back.
    Return,
}

/// Who can fix a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FixableBy {
    /// The account that asks; for operators, that of the source.
    Caller,
    /// The account of the other side.
    Peer,
    /// An operator of the cloud.
    Operator,
}

/// The side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathSide {
    /// That of the source.
    Source,
    /// That of the destination.
    Destination,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The step, for programs, for instance `peering`, `route`, `fdb`; `peerSide` stands for all of another account's side.
    pub step: String,
    /// The same for people.
    pub title: &'static str,
    /// The direction; none for what is the same in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The side; none for what both share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<PathSide>,
    /// For operators: the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub host: Option<HostId>,
    /// The verdict.
    pub verdict: StepVerdict,
    /// The object; for operators that of the kernel.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The state there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub observed: String,
    /// The expected value, if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Explanation, unless the step is ok.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who can fix it, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixable_by: Option<FixableBy>,
}

impl Step {
    /// A step without problems.
    fn ok(step: &str, object: impl Into<String>) -> Self {
        Self {
            step: step.to_owned(),
            title: words::title(step),
            direction: None,
            side: None,
            host: None,
            verdict: StepVerdict::Ok,
            object: object.into(),
            observed: String::new(),
            expected: None,
            reason: String::new(),
            fixable_by: None,
        }
    }

    /// A step with a problem.
    fn wrong(
        step: &str,
        verdict: StepVerdict,
        object: impl Into<String>,
        reason: impl Into<String>,
        fixable_by: FixableBy,
    ) -> Self {
        Self { verdict, reason: reason.into(), fixable_by: Some(fixable_by), ..Self::ok(step, object) }
    }

    fn at(self, side: PathSide, direction: Option<Direction>) -> Self {
        Self { side: Some(side), direction, ..self }
    }
}

/// The answer to a [`PathQuery`].
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The source.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// The destination.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// The VPC of the source; none where there is none.
    #[schema(value_type = Option<String>)]
    pub vpc_id: Option<VpcId>,
    /// The peering that leads there; none within a VPC, or where there is none.
    #[schema(value_type = Option<String>)]
    pub vpc_peering_id: Option<PeeringId>,
    /// Whether packets arrive and answers return; none if that is not known.
    pub reaches: Option<bool>,
    /// The index in `steps` of the first step that stops packets; without one, of the first that is unknown or differs.
    pub first_wrong: Option<usize>,
    /// Every step: what the model says, the way there, the way back.
    pub steps: Vec<Step>,
    /// The result of the probes, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
}

/// One end of a path, and the host to ask about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The account of its VPC.
    pub account: AccountId,
    /// The host with the port.
    pub host: HostId,
    /// The URL of its agent.
    pub agent: String,
    /// The request.
    pub query: TraceQuery,
    /// The configuration that it should have by the time it is asked.
    pub revision: Revision,
    /// Whether pushes to it are paused or held back.
    pub paused: bool,
}

/// The answer of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Its answer.
    pub answer: Answer,
    /// The newest configuration for it when the answer arrived.
    pub newest: Revision,
}

impl Survey {
    /// The whole path, with the answers of the hosts at both ends.
    pub fn with(self, answers: Option<[Heard; 2]>, viewer: Option<&AccountId>) -> Path {
        let mut steps = self.steps;
        let asked = answers.is_some();
        let peers = |verdict| {
            let forward = of_the_peer(verdict).at(PathSide::Destination, Some(Direction::Forward));
            [forward, of_the_peer(verdict).at(PathSide::Destination, Some(Direction::Return))]
        };
        if let (Some([near, far]), Some([source, destination])) = (&self.ends, answers) {
            let mut source = told(source, near);
            if self.own_part {
                for facts in &mut source {
                    facts.retain(|fact| words::is_of_own_part(&fact.check));
                }
            }
            let destination = told(destination, far);
            // Nothing else is disclosed of another account's side, so neither is the direction that it stops.
            let all = || destination.iter().flatten().map(|fact| fact.verdict);
            let verdict = if self.unserved { Verdict::Stops } else { all().max().unwrap_or(Verdict::Unknown) };
            let [peer_forward, peer_return] = peers(verdict);
            let legs = [
                (Direction::Forward, PathSide::Source, near, &source[0]),
                (Direction::Forward, PathSide::Destination, far, &destination[1]),
                (Direction::Return, PathSide::Destination, far, &destination[0]),
                (Direction::Return, PathSide::Source, near, &source[1]),
            ];
            for (direction, side, end, facts) in legs {
                let of_a_host = facts.iter().map(|fact| seen_by_operators(fact, end));
                let of_a_host = of_a_host.map(|step| step.at(side, Some(direction)));
                match (viewer, direction) {
                    (None, _) => steps.extend(of_a_host),
                    (Some(account), _) if end.account == *account => {
                        let (local, remote) = match side {
                            PathSide::Source => (self.source, self.destination),
                            PathSide::Destination => (self.destination, self.source),
                        };
                        let sends = (side == PathSide::Source) == (direction == Direction::Forward);
                        let own = seen_by_owner(facts, sends, local, remote).into_iter();
                        steps.extend(own.map(|step| step.at(side, Some(direction))));
                    }
                    (Some(_), Direction::Forward) => steps.push(peer_forward.clone()),
                    (Some(_), Direction::Return) => steps.push(peer_return.clone()),
                }
            }
        } else if self.unserved {
            steps.extend(peers(Verdict::Stops));
        }
        Path::of(self.source, self.destination, (self.vpc, self.peering), steps, asked)
    }
}

impl Path {
    fn of(
        source: IpAddr,
        destination: IpAddr,
        (vpc_id, vpc_peering_id): (Option<VpcId>, Option<PeeringId>),
        steps: Vec<Step>,
        asked: bool,
    ) -> Self {
        let first = |verdict: StepVerdict| steps.iter().position(|step| step.verdict == verdict);
        let (stops, unknown) = (first(StepVerdict::Stops), first(StepVerdict::Unknown));
        let reaches = match (stops, unknown) {
            (Some(_), _) => Some(false),
            (None, None) if asked => Some(true),
            // Without answers from hosts, it is unknown whether all is well.
            (None, _) => None,
        };
        let first_wrong = stops.or(unknown).or_else(|| first(StepVerdict::Differs));
        Self { source, destination, vpc_id, vpc_peering_id, reaches, first_wrong, steps, probe: None }
    }
}

/// The facts that a host reports about its end, for packets that it sends and receives, or why they are unknown.
fn told(heard: Heard, end: &End) -> [Vec<Fact>; 2] {
    let Heard { answer, newest } = heard;
    let host = |verdict, observed: String, reason: String| Fact {
        check: words::HOST.to_owned(),
        verdict,
        object: format!("host {}", end.host),
        observed,
        expected: None,
        reason,
    };
    let unknown = |reason: &str| {
        let fact = host(Verdict::Unknown, String::new(), reason.to_owned());
        [vec![fact.clone()], vec![fact]]
    };
    match answer {
        Answer::Failed(why) => unknown(&format!("the host of the port does not answer: {why}")),
        Answer::Refused(why) => unknown(&format!("the agent of the host refuses to answer: {why}")),
        Answer::Unknown => unknown("the host's agent is too old to trace paths: upgrade it"),
        Answer::Told(told) => {
            let known = host(Verdict::Ok, "answers".to_owned(), String::new());
            let have = || told.revision.map_or("no configuration".to_owned(), |it| format!("configuration {it}"));
            let first = if told.revision.is_some_and(|revision| revision > newest) {
                let why = "the host has a newer configuration than this controller: another one may be in charge of it";
                let expected = Some(format!("configuration {newest}"));
                Fact { expected, ..host(Verdict::Differs, have(), why.to_owned()) }
            } else if told.revision.is_none_or(|revision| revision < end.revision) {
                let why = if end.paused {
                    "pushes to it are paused or held back by a rollout"
                } else {
                    "it is on its way, or the host refuses it"
                };
                Fact {
                    expected: Some(format!("configuration {}", end.revision)),
                    ..host(Verdict::Differs, have(), format!("the host does not have the newest configuration: {why}"))
                }
            } else {
                known
            };
            let with_host = |facts: Vec<Fact>| {
                let all = std::iter::once(first.clone()).chain(facts);
                let mut facts: Vec<Fact> = all.collect();
                // An agent that reports nothing has not confirmed anything.
                if facts.len() == 1 {
                    let nothing = host(Verdict::Unknown, String::new(), "the agent has reported nothing".to_owned());
                    facts.push(nothing);
                }
                facts
            };
            [with_host(told.send), with_host(told.receive)]
        }
    }
}

fn seen_by_operators(fact: &Fact, end: &End) -> Step {
    let verdict = fact.verdict.into();
    Step {
        title: words::title(&fact.check),
        host: Some(end.host.clone()),
        verdict,
        observed: fact.observed.clone(),
        expected: fact.expected.clone(),
        reason: fact.reason.clone(),
        fixable_by: (verdict != StepVerdict::Ok).then(|| words::fixable_by(&fact.check)),
        ..Step::ok(&fact.check, fact.object.clone())
    }
}

/// What an account sees of its own side on a host: problems, without hosts, devices and numbers of the cloud. Which
/// checks there are depends on whether the other end is on the same host, which must not be disclosed: an account sees all of them.
fn seen_by_owner(facts: &[Fact], sends: bool, local: IpAddr, remote: IpAddr) -> Vec<Step> {
    let of_the_host = |fact: &&Fact| [words::HOST, check::CONFIGURATION].contains(&fact.check.as_str());
    let mut steps: Vec<Step> = facts.iter().filter(of_the_host).map(|fact| owners_step(fact, local, remote)).collect();
    // A host that could not be read says nothing about the objects on it.
    if steps.len() == facts.len() {
        return steps;
    }
    let order = if sends { check::SENT.as_slice() } else { &check::ARRIVING };
    for check in order {
        let found = facts.iter().filter(|fact| fact.check == *check).max_by_key(|fact| fact.verdict);
        let absent = Fact {
            check: (*check).to_owned(),
            verdict: Verdict::Ok,
            object: String::new(),
            observed: String::new(),
            expected: None,
            reason: String::new(),
        };
        steps.push(owners_step(found.unwrap_or(&absent), local, remote));
    }
    // From an agent that is newer than this controller.
    let more = facts.iter().filter(|fact| !of_the_host(fact) && !order.contains(&fact.check.as_str()));
    steps.extend(more.filter(|fact| fact.verdict != Verdict::Ok).map(|fact| owners_step(fact, local, remote)));
    steps
}

fn owners_step(fact: &Fact, local: IpAddr, remote: IpAddr) -> Step {
    let known = words::is_known(&fact.check);
    let step = if known { fact.check.as_str() } else { words::OTHER };
    let verdict = fact.verdict.into();
    let object = match fact.check.as_str() {
        check::DESTINATION | check::DELIVERY => local.to_string(),
        check::ROUTE => remote.to_string(),
        _ => String::new(),
    };
    // How the account's own server answers is no secret to it.
    let observed = if fact.check == check::DESTINATION { fact.observed.clone() } else { String::new() };
    let wrong = verdict != StepVerdict::Ok;
    Step {
        verdict,
        observed,
        reason: if wrong { words::reason(step, verdict).to_owned() } else { String::new() },
        fixable_by: wrong.then(|| words::fixable_by(step)),
        ..Step::ok(step, object)
    }
}

/// What an account sees of another account's side.
fn of_the_peer(verdict: Verdict) -> Step {
    match verdict {
        // Differences that let packets pass concern only the other account.
        Verdict::Ok | Verdict::Differs => Step::ok(words::PEER_SIDE, ""),
        Verdict::Unknown => Step::wrong(
            words::PEER_SIDE,
            StepVerdict::Unknown,
            "",
            "it is unknown whether the peer's side lets packets pass",
            FixableBy::Peer,
        ),
        Verdict::Stops => {
            Step::wrong(words::PEER_SIDE, StepVerdict::Stops, "", "the peer's side stops it", FixableBy::Peer)
        }
    }
}
