//! V6. Probes: real packets between gateways measure round trip and path MTU, and find what no kernel at the ends knows.

use crate::{NORTH, drift::peered};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{
    Lab,
    command::run,
    frames::{self, IPV4, ethernet, icmp},
    http::Endpoint,
    lab::{Daemon, NIC, PATIENCE, peering_id},
    netns::Netns,
    wait,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

/// Where Prometheus listens.
const PROMETHEUS: &str = "127.0.0.1:9090";

/// The alerts about probes.
const ALERTS: [&str; 5] = [
    "CpsPeeringPathLossy",
    "CpsPeeringPathDown",
    "CpsPeeringMtuBlackHole",
    "CpsPeeringProbesStale",
    "CpsPeeringPathsNotProbed",
];

const V4: [&str; 2] = ["10.1.0.2", "10.2.1.2"];
const V6: [&str; 2] = ["fd00:1::2", "fd00:2:0:1::2"];

/// What the underlay loses on its way to h2: VXLAN; or only frames of 1 024 to 2 047 bytes, with 50 around the tenants' packets.
const VXLAN: &str = "match ip protocol 17 0xff match ip dport 4789 0xffff";
const LONG: &str = "match ip protocol 17 0xff match ip dport 4789 0xffff match u16 0x0400 0xfc00 at 2";

fn lose(lab: &Lab, what: &str) -> Result<()> {
    let filter = format!("tc filter add dev port2 egress protocol ip pref 1 u32 {what} action drop");
    lab.underlay().netns().sh(&format!("tc qdisc add dev port2 clsact && {filter}")).map(drop)
}

fn lose_nothing(lab: &Lab) -> Result<()> {
    lab.underlay().netns().sh("tc qdisc del dev port2 clsact").map(drop)
}

/// The path with what a probe found.
fn probed(lab: &Lab, [source, destination]: [&str; 2]) -> Result<Value> {
    asked(&lab.controller().endpoint(), "/admin/v1/paths", source, destination)
}

fn asked(endpoint: &Endpoint, path: &str, source: &str, destination: &str) -> Result<Value> {
    let body = json!({ "source": source, "destination": destination, "probe": true });
    let mut answer: Value = endpoint.call("POST", path, Some(&body))?;
    ensure!(answer["error"].is_null(), "{answer}");
    Ok(answer["result"]["path"].take())
}

/// All replies arrived, at full size, within a plausible time.
fn is_well(path: &Value, mtu: u64) -> Result<()> {
    let probe = &path["probe"];
    ensure!(path["reaches"] == true && path["firstWrong"].is_null(), "{path}");
    ensure!(probe["verdict"] == "ok" && probe["reason"].is_null(), "{probe}");
    ensure!(probe["sent"] == 3 && probe["received"] == 3, "{probe}");
    ensure!(probe["pathMtu"] == mtu && probe["expectedMtu"] == mtu, "{probe}");
    let [min, median] = ["min", "median"].map(|which| probe["roundTripMs"][which].as_f64());
    let (min, median) = min.zip(median).with_context(|| probe.to_string())?;
    ensure!(min > 0.0 && min <= median && median < 500.0, "{probe}");
    Ok(())
}

/// V6, C8.
#[test]
fn a_probe_measures_the_way_there_and_back_and_finds_what_no_kernel_tells() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    // Hosts may have confirmed it, while the controller does not have all reports yet.
    wait::until("the path is well", PATIENCE, || Ok((probed(&lab, V4)?["firstWrong"].is_null()).then_some(())))?;
    for way in [V4, V6] {
        is_well(&probed(&lab, way)?, 1450).with_context(|| format!("{way:?}"))?;
    }
    // On one host nothing is encapsulated, so that no MTU is expected.
    let here = probed(&lab, ["10.1.0.2", "10.2.0.2"])?;
    ensure!(here["probe"]["verdict"] == "ok" && here["probe"]["pathMtu"].is_null(), "{here}");
    // No server has taken part, and none could.
    let servers = || lab.servers().map(|server| Ok(server.heard()?.echo_requests)).collect::<Result<Vec<_>>>();
    let before = servers()?;
    probed(&lab, V4)?;
    ensure!(servers()? == before, "a server was asked");
    of_an_account(&lab)?;
    of_the_command_line(&lab)?;
    // No kernel at the ends knows what the underlay loses: all packets, or long ones.
    lose(&lab, VXLAN)?;
    for way in [V4, V6] {
        let path = probed(&lab, way)?;
        let probe = &path["probe"];
        ensure!(probe["verdict"] == "stops" && probe["sent"] == 3 && probe["received"] == 0, "{probe}");
        ensure!(probe["pathMtu"].is_null() && probe["roundTripMs"].is_null(), "{probe}");
        let first = &path["steps"][usize::try_from(path["firstWrong"].as_u64().context("nothing is wrong")?)?];
        ensure!(path["reaches"] == false && first["step"] == "probe" && first["verdict"] == "stops", "{path}");
    }
    lose_nothing(&lab)?;
    lose(&lab, LONG)?;
    for way in [V4, V6] {
        let path = probed(&lab, way)?;
        let probe = &path["probe"];
        ensure!(path["reaches"] == true && probe["verdict"] == "differs", "{path}");
        ensure!(probe["received"] == 3 && probe["expectedMtu"] == 1450, "{probe}");
        let mtu = probe["pathMtu"].as_u64().context("no MTU")?;
        ensure!((966..=973).contains(&mtu), "{probe}");
        ensure!(probe["reason"].as_str().is_some_and(|reason| reason.contains("black hole")), "{probe}");
    }
    lose_nothing(&lab)?;
    is_well(&probed(&lab, V4)?, 1450)
}

