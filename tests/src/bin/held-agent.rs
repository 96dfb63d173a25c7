//! The agent, which changes nothing in its kernel while a file exists, but responds: so that a manual change can be
//! examined before it is repaired.

use anyhow::Result;
use clap::Parser;
use cps_peering_agent::{
    daemon,
    dirty_set::DirtySet,
    kernel::{Kernel, KernelError, Netlink, NetlinkError, UnderlayView},
    objects::{Link, Observed, Operation},
    traffic::Reading,
};
use cps_peering_config::net::{InterfaceName, Vni};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

#[derive(Parser)]
struct Arguments {
    /// While this file exists, every change is refused.
    #[arg(long)]
    hold: PathBuf,
    /// The agent's settings.
    #[arg(long)]
    settings: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    let settings = toml::from_str(&fs::read_to_string(&arguments.settings)?)?;
    daemon::run(Held { kernel: Netlink::of_agent(&settings), hold: arguments.hold }, &settings, || Ok(settings.clone()))
}

struct Held {
    kernel: Netlink,
    hold: PathBuf,
}

impl Kernel for Held {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        self.kernel.observe(dirty, stop)
    }

    fn has_unannounced_changes(&mut self) -> bool {
        self.kernel.has_unannounced_changes()
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        self.kernel.traffic()
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.kernel.devices()
    }

    fn underlay_view(&self) -> UnderlayView {
        self.kernel.underlay_view()
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        if self.hold.exists() {
            let refusal = NetlinkError { errno: 16, explanation: Some("the test holds the agent".to_owned()) };
            return Ok((0..operations.len()).map(|place| (place, refusal.clone())).collect());
        }
        self.kernel.apply(operations)
    }
}
