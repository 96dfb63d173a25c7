//! Events of accounts and operators: in order, each change once, and nothing about others.

use crate::running::{Controller, Place, TOKEN, call, done, vpc};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const NORTH: &str = "/v1/regions/north";
const EAST: &str = "/v1/regions/east";

/// All events after a cursor, read some at a time, and the cursor after them.
async fn all(controller: &Controller, token: &str, path: &str, after: &str) -> (Vec<Value>, String) {
    let (mut events, mut after) = (Vec::new(), after.to_owned());
    loop {
        let path = format!("{path}/events?limit=2&after={after}");
        let page = done(controller, token, Method::GET, &path, Value::Null).await;
        let found = page["events"].as_array().unwrap().clone();
        page["nextAfter"].as_str().unwrap().clone_into(&mut after);
        if found.is_empty() {
            return (events, after);
        }
        if found.len() == 2 {
            assert_eq!(found[1]["id"], page["nextAfter"]);
        }
        events.extend(found);
    }
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

async fn cloud() -> (Controller, String, String, String) {
    let controller = Place::new().start().await;
    let inventory = json!({ "regions": [{ "id": "north" }, { "id": "east" }] });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    let [_, _, one] = controller.account("one").await;
    let [_, _, two] = controller.account("two").await;
    let [_, _, three] = controller.account("three").await;
    (controller, one, two, three)
}

async fn ask(controller: &Controller, token: &str, name: &str, own: &str, other: &str) -> String {
    let body = json!({ "vpcPeeringName": name, "vpcId": own, "remoteVpcId": other, "remoteAccountId": "two",
        "remoteRegionId": "east", "bandwidth": 100, "description": "ours alone" });
    let made = done(controller, token, Method::POST, &format!("{NORTH}/vpcPeerings/"), body).await;
    made["vpcPeering"]["vpcPeeringId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_change_has_one_event_in_order_for_those_it_concerns_also_after_a_restart() {
    let (controller, one, two, three) = cloud().await;
    let (a, c) =
        (vpc(&controller, &one, NORTH, "10.1.0.0/16").await, vpc(&controller, &two, EAST, "10.2.0.0/16").await);
    let (_, start) = all(&controller, &one, NORTH, "latest").await;
    let id = ask(&controller, &one, "p", &a, &c).await;
    let (own, other) = (format!("{NORTH}/vpcPeerings/{id}"), format!("{EAST}/vpcPeerings/{id}"));
    // Its own affair: the other account gets no event.
    let body = json!({ "userTags": [{ "key": "k" }] });
    done(&controller, &one, Method::PUT, &own, body).await;
    // The receiver's CIDRs are not disclosed before it has accepted (rule L11).
    let body = json!({ "secondaryCidrSpec": { "vpcId": c, "cidr": "10.3.0.0/16" } });
    done(&controller, &two, Method::PUT, &format!("{EAST}/secondaryCidrs"), body).await;
    done(&controller, &two, Method::POST, &format!("{other}:acceptVpcPeering"), json!({})).await;
    crate::running::until("it is active", async || {
        let shown = done(&controller, &one, Method::GET, &own, Value::Null).await;
        shown["vpcPeering"]["state"] == "active"
    })
    .await;
    let (seen, middle) = all(&controller, &one, NORTH, &start).await;
    assert_eq!(kinds(&seen), ["peering.requested", "peering.modified", "peering.accepted", "peering.active"]);
    let place = controller.stop();
    let controller = place.start().await;
    done(&controller, &one, Method::PUT, &format!("{own}:modifyVpcPeeringBandwidth"), json!({ "bandwidth": 7 })).await;
    for status in ["arrear", "arrear", "normal"] {
        controller
            .operator(Method::PUT, "/admin/v1/accounts/one/chargeStatus", json!({ "chargeStatus": status }))
            .await;
    }
    crate::running::until("it is active", async || {
        let shown = done(&controller, &one, Method::GET, &own, Value::Null).await;
        shown["vpcPeering"]["state"] == "active"
    })
    .await;
    done(&controller, &two, Method::DELETE, &other, Value::Null).await;
    done(&controller, &two, Method::DELETE, &other, Value::Null).await;
    crate::running::until("it is over", async || {
        let shown = done(&controller, &one, Method::GET, &own, Value::Null).await;
        shown["vpcPeering"]["state"] == "peer_deleted"
    })
    .await;
    done(&controller, &one, Method::DELETE, &own, Value::Null).await;
    let (later, _) = all(&controller, &one, NORTH, &middle).await;
    let payer = ["account.chargeStatusChanged"];
    let shared = [
        "peering.bandwidthChanged",
        "peering.suspended",
        "peering.resumed",
        "peering.active",
        "peering.deleted",
        "peering.drained",
    ];
    let told = kinds(&later);
    assert_eq!(
        told.iter().filter(|kind| !payer.contains(kind)).copied().collect::<Vec<_>>(),
        [&shared[..], &["peering.recordDeleted"]].concat()
    );
    assert_eq!(told.iter().filter(|kind| payer.contains(kind)).count(), 2, "{told:?}");
    // From the beginning it is the same, and each event is a cursor.
    let (again, _) = all(&controller, &one, NORTH, &start).await;
    assert_eq!(again, [&seen[..], &later].concat(), "an event is the same whenever it is read, its id included");
    let third = again[2]["id"].as_str().unwrap();
    assert_eq!(all(&controller, &one, NORTH, third).await.0.len(), again.len() - 3);
    assert_eq!(
        (&again[0]["role"], &again[0]["state"], &again[0]["vpcPeeringName"]),
        (&json!("initiator"), &json!("pending"), &json!("p"))
    );
    assert_eq!(later[0]["bandwidth"], 7);
    // The receiver sees its own side, and nothing of what the other says to itself, owes or deletes for itself.
    let (theirs, _) = all(&controller, &two, EAST, "").await;
    let expected =
        [&["peering.requested", "peering.cidrsChanged", "peering.accepted", "peering.active"], &shared[..]].concat();
    assert_eq!(kinds(&theirs), expected);
    let text = json!(theirs).to_string();
    // A time may contain "10.".
    let is_own = theirs.iter().all(|event| event["role"] == "receiver");
    assert!(is_own && !text.contains("ours alone") && !text.contains("0.0/16"), "{text}");
    // Other accounts get no events, and a side's events are only in its region.
    assert!(all(&controller, &three, NORTH, "").await.0.is_empty());
    assert!(all(&controller, &two, NORTH, "").await.0.is_empty());
    // Operators get all events, with the accounts that got them; nobody else does.
    let (everything, _) = all(&controller, TOKEN, "/admin/v1", "").await;
    assert!(
        everything.len() > again.len() && everything[0]["accountIds"] == json!(["one", "two"]),
        "{}",
        everything[0]
    );
    assert_eq!(call(&controller, &one, Method::GET, "/admin/v1/events", Value::Null).await.0, 403);
}

#[tokio::test]
async fn long_polls_return_immediately_and_streams_resume() {
    let (controller, one, two, _) = cloud().await;
    let (a, c) =
        (vpc(&controller, &one, NORTH, "10.1.0.0/16").await, vpc(&controller, &two, EAST, "10.2.0.0/16").await);
    let began = std::time::Instant::now();
    let path = format!("{EAST}/events?wait=25&after=latest");
    let waiting = done(&controller, &two, Method::GET, &path, Value::Null);
    let asking = async {
        // It waits by then, or finds the event immediately.
        tokio::time::sleep(Duration::from_millis(300)).await;
        ask(&controller, &one, "p", &a, &c).await
    };
    let (told, id) = tokio::join!(waiting, asking);
    assert_eq!(told["events"][0]["vpcPeeringId"], id, "{told}");
    assert!(began.elapsed() < Duration::from_secs(20), "it was not only found at the end");
    let next = told["nextAfter"].as_str().unwrap().to_owned();
    let nothing =
        done(&controller, &two, Method::GET, &format!("{EAST}/events?wait=1&after={next}"), Value::Null).await;
    assert!(nothing["events"].as_array().unwrap().is_empty());
    // As a stream, from the beginning and from after the first event.
    let stream = async |after: Option<&str>| {
        let request = controller.ask(Method::GET, &format!("{EAST}/events")).bearer_auth(&two);
        let request = request.header("accept", "text/event-stream");
        let request = after.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        request.send().await.unwrap()
    };
    let mut first = stream(None).await;
    let mut second = stream(Some(&next)).await;
    done(&controller, &two, Method::POST, &format!("{EAST}/vpcPeerings/{id}:rejectVpcPeering"), json!({})).await;
    let read = async |answer: &mut reqwest::Response, last: &str| {
        let mut text = String::new();
        while !text.contains(last) || !text.ends_with("\n\n") {
            text += &String::from_utf8_lossy(&answer.chunk().await.unwrap().unwrap());
        }
        text
    };
    let text = read(&mut first, "peering.rejected").await;
    assert!(
        text.contains("event: peering.requested")
            && text.contains(&format!("id: {}", told["events"][0]["id"].as_str().unwrap())),
        "{text}"
    );
    let text = read(&mut second, "peering.rejected").await;
    assert!(!text.contains("peering.requested"), "{text}");
}

#[tokio::test]
async fn a_host_removed_as_dead_has_one_event() {
    let controller = Place::new().start().await;
    let host = json!({ "id": "h1", "region": "north", "underlay": "192.0.2.1", "agent": "http://127.0.0.1:1" });
    let inventory = json!({ "regions": [{ "id": "north" }], "hosts": [host] });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    let hosts = async || {
        let (events, _) = all(&controller, TOKEN, "/admin/v1", "").await;
        events.iter().map(|event| format!("{} {}", event["type"], event["host"])).collect::<Vec<_>>()
    };
    let told = [r#""host.added" "h1""#, r#""host.removed" "h1""#];
    // It stays listed; removing it again forgets it.
    for _ in 0..2 {
        done(&controller, TOKEN, Method::DELETE, "/admin/v1/hosts/h1?dead=true&confirm=1", Value::Null).await;
        assert_eq!(hosts().await, told);
    }
}

#[tokio::test]
async fn invalid_cursors_are_refused_with_a_hint() {
    let (controller, one, _, _) = cloud().await;
    for (query, code, says) in [
        ("after=x", 400, "nextAfter"),
        ("after=1.1", 400, "nextAfter"),
        ("after=1.1.1.1.1", 400, "nextAfter"),
        ("after=-1.0.0", 400, "nextAfter"),
        ("after=1.0.0", 400, "7 days"),
        ("after=999999999.0.99999999999", 400, "from another store"),
        ("limit=0", 400, "limit"),
        ("limit=1001", 400, "limit"),
        ("wait=26", 400, "wait"),
        ("since=1", 400, "since"),
    ] {
        let (status, error) =
            call(&controller, &one, Method::GET, &format!("{NORTH}/events?{query}"), Value::Null).await;
        assert!(status == code && error.to_string().contains(says), "{query}: {error}");
    }
    assert_eq!(call(&controller, &one, Method::GET, "/v1/regions/nowhere/events", Value::Null).await.0, 404);
}
