//! Tests with real members of etcd.

use super::{
    super::{Origin, Store},
    *,
};
use crate::{
    audit::{Entry, Query},
    model::{
        record::Region,
        state::{Change, State},
    },
};
use cps_peering_config::settings::StorePlace;
use futures_util::FutureExt as _;
use members::Members;
use proxy::{Mode, Proxy};
use serde_json::Value;

#[path = "../../../tests/all/loopback.rs"]
mod loopback;
#[path = "../../../tests/all/etcd.rs"]
pub(super) mod members;
#[path = "../../../tests/all/proxy.rs"]
pub(super) mod proxy;

pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) fn cluster(members: &Members) -> Arc<Cluster> {
    Arc::new(Cluster::new(&members.settings("/t/")).unwrap())
}

pub(super) fn lead(cluster: &Arc<Cluster>) -> Store {
    Store::lead(cluster, "http://127.0.0.1:1", LONG).unwrap().unwrap()
}

fn backend(cluster: &Arc<Cluster>) -> Etcd {
    Etcd::lead(cluster, None, LONG).unwrap().unwrap()
}

pub(super) fn region(id: &str) -> Change {
    let id: cps_peering_config::id::RegionId = id.parse().unwrap();
    Change::Region(id.clone(), Some(serde_json::from_value::<Region>(serde_json::json!({ "id": id })).unwrap()))
}

pub(super) fn regions(count: usize) -> Vec<Change> {
    (0..count).map(|number| region(&format!("region-{number:05}"))).collect()
}

pub(super) fn entry(account: &str, time_ms: u64) -> Entry {
    Entry {
        time_ms,
        request: format!("{account}{time_ms}"),
        actor: "operator".to_owned(),
        action: "Apply".to_owned(),
        target: String::new(),
        outcome: "done".to_owned(),
        reason: String::new(),
        asked: Value::Null,
        accounts: [account.parse().unwrap()].into(),
        from: String::new(),
        events: Vec::new(),
    }
}

/// Commits with the next number.
pub(super) fn commit(store: &Store, changes: &[Change], entries: &[Entry]) -> Result<u64, StoreError> {
    let meta = store.meta().unwrap().unwrap_or_default();
    commit_after(store, meta, changes, entries)
}

fn commit_after(store: &Store, meta: Meta, changes: &[Change], entries: &[Entry]) -> Result<u64, StoreError> {
    let mut changes = changes.to_vec();
    changes.push(Change::Meta(Meta { number: meta.number + 1, ..meta }));
    store.commit(&changes, &[], entries, meta.number).map(|()| meta.number + 1)
}

fn numbers(store: &Store, account: Option<&str>, before: Option<u64>, limit: usize) -> Vec<u64> {
    let account = account.map(|it| it.parse().unwrap());
    let found = store.audit(&Query { account, before, limit, ..Query::default() }).unwrap();
    found.into_iter().map(|(number, _)| number).collect()
}

/// The content of a state, without epoch and number.
fn content(state: &State) -> usize {
    state.regions().len()
}

/// The same commands on both stores, and their visible results.
fn story(store: &Store) -> Vec<Vec<u64>> {
    commit(store, &[region("north"), region("south")], &[entry("one", 1), entry("two", 2)]).unwrap();
    commit(store, &[region("east"), Change::Region("south".parse().unwrap(), None)], &[entry("one", 3)]).unwrap();
    store.append(&[entry("two", 4), entry("one", 5)]).unwrap();
    let side = |number: u8| (format!("vpcpr-{number:010}").parse().unwrap(), Vni::try_from(4096).unwrap());
    store.save_traffic(&[(side(1), 10), (side(2), 20)], &[]).unwrap();
    store.save_traffic(&[(side(2), 21)], &[side(1)]).unwrap();
    assert_eq!(store.traffic::<u8>().unwrap(), [(side(2), 21)]);
    let seen = vec![
        numbers(store, None, None, 3),
        numbers(store, None, Some(3), 9),
        numbers(store, Some("one"), None, 2),
        numbers(store, Some("one"), Some(5), 9),
        numbers(store, Some("nobody"), None, 9),
    ];
    let of = store.audit(&Query { request: Some("two4".into()), limit: 9, ..Query::default() }).unwrap();
    assert_eq!(of.len(), 1);
    assert_eq!(store.forget(3).unwrap().len(), 2);
    assert_eq!(store.forget(3).unwrap().len(), 0);
    assert_eq!((numbers(store, None, None, 9), numbers(store, Some("two"), None, 9)), (vec![5, 4, 3], vec![4]));
    assert!(!store.forget(100).unwrap().is_empty());
    assert_eq!(numbers(store, None, None, 9), [5], "the newest keeps its place");
    store.append(&[entry("two", 6)]).unwrap();
    let state = store.load().unwrap();
    assert_eq!(state.regions().keys().map(ToString::to_string).collect::<Vec<_>>(), ["east", "north"]);
    seen
}

