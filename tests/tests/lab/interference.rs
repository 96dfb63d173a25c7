//! Objects of others that can affect packets of VPCs are named, and while they exist the host is not in sync.

use crate::{
    drift::{Names, peered},
    reach_each_other,
};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{
    Lab,
    lab::Host,
    wait::{self, SOON},
};

/// What is done on h1, what undoes it, and the object that must be named.
type Case = (&'static str, &'static str, &'static str);

/// Attaches an XDP program, which `ip` does only with a file that a compiler has made.
macro_rules! xdp {
    ($arguments:literal) => {
        concat!("python3 '", env!("CARGO_MANIFEST_DIR"), "/tests/lab/xdp.py' ", $arguments)
    };
}

fn sh(host: &Host, line: &str) -> Result<()> {
    host.netns().sh(line).map(drop)
}

/// Each of them is reported while it exists, and nothing after it is gone.
fn are_named(lab: &Lab, cases: &[Case]) -> Result<()> {
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let mut failed = Vec::new();
    for (add, remove, object) in cases {
        let (add, remove, object) = (names.filled(add), names.filled(remove), names.filled(object));
        let named = || -> Result<()> {
            sh(host, &add)?;
            wait::until("it is named", SOON, || {
                let report = host.report()?;
                ensure!(
                    report.problems.iter().any(|problem| problem.object.contains(&object)),
                    "{:?}",
                    report.problems
                );
                ensure!(!report.in_sync());
                Ok(Some(()))
            })
        };
        let named = named();
        let in_sync = sh(host, &remove).and_then(|()| lab.wait_for_agent("h1").map(drop));
        for error in [named.err(), in_sync.err()].into_iter().flatten() {
            failed.push(format!("`{add}`: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    Ok(())
}

#[test]
fn routes_and_addresses_of_others_in_a_vpc_are_named() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    are_named(
        &lab,
        &[
            (
                // The kernel announces it like any other route of the host: the next observation sees it.
                "ip route add 10.1.0.0/24 dev {vrf} table main; ip link set eth1 alias looked",
                "ip route del 10.1.0.0/24 dev {vrf} table main; ip link set eth1 alias looked-again",
                "route 10.1.0.0/24 dev {vrf} table 254",
            ),
            (
                "ip route add default dev uplink table {table} proto dhcp",
                "ip route del default dev uplink table {table}",
                "route 0.0.0.0/0 dev uplink table {table} proto dhcp",
            ),
            (
                "ip -6 route add default via fe80::1 dev uplink table {table} proto ra",
                "ip -6 route del default dev uplink table {table}",
                "route ::/0 dev uplink table {table} proto ra",
            ),
            (
                "ip route add 10.2.1.7 dev uplink table {table} proto zebra",
                "ip route del 10.2.1.7 table {table}",
                "route 10.2.1.7/32 dev uplink",
            ),
            (
                "ip route add throw 203.0.113.0/24 table {table}",
                "ip route del throw 203.0.113.0/24 table {table}",
                "route 203.0.113.0/24 type throw",
            ),
            (
                "ip route add 10.8.0.0/16 dev {other_vrf} table {table} proto static",
                "ip route del 10.8.0.0/16 table {table}",
                "route 10.8.0.0/16 dev {other_vrf}",
            ),
            (
                "ip route add 10.8.0.0/16 table {table} nexthop dev eth1 nexthop dev eth2",
                "ip route del 10.8.0.0/16 table {table}",
                "route 10.8.0.0/16",
            ),
            (
                "ip route add 10.1.0.0/24 table main nexthop dev uplink nexthop dev {vrf}; ip link set eth1 alias looked",
                "ip route del 10.1.0.0/24 table main; ip link set eth1 alias looked-again",
                "route 10.1.0.0/24 dev {vrf} dev uplink table 254",
            ),
            (
                "ip -6 route add fd00:1:0:9::/64 table main nexthop via fe80::9 dev uplink nexthop via fe80::9 dev {vrf}; \
                 ip link set eth1 alias looked",
                "ip -6 route del fd00:1:0:9::/64 table main; ip link set eth1 alias looked-again",
                "route fd00:1:0:9::/64 dev {vrf} dev uplink table 254",
            ),
            (
                "ip nexthop add id 71 dev uplink; ip nexthop add id 72 dev {vrf}; ip nexthop add id 73 group 71/72; \
                 ip route add 10.1.0.0/24 table main nhid 73; ip link set eth1 alias looked",
                "ip nexthop del id 73; ip nexthop del id 72; ip nexthop del id 71; ip link set eth1 alias looked-again",
                "route 10.1.0.0/24 dev {vrf} dev uplink table 254",
            ),
            (
                // The kernel does not show where the route leads then.
                "sysctl -qw net.ipv4.nexthop_compat_mode=0; ip nexthop add id 71 dev uplink; ip nexthop add id 72 dev {vrf}; \
                 ip nexthop add id 73 group 71/72; ip route add 10.1.0.0/24 table main nhid 73; ip link set eth1 alias looked",
                "ip nexthop del id 73; ip nexthop del id 72; ip nexthop del id 71; sysctl -qw net.ipv4.nexthop_compat_mode=1; \
                 ip link set eth1 alias looked-again",
                "route 10.1.0.0/24 dev {vrf} dev uplink table 254",
            ),
            (
                "ip nexthop add id 71 dev uplink; ip route add 10.8.0.0/16 table {table} nhid 71",
                "ip nexthop del id 71",
                "route 10.8.0.0/16 dev uplink table {table}",
            ),
            (
                "ip -6 route add fd00:8::/48 table {table} proto kernel nexthop via fe80::9 dev uplink nexthop via fe80::9 dev eth1",
                "ip -6 route del fd00:8::/48 table {table}",
                "route fd00:8::/48 dev eth1 dev uplink table {table}",
            ),
            (
                "ip route add blackhole 10.2.1.128/25 table {table}",
                "ip route del blackhole 10.2.1.128/25 table {table}",
                "route 10.2.1.128/25 type blackhole",
            ),
            (
                "ip -6 route add blackhole fd00:2:0:1::/64 metric 10 table {table}",
                "ip -6 route del blackhole fd00:2:0:1::/64 metric 10 table {table}",
                "route fd00:2:0:1::/64 type blackhole",
            ),
            (
                "ip route add local 10.2.1.9 dev lo table {table}",
                "ip route del local 10.2.1.9 dev lo table {table}",
                "route 10.2.1.9/32 type local",
            ),
            // As the kernel makes them for addresses, which this host does not have.
            (
                "ip route add local 10.2.1.9 dev eth1 table {table} proto kernel scope host",
                "ip route del local 10.2.1.9 table {table}",
                "route 10.2.1.9/32 type local",
            ),
            (
                "ip route add broadcast 10.2.1.9 dev eth1 table {table} proto kernel scope link",
                "ip route del broadcast 10.2.1.9 table {table}",
                "route 10.2.1.9/32 type local",
            ),
            (
                "ip -6 route add local fd00:2:0:1::9 dev eth1 table {table} proto kernel",
                "ip -6 route del local fd00:2:0:1::9 table {table}",
                "route fd00:2:0:1::9/128 type local",
            ),
            (
                "ip -6 route add multicast fd00:2:0:1::9 dev eth1 table {table} proto kernel",
                "ip -6 route del multicast fd00:2:0:1::9 table {table}",
                "route fd00:2:0:1::9/128 type 5",
            ),
            (
                "ip -6 route add fd00:2:0:1::/64 from fd00:1::2/128 dev uplink table {table} proto 67",
                "ip -6 route del fd00:2:0:1::/64 from fd00:1::2/128 table {table}",
                "route fd00:2:0:1::/64 dev uplink table {table} proto 67",
            ),
            (
                "ip neigh replace 10.1.0.2 lladdr 02:99:00:00:00:01 dev eth1 nud permanent",
                "ip neigh del 10.1.0.2 dev eth1",
                "neighbour 10.1.0.2 dev eth1 lladdr 02:99:00:00:00:01",
            ),
            (
                "ip neigh replace fd00:1::2 lladdr 02:99:00:00:00:01 dev eth1 nud noarp",
                "ip neigh del fd00:1::2 dev eth1",
                "neighbour fd00:1::2 dev eth1 lladdr 02:99:00:00:00:01",
            ),
            (
                // The kernel does not announce these.
                "ip neigh add proxy fd00:1::2 dev eth1; ip link set eth1 alias looked",
                "ip neigh del proxy fd00:1::2 dev eth1; ip link set eth1 alias looked-again",
                "neighbour proxy fd00:1::2 dev eth1",
            ),
            ("ip link set eth1 mtu 1000", "ip link set eth1 mtu 1500", "MTU 1000 of eth1"),
            ("ip addr add 10.1.0.9/8 dev eth1", "ip addr del 10.1.0.9/8 dev eth1", "address 10.1.0.9/8 dev eth1"),
            (
                "ip addr add 2001:db8::9/64 dev eth1 nodad",
                "ip addr del 2001:db8::9/64 dev eth1",
                "address 2001:db8::9/64 dev eth1",
            ),
            (
                "ip addr add 198.18.0.1/32 dev {vrf}",
                "ip addr del 198.18.0.1/32 dev {vrf}",
                "address 198.18.0.1/32 dev {vrf}",
            ),
        ],
    )?;
    // What does not affect any packet is ignored.
    let host = lab.host("h1");
    let names = Names::of(host.netns())?;
    let passes = host.report()?.counters.passes;
    sh(
        host,
        &names.filled("ip route add blackhole 203.0.113.0/24 table {table}; ip route add 203.0.113.0/24 dev uplink"),
    )?;
    wait::until("a look", SOON, || {
        let report = host.report()?;
        ensure!(report.counters.passes > passes);
        ensure!(report.in_sync(), "{report:?}");
        Ok(Some(()))
    })?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn filters_and_queues_of_others_are_named() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    are_named(
        &lab,
        &[
            (
                "tc filter add dev eth1 ingress pref 1 protocol all matchall action drop",
                "tc filter del dev eth1 ingress pref 1",
                "filter dev eth1 ingress pref 1 matchall",
            ),
            (
                "tc filter add dev {peer} ingress pref 60000 protocol ip u32 match ip dst 0.0.0.0/0 action drop",
                "tc filter del dev {peer} ingress pref 60000",
                "filter dev {peer} ingress pref 60000 u32",
            ),
            (
                "tc filter add dev {peer} egress pref 1 protocol all matchall action drop",
                "tc filter del dev {peer} egress pref 1",
                "filter dev {peer} egress pref 1 matchall",
            ),
            ("tc qdisc add dev {peer} root netem loss 100%", "tc qdisc del dev {peer} root", "qdisc netem"),
            ("tc qdisc add dev eth1 root netem delay 1s", "tc qdisc del dev eth1 root", "qdisc netem"),
            (
                "tc qdisc add dev eth1 root handle 1: prio; tc qdisc add dev eth1 parent 1:1 tbf rate 1kbit burst 2000 limit 3000",
                "tc qdisc del dev eth1 root",
                "qdisc tbf",
            ),
            // At priorities that ours have on what arrives.
            (
                "tc filter add dev eth1 egress pref 17235 protocol all matchall action drop",
                "tc filter del dev eth1 egress pref 17235",
                "filter dev eth1 egress pref 17235 matchall",
            ),
            (
                "tc filter add dev {peer} egress pref 17236 protocol ip u32 match ip dst 0.0.0.0/0 action drop",
                "tc filter del dev {peer} egress pref 17236",
                "filter dev {peer} egress pref 17236 u32",
            ),
            ("tc qdisc replace dev eth1 root bfifo limit 30", "tc qdisc del dev eth1 root", "qdisc bfifo"),
            ("tc qdisc replace dev eth1 root pfifo limit 0", "tc qdisc del dev eth1 root", "qdisc pfifo"),
            (
                "tc qdisc replace dev eth1 root handle 5: prio; tc filter add dev eth1 parent 5: protocol all prio 3 matchall action drop",
                "tc qdisc del dev eth1 root",
                "filter dev eth1 egress pref 3 matchall",
            ),
            ("ip link set eth1 arp off", "ip link set eth1 arp on", "noarp dev eth1"),
            (
                "sysctl -qw net.ipv4.conf.all.arp_ignore=8",
                "sysctl -qw net.ipv4.conf.all.arp_ignore=0",
                "sysctl net.ipv4.conf.all.arp_ignore",
            ),
            ("ip link add link eth1 name taker type macvlan mode passthru", "ip link del taker", "link taker on eth1"),
            ("ip link add link {peer} name taker type ipvlan mode l2", "ip link del taker", "link taker on {peer}"),
            (xdp!("eth1 generic"), "ip link set eth1 xdpgeneric off", "XDP program "),
            (xdp!("eth1 native"), "ip link set eth1 xdpdrv off", "XDP program "),
            (xdp!("{peer} generic"), "ip link set {peer} xdpgeneric off", "XDP program "),
        ],
    )?;
    on_the_underlay(&lab)?;
    // Operators see it on the host, and anyone in the state of the peering.
    let host = lab.host("h1");
    sh(host, "tc filter add dev eth1 ingress pref 7 protocol all matchall action drop")?;
    wait::until("the controller tells it", SOON, || {
        let list = lab.controller().cli(&["host", "list"])?.ok()?;
        ensure!(list.contains("pref 7 matchall"), "{list}");
        let peering = lab.controller().cli(&["-o", "json", "peering", "list"])?.ok()?;
        ensure!(peering.contains("\"routesInSync\":false"), "{peering}");
        Ok(Some(()))
    })
}

/// What is on devices of the host itself is its own, and shown in path traces.
fn on_the_underlay(lab: &Lab) -> Result<()> {
    let host = lab.host("h1");
    let path = || anyhow::Ok(lab.controller().cli(&["path", "--all", "10.1.0.2", "10.2.1.2"])?.stdout);
    ensure!(!path()?.contains("XDP"), "{}", path()?);
    sh(host, xdp!("uplink generic"))?;
    let said = path()?;
    ensure!(said.contains("XDP program ") && said.contains(" dev uplink"), "{said}");
    ensure!(host.report()?.in_sync());
    sh(host, "ip link set uplink xdpgeneric off")
}

#[test]
fn a_device_that_holds_the_port_is_named() -> Result<()> {
    let lab = Lab::new(peered())?;
    let host = lab.host("h1");
    host.netns().ip_batch(&[
        "link add metadata type vxlan external dstport 4789".to_owned(),
        "link set metadata up".to_owned(),
    ])?;
    lab.apply()?;
    wait::until("it is named", SOON, || {
        let report = host.report()?;
        ensure!(report.problems.iter().any(|problem| problem.reason.contains("metadata")), "{report:?}");
        Ok(Some(()))
    })?;
    host.netns().ip("link del metadata")?;
    lab.wait_in_sync()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn firewalls_that_drop_or_rewrite_are_named_until_our_packets_are_exempt() -> Result<()> {
    let lab = Lab::in_sync(peered())?;
    are_named(
        &lab,
        &[
            (
                "iptables-legacy -P FORWARD DROP",
                "iptables-legacy -I FORWARD -i cpsvrf+ -j ACCEPT",
                "iptables-legacy -t filter FORWARD policy drop",
            ),
            (
                "ip6tables-legacy -A FORWARD -p tcp -j REJECT",
                "ip6tables-legacy -F FORWARD",
                "ip6tables-legacy -t filter FORWARD rule 1 -j REJECT",
            ),
            (
                "iptables-legacy -N DOCKER; iptables-legacy -I FORWARD -o {peer} -j DOCKER; iptables-legacy -A DOCKER -j DROP",
                "iptables-legacy -D FORWARD -o {peer} -j DOCKER",
                "FORWARD chain DOCKER rule 1 -j DROP",
            ),
            (
                "iptables-legacy -t nat -A POSTROUTING -s 10.1.0.0/24 -j MASQUERADE",
                "iptables-legacy -t nat -F POSTROUTING",
                "iptables-legacy -t nat POSTROUTING rule 1 -j MASQUERADE",
            ),
            (
                "iptables-legacy -t raw -A PREROUTING -i eth1 -d 10.2.0.0/16 -j DROP",
                "iptables-legacy -t raw -F PREROUTING",
                "iptables-legacy -t raw PREROUTING rule 1 -j DROP",
            ),
            // Servers and their gateway have to resolve each other.
            (
                "ip6tables-legacy -A INPUT -i eth1 -p icmpv6 -j DROP",
                "ip6tables-legacy -I INPUT -i eth1 -p icmpv6 -j ACCEPT",
                "ip6tables-legacy -t filter INPUT rule 1 -j DROP",
            ),
            (
                "ip6tables-legacy -P OUTPUT DROP; ip6tables-legacy -A OUTPUT -p icmpv6 --icmpv6-type 135 -j ACCEPT",
                "ip6tables-legacy -A OUTPUT -p icmpv6 --icmpv6-type 136 -j ACCEPT",
                "ip6tables-legacy -t filter OUTPUT policy drop",
            ),
            (
                "arptables-legacy -A INPUT -i eth1 -j DROP",
                "arptables-legacy -I INPUT -i eth1 -j ACCEPT",
                "arptables-legacy -t filter INPUT rule 1 -j DROP",
            ),
            (
                "arptables-legacy -P OUTPUT DROP; arptables-legacy -A OUTPUT --opcode 1 -j ACCEPT",
                "arptables-legacy -A OUTPUT --opcode 2 -j ACCEPT",
                "arptables-legacy -t filter OUTPUT policy drop",
            ),
            // By themselves, neither the mark nor the rule affects anything.
            (
                "iptables-legacy -t mangle -A PREROUTING -i eth1 -j MARK --set-mark 1; ip rule add pref 500 fwmark 1 lookup main",
                "ip rule del pref 500",
                "rule priority 500 from all fwmark 0x1/0xffffffff lookup main",
            ),
            (
                "ip rule add pref 500 fwmark 1 lookup main",
                "iptables-legacy -t mangle -F PREROUTING",
                "rule priority 500 from all fwmark 0x1/0xffffffff lookup main",
            ),
            // That of an ordinary host, which only admits its operators.
            (
                "iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -p tcp -j ACCEPT; iptables-legacy -P INPUT DROP",
                "iptables-legacy -I INPUT -p udp --dport 4789 -j ACCEPT",
                "iptables-legacy -t filter INPUT policy drop",
            ),
            (
                "ip xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block priority 9; \
                 ip xfrm policy add src 10.1.0.0/17 dst 10.0.0.0/8 dir fwd action allow priority 9",
                "ip xfrm policy add src 10.0.0.0/8 dst 10.0.0.0/8 dir fwd action allow priority 8",
                "xfrm policy src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd priority 9 action block",
            ),
            (
                "ip -6 xfrm policy add src fd00:1::/48 dst fd00:2::/48 dir out tmpl src 2001:db8::1 dst 2001:db8::2 proto esp mode tunnel",
                "ip xfrm policy deleteall dir out",
                "xfrm policy src fd00:1::/48 dst fd00:2::/48 dir out",
            ),
            (
                "ip xfrm policy add src 192.0.2.0/24 dst 192.0.2.0/24 proto udp dport 4789 dir out action block priority 9",
                "ip xfrm policy add src 192.0.2.0/24 dst 192.0.2.0/24 proto udp dir out action allow priority 8",
                "xfrm policy src 192.0.2.0/24 dst 192.0.2.0/24 dir out priority 9 action block",
            ),
            (
                "ip -6 xfrm policy add src ::/0 dst fe80::/10 dir in action block priority 9",
                "ip -6 xfrm policy add src ::/0 dst fe80::/10 proto ipv6-icmp dir in action allow priority 8",
                "xfrm policy src ::/0 dst fe80::/10 dir in priority 9 action block",
            ),
            ("ip xfrm policy setdefault in block", "ip xfrm policy setdefault in accept", "xfrm policy default in"),
            (
                "$(cat /proc/sys/kernel/modprobe) fou; ip fou add port 5556 gue",
                "ip fou del port 5556; ip fou add port 5558 ipproto 47",
                "fou port 5556 gue",
            ),
            ("ip fou add port 5557 ipproto 17", "ip fou del port 5557", "fou port 5557 ipproto 17"),
            // An underlay in IPsec is the operator's.
            (
                "ip xfrm policy add src 192.0.2.1/32 dst 192.0.2.0/24 proto udp dport 4789 dir out priority 1 tmpl proto esp mode transport; \
                 iptables-legacy -A OUTPUT -p udp --dport 4000:5000 -j REJECT",
                "iptables-legacy -F OUTPUT",
                "iptables-legacy -t filter OUTPUT rule 1 -j REJECT",
            ),
        ],
    )?;
    // The policy is still to drop, and the suggested rule lets packets of VPCs pass, also within the host.
    let host = lab.host("h1");
    sh(host, "ip xfrm policy deleteall")?;
    ensure!(host.netns().exec("iptables-legacy -S FORWARD")?.ok()?.contains("-P FORWARD DROP"));
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h1", "eth2"))?;
    // Rules about others, as docker makes them, are ignored, also about interfaces with names of any bytes.
    sh(
        host,
        "set -e; for name in '\\3770' '\\303\\2511' '\\033[2J'; do name=$(printf \"$name\"); \
         ip link add \"$name\" type dummy; iptables-legacy -A FORWARD -i \"$name\" -j DROP; done; \
         iptables-legacy -A FORWARD -i docker0 ! -o docker0 -j DROP; iptables-legacy -A FORWARD -s 172.17.0.0/16 -j DROP; \
         iptables-legacy -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE; iptables-legacy -A INPUT -j ACCEPT; \
         iptables-legacy -t mangle -A FORWARD -p tcp -j TCPMSS --set-mss 1200 --tcp-flags SYN,RST SYN || true",
    )?;
    let passes = host.report()?.counters.passes;
    host.netns().ip("link set eth1 alias looked")?;
    wait::until("a look", SOON, || {
        let report = host.report()?;
        ensure!(report.counters.passes > passes);
        ensure!(report.in_sync(), "{report:?}");
        Ok(Some(()))
    })?;
    // Removals are executed and confirmed, whatever the host's firewall does.
    sh(host, "iptables-legacy -F FORWARD")?;
    wait::until("it is named", SOON, || {
        let report = host.report()?;
        ensure!(report.problems.iter().any(|problem| problem.object.contains("policy drop")), "{report:?}");
        Ok(Some(()))
    })?;
    let deleted = lab.controller().cli(&["peering", "delete", "vpc-a-vpc-b"])?.ok()?;
    ensure!(!deleted.contains("draining"), "{deleted}");
    Ok(())
}

/// A policy on h1, and the settings that exempt packets from it.
struct Exemption {
    policy: &'static str,
    /// Below `/proc/sys/net`, with a place for the device.
    setting: &'static str,
    /// The devices, for a shell.
    devices: &'static str,
}

/// Packets that are exempt from a policy pass, and then it is not reported.
#[test]
fn an_ipsec_policy_is_reported_unless_packets_are_exempt_from_it() -> Result<()> {
    const MEMBERS: &str = "eth1 eth2 $(cd /proc/sys/net/ipv4/conf; ls -d cps*)";
    let lab = Lab::in_sync(peered())?;
    let host = lab.host("h1");
    let servers = [lab.server("h1", "eth1"), lab.server("h1", "eth2"), lab.server("h2", "eth1")];
    let all_reach = || reach_each_other(servers[0], servers[2]).and_then(|()| reach_each_other(servers[0], servers[1]));
    for Exemption { policy, setting, devices } in [
        Exemption {
            policy: "src 10.0.0.0/8 dst 10.0.0.0/8 dir fwd",
            setting: "ipv4/conf/$d/disable_policy",
            devices: MEMBERS,
        },
        Exemption {
            policy: "src 10.0.0.0/8 dst 10.0.0.0/8 dir out",
            setting: "ipv4/conf/$d/disable_xfrm",
            devices: MEMBERS,
        },
        Exemption {
            policy: "src fd00::/8 dst fd00::/8 dir fwd",
            setting: "ipv6/conf/$d/disable_policy",
            devices: MEMBERS,
        },
        Exemption {
            policy: "src fd00::/8 dst fd00::/8 dir fwd",
            setting: "ipv6/conf/$d/disable_policy",
            devices: "all",
        },
        Exemption {
            policy: "src 192.0.2.0/24 dst 192.0.2.0/24 proto udp dport 4789 dir in",
            setting: "ipv4/conf/$d/disable_policy",
            devices: "all",
        },
        Exemption {
            policy: "src 192.0.2.0/24 dst 192.0.2.0/24 proto udp dport 4789 dir out",
            setting: "ipv4/conf/$d/disable_xfrm",
            devices: "all",
        },
    ] {
        let what = format!("{policy} and {setting} of {devices}");
        let set = |value: u8| sh(host, &format!("for d in {devices}; do echo {value} >/proc/sys/net/{setting}; done"));
        let is_named = || {
            wait::until("it is named", SOON, || {
                let report = host.report()?;
                ensure!(
                    report.problems.iter().any(|it| it.object.starts_with("xfrm policy src ")),
                    "{:?}",
                    report.problems
                );
                Ok(Some(()))
            })
        };
        sh(host, &format!("ip xfrm policy add {policy} action block"))?;
        is_named()
            .and_then(|()| {
                ensure!(all_reach().is_err(), "{what}: packets pass");
                set(1)?;
                lab.wait_for_agent("h1")?;
                all_reach()?;
                set(0)?;
                is_named()
            })
            .with_context(|| what.clone())?;
        sh(host, "ip xfrm policy deleteall")?;
        lab.wait_for_agent("h1")?;
    }
    // If the default is to block, what the host sends is not exempt.
    sh(
        host,
        "ip xfrm policy setdefault out block; for d in all uplink; do echo 1 >/proc/sys/net/ipv4/conf/$d/disable_xfrm; done",
    )?;
    wait::until("it is named", SOON, || {
        let report = host.report()?;
        ensure!(report.problems.iter().any(|it| it.object == "xfrm policy default out"), "{:?}", report.problems);
        Ok(Some(()))
    })?;
    ensure!(reach_each_other(servers[0], servers[2]).is_err(), "packets pass");
    Ok(())
}
