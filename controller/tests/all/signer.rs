//! Signs requests as JD Cloud's SDK does, with the newer signature.

use cps_peering_config::time::{now_ms, timestamp};
use cps_peering_controller::digest::{hex, sha256};
use ring::hmac;

/// The headers of a signed request; the body's hash is signed, too.
pub fn sign(
    [access_key, secret_key]: [&str; 2],
    method: &str,
    path: &str,
    body: &str,
    nonce: &str,
) -> Vec<(&'static str, String)> {
    let now = timestamp(now_ms());
    let date: String = now.chars().filter(|it| !"-:".contains(*it)).collect();
    let region = path.strip_prefix("/v1/regions/").and_then(|rest| rest.split('/').next()).unwrap_or("jdcloud-api");
    let scope = format!("{}/{region}/vpc/jdcloud3_request", &date[..8]);
    let canonical = format!("{method}\n{path}\n\nhost:controller\n\nhost\n{}", hex(&sha256(body.as_bytes())));
    let text = format!("JDCLOUD3-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&sha256(canonical.as_bytes())));
    let step = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let key = scope
        .split('/')
        .fold(format!("JDCLOUD3{secret_key}").into_bytes(), |key, part| step(&key, part).as_ref().to_vec());
    let signature = hex(step(&key, &text).as_ref());
    let authorization =
        format!("JDCLOUD3-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders=host, Signature={signature}");
    vec![
        ("host", "controller".to_owned()),
        ("x-jdcloud-date", date),
        ("x-jdcloud-nonce", nonce.to_owned()),
        ("authorization", authorization),
    ]
}
