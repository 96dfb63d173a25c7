//! A disk that hangs: the kernel is kept right and the agent responds, and nothing is confirmed that is not stored.

use super::*;
use axum::body::Bytes;
use cps_peering_agent::{
    cluster::{Membership, MembershipFile},
    intake::ConfigStore,
    ledger::{LedgerError, Record},
    objects::Mac,
    traffic::Reading,
};
use cps_peering_config::{ValidHostConfig, cluster::ClusterId};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex},
};

/// How a disk behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Works,
    Hangs,
    Fails,
}

/// A ledger on a disk that does what a test says.
#[derive(Clone)]
struct Faulty {
    ledger: Ledger,
    disk: Arc<(Mutex<Disk>, Condvar)>,
    /// Revisions in the order in which their writes began.
    begun: Arc<Mutex<Vec<u64>>>,
    /// Revisions in the order in which they were written.
    written: Arc<Mutex<Vec<u64>>>,
}

impl Faulty {
    fn set(&self, disk: Disk) {
        *self.disk.0.lock().unwrap() = disk;
        self.disk.1.notify_all();
    }

    fn begun(&self) -> Vec<u64> {
        self.begun.lock().unwrap().clone()
    }

    fn written(&self) -> Vec<u64> {
        self.written.lock().unwrap().clone()
    }
}

impl ConfigStore for Faulty {
    fn path(&self) -> &Path {
        self.ledger.path()
    }

    fn store(&self, push: &Record<Bytes>, config: &ValidHostConfig) -> Result<(), LedgerError> {
        self.begun.lock().unwrap().push(config.revision.number);
        let disk = self.disk.0.lock().unwrap();
        if *self.disk.1.wait_while(disk, |disk| *disk == Disk::Hangs).unwrap() == Disk::Fails {
            let path: PathBuf = self.path().to_owned();
            return Err(LedgerError::Io { path, what: "write it", source: io::ErrorKind::StorageFull.into() });
        }
        self.ledger.store(push, config)?;
        self.written.lock().unwrap().push(config.revision.number);
        Ok(())
    }
}

/// A test's control of a disk. However the test ends, no write is left hanging: it would keep the test from ending.
struct Control(Faulty);

impl std::ops::Deref for Control {
    type Target = Faulty;

    fn deref(&self) -> &Faulty {
        &self.0
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.set(Disk::Works);
    }
}

impl Control {
    fn new(agent: &Agent, disk: Disk) -> Self {
        let ledger = Ledger::new(agent.folder.path().join("ledger"));
        let disk = Arc::new((Mutex::new(disk), Condvar::new()));
        Self(Faulty { ledger, disk, begun: Arc::default(), written: Arc::default() })
    }
}

/// An agent without a configuration, on such a disk.
fn on(disk: Disk) -> (Arc<Agent>, Control) {
    let agent = Agent::start();
    let disk = Control::new(&agent, disk);
    let shares = SharesFile::beside(disk.path());
    let router = api::router(None, disk.0.clone(), shares, agent.reconciler.clone(), Recorder::default());
    (Arc::new(Agent { router, ..agent }), disk)
}

/// An agent whose disk works, and that has the first configuration.
async fn started() -> (Arc<Agent>, Control) {
    let (agent, disk) = on(Disk::Works);
    agent.accepted(&config(1)).await;
    agent.report_when(HostReport::in_sync).await;
    (agent, disk)
}

/// Pushes without waiting for the response.
fn push(agent: &Arc<Agent>, config: Value) -> tokio::task::JoinHandle<(u16, Value)> {
    let agent = Arc::clone(agent);
    tokio::spawn(async move { agent.put(&config).await })
}

/// The same for a cluster, with any method.
fn call_as(
    agent: &Arc<Agent>,
    cluster: Option<u128>,
    method: &'static str,
    path: &'static str,
    body: Value,
) -> tokio::task::JoinHandle<u16> {
    let agent = Arc::clone(agent);
    tokio::spawn(async move { agent.call_as(cluster, method, path, &body).await.0 })
}

fn push_as(agent: &Arc<Agent>, cluster: Option<u128>, config: Value) -> tokio::task::JoinHandle<u16> {
    call_as(agent, cluster, "PUT", "/v1/config", config)
}

/// An empty host.
fn empty(number: u64) -> Value {
    json!({ "revision": { "epoch": 1, "number": number }, "host": "h1", "underlay": "192.0.2.1" })
}

