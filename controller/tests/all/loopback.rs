//! Addresses of this machine for programs that are configured to listen there.

#![allow(unreachable_pub, reason = "also a part of the tests of the store")]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// A free address, which stays free until it is used: Linux gives no connection a port below 32768
/// (`ip_local_port_range`), so that only programs with an explicit port take one of these, and concurrent tests begin at
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
