//! Collects counters from agents: from all hosts with a part in a peering between regions every [`INTERVAL_S`], for the
//! history. Counters only grow, so the push workers collect those of other hosts with each poll, by [`count`].

use super::client::{AgentClients, AnswerError, read_answer};
use crate::{
    engine::{
        Engine,
        traffic::{INTERVAL_S, Key, Traffic},
    },
    model::record::Peering,
};
use cps_peering_config::{agent_api::TRAFFIC_PATH, id::HostId, traffic::TrafficReport};
use reqwest::Client;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many hosts are polled at a time.
const AT_ONCE: usize = 64;
/// How many sides are checked for existence each time.
const LOOKED_AT: usize = 5000;

/// Collects until the future is dropped.
pub async fn run(engine: Arc<Engine>, clients: AgentClients) {
    let mut ticks = interval(Duration::from_secs(INTERVAL_S));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        ask(&engine, &clients).await;
        let engine = Arc::clone(&engine);
        let kept = spawn_blocking(move || keep(&engine, last.as_ref())).await;
        last = kept.unwrap_or_else(|error| {
            tracing::error!(%error, "traffic could not be kept");
            None
        });
    }
}

/// Polls the hosts with a part in peerings between regions.
async fn ask(engine: &Arc<Engine>, clients: &AgentClients) {
    let hosts: BTreeMap<HostId, String> = engine.read(|state, _| {
        let sides = state.cross_region().flat_map(Peering::sides);
        let hosts = sides.flat_map(|side| state.hosts_of(&side.vpc)).filter_map(|id| state.hosts().get(&id));
        hosts.map(|host| (host.id.clone(), host.agent.clone())).collect()
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (host, agent) in hosts {
        // The push worker reports if there can be no client.
        let Ok(client) = clients.shared(&host) else { continue };
        let (places, engine) = (Arc::clone(&places), Arc::clone(engine));
        asked.spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            count(&engine, &client, &host, &agent).await;
        });
    }
    while asked.join_next().await.is_some() {}
}

/// Polls one host.
pub(crate) async fn count(engine: &Engine, client: &Client, host: &HostId, agent: &str) {
    match tokio::time::timeout(PATIENCE, get(client, agent)).await {
        Ok(Ok(report)) => engine.read(|state, _| {
            engine
                .traffic()
                .on_report(host, &report, engine.now_ms(), |peering| state.peerings().contains_key(peering));
        }),
        // The push worker reports unreachable hosts.
        Ok(Err(error)) => tracing::debug!(%host, %error, "no counters"),
        Err(_) => tracing::debug!(%host, "no counters in time"),
    }
}

async fn get(client: &Client, agent: &str) -> Result<TrafficReport, AnswerError> {
    let url = format!("{}{TRAFFIC_PATH}", agent.trim_end_matches('/'));
    read_answer(client.get(url).send().await?.error_for_status()?).await
}

/// Forgets sides that no longer exist, from after the last one that was checked, and stores counters. Returns
/// the last one checked now.
fn keep(engine: &Engine, last: Option<&Key>) -> Option<Key> {
    let traffic: &Traffic = engine.traffic();
    let (gone, last) = engine.read(|state, _| traffic.forget(last, LOOKED_AT, |id| state.peerings().contains_key(id)));
    if let Err(error) = traffic.save(engine.store(), &gone, false) {
        tracing::error!(%error, "traffic could not be kept");
    }
    last
}