/// L11: an account sees the figures, and not which host answered.
fn of_an_account(lab: &Lab) -> Result<()> {
    let account = lab.inventory().vpcs[0].account.to_string();
    let path = asked(&lab.controller().tenant(&account)?, &format!("/v1/regions/{NORTH}/paths"), V4[0], V4[1])?;
    is_well(&path, 1450)?;
    ensure!(path["probe"]["source"] == "10.1.0.1", "{path}");
    // If packets stop in the model, none is sent.
    let stopped = asked(&lab.controller().tenant(&account)?, &format!("/v1/regions/{NORTH}/paths"), V4[0], "10.9.0.2")?;
    ensure!(stopped["reaches"] == false && stopped["probe"]["verdict"] == "unknown", "{stopped}");
    ensure!(stopped["probe"]["sent"] == 0 && stopped["probe"]["reason"] != "", "{stopped}");
    Ok(())
}

fn of_the_command_line(lab: &Lab) -> Result<()> {
    let fine = lab.controller().cli(&["path", V4[0], V4[1], "--probe"])?;
    ensure!(fine.status.success() && fine.stdout.contains("3 of 3 came back"), "{fine:?}");
    ensure!(fine.stdout.contains("path MTU 1450"), "{fine:?}");
    Ok(())
}

/// The metrics of an agent with this prefix, by what follows it.
fn figures(lab: &Lab, name: &str) -> Result<Vec<(String, f64)>> {
    let text = lab.host("h1").endpoint().text("/metrics")?;
    let figures = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    figures.map(|(labels, value)| Ok((labels.to_owned(), value.parse()?))).collect()
}

/// The path health that the controller shows; null if unknown.
fn health(lab: &Lab) -> Result<Value> {
    let mut answer: Value = lab.controller().endpoint().call("GET", "/admin/v1/peerings", None)?;
    Ok(answer["result"]["vpcPeerings"][0]["pathHealth"].take())
}

