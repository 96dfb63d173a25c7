//! The gateways that a probe is sent between, and the interpretation of its result. Pure.

use super::{FixableBy, Path, Step, StepVerdict, words};
use crate::hosts::trace::Answer;
use cps_peering_config::{probe::ProbeAnswer, trace::PathEndpoints};
use serde::{Serialize, Serializer};
use std::net::IpAddr;
use utoipa::ToSchema;

/// The result of probes from the host of the source to that of the destination, between gateway addresses of the two VPCs: no server
/// takes part.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// `ok`; `differs` if some packets or long ones are lost; `stops` if no reply arrives; `unknown` if none was sent.
    pub verdict: StepVerdict,
    /// The gateway address that sent, where the viewer may see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub source: Option<IpAddr>,
    /// The gateway address that was to answer, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub destination: Option<IpAddr>,
    /// Small packets that were sent.
    pub sent: u32,
    /// Number of replies received.
    pub received: u32,
    /// Round-trip times; none if no reply arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<RoundTrip>,
    /// The path MTU: the longest IP packet that was answered, in bytes; none if it was not measured, as on one host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// The expected path MTU, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_mtu: Option<u32>,
    /// The problem, or why no probe was sent; empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Round-trip times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct RoundTrip {
    /// The shortest.
    #[serde(serialize_with = "milliseconds")]
    #[schema(value_type = f64)]
    pub min: u64,
    /// The median.
    #[serde(serialize_with = "milliseconds")]
    #[schema(value_type = f64)]
    pub median: u64,
}

/// From microseconds.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    clippy::cast_precision_loss,
    reason = "serde calls it so; a probe takes a second"
)]
fn milliseconds<S: Serializer>(us: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(*us as f64 / 1e3)
}

/// A probe to send, and who can see its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePlan {
    /// The request to the host of the source.
    pub query: PathEndpoints,
    /// Whether the viewer can see the address at the other end.
    pub shows_destination: bool,
}

impl Probe {
    /// No probe was sent, for a reason that anyone can see.
    pub fn not_sent(reason: impl Into<String>) -> Self {
        Self {
            verdict: StepVerdict::Unknown,
            source: None,
            destination: None,
            sent: 0,
            received: 0,
            round_trip_ms: None,
            path_mtu: None,
            expected_mtu: None,
            reason: reason.into(),
        }
    }

    /// The result from a host's answer. Accounts are told nothing about the host (rule L11).
    pub fn of(plan: &ProbePlan, answer: Answer<ProbeAnswer>, is_operator: bool) -> Self {
        let unknown = |reason: String| {
            Self::not_sent(if is_operator {
                reason
            } else {
                "the host of the source could not send a probe".to_owned()
            })
        };
        let told = match answer {
            Answer::Told(told) => told,
            Answer::Unknown => return unknown("this host's agent is too old to probe: upgrade it".to_owned()),
            Answer::Refused(why) => return unknown(format!("the agent of the host refuses to probe: {why}")),
            Answer::Failed(why) => return unknown(format!("the host of the source does not answer: {why}")),
        };
        if let Some(why) = told.not_probed {
            return unknown(why);
        }
        // A compromised host answers anything.
        let (sent, received) = (told.sent, told.received.min(told.sent));
        if sent == 0 {
            return unknown("the agent reports that it has sent nothing".to_owned());
        }
        if received == 0 && told.forged > 0 {
            return unknown(format!("{} replies did not belong to this probe", told.forged));
        }
        let (path_mtu, expected_mtu) = (told.path_mtu, told.expected_mtu);
        let round_trip = told.round_trip_min_us.zip(told.round_trip_median_us).filter(|_| received > 0);
        let kernel = if is_operator && !told.send_error.is_empty() {
            format!("; the kernel refused one: {}", told.send_error)
        } else {
            String::new()
        };
        let (verdict, reason) = match (path_mtu, expected_mtu) {
            _ if received == 0 => {
                let why = "no reply to any probe: packets are lost on the way, or the gateway at the other end does not answer";
                (StepVerdict::Stops, format!("{why}{kernel}"))
            }
            (path, Some(expected)) if path.is_none_or(|path| path < expected) => {
                let why = match path {
                    Some(path) => {
                        format!("packets of {expected} bytes are lost on the way, {path} pass: an MTU black hole")
                    }
                    None => {
                        format!("a packet of {expected} bytes was lost on the way, and could not be repeated in time")
                    }
                };
                (StepVerdict::Differs, format!("{why}{kernel}"))
            }
            _ if received < sent => {
                let why = format!("{} of {sent} probes are lost on the way", sent - received);
                (StepVerdict::Differs, format!("{why}{kernel}"))
            }
            _ => (StepVerdict::Ok, String::new()),
        };
        Self {
            verdict,
            source: Some(plan.query.local),
            destination: Some(plan.query.remote).filter(|_| plan.shows_destination),
            sent,
            received,
            round_trip_ms: round_trip.map(|(min, median)| RoundTrip { min, median }),
            path_mtu,
            expected_mtu,
            reason,
        }
    }

    /// The same as a step, unless nothing is known.
    fn step(&self) -> Option<Step> {
        if self.verdict == StepVerdict::Unknown {
            return None;
        }
        let passes = self.path_mtu.map_or(String::new(), |mtu| format!(", {mtu} bytes pass"));
        let observed = format!("{} of {} came back{passes}", self.received, self.sent);
        let ends = [self.source, self.destination].into_iter().flatten().map(|address| address.to_string());
        let wrong = self.verdict != StepVerdict::Ok;
        Some(Step {
            verdict: self.verdict,
            observed,
            expected: self.expected_mtu.filter(|_| wrong).map(|mtu| format!("{mtu} bytes pass")),
            reason: self.reason.clone(),
            fixable_by: wrong.then_some(FixableBy::Operator),
            ..Step::ok(words::PROBE, ends.collect::<Vec<_>>().join(" -> "))
        })
    }
}

