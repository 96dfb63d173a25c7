//! Readers of the audit trail, and their cost to others.

use cps_peering_controller::{
    audit::Query,
    engine::{Engine, Options},
    model::{Actor, Command, Request},
    store::Store,
};
use std::time::{Duration, Instant};

/// C10: a refusal is in the trail for the next reader, but reading does not cause unlimited writes.
#[test]
fn reading_the_trail_causes_ten_writes_a_second_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store.redb")).unwrap();
    let engine = Engine::open(store, Options::default()).unwrap().0;
    let refuse = |nth: usize| {
        let request =
            Request::new(Actor::Account("one".parse().unwrap()), crate::common::delete(&"p".parse().unwrap()));
        engine.execute(&Request { id: format!("r{nth}"), ..request }).unwrap_err();
    };
    let is_told = |nth: usize| {
        let query = Query { request: Some(format!("r{nth}")), limit: 10, ..Query::default() };
        engine.audit(&query).unwrap().len() == 1
    };
    let began = Instant::now();
    for nth in 0..11 {
        refuse(nth);
        assert!(is_told(nth), "{nth}");
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // Readers that wait share one write; without pending entries, or with a commit, nobody waits.
    refuse(11);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..40).map(|_| scope.spawn(|| is_told(11))).collect();
        assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    });
    for _ in 0..40 {
        assert!(is_told(11));
    }
    for _ in 0..40 {
        engine.periods(&"one".parse().unwrap(), &(0..u64::MAX), 1).unwrap();
        engine.execute(&Request::new(Actor::Operator, Command::Tick)).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
