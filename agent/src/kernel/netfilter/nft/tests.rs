use super::*;
use crate::{
    diff::{Beneath, Flow, touched_by},
    objects::{
        Effect, Family,
        firewall::{Match, Networks, Sense, Verdict, ethertype, state},
    },
};
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

/// Reads what a command sets in a new network namespace from rules on its standard input.
fn read_back(command: &[&str], rules: &str) -> Firewall {
    read_again(command, &[rules]).remove(0)
}

/// The same for several sets of rules, one after the other.
fn read_again(command: &[&str], rules: &[&str]) -> Vec<Firewall> {
    let set_and_read = || {
        // It needs root.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let mut cache = Cache::default();
        let names = BTreeMap::from([(1, "lo".parse().unwrap())]);
        let read = rules.iter().map(|rules| {
            let child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn();
            let mut child = child.expect(command[0]);
            child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "{rules}");
            super::rules(&mut cache, &names).unwrap()
        });
        read.collect()
    };
    thread::scope(|scope| scope.spawn(set_and_read).join().unwrap())
}

fn chain<'a>(firewall: &'a Firewall, name: &str) -> &'a Chain {
    firewall.chains.iter().find(|chain| chain.name == name).unwrap()
}

fn pattern(text: &str, open: bool) -> Pattern {
    Pattern { name: text.into(), open }
}

