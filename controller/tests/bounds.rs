//! What one account asks for takes nothing from others, however large or strange it is.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod running;

use reqwest::Method;
use running::{Controller, Place, TOKEN};
use serde_json::{Value, json};

const REGION: &str = "/v1/regions/north";

/// A controller with a region and two accounts, and the tokens of those.
async fn controller(settings: &str) -> (Controller, String, String) {
    let place = Place::new();
    place.settings(settings);
    let controller = place.start().await;
    let inventory = json!({ "regions": [{ "id": "north" }] });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    let [_, _, one] = controller.account("one").await;
    let [_, _, other] = controller.account("other").await;
    (controller, one, other)
}

/// The status and the whole answer.
async fn call(controller: &Controller, token: &str, method: Method, path: &str, body: Value) -> (u16, String) {
    let answer = controller.ask(method, path).bearer_auth(token).body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn whatever_is_said_at_whatever_length_is_refused_in_short() {
    const SHORT: usize = 6000;
    let (controller, one, other) = controller("").await;
    let long = 240_000;
    let vpc = |name: &str| json!({ "vpcSpec": { "cidr": "10.1.0.0/16", "name": name } });
    let mut asked = 0;
    for text in ["\u{7f}", "x", "\"", "\\", "\u{1b}", "私", "\u{202e}"] {
        let text = text.repeat(long / text.len().max(2));
        let peering = json!({ "vpcPeeringName": "p", "vpcId": "vpc-a", "remoteVpcId": "vpc-b" });
        let with = |field: &str| {
            let mut body = peering.clone();
            body[field] = text.clone().into();
            body
        };
        let token = json!({ "clientToken": text, "vpcSpec": vpc("a")["vpcSpec"] });
        let tagged = json!({ "userTags": [{ "key": text, "value": text }] });
        let mut with_tags = peering.clone();
        with_tags["userTags"] = tagged["userTags"].clone();
        let cases = [
            (Method::POST, "vpcPeerings/", with("vpcPeeringName")),
            (Method::POST, "vpcPeerings/", with("description")),
            (Method::POST, "vpcPeerings/", with("vpcId")),
            (Method::POST, "vpcPeerings/", with("remoteAccountId")),
            (Method::POST, "vpcPeerings/", with("clientToken")),
            (Method::POST, "vpcPeerings/", with("bandwidth")),
            (Method::POST, "vpcPeerings/", with(&text)),
            (Method::POST, "vpcPeerings/", with_tags),
            (Method::PUT, "vpcPeerings/vpcpr-0", json!({ "vpcPeeringName": text })),
            (Method::PUT, "vpcPeerings/vpcpr-0", json!({ "description": text })),
            (Method::PUT, "vpcs", vpc(&text)),
            (Method::PUT, "vpcs", token),
            (Method::POST, "vpcs/vpc-0", json!({ "name": text })),
            (Method::PUT, "secondaryCidrs", json!({ "secondaryCidrSpec": { "vpcId": "vpc-0", "cidr": text } })),
        ];
        for (method, path, body) in cases {
            let body_length = body.to_string().len();
            let path = format!("{REGION}/{path}");
            let (code, answer) = call(&controller, &one, method.clone(), &path, body).await;
            // Escaped, some bodies are longer than a tenant's may be.
            assert!([400, 413].contains(&code), "{method} {path}: {code} {answer:.300}");
            assert!(
                answer.len() < SHORT,
                "{method} {path} of {body_length} bytes: {} bytes: {answer:.300}",
                answer.len()
            );
            asked += 1;
        }
        let path = format!("{REGION}/vpcs/{}", "x".repeat(9000));
        let (code, answer) = call(&controller, &one, Method::GET, &path, Value::Null).await;
        assert!(code == 404 && answer.len() < SHORT, "{code} {answer:.300}");
    }
    // What is kept of it is short, too.
    let trail = controller.get(TOKEN, "/admin/v1/audit?limit=1000").await.text().await.unwrap();
    assert!(trail.len() < asked * 3000, "{} bytes after {asked} refusals", trail.len());
    // Nobody else feels it, and nothing has stopped.
    let (code, answer) = call(&controller, &other, Method::PUT, &format!("{REGION}/vpcs"), vpc("mine")).await;
    assert_eq!(code, 200, "{answer}");
    let health = controller.get(TOKEN, "/healthz").await;
    assert!(health.text().await.unwrap().starts_with("ok"));
}

#[tokio::test]
async fn names_that_deceive_are_refused_and_old_ones_stay_as_they_are() {
    let (controller, one, _) = controller("").await;
    let create = async |name: &str, description: &str| {
        let body = json!({ "vpcSpec": { "cidr": "10.1.0.0/16", "name": name, "description": description } });
        call(&controller, &one, Method::PUT, &format!("{REGION}/vpcs"), body).await
    };
    for (name, description) in [
        ("trick-\u{202e}方官云东京", ""),
        ("\u{200b}", ""),
        (" ", ""),
        ("\u{3000}", ""),
        ("a\u{2028}b", ""),
        ("a", "b\u{202e}c"),
        ("a", "\u{1b}[2J"),
    ] {
        let (code, answer) = create(name, description).await;
        assert_eq!(code, 400, "{name:?} {description:?}: {answer}");
        // Nothing of it reaches a terminal as it is.
        assert!(!answer.contains(['\u{202e}', '\u{200b}', '\u{2028}']), "{answer}");
    }
    let (code, answer) = create("京东云-می\u{200c}خواهم", "1\n\t2").await;
    assert_eq!(code, 200, "{answer}");
}
