use super::{
    packets::{Devices, Reach},
    *,
};
use crate::{
    compile::{UnderlayParams, compile},
    dirty_set::DirtySet,
    filter::Vlan,
    kernel::memory,
    objects::{
        Address, Desired, Link, LinkKind, Observed,
        firewall::{Action, Direction, FilterRule, Match, Pattern, Policy, Sense, Upper, Verdict, state},
    },
};
use cps_peering_config::{HostConfig, ValidHostConfig};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

mod resolution;

fn packets() -> OfVpcs {
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let networks = ["10.1.0.0/16", "10.2.0.0/16", "fd00:1::/48"].map(|net| net.parse().unwrap()).to_vec();
    let bridged = BTreeSet::new();
    let members: BTreeSet<InterfaceName> = names(&["cpspeer7", "eth1"]);
    let reach = |networks: &[IpNet]| Reach {
        networks: networks.iter().copied().collect(),
        from: members.clone(),
        to: members.clone(),
    };
    let reachable = [&networks[..2], &networks[2..]].map(reach).into();
    OfVpcs { vrfs: names(&["cpsvrf1", "cpsvrf2"]), members, bridged, networks, reachable }
}

fn pattern(text: &str) -> Pattern {
    match text.strip_suffix('*') {
        Some(name) => Pattern { name: name.into(), open: true },
        None => Pattern { name: text.into(), open: false },
    }
}

fn from(text: &str) -> Match {
    Match::In(vec![pattern(text)], Sense::Is)
}

fn to(text: &str, sense: Sense) -> Match {
    Match::Out(vec![pattern(text)], sense)
}

fn source(text: &str) -> Match {
    Match::Source(text.parse::<IpNet>().unwrap().into(), Sense::Is)
}

fn rule(matches: Vec<Match>, verdict: Verdict) -> FilterRule {
    FilterRule { label: "rule 1".into(), matches, marks: false, verdict }
}

fn drop() -> Verdict {
    Verdict::Drop("drop".into())
}

/// A table with these chains, the first of which is its base chain.
fn firewall(
    backend: Backend,
    scope: &Scope,
    hook: Hook,
    drops: bool,
    chains: Vec<(&str, Vec<FilterRule>)>,
) -> Firewall {
    let chains = chains.into_iter().enumerate().map(|(place, (name, rules))| Chain {
        backend,
        scope: scope.clone(),
        family: match scope {
            Scope::Ip(Family::V4) => "ip",
            Scope::Bridge => "bridge",
            _ => "inet",
        },
        table: "filter".into(),
        name: name.into(),
        hook: (place == 0).then_some(hook),
        drops: drops && place == 0,
        rules,
    });
    Firewall { chains: chains.collect(), ..Firewall::default() }
}

/// What is reported about chains, the first of which is the base chain.
fn touched(hook: Hook, drops: bool, chains: Vec<(&str, Vec<FilterRule>)>) -> Vec<String> {
    let firewall = firewall(Backend::Nftables, &Scope::Both, hook, drops, chains);
    let chain = &firewall.chains[0];
    let Some(packets) = packets().at(hook, Family::V4, &chain.scope) else { return Vec::new() };
    let chains = Chains::of(&firewall);
    let mut walk =
        Walk { chains: &chains, chain, budget: BUDGET, some_passed: false, marked: false, touched: Vec::new() };
    let end = walk.chain(chain, packets, 0, (true, false));
    let policy = matches!(end, End::Open(_)) && drops;
    let rules = walk.touched.into_iter().map(|(rule, does, _)| format!("{does}: {rule}"));
    rules.chain(policy.then(|| "policy".to_owned())).collect()
}

/// What affects packets from eth1, which go to cpspeer7, and whether it drops all of them.
fn on_the_way(hook: Hook, drops: bool, rules: &[(&str, Vec<FilterRule>)]) -> Vec<Effect> {
    let firewall = firewall(Backend::Legacy, &Scope::Ip(Family::V4), hook, drops, rules.to_vec());
    let flow = Flow::OfVpc {
        source: "10.1.0.5".parse().unwrap(),
        destination: "10.2.0.5".parse().unwrap(),
        from: Some("eth1".parse().unwrap()),
        vrf: "cpsvrf1".parse().unwrap(),
        to: Some("cpspeer7".parse().unwrap()),
    };
    touched_by(&firewall, &Beneath::new(&BTreeMap::new()), &flow).into_iter().map(|it| it.effect).collect()
}