/// V6. Peerings are probed continuously: loss, round trip and MTU black holes are metrics of the host within ten seconds, and what
/// the controller shows soon after.
#[test]
fn peerings_are_measured_all_the_time() -> Result<()> {
    let lab = Lab::builder(peered()).probe_interval(Duration::from_secs(5)).start()?;
    ensure!(figures(&lab, "cps_agent_probe_packets")?.is_empty(), "nothing is known yet");
    lab.apply()?;
    lab.wait_in_sync()?;
    let one = |name: &str| -> Result<Option<f64>> {
        let all = figures(&lab, &format!("cps_agent_probe_{name}{{peering="))?;
        ensure!(all.len() <= 1, "{all:?}");
        Ok(all.first().map(|(_, value)| *value))
    };
    let is_well = || {
        let time = one("round_trip_seconds")?;
        Ok((one("mtu_black_holes")? == Some(0.0) && time.is_some_and(|time| time > 0.0 && time < 1.0)).then_some(()))
    };
    wait::until("the peering is measured", PATIENCE, is_well)?;
    // Both families, by now.
    wait::until("the controller knows", PATIENCE, || {
        let health = health(&lab)?;
        let time = health["roundTripMs"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 1000.0);
        Ok((time && health["lossPercent"] == 0 && health["mtuBlackHole"] == false).then_some(()))
    })?;
    let account = lab.inventory().vpcs[0].account.to_string();
    let path = format!("/v1/regions/{NORTH}/vpcPeerings/");
    let seen: Value = lab.controller().tenant(&account)?.call("GET", &path, None)?;
    let seen = &seen["result"]["vpcPeerings"][0];
    ensure!(seen["pathHealth"]["lossPercent"] == 0 && seen["hosts"].is_null(), "{seen}");
    wait::until("four packets", PATIENCE, || Ok(one("packets_total")?.filter(|sent| *sent >= 4.0)))?;
    let lost = one("lost_total")?.context("no figure of loss")?;
    let measured = one("timestamp_seconds")?.context("no age")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    ensure!(now - measured < 15.0, "{measured} at {now}");
    ensure!(one("packets_total")?.is_some_and(|sent| sent < 20.0), "too many packets");
    let within = Duration::from_secs(10);
    lose(&lab, LONG)?;
    wait::until("the black hole", within, || Ok(one("mtu_black_holes")?.filter(|holes| *holes > 0.0)))?;
    wait::until("the controller knows of it", PATIENCE, || Ok((health(&lab)?["mtuBlackHole"] == true).then_some(())))?;
    // On each host and in each family long packets are lost, and no others.
    ensure!(health(&lab)?["lossPercent"] == 0, "{}", health(&lab)?);
    lose_nothing(&lab)?;
    wait::until("its end", within, is_well)?;
    ensure!(one("lost_total")? == Some(lost), "what is too long is not lost");
    lose(&lab, VXLAN)?;
    // It is unknown how long long packets take, or whether they pass, if no reply arrives.
    wait::until("the loss", within, || {
        Ok((one("round_trip_seconds")?.is_none() && one("mtu_black_holes")?.is_none()).then_some(()))
    })?;
    wait::until("the controller knows that nothing comes back", PATIENCE, || {
        let health = health(&lab)?;
        let lost = health["lossPercent"].as_u64().is_some_and(|percent| percent > 0);
        Ok((lost && health["roundTripMs"].is_null() && health["mtuBlackHole"].is_null()).then_some(()))
    })?;
    lose_nothing(&lab)?;
    wait::until("its end", within, is_well)?;
    wait::until("the controller knows of its end", PATIENCE, || {
        Ok(health(&lab)?["roundTripMs"].is_number().then_some(()))
    })?;
    // What does not exist is not measured.
    let peering = figures(&lab, "cps_agent_probe_packets_total{peering=")?.remove(0).0;
    lab.unpeer(&peering_id(&peering).context("no id")?)?;
    wait::until("no figure is left", PATIENCE, || Ok(one("packets_total")?.is_none().then_some(())))
}

/// The shipped alerts, evaluated by Debian's Prometheus with the agents' metrics. They do not wait here.
struct Watched {
    netns: Netns,
    _prometheus: Daemon,
    _folder: TempDir,
}

