//! Pushes, from HTTP to a kernel in memory and back to the report.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod clusters;
mod disk;
mod restart;
mod shares;

use axum::{Router, body::Body, http::Request};
use cps_peering_agent::{
    api,
    dirty_set::DirtySet,
    kernel::{Event, Kernel, memory::Memory},
    ledger::Ledger,
    objects::{DeviceSetting, LinkKind, Operation, RouteKey, Tunnel},
    ownership,
    reconcile::{self, Handle, Options, PersistentState},
    shares::SharesFile,
};
use cps_peering_config::{
    HostReport, Revision,
    report::{ProblemKind, Scope},
};
use cps_peering_otlp::Recorder;
use http_body_util::BodyExt;
use nix::libc;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tower::ServiceExt;

struct Agent {
    kernel: Memory,
    router: Router,
    reconciler: Handle,
    folder: TempDir,
}

impl Agent {
    /// An agent on a host with an underlay interface and two tenants' interfaces.
    fn start() -> Self {
        let kernel = Memory::new();
        for name in ["eth0", "tenant1", "tenant2"] {
            kernel.state().add_link(name, LinkKind::Other);
        }
        kernel.state().add_foreign_address("eth0", "192.0.2.1/24");
        Self::on(kernel, tempfile::tempdir().unwrap())
    }

    fn on(kernel: Memory, folder: TempDir) -> Self {
        Self::through(kernel.clone(), kernel, folder)
    }

    /// An agent that sees its kernel through a wrapper.
    fn through(seen: impl Kernel + 'static, kernel: Memory, folder: TempDir) -> Self {
        let options = Options { vxlan_port: 4789, underlay_mtu: None, resync: Duration::from_hours(1) };
        let kept = PersistentState {
            shares: SharesFile::beside(&folder.path().join("ledger")).load(),
            ..PersistentState::default()
        };
        let reconciler = reconcile::start_with(seen, options, kept).unwrap();
        let ledger = Ledger::new(folder.path().join("ledger"));
        let accepted = ledger.load().unwrap().map(Arc::new);
        if let Some(config) = &accepted {
            reconciler.configure(Arc::clone(config));
        }
        let shares = SharesFile::beside(&folder.path().join("ledger"));
        let router = api::router(accepted, ledger, shares, reconciler.clone(), Recorder::default());
        Self { kernel, router, reconciler, folder }
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer, _) = self.call_as(None, method, path, body).await;
        (status, answer)
    }

    /// The same from a controller of a cluster. Also returns the host's cluster.
    async fn call_as(&self, cluster: Option<u128>, method: &str, path: &str, body: &Value) -> (u16, Value, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(cluster) = cluster {
            request = request.header("x-cps-peering-cluster", format!("{cluster:032x}"));
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let whose = answer.headers().get("x-cps-peering-cluster").map_or("", |it| it.to_str().unwrap()).to_owned();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default(), whose)
    }

    async fn text(&self, path: &str) -> String {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    async fn put(&self, config: &Value) -> (u16, Value) {
        self.call("PUT", "/v1/config", config).await
    }

    async fn accepted(&self, config: &Value) -> HostReport {
        let (status, report) = self.put(config).await;
        assert_eq!(status, 200, "{report}");
        serde_json::from_value(report).unwrap()
    }

    async fn refused(&self, config: &Value) -> (u16, String) {
        let (status, error) = self.put(config).await;
        (status, error["message"].as_str().unwrap().to_owned())
    }

    async fn report_when(&self, test: impl FnMut(&HostReport) -> bool) -> HostReport {
        let mut report = self.reconciler.report();
        let found = tokio::time::timeout(Duration::from_secs(20), report.wait_for(test)).await;
        found.expect("in time").unwrap().clone()
    }

    fn operations(&self) -> usize {
        self.kernel.state().log.len()
    }
}

fn revision(number: u64) -> Revision {
    Revision { epoch: 1, number }
}

