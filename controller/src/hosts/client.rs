//! HTTP clients for agents: each wants its host's name in the agent's certificate.

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
/// Longer than an agent may hold back its answer.
const TOTAL_TIMEOUT: Duration = PUSH_ANSWER_WITHIN.saturating_add(Duration::from_secs(5));
/// How long a connection that is in use all the time goes on with the certificates it began with.
const RENEWED: Duration = Duration::from_mins(1);

/// Why an agent's answer is of no use.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// It did not come.
    #[error("{}", chain(.0))]
    Unreachable(#[from] reqwest::Error),
    /// It is none.
    #[error("the agent's answer cannot be read: {0}")]
    Unreadable(#[from] FormatError),
    /// It is longer than any can be.
    #[error("the agent's answer is longer than {0} bytes")]
    TooLong(usize),
}

/// The longest report of an agent, in bytes: there are some hundred for each side and VPC.
const LONGEST_REPORT: usize = 16 << 20;
/// The longest snapshot of a host's kernel, in bytes.
const LONGEST_SNAPSHOT: usize = 64 << 20;
/// The longest error, in bytes.
const LONGEST_ERROR: usize = 8 << 10;

/// Reads the body of an agent's answer. Whoever has broken into a host answers what it likes.
pub(super) async fn read_answer<T: DeserializeOwned>(answer: Response) -> Result<T, AnswerError> {
    Ok(format::read(&body(answer, LONGEST_REPORT).await?)?)
}

/// The same, of at most so many bytes.
pub(super) async fn read_small<T: DeserializeOwned>(answer: Response, most: usize) -> Result<T, AnswerError> {
    Ok(format::read(&body(answer, most).await?)?)
}

/// Reads a snapshot, of whatever form.
pub(super) async fn read_snapshot(answer: Response) -> Result<serde_json::Value, AnswerError> {
    let bytes = body(answer, LONGEST_SNAPSHOT).await?;
    Ok(serde_json::from_slice(&bytes).map_err(FormatError::from)?)
}

/// Reads what an agent says of an error; of one that is too long, its beginning.
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

/// Reads an answer as it is, of at most so many bytes.
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

/// Asks an agent whose its host is, and which configuration it has. Or why it does not say.
pub async fn whose(client: &Client, agent: &str) -> Result<(Option<ClusterId>, Option<Revision>), String> {
    let url = format!("{}{STATUS_PATH}", agent.trim_end_matches('/'));
    let answer = client.get(url).send().await.and_then(Response::error_for_status).map_err(|error| chain(&error))?;
    let cluster = answer.headers().get(CLUSTER_HEADER).and_then(|it| it.to_str().ok()?.parse().ok());
    let report: HostReport = read_answer(answer).await.map_err(|error| error.to_string())?;
    Ok((cluster, report.desired))
}

/// How many questions about paths one host is asked at once; an agent looks at one after the other.
const PATHS_OF_HOST: usize = 4;

/// Makes clients. Clones share those that are shared.
#[derive(Clone)]
pub struct AgentClients {
    identity: Option<Identity>,
    cluster: Option<ClusterId>,
    idle: Duration,
    certificates: SeenCertificates,
    shared: Arc<Mutex<Shared>>,
}

/// Clients by host, with when they were made.
struct Shared {
    clients: BTreeMap<HostId, (Instant, Client)>,
    /// Those who ask for paths, by the host that they ask now.
    turns: BTreeMap<HostId, Arc<Semaphore>>,
    /// When those that are not used any more were last looked for.
    cleared: Instant,
}

impl AgentClients {
    /// With an identity, agents are spoken to over TLS. `poll` is how often each is asked how it stands.
    pub fn new(identity: Option<Identity>, poll: Duration) -> Self {
        let shared = Shared { clients: BTreeMap::new(), turns: BTreeMap::new(), cleared: Instant::now() };
        let certificates = SeenCertificates::default();
        Self { identity, cluster: None, idle: poll, certificates, shared: Arc::new(Mutex::new(shared)) }
    }

    /// The same for controllers of a cluster: agents are told in each request, and serve it alone.
    #[must_use]
    pub fn of_cluster(self, cluster: Option<ClusterId>) -> Self {
        Self { cluster, ..self }
    }

    /// Which cluster agents are told.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// What agents have shown who they are.
    pub(super) fn certificates(&self) -> &SeenCertificates {
        &self.certificates
    }

    /// Until when the certificate is valid that a host's agent has shown in the last handshake, in seconds since 1970; none where it has
    /// shown none yet.
    pub fn certificate_ends(&self, host: &HostId) -> Option<u64> {
        self.certificates.not_after(host).and_then(|end| end.try_into().ok())
    }

    /// Whether agents are spoken to over TLS.
    pub fn tls(&self) -> bool {
        self.identity.is_some()
    }

    /// A client of its own for one host's agent. Its connection is kept for as long as hosts are left alone that are in sync, so that
    /// a delete need not wait for a handshake. It goes on with the certificates that it began with: whoever keeps a client takes a new
    /// one with each question how the host stands.
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

    /// Where those take turns who ask a host for paths.
    pub(super) fn trace_permits(&self, host: &HostId) -> Arc<Semaphore> {
        // What is in it is whole at any time.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(shared.turns.entry(host.clone()).or_insert_with(|| Arc::new(Semaphore::new(PATHS_OF_HOST))))
    }

    /// A client for small questions to one host's agent; its connection is kept for a minute.
    pub fn shared(&self, host: &HostId) -> Result<Client, reqwest::Error> {
        // What is in it is whole at any time.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = shared.clients.get(host).filter(|(since, _)| since.elapsed() < RENEWED) {
            return Ok(client.clone());
        }
        // All are looked through, which must not be done for each of them.
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
    async fn a_host_is_asked_a_few_questions_at_once() {
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
