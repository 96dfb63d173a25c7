//! What the kernel refuses leaves nothing open, also if a plan is executed in parts: what failed in one part counts in those
//! that follow.

use anyhow::{Result, ensure};
use cps_peering_agent::{
    filter::{Instruction, NEIGHBOURS, Program},
    kernel::{Kernel, Netlink},
    objects::{FilterHandle, IngressFilter, LinkChange, Operation},
    ownership::{DOOMED_GROUP, LIMIT_PRIORITY, REJECT_PRIORITY},
};
use cps_peering_config::net::InterfaceName;
use cps_peering_tests::netns::Netns;
use std::process;

/// A namespace with devices that are down, and a netlink connection to its kernel.
fn with(devices: &[&str], work: impl FnOnce(&Netns, &mut Netlink) -> Result<()> + Send) -> Result<()> {
    let netns = Netns::create(&format!("refusals-{}", process::id()))?;
    for device in devices {
        netns.ip(&format!("link add {device} type dummy"))?;
    }
    netns.within(|| {
        let mut kernel = Netlink::default();
        kernel.observe_all()?;
        work(&netns, &mut kernel)
    })
}

fn name(text: &str) -> InterfaceName {
    text.parse().expect("a test writes its names well")
}

fn is_up(netns: &Netns, device: &str) -> Result<bool> {
    let link = netns.ip(&format!("-o link show dev {device}"))?;
    Ok(link.contains(",UP") || link.contains("<UP"))
}

/// Executes operations, one at a time as at the borders of the parts of a plan, or all together. Returns which were refused.
fn refused(kernel: &mut Netlink, operations: &[Operation], each_alone: bool) -> Result<Vec<usize>> {
    if !each_alone {
        return Ok(kernel.apply(operations)?.into_iter().map(|(place, _)| place).collect());
    }
    let mut refused = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        refused.extend(kernel.apply(std::slice::from_ref(operation))?.into_iter().map(|_| place));
    }
    Ok(refused)
}

#[test]
fn a_port_without_one_of_its_filters_stays_down() -> Result<()> {
    with(&["port0", "port1"], |netns, kernel| {
        netns.ip("link add cpsvrf5 up type vrf table 2000000005")?;
        kernel.observe_all()?;
        for (device, each_alone) in [("port0", true), ("port1", false)] {
            let port = name(device);
            let at = |handle| FilterHandle { priority: REJECT_PRIORITY, handle };
            let rest = FilterHandle { priority: REJECT_PRIORITY + 10, handle: 1 };
            // It reads from an uninitialised register, which the kernel always refuses.
            let bad: Program = [Instruction { code: 0x60, jt: 0, jf: 0, k: 3 }, ret()].into_iter().collect();
            let unlimited = IngressFilter::Limit(bad.clone(), NEIGHBOURS);
            let good: Program = [ret()].into_iter().collect();
            netns.ip(&format!("link set {device} up"))?;
            let up = [
                Operation::ChangeLink(port, LinkChange::Enslave(name("cpsvrf5"))),
                Operation::ChangeLink(port, LinkChange::Up(true)),
            ];
            let first = [
                Operation::AddIngress(port),
                Operation::SetFilter(port, at(1), IngressFilter::Reject(good.clone())),
                Operation::SetFilter(port, at(2), IngressFilter::Reject(bad)),
                Operation::SetFilter(port, rest, IngressFilter::DropRest),
            ];
            let operations: Vec<Operation> = first.into_iter().chain(up.clone()).collect();
            assert_eq!(refused(kernel, &operations, each_alone)?, [2, 4, 5], "{device}");
            ensure!(!is_up(netns, device)?, "{device} is up without a filter");
            ensure!(!netns.ip(&format!("-o link show dev {device}"))?.contains("master"), "{device} is in the VRF");
            // With all of them it can go up, also if the kernel cannot limit what arrives.
            let last = Operation::SetFilter(port, at(2), IngressFilter::Reject(good));
            let limit = FilterHandle { priority: LIMIT_PRIORITY, handle: 1 };
            let limit = Operation::SetFilter(port, limit, unlimited);
            let operations: Vec<Operation> = [last, limit].into_iter().chain(up).collect();
            assert_eq!(refused(kernel, &operations, each_alone)?, [1], "{device}");
            ensure!(is_up(netns, device)?);
        }
        Ok(())
    })
}

fn ret() -> Instruction {
    Instruction { code: 0x06, jt: 0, jf: 0, k: 0 }
}

#[test]
fn a_port_outside_of_its_vrf_stays_down() -> Result<()> {
    with(&["port0", "port1"], |netns, kernel| {
        for (device, each_alone) in [("port0", true), ("port1", false)] {
            let port = name(device);
            let operations = [
                Operation::ChangeLink(port, LinkChange::Enslave(name("cpsvrf5"))),
                Operation::ChangeLink(port, LinkChange::Up(true)),
            ];
            assert_eq!(refused(kernel, &operations, each_alone)?, [0, 1], "there is no such VRF");
            ensure!(!is_up(netns, device)?, "{device} is up in the host's own network");
        }
        netns.ip("link add cpsvrf5 up type vrf table 2000000005")?;
        // A new observation begins.
        kernel.observe_all()?;
        let up = Operation::ChangeLink(name("port0"), LinkChange::Up(true));
        let operations = [Operation::ChangeLink(name("port0"), LinkChange::Enslave(name("cpsvrf5"))), up];
        assert_eq!(refused(kernel, &operations, true)?, [0; 0]);
        ensure!(is_up(netns, "port0")?);
        Ok(())
    })
}

/// Objects that an agent marked for removal before it was killed are not removed by the next one, nor are foreign objects there.
#[test]
fn removals_take_only_what_they_name() -> Result<()> {
    with(&["gone0", "gone1", "stays"], |netns, kernel| {
        netns.ip(&format!("link set stays group {DOOMED_GROUP}"))?;
        netns.sh(&format!("ip link add \"$(printf '\\3770')\" group {DOOMED_GROUP} type dummy"))?;
        kernel.observe_all()?;
        assert_eq!(kernel.apply(&[Operation::RemoveLinks(vec![name("gone0"), name("gone1")])])?, []);
        let left = netns
            .sh("for link in /proc/sys/net/ipv4/conf/*; do basename \"$link\"; done | od -An -c | tr -d ' \\n'")?;
        ensure!(!left.contains("gone") && left.contains("stays") && left.contains("3770"), "{left}");
        Ok(())
    })
}
