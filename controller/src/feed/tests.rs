//! Positions between events, and what happens when events after them are gone.

use super::*;
use crate::{
    audit::Entry,
    clock::Reading,
    engine::{Clock, Options},
    events::Recipient,
    model::{
        Actor, Command, Request,
        state::{Change, Meta},
    },
    store::{Droppable, Origin, Store},
};
use std::sync::atomic::{AtomicU64, Ordering};

/// An entry with one event of an account in the region north.
fn entry(name: &str, account: &str, time_ms: u64) -> Entry {
    let account: AccountId = account.parse().unwrap();
    let told = Recipient { account: account.clone(), region: "north".parse().ok(), role: "initiator".to_owned() };
    let event = Event {
        kind: "peering.requested".to_owned(),
        target: "vpcpr-1".to_owned(),
        name: name.to_owned(),
        state: "pending".to_owned(),
        bandwidth: None,
        told: vec![told],
    };
    Entry {
        time_ms,
        request: String::new(),
        actor: format!("account/{account}"),
        action: "CreatePeering".to_owned(),
        target: "vpcpr-1".to_owned(),
        outcome: "done".to_owned(),
        reason: String::new(),
        asked: serde_json::Value::Null,
        accounts: [account].into(),
        from: String::new(),
        events: vec![event],
    }
}

#[tokio::test]
async fn a_cursor_from_before_a_restore_expires_also_when_its_number_is_there_again() {
    let (folder, engine, [one, _]) = engine(&[entry("before", "one", now_ms())]);
    drop(engine);
    let (path, copy) = (folder.path().join("store.redb"), folder.path().join("copy"));
    let store = Store::open(&path).unwrap();
    store.commit(&[Change::Meta(Meta { number: 1, ..Meta::default() })], &[], &[], 0).unwrap();
    store.back_up(&copy).unwrap();
    drop(store);
    let open = || Engine::open(Store::open(&path).unwrap(), Options::default()).unwrap().0;
    let before = open();
    before.store().append(&[entry("lost", "one", now_ms())]).unwrap();
    let (_, old) = look(&before, &one, None, 100).await.unwrap();
    drop(before);
    Store::restore(&copy, &path, None, Origin::Same).unwrap();
    let restored = open();
    restored.store().append(&["again", "and", "more"].map(|name| entry(name, "one", now_ms()))).unwrap();
    let Err(failure) = look(&restored, &one, Some(old), 100).await else { panic!("{old}") };
    assert!(matches!(failure, FeedError::Expired(_)));
    let (events, now) = look(&restored, &one, None, 100).await.unwrap();
    assert_eq!(names(&events), ["before", "again", "and", "more"]);
    assert_eq!(now.to_string().parse(), Ok(now));
    assert!(look(&restored, &one, Some(cursor(events[1].id())), 100).await.is_ok());
}

/// A clock that leaps and is accepted makes nothing older.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_survives_a_clock_that_has_leapt_and_was_believed() {
    const DAY: u64 = 24 * 3600 * 1000;
    let start_ms = 20_000 * DAY;
    let (wall, boot) = (Arc::new(AtomicU64::new(start_ms)), Arc::new(AtomicU64::new(1000)));
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let (wall, boot) = (Arc::clone(&wall), Arc::clone(&boot));
        let clock: Clock = Arc::new(move || {
            let [wall_ms, boot_ms] = [&wall, &boot].map(|it| it.load(Ordering::SeqCst));
            Reading { wall_ms, boot_ms }
        });
        let options = Options { clock, ..Options::default() };
        Engine::open(Store::open(folder.path().join("store.redb")).unwrap(), options).unwrap().0
    };
    let one = Viewer::Account("one".parse().unwrap(), "north".parse().unwrap());
    let engine = open();
    engine.store().append(&["a", "b"].map(|name| entry(name, "one", start_ms))).unwrap();
    let (events, place) = look(&engine, &one, None, 1).await.unwrap();
    assert_eq!(names(&events), ["a"]);
    wall.fetch_add(400 * DAY, Ordering::SeqCst);
    let sweep = |engine: &Engine| tokio::task::block_in_place(|| engine.sweep());
    sweep(&engine);
    assert!(engine.leap().is_some());
    let confirm = Request::new(Actor::Operator, Command::ConfirmClock);
    tokio::task::block_in_place(|| engine.execute(&confirm)).unwrap();
    assert_eq!(engine.now_ms(), start_ms + 400 * DAY);
    let check = async |engine: &Arc<Engine>| {
        sweep(engine);
        assert_eq!(names(&look(engine, &one, Some(place), 100).await.unwrap().0), ["b"]);
        assert_eq!(names(&look(engine, &one, None, 100).await.unwrap().0), ["a", "b"]);
    };
    check(&engine).await;
    drop(engine);
    // The same after a takeover. Elapsed time counts.
    let engine = open();
    check(&engine).await;
    for clock in [&wall, &boot] {
        clock.fetch_add(8 * DAY, Ordering::SeqCst);
    }
    let Err(failure) = look(&engine, &one, Some(place), 100).await else { panic!("it is too old") };
    assert!(matches!(failure, FeedError::Expired(_)));
}

