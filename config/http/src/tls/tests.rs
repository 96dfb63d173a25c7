mod renewal;

use super::*;
use crate::{Limits, serve_within};
use axum::{Extension, Router, extract::DefaultBodyLimit, routing::get, routing::post};
use cps_peering_config::tls::{CONTROLLER, OPERATOR};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::ServerName;
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

const H1: &str = "spiffe://cps-peering/host/h1";

/// A CA and the files that it signed.
struct Pki {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, file: &str, uri: &str, days: i64) -> TlsFiles {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let ago = std::time::SystemTime::now() - Duration::from_hours(48);
        params.not_before = ago.into();
        params.not_after = (ago + Duration::from_hours(24 * u64::try_from(days + 2).unwrap())).into();
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let files = self.files(file);
        // The key first: that is what `pki` does, and a pair that was read in between does not fit and is not used.
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&files.cert, cert.pem()).unwrap();
        files
    }

    /// A list that names the certificates of these files.
    fn list(&self, number: u64, files: &[&str]) -> String {
        let now = std::time::SystemTime::now();
        let serial = |file: &&str| {
            let pem = fs::read(self.files(file).cert).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
            SerialNumber::from_slice(pem.parse_x509().unwrap().raw_serial())
        };
        let revoked = |file| RevokedCertParams {
            serial_number: serial(file),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_hours(24)).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: files.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn files(&self, file: &str) -> TlsFiles {
        let path = |name: String| self.folder.path().join(name);
        TlsFiles {
            ca: path("ca.pem".into()),
            cert: path(format!("{file}.pem")),
            key: path(format!("{file}.key")),
            crl: None,
        }
    }
}

struct Running {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

/// A server that responds with the names of the client.
async fn start(identity: &Identity, clients: Clients, limits: Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/", get(async |Extension(peer): Extension<Peer>| peer.names.join(",")))
        .route("/body", post(async |body: axum::body::Bytes| body.len().to_string()))
        .layer(DefaultBodyLimit::max(1000));
    let (stop, stopped) = oneshot::channel();
    let server = identity.server(clients);
    let router = refuse_revoked(router, Some(identity.clone()));
    tokio::spawn(async move {
        serve_within(limits, listener, Some(server), router, async move { stopped.await.unwrap_or_default() }).await;
    });
    Running { address, _stop: stop }
}

impl Running {
    /// The response to a request, or why there is none.
    async fn ask(&self, config: ClientConfig, request: &str) -> Result<String, String> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        let mut stream =
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())?;
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        Ok(text)
    }

    async fn names(&self, config: ClientConfig) -> Result<String, String> {
        let text = self.ask(config, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        Ok(text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn each_side_knows_the_other_by_its_name() {
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let controller = Identity::open(&pki.issue("controller", CONTROLLER, 9)).unwrap();
    let agent = start(&host, Clients::Required, Limits::default()).await;
    assert_eq!(agent.names(controller.client_of(H1)).await.unwrap(), CONTROLLER);
    // Another host's certificate has as good a signature, and another name.
    let error = agent.names(controller.client_of("spiffe://cps-peering/host/h2")).await.unwrap_err();
    assert!(error.contains(H1) && error.contains("host/h2"), "{error}");
    // By its address, as a browser does.
    let by_address = client(&pki.files("h1").ca, Some((&pki.files("h1").cert, &pki.files("h1").key))).unwrap();
    assert_eq!(agent.names(by_address).await.unwrap(), H1);
}

#[tokio::test]
async fn untrusted_peers_are_refused_on_both_sides() {
    let (pki, others) = (Pki::new(), Pki::new());
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let agent = start(&host, Clients::Required, Limits::default()).await;
    // Signed by another CA: the agent neither accepts it nor is accepted.
    let mut stranger = others.issue("controller", CONTROLLER, 9);
    let error = agent.names(Identity::open(&stranger).unwrap().client_of(H1)).await.unwrap_err();
    // The CAs have one name and two keys.
    assert!(error.contains("BadSignature"), "{error}");
    stranger.ca = pki.files("x").ca;
    agent.names(Identity::open(&stranger).unwrap().client_of(H1)).await.unwrap_err();
    // Without a certificate, and with an expired one.
    agent.names(client(&pki.files("x").ca, None).unwrap()).await.unwrap_err();
    let over = Identity::open(&pki.issue("over", CONTROLLER, -1)).unwrap();
    let error = agent.names(over.client_of(H1)).await.unwrap_err();
    assert!(error.contains("xpired"), "{error}");
    // If certificates are optional, a client without one has no names; a bad one is still refused.
    let open = start(&host, Clients::Optional, Limits::default()).await;
    assert_eq!(open.names(client(&pki.files("x").ca, None).unwrap()).await.unwrap(), "");
    open.names(Identity::open(&stranger).unwrap().client_of(H1)).await.unwrap_err();
}

#[tokio::test]
async fn new_files_are_used_and_bad_ones_are_not() {
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let controller = Identity::open(&pki.issue("controller", CONTROLLER, 9)).unwrap();
    let agent = start(&host, Clients::Required, Limits::default()).await;
    let (_tell, told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(controller.clone().keep_fresh(told));
    let before = controller.facts();
    pki.issue("controller", OPERATOR, 20);
    let renewed = async {
        while controller.facts() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), renewed).await.expect("the new certificate is used");
    assert_eq!(agent.names(controller.client_of(H1)).await.unwrap(), OPERATOR);
    fs::write(pki.files("controller").cert, "rubbish").unwrap();
    assert!(controller.reload().unwrap_err().to_string().contains("controller.pem"));
    assert_eq!(agent.names(controller.client_of(H1)).await.unwrap(), OPERATOR);
}

#[tokio::test]
async fn revoked_certificates_are_refused_on_both_sides_and_on_open_connections() {
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let controller = Identity::open(&pki.issue("controller", CONTROLLER, 9)).unwrap();
    let operator = Identity::open(&pki.issue("operator", OPERATOR, 9)).unwrap();
    let agent = start(&host, Clients::Required, Limits::default()).await;
    assert_eq!(agent.names(controller.client_of(H1)).await.unwrap(), CONTROLLER);
    // A connection that is open when the list arrives.
    let stream = TcpStream::connect(agent.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(operator.client_of(H1)));
    let mut open = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut answer = vec![0; 4096];
    open.write_all(request).await.unwrap();
    let length = open.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..length]).starts_with("HTTP/1.1 200"));
    let (_tell, told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(host.clone().keep_fresh(told));
    fs::write(pki.files("x").crl(), pki.list(1, &["operator"])).unwrap();
    let taken_up = async {
        while host.facts().revoked == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), taken_up).await.expect("the list is in force");
    open.write_all(request).await.unwrap();
    let length = open.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..length]).starts_with("HTTP/1.1 401"));
    let error = agent.names(operator.client_of(H1)).await.unwrap_err();
    assert!(error.contains("evoked"), "{error}");
    assert_eq!(agent.names(controller.client_of(H1)).await.unwrap(), CONTROLLER, "others go on");
    // A server is refused, too.
    fs::write(pki.files("x").crl(), pki.list(2, &["operator", "h1"])).unwrap();
    controller.reload().unwrap();
    let error = agent.names(controller.client_of(H1)).await.unwrap_err();
    assert!(error.contains("evoked"), "{error}");
}

