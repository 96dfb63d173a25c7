//! Hosts, underlay, controller and servers of an inventory, on this kernel.

mod control;
mod daemon;
mod pki;
mod release;
mod server;
pub mod shell;
mod underlay;

pub use control::{Controller, Store, peering_id};
pub use daemon::{Daemon, binary, use_programs};
pub use pki::Pki;
pub use release::Release;
pub use server::{Heard, NIC, Ping, Server, ToAddress, first_addresses, prefixes};
pub use underlay::{UPLINK, Underlay};

use crate::{
    command::{self, Ended},
    http::Endpoint,
    netns::Netns,
    snapshot::Snapshot,
    wait,
};
use anyhow::{Context, Result, anyhow};
use cps_peering_agent::ledger::{Ledger, Record};
use cps_peering_config::{
    HostConfig, HostReport, agent_api,
    connections::ConnectionSettings,
    id::{HostId, PeeringId},
    inventory::{self, Inventory},
    log_format::LogFormat,
    net::InterfaceName,
    settings::{AgentSettings, TracingSettings},
};
use ipnet::IpNet;
use rustls::ClientConfig;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// How long the lab waits for what should take a moment.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A host: a namespace with an uplink, ports and an agent.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    agent: Daemon,
    listen: SocketAddr,
    underlay: IpAddr,
    /// For calling its agent as the controller does.
    tls: Arc<ClientConfig>,
}

impl Host {
    /// The namespace it lives in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The objects in its kernel, read by `ip`, `bridge` and `tc`.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.netns)
    }

    /// Its agent's report.
    pub fn report(&self) -> Result<HostReport> {
        self.endpoint().call("GET", agent_api::STATUS_PATH, None)
    }

    /// Its agent's HTTP interface as the controller uses it, beside the agent.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { from: self.netns.clone(), to: self.listen, token: None, tls: Arc::clone(&self.tls) }
    }

    /// Where its agent listens.
    pub fn agent_address(&self) -> SocketAddr {
        self.listen
    }

    /// Its agent's process id while it runs.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.pid()
    }
}

/// A running lab. Dropping it ends its processes and deletes its namespaces.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: processes before the namespaces they are in.
    controller: Controller,
    hosts: BTreeMap<HostId, Host>,
    servers: BTreeMap<(HostId, InterfaceName), Server>,
    underlay: Underlay,
    inventory: Inventory,
    pki: Pki,
    dir: TempDir,
}

/// How a lab is to be built.
#[derive(Debug)]
pub struct Builder {
    inventory: Inventory,
    name: String,
    underlay_mtu: u32,
    addresses: BTreeMap<(String, String), Vec<IpNet>>,
    delete_wait: Duration,
    store: Store,
    resync: Duration,
    event_buffer: usize,
    probe_interval: Duration,
}