#[test]
fn only_a_rule_that_matches_every_packet_of_a_flow_drops_all() {
    let forward = |drops, rules| on_the_way(Hook::Forward, drops, &[("FORWARD", rules)]);
    let (all, some) = (vec![Effect::DropsAll], vec![Effect::MayDrop]);
    let to_port = |verdict| rule(vec![from("cpsvrf1"), Match::Other], verdict);
    assert_eq!(forward(false, vec![rule(vec![from("cpsvrf1")], drop())]), all, "one VRF of two, and it is its own");
    assert_eq!(forward(false, vec![rule(vec![from("cpsvrf2")], drop())]), []);
    assert_eq!(forward(false, vec![rule(vec![from("eth1")], drop())]), [], "they come from the VRF there");
    assert_eq!(forward(false, vec![rule(vec![source("10.1.0.0/24")], drop())]), all);
    assert_eq!(forward(false, vec![rule(vec![source("10.1.9.0/24")], drop())]), []);
    assert_eq!(forward(false, vec![rule(vec![source("10.2.0.0/24")], drop())]), [], "those are answers");
    assert_eq!(forward(false, vec![to_port(drop())]), some, "of one port, for instance");
    assert_eq!(forward(true, vec![]), all, "the policy");
    assert_eq!(forward(true, vec![to_port(Verdict::Accept)]), some, "some are let pass before");
    assert_eq!(forward(false, vec![to_port(Verdict::Return), rule(vec![], drop())]), some);
    let masquerade = Verdict::Translate("MASQUERADE".into());
    assert_eq!(on_the_way(Hook::Postrouting, false, &[("POSTROUTING", vec![rule(vec![], masquerade)])]), some);
    let prerouting =
        |device: &str| on_the_way(Hook::Prerouting, false, &[("PREROUTING", vec![rule(vec![from(device)], drop())])]);
    assert_eq!((prerouting("eth1"), prerouting("cpsvrf1"), prerouting("cpspeer7")), (all.clone(), all.clone(), vec![]));
    // Called chains.
    let call = |matches| vec![rule(matches, Verdict::Jump("user".into()))];
    let called = |matches, rules| on_the_way(Hook::Forward, false, &[("FORWARD", call(matches)), ("user", rules)]);
    assert_eq!(called(vec![], vec![rule(vec![], drop())]), all);
    assert_eq!(called(vec![Match::Other], vec![rule(vec![], drop())]), some);
}

#[test]
fn a_policy_that_drops_is_reported_until_our_packets_are_exempt() {
    assert_eq!(touched(Hook::Forward, true, vec![("forward", vec![])]), ["policy"]);
    assert!(touched(Hook::Forward, false, vec![("forward", vec![])]).is_empty());
    let exempt = |name: &str| vec![("forward", vec![rule(vec![from(name)], Verdict::Accept)])];
    assert!(touched(Hook::Forward, true, exempt("cpsvrf*")).is_empty());
    assert!(touched(Hook::Forward, true, exempt("cps*")).is_empty());
    assert_eq!(touched(Hook::Forward, true, exempt("cpsvrf1")), ["policy"], "one of two VPCs");
    let both = ["cpsvrf1", "cpsvrf2"].map(|name| rule(vec![from(name)], Verdict::Accept)).to_vec();
    assert!(touched(Hook::Forward, true, vec![("forward", both)]).is_empty(), "each of them by itself");
    let half = vec![rule(vec![from("cpsvrf*"), Match::Other], Verdict::Accept)];
    assert_eq!(touched(Hook::Forward, true, vec![("forward", half)]), ["policy"], "only some packets");
}

