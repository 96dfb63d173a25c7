//! `cps-peering pki`, by itself.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod certificates;

use certificates::{made, pki, refused};
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
    refused(&pki(&dir, &["issue", "host", "h3", "h2"]), "host-h2.pem is there already; --force");
    assert!(!dir.join("host-h3.pem").exists(), "all or none");
    refused(&pki(&dir, &["init"]), "ca.pem is there already");
    assert_eq!(fs::read(dir.join("host-h2.key")).unwrap(), before);
    made(&dir, &["issue", "host", "h2", "--force"]);
    assert_ne!(fs::read(dir.join("host-h2.key")).unwrap(), before);
    assert_eq!(made(&dir, &["show"]).len(), 3);
}

#[test]
fn what_was_issued_under_a_name_can_be_taken_back_by_it() {
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
    // Without older ones that are good, it is.
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
