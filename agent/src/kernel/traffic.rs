//! Reads the traffic counters of the devices of sides.

use super::{
    KernelError,
    socket::Socket,
    tc::Qdisc,
    uapi::{link, rtm, tc as uapi},
    wire::{attributes, put, text, u32_at, u64_at},
};
use crate::{
    objects::ETHERNET_HEADER,
    ownership::{DeviceName, QUEUE_HANDLE, Role, SHAPER_CLASS, SHAPER_HANDLE},
    traffic::Reading,
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    traffic::Count,
};
use std::collections::BTreeMap;

/// The counters of every device of a side, by the side's VNI.
pub(super) fn traffic(socket: &mut Socket) -> Result<BTreeMap<Vni, Reading>, KernelError> {
    let mut readings = socket.dump(
        "devices",
        rtm::GET_LINK,
        |body| {
            body.extend([0; link::HEADER_LEN]);
            let mut kind = Vec::new();
            put(&mut kind, link::INFO_KIND, b"vxlan\0");
            put(body, link::IFLA_LINKINFO, &kind);
        },
        BTreeMap::new,
        |readings, payload| readings.extend(read_link(payload)),
    )?;
    if readings.is_empty() {
        return Ok(readings);
    }
    let (shapers, queues) = socket.dump(
        "qdiscs",
        rtm::GET_QDISC,
        |body| body.extend([0; uapi::HEADER_LEN]),
        <(BTreeMap<u32, Passed>, BTreeMap<u32, Passed>)>::default,
        |(shapers, queues), payload| {
            let Some((qdisc, passed)) = Qdisc::read(payload).zip(read_passed(payload)) else { return };
            match (qdisc.parent, qdisc.handle) {
                (uapi::ROOT, SHAPER_HANDLE) => drop(shapers.insert(qdisc.index, passed)),
                (SHAPER_CLASS, QUEUE_HANDLE) => drop(queues.insert(qdisc.index, passed)),
                _ => {}
            }
        },
    )?;
    for reading in readings.values_mut() {
        if let Some(passed) = shapers.get(&reading.device) {
            reading.shaped = true;
            reading.sent = passed.sent;
            reading.backlog = passed.backlog;
            // If a packet is segmented, the queue may drop a part: only the queue counts it.
            reading.dropped = queues.get(&reading.device).map_or(0, |queue| queue.dropped);
        }
    }
    Ok(readings)
}

fn read_link(payload: &[u8]) -> Option<(Vni, Reading)> {
    let find = |wanted| attributes(payload, link::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let name: InterfaceName = text(find(link::IFLA_IFNAME)?)?.parse().ok()?;
    let device = DeviceName::parse(&name).filter(|device| device.role == Role::Peer)?;
    let stats = find(link::IFLA_STATS64)?;
    let count = |packets: usize, bytes: usize| {
        let packets = u64_at(stats, packets * 8)?;
        // The kernel counts packets of VXLAN devices without their Ethernet header.
        Some(Count { packets, bytes: u64_at(stats, bytes * 8)?.saturating_add(packets * ETHERNET_HEADER) })
    };
    let reading = Reading {
        device: u32_at(payload, 4)?,
        shaped: false,
        sent: count(1, 3)?,
        received: count(0, 2)?,
        dropped: 0,
        backlog: 0,
    };
    Some((device.vni, reading))
}

pub(super) struct Passed {
    sent: Count,
    pub(super) dropped: u32,
    pub(super) backlog: u64,
}

pub(super) fn read_passed(payload: &[u8]) -> Option<Passed> {
    let (_, stats) = attributes(payload, uapi::HEADER_LEN).find(|(kind, _)| *kind == uapi::TCA_STATS2)?;
    let find = |wanted| attributes(stats, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (basic, queue) = (find(uapi::STATS_BASIC)?, find(uapi::STATS_QUEUE)?);
    // Reported only if 32 bits are not enough.
    let packets = match find(uapi::STATS_PKT64) {
        Some(packets) => u64_at(packets, 0)?,
        None => u32_at(basic, 8)?.into(),
    };
    let sent = Count { bytes: u64_at(basic, 0)?, packets };
    Some(Passed { sent, dropped: u32_at(queue, 8)?, backlog: u32_at(queue, 4)?.into() })
}
