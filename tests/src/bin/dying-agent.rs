//! The agent, killed after a number of operations: what the crash matrix in the lab runs.
//!
//! It is a program of its own rather than a setting of the agent, so that the shipped agent contains nothing that makes
//! it die, and the agent under test is otherwise the same code. Operations reach the kernel one at a time: the kernel
//! would have had those of one batch in the same order.

use anyhow::Result;
use clap::Parser;
use cps_peering_agent::{
    daemon,
    dirty_set::DirtySet,
    kernel::{Kernel, KernelError, Netlink, NetlinkError},
    objects::{Link, Observed, Operation},
    traffic::Reading,
};
use cps_peering_config::net::{InterfaceName, Vni};
use nix::sys::signal::{Signal, raise};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

/// Runs the agent until it has carried out this many operations, and kills it then.
#[derive(Parser)]
struct Arguments {
    /// The agent's settings file.
    #[arg(long)]
    settings: PathBuf,
    /// How many operations it lives for. With 0 it dies when it is about to begin the first.
    #[arg(long)]
    operations: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    let settings = toml::from_str(&fs::read_to_string(&arguments.settings)?)?;
    daemon::run(Dying { kernel: Netlink::of_agent(&settings), left: arguments.operations }, &settings, || {
        Ok(settings.clone())
    })
}

struct Dying {
    kernel: Netlink,
    left: usize,
}

impl Dying {
    fn dies_if_it_is_time(&self) {
        if self.left == 0 {
            // Nothing is closed, flushed or answered, as with a `kill -9` from outside.
            let _ = raise(Signal::SIGKILL);
        }
    }
}

impl Kernel for Dying {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        self.kernel.observe(dirty, stop)
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        self.kernel.traffic()
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.kernel.devices()
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let mut refused = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            self.dies_if_it_is_time();
            let answer = self.kernel.apply(std::slice::from_ref(operation))?;
            refused.extend(answer.into_iter().map(|(_, refusal)| (place, refusal)));
            // Each agent creates the underlay filter anew, and replaces the former one's: an agent that died during
            // that would never make progress.
            let of_its_own = matches!(
                operation,
                Operation::SetSenders(..)
                    | Operation::RemoveSenders(_)
                    | Operation::AddGuard(..)
                    | Operation::RemoveGuard(_)
            );
            self.left -= usize::from(!of_its_own);
            self.dies_if_it_is_time();
        }
        Ok(refused)
    }
}
