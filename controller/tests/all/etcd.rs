//! Real members of etcd, as processes of the test.

#![allow(dead_code, reason = "not every test needs everything")]
#![allow(unreachable_pub, reason = "also a part of the tests of the store")]

use super::loopback::unused;
use cps_peering_config::settings::EtcdSettings;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster. It ends with the value.
pub struct Members {
    folder: TempDir,
    all: Vec<Member>,
    more: Vec<String>,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Members {
    /// Starts this many members, and waits until they serve.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// The same with more arguments; with `--cert-file` among them, clients speak TLS.
    pub fn start_with(count: usize, more: &[&str]) -> Self {
        let all = (0..count).map(|_| Member { client: unused(), peer: unused(), process: None }).collect();
        let more = more.iter().map(|&it| it.to_owned()).collect();
        let mut cluster = Self { folder: tempfile::tempdir().unwrap(), all, more };
        (0..count).for_each(|number| cluster.begin(number));
        (0..count).for_each(|number| cluster.wait_for(number));
        cluster
    }

    fn begin(&mut self, number: usize) {
        let all: Vec<String> =
            self.all.iter().enumerate().map(|(number, it)| format!("m{number}=http://{}", it.peer)).collect();
        let url = self.url(number);
        let member = &mut self.all[number];
        let log = std::fs::File::create(self.folder.path().join(format!("log{number}"))).unwrap();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{number}")])
            .args(["--data-dir", self.folder.path().join(format!("data{number}")).to_str().unwrap()])
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &format!("http://{}", member.peer)])
            .args(["--initial-advertise-peer-urls", &format!("http://{}", member.peer)])
            .args(["--initial-cluster", &all.join(",")])
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(log);
        member.process = Some(command.spawn().expect("etcd: tests/packages installs etcd-server"));
    }

    /// Waits until a member answers a request that needs a leader.
    fn wait_for(&self, number: usize) {
        let until = Instant::now() + PATIENCE;
        while !self.serves(number) {
            assert!(Instant::now() < until, "member {number} of etcd does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn speaks_tls(&self) -> bool {
        self.more.iter().any(|it| it == "--cert-file")
    }

    fn serves(&self, number: usize) -> bool {
        if self.speaks_tls() {
            // Its users retry until it has a leader.
            return TcpStream::connect(self.all[number].client).is_ok();
        }
        let ask = || -> std::io::Result<String> {
            use std::io::{Read, Write};
            let mut stream = TcpStream::connect(self.all[number].client)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().is_ok_and(|text| text.contains("true"))
    }

    /// The client URL of a member.
    pub fn url(&self, number: usize) -> String {
        let scheme = if self.speaks_tls() { "https" } else { "http" };
        format!("{scheme}://{}", self.all[number].client)
    }

    /// The client address of a member.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.all[number].client
    }

    /// Settings for a prefix.
    pub fn settings(&self, prefix: &str) -> EtcdSettings {
        let endpoints: Vec<String> = (0..self.all.len()).map(|number| self.url(number)).collect();
        toml::from_str(&format!(
            "endpoints = {endpoints:?}\nprefix = '{prefix}'\nadvertise = 'http://127.0.0.1:1'\nbackups = '{}'\n",
            self.folder.path().join("backups").display()
        ))
        .unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        let mut process = self.all[number].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts a member that was killed.
    pub fn restart(&mut self, number: usize) {
        self.begin(number);
        self.wait_for(number);
    }

    /// Sends a signal to a member.
    pub fn signal(&self, number: usize, signal: Signal) {
        let process = self.all[number].process.as_ref().unwrap();
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
    }

    /// Runs `etcdctl` against the first member.
    pub fn control(&self, arguments: &[&str]) -> String {
        let endpoint = format!("--endpoints={}", self.url(0));
        let ran = Command::new("etcdctl").env("ETCDCTL_API", "3").arg(endpoint).args(arguments).output();
        let ran = ran.expect("etcdctl: tests/packages installs etcd-client");
        assert!(ran.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }
}
