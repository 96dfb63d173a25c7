//! Results for a kernel in memory in which one thing is wrong.

use super::{
    PathEnd,
    facts::facts,
    parts, restrict,
    seen::{Lookups, Seen},
};
use crate::{
    compile::{UnderlayParams, compile},
    diff::diff,
    dirty_set::DirtySet,
    filter::{PacketRate, Vlan},
    kernel::{
        Kernel as _, NetlinkError,
        memory::Memory,
        trace::{Neighbour, RouteFound},
    },
    objects::{
        Desired, DeviceSetting, Effect, Egress, Family, FilterHandle, Firewall, IngressFilter, Link, LinkKind,
        Observed, RuleAhead,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict as RuleVerdict},
    },
    ownership::REJECT_PRIORITY,
};
use cps_peering_config::{
    HostConfig, ValidHostConfig,
    net::InterfaceName,
    trace::{Fact, TraceQuery, Verdict, check},
};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// VPC a on this host, with ports eth1 and eth2; its peer b is on this host behind eth3, and on another one.
const CONFIG: &str = r#"{
    "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1",
    "vrfs": {
        "vpc-a": { "vni": 10, "ports": { "eth1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] },
                                         "eth2": { "gateways": ["10.1.1.1/24"], "prefixes": ["10.1.1.0/24"] } },
                   "remotes": { "192.0.2.2": ["10.1.2.0/24"] } },
        "vpc-b": { "vni": 11, "ports": { "eth3": { "gateways": ["10.2.0.1/24"], "prefixes": ["10.2.0.0/24"] } } }
    },
    "sides": {
        "1001": { "peering": "p", "vpc": "vpc-a", "peer_vni": 1002, "peer_cidrs": ["10.2.0.0/16"],
                  "remotes": { "192.0.2.2": ["10.2.1.0/24"] } },
        "1002": { "peering": "p", "vpc": "vpc-b", "peer_vni": 1001, "peer_cidrs": ["10.1.0.0/16"],
                  "remotes": { "192.0.2.2": ["10.1.2.0/24"] }, "limit": { "bandwidth_mbit": 100, "share": 1000000 } }
    } }"#;

/// From a server of a to one of b on the other host.
const FAR: &str = r#"{ "vpc": "vpc-a", "local": "10.1.0.5", "peer_vpc": "vpc-b", "remote": "10.2.1.5", "side": 1001,
    "remote_vtep": "192.0.2.2" }"#;
/// The same, to the one on this host.
const NEAR: &str =
    r#"{ "vpc": "vpc-a", "local": "10.1.0.5", "peer_vpc": "vpc-b", "remote": "10.2.0.5", "side": 1001 }"#;
/// The reverse of that.
const NEAR_BACK: &str =
    r#"{ "vpc": "vpc-b", "local": "10.2.0.5", "peer_vpc": "vpc-a", "remote": "10.1.0.5", "side": 1002 }"#;
/// Within a, to another host.
const WITHIN: &str =
    r#"{ "vpc": "vpc-a", "local": "10.1.0.5", "peer_vpc": "vpc-a", "remote": "10.1.2.5", "remote_vtep": "192.0.2.2" }"#;
/// From b, whose bandwidth is limited.
const LIMITED: &str = r#"{ "vpc": "vpc-b", "local": "10.2.0.5", "peer_vpc": "vpc-a", "remote": "10.1.2.5", "side": 1002,
    "remote_vtep": "192.0.2.2" }"#;
/// From the gateway of a to the other host.
const GATEWAY: &str = r#"{ "vpc": "vpc-a", "local": "10.1.0.1", "peer_vpc": "vpc-b", "remote": "10.2.1.5", "side": 1001,
    "remote_vtep": "192.0.2.2" }"#;

struct Bench {
    config: ValidHostConfig,
    query: TraceQuery,
    kernel: Memory,
}

/// What a test can change before the trace.
struct Scene {
    observed: Observed,
    lookups: Lookups,
}

impl Scene {
    fn link(&mut self, device: &str) -> &mut Link {
        self.observed.links.get_mut(&name(device)).unwrap()
    }
}

impl Bench {
    fn new(query: &str) -> Self {
        let config: HostConfig = serde_json::from_str(CONFIG).unwrap();
        let kernel = Memory::new();
        for port in ["eth1", "eth2", "eth3", "uplink"] {
            let mut state = kernel.state();
            let link = state.add_link(port, LinkKind::Other);
            (link.up, link.carrier) = (true, true);
        }
        let bench = Self { config: config.try_into().unwrap(), query: serde_json::from_str(query).unwrap(), kernel };
        let desired = bench.desired(&DirtySet::Everything);
        let mut kernel = bench.kernel.clone();
        for _ in 0..5 {
            let plan = diff(&desired, &kernel.observe_all().unwrap());
            kernel.apply(&plan.operations).unwrap();
        }
        bench
    }

