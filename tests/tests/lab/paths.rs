//! V5. The path trace names what stops packets, from the kernels of the hosts; and if nothing does, it agrees with packets.
//!
//! Manual changes would be repaired within milliseconds, so h1 runs an agent that can be told to change nothing for a while.

use crate::{
    NORTH,
    drift::{Names, peered},
};
use anyhow::{Context, Result, bail, ensure};
use cps_peering_tests::{
    Lab, Server,
    lab::{PATIENCE, binary},
    wait,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// The direction of a fault: from h1 to h2, or back, which ends on h1.
const THERE: &str = "forward";
const BACK: &str = "return";

/// What is done by hand on h1, what undoes it where the agent does not, and what must be named: direction, step, and verdict.
type Case = (&'static str, &'static str, (&'static str, &'static str, &'static str));

const V4: [&str; 2] = ["10.1.0.2", "10.2.1.2"];
const V6: [&str; 2] = ["fd00:1::2", "fd00:2:0:1::2"];

const OF_V4: [Case; 52] = [
    ("ip route del 10.2.1.0/24 table {table}", "", (THERE, "route", "stops")),
    ("ip route replace 10.2.1.0/24 dev eth1 table {table} proto 67", "", (THERE, "route", "stops")),
    ("ip route replace blackhole 10.2.1.0/24 table {table} proto 67", "", (THERE, "route", "stops")),
    (
        "ip route add 10.2.1.2 dev uplink table {table} proto zebra",
        "ip route del 10.2.1.2 table {table}",
        (THERE, "route", "stops"),
    ),
    (
        "ip route add blackhole 10.2.1.2 table {table} proto static",
        "ip route del blackhole 10.2.1.2 table {table}",
        (THERE, "route", "stops"),
    ),
    ("ip route del unreachable 10.2.0.0/16 table {table} metric 4278198272", "", (THERE, "route", "differs")),
    (
        "ip route add prohibit 10.1.0.2 table {table} proto static",
        "ip route del prohibit 10.1.0.2 table {table}",
        (THERE, "route", "stops"),
    ),
    ("ip nexthop del id {nexthop}", "", (THERE, "nextHop", "stops")),
    ("ip nexthop replace id {nexthop} via fe80::99 dev {peer} onlink proto 67", "", (THERE, "nextHop", "stops")),
    ("ip neigh del {gateway} dev {peer}", "", (THERE, "neighbour", "stops")),
    ("ip neigh replace {gateway} lladdr 02:00:00:00:00:99 dev {peer} nud permanent", "", (THERE, "neighbour", "stops")),
    ("bridge fdb del {mac} dev {peer} dst 192.0.2.2 vni {vni}", "", (THERE, "fdb", "stops")),
    ("bridge fdb replace {mac} dev {peer} dst 192.0.2.99 vni {vni} self permanent", "", (THERE, "fdb", "stops")),
    ("bridge fdb replace {mac} dev {peer} dst 192.0.2.2 vni 4242 self permanent", "", (THERE, "fdb", "stops")),
    ("ip link del {peer}", "", (THERE, "tunnel", "stops")),
    ("ip link set {peer} down", "", (THERE, "tunnel", "stops")),
    ("ip link set {peer} mtu 1300", "", (THERE, "mtu", "differs")),
    ("ip link set {peer} mtu 1000", "", (THERE, "tunnel", "stops")),
    // (With its address a device loses its neighbour entries; packets then arrive for another address.)
    ("ip link set {peer} address 02:00:00:00:00:77", "", (THERE, "neighbour", "stops")),
    ("ip link set {peer} alias nobodys", "", (THERE, "tunnel", "differs")),
    ("ip link set {peer} nomaster", "", (THERE, "tunnel", "stops")),
    ("ip link set {peer} master {other_vrf}", "", (THERE, "tunnel", "stops")),
    ("ip link set {peer} type vxlan learning", "", (THERE, "tunnel", "unknown")),
    ("ip link set {peer} type vxlan ttl 1", "", (THERE, "tunnel", "unknown")),
    ("ip link set {peer} protodown on", "", (THERE, "tunnel", "stops")),
    ("ip link set {peer} arp off", "", (THERE, "tunnel", "stops")),
    ("tc qdisc del dev {peer} clsact", "", (BACK, "sourceFilter", "differs")),
    ("tc filter del dev {peer} ingress pref 17235", "", (BACK, "sourceFilter", "stops")),
    ("tc filter del dev {peer} ingress pref 17236", "", (BACK, "sourceFilter", "differs")),
    ("tc filter del dev uplink ingress pref 17231", "", (BACK, "acceptance", "differs")),
    ("tc filter del dev eth1 ingress pref 17235", "", (THERE, "portFilter", "stops")),
    ("tc qdisc del dev eth1 clsact", "", (THERE, "portFilter", "differs")),
    (
        "tc filter add dev eth1 ingress pref 1 protocol all matchall action drop",
        "tc filter del dev eth1 ingress pref 1",
        (THERE, "portFilter", "stops"),
    ),
    (
        "tc filter add dev {peer} egress pref 1 protocol all matchall action drop",
        "tc filter del dev {peer} egress pref 1",
        (THERE, "shaper", "stops"),
    ),
    ("tc qdisc add dev {peer} root netem loss 100%", "tc qdisc del dev {peer} root", (THERE, "shaper", "unknown")),
    ("tc qdisc add dev eth1 root netem loss 100%", "tc qdisc del dev eth1 root", (BACK, "port", "unknown")),
    ("ip link set eth1 arp off", "ip link set eth1 arp on", (BACK, "port", "stops")),
    ("ip link set eth1 down", "", (THERE, "port", "stops")),
    ("ip link set eth1 nomaster", "", (THERE, "port", "stops")),
    ("ip link set eth1 master {other_vrf}", "", (THERE, "port", "stops")),
    ("ip addr del 10.1.0.1/24 dev eth1", "", (THERE, "gateway", "stops")),
    ("ip link set {vrf} down", "", (THERE, "vrf", "stops")),
    ("ip link del {vrf}", "", (THERE, "vrf", "stops")),
    ("ip rule del pref 1000", "", (THERE, "rules", "stops")),
    ("ip rule add pref 500 from 10.1.0.0/24 blackhole", "ip rule del pref 500", (THERE, "rules", "stops")),
    ("sysctl -qw net.ipv4.conf.eth1.forwarding=0", "", (THERE, "port", "stops")),
    ("sysctl -qw net.ipv4.conf.{peer}.forwarding=0", "", (BACK, "tunnel", "stops")),
    ("sysctl -qw net.ipv4.conf.eth1.rp_filter=0", "", (THERE, "portFilter", "differs")),
    ("sysctl -qw net.ipv6.conf.{peer}.disable_ipv6=1", "", (THERE, "tunnel", "stops")),
    (
        "ip rule add pref 500 ipproto tcp dport 22 blackhole",
        "ip rule del pref 500 ipproto tcp dport 22 blackhole",
        (THERE, "rules", "unknown"),
    ),
    ("ip rule add pref 2000 to 192.0.2.2 blackhole", "ip rule del pref 2000", (THERE, "underlay", "stops")),
    (
        "ip neigh replace 10.1.0.2 lladdr 02:00:00:00:00:99 nud permanent dev eth1",
        "ip neigh del 10.1.0.2 dev eth1",
        (BACK, "destination", "differs"),
    ),
];

/// Firewalls, of the kind that newer kernels do not have.
const OF_FIREWALLS: [Case; 7] = [
    (
        "iptables-legacy -I FORWARD -i {vrf} -j DROP",
        "iptables-legacy -D FORWARD -i {vrf} -j DROP",
        (THERE, "firewall", "stops"),
    ),
    (
        "iptables-legacy -I FORWARD -p tcp --dport 22 -j DROP",
        "iptables-legacy -D FORWARD -p tcp --dport 22 -j DROP",
        (THERE, "firewall", "unknown"),
    ),
    // Those in which packets travel to the other host, and from it.
    ("iptables-legacy -A OUTPUT -o uplink -p udp -j DROP", "iptables-legacy -F OUTPUT", (THERE, "firewall", "stops")),
    ("iptables-legacy -A INPUT -p udp --dport 4789 -j DROP", "iptables-legacy -F INPUT", (BACK, "firewall", "stops")),
    (
        "iptables-legacy -A INPUT -p tcp -j ACCEPT; iptables-legacy -P INPUT DROP",
        "iptables-legacy -P INPUT ACCEPT; iptables-legacy -F INPUT",
        (BACK, "firewall", "stops"),
    ),
    (
        "iptables-legacy -t raw -A PREROUTING -s 192.0.2.2 -j DROP",
        "iptables-legacy -t raw -F PREROUTING",
        (BACK, "firewall", "stops"),
    ),
    (
        "iptables-legacy -A INPUT -p udp -m length --length 1400: -j DROP",
        "iptables-legacy -F INPUT",
        (BACK, "firewall", "unknown"),
    ),
];

const OF_V6: [Case; 5] = [
    ("ip -6 route del fd00:2:0:1::/64 table {table}", "", (THERE, "route", "stops")),
    ("ip addr del fd00:1::1/64 dev eth1", "", (THERE, "gateway", "stops")),
    ("ip -6 rule del pref 1000", "", (THERE, "rules", "stops")),
    ("sysctl -qw net.ipv6.conf.all.forwarding=0", "", (THERE, "rules", "stops")),
    ("sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1", "", (THERE, "port", "stops")),
];

/// Faults that the model knows: source, destination, the step that is named.
const OF_THE_MODEL: [(&str, &str, &str); 5] = [
    ("172.16.0.1", "10.2.1.2", "vpc"),
    ("10.1.9.9", "10.2.1.2", "sourcePort"),
    ("10.1.0.2", "10.3.0.2", "peering"),
    ("10.1.0.2", "10.2.9.9", "destinationPort"),
    ("10.1.0.2", "10.1.9.9", "destinationPort"),
];

/// An agent on h1 that can be suspended.
struct Held {
    agent: Child,
    hold: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

impl Held {
    /// Replaces the agent on h1.
    fn start(lab: &mut Lab) -> Result<Held> {
        lab.kill_agent("h1")?;
        let hold = lab.dir().join("hosts/h1/hold");
        let log = File::options().create(true).append(true).open(lab.dir().join("hosts/h1/agent.log"))?;
        let mut command = Command::new(binary("held-agent")?);
        command.arg("--hold").arg(&hold).arg("--settings").arg(lab.dir().join("hosts/h1/agent.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let agent = lab.host("h1").netns().within(|| Ok(command.spawn()?))?;
        let held = Held { agent, hold };
        lab.wait_for_agent("h1")?;
        Ok(held)
    }

    fn hold(&self) -> Result<()> {
        Ok(fs::write(&self.hold, "")?)
    }

    /// Lets the agent repair what was done, and waits until all is well. (Its report may be older than the fault.)
    fn release(&self, lab: &Lab, wake: usize) -> Result<()> {
        fs::remove_file(&self.hold)?;
        // An event, so that it observes immediately.
        lab.host("h1").netns().ip(&format!("link set eth2 alias looked-{wake}"))?;
        lab.wait_for_agent("h1")?;
        for [source, destination] in [V4, V6] {
            wait::until("all is well again", PATIENCE, || {
                let path = trace(lab, source, destination)?;
                Ok(is_healthy(&path).is_ok().then_some(()))
            })?;
        }
        Ok(())
    }
}

fn trace(lab: &Lab, source: &str, destination: &str) -> Result<Value> {
    let body = json!({ "source": source, "destination": destination });
    let mut last = Value::Null;
    // On a busy machine a host may need longer than it has.
    for _ in 0..5 {
        let mut answer: Value = lab.controller().endpoint().call("POST", "/admin/v1/paths", Some(&body))?;
        ensure!(answer["error"].is_null(), "{answer}");
        last = answer["result"]["path"].take();
        if !wrong(&last).contains("the kernel could not be read within") {
            break;
        }
    }
    Ok(last)
}

fn first_wrong(path: &Value) -> Option<&Value> {
    path["steps"].get(usize::try_from(path["firstWrong"].as_u64()?).ok()?)
}

/// All steps with problems, for people.
fn wrong(path: &Value) -> String {
    let steps = path["steps"].as_array().into_iter().flatten();
    let lines = steps.filter(|step| step["verdict"] != "ok").map(Value::to_string);
    lines.collect::<Vec<_>>().join("\n    ")
}

/// A path without faults has no problems.
fn is_healthy(path: &Value) -> Result<()> {
    ensure!(path["reaches"] == true && path["firstWrong"].is_null(), "{}", wrong(path));
    Ok(())
}

/// The whole ping matrix agrees with the trace.
fn agrees_with_packets(lab: &Lab) -> Result<()> {
    let servers: Vec<&Server> = lab.servers().collect();
    let mut pairs = 0;
    for from in &servers {
        for to in &servers {
            for (source, destination) in
                from.addresses.iter().flat_map(|source| to.addresses.iter().map(move |to| (source.addr(), to.addr())))
            {
                if source == destination || source.is_ipv4() != destination.is_ipv4() {
                    continue;
                }
                let answered = from.ping(destination)?.answered;
                let path = trace(lab, &source.to_string(), &destination.to_string())?;
                ensure!(
                    path["reaches"] == answered,
                    "{source} -> {destination}: ping {answered}\n    {}",
                    wrong(&path)
                );
                if answered {
                    is_healthy(&path).with_context(|| format!("{source} -> {destination}"))?;
                }
                pairs += 1;
            }
        }
    }
    ensure!(pairs > 30, "{pairs} pairs");
    Ok(())
}

/// Gateways are addresses of hosts: of the own port, of the peer's on the same host and on the other one, of the VPC's on another host.
fn gateways_agree_with_packets(lab: &Lab) -> Result<()> {
    let server = lab.server("h1", "eth1");
    for gateway in ["10.1.0.1", "fd00:1::1", "10.2.0.1", "fd00:2::1", "10.2.1.1", "fd00:2:0:1::1", "10.1.1.1"] {
        let answered = server.ping(gateway.parse::<IpAddr>()?)?.answered;
        let source = if gateway.contains(':') { V6[0] } else { V4[0] };
        let path = trace(lab, source, gateway)?;
        ensure!(path["reaches"] == answered, "{source} -> {gateway}: ping {answered}\n    {}", wrong(&path));
        // Answers go the same way.
        if answered {
            is_healthy(&path).and_then(|()| is_healthy(&trace(lab, gateway, source)?)).context(gateway)?;
        }
    }
    Ok(())
}

/// A is on both hosts, and C has no peers. The agent of h1 can be suspended.
fn held_lab() -> Result<(Lab, Held)> {
    let topology = peered()
        .port("vpc-a", "h2", "eth3", &["10.1.1.1/24", "fd00:1:0:1::1/64"])
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h2", "eth4", &["10.3.0.1/24", "fd00:3::1/64"]);
    let mut lab = Lab::in_sync(topology)?;
    let held = Held::start(&mut lab)?;
    lab.wait_in_sync()?;
    Ok((lab, held))
}

/// Each fault is named as the first one, and no longer when it is gone.
fn are_named<'a>(lab: &Lab, held: &Held, cases: impl Iterator<Item = ([&'a str; 2], &'a Case)>) -> Result<()> {
    let mut failed = Vec::new();
    let netns = lab.host("h1").netns();
    // All of them follow from VNIs and addresses, and so stay when an object is created anew.
    let names = Names::of(netns)?;
    for (number, ([source, destination], (fault, undo, (direction, step, verdict)))) in cases.enumerate() {
        held.hold()?;
        let path = netns.sh(&names.filled(fault)).and_then(|_| trace(lab, source, destination));
        let named = path.and_then(|path| {
            let first = first_wrong(&path).with_context(|| "nothing is named")?;
            let found = [&first["direction"], &first["step"], &first["verdict"]];
            ensure!(
                found == [&json!(direction), &json!(step), &json!(verdict)],
                "{found:?} is named:\n    {}",
                wrong(&path)
            );
            ensure!(first["host"] == "h1" && first["reason"] != "" && !first["fixableBy"].is_null(), "{first}");
            Ok(())
        });
        if let Err(error) = named {
            failed.push(format!("`{fault}`: not {direction} {step} {verdict}: {error:#}"));
        }
        if !undo.is_empty() {
            netns.sh(&names.filled(undo)).map_or_else(|error| failed.push(format!("{error:#}")), drop);
        }
        held.release(lab, number).with_context(|| format!("after `{fault}`"))?;
    }
    ensure!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// V5.
#[test]
fn the_first_wrong_step_of_a_path_is_named_and_a_healthy_one_has_none() -> Result<()> {
    let (mut lab, held) = held_lab()?;
    agrees_with_packets(&lab)?;
    gateways_agree_with_packets(&lab)?;
    for (source, destination, step) in OF_THE_MODEL {
        let path = trace(&lab, source, destination)?;
        let named = first_wrong(&path).is_some_and(|first| first["step"] == step);
        ensure!(named && path["reaches"] == false, "{source} -> {destination}: {path}");
    }
    are_named(&lab, &held, OF_V4.iter().map(|case| (V4, case)).chain(OF_V6.iter().map(|case| (V6, case))))?;
    // An agent that does not answer is a step of its own.
    lab.kill_agent("h2")?;
    let path = trace(&lab, V4[0], V4[1])?;
    let named = first_wrong(&path).is_some_and(|first| first["step"] == "host");
    ensure!(named && path["reaches"].is_null(), "a dead agent: {path}");
    lab.start_agent("h2")?;
    lab.wait_for_agent("h2")?;
    for [source, destination] in [V4, V6] {
        wait::until("all is well again", PATIENCE, || is_healthy(&trace(&lab, source, destination)?).map(Some))?;
    }
    of_the_command_line(&lab)
}

/// V5.
#[test]
fn firewalls_on_a_path_are_named() -> Result<()> {
    let (lab, held) = held_lab()?;
    are_named(&lab, &held, OF_FIREWALLS.iter().map(|case| (V4, case)))
}

/// For people it is a table, for programs JSON, and the exit status tells whether it reaches.
fn of_the_command_line(lab: &Lab) -> Result<()> {
    let controller = lab.controller();
    let fine = controller.cli(&["path", V4[0], V4[1], "--port", "tcp/443"])?;
    ensure!(fine.status.success() && fine.stdout.contains("10.1.0.2 reaches 10.2.1.2"), "{fine:?}");
    let stopped = controller.cli(&["path", V4[0], "10.3.0.2"])?;
    ensure!(stopped.status.code() == Some(1) && stopped.stdout.contains("STOPS"), "{stopped:?}");
    let json = controller.cli(&["-o", "json", "path", V4[0], V4[1]])?.ok()?;
    let json: Value = serde_json::from_str(&json)?;
    if json["path"]["reaches"] != true {
        bail!("{json}");
    }
    Ok(())
}
