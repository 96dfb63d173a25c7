//! The completion scripts, and what a real shell does with them.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cps-peering");

#[test]
fn shells_complete_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(PROGRAM);
        let script = String::from_utf8(command.args(["completion", shell]).output().unwrap().stdout).unwrap();
        assert!(script.contains("COMPLETE") && script.contains("cps-peering"), "{shell}: {script}");
    }
    // Standard output is closed early: no complaint.
    let mut command = Command::new(PROGRAM);
    let mut child = command.args(["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    child.wait().unwrap();
    assert_eq!(err, "");
}

/// A `bash -i` on a terminal of its own, made by `script` (bsdutils).
struct Terminal {
    child: Child,
    shown: Receiver<u8>,
    seen: String,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROMPT: &str = "READY> ";

impl Terminal {
    fn start(home: &Path) -> Self {
        let path = format!("{}:{}", Path::new(PROGRAM).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let commands = home.join("bashrc");
        fs::write(&commands, format!("PS1='{PROMPT}'\n")).unwrap();
        let bash = format!("bash --noprofile --rcfile '{}' -i", commands.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &bash, "/dev/null"]);
        command.env("PATH", path).env("HOME", home).env("TERM", "dumb").env("INPUTRC", "/dev/null");
        command.env_remove("XDG_CONFIG_HOME").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("bsdutils has `script`");
        let mut output = child.stdout.take().unwrap();
        let (send, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while output.read(&mut byte).is_ok_and(|count| count == 1) && send.send(byte[0]).is_ok() {}
        });
        let mut terminal = Self { child, shown, seen: String::new() };
        terminal.until(PROMPT);
        terminal
    }

    fn keys(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until this is shown.
    fn until(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_mins(1);
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let byte = self.shown.recv_timeout(left);
            let byte = byte.unwrap_or_else(|_| panic!("{text:?} is not shown: {:?}", self.seen));
            self.seen.push(char::from(byte));
        }
        self.seen.clear();
    }

    /// The line becomes this when Tab is pressed; it is not run.
    fn completes(&mut self, line: &str, to: &str) {
        self.keys(&format!("{line}\t"));
        self.until(to);
        // Ctrl-U and an empty line: the next one begins at a prompt.
        self.keys("\u{15}\n");
        self.until(PROMPT);
    }
}

#[test]
fn a_real_bash_completes_commands_options_and_names_of_profiles() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".config/cps-peering/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "[profiles.work-east]\ntoken = \"t\"\n[profiles.\"$(touch x)\"]\ntoken = \"t\"\n").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let mut terminal = Terminal::start(home.path());
    terminal.keys("source <(cps-peering completion bash)\n");
    terminal.until(PROMPT);
    for (line, to) in [
        ("cps-peering pee", "cps-peering peering"),
        ("cps-peering peering set-b", "cps-peering peering set-bandwidth"),
        ("cps-peering peering list --sta", "--state"),
        ("cps-peering admin account add-k", "add-key"),
        ("cps-peering admin peering sh", "show"),
        ("cps-peering pki issue oper", "operator"),
        ("cps-peering peering list --state susp", "suspended"),
        ("cps-peering -o ya", "yaml"),
        ("cps-peering --profile wo", "work-east"),
        ("cps-peering profile remove wo", "work-east"),
    ] {
        terminal.completes(line, to);
    }
}
