//! Findings about a controller and its hosts, each with a fix. Pure: facts go in, findings come out.

use crate::hosts::diagnosis::Answer;
use cps_peering_config::{diagnosis::Verdict, id::HostId};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The oldest supported kernel.
const OLDEST_KERNEL: (u32, u32) = (5, 18);
/// How far a host's clock may be off until there is a warning, and until certificates and logs are in doubt, in milliseconds.
const CLOCK_OFF_MS: [u64; 2] = [2000, 60_000];
/// What VXLAN needs above 1500, in bytes, so that tenants have 1500: 50 over IPv4, 70 over IPv6.
const OVERHEAD: [u32; 2] = [50, 70];
const DAY_S: i64 = 24 * 60 * 60;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// `ok`, `warning` or `failure`.
    #[schema(value_type = String)]
    pub verdict: Verdict,
    /// The step's name.
    pub check: String,
    /// The object.
    pub subject: String,
    /// What was found.
    pub finding: String,
    /// The fix; empty if none is needed.
    pub cure: String,
}

impl Finding {
    fn new(
        verdict: Verdict,
        check: &str,
        subject: impl Into<String>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { verdict, check: check.to_owned(), subject: subject.into(), finding: finding.into(), cure: cure.into() }
    }

    fn ok(check: &str, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, check, subject, finding, "")
    }
}

/// Facts about the controller.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Why the store takes no writes; none if it does.
    pub store_fails: Option<String>,
    /// Why it only takes writes that free space; none if it takes all.
    pub store_low: Option<String>,
    /// How much space it has and how much is reserved, in bytes, if known.
    pub space: Option<(u64, u64)>,
    /// By how much the clock has leapt, in milliseconds, if that is unconfirmed.
    pub leap_ms: Option<i64>,
    /// How much space the audit trail takes, and may take (0: no limit), in bytes.
    pub trail: (u64, u64),
    /// The age of the newest backup, in seconds; none if there is none.
    pub backup_age_s: Option<u64>,
    /// When certificates expire, in seconds from now, by name; none if a file cannot be read.
    pub certificates: Vec<(String, Option<i64>)>,
    /// Whether TLS is on.
    pub tls: bool,
}

/// Facts about a host.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// The host.
    pub id: HostId,
    /// Whether its VTEP address is of IPv6.
    pub ipv6: bool,
    /// Whether it is in maintenance.
    pub maintenance: bool,
    /// Whether pushes to it are paused.
    pub paused: bool,
    /// Whether it waits for the canaries of a rollout.
    pub held_back: bool,
    /// Whether it was removed, and whether as dead.
    pub removed: (bool, bool),
    /// Why it is unreachable; none if it answers.
    pub unreachable: Option<String>,
    /// Whether its kernel is known to match its configuration.
    pub in_sync: bool,
    /// The problems that its agent reports, with the reasons.
    pub problems: Vec<String>,
    /// Its agent's diagnosis; none if it was not asked.
    pub answer: Option<Answer>,
}

