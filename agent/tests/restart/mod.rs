//! Agents that die in the middle of a plan, and others that start on the ledger they left, without a controller.

use super::*;
use cps_peering_agent::{
    kernel::{KernelError, NetlinkError},
    ledger::Record,
    objects::{Link, Observed, Operation},
    traffic::Reading,
};
use cps_peering_config::net::{InterfaceName, Vni};
use std::{collections::BTreeMap, io, sync::mpsc};

/// The kernel for an agent that dies after this many operations: from then on none of its operations arrives.
struct Dying {
    kernel: Memory,
    left: usize,
    dead: mpsc::Sender<()>,
}

impl Dying {
    fn quiesce(&self) -> KernelError {
        // The test may have received it before.
        let _ = self.dead.send(());
        KernelError::Socket { what: "live on", source: io::ErrorKind::BrokenPipe.into() }
    }
}

impl Kernel for Dying {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        if self.left == 0 { Err(self.quiesce()) } else { self.kernel.observe(dirty, stop) }
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        self.kernel.traffic()
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.kernel.devices()
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let done = operations.len().min(self.left);
        self.left -= done;
        let refused = self.kernel.apply(&operations[..done])?;
        if self.left == 0 { Err(self.quiesce()) } else { Ok(refused) }
    }
}

fn stored(folder: &TempDir, config: &Value) {
    let record = Record::Config(config.to_string());
    let config: cps_peering_config::HostConfig = serde_json::from_value(config.clone()).unwrap();
    let config = config.try_into().unwrap();
    Ledger::new(folder.path().join("ledger")).store(&record, &config).unwrap();
}

/// Brings a host from one configuration to another with an agent that dies after this many operations. Returns the
/// state of the host, and the total number of operations.
async fn with_a_death(before: &Value, after: &Value, operations: usize) -> (Observed, usize) {
    let Agent { kernel, folder, .. } = {
        let agent = Agent::start();
        agent.accepted(before).await;
        agent
    };
    kernel.state().log.clear();
    stored(&folder, after);
    let (dead, death) = mpsc::channel();
    let agent = Agent::through(Dying { kernel: kernel.clone(), left: operations, dead }, kernel.clone(), folder);
    if operations < usize::MAX {
        tokio::task::spawn_blocking(move || death.recv_timeout(Duration::from_secs(20))).await.unwrap().unwrap();
    } else {
        agent.report_when(HostReport::in_sync).await;
    }
    let again = Agent::on(kernel, agent.folder);
    let report = again.report_when(HostReport::in_sync).await;
    assert_eq!(report.counters.drift_repaired, 0, "what an agent left half done is not drift");
    let done = again.operations();
    let state = again.kernel.state();
    (state.seen.clone(), done)
}

async fn matrix(before: &Value, after: &Value) {
    let (undisturbed, length) = with_a_death(before, after, usize::MAX).await;
    assert!(length > 0);
    for operations in 0..=length {
        let (disturbed, _) = with_a_death(before, after, operations).await;
        assert_eq!(disturbed, undisturbed, "dead after {operations} of {length}");
    }
}

fn unpeered(number: u64) -> Value {
    let mut config = config(number);
    config["sides"] = json!({});
    config
}

fn empty(number: u64) -> Value {
    json!({ "revision": { "epoch": 1, "number": number }, "host": "h1", "underlay": "192.0.2.1" })
}

#[tokio::test]
async fn a_crash_during_bring_up_is_recovered_from_the_ledger() {
    matrix(&empty(1), &config(2)).await;
    matrix(&unpeered(1), &config(2)).await;
}

#[tokio::test]
async fn a_crash_during_teardown_is_recovered_from_the_ledger() {
    matrix(&config(1), &unpeered(2)).await;
    matrix(&config(1), &empty(2)).await;
}

#[tokio::test]
async fn a_crash_during_a_change_is_recovered_from_the_ledger() {
    let mut moved = config(2);
    moved["sides"]["1001"]["remotes"] = json!({ "192.0.2.3": ["10.2.9.0/24"], "192.0.2.4": ["10.2.8.0/24"] });
    matrix(&config(1), &moved).await;
}

#[tokio::test]
async fn a_crash_while_the_ledger_is_written_leaves_the_one_before() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let before = agent.kernel.state().seen.clone();
    std::fs::write(agent.folder.path().join("ledger.new"), "{\"revision\":{\"ep").unwrap();
    let again = Agent::on(agent.kernel, agent.folder);
    let report = again.report_when(HostReport::in_sync).await;
    assert_eq!((report.applied, again.kernel.state().seen == before), (Some(revision(1)), true));
    assert!(again.accepted(&unpeered(2)).await.in_sync());
}
