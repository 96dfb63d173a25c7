//! V5: why one address reaches another: by the model, by hosts, and what each viewer can see of it (rule L11).

use crate::running::{Controller, Place, call, done};
use axum::{Json, Router, extract::State, routing::post};
use cps_peering_config::{
    probe::ProbeAnswer,
    trace::{Fact, PathEndpoints, TraceAnswer, TraceQuery, Verdict},
};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const NORTH: &str = "/v1/regions/north";

/// An agent without problems, except those that it is told to report.
#[derive(Clone, Default)]
struct Agent {
    wrong: Arc<Mutex<Vec<(&'static str, Fact)>>>,
    asked: Arc<Mutex<Vec<TraceQuery>>>,
    comes_back: Arc<Mutex<ProbeAnswer>>,
    probed: Arc<Mutex<Vec<PathEndpoints>>>,
}

async fn trace(State(agent): State<Agent>, Json(query): Json<TraceQuery>) -> Json<TraceAnswer> {
    let wrong = agent.wrong.lock().unwrap().clone();
    let of = |direction: &str| {
        let fine = fact("vrf", Verdict::Ok, "cpsvrf10");
        let wrong = wrong.iter().filter(|(way, _)| *way == direction).map(|(_, fact)| fact.clone());
        std::iter::once(fine).chain(wrong).collect()
    };
    let newest = cps_peering_config::Revision { epoch: u64::MAX, number: u64::MAX };
    agent.asked.lock().unwrap().push(query);
    Json(TraceAnswer { version: "9".into(), revision: Some(newest), send: of("send"), receive: of("receive") })
}

async fn probe(State(agent): State<Agent>, Json(query): Json<PathEndpoints>) -> Json<ProbeAnswer> {
    agent.probed.lock().unwrap().push(query);
    Json(agent.comes_back.lock().unwrap().clone())
}

fn fact(check: &str, verdict: Verdict, object: &str) -> Fact {
    Fact {
        check: check.into(),
        verdict,
        object: object.into(),
        observed: "dev secret-nic".into(),
        expected: Some("vni 4242".into()),
        reason: "leads to secret-host".into(),
    }
}

impl Agent {
    /// Listens on a loopback address. Returns its URL.
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router =
            Router::new().route("/v1/trace", post(trace)).route("/v1/probe", post(probe)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn find(&self, direction: &'static str, check: &str, verdict: Verdict) {
        *self.wrong.lock().unwrap() = vec![(direction, fact(check, verdict, "link secret-nic"))];
    }
}

/// Accounts `one` and `two` with a VPC each, behind an agent each.
struct Cloud {
    controller: Controller,
    one: String,
    two: String,
    agents: [Agent; 2],
}

impl Cloud {
    async fn start() -> Self {
        let controller = Place::new().start().await;
        let agents = [Agent::default(), Agent::default()];
        let (near, far) = (agents[0].listen().await, agents[1].listen().await);
        let inventory = json!({
            "regions": [{ "id": "north" }, { "id": "east" }],
            "hosts": [{ "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": near },
                      { "id": "h2", "region": "east", "underlay": "192.0.2.2", "agent": far }],
            "vpcs": [{ "id": "a", "account": "one", "region": "north", "cidrs": ["10.1.0.0/16"] },
                     { "id": "a2", "account": "one", "region": "north", "cidrs": ["10.1.0.0/16"] },
                     { "id": "b", "account": "two", "region": "east", "cidrs": ["10.2.0.0/16"] }],
            "ports": [{ "vpc": "a", "host": "h1", "interface": "eth1", "gateways": ["10.1.0.1/24"] },
                      { "vpc": "b", "host": "h2", "interface": "eth1", "gateways": ["10.2.0.1/24"] }],
        });
        controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
        let [_, _, one] = controller.account("one").await;
        let [_, _, two] = controller.account("two").await;
        Self { controller, one, two, agents }
    }

    async fn peer(&self) -> String {
        let body = json!({ "vpcPeeringName": "p", "vpcId": "a", "remoteVpcId": "b", "remoteRegionId": "east", "remoteAccountId": "two",
            "bandwidth": 10 });
        let made = done(&self.controller, &self.one, Method::POST, &format!("{NORTH}/vpcPeerings/"), body).await;
        made["vpcPeering"]["vpcPeeringId"].as_str().unwrap().to_owned()
    }

    async fn accept(&self, id: &str) {
        let path = format!("/v1/regions/east/vpcPeerings/{id}:acceptVpcPeering");
        done(&self.controller, &self.two, Method::POST, &path, json!({})).await;
    }

