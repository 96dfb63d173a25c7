//! Brings up an inventory in the lab, runs a command or a shell beside it, and takes it down.

#![expect(clippy::print_stdout, reason = "it speaks to a person")]

use anyhow::{Context, Result};
use clap::Parser;
use cps_peering_config::inventory::Inventory;
use cps_peering_tests::{Lab, lab::shell::Shell};
use std::{fs, path::PathBuf, process::ExitCode};

/// Brings up an inventory: hosts, agents, controller and a server on every port. Without a command it starts a shell,
/// where `on NAMESPACE COMMAND` runs a command in a namespace and `cps-peering` is the CLI.
#[derive(Parser)]
struct Arguments {
    /// The inventory.
    inventory: PathBuf,
    /// The MTU between hosts.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// The command to run; its exit status becomes this one's.
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let file = &arguments.inventory;
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let inventory: Inventory = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let lab = Lab::builder(inventory).name("lab").underlay_mtu(arguments.mtu).start()?;
    // The file itself is applied, so that an error names the place in it.
    print!("{}", lab.controller().apply_file(file, false)?.ok()?);
    lab.wait_in_sync()?;
    let shell = Shell::beside(&lab)?;
    println!("{}", shell.servers());
    let status = if arguments.command.is_empty() { shell.interactive()? } else { shell.run(&arguments.command)? };
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
