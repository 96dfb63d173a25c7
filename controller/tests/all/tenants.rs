//! Tenants' clients over HTTP: unset fields, repeated deletes, pages, tags.

use crate::running::{Controller, Place, done, vpc};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NORTH: &str = "/v1/regions/north";
const EAST: &str = "/v1/regions/east";

/// A controller, and the tokens of accounts `one` and `two`.
async fn controller(settings: &str) -> (Controller, String, String) {
    let place = Place::new();
    place.settings(settings);
    let controller = place.start().await;
    let inventory = json!({ "regions": [{ "id": "north" }, { "id": "east" }] });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    let [_, _, one] = controller.account("one").await;
    let [_, _, two] = controller.account("two").await;
    (controller, one, two)
}

/// The status, and the result or the error.
async fn send(controller: &Controller, token: &str, method: Method, path: &str, body: String) -> (u16, Value) {
    let answer = controller.ask(method, path).bearer_auth(token).body(body).send().await.unwrap();
    let (status, mut text): (u16, Value) =
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap());
    (status, if status == 200 { text["result"].take() } else { text["error"].take() })
}

async fn call(controller: &Controller, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    send(controller, token, method, path, body.to_string()).await
}

async fn show(controller: &Controller, token: &str, path: &str) -> Value {
    done(controller, token, Method::GET, path, Value::Null).await
}

async fn peer(controller: &Controller, token: &str, body: Value) -> String {
    let made = done(controller, token, Method::POST, &format!("{NORTH}/vpcPeerings/"), body).await;
    made["vpcPeering"]["vpcPeeringId"].as_str().unwrap().to_owned()
}

