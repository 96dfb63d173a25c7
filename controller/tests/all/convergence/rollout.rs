//! Rollouts: changes of many hosts, which canaries get first.

use super::*;
use cps_peering_config::{Revision, SeenRevision};
use cps_peering_controller::{
    clock::Reading,
    engine::{Clock, Pushes},
    model::{
        record::{Host as HostRecord, Pacing},
        rollout::Step,
    },
};

const HOSTS: usize = 8;
const PUSHES: Pushes = Pushes {
    canary_hosts: 2,
    canary_above: 3,
    canary_watch: Duration::from_millis(100),
    canary_patience: Duration::from_mins(1),
};

fn options(pushes: Pushes) -> Options {
    Options { pushes, ..Options::default() }
}

async fn agents() -> Vec<Agent> {
    let mut agents = Vec::new();
    for _ in 0..HOSTS {
        agents.push(Agent::start().await);
    }
    agents
}

/// Each host has a port of a VPC of its own, and of those that all have.
fn inventory(agents: &[Agent], common: &[&str]) -> Command {
    let port = |vpc: &str, n: usize, interface: &str, net: &str| {
        format!("[[ports]]\nvpc = '{vpc}'\nhost = 'h{n}'\ninterface = '{interface}'\ngateways = ['{net}.1/24']\n")
    };
    let mut text = vec!["[[regions]]\nid = 'north'\n".to_owned()];
    for (n, agent) in (1..).zip(agents) {
        text.push(format!(
            "[[hosts]]\nid = 'h{n}'\nregion = 'north'\nunderlay = '192.0.2.{n}'\nagent = 'http://{}'\n\
             [[vpcs]]\nid = 'v{n}'\naccount = 'acme'\nregion = 'north'\ncidrs = ['10.{n}.0.0/16']\n",
            agent.address
        ));
        text.push(port(&format!("v{n}"), n, "eth1", &format!("10.{n}.0")));
        for (place, vpc) in common.iter().enumerate() {
            text.push(port(vpc, n, &format!("eth{}", place + 2), &format!("10.{}.{n}", 100 + place)));
        }
    }
    for (place, vpc) in common.iter().enumerate() {
        let net = 100 + place;
        text.push(format!("[[vpcs]]\nid = '{vpc}'\naccount = 'acme'\nregion = 'north'\ncidrs = ['10.{net}.0.0/16']\n"));
    }
    let inventory = toml::from_str(&text.concat()).unwrap();
    Command::Apply(Apply { approval: Approval::NotNeeded, ..Apply::of(inventory) })
}

fn vrfs(agent: &Agent) -> usize {
    agent.host.lock().unwrap().config.as_ref().map_or(0, |config| config.vrfs.len())
}

impl Controller {
    fn paced(folder: &Path, pushes: Pushes) -> Self {
        Self::with(crate::place::open(folder).unwrap(), Duration::from_millis(50), options(pushes))
    }

    fn sweep(&self) {
        tokio::task::block_in_place(|| self.engine.sweep());
    }

    fn hosts_that(&self, look: impl Fn(&HostRecord) -> bool) -> Vec<usize> {
        let number = |host: &HostRecord| host.id.as_str()[1..].parse().unwrap();
        self.engine.read(|state, _| state.hosts().values().filter(|host| look(host)).map(number).collect())
    }

    fn canaries(&self) -> Vec<usize> {
        self.hosts_that(|host| host.pacing == Some(Pacing::Canary))
    }

    fn held(&self) -> Vec<usize> {
        self.hosts_that(HostRecord::is_held_back)
    }

    /// Waits until hosts have this many VPCs, and each has reported.
    async fn until_vrfs(&self, agents: &[Agent], expected: impl Fn(usize) -> usize) {
        let has = |n: usize| vrfs(&agents[n - 1]) == expected(n);
        self.until("VPCs", |_| (1..=agents.len()).all(has).then_some(())).await;
        let heard = |host: &HostRecord, seen: &Seen<'_>| seen.agents.is_current(&host.id);
        self.until("all are heard", |seen| seen.state.hosts().values().all(|it| heard(it, seen)).then_some(())).await;
    }