impl Builder {
    /// The prefix of its namespaces' names; unique by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Builder {
        name.clone_into(&mut self.name);
        self
    }

    /// The MTU between hosts, 1500 by default.
    #[must_use]
    pub fn underlay_mtu(mut self, mtu: u32) -> Builder {
        self.underlay_mtu = mtu;
        self
    }

    /// Gives a server other addresses than the first of each prefix.
    #[must_use]
    pub fn server_addresses(mut self, host: &str, interface: &str, addresses: &[IpNet]) -> Builder {
        self.addresses.insert((host.to_owned(), interface.to_owned()), addresses.to_vec());
        self
    }

    /// How long a delete waits for hosts before the response is `draining`.
    #[must_use]
    pub fn delete_wait(mut self, wait: Duration) -> Builder {
        self.delete_wait = wait;
        self
    }

    /// Where the state is kept.
    #[must_use]
    pub fn store(mut self, store: Store) -> Builder {
        self.store = store;
        self
    }

    /// How often agents compare their kernels without a reason, a minute by default.
    #[must_use]
    pub fn resync(mut self, every: Duration) -> Builder {
        self.resync = every;
        self
    }

    /// How often agents probe paths to other hosts; never by default.
    #[must_use]
    pub fn probe_interval(mut self, every: Duration) -> Builder {
        self.probe_interval = every;
        self
    }

    /// The buffer for events that the agents have not read yet, in bytes.
    #[must_use]
    pub fn event_buffer(mut self, bytes: usize) -> Builder {
        self.event_buffer = bytes;
        self
    }

    /// Builds it and starts all daemons. Nothing is applied yet.
    pub fn start(self) -> Result<Lab> {
        let mut lab = self.build()?;
        lab.controller.run()?;
        for host in lab.hosts.values_mut() {
            host.agent.start()?;
        }
        lab.wait_for_daemons()?;
        Ok(lab)
    }

    /// Builds it and starts all daemons as another release. Nothing is applied yet.
    pub fn start_as(self, release: &Release) -> Result<Lab> {
        let mut lab = self.build()?;
        // What shares a store exists before the first of them.
        lab.controller.use_release(release)?;
        lab.controller.run()?;
        let hosts: Vec<String> = lab.hosts.keys().map(ToString::to_string).collect();
        hosts.iter().try_for_each(|host| lab.change_agent(host, Some(release)))?;
        lab.wait_for_daemons()?;
        Ok(lab)
    }

    /// Builds it without starting a daemon.
    pub fn build(self) -> Result<Lab> {
        let dir = tempfile::Builder::new().prefix(&self.name).tempdir()?;
        let mut underlay = Underlay::create(&format!("{}-net", self.name), self.underlay_mtu)?;
        let family = self.inventory.hosts.first().map(|host| host.underlay);
        let ids: Vec<&HostId> = self.inventory.hosts.iter().map(|host| &host.id).collect();
        let pki = Pki::create(dir.path(), &ids, control::address(family))?;
        let mut hosts = BTreeMap::new();
        for host in &self.inventory.hosts {
            hosts.insert(host.id.clone(), self.host(host, &mut underlay, dir.path(), &pki)?);
        }
        for host in hosts.values() {
            host.netns.ip_batch(&underlay.neighbours_of(&host.netns))?;
        }
        let mut servers = BTreeMap::new();
        for port in &self.inventory.ports {
            let Some(host) = hosts.get(&port.host) else { continue };
            let key = (port.host.to_string(), port.interface.to_string());
            let addresses = self.addresses.get(&key).cloned().unwrap_or_else(|| first_addresses(port));
            let name = format!("{}-{}-{}", self.name, port.host, port.interface);
            // The host's own MTU is the servers' too; they learn the encapsulation overhead from the gateway.
            let server = Server::attach(&name, &host.netns, port, addresses, 1500)?;
            servers.insert((port.host.clone(), port.interface), server);
        }
        let address = control::address(family);
        let how = (self.store, self.delete_wait);
        let controller = Controller::create(&self.name, address, &mut underlay, dir.path(), &pki, how)?;
        Ok(Lab { controller, hosts, servers, underlay, inventory: self.inventory, pki, dir })
    }

    fn host(&self, host: &inventory::Host, underlay: &mut Underlay, dir: &Path, pki: &Pki) -> Result<Host> {
        let netns = Netns::create(&format!("{}-{}", self.name, host.id))?;
        // Linux counts an "unreachable" twice against the receiver's rate limit per second (`ip_error`, then
        // `icmp_send`): a client that pings once per second receives few of them after the first ones.
        netns.within(|| Ok(fs::write("/proc/sys/net/ipv4/icmp_ratemask", "0")?))?;
        let listen: SocketAddr = host
            .agent
            .strip_prefix("https://")
            .and_then(|rest| rest.trim_end_matches('/').parse().ok())
            .with_context(|| format!("agent of {}: {:?} is not https://ADDRESS:PORT", host.id, host.agent))?;
        let mut addresses = vec![host.underlay];
        if listen.ip() != host.underlay {
            addresses.push(listen.ip());
        }
        underlay.attach(&netns, host.region.as_str(), &addresses)?;
        let dir = dir.join("hosts").join(host.id.as_str());
        fs::create_dir_all(&dir)?;
        let settings = AgentSettings {
            listen,
            ledger: dir.join("ledger"),
            vxlan_port: 4789,
            underlay_mtu: None,
            resync_s: self.resync.as_secs(),
            event_buffer: self.event_buffer,
            probe_interval_s: self.probe_interval.as_secs(),
            log_format: LogFormat::Text,
            underlay_filter_entries: 1 << 16,
            metrics_listen: None,
            connections: ConnectionSettings::default(),
            tracing: TracingSettings::default(),
            tls: Some(pki.of_host(&host.id)),
        };
        let file = dir.join("agent.toml");
        fs::write(&file, toml::to_string(&settings)?)?;
        let arguments = ["run", "--settings", &file.to_string_lossy()];
        let agent = Daemon::new(&netns, "cps-peering-agent", &arguments, dir.join("agent.log"))?;
        Ok(Host { netns, agent, listen, underlay: host.underlay, tls: pki.as_controller(&host.id)? })
    }
}

