//! The reconciler's options, and the underlay parameters that follow from them.

use super::host_problem;
use crate::{
    compile::{ETHERNET_MTU, UnderlayParams},
    objects::{LinkKind, Observed},
};
use cps_peering_config::{
    ValidHostConfig,
    report::{Problem, ProblemKind},
    settings::AgentSettings,
};
use std::{net::IpAddr, time::Duration};

/// The reconciler's options.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
    /// The MTU of the path between hosts in bytes; by default that of the interface with the underlay address.
    pub underlay_mtu: Option<u32>,
    /// The interval of the periodic comparison.
    pub resync: Duration,
}

impl From<&AgentSettings> for Options {
    fn from(settings: &AgentSettings) -> Self {
        Self {
            vxlan_port: settings.vxlan_port,
            underlay_mtu: settings.underlay_mtu,
            resync: Duration::from_secs(settings.resync_s.max(1)),
        }
    }
}

impl Options {
    /// The MTU between hosts, and what is wrong with the underlay.
    pub fn underlay_params(&self, config: &ValidHostConfig, observed: &Observed) -> (UnderlayParams, Option<Problem>) {
        let underlay = underlay_link(config.underlay, observed);
        let mtu = match underlay {
            Some((LinkKind::Loopback, _)) | None => ETHERNET_MTU,
            Some((_, mtu)) => mtu,
        };
        let underlay_params =
            UnderlayParams { vxlan_port: self.vxlan_port, underlay_mtu: self.underlay_mtu.unwrap_or(mtu) };
        let trouble = match underlay {
            None => {
                let reason = "no interface of this host has the underlay address";
                Some(host_problem(ProblemKind::Missing, address_object(config), reason))
            }
            // On an IPv4 underlay, routers and hosts fragment packets.
            Some(_) => underlay_params.small(config.underlay).filter(|_| config.underlay.is_ipv6()).map(|reason| {
                host_problem(ProblemKind::Conflict, format!("underlay MTU {}", underlay_params.underlay_mtu), reason)
            }),
        };
        (underlay_params, trouble)
    }

    /// Whether the MTU is a guess: while the underlay address is on no interface, the assumed value is not reported to
    /// others.
    pub(super) fn assumes_mtu(&self, config: &ValidHostConfig, problems: &[Problem]) -> bool {
        let is_nowhere =
            |problem: &Problem| problem.kind == ProblemKind::Missing && problem.object == address_object(config);
        self.underlay_mtu.is_none() && problems.iter().any(is_nowhere)
    }
}

/// How a problem names the underlay address.
fn address_object(config: &ValidHostConfig) -> String {
    format!("address {}", config.underlay)
}

/// Kind and MTU of the interface with the underlay address.
fn underlay_link(underlay: IpAddr, observed: &Observed) -> Option<(LinkKind, u32)> {
    let (address, _) = observed.addresses.iter().find(|(address, _)| address.net.addr() == underlay)?;
    let link = observed.links.get(&address.device)?;
    Some((link.kind, link.mtu))
}
