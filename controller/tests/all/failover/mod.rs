//! Several real controllers on real members of etcd: whichever of them is killed, stopped or cut off, acknowledged commands are
//! kept, one leads, and the others forward requests to it.

mod followers;

use crate::etcd::Members;
use crate::fleet::{Fleet, Node, PATIENCE, TOKEN, ask, region, run, until};
use crate::proxy::{Mode, Proxy};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode as Code,
    routing::{get, put},
};
use cps_peering_config::agent_api::{CONFIG_PATH, STATUS_PATH};
use nix::sys::signal::Signal;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// What hosts' agents have seen: every push, accepted or not.
#[derive(Default)]
struct Seen {
    have: Option<(u64, u64)>,
    config: Option<Value>,
    epochs: Vec<u64>,
    refused: usize,
    /// Whether it answers pushes with an error.
    failing: bool,
}

type Shared = Arc<Mutex<Seen>>;

async fn agent() -> (Shared, SocketAddr) {
    let shared = Shared::default();
    let revision =
        |value: &Value| (value["revision"]["epoch"].as_u64().unwrap(), value["revision"]["number"].as_u64().unwrap());
    let push = async move |State(seen): State<Shared>, Json(said): Json<Value>| {
        let mut seen = seen.lock().unwrap();
        seen.epochs.push(revision(&said).0);
        if seen.failing {
            return (Code::INTERNAL_SERVER_ERROR, Json(json!({ "message": "not now" })));
        }
        // A patch is refused as if its base were missing; then the whole configuration comes.
        let whole = said.get("host").is_some();
        if !whole || seen.have.is_some_and(|have| have > revision(&said)) {
            seen.refused += usize::from(whole);
            let desired = seen.config.as_ref().map(|config| config["revision"].clone());
            return (Code::CONFLICT, Json(json!({ "message": "no", "desired": desired })));
        }
        seen.have = Some(revision(&said));
        seen.config = Some(said);
        (Code::OK, Json(report(&seen)))
    };
    let status = async |State(seen): State<Shared>| Json(report(&seen.lock().unwrap()));
    let router = Router::new()
        .route(CONFIG_PATH, put(push).patch(push))
        .route(STATUS_PATH, get(status))
        .with_state(Arc::clone(&shared));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (shared, address)
}

fn report(seen: &Seen) -> Value {
    let revision = seen.config.as_ref().map(|config| config["revision"].clone());
    json!({
        "version": "test", "host": "h1", "desired": revision, "applied": revision, "problems": [],
        "counters": cps_peering_config::report::Counters::default(), "last_pass": null, "behind": [], "vrfs": {}, "sides": {},
    })
}

fn host(agent: SocketAddr) -> Value {
    json!({
        "regions": [{ "id": "north" }],
        "hosts": [{ "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": format!("http://{agent}") }],
    })
}