#[test]
fn rules_that_cannot_match_our_packets_are_not_reported() {
    let docker = vec![
        rule(vec![to("docker0", Sense::Is)], drop()),
        rule(vec![from("docker0"), to("docker0", Sense::IsNot)], drop()),
        rule(vec![source("172.17.0.0/16")], drop()),
    ];
    assert!(touched(Hook::Forward, false, vec![("forward", docker)]).is_empty());
    let masquerade = |net: &str| {
        let rules = vec![rule(vec![source(net), to("docker0", Sense::IsNot)], Verdict::Translate("masquerade".into()))];
        touched(Hook::Postrouting, false, vec![("postrouting", rules)])
    };
    assert!(masquerade("172.17.0.0/16").is_empty());
    assert_eq!(masquerade("10.1.7.0/24"), ["rewrites: rule 1 masquerade"], "a network of a VPC");
    assert_eq!(masquerade("10.0.0.0/8"), ["rewrites: rule 1 masquerade"]);
    let to_ours = vec![rule(vec![to("cpspeer*", Sense::Is)], Verdict::Translate("masquerade".into()))];
    assert_eq!(touched(Hook::Postrouting, false, vec![("postrouting", to_ours)]).len(), 1);
}

#[test]
fn called_chains_are_followed() {
    let call = |matches: Vec<Match>, verdict: fn(String) -> Verdict| vec![rule(matches, verdict("user".into()))];
    let all_dropped = vec![rule(vec![], drop())];
    let found =
        touched(Hook::Forward, false, vec![("forward", call(vec![], Verdict::Jump)), ("user", all_dropped.clone())]);
    assert_eq!(found, ["drops: chain user rule 1 drop"]);
    let elsewhere = call(vec![from("docker0")], Verdict::Jump);
    assert!(touched(Hook::Forward, false, vec![("forward", elsewhere), ("user", all_dropped)]).is_empty());
    let accepted = vec![rule(vec![from("cps*")], Verdict::Accept)];
    assert!(
        touched(Hook::Forward, true, vec![("forward", call(vec![], Verdict::Jump)), ("user", accepted)]).is_empty()
    );
    let returned = vec![rule(vec![], Verdict::Return), rule(vec![], drop())];
    assert!(
        touched(Hook::Forward, false, vec![("forward", call(vec![], Verdict::Goto)), ("user", returned)]).is_empty()
    );
    let circle = touched(
        Hook::Forward,
        false,
        vec![("forward", call(vec![], Verdict::Jump)), ("user", call(vec![], Verdict::Jump))],
    );
    assert_eq!(circle.len(), 1, "it ends: {circle:?}");
}

#[test]
fn unclear_rules_are_reported() {
    let rules = vec![
        rule(vec![Match::Other], drop()),
        rule(vec![Match::Ethertype(vec![Family::V6.ethertype()], Sense::Is)], drop()),
        rule(vec![], Verdict::Unclear("vmap".into())),
    ];
    let found = touched(Hook::Forward, false, vec![("forward", rules)]);
    assert_eq!(found, ["drops: rule 1 drop", "may drop: rule 1 vmap"]);
}

/// What is reported of packets between this host, where `uplink` has the address, and others: of those that arrive in this hook, or
/// leave by it. The first is of all of them, the second of those that one other host sends or gets.
fn between_hosts(hook: Hook, drops: bool, rules: Vec<FilterRule>) -> (Vec<Effect>, Vec<Effect>) {
    between_hosts_by(&Scope::Both, Some("uplink"), hook, drops, vec![("host", rules)])
}

/// The same of several chains, the first of which is the base chain, in a table of this scope, where this device has
/// the address.
fn between_hosts_by(
    scope: &Scope,
    device: Option<&str>,
    hook: Hook,
    drops: bool,
    rules: Vec<(&str, Vec<FilterRule>)>,
) -> (Vec<Effect>, Vec<Effect>) {
    let firewall = firewall(Backend::Nftables, scope, hook, drops, rules);
    let (port, local) = (4789, "192.0.2.1".parse().unwrap());
    let others: Vec<IpNet> = ["192.0.2.2/32", "198.51.100.0/25"].map(|net| net.parse().unwrap()).to_vec();
    let hosts = others.iter().map(IpNet::addr).collect();
    let device = device.map(|device| device.parse().unwrap());
    let devices = device.map_or(Devices::Any, |device| Devices::These(BTreeSet::from([device])));
    let all = BetweenHosts { port, local, device: devices, bridged: Devices::These(BTreeSet::new()), others, hosts };
    let mut found = Vec::new();
    if let Some(packets) = all.at(hook, scope) {
        walk(&Chains::of(&firewall), &firewall.chains[0], packets, &mut found);
    }
    let flows = [true, false].map(|arrives| Flow::BetweenHosts {
        local,
        other: "192.0.2.2".parse().unwrap(),
        device,
        port,
        arrives,
    });
    let effects = |found: Vec<Interference>| found.into_iter().map(|it| it.effect).collect::<Vec<_>>();
    (
        effects(found),
        effects(flows.iter().flat_map(|flow| touched_by(&firewall, &Beneath::new(&BTreeMap::new()), flow)).collect()),
    )
}