fn entry(error: &Value) -> (&str, &str) {
    let fault = &error["details"][0];
    (fault["entry"].as_str().unwrap_or_default(), fault["rule"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn l5_deleting_again_is_no_error_while_the_id_is_known() {
    let (controller, one, two) = controller("").await;
    let a = vpc(&controller, &one, NORTH, "10.1.0.0/16").await;
    let body = json!({ "secondaryCidrSpec": { "vpcId": a, "cidr": "10.11.0.0/16" } });
    let added = done(&controller, &one, Method::PUT, &format!("{NORTH}/secondaryCidrs"), body).await;
    let cidr = added["secondaryCidrId"].as_str().unwrap();
    let b = vpc(&controller, &one, NORTH, "10.2.0.0/16").await;
    let peering = peer(&controller, &one, json!({ "vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b })).await;
    let paths = [format!("vpcPeerings/{peering}"), format!("secondaryCidrs/{cidr}"), format!("vpcs/{a}")];
    for path in &paths {
        for _ in 0..2 {
            done(&controller, &one, Method::DELETE, &format!("{NORTH}/{path}"), Value::Null).await;
        }
    }
    // It is known after a restart, too, but to no other account and in no other region.
    let controller = controller.stop().start().await;
    for path in &paths {
        done(&controller, &one, Method::DELETE, &format!("{NORTH}/{path}"), Value::Null).await;
        let (code, _) = call(&controller, &two, Method::DELETE, &format!("{NORTH}/{path}"), Value::Null).await;
        assert_eq!(code, 404, "{path}");
    }
    for path in &paths[1..] {
        let (code, _) = call(&controller, &one, Method::DELETE, &format!("{EAST}/{path}"), Value::Null).await;
        assert_eq!(code, 404, "{path}");
    }
    let (code, _) = call(&controller, &one, Method::GET, &format!("{NORTH}/vpcs/{a}"), Value::Null).await;
    assert_eq!(code, 404, "it is not there");
    let (code, _) = call(&controller, &one, Method::DELETE, &format!("{NORTH}/vpcs/vpc-0123456789"), Value::Null).await;
    assert_eq!(code, 404, "nobody had it");
    // An existing one is really deleted.
    let port = json!({ "regions": [{ "id": "north" }], "hosts": [{ "id": "h1", "region": "north", "underlay": "192.0.2.1",
        "agent": "http://127.0.0.1:9" }], "ports": [{ "vpc": b, "host": "h1", "interface": "eth1", "gateways": ["10.2.0.1/24"] }] });
    controller.operator(Method::POST, "/admin/v1/apply", port).await;
    let (code, error) = call(&controller, &one, Method::DELETE, &format!("{NORTH}/vpcs/{b}"), Value::Null).await;
    assert_eq!((code, error["details"][0]["reason"].as_str()), (400, Some("VpcInUse")));
}

#[tokio::test]
async fn zero_values_count_as_absent_and_whole_numbers_may_have_a_point() {
    let (controller, one, two) = controller("").await;
    let a = vpc(&controller, &one, NORTH, "10.1.0.0/16").await;
    let b = vpc(&controller, &one, NORTH, "10.2.0.0/16").await;
    let c = vpc(&controller, &two, EAST, "10.3.0.0/16").await;
    let unset = json!({ "vpcPeeringName": "ab", "vpcId": a, "remoteVpcId": b, "bandwidth": 0, "remoteAccountId": "",
        "remoteRegionId": "", "description": "", "message": "", "userTags": [], "clientToken": null, "dryRun": false });
    let ab = peer(&controller, &one, unset).await;
    let shown = show(&controller, &one, &format!("{NORTH}/vpcPeerings/{ab}")).await;
    assert_eq!(shown["vpcPeering"]["bandwidth"], Value::Null);
    assert_eq!(shown["vpcPeering"]["remoteVpcInfo"]["accountId"], "one");
    let body = json!({ "secondaryCidrSpec": { "vpcId": "", "subnetId": a, "cidr": "10.11.0.0/16" } });
    done(&controller, &one, Method::PUT, &format!("{NORTH}/secondaryCidrs"), body).await;
    let across = format!(
        r#"{{ "vpcPeeringName": "ac", "vpcId": "{a}", "remoteVpcId": "{c}", "remoteAccountId": "two", "remoteRegionId": "east",
            "bandwidth": BANDWIDTH }}"#
    );
    let create = format!("{NORTH}/vpcPeerings/");
    for (bandwidth, reason) in [("0", "BandwidthRequired"), ("0.0", "BandwidthRequired"), ("10.5", ""), ("1e9", "")] {
        let body = across.replace("BANDWIDTH", bandwidth);
        let (code, error) = send(&controller, &one, Method::POST, &create, body).await;
        assert_eq!((code, entry(&error).0), (400, "bandwidth"), "{bandwidth}: {error}");
        assert!(error["details"][0]["reason"].as_str().unwrap().contains(reason), "{error}");
    }
    let body = across.replace("BANDWIDTH", "100.0");
    let (code, made) = send(&controller, &one, Method::POST, &create, body).await;
    assert_eq!((code, made["vpcPeering"]["bandwidth"].as_u64()), (200, Some(100)), "{made}");
    let id = made["vpcPeering"]["vpcPeeringId"].as_str().unwrap();
    let path = format!("{NORTH}/vpcPeerings/{id}:modifyVpcPeeringBandwidth");
    let (code, made) = send(&controller, &one, Method::PUT, &path, r#"{ "bandwidth": 2e1 }"#.to_owned()).await;
    assert_eq!((code, made["vpcPeering"]["bandwidth"].as_u64()), (200, Some(20)), "{made}");
    // The operators' API reads numbers in the same way, in documents, too.
    let text = format!(
        r#"{{ "regions": [{{ "id": "north" }}], "accounts": [{{ "id": "one", "quotas": {{ "north": 60.0 }} }}],
            "peerings": [{{ "name": "bc", "vpc": "{b}", "peer_vpc": "{c}", "bandwidth": 7.0 }}] }}"#
    );
    let (code, answer) = send(&controller, crate::running::TOKEN, Method::POST, "/admin/v1/apply", text).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn duplicate_keys_are_refused_everywhere() {
    let (controller, one, _) = controller("").await;
    let vpcs = format!("{NORTH}/vpcs");
    for (token, method, path, body, named) in [
        (
            &*one,
            Method::PUT,
            &*vpcs,
            r#"{ "vpcSpec": { "cidr": "10.1.0.0/16", "name": "a", "name": "b" } }"#,
            "vpcSpec.name",
        ),
        (
            &*one,
            Method::PUT,
            &*vpcs,
            r#"{ "vpcSpec": null, "vpcSpec": { "cidr": "10.1.0.0/16", "name": "a" } }"#,
            "vpcSpec",
        ),
        (&*one, Method::PUT, &*vpcs, r#"{ "regionId": "north", "regionId": "east" }"#, "regionId"),
        (
            crate::running::TOKEN,
            Method::POST,
            "/admin/v1/accounts",
            r#"{ "accountId": "x", "accountId": "y" }"#,
            "accountId",
        ),
        (
            crate::running::TOKEN,
            Method::POST,
            "/admin/v1/apply",
            r#"{ "accounts": [{ "id": "one", "quotas": { "north": 1, "north": 2 } }] }"#,
            "accounts[0].quotas.north",
        ),
    ] {
        let (code, error) = send(&controller, token, method, path, body.to_owned()).await;
        assert_eq!((code, entry(&error)), (400, (named, "it is there twice")), "{body}: {error}");
    }
    assert_eq!(show(&controller, &one, &vpcs).await["totalCount"], 0);
}

#[tokio::test]
async fn v1_lists_are_paged_sorted_and_filtered_while_entries_are_added() {
    let (controller, one, _) = controller("").await;
    let hub = vpc(&controller, &one, NORTH, "10.0.0.0/16").await;
    let add = async |number: u8| {
        let spoke = vpc(&controller, &one, NORTH, &format!("10.{number}.0.0/16")).await;
        let name = format!("p{number:02}");
        peer(&controller, &one, json!({ "vpcPeeringName": name, "vpcId": hub, "remoteVpcId": spoke })).await
    };
    let mut made = BTreeSet::new();
    for number in 10..17 {
        made.insert(add(number).await);
    }
    let list = format!("{NORTH}/vpcPeerings/");
    for sort in ["", "-createdTime", "createdTime", "name", "-name"] {
        let (mut marker, mut ids, mut names) = (String::new(), Vec::new(), Vec::new());
        loop {
            let page = show(&controller, &one, &format!("{list}?pageSize=3&sort={sort}&marker={marker}")).await;
            for it in page["vpcPeerings"].as_array().unwrap() {
                ids.push(it["vpcPeeringId"].as_str().unwrap().to_owned());
                names.push(it["vpcPeeringName"].as_str().unwrap().to_owned());
            }
            match page["nextMarker"].as_str() {
                Some(next) => marker = next.to_owned(),
                None => break,
            }
            if ids.len() == 3 && sort.is_empty() {
                // Newer ones come before what was shown.
                add(90).await;
            }
        }
        let listed: BTreeSet<String> = ids.iter().cloned().collect();
        assert_eq!(listed.len(), ids.len(), "{sort}: none twice");
        assert!(listed.is_superset(&made), "{sort}: none skipped");
        if let Some(descends) = ["name", "-name"].iter().position(|it| *it == sort) {
            let mut sorted = names.clone();
            sorted.sort_unstable();
            if descends == 1 {
                sorted.reverse();
            }
            assert_eq!(names, sorted);
        }
    }
    let first = show(&controller, &one, &format!("{list}?pageSize=1")).await;
    assert_eq!((first["vpcPeerings"].as_array().unwrap().len(), first["totalCount"].as_u64()), (1, Some(8)));
    for list in ["vpcs", "routeTables"] {
        let page = show(&controller, &one, &format!("{NORTH}/{list}?pageSize=5&sort=name")).await;
        let next = page["nextMarker"].as_str().unwrap();
        let rest = show(&controller, &one, &format!("{NORTH}/{list}?pageSize=5&sort=name&marker={next}")).await;
        assert_eq!(page["totalCount"], 9);
        assert_eq!((rest[list].as_array().unwrap().len(), &rest["nextMarker"]), (4, &Value::Null), "{list}");
    }
    for (query, named) in [
        ("filters.1.name=state&filters.1.values.1=activ", "state"),
        ("filters.1.name=state&filters.1.values.1=active&filters.1.values.2=", "state"),
        ("filters.1.name=role&filters.1.values.1=owner", "role"),
        ("pageSize=0", "pageSize"),
        ("sort=age", "sort"),
        ("marker=nonsense", "marker"),
    ] {
        let (code, error) = call(&controller, &one, Method::GET, &format!("{list}?{query}"), Value::Null).await;
        assert_eq!((code, entry(&error).0), (400, named), "{query}: {error}");
    }
    for (query, count) in [("state&filters.1.values.1=Connected", 8), ("role&filters.1.values.1=receiver", 0)] {
        assert_eq!(show(&controller, &one, &format!("{list}?filters.1.name={query}")).await["totalCount"], count);
    }
}

#[tokio::test]
async fn each_account_has_its_own_tags_and_the_receiver_sees_the_message() {
    let (controller, one, two) = controller("tags_per_region = 3\n").await;
    let a = vpc(&controller, &one, NORTH, "10.1.0.0/16").await;
    let c = vpc(&controller, &two, EAST, "10.3.0.0/16").await;
    let body = json!({ "vpcPeeringName": "p", "vpcId": a, "remoteVpcId": c, "remoteAccountId": "two", "remoteRegionId": "east",
        "bandwidth": 10, "description": "for the audit", "message": "as agreed with Li", "userTags": [{ "key": "team", "value": "net" }] });
    let id = peer(&controller, &one, body).await;
    let (mine, theirs) = (format!("{NORTH}/vpcPeerings/{id}"), format!("{EAST}/vpcPeerings/{id}"));
    let seen = async |token: &str, path: &str| {
        let shown = show(&controller, token, path).await["vpcPeering"].take();
        (shown["description"].clone(), shown["message"].clone(), shown["tags"].clone())
    };
    let tag = |key: &str, value: &str| json!({ "key": key, "value": value });
    assert_eq!(
        seen(&one, &mine).await,
        (json!("for the audit"), json!("as agreed with Li"), json!([tag("team", "net")]))
    );
    assert_eq!(seen(&two, &theirs).await, (json!(""), json!("as agreed with Li"), json!([])));
    let listed = show(&controller, &two, &format!("{EAST}/vpcPeerings/")).await;
    assert!(!listed.to_string().contains("for the audit") && !listed.to_string().contains("team"));
    let trail = show(&controller, &two, "/v1/auditEntries").await.to_string();
    assert!(trail.contains(&id) && !trail.contains("for the audit") && !trail.contains("team"), "{trail}");
    // Either sets its own, also before acceptance, and removes them again.
    let own = json!({ "userTags": [{ "key": "cost", "value": "7" }, { "key": "flag" }] });
    done(&controller, &two, Method::PUT, &theirs, own).await;
    done(
        &controller,
        &one,
        Method::PUT,
        &mine,
        json!({ "userTags": [{ "key": "team", "value": "core" }], "description": "d" }),
    )
    .await;
    assert_eq!(seen(&one, &mine).await, (json!("d"), json!("as agreed with Li"), json!([tag("team", "core")])));
    assert_eq!(seen(&two, &theirs).await.2, json!([tag("cost", "7"), tag("flag", "")]));
    // Nor does a trail show that the other one has done so.
    for (token, other) in [(&one, "account/two"), (&two, "account/one")] {
        let trail = show(&controller, token, "/v1/auditEntries").await["entries"].clone();
        let modified = trail.as_array().unwrap().iter().filter(|it| it["action"] == "ModifyPeering");
        let by: BTreeSet<&str> = modified.filter_map(|it| it["actor"].as_str()).collect();
        assert!(!by.is_empty() && !by.contains(other), "{trail}");
    }
    let found = async |token: &str, region: &str, query: &str| {
        show(&controller, token, &format!("{region}/vpcPeerings/?{query}")).await["totalCount"].as_u64().unwrap()
    };
    for (query, by_one, by_two) in [
        ("tags.1.key=team&tags.1.values.1=core", 1, 0),
        ("tags.1.key=team&tags.1.values.1=net", 0, 0),
        ("tags.1.key=cost&tags.1.values.1=6&tags.1.values.2=7", 0, 1),
        ("tags.1.key=flag&tags.2.key=cost", 0, 1),
        ("tags.1.key=flag&tags.2.key=team", 0, 0),
    ] {
        assert_eq!((found(&one, NORTH, query).await, found(&two, EAST, query).await), (by_one, by_two), "{query}");
    }
    // They count for the account that has them.
    let four: Vec<Value> = (0..4).map(|n| tag(&format!("k{n}"), "")).collect();
    let (code, error) = call(&controller, &two, Method::PUT, &theirs, json!({ "userTags": four })).await;
    assert_eq!((code, error["status"].as_str()), (429, Some("QUOTA_EXCEEDED")), "{error}");
    let quota = show(&controller, &two, &format!("{EAST}/quotas/?type=tag")).await;
    assert_eq!(quota["quota"]["count"], 2);
    // The receiver cannot change what is not its own, nor with its tags.
    for body in [json!({ "description": "x" }), json!({ "vpcPeeringName": "x", "userTags": [] }), json!({})] {
        let (code, _) = call(&controller, &two, Method::PUT, &theirs, body.clone()).await;
        assert_eq!(code, 403, "{body}");
    }
    for (body, named) in [
        (json!({ "userTags": [{ "key": "" }] }), "userTags[0].key"),
        (json!({ "userTags": [{ "key": "a" }, { "key": "a" }] }), "userTags[1]"),
        (json!({ "userTags": [{ "key": "a", "value": "\u{202e}" }] }), "userTags[0].value"),
        (json!({ "userTags": "a" }), "userTags"),
    ] {
        let (code, error) = call(&controller, &two, Method::PUT, &theirs, body).await;
        assert_eq!((code, entry(&error).0), (400, named), "{error}");
    }
    done(&controller, &two, Method::PUT, &theirs, json!({ "userTags": [] })).await;
    assert_eq!(seen(&two, &theirs).await.2, json!([]));
    assert_eq!(seen(&one, &mine).await.2, json!([tag("team", "core")]));
    // A message has the maximum length of a description.
    let long = json!({ "vpcPeeringName": "q", "vpcId": a, "remoteVpcId": c, "message": "m".repeat(257) });
    let (code, error) = call(&controller, &one, Method::POST, &format!("{NORTH}/vpcPeerings/"), long).await;
    assert_eq!((code, entry(&error).0), (400, "message"));
}

#[tokio::test]
async fn bills_support_offsets_and_dates_in_their_time_zone() {
    let settings = "billing_time_zone = 'America/New_York'\ncurrency = 'USD'\n\
                    [[prices]]\ntiers = [{ up_to_mbit = 5, per_mbit_hour = '0.10' }, { per_mbit_hour = '0.25' }]\n";
    let (controller, one, _) = controller(settings).await;
    let ask =
        async |query: &str| call(&controller, &one, Method::GET, &format!("/v1/metering?{query}"), Value::Null).await;
    for query in [
        "from=2026-01-01T00:00:00Z",
        "from=2026-01-01T00:00:00%2B08:00&to=2026-01-01T00:00:01%2B08:00",
        "from=2026-01-01T00:00:00+08:00",
        "from=2026-01-01&to=2026-02-01",
        // Midnight in New York is five o'clock in Greenwich.
        "from=2026-01-01T04:59:59Z&to=2026-01-01",
        "from=2026-01-01&to=2026-01-01T05:00:01Z",
    ] {
        let (code, answer) = ask(query).await;
        assert_eq!((code, answer["total"].as_str()), (200, Some("0.000000")), "{query}: {answer}");
    }
    for (query, field) in [
        ("from=2026-01-01T00:00:00", "from"),
        ("to=2026-01-01%2000:00:00", "to"),
        ("from=2026-02-30", "from"),
        ("from=yesterday", "from"),
        ("from=2026-01-01T05:00:00Z&to=2026-01-01", "to"),
        ("from=2026-01-01&to=2026-01-01T00:00:00%2B08:00", "to"),
    ] {
        let (code, error) = ask(query).await;
        assert_eq!((code, entry(&error).0), (400, field), "{query}: {error}");
        assert!(field == "to" || entry(&error).1.contains("America/New_York"), "{error}");
    }
    let prices = show(&controller, &one, "/v1/prices").await;
    let tiers = json!([{ "upToMbit": 5, "perMbitHour": "0.1" }, { "upToMbit": null, "perMbitHour": "0.25" }]);
    let expected =
        json!({ "currency": "USD", "timeZone": "America/New_York", "prices": [{ "regions": null, "tiers": tiers }] });
    assert_eq!(prices, expected);
    let place = controller.stop();
    place.settings("billing_time_zone = 'Nowhere/Land'\n");
    let ended = place.run(&[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("billing_time_zone") && said.contains("Nowhere/Land"), "{said}");
}

/// L5: it protects an account from its own mistakes, and blocks nobody else.
#[tokio::test]
async fn a_protected_object_cannot_be_deleted_before_the_protection_is_ended() {
    let (controller, one, two) = controller("").await;
    let a = vpc(&controller, &one, NORTH, "10.1.0.0/16").await;
    let c = vpc(&controller, &two, EAST, "10.3.0.0/16").await;
    let ask = json!({ "vpcPeeringName": "p", "vpcId": a, "remoteVpcId": c, "remoteAccountId": "two", "remoteRegionId": "east",
        "bandwidth": 10 });
    let id = peer(&controller, &one, ask.clone()).await;
    let (own, other) = (format!("{NORTH}/vpcPeerings/{id}"), format!("{EAST}/vpcPeerings/{id}"));
    let protect = |on: bool| json!({ "deletionProtection": on });
    done(&controller, &one, Method::PUT, &own, protect(true)).await;
    let shown = async |token: &str, path: &str| {
        show(&controller, token, path).await["vpcPeering"]["deletionProtection"].clone()
    };
    assert_eq!((shown(&one, &own).await, shown(&two, &other).await), (json!(true), json!(false)));
    let (code, error) = call(&controller, &one, Method::DELETE, &own, Value::Null).await;
    assert_eq!((code, error["details"][0]["reason"].as_str()), (400, Some("DeletionProtected")), "{error}");
    // Either account has its own, also the one that can change nothing else.
    done(&controller, &two, Method::PUT, &other, protect(true)).await;
    assert_eq!(call(&controller, &two, Method::DELETE, &other, Value::Null).await.0, 400);
    done(&controller, &two, Method::PUT, &other, protect(false)).await;
    assert_eq!(shown(&one, &own).await, true);
    done(&controller, &two, Method::DELETE, &other, Value::Null).await;
    // An ended peering can always be deleted.
    done(&controller, &one, Method::DELETE, &own, Value::Null).await;
    let again = peer(&controller, &one, ask).await;
    let own = format!("{NORTH}/vpcPeerings/{again}");
    done(&controller, &one, Method::PUT, &own, protect(true)).await;
    done(&controller, &one, Method::PUT, &own, protect(false)).await;
    done(&controller, &one, Method::DELETE, &own, Value::Null).await;
    // VPCs, also after a restart.
    let path = format!("{NORTH}/vpcs/{a}");
    done(&controller, &one, Method::POST, &path, protect(true)).await;
    let place = controller.stop();
    let controller = place.start().await;
    let (code, error) = call(&controller, &one, Method::DELETE, &path, Value::Null).await;
    assert_eq!((code, error["details"][0]["reason"].as_str()), (400, Some("DeletionProtected")), "{error}");
    assert_eq!(show(&controller, &one, &path).await["vpc"]["deletionProtection"], true);
    done(&controller, &one, Method::POST, &path, protect(false)).await;
    done(&controller, &one, Method::DELETE, &path, Value::Null).await;
    let (code, _) = call(&controller, &one, Method::POST, &path, json!({ "deletionProtection": "yes" })).await;
    assert_eq!(code, 400);
}

/// C9, L13, L11: lists of exported and imported prefixes, by either account, in a dry run, at acceptance, and live.
#[tokio::test]
async fn each_account_sets_its_own_prefix_lists_and_does_not_see_the_others() {
    let (controller, one, two) = controller("").await;
    let a = vpc(&controller, &one, NORTH, "10.1.0.0/16").await;
    let b = vpc(&controller, &two, NORTH, "10.2.0.0/16").await;
    // Both have it, and neither exports it.
    for (token, vpc) in [(&one, &a), (&two, &b)] {
        let body = json!({ "secondaryCidrSpec": { "vpcId": vpc, "cidr": "10.9.0.0/16" } });
        done(&controller, token, Method::PUT, &format!("{NORTH}/secondaryCidrs"), body).await;
    }
    let ask = |more: Value| {
        let mut body = json!({ "vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b, "remoteAccountId": "two" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let path = format!("{NORTH}/vpcPeerings/");
    let (code, error) =
        call(&controller, &one, Method::POST, &path, ask(json!({ "exportPrefixes": ["10.1.0.1/24"] }))).await;
    assert_eq!((code, entry(&error).0), (400, "exportPrefixes[0]"), "{error}");
    let (code, error) =
        call(&controller, &one, Method::POST, &path, ask(json!({ "importPrefixes": ["10.2.0.0/24", 7] }))).await;
    assert_eq!((code, entry(&error).0), (400, "importPrefixes[1]"), "{error}");
    let part = json!({ "exportPrefixes": ["10.1.1.0/24", "10.1.0.0/24"], "importPrefixes": ["10.2.0.0/16"] });
    let mut dry = part.clone();
    dry["dryRun"] = json!(true);
    let outlook = done(&controller, &one, Method::POST, &path, ask(dry)).await;
    let own = json!(["10.1.0.0/24", "10.1.1.0/24"]);
    assert_eq!(outlook["reachable"], json!({ "ownPrefixes": own, "remotePrefixes": null }), "{outlook}");
    let id = peer(&controller, &one, ask(part)).await;
    let path = format!("{NORTH}/vpcPeerings/{id}");

    // The receiver sees what is exported, and not the rest.
    let request = show(&controller, &two, &path).await["vpcPeering"].clone();
    assert_eq!(
        (&request["remoteVpcInfo"]["addressPrefix"], request["remoteVpcInfo"].get("exportPrefixes")),
        (&own, None)
    );
    assert_eq!(request["remoteVpcInfo"]["effectivePrefixes"], own);
    let asked = show(&controller, &one, &path).await["vpcPeering"].clone();
    assert_eq!(
        (&asked["vpcInfo"]["exportPrefixes"], &asked["vpcInfo"]["importPrefixes"]),
        (&own, &json!(["10.2.0.0/16"]))
    );
    assert_eq!(asked["remoteVpcInfo"]["effectivePrefixes"], json!([]), "it has not accepted");
    let accept = format!("{path}:acceptVpcPeering");
    let taken = json!({ "importPrefixes": ["10.1.0.0/25"], "exportPrefixes": ["10.2.2.0/24"], "dryRun": true });
    let outlook = done(&controller, &two, Method::POST, &accept, taken).await;
    let reachable = json!({ "ownPrefixes": ["10.2.2.0/24"], "remotePrefixes": ["10.1.0.0/25"] });
    assert_eq!((&outlook["reachable"], &outlook["dryRun"]), (&reachable, &json!(true)));
    assert_eq!(show(&controller, &two, &path).await["vpcPeering"]["state"], "pending");
    let taken = json!({ "importPrefixes": ["10.1.0.0/25"], "exportPrefixes": ["10.2.2.0/24"] });
    done(&controller, &two, Method::POST, &accept, taken).await;

    let of = async |token: &str, side: &str, field: &str| {
        show(&controller, token, &path).await["vpcPeering"][side][field].clone()
    };
    for (token, own, other) in [(&one, "vpcInfo", "remoteVpcInfo"), (&two, "remoteVpcInfo", "vpcInfo")] {
        assert_eq!(of(token, own, "effectivePrefixes").await, json!(["10.1.0.0/25"]));
        assert_eq!(of(token, other, "effectivePrefixes").await, json!(["10.2.2.0/24"]));
    }
    assert_eq!(of(&one, "remoteVpcInfo", "addressPrefix").await, json!(["10.2.2.0/24"]), "10.9.0.0/16 is not shown");
    assert_eq!(of(&one, "remoteVpcInfo", "importPrefixes").await, Value::Null);
    assert_eq!(of(&two, "vpcInfo", "addressPrefix").await, json!(["10.2.0.0/16", "10.9.0.0/16"]));
    let routes = show(&controller, &one, &format!("{path}/routes")).await["routes"].clone();
    let routes: Vec<&str> =
        routes.as_array().unwrap().iter().map(|it| it["destinationCidr"].as_str().unwrap()).collect();
    assert_eq!(routes, ["10.2.2.0/24", "10.1.0.0/25"]);

    // Each changes its own, and an empty list means all again.
    let set = format!("{path}:modifyVpcPeeringPrefixes");
    let outlook = done(&controller, &one, Method::PUT, &set, json!({ "importPrefixes": [], "dryRun": true })).await;
    assert_eq!(outlook["reachable"]["remotePrefixes"], json!(["10.2.2.0/24"]));
    assert_eq!(of(&one, "vpcInfo", "importPrefixes").await, json!(["10.2.0.0/16"]), "it was a dry run");
    let changed =
        done(&controller, &two, Method::PUT, &set, json!({ "importPrefixes": [], "exportPrefixes": null })).await;
    assert_eq!(changed["vpcPeering"]["remoteVpcInfo"]["effectivePrefixes"], own);
    assert_eq!(changed["vpcPeering"]["vpcInfo"]["exportPrefixes"], json!(["10.2.2.0/24"]), "it stays");
    let (code, error) = call(&controller, &two, Method::PUT, &set, json!({ "vpcId": a, "exportPrefixes": [] })).await;
    assert_eq!((code, error["details"][0]["reason"].as_str()), (403, Some("VpcPeerPurviewError")), "{error}");
    // One exports all, and the other one imports what does not overlap its own.
    done(&controller, &two, Method::PUT, &set, json!({ "exportPrefixes": [] })).await;
    let (code, error) = call(&controller, &one, Method::PUT, &set, json!({ "importPrefixes": [] })).await;
    assert_eq!((code, error["details"][0]["reason"].as_str()), (400, Some("VpcPeerCidrConflict")), "{error}");
    let (code, _) = call(&controller, &two, Method::POST, &set, json!({})).await;
    assert_eq!(code, 405);

    // Both get events, and the trail says who did what, without the other's lists.
    for (token, own) in [(&one, false), (&two, true)] {
        let events = show(&controller, token, &format!("{NORTH}/events?limit=100")).await["events"].clone();
        let told = events.as_array().unwrap().iter().filter(|it| it["type"] == "peering.prefixesChanged").count();
        assert_eq!(told, 2, "{events}");
        let trail = show(&controller, token, "/v1/auditEntries").await["entries"].clone();
        let entry =
            trail.as_array().unwrap().iter().find(|it| it["action"] == "SetPrefixes" && it["outcome"] == "done");
        assert_eq!(entry.unwrap()["asked"].is_null(), !own, "{trail}");
    }
    for (value, count) in [("true", 1), ("false", 0)] {
        let query = format!("{NORTH}/vpcPeerings/?filters.1.name=prefixScoped&filters.1.values.1={value}");
        assert_eq!(show(&controller, &one, &query).await["totalCount"], count);
    }
    // It is the same after a restart.
    let controller = controller.stop().start().await;
    let shown = show(&controller, &one, &path).await["vpcPeering"].clone();
    assert_eq!(shown["vpcInfo"]["effectivePrefixes"], own);
    assert_eq!(shown["vpcInfo"]["exportPrefixes"], own);
}
