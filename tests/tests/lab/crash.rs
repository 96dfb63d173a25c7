//! Crash matrix on the real kernel: the agent is killed after each operation of a plan and started again on its ledger.
//!
//! Meanwhile another peering's streams run, and tenants send to where they must not get: to addresses that table main of the
//! host leads to a canary, to another VPC that has the very addresses of their peer, to VPCs that are no peers, to the host.

use crate::{NORTH, drift::differences, two_hosts};
use anyhow::{Context, Result, bail, ensure};
use cps_peering_config::{HostReport, agent_api};
use cps_peering_tests::{
    Lab, Topology,
    lab::{PATIENCE, binary},
    monitor::Monitor,
    probe::{Canary, Listener, Prober},
    snapshot::Snapshot,
    stream::Stream,
    wait,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    net::IpAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
};

/// A and B are peered and stay so. E on h1 has the very addresses of D on h2.
fn without_c() -> Topology {
    two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .vpc("vpc-d", NORTH, &["10.4.0.0/16", "fd00:4::/48"])
        .vpc("vpc-e", NORTH, &["10.4.0.0/16", "fd00:4::/48"])
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-e", "h1", "eth3", &["10.4.0.1/24", "fd00:4::1/64"])
        .port("vpc-b", "h2", "eth1", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-d", "h2", "eth2", &["10.4.0.1/24", "fd00:4::1/64"])
        .peering("vpc-a", "vpc-b")
}

/// C on h1 is peered with D on h2.
fn with_c() -> Topology {
    without_c()
        .vpc("vpc-c", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .port("vpc-c", "h1", "eth2", &["10.3.0.1/24", "fd00:3::1/64"])
        .peering("vpc-c", "vpc-d")
}

#[test]
fn crash_matrix_of_bring_up_and_teardown_under_streams_even_places() -> Result<()> {
    let mut matrix = Matrix::new()?;
    let (before, after) = (matrix.without_c.clone(), matrix.with_c.clone());
    matrix.under_streams(&before, &after, (0..).step_by(2))
}

#[test]
fn crash_matrix_of_bring_up_and_teardown_under_streams_odd_places() -> Result<()> {
    let mut matrix = Matrix::new()?;
    let (before, after) = (matrix.without_c.clone(), matrix.with_c.clone());
    matrix.under_streams(&before, &after, (1..).step_by(2))
}

#[test]
fn crash_matrix_of_a_change_there_and_back_under_streams() -> Result<()> {
    let mut matrix = Matrix::new()?;
    let before = matrix.with_c.clone();
    // D moves to another host, gets a second one, and C another gateway.
    let mut after = before.clone();
    let sides = after["sides"].as_object_mut().context("no sides")?;
    let side = sides.values_mut().find(|side| side["vpc"] == "vpc-c").context("no side of C")?;
    let prefixes = side["remotes"]["192.0.2.2"].clone();
    ensure!(prefixes.is_array(), "{side}");
    side["remotes"] = json!({ "192.0.2.3": prefixes, "192.0.2.4": ["10.4.9.0/24", "fd00:4:0:9::/64"] });
    after["vrfs"]["vpc-c"]["ports"]["eth2"]["gateways"] = json!(["10.3.0.254/24", "fd00:3::fe/64"]);
    matrix.under_streams(&before, &after, 0..)
}

#[test]
fn crash_again_and_again_from_a_bare_host_and_back() -> Result<()> {
    let mut matrix = Matrix::new()?;
    let (all, nothing) = (matrix.with_c.clone(), matrix.nothing());
    let watch = Watch::start(&matrix.lab)?;
    let bare = matrix.settled(&nothing)?.without_documented_leftovers();
    let built = matrix.settled(&all)?;
    matrix.settled(&nothing)?;
    let monitor = Monitor::start(matrix.lab.host("h1").netns())?;
    // What a teardown restores on a port it restores in each life, since it cannot be known whether it was done: it takes more
    // than these 18 operations to make progress.
    for (config, operations, least) in [(&all, 1, 40), (&nothing, 20, 2)] {
        matrix.store(config)?;
        let mut lives = 0;
        while matrix.dies_after(operations)? {
            lives += 1;
            ensure!(lives < 300, "it does not come to rest");
        }
        ensure!(lives >= least, "only {lives} lives");
        matrix.live()?;
        let now = matrix.lab.host("h1").snapshot()?;
        let difference = if operations == 1 {
            differences(&built, &now)
        } else {
            differences(&bare, &now.without_documented_leftovers())
        };
        ensure!(difference.is_empty(), "after {lives} deaths:\n{}", difference.join("\n"));
        matrix.kill()?;
    }
    watch.saw_nothing_forbidden()?;
    watch.saw_what_is_allowed()?;
    no_tenants_route_in_main(&monitor.stop()?)
}

#[test]
fn what_a_crash_within_an_operation_leaves_is_made_up_for() -> Result<()> {
    let mut matrix = Matrix::new()?;
    let all = matrix.with_c.clone();
    let built = matrix.settled(&all)?;
    let host = matrix.lab.host("h1").netns().clone();
    let peer = host.ip("-br link show type vxlan")?;
    let peers: Vec<&str> = peer.split_whitespace().filter(|word| word.starts_with("cpspeer")).collect();
    let [one, other] = peers[..] else { bail!("two peering devices are expected: {peer}") };
    let group = |number: u32| format!("link set {one} group {number}");
    // A device gets its alias and loses its automatic address once it exists; devices are marked before they are removed
    // all in one call.
    let left = [
        vec![
            format!("link set {one} down"),
            format!("link set {one} alias ''"),
            format!("link set {one} addrgenmode eui64"),
        ],
        vec![group(0x4350_5302)],
        vec![group(0x4350_5302), format!("link set {other} group {}", 0x4350_5302)],
        vec!["link set eth2 down".into(), "link set eth2 nomaster".into()],
    ];
    for lines in left {
        host.ip_batch(&lines)?;
        matrix.store(&all)?;
        matrix.live()?;
        // Nothing depends on which of our two groups it is in.
        let mut difference = differences(&built, &matrix.lab.host("h1").snapshot()?);
        difference.retain(|line| !line.contains("group: 1129337601 now 1129337602"));
        ensure!(difference.is_empty(), "{lines:?}:\n{}", difference.join("\n"));
        matrix.kill()?;
    }
    Ok(())
}

/// A lab without a controller, where h1's agent is only what the test starts.
struct Matrix {
    lab: Lab,
    without_c: Value,
    with_c: Value,
    /// The number of the next configuration.
    number: u64,
    agent: Option<Child>,
}

impl Matrix {
    /// Afterwards h1 has everything, and h2 keeps it.
    fn new() -> Result<Matrix> {
        let mut lab = Lab::new(with_c())?;
        lab.controller().apply(&without_c().build(), false)?;
        lab.wait_in_sync()?;
        let without_c = lab.ledger("h1")?;
        lab.apply()?;
        lab.wait_in_sync()?;
        let with_c = lab.ledger("h1")?;
        lab.kill_controller()?;
        lab.kill_agent("h1")?;
        let number = with_c["revision"]["number"].as_u64().context("no revision")?;
        Ok(Matrix { lab, without_c, with_c, number, agent: None })
    }

    fn nothing(&self) -> Value {
        let mut config = self.with_c.clone();
        config["vrfs"] = json!({});
        config["sides"] = json!({});
        config
    }

    /// The agent dies at each of these places between two configurations, there and back, until there are no more.
    fn under_streams(&mut self, before: &Value, after: &Value, places: impl IntoIterator<Item = usize>) -> Result<()> {
        let watch = Watch::start(&self.lab)?;
        let states = [self.settled(before)?, self.settled(after)?, self.settled(before)?];
        ensure!(differences(&states[0], &states[2]).is_empty(), "it is not the same again");
        let monitor = Monitor::start(self.lab.host("h1").netns())?;
        let (a, b) = (self.lab.server("h1", "eth1"), self.lab.server("h2", "eth1"));
        let streams = [Stream::start(a, b, b.ipv4()?, 250)?, Stream::start(b, a, a.ipv6()?, 250)?];
        let mut more = [true; 2];
        let mut deaths = 0;
        for operations in places {
            for (direction, (config, state)) in [(after, &states[1]), (before, &states[0])].into_iter().enumerate() {
                self.store(config)?;
                let died = more[direction] && self.dies_after(operations)?;
                let way = ["there", "back"][direction];
                watch.saw_nothing_forbidden().with_context(|| format!("{way}, dead after {operations}"))?;
                self.live()?;
                watch.saw_nothing_forbidden().with_context(|| format!("{way}, after death {operations}"))?;
                if more[direction] {
                    let difference = differences(state, &self.lab.host("h1").snapshot()?);
                    ensure!(difference.is_empty(), "{way}, dead after {operations}:\n{}", difference.join("\n"));
                }
                more[direction] = died;
                deaths += usize::from(died);
                self.kill()?;
            }
            if more == [false; 2] {
                break;
            }
        }
        ensure!(deaths > 20, "only {deaths} deaths");
        for stream in streams {
            let record = stream.stop()?;
            ensure!(record.lost() == 0, "the peering that stays lost {} of {}", record.lost(), record.sent);
        }
        watch.saw_nothing_forbidden()?;
        watch.saw_what_is_allowed()?;
        no_tenants_route_in_main(&monitor.stop()?)
    }

    /// The host after an agent has applied a configuration undisturbed.
    fn settled(&mut self, config: &Value) -> Result<Snapshot> {
        self.store(config)?;
        self.live()?;
        self.kill()?;
        self.lab.host("h1").snapshot()
    }

    /// Puts a configuration into the ledger, as the next one.
    fn store(&mut self, config: &Value) -> Result<()> {
        let mut config = config.clone();
        self.number += 1;
        config["revision"]["number"] = self.number.into();
        self.lab.set_ledger("h1", &config)
    }

    /// Starts an agent that dies after so many operations. False if it lived, because there were no more.
    fn dies_after(&mut self, operations: usize) -> Result<bool> {
        let mut agent = self.start("dying-agent", &["--operations", &operations.to_string()])?;
        let ended = wait::until("the agent dies or has nothing more to do", PATIENCE, || match agent.try_wait()? {
            Some(ended) => Ok(Some(Some(ended))),
            None => Ok(self.in_sync()?.then_some(None)),
        });
        if !matches!(ended, Ok(Some(_))) {
            end(agent)?;
        }
        let Some(ended) = ended? else { return Ok(false) };
        ensure!(ended.signal() == Some(9), "it ended otherwise: {ended}\n{}", self.log()?);
        Ok(true)
    }

    /// Starts the agent as it is shipped, and waits until it has brought the host to its ledger.
    fn live(&mut self) -> Result<()> {
        self.agent = Some(self.start("cps-peering-agent", &["run"])?);
        let settled = wait::until("the agent is in sync", PATIENCE, || Ok(self.in_sync()?.then_some(())));
        settled.with_context(|| self.log().unwrap_or_default())
    }

    fn kill(&mut self) -> Result<()> {
        end(self.agent.take().context("no agent runs")?)
    }

    /// `ip netns exec` would be one more program to start, and there are hundreds of these.
    fn start(&self, program: &str, arguments: &[&str]) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.lab.dir().join("hosts/h1/agent.log"))?;
        let mut command = Command::new(binary(program)?);
        command.args(arguments).arg("--settings").arg(self.lab.dir().join("hosts/h1/agent.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.lab.host("h1").netns().within(|| Ok(command.spawn()?))
    }

    /// Whether the agent on h1 reports the newest configuration as applied.
    fn in_sync(&self) -> Result<bool> {
        let agent = self.lab.host("h1").endpoint();
        let report: HostReport = agent.call("GET", agent_api::STATUS_PATH, None)?;
        let newest = report.desired.is_some_and(|desired| desired.number == self.number);
        if newest && report.applied == report.desired && !report.problems.is_empty() {
            bail!("{report:?}");
        }
        Ok(newest && report.in_sync())
    }

    fn log(&self) -> Result<String> {
        let log = fs::read_to_string(self.lab.dir().join("hosts/h1/agent.log"))?;
        let lines: Vec<&str> = log.lines().collect();
        Ok(lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            // It may have ended.
            let _ = end(agent);
        }
    }
}

fn end(mut agent: Child) -> Result<()> {
    agent.kill()?;
    agent.wait()?;
    Ok(())
}

/// Tenants that send to where they must not get, and listeners there.
struct Watch {
    canary: Canary,
    listeners: Vec<(&'static str, Listener, &'static [&'static str])>,
    _probers: Vec<Prober>,
}

impl Watch {
    fn start(lab: &Lab) -> Result<Watch> {
        let host = lab.host("h1").netns();
        let canary = Canary::attach(&format!("{}-canary", lab.name()), host, &["10.0.0.0/8", "fd00::/8"])?;
        let addresses = |texts: &[&str]| -> Result<Vec<IpAddr>> {
            Ok(texts.iter().map(|it| it.parse()).collect::<Result<_, _>>()?)
        };
        // A packet in table main does get to the canary.
        let control = Prober::start("control", host, &addresses(&["10.4.0.2", "fd00:4::2"])?)?;
        wait::until("the canary hears what is in table main", PATIENCE, || {
            Ok(canary.heard()?.get("control").is_some_and(|count| *count > 4).then_some(()))
        })?;
        drop(control);
        let mut probers = Vec::new();
        let mut listeners = Vec::new();
        for (name, host, port, heard) in [
            ("a", "h1", "eth1", &[] as &[&str]),
            ("b", "h2", "eth1", &[]),
            ("c", "h1", "eth2", &["d"]),
            ("d", "h2", "eth2", &["c"]),
            ("e", "h1", "eth3", &[]),
        ] {
            let netns = lab.server(host, port).netns();
            listeners.push((name, Listener::start(netns)?, heard));
            let targets: &[&str] = match name {
                "c" => &[
                    "10.4.0.2",
                    "fd00:4::2",
                    "10.1.0.2",
                    "fd00:1::2",
                    "10.2.0.2",
                    "fd00:2::2",
                    "192.0.2.1",
                    "198.18.0.1",
                ],
                "d" => &["10.3.0.2", "fd00:3::2"],
                "a" | "e" => &["10.3.0.2", "fd00:3::2", "192.0.2.1"],
                _ => continue,
            };
            probers.push(Prober::start(name, netns, &addresses(targets)?)?);
        }
        Ok(Watch { canary, listeners, _probers: probers })
    }

    /// Nobody received anything from others than its peer.
    fn saw_nothing_forbidden(&self) -> Result<()> {
        let mut main = self.canary.heard()?;
        main.remove("control");
        ensure!(main.is_empty(), "packets of tenants in table main of the host, or to the host itself: {main:?}");
        for (name, listener, may_hear) in &self.listeners {
            let heard = listener.heard()?;
            ensure!(heard.keys().all(|it| may_hear.contains(&it.as_str())), "{name} heard {heard:?}");
        }
        Ok(())
    }

    /// The peers received each other's packets, so they did send.
    fn saw_what_is_allowed(&self) -> Result<()> {
        for (name, listener, may_hear) in &self.listeners {
            let heard = listener.heard()?;
            ensure!(may_hear.iter().all(|it| heard.contains_key(*it)), "{name} heard {heard:?}");
        }
        Ok(())
    }
}

fn no_tenants_route_in_main(events: &[String]) -> Result<()> {
    let tenants = |line: &&String| ["10.1.", "10.2.", "10.3.", "10.4.", "fd00:"].iter().any(|it| line.contains(it));
    let routes: Vec<&String> = events.iter().filter(|line| line.starts_with("[ROUTE]")).filter(tenants).collect();
    ensure!(routes.len() > 20, "the monitor saw too little: {routes:#?}");
    let in_main: Vec<_> = routes.into_iter().filter(|line| !line.contains(" table ")).collect();
    ensure!(in_main.is_empty(), "{in_main:#?}");
    Ok(())
}
