//! The agent's settings.

use super::TracingSettings;
use crate::{connections::ConnectionSettings, log_format::LogFormat, report::UNDERLAY_MTUS, tls::Tls};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf};

/// The agent's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// Where the agent listens for the controller.
    pub listen: SocketAddr,
    /// Where the last accepted configuration is stored, for instance `/var/lib/cps-peering-agent/ledger`. The folder
    /// must exist.
    pub ledger: PathBuf,
    /// The UDP port of VXLAN; all hosts must use the same one. The default is 4789 (RFC 7348 section 8).
    #[serde(default = "default_vxlan_port")]
    pub vxlan_port: u16,
    /// The MTU of the path between hosts, in bytes, 68 to 65 535. By default that of the interface with the underlay
    /// address. Set it if that address is on a loopback interface.
    #[serde(default, deserialize_with = "underlay_mtu")]
    pub underlay_mtu: Option<u32>,
    /// The interval of the periodic comparison of the whole kernel with the configuration, in seconds. Default 60.
    /// Sysctls of ports and peering devices that the kernel does not announce are read every 3 seconds in addition.
    #[serde(default = "default_resync_s")]
    pub resync_s: u64,
    /// The buffer for the kernel's events until the agent has read them, in bytes. If it overflows everything is
    /// compared instead, which the report counts. Default 1 MiB.
    #[serde(default = "default_event_buffer")]
    pub event_buffer: usize,
    /// The probe interval of the path to each host of a peer, in seconds, 1 to 3 600; 0: never. If there are many, they
    /// are probed less often: a host sends at most 50 packets per second. Default 5.
    #[serde(default = "default_probe_interval_s", deserialize_with = "probe_interval_s")]
    pub probe_interval_s: u64,
    /// The log format: `text` or `json`. Default `text`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// The size of the underlay filter: one entry for each VNI that arrives here, and one for each host that may send
    /// with it. Senders without an entry are not accepted, and the host is not in sync. 1 024 to 67 108 864; an entry
    /// takes about 100 bytes of kernel memory once it is in use, and 16 before. Default 1 048 576.
    #[serde(default = "default_underlay_filter_entries", deserialize_with = "underlay_filter_entries")]
    pub underlay_filter_entries: u32,
    /// A further address where `/metrics` and `/healthz` are served without TLS. By default there is none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Limits on the clients of the agent's HTTP server.
    #[serde(default)]
    pub connections: ConnectionSettings,
    /// Where spans of traces are sent that the controller has begun. By default nowhere.
    #[serde(default)]
    pub tracing: TracingSettings,
    /// The agent's certificate and its trusted CAs; the agent does not start without this setting.
    // Tables come last.
    #[serde(default)]
    pub tls: Option<Tls>,
}

fn default_vxlan_port() -> u16 {
    4789
}

fn default_resync_s() -> u64 {
    60
}

fn default_probe_interval_s() -> u64 {
    5
}

fn default_event_buffer() -> usize {
    1 << 20
}

fn default_underlay_filter_entries() -> u32 {
    1 << 20
}

fn underlay_mtu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let mtu = Option::<u32>::deserialize(from)?;
    match mtu.filter(|mtu| !UNDERLAY_MTUS.contains(mtu)) {
        None => Ok(mtu),
        Some(mtu) => {
            let (least, most) = UNDERLAY_MTUS.into_inner();
            Err(D::Error::custom(format!("underlay_mtu is {mtu}, and must be {least} to {most}")))
        }
    }
}

fn probe_interval_s<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    const MOST: u64 = 3600;
    let interval = u64::deserialize(from)?;
    if interval <= MOST {
        Ok(interval)
    } else {
        Err(D::Error::custom(format!("probe_interval_s is {interval}, and must be 0 (never) to {MOST}")))
    }
}

fn underlay_filter_entries<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    const RANGE: RangeInclusive<u32> = 1 << 10..=1 << 26;
    let entries = u32::deserialize(from)?;
    if RANGE.contains(&entries) {
        Ok(entries)
    } else {
        let (least, most) = RANGE.into_inner();
        Err(D::Error::custom(format!("underlay_filter_entries is {entries}, and must be {least} to {most}")))
    }
}
