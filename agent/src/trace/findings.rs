//! What is not as it should be at one end of a path, as it is found: others in this folder add to it. Pure.

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
    /// Those that the own address sends.
    Sent,
    /// Those that arrive for it.
    Arriving,
    /// All.
    Both,
}

/// What was found at one end of a path.
pub(super) struct Findings<'a> {
    pub(super) seen: &'a Seen<'a>,
    pub(super) issues: Vec<(Way, Fact)>,
}

impl<'a> Findings<'a> {
    pub(super) fn of(seen: &'a Seen<'a>) -> Self {
        Self { seen, issues: Vec::new() }
    }

    /// Adds something that is not as it should be, for packets that go one way, or both.
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

    /// The step that a device on the path belongs to; none for devices that the path does not meet, and for the one through which it
    /// leaves for an address on the same host, of which the other end tells.
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

    /// Whether the device through which packets leave for an address on the same host can carry them. Where it cannot, no route leads
    /// there, and the other end tells why.
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
