use super::*;
use crate::objects::firewall::state;
use nix::sched::{CloneFlags, unshare};
use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

/// What is read of what a command sets in a network namespace of its own, of which it is told on its input.
fn read_back(command: &[&str], rules: &str) -> Firewall {
    let (command, rules): (Vec<_>, _) = (command.iter().map(|part| (*part).to_owned()).collect(), rules.to_owned());
    thread::spawn(move || {
        // It takes root.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let mut child = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn().expect(&command[0]);
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{rules}");
        let names = BTreeMap::from([(1, "lo".parse().unwrap())]);
        rules_of(&names)
    })
    .join()
    .unwrap()
}

fn rules_of(names: &BTreeMap<u32, InterfaceName>) -> Firewall {
    super::rules(&mut Cache::default(), names).unwrap()
}

fn chain<'a>(firewall: &'a Firewall, name: &str) -> &'a Chain {
    firewall.chains.iter().find(|chain| chain.name == name).unwrap()
}

fn pattern(text: &str, open: bool) -> Pattern {
    Pattern { text: text.to_owned(), open }
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
                chain output { type filter hook output priority 0; }
            }
            table inet asleep { flags dormant; chain asleep { type filter hook input priority 0; policy drop; }; }
            table ip nat {
                chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade; }
            }
            table netdev raw { chain early { type filter hook ingress device lo priority 0; policy drop; }; }",
        );
    let forward = chain(&firewall, "forward");
    assert_eq!((forward.hook, forward.drops, &forward.scope), (Some(Hook::Forward), true, &Scope::Both));
    let net = |text: &str| text.parse().unwrap();
    let v4 = Match::Family(Family::V4, Sense::Is);
    let rules: Vec<(Vec<Match>, Verdict)> =
        forward.rules.iter().map(|rule| (rule.matches.clone(), rule.verdict.clone())).collect();
    let expected = [
        (vec![Match::In(pattern("cpsvrf", true), Sense::Is)], Verdict::Accept),
        (
            vec![Match::In(pattern("eth0", false), Sense::Is), Match::Out(pattern("eth1", false), Sense::IsNot)],
            Verdict::Drop("drop".into()),
        ),
        (vec![Match::In(pattern("lo", false), Sense::Is)], Verdict::Drop("reject".into())),
        (
            vec![
                v4.clone(),
                Match::Source(net("10.1.0.0/16"), Sense::Is),
                Match::Destination(net("10.2.128.0/17"), Sense::Is),
            ],
            Verdict::Jump("user".into()),
        ),
        (
            vec![Match::Family(Family::V6, Sense::Is), Match::Source(net("fd00:1::/48"), Sense::Is)],
            Verdict::Goto("user".into()),
        ),
    ];
    for (have, want) in rules.iter().zip(&expected) {
        assert_eq!(have, want);
    }
    assert_eq!(rules[5].1, Verdict::Drop("drop".into()));
    assert_eq!(rules[5].0, [Match::State(1, Sense::Is)], "and what is logged is no condition");
    assert_eq!(rules[6].0, [v4, Match::Source(net("10.1.2.3/32"), Sense::IsNot)]);
    assert!(matches!(rules[7].1, Verdict::Unclear(_)));
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
        [Match::Protocol(17, Sense::Is), Match::Other, to_client],
        "both ports are looked at together"
    );
    assert_eq!(odd[1].0[0], Match::In(pattern("eth0", false), Sense::Is));
    assert!(odd[1].0[1..].iter().all(|one| *one == Match::Other), "what is in a register is known, or nothing is");
    assert_eq!((odd[2].0, odd[2].1), (&[Match::Other][..], &Verdict::Drop("drop".into())), "a limit is a condition");
    assert_eq!((odd[3].0, odd[3].1), (&[][..], &Verdict::Accept), "a counter is none");
    assert!(firewall.chains.iter().all(|chain| chain.table != "asleep"), "the kernel evaluates nothing of it");
    let input = chain(&firewall, "input");
    assert_eq!((input.hook, chain(&firewall, "output").hook), (Some(Hook::Input), Some(Hook::Output)));
    let (udp, tcp) = (Match::Protocol(17, Sense::Is), Match::Protocol(6, Sense::Is));
    let ports = |ports: std::ops::RangeInclusive<u16>, sense| Match::DestinationPort(vec![ports], sense);
    let conditions: Vec<&[Match]> = input.rules.iter().map(|rule| &*rule.matches).collect();
    assert_eq!(conditions[0], [Match::State(6, Sense::Is)]);
    assert_eq!(conditions[1], [Match::State(state::NEW, Sense::IsNot)]);
    assert_eq!(conditions[2], [udp.clone(), ports(4789..=4789, Sense::Is)]);
    assert_eq!(conditions[3], [udp.clone(), ports(4000..=u16::MAX, Sense::Is), ports(0..=5000, Sense::Is)]);
    assert_eq!(conditions[4], [udp.clone(), ports(4789..=4790, Sense::IsNot)]);
    assert_eq!(conditions[5], [udp, Match::Other], "what is in a set is not read");
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
    let udp = Match::Protocol(17, Sense::Is);
    let conditions: Vec<&[Match]> = input.rules.iter().map(|rule| &*rule.matches).collect();
    assert_eq!(conditions[0], [udp.clone(), Match::DestinationPort(vec![4789..=4789], Sense::Is)]);
    assert_eq!(conditions[1], [udp, Match::DestinationPort(vec![53..=53, 4780..=4790], Sense::Is)]);
    assert_eq!(conditions[2], [Match::State(6, Sense::Is)]);
    assert_eq!(conditions[3], [Match::State(state::NEW, Sense::IsNot)]);
}