    fn desired(&self, dirty: &DirtySet) -> Desired {
        compile(&self.config, UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 }, dirty)
    }

    /// All facts, in both directions.
    fn facts(&self, change: impl FnOnce(&mut Scene)) -> [Vec<Fact>; 2] {
        let end = PathEnd::of(&self.config, &self.query.ends).unwrap();
        let mut parts = parts(&self.config, &self.query.ends, &end);
        parts.devices.insert(name("uplink"));
        let mut scene = Scene { observed: self.kernel.clone().observe_all().unwrap(), lookups: Lookups::default() };
        let index = |device: InterfaceName| scene.observed.links.get(&device).map(|link| link.index);
        let unicast = RouteFound { unicast: true, ..RouteFound::default() };
        let local = RouteFound { local: true, ..RouteFound::default() };
        let leaves = |device, gateway| RouteFound { device: index(device), gateway, ..unicast };
        let route = match end.exit {
            super::Exit::Host { .. } => local,
            super::Exit::Device { device, .. } => leaves(device, None),
            super::Exit::Tunnel(tunnel) => leaves(tunnel.device, Some(IpAddr::V6(tunnel.gateway))),
        };
        scene.lookups.route = Some(Ok(route));
        if end.tunnel().is_some() {
            scene.lookups.delivery = Some(Ok(if end.is_gateway { local } else { leaves(end.port, None) }));
            scene.lookups.underlay = Some(Ok(leaves(name("uplink"), None)));
            scene.lookups.own_vtep = Some(Ok(local));
        }
        change(&mut scene);
        let Scene { mut observed, lookups } = scene;
        let links = observed.links.clone();
        parts.restrict(&mut observed);
        let mut desired = self.desired(&DirtySet::Parts(parts.clone()));
        restrict(&mut desired, &parts, &end);
        let seen = Seen {
            query: &self.query.ends,
            has_protocol: self.query.protocol.is_some(),
            end: &end,
            desired: &desired,
            observed: &observed,
            links: &links,
            lookups,
        };
        let (send, receive) = facts(&seen);
        [send, receive]
    }

    /// Step and verdict of what is wrong, in both directions.
    fn wrong(&self, change: impl FnOnce(&mut Scene)) -> [Vec<(String, Verdict)>; 2] {
        self.facts(change).map(|facts| {
            let wrong = facts.into_iter().filter(|fact| fact.verdict != Verdict::Ok);
            wrong.map(|fact| (fact.check, fact.verdict)).collect()
        })
    }
}

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

type Wrong = Vec<(String, Verdict)>;

fn one(check: &str, verdict: Verdict) -> Wrong {
    vec![(check.to_owned(), verdict)]
}

fn stops(check: &str) -> Wrong {
    one(check, Verdict::Stops)
}

fn differs(check: &str) -> Wrong {
    one(check, Verdict::Differs)
}

fn unknown(check: &str) -> Wrong {
    one(check, Verdict::Unknown)
}

fn none() -> Wrong {
    Vec::new()
}

fn no_route() -> Result<RouteFound, NetlinkError> {
    Err(NetlinkError { errno: nix::libc::EHOSTUNREACH, explanation: None })
}