fn own(facts: &Own, findings: &mut Vec<Finding>) {
    const CONTROLLER: &str = "controller";
    findings.push(match (&facts.store_fails, &facts.store_low) {
        (Some(why), _) => {
            let cure = "free space on its disk, or repair etcd: the controller retries every second";
            Finding::new(Verdict::Failure, "store", CONTROLLER, format!("takes no writes: {why}"), cure)
        }
        (None, Some(why)) => {
            let cure = "free space: until then only deletes, rejects and suspensions are accepted";
            Finding::new(Verdict::Failure, "store", CONTROLLER, why, cure)
        }
        (None, None) => Finding::ok("store", CONTROLLER, "takes writes"),
    });
    if let Some((free, reserve)) = facts.space.filter(|(free, reserve)| *free < reserve.saturating_mul(2)) {
        let finding = format!("{} MiB are left, {} of them kept free", free >> 20, reserve >> 20);
        findings.push(Finding::new(Verdict::Warning, "space", CONTROLLER, finding, "free space before it is full"));
    }
    findings.push(match facts.leap_ms {
        Some(by_ms) => {
            let finding = format!(
                "the clock has jumped by {} s: nothing expires or is deleted until it is back or confirmed",
                by_ms / 1000
            );
            let cure = "chronyc tracking; where it is right now: cps-peering admin clock confirm";
            Finding::new(Verdict::Failure, "clock", CONTROLLER, finding, cure)
        }
        None => Finding::ok("clock", CONTROLLER, "agrees with the elapsed time"),
    });
    let (bytes, most) = facts.trail;
    if most > 0 && bytes > most / 10 * 9 {
        let finding = format!("the audit trail has {} of {} MiB", bytes >> 20, most >> 20);
        findings.push(Finding::new(
            Verdict::Warning,
            "audit",
            CONTROLLER,
            finding,
            "raise audit_max_mb, or lower audit_kept_s",
        ));
    }
    findings.push(match facts.backup_age_s {
        Some(age_s) if age_s < 2 * 86_400 => Finding::ok("backup", CONTROLLER, format!("{} h old", age_s / 3600)),
        age => {
            let finding = age.map_or("there is none here".to_owned(), |age_s| format!("{} days old", age_s / 86_400));
            Finding::new(Verdict::Warning, "backup", CONTROLLER, finding, "cps-peering admin backup")
        }
    });
    if !facts.tls {
        let finding = "TLS is off: traffic with clients and agents can be read and modified in transit";
        findings.push(Finding::new(Verdict::Warning, "certificate", CONTROLLER, finding, "setting `tls`"));
    }
    for (name, left_s) in &facts.certificates {
        let cure = "issue it again and install it in the same place: it is reloaded without a restart";
        findings.push(match left_s {
            None => Finding::new(Verdict::Failure, "certificate", name, "cannot be read", cure),
            Some(left_s @ ..=0) => Finding::new(
                Verdict::Failure,
                "certificate",
                name,
                format!("expired {} days ago", -left_s / DAY_S),
                cure,
            ),
            Some(left_s) if *left_s < 14 * DAY_S => {
                Finding::new(Verdict::Warning, "certificate", name, format!("expires in {} days", left_s / DAY_S), cure)
            }
            Some(left_s) => Finding::ok("certificate", name, format!("valid for {} days", left_s / DAY_S)),
        });
    }
}

/// Major and minor version of a kernel release.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Findings from the diagnosis of a host's agent.
fn answered(host: &HostFacts, findings: &mut Vec<Finding>) {
    let subject = host.id.to_string();
    let (diagnosis, ahead_ms, took_ms) = match &host.answer {
        None => return,
        Some(Answer::Unknown) => {
            let finding = "its agent is too old for a diagnosis";
            findings.push(Finding::new(Verdict::Warning, "version", subject, finding, "upgrade the agent"));
            return;
        }
        Some(Answer::Failed(why)) => {
            let cure = "on the host: cps-peering-agent check";
            findings.push(Finding::new(Verdict::Warning, "agent", subject, format!("gave no diagnosis: {why}"), cure));
            return;
        }
        Some(Answer::Told { diagnosis, ahead_ms, took_ms }) => (diagnosis, *ahead_ms, *took_ms),
    };
    // A difference within the response time is not the clock's.
    let off_ms = ahead_ms.unsigned_abs().saturating_sub(took_ms / 2 + 1);
    if off_ms >= CLOCK_OFF_MS[0] {
        let verdict = if off_ms >= CLOCK_OFF_MS[1] { Verdict::Failure } else { Verdict::Warning };
        let word = if ahead_ms < 0 { "behind" } else { "ahead" };
        let finding = format!("{} s {word} of the controller's", ahead_ms.unsigned_abs() / 1000);
        findings.push(Finding::new(verdict, "clock", &subject, finding, "on both: chronyc tracking, or timedatectl"));
    }
    if let Some((major, minor)) = kernel(&diagnosis.kernel).filter(|version| *version < OLDEST_KERNEL) {
        let finding = format!("Linux {major}.{minor} is older than {}.{}", OLDEST_KERNEL.0, OLDEST_KERNEL.1);
        findings.push(Finding::new(Verdict::Failure, "kernel", &subject, finding, "install a newer kernel"));
    }
    for it in diagnosis.findings.iter().filter(|it| it.verdict != Verdict::Ok) {
        findings.push(Finding::new(
            it.verdict,
            &it.subject,
            &subject,
            &it.text,
            "on the host: cps-peering-agent check",
        ));
    }
    let needed = 1500 + OVERHEAD[usize::from(host.ipv6)];
    if let Some(mtu) = diagnosis.underlay_mtu.filter(|mtu| *mtu < needed) {
        let finding = format!("the underlay has an MTU of {mtu}, so that tenants have less than 1500");
        let cure = format!("raise it to {needed} or more, on the host and on the way");
        findings.push(Finding::new(Verdict::Warning, "MTU", subject, finding, cure));
    }
}