use cps_peering_config::net::Vni;

#[test]
fn both_stores_do_the_same() {
    let members = Members::start(1);
    let folder = tempfile::tempdir().unwrap();
    let file = story(&Store::open(folder.path().join("s")).unwrap());
    let cluster = cluster(&members);
    let store = lead(&cluster);
    assert_eq!(story(&store), file);
    drop(store);

    // What was written is there for the next one, under a new epoch, and numbers continue.
    let store = lead(&cluster);
    assert_eq!((content(&store.load().unwrap()), store.meta().unwrap().unwrap().epoch), (2, 2));
    store.append(&[entry("one", 7)]).unwrap();
    assert_eq!(numbers(&store, None, None, 9), [7, 6, 5]);
    let error = store.commit(&[], &[], &[], 1).unwrap_err();
    assert!(matches!(error, StoreError::Overtaken { expected: 1, found: 4, .. }), "{error}");
    let long = vec![entry(&"x".repeat(20), 1); 1];
    let huge = Batch { traffic: vec![(("p".into(), 1), Some(vec![0; MAX_VALUE + 1]))], ..Batch::default() };
    assert!(matches!(store.backend.write("try", &huge), Err(StoreError::TooLarge { .. })));
    store.append(&long).unwrap();
    assert!(matches!(Store::look(&cluster).append(&long), Err(StoreError::Deposed { .. })));
}

#[test]
fn only_the_current_leader_writes() {
    let members = Members::start(1);
    let cluster = cluster(&members);
    let first = lead(&cluster);
    commit(&first, &[region("north")], &[]).unwrap();
    let told = cluster.leader().unwrap().unwrap();
    assert_eq!(told.url.as_deref(), Some("http://127.0.0.1:1"));
    assert!(Store::lead(&cluster, "http://x", Duration::ZERO).unwrap().is_none(), "there is a leader");

    // Its lease is alive, but its key is another's.
    let meta = first.meta().unwrap().unwrap();
    members.control(&["del", "/t/leader"]);
    let second = lead(&cluster);
    assert!(first.leadership().holds(), "it does not know yet");
    assert!(matches!(commit_after(&first, meta, &[region("south")], &[]), Err(StoreError::Deposed { .. })));
    assert!(!first.leadership().holds() && first.leadership().lost().now_or_never().is_some());
    assert!(matches!(first.append(&[entry("one", 1)]), Err(StoreError::Deposed { .. })));
    assert_eq!(content(&second.load().unwrap()), 1);
    assert_eq!(commit(&second, &[region("east")], &[]).unwrap(), 4);
    drop(first);
    assert!(second.leadership().holds(), "what the first one leaves behind is not the second one's");
    commit(&second, &[region("west")], &[]).unwrap();
}