#[test]
fn a_received_list_is_checked_and_kept_and_unrevokes_nothing() {
    let (pki, others) = (Pki::new(), Pki::new());
    pki.issue("operator", OPERATOR, 9);
    pki.issue("h2", H1, 9);
    others.issue("operator", OPERATOR, 9);
    let kept = pki.folder.path().join("sent.pem");
    let open =
        || Identity::open_with(&pki.issue("h1", H1, 9), Kept { crl: Some(kept.clone()), renewed: None }).unwrap();
    let host = open();
    for (list, why) in [
        (others.list(1, &["operator"]), "none of the CAs has signed one of its lists"),
        ("rubbish".to_owned(), "holds no revocation list in PEM"),
        (pki.list(1, &["h2"]).replace("MII", "MIJ"), "sent.pem"),
    ] {
        let error = host.take_revocation_lists(list.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why) || error.contains("holds"), "{error}");
        assert_eq!(host.facts().revoked, 0);
    }
    assert_eq!(host.take_revocation_lists(pki.list(2, &["operator"]).as_bytes()).unwrap().revoked, 1);
    // One that names fewer is a mistake, or old.
    assert_eq!(host.take_revocation_lists(pki.list(1, &["h2"]).as_bytes()).unwrap().revoked, 2);
    assert_eq!(open().facts().revoked, 2, "a restart forgets nothing");
    fs::write(&kept, "rubbish").unwrap();
    assert_eq!(open().facts().revoked, 0, "and a broken file of its own stops no daemon");
    // One that was put beside the CA must be a list. That of a CA that is trusted no more, as after its renewal, says nothing here.
    let beside = pki.files("h1").crl();
    fs::write(&beside, "rubbish").unwrap();
    assert!(Identity::open(&pki.files("h1")).unwrap_err().to_string().contains("holds no revocation list in PEM"));
    fs::write(&beside, others.list(1, &["operator"])).unwrap();
    let one = Identity::open(&pki.files("h1")).unwrap();
    assert_eq!((one.facts().revoked, one.revocation_lists().len()), (0, 0));
    // A list that was altered is rejected, and the previous state stays.
    let own = pki.list(1, &["h2"]);
    let end = own.find("-----END").unwrap() - 6;
    let changed = if own[end..].starts_with('A') { "B" } else { "A" };
    fs::write(&beside, format!("{}{changed}{}", &own[..end], &own[end + 1..])).unwrap();
    let error = Identity::open(&pki.files("h1")).unwrap_err().to_string();
    assert!(error.contains("the signature of the list") && error.contains("is wrong"), "{error}");
    fs::write(&beside, others.list(1, &["operator"]) + &own).unwrap();
    let both = Identity::open(&pki.files("h1")).unwrap();
    assert_eq!(both.facts().revoked, 1, "the one that is signed by a CA of now counts");
    assert_eq!(both.revocation_lists(), format!("{}\n", own.trim()).into_bytes());
}