/// Two VPCs on this host, peered; the second also has a port on another.
fn config(number: u64) -> Value {
    json!({
        "revision": { "epoch": 1, "number": number }, "host": "h1", "underlay": "192.0.2.1",
        "vrfs": {
            "vpc-a": { "vni": 10, "ports": { "tenant1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] } } },
            "vpc-b": { "vni": 11, "ports": { "tenant2": { "gateways": ["10.2.0.1/24"], "prefixes": ["10.2.0.0/24"] } } }
        },
        "sides": {
            "1001": { "peering": "p", "vpc": "vpc-a", "peer_vni": 1002, "peer_cidrs": ["10.2.0.0/16"],
                      "remotes": { "192.0.2.2": ["10.2.9.0/24"] } },
            "1002": { "peering": "p", "vpc": "vpc-b", "peer_vni": 1001, "peer_cidrs": ["10.1.0.0/16"] }
        }
    })
}

#[tokio::test]
async fn a_push_that_changes_nothing_does_nothing() {
    let agent = Agent::start();
    let report = agent.accepted(&config(1)).await;
    assert!(report.in_sync(), "{report:?}");
    let operations = agent.operations();
    assert!(operations > 0);
    assert!(agent.accepted(&config(1)).await.in_sync());
    let report = agent.accepted(&config(2)).await;
    assert_eq!((report.applied, report.in_sync()), (Some(revision(2)), true));
    assert_eq!(agent.operations(), operations);
}

#[tokio::test]
async fn an_older_push_after_a_newer_is_refused() {
    let agent = Agent::start();
    agent.accepted(&config(5)).await;
    let (status, error) = agent.put(&config(4)).await;
    assert_eq!((status, &error["desired"]), (409, &json!({ "epoch": 1, "number": 5 })));
    let mut other = config(5);
    other["sides"] = json!({});
    let (status, message) = agent.refused(&other).await;
    assert!(status == 409 && message.contains("other content"), "{message}");
    let mut deposed = config(9);
    deposed["revision"]["epoch"] = json!(0);
    assert_eq!(agent.refused(&deposed).await.0, 409);
    assert_eq!(agent.report_when(|_| true).await.applied, Some(revision(5)));
}

#[tokio::test]
async fn an_empty_configuration_of_a_new_store_wipes_nothing() {
    let agent = Agent::start();
    agent.accepted(&config(70)).await;
    let empty = json!({ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1" });
    assert_eq!(agent.refused(&empty).await.0, 409);
    assert!(!agent.kernel.state().seen.routes.is_empty());
}

#[tokio::test]
async fn bad_pushes_name_what_is_wrong_and_change_nothing() {
    type Change = fn(&mut Value);
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let operations = agent.operations();
    let cases: [(Change, &str); 4] = [
        (|c| c["host"] = json!("h2"), "h2"),
        (|c| c["vrfs"]["vpc-a"]["ports"]["much-too-long-a-name"] = json!({}), "much-too-long-a-name"),
        (|c| c["sides"]["1001"]["peer_cidrs"] = json!(["10.3.0.0/16"]), "10.2.9.0/24"),
        (|c| c["format"] = json!(3), "a newer release wrote it"),
    ];
    for (change, named) in cases {
        let mut bad = config(2);
        change(&mut bad);
        let (status, message) = agent.refused(&bad).await;
        assert!(status == 400 && message.contains(named), "{status} {message}");
    }
    assert_eq!(agent.operations(), operations);
    assert_eq!(agent.report_when(|_| true).await.desired, Some(revision(1)));
    // Fields of a newer controller that this agent does not know are ignored.
    let mut newer = config(2);
    newer["sides"]["1001"]["speed"] = json!(1);
    assert_eq!(agent.accepted(&newer).await.desired, Some(revision(2)));
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let patch = |base: u64| {
        json!({ "base": { "epoch": 1, "number": base }, "revision": { "epoch": 1, "number": 3 },
                "sides": { "1001": null, "1002": null } })
    };
    let (status, error) = agent.call("PATCH", "/v1/config", &patch(2)).await;
    assert!(status == 409 && error["desired"]["number"] == 1, "{error}");
    let (status, report) = agent.call("PATCH", "/v1/config", &patch(1)).await;
    assert_eq!((status, &report["applied"]["number"]), (200, &json!(3)));
    let state = agent.kernel.state();
    assert!(state.seen.nexthops.is_empty() && state.seen.links.keys().any(|name| name.as_str() == "cpsvrf10"));
}

/// A patch that removes both sides of the peering.
fn removal(base: u64) -> Value {
    json!({ "base": { "epoch": 1, "number": base }, "revision": { "epoch": 1, "number": base + 1 },
            "sides": { "1001": null, "1002": null } })
}

#[tokio::test]
async fn a_patch_observes_only_what_it_changes() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    agent.kernel.state().looks.clear();
    agent.kernel.state().log.clear();
    let (_, report) = agent.call("PATCH", "/v1/config", &removal(1)).await;
    assert_eq!((&report["applied"]["number"], &report["problems"]), (&json!(2), &json!([])));
    let looks = agent.kernel.state().looks.clone();
    let DirtySet::Parts(first) = &looks[0] else { panic!("everything was observed") };
    assert!(first.tables.is_empty() && first.devices.len() == 2, "no route is read before traffic ends: {first:?}");
    assert!(matches!(agent.kernel.state().log[0], Operation::RemoveFdb(_)));
    assert!(looks.len() > 2, "the kernel was read again before the answer");
    for look in looks.into_iter().skip(1) {
        let DirtySet::Parts(parts) = look else { panic!("everything was observed") };
        assert_eq!(parts.sides.iter().map(|vni| vni.get()).collect::<Vec<_>>(), [1001, 1002]);
        assert!(parts.vpcs.is_empty());
    }
}

#[tokio::test]
async fn what_a_patch_cannot_settle_is_followed_by_a_full_observation() {
    let agent = Agent::start();
    let mut alone = config(1);
    alone["sides"] = json!({});
    agent.accepted(&alone).await;
    agent.kernel.state().looks.clear();
    let tunnel = Tunnel { vni: 1001.try_into().unwrap(), port: 4789, local: "192.0.2.1".parse().unwrap() };
    agent.kernel.state().add_link("vx7", LinkKind::Vxlan { tunnel: Some(tunnel), altered: false });
    let sides = json!({ "base": { "epoch": 1, "number": 1 }, "revision": { "epoch": 1, "number": 2 },
                        "sides": config(2)["sides"] });
    let (_, report) = agent.call("PATCH", "/v1/config", &sides).await;
    let report: HostReport = serde_json::from_value(report).unwrap();
    assert!(report.problems.iter().any(|problem| problem.reason.contains("vx7")), "{report:?}");
    assert!(agent.kernel.state().looks.contains(&DirtySet::Everything));
}

#[tokio::test]
async fn a_patch_after_trouble_elsewhere_is_not_held_up_by_it() {
    let agent = Agent::start();
    agent.kernel.state().remove_link(&"tenant2".parse().unwrap());
    let mut both = config(1);
    both["sides"] = json!({ "1003": { "peering": "q", "vpc": "vpc-c", "peer_vni": 1004, "peer_cidrs": ["10.9.0.0/16"],
                                      "remotes": { "192.0.2.2": ["10.9.0.0/24"] } } });
    both["vrfs"]["vpc-c"] = json!({ "vni": 12 });
    assert_eq!(agent.accepted(&both).await.problems.len(), 1);
    agent.kernel.state().looks.clear();
    let patch = json!({ "base": { "epoch": 1, "number": 1 }, "revision": { "epoch": 1, "number": 2 },
                        "sides": { "1003": null } });
    let (_, report) = agent.call("PATCH", "/v1/config", &patch).await;
    assert_eq!((&report["applied"]["number"], report["problems"].as_array().unwrap().len()), (&json!(2), 1));
    let state = agent.kernel.state();
    assert!(matches!(state.looks[0], DirtySet::Parts(_)), "the patch comes first: {:?}", state.looks);
    assert!(state.looks.contains(&DirtySet::Everything), "the trouble is still there, as far as anybody knows");
    assert!(!state.seen.links.keys().any(|name| name.as_str() == "cpspeer1003"));
}

/// C5. What was ended does not come back because the disk refuses to store it.
#[tokio::test]
async fn what_a_patch_has_ended_stays_ended_until_it_can_be_stored() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let ledger = agent.folder.path().join("ledger");
    let kept = std::fs::read(&ledger).unwrap();
    std::fs::remove_file(&ledger).unwrap();
    std::fs::create_dir(&ledger).unwrap();
    let is_there = || agent.kernel.state().seen.links.keys().any(|name| name.as_str() == "cpspeer1001");
    let (status, error) = agent.call("PATCH", "/v1/config", &removal(1)).await;
    assert!(status == 503 && error["desired"]["number"] == 1, "{error}");
    let report = agent.report_when(|report| !report.problems.is_empty()).await;
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert!(problem.object.ends_with("/ledger") && problem.reason.contains("tried again"), "{problem:?}");
    assert_eq!((report.desired, report.applied), (Some(revision(1)), Some(revision(1))), "nothing newer is confirmed");
    // Without any push: the disk works again, and so does the write.
    std::fs::remove_dir(&ledger).unwrap();
    std::fs::write(&ledger, kept).unwrap();
    let report = agent.report_when(|report| report.applied == Some(revision(2))).await;
    assert!(report.in_sync() && !is_there(), "{report:?}");
}

#[tokio::test]
async fn what_was_refused_once_is_done_without_a_new_push() {
    let agent = Agent::start();
    agent.kernel.state().refuse = [3].into();
    agent.accepted(&config(1)).await;
    let report = agent.report_when(HostReport::in_sync).await;
    assert!(report.counters.failures > 0);
}

/// Another program removes the device of a side, and the kernel refuses to create it again.
#[tokio::test]
async fn operations_that_wait_for_a_device_are_counted_and_not_listed() {
    let agent = Agent::start();
    let whole = agent.accepted(&config(1)).await;
    assert!(whole.in_sync());
    let tunnel = "cpspeer1001".parse().unwrap();
    {
        let mut state = agent.kernel.state();
        state.remove_link(&tunnel);
        // Another program holds the UDP port.
        state.refuse_devices = [(tunnel, libc::EADDRINUSE)].into();
    }
    agent.reconciler.notice(Event::Changed);
    let report = agent.report_when(|report| !report.in_sync()).await;
    let [problem] = report.problems.as_slice() else { panic!("{report:#?}") };
    assert_eq!((&*problem.object, problem.kind), ("link cpspeer1001", ProblemKind::Conflict));
    assert!(problem.reason.contains("another program holds UDP port 4789"), "{problem:?}");
    let waiting = problem.reason.rsplit_once("; ").unwrap().1.strip_suffix(" operations wait for it").unwrap();
    assert!(waiting.parse::<usize>().unwrap() > 5, "{problem:?}");
    agent.kernel.state().refuse_devices.clear();
    agent.reconciler.notice(Event::Changed);
    agent.report_when(HostReport::in_sync).await;
    // A VRF: a side whose objects depend on it is not in sync either.
    let vrf = "cpsvrf10".parse().unwrap();
    {
        let mut state = agent.kernel.state();
        state.remove_link(&tunnel);
        state.remove_link(&vrf);
        state.refuse_devices = [(vrf, libc::EOPNOTSUPP)].into();
    }
    agent.reconciler.notice(Event::Changed);
    let report = agent.report_when(|report| !report.in_sync()).await;
    let told: Vec<_> = report.problems.iter().map(|it| (&it.scope, &*it.object, &*it.reason)).collect();
    let [
        (Scope::Vpc(_), "link cpsvrf10", why),
        (Scope::Side(own), "link cpspeer1001", waits),
        (Scope::Side(other), route, "waits for link cpsvrf10"),
    ] = told[..]
    else {
        panic!("{told:#?}")
    };
    assert!(why.contains("operations wait for it") && waits.starts_with("waits for link cpsvrf10, as "), "{told:#?}");
    assert_eq!((own.get(), other.get()), (1001, 1002));
    assert!(route.starts_with("route 10.1.0.0/24"), "the peer on this host cannot reach it: {told:#?}");
}

#[tokio::test]
async fn one_missing_port_holds_back_nothing_else() {
    let agent = Agent::start();
    agent.kernel.state().remove_link(&"tenant2".parse().unwrap());
    let report = agent.accepted(&config(1)).await;
    assert_eq!(report.applied, Some(revision(1)));
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert_eq!((problem.kind, &problem.scope), (ProblemKind::Missing, &Scope::Vpc("vpc-b".parse().unwrap())));
    assert!(report.confirms(revision(1), &Scope::Side(1001.try_into().unwrap())));
    assert!(report.vrfs.is_empty(), "the answer to a push stays short");
    let (_, status) = agent.call("GET", "/v1/status", &json!({})).await;
    let revision_1 = &json!({ "epoch": 1, "number": 1 });
    let standing = |applied: &Value| json!({ "desired": revision_1, "applied": applied });
    assert_eq!(status["vrfs"], json!({ "vpc-a": standing(revision_1), "vpc-b": standing(&Value::Null) }));
    assert_eq!(status["sides"], json!({ "1001": standing(revision_1), "1002": standing(revision_1) }));
    // The interface appears, and with it an event.
    agent.kernel.state().add_link("tenant2", LinkKind::Other);
    agent.reconciler.notice(Event::Changed);
    agent.report_when(HostReport::in_sync).await;
}

#[tokio::test]
async fn an_assumed_mtu_is_not_reported() {
    let kernel = Memory::new();
    for name in ["eth0", "tenant1", "tenant2"] {
        kernel.state().add_link(name, LinkKind::Other);
    }
    // The underlay address is on no interface yet.
    let agent = Agent::on(kernel, tempfile::tempdir().unwrap());
    let report = agent.accepted(&config(1)).await;
    assert!(report.problems.iter().any(|it| it.kind == ProblemKind::Missing && it.object.contains("192.0.2.1")));
    assert_eq!(report.underlay_mtu, None, "{report:?}");
    agent.kernel.state().add_foreign_address("eth0", "192.0.2.1/24");
    agent.reconciler.notice(Event::Changed);
    let report = agent.report_when(HostReport::in_sync).await;
    assert_eq!(report.underlay_mtu, Some(1500));
}

#[tokio::test]
async fn drift_is_repaired_and_counted() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    agent.kernel.state().seen.routes.clear();
    agent.reconciler.notice(Event::Changed);
    let report = agent.report_when(|report| report.counters.drift_repaired > 0).await;
    assert!(report.in_sync() && !agent.kernel.state().seen.routes.is_empty());
}

/// What others have in the way of a new peering is seen by a full observation only.
#[tokio::test]
async fn a_partial_observation_after_a_push_is_followed_by_a_full_one() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    // Somewhere else, and not announced.
    let table = ownership::table(11.try_into().unwrap());
    let is_there = || agent.kernel.state().seen.routes.iter().any(|route| route.key.table == table);
    agent.kernel.state().seen.routes.retain(|route| route.key.table != table);
    let mut narrower = config(2);
    narrower["sides"]["1001"]["remotes"] = json!({ "192.0.2.2": ["10.2.9.0/25"] });
    agent.accepted(&narrower).await;
    let looked = async {
        while !is_there() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looked).await.expect("it is observed");
}

