use super::*;
use crate::{
    dirty_set::DirtySet,
    kernel::{
        memory::Memory,
        message::{emit, rule_message},
        uapi::flag,
        wire::{Batch, put, put_address, put_nested},
    },
    objects::{LinkKind, Lookup, Rule, Tunnel},
};
use cps_peering_config::HostConfig;
use nix::sched::{CloneFlags, unshare};
use std::{sync::mpsc::channel, time::Duration};

/// eth1 (2) is a port, cpspeer7 (1) a tunnel, cpsvrf10 (3) a VRF, eth0 (4) has the underlay address and docker0 (5)
/// is unrelated.
fn interest() -> Interest {
    let config: HostConfig = serde_json::from_str(
        r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
             "vrfs": { "vpc-a": { "vni": 10, "ports": { "eth1": { "gateways": [], "prefixes": [] } } } }, "sides": {} }"#,
    )
    .unwrap();
    let memory = Memory::new();
    let mut state = memory.state();
    let tunnel = Tunnel { vni: 7.try_into().unwrap(), port: 4789, local: "192.0.2.1".parse().unwrap() };
    let devices = [
        ("cpspeer7", LinkKind::Vxlan { tunnel: Some(tunnel), altered: false }),
        ("eth1", LinkKind::Other),
        ("cpsvrf10", LinkKind::Vrf(ownership::table(10.try_into().unwrap()))),
        ("eth0", LinkKind::Other),
        ("docker0", LinkKind::Other),
    ];
    for (index, (name, kind)) in (1..).zip(devices) {
        let link = state.add_link(name, kind);
        (link.index, link.group) = (index, ownership::GROUP);
    }
    state.seen.links.remove(&"lo".parse().unwrap());
    state.add_foreign_address("eth0", "192.0.2.1/24");
    let interest = Interest::default();
    interest.learn(&config.into(), &state.seen, &DirtySet::Everything);
    interest
}

fn concern(kind: u16, body: impl FnOnce(&mut Vec<u8>)) -> Option<Concern> {
    let mut batch = Batch::default();
    batch.push(kind, 0, body);
    let interest = interest();
    let known = interest.known();
    messages(&batch.bytes).find_map(|message| concerns_us(&message, &known))
}

fn concerns(kind: u16, body: impl FnOnce(&mut Vec<u8>)) -> bool {
    concern(kind, body) == Some(Concern::Ours)
}

fn link(index: u32, name: &str, more: impl FnOnce(&mut Vec<u8>)) -> impl FnOnce(&mut Vec<u8>) {
    move |body| {
        body.extend([0; 4]);
        body.extend(index.to_ne_bytes());
        body.extend([0; 8]);
        put(body, super::super::uapi::link::IFLA_IFNAME, format!("{name}\0").as_bytes());
        more(body);
    }
}

/// A message whose device is behind the first four bytes, as with addresses and qdiscs.
fn on(index: u32) -> impl FnOnce(&mut Vec<u8>) {
    move |body| {
        body.extend([0; 4]);
        body.extend(index.to_ne_bytes());
        body.extend([0; 12]);
    }
}

#[test]
fn devices_of_others_do_not_wake_us() {
    assert!(concerns(rtm::NEW_LINK, link(9, "veth7", |_| {})), "from the first VPC on it needs the underlay's filter");
    assert_eq!(concern(rtm::NEW_LINK, link(5, "docker0", |_| {})), None, "it has the filter");
    assert!(concerns(rtm::NEW_LINK, link(4, "eth0", |_| {})), "the underlay");
    assert!(concerns(rtm::NEW_LINK, link(9, "eth1", |_| {})), "a port that was made anew");
    assert!(concerns(rtm::NEW_LINK, link(9, "cpspeer8", |_| {})));
    let master = |body: &mut Vec<u8>| put(body, super::super::uapi::link::IFLA_MASTER, &3u32.to_ne_bytes());
    assert!(concerns(rtm::NEW_LINK, link(9, "veth7", master)), "it is put into a VRF of ours");
    assert_eq!(concern(rtm::NEW_LINK, link(2, "eth1", |_| {})), Some(Concern::Port(2)));
    assert!(concerns(rtm::DEL_LINK, link(2, "eth1", |_| {})));
    let address = |family: Family| {
        move |body: &mut Vec<u8>| {
            body.extend([family.number(), 0, 0, 0]);
            body.extend(2u32.to_ne_bytes());
        }
    };
    assert_eq!(concern(rtm::NEW_ADDRESS, address(Family::V6)), Some(Concern::Port(2)), "its carrier has come");
    assert!(concerns(rtm::NEW_ADDRESS, address(Family::V4)) && concerns(rtm::DEL_ADDRESS, address(Family::V6)));
    for kind in [rtm::NEW_ADDRESS, rtm::NEW_QDISC, rtm::DEL_FILTER] {
        // The filter may have been removed.
        assert_eq!(concern(kind, on(5)).is_some(), kind != rtm::NEW_ADDRESS, "{kind}");
        assert!(concern(kind, on(2)).is_some() && concerns(kind, on(1)), "{kind}");
    }
}