#[test]
fn rules_read_as_they_were_written() {
    let firewall = read_back(
            &["nft", "-f", "-"],
            "table inet filter {
                limit lov { rate over 1000/second }
                counter seen { }
                chain odd {
                    udp sport 67 udp dport 68 accept
                    iifname \"eth0\" fib daddr type local accept
                    limit name \"lov\" drop
                    counter name \"seen\" accept
                }
                chain forward {
                    type filter hook forward priority 0; policy drop;
                    iifname \"cpsvrf*\" accept
                    iifname \"eth0\" oifname != \"eth1\" counter drop
                    iif \"lo\" reject
                    ip saddr 10.1.0.0/16 ip daddr 10.2.128.0/17 jump user
                    ip6 saddr fd00:1::/48 goto user
                    ct state invalid log drop
                    ip saddr != 10.1.2.3 return
                    tcp dport vmap { 22 : drop, 80 : accept }
                }
                chain user { counter; }
                chain input {
                    type filter hook input priority 0; policy drop;
                    ct state established,related accept
                    ct state != new accept
                    udp dport 4789 accept
                    meta l4proto udp udp dport 4000-5000 drop
                    udp dport != 4789-4790 accept
                    udp dport { 53, 4789 } accept
                    tcp dport 22 accept
                }
                chain output { type filter hook output priority 0; meta mark set 7 counter; ct mark set 7; meta nftrace set 1; }
            }
            table inet asleep { flags dormant; chain asleep { type filter hook input priority 0; policy drop; }; }
            table ip nat {
                chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade; }
            }
            table netdev raw { chain early { type filter hook ingress device lo priority 0; policy drop; }; }",
        );
    let forward = chain(&firewall, "forward");
    assert_eq!((forward.hook, forward.drops, &forward.scope), (Some(Hook::Forward), true, &Scope::Both));
    let net = |text: &str| text.parse::<IpNet>().unwrap().into();
    let v4 = Match::Ethertype(vec![ethertype::IPV4], Sense::Is);
    let rules: Vec<(Vec<Match>, Verdict)> =
        forward.rules.iter().map(|rule| (rule.matches.clone(), rule.verdict.clone())).collect();
    let expected = [
        (vec![Match::In(vec![pattern("cpsvrf", true)], Sense::Is)], Verdict::Accept),
        (
            vec![
                Match::In(vec![pattern("eth0", false)], Sense::Is),
                Match::Out(vec![pattern("eth1", false)], Sense::IsNot),
            ],
            Verdict::Drop("drop".into()),
        ),
        (vec![Match::In(vec![pattern("lo", false)], Sense::Is)], Verdict::Drop("reject".into())),
        (
            vec![
                v4.clone(),
                Match::Source(net("10.1.0.0/16"), Sense::Is),
                Match::Destination(net("10.2.128.0/17"), Sense::Is),
            ],
            Verdict::Jump("user".into()),
        ),
        (
            vec![Match::Ethertype(vec![ethertype::IPV6], Sense::Is), Match::Source(net("fd00:1::/48"), Sense::Is)],
            Verdict::Goto("user".into()),
        ),
    ];
    for (have, want) in rules.iter().zip(&expected) {
        assert_eq!(have, want);
    }
    assert_eq!(rules[5].1, Verdict::Drop("drop".into()));
    assert_eq!(rules[5].0, [Match::State(1, Sense::Is)], "and what is logged is no condition");
    assert_eq!(rules[6].0, [v4, Match::Source(net("10.1.2.3/32"), Sense::IsNot)]);
    let tcp_to =
        |port: u16| vec![Match::Protocol(vec![6], Sense::Is), Match::DestinationPort(vec![port..=port], Sense::Is)];
    assert_eq!(rules[7..], [(tcp_to(80), Verdict::Accept), (tcp_to(22), Verdict::Drop("drop".into()))]);
    let post = chain(&firewall, "post");
    assert_eq!(post.hook, Some(Hook::Postrouting));
    assert_eq!(post.rules[0].verdict, Verdict::Translate("masquerade".into()));
    assert_eq!(post.rules[0].matches[0], Match::Source(net("172.17.0.0/16"), Sense::Is));
    assert_eq!(chain(&firewall, "early").scope, Scope::Devices(vec![pattern("lo", false)]));
    let odd: Vec<(&[Match], &Verdict)> =
        chain(&firewall, "odd").rules.iter().map(|rule| (&*rule.matches, &rule.verdict)).collect();
    let to_client = Match::DestinationPort(vec![68..=68], Sense::Is);
    assert_eq!(
        odd[0].0,
        [Match::Protocol(vec![17], Sense::Is), Match::Other, to_client],
        "both ports are compared together"
    );
    assert_eq!(odd[1].0[0], Match::In(vec![pattern("eth0", false)], Sense::Is));
    assert!(odd[1].0[1..].iter().all(|one| *one == Match::Other), "what is in a register is known, or nothing is");
    assert_eq!((odd[2].0, odd[2].1), (&[Match::Other][..], &Verdict::Drop("drop".into())), "a limit is a condition");
    assert_eq!((odd[3].0, odd[3].1), (&[][..], &Verdict::Accept), "a counter is none");
    assert!(firewall.chains.iter().all(|chain| chain.table != "asleep"), "the kernel evaluates nothing of it");
    let input = chain(&firewall, "input");
    assert_eq!((input.hook, chain(&firewall, "output").hook), (Some(Hook::Input), Some(Hook::Output)));
    let marks: Vec<bool> = chain(&firewall, "output").rules.iter().map(|rule| rule.marks).collect();
    assert_eq!(marks, [true, false, false], "the mark of a connection is not that of a packet");
    let (udp, tcp) = (Match::Protocol(vec![17], Sense::Is), Match::Protocol(vec![6], Sense::Is));
    let ports = |ports: std::ops::RangeInclusive<u16>, sense| Match::DestinationPort(vec![ports], sense);
    let conditions: Vec<&[Match]> = input.rules.iter().map(|rule| &*rule.matches).collect();
    assert_eq!(conditions[0], [Match::State(6, Sense::Is)]);
    assert_eq!(conditions[1], [Match::State(state::NEW, Sense::IsNot)]);
    assert_eq!(conditions[2], [udp.clone(), ports(4789..=4789, Sense::Is)]);
    assert_eq!(conditions[3], [udp.clone(), ports(4000..=u16::MAX, Sense::Is), ports(0..=5000, Sense::Is)]);
    assert_eq!(conditions[4], [udp.clone(), ports(4789..=4790, Sense::IsNot)]);
    assert_eq!(conditions[5], [udp, Match::DestinationPort(vec![53..=53, 4789..=4789], Sense::Is)]);
    assert_eq!(conditions[6], [tcp, ports(22..=22, Sense::Is)]);
}