#[test]
fn nothing_is_wrong_where_the_kernel_is_as_it_should_be() {
    let to_gateway = |local: &str, remote: &str| {
        format!(r#"{{ "vpc": "vpc-a", "local": "{local}", "peer_vpc": "vpc-a", "remote": "{remote}" }}"#)
    };
    let peers_gateway = NEAR.replace("10.2.0.5", "10.2.0.1");
    let own_gateway = to_gateway("10.1.0.5", "10.1.0.1");
    let others_gateway = to_gateway("10.1.0.5", "10.1.1.1");
    let of_gateway = to_gateway("10.1.1.1", "10.1.0.5");
    for query in
        [FAR, NEAR, NEAR_BACK, WITHIN, LIMITED, GATEWAY, &peers_gateway, &own_gateway, &others_gateway, &of_gateway]
    {
        assert_eq!(Bench::new(query).wrong(|_| ()), [none(), none()], "{query}");
    }
}

#[test]
fn each_object_is_named_by_the_step_that_needs_it() {
    let bench = Bench::new(FAR);
    let tunnel = name("cpspeer1001");
    assert_eq!(bench.wrong(|it| it.observed.fdb.clear()), [stops(check::FDB), none()]);
    assert_eq!(bench.wrong(|it| it.observed.neighbours.clear()), [stops(check::NEIGHBOUR), none()]);
    assert_eq!(bench.wrong(|it| it.observed.ipv6_forwarding = false), [none(), none()], "it is about IPv4");
    let down = bench.wrong(|it| it.link("cpspeer1001").up = false);
    assert_eq!(down, [stops(check::TUNNEL), stops(check::TUNNEL)]);
    let other = LinkKind::Vxlan {
        tunnel: bench.desired(&DirtySet::Everything).vxlans.get(&tunnel).map(|it| it.tunnel),
        altered: true,
    };
    let altered = bench.wrong(|it| it.link("cpspeer1001").kind = other);
    assert_eq!(altered, [unknown(check::TUNNEL), unknown(check::TUNNEL)], "a TTL of 1, for instance");
    let mtu = bench.wrong(|it| it.link("cpspeer1001").mtu = 1400);
    assert_eq!(mtu, [differs(check::MTU), none()]);
    let without = bench.wrong(|it| it.observed.addresses.retain(|it, _| it.device != name("eth1")));
    assert_eq!(without[0], stops(check::GATEWAY));
    let silent = bench.wrong(|it| it.link("eth1").carrier = false);
    assert_eq!(silent, [stops(check::PORT), stops(check::PORT)]);
}

#[test]
fn what_stops_one_way_is_named_on_that_way_only() {
    let bench = Bench::new(FAR);
    let set = |device: &'static str, setting, value| {
        bench.wrong(|it| {
            it.link(device).settings.insert(setting, value);
        })
    };
    assert_eq!(set("cpspeer1001", DeviceSetting::Ipv4Forwarding, 0), [none(), stops(check::TUNNEL)]);
    assert_eq!(set("eth1", DeviceSetting::Ipv4Forwarding, 0), [stops(check::PORT), none()]);
    assert_eq!(set("cpspeer1001", DeviceSetting::Ipv6Disable, 1), [stops(check::TUNNEL), none()], "no next hops");
    assert_eq!(set("eth1", DeviceSetting::Ipv6Disable, 1), [none(), none()], "it is about IPv4");
    let mac = crate::objects::Mac([2, 0, 0, 0, 0, 9]);
    assert_eq!(bench.wrong(|it| it.link("cpspeer1001").mac = Some(mac)), [none(), stops(check::TUNNEL)]);
    assert_eq!(bench.wrong(|it| it.link("cpspeer1001").arp = false), [stops(check::TUNNEL), none()]);
    let silent = bench.wrong(|it| {
        let port = it.link("eth1");
        (port.arp, port.mac) = (false, Some(mac));
    });
    assert_eq!(silent, [unknown(check::PORT), stops(check::PORT)]);
    let qdisc = |device: &str| {
        let device = name(device);
        bench.wrong(|it| {
            drop(it.observed.foreign.qdiscs.insert(device, ["qdisc netem 1:".to_owned()].into()));
        })
    };
    assert_eq!(qdisc("eth1"), [none(), unknown(check::PORT)]);
    assert_eq!(qdisc("cpspeer1001"), [unknown(check::SHAPER), none()]);
    assert_eq!(qdisc("uplink"), [unknown(check::UNDERLAY), none()]);
}

