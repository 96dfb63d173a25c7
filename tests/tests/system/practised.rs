//! Chapters of the guide that are executed with the guide's code blocks, unchanged.

use crate::{
    Site, guide,
    installed::{BACKUPS, CONTROLLER, in_sync},
    machine::Machine,
};
use anyhow::{Result, ensure};
use std::fs;

pub(crate) const SETTINGS: &str = "/etc/cps-peering/controller.toml";

/// The settings as they were, once a chapter is over.
fn with_settings(site: &mut Site, practise: impl FnOnce(&mut Machine) -> Result<()>) -> Result<()> {
    site.h1.sh(&format!("cp -p {SETTINGS} /root/before.toml"))?;
    practise(&mut site.h1)?;
    site.h1.sh(&format!("mv /root/before.toml {SETTINGS} && systemctl restart {CONTROLLER}"))?;
    in_sync(site)
}

/// The timer makes backups that can be restored.
pub(crate) fn timer(site: &mut Site) -> Result<()> {
    let h1 = &mut site.h1;
    let copies = |h1: &mut Machine| -> Result<u32> { Ok(h1.sh(&format!("ls {BACKUPS} | wc -l"))?.parse()?) };
    let before = copies(h1)?;
    h1.sh(guide::block("sh", "cps-peering-backup.timer")?)?;
    let seen = h1.sh("systemctl is-active cps-peering-backup.timer
        systemctl show --value --property Result cps-peering-backup.service")?;
    ensure!(seen == "active\nsuccess", "{seen}");
    ensure!(copies(h1)? == before + 1, "there is no new copy beside {before}");
    let copy = format!("copy={BACKUPS}/$(ls -t {BACKUPS} | head -1)");
    let verified = h1.sh(&format!("{copy}; cps-peering-controller backup verify $copy"))?;
    let inspected = h1.sh(&format!("{copy}; cps-peering-controller backup inspect $copy"))?;
    ensure!(!verified.is_empty() && inspected.contains("cluster"), "{verified} {inspected}");
    h1.sh("systemctl disable --now cps-peering-backup.timer && rm /etc/default/cps-peering-backup")?;
    Ok(())
}

/// A named operator can do what the role permits.
pub(crate) fn operators(site: &mut Site) -> Result<()> {
    with_settings(site, |h1| {
        h1.sh(guide::block("sh", "operators/li.token")?)?;
        let li = "cps-peering --token-file /etc/cps-peering/operators/li.token";
        h1.until(&format!("{li} whoami"))?;
        let who = h1.json(&format!("{li} whoami -o json"))?;
        ensure!(who["operator"] == "li" && who["operatorRole"] == "operate", "{who}");
        let (code, told) = h1.run(&format!("{li} admin account create other 2>&1"))?;
        ensure!(
            code == 1 && told.contains("Permission denied"),
            "an operator without the role makes an account: {told}"
        );
        h1.sh("rm -r /etc/cps-peering/operators /etc/cps-peering/pki/operator-li.*")?;
        Ok(())
    })
}

/// Hosts' certificates are renewed with an issuer of the controller's.
pub(crate) fn renewal(site: &mut Site) -> Result<()> {
    fs::write(site.folder.path().join("h1/issuer.toml"), guide::block("toml", "[agent_certificates]")?)?;
    with_settings(site, |h1| {
        h1.sh(guide::block("sh", "pki issue issuer")?)?;
        h1.sh(&format!("(echo; cat /test/issuer.toml) >>{SETTINGS} && systemctl restart {CONTROLLER}"))?;
        let doctor = h1.until("cps-peering doctor")?;
        ensure!(doctor.contains("0 failures"), "{doctor}");
        let shown = h1.json("cps-peering pki show -o json")?;
        ensure!(shown.to_string().contains(r#""renewal":"on""#), "{shown}");
        Ok(())
    })
}

/// Whether h2 is shown with this word after a command.
fn after(h1: &mut Machine, command: &str, word: &str) -> Result<bool> {
    h1.sh(command)?;
    let hosts = h1.sh("cps-peering host list")?;
    Ok(hosts.lines().any(|line| line.starts_with("h2 ") && line.contains(word)))
}

/// A host is drained and uncordoned, and pushes to it are paused and resumed.
pub(crate) fn drained(site: &mut Site) -> Result<()> {
    // A command, and whether the host is shown so after it.
    let mut seen = Vec::new();
    for line in guide::block("sh", "host drain h2")?.lines() {
        seen.push(after(&mut site.h1, line, "drained")?);
    }
    for line in guide::block("sh", "host maintenance h2")?.lines() {
        seen.push(after(&mut site.h1, &line.replace(" h3 ", " h1 "), "maintenance until")?);
    }
    ensure!(seen == [true, false, true, true, false], "{seen:?}");
    ensure!(after(&mut site.h1, "cps-peering host pause h2", "paused")?, "it is not paused");
    ensure!(!after(&mut site.h1, "cps-peering host resume h2", "paused")?, "it stays paused");
    in_sync(site)
}
