//! The agent: brings the Linux kernel of one host to what its [`HostConfig`](cps_peering_config::HostConfig) says, and
//! keeps it there.
//!
//! ```text
//!  push ─► api ─► ledger ─► reconcile: observe ─► compile ─► diff ─► apply ─► observe again ─► report
//!                              ▲                                                                  │
//!  kernel events ──────────────┘                                   status, answer to the push ◄───┘
//! ```
//!
//! | module | what comes in | what goes out |
//! |---|---|---|
//! | [`api`] | HTTP requests of the controller | accepted configurations, in order; reports |
//! | [`intake`] | configurations | the same checked and stored, one after the other; those worth working on before that |
//! | [`ledger`] | an accepted configuration | the same after a reboot |
//! | [`cluster`] | who configures this host | the same after a reboot; who else is refused |
//! | [`reconcile`] | configurations, events | operations for the kernel; the report |
//! | [`shares`] | grants of the controller | what the host may use of limits that it shares with others. Pure |
//! | [`traffic`] | the kernel's counters | what has passed for each side. Pure |
//! | [`trace`] | a question about a path, the kernel | what stops packets on it at this end |
//! | [`probe`] | a question about a path | packets to a gateway on another host, and what came back |
//! | [`ports`] | a configuration, the interfaces of the host | which of them its ports are. Pure |
//! | [`dirty_set`] | two configurations | the part of the host in which they differ. Pure |
//! | [`filter`] | what is behind a device | the program that decides what the device takes in. Pure |
//! | [`compile`] | a configuration | kernel objects that should be there. Pure |
//! | [`diff`] | objects that should be there, objects that are | operations in order, and what is in the way. Pure |
//! | [`kernel`] | operations | objects that are there; events. The only place that speaks netlink |
//! | [`neighbours`] | how full the kernel's neighbour tables are | how ports may ask for neighbours |
//! | [`service`] | reports, SIGHUP | signs of life and a line of status for the service manager; settings read again |
//! | [`ownership`] | names and numbers | what is ours. The only place that decides it |
//! | [`objects`] | – | the kernel's objects as values: links, routes, next hops, neighbours, filters, limits |
//! | [`scope`] | a part of the host | which objects of the kernel belong to it. Pure |
//! | `tls` | what the controller brings for TLS | revocation lists, and a certificate that is used from then on |
//! | `metrics` | reports | figures for Prometheus |
//! | `file` | values | the agent's state files, replaced atomically |
//!
//! [`daemon`] puts them together; [`command`] holds what an operator does by hand. Besides the threads of the HTTP server one reconciles, others listen to the kernel's events, look after neighbour tables, and send probes.

pub mod api;
pub mod cluster;
pub mod command;
pub mod compile;
pub mod daemon;
pub mod diff;
pub mod dirty_set;
mod file;
pub mod filter;
pub mod intake;
pub mod kernel;
pub mod ledger;
mod metrics;
pub mod neighbours;
pub mod objects;
pub mod ownership;
pub mod ports;
pub mod probe;
pub mod reconcile;
pub mod scope;
pub mod service;
pub mod shares;
mod tls;
pub mod trace;
pub mod traffic;

#[cfg(test)]
#[path = "../../tests/src/fuzz.rs"]
mod fuzz;
