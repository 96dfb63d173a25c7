//! The table `[connections]` of both settings files: limits on the clients of an HTTP server.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use thiserror::Error;

/// Limits on the clients of an HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionSettings {
    /// How many connections there may be, 16 or more; at most half as many as the process may have open files. Clients
    /// that have not authenticated may hold half of what is not reserved. Default 4096.
    pub total: usize,
    /// How many of them are kept free for the control plane: controllers, operators, monitoring, and `reserved_for`. At most
    /// half of `total`. Default 256.
    pub reserved: usize,
    /// Networks whose clients may use the reserve without a certificate or token, such as health checks of a load
    /// balancer. Default: none.
    pub reserved_for: Vec<IpNet>,
    /// How many connections one address (IPv6: a network of 64 bits) may have that has not authenticated. Raise it if
    /// all clients come through one address translator or proxy. Default 1024.
    pub per_address: usize,
    /// How many connections clients with one certificate may have. Default 512.
    pub per_certificate: usize,
    /// How many connections one account may have. Default 512.
    pub per_account: usize,
    /// How long a TLS handshake and the head of a request may take, and how long a connection may be idle, in seconds.
    /// Default 10.
    pub head_s: u64,
    /// How long a client may send nothing of a body, or read nothing of a response, in seconds. Default 20.
    pub stall_s: u64,
    /// The minimum rate at which a body must be sent and a response read on average, in bytes per second. Default 1024.
    pub min_bytes_per_s: u32,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            total: 4096,
            reserved: 256,
            reserved_for: Vec::new(),
            per_address: 1024,
            per_certificate: 512,
            per_account: 512,
            head_s: 10,
            stall_s: 20,
            min_bytes_per_s: 1024,
        }
    }
}

/// A setting that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("setting `{setting}`: {value} is not between {least} and {most}")]
pub struct OutOfRange {
    setting: &'static str,
    value: u64,
    least: u64,
    most: u64,
}

impl OutOfRange {
    pub(crate) fn check(setting: &'static str, value: u64, legal: RangeInclusive<u64>) -> Result<(), Self> {
        let (least, most) = legal.into_inner();
        if (least..=most).contains(&value) { Ok(()) } else { Err(Self { setting, value, least, most }) }
    }
}

impl ConnectionSettings {
    /// Whether a server can work with these limits.
    pub fn check(&self) -> Result<(), OutOfRange> {
        const LEAST: u64 = 16;
        const MOST: u64 = 1_000_000;
        const HOUR_S: u64 = 3600;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let total = count(self.total);
        OutOfRange::check("connections.total", total, LEAST..=MOST)?;
        OutOfRange::check("connections.reserved", count(self.reserved), 0..=total / 2)?;
        OutOfRange::check("connections.per_address", count(self.per_address), 1..=MOST)?;
        OutOfRange::check("connections.per_certificate", count(self.per_certificate), 1..=MOST)?;
        OutOfRange::check("connections.per_account", count(self.per_account), 1..=MOST)?;
        OutOfRange::check("connections.head_s", self.head_s, 1..=HOUR_S)?;
        OutOfRange::check("connections.stall_s", self.stall_s, 1..=HOUR_S)?;
        OutOfRange::check("connections.min_bytes_per_s", self.min_bytes_per_s.into(), 1..=u64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_leave_no_room_are_named() {
        let check = |text: &str| toml::from_str::<ConnectionSettings>(text).unwrap().check();
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("total = 16\nreserved = 8\nper_address = 1"), Ok(()));
        for (text, field) in [
            ("total = 15", "total"),
            ("total = 100\nreserved = 51", "reserved"),
            ("per_address = 0", "per_address"),
            ("per_certificate = 0", "per_certificate"),
            ("per_account = 0", "per_account"),
            ("head_s = 0", "head_s"),
            ("stall_s = 3601", "stall_s"),
            ("min_bytes_per_s = 0", "min_bytes_per_s"),
        ] {
            let said = check(text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("setting `connections.{field}`: ")), "{said}");
        }
        let network = toml::from_str::<ConnectionSettings>("reserved_for = ['192.0.2.10/33']").unwrap_err().to_string();
        assert!(network.contains("reserved_for"), "{network}");
    }
}
