//! The programs that are measured, as processes.

use super::{
    agents::{AWAY_PATH, SUMS_PATH, Sums},
    client::Client,
    cloud::{AGENT_PORT, agent_address},
};
use anyhow::{Context, Result, bail, ensure};
use cps_peering_tests::lab::binary;
use nix::unistd::{SysconfVar, sysconf};
use std::{
    fs::{self, File, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const TOKEN: &str = "an-operator-token-for-the-bench";
const PATIENCE: Duration = Duration::from_mins(5);

/// A process that ends when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or it ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until_it_answers(running: &mut Running, address: SocketAddr, log: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Client::new(address, "").is_err() {
        if Instant::now() > deadline || running.0.try_wait()?.is_some() {
            bail!("{address} does not answer: {}", fs::read_to_string(log).unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// All agents of a cloud.
pub(crate) struct Agents {
    _running: Running,
    address: SocketAddr,
}

impl Agents {
    pub(crate) fn start(hosts: usize, folder: &Path) -> Result<Self> {
        let log = folder.join("agents.log");
        let mut command = Command::new(binary("bench")?);
        command.args(["agents", &hosts.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = Running(command.stderr(File::create(&log)?).spawn()?);
        let address = SocketAddr::from((agent_address(0), AGENT_PORT));
        until_it_answers(&mut running, address, &log)?;
        Ok(Self { _running: running, address })
    }

    pub(crate) fn sums(&self) -> Result<Sums> {
        let (_, text) = Client::new(self.address, "")?.ask("GET", SUMS_PATH, None)?;
        serde_json::from_str(&text).context("how agents are doing")
    }

    /// Silences the last of the hosts, this many, from now on.
    pub(crate) fn send_away(&self, count: usize) -> Result<()> {
        Client::new(self.address, "")?.ask("PUT", AWAY_PATH, Some(&count.into()))?;
        Ok(())
    }
}

/// A member of etcd.
pub(crate) struct Etcd {
    _running: Running,
    address: SocketAddr,
}

impl Etcd {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let (address, peer) = (free()?, free()?);
        let (client, peer) = (format!("http://{address}"), format!("http://{peer}"));
        let log = folder.join("etcd.log");
        let mut command = Command::new("etcd");
        command
            .args(["--data-dir", &folder.join("etcd").to_string_lossy(), "--quota-backend-bytes", "8589934592"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let mut running = Running(command.spawn().context("etcd")?);
        until_it_answers(&mut running, address, &log)?;
        Ok(Self { _running: running, address })
    }
}

/// A settings file, and the address in it.
pub(crate) struct Settings {
    path: PathBuf,
    address: SocketAddr,
    /// Where metrics are read.
    figures: SocketAddr,
}

impl Settings {
    /// For a controller with its store in a file.
    pub(crate) fn embedded(folder: &Path) -> Result<Self> {
        Self::write(folder, "controller", &format!("store = '{}'\n", store(folder).display()), "")
    }

    /// For one that shares its store with others.
    pub(crate) fn shared(folder: &Path, name: &str, etcd: &Etcd) -> Result<Self> {
        let key = private(&folder.join("store.key"), &"7".repeat(64))?;
        let table = format!(
            "[etcd]\nendpoints = ['http://{}']\nbackups = '{}'\nadvertise = 'http://ADDRESS'\n",
            etcd.address,
            folder.display()
        );
        Self::write(folder, name, &format!("store_key_file = '{}'\n", key.display()), &table)
    }

    fn write(folder: &Path, name: &str, store: &str, table: &str) -> Result<Self> {
        let (address, figures, token) = (free()?, free()?, private(&folder.join("token"), TOKEN)?);
        let table = table.replace("ADDRESS", &address.to_string());
        let path = folder.join(format!("{name}.toml"));
        let token = token.display();
        fs::write(
            &path,
            format!(
                "tls = 'off'\nlisten = '{address}'\nmetrics_listen = '{figures}'\noperator_token_file = '{token}'\n{store}{table}\
                 [pushes]\ncanary_hosts = 0\n"
            ),
        )?;
        Ok(Self { path, address, figures })
    }

    /// Moves the store of other settings into that of these.
    pub(crate) fn take(&self, from: &Settings) -> Result<()> {
        let mut command = Command::new(binary("cps-peering-controller")?);
        command.arg("--settings").arg(&self.path).arg("move-store").arg("--from").arg(&from.path);
        let ended = command.output()?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(())
    }
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A file that is readable by its owner only.
fn private(path: &Path, text: &str) -> Result<PathBuf> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(path.to_owned())
}

/// The controller.
pub(crate) struct Controller {
    running: Running,
    address: SocketAddr,
    figures: SocketAddr,
    pub(crate) started: Instant,
}

impl Controller {
    pub(crate) fn start(settings: &Settings) -> Result<Self> {
        let Settings { path, address, figures } = settings;
        let log = path.with_extension("log");
        let mut command = Command::new(binary("cps-peering-controller")?);
        command.arg("--settings").arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let mut running = Running(command.stderr(File::options().create(true).append(true).open(&log)?).spawn()?);
        until_it_answers(&mut running, *address, &log)?;
        Ok(Self { running, address: *address, figures: *figures, started })
    }

    /// Whether it leads.
    pub(crate) fn leads(&self) -> Result<bool> {
        Ok(self.client()?.ask("GET", "/healthz", None)?.1 == "ok leader\n")
    }

    /// The number of the last commit in its replica of the store; 0 while there is none, and on one that leads.
    pub(crate) fn copied(&self) -> Result<u64> {
        let (_, text) = Client::new(self.figures, "")?.ask("GET", "/metrics", None)?;
        let line = text.lines().find_map(|line| line.strip_prefix("cps_controller_copied_commit "));
        Ok(line.map(str::parse).transpose()?.unwrap_or_default())
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(self.address, TOKEN)
    }

    /// How many hosts there are, and how many are in sync.
    fn hosts(client: &mut Client) -> Result<(usize, usize)> {
        let hosts = client.call("GET", "/admin/v1/hosts", None)?;
        let hosts = hosts["hosts"].as_array().context("no hosts")?;
        Ok((hosts.len(), hosts.iter().filter(|host| host["inSync"] == true).count()))
    }

    /// Waits until all hosts are in sync, except for this many. Returns how long that took since the start.
    pub(crate) fn in_sync(&self, away: usize) -> Result<Duration> {
        let mut client = self.client()?;
        let mut last = 0;
        loop {
            let (hosts, in_sync) = Self::hosts(&mut client)?;
            let elapsed = self.started.elapsed();
            if in_sync + away >= hosts {
                return Ok(elapsed);
            }
            if elapsed > PATIENCE {
                bail!("{in_sync} of {hosts} hosts are in sync after {} s", elapsed.as_secs());
            }
            // Rarely while there is much to do: the response is as long as the list of hosts.
            let soon = hosts - in_sync < (in_sync - last.min(in_sync)).max(20) * 2;
            last = in_sync;
            thread::sleep(Duration::from_millis(if soon { 100 } else { 1000 }));
        }
    }

    /// Its memory now, and its peak memory, in MB of 10⁶ bytes.
    pub(crate) fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.0.id()))?;
        let of = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
            Ok(kib * 1024.0 / 1e6)
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }

    /// Its CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.running.0.id()))?;
        // After the name, which may contain spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].into_iter().map(|at: usize| fields[at].parse::<u64>().unwrap_or_default()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
    }
}

/// The path of the store.
pub(crate) fn store(folder: &Path) -> PathBuf {
    folder.join("store.redb")
}
