//! `cps-peering pki`, and a controller with certificates made by it.

#[path = "../../cli/tests/certificates/mod.rs"]
mod certificates;

use certificates::{made, pki, refused};
use cps_peering_http::tls;
use reqwest::Client;
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const TOKEN: &str = "only-for-this-test";

fn program() -> Command {
    let mut command = crate::programs::cli();
    command.env("CPS_PEERING_TOKEN", TOKEN).env("HOME", "/nonexistent");
    command
}

/// A program that ends with the test.
pub struct Controller(pub Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a private file.
pub fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn settings(folder: &Path, port: u16, tls: &str) -> std::path::PathBuf {
    let file = folder.join("controller.toml");
    let (store, token) = (folder.join("store.redb"), folder.join("token"));
    private(&token, TOKEN);
    let (store, token) = (store.display(), token.display());
    let text = format!("listen = '127.0.0.1:{port}'\nstore = '{store}'\noperator_token_file = '{token}'\n{tls}\n");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn without_certificates_a_controller_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = settings(folder.path(), 0, "");
    let ended =
        Command::new(env!("CARGO_BIN_EXE_cps-peering-controller")).arg("--settings").arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(64) && said.contains("setting `tls` is missing"), "{ended:?}");
    assert!(said.contains("cps-peering pki"), "{said}");
}

/// Sends a `ClientHello` of TLS 1.2.
fn older_tls_is_refused(port: u16) {
    // Groups: x25519, secp256r1. Signatures: ECDSA and RSA with SHA-256.
    const EXTENSIONS: [u8; 24] = [0, 10, 0, 6, 0, 4, 0, 29, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    // TLS 1.2, 32 random bytes, no session; ECDHE-ECDSA with AES-128-GCM; no compression.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, u8::try_from(EXTENSIONS.len()).unwrap()]);
    hello.extend(EXTENSIONS);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&record).unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    // A fatal alert: protocol_version.
    assert_eq!((answer[0], answer[5], answer[6]), (21, 2, 70), "{answer:?}");
}

