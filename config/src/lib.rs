//! What the controller and the agents of cps-peering must agree on. No I/O happens here.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | names of accounts, regions, hosts, VPCs and peerings |
//! | [`net`] | VNI, interface name: numbers and names with the kernel's own limits |
//! | [`prefix_set`] | what lists of prefixes have in common |
//! | [`naming`] | names and numbers of what agents make in a kernel: devices, tables, Ethernet and next hop addresses |
//! | [`number`] | whole numbers, however they are written |
//! | [`time`] | points in time as text |
//! | [`revision`] | the order of configurations |
//! | [`cluster`] | which controllers belong together |
//! | [`mod@format`] | how what is stored and transmitted outlives a version |
//! | [`host_config`] | [`HostConfig`]: what a host must have; [`HostPatch`]: the difference between two of them |
//! | [`traffic`] | what passes between peers, and shares of a common limit |
//! | [`report`] | [`HostReport`]: what a host has |
//! | [`quota`] | what quotas count |
//! | [`inventory`] | the document that operators apply |
//! | [`retry`] | how long to wait before what failed is tried again |
//! | [`trace`] | what an agent is asked of a path, and what it answers |
//! | [`probe`] | what an agent is asked to send along a path, and what came back |
//! | [`agent_api`] | paths and error body of the agent's HTTP interface |
//! | [`settings`] | the settings files of both daemons |
//! | [`text`] | which names and descriptions are legal, and how texts of others are quoted and shown |
//! | [`connections`] | what clients may take of their HTTP servers |
//! | [`tls`] | where certificates are, and the names that they carry |
//!
//! Values are checked where they are made: a [`Vni`](net::Vni) or an [`InterfaceName`](net::InterfaceName) that
//! exists is legal, and a [`ValidHostConfig`] has passed every rule that one host alone can check.

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
