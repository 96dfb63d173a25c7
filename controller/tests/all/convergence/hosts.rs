//! Hosts that are paused, removed, silent, or another cluster's.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_pruned_are_emptied_before_they_are_forgotten() {
    let (_folder, controller, agents) = built().await;
    let inventory = toml::from_str("").unwrap();
    controller.run(&Command::Apply(Apply::of(inventory).pruning())).unwrap();
    controller.until("forgotten", |seen| seen.state.hosts().is_empty().then_some(())).await;
    assert!(agents.iter().all(|agent| agent.host.lock().unwrap().config.as_ref().unwrap().vrfs.is_empty()));
}

fn host(id: &str, what: HostCommand) -> Command {
    Command::Host(HostChange { id: id.parse().unwrap(), what })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_removed_as_dead_delays_nothing_and_is_cleaned_should_it_answer_again() {
    let (_folder, controller, [_one, two]) = built().await;
    let id = controller.peer();
    controller.until_active(&id).await;
    let away = two.stop().await;
    controller.run(&delete(&id)).unwrap();
    let removal = |agreed| HostCommand::Remove(Removal { dead: true, approval: Approval::Given(agreed) });
    controller.run(&host("h2", removal(None))).unwrap();
    controller.until_gone(&id).await;
    controller.engine.read(|state, agents| {
        let dead = &state.hosts()["h2"];
        assert!(dead.dead && !agents.is_current(&dead.id) && state.ports_on(&dead.id).next().is_none());
    });
    let two = Agent::again(away).await;
    controller.until("forgotten", |seen| (seen.state.hosts().len() == 1).then_some(())).await;
    let config = two.host.lock().unwrap().config.clone().unwrap();
    assert!(config.vrfs.is_empty() && config.sides.is_empty(), "nothing is left on it: {config:?}");
}

/// Otherwise the next cluster that uses it would be refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_to_leave_its_cluster_is_told_again() {
    let (_folder, controller, [_one, two]) = built().await;
    two.calls();
    two.host.lock().unwrap().stays = 2;
    let removal = HostCommand::Remove(Removal { dead: false, approval: Approval::Given(None) });
    controller.run(&host("h2", removal)).unwrap();
    let told = |calls: &[&str]| calls.iter().filter(|call| **call == "DELETE").count();
    controller.until("it has left", |_| (told(&two.host.lock().unwrap().calls) == 3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_host_gets_no_pushes_and_everything_afterwards() {
    let (folder, controller, [one, two]) = built().await;
    controller.run(&host("h2", HostCommand::Pause)).unwrap();
    for agent in [&one, &two] {
        agent.calls();
    }
    let id = controller.peer();
    controller.until("one of two", |_| (one.sides() == 1).then_some(())).await;
    controller.until("it is asked", |seen| seen.agents.is_current(&"h2".parse().unwrap()).then_some(())).await;
    assert_eq!((two.sides(), two.calls()), (0, Vec::new()));
    // It is not in sync, and a restarted controller knows that it is paused, too.
    stop(controller, folder.path()).await;
    let controller = Controller::start(folder.path());
    let paused = |seen: &Seen<'_>| {
        let host = &seen.state.hosts()["h2"];
        (host.paused && seen.agents.is_current(&host.id) && !seen.agents.in_sync(host)).then_some(())
    };
    controller.until("asked, and out of sync", paused).await;
    assert_eq!((two.sides(), two.calls()), (0, Vec::new()));
    controller.run(&host("h2", HostCommand::Resume)).unwrap();
    controller.until_active(&id).await;
    assert_eq!(two.sides(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stays_away_delays_a_peering_only_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Agent::start().await, Agent::start().await);
    let store = crate::place::open(folder.path()).unwrap();
    // No push workers.
    let (engine, _hosts) = Engine::open(store, Options { grace: Duration::ZERO, ..Options::default() }).unwrap();
    let controller = Controller { engine, workers: tokio::spawn(async {}) };
    controller.build([&one, &two]);
    let id = controller.peer();
    controller.engine.sweep();
    controller.until_active(&id).await;
    controller.engine.read(|state, agents| assert_eq!(agents.missing(&state.peerings()[&id]).len(), 2));
}

fn h1() -> HostId {
    "h1".parse().unwrap()
}

/// V3. A restored backup sends nothing to hosts before an operator has reviewed what would change.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_held_until_it_is_released() {
    let folder = TempDir::new().unwrap();
    let agents = [Agent::start().await, Agent::start().await];
    let (store, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
    let controller = Controller::on(Store::open(&store).unwrap());
    controller.build([&agents[0], &agents[1]]);
    tokio::task::block_in_place(|| controller.engine.store().back_up(&copy)).unwrap();
    controller.peer();
    controller.until("both have it", |_| agents.iter().all(|agent| agent.sides() == 1).then_some(())).await;
    let mine = controller.engine.cluster().unwrap();
    stop_on(controller, &store).await;
    let before = agents.each_ref().map(Agent::revision);
    for agent in &agents {
        agent.calls();
    }

    let restored = Store::restore(&copy, &store, None, Origin::Same).unwrap();
    assert_eq!((restored.cluster, restored.held), (Some(mine), true));
    let controller = Controller::on(Store::open(&store).unwrap());
    let error = controller
        .until("what would become of h1", |seen| {
            assert_eq!(seen.agents.count_in_sync(), 0, "nobody has what it must have");
            seen.agents.contact(&h1()).and_then(|contact| contact.error.clone())
        })
        .await;
    assert!(error.starts_with("held, would lose side ") && error.contains("would get nothing"), "{error}");
    assert!(error.contains("cps-peering-controller release"), "{error}");
    assert_eq!(agents.each_ref().map(Agent::revision), before, "nothing was sent");
    assert_eq!(agents.iter().map(|agent| agent.calls().len()).sum::<usize>(), 0);

    controller.run(&Command::Release).unwrap();
    controller.until("both in sync again", |seen| (seen.agents.count_in_sync() == 2).then_some(())).await;
    assert!(!controller.engine.is_held() && agents.iter().all(|agent| agent.sides() == 0));
    stop_on(controller, &store).await;
    assert!(!Store::open(&store).unwrap().load().unwrap().meta().held, "it stays so");
}

/// V3. A host whose agent refuses is not in sync, whatever its revision, and the fix is named.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_another_cluster_are_left_alone_and_are_not_in_sync() {
    let folder = TempDir::new().unwrap();
    let agents = [Agent::start().await, Agent::start().await];
    let controller = Controller::on(Store::open(folder.path().join("store.redb")).unwrap());
    controller.build([&agents[0], &agents[1]]);
    controller.until("both in sync", |seen| (seen.agents.count_in_sync() == 2).then_some(())).await;
    let other = ClusterId::new(7);
    agents[0].host.lock().unwrap().cluster = Some(other);
    let error = controller
        .until("what h1 says", |seen| seen.agents.contact(&h1()).and_then(|contact| contact.error.clone()))
        .await;
    let mine = controller.engine.cluster().unwrap();
    assert!(error.contains(&format!("belongs to cluster {other}")), "{error}");
    assert!(error.contains(&format!("cps-peering-agent join {mine}")), "{error}");
    controller.until("one in sync", |seen| (seen.agents.count_in_sync() == 1).then_some(())).await;
}
