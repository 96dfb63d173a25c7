//! The chapter of the guide about several controllers: three members of etcd, of which c1 is on h1, and c2 and c3 are on h2.

use crate::{
    Site, guide,
    installed::{CONTROLLER, in_sync},
    machine::Machine,
    practised::SETTINGS,
};
use anyhow::{Context, Result, ensure};
use std::fs;

const TLS: &str = "/etc/cps-peering/tls";
/// The quota in the guide, and one that is soon full.
const QUOTA: [&str; 2] = ["8589934592", "16777216"];
/// A command that is not acknowledged without a leader, or if the store takes no writes.
const COMMAND: &str = "cps-peering --controller https://192.0.2.11:7400 admin account create";

pub(crate) fn tell(site: &mut Site) -> Result<()> {
    site.chapter("three members of etcd", members)?;
    site.chapter("the store in etcd", moved)?;
    site.chapter("a member killed under commands", killed)?;
    site.chapter("another member in its place", replaced)?;
    site.chapter("an etcd that is full", full)?;
    site.chapter("most members away, and back", without_quorum)?;
    site.chapter("the store in a file again", moved_back)
}

/// The guide's `/etc/default/etcd` for a member: the guide has that of c1.
fn settings(number: u32) -> Result<String> {
    let own = |line: &str| {
        let line = line.replace(QUOTA[0], QUOTA[1]);
        if line.starts_with("ETCD_INITIAL_CLUSTER=") {
            line
        } else {
            line.replace("192.0.2.11", &format!("192.0.2.1{number}"))
        }
    };
    let text = guide::block("sh", "ETCD_NAME=c1")?;
    ensure!(text.contains(QUOTA[0]), "the guide has another quota");
    let text = text.replace("ETCD_NAME=c1", &format!("ETCD_NAME=c{number}"));
    let text = if number == 3 { text.replace("etcd/default", "etcd/c3") } else { text };
    Ok(text.lines().map(|line| own(line) + "\n").collect())
}

/// The guide's command that queries all members, which it calls `E`, for scripts.
fn etcdctl() -> Result<String> {
    let (_, health) = guide::block("sh", "endpoint health")?.split_once("cd /etc").context("no folder")?;
    let (folder, command) = health.split_once('\n').context("no command")?;
    let command = command.trim_end().strip_suffix("endpoint health").context("another command")?;
    Ok(format!("cd /etc{folder}\nE() {{ {command} \"$@\"; }}\n"))
}

/// Runs the lines of a block that begin with `$E`, with some words replaced.
fn follow(h1: &mut Machine, words: &str, replace: &[(&str, &str)]) -> Result<()> {
    for line in guide::block("text", words)?.lines().filter_map(|line| line.trim().strip_prefix("$E ")) {
        let line = line.split('#').next().unwrap_or_default();
        let line = replace.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
        h1.sh(&format!("{}E {line}", etcdctl()?))?;
    }
    Ok(())
}

fn all_are_healthy(h1: &mut Machine) -> Result<()> {
    let listed = h1.until(&format!("{}E endpoint health >&2 && E member list", etcdctl()?))?;
    ensure!(listed.matches(" started, ").count() == 3, "{listed}");
    Ok(())
}

/// Whether a command is acknowledged.
fn acknowledged(h1: &mut Machine, account: &str) -> Result<(bool, String)> {
    let (code, told) = h1.run(&format!("{COMMAND} {account} 2>&1"))?;
    Ok((code == 0, told))
}

