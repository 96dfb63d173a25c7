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
//! | [`intake`] | configurations | the same, checked and stored one after the other; those that should be applied before that |
//! | [`ledger`] | an accepted configuration | the same after a reboot |
//! | [`cluster`] | which cluster configures this host | the same after a reboot; who is refused |
//! | [`reconcile`] | configurations, events | operations for the kernel; the report |
//! | [`shares`] | grants of the controller | what the host may use of limits that it shares with others. Pure |
//! | [`traffic`] | the kernel's counters | the traffic of each side. Pure |
//! | [`trace`] | a trace query, the kernel | what stops packets on the path at this end |
//! | [`probe`] | a probe query | packets to a gateway on another host, and what came back |
//! | [`ports`] | a configuration, the interfaces of the host | which interfaces its ports are. Pure |
//! | [`dirty_set`] | two configurations | the part of the host in which they differ. Pure |
//! | [`filter`] | what is behind a device | the programs that decide what the device accepts. Pure |
//! | [`compile`] | a configuration | desired kernel objects. Pure |
//! | [`diff`] | desired and observed objects | operations in order, and what is in the way. Pure |
//! | [`kernel`] | operations | observed objects; events. The only place that speaks netlink |
//! | [`neighbours`], `reassembly` | how full the kernel's neighbour tables are | how ports may solicit neighbours; room for fragments |
//! | [`service`] | reports, SIGHUP | watchdog notifications and a status line for the service manager; settings read again |
//! | [`ownership`] | names and numbers | what is ours. The only place that decides it |
//! | [`objects`] | – | the kernel's objects as values: links, routes, next hops, neighbours, filters, limits |
//! | [`scope`] | a part of the host | which objects of the kernel belong to it. Pure |
//! | `tls` | what the controller sends for TLS | revocation lists, and a certificate that is used from then on |
//! | `metrics` | reports | metrics for Prometheus |
//! | `file` | values | the agent's state files, replaced atomically |
//!
//! [`daemon`] puts them together; [`command`] holds the operator's commands. Besides the threads of the HTTP server,
//! one thread reconciles, others listen to the kernel's events, watch the neighbour tables, and send probes.

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
mod reassembly;
pub mod reconcile;
pub mod scope;
pub mod service;
pub mod shares;
#[cfg(test)]
mod testing;
mod tls;
pub mod trace;
pub mod traffic;

#[cfg(test)]
#[path = "../../tests/src/fuzz.rs"]
mod fuzz;
