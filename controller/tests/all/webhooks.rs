//! Webhooks: signed, in order, retried until acknowledged; and nowhere within the provider's network.

use crate::running::{Controller, Place, call, done};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const NORTH: &str = "/v1/regions/north";

/// An endpoint that receives events.
#[derive(Clone, Default)]
struct Endpoint {
    taken: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    /// The responses to the next requests; 200 afterwards.
    answers: Arc<Mutex<Vec<u16>>>,
}

async fn take(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> axum::response::Response {
    endpoint.taken.lock().unwrap().push((headers, String::from_utf8(body.to_vec()).unwrap()));
    let answer = endpoint.answers.lock().unwrap().pop().unwrap_or(200);
    let code = StatusCode::from_u16(answer).unwrap();
    (code, [(header::LOCATION, "/elsewhere")], "").into_response()
}

impl Endpoint {
    /// Listens on a loopback address. Returns its URL.
    async fn listen(&self) -> String {
        let routes = Router::new().route("/hook", post(take)).route("/elsewhere", post(take).get(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = routes.with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    /// What was sent so far: id and type of each request.
    fn seen(&self) -> Vec<(String, String)> {
        let taken = self.taken.lock().unwrap();
        let seen = taken.iter().map(|(headers, body)| {
            let said: Value = serde_json::from_str(body).unwrap();
            let id = headers["webhook-id"].to_str().unwrap().to_owned();
            assert_eq!(said["data"]["id"], id.as_str());
            (id, said["type"].as_str().unwrap().to_owned())
        });
        seen.collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.seen().into_iter().map(|(_, kind)| kind).collect()
    }

    /// Checks every signature (Standard Webhooks).
    fn is_signed_with(&self, secret: &str) {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        for (headers, body) in self.taken.lock().unwrap().iter() {
            let said = |name: &str| headers[name].to_str().unwrap().to_owned();
            let tag = STANDARD.decode(said("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
            let signed = format!("{}.{}.{body}", said("webhook-id"), said("webhook-timestamp"));
            hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
            assert!(hmac::verify(&key, format!("{signed} ").as_bytes(), &tag).is_err());
        }
    }
}

async fn cloud(settings: &str) -> (Controller, String, String) {
    let place = Place::new();
    place.settings(settings);
    let controller = place.start().await;
    controller.operator(Method::POST, "/admin/v1/apply", json!({ "regions": [{ "id": "north" }] })).await;
    let [_, _, one] = controller.account("one").await;
    let [_, _, two] = controller.account("two").await;
    (controller, one, two)
}

async fn vpc(controller: &Controller, token: &str, cidr: &str) -> String {
    let body = json!({ "vpcSpec": { "cidr": cidr, "name": cidr } });
    let made = done(controller, token, Method::PUT, &format!("{NORTH}/vpcs"), body).await;
    made["vpcId"].as_str().unwrap().to_owned()
}

async fn peer(controller: &Controller, token: &str, name: &str, own: &str, other: (&str, &str)) -> String {
    let body = json!({ "vpcPeeringName": name, "vpcId": own, "remoteVpcId": other.1, "remoteAccountId": other.0 });
    let made = done(controller, token, Method::POST, &format!("{NORTH}/vpcPeerings/"), body).await;
    made["vpcPeering"]["vpcPeeringId"].as_str().unwrap().to_owned()
}

/// The id and the secret.
async fn hook(controller: &Controller, token: &str, url: &str, types: Value) -> (String, String) {
    let body = json!({ "url": url, "types": types });
    let made = done(controller, token, Method::POST, &format!("{NORTH}/webhooks"), body).await;
    let said = |value: &Value| value.as_str().unwrap().to_owned();
    (said(&made["webhook"]["webhookId"]), said(&made["secret"]))
}

#[tokio::test]
async fn events_arrive_signed_in_order_and_retried_and_dead_endpoints_delay_nobody() {
    let (controller, one, two) = cloud("webhooks_allowed = ['127.0.0.0/8']\n").await;
    let (a, b) = (vpc(&controller, &one, "10.1.0.0/16").await, vpc(&controller, &two, "10.2.0.0/16").await);
    // It fails twice, and then redirects, which is not followed.
    let (first, second, others) = (Endpoint::default(), Endpoint::default(), Endpoint::default());
    *first.answers.lock().unwrap() = vec![302, 500];
    let url = first.listen().await;
    let (id, secret) = hook(&controller, &one, &url, json!([])).await;
    // No endpoint listens there.
    let (dead, _) = hook(&controller, &one, "http://127.0.0.1:9/", json!([])).await;
    let (_, chosen) = hook(&controller, &one, &second.listen().await, json!(["peering.rejected"])).await;
    let (_, of_two) = hook(&controller, &two, &others.listen().await, json!([])).await;
    let admins = Endpoint::default();
    let body = json!({ "url": admins.listen().await });
    let all =
        controller.operator(Method::POST, "/admin/v1/webhooks", body).await["secret"].as_str().unwrap().to_owned();

    let peering = peer(&controller, &one, "p", &a, ("two", &b)).await;
    let own = format!("{NORTH}/vpcPeerings/{peering}");
    // The initiator's own texts are not disclosed to the receiver.
    done(&controller, &one, Method::PUT, &own, json!({ "description": "mine" })).await;
    done(&controller, &two, Method::POST, &format!("{own}:rejectVpcPeering"), json!({})).await;
    let expected =
        ["peering.requested", "peering.requested", "peering.requested", "peering.modified", "peering.rejected"];
    crate::running::until("everything has arrived", async || {
        first.kinds() == expected
            && second.kinds() == ["peering.rejected"]
            && others.kinds().len() == 2
            && admins.kinds().len() == 3
    })
    .await;
    assert_eq!(others.kinds(), ["peering.requested", "peering.rejected"]);
    let seen = first.seen();
    assert!(seen[0].0 == seen[1].0 && seen[1].0 == seen[2].0 && seen[2].0 != seen[3].0, "{seen:?}");
    for (endpoint, secret) in [(&first, &secret), (&second, &chosen), (&others, &of_two), (&admins, &all)] {
        endpoint.is_signed_with(secret);
    }
    let path = format!("{NORTH}/webhooks/{id}");
    let shown = done(&controller, &one, Method::GET, &path, Value::Null).await;
    assert_eq!((&shown["webhook"]["state"], &shown["webhook"]["failures"]), (&json!("working"), &json!(0)), "{shown}");
    assert!(shown["webhook"]["lastDelivered"].is_string() && !shown.to_string().contains("whsec"), "{shown}");
    let failing = done(&controller, &one, Method::GET, &format!("{NORTH}/webhooks/{dead}"), Value::Null).await;
    assert_eq!(failing["webhook"]["state"], "failing", "{failing}");
    assert!(failing["webhook"]["lastError"].as_str().unwrap().contains("refused"), "{failing}");
    // Events of others are not sent.
    for (method, body) in
        [(Method::GET, Value::Null), (Method::PUT, json!({ "enabled": false })), (Method::DELETE, Value::Null)]
    {
        assert_eq!(call(&controller, &two, method, &path, body).await.0, 404);
    }

    // While it is disabled nothing is sent, and afterwards what has happened meanwhile; also after a restart.
    done(&controller, &one, Method::PUT, &path, json!({ "enabled": false })).await;
    let next = peer(&controller, &one, "q", &a, ("two", &b)).await;
    crate::running::until("the receiver was told", async || others.kinds().len() == 3).await;
    assert_eq!(first.kinds(), expected, "from the moment at which that was answered");
    let place = controller.stop();
    let controller = place.start().await;
    done(&controller, &one, Method::PUT, &path, json!({ "enabled": true })).await;
    crate::running::until("it was told", async || first.kinds().len() > expected.len()).await;
    done(&controller, &two, Method::POST, &format!("{NORTH}/vpcPeerings/{next}:rejectVpcPeering"), json!({})).await;
    crate::running::until("it was told", async || {
        first.kinds().last().is_some_and(|kind| kind == "peering.rejected") && first.kinds().len() > 6
    })
    .await;
    assert_eq!(first.kinds()[expected.len()..], ["peering.requested", "peering.rejected"], "{:?}", first.seen());
    first.is_signed_with(&secret);
    let body = json!({ "url": format!("{url}/changed?key=own") });
    done(&controller, &one, Method::PUT, &path, body).await;
    done(&controller, &one, Method::DELETE, &path, Value::Null).await;
    assert_eq!(call(&controller, &one, Method::GET, &path, Value::Null).await.0, 404);
    // The trail contains neither the secret nor more of the URL than the host: with many services the path is a secret.
    let trail = done(&controller, &one, Method::GET, "/v1/auditEntries?limit=1000", Value::Null).await.to_string();
    assert!(trail.contains("CreateWebhook") && trail.contains("ModifyWebhook"), "{trail}");
    assert!(!trail.contains("sealed") && !trail.contains("whsec") && !trail.contains("key=own"), "{trail}");
    let host = url.split('/').nth(2).unwrap();
    assert!(trail.contains(&format!("http://{host}/…")) && !trail.contains(&url), "{trail}");
}

#[tokio::test]
async fn urls_must_lead_to_the_public_internet_and_webhooks_are_limited() {
    let (controller, one, _) = cloud("webhooks_refused = ['93.184.216.0/24']\n").await;
    let path = format!("{NORTH}/webhooks");
    for url in [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://[::ffff:10.1.1.1]/",
        "https://93.184.216.34/",
        "x",
        "",
    ] {
        let (code, error) = call(&controller, &one, Method::POST, &path, json!({ "url": url })).await;
        assert_eq!((code, &error["details"][0]["entry"]), (400, &json!("url")), "{url}: {error}");
    }
    let long = format!("https://hooks.example.com/{}", "x".repeat(600));
    assert_eq!(call(&controller, &one, Method::POST, &path, json!({ "url": long })).await.0, 400);
    for types in [json!(["peering.exploded"]), json!(["host.added"])] {
        let body = json!({ "url": "https://hooks.example.com/", "types": types });
        let (code, error) = call(&controller, &one, Method::POST, &path, body).await;
        assert_eq!((code, &error["details"][0]["entry"]), (400, &json!("types")), "{error}");
    }
    // A name may lead there, which is found out when it is resolved.
    let (id, _) = hook(&controller, &one, "https://localhost:9/", json!([])).await;
    for _ in 0..9 {
        hook(&controller, &one, "https://hooks.invalid/", json!([])).await;
    }
    let (code, error) = call(&controller, &one, Method::POST, &path, json!({ "url": "https://hooks.invalid/" })).await;
    assert_eq!((code, &error["details"][0]["reason"]), (429, &json!("WebhookLimitExceeded")), "{error}");
    let (a, b) = (vpc(&controller, &one, "10.1.0.0/16").await, vpc(&controller, &one, "10.2.0.0/16").await);
    peer(&controller, &one, "p", &a, ("one", &b)).await;
    crate::running::until("it was tried", async || {
        let shown = done(&controller, &one, Method::GET, &format!("{path}/{id}"), Value::Null).await;
        let error = shown["webhook"]["lastError"].as_str().unwrap_or_default().to_owned();
        // What the controller's resolver knows is not for tenants.
        assert!(!error.contains("127.0.0.1") && !error.contains("::1"), "{error}");
        error == "its name leads to no address that webhooks may reach"
    })
    .await;
    let list = done(&controller, &one, Method::GET, &path, Value::Null).await;
    let errors = || list["webhooks"].as_array().unwrap().iter().filter_map(|it| it["lastError"].as_str());
    let told: std::collections::BTreeSet<&str> = errors().collect();
    assert_eq!(told.len(), 1, "a name that is not there looks the same: {list}");
}

#[tokio::test]
async fn operators_see_where_a_name_leads_and_webhooks_are_removed_with_their_region() {
    let (controller, one, _) = cloud("").await;
    let added = controller.operator(Method::POST, "/admin/v1/webhooks", json!({ "url": "https://localhost:9/" })).await;
    let own = format!("/admin/v1/webhooks/{}", added["webhook"]["webhookId"].as_str().unwrap());
    hook(&controller, &one, "https://hooks.invalid/", json!([])).await;
    let (a, b) = (vpc(&controller, &one, "10.1.0.0/16").await, vpc(&controller, &one, "10.2.0.0/16").await);
    peer(&controller, &one, "p", &a, ("one", &b)).await;
    crate::running::until("it was tried", async || {
        let shown = controller.operator(Method::GET, &own, Value::Null).await;
        shown["webhook"]["lastError"].as_str().is_some_and(|it| it.contains("no address of the public internet"))
    })
    .await;
    // Two regions, one of which is removed with the webhook that an account has there.
    let both = json!({ "name": "it", "regions": [{ "id": "south" }, { "id": "west" }] });
    controller.operator(Method::POST, "/admin/v1/apply", both).await;
    let body = json!({ "url": "https://hooks.invalid/" });
    done(&controller, &one, Method::POST, "/v1/regions/south/webhooks", body).await;
    let without = json!({ "name": "it", "regions": [{ "id": "west" }] });
    controller.operator(Method::POST, "/admin/v1/apply?prune=true", without).await;
    let again = json!({ "name": "it", "regions": [{ "id": "south" }, { "id": "west" }] });
    controller.operator(Method::POST, "/admin/v1/apply", again).await;
    let list = done(&controller, &one, Method::GET, "/v1/regions/south/webhooks", Value::Null).await;
    assert_eq!(list["webhooks"], json!([]));
    let there = done(&controller, &one, Method::GET, &format!("{NORTH}/webhooks"), Value::Null).await;
    assert_eq!(there["webhooks"].as_array().unwrap().len(), 1, "those of other regions stay");
}