fn host(host: &HostFacts, findings: &mut Vec<Finding>) {
    let subject = host.id.to_string();
    let (removed, dead) = host.removed;
    if dead {
        if host.unreachable.is_none() {
            let cure = "keep it off the underlay, or take it back into the inventory; on it: cps-peering-agent cleanup";
            findings.push(Finding::new(Verdict::Warning, "host", subject, "was removed as dead, and answers", cure));
        }
        return;
    }
    if host.paused {
        let cure = format!("when that is over: cps-peering host resume {subject}");
        findings.push(Finding::new(Verdict::Warning, "pushes", &subject, "are paused: no change reaches it", cure));
    }
    if let Some(why) = &host.unreachable {
        let verdict = if host.maintenance || removed { Verdict::Warning } else { Verdict::Failure };
        let cure = "on it: systemctl status cps-peering-agent; ss -tln for the port of its `agent` URL, and let the controller reach it";
        findings.push(Finding::new(verdict, "host", subject, format!("does not answer: {why}"), cure));
        return;
    }
    if host.in_sync {
        findings.push(Finding::ok("host", &subject, if removed { "is being emptied" } else { "answers, in sync" }));
    } else if host.held_back && host.problems.is_empty() {
        let cure = "how those do: cps-peering rollout show";
        findings.push(Finding::new(Verdict::Warning, "pushes", &subject, "are held back by a rollout", cure));
    } else {
        let why = if host.problems.is_empty() {
            "has not confirmed its configuration".to_owned()
        } else {
            host.problems.join("; ")
        };
        let verdict = if host.maintenance { Verdict::Warning } else { Verdict::Failure };
        findings.push(Finding::new(verdict, "host", &subject, why, "on it: cps-peering-agent status"));
    }
    answered(host, findings);
}

/// Hosts whose underlay has a different MTU than that of most: a path takes what its smaller end takes.
fn mtus(hosts: &[HostFacts], findings: &mut Vec<Finding>) {
    let known: Vec<(&HostId, u32)> = hosts
        .iter()
        .filter_map(|host| match &host.answer {
            Some(Answer::Told { diagnosis, .. }) => Some((&host.id, diagnosis.underlay_mtu?)),
            _ => None,
        })
        .collect();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, mtu) in &known {
        *counts.entry(*mtu).or_default() += 1;
    }
    let Some((usual, _)) = counts.iter().max_by_key(|(mtu, count)| (**count, **mtu)) else { return };
    for (id, mtu) in known.iter().filter(|(_, mtu)| mtu != usual) {
        let finding = format!(
            "the underlay has an MTU of {mtu}, and that of most hosts {usual}: packets between them can be no larger than {} allows",
            mtu.min(usual)
        );
        findings.push(Finding::new(
            Verdict::Warning,
            "MTU",
            id.to_string(),
            finding,
            format!("set it to {usual} there"),
        ));
    }
}

