//! The kernel's neighbour tables: one per family, for all devices of all network namespaces.

use super::{
    KernelError,
    links::mac,
    socket::Socket,
    uapi::{neighbour, neighbour_table, rtm},
    wire::{Batch, address, attributes, put_address, u8_at, u16_at, u32_at},
};
use crate::objects::{Family, ForeignNeighbour, Mac, NeighbourEntry};
use cps_peering_config::net::InterfaceName;
use std::{fs, io, net::IpAddr};

/// A neighbour table as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourTable {
    /// The family.
    pub family: Family,
    /// How many entries it has, permanent ones included.
    pub entries: u32,
    /// How many dynamic entries it may have (`gc_thresh3`): beyond that, no new neighbours are resolved for anyone.
    pub limit: u32,
}

/// A neighbour that does not answer, or has not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unresolved {
    /// The index of the device.
    pub device: u32,
    /// Whether the kernel is still soliciting it. It evicts the others as soon as it needs room.
    pub incomplete: bool,
    /// Its address.
    pub address: IpAddr,
}

/// How a device solicits neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// How many probes it sends (`mcast_solicit`). With 0 an address that is not known already is not resolved.
    pub probes: u32,
    /// How long it waits after each probe (`retrans_time_ms`), in milliseconds.
    pub interval_ms: u32,
}

impl Solicitation {
    /// The kernel's default.
    pub const USUAL: Solicitation = Solicitation { probes: 3, interval_ms: 1000 };
}

/// Reads one table's figures. The cost does not depend on its content.
pub fn neighbour_table(family: Family) -> Result<NeighbourTable, KernelError> {
    // The tables' own figures come first, and then those of each device, which are not needed.
    let payload = Socket::open()?.first("neighbour tables", rtm::GET_NEIGHBOUR_TABLE, |body| {
        body.push(family.number());
        body.extend([0; neighbour_table::HEADER_LEN - 1]);
    })?;
    let find = |wanted| {
        attributes(&payload, neighbour_table::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    };
    let entries = find(neighbour_table::NDTA_CONFIG).and_then(|config| u32_at(config, 4));
    let limit = find(neighbour_table::NDTA_THRESH3).and_then(|value| u32_at(value, 0));
    let (entries, limit) = entries.zip(limit).ok_or_else(|| KernelError::Socket {
        what: "read a neighbour table",
        source: io::Error::from(io::ErrorKind::InvalidData),
    })?;
    Ok(NeighbourTable { family, entries, limit })
}

/// Lists the neighbours that have not answered. The cost is proportional to the table's size.
pub fn unresolved(family: Family) -> Result<Vec<Unresolved>, KernelError> {
    Socket::open()?.dump(
        "neighbours",
        rtm::GET_NEIGHBOUR,
        |body| {
            body.push(family.number());
            body.extend([0; neighbour::HEADER_LEN - 1]);
        },
        Vec::new,
        |found, payload| found.extend(read(payload)),
    )
}

/// Whether a program has entered a neighbour. The kernel itself makes entries without resolution (`NUD_NOARP`) for groups and
/// for broadcasts only.
pub(super) fn is_entered(payload: &[u8]) -> bool {
    let state = u16_at(payload, 8).unwrap_or_default();
    let is_proxy = u8_at(payload, neighbour::FLAGS_AT).is_some_and(|flags| flags & neighbour::NTF_PROXY != 0);
    let of_kernel = || {
        state & neighbour::NUD_NOARP != 0
            && attributes(payload, neighbour::HEADER_LEN).any(|(kind, value)| match kind {
                neighbour::NDA_DST => address(value).is_some_and(|address| address.is_multicast()),
                neighbour::NDA_LLADDR => mac(value).is_some_and(Mac::is_group),
                _ => false,
            })
    };
    // Bridges have entries of their own.
    u8_at(payload, 0) != Some(neighbour::AF_BRIDGE)
        && (is_proxy || (state & (neighbour::NUD_PERMANENT | neighbour::NUD_NOARP) != 0 && !of_kernel()))
}

/// A neighbour of a port that a program has entered. `port` is the port with an index, if it is one.
pub(super) fn entered<'a>(payload: &[u8], port: impl Fn(u32) -> Option<&'a InterfaceName>) -> Option<ForeignNeighbour> {
    if !is_entered(payload) {
        return None;
    }
    let device = *port(u32_at(payload, 4)?)?;
    let find = |wanted| attributes(payload, neighbour::HEADER_LEN).find(|(kind, _)| *kind == wanted);
    let address = find(neighbour::NDA_DST).and_then(|(_, value)| address(value))?;
    let entry = match u8_at(payload, neighbour::FLAGS_AT)? & neighbour::NTF_PROXY {
        0 => NeighbourEntry::Fixed(find(neighbour::NDA_LLADDR).and_then(|(_, value)| mac(value))),
        _ => NeighbourEntry::Proxy,
    };
    Some(ForeignNeighbour { device, address, entry })
}

