//! How long two controllers that share a store in etcd are without a leader when the leader is killed.

use super::{
    client::Client,
    part,
    process::{Agents, Controller, Etcd, Settings},
    spread,
};
use crate::figures::{Figures, note};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_mins(2);

fn until(what: &str, mut met: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !met()? {
        ensure!(Instant::now() < deadline, "{what} is not there after {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Creates and deletes a peering, if there is a leader.
fn committed(client: &mut Client) -> Result<bool> {
    let body = json!({ "vpcPeeringName": "p0", "vpcId": "p0-a", "remoteVpcId": "p0-b" });
    let (status, text) = client.ask("POST", "/admin/v1/peerings", Some(&body))?;
    // While there is no leader.
    if status == 503 {
        return Ok(false);
    }
    ensure!(status == 200, "answered with {status}: {text}");
    let answer: serde_json::Value = serde_json::from_str(&text)?;
    let id = answer["result"]["vpcPeering"]["vpcPeeringId"].as_str().context("no id")?.to_owned();
    part(client, &id)?;
    Ok(true)
}

/// Measures with the store that the settings name, moved to etcd.
pub(crate) fn measure(
    figures: &mut Figures,
    agents: &Agents,
    folder: &Path,
    settings: &Settings,
    rounds: usize,
) -> Result<()> {
    let name = "controller.takeover";
    if !figures.wants(&[name]) {
        return Ok(());
    }
    let began = Instant::now();
    let etcd = Etcd::start(folder)?;
    let shared = ["one", "two"].map(|name| Settings::shared(folder, name, &etcd));
    let [one, two] = shared;
    let shared = [one?, two?];
    shared[0].take(settings)?;
    note(&format!("the store is in etcd after {:.1} s", began.elapsed().as_secs_f64()));

    let mut leader = (0, Controller::start(&shared[0])?);
    until("a leader", || leader.1.leads())?;
    leader.1.in_sync(0)?;
    let sent = agents.sums()?;
    let (mut times, mut synced) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let number = 1 - leader.0;
        let follower = Controller::start(&shared[number])?;
        until("the follower's copy", || Ok(follower.copied()? > 0))?;
        let mut client = follower.client()?;
        until("an answer", || committed(&mut client))?;
        let killed = Instant::now();
        leader = (number, follower);
        until("an answer", || committed(&mut client))?;
        times.push(killed.elapsed());
        leader.1.in_sync(0)?;
        synced.push(killed.elapsed());
    }
    let puts = (agents.sums()?.puts - sent.puts) / rounds;
    let [(_, middle), (_, in_sync)] = [times.clone(), synced].map(spread);
    let worst = times.iter().max().copied().unwrap_or_default();
    let how = format!(
        "from SIGKILL to the first commit of the next one, {rounds} times, the longest; in the middle {:.1}, 3 s of it the lease; {puts} \
         hosts are told of the next one, and in sync with it after {:.1}",
        middle / 1e3,
        in_sync / 1e3
    );
    figures.add(name, worst.as_secs_f64(), "s", how);
    Ok(())
}