#[test]
fn traffic_between_hosts_is_distinguished_from_all_other() {
    let udp = || Match::Protocol(vec![17], Sense::Is);
    let to_port = |port: u16| Match::DestinationPort(vec![port..=port], Sense::Is);
    let (all, some) = (vec![Effect::DropsAll], vec![Effect::MayDrop]);
    let both = |effects: &[Effect]| (effects.to_vec(), effects.to_vec());
    let input = |drops, rules: &[FilterRule]| between_hosts(Hook::Input, drops, rules.to_vec());
    // The rules of an ordinary host.
    let ordinary = [
        rule(vec![from("lo")], Verdict::Accept),
        rule(vec![Match::State(6, Sense::Is)], Verdict::Accept),
        rule(vec![Match::State(1, Sense::Is)], drop()),
        rule(vec![Match::Protocol(vec![6], Sense::Is), to_port(22)], Verdict::Accept),
        rule(vec![Match::Protocol(vec![1], Sense::Is)], Verdict::Accept),
    ];
    assert_eq!(input(true, &ordinary), both(&all), "nothing lets them pass");
    assert_eq!(input(false, &ordinary), both(&[]));
    let exempt = |matches: Vec<Match>| [&ordinary[..], &[rule(matches, Verdict::Accept)]].concat();
    assert_eq!(input(true, &exempt(vec![udp(), to_port(4789)])), both(&[]));
    assert_eq!(input(true, &exempt(vec![udp(), to_port(53)])), both(&all));
    assert_eq!(input(true, &exempt(vec![from("uplink")])), both(&[]));
    assert_eq!(input(true, &exempt(vec![from("other")])), both(&all));
    assert_eq!(input(true, &exempt(vec![source("192.0.2.0/24")])), (some.clone(), vec![]), "one host of several");
    assert_eq!(input(true, &exempt(vec![udp(), Match::Other])), both(&some), "a set, for instance");
    assert_eq!(input(true, &exempt(vec![Match::State(state::NEW, Sense::Is)])), both(&some));
    // Rules that do not identify them are about other packets.
    assert_eq!(input(false, &[rule(vec![Match::Other], drop())]), both(&[]));
    assert_eq!(input(false, &[rule(vec![udp(), Match::Other], drop())]), both(&some));
    assert_eq!(input(false, &[rule(vec![], Verdict::Unclear("verdict map".into()))]), both(&some));
    assert_eq!(input(false, &[rule(vec![Match::State(state::NEW, Sense::Is)], drop())]), both(&some));
    assert_eq!(input(false, &[rule(vec![udp(), to_port(4789)], drop())]), both(&all));
    let others = Match::DestinationPort(vec![1..=4788, 4790..=9999], Sense::Is);
    assert_eq!(input(false, &[rule(vec![udp(), others], drop())]), both(&[]));
    let not_there = Match::DestinationPort(vec![4789..=4789], Sense::IsNot);
    assert_eq!(input(false, &[rule(vec![udp(), not_there], drop())]), both(&[]));
    assert_eq!(input(false, &[rule(vec![source("192.0.2.2/32")], drop())]), (some, all.clone()));
    assert_eq!(input(false, &[rule(vec![source("192.0.2.1/32")], drop())]), both(&[]), "that is this host");
    // Other hooks.
    for hook in [Hook::Ingress, Hook::Prerouting] {
        assert_eq!(between_hosts(hook, false, vec![rule(vec![from("uplink"), udp()], drop())]), both(&all));
        assert_eq!(between_hosts(hook, false, vec![rule(vec![from("eth1"), udp()], drop())]), both(&[]));
    }
    for hook in [Hook::Output, Hook::Postrouting, Hook::Egress] {
        assert_eq!(between_hosts(hook, false, vec![rule(vec![to("uplink", Sense::Is), udp()], drop())]), both(&all));
        assert_eq!(between_hosts(hook, false, vec![rule(vec![source("192.0.2.2/32")], drop())]), both(&[]));
    }
    assert_eq!(between_hosts(Hook::Forward, true, vec![]), both(&[]), "they are not forwarded");
}

