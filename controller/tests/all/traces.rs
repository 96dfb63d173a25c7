//! Traces from a call of the API to the kernels of hosts: a controller as it runs for operators, agents on kernels in memory, and a collector
//! that reads what arrives.

use crate::{
    loopback,
    running::{Controller, Place, TOKEN, call, done, until},
};
use axum::{Json, Router, extract::State, routing::post};
use cps_peering_agent::{
    api,
    kernel::memory::Memory,
    ledger::Ledger,
    objects::LinkKind,
    reconcile::{self, Options, PersistentState},
    shares::SharesFile,
};
use cps_peering_otlp::{Exporter, Recorder};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The span of the caller.
const CALLER: &str = "00f067aa0ba902b7";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The parent span in a request.
fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

type Requests = Arc<Mutex<Vec<Value>>>;

/// A span as it arrived, with the service that sent it.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    span: Value,
}

impl Span {
    fn text(&self, field: &str) -> &str {
        self.span[field].as_str().unwrap_or_default()
    }

    fn attribute(&self, key: &str) -> &str {
        let all = self.span["attributes"].as_array().unwrap();
        let found = all.iter().find(|it| it["key"] == key);
        found.and_then(|it| it["value"].as_object()?.values().next()?.as_str()).unwrap_or_default()
    }

    /// A name that no other span of its trace has.
    fn key(&self) -> String {
        format!("{} {}", self.text("name"), self.attribute("cps.host")).trim().to_owned()
    }
}

/// A collector.
struct Collector {
    url: String,
    requests: Requests,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Requests::default();
        let take = async |State(requests): State<Requests>, Json(body): Json<Value>| {
            requests.lock().unwrap().push(body);
            "{}"
        };
        let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&requests));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, requests }
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for request in &*self.requests.lock().unwrap() {
            let of = &request["resourceSpans"][0];
            let service = of["resource"]["attributes"][0]["value"]["stringValue"].as_str().unwrap();
            let all = of["scopeSpans"][0]["spans"].as_array().unwrap();
            spans.extend(all.iter().map(|span| Span { service: service.to_owned(), span: span.clone() }));
        }
        spans
    }

    fn settings(&self, ratio: &str) -> String {
        format!("[tracing]\notlp_endpoint = '{}'\nsample_ratio = {ratio}\n", self.url)
    }
}

/// An agent on a kernel in memory that sends its spans to a collector.
struct Agent {
    address: SocketAddr,
    recorder: Recorder,
    _folder: TempDir,
}

impl Agent {
    async fn start(number: u32, collector: &Collector) -> Self {
        let (kernel, folder) = (Memory::new(), tempfile::tempdir().unwrap());
        kernel.state().add_link("eth0", LinkKind::Other);
        kernel.state().add_link("tenant", LinkKind::Other);
        kernel.state().add_foreign_address("eth0", &format!("192.0.2.{number}/24"));
        let options = Options { vxlan_port: 4789, underlay_mtu: None, resync: Duration::from_hours(1) };
        let reconciler = reconcile::start_with(kernel, options, PersistentState::default()).unwrap();
        let tracing = toml::from_str(&format!("otlp_endpoint = '{}'", collector.url)).unwrap();
        let (recorder, exporter) = Exporter::new(&tracing, "cps-peering-agent", "test");
        tokio::spawn(exporter.unwrap().run());
        let ledger = Ledger::new(folder.path().join("ledger"));
        let shares = SharesFile::beside(&folder.path().join("ledger"));
        let routes = api::router(None, ledger, shares, reconciler, recorder.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, recorder, _folder: folder }
    }
}

/// Two hosts, each with a port of a VPC of its own, all in sync.
async fn cloud(settings: &str, collector: &Collector) -> (Controller, [Agent; 2]) {
    let place = Place::new();
    place.settings(&format!("poll_s = 1\n{settings}"));
    let controller = place.start().await;
    let agents = [Agent::start(1, collector).await, Agent::start(2, collector).await];
    controller.account("acme").await;
    let of = |make: &dyn Fn(usize) -> Value| (1..=2).map(make).collect::<Vec<_>>();
    let inventory = json!({
        "regions": [{ "id": "north" }],
        "hosts": of(&|n| json!({ "id": format!("h{n}"), "region": "north", "underlay": format!("192.0.2.{n}"),
            "agent": format!("http://{}", agents[n - 1].address) })),
        "vpcs": of(&|n| json!({ "id": format!("v{n}"), "account": "acme", "region": "north", "cidrs": [format!("10.{n}.0.0/16")] })),
        "ports": of(&|n| json!({ "vpc": format!("v{n}"), "host": format!("h{n}"), "interface": "tenant",
            "gateways": [format!("10.{n}.0.1/24")] })),
    });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    until("all hosts are in sync", async || {
        let hosts = controller.operator(Method::GET, "/admin/v1/hosts", Value::Null).await;
        hosts["hosts"].as_array().unwrap().iter().all(|host| host["inSync"] == true)
    })
    .await;
    (controller, agents)
}