/// All findings, the most severe first.
pub fn findings(facts: &Own, hosts: &[HostFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    own(facts, &mut findings);
    for it in hosts {
        host(it, &mut findings);
    }
    mtus(hosts, &mut findings);
    findings.sort_by_key(|it| std::cmp::Reverse(it.verdict));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::diagnosis::{HostDiagnosis, HostFinding};

    fn healthy() -> Own {
        Own {
            backup_age_s: Some(60),
            tls: true,
            certificates: vec![("own".to_owned(), Some(100 * DAY_S))],
            ..Own::default()
        }
    }

    fn diagnosis() -> HostDiagnosis {
        HostDiagnosis {
            kernel: "6.1.0-13-amd64".to_owned(),
            underlay_mtu: Some(9000),
            time_ms: 1,
            ..HostDiagnosis::default()
        }
    }

    fn told(diagnosis: HostDiagnosis, ahead_ms: i64) -> Answer {
        Answer::Told { diagnosis, ahead_ms, took_ms: 20 }
    }

    fn up(id: &str) -> HostFacts {
        HostFacts {
            id: id.parse().unwrap(),
            ipv6: false,
            maintenance: false,
            paused: false,
            held_back: false,
            removed: (false, false),
            unreachable: None,
            in_sync: true,
            problems: Vec::new(),
            answer: Some(told(diagnosis(), 3)),
        }
    }

    /// Findings other than `ok`, as `verdict check subject`.
    fn wrong(facts: &Own, hosts: &[HostFacts]) -> Vec<String> {
        let found = findings(facts, hosts);
        assert!(found.iter().all(|it| (it.verdict == Verdict::Ok) == it.cure.is_empty()), "{found:?}");
        let wrong = found.iter().filter(|it| it.verdict != Verdict::Ok);
        wrong.map(|it| format!("{:?} {} {}", it.verdict, it.check, it.subject)).collect()
    }

    #[test]
    fn a_healthy_cloud_has_no_findings() {
        assert_eq!(wrong(&healthy(), &[up("h1"), up("h2")]), [""; 0]);
    }

    #[test]
    fn problems_of_the_controller_are_found() {
        let well = healthy;
        for (facts, expected) in [
            (Own { store_fails: Some("full".into()), ..well() }, "Failure store controller"),
            (Own { store_low: Some("little".into()), ..well() }, "Failure store controller"),
            (Own { space: Some((3 << 20, 2 << 20)), ..well() }, "Warning space controller"),
            (Own { leap_ms: Some(-7_200_000), ..well() }, "Failure clock controller"),
            (Own { trail: (950, 1000), ..well() }, "Warning audit controller"),
            (Own { backup_age_s: None, ..well() }, "Warning backup controller"),
            (Own { backup_age_s: Some(3 * 86_400), ..well() }, "Warning backup controller"),
            (Own { tls: false, certificates: Vec::new(), ..well() }, "Warning certificate controller"),
            (Own { certificates: vec![("ca".into(), Some(13 * DAY_S))], ..well() }, "Warning certificate ca"),
            (Own { certificates: vec![("ca".into(), Some(-5))], ..well() }, "Failure certificate ca"),
            (Own { certificates: vec![("etcd ca".into(), None)], ..well() }, "Failure certificate etcd ca"),
        ] {
            assert_eq!(wrong(&facts, &[]), [expected]);
        }
    }

    #[test]
    fn problems_of_a_host_are_found() {
        let of = |change: fn(&mut HostFacts)| {
            let mut host = up("h1");
            change(&mut host);
            wrong(&healthy(), &[host, up("h2"), up("h3")])
        };
        assert_eq!(of(|it| it.unreachable = Some("connection refused".into())), ["Failure host h1"]);
        assert_eq!(of(|it| (it.unreachable, it.maintenance) = (Some("off".into()), true)), ["Warning host h1"]);
        assert_eq!(of(|it| (it.unreachable, it.removed) = (Some("off".into()), (true, true))), [""; 0]);
        assert_eq!(of(|it| it.removed = (true, true)), ["Warning host h1"]);
        assert_eq!(of(|it| it.paused = true), ["Warning pushes h1"]);
        assert_eq!(of(|it| it.in_sync = false), ["Failure host h1"]);
        assert_eq!(of(|it| (it.in_sync, it.held_back) = (false, true)), ["Warning pushes h1"]);
        assert_eq!(of(|it| it.answer = Some(Answer::Unknown)), ["Warning version h1"]);
        assert_eq!(of(|it| it.answer = Some(Answer::Failed("busy".into()))), ["Warning agent h1"]);
        assert_eq!(of(|it| it.answer = Some(told(diagnosis(), -3000))), ["Warning clock h1"]);
        assert_eq!(of(|it| it.answer = Some(told(diagnosis(), 90_000))), ["Failure clock h1"]);
        let with = |change: fn(&mut HostDiagnosis)| {
            let mut told = diagnosis();
            change(&mut told);
            told
        };
        let old = with(|it| it.kernel = "5.15.0-generic".into());
        assert_eq!(wrong(&healthy(), &[HostFacts { answer: Some(told(old, 0)), ..up("h1") }]), ["Failure kernel h1"]);
        let small = with(|it| it.underlay_mtu = Some(1500));
        assert_eq!(
            wrong(&healthy(), &[HostFacts { answer: Some(told(small.clone(), 0)), ..up("h1") }]),
            ["Warning MTU h1"]
        );
        let hosts = [HostFacts { answer: Some(told(small, 0)), ..up("h1") }, up("h2"), up("h3")];
        assert_eq!(wrong(&healthy(), &hosts), ["Warning MTU h1", "Warning MTU h1"]);
        let found = with(|it| {
            let bad = HostFinding { verdict: Verdict::Failure, subject: "packets".into(), text: "a filter".into() };
            it.findings = vec![bad, HostFinding { verdict: Verdict::Ok, subject: "x".into(), text: "y".into() }];
        });
        assert_eq!(
            wrong(&healthy(), &[HostFacts { answer: Some(told(found, 0)), ..up("h1") }]),
            ["Failure packets h1"]
        );
    }
}
