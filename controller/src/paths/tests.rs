//! How hosts' answers become steps.

use super::*;
use cps_peering_config::trace::TraceAnswer;

const ONE: Revision = Revision { epoch: 1, number: 5 };

fn end(account: &str, host: &str, paused: bool) -> End {
    let query = r#"{ "vpc": "a", "local": "10.1.0.5", "peer_vpc": "b", "remote": "10.2.0.5" }"#;
    End {
        account: account.parse().unwrap(),
        host: host.parse().unwrap(),
        agent: String::new(),
        query: serde_json::from_str(query).unwrap(),
        revision: ONE,
        paused,
    }
}

fn fact(check: &str, verdict: Verdict) -> Fact {
    Fact {
        check: check.to_owned(),
        verdict,
        object: "link secret".to_owned(),
        observed: "secret".to_owned(),
        expected: None,
        reason: "secret".to_owned(),
    }
}

fn answer(send: Vec<Fact>, receive: Vec<Fact>) -> TraceAnswer {
    TraceAnswer { revision: Some(ONE), send, receive, ..TraceAnswer::default() }
}

/// An answer without problems.
fn well() -> TraceAnswer {
    answer(vec![fact(check::ROUTE, Verdict::Ok)], vec![fact(check::PORT, Verdict::Ok)])
}

fn heard(answer: Answer) -> Heard {
    Heard { answer, newest: Revision { number: 6, ..ONE } }
}

fn found(ends: Option<[End; 2]>) -> Survey {
    Survey {
        source: "10.1.0.5".parse().unwrap(),
        destination: "10.2.0.5".parse().unwrap(),
        vpc: None,
        peering: None,
        steps: vec![Step::ok(words::VPC, "a")],
        ends,
        unserved: false,
        own_part: false,
        probe: None,
    }
}

/// The path that results from these answers, for operators.
fn path(near: Answer, paused: bool) -> Path {
    let ends = Some([end("one", "h1", paused), end("two", "h2", false)]);
    found(ends).with(Some([heard(near), heard(Answer::Told(well()))]), None)
}

#[test]
fn a_host_that_says_nothing_of_use_is_a_step_that_says_so() {
    let first = |answer: Answer, paused| {
        let path = path(answer, paused);
        let step = path.first_wrong.map(|place| &path.steps[place]);
        let step = step.map(|step| (step.step.clone(), step.verdict, step.reason.clone()));
        (path.reaches, step)
    };
    assert_eq!(first(Answer::Told(well()), false), (Some(true), None));
    let host = |answer: Answer, paused, verdict: StepVerdict, words: &str| {
        let (reaches, step) = first(answer, paused);
        let (step, found, reason) = step.unwrap();
        assert_eq!((step.as_str(), found), (words::HOST, verdict), "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert_eq!(reaches, (verdict == StepVerdict::Differs).then_some(true), "{reason}");
    };
    let told = |revision: Option<Revision>| Answer::Told(TraceAnswer { revision, ..well() });
    host(Answer::Failed("timeout".into()), false, StepVerdict::Unknown, "does not answer: timeout");
    host(Answer::Refused("503: busy".into()), false, StepVerdict::Unknown, "refuses to answer: 503: busy");
    host(Answer::Unknown, false, StepVerdict::Unknown, "upgrade it");
    host(Answer::Told(answer(vec![], vec![])), false, StepVerdict::Unknown, "reported nothing");
    let older = Some(Revision { number: 4, ..ONE });
    host(told(older), false, StepVerdict::Differs, "on its way");
    host(told(older), true, StepVerdict::Differs, "paused");
    host(told(None), false, StepVerdict::Differs, "does not have the newest");
    assert_eq!(first(told(Some(Revision { number: 6, ..ONE })), false).1, None, "what came meanwhile");
    host(told(Some(Revision { number: 7, ..ONE })), false, StepVerdict::Differs, "a newer configuration");
    host(told(Some(Revision { epoch: 2, number: 1 })), false, StepVerdict::Differs, "a newer configuration");
}

#[test]
fn where_nobody_was_asked_it_is_not_known() {
    let path = found(None).with(None, None);
    assert_eq!((path.reaches, path.first_wrong), (None, None));
}

/// L11.
#[test]
fn an_account_does_not_see_whether_the_other_end_is_on_the_same_host() {
    let one = "one".parse().unwrap();
    let seen = |near: TraceAnswer, far: TraceAnswer| {
        let ends = Some([end("one", "h1", false), end("two", "h2", false)]);
        found(ends).with(Some([heard(Answer::Told(near)), heard(Answer::Told(far))]), Some(&one))
    };
    let apart = answer(
        [check::VRF, check::TUNNEL, check::FDB].map(|check| fact(check, Verdict::Ok)).to_vec(),
        vec![fact(check::ACCEPTANCE, Verdict::Ok), fact(check::PORT, Verdict::Ok)],
    );
    assert_eq!(seen(apart.clone(), well()), seen(well(), well()));
    // A check that a newer agent only has for paths to another host.
    let newer = answer(vec![fact("aura", Verdict::Ok), fact(check::ROUTE, Verdict::Ok)], well().receive);
    assert_eq!(seen(newer, well()), seen(well(), well()));
    let text = serde_json::to_string(&seen(apart.clone(), apart)).unwrap();
    assert!(!text.contains("secret") && !text.contains("h1") && !text.contains("h2"), "{text}");
}

/// L11.
#[test]
fn an_account_sees_of_an_address_that_nobody_has_what_it_sees_of_one_that_the_peer_stops() {
    let one = "one".parse().unwrap();
    let ends = Some([end("one", "h1", false), end("two", "h2", false)]);
    let stopped = |send: Verdict, receive: Verdict| {
        let far = answer(vec![fact(check::ROUTE, send)], vec![fact(check::PORT, receive)]);
        found(ends.clone()).with(Some([heard(Answer::Told(well())), heard(Answer::Told(far))]), Some(&one))
    };
    let nobody = Survey { unserved: true, ..found(ends.clone()) };
    let nobody = nobody.with(Some([heard(Answer::Told(well())), heard(Answer::Told(well()))]), Some(&one));
    assert_eq!(nobody.reaches, Some(false));
    assert_eq!(stopped(Verdict::Ok, Verdict::Stops), nobody);
    assert_eq!(stopped(Verdict::Stops, Verdict::Ok), nobody, "nor which way");
    // Without any port there is no host to ask.
    let path = Survey { unserved: true, ..found(None) }.with(None, Some(&one));
    assert_eq!(path.steps.iter().filter(|step| step.step == words::PEER_SIDE).count(), 2);
    assert_eq!((path.reaches, path.first_wrong), (Some(false), Some(1)));
}
