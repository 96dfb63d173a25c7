//! Accounts peer their VPCs themselves: all four kinds (C3), requests and answers (L2, L4, L5), arrears (B5), with packets.

use crate::{EAST, NORTH, do_not_reach_each_other, reach_each_other};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{Lab, Topology, http::Endpoint, stream::Stream, wait};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(20);

/// A VPC of account `one`, and one of each account in each of two regions, each with a port on the region's host.
fn four_kinds() -> Topology {
    Topology::new()
        .host("h1", NORTH, "192.0.2.1")
        .host("h2", EAST, "198.51.100.2")
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .owned_by("one")
        .vpc("vpc-near-own", NORTH, &["10.2.0.0/16", "fd00:2::/48"])
        .owned_by("one")
        .vpc("vpc-near-other", NORTH, &["10.3.0.0/16", "fd00:3::/48"])
        .owned_by("two")
        .vpc("vpc-far-own", EAST, &["10.4.0.0/16", "fd00:4::/48"])
        .owned_by("one")
        .vpc("vpc-far-other", EAST, &["10.5.0.0/16", "fd00:5::/48"])
        .owned_by("two")
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "fd00:1::1/64"])
        .port("vpc-near-own", "h1", "eth2", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-near-other", "h1", "eth3", &["10.3.0.1/24", "fd00:3::1/64"])
        .port("vpc-far-own", "h2", "eth1", &["10.4.0.1/24", "fd00:4::1/64"])
        .port("vpc-far-other", "h2", "eth2", &["10.5.0.1/24", "fd00:5::1/64"])
}

/// An account at the controller.
struct Account(Endpoint);

impl Account {
    fn call(&self, method: &str, region: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer: Value = self.0.call(method, &format!("/v1/regions/{region}/vpcPeerings{path}"), body)?;
        Ok(answer["result"].clone())
    }

    fn create(&self, region: &str, body: &Value) -> Result<String> {
        let result = self.call("POST", region, "", Some(body))?;
        let id = result["vpcPeering"]["vpcPeeringId"].as_str();
        Ok(id.with_context(|| format!("no id in {result}"))?.to_owned())
    }

    /// The state in which the account sees a peering; `gone` if it does not.
    fn state(&self, region: &str, id: &str) -> Result<String> {
        let list = self.call("GET", region, "/?pageSize=100", None)?;
        let seen = list["vpcPeerings"].as_array().context("no list")?.iter().find(|it| it["vpcPeeringId"] == id);
        Ok(seen.map_or("gone", |it| it["state"].as_str().unwrap_or_default()).to_owned())
    }

    fn wait_for(&self, region: &str, id: &str, state: &str) -> Result<()> {
        wait::until(&format!("{id} is {state}"), PATIENCE, || {
            let is = self.state(region, id)?;
            ensure!(is == state, "{id} is {is}");
            Ok(Some(()))
        })
    }
}

fn accounts(lab: &Lab) -> Result<[Account; 2]> {
    Ok([Account(lab.controller().tenant("one")?), Account(lab.controller().tenant("two")?)])
}

