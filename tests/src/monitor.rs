//! What the kernel of a namespace announces meanwhile.

use crate::{netns::Netns, wait};
use anyhow::Result;
use std::{
    fs::{self, File},
    process::{Child, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Routes in an unused table: when the monitor has reported one, it has reported all that happened before.
const MARK: &str = "unreachable 198.18.0.0/31 table 4242";

/// `ip monitor all` in a namespace.
#[derive(Debug)]
pub struct Monitor {
    netns: Netns,
    child: Child,
    dir: TempDir,
}

impl Monitor {
    /// Starts watching; once it returns nothing is missed.
    pub fn start(netns: &Netns) -> Result<Monitor> {
        let dir = tempfile::tempdir()?;
        let output = File::create(dir.path().join("events"))?;
        let child = netns.command("ip").args(["monitor", "all"]).stdin(Stdio::null()).stdout(output).spawn()?;
        let monitor = Monitor { netns: netns.clone(), child, dir };
        monitor.mark()?;
        Ok(monitor)
    }

    /// Adds and removes the mark until it is reported.
    fn mark(&self) -> Result<()> {
        let before = self.events()?.len();
        wait::until("the monitor reports the mark", Duration::from_secs(20), || {
            self.netns.ip(&format!("route add {MARK}"))?;
            self.netns.ip(&format!("route delete {MARK}"))?;
            let told = self.events()?.iter().skip(before).any(|line| line.contains("Deleted") && line.contains(MARK));
            Ok(told.then_some(()))
        })
    }

    fn events(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.dir.path().join("events"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Stops watching. Returns what was announced, except for what packets alone cause: neighbours that were resolved.
    pub fn stop(self) -> Result<Vec<String>> {
        self.mark()?;
        let dynamic = |line: &String| line.starts_with("[NEIGH]") && !line.contains("PERMANENT");
        let mark = |line: &String| line.contains(MARK);
        Ok(self.events()?.into_iter().filter(|line| !dynamic(line) && !mark(line)).collect())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It only ever ends here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
