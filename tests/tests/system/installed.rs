//! The contents of the packages, and how to see that they work.

use crate::Site;
use anyhow::Result;

pub(crate) const AGENT: &str = "cps-peering-agent.service";
pub(crate) const CONTROLLER: &str = "cps-peering-controller.service";
pub(crate) const BACKUPS: &str = "/var/lib/cps-peering-controller/backups";

/// Waits until both hosts are in sync, as the daemons report to systemd.
pub(crate) fn in_sync(site: &mut Site) -> Result<()> {
    for machine in [&mut site.h1, &mut site.h2] {
        machine.until(&format!(
            "systemctl show --value --property StatusText {AGENT} | grep 'is in sync'
            systemctl is-active {AGENT}"
        ))?;
    }
    site.h1
        .until(&format!("systemctl show --value --property StatusText {CONTROLLER} | grep '^2 of 2 hosts in sync'"))?;
    Ok(())
}
