//! Streams of pings that run while other things happen.

use crate::machine::Machine;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;

/// Starts a stream of pings from a machine's server, 50 in a second, in both families.
pub(crate) fn start(machine: &mut Machine, addresses: [&str; 2]) -> Result<()> {
    for address in addresses {
        let unit = unit(address);
        machine.sh(&format!(
            "systemd-run --quiet --collect --unit={unit} --property=KillSignal=SIGINT \
            --property=StandardOutput=truncate:/run/{unit} ip netns exec server1 ping -n -i 0.02 {address}"
        ))?;
        machine.until(&format!("grep -q icmp_seq=1 /run/{unit}"))?;
    }
    Ok(())
}

/// Ends it. Every ping was answered.
pub(crate) fn end(machine: &mut Machine, addresses: [&str; 2]) -> Result<()> {
    for address in addresses {
        let unit = unit(address);
        machine.sh(&format!("systemctl stop {unit}"))?;
        let told = machine.sh(&format!("cat /run/{unit}"))?;
        let number = |text: &str| text.split(' ').next().and_then(|it| it.parse::<u32>().ok());
        let sent = told.lines().find_map(|line| line.contains("packets transmitted").then(|| number(line))?);
        let sent = sent.with_context(|| format!("{address}: {}", &told[told.len().saturating_sub(300)..]))?;
        let answered: BTreeSet<u32> = told.lines().filter_map(|it| number(it.split_once("icmp_seq=")?.1)).collect();
        // The reply to the last one may not have had the time to arrive.
        let lost: Vec<u32> = (1..sent).filter(|it| !answered.contains(it)).collect();
        ensure!(sent > 10 && lost.is_empty(), "{address}: of {sent} pings {} got no answer: {lost:?}", lost.len());
        println!("           {sent} pings to {address}, none lost");
    }
    Ok(())
}

fn unit(address: &str) -> String {
    format!("ping-{}", address.replace([':', '.'], "-"))
}
