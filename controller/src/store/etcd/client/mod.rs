//! A client for etcd's JSON gateway (<https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/>): ranges, transactions,
//! leases. Members that do not answer are skipped.

mod watch;

pub(super) use watch::Written;

use crate::store::EtcdError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cps_peering_config::{retry::jitter, settings::EtcdSettings, tls::TlsFiles};
use cps_peering_http::tls::{self, Identity};
use futures_util::future::select_all;
use reqwest::StatusCode;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::runtime::Runtime;

/// How long a member may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// After which time a request that no member answered is retried.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Numbers are encoded as strings, and zeros are left out.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::from_utf8(bytes(deserializer)?).map_err(D::Error::custom)
}

/// The revision of the response.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: u64,
}

/// A key with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(super) create_revision: u64,
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: u64,
    /// Its lease; 0 for none.
    #[serde(default, deserialize_with = "number")]
    pub(super) lease: u64,
}

/// The result of a range.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    /// Whether there are more keys after it.
    #[serde(default)]
    pub(super) more: bool,
}

/// The result of a transaction.
#[derive(Debug, Deserialize)]
pub(super) struct Done {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Debug, Deserialize)]
struct Response {
    #[serde(default)]
    response_range: Option<Found>,
}

impl Done {
    /// The results of the transaction's ranges, in order.
    pub(super) fn ranges(self) -> impl Iterator<Item = Found> {
        self.responses.into_iter().filter_map(|it| it.response_range)
    }
}

#[derive(Debug, Deserialize)]
struct Lease {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    id: u64,
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    ttl: u64,
}

/// The status of a member.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(rename = "dbSize", default, deserialize_with = "number")]
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Streamed<T> {
    result: T,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The first key after all those with this `prefix`.
pub(super) fn behind(prefix: &str) -> String {
    // Keys are ASCII, so that this is a valid string again.
    let mut end = prefix.to_owned();
    let last = end.pop().unwrap_or('\0');
    end.push(char::from_u32(u32::from(last) + 1).unwrap_or('~'));
    end
}

/// A part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Put(String, Vec<u8>),
    Delete(String),
    /// All keys with this prefix.
    DeleteAll(String),
}

impl Operation {
    pub(super) fn key(&self) -> &str {
        match self {
            Operation::Put(key, _) | Operation::Delete(key) | Operation::DeleteAll(key) => key,
        }
    }

    /// Its size in a request, in bytes.
    pub(super) fn len(&self) -> usize {
        const AROUND: usize = 24;
        AROUND
            + match self {
                Operation::Put(key, value) => key.len() + value.len(),
                Operation::Delete(key) => key.len(),
                Operation::DeleteAll(prefix) => 2 * prefix.len(),
            }
    }

    fn json(&self) -> Value {
        match self {
            Operation::Put(key, value) => json!({ "request_put": { "key": encoded(key), "value": encoded(value) } }),
            Operation::Delete(key) => json!({ "request_delete_range": { "key": encoded(key) } }),
            Operation::DeleteAll(prefix) => {
                let range = json!({ "key": encoded(prefix), "range_end": encoded(behind(prefix)) });
                json!({ "request_delete_range": range })
            }
        }
    }
}

/// A condition of a transaction.
#[derive(Debug, Clone)]
pub(super) enum Compare<'a> {
    /// The revision in which the key was created; 0 if it does not exist.
    Created(&'a str, u64),
    /// The revision in which the key was last written; 0 if it does not exist.
    Written(&'a str, u64),
}

impl Compare<'_> {
    fn json(&self) -> Value {
        match self {
            Compare::Created(key, revision) => json!({
                "target": "CREATE", "result": "EQUAL", "key": encoded(key), "create_revision": revision.to_string(),
            }),
            Compare::Written(key, revision) => json!({
                "target": "MOD", "result": "EQUAL", "key": encoded(key), "mod_revision": revision.to_string(),
            }),
        }
    }
}

/// A range to read.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    pub(super) first: String,
    /// The end of the range, exclusive; none for a single key.
    pub(super) end: Option<String>,
    /// 0 for no limit.
    pub(super) limit: usize,
    /// 0 for the current one.
    pub(super) revision: u64,
    /// The last keys first.
    pub(super) backwards: bool,
}

impl Range {
    pub(super) fn key(key: &str) -> Self {
        Self { first: key.to_owned(), ..Self::default() }
    }

    fn json(&self) -> Value {
        let mut range = json!({ "key": encoded(&self.first) });
        if let Some(end) = &self.end {
            range["range_end"] = encoded(end).into();
        }
        if self.limit > 0 {
            range["limit"] = self.limit.to_string().into();
        }
        if self.revision > 0 {
            range["revision"] = self.revision.to_string().into();
        }
        if self.backwards {
            (range["sort_order"], range["sort_target"]) = ("DESCEND".into(), "KEY".into());
        }
        range
    }
}

fn silent(error: &reqwest::Error) -> EtcdError {
    EtcdError::Silent(cps_peering_http::chain(error))
}

