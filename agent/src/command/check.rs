//! `cps-peering-agent check`: whether this kernel and system meet the agent's requirements, and if not, what to do
//! about it.

use super::Output;
use crate::{
    compile::{UnderlayParams, compile},
    diff::{diff, doubts},
    dirty_set::DirtySet,
    kernel::{Kernel, Netlink},
    ledger::Ledger,
    objects::{LinkKind, Observed},
    ownership, ports,
    reconcile::Options,
    tls::kept_beside,
};
use cps_peering_config::{
    HostConfig, HostReport, ValidHostConfig,
    diagnosis::{HostDiagnosis, HostFinding, HostSnapshot, Verdict},
    settings::{AgentSettings, tls_files},
    tls::TRUST_DOMAIN,
};
use cps_peering_http::tls::Identity;
use cps_peering_terminal::{show, table};
use nix::sched::{CloneFlags, unshare};
use std::{
    fs,
    path::Path,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

fn found(verdict: Verdict, subject: &str, text: impl Into<String>) -> HostFinding {
    HostFinding { verdict, subject: subject.to_owned(), text: text.into() }
}

fn ok(subject: &str, text: impl Into<String>) -> HostFinding {
    found(Verdict::Ok, subject, text)
}

fn warning(subject: &str, text: impl Into<String>) -> HostFinding {
    found(Verdict::Warning, subject, text)
}

fn failure(subject: &str, text: impl Into<String>) -> HostFinding {
    found(Verdict::Failure, subject, text)
}

/// The checks of a running agent: all but the trial of the kernel, which it has no privileges for.
pub fn diagnosis(settings: &AgentSettings) -> HostDiagnosis {
    let observed = Netlink::default().observe_all();
    let underlay_mtu = observed.as_ref().ok().and_then(|observed| {
        let config = Ledger::new(settings.ledger.clone()).load().ok().flatten()?;
        let (underlay, trouble) = Options::from(settings).underlay_params(&config, observed);
        trouble.is_none().then_some(underlay.underlay_mtu)
    });
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    HostDiagnosis {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        underlay_mtu,
        findings: examine(settings, observed.map_err(|error| error.to_string())),
    }
}

/// The longest kernel state dump, in bytes.
const MAX_SNAPSHOT: usize = 32 << 20;

/// Everything that a running agent knows about its host.
pub fn snapshot(settings: &AgentSettings, report: &HostReport) -> HostSnapshot {
    let mut observed = match Netlink::default().observe_all() {
        Ok(observed) => format!("{observed:#?}"),
        Err(error) => format!("the kernel could not be read: {error}"),
    };
    if observed.len() > MAX_SNAPSHOT {
        observed.truncate(observed.floor_char_boundary(MAX_SNAPSHOT));
        observed.push_str("\n(cut here)");
    }
    let config = Ledger::new(settings.ledger.clone()).load();
    HostSnapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: fs::read_to_string("/proc/version").unwrap_or_default().trim().to_owned(),
        report: serde_json::to_value(report).unwrap_or_default(),
        config: match config {
            Ok(config) => serde_json::to_value(config).unwrap_or_default(),
            Err(error) => error.to_string().into(),
        },
        observed,
    }
}

fn examine(settings: &AgentSettings, observed: Result<Observed, String>) -> Vec<HostFinding> {
    let mut findings = vec![capabilities(), certificates(settings)];
    findings.extend(sockets_in_vrfs());
    findings.extend(silent_gateways(|name| fs::read_to_string(format!("/proc/sys/net/{name}")).ok()));
    findings.extend(network_managers());
    match observed {
        Ok(observed) => {
            findings.extend(clashes(&observed, settings.vxlan_port));
            findings.extend(interference(&observed, settings));
            findings.extend(small_underlay(&observed, settings));
        }
        Err(error) => findings.push(failure("netlink", error)),
    }
    findings
}