#[tokio::test]
async fn a_setting_that_the_kernel_does_not_announce_is_noticed() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let port = "tenant1".parse().unwrap();
    let setting = DeviceSetting::Ipv6AcceptRa;
    agent.kernel.state().seen.links.get_mut(&port).unwrap().settings.insert(setting, 2);
    let report = agent.report_when(|report| report.counters.drift_repaired > 0).await;
    assert!(report.in_sync());
    assert_eq!(agent.kernel.state().seen.links[&port].settings[&setting], 0);
    // Also when it is changed back immediately.
    agent.kernel.state().seen.links.get_mut(&port).unwrap().settings.insert(setting, 2);
    agent.report_when(|report| report.counters.drift_repaired > 1).await;
}

#[tokio::test]
async fn a_kernel_that_does_not_answer_is_retried() {
    let agent = Agent::start();
    agent.kernel.state().deaf = 1;
    let report = agent.accepted(&config(1)).await;
    assert_eq!(report.applied, Some(revision(1)), "the answer came when the second attempt was through");
    agent.report_when(HostReport::in_sync).await;
}

#[tokio::test]
async fn the_ledger_is_enough_after_a_reboot() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let before = agent.kernel.state().seen.clone();
    let kernel = Agent::start().kernel;
    let again = Agent::on(kernel, agent.folder);
    again.report_when(HostReport::in_sync).await;
    let after = again.kernel.state().seen.clone();
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_push_is_not_confirmed_if_the_ledger_cannot_be_written() {
    let agent = Agent::start();
    std::fs::create_dir(agent.folder.path().join("ledger.new")).unwrap();
    let (status, message) = agent.refused(&config(1)).await;
    assert!(status == 503 && message.contains("ledger"), "{message}");
    assert_eq!((agent.operations(), agent.report_when(|_| true).await.desired), (0, None));
}

