//! Policy rules as values.

use super::Family;
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use std::fmt;

/// A policy rule that sends everything to a table or to `l3mdev`. Rules with selectors are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The family.
    pub family: Family,
    /// The priority; lower comes first.
    pub priority: u32,
    /// What it does.
    pub lookup: Lookup,
    /// The origin (`FRA_PROTOCOL`).
    pub protocol: u8,
}

/// What a [`Rule`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// Looks up table `local` (255).
    Local,
    /// Looks up the table of the packet's VRF.
    L3mdev,
}

/// A policy rule of another program that the kernel evaluates before `l3mdev`: packets that it matches are routed, or
/// stopped, before the VRF's table is looked up at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleAhead {
    /// The family.
    pub family: Family,
    /// The priority.
    pub priority: u32,
    /// The name of the input interface, if it is selected.
    pub iif: Option<InterfaceName>,
    /// The name of the output interface, if it is selected.
    pub oif: Option<InterfaceName>,
    /// The sources that it selects, if not all.
    pub from: Option<IpNet>,
    /// Whether it selects packets with a mark that is not 0.
    pub marked: bool,
    /// Whether it selects packets of a tunnel with an id that is not 0.
    pub tunnel: bool,
    /// Whether it selects what user 0 sends, or any user. Forwarded packets count as user 0's.
    pub root: bool,
    /// Whether it selects by something that no route depends on: protocol, ports, type of service and the like.
    pub of_service: bool,
    /// Whether the selection is inverted.
    pub inverted: bool,
    /// The rule in the terms of `ip rule`, without its priority.
    pub text: String,
}

impl Default for RuleAhead {
    /// Selects everything.
    fn default() -> Self {
        Self {
            family: Family::V4,
            priority: 0,
            iif: None,
            oif: None,
            from: None,
            marked: false,
            tunnel: false,
            root: true,
            of_service: false,
            inverted: false,
            text: String::new(),
        }
    }
}

impl RuleAhead {
    /// Whether it can select a packet that has neither a mark nor a tunnel id and that user 0 sends or that is
    /// forwarded.
    pub fn may_select_unmarked(&self) -> bool {
        self.inverted || !(self.marked || self.tunnel || !self.root)
    }

    /// Whether it can select a packet that has a mark, but no tunnel id, and that user 0 sends or that is forwarded.
    pub fn may_select_marked(&self) -> bool {
        self.inverted || (self.root && !self.tunnel)
    }

    /// Whether it can select a route lookup through a device, which comes from the host itself and has no source yet
    /// (`RTM_GETROUTE` with `RTA_DST` and `RTA_OIF` only).
    pub fn may_select_lookups(&self) -> bool {
        let of_the_host = self.iif.as_ref().is_none_or(|iif| iif.as_bytes() == b"lo");
        let without_source = self.from.is_none_or(|from| from.addr().is_unspecified());
        self.inverted || (self.may_select_unmarked() && of_the_host && without_source)
    }
}

impl fmt::Display for RuleAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V6 { "-6 rule" } else { "rule" };
        write!(f, "{family} priority {} {}", self.priority, self.text)
    }
}
