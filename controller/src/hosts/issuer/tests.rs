use super::*;
use cps_peering_config::tls::{AGENT_DNS_NAME, CONTROLLER, HOST_ISSUER, TlsFiles};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, SanType};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use tempfile::TempDir;

const DAY: Duration = Duration::from_hours(24);

/// Changes a certificate before it is signed.
type Change = fn(&mut CertificateParams);

/// A CA, an issuer below it, and a controller.
struct Fixture {
    folder: TempDir,
    ca: Issuer<'static, KeyPair>,
    identity: Identity,
    settings: AgentCertificateSettings,
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn ca_params(path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("CA with {path_length}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// What `pki` issues for a host, ten days ago for eleven days.
fn host_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![AGENT_DNS_NAME.to_owned()]).unwrap();
    params.subject_alt_names.push(uri(name));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - DAY * 10).into();
    params.not_after = (SystemTime::now() + DAY).into();
    params
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |file: &str| folder.path().join(file);
        let (params, key) = (ca_params(1), KeyPair::generate().unwrap());
        fs::write(path("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let ca = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        fs::write(path("own.pem"), host_params(CONTROLLER).signed_by(&own, &ca).unwrap().pem()).unwrap();
        private(&path("own.key"), &own.serialize_pem());
        let files = TlsFiles { ca: path("ca.pem"), cert: path("own.pem"), key: path("own.key"), crl: None };
        let settings = AgentCertificateSettings { issuer: path("issuer.pem"), key: path("issuer.key"), days: 30 };
        let fixture = Self { ca, identity: Identity::open(&files).unwrap(), settings, folder };
        fixture.put_issuer(&fixture.ca, |params| params.subject_alt_names = vec![uri(HOST_ISSUER)]);
        fixture
    }

    /// Installs another issuer, signed by this CA.
    fn put_issuer(&self, ca: &Issuer<'static, KeyPair>, change: impl FnOnce(&mut CertificateParams)) {
        let (mut params, key) = (ca_params(0), KeyPair::generate().unwrap());
        params.not_after = (SystemTime::now() + DAY * 365).into();
        change(&mut params);
        fs::write(&self.settings.issuer, params.signed_by(&key, ca).unwrap().pem()).unwrap();
        private(&self.settings.key, &key.serialize_pem());
    }

    fn read(&self) -> Result<AgentIssuer, IssuerError> {
        AgentIssuer::read(&self.settings, SystemTime::now())
    }

    /// A certificate that is to be replaced, and its key.
    fn old(&self, change: impl FnOnce(&mut CertificateParams)) -> (CertificateDer<'static>, KeyPair) {
        let (mut params, key) = (host_params(&host_name(&h1())), KeyPair::generate().unwrap());
        change(&mut params);
        (params.signed_by(&key, &self.ca).unwrap().der().clone(), key)
    }

    fn issue(&self, request: &str, replaced: &CertificateDer<'_>) -> Result<Issued, NotIssued> {
        let issuer = self.read().unwrap();
        issuer.issue(request.as_bytes(), replaced, &h1(), &self.identity, SystemTime::now())
    }

    /// Why nothing is issued.
    fn refused(&self, request: &str, replaced: &CertificateDer<'_>) -> String {
        self.issue(request, replaced).unwrap_err().to_string()
    }
}

fn h1() -> HostId {
    "h1".parse().unwrap()
}

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn only_the_key_of_a_request_is_used() {
    let fixture = Fixture::new();
    let (replaced, _) = fixture.old(|_| {});
    let key = KeyPair::generate().unwrap();
    // A compromised host requests anything.
    let wanted = request(&key, |params| {
        params.distinguished_name.push(DnType::CommonName, "controller");
        params.subject_alt_names = vec![uri(CONTROLLER), SanType::DnsName("api.example.com".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    let issued = fixture.issue(&wanted, &replaced).unwrap();
    let pems: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(issued.pem.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(pems.len(), 2, "it and the issuer's");
    let (new, old) = (pems[0].parse_x509().unwrap(), X509Certificate::from_der(&replaced).unwrap().1);
    assert_eq!(new.public_key().raw, key.subject_public_key_info());
    for oid in [OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_EXTENDED_KEY_USAGE] {
        assert_eq!(extension(&new, &oid).unwrap().value, extension(&old, &oid).unwrap().value);
    }
    assert_eq!(new.subject().to_string(), "O=cps-peering, CN=host/h1");
    assert!(!new.is_ca() && !new.key_usage().unwrap().unwrap().value.key_cert_sign());
    let days = (new.validity().not_after.timestamp() - new.validity().not_before.timestamp()) / 86_400;
    assert_eq!(days, 30);
    assert_ne!(new.raw_serial(), old.raw_serial());
    assert_eq!(issued.serial, new.raw_serial_as_string());
    assert_eq!(tls::first_serial(&new).unwrap(), old.serial.to_bytes_be());
    // The next one refers to the first, too.
    let second = CertificateDer::from(pems[0].contents.clone());
    let next = fixture.issue(&request(&KeyPair::generate().unwrap(), |_| {}), &second).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(next.pem.as_bytes()).unwrap();
    assert_eq!(tls::first_serial(&pem.parse_x509().unwrap()).unwrap(), old.serial.to_bytes_be());
}

#[test]
fn it_lasts_no_longer_than_its_issuer_and_begins_no_earlier_than_the_one_that_it_replaces() {
    let fixture = Fixture::new();
    let ends = SystemTime::now() + DAY * 5;
    fixture.put_issuer(&fixture.ca, |params| params.not_after = ends.into());
    let begins = SystemTime::now() - Duration::from_mins(1);
    let (replaced, _) = fixture.old(|params| params.not_before = begins.into());
    let issued = fixture.issue(&request(&KeyPair::generate().unwrap(), |_| {}), &replaced).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(issued.pem.as_bytes()).unwrap();
    let validity = pem.parse_x509().unwrap().validity().clone();
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(validity.not_after.timestamp().unsigned_abs(), seconds(ends));
    assert_eq!(validity.not_before.timestamp().unsigned_abs(), seconds(begins));
}

const P521: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIIBQjCBpQIBADAAMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBgxR9wvTEYGgh
y0w5BchYEFS393/lqotQ/zk4PyTi9sV7EUbFILJuGjlEGxXy1eNdU9UPx4RZkDs4
6r3uTETCDBkB2rmslGMEROIfsoU3vZQOZiYi3COBEBr0cc6nzoEYmkb7A6mLNvXl
ejv3K9W8x6LDtuw79IOxpdy9YfAfstHRtiCgADAKBggqhkjOPQQDAgOBiwAwgYcC
QWRYk8WyGur2SiLF5upgSKWjdqhbudOCSns+nAnNxmPkWjid2coAuEEjG+eAZ7zj
yTKEgdILdbUGfan4FjTZIoWpAkIBBlHPEDwIU9R3oXK0+9eySVrtdTY/tjXGU1lJ
Zz0XxGFwZuVVwpd+/dRUTVeOHEnwHzDD3mpbqgA6ooY6FlOUlic=
-----END CERTIFICATE REQUEST-----
";

#[test]
fn requests_that_prove_nothing_are_refused() {
    let fixture = Fixture::new();
    let (replaced, old_key) = fixture.old(|_| {});
    let good = request(&KeyPair::generate().unwrap(), |_| {});
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        fixture.issue(&request(&KeyPair::generate_for(algorithm).unwrap(), |_| {}), &replaced).unwrap();
    }
    for rubbish in ["", "rubbish", &good[..good.len() / 2], &to_pem(std::slice::from_ref(&replaced))] {
        assert!(fixture.refused(rubbish, &replaced).contains("no certificate signing request"), "{rubbish}");
    }
    assert!(fixture.refused(P521, &replaced).contains("P-256 or P-384, or Ed25519"));
    assert!(fixture.refused(&request(&old_key, |_| {}), &replaced).contains("must be a new one"));
    // Another key, signed by the caller's.
    let (_, block) = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents).unwrap();
    let own = parsed.certification_request_info.subject_pki.raw;
    let at = block.contents.windows(own.len()).position(|part| part == own).unwrap();
    let mut forged = block.contents.clone();
    forged[at..at + own.len()].copy_from_slice(&old_key.subject_public_key_info());
    let forged = pem_of_request(&forged);
    assert!(fixture.refused(&forged, &replaced).contains("signature is not by its public key"));
}

fn pem_of_request(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn only_a_certificate_of_this_host_alone_is_replaced() {
    let fixture = Fixture::new();
    let good = request(&KeyPair::generate().unwrap(), |_| {});
    let cases: [(&str, Change); 8] = [
        ("subject alternative name", |it| it.subject_alt_names = vec![uri("spiffe://cps-peering/host/h2")]),
        ("subject alternative name", |it| it.subject_alt_names.push(uri(CONTROLLER))),
        ("subject alternative name", |it| it.subject_alt_names.push(uri("spiffe://cps-peering/host/h1/"))),
        ("subject alternative name", |it| it.subject_alt_names.clear()),
        ("basicConstraints", |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("extended key usage", |it| it.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)),
        ("extended key usage", |it| it.extended_key_usages.push(ExtendedKeyUsagePurpose::Any)),
        ("extended key usage", |it| drop(it.extended_key_usages.remove(0))),
    ];
    for (field, change) in cases {
        let (replaced, _) = fixture.old(change);
        let refused = fixture.refused(&good, &replaced);
        assert!(refused.starts_with(&format!("the agent's certificate: {field} ")), "{field}: {refused}");
    }
    // Without any extended key usage it is valid as well, and stays so.
    let (replaced, _) = fixture.old(|it| it.extended_key_usages.clear());
    fixture.issue(&good, &replaced).unwrap();
    assert!(fixture.refused(&good, &CertificateDer::from(vec![1, 2, 3])).contains("cannot be read"));
}

#[test]
fn what_was_revoked_is_not_replaced() {
    let fixture = Fixture::new();
    let good = request(&KeyPair::generate().unwrap(), |_| {});
    let (replaced, _) = fixture.old(|params| params.serial_number = Some(SerialNumber::from(77_u64)));
    let renewed = fixture.issue(&good, &replaced).unwrap();
    let renewed = x509_parser::pem::parse_x509_pem(renewed.pem.as_bytes()).unwrap().1.contents;
    let list = rcgen::CertificateRevocationListParams {
        this_update: SystemTime::now().into(),
        next_update: (SystemTime::now() + DAY).into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(77_u64),
            revocation_time: SystemTime::now().into(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    fs::write(fixture.folder.path().join("crl.pem"), list.signed_by(&fixture.ca).unwrap().pem().unwrap()).unwrap();
    fixture.identity.reload().unwrap();
    let next = request(&KeyPair::generate().unwrap(), |_| {});
    for revoked in [replaced, CertificateDer::from(renewed)] {
        assert!(matches!(fixture.issue(&next, &revoked), Err(NotIssued::Revoked)));
    }
    let (other, _) = fixture.old(|_| {});
    fixture.issue(&next, &other).unwrap();
}

#[test]
fn an_issuer_that_cannot_be_used_is_named_with_the_setting() {
    let fixture = Fixture::new();
    let refused = || fixture.read().unwrap_err().to_string();
    fixture.read().unwrap();
    fs::set_permissions(&fixture.settings.key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused().starts_with("agent_certificates.key: "), "{}", refused());
    assert!(refused().contains("0640"), "{}", refused());
    private(&fixture.settings.key, "rubbish");
    assert!(refused().contains("holds no private key"), "{}", refused());
    private(&fixture.settings.key, &KeyPair::generate().unwrap().serialize_pem());
    assert!(refused().contains("is not the key of the certificate"), "{}", refused());
    fs::write(&fixture.settings.issuer, "rubbish").unwrap();
    assert!(refused().starts_with("agent_certificates.issuer: "), "{}", refused());
    let cases: [(&str, Change); 4] = [
        ("basicConstraints must say", |it| it.is_ca = IsCa::NoCa),
        ("keyUsage must have keyCertSign", |it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("is not valid now", |it| it.not_after = (SystemTime::now() - DAY).into()),
        ("is not valid now", |it| it.not_before = (SystemTime::now() + DAY).into()),
    ];
    for (said, change) in cases {
        fixture.put_issuer(&fixture.ca, change);
        assert!(refused().contains(said), "{said}: {}", refused());
    }
    fs::remove_file(&fixture.settings.key).unwrap();
    assert!(refused().starts_with("agent_certificates.key: "), "{}", refused());
}

#[test]
fn what_agents_would_not_take_is_not_sent() {
    let (fixture, stranger) = (Fixture::new(), Fixture::new());
    let good = request(&KeyPair::generate().unwrap(), |_| {});
    let (replaced, _) = fixture.old(|_| {});
    fixture.put_issuer(&stranger.ca, |_| {});
    let error = fixture.issue(&good, &replaced).unwrap_err();
    assert!(error.to_string().starts_with("agent_certificates.issuer: ") && !error.is_of_agent(), "{error}");
    // The CA itself can be the issuer; the verifier has its certificate.
    fs::copy(fixture.folder.path().join("ca.pem"), &fixture.settings.issuer).unwrap();
    private(&fixture.settings.key, &fixture.ca.key().serialize_pem());
    let issued = fixture.issue(&good, &replaced).unwrap();
    assert_eq!(issued.pem.matches("BEGIN CERTIFICATE").count(), 1);
}