#[test]
fn actions_that_may_be_of_a_filter_wake_us_within_a_budget() {
    let actions = |kinds: &'static [&'static str]| {
        move |body: &mut Vec<u8>| {
            body.extend([0; tc::ACTION_HEADER_LEN]);
            put_nested(body, tc::ACTIONS, |all| {
                for (order, kind) in (1..).zip(kinds) {
                    put_nested(all, order, |action| put(action, tc::ACT_KIND, format!("{kind}\0").as_bytes()));
                }
            });
        }
    };
    let some = Some(Concern::Port(NO_DEVICE));
    assert_eq!(concern(rtm::NEW_ACTION, actions(&["police"])), some);
    assert_eq!(concern(rtm::NEW_ACTION, actions(&["mirred", "gact"])), some);
    assert_eq!(concern(rtm::NEW_ACTION, actions(&["mirred", "ct"])), None);
    assert_eq!(concern(rtm::NEW_ACTION, actions(&[])), None);
    assert_eq!(concern(rtm::DEL_ACTION, actions(&["police"])), None, "no filter has it");
    assert_eq!(concern(rtm::NEW_FILTER, on(tc::SHARED_BLOCK)), some);
    // The kernel announces a chain with its first filter.
    assert!(concerns(rtm::NEW_CHAIN, on(1)) && concerns(rtm::DEL_CHAIN, on(2)));
    assert_eq!((concern(rtm::NEW_CHAIN, on(9)), concern(rtm::NEW_NEXTHOP_BUCKET, on(9))), (None, None));
}

#[test]
fn before_the_first_observation_everything_concerns_us() {
    let mut batch = Batch::default();
    batch.push(rtm::NEW_LINK, 0, link(9, "veth7", |_| {}));
    let interest = Interest::default();
    let known = interest.known();
    assert!(messages(&batch.bytes).all(|message| concerns_us(&message, &known).is_some()));
}

#[test]
fn a_tenant_causes_few_observations_and_takes_none_from_others() {
    let begin = Instant::now();
    let mut budget = Budget::new(begin);
    let at = |millis| begin + Duration::from_millis(millis);
    let of_one = (0..60_000).filter(|millis| budget.take(2, at(*millis))).count();
    assert!((15..=19).contains(&of_one), "{of_one} looks in a minute");
    assert!(budget.take(3, at(60_000)), "another port");
    let of_many = (0..60_000u32).filter(|n| budget.take(100 + n % 1000, at(60_000 + u64::from(*n)))).count();
    assert!((60..=91).contains(&of_many), "{of_many} looks in a minute");
}

fn route(protocol: u8) -> impl FnOnce(&mut Vec<u8>) {
    move |body| body.extend([2, 24, 0, 0, 0, protocol, 0, 1, 0, 0, 0, 0])
}

fn route_in(table: u32) -> impl FnOnce(&mut Vec<u8>) {
    move |body| {
        route(2)(body);
        put(body, super::route::RTA_TABLE, &table.to_ne_bytes());
    }
}

/// A permanent one.
fn neighbour(on: u32, to: &str) -> impl FnOnce(&mut Vec<u8>) {
    neighbour_in(neighbour::NUD_PERMANENT, on, to)
}

