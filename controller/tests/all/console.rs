//! The console over plain HTTP: files and their policy, sessions, requests from pages of other sites, streams of changes.

use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, ETAG, IF_NONE_MATCH, SET_COOKIE},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

const COOKIE_NAME: &str = "cps_peering_session";
const VPCS: &str = "/v1/regions/cn-north-1/vpcs";

/// A controller that ends with the test.
struct Sandbox {
    controller: Child,
    told: Value,
    client: Client,
}

impl Sandbox {
    fn start() -> Self {
        cps_peering_http::tls::use_ring();
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let controller = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"))
            .arg("--dev")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From here on it is stopped, whatever fails.
        let mut sandbox = Self { controller, told: Value::Null, client };
        let mut line = String::new();
        BufReader::new(sandbox.controller.stdout.take().unwrap()).read_line(&mut line).unwrap();
        sandbox.told = serde_json::from_str(&line).unwrap();
        sandbox
    }

    fn account(&self, number: usize, field: &str) -> &str {
        self.told["accounts"][number][field].as_str().unwrap()
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.told["url"].as_str().unwrap()))
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    /// As the console's own page.
    fn own(&self, method: Method, path: &str) -> RequestBuilder {
        self.ask(method, path).header("x-cps-console", "user").header("sec-fetch-site", "same-origin")
    }

    async fn operator(&self, method: Method, path: &str, body: Value) {
        let token = self.told["admin_token"].as_str().unwrap();
        let response = self.ask(method, path).bearer_auth(token).body(body.to_string()).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    }

    /// Signs in. Returns the cookie as browsers send it.
    async fn sign_in(&self, credential: Value) -> String {
        let request = self.own(Method::POST, "/console/session").body(credential.to_string());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{credential}");
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        for attribute in ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=43200"] {
            assert!(cookie.contains(&format!("; {attribute}")), "{cookie}");
        }
        cookie.split(';').next().unwrap().to_owned()
    }

    fn key(&self, number: usize) -> Value {
        json!({ "accessKey": self.account(number, "access_key"), "secretKey": self.account(number, "secret_key") })
    }

    /// The identity of a cookie's session; none if it is invalid.
    async fn who(&self, cookie: &str) -> Option<String> {
        let response = self.ask(Method::GET, "/v1/whoami").header(COOKIE, cookie).send().await.unwrap();
        if response.status() == StatusCode::UNAUTHORIZED {
            return None;
        }
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        let result = &answer["result"];
        Some(result["accountId"].as_str().or(result["role"].as_str()).unwrap().to_owned())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

#[tokio::test]
async fn files_come_with_a_strict_policy_and_are_cached_by_their_content() {
    let sandbox = Sandbox::start();
    assert_eq!(sandbox.get("/").await.headers()["location"], "/console/");
    let page = sandbox.get("/console/").await;
    assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(page.headers()[CACHE_CONTROL], "no-cache");
    let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|it| it == rule), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let tag = page.headers()[ETAG].clone();
    let again = sandbox.ask(Method::GET, "/console/").header(IF_NONE_MATCH, &tag).send().await.unwrap();
    assert_eq!((again.status(), &again.headers()[ETAG]), (StatusCode::NOT_MODIFIED, &tag));
    assert_eq!(again.text().await.unwrap(), "");

    let text = page.text().await.unwrap();
    let files: Vec<&str> = text.split('"').filter(|it| it.starts_with("/console/assets/")).collect();
    assert_eq!(files.len(), 2, "a script and a style: {text}");
    for path in files {
        let file = sandbox.get(path).await;
        assert_eq!(file.status(), StatusCode::OK, "{path}");
        assert_eq!(file.headers()[CACHE_CONTROL], "public, max-age=31536000, immutable");
        assert_eq!(file.headers()["x-content-type-options"], "nosniff");
        let kind = file.headers()[CONTENT_TYPE].to_str().unwrap();
        assert!(kind == "text/javascript; charset=utf-8" || kind == "text/css; charset=utf-8", "{path}: {kind}");
    }
    // There are no inline scripts and styles.
    assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains(" on"), "{text}");
    for path in ["/console/nothing.js", "/console/../Cargo.toml", "/console/%2e%2e/package.json"] {
        assert_eq!(sandbox.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn sessions_are_opened_with_credentials_of_accounts_and_operators() {
    let sandbox = Sandbox::start();
    let by_key = sandbox.sign_in(sandbox.key(0)).await;
    assert_eq!(sandbox.who(&by_key).await.as_deref(), Some("account-1"));
    let by_token = sandbox.sign_in(json!({ "token": sandbox.account(1, "token") })).await;
    assert_eq!(sandbox.who(&by_token).await.as_deref(), Some("account-2"));
    let operator = sandbox.sign_in(json!({ "token": sandbox.told["admin_token"] })).await;
    assert_eq!(sandbox.who(&operator).await.as_deref(), Some("operator"));
    // An account's session has no access to the operators' API.
    let hosts = sandbox.ask(Method::GET, "/admin/v1/hosts").header(COOKIE, &by_key).send().await.unwrap();
    assert_eq!(hosts.status(), StatusCode::FORBIDDEN);

    let key = sandbox.account(0, "access_key");
    let wrong = [
        (json!({ "accessKey": key, "secretKey": "wrong" }), 401),
        (json!({ "accessKey": key, "secretKey": sandbox.account(1, "secret_key") }), 401),
        (json!({ "accessKey": "unknown", "secretKey": "wrong" }), 401),
        (json!({ "token": "cpst_unknown" }), 401),
        (json!({ "accessKey": key }), 400),
        (json!({}), 400),
        (json!({ "token": "x", "more": 1 }), 400),
        (json!({ "token": "x".repeat(5000) }), 413),
    ];
    for (credential, code) in wrong {
        let response = sandbox.own(Method::POST, "/console/session").body(credential.to_string()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), code, "{credential}");
        assert!(!response.headers().contains_key(SET_COOKIE), "{credential}");
    }
    for cookie in ["", "=", "x", "cps_peering_session=", "cps_peering_session=00"] {
        assert_eq!(sandbox.who(cookie).await, None, "{cookie}");
    }
}

#[tokio::test]
async fn a_session_ends_with_sign_out_and_with_its_credential() {
    let sandbox = Sandbox::start();
    let first = sandbox.sign_in(sandbox.key(0)).await;
    let second = sandbox.sign_in(sandbox.key(0)).await;
    assert_ne!(first, second);
    let out = sandbox.own(Method::DELETE, "/console/session").header(COOKIE, &first).send().await.unwrap();
    assert!(out.headers()[SET_COOKIE].to_str().unwrap().starts_with(&format!("{COOKIE_NAME}=; Path=/; Max-Age=0;")));
    assert_eq!(sandbox.who(&first).await, None);
    assert_eq!(sandbox.who(&second).await.as_deref(), Some("account-1"));
    let key = format!("/admin/v1/accounts/account-1/keys/{}", sandbox.account(0, "access_key"));
    sandbox.operator(Method::DELETE, &key, json!({})).await;
    assert_eq!(sandbox.who(&second).await, None);
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing_and_sign_nobody_in() {
    let sandbox = Sandbox::start();
    let cookie = sandbox.sign_in(sandbox.key(0)).await;
    let body = json!({ "vpcSpec": { "name": "forged", "cidr": "10.1.0.0/16" } }).to_string();
    let vpcs = async || {
        let response = sandbox.ask(Method::GET, VPCS).header(COOKIE, &cookie).send().await.unwrap();
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        answer["result"]["totalCount"].as_u64().unwrap()
    };
    let forged = |method: Method, path: &str, headers: &[(&str, &str)]| {
        let mut request = sandbox.ask(method, path).header(COOKIE, &cookie).body(body.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    };
    // What browsers send for a form or a script of another page.
    let others: [&[(&str, &str)]; 4] = [
        &[],
        &[("sec-fetch-site", "same-origin")],
        &[("x-cps-console", "user"), ("sec-fetch-site", "cross-site")],
        &[("x-cps-console", "user"), ("sec-fetch-site", "same-site")],
    ];
    for headers in others {
        let response = forged(Method::PUT, VPCS, headers).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{headers:?}");
        let response = forged(Method::DELETE, "/console/session", headers).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{headers:?}");
        let credential = sandbox.key(1).to_string();
        let response = forged(Method::POST, "/console/session", headers).body(credential).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{headers:?}");
        assert!(!response.headers().contains_key(SET_COOKIE), "{headers:?}");
    }
    assert_eq!(vpcs().await, 0);
    // No other origin is allowed: a preflight gets no such response.
    let preflight =
        forged(Method::OPTIONS, VPCS, &[("origin", "https://evil.example"), ("access-control-request-method", "PUT")]);
    let response = preflight.send().await.unwrap();
    assert!(!response.headers().keys().any(|name| name.as_str().starts_with("access-control-")), "{response:?}");
    let own = sandbox.own(Method::PUT, VPCS).header(COOKIE, &cookie).body(body.clone()).send().await.unwrap();
    assert_eq!(own.status(), StatusCode::OK);
    assert_eq!(own.headers()[CACHE_CONTROL], "no-store");
    assert_eq!(vpcs().await, 1);
}

/// Listens until `count` events have arrived, and returns all text.
async fn listen(response: &mut Response, count: usize) -> String {
    let mut text = String::new();
    while text.matches("event: changed").count() < count {
        let part = response.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(&String::from_utf8_lossy(&part));
    }
    text
}

#[tokio::test]
async fn changes_are_streamed_to_those_whom_they_concern() {
    let sandbox = Sandbox::start();
    let one = sandbox.sign_in(sandbox.key(0)).await;
    let two = sandbox.sign_in(sandbox.key(1)).await;
    let events = async |cookie: &str| {
        let response = sandbox.ask(Method::GET, "/console/events").header(COOKIE, cookie).send().await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        response
    };
    let (mut of_one, mut of_two) = (events(&one).await, events(&two).await);
    // The first event comes immediately: a client that reconnects has missed nothing.
    listen(&mut of_one, 1).await;
    listen(&mut of_two, 1).await;
    let make = async |cookie: &str, name: &str| {
        let body = json!({ "vpcSpec": { "name": name, "cidr": "10.1.0.0/16" } }).to_string();
        let response = sandbox.own(Method::PUT, VPCS).header(COOKIE, cookie).body(body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    };
    make(&two, "second").await;
    let text = listen(&mut of_two, 1).await;
    assert!(text.contains("second") && text.contains(r#""all":false"#), "{text}");
    // Changes of one account are sent to it alone: below, nothing more has come to the other.
    for name in ["first", "next", "last"] {
        make(&one, name).await;
        let text = listen(&mut of_one, 1).await;
        let data: Value = serde_json::from_str(text.trim().strip_prefix("event: changed\ndata: ").unwrap()).unwrap();
        let set = data["set"].as_object().unwrap();
        // What is new, and nothing else.
        assert!(set.len() == 1 && set.values().all(|it| it["name"] == name), "{text}");
    }

    // A stream ends with its session, at the next event at the latest.
    sandbox.own(Method::DELETE, "/console/session").header(COOKIE, &two).send().await.unwrap();
    let three = sandbox.sign_in(sandbox.key(1)).await;
    make(&three, "third").await;
    assert_eq!(of_two.chunk().await.unwrap(), None);
    let nobody = sandbox.get("/console/events").await;
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
}

/// Pages take silence for a lost connection.
#[tokio::test]
async fn an_idle_stream_sends_signs_of_life_as_often_as_promised() {
    let sandbox = Sandbox::start();
    let cookie = sandbox.sign_in(sandbox.key(0)).await;
    let mut stream = sandbox.ask(Method::GET, "/console/events").header(COOKIE, &cookie).send().await.unwrap();
    let text = listen(&mut stream, 1).await;
    let data: Value = serde_json::from_str(text.trim().strip_prefix("event: changed\ndata: ").unwrap()).unwrap();
    assert_eq!(data["aliveSeconds"], 15, "{text}");
    let part = stream.chunk().await.unwrap().expect("the stream goes on");
    assert!(part.starts_with(b"event: alive\ndata: "), "{part:?}");
}

#[tokio::test]
async fn the_streams_of_one_account_are_limited_and_others_have_their_own() {
    let sandbox = Sandbox::start();
    let one = sandbox.sign_in(sandbox.key(0)).await;
    let two = sandbox.sign_in(sandbox.key(1)).await;
    let listen =
        async |cookie: &str| sandbox.ask(Method::GET, "/console/events").header(COOKIE, cookie).send().await.unwrap();
    let mut streams = Vec::new();
    loop {
        let response = listen(&one).await;
        if response.status() != StatusCode::OK {
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            break;
        }
        streams.push(response);
        assert!(streams.len() < 1000, "there is no bound");
    }
    assert_eq!(listen(&two).await.status(), StatusCode::OK);
    // A place is free again when a client leaves.
    drop(streams.pop());
    while listen(&one).await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_do_not_delay_the_shutdown() {
    let mut sandbox = Sandbox::start();
    let cookie = sandbox.sign_in(sandbox.key(0)).await;
    let mut stream = sandbox.ask(Method::GET, "/console/events").header(COOKIE, &cookie).send().await.unwrap();
    listen(&mut stream, 1).await;
    let id = sandbox.controller.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    // The regular end of the stream, rather than a cut connection.
    assert!(stream.chunk().await.unwrap().is_none());
    assert!(sandbox.controller.wait().unwrap().success());
}

#[tokio::test]
async fn files_are_compressed_for_clients_that_accept_it() {
    let sandbox = Sandbox::start();
    let page = sandbox.get("/console/").await.text().await.unwrap();
    let script = page.split('"').find(|it| it.strip_suffix(".js").is_some()).unwrap().to_owned();
    let ask = async |encoding: &str| {
        let response = sandbox.ask(Method::GET, &script).header("accept-encoding", encoding).send().await.unwrap();
        let headers = response.headers().clone();
        let header = |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned());
        (header("content-encoding"), header("etag").unwrap(), header("vary"), response.bytes().await.unwrap().len())
    };
    let (packed, whole) = (ask("br, gzip").await, ask("identity").await);
    assert_eq!((packed.0.as_deref(), whole.0.as_deref()), (Some("gzip"), None));
    assert!(packed.3 * 2 < whole.3 && packed.1 != whole.1, "{packed:?} {whole:?}");
    assert_eq!((packed.2.as_deref(), whole.2.as_deref()), (Some("accept-encoding"), Some("accept-encoding")));
    assert_eq!(ask("gzip;q=0, deflate").await.0, None);
    let known = sandbox.ask(Method::GET, &script).header("accept-encoding", "gzip").header("if-none-match", packed.1);
    assert_eq!(known.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    assert_eq!(sandbox.get(&format!("{script}.gz")).await.status(), StatusCode::NOT_FOUND);
}
