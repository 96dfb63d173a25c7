//! What strangers and tenants cannot do to a controller: lock others out, fill its memory, or replay requests.

use crate::running::{Controller, Place, TOKEN, until};
use crate::signer::sign;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

type Headers = Vec<(&'static str, String)>;

/// A connection with a small window.
async fn connect(controller: &Controller) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(controller.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

fn head(method: &str, path: &str, headers: &[(&str, String)]) -> String {
    let lines = headers.iter().map(|(name, value)| [name, ": ", value, "\r\n"].concat()).collect::<Vec<_>>().concat();
    format!("{method} {path} HTTP/1.1\r\n{lines}\r\n")
}

/// Reads until the head of a response is complete.
async fn answered(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("\r\n\r\n") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "ended: {text}");
        text += std::str::from_utf8(&buffer[..read]).unwrap();
    }
    text
}

async fn send(controller: &Controller, method: Method, path: &str, headers: &Headers, body: &str) -> Response {
    let mut request = controller.ask(method, path).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.send().await.unwrap()
}

async fn reason(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let text: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    (status, text["error"]["details"][0]["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn clients_that_do_not_read_or_send_lock_nobody_out() {
    let place = Place::new();
    place.settings("[connections]\ntotal = 32\nreserved = 4\nper_address = 12\nhead_s = 3600\nstall_s = 3600\n");
    let controller = place.start().await;
    let [access_key, _, token] = controller.account("acme").await;
    let page =
        controller.client.get(format!("{}/console/", controller.url)).send().await.unwrap().text().await.unwrap();
    let asset = page.split('"').find(|it| it.contains("assets/index-")).unwrap();
    let asset = format!("/console/{}", asset.trim_start_matches("./").trim_start_matches("/console/"));
    let mut held = Vec::new();
    for number in 0..60 {
        let mut stream = connect(&controller).await;
        let asked = match number % 3 {
            0 => String::new(),
            // Much more than the kernel buffers.
            1 => head("GET", &asset, &[("host", "x".into())]).repeat(100),
            _ => {
                let length = ("content-length", "200000".to_owned());
                let signed = sign([&access_key, "wrong"], "PUT", "/v1/whoami", "", "n");
                head("PUT", "/v1/whoami", &[signed, vec![length]].concat()) + "half"
            }
        };
        stream.write_all(asked.as_bytes()).await.unwrap();
        held.push(stream);
        // Each over a new connection.
        let ask = |path: &str, token: &str| {
            let headers =
                [("host", "x".into()), ("connection", "close".into()), ("authorization", format!("Bearer {token}"))];
            head("GET", path, &headers)
        };
        for asked in [ask("/healthz", ""), ask("/v1/whoami", &token), ask("/admin/v1/hosts", TOKEN)] {
            let mut honest = connect(&controller).await;
            honest.write_all(asked.as_bytes()).await.unwrap();
            let text = answered(&mut honest).await;
            assert!(text.starts_with("HTTP/1.1 200"), "{number}: {asked}: {text}");
        }
    }
}

#[tokio::test]
async fn a_request_with_an_invalid_head_is_refused_without_its_body() {
    let controller = Place::new().start().await;
    let [access_key, secret_key, token] = controller.account("acme").await;
    let length = |bytes: usize| ("content-length", bytes.to_string());
    let host = ("host", "controller".to_owned());
    let bearer = |token: &str| vec![host.clone(), ("authorization", format!("Bearer {token}"))];
    let right = sign([&access_key, &secret_key], "POST", "/admin/v1/apply", "", "n");
    let nobody = sign(["AK0123456789", &secret_key], "POST", "/admin/v1/apply", "", "n");
    let mut old = right.clone();
    old.iter_mut().find(|(name, _)| *name == "x-jdcloud-date").unwrap().1 = "20200101T000000Z".to_owned();
    // Paths of operators do not raise the limit for others.
    for (headers, bytes, status) in [
        (bearer("cpst_wrong"), 64 << 20, 401),
        (vec![host.clone()], 64 << 20, 401),
        (old, 200_000, 401),
        (right, 300_000, 413),
        (nobody, 300_000, 413),
        (bearer(&token), 300_000, 413),
        (bearer(TOKEN), (64 << 20) + 1, 413),
    ] {
        let mut stream = connect(&controller).await;
        let head = head("POST", "/admin/v1/apply", &[headers, vec![length(bytes)]].concat());
        stream.write_all(head.as_bytes()).await.unwrap();
        let text = answered(&mut stream).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {text}");
        assert_eq!(text.contains("www-authenticate: Bearer realm="), status == 401, "{text}");
    }
}

#[tokio::test]
async fn nothing_reveals_whether_an_access_key_exists() {
    let controller = Place::new().start().await;
    let [access_key, ..] = controller.account("acme").await;
    let mut told = Vec::new();
    for key in [access_key.as_str(), "AK0123456789"] {
        let mut headers = sign([key, "wrong"], "PUT", "/v1/whoami", "{}", "n");
        headers.extend([("content-length", "2".to_owned()), ("expect", "100-continue".to_owned())]);
        let mut stream = connect(&controller).await;
        stream.write_all(head("PUT", "/v1/whoami", &headers).as_bytes()).await.unwrap();
        let first = answered(&mut stream).await;
        assert!(first.starts_with("HTTP/1.1 100"), "{key}: {first}");
        stream.write_all(b"{}").await.unwrap();
        let second = answered(&mut stream).await;
        let lines =
            second.lines().filter(|line| !line.starts_with("x-jdcloud-request-id") && !line.starts_with("date"));
        told.push(lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(told[0][0].contains("401") && told[0] == told[1], "{told:?}");
}

#[tokio::test]
async fn an_ambiguous_head_is_refused() {
    let controller = Place::new().start().await;
    let [.., token] = controller.account("acme").await;
    let (host, bearer) = (("host", "x".to_owned()), ("authorization", format!("Bearer {token}")));
    for (headers, status) in [
        (vec![host.clone(), bearer.clone()], 200),
        (vec![bearer.clone()], 400),
        (vec![host.clone(), host.clone(), bearer.clone()], 400),
        (vec![host.clone(), bearer.clone(), bearer.clone()], 400),
        (vec![host.clone(), bearer, ("authorization", format!("Bearer {TOKEN}"))], 400),
        (vec![host], 401),
    ] {
        let mut stream = connect(&controller).await;
        stream.write_all(head("GET", "/v1/whoami", &headers).as_bytes()).await.unwrap();
        let text = answered(&mut stream).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{headers:?}: {text}");
        assert!(text.contains("x-jdcloud-request-id"), "{text}");
    }
}

#[tokio::test]
async fn a_refused_change_cannot_be_replayed_after_a_restart() {
    let controller = Place::new().start().await;
    let [access_key, secret_key, _] = controller.account("acme").await;
    let body = json!({ "vpcSpec": { "cidr": "10.1.0.0/16", "name": "a" } }).to_string();
    let south = "/v1/regions/south/vpcs";
    let key = [access_key.as_str(), &secret_key];
    // One that never reached the rules, because there is no such region yet.
    let early = sign(key, "PUT", south, &body, "1");
    assert_eq!(
        reason(send(&controller, Method::PUT, south, &early, &body).await).await,
        (404, "RegionNotFound".into())
    );
    controller
        .operator(Method::POST, "/admin/v1/apply", json!({ "regions": [{ "id": "south" }, { "id": "north" }] }))
        .await;
    // One that the rules refuse: the VPC has a peering.
    let north = "/v1/regions/north/vpcs";
    let mut vpcs = Vec::new();
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        let body = json!({ "vpcSpec": { "cidr": format!("10.{number}.0.0/16"), "name": name } }).to_string();
        let made = send(&controller, Method::PUT, north, &sign(key, "PUT", north, &body, name), &body).await;
        let made: Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
        vpcs.push(made["result"]["vpcId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned());
    }
    let peerings = "/v1/regions/north/vpcPeerings/";
    let wish = json!({ "vpcPeeringName": "p", "vpcId": vpcs[0], "remoteVpcId": vpcs[1] }).to_string();
    let made = send(&controller, Method::POST, peerings, &sign(key, "POST", peerings, &wish, "p"), &wish).await;
    let made: Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
    let peering = format!("{peerings}{}", made["result"]["vpcPeering"]["vpcPeeringId"].as_str().unwrap());
    let vpc = format!("{north}/{}", vpcs[0]);
    let delete = sign(key, "DELETE", &vpc, "", "d");
    let refused = send(&controller, Method::DELETE, &vpc, &delete, "").await;
    assert_eq!(refused.status().as_u16(), 400);
    let gone = send(&controller, Method::DELETE, &peering, &sign(key, "DELETE", &peering, "", "e"), "").await;
    assert_eq!(gone.status().as_u16(), 200);

    let controller = controller.kill().start().await;
    let again = send(&controller, Method::PUT, south, &early, &body).await;
    assert_eq!(again.headers()["retry-after"], "1");
    assert_eq!(reason(again).await, (429, "RequestReplayed".into()));
    assert_eq!(
        reason(send(&controller, Method::DELETE, &vpc, &delete, "").await).await,
        (429, "RequestReplayed".into())
    );
    // And not immediately after that either, with another nonce.
    let mut other = delete;
    other.iter_mut().find(|(name, _)| *name == "x-jdcloud-nonce").unwrap().1 = "other".to_owned();
    assert_eq!(send(&controller, Method::DELETE, &vpc, &other, "").await.status().as_u16(), 429);
    // With a new signature it is done.
    until("the next second", async || {
        let deleted = send(&controller, Method::DELETE, &vpc, &sign(key, "DELETE", &vpc, "", "f"), "").await;
        deleted.status().as_u16() == 200
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_leaves_no_space_is_named() {
    let place = Place::new();
    for (setting, named) in [
        ("bodies_mib = 1\n", "setting `bodies_mib`: 1 is not between 256"),
        ("[connections]\nreserved = 4000\n", "setting `connections.reserved`: 4000 is not between 0 and 2048"),
    ] {
        place.settings(setting);
        let ended = place.run(&[]);
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(64) && told.contains(named), "{told}");
    }
}