/// As real firewalls are.
#[test]
fn common_firewalls_are_judged_as_the_kernel_does() {
    let udp_to =
        |port: u16| vec![Match::Protocol(vec![17], Sense::Is), Match::DestinationPort(vec![port..=port], Sense::Is)];
    let jump = |to: &str| rule(vec![], Verdict::Jump(to.into()));
    let (all, some) = (vec![Effect::DropsAll], vec![Effect::MayDrop]);
    let both = |effects: &[Effect]| (effects.to_vec(), effects.to_vec());
    let input = |drops, chains| between_hosts_by(&Scope::Both, Some("uplink"), Hook::Input, drops, chains);
    // ufw: what is for the host returns, the rest is dropped; then come the user's rules.
    let ufw = |user: Vec<FilterRule>| {
        let not_local = vec![rule(vec![Match::Other], Verdict::Return), rule(vec![], drop())];
        let before = vec![
            rule(vec![from("lo")], Verdict::Accept),
            rule(vec![Match::State(6, Sense::Is)], Verdict::Accept),
            rule([udp_to(68), vec![Match::Other]].concat(), Verdict::Accept),
            jump("not-local"),
            rule([udp_to(5353), vec![source("224.0.0.251/32")]].concat(), Verdict::Accept),
        ];
        let chains = vec![("INPUT", vec![jump("before"), jump("user")]), ("before", before), ("not-local", not_local)];
        input(true, [chains, vec![("user", user)]].concat())
    };
    assert_eq!(ufw(vec![]), both(&all));
    assert_eq!(ufw(vec![rule(udp_to(22), Verdict::Accept)]), both(&all));
    assert_eq!(ufw(vec![rule(udp_to(4789), Verdict::Accept)]), both(&[]), "ufw allow 4789/udp");
    // kube-proxy: what has no mark returns, the rest is rewritten.
    let unmarked =
        vec![rule(vec![Match::Other], Verdict::Return), rule(vec![], Verdict::Translate("masquerade".into()))];
    let leaving = vec![("POSTROUTING", vec![jump("KUBE-POSTROUTING")]), ("KUBE-POSTROUTING", unmarked)];
    assert_eq!(between_hosts_by(&Scope::Both, Some("uplink"), Hook::Postrouting, false, leaving), both(&[]));
    // More rules than are examined: what follows is unknown.
    let many = vec![rule(vec![source("203.0.113.0/24")], drop()); BUDGET + 1];
    let (health, path) = input(true, vec![("input", [many, vec![rule(udp_to(4789), Verdict::Accept)]].concat())]);
    assert!(!health.contains(&Effect::DropsAll) && !path.contains(&Effect::DropsAll), "{health:?} {path:?}");
    // A chain called from output: it has no input device there, so none matches.
    let shared = vec![rule(vec![Match::In(vec![pattern("wan0")], Sense::IsNot)], Verdict::Accept)];
    assert_eq!(between_hosts_by(&Scope::Both, Some("uplink"), Hook::Output, true, vec![("output", shared)]), both(&[]));
    // Filters of a device on which packets may or may not arrive.
    let of_usb = Scope::Devices(vec![pattern("usb0")]);
    let by = |device| between_hosts_by(&of_usb, device, Hook::Ingress, true, vec![("early", vec![])]);
    assert_eq!((by(None), by(Some("uplink"))), (both(&some), both(&[])));
    assert_eq!(by(Some("usb0")), both(&all));
}

