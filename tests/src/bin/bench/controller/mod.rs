//! One controller and all agents of a cloud: how much it needs, how fast it is, and whether the cost of one change is
//! independent of the size of the whole.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cloud`] | what the controller has to manage |
//! | [`agents`] | simulated agents, all in one process |
//! | [`process`] | the controller, the agents and etcd as processes |
//! | [`takeover`] | how long two controllers are without a leader |
//! | [`client`] | the controller's client |

pub(crate) mod agents;
mod client;
mod cloud;
mod process;
mod takeover;

use crate::figures::{Figures, note};
use anyhow::{Context, Result, bail, ensure};
use client::Client;
use cloud::{PAIRS, Size};
use process::{Agents, Controller, Settings};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long things are measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    idle: Duration,
    commands: Duration,
    /// How often a peering is created and deleted, by the number of hosts that it touches.
    rounds: [usize; 3],
    /// How often the leader of two is killed.
    takeovers: usize,
}

const FULL: Effort =
    Effort { idle: Duration::from_mins(1), commands: Duration::from_secs(15), rounds: [200, 100, 30], takeovers: 5 };
/// To see that it still runs.
const SHORT: Effort =
    Effort { idle: Duration::from_millis(200), commands: Duration::from_millis(500), rounds: [3, 3, 3], takeovers: 1 };
/// Fewer hosts than this are no measurement.
const SMALL: usize = 100;

fn peer(client: &mut Client, name: &str) -> Result<String> {
    let body = json!({ "vpcPeeringName": name, "vpcId": format!("{name}-a"), "remoteVpcId": format!("{name}-b") });
    let made = client.call("POST", "/admin/v1/peerings", Some(&body))?;
    Ok(made["vpcPeering"]["vpcPeeringId"].as_str().context("no id")?.to_owned())
}

fn part(client: &mut Client, id: &str) -> Result<Value> {
    client.call("DELETE", &format!("/admin/v1/peerings/{id}"), None)
}

/// From the request to the last confirmation, for a create and the following delete.
fn confirm(client: &mut Client, name: &str) -> Result<[Duration; 2]> {
    let began = Instant::now();
    let id = peer(client, name)?;
    loop {
        let seen = client.call("GET", &format!("/admin/v1/peerings/{id}"), None)?;
        if seen["vpcPeering"]["state"] == "active" {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(20), "{name} does not become active");
        thread::sleep(Duration::from_millis(1));
    }
    let (made, began) = (began.elapsed(), Instant::now());
    let mut gone = part(client, &id)?;
    while gone["state"] != "deleted" {
        ensure!(began.elapsed() < Duration::from_secs(20), "{name} does not go");
        gone = part(client, &id)?;
    }
    Ok([made, began.elapsed()])
}

