//! Which cluster a host belongs to.

use super::{Agent, config};
use cps_peering_agent::cluster::MembershipFile;
use cps_peering_config::cluster::ClusterId;
use serde_json::json;

const OURS: Option<u128> = Some(0xa);
const OTHER: Option<u128> = Some(0xb);

fn id(cluster: Option<u128>) -> String {
    format!("{:032x}", cluster.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_the_cluster_that_it_belongs_to() {
    let agent = Agent::start();
    // A controller of a release that does not name its cluster, and the same after its upgrade.
    let (status, _, whose) = agent.call_as(None, "PUT", "/v1/config", &config(5)).await;
    assert_eq!((status, whose.as_str()), (200, ""));
    let (status, _, whose) = agent.call_as(OURS, "PUT", "/v1/config", &config(5)).await;
    assert_eq!((status, whose), (200, id(OURS)), "what it has already says whose it is, too");

    // A copy of the store beside production, with a higher epoch.
    let operations = agent.operations();
    let mut copy = config(4);
    copy["revision"]["epoch"] = 2.into();
    let patch = json!({ "base": { "epoch": 1, "number": 5 }, "revision": { "epoch": 2, "number": 1 }, "vrfs": {}, "sides": {} });
    let grants = json!({ "revision": { "epoch": 2, "number": 1 }, "sides": {} });
    let asked = [
        ("PUT", "/v1/config", &copy),
        ("PATCH", "/v1/config", &patch),
        ("PUT", "/v1/shares", &grants),
        ("DELETE", "/v1/cluster", &copy),
    ];
    for (method, path, body) in asked {
        let (status, error, whose) = agent.call_as(OTHER, method, path, body).await;
        assert_eq!((status, whose), (409, id(OURS)), "{method} {path}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&id(OURS)) && message.contains(&format!("join {}", id(OTHER))), "{message}");
    }
    assert_eq!(agent.operations(), operations, "nothing was done");
    let (_, report, whose) = agent.call_as(OTHER, "GET", "/v1/status", &json!({})).await;
    assert_eq!((&report["desired"]["epoch"], whose), (&1.into(), id(OURS)));
    // Older controllers go on working, also after a restart.
    assert_eq!(agent.put(&config(6)).await.0, 200);
    let Agent { kernel, folder, .. } = agent;
    let agent = Agent::on(kernel, folder);
    assert_eq!(agent.call_as(OTHER, "PUT", "/v1/config", &copy).await.0, 409);

    // An operator on the host joins it to another cluster: that one's revisions are neither older nor newer than the
    // current one.
    let file = MembershipFile::beside(&agent.folder.path().join("ledger"));
    file.join(ClusterId::new(OTHER.unwrap())).unwrap();
    assert_eq!(agent.call_as(OURS, "PUT", "/v1/config", &config(7)).await.0, 409);
    assert_eq!(agent.call_as(OTHER, "PATCH", "/v1/config", &patch).await.0, 409, "it is a patch of the other's");
    let (status, report, whose) = agent.call_as(OTHER, "PUT", "/v1/config", &config(1)).await;
    assert_eq!((status, &report["desired"]["number"], whose), (200, &1.into(), id(OTHER)), "{report}");
    assert_eq!(agent.call_as(OTHER, "PUT", "/v1/config", &config(1)).await.0, 200);
    let older = json!({ "revision": { "epoch": 0, "number": 9 }, "host": "h1", "underlay": "192.0.2.1" });
    assert_eq!(agent.call_as(OTHER, "PUT", "/v1/config", &older).await.0, 409, "and from then on they count");

    // Its own cluster releases it, once it is empty.
    assert_eq!(agent.call_as(OTHER, "DELETE", "/v1/cluster", &json!({})).await.0, 409);
    let empty = json!({ "revision": { "epoch": 1, "number": 2 }, "host": "h1", "underlay": "192.0.2.1" });
    assert_eq!(agent.call_as(OTHER, "PUT", "/v1/config", &empty).await.0, 200);
    assert_eq!(agent.call_as(OTHER, "DELETE", "/v1/cluster", &json!({})).await.0, 204);
    let (status, _, whose) = agent.call_as(OURS, "PUT", "/v1/config", &older).await;
    assert_eq!((status, whose), (200, id(OURS)));

    // A broken file fails closed, until an operator joins the host again.
    std::fs::write(agent.folder.path().join("ledger.cluster"), "{").unwrap();
    let (status, error, _) = agent.call_as(OURS, "PUT", "/v1/config", &config(9)).await;
    assert!(status == 503 && error["message"].as_str().unwrap().contains("cps-peering-agent join"), "{error}");
    file.join(ClusterId::new(OURS.unwrap())).unwrap();
    assert_eq!(agent.call_as(OURS, "PUT", "/v1/config", &config(9)).await.0, 200);
}
