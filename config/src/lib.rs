//! What the controller and the agents of cps-peering must agree on. No I/O happens here.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | names of accounts, regions, hosts, VPCs and peerings |
//! | [`net`] | VNI, interface name: numbers and names with limits set by the kernel or the wire format |
//! | [`prefix_set`] | set operations on lists of prefixes |
//! | [`naming`] | names and numbers of what agents create in a kernel: devices, tables, Ethernet and next hop addresses |
//! | [`number`] | whole numbers in either notation |
//! | [`time`] | points in time as text |
//! | [`revision`] | the order of configurations |
//! | [`cluster`] | which controllers belong together |
//! | [`mod@format`] | how stored and transmitted data stays compatible across versions |
//! | [`host_config`] | [`HostConfig`]: the desired state of a host; [`HostPatch`]: the difference between two of them |
//! | [`traffic`] | traffic between peers, and shares of a common limit |
//! | [`report`] | [`HostReport`]: the actual state of a host |
//! | [`quota`] | what quotas count |
//! | [`inventory`] | the document that operators apply |
//! | [`retry`] | how long to wait before a retry |
//! | [`trace`] | a trace query to an agent, and its answer |
//! | [`probe`] | a probe query to an agent, and its answer |
//! | [`agent_api`] | paths and error body of the agent's HTTP interface |
//! | [`settings`] | the settings files of both daemons |
//! | [`text`] | which names and descriptions are valid, and how foreign text is quoted and displayed |
//! | [`connections`] | limits on the clients of their HTTP servers |
//! | [`tls`] | where certificates are, and the names in them |
//!
//! Values are validated on construction: a [`Vni`](net::Vni) or an [`InterfaceName`](net::InterfaceName) that exists is
//! valid, and a [`ValidHostConfig`] satisfies every rule that can be checked for one host alone.

pub mod agent_api;
pub mod cluster;
pub mod connections;
pub mod diagnosis;
pub mod format;
pub mod host_config;
pub mod id;
pub mod inventory;
pub mod log_format;
pub mod naming;
pub mod net;
pub mod number;
pub mod prefix_set;
pub mod probe;
pub mod quota;
pub mod report;
pub mod retry;
pub mod revision;
pub mod settings;
pub mod text;
pub mod time;
pub mod tls;
pub mod trace;
pub mod traffic;

pub use host_config::{HostConfig, HostPatch, InvalidHostConfig, SharedHostConfig, ValidHostConfig};
pub use report::HostReport;
pub use revision::{Revision, SeenRevision};

#[cfg(test)]
#[path = "../../tests/src/fuzz.rs"]
mod fuzz;
