//! What keeps servers and gateways from resolving each other.

use super::*;

/// What keeps the servers behind eth1 (both families) and eth2 (IPv4) from being resolved.
fn resolution(firewall: Firewall) -> Vec<String> {
    let config: HostConfig = serde_json::from_str(
        r#"{ "revision": { "epoch": 1, "number": 1 }, "host": "h1", "underlay": "192.0.2.1", "vrfs": { "vpc-a": { "vni": 1, "ports": {
            "eth1": { "gateways": ["10.1.0.1/24", "fd00:1::1/64"], "prefixes": ["10.1.0.0/24", "fd00:1::/64"] },
            "eth2": { "gateways": ["10.1.1.1/24"], "prefixes": ["10.1.1.0/24"] } } } } }"#,
    )
    .unwrap();
    let config: ValidHostConfig = config.try_into().unwrap();
    let params = UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 };
    let desired = compile(&config, params, &DirtySet::Everything);
    let observed = Observed { firewall, ..Observed::default() };
    let found = crate::diff::diff(&desired, &observed).interference.into_iter();
    found.map(|it| format!("{}: {}", it.object, it.reason)).collect()
}

#[test]
fn rules_that_keep_servers_and_gateways_from_resolving_each_other_are_found() {
    const ICMPV6: u8 = 58;
    let v6 = || Match::Ethertype(vec![Family::V6.ethertype()], Sense::Is);
    let icmp =
        |types: &[u8]| vec![Match::Protocol(vec![ICMPV6], Sense::Is), Match::IcmpType(types.to_vec(), Sense::Is)];
    let count = |scope: &Scope, hook: Hook, drops: bool, rules: Vec<FilterRule>| {
        resolution(firewall(Backend::Nftables, scope, hook, drops, vec![("input", rules)])).len()
    };
    let input = |drops: bool, rules: Vec<FilterRule>| count(&Scope::Ip(Family::V6), Hook::Input, drops, rules);
    assert_eq!(input(false, vec![]), 0);
    assert_eq!(input(true, vec![]), 1, "the policy");
    assert_eq!(input(false, vec![rule(vec![Match::Protocol(vec![ICMPV6], Sense::Is)], drop())]), 1);
    assert_eq!(input(false, vec![rule(vec![Match::Protocol(vec![6, 17], Sense::Is)], drop())]), 0);
    for one in [135, 136] {
        assert_eq!(input(false, vec![rule(icmp(&[one]), drop())]), 1, "{one} alone is enough");
        assert_eq!(input(true, vec![rule(icmp(&[one]), Verdict::Accept)]), 1, "the other one is dropped");
    }
    assert_eq!(input(false, vec![rule(icmp(&[128, 133, 134]), drop())]), 0);
    // As ufw, firewalld and Debian's examples do.
    let accept = |types: &[u8]| rule(icmp(types), Verdict::Accept);
    let established = rule(vec![Match::State(state::NEW << 1 | 2, Sense::Is)], Verdict::Accept);
    let invalid = rule(vec![Match::State(1, Sense::Is)], drop());
    assert_eq!(input(true, vec![established.clone(), invalid, accept(&[128, 135]), accept(&[136])]), 0);
    assert_eq!(input(true, vec![established, accept(&[128])]), 1, "nothing of it is tracked");
    let limited = rule([icmp(&[135, 136]), vec![Match::Other]].concat(), Verdict::Accept);
    assert_eq!(input(true, vec![limited]), 0, "some may pass");
    // One port of several.
    assert_eq!(input(false, vec![rule(vec![from("eth1")], drop())]), 1);
    assert_eq!(input(false, vec![rule(vec![from("eth2")], drop())]), 0, "there is no IPv6");
    assert_eq!(input(true, vec![rule(vec![from("eth*")], Verdict::Accept)]), 0);
    assert_eq!(input(true, vec![rule(vec![from("cpsvrf*")], Verdict::Accept)]), 1, "they come from the port");
    let output = |rules| count(&Scope::Both, Hook::Output, false, rules);
    assert_eq!(output(vec![rule([vec![to("eth1", Sense::Is)], icmp(&[136])].concat(), drop())]), 1);
    assert_eq!(output(vec![rule([vec![to("uplink", Sense::Is)], icmp(&[136])].concat(), drop())]), 0);
    // ARP has chains of its own, or passes those of a device or bridge.
    let arp = |hook, drops, rules| count(&Scope::Arp, hook, drops, rules);
    assert_eq!((arp(Hook::Input, true, vec![]), arp(Hook::Output, true, vec![])), (1, 1));
    assert_eq!(arp(Hook::Forward, true, vec![]), 0);
    assert_eq!(arp(Hook::Input, false, vec![rule(vec![from("eth2")], drop())]), 1);
    assert_eq!(arp(Hook::Input, false, vec![rule(vec![from("uplink")], drop())]), 0);
    let operation = |operation: u16, sense| vec![rule(vec![Match::ArpOperation(vec![operation], sense)], drop())];
    assert_eq!(arp(Hook::Input, false, operation(1, Sense::Is)), 1);
    assert_eq!(arp(Hook::Input, false, operation(8, Sense::Is)), 0);
    assert_eq!(arp(Hook::Input, false, operation(2, Sense::IsNot)), 1);
    assert_eq!(arp(Hook::Input, false, vec![rule(vec![Match::Other], drop())]), 0, "one of many servers");
    let on_device = Scope::Devices(vec![pattern("eth2")]);
    let kind = |ethertype: u16| vec![rule(vec![Match::Ethertype(vec![ethertype], Sense::Is)], drop())];
    assert_eq!(count(&on_device, Hook::Ingress, false, kind(0x0806)), 1);
    assert_eq!(count(&on_device, Hook::Egress, false, kind(0x88cc)), 0);
    assert_eq!(count(&Scope::Ip(Family::V4), Hook::Input, true, vec![]), 0, "what the gateway itself is sent");
    assert_eq!(count(&Scope::Both, Hook::Input, false, vec![rule(vec![v6()], drop())]), 1);
    // The line that exempts them.
    let texts =
        |backend, scope: &Scope, hook| resolution(firewall(backend, scope, hook, true, vec![("input", vec![])]));
    assert_eq!(
        texts(Backend::Nftables, &Scope::Both, Hook::Input),
        [
            "nft inet filter input policy drop: drops neighbour discovery of servers, and IPv6 of VPCs with it: nft insert rule inet \
          filter input iifname \"DEVICE\" meta l4proto ipv6-icmp accept, for each port, exempts them"
        ]
    );
    assert_eq!(
        texts(Backend::Legacy, &Scope::Arp, Hook::Output),
        [
            "arptables-legacy -t filter input policy drop: drops ARP of servers, and IPv4 of VPCs with it: arptables-legacy -t filter -I \
          input -o DEVICE -j ACCEPT, for each port, exempts them"
        ]
    );
}

