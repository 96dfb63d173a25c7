//! Shares of a limit that several hosts have in common: set immediately, confirmed from the kernel, kept over a reboot.

use super::*;
use cps_peering_agent::{
    kernel::{KernelError, NetlinkError},
    objects::{Link, Observed, Shaper},
    ownership::DeviceName,
    traffic::Reading,
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    traffic::Grants,
};
use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{OnceLock, mpsc},
    task::Poll,
};
use tokio::runtime::Handle as Runtime;

fn vni() -> Vni {
    1001.try_into().unwrap()
}

/// Side 1001 has this initial share, in millionths of 80 Mbit/s, which are 10 bytes per second each.
fn limited(number: u64, share: u32) -> Value {
    let mut config = config(number);
    config["sides"]["1001"]["limit"] = json!({ "bandwidth_mbit": 80, "share": share });
    config
}

async fn started(share: u32) -> Agent {
    let agent = Agent::start();
    agent.kernel.state().traffic.insert(vni(), Reading::default());
    agent.accepted(&limited(1, share)).await;
    agent
}

/// Whether the kernel has the rate for this many bytes per second.
fn passes(agent: &Agent, bytes_per_second: u64) -> bool {
    const MTU: u32 = 1450;
    rate(agent) == Some(Shaper::new(bytes_per_second, MTU).rate.bytes_per_second)
}

/// The rate in the kernel, in bytes per second.
fn rate(agent: &Agent) -> Option<u64> {
    let state = agent.kernel.state();
    state.seen.egress.get(&DeviceName::peer(vni()))?.rate.map(|rate| rate.bytes_per_second)
}

/// The share that is confirmed now.
async fn confirmed(agent: &Agent) -> Value {
    let (status, report) = agent.call("GET", "/v1/traffic", &json!(null)).await;
    assert_eq!(status, 200, "{report}");
    report["sides"]["1001"]["share"].clone()
}

/// Retries while the agent is busy, as a controller does.
async fn grant(agent: &Agent, number: u64, share: u32) -> (u16, Value) {
    let grants = json!({ "revision": { "epoch": 1, "number": number }, "sides": { "1001": share, "4711": share } });
    loop {
        let answer = agent.call("PUT", "/v1/shares", &grants).await;
        if answer.0 != 503 {
            return answer;
        }
    }
}

/// Grants, and returns the share that was confirmed.
async fn granted(agent: &Agent, number: u64, share: u32) -> Value {
    let (status, report) = grant(agent, number, share).await;
    assert_eq!(status, 200, "{report}");
    report["sides"]["1001"]["share"].clone()
}

#[tokio::test]
async fn a_grant_is_in_the_kernel_when_it_is_answered() {
    let agent = started(2500).await;
    assert!(passes(&agent, 25_000));
    assert_eq!(granted(&agent, 1, 500_000).await, 500_000);
    assert!(passes(&agent, 5_000_000));
    let operations = agent.operations();
    assert_eq!(granted(&agent, 2, 500_000).await, 500_000);
    assert_eq!(agent.operations(), operations, "the same again changes nothing");
    let (status, error) = grant(&agent, 1, 900_000).await;
    assert!(status == 409 && passes(&agent, 5_000_000), "{error}");
    let (status, report) = agent.call("GET", "/v1/traffic", &json!(null)).await;
    assert_eq!((status, &report["grants"]["number"]), (200, &json!(2)));
}

#[tokio::test]
async fn what_the_kernel_refused_is_not_confirmed() {
    let agent = started(2500).await;
    agent.kernel.state().refuse.insert(0);
    assert_eq!(granted(&agent, 1, 500_000).await, json!(null));
    assert!(passes(&agent, 25_000));
    assert_eq!(granted(&agent, 2, 500_000).await, 500_000, "asked again, it is tried again");
    assert!(passes(&agent, 5_000_000));
}

#[tokio::test]
async fn a_share_is_the_same_after_a_reboot_and_gone_with_its_side() {
    let agent = started(2500).await;
    granted(&agent, 1, 400_000).await;
    // Another kernel, and what was on the disk.
    let booted = Agent::start();
    let agent = Agent::on(booted.kernel, agent.folder);
    agent.report_when(HostReport::in_sync).await;
    assert!(passes(&agent, 4_000_000));
    agent.accepted(&config(2)).await;
    assert_eq!(rate(&agent), None, "no limit, no shaper");
    agent.accepted(&limited(3, 2500)).await;
    assert!(passes(&agent, 25_000), "what was granted before is over");
}