#[test]
fn what_may_drop_packets_is_unknown_and_what_drops_all_stops_them() {
    let bench = Bench::new(FAR);
    let filter = |device: &str, effect| {
        let device = name(device);
        let filters = BTreeMap::from([("pref 1 matchall".to_owned(), effect)]);
        let arriving = bench.wrong(|it| it.observed.ingress.entry(device).or_default().foreign = filters.clone());
        let sent = bench.wrong(|it| drop(it.observed.foreign.egress_filters.insert(device, filters.clone())));
        [arriving, sent]
    };
    for (effect, verdict) in [(Effect::MayDrop, Verdict::Unknown), (Effect::DropsAll, Verdict::Stops)] {
        let [ingress, egress] = filter("eth1", effect);
        assert_eq!(ingress, [one(check::PORT_FILTER, verdict), none()]);
        assert_eq!(egress, [none(), one(check::PORT, verdict)]);
        let [ingress, egress] = filter("cpspeer1001", effect);
        assert_eq!(ingress, [none(), one(check::SOURCE_FILTER, verdict)]);
        assert_eq!(egress, [one(check::SHAPER, verdict), none()]);
    }
    // A leftover program of ours rejects what only it can tell.
    for (device, wrong) in
        [("eth1", [unknown(check::PORT_FILTER), none()]), ("cpspeer1001", [none(), unknown(check::SOURCE_FILTER)])]
    {
        let stale = bench.wrong(|it| {
            let ingress = it.observed.ingress.entry(name(device)).or_default();
            let accepting = ingress.filters.values().find_map(|filter| match filter {
                Some(IngressFilter::Accept(program)) => Some(program.clone()),
                _ => None,
            });
            let program = accepting.expect("a device has filters");
            let place = FilterHandle { priority: REJECT_PRIORITY, handle: 7 };
            ingress.filters.insert(place, Some(IngressFilter::Reject(program)));
        });
        assert_eq!(stale, wrong, "{device}");
    }
    // A missing limit stops nothing, and what another one selects and drops, only it can tell.
    let limit = |change: fn(&mut PacketRate) -> bool| {
        bench.wrong(|it| {
            let ingress = it.observed.ingress.entry(name("eth1")).or_default();
            ingress.filters.retain(|_, filter| match filter {
                Some(IngressFilter::Limit(_, rate)) => change(rate),
                _ => true,
            });
        })
    };
    assert_eq!(limit(|_| false), [none(), none()]);
    let slower = |rate: &mut PacketRate| std::mem::replace(&mut rate.per_second, 1) > 1;
    assert_eq!(limit(slower), [unknown(check::PORT_FILTER), none()]);
    assert_eq!(filter("uplink", Effect::MayDrop), [[none(), none()], [none(), none()]], "the host's own affair");
    assert_eq!(filter("uplink", Effect::DropsAll)[1], [stops(check::UNDERLAY), none()]);
    let rules = |rules: Vec<FilterRule>| {
        let chain = Chain {
            backend: Backend::Legacy,
            scope: Scope::Ip(Family::V4),
            family: "ip",
            table: "filter".into(),
            name: "FORWARD".into(),
            hook: Some(Hook::Forward),
            drops: false,
            rules,
        };
        bench.wrong(|it| it.observed.firewall = Firewall { chains: vec![chain], ..Firewall::default() })
    };
    let rule = |matches: Vec<Match>| {
        vec![FilterRule { label: "rule 1".into(), matches, marks: false, verdict: RuleVerdict::Drop("DROP".into()) }]
    };
    let out = |device: &str| Match::Out(vec![Pattern { name: device.into(), open: false }], Sense::Is);
    assert_eq!(rules(rule(vec![])), [stops(check::FIREWALL), stops(check::FIREWALL)]);
    assert_eq!(rules(rule(vec![out("cpspeer1001")])), [stops(check::FIREWALL), none()]);
    assert_eq!(rules(rule(vec![out("eth1")])), [none(), stops(check::FIREWALL)]);
    assert_eq!(rules(rule(vec![out("eth2")])), [none(), none()], "another port of the VPC");
    assert_eq!(rules(rule(vec![Match::Other])), [unknown(check::FIREWALL), unknown(check::FIREWALL)], "of one port");
    let arp = |drops: bool, rules: Vec<FilterRule>| {
        let chain = Chain {
            backend: Backend::Nftables,
            scope: Scope::Arp,
            family: "arp",
            table: "filter".into(),
            name: "input".into(),
            hook: Some(Hook::Input),
            drops,
            rules,
        };
        bench.wrong(|it| it.observed.firewall = Firewall { chains: vec![chain], ..Firewall::default() })
    };
    let both = [unknown(check::FIREWALL), unknown(check::FIREWALL)];
    assert_eq!(arp(true, vec![]), both, "whoever is resolved can still be reached");
    assert_eq!(
        arp(false, rule(vec![Match::In(vec![Pattern { name: "eth2".into(), open: false }], Sense::Is)])),
        [none(), none()]
    );
    let unread = bench.wrong(|it| it.observed.firewall.unread.push("nft: Operation not permitted".into()));
    assert_eq!(unread, [unknown(check::FIREWALL), unknown(check::FIREWALL)]);
    let xdp = |device: &'static str| bench.wrong(|it| it.link(device).xdp = Some(7));
    assert_eq!((xdp("eth1"), xdp("cpspeer1001")), ([unknown(check::PORT), none()], [none(), unknown(check::TUNNEL)]));
    // Below the port and on the underlay.
    assert_eq!(xdp("uplink"), [none(), unknown(check::ACCEPTANCE)]);
    let below = bench.wrong(|it| {
        let lower = it.link("eth3").index;
        it.link("eth3").xdp = Some(7);
        it.link("eth1").vlan = Some((lower, Vlan { tpid: 0x8100, id: 7 }));
    });
    assert_eq!(below, [unknown(check::PORT), none()]);
}

