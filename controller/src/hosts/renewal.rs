//! Renews agents' certificates before they expire. Agents do not call anyone: the controller asks for a CSR, signs it, and delivers the certificate.
//!
//! Each renewal is in the audit trail. After a failure an agent keeps its certificate, and is tried again with back-off. Agents that do not support
//! renewal are covered by the warnings about expiring certificates, as are all agents without the setting `agent_certificates`.

use super::{
    client::{AgentClients, read_error, read_text},
    issuer::{AgentIssuer, IssuerError},
    seen::{Seen, certificate_of},
};
use crate::{audit::Entry, engine::Engine, instruments::Renewed};
use cps_peering_config::{
    agent_api::{CERTIFICATE_PATH, CERTIFICATE_REQUEST_PATH, ErrorBody, MAX_CERTIFICATE},
    id::HostId,
    retry::{Backoff, Retry},
    settings::AgentCertificateSettings,
};
use cps_peering_http::{chain, tls::Identity};
use futures_util::{StreamExt as _, stream};
use reqwest::{Response, StatusCode};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How often due certificates are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many are renewed each time: ten per second.
const EACH_TIME: usize = 50;
/// How many agents are contacted at a time.
const AT_ONCE: usize = 8;
/// How long an agent is left alone after it was contacted, by how many times in a row its certificate was not renewed.
const BACKOFF: Backoff = Backoff::new(Duration::from_mins(1), Duration::from_hours(1));

/// When an agent can be contacted again.
struct Wait {
    since: Instant,
    pause: Duration,
    retry: Retry,
}

/// What is needed to renew a certificate.
struct Renewer<'a> {
    engine: &'a Engine,
    clients: &'a AgentClients,
    identity: &'a Identity,
    issuer: Result<AgentIssuer, IssuerError>,
}

/// Runs for ever.
pub async fn run(engine: Arc<Engine>, clients: AgentClients, identity: Identity, settings: AgentCertificateSettings) {
    let mut waits: BTreeMap<HostId, Wait> = BTreeMap::new();
    // Agents whose version does not support renewal, which is logged once.
    let mut unknown: BTreeSet<HostId> = BTreeSet::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !engine.leadership().holds() || engine.is_held() {
            continue;
        }
        let hosts: BTreeMap<HostId, String> = engine.read(|state, _| {
            let https = state.hosts().values().filter(|host| host.agent.starts_with("https://"));
            https.map(|host| (host.id.clone(), host.agent.clone())).collect()
        });
        waits.retain(|host, _| hosts.contains_key(host));
        unknown.retain(|host| hosts.contains_key(host));
        let now = SystemTime::now();
        let mut due = clients.certificates().due(&hosts, seconds(now));
        // A certificate that has been replaced by other means has not failed to be renewed.
        let is_due: BTreeSet<&HostId> = due.iter().map(|(host, _)| host).collect();
        engine.metrics().not_renewed().retain(|host, _| is_due.contains(host));
        drop(is_due);
        due.retain(|(host, _)| waits.get(host).is_none_or(|wait| wait.since.elapsed() >= wait.pause));
        due.truncate(EACH_TIME);
        if due.is_empty() {
            continue;
        }
        // The files are read anew.
        let issuer = AgentIssuer::read(&settings, now);
        if let Err(error) = &issuer {
            tracing::error!(%error, hosts = due.len(), "agents' certificates cannot be renewed");
        }
        let renewer = Renewer { engine: &engine, clients: &clients, identity: &identity, issuer };
        let renewed = stream::iter(due).map(async |(host, agent)| {
            let result = renewer.renew(&host, &agent).await;
            (host, result)
        });
        let mut renewed = std::pin::pin!(renewed.buffer_unordered(AT_ONCE));
        while let Some((host, result)) = renewed.next().await {
            engine.metrics().renewed(&host, result);
            if result == Renewed::Unknown && unknown.insert(host.clone()) {
                tracing::warn!(%host, "the agent is of a version whose certificate is not renewed: issue another one before it ends");
            }
            let mut retry = waits.remove(&host).map_or_else(|| Retry::new(BACKOFF), |wait| wait.retry);
            if matches!(result, Renewed::Done | Renewed::Current) {
                retry.reset();
            }
            // Not all that have failed together at once.
            let pause = retry.failed();
            waits.insert(host, Wait { since: Instant::now(), pause, retry });
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}

impl Renewer<'_> {
    async fn renew(&self, host: &HostId, agent: &str) -> Renewed {
        let Ok(issuer) = &self.issuer else { return Renewed::NotIssued };
        let unreachable = |error: String| {
            tracing::debug!(%host, error, "the agent was not reached to renew its certificate");
            Renewed::Unreachable
        };
        // Its first connection shows the current certificate.
        let Ok(client) = self.clients.own(host) else { return Renewed::Unreachable };
        let url = |path: &str| format!("{}{path}", agent.trim_end_matches('/'));
        let asked = match client.post(url(CERTIFICATE_REQUEST_PATH)).send().await {
            Ok(asked) => asked,
            Err(error) => return unreachable(chain(&error)),
        };
        if asked.status() == StatusCode::NOT_FOUND {
            return Renewed::Unknown;
        }
        if !asked.status().is_success() {
            return refused(host, asked, "the agent does not create a certificate request").await;
        }
        let Some(replaced) = certificate_of(&asked) else {
            return unreachable("the connection has no certificate".to_owned());
        };
        let now = SystemTime::now();
        // It may have been replaced since it was seen.
        if !Seen::of(&replaced).is_some_and(|seen| seen.is_due(seconds(now))) {
            self.clients.certificates().note(host, &asked);
            return Renewed::Current;
        }
        let request = match read_text(asked, MAX_CERTIFICATE).await {
            Ok(request) => request,
            Err(error) => return unreachable(error.to_string()),
        };
        let issued = match issuer.issue(&request, &replaced, host, self.identity, now) {
            Ok(issued) => issued,
            Err(error) => {
                tracing::warn!(%host, %error, "the agent's certificate is not renewed");
                return if error.is_of_agent() { Renewed::RequestRefused } else { Renewed::NotIssued };
            }
        };
        if !self.engine.leadership().holds() {
            return Renewed::NotIssued;
        }
        let put = match client.put(url(CERTIFICATE_PATH)).body(issued.pem).send().await {
            Ok(put) => put,
            Err(error) => return unreachable(chain(&error)),
        };
        if !put.status().is_success() {
            return refused(host, put, "the agent does not take its new certificate").await;
        }
        tracing::info!(%host, serial = issued.serial, until = issued.not_after, "the agent's certificate was renewed");
        self.engine.note(Entry {
            asked: json!({ "serial": issued.serial, "notAfter": issued.not_after }),
            ..Entry::of_system("RenewCertificate", host.as_str(), self.engine.now_ms())
        });
        Renewed::Done
    }
}

async fn refused(host: &HostId, answer: Response, what: &'static str) -> Renewed {
    let status = answer.status();
    let text = read_error(answer).await.unwrap_or_default();
    let error = serde_json::from_str::<ErrorBody>(&text).map_or(text, |body| body.message);
    tracing::warn!(%host, code = status.as_u16(), error, "{what}");
    Renewed::AgentRefused
}