/// A member's error.
fn refusal(text: &str) -> Option<EtcdError> {
    let said: Value = serde_json::from_str(text).ok()?;
    let error = said.get("error").filter(|error| error.is_object()).unwrap_or(&said);
    let code = error["code"].as_u64().or_else(|| error["grpc_code"].as_u64())?;
    let message = error["message"].as_str().or_else(|| error["error"].as_str()).unwrap_or_default().to_owned();
    Some(EtcdError::Refused { code, message })
}

/// What every request needs.
struct Asking {
    http: reqwest::Client,
    endpoints: Vec<String>,
    /// The member that answered last.
    good: AtomicUsize,
    user: Option<(String, PathBuf)>,
    token: Mutex<Option<String>>,
}

impl Asking {
    fn post(&self, member: usize, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.endpoints[member].trim_end_matches('/'));
        let request = self.http.post(&url).json(body);
        match self.token.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    /// Sends a request to one member.
    async fn ask(&self, member: usize, path: &str, body: &Value, within: Duration) -> Result<String, EtcdError> {
        let request = self.post(member, path, body).timeout(within);
        let answer = request.send().await.map_err(|error| silent(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| silent(&error))?;
        // Large pages are parsed once, as their own type. (Errors of a stream have status 200, and are not of that type.)
        if status == StatusCode::OK {
            return Ok(text);
        }
        Err(refusal(&text).unwrap_or_else(|| {
            EtcdError::Unreadable(format!("{}{path}: {status} {text:.200}", self.endpoints[member]))
        }))
    }

    /// The same, authenticated if there is a user.
    async fn ask_known(&self, member: usize, path: &str, body: &Value, within: Duration) -> Result<String, EtcdError> {
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.user.is_some() && !known {
            self.sign_in(member, within).await?;
        }
        match self.ask(member, path, body, within).await {
            // A token is valid for some minutes, and until the member restarts.
            Err(error) if self.user.is_some() && error.is_unauthenticated() => {
                self.sign_in(member, within).await?;
                self.ask(member, path, body, within).await
            }
            answer => answer,
        }
    }

    async fn sign_in(&self, member: usize, within: Duration) -> Result<(), EtcdError> {
        const OTHERS: u32 = 0o077;
        let Some((user, file)) = &self.user else { return Ok(()) };
        let unreadable = |error| EtcdError::Password(file.clone(), error);
        if fs::metadata(file).map_err(unreadable)?.mode() & OTHERS != 0 {
            return Err(EtcdError::OpenPassword(file.clone()));
        }
        let password = fs::read_to_string(file).map_err(unreadable)?;
        let asked = json!({ "name": user, "password": password.trim() });
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = self.ask(member, "/v3/auth/authenticate", &asked, within).await?;
        let token = read::<Value>(&answer)?["token"].as_str().map(str::to_owned);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    /// Tries one member after the other.
    async fn ask_any(&self, path: &str, body: &Value, within: Duration) -> Result<String, EtcdError> {
        let first = self.good.load(Ordering::Relaxed);
        let mut last = EtcdError::Silent("there is none".to_owned());
        for turn in 0..self.endpoints.len() {
            let member = (first + turn) % self.endpoints.len();
            match self.ask_known(member, path, body, within).await {
                Ok(answer) => {
                    self.good.store(member, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if error.may_pass() => {
                    tracing::debug!(member = self.endpoints[member], %error, "a member of etcd is passed over");
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Asks the member that answered last, and all members at the same time if it does not answer within half of the time.
    async fn ask_all(&self, path: &str, body: &Value, within: Duration) -> Result<String, EtcdError> {
        let half = within / 2;
        let ask = async |member| self.ask_known(member, path, body, half).await.map(|answer| (member, answer));
        if let Ok((_, answer)) = ask(self.good.load(Ordering::Relaxed)).await {
            return Ok(answer);
        }
        let mut asked: Vec<_> = (0..self.endpoints.len()).map(|member| Box::pin(ask(member))).collect();
        loop {
            match select_all(asked).await {
                (Err(_), _, rest) if !rest.is_empty() => asked = rest,
                (Err(error), ..) => return Err(error),
                (Ok((member, answer)), ..) => {
                    self.good.store(member, Ordering::Relaxed);
                    return Ok(answer);
                }
            }
        }
    }
}

/// A client for all members. It can be used from any thread, and blocks.
pub(super) struct Client {
    asking: Arc<Asking>,
    /// Its own, so that it can be used from threads of another runtime.
    runtime: Option<Runtime>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    pub(super) fn new(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let unprepared = |error: &dyn std::error::Error| EtcdError::Unprepared(error.to_string());
        let identity = settings.tls.as_ref().and_then(|files| {
            let (cert, key) = files.cert.clone().zip(files.key.clone())?;
            Some(TlsFiles { ca: files.ca.clone(), cert, key, crl: None })
        });
        let identity = identity.map(|files| Identity::open(&files)).transpose()?;
        let tls = match (&identity, &settings.tls) {
            (Some(identity), _) => identity.client_by_address(),
            (None, Some(files)) => tls::client(&files.ca, None)?,
            (None, None) => tls::no_client(),
        };
        // Members forward requests themselves, so no redirection is needed; idle connections die with their member.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|error| unprepared(&error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|error| unprepared(&error))?;
        if let Some(identity) = identity {
            // New connections use the current content of the files.
            let (_, nobody) = tokio::sync::mpsc::channel(1);
            runtime.spawn(identity.keep_fresh(nobody));
        }
        let asking = Asking {
            http,
            endpoints: settings.endpoints.clone(),
            good: AtomicUsize::new(fastrand::usize(..settings.endpoints.len().max(1))),
            user: settings.user.clone().zip(settings.password_file.clone()),
            token: Mutex::new(None),
        };
        Ok(Self { asking: Arc::new(asking), runtime: Some(runtime) })
    }

    /// Runs a request on the client's own threads, and waits for the result.
    fn wait<T: Send + 'static>(
        &self,
        question: impl Future<Output = Result<T, EtcdError>> + Send + 'static,
    ) -> Result<T, EtcdError> {
        let (tell, told) = mpsc::sync_channel(1);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                // The caller waits.
                let _ = tell.send(question.await);
            });
        }
        told.recv().map_err(|_| EtcdError::Unprepared("its thread has ended".to_owned()))?
    }

    fn any<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
        body: Value,
        within: Duration,
    ) -> Result<T, EtcdError> {
        let asking = Arc::clone(&self.asking);
        self.wait(async move { read(&asking.ask_any(path, &body, within).await?) })
    }

    /// Sends a request that can be repeated without harm.
    fn look<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
        body: Value,
        within: Duration,
    ) -> Result<T, EtcdError> {
        let asking = Arc::clone(&self.asking);
        self.wait(async move {
            match asking.ask_any(path, &body, within).await {
                Err(error) if error.may_pass() => {
                    tokio::time::sleep(jitter(LOOK_AGAIN)).await;
                    read(&asking.ask_any(path, &body, within).await?)
                }
                answer => read(&answer?),
            }
        })
    }

    pub(super) fn range(&self, range: &Range, within: Duration) -> Result<Found, EtcdError> {
        self.look("/v3/kv/range", range.json(), within)
    }

    /// Reads several ranges as of one moment.
    pub(super) fn ranges(&self, ranges: &[Range], within: Duration) -> Result<Done, EtcdError> {
        let ranges: Vec<Value> = ranges.iter().map(|it| json!({ "request_range": it.json() })).collect();
        self.look("/v3/kv/txn", json!({ "success": ranges }), within)
    }

    /// Executes all operations if all conditions hold, or else reads some keys.
    pub(super) fn transact(
        &self,
        compare: &[Compare<'_>],
        operations: &[Operation],
        otherwise: &[Range],
        within: Duration,
    ) -> Result<Done, EtcdError> {
        let body = json!({
            "compare": compare.iter().map(Compare::json).collect::<Vec<_>>(),
            "success": operations.iter().map(Operation::json).collect::<Vec<_>>(),
            "failure": otherwise.iter().map(|it| json!({ "request_range": it.json() })).collect::<Vec<_>>(),
        });
        self.any("/v3/kv/txn", body, within)
    }

    /// Creates a key with a lease, if it does not exist. Otherwise reads it.
    pub(super) fn claim(&self, key: &str, value: &[u8], lease: u64, within: Duration) -> Result<Done, EtcdError> {
        let put = json!({ "key": encoded(key), "value": encoded(value), "lease": lease.to_string() });
        let body = json!({
            "compare": [Compare::Created(key, 0).json()],
            "success": [{ "request_put": put }],
            "failure": [{ "request_range": Range::key(key).json() }],
        });
        self.any("/v3/kv/txn", body, within)
    }

    /// The size of a member's database, in bytes.
    pub(super) fn database_size(&self, within: Duration) -> Result<u64, EtcdError> {
        let Status { size } = self.look("/v3/maintenance/status", json!({}), within)?;
        Ok(size)
    }

    /// Grants a lease. Returns its id and its time to live in seconds.
    pub(super) fn grant(&self, seconds: u64, within: Duration) -> Result<(u64, u64), EtcdError> {
        let body = json!({ "TTL": seconds.to_string(), "ID": "0" });
        let Lease { id, ttl } = self.any("/v3/lease/grant", body, within)?;
        Ok((id, ttl))
    }

    /// Renews a lease. Returns its time to live in seconds; 0 if it has expired.
    pub(super) fn keep_alive(&self, lease: u64, within: Duration) -> Result<u64, EtcdError> {
        let asking = Arc::clone(&self.asking);
        let body = json!({ "ID": lease.to_string() });
        self.wait(async move {
            let answer = asking.ask_all("/v3/lease/keepalive", &body, within).await?;
            read::<Streamed<Lease>>(&answer).map(|it| it.result.ttl)
        })
    }

    /// Revokes a lease, which deletes its keys.
    pub(super) fn revoke(&self, lease: u64, within: Duration) -> Result<(), EtcdError> {
        self.any::<Value>("/v3/lease/revoke", json!({ "ID": lease.to_string() }), within).map(drop)
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &str) -> Result<T, EtcdError> {
    serde_json::from_str(answer).map_err(|error| EtcdError::Unreadable(error.to_string()))
}