    /// Sweeps until a rollout is over, or stopped.
    async fn until_rollout(&self, stopped: Option<bool>) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.engine.read(|state, _| state.meta().rollout.map(|it| it.stopped)) != stopped {
            assert!(tokio::time::Instant::now() < until, "not in time: {stopped:?}");
            self.sweep();
            tokio::task::yield_now().await;
        }
    }

    /// Operators' events about rollouts, the newest first.
    fn told(&self) -> Vec<String> {
        let all = cps_peering_controller::audit::Query { limit: 100, ..Default::default() };
        let entries = tokio::task::block_in_place(|| self.engine.audit(&all)).unwrap();
        let events = entries.into_iter().flat_map(|(_, entry)| entry.events).map(|event| event.kind);
        events.filter(|kind| kind.starts_with("rollout.")).collect()
    }

    fn revision(&self) -> Option<Revision> {
        self.engine.read(|state, _| Some(state.meta().rollout?.revision))
    }

    fn actions(&self) -> Vec<String> {
        let all = cps_peering_controller::audit::Query { limit: 100, ..Default::default() };
        let entries = tokio::task::block_in_place(|| self.engine.audit(&all)).unwrap();
        entries.into_iter().map(|(_, entry)| format!("{} by {}", entry.action, entry.actor)).collect()
    }
}

/// All hosts have their own VPC, and nothing is pending.
async fn built(pushes: Pushes) -> (TempDir, Controller, Vec<Agent>) {
    let (folder, agents) = (tempfile::tempdir().unwrap(), agents().await);
    let controller = Controller::paced(folder.path(), Pushes { canary_hosts: 0, ..pushes });
    controller.run(&inventory(&agents, &[])).unwrap();
    assert_eq!(controller.held(), Vec::<usize>::new(), "it is turned off");
    controller.until_in_sync().await;
    controller.engine.tune(options(pushes));
    (folder, controller, agents)
}

/// P1. Some hosts get it first; the others when these have had it for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_many_hosts_reaches_canaries_first_and_the_others_when_these_are_healthy() {
    let (_folder, controller, agents) = built(PUSHES).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    let (canaries, held) = (controller.canaries(), controller.held());
    assert_eq!((canaries.clone(), held.len()), (vec![1, 5], HOSTS - 2));
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) { 2 } else { 1 }).await;
    controller.engine.read(|state, agents| {
        let out_of_sync = |n: &usize| !agents.in_sync(&state.hosts()[format!("h{n}").as_str()]);
        assert!(held.iter().all(out_of_sync), "who waits is not said to have it");
    });
    controller.until_rollout(None).await;
    controller.until_vrfs(&agents, |_| 2).await;
    controller.until_in_sync().await;
    assert!(controller.canaries().is_empty() && controller.held().is_empty());
    assert_eq!(controller.actions()[0], "FinishRollout by system");
    assert_eq!(controller.told(), ["rollout.finished"]);
}

/// P1. Changes of few hosts are not delayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_few_hosts_reaches_them_immediately() {
    let (_folder, controller, agents) = built(Pushes { canary_above: HOSTS, ..PUSHES }).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    controller.until_vrfs(&agents, |_| 2).await;
    assert!(controller.engine.read(|state, _| state.meta().rollout.is_none()));
}

/// P2. An unhealthy canary stops it, also for a new leader, until an operator decides.
#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_canary_stops_it_also_across_a_takeover() {
    let pushes = Pushes { canary_patience: Duration::from_millis(200), ..PUSHES };
    let (folder, controller, agents) = built(pushes).await;
    let problem = Problem { kind: ProblemKind::Failed, scope: Scope::Host, object: "x".into(), reason: "wrong".into() };
    agents[4].host.lock().unwrap().problems.push(problem);
    controller.until("it is heard", |seen| (seen.agents.count_in_sync() < HOSTS).then_some(())).await;
    agents[4].host.lock().unwrap().problems.clear();
    controller.until_in_sync().await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    let canaries = controller.canaries();
    let problem = Problem { kind: ProblemKind::Failed, scope: Scope::Host, object: "x".into(), reason: "wrong".into() };
    agents[canaries[1] - 1].host.lock().unwrap().problems.push(problem);
    controller.until_rollout(Some(true)).await;
    assert_eq!(controller.actions()[0], "StopRollout by system");
    // It stays so, also when the host is healthy again and another controller takes over.
    agents[canaries[1] - 1].host.lock().unwrap().problems.clear();
    stop(controller, folder.path()).await;
    let controller = Controller::paced(folder.path(), pushes);
    let first_well = |seen: &Seen<'_>| (seen.agents.count_in_sync() == 2).then_some(());
    controller.until("the first ones are well", first_well).await;
    for _ in 0..20 {
        controller.sweep();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) { 2 } else { 1 }).await;
    assert_eq!(controller.held().len(), HOSTS - 2);
    controller.run(&Command::Rollout(Step::Continue { revision: None })).unwrap();
    controller.until_vrfs(&agents, |_| 2).await;
    controller.until_in_sync().await;
    assert_eq!(controller.actions()[0], "ContinueRollout by operator");
}

