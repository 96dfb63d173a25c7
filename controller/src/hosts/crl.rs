//! Distributes revocation lists to agents: a certificate that is revoked here is revoked on all hosts within seconds.

use super::client::AgentClients;
use crate::engine::Engine;
use cps_peering_config::{agent_api::CRL_PATH, id::HostId};
use cps_peering_http::{chain, tls::Identity};
use futures_util::{StreamExt as _, stream};
use reqwest::StatusCode;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often agents without the current list are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long an agent that did not take it is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How many agents are contacted at a time.
const AT_ONCE: usize = 64;

/// The outcome for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PushOutcome {
    /// It has it.
    Taken,
    /// Its version takes none.
    Unknown,
    /// It must be retried.
    Failed,
}

/// Runs for ever.
pub async fn run(engine: Arc<Engine>, clients: AgentClients, identity: Identity) {
    // The agent URLs and the lists that they have; agents that did not take it wait.
    let mut has: BTreeMap<HostId, (String, Vec<u8>)> = BTreeMap::new();
    let mut waits: BTreeMap<HostId, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let list = identity.revocation_lists();
        if list.is_empty() || !engine.leadership().holds() || engine.is_held() {
            continue;
        }
        let hash = crate::digest::sha256(&list).to_vec();
        let hosts: Vec<(HostId, String)> = engine.read(|state, _| {
            state.hosts().values().map(|host| (host.id.clone(), host.agent.clone())).collect::<Vec<_>>()
        });
        has.retain(|id, _| hosts.iter().any(|(host, _)| host == id));
        waits.retain(|_, since| since.elapsed() < AGAIN_AFTER);
        let wants = |(id, agent): &(HostId, String)| {
            agent.starts_with("https://")
                && !waits.contains_key(id)
                && has.get(id).is_none_or(|(url, known)| url != agent || *known != hash)
        };
        let wanted: Vec<(HostId, String)> = hosts.into_iter().filter(wants).collect();
        let (clients, list) = (&clients, &list);
        let brought = stream::iter(wanted).map(async |(id, agent)| {
            let brought = bring(clients, &id, &agent, list).await;
            (id, agent, brought)
        });
        let mut brought = std::pin::pin!(brought.buffer_unordered(AT_ONCE));
        while let Some((id, agent, brought)) = brought.next().await {
            match brought {
                PushOutcome::Taken => drop(has.insert(id, (agent, hash.clone()))),
                PushOutcome::Unknown | PushOutcome::Failed => drop(waits.insert(id, Instant::now())),
            }
        }
    }
}

async fn bring(clients: &AgentClients, host: &HostId, agent: &str, list: &[u8]) -> PushOutcome {
    let Ok(client) = clients.shared(host) else { return PushOutcome::Failed };
    let url = format!("{}{CRL_PATH}", agent.trim_end_matches('/'));
    match client.put(url).body(list.to_owned()).send().await {
        Ok(answer) if answer.status().is_success() => {
            tracing::info!(%host, "the agent has the revocation list");
            PushOutcome::Taken
        }
        Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
            tracing::debug!(%host, "the agent's version does not accept revocation lists");
            PushOutcome::Unknown
        }
        Ok(answer) => {
            tracing::warn!(%host, code = answer.status().as_u16(), "the agent does not take the revocation list");
            PushOutcome::Failed
        }
        Err(error) => {
            tracing::debug!(%host, error = chain(&error), "the revocation list did not reach the agent");
            PushOutcome::Failed
        }
    }
}
