//! Chapters of the guide that are practised with the blocks that stand there, word for word but for the number of machines.

use crate::{
    Site, guide,
    installed::{BACKUPS, CONTROLLER, in_sync},
    machine::Machine,
};
use anyhow::{Result, ensure};
use std::fs;

const SETTINGS: &str = "/etc/cps-peering/controller.toml";

/// The settings as they were, once a chapter is over.
fn with_settings(site: &mut Site, practise: impl FnOnce(&mut Machine) -> Result<()>) -> Result<()> {
    site.h1.sh(&format!("cp -p {SETTINGS} /root/before.toml"))?;
    practise(&mut site.h1)?;
    site.h1.sh(&format!("mv /root/before.toml {SETTINGS} && systemctl restart {CONTROLLER}"))?;
    in_sync(site)
}

/// The timer makes copies that can be restored.
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

/// An operator with a name may do what the role says.
pub(crate) fn operators(site: &mut Site) -> Result<()> {
    with_settings(site, |h1| {
        h1.sh(guide::block("sh", "operators/li.token")?)?;
        let li = "cps-peering --token-file /etc/cps-peering/operators/li.token";
        h1.until(&format!("{li} whoami"))?;
        let who = h1.json(&format!("{li} whoami -o json"))?;
        ensure!(who["operator"] == "li" && who["operatorRole"] == "operate", "{who}");
        let (code, told) = h1.run(&format!("{li} admin account create other 2>&1"))?;
        ensure!(
            code == 1 && told.contains("PermissionDenied"),
            "an operator without the role makes an account: {told}"
        );
        h1.sh("rm -r /etc/cps-peering/operators /etc/cps-peering/pki/operator-li.*")?;
        Ok(())
    })
}

/// Hosts' certificates are renewed from an issuer of the controller's.
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

/// A host is drained and comes back, and pushes to it are paused and go on.
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

/// The store moves into etcd and back. Of the three machines of the guide there is the first.
pub(crate) fn several(site: &mut Site) -> Result<()> {
    let alone = |text: &str| {
        let text = text.replace(",c2=https://192.0.2.12:2380,c3=https://192.0.2.13:2380", "");
        let text = text.replace(",https://192.0.2.12:2379,https://192.0.2.13:2379", "");
        text.replace(", \"https://192.0.2.12:2379\", \"https://192.0.2.13:2379\"", "")
    };
    let folder = site.folder.path().join("h1");
    fs::write(folder.join("etcd"), alone(guide::block("sh", "ETCD_NAME=c1")?))?;
    fs::write(folder.join("table.toml"), alone(guide::block("toml", "[etcd]")?))?;
    let h1 = &mut site.h1;
    // It is installed already.
    let certificates =
        guide::block("sh", "apt-get install etcd-server")?.lines().skip(1).collect::<Vec<_>>().join("\n");
    let tls = "/etc/cps-peering/tls";
    h1.sh(&format!(
        "ip address add 192.0.2.11/24 dev vec0
        systemctl stop etcd; rm -rf /var/lib/etcd/default
        {certificates}
        install -d /etc/etcd && cd /etc/cps-peering/etcd
        install -o etcd -g etcd -m 600 ca.pem controller.pem controller.key /etc/etcd
        for file in ca.pem:etcd-ca.pem operator.pem:etcd.pem operator.key:etcd.key; do
            install -o cps-peering -g cps-peering -m 600 ${{file%:*}} {tls}/${{file#*:}}
        done
        cp /test/etcd /etc/default/etcd"
    ))?;
    h1.sh(&alone(guide::block("sh", "endpoint health")?))?;
    h1.sh(guide::block("sh", "pki issue controller --force")?)?;
    h1.sh(&format!(
        "cd /etc/cps-peering/pki
        install -m 644 controller.pem {tls} && install -m 600 -o cps-peering controller.key {tls}
        cp -p {SETTINGS} /root/old.toml
        sed -i 's/^listen = .*/listen = \"192.0.2.11:7400\"/; s/^store = .*//' {SETTINGS}
        (echo; cat /test/table.toml) >/root/table.toml
        # Keys stand before tables.
        sed -i '/^store_key_file/d' {SETTINGS}
        (grep '^store_key_file' /root/table.toml; cat {SETTINGS}; grep -v '^store_key_file' /root/table.toml) >/root/new.toml
        cat /root/new.toml >{SETTINGS}"
    ))?;
    let moved = h1.until(&format!("cd /root; {}", guide::block("sh", "move-store --from old.toml")?))?;
    ensure!(moved.contains("ok leader") && moved.contains(r#""ready":true"#), "{moved}");
    let (code, told) = h1.run("cps-peering-controller --settings /root/old.toml 2>&1")?;
    ensure!(code != 0 && told.contains("etcd"), "a controller starts with what was moved away: {code} {told}");
    in_sync(site)?;
    let h1 = &mut site.h1;
    h1.sh(&format!(
        "systemctl stop {CONTROLLER}
        cp -p {SETTINGS} /root/etcd.toml && cat /root/old.toml >{SETTINGS}
        cps-peering-controller move-store --force --from /root/etcd.toml
        systemctl start {CONTROLLER}
        systemctl disable --now etcd
        rm -r /root/*.toml /etc/cps-peering/etcd {tls}/etcd*
        ip address del 192.0.2.11/24 dev vec0"
    ))?;
    in_sync(site)
}
