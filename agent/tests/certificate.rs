//! What an agent's own certificate, and those of its clients, permit.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use axum::{Router, body::Body, http::Request};
use cps_peering_agent::{
    api,
    kernel::memory::Memory,
    ledger::Ledger,
    objects::LinkKind,
    probe::SharedFigures,
    reconcile::{self, Options, PersistentState},
    shares::SharesFile,
};
use cps_peering_config::{
    connections::ConnectionSettings,
    tls::{CONTROLLER, MONITORING, OPERATOR, TlsFiles},
};
use cps_peering_http::{
    Limits, serve_within,
    tls::{Clients, Identity, Kept, LINEAGE_OID, Peer, lineage_after},
};
use cps_peering_otlp::Recorder;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CustomExtension, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

/// A certificate with this name, by a CA of its own.
fn identity(folder: &Path, name: &str) -> Identity {
    authority(folder, name).0
}

/// The same with the CA.
fn authority(folder: &Path, name: &str) -> (Identity, Issuer<'static, KeyPair>) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let path = |file: &str| folder.join(file);
    fs::write(path("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    let own = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, key);
    fs::write(path("own.pem"), params.signed_by(&own, &issuer).unwrap().pem()).unwrap();
    fs::write(path("own.key"), own.serialize_pem()).unwrap();
    fs::set_permissions(path("own.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let files = TlsFiles { ca: path("ca.pem"), cert: path("own.pem"), key: path("own.key"), crl: None };
    (Identity::open_with(&files, kept(folder)).unwrap(), issuer)
}

/// What the daemon keeps by itself.
fn kept(folder: &Path) -> Kept {
    Kept { crl: Some(folder.join("sent.pem")), renewed: Some(folder.join("renewed.pem")) }
}

/// A list with this many certificates.
fn list(issuer: &Issuer<'static, KeyPair>, number: u64, revoked: u64) -> String {
    let now = std::time::SystemTime::now();
    let revoked = (1..=revoked).map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: now.into(),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_hours(24)).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

/// The routes of an agent on a host with an underlay interface.
fn agent(folder: &Path, identity: &Identity) -> Router {
    let kernel = Memory::new();
    kernel.state().add_link("eth0", LinkKind::Other);
    kernel.state().add_foreign_address("eth0", "192.0.2.1/24");
    let options = Options { vxlan_port: 4789, underlay_mtu: None, resync: Duration::from_hours(1) };
    let reconciler = reconcile::start_with(kernel, options, PersistentState::default()).unwrap();
    let ledger = Ledger::new(folder.join("ledger"));
    let accepted = ledger.load().unwrap().map(Arc::new);
    api::routers(
        accepted,
        ledger,
        SharesFile::beside(&folder.join("ledger")),
        reconciler,
        SharedFigures::default(),
        Some(identity),
        Recorder::default(),
    )
    .0
}

async fn call(agent: &Router, client: &str, method: &str, path: &str, body: &Value) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(path).header("host", "h1");
    request.extensions_mut().unwrap().insert(Peer::named(vec![client.to_owned()]));
    let answer = agent.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

fn config(host: &str, number: u64) -> Value {
    json!({ "revision": { "epoch": 1, "number": number }, "host": host, "underlay": "192.0.2.1", "vrfs": {}, "sides": {} })
}

#[tokio::test]
async fn an_agent_serves_only_the_host_in_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let own = identity(folder.path(), "spiffe://cps-peering/host/h1");
    let agent_of_h1 = agent(folder.path(), &own);
    let put = async |agent: &Router, config: &Value| call(agent, CONTROLLER, "PUT", "/v1/config", config).await;
    // Also the first one.
    let (status, told) = put(&agent_of_h1, &config("h2", 5)).await;
    assert_eq!(status, 400, "{told}");
    assert!(told.contains("meant for host h2") && told.contains("spiffe://cps-peering/host/h1"), "{told}");
    assert_eq!(put(&agent_of_h1, &config("h1", 1)).await.0, 200);
    let patch = json!({ "base": { "epoch": 1, "number": 1 }, "revision": { "epoch": 1, "number": 2 } });
    assert_eq!(call(&agent_of_h1, CONTROLLER, "PATCH", "/v1/config", &patch).await.0, 200);

    // The ledger of another host is no base: neither its host nor its revision counts.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join("ledger"), elsewhere.path().join("ledger")).unwrap();
    let agent_of_h2 = agent(elsewhere.path(), &identity(elsewhere.path(), "spiffe://cps-peering/host/h2"));
    let patch = json!({ "base": { "epoch": 1, "number": 2 }, "revision": { "epoch": 1, "number": 3 } });
    assert_eq!(call(&agent_of_h2, CONTROLLER, "PATCH", "/v1/config", &patch).await.0, 409);
    assert_eq!(put(&agent_of_h2, &config("h1", 3)).await.0, 400);
    assert_eq!(put(&agent_of_h2, &config("h2", 1)).await.0, 200);
}

#[tokio::test]
async fn revocation_lists_are_taken_from_the_controller_alone_where_one_of_the_cas_has_signed_them() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = "spiffe://cps-peering/host/h1";
    let (identity, issuer) = authority(folder.path(), own);
    let (_, stranger) = authority(elsewhere.path(), own);
    let agent = agent(folder.path(), &identity);
    let put = async |client: &str, list: String| {
        let mut request = Request::builder().method("PUT").uri("/v1/crl").header("host", "h1");
        request.extensions_mut().unwrap().insert(Peer::named(vec![client.to_owned()]));
        agent.clone().oneshot(request.body(Body::from(list)).unwrap()).await.unwrap().status().as_u16()
    };
    for client in [OPERATOR, MONITORING, own, "spiffe://cps-peering/host/h2", ""] {
        assert_eq!(put(client, list(&issuer, 1, 1)).await, 403, "{client}");
    }
    for (what, wrong) in [
        ("of another CA", list(&stranger, 1, 1)),
        ("no list", "rubbish".to_owned()),
        ("nothing", String::new()),
        ("cut", list(&issuer, 1, 1)[..200].to_owned()),
    ] {
        assert_eq!(put(CONTROLLER, wrong).await, 400, "{what}");
        assert_eq!(identity.facts().revoked, 0, "{what}");
    }
    assert_eq!(put(CONTROLLER, list(&issuer, 1, 2)).await, 204);
    assert_eq!(put(CONTROLLER, list(&issuer, 1, 2)).await, 204, "the same again");
    assert_eq!(identity.facts().revoked, 2);
    // What was revoked stays so, whatever comes later.
    assert_eq!(put(CONTROLLER, list(&issuer, 2, 1)).await, 204);
    assert_eq!(identity.facts().revoked, 2);
    let too_long = "x".repeat(cps_peering_http::tls::MAX_CRL + 1);
    assert_eq!(put(CONTROLLER, too_long).await, 413);
}

#[tokio::test]
async fn metrics_are_for_those_whose_certificates_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let own = "spiffe://cps-peering/host/h1";
    let agent = agent(folder.path(), &identity(folder.path(), own));
    for client in [CONTROLLER, OPERATOR, MONITORING, own] {
        assert_eq!(call(&agent, client, "GET", "/metrics", &Value::Null).await.0, 200, "{client}");
    }
    for client in ["spiffe://cps-peering/host/h2", "spiffe://cps-peering/", ""] {
        let (status, told) = call(&agent, client, "GET", "/metrics", &Value::Null).await;
        assert_eq!(status, 403, "{client:?}");
        assert!(told.contains(MONITORING), "{told}");
        assert_eq!(call(&agent, client, "GET", "/healthz", &Value::Null).await.0, 200);
    }
}

#[tokio::test]
async fn a_head_that_says_two_things_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(folder.path(), &identity(folder.path(), "spiffe://cps-peering/host/h1"));
    for hosts in [&[][..], &["h1", "h2"]] {
        let mut request = Request::builder().uri("/healthz");
        for host in hosts {
            request = request.header("host", *host);
        }
        let answer = agent.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{hosts:?}");
    }
}

