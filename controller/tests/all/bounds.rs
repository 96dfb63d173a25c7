//! Requests of one account take nothing from others, however large or strange they are.

use crate::running::{Controller, Place, TOKEN};
use reqwest::Method;
use serde_json::{Value, json};

const REGION: &str = "/v1/regions/north";

/// A controller with a region and two accounts, and their tokens.
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
    let body = body.to_string();
    let send = async || controller.ask(method.clone(), path).bearer_auth(token).body(body.clone()).send().await;
    let mut answer = send().await;
    if answer.is_err() && body.len() < 1000 {
        // The connection was kept from a request that was too long, and was not known to be closed yet.
        answer = send().await;
    }
    // A request that is too long may be answered, and its connection closed, before all of it is sent.
    let Ok(answer) = answer else {
        return (413, String::new());
    };
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn long_values_are_refused_with_short_errors() {
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
            // Escaped, some bodies exceed a tenant's limit.
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
    // What is recorded of it is short, too.
    let trail = controller.get(TOKEN, "/admin/v1/audit?limit=1000").await.text().await.unwrap();
    assert!(trail.len() < asked * 3000, "{} bytes after {asked} refusals", trail.len());
    // Others are not affected, and nothing has stopped.
    let (code, answer) = call(&controller, &other, Method::PUT, &format!("{REGION}/vpcs"), vpc("mine")).await;
    assert_eq!(code, 200, "{answer}");
    let health = controller.get(TOKEN, "/healthz").await;
    assert!(health.text().await.unwrap().starts_with("ok"));
}

#[tokio::test]
async fn deceptive_names_are_refused_and_existing_ones_stay() {
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
        // Nothing of it reaches a terminal unescaped.
        assert!(!answer.contains(['\u{202e}', '\u{200b}', '\u{2028}']), "{answer}");
    }
    let (code, answer) = create("京东云-می\u{200c}خواهم", "1\n\t2").await;
    assert_eq!(code, 200, "{answer}");
}

/// Repeats until it is refused. Returns how often it succeeded, and the refusal.
async fn until_refused(
    controller: &Controller,
    token: &str,
    most: usize,
    request: impl Fn(usize) -> (Method, String, Value),
) -> (usize, String) {
    for number in 0..most {
        let (method, path, body) = request(number);
        let (code, answer) = call(controller, token, method, &path, body).await;
        match code {
            200 => {}
            429 => return (number, answer),
            code => panic!("{code}: {answer}"),
        }
    }
    panic!("there is no end");
}

