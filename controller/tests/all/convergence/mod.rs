//! Engine, store and push with agents that are real HTTP servers with a ledger in memory.

mod fakes;
mod hosts;
mod rollout;

use crate::common::{apply, create, delete, peering};
use axum::{
    Json, Router,
    extract::{ConnectInfo, Request as HttpRequest, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state, map_response_with_state},
    response::Response,
    routing::{delete as delete_route, get, put},
};
use cps_peering_config::{
    HostConfig, HostPatch, HostReport, Revision, ValidHostConfig,
    agent_api::{CLUSTER_HEADER, CLUSTER_PATH, CONFIG_PATH, ErrorBody, STATUS_PATH, TRAFFIC_PATH},
    cluster::ClusterId,
    id::{HostId, PeeringId},
    report::{Counters, Problem, ProblemKind, Scope},
    traffic::{Count, SideTraffic, TrafficReport},
};
use cps_peering_controller::{
    cluster::follower::leader_routes,
    engine::{Engine, EngineError, Options, steady, traffic::Span},
    hosts::{client::AgentClients, push},
    model::{
        Actor, Command, Outcome, Request,
        account::{Change, ChargeStatus, What},
        host::{Change as HostChange, Removal, What as HostCommand},
        inventory::{Apply, Approval},
        peering::Create,
        prefixes::PrefixLists,
        record::PeeringState,
    },
    store::{Origin, Store, StoreError},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use fakes::*;

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_collected_with_each_poll() {
    let (_folder, controller, agents) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    let sides = controller.engine.read(|state, _| state.peerings()[&id].sides().map(|side| side.vni.unwrap()));
    for vni in sides {
        let sent = |packets| {
            let totals = controller.engine.traffic().of(&id, vni, Span::Hour)?.0;
            (totals.sent.packets >= packets).then_some(totals)
        };
        // Within a region there are no other requests for counters.
        controller.until("counters", |_| sent(3)).await;
    }
    // Also from a host with problems.
    let problem = Problem { kind: ProblemKind::Failed, scope: Scope::Host, object: "x".into(), reason: "wrong".into() };
    agents[0].host.lock().unwrap().problems.push(problem);
    let seen = agents[0].host.lock().unwrap().counted;
    controller.until("counters", |_| (agents[0].host.lock().unwrap().counted > seen + 3).then_some(())).await;
    agents[0].host.lock().unwrap().problems.clear();
    // It reports a side for some time after it is gone.
    controller.run(&delete(&id)).unwrap();
    controller.until_gone(&id).await;
    let seen = agents.each_ref().map(|agent| agent.host.lock().unwrap().counted);
    controller.until("counters", |_| (agents[0].host.lock().unwrap().counted > seen[0] + 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peering_is_active_when_its_hosts_have_confirmed_and_gone_when_they_have_again() {
    let (_folder, controller, agents) = built().await;
    let before = agents.each_ref().map(Agent::revision);
    for agent in &agents {
        agent.calls();
    }
    let id = controller.peer();
    controller.until_active(&id).await;
    assert_eq!(agents.each_ref().map(Agent::sides), [1, 1]);
    assert_eq!(agents.each_ref().map(Agent::calls), [["PATCH"], ["PATCH"]], "a change is sent as one");
    assert!(agents[0].revision() > before[0]);
    controller.run(&delete(&id)).unwrap();
    controller.until_gone(&id).await;
    assert_eq!(agents.each_ref().map(Agent::sides), [0, 0]);
}

/// A delete that had to wait for a handshake would stop traffic later.
#[tokio::test(flavor = "multi_thread")]
async fn changes_use_the_connection_of_the_last_poll() {
    let folder = tempfile::tempdir().unwrap();
    let agents = [Agent::start().await, Agent::start().await];
    let controller = Controller::asking(crate::place::open(folder.path()).unwrap(), PATIENCE);
    controller.build([&agents[0], &agents[1]]);
    controller.until_in_sync().await;
    let connections = || agents.each_ref().map(|agent| agent.host.lock().unwrap().connections.clone());
    let before = connections();
    let id = controller.peer();
    controller.until_active(&id).await;
    controller.run(&delete(&id)).unwrap();
    controller.until_gone(&id).await;
    assert_eq!(connections(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_poll_begins_a_connection() {
    let (_folder, controller, agents) = built().await;
    // It keeps the certificates that it began with.
    controller.until("several", |_| (agents[0].host.lock().unwrap().connections.len() > 3).then_some(())).await;
}

/// A patch would name sides that an agent of 0.2.0 does not have.
#[tokio::test(flavor = "multi_thread")]
async fn old_agents_get_peerings_with_prefix_lists_as_whole_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let agents = [Agent::start().await, Agent::start().await];
    agents[0].host.lock().unwrap().before_scoped_sides = true;
    let controller = Controller::start(folder.path());
    controller.build([&agents[0], &agents[1]]);
    controller.until_in_sync().await;
    let _ = agents.each_ref().map(Agent::calls);
    let prefixes = PrefixLists { export: vec!["10.1.0.0/24".parse().unwrap()], import: vec![] };
    let part = Command::CreatePeering(Create { prefixes, ..create("v1", "v2") });
    let id = peering(&controller.run(&part).unwrap());
    controller.until("sides", |_| (agents.each_ref().map(Agent::sides) == [1, 1]).then_some(())).await;
    assert_eq!(agents.each_ref().map(Agent::calls), [["PUT"], ["PATCH"]]);
    controller.run(&delete(&id)).unwrap();
    controller.until_gone(&id).await;
    assert_eq!(agents.each_ref().map(Agent::calls), [["PUT"], ["PATCH"]], "also to take it away");
    let whole = controller.peer();
    controller.until_active(&whole).await;
    assert_eq!(agents.each_ref().map(Agent::calls), [["PATCH"], ["PATCH"]], "others are sent as a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_is_finished_when_it_is_back() {
    let (_folder, controller, [one, two]) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    let away = two.stop().await;
    controller.run(&delete(&id)).unwrap();
    let missing = controller.until("one of two", |seen| {
        let missing = seen.agents.missing(seen.state.peerings().get(&id)?);
        (missing.len() == 1).then_some(missing)
    });
    assert_eq!(missing.await[0].as_str(), "h2");
    assert_eq!(one.sides(), 0, "the other host does not wait for it");
    let two = Agent::again(away).await;
    controller.until_gone(&id).await;
    assert_eq!(two.sides(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_reports_as_failed_is_not_confirmed() {
    let (_folder, controller, [one, _two]) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    let side = controller.engine.read(|state, _| state.peerings()[&id].initiator.vni.unwrap());
    let problem = Problem {
        scope: Scope::Side(side),
        kind: ProblemKind::Failed,
        object: format!("link cpspeer{side}"),
        reason: "Device or resource busy".into(),
    };
    one.host.lock().unwrap().problems = vec![problem];
    controller.run(&delete(&id)).unwrap();
    let missing = controller.until("the other host", |seen| {
        let missing = seen.agents.missing(seen.state.peerings().get(&id)?);
        (missing.len() == 1).then_some(missing)
    });
    assert_eq!(missing.await[0].as_str(), "h1");
    one.host.lock().unwrap().problems.clear();
    controller.until_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_controller_continues_and_sends_nothing_that_agents_have() {
    let (folder, controller, agents) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    let content = |controller: &Controller| {
        controller.engine.read(|state, _| (state.hosts().clone(), state.vpcs().clone(), state.peerings().clone()))
    };
    let before = content(&controller);
    stop(controller, folder.path()).await;
    for agent in &agents {
        agent.calls();
    }
    let controller = Controller::start(folder.path());
    controller.until_in_sync().await;
    assert_eq!(content(&controller), before);
    // In etcd another one may continue: agents learn its epoch.
    let calls = usize::from(crate::place::in_etcd());
    assert_eq!(agents.each_ref().map(|agent| agent.calls().len()), [calls; 2]);
    controller.run(&delete(&id)).unwrap();
    controller.until_gone(&id).await;
}

/// Stops a controller and waits until its store is free.
async fn stop(controller: Controller, folder: &Path) {
    controller.workers.abort();
    drop(controller);
    while matches!(crate::place::open(folder), Err(StoreError::InUse(_))) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_neither_pushes_nor_answers() {
    if !crate::place::in_etcd() {
        return; // A file has one user.
    }
    let (_folder, controller, [one, two]) = built().await;
    let routes = Router::new().route("/", get(async || "done"));
    let routes = leader_routes(&controller.engine, routes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    cps_peering_http::tls::use_ring();
    assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "done");

    // There is something left to push.
    let away = two.stop().await;
    controller.peer();
    controller.until("the other host", |_| (one.sides() == 1).then_some(())).await;
    tokio::task::block_in_place(|| controller.engine.store().leave());
    let two = Agent::again(away).await;
    two.calls();
    let error = |seen: &Seen<'_>| {
        let contact = seen.agents.contact(&"h2".parse().unwrap())?;
        contact.error.clone().filter(|error| error.contains("lost leadership"))
    };
    controller.until("an error", error).await;
    assert!(two.calls().is_empty());
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(
        (answer.status(), answer.headers()["retry-after"].as_bytes()),
        (StatusCode::SERVICE_UNAVAILABLE, &b"1"[..])
    );
    server.abort();
    let refused = controller.run(&apply("[[regions]]\nid = 'late'\n", false)).unwrap_err();
    let deposed = |error: &EngineError| match error {
        EngineError::Store(error) => matches!(**error, StoreError::Deposed { .. }),
        _ => false,
    };
    assert!(deposed(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_an_empty_store_undoes_nothing_and_says_why() {
    let (folder, controller, agents) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    stop(controller, folder.path()).await;
    let revision = agents[0].revision();
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(folder.path());
    controller.build([&agents[0], &agents[1]]);
    let error = controller.until("an error", |seen| seen.agents.contact(&"h1".parse().unwrap())?.error.clone()).await;
    assert!(error.contains("newer") && error.contains("`--epoch 2`"), "{error}");
    assert_eq!((agents[0].revision(), agents[0].sides()), (revision, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lost_its_ledger_gets_everything_again() {
    let (_folder, controller, agents) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    agents[0].host.lock().unwrap().config = None;
    controller.until("noticed", |_| (agents[0].sides() == 1).then_some(())).await;
    assert!(agents[0].calls().contains(&"PUT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_does_not_wait_for_a_delayed_response() {
    let (_folder, controller, [one, _two]) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    one.calls();
    one.host.lock().unwrap().slow = Duration::from_mins(1);
    let text = "[[vpcs]]\nid = 'v2'\naccount = 'acme'\nregion = 'north'\ncidrs = ['10.2.0.0/16', '10.12.0.0/16']\n";
    let inventory = toml::from_str(text).unwrap();
    controller.run(&Command::Apply(Apply::of(inventory))).unwrap();
    while one.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    one.host.lock().unwrap().slow = Duration::ZERO;
    controller.run(&delete(&id)).unwrap();
    // Well before the delayed push would time out.
    let gone =
        controller.engine.wait_for(Duration::from_secs(6), |state, _| state.peerings()[&id].is_ended().then_some(()));
    assert!(gone.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_concerns_one_host_leaves_the_others_revisions() {
    let (_folder, controller, [one, two]) = built().await;
    let before = (one.revision(), two.revision());
    let text = "[[ports]]\nvpc = 'v1'\nhost = 'h1'\ninterface = 'eth2'\ngateways = ['10.1.1.1/24']\n";
    let inventory = toml::from_str(text).unwrap();
    controller.run(&Command::Apply(Apply::of(inventory))).unwrap();
    controller.until("the change", |_| (one.revision() > before.0).then_some(())).await;
    controller.until_in_sync().await;
    assert_eq!(two.revision(), before.1);
}

#[tokio::test]
async fn a_peering_without_hosts_is_active_and_gone_immediately() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::place::open(folder.path()).unwrap();
    let (engine, _hosts) = Engine::open(store, Options::default()).unwrap();
    let vpc = |n| format!("[[vpcs]]\nid = 'v{n}'\naccount = 'acme'\nregion = 'north'\ncidrs = ['10.{n}.0.0/16']\n");
    let inventory = toml::from_str(&format!("[[regions]]\nid = 'north'\n{}{}", vpc(1), vpc(2))).unwrap();
    let run = |command| engine.execute(&Request::new(Actor::Operator, command)).unwrap();
    run(Command::Apply(Apply::of(inventory)));
    let id = peering(&run(Command::CreatePeering(create("v1", "v2"))));
    engine.read(|state, _| assert_eq!(state.peerings()[&id].state, PeeringState::Active));
    run(delete(&id));
    engine.read(|state, _| assert!(state.peerings()[&id].is_ended()));
}

#[tokio::test]
async fn unpaid_peerings_are_deleted_without_another_command() {
    const WEEK: u64 = 7 * 24 * 60 * 60 * 1000;
    let folder = tempfile::tempdir().unwrap();
    let store = crate::place::open(folder.path()).unwrap();
    let now = Arc::new(AtomicU64::new(1));
    let told = Arc::clone(&now);
    let clock = steady(move || told.load(Ordering::Relaxed));
    let (engine, _hosts) = Engine::open(store, Options { clock, ..Options::default() }).unwrap();
    let place = |n, region| {
        format!(
            "[[regions]]\nid = '{region}'\n\
             [[vpcs]]\nid = 'v{n}'\naccount = 'acme'\nregion = '{region}'\ncidrs = ['10.{n}.0.0/16']\n"
        )
    };
    let inventory = toml::from_str(&(place(1, "north") + &place(2, "east"))).unwrap();
    let run = |command| engine.execute(&Request::new(Actor::Operator, command)).unwrap();
    run(Command::Apply(Apply::of(inventory)));
    let id = peering(&run(Command::CreatePeering(create("v1", "v2"))));
    run(Command::Account(Change { id: "acme".parse().unwrap(), what: What::Charge(ChargeStatus::Arrear) }));
    engine.sweep();
    engine.read(|state, _| assert!(matches!(state.peerings()[&id].state, PeeringState::Suspended { .. })));
    now.store(WEEK + 1, Ordering::Relaxed);
    engine.sweep();
    engine.read(|state, _| assert!(state.peerings()[&id].is_ended()));
}

#[test]
fn a_store_is_for_one_process_and_keeps_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
    let state = store.load().unwrap();
    assert_eq!((state.meta().epoch, state.meta().number), (1, 0));
    let error = store.commit(&[], &[], &[], 5).unwrap_err().to_string();
    assert!(error.contains("store.redb") && error.contains("expected commit 5"), "{error}");
    let error = Store::open(folder.path().join("missing/store.redb")).err().unwrap().to_string();
    assert!(error.contains("missing/store.redb"), "{error}");
    drop(store);
    std::fs::write(&path, b"this is no store").unwrap();
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.contains("store.redb"), "{error}");
}

/// Stops a controller whose store is a file, and waits until that is free.
async fn stop_on(controller: Controller, store: &Path) {
    controller.workers.abort();
    drop(controller);
    while matches!(Store::open(store), Err(StoreError::InUse(_))) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