fn members(site: &mut Site) -> Result<()> {
    let certificates =
        guide::block("sh", "apt-get install etcd-server")?.lines().skip(1).collect::<Vec<_>>().join("\n");
    // Members connect from the machines' first addresses.
    let certificates =
        certificates.replace("--address 192.0.2.11", "--address 192.0.2.1 --address 192.0.2.2 --address 192.0.2.11");
    site.h1.sh(&format!(
        "{certificates}
        for file in ca.pem:etcd-ca.pem operator.pem:etcd.pem operator.key:etcd.key; do
            install -o cps-peering -g cps-peering -m 600 /etc/cps-peering/etcd/${{file%:*}} {TLS}/${{file#*:}}
        done"
    ))?;
    let folders = ["h1", "h2"].map(|host| site.folder.path().join(host));
    for file in ["ca.pem", "controller.pem", "controller.key"] {
        let content = site.h1.sh(&format!("cat /etc/cps-peering/etcd/{file}"))?;
        for folder in &folders {
            fs::write(folder.join(format!("etcd-{file}")), content.clone() + "\n")?;
        }
    }
    fs::write(folders[0].join("etcd"), settings(1)?)?;
    fs::write(folders[1].join("etcd"), settings(2)?)?;
    fs::write(folders[1].join("etcd-c3"), settings(3)?)?;
    for (machine, addresses) in [(&mut site.h1, &["11"][..]), (&mut site.h2, &["12", "13"])] {
        for address in addresses {
            machine.sh(&format!("ip address add 192.0.2.{address}/24 dev vec0"))?;
        }
        machine.sh("systemctl stop etcd; rm -rf /var/lib/etcd/default
            install -d /etc/etcd
            for file in ca.pem controller.pem controller.key; do
                install -o etcd -g etcd -m 600 /test/etcd-$file /etc/etcd/$file
            done
            cp /test/etcd* /etc/default && rm /etc/default/etcd-*.*")?;
    }
    // The unit reads the settings that have its name.
    site.h2.sh("sed '/^Alias=/d' /lib/systemd/system/etcd.service >/etc/systemd/system/etcd-c3.service
        systemctl daemon-reload && systemctl --no-block start etcd etcd-c3")?;
    let (start, _) = guide::block("sh", "endpoint health")?.split_once('\n').context("one line")?;
    site.h1.sh(start)?;
    all_are_healthy(&mut site.h1)
}

fn moved(site: &mut Site) -> Result<()> {
    fs::write(site.folder.path().join("h1/table.toml"), guide::block("toml", "[etcd]")?)?;
    let h1 = &mut site.h1;
    h1.sh(guide::block("sh", "pki issue controller --force")?)?;
    h1.sh(&format!(
        "cd /etc/cps-peering/pki
        install -m 644 controller.pem {TLS} && install -m 600 -o cps-peering controller.key {TLS}
        cp -p {SETTINGS} /root/old.toml
        sed -i 's/^listen = .*/listen = \"192.0.2.11:7400\"/; s/^store = .*//' {SETTINGS}
        (echo; cat /test/table.toml) >/root/table.toml
        # Keys stand before tables.
        sed -i '/^store_key_file/d' {SETTINGS}
        (grep '^store_key_file' /root/table.toml; cat {SETTINGS}; grep -v '^store_key_file' /root/table.toml) >/root/new.toml
        cat /root/new.toml >{SETTINGS}"
    ))?;
    // The end of the block shows the status.
    let (block, asked) =
        guide::block("sh", "move-store --from old.toml")?.split_once("\ncurl").context("no question")?;
    h1.sh(&format!("cd /root; {block}"))?;
    h1.until(&format!("said=$(curl{asked}); [[ $said == *'ok leader'* && $said == *'\"ready\":true'* ]]"))?;
    let (code, told) = h1.run("cps-peering-controller --settings /root/old.toml 2>&1")?;
    ensure!(code != 0 && told.contains("etcd"), "a controller starts with what was moved away: {code} {told}");
    in_sync(site)
}

/// Without a member commands succeed, and no acknowledged one is lost.
fn killed(site: &mut Site) -> Result<()> {
    site.h1.sh(&format!(
        "systemd-run --quiet --collect --unit=commands bash -c '
            for ((n = 1; ; n++)); do {COMMAND} under-$n && echo under-$n >>/root/acknowledged; done'"
    ))?;
    let more = |h1: &mut Machine| -> Result<()> {
        h1.until(
            "test -s /root/acknowledged && before=$(wc -l </root/acknowledged)
            for _ in {1..50}; do (($(wc -l </root/acknowledged) > before + 2)) && exit; sleep 0.2; done; exit 1",
        )?;
        Ok(())
    };
    more(&mut site.h1)?;
    site.h2.sh("systemctl kill --signal KILL etcd-c3; systemctl stop etcd-c3")?;
    more(&mut site.h1)?;
    site.h1.sh("systemctl stop commands")?;
    let lost = site.h1.sh(
        "cps-peering --controller https://192.0.2.11:7400 admin account list >/root/accounts
        while read -r account; do grep -qw \"$account\" /root/accounts || echo \"$account\"; done </root/acknowledged",
    )?;
    ensure!(lost.is_empty(), "acknowledged, and lost: {lost}");
    in_sync(site)
}

/// The disk of c3 is lost.
fn replaced(site: &mut Site) -> Result<()> {
    site.h2.sh("rm -rf /var/lib/etcd/c3 && echo ETCD_INITIAL_CLUSTER_STATE=existing >>/etc/default/etcd-c3")?;
    let id = site.h1.sh(&format!("{}E member list | sed -n 's/, .*, c3, .*//p'", etcdctl()?))?;
    follow(&mut site.h1, "member remove", &[("ID", &id)])?;
    site.h2.sh("systemctl start etcd-c3")?;
    all_are_healthy(&mut site.h1)?;
    let (done, told) = acknowledged(&mut site.h1, "replaced")?;
    ensure!(done, "{told}");
    in_sync(site)
}

/// It is filled. After what the guide says it takes writes again, without a restart.
fn full(site: &mut Site) -> Result<()> {
    let h1 = &mut site.h1;
    let before = h1.property(CONTROLLER, "MainPID")?;
    let e = etcdctl()?;
    h1.sh(&format!(
        "{e}
        head -c 1000000 /dev/zero | tr '\\0' x >/run/filler
        for _ in {{1..60}}; do
            E --command-timeout 30s put filler </run/filler >/dev/null 2>/run/filling || true
            ! E alarm list | grep NOSPACE || exit 0
        done
        cat /run/filling; E endpoint status -w table; exit 1"
    ))?;
    let (done, told) = acknowledged(h1, "full")?;
    ensure!(!done, "acknowledged by a store that is full: {told}");
    let revision = h1.sh(&format!(
        "{e}E endpoint status -w json | grep -o '\"revision\":[0-9]*' | cut -d: -f2 | sort -n | tail -1"
    ))?;
    follow(h1, "alarm disarm", &[("REVISION", &revision)])?;
    h1.until(&format!("{COMMAND} room-again"))?;
    ensure!(before == h1.property(CONTROLLER, "MainPID")?, "the controller was started again");
    h1.sh(&format!("{e}E del filler"))?;
    in_sync(site)
}

/// One of three is no quorum. Traffic continues, and commands succeed once there are two again.
fn without_quorum(site: &mut Site) -> Result<()> {
    site.h2.sh("systemctl stop etcd etcd-c3")?;
    let (done, told) = acknowledged(&mut site.h1, "alone")?;
    ensure!(!done, "{told}");
    site.h2.sh("systemctl --no-block start etcd etcd-c3")?;
    site.h1.until(&format!("{COMMAND} together"))?;
    all_are_healthy(&mut site.h1)?;
    in_sync(site)
}

fn moved_back(site: &mut Site) -> Result<()> {
    site.h1.sh(&format!(
        "systemctl stop {CONTROLLER}
        cp -p {SETTINGS} /root/etcd.toml && cat /root/old.toml >{SETTINGS}
        cps-peering-controller move-store --force --from /root/etcd.toml
        systemctl start {CONTROLLER}
        systemctl --no-block stop etcd
        rm -r /root/*.toml /root/accounts /root/acknowledged /etc/cps-peering/etcd {TLS}/etcd*
        ip address del 192.0.2.11/24 dev vec0"
    ))?;
    site.h2.sh("systemctl --no-block stop etcd etcd-c3
        ip address del 192.0.2.12/24 dev vec0; ip address del 192.0.2.13/24 dev vec0")?;
    in_sync(site)
}
