//! Asks agents what they have counted: all that have a part in a peering between regions at the end of each interval, because what passed
//! within it is of interest. Of the others only totals are, and agents count without end: whoever asks them how they stand asks
//! for that, too, with [`count`].

use super::{INTERVAL_S, Traffic};
use crate::{agents::AgentClients, engine::Engine, model::record::Peering};
use cps_peering_config::{
    agent_api::TRAFFIC_PATH,
    id::{HostId, PeeringId},
    traffic::TrafficReport,
};
use reqwest::Client;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many hosts are asked at once.
const AT_ONCE: usize = 64;
/// How many sides are looked through at once: commands have to wait for that.
const SIDES_AT_ONCE: usize = 2000;

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

/// Asks the hosts with a part in peerings between regions.
async fn ask(engine: &Arc<Engine>, clients: &AgentClients) {
    let hosts: BTreeMap<HostId, String> = engine.read(|state, _| {
        let sides = state.cross_region().flat_map(Peering::sides);
        let hosts = sides.flat_map(|side| state.hosts_of(&side.vpc)).filter_map(|id| state.hosts().get(&id));
        hosts.map(|host| (host.id.clone(), host.agent.clone())).collect()
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (host, agent) in hosts {
        // The push says so when there can be none.
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

/// Asks one host.
pub(crate) async fn count(engine: &Engine, client: &Client, host: &HostId, agent: &str) {
    match tokio::time::timeout(PATIENCE, get(client, agent)).await {
        Ok(Ok(report)) => engine.read(|state, _| {
            engine.traffic().heard(host, &report, |peering| state.peerings().contains_key(peering));
        }),
        // The push says so already when a host is away.
        Ok(Err(error)) => tracing::debug!(%host, %error, "no counters"),
        Err(_) => tracing::debug!(%host, "no counters in time"),
    }
}

async fn get(client: &Client, agent: &str) -> Result<TrafficReport, reqwest::Error> {
    let url = format!("{}{TRAFFIC_PATH}", agent.trim_end_matches('/'));
    client.get(url).send().await?.error_for_status()?.json().await
}

fn keep(engine: &Engine) {
    let traffic: &Traffic = engine.traffic();
    let now_ms = engine.now_ms();
    let (mut gone, mut from) = (Vec::new(), None);
    loop {
        let last = engine.read(|state, _| {
            let interesting = |id: &PeeringId| state.peerings().get(id).map(Peering::is_cross_region);
            traffic.sample(from.as_ref(), SIDES_AT_ONCE, now_ms, interesting, &mut gone)
        });
        match last {
            Some(last) => from = Some(last),
            None => break,
        }
    }
    if let Err(error) = traffic.save(engine.store(), &gone) {
        tracing::error!(%error, "traffic could not be kept");
    }
}
