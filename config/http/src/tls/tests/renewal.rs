//! Certificates that replace those of the settings, and issuers that are trusted for hosts only.

use super::*;
use cps_peering_config::tls::HOST_ISSUER;
use rcgen::{CertificateSigningRequestParams, CustomExtension};
use std::{path::PathBuf, time::SystemTime};

const DAY: Duration = Duration::from_hours(24);

/// A change of a certificate before it is signed.
type Change = fn(&mut CertificateParams);

/// An agent with a place for a renewed certificate, on a host of its own.
struct Agent {
    pki: Pki,
    files: TlsFiles,
    kept: Kept,
    identity: Identity,
}

impl Agent {
    fn new() -> Self {
        let pki = Pki::new();
        let files = pki.issue("h1", H1, 9);
        let kept = Kept { crl: None, renewed: Some(pki.folder.path().join("renewed.pem")) };
        let identity = Identity::open_with(&files, kept.clone()).unwrap();
        Self { pki, files, kept, identity }
    }

    fn path(&self) -> PathBuf {
        self.kept.renewed.clone().unwrap()
    }

    /// Its state after a restart.
    fn again(&self) -> Facts {
        Identity::open_with(&self.files, self.kept.clone()).unwrap().facts()
    }

    /// A certificate for the key of a request, by the CA.
    fn sign(&self, request: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        self.sign_by(&self.pki.issuer, request, change)
    }

    fn sign_by(
        &self,
        issuer: &Issuer<'static, KeyPair>,
        request: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let key = CertificateSigningRequestParams::from_pem(request).unwrap().public_key;
        let mut params = params(H1);
        let replaced = &certificates(&self.files.cert).unwrap()[0];
        let lineage = CustomExtension::from_oid_content(&LINEAGE_OID, lineage_after(replaced).unwrap());
        params.custom_extensions.push(lineage);
        change(&mut params);
        params.signed_by(&key, issuer).unwrap().pem()
    }

    fn renew(&self) -> Facts {
        let request = self.identity.request_certificate().unwrap();
        self.identity.take_certificate(self.sign(&request, |_| {}).as_bytes()).unwrap()
    }
}

/// The content of agents' certificates in these tests, valid from now on.
fn params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - Duration::from_mins(5)).into();
    params.not_after = (SystemTime::now() + DAY * 30).into();
    params
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_the_next_handshake_on_and_connections_go_on() {
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let agent = Agent::new();
    let controller = Identity::open(&agent.pki.issue("controller", CONTROLLER, 9)).unwrap();
    let server = start(&agent.identity, Clients::Required, Limits::default()).await;
    let connect = async || {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(controller.client_of(H1)));
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
    };
    let shown = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let mut open = connect().await;
    open.write_all(ASK).await.unwrap();
    assert!(open.read(&mut [0; 4096]).await.unwrap() > 0);
    let before = [fs::read(&agent.files.cert).unwrap(), fs::read(&agent.files.key).unwrap()];

    let facts = agent.renew();
    assert!(facts.renewed && facts.names == [H1], "{facts:?}");
    open.write_all(ASK).await.unwrap();
    assert!(open.read(&mut [0; 4096]).await.unwrap() > 0, "what was open goes on");
    let next = connect().await;
    assert_ne!(shown(&next), shown(&open));
    let kept = certificates(&agent.path()).unwrap();
    assert_eq!(shown(&next), kept[0]);
    // The operator's files stay untouched.
    assert_eq!(before, [fs::read(&agent.files.cert).unwrap(), fs::read(&agent.files.key).unwrap()]);
    assert_eq!(fs::metadata(agent.path()).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(agent.again(), facts, "also after a restart");
    // Once more, over the previous one.
    let again = agent.renew();
    assert!(again.renewed);
    assert_ne!(certificates(&agent.path()).unwrap(), kept);
}

