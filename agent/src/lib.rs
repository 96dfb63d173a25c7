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
//! | [`ledger`] | an accepted configuration | the same after a reboot |
//! | [`reconcile`] | configurations, events | operations for the kernel; the report |
//! | [`extent`] | two configurations | the part of the host in which they differ. Pure |
//! | [`compile`] | a configuration | kernel objects that should be there. Pure |
//! | [`diff`] | objects that should be there, objects that are | operations in order, and what is in the way. Pure |
//! | [`kernel`] | operations | objects that are there; events. The only place that speaks netlink |
//! | [`owner`] | names and numbers | what is ours. The only place that decides it |
//!
//! [`daemon`] puts them together; [`command`] holds what an operator does by hand. Two threads besides those of the HTTP server: one reconciles, one listens to the kernel's events.

pub mod api;
pub mod command;
pub mod compile;
pub mod daemon;
pub mod diff;
pub mod extent;
pub mod kernel;
pub mod ledger;
mod metrics;
pub mod objects;
pub mod owner;
pub mod reconcile;
pub mod scope;