fn read(payload: &[u8]) -> Option<Unresolved> {
    let state = u16_at(payload, 8)?;
    let incomplete = state & neighbour::NUD_INCOMPLETE != 0;
    if !incomplete && state & neighbour::NUD_FAILED == 0 {
        return None;
    }
    let to = attributes(payload, neighbour::HEADER_LEN).find(|(kind, _)| *kind == neighbour::NDA_DST);
    Some(Unresolved { device: u32_at(payload, 4)?, incomplete, address: to.and_then(|(_, value)| address(value))? })
}

/// Removes entries; those that are gone or have been resolved meanwhile may be removed, too: the next packet solicits
/// again.
pub fn forget(entries: &[Unresolved]) -> Result<(), KernelError> {
    let mut socket = Socket::open()?;
    for some in entries.chunks(256) {
        let mut batch = Batch::default();
        for entry in some {
            batch.push(rtm::DEL_NEIGHBOUR, 0, |body| {
                let family = if entry.address.is_ipv4() { Family::V4 } else { Family::V6 };
                body.extend([family.number(), 0, 0, 0]);
                body.extend(entry.device.to_ne_bytes());
                body.extend([0; neighbour::HEADER_LEN - 8]);
                put_address(body, neighbour::NDA_DST, entry.address);
            });
        }
        // An error means that it is gone.
        socket.execute(&mut batch)?;
    }
    Ok(())
}

fn folder(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/neigh",
        Family::V6 => "/proc/sys/net/ipv6/neigh",
    }
}

/// Sets how a device solicits neighbours of a family. One that is gone, or does not have the family, solicits none.
pub fn set_solicitation(device: &str, family: Family, solicitation: Solicitation) -> io::Result<()> {
    for (name, value) in [("mcast_solicit", solicitation.probes), ("retrans_time_ms", solicitation.interval_ms)] {
        let path = format!("{}/{device}/{name}", folder(family));
        match fs::write(path, value.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// How a device solicits neighbours; none if it does not.
pub fn solicitation(device: &str, family: Family) -> Option<Solicitation> {
    let value = |name: &str| -> Option<u32> {
        fs::read_to_string(format!("{}/{device}/{name}", folder(family))).ok()?.trim().parse().ok()
    };
    Some(Solicitation { probes: value("mcast_solicit")?, interval_ms: value("retrans_time_ms")? })
}

/// Raises the limit of a table to `limit`, if it is lower. False if only the kernel's first network namespace may: the
/// table is shared by all.
pub fn raise(family: Family, limit: u32) -> io::Result<bool> {
    // Above the second threshold the kernel evicts what it need not keep: not much of it at a time.
    for (name, value) in [("gc_thresh3", limit), ("gc_thresh2", limit - limit / 8)] {
        let path = format!("{}/default/{name}", folder(family));
        let now = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        if now.trim().parse::<u32>().is_ok_and(|now| now < value) {
            fs::write(&path, value.to_string())?;
        }
    }
    Ok(true)
}