/// C3, L2, L5, with packets.
#[test]
fn the_four_kinds_of_peering_carry_packets_from_acceptance_to_deletion() -> Result<()> {
    let lab = Lab::in_sync(four_kinds())?;
    let [one, two] = accounts(&lab)?;
    let a = lab.server("h1", "eth1");
    let peers = [
        ("vpc-near-own", NORTH, "one", lab.server("h1", "eth2")),
        ("vpc-near-other", NORTH, "two", lab.server("h1", "eth3")),
        ("vpc-far-own", EAST, "one", lab.server("h2", "eth1")),
        ("vpc-far-other", EAST, "two", lab.server("h2", "eth2")),
    ];
    let mut made = Vec::new();
    for (vpc, region, account, server) in peers {
        let mut body = json!({
            "vpcPeeringName": vpc, "vpcId": "vpc-a", "remoteVpcId": vpc, "remoteRegionId": region,
            "remoteAccountId": account,
        });
        if region != NORTH {
            body["bandwidth"] = json!(100);
        }
        let id = one.create(NORTH, &body)?;
        if account == "two" {
            ensure!(two.state(region, &id)? == "pending");
            do_not_reach_each_other(a, server)?;
            two.call("POST", region, &format!("/{id}:acceptVpcPeering"), None)?;
        }
        one.wait_for(NORTH, &id, "active")?;
        reach_each_other(a, server)?;
        made.push((id, region, account, server));
    }
    // Not transitive, whoever owns them.
    do_not_reach_each_other(made[0].3, made[2].3)?;
    do_not_reach_each_other(made[1].3, made[3].3)?;
    for (id, region, account, server) in made {
        let own_region = if account == "two" { region } else { NORTH };
        let by = if account == "two" { &two } else { &one };
        let deleted = by.call("DELETE", own_region, &format!("/{id}"), None)?;
        ensure!(deleted["state"] == "deleted", "{deleted}");
        do_not_reach_each_other(a, server)?;
        let left = if account == "two" { "peer_deleted" } else { "gone" };
        ensure!(one.state(NORTH, &id)? == left, "{}", one.state(NORTH, &id)?);
        ensure!(by.state(own_region, &id)? == "gone");
    }
    lab.wait_in_sync()
}

/// B4, B5, with packets.
#[test]
fn arrears_stop_packets_between_regions_as_fast_as_a_delete_and_payment_lets_them_flow_again() -> Result<()> {
    let lab = Lab::in_sync(four_kinds())?;
    let [one, two] = accounts(&lab)?;
    let (a, near, far) = (lab.server("h1", "eth1"), lab.server("h1", "eth3"), lab.server("h2", "eth2"));
    let mut ids = Vec::new();
    for (vpc, region) in [("vpc-near-other", NORTH), ("vpc-far-other", EAST)] {
        let mut body = json!({
            "vpcPeeringName": vpc, "vpcId": "vpc-a", "remoteVpcId": vpc, "remoteRegionId": region,
            "remoteAccountId": "two",
        });
        if region != NORTH {
            body["bandwidth"] = json!(100);
        }
        let id = one.create(NORTH, &body)?;
        two.call("POST", region, &format!("/{id}:acceptVpcPeering"), None)?;
        one.wait_for(NORTH, &id, "active")?;
        ids.push(id);
    }
    let charge = |status: &str| -> Result<Value> {
        lab.controller().endpoint().call(
            "PUT",
            "/admin/v1/accounts/one/chargeStatus",
            Some(&json!({ "chargeStatus": status })),
        )
    };
    reach_each_other(a, far)?;
    charge("overdue")?;
    ensure!(one.state(NORTH, &ids[1])? == "active");
    let streams = [Stream::start(a, far, far.ipv4()?, 200)?, Stream::start(far, a, a.ipv6()?, 200)?];
    wait::until("both streams arrive", PATIENCE, || {
        let received = [streams[0].received(), streams[1].received()];
        ensure!(received.iter().all(|count| *count > 20), "{received:?}");
        Ok(Some(()))
    })?;
    charge("arrear")?;
    ensure!(one.state(NORTH, &ids[1])? == "suspended" && two.state(EAST, &ids[1])? == "suspended");
    lab.wait_in_sync()?;
    let stopped = SystemTime::now();
    do_not_reach_each_other(a, far)?;
    for stream in streams {
        let record = stream.stop()?;
        let last = record.last().context("nothing came through")?.at;
        ensure!(last < stopped, "a packet came after all hosts had confirmed");
    }
    // Within a region nothing is charged.
    reach_each_other(a, near)?;
    charge("normal")?;
    one.wait_for(NORTH, &ids[1], "active")?;
    reach_each_other(a, far)
}