/// Ports are the bridge br1, with two taps, and eth1; the underlay is the VLAN br0.7 on the bridge br0, of which uplink is a member.
fn bridged() -> (Desired, Observed) {
    let vlan = |on| Some((on, Vlan { tpid: 0x8100, id: 7 }));
    let devices = [
        ("br1", LinkKind::Bridge, None, None),
        ("tap1", LinkKind::Other, Some(1), None),
        ("tap2", LinkKind::Other, Some(1), None),
        ("eth1", LinkKind::Other, None, None),
        ("br0", LinkKind::Bridge, None, None),
        ("uplink", LinkKind::Other, Some(5), None),
        ("br0.7", LinkKind::Other, None, vlan(5)),
    ];
    let name = |text: &str| text.parse::<InterfaceName>().unwrap();
    let links = (1..).zip(devices).map(|(index, (device, kind, master, vlan))| {
        (name(device), Link { kind, master, vlan, ..memory::plain_link(index) })
    });
    let address = Address { device: name("br0.7"), net: "192.0.2.1/24".parse().unwrap() };
    let observed = Observed { links: links.collect(), addresses: [(address, false)].into(), ..Observed::default() };
    let config: HostConfig = serde_json::from_str(
        r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1", "vrfs": { "vpc-a": { "vni": 1,
            "ports": { "br1": { "gateways": ["10.1.0.1/24"], "prefixes": ["10.1.0.0/24"] },
                       "eth1": { "gateways": ["10.1.1.1/24"], "prefixes": ["10.1.1.0/24"] } },
            "remotes": { "192.0.2.2": ["10.1.2.0/24"] } } } }"#,
    )
    .unwrap();
    let config: ValidHostConfig = config.try_into().unwrap();
    let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
    (compile(&config, params, &DirtySet::Everything), observed)
}

/// One that lets packets pass is not the last to be evaluated, so it is reported although nothing drops.
#[test]
fn a_policy_of_type_sub_is_reported_even_if_it_is_the_only_one() {
    let (desired, mut observed) = bridged();
    let mut found = |sub: bool| {
        observed.firewall.policies = vec![Policy {
            direction: Direction::Forward,
            source: "10.1.0.0/24".parse().unwrap(),
            destination: "10.1.2.0/24".parse().unwrap(),
            device: None,
            upper: Upper::default(),
            action: Action::Allow,
            sub,
            priority: Some(9),
        }];
        let found = crate::diff::diff(&desired, &observed).interference;
        found.iter().filter(|it| it.object.starts_with("xfrm policy")).count()
    };
    assert_eq!([found(true), found(false)], [1, 0]);
}