impl Path {
    /// The same with the result of a probe. Lost probes stop the path; if none was sent nothing changes.
    #[must_use]
    pub fn with_probe(self, probe: Probe) -> Self {
        let asked = self.reaches.is_some();
        let steps = self.steps.into_iter().chain(probe.step()).collect();
        let ids = (self.vpc_id, self.vpc_peering_id);
        Path { probe: Some(probe), ..Path::of(self.source, self.destination, ids, steps, asked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shows_destination: bool) -> ProbePlan {
        let query = r#"{ "vpc": "a", "local": "10.1.0.1", "peer_vpc": "b", "remote": "10.2.0.1" }"#;
        ProbePlan { query: serde_json::from_str(query).unwrap(), shows_destination }
    }

    fn told(sent: u32, received: u32, path_mtu: Option<u32>) -> ProbeAnswer {
        ProbeAnswer {
            sent,
            received,
            path_mtu,
            expected_mtu: Some(1450),
            round_trip_min_us: Some(700),
            round_trip_median_us: Some(1250),
            send_error: "on secret-host".to_owned(),
            ..ProbeAnswer::default()
        }
    }

    fn path(steps: Vec<Step>, asked: bool) -> Path {
        Path::of("10.1.0.5".parse().unwrap(), "10.2.0.5".parse().unwrap(), (None, None), steps, asked)
    }

    #[test]
    fn what_comes_back_decides() {
        for (sent, received, mtu, verdict, said) in [
            (3, 3, Some(1450), StepVerdict::Ok, ""),
            (3, 3, Some(9000), StepVerdict::Ok, ""),
            (3, 2, Some(1450), StepVerdict::Differs, "1 of 3 probes are lost"),
            (3, 3, Some(1300), StepVerdict::Differs, "1450 bytes are lost on the way, 1300 pass"),
            (3, 3, None, StepVerdict::Differs, "could not be repeated"),
            (3, 0, None, StepVerdict::Stops, "no reply to any probe"),
            // No host can return more than it was sent.
            (3, 7, Some(1450), StepVerdict::Ok, ""),
            (0, 0, None, StepVerdict::Unknown, "nothing"),
        ] {
            let probe = Probe::of(&plan(true), Answer::Told(told(sent, received, mtu)), true);
            assert_eq!((probe.verdict, probe.received.min(sent)), (verdict, probe.received), "{probe:?}");
            assert!(probe.reason.contains(said) && (said.is_empty() == probe.reason.is_empty()), "{probe:?}");
        }
        let one_host = ProbeAnswer { expected_mtu: None, ..told(3, 3, None) };
        assert_eq!(Probe::of(&plan(true), Answer::Told(one_host), true).verdict, StepVerdict::Ok);
        let shown = serde_json::to_value(Probe::of(&plan(true), Answer::Told(told(3, 3, Some(1450))), true)).unwrap();
        assert_eq!(shown["roundTripMs"], serde_json::json!({ "min": 0.7, "median": 1.25 }));
        assert_eq!((&shown["pathMtu"], &shown["destination"]), (&1450.into(), &"10.2.0.1".into()));
    }

    /// L11.
    #[test]
    fn an_account_learns_nothing_of_the_host_and_of_the_other_end() {
        let failed = |why: &str| Answer::Failed(why.to_owned());
        let not_probed = ProbeAnswer { not_probed: Some("secret".to_owned()), ..told(3, 3, None) };
        for answer in [failed("secret"), Answer::Refused("secret".to_owned()), Answer::Told(not_probed)] {
            let probe = Probe::of(&plan(false), answer.clone(), false);
            assert_eq!((probe.verdict, probe.reason.contains("secret")), (StepVerdict::Unknown, false));
            assert!(Probe::of(&plan(true), answer, true).reason.contains("secret"));
        }
        let lost = Probe::of(&plan(false), Answer::Told(told(3, 0, None)), false);
        assert_eq!((lost.destination, lost.reason.contains("secret")), (None, false), "{lost:?}");
        assert!(Probe::of(&plan(true), Answer::Unknown, true).reason.contains("too old to probe"));
    }

    #[test]
    fn what_does_not_come_back_stops_the_path_and_what_is_not_known_changes_nothing() {
        let steps = || vec![Step::ok(words::VPC, "a")];
        let fine = || path(steps(), true);
        let lost = fine().with_probe(Probe::of(&plan(true), Answer::Told(told(3, 0, None)), true));
        assert_eq!((lost.reaches, lost.first_wrong, lost.steps[1].step.as_str()), (Some(false), Some(1), "probe"));
        let hole = fine().with_probe(Probe::of(&plan(true), Answer::Told(told(3, 3, Some(1300))), true));
        assert_eq!((hole.reaches, hole.first_wrong), (Some(true), Some(1)));
        let unknown = fine().with_probe(Probe::not_sent("why"));
        assert_eq!((unknown.reaches, unknown.first_wrong, unknown.steps.len()), (Some(true), None, 1));
        assert_eq!(unknown.probe.unwrap().reason, "why");
        // Replies do not settle what could not be determined.
        let doubt = Step::wrong(words::HOST, StepVerdict::Unknown, "", "", FixableBy::Operator);
        let doubtful =
            path(vec![doubt], true).with_probe(Probe::of(&plan(true), Answer::Told(told(3, 3, Some(1450))), true));
        assert_eq!(doubtful.reaches, None);
    }
}