    /// The path as account `one` sees it.
    async fn own(&self, source: &str, destination: &str) -> Value {
        let body = json!({ "source": source, "destination": destination });
        done(&self.controller, &self.one, Method::POST, &format!("{NORTH}/paths"), body).await["path"].clone()
    }

    /// The same as operators see it.
    async fn any(&self, source: &str, destination: &str) -> Value {
        let body = json!({ "source": source, "destination": destination, "vpcId": "a" });
        let answer = self.controller.operator(Method::POST, "/admin/v1/paths", body).await;
        answer["path"].clone()
    }
}

/// V6, L11, C9: which addresses a host probes between, when it does not, and what an account sees of the result.
#[tokio::test]
async fn a_probe_uses_connected_gateways_and_an_account_sees_only_figures() {
    let cloud = Cloud::start().await;
    let id = cloud.peer().await;
    cloud.accept(&id).await;
    let [near, far] = &cloud.agents;
    let probe = async |destination: &str, account: bool| {
        let body = json!({ "source": "10.1.0.5", "destination": destination, "vpcId": "a", "probe": true });
        let answer = if account {
            done(&cloud.controller, &cloud.one, Method::POST, &format!("{NORTH}/paths"), body).await
        } else {
            cloud.controller.operator(Method::POST, "/admin/v1/paths", body).await
        };
        answer["path"].clone()
    };
    let back = |received, path_mtu| ProbeAnswer {
        sent: 3,
        received,
        round_trip_min_us: Some(500),
        round_trip_median_us: Some(750),
        expected_mtu: Some(1450),
        path_mtu,
        send_error: "secret".to_owned(),
        ..ProbeAnswer::default()
    };
    *near.comes_back.lock().unwrap() = back(3, Some(1450));
    assert!(cloud.own("10.1.0.5", "10.2.0.5").await["probe"].is_null(), "nobody has asked for one");
    assert!(near.probed.lock().unwrap().is_empty());
    let (seen, all) = (probe("10.2.0.5", true).await, probe("10.2.0.5", false).await);
    for path in [&seen, &all] {
        assert_eq!((&path["reaches"], &path["probe"]["verdict"]), (&json!(true), &json!("ok")), "{path}");
        assert_eq!(path["probe"]["roundTripMs"], json!({ "min": 0.5, "median": 0.75 }));
    }
    assert_eq!((&seen["probe"]["source"], &seen["probe"]["destination"]), (&json!("10.1.0.1"), &Value::Null));
    assert_eq!(all["probe"]["destination"], "10.2.0.1");
    let asked = std::mem::take(&mut *near.probed.lock().unwrap());
    assert_eq!((asked.len(), far.probed.lock().unwrap().len()), (2, 0));
    assert_eq!((asked[0].local.to_string(), asked[0].remote.to_string()), ("10.1.0.1".into(), "10.2.0.1".into()));
    assert_eq!((asked[0].side.is_some(), asked[0].remote_vtep), (true, Some("192.0.2.2".parse().unwrap())));
    // Lost probes stop the path; an account learns no more than that.
    *near.comes_back.lock().unwrap() = back(0, None);
    let (seen, all) = (probe("10.2.0.5", true).await, probe("10.2.0.5", false).await);
    assert_eq!((first(&seen), &seen["reaches"]), (is("probe", "stops", "operator"), &json!(false)));
    assert!(!seen.to_string().contains("secret") && all.to_string().contains("secret"), "{seen}");
    *near.comes_back.lock().unwrap() = back(3, Some(1300));
    // (Provisioning is a step before it.)
    let hole = probe("10.2.0.5", true).await;
    let last = hole["steps"].as_array().and_then(|steps| steps.last()).unwrap();
    assert_eq!((&last["step"], &last["verdict"], &hole["reaches"]), (&json!("probe"), &json!("differs"), &json!(true)));
    // If packets stop already, an account's probe is not sent, whatever stops them.
    far.find("receive", "acceptance", Verdict::Stops);
    near.probed.lock().unwrap().clear();
    let [stopped, unserved] = [probe("10.2.0.5", true).await, probe("10.2.9.9", true).await];
    assert_eq!((&stopped["probe"], near.probed.lock().unwrap().len()), (&unserved["probe"], 0));
    assert!(stopped["probe"]["reason"].as_str().is_some_and(|it| it.contains("packets stop")), "{stopped}");
    assert_eq!(
        (probe("10.2.0.5", false).await["probe"]["sent"].clone(), near.probed.lock().unwrap().len()),
        (json!(3), 1)
    );
    far.wrong.lock().unwrap().clear();
    // Without the gateway, there is nothing to probe.
    let path = format!("/v1/regions/east/vpcPeerings/{id}:modifyVpcPeeringPrefixes");
    let lists = json!({ "exportPrefixes": ["10.2.0.4/30"] });
    done(&cloud.controller, &cloud.two, Method::PUT, &path, lists).await;
    near.probed.lock().unwrap().clear();
    let path = probe("10.2.0.5", true).await;
    assert_eq!((&path["reaches"], &path["probe"]["verdict"]), (&json!(true), &json!("unknown")), "{path}");
    assert!(
        near.probed.lock().unwrap().is_empty()
            && path["probe"]["reason"].as_str().is_some_and(|it| it.contains("gateway"))
    );
}

/// Step, verdict and `fixableBy` of the first wrong one.
fn first(path: &Value) -> (String, String, String) {
    let place = path["firstWrong"].as_u64().unwrap_or_else(|| panic!("nothing is wrong: {path}"));
    let step = &path["steps"][usize::try_from(place).unwrap()];
    let word = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
    (word("step"), word("verdict"), word("fixableBy"))
}

fn is(step: &str, verdict: &str, mend: &str) -> (String, String, String) {
    (step.to_owned(), verdict.to_owned(), mend.to_owned())
}

#[tokio::test]
async fn problems_in_the_model_are_named_before_any_host_is_asked() {
    let cloud = Cloud::start().await;
    let path = cloud.own("172.16.0.1", "10.2.0.5").await;
    assert_eq!((first(&path), &path["reaches"]), (is("vpc", "stops", "caller"), &json!(false)));
    assert_eq!(first(&cloud.own("10.1.0.5", "10.2.0.5").await), is("peering", "stops", "caller"));
    let id = cloud.peer().await;
    // L11: before acceptance, the initiator does not learn the other's CIDRs.
    let [inside, outside] = [cloud.own("10.1.0.5", "10.2.0.5").await, cloud.own("10.1.0.5", "10.9.0.5").await];
    assert_eq!((first(&inside), first(&outside)), (is("peering", "stops", "caller"), is("peering", "stops", "caller")));
    let without_address = |path: &Value| path["steps"].to_string().replace("10.2.0.5", "X").replace("10.9.0.5", "X");
    assert_eq!(without_address(&inside), without_address(&outside));
    assert!(inside.to_string().contains("one request of this VPC is not answered yet"), "{inside}");
    assert_eq!(first(&cloud.any("10.1.0.5", "10.2.0.5").await), is("peering", "stops", "peer"));
    cloud.accept(&id).await;
    // No port serves it.
    assert_eq!(first(&cloud.own("10.1.0.5", "10.2.9.9").await), is("peerSide", "stops", "peer"));
    assert_eq!(first(&cloud.any("10.1.0.5", "10.2.9.9").await), is("destinationPort", "stops", "operator"));
    // L11: another address of the peer was queried instead, so that time and steps are the same.
    for (agent, local, remote) in [(0, "10.1.0.5", "10.2.0.1"), (1, "10.2.0.1", "10.1.0.5")] {
        let asked = std::mem::take(&mut *cloud.agents[agent].asked.lock().unwrap());
        let asked: Vec<[String; 2]> =
            asked.iter().map(|it| [it.ends.local, it.ends.remote].map(|it| it.to_string())).collect();
        assert_eq!(asked, [[local, remote]]);
    }
    // Arrears.
    let charge = |status: &str| json!({ "chargeStatus": status });
    let account = "/admin/v1/accounts/one/chargeStatus";
    cloud.controller.operator(Method::PUT, account, charge("arrear")).await;
    assert_eq!(first(&cloud.own("10.1.0.5", "10.2.0.5").await), is("arrears", "stops", "caller"));
    let back = json!({ "source": "10.2.0.5", "destination": "10.1.0.5" });
    let theirs = done(&cloud.controller, &cloud.two, Method::POST, "/v1/regions/east/paths", back).await;
    assert_eq!(first(&theirs["path"]), is("arrears", "stops", "peer"));
    assert!(!theirs.to_string().contains("arrear,") && !theirs.to_string().contains("in arrear"), "{theirs}");
    cloud.controller.operator(Method::PUT, account, charge("normal")).await;
    // Deleted by the other side.
    done(&cloud.controller, &cloud.two, Method::DELETE, &format!("/v1/regions/east/vpcPeerings/{id}"), Value::Null)
        .await;
    assert_eq!(first(&cloud.own("10.1.0.5", "10.2.0.5").await).0, "peering");
    // The account that deleted it sees it until all hosts have confirmed: also here.
    let body = json!({ "source": "10.2.0.5", "destination": "10.1.0.5" });
    let theirs = done(&cloud.controller, &cloud.two, Method::POST, "/v1/regions/east/paths", body).await;
    assert!(theirs.to_string().contains("it was deleted, and is being taken off hosts"), "{theirs}");
}

/// L11: no response shows whether and where the other side has ports.
#[tokio::test]
async fn responses_have_the_same_form_whatever_ports_the_other_side_has() {
    let cloud = Cloud::start().await;
    let id = cloud.peer().await;
    cloud.accept(&id).await;
    // A VPC without any port, and a host that has ports of both.
    let inventory = json!({
        "vpcs": [{ "id": "none", "account": "two", "region": "east", "cidrs": ["10.3.0.0/16"] },
                 { "id": "both", "account": "two", "region": "east", "cidrs": ["10.4.0.0/16"] }],
        "hosts": [{ "id": "h3", "region": "east", "underlay": "192.0.2.3", "agent": cloud.agents[1].listen().await }],
        "ports": [{ "vpc": "both", "host": "h2", "interface": "eth2", "gateways": ["10.4.0.1/24"] },
                  { "vpc": "both", "host": "h3", "interface": "eth1", "gateways": ["10.4.1.1/24"] }],
        "regions": [{ "id": "east" }],
    });
    cloud.controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    for vpc in ["none", "both"] {
        let body = json!({ "vpcPeeringName": vpc, "vpcId": "a", "remoteVpcId": vpc, "remoteRegionId": "east", "remoteAccountId": "two",
            "bandwidth": 10 });
        let made = done(&cloud.controller, &cloud.one, Method::POST, &format!("{NORTH}/vpcPeerings/"), body).await;
        cloud.accept(made["vpcPeering"]["vpcPeeringId"].as_str().unwrap()).await;
    }
    let [near, far] = &cloud.agents;
    let shape = |path: &Value| {
        let steps = path["steps"].as_array().unwrap().iter();
        let fields = ["step", "direction", "side", "verdict", "reason", "fixableBy", "observed"];
        // While provisioning, the number of missing hosts is shown, which depends on these agents.
        let steps = steps.filter(|step| step["step"] != "peering");
        let steps: Vec<Value> = steps.map(|step| json!(fields.map(|field| step[field].clone()))).collect();
        (steps, path["reaches"].clone())
    };
    // Problems of the account's own side are shown in each case.
    for check in ["", "port"] {
        near.wrong.lock().unwrap().clear();
        if !check.is_empty() {
            near.find("send", check, Verdict::Differs);
        }
        far.find("receive", "acceptance", Verdict::Stops);
        let stopped = shape(&cloud.own("10.1.0.5", "10.2.0.5").await);
        far.wrong.lock().unwrap().clear();
        assert!(stopped.0.iter().any(|step| step[0] == "peerSide" && step[3] == "stops"), "{stopped:?}");
        for destination in ["10.2.9.9", "10.3.0.5", "10.4.9.9"] {
            assert_eq!(shape(&cloud.own("10.1.0.5", destination).await), stopped, "{check}: {destination}");
        }
    }
    // A host's problems with its own gateway are none on the way to the peer.
    near.find("send", "route", Verdict::Stops);
    let path = cloud.own("10.1.0.5", "10.3.0.5").await;
    assert_eq!(first(&path), is("peerSide", "stops", "peer"), "{path}");
}

/// C9: prefixes that the lists of either side exclude are named before any host is asked, and what the other does not export is not disclosed.
#[tokio::test]
async fn a_path_that_prefix_lists_exclude_is_named_with_the_side() {
    let cloud = Cloud::start().await;
    let id = cloud.peer().await;
    cloud.accept(&id).await;
    let set = async |side: usize, lists: Value| {
        let (token, region) = [(&cloud.one, "north"), (&cloud.two, "east")][side];
        let path = format!("/v1/regions/{region}/vpcPeerings/{id}:modifyVpcPeeringPrefixes");
        done(&cloud.controller, token, Method::PUT, &path, lists).await;
    };
    let asked = || cloud.agents.iter().map(|agent| agent.asked.lock().unwrap().len()).sum::<usize>();
    let all = json!({ "exportPrefixes": [], "importPrefixes": [] });
    for (side, lists, own, any) in [
        (0, json!({ "exportPrefixes": ["10.1.0.128/25"] }), ["routePolicy", "caller"], ["routePolicy", "caller"]),
        (1, json!({ "importPrefixes": ["10.1.0.128/25"] }), ["routePolicy", "peer"], ["routePolicy", "peer"]),
        (0, json!({ "importPrefixes": ["10.2.0.128/25"] }), ["routePolicy", "caller"], ["routePolicy", "caller"]),
        // L11: as if the other side had no such address at all.
        (1, json!({ "exportPrefixes": ["10.2.0.128/25"] }), ["peering", "caller"], ["routePolicy", "peer"]),
    ] {
        set(side, lists.clone()).await;
        let paths = [cloud.own("10.1.0.5", "10.2.0.5").await, cloud.any("10.1.0.5", "10.2.0.5").await];
        for (path, [step, by]) in paths.iter().zip([own, any]) {
            assert_eq!((first(path), &path["reaches"]), (is(step, "stops", by), &json!(false)), "{lists}");
        }
        set(side, all.clone()).await;
    }
    assert_eq!(asked(), 0);
    set(1, json!({ "exportPrefixes": ["10.2.0.0/25"] })).await;
    let path = cloud.own("10.1.0.5", "10.2.0.5").await;
    assert!(path.to_string().contains("10.2.0.0/25 over"), "{path}");
    assert_eq!(asked(), 2);
}

#[tokio::test]
async fn an_account_sees_its_own_side_and_of_the_other_only_whether_it_stops() {
    let cloud = Cloud::start().await;
    let id = cloud.peer().await;
    cloud.accept(&id).await;
    let [near, far] = &cloud.agents;
    for (agent, direction, check, verdict, own, any) in [
        (near, "send", "fdb", Verdict::Stops, is("fdb", "stops", "operator"), is("fdb", "stops", "operator")),
        (
            near,
            "receive",
            "destination",
            Verdict::Stops,
            is("destination", "stops", "caller"),
            is("destination", "stops", "caller"),
        ),
        (near, "send", "aura", Verdict::Unknown, is("other", "unknown", "operator"), is("aura", "unknown", "operator")),
        (
            far,
            "receive",
            "acceptance",
            Verdict::Stops,
            is("peerSide", "stops", "peer"),
            is("acceptance", "stops", "operator"),
        ),
        (far, "send", "route", Verdict::Stops, is("peerSide", "stops", "peer"), is("route", "stops", "operator")),
        (far, "send", "route", Verdict::Unknown, is("peerSide", "unknown", "peer"), is("route", "unknown", "operator")),
    ] {
        agent.find(direction, check, verdict);
        let (seen, all) = (cloud.own("10.1.0.5", "10.2.0.5").await, cloud.any("10.1.0.5", "10.2.0.5").await);
        // Provisioning counts for less than a step that stops.
        assert_eq!((first(&seen), first(&all)), (own, any), "{check}: {seen}");
        // Its id is any letters and digits.
        let text = seen.to_string().replace(&*id, "");
        for secret in ["secret", "4242", "cpsvrf", "192.0.2", "h1", "h2", "\"host\":\""] {
            assert!(!text.contains(secret) || (secret == "secret" && check == "destination"), "{secret}: {text}");
        }
        assert!(all.to_string().contains("secret-nic") && all.to_string().contains("\"host\":\"h1\""), "{all}");
        agent.wrong.lock().unwrap().clear();
    }
    let asked = near.asked.lock().unwrap().first().cloned().unwrap();
    assert_eq!((asked.ends.local.to_string(), asked.ends.remote.to_string()), ("10.1.0.5".into(), "10.2.0.5".into()));
    assert!(asked.ends.side.is_some() && asked.ends.remote_vtep == Some("192.0.2.2".parse().unwrap()));
    let asked = far.asked.lock().unwrap().first().cloned().unwrap();
    assert_eq!(
        (asked.ends.local.to_string(), asked.ends.remote_vtep),
        ("10.2.0.5".into(), Some("192.0.2.1".parse().unwrap()))
    );
}

#[tokio::test]
async fn an_invalid_query_is_refused_with_the_field_and_the_rule() {
    let cloud = Cloud::start().await;
    for (body, field) in [
        (json!({ "source": "10.1.0.5", "destination": "nowhere" }), "destination"),
        (json!({ "source": "10.1.0.5", "destination": "fd00::1" }), "destination"),
        (json!({ "source": "10.1.0.5/24", "destination": "10.2.0.5" }), "source"),
        (json!({ "source": "0.0.0.0", "destination": "10.2.0.5" }), "source"),
        (json!({ "source": "10.1.0.5", "destination": "224.0.0.1" }), "destination"),
        (json!({ "source": "fe80::1", "destination": "fd00::1" }), "source"),
        (json!({ "source": "::ffff:10.1.0.5", "destination": "fd00::1" }), "source"),
        (json!({ "source": "10.1.0.5", "destination": "10.2.0.5", "protocol": "sctp" }), "protocol"),
        (json!({ "source": "10.1.0.5", "destination": "10.2.0.5", "port": 7 }), "port"),
        (json!({ "source": "10.1.0.5", "destination": "10.2.0.5", "protocol": "tcp", "port": 65536 }), "port"),
        (json!({ "source": "10.1.9.9", "destination": "10.2.0.5" }), "vpcId"),
    ] {
        let (code, answer) = call(&cloud.controller, &cloud.one, Method::POST, &format!("{NORTH}/paths"), body).await;
        assert_eq!((code, &answer["details"][0]["entry"]), (400, &json!(field)), "{answer}");
    }
    let (code, _) = call(&cloud.controller, &cloud.one, Method::POST, "/admin/v1/paths", json!({})).await;
    assert_eq!(code, 403);
    // Another account's VPC looks nonexistent.
    let body = json!({ "source": "10.2.0.5", "destination": "10.1.0.5", "vpcId": "b" });
    let path = done(&cloud.controller, &cloud.one, Method::POST, &format!("{NORTH}/paths"), body).await;
    assert_eq!(first(&path["path"]).0, "vpc");
}

#[tokio::test]
async fn a_host_that_cannot_be_asked_is_a_step_that_says_so() {
    let cloud = Cloud::start().await;
    let id = cloud.peer().await;
    cloud.accept(&id).await;
    // An agent of an earlier version, and one that is gone.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy = format!("http://{}", listener.local_addr().unwrap());
    let refuse = || async { (axum::http::StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "message": "busy" }))) };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/trace", post(refuse))).await });
    for (agent, said) in [
        (old.as_str(), "upgrade it"),
        (busy.as_str(), "refuses to answer: 503 Service Unavailable: busy"),
        ("http://127.0.0.1:9", "does not answer"),
    ] {
        let inventory = json!({ "regions": [{ "id": "north" }, { "id": "east" }],
            "hosts": [{ "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": agent }] });
        cloud.controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
        let (seen, all) = (cloud.own("10.1.0.5", "10.2.0.5").await, cloud.any("10.1.0.5", "10.2.0.5").await);
        assert_eq!((first(&seen), &seen["reaches"]), (is("host", "unknown", "operator"), &Value::Null));
        assert_eq!(first(&all), is("host", "unknown", "operator"));
        assert!(all.to_string().contains(said), "{all}");
        assert!(!seen.to_string().contains("127.0.0.1"), "{seen}");
    }
}