#[test]
fn a_commit_larger_than_a_transaction_is_whole_or_not_there() {
    let members = Members::start(1);
    let cluster = cluster(&members);
    let store = lead(&cluster);
    let entries: Vec<Entry> = (0..60).map(|time_ms| entry("one", time_ms)).collect();
    commit(&store, &regions(3000), &entries).unwrap();
    assert_eq!((content(&store.load().unwrap()), numbers(&store, Some("one"), None, 99).len()), (3000, 60));
    assert_eq!(Store::look(&cluster).load().unwrap(), store.load().unwrap());
    let keys = members.control(&["get", "/t/", "--prefix", "--keys-only"]);
    assert!(!keys.contains("staged") && !keys.contains("pending"), "nothing is left");
    drop(store);

    let batch = |count: usize, number: u64| {
        let change =
            |number: usize| (format!("region/new-{number}"), Some(format!("{{\"id\":\"new-{number}\"}}").into()));
        let meta = serde_json::to_vec(&Meta { number, ..Meta::default() }).unwrap();
        let records = (0..count).map(change).chain([("meta".to_owned(), Some(meta))]).collect();
        Batch {
            records,
            entries: vec![(Vec::new(), serde_json::to_vec(&entry("new", 1)).unwrap())],
            ..Batch::default()
        }
    };
    // It dies before the commit is valid.
    let dying = backend(&cluster);
    let number = dying.writer().number;
    let operations = dying.operations(&dying.writer(), &batch(500, number + 1));
    dying.stage(&mut dying.writer(), &operations).unwrap();
    assert_eq!(content(&Store::look(&cluster).load().unwrap()), 3000);
    drop(dying);
    let next = backend(&cluster);
    assert_eq!(next.records().unwrap().len(), 3001);
    assert_eq!(next.writer().number, number);
    assert!(!members.control(&["get", "/t/", "--prefix", "--keys-only"]).contains("staged"));

    // It dies when it is valid, with some of it in place.
    let operations = next.operations(&next.writer(), &batch(500, number + 1));
    let pending = next.stage(&mut next.writer(), &operations).unwrap();
    next.make_valid(&mut next.writer(), &operations, &pending).unwrap();
    let part = parts(&operations, MAX_OPERATIONS).next().unwrap();
    next.write(&mut next.writer(), "begin", part).unwrap();
    let seen = Store::look(&cluster);
    assert_eq!(content(&seen.load().unwrap()), 3500, "readers see all of it");
    assert_eq!(seen.meta().unwrap().unwrap().number, number + 1);
    let folder = tempfile::tempdir().unwrap();
    seen.back_up(&folder.path().join("copy")).unwrap();
    let copied = Store::open_copy(&folder.path().join("copy"), &folder.path().join("unpacked")).unwrap();
    assert_eq!(content(&copied.load().unwrap()), 3500);
    drop(next);
    let last = backend(&cluster);
    assert_eq!(last.records().unwrap().len(), 3501);
    let Writer { number: newest, entry, .. } = *last.writer();
    assert_eq!((newest, entry), (number + 1, 61));
    let keys = members.control(&["get", "/t/", "--prefix", "--keys-only"]);
    assert!(!keys.contains("staged") && !keys.contains("pending"), "nothing is left");
}

#[test]
fn parts_fit_into_transactions() {
    let put = |length: usize| Operation::Put(String::new(), vec![0; length]);
    let many: Vec<Operation> = (0..300).map(|_| put(1)).collect();
    assert_eq!(parts(&many, 127).map(<[_]>::len).collect::<Vec<_>>(), [127, 127, 46]);
    let large: Vec<Operation> = [MAX_BYTES / 2 - 30, MAX_BYTES / 2 - 30, 1000, MAX_VALUE, 1].map(put).into();
    assert_eq!(parts(&large, 127).map(<[_]>::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
    assert_eq!(parts(&[], 127).count(), 0);
}

#[test]
fn a_write_whose_response_is_lost_is_done_once() {
    let members = Members::start(1);
    let proxy = Proxy::start(members.address(0));
    let mut settings = members.settings("/t/");
    settings.endpoints = vec![format!("http://{}", proxy.address)];
    let cluster = Arc::new(Cluster::new(&settings).unwrap());
    let store = lead(&cluster);
    for turn in 1..=20 {
        let meta = store.meta().unwrap().unwrap();
        proxy.set(Mode::LoseAnswer);
        // Now and then it may be the renewal of the lease that is not answered.
        assert_eq!(commit_after(&store, meta, &[region("north")], &[entry("one", turn)]).unwrap(), turn + 1);
        assert_eq!(numbers(&store, None, None, 1), [turn]);
    }
    // A write that is not answered until the lease has expired is not done by a process that still leads.
    proxy.set(Mode::Cut);
    let meta = Meta { number: 22, ..Meta::default() };
    let error = store.commit(&[Change::Meta(meta)], &[], &[], 21).unwrap_err();
    assert!(matches!(error, StoreError::Etcd { .. } | StoreError::Deposed { .. }), "{error}");
    assert!(!store.leadership().holds());
}

/// etcd answers "no space" also to the write that has filled it, although it was executed.
#[test]
fn a_write_that_makes_etcd_full_is_done_once() {
    let members = Members::start(1);
    let proxy = Proxy::start(members.address(0));
    let mut settings = members.settings("/t/");
    settings.endpoints = vec![format!("http://{}", proxy.address)];
    let store = lead(&Arc::new(Cluster::new(&settings).unwrap()));
    for turn in 1..=20 {
        let meta = store.meta().unwrap().unwrap();
        proxy.set(Mode::NoSpace);
        assert_eq!(commit_after(&store, meta, &[region("north")], &[entry("one", turn)]).unwrap(), turn + 1);
        assert_eq!(numbers(&store, None, None, 1), [turn]);
    }
    assert!(store.leadership().holds());
}

#[test]
fn a_missing_member_and_compaction_disturb_nobody() {
    let mut members = Members::start(3);
    let cluster = cluster(&members);
    let store = lead(&cluster);
    commit(&store, &regions(9000), &[]).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            let mut compacted = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let json: Value =
                    serde_json::from_str(&members.control(&["endpoint", "status", "-w", "json"])).unwrap();
                let revision = json[0]["Status"]["header"]["revision"].as_u64().unwrap();
                let already = Command::new("etcdctl")
                    .env("ETCDCTL_API", "3")
                    .arg(format!("--endpoints={}", members.url(0)))
                    .args(["compact", &revision.to_string()])
                    .output();
                compacted += usize::from(already.unwrap().status.success());
            }
            compacted
        });
        for _ in 0..5 {
            assert_eq!(content(&store.load().unwrap()), 9000);
            store.append(&[entry("one", 1)]).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(compacting.join().unwrap() > 0);
    });
    for number in 0..3 {
        members.kill(number);
        // Its leader may be gone with it, for longer than the lease; then a new one is elected.
        let meta = cluster_meta(&cluster);
        if commit(&store, &[region("north")], &[]).is_err() {
            assert!(!store.leadership().holds());
            assert!(cluster_meta(&cluster) >= meta);
            members.restart(number);
            return;
        }
        members.restart(number);
    }
    assert_eq!(content(&store.load().unwrap()), 9001);
}

