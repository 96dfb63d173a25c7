//! Commands that arrive while the disk is busy are decided one after another and committed together, or not at all.

use crate::common::{apply, create, vpc};
use cps_peering_controller::{
    engine::{Engine, EngineError, Health, NewHosts, Options, steady},
    metrics,
    model::{Actor, Command, Outcome, Request, record::PeeringState, state::Change},
    store::Store,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const VPCS: usize = 12;

/// An engine with a clock that can be stopped, and with it the writer, in the middle of a command.
struct Held {
    engine: Arc<Engine>,
    hold: Arc<Mutex<()>>,
    _hosts: NewHosts,
    folder: TempDir,
}

fn held() -> Held {
    let folder = tempfile::tempdir().unwrap();
    let hold = Arc::new(Mutex::new(()));
    let held = Arc::clone(&hold);
    let clock = steady(move || {
        let _held = held.lock().unwrap();
        1
    });
    let store = Store::open(folder.path().join("store.redb")).unwrap();
    let (engine, hosts) = Engine::open(store, Options { clock, ..Options::default() }).unwrap();
    let vpcs = (0..VPCS).map(|n| vpc(&format!("v{n}"), "north", &format!("'10.{n}.0.0/16'")));
    let text = std::iter::once("[[regions]]\nid = 'north'\n".to_owned()).chain(vpcs).collect::<String>();
    engine.execute(&Request::new(Actor::Operator, apply(&text, false))).unwrap();
    Held { engine, hold, _hosts: hosts, folder }
}

fn peer(a: usize, b: usize) -> Command {
    let name = format!("p{a}-{b}");
    Command::CreatePeering(cps_peering_controller::model::peering::Create {
        name,
        ..create(&format!("v{a}"), &format!("v{b}"))
    })
}

/// The number of transactions.
fn commits(engine: &Arc<Engine>) -> u32 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics::registry(engine, None)).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("cps_controller_store_commit_seconds_count "));
    count.unwrap().parse().unwrap()
}

/// Sends all commands while the writer is held with the first.
async fn all_at_once(held: &Held, commands: Vec<Command>) -> Vec<Result<Outcome, EngineError>> {
    let mut asked = JoinSet::new();
    {
        let _held = held.hold.lock().unwrap();
        for command in commands {
            let engine = Arc::clone(&held.engine);
            asked.spawn(async move { engine.carry_out(Request::new(Actor::Operator, command)).await });
        }
        // Long enough for all to be queued; otherwise more transactions are needed, and nothing else changes.
        std::thread::sleep(Duration::from_millis(50));
    }
    asked.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_arrive_during_a_commit_are_committed_together() {
    let held = held();
    let before = commits(&held.engine);
    let answers = all_at_once(&held, (0..VPCS / 2).map(|n| peer(2 * n, 2 * n + 1)).collect()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let transactions = commits(&held.engine) - before;
    assert!(transactions <= 3, "{transactions} transactions for {} commands", answers.len());
    // Each has its own number, and includes what was due.
    held.engine.read(|state, _| {
        assert_eq!(state.peerings().len(), VPCS / 2);
        assert!(state.peerings().values().all(|peering| peering.state == PeeringState::Active));
    });
    let Held { engine, folder, .. } = held;
    let seen = engine.read(|state, _| state.clone());
    drop(engine);
    let kept = Store::open(folder.path().join("store.redb")).unwrap().load().unwrap();
    assert_eq!(kept, seen, "the store has what was seen");
}

/// L12.
#[tokio::test(flavor = "multi_thread")]
async fn of_mutually_exclusive_commands_one_wins_also_within_a_transaction() {
    let held = held();
    let answers = all_at_once(&held, (0..6).map(|_| peer(0, 1)).collect()).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_record_fails_its_own_command_only() {
    let held = held();
    let before = held.engine.read(|state, _| state.clone());
    let prefixes: Vec<String> = (0..80_000).map(|n| format!("'fd00::{:x}:{:x}/128'", n >> 16, n & 0xffff)).collect();
    let text = format!(
        "{}[[vpcs]]\nid = 'big'\naccount = 'acme'\nregion = 'north'\ncidrs = ['fd00::/64']\n\
         [[ports]]\nhost = 'h1'\ninterface = 'eth1'\nvpc = 'big'\ngateways = []\nprefixes = [{}]\n",
        crate::common::host(1, "north"),
        prefixes.join(", ")
    );
    // Together with others that fit.
    let answers = all_at_once(&held, vec![peer(0, 1), apply(&text, false), peer(2, 3)]).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2, "{answers:?}");
    let Some(Err(EngineError::Refused(refused))) = answers.iter().find(|answer| answer.is_err()) else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (refused.violations[0].entry.as_str(), refused.violations[0].reason),
        ("port/h1/eth1", "RecordTooLarge")
    );
    assert!(refused.to_string().contains("and may have 1310720"), "{refused}");
    assert_eq!(held.engine.health(), Health::Fine);
    let after = held.engine.read(|state, _| state.clone());
    assert_eq!((after.vpcs().len(), after.hosts().len()), (before.vpcs().len(), before.hosts().len()));
    assert_eq!(after.peerings().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_failed_commit_was_seen_or_acknowledged() {
    let held = held();
    let before = held.engine.read(|state, _| state.clone());
    // Another process commits to the store.
    let number = before.meta().number;
    let meta = cps_peering_controller::model::state::Meta { number: number + 1, ..before.meta() };
    held.engine.store().commit(&[Change::Meta(meta)], &[], &[], number).unwrap();
    let answers = all_at_once(&held, (0..4).map(|n| peer(2 * n, 2 * n + 1)).collect()).await;
    let failed = |answer: &Result<Outcome, EngineError>| {
        matches!(answer, Err(EngineError::Store(_) | EngineError::StoreFailed(_)))
    };
    assert!(answers.iter().all(failed), "{answers:?}");
    assert!(held.engine.read(|state, _| state.peerings().is_empty()));
    // Nothing more is accepted before a write has succeeded, not even commands that would need no commit.
    let answer = held.engine.carry_out(Request::new(Actor::Operator, peer(0, 0))).await;
    assert!(matches!(answer, Err(EngineError::StoreFailed(_))), "{answer:?}");
    assert!(matches!(held.engine.health(), Health::Failing(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_sees_pending_commands() {
    let held = held();
    let before = held.engine.read(|state, _| state.clone());
    assert!(held.engine.dry_run(Request::new(Actor::Operator, peer(0, 1))).await.is_ok());
    assert!(held.engine.read(|state, _| *state == before));
    held.engine.carry_out(Request::new(Actor::Operator, peer(0, 1))).await.unwrap();
    let again = held.engine.dry_run(Request::new(Actor::Operator, peer(0, 1))).await;
    assert!(matches!(again, Err(EngineError::Refused(_))), "{again:?}");
}