#[tokio::test]
async fn a_host_that_had_all_keeps_it_until_it_is_reduced_over_http() {
    let agent = started(1_000_000).await;
    assert!(passes(&agent, 10_000_000));
    agent.accepted(&limited(2, 2500)).await;
    assert!(passes(&agent, 10_000_000));
    assert_eq!(granted(&agent, 1, 300_000).await, 300_000);
    assert!(passes(&agent, 3_000_000));
    // A change of the bandwidth scales what was granted.
    let mut config = limited(3, 2500);
    config["sides"]["1001"]["limit"]["bandwidth_mbit"] = json!(160);
    agent.accepted(&config).await;
    assert!(passes(&agent, 6_000_000));
}

#[tokio::test]
async fn what_the_kernel_refused_is_not_confirmed_by_another_observation() {
    let agent = started(2500).await;
    agent.kernel.state().refuse.insert(0);
    assert_eq!(granted(&agent, 1, 500_000).await, json!(null));
    let mut other = limited(2, 2500);
    other["sides"]["1003"] = json!({ "peering": "q", "vpc": "vpc-b", "peer_vni": 1004, "peer_cidrs": ["10.3.0.0/16"] });
    assert!(agent.accepted(&other).await.in_sync());
    assert!(passes(&agent, 25_000));
    assert_eq!(confirmed(&agent).await, json!(null));
}

/// A kernel that is granted something during its longest list of operations.
struct Granting {
    kernel: Memory,
    runtime: Runtime,
    reconciler: Arc<OnceLock<Handle>>,
    grants: Grants,
}

impl Kernel for Granting {
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
        let removes = matches!(operations.first(), Some(Operation::RemoveRoute(..)));
        if removes && let Some(reconciler) = self.reconciler.get().cloned() {
            let grants = self.grants.clone();
            let (asked, was_asked) = mpsc::channel();
            self.runtime.spawn(async move {
                let mut granting = pin!(reconciler.grant(grants, Duration::from_secs(20)));
                poll_fn(|context| Poll::Ready(granting.as_mut().poll(context).is_ready())).await;
                asked.send(()).unwrap();
                granting.await.unwrap();
            });
            was_asked.recv().unwrap();
        }
        self.kernel.apply(operations)
    }
}

#[tokio::test]
async fn a_grant_during_a_plan_is_not_undone_by_the_rest_of_it() {
    let Agent { kernel, folder, .. } = Agent::start();
    kernel.state().traffic.insert(vni(), Reading::default());
    let grants = json!({ "revision": { "epoch": 1, "number": 2 }, "sides": { "1001": 100_000 } });
    let reconciler = Arc::new(OnceLock::new());
    let granting = Granting {
        kernel: kernel.clone(),
        runtime: Runtime::current(),
        reconciler: Arc::clone(&reconciler),
        grants: serde_json::from_value(grants).unwrap(),
    };
    let agent = Agent::through(granting, kernel, folder);
    // More routes than are removed at once, and only then the rate changes.
    let prefixes: Vec<String> = (0..5000).map(|n| format!("10.1.{}.{}/32", 100 + n / 256, n % 256)).collect();
    let mut config = limited(1, 2500);
    config["sides"]["1002"]["remotes"] = json!({ "192.0.2.2": prefixes });
    agent.accepted(&config).await;
    granted(&agent, 1, 500_000).await;
    let before = agent.operations();
    reconciler.set(agent.reconciler.clone()).unwrap();
    let mut next = limited(2, 2500);
    next["sides"]["1001"]["limit"]["bandwidth_mbit"] = json!(160);
    next["sides"]["1002"]["remotes"] = json!({ "192.0.2.2": ["10.1.100.0/32"] });
    agent.accepted(&next).await;
    assert!(passes(&agent, 2_000_000), "{:?}", rate(&agent));
    let log = agent.kernel.state().log[before..].to_vec();
    let rates = log.iter().filter_map(|operation| match operation {
        Operation::SetRate(_, rate) => Some(rate.bytes_per_second),
        _ => None,
    });
    let rates: Vec<u64> = rates.collect();
    // While the configuration is being written, the rate may already be lowered to the old share of the new bandwidth.
    let granted = rates.iter().skip_while(|rate| **rate > 2_000_000);
    assert!(!rates.is_empty() && granted.clone().all(|rate| *rate <= 2_000_000), "{rates:?}");
    assert_eq!(confirmed(&agent).await, 100_000);
}