fn cluster_meta(cluster: &Arc<Cluster>) -> u64 {
    Store::look(cluster).meta().unwrap().unwrap().number
}

use std::process::Command;

#[test]
fn a_move_there_and_back_changes_nothing_but_the_epoch() {
    let members = Members::start(1);
    let folder = tempfile::tempdir().unwrap();
    let (file, back) = (folder.path().join("s.redb"), folder.path().join("back.redb"));
    let store = Store::open(&file).unwrap();
    story(&store);
    let big: Vec<Entry> = (0..300).map(|time_ms| entry("big", time_ms)).collect();
    commit(&store, &regions(9000), &big).unwrap();
    let number = store.meta().unwrap().unwrap().number;
    let settings = members.settings("/t/");
    let moved = store.move_to(StorePlace::Etcd(&settings), false).unwrap();
    assert_eq!((moved.revision.epoch, moved.revision.number, moved.replaced), (2, number, None));
    drop(store);

    let held = Store::hold_place(StorePlace::Etcd(&settings)).unwrap();
    assert!(matches!(
        Store::open(&file).unwrap().move_to(StorePlace::Etcd(&settings), true),
        Err(super::super::BackupError::Store(StoreError::Moved { .. }))
    ));
    assert!(matches!(Store::open(&file).unwrap().content(), Err(StoreError::Moved { .. })));
    let moved = held.move_to(StorePlace::Embedded(&back), false).unwrap();
    assert_eq!((moved.revision.epoch, moved.revision.number), (3, number));
    let error = held.move_to(StorePlace::Embedded(&file), false).unwrap_err().to_string();
    assert!(error.contains("was moved to") && error.contains("back.redb"), "{error}");
    drop(held);
    let error =
        Store::lead(&Arc::new(Cluster::new(&settings).unwrap()), "http://x", Duration::from_secs(10)).err().unwrap();
    assert!(matches!(error, StoreError::Moved { .. }), "{error}");

    let rows = |store: &Store| {
        let mut rows = Vec::new();
        store
            .backend
            .dump(&mut |page| {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                match page {
                    Page::Records(page) => rows.extend(page.iter().map(|(key, value)| (key.clone(), text(value)))),
                    Page::Audit(page) => rows.extend(page.iter().map(|(key, value)| (key.to_string(), text(value)))),
                    Page::Periods(page) => {
                        rows.extend(page.iter().map(|(key, value)| (format!("{key:?}"), text(value))));
                    }
                    Page::Traffic(page) => {
                        rows.extend(page.iter().map(|it| (format!("{}{}", it.0, it.1), text(&it.2))));
                    }
                }
                Ok(())
            })
            .unwrap();
        rows.retain(|(key, _)| key != "meta");
        rows
    };
    let (one, two) = (Store::open(&file).unwrap(), Store::open(&back).unwrap());
    assert_eq!(rows(&one), rows(&two));
    assert_eq!(one.load().unwrap().meta().next_vni, two.load().unwrap().meta().next_vni);
    assert_eq!(numbers(&one, Some("big"), None, 9), numbers(&two, Some("big"), None, 9));

    // The target is not empty.
    let error = two.move_to(StorePlace::Etcd(&settings), false).unwrap_err().to_string();
    assert!(error.contains("--force"), "{error}");
    let again = folder.path().join("again");
    two.duplicate(&again).unwrap();
    let moved = two.move_to(StorePlace::Etcd(&settings), true).unwrap();
    let kept = moved.replaced.unwrap();
    assert_eq!(moved.revision.epoch, 4);
    assert_eq!(rows(&Store::open_copy(&kept, &folder.path().join("kept")).unwrap()), rows(&two));
    let empty = Store::open(folder.path().join("empty")).unwrap();
    let error = empty.move_to(StorePlace::Etcd(&settings), true).unwrap_err().to_string();
    assert!(error.contains("nothing was ever committed"), "{error}");

    // A backup is restored the same way; an interrupted restore leaves no usable store.
    let held = Store::hold_place(StorePlace::Etcd(&settings)).unwrap();
    let restored = held.restore_into(&kept, None, crate::store::Origin::Another).unwrap();
    assert_eq!(restored.revision.epoch, 5);
    let before = Meta { number: 0, ..held.meta().unwrap().unwrap() };
    held.backend.begin_filling(serde_json::to_vec(&before).unwrap()).unwrap();
    drop(held);
    let cluster = cluster(&members);
    assert!(matches!(Store::lead(&cluster, "http://x", LONG), Err(StoreError::Unfinished { .. })));
    assert!(matches!(Store::look(&cluster).load(), Err(StoreError::Unfinished { .. })));
    let moved = Store::open(&again).unwrap().move_to(StorePlace::Etcd(&settings), false).unwrap();
    assert_eq!(moved.revision.epoch, 6, "above the epochs before");
    assert_eq!(content(&lead(&cluster).load().unwrap()), 9002);
}