#[tokio::test]
async fn a_foreign_route_in_place_of_ours_is_a_conflict() {
    let agent = Agent::start();
    let key = RouteKey::unicast(ownership::table(10.try_into().unwrap()), "10.2.9.0/24".parse().unwrap());
    agent.kernel.state().foreign_routes.insert(key);
    let report = agent.accepted(&config(1)).await;
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert_eq!((problem.kind, &problem.scope), (ProblemKind::Conflict, &Scope::Side(1001.try_into().unwrap())));
    assert!(problem.object.contains("10.2.9.0/24") && problem.reason.contains("not ours"), "{problem:?}");
}

#[tokio::test]
async fn a_kernel_that_could_not_be_read_is_not_changed() {
    let agent = Agent::start();
    agent.accepted(&config(1)).await;
    let before = agent.kernel.state().seen.clone();
    agent.kernel.state().deaf = usize::MAX;
    let operations = agent.operations();
    agent.reconciler.notice(Event::Lost);
    let report = agent.report_when(|report| !report.problems.is_empty()).await;
    assert_eq!((report.counters.events_lost, agent.operations()), (1, operations));
    assert!(!report.in_sync() && report.problems[0].reason.contains("cannot receive"), "{report:?}");
    assert_eq!(agent.kernel.state().seen, before);
}

/// How often a thread of this process has gone to sleep, by the kernel; none while it is awake, or has no name yet.
fn sleeps(thread: &str) -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_it = |name: String| name.trim() == thread;
    let mut tasks = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(is_it));
    let status = std::fs::read_to_string(tasks.next()?.join("status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    field("State:").starts_with('S').then(|| field("voluntary_ctxt_switches:").parse().unwrap())
}

#[test]
fn without_a_configuration_it_sleeps_whatever_happens() {
    let agent = Agent::start();
    for event in [Event::Changed, Event::Port, Event::Lost] {
        assert!(agent.reconciler.notice(event));
        // A busy loop is awake now, or has been in between.
        let (mut asleep, mut since) = (0, None);
        for _ in 0..20_000 {
            let now = sleeps("reconciler");
            asleep = if now.is_some() && now == since { asleep + 1 } else { 0 };
            since = now;
            if asleep == 2_000 {
                break;
            }
        }
        assert_eq!(asleep, 2_000, "it goes on after {event:?}");
    }
    assert!(agent.kernel.state().looks.is_empty(), "there is nothing to compare");
}
