//! A network namespace of `ip netns`, and what runs in it.

use crate::{
    command::{self, Ended},
    listing::Lister,
};
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

/// A network namespace with a name. It is deleted with its last handle; the kernel keeps it while a process is in it.
#[derive(Debug, Clone)]
pub struct Netns {
    named: Arc<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    /// Processes for queries about it, by their name and options.
    listers: Mutex<BTreeMap<String, Lister>>,
}

impl Netns {
    /// Creates a new one, with its loopback up.
    pub fn create(name: &str) -> Result<Netns> {
        command::run(Command::new("ip").args(["netns", "add", name]))?.ok()?;
        let netns = Netns { named: Arc::new(Named { name: name.to_owned(), listers: Mutex::default() }) };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// A command that will run in it: `ip netns exec` becomes that program, under the same process id. For short-lived
    /// commands, [`Netns::run`] takes half the time.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }

    /// Runs a command in it to its end. Its `/sys` is that of the caller's namespace.
    pub fn run(&self, command: &mut Command) -> Result<Ended> {
        // A process starts in the namespace of the thread that spawns it.
        self.within(|| command::run(command))
    }

    /// Runs the words of a command line in it. For arguments that contain spaces use [`Netns::run`].
    pub fn exec(&self, line: &str) -> Result<Ended> {
        let mut words = line.split_whitespace();
        self.run(Command::new(words.next().unwrap_or_default()).args(words))
    }

    /// Runs shell lines in it, up to the first that fails; returns their output.
    pub fn sh(&self, lines: &str) -> Result<String> {
        self.run(Command::new("sh").args(["-ec", lines]))?.ok()
    }

    /// The answers of `ip`, `bridge` or `tc` to queries, one per line: JSON, one per line.
    pub fn list(&self, program: &str, options: &[&str], questions: &str) -> Result<String> {
        let name = format!("{program} {}", options.join(" "));
        let known = self.listers().remove(&name).map_or_else(|| Lister::start(program, options, self.name()), Ok);
        let answered = known.and_then(|mut lister| Ok((lister.ask(questions)?, lister)));
        if let Ok((answers, lister)) = answered {
            self.listers().insert(name, lister);
            return Ok(answers);
        }
        // It ended for a reason that a new process will report.
        let mut command = Command::new(program);
        command.args(options).args(["-n", self.name(), "-j", "-batch", "-"]);
        command::run_with_input(&mut command, questions)?.ok()
    }

    fn listers(&self) -> MutexGuard<'_, BTreeMap<String, Lister>> {
        self.named.listers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `ip` on it, for instance `ip("-6 route show")`; returns its output, or an error if it failed.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::run(Command::new("ip").args(["-n", self.name()]).args(arguments.split_whitespace()))?.ok()
    }

    /// Runs many `ip` commands on it in one batch, in order; the first that fails ends it.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let mut ip = Command::new("ip");
        let ended = command::run_with_input(ip.args(["-n", self.name(), "-batch", "-"]), &lines.join("\n"))?;
        let line = ended
            .stderr
            .rsplit_once("Command failed -:")
            .and_then(|(_, number)| lines.get(number.trim().parse::<usize>().ok()?.checked_sub(1)?))
            .cloned();
        let name = self.name();
        match (ended.ok(), line) {
            (Ok(_), _) => Ok(()),
            (Err(error), Some(line)) => Err(error).with_context(|| format!("`ip -n {name} {line}` failed")),
            (Err(error), None) => Err(error),
        }
    }

    /// Sets sysctls, each for instance `net.ipv4.ip_forward=1`.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        self.run(Command::new("sysctl").arg("-q").arg("-w").args(settings))?.ok().map(drop)
    }

    /// Calls a function on a thread in the namespace. Sockets created there stay in it wherever they are used.
    pub fn within<T: Send>(&self, call: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || -> Result<()> {
            let file = File::open(self.path())?;
            Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter().with_context(|| format!("cannot enter network namespace {}", self.name()))?;
                call()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.name())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // The kernel keeps the namespace while they are in it.
        self.listers.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // Nothing can be done about a failure, and the name is unique to its lab.
        let _ = command::run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}