#[test]
fn a_foreign_queue_in_place_of_the_shaper_may_lose_all() {
    let bench = Bench::new(LIMITED);
    let tunnel = name("cpspeer1002");
    let egress = |change: fn(&mut Egress)| bench.wrong(|it| change(it.observed.egress.get_mut(&tunnel).unwrap()));
    assert_eq!(egress(|it| it.ours = false), [unknown(check::SHAPER), none()]);
    assert_eq!(egress(|it| it.bypassed = true), [unknown(check::SHAPER), none()]);
    assert_eq!(egress(|it| it.rate = None), [differs(check::SHAPER), none()]);
    let without = bench.wrong(|it| {
        it.observed.egress.remove(&tunnel);
    });
    assert_eq!(without, [differs(check::SHAPER), none()]);
    let [sent, _] = bench
        .facts(|it| it.observed.egress.get_mut(&tunnel).unwrap().rate.as_mut().unwrap().bytes_per_second = 125_000);
    let shaper = sent.iter().find(|fact| fact.check == check::SHAPER).unwrap();
    assert_eq!((shaper.observed.as_str(), shaper.expected.as_deref()), ("1.0 Mbit/s", Some("100 Mbit/s")));
}

#[test]
fn allowed_senders_are_judged_by_what_the_filter_does() {
    let bench = Bench::new(FAR);
    let vni = 1001.try_into().unwrap();
    let senders = |change: fn(&mut std::collections::BTreeSet<IpAddr>)| {
        bench.wrong(|it| change(it.observed.underlay.senders.as_mut().unwrap().get_mut(&vni).unwrap()))
    };
    assert_eq!(senders(std::collections::BTreeSet::clear), [none(), stops(check::ACCEPTANCE)]);
    let gone = bench.wrong(|it| drop(it.observed.underlay.senders.as_mut().unwrap().remove(&vni)));
    assert_eq!(gone, [none(), differs(check::ACCEPTANCE)], "it passes as another program's");
    let unguarded = bench.wrong(|it| {
        it.observed.underlay.guarded.remove(&name("uplink"));
    });
    assert_eq!(unguarded, [none(), differs(check::ACCEPTANCE)]);
}

#[test]
fn what_is_not_on_the_path_is_not_reported() {
    for (query, others) in
        [(FAR, ["cpspeer1002", "eth3", "eth2", "cpsvpc10"]), (WITHIN, ["cpspeer1001", "eth3", "eth2", "cpspeer1002"])]
    {
        let bench = Bench::new(query);
        for other in others {
            let device = name(other);
            let filters = BTreeMap::from([("pref 1 matchall".to_owned(), Effect::DropsAll)]);
            let found = bench.wrong(|it| {
                it.observed.ingress.entry(device).or_default().foreign = filters.clone();
                drop(it.observed.foreign.egress_filters.insert(device, filters.clone()));
                drop(it.observed.foreign.qdiscs.insert(device, ["qdisc netem 1:".to_owned()].into()));
                it.link(other).up = false;
            });
            assert_eq!(found, [none(), none()], "{other} on {query}");
        }
    }
}

#[test]
fn a_fault_of_the_other_end_on_the_same_host_is_reported_there() {
    let (here, there) = (Bench::new(NEAR), Bench::new(NEAR_BACK));
    let filters = BTreeMap::from([("pref 1 matchall".to_owned(), Effect::DropsAll)]);
    let of_arrivals = |bench: &Bench| {
        bench.wrong(|it| it.observed.ingress.entry(name("eth3")).or_default().foreign = filters.clone())
    };
    assert_eq!(of_arrivals(&here), [none(), none()], "it stops the way back only");
    assert_eq!(of_arrivals(&there), [stops(check::PORT_FILTER), none()]);
    // The kernel removes the routes with the port.
    let down = |bench: &Bench| {
        bench.wrong(|it| {
            it.link("eth3").up = false;
            if bench.query.ends.remote == "10.2.0.5".parse::<IpAddr>().unwrap() {
                it.lookups.route = Some(no_route());
            }
        })
    };
    assert_eq!(down(&here), [none(), none()]);
    assert_eq!(down(&there), [stops(check::PORT), stops(check::PORT)]);
    assert_eq!(here.wrong(|it| it.lookups.route = Some(no_route())), [stops(check::ROUTE), none()]);
}

