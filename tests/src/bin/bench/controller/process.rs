//! The programs that are measured, as processes of their own.

use super::{
    agents::{AWAY_PATH, SUMS_PATH, Sums},
    client::Client,
    cloud::{AGENT_PORT, agent_address},
};
use anyhow::{Context, Result, bail};
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

/// A process that ends with this value.
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

    /// The last so many keep silent from now on.
    pub(crate) fn send_away(&self, count: usize) -> Result<()> {
        Client::new(self.address, "")?.ask("PUT", AWAY_PATH, Some(&count.into()))?;
        Ok(())
    }
}

/// The controller.
pub(crate) struct Controller {
    running: Running,
    address: SocketAddr,
    pub(crate) started: Instant,
}

impl Controller {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let free = || -> Result<SocketAddr> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?) };
        let (address, token) = (free()?, folder.join("token"));
        fs::write(&token, TOKEN)?;
        fs::set_permissions(&token, Permissions::from_mode(0o600))?;
        let settings: PathBuf = folder.join("controller.toml");
        let store = store(folder);
        let text = format!(
            "tls = 'off'\nlisten = '{address}'\nstore = '{}'\noperator_token_file = '{}'\n",
            store.display(),
            token.display()
        );
        fs::write(&settings, text)?;
        let log = folder.join("controller.log");
        let mut command = Command::new(binary("cps-peering-controller")?);
        command.arg("--settings").arg(settings).stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let mut running = Running(command.stderr(File::options().create(true).append(true).open(&log)?).spawn()?);
        until_it_answers(&mut running, address, &log)?;
        Ok(Self { running, address, started })
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

    /// Waits until all hosts are in sync, but for some that are away. How long that took since the start.
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
            // Seldom as long as there is much to do: the answer is as long as the list of hosts.
            let soon = hosts - in_sync < (in_sync - last.min(in_sync)).max(20) * 2;
            last = in_sync;
            thread::sleep(Duration::from_millis(if soon { 100 } else { 1000 }));
        }
    }

    /// What it has of memory now, and the most that it ever had, in MB of 10⁶ bytes.
    pub(crate) fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.0.id()))?;
        let of = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
            Ok(kib * 1024.0 / 1e6)
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }

    /// How much processor time it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.running.0.id()))?;
        // Behind the name, which may hold spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].into_iter().map(|at: usize| fields[at].parse::<u64>().unwrap_or_default()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
    }
}

/// Where the store is.
pub(crate) fn store(folder: &Path) -> PathBuf {
    folder.join("store.redb")
}
