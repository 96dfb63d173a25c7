//! Bills with many periods: none is so long that it affects others.

use crate::{
    place,
    running::{Place, done},
};
use cps_peering_config::time::timestamp_ms;
use cps_peering_controller::model::{
    metering::Period,
    state::{Change, Meta},
};
use reqwest::Method;
use serde_json::{Value, json};

/// 2026-01-01T00:00:00Z.
const START_MS: u64 = 1_767_225_600_000;
/// The most periods in one response.
const MOST: u64 = 20_000;

fn period(nth: u64) -> Period {
    Period {
        peering: "vpcpr-0000000001".parse().unwrap(),
        payer: "one".parse().unwrap(),
        regions: ["north".parse().unwrap(), "east".parse().unwrap()],
        bandwidth: 100,
        from_ms: START_MS + nth * 1000,
        to_ms: START_MS + (nth + 1) * 1000,
    }
}

/// B6, C10.
#[tokio::test]
async fn a_bill_that_is_too_long_is_requested_in_parts() {
    let place = Place::new();
    let store = place::open(place.0.path()).unwrap();
    let periods: Vec<Period> = (0..=MOST).map(period).collect();
    store.commit(&[Change::Meta(Meta { number: 1, ..Meta::default() })], &periods, &[], 0).unwrap();
    drop(store);
    place.settings("");
    let controller = place.start().await;
    controller
        .operator(Method::POST, "/admin/v1/apply", json!({ "regions": [{ "id": "north" }, { "id": "east" }] }))
        .await;
    let [_, _, one] = controller.account("one").await;
    let [_, _, two] = controller.account("two").await;
    let at = |ms: u64| timestamp_ms(START_MS + ms);
    for query in
        [String::new(), "format=csv".to_owned(), format!("from={}", at(0)), format!("to={}", at((MOST + 1) * 1000))]
    {
        let answer = controller.get(&one, &format!("/v1/metering?{query}")).await;
        let code = answer.status().as_u16();
        let error = serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap()["error"].take();
        let fault = &error["details"][0];
        assert_eq!((code, fault["reason"].as_str()), (400, Some("MeteringWindowTooLong")), "{query}: {error}");
        assert!(fault["rule"].as_str().unwrap().contains("ask for a shorter time"), "{error}");
    }
    assert_eq!(
        controller
            .ask(Method::GET, "/admin/v1/accounts/one/metering")
            .bearer_auth(crate::running::TOKEN)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        400,
        "nor to operators"
    );
    let bill = async |token: &str, from: u64, to: u64| {
        let path = format!("/v1/metering?from={}&to={}", at(from), at(to));
        done(&controller, token, Method::GET, &path, Value::Null).await["lines"].as_array().unwrap().clone()
    };
    assert_eq!(bill(&one, 0, MOST * 1000).await.len(), 20_000);
    assert_eq!(bill(&two, 0, MOST * 1000).await.len(), 0);
    // Adjacent windows contain everything once, and periods across a border in both.
    let (first, second) = (bill(&one, 0, 4_500_500).await, bill(&one, 4_500_500, MOST * 1000 + 1000).await);
    assert_eq!((first.len(), second.len()), (4501, 15_501));
    assert_eq!((&first[4500]["seconds"], &second[0]["seconds"]), (&json!("0.500"), &json!("0.500")));
}
