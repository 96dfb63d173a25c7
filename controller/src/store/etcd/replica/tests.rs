//! Tests with real members of etcd.

use super::{
    super::tests::{
        cluster, commit, entry, lead,
        members::Members,
        proxy::{Mode, Proxy},
        region, regions,
    },
    *,
};
use crate::{model::state::Change, store::Store};
use cps_peering_config::net::Vni;

const PATIENCE: Duration = Duration::from_secs(30);

fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < end, "{what} is awaited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the last commit of a store, and compares.
fn same(copy: &Replica, store: &Store) {
    let revision = copy.cluster().last_written().unwrap();
    until("the copy", || copy.shared.held().as_ref().is_some_and(|held| held.revision >= revision));
    let held = copy.shared.held();
    assert!(held.as_ref().unwrap().content == store.content().unwrap());
}

fn side(number: usize) -> crate::store::SideKey {
    (format!("vpcpr-{number:010}").parse().unwrap(), Vni::try_from(4096).unwrap())
}

/// Continues to lead while etcd is unreachable for some seconds.
fn lead_long(members: &Members) -> Store {
    let mut settings = members.settings("/t/");
    settings.lease_s = 30;
    lead(&Arc::new(Cluster::new(&settings).unwrap()))
}

/// A copy that reaches its only member through a proxy.
fn behind_a_proxy(members: &Members) -> (Replica, Proxy) {
    let proxy = Proxy::start(members.address(0));
    let mut settings = members.settings("/t/");
    settings.endpoints = vec![format!("http://{}", proxy.address)];
    (Replica::begin(&Arc::new(Cluster::new(&settings).unwrap())).unwrap(), proxy)
}

#[test]
fn a_copy_is_what_is_stored() {
    let members = Members::start(1);
    // Keys of other programs are ignored.
    members.control(&["put", "/t", "x"]);
    members.control(&["put", "/tt/records/planet/x", "x"]);
    let store = lead(&cluster(&members));
    commit(&store, &regions(9000), &[entry("one", 1)]).unwrap();
    store.save_traffic(&[(side(1), 1), (side(2), 2)], &[]).unwrap();
    let copy = Replica::begin(&cluster(&members)).unwrap();
    same(&copy, &store);
    for turn in 0..30_usize {
        let count = if turn % 10 == 9 { 3000 } else { fastrand::usize(1..20) };
        let change = |_| {
            let id = format!("region-{:05}", fastrand::usize(..12_000));
            if fastrand::bool() { region(&id) } else { Change::Region(id.parse().unwrap(), None) }
        };
        let mut changes: Vec<Change> = (0..count).map(change).collect();
        // No row twice in a transaction.
        changes.sort_by_key(|it| if let Change::Region(id, _) = it { id.clone() } else { unreachable!() });
        changes.dedup_by_key(|it| if let Change::Region(id, _) = it { id.clone() } else { unreachable!() });
        store.save_traffic(&[(side(turn + 1), turn)], &[side(turn / 2)]).unwrap();
        commit(&store, &changes, &[]).unwrap();
        if turn % 7 == 0 {
            same(&copy, &store);
        }
    }
    same(&copy, &store);
    assert_eq!((copy.loads(), copy.number()), (1, store.meta().unwrap().map(|meta| meta.number)));

    // The store is filled again, meanwhile and from another.
    let folder = tempfile::tempdir().unwrap();
    let other = Store::open(folder.path().join("s")).unwrap();
    commit(&other, &[region("south")], &[]).unwrap();
    drop(store);
    other.move_to(cps_peering_config::settings::StorePlace::Etcd(&members.settings("/t/")), true).unwrap();
    let store = lead(&cluster(&members));
    same(&copy, &store);
    assert_eq!(store.content().unwrap().state.regions().len(), 1);
}

#[test]
fn a_copy_catches_up_after_an_outage() {
    let mut members = Members::start(1);
    let store = lead_long(&members);
    let (copy, proxy) = behind_a_proxy(&members);
    same(&copy, &store);
    for turn in 0..4 {
        proxy.set(Mode::Cut);
        commit(&store, &[region(&format!("cut-{turn}"))], &[]).unwrap();
        proxy.set(Mode::Pass);
        same(&copy, &store);
        members.kill(0);
        members.restart(0);
        commit(&store, &[region(&format!("new-{turn}"))], &[]).unwrap();
        same(&copy, &store);
    }
    assert_eq!(copy.loads(), 1);

    // What was missed has been compacted.
    proxy.set(Mode::Cut);
    for turn in 0..20 {
        commit(&store, &[region(&format!("missed-{turn}")), Change::Region("cut-0".parse().unwrap(), None)], &[])
            .unwrap();
    }
    members.control(&["compact", &cluster(&members).last_written().unwrap().to_string()]);
    proxy.set(Mode::Pass);
    same(&copy, &store);
    assert_eq!(copy.loads(), 2);
}

#[test]
fn a_member_that_is_cut_off_from_the_others_is_left() {
    let members = Members::start(3);
    let store = lead_long(&members);
    let copy = Replica::begin(&cluster(&members)).unwrap();
    same(&copy, &store);
    // It watches the first member, which does not answer any more and does not close its connections either.
    members.signal(0, nix::sys::signal::Signal::SIGSTOP);
    commit(&store, &[region("north")], &[]).unwrap();
    let revision = cluster(&members).last_written().unwrap();
    until("the copy", || copy.shared.held().as_ref().is_some_and(|held| held.revision >= revision));
    members.signal(0, nix::sys::signal::Signal::SIGCONT);
    same(&copy, &store);
    assert_eq!(copy.loads(), 1);
}

#[test]
fn a_leader_begins_with_the_copy() {
    let members = Members::start(1);
    let cluster = cluster(&members);
    let store = lead(&cluster);
    commit(&store, &regions(5000), &[]).unwrap();
    store.save_traffic(&[(side(1), 1)], &[]).unwrap();
    let copy = Replica::begin(&cluster).unwrap();
    same(&copy, &store);
    assert!(Store::lead_with(&copy, "http://x").unwrap().is_none(), "another leads");
    drop(store);
    // To distinguish it from what is stored.
    copy.shared.held().as_mut().unwrap().content.state.apply(region("mark"));
    let (store, content) = Store::lead_with(&copy, "http://x").unwrap().unwrap();
    let mut stored = store.content().unwrap();
    stored.state.apply(region("mark"));
    assert!(content == stored);
    drop(store);

    // A copy that lags behind is useless.
    let copy = Replica::begin(&cluster).unwrap();
    until("the copy", || copy.number().is_some());
    copy.shared.stop.store(true, Ordering::Relaxed);
    until("the end of its thread", || Arc::strong_count(&copy.shared) == 1);
    copy.shared.held().as_mut().unwrap().content.state.apply(region("mark"));
    let (store, content) = Store::lead_with(&copy, "http://x").unwrap().unwrap();
    assert!(content == store.content().unwrap());
}
