//! Asks agents what they have counted.

use super::{INTERVAL_S, Traffic};
use crate::{
    agents::AgentClients,
    engine::Engine,
    model::{record::Peering, state::State},
};
use cps_peering_config::{
    agent_api::TRAFFIC_PATH,
    id::{HostId, PeeringId},
    traffic::TrafficReport,
};
use reqwest::Client;
use std::{collections::BTreeSet, ops::Bound, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many hosts are asked at once.
const AT_ONCE: usize = 64;
/// How many hosts without a part in a peering between regions are asked each time. Only their totals are of interest, and
/// agents count without end: where there are more of them, each is asked less often.
const OTHERS: usize = 1000;
/// How many sides are looked through at once: commands have to wait for that.
const SIDES_AT_ONCE: usize = 2000;

/// Collects until the future is dropped.
pub async fn run(engine: Arc<Engine>, clients: AgentClients) {
    let mut ticks = interval(Duration::from_secs(INTERVAL_S));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        last = ask(&engine, &clients, last).await;
        let engine = Arc::clone(&engine);
        let kept = spawn_blocking(move || keep(&engine)).await;
        if let Err(error) = kept {
            tracing::error!(%error, "traffic could not be kept");
        }
    }
}

/// The hosts whose turn it is: those whose samples are of interest, and others behind the last one, round and round. And which
/// is the last one now.
fn turn(state: &State, last: Option<&HostId>) -> (BTreeSet<HostId>, Option<HostId>) {
    let sides = state.cross_region().flat_map(Peering::sides);
    let mut hosts: BTreeSet<HostId> = sides.flat_map(|side| state.hosts_of(&side.vpc)).collect();
    let start = last.map_or(Bound::Unbounded, Bound::Excluded);
    let behind = state.hosts().range::<HostId>((start, Bound::Unbounded));
    let mut others =
        behind.chain(state.hosts().iter()).map(|(id, _)| id).take(state.hosts().len()).take(OTHERS).peekable();
    let mut last = None;
    while let Some(id) = others.next() {
        last = Some(id.clone()).filter(|_| others.peek().is_none()).or(last);
        if state.ports_on(id).next().is_some() {
            hosts.insert(id.clone());
        }
    }
    (hosts, last)
}

/// Asks those whose turn it is. Returns who was the last.
async fn ask(engine: &Arc<Engine>, clients: &AgentClients, last: Option<HostId>) -> Option<HostId> {
    let (hosts, last) = engine.read(|state, _| {
        let (hosts, last) = turn(state, last.as_ref());
        let agent = |id: HostId| Some((state.hosts().get(&id)?.agent.clone(), id));
        (hosts.into_iter().filter_map(agent).collect::<Vec<_>>(), last)
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (agent, host) in hosts {
        // The push says so when there can be none.
        let Ok(client) = clients.shared(&host) else { continue };
        let (places, engine) = (Arc::clone(&places), Arc::clone(engine));
        asked.spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            match tokio::time::timeout(PATIENCE, get(&client, &agent)).await {
                Ok(Ok(report)) => engine.read(|state, _| {
                    engine.traffic().heard(&host, &report, |peering| state.peerings().contains_key(peering));
                }),
                // The push says so already when a host is away.
                Ok(Err(error)) => tracing::debug!(%host, %error, "no counters"),
                Err(_) => tracing::debug!(%host, "no counters in time"),
            }
        });
    }
    while asked.join_next().await.is_some() {}
    last
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        record::{Host, Port, PortKey},
        state::Change,
    };

    #[test]
    fn everybody_has_a_turn() {
        let mut state = State::default();
        let all: BTreeSet<HostId> = (0..2 * OTHERS + 7).map(|n| format!("h{n}").parse().unwrap()).collect();
        for id in &all {
            let (underlay, agent) = ([192, 0, 2, 1].into(), String::new());
            let region = "north".parse().unwrap();
            let host =
                Host { id: id.clone(), region, underlay, agent, config_number: 1, retiring: false, maintenance: false };
            state.apply(Change::Host(id.clone(), Some(host)));
            let key = PortKey { host: id.clone(), interface: "eth1".parse().unwrap() };
            let vpc = "v".parse().unwrap();
            let port = Port { key: key.clone(), vpc, gateways: Vec::new(), prefixes: Vec::new() };
            state.apply(Change::Port(key, Some(port)));
        }
        let (mut asked, mut last) = (BTreeSet::new(), None);
        for _ in 0..3 {
            let (mut turn, now) = turn(&state, last.as_ref());
            assert_eq!(turn.len(), OTHERS);
            asked.append(&mut turn);
            last = now;
        }
        assert_eq!(asked, all);
    }
}
