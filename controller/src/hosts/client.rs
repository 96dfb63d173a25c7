//! HTTP clients for agents: each expects its host's name in the agent's certificate.

use super::seen::SeenCertificates;
use cps_peering_config::{
    HostReport, Revision,
    agent_api::{CLUSTER_HEADER, PUSH_ANSWER_WITHIN, STATUS_PATH},
    cluster::ClusterId,
    format::{self, FormatError},
    id::HostId,
    tls as names,
};
use cps_peering_http::{
    chain,
    tls::{self, Identity},
};
use reqwest::{Client, Response, header::HeaderName};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::sync::Semaphore;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than an agent may take to answer.
const TOTAL_TIMEOUT: Duration = PUSH_ANSWER_WITHIN.saturating_add(Duration::from_secs(5));
/// How long a connection in constant use keeps the certificates that it began with.
const RENEWED: Duration = Duration::from_mins(1);

/// Why an agent's response is useless.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// It did not arrive.
    #[error("{}", chain(.0))]
    Unreachable(#[from] reqwest::Error),
    /// It is invalid.
    #[error("the agent's answer cannot be read: {0}")]
    Unreadable(#[from] FormatError),
    /// It is longer than any valid one.
    #[error("the agent's answer is longer than {0} bytes")]
    TooLong(usize),
}

/// The longest report of an agent, in bytes: some hundred for each side and VPC.
const LONGEST_REPORT: usize = 16 << 20;
/// The longest snapshot of a host's kernel, in bytes.
const LONGEST_SNAPSHOT: usize = 64 << 20;
/// The longest error, in bytes.
const LONGEST_ERROR: usize = 8 << 10;

/// Reads the body of an agent's response. A compromised host responds with anything.
pub(super) async fn read_answer<T: DeserializeOwned>(answer: Response) -> Result<T, AnswerError> {
    Ok(format::read(&body(answer, LONGEST_REPORT).await?)?)
}

/// The same, of at most `most` bytes.
pub(super) async fn read_small<T: DeserializeOwned>(answer: Response, most: usize) -> Result<T, AnswerError> {
    Ok(format::read(&body(answer, most).await?)?)
}

/// Reads a snapshot, whose form does not matter.
pub(super) async fn read_snapshot(answer: Response) -> Result<serde_json::Value, AnswerError> {
    let bytes = body(answer, LONGEST_SNAPSHOT).await?;
    Ok(serde_json::from_slice(&bytes).map_err(FormatError::from)?)
}

/// Reads an agent's error; if it is too long, its beginning.
pub(super) async fn read_error(mut answer: Response) -> Result<String, AnswerError> {
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
        if text.len() > LONGEST_ERROR {
            text.truncate(LONGEST_ERROR);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads a response as it is, of at most `most` bytes.
pub(super) async fn read_text(answer: Response, most: usize) -> Result<Vec<u8>, AnswerError> {
    body(answer, most).await
}

async fn body(mut answer: Response, most: usize) -> Result<Vec<u8>, AnswerError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > most {
            return Err(AnswerError::TooLong(most));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Asks an agent which cluster its host belongs to, and which configuration it has. The error is why there is no answer.
pub async fn whose(client: &Client, agent: &str) -> Result<(Option<ClusterId>, Option<Revision>), String> {
    let url = format!("{}{STATUS_PATH}", agent.trim_end_matches('/'));
    let answer = client.get(url).send().await.and_then(Response::error_for_status).map_err(|error| chain(&error))?;
    let cluster = answer.headers().get(CLUSTER_HEADER).and_then(|it| it.to_str().ok()?.parse().ok());
    let report: HostReport = read_answer(answer).await.map_err(|error| error.to_string())?;
    Ok((cluster, report.desired))
}

/// How many path queries one host gets at a time; an agent processes them one after the other.
const PATHS_OF_HOST: usize = 4;

/// Makes clients. Clones have the shared ones in common.
#[derive(Clone)]
pub struct AgentClients {
    identity: Option<Identity>,
    cluster: Option<ClusterId>,
    idle: Duration,
    certificates: SeenCertificates,
    shared: Arc<Mutex<Shared>>,
}

/// Clients by host, with their ages.
struct Shared {
    clients: BTreeMap<HostId, (Instant, Client)>,
    /// Permits for path queries, by host.
    turns: BTreeMap<HostId, Arc<Semaphore>>,
    /// When unused ones were last looked for.
    cleared: Instant,
}

impl AgentClients {
    /// With an identity, agents are contacted over TLS. `poll` is how often each is polled.
    pub fn new(identity: Option<Identity>, poll: Duration) -> Self {
        let shared = Shared { clients: BTreeMap::new(), turns: BTreeMap::new(), cleared: Instant::now() };
        let certificates = SeenCertificates::default();
        Self { identity, cluster: None, idle: poll, certificates, shared: Arc::new(Mutex::new(shared)) }
    }

    /// The same for controllers of a cluster: agents see it in each request, and serve this one only.
    #[must_use]
    pub fn of_cluster(self, cluster: Option<ClusterId>) -> Self {
        Self { cluster, ..self }
    }

    /// The cluster that agents see.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The certificates that agents have shown.
    pub(super) fn certificates(&self) -> &SeenCertificates {
        &self.certificates
    }

    /// When the certificate expires that a host's agent has shown in the last handshake, in seconds since 1970; none if there was
    /// none yet.
    pub fn certificate_ends(&self, host: &HostId) -> Option<u64> {
        self.certificates.not_after(host).and_then(|end| end.try_into().ok())
    }

    /// Whether agents are contacted over TLS.
    pub fn tls(&self) -> bool {
        self.identity.is_some()
    }

    /// A client of its own for one host's agent. Its connection is kept for the time between two polls, so that
    /// a delete need not wait for a handshake. It keeps the certificates that it began with: callers that keep a client take a new
    /// one with each poll.
    pub fn own(&self, host: &HostId) -> Result<Client, reqwest::Error> {
        let tls = self.identity.as_ref();
        let tls = tls.map_or_else(tls::no_client, |identity| identity.client_of(&names::host(host)));
        let cluster = self.cluster.and_then(|cluster| cluster.to_string().parse().ok());
        let headers = cluster.map(|cluster| (HeaderName::from_static(CLUSTER_HEADER), cluster)).into_iter().collect();
        let builder = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .tls_info(true)
            .tcp_nodelay(true);
        builder.pool_idle_timeout(self.idle).tls_backend_preconfigured(tls).build()
    }

    /// The permits for path queries to a host.
    pub(super) fn trace_permits(&self, host: &HostId) -> Arc<Semaphore> {
        // A panic cannot leave it half written.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(shared.turns.entry(host.clone()).or_insert_with(|| Arc::new(Semaphore::new(PATHS_OF_HOST))))
    }

    /// A client for small requests to one host's agent; its connection is kept for a minute.
    pub fn shared(&self, host: &HostId) -> Result<Client, reqwest::Error> {
        // A panic cannot leave it half written.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = shared.clients.get(host).filter(|(since, _)| since.elapsed() < RENEWED) {
            return Ok(client.clone());
        }
        // All are examined, which must not happen with each request.
        if shared.cleared.elapsed() >= RENEWED {
            shared.clients.retain(|_, (since, _)| since.elapsed() < RENEWED);
            shared.cleared = Instant::now();
        }
        let client = self.own(host)?;
        shared.clients.insert(host.clone(), (Instant::now(), client.clone()));
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: usize) -> Response {
        axum::http::Response::new(vec![b' '; length]).into()
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_none() {
        let error = read_answer::<HostReport>(answer(LONGEST_REPORT + 1)).await.unwrap_err();
        assert!(matches!(error, AnswerError::TooLong(LONGEST_REPORT)), "{error}");
        let error = read_answer::<HostReport>(answer(LONGEST_REPORT)).await.unwrap_err();
        assert!(matches!(error, AnswerError::Unreadable(_)), "it was read: {error}");
        let error = read_snapshot(answer(LONGEST_SNAPSHOT + 1)).await.unwrap_err();
        assert!(matches!(error, AnswerError::TooLong(LONGEST_SNAPSHOT)), "{error}");
        assert_eq!(read_error(answer(LONGEST_ERROR + 1)).await.unwrap().len(), LONGEST_ERROR);
    }

    #[tokio::test]
    async fn a_host_gets_a_few_path_queries_at_a_time() {
        let clients = AgentClients::new(None, Duration::from_secs(1));
        let [one, two]: [HostId; 2] = ["h1", "h2"].map(|host| host.parse().unwrap());
        let taken: Vec<_> =
            (0..PATHS_OF_HOST).map(|_| clients.trace_permits(&one).try_acquire_owned().unwrap()).collect();
        assert!(clients.clone().trace_permits(&one).try_acquire_owned().is_err(), "of all that ask");
        assert!(clients.trace_permits(&two).try_acquire_owned().is_ok(), "another host");
        drop(taken);
        assert!(clients.trace_permits(&one).try_acquire_owned().is_ok());
        assert_eq!(clients.shared.lock().unwrap().turns.len(), 1, "those that nobody asks now are forgotten");
    }
}
