//! Collects the results of continuous probes from agents (rule V6). Agents before 0.3.0 have none, and what they do not report
//! is unknown.

use super::client::{AgentClients, AnswerError, read_small};
use crate::engine::{Engine, question_interval};
use cps_peering_config::{
    agent_api::PROBES_PATH,
    id::HostId,
    probe::{MAX_SIDES, ProbeReport},
};
use futures_util::{StreamExt as _, stream};
use reqwest::Client;
use std::{sync::Arc, time::Duration};

/// How often each host is polled, unless there are very many.
const EVERY: Duration = Duration::from_secs(5);
/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many hosts are polled at a time.
const AT_ONCE: usize = 16;
/// The longest response, in bytes.
const LONGEST: usize = MAX_SIDES * 512;

/// Collects until the future is dropped.
pub async fn run(engine: Arc<Engine>, clients: AgentClients) {
    loop {
        // Without peerings a host has nothing to report.
        let hosts: Vec<(HostId, String)> = engine.read(|state, _| {
            let hosts = state.hosts().values().filter(|host| !host.dead && state.ports_on(&host.id).next().is_some());
            hosts.map(|host| (host.id.clone(), host.agent.clone())).collect()
        });
        let again = question_interval(EVERY, hosts.len());
        let asked = stream::iter(hosts).for_each_concurrent(AT_ONCE, |(host, agent)| {
            let (engine, clients) = (Arc::clone(&engine), clients.clone());
            async move { ask(&engine, &clients, &host, &agent, again).await }
        });
        // Never more often than that, however fast they respond.
        tokio::join!(asked, tokio::time::sleep(again));
        engine.forget_probes();
    }
}

async fn ask(engine: &Engine, clients: &AgentClients, host: &HostId, agent: &str, again: Duration) {
    // The push worker reports if there can be no client.
    let Ok(client) = clients.shared(host) else { return };
    match tokio::time::timeout(PATIENCE, get(&client, agent)).await {
        Ok(Ok(report)) => engine.on_probes(host, report, again),
        // The push worker reports unreachable hosts.
        Ok(Err(error)) => tracing::debug!(%host, %error, "nothing is known of its paths"),
        Err(_) => tracing::debug!(%host, "nothing is known of its paths in time"),
    }
}

async fn get(client: &Client, agent: &str) -> Result<ProbeReport, AnswerError> {
    let url = format!("{}{PROBES_PATH}", agent.trim_end_matches('/'));
    read_small(client.get(url).send().await?.error_for_status()?, LONGEST).await
}
