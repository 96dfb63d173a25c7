//! A machine with systemd as its first process: a user-mode Linux whose file system is a folder.

use anyhow::{Context, Result, bail, ensure};
use cps_peering_tests::{command::run, wait};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long a machine may take to start, and a command to finish.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running machine. It ends with this.
pub(crate) struct Machine {
    name: String,
    /// What the machine sees as `/test`.
    folder: PathBuf,
    kernel: Child,
    /// Ends the machine if nobody else does: a test that is killed drops nothing.
    guard: Child,
    /// Numbers of commands go in, numbers and exit codes come out.
    terminal: BufReader<UnixStream>,
    /// The number of the last command.
    last: u32,
}

impl Machine {
    /// Starts a machine. Its disk in its folder stays from one start to the next. `cable` is what its
    /// interface `vec0` is plugged into. It is not up yet.
    pub(crate) fn boot(folder: &Path, image: &Path, cable: OwnedFd) -> Result<Machine> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::create_dir_all(folder)?;
        let disk = folder.join("disk");
        if !disk.exists() {
            run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([image, &disk]))?.ok()?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let log = File::options().create(true).append(true).open(folder.join("kernel.log"))?;
        let kernel = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("uml/start"))
            .args(["mem=512M", "root=/dev/ubda", "rw", "quiet", "net.ifnames=0"])
            .args(["con=null", "con0=null,fd:2", "con1=fd:0,fd:0", "ssl=null", "vec0:transport=fd,fd=1"])
            // The folder's path may have spaces and commas, which these do not accept.
            .args(["ubd0=disk", "hostfs=.", "uml_dir=."])
            .current_dir(folder)
            .arg(format!("systemd.hostname={name}"))
            // Ethernet addresses are derived from it, and D-Bus keeps that of the image.
            .arg(format!("systemd.machine_id={:032x}", name.bytes().fold(1, |id, byte| id << 8 | u128::from(byte))))
            // The kernel of the release that is on the disk; newer ones do not mount this machine's folder by a relative path.
            .env("CPS_PEERING_KERNEL", "system")
            // The memory is a sparse file.
            .env("TMPDIR", folder)
            // A process group, to be ended as a whole.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(cable))
            .stderr(log)
            .spawn()
            .context("tests/uml/start")?;
        // It reads the end of its input when this process is gone.
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL -- \"-$0\""])
            .arg(kernel.id().to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("sh")?;
        let last = fs::read_dir(folder)?.count().try_into()?;
        Ok(Machine { name, folder: folder.to_owned(), kernel, guard, terminal: BufReader::new(ours), last })
    }

    /// Waits until it accepts commands.
    pub(crate) fn up(&mut self) -> Result<()> {
        ensure!(self.line()?.ends_with("ready"), "{} came up strangely", self.name);
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.terminal.read_line(&mut line);
        let told = || {
            let log = fs::read_to_string(self.folder.join("kernel.log")).unwrap_or_default();
            let end = log.lines().rev().take(15).collect::<Vec<_>>();
            format!("{} says nothing; its kernel's last messages, the newest first:\n{}", self.name, end.join("\n"))
        };
        if read.with_context(told)? == 0 {
            bail!(told());
        }
        Ok(line.trim().to_owned())
    }

    /// Runs a script to its end. Returns its exit code and its output.
    pub(crate) fn run(&mut self, script: &str) -> Result<(i32, String)> {
        self.last += 1;
        let number = self.last;
        let folder = self.folder.clone();
        let file = |end: &str| folder.join(format!("{number}.{end}"));
        fs::write(file("sh"), format!("set -euo pipefail\n{script}\n"))?;
        writeln!(self.terminal.get_mut(), "{number}")?;
        let said = self.line().with_context(|| format!("`{script}`"))?;
        let code = said.strip_prefix(&format!("{number} ")).with_context(|| format!("{} said {said:?}", self.name))?;
        let printed = fs::read_to_string(file("out"))? + &fs::read_to_string(file("err"))?;
        Ok((code.parse()?, printed))
    }

    /// Runs a script that must succeed. Returns its output.
    pub(crate) fn sh(&mut self, script: &str) -> Result<String> {
        let (code, printed) = self.run(script)?;
        ensure!(code == 0, "{}: `{script}` ended with {code}: {printed}", self.name);
        Ok(printed.trim_end().to_owned())
    }

    /// The JSON output of a script.
    pub(crate) fn json(&mut self, script: &str) -> Result<serde_json::Value> {
        let text = self.sh(script)?;
        serde_json::from_str(&text).with_context(|| format!("{}: `{script}` printed {text}", self.name))
    }

    /// Runs a script until it succeeds.
    pub(crate) fn until(&mut self, script: &str) -> Result<String> {
        wait::until(&format!("{}: {script}", self.name), PATIENCE, || self.sh(script).map(Some))
    }

    /// A property of a unit.
    pub(crate) fn property(&mut self, unit: &str, property: &str) -> Result<String> {
        self.sh(&format!("systemctl show --value --property {property} {unit}"))
    }

    /// The last lines of the log since the last start.
    pub(crate) fn journal(&mut self) -> String {
        let journal = self.run("journalctl --boot --no-pager --quiet --lines 120 --output short-monotonic");
        format!(
            "== journal of {}\n{}\n",
            self.name,
            journal.map_or_else(|error| format!("{error:#}"), |(_, text)| text)
        )
    }

    /// Shuts the machine down as its operator would, and waits for it.
    pub(crate) fn power_off(&mut self) -> Result<()> {
        // The response may be lost with the machine.
        let _ = self.sh("systemctl poweroff");
        wait::until("power off", PATIENCE, || Ok(self.kernel.try_wait()?)).map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel has helpers and a process for every address space of its own, which do not end with it.
        if let Ok(group) = self.kernel.id().try_into() {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.kernel.wait();
        // Before the group's number is reused.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}