#[test]
fn filters_of_bridges_below_ports_and_the_underlay_are_judged() {
    let (desired, mut observed) = bridged();
    let flow = |from: &str, vtep: &str| {
        let from: InterfaceName = from.parse().unwrap();
        let [source, destination] = ["10.1.0.5", "10.1.2.5"].map(|text| text.parse().unwrap());
        let (vrf, to) = ("cpsvrf1".parse().unwrap(), Some("cpsvpc1".parse().unwrap()));
        let [local, other] = ["192.0.2.1", vtep].map(|text| text.parse().unwrap());
        let device = Some("br0.7".parse().unwrap());
        let inner = Flow::OfVpc { source, destination, from: Some(from), vrf, to };
        [inner, Flow::BetweenHosts { local, other, device, port: 4789, arrives: true }]
    };
    let mut judged = |hook, drops, rules: &[FilterRule]| {
        observed.firewall = firewall(Backend::Nftables, &Scope::Bridge, hook, drops, vec![("first", rules.to_vec())]);
        let found = crate::diff::diff(&desired, &observed).interference;
        let found: Vec<String> = found.iter().map(|it| format!("{}: {}", it.object, it.reason)).collect();
        let beneath = Beneath::new(&observed.links);
        let on_the_way = ["br1", "eth1"].map(|port| {
            flow(port, "192.0.2.2")
                .map(|flow| touched_by(&observed.firewall, &beneath, &flow).pop().map(|it| it.effect))
        });
        (found, crate::diff::doubts(&desired, &observed).len(), on_the_way)
    };
    let (all, some, no) = (Some(Effect::DropsAll), Some(Effect::MayDrop), None);
    // Nothing reaches the host from servers or from other hosts.
    let (found, doubts, on_the_way) = judged(Hook::Input, true, &[]);
    assert_eq!((doubts, on_the_way), (0, [[all, all], [no, all]]));
    let [of_vpcs, between_hosts] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        of_vpcs,
        "nft bridge filter first policy drop: drops packets of VPCs: nft insert rule bridge filter first iifname \"DEVICE\" accept, \
         for each member of the bridge, exempts them"
    );
    assert!(
        between_hosts.ends_with("nft insert rule bridge filter first udp dport 4789 accept exempts them"),
        "{found:?}"
    );
    let exempt = ["tap1", "tap2", "uplink"].map(|tap| rule(vec![from(tap)], Verdict::Accept));
    assert_eq!(judged(Hook::Input, true, &exempt), (vec![], 0, [[no; 2]; 2]));
    // One server of several, and some frames: unknown whether these should pass.
    assert_eq!(
        judged(Hook::Prerouting, false, &[rule(vec![from("tap2")], drop())]),
        (vec![], 1, [[some, no], [no, no]])
    );
    assert_eq!(judged(Hook::Input, false, &[rule(vec![from("tap*"), Match::Other], drop())]).1, 1);
    assert_eq!(
        judged(Hook::Postrouting, false, &[rule(vec![to("tap9", Sense::Is)], drop())]),
        (vec![], 0, [[no; 2]; 2])
    );
    assert_eq!(judged(Hook::Output, true, &[]).0.len(), 2, "nothing is sent");
    // Frames from one member to another are not ours.
    assert_eq!(judged(Hook::Forward, true, &[]), (vec![], 0, [[no; 2]; 2]));
}

/// Interface names are bytes: two names that are displayed alike are different.
#[test]
fn rules_about_a_device_whose_name_is_displayed_like_a_ports_do_not_match_it() {
    let port: InterfaceName = "\\xff0".parse().unwrap();
    let other = InterfaceName::of_kernel(b"\xff0").unwrap();
    assert_eq!((port.to_string(), port == other), (other.to_string(), false));
    let mut packets = packets();
    packets.members = BTreeSet::from([port]);
    let dropped = |name: &[u8], open: bool| {
        let rules = vec![rule(vec![Match::In(vec![Pattern { name: name.to_vec(), open }], Sense::Is)], drop())];
        let firewall = firewall(Backend::Nftables, &Scope::Both, Hook::Prerouting, false, vec![("first", rules)]);
        let mut found = Vec::new();
        let packets = packets.at(Hook::Prerouting, Family::V4, &Scope::Both).unwrap();
        walk(&Chains::of(&firewall), &firewall.chains[0], packets, &mut found);
        found.len()
    };
    assert_eq!([dropped(port.as_bytes(), false), dropped(other.as_bytes(), false)], [1, 0]);
    assert_eq!([dropped(b"\\xf", true), dropped(b"\xff", true)], [1, 0]);
}

