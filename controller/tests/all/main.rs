//! Tests of the whole controller: by its commands, by its API, and as a program. All in one test program, since each would
//! be linked with everything.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(unreachable_pub, reason = "a part of one program")]

mod access;
mod bills;
mod bounds;
mod cli;
mod clock;
mod common;
mod concurrent;
mod console;
mod convergence;
mod crl;
mod durability;
mod etcd;
mod events;
mod failover;
mod fleet;
mod freshness;
mod group;
mod inventories;
mod lifecycle;
mod log;
mod loopback;
mod openapi;
mod operators;
mod paths;
mod pki;
mod place;
mod prefixes;
mod programs;
mod proxy;
mod readers;
mod renewal;
mod room;
mod rules;
mod running;
mod sealing;
mod signer;
mod strangers;
mod tenants;
mod traces;
mod webhooks;