fn urls(members: &Members) -> Vec<String> {
    (0..3).map(|number| members.url(number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_command_is_lost_when_leaders_are_killed() {
    const ROUNDS: usize = 3;
    let members = Members::start(3);
    let mut fleet = Fleet::start(3, |_| urls(&members));
    let (agent, address) = agent().await;
    fleet.apply(&host(address), &[]).await;
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for round in 0..ROUNDS {
        let leader = fleet.leader(&[]).await;
        let mut workers = JoinSet::new();
        for number in 0..3 {
            // Also through followers.
            let (client, url, answered) =
                (fleet.client.clone(), fleet.nodes[number].url.clone(), Arc::clone(&answered));
            workers.spawn(async move {
                for turn in 0.. {
                    let id = format!("r{round}-{number}-{turn}");
                    match ask(&client, &url, Method::POST, "/admin/v1/apply", Some(&region(&id))).await {
                        Some((StatusCode::OK, _)) => drop(answered.lock().unwrap().insert(id)),
                        // Large documents, too: a commit of many parts is complete or absent.
                        _ => break,
                    }
                }
            });
        }
        let before = answered.lock().unwrap().len();
        until("answers", || answered.lock().unwrap().len() > before + 20).await;
        let large: Vec<Value> = (0..2000).map(|number| json!({ "id": format!("large{round}-{number}") })).collect();
        let (client, url) = (fleet.client.clone(), fleet.nodes[leader].url.clone());
        let large = json!({ "regions": large });
        let large =
            tokio::spawn(async move { ask(&client, &url, Method::POST, "/admin/v1/apply", Some(&large)).await });
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..150_000))).await;
        let killed = Instant::now();
        fleet.nodes[leader].kill();
        fleet.apply(&region(format!("after{round}")), &[leader]).await;
        println!(
            "round {round}: {} ms from SIGKILL to the first commit of the next leader",
            killed.elapsed().as_millis()
        );
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
        let next = fleet.leader(&[leader]).await;
        let there = fleet.regions(next).await;
        for id in &*answered.lock().unwrap() {
            assert!(there.contains(id), "{id} was answered and is lost");
        }
        let parts = there.iter().filter(|id| id.starts_with(&format!("large{round}-"))).count();
        let answered_large = matches!(large.await.unwrap(), Some((StatusCode::OK, _)));
        assert!(parts == 2000 || (parts == 0 && !answered_large), "{parts} of 2000, answered: {answered_large}");
        println!("round {round}: the large commit was {}", if parts == 0 { "not done" } else { "done" });
        fleet.nodes[leader].start();
        fleet.until_follower(leader).await;
    }
    let epochs = agent.lock().unwrap().epochs.clone();
    assert!(epochs.is_sorted(), "no epoch comes after a later one: {epochs:?}");
    // One that is told to stop lets the next one lead without waiting for its lease.
    let leader = fleet.leader(&[]).await;
    fleet.nodes[leader].signal(Signal::SIGTERM);
    assert!(fleet.nodes[leader].process.as_mut().unwrap().wait().unwrap().success());
    let told = members.control(&["get", "/cps-peering/leader"]);
    assert!(!told.contains(&fleet.nodes[leader].url), "{told}");
    assert_ne!(fleet.leader(&[leader]).await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_leader_is_noticed_before_its_lease_expires() {
    let members = Members::start(1);
    cps_peering_http::tls::use_ring();
    // Far longer than anyone waits here.
    let lease = "lease_s = 60";
    let nodes = (0..2).map(|_| Node::with(&[members.url(0)], "tls = 'off'", lease)).collect();
    let mut fleet = Fleet { nodes, client: Client::builder().timeout(Duration::from_secs(20)).build().unwrap() };
    fleet.apply(&region("before"), &[]).await;
    let first = fleet.leader(&[]).await;
    fleet.until_follower(1 - first).await;
    until("a connection", || fleet.nodes[1 - first].log().contains("follows http")).await;
    fleet.nodes[first].kill();
    assert_eq!(fleet.leader(&[first]).await, 1 - first);
    fleet.apply(&region("after"), &[first]).await;
    // A single controller recognises its own lease after a restart.
    fleet.nodes[1 - first].kill();
    fleet.nodes[1 - first].start();
    assert_eq!(fleet.leader(&[first]).await, 1 - first);
    fleet.apply(&region("again"), &[first]).await;
    assert_eq!(fleet.regions(1 - first).await, ["after", "again", "before"].map(str::to_owned).into());
    // The other one follows, and leaves it its lease.
    fleet.nodes[first].start();
    fleet.until_follower(first).await;
    assert_eq!(fleet.says(1 - first).await, "ok leader\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_suspended_too_long_neither_answers_nor_pushes() {
    let members = Members::start(3);
    let fleet = Fleet::start(2, |_| urls(&members));
    let (agent, address) = agent().await;
    fleet.apply(&host(address), &[]).await;
    until("the push", || agent.lock().unwrap().have.is_some()).await;
    let old = fleet.leader(&[]).await;
    let old_epoch = agent.lock().unwrap().have.unwrap().0;
    // It has something to push, again and again.
    agent.lock().unwrap().failing = true;
    let more = json!({
        "regions": [{ "id": "north" }],
        "vpcs": [{ "id": "v1", "account": "acme", "region": "north", "cidrs": ["10.1.0.0/16"] }],
        "ports": [{ "host": "h1", "interface": "eth1", "vpc": "v1", "gateways": ["10.1.0.1/24"] }],
    });
    let before = agent.lock().unwrap().epochs.len();
    fleet.apply(&more, &[]).await;
    until("an attempt", || agent.lock().unwrap().epochs.len() > before).await;

    fleet.nodes[old].signal(Signal::SIGSTOP);
    let new = fleet.leader(&[old]).await;
    fleet.apply(&region("after"), &[old]).await;
    // They wait in the kernel for the suspended one.
    let mut asked = JoinSet::new();
    for number in 0..8 {
        let (client, url) = (fleet.client.clone(), fleet.nodes[old].url.clone());
        asked.spawn(async move {
            let path = if number % 2 == 0 { "/admin/v1/apply" } else { "/admin/v1/inventory" };
            let method = if number % 2 == 0 { Method::POST } else { Method::GET };
            let body = (number % 2 == 0).then(|| region(format!("late{number}")));
            let answer = ask(&client, &url, method, path, body.as_ref()).await;
            (number, answer)
        });
    }
    until("the new epoch", || agent.lock().unwrap().epochs.last().is_some_and(|epoch| *epoch > old_epoch)).await;
    let slept = agent.lock().unwrap().epochs.len();
    fleet.nodes[old].signal(Signal::SIGCONT);
    while let Some(answered) = asked.join_next().await {
        let (number, answer) = answered.unwrap();
        // Answered by the new one, through the old one, which follows by now; or not at all.
        if let Some((StatusCode::OK, answer)) = answer {
            let there = fleet.regions(new).await;
            assert!(number % 2 != 0 || there.contains(&format!("late{number}")), "{answer}");
            if number % 2 != 0 {
                assert!(answer.to_string().contains("\"after\""), "an old answer: {answer}");
            }
        }
    }
    fleet.until_follower(old).await;
    assert!(fleet.nodes[old].log().contains("restarting as a follower"), "{}", fleet.nodes[old].log());
    agent.lock().unwrap().failing = false;
    until("the push", || agent.lock().unwrap().have.is_some_and(|have| have.0 > old_epoch)).await;
    let epochs = agent.lock().unwrap().epochs[slept..].to_vec();
    assert!(epochs.iter().all(|epoch| *epoch > old_epoch), "{epochs:?}: it pushes no more");
    // A late push of the old one would be refused.
    let put = |epoch| {
        let config = agent.lock().unwrap().config.clone().unwrap();
        let config = json!({ "revision": { "epoch": epoch, "number": 1_u64 << 40 }, "host": config["host"] });
        fleet.client.put(format!("http://{address}{CONFIG_PATH}")).json(&config).send()
    };
    assert_eq!(put(old_epoch).await.unwrap().status(), StatusCode::CONFLICT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_from_etcd_loses_leadership() {
    let members = Members::start(3);
    let proxies: Vec<Vec<Proxy>> =
        (0..2).map(|_| (0..3).map(|member| Proxy::start(members.address(member))).collect()).collect();
    let endpoints = |number: usize| proxies[number].iter().map(|proxy| format!("http://{}", proxy.address)).collect();
    let fleet = Fleet::start(2, endpoints);
    fleet.apply(&region("before"), &[]).await;
    let old = fleet.leader(&[]).await;
    for proxy in &proxies[old] {
        proxy.set(Mode::Cut);
    }
    let new = fleet.leader(&[old]).await;
    assert_ne!(new, old);
    fleet.until_follower(old).await;
    let (status, answer) = fleet.ask(old, Method::POST, "/admin/v1/apply", Some(&region("lost"))).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer["error"]["status"], "UNAVAILABLE", "{answer}");
    fleet.apply(&region("after"), &[old]).await;
    for proxy in &proxies[old] {
        proxy.set(Mode::Pass);
    }
    // It forwards requests as soon as it knows the leader.
    assert_eq!(fleet.regions(old).await, ["after", "before"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_etcd_can_be_lost() {
    let mut members = Members::start(3);
    let fleet = Fleet::start(2, |_| urls(&members));
    for lost in 0..3 {
        fleet.apply(&region(format!("before{lost}")), &[]).await;
        // One that does not answer is worse than one that is gone.
        if lost == 2 {
            members.signal(lost, Signal::SIGSTOP);
        } else {
            members.kill(lost);
        }
        fleet.apply(&region(format!("after{lost}")), &[]).await;
        assert!(fleet.regions(0).await.contains(&format!("after{lost}")));
        if lost == 2 {
            members.signal(lost, Signal::SIGCONT);
        } else {
            members.restart(lost);
        }
    }
    assert_eq!(fleet.regions(1).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_moved_from_a_file_to_etcd_and_back() {
    let members = Members::start(1);
    let mut fleet = Fleet::start(1, |_| vec![members.url(0)]);
    fleet.apply(&region("north"), &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = |name: &str, store: &Path| {
        let file = folder.path().join(name);
        let token = fleet.nodes[0].folder.path().join("token");
        let (store, token) = (store.display(), token.display());
        let text = format!("tls = 'off'\nlisten = '127.0.0.1:0'\nstore = '{store}'\noperator_token_file = '{token}'\n");
        fs::write(&file, text).unwrap();
        file
    };
    let path = folder.path().join("store.redb");
    let file = settings("file.toml", &path);
    let shared = fleet.nodes[0].folder.path().join("controller.toml");
    let mv = |to: &Path, from: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
        run(command.arg("--settings").arg(to).args(["move-store", "--from"]).arg(from).args(more))
    };
    let (done, told) = mv(&file, &shared, &[]);
    assert!(!done && told.contains("is a controller running already?"), "{told}");
    let copy = folder.path().join("copy");
    let (done, told) = run(fleet.nodes[0].command().args(["backup", copy.to_str().unwrap()]));
    assert!(done && told.contains("holds revision 1."), "also while one runs: {told}");
    let (status, answer) = fleet.ask(0, Method::POST, "/admin/v1/backups", None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(Path::new(answer["result"]["file"].as_str().unwrap()).exists());

    fleet.nodes[0].kill();
    let (done, told) = mv(&file, &shared, &[]);
    assert!(done && told.contains("revision 2."), "{told}");
    let (done, told) = run(&mut fleet.nodes[0].command());
    assert!(!done && told.contains("was moved to") && told.contains(&*path.display().to_string()), "{told}");
    let (done, told) = mv(&file, &shared, &["--force"]);
    assert!(!done && told.contains("was moved to"), "what happened since is elsewhere: {told}");
    let (done, told) = mv(&shared, &file, &[]);
    assert!(!done && told.contains("--force"), "{told}");
    let (done, told) = mv(&shared, &file, &["--force"]);
    assert!(done && told.contains("revision 3.") && told.contains("is kept as"), "{told}");
    let mut embedded = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
    let (done, told) = run(embedded.arg("--settings").arg(&file));
    assert!(!done && told.contains("was moved to") && told.contains("in etcd at"), "{told}");
    let (done, told) = mv(&shared, &shared, &[]);
    assert!(!done && told.contains("the same store"), "{told}");
    let (done, told) = run(fleet.nodes[0].command().args(["restore", copy.to_str().unwrap()]));
    assert!(done && told.contains("revision 4."), "{told}");
    fleet.nodes[0].start();
    assert_eq!(fleet.regions(0).await, ["north".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_used_over_tls_with_authentication() {
    let folder = tempfile::tempdir().unwrap();
    followers::certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let [ca, cert, key] = ["ca.pem", "controller.pem", "controller.key"].map(file);
    let own = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let members = Members::start_with(1, &own);
    let [cert, key] = ["operator.pem", "operator.key"].map(file);
    let stranger = format!("tls = {{ ca = '{ca}' }}");
    let known = format!("tls = {{ ca = '{ca}', cert = '{cert}', key = '{key}' }}");
    cps_peering_http::tls::use_ring();
    let mut fleet = Fleet { nodes: Vec::new(), client: Client::builder().timeout(PATIENCE).build().unwrap() };
    fleet.nodes = [stranger, known].iter().map(|it| Node::with(&[members.url(0)], "tls = 'off'", it)).collect();
    fleet.apply(&region("north"), &[0]).await;
    assert_eq!(fleet.leader(&[]).await, 1);
    fleet.until_follower(0).await;
    until("why not", || fleet.nodes[0].log().contains("the leader is unknown")).await;
}
