//! Sending: one task sends spans in batches to a collector, which may fail in any way.

use crate::{
    count::{Counts, Outcome},
    span::{Data, Item, Recorder},
    wire::{self, Service},
};
use cps_peering_config::{
    retry::{Backoff, Retry},
    settings::TracingSettings,
};
use cps_peering_http::{chain, tls};
use reqwest::{Client, Response, StatusCode, redirect::Policy};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// The most spans that wait: some MiB.
const QUEUE: usize = 4096;
/// The batch size.
const BATCH: usize = 512;
/// How often a request is tried.
const TRIES: u32 = 3;
/// The longest response that is read, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;
/// How long a client is used with the CAs that it started with.
const CLIENT_LIFE: Duration = Duration::from_hours(1);

/// The exporter's timeouts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// For more spans, before the first one is sent.
    pub(crate) linger: Duration,
    /// For the response to a request.
    pub(crate) timeout: Duration,
    /// Before a request is retried.
    pub(crate) backoff: Backoff,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(5)),
        }
    }
}

/// Sends what is recorded.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Receiver<Item>,
    url: String,
    ca: Option<PathBuf>,
    service: Service,
    counts: Counts,
    client: Option<(Instant, Client)>,
    pub(crate) pace: Pace,
    /// Whether the last request failed, and that was logged.
    failing: bool,
}

impl Exporter {
    /// A recorder, and the exporter that sends its spans; no exporter if the settings name no collector. `program` and
    /// `version` are those of the daemon.
    pub fn new(settings: &TracingSettings, program: &str, version: &str) -> (Recorder, Option<Self>) {
        let Some(endpoint) = &settings.otlp_endpoint else { return (Recorder::default(), None) };
        let machine = || nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let service = Service {
            name: settings.service_name.clone().unwrap_or_else(|| program.to_owned()),
            version: version.to_owned(),
            host: settings.host_name.clone().unwrap_or_else(machine),
        };
        let (sender, queue) = mpsc::channel(QUEUE);
        let counts = Counts::new();
        let recorder = Recorder::new(sender, settings.sample_ratio, counts.clone());
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let (ca, pace) = (settings.ca.clone(), Pace::default());
        let exporter = Self { queue, url, ca, service, counts, client: None, pace, failing: false };
        (recorder, Some(exporter))
    }

    /// Sends until no recorder is left.
    pub async fn run(mut self) {
        let mut items = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut items, BATCH).await > 0 {
            let until = tokio::time::Instant::now() + self.pace.linger;
            while items.len() < BATCH && !items.iter().any(|item| matches!(item, Item::Flush(_))) {
                let room = BATCH - items.len();
                let more = tokio::time::timeout_at(until, self.queue.recv_many(&mut items, room)).await;
                if more.is_err() || more == Ok(0) {
                    break;
                }
            }
            let (mut spans, mut flushed) = (Vec::new(), Vec::new());
            for item in items.drain(..) {
                match item {
                    Item::Span(data) => spans.push(data),
                    Item::Flush(done) => flushed.push(done),
                }
            }
            if !spans.is_empty() {
                self.send(&spans).await;
            }
            for done in flushed {
                // The waiting task may have given up.
                let _ = done.send(());
            }
        }
    }

    /// Sends spans, and counts their outcome.
    async fn send(&mut self, spans: &[Box<Data>]) {
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let body = wire::request(&self.service, spans).to_string();
        let (mut retry, mut tries) = (Retry::new(self.pace.backoff), 1);
        let sent = loop {
            match self.post(body.clone()).await {
                Err(Failure { again: true, .. }) if tries < TRIES => tries += 1,
                sent => break sent,
            }
            sleep(retry.failed()).await;
        };
        match sent {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                self.counts.add(Outcome::Rejected, rejected);
                self.counts.add(Outcome::Exported, count - rejected);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the collector of traces takes spans again");
                }
            }
            Err(Failure { reason, .. }) => {
                self.counts.add(Outcome::Failed, count);
                // It is not this daemon's fault, and is logged once.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(reason, "the collector of traces does not take spans, and they are dropped");
                }
            }
        }
    }

    /// Sends a request once. Returns how many of its spans were not accepted.
    async fn post(&mut self, body: String) -> Result<u64, Failure> {
        let (client, limit) = (self.client().await?, self.pace.timeout);
        let posted = async {
            let answer = client.post(&self.url).header("content-type", "application/json").body(body).send().await?;
            let status = answer.status();
            Ok((status, beginning(answer).await?))
        };
        // From name resolution to the end of the response.
        let posted = timeout(limit, posted).await;
        let posted = posted.map_err(|_| Failure::again(format!("no answer within {} s", limit.as_secs_f32())))?;
        let (status, answer) = posted.map_err(|error: reqwest::Error| Failure::again(chain(&error.without_url())))?;
        match status {
            status if status.is_success() => Ok(wire::rejected(&answer)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::again(format!("it answered {status}"))),
            status => Err(Failure { reason: format!("it answered {status}"), again: false }),
        }
    }

    async fn client(&mut self) -> Result<Client, Failure> {
        if let Some((_, client)) = self.client.as_ref().filter(|(made, _)| made.elapsed() < CLIENT_LIFE) {
            return Ok(client.clone());
        }
        let (ca, secure) = (self.ca.clone(), self.url.starts_with("https://"));
        // It reads the CA files.
        let built = tokio::task::spawn_blocking(move || build(ca, secure)).await;
        let built = built.unwrap_or_else(|error| Err(error.to_string()));
        let client = built.map_err(|reason| Failure { reason, again: false })?;
        self.client = Some((Instant::now(), client.clone()));
        Ok(client)
    }
}

/// Why a request was not accepted.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// Whether the same request may be accepted later.
    again: bool,
}

impl Failure {
    fn again(reason: String) -> Self {
        Self { reason, again: true }
    }
}

fn build(ca: Option<PathBuf>, secure: bool) -> Result<Client, String> {
    tls::use_ring();
    // A redirect could lead anywhere.
    let builder = Client::builder().redirect(Policy::none()).no_proxy();
    let builder = builder.user_agent("cps-peering").pool_max_idle_per_host(1);
    let builder = match ca {
        Some(ca) => builder.tls_backend_preconfigured(tls::client(&ca, None).map_err(|error| chain(&error))?),
        None if secure => builder,
        // The machine may have no trusted CAs.
        None => builder.tls_backend_preconfigured(tls::no_client()),
    };
    builder.build().map_err(|error| chain(&error))
}

/// The beginning of a response: a longer one is not worth reading.
async fn beginning(mut answer: Response) -> reqwest::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_ANSWER {
            bytes.clear();
            break;
        }
    }
    Ok(bytes)
}
