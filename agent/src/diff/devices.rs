//! VRFs, VXLAN devices, ports, their settings and addresses.

use super::{Phase, Phases, survey::Survey};
use crate::{
    objects::{Address, DeviceSetting, Link, LinkChange, Operation, is_link_local, link_local},
    ownership::{DeviceName, Role},
};
use cps_peering_config::net::InterfaceName;
use ipnet::{IpNet, Ipv4Net};

pub(super) fn diff(survey: &Survey<'_>, phases: &mut Phases) {
    close(survey, phases);
    vrfs(survey, phases);
    vxlans(survey, phases);
    ports(survey, phases);
    without_local_route(survey, phases);
    addresses(survey, phases);
    link_locals(survey, phases);
    released_ports(survey, phases);
    removals(survey, phases);
}

/// A VPC whose VRF cannot be had fails closed: outside of it, or with another program's routes in its table, a tenant's
/// packets could go anywhere.
fn close(survey: &Survey<'_>, phases: &mut Phases) {
    let is_up = |name: &&InterfaceName| survey.observed.links.get(name).is_some_and(|link| link.up);
    let down = |name: &InterfaceName| Operation::ChangeLink(*name, LinkChange::Up(false));
    phases.extend(Phase::Close, survey.closed.iter().filter(is_up).map(down));
}

fn vrfs(survey: &Survey<'_>, phases: &mut Phases) {
    for (name, vrf) in survey.desired.vrfs.iter().filter(|(name, _)| !survey.blocked.contains(*name)) {
        // The host's defaults for new devices may have IPv6 off.
        let with_ipv6 = Operation::Set(*name, DeviceSetting::Ipv6Disable, 0);
        let Some(link) = survey.kept(name) else {
            phases.extend(Phase::Vrfs, [Operation::AddVrf(*name, Box::new(vrf.clone())), with_ipv6]);
            continue;
        };
        alias(phases, Phase::Vrfs, name, link, &vrf.alias);
        if link.settings.get(&DeviceSetting::Ipv6Disable).is_some_and(|have| *have != 0) {
            phases.push(Phase::Vrfs, with_ipv6);
        }
        if !link.up {
            phases.push(Phase::Vrfs, Operation::ChangeLink(*name, LinkChange::Up(true)));
        }
    }
}

fn vxlans(survey: &Survey<'_>, phases: &mut Phases) {
    for (name, vxlan) in survey.desired.vxlans.iter().filter(|(name, _)| !survey.blocked.contains(*name)) {
        let change = |change| Operation::ChangeLink(*name, change);
        let Some(link) = survey.kept(name) else {
            phases.push(Phase::Devices, Operation::AddVxlan(*name, Box::new(vxlan.clone())));
            settings(phases, name, None);
            if !survey.observed.underlay.unavailable {
                phases.push(Phase::Up, change(LinkChange::Up(true)));
            }
            continue;
        };
        alias(phases, Phase::Devices, name, link, &vxlan.alias);
        let reopens = survey.vrf_of(link) != Some(vxlan.vrf) && enslave(phases, name, link, vxlan.vrf);
        if link.mac != Some(vxlan.mac) {
            phases.push(Phase::Devices, change(LinkChange::Mac(vxlan.mac)));
        }
        if link.mtu != vxlan.mtu {
            phases.push(Phase::Devices, change(LinkChange::Mtu(vxlan.mtu)));
        }
        if link.protodown {
            phases.push(Phase::Devices, change(LinkChange::NoProtodown));
        }
        if !link.arp {
            phases.push(Phase::Devices, change(LinkChange::Arp));
        }
        if link.generates_link_local {
            phases.push(Phase::Devices, change(LinkChange::NoLinkLocal));
        }
        settings(phases, name, Some(link));
        if (!link.up || reopens) && !survey.observed.underlay.unavailable {
            phases.push(Phase::Up, change(LinkChange::Up(true)));
        }
    }
}

fn ports(survey: &Survey<'_>, phases: &mut Phases) {
    for (port, vrf) in &survey.desired.ports {
        let Some(link) = survey.kept(port) else { continue };
        settings(phases, port, Some(link));
        let reopens = survey.rebound.contains(port) && enslave(phases, port, link, *vrf);
        if !link.up || reopens {
            phases.push(Phase::Up, Operation::ChangeLink(*port, LinkChange::Up(true)));
        }
    }
}

/// Puts a device into a VRF. While it moves from one to another the kernel has it in none for a moment, where its
/// tenant would be in the host's network, so it is down meanwhile. Returns whether it is to go up again.
fn enslave(phases: &mut Phases, name: &InterfaceName, link: &Link, vrf: InterfaceName) -> bool {
    let reopens = link.up && link.master.is_some();
    if reopens {
        phases.push(Phase::Clear, Operation::ChangeLink(*name, LinkChange::Up(false)));
    }
    phases.push(Phase::Devices, Operation::ChangeLink(*name, LinkChange::Enslave(vrf)));
    reopens
}

/// The alias of a device that stays. (The group is a mark of ownership: without it the device is not ours.)
fn alias(phases: &mut Phases, phase: Phase, name: &InterfaceName, link: &Link, alias: &str) {
    if link.alias.as_deref() != Some(alias) {
        phases.push(phase, Operation::ChangeLink(*name, LinkChange::Alias(alias.into())));
    }
}

