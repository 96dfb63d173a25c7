//! What happens to the two machines.

use crate::{
    Site, VERSIONS, guide,
    installed::{AGENT, BACKUPS, CONTROLLER, in_sync},
    machine::Machine,
    ping, practised,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;

/// The maximum of `systemd-analyze security`, in tenths: 0 is perfect, 100 is worst.
const EXPOSURE: [(&str, u32); 2] = [(AGENT, 19), (CONTROLLER, 11)];
/// The addresses of h2's server.
const FAR: [&str; 2] = ["10.2.0.10", "fd00:2::10"];

/// Those of another server of h1, whose path does not leave it.
const NEAR: [&str; 2] = ["10.3.0.10", "fd00:3::10"];

/// Besides the guide's: a third VPC, on h1.
const THIRD: &str = r#"
[[vpcs]]
id = "vpc-c"
account = "acme"
region = "cn-north-1"
cidrs = ["10.3.0.0/16", "fd00:3::/48"]

[[ports]]
vpc = "vpc-c"
host = "h1"
interface = "eth3"
gateways = ["10.3.0.1/24", "fd00:3::1/64"]
"#;

pub(crate) fn tell(site: &mut Site) -> Result<()> {
    site.chapter("installed", installed)?;
    site.chapter("hardened", hardened)?;
    site.chapter("peered", peered)?;
    // Packets lost for these are lost by a fault. For the second ones that holds whatever happens to h2.
    ping::start(&mut site.h1, FAR)?;
    ping::start(&mut site.h1, NEAR)?;
    site.chapter("upgraded", upgraded)?;
    site.chapter("killed", killed)?;
    site.chapter("stopped in their tracks, and missed by the watchdog", stuck)?;
    site.chapter("settings read again", reloaded)?;
    site.chapter("secrets handed over by systemd", handed_over)?;
    site.chapter("networkd and udev leave what is ours alone", left_alone)?;
    site.chapter("backed up", backed_up)?;
    site.chapter("copies by the timer", practised::timer)?;
    site.chapter("operators with names", practised::operators)?;
    site.chapter("an issuer for hosts' certificates", practised::renewal)?;
    site.chapter("a host drained, and paused", practised::drained)?;
    crate::etcd::tell(site)?;
    site.chapter("looked at as the guide says", looked_at)?;
    ping::end(&mut site.h1, FAR)?;
    site.chapter("restored", restored)?;
    site.chapter("booted again without a controller", rebooted)?;
    site.chapter("a host that does not come back", forgotten)?;
    site.chapter("the agent removed and installed again", removed)?;
    ping::end(&mut site.h1, NEAR)?;
    site.chapter("purged", purged)
}

fn installed(site: &mut Site) -> Result<()> {
    let first = VERSIONS[0];
    let networkd = |machine: &mut Machine| machine.property("systemd-networkd.service", "InvocationID");
    let before = networkd(&mut site.h2)?;
    site.h1.sh(&format!("dpkg --install /test/packages/*_{first}_*.deb"))?;
    site.h2.sh(&format!("dpkg --install /test/packages/cps-peering-agent_{first}_*.deb"))?;
    ensure!(before != networkd(&mut site.h2)?, "networkd does not know its drop-in yet");
    certified(site)?;
    site.h1.sh(&format!("systemctl restart {CONTROLLER}"))?;
    for (machine, address) in [(&mut site.h1, "192.0.2.1"), (&mut site.h2, "192.0.2.2")] {
        machine.sh(&format!("sed -i 's/^listen = .*/listen = \"{address}:7401\"/' /etc/cps-peering/agent.toml"))?;
        machine.sh(&format!("systemctl restart {AGENT} && systemctl is-enabled {AGENT}"))?;
        let status = machine.property(AGENT, "StatusText")?;
        ensure!(status == "no configuration yet", "{status}");
        let failed = machine.sh("systemctl --failed --quiet")?;
        ensure!(failed.is_empty(), "{failed}");
    }
    site.h1.sh("cd /usr/share/cps-peering/monitoring && test -s alerts.yml && test -s prometheus.yml && test -s dashboard.json")?;
    let token = site.h1.sh("stat --format '%U %a' /etc/cps-peering/operator.token")?;
    ensure!(token == "cps-peering 600", "{token}");
    Ok(())
}

/// A CA on h1, and from it what each of the two needs, readable for the daemon alone.
fn certified(site: &mut Site) -> Result<()> {
    let pki = "/etc/cps-peering/pki";
    site.h1.sh("cps-peering pki init
        cps-peering pki issue controller --address 192.0.2.1
        cps-peering pki issue host h1 h2 h7
        cps-peering pki issue monitoring
        cps-peering pki show")?;
    for file in ["ca.pem", "host-h2.pem", "host-h2.key"] {
        let content = site.h1.sh(&format!("cat {pki}/{file}"))?;
        fs::write(site.folder.path().join("h2").join(file), content + "\n")?;
    }
    let install = |from: &str, host: &str| {
        format!(
            "install -d /etc/cps-peering/tls
            install -m 644 {from}/ca.pem /etc/cps-peering/tls/ca.pem
            install -m 644 {from}/host-{host}.pem /etc/cps-peering/tls/host.pem
            install -m 440 -g cps-peering-keys {from}/host-{host}.key /etc/cps-peering/tls/host.key"
        )
    };
    site.h1.sh(&install(pki, "h1"))?;
    site.h2.sh(&install("/test", "h2"))?;
    site.h1.sh(&format!(
        "install -m 644 {pki}/controller.pem /etc/cps-peering/tls/controller.pem
        install -m 600 -o cps-peering {pki}/controller.key /etc/cps-peering/tls/controller.key"
    ))?;
    Ok(())
}

fn hardened(site: &mut Site) -> Result<()> {
    for (unit, bound) in EXPOSURE {
        let said = site.h1.sh(&format!("systemd-analyze verify {unit} 2>&1"))?;
        ensure!(said.is_empty(), "systemd-analyze verify: {said}");
        let exposure =
            site.h1.sh(&format!("systemd-analyze security --no-pager --threshold={bound} {unit} | tail -1"))?;
        println!("           {exposure}");
    }
    let capabilities = site.h1.sh(&format!(
        "pid=$(systemctl show --value --property MainPID {AGENT})
        grep -E '^(Uid|CapEff|CapBnd)' /proc/$pid/status"
    ))?;
    // CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF.
    let wanted = "0000008000003000";
    ensure!(capabilities.matches(wanted).count() == 2 && !capabilities.contains("Uid:\t0"), "{capabilities}");
    // And only settings of the network are writable.
    let denied =
        site.h1.sh(&format!("systemctl show --value --property ReadWritePaths,ProtectKernelTunables {AGENT}"))?;
    ensure!(denied.contains("/proc/sys/net") && denied.contains("yes"), "{denied}");
    let check = site.h2.run("cps-peering-agent check")?;
    ensure!(check.0 == 0, "{}", check.1);
    Ok(())
}

/// A tenant's server in a VPC, behind an interface of a host: a network namespace of its own.
fn server(machine: &mut Machine, number: u32, interface: &str) -> Result<()> {
    let name = format!("server{number}");
    machine
        .sh(&format!(
            "ip netns add {name}
        ip link add {interface} type veth peer name eth0 netns {name}
        ip link property add dev {interface} altname enp3s0f{number}
        ip -n {name} link set lo up
        ip -n {name} address add 10.{number}.0.10/24 dev eth0
        ip -n {name} address add fd00:{number}::10/64 dev eth0 nodad
        ip -n {name} link set eth0 up
        ip -n {name} route add default via 10.{number}.0.1
        ip -n {name} route add default via fd00:{number}::1"
        ))
        .map(drop)
}

fn reaches(machine: &mut Machine) -> Result<()> {
    for address in FAR.into_iter().chain(NEAR) {
        machine.until(&format!("ip netns exec server1 ping -n -c 1 -W 1 {address}"))?;
    }
    Ok(())
}

fn peered(site: &mut Site) -> Result<()> {
    server(&mut site.h1, 1, "eth1")?;
    server(&mut site.h2, 2, "eth1")?;
    server(&mut site.h1, 3, "eth3")?;
    fs::write(site.folder.path().join("h1/inventory.toml"), guide::inventory()?.to_owned() + THIRD)?;
    site.h1.sh("cps-peering apply -f /test/inventory.toml --dry-run")?;
    site.h1.sh("cps-peering apply -f /test/inventory.toml")?;
    site.h1.sh("cps-peering peering create --name a-b --vpc vpc-a --peer-vpc vpc-b --wait")?;
    site.h1.sh("cps-peering peering create --name a-c --vpc vpc-a --peer-vpc vpc-c --wait")?;
    reaches(&mut site.h1)?;
    in_sync(site)
}

/// Both hosts are in sync, as they report to systemd.
fn pid(machine: &mut Machine, unit: &str) -> Result<String> {
    machine.property(unit, "MainPID")
}

fn upgraded(site: &mut Site) -> Result<()> {
    let next = VERSIONS[1];
    let before = [pid(&mut site.h1, AGENT)?, pid(&mut site.h1, CONTROLLER)?, pid(&mut site.h2, AGENT)?];
    site.h1.sh(&format!("dpkg --install /test/packages/*_{next}_*.deb"))?;
    site.h2.sh(&format!("dpkg --install /test/packages/cps-peering-agent_{next}_*.deb"))?;
    let version = site
        .h1
        .sh("dpkg-query --show --showformat '${Version} ' cps-peering cps-peering-agent cps-peering-controller")?;
    ensure!(version.matches(next).count() == 3, "{version}");
    let after = [pid(&mut site.h1, AGENT)?, pid(&mut site.h1, CONTROLLER)?, pid(&mut site.h2, AGENT)?];
    ensure!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    // An operator's settings stay, and a daemon that was stopped is still stopped.
    let listen = site.h2.sh("grep ^listen /etc/cps-peering/agent.toml")?;
    ensure!(listen.contains("192.0.2.2"), "{listen}");
    in_sync(site)
}

/// Waits until systemd has restarted units this many times.
fn started_again(machine: &mut Machine, unit: &str, times: u32) -> Result<()> {
    machine.until(&format!(
        "test \"$(systemctl show --value --property NRestarts {unit})\" -ge {times} && systemctl is-active {unit}"
    ))?;
    Ok(())
}

fn killed(site: &mut Site) -> Result<()> {
    site.h1.sh(&format!("systemctl kill --signal KILL {AGENT} {CONTROLLER}"))?;
    started_again(&mut site.h1, AGENT, 1)?;
    started_again(&mut site.h1, CONTROLLER, 1)?;
    in_sync(site)
}

fn stuck(site: &mut Site) -> Result<()> {
    site.h1.sh(&format!(
        "for unit in {AGENT} {CONTROLLER}; do
            mkdir -p /run/systemd/system/$unit.d
            printf '[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=1\\n' >/run/systemd/system/$unit.d/test.conf
        done
        systemctl daemon-reload
        systemctl restart {AGENT} {CONTROLLER}"
    ))?;
    for unit in [AGENT, CONTROLLER] {
        let before: u32 = site.h1.property(unit, "NRestarts")?.parse()?;
        site.h1.sh(&format!("systemctl kill --signal STOP {unit}"))?;
        started_again(&mut site.h1, unit, before + 1)?;
        site.h1.sh(&format!("journalctl --boot --unit {unit} --grep 'Watchdog timeout'"))?;
    }
    // Those that work send keep-alives, and are not restarted.
    for unit in [AGENT, CONTROLLER] {
        let restarts = site.h1.property(unit, "NRestarts")?;
        let heard = site.h1.property(unit, "WatchdogTimestampMonotonic")?;
        site.h1.until(&format!(
            "test \"$(systemctl show --value --property WatchdogTimestampMonotonic {unit})\" != {heard}"
        ))?;
        ensure!(restarts == site.h1.property(unit, "NRestarts")?, "{unit} was started again");
    }
    in_sync(site)?;
    site.h1.sh("rm -r /run/systemd/system/cps-peering-*.d && systemctl daemon-reload")?;
    Ok(())
}

fn reloaded(site: &mut Site) -> Result<()> {
    let h1 = &mut site.h1;
    let settings = "/etc/cps-peering/agent.toml";
    let before = [pid(h1, AGENT)?, pid(h1, CONTROLLER)?];
    let said = |words: &str, unit: &str| format!("journalctl --sync; journalctl --boot --unit {unit} --grep '{words}'");

    h1.sh(&format!("sed -i 's/^# resync_s.*/resync_s = 7/; s/^# event_buffer.*/event_buffer = 65536/' {settings}"))?;
    h1.sh(&format!("systemctl reload {AGENT}"))?;
    h1.until(&said("need a restart.*event_buffer", AGENT))?;
    h1.sh(&format!("echo 'listen_to = 1' >>{settings}"))?;
    let (code, _) = h1.run(&format!("systemctl reload {AGENT}"))?;
    ensure!(code != 0, "wrong settings were taken");
    h1.sh(&said("listen_to", AGENT))?;
    h1.sh(&format!("sed -i '/^listen_to/d' {settings} && systemctl reload {AGENT}"))?;

    // A new token for operators; the old one is invalid.
    h1.sh(&format!(
        "cat /etc/cps-peering/operator.token >/run/old
        head -c 24 /dev/urandom | base64 >/etc/cps-peering/operator.token
        systemctl reload {CONTROLLER}"
    ))?;
    h1.until("cps-peering host list")?;
    let (code, told) = h1.run("CPS_PEERING_TOKEN=$(cat /run/old) cps-peering host list")?;
    ensure!(code == 1 && told.contains("unknown token"), "{code}: {told}");
    ensure!(before == [pid(h1, AGENT)?, pid(h1, CONTROLLER)?], "a reload starts nothing");
    in_sync(site)
}

/// All of our objects in a kernel, as `ip` shows them.
fn ours(machine: &mut Machine) -> Result<String> {
    machine.sh("for family in -4 -6; do ip $family route show table all proto 67; ip $family rule; done
        ip nexthop show proto 67; ip neigh show nud permanent; bridge fdb show | grep ' dev cps' || true
        ip -o link show type vxlan; ip -o link show type vrf")
}

/// As the guide says, and back again: the secrets are only where systemd reads them.
fn handed_over(site: &mut Site) -> Result<()> {
    let settings = "/etc/cps-peering/controller.toml";
    let places = ["/etc/cps-peering/operator.token", "/var/lib/cps-peering-controller/store.key"];
    let drop_in = format!("/etc/systemd/system/{CONTROLLER}.d");
    fs::write(site.folder.path().join("h1/secrets.conf"), guide::credentials()?)?;
    let h1 = &mut site.h1;
    h1.sh(&format!("cp {settings} /root/controller.toml && install -d -m 700 /root/secrets"))?;
    for (secret, setting) in places.into_iter().zip(["operator_token_file", "store_key_file"]) {
        let given = format!("/run/credentials/{CONTROLLER}/$(basename {secret})");
        h1.sh(&format!(
            "mv {secret} /root/secrets
            sed -i \"s|^#* *{setting} = .*|{setting} = \\\"{given}\\\"|\" {settings}"
        ))?;
    }
    h1.sh(&format!(
        "mkdir -p {drop_in} && cp /test/secrets.conf {drop_in}
        systemctl daemon-reload && systemctl restart {CONTROLLER}
        cps-peering --token-file /root/secrets/operator.token host list"
    ))?;
    h1.sh(&format!("rm -r {drop_in} && mv /root/controller.toml {settings}"))?;
    for secret in places {
        h1.sh(&format!("mv /root/secrets/$(basename {secret}) {secret}"))?;
    }
    h1.sh(&format!("rmdir /root/secrets && systemctl daemon-reload && systemctl restart {CONTROLLER}"))?;
    in_sync(site)
}

fn left_alone(site: &mut Site) -> Result<()> {
    let h1 = &mut site.h1;
    let repaired = |machine: &mut Machine| -> Result<Value> {
        Ok(machine.json("cps-peering-agent status -o json")?["counters"]["drift_repaired"].clone())
    };
    let (before, repaired_before) = (ours(h1)?, repaired(h1)?);
    ensure!(before.contains("cpspeer") && before.contains("nhid"), "{before}");
    h1.sh("networkctl reload && systemctl restart systemd-networkd.service")?;
    // It examines what is there when it begins to configure.
    h1.until(
        "journalctl --sync
        service=$(systemctl show --value --property InvocationID systemd-networkd.service)
        journalctl _SYSTEMD_INVOCATION_ID=$service --grep 'vec0: Configuring with'",
    )?;
    h1.sh("udevadm trigger --action=add --subsystem-match=net && udevadm settle")?;
    let (after, repaired_after) = (ours(h1)?, repaired(h1)?);
    ensure!(before == after, "it was\n{before}\nand is\n{after}");
    ensure!(repaired_before == repaired_after, "repaired {repaired_after} objects");
    let devices = h1.sh("ls /sys/class/net | grep ^cps")?;
    for device in devices.lines() {
        let link =
            h1.sh(&format!("udevadm info --query=property --property=ID_NET_LINK_FILE /sys/class/net/{device}"))?;
        ensure!(link.ends_with("/10-cps-peering.link"), "{device}: {link}");
    }
    Ok(())
}

fn backed_up(site: &mut Site) -> Result<()> {
    let file = site.h1.sh("cps-peering admin backup")?;
    ensure!(file.starts_with(BACKUPS), "{file}");
    Ok(())
}

fn looked_at(site: &mut Site) -> Result<()> {
    for (chapter, least) in [("When something is wrong", 6), ("What each alert means and what to do", 25)] {
        let count = guide::follow(&mut site.h1, chapter)?;
        ensure!(count >= least, "{count} commands in {chapter:?}");
        println!("           {count} commands of {chapter:?}");
    }
    in_sync(site)
}

/// The number before the point in the revision that h1 has.
fn epoch(h1: &mut Machine) -> Result<u64> {
    let status = h1.property(AGENT, "StatusText")?;
    let revision = status.rsplit_once("revision ").with_context(|| status.clone())?.1;
    Ok(revision.split('.').next().unwrap_or_default().parse()?)
}

fn restored(site: &mut Site) -> Result<()> {
    let before = epoch(&mut site.h1)?;
    let file = site.h1.sh(&format!("ls {BACKUPS}/* | tail -1"))?;
    site.h1.sh("cps-peering peering delete a-b")?;
    let (code, told) = site.h1.run(&format!("cps-peering-controller restore {file}"))?;
    ensure!(code == 1 && told.contains("is a controller running"), "{code}: {told}");
    let told = site.h1.sh(&format!(
        "systemctl stop {CONTROLLER}
        cps-peering-controller restore --same-cluster {file}
        cps-peering-controller backup /root/copy
        systemctl start {CONTROLLER}"
    ))?;
    let held = site.h1.until("cps-peering-controller release --dry-run | grep 'held, would'")?;
    ensure!(held.contains("would get"), "{held}");
    site.h1.sh("cps-peering-controller release")?;
    ensure!(told.contains("2 hosts, 3 VPCs and 2 peerings") && told.contains("is kept as"), "{told}");
    reaches(&mut site.h1)?;
    in_sync(site)?;
    let after = epoch(&mut site.h1)?;
    ensure!(after > before, "epoch {after}, after {before}");
    Ok(())
}

fn rebooted(site: &mut Site) -> Result<()> {
    site.h1.sh(&format!("systemctl stop {CONTROLLER}"))?;
    let before = site.h2.property(AGENT, "StatusText")?;
    site.reboot_h2()?;
    site.h2.until(&format!("systemctl is-active {AGENT} && ip link show type vrf | grep cpsvrf"))?;
    // The tenant's equipment appears later.
    server(&mut site.h2, 2, "eth1")?;
    reaches(&mut site.h1)?;
    let after = site.h2.until(&format!("systemctl show --value --property StatusText {AGENT} | grep 'in sync'"))?;
    ensure!(before == after, "{before} {after}");
    site.h1.sh(&format!("systemctl start {CONTROLLER}"))?;
    in_sync(site)
}

fn forgotten(site: &mut Site) -> Result<()> {
    site.h2.power_off()?;
    let (code, told) = site.h1.run("cps-peering host remove h2 --dead 2>&1")?;
    ensure!(code == 1 && told.contains("stop traffic"), "{code}: {told}");
    let plan = site.h1.json("cps-peering host remove h2 --dead --dry-run -o json")?;
    site.h1.sh(&format!("cps-peering host remove h2 --dead --confirm {}", plan["confirm"]))?;
    let hosts = site.h1.sh("cps-peering host list")?;
    ensure!(hosts.lines().any(|line| line.starts_with("h2 ") && line.contains("removed")), "{hosts}");
    let audit = site.h1.sh("cps-peering admin audit")?;
    ensure!(audit.to_lowercase().contains("removehost") || audit.contains("h2"), "{audit}");
    site.h1
        .until(&format!("systemctl show --value --property StatusText {CONTROLLER} | grep '^1 of 1 hosts in sync'"))?;
    Ok(())
}

fn removed(site: &mut Site) -> Result<()> {
    let h1 = &mut site.h1;
    let before = ours(h1)?;
    let told = h1.sh("dpkg --remove cps-peering-agent 2>&1")?;
    ensure!(told.contains("stay in the kernel"), "{told}");
    ensure!(before == ours(h1)?, "what was in the kernel stays there");
    h1.sh(&format!("dpkg --install /test/packages/cps-peering-agent_{}_*.deb", VERSIONS[1]))?;
    h1.until(&format!("systemctl show --value --property StatusText {AGENT} | grep 'is in sync'"))?;
    let status = h1.json("cps-peering-agent status -o json")?;
    // Except for replacing the filter of the underlay: on two interfaces, with the senders of each side.
    let handed_over = 2 + status["sides"].as_object().map_or(0, serde_json::Map::len);
    ensure!(status["counters"]["operations"] == handed_over, "there was nothing else to do: {status}");
    Ok(())
}

fn purged(site: &mut Site) -> Result<()> {
    let h1 = &mut site.h1;
    h1.sh(&format!("systemctl stop {AGENT} && cps-peering-agent cleanup --yes"))?;
    let (code, devices) = h1.run("ls /sys/class/net | grep ^cps")?;
    ensure!(code == 1 && devices.is_empty(), "{devices}");
    // It has been used, and is still enabled.
    h1.sh("systemctl enable --now cps-peering-backup.timer")?;
    // These are the operator's own.
    h1.sh("rm -r /etc/cps-peering/tls /etc/cps-peering/pki")?;
    h1.sh("dpkg --purge cps-peering-agent cps-peering-controller cps-peering")?;
    let left = h1.sh("find /etc /usr /var/lib -xdev -name '*cps-peering*'")?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}
