//! A full observation of a million routes that are all as they should be.

use crate::{
    agent::Agent,
    figures::{Figures, median_s, seconds},
    ground, ip_batch,
    raw::Raw,
};
use anyhow::Result;
use std::{
    thread,
    time::{Duration, Instant},
};

const TURNS: usize = 5;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let names = ["agent.noop_1m.vs_raw_dump", "agent.noop_1m.vs_ip_show"];
    if !figures.wants(&names) {
        return Ok(());
    }
    let netns = ground::host()?;
    let folder = tempfile::tempdir()?;
    // It observes every second without a reason.
    let mut agent = Agent::start(&netns, folder.path(), 1)?;
    agent.put(&ground::one_peering(4, 1_000_000))?;
    let mut raw = netns.within(Raw::open)?;
    let (mut looks, mut dumps, mut shows) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        looks.push(next_look(&mut agent)?);
        agent.pause()?;
        let begin = Instant::now();
        raw.count_routes()?;
        dumps.push(begin.elapsed());
        shows.push(ip_batch::show(&netns)?);
        agent.proceed()?;
    }
    let how = |other: &str, times: &[Duration]| {
        format!("agent's full look {}; {other} {}; {TURNS} turns", seconds(&looks), seconds(times))
    };
    figures.add(names[0], median_s(&looks) / median_s(&dumps), "ratio", how("raw dump", &dumps));
    figures.add(names[1], median_s(&looks) / median_s(&shows), "ratio", how("ip route show", &shows));
    drop(agent);
    ground::clear(netns)
}

/// The duration of the next observation that changes nothing, from the agent's own report.
fn next_look(agent: &mut Agent) -> Result<Duration> {
    let before = agent.status()?.last_pass;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = agent.status()?.last_pass;
        if let Some(pass) = now.filter(|pass| now != before && pass.operations == 0) {
            return Ok(Duration::from_micros(pass.duration_us));
        }
        anyhow::ensure!(Instant::now() < deadline, "the agent does not look");
        thread::sleep(Duration::from_millis(2));
    }
}