#[test]
fn policies_of_ipsec_that_select_packets_of_vpcs_are_reported() {
    let policy = |direction, source: &str, destination: &str, action| Policy {
        direction,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        device: None,
        upper: Upper::default(),
        action,
        sub: false,
        priority: Some(9),
    };
    let some_of_them = Upper { more: true, ..Upper::default() };
    let found = |policies: &[Policy]| {
        let mut found = Vec::new();
        ipsec::find((policies, Exempt::nothing()), &packets(), &mut found);
        found.into_iter().map(|it| format!("{}: {}", it.object, it.reason)).collect::<Vec<_>>()
    };
    let block = policy(Direction::Forward, "10.1.0.0/24", "10.0.0.0/8", Action::Block);
    let said = found(std::slice::from_ref(&block));
    assert!(
        said.len() == 1
            && said[0].starts_with("xfrm policy src 10.1.0.0/24 dst 10.0.0.0/8 dir fwd priority 9 action block: drops"),
        "{said:?}"
    );
    let protect = policy(Direction::Out, "0.0.0.0/0", "10.2.0.0/16", Action::Protect);
    assert!(found(std::slice::from_ref(&protect))[0].contains("wants IPsec"));
    for other in [
        policy(Direction::Out, "172.17.0.0/16", "10.2.0.0/16", Action::Block),
        policy(Direction::Out, "10.1.0.0/16", "192.168.0.0/16", Action::Protect),
        policy(Direction::Out, "fd00:1::/48", "fd00:7::/48", Action::Block),
        policy(Direction::Forward, "10.1.0.0/16", "10.2.0.0/16", Action::Allow),
        Policy { device: Some("uplink".parse().unwrap()), ..block.clone() },
    ] {
        assert!(found(std::slice::from_ref(&other)).is_empty(), "{other}");
    }
    assert_eq!(found(&[Policy { device: Some("cpspeer7".parse().unwrap()), ..block.clone() }]).len(), 1);
    // Accepted before it.
    let allow = policy(Direction::Forward, "10.0.0.0/8", "10.0.0.0/8", Action::Allow);
    assert!(found(&[allow.clone(), block.clone()]).is_empty());
    for some in [
        vec![block.clone(), allow.clone()],
        vec![Policy { upper: some_of_them, ..allow.clone() }, block.clone()],
        vec![Policy { direction: Direction::Out, ..allow.clone() }, block.clone()],
        vec![Policy { destination: "10.2.0.0/16".parse().unwrap(), ..allow }, block.clone()],
    ] {
        assert_eq!(found(&some).len(), 1, "{some:?}");
    }
    // All that VPCs can send passes, though not all that the default covers.
    let default = Policy::default_of(Direction::Forward, "0.0.0.0/0".parse().unwrap(), Action::Block);
    let allow = policy(Direction::Forward, "10.0.0.0/8", "10.0.0.0/8", Action::Allow);
    assert!(found(&[allow.clone(), default.clone()]).is_empty());
    let said = found(&[Policy { source: "10.1.0.0/24".parse().unwrap(), ..allow.clone() }, default.clone()]);
    assert!(
        said.len() == 1 && said[0].contains("xfrm policy default fwd: drops") && said[0].contains("setdefault"),
        "{said:?}"
    );
    let many = vec![block.clone(); 100];
    assert_eq!(found(&many).len(), 5, "not all of them are named");
    // For a path.
    let on_path = |policies: &[Policy]| {
        let [source, destination] = ["10.1.0.5", "10.2.0.5"].map(|text| text.parse().unwrap());
        let [from, to] = ["eth1", "cpspeer7"].map(|name| Some(name.parse().unwrap()));
        let flow = Flow::OfVpc { source, destination, from, vrf: "cpsvrf1".parse().unwrap(), to };
        let mut found = Vec::new();
        ipsec::touching((policies, Exempt::nothing()), &flow, &mut found);
        found.into_iter().map(|it| it.effect).collect::<Vec<_>>()
    };
    let some = Policy { upper: some_of_them, ..block.clone() };
    let elsewhere = Policy { source: "10.1.9.0/24".parse().unwrap(), ..block.clone() };
    for (policies, effects) in [
        (vec![block.clone()], vec![Effect::DropsAll]),
        (vec![some.clone()], vec![Effect::MayDrop]),
        (vec![protect.clone()], vec![Effect::MayDrop]),
        (vec![elsewhere.clone(), block.clone()], vec![Effect::DropsAll]),
        (vec![elsewhere], vec![]),
        // The first one that matches decides.
        (vec![Policy { source: "10.1.0.5/32".parse().unwrap(), ..allow.clone() }, block.clone()], vec![]),
        (vec![Policy { upper: some_of_them, ..allow.clone() }, block.clone()], vec![Effect::MayDrop]),
        (vec![some.clone(), allow.clone(), block.clone()], vec![Effect::MayDrop]),
        (vec![some, block.clone(), default.clone()], vec![Effect::MayDrop, Effect::MayDrop]),
        (vec![Policy { direction: Direction::Out, ..allow }, default], vec![Effect::DropsAll]),
    ] {
        assert_eq!(on_path(&policies), effects, "{policies:?}");
    }
}
