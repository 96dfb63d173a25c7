//! Addresses of this machine for what is told beforehand where to listen.

#![allow(unreachable_pub, reason = "also a part of the tests of the store")]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// An address that is free, and stays so until somebody is told of it: Linux gives no connection a port below 32768
/// (`ip_local_port_range`), so that only what is told its port takes one of these, and tests that run at a time begin at
/// different ones.
pub fn unused() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(32).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 22_000).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