fn vrfs(agent: &Agent) -> usize {
    agent.kernel.state().seen.links.keys().filter(|name| name.as_str().starts_with("cpsvrf")).count()
}

/// Only side 1001 is removed; the port of the other VPC stays.
fn unpeered(number: u64) -> Value {
    let mut config = config(number);
    config["sides"] = json!({});
    config
}

async fn until(what: &str, test: impl Fn() -> bool) {
    let met = async {
        while !test() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.unwrap_or_else(|_| panic!("{what}"));
}

fn sides(agent: &Agent) -> usize {
    agent.kernel.state().seen.links.keys().filter(|name| name.as_str().starts_with("cpspeer")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_hangs_traffic_ends_the_kernel_is_repaired_and_the_agent_responds() {
    let (agent, disk) = started().await;
    disk.set(Disk::Hangs);
    let removal = push(&agent, unpeered(2));
    until("what is removed is removed before it is stored", || sides(&agent) == 0).await;
    // Drift is repaired, and grants and queries are answered.
    agent.kernel.state().seen.routes.clear();
    agent.reconciler.notice(Event::Changed);
    until("the kernel is healed", || !agent.kernel.state().seen.routes.is_empty()).await;
    tokio::time::timeout(Duration::from_secs(20), agent.reconciler.alive()).await.expect("the watchdog is fed");
    let report = agent.report_when(|report| !report.problems.is_empty()).await;
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert_eq!((&problem.scope, problem.kind), (&Scope::Host, ProblemKind::Failed));
    assert!(
        problem.object.ends_with("/ledger") && problem.reason.contains("the disk has not taken it since"),
        "{problem:?}"
    );
    assert_eq!((report.desired, report.applied), (Some(revision(1)), Some(revision(1))), "nothing newer is confirmed");
    let (status, metrics, _) = agent.call_as(None, "GET", "/v1/status", &json!({})).await;
    assert_eq!((status, &metrics["desired"]["number"]), (200, &json!(1)));
    let waited = agent.text("/metrics").await;
    let waited = waited.lines().find_map(|line| line.strip_prefix("cps_agent_write_seconds ")).unwrap();
    assert!(waited.parse::<f64>().unwrap() > 1.0, "{waited}");
    // The pusher gets an error, and may ask again.
    let (status, error) = removal.await.unwrap();
    let message = error["message"].as_str().unwrap();
    assert!(status == 503 && message.contains("revision 1.2 is not stored"), "{status} {message}");
    assert_eq!(error["desired"]["number"], 1);
    let again = push(&agent, unpeered(2));
    disk.set(Disk::Works);
    let (status, report) = again.await.unwrap();
    assert_eq!((status, &report["applied"]["number"], &report["problems"]), (200, &json!(2), &json!([])), "{report}");
    assert_eq!(disk.written(), [1, 2], "once");
    let waited = agent.text("/metrics").await;
    assert!(waited.lines().any(|line| line == "cps_agent_write_seconds 0.0"), "{waited}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_push_is_stored_next_after_the_disk_hangs() {
    let (agent, disk) = started().await;
    disk.set(Disk::Hangs);
    let mut wider = config(2);
    wider["sides"]["1001"]["remotes"] = json!({ "192.0.2.3": ["10.2.9.0/24"] });
    let second = push(&agent, wider);
    let has_second = || agent.kernel.state().seen.fdb.keys().any(|key| key.mac == Mac([2, 0, 192, 0, 2, 3]));
    until("it is in the kernel", has_second).await;
    // A patch on what may never be stored is refused immediately, and a whole configuration is pushed instead.
    let (status, error) = agent.call("PATCH", "/v1/config", &removal(1)).await;
    assert!(status == 409 && error["message"].as_str().unwrap().contains("being stored"), "{error}");
    let third = push(&agent, config(3));
    until("it is in the kernel", || !has_second()).await;
    let fourth = push(&agent, unpeered(4));
    until("a delete does not wait for those before it", || sides(&agent) == 0).await;
    let (status, error) = third.await.unwrap();
    assert!(status == 409 && error["message"].as_str().unwrap().contains("never stored"), "{error}");
    let (status, _) = agent.put(&config(3)).await;
    assert_eq!(status, 409, "older than what is on its way");
    let mut other = unpeered(4);
    other["vrfs"]["vpc-b"] = Value::Null;
    other["vrfs"].as_object_mut().unwrap().remove("vpc-b");
    assert_eq!(agent.put(&other).await.0, 409, "other content");
    disk.set(Disk::Works);
    let [second, fourth] = [second.await.unwrap(), fourth.await.unwrap()];
    assert_eq!((second.0, fourth.0, &fourth.1["applied"]["number"]), (200, 200, &json!(4)));
    assert_eq!(disk.written(), [1, 2, 4]);
    assert_eq!(disk.ledger.load().unwrap().unwrap().revision, revision(4));
    let (status, report) = agent.call("PATCH", "/v1/config", &json!({
        "base": { "epoch": 1, "number": 4 }, "revision": { "epoch": 1, "number": 5 }, "sides": config(5)["sides"]
    })).await;
    assert_eq!((status, &report["applied"]["number"]), (200, &json!(5)));
    assert_eq!(disk.ledger.load().unwrap().unwrap().revision, revision(5));
}

/// C5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_brings_nothing_back_and_stores_the_newest_when_it_works() {
    let (agent, disk) = started().await;
    disk.set(Disk::Hangs);
    let second = push(&agent, unpeered(2));
    until("it is in the kernel", || sides(&agent) == 0).await;
    let third = push(&agent, empty(3));
    until("it is in the kernel", || vrfs(&agent) == 0).await;
    disk.set(Disk::Fails);
    for push in [second, third] {
        let (status, error) = push.await.unwrap();
        assert!(status == 503 && error["message"].as_str().unwrap().contains("ledger"), "{error}");
    }
    until("it is tried again by itself", || disk.begun().len() > 4).await;
    assert_eq!((vrfs(&agent), sides(&agent)), (0, 0), "what was ended stays so");
    let report = agent.reconciler.report().borrow().clone();
    assert_eq!((report.desired, report.in_sync(), disk.written()), (Some(revision(1)), false, vec![1]));
    // A repeated push is answered with the next attempt, and a newer one takes its place.
    let (status, error) = agent.put(&empty(3)).await;
    assert!(status == 503 && error["message"].as_str().unwrap().contains("ledger"), "{error}");
    assert_eq!(agent.put(&unpeered(2)).await.0, 409, "older than what the kernel has");
    let fourth = push(&agent, unpeered(4));
    until("it is in the kernel", || vrfs(&agent) == 2).await;
    assert_eq!(fourth.await.unwrap().0, 503);
    disk.set(Disk::Works);
    let report = agent.report_when(|report| report.applied == Some(revision(4))).await;
    assert!(report.in_sync(), "{report:?}");
    assert_eq!((disk.written(), disk.ledger.load().unwrap().unwrap().revision), (vec![1, 4], revision(4)));
}

/// Nothing superseded is retried: its pusher gets that error, and not that of another attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_configuration_immediately_replaces_one_whose_write_failed() {
    let (agent, disk) = started().await;
    disk.set(Disk::Fails);
    // Its own next attempt may come between two pushes.
    for number in (2..40).step_by(2) {
        assert_eq!(agent.put(&unpeered(number)).await.0, 503);
        let waits = push(&agent, unpeered(number));
        tokio::task::yield_now().await;
        let newer = push(&agent, unpeered(number + 1));
        let (status, error) = waits.await.unwrap();
        assert_eq!(newer.await.unwrap().0, 503);
        if status == 409 && error["message"].as_str().unwrap().contains("was never stored") {
            disk.set(Disk::Works);
            agent.report_when(|report| report.applied == Some(revision(number + 1))).await;
            assert_eq!(disk.written(), [1, number + 1]);
            return;
        }
    }
    panic!("each was tried again first");
}

/// B3: after a crash this host would have the whole limit, as in the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_not_confirmed_before_its_configuration_is_stored() {
    let limited = |number, share: u32| {
        let mut config = config(number);
        config["sides"]["1001"]["limit"] = json!({ "bandwidth_mbit": 80, "share": share });
        config
    };
    let (agent, disk) = on(Disk::Works);
    agent.kernel.state().traffic.insert(1001.try_into().unwrap(), Reading::default());
    agent.accepted(&limited(1, 1_000_000)).await;
    disk.set(Disk::Fails);
    assert_eq!(agent.put(&limited(2, 2500)).await.0, 503);
    let grants = json!({ "revision": { "epoch": 1, "number": 1 }, "sides": { "1001": 300_000 } });
    let (status, report) = agent.call("PUT", "/v1/shares", &grants).await;
    assert_eq!((status, &report["sides"]["1001"]["share"]), (200, &Value::Null), "{report}");
    // Those who boot now have the whole.
    let stored = disk.ledger.load().unwrap().unwrap();
    let limit = stored.sides[&1001.try_into().unwrap()].limit.unwrap();
    assert_eq!(SharesFile::beside(disk.path()).load().of(1001.try_into().unwrap(), limit), limit.share);
    disk.set(Disk::Works);
    agent.report_when(|report| report.applied == Some(revision(2))).await;
    let (status, report) = agent.call("PUT", "/v1/shares", &grants).await;
    assert_eq!((status, &report["sides"]["1001"]["share"]), (200, &json!(300_000)), "{report}");
}

/// The configuration is stored, and then the membership cannot be written: it is not pushed again in vain, and not
/// written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_of_the_membership_is_retried() {
    let (agent, disk) = started().await;
    let blocked = disk.path().with_extension("cluster.new");
    std::fs::create_dir(&blocked).unwrap();
    assert_eq!(push_as(&agent, OURS, unpeered(2)).await.unwrap(), 503);
    let report = agent.report_when(|report| !report.problems.is_empty()).await;
    assert_eq!((report.desired, disk.written()), (Some(revision(2)), vec![1, 2]));
    std::fs::remove_dir(&blocked).unwrap();
    agent.report_when(HostReport::in_sync).await;
    assert_eq!((disk.written(), membership(&disk)), (vec![1, 2], (OURS, OURS)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_taken_back_stays_in_the_kernel_until_the_next_observation() {
    let (agent, disk) = started().await;
    assert_eq!(push_as(&agent, OURS, config(1)).await.unwrap(), 200);
    disk.set(Disk::Hangs);
    let second = push_as(&agent, OURS, unpeered(2));
    until("it is in the kernel", || sides(&agent) == 0 && disk.begun().len() == 3).await;
    let third = push_as(&agent, OURS, unpeered(3));
    until("it waits", || agent.kernel.state().looks.len() > 3).await;
    operator_joins(&disk, OTHER);
    disk.set(Disk::Works);
    assert_eq!([second.await.unwrap(), third.await.unwrap()], [409, 409]);
    let report = agent.report_when(HostReport::in_sync).await;
    assert_eq!(report.applied, Some(revision(2)));
}

/// A file that is read forever: a pipe without a writer, until this is dropped.
struct Pipe(PathBuf);

impl Drop for Pipe {
    fn drop(&mut self) {
        // However the test ends, no reader is left.
        let _ = std::fs::OpenOptions::new().read(true).write(true).open(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_ends_even_while_the_membership_cannot_be_read() {
    let (agent, disk) = started().await;
    assert_eq!(push_as(&agent, OURS, config(1)).await.unwrap(), 200);
    let file = disk.path().with_extension("cluster");
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = Pipe(file.clone());
    let removal = push_as(&agent, OURS, unpeered(2));
    let strangers: Vec<_> = (0..64).map(|_| push_as(&agent, OTHER, empty(3))).collect();
    until("what is removed is removed", || sides(&agent) == 0).await;
    until("no request waits behind another", || strangers.iter().all(tokio::task::JoinHandle::is_finished)).await;
    for stranger in strangers {
        assert_eq!(stranger.await.unwrap(), 409, "what is known holds");
    }
    assert_eq!(agent.call("GET", "/v1/status", &json!({})).await.0, 200);
    // The pending reader gets it now.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &kept).unwrap();
    std::io::Write::write_all(&mut writer, &kept).unwrap();
    drop((writer, pipe));
    assert_eq!(removal.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_configuration_of_all_waits_for_the_disk() {
    let (agent, disk) = on(Disk::Hangs);
    let first = push(&agent, config(1));
    let report = agent.report_when(|report| !report.problems.is_empty()).await;
    assert_eq!((report.desired, agent.operations()), (None, 0));
    let second = push(&agent, unpeered(2));
    let (status, error) = first.await.unwrap();
    assert!(status == 503 && error["message"].as_str().unwrap().contains("The kernel waits for it"), "{error}");
    disk.set(Disk::Works);
    assert_eq!(second.await.unwrap().1["applied"]["number"], 2);
    assert_eq!((disk.written(), sides(&agent)), (vec![1, 2], 0));
}

const OURS: Option<u128> = Some(0xa);
const OTHER: Option<u128> = Some(0xb);

fn membership(disk: &Control) -> (Option<u128>, Option<u128>) {
    let Membership { cluster, accepted_from } = MembershipFile::beside(disk.path()).load().unwrap();
    let number = |id: ClusterId| u128::from_str_radix(&id.to_string(), 16).unwrap();
    (cluster.map(number), accepted_from.map(number))
}

/// What `cps-peering-agent join` does.
fn operator_joins(disk: &Control, cluster: Option<u128>) {
    MembershipFile::beside(disk.path()).join(ClusterId::new(cluster.unwrap())).unwrap();
}

/// An agent that belongs to a cluster, and waits for the disk with the second configuration and, behind it, with the
/// third.
async fn two_wait() -> (Arc<Agent>, Control, [tokio::task::JoinHandle<u16>; 2]) {
    let (agent, disk) = started().await;
    assert_eq!(push_as(&agent, OURS, config(1)).await.unwrap(), 200);
    disk.set(Disk::Hangs);
    let second = push_as(&agent, OURS, unpeered(2));
    until("it is being written", || sides(&agent) == 0 && disk.begun() == [1, 1, 2]).await;
    let third = push_as(&agent, OURS, empty(3));
    until("it is in the kernel", || vrfs(&agent) == 0).await;
    (agent, disk, [second, third])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_join_stands_whatever_waited_for_the_disk() {
    let (agent, disk, [second, third]) = two_wait().await;
    operator_joins(&disk, OTHER);
    assert_eq!(push_as(&agent, OURS, empty(4)).await.unwrap(), 409, "at once");
    disk.set(Disk::Works);
    assert_eq!([second.await.unwrap(), third.await.unwrap()], [409, 409]);
    assert_eq!(
        (disk.written(), membership(&disk)),
        (vec![1, 1, 2], (OTHER, OURS)),
        "the third is not written any more"
    );
    until("what is stored is there again", || vrfs(&agent) == 2 && sides(&agent) == 0).await;
    assert_eq!(push_as(&agent, OTHER, config(1)).await.unwrap(), 200);
    assert_eq!(membership(&disk), (OTHER, OTHER));
}

#[tokio::test]
async fn the_new_cluster_of_a_host_does_not_wait_for_what_the_old_one_has_pushed() {
    let (agent, disk, [second, third]) = two_wait().await;
    operator_joins(&disk, OTHER);
    let first = push_as(&agent, OTHER, config(1));
    assert_eq!(third.await.unwrap(), 409, "it is superseded while the disk hangs");
    disk.set(Disk::Works);
    assert_eq!([second.await.unwrap(), first.await.unwrap()], [409, 200]);
    assert_eq!((disk.written(), membership(&disk)), (vec![1, 1, 2, 1], (OTHER, OTHER)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_configuration_of_all_is_remembered_as_of_the_cluster_that_sent_it() {
    let (agent, disk) = on(Disk::Hangs);
    let first = push_as(&agent, OURS, config(5));
    until("it is being written", || disk.begun() == [5]).await;
    operator_joins(&disk, OTHER);
    disk.set(Disk::Works);
    assert_eq!((first.await.unwrap(), membership(&disk)), (409, (OTHER, OURS)));
    assert_eq!(push_as(&agent, OTHER, config(1)).await.unwrap(), 200, "its revisions say nothing about those before");
}

/// On one thread, so that what was requested is waiting once it has been polled.
#[tokio::test]
async fn a_host_does_not_leave_its_cluster_between_two_writes() {
    let (agent, disk, [second, third]) = two_wait().await;
    let leave = || call_as(&agent, OURS, "DELETE", "/v1/cluster", json!({}));
    let early = leave();
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    disk.set(Disk::Works);
    assert_eq!([second.await.unwrap(), third.await.unwrap(), early.await.unwrap()], [200, 200, 503]);
    assert_eq!((disk.written(), membership(&disk)), (vec![1, 1, 2, 3], (OURS, OURS)));
    assert_eq!((leave().await.unwrap(), membership(&disk)), (204, (None, OURS)));
}
