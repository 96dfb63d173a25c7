//! Names of foreign interfaces can contain nearly any bytes: such interfaces are handled as any other, and their names are escaped for
//! terminals.

use crate::{
    forged::address,
    reach_each_other,
    underlay::{inner, taken, two_peers, vni_from},
};
use anyhow::{Result, ensure};
use cps_peering_tests::{
    Lab,
    frames::{self, IPV4, ethernet, vxlan},
    lab::PATIENCE,
    wait,
};

/// Invalid UTF-8; UTF-8, but not ASCII; control characters. As `printf` reads them, and as they are shown.
const NAMES: [(&str, &str); 3] = [("\\3770", "\\xff0"), ("\\303\\2511", "\\xc3\\xa91"), ("\\033[2J", "\\x1b[2J")];

/// C6 and C7, with interfaces whose names no configuration can have.
#[test]
fn interfaces_with_names_of_any_bytes_are_looked_after() -> Result<()> {
    let lab = Lab::in_sync(two_peers("192.0.2."))?;
    let (a, b, host) = (lab.server("h1", "eth1"), lab.server("h2", "eth1"), lab.host("h1").netns());
    reach_each_other(a, b)?;
    let vni = vni_from(&lab, "10.2.0.0/16")?;
    let mut frames = inner(&lab, vni)?;
    frames.truncate(1);
    for (number, (name, shown)) in NAMES.into_iter().enumerate() {
        let own = [0x02, 0, 0, 0, 0x99, u8::try_from(number)?];
        let on = |line: &str| host.sh(&format!("name=$(printf '{name}')\n{line}"));
        on(&format!(
            "ip link add \"$name\" address 02:00:00:00:99:0{number} type veth peer name back{number}
            ip link set \"$name\" up
            ip link set back{number} up
            for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > \"$file\"; done"
        ))?;
        wait::until("the filter of the underlay", PATIENCE, || {
            let filters = on("tc filter show dev \"$name\" ingress")?;
            ensure!(filters.contains("cps_underlay"), "{name}: {filters:?}");
            Ok(Some(()))
        })?;
        // From no VTEP, and then as from B's host, which may send.
        let before = taken(a)?;
        let outer = |source: &str| ethernet(own, IPV4, &vxlan(address(source), address("192.0.2.1"), vni, &frames[0]));
        frames::send(host, &format!("back{number}"), &[outer("192.0.2.9"), outer("192.0.2.2")])?;
        wait::until("a packet of B's host", PATIENCE, || Ok((taken(a)? > before).then_some(())))?;
        ensure!(taken(a)? == before + 1, "{name}: packets of no VTEP came in");
        // Foreign objects on it are named.
        on("tc filter add dev \"$name\" ingress pref 1 protocol all matchall action ok")?;
        wait::until("it is named", PATIENCE, || {
            let report = lab.host("h1").report()?;
            ensure!(report.problems.iter().any(|problem| problem.object.contains(shown)), "{report:?}");
            Ok(Some(()))
        })?;
        on("tc filter del dev \"$name\" ingress pref 1")?;
        lab.wait_for_agent("h1")?;
        // It does not belong into a VRF of ours, and what it had there is removed.
        let vrf = host.sh("ip -o link show type vrf | grep -o 'cpsvrf[0-9]*' | head -n 1")?;
        on(&format!(
            "echo 1 > \"/proc/sys/net/ipv4/conf/$name/rp_filter\"; ip link set \"$name\" master {}",
            vrf.trim()
        ))?;
        wait::until("it is let out", PATIENCE, || {
            let link = on("ip -o link show dev \"$name\"")?;
            ensure!(!link.contains(" master ") && link.contains("state DOWN"), "{link}");
            let set = on("cd /proc/sys/net/ipv4/conf; diff \"$name/rp_filter\" default/rp_filter")?;
            ensure!(set.is_empty(), "{set}");
            Ok(Some(()))
        })?;
        lab.wait_for_agent("h1")?;
    }
    reach_each_other(a, b)
}
