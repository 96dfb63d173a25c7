//! A clock that leaps under a running engine, and while it is down; and what others learn about a VPC before acceptance.

mod windows;

use crate::common::{REGIONS, accept_all, create, peering};
use cps_peering_config::id::PeeringId;
use cps_peering_controller::{
    api::view::{self, Viewer},
    audit::Query,
    clock::Reading,
    engine::{Clock, Engine, EngineError, Options},
    metrics,
    model::{
        Actor, Command, Outcome, Request,
        account::{Change, ChargeStatus, What},
        inventory::Apply,
        peering::{Create, role, state_word},
    },
    store::Store,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

/// The clocks of a machine, which a test sets.
#[derive(Clone)]
struct Machine {
    wall_ms: Arc<AtomicU64>,
    boot_ms: Arc<AtomicU64>,
}

impl Machine {
    fn new() -> Self {
        Self { wall_ms: Arc::new(AtomicU64::new(20_000 * DAY)), boot_ms: Arc::new(AtomicU64::new(DAY)) }
    }

    fn clock(&self) -> Clock {
        let own = self.clone();
        Arc::new(move || Reading {
            wall_ms: own.wall_ms.load(Ordering::SeqCst),
            boot_ms: own.boot_ms.load(Ordering::SeqCst),
        })
    }

    fn set(&self, by_ms: i64) {
        let wall_ms = self.wall_ms.load(Ordering::SeqCst).saturating_add_signed(by_ms);
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }

    fn wait(&self, ms: u64) {
        self.boot_ms.fetch_add(ms, Ordering::SeqCst);
        self.set(ms.try_into().unwrap());
    }
}

fn open(path: &Path, machine: &Machine) -> Arc<Engine> {
    let store = Store::open(path.join("store.redb")).unwrap();
    Engine::open(store, Options { clock: machine.clock(), ..Options::default() }).unwrap().0
}

fn as_operator(engine: &Engine, command: Command) -> Outcome {
    engine.execute(&Request::new(Actor::Operator, command)).unwrap()
}

fn run_as(engine: &Engine, account: &str, command: Command) -> Result<Outcome, EngineError> {
    let request = Request::new(Actor::Account(account.parse().unwrap()), command);
    engine.execute(&Request { id: "asked".to_owned(), ..request })
}

fn wish(vpc: &str, peer: &str, owner: &str) -> Create {
    Create { peer_account: Some(owner.parse().unwrap()), bandwidth: Some(10), ..create(vpc, peer) }
}

/// A request of `one` to `two`, and a suspended peering of `one`.
fn furnish(engine: &Engine) -> (PeeringId, PeeringId) {
    let vpc = |account: &str, id: &str, region: &str, cidr: &str| {
        format!("[[vpcs]]\nid = \"{id}\"\naccount = \"{account}\"\nregion = \"{region}\"\ncidrs = [\"{cidr}\"]\n")
    };
    let text = [
        REGIONS.to_owned(),
        vpc("one", "a", "north", "10.1.0.0/16"),
        vpc("one", "b", "east", "10.2.0.0/16"),
        vpc("two", "c", "east", "10.3.0.0/16"),
        vpc("one", "d", "north", "10.3.7.0/24"),
    ];
    let inventory = toml::from_str(&text.concat()).unwrap();
    as_operator(engine, Command::Apply(Apply::of(inventory)));
    let request = peering(&run_as(engine, "one", Command::CreatePeering(wish("a", "c", "two"))).unwrap());
    let own = peering(&run_as(engine, "one", Command::CreatePeering(wish("a", "b", "one"))).unwrap());
    let arrear = What::Charge(ChargeStatus::Arrear);
    as_operator(engine, Command::Account(Change { id: "one".parse().unwrap(), what: arrear }));
    (request, own)
}

fn states(engine: &Engine, (request, own): &(PeeringId, PeeringId)) -> [String; 2] {
    engine.read(|state, _| {
        [request, own].map(|id| state.peerings().get(id).map_or("gone", |it| state_word(&it.state)).to_owned())
    })
}

fn figure(engine: &Arc<Engine>, name: &str) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics::registry(engine, None)).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

#[test]
fn a_leap_destroys_nothing_raises_an_alarm_and_can_be_undone() {
    for by in [8 * DAY, 400 * DAY, 25 * HOUR] {
        let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::new());
        let engine = open(folder.path(), &machine);
        let ids = furnish(&engine);
        engine.sweep();
        assert!(figure(&engine, "cps_controller_clock_unconfirmed") < 0.5);
        machine.set(by.try_into().unwrap());
        for _ in 0..3 {
            machine.wait(1000);
            engine.sweep();
        }
        assert_eq!(states(&engine, &ids), ["pending", "suspended"]);
        assert!(figure(&engine, "cps_controller_clock_unconfirmed") > 0.5);
        let trail = engine.audit(&Query { limit: 100, ..Query::default() }).unwrap();
        assert!(trail.iter().any(|(_, entry)| entry.action == "ClockLeapt"), "{trail:?}");
        // Also over a restart.
        drop(engine);
        let engine = open(folder.path(), &machine);
        engine.sweep();
        assert_eq!(states(&engine, &ids), ["pending", "suspended"]);
        machine.set(-i64::try_from(by).unwrap());
        machine.wait(1000);
        engine.sweep();
        assert!(figure(&engine, "cps_controller_clock_unconfirmed") < 0.5);
        as_operator(
            &engine,
            Command::Account(Change { id: "one".parse().unwrap(), what: What::Charge(ChargeStatus::Normal) }),
        );
        run_as(&engine, "two", Command::AcceptPeering(accept_all(&ids.0))).unwrap();
    }
}