#[test]
fn a_gateway_needs_no_server_behind_its_port() {
    let bench = Bench::new(GATEWAY);
    assert_eq!(bench.wrong(|it| it.link("eth1").carrier = false), [none(), none()]);
    let filters = BTreeMap::from([("pref 1 matchall".to_owned(), Effect::DropsAll)]);
    let filtered = bench.wrong(|it| it.observed.ingress.entry(name("eth1")).or_default().foreign = filters);
    assert_eq!(filtered, [none(), none()]);
    let deaf = bench.wrong(|it| {
        it.lookups.delivery = Some(Ok(RouteFound { unicast: true, ..RouteFound::default() }));
    });
    assert_eq!(deaf, [none(), stops(check::DELIVERY)]);
    let without = bench.wrong(|it| it.observed.addresses.retain(|it, _| it.device != name("eth1")));
    assert_eq!(without, [stops(check::GATEWAY), stops(check::GATEWAY)]);
}

#[test]
fn the_kernels_own_lookup_counts_for_routes() {
    let bench = Bench::new(FAR);
    assert_eq!(bench.wrong(|it| it.lookups.route = Some(no_route())), [stops(check::ROUTE), none()]);
    assert_eq!(bench.wrong(|it| it.lookups.delivery = Some(no_route())), [none(), stops(check::DELIVERY)]);
    assert_eq!(bench.wrong(|it| it.lookups.underlay = Some(no_route())), [stops(check::UNDERLAY), none()]);
    assert_eq!(bench.wrong(|it| it.lookups.route = None), [unknown(check::ROUTE), none()]);
    let astray = |it: &mut Scene| {
        if let Some(Ok(found)) = &mut it.lookups.route {
            found.gateway = None;
        }
    };
    assert_eq!(bench.wrong(astray), [stops(check::ROUTE), none()]);
    let rule = |rule: RuleAhead, change: fn(&mut Scene)| {
        bench.wrong(|it| {
            it.observed.rules_ahead.push(rule);
            change(it);
        })
    };
    let ahead = RuleAhead { text: "from all lookup 7".into(), priority: 500, ..RuleAhead::default() };
    assert_eq!(rule(ahead.clone(), |_| ()), [differs(check::RULES), differs(check::RULES)]);
    let [sent, arriving] = rule(ahead.clone(), |it| it.lookups.route = Some(no_route()));
    assert_eq!((sent[0].clone(), arriving), (stops(check::RULES)[0].clone(), differs(check::RULES)));
    let of_a_port = RuleAhead { of_service: true, ..ahead.clone() };
    assert_eq!(rule(of_a_port, |_| ()), [unknown(check::RULES), unknown(check::RULES)]);
    let six = RuleAhead { family: Family::V6, ..ahead.clone() };
    assert_eq!(rule(six, |_| ()), [none(), none()]);
    let from = RuleAhead { from: Some("10.1.0.0/25".parse().unwrap()), ..ahead };
    assert_eq!(rule(from, |_| ()), [differs(check::RULES), none()]);
}

#[test]
fn a_neighbour_that_did_not_answer_counts_while_that_is_recent() {
    let bench = Bench::new(FAR);
    let neighbour = |state, s| Some(Neighbour { state, mac: None, since: Some(Duration::from_secs(s)) });
    let server = |of| bench.wrong(|it| it.lookups.destination = of);
    assert_eq!(server(neighbour(0x20, 3)), [none(), unknown(check::DESTINATION)]);
    assert_eq!(server(neighbour(0x20, 300)), [none(), none()], "it may have come since");
    assert_eq!(server(neighbour(0x01, 1)), [none(), unknown(check::DESTINATION)]);
    assert_eq!(server(neighbour(0x80, 1)), [none(), differs(check::DESTINATION)], "written by hand");
    assert_eq!(server(neighbour(0x04, 900)), [none(), none()]);
    let next = |of| bench.wrong(|it| it.lookups.next_in_underlay = of);
    assert_eq!(next(neighbour(0x20, 3)), [stops(check::UNDERLAY), none()]);
    assert_eq!(next(neighbour(0x20, 300)), [none(), none()]);
    assert_eq!(next(neighbour(0x01, 1)), [unknown(check::UNDERLAY), none()]);
}