/// An engine with these entries, and what the accounts `one` and `two` see in the region north.
fn engine(entries: &[Entry]) -> (tempfile::TempDir, Arc<Engine>, [Viewer; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store.redb")).unwrap();
    store.append(entries).unwrap();
    let (engine, _) = Engine::open(store, Options::default()).unwrap();
    let viewer = |account: &str| Viewer::Account(account.parse().unwrap(), "north".parse().unwrap());
    (folder, engine, [viewer("one"), viewer("two")])
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn names(events: &[EventView]) -> Vec<&str> {
    events.iter().filter_map(|event| event.vpc_peering_name.as_deref()).collect()
}

fn cursor(text: &str) -> Cursor {
    text.parse().unwrap()
}

#[tokio::test]
async fn what_is_fresh_is_found_behind_any_number_of_old_entries() {
    // More than one response examines.
    let old = (0..=AT_ONCE * ROUNDS).map(|_| entry("old", "one", 1000));
    let entries: Vec<Entry> = old.chain([entry("fresh", "one", now_ms())]).collect();
    let (_folder, engine, [one, _]) = engine(&entries);
    let (events, next) = look(&engine, &one, None, 100).await.unwrap();
    assert_eq!(names(&events), ["fresh"]);
    let (events, _) = look(&engine, &one, Some(next), 100).await.unwrap();
    assert!(events.is_empty());
}

#[tokio::test]
async fn who_has_missed_events_is_told_so_and_can_begin_again() {
    let now_ms = now_ms();
    let entries: Vec<Entry> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| entry(name, "one", now_ms))
        .chain([entry("x", "two", now_ms)])
        .collect();
    let (_folder, engine, [one, two]) = engine(&entries);
    let (all, _) = look(&engine, &one, None, 100).await.unwrap();
    assert_eq!(names(&all), ["a", "b", "c", "d"]);
    // The two oldest are dropped.
    let size = serde_json::to_vec(&entries[0]).unwrap().len() as u64;
    engine.store().drop_entries("account/one", Droppable::Own { after: 0 }, 2 * size, 100).unwrap();
    assert_eq!(engine.store().event_gap(one.account()).unwrap(), 2);
    for missed in [&all[0], &all[1]] {
        let Err(failure) = look(&engine, &one, Some(cursor(missed.id())), 100).await else { panic!("{missed:?}") };
        let FeedError::Expired(text) = failure else { panic!("{failure}") };
        assert!(text.contains("the audit trail is full"), "{text}");
    }
    let (rest, _) = look(&engine, &one, Some(cursor(all[2].id())), 100).await.unwrap();
    assert_eq!(names(&rest), ["d"]);
    for from in [None, Some(cursor(all[0].id()))] {
        let (left, _) = look_for(&engine, &one, from, 100, Missing::PassOver).await.unwrap();
        assert_eq!(names(&left), ["c", "d"]);
    }
    // From the beginning, also one at a time: the remaining ones, and no error in between.
    let (mut from, mut seen) = (None, Vec::new());
    loop {
        let (events, next) = look(&engine, &one, from, 1).await.unwrap();
        if events.is_empty() {
            break;
        }
        seen.extend(names(&events).into_iter().map(str::to_owned));
        from = Some(next);
    }
    assert_eq!(seen, ["c", "d"]);
    // Other accounts have missed nothing; operators have.
    assert_eq!(
        names(&look(&engine, &two, Some(cursor(&format!("1.0.{}", now_ms / 1000))), 100).await.unwrap().0),
        ["x"]
    );
    let Err(_) = look(&engine, &Viewer::Operator, Some(cursor(all[0].id())), 100).await else { panic!("of operators") };
}