/// P2. A controller that takes over while the canaries are watched watches them again from the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_continues_a_rollout() {
    let (folder, controller, agents) = built(PUSHES).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    let (canaries, held) = (controller.canaries(), controller.held());
    stop(controller, folder.path()).await;
    let controller = Controller::paced(folder.path(), PUSHES);
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) { 2 } else { 1 }).await;
    assert_eq!((controller.canaries(), controller.held()), (canaries, held));
    controller.until_rollout(None).await;
    controller.until_vrfs(&agents, |_| 2).await;
}

/// P3. A tenant's command reaches a waiting host immediately, with everything that the host waits for; a delete above all (C5).
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_immediate_also_on_waiting_hosts() {
    let (_folder, controller, agents) = built(PUSHES).await;
    let id = peering(&controller.run(&Command::CreatePeering(create("v2", "v3"))).unwrap());
    controller.until_active(&id).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    assert!([2, 3].iter().all(|n| controller.held().contains(n)));
    controller.run(&Command::Rollout(Step::Stop { why: String::new() })).unwrap();
    controller.run(&delete(&id)).unwrap();
    controller.until_gone(&id).await;
    assert_eq!([&agents[1], &agents[2]].map(Agent::sides), [0, 0]);
    assert_eq!(controller.held(), [4, 6, 7, 8], "the others wait on");
    let new = peering(&controller.run(&Command::CreatePeering(create("v6", "v7"))).unwrap());
    controller.until_active(&new).await;
    assert_eq!(controller.held(), [4, 8]);
    controller.until_vrfs(&agents, |n| if [4, 8].contains(&n) { 1 } else { 2 }).await;
}

/// P3. Removals and moves go to all hosts immediately: reverting a change above all.
#[tokio::test(flavor = "multi_thread")]
async fn removals_and_moves_reach_all_hosts_immediately() {
    let (_folder, controller, agents) = built(PUSHES).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    assert_eq!(controller.held().len(), HOSTS - 2);
    let Command::Apply(back) = inventory(&agents, &[]) else { unreachable!() };
    controller.run(&Command::Apply(back.pruning())).unwrap();
    assert_eq!(controller.held(), Vec::<usize>::new());
    controller.until_vrfs(&agents, |_| 1).await;
    controller.until_rollout(None).await;
    assert_eq!(controller.actions()[0], "WithdrawRollout by system");
    assert_eq!(controller.told(), ["rollout.withdrawn"], "it has not gone to all hosts");
    // A VTEP address changes: its host and those that send to it change together.
    controller.run(&inventory(&agents, &["common", "other"])).unwrap();
    controller.run(&Command::Rollout(Step::Continue { revision: None })).unwrap();
    controller.until_in_sync().await;
    let Command::Apply(mut moved) = inventory(&agents, &["common", "other"]) else { unreachable!() };
    moved.inventory.hosts[1].underlay = "192.0.2.200".parse().unwrap();
    controller.run(&Command::Apply(moved)).unwrap();
    assert_eq!(controller.held(), Vec::<usize>::new());
    controller.until_in_sync().await;
}

/// P3. A host that is not known to have everything planned before does not wait: a delete may be on its way to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lacks_earlier_changes_does_not_wait() {
    let (_folder, controller, agents) = built(PUSHES).await;
    let problem = Problem { kind: ProblemKind::Failed, scope: Scope::Host, object: "x".into(), reason: "wrong".into() };
    agents[0].host.lock().unwrap().problems.push(problem);
    controller.until("it is heard", |seen| (seen.agents.count_in_sync() < HOSTS).then_some(())).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    let (canaries, held) = (controller.canaries(), controller.held());
    assert_eq!((canaries.clone(), held.len()), (vec![2, 5], HOSTS - 3));
    controller.until_vrfs(&agents, |n| if n == 1 || canaries.contains(&n) { 2 } else { 1 }).await;
}

/// P3. A host that has lost its configuration gets the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_host_that_has_lost_everything_gets_the_new_configuration() {
    let (_folder, controller, agents) = built(PUSHES).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    controller.run(&Command::Rollout(Step::Stop { why: String::new() })).unwrap();
    let (canaries, lost) = (controller.canaries(), controller.held()[0]);
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) { 2 } else { 1 }).await;
    agents[lost - 1].host.lock().unwrap().config = None;
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) || n == lost { 2 } else { 1 }).await;
}