#[test]
fn a_path_shows_what_keeps_its_server_from_being_resolved() {
    let on = |scope: &Scope, rules: Vec<FilterRule>, policies: Vec<Policy>, server: &str| {
        let chains = firewall(Backend::Nftables, scope, Hook::Input, false, vec![("input", rules)]).chains;
        let firewall = Firewall { chains, policies, ..Firewall::default() };
        let [port, vrf] = ["eth1", "cpsvrf1"].map(|name| name.parse().unwrap());
        let flow = Flow::Resolution { port, vrf, server: server.parse().unwrap() };
        touched_by(&firewall, &Beneath::new(&BTreeMap::new()), &flow).len()
    };
    let dropping = |device: &str| vec![rule(vec![from(device)], drop())];
    assert_eq!(on(&Scope::Arp, dropping("eth1"), vec![], "10.1.0.2"), 1);
    assert_eq!(on(&Scope::Arp, dropping("eth2"), vec![], "10.1.0.2"), 0);
    assert_eq!(on(&Scope::Arp, dropping("eth1"), vec![], "fd00:1::2"), 0);
    assert_eq!(on(&Scope::Ip(Family::V6), dropping("eth1"), vec![], "fd00:1::2"), 1);
    let ipsec = |direction| vec![Policy::default_of(direction, "::/0".parse().unwrap(), Action::Block)];
    assert_eq!(on(&Scope::Arp, vec![], ipsec(Direction::In), "fd00:1::2"), 1);
    assert_eq!(on(&Scope::Arp, vec![], ipsec(Direction::In), "10.1.0.2"), 0);
    assert_eq!(on(&Scope::Arp, vec![], ipsec(Direction::Forward), "fd00:1::2"), 0);
}