#[test]
fn a_certificate_that_does_not_fit_is_refused_with_field_and_rule_and_nothing_changes() {
    let agent = Agent::new();
    let before = agent.identity.facts();
    let take = |pem: &str| {
        let refused = agent.identity.take_certificate(pem.as_bytes()).unwrap_err();
        assert_eq!(agent.identity.facts(), before, "{refused}");
        assert!(!agent.path().exists(), "{refused}");
        refused.to_string()
    };
    let stranger = Pki::new();
    let request = agent.identity.request_certificate().unwrap();
    let fits = agent.sign(&request, |_| {});
    assert!(take("rubbish").contains("0 certificates"));
    assert!(take(&fits[..fits.len() / 2]).contains("PEM"));
    assert!(take(&fits.repeat(9)).contains("1 to 8"));
    let cases: [(&str, Change); 8] = [
        ("subject alternative name", |it| {
            it.subject_alt_names = params("spiffe://cps-peering/host/h2").subject_alt_names;
        }),
        ("subject alternative name", |it| it.subject_alt_names.push(SanType::URI(CONTROLLER.try_into().unwrap()))),
        ("subject alternative name", |it| it.subject_alt_names.clear()),
        ("extended key usage", |it| drop(it.extended_key_usages.pop())),
        ("CaUsedAsEndEntity", |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("not valid yet", |it| it.not_before = (SystemTime::now() + DAY).into()),
        ("expired", |it| it.not_after = (SystemTime::now() - Duration::from_mins(1)).into()),
        ("notBefore is earlier", |it| it.not_before = (SystemTime::now() - DAY * 3).into()),
    ];
    for (said, change) in cases {
        let refused = take(&agent.sign(&request, change));
        assert!(refused.contains(said), "{said}: {refused}");
    }
    let refused = take(&agent.sign_by(&stranger.issuer, &request, |_| {}));
    assert!(refused.contains("this host's CAs") && refused.contains("BadSignature"), "{refused}");
    // For the key of a request that was replaced by a newer one; and without any request.
    agent.identity.request_certificate().unwrap();
    assert!(take(&fits).contains("not that of the newest request"));
    let other = Identity::open_with(&agent.files, agent.kept.clone()).unwrap();
    assert!(matches!(other.take_certificate(fits.as_bytes()), Err(RenewalError::NoRequest)));
    // One that would be revoked from the beginning.
    let request = agent.identity.request_certificate().unwrap();
    fs::write(agent.files.crl(), agent.pki.list(1, &["h1"])).unwrap();
    let before = Facts { revoked: 1, ..before.clone() };
    assert_eq!(agent.identity.reload().unwrap(), before);
    let refused = agent.identity.take_certificate(agent.sign(&request, |_| {}).as_bytes()).unwrap_err();
    assert!(refused.to_string().contains("Revoked"), "{refused}");
    // If nothing can be written.
    fs::remove_file(agent.files.crl()).unwrap();
    agent.identity.reload().unwrap();
    fs::create_dir(agent.path().with_file_name("renewed.pem.new")).unwrap();
    let fits = agent.sign(&request, |_| {});
    assert!(matches!(agent.identity.take_certificate(fits.as_bytes()), Err(RenewalError::Write(_))));
    assert!(!agent.identity.facts().renewed);
    // The key still waits: the same certificate can be sent again.
    fs::remove_dir(agent.path().with_file_name("renewed.pem.new")).unwrap();
    assert!(agent.identity.take_certificate(fits.as_bytes()).unwrap().renewed);
    assert!(matches!(agent.identity.take_certificate(fits.as_bytes()), Err(RenewalError::NoRequest)), "once");
    // A daemon that keeps none.
    let plain = Identity::open(&agent.files).unwrap();
    assert!(matches!(plain.request_certificate(), Err(RenewalError::NoPlace)));
    assert!(matches!(plain.take_certificate(fits.as_bytes()), Err(RenewalError::NoPlace)));
}

#[test]
fn after_a_crash_there_is_a_pair_and_one_that_is_damaged_gives_way_to_that_of_the_settings() {
    let agent = Agent::new();
    let of_settings = agent.identity.facts();
    let facts = agent.renew();
    let whole = fs::read(agent.path()).unwrap();
    // A crash while the next one is written: a partial file beside it, readable by others.
    let beside = agent.path().with_file_name("renewed.pem.new");
    fs::write(&beside, &whole[..100]).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(agent.again(), facts);
    agent.renew();
    assert_eq!(fs::metadata(agent.path()).unwrap().permissions().mode() & 0o7777, 0o600);
    // Whatever is wrong with it, the daemon starts.
    let stranger = Agent::new();
    stranger.renew();
    let key_of_other = {
        let (own, other) = (String::from_utf8(whole.clone()).unwrap(), fs::read_to_string(stranger.path()).unwrap());
        let end = "-----END PRIVATE KEY-----\n";
        format!("{}{end}{}", other.split(end).next().unwrap(), own.split(end).nth(1).unwrap()).into_bytes()
    };
    for wrong in [&b""[..], &whole[..whole.len() / 2], &[0xff; 64], &fs::read(stranger.path()).unwrap(), &key_of_other]
    {
        fs::write(agent.path(), wrong).unwrap();
        assert_eq!(agent.again(), of_settings);
    }
    fs::write(agent.path(), &whole).unwrap();
    assert!(agent.again().renewed);
    fs::set_permissions(agent.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!agent.again().renewed, "others can read its key");
}

#[test]
fn an_operator_who_installs_a_newer_certificate_or_another_ca_has_the_last_word() {
    let agent = Agent::new();
    agent.renew();
    let install = |uri: &str, at: SystemTime| {
        let mut params = params(uri);
        (params.not_before, params.not_after) = (at.into(), (SystemTime::now() + DAY).into());
        let key = KeyPair::generate().unwrap();
        fs::write(&agent.files.key, key.serialize_pem()).unwrap();
        fs::write(&agent.files.cert, params.signed_by(&key, &agent.pki.issuer).unwrap().pem()).unwrap();
        agent.identity.reload().unwrap()
    };
    let first = [&agent.files.key, &agent.files.cert].map(|file| fs::read(file).unwrap());
    assert!(!install(H1, SystemTime::now()).renewed, "although it ends earlier");
    // Also one that was issued before the renewal, and is installed after it: the renewed one descends from another
    // one.
    assert!(!install(H1, SystemTime::now() - DAY).renewed);
    // The host has another name from now on: the renewed one is for the former one.
    assert!(!install("spiffe://cps-peering/host/h2", SystemTime::now() - DAY).renewed);
    // The same files once more change nothing.
    for (file, content) in [&agent.files.key, &agent.files.cert].into_iter().zip(&first) {
        fs::write(file, content).unwrap();
    }
    assert!(agent.identity.reload().unwrap().renewed);
    fs::copy(Pki::new().files("x").ca, &agent.files.ca).unwrap();
    assert!(!agent.identity.reload().unwrap().renewed, "its CA is none any more");
}

#[test]
fn the_certificate_issued_later_is_used_while_it_is_valid() {
    use renewed::Choice;
    let choice = |settings, renewed| Choice::new(settings, Some(renewed));
    assert!(!Choice::new(0..=9, None).is_renewed(5));
    for (settings, renewed, at, is_renewed) in [
        (0..=100, 50..=80, 60, true),
        (0..=100, 50..=80, 40, false),
        (0..=100, 50..=80, 90, false),
        (50..=60, 50..=80, 55, true),
        (51..=60, 50..=80, 55, false),
        (51..=60, 50..=80, 70, true),
        (0..=10, 50..=80, 90, false),
    ] {
        assert_eq!(
            choice(settings.clone(), renewed.clone()).is_renewed(at),
            is_renewed,
            "{settings:?} {renewed:?} {at}"
        );
    }
}

/// An operator revokes certificates that `pki` has issued; their descendants are revoked with them.
#[tokio::test]
async fn a_renewed_certificate_is_revoked_with_its_first_ancestor() {
    let agent = Agent::new();
    let controller = Identity::open(&agent.pki.issue("controller", CONTROLLER, 9)).unwrap();
    agent.renew();
    let server = start(&agent.identity, Clients::Required, Limits::default()).await;
    assert_eq!(server.names(controller.client_of(H1)).await.unwrap(), CONTROLLER);
    let peer = Peer::of(&certificates(&agent.path()).unwrap()[0]);
    assert!(!controller.is_revoked(&peer));
    fs::write(agent.files.crl(), agent.pki.list(1, &["h1"])).unwrap();
    controller.reload().unwrap();
    assert!(controller.is_revoked(&peer));
    let error = server.names(controller.client_of(H1)).await.unwrap_err();
    assert!(error.contains("Revoked"), "{error}");
}

#[tokio::test]
async fn a_host_issuer_certifies_hosts_only() {
    let agent = Agent::new();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.subject_alt_names = vec![SanType::URI(HOST_ISSUER.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let certificate = ca.signed_by(&key, &agent.pki.issuer).unwrap().pem();
    let issuer = Issuer::new(ca, key);
    let request = agent.identity.request_certificate().unwrap();
    let renewed = agent.sign_by(&issuer, &request, |_| {}) + &certificate;
    assert!(agent.identity.take_certificate(renewed.as_bytes()).unwrap().renewed);
    // The real agent is accepted.
    let controller = Identity::open(&agent.pki.issue("controller", CONTROLLER, 9)).unwrap();
    let server = start(&agent.identity, Clients::Required, Limits::default()).await;
    assert_eq!(server.names(controller.client_of(H1)).await.unwrap(), CONTROLLER);
    // An attacker who has stolen the issuer's key.
    let forged = |name: &str| {
        let files = agent.pki.issue("forged", name, 9);
        let own = KeyPair::generate().unwrap();
        fs::write(&files.key, own.serialize_pem()).unwrap();
        fs::write(&files.cert, params(name).signed_by(&own, &issuer).unwrap().pem() + &certificate).unwrap();
        Identity::open(&files).unwrap()
    };
    for name in [CONTROLLER, OPERATOR, "urn:li"] {
        server.names(forged(name).client_of(H1)).await.unwrap_err();
        let server = start(&forged(name), Clients::Required, Limits::default()).await;
        let error = server.names(controller.client_of(name)).await.unwrap_err();
        assert!(error.contains("its issuer signs for hosts alone") && error.contains(name), "{error}");
    }
    // It is not accepted as a CA in the first place.
    fs::write(&agent.files.ca, certificate).unwrap();
    let error = agent.identity.reload().unwrap_err().to_string();
    assert!(error.contains("ca.pem") && error.contains("hosts alone"), "{error}");
}
