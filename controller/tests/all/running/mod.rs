//! A controller as it runs for operators: with a settings file, a store, signals and a log. It ends with the test.

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub const TOKEN: &str = "only-for-this-test";

/// Retries until it succeeds.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !is_so().await {
        assert!(Instant::now() < end, "not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The files of a controller.
pub struct Place(pub TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.secret("token", TOKEN);
        place.settings("");
        place
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a private file.
    pub fn secret(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes the settings file: defaults for tests, and more.
    pub fn settings(&self, more: &str) {
        let (store, token) = (self.file("store.redb"), self.file("token"));
        let (store, token) = (store.display(), token.display());
        let usual =
            format!("listen = '127.0.0.1:0'\nstore = '{store}'\noperator_token_file = '{token}'\ntls = 'off'\n");
        fs::write(self.file("controller.toml"), usual + more).unwrap();
    }

    /// The program with these settings.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"));
        command
            .env_remove("RUST_LOG")
            .env_remove("JOURNAL_STREAM")
            .arg("--settings")
            .arg(self.file("controller.toml"))
            .args(arguments);
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments).output().unwrap()
    }

    pub async fn start(self) -> Controller {
        let command = self.program(&[]);
        self.start_as(command).await
    }

    /// Starts a program that was set up for this place.
    pub async fn start_as(self, mut command: Command) -> Controller {
        let log = File::options().create(true).append(true).open(self.file("log")).unwrap();
        log.set_len(0).unwrap();
        let child = command.stderr(log).stdout(Stdio::null()).spawn();
        cps_peering_http::tls::use_ring();
        let mut controller =
            Controller { child: child.unwrap(), url: String::new(), place: self, client: Client::new() };
        until("it listens", async || {
            assert!(controller.child.try_wait().unwrap().is_none(), "it ended: {}", controller.log());
            let log = controller.log();
            let address = log.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
            controller.url = address.map(|address| format!("http://{address}")).unwrap_or_default();
            !controller.url.is_empty()
        })
        .await;
        controller
    }
}

/// A running controller.
pub struct Controller {
    child: Child,
    pub url: String,
    pub place: Place,
    pub client: Client,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Controller {
    /// All of its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.file("log")).unwrap()
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Makes it reload its settings.
    pub async fn reload(&self) {
        let count = |log: &str| log.matches("settings read again").count();
        let before = count(&self.log());
        self.signal("-HUP");
        until("the settings were read again", async || count(&self.log()) > before).await;
    }

    /// Stops it in good order.
    pub fn stop(mut self) -> Place {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        std::mem::replace(&mut self.place, Place(tempfile::tempdir().unwrap()))
    }

    /// Kills it, as a power failure does.
    pub fn kill(mut self) -> Place {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.place, Place(tempfile::tempdir().unwrap()))
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request with a token.
    pub async fn get(&self, token: &str, path: &str) -> Response {
        self.ask(Method::GET, path).bearer_auth(token).send().await.unwrap()
    }

    pub async fn code(&self, token: &str, path: &str) -> u16 {
        self.get(token, path).await.status().as_u16()
    }

    /// Sends a command of the operators.
    pub async fn operator(&self, method: Method, path: &str, body: Value) -> Value {
        let answer = self.ask(method, path).bearer_auth(TOKEN).body(body.to_string()).send().await.unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].clone()
    }

    /// Creates an account. Returns its access key, secret key and token.
    pub async fn account(&self, id: &str) -> [String; 3] {
        self.operator(Method::POST, "/admin/v1/accounts", json!({ "accountId": id })).await;
        let key = self.operator(Method::POST, &format!("/admin/v1/accounts/{id}/keys"), json!({})).await;
        let token = self.operator(Method::POST, &format!("/admin/v1/accounts/{id}/tokens"), json!({})).await;
        [&key["accessKey"], &key["secretKey"], &token["token"]].map(|value| value.as_str().unwrap().to_owned())
    }

    /// Signs in as the console does. The error is the status.
    pub async fn sign_in(&self, credential: Value) -> Result<String, u16> {
        let request = self.ask(Method::POST, "/console/session").header("x-cps-console", "user");
        let answer = request.body(credential.to_string()).send().await.unwrap();
        match answer.headers().get("set-cookie") {
            Some(cookie) => Ok(cookie.to_str().unwrap().split(';').next().unwrap().to_owned()),
            None => Err(answer.status().as_u16()),
        }
    }

    /// The value of a metric, by the beginning of its line.
    pub async fn metric(&self, address: &str, line: &str) -> f64 {
        let text = self.client.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap();
        let found = text.lines().find_map(|it| it.strip_prefix(line));
        found.unwrap_or_else(|| panic!("{line}: {text}")).trim().parse().unwrap()
    }
}

/// Sends a request with a token. The status, and the `result` or the `error` of the answer.
pub async fn call(controller: &Controller, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let answer = controller.ask(method, path).bearer_auth(token).body(body.to_string()).send().await.unwrap();
    let status = answer.status().as_u16();
    let mut answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    (status, if status == 200 { answer["result"].take() } else { answer["error"].take() })
}

/// Sends a request that must not fail. Its `result`.
pub async fn done(controller: &Controller, token: &str, method: Method, path: &str, body: Value) -> Value {
    let (code, answer) = call(controller, token, method, path, body).await;
    assert_eq!(code, 200, "{path}: {answer}");
    answer
}

/// A VPC of an account in a region, by the region's path.
pub async fn vpc(controller: &Controller, token: &str, region: &str, cidr: &str) -> String {
    let body = json!({ "vpcSpec": { "cidr": cidr, "name": cidr } });
    let made = done(controller, token, Method::PUT, &format!("{region}/vpcs"), body).await;
    made["vpcId"].as_str().unwrap().to_owned()
}

/// Whether a file holds these bytes.
pub fn holds(file: &Path, bytes: &[u8]) -> bool {
    fs::read(file).unwrap().windows(bytes.len()).any(|it| it == bytes)
}
