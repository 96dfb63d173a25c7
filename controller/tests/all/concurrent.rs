//! Several accounts send random requests at the same time, over HTTP; then every rule must hold.

use cps_peering_config::net::overlap;
use ipnet::IpNet;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};
use tokio::task::JoinSet;

const QUOTA: usize = 6;
const VPCS: usize = 12;
const WORKERS: usize = 6;
const STEPS: usize = 60;

struct Sandbox {
    process: Child,
    url: String,
    admin: String,
    accounts: Vec<(String, String)>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sandbox {
    fn start() -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
        let mut process = program.arg("--dev").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let accounts = said["accounts"].as_array().unwrap().iter();
        let accounts = accounts.map(|it| (word(&it["id"]), word(&it["token"]))).collect();
        Self { process, url: word(&said["url"]), admin: word(&said["admin_token"]), accounts }
    }
}

/// The result, or the error's status; any other response ends the test.
async fn call(client: &Client, token: &str, method: Method, url: &str, body: Option<Value>) -> Result<Value, String> {
    let mut request = client.request(method, url).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let content: Value = answer.json().await.unwrap();
    assert!(!status.is_server_error(), "{content}");
    match content["error"]["status"].as_str() {
        Some(word) => Err(word.to_owned()),
        None => Ok(content["result"].clone()),
    }
}

fn region(vpc: usize) -> &'static str {
    ["cn-north-1", "cn-east-2"][vpc % 2]
}

/// The account of a VPC.
fn owner(vpc: usize) -> usize {
    vpc / 2 % 2
}

/// One account's random requests.
async fn wish(url: String, own: (String, String), all: Vec<(String, String)>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    cps_peering_http::tls::use_ring();
    let client = Client::new();
    for step in 0..STEPS {
        let (vpc, peer) = (random.usize(..VPCS), random.usize(..VPCS));
        let base = format!("{url}/v1/regions/{}/vpcPeerings", region(vpc));
        let seen = call(&client, &own.1, Method::GET, &format!("{base}/?pageSize=100"), None).await.unwrap();
        let seen = seen["vpcPeerings"].as_array().unwrap();
        for peering in seen {
            assert_eq!(peering["vpcInfo"]["accountId"], json!(own.0), "nobody sees what is not theirs");
        }
        let any =
            (!seen.is_empty()).then(|| seen[random.usize(..seen.len())]["vpcPeeringId"].as_str().unwrap().to_owned());
        let (method, path, body) = match (random.u8(..10), any) {
            (0..=4, _) | (_, None) => {
                let mut body = json!({
                    "vpcPeeringName": format!("p{seed}-{step}"), "vpcId": format!("v{vpc}"),
                    "remoteVpcId": format!("v{peer}"), "remoteRegionId": region(peer),
                    "remoteAccountId": all[owner(peer)].0,
                });
                if region(vpc) != region(peer) {
                    body["bandwidth"] = json!(random.u32(1..100));
                }
                (Method::POST, String::new(), Some(body))
            }
            (5..=6, Some(id)) => (Method::POST, format!("/{id}:acceptVpcPeering"), None),
            (7, Some(id)) => (Method::POST, format!("/{id}:rejectVpcPeering"), None),
            (8, Some(id)) => (
                Method::PUT,
                format!("/{id}:modifyVpcPeeringBandwidth"),
                Some(json!({ "bandwidth": random.u32(1..100) })),
            ),
            (_, Some(id)) => (Method::DELETE, format!("/{id}"), None),
        };
        // Refusals are expected.
        let _ = call(&client, &own.1, method, &format!("{base}{path}"), body).await;
    }
}

/// L12.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_of_accounts_keep_the_rules() {
    let sandbox = Sandbox::start();
    cps_peering_http::tls::use_ring();
    let client = Client::new();
    let vpcs: Vec<Value> = (0..VPCS)
        .map(|n| {
            // Each CIDR belongs to two VPCs, sometimes of different accounts and regions.
            json!({
                "id": format!("v{n}"), "account": sandbox.accounts[owner(n)].0, "region": region(n),
                "cidrs": [format!("10.{}.0.0/16", n * 2 / 3), format!("fd00:{n}::/48")],
            })
        })
        .collect();
    let quotas = json!({ "cn-north-1": QUOTA, "cn-east-2": QUOTA });
    let accounts: Vec<Value> = sandbox.accounts.iter().map(|(id, _)| json!({ "id": id, "quotas": quotas })).collect();
    let url = format!("{}/admin/v1/apply", sandbox.url);
    let inventory = json!({ "vpcs": vpcs, "accounts": accounts });
    call(&client, &sandbox.admin, Method::POST, &url, Some(inventory)).await.unwrap();
    let mut workers = JoinSet::new();
    for n in 0..WORKERS {
        let own = sandbox.accounts[n % 2].clone();
        workers.spawn(wish(sandbox.url.clone(), own, sandbox.accounts.clone(), n as u64));
    }
    workers.join_all().await;
    let url = format!("{}/admin/v1/peerings", sandbox.url);
    let all = call(&client, &sandbox.admin, Method::GET, &url, None).await.unwrap();
    let all = all["vpcPeerings"].as_array().unwrap();
    let live: Vec<&Value> = all.iter().filter(|it| it["vpcPeeringState"] != "Disconnected").collect();
    let joined: Vec<&&Value> = live.iter().filter(|it| it["vpcPeeringState"] == "Connected").collect();
    assert!(joined.len() > 4 && all.len() > 10, "{} of {} are no test", joined.len(), all.len());
    let mut pairs = BTreeSet::new();
    for it in &live {
        let mut pair = [&it["vpcInfo"]["vpcId"], &it["remoteVpcInfo"]["vpcId"]].map(ToString::to_string);
        pair.sort();
        assert!(pairs.insert(pair), "one live peering per pair: {it}");
    }
    for (account, _) in &sandbox.accounts {
        for region in ["cn-north-1", "cn-east-2"] {
            let own = |it: &&&Value| it["vpcInfo"]["accountId"] == **account && it["vpcInfo"]["regionId"] == region;
            assert!(live.iter().filter(own).count() <= QUOTA, "the quota of {account} in {region}");
        }
    }
    let cidrs = |info: &Value| -> Vec<IpNet> {
        info["addressPrefix"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().parse().unwrap()).collect()
    };
    for n in 0..VPCS {
        let id = json!(format!("v{n}"));
        let mut claimed: Vec<IpNet> = Vec::new();
        for it in &joined {
            for (own, other) in [("vpcInfo", "remoteVpcInfo"), ("remoteVpcInfo", "vpcInfo")] {
                if it[own]["vpcId"] == id {
                    let reached = cidrs(&it[other]);
                    let clash = reached
                        .iter()
                        .find(|cidr| claimed.iter().chain(&cidrs(&it[own])).any(|old| overlap(old, cidr)));
                    assert!(clash.is_none(), "{clash:?} is reached twice from {id}");
                    claimed.extend(reached);
                }
            }
        }
    }
}
