//! The controller renews agents' certificates that expire soon, over TLS.

use crate::{loopback::unused, pki::private, programs::pki};
use axum::{
    Router,
    body::Bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use cps_peering_config::{
    agent_api::{CERTIFICATE_PATH, CERTIFICATE_REQUEST_PATH, STATUS_PATH},
    connections::ConnectionSettings,
    settings::AgentCertificateSettings,
    time::timestamp,
    tls::{AGENT_DNS_NAME, CONTROLLER, TlsFiles, host as host_name},
};
use cps_peering_controller::{
    audit::Query,
    engine::{Engine, Options},
    hosts::{client::AgentClients, push, renewal},
    metrics,
    model::{Actor, Command, Request, inventory::Apply},
    store::Store,
};
use cps_peering_http::{
    Limits, serve_within,
    tls::{Clients, Identity, Kept},
};
use prometheus_client::encoding::text::encode;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

const DAY: Duration = Duration::from_hours(24);

/// How a host behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Like an agent.
    Good,
    /// Like an agent of a version without renewal.
    Old,
    /// It sends a request for its current key.
    OldKey,
    /// It refuses every certificate.
    Refuses,
}

/// A host with an agent's certificate that expires in a day, after ten, and its behaviour.
struct Host {
    files: TlsFiles,
    kept: Kept,
    identity: Identity,
    address: SocketAddr,
    /// How often it was asked for its status, for a request, and to accept a certificate.
    asked: [Arc<AtomicUsize>; 3],
}