/// Concurrent creates and deletes. Returns how many were answered per second.
fn commands(controller: &Controller, effort: Effort) -> Result<f64> {
    let answered = AtomicUsize::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        let work = |number: usize| -> Result<()> {
            let mut client = controller.client()?;
            while began.elapsed() < effort.commands {
                let id = peer(&mut client, &format!("p{number}"))?;
                part(&mut client, &id)?;
                answered.fetch_add(2, Ordering::Relaxed);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..PAIRS).map(|number| scope.spawn(move || work(number))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a client has ended")))
    })?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2⁵²")]
    Ok(answered.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// The 99th percentile and the median, in milliseconds.
fn spread(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |part: usize| {
        times.get((times.len() * part).div_ceil(100).max(1) - 1).map_or(f64::NAN, |it| it.as_secs_f64() * 1e3)
    };
    (at(99), at(50))
}

/// Measures one controller with this many hosts.
pub(crate) fn measure(figures: &mut Figures, hosts: usize) -> Result<()> {
    let effort = if hosts < SMALL { SHORT } else { FULL };
    let folder = tempfile::tempdir()?;
    let size = Size { hosts };
    let began = Instant::now();
    let counts = cloud::build(size, &process::store(folder.path()))?;
    note(&format!(
        "{hosts} hosts, {} VPCs, {} peerings, {} prefixes: store made in {:.1} s, {:.0} MB",
        counts.vpcs,
        counts.peerings,
        counts.prefixes,
        began.elapsed().as_secs_f64(),
        process::store(folder.path()).metadata().map_or(0, |it| it.len() / 1_000_000),
    ));
    let agents = Agents::start(hosts, folder.path())?;
    let settings = Settings::embedded(folder.path())?;
    let controller = Controller::start(&settings)?;
    let ready = controller.started.elapsed();
    let took = controller.in_sync(0)?;
    let how = format!("to answering {:.1} s, then {} whole configurations", ready.as_secs_f64(), agents.sums()?.puts);
    figures.add("controller.start_in_sync", took.as_secs_f64(), "s", how);
    let after_start = controller.memory()?;

    if figures.wants(&["controller.idle_cpu"]) {
        // The work left over from the start comes to its end.
        thread::sleep(effort.idle / 6);
        let (cpu, before, began) = (controller.cpu()?, agents.sums()?, Instant::now());
        thread::sleep(effort.idle);
        let (used, elapsed) = (controller.cpu()?.saturating_sub(cpu).as_secs_f64(), began.elapsed().as_secs_f64());
        let after = agents.sums()?;
        let how = format!(
            "of a core; {} questions how hosts stand and {} what passed in {elapsed:.0} s",
            after.statuses - before.statuses,
            after.others - before.others
        );
        figures.add("controller.idle_cpu", 100.0 * used / elapsed, "%", how);
    }
    let mut client = controller.client()?;
    for ((width, touched), rounds) in size.wide().into_iter().zip(effort.rounds) {
        let name = format!("controller.confirm_{width}_p99");
        if !figures.wants(&[&name]) {
            continue;
        }
        let times = (0..rounds).map(|_| confirm(&mut client, &format!("w{width}"))).collect::<Result<Vec<_>>>()?;
        let [made, gone] = [0, 1].map(|which| spread(times.iter().map(|pair| pair[which]).collect()));
        let (p99, _) = spread(times.concat());
        let how = format!(
            "{touched} hosts, {rounds} times; made {:.1}, p99 {:.1}; gone {:.1}, p99 {:.1}",
            made.1, made.0, gone.1, gone.0
        );
        figures.add(&name, p99, "ms", how);
    }
    if figures.wants(&["controller.commands_per_s"]) {
        let cpu = controller.cpu()?;
        let rate = commands(&controller, effort)?;
        let used = controller.cpu()?.saturating_sub(cpu).as_secs_f64() / effort.commands.as_secs_f64();
        let how = format!("creates and deletes by {PAIRS} clients, {:.0} % of a core", 100.0 * used);
        figures.add("controller.commands_per_s", rate, "1/s", how);
    }
    let (now, most) = controller.memory()?;
    let how = format!("after the start {:.0}, at most {most:.0}", after_start.0);
    figures.add("controller.rss", now, "MB", how);

    // After a restart, it finds everything as it should be.
    drop(controller);
    let before = agents.sums()?;
    let controller = Controller::start(&settings)?;
    let took = controller.in_sync(0)?;
    let after = agents.sums()?;
    let sent = after.puts + after.patches - before.puts - before.patches;
    let how = format!("{sent} configurations and patches were sent");
    figures.add("controller.restart_in_sync", took.as_secs_f64(), "s", how);
    ensure!(sent == 0, "{sent} configurations were sent to agents that had them");
    drop(controller);
    silent(figures, &agents, &settings, size, effort)?;
    // The last one: under another epoch.
    agents.send_away(0)?;
    takeover::measure(figures, &agents, folder.path(), &settings, effort.takeovers)
}

/// A tenth of the hosts accept connections and do not respond: the others must not be affected.
fn silent(figures: &mut Figures, agents: &Agents, settings: &Settings, size: Size, effort: Effort) -> Result<()> {
    let name = "controller.confirm_100_beside_silent_p99";
    if !figures.wants(&[name]) {
        return Ok(());
    }
    // They are at the other end of the other region than the wide VPCs.
    let away = size.hosts / 10;
    agents.send_away(away)?;
    let controller = Controller::start(settings)?;
    let took = controller.in_sync(away)?;
    let mut client = controller.client()?;
    let times = (0..effort.rounds[1]).map(|_| confirm(&mut client, "w100")).collect::<Result<Vec<_>>>()?;
    let (p99, middle) = spread(times.concat());
    let how = format!(
        "{away} hosts are silent, the others in sync {:.1} s after the start; median {middle:.1}",
        took.as_secs_f64()
    );
    figures.add(name, p99, "ms", how);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cloud_runs_through_all_of_it() {
        measure(&mut Figures::new(true, String::new()), 20).unwrap();
    }
}
