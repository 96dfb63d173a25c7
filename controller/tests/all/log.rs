//! The log: who requested what under which id, for people and for the journal, and without secrets.

use crate::running::{Controller, Place, TOKEN, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt};

const REGION: &str = "/v1/regions/north";

/// Creates regions, an unreachable host, and two peered VPCs of an account. Returns the id of that request, and
/// of the peering.
async fn peer(controller: &Controller, token: &str) -> [String; 2] {
    let host = json!({ "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": "http://127.0.0.1:1" });
    let inventory = json!({ "regions": [{ "id": "north" }], "hosts": [host] });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    let call = async |method: Method, path: &str, body: Value| {
        let request = controller.ask(method, &format!("{REGION}/{path}")).bearer_auth(token).body(body.to_string());
        let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut vpcs = Vec::new();
    for cidr in ["10.1.0.0/16", "10.2.0.0/16"] {
        let made = call(Method::PUT, "vpcs", json!({ "vpcSpec": { "name": "vpc", "cidr": cidr } })).await;
        vpcs.push(text(&made["result"]["vpcId"]));
    }
    let body = json!({ "vpcPeeringName": "p", "vpcId": vpcs[0], "remoteVpcId": vpcs[1] });
    let made = call(Method::POST, "vpcPeerings/", body).await;
    [text(&made["requestId"]), text(&made["result"]["vpcPeering"]["vpcPeeringId"])]
}

#[tokio::test]
async fn requests_commands_and_pushes_are_found_by_their_ids() {
    let controller = Place::new().start().await;
    let [_, _, token] = controller.account("acme").await;
    let [request, peering] = peer(&controller, &token).await;
    let log = controller.log();
    let line = log.lines().find(|line| line.contains(&request)).unwrap();
    assert!(line.contains(&format!("request{{id={request} by=account/acme}}: ")), "{line}");
    assert!(line.contains(&format!("done command=\"CreatePeering\" target=\"{peering}\"")), "{line}");
    assert!(log.contains("by=operator}: ") && log.contains("command=\"AddKey\" target=\"acme\""), "{log}");
    // Lines for people have a time.
    assert!(line.starts_with("20"), "{line}");
    until("the push is told of", async || {
        let log = controller.log();
        log.lines().any(|line| line.contains("push{host=h1 revision=1.") && line.contains("push failed error="))
    })
    .await;
}

#[tokio::test]
async fn lines_for_the_journal_have_a_priority_and_no_time() {
    let place = Place::new();
    fs::write(place.file("log"), "").unwrap();
    let log = fs::metadata(place.file("log")).unwrap();
    let mut command = place.program(&[]);
    command.env("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()));
    let controller = place.start_as(command).await;
    let log = controller.log();
    assert!(log.contains("<6>cps_peering_controller::server: listening address="), "{log}");
    assert!(log.contains("<4>cps_peering_controller::server: TLS is off"), "{log}");
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    // Another stream than the journal's.
    let place = controller.stop();
    let mut command = place.program(&[]);
    command.env("JOURNAL_STREAM", "1:1");
    let controller = place.start_as(command).await;
    assert!(controller.log().lines().all(|line| line.starts_with("20")), "{}", controller.log());
}

#[tokio::test]
async fn no_secret_is_in_the_log() {
    let place = Place::new();
    let mut command = place.program(&[]);
    command.env("RUST_LOG", "trace");
    let controller = place.start_as(command).await;
    let [access_key, secret_key, token] = controller.account("acme").await;
    peer(&controller, &token).await;
    let by_key = controller.sign_in(json!({ "accessKey": access_key, "secretKey": secret_key })).await.unwrap();
    let by_token = controller.sign_in(json!({ "token": token })).await.unwrap();
    let operator = controller.sign_in(json!({ "token": TOKEN })).await.unwrap();
    let wrong = "A-TOKEN-THAT-IS-ANOTHER-CONTROLLERS";
    assert_eq!(controller.sign_in(json!({ "token": wrong })).await, Err(401));
    assert_eq!(controller.sign_in(json!({ "accessKey": access_key, "secretKey": wrong })).await, Err(401));
    assert_eq!(controller.code(wrong, "/v1/whoami").await, 401);
    let signature = "feedfacefeedfacefeedfacefeedface";
    let authorization = format!(
        "JDCLOUD3-HMAC-SHA256 Credential={access_key}/20260101/jdcloud-api/vpc/jdcloud3_request, \
         SignedHeaders=host, Signature={signature}"
    );
    let request = controller.ask(Method::GET, "/v1/whoami").header("authorization", authorization);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 401);
    for cookie in [&by_key, &by_token, &operator] {
        let request = controller.ask(Method::GET, "/v1/whoami").header("cookie", cookie);
        assert!(request.send().await.unwrap().status().is_success());
    }
    // In the body of a request that cannot be parsed, too.
    assert_eq!(controller.sign_in(json!({ "token": token, "more": wrong })).await, Err(400));
    controller.reload().await;

    let log = controller.log();
    assert!(log.contains(" TRACE ") && log.contains("answered method=GET path=\"/v1/whoami\" code=401"), "{log}");
    let cookie = |cookie: &String| cookie.split('=').nth(1).unwrap().to_owned();
    let secrets = [TOKEN, wrong, signature, &secret_key, &token].map(str::to_owned);
    for secret in secrets.into_iter().chain([cookie(&by_key), cookie(&by_token), cookie(&operator)]) {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret}");
    }
}