/// P2. A document that is applied while a rollout is stopped, or watched, releases no waiting host.
#[tokio::test(flavor = "multi_thread")]
async fn another_document_releases_no_waiting_host() {
    let (_folder, controller, agents) = built(PUSHES).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    let canaries = controller.canaries();
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) { 2 } else { 1 }).await;
    controller.until("they are well", |seen| (seen.agents.count_in_sync() == 2).then_some(())).await;
    controller.run(&Command::Rollout(Step::Stop { why: String::new() })).unwrap();
    controller.run(&inventory(&agents, &["common", "other"])).unwrap();
    assert_eq!((controller.canaries(), controller.held().len()), (canaries.clone(), HOSTS - 2));
    controller.until_vrfs(&agents, |n| if canaries.contains(&n) { 3 } else { 1 }).await;
    for _ in 0..20 {
        controller.sweep();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(controller.engine.read(|state, _| state.meta().rollout.map(|it| it.stopped)), Some(true));
    controller.run(&Command::Rollout(Step::Continue { revision: None })).unwrap();
    controller.until_vrfs(&agents, |_| 3).await;
    controller.until_in_sync().await;
}

/// P2. An operator approves what was reviewed.
#[tokio::test(flavor = "multi_thread")]
async fn continuing_another_revision_than_the_reviewed_one_is_refused() {
    let (_folder, controller, agents) = built(PUSHES).await;
    let go_on = |seen: SeenRevision| Command::Rollout(Step::Continue { revision: Some(seen) });
    // There is no rollout, and nothing to do.
    controller.run(&go_on("1".parse().unwrap())).unwrap();
    controller.run(&inventory(&agents, &["common"])).unwrap();
    controller.run(&Command::Rollout(Step::Stop { why: String::new() })).unwrap();
    let looked_at = controller.revision().unwrap();
    let began = || controller.engine.read(|state, _| state.meta().rollout.map(|it| it.number)).unwrap();
    assert_eq!(looked_at, Revision { epoch: 1, number: began() });
    // Reports of underlay MTUs do not change what is to be reviewed.
    for n in 1..=HOSTS {
        controller.run(&Command::LearnMtu(format!("h{n}").parse().unwrap(), 9000)).unwrap();
    }
    assert_eq!((controller.held().len(), controller.revision()), (HOSTS - 2, Some(looked_at)));
    // A document that begins no rollout of its own gives waiting hosts something newer to wait for.
    controller.engine.tune(options(Pushes { canary_above: HOSTS, ..PUSHES }));
    controller.run(&inventory(&agents, &["common", "other"])).unwrap();
    let now = controller.revision().unwrap();
    assert!(controller.held().len() == HOSTS - 2 && now > looked_at);
    assert_eq!(looked_at.number, began());
    let before_a_restore = SeenRevision { epoch: Some(0), number: now.number };
    for seen in [looked_at.into(), SeenRevision { epoch: None, number: looked_at.number }, before_a_restore] {
        let refused = controller.run(&go_on(seen)).unwrap_err().to_string();
        assert!(refused.contains(&format!("hosts wait for {now}, not for {seen}")), "{refused}");
    }
    assert_eq!(controller.held().len(), HOSTS - 2);
    controller.run(&go_on(now.into())).unwrap();
    controller.until_vrfs(&agents, |_| 3).await;
}

/// P3. If a document removes something else from all waiting hosts, they get what they waited for: it was not reverted.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_reverted_only_where_hosts_keep_what_they_have() {
    let (_folder, controller, agents) = built(PUSHES).await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    controller.run(&Command::Rollout(Step::Continue { revision: None })).unwrap();
    controller.until_vrfs(&agents, |_| 2).await;
    controller.until_in_sync().await;
    controller.run(&inventory(&agents, &["common", "other"])).unwrap();
    assert_eq!(controller.held().len(), HOSTS - 2);
    // What they had is removed, and what they wait for stays.
    let Command::Apply(mut less) = inventory(&agents, &["common", "other"]) else { unreachable!() };
    less.inventory.ports.retain(|port| port.vpc.as_str() != "common");
    less.inventory.vpcs.retain(|vpc| vpc.id.as_str() != "common");
    controller.run(&Command::Apply(less.pruning())).unwrap();
    assert_eq!(controller.held(), Vec::<usize>::new());
    controller.until_vrfs(&agents, |_| 2).await;
    controller.until_rollout(None).await;
    assert_eq!(controller.told()[0], "rollout.finished");
}

