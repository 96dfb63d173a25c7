//! An agent that is started on a host with a million routes that are already right.

use crate::{
    agent::Agent,
    figures::{Figures, median_s, seconds},
    ground,
    removing::Ground,
};
use anyhow::Result;
use std::time::Instant;

/// Turns; each is a start.
const TURNS: usize = 5;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let names = ["agent.start_1m.ready", "agent.start_1m.lost"];
    if !figures.wants(&names) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&ground.host, folder.path(), 3600)?;
    agent.put(&ground::one_peering(4, 1_000_000))?;
    let stream = ground.stream()?;
    let mut times = Vec::new();
    for _ in 0..TURNS {
        drop(agent);
        let begin = Instant::now();
        agent = Agent::start(&ground.host, folder.path(), 3600)?;
        let report = agent.status()?;
        let report = agent.settle(report)?;
        times.push(begin.elapsed());
        // The underlay filter is replaced: on some devices, with a few VNIs.
        anyhow::ensure!(report.counters.operations < 100, "the agent changed something");
    }
    let record = stream.stop()?;
    figures.add(names[0], median_s(&times), "s", format!("{}; {TURNS} starts", seconds(&times)));
    #[expect(clippy::cast_precision_loss, reason = "a stream is short")]
    let lost = record.lost() as f64;
    figures.add(names[1], lost, "packets", format!("of {} at {:.0} a second", record.sent, record.rate()));
    drop(agent);
    ground.clear()
}
