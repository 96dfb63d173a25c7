//! Sending to collectors that behave in various ways.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use super::*;
use crate::{context::TraceParent, export::Pace};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::IntoResponse,
    routing::any,
};
use cps_peering_config::{connections::ConnectionSettings, retry::Backoff, settings::TracingSettings, tls::TlsFiles};
use cps_peering_http::{
    Limits, Places, serve,
    tls::{Clients, Identity},
};
use futures_util::stream;
use prometheus_client::{encoding::text::encode, registry::Registry};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value as Json;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// How a collector responds.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Takes,
    TakesAllButTwo,
    Hangs,
    Fails,
    IsBusyAtFirst,
    Redirects,
    TalksNonsense,
    NeverEnds,
}

/// A collector: requests that it received, with their paths.
#[derive(Clone)]
struct Collector {
    manner: Manner,
    requests: Arc<Mutex<Vec<(String, Json)>>>,
    asked: Arc<AtomicUsize>,
}

impl Collector {
    fn new(manner: Manner) -> Self {
        Self { manner, requests: Arc::default(), asked: Arc::default() }
    }

    fn routes(&self) -> Router {
        let answer = async |State(own): State<Self>, request: axum::extract::Request| {
            let path = request.uri().path().to_owned();
            let body: Bytes = axum::body::to_bytes(request.into_body(), 1 << 24).await.unwrap();
            let body = serde_json::from_slice(&body).unwrap();
            let before = own.asked.fetch_add(1, Ordering::SeqCst);
            let take = || own.requests.lock().unwrap().push((path, body));
            match own.manner {
                Manner::Hangs => std::future::pending::<()>().await,
                Manner::Fails => return StatusCode::BAD_REQUEST.into_response(),
                Manner::IsBusyAtFirst if before < 2 => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
                Manner::Redirects => return (StatusCode::TEMPORARY_REDIRECT, [("location", "/other")]).into_response(),
                Manner::TalksNonsense => {
                    take();
                    return "\u{1}}{]".repeat(1 << 20).into_response();
                }
                Manner::TakesAllButTwo => {
                    take();
                    return r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no"}}"#.into_response();
                }
                Manner::NeverEnds => {
                    let drops = stream::unfold((), async |()| {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
                    });
                    return Body::from_stream(drops).into_response();
                }
                Manner::Takes | Manner::IsBusyAtFirst => take(),
            }
            "{}".into_response()
        };
        Router::new().fallback(any(answer)).with_state(self.clone())
    }

    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = self.routes();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}")
    }

    /// All spans that it received.
    fn spans(&self) -> Vec<Json> {
        let requests = self.requests.lock().unwrap();
        let spans = requests
            .iter()
            .flat_map(|(_, body)| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone());
        spans.collect()
    }
}

fn settings(text: &str) -> TracingSettings {
    let settings: TracingSettings = toml::from_str(text).unwrap();
    settings.check().unwrap();
    settings
}

/// A recorder whose exporter has short timeouts.
fn recorder(text: &str) -> Recorder {
    let (recorder, exporter) = Exporter::new(&settings(text), "test", "1.2.3");
    let mut exporter = exporter.unwrap();
    let moment = Duration::from_millis(20);
    exporter.pace = Pace { linger: moment, timeout: 10 * moment, backoff: Backoff::new(moment, moment) };
    tokio::spawn(exporter.run());
    recorder
}

fn root(recorder: &Recorder) -> Span {
    recorder.receive("GET /", Moment::now(), None, Caller::Untrusted).unwrap()
}

/// How many spans there were with this outcome.
fn counted(recorder: &Recorder, outcome: &str) -> u64 {
    let mut registry = Registry::default();
    recorder.register(&mut registry, "spans");
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let line = format!("spans_total{{outcome=\"{outcome}\"}} ");
    text.lines().find_map(|it| it.strip_prefix(&line)).unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not so: {what}");
}

fn attribute<'a>(of: &'a Json, key: &str) -> &'a Json {
    let all = of["attributes"].as_array().unwrap();
    all.iter().find(|it| it["key"] == key).map_or(&Json::Null, |it| &it["value"])
}

