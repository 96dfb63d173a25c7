//! A shell beside a running lab, with two commands of its own: `on NAMESPACE COMMAND…` and `cps-peering`.

use super::Lab;
use anyhow::Result;
use std::{
    env,
    fmt::Write,
    fs,
    io::{self, IsTerminal},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

/// A shell for exploring a lab.
#[derive(Debug)]
pub struct Shell<'lab> {
    lab: &'lab Lab,
    bin: PathBuf,
}

impl<'lab> Shell<'lab> {
    /// Writes the two commands into the lab's folder.
    pub fn beside(lab: &'lab Lab) -> Result<Shell<'lab>> {
        let bin = lab.dir().join("bin");
        fs::create_dir_all(&bin)?;
        let name = lab.name();
        script(&bin.join("on"), &format!("namespace=$1; shift; exec ip netns exec {name}-\"$namespace\" \"$@\""))?;
        let cli: Vec<String> = lab.controller().cli_line()?.iter().map(|word| format!("'{word}'")).collect();
        script(&bin.join("cps-peering"), &format!("exec ip netns exec {name}-ctl {} \"$@\"", cli.join(" ")))?;
        Ok(Shell { lab, bin })
    }

    /// The servers, as a table.
    pub fn servers(&self) -> String {
        let mut rows = vec![["SERVER", "HOST", "VPC", "ADDRESSES"].map(str::to_owned)];
        for server in self.lab.servers() {
            let addresses: Vec<String> = server.addresses.iter().map(ToString::to_string).collect();
            let name = format!("{}-{}", server.host, server.interface);
            rows.push([name, server.host.to_string(), server.vpc.to_string(), addresses.join(" ")]);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        rows.iter().fold(String::new(), |mut text, [server, host, vpc, addresses]| {
            let [a, b, c] = widths;
            let _ = writeln!(text, "{server:a$}  {host:b$}  {vpc:c$}  {addresses}");
            text
        })
    }

    /// The available commands, line by line.
    pub fn hints(&self) -> Vec<String> {
        let host = self.lab.hosts().next().map_or("HOST", |(id, _)| id.as_str());
        let server = self.lab.servers().next();
        let server = server.map_or("SERVER".to_owned(), |server| format!("{}-{}", server.host, server.interface));
        let commands = [
            ("cps-peering peering list".to_owned(), "the CLI".to_owned()),
            (format!("on {host} ip -br link"), format!("a host: {}", self.hosts())),
            (format!("on {host} ip route show vrf NAME"), "its routes; the line above has the names".to_owned()),
            (format!("on {server} ping ADDRESS"), "a server of the table".to_owned()),
            (
                "on ctl COMMAND, on net COMMAND".to_owned(),
                "beside the controller, on the router between hosts".to_owned(),
            ),
            (format!("ls {}", self.lab.dir().display()), "logs, settings, ledgers, store".to_owned()),
        ];
        let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
        commands.iter().map(|(command, meaning)| format!("{command:width$}   {meaning}")).collect()
    }

    fn hosts(&self) -> String {
        self.lab.hosts().map(|(id, _)| id.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Runs a command with the two commands in its path.
    pub fn run(&self, command: &[String]) -> Result<ExitStatus> {
        Ok(self.prepared(&command[0]).args(&command[1..]).status()?)
    }

    /// An interactive shell. Without a terminal it ends on a signal.
    pub fn interactive(&self) -> Result<ExitStatus> {
        if io::stdin().is_terminal() {
            let prompt = format!("PS1='[{}] \\w # '", self.lab.name());
            let rc = self.bin.join("rc");
            fs::write(&rc, prompt)?;
            return Ok(self.prepared("bash").arg("--rcfile").arg(rc).arg("-i").status()?);
        }
        Ok(self.prepared("sleep").arg("infinity").status()?)
    }

    fn prepared(&self, program: &str) -> Command {
        let mut path = self.bin.clone().into_os_string();
        if let Some(rest) = env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let mut command = Command::new(program);
        command.env("PATH", path);
        command.env("LAB", self.lab.name());
        command
    }
}

fn script(path: &Path, line: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{line}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
