//! The real controller under SIGKILL, concurrent requests and a full disk: what was acknowledged is kept, and nothing is half done.

use cps_peering_controller::{
    engine::{Engine, Options},
    store::Store,
};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const TOKEN: &str = "an-operator-token-for-tests";
const PATIENCE: Duration = Duration::from_secs(20);
const ROUNDS: usize = 6;
const WORKERS: usize = 8;

/// A controller process on a store that outlives it.
struct Controller {
    process: Child,
    url: String,
    client: Client,
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A response: its status, the id of the request, and its content.
struct Answer {
    status: StatusCode,
    request: String,
    content: Value,
}

impl Controller {
    /// Starts one on a free port and waits until it answers. `before` is what a shell does first.
    async fn start(folder: &Path, before: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let listen = crate::loopback::unused();
        let token: PathBuf = folder.join("token");
        std::fs::write(&token, TOKEN).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings = folder.join("controller.toml");
        let url = format!("http://{listen}");
        let text = format!(
            "tls = 'off'\nlisten = '{listen}'\noperator_token_file = '{}'\n{}",
            token.display(),
            crate::place::setting(folder, &url)
        );
        std::fs::write(&settings, text).unwrap();
        let program = env!("CARGO_BIN_EXE_cps-peering-controller");
        let script = format!("{before}; exec {program} --settings {}", settings.display());
        let mut shell = Command::new("bash");
        let process = shell.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        cps_peering_http::tls::use_ring();
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        let mut controller = Self { process, url, client };
        let until = Instant::now() + PATIENCE;
        while !controller.leads().await {
            assert!(Instant::now() < until, "it does not answer");
            assert!(controller.process.try_wait().unwrap().is_none(), "it ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        controller
    }

    /// Whether it answers, and leads.
    async fn leads(&self) -> bool {
        match self.client.get(format!("{}/healthz", self.url)).send().await {
            Ok(answer) => answer.text().await.is_ok_and(|text| !text.contains("follower")),
            Err(_) => false,
        }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// None if there was no complete response.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        call(&self.client, &self.url, method, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, None).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.content);
        answer.content["result"].clone()
    }
}

async fn call(client: &Client, url: &str, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
    let mut request = client.request(method, format!("{url}{path}")).bearer_auth(TOKEN);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.ok()?;
    let status = answer.status();
    let text = answer.text().await.ok()?;
    let content: Value = serde_json::from_str(&text).unwrap_or_default();
    let request = content["requestId"].as_str().unwrap_or_default().to_owned();
    Some(Answer { status, request, content })
}

fn inventory(vpcs: usize) -> Value {
    let vpc = |n: usize| {
        let account = if n.is_multiple_of(2) { "one" } else { "two" };
        json!({ "id": format!("v{n}"), "account": account, "region": "north", "cidrs": [format!("10.{n}.0.0/16")] })
    };
    json!({ "regions": [{ "id": "north" }], "vpcs": (0..vpcs).map(vpc).collect::<Vec<_>>() })
}

/// What is certain about a pair of VPCs, from the responses so far.
#[derive(Debug, Clone, Default)]
struct Pair {
    /// The last response.
    known: Known,
    /// Whether a request was in flight when the controller was killed.
    asked: bool,
    /// Ids of all requests that succeeded.
    requests: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    Peered(String),
    Deleted(String),
}

/// Peers and unpeers one pair, again and again, until the controller is gone.
async fn peer_and_part(client: Client, url: String, pair: Arc<Mutex<Pair>>, n: usize) {
    loop {
        let known = pair.lock().unwrap().known.clone();
        pair.lock().unwrap().asked = true;
        let answer = if let Known::Peered(id) = &known {
            call(&client, &url, Method::DELETE, &format!("/admin/v1/peerings/{id}"), None).await
        } else {
            let body = json!({ "vpcPeeringName": format!("p{n}"), "vpcId": format!("v{}", 2 * n), "remoteVpcId": format!("v{}", 2 * n + 1) });
            call(&client, &url, Method::POST, "/admin/v1/peerings", Some(body)).await
        };
        let Some(answer) = answer else { return };
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.content);
        let mut pair = pair.lock().unwrap();
        pair.asked = false;
        pair.requests.push(answer.request);
        pair.known = match known {
            Known::Peered(id) => Known::Deleted(id),
            _ => Known::Peered(answer.content["result"]["vpcPeering"]["vpcPeeringId"].as_str().unwrap().to_owned()),
        };
    }
}

/// Compares the state with the responses, and brings the pair to where it can continue.
async fn compare(controller: &Controller, pair: &Mutex<Pair>, live: &BTreeMap<String, String>, n: usize) {
    let Pair { known, asked, requests } = pair.lock().unwrap().clone();
    let there = live.get(&format!("v{}", 2 * n));
    match (&known, there) {
        (Known::Peered(id), Some(there)) => assert_eq!(id, there, "another peering than the one that was answered"),
        (Known::Peered(id), None) => assert!(asked, "{id} was answered and is lost"),
        (Known::Deleted(id), Some(there)) => {
            assert!(asked && id != there, "{id} was deleted, and {there} is there");
        }
        (Known::Nothing, Some(there)) => assert!(asked, "nobody asked for {there}"),
        (Known::Deleted(_) | Known::Nothing, None) => {}
    }
    for request in requests {
        let found = controller.get(&format!("/admin/v1/audit?request={request}")).await;
        assert_eq!(found["entries"][0]["outcome"], "done", "request {request} was answered: {found}");
    }
    let known = match there {
        Some(id) => Known::Peered(id.clone()),
        None => Known::Nothing,
    };
    *pair.lock().unwrap() = Pair { known, ..Pair::default() };
}

async fn live(controller: &Controller) -> BTreeMap<String, String> {
    let all = controller.get("/admin/v1/peerings").await;
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let live = all["vpcPeerings"].as_array().unwrap().iter().filter(|it| it["vpcPeeringState"] == "Connected");
    live.map(|it| (word(&it["vpcInfo"]["vpcId"]), word(&it["vpcPeeringId"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_command_is_lost_when_the_controller_is_killed() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let pairs: Vec<Arc<Mutex<Pair>>> = (0..WORKERS).map(|_| Arc::default()).collect();
    let mut answered = 0;
    for round in 0..ROUNDS {
        let controller = Controller::start(folder.path(), ":").await;
        if round == 0 {
            let applied = controller.call(Method::POST, "/admin/v1/apply", Some(inventory(2 * WORKERS))).await;
            assert_eq!(applied.unwrap().status, StatusCode::OK);
        }
        let live = live(&controller).await;
        for (n, pair) in pairs.iter().enumerate() {
            answered += pair.lock().unwrap().requests.len();
            compare(&controller, pair, &live, n).await;
        }
        let mut workers = JoinSet::new();
        for (n, pair) in pairs.iter().enumerate() {
            let (client, url) = (Client::new(), controller.url.clone());
            workers.spawn(peer_and_part(client, url, Arc::clone(pair), n));
        }
        // At another point each time: after so many responses, and a random moment more.
        while pairs.iter().map(|pair| pair.lock().unwrap().requests.len()).sum::<usize>() < 5 + 7 * round {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..20_000))).await;
        controller.kill();
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
    }
    assert!(answered > ROUNDS, "{answered} answers are no test");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_mutually_exclusive_requests_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(folder.path(), ":").await;
    let overlapping = json!({
        "regions": [{ "id": "north" }],
        "vpcs": (0..9).map(|n| json!({
            "id": format!("v{n}"), "account": "one", "region": "north",
            // All but the first have the same addresses.
            "cidrs": [if n == 0 { "10.0.0.0/16" } else { "10.1.0.0/16" }],
        })).collect::<Vec<_>>(),
    });
    let applied = controller.call(Method::POST, "/admin/v1/apply", Some(overlapping)).await;
    assert_eq!(applied.unwrap().status, StatusCode::OK);
    let mut asked = JoinSet::new();
    for n in 1..9 {
        let (client, url) = (controller.client.clone(), controller.url.clone());
        // Either side may be the one that requests.
        let (vpc, peer) = if n % 2 == 0 { (0, n) } else { (n, 0) };
        let body =
            json!({ "vpcPeeringName": format!("p{n}"), "vpcId": format!("v{vpc}"), "remoteVpcId": format!("v{peer}") });
        asked.spawn(async move { call(&client, &url, Method::POST, "/admin/v1/peerings", Some(body)).await.unwrap() });
    }
    let answers = asked.join_all().await;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status != StatusCode::OK).collect();
    assert_eq!(refused.len(), 7);
    for answer in refused {
        assert_eq!(answer.content["error"]["details"][0]["reason"], "VpcPeerCidrConflict", "{}", answer.content);
    }
    assert_eq!(live(&controller).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_nothing_is_acknowledged_falsely() {
    if crate::place::in_etcd() {
        return; // Its members have disks of their own.
    }
    let folder = tempfile::tempdir().unwrap();
    // No file may grow beyond 4 MiB, which the kernel reports with EFBIG as it reports a full disk with ENOSPC.
    let controller = Controller::start(folder.path(), "trap '' XFSZ; ulimit -f 4096").await;
    let vpcs = |n: usize| {
        json!({
            "regions": [{ "id": "north" }],
            "vpcs": (0..250).map(|m| json!({
                "id": format!("v{n}-{m}"), "name": "x".repeat(60), "account": "one", "region": "north",
                "cidrs": [format!("10.{n}.{m}.0/24")],
            })).collect::<Vec<_>>(),
        })
    };
    let mut kept = 0;
    let refused = loop {
        let answer = controller.call(Method::POST, "/admin/v1/apply", Some(vpcs(kept))).await.unwrap();
        if answer.status != StatusCode::OK {
            break answer;
        }
        kept += 1;
        assert!(kept < 200, "the limit was never reached");
    };
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.content);
    assert_eq!(refused.content["error"]["status"], "UNAVAILABLE");
    let message = refused.content["error"]["message"].as_str().unwrap();
    assert!(message.contains("store.redb"), "{message}");
    // Existing records can still be read, refused ones are not among them.
    let count = |inventory: &Value| inventory["vpcs"].as_array().unwrap().len();
    assert_eq!(count(&controller.get("/admin/v1/inventory").await), 250 * kept);
    controller.kill();
    let controller = Controller::start(folder.path(), ":").await;
    let there = count(&controller.get("/admin/v1/inventory").await);
    assert_eq!(there, 250 * kept, "exactly what was answered");
    let applied = controller.call(Method::POST, "/admin/v1/apply", Some(vpcs(kept))).await.unwrap();
    assert_eq!(applied.status, StatusCode::OK, "{}", applied.content);
}

/// Runs the program with a controller's settings. Returns whether it succeeded, and what it printed.
fn run(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
    let ended = command.arg("--settings").arg(folder.join("controller.toml")).args(arguments).output().unwrap();
    (ended.status.success(), String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap())
}

#[tokio::test]
async fn a_backup_of_a_running_controller_can_be_restored() {
    let folder = TempDir::new().unwrap();
    let controller = Controller::start(folder.path(), "true").await;
    let apply = async |vpcs| controller.call(Method::POST, "/admin/v1/apply", Some(inventory(vpcs))).await.unwrap();
    assert_eq!(apply(2).await.status, StatusCode::OK);
    let answer = controller.call(Method::POST, "/admin/v1/backups", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.content);
    let made = answer.content["result"].clone();
    let before = controller.get("/admin/v1/cluster").await;
    assert_eq!(before["held"], false);
    // A leader's first commit records that it leads.
    let number = if crate::place::in_etcd() { 2 } else { 1 };
    assert_eq!(made["revision"], json!({ "epoch": 1, "number": number }));
    let file = made["file"].as_str().unwrap();
    let (done, told) = run(folder.path(), &["backup", "inspect", "--json", file]);
    let manifest: Value = serde_json::from_str(&told).unwrap();
    assert!(done && manifest["revision"] == made["revision"] && manifest["cluster"] == before["cluster"], "{told}");
    let (done, told) = run(folder.path(), &["backup", "verify", file]);
    assert!(done && told.contains("is whole") && told.contains("2 VPCs"), "{told}");
    // By a timer, while the controller runs: at most two are kept, and a failed hand-over removes none.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let folders = taken.to_str().unwrap();
    // Another cluster puts its backups there, too, and they are not touched.
    let stranger = TempDir::new().unwrap();
    let others: Vec<PathBuf> =
        (0..3).map(|number| taken.join(format!("2020-01-01T00-00-0{number}.000Z.backup"))).collect();
    let another = Store::open(stranger.path().join("store.redb")).unwrap();
    let (another, _) = Engine::open(another, Options::default()).unwrap();
    for other in &others {
        another.store().back_up(other).unwrap();
    }
    for command in ["test -s \"$BACKUP_FILE\"", "test -s \"$BACKUP_FILE\"", "test -s \"$BACKUP_FILE\"", "false"] {
        let arguments = ["backup", "scheduled", "--keep", "2", "--to", folders, "--command", command];
        let (done, told) = run(folder.path(), &arguments);
        assert_eq!(done, command != "false", "{told}");
    }
    let copies = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!((copies(&taken), copies(Path::new(file).parent().unwrap())), (3 + others.len(), 3));
    for other in &others {
        std::fs::remove_file(other).unwrap();
    }
    let kept = taken.join("kept").display().to_string();
    let file = kept.as_str();
    let newest = std::fs::read_dir(&taken).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    std::fs::rename(newest, file).unwrap();
    assert_eq!(apply(4).await.status, StatusCode::OK);

    for refused in [vec!["backup", "copy"], vec!["restore", file]] {
        if crate::place::in_etcd() && refused[0] == "backup" {
            continue; // It disturbs nobody.
        }
        let (done, told) = run(folder.path(), &refused);
        assert!(!done && told.contains("is a controller running already?"), "{told}");
    }
    controller.kill();
    let (done, told) = run(folder.path(), &["restore", file]);
    assert!(done && told.contains(&format!("revision 2.{number} with 0 hosts, 2 VPCs and 0 peerings")), "{told}");
    let copy = folder.path().join("copy");
    let (done, told) = run(folder.path(), &["backup", copy.to_str().unwrap()]);
    assert!(done && told.contains(&format!("2.{number}")), "{told}");

    let controller = Controller::start(folder.path(), "true").await;
    let found = controller.get("/admin/v1/inventory").await;
    assert_eq!(found["vpcs"].as_array().unwrap().len(), 2, "{found}");
    // It is a cluster of its own now, and held until it is released.
    let now = controller.get("/admin/v1/cluster").await;
    assert_eq!((&now["held"], now["cluster"] == before["cluster"]), (&json!(true), false), "{before} {now}");
    let (done, told) = run(folder.path(), &["release", "--dry-run"]);
    assert!(done && told.contains("is held") && told.contains(now["cluster"].as_str().unwrap()), "{told}");
    for _twice in 0..2 {
        let (done, told) = run(folder.path(), &["release"]);
        assert!(done && told.contains("is released"), "{told}");
    }
    assert_eq!(controller.get("/admin/v1/cluster").await["held"], false);
    controller.kill();
    let (done, told) = run(folder.path(), &["release"]);
    assert!(!done && told.contains("does not answer"), "{told}");
}