/// Checks the system and shows the findings. True if none is a failure. Changes nothing: the trial of the kernel runs
/// in a network namespace of its own.
pub fn run(settings: &AgentSettings, output: Output) -> anyhow::Result<bool> {
    let observed = Netlink::default().observe_all().map_err(|error| error.to_string());
    let mut findings = examine(settings, observed);
    findings.insert(1, trial(settings));
    match output {
        Output::Json => show(&serde_json::to_string(&findings)?),
        Output::Table => {
            let rows = findings.iter().map(|finding| {
                let verdict = match finding.verdict {
                    Verdict::Ok => "ok",
                    Verdict::Warning => "WARN",
                    Verdict::Failure => "FAIL",
                };
                vec![verdict.to_owned(), finding.subject.clone(), finding.text.clone()]
            });
            show(&table(&["", "SUBJECT", "FINDING"], &rows.collect::<Vec<_>>()));
        }
    }
    Ok(findings.iter().all(|finding| finding.verdict < Verdict::Failure))
}

fn capabilities() -> HostFinding {
    const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_BPF", 39)];
    const NET_RAW: u32 = 13;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or_default();
    let missing: Vec<&str> =
        NEEDED.into_iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| name).collect();
    if missing.is_empty() && effective >> NET_RAW & 1 == 0 {
        return warning("capability", "missing: CAP_NET_RAW; without it no probes are sent, and everything else works");
    }
    if missing.is_empty() {
        return ok("capability", "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF are available");
    }
    let missing = missing.join(" ");
    failure("capability", format!("missing: {missing}; start as root, or with AmbientCapabilities={missing}"))
}

/// Whether controller and agent can authenticate each other, and for how long.
fn certificates(settings: &AgentSettings) -> HostFinding {
    const SUBJECT: &str = "certificate";
    // A short-lived certificate is renewed when a third of its lifetime is left.
    let soon_s = |whole: i64| (30 * 24 * 60 * 60).min(whole / 6);
    let files = match tls_files(settings.tls.as_ref()) {
        Ok(Some(files)) => files,
        Ok(None) => return warning(SUBJECT, "TLS is off: anyone who can reach the agent can configure this host"),
        Err(error) => return failure(SUBJECT, error.to_string()),
    };
    let facts = match Identity::open_with(files, kept_beside(&settings.ledger)) {
        Ok(identity) => identity.facts(),
        Err(error) => return failure(SUBJECT, error.to_string()),
    };
    let (cert, expires) = (files.cert.display(), facts.expires());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = facts.not_after.min(facts.ca_not_after).saturating_sub_unsigned(now);
    let hosts = format!("{TRUST_DOMAIN}host/");
    match facts.names.iter().find_map(|name| name.strip_prefix(&hosts)) {
        None => failure(SUBJECT, format!("{cert} names no host: issue one with cps-peering pki issue host ID")),
        Some(_) if left <= 0 => failure(SUBJECT, format!("expired {expires}: issue a new one")),
        Some(_) if left < soon_s(facts.not_after - facts.not_before) => {
            warning(SUBJECT, format!("expires {expires}, soon: issue a new one"))
        }
        Some(host) => {
            let by = if facts.renewed { ", renewed by the controller" } else { "" };
            ok(SUBJECT, format!("names host {host}, valid until {expires}{by}"))
        }
    }
}

/// Builds a VPC with a peering for real, in a namespace where it affects nothing.
fn trial(settings: &AgentSettings) -> HostFinding {
    const SUBJECT: &str = "kernel";
    let (vxlan_port, entries) = (settings.vxlan_port, settings.underlay_filter_entries);
    let attempt = move || -> Result<Vec<String>, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
            format!("cannot create a network namespace for the test ({errno}); run this check as root")
        })?;
        let desired = compile(&sample(), UnderlayParams { vxlan_port, underlay_mtu: 1500 }, &DirtySet::Everything);
        let mut kernel = Netlink::with_underlay_filter(vxlan_port, entries);
        for _ in 0..3 {
            let observed = kernel.observe_all().map_err(|error| error.to_string())?;
            let operations = diff(&desired, &observed).operations;
            let at_rest = operations.is_empty();
            let refused = kernel.apply(&operations).map_err(|error| error.to_string())?;
            if at_rest || !refused.is_empty() {
                let said = refused.iter().map(|(place, refusal)| format!("{}: {refusal}", operations[*place]));
                return Ok(said.collect());
            }
        }
        Err("the trial did not converge".to_owned())
    };
    match thread::spawn(attempt).join() {
        Ok(Ok(refused)) if refused.is_empty() => {
            ok(SUBJECT, "supports VRFs, VXLAN devices, filters and programs, next hops, routes, rules and settings")
        }
        Ok(Ok(refused)) => {
            let advice = "load the modules vrf, vxlan, sch_ingress, cls_bpf and act_police, or use a kernel that has them (5.18 or \
                          newer, with CONFIG_BPF_SYSCALL and CONFIG_NET_ACT_POLICE)";
            failure(SUBJECT, format!("{}; {advice}", refused.join("; ")))
        }
        Ok(Err(problem)) => warning(SUBJECT, problem),
        Err(_) => failure(SUBJECT, "the trial was aborted"),
    }
}

