//! `cps-peering pki`, by itself.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod certificates;

use certificates::{made, pki, refused};
use cps_peering_http::tls::{LINEAGE_OID, certificates, lineage_after};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::{fs, os::unix::fs::MetadataExt, process::Command};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering"));
    command.env_clear().env("HOME", "/nonexistent");
    command
}

#[test]
fn keys_are_secret_and_nothing_is_overwritten_unless_told() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    refused(&pki(&dir, &["issue", "host", "h1"]), "cps-peering pki init");
    assert!(made(&dir, &["init", "--days", "100"])[0]["isCa"] == true);
    let hosts = made(&dir, &["issue", "host", "H.1_b", "h2", "--days", "7"]);
    assert_eq!(hosts[0]["names"], serde_json::json!(["cps-peering-agent", "spiffe://cps-peering/host/H.1_b"]));
    // Seconds may have passed since.
    assert!((6..=7).contains(&hosts[1]["daysLeft"].as_i64().unwrap()), "{hosts:?}");
    assert_ne!(hosts[0]["serial"], hosts[1]["serial"]);
    for (file, mode) in [("ca.key", 0o600), ("ca.pem", 0o644), ("host-h2.key", 0o600), ("host-h2.pem", 0o644)] {
        assert_eq!(fs::metadata(dir.join(file)).unwrap().mode() & 0o7777, mode, "{file}");
    }
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
    let before = fs::read(dir.join("host-h2.key")).unwrap();
    refused(&pki(&dir, &["issue", "host", "h3", "h2"]), "host-h2.pem exists already; --force");
    assert!(!dir.join("host-h3.pem").exists(), "all or none");
    refused(&pki(&dir, &["init"]), "ca.pem exists already");
    assert_eq!(fs::read(dir.join("host-h2.key")).unwrap(), before);
    made(&dir, &["issue", "host", "h2", "--force"]);
    assert_ne!(fs::read(dir.join("host-h2.key")).unwrap(), before);
    assert_eq!(made(&dir, &["show"]).len(), 3);
}

