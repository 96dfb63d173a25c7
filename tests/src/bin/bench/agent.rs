//! An agent as a process of its own in a namespace, and its HTTP interface.

use anyhow::{Context, Result, bail};
use cps_peering_config::{
    HostConfig, HostPatch, HostReport,
    agent_api::{CONFIG_PATH, STATUS_PATH},
};
use cps_peering_tests::netns::Netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env, fs,
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

const LISTEN: &str = "127.0.0.1:7071";
/// The unit of CPU time in `/proc` (`USER_HZ`, `proc(5)`).
const USER_TICK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_mins(3);

/// A running agent. It ends when this is dropped; what it put into the kernel stays.
pub(crate) struct Agent {
    child: Child,
    netns: Netns,
    address: SocketAddr,
    connection: Option<TcpStream>,
    log: PathBuf,
}

impl Agent {
    /// Starts one with its ledger in this folder, and waits until it responds.
    pub(crate) fn start(netns: &Netns, folder: &Path, resync_s: u64) -> Result<Agent> {
        let settings = folder.join("agent.toml");
        let ledger = folder.join("ledger");
        let text =
            format!("tls = 'off'\nlisten = '{LISTEN}'\nledger = '{}'\nresync_s = {resync_s}\n", ledger.display());
        fs::write(&settings, text)?;
        let log = folder.join("agent.log");
        let own = env::current_exe()?;
        let mut command = netns.command(&own);
        let child = command
            .arg("agent-under-test")
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()?;
        let mut agent = Agent { child, netns: netns.clone(), address: LISTEN.parse()?, connection: None, log };
        agent.connect()?;
        Ok(agent)
    }

    fn connect(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.netns.within(|| Ok(TcpStream::connect(self.address)?)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    self.connection = Some(stream);
                    return Ok(());
                }
                Err(_) if Instant::now() < deadline && self.child.try_wait()?.is_none() => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    let log = fs::read_to_string(&self.log).unwrap_or_default();
                    return Err(error.context(log));
                }
            }
        }
    }

    /// A request as bytes, so that building it is not measured.
    fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: agent\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    pub(crate) fn put_request(config: &HostConfig) -> Result<Vec<u8>> {
        Ok(Self::request("PUT", CONFIG_PATH, &serde_json::to_vec(config)?))
    }

    pub(crate) fn patch_request(patch: &HostPatch) -> Result<Vec<u8>> {
        Ok(Self::request("PATCH", CONFIG_PATH, &serde_json::to_vec(patch)?))
    }

    /// Sends a request without waiting for the response.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        Ok(self.connection.as_mut().context("not connected")?.write_all(request)?)
    }

    /// Waits for the response to the request that was sent.
    pub(crate) fn answer(&mut self) -> Result<HostReport> {
        let stream = self.connection.as_mut().context("not connected")?;
        let mut bytes = Vec::new();
        let mut part = [0; 16 * 1024];
        let (status, start, length) = loop {
            let read = stream.read(&mut part)?;
            anyhow::ensure!(read > 0, "the agent closed the connection");
            bytes.extend_from_slice(&part[..read]);
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let status = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
            break (status, end + 4, length.trim().parse::<usize>()?);
        };
        while bytes.len() < start + length {
            let read = stream.read(&mut part)?;
            anyhow::ensure!(read > 0, "the agent closed the connection");
            bytes.extend_from_slice(&part[..read]);
        }
        let body = &bytes[start..start + length];
        if status != "200" {
            bail!("the agent answered {status}: {}", String::from_utf8_lossy(body));
        }
        Ok(serde_json::from_slice(body)?)
    }

    /// Sends a configuration and waits until the kernel has been seen to have it.
    pub(crate) fn put(&mut self, config: &HostConfig) -> Result<HostReport> {
        self.send(&Self::put_request(config)?)?;
        let report = self.answer()?;
        self.settle(report)
    }

    /// The same for a patch.
    pub(crate) fn patch(&mut self, patch: &HostPatch) -> Result<HostReport> {
        self.send(&Self::patch_request(patch)?)?;
        let report = self.answer()?;
        self.settle(report)
    }

    pub(crate) fn status(&mut self) -> Result<HostReport> {
        self.send(&Self::request("GET", STATUS_PATH, b""))?;
        self.answer()
    }

    /// The report once everything is as it should be; an error if that takes too long.
    pub(crate) fn settle(&mut self, mut report: HostReport) -> Result<HostReport> {
        let deadline = Instant::now() + PATIENCE;
        while !report.in_sync() {
            if Instant::now() > deadline {
                bail!("the agent does not settle: {:?}", report.problems);
            }
            thread::sleep(Duration::from_millis(1));
            report = self.status()?;
        }
        Ok(report)
    }

    /// Stops the process, so that it does not disturb what is measured.
    pub(crate) fn pause(&self) -> Result<()> {
        Ok(kill(self.pid()?, Signal::SIGSTOP)?)
    }

    /// Continues it.
    pub(crate) fn proceed(&self) -> Result<()> {
        Ok(kill(self.pid()?, Signal::SIGCONT)?)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    /// Its peak memory, in MB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        peak_memory(self.child.id()).context("the agent has ended")
    }

    /// Its CPU time so far, in user and kernel mode (`utime` and `stime` in `/proc/PID/stat`).
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("the agent has ended")?;
        // The second field, the name, may contain anything.
        let (_, rest) = stat.rsplit_once(')').context("no name")?;
        let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        let ticks = ticks.sum::<Result<u32, _>>()?;
        Ok(USER_TICK * ticks)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It has ended already, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peak memory of a process (`VmHWM`), in MB of 10⁶ bytes.
pub(crate) fn peak_memory(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
