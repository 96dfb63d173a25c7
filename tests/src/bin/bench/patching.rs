//! One peering among many is changed: its cost must not depend on the others.

use crate::{
    agent::Agent,
    figures::{Figures, median_s, seconds},
    ground,
};
use anyhow::{Context, Result};
use cps_peering_config::{HostPatch, Revision};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

const TURNS: u32 = 25;
const FEW: u32 = 10;
const MANY: u32 = 1000;
/// Routes of each peering.
const ROUTES: u32 = 100;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let names = ["agent.patch_1_of_1000", "agent.patch_1_of_1000.ms"];
    if !figures.wants(&names) {
        return Ok(());
    }
    // A VPC of the same size each time, so that only others are added. Then all in one VPC: it has one table, and the
    // kernel walks all of it to list one side's routes.
    let (few, many, hub) = (patches(FEW, FEW)?, patches(MANY, FEW)?, patches(MANY, MANY)?);
    let how = format!(
        "1 of {MANY}, {FEW} a VPC: {}; 1 of {FEW}: {}; 1 of {MANY} of one VPC: {}; {TURNS} turns",
        seconds(&many),
        seconds(&few),
        seconds(&hub)
    );
    figures.add(names[0], median_s(&many) / median_s(&few), "ratio", how.clone());
    figures.add(names[1], median_s(&many) * 1e3, "ms", how);
    Ok(())
}

/// The duration of some patches, from the request to the response that the kernel has it.
fn patches(peerings: u32, per_vpc: u32) -> Result<Vec<Duration>> {
    let netns = ground::host()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&netns, folder.path(), 3600)?;
    let mut report = agent.put(&ground::spread_peerings(peerings, per_vpc, ROUTES))?;
    thread::sleep(Duration::from_secs(1));
    let mut times = Vec::new();
    for turn in 0..TURNS {
        let number = turn * 7 % peerings;
        let base = report.desired.context("no revision")?;
        let revision = Revision { number: base.number + 1, ..base };
        let side = ground::spread_side(number, per_vpc, ROUTES + 1 + turn % 2);
        let sides = BTreeMap::from([(ground::side_vni(number), Some(side.into()))]);
        let patch = HostPatch { base, revision, vrfs: BTreeMap::new(), sides };
        let begin = Instant::now();
        report = agent.patch(&patch)?;
        times.push(begin.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    drop(agent);
    ground::clear(netns)?;
    Ok(times)
}