#[tokio::test]
async fn every_quota_is_enforced() {
    let settings = "vpcs_per_region = 4\nsecondary_cidrs_per_region = 3\ntags_per_region = 5\nclient_tokens = 6\n\
                    blocked_accounts = 7\nrequests_burst = 5000\nrequests_per_account_per_hour = 2\n";
    let (controller, one, other) = controller(settings).await;
    let quota = async |kind: &str| {
        let (code, answer) =
            call(&controller, &one, Method::GET, &format!("{REGION}/quotas/?type={kind}"), Value::Null).await;
        assert_eq!(code, 200, "{answer}");
        let quota = serde_json::from_str::<Value>(&answer).unwrap()["result"]["quota"].clone();
        (quota["count"].as_u64().unwrap(), quota["maxLimit"].as_u64().unwrap())
    };
    let vpc = |number: usize| {
        let spec = json!({ "cidr": format!("10.{number}.0.0/16"), "name": "v" });
        (Method::PUT, format!("{REGION}/vpcs"), json!({ "vpcSpec": spec }))
    };
    let (made, refused) = until_refused(&controller, &one, 50, vpc).await;
    assert!(made == 4 && refused.contains("VpcLimitExceeded"), "{made} {refused}");
    assert_eq!(quota("vpc").await, (4, 4));
    let (_, vpcs) = call(&controller, &one, Method::GET, &format!("{REGION}/vpcs"), Value::Null).await;
    let vpcs: Value = serde_json::from_str(&vpcs).unwrap();
    let id = |number: usize| vpcs["result"]["vpcs"][number]["vpcId"].as_str().unwrap().to_owned();
    let cidr = |number: usize| {
        let spec = json!({ "vpcId": id(number % 2), "cidr": format!("10.{}.0.0/16", 100 + number) });
        (Method::PUT, format!("{REGION}/secondaryCidrs"), json!({ "secondaryCidrSpec": spec }))
    };
    let (made, refused) = until_refused(&controller, &one, 50, cidr).await;
    assert!(made == 3 && refused.contains("SecondaryCidrLimitExceeded"), "{made} {refused}");
    assert_eq!(quota("secondarycidr").await, (3, 3));
    let pairs = [(0, 2), (0, 3), (1, 2)];
    let tagged = |number: usize| {
        let (a, b) = pairs[number];
        let tags = [json!({ "key": "a", "value": "1" }), json!({ "key": "b" })];
        let body =
            json!({ "vpcPeeringName": format!("p{number}"), "vpcId": id(a), "remoteVpcId": id(b), "userTags": tags });
        (Method::POST, format!("{REGION}/vpcPeerings/"), body)
    };
    let (made, refused) = until_refused(&controller, &one, 3, tagged).await;
    assert!(made == 2 && refused.contains("TagLimitExceeded"), "{made} {refused}");
    assert_eq!((quota("tag").await, quota("vpcpeering").await), ((4, 5), (2, 50)));
    let token = |number: usize| {
        let body = json!({ "name": format!("n{number}"), "clientToken": format!("t{number}") });
        (Method::POST, format!("{REGION}/vpcs/{}", id(0)), body)
    };
    let (made, refused) = until_refused(&controller, &one, 50, token).await;
    assert!(made == 6 && refused.contains("ClientTokenLimitExceeded"), "{made} {refused}");
    assert_eq!(quota("clienttoken").await, (6, 6));
    let block = |number: usize| (Method::PUT, format!("/v1/blockedAccounts/x{number}"), Value::Null);
    let (made, refused) = until_refused(&controller, &one, 50, block).await;
    assert!(made == 7 && refused.contains("BlockedAccountLimitExceeded"), "{made} {refused}");
    assert_eq!(quota("peeringrequest&parentResourceId=nobody").await, (0, 2));
    // Blocking one again takes no quota.
    assert_eq!(call(&controller, &one, Method::PUT, "/v1/blockedAccounts/x0", Value::Null).await.0, 200);
    // Others have their own, and operators raise them.
    assert_eq!(until_refused(&controller, &other, 50, vpc).await.0, 4);
    for (kind, more) in [("vpc", 9), ("blockedaccount", 9)] {
        let path = "/admin/v1/accounts/one/quotas/north";
        controller.operator(Method::PUT, path, json!({ "maxLimit": more, "type": kind })).await;
        assert_eq!(quota(kind).await.1, more);
    }
    assert_eq!(until_refused(&controller, &one, 50, |number| vpc(20 + number)).await.0, 5);
    assert_eq!(until_refused(&controller, &one, 50, |number| block(20 + number)).await.0, 2);
    controller.operator(Method::DELETE, "/admin/v1/accounts/one/quotas/north?type=vpc", json!({})).await;
    assert_eq!(quota("vpc").await, (9, 4));
    let (code, answer) = call(&controller, &one, Method::GET, &format!("{REGION}/quotas/?type=x"), Value::Null).await;
    assert!(code == 400 && answer.contains("vpcpeering, vpc, secondarycidr"), "{answer}");
    // Everything is there after a restart, and the counts are the same.
    let place = controller.stop();
    let controller = place.start().await;
    let (_, answer) =
        call(&controller, &one, Method::GET, &format!("{REGION}/quotas/?type=blockedaccount"), Value::Null).await;
    assert!(answer.contains("\"count\":9") && answer.contains("\"maxLimit\":9"), "{answer}");
}
