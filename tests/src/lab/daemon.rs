//! A daemon that the lab runs in a namespace.

use crate::{netns::Netns, wait};
use anyhow::{Context, Result, bail};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// A daemon that can be killed and restarted.
#[derive(Debug)]
pub struct Daemon {
    netns: Netns,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon of this workspace, not running yet. Its output goes to `log`.
    pub fn new(netns: &Netns, program: &str, arguments: &[&str], log: PathBuf) -> Result<Daemon> {
        Ok(Daemon::other(netns, &folder()?.join(program), arguments, log))
    }

    /// The same for a program of the system.
    pub fn other(netns: &Netns, program: &Path, arguments: &[&str], log: PathBuf) -> Daemon {
        let arguments = arguments.iter().map(|&it| it.to_owned()).collect();
        Daemon { netns: netns.clone(), program: program.to_owned(), arguments, log, child: None }
    }

    /// From now on the program of the same name in another folder is started; none stands for this workspace's.
    pub fn use_programs_of(&mut self, other: Option<&Path>) -> Result<()> {
        let folder = other.map_or_else(folder, |other| Ok(other.to_owned()))?;
        self.program = folder.join(self.program.file_name().context("a program without a name")?);
        Ok(())
    }

    /// The name of its settings: `agent` or `controller`.
    pub(super) fn kind(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        name.trim_start_matches("cps-peering-").to_owned()
    }

    /// Starts it. It may not be ready yet.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.log.display());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.netns.command(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| crate::command::line(&command))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.log.display()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for its end, at most for `within`. If it has not ended by then it is killed.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.log.display()) };
        let sent = crate::command::run(Command::new("kill").args(["-TERM", &child.id().to_string()]))?.ok();
        let ended = sent.and_then(|_| wait::until("the end after SIGTERM", within, || Ok(child.try_wait()?)));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended
    }

    /// An error, with the end of its log, if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("`{}` ended, {status}:\n{}", self.program.display(), self.log_tail()),
        }
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            // It has ended already, or it ends now.
            let _ = self.kill();
        }
    }
}

/// A program of this workspace.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    if !path.is_file() {
        bail!("{} is not there: `cargo build --workspace` comes first", path.display());
    }
    Ok(path)
}

/// The folder of the programs that this process uses instead of this workspace's.
static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// Makes labs use the programs in a folder. Only the first call counts.
pub fn use_programs(folder: &Path) {
    // An earlier call has set it.
    let _ = PROGRAMS.set(folder.to_owned());
}

/// The folder of this workspace's programs: set by [`use_programs`] or `CPS_PEERING_BIN`, or that of the running
/// program.
fn folder() -> Result<PathBuf> {
    if let Some(folder) = PROGRAMS.get() {
        return Ok(folder.clone());
    }
    if let Some(folder) = env::var_os("CPS_PEERING_BIN") {
        return Ok(PathBuf::from(folder));
    }
    let exe = env::current_exe()?;
    let folder = exe.parent().unwrap_or(Path::new("/"));
    // Test binaries are one folder further down.
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() })
}