/// Peers the VPCs, in a request with a parent span.
async fn peer(controller: &Controller, traceparent: &str) {
    let body = json!({ "vpcPeeringName": "p", "vpcId": "v1", "remoteVpcId": "v2" });
    let request = controller.ask(Method::POST, "/admin/v1/peerings").bearer_auth(TOKEN).body(body.to_string());
    let answer = request.header("traceparent", traceparent).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    until("it is active", async || {
        let shown = controller.operator(Method::GET, "/admin/v1/peerings/p", Value::Null).await;
        shown["vpcPeering"]["state"] == "active"
    })
    .await;
}

/// Rule V7.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_one_trace_from_the_call_to_the_kernels() {
    let collector = Collector::start().await;
    let (controller, agents) = cloud(&collector.settings("0"), &collector).await;
    peer(&controller, &traceparent("01")).await;
    until("both kernels are known to have it", async || {
        let confirmed = collector.spans().iter().filter(|it| it.text("name") == "kernel confirmed").count();
        confirmed == 2
    })
    .await;
    let log = controller.log();
    for agent in &agents {
        agent.recorder.flush(Duration::from_secs(20)).await;
    }
    // The remaining spans are exported at shutdown.
    controller.stop();
    let spans = collector.spans();
    assert!(spans.iter().all(|it| it.text("traceId") == TRACE), "nothing else is recorded: {spans:#?}");
    let names: BTreeMap<&str, String> = spans.iter().map(|it| (it.text("spanId"), it.key())).collect();
    assert_eq!(names.len(), spans.len(), "each has an id of its own");
    let parent = |of: &Span| match of.text("parentSpanId") {
        CALLER => "caller".to_owned(),
        id => names.get(id).unwrap_or_else(|| panic!("nobody is the parent of {of:#?}")).clone(),
    };
    let mut tree: Vec<String> = spans.iter().map(|it| format!("{} > {}", parent(it), it.key())).collect();
    tree.sort();
    // How a change is sent, and how often a kernel is observed, is up to the daemons.
    tree.dedup();
    let mut expected = vec![
        "caller > POST /admin/v1/peerings".to_owned(),
        "POST /admin/v1/peerings > command".to_owned(),
        "command > plan".to_owned(),
        "command > store".to_owned(),
    ];
    for host in ["h1", "h2"] {
        let answer = format!("PATCH /v1/config {host}");
        expected.extend([
            format!("command > push {host}"),
            format!("push {host} > {answer}"),
            format!("{answer} > intake"),
            format!("{answer} > ledger"),
            format!("{answer} > kernel"),
            format!("command > kernel confirmed {host}"),
        ]);
    }
    expected.sort();
    assert_eq!(tree, expected);
    for span in &spans {
        let name = span.text("name");
        let of_agent = ["PATCH /v1/config", "intake", "ledger", "kernel"].contains(&name);
        assert_eq!(span.service == "cps-peering-agent", of_agent, "{span:#?}");
        assert!(span.span.get("status").is_none(), "nothing has failed: {span:#?}");
    }
    let the = |name: &str| spans.iter().find(|it| it.text("name") == name).unwrap();
    let request = the("POST /admin/v1/peerings");
    assert_eq!(request.attribute("http.response.status_code"), "200");
    assert_eq!(request.attribute("http.route"), "/admin/v1/peerings");
    let id = request.attribute("cps.request_id");
    assert!(log.lines().any(|it| it.contains(id) && it.contains(&format!("trace_id=\"{TRACE}\""))), "{log}");
    let command = the("command");
    assert_eq!((command.attribute("cps.command"), command.attribute("cps.hosts")), ("CreatePeering", "2"));
    assert_eq!(the("push").attribute("http.request.method"), "PATCH");
    let sent = format!("{:?}", collector.requests.lock().unwrap());
    assert!(!sent.contains(TOKEN), "no secrets");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_without_a_collector() {
    let collector = Collector::start().await;
    let address = loopback::unused();
    // The agents would record what the controller asks them to.
    let (controller, agents) = cloud(&format!("metrics_listen = '{address}'\n"), &collector).await;
    peer(&controller, &traceparent("01")).await;
    for agent in &agents {
        agent.recorder.flush(Duration::from_secs(20)).await;
    }
    let metrics =
        controller.client.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("cps_controller_pushes_total") && !metrics.contains("trace_spans"), "{metrics}");
    controller.stop();
    assert_eq!(collector.requests.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_decide_what_is_recorded_and_accounts_do_not() {
    let collector = Collector::start().await;
    let place = Place::new();
    place.settings(&collector.settings("0"));
    let controller = place.start().await;
    let [_, _, token] = controller.account("acme").await;
    let get = async |token: &str, path: &str, traceparent: &[&str]| {
        let mut request = controller.ask(Method::GET, path).bearer_auth(token);
        for value in traceparent {
            request = request.header("traceparent", *value);
        }
        assert_eq!(request.send().await.unwrap().status(), if token == "wrong" { 401 } else { 200 });
    };
    let legal = traceparent("01");
    for malformed in ["", "00-0", &legal.to_uppercase(), &legal.replacen("00", "ff", 1), &format!("{legal}-x")] {
        get(TOKEN, "/admin/v1/accounts", &[malformed]).await;
    }
    get(TOKEN, "/admin/v1/accounts", &[&legal, &legal]).await;
    get(TOKEN, "/admin/v1/accounts", &[&traceparent("00")]).await;
    for _ in 0..50 {
        get(&token, "/v1/whoami", &[&legal]).await;
    }
    get("wrong", "/v1/whoami", &[&legal]).await;
    get(TOKEN, "/admin/v1/hosts", &[&legal]).await;
    // A method of the client's own is not part of the name.
    let method = Method::from_bytes(&[b'X'; 3000]).unwrap();
    let own = controller.ask(method, "/admin/v1/hosts").bearer_auth(TOKEN).header("traceparent", &legal);
    assert_eq!(own.send().await.unwrap().status(), 405);
    controller.stop();
    let mut names: Vec<String> = collector.spans().iter().map(Span::key).collect();
    names.sort();
    assert_eq!(names, ["GET /admin/v1/hosts", "HTTP /admin/v1/hosts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_delays_nobody() {
    // It accepts connections, as many as the kernel has room for, and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = loopback::unused();
    for (url, fails) in [(dead, true), (silent.local_addr().unwrap(), false)] {
        let (place, metrics) = (Place::new(), loopback::unused());
        place.settings(&format!("metrics_listen = '{metrics}'\n[tracing]\notlp_endpoint = 'http://{url}'\n"));
        let controller = place.start().await;
        controller.operator(Method::POST, "/admin/v1/apply", json!({ "regions": [{ "id": "north" }] })).await;
        let [_, _, token] = controller.account("acme").await;
        for n in 0..20 {
            let body = json!({ "vpcSpec": { "name": "v", "cidr": format!("10.{n}.0.0/16") } });
            done(&controller, &token, Method::PUT, "/v1/regions/north/vpcs", body).await;
        }
        if fails {
            until("they were dropped", async || {
                controller.metric(&metrics.to_string(), "cps_controller_trace_spans_total{outcome=\"failed\"}").await
                    > 0.0
            })
            .await;
            assert_eq!(controller.log().matches("the collector of traces does not take spans").count(), 1);
        }
        // Spans are on their way to the silent one.
        let asked = if fails { None } else { Some(silent.accept().await.unwrap().0) };
        if let Some(asked) = &asked {
            asked.readable().await.unwrap();
        }
        let (code, _) = call(&controller, &token, Method::GET, "/v1/regions/north/vpcs", Value::Null).await;
        assert_eq!(code, 200);
        if asked.is_some() {
            // If anything had waited for the collector, the result would have come first.
            for outcome in ["exported", "failed", "rejected"] {
                let spans = format!("cps_controller_trace_spans_total{{outcome=\"{outcome}\"}}");
                assert!(controller.metric(&metrics.to_string(), &spans).await < 1.0, "{outcome}");
            }
        }
        // It ends in good order, and does not wait for the collector's answer.
        controller.stop();
    }
}

#[test]
fn settings_with_credentials_are_refused_and_not_repeated() {
    let place = Place::new();
    place.settings("[tracing]\notlp_endpoint = 'https://me:hunter2@192.0.2.1:4318'\n");
    let ended = place.run(&[]);
    let log = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(64), "{log}");
    assert!(log.contains("`tracing.otlp_endpoint` holds a user or a password") && !log.contains("hunter2"), "{log}");
}
