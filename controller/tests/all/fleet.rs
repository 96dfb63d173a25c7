//! Controllers that share members of etcd, as processes of the test, and a client for them.

use super::loopback::unused;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub const TOKEN: &str = "an-operator-token-for-tests";
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A controller.
pub struct Node {
    pub folder: TempDir,
    pub process: Option<Child>,
    pub url: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Node {
    /// `tls` is the setting; `endpoints` where it finds etcd.
    pub fn new(endpoints: &[String], tls: &str) -> Self {
        Self::with(endpoints, tls, "")
    }

    /// `etcd_tls` is the setting `etcd.tls`.
    pub fn with(endpoints: &[String], tls: &str, etcd_tls: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = unused();
        let token = folder.path().join("token");
        fs::write(&token, TOKEN).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let key = folder.path().join("store.key");
        fs::write(&key, "7".repeat(64)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let url = format!("{}://{listen}", if tls.contains("off") { "http" } else { "https" });
        let text = format!(
            "listen = '{listen}'\noperator_token_file = '{}'\nstore_key_file = '{}'\npoll_s = 1\n{tls}\n[etcd]\nendpoints = \
             {endpoints:?}\nadvertise = '{url}'\nbackups = '{}'\n{etcd_tls}\n",
            token.display(),
            key.display(),
            folder.path().join("backups").display(),
        );
        fs::write(folder.path().join("controller.toml"), text).unwrap();
        let mut node = Self { folder, process: None, url };
        node.start();
        node
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
        command.arg("--settings").arg(self.folder.path().join("controller.toml"));
        command
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        self.process = Some(self.command().stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.as_ref().unwrap().id().try_into().unwrap()), signal).unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// Several controllers, and a client for them.
pub struct Fleet {
    pub nodes: Vec<Node>,
    pub client: Client,
}

impl Fleet {
    pub fn start(count: usize, endpoints: impl Fn(usize) -> Vec<String>) -> Self {
        cps_peering_http::tls::use_ring();
        let client = Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        Self { nodes: (0..count).map(|number| Node::new(&endpoints(number), "tls = 'off'")).collect(), client }
    }

    /// The one that claims to lead.
    pub async fn says(&self, number: usize) -> String {
        let asked = self.client.get(format!("{}/healthz", self.nodes[number].url)).timeout(Duration::from_millis(500));
        match asked.send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// The one that leads and can do so, as commands show; not one of `except`.
    pub async fn leader(&self, except: &[usize]) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            for number in (0..self.nodes.len()).filter(|number| !except.contains(number)) {
                if self.says(number).await == "ok leader\n" {
                    return number;
                }
            }
            assert!(Instant::now() < until, "nobody leads: {}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_follower(&self, number: usize) {
        let until = Instant::now() + PATIENCE;
        while self.says(number).await != "ok follower\n" {
            assert!(Instant::now() < until, "it does not follow: {}", self.nodes[number].log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn logs(&self) -> String {
        self.nodes.iter().map(Node::log).collect::<Vec<_>>().join("\n----\n")
    }

    pub async fn ask(
        &self,
        number: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(StatusCode, Value)> {
        ask(&self.client, &self.nodes[number].url, method, path, body).await
    }

    /// Applies until it succeeds: "retry" is followed by another attempt, at any controller but some.
    pub async fn apply(&self, document: &Value, except: &[usize]) {
        let until = Instant::now() + PATIENCE;
        loop {
            for number in (0..self.nodes.len()).filter(|number| !except.contains(number)) {
                match self.ask(number, Method::POST, "/admin/v1/apply", Some(document)).await {
                    Some((StatusCode::OK, _)) => return,
                    Some((StatusCode::SERVICE_UNAVAILABLE, _)) | None => {}
                    Some((status, answer)) => panic!("{status}: {answer}"),
                }
            }
            assert!(Instant::now() < until, "nobody does it: {}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn regions(&self, number: usize) -> BTreeSet<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some((StatusCode::OK, found)) = self.ask(number, Method::GET, "/admin/v1/inventory", None).await {
                let regions = found["result"]["regions"].as_array().unwrap().iter();
                return regions.map(|it| it["id"].as_str().unwrap().to_owned()).collect();
            }
            assert!(Instant::now() < until, "no answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// None if there was no complete response.
pub async fn ask(
    client: &Client,
    url: &str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Option<(StatusCode, Value)> {
    let mut request = client.request(method, format!("{url}{path}")).bearer_auth(TOKEN);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.ok()?;
    let status = answer.status();
    Some((status, serde_json::from_str(&answer.text().await.ok()?).ok()?))
}

pub fn region(id: impl std::fmt::Display) -> Value {
    json!({ "regions": [{ "id": id.to_string() }] })
}

pub async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn run(command: &mut Command) -> (bool, String) {
    let ended = command.output().unwrap();
    (ended.status.success(), String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap())
}