#[test]
fn what_iptables_makes_of_its_rules_is_read() {
    let firewall = read_back(
        &["iptables-nft-restore"],
        "*filter
:INPUT DROP
-A INPUT -p udp --dport 4789 -j ACCEPT
-A INPUT -p udp -m multiport --dports 53,4780:4790 -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m state ! --state NEW -m comment --comment why -j DROP
COMMIT
",
    );
    let input = chain(&firewall, "INPUT");
    assert_eq!((input.hook, input.drops), (Some(Hook::Input), true));
    let udp = Match::Protocol(vec![17], Sense::Is);
    let conditions: Vec<&[Match]> = input.rules.iter().map(|rule| &*rule.matches).collect();
    assert_eq!(conditions[0], [udp.clone(), Match::DestinationPort(vec![4789..=4789], Sense::Is)]);
    assert_eq!(conditions[1], [udp, Match::DestinationPort(vec![53..=53, 4780..=4790], Sense::Is)]);
    assert_eq!(conditions[2], [Match::State(6, Sense::Is)]);
    assert_eq!(conditions[3], [Match::State(state::NEW, Sense::IsNot)]);
}

fn rules_in(firewall: &Firewall, name: &str) -> Vec<(Vec<Match>, Verdict)> {
    chain(firewall, name).rules.iter().map(|rule| (rule.matches.clone(), rule.verdict.clone())).collect()
}

fn networks(texts: &[&str]) -> Networks {
    texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
}

