//! A controller, an agent and a Prometheus in a network namespace of their own. The kernel need not have VRFs: what the agent
//! cannot do is a metric, too.

use crate::shipped::{Alert, shipped};
use anyhow::{Context, Result, ensure};
use cps_peering_config::{
    id::HostId,
    settings::AgentSettings,
    tls::{self, Tls},
};
use cps_peering_http::tls::Identity;
use cps_peering_tests::{
    Topology,
    command::run,
    http::Endpoint,
    lab::{Daemon, Pki, binary},
    netns::Netns,
    wait,
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

const CONTROLLER: SocketAddr = at(7400);
const AGENT: SocketAddr = at(7401);
const PROMETHEUS: SocketAddr = at(9090);

const fn at(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// That of the agent among the daemons.
const AGENT_PLACE: usize = 1;

fn topology() -> Topology {
    Topology::new()
        .host("h1", "north", &AGENT.ip().to_string())
        .vpc("vpc-a", "north", &["10.1.0.0/16"])
        .vpc("vpc-b", "north", &["10.2.0.0/16"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24"])
        .peering("vpc-a", "vpc-b")
}

/// All of it. It ends when dropped.
pub(crate) struct Site {
    // Dropped in this order: processes before their namespace.
    daemons: Vec<Daemon>,
    netns: Netns,
    pki: Pki,
    folder: TempDir,
}

impl Site {
    pub(crate) fn start() -> Result<Site> {
        let folder = tempfile::tempdir()?;
        let netns = Netns::create(&format!("monitoring{}", std::process::id()))?;
        let host: HostId = "h1".parse()?;
        let pki = Pki::create(folder.path(), &[&host], CONTROLLER.ip())?;
        pki.run(&["issue", "monitoring"])?;
        let mut site = Site { daemons: Vec::new(), netns, pki, folder };
        let controller = site.controller()?;
        let agent = site.agent(&host)?;
        site.run("cps-peering-controller", &["--settings", &controller])?;
        site.run("cps-peering-agent", &["run", "--settings", &agent])?;
        site.inventory()?;
        let config = site.prometheus()?;
        let data = format!("--storage.tsdb.path={}", site.path("data"));
        let listen = format!("--web.listen-address={PROMETHEUS}");
        site.run("/usr/bin/prometheus", &[&format!("--config.file={config}"), &data, &listen])?;
        Ok(site)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        (&file).write_all(text.as_bytes())?;
        Ok(path)
    }

    fn run(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        let mut daemon = Daemon::new(&self.netns, program, arguments, self.path(&format!("{name}.log")).into())?;
        daemon.start()?;
        self.daemons.push(daemon);
        Ok(())
    }

    fn controller(&self) -> Result<String> {
        let token = self.write("operator.token", "only-for-this-test\n")?;
        let settings = serde_json::json!({
            "listen": CONTROLLER, "store": self.path("store.redb"), "operator_token_file": token, "poll_s": 1,
            "tls": Tls::On(self.pki.files("controller")),
        });
        self.write("controller.toml", &toml::to_string(&settings)?)
    }

    fn agent(&self, host: &HostId) -> Result<String> {
        let settings =
            serde_json::json!({ "listen": AGENT, "ledger": self.path("ledger"), "tls": self.pki.of_host(host) });
        let settings: AgentSettings = serde_json::from_value(settings)?;
        self.write("agent.toml", &toml::to_string(&settings)?)
    }

    /// A host with a VPC, for the metrics that exist only then.
    fn inventory(&mut self) -> Result<()> {
        let file = self.write("inventory.toml", &toml::to_string(&topology().build())?)?;
        wait::until("the controller takes an inventory", PATIENCE, || {
            for daemon in &mut self.daemons {
                daemon.check()?;
            }
            self.cli(&["apply", "-f", &file]).map(Some)
        })?;
        self.cli(&["admin", "backup"]).map(drop)
    }

    /// The host is in maintenance.
    pub(crate) fn begin_maintenance(&self) -> Result<()> {
        let mut inventory = topology().build();
        inventory.hosts[0].maintenance = true;
        let file = self.write("inventory.toml", &toml::to_string(&inventory)?)?;
        self.cli(&["apply", "-f", &file]).map(drop)
    }

    pub(crate) fn kill_agent(&mut self) -> Result<()> {
        self.daemons[AGENT_PLACE].kill()
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.netns.command(binary("cps-peering")?);
        command.args(["--controller", &format!("https://{CONTROLLER}"), "--token-file", &self.path("operator.token")]);
        run(command.arg("--ca").arg(self.pki.ca()).args(arguments))?.ok()
    }

    /// The shipped settings of Prometheus, with this controller's address, and shorter intervals.
    fn prometheus(&self) -> Result<String> {
        let folder = self.folder.path().join("cps-peering");
        fs::create_dir(&folder)?;
        for file in ["ca.pem", "monitoring.pem", "monitoring.key"] {
            symlink(self.pki.ca().with_file_name(file), folder.join(file))?;
        }
        symlink(shipped("alerts.yml"), folder.join("alerts.yml"))?;
        // The guide's command.
        let hosts = self.cli(&["host", "list", "-o", "json"])?;
        let program = "[.hosts[] | {targets: [.agent | ltrimstr(\"https://\")], labels: {host: .host}}]";
        let targets = cps_peering_tests::command::run_with_input(Command::new("jq").arg(program), &hosts)?.ok()?;
        ensure!(targets.contains("127.0.0.1:7401"), "{targets}");
        self.write("cps-peering/hosts.json", &targets)?;
        let settings = fs::read_to_string(shipped("prometheus.yml"))?;
        let (there, here) = ("192.0.2.1:7400", CONTROLLER.to_string());
        ensure!(settings.contains(there) && settings.contains("_interval: 15s"), "{settings}");
        let settings = settings.replace(there, &here).replace("_interval: 15s", "_interval: 1s");
        let path = self.write("prometheus.yml", &settings)?;
        run(Command::new("promtool").args(["check", "config", "--lint=all", "--lint-fatal", &path]))?.ok()?;
        Ok(path)
    }

    /// Prometheus' response to a GET.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let answer = self.netns.within(|| {
            let mut stream = TcpStream::connect(PROMETHEUS)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        serde_json::from_str(body).with_context(|| answer.clone())
    }

    /// The value of an expression; nothing if it selects nothing. Invalid ones are errors.
    pub(crate) fn query(&self, expression: &str) -> Result<String> {
        let mut command = self.netns.command("promtool");
        run(command.args(["query", "instant", &format!("http://{PROMETHEUS}"), expression]))?
            .ok()
            .map(|text| text.trim().to_owned())
    }

    /// The alerts, each of which was evaluated.
    pub(crate) fn alerts(&self) -> Result<Vec<Alert>> {
        wait::until("all rules were evaluated", PATIENCE, || {
            let answer = self.get("/api/v1/rules")?;
            let groups = answer["data"]["groups"].as_array().with_context(|| answer.to_string())?;
            let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
            let rules = rules.filter(|rule| rule["type"] == "alerting");
            let alerts = rules.map(|rule| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                Alert {
                    name: text(&rule["name"]),
                    query: text(&rule["query"]),
                    health: text(&rule["health"]),
                    runbook: text(&rule["annotations"]["runbook_url"]),
                }
            });
            let alerts: Vec<Alert> = alerts.collect();
            ensure!(!alerts.is_empty() && alerts.iter().all(|it| it.health != "unknown"), "{alerts:?}");
            Ok(Some(alerts))
        })
    }

    /// The link of an alert that is pending or firing.
    pub(crate) fn runbook(&self, name: &str) -> Result<String> {
        wait::until(&format!("{name} is seen"), PATIENCE, || {
            let answer = self.get("/api/v1/alerts")?;
            let alerts = answer["data"]["alerts"].as_array().with_context(|| answer.to_string())?;
            let alert = alerts.iter().find(|alert| alert["labels"]["alertname"] == name);
            Ok(alert.and_then(|alert| alert["annotations"]["runbook_url"].as_str()).map(str::to_owned))
        })
    }

    /// The controller's response at a path.
    pub(crate) fn controller_page(&self, path: &str) -> Result<String> {
        let identity = Identity::open(&self.pki.files("monitoring"))?;
        let tls = Arc::new(identity.client_of(tls::CONTROLLER));
        Endpoint { from: self.netns.clone(), to: CONTROLLER, token: None, tls }.text(path)
    }

    fn metrics(&self, to: SocketAddr, name: &str) -> Result<String> {
        let identity = Identity::open(&self.pki.files("monitoring"))?;
        let tls = Arc::new(identity.client_of(name));
        Endpoint { from: self.netns.clone(), to, token: None, tls }.text("/metrics")
    }

    pub(crate) fn controller_metrics(&self) -> Result<String> {
        self.metrics(CONTROLLER, tls::CONTROLLER)
    }

    pub(crate) fn agent_metrics(&self) -> Result<String> {
        self.metrics(AGENT, &tls::host(&"h1".parse()?))
    }

    /// The last output of the daemons.
    pub(crate) fn logs(&self) -> String {
        self.daemons.iter().map(Daemon::log_tail).collect::<Vec<_>>().join("\n---\n")
    }
}
