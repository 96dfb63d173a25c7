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
//! | [`model`] | state, command, time, ids | a refusal, or changed records. Pure |
//! | [`plan`] | state | what one host must have. Pure |
//! | [`store`] | changed records | the same after a crash |
//! | [`engine`] | commands, reports of agents | answers; targets for the push. The one writer |
//! | [`shares`] | what hosts send | parts of bandwidths that they share |
//! | [`traffic`] | what hosts have counted | totals, and the last hour |
//! | [`push`] | targets | configurations on their way to agents; reports |
//! | [`api`] | HTTP requests | commands; answers |
//! | [`forward`] | HTTP requests, where another controller leads | the same, passed on |
//! | [`cli`] | a command line | HTTP requests |

pub mod access;
pub mod agents;
pub mod api;
pub mod audit;
pub mod charging;
pub mod cli;
pub mod engine;
pub mod forward;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod push;
pub mod shares;
pub mod store;
pub mod traffic;
