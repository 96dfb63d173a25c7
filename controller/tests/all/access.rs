//! Authentication, rate limits and sessions: a controller with its settings, tokens and sessions, changed while it runs.

use crate::running::{Place, TOKEN};
use reqwest::{Method, Response, header::COOKIE};
use serde_json::{Value, json};

const WHOAMI: &str = "/v1/whoami";

/// The error of a rate-limited request.
async fn too_often(answer: Response) -> Value {
    assert_eq!(answer.status().as_u16(), 429);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!((&answer["error"]["code"], &answer["error"]["status"]), (&429.into(), &"RATE_LIMIT".into()), "{answer}");
    assert!(answer["requestId"].is_string(), "{answer}");
    answer["error"]["details"][0].clone()
}

/// C10, for the controller's time.
#[tokio::test]
async fn an_account_that_sends_too_many_requests_waits_and_others_do_not() {
    let place = Place::new();
    place.settings("requests_per_s = 1\nrequests_burst = 5\n");
    let controller = place.start().await;
    let [_, _, busy] = controller.account("busy").await;
    let [_, _, other] = controller.account("other").await;
    let mut asked = 0;
    let refused = loop {
        let answer = controller.get(&busy, WHOAMI).await;
        if !answer.status().is_success() {
            break answer;
        }
        asked += 1;
        assert!(asked < 1000, "there is no limit");
    };
    assert!(asked >= 5, "{asked}");
    let detail = too_often(refused).await;
    assert_eq!(detail["reason"], "TooManyRequests");
    assert!(
        detail["rule"].as_str().unwrap().starts_with("account busy sent too many requests: try again in 1 s"),
        "{detail}"
    );
    assert_eq!(controller.code(&other, WHOAMI).await, 200);
    // The command line says it in a sentence.
    let ask = || {
        let mut command = crate::programs::cli();
        command.env_clear().env("HOME", "/nonexistent").args(["--controller", &controller.url, "whoami"]);
        command.env("CPS_PEERING_TOKEN", &busy).output().unwrap()
    };
    let mut ended = ask();
    while ended.status.success() {
        ended = ask();
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("sent too many requests: try again in 1 s"), "{ended:?}");
    // Operators are not limited.
    for _ in 0..50 {
        assert_eq!(controller.code(TOKEN, "/admin/v1/hosts").await, 200);
    }
    // The limit can be lifted while it runs, and be changed again immediately.
    controller.place.settings("requests_per_s = 0\n");
    controller.reload().await;
    for _ in 0..50 {
        assert_eq!(controller.code(&busy, WHOAMI).await, 200);
    }
}