#[test]
fn certificates_can_be_revoked_by_the_name_they_were_issued_under() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    made(&dir, &["init"]);
    let serial =
        |rows: &[Value]| rows[0]["serial"].as_str().unwrap().replace(':', "").trim_start_matches('0').to_owned();
    let first = serial(&made(&dir, &["issue", "host", "h1"]));
    let second = serial(&made(&dir, &["issue", "host", "h1", "--force"]));
    let third = serial(&made(&dir, &["issue", "host", "h2", "--days", "1"]));
    let revoke = |words: &[&str]| -> Value {
        let ended = pki(&dir, &[&["revoke"], words].concat());
        assert!(ended.status.success(), "{ended:?}");
        serde_json::from_slice(&ended.stdout).unwrap()
    };
    let serials = |list: &Value| -> Vec<String> {
        let mut serials: Vec<String> =
            list["revoked"].as_array().unwrap().iter().map(|it| it["serial"].as_str().unwrap().to_owned()).collect();
        serials.sort();
        serials
    };
    let sorted = |mut serials: Vec<String>| {
        serials.sort();
        serials
    };
    // A stolen key was replaced first: the new certificate is not what is meant.
    let ended = pki(&dir, &["revoke", "host-h1"]);
    refused(&ended, &format!("pki revoke {first}`"));
    assert!(!String::from_utf8_lossy(&ended.stderr).contains(&second), "{ended:?}");
    assert!(!dir.join("crl.pem").exists());
    // If all older ones are revoked, it is.
    revoke(&[&first]);
    let list = revoke(&["host-h1"]);
    assert_eq!((serials(&list), list["number"].as_u64()), (sorted(vec![first.clone(), second.clone()]), Some(2)));
    // Again, by its number, and by the name of the only one.
    let list = revoke(&[&second, "host-h2"]);
    assert_eq!((serials(&list), list["number"].as_u64()), (sorted(vec![first, second, third]), Some(3)));
    for (word, why) in
        [("nobody", "nothing was issued"), ("ca", "create a new CA"), ("/nowhere.pem", "nothing was issued")]
    {
        refused(&pki(&dir, &["revoke", word]), why);
    }
    assert_eq!(serials(&revoke(&[])).len(), 3, "the list signed again");
    let shown = made(&dir, &["show"]);
    let warning = |file: &str| {
        let row = shown.iter().find(|row| row["file"].as_str().unwrap().ends_with(file)).unwrap();
        row["warning"].clone()
    };
    assert_eq!(warning("host-h1.pem"), "it is revoked");
    assert_eq!(warning("ca.pem"), Value::Null);
    fs::write(dir.join("crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
    refused(&pki(&dir, &["revoke", "host-h2"]), "crl.pem");
}

/// A certificate as the controller signs it, by the directory's issuer, in the place of a host's.
fn renewed(dir: &std::path::Path, host: &str) -> String {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    let issuer = KeyPair::from_pem(&read("issuer.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("issuer.pem"), issuer).unwrap();
    let replaced = certificates(&dir.join(format!("{host}.pem"))).unwrap();
    let mut params = CertificateParams::default();
    let lineage = CustomExtension::from_oid_content(&LINEAGE_OID, lineage_after(&replaced[0]).unwrap());
    params.custom_extensions.push(lineage);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    format!("{}{certificate}{}", key.serialize_pem(), read("issuer.pem"))
}

#[test]
fn an_issuer_is_a_ca_below_the_ca_and_its_certificates_lead_back_to_the_issued_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    made(&dir, &["init"]);
    let serial = |row: &Value| row["serial"].as_str().unwrap().replace(':', "").trim_start_matches('0').to_owned();
    let first = made(&dir, &["issue", "host", "h1"]);
    let issuer = made(&dir, &["issue", "issuer", "--days", "90"]);
    assert_eq!(issuer[0]["isCa"], true);
    assert_eq!(issuer[0]["names"], serde_json::json!(["spiffe://cps-peering/host-issuer"]));
    assert_eq!(fs::metadata(dir.join("issuer.key")).unwrap().mode() & 0o7777, 0o600);
    refused(&pki(&dir, &["issue", "issuer"]), "issuer.pem exists already");
    let pem = fs::read(dir.join("issuer.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let parsed = pem.parse_x509().unwrap();
    assert_eq!(parsed.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert!(!parsed.key_usage().unwrap().unwrap().value.crl_sign());
    let constraints = parsed.name_constraints().unwrap().unwrap();
    assert!(constraints.critical);
    assert_eq!(constraints.value.permitted_subtrees.as_ref().unwrap().len(), 1);
    assert_eq!(constraints.value.excluded_subtrees.as_ref().unwrap().len(), 2);

    // The file that an agent keeps: the agent's certificate is revoked, by the first of its lineage, and never the issuer.
    let kept = folder.path().join("ledger.pem");
    fs::write(&kept, renewed(&dir, "host-h1")).unwrap();
    let shown = made(&dir, &["show", kept.to_str().unwrap()]);
    assert_eq!(shown.len(), 2, "{shown:?}");
    let goes_back = shown[0]["renewedFrom"].as_str().unwrap().replace(':', "");
    assert_eq!(goes_back.trim_start_matches('0'), serial(&first[0]));
    let ended = pki(&dir, &["revoke", kept.to_str().unwrap()]);
    let list = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && list.contains(&serial(&first[0])), "{ended:?}");
    assert!(!list.contains(&serial(&issuer[0])), "{list}");
    let ended = pki(&dir, &["revoke", "issuer"]);
    assert!(String::from_utf8_lossy(&ended.stdout).contains(&serial(&issuer[0])), "{ended:?}");
    // As `init` made them before 0.3.0.
    let old = folder.path().join("old");
    made(&old, &["init"]);
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    fs::write(old.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(old.join("ca.key"), key.serialize_pem()).unwrap();
    refused(&pki(&old, &["issue", "issuer"]), "pathLenConstraint is 0");
}

#[test]
fn pki_show_tells_whether_the_controller_renews_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    made(&dir, &["init"]);
    made(&dir, &["issue", "host", "h1"]);
    made(&dir, &["issue", "operator"]);
    let settings = folder.path().join("controller.toml");
    let text = "listen = '[::]:1'\nstore = 's'\noperator_token_file = 't'\ntls = 'off'\n";
    let renewal = |file: &str| {
        let shown = made(&dir, &["show", "--settings", settings.to_str().unwrap()]);
        let row = shown.iter().find(|row| row["file"].as_str().unwrap().ends_with(file)).unwrap();
        row["renewal"].clone()
    };
    assert_eq!(renewal("host-h1.pem"), "unknown");
    fs::write(&settings, text).unwrap();
    assert_eq!(renewal("host-h1.pem"), "off");
    fs::write(&settings, format!("{text}agent_certificates = {{ issuer = 'i', key = 'k' }}\n")).unwrap();
    assert_eq!(
        (renewal("host-h1.pem"), renewal("operator.pem"), renewal("ca.pem")),
        ("on".into(), Value::Null, Value::Null)
    );
    fs::write(&settings, "listen = 7").unwrap();
    refused(&pki(&dir, &["show", "--settings", settings.to_str().unwrap()]), "controller.toml");
}