impl Lab {
    /// A lab of this inventory, with its daemons running. Nothing is applied yet.
    pub fn new(inventory: impl Into<Inventory>) -> Result<Lab> {
        Lab::builder(inventory).start()
    }

    /// A lab of this inventory with all of it applied and in the kernels.
    pub fn in_sync(inventory: impl Into<Inventory>) -> Result<Lab> {
        let lab = Lab::new(inventory)?;
        lab.apply()?;
        lab.wait_in_sync()?;
        Ok(lab)
    }

    /// Builds a lab with other options.
    pub fn builder(inventory: impl Into<Inventory>) -> Builder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Builder {
            inventory: inventory.into(),
            name: format!("lab{}-{number}", std::process::id()),
            underlay_mtu: 1500,
            addresses: BTreeMap::new(),
            delete_wait: Duration::from_secs(2),
            store: Store::usual(),
            resync: Duration::from_mins(1),
            event_buffer: 1 << 20,
            probe_interval: Duration::ZERO,
        }
    }

    /// The prefix of its namespaces' names.
    pub fn name(&self) -> &str {
        self.controller.lab_name()
    }

    /// The inventory it was built from.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The controller and its CLI.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// The network between the hosts.
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The certificates.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// A folder of this lab's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A host.
    pub fn host(&self, id: &str) -> &Host {
        self.hosts.get(id).unwrap_or_else(|| panic!("the inventory has no host {id}"))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, &Host)> {
        self.hosts.iter()
    }

    /// The server on a port.
    pub fn server(&self, host: &str, interface: &str) -> &Server {
        let found = self.servers.values().find(|s| s.host.as_str() == host && s.interface.as_str() == interface);
        found.unwrap_or_else(|| panic!("the inventory has no port {interface} on {host}"))
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// Applies the inventory that the lab was built from.
    pub fn apply(&self) -> Result<String> {
        self.controller.apply(&self.inventory, false)
    }

    /// Applies an empty inventory: everything is removed.
    pub fn prune(&self) -> Result<String> {
        self.controller.apply(&Inventory::default(), true)
    }

    /// Peers two VPCs.
    pub fn peer(&self, vpc: &str, peer_vpc: &str) -> Result<PeeringId> {
        self.controller.peer(vpc, peer_vpc)
    }

    /// Deletes a peering; returns the CLI's output.
    pub fn unpeer(&self, id: &PeeringId) -> Result<String> {
        self.controller.unpeer(id)
    }

    /// Waits until every host has in its kernel what the controller requires.
    pub fn wait_in_sync(&self) -> Result<()> {
        wait::until("all hosts in sync", PATIENCE, || {
            self.controller.all_in_sync()?;
            Ok(Some(()))
        })
    }

    fn ledger_of(&self, host: &str) -> Ledger {
        Ledger::new(self.dir().join("hosts").join(host).join("ledger"))
    }

    /// The configuration in a host's ledger.
    pub fn ledger(&self, host: &str) -> Result<Value> {
        let config = self.ledger_of(host).load()?.with_context(|| format!("{host} has no ledger"))?;
        Ok(serde_json::to_value(config.into_inner())?)
    }

    /// Puts a configuration into a host's ledger, whose agent must not be running.
    pub fn set_ledger(&self, host: &str, config: &Value) -> Result<()> {
        let legal = serde_json::from_value::<HostConfig>(config.clone())?.try_into()?;
        Ok(self.ledger_of(host).store(&Record::Config(config.to_string()), &legal)?)
    }

    /// Waits until one host has in its kernel what its own ledger requires.
    pub fn wait_for_agent(&self, host: &str) -> Result<HostReport> {
        wait::until(&format!("agent of {host} in sync"), PATIENCE, || {
            let report = self.host(host).report()?;
            if report.in_sync() { Ok(Some(report)) } else { Err(anyhow!("{report:?}")) }
        })
    }

    /// Kills a host's agent with SIGKILL.
    pub fn kill_agent(&mut self, host: &str) -> Result<()> {
        self.host_mut(host).agent.kill()
    }

    /// Starts a host's agent. It may not be ready yet.
    pub fn start_agent(&mut self, host: &str) -> Result<()> {
        self.host_mut(host).agent.start()
    }

    /// Ends one of the controllers and restarts it as another release, see [`Controller::count`]. Waits until one
    /// responds.
    pub fn change_controller(&mut self, number: usize, release: Option<&Release>) -> Result<()> {
        self.controller.change_release(number, release, PATIENCE)?;
        wait::until("a controller answers", PATIENCE, || self.controller.answers().map(Some))
    }

    /// Ends a host's agent and restarts it as another release. Waits until the configuration in its ledger is in the
    /// kernel.
    pub fn change_agent(&mut self, host: &str, release: Option<&Release>) -> Result<()> {
        let settings = self.dir.path().join("hosts").join(host).join("agent.toml");
        let agent = &mut self.host_mut(host).agent;
        if agent.pid().is_some() {
            agent.terminate(PATIENCE)?;
        }
        Release::use_for(release, agent, &settings)?;
        agent.start()?;
        wait::until(&format!("agent of {host} answers"), PATIENCE, || self.host(host).report().map(Some))?;
        Ok(())
    }

    fn host_mut(&mut self, id: &str) -> &mut Host {
        self.hosts.get_mut(id).unwrap_or_else(|| panic!("the inventory has no host {id}"))
    }

    /// Kills the controller, or all of them, with SIGKILL.
    pub fn kill_controller(&mut self) -> Result<()> {
        self.controller.kill()
    }

    /// Kills the leader, and waits until the other controller responds.
    pub fn kill_leader(&mut self) -> Result<()> {
        self.controller.kill_leader()?;
        wait::until("the other controller answers", PATIENCE, || self.controller.answers().map(Some))
    }

    /// Ends a host's agent with SIGTERM; returns how it ended, or an error if it took longer than `within`.
    pub fn terminate_agent(&mut self, host: &str, within: Duration) -> Result<ExitStatus> {
        self.host_mut(host).agent.terminate(within)
    }

    /// Ends the controller with SIGTERM; returns how it ended, or an error if it took longer than `within`.
    pub fn terminate_controller(&mut self, within: Duration) -> Result<ExitStatus> {
        self.controller.terminate(within)
    }

    /// Starts the controller and waits until it answers.
    pub fn start_controller(&mut self) -> Result<()> {
        self.controller.run()?;
        wait::until("controller answers", PATIENCE, || self.controller.answers().map(Some))
    }

    /// Blocks all traffic between the controller and a host. Between the hosts everything still passes.
    pub fn cut(&self, host: &str) -> Result<()> {
        let prefix = underlay::host_prefix(&self.host(host).listen.ip());
        self.controller.netns().ip(&format!("route add blackhole {prefix}")).map(drop)
    }

    /// Undoes [`Lab::cut`].
    pub fn mend(&self, host: &str) -> Result<()> {
        let prefix = underlay::host_prefix(&self.host(host).listen.ip());
        self.controller.netns().ip(&format!("route delete blackhole {prefix}")).map(drop)
    }

    /// Runs a command line in any of the lab's namespaces, named without the lab's own name: `h1`, `h1-eth1`, `ctl`, `net`.
    pub fn exec(&self, namespace: &str, line: &str) -> Result<Ended> {
        let name = format!("{}-{namespace}", self.name());
        let mut words = vec!["netns", "exec", &name];
        words.extend(line.split_whitespace());
        command::run(Command::new("ip").args(words))
    }

    /// Takes it down; the same as dropping it.
    pub fn stop(self) {
        drop(self);
    }

    /// Waits until each running daemon responds.
    pub fn wait_for_daemons(&mut self) -> Result<()> {
        wait::until("controller answers", PATIENCE, || self.controller.answers().map(Some))?;
        for (id, host) in &mut self.hosts {
            wait::until(&format!("agent of {id} answers"), PATIENCE, || {
                host.agent.check()?;
                host.report().map(Some)
            })?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // nextest shows the output of a test only if it failed.
        if thread::panicking() || env::var_os("NEXTEST").is_some() {
            self.print_logs();
        }
    }
}

impl Lab {
    /// Prints the ends of the daemons' logs to standard error.
    #[expect(clippy::print_stderr, reason = "it is what a person reads when a test fails")]
    pub fn print_logs(&self) {
        eprintln!("--- controller\n{}", self.controller.log_tail());
        for (id, host) in &self.hosts {
            eprintln!("--- agent of {id}, underlay {}\n{}", host.underlay, host.agent.log_tail());
        }
    }
}