#[tokio::test]
async fn spans_arrive_as_otlp_has_them() {
    let collector = Collector::new(Manner::Takes);
    let url = collector.start().await;
    let recorder = recorder(&format!("otlp_endpoint = '{url}/below/'\nhost_name = 'machine-1'"));
    let caller = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let mut server = recorder.receive("GET /x", Moment::now(), Some(caller), Caller::Trusted).unwrap();
    server.set("http.response.status_code", 200_u16);
    server.set("http.response.status_code", 503_u16);
    server.set("cps.caller", "x".repeat(100_000));
    server.fail("no\u{7}");
    let mut child = recorder.child("push", Kind::Client, server.context(), Moment::now()).unwrap();
    child.set("cps.dry_run", true);
    let header = child.context().to_string();
    drop(child);
    drop(server);
    recorder.flush(Duration::from_secs(20)).await;
    let (path, body) = collector.requests.lock().unwrap()[0].clone();
    assert_eq!(path, "/below/v1/traces");
    let resource = &body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name")["stringValue"], "test");
    assert_eq!(attribute(resource, "service.version")["stringValue"], "1.2.3");
    assert_eq!(attribute(resource, "host.name")["stringValue"], "machine-1");
    let spans = collector.spans();
    let [push, server] = [&spans[0], &spans[1]];
    assert_eq!((&server["name"], &server["kind"], &push["kind"]), (&"GET /x".into(), &2.into(), &3.into()));
    assert_eq!(
        (&server["traceId"], &server["parentSpanId"]),
        (&"4bf92f3577b34da6a3ce929d0e0e4736".into(), &"00f067aa0ba902b7".into())
    );
    assert_eq!((&push["traceId"], &push["parentSpanId"]), (&server["traceId"], &server["spanId"]));
    assert_eq!(header, format!("00-{}-{}-01", push["traceId"].as_str().unwrap(), push["spanId"].as_str().unwrap()));
    assert_eq!((&server["flags"], &push["flags"]), (&0x301.into(), &0x101.into()), "sampled; whose parent is remote");
    assert_eq!(attribute(server, "http.response.status_code")["intValue"], "503", "the last word counts");
    assert!(attribute(server, "cps.caller")["stringValue"].as_str().unwrap().len() < 500, "it is cut");
    assert_eq!(attribute(push, "cps.dry_run")["boolValue"], true);
    assert_eq!((&server["status"]["code"], push.get("status")), (&2.into(), None));
    assert!(!server["status"]["message"].as_str().unwrap().contains('\u{7}'));
    let nanoseconds = |of: &Json, key: &str| of[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(nanoseconds(server, "startTimeUnixNano") <= nanoseconds(push, "startTimeUnixNano"));
    assert!(nanoseconds(push, "endTimeUnixNano") <= nanoseconds(server, "endTimeUnixNano"));
    assert_eq!(counted(&recorder, "exported"), 2);
}

#[tokio::test]
async fn without_a_collector_nothing_is_recorded() {
    let (recorder, exporter) = Exporter::new(&settings(""), "test", "1");
    assert!(exporter.is_none() && !recorder.is_on());
    let caller = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert!(recorder.receive("", Moment::now(), caller, Caller::Trusted).is_none());
    let mut registry = Registry::default();
    recorder.register(&mut registry, "spans");
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert_eq!(text, "# EOF\n");
}

#[tokio::test]
async fn untrusted_callers_do_not_choose_what_is_recorded() {
    let recorder = |ratio: &str| recorder(&format!("otlp_endpoint = 'http://127.0.0.1:1'\nsample_ratio = {ratio}"));
    let said = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let unsampled = TraceParent { sampled: false, ..said };
    let asks = |recorder: &Recorder, parent, caller| recorder.receive("", Moment::now(), parent, caller);
    let none = recorder("0");
    assert!(asks(&none, None, Caller::Trusted).is_none());
    assert!(asks(&none, Some(said), Caller::Trusted).is_some(), "a trusted caller may record any trace");
    assert!((0..1000).all(|_| asks(&none, Some(said), Caller::Untrusted).is_none()));
    let all = recorder("1");
    assert!(asks(&all, Some(unsampled), Caller::Trusted).is_none(), "nor have it");
    let span = asks(&all, Some(unsampled), Caller::Untrusted).unwrap();
    assert!(span.context().trace_id() != said.context.trace_id(), "it is a trace of its own");
    let some = recorder("0.25");
    let taken = (0..4000).filter(|_| asks(&some, Some(said), Caller::Untrusted).is_some()).count();
    assert!((700..1300).contains(&taken), "{taken}");
}

#[tokio::test]
async fn the_parent_of_an_untrusted_caller_is_a_link() {
    let collector = Collector::new(Manner::Takes);
    let recorder = recorder(&format!("otlp_endpoint = '{}'", collector.start().await));
    let said = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    drop(recorder.receive(&"GET /".repeat(1000), Moment::now(), said, Caller::Untrusted));
    recorder.flush(Duration::from_secs(20)).await;
    let span = &collector.spans()[0];
    assert!(span["name"].as_str().unwrap().len() < 400, "names are cut");
    assert_eq!(span["links"][0]["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((span.get("parentSpanId"), &span["flags"]), (None, &0x101.into()));
}

#[tokio::test]
async fn spans_go_in_batches() {
    let collector = Collector::new(Manner::Takes);
    let recorder = recorder(&format!("otlp_endpoint = '{}'", collector.start().await));
    for _ in 0..1100 {
        drop(root(&recorder));
    }
    recorder.flush(Duration::from_secs(20)).await;
    let requests = collector.requests.lock().unwrap().clone();
    let spans = |body: &Json| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len();
    let sizes: Vec<usize> = requests.iter().map(|(_, body)| spans(body)).collect();
    assert_eq!(sizes, [512, 512, 76]);
}

#[tokio::test]
async fn a_collector_that_is_dead_or_hangs_costs_spans_and_no_time() {
    let hanging = Collector::new(Manner::Hangs);
    for url in ["http://127.0.0.1:1".to_owned(), hanging.start().await] {
        let recorder = recorder(&format!("otlp_endpoint = '{url}'"));
        // Nothing awaits here: on one thread the exporter has no turn before this has ended.
        for _ in 0..10_000 {
            drop(root(&recorder));
        }
        assert_eq!(counted(&recorder, "queue_full"), 10_000 - 4096, "{url}: the queue is full");
        until("all others have failed", || counted(&recorder, "failed") == 4096).await;
        assert_eq!(counted(&recorder, "exported"), 0);
    }
    assert_eq!(hanging.asked.load(Ordering::SeqCst), 8 * 3, "each batch is tried three times");
}

#[tokio::test]
async fn responses_of_a_collector_do_no_harm() {
    for (manner, outcome, spans, asked) in [
        (Manner::TakesAllButTwo, "rejected", 2, 1),
        (Manner::IsBusyAtFirst, "exported", 3, 3),
        (Manner::TalksNonsense, "exported", 3, 1),
        (Manner::Fails, "failed", 3, 1),
        (Manner::Redirects, "failed", 3, 1),
        (Manner::NeverEnds, "failed", 3, 3),
    ] {
        let collector = Collector::new(manner);
        let recorder = recorder(&format!("otlp_endpoint = '{}'", collector.start().await));
        for _ in 0..3 {
            drop(root(&recorder));
        }
        recorder.flush(Duration::from_secs(20)).await;
        assert_eq!(counted(&recorder, outcome), spans, "{manner:?}");
        assert_eq!(collector.asked.load(Ordering::SeqCst), asked, "{manner:?}");
    }
}

#[tokio::test]
async fn the_final_flush_is_bounded() {
    let hanging = Collector::new(Manner::Hangs);
    let settings = settings(&format!("otlp_endpoint = '{}'", hanging.start().await));
    let (recorder, exporter) = Exporter::new(&settings, "test", "1");
    tokio::spawn(exporter.unwrap().run());
    drop(root(&recorder));
    recorder.flush(Duration::from_millis(10)).await;
    assert_eq!(counted(&recorder, "failed"), 0, "it has not even failed");
}

/// A CA, and a server with a certificate of it.
fn server(folder: &Path) -> Identity {
    let path = |file: &str| folder.join(file);
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(path("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let own = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(path("own.pem"), params.signed_by(&own, &Issuer::new(authority, key)).unwrap().pem()).unwrap();
    fs::write(path("own.key"), own.serialize_pem()).unwrap();
    fs::set_permissions(path("own.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let files = TlsFiles { ca: path("ca.pem"), cert: path("own.pem"), key: path("own.key"), crl: None };
    Identity::open(&files).unwrap()
}

#[tokio::test]
async fn a_collector_is_known_by_its_certificate() {
    cps_peering_http::tls::use_ring();
    let [ours, others] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (identity, _) = (server(ours.path()), server(others.path()));
    let collector = Collector::new(Manner::Takes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let places = Places::new(Limits::new(&ConnectionSettings::default(), &[]));
    let tls = Some(identity.server(Clients::Optional));
    tokio::spawn(serve(places, listener, tls, collector.routes(), std::future::pending()));
    let ca = |folder: &Path| format!("ca = '{}'", folder.join("ca.pem").display());
    for (trusted, outcome) in [
        (ca(ours.path()), "exported"),
        (ca(others.path()), "failed"),
        (String::new(), "failed"),
        (ca(Path::new("/nowhere")), "failed"),
    ] {
        let recorder = recorder(&format!("otlp_endpoint = 'https://{address}'\n{trusted}"));
        drop(root(&recorder));
        recorder.flush(Duration::from_secs(20)).await;
        assert_eq!(counted(&recorder, outcome), 1, "{trusted}");
    }
    assert_eq!(collector.spans().len(), 1);
}