#[test]
fn what_is_in_sets_and_maps_of_verdicts_is_read() {
    use {Sense::Is, Sense::IsNot, Verdict::Accept};
    let firewall = read_back(
        &["nft", "-f", "-"],
        "table inet filter {
            set trusted { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7-198.51.100.9 }; }
            set six { type ipv6_addr; elements = { 2001:db8::1, 2001:db8::2 }; }
            set none { type ipv4_addr; }
            set counted { type ipv4_addr; counter; elements = { 192.0.2.9 }; }
            set rest { type ipv4_addr; elements = { 192.0.2.9, * }; }
            map doors { type ifname : verdict; elements = { \"lo\" : accept, \"eth1\" : jump other }; }
            chain other { }
            chain sets {
                ct state { established, related } accept
                ct state vmap { established : accept, related : accept, invalid : drop }
                ct status dnat accept
                udp dport { 53, 4780-4790, 60000-65535 } accept
                udp dport != { 53, 443 } accept
                ip saddr @trusted accept
                ip6 daddr != @six drop
                ip saddr @none drop
                ip saddr @counted drop
                meta l4proto { icmp, ipv6-icmp } accept
                meta nfproto { ipv4, ipv6 } accept
                iifname { \"lo\", \"docker*\" } accept
                oifname != { \"eth0\", \"eth1\" } accept
                iif { \"lo\" } accept
                iifname vmap @doors
                ip daddr vmap { 192.0.2.1 : accept, * : drop }
                tcp dport vmap { 0-1023 : goto other, 1024-65535 : return }
            }
        }",
    );
    let drop = || Verdict::Drop("drop".into());
    let (v4, v6) = (Match::Ethertype(vec![ethertype::IPV4], Is), Match::Ethertype(vec![ethertype::IPV6], Is));
    let (udp, tcp) = (Match::Protocol(vec![17], Is), Match::Protocol(vec![6], Is));
    let named = |names: &[&str]| names.iter().map(|name| pattern(name, false)).collect::<Vec<_>>();
    let expected = [
        (vec![Match::State(6, Is)], Accept),
        (vec![Match::State(6, Is)], Accept),
        (vec![Match::State(1, Is)], drop()),
        (vec![Match::State(state::DNAT, Is)], Accept),
        (vec![udp.clone(), Match::DestinationPort(vec![53..=53, 4780..=4790, 60000..=65535], Is)], Accept),
        (vec![udp, Match::DestinationPort(vec![53..=53, 443..=443], IsNot)], Accept),
        (
            vec![v4.clone(), Match::Source(networks(&["192.0.2.0/24", "198.51.100.7/32", "198.51.100.8/31"]), Is)],
            Accept,
        ),
        (vec![v6, Match::Destination(networks(&["2001:db8::1/128", "2001:db8::2/128"]), IsNot)], drop()),
        (vec![v4.clone(), Match::Source(networks(&[]), Is)], drop()),
        (vec![v4.clone(), Match::Source(networks(&["192.0.2.9/32"]), Is)], drop()),
        (vec![Match::Protocol(vec![1, 58], Is)], Accept),
        (vec![Match::Ethertype(vec![ethertype::IPV4, ethertype::IPV6], Is)], Accept),
        (vec![Match::In(vec![pattern("docker", true), pattern("lo", false)], Is)], Accept),
        (vec![Match::Out(named(&["eth0", "eth1"]), IsNot)], Accept),
        (vec![Match::In(named(&["lo"]), Is)], Accept),
        (vec![Match::In(named(&["lo"]), Is)], Accept),
        (vec![Match::In(named(&["eth1"]), Is)], Verdict::Jump("other".into())),
        (vec![v4.clone(), Match::Destination(networks(&["192.0.2.1/32"]), Is)], Accept),
        (vec![v4, Match::Destination(networks(&["192.0.2.1/32"]), IsNot)], drop()),
        (vec![tcp.clone(), Match::DestinationPort(vec![1024..=65535], Is)], Verdict::Return),
        (vec![tcp, Match::DestinationPort(vec![0..=1023], Is)], Verdict::Goto("other".into())),
    ];
    let found = rules_in(&firewall, "sets");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// If a set's content is not certain, a rule may or may not match packets.
#[test]
fn sets_that_packets_change_and_sets_of_other_things_are_unknown() {
    let many = (1..=4200).map(|number| format!("10.0.{}.{}", number / 250, number % 250));
    let rules = format!(
        "table inet filter {{
            set fading {{ type ipv4_addr; flags timeout; elements = {{ 192.0.2.1 timeout 1h }}; }}
            set growing {{ type ipv4_addr; flags dynamic; size 9; }}
            set pairs {{ type ipv4_addr . inet_service; elements = {{ 192.0.2.1 . 4789 }}; }}
            set limited {{ type ipv4_addr; limit rate 1/second; elements = {{ 192.0.2.1 }}; }}
            set many {{ type ipv4_addr; elements = {{ {} }}; }}
            set rest {{ type ipv4_addr; elements = {{ 192.0.2.9, * }}; }}
            map marks {{ type ipv4_addr : mark; elements = {{ 192.0.2.1 : 7 }}; }}
            map fading_too {{ type inet_service : verdict; flags timeout; elements = {{ 4789 timeout 1h : drop }}; }}
            chain unknown {{
                ip saddr @fading accept
                ip saddr @growing accept
                ip saddr . udp dport @pairs accept
                ip saddr @limited accept
                ip saddr @many accept
                ip saddr @rest accept
                meta mark set ip saddr map @marks accept
                icmp type {{ echo-request, echo-reply }} accept
                ct state != {{ new, established }} ct mark {{ 1, 2 }} accept
                ct status != dnat accept
                udp dport vmap @fading_too
            }}
        }}",
        many.collect::<Vec<_>>().join(", ")
    );
    let firewall = read_back(&["nft", "-f", "-"], &rules);
    let mut unknown = rules_in(&firewall, "unknown");
    let (of_map, verdict) = unknown.pop().unwrap();
    assert_eq!(
        (of_map, verdict),
        (vec![Match::Protocol(vec![17], Sense::Is)], Verdict::Unclear("verdict map".to_owned()))
    );
    assert_eq!(unknown.len(), 10);
    for (matches, verdict) in unknown {
        assert!(matches.last() == Some(&Match::Other) && verdict == Verdict::Accept, "{matches:?} {verdict:?}");
        assert!(!matches.iter().any(|one| matches!(one, Match::Source(..))), "{matches:?}");
    }
}

#[test]
fn what_is_added_to_a_set_is_seen() {
    let table = "table inet filter {
        set open { type inet_service; elements = { 22 }; }
        chain input { type filter hook input priority 0; policy drop; udp dport @open accept; }
    }";
    let more = ["add element inet filter open { 4789 }", "delete element inet filter open { 22 }"];
    let looks = read_again(&["nft", "-f", "-"], &[&[table], &more[..]].concat());
    let ports = looks.iter().map(|firewall| match &chain(firewall, "input").rules[0].matches[1] {
        Match::DestinationPort(ports, Sense::Is) => ports.iter().map(|range| *range.start()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    });
    assert_eq!(ports.collect::<Vec<_>>(), [vec![22], vec![22, 4789], vec![4789]]);
}

/// Nothing in the set itself shows that.
#[test]
fn a_set_to_which_a_later_rule_lets_packets_add_is_unknown() {
    let table = "table inet filter {
        set fed { type ipv4_addr; elements = { 192.0.2.1 }; }
        chain input { ip saddr @fed accept; }
        chain fills { }
    }";
    let looks = read_again(&["nft", "-f", "-"], &[table, "add rule inet filter fills add @fed { ip saddr }"]);
    let conditions: Vec<_> = looks.iter().map(|firewall| &chain(firewall, "input").rules[0].matches[1]).collect();
    assert_eq!(conditions, [&Match::Source(networks(&["192.0.2.1/32"]), Sense::Is), &Match::Other]);
}

/// The effects on VXLAN packets that arrive at a host.
fn arriving(rules: &str) -> Vec<Effect> {
    let flow = |other: &str| Flow::BetweenHosts {
        local: "192.0.2.1".parse().unwrap(),
        other: other.parse().unwrap(),
        device: Some("eth0".parse().unwrap()),
        port: 4789,
        arrives: true,
    };
    let (firewall, links) = (read_back(&["nft", "-f", "-"], rules), BTreeMap::new());
    touched_by(&firewall, &Beneath::new(&links), &flow("192.0.2.2")).into_iter().map(|it| it.effect).collect()
}

/// As it writes them, with one zone.
fn firewalld(allowed: &str) -> String {
    format!(
        "table inet firewalld {{
            chain filter_PREROUTING {{
                type filter hook prerouting priority filter + 10; policy accept;
                icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
                meta nfproto ipv6 fib saddr . mark . iif oif missing drop
            }}
            chain filter_INPUT {{
                type filter hook input priority filter + 10; policy accept;
                ct state {{ established, related }} accept
                ct status dnat accept
                iifname \"lo\" accept
                ct state invalid drop
                jump filter_INPUT_ZONES
                reject with icmpx admin-prohibited
            }}
            chain filter_INPUT_POLICIES_pre {{ jump filter_IN_policy_allow-host-ipv6; }}
            chain filter_IN_policy_allow-host-ipv6 {{
                icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-redirect }} accept
            }}
            chain filter_INPUT_ZONES {{
                iifname \"eth0\" goto filter_IN_public
                goto filter_IN_public
            }}
            chain filter_IN_public {{
                jump filter_INPUT_POLICIES_pre
                jump filter_IN_public_deny
                jump filter_IN_public_allow
                meta l4proto {{ icmp, ipv6-icmp }} accept
                reject with icmpx admin-prohibited
            }}
            chain filter_IN_public_deny {{ }}
            chain filter_IN_public_allow {{
                tcp dport 22 accept
                ip6 daddr fe80::/64 udp dport 546 accept
                {allowed}
            }}
        }}"
    )
}