fn neighbour_in(state: u16, on: u32, to: &str) -> impl FnOnce(&mut Vec<u8>) {
    let to: IpAddr = to.parse().unwrap();
    move |body| {
        body.extend([10, 0, 0, 0]);
        body.extend(on.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([0, 0]);
        put_address(body, neighbour::NDA_DST, to);
    }
}

fn bridged(mac: [u8; 6]) -> impl FnOnce(&mut Vec<u8>) {
    move |body| {
        body.extend([neighbour::AF_BRIDGE, 0, 0, 0, 1, 0, 0, 0, 0x80, 0, 2, 0]);
        put(body, neighbour::NDA_LLADDR, &mac);
    }
}

#[test]
fn routes_and_neighbours_of_others_do_not_wake_us() {
    assert!(concerns(rtm::DEL_ROUTE, route(PROTOCOL)));
    assert!(!concerns(rtm::DEL_ROUTE, route(2)));
    assert!(concerns(rtm::NEW_ROUTE, route_in(ownership::table(10.try_into().unwrap()))));
    assert!(!concerns(rtm::NEW_ROUTE, route_in(4242)));
    let host = naming::gateway("192.0.2.9".parse().unwrap()).to_string();
    assert!(concerns(rtm::DEL_NEIGHBOUR, neighbour(1, &host)));
    assert!(!concerns(rtm::NEW_NEIGHBOUR, neighbour(1, "fe80::5054:ff:fe12:3456")));
    assert!(!concerns(rtm::NEW_NEIGHBOUR, neighbour(1, "10.1.0.9")));
    assert!(!concerns(rtm::NEW_NEIGHBOUR, bridged([0x52, 0x54, 0, 0x12, 0x34, 0x56])), "a bridge has learnt it");
    assert!(concerns(rtm::NEW_NEIGHBOUR, bridged([0x02, 0, 0xc0, 0, 2, 9])));
    assert!(concerns(rtm::NEW_NEIGHBOUR, bridged([0; 6])), "where everything else goes");
    assert!(concerns(rtm::NEW_NEIGHBOUR, bridged([1, 0, 0x5e, 0, 0, 7])));
    let reachable = || neighbour_in(0x02, 2, &host);
    assert_eq!(concern(rtm::NEW_NEIGHBOUR, reachable()), None, "a tenant calls itself so");
    assert_eq!(concern(rtm::NEW_NEIGHBOUR, neighbour(9, &host)), None);
    assert!(concerns(rtm::NEW_RULE, |_| {}));
    // Entered on a port, and removed again.
    let to_port = Some(Concern::Port(2));
    for state in [neighbour::NUD_PERMANENT, neighbour::NUD_NOARP] {
        assert_eq!(concern(rtm::NEW_NEIGHBOUR, neighbour_in(state, 2, "10.1.0.2")), to_port);
    }
    assert_eq!(concern(rtm::NEW_NEIGHBOUR, neighbour_in(neighbour::NUD_NOARP, 2, "ff02::1")), None, "a group");
    let mut known = Known::default();
    known.enter(2, "10.1.0.2".parse().unwrap());
    let is_one = |to: &str, known: &Known| {
        let mut body = Vec::new();
        neighbour_in(neighbour::NUD_FAILED, 2, to)(&mut body);
        is_entered(&body, 2, known)
    };
    assert!(is_one("10.1.0.2", &known) && !is_one("10.1.0.3", &known));
}

/// A request for a rule that changes nothing.
fn rule(priority: u32) -> Batch {
    let rule = Rule { family: Family::V4, priority, lookup: Lookup::Local, protocol: PROTOCOL };
    let mut batch = Batch::default();
    batch.push(rtm::NEW_RULE, flag::CREATE | flag::EXCLUSIVE, |body| emit(body, &rule_message(rule)));
    batch
}

#[test]
fn our_own_changes_do_not_wake_us() {
    let events = thread::spawn(|| {
        // A new network namespace needs root.
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let (tell, told) = channel();
        watch(1 << 20, &Interest::default(), move |event| tell.send(event).is_ok()).unwrap();
        let mut ours = super::super::socket::Socket::open().unwrap();
        assert_eq!(ours.execute(&mut rule(1)).unwrap(), []);
        let mut others = Socket::new(NETLINK_ROUTE).unwrap();
        others.bind_auto().unwrap();
        let mut request = rule(2);
        request.seal(1);
        others.send(&request.bytes, 0).unwrap();
        let first = told.recv_timeout(Duration::from_secs(20));
        // Had ours been announced, it would come first and the other's would follow.
        Some((first, told.recv_timeout(Duration::from_millis(100))))
    });
    if let Some((first, second)) = events.join().unwrap() {
        assert_eq!(first, Ok(Event::Changed), "another's change");
        assert!(second.is_err(), "our own change was announced");
    }
}
