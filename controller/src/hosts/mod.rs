//! What talks to hosts' agents.

pub mod client;
pub mod crl;
pub mod diagnosis;
pub mod probe;
pub mod push;
pub mod shares;
pub mod trace;
pub mod traffic;