impl Host {
    async fn start(pki: &Path, folder: &Path, id: &str, kind: Kind) -> Self {
        let own = folder.join(id);
        fs::create_dir(&own).unwrap();
        let path = |file: &str| own.join(file);
        fs::copy(pki.join("ca.pem"), path("ca.pem")).unwrap();
        let files = TlsFiles { ca: path("ca.pem"), cert: path("host.pem"), key: path("host.key"), crl: None };
        let key = Arc::new(ending(pki, id, &files));
        let kept = Kept { crl: None, renewed: Some(path("ledger.pem")) };
        let identity = Identity::open_with(&files, kept.clone()).unwrap();
        let asked: [Arc<AtomicUsize>; 3] = std::array::from_fn(|_| Arc::default());
        let count = |which: usize| {
            let count = Arc::clone(&asked[which]);
            move || count.fetch_add(1, Ordering::Relaxed)
        };
        let (status, request, take) = (count(0), count(1), count(2));
        // It has no report: that it answers is enough.
        let mut router = Router::new().route(
            STATUS_PATH,
            get(async move || {
                status();
                "{}"
            }),
        );
        if kind == Kind::Old {
            router = router.fallback(async move || {
                request();
                StatusCode::NOT_FOUND
            });
        } else {
            let makes = identity.clone();
            let makes = async move || {
                request();
                if kind == Kind::OldKey {
                    return CertificateParams::default().serialize_request(&*key).unwrap().pem().unwrap();
                }
                makes.request_certificate().unwrap()
            };
            let takes = identity.clone();
            let takes = async move |body: Bytes| -> Response {
                take();
                if kind == Kind::Refuses {
                    return StatusCode::BAD_REQUEST.into_response();
                }
                match takes.take_certificate(&body) {
                    Ok(_) => StatusCode::NO_CONTENT.into_response(),
                    Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
                }
            };
            router = router.route(CERTIFICATE_REQUEST_PATH, post(makes)).route(CERTIFICATE_PATH, put(takes));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = identity.server(Clients::Required);
        let limits = Limits::new(&ConnectionSettings::default(), &[CONTROLLER]);
        tokio::spawn(serve_within(limits, listener, Some(server), router, std::future::pending()));
        Self { files, kept, identity, address, asked }
    }

    fn asked(&self) -> [usize; 3] {
        self.asked.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn entry(&self, id: &str) -> String {
        let (address, number) = (self.address, &id[1..]);
        format!(
            "[[hosts]]\nid = '{id}'\nregion = 'north'\nunderlay = '192.0.2.{number}'\nagent = 'https://{address}'\n"
        )
    }
}

/// Issues a host's certificate that expires soon, with the CA of a directory.
fn ending(pki: &Path, id: &str, files: &TlsFiles) -> KeyPair {
    let read = |file: &str| fs::read_to_string(pki.join(file)).unwrap();
    let ca = Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec![AGENT_DNS_NAME.to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(host_name(&id.parse().unwrap()).as_str().try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = ((SystemTime::now() - DAY * 10).into(), (SystemTime::now() + DAY).into());
    let key = KeyPair::generate().unwrap();
    private(&files.key, &key.serialize_pem());
    fs::write(&files.cert, params.signed_by(&key, &ca).unwrap().pem()).unwrap();
    key
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !is_so().await {
        assert!(Instant::now() < end, "not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A directory with a CA, an issuer and a controller's certificate.
fn authority() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    for arguments in [&["init"][..], &["issue", "controller"], &["issue", "issuer"], &["issue", "operator"]] {
        pki(&dir, arguments);
    }
    (folder, dir)
}

/// An engine with hosts, and the tasks that talk to them.
struct Controller {
    engine: Arc<Engine>,
    clients: AgentClients,
    identity: Identity,
}

impl Controller {
    /// `issuer`: the file names of the issuer's certificate and key, in the directory of the CA.
    fn start(folder: &Path, dir: &Path, hosts: &[(&str, &Host)], issuer: [&str; 2]) -> Self {
        let path = |file: &str| dir.join(file);
        let files =
            TlsFiles { ca: path("ca.pem"), cert: path("controller.pem"), key: path("controller.key"), crl: None };
        let identity = Identity::open(&files).unwrap();
        let store = Store::open(folder.join("store.redb")).unwrap();
        let (engine, new_hosts) = Engine::open(store, Options::default()).unwrap();
        let entries: String = hosts.iter().map(|(id, host)| host.entry(id)).collect();
        let inventory = format!("[[regions]]\nid = 'north'\n{entries}");
        let apply = Command::Apply(Apply::of(toml::from_str(&inventory).unwrap()));
        tokio::task::block_in_place(|| engine.execute(&Request::new(Actor::Operator, apply))).unwrap();
        let poll = Duration::from_secs(1);
        let clients = AgentClients::new(Some(identity.clone()), poll);
        let settings = AgentCertificateSettings { issuer: path(issuer[0]), key: path(issuer[1]), days: 30 };
        tokio::spawn(push::run(Arc::clone(&engine), clients.clone(), new_hosts, poll));
        tokio::spawn(renewal::run(Arc::clone(&engine), clients.clone(), identity.clone(), settings));
        Self { engine, clients, identity }
    }

    fn figures(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &metrics::registry(&self.engine, None)).unwrap();
        text
    }

    /// The hosts that should have been renewed and were not, and why.
    fn not_renewed(&self) -> Vec<String> {
        let text = self.figures();
        let all = text.lines().filter_map(|line| line.strip_prefix("cps_controller_certificate_not_renewed{"));
        all.map(|line| line.trim_end_matches("} 1.0").replace('"', "")).collect()
    }

    /// How many renewals had this result.
    fn renewals(&self, result: &str) -> u64 {
        let text = self.figures();
        let name = format!("cps_controller_certificate_renewals_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_expire_soon_are_renewed_and_failures_leave_them_as_they_are() {
    let (folder, dir) = authority();
    let start = async |id: &str, kind| Host::start(&dir, folder.path(), id, kind).await;
    let good = start("h1", Kind::Good).await;
    let old = start("h2", Kind::Old).await;
    let old_key = start("h3", Kind::OldKey).await;
    let refuses = start("h4", Kind::Refuses).await;
    let revoked = start("h5", Kind::Good).await;
    pki(&dir, &["revoke", revoked.files.cert.to_str().unwrap()]);
    // One whose certificate lasts for long.
    pki(&dir, &["issue", "host", "h6"]);
    let fresh = start("h6", Kind::Good).await;
    for (from, to) in [("host-h6.key", &fresh.files.key), ("host-h6.pem", &fresh.files.cert)] {
        fs::copy(dir.join(from), to).unwrap();
    }
    fresh.identity.reload().unwrap();
    let before = [&old, &old_key, &refuses, &revoked, &fresh].map(|host| host.identity.facts());
    let settings = [fs::read(&good.files.cert).unwrap(), fs::read(&good.files.key).unwrap()];
    let hosts = [("h1", &good), ("h2", &old), ("h3", &old_key), ("h4", &refuses), ("h5", &revoked), ("h6", &fresh)];
    let controller = Controller::start(folder.path(), &dir, &hosts, ["issuer.pem", "issuer.key"]);

    until("all were asked", async || {
        let seen = ["renewed", "unsupported", "request_refused", "agent_refused"];
        seen.iter().all(|result| controller.renewals(result) == 1) && fresh.asked()[0] > 0
    })
    .await;
    let facts = good.identity.facts();
    assert!(facts.renewed && facts.names == [host_name(&"h1".parse().unwrap())], "{facts:?}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((29..=30).contains(&(facts.not_after.unsigned_abs().saturating_sub(now) / 86_400)), "{facts:?}");
    assert_eq!(settings, [fs::read(&good.files.cert).unwrap(), fs::read(&good.files.key).unwrap()]);
    assert_eq!(Identity::open_with(&good.files, good.kept.clone()).unwrap().facts(), facts, "after a restart");
    assert_eq!(good.asked()[1..], [1, 1]);
    assert_eq!((old.asked()[1..].to_vec(), old_key.asked()[1..].to_vec()), (vec![1, 0], vec![1, 0]));
    assert_eq!(refuses.asked()[1..], [1, 1]);
    // One cannot be reached; the other one is not due.
    assert_eq!((revoked.asked(), fresh.asked()[1]), ([0; 3], 0));
    assert_eq!(before, [&old, &old_key, &refuses, &revoked, &fresh].map(|host| host.identity.facts()));
    assert_eq!((controller.renewals("not_issued"), controller.renewals("unreachable")), (0, 0));
    // Renewals are in the trail, and failed ones in the metrics until they succeed.
    let query = Query { limit: 100, ..Query::default() };
    let trail = tokio::task::block_in_place(|| controller.engine.audit(&query)).unwrap();
    let renewals: Vec<_> = trail.iter().filter(|(_, entry)| entry.action == "RenewCertificate").collect();
    let [(_, entry)] = renewals.as_slice() else { panic!("{renewals:?}") };
    assert_eq!((entry.actor.as_str(), entry.target.as_str(), entry.outcome.as_str()), ("system", "h1", "done"));
    let renewed = cps_peering_http::tls::certificates(good.kept.renewed.as_ref().unwrap()).unwrap();
    let (_, parsed) = X509Certificate::from_der(&renewed[0]).unwrap();
    let hex = |text: &str| text.replace(':', "").trim_start_matches('0').to_ascii_lowercase();
    assert_eq!(hex(entry.asked["serial"].as_str().unwrap()), hex(&parsed.raw_serial_as_string()));
    assert_eq!(entry.asked["notAfter"], timestamp(1000 * facts.not_after.unsigned_abs()));
    let expected = ["host=h2,reason=unsupported", "host=h3,reason=request_refused", "host=h4,reason=agent_refused"];
    assert_eq!(controller.not_renewed(), expected);
    let ends = |id: &str| controller.clients.certificate_ends(&id.parse().unwrap());
    assert_eq!((ends("h6"), ends("h5")), (Some(fresh.identity.facts().not_after.unsigned_abs()), None));
    pki(&dir, &["issue", "host", "h4"]);
    for (from, to) in [("host-h4.key", &refuses.files.key), ("host-h4.pem", &refuses.files.cert)] {
        fs::copy(dir.join(from), to).unwrap();
    }
    refuses.identity.reload().unwrap();
    until("somebody else has renewed it", async || controller.not_renewed() == expected[..2]).await;
    assert_eq!(ends("h4"), Some(refuses.identity.facts().not_after.unsigned_abs()));
    // Certificates that were renewed from a revoked one are revoked with it.
    pki(&dir, &["revoke", good.files.cert.to_str().unwrap()]);
    controller.identity.reload().unwrap();
    assert!(controller.identity.has_revoked(&renewed[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_of_an_unknown_ca_or_without_its_files_renews_nothing() {
    let (folder, dir) = authority();
    let (_other, stranger) = authority();
    for file in ["issuer.pem", "issuer.key"] {
        fs::copy(stranger.join(file), dir.join(format!("other-{file}"))).unwrap();
    }
    for (store, files, asked) in
        [("one", ["other-issuer.pem", "other-issuer.key"], [1, 0]), ("two", ["none.pem", "none.key"], [0, 0])]
    {
        let own = folder.path().join(store);
        fs::create_dir(&own).unwrap();
        let host = Host::start(&dir, &own, "h1", Kind::Good).await;
        let controller = Controller::start(&own, &dir, &[("h1", &host)], files);
        until("it was tried", async || controller.renewals("not_issued") > 0).await;
        assert_eq!(host.asked()[1..], asked, "{files:?}");
        assert!(!host.identity.facts().renewed);
    }
}

/// The program with its settings.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_renews_if_its_settings_name_an_issuer_and_reports_errors_in_it() {
    let (folder, dir) = authority();
    let host = Host::start(&dir, folder.path(), "h1", Kind::Good).await;
    let token = folder.path().join("token");
    private(&token, "only-for-this-test");
    let port = unused().port();
    let shown = |file: &str| dir.join(file).display().to_string();
    let settings = |issuer: &str| {
        let file = folder.path().join("controller.toml");
        let text = format!(
            "listen = '127.0.0.1:{port}'\nstore = '{}'\noperator_token_file = '{}'\npoll_s = 1\n\
             tls = {{ ca = '{}', cert = '{}', key = '{}' }}\n{issuer}",
            folder.path().join("store.redb").display(),
            token.display(),
            shown("ca.pem"),
            shown("controller.pem"),
            shown("controller.key")
        );
        fs::write(&file, text).unwrap();
        file
    };
    let program = || std::process::Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
    let table = |issuer: &str, key: &str, more: &str| {
        format!("[agent_certificates]\nissuer = '{}'\nkey = '{}'\n{more}", shown(issuer), shown(key))
    };
    for (wrong, said) in [
        (table("issuer.pem", "controller.key", ""), "agent_certificates.key: "),
        (table("controller.pem", "controller.key", ""), "basicConstraints"),
        (table("nowhere.pem", "issuer.key", ""), "nowhere.pem"),
        (table("issuer.pem", "issuer.key", "days = 3"), "agent_certificates.days is 3, and must be 14 to 365"),
    ] {
        let ended = program().arg("--settings").arg(settings(&wrong)).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(64) && text.contains(said), "{said}: {ended:?}");
    }
    let ca = shown("ca.pem");
    let operator = [shown("operator.pem"), shown("operator.key")];
    let own = Some((Path::new(&operator[0]), Path::new(&operator[1])));
    let client = cps_peering_http::tls::client(Path::new(&ca), own).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(client).build().unwrap();
    let call = async |method: reqwest::Method, path: &str, body: String| {
        let answer = client.request(method, format!("https://localhost:{port}{path}")).body(body).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => answer.text().await.unwrap_or_default(),
            _ => String::new(),
        }
    };
    let run = |file: PathBuf| {
        crate::pki::Controller(program().arg("--settings").arg(file).stderr(Stdio::null()).spawn().unwrap())
    };
    let renewed = "cps_controller_certificate_renewals_total{result=\"renewed\"} ";
    let figures = async || call(reqwest::Method::GET, "/metrics", String::new()).await;

    // Without an issuer, nothing.
    let controller = run(settings(""));
    until("it answers", async || figures().await.contains(renewed)).await;
    let mut apply = crate::programs::cli();
    let inventory = folder.path().join("inventory.toml");
    fs::write(&inventory, format!("[[regions]]\nid = 'north'\n{}", host.entry("h1"))).unwrap();
    apply.args(["--controller", &format!("https://localhost:{port}"), "--ca", &ca]);
    apply.args(["--cert", &operator[0], "--key", &operator[1], "apply", "--file", inventory.to_str().unwrap()]);
    let ended = apply.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    until("it was asked how it stands", async || host.asked()[0] > 4).await;
    assert_eq!(host.asked()[1..], [0, 0]);
    drop(controller);
    let _controller = run(settings(&table("issuer.pem", "issuer.key", "")));
    until("it is renewed", async || figures().await.contains(&format!("{renewed}1"))).await;
    assert!(host.identity.facts().renewed);
    let hosts = call(reqwest::Method::GET, "/admin/v1/hosts", String::new()).await;
    assert!(
        hosts.contains("\"certificateExpires\":\"20") && hosts.contains("\"certificateNotRenewed\":null"),
        "{hosts}"
    );
    let trail = call(reqwest::Method::GET, "/admin/v1/audit", String::new()).await;
    assert!(trail.contains("\"action\":\"RenewCertificate\",\"actor\":\"system\""), "{trail}");
    let doctor = call(reqwest::Method::GET, "/admin/v1/diagnosis", String::new()).await;
    assert!(doctor.contains("issuer of agents' certificates"), "{doctor}");
}