impl Watched {
    fn start(lab: &Lab) -> Result<Watched> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let rules = include_str!("../../../config/monitoring/alerts.yml");
        let impatient = rules.lines().filter(|line| !line.trim_start().starts_with("for: "));
        fs::write(at("alerts.yml"), impatient.collect::<Vec<_>>().join("\n"))?;
        let files = lab.pki().files("controller");
        let target =
            |host: &str| json!({ "targets": [lab.host(host).agent_address().to_string()], "labels": { "host": host } });
        let job = json!({
            "job_name": "cps-peering-agent", "scheme": "https", "static_configs": [target("h1"), target("h2")],
            "tls_config": {
                "ca_file": files.ca, "cert_file": files.cert, "key_file": files.key, "server_name": "cps-peering-agent",
            },
        });
        let settings = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [at("alerts.yml")], "scrape_configs": [job],
        });
        // JSON is YAML.
        fs::write(at("prometheus.yml"), settings.to_string())?;
        let netns = lab.host("h1").netns().clone();
        let arguments = [
            format!("--config.file={}", at("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", at("data").display()),
            format!("--web.listen-address={PROMETHEUS}"),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = Path::new("/usr/bin/prometheus");
        let mut prometheus = Daemon::other(&netns, program, &arguments, at("log"));
        prometheus.start()?;
        Ok(Watched { netns, _prometheus: prometheus, _folder: folder })
    }

    /// The value of an expression; empty if it selects nothing.
    fn query(&self, expression: &str) -> Result<String> {
        let mut command = self.netns.command("promtool");
        run(command.args(["query", "instant", &format!("http://{PROMETHEUS}"), expression]))?.ok()
    }

    fn fires(&self, alert: &str) -> Result<bool> {
        Ok(!self.query(&format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}"))?.trim().is_empty())
    }
}

/// The alerts about probes fire for what they are meant for, with real packets.
#[test]
fn the_shipped_alerts_fire_when_packets_are_lost_and_when_long_ones_are() -> Result<()> {
    let lab = Lab::builder(peered()).probe_interval(Duration::from_secs(1)).start()?;
    lab.apply()?;
    lab.wait_in_sync()?;
    let watched = Watched::start(&lab)?;
    wait::until("both agents' probes are seen", 2 * PATIENCE, || {
        let all = "count(cps_agent_probe_round_trip_seconds and ignoring (peering) \
                   cps_agent_probe_paths_known == ignoring (peering) cps_agent_probe_paths > 1) == 2";
        Ok(watched.query(all)?.contains("=> 2").then_some(()))
    })?;
    for alert in ALERTS {
        ensure!(!watched.fires(alert)?, "{alert} fires, and all is well");
    }
    lose(&lab, LONG)?;
    wait::until("the black hole", PATIENCE, || Ok(watched.fires("CpsPeeringMtuBlackHole")?.then_some(())))?;
    ensure!(!watched.fires("CpsPeeringPathDown")?, "short packets pass");
    lose_nothing(&lab)?;
    wait::until("its end", PATIENCE, || Ok((!watched.fires("CpsPeeringMtuBlackHole")?).then_some(())))?;
    lose(&lab, VXLAN)?;
    for alert in ["CpsPeeringPathDown", "CpsPeeringPathLossy"] {
        wait::until(alert, PATIENCE, || Ok(watched.fires(alert)?.then_some(())))?;
    }
    lose_nothing(&lab)?;
    wait::until("packets pass", PATIENCE, || Ok((!watched.fires("CpsPeeringPathDown")?).then_some(())))
}

/// A request to an agent.
fn query(lab: &Lab, local: &str, remote: &str) -> Result<Value> {
    let ledger = lab.ledger("h1")?;
    let config = ledger.get("config").unwrap_or(&ledger);
    let sides = config["sides"].as_object().with_context(|| format!("no sides in {ledger}"))?;
    let (side, _) = sides.iter().find(|(_, side)| side["vpc"] == "vpc-a").context("no side of A")?;
    let side: u32 = side.parse()?;
    Ok(
        json!({ "vpc": "vpc-a", "local": local, "peer_vpc": "vpc-b", "remote": remote, "side": side, "remote_vtep": "192.0.2.2" }),
    )
}

/// V6, C9, C10: only gateways that the configuration connects are probed, a tenant that forges replies changes nothing, and a host sends only
/// so many packets, whoever asks.
#[test]
fn probes_are_bounded_and_cannot_be_forged() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    let agent = lab.host("h1").endpoint();
    let probe = |local: &str, remote: &str| -> Result<Value> {
        agent.call("POST", "/v1/probe", Some(&query(&lab, local, remote)?))
    };
    let fine = probe("10.1.0.1", "10.2.1.1")?;
    ensure!(fine["received"] == 3 && fine["path_mtu"] == 1450, "{fine}");
    for (local, remote) in [("10.1.0.2", "10.2.1.1"), ("10.1.0.1", "10.3.0.1"), ("10.1.0.1", "fd00:2:0:1::1")] {
        let refused = probe(local, remote)?;
        ensure!(refused["not_probed"].is_string() && refused["sent"] == 0, "{local} -> {remote}: {refused}");
    }
    // The peer's server on h2 sends replies as if it were the gateway, and others as itself, while h2 accepts no requests.
    let (peer, host) = (lab.server("h2", "eth1"), lab.host("h2").netns());
    let gateway = crate::forged::mac(host, "eth1")?;
    let mut forged = Vec::new();
    for source in ["10.2.1.1", "10.2.1.2"] {
        for identifier in 0..2000_u16 {
            let rest = [&identifier.to_be_bytes()[..], &[0; 38]].concat();
            let reply = icmp(source.parse()?, "10.1.0.1".parse()?, 0, 0, &rest);
            forged.push(ethernet(gateway, IPV4, &reply));
        }
    }
    lose(&lab, VXLAN)?;
    let netns = peer.netns().clone();
    let sender = thread::spawn(move || frames::send(&netns, NIC, &forged));
    let lost = probe("10.1.0.1", "10.2.1.1")?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(lost["sent"] == 3 && lost["received"] == 0, "{lost}");
    lose_nothing(&lab)?;
    // As fast as replies arrive: at some time there are too many.
    let began = Instant::now();
    let body = query(&lab, "10.1.0.1", "10.2.1.1")?;
    let ask = || agent.call::<Value>("POST", "/v1/probe", Some(&body));
    let answers: Vec<Result<Value>> = thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..20).map(|_| ask()).collect::<Vec<_>>())).collect();
        asking.into_iter().flat_map(|asked| asked.join().unwrap_or_default()).collect()
    });
    let (answered, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    for error in refused.iter().filter_map(|refused| refused.as_ref().err()) {
        ensure!(format!("{error:#}").contains("too many probes"), "{error:#}");
    }
    // Twenty packets at once, and thirty in each second: four for each probe.
    let most = (20 + 30 * (began.elapsed().as_secs() + 1)) / 4;
    ensure!(!refused.is_empty() && answered.len() as u64 <= most, "{} answers, at most {most}", answered.len());
    Ok(())
}