/// A certificate for the key of a request, with this name and a lifetime of an hour, by this CA, later than the one in
/// the folder.
fn sign(folder: &Path, issuer: &Issuer<'static, KeyPair>, request: &str, name: &str) -> String {
    let key = CertificateSigningRequestParams::from_pem(request).unwrap().public_key;
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    let replaced = CertificateDer::from_pem_file(folder.join("own.pem")).unwrap();
    let lineage = lineage_after(&replaced).unwrap();
    params.custom_extensions.push(CustomExtension::from_oid_content(&LINEAGE_OID, lineage));
    params.not_before = (std::time::SystemTime::now() - Duration::from_mins(5)).into();
    params.not_after = (std::time::SystemTime::now() + Duration::from_hours(1)).into();
    params.signed_by(&key, issuer).unwrap().pem()
}

/// Where requests of a connection are sent.
type Sender = hyper::client::conn::http1::SendRequest<String>;

/// The real server, over TLS: requests on an open connection continue while the certificate is renewed.
#[tokio::test]
async fn the_controller_alone_renews_the_certificate_and_nothing_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let own = "spiffe://cps-peering/host/h1";
    let (identity, issuer) = authority(folder.path(), own);
    let router = agent(folder.path(), &identity);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits::new(&ConnectionSettings::default(), &[CONTROLLER]);
    let server = identity.server(Clients::Required);
    tokio::spawn(serve_within(limits, listener, Some(server), router, std::future::pending()));
    // Clients with certificates of the same CA.
    let client = |name: &str| {
        let files = ["pem", "key"].map(|end| folder.path().join(format!("client.{end}")));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        fs::write(&files[0], params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        fs::set_permissions(&files[1], fs::Permissions::from_mode(0o600)).unwrap();
        let [cert, key] = files;
        Identity::open(&TlsFiles { ca: folder.path().join("ca.pem"), cert, key, crl: None }).unwrap()
    };
    let connect = async |identity: &Identity| {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(identity.client_of(own)));
        let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        (sender, shown)
    };
    let send = async |sender: &mut Sender, method: &str, path: &str, body: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "h1").body(body.to_owned()).unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let (request, certificate) = ("/v1/certificate/request", "/v1/certificate");
    for name in [OPERATOR, MONITORING, "spiffe://cps-peering/host/h2", own] {
        let (mut stranger, _) = connect(&client(name)).await;
        assert_eq!(send(&mut stranger, "POST", request, "").await.0, 403, "{name}");
        assert_eq!(send(&mut stranger, "PUT", certificate, "").await.0, 403, "{name}");
    }
    let controller = client(CONTROLLER);
    let (mut open, before) = connect(&controller).await;
    assert_eq!(send(&mut open, "PUT", certificate, "x").await.0, 409, "there is no request");
    let (status, asked) = send(&mut open, "POST", request, "").await;
    assert_eq!(status, 200, "{asked}");
    let kept = folder.path().join("renewed.pem");
    for (wrong, said) in [
        (String::new(), "certificate"),
        ("x".repeat(1000), "certificate"),
        (sign(folder.path(), &issuer, &asked, "spiffe://cps-peering/host/h2"), "subject alternative name"),
        (sign(folder.path(), &authority(tempfile::tempdir().unwrap().path(), own).1, &asked, own), "this host's CAs"),
    ] {
        let (status, told) = send(&mut open, "PUT", certificate, &wrong).await;
        assert!(status == 400 && told.contains(said), "{said}: {status} {told}");
    }
    assert!(!kept.exists() && !identity.facts().renewed);
    let renewed = sign(folder.path(), &issuer, &asked, own);
    // What cannot be written is not used.
    fs::create_dir(folder.path().join("renewed.pem.new")).unwrap();
    assert_eq!(send(&mut open, "PUT", certificate, &renewed).await.0, 503);
    assert!(!identity.facts().renewed);
    fs::remove_dir(folder.path().join("renewed.pem.new")).unwrap();
    assert_eq!(send(&mut open, "PUT", certificate, &renewed).await.0, 204);
    assert!(identity.facts().renewed);
    assert_eq!(send(&mut open, "GET", "/healthz", "").await.0, 200, "what was open goes on");
    let (mut next, after) = connect(&controller).await;
    assert_ne!(before, after, "from the next handshake on");
    assert_eq!(send(&mut next, "PUT", "/v1/config", &config("h1", 1).to_string()).await.0, 200);
    let too_long = "x".repeat(cps_peering_config::agent_api::MAX_CERTIFICATE + 1);
    assert_eq!(send(&mut next, "PUT", certificate, &too_long).await.0, 413);
    // The key has not left the host, and is in a file that only the agent can read.
    let held = fs::read_to_string(&kept).unwrap();
    assert!(held.contains("PRIVATE KEY") && !asked.contains("PRIVATE KEY"));
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
}

