//! Findings about one end of a path; other modules of this folder add to them. Pure.

use super::{
    path_end::{Exit, Tunnel},
    seen::Seen,
};
use crate::objects::{FdbKey, Link};
use cps_peering_config::{
    net::InterfaceName,
    trace::{Fact, Verdict, check},
};

/// Which packets something concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Packets that the own address sends.
    Sent,
    /// Packets that arrive for it.
    Arriving,
    /// All.
    Both,
}

/// Findings about one end of a path.
pub(super) struct Findings<'a> {
    pub(super) seen: &'a Seen<'a>,
    pub(super) issues: Vec<(Way, Fact)>,
}

impl<'a> Findings<'a> {
    pub(super) fn of(seen: &'a Seen<'a>) -> Self {
        Self { seen, issues: Vec::new() }
    }

    /// Adds a finding, for packets in one direction, or both.
    pub(super) fn add(
        &mut self,
        way: Way,
        check: &str,
        verdict: Verdict,
        object: impl Into<String>,
        (observed, expected): (String, Option<String>),
        reason: impl Into<String>,
    ) {
        let (check, object, reason) = (check.to_owned(), object.into(), reason.into());
        self.issues.push((way, Fact { check, verdict, object, observed, expected, reason }));
    }

    /// The step that a device on the path belongs to; none for devices that are not on the path, and for the output
    /// device towards an address on the same host, which the other end reports.
    pub(super) fn check_of_device(&self, device: &InterfaceName) -> Option<&'static str> {
        let end = self.seen.end;
        if *device == end.port {
            Some(check::PORT)
        } else if *device == end.vrf {
            Some(check::VRF)
        } else if end.tunnel().is_some_and(|tunnel| tunnel.device == *device) {
            Some(check::TUNNEL)
        } else if self.underlay_device() == Some(*device) {
            Some(check::ACCEPTANCE)
        } else {
            None
        }
    }

    /// The device to the other host.
    pub(super) fn underlay_device(&self) -> Option<InterfaceName> {
        let index = self.seen.lookups.underlay.as_ref()?.as_ref().ok()?.device?;
        self.seen.links.iter().find(|(_, link)| link.index == index).map(|(name, _)| *name)
    }

    /// Whether the output device towards an address on the same host can carry packets. If not, there is no route to
    /// it, and the other end reports why.
    pub(super) fn exit_is_usable(&self) -> bool {
        let Exit::Device { device, vrf, .. } = self.seen.end.exit else { return true };
        let (Some(link), Some(vrf_link)) = (self.seen.links.get(&device), self.seen.links.get(&vrf)) else {
            return false;
        };
        let carries = |link: &Link| link.up && link.carrier && !link.protodown;
        if device == vrf { link.up } else { carries(link) && link.master == Some(vrf_link.index) && vrf_link.up }
    }
}

pub(super) fn fdb_key(tunnel: Tunnel) -> FdbKey {
    FdbKey { device: tunnel.device, mac: tunnel.mac }
}
