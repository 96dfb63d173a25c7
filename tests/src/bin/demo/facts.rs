//! Facts that a run of the demo has established.

use serde::Serialize;

/// The facts, in the order in which they are established. Null if a run did not get that far.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// Whether A reached anyone before it was peered.
    pub ping_before: Option<bool>,
    /// Whether A reached B on another host, IPv4.
    pub ping_v4: Option<bool>,
    /// The same, IPv6.
    pub ping_v6: Option<bool>,
    /// Whether A reached B on its own host, IPv4.
    pub same_host_v4: Option<bool>,
    /// The same, IPv6.
    pub same_host_v6: Option<bool>,
    /// Whether A reached E in the other region, IPv4.
    pub cross_region_v4: Option<bool>,
    /// The same, IPv6.
    pub cross_region_v6: Option<bool>,
    /// Whether A reached C, which is peered with B only.
    pub transitive: Option<bool>,
    /// Whether D, which has B's addresses and no peering, received anything from A, or reached it.
    pub overlapping_vpc_reached: Option<bool>,
    /// From calling create until packets of a 1 kHz stream have arrived in both directions.
    pub create_to_first_packet_ms: Option<f64>,
    /// From removing prefixes from a peering until the last packet of a 1 kHz stream between them, in the direction
    /// that stopped later.
    pub narrow_to_last_packet_ms: Option<f64>,
    /// How long the call of delete took.
    pub delete_call_ms: Option<f64>,
    /// From calling delete until the last packet of a 1 kHz stream, in the direction that stopped later.
    pub delete_to_last_packet_ms: Option<f64>,
    /// How many packets of 1 kHz streams in both directions were lost over SIGKILL and restart of an agent.
    pub lost_on_agent_restart: Option<u64>,
    /// Objects on the hosts that differ after teardown from what existed before anything was applied.
    pub residue: Option<usize>,
}