#[tokio::test]
async fn an_account_has_two_queries_at_a_time_and_no_host_blocks_it() {
    let cloud = Cloud::start().await;
    let id = cloud.peer().await;
    cloud.accept(&id).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let never = move || {
        *count.lock().unwrap() += 1;
        std::future::pending::<()>()
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/trace", post(never))).await });
    let inventory = json!({ "regions": [{ "id": "north" }, { "id": "east" }],
        "hosts": [{ "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": silent }] });
    cloud.controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    let third = async {
        crate::running::until("two are waiting", async || *asked.lock().unwrap() == 2).await;
        let body = json!({ "source": "10.1.0.5", "destination": "10.2.0.5" });
        let (code, _) = call(&cloud.controller, &cloud.one, Method::POST, &format!("{NORTH}/paths"), body).await;
        // Other accounts can still query.
        let back = json!({ "source": "10.2.0.5", "destination": "10.1.0.5" });
        let (other, _) = call(&cloud.controller, &cloud.two, Method::POST, "/v1/regions/east/paths", back).await;
        [code, other]
    };
    let (first_one, second, codes) =
        tokio::join!(cloud.own("10.1.0.5", "10.2.0.5"), cloud.own("10.1.0.5", "10.2.0.5"), third);
    for path in [first_one, second] {
        assert_eq!((first(&path), &path["reaches"]), (is("host", "unknown", "operator"), &Value::Null));
    }
    assert!((400..=503).contains(&codes[0]) && codes[1] == 200, "{codes:?}");
}
