//! Keeps a tenant from filling the memory for fragments, which all tenants and the host share.
//!
//! What is addressed to the host itself, such as a long ping to a gateway, it reassembles, and so it does with VXLAN packets
//! that the underlay has fragmented. The kernel keeps fragments whose rest does not come for half a minute. Once they take
//! `ipfrag_high_thresh` bytes (or `ip6frag_high_thresh`, 4 MiB by default), it accepts no fragment from anybody. So each
//! device of ours may add some ([`FRAGMENTS`]), and there is room for those of all.

use crate::{filter::FRAGMENTS, objects::Family};
use cps_peering_config::SharedHostConfig;
use std::{fs, io};

/// The room for fragments that do not come by our devices: the kernel's own default.
const OTHERS: u32 = 4 << 20;
/// How long the kernel keeps a fragment by default, in seconds.
const KEPT_S: u32 = 30;
/// The memory of a fragment on a device whose MTU is 9000, in bytes.
const FRAGMENT: u32 = 16 << 10;
/// What the fragments of one device take at most, in bytes.
const OF_A_DEVICE: u32 = (FRAGMENTS.burst + KEPT_S * FRAGMENTS.per_second) * FRAGMENT;
/// The largest threshold that the agent sets, in bytes.
const LARGEST: u32 = 1 << 30;

/// The threshold for what a host carries, in bytes.
pub(crate) fn threshold(config: &SharedHostConfig) -> u32 {
    // Each VPC may have a device between hosts.
    let devices = config.sides.len() + config.vrfs.values().map(|vrf| 1 + vrf.ports.len()).sum::<usize>();
    let devices = u32::try_from(devices).unwrap_or(u32::MAX);
    OTHERS.saturating_add(devices.saturating_mul(OF_A_DEVICE)).min(LARGEST)
}

/// Raises a family's threshold, if it is lower.
pub(crate) fn raise(family: Family, threshold: u32) -> io::Result<()> {
    let path = match family {
        Family::V4 => "/proc/sys/net/ipv4/ipfrag_high_thresh",
        Family::V6 => "/proc/sys/net/ipv6/ip6frag_high_thresh",
    };
    let now = match fs::read_to_string(path) {
        // A kernel without the family.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if now.trim().parse::<u64>().is_ok_and(|now| now < threshold.into()) {
        fs::write(path, threshold.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    #[test]
    fn there_is_room_for_the_fragments_of_each_device() {
        let of = |ports: usize| -> u32 {
            let ports = (0..ports).map(|port| format!(r#""eth{port}": {{ "gateways": [], "prefixes": [] }}"#));
            let text = format!(
                r#"{{ "revision": {{ "epoch": 1, "number": 1 }}, "host": "h1", "underlay": "192.0.2.1", "sides": {{}},
                     "vrfs": {{ "vpc-a": {{ "vni": 10, "ports": {{ {} }} }} }} }}"#,
                ports.collect::<Vec<_>>().join(",")
            );
            threshold(&serde_json::from_str::<HostConfig>(&text).unwrap().into())
        };
        assert_eq!(of(0), OTHERS + OF_A_DEVICE);
        assert_eq!(of(9), OTHERS + 10 * OF_A_DEVICE);
        assert_eq!(of(1000), LARGEST);
        assert_eq!(OF_A_DEVICE, 360 << 14);
    }
}