#[test]
fn expiry_is_final_whatever_the_clock_says() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let engine = open(folder.path(), &machine);
    let ids = furnish(&engine);
    machine.wait(DAY);
    let now_ms = engine.now_ms();
    machine.set(-4 * i64::try_from(HOUR).unwrap());
    assert!(engine.now_ms() >= now_ms);
    let refused = run_as(&engine, "two", Command::AcceptPeering(accept_all(&ids.0))).unwrap_err().to_string();
    assert!(refused.contains("has expired"), "{refused}");
    // The clock is set back while the controller is down.
    drop(engine);
    machine.set(-20 * i64::try_from(HOUR).unwrap());
    machine.wait(HOUR);
    let engine = open(folder.path(), &machine);
    assert!(engine.now_ms() >= now_ms + HOUR - 1000);
    engine.sweep();
    assert_eq!(states(&engine, &ids), ["expired", "suspended"]);
}

#[test]
fn a_confirmation_ends_the_alarm_and_is_stored() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let engine = open(folder.path(), &machine);
    let ids = furnish(&engine);
    machine.set((8 * DAY).try_into().unwrap());
    engine.sweep();
    assert!(engine.leap().is_some());
    as_operator(&engine, Command::ConfirmClock);
    engine.sweep();
    assert_eq!((engine.leap(), engine.now_ms()), (None, engine.wall_ms()));
    assert_eq!(states(&engine, &ids), ["pending", "suspended"], "no time has passed");
    drop(engine);
    let engine = open(folder.path(), &machine);
    assert_eq!((engine.leap(), engine.now_ms()), (None, engine.wall_ms()));
    machine.wait(7 * DAY);
    engine.sweep();
    assert_eq!(states(&engine, &ids)[0], "expired");
    assert_ne!(states(&engine, &ids)[1], "suspended");
    // A clock that is steady for long needs no confirmation.
    machine.set(-(3 * i64::try_from(DAY).unwrap()));
    engine.sweep();
    assert!(engine.leap().is_some());
    machine.wait(6 * HOUR);
    engine.sweep();
    assert_eq!((engine.leap(), engine.now_ms()), (None, engine.wall_ms()));
}

#[test]
fn before_acceptance_an_initiator_sees_no_cidrs_and_the_owner_sees_comparisons() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let engine = open(folder.path(), &machine);
    let (request, _) = furnish(&engine);
    let paid = What::Charge(ChargeStatus::Normal);
    as_operator(&engine, Command::Account(Change { id: "one".parse().unwrap(), what: paid }));
    let seen = |account: &str| {
        engine.read(|state, agents| {
            let account = account.parse().unwrap();
            let record = &state.peerings()[&request];
            let role = role(record, &account, None)?;
            let view = view::peering(state, agents, record, role, Viewer::Account(&account), engine.now_ms());
            Some(serde_json::to_value(view).unwrap())
        })
    };
    let cidrs = |account: &str| seen(account).unwrap()["remoteVpcInfo"]["addressPrefix"].clone();
    assert_eq!(cidrs("one"), serde_json::json!([]));
    assert_eq!(cidrs("two"), serde_json::json!(["10.1.0.0/16"]));
    assert!(!seen("one").unwrap().to_string().contains("10.3."));
    // A CIDR that the receiver adds is not disclosed either.
    let which = cps_peering_controller::model::vpc::Locator { region: None, id: "c".parse().unwrap() };
    let cidr = cps_peering_controller::model::vpc::Cidr { which, cidr: "10.33.0.0/16".parse().unwrap() };
    run_as(&engine, "two", Command::AddCidr(cidr)).unwrap();
    let refused = run_as(&engine, "one", Command::CreatePeering(wish("d", "c", "two"))).unwrap_err().to_string();
    assert!(refused.contains("10.3.7.0/24") && !refused.contains("10.3.0.0"), "{refused}");
    let trail = |account: &str| {
        let query = Query { account: Some(account.parse().unwrap()), limit: 100, ..Query::default() };
        engine.audit(&query).unwrap().into_iter().map(|(_, entry)| entry).collect::<Vec<_>>()
    };
    let told = trail("two").into_iter().find(|it| it.action == "CompareCidrs").expect("its owner is told");
    assert_eq!((told.actor.as_str(), told.target.as_str(), told.outcome.as_str()), ("account/one", "c", "overlap"));
    assert!(trail("one").iter().all(|it| it.action != "AddCidr" && !format!("{it:?}").contains("10.33.")));
    // A dry run tells as much, and leaves the same trace, whatever its result.
    let dry = Request::new(Actor::Account("one".parse().unwrap()), Command::CreatePeering(wish("b", "c", "two")));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(engine.dry_run(dry.clone())).unwrap_err();
    let dry = Request { command: Command::CreatePeering(Create { bandwidth: None, ..wish("b", "c", "two") }), ..dry };
    runtime.block_on(engine.dry_run(dry)).unwrap();
    assert!(trail("two").iter().any(|it| it.action == "CompareCidrs" && it.outcome == "no overlap"));
    // The budget survives a restart.
    for _ in 0..40 {
        drop(run_as(&engine, "one", Command::CreatePeering(wish("d", "c", "two"))));
    }
    engine.sweep();
    drop(engine);
    let engine = open(folder.path(), &machine);
    let refused = run_as(&engine, "one", Command::CreatePeering(wish("d", "c", "two"))).unwrap_err().to_string();
    assert!(refused.contains("overlapping networks"), "{refused}");
    run_as(&engine, "two", Command::AcceptPeering(accept_all(&request))).unwrap();
    let record = engine.read(|state, _| state.peerings()[&request].clone());
    assert!(record.was_accepted());
}