#[test]
fn firewalls_with_sets_are_judged_as_the_kernel_does() {
    assert_eq!(arriving(&firewalld("")), [Effect::DropsAll], "nothing lets them pass");
    assert_eq!(arriving(&firewalld("udp dport 4789 accept")), []);
    assert_eq!(arriving(&firewalld("udp dport { 443, 4789 } accept")), []);
    assert_eq!(arriving(&firewalld("ip saddr { 192.0.2.0-192.0.2.127 } accept")), []);
    assert_eq!(arriving(&firewalld("ip saddr { 192.0.2.128/25 } accept")), [Effect::DropsAll]);
    // A server's rules from the nftables wiki.
    let server = |open: &str| {
        format!(
            "table inet firewall {{
                set trusted {{ type ipv4_addr; flags interval; elements = {{ 192.0.2.2-192.0.2.3 }}; }}
                set guests {{ type ipv4_addr; flags timeout; }}
                chain inbound_ipv4 {{ icmp type echo-request limit rate 5/second accept; }}
                chain inbound_ipv6 {{
                    icmpv6 type {{ nd-neighbor-solicit, nd-router-advert, nd-neighbor-advert }} accept
                }}
                chain inbound {{
                    type filter hook input priority 0; policy drop;
                    ct state vmap {{ established : accept, related : accept, invalid : drop }}
                    iifname lo accept
                    meta protocol vmap {{ ip : jump inbound_ipv4, ip6 : jump inbound_ipv6 }}
                    tcp dport {{ 22, 80, 443 }} accept
                    {open}
                }}
                chain forward {{ type filter hook forward priority 0; policy drop; }}
            }}"
        )
    };
    assert_eq!(arriving(&server("")), [Effect::DropsAll]);
    assert_eq!(arriving(&server("udp dport { 443, 4789 } accept")), []);
    assert_eq!(arriving(&server("udp dport vmap { 53 : drop, 4789 : accept }")), []);
    assert_eq!(arriving(&server("udp dport vmap { 53 : accept, 4789 : drop }")), [Effect::DropsAll]);
    assert_eq!(arriving(&server("ip saddr @trusted accept")), []);
    assert_eq!(arriving(&server("ip saddr != @trusted accept")), [Effect::DropsAll]);
    assert_eq!(arriving(&server("ip saddr @guests accept")), [Effect::MayDrop], "its elements expire");
}

