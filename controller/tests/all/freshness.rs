//! How old knowledge about hosts may be, and what is shown when it is older (rules V3 and V6). There are no push workers: reports come from the
//! test.

use crate::common::{create, delete, peering};
use cps_peering_config::{
    HostReport,
    id::{HostId, PeeringId},
    net::Vni,
    probe::{ProbeReport, SideProbes},
    report::Counters,
};
use cps_peering_controller::{
    api::view::{self, HostView, PeeringView, RouteView, Viewer},
    engine::{Engine, Options, steady},
    model::{
        Actor, Command, Outcome, Request,
        inventory::Apply,
        record::{PeeringState, Role},
    },
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// 2026-01-01T09:41:00Z.
const BEGAN_MS: u64 = 1_767_260_460_000;

struct Cloud {
    engine: Arc<Engine>,
    now_ms: Arc<AtomicU64>,
    _folder: TempDir,
}

fn host(number: usize) -> HostId {
    format!("h{number}").parse().unwrap()
}

/// The results of probes.
#[derive(Clone, Copy)]
struct Said {
    sent: u32,
    lost: u32,
    round_trip_us: Option<u64>,
    mtu_black_hole: Option<bool>,
    age_ms: u64,
}

const WELL: Said = Said { sent: 20, lost: 0, round_trip_us: Some(400), mtu_black_hole: Some(false), age_ms: 1000 };

impl Cloud {
    /// VPCs v1 and v2, each with a port on a host of its own, and `more` other hosts.
    fn new(more: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::place::open(folder.path()).unwrap();
        let now_ms = Arc::new(AtomicU64::new(BEGAN_MS));
        let told = Arc::clone(&now_ms);
        let clock = steady(move || told.load(Ordering::Relaxed));
        let (engine, _) = Engine::open(store, Options { clock, ..Options::default() }).unwrap();
        let one = |n: usize| {
            format!(
                "[[hosts]]\nid = 'h{n}'\nregion = 'north'\nunderlay = '192.0.{}.{}'\nagent = 'http://192.0.2.1'\n",
                n / 250,
                n % 250
            )
        };
        let vpc = |n: usize| {
            format!(
                "[[vpcs]]\nid = 'v{n}'\naccount = 'acme'\nregion = 'north'\ncidrs = ['10.{n}.0.0/16']\n\
                 [[ports]]\nvpc = 'v{n}'\nhost = 'h{n}'\ninterface = 'eth1'\ngateways = ['10.{n}.0.1/24']\n"
            )
        };
        let hosts: String = (1..=2 + more).map(one).collect();
        let text = format!("[[regions]]\nid = 'north'\n{hosts}{}{}", vpc(1), vpc(2));
        let cloud = Self { engine, now_ms, _folder: folder };
        cloud.run(&Command::Apply(Apply::of(toml::from_str(&text).unwrap())));
        cloud
    }

    fn run(&self, command: &Command) -> Outcome {
        self.engine.execute(&Request::new(Actor::Operator, command.clone())).unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.now_ms.fetch_add(1000 * seconds, Ordering::Relaxed);
    }

    /// A host reports that it is in sync.
    fn reports(&self, number: usize) {
        self.reports_mtu(number, None);
    }

    /// The same, with the MTU of its end of the underlay.
    fn reports_mtu(&self, number: usize, underlay_mtu: Option<u32>) {
        let host = host(number);
        let revision = self.engine.read(|state, _| state.revision_of(&state.hosts()[&host]));
        let report = HostReport {
            version: "test".into(),
            host: Some(host.clone()),
            desired: Some(revision),
            applied: Some(revision),
            problems: vec![],
            counters: Counters::default(),
            last_pass: None,
            underlay_mtu,
            knows_scoped_sides: true,
            behind: vec![],
            vrfs: BTreeMap::new(),
            sides: BTreeMap::new(),
        };
        self.engine.on_report(&host, Ok(report));
        // Advance what waits for it.
        self.engine.sweep();
    }

    /// The VNI of a peering's initiator, or of its receiver.
    fn vni(&self, id: &PeeringId, side: usize) -> Vni {
        self.engine.read(|state, _| state.peerings()[id].sides()[side].vni.unwrap())
    }

    /// A host reports the health of the paths of one side.
    fn probes(&self, number: usize, side: (Vni, &PeeringId), said: Said) {
        let (vni, peering) = side;
        let Said { sent, lost, round_trip_us, mtu_black_hole, age_ms } = said;
        let side = SideProbes { peering: peering.clone(), sent, lost, round_trip_us, mtu_black_hole, age_ms };
        let report = ProbeReport { interval_s: 5, sides: [(vni, side)].into() };
        self.engine.on_probes(&host(number), report, Duration::from_secs(5));
    }

    fn peering(&self, id: &PeeringId, viewer: Viewer<'_>) -> PeeringView {
        let now_ms = self.engine.now_ms();
        self.engine
            .read(|state, agents| view::peering(state, agents, &state.peerings()[id], Role::Initiator, viewer, now_ms))
    }

    fn routes(&self, id: &PeeringId) -> Vec<RouteView> {
        self.engine.read(|state, agents| view::routes(state, agents, &state.peerings()[id], Role::Initiator))
    }

    fn host(&self, number: usize) -> HostView {
        self.engine.read(|state, agents| view::host(state, agents, &state.hosts()[&host(number)]))
    }

    fn in_sync(&self) -> usize {
        self.engine.read(|_, agents| agents.count_in_sync())
    }
}

fn active() -> (Cloud, PeeringId) {
    let cloud = Cloud::new(0);
    let id = peering(&cloud.run(&Command::CreatePeering(create("v1", "v2"))));
    cloud.reports(1);
    cloud.pass(2);
    cloud.reports(2);
    assert_eq!(cloud.peering(&id, Viewer::Operator).state, "active");
    (cloud, id)
}

#[test]
fn v3_an_old_report_is_not_in_sync_and_its_time_is_shown() {
    let (cloud, id) = active();
    let acme = "acme".parse().unwrap();
    cloud.pass(40);
    let seen = cloud.peering(&id, Viewer::Account(&acme));
    assert!(seen.routes_in_sync && seen.state_reason.is_none());
    // The host with the oldest report counts.
    assert_eq!((seen.report_age_seconds, seen.last_report.as_deref()), (Some(42), Some("2026-01-01T09:41:00Z")));
    assert!(cloud.routes(&id).iter().all(|route| route.installed));
    assert_eq!((cloud.in_sync(), cloud.host(2).report_age_seconds), (2, Some(40)));
    let changes = cloud.engine.changes();
    cloud.engine.sweep();
    let before = *changes.borrow();
    cloud.pass(4);
    let seen = cloud.peering(&id, Viewer::Account(&acme));
    assert!(!seen.routes_in_sync && seen.hosts.is_none());
    assert_eq!(seen.state, "active", "a host that is down does not hold it back");
    assert_eq!(seen.last_confirmed.as_deref(), Some("2026-01-01T09:41:00Z"));
    let reason = seen.state_reason.unwrap();
    assert_eq!(reason, "1 host has not confirmed it; it was last confirmed at 2026-01-01T09:41:00Z");
    let routes = cloud.routes(&id);
    assert_eq!(
        routes.iter().map(|it| (it.installed, it.hosts, it.report_age_seconds.unwrap())).collect::<Vec<_>>(),
        [(false, 0, 46), (true, 1, 44)]
    );
    let old = cloud.host(1);
    assert!(!old.in_sync && old.last_error.unwrap().contains("older than 45 s"));
    assert_eq!((cloud.in_sync(), cloud.host(2).in_sync), (1, true));
    let hosts = cloud.peering(&id, Viewer::Operator).hosts.unwrap();
    let told: Vec<_> = hosts.iter().map(|it| (it.confirmed, it.report_age_seconds, it.last_error.is_some())).collect();
    assert_eq!(told, [(false, Some(46), true), (true, Some(44), false)]);
    // Listeners for changes are notified, though no host reported anything.
    cloud.engine.sweep();
    assert_ne!(*changes.borrow(), before);
    cloud.reports(1);
    assert!(cloud.peering(&id, Viewer::Operator).routes_in_sync && cloud.host(1).last_error.is_none());
}

#[test]
fn v3_a_failed_poll_outweighs_the_report_before_it() {
    let (cloud, id) = active();
    for refusal in ["connection refused", "the agent has revision 2.7, newer than 1.9 of this controller"] {
        cloud.engine.on_report(&host(2), Err(refusal.to_owned()));
        let seen = cloud.peering(&id, Viewer::Operator);
        assert!(!seen.routes_in_sync && seen.state_reason.unwrap().contains("last confirmed at 2026-01-01T09:41:00Z"));
        let hosts = seen.hosts.unwrap();
        assert_eq!(hosts[1].last_error.as_deref(), Some(refusal));
        assert!(hosts[0].confirmed && !hosts[1].confirmed && !cloud.host(2).in_sync && cloud.in_sync() == 1);
        assert_eq!(cloud.routes(&id).iter().map(|it| it.installed).collect::<Vec<_>>(), [true, false]);
        cloud.reports(2);
        assert!(cloud.peering(&id, Viewer::Operator).routes_in_sync && cloud.in_sync() == 2);
    }
    // Nor does a host count that has never reported.
    let quiet = Cloud::new(0);
    let id = peering(&quiet.run(&Command::CreatePeering(create("v1", "v2"))));
    quiet.reports(1);
    let seen = quiet.peering(&id, Viewer::Operator);
    assert!(!seen.routes_in_sync && seen.last_report.is_none() && seen.last_confirmed.is_none());
}

#[test]
fn a_confirmed_removal_stays_confirmed_however_old_it_is() {
    let (cloud, id) = active();
    cloud.run(&delete(&id));
    cloud.reports(1);
    cloud.pass(3600);
    cloud.engine.on_report(&host(1), Err("connection refused".to_owned()));
    let missing = cloud.engine.read(|state, agents| agents.missing(&state.peerings()[&id]));
    assert_eq!(missing, [host(2)]);
    cloud.reports(2);
    cloud.engine.read(|state, _| assert!(matches!(state.peerings()[&id].state, PeeringState::Ended { .. })));
}

#[test]
fn with_very_many_hosts_reports_may_be_older() {
    let cloud = Cloud::new(1498);
    cloud.reports(1);
    // 50 are polled each second: each at least every 40 s, and one poll may be late.
    cloud.pass(80);
    assert!(cloud.host(1).in_sync);
    cloud.pass(1);
    assert!(!cloud.host(1).in_sync);
}

#[test]
fn a_host_with_alternating_mtus_causes_few_plans_and_ends_with_the_smaller_one() {
    let (cloud, _) = active();
    let plan = || cloud.engine.read(|state, _| state.revision_of(&state.hosts()[&host(1)]));
    let mtu = |number: usize| cloud.host(number).underlay_mtu;
    cloud.reports_mtu(1, Some(9000));
    cloud.reports_mtu(2, Some(9000));
    assert_eq!((mtu(1), mtu(2)), (Some(9000), Some(9000)));
    // Impossible MTUs are ignored.
    let before = plan();
    for wrong in [0, 67, 65_536, 4_000_000_000] {
        cloud.reports_mtu(2, Some(wrong));
        assert_eq!((mtu(2), plan()), (Some(9000), before), "{wrong}");
    }
    // A smaller one counts immediately, and so does a larger one, while they do not alternate.
    let mut plans = std::collections::BTreeSet::new();
    for _ in 0..100 {
        for said in [1500, 9000] {
            cloud.reports_mtu(2, Some(said));
            plans.insert(plan());
        }
    }
    assert_eq!(mtu(2), Some(1500));
    assert!((2..=6).contains(&plans.len()), "{plans:?}");
    // Once it has been steady for a while it is accepted.
    cloud.pass(600);
    cloud.reports_mtu(2, Some(9000));
    assert_eq!(mtu(2), Some(9000));
}

/// How a path is, in short.
fn path(view: &PeeringView) -> Option<(u32, Option<f64>, Option<bool>, &str)> {
    let health = view.path_health.as_ref()?;
    Some((health.loss_percent, health.round_trip_ms, health.mtu_black_hole, &health.sampled_at))
}

/// V6, L11.
#[test]
fn v6_path_health_is_the_worst_of_all_hosts_and_an_account_sees_no_host() {
    let (cloud, id) = active();
    let acme = "acme".parse().unwrap();
    let (one, other) = (cloud.vni(&id, 0), cloud.vni(&id, 1));
    let seen = || cloud.peering(&id, Viewer::Account(&acme));
    assert_eq!(path(&seen()), None, "nobody has said anything");
    cloud.probes(1, (one, &id), WELL);
    assert_eq!(path(&seen()), Some((0, Some(0.4), Some(false), "2026-01-01T09:41:01Z")));
    let bad = Said { sent: 19, lost: 1, round_trip_us: Some(900), mtu_black_hole: Some(true), age_ms: 2000 };
    cloud.probes(2, (other, &id), bad);
    assert_eq!(path(&seen()), Some((6, Some(0.9), Some(true), "2026-01-01T09:41:00Z")), "rounded up");
    let told = serde_json::to_value(seen()).unwrap();
    assert_eq!(told["pathHealth"]["lossPercent"], 6);
    assert!(told.get("hosts").is_none() && !told["pathHealth"].to_string().contains("h2"), "{told}");
    let hosts = cloud.peering(&id, Viewer::Operator).hosts.unwrap();
    let loss: Vec<_> = hosts.iter().map(|it| it.path_health.as_ref().map(|health| health.loss_percent)).collect();
    assert_eq!(loss, [Some(0), Some(6)]);
    // A host whose latest packets are all lost has no round-trip time. That of the other one counts.
    cloud.probes(2, (other, &id), Said { lost: 19, round_trip_us: None, mtu_black_hole: None, ..bad });
    assert_eq!(path(&seen()).map(|(loss, time, hole, _)| (loss, time, hole)), Some((100, Some(0.4), Some(false))));
    cloud.probes(1, (one, &id), Said { lost: 20, round_trip_us: None, mtu_black_hole: None, ..WELL });
    assert_eq!(path(&seen()).map(|(loss, time, hole, _)| (loss, time, hole)), Some((100, None, None)));
    // Implausible values, and sides that it has no part in.
    cloud.probes(1, (one, &id), Said { sent: 0, lost: 7, ..WELL });
    cloud.probes(2, (one, &id), Said { sent: u32::MAX, lost: u32::MAX, ..WELL });
    assert_eq!(path(&seen()), None);
    cloud.probes(2, (other, &"vpcpr-none".parse().unwrap()), WELL);
    cloud.probes(3, (one, &id), WELL);
    assert_eq!(path(&seen()), None);
    cloud.probes(1, (one, &id), Said { sent: u32::MAX, lost: u32::MAX, ..WELL });
    assert_eq!(path(&seen()).map(|(loss, ..)| loss), Some(100));
    // A peering that has ended has no paths.
    cloud.run(&delete(&id));
    assert_eq!(path(&cloud.peering(&id, Viewer::Operator)), None);
}

/// V6: what is unknown is shown as unknown.
#[test]
fn v6_old_samples_do_not_count() {
    let (cloud, id) = active();
    let one = cloud.vni(&id, 0);
    cloud.probes(1, (one, &id), WELL);
    // Three minutes, and twice the time between two probes and between two polls.
    cloud.pass(199);
    let seen = cloud.peering(&id, Viewer::Operator);
    assert_eq!(path(&seen).map(|it| it.3), Some("2026-01-01T09:41:01Z"), "when it was measured");
    cloud.pass(1);
    assert_eq!(path(&cloud.peering(&id, Viewer::Operator)), None);
    cloud.probes(1, (one, &id), Said { age_ms: 201_000, ..WELL });
    assert_eq!(path(&cloud.peering(&id, Viewer::Operator)), None, "it was old when it was said");
    cloud.probes(1, (one, &id), WELL);
    assert!(path(&cloud.peering(&id, Viewer::Operator)).is_some());
    // An agent that does not report a side any more knows nothing about it.
    cloud.engine.on_probes(&host(1), ProbeReport::default(), Duration::from_secs(5));
    assert_eq!(path(&cloud.peering(&id, Viewer::Operator)), None);
}
