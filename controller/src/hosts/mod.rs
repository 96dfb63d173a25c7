//! Communication with hosts' agents.

pub mod client;
pub mod crl;
pub mod diagnosis;
pub mod issuer;
pub mod path_health;
pub mod probe;
pub mod push;
pub mod renewal;
mod seen;
pub mod shares;
pub mod trace;
pub mod traffic;