/// Names are bytes; those that are displayed alike are kept apart.
#[test]
fn names_that_are_shown_alike_are_kept_apart() {
    let firewall = read_back(
        &["iptables-nft-restore"],
        "*filter
:FORWARD ACCEPT [0:0]
:é - [0:0]
:\\xc3\\xa9 - [0:0]
-A FORWARD -i é -j é
-A FORWARD -i \\xc3\\xa9 -j \\xc3\\xa9
-A é -j DROP
COMMIT
",
    );
    let device = |name: &str| Match::In(vec![pattern(name, false)], Sense::Is);
    let rules: Vec<_> = rules_in(&firewall, "FORWARD");
    let [(first, Verdict::Jump(to)), (second, Verdict::Jump(to_other))] = rules.as_slice() else { panic!("{rules:?}") };
    assert_eq!((&first[..], &second[..]), (&[device("é")][..], &[device("\\xc3\\xa9")][..]));
    assert_eq!((chain(&firewall, to).rules.len(), chain(&firewall, to_other).rules.len()), (1, 0), "{to} {to_other}");
}

#[test]
fn rules_of_bridges_read_as_they_were_written() {
    let firewall = read_back(
        &["nft", "-f", "-"],
        "table bridge filter {
            set open { type ifname; elements = { \"tap1\" }; }
            chain input {
                type filter hook input priority 0; policy drop;
                iifname \"tap*\" ether type ip ip saddr 10.1.0.0/16 accept
                iifname @open ether type ip6 accept
                udp dport 4789 accept
                ether saddr 02:00:00:00:00:01 drop
            }
        }",
    );
    let input = chain(&firewall, "input");
    assert_eq!(
        (input.family, input.hook, input.drops, &input.scope),
        ("bridge", Some(Hook::Input), true, &Scope::Bridge)
    );
    let family = |family: Family| Match::Ethertype(vec![family.ethertype()], Sense::Is);
    let from = |name: &str, open| Match::In(vec![pattern(name, open)], Sense::Is);
    let source = Match::Source("10.1.0.0/16".parse::<IpNet>().unwrap().into(), Sense::Is);
    let rules = rules_in(&firewall, "input");
    assert_eq!(rules[0].0, [from("tap", true), family(Family::V4), source]);
    assert_eq!(rules[1].0, [from("tap1", false), family(Family::V6)]);
    assert!(rules[2].0.contains(&Match::DestinationPort(vec![4789..=4789], Sense::Is)), "{:?}", rules[2]);
    assert_eq!(rules[3].0, [Match::Other]);
}

/// arptables writes conditions that hold for each message on Ethernet.
#[test]
fn rules_about_arp_and_neighbour_discovery_are_read() {
    let firewall = read_back(
        &["nft", "-f", "-"],
        "table arp filter {
            chain input {
                type filter hook input priority 0; policy drop;
                iifname \"eth1\" arp htype 1 arp hlen 6 arp plen 4 arp ptype 0x0800 accept
                arp hlen != 6 drop
                arp operation request drop
                arp saddr ip 10.1.0.2 drop
            }
            chain output { type filter hook output priority 0; }
        }
        table netdev raw { chain early { type filter hook ingress device lo priority 0; ether type arp drop; ether type { arp, ip } drop; }; }
        table inet filter {
            chain types {
                icmpv6 type nd-neighbor-solicit accept
                icmpv6 type { echo-request, nd-neighbor-advert } accept
            }
        }",
    );
    let matches = |name: &str| -> Vec<Vec<Match>> {
        chain(&firewall, name).rules.iter().map(|rule| rule.matches.clone()).collect()
    };
    let arp = |sense| Match::Ethertype(vec![ethertype::ARP], sense);
    let input = chain(&firewall, "input");
    assert_eq!((&input.scope, input.hook, input.drops), (&Scope::Arp, Some(Hook::Input), true));
    assert_eq!(chain(&firewall, "output").hook, Some(Hook::Output));
    let rules = matches("input");
    assert_eq!(rules[0][0], Match::In(vec![pattern("eth1", false)], Sense::Is));
    assert!(rules[0][1..].iter().all(|one| *one == arp(Sense::Is)), "{:?}", rules[0]);
    assert_eq!(rules[1], [arp(Sense::IsNot)]);
    assert_eq!(rules[2], [Match::ArpOperation(vec![1], Sense::Is)]);
    assert!(rules[3].contains(&Match::Other), "{:?}", rules[3]);
    let early = matches("early");
    let ether = Match::Ethernet(Sense::Is);
    let both = Match::Ethertype(vec![ethertype::IPV4, ethertype::ARP], Sense::Is);
    assert_eq!(early, [vec![ether.clone(), arp(Sense::Is)], vec![ether, both]]);
    let icmp = |types: &[u8]| {
        let family = Match::Ethertype(vec![ethertype::IPV6], Sense::Is);
        vec![family, Match::Protocol(vec![58], Sense::Is), Match::IcmpType(types.to_vec(), Sense::Is)]
    };
    assert_eq!(matches("types"), [icmp(&[135]), icmp(&[128, 136])]);
}
