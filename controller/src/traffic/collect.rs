//! Asks agents what they have counted.

use super::{INTERVAL_S, Traffic};
use crate::{agents::AgentClients, engine::Engine};
use cps_peering_config::{
    agent_api::TRAFFIC_PATH,
    id::{HostId, PeeringId},
    traffic::TrafficReport,
};
use reqwest::Client;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many hosts are asked at once.
const AT_ONCE: usize = 64;

/// Collects until the future is dropped.
pub async fn run(engine: Arc<Engine>, clients: AgentClients) {
    let mut ticks = interval(Duration::from_secs(INTERVAL_S));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        ask(&engine, &clients).await;
        let engine = Arc::clone(&engine);
        let kept = spawn_blocking(move || keep(&engine)).await;
        if let Err(error) = kept {
            tracing::error!(%error, "traffic could not be kept");
        }
    }
}

/// Asks every host that has a port.
async fn ask(engine: &Arc<Engine>, clients: &AgentClients) {
    let (hosts, there): (Vec<(HostId, String)>, BTreeSet<PeeringId>) = engine.read(|state, _| {
        let with_ports = state.hosts().values().filter(|host| state.ports_on(&host.id).next().is_some());
        let hosts = with_ports.map(|host| (host.id.clone(), host.agent.clone())).collect();
        (hosts, state.peerings().keys().cloned().collect())
    });
    let there = Arc::new(there);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (host, agent) in hosts {
        // The push says so when there can be none.
        let Ok(client) = clients.shared(&host) else { continue };
        let (places, engine) = (Arc::clone(&places), Arc::clone(engine));
        let there = Arc::clone(&there);
        asked.spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            match tokio::time::timeout(PATIENCE, get(&client, &agent)).await {
                Ok(Ok(report)) => engine.traffic().heard(&host, &report, |peering| there.contains(peering)),
                // The push says so already when a host is away.
                Ok(Err(error)) => tracing::debug!(%host, %error, "no counters"),
                Err(_) => tracing::debug!(%host, "no counters in time"),
            }
        });
    }
    while asked.join_next().await.is_some() {}
}

async fn get(client: &Client, agent: &str) -> Result<TrafficReport, reqwest::Error> {
    let url = format!("{}{TRAFFIC_PATH}", agent.trim_end_matches('/'));
    client.get(url).send().await?.error_for_status()?.json().await
}

fn keep(engine: &Engine) {
    let interest: BTreeMap<PeeringId, bool> = engine.read(|state, _| {
        state.peerings().values().map(|peering| (peering.id.clone(), peering.is_cross_region())).collect()
    });
    let traffic: &Traffic = engine.traffic();
    let gone = traffic.sample(engine.now_ms(), |peering| interest.get(peering).copied());
    if let Err(error) = traffic.save(engine.store(), &gone) {
        tracing::error!(%error, "traffic could not be kept");
    }
}
