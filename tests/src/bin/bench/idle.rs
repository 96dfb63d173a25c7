//! The cost of an idle agent.

use crate::{agent::Agent, figures::Figures, ground};
use anyhow::Result;
use std::{thread, time::Duration};

const SIDES: u32 = 2000;
const PER_VPC: u32 = 2;
/// Includes one full observation, which is due after a minute.
const DURING: Duration = Duration::from_secs(66);
/// Until what the configuration changed has been observed.
const SETTLED: Duration = Duration::from_secs(10);

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let name = "agent.idle_2000.cpu";
    if !figures.wants(&[name]) {
        return Ok(());
    }
    let netns = ground::host()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&netns, folder.path(), 60)?;
    agent.put(&ground::spread_peerings(SIDES, PER_VPC, 2))?;
    thread::sleep(SETTLED);
    let (before, passes) = (agent.cpu_time()?, agent.status()?.counters.passes);
    thread::sleep(DURING);
    let used = agent.cpu_time()?.saturating_sub(before);
    let passes = agent.status()?.counters.passes - passes;
    let share = 100.0 * used.as_secs_f64() / DURING.as_secs_f64();
    let how = format!(
        "of a core; {} VPCs with {SIDES} sides, {used:.2?} in {DURING:?}, {passes} full observations",
        SIDES / PER_VPC
    );
    figures.add(name, share, "%", how);
    drop(agent);
    ground::clear(netns)
}
