//! The controller: holds the state of VPC peerings and sends each host's agent what that host must have.
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
//! | [`access`] | credentials of a request | who calls, or why nobody is let in |
//! | [`model`] | state, command, time, ids | an error, or changed records. Pure |
//! | [`charging`] | metered periods, prices | amounts. Pure |
//! | [`paths`] | state, what hosts say of their kernels | why one address reaches another, or does not. Pure |
//! | [`plan`] | state | what one host must have. Pure |
//! | [`audit`] | commands and their outcomes | entries of the audit trail |
//! | [`events`] | what commands changed | what accounts and operators are told of it. Pure |
//! | `feed` | a place between events | the next ones that an account or an operator may see |
//! | [`digest`] | bytes | their SHA-256, in hexadecimal. Pure |
//! | [`clock`] | what the machine's clocks say | the time that has passed for certain. Pure |
//! | [`store`] | changed records | the same after a crash |
//! | [`engine`] | commands, reports of agents | responses; targets for the push; traffic counted. The one writer |
//! | [`hosts`] | targets | configurations, shares of bandwidths and revocation lists on their way to agents; reports and counters |
//! | [`cluster`] | who leads in etcd | leading, or requests forwarded to the leader |
//! | [`webhooks`] | events, where they are to be sent | signed requests |
//! | [`instruments`], [`metrics`] | what is measured, the state | metrics for Prometheus |
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