/// P2. Flapping canaries are not waited for without end, however short each failure is.
#[tokio::test(flavor = "multi_thread")]
async fn flapping_canaries_stop_it() {
    let (folder, agents) = (tempfile::tempdir().unwrap(), agents().await);
    let boot_ms = Arc::new(AtomicU64::new(1_000_000));
    let own = Arc::clone(&boot_ms);
    let clock: Clock = Arc::new(move || {
        let boot_ms = own.load(Ordering::SeqCst);
        Reading { wall_ms: 1_700_000_000_000 + boot_ms, boot_ms }
    });
    let pushes = Pushes { canary_watch: Duration::from_mins(5), ..PUSHES };
    let tuned = |pushes| Options { clock: Arc::clone(&clock), ..options(pushes) };
    let store = crate::place::open(folder.path()).unwrap();
    let none = Pushes { canary_hosts: 0, ..pushes };
    let controller = Controller::with(store, Duration::from_millis(20), tuned(none));
    controller.run(&inventory(&agents, &[])).unwrap();
    controller.until_in_sync().await;
    controller.engine.tune(tuned(pushes));
    controller.run(&inventory(&agents, &["common"])).unwrap();
    let canary = controller.canaries()[0];
    let name: HostId = format!("h{canary}").parse().unwrap();
    let problem = Problem { kind: ProblemKind::Failed, scope: Scope::Host, object: "x".into(), reason: "wrong".into() };
    let is_stopped = || controller.engine.read(|state, _| state.meta().rollout.is_some_and(|it| it.stopped));
    // 20 seconds healthy and 20 seconds not, with a minute at a stretch allowed: five times that is too much.
    let mut rounds = 0;
    while !is_stopped() {
        rounds += 1;
        assert!(rounds < 20, "it goes on for ever");
        for is_well in [true, false] {
            agents[canary - 1].host.lock().unwrap().problems = if is_well { vec![] } else { vec![problem.clone()] };
            let said = |seen: &Seen<'_>| {
                let all = seen.state.hosts().values().filter(|host| host.pacing == Some(Pacing::Canary));
                let number = seen.state.meta().rollout?.number;
                let well = all.filter(|host| seen.agents.is_well_since(host, number)).count();
                (seen.agents.is_current(&name) && well == if is_well { 2 } else { 1 }).then_some(())
            };
            controller.until("it is heard", said).await;
            controller.sweep();
            boot_ms.fetch_add(20_000, Ordering::SeqCst);
            controller.until("it is heard again", said).await;
            controller.sweep();
        }
    }
    // Not because it was unhealthy for long at a stretch.
    assert!(rounds >= 7, "{rounds}");
    assert_eq!(controller.held().len(), HOSTS - 2);
    assert_eq!(controller.told(), ["rollout.stopped"]);
}

/// P3. A restored store knows nothing about hosts: all get their configurations, also those that waited at the time of the backup.
#[tokio::test(flavor = "multi_thread")]
async fn the_release_of_a_restored_store_reaches_all_immediately() {
    let (folder, agents) = (TempDir::new().unwrap(), agents().await);
    let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
    let start = || Controller::with(Store::open(&store).unwrap(), Duration::from_millis(50), options(PUSHES));
    let controller = start();
    controller.run(&inventory(&agents, &[])).unwrap();
    controller.until_in_sync().await;
    controller.run(&inventory(&agents, &["common"])).unwrap();
    assert_eq!(controller.held().len(), HOSTS - 2);
    tokio::task::block_in_place(|| controller.engine.store().back_up(&copy)).unwrap();
    controller.run(&Command::Rollout(Step::Continue { revision: None })).unwrap();
    controller.until_in_sync().await;
    controller.run(&inventory(&agents, &["common", "other"])).unwrap();
    controller.run(&Command::Rollout(Step::Continue { revision: None })).unwrap();
    controller.until_vrfs(&agents, |_| 3).await;
    stop_on(controller, &store).await;
    Store::restore(&copy, &store, None, Origin::Same).unwrap();
    let controller = start();
    controller.until("heard", |seen| seen.agents.contact(&"h8".parse().unwrap()).map(drop)).await;
    controller.run(&Command::Release).unwrap();
    assert_eq!(controller.held(), Vec::<usize>::new());
    controller.until_rollout(None).await;
    controller.until_vrfs(&agents, |_| 2).await;
}