#[tokio::test]
async fn clients_are_identified_by_token_or_certificate_and_verify_the_controller() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    for arguments in [&["init"][..], &["issue", "controller"], &["issue", "operator"], &["issue", "monitoring"]] {
        made(&dir, arguments);
    }
    let port = crate::loopback::unused().port();
    let path = |file: &str| dir.join(file);
    let (ca, cert, key) = (path("ca.pem"), path("controller.pem"), path("controller.key"));
    let tls = format!("tls = {{ ca = '{}', cert = '{}', key = '{}' }}", ca.display(), cert.display(), key.display());
    let file = settings(folder.path(), port, &tls);
    let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
    let child = command.arg("--settings").arg(file).stderr(Stdio::null()).spawn().unwrap();
    let mut controller = Controller(child);
    let url = format!("https://localhost:{port}");
    let ca_file = ca.to_str().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !program().args(["--controller", &url, "--ca", ca_file, "whoami"]).output().unwrap().status.success() {
        assert!(Instant::now() < until && controller.0.try_wait().unwrap().is_none(), "it does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    older_tls_is_refused(port);
    // Another CA, and an address that the certificate does not name.
    let other = folder.path().join("other");
    made(&other, &["init"]);
    let ended = program()
        .args(["--controller", &url, "--ca", other.join("ca.pem").to_str().unwrap(), "whoami"])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let elsewhere = format!("https://127.0.0.2:{port}");
    assert_eq!(
        program().args(["--controller", &elsewhere, "--ca", ca_file, "whoami"]).output().unwrap().status.code(),
        Some(3)
    );

    let client = |name: Option<&str>| {
        let files = name.map(|name| (path(&format!("{name}.pem")), path(&format!("{name}.key"))));
        let own = files.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        Client::builder().tls_backend_preconfigured(tls::client(&ca, own).unwrap()).build().unwrap()
    };
    let (nobody, operator, monitoring) = (client(None), client(Some("operator")), client(Some("monitoring")));
    let code =
        async |client: &Client, path: &str| client.get(format!("{url}{path}")).send().await.unwrap().status().as_u16();
    assert_eq!(code(&operator, "/admin/v1/hosts").await, 200);
    assert_eq!(code(&monitoring, "/admin/v1/hosts").await, 401);
    assert_eq!(code(&nobody, "/admin/v1/hosts").await, 401);
    // A certificate does not compensate for a wrong token.
    let wrong = operator.get(format!("{url}/admin/v1/hosts")).bearer_auth("wrong").send().await.unwrap();
    assert_eq!(wrong.status().as_u16(), 401);
    // The command line with a certificate, and without any token.
    let by_certificate = |name: &str, arguments: &[&str]| {
        let files = ["pem", "key"].map(|end| path(&format!("{name}.{end}")).to_str().unwrap().to_owned());
        let mut command = crate::programs::cli();
        command.env_clear().env("HOME", folder.path()).args(["--ca", ca_file, "--cert", &files[0], "--key", &files[1]]);
        command.args(arguments).output().unwrap()
    };
    let told = |arguments: &[&str]| by_certificate("operator", &[&["--controller", &url], arguments].concat());
    let whoami: Value = serde_json::from_slice(&told(&["whoami", "-o", "json"]).stdout).unwrap();
    assert_eq!(whoami["role"], "operator");
    assert!(told(&["admin", "account", "create", "by-certificate"]).status.success());
    refused(
        &by_certificate("monitoring", &["--controller", &url, "whoami"]),
        "there was no token, but the certificate",
    );
    refused(&by_certificate("operator", &["--controller", "http://127.0.0.1:1", "whoami"]), "use https://");
    refused(&by_certificate("nobody", &["--controller", &url, "whoami"]), "nobody.pem");
    // A profile saves it.
    assert!(told(&["profile", "set", "work"]).status.success());
    let mut command = crate::programs::cli();
    let ended = command.env_clear().env("HOME", folder.path()).args(["--profile", "work", "whoami"]).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let mut command = crate::programs::cli();
    let ended = command.args(["--cert", "x", "whoami"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "one without the other: {ended:?}");
    // A stream authenticated by a certificate lasts as long as the certificate is valid.
    let mut events = operator.get(format!("{url}/console/events")).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    for account in ["one", "two"] {
        assert!(told(&["admin", "account", "create", account]).status.success());
        assert!(events.chunk().await.unwrap().is_some(), "{account}");
    }
    drop(events);
    // A browser presents the certificate for any page: requests from another site's page change nothing.
    let host = format!("localhost:{port}");
    let account = |headers: &[(&str, &str)]| {
        let request = operator.post(format!("{url}/admin/v1/accounts")).body(r#"{ "accountId": "made" }"#);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null"), ("sec-fetch-site", "none")],
    ] {
        assert_eq!(account(headers).send().await.unwrap().status().as_u16(), 403, "{headers:?}");
        assert_eq!(code(&operator, "/admin/v1/accounts/made").await, 404, "{headers:?}");
    }
    let own = [("sec-fetch-site", "same-origin"), ("origin", &format!("https://{host}"))];
    assert_eq!(account(&own).send().await.unwrap().status().as_u16(), 200);
    let again = account(&[]).send().await.unwrap();
    assert_eq!(again.status().as_u16(), 409, "a program, which is no browser");
    assert_eq!(code(&nobody, "/metrics").await, 403);
    let text = monitoring.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    for name in [
        "cps_controller_pushes_total{outcome=\"failed\"} 0",
        "cps_controller_hosts{state=\"in_sync\"} 0",
        "cps_controller_peerings{state=\"active\"} 0",
        "cps_controller_store_commit_seconds_count",
        "cps_controller_convergence_seconds_bucket",
        "cps_controller_build_info{version=",
        "cps_controller_certificate_expiry_timestamp_seconds{certificate=\"own\"}",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let route = "cps_controller_http_request_seconds_count{method=\"GET\",route=\"/admin/v1/hosts\",code=\"200\"} 1";
    assert!(text.contains(route), "{text}");
    // A revoked certificate is invalid within seconds, also on open connections; others stay valid.
    assert_eq!(code(&operator, "/admin/v1/hosts").await, 200);
    assert!(pki(&dir, &["revoke", "operator"]).status.success());
    let until = Instant::now() + Duration::from_secs(20);
    let is_good =
        async || operator.get(format!("{url}/admin/v1/hosts")).send().await.is_ok_and(|it| it.status().is_success());
    while is_good().await {
        assert!(Instant::now() < until, "the list is not taken up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!told(&["whoami"]).status.success());
    assert_eq!(code(&monitoring, "/metrics").await, 200);
    made(&dir, &["issue", "operator", "--force"]);
    assert!(told(&["whoami"]).status.success(), "another one under the same name is good");
}