/// A VPC with a peering and no ports, which needs nothing from the host.
fn sample() -> ValidHostConfig {
    let text = r#"{
        "revision": { "epoch": 1, "number": 1 }, "host": "trial", "underlay": "192.0.2.1",
        "vrfs": { "vpc-a": { "vni": 1, "remotes": { "192.0.2.2": ["10.1.0.0/24", "fd00:1::/64"] } } },
        "sides": { "2": { "peering": "p", "vpc": "vpc-a", "peer_vni": 3, "peer_cidrs": ["10.2.0.0/16", "fd00:2::/48"],
                          "remotes": { "192.0.2.2": ["10.2.0.0/24", "fd00:2::/64"] } } }
    }"#;
    let config: HostConfig = serde_json::from_str(text).expect("the sample is a configuration");
    config.try_into().expect("the sample is legal")
}

/// With these settings, a service of the host that listens on all addresses answers tenants on their gateway. That
/// opens no path from one VPC to another: tunnels to the host are dropped at ports.
fn sockets_in_vrfs() -> Vec<HostFinding> {
    let settings = ["tcp_l3mdev_accept", "udp_l3mdev_accept", "raw_l3mdev_accept"];
    let on = |name: &&str| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        value.is_ok_and(|value| value.trim() == "1")
    };
    // Raw sockets are on by default, and only receive pings.
    let open: Vec<&str> = settings.into_iter().filter(|name| *name != "raw_l3mdev_accept").filter(on).collect();
    if open.is_empty() {
        return vec![ok("services", "sockets of the host do not reach into VRFs")];
    }
    let names = open.iter().map(|name| format!("net.ipv4.{name}")).collect::<Vec<_>>().join(" and ");
    let advice = "set to 0, or let no service listen on all addresses";
    vec![warning("services", format!("{names} let tenants reach services of the host on their gateway: {advice}"))]
}

/// Host-wide settings that keep gateways from answering. If servers cannot resolve their gateway, the agent reports that
/// as well.
fn silent_gateways(read: impl Fn(&str) -> Option<String>) -> Vec<HostFinding> {
    let value = |name: &str| read(name).and_then(|value| value.trim().parse::<u32>().ok()).unwrap_or_default();
    let mut findings = Vec::new();
    for name in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"].into_iter().filter(|name| value(name) != 0) {
        let name = name.replace('/', ".");
        let text = format!(
            "net.{name} keeps gateways from answering pings, and other hosts' probes count as lost: set it to 0"
        );
        findings.push(warning("gateways", text));
    }
    // With 1 the host answers only for addresses of the port, with 3 only for addresses that are not its own.
    let arp_ignore = value("ipv4/conf/all/arp_ignore");
    if !matches!(arp_ignore, 0 | 1 | 3) {
        let whom = if arp_ignore == 2 { "servers outside the gateway's subnet" } else { "servers" };
        let text = format!(
            "net.ipv4.conf.all.arp_ignore is {arp_ignore}: {whom} cannot resolve their gateway; set it to 0 or 1"
        );
        findings.push(warning("gateways", text));
    }
    if findings.is_empty() {
        findings.push(ok("gateways", "answer pings and ARP requests"));
    }
    findings
}

