//! What `tests/bench` runs: the speed of the agent, side by side with other programs that do the same on the same
//! kernel.
//!
//! | module | what it holds |
//! |---|---|
//! | [`figures`] | the names, the numbers, how they are shown |
//! | [`ground`] | network namespaces to measure in, and the routes that are measured |
//! | [`raw`] | the minimal netlink requests, in their fastest form: the yardstick |
//! | [`ip_batch`], [`bird`] | other programs |
//! | [`agent`] | an agent as a process of its own, and its HTTP interface |
//! | [`under_test`] | that process; on a kernel without VRF devices with a stand-in for them |
//! | [`bandwidth`] | how accurate bandwidth limits are |
//! | [`controller`] | one controller with thousands of simulated agents |
//! | [`adding`], [`observing`], [`removing`], [`patching`], [`starting`], [`idle`], [`underlay`] | the measurements |

mod adding;
mod agent;
mod bandwidth;
mod bird;
mod controller;
mod figures;
mod ground;
mod idle;
mod ip_batch;
mod observing;
mod patching;
mod raw;
mod removing;
mod starting;
mod under_test;
mod underlay;

use anyhow::Result;
use clap::{Parser, Subcommand};
use figures::Figures;
use std::{path::PathBuf, process::ExitCode};

/// Measures how fast parts of the system are.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The agent against the kernel's best, `ip -batch` and BIRD.
    Agent {
        /// Print one line of JSON per figure; everything else goes to standard error.
        #[arg(long)]
        json: bool,
        /// A part of the names of the figures to measure.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Bandwidth limits: how accurate they are, for one host and for three.
    Bandwidth {
        /// Print one line of JSON per figure; everything else goes to standard error.
        #[arg(long)]
        json: bool,
        /// A part of the names of the figures to measure.
        #[arg(default_value = "")]
        filter: String,
    },
    /// One controller with many simulated agents: memory, times, rates.
    Controller {
        /// Print one line of JSON per figure; everything else goes to standard error.
        #[arg(long)]
        json: bool,
        /// The number of hosts; for each there are ten VPCs, ten peerings and a hundred prefixes. A multiple of 20.
        #[arg(long, default_value_t = 10_000)]
        hosts: usize,
        /// A part of the names of the figures to measure.
        #[arg(default_value = "")]
        filter: String,
    },
    /// The simulated agents.
    #[command(hide = true)]
    Agents {
        /// Their number.
        hosts: usize,
    },
    /// The agent that is measured.
    #[command(hide = true)]
    AgentUnderTest {
        /// Its settings file.
        settings: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::AgentUnderTest { settings } => under_test::run(&settings),
        Command::Agent { json, filter } => measure(&mut Figures::new(json, filter)),
        Command::Controller { json, hosts, filter } => {
            let mut figures = Figures::new(json, filter);
            controller::measure(&mut figures, hosts).map(|()| figures.show())
        }
        Command::Agents { hosts } => controller::agents::run(hosts),
        Command::Bandwidth { json, filter } => bandwidth::measure(&mut Figures::new(json, filter)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            figures::note(&format!("the bench failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(figures: &mut Figures) -> Result<()> {
    if !ground::kernel_has_vrf() {
        figures::note(
            "This kernel has no VRF devices: they are stood in for by entries in a file. VXLAN devices, filters, next hops, \
             neighbours, forwarding entries, qdiscs, rules and routes are the kernel's.",
        );
    }
    figures::note(
        "FRR is not compared with. Debian's package (8.4.4) has no sharpd, so the routes would have to come from staticd, \
         whose time grows with their square: 100 take 0.5 s, 200 1.2 s, 400 4.0 s, and 1 000 were not there after 17 s.",
    );
    adding::measure(figures)?;
    observing::measure(figures)?;
    starting::measure(figures)?;
    removing::measure(figures)?;
    patching::measure(figures)?;
    idle::measure(figures)?;
    underlay::measure(figures)?;
    figures.show();
    Ok(())
}