#[tokio::test]
async fn guessing_is_slowed_and_proven_clients_are_not() {
    let metrics = crate::loopback::unused().to_string();
    let place = Place::new();
    place.settings(&format!("failures_per_min = 1\nfailures_burst = 5\nmetrics_listen = '{metrics}'\n"));
    let controller = place.start().await;
    let [access_key, secret_key, token] = controller.account("acme").await;
    let [_, _, late] = controller.account("late").await;
    assert_eq!(controller.code(&token, WHOAMI).await, 200);
    // In whichever way: sign-in, tokens, signatures.
    let wrong = json!({ "accessKey": access_key, "secretKey": "wrong" });
    assert_eq!(controller.sign_in(wrong.clone()).await, Err(401));
    assert_eq!(controller.sign_in(json!({ "token": "wrong" })).await, Err(401));
    let authorization = format!(
        "JDCLOUD3-HMAC-SHA256 Credential={access_key}/20260101/cn-north-1/vpc/jdcloud3_request, SignedHeaders=host, Signature=00"
    );
    let mut asked = 0;
    let refused = loop {
        let answer = controller.get(&format!("wrong-{asked}"), WHOAMI).await;
        if answer.status().as_u16() != 401 {
            break answer;
        }
        asked += 1;
        assert!(asked < 1000, "there is no limit");
    };
    assert_eq!(too_often(refused).await["reason"], "TooManyFailures");
    assert_eq!(controller.sign_in(wrong).await, Err(429));
    // Right credentials are refused, too, so that a guess is worth nothing.
    let key = json!({ "accessKey": access_key, "secretKey": secret_key });
    assert_eq!(controller.sign_in(key.clone()).await, Err(429));
    assert_eq!(controller.code(&late, WHOAMI).await, 429);
    let signed = controller.ask(Method::GET, WHOAMI).header("authorization", authorization).send().await.unwrap();
    assert!([401, 429].contains(&signed.status().as_u16()), "a date of long ago, or no look at it");
    // A client that was right from here before continues; and without credentials, nothing is guessed.
    assert_eq!(controller.code(&token, WHOAMI).await, 200);
    assert_eq!(controller.code(TOKEN, "/admin/v1/hosts").await, 200);
    let nobody = controller.ask(Method::GET, WHOAMI).send().await.unwrap();
    assert_eq!(nobody.status().as_u16(), 401);
    assert!(controller.metric(&metrics, "cps_controller_rate_limited_total{by=\"source\"}").await >= 4.0);
    assert!(controller.metric(&metrics, "cps_controller_rate_limited_total{by=\"account\"}").await < 1.0);
    let open = controller.metric(&metrics, "cps_controller_connections{class=\"known\"}").await
        + controller.metric(&metrics, "cps_controller_connections{class=\"strangers\"}").await
        + controller.metric(&metrics, "cps_controller_connections{class=\"control_plane\"}").await;
    assert!(open >= 1.0, "this client's: {open}");
    assert!(controller.metric(&metrics, "cps_controller_connections_lost_total{how=\"refused\"}").await < 1.0);
    controller.place.settings(&format!("failures_per_min = 0\nmetrics_listen = '{metrics}'\n"));
    controller.reload().await;
    assert!(controller.sign_in(key).await.is_ok());
}

#[tokio::test]
async fn a_new_operator_token_ends_sessions_of_the_previous_one() {
    let controller = Place::new().start().await;
    let [_, _, token] = controller.account("acme").await;
    let operator = controller.sign_in(json!({ "token": TOKEN })).await.unwrap();
    let account = controller.sign_in(json!({ "token": token })).await.unwrap();
    let get =
        async |cookie: &str, path: &str| controller.ask(Method::GET, path).header(COOKIE, cookie).send().await.unwrap();
    let with_token = async |token: &str| controller.get(token, "/console/events").await;
    let mut streams = [get(&operator, "/console/events").await, with_token(TOKEN).await];
    let mut of_account = get(&account, "/console/events").await;
    for stream in streams.iter_mut().chain([&mut of_account]) {
        assert!(stream.chunk().await.unwrap().is_some());
    }
    // The same token again ends nothing.
    controller.reload().await;
    assert_eq!(get(&operator, "/admin/v1/hosts").await.status().as_u16(), 200);

    let new = "another-only-for-this-test";
    controller.place.secret("token", new);
    controller.reload().await;
    assert_eq!(get(&operator, "/admin/v1/hosts").await.status().as_u16(), 401);
    assert_eq!(controller.code(TOKEN, "/admin/v1/hosts").await, 401);
    assert_eq!(controller.code(new, "/admin/v1/hosts").await, 200);
    for stream in &mut streams {
        // No event: nothing has changed.
        assert_eq!(stream.chunk().await.unwrap(), None);
    }
    assert_eq!(get(&account, WHOAMI).await.status().as_u16(), 200);
    let again = controller.sign_in(json!({ "token": new })).await.unwrap();
    assert_eq!(get(&again, "/admin/v1/hosts").await.status().as_u16(), 200);
    // The account's stream has not ended.
    let region = json!({ "regions": [{ "id": "north" }] });
    let request = controller.ask(Method::POST, "/admin/v1/apply").bearer_auth(new).body(region.to_string());
    assert!(request.send().await.unwrap().status().is_success());
    assert!(of_account.chunk().await.unwrap().is_some());
}