/// A disk that hangs while certificates are read blocks one request, and the next ones are refused; it is reported as a
/// problem of the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_disk_blocks_one_request_about_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let (own, issuer) = authority(folder.path(), "spiffe://cps-peering/host/h1");
    let agent = agent(folder.path(), &own);
    let ca = folder.path().join("ca.pem");
    let pem = fs::read(&ca).unwrap();
    fs::remove_file(&ca).unwrap();
    nix::unistd::mkfifo(&ca, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let put = async |number| {
        let mut request = Request::builder().method("PUT").uri("/v1/crl").header("host", "h1");
        request.extensions_mut().unwrap().insert(Peer::named(vec![CONTROLLER.to_owned()]));
        let body = list(&issuer, number, number);
        agent.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap().status().as_u16()
    };
    let (client, refused) = (timeout(Duration::from_millis(10), put(1)), put(2));
    assert!(client.await.is_err(), "a client that disconnects aborts nothing");
    assert_eq!(refused.await, 503);
    let (_, report) = call(&agent, CONTROLLER, "GET", "/v1/status", &Value::Null).await;
    assert!(report.contains("the disk has not taken it") && report.contains("sent.pem"), "{report}");
    // It responds again.
    let mut hanging = fs::OpenOptions::new().write(true).open(&ca).unwrap();
    fs::write(folder.path().join("file"), &pem).unwrap();
    fs::rename(folder.path().join("file"), &ca).unwrap();
    hanging.write_all(&pem).unwrap();
    drop(hanging);
    assert_eq!((put(2).await, own.facts().revoked), (204, 2));
}
