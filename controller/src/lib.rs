//! The controller: holds the state of VPC peerings and sends each host's agent the host's configuration.
//!
//! ```text
//!  command ─► api ─► engine: model (rules) ─► store (commit) ─► state ─► plan per host ─► push ─► agent
//!                      ▲                                                                   │
//!                      └────────────────────────── HostReport ◄────────────────────────────┘
//! ```
//!
//! | module | what comes in | what goes out |
//! |---|---|---|
//! | [`api`] | HTTP requests | commands; responses |
//! | [`access`] | credentials of a request | the caller, or why authentication failed |
//! | [`model`] | state, command, time, ids | an error, or changed records. Pure |
//! | [`charging`] | metered periods, prices | amounts. Pure |
//! | [`paths`] | state, kernel state from hosts | why one address reaches another, or does not. Pure |
//! | [`plan`] | state | the configuration of one host. Pure |
//! | [`audit`] | commands and their outcomes | entries of the audit trail |
//! | [`events`] | changes of commands | events for accounts and operators. Pure |
//! | `feed` | a position between events | the next ones that an account or an operator can see |
//! | [`digest`] | bytes | their SHA-256, in hexadecimal. Pure |
//! | [`clock`] | the machine's clocks | the elapsed time. Pure |
//! | [`store`] | changed records | the same after a crash |
//! | [`engine`] | commands, reports of agents | responses; targets for the push; traffic counted. The one writer |
//! | [`hosts`] | targets | configurations, shares of bandwidths and revocation lists on their way to agents; reports and counters |
//! | [`cluster`] | the leader in etcd | leadership, or requests forwarded to the leader |
//! | [`webhooks`] | events, URLs | signed requests |
//! | [`instruments`], [`metrics`] | measurements, the state | metrics for Prometheus |
//!
//! The program itself, `main.rs`, has a map of its own parts. The command line is a crate of its own, below `cli`.

pub mod access;
pub mod api;
pub mod audit;
pub mod charging;
pub mod clock;
pub mod cluster;
pub mod diagnosis;
pub mod digest;
pub mod engine;
pub mod events;
mod feed;
pub mod hosts;
pub mod instruments;
pub mod metrics;
pub mod model;
pub mod paths;
pub mod plan;
pub mod store;
pub mod webhooks;

use cps_peering_file as file;

#[cfg(test)]
#[path = "../../tests/src/fuzz.rs"]
mod fuzz;
