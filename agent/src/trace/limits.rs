//! Trace queries that exceed the queue are refused, and so are those that take too long.

use super::Tracer;
use crate::{
    api,
    kernel::{UnderlayView, memory::Memory},
    reconcile::{self, Options},
};
use axum::{Router, body::Body, http::Request};
use cps_peering_config::agent_api::TRACE_PATH;
use http_body_util::BodyExt;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::task::{JoinSet, yield_now};
use tower::ServiceExt;

/// This many queries wait for their turn.
const PLACES: usize = 16;

async fn ask(router: Router) -> (u16, Value) {
    let question = r#"{ "vpc": "vpc-a", "local": "10.1.0.5", "peer_vpc": "vpc-b", "remote": "10.2.0.5" }"#;
    let request = Request::builder().method("POST").uri(TRACE_PATH).header("host", "h1");
    let answer = router.oneshot(request.body(Body::from(question)).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn queries_have_a_bounded_queue_and_bounded_time() {
    let options = Options { vxlan_port: 4789, underlay_mtu: None, resync: Duration::from_hours(1) };
    let reconciler = reconcile::start(Memory::new(), options).unwrap();
    let tracer = Tracer::new(reconciler, 4789, UnderlayView::default());
    let router = api::trace_route(tracer.clone(), None);
    // A query reads the kernel, and does not end.
    let reading = Arc::clone(&tracer.reader).lock_owned().await;
    let mut waiting = JoinSet::new();
    for _ in 0..PLACES {
        waiting.spawn(ask(router.clone()));
    }
    // All on one thread: each proceeds until it waits for its turn.
    for _ in 0..PLACES {
        yield_now().await;
    }
    let refused = |(status, answer): &(u16, Value), why: &str| {
        assert_eq!(*status, 503, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
    };
    refused(&ask(router.clone()).await, "too many paths");
    assert!(waiting.try_join_next().is_none(), "one that waits was refused");
    while let Some(answer) = waiting.join_next().await {
        refused(&answer.unwrap(), "within 2 s");
    }
    // Nothing is left of them.
    drop(reading);
    let (status, answer) = ask(router).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["send"][0]["reason"].as_str().unwrap().contains("no configuration"), "{answer}");
}