#[test]
fn names_of_an_earlier_list_stay_revoked_beside_the_daemons_own_list() {
    let pki = Pki::new();
    let kept = pki.folder.path().join("sent.pem");
    for name in ["a", "b", "c"] {
        pki.issue(name, OPERATOR, 9);
    }
    let files = pki.issue("h1", H1, 9);
    fs::write(files.crl(), pki.list(1, &["a"])).unwrap();
    let host = Identity::open_with(&files, Kept { crl: Some(kept.clone()), renewed: None }).unwrap();
    assert_eq!(host.take_revocation_lists(pki.list(2, &["a", "b"]).as_bytes()).unwrap().revoked, 2);
    // A controller with an older list takes over, and then one with a newer list.
    assert_eq!(host.take_revocation_lists(pki.list(1, &["a"]).as_bytes()).unwrap().revoked, 2);
    assert_eq!(host.take_revocation_lists(pki.list(3, &["c"]).as_bytes()).unwrap().revoked, 3);
    assert_eq!(
        Identity::open_with(&files, Kept { crl: Some(kept.clone()), renewed: None }).unwrap().facts().revoked,
        3
    );
    // Repeated lists take no room.
    let length = fs::metadata(&kept).unwrap().len();
    for number in 4..10 {
        host.take_revocation_lists(pki.list(number, &["a", "c"]).as_bytes()).unwrap();
    }
    assert_eq!(fs::metadata(&kept).unwrap().len(), length);
}

#[tokio::test]
async fn a_session_is_not_resumed_without_checking_the_certificate() {
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let controller = Identity::open(&pki.issue("controller", CONTROLLER, 9)).unwrap();
    let agent = start(&host, Clients::Required, Limits::default()).await;
    // A client that would resume.
    let mut client = controller.client_of(H1);
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for _ in 0..2 {
        let stream = TcpStream::connect(agent.address).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&client));
        let mut open = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
        open.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(open.read(&mut [0; 4096]).await.unwrap() > 0);
        assert_eq!(open.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn bad_files_are_named() {
    let pki = Pki::new();
    let files = pki.issue("h1", H1, 9);
    let why = |files: &TlsFiles| Identity::open(files).unwrap_err().to_string();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(why(&files).contains("h1.key can be read by others (mode 0644): chmod 600"), "{}", why(&files));
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    let other = TlsFiles { key: pki.issue("h2", H1, 9).key, ..files.clone() };
    assert!(why(&other).contains("h2.key does not belong"), "{}", why(&other));
    let swapped = TlsFiles { cert: files.key.clone(), ..files.clone() };
    assert!(why(&swapped).contains("holds no certificate"), "{}", why(&swapped));
    assert!(why(&TlsFiles { ca: "/nowhere".into(), ..files }).contains("cannot read /nowhere"));
}

#[tokio::test]
async fn a_handshake_that_is_dribbled_holds_no_place() {
    const SHORT: Duration = Duration::from_millis(200);
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let limits = Limits { head: SHORT, connections: 1, ..Limits::default() };
    let server = start(&host, Clients::Optional, limits).await;
    // The beginning of a ClientHello.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    assert_eq!(server.names(host.client_of(H1)).await.unwrap(), H1);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    // A completed handshake, and then half a head.
    let late = server.ask(host.client_of(H1), "GET / HTTP/1.1\r\nhos").await;
    assert!(!late.unwrap_or_default().contains("200"));
    assert_eq!(server.names(host.client_of(H1)).await.unwrap(), H1);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_over_tls_too() {
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let server = start(&host, Clients::Optional, Limits::default()).await;
    let head = |length: usize| {
        format!("POST /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
    };
    let small = server.ask(host.client_of(H1), &(head(1000) + &"x".repeat(1000))).await.unwrap();
    assert!(small.ends_with("1000"), "{small}");
    let large = server.ask(host.client_of(H1), &(head(1001) + &"x".repeat(1001))).await.unwrap();
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
}

#[tokio::test]
async fn the_controller_finds_a_place_among_silent_clients_and_browsers_come_back_over_tls() {
    let pki = Pki::new();
    let host = Identity::open(&pki.issue("h1", H1, 9)).unwrap();
    let controller = Identity::open(&pki.issue("controller", CONTROLLER, 9)).unwrap();
    let limits = Limits {
        connections: 16,
        reserved: 4,
        reserved_names: &[CONTROLLER],
        per_address: 6,
        per_certificate: 2,
        head: Duration::from_hours(1),
        ..Limits::default()
    };
    let agent = start(&host, Clients::Required, limits).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        for _ in 0..10 {
            silent.push(TcpStream::connect(agent.address).await.unwrap());
        }
        let text = agent
            .ask(controller.client_of(H1), "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(text.ends_with(CONTROLLER) && text.contains("strict-transport-security: max-age=31536000"), "{text}");
    }
}