#[test]
fn an_interrupted_move_to_etcd_leaves_at_most_one_usable_store_and_the_next_move_finishes_it() {
    let members = Members::start(1);
    let settings = members.settings("/t/");
    let place = StorePlace::Etcd(&settings);
    let cluster = cluster(&members);
    let folder = tempfile::tempdir().unwrap();
    let (mut points, mut arrived) = (0, 0);
    loop {
        let file = folder.path().join(format!("{points}.redb"));
        let store = Store::open(&file).unwrap();
        commit(&store, &regions(3), &[]).unwrap();
        let mut left = points;
        let mut between = || {
            left -= 1;
            if left < 0 { Err(super::super::BackupError::Temporary) } else { Ok(()) }
        };
        let whole = store.move_in_steps(place, true, &mut between).is_ok();
        // It takes over as a controller does.
        let there = Store::lead(&cluster, "http://x", LONG).map(Option::unwrap);
        assert!(!(there.is_ok() && store.content().is_ok()), "after {points} steps");
        if !whole {
            match &there {
                Ok(there) => {
                    // What it has done since stays, and it need not stop for the move to be finished.
                    arrived += 1;
                    commit(there, &[region("later")], &[]).unwrap();
                    store.move_to(place, true).unwrap();
                    assert_eq!(content(&there.load().unwrap()), 4);
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Unfinished { .. }), "{error}");
                    store.move_to(place, false).unwrap();
                    assert_eq!(content(&Store::look(&cluster).load().unwrap()), 3);
                }
            }
        }
        drop(there);
        assert!(matches!(store.content(), Err(StoreError::Moved { .. })));
        if whole {
            break;
        }
        points += 1;
    }
    assert_eq!((points, arrived), (4, 1));
}