/// All settings of a new device, or those that differ. A setting that the kernel did not report, for instance because
/// the device has no IPv6, is left alone.
fn settings(phases: &mut Phases, name: &InterfaceName, link: Option<&Link>) {
    for (setting, value) in DeviceSetting::WANTED {
        if link.is_none_or(|link| link.settings.get(&setting).is_some_and(|have| *have != value)) {
            phases.push(Phase::Devices, Operation::Set(*name, setting, value));
        }
    }
}

fn addresses(survey: &Survey<'_>, phases: &mut Phases) {
    let (desired, observed) = (survey.desired, survey.observed);
    for address in &desired.addresses {
        let there = observed.addresses.contains_key(address) && !survey.rebound.contains(&address.device);
        let possible = address.net.addr().is_ipv4() || !survey.is_too_small_for_ipv6(&address.device);
        if !there && possible && survey.kept(&address.device).is_some() {
            phases.push(Phase::Addresses, Operation::AddAddress(*address));
        }
    }
    let stale = observed.addresses.iter().filter(|(address, ours)| **ours && !desired.addresses.contains(address));
    phases.extend(Phase::Clear, stale.map(|(address, _)| Operation::RemoveAddress(*address)));
}

/// Addresses whose local route is gone are added again, which restores it, and for IPv6 also the route by which the
/// port receives multicast.
fn without_local_route(survey: &Survey<'_>, phases: &mut Phases) {
    let desired = survey.desired;
    let wanted = |address: &&Address| {
        let link_local = is_link_local(&address.net) && desired.ports.contains_key(&address.device);
        (link_local || desired.addresses.contains(*address))
            && survey.kept(&address.device).is_some()
            && !survey.rebound.contains(&address.device)
    };
    for address in survey.observed.without_local_route.iter().filter(wanted) {
        phases.push(Phase::Clear, Operation::RemoveAddress(*address));
        phases.push(Phase::Addresses, Operation::AddAddress(*address));
    }
}

/// A port without a link-local address solicits no neighbours. The kernel generates one when a port goes up, and never
/// again.
fn link_locals(survey: &Survey<'_>, phases: &mut Phases) {
    let first = |device| Address { device, net: IpNet::V4(Ipv4Net::default()) };
    for port in survey.desired.ports.keys().filter(|port| !survey.rebound.contains(*port)) {
        // Without carrier the kernel has not started IPv6 yet.
        let Some(link) = survey.kept(port).filter(|link| link.up && link.carrier) else { continue };
        let speaks_ipv6 = link.settings.get(&DeviceSetting::Ipv6Disable) == Some(&0);
        let mut own = survey.observed.addresses.range(first(*port)..).take_while(|(own, _)| own.device == *port);
        if speaks_ipv6
            && !own.any(|(own, _)| is_link_local(&own.net))
            && let Some(mac) = link.mac
        {
            phases.push(Phase::Addresses, Operation::AddAddress(Address { device: *port, net: link_local(mac) }));
        }
    }
}

/// Members of our VRFs that are no longer ports. Outside the VRF their tenants would be in the host's own network, so
/// they are set down first; and a device that leaves with an address leaves a route in table main.
fn released_ports(survey: &Survey<'_>, phases: &mut Phases) {
    for (name, link) in &survey.observed.links {
        let stays = survey.desired.ports.contains_key(name) || survey.observed.owns(name);
        // From a VRF that is no longer ours, only devices with a mark of ours are removed.
        let was_a_port = || survey.vrf_made_by_us(link).is_some() && survey.has_marks_of_a_port(name);
        if stays || (survey.vrf_of(link).is_none() && !was_a_port()) {
            continue;
        }
        if link.up && !survey.closed.contains(name) {
            phases.push(Phase::Clear, Operation::ChangeLink(*name, LinkChange::Up(false)));
        }
        for (setting, _) in DeviceSetting::WANTED {
            phases.push(Phase::Release, Operation::ResetToDefault(*name, setting));
        }
        phases.push(Phase::Release, Operation::ChangeLink(*name, LinkChange::Release));
    }
}

fn removals(survey: &Survey<'_>, phases: &mut Phases) {
    let (desired, observed) = (survey.desired, survey.observed);
    let unwanted = |name: &&InterfaceName| {
        observed.owns(name) && !desired.vrfs.contains_key(name) && !desired.vxlans.contains_key(name)
    };
    let gone = observed.links.keys().filter(unwanted).copied();
    // Only tunnels are recreated.
    let recreated: Vec<_> = survey.recreated.iter().copied().collect();
    // Before a VRF is deleted, the kernel releases its members, and those that are up would receive packets for table
    // main until they are deleted too. So they go first.
    let is_vrf = |name: &InterfaceName| DeviceName::parse(name).is_some_and(|device| device.role == Role::Vrf);
    let (gone_vrfs, gone): (Vec<_>, Vec<_>) = gone.partition(is_vrf);
    for (phase, names) in [(Phase::Remove, gone), (Phase::RemoveVrfs, gone_vrfs), (Phase::Clear, recreated)] {
        if !names.is_empty() {
            phases.push(phase, Operation::RemoveLinks(names));
        }
    }
}