fn network_managers() -> Vec<HostFinding> {
    let mut findings = Vec::new();
    if Path::new("/run/systemd/netif").exists() {
        let wanted = ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules", "ManageForeignNextHops"];
        let text = configuration(&["/usr/lib/systemd", "/etc/systemd", "/run/systemd"], "networkd.conf");
        let missing: Vec<&str> = wanted.into_iter().filter(|key| !is_no(&text, key)).collect();
        findings.push(if missing.is_empty() {
            ok("networkd", "leaves routes, rules and next hops of others alone")
        } else {
            let advice = "install the drop-in for networkd.conf that comes with this package";
            failure(
                "networkd",
                format!("removes what it did not create, because {} is not \"no\": {advice}", missing.join(", ")),
            )
        });
    }
    if Path::new("/run/NetworkManager").exists() {
        let folders = ["/usr/lib/NetworkManager", "/etc/NetworkManager", "/run/NetworkManager"];
        let text = configuration(&folders, "NetworkManager.conf") + &configuration(&folders, "conf");
        let unmanaged =
            text.lines().any(|line| line.starts_with("unmanaged-devices") && line.contains("interface-name:cps"));
        findings.push(if unmanaged {
            ok("NetworkManager", "leaves devices of ours alone")
        } else {
            failure("NetworkManager", "manages devices of ours: install the drop-in that comes with this package")
        });
    }
    findings
}

/// A configuration file followed by its drop-ins, in order of precedence.
fn configuration(folders: &[&str], name: &str) -> String {
    let mut text = String::new();
    for folder in folders {
        text += &fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
        let Ok(entries) = fs::read_dir(format!("{folder}/{name}.d")) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "conf")) {
            text.push('\n');
            text += &fs::read_to_string(path).unwrap_or_default();
        }
    }
    text
}

/// Whether the last line that sets `key` sets it to no.
fn is_no(text: &str, key: &str) -> bool {
    let mut values = text.lines().rev().filter_map(|line| line.trim().strip_prefix(key)?.trim().strip_prefix('='));
    values.next().is_some_and(|value| matches!(value.trim(), "no" | "false" | "0" | "off"))
}

fn clashes(observed: &Observed, vxlan_port: u16) -> Vec<HostFinding> {
    let mut findings = Vec::new();
    for (name, link) in observed.links.iter().filter(|(name, _)| !observed.owns(name)) {
        if ownership::DeviceName::parse(name).is_some() {
            findings
                .push(failure("devices", format!("{name} has a name of ours but is not ours: rename or remove it")));
        }
        match link.kind {
            LinkKind::Vrf(table) if ownership::table_vni(table).is_some() => {
                findings.push(failure("tables", format!("VRF {name} uses table {table}, which is in our range")));
            }
            LinkKind::Vxlan { tunnel: Some(tunnel), .. } if tunnel.port == vxlan_port => {
                let text = format!(
                    "{name} uses VXLAN port {vxlan_port}, too: its VNI {} must never be one of ours, or set another vxlan_port on all hosts",
                    tunnel.vni
                );
                findings.push(warning("VXLAN port", text));
            }
            _ => {}
        }
    }
    if findings.is_empty() {
        findings.push(ok("clashes", "no device uses names, tables or the VXLAN port of ours"));
    }
    findings
}

/// What other programs have put in the path of VPC packets, each with the rule that exempts them if there is one.
/// Before the first configuration, the sample shows what a firewall would do to any.
fn interference(observed: &Observed, settings: &AgentSettings) -> Vec<HostFinding> {
    const SUBJECT: &str = "packets";
    let config = Ledger::new(settings.ledger.clone()).load().ok().flatten().unwrap_or_else(sample);
    let config = ports::in_kernel_names(&config, &ports::aliases(&config, &observed.links)).into_owned();
    let (underlay_params, _) = Options::from(settings).underlay_params(&config, observed);
    let desired = compile(&config, underlay_params, &DirtySet::Everything);
    let (plan, doubts) = (diff(&desired, observed), doubts(&desired, observed));
    if plan.interference.is_empty() && doubts.is_empty() {
        return vec![ok(
            SUBJECT,
            "no filter, program, route, address or queue of others is in the way of packets of VPCs",
        )];
    }
    let failures = plan.interference.iter().map(|it| failure(SUBJECT, format!("{}: {}", it.object, it.reason)));
    failures.chain(doubts.iter().map(|it| warning(SUBJECT, format!("{}: {}", it.object, it.reason)))).collect()
}

