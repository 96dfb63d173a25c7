//! The lab: several hosts on one kernel, each a network namespace with its own agent, an underlay that routes between
//! them, the controller, and the tenants' servers. The integration tests, `tests/demo` and `tests/lab` use it.
//!
//! ```text
//!             ┌────────────────── underlay: a bridge per region, routed between ──────────────────┐
//!   ctl ──────┤                 │                                │                                │
//!  (controller)            h1: uplink                       h2: uplink                       h3: uplink
//!                          agent, VRFs                      agent, VRFs                      agent, VRFs
//!                          eth1   eth2                      eth1   eth2                      eth1
//!                           │      │                         │      │                         │
//!                       servers, one namespace per port of the inventory, interface eth0
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`topology`] | inventories written in Rust |
//! | [`lab`] | [`Lab`]: builds all that, runs the daemons, takes it down |
//! | [`netns`] | a network namespace, commands and sockets in it |
//! | `listing` | persistent `ip`, `bridge` and `tc` processes for queries |
//! | [`snapshot`] | the objects in a namespace's kernel, by `ip`, `bridge` and `tc`, and the difference between two
//! readings |
//! | [`monitor`] | what a namespace's kernel announces meanwhile |
//! | [`stream`] | a paced stream of packets with the time of every receipt |
//! | [`probe`] | packets to where they must not get, and which listener received which |
//! | [`frames`] | frames byte by byte, and how to send them |
//! | [`command`], [`wait`], [`http`] | running a command, waiting for a condition, one HTTP request |
//!
//! It needs root and a kernel with VRF: run it through `tests/kernel`.

pub mod command;
pub mod frames;
pub mod http;
pub mod lab;
mod listing;
pub mod monitor;
pub mod netns;
pub mod probe;
pub mod snapshot;
pub mod stream;
pub mod topology;
pub mod wait;

pub use lab::{Lab, Release, Server, Store};
pub use topology::Topology;
