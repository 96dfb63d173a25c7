//! What followers answer themselves, and what they forward.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_answered_from_the_copy_without_a_leader() {
    let mut members = Members::start(1);
    let fleet = Fleet::start(2, |_| vec![members.url(0)]);
    fleet.apply(&region("north"), &[]).await;
    let (leader, account) = (fleet.leader(&[]).await, json!({ "accountId": "acme" }));
    let follower = 1 - leader;
    let (_, made) = fleet.ask(leader, Method::POST, "/admin/v1/accounts", Some(&account)).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
    let (_, made) = fleet.ask(leader, Method::POST, "/admin/v1/accounts/acme/tokens", Some(&json!({}))).await.unwrap();
    let token = made["result"]["token"].as_str().unwrap().to_owned();
    fleet.until_follower(follower).await;
    let get = async |path: &str, token: &str| {
        let asked = fleet.client.get(format!("{}{path}", fleet.nodes[follower].url)).bearer_auth(token).send();
        let answer = asked.await.unwrap();
        let stale = answer.headers().get("x-cps-peering-stale").is_some();
        let age = answer.headers().get("age").map(|age| age.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(stale, age.is_some());
        (answer.status().as_u16(), age, answer.json::<Value>().await.unwrap())
    };
    fleet.regions(follower).await;
    assert_eq!(get("/admin/v1/inventory", TOKEN).await.1, None, "the leader answers");
    members.kill(0);
    let until = Instant::now() + PATIENCE;
    let answer = loop {
        let answer = get("/admin/v1/inventory", TOKEN).await;
        if answer.1.is_some() {
            break answer;
        }
        assert!(Instant::now() < until, "{answer:?} {}", fleet.nodes[follower].log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((answer.0, &answer.2["result"]["regions"][0]["id"]), (200, &"north".into()), "{answer:?}");
    // Accounts see their own, and strangers nothing.
    let (status, age, own) = get("/v1/regions/north/vpcPeerings", &token).await;
    assert_eq!((status, age.is_some(), &own["result"]["totalCount"]), (200, true, &0.into()), "{own}");
    assert_eq!(get("/admin/v1/inventory", &token).await.0, 403);
    assert_eq!(get("/admin/v1/inventory", "nobody's token, and not a short one").await.0, 401);
    // Changes are refused.
    let (status, answer) = fleet.ask(follower, Method::POST, "/admin/v1/apply", Some(&region("lost"))).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let (status, answer) = fleet.ask(follower, Method::DELETE, "/admin/v1/hosts/h1", None).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    // It ages.
    let older = get("/admin/v1/inventory", TOKEN).await.1.unwrap();
    until_older(&get, older).await;
    members.restart(0);
    fleet.apply(&region("after"), &[]).await;
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, age, answer) = get("/admin/v1/inventory", TOKEN).await;
        if status == 200 && age.is_none() {
            assert_eq!(answer["result"]["regions"].as_array().unwrap().len(), 2, "{answer}");
            break;
        }
        assert!(Instant::now() < until, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a response is older than it was.
async fn until_older(get: &impl AsyncFn(&str, &str) -> (u16, Option<u64>, Value), than: u64) {
    let until = Instant::now() + PATIENCE;
    while get("/admin/v1/inventory", TOKEN).await.1.is_none_or(|age| age <= than) {
        assert!(Instant::now() < until, "it stays {than} s old");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_forward_requests() {
    let members = Members::start(1);
    let fleet = Fleet::start(2, |_| vec![members.url(0)]);
    fleet.apply(&region("north"), &[]).await;
    let leader = fleet.leader(&[]).await;
    let follower = 1 - leader;
    fleet.until_follower(follower).await;
    // It knows the leader.
    fleet.regions(follower).await;
    let url = |number: usize, path: &str| format!("{}{path}", fleet.nodes[number].url);
    // Errors, large bodies, queries, unknown paths, strangers: the same from both.
    let document = json!({ "regions": (0..3000).map(|it| json!({ "id": format!("r{it}") })).collect::<Vec<_>>() });
    let (status, answer) = fleet.ask(follower, Method::POST, "/admin/v1/apply", Some(&document)).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["result"]["changes"].as_array().unwrap().len(), 3000);
    for (method, path, body) in [
        (Method::GET, "/admin/v1/inventory", None),
        (Method::GET, "/admin/v1/audit?limit=1", None),
        (Method::GET, "/admin/v1/audit?limit=x", None),
        (Method::DELETE, "/admin/v1/hosts/nobody", None),
        (Method::POST, "/admin/v1/apply", Some(json!({ "regions": 7 }))),
        (Method::GET, "/nowhere?x=%2F..%2f", None),
    ] {
        let one = fleet.ask(leader, method.clone(), path, body.as_ref()).await.unwrap();
        let two = fleet.ask(follower, method, path, body.as_ref()).await.unwrap();
        let content = |answer: &Value| (answer["result"].clone(), answer["error"].clone());
        assert_eq!((one.0, content(&one.1)), (two.0, content(&two.1)), "{path}");
    }
    let stranger = fleet.client.get(url(follower, "/admin/v1/inventory")).send().await.unwrap();
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
    // Its own health and metrics.
    let metrics = |number: usize| fleet.client.get(url(number, "/metrics")).send();
    assert_eq!(metrics(follower).await.unwrap().status(), StatusCode::FORBIDDEN);
    // The console: its page, a session, and a stream that continues.
    let page = fleet.client.get(url(follower, "/")).send().await.unwrap();
    assert!(page.status().is_success() || page.status().is_redirection(), "{}", page.status());
    // For load balancers: both are ready, the follower because the leader answers.
    let ready = async |number: usize| {
        let answer = fleet.client.get(url(number, "/readyz")).send().await.unwrap();
        let status = answer.status().as_u16();
        let said: Value = answer.json().await.unwrap();
        (status, said["ready"].clone(), said["role"].clone(), said["reasons"][0]["reason"].clone())
    };
    assert_eq!(ready(leader).await, (200, true.into(), "leader".into(), Value::Null));
    assert_eq!(ready(follower).await, (200, true.into(), "follower".into(), Value::Null));
    // One that could not take over reports that in advance: it has another key than the one that access keys are sealed with.
    let account = json!({ "accountId": "acme" });
    let (status, answer) = fleet.ask(leader, Method::POST, "/admin/v1/accounts", Some(&account)).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) =
        fleet.ask(leader, Method::POST, "/admin/v1/accounts/acme/keys", Some(&json!({}))).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    let key = fleet.nodes[follower].folder.path().join("store.key");
    for (digit, reason) in [("8", Value::from("CouldNotLead")), ("7", Value::Null)] {
        fs::write(&key, digit.repeat(64)).unwrap();
        let end = Instant::now() + PATIENCE;
        // It still forwards requests.
        while ready(follower).await != (200, true.into(), "follower".into(), reason.clone()) {
            assert!(Instant::now() < end, "{}", fleet.nodes[follower].log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // It does not answer, and its lease, here, is long.
    fleet.nodes[leader].signal(Signal::SIGSTOP);
    let leads = json!({ "id": "x", "url": fleet.nodes[leader].url });
    members.control(&["put", "/cps-peering/leader", &leads.to_string()]);
    assert_eq!(ready(follower).await, (503, false.into(), "follower".into(), "LeaderUnreachable".into()));
    // There is no leader: it says so, and when to retry.
    members.control(&["put", "/cps-peering/leader", "{\"id\":\"x\",\"url\":null}"]);
    until("no leader", || fleet.nodes[follower].log().contains("no controller leads")).await;
    let end = Instant::now() + PATIENCE;
    while ready(follower).await != (503, false.into(), "follower".into(), "NoLeader".into()) {
        assert!(Instant::now() < end, "{}", fleet.nodes[follower].log());
    }
    let alive = fleet.client.get(url(follower, "/livez")).send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK, "to start it again would not help");
    let answer = fleet.client.get(url(follower, "/admin/v1/inventory")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
}

/// Certificates of a CA of its own: the CA's, and each party's certificate and key.
pub(super) fn certificates(folder: &Path) -> String {
    let pki = |arguments: &[&str]| {
        let mut command = crate::programs::cli();
        let (done, told) = run(command.args(["pki", "--dir", folder.to_str().unwrap()]).args(arguments));
        assert!(done, "{told}");
    };
    pki(&["init"]);
    for name in ["controller", "operator", "monitoring"] {
        pki(&["issue", name]);
    }
    let file = |name: &str| folder.join(name).display().to_string();
    let [ca, cert, key] = ["ca.pem", "controller.pem", "controller.key"].map(file);
    format!("tls = {{ ca = '{ca}', cert = '{cert}', key = '{key}' }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_identified_also_through_a_follower() {
    let members = Members::start(1);
    let folder = tempfile::tempdir().unwrap();
    let setting = certificates(folder.path());
    let client_at = |name: Option<&str>, address: &str| {
        let path = |name: &str, end: &str| folder.path().join(format!("{name}.{end}"));
        let own = name.map(|name| (path(name, "pem"), path(name, "key")));
        let own = own.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let tls = cps_peering_http::tls::client(&path("ca", "pem"), own).unwrap();
        let builder = Client::builder().timeout(Duration::from_secs(20)).tls_backend_preconfigured(tls);
        builder.local_address(address.parse::<std::net::IpAddr>().unwrap()).build().unwrap()
    };
    let client = |name: Option<&str>| client_at(name, "127.0.0.1");
    let nobody = client(None);
    let mut fleet = Fleet { nodes: Vec::new(), client: nobody.clone() };
    fleet.nodes = (0..2).map(|_| Node::new(&[members.url(0)], &setting)).collect();
    fleet.apply(&region("north"), &[]).await;
    let leader = fleet.leader(&[]).await;
    let follower = 1 - leader;
    fleet.until_follower(follower).await;
    fleet.regions(follower).await;

    let (operator, monitoring, controller) =
        (client(Some("operator")), client(Some("monitoring")), client(Some("controller")));
    let names = ["spiffe://cps-peering/operator", "spiffe://cps-peering/monitoring"];
    for number in [leader, follower] {
        let url = fleet.nodes[number].url.clone();
        let code = async |client: &Client, claimed: Option<&str>| {
            let mut asked = client.get(format!("{url}/admin/v1/hosts"));
            if let Some(name) = claimed {
                asked = asked.header("x-cps-peering-client", name);
            }
            asked.send().await.unwrap().status().as_u16()
        };
        assert_eq!(code(&operator, None).await, 200);
        // Declaring the controller's own headers hop-by-hop does not remove them.
        let named = "x-cps-peering-client, x-cps-peering-forwarded, keep-alive";
        let asked = operator.get(format!("{url}/admin/v1/hosts")).header("connection", named).send().await.unwrap();
        assert_eq!(asked.status().as_u16(), 200);
        assert_eq!(code(&monitoring, None).await, 401);
        assert_eq!(code(&nobody, None).await, 401);
        // No client can claim another identity; only a controller's headers are believed, and by the leader alone.
        assert_eq!(code(&nobody, Some(names[0])).await, 401);
        assert_eq!(code(&monitoring, Some(names[0])).await, 401);
        assert_eq!(code(&controller, None).await, 401);
        assert_eq!(code(&controller, Some(names[0])).await, if number == leader { 200 } else { 401 });
        let metrics = monitoring.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        let leads = format!("cps_controller_leader {}", u8::from(number == leader));
        assert!(metrics.contains(&leads), "{metrics}");
        assert_eq!(nobody.get(format!("{url}/metrics")).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }

    // Guessing from one address locks out nobody else, whichever controller forwards it.
    let [guesser, honest] = ["127.0.0.2", "127.0.0.3"].map(|address| client_at(None, address));
    let guess = async |client: &Client| {
        let asked = client.get(format!("{}/v1/whoami", fleet.nodes[follower].url)).bearer_auth("cpst_guessed");
        asked.send().await.unwrap().status()
    };
    let mut guesses = 0;
    while guess(&guesser).await != StatusCode::TOO_MANY_REQUESTS {
        guesses += 1;
        assert!(guesses < 1000, "nobody stops it");
    }
    assert_eq!(guess(&honest).await, StatusCode::UNAUTHORIZED);

    // A session of the console is opened and used through different controllers, and its stream continues.
    let url = |number: usize, path: &str| format!("{}{path}", fleet.nodes[number].url);
    let said = json!({ "token": TOKEN });
    let page = |request: reqwest::RequestBuilder| request.header("x-cps-console", "1");
    let opened = page(nobody.post(url(follower, "/console/session"))).json(&said).send().await.unwrap();
    let cookie = opened.headers().get("set-cookie").unwrap_or_else(|| panic!("{opened:?}")).to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let listening = nobody.get(url(follower, "/console/events")).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(listening.headers()["content-type"], "text/event-stream");
    let mut listening = listening;
    let mut text = String::new();
    for turn in 0..2 {
        fleet.apply(&region(format!("more{turn}")), &[]).await;
        while text.matches("event: changed").count() <= turn + 1 {
            let chunk = tokio::time::timeout(PATIENCE, listening.chunk()).await.unwrap().unwrap().unwrap();
            text += std::str::from_utf8(&chunk).unwrap();
        }
    }
}