/// Whether the path between hosts carries the MTU that IPv6 needs inside VXLAN, once a configuration names the
/// underlay.
fn small_underlay(observed: &Observed, settings: &AgentSettings) -> Option<HostFinding> {
    let config = Ledger::new(settings.ledger.clone()).load().ok().flatten()?;
    let (underlay_params, _) = Options::from(settings).underlay_params(&config, observed);
    let small = underlay_params.small(config.underlay)?;
    let text = format!("the underlay has an MTU of {}: {small}", underlay_params.underlay_mtu);
    Some(if config.underlay.is_ipv4() { warning("MTU", text) } else { failure("MTU", text) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{
        Firewall,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Scope, Sense, Verdict as RuleVerdict},
    };

    #[test]
    fn the_last_setting_counts() {
        assert!(is_no("[Network]\nManageForeignRoutes=yes\n ManageForeignRoutes = no\n", "ManageForeignRoutes"));
        assert!(!is_no("ManageForeignRoutes=no\nManageForeignRoutes=yes\n", "ManageForeignRoutes"));
        assert!(!is_no("#ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no", "ManageForeignRoutes"));
    }

    #[test]
    fn a_firewall_that_may_drop_packets_between_hosts_is_a_warning() {
        let settings: AgentSettings = toml::from_str("listen = '127.0.0.1:1'\nledger = '/nowhere'").unwrap();
        let found = |condition: Match| {
            let conditions = [Match::Protocol(vec![17], Sense::Is), condition].to_vec();
            let verdict = RuleVerdict::Drop("drop".to_owned());
            let rule = FilterRule { label: "rule handle 7".to_owned(), matches: conditions, marks: false, verdict };
            let chain = Chain {
                backend: Backend::Nftables,
                scope: Scope::Both,
                family: "inet",
                table: "filter".to_owned(),
                name: "input".to_owned(),
                hook: Some(Hook::Input),
                drops: false,
                rules: vec![rule],
            };
            let observed =
                Observed { firewall: Firewall { chains: vec![chain], ..Firewall::default() }, ..Observed::default() };
            interference(&observed, &settings)
        };
        let port = |port: u16| Match::DestinationPort(vec![port..=port], Sense::Is);
        let doubtful = found(Match::Other);
        let text = &doubtful[0].text;
        assert_eq!((doubtful.len(), doubtful[0].verdict), (1, Verdict::Warning), "{doubtful:?}");
        assert!(
            text.starts_with("nft inet filter input rule handle 7 drop: may drop packets between this host"),
            "{text}"
        );
        assert!(text.ends_with("nft insert rule inet filter input udp dport 4789 accept exempts them"), "{text}");
        assert_eq!(found(port(4789))[0].verdict, Verdict::Failure);
        assert_eq!(found(port(53))[0].verdict, Verdict::Ok);
    }

    #[test]
    fn settings_that_silence_gateways_are_warnings() {
        let found = |name: &'static str, value: &'static str| {
            let findings = silent_gateways(|asked| (asked == name).then(|| format!("{value}\n")));
            findings.into_iter().map(|it| (it.verdict, it.text)).next().unwrap()
        };
        let [v4, v6, arp] = ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all", "ipv4/conf/all/arp_ignore"];
        for (name, value) in [(v4, "0"), (v6, "0"), (arp, "0"), (arp, "1"), (arp, "3"), ("other", "1")] {
            assert_eq!(found(name, value).0, Verdict::Ok, "{name}={value}");
        }
        for (name, value, said) in [
            (v4, "1", "net.ipv4.icmp_echo_ignore_all keeps"),
            (v6, "1", "net.ipv6.icmp.echo_ignore_all keeps"),
            (arp, "2", "is 2: servers outside"),
            (arp, "8", "is 8: servers cannot"),
        ] {
            let (verdict, text) = found(name, value);
            assert!(verdict == Verdict::Warning && text.contains(said), "{text}");
        }
    }

    #[test]
    fn the_sample_has_one_of_each_kind() {
        let desired =
            compile(&sample(), UnderlayParams { vxlan_port: 4789, underlay_mtu: 1500 }, &DirtySet::Everything);
        assert!(!desired.vrfs.is_empty() && desired.vxlans.len() == 2 && desired.nexthops.len() == 2);
        assert!(!desired.fdb.is_empty() && !desired.neighbours.is_empty() && desired.routes().count() == 8);
    }
}
