//! Several controllers that share a store in etcd.

pub mod candidate;
pub mod follower;
pub mod last_known;
mod leader_process;
