//! The settings files of both daemons, as shipped beside this crate: `agent.toml` and `controller.toml`.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// The agent's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// Where the controller reaches the agent.
    pub listen: SocketAddr,
    /// Where the last accepted configuration is kept, for instance `/var/lib/cps-peering-agent/ledger.json`. The folder
    /// must exist.
    pub ledger: PathBuf,
    /// The UDP port of VXLAN; all hosts must use the same one. The default is 4789 (RFC 7348 section 8).
    #[serde(default = "default_vxlan_port")]
    pub vxlan_port: u16,
    /// The MTU of the path between hosts, in bytes. By default that of the interface which holds the underlay address.
    /// To be set where that address is on a loopback interface.
    #[serde(default)]
    pub underlay_mtu: Option<u32>,
    /// How often the kernel is compared with the configuration when no event asks for it, in seconds. Default 60. Drift that
    /// the kernel does not announce (some sysctls of devices) stays for so long at most.
    #[serde(default = "default_resync_s")]
    pub resync_s: u64,
    /// Room for the kernel's events until the agent has taken them, in bytes. Where it is too small everything is compared
    /// instead, which the report counts. Default 1 MiB.
    #[serde(default = "default_event_buffer")]
    pub event_buffer: usize,
}

fn default_vxlan_port() -> u16 {
    4789
}

fn default_resync_s() -> u64 {
    60
}

fn default_event_buffer() -> usize {
    1 << 20
}

/// The controller's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerSettings {
    /// Where the HTTP interfaces listen.
    pub listen: SocketAddr,
    /// The embedded store, for instance `/var/lib/cps-peering-controller/store.redb`. The folder must exist.
    pub store: PathBuf,
    /// A file that holds the operators' bearer token. It must not be readable by others.
    pub operator_token_file: PathBuf,
    /// How long a delete waits for the hosts to confirm before it answers with `draining`, in milliseconds. Default 2000.
    #[serde(default = "default_delete_wait_ms")]
    pub delete_wait_ms: u64,
    /// How long a host may hold a peering in `provisioning` before it is called `active` without it, in seconds.
    /// Default 30.
    #[serde(default = "default_provisioning_grace_s")]
    pub provisioning_grace_s: u64,
    /// How often the controller asks a host that is in sync how it stands, in seconds. Default 15.
    #[serde(default = "default_poll_s")]
    pub poll_s: u64,
}

fn default_delete_wait_ms() -> u64 {
    2000
}

fn default_provisioning_grace_s() -> u64 {
    30
}

fn default_poll_s() -> u64 {
    15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_files_are_legal() {
        let agent: AgentSettings = toml::from_str(include_str!("../agent.toml")).unwrap();
        assert_eq!(agent.vxlan_port, 4789);
        let controller: ControllerSettings = toml::from_str(include_str!("../controller.toml")).unwrap();
        assert_eq!(controller.delete_wait_ms, 2000);
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let error = toml::from_str::<AgentSettings>("listen = '[::]:1'\nledgr = 'x'\n").unwrap_err().to_string();
        assert!(error.contains("ledgr"), "{error}");
    }
}