#[test]
fn a_backup_replaces_a_store_that_cannot_be_read() {
    let members = Members::start(1);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let cluster = cluster(&members);
    let store = lead(&cluster);
    commit(&store, &regions(3), &[entry("one", 1)]).unwrap();
    store.back_up(&copy).unwrap();
    store.leave();
    drop(store);
    let settings = members.settings("/t/");
    let hold = || Store::hold_place(StorePlace::Etcd(&settings)).unwrap();
    let report = || super::super::check_shared(&Store::look(&cluster), Some(&copy)).unwrap();
    assert!(report().is_whole(), "{}", report());
    // Its meta record can be read, one of its other records cannot.
    members.control(&["put", "/t/records/region/region-00001", "{"]);
    let said = report().to_string();
    assert!(said.contains("records: 3 can be read, 1 problems") && said.contains("region/region-00001"), "{said}");
    assert!(said.contains("1 of its records are lost or another"), "{said}");
    let store = hold();
    let restored = store.restore_into(&copy, None, Origin::Same).unwrap();
    assert_eq!((restored.revision.epoch, content(&store.load().unwrap())), (2, 3));
    drop(store);
    // It is kept as it was.
    let kept = restored.replaced.unwrap();
    assert_eq!(Store::look(&cluster).last_backup(), None, "it is no copy to come back from");
    let found = super::super::check(&kept, None).unwrap().to_string();
    assert!(found.contains("1 problems") && found.contains("region/region-00001"), "{found}");
    // If the meta record cannot be read either, the epoch must be given.
    members.control(&["put", "/t/records/meta", "{"]);
    assert!(matches!(Store::lead(&cluster, "http://127.0.0.1:1", LONG), Err(StoreError::Record { .. })));
    assert!(!report().is_whole());
    let store = hold();
    let refused = store.restore_into(&copy, None, Origin::Same).unwrap_err().to_string();
    assert!(refused.contains("the new epoch must be named"), "{refused}");
    assert!(!report().is_whole(), "it is as it was");
    let restored = store.restore_into(&copy, Some(9), Origin::Same).unwrap();
    assert_eq!((restored.revision.epoch, content(&store.load().unwrap())), (9, 3));
    assert!(report().is_whole() && !super::super::check(&restored.replaced.unwrap(), None).unwrap().is_whole());
}

#[test]
fn etcd_with_authentication_works() {
    use std::os::unix::fs::PermissionsExt;
    let members = Members::start_with(1, &["--auth-token-ttl", "1"]);
    for arguments in [
        &["user", "add", "root:secret-1"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "controllers"],
        &["role", "grant-permission", "controllers", "--prefix=true", "readwrite", "/t/"],
        &["user", "add", "me:secret-2"],
        &["user", "grant-role", "me", "controllers"],
        &["auth", "enable"],
    ] {
        members.control(arguments);
    }
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "secret-2\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut settings = members.settings("/t/");
    let error = Cluster::new(&settings).unwrap().leader().unwrap_err().to_string();
    assert!(error.contains("user name is empty"), "{error}");
    (settings.user, settings.password_file) = (Some("me".into()), Some(password.clone()));
    let store = lead(&Arc::new(Cluster::new(&settings).unwrap()));
    commit(&store, &[region("north")], &[]).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Cluster::new(&settings).unwrap().leader().unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn a_leader_whose_etcd_is_full_continues_and_writes_again_when_there_is_space() {
    let members = Members::start_with(1, &["--quota-backend-bytes", "2097152"]);
    let store = lead(&cluster(&members));
    commit(&store, &regions(3), &[]).unwrap();
    let before = store.load().unwrap();
    // Every version of it takes space.
    let fill = || (0..100).find_map(|_| store.write_notes(vec![("filler", vec![b'x'; 400_000])]).err());
    let error = fill().expect("etcd is full");
    assert!(error.is_no_space(), "{error}");
    for _again in 0..2 {
        assert!(store.leadership().holds(), "nobody else could lead either");
        assert_eq!(store.recover().unwrap(), before.meta().number);
        assert_eq!(store.load().unwrap(), before, "what is there is read");
        assert!(store.probe().unwrap_err().is_no_space());
    }
    store.recover().unwrap();
    let status: Value = serde_json::from_str(&members.control(&["endpoint", "status", "--write-out=json"])).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    for command in [vec!["compaction", &revision], vec!["defrag"], vec!["alarm", "disarm"]] {
        members.control(&command);
    }
    store.probe().unwrap();
    commit(&store, &regions(5), &[]).unwrap();
    assert!(store.leadership().holds());
}
