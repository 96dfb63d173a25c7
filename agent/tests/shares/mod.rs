//! Shares of a limit that several hosts have together: set at once, confirmed from the kernel, kept over a reboot.

use super::*;
use cps_peering_agent::{owner::DeviceName, traffic::Reading};
use cps_peering_config::net::Vni;

fn vni() -> Vni {
    1001.try_into().unwrap()
}

/// The side 1001 has so many millionths of 80 Mbit/s, which are 10 bytes per second each, from the beginning.
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

/// What the kernel lets pass, in bytes per second.
fn rate(agent: &Agent) -> Option<u64> {
    let state = agent.kernel.state();
    state.seen.egress.get(&DeviceName::peer(vni()))?.rate.map(|rate| rate.bytes_per_second)
}

async fn grant(agent: &Agent, number: u64, share: u32) -> (u16, Value) {
    let grants = json!({ "revision": { "epoch": 1, "number": number }, "sides": { "1001": share, "4711": share } });
    agent.call("PUT", "/v1/shares", &grants).await
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
    assert_eq!(rate(&agent), Some(25_000));
    assert_eq!(granted(&agent, 1, 500_000).await, 500_000);
    assert_eq!(rate(&agent), Some(5_000_000));
    let operations = agent.operations();
    assert_eq!(granted(&agent, 2, 500_000).await, 500_000);
    assert_eq!(agent.operations(), operations, "the same again changes nothing");
    let (status, error) = grant(&agent, 1, 900_000).await;
    assert_eq!((status, rate(&agent)), (409, Some(5_000_000)), "{error}");
    let (status, report) = agent.call("GET", "/v1/traffic", &json!(null)).await;
    assert_eq!((status, &report["grants"]["number"]), (200, &json!(2)));
}

#[tokio::test]
async fn what_the_kernel_refused_is_not_confirmed() {
    let agent = started(2500).await;
    agent.kernel.state().refuse.insert(0);
    assert_eq!(granted(&agent, 1, 500_000).await, json!(null));
    assert_eq!(rate(&agent), Some(25_000));
    assert_eq!(granted(&agent, 2, 500_000).await, 500_000, "asked again, it is tried again");
    assert_eq!(rate(&agent), Some(5_000_000));
}

#[tokio::test]
async fn a_share_is_the_same_after_a_reboot_and_gone_with_its_side() {
    let agent = started(2500).await;
    granted(&agent, 1, 400_000).await;
    // Another kernel, and what was on the disk.
    let booted = Agent::start();
    let agent = Agent::on(booted.kernel, agent.folder);
    agent.report_when(HostReport::in_sync).await;
    assert_eq!(rate(&agent), Some(4_000_000));
    agent.accepted(&config(2)).await;
    assert_eq!(rate(&agent), None, "no limit, no shaper");
    agent.accepted(&limited(3, 2500)).await;
    assert_eq!(rate(&agent), Some(25_000), "what was granted before is over");
}

#[tokio::test]
async fn who_had_all_keeps_it_when_others_come_until_it_is_taken() {
    let agent = started(1_000_000).await;
    assert_eq!(rate(&agent), Some(10_000_000));
    agent.accepted(&limited(2, 2500)).await;
    assert_eq!(rate(&agent), Some(10_000_000));
    assert_eq!(granted(&agent, 1, 300_000).await, 300_000);
    assert_eq!(rate(&agent), Some(3_000_000));
    // A change of the bandwidth scales what was granted.
    let mut config = limited(3, 2500);
    config["sides"]["1001"]["limit"]["bandwidth_mbit"] = json!(160);
    agent.accepted(&config).await;
    assert_eq!(rate(&agent), Some(6_000_000));
}
